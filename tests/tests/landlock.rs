//! The second wall: what it stops that nothing else does, what it lets through, and where there is
//! none.
#![allow(unsafe_code, reason = "system call filters have no safe form here")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};

use protocol::{Errno, Step};
use rocker_client::{Conf, Launch, Limits, OpenFile, OpenRocker, Run, Stdio};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
use tests::app::{self, Answer, App};
use tests::scratch::directory;
use tests::{APP_UID, Daemon, Program, SOON, probe_package, replayed, runner};

fn main() -> ExitCode {
    runner::main(tests::root![
        abstract_sockets_of_the_hosts_are_out_of_reach,
        nothing_is_written_but_where_the_request_says,
        a_directory_of_the_hosts_that_leaked_in_is_read_at_most,
        what_is_ordered_done_with_files_is_bound_as_well,
        a_callback_is_bound_as_a_program_is,
        what_a_configuration_gives_can_be_written_to_after_each_reset,
        a_new_root_is_written_to_where_that_was_so_before,
        programs_of_one_rocker_meet_in_files_and_by_signals,
        who_attaches_starts_programs_within_it,
        without_landlock_in_the_kernel_the_launch_fails_and_no_other_does,
        who_does_not_ask_makes_no_call_of_it,
    ])
}

/// Somebody who listens, until it is dropped.
fn listener(name: &str) -> OwnedFd {
    let ours = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    bind(&ours, &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap()).unwrap();
    listen(&ours, 8).unwrap();
    ours
}

/// A name that no other test has.
fn unique(what: &str) -> String {
    format!("rocker-test-{what}-{}", std::process::id())
}

/// Runs the probe with these commands and these descriptors, from 3 on: entered, and started by a
/// guard.
#[track_caller]
fn both_ways(launch: &Launch, files: &[&fs::File], commands: &[&str]) -> [Answer; 2] {
    let program = || {
        let program = Program::new("bin/probe").args(commands);
        files.iter().fold(program, |it, file| it.keep_fd(file.try_clone().unwrap()))
    };
    let entered = App::start_program(launch, program()).unwrap().finish();
    let mut rocker = replayed(launch.open()).unwrap();
    let text = app::commanded(&mut rocker, program());
    ends(rocker);
    [Answer::new(entered.status, &text), entered]
}

fn ends(rocker: OpenRocker) {
    assert!(rocker.kill(SOON).unwrap(), "the rocker outlives its guard");
}

fn abstract_sockets_of_the_hosts_are_out_of_reach() {
    let daemon = Daemon::start();
    let name = unique("abstract");
    let _listener = listener(&name);
    let (connect, own) = (format!("connect-abstract {name}"), unique("own"));
    let (hear, meet) = (format!("listen-abstract {own}"), format!("connect-abstract {own}"));
    let commands = [connect.as_str(), &hear, &meet];
    let launch = daemon.launch(probe_package());
    for (landlock, word) in [(false, "ok"), (true, "EPERM")] {
        for answer in both_ways(&launch.clone().landlock(landlock), &[], &commands) {
            let said = commands.map(|command| answer.one(command));
            assert_eq!(said, [word, "ok", "ok"], "landlock: {landlock}");
        }
    }
}

/// A directory of the App's user on the host, and another one that is overlaid.
struct Places {
    daemon: Daemon,
    host: PathBuf,
    overlaid: PathBuf,
}

impl Places {
    fn new() -> Self {
        let daemon = Daemon::start();
        let host = directory(daemon.path("host"), 0o755, APP_UID);
        let overlaid = directory(daemon.path("overlaid"), 0o755, APP_UID);
        Self { daemon, host, overlaid }
    }

    fn launch(&self) -> Launch {
        self.daemon.overlaid(probe_package(), &[self.overlaid.to_str().unwrap()]).landlock(true)
    }

    fn bare(&self) -> Launch {
        self.launch().landlock(false)
    }
}

