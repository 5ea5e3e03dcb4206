//! Orders to a rocker through the C library, against a real master: everything arrives, every end
//! is told, and a program cannot tell by which of the two libraries it was ordered.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::time::Duration;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use protocol::{Exit, ExitReport, Rlimit, Step, Usage, Verdict};
use rocker_client::{Conf, Launch, Limits, OpenRocker, RockerEntry, Stdio};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tests::c_client::{self, Event, Exec, Open, Place, Request, c_string, code};
use tests::cgroup::{hierarchies, needs};
use tests::programs::workspace;
use tests::{
    APP_GID, APP_UID, Daemon, Package, Program, SOON, app, bin, probe_package, process, replayed,
    runner, scratch, within,
};

const RLIMIT_CPU: u8 = 0;
const RLIMIT_FSIZE: u8 = 1;
const RLIMIT_NOFILE: u8 = 7;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const SOON_MS: i32 = 5_000;

fn main() -> ExitCode {
    runner::main(tests::root![
        a_program_runs_and_its_end_is_told,
        three_programs_go_through_one_poll_loop,
        an_order_means_the_same_to_both,
        ids_inside_are_what_the_caller_says,
        what_cannot_start_is_told_alike_by_both,
        verdicts_of_both_are_the_same,
        a_program_may_be_an_open_file,
        a_program_may_have_a_terminal,
        a_program_may_be_in_control_groups_of_its_callers,
        what_a_rocker_has_used_is_told_alike_by_both,
        a_device_of_the_hosts_is_there_for_both,
        a_late_program_is_asked_first,
        a_program_waits_until_it_is_let_go,
        what_fails_after_go_is_told_alike_by_both,
        a_program_is_killed_for_what_its_own_filter_forbids,
        files_are_opened_deleted_and_linked,
        a_configuration_means_the_same_to_both,
        what_cannot_be_configured_is_told_alike_by_both,
        a_rocker_may_stay,
        a_living_rocker_can_be_attached_to,
        whom_nobody_can_attach_to_is_told_alike_by_both,
        living_rockers_are_listed_and_killed_by_name,
        a_program_that_was_left_is_taken_over,
        signals_reach_one_or_all,
        ends_are_kept_until_somebody_asks,
        a_guard_that_is_there_says_so,
        a_killed_guard_is_told,
        an_end_is_the_end_of_all,
        a_user_whom_the_policy_lets_needs_no_privilege,
        a_thousand_runs_leave_caller_guard_and_master_as_they_were,
        the_judge_says_what_became_of_each_test,
        the_judge_of_the_readme_runs,
    ])
}

fn request(daemon: &Daemon) -> Request {
    Request {
        uid: Some(APP_UID.cast_signed()),
        gid: Some(APP_GID.cast_signed()),
        package: Some(c_string(probe_package())),
        exec_dir: Some(c_string(daemon.exec_dir())),
        socket: Some(c_string(daemon.socket())),
        ..Request::default()
    }
}

fn open(daemon: &Daemon) -> Open {
    request(daemon).open_rocker().unwrap()
}

fn probe(commands: &[&str]) -> c_client::Program {
    c_client::Program::new("bin/probe").args(commands).stdio(0, Stdio::Null)
}

/// Runs the probe with these commands, to its end.
fn run_probe(rocker: &mut Open, commands: &[&str]) -> (ExitReport, String) {
    let (mut output, stdout) = std::io::pipe().unwrap();
    let program = probe(commands).stdio(1, stdout);
    let report = rocker.run(&program, &Exec::default()).unwrap();
    drop(program);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    (report, text)
}

fn started(rocker: &mut Open, program: &c_client::Program, exec: &Exec) -> (u32, OwnedFd) {
    let wanted = rocker.exec(program, exec).unwrap();
    match rocker.await_event(wanted, SOON_MS) {
        Some(Event::Started { id, pidfd, .. }) if id == wanted => (id, pidfd),
        other => panic!("{other:?}"),
    }
}

fn ended(rocker: &mut Open, wanted: u32) -> ExitReport {
    match rocker.await_event(wanted, SOON_MS) {
        Some(Event::Ended { id, report, .. }) if id == wanted => report,
        other => panic!("{other:?}"),
    }
}

fn a_program_runs_and_its_end_is_told() {
    let daemon = Daemon::start();
    for mut rocker in [open(&daemon), request(&daemon).open_in_a_poll_loop().unwrap()] {
        assert_eq!(process::stat(rocker.guard_pid()).unwrap().comm, rocker.guard_name());
        let (report, text) = run_probe(&mut rocker, &["say hello"]);
        assert_eq!(text, "say: hello\n");
        assert_eq!((report.exit, report.verdict), (Exit::Status(0), Verdict::Normal));
        assert!(report.peak_kib > 0 && report.wall_us > 0, "{report:?}");
        assert_eq!(rocker.end(SOON_MS), 0);
    }
}

