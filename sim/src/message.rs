//! What is said, as far as it decides anything. Encoding is `protocol`'s own and tested there.

use guard::action::Order;
use protocol::{Error, Exit, Name, Package, Verdict as Means};

use crate::kernel::{Fd, Pid, Seal};
use crate::scene::{Does, Terms};

/// A message with its descriptors, which are in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub(crate) body: Body,
    pub(crate) fds: [Option<Fd>; 5],
}

/// `protocol::Message`, with the number of the launch in place of its request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Body {
    // From a client.
    Launch(usize),
    AppStarted,
    List,
    Kill(Name),
    Attach(Name),
    Exec { id: u32, does: Does, terms: Terms },
    Go { id: u32 },
    Signal { id: Option<u32>, signal: u8 },
    Ping,
    Do { id: u32, order: Order },
    // From the master.
    Keep { seal: Option<Seal> },
    HandOver { launch: usize, name: Name, guard: Pid, package: Package },
    GoOn,
    Newcomer,
    Rocker(Name),
    End,
    Gone,
    // From a guard.
    Done,
    Entrance { name: Name, guard: Pid },
    Started { id: u32 },
    ExecFailed { id: u32, error: Error },
    Exited { id: u32, exit: Exit, verdict: Means },
    Pong,
    Obeyed { id: u32 },
    Mounted { loop_dev: u32 },
    Kept { seal: Seal },
    // From either.
    Failed(Error),
    Step,
    // From whoever has gone mad.
    Garbage,
    OtherVersion,
}

impl Body {
    /// Whether it tells a caller how its launch has ended, as far as others know.
    pub(crate) const fn verdict(self) -> Option<Verdict> {
        match self {
            Self::Entrance { .. } => Some(Verdict::Entrance),
            Self::Failed(_) => Some(Verdict::Failure),
            _ => None,
        }
    }
}

/// How a launch has ended. A failure may follow an entrance that the caller made no use of.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, PartialOrd)]
pub(crate) enum Verdict {
    #[default]
    None,
    Entrance,
    Failure,
}
