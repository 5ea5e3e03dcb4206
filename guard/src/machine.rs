//! What PID 1 of one rocker does next, never doing it: root.3, prepare.0 to prepare.9, root.5,
//! enter.4, exec.0 to exec.3, root.9. In diagram order.

use protocol::{Errno, Error, Item, Loss, Machine, Package, Rule, Step, limits::LOOP_TRIES_MAX};

use crate::action::{Action, Order};

/// What a rocker lives by.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Life {
    /// Its processes, the first of which is the App that is entered.
    #[default]
    Processes,
    /// Its owner's connection: the rocker ends with that.
    Owner,
    /// Its owner's connection, and after that its processes.
    OwnerThenProcesses,
}

/// Somebody who gives orders, by the number of the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer(pub u8);

impl Peer {
    /// Whoever has launched the rocker.
    pub const OWNER: Self = Self(0);
    /// The guard itself, which has programs too.
    pub const NOBODY: Self = Self(u8::MAX);
}

/// Where the guard stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// root.3
    AwaitRequest,
    /// prepare.0: the mount namespace is a copy; nothing that is mounted in it may leak out.
    IsolateMounts {
        /// Whether anything is to be overlaid.
        overlays: bool,
        /// What there is of the package.
        package: Package,
    },
    /// prepare.1
    CreateLoop {
        /// Devices that somebody else took first.
        tries: u8,
        /// As above.
        overlays: bool,
        /// Whether the mount is for later rockers too.
        share: bool,
    },
    /// prepare.2
    BindPackage {
        /// `/dev/loopN`
        loop_dev: u32,
        /// As above.
        tries: u8,
        /// As above.
        overlays: bool,
        /// As above.
        share: bool,
    },
    /// prepare.3, the mount itself, attached nowhere yet: an overlay would hide it (KERNEL A1).
    MountPackage {
        /// `/dev/loopN`
        loop_dev: u32,
        /// As above.
        overlays: bool,
        /// As above.
        share: bool,
    },
    /// prepare.3: the master keeps the mount for later rockers.
    SharePackage {
        /// `/dev/loopN`
        loop_dev: u32,
        /// As above.
        overlays: bool,
    },
    /// prepare.3, and all there is of prepare.1 and prepare.2, for a package that is mounted.
    ReusePackage {
        /// `/dev/loopN`
        loop_dev: u32,
        /// As above.
        overlays: bool,
    },
    /// overlay.0
    ListTopDirs,
    /// prepare.4, once per host mount that holds one of the directories (KERNEL A14).
    BuildOverlay {
        /// Which.
        layer: u16,
        /// How many there are.
        layers: u16,
        /// How many places follow.
        places: u16,
    },
    /// overlay.1, once per directory, and per host mount below one.
    MountOverlay {
        /// Which.
        place: u16,
        /// How many there are.
        places: u16,
    },
    /// prepare.3, the end of it: the merged view exists, the package takes its place there.
    AttachPackage,
    /// prepare.5
    RemountProc,
    /// prepare.6, first: be the App's user, so that no host root is left and the namespace
    /// belongs to that user (KERNEL A27, A28).
    TakeAppIds,
    /// prepare.6
    UnshareUser,
    /// prepare.6, last: from here on the guard asks for nothing privileged.
    DropPrivileges,
    /// prepare.7
    ReportDone,
    /// prepare.9; prepare.8 is the master's meanwhile.
    AwaitRelease,
    /// root.5 = enter.0
    SendEntrance,
    /// enter.4, or the first order of an owner who has said that there would be orders.
    AwaitApp,
    /// exec.0 and root.9, the life of a rocker: wait for an order, for the end of a child or a
    /// watched process, or for a program's time to be over.
    Listen,
    /// exec.1
    StartProgram {
        /// Whose it will be.
        peer: Peer,
        /// The peer's number for it.
        id: u32,
    },
    /// exec.2
    ReportStarted {
        /// As above.
        peer: Peer,
        /// As above.
        id: u32,
    },
    /// exec.2, if it does not run, there is none to signal, or another order cannot be carried
    /// out.
    ReportNotStarted {
        /// As above.
        peer: Peer,
        /// As above.
        id: u32,
        /// Why.
        error: Error,
    },
    /// A signal for one program, or all.
    SendSignal {
        /// Who sends it.
        peer: Peer,
        /// The peer's number for the program; none: all.
        id: Option<u32>,
        /// `man 7 signal`
        signal: u8,
    },
    /// exec.1, the end of it: a program that waits may execute.
    LetGo {
        /// Whose it is.
        peer: Peer,
        /// The peer's number for it.
        id: u32,
    },
    /// The guard is there.
    Answer {
        /// For whom.
        peer: Peer,
    },
    /// exec.1, for what is done at once.
    CarryOut {
        /// Who wants it.
        peer: Peer,
        /// The peer's number for it.
        id: u32,
        /// What.
        order: Order,
    },
    /// exec.1 of a reset, until nobody is left.
    Bury {
        /// As above.
        peer: Peer,
        /// As above.
        id: u32,
    },
    /// exec.1 of a configuration or a reset. What fails from here on ends the rocker: no program
    /// runs in one that is half of what it is to be.
    BuildView {
        /// As above.
        peer: Peer,
        /// As above.
        id: u32,
    },
    /// exec.1, the end of it.
    RunInit {
        /// As above.
        peer: Peer,
        /// As above.
        id: u32,
    },
    /// exec.2, of that.
    ReportObeyed {
        /// As above.
        peer: Peer,
        /// As above.
        id: u32,
    },
    /// A new peer is told that it may give orders.
    Welcome {
        /// Who.
        peer: Peer,
    },
    /// Somebody who wants to give orders is told that too many do already.
    TurnAway,
    /// A peer is gone, or may as well be: nothing of its own is left to it.
    HangUp {
        /// Who.
        peer: Peer,
        /// Whether its programs end with it, as with a terminal.
        kills: bool,
    },
    /// exec.3: a program's time is over.
    KillLate,
    /// exec.3 and root.9: reap whoever was orphaned to PID 1, or started by it, and has ended.
    Reap,
    /// exec.3
    ReportExit {
        /// Whose program it was.
        peer: Peer,
    },
    /// root.9: nobody is known to live; is anybody unknown? Find them, to be told of their end.
    FindStrangers,
    /// The kernel could not say what has happened, or who is left. It will: no App ends because
    /// a machine was short of memory for a moment.
    Rest,
    /// root.9, the end of it where the overlays outlive the rocker: whoever is left ends, and what
    /// was written is on disk.
    Settle {
        /// Nobody is left.
        is_alone: bool,
    },
    /// Tells the caller, whoever's step it was that failed.
    ReportFailure(Error),
    /// PID 1's exit is the rollback (root.12 to root.14).
    Ended(Result<(), Error>),
}

