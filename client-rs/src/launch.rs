//! root.0: what a caller asks for, checked before anything is sent.

use core::time::Duration;
use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use protocol::limits::TIMEOUT_MS_DEFAULT;
use protocol::{Dev, Ids, Item, Limits, Options, Overlays, Request, Rule};

use crate::action::Scene;
use crate::enter::{App, Entry};
use crate::error::{Error, printable};
use crate::linux::{ClientDriver, Story, Way};
use crate::machine::Client;
use crate::open::OpenRocker;
use crate::program::{Program, c_string};
use crate::rocker::Rocker;

/// Where the master listens.
pub const SOCKET: &str = "/run/rocker/master.sock";

/// Where a package is mounted unless the caller says otherwise. The master makes it.
pub const EXEC_DIR: &str = "/run/rocker/app";

/// A launch to be: which package, as whom, where.
///
/// ```no_run
/// use rocker_client::{Launch, Program};
///
/// let launch = Launch::new("/apps/hello.sqfs").uid(1000).gid(1000);
/// let mut rocker = launch.spawn(&Program::new("bin/hello"))?;
/// let status = rocker.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Launch {
    app_id: u32,
    uid: u32,
    gid: u32,
    ids: Ids,
    package: PathBuf,
    exec_dir: PathBuf,
    data_dir: Option<PathBuf>,
    overlay_dirs: Vec<PathBuf>,
    overlay_all: bool,
    volatile: bool,
    timeout: Duration,
    socket: PathBuf,
    trace: bool,
    stays: bool,
    seccomp: Seccomp,
    user_namespaces: bool,
    host_dev: bool,
    /// Each ended by NUL.
    devices: Vec<u8>,
    landlock: bool,
    quota: Quota,
}

/// Which system calls an App may make. All but the default is for whom the master's policy lets.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Seccomp {
    /// Those that a process without privileges has a use for; the others fail with `EPERM`, those
    /// newer than the list with `ENOSYS`.
    #[default]
    Default,
    /// Any.
    Unconfined,
    /// Any; the kernel's log tells of those that are not on the default list.
    Log,
    /// As this filter says: 1 to 4096 of `struct sock_filter` (`man 2 seccomp`), 8 bytes each,
    /// and no more than fit into a request of 32 KiB. It has to allow `execve`.
    Filter(Vec<u8>),
}

/// The limits of a rocker to be.
#[derive(Clone, Debug, Default)]
struct Quota {
    memory: Option<u64>,
    swap: Option<u64>,
    pids: Option<u32>,
    cpu_millis: Option<u32>,
    cpu_weight: Option<u16>,
    cpus: Option<String>,
    io_read: Option<u64>,
    io_write: Option<u64>,
}

impl Launch {
    /// A launch of this squashfs package, as the caller's own user and group. All paths are
    /// absolute.
    pub fn new(package: impl AsRef<Path>) -> Self {
        Self {
            app_id: 0,
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
            ids: Ids::Identity,
            package: package.as_ref().to_owned(),
            exec_dir: EXEC_DIR.into(),
            data_dir: None,
            overlay_dirs: Vec::new(),
            overlay_all: false,
            volatile: false,
            timeout: Duration::from_millis(u64::from(TIMEOUT_MS_DEFAULT)),
            socket: SOCKET.into(),
            trace: false,
            seccomp: Seccomp::Default,
            user_namespaces: false,
            host_dev: false,
            devices: Vec::new(),
            landlock: false,
            stays: false,
            quota: Quota::default(),
        }
    }

    /// The caller's own number for the App; ROCKER only shows it.
    #[must_use]
    pub fn app_id(mut self, app_id: u32) -> Self {
        self.app_id = app_id;
        self
    }

