//! The C library through its public header, against a real master: what is documented, every
//! error, and that an App cannot tell by which of the two libraries it was started.
#![allow(unsafe_code, reason = "callbacks, signal(2), prctl(2) and keyctl(2) have no safe form")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::time::Duration;
use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio as Pipe};
use std::time::Instant;

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use protocol::socket::{Buffer, Received, now_ns, receive_before, send};
use protocol::{GuardMessage, Message};
use rocker_client::{Error, Launch, Program, Seccomp, Stdio};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socketpair};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use tests::app::with_output;
use tests::c_client::{self, Pending, Request, Status, c_string, code, error_name, guard_name};
use tests::programs::workspace;
use tests::replay::replayed;
use tests::{APP_GID, APP_UID, Daemon, Leaks, Package, SOON, bin};
use tests::{facts, probe_package, process, runner, scratch, within};

fn main() -> ExitCode {
    runner::main(tests::root![
        the_documented_sample_runs_as_it_is,
        the_documented_sample_says_that_there_is_no_master,
        enter_rocker_returns_what_is_documented,
        pids_names_and_pidfds_are_those_of_guard_and_app,
        a_guard_is_killed_by_its_name_alone,
        codes_have_their_documented_names,
        a_broken_rule_is_param_invalid,
        what_the_policy_forbids_is_param_invalid,
        misuse_of_the_header_is_param_invalid,
        what_fails_before_root_1_has_codes_of_its_own,
        no_master_is_send_req_failed,
        no_answer_is_recv_resp_failed,
        what_cannot_be_built_is_build_rocker_failed,
        what_cannot_be_entered_is_enter_rocker_failed,
        what_cannot_be_executed_is_app_exec_failed,
        a_pid_of_nobody_is_get_guardname_failed,
        every_form_of_a_program_arrives_the_same,
        a_terminal_controls_an_app_of_either,
        what_an_app_may_do_is_the_same,
        filters_of_the_callers_own_are_the_same,
        volatile_overlays_are_the_same,
        the_second_wall_is_the_same,
        apps_of_both_are_the_same,
        apps_of_both_are_the_same_with_many_threads,
        apps_of_both_are_the_same_under_limits,
        apps_of_both_are_the_same_whatever_signals_mean,
        apps_of_both_are_the_same_while_sigchld_is_ignored,
        apps_of_both_are_the_same_when_stdio_is_close_on_exec,
        apps_of_both_are_the_same_when_stdin_is_closed,
        apps_of_both_are_the_same_while_the_lock_is_taken,
        apps_of_both_are_the_same_when_the_caller_is_not_dumpable,
        the_caller_stays_dumpable_or_not_dumpable,
        five_hundred_launches_leave_caller_and_master_flat,
        thirty_two_launches_go_through_one_poll_loop,
        launches_given_up_at_any_moment_leave_nothing,
        the_appmaster_starts_restarts_and_stops_its_apps,
        the_appmaster_names_a_list_of_no_use,
        the_appmaster_does_not_try_again_what_breaks_a_rule,
        the_appmaster_of_the_readme_runs,
    ])
}

// --- The same launch by both libraries. ---------------------------------------------------------

/// One launch in the words of both.
#[derive(Clone, Debug)]
struct Both {
    rust: Launch,
    c: Request,
}

impl Both {
    fn new(daemon: &Daemon) -> Self {
        Self::of(daemon, &probe_package())
    }

    fn of(daemon: &Daemon, package: &Path) -> Self {
        let c = Request {
            uid: Some(APP_UID.cast_signed()),
            gid: Some(APP_GID.cast_signed()),
            package: Some(c_string(package)),
            exec_dir: Some(c_string(daemon.exec_dir())),
            socket: Some(c_string(daemon.socket())),
            ..Request::default()
        };
        Self { rust: daemon.launch(package), c }
    }

    fn unconfined(mut self) -> Self {
        self.c.unconfined = true;
        Self { rust: self.rust.seccomp(Seccomp::Unconfined), ..self }
    }

    fn seccomp_log(mut self) -> Self {
        self.c.seccomp_log = true;
        Self { rust: self.rust.seccomp(Seccomp::Log), ..self }
    }

    fn filter(mut self, filter: &[u8]) -> Self {
        self.c.filter = filter.to_vec();
        Self { rust: self.rust.seccomp(Seccomp::Filter(filter.to_vec())), ..self }
    }

    fn volatile(mut self) -> Self {
        self.c.volatile = true;
        Self { rust: self.rust.volatile(true), ..self }
    }

    fn landlock(mut self) -> Self {
        self.c.landlock = true;
        Self { rust: self.rust.landlock(true), ..self }
    }

    fn user_namespaces(mut self) -> Self {
        self.c.user_namespaces = true;
        Self { rust: self.rust.user_namespaces(true), ..self }
    }

    fn uid(mut self, uid: u32) -> Self {
        self.c.uid = Some(uid.cast_signed());
        Self { rust: self.rust.uid(uid), ..self }
    }

    fn gid(mut self, gid: u32) -> Self {
        self.c.gid = Some(gid.cast_signed());
        Self { rust: self.rust.gid(gid), ..self }
    }

    fn package(self, package: &str) -> Self {
        let Self { mut c, .. } = self;
        let rust = Launch::new(package).uid(APP_UID).gid(APP_GID);
        c.package = Some(c_string(package));
        Self { rust, c }
    }

    fn exec_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.c.exec_dir = Some(c_string(&dir));
        Self { rust: self.rust.exec_dir(dir), ..self }
    }

    fn data_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.c.data_dir = Some(c_string(&dir));
        Self { rust: self.rust.data_dir(dir), ..self }
    }

    fn overlay(mut self, dir: impl AsRef<Path>) -> Self {
        self.c.overlay_dirs.push(c_string(&dir));
        Self { rust: self.rust.overlay(dir), ..self }
    }

    fn timeout_ms(mut self, ms: u32) -> Self {
        self.c.timeout_ms = Some(ms.cast_signed());
        Self { rust: self.rust.timeout(Duration::from_millis(ms.into())), ..self }
    }

    fn socket(mut self, socket: impl AsRef<Path>) -> Self {
        self.c.socket = Some(c_string(&socket));
        Self { rust: self.rust.socket(socket), ..self }
    }
}

/// One program in the words of both.
#[derive(Clone, Debug)]
struct Words {
    path: String,
    args: Vec<String>,
    env: Vec<(&'static str, &'static str)>,
    cwd: Option<String>,
    /// Not descriptor 1, unless the output goes elsewhere.
    null: [bool; 3],
    /// Where the pipe is that is read: as 1, or else as 3.
    output_is_stdout: bool,
    files: Vec<PathBuf>,
    keep_session: bool,
}

impl Words {
    fn new<S: ToString>(path: &str, args: impl IntoIterator<Item = S>) -> Self {
        Self {
            path: path.to_owned(),
            args: args.into_iter().map(|arg| arg.to_string()).collect(),
            env: vec![],
            cwd: None,
            null: [false; 3],
            output_is_stdout: true,
            files: vec![],
            keep_session: false,
        }
    }

    fn probe<S: ToString>(commands: impl IntoIterator<Item = S>) -> Self {
        Self::new("bin/probe", commands)
    }

    /// What the App finds as 3, 4, ...
    fn kept(&self, output: &OwnedFd) -> Vec<OwnedFd> {
        let output = (!self.output_is_stdout).then(|| output.try_clone().unwrap());
        let files = self.files.iter().map(|file| fs::File::open(file).unwrap().into());
        output.into_iter().chain(files).collect()
    }

    fn stdio(&self, number: usize, output: &OwnedFd) -> Stdio {
        match number {
            1 if self.output_is_stdout => output.try_clone().unwrap().into(),
            _ if self.null[number] => Stdio::Null,
            _ => Stdio::Inherit,
        }
    }