/// What came of an action.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It worked.
    Done,
    /// The request is there.
    RequestIs {
        /// Whether it asks for overlays.
        overlays: bool,
        /// What came with it.
        package: Package,
        /// What the rocker will live by.
        life: Life,
        /// Whether its end is to have on disk what was written, for overlays that outlive it: else
        /// the kernel does that when it unmounts them, or nobody is to wait for it.
        syncs: bool,
    },
    /// This loop device is free, or was a moment ago.
    LoopIs(u32),
    /// What overlay.0 found.
    DirsAre {
        /// Host mounts to overlay.
        layers: u16,
        /// Places to attach something at.
        places: u16,
    },
    /// exec.0: a program is to be started.
    Exec {
        /// Who wants it.
        peer: Peer,
        /// The peer's number for it.
        id: u32,
    },
    /// A signal is to be sent.
    Signal {
        /// Who sends it.
        peer: Peer,
        /// The peer's number for the program; none: all.
        id: Option<u32>,
        /// `man 7 signal`
        signal: u8,
    },
    /// A program is to wait no longer.
    Go {
        /// Whose it is.
        peer: Peer,
        /// The peer's number for it.
        id: u32,
    },
    /// A peer wants to know whether the guard is there.
    Ping {
        /// Who.
        peer: Peer,
    },
    /// exec.0: something else is to be done.
    Order {
        /// Who wants it.
        peer: Peer,
        /// The peer's number for it.
        id: u32,
        /// What.
        order: Order,
    },
    /// The master has passed somebody on, who may give orders.
    Attached {
        /// The number for it.
        peer: Peer,
    },
    /// The master has passed somebody on for whom there is no room.
    Crowded,
    /// A peer of a living rocker has closed its connection, breaks the protocol, or does not
    /// read what it is told.
    PeerLost {
        /// Who.
        peer: Peer,
    },
    /// Somebody has ended, or a peer has room again for what it is to be told.
    Changed,
    /// A program has run for as long as it may.
    Late,
    /// exec.3: the end of a program of this peer's is to be reported.
    Exited {
        /// Whose.
        peer: Peer,
    },
    /// Somebody is alive whose end will be told: a child, or a process watched by pidfd.
    Watched,
    /// Nobody of that kind is left.
    NobodyKnown,
    /// The kernel knows of no other process in the rocker, or only of ended ones.
    Alone,
    /// The kernel refused.
    Failed(Errno),
    /// The peer that was waited for is lost.
    Lost(Loss),
    /// The master, or a rule, forbids to go on.
    Refused(Error),
}

