//! One mount for all rockers of a package: who shares it, for how long, and who does not.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::time::Duration;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use protocol::{Error, Item, Rule, Step};
use rocker_client::TraceEntry;
use tests::app::{self, App};
use tests::{Daemon, Launch, Leaks, Package, SOON, probe_package, runner, within};

fn main() -> ExitCode {
    runner::main(tests::root![
        rockers_of_one_package_share_one_loop_device,
        the_steps_that_are_spared_are_told,
        a_copy_is_as_inert_as_the_first_mount,
        launches_of_a_new_package_at_once_mount_it_once,
        a_package_that_was_replaced_is_another,
        a_package_that_is_written_to_is_another,
        a_package_that_is_cut_short_or_removed_harms_nobody_else,
        an_idle_package_stays_for_a_while_and_is_used_again,
        the_package_that_was_idle_for_longest_makes_room,
        a_package_that_made_room_while_its_launch_waited_is_opened_again,
        a_master_of_one_launch_shares_nothing,
        a_killed_master_leaves_no_mount_without_a_rocker,
    ])
}

/// Loop devices that this file is bound to, also once it has lost its name.
fn loops(package: &Path) -> usize {
    let (name, gone) = (package.display().to_string(), format!("{} (deleted)", package.display()));
    let file = |entry: std::io::Result<fs::DirEntry>| {
        fs::read_to_string(entry.ok()?.path().join("loop/backing_file")).ok()
    };
    let all = fs::read_dir("/sys/block").unwrap().filter_map(file);
    all.filter(|file| [&name, &gone].contains(&&file.trim_end().to_owned())).count()
}

fn are_loops(package: &Path, count: usize) -> bool {
    within(SOON, || loops(package) == count)
}

/// A package of its own for a test, with this in it.
fn package(daemon: &Daemon, name: &str, content: &str) -> PathBuf {
    let made = Package::with_probe().file("share/hello", 0o644, content).build();
    // Never in the place of one that is mounted: that would be the same file with other bytes.
    let (new, package) = (daemon.path("new.sqfs"), daemon.path(name));
    fs::copy(made, &new).unwrap();
    fs::rename(&new, &package).unwrap();
    package
}

fn living(daemon: &Daemon, package: &Path) -> App {
    start(&daemon.launch(package).trace(true))
}

fn start(launch: &Launch) -> App {
    let mut app = App::start(launch, &["say here", "wait", "read share/hello"]).unwrap();
    assert_eq!(app.line(), "say: here");
    app
}

fn reads(app: App) -> String {
    app.finish().one("read share/hello").to_owned()
}

fn mounts_itself(trace: &[TraceEntry]) -> bool {
    trace.iter().any(|entry| entry.step == Step::CreateLoop)
}

fn rockers_of_one_package_share_one_loop_device() {
    let daemon = Daemon::start();
    let (one, other) = (package(&daemon, "one", "1"), package(&daemon, "other", "2"));
    let apps: Vec<App> = (0..5).map(|_| living(&daemon, &one)).collect();
    let another = living(&daemon, &other);
    assert_eq!((loops(&one), loops(&other)), (1, 1));
    let first = apps.iter().filter(|app| mounts_itself(app.rocker.trace())).count();
    assert_eq!(first, 1);
    assert!(mounts_itself(another.rocker.trace()));
    // The first that came goes first, and takes nothing along.
    for app in apps {
        assert_eq!(loops(&one), 1);
        assert_eq!(reads(app), "1");
    }
    assert!(are_loops(&one, 0), "{}", loops(&one));
    assert_eq!(reads(another), "2");
    assert!(are_loops(&other, 0));
    daemon.settle(0);
}

fn the_steps_that_are_spared_are_told() {
    let daemon = Daemon::start();
    let package = package(&daemon, "one", "1");
    let first = living(&daemon, &package);
    let second = living(&daemon, &package);
    let said = |app: &App| {
        let steps = app.rocker.trace().iter().filter(|it| it.step == Step::MountPackage);
        steps.map(|it| it.command.clone()).collect::<Vec<_>>().join("\n")
    };
    assert!(said(&first).contains("mount -t squashfs") && !said(&first).contains("reused"));
    let told = said(&second);
    assert!(told.contains("on /dev/loop") && told.contains("reused"), "{told}");
    assert!(!told.contains("mount -t squashfs"), "{told}");
    assert_eq!([first, second].map(reads), ["1", "1"]);
}

