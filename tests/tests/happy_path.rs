//! The main job: a package goes in, an App runs in a rocker of its own, and nothing is left.
#![allow(unsafe_code, reason = "Launch::enter and signal(2) have no safe form")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::time::Duration;
use std::collections::HashSet;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::Instant;

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use protocol::Step;
use rocker_client::guard_name;
use tests::app::{self, App, with_output};
use tests::{APP_GID, APP_UID, Daemon, Launch, Package, Program, SOON};
use tests::{facts, probe_package, process, replayed, runner, scratch, within};

fn main() -> ExitCode {
    runner::main(tests::root![
        spawn_runs_a_program_of_the_package,
        enter_runs_a_callback_whose_result_is_the_exit_status,
        a_callback_has_the_stack_of_a_main_thread_and_what_the_caller_knew,
        a_callback_that_panics_ends_with_status_101,
        the_app_is_the_callers_own_child,
        the_apps_end_is_a_sigchld_and_a_status_for_waitpid,
        an_app_starts_and_ends_while_sigchld_is_ignored,
        exit_statuses_and_signals_arrive_as_they_were,
        any_number_of_directories_is_overlaid,
        the_trace_reads_as_the_diagrams_do,
        a_launch_without_trace_has_none,
        pids_and_pidfds_are_those_of_guard_and_app,
        the_master_lists_the_living_rockers,
        descriptors_named_by_the_caller_are_handed_down_in_order,
        arguments_environment_and_directory_arrive,
        a_caller_with_threads_launches_from_all_of_them,
        regression_the_guards_name_is_its_real_one,
        regression_a_slow_app_keeps_its_rocker_beyond_the_deadline,
        regression_launches_leak_no_descriptor_and_no_memory,
        regression_requests_beyond_512_bytes_arrive_whole,
        regression_no_id_is_ever_taken_for_zero,
        regression_failed_and_ended_launches_leave_no_zombie,
        regression_no_call_hangs_when_the_master_says_nothing,
    ])
}

fn spawn_runs_a_program_of_the_package() {
    let daemon = Daemon::start();
    let answer = daemon.probe(&["say hello", "read share/hello", "ls ."]);
    assert_eq!(answer.one("say"), "hello");
    assert_eq!(answer.one("read share/hello"), "hello");
    assert_eq!(answer.one("ls ."), "bin share");
    assert!(answer.status.success());
}

/// Runs facts in a callback, to its end.
fn enter(launch: &Launch, commands: &[&str]) -> app::Answer {
    let (status, text) = with_output(|| {
        let callback = || {
            facts::run(commands);
            33
        };
        // SAFETY: the runner gives each test a process with one thread.
        let mut rocker =
            replayed(unsafe { launch.enter(callback) }).unwrap_or_else(|error| panic!("{error}"));
        let status = rocker.wait().expect("the App is our child");
        assert!(rocker.wait_gone(Some(SOON)).expect("a pidfd can be polled"));
        status
    });
    app::Answer::new(status, &text)
}

fn enter_runs_a_callback_whose_result_is_the_exit_status() {
    let daemon = Daemon::start();
    let answer = enter(&daemon.launch(probe_package()), &["read share/hello", "pids", "cwd"]);
    assert_eq!(answer.one("read share/hello"), "hello");
    assert_eq!(answer.one("ppid"), "0");
    assert_eq!(answer.one("cwd"), daemon.exec_dir().to_str().unwrap());
    assert_eq!(answer.status.code(), Some(33));
}

fn a_callback_has_the_stack_of_a_main_thread_and_what_the_caller_knew() {
    fn deep(levels: u32, seed: &[u64]) -> u64 {
        let page = core::hint::black_box([seed[0]; 512]);
        if levels == 0 { page[511] } else { deep(levels - 1, &page[1..]) }
    }
    let daemon = Daemon::start();
    let known: Vec<u64> = vec![33; 1024];
    // SAFETY: one thread, as above.
    let rocker = unsafe {
        daemon.launch(probe_package()).enter(|| i32::try_from(deep(400, &known)).unwrap())
    };
    let mut rocker = replayed(rocker).expect("the launch itself works");
    assert_eq!(rocker.wait().unwrap().code(), Some(33), "it takes between two and six MiB");
    assert!(rocker.wait_gone(Some(SOON)).unwrap());
    assert_eq!(known[1023], 33);
}