    /// The App's user; never root.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = uid;
        self
    }

    /// The App's only group; never root's.
    #[must_use]
    pub fn gid(mut self, gid: u32) -> Self {
        self.gid = gid;
        self
    }

    /// What the App's uid and gid are called inside; else what they are. 0 is no more than any
    /// other: no program has a capability. Only for a rocker that is [opened](Self::open).
    #[must_use]
    pub fn ids_inside(mut self, uid: u32, gid: u32) -> Self {
        self.ids = Ids::Inside { uid, gid };
        self
    }

    /// Where the package is mounted; else [`EXEC_DIR`].
    #[must_use]
    pub fn exec_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.exec_dir = dir.as_ref().to_owned();
        self
    }

    /// Where the overlays keep what the App writes. It exists, and no other living rocker uses
    /// it. For root it may lie behind links that are root's, for others behind none.
    #[must_use]
    pub fn data_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.data_dir = Some(dir.as_ref().to_owned());
        self
    }

    /// One more directory that the App sees as its own to write to; at most 16.
    #[must_use]
    pub fn overlay(mut self, dir: impl AsRef<Path>) -> Self {
        self.overlay_dirs.push(dir.as_ref().to_owned());
        self
    }

    /// Overlays every directory in `/` but `/proc`, `/sys`, `/dev` and `/run`, instead of those
    /// that are named.
    #[must_use]
    pub fn overlay_all(mut self) -> Self {
        self.overlay_all = true;
        self
    }

    /// Whether what the App writes to its overlays may be lost if the machine crashes: then
    /// nobody waits for a disk, neither the App in `fsync(2)` nor whoever waits for the rocker to
    /// be gone. After a crash, or a shutdown, a launch with the same data dir is an error: what
    /// is in it may be anything. A launch that is not volatile makes it durable again, in time.
    /// Takes Linux 5.10.
    #[must_use]
    pub fn volatile(mut self, volatile: bool) -> Self {
        self.volatile = volatile;
        self
    }

    /// How long the launch may take as a whole, 1 ms to 1 hour; else 5 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Where the master listens; else [`SOCKET`].
    #[must_use]
    pub fn socket(mut self, socket: impl AsRef<Path>) -> Self {
        self.socket = socket.as_ref().to_owned();
        self
    }

    /// Limits the memory of all processes in the rocker together, in bytes, at least 1 MiB. What
    /// they have in swap is not part of it. When there is no more, and nothing to be had by
    /// dropping cached files, the kernel kills one of them.
    ///
    /// Every limit takes a cgroup controller of the host's; a launch fails without it.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.quota.memory = Some(bytes);
        self
    }

    /// Limits what they have in swap, in bytes; 0 is a limit. It goes with
    /// [`memory`](Self::memory) only.
    #[must_use]
    pub fn swap(mut self, bytes: u64) -> Self {
        self.quota.swap = Some(bytes);
        self
    }

    /// Limits how many processes and threads there are at once: beyond it `fork` fails with
    /// `EAGAIN`. [`spawn`](Self::spawn) and [`enter`](Self::enter) need one more for a moment.
    #[must_use]
    pub fn pids(mut self, count: u32) -> Self {
        self.quota.pids = Some(count);
        self
    }

    /// Limits their processor time, in thousandths of one processor, from 10 on: with 1500 they
    /// run for 150 ms in each 100 ms, on two or more processors.
    #[must_use]
    pub fn cpu_millis(mut self, millis: u32) -> Self {
        self.quota.cpu_millis = Some(millis);
        self
    }

    /// Their share of the processors where others want them too, from 1 to 10000; others have 100.
    #[must_use]
    pub fn cpu_weight(mut self, weight: u16) -> Self {
        self.quota.cpu_weight = Some(weight);
        self
    }

    /// The processors on which they run, as a list: `0-1,3`.
    #[must_use]
    pub fn cpus(mut self, list: impl Into<String>) -> Self {
        self.quota.cpus = Some(list.into());
        self
    }

    /// Limits what they read from the disk of the package, and from that of the data dir if it is
    /// another, in bytes a second for each, at least 64 KiB. What the host has in memory is not
    /// read from there. Other disks are not limited. A file system without a disk of its own, as
    /// `tmpfs`, `overlay` and `btrfs`, is refused.
    #[must_use]
    pub fn io_read(mut self, bytes_a_second: u64) -> Self {
        self.quota.io_read = Some(bytes_a_second);
        self
    }

    /// Limits what they write there, in the same way. It takes cgroups of version 2: those of
    /// version 1 do not hold what is written and not waited for.
    #[must_use]
    pub fn io_write(mut self, bytes_a_second: u64) -> Self {
        self.quota.io_write = Some(bytes_a_second);
        self
    }

    /// Whether to record every actor's steps, for [`Rocker::trace`] and [`Error::trace`].
    #[must_use]
    pub fn trace(mut self, trace: bool) -> Self {
        self.trace = trace;
        self
    }

    /// Which system calls the App may make; else [`Seccomp::Default`].
    #[must_use]
    pub fn seccomp(mut self, seccomp: Seccomp) -> Self {
        self.seccomp = seccomp;
        self
    }

    /// Whether the App may make user namespaces of its own, for sandboxes within this one.
    #[must_use]
    pub fn user_namespaces(mut self, may: bool) -> Self {
        self.user_namespaces = may;
        self
    }

    /// Whether Landlock bounds each program in the rocker as a second wall (`man 7 landlock`). Then
    /// it can write only to its overlays, to what its [configuration](crate::Conf) gives it to
    /// write to, to its `/dev` and `/proc`, and to what it has open from the start; whatever
    /// directory of the host's it may get hold of; and it can connect to no abstract socket but
    /// those of its own and its children's. Takes Linux 6.12, and fails without.
    #[must_use]
    pub fn landlock(mut self, landlock: bool) -> Self {
        self.landlock = landlock;
        self
    }

    /// Shows the App the host's `/dev`, with the shared memory and terminals of all others in it.
    /// Else it has one of its own: null, zero, full, random, urandom, tty, and terminals and 64 MiB
    /// of shared memory that no other rocker has. The master's policy has to allow it.
    #[must_use]
    pub fn host_dev(mut self) -> Self {
        self.host_dev = true;
        self
    }

    /// Puts a device of the host's into the App's own `/dev`: one below `/dev`, or a link there
    /// that leads to one, at the same path; at most 32. It has the owner and the mode that it has
    /// now, and no others: the App may do with it what its user may. The master's policy has to
    /// allow it.
    #[must_use]
    pub fn device(mut self, path: impl AsRef<Path>) -> Self {
        self.devices.extend_from_slice(path.as_ref().as_os_str().as_bytes());
        self.devices.push(0);
        self
    }

    /// Whether a rocker that is [opened](Self::open) outlives its [`OpenRocker`]: it ends with
    /// the last of its processes then, as one that is entered does. See
    /// [`detach`](OpenRocker::detach).
    #[must_use]
    pub fn stays(mut self, stays: bool) -> Self {
        self.stays = stays;
        self
    }

    /// Starts a rocker and executes `program` in it, as the caller's child.
    ///
    /// Technically: sends the request, receives the guard's pidfd, and from it enters the
    /// guard's namespaces in a helper process, which starts the App and is gone when this
    /// returns. It takes `CAP_SYS_ADMIN`, `CAP_SETUID` and `CAP_SETGID`. Any number of threads
    /// may do it; none of the caller's descriptors, signal handlers and ids are changed, and
    /// what it opens for itself is close-on-exec. A caller that waits for any child may see the
    /// helper go.
    ///
    /// # Errors
    ///
    /// One that names the step, whoever it failed for. Nothing of the launch is left then.
    pub fn spawn(&self, program: &Program) -> Result<Rocker, Error> {
        self.run(None, App::Program(program.lay_out()?), Some(program))
    }

    /// As [`spawn`](Self::spawn), over a connection to a master that there is already:
    /// a `SOCK_SEQPACKET` socket on which nothing has been said.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub fn spawn_over(&self, connection: OwnedFd, program: &Program) -> Result<Rocker, Error> {
        self.run(Some(connection), App::Program(program.lay_out()?), Some(program))
    }

    /// root.1 to root.7.
    pub(crate) fn run(
        &self,
        connection: Option<OwnedFd>,
        app: App<'_>,
        program: Option<&Program>,
    ) -> Result<Rocker, Error> {
        let request = self.request(false)?;
        let directory = self.directory(program)?;
        let [socket, cwd, path] = [
            self.socket.as_os_str().as_bytes(),
            directory.to_bytes(),
            program.map_or(b"callback", |program| program.path().as_bytes()),
        ]
        .map(printable);
        let scene = Scene {
            socket: connection.is_none().then_some(&*socket),
            request: &request,
            directory: &cwd,
            program: &path,
            guard_pid: 0,
            limited: false,
        };
        let entry = Entry {
            uid: self.uid,
            gid: self.gid,
            directory,
            trace: self.trace,
            filter: Vec::new(),
            ruleset: None,
            app,
        };
        let way = connection.map_or(Way::Socket(&self.socket), Way::Connection);
        let mut client = Client::new();
        let mut driver = ClientDriver::new(way, scene, Some(entry));
        protocol::run(&mut client, &mut driver);
        let result = client.result();
        let (pidfds, Story { command, at_exec, trace }) =
            driver.finish(matches!(result, Some(Ok(_))));
        match (result, pidfds) {
            (Some(Ok(started)), Some(pidfds)) => Ok(Rocker::new(started, pidfds, trace)),
            (Some(Err(kind)), _) => Err(Error::new(kind)
                .about(self.subject(kind))
                .during(&command)
                .at_exec(at_exec)
                .traced(trace)),
            other => unreachable!("a launch ends with both pidfds or an error, not {other:?}"),
        }
    }

    /// Starts a rocker that takes orders: programs are started in it by its guard, as often as is
    /// wanted, and it ends with the [`OpenRocker`] unless it [stays](Self::stays). So nothing of
    /// the caller's enters it, and the caller needs no privilege but the master's permission.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub fn open(&self) -> Result<OpenRocker, Error> {
        self.run_open(None)
    }

    /// As [`open`](Self::open), over a connection to a master that there is already.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub fn open_over(&self, connection: OwnedFd) -> Result<OpenRocker, Error> {
        self.run_open(Some(connection))
    }

    fn run_open(&self, connection: Option<OwnedFd>) -> Result<OpenRocker, Error> {
        let request = self.request(true)?;
        let socket = printable(self.socket.as_os_str().as_bytes());
        let scene = Scene {
            socket: connection.is_none().then_some(&*socket),
            request: &request,
            directory: "",
            program: "",
            guard_pid: 0,
            limited: false,
        };
        let mut client = Client::to_take_orders();
        let way = connection.map_or(Way::Socket(&self.socket), Way::Connection);
        let mut driver = ClientDriver::new(way, scene, None);
        protocol::run(&mut client, &mut driver);
        let result = client.result();
        let (descriptors, Story { command, trace, .. }) = driver.finish_open();
        match (result, descriptors) {
            (Some(Ok(started)), Some((connection, guard))) => {
                Ok(OpenRocker::new(started, connection, guard, trace).staying(self.stays))
            }
            (Some(Err(kind)), _) => {
                Err(Error::new(kind).about(self.subject(kind)).during(&command).traced(trace))
            }
            other => unreachable!("a launch ends with its connection or an error, not {other:?}"),
        }
    }

    fn request(&self, commanded: bool) -> Result<Request<'_>, Error> {
        let mut dirs = heapless::Vec::new();
        for (index, dir) in (0..).zip(&self.overlay_dirs) {
            let item = Item::OverlayDir(index);
            let dir_path = checked(dir, item)?;
            if dirs.push(dir_path).is_err() {
                return Err(Error::invalid(Rule::TooMany, item, dir.as_os_str().as_bytes()));
            }
        }
        let request = Request {
            app_id: self.app_id,
            uid: self.uid,
            gid: self.gid,
            package: checked(&self.package, Item::Package)?,
            exec_dir: checked(&self.exec_dir, Item::ExecDir)?,
            data_dir: match &self.data_dir {
                Some(dir) => Some(checked(dir, Item::DataDir)?),
                None => None,
            },
            overlays: match self.overlay_all {
                true => Overlays::AllTopDirs,
                false => Overlays::Dirs(dirs),
            },
            ids: self.ids,
            timeout_ms: u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX),
            trace: self.trace,
            options: Options {
                commanded,
                stays: self.stays,
                volatile: self.volatile,
                user_namespaces: self.user_namespaces,
                seccomp: match &self.seccomp {
                    Seccomp::Default => protocol::Seccomp::Default,
                    Seccomp::Unconfined => protocol::Seccomp::Unconfined,
                    Seccomp::Log => protocol::Seccomp::Log,
                    Seccomp::Filter(bytes) => protocol::Seccomp::Filter(bytes),
                },
                limits: self.limits(),
                dev: self.dev(),
                landlock: self.landlock,
            },
        };
        match request.check() {
            Ok(()) => Ok(request),
            Err(kind) => Err(Error::new(kind).about(self.subject(kind))),
        }
    }

    /// Where the App starts: where its program says, else in its package.
    fn directory(&self, program: Option<&Program>) -> Result<CString, Error> {
        let dir = program.and_then(Program::directory).unwrap_or(&self.exec_dir);
        let dir = if dir.is_relative() { &self.exec_dir.join(dir) } else { dir };
        c_string(dir.as_os_str())
    }

    /// The host's has all devices.
    fn dev(&self) -> Dev<'_> {
        match protocol::Strings::new(&self.devices) {
            _ if self.host_dev => Dev::Host,
            Some(named) if !self.devices.is_empty() => Dev::With(named),
            _ => Dev::Own,
        }
    }

    fn limits(&self) -> Limits<'_> {
        let Quota { memory, swap, pids, cpu_millis, cpu_weight, ref cpus, io_read, io_write } =
            self.quota;
        let cpus = cpus.as_deref();
        Limits { memory, swap, pids, cpu_millis, cpu_weight, cpus, io_read, io_write }
    }

    /// The path or value that an error is about.
    fn subject(&self, kind: protocol::Error) -> String {
        let path = |path: &Path| printable(path.as_os_str().as_bytes());
        let protocol::Error::Invalid { item, .. } = kind else { return String::new() };
        let quota = &self.quota;
        match item {
            Item::Package => path(&self.package),
            Item::ExecDir => path(&self.exec_dir),
            Item::DataDir => self.data_dir.as_deref().map(path).unwrap_or_default(),
            Item::OverlayDir(index) => {
                self.overlay_dirs.get(usize::from(index)).map(|dir| path(dir)).unwrap_or_default()
            }
            Item::Uid => self.uid.to_string(),
            Item::Gid => self.gid.to_string(),
            Item::Timeout => format!("{} ms", self.timeout.as_millis()),
            Item::Request
            | Item::Name
            | Item::Program
            | Item::File
            | Item::Volatile
            | Item::Seccomp
            | Item::UserNamespaces => String::new(),
            Item::Device(index) => {
                let mut devices = self.devices.split(|&byte| byte == 0);
                devices.nth(index.into()).map(printable).unwrap_or_default()
            }
            Item::Dev => printable(&self.devices).trim_end_matches("\\u{0}").replace("\\u{0}", " "),
            Item::Memory => quota.memory.map(|bytes| bytes.to_string()).unwrap_or_default(),
            Item::Swap => quota.swap.map(|bytes| bytes.to_string()).unwrap_or_default(),
            Item::Pids => quota.pids.map(|count| count.to_string()).unwrap_or_default(),
            Item::Cpu => quota.cpu_millis.map(|it| format!("{it} m")).unwrap_or_default(),
            Item::CpuWeight => quota.cpu_weight.map(|it| it.to_string()).unwrap_or_default(),
            Item::IoRead => quota.io_read.map(|it| it.to_string()).unwrap_or_default(),
            Item::IoWrite => quota.io_write.map(|it| it.to_string()).unwrap_or_default(),
            Item::Cpus => {
                quota.cpus.as_deref().map(|list| printable(list.as_bytes())).unwrap_or_default()
            }
        }
    }
}