/// Of three rockers, so that one loop serves them all.
fn three_programs_go_through_one_poll_loop() {
    let daemon = Daemon::start();
    let mut rockers = [open(&daemon), open(&daemon), open(&daemon)];
    let mut last = [0; 3];
    for (n, rocker) in rockers.iter_mut().enumerate() {
        // The first one takes longest.
        let script = format!("sleep 0.{}; exit {n}", 3 - n);
        let program = c_client::Program::new("/bin/sh").args(["-c", &script]);
        last[n] = rocker.exec(&program, &Exec { data: 100 + n, ..Exec::default() }).unwrap();
    }
    let (mut order, mut starts) = (vec![], 0);
    while order.len() < 3 {
        let mut fds: Vec<PollFd<'_>> = rockers
            .iter()
            .map(|it| PollFd::from_borrowed_fd(it.connection(), PollFlags::IN))
            .collect();
        poll(&mut fds, None).unwrap();
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        for n in (0..3).filter(|&n| ready[n]) {
            while let Some(event) = rockers[n].next_event() {
                match event {
                    Event::Started { id, data, pid, .. } => {
                        assert_eq!((id, data), (last[n], 100 + n));
                        assert!(pid > 1);
                        starts += 1;
                    }
                    Event::Ended { id, data, report } => {
                        assert_eq!((id, data), (last[n], 100 + n));
                        assert_eq!(report.exit, Exit::Status(u8::try_from(n).unwrap()));
                        order.push(n);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    assert_eq!((order, starts), (vec![2, 1, 0], 3));
    for rocker in rockers {
        assert_eq!(rocker.end(SOON_MS), 0);
    }
}

/// The probe's own words about itself, ordered by both.
fn an_order_means_the_same_to_both() {
    let daemon = Daemon::start();
    let status = "status Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs SigBlk \
                  SigIgn SigCgt";
    let commands = ["ids", status, "cwd", "environ", "fds", "limits"];
    let commands: Vec<&str> = commands.into_iter().take(5).collect();
    let path = format!("/nowhere:{}/bin", daemon.exec_dir().display());
    let zero = || File::open("/dev/zero").unwrap();
    let limits = Rlimit { resource: RLIMIT_NOFILE, soft: 17, hard: 18 };

    let mut rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
    let (mut output, stdout) = std::io::pipe().unwrap();
    let program = Program::new("probe").args(&commands).env("PATH", &path).env("A", "b c");
    let program =
        program.cwd("/etc").stdin(Stdio::Null).stdout(stdout.try_clone().unwrap()).keep_fd(zero());
    let limited = Limits::new().rlimit(limits.resource, limits.soft, limits.hard);
    let run = rocker.spawn(&program, &limited).unwrap();
    drop((program, stdout));
    let mut by_rust = String::new();
    output.read_to_string(&mut by_rust).unwrap();
    let report = rocker.wait(&run).unwrap();
    assert_eq!(report.verdict, Verdict::Normal, "{by_rust}");
    rocker.kill(SOON).unwrap();

    let mut c = open(&daemon);
    let (mut output, stdout) = std::io::pipe().unwrap();
    let program = c_client::Program::new("probe").args(&commands).env("PATH", &path);
    let program = program.env("A", "b c").cwd("/etc").stdio(0, Stdio::Null).stdio(1, stdout);
    let program = program.keep_fd(zero());
    let exec = Exec { rlimits: vec![limits], ..Exec::default() };
    let report = c.run(&program, &exec).unwrap();
    drop(program);
    let mut by_c = String::new();
    output.read_to_string(&mut by_c).unwrap();
    assert_eq!(report.verdict, Verdict::Normal, "{by_c}");
    // Pipes have numbers of their own.
    let comparable = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.contains("pipe:[")).map(str::to_owned).collect()
    };
    assert_eq!(comparable(&by_c), comparable(&by_rust));
    assert!(by_c.contains("cwd: /etc\n") && by_c.contains("A=b c"), "{by_c}");
    assert!(by_c.contains("fd 3: /dev/zero"), "{by_c}");
    assert_eq!(c.end(SOON_MS), 0);
}

fn ids_inside_are_what_the_caller_says() {
    let daemon = Daemon::start();
    let gid = APP_GID.cast_signed();
    for (inside, words) in [((0, 0), "0 0"), ((-1, 7), "1 7"), ((7, -1), "7 1"), ((-1, -1), "1 1")]
    {
        let said = |id: &str, own: u32| if id == "1" { own.to_string() } else { id.to_owned() };
        let (uid, of_group) = words.split_once(' ').unwrap();
        let wanted = format!("{} {}\n", said(uid, APP_UID), said(of_group, APP_GID));
        let asked = Request { inside: Some(inside), gid: Some(gid), ..request(&daemon) };
        let mut rocker = asked.open_rocker().unwrap();
        let (mut output, stdout) = std::io::pipe().unwrap();
        let program = c_client::Program::new("/bin/sh").args(["-c", "echo $(id -u) $(id -g)"]);
        let program = program.stdio(0, Stdio::Null).stdio(1, stdout);
        rocker.run(&program, &Exec::default()).unwrap();
        drop(program);
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        assert_eq!(text, wanted);
        assert_eq!(rocker.end(SOON_MS), 0);
    }
    // Who enters one would be nobody there.
    let asked = Request { inside: Some((0, 0)), ..request(&daemon) };
    let error = asked.spawn(&probe(&["say no"])).unwrap_err();
    let launch = daemon.launch(probe_package()).ids_inside(0, 0);
    let wanted = replayed(launch.spawn(&Program::new("bin/probe"))).unwrap_err();
    assert_eq!(error.to_string(), wanted.to_string());
}

fn what_cannot_start_is_told_alike_by_both() {
    let daemon = Daemon::start();
    let mut rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
    let mut c = open(&daemon);
    let rlimit = |resource| Rlimit { resource, soft: 1, hard: 1 };
    for (path, cwd, rlimits) in [
        ("bin/nothing", None, vec![]),
        ("nothing", None, vec![]),
        ("share/hello", None, vec![]),
        ("bin/probe", Some("/nowhere"), vec![]),
        ("bin/probe", None, vec![rlimit(99)]),
    ] {
        let mut program = Program::new(path).stdin(Stdio::Null);
        let mut same = c_client::Program::new(path).stdio(0, Stdio::Null);
        if let Some(cwd) = cwd {
            (program, same) = (program.cwd(cwd), same.cwd(cwd));
        }
        let limits =
            rlimits.iter().fold(Limits::new(), |all, it| all.rlimit(it.resource, it.soft, it.hard));
        let wanted = rocker.spawn(&program, &limits).unwrap_err();
        let exec = Exec { rlimits, data: 7, ..Exec::default() };
        let error = c.run(&same, &exec).unwrap_err();
        assert_eq!(error.to_string(), wanted.to_string());
        assert_eq!(error.code(), code::APP_EXEC_FAILED);
        assert_eq!(error.step(), i32::from(Step::StartProgram.code()));
        assert_eq!(error.errno(), i32::from(wanted.errno().unwrap().0));
        let wanted = c.exec(&same, &exec).unwrap();
        let event = c.await_event(wanted, SOON_MS);
        let told = matches!(&event, Some(Event::Failed { id, data: 7, .. }) if *id == wanted);
        assert!(told, "{event:?}");
    }
    // Strings and descriptors have their limits, before anything is sent.
    let long = "x".repeat(40_000);
    let wanted = rocker.spawn(&Program::new("bin/probe").arg(&long), &Limits::new()).unwrap_err();
    let error = c.run(&probe(&[&long]), &Exec::default()).unwrap_err();
    assert_eq!(error.to_string(), wanted.to_string());
    let (report, _) = run_probe(&mut c, &["say on"]);
    assert_eq!(report.verdict, Verdict::Normal);
    assert_eq!(c.end(SOON_MS), 0);
    rocker.kill(SOON).unwrap();
}

fn verdicts_of_both_are_the_same() {
    let daemon = Daemon::start();
    let mut rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
    let mut c = open(&daemon);
    let limit = |resource, soft, hard| vec![Rlimit { resource, soft, hard }];
    let flood = "exec head -c 1000000 /dev/zero > /tmp/rocker-c-orders-flood";
    for (script, wall_ms, rlimits, verdict) in [
        ("exit 0", 0, vec![], Verdict::Normal),
        ("exit 3", 0, vec![], Verdict::NonzeroExitStatus),
        ("kill -SEGV $$", 0, vec![], Verdict::Signalled),
        ("sleep 50 & sleep 50", 100, vec![], Verdict::TimeLimitExceeded),
        ("while :; do :; done", 0, limit(RLIMIT_CPU, 1, 2), Verdict::TimeLimitExceeded),
        (flood, 0, limit(RLIMIT_FSIZE, 4096, 4096), Verdict::OutputLimitExceeded),
        ("test $(ulimit -n) = 17", 0, limit(RLIMIT_NOFILE, 17, 17), Verdict::Normal),
    ] {
        let program = Program::new("/bin/sh").args(["-c", script]).stdin(Stdio::Null);
        let mut limits =
            rlimits.iter().fold(Limits::new(), |all, it| all.rlimit(it.resource, it.soft, it.hard));
        if wall_ms > 0 {
            limits = limits.wall(Duration::from_millis(wall_ms.into()));
        }
        let run = rocker.spawn(&program, &limits).unwrap();
        let wanted = rocker.wait(&run).unwrap();
        let program = c_client::Program::new("/bin/sh").args(["-c", script]).stdio(0, Stdio::Null);
        let report = c.run(&program, &Exec { wall_ms, rlimits, ..Exec::default() }).unwrap();
        assert_eq!((report.exit, report.verdict), (wanted.exit, wanted.verdict), "{script}");
        assert_eq!(report.verdict, verdict, "{script}");
    }
    let _ = std::fs::remove_file("/tmp/rocker-c-orders-flood");
    assert_eq!(c.end(SOON_MS), 0);
    rocker.kill(SOON).unwrap();
}

/// One that nobody in the rocker has.
fn a_program_may_be_an_open_file() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let mut run = |file: &str| {
        let program = Some(File::open(file).unwrap().into());
        rocker.run(&probe(&["exit 7"]), &Exec { program, ..Exec::default() })
    };
    let report = run(tests::probe().to_str().unwrap()).unwrap();
    assert_eq!(report.exit, Exit::Status(7));
    let error = run("/dev/null").unwrap_err();
    assert!(error.to_string().contains("exec bin/probe: Permission denied"), "{error}");
    assert_eq!(rocker.end(SOON_MS), 0);
}

fn a_program_may_have_a_terminal() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let shell = |script: &str| c_client::Program::new("/bin/sh").args(["-c", script]);
    let mut run = |terminal| {
        let pty = nix::pty::openpty(None, None).unwrap();
        // Only whoever has a controlling terminal can open this.
        let program = shell("exec 3< /dev/tty").stdio(0, pty.slave).stdio(2, Stdio::Null);
        let program = if terminal { program.terminal() } else { program };
        rocker.run(&program, &Exec::default())
    };
    assert_eq!(run(true).unwrap().exit, Exit::Status(0));
    assert_ne!(run(false).unwrap().exit, Exit::Status(0));
    // Its size is what the other end says, also while it runs, and ^C is a signal.
    let pty = nix::pty::openpty(Some(&size(33, 77)), None).unwrap();
    let (output, stdout) = std::io::pipe().unwrap();
    let script =
        "stty size; trap 'stty size' WINCH; trap 'exit 7' INT; echo; while :; do sleep 0.01; done";
    let program = shell(script).env("PATH", "/bin:/usr/bin").terminal();
    let program = program.stdio(0, pty.slave).stdio(1, stdout).stdio(2, Stdio::Null);
    let (id, _pidfd) = started(&mut rocker, &program, &Exec::default());
    drop(program);
    let mut lines = BufReader::new(output).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "33 77");
    // Until the shell has come to its traps neither says anything to it.
    assert_eq!(lines.next().unwrap().unwrap(), "");
    rustix::termios::tcsetwinsize(&pty.master, winsize(44, 88)).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "44 88");
    rustix::io::write(&pty.master, b"\x03").unwrap();
    assert_eq!(ended(&mut rocker, id).exit, Exit::Status(7));
    let error = rocker.run(&probe(&["say no"]).terminal(), &Exec::default()).unwrap_err();
    assert!(error.to_string().contains("setsid --ctty"), "{error}");
    assert_eq!(rocker.end(SOON_MS), 0);
}

