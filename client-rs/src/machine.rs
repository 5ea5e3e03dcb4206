//! The client: one launch as the caller's process sees it, root.1 to enter.4, or to exec.0 for a
//! rocker that takes orders.
//! In the order of the diagrams.

use protocol::machine::Machine;
use protocol::{Error, Name, Step};

use crate::action::{Action, Outcome};

/// What a launch gives its caller (root.7).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Started {
    /// The guard's name.
    pub name: Name,
    /// The guard's pid, as the caller sees it.
    pub guard_pid: u32,
    /// The App's pid: a child of the caller. 0 in a rocker that takes orders.
    pub app_pid: u32,
}

/// Where a launch stands. What is known so far is in the state; descriptors are the driver's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// root.1, its first half: reach the master.
    Connect,
    /// root.1
    SendRequest,
    /// root.5 = enter.0
    AwaitEntrance,
    /// enter.1
    ForkHelper {
        /// The guard's name.
        name: Name,
        /// The guard's pid.
        guard_pid: u32,
    },
    /// enter.3; enter.2 is the helper's.
    AwaitApp {
        /// The guard's name.
        name: Name,
        /// The guard's pid.
        guard_pid: u32,
    },
    /// enter.4
    ReportApp(Started),
    /// exec.0, instead of enter.1 to enter.4: the connection will carry orders.
    Greet(Started),
    /// root.7, or why not. The driver's descriptors go, and with them the rocker: its guard
    /// takes the end of the connection for the end of the launch.
    Ended(Result<Started, Error>),
}

/// The machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Client {
    state: State,
    /// Whether the rocker is to take orders, and not to be entered.
    takes_orders: bool,
}

impl Client {
    /// At root.1.
    pub const fn new() -> Self {
        Self { state: State::Connect, takes_orders: false }
    }

    /// At root.1 of a rocker that is to take orders.
    pub const fn to_take_orders() -> Self {
        Self { state: State::Connect, takes_orders: true }
    }

    /// Where it stands.
    pub const fn state(&self) -> State {
        self.state
    }

