//! The helper: the client's forked child. It enters the rocker (enter.2), becomes who the App
//! is to be, and starts the App as its own brother (enter.3). In the order that the kernel
//! forces: groups can be dropped only outside (KERNEL A24), ids can be taken only inside (A23),
//! and the capability to do either goes last.

use protocol::machine::Machine;
use protocol::{Error, Step};

use crate::action::{HelperAction, HelperOutcome};

/// Where the helper stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// enter.2, before the first namespace is joined: inside, "deny" would keep the caller's
    /// supplementary groups for ever.
    DropGroups,
    /// enter.2
    JoinNamespaces,
    /// enter.3: from here on nothing of the caller's identity is left, nor can it come back.
    TakeIds,
    /// enter.3
    DropPrivileges,
    /// enter.3
    EnterDirectory,
    /// enter.3
    StartApp,
    /// The App's pid as the caller sees it, or why there is none.
    Ended(Result<u32, Error>),
}

/// The machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Helper {
    state: State,
}

impl Helper {
    /// Just forked.
    pub const fn new() -> Self {
        Self { state: State::DropGroups }
    }

    /// Where it stands.
    pub const fn state(&self) -> State {
        self.state
    }

    /// What came of it; none while it is under way.
    pub const fn result(&self) -> Option<Result<u32, Error>> {
        match self.state {
            State::Ended(result) => Some(result),
            _ => None,
        }
    }
}

impl Default for Helper {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine for Helper {
    type Action = HelperAction;
    type Outcome = HelperOutcome;

    fn step(&self) -> Option<Step> {
        match self.state {
            State::Ended(_) => None,
            _ => Some(self.action().step()),
        }
    }

    fn action(&self) -> HelperAction {
        match self.state {
            State::DropGroups => HelperAction::DropGroups,
            State::JoinNamespaces => HelperAction::JoinNamespaces,
            State::TakeIds => HelperAction::TakeIds,
            State::DropPrivileges => HelperAction::DropPrivileges,
            State::EnterDirectory => HelperAction::EnterDirectory,
            State::StartApp => HelperAction::StartApp,
            State::Ended(_) => unreachable!("an ended helper asks for nothing"),
        }
    }

    fn advance(&mut self, outcome: HelperOutcome) {
        self.state = match (self.state, outcome) {
            (State::DropGroups, HelperOutcome::Done) => State::JoinNamespaces,
            (State::JoinNamespaces, HelperOutcome::Done) => State::TakeIds,
            (State::TakeIds, HelperOutcome::Done) => State::DropPrivileges,
            (State::DropPrivileges, HelperOutcome::Done) => State::EnterDirectory,
            (State::EnterDirectory, HelperOutcome::Done) => State::StartApp,
            (State::StartApp, HelperOutcome::App { pid }) => State::Ended(Ok(pid)),
            (state, HelperOutcome::Failed(errno)) => match self.step() {
                Some(step) => State::Ended(Err(Error::Failed { step, errno })),
                None => unreachable!("{state:?} cannot see {outcome:?}"),
            },
            (state, outcome) => unreachable!("{state:?} cannot see {outcome:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use protocol::Errno;

    use super::*;

    const STATES: [State; 6] = [
        State::DropGroups,
        State::JoinNamespaces,
        State::TakeIds,
        State::DropPrivileges,
        State::EnterDirectory,
        State::StartApp,
    ];

    #[test]
    fn the_helper_walks_from_groups_to_app() {
        let mut helper = Helper::new();
        let mut steps = Vec::new();
        for state in STATES {
            assert_eq!((helper.state(), helper.result()), (state, None));
            steps.push(helper.step().expect("not ended").to_string());
            helper.advance(match state {
                State::StartApp => HelperOutcome::App { pid: 71 },
                _ => HelperOutcome::Done,
            });
        }
        assert_eq!(steps, ["enter.2", "enter.2", "enter.3", "enter.3", "enter.3", "enter.3"]);
        assert_eq!((helper.result(), helper.step()), (Some(Ok(71)), None));
    }

    #[test]
    fn any_state_failed_ends_with_its_own_step() {
        for state in STATES {
            let mut helper = Helper { state };
            let step = helper.step().expect("not ended");
            helper.advance(HelperOutcome::Failed(Errno::PERM));
            assert_eq!(helper.result(), Some(Err(Error::Failed { step, errno: Errno::PERM })));
        }
    }

    #[test]
    #[should_panic(expected = "TakeIds cannot see App")]
    fn take_ids_app_is_a_bug() {
        Helper { state: State::TakeIds }.advance(HelperOutcome::App { pid: 1 });
    }

    #[test]
    #[should_panic(expected = "cannot see Failed")]
    fn ended_failed_is_a_bug() {
        Helper { state: State::Ended(Ok(1)) }.advance(HelperOutcome::Failed(Errno::PERM));
    }
}
