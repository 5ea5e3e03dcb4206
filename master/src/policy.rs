//! Who may ask for what: `/etc/rocker/master.toml`, and the kernel's word on who is asking.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path as FilePath, PathBuf};

use nix::sys::socket::{getsockopt, sockopt};
use protocol::toml::Wrong;
use protocol::{Dev, Error, Item, Limits, Path, Request, Rule, Seccomp};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Deserialize;

use crate::namespace::Namespace;
use crate::package::Reach;

/// The configuration. Every key has a default; an unknown key is an error.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen.
    pub socket: PathBuf,
    /// The guard's program; without it, the one installed with the master.
    pub guard: Option<PathBuf>,
    /// Rockers alive at once.
    pub max_rockers: usize,
    /// Connections that are not yet a living rocker.
    pub max_launches: usize,
    /// Packages whose mounts are kept for further rockers, while they have one and for a while
    /// after; each takes a descriptor.
    pub max_packages: usize,
    /// That while, in milliseconds. Meanwhile loop device and file system of a package stay.
    pub package_idle_ms: u32,
    /// Data dirs whose overlays are kept for the next launch, while they have a rocker and for a
    /// while after; each takes a descriptor for each host mount that is overlaid, and one more.
    pub max_overlays: usize,
    /// That while, in milliseconds. Meanwhile the data dir stays locked, and its disk in use.
    pub overlay_idle_ms: u32,
    /// Guards that wait for a launch, at most: it need not wait for theirs to be cloned. There are
    /// so many only after as many launches at once.
    pub ready_guards: usize,
    /// The cgroup below which those of rockers are made, in every hierarchy.
    pub cgroup: PathBuf,
    /// What others than root may do.
    pub allow: Vec<Allow>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: "/run/rocker/master.sock".into(),
            guard: None,
            max_rockers: 4096,
            max_launches: 256,
            max_packages: 64,
            package_idle_ms: 2_000,
            max_overlays: 8,
            overlay_idle_ms: 2_000,
            ready_guards: 4,
            cgroup: "/rocker".into(),
            allow: vec![],
        }
    }
}

/// What one user may do beyond nothing.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// The caller.
    pub uid: u32,
    /// Directories whose packages it may run.
    pub packages: Vec<PathBuf>,
    /// Directories in which its exec dirs may be.
    pub exec_dirs: Vec<PathBuf>,
    /// Directories in which its data dirs may be.
    #[serde(default)]
    pub data_dirs: Vec<PathBuf>,
    /// Whom its Apps may run as; itself alone if not said.
    pub run_as_uids: Option<Vec<u32>>,
    /// The same for groups.
    pub run_as_gids: Option<Vec<u32>>,
    /// Its rockers alive at once.
    #[serde(default = "a_few")]
    pub max_rockers: usize,
    /// Whether its Apps may make other system calls than the default filter lets them, and user
    /// namespaces.
    #[serde(default)]
    pub unconfined: bool,
    /// Whether its Apps may see devices of the host's.
    #[serde(default)]
    pub devices: bool,
    /// The most memory that one of its rockers may be limited to, in bytes; whoever asks for no
    /// limit has this one.
    pub max_memory: Option<u64>,
    /// The same for processes.
    pub max_pids: Option<u32>,
    /// The same for processor time, in processors.
    pub max_cpu: Option<f64>,
}

impl Allow {
    /// The limits that nobody is beyond.
    fn limits(&self) -> Limits<'static> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        let millis = |cpu: f64| (cpu * 1000.0) as u32;
        let (memory, pids) = (self.max_memory, self.max_pids);
        Limits { memory, pids, cpu_millis: self.max_cpu.map(millis), ..Limits::default() }
    }
}

const fn a_few() -> usize {
    64
}

/// Connections of one user, other than root, that are not yet a living rocker.
const LAUNCHES_PER_USER_MAX: usize = 32;

/// The same for one that the policy does not name: room for a clear answer.
const LAUNCHES_PER_STRANGER_MAX: usize = 2;

/// The same for all of those together: one user may have thousands of uids (`man 5 subuid`).
const LAUNCHES_OF_STRANGERS_MAX: usize = 16;

