//! The command line: what bad input gets, exit statuses, and each command's promises.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::time::Duration;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::process::{Pid, Signal, kill_process};
use tests::app::Answer;
use tests::cgroup::needs;
use tests::output::{assert_refused, json_of};
use tests::replay::{Reports, replay};
use tests::scratch::{directory, names};
use tests::{APP_UID, Daemon, Leaks, Package, SOON};
use tests::{bin, command_in, probe_package, process, runner, scratch, within};

fn main() -> ExitCode {
    let mut all = tests::plain![
        pack_makes_the_same_bytes_of_the_same_input,
        pack_refuses_what_a_package_cannot_hold,
        a_command_line_nobody_understands_is_one_line_and_125,
        help_and_version_are_there,
    ];
    all.extend(tests::root![
        bad_packages_are_refused_in_one_line,
        bad_directories_are_refused_in_one_line,
        bad_ids_and_words_are_refused_in_one_line,
        a_program_that_cannot_start_is_126_or_127,
        refusals_leave_nothing_and_delay_nobody,
        the_exit_status_is_the_apps,
        standard_input_output_and_error_pass_through,
        run_needs_no_daemon_as_root,
        run_with_a_named_socket_wants_a_master_there,
        an_embedded_master_refuses_in_one_line_too,
        a_data_dir_of_no_launch_does_not_stay,
        an_interrupt_reaches_the_app_and_leaves_nothing,
        a_second_interrupt_ends_what_the_app_left_running,
        whoever_the_app_makes_its_launchers_delays_nobody,
        an_app_without_end_to_its_children_can_be_ended,
        limits_are_kept_and_the_verdict_is_told,
        a_profile_says_which_system_calls_there_are,
        a_profile_that_says_nothing_is_refused_in_one_line,
        a_user_whom_the_policy_lets_runs_an_app,
        the_manifest_says_what_to_start,
        the_second_wall_is_for_who_asks,
        a_bad_manifest_is_refused_in_one_line,
        ids_and_environment_are_as_documented,
        the_report_is_json_with_every_step,
        the_trace_is_one_line_a_step,
        a_report_that_cannot_be_written_starts_nothing,
        ps_has_the_oldest_first_and_kill_takes_several,
        ps_and_kill_work_by_name,
        a_full_standard_output_is_said_in_one_line,
        doctor_says_what_is_there,
        each_compression_runs,
        a_host_without_loop_devices_is_told_so,
        too_many_rockers_are_refused,
        a_caller_without_permission_is_refused,
        a_master_with_a_bad_configuration_or_guard_does_not_start,
        only_one_master_serves_a_socket,
        regression_the_requested_gid_is_kept_and_none_means_the_users_own,
    ]);
    runner::main(all)
}

/// `rocker run` through this daemon, as nobody in particular.
fn run(daemon: &Daemon) -> Command {
    as_nobody(daemon, daemon.rocker_run())
}

fn as_nobody(daemon: &Daemon, mut run: Command) -> Command {
    run.args(["--uid", "54321", "--gid", "54322", "--exec-dir"]).arg(daemon.exec_dir());
    run.stdin(Stdio::null());
    run
}

/// `rocker run` through this daemon, with a report of the test's own.
fn reporting(daemon: &Daemon, to: &Path) -> Command {
    let mut command = Command::new(bin("rocker"));
    command.arg("run").arg("--socket").arg(daemon.socket()).arg("--report").arg(to);
    command
}

fn probed(daemon: &Daemon, commands: &[&str]) -> Command {
    let mut command = run(daemon);
    command.arg(probe_package()).args(["--", "bin/probe"]).args(commands);
    command
}

fn answer(command: &mut Command) -> Answer {
    let output = command.output().expect("rocker can be started");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    Answer::new(output.status, &String::from_utf8_lossy(&output.stdout))
}

/// A package that does not exist, and why it should not be run.
fn bad_packages(daemon: &Daemon) -> Vec<(PathBuf, &'static str)> {
    let image = fs::read(probe_package()).unwrap();
    let put = |name: &str, content: &[u8]| {
        let path = daemon.path(name);
        fs::write(&path, content).unwrap();
        path
    };
    let fifo = daemon.path("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o644.into(), 0)
        .unwrap();
    let mut version = image.clone();
    version[28] = 3;
    symlink("/nowhere/at/all", daemon.path("dangling")).unwrap();
    vec![
        (put("text", b"hello, world, I am not a package\n"), "not a squashfs image"),
        (put("empty", b""), "not a squashfs image"),
        (put("zeroes", &[0; 8192]), "not a squashfs image"),
        (put("half", &image[..image.len() / 2]), "truncated"),
        (put("head", &image[..50]), "truncated"),
        (put("version", &version), "unknown version or compression"),
        (daemon.path("missing"), "No such file or directory"),
        (daemon.path("text/below"), "Not a directory"),
        (daemon.path("dangling"), "No such file or directory"),
        (daemon.path("exec"), "not a file of the kind"),
        (fifo, "not a file of the kind"),
        (daemon.socket(), "not a file of the kind"),
        ("/dev/null".into(), "not a file of the kind"),
        ("/dev/loop-control".into(), "not a file of the kind"),
        ("/proc/self/mem".into(), "(prepare.2)"),
    ]
}

fn bad_packages_are_refused_in_one_line() {
    let daemon = Daemon::start();
    for (package, why) in bad_packages(&daemon) {
        let output = run(&daemon).arg(&package).args(["--", "x"]).output().unwrap();
        assert_refused(&output, 125, &[why]);
        if package.starts_with("/tmp") {
            assert_refused(&output, 125, &[package.file_name().unwrap().to_str().unwrap()]);
        }
    }
    // The superblock is fine and what it leads to is not: the kernel says so at prepare.3, or
    // the App finds its program broken. Nothing hangs and nobody else notices.
    let image = fs::read(probe_package()).unwrap();
    let damaged = daemon.path("damaged.sqfs");
    for at in (96..image.len()).step_by(image.len() / 40) {
        fs::write(&damaged, &image).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&damaged).unwrap();
        file.write_all_at(&[0xa5; 64], u64::try_from(at).unwrap().min(image.len() as u64 - 64))
            .unwrap();
        let output =
            run(&daemon).arg(&damaged).args(["--", "bin/probe", "say lives"]).output().unwrap();
        let status = output.status.code().expect("an exit status, not a signal");
        let signalled = status > 128;
        assert!(signalled || [0, 125, 126, 127].contains(&status), "damage at {at}: {output:?}");
    }
    for at in 0..96 {
        let mut changed = image.clone();
        changed[at] ^= 0xff;
        fs::write(&damaged, &changed).unwrap();
        let output =
            run(&daemon).arg(&damaged).args(["--", "bin/probe", "say lives"]).output().unwrap();
        let status = output.status.code().expect("an exit status, not a signal");
        assert!([0, 125, 126, 127].contains(&status), "byte {at}: {output:?}");
    }
    assert!(daemon.is_well());
}

