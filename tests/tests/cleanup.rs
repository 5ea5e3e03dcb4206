//! Both ways to end (root.8, root.10), and that nothing is left after either. After each test
//! the runner looks for leaks as well.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::time::Duration;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Instant;

use rocker_client::Seccomp;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, pidfd_send_signal};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use rustix::time::{ClockId, clock_gettime};
use tests::app::{self, App};
use tests::{APP_GID, APP_UID, probe_package, process, replayed, runner, within};
use tests::{Daemon, Leaks, Program, SOON, Stdio};

fn main() -> ExitCode {
    runner::main(tests::root![
        the_guard_ends_at_once_after_the_app,
        a_daemon_that_forked_twice_keeps_its_rocker,
        a_chain_of_fifty_double_forks_keeps_its_rocker,
        an_app_that_closed_all_descriptors_keeps_its_rocker,
        an_app_whose_first_thread_ended_keeps_its_rocker,
        a_stranger_who_entered_keeps_the_rocker,
        a_guard_that_cannot_watch_its_rocker_ends_it_no_earlier,
        orphans_are_reaped,
        killing_the_guard_ends_everybody,
        killing_by_name_returns_when_all_is_gone,
        killing_twice_or_too_late_is_no_error,
        an_app_cannot_feign_its_end,
        whoever_the_app_makes_its_launchers_is_waited_for,
        who_may_not_look_whom_to_wait_for_waits_until_its_timeout,
        killing_a_name_nobody_has_is_an_error,
        a_dead_app_that_nobody_waited_for_delays_only_the_guards_report,
        the_app_outlives_its_caller_and_the_rocker_its_app,
        a_client_that_dies_before_the_app_starts_leaves_nothing,
        rockers_outlive_the_master_and_its_successor_knows_them,
        a_killed_masters_rockers_are_known_and_killable_afterwards,
        sixty_four_launches_at_once_leave_nothing,
        root_13_the_kernel_kills_all_when_the_guard_dies,
        root_15_the_loop_device_is_gone_when_the_master_says_so,
        regression_an_idle_guard_is_never_woken,
        regression_a_finished_rocker_does_not_live_on,
        regression_ends_are_not_served_one_after_the_other,
        regression_loop_devices_clear_themselves,
    ])
}

/// Whether the guard has ended, and with it the rocker.
fn is_gone(app: &App) -> bool {
    let mut guard = [PollFd::from_borrowed_fd(app.rocker.guard_pidfd(), PollFlags::IN)];
    matches!(poll(&mut guard, Some(&rustix::event::Timespec::default())), Ok(1))
}

/// Lets the App end and waits for it; its rocker may live on.
fn end_app(app: &mut App) {
    app.go_on();
    assert!(app.rocker.wait().expect("it is our child").success());
}

/// A daemon lives in there for `ms` after the App: the guard must see that, and its end.
fn outlives(command: &str, ms: u64) {
    let daemon = Daemon::start();
    let began = Instant::now();
    let mut app = App::start(&daemon.launch(probe_package()), &[command]).unwrap();
    assert!(app.rocker.wait().unwrap().success());
    std::thread::sleep(Duration::from_millis(60));
    assert!(!is_gone(&app), "somebody lives in there");
    assert_eq!(process::inside(app.rocker.guard_pid()).len(), 1);
    assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
    let lived = began.elapsed();
    assert!(lived >= Duration::from_millis(ms), "ended too early: {lived:?}");
    assert!(lived < Duration::from_millis(ms + 2000), "ended too late: {lived:?}");
}

fn the_guard_ends_at_once_after_the_app() {
    let daemon = Daemon::start();
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let mut app = App::start(&daemon.launch(probe_package()), &["wait"]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(!is_gone(&app));
        end_app(&mut app);
        let began = Instant::now();
        assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_millis(1000), "{slowest:?}");
}

fn a_daemon_that_forked_twice_keeps_its_rocker() {
    outlives("daemon sleep 700", 700);
}