    fn rust(&self, output: &OwnedFd) -> Program {
        let mut program = Program::new(&self.path)
            .args(&self.args)
            .stdin(self.stdio(0, output))
            .stdout(self.stdio(1, output))
            .stderr(self.stdio(2, output));
        program = self.env.iter().fold(program, |program, (name, value)| program.env(name, value));
        program = self.kept(output).into_iter().fold(program, Program::keep_fd);
        program = self.cwd.iter().fold(program, |program, dir| program.cwd(dir));
        if self.keep_session { program.keep_session() } else { program }
    }

    fn c(&self, output: &OwnedFd) -> c_client::Program {
        let mut program = c_client::Program::new(&self.path).args(&self.args);
        program = (0..3).fold(program, |program, n| program.stdio(n, self.stdio(n, output)));
        program = self.env.iter().fold(program, |program, (name, value)| program.env(name, value));
        program = self.kept(output).into_iter().fold(program, c_client::Program::keep_fd);
        program = self.cwd.iter().fold(program, |program, dir| program.cwd(dir));
        if self.keep_session { program.keep_session() } else { program }
    }
}

/// What was printed and how it ended, where somebody could tell; or why there was nothing.
type Told = Result<(String, Option<Status>), String>;

fn read_all(mut output: impl Read) -> String {
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    text
}

fn status_of_rust(rocker: &mut rocker_client::Rocker) -> Option<Status> {
    use std::os::unix::process::ExitStatusExt;
    let status = rocker.wait().ok();
    assert!(rocker.wait_gone(Some(SOON)).unwrap());
    status.map(|status| match status.code() {
        Some(code) => Status::Exited(code),
        None => Status::Signaled(status.signal().unwrap()),
    })
}

fn status_of_c(rocker: &mut c_client::Rocker) -> Option<Status> {
    let status = rocker.wait().ok();
    assert!(rocker.wait_gone());
    status
}

/// By `Launch::spawn`, by `ROCKER_spawn` and by `ROCKER_launch_begin`.
fn spawned(both: &Both, words: &Words) -> [Told; 3] {
    let pipe = || {
        let (output, writer) = std::io::pipe().unwrap();
        (output, OwnedFd::from(writer))
    };
    let (output, writer) = pipe();
    let rust = replayed(both.rust.spawn(&words.rust(&writer))).map_err(|error| error.to_string());
    drop(writer);
    let rust = rust.map(|mut rocker| (read_all(output), status_of_rust(&mut rocker)));
    let by_c =
        |launch: &dyn Fn(&c_client::Program) -> Result<c_client::Rocker, c_client::Error>| {
            let (output, writer) = pipe();
            let rocker = launch(&words.c(&writer)).map_err(|error| error.to_string());
            drop(writer);
            rocker.map(|mut rocker| (read_all(output), status_of_c(&mut rocker)))
        };
    let c = by_c(&|program| both.c.spawn(program));
    let in_a_loop = by_c(&|program| both.c.begin(program).complete());
    [rust, c, in_a_loop]
}

/// By `Launch::enter`, by `ROCKER_enter` and by `ROCKER_launch_begin_enter`.
fn entered(both: &Both, commands: &[&str]) -> [Told; 3] {
    let callback = || {
        facts::run(commands);
        facts::say("finds the caller's key", find_key());
        33
    };
    let (rust, text) = with_output(|| {
        // SAFETY: the runner gives each test a process with one thread.
        let rocker = replayed(unsafe { both.rust.enter(callback) });
        rocker.map(|mut rocker| status_of_rust(&mut rocker)).map_err(|error| error.to_string())
    });
    let rust = rust.map(|status| (text, status));
    let by_c = |launch: &dyn Fn() -> Result<c_client::Rocker, c_client::Error>| {
        let (status, text) = with_output(|| launch().map(|mut rocker| status_of_c(&mut rocker)));
        status.map(|status| (text, status)).map_err(|error| error.to_string())
    };
    let c = by_c(&|| {
        // SAFETY: as above.
        unsafe { both.c.enter(callback) }
    });
    let in_a_loop = by_c(&|| {
        let mut callback = Some(callback);
        // SAFETY: as above.
        unsafe { both.c.begin_enter(&mut callback) }.complete()
    });
    [rust, c, in_a_loop]
}

/// Numbers that the kernel gives out anew each time: `pipe:[1234]`, `/dev/loop7`, a guard's pid.
fn without_numbers(text: &str) -> String {
    let mut told = String::new();
    let mut rest = text;
    let begins =
        |rest: &str| ["[", "/dev/loop", "--target "].into_iter().find(|b| rest.starts_with(b));
    while let Some(first) = rest.chars().next() {
        let length = begins(rest).map_or(first.len_utf8(), str::len);
        let (head, tail) = rest.split_at(length);
        told.push_str(head);
        rest = tail;
        if begins(head).is_some() {
            let tail = rest.trim_start_matches(|char: char| char.is_ascii_digit());
            told.push_str(if tail.len() < rest.len() { "#" } else { "" });
            rest = tail;
        }
    }
    told
}

#[track_caller]
fn assert_same(what: &str, told: [Told; 3]) -> Told {
    let [rust, c, in_a_loop] = told.map(|told| match told {
        Ok((text, status)) => Ok((without_numbers(&text), status)),
        Err(line) => Err(without_numbers(&line)),
    });
    for (name, other) in [("ROCKER_spawn or _enter", &c), ("ROCKER_launch_*", &in_a_loop)] {
        if let (Ok((wanted, _)), Ok((found, _))) = (&rust, other) {
            for (wanted, found) in wanted.lines().zip(found.lines()) {
                assert_eq!(found, wanted, "{what}: {name}");
            }
        }
        assert_eq!(*other, rust, "{what}: {name}");
    }
    rust
}

// --- The documented sample. ---------------------------------------------------------------------

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