fn a_callback_that_panics_ends_with_status_101() {
    let daemon = Daemon::start();
    // SAFETY: one thread, as above.
    let rocker = unsafe { daemon.launch(probe_package()).enter(|| panic!("as it must")) };
    let mut rocker = replayed(rocker).expect("the launch itself works");
    assert_eq!(rocker.wait().unwrap().code(), Some(101));
    assert!(rocker.wait_gone(Some(SOON)).unwrap());
}

fn the_app_is_the_callers_own_child() {
    let daemon = Daemon::start();
    let mut app = App::start(&daemon.launch(probe_package()), &["pids", "wait"]).unwrap();
    // pid, ppid, sid as the App sees them: nobody from outside is visible.
    assert_ne!(app.line(), "pid: 1");
    assert_eq!(app.line(), "ppid: 0");
    let stat = process::stat(app.rocker.app_pid()).expect("it waits");
    assert_eq!(stat.ppid, std::process::id());
    assert!(app.finish().status.success());
}

fn the_apps_end_is_a_sigchld_and_a_status_for_waitpid() {
    let daemon = Daemon::start();
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    let mut app =
        App::start(&daemon.launch(probe_package()), &["say here", "wait", "exit 33"]).unwrap();
    assert_eq!(app.line(), "say: here");
    // From here on: the helper's SIGCHLD has come and gone.
    mask.thread_block().unwrap();
    let children = SignalFd::with_flags(&mask, SfdFlags::empty()).unwrap();
    let pid = app.rocker.app_pid();
    app.go_on();
    let told = children.read_signal().unwrap().expect("it blocks");
    assert_eq!(told.ssi_pid, pid);
    assert_eq!(told.ssi_status, 33);
    let pid = Pid::from_raw(pid.cast_signed());
    // A plain wait, as for any child: no __WALL, no pidfd.
    assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, 33)));
    assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
}

fn an_app_starts_and_ends_while_sigchld_is_ignored() {
    let daemon = Daemon::start();
    // SAFETY: ignoring runs no code.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.unwrap();
    for _ in 0..5 {
        let mut app = App::start(&daemon.launch(probe_package()), &["say spawned"]).unwrap();
        assert_eq!(app.line(), "say: spawned");
        assert!(app.rocker.wait().is_err(), "the kernel has reaped it for us");
        assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
        let (entered, text) = with_output(|| {
            // SAFETY: one thread, as above.
            let rocker = unsafe {
                daemon.launch(probe_package()).enter(|| {
                    facts::run(&["say entered"]);
                    0
                })
            };
            replayed(rocker).expect("it starts").wait_gone(Some(SOON)).unwrap()
        });
        assert_eq!((entered, text.as_str()), (true, "say: entered\n"));
    }
    // SAFETY: the default runs no code of ours.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.unwrap();
}

fn exit_statuses_and_signals_arrive_as_they_were() {
    use std::os::unix::process::ExitStatusExt;
    let daemon = Daemon::start();
    for status in [0, 1, 77, 255] {
        let answer = daemon.probe(&[&format!("exit {status}")]);
        assert_eq!(answer.status.code(), Some(status));
    }
    for number in [2, 6, 9, 15] {
        let answer = daemon.probe(&[&format!("die {number}")]);
        assert_eq!(answer.status.signal(), Some(number));
    }
}

fn any_number_of_directories_is_overlaid() {
    let daemon = Daemon::start();
    let host = scratch();
    let mut dirs = vec![];
    for number in 0..16 {
        let dir = host.path().join(format!("dir{number}"));
        tests::scratch::directory(&dir, 0o777, 0);
        dirs.push(dir.to_str().unwrap().to_owned());
    }
    for count in [0, 1, 5, 16] {
        let dirs: Vec<&str> = dirs.iter().take(count).map(String::as_str).collect();
        let commands: Vec<String> =
            dirs.iter().map(|dir| format!("write {dir}/new of the App")).collect();
        let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
        let answer = daemon.probe_overlaid(&dirs, &commands);
        for (dir, command) in dirs.iter().zip(&commands) {
            assert_eq!(answer.one(command), "ok");
            assert!(tests::scratch::names(dir).is_empty(), "the host's {dir} stays as it was");
        }
    }
    // overlay.0, as "auto": everything but /proc, /sys, /dev and /run.
    let launch = daemon.launch(probe_package()).data_dir(daemon.data_dir()).overlay_all();
    let answer = app::run(&launch, &["mounts", "say lives"]);
    for top in ["/usr", "/etc", "/var"] {
        let kinds = answer.all(&format!("at {top}"));
        assert!(kinds.iter().any(|kind| kind.starts_with("overlay ")), "{top}: {kinds:?}");
    }
    for top in ["/", "/proc", "/sys", "/dev", "/run"] {
        let kinds = answer.all(&format!("at {top}"));
        assert!(kinds.iter().all(|kind| !kind.starts_with("overlay ")), "{top}: {kinds:?}");
    }
    assert_eq!(answer.one("say"), "lives");
}

