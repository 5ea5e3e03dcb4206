//! Which arrows of which machine were walked.
//!
//! For each machine a *contract*: what each state's action can answer in production, read off
//! `linux.rs`. Every pair of the contract must be reached by some run. What the contract leaves
//! out is unreachable by design, for the reason beside it.

use core::fmt;

use protocol::{Errno, Loss, Package, limits::LOOP_TRIES_MAX};
use rocker_client::action as client_action;

macro_rules! kinds {
    ($kind:ident: $($name:ident)*) => {
        #[derive(Clone, Copy)]
        enum $kind { $($name),* }
        impl $kind {
            const NAMES: &[&str] = &[$(stringify!($name)),*];
        }
    };
}

kinds!(GuardState: AwaitRequest IsolateMounts CreateLoop BindPackage BindPackageAgain
    BindPackageLast MountBare MountOverlaid MountFirst SharePackage ReusePackage ListTopDirs BuildOverlay MountOverlay AttachPackage
    RemountProc TakeAppIds UnshareUser DropPrivileges ReportDone AwaitRelease SendEntrance AwaitApp
    Listen StartProgram ReportStarted ReportNotStarted SendSignal SendSignalToAll LetGo Answer CarryOut
    Bury BuildView RunInit ReportObeyed Welcome TurnAway HangUp
    KillLate Reap ReportExit FindStrangers Rest Settle ReportFailure);
kinds!(SessionState: AwaitRequest CheckCaller OpenPackage OpenPackageLimited OpenPackageWithData
    LockDataDir LockDataDirLimited MakeCgroup CloneGuard
    FindMount HandOver AwaitMount AwaitDone DenySetgroups WriteUidMap WriteGidMap RecordRocker
    ReleaseGuard AwaitApp
    AwaitExit FreeResidue RefuseUncloned RefuseCloned StopGuard KillGuard);
kinds!(ClientState: Connect SendRequest AwaitEntrance ForkHelper AwaitApp ReportApp Greet);
kinds!(HelperState: DropGroups JoinNamespaces TakeIds DropPrivileges EnterDirectory StartApp);
kinds!(Kind: Done Good OtherGood ThirdGood Exec Signal Go Ping Order Attached Crowded PeerLost Changed Late Failed Busy Died Silent Garbage Version Refused);

/// A machine's states in the order of the diagrams, and what each can be told. `Good` and
/// `OtherGood` are the outcomes with a name of their own, in the order given here.
struct Contract {
    machine: &'static str,
    states: &'static [&'static str],
    can: &'static [(&'static str, &'static str)],
    /// Why the other pairs cannot happen.
    reasons: &'static [&'static str],
}

