//! PID 1 of one rocker. Started by rocker-master with one end of a socket pair as standard
//! input; it never reads arguments, environment or files of the host's user.

use std::process::ExitCode;

use guard::linux::Linux;
use guard::machine::{Guard, State};
use protocol::socket::Buffer;

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|arg| arg == "--version") {
        return match guard::linux::print_version() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    // The kernel does not deliver SIGABRT to PID 1: without this a bug would be a hang.
    std::panic::set_hook(Box::new(|_| std::process::exit(101)));
    let mut inbox = Buffer::default();
    let mut driver = match Linux::new(&mut inbox) {
        Ok(driver) => driver,
        Err(why) => {
            eprintln!("rocker-guard: {why}; it is started by rocker-master, not by hand");
            return ExitCode::FAILURE;
        }
    };
    let mut guard = Guard::default();
    protocol::run(&mut guard, &mut driver);
    match guard.state() {
        State::Ended(Ok(())) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