fn bad_directories_are_refused_in_one_line() {
    let daemon = Daemon::start();
    let package = probe_package();
    fs::write(daemon.path("file"), "").unwrap();
    let at = |name: &str| daemon.path(name).display().to_string();
    let (file, long, data) = (at("file"), format!("/{}", "long/".repeat(1000)), at("data"));
    let (missing, dots, line) = (at("missing"), at("not/../there"), at("two\nlines"));
    let cases: &[(&[&str], &[&str])] = &[
        (&["--exec-dir", &file], &["prepare.3", &file, "Not a directory", "must be a directory"]),
        (&["--exec-dir", &missing], &["prepare.3", &missing, "No such file or directory"]),
        (&["--exec-dir", "/proc"], &["exec dir /proc", "belongs to the host"]),
        (&["--exec-dir", "/"], &["exec dir /", "belongs to the host"]),
        (&["--exec-dir", &dots], &["exec dir", "must not contain \"..\""]),
        (&["--exec-dir", &long], &["exec dir", "too long"]),
        (&["--exec-dir", &line], &["exec dir", "control character"]),
        (&["--exec-dir", ""], &[]),
        (&["--data-dir", &file], &["data dir", &file, "is not a directory"]),
        (&["--data-dir", &missing], &["data dir", &missing, "no such directory; make it"]),
        (&["--data-dir", "/proc"], &["/proc"]),
        (&["--data-dir", &long], &["data dir", "too long"]),
        (
            &["--overlay", "/nowhere", "--data-dir", &data],
            &["overlay.0", "/nowhere", "No such file"],
        ),
        (&["--overlay", &file, "--data-dir", &data], &["overlay.0", &file, "Not a directory"]),
        (&["--overlay", "/dev", "--data-dir", &data], &["overlay dir /dev", "belongs to the host"]),
        (&["--overlay", "/", "--data-dir", &data], &["overlay dir /", "belongs to the host"]),
        (&["--overlay", &long, "--data-dir", &data], &["overlay dir", "too long"]),
        (&["--overlay", "/usr/../etc", "--data-dir", &data], &["overlay dir", "\"..\""]),
        (&["--overlay", "auto", "--overlay", "/etc", "--data-dir", &data], &["overlay auto"]),
        (&["--cwd", "/nowhere"], &["enter.3", "cd /nowhere", "No such file or directory"]),
    ];
    for (arguments, words) in cases {
        // The last of an option counts; so each replaces what `run` has set.
        let mut command = daemon.rocker_run();
        command.args(["--uid", "54321", "--gid", "54322"]);
        if arguments[0] != "--exec-dir" {
            command.arg("--exec-dir").arg(daemon.exec_dir());
        }
        let output =
            command.args(*arguments).arg(&package).args(["--", "bin/probe"]).output().unwrap();
        assert_refused(&output, 125, words);
    }
    let mut seventeen = run(&daemon);
    seventeen.arg("--data-dir").arg(&data);
    for number in 0..17 {
        seventeen.arg("--overlay").arg(format!("/o{number}"));
    }
    let output = seventeen.arg(&package).args(["--", "x"]).output().unwrap();
    assert_refused(&output, 125, &[": at most 16 of them"]);
    assert!(names(daemon.exec_dir()).is_empty());
}

fn bad_ids_and_words_are_refused_in_one_line() {
    let daemon = Daemon::start();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--uid", "no-such-user-here"], &["no-such-user-here"]),
        (&["--gid", "no-such-group-here"], &["no-such-group-here"]),
        (&["--uid", "0"], &["uid 0", "never runs as root"]),
        (&["--uid", "root"], &["never runs as root"]),
        (&["--uid", "54321", "--gid", "0"], &["gid 0", "never runs as root"]),
        (&["--uid", "-1"], &["-1"]),
        (&["--uid", "4294967295"], &["4294967295"]),
        (&["--uid", "4294967296"], &["4294967296"]),
        (&["--uid", "54321", "--gid", "none"], &["none"]),
        (&["--uid", ""], &[]),
        (&["--env", "NOTHING"], &["NAME=VALUE"]),
        (&["--env", "=x"], &["NAME=VALUE"]),
        (&["--timeout", "0"], &["--timeout", "a time, like 0.5, 500ms, 3s or 2m"]),
        (&["--timeout", "-1"], &[]),
        (&["--timeout", "nan"], &["timeout"]),
        (&["--timeout", "2h"], &["--timeout", "at most 1h"]),
        (&["--timeout", "soon"], &["soon"]),
        (&["--app-id", "x"], &["--app-id", "a whole number from 0"]),
        (&["--app-id", "4294967296"], &["from 0 to 4294967295"]),
        (&["--wall", "0"], &["--wall", "a time, like"]),
        (&["--volatile"], &["volatile", "overlays, and there is none"]),
        (&["--time", "500ms"], &["--time", "whole seconds"]),
        (&["--memory", "64MB"], &["--memory", "like 64M"]),
        (&["--cpu-weight", "0"], &["--cpu-weight", "from 1 to 10000"]),
    ];
    for (arguments, words) in cases {
        let mut command = daemon.rocker_run();
        command.arg("--exec-dir").arg(daemon.exec_dir());
        let output = command
            .args(*arguments)
            .arg(probe_package())
            .args(["--", "bin/probe"])
            .output()
            .unwrap();
        assert_refused(&output, 125, words);
    }
    // Bytes that are no text still make one line of text.
    let strange = std::ffi::OsStr::from_bytes(b"/x\xff\x1b[31m\ny");
    assert_refused(&run(&daemon).arg(strange).args(["--", "x"]).output().unwrap(), 125, &[]);
}

fn a_program_that_cannot_start_is_126_or_127() {
    let daemon = Daemon::start();
    let package = Package::with_probe()
        .file("data", 0o644, "not to be run")
        .file("garbage", 0o755, [0x7f, b'E', b'L', b'F', 0, 0, 0, 0])
        .file("text", 0o755, "no interpreter is named here\n")
        .file("lost", 0o755, "#!/nowhere/sh\n")
        .file("script", 0o755, "#!/bin/sh\nexit 3\n")
        .directory("dir", 0o755)
        .build();
    for (program, status) in [
        ("missing", 127),
        ("bin/missing", 127),
        ("./missing/at/all", 127),
        ("data/below", 127),
        ("./lost", 127),
        ("./data", 126),
        ("./garbage", 126),
        ("./text", 126),
        ("./dir", 126),
    ] {
        let output = run(&daemon).arg(&package).args(["--", program]).output().unwrap();
        assert_refused(&output, status, &["enter.3", program]);
    }
    let script = run(&daemon).arg(&package).args(["--", "./script"]).status().unwrap();
    assert_eq!(script.code(), Some(3));
}

fn refusals_leave_nothing_and_delay_nobody() {
    let daemon = Daemon::start();
    probed(&daemon, &[]).status().unwrap();
    assert!(within(SOON, || daemon.records().is_empty()));
    let leaks = Leaks::snapshot().watch_pid(daemon.pid());
    let began = Instant::now();
    let mut count = 0;
    for (package, _) in bad_packages(&daemon) {
        assert_eq!(
            run(&daemon).arg(package).args(["--", "x"]).output().unwrap().status.code(),
            Some(125)
        );
        count += 1;
    }
    for program in ["missing", "/etc/passwd"] {
        let output = run(&daemon).arg(probe_package()).args(["--", program]).output().unwrap();
        assert!([126, 127].contains(&output.status.code().unwrap()));
        count += 1;
    }
    assert!(began.elapsed() < Duration::from_millis(300) * count, "{:?}", began.elapsed());
    leaks.assert_none();
}

fn the_exit_status_is_the_apps() {
    let daemon = Daemon::start();
    for status in [0, 1, 42, 125, 126, 127, 255] {
        let output = probed(&daemon, &[&format!("exit {status}")]).output().unwrap();
        assert_eq!(output.status.code(), Some(status));
        assert!(output.stderr.is_empty(), "the App's own status needs no words");
    }
    for number in [1, 2, 6, 9, 15] {
        let output = probed(&daemon, &[&format!("die {number}")]).output().unwrap();
        assert_eq!(output.status.code(), Some(128 + number));
    }
}