fn a_chain_of_fifty_double_forks_keeps_its_rocker() {
    let daemon = Daemon::start();
    let mut app = App::start(&daemon.launch(probe_package()), &["chain 50 sleep 300"]).unwrap();
    assert!(app.rocker.wait().unwrap().success());
    // It takes the chain a while to come to its end; nobody in it ever has a living parent.
    let guard = app.rocker.guard_pid();
    let asleep = || match process::inside(guard)[..] {
        [last] => std::fs::read(format!("/proc/{last}/cmdline"))
            .is_ok_and(|c| c.ends_with(b"\0sleep 300\0")),
        _ => false,
    };
    assert!(within(Duration::from_secs(20), asleep), "{:?}", process::inside(guard));
    assert!(!is_gone(&app));
    assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
}

fn an_app_that_closed_all_descriptors_keeps_its_rocker() {
    let daemon = Daemon::start();
    let began = Instant::now();
    let mut app = App::start(&daemon.launch(probe_package()), &["close-all", "sleep 500"]).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(!is_gone(&app));
    app.rocker.wait().unwrap();
    assert!(began.elapsed() >= Duration::from_millis(500));
    assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
}

fn an_app_whose_first_thread_ended_keeps_its_rocker() {
    let daemon = Daemon::start();
    let began = Instant::now();
    let mut app = App::start(&daemon.launch(probe_package()), &["end-leader 600"]).unwrap();
    let state = || process::stat(app.rocker.app_pid()).map(|stat| stat.state);
    assert!(within(SOON, || state() == Some('Z')), "its first thread has ended");
    assert!(!is_gone(&app));
    assert!(app.rocker.wait().unwrap().success());
    assert!(began.elapsed() >= Duration::from_millis(550), "{:?}", began.elapsed());
    assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
}

/// Enters a rocker from outside as an administrator would, with the tool of every distribution.
fn stranger(guard: u32, ms: u64) -> Option<std::process::Child> {
    let target = guard.to_string();
    let seconds = format!("{}", f64::from(u32::try_from(ms).unwrap()) / 1000.0);
    let arguments = ["--target", &target, "--mount", "--pid", "sleep", &seconds];
    Command::new("nsenter").args(arguments).spawn().ok()
}

fn a_stranger_who_entered_keeps_the_rocker() {
    let daemon = Daemon::start();
    let mut app = App::start(&daemon.launch(probe_package()), &["say here", "wait"]).unwrap();
    app.line();
    let began = Instant::now();
    let guard = app.rocker.guard_pid();
    let Some(mut stranger) = stranger(guard, 800) else { runner::skip("needs nsenter") };
    assert!(within(SOON, || process::inside(guard).len() == 2), "{:?}", process::inside(guard));
    end_app(&mut app);
    std::thread::sleep(Duration::from_millis(100));
    assert!(!is_gone(&app), "somebody is in there");
    stranger.wait().unwrap();
    assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
    assert!(began.elapsed() >= Duration::from_millis(780));
}

/// As on a machine without memory or descriptors: the guard can neither watch whom it finds in
/// `/proc`, nor, with the lower limit, wait for anybody.
fn a_guard_that_cannot_watch_its_rocker_ends_it_no_earlier() {
    let daemon = Daemon::start();
    for descriptors in [2, 0] {
        let began = Instant::now();
        let mut app = App::start(&daemon.launch(probe_package()), &["say here", "wait"]).unwrap();
        app.line();
        let guard = app.rocker.guard_pid();
        let Some(mut stranger) = stranger(guard, 800) else { runner::skip("needs nsenter") };
        assert!(within(SOON, || process::inside(guard).len() == 2), "{:?}", process::inside(guard));
        // Whoever has its uid may do that.
        let mut limit = Command::new("prlimit");
        limit.arg(format!("--pid={guard}")).arg(format!("--nofile={descriptors}"));
        assert!(limit.uid(APP_UID).gid(APP_GID).status().unwrap().success());
        end_app(&mut app);
        std::thread::sleep(Duration::from_millis(100));
        assert!(!is_gone(&app), "somebody is in there");
        assert!(stranger.wait().unwrap().success(), "it came to its own end");
        assert!(began.elapsed() >= Duration::from_millis(780));
        // On a processor, in nanoseconds: it does not ask without end.
        let spent = std::fs::read_to_string(format!("/proc/{guard}/schedstat")).unwrap();
        let spent: u64 = spent.split(' ').next().unwrap().parse().unwrap();
        assert!(spent < 100_000_000, "it worked for {spent} ns");
        assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
    }
}