fn size(rows: u16, columns: u16) -> nix::pty::Winsize {
    nix::pty::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn winsize(rows: u16, columns: u16) -> rustix::termios::Winsize {
    rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Beside a descriptor of its own, and let go or not.
fn a_program_may_be_in_control_groups_of_its_callers() {
    needs("pids");
    let name = format!("rocker-test-c-{}", std::process::id());
    // A new one of version 1 has no processor yet.
    let fits = |(_, unified, names): &(_, bool, String)| *unified || !names.contains("cpuset");
    let all = hierarchies().into_iter().filter(fits);
    let groups: Vec<PathBuf> = all.map(|(place, ..)| place.join(&name)).collect();
    groups.iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let procs = |dir: &PathBuf| File::options().write(true).open(dir.join("cgroup.procs")).unwrap();
    let daemon = Daemon::start();
    let mut c = open(&daemon);
    for sync in [false, true] {
        let (mut output, stdout) = std::io::pipe().unwrap();
        let program = probe(&["read /proc/self/cgroup", "fds"]).stdio(1, stdout);
        let program = program.keep_fd(File::open("/dev/zero").unwrap());
        let cgroups = groups.iter().map(|dir| procs(dir).into()).collect();
        let report = c.run(&program, &Exec { sync, cgroups, ..Exec::default() }).unwrap();
        assert_eq!(report.verdict, Verdict::Normal);
        drop(program);
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        assert_eq!(text.matches(&format!(":/{name}")).count(), groups.len(), "{text}");
        assert!(text.contains("fd 3: /dev/zero") && !text.contains("fd 4:"), "{text}");
    }
    let (_, text) = run_probe(&mut c, &["read /proc/self/cgroup"]);
    assert!(!text.contains(&name), "{text}");
    // What is no cgroup.procs is refused in the same words.
    let mut rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
    let other = || File::open(&groups[0]).unwrap();
    let wanted = rocker.command("bin/probe").cgroup(other()).output().unwrap_err();
    let exec = Exec { cgroups: vec![other().into()], ..Exec::default() };
    let error = c.run(&probe(&["say no"]), &exec).unwrap_err();
    assert_eq!(error.to_string(), wanted.to_string());
    assert!(error.to_string().contains("echo 0 > cgroup.procs: "), "{error}");
    rocker.kill(SOON).unwrap();
    assert_eq!(c.end(SOON_MS), 0);
    let remove = |dir: &PathBuf| within(SOON, || fs::remove_dir(dir).is_ok());
    assert!(groups.iter().all(remove), "they are empty");
}

fn what_a_rocker_has_used_is_told_alike_by_both() {
    needs("pids");
    needs("memory");
    let daemon = Daemon::start();
    let told = |usage: Usage| {
        let Usage { memory, memory_peak, pids, pids_peak, cpu_us, read, written } = usage;
        let all = [memory, memory_peak, pids, pids_peak, cpu_us, read, written];
        (all.map(|number| number.is_some()), pids)
    };
    let launch = daemon.launch(probe_package()).memory(64 << 20).pids(16);
    let mut rocker = replayed(launch.open()).unwrap();
    let limited = Request { memory: 64 << 20, pids: 16, ..request(&daemon) };
    let mut c = limited.open_rocker().unwrap();
    let program = c_client::Program::new("/bin/true").stdio(0, Stdio::Null);
    let report = c.run(&program, &Exec::default()).unwrap();
    let wanted = rocker.command("/bin/true").stdin(Stdio::Null).status().unwrap();
    assert_eq!(told(report.usage), told(wanted.usage), "{report:?} {wanted:?}");
    assert!(report.usage.memory.is_some_and(|bytes| bytes > 0), "{report:?}");
    assert_eq!(report.usage.pids, Some(1), "the guard is left");
    rocker.kill(SOON).unwrap();
    assert_eq!(c.end(SOON_MS), 0);
    // Without a limit nobody counts.
    let mut c = open(&daemon);
    assert_eq!(c.run(&program, &Exec::default()).unwrap().usage, Usage::default());
    assert_eq!(c.end(SOON_MS), 0);
}

fn a_device_of_the_hosts_is_there_for_both() {
    let daemon = Daemon::start();
    let (device, other) = (c_string("/dev/kmsg"), c_string("/dev/no-such-device"));
    let commands = ["stat /dev/kmsg", "ls /dev"];
    let launch = daemon.launch(probe_package()).device("/dev/kmsg");
    let by_rust = app::run(&launch, &commands);
    let devices = vec![device.clone()];
    let mut c = Request { devices, ..request(&daemon) }.open_rocker().unwrap();
    let (_, by_c) = run_probe(&mut c, &commands);
    for command in commands {
        let line = format!("{command}: {}\n", by_rust.one(command));
        assert!(by_c.contains(&line), "{by_c} {line}");
    }
    assert!(by_rust.one("stat /dev/kmsg").starts_with("device "), "{by_c}");
    assert_eq!(c.end(SOON_MS), 0);
    // What is none is told alike, with every path, and so is what breaks a rule.
    for devices in [vec![device, other], vec![c_string("/etc/passwd")], vec![c_string("/dev")]] {
        let add = |launch: Launch, path: &CString| launch.device(path.to_str().unwrap());
        let launch = devices.iter().fold(daemon.launch(probe_package()), add);
        let wanted = replayed(launch.open()).unwrap_err();
        let error = Request { devices, ..request(&daemon) }.open_rocker().unwrap_err();
        assert_eq!(error.to_string(), wanted.to_string());
        println!("{error}");
    }
}

fn a_late_program_is_asked_first() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let mut run = |grace_ms| {
        let script = "trap 'exit 7' TERM; while :; do sleep 0.01; done";
        let program = c_client::Program::new("/bin/sh").args(["-c", script]);
        let exec = Exec { wall_ms: 200, grace_ms, ..Exec::default() };
        rocker.run(&program.stdio(0, Stdio::Null), &exec).unwrap()
    };
    assert_eq!(run(5_000).exit, Exit::Status(7));
    let report = run(0);
    assert_eq!((report.exit, report.verdict), (Exit::Signal(9), Verdict::TimeLimitExceeded));
    assert_eq!(rocker.end(SOON_MS), 0);
}

fn a_program_waits_until_it_is_let_go() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let waits = || Exec { sync: true, ..Exec::default() };
    let (mut output, stdout) = std::io::pipe().unwrap();
    let program = c_client::Program::new("/bin/sh").args(["-c", "echo $$"]).stdio(1, stdout);
    let wanted = rocker.exec(&program, &waits()).unwrap();
    drop(program);
    let Some(Event::Started { id, pid, .. }) = rocker.await_event(wanted, SOON_MS) else {
        panic!("it is started")
    };
    // Others are served meanwhile.
    let (report, _) = run_probe(&mut rocker, &["say on"]);
    assert_eq!(report.verdict, Verdict::Normal);
    assert!(rocker.await_event(id, 100).is_none(), "it does not go by itself");
    rocker.go(id).unwrap();
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, format!("{pid}\n"));
    // It goes already, or has gone.
    rocker.go(id).unwrap();
    assert_eq!(ended(&mut rocker, id).verdict, Verdict::Normal);
    rocker.go(id).unwrap();
    // A signal reaches it, and its clock runs.
    let (id, _pidfd) = started(&mut rocker, &probe(&["say never"]), &waits());
    rocker.signal(Some(id), SIGKILL).unwrap();
    assert_eq!(ended(&mut rocker, id).verdict, Verdict::Cancelled);
    let exec = Exec { wall_ms: 100, ..waits() };
    let (id, _pidfd) = started(&mut rocker, &probe(&["say never"]), &exec);
    assert_eq!(ended(&mut rocker, id).verdict, Verdict::TimeLimitExceeded);
    // Where nobody waits for anything in between, it goes at once.
    let report = rocker.run(&probe(&["exit 7"]), &waits()).unwrap();
    assert_eq!(report.exit, Exit::Status(7));
    assert!(rocker.next_event().is_none());
    assert_eq!(rocker.end(SOON_MS), 0);
}

