//! What must never happen, whatever goes wrong.

use core::fmt;

use protocol::Name;

/// A broken promise. Each is checked as it happens, or where everything has come to rest.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Violation {
    /// A process was meant by its number after it was reaped: it may be another's by now.
    PidMeansAnother {
        /// The number.
        pid: u32,
    },
    /// After prepare.6 a guard asked for something that takes privileges.
    AskedForPrivilege,
    /// After root.5 a guard still holds what it needed to build the rocker, or after enter.4 a
    /// connection.
    KeptDescriptor {
        /// Its role.
        role: String,
    },
    /// Something was mounted before the namespace was private: it is on the host as well.
    MountOnHost {
        /// Where.
        at: &'static str,
    },
    /// Two living overlays share an upper directory, or one has no lock.
    LayerShared {
        /// Which data dir.
        data: u8,
    },
    /// Somebody has sent descriptors to whom a master may be the one to close them.
    SentTooEarly,
    /// A rocker got overlays that remember names of an earlier one's.
    Remembers {
        /// Of which data dir.
        data: u8,
    },
    /// A rocker got overlays over layers that are others by now, or with other properties.
    OtherLayers {
        /// Of which data dir.
        data: u8,
    },
    /// What an App writes to its overlays takes another's room on the disk.
    WritesAsAnother {
        /// Which data dir.
        data: u8,
    },
    /// A launch has overlays that were made before the host changed its mounts.
    OldOverlays {
        /// Of which data dir.
        data: u8,
    },
    /// A rocker ended by itself, and what its App wrote was not on disk.
    NotSynced {
        /// In which data dir.
        data: u8,
    },
    /// Overlays are kept though the host has changed its mounts since.
    KeptInVain {
        /// Of which data dir.
        data: u8,
    },
    /// Overlays of more data dirs are kept than may be.
    KeptTooMany {
        /// Of how many.
        data_dirs: usize,
    },
    /// A guard that was cloned before the host changed its mounts got a launch that came after.
    Stale {
        /// The guard.
        guard: u32,
    },
    /// A rocker is made from a package that its caller did not ask for.
    WrongPackage {
        /// Its launch.
        launch: usize,
    },
    /// Two loop devices hold one package though nobody was late.
    MountedTwice {
        /// Which.
        package: u8,
    },
    /// Code of an App ran too early, or as somebody else, or elsewhere.
    AppRanWrongly {
        /// What was wrong.
        why: &'static str,
    },
    /// A caller was told more than once.
    ToldTwice,
    /// A caller was never told.
    NeverTold {
        /// Its launch.
        launch: usize,
    },
    /// A caller was told after its deadline.
    ToldLate {
        /// Its launch.
        launch: usize,
        /// When.
        at_ms: u64,
    },
    /// A caller was told of success though its App never ran.
    ToldNonsense {
        /// Its launch.
        launch: usize,
    },
    /// A caller of a world without faults was told of a failure, or has lost its App.
    FailedForNothing {
        /// Its launch.
        launch: usize,
    },
    /// At rest an App lives that no caller was told of, and that nobody will stop.
    Ownerless {
        /// Its launch.
        launch: usize,
    },
    /// At rest a rocker lives that its master does not know.
    Forgotten {
        /// Its guard.
        guard: u32,
    },
    /// At rest a rocker lives that no caller has.
    Unclaimed {
        /// Its guard.
        guard: u32,
    },
    /// A rocker that a caller has is not in a list of all.
    Unlisted {
        /// Its guard.
        guard: u32,
    },
    /// A list names a rocker twice, or one that never was, or one of another user's.
    Invented {
        /// The name.
        name: Name,
    },
    /// Two hold the same end of a connection: EOF would not mean death.
    TwoOwners {
        /// Which connection.
        connection: usize,
    },
    /// A guard ended though somebody was left whom it had not been told to leave.
    EndedEarly {
        /// Whom it left.
        left: u32,
    },
    /// A program was started in a rocker that is half configured.
    HalfConfigured,
    /// A rocker was configured while somebody was in it.
    SawTwoViews,
    /// A guard ended though its caller and all programs were well.
    GaveUp {
        /// The guard.
        guard: u32,
    },
    /// A program was killed as its owner left, though it was to stay.
    TakenAlong {
        /// The program.
        pid: u32,
    },
    /// A program lives on though whoever was attached for it has gone.
    Outlived {
        /// The program.
        pid: u32,
    },
    /// An order without an answer, or an end of which nobody was told.
    Unanswered {
        /// Whose.
        launch: usize,
        /// The program's number; 0: a ping.
        id: u32,
    },
    /// An answer that is none, or not true.
    AnsweredWrongly {
        /// Whose.
        launch: usize,
        /// Of what it was told.
        why: &'static str,
    },
    /// A program lives though its time is over and its guard had a turn.
    Late {
        /// The program.
        pid: u32,
    },
    /// At rest, and something is left.
    LeftBehind(Vec<String>),
    /// It does not come to rest.
    Endless {
        /// After how many turns patience ended.
        turns: u32,
    },
    /// A machine was told something that it has no arm for.
    Panicked(String),
}

