//! `rocker doctor`: what this host lacks, and what that costs.
//!
//! It looks and tries, and leaves nothing behind. Where a feature can only be tried with a call
//! that has no safe wrapper, the kernel's version decides (and a distribution that took the
//! feature into an older kernel is told too little).

use core::fmt::Write as _;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsmount, fsopen,
    open_tree,
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, geteuid, getpid, pidfd_open};
use rustix::thread::{CapabilitySet, capabilities};
use serde::Serialize;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// As it should be.
    Ok,
    /// ROCKER does without, but slower or with less: the advice says how.
    Slow,
    /// Nothing runs without it: the advice says what to do.
    Missing,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Slow => "slow",
            Self::Missing => "missing",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Finding {
    /// What it is about.
    pub(crate) name: &'static str,
    /// How much it matters.
    pub(crate) state: State,
    /// What there is.
    pub(crate) found: String,
    /// What it costs and what to do; empty where all is well.
    pub(crate) advice: String,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), advice: String::new() }
    }

    fn ok_but(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { advice: advice.into(), ..Self::ok(name, found) }
    }

    fn slow(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: State::Slow, found: found.into(), advice: advice.into() }
    }

    fn missing(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: State::Missing, found: found.into(), advice: advice.into() }
    }
}

/// A kernel's version, without what distributions append.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Version {
    major: u16,
    minor: u16,
}

impl Version {
    /// From `/proc/sys/kernel/osrelease`: `6.1.0-rc2-acme`, `5.10-custom`, `6.12+`.
    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release
            .split(|letter: char| !letter.is_ascii_digit())
            .map(|number| number.parse::<u16>().ok());
        Some(Self { major: numbers.next()??, minor: numbers.next()?? })
    }
}

/// From the first on everything was tried; before the second there is no `LOOP_CONFIGURE` and no
/// `setns(2)` by pidfd, which have no fallback.
const TESTED: Version = Version { major: 6, minor: 1 };
const OLDEST: Version = Version { major: 5, minor: 8 };

/// What the version decides: name, first version, what is done without it.
const FEATURES: [(&str, Version, &str); 3] = [
    (
        "mount_setattr",
        Version { major: 5, minor: 12 },
        "no \"rocker judge\", and nothing is bound or masked; a launch fails where the host has a \
         mount below an overlaid directory",
    ),
    (
        "close_range",
        Version { major: 5, minor: 9 },
        "each launch walks /proc/self/fd to close descriptors",
    ),
    (
        "many ipc namespaces",
        Version { major: 6, minor: 3 },
        "one takes milliseconds to go: launches and resets that come faster for long wait for it \
         when there are user.max_ipc_namespaces",
    ),
];

/// Looks at everything ROCKER needs or likes. `socket` is where the master should answer, if one
/// is named.
pub(crate) fn examine(socket: Option<&Path>) -> Vec<Finding> {
    let release = read("/proc/sys/kernel/osrelease");
    let version = release.as_deref().and_then(Version::parse);
    let admin =
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));

    let mut findings = vec![kernel(release.as_deref(), version), privilege(admin)];
    let filesystems = read("/proc/filesystems").unwrap_or_default();
    let modules = release.map(|release| format!("/lib/modules/{release}")).unwrap_or_default();
    let modules_dep = read(&format!("{modules}/modules.dep")).unwrap_or_default();
    findings.push(filesystem("squashfs", &filesystems, &modules_dep));
    findings.extend(squashfs_compressors(&modules));
    findings.push(filesystem("overlay", &filesystems, &modules_dep));
    findings.push(loop_devices());
    findings.extend(NAMESPACES.iter().map(Namespaces::examine));
    findings.extend(namespaces_of_apps(sysctl));
    findings.push(seccomp(sysctl("kernel.seccomp.actions_avail").as_deref()));
    findings.push(landlock(rocker_client::landlock_abi()));
    findings.push(attaching(sysctl("kernel.yama.ptrace_scope").as_deref()));
    findings.push(mount_api(admin));
    findings.push(detached_clone(admin, version));
    findings
        .extend(FEATURES.iter().map(|(name, since, cost)| by_version(name, *since, version, cost)));
    findings.push(pidfd());
    findings.push(guard_from_memory());
    findings.extend(cgroups());
    findings.push(master(socket));
    findings
}