fn nothing_is_written_but_where_the_request_says() {
    let places = Places::new();
    fs::write(places.host.join("file"), "of the host").unwrap();
    std::os::unix::fs::chown(places.host.join("file"), Some(APP_UID), None).unwrap();
    let (host, overlaid) = (places.host.display(), places.overlaid.display());
    let beyond = [
        format!("write {host}/new x"),
        format!("write {host}/file x"),
        format!("mkdir {host}/dir"),
        format!("unlink {host}/file"),
        format!("symlink x {host}/link"),
        format!("rename {overlaid}/kept {host}/moved"),
    ];
    let within = [
        format!("mkdir {overlaid}/dir"),
        format!("write {overlaid}/file x"),
        format!("rename {overlaid}/file {overlaid}/dir/file"),
        format!("unlink {overlaid}/dir/file"),
        format!("rmdir {overlaid}/dir"),
        "write /dev/null x".to_owned(),
        "write /dev/shm/file x".to_owned(),
        "write /proc/self/comm x".to_owned(),
        "open-w /dev/ptmx".to_owned(),
    ];
    let reads = [format!("read {host}/file"), "run /bin/true".to_owned()];
    let kept = format!("write {overlaid}/kept x");
    let commands: Vec<&str> = core::iter::once(&kept)
        .chain(&reads)
        .chain(&within)
        .chain(&beyond)
        .map(String::as_str)
        .collect();
    for answer in both_ways(&places.launch(), &[], &commands) {
        assert_eq!(answer.one(&reads[0]), "of the host");
        assert_eq!(answer.one(&reads[1]), "exit status: 0");
        for command in &within {
            assert_eq!(answer.one(command), "ok", "{command}");
        }
        for command in &beyond {
            // It is never done by a rename, with a wall or without: these are two mounts.
            let word = if command.starts_with("rename") { "EXDEV" } else { "EACCES" };
            assert_eq!(answer.one(command), word, "{command}");
        }
    }
    // It is the wall that says so.
    let answer = app::run(&places.bare(), &[&beyond[0]]);
    assert_eq!(answer.one(&beyond[0]), "ok");
}

fn a_directory_of_the_hosts_that_leaked_in_is_read_at_most() {
    let places = Places::new();
    fs::write(places.overlaid.join("file"), "of the host").unwrap();
    // Outside the rocker this is where the App's own layer is not.
    let leaked = fs::File::open(&places.overlaid).unwrap();
    let path = places.host.join("file");
    let file = fs::File::create(&path).unwrap();
    std::os::unix::fs::chown(&path, Some(APP_UID), None).unwrap();
    let commands = [
        "read /proc/self/fd/3/file",
        "write /proc/self/fd/3/new x",
        // It is there to be written to, but not by a way of its own.
        "open-w /proc/self/fd/4",
    ];
    for answer in both_ways(&places.launch(), &[&leaked, &file], &commands) {
        let said = commands.map(|command| answer.one(command));
        assert_eq!(said, ["of the host", "EACCES", "EACCES"]);
    }
    assert!(!places.overlaid.join("new").exists());
    let answer = &both_ways(&places.bare(), &[&leaked, &file], &commands)[1];
    assert_eq!(commands.map(|command| answer.one(command)), ["of the host", "ok", "ok"]);
    assert_eq!(fs::read_to_string(places.overlaid.join("new")).unwrap(), "x", "on the host");
}

/// Whoever gives the orders has not laid the links that they follow.
fn what_is_ordered_done_with_files_is_bound_as_well() {
    let places = Places::new();
    let victim = places.host.join("file");
    let other = directory(places.host.join("other"), 0o755, APP_UID);
    fs::write(&victim, "of the host").unwrap();
    std::os::unix::fs::chown(&victim, Some(APP_UID), None).unwrap();
    for (launch, bound) in [(places.launch(), true), (places.bare(), false)] {
        let mut rocker = replayed(launch.open()).unwrap();
        let link = places.overlaid.join(format!("bound-{bound}"));
        rocker.symlink(&victim, &link).unwrap();
        let write = |path: &Path| OpenFile::new(path).write().create(0o600);
        let own = places.overlaid.join("own");
        let mut opened = rocker.open_files(&[write(&link), write(&own)]).unwrap();
        let (own, link) = (opened.pop().unwrap(), opened.pop().unwrap());
        use std::io::Write as _;
        assert!(own.unwrap().write_all(b"x").is_ok());
        let read = rocker.open_files(&[OpenFile::new(&victim)]).unwrap().pop().unwrap();
        assert!(read.is_ok(), "as its programs may");
        let done = [
            link.map(drop),
            rocker.symlink("x", places.host.join("new")),
            rocker.delete(&other),
            rocker.delete_tree(&victim, SOON),
        ];
        for (number, done) in done.into_iter().enumerate() {
            let refused = done.err().map(|error| error.to_string());
            assert_eq!(refused.is_some(), bound, "{number}: {refused:?}");
            assert!(refused.is_none_or(|line| line.contains("Permission denied")), "{number}");
        }
        assert_eq!(victim.exists(), bound);
        rocker.ping().unwrap();
        ends(rocker);
    }
}

