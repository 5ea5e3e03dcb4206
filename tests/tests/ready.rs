//! Guards that wait for a launch: who gets one, what it sees of the host, and when they go.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::time::Duration;
use std::fs;
use std::process::ExitCode;

use nix::mount::{MsFlags, mount, umount};
use protocol::Step;
use tests::app::App;
use tests::scratch::{directory, private_mounts};
use tests::{Daemon, Launch, Leaks, SOON, probe_package, process, runner, within};

fn main() -> ExitCode {
    runner::main(tests::root![
        a_launch_takes_the_guard_that_waits,
        there_are_as_many_as_were_missed_and_no_more_than_allowed,
        a_launch_finds_the_mounts_that_the_host_has_now,
        who_waits_is_replaced_when_the_host_mounts_something,
        a_guard_that_was_killed_while_it_waited_is_missed_by_nobody,
        they_end_with_their_master_however_that_ends,
        nobody_wakes_up_for_those_who_wait,
        who_says_nothing_keeps_no_guard_from_being_ready,
        three_hundred_launches_leave_as_many_as_before,
    ])
}

fn daemon(ready: usize) -> Daemon {
    Daemon::with_config(&format!("ready_guards = {ready}\n"))
}

/// The guards that have no launch yet: each would be named after its rocker.
fn waiting(daemon: &Daemon) -> Vec<u32> {
    let named = daemon.records();
    let is_one = |(pid, stat): &(u32, process::Stat)| {
        stat.ppid == daemon.pid() && stat.state != 'Z' && !named.contains(&stat.comm) && *pid > 0
    };
    process::descendants(daemon.pid()).into_iter().filter(is_one).map(|(pid, _)| pid).collect()
}

#[track_caller]
fn await_ready(daemon: &Daemon, count: usize) -> Vec<u32> {
    let is_so = within(SOON, || waiting(daemon).len() == count);
    assert!(is_so, "{} wait, not {count}", waiting(daemon).len());
    waiting(daemon)
}

fn living(daemon: &Daemon) -> App {
    started(&daemon.launch(probe_package()).trace(true))
}

fn started(launch: &Launch) -> App {
    let mut app = App::start(launch, &["say here", "wait"]).unwrap();
    assert_eq!(app.line(), "say: here");
    app
}

fn prepare_0(app: &App) -> &str {
    let step = app.rocker.trace().iter().find(|entry| entry.step == Step::CloneGuard);
    &step.unwrap().command
}

fn a_launch_takes_the_guard_that_waits() {
    let daemon = daemon(1);
    let ready = await_ready(&daemon, 1);
    let app = living(&daemon);
    assert_eq!([app.rocker.guard_pid()], ready[..]);
    assert!(prepare_0(&app).ends_with(&format!("# {}, ready", ready[0])), "{}", prepare_0(&app));
    let next = await_ready(&daemon, 1);
    assert_ne!(next, ready);
    assert_eq!([process::stat(ready[0]).unwrap().comm], daemon.records()[..]);
    app.finish();
    // What a rocker has of its request is its own: the other one's layers, ids, package.
    let answer = daemon
        .probe_overlaid(&["/tmp"], &["write /tmp/of-ready-guards x", "read /tmp/of-ready-guards"]);
    assert_eq!(answer.one("read /tmp/of-ready-guards"), "x");
    assert!(!fs::exists("/tmp/of-ready-guards").unwrap());
}

fn there_are_as_many_as_were_missed_and_no_more_than_allowed() {
    let daemon = daemon(3);
    await_ready(&daemon, 1);
    let launch = daemon.launch(probe_package()).trace(true);
    let apps: Vec<App> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| started(&launch))).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    await_ready(&daemon, 3);
    // A fourth would come at once.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(waiting(&daemon).len(), 3);
    apps.into_iter().for_each(|app| drop(app.finish()));
}

