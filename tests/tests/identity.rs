//! Who the App is: the user that was asked for and nothing else, whatever its caller is.
#![allow(unsafe_code, reason = "Launch::enter, signal(2) and dup2(2) have no safe form")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use protocol::{Error, Item, Rule};
use tests::app::{self, Answer, App, with_output};
use tests::{APP_GID, APP_UID, Daemon, Launch, Program, SOON};
use tests::{facts, probe_package, process, replayed, runner, scratch};

fn main() -> ExitCode {
    runner::main(tests::root![
        all_four_ids_are_the_ones_asked_for,
        the_outside_sees_the_same_ids,
        ids_cannot_be_changed_back,
        the_callers_groups_are_gone,
        a_file_for_the_callers_group_stays_closed,
        no_capability_is_left_and_none_can_be_gained,
        leaked_descriptors_do_not_arrive,
        a_working_directory_that_was_deleted_is_no_way_out,
        an_exec_dir_through_a_descriptor_is_refused,
        signals_are_as_at_boot,
        the_app_has_a_session_of_its_own_unless_asked,
        the_app_may_look_at_itself,
        only_the_apps_own_ids_are_mapped,
        the_caller_stays_who_it_was,
        a_caller_may_be_any_mess_at_once,
    ])
}

const FACTS: &[&str] = &[
    "ids",
    "status CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs SigBlk SigIgn SigCgt SigPnd ShdPnd",
    "fds",
    "cwd",
    "pids",
    "open /proc/self/environ",
    "open /proc/self/mem",
    "setuid 0",
    "setgid 0",
    "open-w /etc/shadow",
];

/// What an App says of itself, once as a program and once as a callback.
fn both_ways(launch: &Launch, commands: &[&str]) -> [Answer; 2] {
    let (status, text) = with_output(|| {
        let callback = || {
            facts::run(commands);
            0
        };
        // SAFETY: the runner gives each test a process with one thread.
        let mut rocker =
            replayed(unsafe { launch.enter(callback) }).unwrap_or_else(|error| panic!("{error}"));
        let status = rocker.wait().expect("the App is our child");
        assert!(rocker.wait_gone(Some(SOON)).expect("a pidfd can be polled"));
        status
    });
    [app::run(launch, commands), Answer::new(status, &text)]
}

fn all_four_ids_are_the_ones_asked_for() {
    let daemon = Daemon::start();
    for (uid, gid) in [(APP_UID, APP_GID), (1, 1), (65_534, 65_534), (u32::MAX - 1, 7)] {
        let launch = daemon.launch(probe_package()).uid(uid).gid(gid);
        for answer in both_ways(&launch, FACTS) {
            assert_eq!(answer.one("uid"), format!("{uid} {uid} {uid} {uid}"));
            assert_eq!(answer.one("gid"), format!("{gid} {gid} {gid} {gid}"));
            assert_eq!(answer.one("getresuid"), format!("{uid} {uid} {uid}"));
            assert_eq!(answer.one("getresgid"), format!("{gid} {gid} {gid}"));
        }
    }
}

fn the_outside_sees_the_same_ids() {
    let daemon = Daemon::start();
    let app = App::start(&daemon.launch(probe_package()), &["wait"]).unwrap();
    let status = process::status(app.rocker.app_pid());
    assert_eq!(status["Uid"], format!("{APP_UID} {APP_UID} {APP_UID} {APP_UID}"));
    assert_eq!(status["Gid"], format!("{APP_GID} {APP_GID} {APP_GID} {APP_GID}"));
    assert_eq!(status["Groups"], "");
    app.finish();
}

fn ids_cannot_be_changed_back() {
    let daemon = Daemon::start();
    for answer in both_ways(&daemon.launch(probe_package()), FACTS) {
        // 0 is not mapped: there is no such id in there.
        assert_eq!(answer.one("setuid 0"), "EINVAL");
        assert_eq!(answer.one("setgid 0"), "EINVAL");
        assert_eq!(answer.one("open-w /etc/shadow"), "EACCES");
    }
}

/// Thirty of them, as after the login of a busy administrator.
fn join_groups() {
    let groups: Vec<nix::unistd::Gid> = (40_000..40_030).map(nix::unistd::Gid::from_raw).collect();
    nix::unistd::setgroups(&groups).expect("root may");
}

