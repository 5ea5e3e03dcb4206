//! `rocker-cli`: packs Apps, runs them, and looks after those that run. The command `rocker`
//! (`client-c/command`) executes it for all but the plainest `rocker run`.

use std::process::ExitCode;

mod cli;

// What std needs of libgcc for a stack trace becomes a part of the program: to load, relocate and
// initialise the shared one takes a fifth of a start (ARCHITECTURE.md).
#[cfg(all(target_env = "gnu", not(target_feature = "crt-static")))]
#[allow(unsafe_code, reason = "it declares nothing, and is there to link")]
#[link(name = "gcc_eh", kind = "static", modifiers = "-bundle")]
unsafe extern "C" {}

fn main() -> ExitCode {
    cli::main()
}
