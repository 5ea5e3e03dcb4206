//! The steps of one launch, as all its actors took them.

use protocol::{Actor, Errno, Step, TraceStep};

use crate::error::printable;

/// One step that an actor took.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TraceEntry {
    /// Who.
    pub actor: Actor,
    /// Which arrow.
    pub step: Step,
    /// When it began: `CLOCK_MONOTONIC`, nanoseconds.
    pub began_ns: u64,
    /// How long it took, nanoseconds.
    pub took_ns: u64,
    /// What went wrong; none if nothing did.
    pub errno: Option<Errno>,
    /// The equivalent shell command.
    pub command: String,
}

impl From<TraceStep<'_>> for TraceEntry {
    fn from(step: TraceStep<'_>) -> Self {
        Self {
            actor: step.actor,
            step: step.step,
            began_ns: step.began_ns,
            took_ns: step.took_ns,
            errno: step.errno,
            command: printable(step.command.as_bytes()),
        }
    }
}
