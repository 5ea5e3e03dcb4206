//! Connections that are attached to a living rocker: who may, how many, and that none of them
//! hurts another.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::time::Duration;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Instant;

use protocol::limits::ATTACHED_MAX;
use protocol::socket::{Buffer, Received, receive_before, send, wait_readable};
use protocol::{
    ClientMessage, Errno, Exit, GuardMessage, Ids, Item, Message, Name, Options, Overlays, Request,
    Rule, Step, Verdict,
};
use rocker_client::{Error, Limits, OpenRocker, Run, Stdio};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, shutdown, socket_with,
};
use tests::{
    APP_GID, APP_UID, Daemon, Program, SOON, probe_package, process, replayed, runner, within,
};

const SIGKILL: u8 = 9;

fn main() -> ExitCode {
    runner::main(tests::root![
        programs_of_several_connections_are_each_ones_own,
        an_entered_rocker_can_be_attached_to,
        nine_are_too_many,
        whoever_may_not_is_refused,
        an_attached_connection_takes_its_programs_along,
        who_floods_talks_nonsense_or_does_not_read_hurts_nobody_else,
        a_new_master_can_attach_too,
        a_rocker_that_stays_ends_with_its_last_process,
        an_order_instead_of_an_app_ends_the_launch,
        a_guard_without_descriptors_rests_and_goes_on,
        a_guard_that_rests_kills_in_time,
        the_master_holds_nothing_for_those_who_are_attached,
    ])
}

fn open(daemon: &Daemon) -> OpenRocker {
    replayed(daemon.launch(probe_package()).open()).unwrap()
}

fn attach(daemon: &Daemon, rocker: Name) -> Result<OpenRocker, Error> {
    OpenRocker::attach(daemon.socket(), rocker.as_str(), SOON)
}

fn sh(script: &str) -> Program {
    Program::new("/bin/sh").args(["-c", script]).stdin(Stdio::Null)
}

fn ends(rocker: OpenRocker) {
    assert!(rocker.kill(SOON).unwrap(), "the rocker outlives its guard");
}

fn has_ended(process: impl AsFd) -> bool {
    wait_readable(process, protocol::socket::now_ns() + 5_000_000_000) == Ok(true)
}

fn start(rocker: &mut OpenRocker, program: &Program, limits: &Limits) -> Run {
    rocker.spawn(program, limits).unwrap()
}

fn status(rocker: &mut OpenRocker, script: &str) -> Exit {
    let run = start(rocker, &sh(script), &Limits::new());
    rocker.wait(&run).unwrap().exit
}

fn programs_of_several_connections_are_each_ones_own() {
    let daemon = Daemon::start();
    let mut owner = open(&daemon);
    let mut others = [0; 3].map(|_| attach(&daemon, owner.guard_name()).unwrap());
    assert!(others.iter().all(|other| other.guard_name() == owner.guard_name()));
    assert!(others.iter().all(|other| other.guard_pid() == owner.guard_pid()));
    // Each has its own number 1.
    let runs: Vec<Run> = (1..)
        .zip(&mut others)
        .map(|(status, other)| start(other, &sh(&format!("exit {status}")), &Limits::new()))
        .collect();
    let mine = start(&mut owner, &sh("exit 9"), &Limits::new());
    for ((status, other), run) in (1..).zip(&mut others).zip(&runs) {
        assert_eq!(other.wait(run).unwrap().exit, Exit::Status(status));
        assert!(other.try_wait(run).unwrap().is_none(), "an end is told once");
    }
    assert_eq!(owner.wait(&mine).unwrap().exit, Exit::Status(9));
    drop(others);
    owner.ping().unwrap();
    ends(owner);
}

fn an_entered_rocker_can_be_attached_to() {
    let daemon = Daemon::start();
    let (stdin, input) = std::io::pipe().unwrap();
    let app = Program::new("bin/probe").arg("wait").stdin(stdin);
    let mut rocker = replayed(daemon.launch(probe_package()).spawn(&app)).unwrap();
    drop(app);
    let mut other = attach(&daemon, rocker.guard_name()).unwrap();
    let (mut output, stdout) = std::io::pipe().unwrap();
    let ids = Program::new("bin/probe").arg("ids").stdin(Stdio::Null).stdout(stdout);
    let run = start(&mut other, &ids, &Limits::new());
    drop(ids);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(other.wait(&run).unwrap().verdict, Verdict::Normal);
    assert!(text.contains(&APP_UID.to_string()), "{text}");
    // The App ends; what was started meanwhile keeps the rocker alive, the connection does not.
    let run = start(&mut other, &sh("sleep 1"), &Limits::new());
    drop(input);
    assert!(rocker.wait().unwrap().success());
    assert!(process::is_alive(rocker.guard_pid()));
    assert_eq!(other.wait(&run).unwrap().verdict, Verdict::Normal);
    assert!(rocker.wait_gone(Some(SOON)).unwrap(), "nobody is left in it");
    assert!(other.ping().is_err());
}