fn orphans_are_reaped() {
    let daemon = Daemon::start();
    let commands = ["daemon sleep 10", "daemon sleep 20", "daemon sleep 30", "say done", "wait"];
    let mut app = App::start(&daemon.launch(probe_package()), &commands).unwrap();
    for _ in 0..3 {
        app.line();
    }
    assert_eq!(app.line(), "say: done");
    let (guard, own) = (app.rocker.guard_pid(), app.rocker.app_pid());
    assert!(within(SOON, || process::inside(guard) == [own]), "{:?}", process::inside(guard));
    app.finish();
}

fn killing_the_guard_ends_everybody() {
    let daemon = Daemon::start();
    let commands = ["daemon sleep 60000", "daemon sleep 60000", "say done", "sleep 60000"];
    let mut app = App::start(&daemon.launch(probe_package()), &commands).unwrap();
    while app.line() != "say: done" {}
    let inside = process::inside(app.rocker.guard_pid());
    assert_eq!(inside.len(), 3);
    app.rocker.kill().unwrap();
    assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
    assert!(inside.into_iter().all(|pid| !process::is_alive(pid)));
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(app.rocker.wait().unwrap().signal(), Some(9));
}

fn killing_by_name_returns_when_all_is_gone() {
    let daemon = Daemon::with_config("max_packages = 0\n");
    let leaks = Leaks::snapshot();
    let mut app =
        App::start(&daemon.overlaid(probe_package(), &["/etc"]), &["sleep 60000"]).unwrap();
    let (name, guard) = (app.rocker.guard_name().to_string(), app.rocker.guard_pid());
    let killer = std::thread::spawn({
        let (socket, name) = (daemon.socket(), name.clone());
        move || rocker_client::kill_by_name(socket, &name, SOON).map(|()| process::stat(guard))
    });
    // Nobody hears of the guard's end before the App's parent has waited for the App.
    app.rocker.wait().unwrap();
    let left = killer.join().unwrap().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(left, None, "the guard is reaped, too");
    assert!(is_gone(&app));
    let at_once = leaks.now();
    assert!(at_once.is_empty(), "{at_once:#?}");
    assert!(daemon.records().is_empty());
}

fn an_app_cannot_feign_its_end() {
    let daemon = Daemon::start();
    let mut app = App::start(&daemon.launch(probe_package()), &["traced-stop"]).unwrap();
    assert_eq!(app.line(), "traced-stop: ok");
    let stopped = || process::status(app.rocker.app_pid()).get("State").cloned();
    let is_stopped = || stopped().is_some_and(|state| state.starts_with(['t', 'T']));
    assert!(within(SOON, is_stopped), "{:?}", stopped());
    // Somebody else ends it while we wait: only then the wait may be over.
    let kill = format!("sleep 0.3; kill -KILL {}", app.rocker.app_pid());
    let mut killer = Command::new("sh").args(["-c", &kill]).spawn().expect("every host has sh");
    let status = app.rocker.wait().expect("it is our child");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status:?}");
    killer.wait().expect("it is ours");
    assert_eq!(app.rocker.wait_gone(Some(SOON)).ok(), Some(true));
}

fn killing_twice_or_too_late_is_no_error() {
    let daemon = Daemon::start();
    let mut app = App::start(&daemon.launch(probe_package()), &["sleep 60000"]).unwrap();
    app.rocker.kill().unwrap();
    app.rocker.kill().unwrap();
    assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
    app.rocker.kill().unwrap();
    app.rocker.signal_app(15).unwrap();
}