fn a_copy_is_as_inert_as_the_first_mount() {
    let daemon = Daemon::start();
    let exec = daemon.exec_dir().display().to_string();
    let (flags, write) = (format!("flags {exec}"), format!("write {exec}/x y"));
    let first = living(&daemon, &probe_package());
    for _ in 0..2 {
        let answer = app::run(&daemon.launch(probe_package()), &[&flags, &write]);
        assert_eq!(answer.one(&flags), "ro nosuid nodev");
        assert_eq!(answer.one(&write), "EROFS");
    }
    first.finish();
}

fn launches_of_a_new_package_at_once_mount_it_once() {
    const LAUNCHES: usize = 32;
    let daemon = Daemon::start();
    let package = package(&daemon, "one", "1");
    let leaks = Leaks::snapshot();
    let apps: Vec<App> = std::thread::scope(|scope| {
        let launch = || daemon.launch(&package).trace(true).timeout(Duration::from_secs(30));
        let launches = [(); LAUNCHES].map(|()| {
            let launch = launch();
            scope.spawn(move || start(&launch))
        });
        launches.into_iter().map(|launch| launch.join().unwrap()).collect()
    });
    // None waits for the first for longer than 0.1 s, which on a busy machine it may take.
    let mounts = apps.iter().filter(|app| mounts_itself(app.rocker.trace())).count();
    assert_eq!(loops(&package), mounts);
    assert!((1..=LAUNCHES / 4).contains(&mounts), "{mounts} mounts");
    apps.into_iter().for_each(|app| assert_eq!(reads(app), "1"));
    daemon.settle(0);
    leaks.assert_none();
}

fn a_package_that_was_replaced_is_another() {
    let daemon = Daemon::start();
    let path = package(&daemon, "one", "old");
    let old = living(&daemon, &path);
    package(&daemon, "one", "new");
    let new = living(&daemon, &path);
    assert!(mounts_itself(new.rocker.trace()));
    let newer = living(&daemon, &path);
    assert!(!mounts_itself(newer.rocker.trace()));
    assert_eq!(loops(&path), 2);
    assert_eq!([old, new, newer].map(reads), ["old", "new", "new"]);
    assert!(are_loops(&path, 0));
}

/// The same file with other bytes: whoever runs from it is its writer's victim, whoever starts
/// now is not.
fn a_package_that_is_written_to_is_another() {
    let daemon = Daemon::start();
    let path = package(&daemon, "one", "old");
    let first = living(&daemon, &path);
    let other = package(&daemon, "other", "new");
    let bytes = fs::read(&other).unwrap();
    fs::write(&path, bytes).unwrap();
    let second = living(&daemon, &path);
    assert!(mounts_itself(second.rocker.trace()));
    assert_eq!(reads(second), "new");
    first.finish();
    assert!(are_loops(&path, 0));
}

fn a_package_that_is_cut_short_or_removed_harms_nobody_else() {
    let daemon = Daemon::start();
    let (one, other) = (package(&daemon, "one", "1"), package(&daemon, "other", "2"));
    let (victim, neighbour) = (living(&daemon, &one), living(&daemon, &other));
    fs::OpenOptions::new().write(true).open(&one).unwrap().set_len(512).unwrap();
    let error = app::refused(&daemon.launch(&one));
    assert_eq!(error.kind(), Error::Invalid { rule: Rule::Truncated, item: Item::Package });
    fs::remove_file(&other).unwrap();
    let error = app::refused(&daemon.launch(&other));
    assert!(matches!(error.kind(), Error::Failed { step: Step::CreateGuard, .. }), "{error}");
    assert_eq!(reads(neighbour), "2");
    // Its App may read nothing any more, but it ends, and so does its rocker.
    victim.finish();
    assert!(are_loops(&one, 0) && are_loops(&other, 0));
    assert_eq!(daemon.probe(&["say lives"]).one("say"), "lives");
}