const GUARD: Contract = Contract {
    machine: "guard",
    states: GuardState::NAMES,
    can: &[
        ("AwaitRequest", "Good=RequestIs Failed Died Garbage Version"),
        ("IsolateMounts", "Done Failed"),
        ("CreateLoop", "Good=LoopIs Failed"),
        ("BindPackage", "Done Failed Busy Refused"),
        ("BindPackageAgain", "Done Failed Busy"),
        ("BindPackageLast", "Busy"),
        ("MountBare", "Done Failed"),
        ("MountOverlaid", "Done Failed"),
        ("MountFirst", "Done Failed"),
        ("SharePackage", "Done Failed"),
        ("ReusePackage", "Done Failed"),
        ("ListTopDirs", "Good=DirsAre Failed Refused"),
        ("BuildOverlay", "Done Failed"),
        ("MountOverlay", "Done Failed"),
        ("AttachPackage", "Done Failed"),
        ("RemountProc", "Done Failed"),
        ("TakeAppIds", "Done Failed"),
        ("UnshareUser", "Done Failed"),
        ("DropPrivileges", "Done Failed"),
        ("ReportDone", "Done Failed"),
        ("AwaitRelease", "Done Failed Died Silent Garbage Version Refused"),
        ("SendEntrance", "Done Failed"),
        ("AwaitApp", "Done Exec Signal Go Ping Order Failed Died Silent Garbage Version"),
        ("Listen", "Exec Signal Go Ping Order Attached Crowded PeerLost Changed Late Failed"),
        ("StartProgram", "Done Failed"),
        ("ReportStarted", "Done Failed"),
        ("ReportNotStarted", "Done Failed"),
        ("SendSignal", "Done Failed"),
        ("SendSignalToAll", "Done Failed"),
        ("LetGo", "Done Failed"),
        ("Answer", "Done Failed"),
        ("CarryOut", "Done Failed"),
        ("Bury", "Good=Alone Failed"),
        ("BuildView", "Done Failed"),
        ("RunInit", "Done Failed"),
        ("ReportObeyed", "Done Failed"),
        ("Welcome", "Done Failed"),
        ("TurnAway", "Done Failed"),
        ("HangUp", "Done"),
        ("KillLate", "Done"),
        ("Reap", "Good=Watched OtherGood=NobodyKnown ThirdGood=Exited Failed"),
        ("ReportExit", "Done Failed"),
        ("FindStrangers", "Good=Alone OtherGood=Watched Failed"),
        ("Rest", "Done"),
        ("Settle", "Done Failed"),
        ("ReportFailure", "Done Failed"),
    ],
    reasons: &[
        "Died, Silent, Garbage, Version: only an action that waits for a peer can lose it",
        "Refused: only prepare.2 (no image), overlay.0 (a forbidden directory) and prepare.9 (the master's word)",
        "BindPackageAgain Refused: it was looked into the first time",
        "Rest, HangUp, KillLate Failed: their drivers take every errno for done",
        "Listen Died, Silent, Garbage, Version: whatever is wrong with a peer, it is lost",
        "BindPackageLast Done, Failed: as BindPackage; only Busy has another arm at the last try",
        "Busy where not listed: EBUSY has no other arm than any errno there",
    ],
};

const SESSION: Contract = Contract {
    machine: "master",
    states: SessionState::NAMES,
    can: &[
        (
            "AwaitRequest",
            "Good=RequestIs OtherGood=Answered Failed Died Silent Garbage Version Refused",
        ),
        ("CheckCaller", "Done Refused"),
        ("OpenPackage", "Done Refused"),
        ("OpenPackageLimited", "Done Refused"),
        ("OpenPackageWithData", "Done Refused"),
        ("LockDataDir", "Done Refused"),
        ("LockDataDirLimited", "Done Refused"),
        ("MakeCgroup", "Done Failed Refused"),
        ("FindMount", "Good=Shared OtherGood=First Done=Own"),
        ("CloneGuard", "Done Failed"),
        ("HandOver", "Done Failed"),
        ("AwaitMount", "Done Failed Died Silent Garbage Version"),
        ("AwaitDone", "Done Failed Died Silent Garbage Version"),
        ("DenySetgroups", "Done Failed"),
        ("WriteUidMap", "Done Failed"),
        ("WriteGidMap", "Done Failed"),
        ("RecordRocker", "Done Failed"),
        ("ReleaseGuard", "Done Failed"),
        ("AwaitApp", "Failed Died Silent"),
        ("AwaitExit", "Good=Exited"),
        ("FreeResidue", "Done Failed"),
        ("RefuseUncloned", "Done Failed"),
        ("RefuseCloned", "Done Failed"),
        ("StopGuard", "Done Failed"),
        ("KillGuard", "Done Failed"),
    ],
    reasons: &[
        "Died, Silent, Garbage, Version: only an action that waits for a peer can lose it",
        "CheckCaller, OpenPackage, LockDataDir Failed: the driver words their errnos itself, as Refused",
        "FindMount Failed: it looks up what the master knows itself",
        "AwaitApp Garbage, Version: a guard says nothing to its master after prepare.7",
        "AwaitExit Failed: nothing is asked of the kernel, SIGCHLD or a pidfd says it",
    ],
};

const CLIENT: Contract = Contract {
    machine: "client",
    states: ClientState::NAMES,
    can: &[
        ("Connect", "Done Failed Silent"),
        ("SendRequest", "Done Failed Refused"),
        ("AwaitEntrance", "Good=Entrance Failed Died Silent Garbage Version Refused"),
        ("ForkHelper", "Done Failed"),
        ("AwaitApp", "Good=App Died Silent Refused"),
        ("ReportApp", "Done Failed Died Refused"),
        ("Greet", "Done Failed Died"),
    ],
    reasons: &["AwaitApp Failed: a helper's errno comes as Refused, with the helper's own step"],
};