fn whoever_the_app_makes_its_launchers_is_waited_for() {
    let daemon = Daemon::start();
    let any = daemon.launch(probe_package()).seccomp(Seccomp::Unconfined);
    // Whoever is none of the rocker's is left alone.
    let mut other = Command::new("true").spawn().expect("every host has it");
    for (command, ends) in [
        ("bear-sibling 0", true),
        ("bear-sibling 60000", false),
        ("traced-thread", true),
        ("traced-child", false),
        ("traced-by-child", false),
    ] {
        let mut app = App::start(&any, &[command, "exit 5"]).unwrap();
        assert_eq!(app.line(), format!("{command}: ok"));
        if !ends {
            let began = Instant::now();
            let gone = app.rocker.wait_gone(Some(Duration::from_millis(1200))).unwrap();
            assert!(!gone && began.elapsed() < SOON, "{command}: somebody lives in there");
            app.rocker.kill().unwrap();
        }
        assert!(app.rocker.wait_gone(Some(SOON)).unwrap(), "{command}");
        assert_eq!(app.rocker.wait().unwrap().code(), Some(5), "{command}");
    }
    // Whoever waits for the App alone, and waits first.
    for kills in [false, true] {
        let commands: &[&str] = if kills { &["traced-thread", "wait"] } else { &["traced-thread"] };
        let mut app = App::start(&any, commands).unwrap();
        assert_eq!(app.line(), "traced-thread: ok");
        if kills {
            app.rocker.kill().unwrap();
        }
        assert_eq!(app.rocker.wait().unwrap().success(), !kills);
        assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
    }
    assert!(other.wait().expect("it is still ours to wait for").success());
}

/// As a launcher that has become a user meanwhile.
fn who_may_not_look_whom_to_wait_for_waits_until_its_timeout() {
    let daemon = Daemon::start();
    let any = daemon.launch(probe_package()).seccomp(Seccomp::Unconfined);
    let mut app = App::start(&any, &["bear-sibling 0"]).unwrap();
    assert_eq!(app.line(), "bear-sibling 0: ok");
    let all = capabilities(None).unwrap();
    let fewer = CapabilitySets { effective: all.effective - CapabilitySet::SYS_PTRACE, ..all };
    let (began, worked) = (Instant::now(), clock_gettime(ClockId::ThreadCPUTime));
    set_capabilities(None, fewer).unwrap();
    let gone = app.rocker.wait_gone(Some(Duration::from_millis(2500)));
    set_capabilities(None, all).unwrap();
    assert!(matches!(gone, Ok(false)), "{gone:?}");
    assert!(began.elapsed() >= Duration::from_millis(2500), "{:?}", began.elapsed());
    let worked = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime) - worked).unwrap();
    assert!(worked < Duration::from_millis(500), "it asks without end: {worked:?}");
    assert!(app.rocker.wait().unwrap().success());
    assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
}

fn killing_a_name_nobody_has_is_an_error() {
    let daemon = Daemon::start();
    let app = App::start(&daemon.launch(probe_package()), &["say here", "wait"]).unwrap();
    for name in ["0123456789abcde", "", "rocker-master", "../../etc", "0123456789ABCDE"] {
        let error = rocker_client::kill_by_name(daemon.socket(), name, SOON).unwrap_err();
        assert!(error.to_string().contains("no living rocker has this name"), "{error}");
    }
    assert!(process::is_alive(app.rocker.guard_pid()));
    app.finish();
}

fn a_dead_app_that_nobody_waited_for_delays_only_the_guards_report() {
    let daemon = Daemon::start();
    let mut app = App::start(&daemon.launch(probe_package()), &["wait"]).unwrap();
    app.go_on();
    let (guard, own) = (app.rocker.guard_pid(), app.rocker.app_pid());
    assert!(within(SOON, || process::stat(own).is_some_and(|stat| stat.state == 'Z')));
    // Its mounts, and so its loop device, go with the guard's last breath.
    let has_mounts = || {
        std::fs::read_to_string(format!("/proc/{guard}/mountinfo"))
            .is_ok_and(|table| !table.is_empty())
    };
    assert!(within(SOON, || !has_mounts()), "the rocker is taken apart");
    assert!(!is_gone(&app), "but the kernel does not say so yet");
    assert!(app.rocker.wait().unwrap().success());
    assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
}

