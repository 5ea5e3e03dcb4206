//! What a world is about: who asks for what, and what the host looks like.

use guard::action::Order;
use guard::machine::Life;
use master::policy::Allow;
use protocol::{Dev, Ids, Limits, Options, Overlays, Path, Request};

use crate::library::Library;

/// One launch: its request, the host that it meets, and how its App lives and ends.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// The caller's.
    pub library: Library,
    /// How many directories are to be overlaid: the first so many of [`DIRECTORIES`].
    pub dirs: usize,
    /// Which data dir; two launches with the same one are rivals.
    pub data: u8,
    /// The App's uid and gid, if they are not its own alone.
    pub user: Option<u32>,
    /// Who asks: [`ROOT`], one of [`USERS`], or somebody whom the policy does not name.
    pub caller: u32,
    /// `--overlay auto`: whatever the host has, as far as it may be overlaid.
    pub auto: bool,
    /// The caller wants to see every step; in C it cannot ask for that.
    pub trace: bool,
    /// A file system of the host's is mounted below the first directory.
    pub host_mount: bool,
    /// The second directory is a link to `/proc`.
    pub forbidden: bool,
    /// The App sees the host's `/dev`. In C too.
    pub host_dev: bool,
    /// There are limits, and so a cgroup. In C too.
    pub limited: bool,
    /// Landlock is to bound its App and its programs. In C too.
    pub landlock: bool,
    /// Whether the exec dir is there on the host.
    pub exec_dir: bool,
    /// Which package: launches with the same one may share its mount.
    pub package: u8,
    /// Whether the package holds a file system.
    pub good_package: bool,
    /// How long whoever looks at its paths has to wait, at each.
    pub slow_ms: u64,
    /// What the App does while it runs.
    pub app: App,
    /// What `AppMaster` does with its rocker, if that is to take orders and not to be entered.
    pub orders: Option<&'static [Task]>,
    /// Whether the client says first that orders will come, as ours does.
    pub greets: bool,
    /// The caller does not do what it has asked for: it gives an order where it was to enter, and
    /// announces an App where orders were to come.
    pub deceives: bool,
    /// What those do who attach to the rocker, at the same time.
    pub visits: &'static [&'static [Task]],
    /// Whether a rocker that takes orders outlives its owner's connection.
    pub stays: bool,
    /// What ends it.
    pub end: End,
    /// It begins when that launch's rocker is gone.
    pub after: Option<usize>,
    /// The deadline.
    pub timeout_ms: u64,
}

/// What an App does while it runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum App {
    /// Nothing.
    Plain,
    /// Starts a child that outlives it.
    Child,
    /// Starts a child that starts another and ends: a daemon.
    Daemon,
    /// Has a guest, whom an operator brought in with `nsenter` and who outlives it.
    Guest,
}

/// One thing that `AppMaster` does with a rocker that takes orders.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Task {
    /// exec.0: a program.
    Exec {
        /// `AppMaster`'s number for it.
        id: u32,
        /// What it does.
        does: Does,
        /// On which terms.
        terms: Terms,
    },
    /// A program that waits may execute.
    Go {
        /// Which.
        id: u32,
    },
    /// A signal.
    Signal {
        /// For whom; none: for all.
        id: Option<u32>,
        /// SIGTERM or SIGKILL.
        signal: u8,
    },
    /// Is the guard there?
    Ping,
    /// Something that is no program's.
    Do {
        /// `AppMaster`'s number for it.
        id: u32,
        /// What.
        order: guard::action::Order,
    },
    /// Goes on when every order is answered and every program has ended.
    AwaitEnds,
    /// Neither reads nor asks for so long.
    Sleep {
        /// Milliseconds.
        ms: u32,
    },
}

/// On which terms a program runs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Terms {
    /// It is told to end after so many milliseconds; 0: never.
    pub wall_ms: u32,
    /// And is killed so much later.
    pub grace_ms: u32,
    /// It waits before it executes.
    pub sync: bool,
}

impl Terms {
    /// So much time.
    pub const fn wall(wall_ms: u32) -> Self {
        Self { wall_ms, grace_ms: 0, sync: false }
    }

