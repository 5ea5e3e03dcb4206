//! What the master does next for one launch, never doing it: root.1 to root.3, the end of
//! prepare.3, prepare.7 to prepare.9, the end of enter.4, root.11, root.15. In diagram order. One connection is one
//! launch is one session.

use protocol::{Errno, Error, Loss, Machine, Package, Step};

use crate::action::Action;

/// Where a session stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// root.1
    AwaitRequest,
    /// root.1: may this caller ask this?
    CheckCaller(Wants),
    /// root.2: the master opens what the caller named, once.
    OpenPackage(Wants),
    /// root.2
    LockDataDir {
        /// Whether there are limits.
        limits: bool,
    },
    /// root.2: a cgroup comes before whom it is to hold.
    MakeCgroup,
    /// root.2 = prepare.0
    CloneGuard,
    /// root.2: several launches may come at once for a package that none has mounted yet.
    FindMount,
    /// root.3: the last that the master has to do with the caller.
    HandOver {
        /// Whether this guard is to mount the package for all.
        first: bool,
    },
    /// prepare.3: others wait for the mount.
    AwaitMount,
    /// prepare.7
    AwaitDone,
    /// prepare.8
    DenySetgroups,
    /// prepare.8
    WriteUidMap,
    /// prepare.8
    WriteGidMap,
    /// prepare.9: before the rocker lives on its own, it is on record for the next master.
    RecordRocker,
    /// prepare.9
    ReleaseGuard,
    /// enter.4: the guard lets go of the master once it has the App, or by its own end.
    AwaitApp,
    /// root.11
    AwaitExit,
    /// root.15
    FreeResidue,
    /// Nothing was handed over: the master itself tells the caller.
    Refuse {
        /// What.
        error: Error,
        /// Whether a guard was cloned already.
        cloned: bool,
    },
    /// The guard is told, and tells the caller.
    StopGuard(Error),
    /// root.10, by the master: the guard does not go on, talks nonsense, or is of no use.
    KillGuard,
    /// All that this session held is gone.
    Ended(Result<(), Error>),
}

/// What of a request not every launch has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Wants {
    /// It names a data dir.
    pub data_dir: bool,
    /// There are limits, of the caller's or of the policy's.
    pub limits: bool,
}

/// What came of an action.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It worked.
    Done,
    /// The request is there.
    RequestIs(Wants),
    /// How the guard gets the package.
    PackageIs(Package),
    /// It was not a launch but a question, and is answered.
    Answered,
    /// The guard has ended and was reaped.
    Exited,
    /// The kernel refused.
    Failed(Errno),
    /// The peer that was waited for is lost.
    Lost(Loss),
    /// A rule forbids to go on.
    Refused(Error),
}

/// One launch.
#[derive(Debug)]
pub struct Session {
    state: State,
}

impl Default for Session {
    fn default() -> Self {
        Self { state: State::AwaitRequest }
    }
}

impl Session {
    /// Where it stands.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether it waits for a thread, for another launch to mount its package, or for its data dir.
    pub const fn awaits_another(&self) -> bool {
        matches!(
            self.state,
            State::OpenPackage(_)
                | State::FindMount
                | State::LockDataDir { .. }
                | State::MakeCgroup
        )
    }

    /// A session that finds its rocker alive, made by an earlier master.
    pub const fn adopted() -> Self {
        Self { state: State::AwaitExit }
    }