/// PID 1 of one rocker.
#[derive(Debug)]
pub struct Guard {
    state: State,
    life: Life,
    syncs: bool,
}

impl Default for Guard {
    fn default() -> Self {
        Self { state: State::AwaitRequest, life: Life::default(), syncs: false }
    }
}

impl Guard {
    /// Where it stands.
    pub const fn state(&self) -> State {
        self.state
    }

    /// What its rocker lives by.
    pub const fn life(&self) -> Life {
        self.life
    }

    /// prepare.1, or what is left of it for a package that is mounted.
    const fn package_from(package: Package, overlays: bool) -> State {
        match package {
            Package::Own => State::CreateLoop { tries: 0, overlays, share: false },
            Package::First => State::CreateLoop { tries: 0, overlays, share: true },
            Package::Shared { loop_dev } => State::ReusePackage { loop_dev, overlays },
        }
    }

    /// overlay.0, or the end of prepare.3 where nothing is overlaid.
    const fn overlays_from(overlays: bool) -> State {
        if overlays { State::ListTopDirs } else { State::AttachPackage }
    }

    /// The next layer, or the first place once all layers are there.
    const fn overlay_from(layer: u16, layers: u16, places: u16) -> State {
        if layer < layers {
            State::BuildOverlay { layer, layers, places }
        } else {
            Self::place_from(0, places)
        }
    }

    /// The next place, or what follows the last.
    const fn place_from(place: u16, places: u16) -> State {
        if place < places { State::MountOverlay { place, places } } else { State::AttachPackage }
    }

    /// The one failure edge. Before the rocker lives, its owner is told; then whoever gave the
    /// order is, and a peer that cannot be told is lost.
    fn failed(&self, error: Error) -> State {
        match self.state {
            State::AwaitRequest
            | State::KillLate
            | State::HangUp { .. }
            | State::Settle { .. }
            | State::ReportFailure(_)
            | State::Ended(_) => State::Ended(Err(error)),
            // Whom it cannot watch it asks for once more: that nobody is left alone ends a rocker.
            State::Listen | State::Reap | State::FindStrangers | State::Rest => State::Rest,
            State::TurnAway => State::Reap,
            State::StartProgram { peer, id }
            | State::CarryOut { peer, id, .. }
            | State::Bury { peer, id }
            | State::LetGo { peer, id } => State::ReportNotStarted { peer, id, error },
            // What all get, nobody in particular has missed.
            State::SendSignal { id: None, .. } => State::Reap,
            State::SendSignal { peer, id: Some(id), .. } => {
                State::ReportNotStarted { peer, id, error }
            }
            State::ReportStarted { peer, .. }
            | State::ReportNotStarted { peer, .. }
            | State::Answer { peer }
            | State::Welcome { peer }
            | State::ReportObeyed { peer, .. }
            | State::ReportExit { peer } => self.lost(peer),
            _ => State::ReportFailure(error),
        }
    }

    fn lost(&self, peer: Peer) -> State {
        let stays = peer == Peer::OWNER && self.life == Life::OwnerThenProcesses;
        State::HangUp { peer, kills: !stays }
    }

