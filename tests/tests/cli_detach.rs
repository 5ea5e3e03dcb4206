//! `rocker run --detach`: a rocker that stays when its launcher has ended.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::time::Duration;
use std::fs;
use std::process::{Command, ExitCode, Output, Stdio};

use rocker_client::protocol::Errno;
use rocker_client::{Limits, OpenRocker, Program, kill_by_name, list};
use tests::{Daemon, SOON, bin, probe_package, replayed, runner, scratch, within};

fn main() -> ExitCode {
    runner::main(tests::root![
        a_detached_app_lives_on_and_is_worked_with_by_name,
        its_rocker_ends_with_the_last_of_its_processes,
        its_outputs_are_files,
        what_cannot_begin_leaves_nothing,
        a_name_that_nobody_gets_leaves_nothing,
        without_a_daemon_there_is_nobody_to_detach_from,
        detach_is_for_a_rocker_that_stays,
    ])
}

fn run(daemon: &Daemon, options: &[&str], argv: &[&str]) -> Command {
    let mut command = Command::new(bin("rocker"));
    command.args(["run", "--detach", "--uid", "54321", "--gid", "54322", "--socket"]);
    command.arg(daemon.socket()).args(options).arg(probe_package());
    command.arg("--").args(argv).stdin(Stdio::null());
    command
}

/// The name that is printed, once the command has ended with all that it held.
#[track_caller]
fn detached(daemon: &Daemon, options: &[&str], script: &str) -> String {
    // It ends when nobody has the other end of its outputs any more.
    let output = run(daemon, options, &["sh", "-c", script]).output().unwrap();
    let name = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(name.len() == 16 && name.ends_with('\n'), "{name:?}");
    name.trim_end().to_owned()
}

#[track_caller]
fn assert_refused(output: &Output, status: i32, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(said.starts_with("rocker: ") && said.lines().count() == 1, "{said}");
    assert!(said.contains(words), "{said}");
}

fn is_there(daemon: &Daemon, name: &str) -> bool {
    list(daemon.socket(), SOON).unwrap().iter().any(|rocker| rocker.name.as_str() == name)
}

fn by_name(daemon: &Daemon, words: &[&str]) -> Output {
    let mut command = Command::new(bin("rocker"));
    command.arg(words[0]).arg("--socket").arg(daemon.socket()).args(&words[1..]);
    command.stdin(Stdio::null()).output().unwrap()
}

fn a_detached_app_lives_on_and_is_worked_with_by_name() {
    let daemon = Daemon::start();
    let overlay = daemon.data_dir().display().to_string();
    let name = detached(
        &daemon,
        &["--overlay", "/mnt", "--data-dir", &overlay],
        "test ! -t 0 && ! read line && exec sleep 1000",
    );
    std::thread::sleep(Duration::from_millis(200));
    assert!(is_there(&daemon, &name), "it was to stay");
    let executed = by_name(&daemon, &["exec", &name, "--", "sh", "-c", "cat /proc/[0-9]*/comm"]);
    let said = String::from_utf8_lossy(&executed.stdout);
    assert!(said.lines().any(|line| line == "sleep"), "{executed:?}");
    let stats = by_name(&daemon, &["stats", "--json", &name]);
    assert!(String::from_utf8_lossy(&stats.stdout).contains("\"pids\": 2"), "{stats:?}");
    let copied = by_name(&daemon, &["cp", &format!("{name}:/etc/passwd"), "-"]);
    assert_eq!(copied.stdout, fs::read("/etc/passwd").unwrap());
    let killed = by_name(&daemon, &["kill", &name]);
    assert!(killed.status.success() && !is_there(&daemon, &name), "{killed:?}");
}

fn its_rocker_ends_with_the_last_of_its_processes() {
    let daemon = Daemon::start();
    let dir = scratch();
    let at = dir.path().display().to_string();
    std::os::unix::fs::chown(dir.path(), Some(54_321), None).unwrap();
    let script = format!("(until test -e {at}/go; do sleep 0.02; done) & touch {at}/left; exit 3");
    let name = detached(&daemon, &[], &script);
    assert!(within(SOON, || dir.path().join("left").exists()));
    std::thread::sleep(Duration::from_millis(100));
    assert!(is_there(&daemon, &name), "something runs in it");
    fs::write(dir.path().join("go"), "").unwrap();
    assert!(within(SOON, || !is_there(&daemon, &name)));
    // Its limits are kept by its guard, whoever listens.
    let name = detached(&daemon, &["--wall", "0.3"], "exec sleep 1000");
    assert!(within(SOON, || !is_there(&daemon, &name)));
}