    /// When one that begins now is told to end.
    pub(crate) fn late_ms(self, now_ms: u64) -> u64 {
        match self.wall_ms {
            0 => u64::MAX,
            ms => now_ms + u64::from(ms),
        }
    }
}

/// What a program does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Does {
    /// Exits with this status.
    Exit(u8),
    /// Ends by this signal, of its own doing.
    Crash(u8),
    /// Waits for its end.
    Wait,
    /// The same, and SIGTERM is nothing to it.
    Ignore,
    /// Waits, and so does a child in its process group.
    WaitInTwo,
    /// Makes a call that its filter forbids, and waits for the answer.
    Forbidden,
    /// Exits, and leaves a child in a session of its own that goes on.
    Linger,
    /// Leaves child after child to PID 1, which end; and waits.
    Orphan(u8),
}

/// Programs that run in one rocker here: few, so that it is full soon.
pub(crate) const PROGRAMS_MAX: usize = 3;

/// Orders of all kinds: programs with all ends; signals, in and out of time; an open end;
/// a caller that does not read; programs that wait, are let go, or not; that are warned.
pub const ORDERS: [&[Task]; 7] = [
    &[
        order(9, Order::Configure),
        exec(1, Does::Exit(0), 0),
        exec(2, Does::Orphan(3), 100),
        exec(3, Does::Linger, 0),
        exec(4, Does::Exit(1), 0),
        order(8, Order::Open),
        exec(2, Does::Exit(0), 0),
        Task::AwaitEnds,
        exec(5, Does::WaitInTwo, 50),
        Task::AwaitEnds,
        exec(6, Does::WaitInTwo, 0),
        order(10, Order::Reset),
        exec(5, Does::Exit(0), 0),
        Task::AwaitEnds,
    ],
    &[
        exec(1, Does::Wait, 0),
        exec(2, Does::WaitInTwo, 0),
        exec(3, Does::Wait, 1_000),
        signal(Some(1), 15),
        signal(Some(2), 9),
        signal(None, 9),
        Task::AwaitEnds,
        signal(Some(1), 15),
        signal(None, 9),
        Task::Ping,
        order(7, Order::Delete),
        Task::AwaitEnds,
    ],
    &[Task::Ping, exec(1, Does::Wait, 0), exec(2, Does::Crash(11), 0), signal(Some(9), 15)],
    &[
        exec(1, Does::Wait, 0),
        Task::Ping,
        Task::Ping,
        Task::Ping,
        Task::Sleep { ms: 6_000 },
        Task::AwaitEnds,
    ],
    &[
        waiting(1, Does::Exit(2), 0),
        waiting(2, Does::WaitInTwo, 50),
        waiting(3, Does::Wait, 0),
        go(1),
        go(3),
        go(3),
        signal(Some(3), 9),
        Task::AwaitEnds,
        go(1),
        waiting(4, Does::Wait, 0),
        Task::Ping,
    ],
    &[warned(1, Does::Wait), warned(2, Does::Ignore), warned(3, Does::Exit(0)), Task::AwaitEnds],
    &[
        exec(1, Does::Forbidden, 0),
        waiting(2, Does::Forbidden, 0),
        warned(3, Does::Forbidden),
        go(2),
        Task::AwaitEnds,
        exec(4, Does::Forbidden, 0),
        signal(Some(4), 9),
        Task::AwaitEnds,
    ],
];

/// An owner that knows of all its programs, and leaves them.
pub const LEFT: &[Task] = &[
    exec(1, Does::Wait, 0),
    exec(2, Does::WaitInTwo, 0),
    Task::Sleep { ms: 1 },
    // Whatever is there to be heard is heard first.
    Task::Ping,
];

/// Those who attach: with programs of all kinds that they leave behind, with an answer to await,
/// and one more than there is room for.
pub const VISITS: &[&[Task]] = &[
    &[waiting(1, Does::WaitInTwo, 0), exec(2, Does::Exit(3), 0), signal(Some(7), 15), Task::Ping],
    &[exec(1, Does::Exit(0), 0), order(3, Order::Open), Task::AwaitEnds, Task::Sleep { ms: 7_000 }],
    &[Task::Ping, Task::AwaitEnds],
];