    /// The arrows of a rocker that lives, from enter.4 on.
    fn live(&mut self, outcome: Outcome) -> Option<State> {
        use Outcome as O;
        use State as S;
        Some(match (self.state, outcome) {
            // An App instead of an order, or the other way round.
            (
                S::AwaitApp,
                O::Done
                | O::Exec { .. }
                | O::Signal { .. }
                | O::Go { .. }
                | O::Ping { .. }
                | O::Order { .. },
            ) if (self.life == Life::Processes) != (outcome == O::Done) => {
                self.failed(Error::Lost { step: Step::ReportApp, how: Loss::Garbage })
            }
            (S::AwaitApp, O::Done) => S::Reap,
            (S::AwaitApp | S::Listen, O::Exec { peer, id }) => S::StartProgram { peer, id },
            (S::AwaitApp | S::Listen, O::Signal { peer, id, signal }) => {
                S::SendSignal { peer, id, signal }
            }
            (S::AwaitApp | S::Listen, O::Go { peer, id }) => S::LetGo { peer, id },
            (S::AwaitApp | S::Listen, O::Ping { peer }) => S::Answer { peer },
            (S::AwaitApp | S::Listen, O::Order { peer, id, order }) => {
                S::CarryOut { peer, id, order }
            }
            (S::CarryOut { peer, id, order: Order::Configure }, O::Done)
            | (S::Bury { peer, id }, O::Alone) => S::BuildView { peer, id },
            (S::CarryOut { peer, id, order: Order::Reset }, O::Done) => S::Bury { peer, id },
            (S::CarryOut { peer, id, order: Order::Adopt }, O::Done) => {
                S::ReportStarted { peer, id }
            }
            (S::BuildView { peer, id }, O::Done) => S::RunInit { peer, id },
            (S::CarryOut { peer, id, .. } | S::RunInit { peer, id }, O::Done) => {
                S::ReportObeyed { peer, id }
            }
            (S::Listen, O::Attached { peer }) => S::Welcome { peer },
            (S::Listen, O::Crowded) => S::TurnAway,
            (S::Listen, O::PeerLost { peer }) => self.lost(peer),
            // Whatever the kernel refuses, this it does not.
            (S::Listen, O::Late) | (S::Rest, O::Done) => S::KillLate,
            (S::StartProgram { peer, id }, O::Done) => S::ReportStarted { peer, id },
            (S::HangUp { peer, .. }, O::Done) => self.hung_up(peer),
            // Whatever was done, somebody may have ended meanwhile.
            (
                S::ReportStarted { .. }
                | S::ReportNotStarted { .. }
                | S::SendSignal { .. }
                | S::LetGo { .. }
                | S::Answer { .. }
                | S::Welcome { .. }
                | S::TurnAway
                | S::ReportObeyed { .. }
                | S::ReportExit { .. }
                | S::KillLate,
                O::Done,
            )
            | (S::Listen, O::Changed) => S::Reap,
            (S::Reap, O::Exited { peer }) => S::ReportExit { peer },
            (S::Reap, O::NobodyKnown) if self.life == Life::Processes => S::FindStrangers,
            (S::Reap, O::Watched | O::NobodyKnown) => S::Listen,
            (S::FindStrangers, O::Watched) => S::Listen,
            (S::FindStrangers, O::Alone) => self.over(true),
            (S::Settle { .. }, O::Done) => S::Ended(Ok(())),
            _ => return None,
        })
    }

    /// What becomes of the rocker after a peer's end.
    fn hung_up(&mut self, peer: Peer) -> State {
        if peer == Peer::OWNER {
            if self.life == Life::Owner {
                return self.over(false);
            }
            self.life = Life::Processes;
        }
        State::Reap
    }

    /// What is left to do when nobody keeps the rocker alive.
    const fn over(&self, is_alone: bool) -> State {
        if self.syncs { State::Settle { is_alone } } else { State::Ended(Ok(())) }
    }
}

impl Machine for Guard {
    type Action = Action;
    type Outcome = Outcome;

    fn step(&self) -> Option<Step> {
        Some(match self.state {
            State::AwaitRequest => Step::HandOver,
            State::IsolateMounts { .. } => Step::CloneGuard,
            State::CreateLoop { .. } => Step::CreateLoop,
            State::BindPackage { .. } => Step::BindPackage,
            State::MountPackage { .. }
            | State::SharePackage { .. }
            | State::ReusePackage { .. }
            | State::AttachPackage => Step::MountPackage,
            State::ListTopDirs => Step::ListTopDirs,
            State::BuildOverlay { .. } => Step::BuildOverlay,
            State::MountOverlay { .. } => Step::MountOverlay,
            State::RemountProc => Step::RemountProc,
            State::TakeAppIds | State::UnshareUser | State::DropPrivileges => Step::UnshareUser,
            State::ReportDone => Step::ReportDone,
            State::AwaitRelease => Step::ReleaseGuard,
            State::SendEntrance => Step::SendEntrance,
            State::AwaitApp => Step::ReportApp,
            // The same wait, which is for an end where nobody else keeps the rocker alive.
            State::Listen | State::Reap if self.life == Life::Processes => Step::ExitSelf,
            State::FindStrangers | State::Rest | State::Settle { .. } => Step::ExitSelf,
            State::Listen
            | State::Answer { .. }
            | State::Welcome { .. }
            | State::TurnAway
            | State::HangUp { .. } => Step::RequestExec,
            State::StartProgram { .. }
            | State::SendSignal { .. }
            | State::LetGo { .. }
            | State::CarryOut { .. }
            | State::Bury { .. }
            | State::BuildView { .. }
            | State::RunInit { .. } => Step::StartProgram,
            State::ReportStarted { .. }
            | State::ReportNotStarted { .. }
            | State::ReportObeyed { .. } => Step::ReportStarted,
            State::Reap | State::ReportExit { .. } | State::KillLate => Step::ReportExit,
            State::ReportFailure(error) => error.step(),
            State::Ended(_) => return None,
        })
    }