    /// One failure edge for each part of the launch: before the hand-over the caller is the
    /// master's to tell, after it the guard's.
    fn failed(&self, error: Error) -> State {
        match self.state {
            State::AwaitRequest
            | State::CheckCaller(_)
            | State::OpenPackage(_)
            | State::LockDataDir { .. }
            | State::MakeCgroup
            | State::CloneGuard => State::Refuse { error, cloned: false },
            State::FindMount | State::HandOver { .. } => State::Refuse { error, cloned: true },
            State::AwaitMount | State::AwaitDone => State::KillGuard,
            State::DenySetgroups
            | State::WriteUidMap
            | State::WriteGidMap
            | State::RecordRocker => State::StopGuard(error),
            // It is gone, or about to notice that nobody is here.
            State::ReleaseGuard | State::StopGuard(_) => State::AwaitApp,
            State::Refuse { error, cloned: false } => State::Ended(Err(error)),
            State::Refuse { cloned: true, .. } => State::KillGuard,
            State::AwaitApp => State::KillGuard,
            // Its end is on the way.
            State::KillGuard => State::AwaitExit,
            // What cannot be freed stays on record for the next start.
            State::AwaitExit | State::FreeResidue | State::Ended(_) => State::Ended(Err(error)),
        }
    }
}

impl Machine for Session {
    type Action = Action;
    type Outcome = Outcome;

    fn step(&self) -> Option<Step> {
        Some(match self.state {
            State::AwaitRequest | State::CheckCaller(_) => Step::RequestRocker,
            State::OpenPackage(_)
            | State::LockDataDir { .. }
            | State::MakeCgroup
            | State::FindMount => Step::CreateGuard,
            State::CloneGuard => Step::CloneGuard,
            State::HandOver { .. } => Step::HandOver,
            State::AwaitMount => Step::MountPackage,
            State::AwaitDone => Step::ReportDone,
            State::DenySetgroups | State::WriteUidMap | State::WriteGidMap => Step::SetIdMaps,
            State::RecordRocker | State::ReleaseGuard => Step::ReleaseGuard,
            State::AwaitApp => Step::ReportApp,
            State::AwaitExit => Step::GuardExited,
            State::FreeResidue => Step::FreeResidue,
            State::KillGuard => Step::KillGuard,
            State::Refuse { error, .. } | State::StopGuard(error) => error.step(),
            State::Ended(_) => return None,
        })
    }

    fn action(&self) -> Action {
        match self.state {
            State::AwaitRequest => Action::AwaitRequest,
            State::CheckCaller(_) => Action::CheckCaller,
            State::OpenPackage(_) => Action::OpenPackage,
            State::LockDataDir { .. } => Action::LockDataDir,
            State::MakeCgroup => Action::MakeCgroup,
            State::CloneGuard => Action::CloneGuard,
            State::FindMount => Action::FindMount,
            State::HandOver { .. } => Action::HandOver,
            State::AwaitMount => Action::AwaitMount,
            State::AwaitDone => Action::AwaitDone,
            State::DenySetgroups => Action::DenySetgroups,
            State::WriteUidMap => Action::WriteUidMap,
            State::WriteGidMap => Action::WriteGidMap,
            State::RecordRocker => Action::RecordRocker,
            State::ReleaseGuard => Action::ReleaseGuard,
            State::AwaitApp => Action::AwaitApp,
            State::AwaitExit => Action::AwaitExit,
            State::FreeResidue => Action::FreeResidue,
            State::Refuse { error, .. } => Action::Refuse(error),
            State::StopGuard(error) => Action::StopGuard(error),
            State::KillGuard => Action::KillGuard,
            State::Ended(_) => unreachable!("an ended session asks for nothing"),
        }
    }