/// The findings as a table, with what it comes to in the last line.
pub(crate) fn table(findings: &[Finding]) -> String {
    let states = findings.iter().map(|finding| finding.state.word().len()).max().unwrap_or(0);
    let names = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let state = finding.state.word();
        let line = format!("{state:<states$}  {:<names$}  {}", finding.name, finding.found);
        text += line.trim_end();
        text.push('\n');
        if !finding.advice.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{:states$}  {:names$}  {}", "", "", finding.advice);
        }
    }
    text + &summary(findings) + "\n"
}

fn summary(findings: &[Finding]) -> String {
    let named = |state: State| -> Vec<&str> {
        findings.iter().filter(|finding| finding.state == state).map(|one| one.name).collect()
    };
    let missing = named(State::Missing);
    if !missing.is_empty() {
        return format!("ROCKER cannot run here: {}", missing.join(", "));
    }
    match named(State::Slow).as_slice() {
        [] => "ROCKER can run here".to_owned(),
        slow => format!("ROCKER can run here, slower or with less: {}", slow.join(", ")),
    }
}

/// A small file of the kernel's, without the newline; none if it cannot be read.
fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

fn kernel(release: Option<&str>, version: Option<Version>) -> Finding {
    let name = "kernel";
    let (Some(release), Some(version)) = (release, version) else {
        return Finding::missing(name, "version unknown", "mount /proc");
    };
    if version < OLDEST {
        Finding::missing(name, release, "ROCKER needs Linux 5.8")
    } else if version < TESTED {
        Finding::slow(name, release, "ROCKER is tested from Linux 6.1 on only")
    } else {
        Finding::ok(name, release)
    }
}

fn privilege(admin: bool) -> Finding {
    let name = "privilege";
    let who = match geteuid() {
        root if root.is_root() => "root".to_owned(),
        other => format!("uid {}", other.as_raw()),
    };
    if admin {
        Finding::ok(name, who)
    } else {
        Finding::slow(
            name,
            format!("{who}, without CAP_SYS_ADMIN"),
            "the guard starts this user's Apps, where the master's policy names it",
        )
    }
}

/// What the kernel has, and what it could load: mount(2) asks for modules by itself.
fn filesystem(name: &'static str, filesystems: &str, modules_dep: &str) -> Finding {
    let known = filesystems.lines().any(|line| line.split_whitespace().last() == Some(name));
    let module = format!("/{name}.ko");
    if known {
        Finding::ok(name, "in the kernel")
    } else if modules_dep.lines().any(|line| line.split(':').next().unwrap_or("").contains(&module))
    {
        let advice = format!("the first launch loads it; to do so now: modprobe {name}");
        Finding::slow(name, "a module that is not loaded", advice)
    } else {
        let option = if name == "overlay" { "OVERLAY_FS".to_owned() } else { name.to_uppercase() };
        let advice = format!("modprobe {name}, or a kernel with CONFIG_{option}");
        Finding::missing(name, "not in /proc/filesystems", advice)
    }
}

/// Only where the distribution keeps the kernel's configuration as text: the kernel itself
/// tells no more than `/proc/config.gz`, which is rarely there.
fn squashfs_compressors(modules: &str) -> Option<Finding> {
    let release = modules.rsplit('/').next().unwrap_or_default();
    let config =
        read(&format!("/boot/config-{release}")).or_else(|| read(&format!("{modules}/config")))?;
    Some(compressors_of(&config))
}