    fn action(&self) -> Action {
        match self.state {
            State::AwaitRequest => Action::AwaitRequest,
            State::IsolateMounts { .. } => Action::IsolateMounts,
            State::CreateLoop { .. } => Action::FindFreeLoop,
            State::BindPackage { loop_dev, .. } => Action::BindLoop { loop_dev },
            State::MountPackage { loop_dev, .. } => Action::MountPackage { loop_dev },
            State::SharePackage { loop_dev, .. } => Action::SharePackage { loop_dev },
            State::ReusePackage { loop_dev, .. } => Action::ReusePackage { loop_dev },
            State::ListTopDirs => Action::ListTopDirs,
            State::BuildOverlay { layer, .. } => Action::BuildOverlay { layer },
            State::MountOverlay { place, .. } => Action::MountOverlay { place },
            State::AttachPackage => Action::AttachPackage,
            State::RemountProc => Action::RemountProc,
            State::TakeAppIds => Action::TakeAppIds,
            State::UnshareUser => Action::UnshareUser,
            State::DropPrivileges => Action::DropPrivileges,
            State::ReportDone => Action::ReportDone,
            State::AwaitRelease => Action::AwaitRelease,
            State::SendEntrance => Action::SendEntrance,
            State::AwaitApp => Action::AwaitApp,
            State::Listen => Action::Listen,
            State::StartProgram { peer, .. } => Action::StartProgram { peer },
            State::ReportStarted { peer, id } => Action::ReportStarted { peer, id },
            State::ReportNotStarted { peer, id, error } => {
                Action::ReportNotStarted { peer, id, error }
            }
            State::SendSignal { peer, id, signal } => Action::SendSignal { peer, id, signal },
            State::LetGo { peer, id } => Action::LetGo { peer, id },
            State::Answer { peer } => Action::Answer { peer },
            State::Welcome { peer } => Action::Welcome { peer },
            State::TurnAway => Action::TurnAway,
            State::CarryOut { peer, id, order } => Action::CarryOut { peer, id, order },
            State::Bury { .. } => Action::Bury,
            State::BuildView { .. } => Action::BuildView,
            State::RunInit { .. } => Action::RunInit,
            State::ReportObeyed { peer, id } => Action::ReportObeyed { peer, id },
            State::HangUp { peer, kills } => Action::HangUp { peer, kills },
            State::KillLate => Action::KillLate,
            State::Reap => Action::Reap,
            State::ReportExit { peer } => Action::ReportExit { peer },
            State::FindStrangers => Action::FindStrangers,
            State::Rest => Action::Rest,
            State::Settle { is_alone } => Action::Settle { is_alone },
            State::ReportFailure(error) => Action::ReportFailure(error),
            State::Ended(_) => unreachable!("an ended guard asks for nothing"),
        }
    }

