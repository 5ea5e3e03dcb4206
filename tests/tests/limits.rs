//! Limits by cgroup: what they keep, what is told of it, and that none is left.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(unsafe_code, reason = "a callback is to be entered, and a directory to be held")]

use core::time::Duration;
use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::JoinHandle;

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, major, makedev, mknod};
use protocol::{Error, Exit, ExitReport, Item, Rule, Step, Verdict};
use rocker_client::{Launch, Limits, OpenRocker, Stdio};
use rustix::process::{Pid, Signal, kill_process};
use tests::app::{self, App, refused, with_output};
use tests::cgroup::{hierarchies, needs};
use tests::output::json_of;
use tests::{
    APP_GID, APP_UID, Daemon, Package, Program, SOON, c_client, probe_package, process, replayed,
    runner, within,
};

fn main() -> ExitCode {
    runner::main(tests::root![
        a_program_has_the_memory_it_may_have_and_no_more,
        an_app_that_wants_more_memory_is_killed,
        the_command_says_that_an_app_was_out_of_memory,
        forks_end_where_the_limit_is,
        processor_time_is_rationed,
        an_app_is_inside_before_its_first_instruction,
        who_joins_control_groups_shares_no_memory_with_the_caller,
        without_limits_there_is_no_cgroup,
        a_program_is_where_its_caller_says_before_it_executes,
        a_program_in_a_frozen_group_keeps_nobody_waiting,
        fifty_limited_rockers_at_once_leave_nothing,
        a_limit_that_cannot_be_kept_is_refused,
        what_is_read_is_limited_on_the_disks_of_package_and_data_dir,
        a_limit_of_disks_that_cannot_be_kept_is_refused,
        the_policy_limits_those_who_do_not,
        what_a_killed_master_leaves_the_next_one_removes,
        a_cgroup_of_somebody_elses_is_left_alone,
        who_holds_a_directory_of_the_cgroups_delays_those_with_limits_alone,
        who_waits_for_cgroups_counts_as_a_rocker,
    ])
}

const SIGKILL: u8 = 9;

const MEMORY: u64 = 32 << 20;

/// A master of whose cgroups no other test's master knows.
fn daemon() -> Daemon {
    Daemon::with_config(&format!("cgroup = \"{}\"\n", parent()))
}

fn parent() -> String {
    format!("/rocker-test-{}", std::process::id())
}

/// What there is below the parent, in all hierarchies.
fn left() -> Vec<PathBuf> {
    let parents = hierarchies().into_iter().map(|(place, ..)| place.join(&parent()[1..]));
    let entries = parents.flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).collect()
}

#[track_caller]
fn assert_none_left() {
    assert!(within(SOON, || left().is_empty()), "left: {:?}", left());
}

/// Runs the probe with these commands, to its end.
fn probe(rocker: &mut OpenRocker, commands: &[&str]) -> (ExitReport, String) {
    let (mut output, stdout) = std::io::pipe().unwrap();
    let program = Program::new("bin/probe").args(commands).stdin(Stdio::Null).stdout(stdout);
    let run = rocker.spawn(&program, &Limits::new()).unwrap();
    drop(program);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    (rocker.wait(&run).unwrap(), text)
}

fn ends(rocker: OpenRocker) {
    assert!(rocker.kill(SOON).unwrap(), "the rocker outlives its guard");
}

fn a_program_has_the_memory_it_may_have_and_no_more() {
    let (_, unified) = needs("memory");
    let daemon = daemon();
    let launch = daemon.launch(probe_package()).memory(MEMORY);
    let mut rocker = replayed(launch.open()).unwrap();
    let (report, text) = probe(&mut rocker, &["hog 8", "say enough"]);
    assert_eq!((report.exit, report.verdict), (Exit::Status(0), Verdict::Normal), "{text}");
    let peak = report.usage.memory_peak;
    // Linux before 5.19 does not tell in version 2.
    assert!(peak.is_some_and(|bytes| (8 << 20..=MEMORY).contains(&bytes)) || unified, "{report:?}");
    let (report, text) = probe(&mut rocker, &["hog 64", "say too much"]);
    assert_eq!(report.exit, Exit::Signal(9), "{text}");
    assert_eq!(report.verdict, Verdict::MemoryLimitExceeded);
    assert!(report.usage.memory_peak.is_none_or(|bytes| bytes <= MEMORY), "{report:?}");
    // The rocker lives, and another program has all of its memory again.
    let (report, _) = probe(&mut rocker, &["hog 8", "exit 3"]);
    assert_eq!(report.verdict, Verdict::NonzeroExitStatus);
    ends(rocker);
    assert_none_left();
}