fn what_fails_after_go_is_told_alike_by_both() {
    let daemon = Daemon::start();
    let mut rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
    let mut c = open(&daemon);
    for (path, cwd) in [("bin/nothing", "/"), ("share/hello", "/tmp"), ("bin/probe", "/nowhere")] {
        let command = rocker.command(path).current_dir(cwd).stdin(Stdio::Null);
        let wanted = command.sync().status().unwrap_err();
        assert_eq!(wanted.step(), Step::ReportExit);
        let program = c_client::Program::new(path).cwd(cwd).stdio(0, Stdio::Null);
        let exec = Exec { sync: true, data: 7, ..Exec::default() };
        let error = c.run(&program, &exec).unwrap_err();
        assert_eq!(error.to_string(), wanted.to_string());
        assert_eq!((error.code(), error.is_at_exec()), (code::APP_EXEC_FAILED, cwd != "/nowhere"));
        let (id, _pidfd) = started(&mut c, &program, &exec);
        c.go(id).unwrap();
        let event = c.await_event(id, SOON_MS);
        let told = matches!(&event, Some(Event::Failed { id: it, data: 7, .. }) if *it == id);
        assert!(told, "{event:?}");
    }
    assert_eq!(c.end(SOON_MS), 0);
    rocker.kill(SOON).unwrap();
}

/// By which of them it dies if it makes this call.
fn filter(call: i64, answer: u32) -> Vec<u8> {
    let instruction = |code: u16, jumps: [u8; 2], number: u32| {
        [&code.to_ne_bytes()[..], &jumps, &number.to_ne_bytes()].concat()
    };
    [
        instruction(0x20, [0, 0], 0),
        instruction(0x15, [0, 1], u32::try_from(call).unwrap()),
        instruction(0x06, [0, 0], answer),
        instruction(0x06, [0, 0], 0x7fff_0000),
    ]
    .concat()
}

fn a_program_is_killed_for_what_its_own_filter_forbids() {
    const NOTIFY: u32 = 0x7fc0_0000;
    const KILL: u32 = 0x8000_0000;
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let call = format!("call {}", libc::SYS_sync);
    let number = u32::try_from(libc::SYS_sync).ok();
    let dies = [(NOTIFY, 9, number), (KILL, 31, None)];
    for ((answer, signal, named), sync) in dies.into_iter().flat_map(|it| [(it, false), (it, true)])
    {
        let exec = Exec { filter: filter(libc::SYS_sync, answer), sync, ..Exec::default() };
        let report = rocker.run(&probe(&[&call]), &exec).unwrap();
        let told = (report.exit, report.verdict, report.syscall);
        assert_eq!(told, (Exit::Signal(signal), Verdict::DisallowedSyscall, named));
        // What it allows is allowed, and others have another filter, or none.
        assert_eq!(rocker.run(&probe(&["exit 3"]), &exec).unwrap().exit, Exit::Status(3));
        let report = rocker.run(&probe(&[&call]), &Exec::default()).unwrap();
        assert_eq!((report.verdict, report.syscall), (Verdict::Normal, None));
    }
    // What the kernel does not take.
    for (sync, step) in [(false, Step::StartProgram), (true, Step::ReportExit)] {
        let exec = Exec { filter: vec![0xff; 8], sync, ..Exec::default() };
        let error = rocker.run(&probe(&["exit 3"]), &exec).unwrap_err();
        assert_eq!((error.step(), error.errno()), (i32::from(step.code()), 22));
        assert!(error.to_string().contains("seccomp # the program's filter"), "{error}");
    }
    assert_eq!(rocker.end(SOON_MS), 0);
}