fn an_idle_package_stays_for_a_while_and_is_used_again() {
    let daemon = Daemon::with_config("package_idle_ms = 1000\n");
    let package = package(&daemon, "one", "1");
    for round in 0..3 {
        let app = living(&daemon, &package);
        assert_eq!(mounts_itself(app.rocker.trace()), round == 0);
        assert_eq!(reads(app), "1");
        assert_eq!(loops(&package), 1);
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(loops(&package), 1);
    assert!(are_loops(&package, 0));
    daemon.settle(0);
    let again = living(&daemon, &package);
    assert!(mounts_itself(again.rocker.trace()));
    again.finish();
    assert!(are_loops(&package, 0));
}

fn the_package_that_was_idle_for_longest_makes_room() {
    let daemon = Daemon::with_config("package_idle_ms = 60000\nmax_packages = 2\n");
    let [one, two, three] = ["1", "2", "3"].map(|name| package(&daemon, name, name));
    for package in [&one, &two] {
        living(&daemon, package).finish();
    }
    let third = living(&daemon, &three);
    assert!(are_loops(&one, 0));
    assert_eq!((loops(&two), loops(&three)), (1, 1));
    // Nobody is put out whose package is in use; what is not kept is mounted for one alone.
    let second = living(&daemon, &two);
    let fourth = living(&daemon, &one);
    fourth.finish();
    assert!(are_loops(&one, 0));
    assert_eq!((reads(second), reads(third)), ("2".to_owned(), "3".to_owned()));
    daemon.configure("");
    let mut daemon = daemon;
    daemon.stop();
    assert!(are_loops(&two, 0) && are_loops(&three, 0));
    daemon.restart();
}

/// What is mounted is not opened to be read, and what a launch waits for may take until it is no
/// more. That must come while it waits, which is 0.1 s at most: so it is tried again.
fn a_package_that_made_room_while_its_launch_waited_is_opened_again() {
    let daemon =
        Daemon::with_config("package_idle_ms = 60000\nmax_packages = 2\nmax_overlays = 8\n");
    let [one, two, three] = ["1", "2", "3"].map(|name| package(&daemon, name, name));
    let of = |package| daemon.launch(package).data_dir(daemon.data_dir()).trace(true);
    let was_opened_again = || {
        let rival = start(&of(&one));
        living(&daemon, &two).finish();
        assert_eq!(loops(&two), 1);
        let launch = of(&two);
        let (launched, other) = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| App::start(&launch, &["wait", "read share/hello"]));
            std::thread::sleep(Duration::from_millis(20));
            let other = living(&daemon, &three);
            rival.finish();
            (waiting.join().unwrap(), other)
        });
        let step = |app: &App, words: &str| {
            let found = app.rocker.trace().iter().find(|it| it.command.contains(words));
            found.unwrap().began_ns
        };
        let made_room = step(&other, "findmnt ");
        other.finish();
        let app = match launched {
            Ok(app) => app,
            Err(error) => {
                let in_use = Error::Invalid { rule: Rule::InUse, item: Item::DataDir };
                assert_eq!(error.kind(), in_use, "{error}");
                return false;
            }
        };
        let (opened, locked) = (step(&app, "open "), step(&app, "flock "));
        assert_eq!(reads(app), "2");
        opened < made_room && made_room < locked
    };
    let came_to_it = (0..50).any(|_| was_opened_again());
    let mut daemon = daemon;
    daemon.stop();
    assert!([&one, &two, &three].iter().all(|package| are_loops(package, 0)));
    daemon.restart();
    if !came_to_it {
        drop(daemon);
        runner::skip("this machine is too slow for it");
    }
}

fn a_master_of_one_launch_shares_nothing() {
    let daemon = Daemon::with_config("max_packages = 0\n");
    let package = package(&daemon, "one", "1");
    let apps = [living(&daemon, &package), living(&daemon, &package)];
    assert!(apps.iter().all(|app| mounts_itself(app.rocker.trace())));
    assert_eq!(loops(&package), 2);
    apps.into_iter().for_each(|app| assert_eq!(reads(app), "1"));
    assert!(are_loops(&package, 0));
}

fn a_killed_master_leaves_no_mount_without_a_rocker() {
    let mut daemon = Daemon::with_config("package_idle_ms = 60000\n");
    let (one, other) = (package(&daemon, "one", "1"), package(&daemon, "other", "2"));
    let apps = [living(&daemon, &one), living(&daemon, &one)];
    living(&daemon, &other).finish();
    assert_eq!((loops(&one), loops(&other)), (1, 1));
    daemon.kill();
    assert!(are_loops(&other, 0));
    assert_eq!(loops(&one), 1);
    daemon.configure("");
    daemon.restart();
    // The next master has no part in what it did not see mounted.
    let new = living(&daemon, &one);
    assert!(mounts_itself(new.rocker.trace()));
    assert_eq!(loops(&one), 2);
    assert_eq!(apps.map(reads), ["1", "1"]);
    assert_eq!(reads(new), "1");
    assert!(are_loops(&one, 0));
}