    /// What came of the launch; none while it is under way.
    pub const fn result(&self) -> Option<Result<Started, Error>> {
        match self.state {
            State::Ended(result) => Some(result),
            _ => None,
        }
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine for Client {
    type Action = Action;
    type Outcome = Outcome;

    fn step(&self) -> Option<Step> {
        match self.state {
            State::Ended(_) => None,
            _ => Some(self.action().step()),
        }
    }

    fn action(&self) -> Action {
        match self.state {
            State::Connect => Action::Connect,
            State::SendRequest => Action::SendRequest,
            State::AwaitEntrance => Action::AwaitEntrance,
            State::ForkHelper { .. } => Action::ForkHelper,
            State::AwaitApp { .. } => Action::AwaitApp,
            State::ReportApp(_) => Action::ReportApp,
            State::Greet(_) => Action::Greet,
            State::Ended(_) => unreachable!("an ended launch asks for nothing"),
        }
    }

    fn advance(&mut self, outcome: Outcome) {
        self.state = match (self.state, outcome) {
            (State::Connect, Outcome::Done) => State::SendRequest,
            (State::SendRequest, Outcome::Done) => State::AwaitEntrance,
            (State::AwaitEntrance, Outcome::Entrance { name, guard_pid }) if self.takes_orders => {
                State::Greet(Started { name, guard_pid, app_pid: 0 })
            }
            (State::AwaitEntrance, Outcome::Entrance { name, guard_pid }) => {
                State::ForkHelper { name, guard_pid }
            }
            (State::ForkHelper { name, guard_pid }, Outcome::Done) => {
                State::AwaitApp { name, guard_pid }
            }
            (State::AwaitApp { name, guard_pid }, Outcome::App { pid }) => {
                State::ReportApp(Started { name, guard_pid, app_pid: pid })
            }
            (State::ReportApp(started) | State::Greet(started), Outcome::Done) => {
                State::Ended(Ok(started))
            }
            // One failure edge for every state that has a step: own failure, lost peer, or
            // what another actor reports. Nothing is undone here, see `State::Ended`.
            (state, outcome) => match (self.step(), outcome) {
                (Some(step), Outcome::Failed(errno)) => ended(Error::Failed { step, errno }),
                (Some(step), Outcome::Lost(how)) => ended(Error::Lost { step, how }),
                (Some(_), Outcome::Refused(error)) => ended(error),
                _ => unreachable!("{state:?} cannot see {outcome:?}"),
            },
        };
    }
}

const fn ended(error: Error) -> State {
    State::Ended(Err(error))
}

#[cfg(test)]
mod tests {
    use protocol::{Errno, Item, Loss, Rule};

    use super::*;

    const GUARD_PID: u32 = 70;

    fn name() -> Name {
        Name::from_random(0x1234)
    }

    fn started() -> Started {
        Started { name: name(), guard_pid: GUARD_PID, app_pid: 71 }
    }

    /// Every state that has a step, in order.
    fn states() -> [State; 6] {
        [
            State::Connect,
            State::SendRequest,
            State::AwaitEntrance,
            State::ForkHelper { name: name(), guard_pid: GUARD_PID },
            State::AwaitApp { name: name(), guard_pid: GUARD_PID },
            State::ReportApp(started()),
        ]
    }

    fn client(state: State) -> Client {
        Client { state, ..Client::new() }
    }

    fn after(state: State, outcome: Outcome) -> State {
        let mut client = client(state);
        client.advance(outcome);
        client.state()
    }

    #[test]
    fn a_launch_walks_the_diagram() {
        let entrance = Outcome::Entrance { name: name(), guard_pid: GUARD_PID };
        let outcomes = [
            Outcome::Done,
            Outcome::Done,
            entrance,
            Outcome::Done,
            Outcome::App { pid: 71 },
            Outcome::Done,
        ];
        let mut client = Client::new();
        let mut steps = Vec::new();
        for (state, outcome) in states().into_iter().zip(outcomes) {
            assert_eq!(client.state(), state);
            assert_eq!(client.result(), None);
            steps.push(client.step().expect("not ended").to_string());
            client.advance(outcome);
        }
        assert_eq!(steps, ["root.1", "root.1", "enter.0", "enter.1", "enter.3", "enter.4"]);
        assert_eq!(client.result(), Some(Ok(started())));
        assert_eq!(client.step(), None);
    }

    #[test]
    fn a_rocker_that_takes_orders_is_not_entered() {
        let mut client = Client::to_take_orders();
        let entrance = Outcome::Entrance { name: name(), guard_pid: GUARD_PID };
        for outcome in [Outcome::Done, Outcome::Done, entrance, Outcome::Done] {
            client.advance(outcome);
        }
        assert_eq!(client.result(), Some(Ok(Started { app_pid: 0, ..started() })));
    }

    #[test]
    fn any_state_failed_ends_with_its_own_step() {
        for state in states() {
            let step = client(state).step().expect("not ended");
            let wanted = Error::Failed { step, errno: Errno::NOMEM };
            assert_eq!(after(state, Outcome::Failed(Errno::NOMEM)), State::Ended(Err(wanted)));
        }
    }

    #[test]
    fn any_state_lost_ends_with_its_own_step() {
        for state in states() {
            let step = client(state).step().expect("not ended");
            for how in [Loss::Died, Loss::Silent, Loss::Garbage, Loss::Version] {
                let wanted = Error::Lost { step, how };
                assert_eq!(after(state, Outcome::Lost(how)), State::Ended(Err(wanted)));
            }
        }
    }

    #[test]
    fn await_entrance_refused_ends_with_what_was_said() {
        let said = Error::Failed { step: Step::MountPackage, errno: Errno::INVAL };
        assert_eq!(after(State::AwaitEntrance, Outcome::Refused(said)), State::Ended(Err(said)));
        let said = Error::Invalid { rule: Rule::InUse, item: Item::DataDir };
        assert_eq!(after(State::AwaitEntrance, Outcome::Refused(said)), State::Ended(Err(said)));
    }

    #[test]
    fn await_app_refused_ends_with_the_helpers_step() {
        let state = State::AwaitApp { name: name(), guard_pid: GUARD_PID };
        let said = Error::Failed { step: Step::JoinNamespaces, errno: Errno::PERM };
        assert_eq!(after(state, Outcome::Refused(said)), State::Ended(Err(said)));
    }

    #[test]
    #[should_panic(expected = "Connect cannot see App")]
    fn connect_app_is_a_bug() {
        after(State::Connect, Outcome::App { pid: 1 });
    }

    #[test]
    #[should_panic(expected = "cannot see Done")]
    fn ended_done_is_a_bug() {
        after(State::Ended(Ok(started())), Outcome::Done);
    }
}
