//! What can go wrong, where, and for how long.
//!
//! A fault sits at a *call* (the n-th system call of the whole world: it is refused, or what it
//! sends arrives as nonsense) or at a *turn* (before the n-th turn somebody is killed or hangs).
//! The plan of a world is a list of at most two; everything else that happens follows from it.

use core::fmt;

use protocol::{Actor, Errno};

use crate::words::errno_name;

macro_rules! calls {
    ($($name:ident: $($errno:literal)*;)*) => {
        /// A system call as far as it can fail for itself: what an action is made of.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum Call { $(#[doc = stringify!($name)] $name,)* }

        impl Call {
            /// What the kernel may answer on a bad day, from the manual pages.
            pub const fn errnos(self) -> &'static [Errno] {
                match self { $(Self::$name => &[$(Errno($errno)),*],)* }
            }
        }
    };
}

calls! {
    // Client and helper. EINTR is never seen above `protocol::socket`, EAGAIN only where listed.
    Connect: 2 13 24 111 12;
    Shutdown: 107;
    ForkHelper: 11 12;
    SetGroups: 1 12;
    Setns: 1 3 22 12;
    SetIds: 11 22 12;
    DropCapabilities: 1 12;
    ChangeDirectory: 2 13 12;
    CloneApp: 11 12;
    Execve: 2 8 12 13;
    // Sockets. EPIPE comes from the model itself, whenever the peer is gone.
    Send: 11 12 105;
    Receive: 12;
    // Master.
    OpenPackage: 2 13 5 23 24 12;
    OpenDataDir: 2 13 20 28 30 12;
    Lock: 37 12;
    MakeCgroup: 28 12 17 30;
    SetLimit: 22 16 2;
    Socketpair: 23 24 12;
    CloneGuard: 11 12 28;
    CopyDev: 1 12 24;
    WriteIdMap: 1 2 22 12;
    WriteRecord: 28 5 17 30 12;
    RemoveRecord: 5 30 12;
    RemoveCgroup: 16;
    Kill: 1;
    GetFd: 1 24 12;
    // Guard, and whoever enters.
    JoinCgroup: 19 12 16;
    Enforce: 1 7 12;
    // Guard.
    MakePrivate: 12 22;
    FindFreeLoop: 2 13 28 24 12;
    BindLoop: 16 6 12 5;
    MountSquashfs: 22 117 12 19;
    OpenDirectories: 2 13 20 24 12;
    OpenLayers: 2 116 40 12;
    MountOverlay: 22 30 28 12 40;
    OpenTree: 2 12 24;
    OpenExecDir: 2 20 13 12;
    MoveMount: 22 40 12;
    MountProc: 1 16 12;
    OpenProc: 24 12;
    OpenDev: 2 20 40 12;
    MountDev: 1 12 28;
    UnshareUser: 1 28 12;
    MakeRuleset: 95 12 22;
    OpenPidfd: 23 24 12;
    Wait: 22;
    CloneProgram: 11 12 23 24;
    PlaceDescriptors: 24 12;
    TakeTerminal: 1 25;
    SetRlimit: 1 22;
    Files: 2 13 30 62 12;
    MountView: 1 2 12 22 28 40;
    RunInit: 2 62 125;
    Sync: 5 28 122;
    Refresh: 12 16 30;
    Poll: 12 22;
}

/// Who can be killed or hang.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Who {
    /// `AppMaster` with the client's machine in it, by launch.
    Client(usize),
    /// The helper of a launch.
    Helper(usize),
    /// The master.
    Master,
    /// A guard, in the order in which they were cloned.
    Guard(usize),
    /// A process in a rocker, in the order in which they were started; the App is the first.
    App(usize),
}

impl Who {
    /// Everybody in a world with one launch.
    pub const ALL: [Self; 5] =
        [Self::Client(0), Self::Helper(0), Self::Master, Self::Guard(0), Self::App(0)];

    /// The word of the diagrams for it.
    pub const fn actor(self) -> Actor {
        match self {
            Self::Client(_) => Actor::Client,
            Self::Helper(_) => Actor::Helper,
            Self::Master => Actor::Master,
            Self::Guard(_) => Actor::Guard,
            Self::App(_) => Actor::App,
        }
    }