/// Also at once, before the master can have done anything about those who wait.
fn a_launch_finds_the_mounts_that_the_host_has_now() {
    private_mounts();
    let daemon = daemon(1);
    let host = directory(daemon.path("host"), 0o755, 0);
    let read = format!("read {}/file", host.display());
    for round in 0..5 {
        let ready = await_ready(&daemon, 1);
        mount(Some("tmpfs"), &host, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
        fs::write(host.join("file"), format!("round {round}")).unwrap();
        let app = App::start(&daemon.launch(probe_package()), &[&read]).unwrap();
        assert!(!ready.contains(&app.rocker.guard_pid()));
        assert_eq!(app.finish().one(&read), format!("round {round}"));
        umount(&host).unwrap();
        assert_eq!(daemon.probe(&[&read]).one(&read), "ENOENT");
    }
}

fn who_waits_is_replaced_when_the_host_mounts_something() {
    private_mounts();
    let daemon = daemon(1);
    let host = directory(daemon.path("host"), 0o755, 0);
    let old = await_ready(&daemon, 1);
    mount(Some("tmpfs"), &host, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    assert!(within(SOON, || !process::is_alive(old[0])), "it waits with the old mounts");
    let new = await_ready(&daemon, 1);
    let table = || fs::read_to_string(format!("/proc/{}/mountinfo", new[0])).unwrap();
    let host = host.display().to_string();
    assert!(table().contains(&host));
    umount(host.as_str()).unwrap();
    assert!(within(SOON, || !process::is_alive(new[0])), "it keeps what the host has let go of");
    let newest = await_ready(&daemon, 1);
    assert_ne!(newest, new);
}

fn a_guard_that_was_killed_while_it_waited_is_missed_by_nobody() {
    let daemon = daemon(1);
    for _ in 0..3 {
        let ready = await_ready(&daemon, 1);
        process::kill(ready[0]);
        assert!(within(SOON, || process::stat(ready[0]).is_none()), "it was not reaped");
        assert_eq!(daemon.probe(&["say hello"]).one("say"), "hello");
    }
}

fn they_end_with_their_master_however_that_ends() {
    let leaks = Leaks::snapshot();
    let mut daemon = daemon(2);
    let ready = await_ready(&daemon, 1);
    daemon.kill();
    assert!(within(SOON, || !process::is_alive(ready[0])));
    daemon.restart();
    let ready = await_ready(&daemon, 1);
    daemon.stop();
    assert!(within(SOON, || !process::is_alive(ready[0])));
    leaks.assert_none();
}

fn nobody_wakes_up_for_those_who_wait() {
    let daemon = daemon(1);
    let ready = await_ready(&daemon, 1);
    daemon.probe(&["say hello"]);
    let next = await_ready(&daemon, 1);
    assert_ne!(ready, next);
    daemon.settle(0);
    assert!(within(SOON, || {
        // Others may mount something on this host: then it is another one that waits.
        let those = [await_ready(&daemon, 1)[0], daemon.pid()];
        let before = those.map(process::wake_ups);
        // Nothing happens meanwhile.
        std::thread::sleep(Duration::from_millis(300));
        waiting(&daemon) == those[..1] && those.map(process::wake_ups) == before
    }));
}

fn who_says_nothing_keeps_no_guard_from_being_ready() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
    let daemon = daemon(1);
    await_ready(&daemon, 1);
    let silent = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(&silent, &SocketAddrUnix::new(daemon.socket()).unwrap()).unwrap();
    let app = living(&daemon);
    // The master hangs up on it after two seconds.
    assert!(within(Duration::from_millis(1_500), || waiting(&daemon).len() == 1));
    app.finish();
}

fn three_hundred_launches_leave_as_many_as_before() {
    let daemon = daemon(1);
    let run = |launches: u32| (0..launches).for_each(|_| drop(daemon.probe(&["say hello"])));
    run(20);
    daemon.settle(0);
    await_ready(&daemon, 1);
    let before = (daemon.fds(), daemon.rss_kib());
    run(280);
    daemon.settle(0);
    await_ready(&daemon, 1);
    assert_eq!(daemon.fds(), before.0);
    assert!(daemon.rss_kib() <= before.1 + 200, "{} -> {} KiB", before.1, daemon.rss_kib());
}
