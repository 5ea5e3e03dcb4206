//! PID 1 of one rocker. Started by rocker-master with one end of a socket pair as standard
//! input; it never reads environment or files of the host's user.
#![no_std]
#![no_main]
// The memory functions of start.rs must not be compiled into calls of themselves.
#![no_builtins]

mod start;

use guard::linux::{Linux, complain, print_version};
use guard::machine::{Guard, State};
use protocol::socket::Buffer;

/// The program's exit status.
fn main(asks_for_version: bool) -> u8 {
    if asks_for_version {
        return u8::from(print_version().is_err());
    }
    let mut inbox = Buffer::for_guard();
    let Ok(mut driver) = Linux::new(&mut inbox) else {
        complain("rocker-guard: not PID 1 of a rocker; rocker-master starts it, not a person\n");
        return 1;
    };
    let mut guard = Guard::default();
    protocol::run(&mut guard, &mut driver);
    // The kernel closes and unmaps it all at once.
    core::mem::forget(driver);
    core::mem::forget(inbox);
    u8::from(guard.state() != State::Ended(Ok(())))
}