    fn advance(&mut self, outcome: Outcome) {
        use Outcome as O;
        use State as S;
        self.state = match (self.state, outcome) {
            (S::AwaitRequest, O::RequestIs(wants)) => S::CheckCaller(wants),
            (S::AwaitRequest, O::Answered) => S::Ended(Ok(())),
            // Nobody is there to be told.
            (S::AwaitRequest, O::Lost(how @ Loss::Died)) => {
                S::Ended(Err(Error::Lost { step: Step::RequestRocker, how }))
            }
            (S::CheckCaller(wants), O::Done) => S::OpenPackage(wants),
            (S::OpenPackage(Wants { data_dir: true, limits }), O::Done) => {
                S::LockDataDir { limits }
            }
            (
                S::OpenPackage(Wants { data_dir: false, limits: true })
                | S::LockDataDir { limits: true },
                O::Done,
            ) => S::MakeCgroup,
            (
                S::OpenPackage(Wants { data_dir: false, limits: false })
                | S::LockDataDir { limits: false }
                | S::MakeCgroup,
                O::Done,
            ) => S::CloneGuard,
            (S::CloneGuard, O::Done) => S::FindMount,
            (S::FindMount, O::PackageIs(package)) => {
                S::HandOver { first: package == Package::First }
            }
            (S::HandOver { first: true }, O::Done) => S::AwaitMount,
            (S::HandOver { first: false } | S::AwaitMount, O::Done) => S::AwaitDone,
            (S::AwaitDone, O::Done) => S::DenySetgroups,
            (S::DenySetgroups, O::Done) => S::WriteUidMap,
            (S::WriteUidMap, O::Done) => S::WriteGidMap,
            (S::WriteGidMap, O::Done) => S::RecordRocker,
            (S::RecordRocker, O::Done) => S::ReleaseGuard,
            (S::ReleaseGuard | S::StopGuard(_), O::Done) => S::AwaitApp,
            // From here on its rocker needs no master. An errno is the master's own trouble,
            // for which no App shall die.
            (S::AwaitApp, O::Lost(Loss::Died) | O::Failed(_)) => S::AwaitExit,
            (S::KillGuard, O::Done) => S::AwaitExit,
            (S::AwaitExit, O::Exited) => S::FreeResidue,
            (S::FreeResidue, O::Done) => S::Ended(Ok(())),
            (S::Refuse { error, cloned: false }, O::Done) => S::Ended(Err(error)),
            (S::Refuse { cloned: true, .. }, O::Done) => S::KillGuard,
            (_, O::Failed(errno)) => self.failed(Error::Failed { step: self.at(), errno }),
            (_, O::Lost(how)) => self.failed(Error::Lost { step: self.at(), how }),
            (_, O::Refused(error)) => self.failed(error),
            (state, outcome) => unreachable!("{state:?} cannot see {outcome:?}"),
        };
    }
}