fn the_callers_groups_are_gone() {
    let daemon = Daemon::start();
    join_groups();
    for answer in both_ways(&daemon.launch(probe_package()), FACTS) {
        assert_eq!(answer.one("groups"), "");
        assert_eq!(answer.one("getgroups"), "0");
    }
}

fn a_file_for_the_callers_group_stays_closed() {
    let daemon = Daemon::start();
    join_groups();
    let dir = scratch();
    let file = dir.path().join("secret");
    fs::write(&file, "of group 40007").unwrap();
    std::os::unix::fs::chown(&file, Some(0), Some(40_007)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let open = format!("open {}", file.display());
    for answer in both_ways(&daemon.launch(probe_package()), &[&open]) {
        assert_eq!(answer.one(&open), "EACCES");
    }
}

fn no_capability_is_left_and_none_can_be_gained() {
    let daemon = Daemon::start();
    for answer in both_ways(&daemon.launch(probe_package()), FACTS) {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(answer.one(set), "0000000000000000", "{set}");
        }
        assert_eq!(answer.one("NoNewPrivs"), "1");
    }
}

/// Fifty descriptors to places of the host, none close-on-exec, some with high numbers.
fn leak_descriptors() -> Vec<OwnedFd> {
    let open = |path: &str| OwnedFd::from(fs::File::open(path).expect("the host has it"));
    let mut leaked = vec![];
    for number in 0..25 {
        leaked.push(open("/"));
        leaked.push(open("/etc/passwd"));
        let high =
            nix::fcntl::fcntl(leaked.last().unwrap(), nix::fcntl::FcntlArg::F_DUPFD(500 + number));
        // SAFETY: F_DUPFD has just made this number, and nobody else owns it.
        leaked.push(unsafe { std::os::fd::FromRawFd::from_raw_fd(high.unwrap()) });
    }
    for fd in &leaked {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
    }
    leaked
}

fn leaked_descriptors_do_not_arrive() {
    let daemon = Daemon::start();
    let _leaked = leak_descriptors();
    let [program, callback] = both_ways(&daemon.launch(probe_package()), FACTS);
    // The callback has its output in the file that with_output put there.
    assert_eq!(program.one("fds"), "0 1 2");
    assert_eq!(callback.one("fds"), "0 1 2");
    for number in [0, 1] {
        assert!(program.one(&format!("fd {number}")).starts_with("pipe:["));
    }
}

fn a_working_directory_that_was_deleted_is_no_way_out() {
    let daemon = Daemon::start();
    let dir = scratch();
    let lost = dir.path().join("lost");
    fs::create_dir(&lost).unwrap();
    std::env::set_current_dir(&lost).unwrap();
    fs::remove_dir(&lost).unwrap();
    for answer in both_ways(&daemon.launch(probe_package()), FACTS) {
        assert_eq!(answer.one("cwd"), daemon.exec_dir().to_str().unwrap());
    }
}

fn an_exec_dir_through_a_descriptor_is_refused() {
    let daemon = Daemon::start();
    let root = fs::File::open("/").unwrap();
    let through = format!("/proc/self/fd/{}", root.as_raw_fd());
    let error = app::refused(&daemon.launch(probe_package()).exec_dir(&through));
    assert_eq!(error.kind(), Error::Invalid { rule: Rule::Forbidden, item: Item::ExecDir });
    // The App's own directory is a place inside, not one of the caller's.
    let launch = daemon.launch(probe_package());
    assert!(replayed(launch.spawn(&Program::new("bin/probe").cwd(&through))).is_err());
}

/// Every signal blocked, some ignored, some handled.
fn mess_with_signals() {
    extern "C" fn handler(_: i32) {}
    for ignored in [Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        // SAFETY: ignoring runs no code.
        unsafe { signal(ignored, SigHandler::SigIgn) }.unwrap();
    }
    for handled in [Signal::SIGUSR1, Signal::SIGTERM, Signal::SIGWINCH] {
        // SAFETY: the handler does nothing, which is safe at any moment.
        unsafe { signal(handled, SigHandler::Handler(handler)) }.unwrap();
    }
    SigSet::all().thread_block().unwrap();
}

