//! The C library as it is documented: the sample, names and pids, and the AppMaster in C.
#![allow(unsafe_code, reason = "callbacks have no safe form")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio as Pipe};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change};
use tests::both::{Both, sleeper};
use tests::c_client::{self, Request, Status, code, guard_name};
use tests::programs::workspace;
use tests::{APP_UID, Daemon, Leaks, Package, SOON, bin};
use tests::{probe_package, process, runner, scratch, within};

fn main() -> ExitCode {
    runner::main(tests::root![
        the_documented_sample_runs_as_it_is,
        the_documented_sample_says_that_there_is_no_master,
        enter_rocker_returns_what_is_documented,
        pids_names_and_pidfds_are_those_of_guard_and_app,
        a_guard_is_killed_by_its_name_alone,
        the_appmaster_starts_restarts_and_stops_its_apps,
        the_appmaster_waits_for_whatever_an_app_leaves_it,
        the_least_appmaster_ends_as_its_app_does,
        the_appmaster_names_a_list_of_no_use,
        the_appmaster_does_not_try_again_what_breaks_a_rule,
        the_appmaster_of_the_readme_runs,
    ])
}

fn with_own_mounts() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}

/// Replaces these directories by empty ones, for this process and all it starts, in which only
/// what the tests themselves need is where it was.
fn with_own(dirs: &[&str]) {
    with_own_mounts();
    let scratch = std::env::var_os("ROCKER_TEST_SCRATCH").map(PathBuf::from).unwrap();
    let programs = bin("rocker").parent().unwrap().to_owned();
    for dir in dirs {
        let kept: Vec<(&Path, OwnedFd)> = [&*scratch, workspace(), &programs]
            .into_iter()
            .filter(|path| path.starts_with(dir))
            .map(|path| {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                (path, rustix::fs::open(path, flags, Mode::empty()).unwrap())
            })
            .collect();
        mount("tmpfs", *dir, "tmpfs", MountFlags::empty(), Some(c"mode=755")).unwrap();
        for (path, fd) in kept {
            fs::create_dir_all(path).unwrap();
            let fd = format!("/proc/self/fd/{}", fd.as_raw_fd());
            mount_bind_recursive(fd.as_str(), path).unwrap();
        }
    }
}

/// A master at the documented socket.
fn documented_master() -> Daemon {
    let daemon = Daemon::start();
    fs::create_dir("/run/rocker").unwrap();
    mount_bind_recursive(daemon.socket().parent().unwrap(), "/run/rocker").unwrap();
    daemon
}

fn loops_of(package: &str) -> usize {
    let file = |entry: std::io::Result<fs::DirEntry>| {
        fs::read_to_string(entry.unwrap().path().join("loop/backing_file")).ok()
    };
    let files = fs::read_dir("/sys/block").unwrap().filter_map(file);
    files.filter(|file| file.trim_end().ends_with(package)).count()
}