/// A program that does nothing until it is killed.
fn sleeper() -> c_client::Program {
    c_client::Program::new("bin/probe").args(["sleep 60000"])
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

// --- Every error, in the words of both. ---------------------------------------------------------

fn codes_have_their_documented_names() {
    let names: Vec<&str> = (-1..=10).map(error_name).collect();
    let wanted = [
        "unknown",
        "success",
        "sys",
        "param_invalid",
        "server_unaddr_invalid",
        "gen_local_addr_failed",
        "send_req_failed",
        "recv_resp_failed",
        "build_rocker_failed",
        "enter_rocker_failed",
        "app_exec_failed",
        "get_guardname_failed",
    ];
    assert_eq!(names, wanted);
    assert_eq!([-2, 11, i32::MAX, i32::MIN].map(error_name), ["unknown"; 4]);
}

/// Both fail, in the same words, at the same step, with the same errno. The line, without the
/// kernel's numbers, and C's error.
#[track_caller]
fn same_words<R: core::fmt::Debug, C: core::fmt::Debug>(
    rust: Result<R, Error>,
    c: Result<C, c_client::Error>,
) -> (String, c_client::Error) {
    let (rust, c) = (rust.unwrap_err(), c.unwrap_err());
    let line = without_numbers(&c.to_string());
    assert_eq!(line, without_numbers(&rust.to_string()));
    assert!(!line.contains('\n'));
    assert_eq!(c.step(), i32::from(rust.step().code()));
    assert_eq!(c.errno(), rust.errno().map_or(0, |errno| errno.0.into()));
    assert_eq!(c.is_at_exec(), rust.is_at_exec());
    (line, c)
}

/// Both launch this and fail with this code in these words, all or the beginning of them.
#[track_caller]
fn both_fail(both: &Both, words: &Words, wanted: i32, begin: &str) -> String {
    let null = OwnedFd::from(fs::File::options().write(true).open("/dev/null").unwrap());
    let rust = replayed(both.rust.spawn(&words.rust(&null)));
    let as_rust = rust.as_ref().map_or_else(|error| error.code() as i32, |_| 0);
    let (line, c) = same_words(rust, both.c.spawn(&words.c(&null)));
    assert!(line.starts_with(begin), "{line}");
    assert_eq!(error_name(c.code()), error_name(wanted), "{line}");
    let own = [code::SYS, code::SERVER_UNADDR_INVALID, code::GEN_LOCAL_ADDR_FAILED];
    assert!(as_rust == wanted || own.contains(&wanted), "{line}: {as_rust}");
    let in_a_loop = both.c.begin(&words.c(&null)).complete().unwrap_err();
    assert_eq!(without_numbers(&in_a_loop.to_string()), line);
    line
}

fn probe() -> Words {
    Words::probe(["say it should not run"])
}

fn a_broken_rule_is_param_invalid() {
    let daemon = Daemon::start();
    let right = Both::new(&daemon);
    let data = right.clone().data_dir(daemon.data_dir());
    let long = format!("/{}", "x".repeat(4095));
    let cases = [
        (right.clone().uid(0), "uid 0: an App never runs as root (id 0)"),
        (right.clone().gid(0), "gid 0: an App never runs as root (id 0)"),
        (right.clone().package("x.sqfs"), "package x.sqfs: the path must be absolute"),
        (right.clone().package(""), "package: it is empty"),
        (right.clone().package("/a\nb\u{1}"), "package /a\\nb\\u{1}: it contains a NUL or another"),
        (
            right.clone().package("/\u{e9}/.."),
            "package /\u{e9}/..: the path must not contain \"..\"",
        ),
        (right.clone().exec_dir("/proc"), "exec dir /proc: this place belongs to the host"),
        (right.clone().exec_dir("/run"), "exec dir /run: this place belongs to the host"),
        (right.clone().exec_dir("/a/../b"), "exec dir /a/../b: the path must not contain"),
        (right.clone().data_dir("/dev/x"), "data dir /dev/x: this place belongs to the host"),
        (right.clone().overlay("/usr"), "data dir: overlays need a data dir"),
        (data.clone().overlay("/usr").overlay("/proc"), "overlay dir /proc: this place belongs"),
        (data.clone().overlay("/usr").overlay("x"), "overlay dir x: the path must be absolute"),
        (right.clone().timeout_ms(0), "deadline 0 ms: it must lie between 1 ms and 1 hour"),
        (right.clone().timeout_ms(3_600_001), "deadline 3600001 ms: it must lie between"),
    ];
    for (both, line) in &cases {
        both_fail(both, &probe(), code::PARAM_INVALID, line);
    }
    // There is room for half a KiB of it.
    let long = Request { package: Some(c_string(&long)), ..right.c.clone() };
    let error = long.spawn(&sleeper()).unwrap_err();
    let line = error.to_string().replace('x', "");
    assert_eq!(line, "package /...: it is too long");
    both_fail(&right, &Words::new("", [""]), code::PARAM_INVALID, "program: it is empty");
    // What only the master can know.
    let text = daemon.path("text");
    fs::write(&text, [b'#'; 4096]).unwrap();
    let text = Both::of(&daemon, &text);
    let line = both_fail(&text, &probe(), code::PARAM_INVALID, "package /");
    assert!(line.contains("/text: it is not a squashfs image; build one with"), "{line}");
}

/// Runs it in a thread that is somebody else: ids and capabilities are a thread's own.
fn as_somebody_else<T: Send>(change: impl FnOnce() + Send, task: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            change();
            task()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn become_user(uid: u32) {
    let (user, group) = (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(uid));
    rustix::thread::set_thread_groups(&[]).unwrap();
    rustix::thread::set_thread_res_gid(group, group, group).unwrap();
    rustix::thread::set_thread_res_uid(user, user, user).unwrap();
}

fn what_the_policy_forbids_is_param_invalid() {
    const USER: u32 = 7_001;
    let policy = format!(
        "max_rockers = 1\n[[allow]]\nuid = {USER}\npackages = [\"/apps\"]\nexec_dirs = [\"/\"]\n\
         run_as_uids = [{APP_UID}]\nrun_as_gids = [{APP_GID}]\n"
    );
    let daemon = Daemon::with_config(&policy);
    let both = Both::new(&daemon);
    let refused = |both: &Both, line| {
        as_somebody_else(
            || become_user(USER),
            || both_fail(both, &probe(), code::PARAM_INVALID, line),
        )
    };
    let line = refused(&both, "package /");
    let by_root = "root can, by default in /etc/rocker/master.toml";
    let wanted = format!(": the master's policy does not allow it to this caller; {by_root}");
    assert!(line.ends_with(&wanted), "{line}");
    // Whom it does not name is told what to do.
    let line = as_somebody_else(
        || become_user(USER + 1),
        || both_fail(&both, &probe(), code::PARAM_INVALID, "request: "),
    );
    let wanted = "request: the master's policy has no [[allow]] for this caller's uid; root can add \
                  one, by default in /etc/rocker/master.toml";
    assert_eq!(line, wanted);
    // And one that reaches no socket at all.
    let closed = Daemon::start();
    let unreachable = Both::new(&closed);
    let line = as_somebody_else(
        || become_user(USER),
        || {
            both_fail(
                &unreachable,
                &probe(),
                code::SEND_REQ_FAILED,
                "cannot request a rocker (root.1)",
            )
        },
    );
    let wanted = "Permission denied: this user may not reach the master's socket; root can add an \
                  [[allow]], by default in /etc/rocker/master.toml";
    assert!(line.ends_with(wanted), "{line}");
    // A limit is a rule, too.
    let mut only = both.c.spawn(&sleeper()).unwrap();
    both_fail(&both, &probe(), code::PARAM_INVALID, "request: too many rockers; see max_rockers");
    only.kill();
    assert!(only.wait_gone());
}

fn misuse_of_the_header_is_param_invalid() {
    let daemon = Daemon::start();
    let request = Both::new(&daemon).c;
    let no_package = Request { package: None, ..request.clone() };
    let error = no_package.spawn(&sleeper()).unwrap_err();
    assert_eq!((error.code(), &*error.to_string()), (code::PARAM_INVALID, "package: it is empty"));
    // -1 is "not set" in C, which for root means itself.
    let unset = Request { uid: None, gid: None, ..request.clone() };
    let error = unset.spawn(&sleeper()).unwrap_err();
    assert!(error.to_string().starts_with("uid 0: "), "{error}");
    let negative = Request { timeout_ms: Some(-2), ..request };
    let error = negative.spawn(&sleeper()).unwrap_err();
    assert_eq!(error.code(), code::PARAM_INVALID, "{error}");
}

/// Leaves no number for a new descriptor.
fn without_descriptors<T>(task: impl FnOnce() -> T) -> T {
    let before = getrlimit(Resource::Nofile);
    let mut filling = vec![];
    let full = Rlimit { current: Some(64), maximum: before.maximum };
    setrlimit(Resource::Nofile, full).unwrap();
    while let Ok(fd) = rustix::io::dup(std::io::stdin()) {
        filling.push(fd);
    }
    let result = task();
    drop(filling);
    setrlimit(Resource::Nofile, before).unwrap();
    result
}

fn what_fails_before_root_1_has_codes_of_its_own() {
    let daemon = Daemon::start();
    let both = Both::new(&daemon);
    let long = format!("/{}", "x".repeat(200));
    both_fail(
        &both.clone().socket(&long),
        &probe(),
        code::SERVER_UNADDR_INVALID,
        &format!("cannot request a rocker (root.1): connect {long}: File name too long"),
    );
    both_fail(
        &both.clone().socket(""),
        &probe(),
        code::SERVER_UNADDR_INVALID,
        "cannot request a rocker (root.1): connect : Invalid argument",
    );
    let null = || OwnedFd::from(fs::File::options().write(true).open("/dev/null").unwrap());
    let (rust, c) = (probe().rust(&null()), probe().c(&null()));
    let (rust, c) = without_descriptors(|| (both.rust.spawn(&rust), both.c.spawn(&c)));
    let rust = replayed(rust);
    let (line, error) = same_words(rust, c);
    assert_eq!(error.code(), code::GEN_LOCAL_ADDR_FAILED, "{line}");
    assert!(line.ends_with("/master.sock: Too many open files"), "{line}");
    let silent = Words { null: [true; 3], ..probe() };
    let (rust, c) = (silent.rust(&null()), silent.c(&null()));
    let (rust, c) = without_descriptors(|| (both.rust.spawn(&rust), both.c.spawn(&c)));
    let rust = replayed(rust);
    let (line, error) = same_words(rust, c);
    assert_eq!(error.code(), code::SYS, "{line}");
    assert!(line.ends_with(": open /dev/null: Too many open files"), "{line}");
}

fn no_master_is_send_req_failed() {
    let mut daemon = Daemon::start();
    let both = Both::new(&daemon);
    let socket = daemon.socket();
    let line = |words: &str| {
        format!(
            "cannot request a rocker (root.1): connect {}: {words}: start rocker-master, or name its socket",
            socket.display()
        )
    };
    daemon.kill();
    both_fail(&both, &probe(), code::SEND_REQ_FAILED, &line("Connection refused"));
    fs::remove_file(&socket).unwrap();
    both_fail(&both, &probe(), code::SEND_REQ_FAILED, &line("No such file or directory"));
}

fn no_answer_is_recv_resp_failed() {
    let mut daemon = Daemon::start();
    let both = Both::new(&daemon).timeout_ms(300);
    let master = |daemon: &Daemon| process::pidfd(daemon.pid()).unwrap();
    let tell = |master: &OwnedFd, signal| {
        rustix::process::pidfd_send_signal(master, signal).unwrap();
    };
    let stopped = master(&daemon);
    tell(&stopped, rustix::process::Signal::STOP);
    let began = Instant::now();
    let line = both_fail(
        &both,
        &probe(),
        code::RECV_RESP_FAILED,
        "cannot receive the entrance (enter.0): ",
    );
    assert!(line.contains("no answer before the deadline: the master is stuck"), "{line}");
    // Three launches, and each took its time.
    assert!((900..4500).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    tell(&stopped, rustix::process::Signal::CONT);
    assert!(within(SOON, || daemon.records().is_empty() && daemon.is_well()));
    // One that dies while it is asked.
    let both = both.timeout_ms(4000);
    let mut dying = |launch: &mut dyn FnMut()| {
        let victim = master(&daemon);
        tell(&victim, rustix::process::Signal::STOP);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(200));
                tell(&victim, rustix::process::Signal::KILL);
            });
            launch();
        });
        daemon.kill();
        daemon.restart();
    };
    let (mut rust, mut c) = (None, None);
    dying(&mut || rust = Some(replayed(both.rust.spawn(&Program::new("bin/probe")))));
    dying(&mut || c = Some(both.c.spawn(&sleeper())));
    let (line, error) = same_words(rust.unwrap(), c.unwrap());
    let wanted =
        "cannot receive the entrance (enter.0): recvmsg # from the guard, with its pidfd: ";
    println!("{line} {wanted}");
    assert!(
        line.ends_with("the peer closed the connection: the master's log may say why"),
        "{line}"
    );
    assert_eq!(error.code(), code::RECV_RESP_FAILED);
}