fn compressors_of(config: &str) -> Finding {
    let name = "squashfs compressors";
    let all = [("zstd", "ZSTD"), ("xz", "XZ"), ("gzip", "ZLIB"), ("lz4", "LZ4")];
    let has = |option: &str| {
        let line = format!("CONFIG_SQUASHFS_{option}=y");
        config.lines().any(|found| found == line)
    };
    let found: Vec<&str> = all.iter().filter(|(_, option)| has(option)).map(|one| one.0).collect();
    if found.is_empty() {
        Finding::missing(name, "none", "no package can be mounted: a kernel with CONFIG_SQUASHFS_*")
    } else if found.len() < all.len() {
        let advice = "packages must be made with one of these: rocker pack --compression";
        Finding::slow(name, found.join(" "), advice)
    } else {
        Finding::ok(name, found.join(" "))
    }
}

fn loop_devices() -> Finding {
    let name = "loop devices";
    let path = "/dev/loop-control";
    if Path::new(path).exists() {
        Finding::ok(name, path)
    } else {
        Finding::missing(name, format!("no {path}"), "modprobe loop")
    }
}

/// Namespaces of one kind.
struct Namespaces {
    name: &'static str,
    /// The kernel's link for it.
    link: &'static str,
    /// The limit that can forbid new ones.
    limit: &'static str,
    /// What cannot be done without; none: no launch can be.
    cost: Option<&'static str>,
}

const NAMESPACES: [Namespaces; 5] = [
    Namespaces {
        name: "mount namespaces",
        link: "/proc/self/ns/mnt",
        limit: "user.max_mnt_namespaces",
        cost: None,
    },
    Namespaces {
        name: "pid namespaces",
        link: "/proc/self/ns/pid",
        limit: "user.max_pid_namespaces",
        cost: None,
    },
    Namespaces {
        name: "user namespaces",
        link: "/proc/self/ns/user",
        limit: "user.max_user_namespaces",
        cost: None,
    },
    Namespaces {
        name: "ipc namespaces",
        link: "/proc/self/ns/ipc",
        limit: "user.max_ipc_namespaces",
        cost: None,
    },
    Namespaces {
        name: "uts namespaces",
        link: "/proc/self/ns/uts",
        limit: "user.max_uts_namespaces",
        cost: Some("no \"rocker judge\", nor \"rocker run --hostname\""),
    },
];

impl Namespaces {
    fn examine(&self) -> Finding {
        if fs::symlink_metadata(self.link).is_err() {
            return self.lacking(format!("no {}", self.link), "a kernel that has them");
        }
        self.limited(sysctl(self.limit).as_deref())
    }

    fn limited(&self, value: Option<&str>) -> Finding {
        let limit = self.limit;
        match value {
            Some("0") => self.lacking(format!("{limit} = 0"), &format!("sysctl -w {limit}=1024")),
            Some(value) => Finding::ok(self.name, format!("at most {value}")),
            None => Finding::ok(self.name, "no limit"),
        }
    }

    fn lacking(&self, found: String, remedy: &str) -> Finding {
        match self.cost {
            None => Finding::missing(self.name, found, remedy),
            Some(cost) => Finding::slow(self.name, found, format!("{cost}; {remedy}")),
        }
    }
}

/// A sysctl's value; none if this kernel has no such one.
fn sysctl(name: &str) -> Option<String> {
    read(&format!("/proc/sys/{}", name.replace('.', "/")))
}

/// What forbids user namespaces to processes without privileges. The guard has one when it makes
/// its own, so only an App's are forbidden.
fn namespaces_of_apps(sysctl: impl Fn(&str) -> Option<String>) -> Option<Finding> {
    let forbidding = [
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ];
    let mut found = forbidding.into_iter();
    let (name, forbids, allows) = found.find(|it| sysctl(it.0).as_deref() == Some(it.1))?;
    Some(Finding::slow(
        "user namespaces of Apps",
        format!("{name} = {forbids}"),
        format!(
            "an App that is run with --userns has none all the same; sysctl -w {name}={allows}"
        ),
    ))
}