fn files_are_opened_deleted_and_linked() {
    const READ: u32 = 1;
    const WRITE: u32 = 2;
    const CREATE: u32 = 4;
    const EXCLUSIVE: u32 = 8;
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    // Of the App's own, in the host's.
    let dir = scratch();
    std::os::unix::fs::chown(dir.path(), Some(APP_UID), Some(APP_GID)).unwrap();
    let at = |name: &str| c_string(dir.path().join(name));
    let done = |rocker: &mut Open, wanted| done(rocker, wanted).map_err(|error| error.errno());
    let files = [
        (at("new"), READ | WRITE | CREATE | EXCLUSIVE, 0o640),
        (at("missing"), 0, 0),
        (c_string("share/hello"), 0, 0),
        (c_string("/etc/shadow"), READ, 0),
    ];
    let wanted = rocker.open_files(&files).unwrap();
    let Some(Event::Opened(id, opened)) = rocker.await_event(wanted, SOON_MS) else {
        panic!("it is answered")
    };
    assert_eq!((id, opened.len()), (wanted, 4));
    let mut opened = opened.into_iter();
    let mut new = File::from(opened.next().unwrap().unwrap());
    new.write_all(b"hello").unwrap();
    assert_eq!(opened.next().unwrap().unwrap_err(), 2);
    let mut text = String::new();
    File::from(opened.next().unwrap().unwrap()).read_to_string(&mut text).unwrap();
    assert!(!text.is_empty());
    assert_eq!(opened.next().unwrap().unwrap_err(), 13);
    assert_eq!(fs::read(dir.path().join("new")).unwrap(), b"hello");
    let id = rocker.symlink(c"new", &at("link")).unwrap();
    assert_eq!(done(&mut rocker, id), Ok(()));
    assert_eq!(fs::read_link(dir.path().join("link")).unwrap(), Path::new("new"));
    let id = rocker.symlink(c"new", &at("link")).unwrap();
    assert_eq!(done(&mut rocker, id), Err(17));
    let id = rocker.delete(&at("link"), false).unwrap();
    assert_eq!(done(&mut rocker, id), Ok(()));
    fs::create_dir_all(dir.path().join("tree/below")).unwrap();
    for below in ["tree", "tree/below"] {
        let below = dir.path().join(below);
        std::os::unix::fs::chown(below, Some(APP_UID), Some(APP_GID)).unwrap();
    }
    let id = rocker.delete(&at("tree"), false).unwrap();
    assert_eq!(done(&mut rocker, id), Err(39));
    let id = rocker.delete(&at("tree"), true).unwrap();
    assert_eq!(done(&mut rocker, id), Ok(()));
    let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(names, ["new"]);
    let error = rocker.delete(c"", false).unwrap_err();
    assert_eq!((error.code(), &*error.to_string()), (code::PARAM_INVALID, "file: it is empty"));
    assert_eq!(rocker.end(SOON_MS), 0);
}

/// What came of an order that is no program.
fn done(rocker: &mut Open, wanted: u32) -> Result<(), c_client::Error> {
    match rocker.await_event(wanted, SOON_MS) {
        Some(Event::Done(id)) if id == wanted => Ok(()),
        Some(Event::Failed { id, error, .. }) if id == wanted => Err(error),
        Some(Event::Lost(error)) => Err(error),
        other => panic!("{other:?}"),
    }
}

/// A place, by its number in the header.
fn put(kind: u32, source: &str, target: impl AsRef<Path>, bytes: u64) -> Place {
    let source = Some(c_string(source)).filter(|it| !it.is_empty());
    Place { kind, source, target: c_string(target), bytes, mode: 0 }
}

/// The same for either library: every kind of place, and every other field but another root.
fn configurations(exec_dir: &Path) -> (Conf, c_client::Conf) {
    const COUNT: &str = "echo $((1 + $(cat /tmp/count || echo 0))) > /tmp/count";
    let exec = exec_dir.to_str().unwrap();
    let conf = Conf::new()
        .tmpfs("/tmp", 4 << 20)
        .bind_ro(exec_dir, exec_dir)
        .bind("/etc", "/tmp/etc")
        .overlay("/usr", 1 << 20)
        .tmpfs_mode("/tmp/own", 65536, 0o700)
        .proc("/proc")
        .dev("/dev", 1 << 20)
        .link("etc/passwd", "/tmp/link")
        .mask("/usr/share")
        .work_dir("/tmp/own")
        .host_name("judge")
        .domain_name("example")
        .unshare_cgroup()
        .init(Program::new("/bin/sh").args(["-c", COUNT]), SOON);
    let own = Place { mode: 0o700, ..put(2, "", "/tmp/own", 65536) };
    let places = vec![
        put(2, "", "/tmp", 4 << 20),
        put(1, exec, exec_dir, 0),
        put(0, "/etc", "/tmp/etc", 0),
        put(3, "", "/usr", 1 << 20),
        own,
        put(4, "", "/proc", 0),
        put(5, "", "/dev", 1 << 20),
        put(6, "etc/passwd", "/tmp/link", 0),
        put(7, "", "/usr/share", 0),
    ];
    let in_c = c_client::Conf {
        places,
        unshare_cgroup: true,
        work_dir: Some(c"/tmp/own".into()),
        host_name: Some(c"judge".into()),
        domain_name: Some(c"example".into()),
        init: Some((c_client::Program::new("/bin/sh").args(["-c", COUNT]), 5_000)),
        ..c_client::Conf::default()
    };
    (conf, in_c)
}

fn a_configuration_means_the_same_to_both() {
    let daemon = Daemon::start();
    let (conf, in_c) = configurations(&daemon.exec_dir());
    let mut rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
    let mut c = open(&daemon);
    rocker.configure(&conf).unwrap();
    let id = c.configure(&in_c).unwrap();
    assert!(done(&mut c, id).is_ok());
    let script = "pwd; stat -c '%A %u %g %n' /tmp /tmp/own /tmp/link; ls /dev /usr/share /tmp/etc; uname -n; \
                  cat /proc/sys/kernel/domainname /tmp/count /proc/self/cgroup; \
                  touch /tmp/x /usr/x; touch bin/x 2>&1; ls -d /proc/[0-9]*; \
                  grep -c . /proc/self/mountinfo";
    for _ in 0..2 {
        let by_rust = rocker.command("/bin/sh").args(["-c", script]).output().unwrap();
        let (mut output, stdout) = std::io::pipe().unwrap();
        let program = c_client::Program::new("/bin/sh").args(["-c", script]);
        let program = program.stdio(0, Stdio::Null).stdio(1, stdout);
        c.run(&program, &Exec::default()).unwrap();
        drop(program);
        let mut by_c = String::new();
        output.read_to_string(&mut by_c).unwrap();
        // Each has pids of its own.
        let comparable = |text: &str| -> Vec<String> {
            text.lines().filter(|line| !line.contains("/proc/")).map(str::to_owned).collect()
        };
        let by_rust = String::from_utf8(by_rust.stdout).unwrap();
        assert_eq!(comparable(&by_c), comparable(&by_rust));
        assert!(by_c.starts_with("/tmp/own\n") && by_c.contains("\njudge\nexample\n1\n"), "{by_c}");
        // What runs ends, and what was written is gone.
        let (stdin, _input) = std::io::pipe().unwrap();
        let waiting = c_client::Program::new("/bin/cat").stdio(0, stdin);
        let (id, _pidfd) = started(&mut c, &waiting, &Exec::default());
        rocker.reset().unwrap();
        let reset = c.reset().unwrap();
        assert!(done(&mut c, reset).is_ok());
        assert_eq!(ended(&mut c, id).verdict, Verdict::Cancelled);
    }
    assert_eq!(c.end(SOON_MS), 0);
    rocker.kill(SOON).unwrap();
}