fn nine_are_too_many() {
    let daemon = Daemon::start();
    let mut owner = open(&daemon);
    let name = owner.guard_name();
    let mut others: Vec<OpenRocker> =
        (0..ATTACHED_MAX).map(|_| attach(&daemon, name).unwrap()).collect();
    let error = attach(&daemon, name).unwrap_err();
    assert_eq!(error.step(), Step::HandOver);
    assert!(error.to_string().contains("8 are attached already"), "{error}");
    owner.ping().unwrap();
    others.iter_mut().for_each(|other| other.ping().unwrap());
    // A place is free as soon as one has gone.
    drop(others.pop());
    assert!(within(SOON, || attach(&daemon, name).is_ok()));
    ends(owner);
}

fn whoever_may_not_is_refused() {
    const STRANGER: u32 = APP_UID + 1;
    let (daemon, package) = Daemon::for_users(&[APP_UID, STRANGER]);
    nix::unistd::setegid(APP_GID.into()).unwrap();
    let launch = daemon.launch(&package);
    let be = |uid: u32| nix::unistd::seteuid(uid.into()).unwrap();
    be(APP_UID);
    let mut owner = replayed(launch.open()).unwrap();
    let name = owner.guard_name();
    assert!(attach(&daemon, name).is_ok(), "its owner may");
    be(0);
    assert!(attach(&daemon, name).is_ok(), "root may");
    be(STRANGER);
    let error = attach(&daemon, name).unwrap_err();
    let nobody = protocol::Error::Invalid { rule: Rule::NoSuchRocker, item: Item::Name };
    assert_eq!(error.kind(), nobody);
    be(0);
    // An App of the owner's own uid may not, from inside.
    let socket = daemon.socket();
    let (mut output, stdout) = std::io::pipe().unwrap();
    let command = format!("attach {} {name}", socket.display());
    let inside = Program::new("bin/probe").arg(command).stdin(Stdio::Null).stdout(stdout);
    let run = start(&mut owner, &inside, &Limits::new());
    drop(inside);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    owner.wait(&run).unwrap();
    assert!(text.contains("another user namespace"), "{text}");
    ends(owner);
}

fn an_attached_connection_takes_its_programs_along() {
    let daemon = Daemon::start();
    let mut owner = open(&daemon);
    let mut other = attach(&daemon, owner.guard_name()).unwrap();
    let mine = start(&mut owner, &sh("exec sleep 60"), &Limits::new());
    let theirs = start(&mut other, &sh("sleep 60 & sleep 60"), &Limits::new());
    let theirs = theirs.pidfd().try_clone_to_owned().unwrap();
    drop(other);
    assert!(has_ended(&theirs), "it outlives its connection");
    let alone = || process::inside(owner.guard_pid()).len() == 1;
    assert!(within(SOON, alone), "{:?}", process::inside(owner.guard_pid()));
    assert!(owner.try_wait(&mine).unwrap().is_none());
    // Its place, and its number, are free for another.
    let mut other = attach(&daemon, owner.guard_name()).unwrap();
    assert_eq!(status(&mut other, "exit 4"), Exit::Status(4));
    owner.signal(&mine, SIGKILL).unwrap();
    assert_eq!(owner.wait(&mine).unwrap().verdict, Verdict::Cancelled);
    ends(owner);
}

/// A connection that its guard takes orders from, to be misused.
fn raw(daemon: &Daemon, name: Name) -> OwnedFd {
    let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    let socket = socket_with(family, SocketType::SEQPACKET, flags, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(daemon.socket()).unwrap()).unwrap();
    let mut buffer = Buffer::default();
    let attach = Message::Client(ClientMessage::Attach(name));
    send(&socket, &attach, &[], &mut buffer).unwrap();
    let until = protocol::socket::now_ns() + 5_000_000_000;
    match receive_before(&socket, &mut buffer, until).unwrap() {
        Received::Message(Message::Guard(GuardMessage::Entrance { .. }), _) => {}
        other => panic!("not attached: {other:?}"),
    }
    socket
}

