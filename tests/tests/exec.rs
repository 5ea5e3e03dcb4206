//! exec.0 to exec.3: programs that a guard starts at its caller's command.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::time::Duration;
use std::fs::File;
use std::io::Read;
use std::process::ExitCode;
use std::time::Instant;

use protocol::{Errno, Exit, ExitReport, Step, Verdict};
use rocker_client::{Error, Limits, OpenFile, OpenRocker, Run, Stdio};
use tests::app::Answer;
use tests::{
    APP_GID, APP_UID, Daemon, Program, SOON, probe_package, process, replayed, runner, within,
};

const RLIMIT_CPU: u8 = 0;
const RLIMIT_FSIZE: u8 = 1;
const RLIMIT_NOFILE: u8 = 7;
const SIGTERM: u8 = 15;
const SIGKILL: u8 = 9;

fn main() -> ExitCode {
    runner::main(tests::root![
        a_program_runs_and_its_end_is_told,
        many_run_at_once_and_each_is_told_of,
        a_program_is_what_an_app_is,
        arguments_environment_directory_and_descriptors_arrive,
        a_program_that_cannot_start_is_told_and_the_rocker_goes_on,
        verdicts_are_those_of_the_documents,
        signals_reach_one_or_all,
        a_hostile_program_cannot_stall_the_guard,
        a_program_cannot_feign_its_end,
        who_has_all_descriptors_of_its_user_under_way_ends_no_other_rocker,
        whose_end_a_tracer_keeps_is_late_all_the_same,
        regression_a_program_without_time_ends_alone,
        a_closed_connection_ends_the_rocker,
        a_killed_guard_is_told,
        a_user_whom_the_policy_lets_needs_no_privilege,
        ten_thousand_runs_leave_guard_and_master_as_they_were,
    ])
}

fn open(daemon: &Daemon) -> OpenRocker {
    replayed(daemon.launch(probe_package()).open()).unwrap()
}

/// Runs the probe with these commands, to its end.
fn probe(rocker: &mut OpenRocker, commands: &[&str], limits: &Limits) -> (ExitReport, String) {
    let (mut output, stdout) = std::io::pipe().unwrap();
    let program = Program::new("bin/probe").args(commands).stdin(Stdio::Null).stdout(stdout);
    let run = rocker.spawn(&program, limits).unwrap();
    drop(program);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    (rocker.wait(&run).unwrap(), text)
}

fn ends(rocker: OpenRocker) {
    assert!(rocker.kill(SOON).unwrap(), "the rocker outlives its guard");
}

/// Its time may be over before it has executed, or before the kernel has ended it.
fn regression_a_program_without_time_ends_alone() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let hogs: Vec<Run> = (0..4)
        .map(|_| {
            let hog = Program::new("/bin/sh").args(["-c", "while :; do :; done"]);
            rocker.spawn(&hog.stdin(Stdio::Null), &Limits::new()).unwrap()
        })
        .collect();
    let limits = Limits::new().wall(Duration::from_millis(1));
    for _ in 0..100 {
        let program = Program::new("/bin/true").stdin(Stdio::Null);
        let run = rocker.spawn(&program, &limits).unwrap();
        let report = rocker.wait(&run).unwrap();
        assert!([Verdict::TimeLimitExceeded, Verdict::Normal].contains(&report.verdict));
    }
    for hog in hogs {
        rocker.signal(&hog, SIGKILL).unwrap();
        rocker.wait(&hog).unwrap();
    }
    ends(rocker);
}

fn a_program_runs_and_its_end_is_told() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let (report, text) = probe(&mut rocker, &["say hello"], &Limits::new());
    assert_eq!(text, "say: hello\n");
    assert_eq!((report.exit, report.verdict), (Exit::Status(0), Verdict::Normal));
    assert!(report.peak_kib > 0 && report.wall_us > 0, "{report:?}");
    rocker.ping().unwrap();
    ends(rocker);
}

fn many_run_at_once_and_each_is_told_of() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let (stdin, input) = std::io::pipe().unwrap();
    let program = |status: u32| {
        let exit = format!("exit {status}");
        Program::new("bin/probe").args(["wait", &exit]).stdin(stdin.try_clone().unwrap())
    };
    let runs: Vec<Run> =
        (0..64).map(|n| rocker.spawn(&program(n), &Limits::new()).unwrap()).collect();
    // One more than there is room for.
    let error = rocker.spawn(&program(64), &Limits::new()).unwrap_err();
    assert_eq!((error.step(), error.errno()), (Step::StartProgram, Some(Errno::AGAIN)));
    drop((stdin, input));
    let statuses: Vec<u8> = (0..64).collect();
    for (status, run) in statuses.iter().zip(&runs).rev() {
        assert_eq!(rocker.wait(run).unwrap().exit, Exit::Status(*status));
    }
    ends(rocker);
}

