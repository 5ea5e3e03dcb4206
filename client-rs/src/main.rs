//! `rocker`: packs Apps, runs them, and looks after those that run.

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    cli::main()
}