fn what_cannot_be_built_is_build_rocker_failed() {
    let daemon = Daemon::start();
    let both = Both::new(&daemon);
    let lost = both.clone().exec_dir("/nowhere/at/all");
    let line = both_fail(
        &lost,
        &probe(),
        code::BUILD_ROCKER_FAILED,
        "cannot mount the package (prepare.3): ",
    );
    assert!(line.ends_with("create the exec dir, or overlay a directory above it"), "{line}");
    // The head of a squashfs, and behind it nothing that is one.
    let mut image = fs::read(probe_package()).unwrap();
    image[96..].fill(0xa5);
    let damaged = daemon.path("damaged.sqfs");
    fs::write(&damaged, image).unwrap();
    let line = both_fail(
        &Both::of(&daemon, &damaged),
        &probe(),
        code::BUILD_ROCKER_FAILED,
        "cannot mount the package (prepare.3): mount -t squashfs -o ro /dev/loop#",
    );
    // Why, depends on the kernel.
    assert!(line.contains("/exec"), "{line}");
    let line = both_fail(
        &both.clone().data_dir(daemon.path("none")).overlay("/usr"),
        &probe(),
        code::BUILD_ROCKER_FAILED,
        "cannot make the rocker (root.2): mkdir -m 700 /",
    );
    assert!(line.ends_with("/none/.rocker: No such file or directory"), "{line}");
    let line = both_fail(
        &both.data_dir(daemon.data_dir()).overlay("/nowhere/at/all"),
        &probe(),
        code::BUILD_ROCKER_FAILED,
        "cannot find the directories to overlay (overlay.0): ",
    );
    assert!(line.ends_with("/nowhere/at/all: No such file or directory"), "{line}");
}

/// A connection to the master on which somebody kills the guard before the caller hears of it.
fn ambush(daemon: &Daemon) -> OwnedFd {
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (callers, ours) = pair.unwrap();
    let master = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::connect(&master, &SocketAddrUnix::new(daemon.socket()).unwrap()).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        let flags = rustix::net::RecvFlags::empty();
        let (length, _) = rustix::net::recv(&ours, &mut bytes[..], flags).unwrap();
        rustix::net::send(&master, &bytes[..length], rustix::net::SendFlags::empty()).unwrap();
        let deadline = now_ns() + 5_000_000_000;
        let mut buffer = Buffer::default();
        let (message, guard) = loop {
            let said = receive_before(&master, &mut buffer, deadline);
            let Ok(Received::Message(message, guard)) = said else { panic!("no entrance") };
            match message {
                message @ Message::Guard(GuardMessage::Entrance { .. }) => break (message, guard),
                // What only who asks for a trace is told.
                step => send(&ours, &step, &[], &mut Buffer::default()).unwrap(),
            }
        };
        let guard = guard.into_iter().next().expect("it comes with the guard's pidfd");
        rustix::process::pidfd_send_signal(&guard, rustix::process::Signal::KILL).unwrap();
        poll(&mut [PollFd::new(&guard, PollFlags::IN)], None).unwrap();
        send(&ours, &message, &[guard.as_fd()], &mut Buffer::default()).unwrap();
    });
    callers
}

fn what_cannot_be_entered_is_enter_rocker_failed() {
    let daemon = Daemon::start();
    let both = Both::new(&daemon);
    let begin = "cannot enter the rocker (enter.2): nsenter --target # --user --mount --pid: ";
    let rust = replayed(both.rust.spawn_over(ambush(&daemon), &Program::new("bin/probe")));
    let c = both.c.spawn_over(ambush(&daemon), &sleeper());
    let (line, error) = same_words(rust, c);
    assert_eq!(line, format!("{begin}No such process: the guard has ended"));
    assert_eq!(error_name(error.code()), "enter_rocker_failed");
    let no_admin = || {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::SYS_ADMIN);
        set_capabilities(None, sets).unwrap();
    };
    let line =
        as_somebody_else(no_admin, || both_fail(&both, &probe(), code::ENTER_ROCKER_FAILED, begin));
    assert!(line.ends_with("Operation not permitted: entering a rocker needs CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID; run as root"), "{line}");
}

fn what_cannot_be_executed_is_app_exec_failed() {
    let daemon = Daemon::start();
    let package = Package::with_probe()
        .file("plain", 0o644, "text\n")
        .file("data", 0o755, "text\n")
        .file("script", 0o755, "#!/no/such/interpreter\n")
        .build();
    let both = Both::of(&daemon, &package);
    let fail = |words: &Words, end: &str| {
        both_fail(
            &both,
            words,
            code::APP_EXEC_FAILED,
            &format!("cannot start the App (enter.3): {end}"),
        )
    };
    let none = "No such file or directory: the rocker holds no such program, or not its interpreter or loader";
    fail(&Words::new("bin/none", [""]), &format!("exec bin/none: {none}"));
    fail(&Words::new("none-in-path", [""]), &format!("exec none-in-path: {none}"));
    fail(&Words::new("./script", [""]), &format!("exec ./script: {none}"));
    fail(
        &Words::new("./plain", [""]),
        "exec ./plain: Permission denied: it is not executable for the App's uid",
    );
    fail(
        &Words::new("./data", [""]),
        "exec ./data: Exec format error: it is neither a program for this machine nor a script with #!",
    );
    fail(&Words::new("./bin", [""]), "exec ./bin: Permission denied: ");
    fail(&Words::new("plain/x", [""]), "exec plain/x: Not a directory");
    let in_dir = |cwd: &str| Words { cwd: Some(cwd.to_owned()), ..probe() };
    fail(&in_dir("/no/where"), "cd /no/where: No such file or directory");
    let exec_dir = daemon.exec_dir();
    fail(
        &in_dir("deep/er"),
        &format!("cd {}/deep/er: No such file or directory", exec_dir.display()),
    );
    fail(&in_dir("plain"), &format!("cd {}/plain: Not a directory", exec_dir.display()));
    // In a PATH: one that is found but denied is told of, one that is too long is passed over.
    let in_path = |path| Words { env: vec![("PATH", path)], ..Words::new("plain", [""]) };
    fail(&in_path("/none:."), "exec plain: Permission denied: ");
    fail(&in_path(".:/none"), "exec plain: Permission denied: ");
    fail(&in_path("/none:/nowhere"), "exec plain: No such file or directory: ");
    fail(&in_path(""), "exec plain: Permission denied: ");
}