fn the_documented_sample_runs_as_it_is() {
    with_own(&["/run", "/var", "/tmp"]);
    fs::copy(probe_package(), "/tmp/your_APP.squashfs").unwrap();
    fs::create_dir_all("/var/your_APP/execdir").unwrap();
    fs::create_dir_all("/var/your_APP/datadir").unwrap();
    let daemon = documented_master();
    let leaks = Leaks::snapshot();
    let mut sample = Command::new(env!("ROCKER_EXAMPLE_SAMPLE"))
        .stdin(Pipe::piped())
        .stdout(Pipe::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(sample.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut first = [output.next().unwrap(), output.next().unwrap()];
    first.sort();
    assert_eq!(first[1], "your APP runs as user 1000");
    let words: Vec<&str> = first[0].split([' ', ',']).collect();
    let ["App", app, "", "guard", guard, "called", name] = words[..] else { panic!("{words:?}") };
    let [app_pid, guard_pid] = [app, guard].map(|pid| pid.parse::<u32>().unwrap());
    let stat = process::stat(app_pid).unwrap();
    assert_eq!(stat.ppid, sample.id(), "the App is the caller's own child");
    assert_eq!(process::status(app_pid)["Uid"], "1000 1000 1000 1000");
    assert_eq!(process::stat(guard_pid).unwrap().comm, name);
    assert_eq!(process::inside(guard_pid), [app_pid]);
    assert_eq!(loops_of("your_APP.squashfs"), 1);
    let mounts = fs::read_to_string(format!("/proc/{app_pid}/mountinfo")).unwrap();
    for place in ["/usr", "/var", "/etc", "/home", "/root", "/var/your_APP/execdir"] {
        assert!(mounts.contains(&format!(" {place} ")), "{place} in {mounts}");
    }
    sample.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(output.next().unwrap(), format!("pid {guard} is {name} still"));
    assert_eq!(output.next().unwrap(), format!("App {app} was ended by signal 9"));
    assert_eq!(output.next(), None);
    assert!(sample.wait().unwrap().success());
    assert!(within(SOON, || loops_of("your_APP.squashfs") == 0 && daemon.records().is_empty()));
    assert_eq!(process::stat(guard_pid), None);
    leaks.assert_none();
}

fn the_documented_sample_says_that_there_is_no_master() {
    with_own(&["/run"]);
    let sample = Command::new(env!("ROCKER_EXAMPLE_SAMPLE")).stdin(Pipe::null()).output().unwrap();
    assert_eq!(sample.status.code(), Some(1));
    assert_eq!(String::from_utf8(sample.stderr).unwrap(), "no rocker: send_req_failed\n");
}

fn enter_rocker_returns_what_is_documented() {
    with_own(&["/run"]);
    let daemon = documented_master();
    // It has no option for another socket.
    let request = Request { socket: None, ..Both::new(&daemon).c };
    let descriptors = process::fds(std::process::id());
    // SAFETY: the runner gives each test a process with one thread.
    let (code, app, guard, name) = unsafe {
        request.enter_rocker(|| {
            rustix::process::pidfd_open(
                rustix::process::Pid::INIT,
                rustix::process::PidfdFlags::empty(),
            )
            .map_or(1, |_| 42)
        })
    };
    assert_eq!(code, code::SUCCESS);
    assert_eq!(guard_name(guard).as_ref(), Ok(&name));
    assert_eq!(process::stat(guard.cast_unsigned()).unwrap().ppid, daemon.pid());
    let app = nix::unistd::Pid::from_raw(app);
    let ended = nix::sys::wait::waitpid(app, None);
    assert_eq!(ended, Ok(nix::sys::wait::WaitStatus::Exited(app, 42)));
    assert_eq!(process::fds(std::process::id()), descriptors, "it returns no descriptor");
    assert!(within(SOON, || daemon.records().is_empty()));
    let request = Request { uid: Some(0), ..request };
    // SAFETY: as above.
    let refused = unsafe { request.enter_rocker(|| 1) };
    assert_eq!(refused, (code::PARAM_INVALID, 0, 0, String::new()));
}

fn pids_names_and_pidfds_are_those_of_guard_and_app() {
    let daemon = Daemon::start();
    let (stdin, go_on) = std::io::pipe().unwrap();
    let program = c_client::Program::new("bin/probe").args(["wait", "exit 7"]).stdio(0, stdin);
    let mut rocker = Both::new(&daemon).c.spawn(&program).unwrap();
    drop(program);
    let (app, guard) = (rocker.app_pid(), rocker.guard_pid());
    assert_eq!(process::stat(app).unwrap().ppid, std::process::id());
    assert_eq!(process::stat(guard).unwrap().ppid, daemon.pid());
    assert_eq!(process::stat(guard).unwrap().comm, rocker.guard_name());
    assert_eq!(rocker.guard_name().len(), 15);
    for (pidfd, pid) in [(rocker.app_pidfd(), app), (rocker.guard_pidfd(), guard)] {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
        assert!(info.lines().any(|line| line == format!("Pid:\t{pid}")), "{info}");
        let flags = rustix::io::fcntl_getfd(pidfd).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
    assert_eq!(rocker.signal_app(0), 0);
    assert_eq!(rocker.signal_app(1000), nix::libc::EINVAL);
    drop(go_on);
    assert_eq!(rocker.wait().unwrap(), Status::Exited(7));
    assert!(rocker.wait_gone());
    assert_eq!((rocker.kill(), rocker.signal_app(15)), (0, 0), "too late is no error");
}

fn a_guard_is_killed_by_its_name_alone() {
    let daemon = Daemon::start();
    let mut rocker = Both::new(&daemon).c.spawn(&sleeper()).unwrap();
    let (guard, name) = (rocker.guard_pid(), rocker.guard_name());
    assert_eq!(guard_name(guard.cast_signed()).as_ref(), Ok(&name));
    for wrong in ["", "0123456789abcde", &name[..14], "rocker-master"] {
        assert_eq!(c_client::kill_guard(guard, wrong), nix::libc::ESRCH, "{wrong:?}");
    }
    // Another process has not its name.
    assert_eq!(c_client::kill_guard(std::process::id(), &name), nix::libc::ESRCH);
    assert!(process::is_alive(guard));
    assert_eq!(c_client::kill_guard(guard, &name), 0);
    assert_eq!(rocker.wait().unwrap(), Status::Signaled(9));
    assert!(rocker.wait_gone());
    assert!(within(SOON, || process::stat(guard).is_none()));
    assert_eq!(c_client::kill_guard(guard, &name), nix::libc::ESRCH);
}

// --- The AppMaster. -----------------------------------------------------------------------------

/// What the AppMaster prints, line by line, and when.
struct Story<R> {
    output: BufReader<R>,
    told: Vec<(Instant, String)>,
}

impl<R: Read> Story<R> {
    /// Reads on until it has said this as often, and returns when it last did.
    fn until(&mut self, begin: &str, times: usize) -> Instant {
        loop {
            let all = self.told.iter().filter(|(_, line)| line.starts_with(begin));
            let all: Vec<Instant> = all.map(|(when, _)| *when).collect();
            if all.len() >= times {
                return all[times - 1];
            }
            let mut line = String::new();
            let read = self.output.read_line(&mut line).unwrap();
            assert!(read > 0, "{begin:?} is missing in {:#?}", self.told);
            self.told.push((Instant::now(), line.trim_end().to_owned()));
        }
    }

    /// All it has said of this App.
    fn of(&self, name: &str) -> Vec<&str> {
        let lines = self.told.iter().map(|(_, line)| line.as_str());
        lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
    }
}

/// The pid in `App 12, guard 34 called ...`.
fn app_of(line: &str) -> u32 {
    line.split([' ', ',']).nth(1).unwrap().parse().unwrap()
}

/// One that says when it listens, one that does not, one that crashes and one that has done its
/// work.
fn apps() -> PathBuf {
    Package::new()
        .file(
            "steady",
            0o755,
            "#!/bin/sh\ntrap 'exit 0' TERM\necho ready\nwhile :; do sleep 0.02; done\n",
        )
        .file("deaf", 0o755, "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.02; done\n")
        .file("flaky", 0o755, "#!/bin/sh\nexit 3\n")
        .file("once", 0o755, "#!/bin/sh\nexit 0\n")
        .build()
}

fn the_appmaster_starts_restarts_and_stops_its_apps() {
    let daemon = Daemon::start();
    let package = apps();
    let leaks = Leaks::snapshot();
    tests::scratch::directory(daemon.data_dir().join("steady"), 0o755, 0);
    let at = package.display();
    let list = format!(
        "steady {at} ./steady /etc\n\ndeaf {at} ./deaf\nflaky {at} ./flaky\n\
         once {at} ./once\nlost {at} ./lost\n"
    );
    fs::write(daemon.path("list"), list).unwrap();
    let mut master = Command::new(env!("ROCKER_EXAMPLE_APPMASTER"))
        .args(["-u", &APP_UID.to_string(), "-b", "60", "-g", "400", "-s"])
        .args([&daemon.socket(), Path::new("-x"), &daemon.exec_dir(), Path::new("-d")])
        .args([&daemon.data_dir(), &daemon.path("list")])
        .stdin(Pipe::piped())
        .stdout(Pipe::piped())
        .stderr(Pipe::piped())
        .spawn()
        .unwrap();
    let mut commands = master.stdin.take().unwrap();
    let output = BufReader::new(master.stdout.take().unwrap());
    let mut story = Story { output, told: vec![] };
    // Two live, one has done its work, one cannot begin, and one crashes, less and less often.
    story.until("steady: App ", 1);
    story.until("deaf: App ", 1);
    story.until("once: gone", 1);
    story.until("lost: again in 120 ms", 1);
    for (round, wait_ms) in [(1, 60), (2, 120), (3, 240), (4, 480)] {
        let ended = story.until("flaky: ended with status 3", round);
        story.until(&format!("flaky: again in {wait_ms} ms"), 1);
        let again = story.until("flaky: App ", round + 1);
        // The line of its start is printed when it runs; that of its end may have been read late.
        let waited = again.duration_since(ended).as_millis();
        assert!((wait_ms - 20..wait_ms + 2000).contains(&waited), "{wait_ms} ms were {waited}");
    }
    assert_eq!(story.of("once").len(), 3, "{:?}", story.of("once"));
    assert!(story.of("lost")[0].starts_with("cannot start the App (enter.3): exec ./lost: "));
    // One is killed by somebody, and is there again.
    process::kill(app_of(story.of("steady")[0]));
    story.until("steady: ended by signal 9", 1);
    story.until("steady: again in 60 ms", 1);
    story.until("steady: App ", 2);
    // What is stopped stays away.
    let second = app_of(story.of("steady")[3]);
    assert!(process::is_alive(second));
    story.until("ready", 2);
    commands.write_all(b"stop nobody\nstop flaky\nstop lost\nstop ste").unwrap();
    commands.write_all(b"ady\n").unwrap();
    story.until("steady: stops, with 400 ms to do so", 1);
    story.until("steady: ended with status 0", 1);
    story.until("steady: gone", 1);
    assert_eq!(process::stat(second), None);
    // One that does not listen has its grace, and then no more.
    let deaf = app_of(story.of("deaf")[0]);
    assert!(process::is_alive(deaf));
    drop(commands);
    let told = story.until("deaf: stops, with 400 ms to do so", 1);
    let killed = story.until("deaf: does not stop, so its guard is killed", 1);
    assert!((380..5000).contains(&killed.duration_since(told).as_millis()));
    story.until("deaf: ended by signal 9", 1);
    story.until("deaf: gone", 1);
    assert!(master.wait().unwrap().success());
    let rest = std::io::read_to_string(story.output).unwrap();
    assert!(!rest.contains("App "), "{rest}");
    let complaints = std::io::read_to_string(master.stderr.take().unwrap()).unwrap();
    assert_eq!(complaints, "appmaster: \"stop nobody\" is no \"stop NAME\" of an App\n");
    assert!(within(SOON, || daemon.records().is_empty()));
    assert_eq!(process::stat(deaf), None);
    leaks.assert_none();
}

/// A thread that is traced by the App's parent, and has ended, keeps the App.
fn the_appmaster_waits_for_whatever_an_app_leaves_it() {
    let daemon = Daemon::start();
    let script = "#!/bin/sh\nexec bin/probe traced-thread 'sleep 60000'\n";
    let package = Package::with_probe().file("sly", 0o755, script).build();
    fs::write(daemon.path("list"), format!("sly {} ./sly\n", package.display())).unwrap();
    let mut master = Command::new(env!("ROCKER_EXAMPLE_APPMASTER"))
        .args(["-u", &APP_UID.to_string(), "-s"])
        .args([&daemon.socket(), Path::new("-x"), &daemon.exec_dir(), &daemon.path("list")])
        .stdin(Pipe::piped())
        .stdout(Pipe::piped())
        .spawn()
        .unwrap();
    let commands = master.stdin.take().unwrap();
    let output = BufReader::new(master.stdout.take().unwrap());
    let mut story = Story { output, told: vec![] };
    story.until("traced-thread: ok", 1);
    drop(commands);
    assert!(within(SOON, || master.try_wait().unwrap().is_some()), "it waits for ever");
    story.until("sly: ended by signal 15", 1);
    story.until("sly: gone", 1);
}

fn the_least_appmaster_ends_as_its_app_does() {
    let daemon = Daemon::start();
    let script = "#!/bin/sh\ngrep -q 'overlay /etc ' /proc/mounts && read word && exit $word\n";
    let package = Package::new().file("app", 0o755, script).build();
    let words = |data: &Path, dir: &str| {
        let mut launch = Command::new(env!("ROCKER_EXAMPLE_LAUNCH"));
        launch.arg(daemon.socket()).arg(&package).arg(daemon.exec_dir()).arg(data);
        launch.args([&APP_UID.to_string(), "./app", dir]);
        launch
    };
    let data = daemon.data_dir().join("least");
    tests::scratch::directory(&data, 0o755, 0);
    let mut launch = words(&data, "/etc").stdin(Pipe::piped()).spawn().unwrap();
    launch.stdin.take().unwrap().write_all(b"7\n").unwrap();
    assert_eq!(launch.wait().unwrap().code(), Some(7));
    let output = words(&data, "/nope").output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("launch: ") && said.contains("/nope"), "{said}");
    let output = Command::new(env!("ROCKER_EXAMPLE_LAUNCH")).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
}

fn the_appmaster_names_a_list_of_no_use() {
    for (list, wanted) in [
        ("nope.list", "cannot open nope.list: No such file or directory"),
        ("/dev/null", "/dev/null: each line needs NAME PACKAGE PROGRAM [OVERLAID_DIR]..."),
    ] {
        let output = Command::new(env!("ROCKER_EXAMPLE_APPMASTER")).arg(list).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((said, output.status.code()), (format!("appmaster: {wanted}\n"), Some(2)));
    }
}

fn the_appmaster_does_not_try_again_what_breaks_a_rule() {
    let dir = scratch();
    let list = dir.path().join("list");
    fs::write(&list, "wrong wrong.sqfs ./x\n").unwrap();
    let mut master = Command::new(env!("ROCKER_EXAMPLE_APPMASTER"));
    let mut master = master.arg(&list).stdin(Pipe::piped()).stdout(Pipe::piped()).spawn().unwrap();
    // Its standard input stays open: it ends because there is nothing more to do.
    let _commands = master.stdin.take().unwrap();
    let said = std::io::read_to_string(master.stdout.take().unwrap()).unwrap();
    assert_eq!(said, "wrong: package wrong.sqfs: the path must be absolute\nwrong: gone\n");
    assert!(master.wait().unwrap().success());
}

fn the_appmaster_of_the_readme_runs() {
    with_own(&["/run"]);
    let daemon = documented_master();
    let package = Package::new().file("hello", 0o755, "#!/bin/sh\necho hello\n").build();
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    let blocks = readme.split("```sh\n").filter_map(|text| text.split("```").next());
    let block = blocks.skip(1).find(|block| block.contains("appmaster.c")).unwrap();
    let dir = scratch();
    fs::copy(package, dir.path().join("hello.sqfs")).unwrap();
    let target = bin("rocker").parent().unwrap().parent().unwrap().to_owned();
    std::os::unix::fs::symlink(workspace().join("client-c"), dir.path().join("client-c")).unwrap();
    std::os::unix::fs::symlink(target, dir.path().join("target")).unwrap();
    let mut shell = Command::new("sh");
    shell.arg("-ec").arg(block).current_dir(dir.path()).stdin(Pipe::piped());
    let mut shell = shell.stdout(Pipe::piped()).spawn().unwrap();
    let mut said = String::new();
    // Its standard input stays open until it has ended by itself: its one App did its work.
    shell.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(shell.wait().unwrap().success());
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.contains(&"hello"), "{said}");
    assert!(lines.iter().any(|line| line.starts_with("hello: App ")), "{said}");
    assert_eq!(lines.last(), Some(&"hello: gone"), "{said}");
    assert!(within(SOON, || daemon.records().is_empty()));
}
