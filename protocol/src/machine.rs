//! What a state machine and its driver look like. Every process of ROCKER is one machine:
//! a process is the unit of failure, so it is the unit of state.
//!
//! The machine decides and does nothing: no I/O, no clock, no descriptor, no allocation. Its
//! driver does and decides nothing. `sim` puts another driver under the same machines.

use core::task::Poll;

use crate::Step;

/// A Moore machine: the state alone says what to do next, the outcome alone moves the state.
pub trait Machine {
    /// What to do next, as plain data.
    type Action;
    /// What came of it.
    type Outcome;

    /// The arrow this machine is at; none once it has ended.
    fn step(&self) -> Option<Step>;

    /// What the state wants done. Asking twice is harmless.
    fn action(&self) -> Self::Action;

    /// Moves on. An outcome that the action cannot have is a bug, and panics.
    fn advance(&mut self, outcome: Self::Outcome);
}

/// Does what a machine asks for: `linux.rs` in each crate, the fake kernel in `sim`.
pub trait Driver<M: Machine> {
    /// Performs an action, which is part of this step of the diagrams. `Pending` only where
    /// the caller has other work meanwhile (the master, the sim).
    fn perform(&mut self, step: Step, action: M::Action) -> Poll<M::Outcome>;
}

/// Runs a machine to its end on a driver that never pends: the guard, the client, the helper.
pub fn run<M: Machine>(machine: &mut M, driver: &mut impl Driver<M>) {
    while let Some(step) = machine.step() {
        match driver.perform(step, machine.action()) {
            Poll::Ready(outcome) => machine.advance(outcome),
            Poll::Pending => {}
        }
    }
}
