//! A `rocker-master` of a test's own.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rocker_client::Launch;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::replay::{self, Reports};
use crate::scratch::{directory, names, unmount_below};
use crate::{APP_GID, APP_UID, SOON, bin, probe_package, process, scratch, within};

/// It listens on a socket in a scratch directory, with `exec` and `data` beside it, and ends
/// when this is dropped. The rockers that it made must have ended by then.
#[derive(Debug)]
pub struct Daemon {
    /// Replayed when this ends, while they are there.
    reports: Reports,
    dir: TempDir,
    child: Option<Child>,
}

impl Daemon {
    /// With the policy that is built in: root may do all, others nothing.
    pub fn start() -> Self {
        Self::with_config("")
    }

    /// With this configuration file. No package stays mounted after its last rocker, no overlay is
    /// kept, and no guard waits for one, so that nothing is left then, unless it says what may be.
    pub fn with_config(text: &str) -> Self {
        let dir = scratch();
        fs::write(dir.path().join("master.toml"), complete(text)).expect(WRITABLE);
        directory(dir.path().join("exec"), 0o755, 0);
        directory(dir.path().join("data"), 0o755, 0);
        let reports = Reports::new(dir.path().join("reports"));
        let mut daemon = Self { reports, dir, child: None };
        daemon.restart();
        daemon
    }

    /// One that lets these users start packages of its scratch directory; and a package there.
    pub fn for_users(uids: &[u32]) -> (Self, PathBuf) {
        let mut daemon = Self::start();
        let package = daemon.path("app.sqfs");
        fs::copy(probe_package(), &package).expect(WRITABLE);
        daemon.stop();
        let (top, exec_dir) = (daemon.dir(), daemon.exec_dir());
        let allow = |uid| {
            format!("[[allow]]\nuid = {uid}\npackages = [{top:?}]\nexec_dirs = [{exec_dir:?}]\n")
        };
        daemon.configure(&uids.iter().map(allow).collect::<String>());
        daemon.restart();
        (daemon, package)
    }