fn a_pid_of_nobody_is_get_guardname_failed() {
    let own = fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(guard_name(std::process::id().cast_signed()).as_deref(), Ok(own.trim_end()));
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    for nobody in [gone.id().cast_signed(), 0, -1, i32::MAX, i32::MIN] {
        assert_eq!(guard_name(nobody), Err(code::GET_GUARDNAME_FAILED), "{nobody}");
        let by_rust =
            u32::try_from(nobody).map_or(true, |pid| rocker_client::guard_name(pid).is_err());
        assert!(by_rust);
    }
    // The process of another name: parentheses and blanks in it, and 15 bytes long.
    for name in ["a) R (b c", "()", "fifteen bytes 1"] {
        rustix::thread::set_name(&c_string(name)).unwrap();
        assert_eq!(guard_name(std::process::id().cast_signed()).as_deref(), Ok(name));
    }
}

// --- What an App sees. --------------------------------------------------------------------------

const FACTS: &[&str] = &[
    "ids",
    "whole-status",
    "privileges",
    "fds",
    "cwd",
    "environ",
    "pids",
    "processes",
    "mounts",
    "read /proc/self/limits",
    "read /proc/self/oom_score_adj",
    "read /proc/self/cgroup",
    "read /proc/self/timerslack_ns",
    "read /proc/self/coredump_filter",
    "read /proc/self/personality",
    "readlink /proc/self/ns/mnt",
    "readlink /proc/self/ns/pid",
    "readlink /proc/self/ns/user",
    "readlink /proc/self/ns/net",
    "readlink /proc/self/ns/ipc",
    "readlink /proc/self/ns/uts",
    "readlink /proc/self/ns/cgroup",
    "readlink /proc/self/ns/time",
    "readlink /proc/self/root",
    "stat /proc/self/mem",
    "open /proc/self/environ",
    "open /proc/self/mem",
    "open-w /etc/shadow",
    "setuid 0",
    "setgid 0",
    "read share/hello",
    "write share/new of the App",
    "ls /proc/self/task",
];

/// A caller that has what no App may have: keys, groups, descriptors, a mask, a changed name.
fn be_rich() -> Vec<fs::File> {
    const JOIN_SESSION_KEYRING: i32 = 1;
    const SESSION_KEYRING: i32 = -3;
    // Others may read it.
    probe_package();
    let no_name = core::ptr::null::<u8>();
    // SAFETY: without a name nothing is read.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, no_name) };
    assert!(joined > 0, "{}", std::io::Error::last_os_error());
    let (kind, name, secret) = (c"user".as_ptr(), c"of-the-caller".as_ptr(), c"secret".as_ptr());
    // SAFETY: two strings, and six bytes that are there.
    let key = unsafe { libc::syscall(libc::SYS_add_key, kind, name, secret, 6, SESSION_KEYRING) };
    assert!(key > 0 && find_key(), "{}", std::io::Error::last_os_error());
    let groups: Vec<_> = (40_000..40_010).map(nix::unistd::Gid::from_raw).collect();
    nix::unistd::setgroups(&groups).unwrap();
    rustix::process::umask(Mode::from_raw_mode(0o027));
    fs::write("/proc/self/oom_score_adj", "123").unwrap();
    let leaked: Vec<fs::File> = (0..20).map(|_| fs::File::open("/").unwrap()).collect();
    for file in &leaked {
        rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty()).unwrap();
    }
    leaked
}

/// Whether the session has the caller's key. (The App's own /proc/keys shows none of root's.)
fn find_key() -> bool {
    const KEYCTL_SEARCH: i32 = 10;
    const SESSION_KEYRING: i32 = -3;
    let (kind, name) = (c"user".as_ptr(), c"of-the-caller".as_ptr());
    // SAFETY: the kernel reads two strings; the last 0 is "nowhere".
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SEARCH, SESSION_KEYRING, kind, name, 0) > 0 }
}

/// What no caller may change.
#[track_caller]
fn assert_is_an_app(what: &str, told: &Told) {
    let (text, _) = told.as_ref().unwrap_or_else(|line| panic!("{what}: {line}"));
    for line in [
        "getresuid: 54321 54321 54321",
        "getresgid: 54322 54322 54322",
        "getgroups: 0",
        "CapPrm: 0000000000000000",
        "CapBnd: 0000000000000000",
        "NoNewPrivs: 1",
        "dumpable: Ok(Dumpable)",
        "setuid 0: EINVAL",
        "open /proc/self/mem: ok",
        "read share/hello: hello",
        "write share/new of the App: EROFS",
    ] {
        assert!(text.lines().any(|found| found == line), "{what}: {line:?} in {text}");
    }
}

/// By all six ways, and as a program that leaves all as it finds it.
fn apps_are_the_same(both: &Both) {
    spawned_apps_are_the_same(both);
    let app = assert_same("callback", entered(both, FACTS));
    assert_is_an_app("callback", &app);
    assert!(app.unwrap().0.ends_with("\nfinds the caller's key: false\n"));
    let (text, _) = assert_same("free", entered(&both.clone().unconfined(), &[])).unwrap();
    assert!(text.ends_with("finds the caller's key: false\n"), "{text}");
}

fn spawned_apps_are_the_same(both: &Both) {
    let commands = [FACTS, &["find-key of-the-caller"]].concat();
    let app = assert_same("program", spawned(both, &Words::probe(commands)));
    assert_is_an_app("program", &app);
    let text = app.unwrap().0;
    assert!(text.contains("\nenviron: \n"), "nothing is inherited");
    assert!(text.contains("\nfind-key of-the-caller: EPERM\n"), "{text}");
    // Nor is it there for who may ask.
    let find = Words::probe(["find-key of-the-caller"]);
    let (text, _) = assert_same("free", spawned(&both.clone().unconfined(), &find)).unwrap();
    assert_eq!(text, "find-key of-the-caller: ENOKEY\n");
    // A program that sets no handler.
    let counts = "/switches|^Vm|^Rss|^Huge|FDSize|SigQ/d";
    let sed = Words::new("sed", ["-E", counts, "/proc/self/status"]);
    let (text, _) = assert_same("sed", spawned(both, &sed)).unwrap();
    for set in ["SigBlk", "SigIgn", "SigCgt", "SigPnd"] {
        assert!(text.contains(&format!("{set}:\t0000000000000000\n")), "{text}");
    }
}

/// One call fails with EXDEV, the others are allowed.
fn one_fails(call: i64) -> Vec<u8> {
    let instruction = |code: u16, jumps: [u8; 2], number: u32| {
        [&code.to_ne_bytes()[..], &jumps, &number.to_ne_bytes()].concat()
    };
    [
        instruction(0x20, [0, 0], 0),
        instruction(0x15, [0, 1], u32::try_from(call).unwrap()),
        instruction(0x06, [0, 0], 0x5_0012),
        instruction(0x06, [0, 0], 0x7fff_0000),
    ]
    .concat()
}