/// Those who attach to a rocker whose launcher leaves: who takes over what it has left, waits for
/// its end, or leaves it once more; when there is something, and when there is nothing.
pub const HEIRS: &[&[Task]] = &[
    &[Task::Sleep { ms: 20 }, order(1, Order::Adopt), signal(Some(1), 15), Task::AwaitEnds],
    &[
        Task::Sleep { ms: 20 },
        order(1, Order::Adopt),
        order(2, Order::Adopt),
        signal(Some(2), 15),
        Task::AwaitEnds,
    ],
    &[
        order(1, Order::Adopt),
        Task::Sleep { ms: 30 },
        order(1, Order::Adopt),
        exec(2, Does::Exit(0), 0),
        Task::Ping,
    ],
];

const fn exec(id: u32, does: Does, wall_ms: u32) -> Task {
    Task::Exec { id, does, terms: Terms::wall(wall_ms) }
}

const fn warned(id: u32, does: Does) -> Task {
    Task::Exec { id, does, terms: Terms { wall_ms: 50, grace_ms: 40, sync: false } }
}

const fn waiting(id: u32, does: Does, wall_ms: u32) -> Task {
    Task::Exec { id, does, terms: Terms { wall_ms, grace_ms: 0, sync: true } }
}

const fn go(id: u32) -> Task {
    Task::Go { id }
}

const fn order(id: u32, order: Order) -> Task {
    Task::Do { id, order }
}

const fn signal(id: Option<u32>, signal: u8) -> Task {
    Task::Signal { id, signal }
}

/// What ends an App: both ends of life in the documents, and two more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// It comes to its own end, at once.
    ByItself,
    /// root.8: `AppMaster` stops it.
    StopAll,
    /// root.10: `AppMaster` kills its guard.
    KillGuard,
    /// root.10 for whoever knows the name only: asks the master for it.
    KillByName,
}

impl End {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ByItself, Self::StopAll, Self::KillGuard, Self::KillByName];
}

impl App {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Child, Self::Daemon, Self::Guest];
}

impl Launch {
    /// Without overlays: the shortest there is.
    pub const BARE: Self = Self {
        library: Library::Rust,
        dirs: 0,
        user: None,
        caller: ROOT,
        auto: false,
        trace: false,
        data: 0,
        host_mount: false,
        host_dev: false,
        limited: false,
        landlock: false,
        forbidden: false,
        exec_dir: true,
        package: 0,
        good_package: true,
        slow_ms: 0,
        app: App::Plain,
        orders: None,
        greets: true,
        deceives: false,
        visits: &[],
        stays: false,
        end: End::StopAll,
        after: None,
        timeout_ms: 5_000,
    };

    /// A rocker that takes these orders.
    pub const fn open(orders: &'static [Task]) -> Self {
        Self { orders: Some(orders), ..Self::BARE }
    }

    /// With so many overlays, the first of which hides a host mount and has to hold the exec dir.
    pub const fn overlaid(dirs: usize) -> Self {
        Self { dirs, host_mount: dirs > 1, exec_dir: dirs == 0, ..Self::BARE }
    }

    /// With all top directories of the host overlaid.
    pub const fn auto() -> Self {
        Self { auto: true, ..Self::overlaid(DIRECTORIES.len()) }
    }

    /// What its rocker lives by.
    pub(crate) const fn life(&self) -> Life {
        match (self.orders, self.stays) {
            (None, _) => Life::Processes,
            (Some(_), false) => Life::Owner,
            (Some(_), true) => Life::OwnerThenProcesses,
        }
    }

    /// The App's uid and gid.
    pub(crate) fn id(&self, launch: usize) -> u32 {
        self.user.unwrap_or(id_of(launch))
    }

    /// With limits and a data dir.
    pub const fn limited() -> Self {
        Self { limited: true, ..Self::overlaid(1) }
    }