fn the_trace_reads_as_the_diagrams_do() {
    let daemon = Daemon::start();
    let launch = daemon.overlaid(probe_package(), &["/usr", "/etc"]).trace(true);
    let mut app = App::start(&launch, &["say hello"]).unwrap();
    let trace = app.rocker.trace().to_vec();
    assert_eq!(app.line(), "say: hello");
    app.finish();
    let taken: Vec<Step> = trace.iter().map(|entry| entry.step).collect();
    let wanted = [
        Step::RequestRocker,
        Step::CreateGuard,
        Step::CloneGuard,
        Step::HandOver,
        Step::CreateLoop,
        Step::BindPackage,
        Step::MountPackage,
        Step::ListTopDirs,
        Step::BuildOverlay,
        Step::MountOverlay,
        Step::RemountProc,
        Step::UnshareUser,
        Step::ReportDone,
        Step::SetIdMaps,
        Step::ReleaseGuard,
        Step::SendEntrance,
        Step::ForkHelper,
        Step::JoinNamespaces,
        Step::RunApp,
        Step::ReportApp,
    ];
    for step in wanted {
        assert!(taken.contains(&step), "{step} is missing in {taken:?}");
    }
    // As drawn, within each diagram and for each actor. prepare.3 ends after prepare.4.
    for entry in &trace {
        assert!(entry.errno.is_none(), "{entry:?}");
        assert!(entry.began_ns > 0 && entry.took_ns < 5_000_000_000, "{entry:?}");
        assert!(!entry.command.contains('\n'), "{entry:?}");
    }
    for diagram in 0..4 {
        let mut own: Vec<_> = trace.iter().filter(|e| e.step.code() >> 4 == diagram).collect();
        // By their ends: whoever waits for a step begins before it does. But the helper is at
        // work before the client that forked it has returned.
        own.sort_by_key(|entry| match entry.step {
            Step::ForkHelper => entry.began_ns,
            _ => entry.began_ns + entry.took_ns,
        });
        let mut firsts = vec![];
        for entry in own {
            if !firsts.contains(&entry.step) {
                firsts.push(entry.step);
            }
        }
        assert!(firsts.is_sorted(), "diagram {diagram}: {firsts:?}");
    }
}

fn a_launch_without_trace_has_none() {
    let daemon = Daemon::start();
    let app = App::start(&daemon.launch(probe_package()), &[]).unwrap();
    assert!(app.rocker.trace().is_empty());
    app.finish();
}

fn pids_and_pidfds_are_those_of_guard_and_app() {
    let daemon = Daemon::start();
    let mut app = App::start(&daemon.launch(probe_package()), &["processes", "wait"]).unwrap();
    let seen = app.line();
    let seen: Vec<&str> = seen.trim_start_matches("processes: ").split(' ').collect();
    assert_eq!((seen.len(), seen[0]), (2, "1"), "guard and App alone: {seen:?}");
    let (guard, own) = (app.rocker.guard_pid(), app.rocker.app_pid());
    let number_inside =
        |pid: u32| process::status(pid)["NSpid"].rsplit(' ').next().unwrap().to_owned();
    assert_eq!([number_inside(guard), number_inside(own)], seen.as_slice());
    assert_eq!(process::stat(guard).unwrap().ppid, daemon.pid());
    for (pidfd, pid) in [(app.rocker.guard_pidfd(), guard), (app.rocker.app_pidfd(), own)] {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()));
        assert!(info.unwrap().lines().any(|line| line == format!("Pid:\t{pid}")));
        let flags = rustix::io::fcntl_getfd(pidfd).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
    app.finish();
}