fn filters_of_the_callers_own_are_the_same() {
    let daemon = Daemon::start();
    let both = Both::new(&daemon);
    let uname = format!("call {} 0", libc::SYS_uname);
    let commands = ["status Seccomp", &uname, "find-key x"];
    let own = both.clone().filter(&one_fails(libc::SYS_uname));
    for (both, seccomp, answers) in [
        (both.clone(), "2", ["EFAULT", "EPERM"]),
        (both.clone().seccomp_log(), "2", ["EFAULT", "ENOKEY"]),
        (own.clone(), "2", ["EXDEV", "ENOKEY"]),
    ] {
        let (text, _) = assert_same("program", spawned(&both, &Words::probe(commands))).unwrap();
        for line in [
            format!("Seccomp: {seccomp}"),
            format!("{uname}: {}", answers[0]),
            format!("find-key x: {}", answers[1]),
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in {text}");
        }
    }
    assert_same("callback", entered(&own, &["status Seccomp"])).unwrap();
    // What the kernel refuses, and what is none.
    let odd = both.clone().filter(&[0xff; 8]);
    let error = assert_same("odd", spawned(&odd, &Words::probe(["say no"]))).unwrap_err();
    assert!(error.contains("seccomp # the rocker's filter: Invalid argument"), "{error}");
    let long = both.filter(&[6; 8 * 4095]);
    let error = assert_same("long", spawned(&long, &Words::probe(["say no"]))).unwrap_err();
    assert!(error.contains("request: it is too long"), "{error}");
}

fn the_second_wall_is_the_same() {
    let daemon = Daemon::start();
    let overlaid = scratch::directory(daemon.path("overlaid"), 0o755, APP_UID);
    let host = scratch::directory(daemon.path("host"), 0o755, APP_UID);
    let both = Both::new(&daemon).data_dir(daemon.data_dir()).overlay(overlaid.to_str().unwrap());
    let [own, others] = [&overlaid, &host].map(|dir| format!("write {}/new x", dir.display()));
    let commands = [own.as_str(), &others];
    for (both, word) in [(both.clone().landlock(), "EACCES"), (both, "ok")] {
        let wanted = format!("{own}: ok\n{others}: {word}\n");
        let told = assert_same("program", spawned(&both, &Words::probe(commands)));
        let (text, _) = told.unwrap();
        assert!(text.contains(&wanted), "{text}");
        let (text, _) = assert_same("callback", entered(&both, &commands)).unwrap();
        assert!(text.contains(&wanted), "{text}");
    }
}

fn volatile_overlays_are_the_same() {
    let daemon = Daemon::start();
    let both = Both::new(&daemon).data_dir(daemon.data_dir()).overlay("/etc");
    let look =
        Words::new("sed", ["-n", "s/.* \\/etc .*\\(volatile\\).*/\\1/p", "/proc/self/mountinfo"]);
    for (both, wanted) in [(both.clone().volatile(), "volatile\n"), (both, "")] {
        let (text, _) = assert_same("mounts", spawned(&both, &look)).unwrap();
        assert_eq!(text, wanted);
    }
}

fn what_an_app_may_do_is_the_same() {
    let daemon = Daemon::start();
    let both = Both::new(&daemon);
    let commands = ["status Seccomp", "unshare user", "push-input"];
    for (both, seccomp, unshare) in [
        (both.clone(), "2", "EPERM"),
        (both.clone().unconfined(), "0", "ENOSPC"),
        (both.clone().user_namespaces(), "2", "ok"),
    ] {
        let told = assert_same("program", spawned(&both, &Words::probe(commands)));
        let (text, _) = told.unwrap();
        assert!(text.contains(&format!("Seccomp: {seccomp}\nunshare user: {unshare}\n")), "{text}");
        let told = assert_same("callback", entered(&both, &["status Seccomp", "unshare user"]));
        let (text, _) = told.unwrap();
        assert!(text.contains(&format!("Seccomp: {seccomp}\nunshare user: {unshare}\n")), "{text}");
    }
}

fn every_form_of_a_program_arrives_the_same() {
    let daemon = Daemon::start();
    let package =
        Package::with_probe().directory("deep/er", 0o755).link("probe", "bin/probe").build();
    let both = Both::of(&daemon, &package);
    let dir = scratch();
    let files = ["a", "b", "c"].map(|name| dir.path().join(name));
    for file in &files {
        fs::write(file, file.to_str().unwrap()).unwrap();
    }
    let facts = Words::probe(["environ", "cwd", "fds", "pids", "say a  b", "exit 9"]);
    // What 0, 1 and 2 are, told to descriptor 3.
    let links = "for n in 0 1 2; do readlink /proc/$$/fd/$n >&3; done; cat <&4 >&3";
    let links =
        Words { output_is_stdout: false, files: files.to_vec(), ..Words::new("sh", ["-c", links]) };
    let with_path = |path| vec![("A", "1"), ("PATH", path), ("B", "two words"), ("C", "")];
    let deep = Some("deep/er".to_owned());
    let cases = [
        facts.clone(),
        Words { env: with_path("/none"), ..facts.clone() },
        Words { path: "probe".into(), env: with_path("/none:."), ..facts.clone() },
        Words { path: "probe".into(), env: with_path("/none::/bin"), ..facts.clone() },
        Words {
            path: "probe".into(),
            cwd: deep.clone(),
            env: with_path("../../bin"),
            ..facts.clone()
        },
        Words { path: "../../probe".into(), cwd: deep, ..facts.clone() },
        Words { path: "/proc/self/cwd/probe".into(), ..facts.clone() },
        Words {
            path: daemon.exec_dir().join("probe").to_str().unwrap().into(),
            cwd: Some("/".into()),
            ..facts.clone()
        },
        Words { files: files.to_vec(), ..facts.clone() },
        Words { keep_session: true, ..facts.clone() },
        Words { null: [true, false, true], ..facts },
        links.clone(),
        Words { null: [true, false, false], ..links.clone() },
        Words { null: [false, true, true], ..links.clone() },
        Words { null: [true; 3], ..links },
        Words::new("sh", ["-c", "kill -TERM $$"]),
    ];
    for words in &cases {
        let told = assert_same(&format!("{words:?}"), spawned(&both, words));
        let (text, status) = told.unwrap_or_else(|line| panic!("{words:?}: {line}"));
        println!("{}: {status:?} {text}", words.path);
        assert!(!text.is_empty() || status == Some(Status::Signaled(15)), "{words:?}");
    }
    let overlaid = both.data_dir(daemon.data_dir()).overlay("/etc").overlay("/usr");
    let words = Words::probe(["mounts", "stat /etc/passwd", "write /etc/x y"]);
    // The second and third find what the first has written, and may write it again.
    assert_same("overlays", spawned(&overlaid, &words)).unwrap();
}

fn a_terminal_controls_an_app_of_either() {
    let daemon = Daemon::start();
    let both = Both::new(&daemon);
    let size = nix::pty::Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
    let args = ["-c", "stty size < /dev/tty; kill -INT 0"];
    let path = ("PATH", "/bin:/usr/bin");
    let mut told = vec![];
    for in_c in [false, true] {
        let pty = nix::pty::openpty(Some(&size), None).unwrap();
        let (output, stdout) = std::io::pipe().unwrap();
        let ended = if in_c {
            let program = c_client::Program::new("/bin/sh").args(args).env(path.0, path.1);
            let program = program.stdio(0, pty.slave).stdio(1, stdout).terminal();
            both.c.spawn(&program).unwrap().wait().unwrap()
        } else {
            let program = Program::new("/bin/sh").args(args).env(path.0, path.1);
            let program = program.stdin(pty.slave).stdout(stdout).terminal();
            let status = replayed(both.rust.spawn(&program)).unwrap().wait().unwrap();
            Status::Signaled(status.signal().unwrap())
        };
        told.push((read_all(output), ended));
    }
    assert_eq!(told[0], ("33 77\n".to_owned(), Status::Signaled(2)));
    assert_eq!(told[0], told[1]);
    // What is no terminal controls nobody.
    let program = c_client::Program::new("/bin/sh").stdio(0, Stdio::Null).terminal();
    let error = both.c.spawn(&program).unwrap_err();
    let program = Program::new("/bin/sh").stdin(Stdio::Null).terminal();
    let wanted = replayed(both.rust.spawn(&program)).unwrap_err();
    assert_eq!(error.to_string(), wanted.to_string());
    assert!(error.to_string().contains("Inappropriate ioctl"), "{error}");
}