fn what_cannot_be_configured_is_told_alike_by_both() {
    let daemon = Daemon::start();
    let place = |place| c_client::Conf { places: vec![place], ..c_client::Conf::default() };
    let exists = Conf::new().root("/no/where");
    let same = c_client::Conf { root: Some(c"/no/where".into()), ..c_client::Conf::default() };
    let empty = Conf::new().empty_root(65536).work_dir("/no/where");
    let same_empty = c_client::Conf {
        empty_root: 65536,
        work_dir: Some(c"/no/where".into()),
        ..c_client::Conf::default()
    };
    let init = Conf::new().init(Program::new("/bin/false"), SOON);
    let same_init = c_client::Conf {
        init: Some((c_client::Program::new("/bin/false"), 5_000)),
        ..c_client::Conf::default()
    };
    let tmpfs = (Conf::new().tmpfs("/no/where", 4096), place(put(2, "", "/no/where", 4096)));
    let bind = (Conf::new().bind("/no", "/tmp"), place(put(0, "/no", "/tmp", 0)));
    let rule = (Conf::new().mask("etc"), place(put(7, "", "etc", 0)));
    let name = Conf::new().host_name("n".repeat(65));
    let same_name =
        c_client::Conf { host_name: Some(c_string("n".repeat(65))), ..c_client::Conf::default() };
    let pairs = [(exists, same), (empty, same_empty), (init, same_init), tmpfs, bind];
    for (conf, same) in pairs.into_iter().chain([rule, (name, same_name)]) {
        let mut rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
        let wanted = rocker.configure(&conf).unwrap_err();
        let mut c = open(&daemon);
        let error = c.configure(&same).and_then(|id| done(&mut c, id)).unwrap_err();
        assert_eq!(error.to_string(), wanted.to_string());
        assert_eq!(error.code(), wanted.code() as i32);
        // What has broken no rule has ended: nothing runs in what is half of it.
        let has_ended = wanted.step() != Step::RequestRocker;
        assert_eq!(c.run(&probe(&["say on"]), &Exec::default()).is_err(), has_ended, "{wanted}");
        assert_eq!(c.end(SOON_MS), 0);
        rocker.kill(SOON).unwrap();
    }
    // What is refused as a whole does no harm.
    let mut c = open(&daemon);
    let (report, _) = run_probe(&mut c, &["say on"]);
    assert_eq!(report.verdict, Verdict::Normal);
    let id = c.configure(&c_client::Conf::default()).unwrap();
    let error = done(&mut c, id).unwrap_err();
    let mut rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
    rocker.command("/bin/true").stdin(Stdio::Null).status().unwrap();
    let wanted = rocker.configure(&Conf::new()).unwrap_err();
    assert_eq!((error.to_string(), error.errno()), (wanted.to_string(), 16));
    // As is what cannot be done to files.
    let id = c.delete(c"/no/where", false).unwrap();
    let wanted = rocker.delete("/no/where").unwrap_err();
    assert_eq!(done(&mut c, id).unwrap_err().to_string(), wanted.to_string());
    let id = c.symlink(c"x", c"/no/where").unwrap();
    let wanted = rocker.symlink("x", "/no/where").unwrap_err();
    assert_eq!(done(&mut c, id).unwrap_err().to_string(), wanted.to_string());
    rocker.kill(SOON).unwrap();
    let (report, text) = run_probe(&mut c, &["say on"]);
    assert_eq!((report.verdict, &*text), (Verdict::Normal, "say: on\n"));
    assert_eq!(c.end(SOON_MS), 0);
}

/// Until its last process has ended, whoever ordered that.
fn a_rocker_may_stay() {
    let daemon = Daemon::start();
    let stays = Request { stays: true, ..request(&daemon) };
    let mut rocker = stays.open_rocker().unwrap();
    let (stdin, input) = std::io::pipe().unwrap();
    let waiting =
        || c_client::Program::new("bin/probe").args(["wait"]).stdio(0, stdin.try_clone().unwrap());
    let (_, pidfd) = started(&mut rocker, &waiting(), &Exec::default());
    let guard = rocker.guard_pid();
    rocker.leave();
    // It would end at once.
    std::thread::sleep(Duration::from_millis(200));
    assert!(
        process::is_alive(guard)
            && poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&Timespec::default())) == Ok(0)
    );
    drop(input);
    assert!(within(SOON, || !process::is_alive(guard)));
    // To end it is to end all of it.
    let mut rocker = stays.open_rocker().unwrap();
    let (stdin, _input) = std::io::pipe().unwrap();
    let program = c_client::Program::new("bin/probe").args(["wait"]).stdio(0, stdin);
    let (_, _pidfd) = started(&mut rocker, &program, &Exec::default());
    assert_eq!(rocker.end(SOON_MS), 0);
}

/// By several, who hurt nobody else when they leave.
fn a_living_rocker_can_be_attached_to() {
    let daemon = Daemon::start();
    let mut owner = replayed(daemon.launch(probe_package()).open()).unwrap();
    let name = c_string(owner.guard_name().as_str());
    let options = request(&daemon);
    let mut others =
        [options.attach(&name).unwrap(), options.attach_in_a_poll_loop(&name).unwrap()];
    for (status, other) in (3..).zip(&mut others) {
        assert_eq!(other.guard_name(), owner.guard_name().as_str());
        assert_eq!(other.guard_pid(), owner.guard_pid());
        let report = other.run(&probe(&[&format!("exit {status}")]), &Exec::default()).unwrap();
        assert_eq!(report.exit, Exit::Status(status));
        let id = other.ping().unwrap();
        assert!(matches!(other.await_event(id, SOON_MS), Some(Event::Pong(it)) if it == id));
    }
    // What it has started ends with it, and nothing else does.
    let [mut first, second] = others;
    let (stdin, _input) = std::io::pipe().unwrap();
    let waiting = || {
        let program = c_client::Program::new("bin/probe").args(["wait"]);
        program.stdio(0, stdin.try_clone().unwrap())
    };
    let (_, theirs) = started(&mut first, &waiting(), &Exec::default());
    first.leave();
    assert!(within(SOON, || poll(
        &mut [PollFd::new(&theirs, PollFlags::IN)],
        Some(&Timespec::default())
    ) == Ok(1)));
    owner.ping().unwrap();
    // Whoever ends it ends it for all.
    let guard = owner.guard_pid();
    drop(owner);
    assert!(within(SOON, || !process::is_alive(guard)));
    assert_eq!(second.end(SOON_MS), 0);
}

fn whom_nobody_can_attach_to_is_told_alike_by_both() {
    let daemon = Daemon::start();
    let options = request(&daemon);
    for name in ["0123456789abcde", "0123456789abcdE", ""] {
        let wanted = OpenRocker::attach(daemon.socket(), name, SOON).unwrap_err();
        for error in [
            options.attach(&c_string(name)).unwrap_err(),
            options.attach_in_a_poll_loop(&c_string(name)).unwrap_err(),
        ] {
            assert_eq!(error.to_string(), wanted.to_string());
            assert_eq!(error.code(), code::PARAM_INVALID);
        }
    }
    // Where there is no master.
    let nobody = daemon.path("nobody");
    let nowhere = Request { socket: Some(c_string(&nobody)), ..request(&daemon) };
    let wanted = OpenRocker::attach(&nobody, "0123456789abcde", SOON).unwrap_err().to_string();
    assert_eq!(nowhere.attach(c"0123456789abcde").unwrap_err().to_string(), wanted);
    assert!(wanted.starts_with("cannot ask the master: connect "), "{wanted}");
    // More than there may be, which the guard says.
    let owner = replayed(daemon.launch(probe_package()).open()).unwrap();
    let name = c_string(owner.guard_name().as_str());
    let others: Vec<Open> = (0..8).map(|_| options.attach(&name).unwrap()).collect();
    let wanted = OpenRocker::attach(daemon.socket(), owner.guard_name().as_str(), SOON);
    let error = options.attach(&name).unwrap_err();
    assert_eq!(error.to_string(), wanted.unwrap_err().to_string());
    assert_eq!(error.step(), i32::from(Step::HandOver.code()));
    others.into_iter().for_each(Open::leave);
    assert!(owner.kill(SOON).unwrap());
}