    pub(crate) fn limits(&self) -> Limits<'static> {
        Limits { pids: self.limited.then_some(32), ..Limits::default() }
    }

    pub(crate) const fn has_data_dir(&self) -> bool {
        self.dirs > 0
    }

    pub(crate) fn directories(&self) -> &'static [&'static str] {
        &DIRECTORIES[..self.dirs.min(DIRECTORIES.len())]
    }

    /// overlay.0: what is to be put in its place, in the order in which that must be done.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> + use<> {
        let host = (self.host_mount && self.dirs > 0).then_some(Place::HostMount);
        let dirs = self.directories().iter().map(|&at| Place::Directory { at });
        let (first, rest) = (dirs.clone().take(1), dirs.skip(1));
        first.chain(host).chain(rest)
    }

    /// The second directory lies on a mount of its own where there are three or more.
    pub(crate) const fn layers(&self) -> u16 {
        match self.dirs {
            0 => 0,
            1 | 2 => 1,
            _ => 2,
        }
    }

    /// Which layer a directory is a part of.
    pub(crate) fn layer_of(&self, at: &str) -> u16 {
        u16::from(self.layers() == 2 && at == DIRECTORIES[1])
    }
}

/// Whom the policy lets do everything.
pub const ROOT: u32 = 0;

/// Who may have two rockers at once; who may put none where packages are mounted here; and a
/// caller that the policy does not name is anybody else.
pub const USERS: [u32; 2] = [500, 501];

/// The package that is no image.
pub const TEXT_PACKAGE: u8 = 8;

/// The package that root alone can open.
pub const PRIVATE_PACKAGE: u8 = 9;

impl Launch {
    /// The request, as far as rules and policy look at it.
    pub(crate) fn request(&self, launch: usize) -> Request<'static> {
        let path =
            |text: &'static str| Path::new(text.as_bytes()).unwrap_or_else(|_| unreachable!());
        let overlays = match self.auto {
            true => Overlays::AllTopDirs,
            false => Overlays::Dirs(self.directories().iter().map(|&at| path(at)).collect()),
        };
        Request {
            app_id: 0,
            uid: self.id(launch),
            gid: self.id(launch),
            package: path("/apps/app.sqfs"),
            exec_dir: path(EXEC_DIR),
            data_dir: self.has_data_dir().then(|| path("/srv/data")),
            overlays,
            ids: Ids::Identity,
            timeout_ms: u32::try_from(self.timeout_ms).unwrap_or(u32::MAX),
            trace: self.trace,
            options: Options {
                commanded: self.orders.is_some(),
                stays: self.stays,
                limits: self.limits(),
                dev: if self.host_dev { Dev::Host } else { Dev::Own },
                landlock: self.landlock,
                ..Options::default()
            },
        }
    }
}

/// What the policy says of the users.
pub(crate) fn policy() -> Vec<Allow> {
    let ids: Vec<u32> = (0..64).map(id_of).collect();
    let allow = |uid, exec_dir: &str| Allow {
        uid,
        packages: vec!["/apps".into()],
        exec_dirs: vec![exec_dir.into()],
        data_dirs: vec!["/srv".into()],
        run_as_uids: Some(ids.clone()),
        run_as_gids: Some(ids.clone()),
        max_rockers: 2,
        unconfined: false,
        devices: false,
        max_memory: None,
        max_pids: None,
        max_cpu: None,
    };
    vec![allow(USERS[0], "/var/app"), allow(USERS[1], "/opt")]
}

/// Where overlay.1 attaches something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    Directory {
        at: &'static str,
    },
    /// [`HOST_MOUNT`], read-only.
    HostMount,
}

/// What there is to overlay. The package's place is below the first.
pub const DIRECTORIES: [&str; 16] = [
    "/var", "/home", "/usr", "/etc", "/root", "/opt", "/srv", "/bin", "/sbin", "/lib", "/lib64",
    "/mnt", "/media", "/boot", "/data", "/tmp",
];

/// What else lies there, and stays the host's.
pub(crate) const HOST_DIRECTORIES: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// Where a layer lies that nobody keeps, and on kernels that clone no part of it elsewhere.
pub(crate) const STAGE: &str = ".rocker/work";

/// A file system of the host's below the first of them.
pub(crate) const HOST_MOUNT: &str = "/var/cache";

/// Where packages are mounted.
pub(crate) const EXEC_DIR: &str = "/var/app/exec";

/// The App of a launch has this uid and gid, unless [`Launch::user`] says another.
fn id_of(launch: usize) -> u32 {
    1000_u32.saturating_add(u32::try_from(launch).unwrap_or(0))
}