fn apps_of_both_are_the_same() {
    let daemon = Daemon::start();
    let _leaked = be_rich();
    apps_are_the_same(&Both::new(&daemon));
}

fn apps_of_both_are_the_same_with_many_threads() {
    let daemon = Daemon::start();
    let _leaked = be_rich();
    let (wait, go_on) = std::sync::mpsc::channel::<()>();
    let go_on = std::sync::Mutex::new(go_on);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| go_on.lock().unwrap().recv().is_err());
        }
        assert!(within(SOON, || fs::read_dir("/proc/self/task").unwrap().count() == 9));
        spawned_apps_are_the_same(&Both::new(&daemon));
        drop(wait);
    });
}

fn apps_of_both_are_the_same_under_limits() {
    let daemon = Daemon::start();
    let _leaked = be_rich();
    for (resource, limit) in [
        (Resource::Nofile, 100),
        (Resource::Core, 0),
        (Resource::Stack, 1 << 20),
        (Resource::Fsize, 1 << 30),
        (Resource::Memlock, 1 << 16),
    ] {
        let limit = Rlimit { current: Some(limit), maximum: getrlimit(resource).maximum };
        setrlimit(resource, limit).unwrap();
    }
    apps_are_the_same(&Both::new(&daemon));
}

fn apps_of_both_are_the_same_whatever_signals_mean() {
    extern "C" fn handler(_: i32) {}
    let daemon = Daemon::start();
    let _leaked = be_rich();
    for ignored in [Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        // SAFETY: ignoring runs no code.
        unsafe { signal(ignored, SigHandler::SigIgn) }.unwrap();
    }
    for handled in [Signal::SIGUSR1, Signal::SIGTERM, Signal::SIGCHLD] {
        // SAFETY: the handler does nothing, which is safe at any moment.
        unsafe { signal(handled, SigHandler::Handler(handler)) }.unwrap();
    }
    SigSet::all().thread_block().unwrap();
    nix::sys::signal::raise(Signal::SIGUSR2).unwrap();
    let signals = || {
        let mut status = process::status(std::process::id());
        status.retain(|key, _| ["SigBlk", "SigIgn", "SigCgt", "SigPnd"].contains(&key.as_str()));
        status
    };
    let before = signals();
    assert_ne!(before["SigPnd"], "0000000000000000");
    apps_are_the_same(&Both::new(&daemon));
    assert_eq!(signals(), before, "the caller's own");
}

fn apps_of_both_are_the_same_while_sigchld_is_ignored() {
    let daemon = Daemon::start();
    let _leaked = be_rich();
    // SAFETY: ignoring runs no code.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.unwrap();
    let both = Both::new(&daemon);
    apps_are_the_same(&both);
    let [_, c, in_a_loop] = spawned(&both, &Words::probe(["exit 3"]));
    assert_eq!([c, in_a_loop], [Ok((String::new(), None)), Ok((String::new(), None))]);
    let missing = both.c.spawn(&c_client::Program::new("bin/missing")).unwrap_err();
    assert_eq!(missing.code(), code::APP_EXEC_FAILED, "{missing}");
    // SAFETY: the default runs no code of ours.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.unwrap();
}

fn apps_of_both_are_the_same_when_stdio_is_close_on_exec() {
    let daemon = Daemon::start();
    let _leaked = be_rich();
    for fd in [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC).unwrap();
    }
    let both = Both::new(&daemon);
    spawned_apps_are_the_same(&both);
    let links = Words {
        output_is_stdout: false,
        ..Words::new("sh", ["-c", "ls /proc/$$/fd >&3; readlink /proc/$$/fd/0 >&3"])
    };
    let (text, _) = assert_same("links", spawned(&both, &links)).unwrap();
    assert!(text.starts_with('3') || text.contains("\n3\n"), "{text}");
    assert_same("callback", entered(&both, FACTS)).unwrap();
}

/// Runs it while 0 is a free number, which the next descriptor gets.
fn without_stdin<T>(task: impl FnOnce() -> T) -> T {
    let stdin = rustix::io::dup(std::io::stdin()).unwrap();
    // SAFETY: nobody reads from it in this test.
    unsafe { rustix::io::close(0) };
    let result = task();
    rustix::stdio::dup2_stdin(&stdin).unwrap();
    result
}

fn apps_of_both_are_the_same_when_stdin_is_closed() {
    let daemon = Daemon::start();
    let both = Both::new(&daemon);
    let words = Words {
        output_is_stdout: false,
        null: [false, false, true],
        ..Words::new("sh", ["-c", "for fd in /proc/$$/fd/*; do readlink $fd; done >&3"])
    };
    let mut told = vec![];
    for way in 0..3 {
        let (output, writer) = std::io::pipe().unwrap();
        let writer = OwnedFd::from(writer);
        let (rust, c) = (words.rust(&writer), words.c(&writer));
        drop(writer);
        let end: Box<dyn FnOnce()> = match way {
            0 => {
                let mut rocker = without_stdin(|| replayed(both.rust.spawn(&rust))).unwrap();
                Box::new(move || assert!(rocker.wait_gone(Some(SOON)).unwrap()))
            }
            _ => {
                let mut rocker = without_stdin(|| match way {
                    1 => both.c.spawn(&c).unwrap(),
                    _ => both.c.begin(&c).complete().unwrap(),
                });
                Box::new(move || assert!(rocker.wait_gone()))
            }
        };
        drop((rust, c));
        told.push(without_numbers(&read_all(output)));
        end();
    }
    assert_eq!(told[1], told[0]);
    assert_eq!(told[2], told[0]);
    assert!(told[0].lines().any(|link| link == "/dev/null"), "{told:?}");
    for ours in ["socket:", "anon_inode:", "/proc/"] {
        assert!(!told[0].contains(ours), "{told:?}");
    }
    let mut rocker = without_stdin(|| {
        // SAFETY: the runner gives each test a process with one thread.
        let entered = unsafe {
            both.c.enter(|| {
                let table = fs::read_dir("/proc/self/fd").unwrap().count();
                // 1, 2, and the one that lists them.
                if table == 3 { 0 } else { 1 }
            })
        };
        entered.unwrap()
    });
    assert_eq!(rocker.wait().unwrap(), Status::Exited(0));
    assert!(rocker.wait_gone());
}

fn apps_of_both_are_the_same_while_the_lock_is_taken() {
    let daemon = Daemon::start();
    let _leaked = be_rich();
    // Whoever can read it can lock it. The library then makes copies instead of sharing memory.
    let lock = fs::File::open("/proc/self/status").unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let both = Both::new(&daemon);
    apps_are_the_same(&both);
    let missing = both.c.spawn(&c_client::Program::new("bin/missing")).unwrap_err();
    assert_eq!((missing.code(), missing.is_at_exec()), (code::APP_EXEC_FAILED, true));
    let dumpable = rustix::process::dumpable_behavior().unwrap();
    assert_eq!(dumpable, DumpableBehavior::Dumpable);
}

fn apps_of_both_are_the_same_when_the_caller_is_not_dumpable() {
    let daemon = Daemon::start();
    let _leaked = be_rich();
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).unwrap();
    apps_are_the_same(&Both::new(&daemon));
    let dumpable = rustix::process::dumpable_behavior().unwrap();
    assert_eq!(dumpable, DumpableBehavior::NotDumpable);
}