fn living_rockers_are_listed_and_killed_by_name() {
    let daemon = Daemon::start();
    let options = request(&daemon);
    assert_eq!(options.list().unwrap(), vec![]);
    let rockers: Vec<Open> = (0..3).map(|_| open(&daemon)).collect();
    let ageless = |entries: Vec<RockerEntry>| -> Vec<RockerEntry> {
        assert!(entries.iter().all(|it| it.age < SOON));
        let mut all: Vec<_> = entries;
        all.iter_mut().for_each(|it| it.age = Duration::ZERO);
        all.sort_by_key(|it| it.name);
        all
    };
    let wanted = ageless(rocker_client::list(daemon.socket(), SOON).unwrap());
    assert_eq!(ageless(options.list().unwrap()), wanted);
    assert_eq!(ageless(options.list_in_a_poll_loop().unwrap()), wanted);
    let mut names: Vec<String> = rockers.iter().map(Open::guard_name).collect();
    names.sort_unstable();
    assert_eq!(wanted.iter().map(|it| it.name.to_string()).collect::<Vec<_>>(), names);
    options.kill_named(&c_string(&names[0])).unwrap();
    options.kill_named_in_a_poll_loop(&c_string(&names[1])).unwrap();
    let left = options.list().unwrap();
    assert_eq!(left.iter().map(|it| it.name.to_string()).collect::<Vec<_>>(), names[2..]);
    // What cannot be asked, or whom nobody knows.
    let nobody = daemon.path("nobody");
    let nowhere = Request { socket: Some(c_string(&nobody)), ..options.clone() };
    let wanted = rocker_client::list(&nobody, SOON).unwrap_err().to_string();
    assert_eq!(nowhere.list().unwrap_err().to_string(), wanted);
    assert!(wanted.starts_with("cannot ask the master: connect "), "{wanted}");
    for name in [&*names[0], "0123456789abcdE", ""] {
        let wanted = rocker_client::kill_by_name(daemon.socket(), name, SOON).unwrap_err();
        let error = options.kill_named(&c_string(name)).unwrap_err();
        assert_eq!(error.to_string(), wanted.to_string());
        assert_eq!(error.code(), code::PARAM_INVALID);
    }
    for rocker in rockers {
        assert_eq!(rocker.end(SOON_MS), 0);
    }
}

fn a_program_that_was_left_is_taken_over() {
    let daemon = Daemon::start();
    let options = Request { stays: true, ..request(&daemon) };
    let mut owner = options.open_rocker().unwrap();
    let name = c_string(owner.guard_name());
    let program = c_client::Program::new("/bin/sh").args(["-c", "sleep 0.5; exit 7"]);
    let program = program.env("PATH", "/bin:/usr/bin").stdio(0, Stdio::Null);
    let (_, _pidfd) = started(&mut owner, &program, &Exec::default());
    let mut heir = options.attach(&name).unwrap();
    let failed = |heir: &mut Open| {
        let wanted = heir.adopt(5).unwrap();
        match heir.await_event(wanted, SOON_MS) {
            Some(Event::Failed { id, data: 5, error }) if id == wanted => error.errno(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(failed(&mut heir), 3, "its launcher is there");
    owner.leave();
    let mut adopted = 0;
    let is_mine = || {
        adopted = heir.adopt(6).unwrap();
        matches!(heir.await_event(adopted, SOON_MS), Some(Event::Started { data: 6, .. }))
    };
    assert!(within(SOON, is_mine));
    assert_eq!(ended(&mut heir, adopted).exit, Exit::Status(7));
    assert_eq!(heir.end(SOON_MS), 0);
}

fn signals_reach_one_or_all() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let (stdin, _input) = std::io::pipe().unwrap();
    let waiting =
        || c_client::Program::new("bin/probe").args(["wait"]).stdio(0, stdin.try_clone().unwrap());
    let none = Exec::default();
    let [first, second, third] = [0; 3].map(|_| started(&mut rocker, &waiting(), &none).0);
    rocker.signal(Some(first), SIGTERM).unwrap();
    let report = ended(&mut rocker, first);
    assert_eq!((report.exit, report.verdict), (Exit::Signal(15), Verdict::Signalled));
    rocker.signal(Some(second), SIGKILL).unwrap();
    assert_eq!(ended(&mut rocker, second).verdict, Verdict::Cancelled);
    // One that has ended is nobody to signal, and no error either.
    rocker.signal(Some(first), SIGTERM).unwrap();
    rocker.signal(None, SIGKILL).unwrap();
    assert_eq!(ended(&mut rocker, third).verdict, Verdict::Cancelled);
    // One that ends while it is signalled: the guard may say that there is none.
    for _ in 0..20 {
        let id = rocker.exec(&probe(&["exit 0"]), &none).unwrap();
        rocker.signal(Some(id), SIGTERM).unwrap();
        let event = rocker.await_event(id, SOON_MS);
        assert!(matches!(event, Some(Event::Started { .. })), "{event:?}");
        ended(&mut rocker, id);
    }
    let ping = rocker.ping().unwrap();
    let event = rocker.await_event(ping, SOON_MS);
    assert!(matches!(event, Some(Event::Pong(_))), "{event:?}");
    assert_eq!(rocker.end(SOON_MS), 0);
}

fn ends_are_kept_until_somebody_asks() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let (stdin, input) = std::io::pipe().unwrap();
    let program = |status: usize| {
        let exit = format!("exit {status}");
        let program = c_client::Program::new("bin/probe").args(["wait", &exit]);
        program.stdio(0, stdin.try_clone().unwrap())
    };
    let ids: Vec<u32> =
        (0..64).map(|n| started(&mut rocker, &program(n), &Exec::default()).0).collect();
    let error = rocker.exec(&program(64), &Exec::default()).unwrap_err();
    assert_eq!((error.step(), error.errno()), (i32::from(Step::StartProgram.code()), 11));
    drop((stdin, input));
    for (n, &id) in ids.iter().enumerate().rev() {
        assert_eq!(ended(&mut rocker, id).exit, Exit::Status(u8::try_from(n).unwrap()));
    }
    assert!(rocker.next_event().is_none());
    let (report, _) = run_probe(&mut rocker, &["say on"]);
    assert_eq!(report.verdict, Verdict::Normal);
    assert_eq!(rocker.end(SOON_MS), 0);
}

fn a_guard_that_is_there_says_so() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    for _ in 0..3 {
        let wanted = rocker.ping().unwrap();
        let event = rocker.await_event(wanted, SOON_MS);
        assert!(matches!(event, Some(Event::Pong(id)) if id == wanted), "{event:?}");
    }
    // One answer for all of them.
    let last = [0; 3].map(|_| rocker.ping().unwrap())[2];
    let event = rocker.await_event(last, SOON_MS);
    assert!(matches!(event, Some(Event::Pong(id)) if id == last), "{event:?}");
    assert!(rocker.await_event(last, 0).is_some_and(|it| matches!(it, Event::Failed { .. })));
    assert_eq!(rocker.end(SOON_MS), 0);
}

fn a_killed_guard_is_told() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let (stdin, _input) = std::io::pipe().unwrap();
    let program = c_client::Program::new("bin/probe").args(["wait"]).stdio(0, stdin);
    let (id, _pidfd) = started(&mut rocker, &program, &Exec::default());
    let began = Instant::now();
    rocker_client::kill_by_name(daemon.socket(), &rocker.guard_name(), SOON).unwrap();
    let Some(Event::Lost(error)) = rocker.await_event(id, SOON_MS) else { panic!("it is lost") };
    assert_eq!(error.code(), code::RECV_RESP_FAILED);
    assert!(error.to_string().contains("closed the connection"), "{error}");
    assert!(matches!(rocker.next_event(), Some(Event::Lost(_))) && began.elapsed() < SOON);
    // It stays lost, and whoever is orders nothing more.
    let error = rocker.run(&probe(&["say no"]), &Exec::default()).unwrap_err();
    assert_eq!(error.code(), code::RECV_RESP_FAILED);
    assert_eq!(rocker.end(SOON_MS), 0);
}