fn the_master_lists_the_living_rockers() {
    let daemon = Daemon::start();
    let list = || rocker_client::list(daemon.socket(), SOON).unwrap();
    assert!(list().is_empty());
    let package = probe_package();
    let apps: Vec<App> = (1..=3)
        .map(|id| App::start(&daemon.launch(&package).app_id(id), &["wait"]).unwrap())
        .collect();
    let mut listed = list();
    listed.sort_by_key(|entry| entry.app_id);
    for (app, entry) in apps.iter().zip(&listed) {
        assert_eq!(entry.name, app.rocker.guard_name());
        assert_eq!((entry.guard_pid, entry.uid), (app.rocker.guard_pid(), APP_UID));
        assert_eq!(entry.package, package);
        assert!(entry.age < Duration::from_secs(30));
    }
    assert_eq!(listed.len(), 3);
    let names: HashSet<_> = listed.iter().map(|entry| entry.name).collect();
    assert_eq!(names.len(), 3);
    apps.into_iter().for_each(|app| drop(app.finish()));
    assert!(within(SOON, || list().is_empty()));
}

fn descriptors_named_by_the_caller_are_handed_down_in_order() {
    let daemon = Daemon::start();
    let dir = scratch();
    let open = |name: &str| {
        std::fs::write(dir.path().join(name), name).unwrap();
        std::fs::File::open(dir.path().join(name)).unwrap()
    };
    let program = Program::new("bin/probe").arg("fds").keep_fd(open("a")).keep_fd(open("b"));
    let app = App::start_program(&daemon.launch(probe_package()), program).unwrap();
    let answer = app.finish();
    assert!(answer.one("fd 3").ends_with("/a") && answer.one("fd 4").ends_with("/b"));
    assert_eq!(answer.one("fds"), "0 1 2 3 4");
}

fn arguments_environment_and_directory_arrive() {
    let daemon = Daemon::start();
    let package = Package::with_probe().directory("deep/er", 0o755).build();
    let program = || Program::new("bin/probe").args(["environ", "cwd", "say a  b"]);
    let run = |program| App::start_program(&daemon.launch(&package), program).unwrap().finish();
    let plain = run(program());
    assert_eq!(plain.one("environ"), "", "nothing is inherited");
    assert_eq!(plain.one("cwd"), daemon.exec_dir().to_str().unwrap());
    let deep = Program::new(daemon.exec_dir().join("bin/probe")).args(["environ", "cwd"]);
    let set = run(deep.env("A", "1").env("B", "two words").cwd("deep/er"));
    assert_eq!(set.one("environ"), "A=1 B=two words");
    assert_eq!(set.one("cwd"), daemon.exec_dir().join("deep/er").to_str().unwrap());
    // A relative program begins at the working directory.
    let lost = replayed(daemon.launch(&package).spawn(&program().cwd("/"))).unwrap_err();
    assert!(lost.is_at_exec(), "{lost}");
}

fn a_caller_with_threads_launches_from_all_of_them() {
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let launch = &launch;
            scope.spawn(move || {
                for round in 0..4 {
                    let word = format!("say {thread}.{round}");
                    assert_eq!(app::run(launch, &[&word]).one("say"), &word[4..]);
                }
            });
        }
    });
}

fn regression_the_guards_name_is_its_real_one() {
    let daemon = Daemon::start();
    let app = App::start(&daemon.launch(probe_package()), &["wait"]).unwrap();
    let name = app.rocker.guard_name().to_string();
    assert_eq!(guard_name(app.rocker.guard_pid()).unwrap(), name);
    assert_eq!(process::stat(app.rocker.guard_pid()).unwrap().comm, name);
    assert_eq!(name.len(), 15);
    assert!(name.bytes().all(|b| b.is_ascii_hexdigit()));
    // So the safe kill works.
    rocker_client::kill_by_name(daemon.socket(), &name, Duration::from_millis(1)).ok();
    assert!(!app.finish().status.success());
}

fn regression_a_slow_app_keeps_its_rocker_beyond_the_deadline() {
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package()).timeout(Duration::from_millis(400));
    let answer = app::run(&launch, &["sleep 1200", "processes", "read share/hello"]);
    assert!(answer.one("processes").starts_with("1 "), "its guard is there");
    assert_eq!(answer.one("read share/hello"), "hello");
}

