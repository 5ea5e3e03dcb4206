//! `rocker run --tmpfs`, `--bind`, `--bind-ro`, `--hostname`: what an App sees.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use tests::output::{assert_refused, said};
use tests::{APP_UID, Daemon, SOON, bin, probe_package, runner, scratch};

fn main() -> ExitCode {
    runner::main(tests::root![
        an_app_sees_the_places_that_were_said,
        places_are_there_for_a_detached_app_too,
        a_bind_gives_no_more_than_the_apps_rights,
        an_ordinary_user_says_places,
        what_cannot_be_a_place_is_refused_in_one_line,
    ])
}

fn run(daemon: &Daemon, options: &[&str], script: &str) -> Command {
    let mut command = daemon.rocker_run();
    command.args(["--uid", "54321", "--gid", "54322", "--exec-dir"]).arg(daemon.exec_dir());
    command.args(options).arg(probe_package()).args(["--", "sh", "-ec", script]);
    command.stdin(Stdio::null());
    command
}

fn an_app_sees_the_places_that_were_said() {
    let (daemon, dir) = (Daemon::start(), scratch());
    let at = |name: &str| dir.path().join(name).display().to_string();
    for name in ["own", "others"] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(&format!("{name}/file")), name).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    // The order is that of the places, whatever was said first.
    let (own, others) = (format!("{}:/mnt/a/own", at("own")), format!("{}:/mnt/b", at("others")));
    let options = ["--bind", &own, "--bind-ro", &others, "--tmpfs", "/mnt:1M", "--hostname", "box"];
    let script = "hostname; cat /mnt/a/own/file /mnt/b/file; echo; df -k /mnt | tail -1; \
        echo new > /mnt/a/own/new; echo new > /mnt/new; echo new 2>/dev/null > /mnt/b/new || echo no";
    let said = said(&mut run(&daemon, &options, script));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines[0], lines[1], lines.last()), ("box", "ownothers", Some(&"no")), "{said}");
    assert!(lines[2].split_whitespace().any(|word| word == "1024"), "{said}");
    assert_eq!(fs::read(at("own/new")).unwrap(), b"new\n");
    assert!(!fs::exists("/mnt/new").unwrap() && !fs::exists("/mnt/a").unwrap());
    assert_ne!(fs::read("/proc/sys/kernel/hostname").unwrap(), b"box\n");
}

fn places_are_there_for_a_detached_app_too() {
    let daemon = Daemon::start();
    let mut command = Command::new(bin("rocker"));
    command.args(["run", "--detach", "--uid", "54321", "--gid", "54322", "--tmpfs", "/mnt"]);
    command.arg("--socket").arg(daemon.socket()).arg(probe_package());
    let name = said(command.args(["--", "sh", "-c", "echo here > /mnt/file; exec sleep 1000"]));
    let name = name.trim_end();
    let exec = |script: &str| {
        let mut command = Command::new(bin("rocker"));
        command.arg("exec").arg("--socket").arg(daemon.socket()).arg(name);
        said(command.args(["--", "sh", "-c", script]).stdin(Stdio::null()))
    };
    assert_eq!(exec("until test -s /mnt/file; do sleep 0.02; done; cat /mnt/file"), "here\n");
    rocker_client::kill_by_name(daemon.socket(), name, SOON).unwrap();
}

fn a_bind_gives_no_more_than_the_apps_rights() {
    let (daemon, dir) = (Daemon::start(), scratch());
    fs::create_dir(dir.path().join("secret")).unwrap();
    fs::set_permissions(dir.path().join("secret"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(dir.path().join("secret/file"), "secret").unwrap();
    let bind = format!("{}/secret:/mnt", dir.path().display());
    let script = "cat /mnt/file 2>/dev/null || ls /mnt 2>/dev/null || echo no";
    assert_eq!(said(&mut run(&daemon, &["--bind", &bind], script)), "no\n");
    let bind = format!("{}/secret/file:/mnt", dir.path().display());
    let output = run(&daemon, &["--bind", &bind], "true").output().unwrap();
    assert_refused(&output, 125, &["Permission denied"]);
}

fn an_ordinary_user_says_places() {
    let (daemon, package) = Daemon::for_users(&[APP_UID]);
    let mut command = Command::new(bin("rocker"));
    command
        .arg("run")
        .arg("--socket")
        .arg(daemon.socket())
        .arg("--exec-dir")
        .arg(daemon.exec_dir());
    command.args(["--tmpfs", "/mnt", "--bind-ro", "/etc/passwd:/mnt/users"]).arg(&package);
    command.args(["--", "cmp", "/etc/passwd", "/mnt/users"]).stdin(Stdio::null());
    assert_eq!(said(command.uid(APP_UID).gid(APP_UID)), "");
}

fn what_cannot_be_a_place_is_refused_in_one_line() {
    let daemon = Daemon::start();
    let refused = |options: &[&str], words: &str| {
        assert_refused(&run(&daemon, options, "true").output().unwrap(), 125, &[words]);
    };
    refused(&["--bind", "/nowhere:/mnt"], "/nowhere");
    let there = "there is no /nowhere: name a place that the host has, or one below a --tmpfs";
    refused(&["--bind", "/etc:/nowhere"], &format!("rocker: bind /etc:/nowhere: {there}"));
    refused(&["--bind", "/etc"], "it must read HOST:DIR");
    refused(&["--bind-ro", "/etc:mnt"], "the path must be absolute");
    refused(&["--tmpfs", "/mnt:much"], "DIR:SIZE");
    refused(&["--tmpfs", "/nowhere"], &format!("rocker: tmpfs /nowhere: {there}"));
    refused(&["--tmpfs", "/nowhere:1M"], &format!("rocker: tmpfs /nowhere:1M: {there}"));
    refused(&["--tmpfs", "/etc/passwd"], "cannot set up what the App sees (exec.1): ");
    refused(&["--hostname", &"n".repeat(65)], "longer than 64 bytes");
}
