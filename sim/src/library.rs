//! Which library a caller uses: the Rust or the C one. A world has both kinds of callers; what
//! they walk through and what is promised to them is the same.

use protocol::{Error, Machine, Step};
use rocker_client::helper::Helper;
use rocker_client::machine::{Client, Started};

use crate::c_client::{CClient, CHelper};

/// In which language a caller is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Library {
    /// `client-rs`
    Rust,
    /// `client-c`
    C,
}

impl Library {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Rust, Self::C];
}

/// A machine that there is in both languages.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Either<R, C> {
    Rust(R),
    C(C),
}

/// The client's machine.
pub(crate) type ClientMachine = Either<Client, CClient>;

/// The helper's machine.
pub(crate) type HelperMachine = Either<Helper, CHelper>;

impl ClientMachine {
    pub(crate) fn of(library: Library) -> Self {
        match library {
            Library::Rust => Self::Rust(Client::new()),
            Library::C => Self::C(CClient::new()),
        }
    }

    pub(crate) fn to_take_orders(library: Library) -> Self {
        match library {
            Library::Rust => Self::Rust(Client::to_take_orders()),
            Library::C => Self::C(CClient::to_take_orders()),
        }
    }

    pub(crate) fn result(&self) -> Option<Result<Started, Error>> {
        match self {
            Self::Rust(client) => client.result(),
            Self::C(client) => client.result(),
        }
    }
}

impl HelperMachine {
    pub(crate) fn of(library: Library) -> Self {
        match library {
            Library::Rust => Self::Rust(Helper::new()),
            Library::C => Self::C(CHelper::new()),
        }
    }

    pub(crate) fn result(&self) -> Option<Result<u32, Error>> {
        match self {
            Self::Rust(helper) => helper.result(),
            Self::C(helper) => helper.result(),
        }
    }
}

impl<R, C> Machine for Either<R, C>
where
    R: Machine,
    C: Machine<Action = R::Action, Outcome = R::Outcome>,
{
    type Action = R::Action;
    type Outcome = R::Outcome;

    fn step(&self) -> Option<Step> {
        match self {
            Self::Rust(machine) => machine.step(),
            Self::C(machine) => machine.step(),
        }
    }

    fn action(&self) -> R::Action {
        match self {
            Self::Rust(machine) => machine.action(),
            Self::C(machine) => machine.action(),
        }
    }

    fn advance(&mut self, outcome: R::Outcome) {
        match self {
            Self::Rust(machine) => machine.advance(outcome),
            Self::C(machine) => machine.advance(outcome),
        }
    }
}