fn regression_launches_leak_no_descriptor_and_no_memory() {
    let daemon = Daemon::start();
    let launch = daemon.overlaid(probe_package(), &["/etc"]);
    let run = |times: u32| (0..times).for_each(|_| drop(app::run(&launch, &[])));
    run(30);
    daemon.settle(0);
    let (ours, theirs, memory) = (process::fds(std::process::id()), daemon.fds(), daemon.rss_kib());
    run(100);
    daemon.settle(0);
    assert_eq!(process::fds(std::process::id()), ours);
    assert_eq!(daemon.fds(), theirs);
    assert!(daemon.rss_kib() <= memory + 64, "{memory} -> {} KiB", daemon.rss_kib());
    assert!(daemon.rss_kib() <= 4096, "{} KiB", daemon.rss_kib());
}

fn regression_requests_beyond_512_bytes_arrive_whole() {
    let daemon = Daemon::start();
    let host = scratch();
    let name = "n".repeat(250);
    let mut dirs = vec![];
    for number in 0..16 {
        let dir = host.path().join(format!("{number}{name}")).join(&name).join(&name);
        tests::scratch::directory(&dir, 0o777, 0);
        dirs.push(dir.to_str().unwrap().to_owned());
    }
    let request: usize = dirs.iter().map(String::len).sum();
    assert!(request > 12_000);
    let dirs: Vec<&str> = dirs.iter().map(String::as_str).collect();
    let last = format!("write {}/x end", dirs[15]);
    assert_eq!(daemon.probe_overlaid(&dirs, &[&last]).one(&last), "ok");
    assert!(tests::scratch::names(dirs[15]).is_empty());
}

fn regression_no_id_is_ever_taken_for_zero() {
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package());
    // root that names nobody would be the App's user itself: refused, not guessed.
    let unnamed = Launch::new(probe_package()).socket(daemon.socket()).exec_dir(daemon.exec_dir());
    for (launch, words) in [
        (unnamed, "uid 0: "),
        (launch.clone().gid(0), "gid 0: "),
        (launch.clone().uid(0), "uid 0: "),
        (launch.clone().gid(u32::MAX), "gid 4294967295: "),
        (launch.clone().uid(u32::MAX), "uid 4294967295: "),
    ] {
        let error = app::refused(&launch).to_string();
        assert!(error.starts_with(words), "{error}");
    }
    let answer = app::run(&launch, &["ids"]);
    assert_eq!(answer.one("getresgid"), format!("{APP_GID} {APP_GID} {APP_GID}"));
}

fn regression_failed_and_ended_launches_leave_no_zombie() {
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package());
    let children = |of: u32| {
        let all = process::descendants(of).into_iter();
        all.filter(|(_, stat)| stat.ppid == of).collect::<Vec<_>>()
    };
    for _ in 0..5 {
        app::run(&launch, &[]);
        app::refused(&launch.clone().exec_dir("/nowhere/at/all"));
    }
    // The App that could not execute its program dies while the launch already returns.
    for _ in 0..100 {
        let missing = replayed(launch.spawn(&Program::new("bin/missing"))).unwrap_err();
        assert!(missing.is_at_exec());
    }
    let left = children(std::process::id());
    assert_eq!(left.len(), 1, "more than the master: {left:?}");
    assert!(within(SOON, || children(daemon.pid()).is_empty()), "no zombie of a guard");
}

fn regression_no_call_hangs_when_the_master_says_nothing() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
    let dir = scratch();
    let path = dir.path().join("mute.sock");
    let mute = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    bind(&mute, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&mute, 1).unwrap();
    let launch = Launch::new(probe_package()).socket(&path).uid(APP_UID).gid(APP_GID);
    let limit = Duration::from_millis(300);
    let began = Instant::now();
    // The first fills the queue, so that one of the others cannot even connect.
    for _ in 0..4 {
        let error = app::refused(&launch.clone().timeout(limit));
        assert!(matches!(
            error.kind(),
            protocol::Error::Lost { .. } | protocol::Error::Failed { .. }
        ));
    }
    assert!(rocker_client::list(&path, limit).is_err());
    assert!(rocker_client::kill_by_name(&path, "0123456789abcde", limit).is_err());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}