fn a_callback_is_bound_as_a_program_is() {
    let places = Places::new();
    let name = unique("callback");
    let _listener = listener(&name);
    let beyond = format!("write {}/new x", places.host.display());
    let within = format!("write {}/new x", places.overlaid.display());
    let connect = format!("connect-abstract {name}");
    let launch = places.launch();
    let call = || {
        for command in [&beyond, &within, &connect] {
            assert!(tests::facts::run_one(command));
        }
        0
    };
    let (status, text) = app::with_output(|| {
        // SAFETY: a test has a process of its own, with one thread.
        let mut rocker = replayed(unsafe { launch.enter(call) }).unwrap();
        let status = rocker.wait().unwrap();
        assert!(rocker.wait_gone(Some(SOON)).unwrap());
        status
    });
    let answer = Answer::new(status, &text);
    assert_eq!([&beyond, &within, &connect].map(|it| answer.one(it)), ["EACCES", "ok", "EPERM"]);
}

/// What a program of this rocker says.
fn says(rocker: &mut OpenRocker, probe: &Path, commands: &[&str]) -> Answer {
    let text = app::commanded(rocker, Program::new(probe).args(commands));
    Answer::new(ExitStatus::default(), &text)
}

fn what_a_configuration_gives_can_be_written_to_after_each_reset() {
    let places = Places::new();
    let given = directory(places.daemon.path("given"), 0o755, APP_UID);
    let shown = directory(places.daemon.path("shown"), 0o755, APP_UID);
    let layered = directory(places.daemon.path("layered"), 0o755, APP_UID);
    let file = places.daemon.path("file");
    fs::write(&file, "").unwrap();
    std::os::unix::fs::chown(&file, Some(APP_UID), None).unwrap();
    let exec_dir = places.daemon.exec_dir();
    let conf = Conf::new()
        .bind(&given, &given)
        .bind(&file, &file)
        .bind_ro(&shown, &shown)
        .tmpfs("/mnt", 1 << 20)
        .overlay(&layered, 1 << 20)
        .init(Program::new("/bin/sh").args(["-c", "echo x > /mnt/init"]), SOON);
    let mut rocker = replayed(places.launch().open()).unwrap();
    rocker.configure(&conf).unwrap();
    let yes = [
        format!("write {}/new x", given.display()),
        format!("write {} x", file.display()),
        format!("write {}/new x", layered.display()),
        format!("write {}/new x", places.overlaid.display()),
        "write /mnt/new x".to_owned(),
        "write /dev/shm/new x".to_owned(),
    ];
    let no = [
        format!("write {}/new x", places.host.display()),
        format!("write {}/new x", shown.display()),
    ];
    let commands: Vec<&str> = yes.iter().chain(&no).map(String::as_str).collect();
    for _ in 0..3 {
        let answer = says(&mut rocker, &exec_dir.join("bin/probe"), &commands);
        assert_eq!(yes.each_ref().map(|it| answer.one(it)), ["ok"; 6]);
        assert_eq!(no.each_ref().map(|it| answer.one(it)), ["EACCES", "EROFS"]);
        rocker.reset().unwrap();
    }
    ends(rocker);
}

fn a_new_root_is_written_to_where_that_was_so_before() {
    let places = Places::new();
    let exec_dir = places.daemon.exec_dir();
    for (dir, word) in [(&places.overlaid, "ok"), (&places.host, "EACCES")] {
        let mut rocker = replayed(places.launch().open()).unwrap();
        let at = directory(dir.join("app"), 0o755, APP_UID);
        for name in ["usr", "proc"] {
            directory(dir.join(name), 0o755, APP_UID);
        }
        let libs = ["lib", "lib64"].map(|name| (format!("/usr/{name}"), dir.join(name)));
        for (to, link) in &libs {
            std::os::unix::fs::symlink(&to[1..], link).unwrap();
        }
        let conf = Conf::new().root(dir).bind_ro("/usr", "/usr").bind_ro(&exec_dir, "/app");
        assert!(at.is_dir());
        rocker.configure(&conf.proc("/proc")).unwrap();
        let answer = says(&mut rocker, Path::new("/app/bin/probe"), &["write /new x"]);
        assert_eq!(answer.one("write /new x"), word, "{}", dir.display());
        ends(rocker);
    }
    let mut rocker = replayed(places.launch().open()).unwrap();
    let conf = Conf::new().empty_root(1 << 20).bind_ro("/usr", "/usr").bind_ro(&exec_dir, "/app");
    let conf = conf.link("usr/lib", "/lib").link("usr/lib64", "/lib64").tmpfs("/tmp", 1 << 20);
    rocker.configure(&conf).unwrap();
    for _ in 0..2 {
        let answer = says(&mut rocker, Path::new("/app/bin/probe"), &["write /tmp/new x"]);
        assert_eq!(answer.one("write /tmp/new x"), "ok");
        rocker.reset().unwrap();
    }
    ends(rocker);
}

