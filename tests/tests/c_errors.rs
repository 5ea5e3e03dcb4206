//! Every error of the C library, in the words of both libraries.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::time::Duration;
use std::fs;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode};
use std::time::Instant;

use rocker_client::{Error, Program};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use tests::both::{Both, Words, ambush, sleeper, without_numbers};
use tests::c_client::{self, Request, c_string, code, error_name, guard_name};
use tests::replay::replayed;
use tests::{APP_GID, APP_UID, Daemon, Package, SOON};
use tests::{probe_package, process, runner, within};

fn main() -> ExitCode {
    runner::main(tests::root![
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
    ])
}

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
        code::PARAM_INVALID,
        "data dir /",
    );
    let words = "/none: there is no such directory; make it: install -d -o UID DIR";
    assert!(line.ends_with(words), "{line}");
    let line = both_fail(
        &both.data_dir(daemon.data_dir()).overlay("/nowhere/at/all"),
        &probe(),
        code::BUILD_ROCKER_FAILED,
        "cannot find the directories to overlay (overlay.0): ",
    );
    assert!(line.ends_with("/nowhere/at/all: No such file or directory"), "{line}");
}

fn what_cannot_be_entered_is_enter_rocker_failed() {
    let daemon = Daemon::start();
    let both = Both::new(&daemon);
    let begin =
        "cannot enter the rocker (enter.2): nsenter --target # --user --mount --pid --ipc: ";
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
    fail(
        &Words::new("none-in-path", [""]),
        "exec none-in-path: No such file or directory: \
         a name without / is looked up in PATH; ./NAME is the package's",
    );
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