/// What `cat /proc/self/status` says: a program that leaves all signals as it finds them.
fn status_of_cat(launch: &Launch) -> Answer {
    let app = App::start_program(launch, Program::new("cat").arg("/proc/self/status")).unwrap();
    let output = app.finish();
    assert!(output.status.success());
    output
}

fn signals_are_as_at_boot() {
    let daemon = Daemon::start();
    mess_with_signals();
    let launch = daemon.launch(probe_package());
    let [_, callback] = both_ways(&launch, FACTS);
    let cat = status_of_cat(&launch);
    for set in ["SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd"] {
        assert_eq!(callback.one(set), "0000000000000000", "callback: {set}");
        assert_eq!(cat.one(set), "0000000000000000", "program: {set}");
    }
}

fn the_app_has_a_session_of_its_own_unless_asked() {
    let daemon = Daemon::start();
    for answer in both_ways(&daemon.launch(probe_package()), FACTS) {
        assert_eq!(answer.one("sid"), answer.one("pid"));
    }
    let program = Program::new("bin/probe").arg("pids").keep_session();
    let answer = App::start_program(&daemon.launch(probe_package()), program).unwrap().finish();
    // The session's leader is outside, so it has no number in there.
    assert_eq!(answer.one("sid"), "0");
}

fn the_app_may_look_at_itself() {
    let daemon = Daemon::start();
    for answer in both_ways(&daemon.launch(probe_package()), FACTS) {
        assert_eq!(answer.one("open /proc/self/environ"), "ok");
        assert_eq!(answer.one("open /proc/self/mem"), "ok");
    }
}

fn only_the_apps_own_ids_are_mapped() {
    let daemon = Daemon::start();
    for answer in both_ways(&daemon.launch(probe_package()), &["ids", "stat /etc/passwd"]) {
        assert_eq!(answer.one("uid_map"), format!("{APP_UID} {APP_UID} 1"));
        assert_eq!(answer.one("gid_map"), format!("{APP_GID} {APP_GID} 1"));
        assert_eq!(answer.one("setgroups"), "deny");
        assert_eq!(answer.one("stat /etc/passwd"), "file 0644 65534 65534");
    }
}

fn the_caller_stays_who_it_was() {
    let daemon = Daemon::start();
    join_groups();
    mess_with_signals();
    let _leaked = leak_descriptors();
    let me = || {
        let mut status = process::status(std::process::id());
        // These count what has happened, not who we are.
        status.retain(|key, _| {
            !key.starts_with("Vm")
                && !key.starts_with("Rss")
                && !key.ends_with("switches")
                && !["SigPnd", "ShdPnd", "SigQ", "State"].contains(&key.as_str())
        });
        let dumpable = rustix::process::dumpable_behavior().unwrap();
        let links = process::fd_links(std::process::id());
        let namespaces: Vec<_> = ["mnt", "pid", "pid_for_children", "ipc", "user"]
            .map(|name| fs::read_link(format!("/proc/self/ns/{name}")).unwrap())
            .into();
        (status, format!("{dumpable:?}"), links.len(), namespaces, std::env::current_dir().unwrap())
    };
    let before = me();
    both_ways(&daemon.launch(probe_package()), FACTS);
    app::refused(&daemon.launch(probe_package()).exec_dir("/nowhere/at/all"));
    let missing = daemon.launch(probe_package()).spawn(&Program::new("bin/missing"));
    let _ = replayed(missing).unwrap_err();
    assert_eq!(me(), before);
}

fn a_caller_may_be_any_mess_at_once() {
    let daemon = Daemon::start();
    join_groups();
    mess_with_signals();
    let _leaked = leak_descriptors();
    rustix::process::umask(rustix::fs::Mode::empty());
    for answer in both_ways(&daemon.launch(probe_package()), FACTS) {
        assert_eq!(answer.one("uid"), format!("{APP_UID} {APP_UID} {APP_UID} {APP_UID}"));
        assert_eq!(answer.one("groups"), "");
        assert_eq!(answer.one("fds"), "0 1 2");
        assert_eq!(answer.one("SigBlk"), "0000000000000000");
        assert_eq!(answer.one("CapBnd"), "0000000000000000");
    }
}