    fn advance(&mut self, outcome: Outcome) {
        use Outcome as O;
        use State as S;
        let step = self.step();
        if let Some(next) = self.live(outcome) {
            self.state = next;
            return;
        }
        self.state = match (self.state, outcome) {
            (S::AwaitRequest, O::RequestIs { overlays, package, life, syncs }) => {
                (self.life, self.syncs) = (life, syncs);
                S::IsolateMounts { overlays, package }
            }
            (S::IsolateMounts { overlays, package }, O::Done) => {
                Self::package_from(package, overlays)
            }
            (S::CreateLoop { tries, overlays, share }, O::LoopIs(loop_dev)) => {
                S::BindPackage { loop_dev, tries, overlays, share }
            }
            // Another process took the free device between prepare.1 and prepare.2.
            (S::BindPackage { tries, overlays, share, .. }, O::Failed(Errno::BUSY))
                if tries < LOOP_TRIES_MAX =>
            {
                S::CreateLoop { tries: tries + 1, overlays, share }
            }
            (S::BindPackage { loop_dev, overlays, share, .. }, O::Done) => {
                S::MountPackage { loop_dev, overlays, share }
            }
            (S::MountPackage { loop_dev, overlays, share: true }, O::Done) => {
                S::SharePackage { loop_dev, overlays }
            }
            // From here on the first rocker of a package is like all others.
            (S::SharePackage { loop_dev, overlays }, O::Done) => {
                S::ReusePackage { loop_dev, overlays }
            }
            (
                S::MountPackage { overlays, share: false, .. } | S::ReusePackage { overlays, .. },
                O::Done,
            ) => Self::overlays_from(overlays),
            (S::ListTopDirs, O::DirsAre { layers, places }) => {
                Self::overlay_from(0, layers, places)
            }
            (S::BuildOverlay { layer, layers, places }, O::Done) => {
                Self::overlay_from(layer + 1, layers, places)
            }
            (S::MountOverlay { place, places }, O::Done) => Self::place_from(place + 1, places),
            (S::AttachPackage, O::Done) => S::RemountProc,
            (S::RemountProc, O::Done) => S::TakeAppIds,
            (S::TakeAppIds, O::Done) => S::UnshareUser,
            (S::UnshareUser, O::Done) => S::DropPrivileges,
            (S::DropPrivileges, O::Done) => S::ReportDone,
            (S::ReportDone, O::Done) => S::AwaitRelease,
            (S::AwaitRelease, O::Done) => S::SendEntrance,
            (S::SendEntrance, O::Done) => S::AwaitApp,
            (S::ReportFailure(error), O::Done | O::Failed(_)) => S::Ended(Err(error)),
            (_, O::Failed(errno)) => self.failed(Error::Failed { step: at(step), errno }),
            (_, O::Lost(how)) => self.failed(Error::Lost { step: at(step), how }),
            (_, O::Refused(error)) => self.failed(error),
            (state, outcome) => unreachable!("{state:?} cannot see {outcome:?}"),
        };
    }
}

/// The step of a state that still acts; an ended machine never gets here.
fn at(step: Option<Step>) -> Step {
    step.unwrap_or(Step::ExitSelf)
}