/// Every App has a filter unless its caller asks for none.
fn seccomp(actions: Option<&str>) -> Finding {
    let name = "seccomp filters";
    let has = |wanted: &&str| actions.is_some_and(|all| all.split(' ').any(|one| one == *wanted));
    let lacking: Vec<&str> =
        ["kill_process", "errno", "user_notif"].into_iter().filter(|it| !has(it)).collect();
    match (actions, lacking.as_slice()) {
        (None, _) => Finding::missing(
            name,
            "no kernel.seccomp.actions_avail",
            "a kernel with CONFIG_SECCOMP_FILTER",
        ),
        (Some(_), []) => Finding::ok(name, "work"),
        (Some(_), lacking) => {
            Finding::missing(name, format!("without {}", lacking.join(", ")), "a newer kernel")
        }
    }
}

/// Nobody has it who does not ask for it.
fn landlock(abi: Option<u32>) -> Finding {
    let name = "Landlock";
    let without = "no \"rocker run --landlock\"";
    match abi {
        Some(abi @ 6..) => Finding::ok(name, format!("ABI {abi}")),
        Some(abi) => Finding::ok_but(name, format!("ABI {abi}"), format!("{without}: Linux 6.12")),
        None => Finding::ok_but(name, "none, or not in lsm=", without),
    }
}

/// Orders for a living rocker come by a descriptor that the master takes out of its guard.
fn attaching(scope: Option<&str>) -> Finding {
    let name = "attaching";
    match scope {
        Some("3") => Finding::slow(
            name,
            "kernel.yama.ptrace_scope = 3",
            "no \"rocker exec\" and \"rocker cp\"; only a boot with a lower one changes it",
        ),
        Some(value) => Finding::ok(name, format!("kernel.yama.ptrace_scope = {value}")),
        None => Finding::ok(name, "no restriction"),
    }
}

fn mount_api(admin: bool) -> Finding {
    let name = "new mount API";
    match fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => Finding::ok(name, "works"),
        // The call is there, and this user may not. For one who may, a filter said so.
        Err(Errno::PERM) if !admin => Finding::ok(name, "there"),
        Err(Errno::NOSYS) => {
            Finding::missing(name, "no fsopen", "Linux 5.2, or a container that allows the call")
        }
        Err(errno) => Finding::missing(
            name,
            format!("fsopen: {errno}"),
            "something forbids mounts: the seccomp filter of a container?",
        ),
    }
}

/// With the right to try it is tried, on a tmpfs that is mounted nowhere and ends with its
/// descriptors.
fn detached_clone(admin: bool, version: Option<Version>) -> Finding {
    let name = "clone of a detached mount";
    let cost = "a staging mount per launch instead, about 20 us";
    if !admin {
        return by_version(name, Version { major: 6, minor: 15 }, version, cost);
    }
    match try_detached_clone() {
        Ok(()) => Finding::ok(name, "works"),
        Err(errno) => Finding::slow(name, format!("{errno} (Linux 6.15 has it)"), cost),
    }
}

fn try_detached_clone() -> rustix::io::Result<()> {
    let tmpfs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(tmpfs.as_fd())?;
    let mount = fsmount(tmpfs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(mount.as_fd(), "", flags).map(drop)
}

fn by_version(name: &'static str, since: Version, version: Option<Version>, cost: &str) -> Finding {
    let Version { major, minor } = since;
    if version.is_some_and(|version| version >= since) {
        Finding::ok(name, format!("since Linux {major}.{minor}"))
    } else {
        Finding::slow(name, format!("not before Linux {major}.{minor}"), cost)
    }
}

fn pidfd() -> Finding {
    let name = "pidfd_open";
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => Finding::ok(name, "works"),
        Err(errno) => Finding::slow(
            name,
            errno.to_string(),
            "the guard asks once a second whether the rocker is empty (Linux 5.3 has it)",
        ),
    }
}