/// An AppMaster of its own, which is the CLI: killed, it cannot tidy up.
fn caller(daemon: &Daemon, commands: &[&str]) -> std::process::Child {
    let (package, exec_dir) = (probe_package(), daemon.exec_dir());
    daemon
        .rocker_run()
        .args(["--uid", "54321", "--gid", "54322", "--exec-dir"])
        .arg(exec_dir)
        .arg(package)
        .args(["--", "bin/probe"])
        .args(commands)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

fn the_app_outlives_its_caller_and_the_rocker_its_app() {
    let daemon = Daemon::start();
    let began = Instant::now();
    let mut caller = caller(&daemon, &["daemon sleep 1500", "sleep 1000"]);
    let rockers = || rocker_client::list(daemon.socket(), SOON).unwrap();
    assert!(within(SOON, || rockers().len() == 1));
    let guard = rockers()[0].guard_pid;
    assert!(within(SOON, || process::inside(guard).len() == 2));
    process::kill(caller.id());
    caller.wait().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(process::inside(guard).len(), 2, "App and daemon live on");
    assert!(within(SOON, || rockers().is_empty()));
    assert!(began.elapsed() >= Duration::from_millis(1500));
}

fn a_client_that_dies_before_the_app_starts_leaves_nothing() {
    let daemon = Daemon::start();
    for delay_us in [0, 500, 1_000, 2_000, 3_000, 4_000, 5_000, 7_000, 10_000, 15_000] {
        let leaks = Leaks::snapshot();
        let mut caller = caller(&daemon, &["sleep 100"]);
        std::thread::sleep(Duration::from_micros(delay_us));
        process::kill(caller.id());
        caller.wait().unwrap();
        leaks.assert_none();
        assert!(within(SOON, || daemon.records().is_empty()));
    }
    assert!(daemon.is_well());
}

fn rockers_outlive_the_master_and_its_successor_knows_them() {
    let mut daemon = Daemon::start();
    let mut app =
        App::start(&daemon.launch(probe_package()).app_id(9), &["say here", "wait", "say still"])
            .unwrap();
    assert_eq!(app.line(), "say: here");
    daemon.stop();
    assert!(process::is_alive(app.rocker.guard_pid()));
    daemon.restart();
    let listed = rocker_client::list(daemon.socket(), SOON).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].name, listed[0].app_id), (app.rocker.guard_name(), 9));
    assert_eq!(listed[0].guard_pid, app.rocker.guard_pid());
    assert_eq!(app.finish().one("say"), "still");
    assert!(within(SOON, || rocker_client::list(daemon.socket(), SOON).unwrap().is_empty()));
}

fn a_killed_masters_rockers_are_known_and_killable_afterwards() {
    let mut daemon = Daemon::start();
    let mut app =
        App::start(&daemon.launch(probe_package()), &["say here", "sleep 60000"]).unwrap();
    assert_eq!(app.line(), "say: here");
    daemon.kill();
    daemon.restart();
    let name = app.rocker.guard_name().to_string();
    let killer = std::thread::spawn({
        let socket = daemon.socket();
        move || rocker_client::kill_by_name(socket, &name, SOON)
    });
    assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
    killer.join().unwrap().unwrap_or_else(|error| panic!("{error}"));
    // And one that ended while there was no master is forgotten.
    let app = App::start(&daemon.launch(probe_package()), &["wait"]).unwrap();
    daemon.kill();
    app.finish();
    daemon.restart();
    assert!(daemon.records().is_empty());
}

fn sixty_four_launches_at_once_leave_nothing() {
    let daemon = Daemon::start();
    app::run(&daemon.launch(probe_package()), &[]);
    assert!(within(SOON, || daemon.records().is_empty()));
    let leaks = Leaks::snapshot().watch_pid(daemon.pid()).watch_pid(std::process::id());
    let launch = daemon.launch(probe_package()).timeout(Duration::from_secs(20));
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let program = Program::new("true").stdout(Stdio::Null);
                let mut rocker = replayed(launch.spawn(&program)).unwrap();
                assert!(rocker.wait().unwrap().success());
                assert!(rocker.wait_gone(Some(SOON)).unwrap());
            });
        }
    });
    leaks.assert_none();
}