fn an_end_is_the_end_of_all() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let (stdin, _input) = std::io::pipe().unwrap();
    let program = c_client::Program::new("bin/probe").args(["wait"]).stdio(0, stdin);
    let (_, pidfd) = started(&mut rocker, &program, &Exec::default());
    let guard = rocker.guard_pid();
    assert_eq!(rocker.end(SOON_MS), 0);
    assert!(!process::is_alive(guard));
    assert_eq!(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None), Ok(1));
}

fn a_user_whom_the_policy_lets_needs_no_privilege() {
    let (daemon, package) = Daemon::for_users(&[APP_UID]);
    let request = Request { package: Some(c_string(&package)), ..request(&daemon) };
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setresgid(APP_GID.into(), APP_GID.into(), APP_GID.into()).unwrap();
    nix::unistd::setresuid(APP_UID.into(), APP_UID.into(), 0.into()).unwrap();
    let error = request.spawn(&probe(&["say no"])).unwrap_err();
    assert_eq!(error.code(), code::ENTER_ROCKER_FAILED, "{error}");
    let mut rocker = request.open_rocker().unwrap();
    let (report, text) = run_probe(&mut rocker, &["say hello"]);
    assert_eq!((report.verdict, &*text), (Verdict::Normal, "say: hello\n"));
    let (stdin, _input) = std::io::pipe().unwrap();
    let program = c_client::Program::new("bin/probe").args(["wait"]).stdio(0, stdin);
    let (id, _pidfd) = started(&mut rocker, &program, &Exec::default());
    rocker.signal(Some(id), SIGKILL).unwrap();
    assert_eq!(ended(&mut rocker, id).verdict, Verdict::Cancelled);
    assert_eq!(rocker.end(SOON_MS), 0);
    nix::unistd::setresuid(0.into(), 0.into(), 0.into()).unwrap();
}

fn a_thousand_runs_leave_caller_guard_and_master_as_they_were() {
    let daemon = Daemon::start();
    let mut rocker = open(&daemon);
    let run = |rocker: &mut Open, times: u32| {
        for _ in 0..times {
            let program = c_client::Program::new("/bin/true").stdio(0, Stdio::Null);
            let report = rocker.run(&program, &Exec::default()).unwrap();
            assert_eq!(report.verdict, Verdict::Normal);
        }
    };
    run(&mut rocker, 50);
    let (me, guard) = (std::process::id(), rocker.guard_pid());
    let memory = |pid| process::status(pid)["VmRSS"].clone();
    let measure = || (process::fds(me), process::fds(guard), memory(guard), daemon.fds());
    let before = measure();
    run(&mut rocker, 1000);
    assert_eq!(measure(), before);
    assert_eq!(rocker.end(SOON_MS), 0);
}

fn the_judge_says_what_became_of_each_test() {
    let daemon = Daemon::start();
    let dir = scratch();
    // What each test asks, and what it wants to hear.
    for (n, (input, wanted)) in (1..).zip([
        ("1 2", "3\n"),
        ("40 2", "42\n"),
        ("1 1", "3\n"),
        ("x\nexit 7", ""),
        ("x\nsleep 60", ""),
        ("x\nkill -SEGV $$", ""),
        ("x\nwhile :; do echo flood; done", ""),
        ("2 2", "4\n"),
    ]) {
        fs::write(dir.path().join(format!("{n}.in")), format!("{input}\n")).unwrap();
        fs::write(dir.path().join(format!("{n}.out")), wanted).unwrap();
    }
    let solution = "read a b; if [ $a = x ]; then . /dev/stdin; fi; echo $((a + b))";
    let judge = |jobs: &str, program: &[&str]| {
        let mut judge = Command::new(env!("ROCKER_EXAMPLE_JUDGE"));
        judge.arg("-s").arg(daemon.socket()).arg("-x").arg(daemon.exec_dir());
        judge.args(["-u", &APP_UID.to_string(), "-j", jobs, "-w", "500"]);
        judge.arg(probe_package()).arg(dir.path()).args(program).output().unwrap()
    };
    for jobs in ["1", "3", "64"] {
        let output = judge(jobs, &["/bin/sh", "-c", solution]);
        let text = String::from_utf8(output.stdout).unwrap();
        let mut verdicts: Vec<&str> =
            text.lines().map(|line| line.split(',').next().unwrap()).collect();
        verdicts.sort_unstable();
        let flood = verdicts.remove(6);
        // Whichever of its two limits it meets first.
        let limits = ["7: output limit exceeded", "7: time limit exceeded"];
        assert!(limits.contains(&flood), "{text}");
        let wanted = [
            "1: accepted",
            "2: accepted",
            "3: wrong answer",
            "4: nonzero exit status",
            "5: time limit exceeded",
            "6: signalled",
            "8: accepted",
        ];
        assert_eq!(verdicts, wanted, "{text}");
        assert_eq!(output.status.code(), Some(1));
    }
    let output = judge("2", &["bin/nothing"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("1: cannot start the program (exec.1): exec bin/nothing: "), "{text}");
    assert_eq!((text.lines().count(), output.status.code()), (8, Some(1)));
    // What concerns no test is said elsewhere, and nothing is accepted.
    for (package, tests, wanted) in [
        ("/p.sqfs", "/nope", "judge: cannot open /nope/1.in: No such file or directory\n"),
        (
            "p.sqfs",
            dir.path().to_str().unwrap(),
            "judge: package p.sqfs: the path must be absolute\n",
        ),
    ] {
        let mut judge = Command::new(env!("ROCKER_EXAMPLE_JUDGE"));
        judge.arg("-s").arg(daemon.socket()).args([package, tests, "/bin/true"]);
        let output = judge.output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), wanted);
        assert_eq!((output.stdout.len(), output.status.code()), (0, Some(2)));
    }
    for n in 3..=8 {
        fs::remove_file(dir.path().join(format!("{n}.in"))).unwrap();
    }
    let output = judge("2", &["/bin/sh", "-c", solution]);
    assert_eq!(output.status.code(), Some(0));
}

fn the_judge_of_the_readme_runs() {
    let daemon = Daemon::start();
    let solution = "#!/bin/sh\nread a b\necho $((a + b))\n";
    let package = Package::new().file("bin/solution", 0o755, solution).build();
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    let blocks = readme.split("```sh\n").filter_map(|text| text.split("```").next());
    let block = blocks.skip(1).find(|block| block.contains("judge.c")).unwrap();
    // Where a reader has it.
    let judge =
        format!("./judge -s {} -x {} ", daemon.socket().display(), daemon.exec_dir().display());
    let block = block.replace("/apps/judge.sqfs", package.to_str().unwrap());
    let block = block.replace("./judge ", &judge);
    let dir = scratch();
    let at = |name: &str| dir.path().join(name);
    let target = bin("rocker").parent().unwrap().parent().unwrap().to_owned();
    std::os::unix::fs::symlink(workspace().join("client-c"), at("client-c")).unwrap();
    std::os::unix::fs::symlink(target, at("target")).unwrap();
    fs::create_dir(at("tests")).unwrap();
    for (name, text) in [("1.in", "1 2\n"), ("1.out", "3\n"), ("2.in", "2 2\n"), ("2.out", "5\n")] {
        fs::write(at("tests").join(name), text).unwrap();
    }
    let output = Command::new("sh").arg("-ec").arg(block).current_dir(dir.path()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let mut verdicts: Vec<&str> = said.lines().filter_map(|it| it.split(',').next()).collect();
    verdicts.sort_unstable();
    assert_eq!(verdicts, ["1: accepted", "2: wrong answer"], "{said}");
}
