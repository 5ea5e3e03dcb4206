//! Programs that wait before they execute, and programs that are warned before they are killed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::time::Duration;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::Instant;

use protocol::socket::{Buffer, Received, receive_before, send};
use protocol::{ClientMessage, Errno, Exit, GuardMessage, Message, Step, Verdict};
use rocker_client::{Limits, OpenRocker, Spawned, Stdio};
use tests::{Daemon, SOON, probe_package, process, replayed, runner, within};

const SIGTERM: u8 = 15;
const SIGKILL: u8 = 9;

fn main() -> ExitCode {
    runner::main(tests::root![
        a_program_waits_until_it_is_let_go,
        whoever_waits_can_be_signalled_and_killed,
        whoever_waits_ends_with_its_connection,
        many_wait_at_once,
        what_fails_after_go_is_told_in_place_of_the_end,
        the_clock_runs_for_whoever_waits,
        a_go_for_nobody_is_refused,
        a_program_that_is_warned_may_end_by_itself,
        a_command_reads_like_one_of_the_standard_library,
    ])
}

fn open(daemon: &Daemon) -> OpenRocker {
    replayed(daemon.launch(probe_package()).stays(true).open()).unwrap()
}

fn ends(rocker: OpenRocker) {
    assert!(rocker.kill(SOON).unwrap(), "the rocker outlives its guard");
}

/// A shell that waits, and the pipe to which it will write.
fn waits(rocker: &mut OpenRocker, script: &str, limits: &Limits) -> Spawned {
    let command = rocker.command("/bin/sh").args(["-c", script]).stdin(Stdio::Null);
    command.stdout_piped().limits(limits.clone()).sync().spawn().unwrap()
}

fn text(spawned: &mut Spawned) -> String {
    let mut text = String::new();
    spawned.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

/// Its descriptors, but for those of the program. A guard that has nothing to do lets go of some.
fn descriptors(pid: u32) -> Vec<String> {
    let all = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut all: Vec<u32> =
        all.map(|it| it.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    all.sort_unstable();
    let own = |number: &&u32| **number > 2;
    let target = |number: &u32| std::fs::read_link(format!("/proc/{pid}/fd/{number}")).ok();
    let targets = all.iter().filter(own).filter_map(target);
    targets.map(|target| target.display().to_string()).collect()
}

fn a_program_waits_until_it_is_let_go() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let mut spawned = waits(&mut rocker, "echo $$", &Limits::new());
    let pid = spawned.run.pid().unwrap();
    // It has nothing of the guard's but what it waits at.
    assert!(within(SOON, || descriptors(pid).len() == 1), "{:?}", descriptors(pid));
    assert!(descriptors(pid)[0].starts_with("socket:"));
    // Others are served meanwhile.
    assert_eq!(rocker.command("bin/probe").arg("exit 5").status().unwrap().exit, Exit::Status(5));
    assert_eq!(rocker.try_wait(&spawned.run).unwrap(), None);
    rocker.go(&spawned.run).unwrap();
    assert_eq!(text(&mut spawned), format!("{}\n", spawned.run.pid_inside()));
    assert_eq!(rocker.wait(&spawned.run).unwrap().verdict, Verdict::Normal);
    ends(rocker);
}

fn whoever_waits_can_be_signalled_and_killed() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    for (signal, verdict) in [(SIGKILL, Verdict::Cancelled), (SIGTERM, Verdict::Signalled)] {
        // At once, so that it may not even have a process group of its own.
        let mut spawned = waits(&mut rocker, "echo ran", &Limits::new());
        rocker.signal(&spawned.run, signal).unwrap();
        rocker.go(&spawned.run).unwrap();
        let report = rocker.wait(&spawned.run);
        // A signal other than SIGKILL may come too late; SIGKILL never does.
        let report = report.unwrap();
        assert_eq!((report.exit, report.verdict), (Exit::Signal(signal), verdict));
        assert_eq!(text(&mut spawned), "");
    }
    rocker.ping().unwrap();
    ends(rocker);
}

/// Also in a rocker that stays, where other programs go on.
fn whoever_waits_ends_with_its_connection() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let guard = rocker.guard_pid();
    let mut spawned = waits(&mut rocker, "echo ran", &Limits::new());
    let mut gone = waits(&mut rocker, "sleep 1; echo ran", &Limits::new());
    rocker.go(&gone.run).unwrap();
    rocker.ping().unwrap();
    let pid = spawned.run.pid().unwrap();
    drop(rocker);
    assert_eq!(text(&mut spawned), "");
    assert!(within(SOON, || !process::is_alive(pid)), "it waits for nobody");
    assert_eq!(text(&mut gone), "ran\n");
    assert!(within(SOON, || !process::is_alive(guard)), "nobody is left in it");
}

fn many_wait_at_once() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let mut all: Vec<Spawned> = (0..64)
        .map(|n| waits(&mut rocker, &format!("echo {n}; exit {n}"), &Limits::new()))
        .collect();
    let error = rocker.command("bin/probe").sync().spawn().unwrap_err();
    assert_eq!((error.step(), error.errno()), (Step::StartProgram, Some(Errno::AGAIN)));
    for (status, spawned) in (0..64).zip(&mut all).rev() {
        rocker.go(&spawned.run).unwrap();
        assert_eq!(text(spawned), format!("{status}\n"));
        assert_eq!(rocker.wait(&spawned.run).unwrap().exit, Exit::Status(status));
    }
    ends(rocker);
}