    /// Which of its kind.
    pub const fn number(self) -> usize {
        match self {
            Self::Client(n) | Self::Helper(n) | Self::Guard(n) | Self::App(n) => n,
            Self::Master => 0,
        }
    }
}

/// `guard`, or `guard.2` where there are several.
impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number() {
            0 => f.pad(&self.actor().to_string()),
            number => f.pad(&format!("{}.{number}", self.actor())),
        }
    }
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The call is refused.
    Refuse(Errno),
    /// The message that is sent arrives as something the protocol does not know.
    Garble,
    /// It arrives as a message of another version of the protocol.
    Misversion,
    /// It is lost, and the connection with it: both ends see the other closed.
    Cut,
    /// SIGKILL.
    Kill(Who),
    /// Takes no more turns: stopped by a debugger, stuck in a device, starved.
    Hang(Who),
}

/// For how long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// This once. A hanging actor goes on when all others have come to rest and every deadline
    /// has passed.
    Once,
    /// Every later call of the same kind by the same actor; a killed actor's successor dies,
    /// too; a hanging one never goes on.
    FromNowOn,
}

impl Mode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Once, Self::FromNowOn];
}

/// Where a fault strikes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum At {
    /// At the n-th call.
    Call(u32),
    /// Before the n-th turn.
    Turn(u32),
}

/// A fault with its place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Planned {
    /// Where.
    pub at: At,
    /// What.
    pub fault: Fault,
    /// For how long.
    pub mode: Mode,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fault {
            Fault::Refuse(errno) => write!(f, "{}", errno_name(errno))?,
            Fault::Garble => f.write_str("a garbled message")?,
            Fault::Misversion => f.write_str("a message of another version")?,
            Fault::Cut => f.write_str("a cut connection")?,
            Fault::Kill(who) => write!(f, "SIGKILL to {who}")?,
            Fault::Hang(who) => write!(f, "{who} hangs")?,
        }
        match self.at {
            At::Call(n) => write!(f, " at call {n}")?,
            At::Turn(n) => write!(f, " at turn {n}")?,
        }
        f.write_str(match self.mode {
            Mode::Once => ", once",
            Mode::FromNowOn => ", from now on",
        })
    }
}

/// At most two faults, and what has become of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    planned: [Option<Planned>; 2],
    /// Calls that fail from now on.
    lasting: [Option<(Call, Actor)>; 2],
    /// Whichever call has this number fails, with its n-th errno.
    next: Option<(u32, u8)>,
    any: bool,
}

impl Plan {
    pub(crate) fn new(faults: &[Planned]) -> Self {
        let mut plan = Self { any: !faults.is_empty(), ..Self::default() };
        for (slot, fault) in plan.planned.iter_mut().zip(faults) {
            *slot = Some(*fault);
        }
        plan
    }

    /// The next call fails, with one of the errnos that it knows.
    pub(crate) fn refuse_next(&mut self, index: u32, which: u8) {
        *self = Self { next: Some((index, which)), any: true, ..Self::default() };
    }

    /// Whether nothing ever was to go wrong.
    pub(crate) fn is_empty(&self) -> bool {
        !self.any
    }

    /// Nothing goes wrong any more.
    pub(crate) fn stop(&mut self) {
        *self = Self::default();
    }

    /// What happens to this call.
    pub(crate) fn at_call(&mut self, index: u32, call: Call, by: Actor) -> Option<Fault> {
        if !self.any {
            return None;
        }
        if let Some((at, which)) = self.next
            && at == index
        {
            let errnos = call.errnos();
            return errnos.get(usize::from(which) % errnos.len().max(1)).map(|&e| Fault::Refuse(e));
        }
        for (slot, lasting) in self.planned.iter().zip(&mut self.lasting) {
            let Some(Planned { at: At::Call(at), fault, mode }) = *slot else { continue };
            if at == index && mode == Mode::FromNowOn {
                *lasting = Some((call, by));
            }
            if at == index || *lasting == Some((call, by)) {
                return Some(fault);
            }
        }
        None
    }

    /// What happens before this turn.
    pub(crate) fn at_turn(&self, index: u32) -> impl Iterator<Item = Planned> + use<> {
        let planned = if self.any { self.planned } else { [None; 2] };
        planned.into_iter().flatten().filter(move |planned| match planned.at {
            At::Call(_) => false,
            At::Turn(at) => at == index,
        })
    }
}