fn the_caller_stays_dumpable_or_not_dumpable() {
    let daemon = Daemon::start();
    let request = Both::new(&daemon).c;
    let hello = || c_client::Program::new("bin/probe").args(["say x"]).stdio(1, Stdio::Null);
    for wanted in [DumpableBehavior::Dumpable, DumpableBehavior::NotDumpable] {
        rustix::process::set_dumpable_behavior(wanted).unwrap();
        let is_still = || rustix::process::dumpable_behavior().unwrap() == wanted;
        assert!(request.spawn(&hello()).unwrap().wait_gone() && is_still());
        for bad in [
            c_client::Program::new("bin/missing"),
            c_client::Program::new("bin/probe").cwd("/no/where"),
        ] {
            assert_eq!(request.spawn(&bad).unwrap_err().code(), code::APP_EXEC_FAILED);
            assert!(is_still());
        }
        let dead = request.spawn_over(ambush(&daemon), &hello()).unwrap_err();
        assert_eq!(dead.code(), code::ENTER_ROCKER_FAILED);
        assert!(is_still());
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let request = &request;
                scope.spawn(move || {
                    for round in 0..20 {
                        if (thread + round) % 4 == 0 {
                            let bad = c_client::Program::new("bin/missing");
                            assert!(request.spawn(&bad).unwrap_err().is_at_exec());
                        } else {
                            let mut rocker = request.spawn(&hello()).unwrap();
                            assert_eq!(rocker.wait().unwrap(), Status::Exited(0));
                            assert!(rocker.wait_gone());
                        }
                    }
                });
            }
        });
        assert!(is_still(), "after 160 launches at once it is no longer {wanted:?}");
    }
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable).unwrap();
}

// --- Many. --------------------------------------------------------------------------------------

/// This process's own memory. (`VmRSS` is put together from counters of all processors, late.)
fn private_kib() -> u64 {
    let text = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn five_hundred_launches_leave_caller_and_master_flat() {
    let daemon = Daemon::start();
    let both = Both::new(&daemon).data_dir(daemon.data_dir()).overlay("/etc");
    let program = c_client::Program::new("true").stdio(0, Stdio::Null);
    let run = |times: u32| {
        for round in 0..times {
            let mut rocker = match round % 2 {
                0 => both.c.spawn(&program).unwrap(),
                _ => both.c.begin(&program).complete().unwrap(),
            };
            assert_eq!(rocker.wait().unwrap(), Status::Exited(0));
            assert!(rocker.wait_gone());
        }
        daemon.settle(0);
    };
    run(30);
    let maps = || fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let before = (process::fds(std::process::id()), daemon.fds(), maps());
    let (ours, theirs) = (private_kib(), daemon.rss_kib());
    run(500);
    assert_eq!((process::fds(std::process::id()), daemon.fds(), maps()), before);
    assert!(private_kib() <= ours + 64, "{ours} -> {} KiB", private_kib());
    assert!(daemon.rss_kib() <= theirs + 64, "{theirs} -> {} KiB", daemon.rss_kib());
}

/// Waits until one of these launches can go on, in one poll.
fn wait_for_any(launches: &VecDeque<(usize, Pending<'_>)>) {
    let fds: Vec<_> = launches.iter().filter_map(|(_, launch)| launch.fd()).collect();
    let mut ready: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    let wait_ms = launches.iter().map(|(_, launch)| launch.wait_ms()).min().unwrap_or(0);
    let limit = Duration::from_millis(u64::try_from(wait_ms).unwrap());
    let limit = rustix::event::Timespec::try_from(limit).unwrap();
    poll(&mut ready, Some(&limit)).unwrap();
}

fn thirty_two_launches_go_through_one_poll_loop() {
    let daemon = Daemon::start();
    let both = Both::new(&daemon).timeout_ms(20_000);
    let leaks = Leaks::snapshot().watch_pid(daemon.pid()).watch_pid(std::process::id());
    let programs: Vec<c_client::Program> = (0..32)
        .map(|number| match number % 8 {
            7 => c_client::Program::new("bin/missing"),
            _ => c_client::Program::new("bin/probe").args([format!("exit {number}")]),
        })
        .collect();
    let mut launches: VecDeque<(usize, Pending<'_>)> =
        programs.iter().map(|program| both.c.begin(program)).enumerate().collect();
    let mut rockers = vec![];
    let mut failed = 0;
    let mut most_waiting = 0;
    while !launches.is_empty() {
        for _ in 0..launches.len() {
            let (number, mut launch) = launches.pop_front().unwrap();
            match launch.go_on() {
                false => launches.push_back((number, launch)),
                true => match launch.end() {
                    Ok(rocker) => rockers.push((number, rocker)),
                    Err(error) => {
                        assert_eq!((number % 8, error.is_at_exec()), (7, true), "{error}");
                        failed += 1;
                    }
                },
            }
        }
        most_waiting = most_waiting.max(launches.len());
        wait_for_any(&launches);
    }
    assert_eq!((rockers.len(), failed), (28, 4));
    assert!(most_waiting > 16, "{most_waiting} at once is nobody's poll loop");
    for (number, rocker) in &mut rockers {
        assert_eq!(rocker.wait().unwrap(), Status::Exited(i32::try_from(*number).unwrap()));
        assert!(rocker.wait_gone());
    }
    drop(rockers);
    leaks.assert_none();
}

/// A stream of numbers that says how it began (`xorshift64`, Marsaglia 2003).
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = now_ns() | 1;
        println!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn launches_given_up_at_any_moment_leave_nothing() {
    let daemon = Daemon::start();
    let both = Both::new(&daemon).data_dir(daemon.data_dir()).overlay("/etc");
    let leaks = Leaks::snapshot().watch_pid(daemon.pid()).watch_pid(std::process::id());
    let program = sleeper();
    // How long a whole one takes, so that the moments are spread over it.
    let began = Instant::now();
    let mut whole = both.c.begin(&program).complete().unwrap();
    let usual = began.elapsed();
    whole.kill();
    assert!(whole.wait_gone());
    drop(whole);
    let mut random = Random::new();
    let (mut given_up, mut late) = (0, 0);
    for _ in 0..200 {
        // What is left of the one before has its data dir for a moment.
        let is_gone = || daemon.records().is_empty() && leaks.now().is_empty();
        assert!(
            daemon.is_well() && within(SOON, is_gone),
            "{:?} {:?}",
            daemon.records(),
            leaks.now()
        );
        let enough =
            Duration::from_nanos(random.below(u64::try_from(usual.as_nanos()).unwrap() * 5 / 4));
        let began = Instant::now();
        let mut launch = both.c.begin(&program);
        let mut is_over = false;
        while !is_over && began.elapsed() < enough {
            is_over = launch.go_on();
            if !is_over {
                launch.wait(Some(enough.saturating_sub(began.elapsed())));
            }
        }
        *(if is_over { &mut late } else { &mut given_up }) += 1;
        match launch.end() {
            // Over, or so far that nothing could be waited for.
            Ok(mut rocker) => {
                rocker.kill();
                assert!(is_over && rocker.wait_gone());
            }
            Err(error) => {
                // The master may have heard of the one before only now.
                let in_use = error.to_string().ends_with(": a living rocker uses it");
                assert!(!is_over || in_use, "{error}");
            }
        }
    }
    println!("{given_up} given up, {late} came to their end");
    assert!(given_up > 50);
    assert!(within(SOON, || daemon.records().is_empty()));
    leaks.assert_none();
    assert_eq!(daemon.probe(&["say well"]).one("say"), "well");
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

fn the_appmaster_starts_restarts_and_stops_its_apps() {
    let daemon = Daemon::start();
    let package = Package::new()
        .file("steady", 0o755, "#!/bin/sh\ntrap 'exit 0' TERM\nwhile :; do sleep 0.02; done\n")
        .file("deaf", 0o755, "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.02; done\n")
        .file("flaky", 0o755, "#!/bin/sh\nexit 3\n")
        .file("once", 0o755, "#!/bin/sh\nexit 0\n")
        .build();
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
        // The line of its start is printed when it runs.
        let waited = again.duration_since(ended).as_millis();
        assert!((wait_ms..wait_ms + 2000).contains(&waited), "{wait_ms} ms were {waited}");
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
    std::thread::sleep(Duration::from_millis(200));
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
    let package = Package::new().file("bin/hello", 0o755, "#!/bin/sh\necho hello\n").build();
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    let blocks = readme.split("```sh\n").filter_map(|text| text.split("```").next());
    let block = blocks.skip(1).find(|block| block.contains("appmaster.c")).unwrap();
    // Where a reader has it.
    let block = block.replace("/apps/hello.sqfs", package.to_str().unwrap());
    let dir = scratch();
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