fn who_floods_talks_nonsense_or_does_not_read_hurts_nobody_else() {
    let daemon = Daemon::start();
    let mut owner = open(&daemon);
    let name = owner.guard_name();
    let ping = Message::Client(ClientMessage::Ping);
    // One floods, and never reads; one breaks off; one speaks another language; one only listens.
    let flood = raw(&daemon, name);
    let flooding = std::thread::spawn(move || {
        let mut buffer = Buffer::default();
        let began = Instant::now();
        let mut said = 0_u32;
        while began.elapsed() < Duration::from_secs(8) {
            match send(&flood, &ping, &[], &mut buffer) {
                Ok(()) => said += 1,
                Err(Errno::AGAIN) => std::thread::sleep(Duration::from_millis(1)),
                Err(Errno::PIPE | Errno::CONNRESET) => return (said, began.elapsed()),
                Err(errno) => panic!("{errno:?}"),
            }
        }
        (said, began.elapsed())
    });
    let nonsense = raw(&daemon, name);
    rustix::io::write(&nonsense, b"\xff\xff\xff").unwrap();
    assert!(has_ended(&nonsense), "nonsense is not answered, but for the end");
    let half = raw(&daemon, name);
    shutdown(&half, rustix::net::Shutdown::Write).unwrap();
    assert!(has_ended(&half));
    let _silent = raw(&daemon, name);
    let began = Instant::now();
    let wall = Limits::new().wall(Duration::from_millis(50));
    let mut slowest = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(7) {
        let ordered = Instant::now();
        assert_eq!(status(&mut owner, "exit 0"), Exit::Status(0));
        slowest = slowest.max(ordered.elapsed());
        let run = start(&mut owner, &sh("sleep 60"), &wall);
        assert_eq!(owner.wait(&run).unwrap().verdict, Verdict::TimeLimitExceeded);
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let (said, lived) = flooding.join().unwrap();
    assert!(said > 50, "{said}");
    assert!(
        (4..8).contains(&lived.as_secs()),
        "who does not read is lost after 5 s, not {lived:?}"
    );
    ends(owner);
}

fn a_new_master_can_attach_too() {
    let mut daemon = Daemon::start();
    let mut owner = open(&daemon);
    daemon.kill();
    daemon.restart();
    let mut other = attach(&daemon, owner.guard_name()).unwrap();
    assert_eq!(status(&mut other, "exit 5"), Exit::Status(5));
    owner.ping().unwrap();
    ends(owner);
}

fn a_rocker_that_stays_ends_with_its_last_process() {
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package()).stays(true);
    let mut owner = replayed(launch.open()).unwrap();
    let guard = owner.guard_pidfd().try_clone_to_owned().unwrap();
    let (name, pid) = (owner.guard_name(), owner.guard_pid());
    start(&mut owner, &sh("sleep 60"), &Limits::new());
    drop(owner);
    std::thread::sleep(Duration::from_millis(200));
    assert!(process::is_alive(pid), "it was to stay");
    let mut other = attach(&daemon, name).unwrap();
    assert_eq!(status(&mut other, "exit 6"), Exit::Status(6));
    assert!(process::is_alive(pid));
    other.signal_all(SIGKILL).unwrap();
    assert!(has_ended(&guard), "it outlives its last process");
    // Without any program it ends with its owner.
    let owner = replayed(launch.open()).unwrap();
    let guard = owner.guard_pidfd().try_clone_to_owned().unwrap();
    drop(owner);
    assert!(has_ended(&guard));
}

/// What was not announced is garbage, either way.
fn an_order_instead_of_an_app_ends_the_launch() {
    let daemon = Daemon::start();
    for commanded in [false, true] {
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
        let socket = socket_with(family, SocketType::SEQPACKET, flags, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(daemon.socket()).unwrap()).unwrap();
        let exec_dir = daemon.exec_dir();
        let package = probe_package();
        let path = |path: &'_ std::path::Path| path.as_os_str().as_encoded_bytes().to_vec();
        let (package, exec_dir) = (path(&package), path(&exec_dir));
        let request = Request {
            app_id: 1,
            uid: APP_UID,
            gid: APP_GID,
            package: protocol::Path::new(&package).unwrap(),
            exec_dir: protocol::Path::new(&exec_dir).unwrap(),
            data_dir: None,
            overlays: Overlays::Dirs(core::iter::empty().collect()),
            ids: Ids::Identity,
            timeout_ms: 5000,
            trace: false,
            options: Options { commanded, ..Options::default() },
        };
        let mut buffer = Buffer::default();
        let launch = Message::Client(ClientMessage::Launch(request));
        send(&socket, &launch, &[], &mut buffer).unwrap();
        let until = protocol::socket::now_ns() + 5_000_000_000;
        let Received::Message(Message::Guard(GuardMessage::Entrance { .. }), fds) =
            receive_before(&socket, &mut buffer, until).unwrap()
        else {
            panic!("no entrance");
        };
        let guard = &fds[0];
        let wrong = match commanded {
            true => ClientMessage::AppStarted,
            false => ClientMessage::Ping,
        };
        let with = [guard.as_fd()];
        let with = if commanded { with.as_slice() } else { &[] };
        send(&socket, &Message::Client(wrong), with, &mut Buffer::default()).unwrap();
        match receive_before(&socket, &mut buffer, until).unwrap() {
            Received::Message(Message::Guard(GuardMessage::Failed(failure)), _) => {
                let (step, how) = (Step::ReportApp, protocol::Loss::Garbage);
                assert_eq!(failure.error, protocol::Error::Lost { step, how });
            }
            other => panic!("{commanded}: {other:?}"),
        }
        assert!(has_ended(guard));
    }
}

