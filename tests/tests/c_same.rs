//! An App cannot tell by which of the two libraries it was started.
#![allow(unsafe_code, reason = "callbacks, signal(2), prctl(2) and keyctl(2) have no safe form")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use rocker_client::{Program, Stdio};
use rustix::fs::{FlockOperation, Mode, flock};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, setrlimit};
use tests::app::with_output;
use tests::both::{Both, Words, ambush, without_numbers};
use tests::c_client::{self, Status, code};
use tests::replay::replayed;
use tests::{APP_UID, Daemon, Package, SOON};
use tests::{facts, probe_package, process, runner, scratch, within};

fn main() -> ExitCode {
    runner::main(tests::root![
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
        apps_of_both_are_in_their_rockers_namespaces,
        apps_of_both_are_the_same_when_the_caller_is_not_dumpable,
        the_caller_stays_dumpable_or_not_dumpable,
    ])
}

fn read_all(mut output: impl Read) -> String {
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    text
}

/// What was printed and how it ended, where somebody could tell; or why there was nothing.
type Told = Result<(String, Option<Status>), String>;

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

fn apps_of_both_are_in_their_rockers_namespaces() {
    fn forever() -> i32 {
        loop {
            nix::unistd::pause();
        }
    }
    let daemon = Daemon::start();
    let Both { rust, c } = Both::new(&daemon);
    let link = |pid: u32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    let assert_inside = |app: u32, guard: u32, by: &str| {
        for kind in ["user", "mnt", "pid", "ipc"] {
            assert_eq!(link(app, kind), link(guard, kind), "{by}");
            assert_ne!(link(app, kind), link(std::process::id(), kind), "{by}");
        }
    };
    let sleep = Program::new("sleep").arg("1000");
    let by_rust: [&dyn Fn() -> _; 2] = [
        &|| rust.spawn(&sleep),
        // SAFETY: the runner gives each test a process with one thread.
        &|| unsafe { rust.enter(forever) },
    ];
    for (number, launch) in by_rust.iter().enumerate() {
        let mut rocker = replayed(launch()).unwrap();
        assert_inside(rocker.app_pid(), rocker.guard_pid(), &format!("Rust, {number}"));
        rocker.kill().unwrap();
        status_of_rust(&mut rocker);
    }
    let sleep = c_client::Program::new("sleep").args(["1000"]);
    let by_c: [&dyn Fn() -> _; 4] = [
        &|| c.spawn(&sleep),
        &|| c.begin(&sleep).complete(),
        // SAFETY: as above.
        &|| unsafe { c.enter(forever) },
        &|| {
            let mut callback = Some(forever);
            // SAFETY: as above.
            unsafe { c.begin_enter(&mut callback) }.complete()
        },
    ];
    for (number, launch) in by_c.iter().enumerate() {
        let mut rocker = launch().unwrap();
        assert_inside(rocker.app_pid(), rocker.guard_pid(), &format!("C, {number}"));
        assert_eq!(rocker.kill(), 0);
        status_of_c(&mut rocker);
    }
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