fn guard_from_memory() -> Finding {
    let name = "guard from memory";
    match read("/proc/sys/vm/memfd_noexec").as_deref() {
        Some("2") => Finding::slow(
            name,
            "vm.memfd_noexec = 2",
            "the guard runs from its file, which must stay root's own; sysctl -w \
             vm.memfd_noexec=1 allows a sealed copy",
        ),
        Some(value) => Finding::ok(name, format!("vm.memfd_noexec = {value}")),
        None => Finding::ok(name, "no restriction"),
    }
}

fn cgroups() -> [Finding; 2] {
    let mounts = read("/proc/self/mounts").unwrap_or_default();
    let table = read("/proc/cgroups").unwrap_or_default();
    let found = Controllers::of(&mounts, |dir| read(&format!("{dir}/cgroup.controllers")));
    [found.limits(&table), found.write_limits()]
}

/// What limits a rocker, or counts what it reads and writes; by the name in version 2.
const CONTROLLERS: [&str; 5] = ["memory", "pids", "cpu", "cpuset", "io"];

/// Its name in version 1.
fn old_name(controller: &str) -> &str {
    if controller == "io" { "blkio" } else { controller }
}

/// Which of them there are.
#[derive(Debug, Default)]
struct Controllers {
    is_mounted: bool,
    /// In version 1, and in version 2.
    versions: [Vec<&'static str>; 2],
}

impl Controllers {
    /// `controllers` reads what a v2 hierarchy offers.
    fn of(mounts: &str, controllers: impl Fn(&str) -> Option<String>) -> Self {
        let mut all = Self::default();
        for mount in mounts.lines() {
            let [_, dir, kind, options, ..] = mount.split(' ').collect::<Vec<_>>()[..] else {
                continue;
            };
            let (version, offered) = match kind {
                "cgroup2" => (1, controllers(dir).unwrap_or_default()),
                "cgroup" => (0, options.replace(',', " ")),
                _ => continue,
            };
            all.is_mounted = true;
            let called =
                |one: &str| if version == 1 { one.to_owned() } else { old_name(one).to_owned() };
            let is_new = |one: &&str| all.versions.iter().all(|found| !found.contains(one));
            let has = |one: &&str| offered.split_whitespace().any(|had| had == called(one));
            let new: Vec<&str> = CONTROLLERS.into_iter().filter(is_new).filter(has).collect();
            all.versions[version].extend(new);
        }
        all
    }

    /// Those of these that are there, as in `v1: cpu memory, v2: pids`.
    fn told(&self, wanted: &[&str]) -> String {
        let told = ["v1", "v2"].into_iter().zip(&self.versions).filter_map(|(version, found)| {
            let found: Vec<&str> =
                found.iter().copied().filter(|one| wanted.contains(one)).collect();
            (!found.is_empty()).then(|| format!("{version}: {}", found.join(" ")))
        });
        let told = told.collect::<Vec<_>>().join(", ");
        if told.is_empty() { "no controllers".to_owned() } else { told }
    }

    /// `table` is `/proc/cgroups`.
    fn limits(&self, table: &str) -> Finding {
        let name = "cgroup";
        if !self.is_mounted {
            let advice = "the master makes a mount of cgroup2 of its own when there is something \
                          to limit, and says what is missing";
            return Finding::ok_but(name, "nothing mounted", advice);
        }
        let there = self.versions.concat();
        let lacking = CONTROLLERS.into_iter().filter(|one| !there.contains(one));
        let reasons: Vec<String> = lacking.map(|one| why_lacking(one, table)).collect();
        let found = self.told(&CONTROLLERS);
        match reasons.is_empty() {
            true => Finding::ok(name, found),
            false => Finding::slow(name, found, format!("no limits by {}", reasons.join("; by "))),
        }
    }