const HELPER: Contract = Contract {
    machine: "helper",
    states: HelperState::NAMES,
    can: &[
        ("DropGroups", "Done Failed"),
        ("JoinNamespaces", "Done Failed"),
        ("TakeIds", "Done Failed"),
        ("DropPrivileges", "Done Failed"),
        ("EnterDirectory", "Done Failed"),
        ("StartApp", "Good=App Failed"),
    ],
    reasons: &["a helper has no peer: it is waited for"],
};

const CONTRACTS: [Contract; 4] = [GUARD, SESSION, CLIENT, HELPER];
const STATES_MAX: usize = GuardState::NAMES.len();
const KINDS: usize = Kind::NAMES.len();

/// How often each (state, outcome) of each machine was seen.
#[derive(Clone, Debug)]
pub struct Coverage([[[u64; KINDS]; STATES_MAX]; 4]);

impl Default for Coverage {
    fn default() -> Self {
        Self([[[0; KINDS]; STATES_MAX]; 4])
    }
}

impl Coverage {
    fn count(&mut self, machine: usize, state: usize, kind: Kind) {
        self.0[machine][state][kind as usize] += 1;
    }

    /// Adds what another has seen.
    pub fn merge(&mut self, other: &Self) {
        let mine = self.0.as_flattened_mut().as_flattened_mut();
        for (mine, theirs) in mine.iter_mut().zip(other.0.as_flattened().as_flattened()) {
            *mine += theirs;
        }
    }