fn its_outputs_are_files() {
    let (daemon, dir) = (Daemon::start(), scratch());
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::write(at("in"), "given\n").unwrap();
    fs::write(at("log"), "before\n").unwrap();
    let options = ["--stdin", &at("in"), "--stdout", &at("log"), "--stderr", &at("log")];
    let name = detached(&daemon, &options, "cat; echo said >&2; echo more");
    assert!(within(SOON, || !is_there(&daemon, &name)));
    assert_eq!(fs::read_to_string(at("log")).unwrap(), "before\ngiven\nsaid\nmore\n");
    let refused = |option: &str, path: &str, words: &str| {
        assert_refused(&run(&daemon, &[option, path], &["true"]).output().unwrap(), 125, words);
    };
    refused("--stdout", "/dev/zero", "it is no regular file");
    refused("--stdin", &at(""), "it is no regular file");
    refused("--stdin", &at("nowhere"), "No such file or directory");
    refused("--stderr", "/nowhere/log", "No such file or directory");
    let mut attached = Command::new(bin("rocker"));
    let attached = attached.args(["run", "--stdout", &at("log"), "x.sqfs"]).output().unwrap();
    assert_refused(&attached, 125, "--detach");
    assert!(list(daemon.socket(), SOON).unwrap().is_empty());
}

fn what_cannot_begin_leaves_nothing() {
    let daemon = Daemon::start();
    let missing = run(&daemon, &[], &["no-such-program"]).output().unwrap();
    assert_refused(&missing, 127, "no-such-program");
    let useless = run(&daemon, &[], &["/etc/passwd"]).output().unwrap();
    assert_refused(&useless, 126, "Permission denied");
    assert_refused(&run(&daemon, &["--json"], &["true"]).output().unwrap(), 125, "--json");
    assert!(list(daemon.socket(), SOON).unwrap().is_empty());
}

fn a_name_that_nobody_gets_leaves_nothing() {
    let daemon = Daemon::start();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (_, gone) = std::io::pipe().unwrap();
    for (to, words) in [(full.into(), "No space left"), (Stdio::from(gone), "Broken pipe")] {
        let output = run(&daemon, &[], &["sleep", "1000"]).stdout(to).output().unwrap();
        assert_refused(&output, 125, &format!("cannot tell the rocker's name: {words}"));
        assert!(list(daemon.socket(), SOON).unwrap().is_empty());
    }
}

fn without_a_daemon_there_is_nobody_to_detach_from() {
    let mut command = Command::new(bin("rocker"));
    command.args(["run", "--detach"]).arg(probe_package()).args(["--", "true"]);
    // A socket that is named is one where a master was to listen.
    command.env("ROCKER_SOCKET", "/nowhere/master.sock");
    assert_refused(&command.output().unwrap(), 125, "connect /nowhere/master.sock");
    if list(rocker_client::SOCKET, SOON).is_ok() {
        runner::skip("this host has a rocker-master");
    }
    let output = command.env_remove("ROCKER_SOCKET").output().unwrap();
    assert_refused(&output, 125, "start rocker-master");
}

fn detach_is_for_a_rocker_that_stays() {
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package());
    let sleep = Program::new("sleep").arg("1000").stdin(rocker_client::Stdio::Null);
    let mut rocker = replayed(launch.clone().stays(true).open()).unwrap();
    let name = rocker.guard_name().to_string();
    // An order that nobody answers is carried out first.
    let waits = rocker.command("sleep").arg("1000").sync().spawn().unwrap();
    rocker.go(&waits.run).unwrap();
    rocker.detach().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(is_there(&daemon, &name), "it was to stay");
    // Who is attached has nothing to give up, and the rocker does not end with him.
    let mut rocker = OpenRocker::attach(daemon.socket(), &name, SOON).unwrap();
    rocker.spawn(&sleep, &Limits::new()).unwrap();
    assert_eq!(rocker.detach().unwrap_err().errno(), Some(Errno::PERM));
    assert!(is_there(&daemon, &name));
    kill_by_name(daemon.socket(), &name, SOON).unwrap();
    let mut rocker = replayed(launch.open()).unwrap();
    let name = rocker.guard_name().to_string();
    rocker.spawn(&sleep, &Limits::new()).unwrap();
    assert_eq!(rocker.detach().unwrap_err().errno(), Some(Errno::PERM));
    assert!(within(SOON, || !is_there(&daemon, &name)), "it has no owner");
}