    /// Nobody has one who does not ask for it.
    fn write_limits(&self) -> Finding {
        let (name, needed) = ("limits of writing", ["memory", "io"]);
        let found = self.told(&needed);
        let [_, unified] = &self.versions;
        // What is not mounted is of version 2 when the master mounts it.
        if !self.is_mounted || needed.iter().all(|one| unified.contains(one)) {
            return Finding::ok(name, if self.is_mounted { &found } else { "nothing mounted" });
        }
        let advice =
            "no \"rocker run --io-write\": it takes cgroups of version 2 with memory and io";
        Finding::ok_but(name, found, advice)
    }
}

/// What `/proc/cgroups` says of a controller that is not mounted, and what to do.
fn why_lacking(controller: &str, table: &str) -> String {
    let old = old_name(controller);
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    match rows.find(|row| row.first() == Some(&old)).as_deref() {
        None => format!("{controller}, which this kernel was built without"),
        Some([.., "0"]) => format!("{controller}: take cgroup_disable={old} from the boot command"),
        Some([_, hierarchy, ..]) if *hierarchy != "0" => {
            format!("{controller}: mount -t cgroup -o {old} {old} /sys/fs/cgroup/{old}")
        }
        Some(_) => format!("{controller}, which is not handed down to this cgroup"),
    }
}

/// A connection that asks nothing is an end of file to the master: it does no harm.
fn master(named: Option<&Path>) -> Finding {
    let name = "master";
    let socket = named.unwrap_or(Path::new(rocker_client::SOCKET));
    let place = socket.display().to_string();
    match connect(socket) {
        // Its queue is full: somebody listens.
        Ok(()) | Err(Errno::AGAIN) => Finding::ok(name, place),
        // Root's launches bring a master of their own, but where one is named.
        Err(Errno::NOENT | Errno::CONNREFUSED) if named.is_none() && geteuid().is_root() => {
            Finding::slow(
                name,
                format!("nobody listens at {place}"),
                "each \"rocker run\" starts a master of its own; rocker-master saves that",
            )
        }
        Err(Errno::NOENT) => {
            Finding::missing(name, format!("no {place}"), "start rocker-master, or name its socket")
        }
        Err(Errno::CONNREFUSED) => Finding::missing(
            name,
            format!("nobody listens at {place}"),
            "the master is gone: start rocker-master",
        ),
        Err(Errno::ACCESS) => Finding::missing(
            name,
            format!("{place} is not for this user"),
            "root can add an [[allow]], by default in /etc/rocker/master.toml",
        ),
        Err(errno) => {
            let error = super::words(&errno.into());
            Finding::missing(name, format!("{place}: {error}"), "look at the socket and its rights")
        }
    }
}

fn connect(socket: &Path) -> rustix::io::Result<()> {
    let address = SocketAddrUnix::new(socket)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let end = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&end, &address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(major: u16, minor: u16) -> Version {
        Version { major, minor }
    }

    #[test]
    fn version_parse_takes_what_kernels_call_themselves() {
        for (release, expected) in [
            ("6.18.44", version(6, 18)),
            ("5.10.0-32-amd64", version(5, 10)),
            ("6.12+", version(6, 12)),
            ("7.0-rc1", version(7, 0)),
            ("4.19.113-android", version(4, 19)),
        ] {
            assert_eq!(Version::parse(release), Some(expected), "{release}");
        }
        for release in ["", "6", "six.one", "6.x", ".5.10", "99999.1"] {
            assert_eq!(Version::parse(release), None, "{release}");
        }
    }

    #[test]
    fn version_order_is_by_number() {
        assert!(version(5, 10) > version(5, 9));
        assert!(version(6, 1) > version(5, 19));
    }

    #[test]
    fn kernel_state_follows_the_version() {
        let state = |release: &str| kernel(Some(release), Version::parse(release)).state;
        assert_eq!(state("6.1.0"), State::Ok);
        assert_eq!(state("5.10.1"), State::Slow);
        assert_eq!(state("5.4.0"), State::Missing);
        assert_eq!(kernel(None, None).state, State::Missing);
    }

    #[test]
    fn by_version_unknown_version_has_nothing() {
        assert_eq!(by_version("x", TESTED, None, "slower").state, State::Slow);
        assert_eq!(by_version("x", TESTED, Some(TESTED), "slower").advice, "");
    }

    #[test]
    fn filesystem_builtin_module_or_missing() {
        let builtin = "nodev\tproc\n\tsquashfs\nnodev\toverlay";
        let module = "kernel/fs/squashfs/squashfs.ko.xz: kernel/lib/lz4.ko\n";
        assert_eq!(filesystem("squashfs", builtin, "").state, State::Ok);
        assert_eq!(filesystem("overlay", builtin, "").state, State::Ok);
        assert_eq!(filesystem("squashfs", "nodev\tproc", module).state, State::Slow);
        let missing = filesystem("overlay", "nodev\toverlayfs", module);
        assert_eq!(missing.state, State::Missing);
        assert_eq!(missing.advice, "modprobe overlay, or a kernel with CONFIG_OVERLAY_FS");
    }

    #[test]
    fn compressors_all_some_none() {
        let all = "CONFIG_SQUASHFS_ZLIB=y\nCONFIG_SQUASHFS_LZ4=y\nCONFIG_SQUASHFS_XZ=y\n\
                   CONFIG_SQUASHFS_ZSTD=y";
        assert_eq!(compressors_of(all), Finding::ok("squashfs compressors", "zstd xz gzip lz4"));
        let some = compressors_of("# CONFIG_SQUASHFS_ZSTD is not set\nCONFIG_SQUASHFS_ZLIB=y");
        assert_eq!((some.state, some.found.as_str()), (State::Slow, "gzip"));
        assert_eq!(compressors_of("").state, State::Missing);
    }

    #[test]
    fn namespace_limit_zero_stops() {
        let [.., user, _, uts] = &NAMESPACES;
        let none = user.limited(Some("0"));
        let advice = "sysctl -w user.max_user_namespaces=1024";
        assert_eq!((none.state, none.advice.as_str()), (State::Missing, advice));
        assert_eq!(summary(&[none]), "ROCKER cannot run here: user namespaces");
        assert_eq!(user.limited(Some("96365")).state, State::Ok);
        assert_eq!(user.limited(None).state, State::Ok);
        // Nothing but a host name needs these.
        assert_eq!(uts.limited(Some("0")).state, State::Slow);
    }

    #[test]
    fn sysctls_that_forbid_something_are_named() {
        let of_apps = |name: &'static str, value: &'static str| {
            namespaces_of_apps(move |asked| (asked == name).then(|| value.to_owned()))
        };
        let found = of_apps("kernel.unprivileged_userns_clone", "0").unwrap();
        assert!(found.advice.ends_with("sysctl -w kernel.unprivileged_userns_clone=1"));
        let found = of_apps("kernel.apparmor_restrict_unprivileged_userns", "1").unwrap();
        assert!(found.advice.ends_with("kernel.apparmor_restrict_unprivileged_userns=0"));
        assert_eq!(of_apps("kernel.unprivileged_userns_clone", "1"), None);
        let states = ["0", "1", "3"].map(|scope| attaching(Some(scope)).state);
        assert_eq!(states, [State::Ok, State::Ok, State::Slow]);
        let all = "kill_process kill_thread trap errno user_notif trace log allow";
        assert_eq!(seccomp(Some(all)).state, State::Ok);
        let old = seccomp(Some("kill_process kill_thread trap errno trace log allow"));
        assert_eq!((old.state, old.found.as_str()), (State::Missing, "without user_notif"));
        assert_eq!(seccomp(None).state, State::Missing);
        assert_eq!(landlock(Some(6)), Finding::ok("Landlock", "ABI 6"));
        assert_eq!(landlock(Some(5)).advice, "no \"rocker run --landlock\": Linux 6.12");
        assert_eq!(landlock(None).state, State::Ok);
    }

    #[test]
    fn cgroup_v2_v1_and_none() {
        let unified = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0";
        let full = |_: &str| Some("cpuset cpu io memory pids".to_owned());
        let all = Controllers::of(unified, full);
        assert_eq!(all.limits(""), Finding::ok("cgroup", "v2: memory pids cpu cpuset io"));
        assert_eq!(all.write_limits(), Finding::ok("limits of writing", "v2: memory io"));
        let table = "memory\t0\t1\t0\ncpuset\t0\t1\t1\nblkio\t7\t1\t1";
        let some = Controllers::of(unified, |_| Some("cpu".to_owned())).limits(table);
        assert_eq!((some.state, some.found.as_str()), (State::Slow, "v2: cpu"));
        assert_eq!(
            some.advice,
            "no limits by memory: take cgroup_disable=memory from the boot command; \
             by pids, which this kernel was built without; \
             by cpuset, which is not handed down to this cgroup; \
             by io: mount -t cgroup -o blkio blkio /sys/fs/cgroup/blkio"
        );
        let hybrid = "cgroup /c/cpu cgroup rw,cpu,cpuacct 0 0\ncgroup /c/m cgroup rw,memory 0 0\n\
                      cgroup /c/b cgroup rw,blkio 0 0\ncgroup2 /c/u cgroup2 rw 0 0";
        let both = Controllers::of(hybrid, |_| Some("cpuset pids".to_owned()));
        let wanted = Finding::ok("cgroup", "v1: cpu memory io, v2: pids cpuset");
        assert_eq!(both.limits(""), wanted);
        // Version 1 counts what is written as nobody's.
        let writing = both.write_limits();
        assert_eq!((writing.state, writing.found.as_str()), (State::Ok, "v1: memory io"));
        assert!(writing.advice.starts_with("no \"rocker run --io-write\""), "{}", writing.advice);
        let none = Controllers::of("proc /proc proc rw 0 0", |_| None);
        for finding in [none.limits(""), none.write_limits()] {
            assert_eq!((finding.state, finding.found.as_str()), (State::Ok, "nothing mounted"));
        }
    }

    #[test]
    fn table_is_aligned() {
        let findings = [
            Finding::ok("kernel", "6.1"),
            Finding::slow("a long name", "5.9", "costs a little"),
            Finding::missing("loop", "", "modprobe loop"),
        ];
        let expected = "ok       kernel       6.1\n\
                        slow     a long name  5.9\n\
                        \x20                     costs a little\n\
                        missing  loop\n\
                        \x20                     modprobe loop\n\
                        ROCKER cannot run here: loop\n";
        assert_eq!(table(&findings), expected);
    }

    #[test]
    fn summary_names_what_is_slow() {
        let ok = Finding::ok("a", "");
        let slow = Finding::slow("b", "", "");
        assert_eq!(summary(core::slice::from_ref(&ok)), "ROCKER can run here");
        let said = summary(&[slow.clone(), ok, slow]);
        assert_eq!(said, "ROCKER can run here, slower or with less: b, b");
    }

    #[test]
    fn finding_is_json() {
        let json = serde_json::to_string(&Finding::slow("a", "b", "c")).unwrap();
        assert_eq!(json, r#"{"name":"a","state":"slow","found":"b","advice":"c"}"#);
    }

    #[test]
    fn examine_leaves_nothing_and_misses_no_socket() {
        let mounts = read("/proc/self/mounts");
        let findings = examine(Some(Path::new("/nonexistent/master.sock")));
        assert_eq!(read("/proc/self/mounts"), mounts);
        let last = findings.last().unwrap();
        assert_eq!((last.name, last.state), ("master", State::Missing), "it is named");
        for finding in &findings {
            assert!(finding.state == State::Ok || !finding.advice.is_empty(), "{finding:?}");
        }
    }
}