fn standard_input_output_and_error_pass_through() {
    let daemon = Daemon::start();
    let mut command = run(&daemon);
    command.arg(probe_package()).args(["--", "sh", "-c", "cat; echo to error >&2; test -t 0"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let text: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn({
        let text = text.clone();
        move || input.write_all(&text)
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.stdout == text, "{} bytes", output.stdout.len());
    assert_eq!(output.stderr, b"to error\n");
    assert_eq!(output.status.code(), Some(1), "standard input is no terminal here");
}

/// A host of this process's own where no daemon is: an empty `/run`.
fn without_daemon() {
    unshare(CloneFlags::CLONE_NEWNS).expect("root may");
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).expect("root may");
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .expect("root may");
}

fn embedded(reports: &Reports) -> Command {
    let mut command = Command::new(bin("rocker"));
    command.env_remove("ROCKER_SOCKET").args(["run", "--uid", "54321"]).stdin(Stdio::null());
    reports.ask(&mut command);
    command
}

fn run_needs_no_daemon_as_root() {
    without_daemon();
    let dir = scratch();
    let reports = Reports::new(dir.path().join("reports"));
    let leaks = Leaks::snapshot();
    let mut command = embedded(&reports);
    command.arg(probe_package()).args([
        "--",
        "bin/probe",
        "say hello",
        "read share/hello",
        "cwd",
        "exit 4",
    ]);
    let said = answer(&mut command);
    assert_eq!(said.one("say"), "hello");
    assert_eq!(said.one("read share/hello"), "hello");
    assert_eq!(said.one("cwd"), rocker_client::EXEC_DIR);
    assert_eq!(said.status.code(), Some(4));
    // The directory for packages stays; nothing else does.
    let left: Vec<String> =
        leaks.found_since().into_iter().filter(|leak| !leak.contains("/run/rocker/app")).collect();
    assert!(left.is_empty(), "{left:#?}");
    // Several at once do not get in each other's way.
    let start = || {
        let mut command = embedded(&reports);
        command.arg(probe_package()).args(["--", "bin/probe", "sleep 200"]);
        command.spawn().unwrap()
    };
    let all: Vec<Child> = (0..8).map(|_| start()).collect();
    all.into_iter().for_each(|mut child| assert!(child.wait().unwrap().success()));
}

fn run_with_a_named_socket_wants_a_master_there() {
    let dir = scratch();
    let reports = Reports::new(dir.path().join("reports"));
    let nobody = dir.path().join("master.sock");
    let named = embedded(&reports)
        .arg("--socket")
        .arg(&nobody)
        .arg(probe_package())
        .args(["--", "x"])
        .output();
    assert_refused(
        &named.unwrap(),
        125,
        &["root.1", nobody.to_str().unwrap(), "start rocker-master, or name its socket"],
    );
    let mut command = embedded(&reports);
    let from_environment =
        command.env("ROCKER_SOCKET", &nobody).arg(probe_package()).args(["--", "x"]).output();
    assert_refused(
        &from_environment.unwrap(),
        125,
        &["root.1", "start rocker-master, or name its socket"],
    );
    // A socket that a killed master has left.
    drop(std::os::unix::net::UnixListener::bind(&nobody).unwrap());
    let stale = embedded(&reports)
        .arg("--socket")
        .arg(&nobody)
        .arg(probe_package())
        .args(["--", "x"])
        .output();
    assert_refused(&stale.unwrap(), 125, &["root.1"]);
    // Who asks for no rocker is not told that it cannot have one.
    let (none, name) = (dir.path().join("none"), "0123456789abcde");
    let wanted = format!(
        "rocker: cannot ask the master: connect {}: No such file or directory: \
         start rocker-master, or name its socket\n",
        none.display()
    );
    let copied = format!("{name}:/etc/passwd");
    let verbs: [&[&str]; 5] = [
        &["ps"],
        &["kill", name],
        &["stats", name],
        &["exec", name, "--", "x"],
        &["cp", &copied, "/dev/null"],
    ];
    for verb in verbs {
        let mut command = Command::new(bin("rocker"));
        command.arg(verb[0]).arg("--socket").arg(&none).args(&verb[1..]);
        let output = command.output().unwrap();
        assert_refused(&output, 125, &[&wanted]);
    }
}

fn an_embedded_master_refuses_in_one_line_too() {
    without_daemon();
    let dir = scratch();
    let reports = Reports::new(dir.path().join("reports"));
    let text = dir.path().join("text");
    fs::write(&text, "not a package, whatever it is called").unwrap();
    let output = embedded(&reports).arg(&text).args(["--", "x"]).output().unwrap();
    // The master of its own has a log line beside it, which says the same with its own name.
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let own: Vec<&str> = said.lines().filter(|line| line.starts_with("rocker: ")).collect();
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(own.len(), 1, "{said}");
    assert!(own[0].contains("not a squashfs image"), "{said}");
    assert_eq!(said.lines().count(), 1, "exactly one line: {said}");
    // Its rocker was there, and took orders. Neither it nor the master is when this has ended:
    // as an orphan it would be ours.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let mut command = embedded(&reports);
    command.args(["--wall", "5"]).arg(probe_package());
    let output = command.args(["--", "nothing"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    let own = process::descendants(std::process::id());
    assert!(own.is_empty(), "{own:?}");
}

/// Starts the probe and waits for its first words, which it must say first.
fn started(daemon: &Daemon, commands: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = probed(daemon, commands).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "say: here\n");
    (child, output)
}

fn interrupt(child: &Child) {
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
}

fn a_data_dir_of_no_launch_does_not_stay() {
    without_daemon();
    mount(Some("tmpfs"), "/var/lib", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    let attempt = |socket: &Path| {
        let mut command = Command::new(bin("rocker"));
        command.arg("run").arg("--socket").arg(socket).args([
            "--uid",
            "54321",
            "--overlay",
            "/etc",
        ]);
        command.arg(probe_package()).args(["--", "bin/probe", "say hello"]).output().unwrap()
    };
    let nowhere = Path::new("/nowhere/master.sock");
    assert_refused(&attempt(nowhere), 125, &["connect /nowhere/master.sock"]);
    assert_eq!(names("/var/lib"), [""; 0]);
    // What was there before stays, and so does what a launch needs again.
    fs::create_dir("/var/lib/rocker").unwrap();
    assert_refused(&attempt(nowhere), 125, &["connect /nowhere/master.sock"]);
    assert_eq!(names("/var/lib/rocker"), [""; 0]);
    let daemon = Daemon::start();
    let output = attempt(&daemon.socket());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(names("/var/lib/rocker").len(), 1);
}

fn an_interrupt_reaches_the_app_and_leaves_nothing() {
    let daemon = Daemon::start();
    let leaks = Leaks::snapshot();
    let (mut child, _output) = started(&daemon, &["say here", "sleep 60000"]);
    interrupt(&child);
    let status = child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(130), None));
    leaks.assert_none();
    // An App that has its own idea of an interrupt.
    let mut command = run(&daemon);
    let script = "trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.05; done";
    command.arg(probe_package()).args(["--", "sh", "-c", script]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    output.read_line(&mut text).unwrap();
    interrupt(&child);
    output.read_to_string(&mut text).unwrap();
    assert_eq!((child.wait().unwrap().code(), text.as_str()), (Some(7), "ready\ncaught\n"));
}

fn a_second_interrupt_ends_what_the_app_left_running() {
    let daemon = Daemon::start();
    let leaks = Leaks::snapshot();
    let (mut child, mut output) = started(&daemon, &["say here", "daemon sleep 60000", "exit 5"]);
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "daemon sleep 60000: ok\n");
    // The App exits now, and its daemon does not.
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it waits for what the App left running");
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(5));
    leaks.assert_none();
}

fn with_manifest(text: &str) -> PathBuf {
    Package::with_probe().file("rocker.toml", 0o644, text).build()
}

fn the_manifest_says_what_to_start() {
    let daemon = Daemon::start();
    let host = directory(daemon.path("host"), 0o777, 0);
    let write = format!("write {}/new x", host.display());
    let package = with_manifest(&format!(
        "entry = \"bin/probe\"\nargs = [\"say from the manifest\", \"environ\", \"cwd\", \"{write}\"]\n\
         cwd = \"/etc\"\noverlay = [\"{}\"]\n[env]\nCOLOUR = \"blue\"\nHOME = \"/var/x\"\n",
        host.display()
    ));
    let said = answer(run(&daemon).arg("--data-dir").arg(daemon.data_dir()).arg(&package));
    assert_eq!(said.one("say"), "from the manifest");
    assert_eq!(said.one("cwd"), "/etc");
    assert!(said.one("environ").contains("COLOUR=blue HOME=/var/x"), "{}", said.one("environ"));
    assert_eq!(said.one(&write), "ok");
    assert!(names(&host).is_empty());
    // What is said on the command line goes before it.
    let mut command = run(&daemon);
    command.arg("--data-dir").arg(daemon.data_dir()).args(["--cwd", "/usr", "--env", "COLOUR=red"]);
    let said = answer(
        command
            .arg(&package)
            .arg("--")
            .arg(daemon.exec_dir().join("bin/probe"))
            .args(["cwd", "environ"]),
    );
    assert_eq!(said.one("cwd"), "/usr");
    assert!(said.one("environ").contains("COLOUR=red"));
}

fn the_second_wall_is_for_who_asks() {
    let daemon = Daemon::start();
    let host = directory(daemon.path("host"), 0o777, 0);
    let write = format!("write {}/new x", host.display());
    let manifest = format!("entry = \"bin/probe\"\nargs = [\"{write}\"]\n");
    let plain = with_manifest(&manifest);
    let walled = with_manifest(&format!("{manifest}landlock = true\n"));
    for (option, package, word) in [
        (&[][..], &plain, "ok"),
        (&["--landlock"], &plain, "EACCES"),
        (&[], &walled, "EACCES"),
        (&["--landlock", "--wall", "9s"], &plain, "EACCES"),
    ] {
        assert_eq!(answer(run(&daemon).args(option).arg(package)).one(&write), word, "{option:?}");
    }
}

fn a_bad_manifest_is_refused_in_one_line() {
    let daemon = Daemon::start();
    let none = run(&daemon).arg(probe_package()).output().unwrap();
    assert_refused(&none, 125, &["rocker.toml", "there is none"]);
    // Where it is written, and not only where it is read.
    for (text, word) in [
        ("entry = \"bin/probe\"\noverlays = [\"/etc\"]\n", "overlays"),
        ("args = []\n", "entry"),
        ("entry = 7\n", "entry"),
        ("entry = \n", "line 1"),
        ("entry = \"bin/probe\"\noverlay = [\"etc\"]\n", "overlay"),
    ] {
        let dir = scratch();
        fs::write(dir.path().join("rocker.toml"), text).unwrap();
        let output = Command::new(bin("rocker"))
            .arg("pack")
            .arg(dir.path())
            .arg(daemon.path("bad.sqfs"))
            .output();
        assert_refused(&output.unwrap(), 125, &["rocker.toml", word]);
        assert!(!daemon.path("bad.sqfs").exists(), "{text}");
    }
}

fn ids_and_environment_are_as_documented() {
    let daemon = Daemon::start();
    let mut command = probed(&daemon, &["ids", "environ"]);
    command.env_clear().env("LANG", "C.UTF-8").env("SECRET", "x").env("TERM", "xterm");
    let said = answer(&mut command);
    assert_eq!(said.one("getresuid"), "54321 54321 54321");
    let environ = said.one("environ");
    assert!(environ.contains("LANG=C.UTF-8") && environ.contains("PATH="), "{environ}");
    assert!(!environ.contains("SECRET") && !environ.contains("TERM"), "{environ}");
    // Root that names nobody gets nobody, not root.
    let mut command = daemon.rocker_run();
    command.arg("--exec-dir").arg(daemon.exec_dir());
    let said = answer(command.arg(probe_package()).args(["--", "bin/probe", "ids"]));
    assert_eq!(said.one("getresuid"), "65534 65534 65534");
}

fn regression_the_requested_gid_is_kept_and_none_means_the_users_own() {
    let daemon = Daemon::start();
    let ids = |arguments: &[&str]| {
        let mut command = daemon.rocker_run();
        command.arg("--exec-dir").arg(daemon.exec_dir());
        answer(command.args(arguments).arg(probe_package()).args(["--", "bin/probe", "ids"]))
    };
    assert_eq!(ids(&["--uid", "54321", "--gid", "77"]).one("getresgid"), "77 77 77");
    // A number that no user has: its group is of the same number, or an error, and never 0.
    let said = ids(&["--uid", "54321"]);
    assert!(!said.one("getresgid").split(' ').any(|id| id == "0"), "{}", said.one("getresgid"));
    // A user that every host knows.
    if let Ok(Some(user)) = nix::unistd::User::from_name("nobody") {
        let said = ids(&["--uid", "nobody"]);
        assert_eq!(said.one("getresgid"), format!("{0} {0} {0}", user.gid));
    }
}

fn the_report_is_json_with_every_step() {
    let daemon = Daemon::start();
    let report = daemon.path("report.json");
    let mut command = as_nobody(&daemon, reporting(&daemon, &report));
    command.arg("--data-dir").arg(daemon.data_dir()).args(["--overlay", "/etc"]);
    command.arg(probe_package()).args(["--", "bin/probe", "exit 3"]);
    assert_eq!(command.status().unwrap().code(), Some(3));
    let report = json_of(&fs::read(&report).unwrap());
    assert_eq!(report["exit"], 3);
    assert_eq!(report["package"], probe_package().to_str().unwrap());
    assert!(report["guard_pid"].as_u64().unwrap() > 1 && report["app_pid"].as_u64().unwrap() > 1);
    assert_eq!(report["name"].as_str().unwrap().len(), 15);
    let steps = report["steps"].as_array().unwrap();
    let named: Vec<&str> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    for wanted in [
        "root.1",
        "root.2",
        "root.3",
        "root.5",
        "prepare.0",
        "prepare.1",
        "prepare.2",
        "prepare.3",
        "prepare.4",
        "prepare.5",
        "prepare.6",
        "prepare.7",
        "prepare.8",
        "prepare.9",
        "overlay.0",
        "overlay.1",
        "enter.1",
        "enter.2",
        "enter.3",
        "enter.4",
    ] {
        assert!(named.contains(&wanted), "{wanted} is not in {named:?}");
    }
    for step in steps {
        assert!(step["took_us"].is_number() && step["at_us"].is_number(), "{step}");
        assert!(step["errno"].is_null() && step["command"].is_string(), "{step}");
    }
    // A failure, too.
    let failed = daemon.path("failed.json");
    let mut command = reporting(&daemon, &failed);
    command.args(["--uid", "54321", "--exec-dir", "/nowhere", "--json"]);
    command.arg(probe_package()).args(["--", "x"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let line = json_of(&output.stderr);
    let report = json_of(&fs::read(&failed).unwrap());
    for value in [&line, &report] {
        assert_eq!(value["error"]["step"], "prepare.3");
        assert_eq!(value["error"]["errno"], "ENOENT");
    }
    assert!(report["steps"].as_array().unwrap().iter().any(|step| step["errno"] == "ENOENT"));
    replay(&daemon.path("report.json"));
    replay(&failed);
}

fn the_trace_is_one_line_a_step() {
    let daemon = Daemon::start();
    let mut command = run(&daemon);
    command.arg("--data-dir").arg(daemon.data_dir()).args(["--overlay", "/etc", "--trace"]);
    let output =
        command.arg(probe_package()).args(["--", "bin/probe", "say hello"]).output().unwrap();
    assert_eq!(output.stdout, b"say: hello\n");
    let trace = String::from_utf8(output.stderr).unwrap();
    for line in trace.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (step, number) = fields[0].split_once('.').expect("a step");
        assert!(["root", "prepare", "overlay", "enter"].contains(&step), "{line}");
        assert!(number.parse::<u8>().is_ok(), "{line}");
        assert!(
            ["client", "master", "guard", "helper", "app", "kernel"].contains(&fields[1]),
            "{line}"
        );
        assert!(fields[2].parse::<u64>().is_ok() && fields[3] == "us", "{line}");
    }
    assert!(trace.lines().count() >= 20, "{trace}");
    let package = probe_package();
    let place = trace.find("losetup --read-only").expect("prepare.2 as a shell command");
    assert!(trace[place..].lines().next().unwrap().contains(package.to_str().unwrap()));
}

fn a_report_that_cannot_be_written_starts_nothing() {
    let daemon = Daemon::start();
    let report = Path::new("/nowhere/report.json");
    let mut command = as_nobody(&daemon, reporting(&daemon, report));
    command.arg(probe_package());
    let output = command.args(["--", "bin/probe", "say it should not run"]).output().unwrap();
    assert_refused(&output, 125, &["/nowhere/report.json", "No such file or directory"]);
}

fn ps_has_the_oldest_first_and_kill_takes_several() {
    let daemon = Daemon::start();
    let command = |words: &[&str]| {
        let mut rocker = Command::new(bin("rocker"));
        rocker.args(words).arg("--socket").arg(daemon.socket()).output().unwrap()
    };
    let mut names = vec![];
    for app_id in ["3", "1", "2"] {
        let mut rocker = Command::new(bin("rocker"));
        rocker.args(["run", "--detach", "--app-id", app_id, "--uid", "1000", "--socket"]);
        rocker.arg(daemon.socket()).arg("--exec-dir").arg(daemon.exec_dir()).arg(probe_package());
        let started = rocker.args(["--", "bin/probe", "sleep 60000"]).output().unwrap();
        assert!(started.status.success(), "{started:?}");
        names.push(String::from_utf8(started.stdout).unwrap().trim_end().to_owned());
        // Ages are in milliseconds.
        std::thread::sleep(core::time::Duration::from_millis(2));
    }
    let listed = json_of(&command(&["ps", "--json"]).stdout);
    let ids: Vec<_> = listed.as_array().unwrap().iter().map(|one| &one["app_id"]).collect();
    assert_eq!(ids, [3, 1, 2], "{listed}");
    // Nobody lives on for a name that is none.
    let [one, two, three] = [0, 1, 2].map(|at| names[at].as_str());
    let unknown = &["\"nobody\": no living rocker has this name"];
    assert_refused(&command(&["kill", "nobody", one]), 125, unknown);
    assert_eq!(json_of(&command(&["ps", "--json"]).stdout).as_array().map(Vec::len), Some(2));
    let killed = command(&["kill", two, three]);
    assert!(killed.status.success(), "{killed:?}");
    assert_eq!(command(&["ps"]).stdout, b"no rockers\n");
}

fn ps_and_kill_work_by_name() {
    let daemon = Daemon::start();
    let rocker = |arguments: &[&str]| {
        Command::new(bin("rocker"))
            .args(arguments)
            .arg("--socket")
            .arg(daemon.socket())
            .output()
            .unwrap()
    };
    assert_eq!(rocker(&["ps"]).stdout, b"no rockers\n");
    let empty = json_of(&rocker(&["ps", "--json"]).stdout);
    assert_eq!(empty.as_array().map(Vec::len), Some(0));
    let mut command = run(&daemon);
    command.args(["--app-id", "4711"]).arg(probe_package()).args([
        "--",
        "bin/probe",
        "say here",
        "sleep 60000",
    ]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let listed = json_of(&rocker(&["ps", "--json"]).stdout);
    let one = &listed[0];
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!((one["app_id"].as_u64(), one["uid"].as_u64()), (Some(4711), Some(54_321)));
    assert_eq!(one["package"], probe_package().to_str().unwrap());
    assert!(one["age_ms"].as_u64().unwrap() < 60_000);
    let pid = |key: &str| u32::try_from(one[key].as_u64().unwrap()).unwrap();
    assert_eq!(process::inside(pid("guard_pid")), [pid("app_pid")]);
    let name = one["name"].as_str().unwrap();
    let table = String::from_utf8(rocker(&["ps"]).stdout).unwrap();
    assert!(table.starts_with("NAME") && table.contains(name) && table.contains("4711"), "{table}");
    // root.10: when it returns, all is gone.
    for wrong in ["", "zzz", "0123456789abcdef0"] {
        assert_refused(&rocker(&["kill", wrong]), 125, &["rocker"]);
    }
    let killed = rocker(&["kill", name]);
    assert!(killed.status.success(), "{killed:?}");
    assert_eq!(process::stat(pid("guard_pid")), None);
    assert!(!process::is_alive(pid("app_pid")));
    assert_eq!(child.wait().unwrap().code(), Some(137));
    assert_refused(&rocker(&["kill", name]), 125, &["no living rocker has this name"]);
    assert_eq!(rocker(&["ps"]).stdout, b"no rockers\n");
}

fn a_full_standard_output_is_said_in_one_line() {
    let (daemon, dir) = (Daemon::start(), scratch());
    let (source, package) = (dir.path().join("source"), dir.path().join("x.sqfs"));
    fs::create_dir(&source).unwrap();
    let rocker = |to: Stdio, arguments: &[&str]| {
        let mut command = Command::new(bin("rocker"));
        command.args(arguments).env("ROCKER_SOCKET", daemon.socket()).stdin(Stdio::null());
        command.stdout(to).output().unwrap()
    };
    let [source, package, probe] =
        [&source, &package, &probe_package()].map(|path| path.to_str().unwrap().to_owned());
    let commands: [&[&str]; 11] = [
        &["--help"],
        &["run", "--help"],
        &["--version"],
        &["ps"],
        &["ps", "--json"],
        &["stats"],
        &["stats", "--json"],
        &["doctor"],
        &["doctor", "--json"],
        &["pack", &source, &package],
        &["judge", "run", "--uid", "54321", "--gid", "54322", &probe, "--", "true"],
    ];
    for arguments in commands {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = rocker(full.into(), arguments);
        assert_refused(&output, 125, &["write to standard output: No space left on device"]);
        // Who reads a pipe no further has read enough.
        let (_, gone) = std::io::pipe().unwrap();
        let output = rocker(gone.into(), arguments);
        assert!(output.stderr.is_empty(), "{output:?}");
        assert_eq!(output.status.code(), Some(128 + 13), "as of whom SIGPIPE ends: {output:?}");
    }
}

fn doctor_says_what_is_there() {
    let daemon = Daemon::start();
    let doctor = |arguments: &[&str]| {
        Command::new(bin("rocker"))
            .arg("doctor")
            .args(arguments)
            .arg("--socket")
            .arg(daemon.socket())
            .output()
            .unwrap()
    };
    let json = json_of(&doctor(&["--json"]).stdout);
    assert!(json.as_array().is_some_and(|findings| findings.len() > 5), "{json}");
    let text = doctor(&[]);
    assert!(text.status.success(), "all tests run on this host, so it must do: {text:?}");
    assert!(String::from_utf8_lossy(&text.stdout).lines().count() > 5);
    assert!(text.stderr.is_empty());
    // Where a master is named, no launch starts one.
    let nobody = Command::new(bin("rocker"))
        .arg("doctor")
        .env("ROCKER_SOCKET", "/nowhere/master.sock")
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
    let text = String::from_utf8_lossy(&nobody.stdout);
    assert!(text.contains("ROCKER cannot run here: master"), "{text}");
    let mut stranger = Command::new(bin("rocker"));
    let stranger = stranger.arg("doctor").arg("--socket").arg(daemon.socket()).uid(54_321);
    let text = String::from_utf8(stranger.output().unwrap().stdout).unwrap();
    assert!(text.contains("is not for this user") && text.contains("[[allow]]"), "{text}");
}

fn pack_makes_the_same_bytes_of_the_same_input() {
    let dir = scratch();
    let content = |name: &str, reversed: bool| {
        let top = dir.path().join(name);
        fs::create_dir(&top).unwrap();
        let mut files: Vec<u32> = (0..40).collect();
        if reversed {
            files.reverse();
        }
        for number in files {
            let sub = top.join(format!("dir{}", number % 5));
            fs::create_dir_all(&sub).unwrap();
            fs::write(sub.join(format!("file{number}")), "x".repeat(number as usize * 1000))
                .unwrap();
        }
        symlink("dir0", top.join("link")).unwrap();
        let script = top.join("run");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        top
    };
    let pack = |from: &Path, name: &str| {
        let package = dir.path().join(name);
        let output =
            Command::new(bin("rocker")).arg("pack").arg(from).arg(&package).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        fs::read(package).unwrap()
    };
    let one = content("one", false);
    let first = pack(&one, "one.sqfs");
    std::thread::sleep(Duration::from_millis(1100));
    let two = content("two", true);
    assert!(pack(&two, "two.sqfs") == first, "order and times do not matter");
    assert!(pack(&one, "three.sqfs") == first);
    assert_eq!(first.len() % 512, 0);
    fs::write(two.join("dir0/file0"), "other").unwrap();
    assert!(pack(&two, "four.sqfs") != first, "content does");
}

fn pack_refuses_what_a_package_cannot_hold() {
    let dir = scratch();
    let pack = |from: &Path, to: &Path| {
        Command::new(bin("rocker")).arg("pack").arg(from).arg(to).output().unwrap()
    };
    let (top, package) = (dir.path().join("top"), dir.path().join("x.sqfs"));
    assert_refused(&pack(&top, &package), 125, &["top", "No such file or directory"]);
    fs::write(&top, "a file").unwrap();
    assert_refused(&pack(&top, &package), 125, &["top"]);
    fs::remove_file(&top).unwrap();
    fs::create_dir(&top).unwrap();
    assert_refused(&pack(&top, &dir.path().join("no/such/dir.sqfs")), 125, &["no/such"]);
    let fifo = top.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o644.into(), 0)
        .unwrap();
    assert_refused(&pack(&top, &package), 125, &["fifo"]);
    assert!(!package.exists(), "half a package is none");
}

fn a_command_line_nobody_understands_is_one_line_and_125() {
    let rocker = |arguments: &[&str]| Command::new(bin("rocker")).args(arguments).output().unwrap();
    for arguments in [
        vec![],
        vec!["fly"],
        vec!["run"],
        vec!["run", "--no-such-option", "x"],
        vec!["run", "x", "y"],
        vec!["pack", "x"],
        vec!["pack", "x", "y", "--compression", "zip"],
        vec!["pack", "x", "y", "--block-size", "2M"],
        vec!["pack", "x", "y", "--jobs", "0"],
        vec!["kill"],
        vec!["ps", "x"],
    ] {
        assert_refused(&rocker(&arguments), 125, &["rocker"]);
    }
    // Each has a help of its own.
    for (arguments, verb) in [
        (&["fly"][..], "rocker"),
        (&["run", "--no-such-option"], "rocker run"),
        (&["ps", "x"], "rocker ps"),
        (&["judge", "--no-such-option"], "rocker judge"),
        (&["judge", "run", "--no-such-option"], "rocker judge run"),
    ] {
        assert_refused(&rocker(arguments), 125, &[&format!("; see {verb} --help\n")]);
    }
    for (arguments, meant) in [
        (&["kil"][..], "'kil': a similar subcommand exists: 'kill'; see rocker --help"),
        (&["run", "--ovrlay"], ": a similar argument exists: '--overlay'; see rocker run --help"),
        (&["kill", "-x", "y"], "'-x' found; see rocker kill --help"),
    ] {
        assert_refused(&rocker(arguments), 125, &[meant]);
    }
    for verb in ["run", "exec"] {
        assert_refused(
            &rocker(&[verb, "x", "y"]),
            125,
            &["unexpected \"y\": put -- before the program", &format!("see rocker {verb} --help")],
        );
        let unknown = rocker(&[verb, "--no-such-option", "x"]);
        assert!(!String::from_utf8_lossy(&unknown.stderr).contains("put --"), "{unknown:?}");
    }
}

fn help_and_version_are_there() {
    for arguments in
        [vec!["--help"], vec!["run", "--help"], vec!["--version"], vec!["help", "pack"]]
    {
        let output = Command::new(bin("rocker")).args(&arguments).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        assert!(!output.stdout.is_empty());
    }
    for program in ["rocker-master", "rocker-guard"] {
        let output = Command::new(bin(program)).arg("--version").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.starts_with(&format!("{program} {}", env!("CARGO_PKG_VERSION"))), "{said}");
    }
}

fn each_compression_runs() {
    let daemon = Daemon::start();
    let top = scratch();
    Package::with_probe().file("share/hello", 0o644, "hello").lay_out(top.path());
    for kind in ["zstd", "xz", "gzip", "lz4"] {
        let package = daemon.path(&format!("{kind}.sqfs"));
        let packed = Command::new(bin("rocker"))
            .arg("pack")
            .args(["--compression", kind, "--block-size", "4K", "--jobs", "3"])
            .arg(top.path())
            .arg(&package)
            .output();
        assert!(packed.unwrap().status.success());
        let output = run(&daemon)
            .arg(&package)
            .args(["--", "bin/probe", "read share/hello"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // A kernel need not have each of them; then it says so.
        let ran = output.stdout == b"read share/hello: hello\n";
        assert!(ran || said.contains("(prepare.3)"), "{kind}: {said}");
        assert!(ran || kind != "zstd", "the default must run: {said}");
    }
}

fn a_host_without_loop_devices_is_told_so() {
    without_daemon();
    mount(Some("/dev/null"), "/dev/loop-control", None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .unwrap();
    let daemon = Daemon::start();
    let output = probed(&daemon, &["say it should not run"]).output().unwrap();
    assert_refused(&output, 125, &["prepare.1", "losetup --find"]);
    nix::mount::umount("/dev/loop-control").unwrap();
    assert_eq!(answer(&mut probed(&daemon, &["say hello"])).one("say"), "hello");
}

fn too_many_rockers_are_refused() {
    let daemon = Daemon::with_config("max_rockers = 1\n");
    let (mut child, _output) = started(&daemon, &["say here", "sleep 60000"]);
    let output = probed(&daemon, &["say it should not run"]).output().unwrap();
    assert_refused(&output, 125, &["too many rockers", "max_rockers"]);
    interrupt(&child);
    child.wait().unwrap();
    assert!(within(SOON, || daemon.records().is_empty()));
    assert_eq!(answer(&mut probed(&daemon, &["say hello"])).one("say"), "hello");
}

fn a_caller_without_permission_is_refused() {
    let dir = scratch();
    let program = command_in(dir.path());
    let another = "[[allow]]\nuid = 4711\npackages = [\"/apps\"]\nexec_dirs = [\"/apps\"]\n";
    for (config, words) in [("", "may not reach"), (another, "has no [[allow]] for this caller")] {
        let daemon = Daemon::with_config(config);
        let mut command = Command::new(&program);
        command.uid(APP_UID).gid(54_322).arg("run").arg("--socket").arg(daemon.socket());
        command.arg("--exec-dir").arg(daemon.exec_dir()).arg(probe_package());
        assert_refused(&command.args(["--", "bin/probe"]).output().unwrap(), 125, &[words]);
    }
}

/// An App can make whoever has launched it the parent or the tracer of others: then that is who
/// has to wait for them, and no guard is gone before.
fn whoever_the_app_makes_its_launchers_delays_nobody() {
    without_daemon();
    let daemon = Daemon::start();
    let reports = Reports::new(daemon.path("reports"));
    for (command, seccomp, stays) in [
        ("bear-sibling 0", "unconfined", false),
        ("bear-sibling 300", "log", false),
        ("bear-sibling 60000", "log", true),
        ("traced-thread", "default", false),
        ("traced-child", "default", true),
        // It ends, but its tracer would have to hear of that first.
        ("traced-by-child", "default", true),
        ("thread-traced-by-child", "default", true),
    ] {
        for is_embedded in [true, false] {
            let mut rocker = match is_embedded {
                true => embedded(&reports),
                false => run(&daemon),
            };
            if seccomp != "default" {
                rocker.args(["--seccomp", seccomp]);
            }
            rocker.arg(probe_package()).args(["--", "bin/probe", command, "sleep 100", "exit 5"]);
            let mut child = rocker.stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, format!("{command}: ok\n"));
            if stays {
                // The App exits meanwhile, and what it has left does not.
                std::thread::sleep(Duration::from_millis(400));
                assert!(child.try_wait().unwrap().is_none(), "{command}: somebody lives in there");
                interrupt(&child);
            }
            let is_over = within(SOON, || child.try_wait().unwrap().is_some());
            if !is_over {
                child.kill().unwrap();
            }
            let status = child.wait().unwrap();
            assert_eq!((is_over, status.code()), (true, Some(5)), "{command}, {is_embedded}");
        }
    }
}

/// Children for whoever has launched the App, faster than it can wait for them, and for ever.
fn an_app_without_end_to_its_children_can_be_ended() {
    let (place, unified) = needs("cpu");
    let daemon = Daemon::start();
    let mut rocker = run(&daemon);
    rocker.args(["--seccomp", "unconfined"]).arg(probe_package());
    rocker.args(["--", "bin/probe", "bear-siblings 6", "sleep 60000"]);
    let mut child = rocker.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "bear-siblings 6: ok\n");
    // A hundredth of a processor: there is always one more.
    let group = place.join(format!("rocker-test-slow-{}", std::process::id()));
    fs::create_dir(&group).unwrap();
    let (quota, limit) = match unified {
        true => ("cpu.max", "1000 100000"),
        false => ("cpu.cfs_quota_us", "1000"),
    };
    if unified {
        fs::write(place.join("cgroup.subtree_control"), "+cpu").unwrap();
    }
    fs::write(group.join(quota), limit).unwrap();
    fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    // The first one is for the App, and those after it are for the others.
    let is_over = within(2 * SOON, || {
        let is_over = child.try_wait().unwrap().is_some();
        if !is_over {
            interrupt(&child);
            std::thread::sleep(Duration::from_millis(50));
        }
        is_over
    });
    if !is_over {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    assert!(within(SOON, || fs::remove_dir(&group).is_ok()));
    assert_eq!((is_over, status.code()), (true, Some(128 + 2)));
}

fn limits_are_kept_and_the_verdict_is_told() {
    let daemon = Daemon::start();
    let limited = |limit: [&str; 2], script: &str| {
        let mut command = run(&daemon);
        command.args(limit).arg("--json").arg(probe_package());
        let output = command.args(["--", "/bin/sh", "-c", script]).output().unwrap();
        let said = json_of(&output.stderr);
        (output.status.code().unwrap(), said["verdict"].as_str().unwrap().to_owned())
    };
    let late = (128 + 9, "time limit exceeded".to_owned());
    assert_eq!(limited(["--wall", "0.1"], "sleep 50"), late);
    assert_eq!(limited(["--wall", "50"], "exit 3"), (3, "nonzero exit status".to_owned()));
    let busy = (128 + 24, "time limit exceeded".to_owned());
    assert_eq!(limited(["--time", "1"], "while :; do :; done"), busy);
    let file = daemon.path("flood");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let flood = format!("exec head -c 100000 /dev/zero > {}", file.display());
    let much = (128 + 25, "output limit exceeded".to_owned());
    assert_eq!(limited(["--output", "4K"], &flood), much);
    let mut told = run(&daemon);
    told.args(["--output", "4K"]).arg(probe_package()).args(["--", "sh", "-c", &flood]);
    assert_refused(&told.output().unwrap(), 128 + 25, &["output limit exceeded"]);
    assert_eq!(fs::metadata(&file).unwrap().len(), 4096);
    // What it leaves running ends with it.
    let began = Instant::now();
    assert_eq!(limited(["--wall", "50"], "sleep 50 & exit 0"), (0, "normal".to_owned()));
    assert!(began.elapsed() < SOON);
}

/// As container engines have them: of `umask`, of which the kernel takes one argument, the others
/// are compared in every way there is.
const PROFILE: &str = r#"{
    "defaultAction": "SCMP_ACT_ALLOW",
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
    "syscalls": [
        {"names": ["umask"], "action": "SCMP_ACT_ERRNO", "errnoRet": 2, "args": [
            {"index": 1, "value": 4294967301, "op": "SCMP_CMP_EQ"}]},
        {"names": ["umask"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7, "args": [
            {"index": 1, "value": 8589934592, "op": "SCMP_CMP_GT"}]},
        {"names": ["umask"], "action": "SCMP_ACT_ERRNO", "errnoRet": 17, "args": [
            {"index": 2, "value": 9, "op": "SCMP_CMP_GE"},
            {"index": 2, "value": 8589934592, "op": "SCMP_CMP_LT"},
            {"index": 3, "value": 0, "op": "SCMP_CMP_NE"}]},
        {"names": ["umask"], "action": "SCMP_ACT_ERRNO", "errnoRet": 21, "args": [
            {"index": 4, "value": 65280, "valueTwo": 4608, "op": "SCMP_CMP_MASKED_EQ"},
            {"index": 5, "value": 4294967295, "op": "SCMP_CMP_LE"}]},
        {"names": ["sync", "socketcall"], "action": "SCMP_ACT_ERRNO", "comment": "no args"},
        {"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYSLOG"]}},
        {"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "includes": {"arches": ["s390x"]}},
        {"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "99.0"}},
        {"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 11,
            "includes": {"minKernel": "4.8"}, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["acct"], "action": "SCMP_ACT_KILL_PROCESS"}
    ]
}"#;

fn a_profile_says_which_system_calls_there_are() {
    let daemon = Daemon::start();
    let file = daemon.path("profile.json");
    fs::write(&file, PROFILE).unwrap();
    let filtered = |commands: &[&str]| {
        let mut command = run(&daemon);
        command.arg("--seccomp").arg(&file).arg(probe_package());
        command.args(["--", "bin/probe"]).args(commands).output().unwrap()
    };
    let umask = |arguments: &str| format!("call {} 18 {arguments}", libc::SYS_umask);
    let answers = [
        (umask("0x100000005"), "ENOENT"),
        (umask("5"), "ok"),
        (umask("0x200000005"), "E2BIG"),
        (umask("0x200000000"), "ok"),
        (umask("0x1ffffffff"), "ok"),
        (umask("0 9 1"), "EEXIST"),
        (umask("0 8 1"), "ok"),
        (umask("0 0x1ffffffff 0x100000000"), "EEXIST"),
        (umask("0 0x200000000 1"), "ok"),
        (umask("0 9 0"), "ok"),
        (umask("0 0 0 0xab12cd 0"), "EISDIR"),
        (umask("0 0 0 0xff0000ab12cd 0xffffffff"), "EISDIR"),
        (umask("0 0 0 0xff0000ab12 0xffffffff"), "ok"),
        (umask("0 0 0 0xff000012ab 0xffffffff"), "EISDIR"),
        (umask("0 0 0 0xff000012ab 0x100000000"), "ok"),
        (format!("call {}", libc::SYS_sync), "EPERM"),
        (format!("call {}", libc::SYS_getppid), "EAGAIN"),
    ];
    let commands: Vec<&str> = answers.iter().map(|(command, _)| command.as_str()).collect();
    let output = filtered(&commands);
    let told = Answer::new(output.status, &String::from_utf8_lossy(&output.stdout));
    for (command, wanted) in &answers {
        assert_eq!(told.one(command), *wanted, "{command}");
    }
    // The guard names it.
    for (json, wanted) in [(false, "rocker: disallowed system call: acct\n"), (true, "\"acct\"")] {
        let mut command = run(&daemon);
        command.arg("--seccomp").arg(&file).args(["--wall", "9"]).args(json.then_some("--json"));
        let call = format!("call {}", libc::SYS_acct);
        let ended = command.arg(probe_package()).args(["--", "bin/probe", &call]).output().unwrap();
        assert_eq!(ended.status.code(), Some(128 + libc::SIGKILL));
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(said.contains(wanted), "{said}");
    }
    let ended = filtered(&["say before", &format!("call {}", libc::SYS_acct), "say after"]);
    assert_eq!(ended.status.code(), Some(128 + libc::SIGSYS));
    assert_eq!(ended.stdout, b"say: before\n");
    for (said, seccomp) in [("unconfined", "0"), ("log", "2")] {
        let mut command = run(&daemon);
        command.args(["--seccomp", said, "--userns"]).arg(probe_package());
        let said = answer(command.args(["--", "bin/probe", "status Seccomp", "unshare user"]));
        assert_eq!((said.one("Seccomp"), said.one("unshare user")), (seccomp, "ok"));
    }
}

fn a_profile_that_says_nothing_is_refused_in_one_line() {
    let daemon = Daemon::start();
    let file = daemon.path("profile.json");
    for (text, words) in [
        ("", ["profile.json", "line 1: it is not JSON: it ends within a value"]),
        ("{\"defaultAction\": \"SCMP_ACT_DENY\"}", ["profile.json", "SCMP_ACT_DENY is no action"]),
        (
            "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\":\n[{\"names\": [\"opne\"], \
             \"action\": \"SCMP_ACT_ERRNO\"}]}",
            ["profile.json", "there is no system call opne"],
        ),
    ] {
        fs::write(&file, text).unwrap();
        let mut command = run(&daemon);
        command.arg("--seccomp").arg(&file).arg(probe_package());
        assert_refused(&command.args(["--", "bin/probe"]).output().unwrap(), 125, &words);
    }
    let mut command = run(&daemon);
    command.args(["--seccomp", "/nowhere.json"]).arg(probe_package());
    let output = command.args(["--", "bin/probe"]).output().unwrap();
    assert_refused(&output, 125, &["/nowhere.json", "No such file or directory"]);
}

fn a_user_whom_the_policy_lets_runs_an_app() {
    let (daemon, package) = Daemon::for_users(&[APP_UID]);
    let (rocker, exec_dir) = (command_in(daemon.dir()), daemon.exec_dir());
    let mut command = Command::new(&rocker);
    command.uid(APP_UID).gid(APP_UID).arg("run").arg("--socket").arg(daemon.socket());
    command.arg("--exec-dir").arg(&exec_dir).arg(&package).stdin(Stdio::null());
    let said = answer(command.args(["--", "bin/probe", "ids", "say hello"]));
    assert_eq!(said.one("getresuid"), format!("{APP_UID} {APP_UID} {APP_UID}"));
    assert_eq!(said.one("say"), "hello");
    // A place for layers is root's to make, and that is said.
    let mut command = Command::new(&rocker);
    command.uid(APP_UID).gid(APP_UID).arg("run").arg("--socket").arg(daemon.socket());
    command.arg("--overlay").arg("/etc").arg(&package).args(["--", "true"]);
    let remedy = format!("install -d -o {APP_UID} -g {APP_UID} /var/lib/rocker/app");
    assert_refused(&command.output().unwrap(), 125, &["Permission denied", &remedy]);
}

fn a_master_with_a_bad_configuration_or_guard_does_not_start() {
    let dir = scratch();
    let config = dir.path().join("master.toml");
    fs::write(dir.path().join("guard"), "#!/bin/sh\necho rocker-guard 99.0.0 wire 200\n").unwrap();
    fs::set_permissions(dir.path().join("guard"), fs::Permissions::from_mode(0o755)).unwrap();
    let stranger = format!("guard = \"{}/guard\"\n", dir.path().display());
    for (text, word) in [
        ("max_rocker = 3\n", "max_rocker"),
        ("max_rockers = \"many\"\n", "max_rockers"),
        ("[[allow]]\nuid = 5\n", "packages"),
        ("[[allow]]\nuid = 5\npackages = [\"relative\"]\nexec_dirs = []\n", "relative"),
        ("guard = \"/nowhere/rocker-guard\"\n", "/nowhere/rocker-guard"),
        ("guard = \"/bin/true\"\n", "/bin/true"),
        ("guard = \"/etc\"\n", "/etc"),
        (stranger.as_str(), "guard"),
    ] {
        fs::write(&config, text).unwrap();
        let socket = dir.path().join("run/master.sock");
        // So that one which does start is an error, not a test that takes for ever.
        let mut command = Command::new("timeout");
        command.arg("5").arg(bin("rocker-master")).arg("--config").arg(&config);
        let output = command.arg("--socket").arg(&socket).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(![Some(0), Some(124)].contains(&output.status.code()), "{text}: {said}");
        assert!(said.starts_with("rocker-master: ") && said.contains(word), "{text}: {said}");
        assert!(!socket.exists());
    }
}

fn only_one_master_serves_a_socket() {
    let daemon = Daemon::start();
    let output =
        Command::new(bin("rocker-master")).arg("--socket").arg(daemon.socket()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("another rocker-master serves it"), "{said}");
    assert!(daemon.is_well());
}
