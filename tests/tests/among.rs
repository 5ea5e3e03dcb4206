//! What a launch and an end ask the kernel does not grow with the rockers that live.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use rocker_client::{Program, Rocker};
use rustix::process::{Pid, Signal, kill_process};
use tests::app::App;
use tests::calls::{Call, calls_of};
use tests::{Daemon, SOON, probe_package, process, replayed, runner, within};

fn main() -> ExitCode {
    runner::main(tests::root![
        a_guard_looks_at_nobody_outside_its_rocker,
        the_master_asks_for_who_has_ended_by_name,
        ends_that_no_signal_names_are_noticed,
        who_is_one_too_many_is_not_if_another_has_ended_unnamed,
        who_came_earlier_than_the_others_ended_is_not_one_too_many,
        a_guard_that_is_stopped_wakes_no_master,
    ])
}

fn living(daemon: &Daemon) -> App {
    let mut app = App::start(&daemon.launch(probe_package()), &["say here", "wait"]).unwrap();
    assert_eq!(app.line(), "say: here");
    app
}

/// `kill(-1, 0)` looks at every process of the host, and nobody can fork meanwhile.
fn a_guard_looks_at_nobody_outside_its_rocker() {
    let daemon = Daemon::start();
    let app = living(&daemon);
    let guard = app.rocker.guard_pid();
    let calls = calls_of(guard, || drop(app.finish()), || {});
    assert!(calls.iter().any(|call| call.is(libc::SYS_getdents64)), "{calls:?}");
    assert!(!calls.iter().any(|call| call.is(libc::SYS_kill)), "{calls:?}");
}

/// `waitpid(-1)` looks at every child: of so many that is no matter.
const FEW: usize = 64;

fn the_master_asks_for_who_has_ended_by_name() {
    const ENDED: usize = 3;
    let daemon = Daemon::start();
    let mut apps: Vec<App> = (0..FEW + ENDED).map(|_| living(&daemon)).collect();
    let ending = apps.split_off(FEW);
    let guards: Vec<u32> = ending.iter().map(|app| app.rocker.guard_pid()).collect();
    let end = || {
        for (ended, app) in (1..).zip(ending) {
            app.finish();
            daemon.settle(FEW + ENDED - ended);
        }
    };
    let calls = calls_of(daemon.pid(), end, || assert!(daemon.is_well()));
    let waits: Vec<&Call> = calls.iter().filter(|call| call.is(libc::SYS_wait4)).collect();
    let named: Vec<u32> = waits.iter().filter_map(|call| call.pid()).collect();
    assert_eq!(named, guards, "{waits:?}");
    // Now and then it looks for those whom no signal names.
    assert!(waits.len() <= 2 * guards.len(), "{waits:?}");
    apps.into_iter().for_each(|app| drop(app.finish()));
    daemon.settle(0);
}

fn ends_that_no_signal_names_are_noticed() {
    let daemon = Daemon::start();
    let apps: Vec<App> = (0..5).map(|_| living(&daemon)).collect();
    let guards: Vec<u32> = apps.iter().map(|app| app.rocker.guard_pid()).collect();
    end_unnamed(&daemon, apps);
    assert!(within(SOON, || guards.iter().all(|&guard| process::stat(guard).is_none())));
    daemon.settle(0);
}

/// A few of them: a connection has two seconds to ask.
const ENDED: usize = 2;

/// Of these one signal names one at most.
fn end_unnamed(daemon: &Daemon, apps: Vec<App>) {
    let guards: Vec<u32> = apps.iter().map(|app| app.rocker.guard_pid()).collect();
    let master = Pid::from_raw(daemon.pid().cast_signed()).unwrap();
    kill_process(master, Signal::STOP).unwrap();
    apps.into_iter().for_each(|app| drop(app.finish()));
    assert!(within(SOON, || guards.iter().all(|&guard| !process::is_alive(guard))));
    assert!(guards.iter().all(|&guard| process::stat(guard).is_some()), "nobody has reaped them");
    kill_process(master, Signal::CONT).unwrap();
}

/// Of many those whom no signal names are looked for later, unless somebody needs their places.
fn who_is_one_too_many_is_not_if_another_has_ended_unnamed() {
    let daemon = Daemon::with_config(&format!("max_rockers = {}\n", FEW + ENDED));
    let mut apps: Vec<App> = (0..FEW + ENDED).map(|_| living(&daemon)).collect();
    end_unnamed(&daemon, apps.split_off(FEW));
    apps.extend((0..ENDED).map(|_| living(&daemon)));
    apps.into_iter().for_each(|app| drop(app.finish()));
    daemon.settle(0);
}

/// There was no room when they connected, and nobody had ended.
fn who_came_earlier_than_the_others_ended_is_not_one_too_many() {
    let daemon = Daemon::with_config(&format!("max_rockers = {}\n", FEW + ENDED));
    let mut apps: Vec<App> = (0..FEW + ENDED).map(|_| living(&daemon)).collect();
    let early: Vec<OwnedFd> = (0..ENDED).map(|_| daemon.connection_of(0)).collect();
    // They are taken in, then: the master takes them in turn.
    assert!(daemon.is_well());
    let (input, end) = std::io::pipe().unwrap();
    let program = Program::new("bin/probe").args(["wait"]).stdin(input);
    end_unnamed(&daemon, apps.split_off(FEW));
    let launch = daemon.launch(probe_package());
    let rockers: Vec<Rocker> =
        early.into_iter().map(|it| replayed(launch.spawn_over(it, &program)).unwrap()).collect();
    drop((program, end));
    for mut rocker in rockers {
        assert!(rocker.wait().unwrap().success());
    }
    apps.into_iter().for_each(|app| drop(app.finish()));
    daemon.settle(0);
}

/// Its user may stop it and let it go on (`man 2 kill`) as often as it likes.
fn a_guard_that_is_stopped_wakes_no_master() {
    const TIMES: u64 = 100;
    let daemon = Daemon::start();
    let app = living(&daemon);
    let guard = app.rocker.guard_pid();
    let pid = Pid::from_raw(guard.cast_signed()).unwrap();
    let is_stopped = || process::stat(guard).is_some_and(|stat| stat.state == 'T');
    let before = process::wake_ups(daemon.pid());
    for _ in 0..TIMES {
        kill_process(pid, Signal::STOP).unwrap();
        assert!(within(SOON, is_stopped));
        kill_process(pid, Signal::CONT).unwrap();
        assert!(within(SOON, || !is_stopped()));
    }
    let woken = process::wake_ups(daemon.pid()) - before;
    assert!(woken < TIMES / 10, "{woken}");
    app.finish();
    daemon.settle(0);
}