fn root_13_the_kernel_kills_all_when_the_guard_dies() {
    // What is mounted for this rocker alone.
    let daemon = Daemon::with_config("max_packages = 0\n");
    let launch = daemon.overlaid(probe_package(), &["/usr", "/etc"]);
    let leaks = Leaks::snapshot();
    let mut app = App::start(&launch, &["daemon sleep 60000", "say done", "sleep 60000"]).unwrap();
    while app.line() != "say: done" {}
    let guard = process::pidfd(app.rocker.guard_pid()).unwrap();
    pidfd_send_signal(guard.as_fd(), Signal::KILL).unwrap();
    app.rocker.wait().unwrap();
    let mut ready = [PollFd::new(&guard, PollFlags::IN)];
    poll(&mut ready, None).unwrap();
    // Not later: the guard's end is the end of it all (KERNEL A43).
    let of_kernel =
        |leak: &String| ["LEAK loop", "LEAK mount"].iter().any(|kind| leak.starts_with(kind));
    let left: Vec<String> = leaks.now().into_iter().filter(of_kernel).collect();
    assert!(left.is_empty(), "{left:#?}");
    leaks.assert_none();
}

fn root_15_the_loop_device_is_gone_when_the_master_says_so() {
    let daemon = Daemon::with_config("max_packages = 0\n");
    let package = probe_package();
    let loops = || {
        let bound = |entry: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(entry.ok()?.path().join("loop/backing_file")).ok()
        };
        let all = std::fs::read_dir("/sys/block").unwrap().filter_map(bound);
        all.filter(|file| file.trim_end() == package.to_str().unwrap()).count()
    };
    let app = App::start(&daemon.launch(&package), &["say here", "wait"]).unwrap();
    assert_eq!(loops(), 1);
    app.finish();
    assert!(within(SOON, || daemon.records().is_empty()));
    assert_eq!(loops(), 0);
}

fn regression_an_idle_guard_is_never_woken() {
    let daemon = Daemon::start();
    let commands = ["daemon sleep 60000", "say done", "wait"];
    let mut app = App::start(&daemon.launch(probe_package()), &commands).unwrap();
    while app.line() != "say: done" {}
    std::thread::sleep(Duration::from_millis(100));
    let (guard, master) = (app.rocker.guard_pid(), daemon.pid());
    let before = [process::wake_ups(guard), process::wake_ups(master)];
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!([process::wake_ups(guard), process::wake_ups(master)], before);
    app.rocker.kill().unwrap();
    assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
}

fn regression_a_finished_rocker_does_not_live_on() {
    // The earlier one lived up to 20 s longer; 200 ms is far more than it takes.
    let daemon = Daemon::start();
    let mut times = vec![];
    for _ in 0..10 {
        let mut app = App::start(&daemon.launch(probe_package()), &["wait"]).unwrap();
        app.go_on();
        app.rocker.wait().unwrap();
        let began = Instant::now();
        assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
        times.push(began.elapsed());
    }
    times.sort();
    assert!(times[5] < Duration::from_millis(200), "{times:?}");
}

fn regression_ends_are_not_served_one_after_the_other() {
    // The earlier one slept 2 s for each death: ten at once took 20 s.
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package());
    let apps: Vec<App> = (0..10).map(|_| App::start(&launch, &["wait"]).unwrap()).collect();
    let began = Instant::now();
    apps.into_iter().for_each(|app| drop(app.finish()));
    assert!(within(SOON, || daemon.records().is_empty()));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

fn regression_loop_devices_clear_themselves() {
    let leaks = Leaks::snapshot();
    let package = probe_package();
    let mut daemon = Daemon::start();
    let mut app = App::start(&daemon.launch(&package), &["say here", "sleep 60000"]).unwrap();
    assert_eq!(app.line(), "say: here");
    assert!(!leaks.now().is_empty(), "a living rocker is seen");
    // Neither master nor guard is there to clear anything.
    daemon.kill();
    process::kill(app.rocker.guard_pid());
    app.rocker.wait().unwrap();
    let of_rocker = |leak: &String| {
        ["LEAK loop", "LEAK mount", "LEAK ns"].iter().any(|kind| leak.starts_with(kind))
    };
    assert!(within(SOON, || !leaks.now().iter().any(of_rocker)), "{:#?}", leaks.now());
}
