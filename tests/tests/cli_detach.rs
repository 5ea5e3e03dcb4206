//! `rocker run --detach`: a rocker that stays when its launcher has ended.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, ExitCode, Output, Stdio};

use rocker_client::protocol::{Errno, Exit};
use rocker_client::{Limits, OpenRocker, Program, Run, kill_by_name, list};
use serde_json::json;
use tests::output::{assert_refused, json_of};
use tests::{Daemon, SOON, bin, probe_package, process, replayed, runner, scratch, within};

const BUSY: Errno = Errno(16);

fn main() -> ExitCode {
    runner::main(tests::root![
        a_detached_app_lives_on_and_is_worked_with_by_name,
        its_rocker_ends_with_the_last_of_its_processes,
        its_outputs_are_files,
        what_cannot_begin_leaves_nothing,
        a_name_that_nobody_gets_leaves_nothing,
        without_a_daemon_there_is_nobody_to_detach_from,
        detach_is_for_a_rocker_that_stays,
        wait_ends_as_the_app_does,
        an_app_is_waited_for_by_one_and_outlives_him,
        a_signal_is_for_all_in_a_rocker,
        what_cannot_be_waited_for_is_said,
        what_is_left_is_taken_over_in_order,
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

fn is_there(daemon: &Daemon, name: &str) -> bool {
    list(daemon.socket(), SOON).unwrap().iter().any(|rocker| rocker.name.as_str() == name)
}

/// Those in the only rocker, by the pids they have here.
fn shells(daemon: &Daemon) -> Vec<u32> {
    let guard = list(daemon.socket(), SOON).unwrap()[0].guard_pid;
    let is_shell = |pid: &u32| process::stat(*pid).is_some_and(|stat| stat.comm == "sh");
    process::inside(guard).into_iter().filter(is_shell).collect()
}

/// Whether it lives, and its guard knows that its launcher has gone: others can take over then.
fn is_left(daemon: &Daemon, name: &str) -> bool {
    let mut heir = OpenRocker::attach(daemon.socket(), name, SOON).unwrap();
    within(SOON, || heir.adopt().is_ok()) && is_there(daemon, name)
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
    assert!(is_left(&daemon, &name), "it was to stay");
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
    // The App has been reaped, and its guard has looked who is left.
    assert!(within(SOON, || shells(&daemon).len() == 1));
    let executed = by_name(&daemon, &["exec", &name, "--", "true"]);
    assert!(executed.status.success(), "something runs in it: {executed:?}");
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
        assert_refused(&run(&daemon, &[option, path], &["true"]).output().unwrap(), 125, &[words]);
    };
    refused("--stdout", "/dev/zero", "it is no regular file");
    refused("--stdin", &at(""), "it is no regular file");
    // Whoever owns the directory can have laid it.
    symlink(at("log"), at("link")).unwrap();
    for option in ["--stdin", "--stdout", "--stderr"] {
        refused(option, &at("link"), "it is a link: name what it leads to");
    }
    refused("--stdin", &at("nowhere"), "No such file or directory");
    refused("--stderr", "/nowhere/log", "No such file or directory");
    let mut attached = Command::new(bin("rocker"));
    let attached = attached.args(["run", "--stdout", &at("log"), "x.sqfs"]).output().unwrap();
    assert_refused(&attached, 125, &["--detach"]);
    assert!(list(daemon.socket(), SOON).unwrap().is_empty());
}

fn what_cannot_begin_leaves_nothing() {
    let daemon = Daemon::start();
    let missing = run(&daemon, &[], &["no-such-program"]).output().unwrap();
    assert_refused(&missing, 127, &["no-such-program"]);
    let useless = run(&daemon, &[], &["/etc/passwd"]).output().unwrap();
    assert_refused(&useless, 126, &["Permission denied"]);
    assert_refused(&run(&daemon, &["--json"], &["true"]).output().unwrap(), 125, &["--json"]);
    assert!(list(daemon.socket(), SOON).unwrap().is_empty());
}

fn a_name_that_nobody_gets_leaves_nothing() {
    let daemon = Daemon::start();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (_, gone) = std::io::pipe().unwrap();
    for (to, status, words) in [
        (full.into(), 125, "cannot tell the rocker's name: No space left"),
        // As a shell has it of whom SIGPIPE ends.
        (Stdio::from(gone), 141, "nobody reads standard output"),
    ] {
        let output = run(&daemon, &[], &["sleep", "1000"]).stdout(to).output().unwrap();
        assert_refused(&output, status, &[words]);
        assert!(list(daemon.socket(), SOON).unwrap().is_empty());
    }
}

fn without_a_daemon_there_is_nobody_to_detach_from() {
    let mut command = Command::new(bin("rocker"));
    command.args(["run", "--detach"]).arg(probe_package()).args(["--", "true"]);
    // A socket that is named is one where a master was to listen.
    command.env("ROCKER_SOCKET", "/nowhere/master.sock");
    assert_refused(&command.output().unwrap(), 125, &["connect /nowhere/master.sock"]);
    if list(rocker_client::SOCKET, SOON).is_ok() {
        runner::skip("this host has a rocker-master");
    }
    let output = command.env_remove("ROCKER_SOCKET").output().unwrap();
    assert_refused(&output, 125, &["start rocker-master"]);
}

/// `rocker wait`, once it has the guard's pidfd and the App's.
fn waiting(daemon: &Daemon, name: &str, options: &[&str]) -> Child {
    let mut command = Command::new(bin("rocker"));
    command.arg("wait").arg("--socket").arg(daemon.socket()).args(options).arg(name);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let waiting = command.spawn().unwrap();
    let pidfds = || {
        let links = process::fd_links(waiting.id());
        links.values().filter(|link| link.contains("pidfd")).count()
    };
    assert!(within(SOON, || pidfds() == 2), "{:?}", waiting.wait_with_output());
    waiting
}

fn wait_ends_as_the_app_does() {
    let (daemon, dir) = (Daemon::start(), scratch());
    let go = dir.path().join("go");
    let ended = |script: &str, options: &[&str], wait: &[&str]| {
        let script = format!("until test -e {}; do sleep 0.02; done; {script}", go.display());
        let name = detached(&daemon, options, &script);
        let waiting = waiting(&daemon, &name, wait);
        fs::write(&go, "").unwrap();
        let output = waiting.wait_with_output().unwrap();
        fs::remove_file(&go).unwrap();
        assert!(within(SOON, || !is_there(&daemon, &name)));
        output
    };
    let said = |output: &Output| String::from_utf8(output.stderr.clone()).unwrap();
    for (script, status) in [("true", 0), ("exit 7", 7), ("kill -TERM $$", 143)] {
        let output = ended(script, &[], &[]);
        assert_eq!((output.status.code(), said(&output)), (Some(status), String::new()));
        assert!(output.stdout.is_empty(), "{output:?}");
    }
    let late = ended("exec sleep 1000", &["--wall", "1s"], &[]);
    assert_eq!(late.status.code(), Some(137));
    assert_eq!(said(&late), "rocker: time limit exceeded\n");
    let output = ended("exit 3", &[], &["--json"]);
    assert_eq!((output.status.code(), said(&output)), (Some(3), String::new()));
    let told = json_of(&output.stdout);
    assert_eq!((&told["exit"], &told["verdict"]), (&json!(3), &json!("nonzero exit status")));
    assert!(told["wall_us"].as_u64() > Some(0) && told["app_pid"].as_u64() > Some(1), "{told}");
}

fn an_app_is_waited_for_by_one_and_outlives_him() {
    let daemon = Daemon::start();
    let name = detached(&daemon, &[], "trap 'exit 9' TERM; while :; do sleep 0.02; done");
    let mut first = waiting(&daemon, &name, &[]);
    assert_refused(
        &by_name(&daemon, &["wait", &name]),
        125,
        &["somebody waits for its App already"],
    );
    first.kill().unwrap();
    first.wait().unwrap();
    let second = waiting(&daemon, &name, &[]);
    let app = rustix::process::Pid::from_raw(shells(&daemon)[0].cast_signed()).unwrap();
    rustix::process::kill_process(app, rustix::process::Signal::TERM).unwrap();
    assert_eq!(second.wait_with_output().unwrap().status.code(), Some(9));
    assert!(within(SOON, || !is_there(&daemon, &name)));
}

fn a_signal_is_for_all_in_a_rocker() {
    let daemon = Daemon::start();
    let dir = scratch();
    std::os::unix::fs::chown(dir.path(), Some(54_321), None).unwrap();
    let at = dir.path().display().to_string();
    // One of another process group, too; each says that it listens.
    let child = format!("trap 'touch {at}/heard; exit' TERM; touch {at}/two; sleep 1000 & wait");
    let script =
        format!("setsid sh -c \"{child}\" & trap 'wait; exit 7' TERM; touch {at}/one; wait");
    let name = detached(&daemon, &[], &script);
    let said = |file: &str| dir.path().join(file).exists();
    assert!(within(SOON, || said("one") && said("two")));
    let wait = waiting(&daemon, &name, &[]);
    assert_refused(&by_name(&daemon, &["kill", "-s", "TRM", &name]), 125, &["like TERM or 15"]);
    let told = by_name(&daemon, &["kill", "-s", "TERM", &name]);
    assert!(told.status.success(), "{told:?}");
    assert!(within(SOON, || !is_there(&daemon, &name)));
    assert_eq!(wait.wait_with_output().unwrap().status.code(), Some(7));
    assert!(said("heard"));
}

fn what_cannot_be_waited_for_is_said() {
    let daemon = Daemon::start();
    assert_refused(&by_name(&daemon, &["wait", "abc"]), 125, &["no living rocker has this name"]);
    // Its launcher waits itself; and an App that was entered is its launcher's child.
    let rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
    let wait = by_name(&daemon, &["wait", rocker.guard_name().as_str()]);
    assert_refused(&wait, 125, &["it has no App to wait for"]);
    assert!(rocker.kill(SOON).unwrap());
    let name = detached(&daemon, &[], "exec sleep 1000");
    let wait = waiting(&daemon, &name, &[]);
    assert!(by_name(&daemon, &["kill", &name]).status.success());
    let output = wait.wait_with_output().unwrap();
    assert_refused(&output, 125, &[&format!("rocker {name}: it was killed, and its App with it")]);
}

fn what_is_left_is_taken_over_in_order() {
    let daemon = Daemon::start();
    let mut rocker = replayed(daemon.launch(probe_package()).stays(true).open()).unwrap();
    let name = rocker.guard_name().to_string();
    let sleep =
        |seconds: &str| Program::new("sleep").arg(seconds).stdin(rocker_client::Stdio::Null);
    let first = rocker.spawn(&sleep("1001"), &Limits::new()).unwrap();
    let second = rocker.spawn(&sleep("1002"), &Limits::new()).unwrap();
    let wanted = [first.pid(), second.pid()];
    let mut heir = OpenRocker::attach(daemon.socket(), &name, SOON).unwrap();
    assert_eq!(heir.adopt().unwrap_err().errno(), Some(Errno::SRCH), "their launcher is there");
    rocker.detach().unwrap();
    // Its own program ends with it; what it has taken over does not.
    let own = heir.command("sleep").arg("1003").spawn().unwrap();
    let mut taken: Vec<Run> = vec![];
    assert!(within(SOON, || {
        taken.extend(heir.adopt());
        taken.len() == 2
    }));
    assert_eq!([taken[0].pid(), taken[1].pid()], wanted);
    assert_eq!(heir.adopt().unwrap_err().errno(), Some(BUSY));
    heir.signal(&taken[0], 15).unwrap();
    assert_eq!(heir.wait(&taken[0]).unwrap().exit, Exit::Signal(15));
    drop(heir);
    assert!(within(SOON, || own.run.pid().is_none_or(|pid| !process::is_alive(pid))));
    let mut heir = OpenRocker::attach(daemon.socket(), &name, SOON).unwrap();
    let run = heir.adopt().unwrap();
    assert_eq!(run.pid(), wanted[1]);
    assert!(heir.kill(SOON).unwrap());
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
    assert!(is_left(&daemon, &name), "it was to stay");
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