fn what_fails_after_go_is_told_in_place_of_the_end() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let Spawned { run, .. } = rocker.command("bin/nothing").sync().spawn().unwrap();
    rocker.go(&run).unwrap();
    let error = rocker.wait(&run).unwrap_err();
    assert_eq!((error.step(), error.errno()), (Step::ReportExit, Some(Errno::NOENT)));
    assert!(error.to_string().contains("exec bin/nothing: No such file"), "{error}");
    let error = rocker.command("bin/probe").current_dir("/nowhere").sync().status().unwrap_err();
    assert!(error.to_string().contains("cd /nowhere: No such file"), "{error}");
    // The status is not mistaken for that.
    let report = rocker.command("/bin/sh").args(["-c", "exit 127"]).sync().status().unwrap();
    assert_eq!(report.exit, Exit::Status(127));
    ends(rocker);
}

fn the_clock_runs_for_whoever_waits() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let began = Instant::now();
    for (grace, exit) in [(None, SIGKILL), (Some(SOON), SIGTERM)] {
        let limits = Limits::new().wall(Duration::from_millis(200));
        let limits = grace.map_or(limits.clone(), |grace| limits.grace(grace));
        let mut spawned = waits(&mut rocker, "echo ran", &limits);
        let report = rocker.wait(&spawned.run).unwrap();
        assert_eq!(report.verdict, Verdict::TimeLimitExceeded);
        assert_eq!(report.exit, Exit::Signal(exit));
        assert!(report.wall_us >= 200_000 && began.elapsed() < SOON, "{report:?}");
        assert_eq!(text(&mut spawned), "");
    }
    ends(rocker);
}

fn a_go_for_nobody_is_refused() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let mut spawned = waits(&mut rocker, "read line", &Limits::new());
    drop(spawned.stdout.take());
    let asked = |id: u32| {
        let go = Message::Client(ClientMessage::Go { id });
        send(rocker.connection(), &go, &[], &mut Buffer::default()).unwrap();
        let mut buffer = Buffer::default();
        let deadline = protocol::socket::now_ns() + 5_000_000_000;
        loop {
            match receive_before(rocker.connection(), &mut buffer, deadline).unwrap() {
                Received::Message(Message::Guard(GuardMessage::ExecFailed { id, failure }), _) => {
                    return (id, failure.error, failure.command.to_owned());
                }
                Received::Message(Message::Guard(GuardMessage::Pong), _) => {}
                _ => panic!("another answer"),
            }
        }
    };
    let error = |errno| protocol::Error::Failed { step: Step::StartProgram, errno };
    let command = "go # for a program that waits".to_owned();
    assert_eq!(asked(77), (77, error(Errno::SRCH), command));
    rocker.ping().unwrap();
    ends(rocker);
}

fn a_program_that_is_warned_may_end_by_itself() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let mut run = |script: &str, grace: Duration| {
        let limits = Limits::new().wall(Duration::from_millis(300)).grace(grace);
        let command = rocker.command("/bin/sh").args(["-c", script]).limits(limits);
        command.output().unwrap()
    };
    let waits = "while :; do sleep 0.05; done";
    let output = run(&format!("trap 'echo bye; exit 0' TERM; {waits}"), SOON);
    assert_eq!(output.stdout, b"bye\n");
    assert_eq!(output.report.exit, Exit::Status(0));
    assert_eq!(output.report.verdict, Verdict::TimeLimitExceeded);
    assert!(output.report.wall_us < 300_000 + 4_000_000, "{output:?}");
    let output = run(&format!("trap '' TERM; {waits}"), Duration::from_millis(200));
    assert_eq!(output.report.exit, Exit::Signal(SIGKILL));
    assert_eq!(output.report.verdict, Verdict::TimeLimitExceeded);
    assert!(output.report.wall_us >= 500_000, "{output:?}");
    ends(rocker);
}

fn a_command_reads_like_one_of_the_standard_library() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let script = "cat; pwd; echo $A; echo oh >&2; exit 3";
    let output = rocker.command("/bin/sh").arg("-c").arg(script).env("A", "b").current_dir("/tmp");
    let output = output.output().unwrap();
    assert_eq!(output.report.exit, Exit::Status(3));
    assert_eq!((output.stdout, output.stderr), (b"/tmp\nb\n".to_vec(), b"oh\n".to_vec()));
    // Both at once, and more than a pipe takes.
    let flood = "head -c 300000 /dev/zero >&2 & head -c 300000 /dev/zero; wait";
    let output = rocker.command("/bin/sh").args(["-c", flood]).sync().output().unwrap();
    assert_eq!((output.stdout.len(), output.stderr.len()), (300_000, 300_000));
    let cat = rocker.command("/bin/cat").stdin_piped().stdout_piped();
    let mut cat = cat.limits(Limits::new().wall(SOON)).spawn().unwrap();
    cat.stdin.take().unwrap().write_all(b"through").unwrap();
    assert_eq!(text(&mut cat), "through");
    assert_eq!(rocker.wait(&cat.run).unwrap().verdict, Verdict::Normal);
    // Without a terminal there is none to take.
    let error = rocker.command("/bin/cat").stdin(Stdio::Null).terminal().spawn().unwrap_err();
    assert!(error.to_string().contains("setsid --ctty"), "{error}");
    ends(rocker);
}