impl Session {
    /// The step of a state that still acts; an ended machine never gets here.
    fn at(&self) -> Step {
        self.step().unwrap_or(Step::FreeResidue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(state: State, outcome: Outcome) -> State {
        let mut session = Session { state };
        session.advance(outcome);
        session.state()
    }

    const DENIED: Error = Error::Failed { step: Step::SetIdMaps, errno: Errno::PERM };

    #[test]
    fn a_launch_walks_the_diagram() {
        let mut session = Session::default();
        let mut walked = vec![];
        let wants = Wants { data_dir: true, limits: true };
        for outcome in core::iter::once(Outcome::RequestIs(wants))
            .chain([Outcome::Done; 5])
            .chain([Outcome::PackageIs(Package::First)])
            .chain([Outcome::Done; 8])
            .chain([Outcome::Lost(Loss::Died), Outcome::Exited, Outcome::Done])
        {
            walked.push(session.step().unwrap().to_string());
            session.advance(outcome);
        }
        assert_eq!(session.state(), State::Ended(Ok(())));
        assert_eq!(
            walked.join(" "),
            "root.1 root.1 root.2 root.2 root.2 prepare.0 root.2 root.3 prepare.3 prepare.7 prepare.8 \
             prepare.8 prepare.8 prepare.9 prepare.9 enter.4 root.11 root.15"
        );
    }

    #[test]
    fn open_package_without_data_dir_locks_nothing() {
        let next = after(State::OpenPackage(Wants::default()), Outcome::Done);
        assert_eq!(next, State::CloneGuard);
    }

    #[test]
    fn find_mount_only_the_first_waits_for_its_guards_mount() {
        let shared = Package::Shared { loop_dev: 8 };
        for (package, first) in [(Package::Own, false), (Package::First, true), (shared, false)] {
            let next = after(State::FindMount, Outcome::PackageIs(package));
            assert_eq!(next, State::HandOver { first });
            let awaited = if first { State::AwaitMount } else { State::AwaitDone };
            assert_eq!(after(next, Outcome::Done), awaited);
        }
        assert_eq!(after(State::AwaitMount, Outcome::Done), State::AwaitDone);
    }

    #[test]
    fn a_cgroup_is_made_where_there_are_limits() {
        let wants = Wants { data_dir: false, limits: true };
        assert_eq!(after(State::OpenPackage(wants), Outcome::Done), State::MakeCgroup);
        assert_eq!(after(State::LockDataDir { limits: true }, Outcome::Done), State::MakeCgroup);
        assert_eq!(after(State::LockDataDir { limits: false }, Outcome::Done), State::CloneGuard);
        let error = Error::Failed { step: Step::CreateGuard, errno: Errno::NOSPC };
        let next = after(State::MakeCgroup, Outcome::Failed(Errno::NOSPC));
        assert_eq!(next, State::Refuse { error, cloned: false });
    }

    #[test]
    fn await_request_client_died_tells_nobody() {
        let next = after(State::AwaitRequest, Outcome::Lost(Loss::Died));
        let error = Error::Lost { step: Step::RequestRocker, how: Loss::Died };
        assert_eq!(next, State::Ended(Err(error)));
    }

    #[test]
    fn await_request_garbage_is_refused() {
        let next = after(State::AwaitRequest, Outcome::Lost(Loss::Garbage));
        let error = Error::Lost { step: Step::RequestRocker, how: Loss::Garbage };
        assert_eq!(next, State::Refuse { error, cloned: false });
    }

    #[test]
    fn hand_over_failed_tells_the_caller_and_kills_the_guard() {
        let next = after(State::HandOver { first: true }, Outcome::Failed(Errno::PIPE));
        let error = Error::Failed { step: Step::HandOver, errno: Errno::PIPE };
        assert_eq!(next, State::Refuse { error, cloned: true });
        assert_eq!(after(next, Outcome::Done), State::KillGuard);
        assert_eq!(after(next, Outcome::Failed(Errno::PIPE)), State::KillGuard);
    }

    #[test]
    fn await_done_guard_lost_is_killed() {
        for how in [Loss::Died, Loss::Silent, Loss::Garbage, Loss::Version] {
            assert_eq!(after(State::AwaitDone, Outcome::Lost(how)), State::KillGuard);
            assert_eq!(after(State::AwaitMount, Outcome::Lost(how)), State::KillGuard);
        }
        assert_eq!(after(State::KillGuard, Outcome::Done), State::AwaitExit);
        assert_eq!(after(State::KillGuard, Outcome::Failed(Errno::SRCH)), State::AwaitExit);
    }

    #[test]
    fn await_app_guard_that_does_not_go_on_is_killed() {
        for how in [Loss::Silent, Loss::Garbage, Loss::Version] {
            assert_eq!(after(State::AwaitApp, Outcome::Lost(how)), State::KillGuard);
        }
        assert_eq!(after(State::AwaitApp, Outcome::Lost(Loss::Died)), State::AwaitExit);
        assert_eq!(after(State::AwaitApp, Outcome::Failed(Errno::NOMEM)), State::AwaitExit);
    }

    #[test]
    fn id_maps_refused_stops_the_guard() {
        for state in [State::DenySetgroups, State::WriteUidMap, State::WriteGidMap] {
            assert_eq!(after(state, Outcome::Failed(Errno::PERM)), State::StopGuard(DENIED));
        }
        assert_eq!(after(State::StopGuard(DENIED), Outcome::Done), State::AwaitApp);
        let gone = after(State::StopGuard(DENIED), Outcome::Failed(Errno::PIPE));
        assert_eq!(gone, State::AwaitApp);
    }
}