/// What nobody but root can have written: whoever says who may do what may do all.
fn read_trusted(path: &FilePath) -> io::Result<String> {
    let mut file = File::open(path)?;
    let found = file.metadata()?;
    let others = if found.gid() == 0 { 0o002 } else { 0o022 };
    if found.is_file() && (found.uid() != 0 || found.mode() & others != 0) {
        return Err(io::Error::other("others than root can write to it: chown root, chmod go-w"));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Reads the configuration. A missing file is the default, unless it was asked for by name.
pub fn read_config(named: Option<&FilePath>) -> Result<Config, String> {
    let path = named.unwrap_or(FilePath::new("/etc/rocker/master.toml"));
    let cannot = |why: &dyn core::fmt::Display| format!("cannot read {}: {why}", path.display());
    let text = match read_trusted(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
            return Ok(Config::default());
        }
        Err(error) => return Err(cannot(&error)),
    };
    let config: Config = toml::from_str(&text).map_err(|error| {
        let at = error.span().map(|span| span.start);
        cannot(&Wrong { text: &text, at, message: error.message() })
    })?;
    let dirs = config
        .allow
        .iter()
        .flat_map(|allow| allow.packages.iter().chain(&allow.exec_dirs).chain(&allow.data_dirs));
    for dir in dirs.chain([&config.cgroup]) {
        Path::new(dir.as_os_str().as_bytes())
            .map_err(|rule| cannot(&format_args!("{}: {rule}", dir.display())))?;
    }
    for (index, allow) in config.allow.iter().enumerate() {
        allow.limits().check().map_err(|error| cannot(&error))?;
        // The second would say nothing.
        if config.allow.iter().take(index).any(|other| other.uid == allow.uid) {
            return Err(cannot(&format_args!("uid {} has two [[allow]]", allow.uid)));
        }
    }
    Ok(config)
}

/// Who is at the other end, by the kernel's word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caller {
    pub(crate) uid: u32,
    gid: u32,
    pid: i32,
}

impl Caller {
    /// These ids, as of this process.
    pub const fn new(uid: u32, gid: u32, pid: i32) -> Self {
        Self { uid, gid, pid }
    }

    /// Whoever called `connect(2)` or `socketpair(2)`, as of then (`SO_PEERCRED`).
    pub(crate) fn of(connection: &OwnedFd) -> nix::Result<Self> {
        let peer = getsockopt(connection, sockopt::PeerCredentials)?;
        Ok(Self::new(peer.uid(), peer.gid(), peer.pid()))
    }

    /// Whether it sits in the master's own user namespace. An App does not: an App whose uid
    /// the policy trusts must not start rockers from inside one, nor "root" of a container.
    ///
    /// # Errors
    ///
    /// `ESRCH`: it has ended, and its pid may be another's. Others are the kernel's, if it could
    /// not say: it is out of descriptors.
    pub(crate) fn is_at_home(
        &self,
        connection: &OwnedFd,
        proc: &OwnedFd,
        home: Namespace,
    ) -> Result<bool, rustix::io::Errno> {
        // In a PID namespace that this one does not see.
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(false) };
        // The pidfd of the very peer.
        let process = getsockopt(connection, sockopt::PeerPidfd).map_err(raw);
        let process = match process {
            // Before Linux 6.5 the best there is is its pid.
            Err(rustix::io::Errno::NOPROTOOPT) => pidfd_open(pid, PidfdFlags::empty()),
            answer => answer,
        };
        let ended = rustix::io::Errno::SRCH;
        let process = process.map_err(|errno| match errno {
            rustix::io::Errno::INVAL => ended,
            errno => errno,
        })?;
        Ok(Namespace::of(process.as_fd(), pid, proc)? == home)
    }
}

fn raw(errno: nix::errno::Errno) -> rustix::io::Errno {
    rustix::io::Errno::from_raw_os_error(errno as i32)
}

/// How many there are already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Rockers, and launches whose guard is cloned.
    pub rockers: usize,
    /// Those of this caller; root's are not counted.
    pub rockers_of_caller: usize,
    /// Launches under way, this one among them.
    pub launches: usize,
    /// Those of this caller.
    pub launches_of_caller: usize,
    /// Those of all whom the policy does not name.
    pub launches_of_strangers: usize,
}

impl Config {
    /// Whether one more connection may be served at all; the caller is one of `load`.
    /// Root is never kept out by others, and whom the policy does not know has next to nothing.
    pub fn admits(&self, caller: &Caller, load: Load) -> bool {
        let is_one_too_many = match self.allow_of(caller) {
            _ if caller.uid == 0 => return true,
            Some(_) => load.launches_of_caller > LAUNCHES_PER_USER_MAX,
            None => {
                load.launches_of_caller > LAUNCHES_PER_STRANGER_MAX
                    || load.launches_of_strangers > LAUNCHES_OF_STRANGERS_MAX
            }
        };
        load.launches <= self.max_launches && !is_one_too_many
    }

