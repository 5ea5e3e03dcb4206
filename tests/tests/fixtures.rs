//! That the tests' own tools see what they are there to see: a leak that nobody notices would
//! make every other test worthless.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::process::{Command, ExitCode};

use nix::mount::{MsFlags, mount, umount};
use tests::app::App;
use tests::{Daemon, Leaks, SOON, bin, probe_package, process, runner, scratch, within};

fn main() -> ExitCode {
    if let Some(how) = std::env::var_os("ROCKER_TEST_BROKEN") {
        return broken(how.to_str().expect("a word"));
    }
    let mut all = tests::plain![
        a_failing_test_is_reported,
        files_and_descriptors_are_seen,
        processes_and_zombies_are_seen,
    ];
    all.extend(tests::root![a_living_rocker_is_seen, a_mount_is_seen, a_daemon_serves_and_ends]);
    runner::main(all)
}

/// Runs this program again, with one test that fails in this way, and returns what it said.
fn run_broken(how: &str) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .env("ROCKER_TEST_BROKEN", how)
        .env_remove("ROCKER_TEST_ONE")
        .env_remove("ROCKER_TEST_SCRATCH");
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn broken(how: &str) -> ExitCode {
    let test = match how {
        "panic" => runner::plain("panics", || panic!("as it must")),
        "signal" => runner::plain("dies", || process::kill(std::process::id())),
        "process" => runner::plain("leaves_a_process", || {
            Command::new("sleep").arg("60").spawn().map(core::mem::forget).unwrap();
        }),
        "file" => runner::plain("leaves_a_file", || core::mem::forget(scratch())),
        "skip" => runner::plain("skips", || runner::skip("something is missing")),
        _ => runner::plain("is_fine", || ()),
    };
    runner::main(vec![test])
}

fn a_failing_test_is_reported() {
    for (how, succeeds, words) in [
        ("none", true, "test result: ok. 1 passed"),
        ("panic", false, "as it must"),
        ("signal", false, "ended by signal 9"),
        ("process", false, "LEAK process"),
        ("file", false, "LEAK file"),
        ("skip", true, "SKIP skips: something is missing"),
    ] {
        let (success, said) = run_broken(how);
        assert_eq!(success, succeeds, "{how}: {said}");
        assert!(said.contains(words), "{how}: {said}");
    }
}

fn files_and_descriptors_are_seen() {
    let dir = scratch();
    let leaks = Leaks::snapshot().watch_dir(dir.path()).watch_pid(std::process::id());
    leaks.assert_none();
    fs::write(dir.path().join("left"), "").unwrap();
    let open = fs::File::open(dir.path().join("left")).unwrap();
    let namespace = fs::File::open("/proc/self/ns/mnt").unwrap();
    let found = leaks.now();
    assert!(
        found.iter().any(|leak| leak.starts_with("LEAK file") && leak.ends_with("/left")),
        "{found:?}"
    );
    assert!(found.iter().any(|leak| leak.starts_with("LEAK fd")), "{found:?}");
    drop((open, namespace));
    fs::remove_file(dir.path().join("left")).unwrap();
    leaks.assert_none();
}

fn processes_and_zombies_are_seen() {
    let leaks = Leaks::snapshot();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    assert!(leaks.now().iter().any(|leak| leak.starts_with("LEAK process")));
    child.kill().unwrap();
    assert!(within(SOON, || leaks.now().iter().any(|leak| leak.contains("ZOMBIE"))));
    child.wait().unwrap();
    leaks.assert_none();
}

fn a_living_rocker_is_seen() {
    let package = probe_package();
    let daemon = Daemon::start();
    let leaks = Leaks::snapshot();
    let mut app = App::start(&daemon.launch(package), &["say here", "wait"]).unwrap();
    assert_eq!(app.line(), "say: here");
    let found = leaks.now();
    for kind in ["loop", "process", "ns"] {
        assert!(
            found.iter().any(|leak| leak.starts_with(&format!("LEAK {kind} "))),
            "{kind}: {found:?}"
        );
    }
    app.finish();
    leaks.assert_none();
}

fn a_mount_is_seen() {
    let dir = scratch();
    let leaks = Leaks::snapshot();
    mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    assert!(leaks.now().iter().any(|leak| leak.starts_with("LEAK mount")));
    umount(dir.path()).unwrap();
    leaks.assert_none();
}

fn a_daemon_serves_and_ends() {
    let leaks = Leaks::snapshot();
    let mut daemon = Daemon::start();
    assert!(daemon.fds() > 3 && daemon.rss_kib() > 100 && daemon.is_well());
    let pid = daemon.pid();
    assert!(leaks.now().iter().any(|leak| leak.starts_with("LEAK socket")));
    daemon.kill();
    daemon.restart();
    assert_ne!(daemon.pid(), pid);
    assert!(daemon.log().contains("listening"));
    drop(daemon);
    leaks.assert_none();
    assert!(bin("rocker-guard").is_file());
}