impl fmt::Display for Violation {
    #[expect(clippy::too_many_lines, reason = "a line for each promise")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PidMeansAnother { pid } => {
                write!(f, "process {pid} was meant by its number after it was reaped")
            }
            Self::AskedForPrivilege => {
                f.write_str("the guard asked for something privileged after prepare.6")
            }
            Self::KeptDescriptor { role } => write!(f, "the guard holds {role} still"),
            Self::MountOnHost { at } => write!(f, "a mount at {at} reached the host"),
            Self::LayerShared { data } => {
                write!(f, "the layers in data dir {data} are not one rocker's alone")
            }
            Self::Remembers { data } => {
                write!(f, "the overlays of data dir {data} remember another rocker's names")
            }
            Self::OtherLayers { data } => {
                write!(f, "the overlays of data dir {data} are not those that were to be")
            }
            Self::WritesAsAnother { data } => {
                write!(f, "the overlays of data dir {data} write as another than the App")
            }
            Self::OldOverlays { data } => {
                write!(f, "the overlays of data dir {data} are of mounts that are no more")
            }
            Self::NotSynced { data } => {
                write!(f, "a rocker is gone, and what is in data dir {data} is not on disk")
            }
            Self::KeptInVain { data } => {
                write!(f, "the overlays of data dir {data} keep mounts in use that are no more")
            }
            Self::KeptTooMany { data_dirs } => {
                write!(f, "the overlays of {data_dirs} data dirs are kept")
            }
            Self::Stale { guard } => write!(f, "guard {guard} has old mounts of the host's"),
            Self::WrongPackage { launch } => write!(f, "launch {launch} has another package"),
            Self::MountedTwice { package } => write!(f, "package {package} is mounted twice"),
            Self::AppRanWrongly { why } => write!(f, "App code ran {why}"),
            Self::SentTooEarly => f.write_str("descriptors were sent that a guard did not ask for"),
            Self::ToldTwice => f.write_str("a caller was told twice"),
            Self::NeverTold { launch } => write!(f, "the caller of launch {launch} was never told"),
            Self::ToldLate { launch, at_ms } => {
                write!(f, "the caller of launch {launch} was told at {at_ms} ms, too late")
            }
            Self::ToldNonsense { launch } => {
                write!(f, "the caller of launch {launch} was told of an App that never ran")
            }
            Self::FailedForNothing { launch } => {
                write!(f, "nothing went wrong, but launch {launch} has no App")
            }
            Self::Ownerless { launch } => {
                write!(f, "the App of launch {launch} lives, and nobody was told")
            }
            Self::Forgotten { guard } => {
                write!(f, "the rocker of guard {guard} lives, and its master does not know it")
            }
            Self::Unclaimed { guard } => {
                write!(f, "the rocker of guard {guard} lives, and no caller has it")
            }
            Self::Unlisted { guard } => {
                write!(f, "a list of all rockers leaves out that of guard {guard}")
            }
            Self::Invented { name } => {
                write!(f, "a list names {name}, which is none, or another's, or not once")
            }
            Self::TwoOwners { connection } => {
                write!(f, "an end of connection {connection} has two owners")
            }
            Self::EndedEarly { left } => {
                write!(f, "the guard ended and left process {left} to be killed")
            }
            Self::GaveUp { guard } => {
                write!(f, "guard {guard} ended though caller and programs were well")
            }
            Self::TakenAlong { pid } => write!(f, "program {pid} was killed as its owner left"),
            Self::Outlived { pid } => write!(f, "program {pid} outlives whom it ran for"),
            Self::HalfConfigured => f.write_str("a program was started, half configured"),
            Self::SawTwoViews => f.write_str("a rocker was configured while somebody was in it"),
            Self::Unanswered { launch, id: 0 } => {
                write!(f, "the caller of launch {launch} has no answer to a ping")
            }
            Self::Unanswered { launch, id } => {
                write!(f, "the caller of launch {launch} was never told of program {id}")
            }
            Self::AnsweredWrongly { launch, why } => {
                write!(f, "the caller of launch {launch} was told {why}")
            }
            Self::Late { pid } => write!(f, "program {pid} lives on though its time is over"),
            Self::LeftBehind(left) => write!(f, "left behind: {}", left.join("; ")),
            Self::Endless { turns } => write!(f, "no rest after {turns} turns"),
            Self::Panicked(words) => write!(f, "a machine panicked: {words}"),
        }
    }
}