fn a_program_is_what_an_app_is() {
    let daemon = Daemon::start();
    let status = "status Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs SigBlk \
                  SigIgn SigCgt NSsid";
    let commands = ["ids", status, "cwd", "environ", "fds", "umount /proc", "unshare user"];
    let commands: Vec<&str> = commands.into_iter().take(5).collect();
    let app = daemon.probe(&commands);
    let mut rocker = open(&daemon);
    let (report, text) = probe(&mut rocker, &commands, &Limits::new());
    assert_eq!(report.verdict, Verdict::Normal, "{text}");
    let program = Answer::new(app.status, &text);
    for key in [
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "cwd",
        "environ",
        "fds",
    ] {
        assert_eq!(program.one(key), app.one(key), "{key}");
    }
    ends(rocker);
}

fn arguments_environment_directory_and_descriptors_arrive() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let (mut output, stdout) = std::io::pipe().unwrap();
    let program = Program::new("probe")
        .args(["cwd", "environ", "fds"])
        .env("PATH", format!("/nowhere:{}/bin", daemon.exec_dir().display()))
        .env("A", "b c")
        .cwd("/etc")
        .stdin(Stdio::Null)
        .stdout(stdout.try_clone().unwrap())
        .keep_fd(File::open("/dev/zero").unwrap());
    let run = rocker.spawn(&program, &Limits::new()).unwrap();
    drop((program, stdout));
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert!(text.contains("cwd: /etc\n") && text.contains("A=b c"), "{text}");
    assert!(text.contains("fds: 0 1 2 3\n") && text.contains("fd 3: /dev/zero"), "{text}");
    assert_eq!(rocker.wait(&run).unwrap().exit, Exit::Status(0));
    ends(rocker);
}

fn a_program_that_cannot_start_is_told_and_the_rocker_goes_on() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let mut refused = |program: Program, limits: &Limits| -> Error {
        let error = rocker.spawn(&program, limits).unwrap_err();
        assert_eq!(error.step(), Step::StartProgram, "{error}");
        error
    };
    let none = Limits::new();
    let error = refused(Program::new("bin/nothing"), &none);
    assert_eq!(error.errno(), Some(Errno::NOENT));
    assert!(error.to_string().contains("exec bin/nothing: No such file"), "{error}");
    let error = refused(Program::new("nothing"), &none);
    assert_eq!(error.errno(), Some(Errno::NOENT));
    let error = refused(Program::new("share/hello"), &none);
    assert_eq!(error.errno(), Some(Errno::ACCES));
    let error = refused(Program::new("bin/probe").cwd("/nowhere"), &none);
    assert!(error.to_string().contains("cd /nowhere"), "{error}");
    let error = refused(Program::new("bin/probe"), &Limits::new().rlimit(99, 1, 1));
    assert!(error.to_string().contains("prlimit: Invalid argument"), "{error}");
    let (report, _) = probe(&mut rocker, &["say on"], &none);
    assert_eq!(report.verdict, Verdict::Normal);
    ends(rocker);
}

fn verdicts_are_those_of_the_documents() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let sh = |script: &str| Program::new("/bin/sh").args(["-c", script]).stdin(Stdio::Null);
    let mut verdict = |script: &str, limits: &Limits| {
        let run = rocker.spawn(&sh(script), limits).unwrap();
        rocker.wait(&run).unwrap()
    };
    let none = Limits::new();
    assert_eq!(verdict("exit 0", &none).verdict, Verdict::Normal);
    let report = verdict("exit 3", &none);
    assert_eq!((report.exit, report.verdict), (Exit::Status(3), Verdict::NonzeroExitStatus));
    let report = verdict("kill -SEGV $$", &none);
    assert_eq!((report.exit, report.verdict), (Exit::Signal(11), Verdict::Signalled));
    let began = Instant::now();
    let wall = Limits::new().wall(Duration::from_millis(100));
    // What it has started is of its process group, and goes with it.
    let report = verdict("sleep 50 & sleep 50", &wall);
    assert_eq!(report.verdict, Verdict::TimeLimitExceeded);
    assert!(began.elapsed() < SOON, "{report:?}");
    let report = verdict("while :; do :; done", &Limits::new().rlimit(RLIMIT_CPU, 1, 2));
    assert_eq!(report.verdict, Verdict::TimeLimitExceeded);
    assert!(report.user_us + report.system_us > 500_000, "{report:?}");
    let fsize = Limits::new().rlimit(RLIMIT_FSIZE, 4096, 4096);
    let flood = "exec head -c 1000000 /dev/zero > /tmp/rocker-exec-flood";
    let report = verdict(flood, &fsize);
    let _ = std::fs::remove_file("/tmp/rocker-exec-flood");
    assert_eq!(report.verdict, Verdict::OutputLimitExceeded, "{report:?}");
    let report = verdict("test $(ulimit -n) = 17", &Limits::new().rlimit(RLIMIT_NOFILE, 17, 17));
    assert_eq!(report.verdict, Verdict::Normal);
    ends(rocker);
}