/// A program that says this, and its pid, and then waits for its end.
fn waiting(rocker: &mut OpenRocker, command: &str) -> (Run, Answer) {
    let (output, stdout) = std::io::pipe().unwrap();
    let program = Program::new("bin/probe").args([command, "readlink /proc/self", "sleep 60000"]);
    let run = rocker.spawn(&program.stdin(Stdio::Null).stdout(stdout), &Limits::new()).unwrap();
    let lines: Vec<String> = BufReader::new(output).lines().take(2).map(Result::unwrap).collect();
    (run, Answer::new(ExitStatus::default(), &lines.join("\n")))
}

fn programs_of_one_rocker_meet_in_files_and_by_signals() {
    let places = Places::new();
    let file = places.overlaid.join("file");
    let (write, read) = (format!("write {} x", file.display()), format!("read {}", file.display()));
    for (launch, meets, looks) in
        [(places.bare(), "ok", "ok"), (places.launch(), "EPERM", "EACCES")]
    {
        let mut rocker = replayed(launch.open()).unwrap();
        let name = unique("siblings");
        let hear = format!("listen-abstract {name}");
        let (first, said) = waiting(&mut rocker, &hear);
        assert_eq!(said.one(&hear), "ok");
        app::commanded(&mut rocker, Program::new("bin/probe").arg(&write));
        let pid = said.one("readlink /proc/self");
        let (connect, kill) = (format!("connect-abstract {name}"), format!("kill {pid} 15"));
        let look = format!("open /proc/{pid}/environ");
        let commands = [&connect, &look, &read, &kill].map(String::as_str);
        let answer = says(&mut rocker, Path::new("bin/probe"), &commands);
        assert_eq!(commands.map(|it| answer.one(it)), [meets, looks, "x", "ok"]);
        assert_eq!(rocker.wait(&first).unwrap().exit, protocol::Exit::Signal(15));
        ends(rocker);
    }
}

fn who_attaches_starts_programs_within_it() {
    let places = Places::new();
    let app = App::start(&places.launch(), &["wait"]).unwrap();
    let name = app.rocker.guard_name();
    let mut rocker = OpenRocker::attach(places.daemon.socket(), &name.to_string(), SOON).unwrap();
    let write = format!("write {}/new x", places.host.display());
    assert_eq!(says(&mut rocker, Path::new("bin/probe"), &[&write]).one(&write), "EACCES");
    drop(rocker);
    app.finish();
}

/// From now on the kernel answers every call of Landlock's so, to this process and all that it
/// makes: `SECCOMP_RET_*`.
fn no_landlock(answer: u32) {
    let step =
        |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let first = u32::try_from(libc::SYS_landlock_create_ruleset).unwrap();
    let mut filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 2, first),
        step(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 1, 0, first + 2),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, answer),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 5, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel reads the struct and five instructions, which are there.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, 1, 0, &raw const program) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

fn without_landlock_in_the_kernel_the_launch_fails_and_no_other_does() {
    const ENOSYS: u32 = 38;
    const EOPNOTSUPP: Errno = Errno(95);
    no_landlock(libc::SECCOMP_RET_ERRNO | ENOSYS);
    let places = Places::new();
    let error = app::refused(&places.launch());
    assert_eq!((error.step(), error.errno()), (Step::UnshareUser, Some(EOPNOTSUPP)));
    let text = error.to_string();
    assert!(text.contains("--landlock-access fs [the kernel has no Landlock]"), "{text}");
    let opened = replayed(places.launch().open());
    assert_eq!(opened.unwrap_err().errno(), Some(EOPNOTSUPP));
    assert_eq!(app::run(&places.bare(), &["say on"]).one("say"), "on");
}

fn who_does_not_ask_makes_no_call_of_it() {
    no_landlock(libc::SECCOMP_RET_KILL_PROCESS);
    let places = Places::new();
    for answer in both_ways(&places.bare(), &[], &["say on"]) {
        assert_eq!(answer.one("say"), "on");
    }
}