    /// The pairs of the contracts that no run has reached.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = vec![];
        for (machine, contract) in CONTRACTS.iter().enumerate() {
            for &(state, can) in contract.can {
                for outcome in can.split(' ') {
                    if self.seen(machine, state, outcome) == 0 {
                        let name = outcome.split('=').next_back().unwrap_or_default();
                        missing.push(format!("{} {state} {name}", contract.machine));
                    }
                }
            }
        }
        missing
    }

    /// What was seen though no contract allows it.
    pub fn unexpected(&self) -> Vec<String> {
        let mut found = vec![];
        for (machine, contract) in CONTRACTS.iter().enumerate() {
            for (index, &state) in contract.states.iter().enumerate() {
                let can = contract.can.iter().find(|(name, _)| *name == state);
                let can = can.map(|(_, can)| *can).unwrap_or_default();
                for (kind, name) in Kind::NAMES.iter().enumerate() {
                    let listed = can.split(' ').any(|it| it.split('=').next() == Some(name));
                    // EBUSY is an errno like any other where it has no arm of its own.
                    let is_any = *name == "Busy" && can.contains("Failed");
                    if self.0[machine][index][kind] > 0 && !listed && !is_any {
                        found.push(format!("{} {state} {name}", contract.machine));
                    }
                }
            }
        }
        found
    }

    fn seen(&self, machine: usize, state: &str, outcome: &str) -> u64 {
        let kind = outcome.split('=').next().unwrap_or_default();
        let position = |names: &[&str], name| names.iter().position(|it| *it == name);
        let state = position(CONTRACTS[machine].states, state);
        match (state, position(Kind::NAMES, kind)) {
            (Some(state), Some(kind)) => self.0[machine][state][kind],
            _ => 0,
        }
    }

    /// A guard was told something.
    #[expect(clippy::too_many_lines, reason = "a line for each state")]
    pub(crate) fn guard(&mut self, state: guard::machine::State, told: guard::machine::Outcome) {
        use GuardState as K;
        use guard::machine::{Outcome as O, State as S};
        let state = match state {
            S::AwaitRequest => K::AwaitRequest,
            S::IsolateMounts { .. } => K::IsolateMounts,
            S::CreateLoop { .. } => K::CreateLoop,
            S::BindPackage { tries: 0, .. } => K::BindPackage,
            S::BindPackage { tries: LOOP_TRIES_MAX, .. } => K::BindPackageLast,
            S::BindPackage { .. } => K::BindPackageAgain,
            S::MountPackage { share: true, .. } => K::MountFirst,
            S::MountPackage { overlays: false, .. } => K::MountBare,
            S::MountPackage { overlays: true, .. } => K::MountOverlaid,
            S::SharePackage { .. } => K::SharePackage,
            S::ReusePackage { .. } => K::ReusePackage,
            S::ListTopDirs => K::ListTopDirs,
            S::BuildOverlay { .. } => K::BuildOverlay,
            S::MountOverlay { .. } => K::MountOverlay,
            S::AttachPackage => K::AttachPackage,
            S::RemountProc => K::RemountProc,
            S::TakeAppIds => K::TakeAppIds,
            S::UnshareUser => K::UnshareUser,
            S::DropPrivileges => K::DropPrivileges,
            S::ReportDone => K::ReportDone,
            S::AwaitRelease => K::AwaitRelease,
            S::SendEntrance => K::SendEntrance,
            S::AwaitApp => K::AwaitApp,
            S::Listen => K::Listen,
            S::StartProgram { .. } => K::StartProgram,
            S::ReportStarted { .. } => K::ReportStarted,
            S::ReportNotStarted { .. } => K::ReportNotStarted,
            S::SendSignal { id: Some(_), .. } => K::SendSignal,
            S::SendSignal { id: None, .. } => K::SendSignalToAll,
            S::LetGo { .. } => K::LetGo,
            S::Answer { .. } => K::Answer,
            S::CarryOut { .. } => K::CarryOut,
            S::Bury { .. } => K::Bury,
            S::BuildView { .. } => K::BuildView,
            S::RunInit { .. } => K::RunInit,
            S::ReportObeyed { .. } => K::ReportObeyed,
            S::Welcome { .. } => K::Welcome,
            S::TurnAway => K::TurnAway,
            S::HangUp { .. } => K::HangUp,
            S::KillLate => K::KillLate,
            S::Reap => K::Reap,
            S::ReportExit { .. } => K::ReportExit,
            S::FindStrangers => K::FindStrangers,
            S::Rest => K::Rest,
            S::Settle { .. } => K::Settle,
            S::ReportFailure(_) => K::ReportFailure,
            S::Ended(_) => return,
        };
        let told = match told {
            O::Done => Kind::Done,
            O::RequestIs { .. } | O::LoopIs(_) | O::DirsAre { .. } | O::Alone => Kind::Good,
            O::Watched if matches!(state, K::Reap) => Kind::Good,
            O::Watched | O::NobodyKnown => Kind::OtherGood,
            O::Exited { .. } => Kind::ThirdGood,
            O::Exec { .. } => Kind::Exec,
            O::Signal { .. } => Kind::Signal,
            O::Go { .. } => Kind::Go,
            O::Ping { .. } => Kind::Ping,
            O::Order { .. } => Kind::Order,
            O::Attached { .. } => Kind::Attached,
            O::Crowded => Kind::Crowded,
            O::PeerLost { .. } => Kind::PeerLost,
            O::Changed => Kind::Changed,
            O::Late => Kind::Late,
            O::Failed(errno) => failed(errno),
            O::Lost(how) => lost(how),
            O::Refused(_) => Kind::Refused,
        };
        self.count(0, state as usize, told);
    }

    /// A session was told something.
    pub(crate) fn session(
        &mut self,
        state: master::machine::State,
        told: master::machine::Outcome,
    ) {
        use SessionState as K;
        use master::machine::{Outcome as O, State as S, Wants};
        let state = match state {
            S::AwaitRequest => K::AwaitRequest,
            S::CheckCaller { .. } => K::CheckCaller,
            S::OpenPackage(Wants { data_dir: false, limits: false }) => K::OpenPackage,
            S::OpenPackage(Wants { data_dir: false, limits: true }) => K::OpenPackageLimited,
            S::OpenPackage(Wants { data_dir: true, .. }) => K::OpenPackageWithData,
            S::LockDataDir { limits: false } => K::LockDataDir,
            S::LockDataDir { limits: true } => K::LockDataDirLimited,
            S::MakeCgroup => K::MakeCgroup,
            S::FindMount => K::FindMount,
            S::CloneGuard => K::CloneGuard,
            S::HandOver { .. } => K::HandOver,
            S::AwaitMount => K::AwaitMount,
            S::AwaitDone => K::AwaitDone,
            S::DenySetgroups => K::DenySetgroups,
            S::WriteUidMap => K::WriteUidMap,
            S::WriteGidMap => K::WriteGidMap,
            S::RecordRocker => K::RecordRocker,
            S::ReleaseGuard => K::ReleaseGuard,
            S::AwaitApp => K::AwaitApp,
            S::AwaitExit => K::AwaitExit,
            S::FreeResidue => K::FreeResidue,
            S::Refuse { cloned: false, .. } => K::RefuseUncloned,
            S::Refuse { cloned: true, .. } => K::RefuseCloned,
            S::StopGuard(_) => K::StopGuard,
            S::KillGuard => K::KillGuard,
            S::Ended(_) => return,
        };
        let told = match told {
            O::Done => Kind::Done,
            O::RequestIs { .. } | O::Exited | O::PackageIs(Package::Shared { .. }) => Kind::Good,
            O::Answered | O::PackageIs(Package::First) => Kind::OtherGood,
            O::PackageIs(Package::Own) => Kind::Done,
            O::Failed(errno) => failed(errno),
            O::Lost(how) => lost(how),
            O::Refused(_) => Kind::Refused,
        };
        self.count(1, state as usize, told);
    }

    /// A client was told something.
    pub(crate) fn client(&mut self, action: client_action::Action, told: client_action::Outcome) {
        use client_action::{Action as A, Outcome as O};
        let state = match action {
            A::Connect => ClientState::Connect,
            A::SendRequest => ClientState::SendRequest,
            A::AwaitEntrance => ClientState::AwaitEntrance,
            A::ForkHelper => ClientState::ForkHelper,
            A::AwaitApp => ClientState::AwaitApp,
            A::ReportApp => ClientState::ReportApp,
            A::Greet => ClientState::Greet,
        };
        let told = match told {
            O::Done => Kind::Done,
            O::Entrance { .. } | O::App { .. } => Kind::Good,
            O::Failed(errno) => failed(errno),
            O::Lost(how) => lost(how),
            O::Refused(_) => Kind::Refused,
        };
        self.count(2, state as usize, told);
    }

    /// A helper was told something.
    pub(crate) fn helper(
        &mut self,
        action: client_action::HelperAction,
        told: client_action::HelperOutcome,
    ) {
        use client_action::{HelperAction as A, HelperOutcome as O};
        let state = match action {
            A::DropGroups => HelperState::DropGroups,
            A::JoinNamespaces => HelperState::JoinNamespaces,
            A::TakeIds => HelperState::TakeIds,
            A::DropPrivileges => HelperState::DropPrivileges,
            A::EnterDirectory => HelperState::EnterDirectory,
            A::StartApp => HelperState::StartApp,
        };
        let told = match told {
            O::Done => Kind::Done,
            O::App { .. } => Kind::Good,
            O::Failed(errno) => failed(errno),
        };
        self.count(3, state as usize, told);
    }
}

fn failed(errno: Errno) -> Kind {
    if errno == Errno::BUSY { Kind::Busy } else { Kind::Failed }
}

fn lost(how: Loss) -> Kind {
    match how {
        Loss::Died => Kind::Died,
        Loss::Silent => Kind::Silent,
        Loss::Garbage => Kind::Garbage,
        Loss::Version => Kind::Version,
    }
}

/// The table, machine by machine, and below it why the rest is not in it.
impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (machine, contract) in CONTRACTS.iter().enumerate() {
            writeln!(f, "{}", contract.machine)?;
            for &(state, can) in contract.can {
                write!(f, "  {state:<20}")?;
                for outcome in can.split(' ') {
                    let name = outcome.split('=').next_back().unwrap_or_default();
                    match self.seen(machine, state, outcome) {
                        0 => write!(f, " {name} NEVER")?,
                        count => write!(f, " {name} {count}")?,
                    }
                }
                writeln!(f)?;
            }
            for reason in contract.reasons {
                writeln!(f, "  not: {reason}")?;
            }
        }
        Ok(())
    }
}