fn signals_reach_one_or_all() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let (stdin, _input) = std::io::pipe().unwrap();
    let waiting = || Program::new("bin/probe").arg("wait").stdin(stdin.try_clone().unwrap());
    let none = Limits::new();
    let runs = [0; 3].map(|_| rocker.spawn(&waiting(), &none).unwrap());
    rocker.signal(&runs[0], SIGTERM).unwrap();
    let report = rocker.wait(&runs[0]).unwrap();
    assert_eq!((report.exit, report.verdict), (Exit::Signal(15), Verdict::Signalled));
    rocker.signal(&runs[1], SIGKILL).unwrap();
    assert_eq!(rocker.wait(&runs[1]).unwrap().verdict, Verdict::Cancelled);
    // One that has ended is nobody to signal, and no error either.
    rocker.signal(&runs[0], SIGTERM).unwrap();
    rocker.signal_all(SIGKILL).unwrap();
    assert_eq!(rocker.wait(&runs[2]).unwrap().verdict, Verdict::Cancelled);
    rocker.ping().unwrap();
    ends(rocker);
}

/// It stops whatever has its uid, as often as it can: also what has not executed yet.
fn a_hostile_program_cannot_stall_the_guard() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let none = Limits::new();
    let sh = |script: &str| Program::new("/bin/sh").args(["-c", script]).stdin(Stdio::Null);
    let hostile = "while :; do kill -STOP -1; kill -STOP 1; done 2>/dev/null";
    let hostile = rocker.spawn(&sh(hostile), &none).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let wall = Limits::new().wall(Duration::from_millis(50));
    for _ in 0..50 {
        let began = Instant::now();
        let run = rocker.spawn(&sh("exit 0"), &wall).unwrap();
        let report = rocker.wait(&run).unwrap();
        let fits = [Verdict::Normal, Verdict::TimeLimitExceeded].contains(&report.verdict);
        assert!(fits && began.elapsed() < SOON, "{report:?}");
        rocker.ping().unwrap();
    }
    rocker.signal(&hostile, SIGKILL).unwrap();
    assert_eq!(rocker.wait(&hostile).unwrap().verdict, Verdict::Cancelled);
    ends(rocker);
}

/// Who asks its parent to trace it stops at a signal, of which its parent hears as of an end.
fn a_program_cannot_feign_its_end() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    // Time enough to get there on a slow machine.
    let limits = Limits::new().wall(Duration::from_secs(2));
    let (report, text) = probe(&mut rocker, &["traced-stop"], &limits);
    assert_eq!(text, "traced-stop: ok\n");
    let late = (Exit::Signal(SIGKILL), Verdict::TimeLimitExceeded);
    assert_eq!((report.exit, report.verdict), late);
    assert!(report.wall_us >= 2_000_000, "{report:?}");
    ends(rocker);
}

/// Of who is traced its tracer hears first, in a group of its own where no limit reaches it.
fn whose_end_a_tracer_keeps_is_late_all_the_same() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let limits = Limits::new().wall(Duration::from_secs(2));
    let ended = |rocker: &mut OpenRocker, command: &str, limits: &Limits, killed: bool| {
        let program = Program::new("bin/probe").args([command, "exit 3"]).stdin(Stdio::Null);
        let run = rocker.spawn(&program, limits).unwrap();
        let pid = run.pid().unwrap();
        let is_dead = || process::stat(pid).is_some_and(|stat| stat.state == 'Z');
        assert!(tests::within(SOON, is_dead), "{command}: it has exited");
        if killed {
            rocker.signal(&run, SIGKILL).unwrap();
        }
        let mut told = None;
        let is_told = || {
            told = rocker.try_wait(&run).unwrap();
            told.is_some()
        };
        assert!(tests::within(SOON, is_told), "{command}: nobody is told");
        told.unwrap().exit
    };
    for command in ["traced-by-child", "thread-traced-by-child"] {
        assert_eq!(ended(&mut rocker, command, &limits, false), Exit::Status(3), "{command}");
        assert_eq!(ended(&mut rocker, command, &Limits::new(), true), Exit::Status(3), "{command}");
    }
    ends(rocker);
}