    /// Starts a master on the same socket, after [`stop`](Self::stop) or [`kill`](Self::kill).
    pub fn restart(&mut self) {
        let log = fs::OpenOptions::new().append(true).create(true).open(self.log_file());
        let mut child = Command::new(bin("rocker-master"))
            .arg("--config")
            .arg(self.path("master.toml"))
            .arg("--socket")
            .arg(self.socket())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect(WRITABLE))
            .spawn()
            .expect("rocker-master can be started");
        let lists = || rocker_client::list(self.socket(), SOON).is_ok();
        let answers = within(SOON, || lists() || !matches!(child.try_wait(), Ok(None)));
        let lives = matches!(child.try_wait(), Ok(None));
        self.child = Some(child);
        assert!(answers && lives, "rocker-master does not listen: {}", self.log());
    }

    /// SIGTERM, and waits for the end. Rockers live on.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Some(master) = process::pidfd(child.id()) {
            let _ = rustix::process::pidfd_send_signal(master, Signal::TERM);
        }
        let ended = within(SOON, || !matches!(child.try_wait(), Ok(None)));
        if !ended {
            let _ = child.kill();
            let _ = child.wait();
        }
        assert!(ended || std::thread::panicking(), "rocker-master does not end at SIGTERM");
    }

    /// SIGKILL, and waits for the end. Rockers live on.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.path("run/master.sock")
    }

    /// Its scratch directory: 0755, of root.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A connection of this user's, for the master knows callers as they were when they connected.
    /// With root's rights whoever has it can enter a rocker for that user.
    ///
    /// # Panics
    ///
    /// If this user may not connect.
    pub fn connection_of(&self, uid: u32) -> OwnedFd {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let caller = socket_with(family, kind, SocketFlags::CLOEXEC, None).expect("a descriptor");
        nix::unistd::seteuid(uid.into()).expect("root may");
        let address = SocketAddrUnix::new(self.socket()).expect("its path is short");
        let connected = connect(&caller, &address);
        nix::unistd::seteuid(0.into()).expect("it is root really");
        connected.expect("the policy names this user");
        caller
    }

    /// A name in its scratch directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A place for packages.
    pub fn exec_dir(&self) -> PathBuf {
        self.path("exec")
    }

    /// A place for layers.
    pub fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    /// A launch of this package through this master: as nobody in particular, at
    /// [`exec_dir`](Self::exec_dir), with nothing overlaid. What comes of it is to be
    /// [replayed](crate::replayed).
    pub fn launch(&self, package: impl AsRef<Path>) -> Launch {
        Launch::new(package)
            .socket(self.socket())
            .uid(APP_UID)
            .gid(APP_GID)
            .exec_dir(self.exec_dir())
            .trace(replay::traces())
    }

    /// The same with these directories overlaid.
    pub fn overlaid(&self, package: impl AsRef<Path>, dirs: &[&str]) -> Launch {
        let launch = self.launch(package).data_dir(self.data_dir());
        dirs.iter().fold(launch, Launch::overlay)
    }

    /// `rocker run` through this master, with a report that is replayed when this ends.
    pub fn rocker_run(&self) -> Command {
        let mut command = Command::new(bin("rocker"));
        command.arg("run").arg("--socket").arg(self.socket());
        self.reports.ask(&mut command);
        command
    }

    /// # Panics
    ///
    /// If it is stopped.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running master").id()
    }

    /// How many descriptors it has open, but for those of cgroups ([`process::is_cgroup`]).
    pub fn fds(&self) -> usize {
        process::fd_links(self.pid()).values().filter(|link| !process::is_cgroup(link)).count()
    }

    /// Waits until it has noticed the end of all rockers but so many, and let go of their packages:
    /// that is a moment later than a caller sees it.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[track_caller]
    pub fn settle(&self, living: usize) {
        // A mount that is attached nowhere has a path of its own. Those of /dev, for four users,
        // and that of /proc stay.
        let mounts = || process::fd_links(self.pid()).values().filter(|link| *link == "/").count();
        let is_settled =
            within(SOON, || self.records().len() == living && (living > 0 || mounts() <= 5));
        assert!(is_settled, "{living} live: {:?}", self.records());
    }

    /// Its resident memory.
    pub fn rss_kib(&self) -> u64 {
        let text = process::status(self.pid())["VmRSS"].clone();
        text.trim_end_matches(" kB").parse().expect("the kernel writes numbers")
    }

    /// The rockers that it has on record.
    pub fn records(&self) -> Vec<String> {
        names(self.path("run/rockers"))
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.path("master.log")
    }

    /// Whether it answers, and soon.
    pub fn is_well(&self) -> bool {
        rocker_client::list(self.socket(), SOON).is_ok()
    }

    /// Replaces the configuration; [`restart`](Self::restart) reads it.
    pub fn configure(&self, text: &str) {
        fs::write(self.path("master.toml"), complete(text)).expect(WRITABLE);
    }
}

const WRITABLE: &str = "a scratch directory is writable";

fn complete(text: &str) -> String {
    let idle = if text.contains("package_idle_ms") { "" } else { "package_idle_ms = 0\n" };
    let ready = if text.contains("ready_guards") { "" } else { "ready_guards = 0\n" };
    let kept = if text.contains("max_overlays") { "" } else { "max_overlays = 0\n" };
    format!("{idle}{ready}{kept}{text}")
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ran = self.child.is_some();
        if ran && !std::thread::panicking() {
            // The end of a rocker is noticed a moment after the caller has seen it.
            let forgotten = within(SOON, || self.records().is_empty());
            assert!(forgotten, "rockers are on record still: {:?}", self.records());
        }
        self.stop();
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "--- rocker-master:\n{}---", self.log());
        } else if ran {
            assert!(!self.socket().exists(), "a stopped master leaves no socket");
            assert!(!self.log().contains("panicked"), "rocker-master panicked: {}", self.log());
        }
        unmount_below(self.dir.path());
    }
}