pub(crate) fn checked(path: &Path, item: Item) -> Result<protocol::Path<'_>, Error> {
    let bytes = OsStr::as_bytes(path.as_os_str());
    protocol::Path::new(bytes).map_err(|rule| Error::invalid(rule, item, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch() -> Launch {
        Launch::new("/apps/x.sqfs").uid(1000).gid(1000)
    }

    fn refusal(launch: &Launch) -> String {
        launch.request(false).unwrap_err().to_string()
    }

    #[test]
    fn a_request_says_what_was_asked_for() {
        let launch = launch().app_id(7).data_dir("/d").overlay("/usr").overlay("/var").trace(true);
        let request = launch.request(false).unwrap();
        assert_eq!((request.app_id, request.uid, request.gid), (7, 1000, 1000));
        assert_eq!(request.exec_dir.as_bytes(), EXEC_DIR.as_bytes());
        assert_eq!(request.timeout_ms, 5000);
        let Overlays::Dirs(dirs) = request.overlays else { panic!("dirs were named") };
        assert_eq!(dirs.len(), 2);
        assert!(matches!(
            launch.clone().overlay_all().request(false).unwrap().overlays,
            Overlays::AllTopDirs
        ));
    }

    #[test]
    fn what_breaks_a_rule_is_named() {
        assert_eq!(refusal(&Launch::new("x.sqfs")), "package x.sqfs: the path must be absolute");
        assert_eq!(refusal(&launch().uid(0)), "uid 0: an App never runs as root (id 0)");
        assert!(refusal(&launch().gid(u32::MAX)).starts_with("gid 4294967295: "));
        assert_eq!(
            refusal(&launch().exec_dir("/a/../b")),
            "exec dir /a/../b: the path must not contain \"..\""
        );
        assert!(refusal(&launch().data_dir("/d\0")).starts_with("data dir /d\\u{0}: "));
        assert!(refusal(&launch().timeout(Duration::ZERO)).starts_with("deadline 0 ms: "));
        for (launch, wanted) in [
            (launch().memory(7), "memory limit 7: it must be at least 1 MiB"),
            (launch().pids(0), "process limit 0: it must lie between 1 and 4194304"),
            (launch().cpu_millis(9), "cpu limit 9 m: it must lie between 0.01 and 1000 processors"),
            (launch().cpu_weight(0), "cpu weight 0: it must lie between 1 and 10000"),
            (launch().io_read(9), "read limit 9: it must be at least 64 KiB a second"),
            (launch().volatile(true), "volatile: it is about overlays, and there is none"),
            (
                launch().ids_inside(0, 0),
                "uid 1000: ids inside, and limits of who is not root, are for rockers that take \
                 orders",
            ),
        ] {
            assert_eq!(refusal(&launch), wanted);
        }
        assert_eq!(
            refusal(&launch().cpus("1-\n")),
            "cpus 1-\\n: it must be a list of processors, such as 0-1,3"
        );
        assert_eq!(
            refusal(&launch().overlay("/usr")),
            "data dir: overlays need a data dir to keep their layers in"
        );
        let many = (0..17).fold(launch().data_dir("/d"), |l, n| l.overlay(format!("/o{n}")));
        assert_eq!(refusal(&many), "overlay dir /o16: at most 16 of them are possible");
        assert!(
            refusal(&launch().data_dir("/d").overlay("/usr").overlay("/proc"))
                .starts_with("overlay dir /proc: ")
        );
    }

    #[test]
    fn the_app_starts_in_its_package() {
        let launch = launch().exec_dir("/x");
        let directory = |program: Option<&Program>| launch.directory(program).unwrap();
        assert_eq!(directory(None).as_c_str(), c"/x");
        assert_eq!(directory(Some(&Program::new("a"))).as_c_str(), c"/x");
        assert_eq!(directory(Some(&Program::new("a").cwd("/y"))).as_c_str(), c"/y");
        assert_eq!(directory(Some(&Program::new("a").cwd("y"))).as_c_str(), c"/x/y");
    }
}
