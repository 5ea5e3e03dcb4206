//! What the tests of the built programs share. The tests themselves are in `tests/`, one file
//! per subject, one sentence per name.
//!
//! ```text
//! runner    runs each test in a process of its own: timeout, SKIP without root, leaks
//! leaks     what a launch could leave in the kernel, before and after
//! daemon    a rocker-master of the test's own
//! output    what a command has said, and how it refused
//! package   packages, made by `rocker pack`, with `probe` in them
//! replay    leads the machines through the trace of every launch
//! app       starts `probe` in a rocker and reads what it says
//! c_client  the C library
//! both      a launch in the words of the two libraries
//! cgroup    the controllers that this host has
//! calls     what a process asks the kernel for
//! facts     what a process can say about itself, and try
//! process   what /proc says about a process
//! programs  where the built programs are
//! scratch   directories that are gone afterwards
//! ```
//!
//! `src/bin/probe.rs` is the App of the tests: it says what it sees, and tries what it must not.
//! `src/bin/actor.rs` asks Linux what the sim's kernel is asked.
//!
//! ```no_run
//! use tests::{Daemon, Program, runner};
//!
//! fn an_app_says_hello() {
//!     let daemon = Daemon::start();
//!     let answer = daemon.probe(&["say hello"]);
//!     assert_eq!(answer.one("say"), "hello");
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     runner::main(vec![runner::root("an_app_says_hello", an_app_says_hello)])
//! }
//! ```

pub mod app;
pub mod both;
pub mod c_client;
pub mod calls;
pub mod cgroup;
pub mod daemon;
pub mod facts;
pub mod leaks;
pub mod output;
pub mod package;
pub mod process;
pub mod programs;
pub mod replay;
pub mod runner;
pub mod scratch;

pub use app::Answer;
pub use daemon::Daemon;
pub use leaks::Leaks;
pub use package::{Package, probe_package};
pub use programs::{bin, command_in, probe};
pub use replay::replayed;
pub use rocker_client::{Launch, Program, Rocker, Stdio};
pub use runner::{Test, plain, root};
pub use scratch::scratch;

use core::time::Duration;
use std::time::Instant;

/// How long anything may take that is to happen soon.
pub const SOON: Duration = Duration::from_secs(5);

/// The largest that the guard's program may be: bytes. Each rocker has one.
pub const GUARD_MAX: u64 = 159_000;

/// Asks again and again until the answer is yes; false if it still is no at the end of `limit`.
/// Tests may poll; ROCKER does not.
pub fn within(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The user that Apps run as here: one that no host knows.
pub const APP_UID: u32 = 54_321;

/// Its group.
pub const APP_GID: u32 = 54_322;

/// The README's Rust is compiled: as a documentation test that is not run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