fn an_app_that_wants_more_memory_is_killed() {
    needs("memory");
    let daemon = daemon();
    let launch = daemon.launch(probe_package()).memory(MEMORY);
    let app = App::start(&launch, &["hog 64", "say too much"]).unwrap();
    let answer = app.finish();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&answer.status), Some(9));
    assert!(answer.all("say").is_empty());
    assert_none_left();
}

/// The kernel keeps this limit, whoever has started the App.
fn the_command_says_that_an_app_was_out_of_memory() {
    needs("memory");
    let daemon = daemon();
    let run = |options: &[&str], commands: &[&str]| {
        let mut command = daemon.rocker_run();
        command.arg("--exec-dir").arg(daemon.exec_dir()).args(options);
        command.args(["--memory", "32M"]).arg(probe_package()).args(["--", "bin/probe"]);
        let output = command.args(commands).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for how in [&[][..], &["--wall", "50"]] {
        let (status, said) = run(how, &["hog 64"]);
        assert_eq!((status, said.as_str()), (Some(137), "rocker: memory limit exceeded\n"));
        let (status, said) = run(&[how, &["--json"]].concat(), &["hog 64"]);
        let told = json_of(said.as_bytes());
        assert_eq!((status, &told["verdict"]), (Some(137), &"memory limit exceeded".into()));
        // Nothing is made up where an App ends otherwise.
        assert_eq!(run(how, &["hog 8", "exit 3"]), (Some(3), String::new()));
    }
    assert_none_left();
}

fn forks_end_where_the_limit_is() {
    needs("pids");
    let daemon = daemon();
    let launch = daemon.launch(probe_package()).pids(32);
    // The probe itself is one of them.
    let app = App::start(&launch, &["forks 100"]).unwrap();
    let answer = app.finish();
    assert_eq!(answer.one("forks 100"), "31, then EAGAIN");
    let mut rocker = replayed(daemon.launch(probe_package()).pids(1).open()).unwrap();
    let (report, text) = probe(&mut rocker, &["forks 100"]);
    assert!(text.contains("forks 100: 0, then EAGAIN"), "{text}");
    assert!(report.usage.pids_peak.is_none_or(|peak| peak <= 2), "{report:?}");
    ends(rocker);
    assert_none_left();
}

fn processor_time_is_rationed() {
    let (place, unified) = needs("cpu");
    let daemon = daemon();
    let launch = daemon.launch(probe_package()).cpu_millis(100).cpu_weight(50);
    let mut app = App::start(&launch, &["say begin", "burn 100", "wait"]).unwrap();
    let group = place.join(&parent()[1..]).join(app.rocker.guard_name().as_str());
    let file = |name: &str| fs::read_to_string(group.join(name)).unwrap();
    let quota = match unified {
        true => file("cpu.max"),
        false => file("cpu.cfs_quota_us").replace('\n', " ") + &file("cpu.cfs_period_us"),
    };
    assert_eq!(quota, "10000 100000\n");
    let weight = if unified { ("cpu.weight", "50\n") } else { ("cpu.shares", "512\n") };
    assert_eq!(file(weight.0), weight.1);
    // It burns 100 ms, of which it has ten in each period.
    assert_eq!(app.line(), "say: begin");
    assert!(app.line().starts_with("burn"));
    let stat = file("cpu.stat");
    let throttled = stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")).unwrap();
    assert!(throttled.parse::<u64>().unwrap() > 0, "{stat}");
    app.finish();
    assert_none_left();
}

/// The cgroups of a process that are below this test's parent.
fn ours(cgroups: &str) -> usize {
    cgroups.lines().filter(|line| line.contains(&parent())).count()
}

fn all_limits(launch: Launch) -> Launch {
    launch.memory(MEMORY).pids(32).cpu_millis(1000).cpus("0")
}

fn an_app_is_inside_before_its_first_instruction() {
    for controller in ["memory", "pids", "cpu", "cpuset"] {
        needs(controller);
    }
    let daemon = daemon();
    let launch = all_limits(daemon.launch(probe_package()));
    let wanted = |guard: u32| {
        let of_guard = fs::read_to_string(format!("/proc/{guard}/cgroup")).unwrap();
        let count = ours(&of_guard);
        assert!(count > 0, "{of_guard}");
        (of_guard, count)
    };
    // A callback: it reads before it does anything else.
    let (rocker, text) = with_output(|| {
        // SAFETY: a test has a process of its own, and this one has one thread.
        let entered = unsafe {
            launch.enter(|| {
                print!("{}", fs::read_to_string("/proc/self/cgroup").unwrap());
                let fds = process::fd_links(std::process::id());
                i32::from(fds.into_values().any(|link| link.contains("cgroup")))
            })
        };
        let mut rocker = replayed(entered).unwrap();
        let (of_guard, _) = wanted(rocker.guard_pid());
        let status = rocker.wait().unwrap();
        assert_eq!(status.code(), Some(0), "it has a descriptor of its cgroup's");
        assert!(rocker.wait_gone(Some(SOON)).unwrap());
        of_guard
    });
    assert_eq!(text, rocker);
    // A program.
    let mut app = App::start(&launch, &["read /proc/self/cgroup", "wait"]).unwrap();
    let (of_guard, count) = wanted(app.rocker.guard_pid());
    let of_app = fs::read_to_string(format!("/proc/{}/cgroup", app.rocker.app_pid())).unwrap();
    assert_eq!(of_app, of_guard);
    app.go_on();
    app.finish();
    // And one that the guard starts.
    let mut rocker = replayed(launch.open()).unwrap();
    let (_, text) = probe(&mut rocker, &["read /proc/self/cgroup"]);
    // The probe says it in one line.
    assert_eq!(text.matches(&parent()).count(), count, "{text}");
    ends(rocker);
    assert_none_left();
}

fn a_program_is_where_its_caller_says_before_it_executes() {
    needs("pids");
    let name = format!("rocker-test-own-{}", std::process::id());
    // A new one of version 1 has no processor yet.
    let fits = |(_, unified, names): &(_, bool, String)| *unified || !names.contains("cpuset");
    let all = hierarchies().into_iter().filter(fits);
    let groups: Vec<PathBuf> = all.map(|(place, ..)| place.join(&name)).collect();
    groups.iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let procs = |dir: &PathBuf| fs::File::options().write(true).open(dir.join("cgroup.procs"));
    let daemon = daemon();
    let mut rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
    let where_is = |rocker: &mut OpenRocker, sync| {
        let mut command = rocker.command("bin/probe").arg("read /proc/self/cgroup");
        command = if sync { command.sync() } else { command };
        let command = groups.iter().fold(command, |it, dir| it.cgroup(procs(dir).unwrap()));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    for sync in [false, true] {
        let text = where_is(&mut rocker, sync);
        let inside = text.matches(&format!(":/{name}")).count();
        assert_eq!(inside, groups.len(), "{text}");
    }
    // The guard is where it was, and so is a program of which nothing is said.
    let own = fs::read_to_string(format!("/proc/{}/cgroup", rocker.guard_pid())).unwrap();
    let (_, text) = probe(&mut rocker, &["read /proc/self/cgroup"]);
    assert!(!own.contains(&name) && !text.contains(&name), "{own}{text}");
    // What is no cgroup.procs is not written to.
    let file = fs::File::create(daemon.path("file")).unwrap();
    let error = rocker.command("bin/probe").cgroup(file).output().unwrap_err();
    assert_eq!(error.step(), Step::ReportExit);
    assert!(error.to_string().contains("echo 0 > cgroup.procs: Invalid argument"), "{error}");
    let dir = fs::File::open(&groups[0]).unwrap();
    let error = rocker.command("bin/probe").cgroup(dir).output().unwrap_err();
    assert!(error.to_string().contains("echo 0 > cgroup.procs: "), "{error}");
    assert_eq!(fs::read(daemon.path("file")).unwrap(), b"");
    ends(rocker);
    let remove = |dir: &PathBuf| within(SOON, || fs::remove_dir(dir).is_ok());
    assert!(groups.iter().all(remove), "they are empty");
}

/// A group of the freezer's of version 1, in which nobody dies before it thaws.
struct Freezer(PathBuf);

impl Freezer {
    fn new() -> Self {
        let name = format!("rocker-test-frozen-{}", std::process::id());
        let dir = needs("freezer").0.join(name);
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn is_to_be(&self, state: &str) {
        fs::write(self.0.join("freezer.state"), state).unwrap();
    }

    fn procs(&self) -> fs::File {
        fs::File::options().write(true).open(self.0.join("cgroup.procs")).unwrap()
    }

    fn pids(&self) -> Vec<u32> {
        let pids = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        pids.lines().map(|line| line.parse().unwrap()).collect()
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("freezer.state"), "THAWED");
        let is_gone = || {
            for pid in self.pids().into_iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
                let _ = kill_process(pid, Signal::KILL);
            }
            fs::remove_dir(&self.0).is_ok()
        };
        assert!(within(SOON, is_gone) || std::thread::panicking(), "{:?}", self.0);
    }
}

fn a_program_in_a_frozen_group_keeps_nobody_waiting() {
    let group = Freezer::new();
    let daemon = daemon();
    let mut rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
    group.is_to_be("FROZEN");
    let start = |rocker: &mut OpenRocker, limits| {
        let command = rocker.command("bin/probe").arg("exit 3").limits(limits);
        let spawned = command.cgroup(group.procs()).spawn().unwrap();
        // It is frozen as soon as it is there.
        assert!(within(SOON, || group.pids().contains(&spawned.run.pid().unwrap())));
        spawned.run
    };
    let killed = start(&mut rocker, Limits::new());
    // Time enough to get there.
    let wall = Duration::from_secs(1);
    let late = start(&mut rocker, Limits::new().wall(wall));
    let patient = start(&mut rocker, Limits::new());
    rocker.signal(&killed, SIGKILL).unwrap();
    // Others are served meanwhile.
    for status in 0..3 {
        let (report, _) = probe(&mut rocker, &[&format!("exit {status}")]);
        assert_eq!(report.exit, Exit::Status(status));
    }
    std::thread::sleep(wall);
    for run in [&killed, &late, &patient] {
        assert_eq!(rocker.try_wait(run).unwrap(), None);
    }
    group.is_to_be("THAWED");
    for (run, verdict) in [(killed, Verdict::Cancelled), (late, Verdict::TimeLimitExceeded)] {
        let report = rocker.wait(&run).unwrap();
        assert_eq!((report.exit, report.verdict), (Exit::Signal(SIGKILL), verdict));
    }
    assert_eq!(rocker.wait(&patient).unwrap().exit, Exit::Status(3));
    // The end of the rocker waits for it, and so for who has frozen it.
    group.is_to_be("FROZEN");
    start(&mut rocker, Limits::new());
    let guard = rocker.guard_pid();
    assert!(!rocker.kill(Duration::from_millis(200)).unwrap(), "it is gone");
    assert!(process::is_alive(guard));
    group.is_to_be("THAWED");
    assert!(within(SOON, || !process::is_alive(guard)), "it is there still");
}

/// The kernel would end the caller as well, if the memory of a group ran out while its helper is
/// there: it ends all that share the memory of whoever has the most. What a copy has to say it
/// says in pages that it shares, and the App, which is a copy of it, has them, too.
fn who_joins_control_groups_shares_no_memory_with_the_caller() {
    needs("memory");
    let daemon = daemon();
    let shares_a_page = || {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        i32::from(maps.lines().any(|line| line.contains(" rw-s ") && line.contains("/dev/zero")))
    };
    for memory in [0, MEMORY] {
        let launch = daemon.launch(probe_package());
        let launch = if memory == 0 { launch } else { launch.memory(memory) };
        // SAFETY: a test has a process of its own, and this one has one thread.
        let mut rust = replayed(unsafe { launch.enter(shares_a_page) }).unwrap();
        let request = c_client::Request {
            uid: Some(APP_UID.cast_signed()),
            gid: Some(APP_GID.cast_signed()),
            package: Some(c_client::c_string(probe_package())),
            exec_dir: Some(c_client::c_string(daemon.exec_dir())),
            socket: Some(c_client::c_string(daemon.socket())),
            memory,
            ..c_client::Request::default()
        };
        // SAFETY: as above.
        let mut c = unsafe { request.enter(shares_a_page) }.unwrap();
        let copied = i32::from(memory != 0);
        assert_eq!(rust.wait().unwrap().code(), Some(copied));
        assert_eq!(c.wait().unwrap(), c_client::Status::Exited(copied));
        assert!(rust.wait_gone(Some(SOON)).unwrap() && c.wait_gone());
    }
}

fn without_limits_there_is_no_cgroup() {
    let daemon = daemon();
    let mut app = App::start(&daemon.launch(probe_package()), &["wait"]).unwrap();
    let cgroups = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(cgroups(app.rocker.guard_pid()), cgroups(daemon.pid()));
    assert!(hierarchies().iter().all(|(place, ..)| !place.join(&parent()[1..]).exists()));
    app.go_on();
    app.finish();
}

fn fifty_limited_rockers_at_once_leave_nothing() {
    needs("memory");
    needs("pids");
    let daemon = daemon();
    let launch = daemon.launch(probe_package()).memory(MEMORY).pids(8);
    let apps: Vec<App> = (0..50).map(|_| App::start(&launch, &["wait"]).unwrap()).collect();
    assert!(left().len() >= 50, "{:?}", left());
    apps.into_iter().for_each(|app| drop(app.finish()));
    assert_none_left();
}

fn a_limit_that_cannot_be_kept_is_refused() {
    needs("cpuset");
    needs("pids");
    let daemon = daemon();
    let error = refused(&daemon.launch(probe_package()).pids(8).cpus("4095"));
    let (rule, item) = (Rule::NoSuchCpu, Item::Cpus);
    assert_eq!(error.kind(), Error::Invalid { rule, item }, "{error}");
    assert_none_left();
    // The parent's place is taken: there are only files in such a directory.
    let mut daemon = daemon;
    daemon.configure("cgroup = \"/cgroup.procs/x\"\n");
    daemon.stop();
    daemon.restart();
    let error = refused(&daemon.launch(probe_package()).pids(8));
    assert_eq!(error.step(), Step::CreateGuard);
    assert!(error.to_string().contains("/cgroup.procs"), "{error}");
    daemon.configure(&format!("cgroup = \"{}\"\n", parent()));
}

/// Where `io` is, and whether that is version 2.
fn needs_io() -> (PathBuf, bool) {
    let is_new = |(_, unified, names): &(_, bool, String)| {
        *unified && names.split(',').any(|name| name == "io")
    };
    needs(if hierarchies().iter().any(is_new) { "io" } else { "blkio" })
}

/// A package on a partition that is mounted here, and the number of the partition's disk.
fn package_on_a_partition(dir: &Path) -> (PathBuf, String) {
    let inner = fs::read(probe_package()).unwrap();
    let file_system = Package::new().file("p.sqfs", 0o644, inner).build();
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    let image = file_system.to_str().unwrap();
    let losetup = ["--find", "--show", "--partscan", "--read-only", image];
    let device = output("losetup", &losetup);
    // Of the whole disk, without a table: not every kernel reads those.
    let sectors = (fs::metadata(&file_system).unwrap().len() / 512).to_string();
    output("addpart", &[&device, "1", "0", &sectors]);
    let name = device.trim_start_matches("/dev/");
    let number = |of: &str| fs::read_to_string(format!("/sys/block/{name}/{of}/dev")).unwrap();
    let (disk, partition) = (number("."), number(&format!("{name}p1")));
    // Where nobody makes nodes of partitions.
    let (nodes, mounted) = (dir.join("nodes"), dir.join("mounted"));
    [&nodes, &mounted].into_iter().for_each(|dir| fs::create_dir(dir).unwrap());
    mount(Some("tmpfs"), &nodes, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let (node, (major, minor)) = (nodes.join("p1"), partition.trim().split_once(':').unwrap());
    let partition = makedev(major.parse().unwrap(), minor.parse().unwrap());
    mknod(&node, SFlag::S_IFBLK, Mode::S_IRUSR, partition).unwrap();
    let (kind, flags) = (Some("squashfs"), MsFlags::MS_RDONLY);
    let answer = mount(Some(&node), &mounted, kind, flags, None::<&str>);
    // From now on it is there for as long as the mount is.
    output("losetup", &["--detach", &device]);
    answer.unwrap();
    (mounted.join("p.sqfs"), disk.trim_end().to_owned())
}

fn what_is_read_is_limited_on_the_disks_of_package_and_data_dir() {
    let (place, unified) = needs_io();
    tests::scratch::private_mounts();
    let daemon = daemon();
    let (package, disk) = package_on_a_partition(daemon.dir());
    let file = if unified { "io.max" } else { "blkio.throttle.read_bps_device" };
    let limits = |launch: Launch| {
        let launch = launch.io_read(10 << 20);
        let app = App::start(&launch, &["wait"]).unwrap();
        let group = place.join(&parent()[1..]).join(app.rocker.guard_name().as_str());
        let text = fs::read_to_string(group.join(file)).unwrap();
        app.finish();
        text
    };
    // The loop device that the package is mounted from is not among them: others read there, too.
    let rest = if unified { "rbps=10485760 wbps=max riops=max wiops=max" } else { "10485760" };
    let line = format!("{disk} {rest}\n");
    assert_eq!(limits(daemon.launch(&package)), line);
    // The data dir may have a disk as well.
    let device = fs::metadata(daemon.dir()).unwrap().dev();
    if major(device) != 0 {
        let both = limits(daemon.overlaid(&package, &["/usr"]));
        assert!(both.lines().count() == 2 && both.contains(&line), "{both}");
        let copy = daemon.path("p.sqfs");
        fs::copy(&package, &copy).unwrap();
        let once = limits(daemon.overlaid(&copy, &["/usr"]));
        assert!(once.lines().count() == 1 && once != line, "{once}");
    }
    assert_none_left();
}

fn a_limit_of_disks_that_cannot_be_kept_is_refused() {
    let (place, unified) = needs_io();
    tests::scratch::private_mounts();
    let daemon = daemon();
    let (package, disk) = package_on_a_partition(daemon.dir());
    let memory = daemon.path("memory");
    fs::create_dir(&memory).unwrap();
    mount(Some("tmpfs"), &memory, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let copy = memory.join("p.sqfs");
    fs::copy(&package, &copy).unwrap();
    let data = memory.join("data");
    fs::create_dir(&data).unwrap();
    let no_disk = |launch: Launch, item, path: &Path| {
        let error = refused(&launch.io_read(1 << 20));
        assert_eq!(error.kind(), Error::Invalid { rule: Rule::NoDisk, item }, "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    };
    no_disk(daemon.launch(&copy), Item::Package, &copy);
    no_disk(daemon.launch(&package).data_dir(&data), Item::DataDir, &data);
    // Writing.
    let launch = daemon.launch(&package).io_write(1 << 20);
    if unified {
        let app = App::start(&launch, &["wait"]).unwrap();
        let group = place.join(&parent()[1..]).join(app.rocker.guard_name().as_str());
        let text = fs::read_to_string(group.join("io.max")).unwrap();
        assert_eq!(text, format!("{disk} rbps=max wbps=1048576 riops=max wiops=max\n"));
        app.finish();
    } else {
        let error = refused(&launch);
        let (rule, item) = (Rule::NotHeld, Item::IoWrite);
        assert_eq!(error.kind(), Error::Invalid { rule, item }, "{error}");
        let request = c_client::Request {
            uid: Some(APP_UID.cast_signed()),
            gid: Some(APP_GID.cast_signed()),
            package: Some(c_client::c_string(&package)),
            exec_dir: Some(c_client::c_string(daemon.exec_dir())),
            socket: Some(c_client::c_string(daemon.socket())),
            io_write: 1 << 20,
            ..c_client::Request::default()
        };
        let same = request.open_rocker().unwrap_err();
        assert_eq!(same.to_string(), error.to_string());
    }
    assert_none_left();
}

fn the_policy_limits_those_who_do_not() {
    needs("pids");
    const USER: u32 = 4242;
    let dir = tests::scratch();
    let package = dir.path().join("p.sqfs");
    fs::copy(probe_package(), &package).unwrap();
    let daemon = Daemon::with_config("");
    let text = format!(
        "cgroup = \"{}\"\n[[allow]]\nuid = {USER}\npackages = [{:?}]\nexec_dirs = [{:?}]\n\
         max_pids = 4\n",
        parent(),
        dir.path(),
        daemon.exec_dir(),
    );
    daemon.configure(&text);
    let mut daemon = daemon;
    daemon.stop();
    daemon.restart();
    // Whoever connects is asking: that is this process as that user.
    nix::unistd::setegid(USER.into()).unwrap();
    nix::unistd::seteuid(USER.into()).unwrap();
    let launch = daemon.launch(&package).uid(USER).gid(USER);
    let opened = replayed(launch.open());
    let more = replayed(launch.clone().pids(5).open());
    nix::unistd::seteuid(0.into()).unwrap();
    nix::unistd::setegid(0.into()).unwrap();
    let mut rocker = opened.unwrap();
    let (_, text) = probe(&mut rocker, &["forks 100"]);
    assert!(text.contains("forks 100: 3, then EAGAIN"), "{text}");
    ends(rocker);
    let (rule, item) = (Rule::NotAllowed, Item::Pids);
    assert_eq!(more.unwrap_err().kind(), Error::Invalid { rule, item });
    assert_none_left();
}

fn what_a_killed_master_leaves_the_next_one_removes() {
    needs("pids");
    let mut daemon = daemon();
    let launch = daemon.launch(probe_package()).pids(8);
    let mut app = App::start(&launch, &["wait"]).unwrap();
    let lives = left();
    assert!(!lives.is_empty());
    // As if it had been killed in the middle of a launch.
    let beside = lives[0].with_file_name("0123456789abcde");
    fs::create_dir(&beside).unwrap();
    daemon.kill();
    daemon.restart();
    assert!(within(SOON, || !beside.exists()), "it is there still");
    // The rocker lives on, and so does its cgroup.
    assert_eq!(left(), lives);
    app.go_on();
    app.finish();
    assert_none_left();
    // The last one turns off the light.
    daemon.stop();
    assert!(hierarchies().iter().all(|(place, ..)| !place.join(&parent()[1..]).exists()));
    daemon.restart();
}

fn a_cgroup_of_somebody_elses_is_left_alone() {
    needs("pids");
    let daemon = daemon();
    let mut app = App::start(&daemon.launch(probe_package()).pids(8), &["wait"]).unwrap();
    let lives = left();
    // Another master at the same place neither removes what is empty nor what is not.
    let beside = lives[0].with_file_name("0123456789abcde");
    fs::create_dir(&beside).unwrap();
    let other = self::daemon();
    std::thread::sleep(Duration::from_millis(100));
    assert!(beside.exists() && lives.iter().all(|dir| dir.exists()));
    drop(other);
    fs::remove_dir(&beside).unwrap();
    app.go_on();
    app.finish();
    assert_none_left();
}

/// Somebody who lists a directory, into memory that does not come before this is dropped
/// (`man 2 userfaultfd`), and has its lock meanwhile.
struct Holder {
    memory: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Holder {
    fn of(dir: &Path) -> Self {
        const LENGTH: usize = 1 << 16;
        const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
        const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: it takes flags, and gives a descriptor that nobody else has.
        let memory = match unsafe { libc::syscall(libc::SYS_userfaultfd, flags) } {
            -1 => runner::skip("userfaultfd(2)"),
            // SAFETY: as above.
            fd => unsafe { OwnedFd::from_raw_fd(fd.try_into().unwrap()) },
        };
        let (kind, how) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new memory, which stays as long as the process.
        let at = unsafe { libc::mmap(core::ptr::null_mut(), LENGTH, kind, how, -1, 0) } as usize;
        // Pages that are missing are to be waited for.
        let (mut api, mut register) = ([0xaa_u64, 0, 0], [at as u64, LENGTH as u64, 1, 0]);
        // SAFETY: the struct is of three such words.
        assert_eq!(unsafe { libc::ioctl(memory.as_raw_fd(), UFFDIO_API, &mut api) }, 0);
        // SAFETY: this one is of four.
        assert_eq!(unsafe { libc::ioctl(memory.as_raw_fd(), UFFDIO_REGISTER, &mut register) }, 0);
        let dir = fs::File::open(dir).unwrap();
        let thread = std::thread::spawn(move || {
            // SAFETY: nobody else uses that memory.
            let listed =
                unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), at, LENGTH) };
            assert!(listed > 0, "{}", std::io::Error::last_os_error());
        });
        let mut waits = libc::pollfd { fd: memory.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one struct.
        assert_eq!(unsafe { libc::poll(&mut waits, 1, 5000) }, 1, "it has listed it");
        Self { memory: Some(memory), thread: Some(thread) }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.memory = None;
        self.thread.take().map(JoinHandle::join);
    }
}

/// At each moment in which the master has something to do there: where a launch makes them, where
/// an end removes them, and where a master finds what the one before it has left.
fn who_holds_a_directory_of_the_cgroups_delays_those_with_limits_alone() {
    let parent = needs("pids").0.join(&parent()[1..]);
    // As systemd makes it: others may list it.
    fs::create_dir(&parent).unwrap();
    let mut daemon = daemon();
    let launch = daemon.launch(probe_package()).pids(8);
    let others = daemon.launch(probe_package()).timeout(Duration::from_secs(1));
    let serves_others = || (0..10).for_each(|_| drop(app::run(&others, &[])));
    let holder = Holder::of(&parent);
    std::thread::scope(|threads| {
        let short = launch.clone().timeout(Duration::from_secs(2));
        let late = threads.spawn(move || refused(&short));
        serves_others();
        let error = late.join().unwrap().to_string();
        let told = error.contains("(root.2): cgcreate ") && error.ends_with("timed out");
        assert!(told, "{error}");
    });
    drop(holder);
    let app = App::start(&launch, &["wait"]).unwrap();
    let group = parent.join(app.rocker.guard_name().as_str());
    let is_listed_by_others = |dir: &PathBuf| fs::metadata(dir).unwrap().mode() & 0o044 != 0;
    assert!(!left().iter().any(is_listed_by_others), "{:?}", left());
    let holder = Holder::of(&group);
    drop(app.finish());
    serves_others();
    assert!(group.exists());
    drop(holder);
    assert_none_left();
    let beside = parent.join("0123456789abcde");
    fs::create_dir(&beside).unwrap();
    daemon.kill();
    let holder = Holder::of(&beside);
    daemon.restart();
    serves_others();
    assert!(beside.exists());
    drop(holder);
    assert_none_left();
}

/// Of those that come at once no more than the user may have.
fn who_waits_for_cgroups_counts_as_a_rocker() {
    let parent = needs("pids").0.join(&parent()[1..]);
    fs::create_dir(&parent).unwrap();
    let dir = tests::scratch();
    let package = dir.path().join("p.sqfs");
    fs::copy(probe_package(), &package).unwrap();
    let mut daemon = daemon();
    daemon.stop();
    fs::create_dir_all(&parent).unwrap();
    daemon.configure(&format!(
        "cgroup = \"{}\"\n[[allow]]\nuid = {APP_UID}\npackages = [{:?}]\nexec_dirs = [{:?}]\n\
         run_as_gids = [{APP_GID}]\nmax_rockers = 2\n",
        self::parent(),
        dir.path(),
        daemon.exec_dir(),
    ));
    daemon.restart();
    let launch = daemon.launch(&package).pids(8);
    let connections = [(); 8].map(|()| daemon.connection_of(APP_UID));
    let holder = Holder::of(&parent);
    let opened: Vec<_> = std::thread::scope(|threads| {
        let open = |connection| threads.spawn(|| replayed(launch.open_over(connection)));
        let launches = connections.map(open);
        let refused = || launches.iter().filter(|it| it.is_finished()).count();
        assert!(within(SOON, || refused() >= 6), "{} are refused", refused());
        drop(holder);
        launches.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let (rule, item) = (Rule::TooManyRockers, Item::Request);
    let refused = opened.iter().filter_map(|it| it.as_ref().err());
    assert!(refused.clone().all(|it| it.kind() == Error::Invalid { rule, item }), "{opened:?}");
    assert_eq!(refused.count(), 6);
    opened.into_iter().flatten().for_each(ends);
    assert_none_left();
}