    /// Whether this caller may have one more rocker.
    pub(crate) fn has_room(&self, caller: &Caller, load: Load) -> bool {
        let has_too_many = match self.allow_of(caller) {
            Some(allow) if caller.uid != 0 => load.rockers_of_caller >= allow.max_rockers,
            _ => false,
        };
        load.rockers < self.max_rockers && !has_too_many
    }

    /// Whether anybody but root may ask for anything.
    pub(crate) fn is_for_root_alone(&self) -> bool {
        self.allow.is_empty()
    }

    /// root.1: whether this caller may ask this.
    ///
    /// # Errors
    ///
    /// The rule that forbids it.
    pub fn check(
        &self,
        caller: &Caller,
        request: &Request<'_>,
        load: Load,
    ) -> protocol::error::Result<()> {
        request.check()?;
        let refused = |rule, item| Err(Error::Invalid { rule, item });
        if !self.has_room(caller, load) {
            return refused(Rule::TooManyRockers, Item::Request);
        }
        if caller.uid == 0 {
            return Ok(());
        }
        let Some(allow) = self.allow_of(caller) else {
            return refused(Rule::NotListed, Item::Request);
        };
        let may = |ids: &Option<Vec<u32>>, own, id| {
            ids.as_ref().map_or(id == own, |ids| ids.contains(&id))
        };
        if !may(&allow.run_as_uids, caller.uid, request.uid) {
            return refused(Rule::NotAllowed, Item::Uid);
        }
        if !may(&allow.run_as_gids, caller.gid, request.gid) {
            return refused(Rule::NotAllowed, Item::Gid);
        }
        if holding(&allow.exec_dirs, request.exec_dir).is_none() {
            return refused(Rule::NotAllowed, Item::ExecDir);
        }
        if request.options.seccomp != Seccomp::Default && !allow.unconfined {
            return refused(Rule::NotAllowed, Item::Seccomp);
        }
        if request.options.user_namespaces && !allow.unconfined {
            return refused(Rule::NotAllowed, Item::UserNamespaces);
        }
        if request.options.dev != Dev::Own && !allow.devices {
            return refused(Rule::NotAllowed, Item::Dev);
        }
        let (most, asked) = (allow.limits(), request.options.limits);
        for (more, item) in [
            (is_more(asked.memory, most.memory), Item::Memory),
            (is_more(asked.pids, most.pids), Item::Pids),
            (is_more(asked.cpu_millis, most.cpu_millis), Item::Cpu),
        ] {
            if more {
                return refused(Rule::NotAllowed, item);
            }
        }
        // Whoever enters gets root's own way into the cgroups, and it is one for any process.
        match first(&self.limits(caller, asked)) {
            Some(item) if !request.options.commanded => refused(Rule::NotCommanded, item),
            _ => Ok(()),
        }
    }