/// The error for an overlay dir that turns out, once links are resolved, to be the host's own.
pub const fn forbidden_overlay(dir: u8) -> Error {
    Error::Invalid { rule: Rule::Forbidden, item: Item::OverlayDir(dir) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec;

    /// A guard in this state.
    fn at(state: State) -> Guard {
        Guard { state, ..Guard::default() }
    }

    fn after(state: State, outcome: Outcome) -> State {
        let mut guard = at(state);
        guard.advance(outcome);
        guard.state()
    }

    #[test]
    fn a_launch_walks_the_diagram() {
        let mut guard = Guard::default();
        let mut walked = vec![];
        for outcome in [
            Outcome::RequestIs {
                overlays: true,
                package: Package::Own,
                life: Life::Processes,
                syncs: false,
            },
            Outcome::Done,
            Outcome::LoopIs(8),
            Outcome::Done,
            Outcome::Done,
            Outcome::DirsAre { layers: 1, places: 2 },
        ]
        .into_iter()
        .chain([Outcome::Done; 12])
        .chain([Outcome::NobodyKnown, Outcome::Alone])
        {
            walked.push(guard.step().unwrap().to_string());
            guard.advance(outcome);
        }
        assert_eq!(guard.state(), State::Ended(Ok(())));
        assert_eq!(
            walked.join(" "),
            "root.3 prepare.0 prepare.1 prepare.2 prepare.3 overlay.0 prepare.4 overlay.1 \
             overlay.1 prepare.3 prepare.5 prepare.6 prepare.6 prepare.6 prepare.7 prepare.9 \
             root.5 enter.4 root.9 root.9"
        );
    }

    #[test]
    fn bind_package_busy_tries_the_next_loop() {
        let state = State::BindPackage { loop_dev: 8, tries: 3, overlays: true, share: true };
        let next = after(state, Outcome::Failed(Errno::BUSY));
        assert_eq!(next, State::CreateLoop { tries: 4, overlays: true, share: true });
    }

    #[test]
    fn bind_package_always_busy_gives_up() {
        let (tries, overlays, share) = (LOOP_TRIES_MAX, true, false);
        let state = State::BindPackage { loop_dev: 8, tries, overlays, share };
        let error = Error::Failed { step: Step::BindPackage, errno: Errno::BUSY };
        assert_eq!(after(state, Outcome::Failed(Errno::BUSY)), State::ReportFailure(error));
    }

    #[test]
    fn mount_package_without_overlays_goes_to_its_place() {
        let state = State::MountPackage { loop_dev: 8, overlays: false, share: false };
        assert_eq!(after(state, Outcome::Done), State::AttachPackage);
    }

    #[test]
    fn a_package_that_is_mounted_is_not_mounted_again() {
        let package = Package::Shared { loop_dev: 8 };
        let next = after(State::IsolateMounts { overlays: true, package }, Outcome::Done);
        assert_eq!(next, State::ReusePackage { loop_dev: 8, overlays: true });
        assert_eq!(after(next, Outcome::Done), State::ListTopDirs);
        let next = after(State::ReusePackage { loop_dev: 8, overlays: false }, Outcome::Done);
        assert_eq!(next, State::AttachPackage);
    }

    #[test]
    fn the_first_rocker_of_a_package_shares_the_mount() {
        let package = Package::First;
        let next = after(State::IsolateMounts { overlays: false, package }, Outcome::Done);
        assert_eq!(next, State::CreateLoop { tries: 0, overlays: false, share: true });
        let state = State::MountPackage { loop_dev: 8, overlays: false, share: true };
        let next = after(state, Outcome::Done);
        assert_eq!(next, State::SharePackage { loop_dev: 8, overlays: false });
        let then = after(next, Outcome::Done);
        assert_eq!(then, State::ReusePackage { loop_dev: 8, overlays: false });
    }

    #[test]
    fn list_top_dirs_finding_none_overlays_nothing() {
        let next = after(State::ListTopDirs, Outcome::DirsAre { layers: 0, places: 0 });
        assert_eq!(next, State::AttachPackage);
    }

    #[test]
    fn await_release_master_died_is_reported() {
        let next = after(State::AwaitRelease, Outcome::Lost(Loss::Died));
        let error = Error::Lost { step: Step::ReleaseGuard, how: Loss::Died };
        assert_eq!(next, State::ReportFailure(error));
    }

    #[test]
    fn await_app_client_died_ends_the_rocker() {
        let next = after(State::AwaitApp, Outcome::Lost(Loss::Died));
        let error = Error::Lost { step: Step::ReportApp, how: Loss::Died };
        assert_eq!(next, State::ReportFailure(error));
        assert_eq!(after(next, Outcome::Failed(Errno::PIPE)), State::Ended(Err(error)));
    }

    #[test]
    fn await_app_client_late_is_told() {
        let next = after(State::AwaitApp, Outcome::Lost(Loss::Silent));
        let error = Error::Lost { step: Step::ReportApp, how: Loss::Silent };
        assert_eq!(next, State::ReportFailure(error));
    }

    #[test]
    fn report_failure_to_a_dead_client_ends_all_the_same() {
        let error = Error::Failed { step: Step::MountPackage, errno: Errno::INVAL };
        let next = after(State::ReportFailure(error), Outcome::Failed(Errno::PIPE));
        assert_eq!(next, State::Ended(Err(error)));
    }

    #[test]
    fn a_living_rocker_outlives_whatever_the_kernel_refuses() {
        for life in [Life::Processes, Life::Owner, Life::OwnerThenProcesses] {
            for state in [State::FindStrangers, State::Listen, State::Reap] {
                for errno in [Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::INVAL, Errno::IO] {
                    let mut guard = Guard { state, life, syncs: true };
                    guard.advance(Outcome::Failed(errno));
                    assert_eq!(guard.state(), State::Rest);
                }
            }
        }
        assert_eq!(after(State::Rest, Outcome::Done), State::KillLate);
        assert_eq!(after(State::KillLate, Outcome::Done), State::Reap);
    }

    #[test]
    fn root_9_goes_round_until_the_kernel_says_alone() {
        let mut guard = at(State::Reap);
        for (outcome, next) in [
            (Outcome::Watched, State::Listen),
            (Outcome::Changed, State::Reap),
            (Outcome::NobodyKnown, State::FindStrangers),
            (Outcome::Watched, State::Listen),
            (Outcome::Changed, State::Reap),
            (Outcome::NobodyKnown, State::FindStrangers),
            (Outcome::Alone, State::Ended(Ok(()))),
        ] {
            guard.advance(outcome);
            assert_eq!(guard.state(), next);
        }
    }

    const OTHER: Peer = Peer(3);

    #[test]
    fn await_app_wants_what_was_announced() {
        let garbage = Error::Lost { step: Step::ReportApp, how: Loss::Garbage };
        let order = Outcome::Exec { peer: Peer::OWNER, id: 1 };
        for (life, said) in [(Life::Processes, order), (Life::Owner, Outcome::Done)] {
            let mut guard = Guard { state: State::AwaitApp, life, syncs: false };
            guard.advance(said);
            assert_eq!(guard.state(), State::ReportFailure(garbage), "{life:?}");
        }
        let life = Life::OwnerThenProcesses;
        let mut guard = Guard { state: State::AwaitApp, life, syncs: false };
        guard.advance(order);
        assert_eq!(guard.state(), State::StartProgram { peer: Peer::OWNER, id: 1 });
    }

    #[test]
    fn listen_owner_lost_ends_a_rocker_that_does_not_stay() {
        let lost = Outcome::PeerLost { peer: Peer::OWNER };
        let mut guard = Guard { state: State::Listen, life: Life::Owner, syncs: false };
        guard.advance(lost);
        assert_eq!(guard.state(), State::HangUp { peer: Peer::OWNER, kills: true });
        guard.advance(Outcome::Done);
        assert_eq!(guard.state(), State::Ended(Ok(())));
    }

    #[test]
    fn overlays_that_outlive_a_rocker_are_synced_by_its_guard() {
        let owner = State::HangUp { peer: Peer::OWNER, kills: true };
        for (state, life, outcome, is_alone) in [
            (State::FindStrangers, Life::Processes, Outcome::Alone, true),
            (owner, Life::Owner, Outcome::Done, false),
        ] {
            let mut guard = Guard { state, life, syncs: true };
            guard.advance(outcome);
            assert_eq!(guard.state(), State::Settle { is_alone });
            guard.advance(Outcome::Done);
            assert_eq!(guard.state(), State::Ended(Ok(())));
        }
        let error = Error::Failed { step: Step::ExitSelf, errno: Errno::IO };
        assert_eq!(
            after(State::Settle { is_alone: false }, Outcome::Failed(Errno::IO)),
            State::Ended(Err(error))
        );
    }

    #[test]
    fn listen_owner_lost_leaves_its_programs_to_a_rocker_that_stays() {
        let lost = Outcome::PeerLost { peer: Peer::OWNER };
        let life = Life::OwnerThenProcesses;
        let mut guard = Guard { state: State::Listen, life, syncs: false };
        guard.advance(lost);
        assert_eq!(guard.state(), State::HangUp { peer: Peer::OWNER, kills: false });
        guard.advance(Outcome::Done);
        guard.advance(Outcome::NobodyKnown);
        assert_eq!(guard.state(), State::FindStrangers);
    }

    #[test]
    fn a_peer_that_cannot_be_told_is_lost_and_nobody_else() {
        let peer = OTHER;
        let error = Error::Failed { step: Step::StartProgram, errno: Errno::NOENT };
        for state in [
            State::ReportStarted { peer, id: 1 },
            State::ReportNotStarted { peer, id: 1, error },
            State::Answer { peer },
            State::Welcome { peer },
            State::ReportExit { peer },
        ] {
            let mut guard = Guard { state, life: Life::Owner, syncs: false };
            guard.advance(Outcome::Failed(Errno::PIPE));
            assert_eq!(guard.state(), State::HangUp { peer, kills: true });
            guard.advance(Outcome::Done);
            assert_eq!(guard.state(), State::Reap);
        }
    }

    #[test]
    fn what_is_adopted_is_told_as_if_it_had_been_started() {
        let (peer, id) = (OTHER, 7);
        let next = after(State::Listen, Outcome::Order { peer, id, order: Order::Adopt });
        assert_eq!(next, State::CarryOut { peer, id, order: Order::Adopt });
        assert_eq!(after(next, Outcome::Done), State::ReportStarted { peer, id });
        let error = Error::Failed { step: Step::StartProgram, errno: Errno::SRCH };
        let refused = State::ReportNotStarted { peer, id, error };
        assert_eq!(after(next, Outcome::Failed(Errno::SRCH)), refused);
    }

    #[test]
    fn an_owned_rocker_does_not_end_because_nobody_is_in_it() {
        for life in [Life::Owner, Life::OwnerThenProcesses] {
            let mut guard = Guard { state: State::Reap, life, syncs: false };
            guard.advance(Outcome::NobodyKnown);
            assert_eq!(guard.state(), State::Listen);
        }
    }
}