fn a_closed_connection_ends_the_rocker() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let (stdin, _input) = std::io::pipe().unwrap();
    let run =
        rocker.spawn(&Program::new("bin/probe").arg("wait").stdin(stdin), &Limits::new()).unwrap();
    let program = run.pidfd().try_clone_to_owned().unwrap();
    let guard = rocker.guard_pidfd().try_clone_to_owned().unwrap();
    drop(rocker);
    for process in [guard, program] {
        let deadline = protocol::socket::now_ns() + 5_000_000_000;
        assert_eq!(protocol::socket::wait_readable(&process, deadline), Ok(true));
    }
}

fn a_killed_guard_is_told() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let (stdin, _input) = std::io::pipe().unwrap();
    let run =
        rocker.spawn(&Program::new("bin/probe").arg("wait").stdin(stdin), &Limits::new()).unwrap();
    rocker_client::kill_by_name(daemon.socket(), &rocker.guard_name().to_string(), SOON).unwrap();
    let error = rocker.wait(&run).unwrap_err();
    assert!(error.to_string().contains("closed the connection"), "{error}");
}

fn a_user_whom_the_policy_lets_needs_no_privilege() {
    let (daemon, package) = Daemon::for_users(&[APP_UID]);
    let launch = daemon.launch(&package);
    // In a thread of this process that has given up everything: the test's own process.
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setresgid(APP_GID.into(), APP_GID.into(), APP_GID.into()).unwrap();
    nix::unistd::setresuid(APP_UID.into(), APP_UID.into(), 0.into()).unwrap();
    let error = replayed(launch.spawn(&Program::new("bin/probe"))).unwrap_err();
    assert_eq!(error.step(), Step::JoinNamespaces, "{error}");
    let mut rocker = replayed(launch.open()).unwrap();
    let (report, text) = probe(&mut rocker, &["say hello"], &Limits::new());
    assert_eq!((report.verdict, &*text), (Verdict::Normal, "say: hello\n"));
    ends(rocker);
    nix::unistd::setresuid(0.into(), 0.into(), 0.into()).unwrap();
}

fn ten_thousand_runs_leave_guard_and_master_as_they_were() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let run = |rocker: &mut OpenRocker, times: u32| {
        for _ in 0..times {
            let program = Program::new("/bin/true").stdin(Stdio::Null);
            let run = rocker.spawn(&program, &Limits::new()).unwrap();
            assert_eq!(rocker.wait(&run).unwrap().verdict, Verdict::Normal);
        }
    };
    run(&mut rocker, 50);
    let guard = rocker.guard_pid();
    let measure = || (process::fds(guard), process::status(guard)["VmRSS"].clone(), daemon.fds());
    let before = measure();
    run(&mut rocker, 10_000);
    assert_eq!(measure(), before);
    ends(rocker);
}

fn who_has_all_descriptors_of_its_user_under_way_ends_no_other_rocker() {
    // Nobody else's in any test.
    const UID: u32 = 54399;
    let daemon = Daemon::start();
    let mut rocker = replayed(daemon.launch(probe_package()).uid(UID).open()).unwrap();
    assert_eq!(probe(&mut rocker, &["ids"], &Limits::new()).0.exit, Exit::Status(0));
    let held = process::hold_descriptors(UID);
    let error = rocker.spawn(&Program::new("bin/probe"), &Limits::new()).unwrap_err();
    assert!(error.to_string().contains("(exec.2)"), "{error}");
    let opened = rocker.open_files(&[OpenFile::new("share/hello"), OpenFile::new("nope")]).unwrap();
    let errnos = opened.iter().map(|file| file.as_ref().unwrap_err().errno().unwrap().0);
    assert_eq!(errnos.collect::<Vec<_>>(), [109, 2]);
    drop(held);
    assert!(within(SOON, || process::inside(rocker.guard_pid()).is_empty()));
    assert_eq!(probe(&mut rocker, &["ids"], &Limits::new()).0.exit, Exit::Status(0));
    ends(rocker);
}