    /// The limits of a caller's rocker: its own, and the policy's where it has none.
    pub fn limits<'a>(&self, caller: &Caller, asked: Limits<'a>) -> Limits<'a> {
        let allow = self.allow_of(caller).filter(|_| caller.uid != 0);
        let most = allow.map(Allow::limits).unwrap_or_default();
        Limits {
            memory: asked.memory.or(most.memory),
            pids: asked.pids.or(most.pids),
            cpu_millis: asked.cpu_millis.or(most.cpu_millis),
            ..asked
        }
    }

    /// How far the path of the caller's package may lead.
    pub(crate) fn package_reach(
        &self,
        caller: &Caller,
        path: Path<'_>,
    ) -> Result<Reach<'_>, Error> {
        self.reach(caller, path, Item::Package)
    }

    /// The same for its data dir.
    pub(crate) fn data_reach(&self, caller: &Caller, path: Path<'_>) -> Result<Reach<'_>, Error> {
        self.reach(caller, path, Item::DataDir)
    }

    fn reach(&self, caller: &Caller, path: Path<'_>, item: Item) -> Result<Reach<'_>, Error> {
        if caller.uid == 0 {
            return Ok(Reach::Anywhere);
        }
        self.allow_of(caller)
            .map(|allow| if item == Item::Package { &allow.packages } else { &allow.data_dirs })
            .and_then(|dirs| holding(dirs, path))
            .map(Reach::Below)
            .ok_or(Error::Invalid { rule: Rule::NotAllowed, item })
    }

    /// Whether it is root, or named.
    pub fn knows(&self, caller: &Caller) -> bool {
        caller.uid == 0 || self.allow_of(caller).is_some()
    }

    fn allow_of(&self, caller: &Caller) -> Option<&Allow> {
        self.allow.iter().find(|allow| allow.uid == caller.uid)
    }
}

fn is_more<T: PartialOrd>(asked: Option<T>, most: Option<T>) -> bool {
    asked.zip(most).is_some_and(|(asked, most)| asked > most)
}

/// A limit, if there is any.
fn first(limits: &Limits<'_>) -> Option<Item> {
    let all = [
        (limits.memory.is_some(), Item::Memory),
        (limits.pids.is_some(), Item::Pids),
        (limits.cpu_millis.is_some(), Item::Cpu),
        (limits.cpu_weight.is_some(), Item::CpuWeight),
        (limits.cpus.is_some(), Item::Cpus),
        (limits.io_read.is_some(), Item::IoRead),
        (limits.io_write.is_some(), Item::IoWrite),
    ];
    all.into_iter().find_map(|(there, item)| there.then_some(item))
}

/// The directory of the list that `path` lies in, by its names.
fn holding<'a>(dirs: &'a [PathBuf], path: Path<'_>) -> Option<Path<'a>> {
    dirs.iter()
        .filter_map(|dir| Path::new(dir.as_os_str().as_bytes()).ok())
        .find(|&dir| path.is_at_or_below(dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Ids, Overlays};

    const ROBOT: Caller = Caller { uid: 1000, gid: 1000, pid: 1 };

    fn config() -> Config {
        toml::from_str(
            r#"
            max_rockers = 3
            [[allow]]
            uid = 1000
            packages = ["/apps"]
            exec_dirs = ["/opt/apps"]
            data_dirs = ["/var/lib/robot"]
            run_as_gids = [1000, 44]
            max_rockers = 2
            "#,
        )
        .unwrap()
    }

    fn path(text: &str) -> Path<'_> {
        Path::new(text.as_bytes()).unwrap()
    }

    fn request<'a>() -> Request<'a> {
        Request {
            app_id: 1,
            uid: 1000,
            gid: 44,
            package: path("/apps/x.sqfs"),
            exec_dir: path("/opt/apps/x"),
            data_dir: None,
            overlays: Overlays::Dirs(heapless::Vec::new()),
            ids: Ids::Identity,
            timeout_ms: 1,
            trace: false,
            options: protocol::Options::default(),
        }
    }

    fn verdict(
        caller: Caller,
        change: impl FnOnce(&mut Request<'_>),
        load: Load,
    ) -> Result<(), Error> {
        let mut request = request();
        change(&mut request);
        config().check(&caller, &request, load)
    }

    fn refused(rule: Rule, item: Item) -> Result<(), Error> {
        Err(Error::Invalid { rule, item })
    }

    #[test]
    fn the_policy_has_the_last_word() {
        let free = Load::default();
        assert_eq!(verdict(ROBOT, |_| (), free), Ok(()));
        let not = |item| refused(Rule::NotAllowed, item);
        let stranger = verdict(Caller { uid: 1001, ..ROBOT }, |_| (), free);
        assert_eq!(stranger, refused(Rule::NotListed, Item::Request));
        assert_eq!(verdict(ROBOT, |r| r.uid = 1001, free), not(Item::Uid));
        assert_eq!(verdict(ROBOT, |r| r.gid = 4, free), not(Item::Gid));
        assert_eq!(verdict(ROBOT, |r| r.exec_dir = path("/opt/appsx"), free), not(Item::ExecDir));
        assert_eq!(verdict(Caller { uid: 0, ..ROBOT }, |r| r.uid = 1001, free), Ok(()));
        assert_eq!(
            verdict(Caller { uid: 0, ..ROBOT }, |r| r.uid = 0, free),
            refused(Rule::Root, Item::Uid)
        );
    }

    #[test]
    fn paths_of_others_than_root_stay_below_what_is_granted() {
        let config = config();
        assert!(matches!(config.package_reach(&ROBOT, path("/apps/a/b")), Ok(Reach::Below(_))));
        assert!(config.package_reach(&ROBOT, path("/etc/shadow")).is_err());
        assert!(config.data_reach(&ROBOT, path("/apps")).is_err());
        let root = Caller { uid: 0, ..ROBOT };
        assert!(matches!(config.package_reach(&root, path("/etc")), Ok(Reach::Anywhere)));
    }

    #[test]
    fn the_default_filter_is_for_all_who_are_not_trusted() {
        let others = [Seccomp::Unconfined, Seccomp::Log, Seccomp::Filter(&[0; 8])];
        let mut trusting = config();
        trusting.allow[0].unconfined = true;
        let root = Caller { uid: 0, ..ROBOT };
        for seccomp in others {
            let mut request = request();
            request.options.seccomp = seccomp;
            let found = |config: &Config, caller| config.check(caller, &request, Load::default());
            assert_eq!(found(&config(), &ROBOT), refused(Rule::NotAllowed, Item::Seccomp));
            assert_eq!(found(&config(), &root), Ok(()));
            assert_eq!(found(&trusting, &ROBOT), Ok(()));
        }
        let nests = |request: &mut Request<'_>| request.options.user_namespaces = true;
        let wanted = refused(Rule::NotAllowed, Item::UserNamespaces);
        assert_eq!(verdict(ROBOT, nests, Load::default()), wanted);
        assert_eq!(verdict(root, nests, Load::default()), Ok(()));
    }

    #[test]
    fn devices_of_the_hosts_are_for_whom_the_policy_says() {
        let mut trusting = config();
        trusting.allow[0].devices = true;
        let mut request = request();
        request.options.dev = Dev::Host;
        let found = |config: &Config, caller| config.check(caller, &request, Load::default());
        assert_eq!(found(&config(), &ROBOT), refused(Rule::NotAllowed, Item::Dev));
        assert_eq!(found(&config(), &Caller { uid: 0, ..ROBOT }), Ok(()));
        assert_eq!(found(&trusting, &ROBOT), Ok(()));
    }

    #[test]
    fn there_are_limits() {
        let many = refused(Rule::TooManyRockers, Item::Request);
        let load =
            |rockers, rockers_of_caller| Load { rockers, rockers_of_caller, ..Load::default() };
        assert_eq!(verdict(ROBOT, |_| (), load(2, 1)), Ok(()));
        assert_eq!(verdict(ROBOT, |_| (), load(2, 2)), many);
        assert_eq!(verdict(Caller { uid: 0, ..ROBOT }, |_| (), load(3, 0)), many);
    }

    #[test]
    fn nobody_is_beyond_the_limits_of_the_policy() {
        let mut config = config();
        let allow = &mut config.allow[0];
        (allow.max_memory, allow.max_pids, allow.max_cpu) = (Some(1 << 26), Some(32), Some(0.5));
        let asked_so = |limits, commanded| {
            let options = protocol::Options { limits, commanded, ..Default::default() };
            config.check(&ROBOT, &Request { options, ..request() }, Load::default())
        };
        let asked = |limits| asked_so(limits, true);
        let none = Limits::default();
        let most = Limits {
            memory: Some(1 << 26),
            pids: Some(32),
            cpu_millis: Some(500),
            ..Limits::default()
        };
        assert_eq!((asked(none), asked(most)), (Ok(()), Ok(())));
        for (limits, item) in [
            (Limits { memory: Some((1 << 26) + 1), ..none }, Item::Memory),
            (Limits { pids: Some(33), ..none }, Item::Pids),
            (Limits { cpu_millis: Some(501), ..none }, Item::Cpu),
        ] {
            assert_eq!(asked(limits), refused(Rule::NotAllowed, item));
        }
        assert_eq!(asked_so(none, false), refused(Rule::NotCommanded, Item::Memory));
        let less = Limits { pids: Some(8), cpu_weight: Some(50), ..none };
        let pids_of = |limits: Limits<'_>| limits.pids;
        assert_eq!(config.limits(&ROBOT, none), most);
        assert_eq!(pids_of(config.limits(&ROBOT, less)), Some(8));
        assert_eq!(config.limits(&ROBOT, less).cpu_weight, Some(50));
        // Root is limited by nobody but itself.
        assert_eq!(config.limits(&Caller { uid: 0, ..ROBOT }, none), none);
    }

    #[test]
    fn unknown_keys_are_errors() {
        assert!(toml::from_str::<Config>("max_rocker = 3").is_err());
        assert!(toml::from_str::<Config>("[[allow]]\nuid = 1\npackages = []").is_err());
    }
}