/// An App may lower its guard's limits: poll(2) fails for one that may have so few descriptors.
fn a_guard_without_descriptors_rests_and_goes_on() {
    let daemon = Daemon::start();
    let mut owner = open(&daemon);
    let mut other = attach(&daemon, owner.guard_name()).unwrap();
    let limit = |soft: u32, later: u32| {
        let set = |soft| format!("prlimit --pid 1 --nofile={soft}:");
        sh(&format!("{} && sleep 3 && {}", set(soft), set(later)))
    };
    let late = Limits::new().wall(Duration::from_millis(1500));
    let run = start(&mut owner, &sh("exec sleep 60"), &late);
    let began = Instant::now();
    let lowered = start(&mut owner, &limit(2, 1024), &Limits::new());
    // It is killed all the same, a rest later at most; but nobody can be heard meanwhile.
    let report = owner.wait(&run).unwrap();
    assert_eq!(report.verdict, Verdict::TimeLimitExceeded, "{report:?}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    other.ping().unwrap();
    assert!(began.elapsed() > Duration::from_secs(2), "a guard that cannot poll has answered");
    assert_eq!(owner.wait(&lowered).unwrap().exit, Exit::Status(0));
    assert_eq!(status(&mut other, "exit 7"), Exit::Status(7));
    // No number is left for a further descriptor: who comes then is not served, and nobody hurt.
    let lowered = start(&mut owner, &limit(13, 1024), &Limits::new());
    std::thread::sleep(Duration::from_millis(500));
    for _ in 0..ATTACHED_MAX {
        drop(attach(&daemon, owner.guard_name()));
    }
    assert_eq!(owner.wait(&lowered).unwrap().exit, Exit::Status(0));
    assert_eq!(status(&mut other, "exit 8"), Exit::Status(8));
    assert!(attach(&daemon, owner.guard_name()).is_ok());
    ends(owner);
}

/// A rest ends when a program is late: whoever makes its guard rest has no time more for that.
fn a_guard_that_rests_kills_in_time() {
    let daemon = Daemon::start();
    let mut owner = open(&daemon);
    // An orphan's end has it poll with the new limit.
    let script = sh("prlimit --pid 1 --nofile=2: && (true &); exec sleep 60");
    let began = Instant::now();
    let run = start(&mut owner, &script, &Limits::new().wall(Duration::from_millis(1200)));
    assert!(has_ended(run.pidfd()));
    // The second rest would be over after 2 s.
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1200) && took < Duration::from_millis(1900), "{took:?}");
    assert_eq!(owner.wait(&run).unwrap().verdict, Verdict::TimeLimitExceeded);
    ends(owner);
}

fn the_master_holds_nothing_for_those_who_are_attached() {
    let daemon = Daemon::start();
    let before = daemon.fds();
    let mut owner = open(&daemon);
    // It has let go then of what it took to make the rocker.
    assert_eq!(status(&mut owner, "true"), Exit::Status(0));
    let alone = process::fds(owner.guard_pid());
    let others: Vec<OpenRocker> =
        (0..4).map(|_| attach(&daemon, owner.guard_name()).unwrap()).collect();
    // One is the package's, for the next rocker.
    assert!(within(SOON, || daemon.fds() <= before + 1), "{} and {before}", daemon.fds());
    assert!(within(SOON, || process::fds(owner.guard_pid()) == alone + 4));
    drop(others);
    assert!(within(SOON, || process::fds(owner.guard_pid()) == alone));
    // The number by which the master reaches it is one that a program never sees.
    assert_eq!(status(&mut owner, "test ! -e /proc/self/fd/10"), Exit::Status(0));
    assert_ne!(status(&mut owner, "ls /proc/1/fd"), Exit::Status(0));
    ends(owner);
}
