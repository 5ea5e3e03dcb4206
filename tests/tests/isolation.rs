//! A hostile App, and hostile users of the host: what they try, and what comes of it.
#![allow(unsafe_code, reason = "terminals have no safe form here")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::ptr::null_mut;
use core::time::Duration;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Instant;

use rocker_client::{Launch, OpenRocker, Seccomp};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType, connect, send, socket};
use tests::app::{self, Answer, App};
use tests::scratch::directory;
use tests::{APP_GID, APP_UID, Daemon, Leaks, Program, SOON};
use tests::{probe, probe_package, process, replayed, runner, within};

fn main() -> ExitCode {
    runner::main(tests::root![
        the_guard_cannot_be_looked_into_from_inside,
        the_guard_takes_no_signal_from_inside,
        the_guard_is_nobody_in_particular,
        the_guard_is_no_second_door_for_its_own_user,
        starving_the_guard_harms_its_own_rocker_alone,
        nothing_is_mounted_or_unmounted_from_inside,
        a_user_namespace_of_its_own_unlocks_nothing,
        namespaces_of_others_cannot_be_joined,
        setuid_programs_give_nothing,
        no_device_can_be_made,
        the_devices_are_those_that_harm_nobody,
        devices_connect_rockers_of_one_user_at_most,
        memory_is_shared_within_a_rocker_alone,
        what_has_a_number_or_a_queues_name_is_the_rockers,
        the_hosts_devices_are_for_who_asks,
        a_device_that_is_named_is_what_it_is_outside,
        nothing_can_be_typed_into_the_callers_terminal,
        consoles_are_out_of_reach,
        programs_in_layers_are_nothing_outside,
        keys_of_callers_and_of_the_master_stay_theirs,
        other_rockers_cannot_be_seen,
        the_programs_of_rocker_cannot_be_written_to,
        the_master_refuses_requests_from_inside_even_of_allowed_users,
        others_see_and_kill_only_their_own_rockers,
        silent_garbled_and_dying_clients_delay_nobody,
        a_hundred_descriptors_are_closed_again,
        regression_no_local_user_makes_root_mount_what_it_likes,
        regression_the_app_is_not_the_hosts_root,
    ])
}

fn the_guard_cannot_be_looked_into_from_inside() {
    let daemon = Daemon::start();
    let tries = [
        "ptrace-attach 1",
        "ptrace-seize 1",
        "steal-memory 1",
        "steal-fd 1 0",
        "steal-fd 1 3",
        "open /proc/1/mem",
        "open-w /proc/1/mem",
        "open /proc/1/environ",
        "open /proc/1/exe",
        "open-w /proc/1/exe",
        "open /proc/1/root/etc/passwd",
        "open /proc/1/cwd/etc/passwd",
        "ls /proc/1/fd",
        "ls /proc/1/map_files",
        "readlink /proc/1/exe",
        "readlink /proc/1/ns/mnt",
        "open-w /proc/1/oom_score_adj",
        "open-w /proc/1/uid_map",
    ];
    let launch = daemon.launch(probe_package());
    let free = launch.clone().seccomp(Seccomp::Unconfined).user_namespaces(true);
    // Plainly, without a filter, and with every capability in a user namespace of its own.
    let inside = ["unshare user"].into_iter().chain(tries).collect::<Vec<_>>();
    for (launch, commands) in [(&launch, tries.to_vec()), (&free, tries.to_vec()), (&free, inside)]
    {
        let answer = app::run(launch, &commands);
        for command in tries {
            let said = answer.one(command);
            assert!(["EPERM", "EACCES"].contains(&said), "{command}: {said}");
        }
    }
}

fn the_guard_takes_no_signal_from_inside() {
    let daemon = Daemon::start();
    // SIGSTOP, SIGKILL, SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGSEGV, SIGUSR1, SIGTSTP
    let signals = [19, 9, 15, 2, 1, 17, 11, 10, 20].map(|number| format!("kill 1 {number}"));
    let mut commands: Vec<&str> = signals.iter().map(String::as_str).collect();
    commands.extend(["say done", "wait", "read share/hello"]);
    let mut app = App::start(&daemon.launch(probe_package()), &commands).unwrap();
    while app.line() != "say: done" {}
    let state = || process::stat(app.rocker.guard_pid()).map(|stat| stat.state);
    assert!(within(SOON, || state() == Some('S')), "neither stopped nor gone: {:?}", state());
    assert_eq!(app.finish().one("read share/hello"), "hello");
}

fn the_guard_is_nobody_in_particular() {
    let daemon = Daemon::start();
    let launch = daemon.overlaid(probe_package(), &["/etc"]);
    let mut app = App::start(&launch, &["say here", "wait"]).unwrap();
    assert_eq!(app.line(), "say: here");
    let guard = app.rocker.guard_pid();
    let status = process::status(guard);
    assert_eq!(status["Uid"], format!("{APP_UID} {APP_UID} {APP_UID} {APP_UID}"));
    assert_eq!(status["Gid"], format!("{APP_GID} {APP_GID} {APP_GID} {APP_GID}"));
    assert_eq!(status["Groups"], "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[set], "0000000000000000", "{set}");
    }
    assert_eq!(status["NoNewPrivs"], "1");
    assert_eq!(status["Threads"], "1");
    // Not dumpable: its files in /proc are root's.
    let owner =
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{guard}/mem")).unwrap());
    assert_eq!(owner, 0);
    // What it holds: nothing of the host but the lock on its layers. Both ends of the pair through
    // which the master passes callers on to it are its own, and so is the `/proc` that it looks
    // for others in.
    let held = process::fd_links(guard);
    assert_eq!(held.values().filter(|link| link.starts_with("socket:")).count(), 2);
    for (fd, link) in held {
        let is_its_own = link == "/dev/null"
            || link == "/proc"
            || link.starts_with("anon_inode:")
            || link.starts_with("pipe:")
            || link.starts_with("socket:")
            || link.ends_with("/.rocker");
        assert!(is_its_own, "descriptor {fd}: {link}");
    }
    assert_eq!(fs::read_link(format!("/proc/{guard}/cwd")).unwrap().as_os_str(), "/");
    app.finish();
}

/// Runs the probe outside, as the App's user.
fn as_user(daemon: &Daemon, commands: &[&str]) -> Answer {
    let program = daemon.path("probe");
    if !program.exists() {
        fs::copy(probe(), &program).unwrap();
    }
    let output = Command::new(program).uid(APP_UID).gid(APP_GID).args(commands).output().unwrap();
    Answer::new(output.status, &String::from_utf8_lossy(&output.stdout))
}

fn the_guard_is_no_second_door_for_its_own_user() {
    let daemon = Daemon::start();
    let mut app = App::start(&daemon.launch(probe_package()), &["say here", "wait"]).unwrap();
    app.line();
    let guard = app.rocker.guard_pid();
    let tries = [
        format!("ptrace-attach {guard}"),
        format!("steal-memory {guard}"),
        format!("steal-fd {guard} 0"),
        format!("open /proc/{guard}/mem"),
        format!("ls /proc/{guard}/root"),
        format!("setns /proc/{guard}/ns/mnt"),
    ];
    let tries: Vec<&str> = tries.iter().map(String::as_str).collect();
    let answer = as_user(&daemon, &tries);
    for command in tries {
        let said = answer.one(command);
        assert!(["EPERM", "EACCES"].contains(&said), "{command}: {said}");
    }
    app.finish();
}

fn starving_the_guard_harms_its_own_rocker_alone() {
    let daemon = Daemon::start();
    let mut other =
        App::start(&daemon.launch(probe_package()), &["say here", "wait", "say still"]).unwrap();
    assert_eq!(other.line(), "say: here");
    let leaks = Leaks::snapshot();
    let commands = ["starve-fds 1", "daemon sleep 400", "say done", "kill 1 9"];
    let mut app = App::start(&daemon.launch(probe_package()), &commands).unwrap();
    while !["say: done", ""].contains(&app.line().as_str()) {}
    app.go_on();
    let _ = app.rocker.wait();
    assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
    drop(app);
    leaks.assert_none();
    assert_eq!(other.finish().one("say"), "still");
    assert!(daemon.is_well());
}

fn nothing_is_mounted_or_unmounted_from_inside() {
    let daemon = Daemon::start();
    let exec = daemon.exec_dir();
    let exec = exec.to_str().unwrap();
    let tries = [
        "mount-tmpfs /mnt".to_owned(),
        "mount-proc /proc".to_owned(),
        "bind /etc /mnt".to_owned(),
        format!("remount-rw {exec}"),
        format!("umount {exec}"),
        "remount-rw /".to_owned(),
        "umount /etc".to_owned(),
        "umount /proc".to_owned(),
        "pivot / /mnt".to_owned(),
        "chroot /".to_owned(),
        "fsopen tmpfs".to_owned(),
        "clone-tree /".to_owned(),
        "unshare mnt".to_owned(),
        "unshare pid".to_owned(),
    ];
    let tries: Vec<&str> = tries.iter().map(String::as_str).collect();
    let launch = daemon.overlaid(probe_package(), &["/etc"]);
    // The filter is one wall, and the lack of capabilities another.
    for launch in [launch.clone(), launch.seccomp(Seccomp::Unconfined)] {
        let answer = app::run(&launch, &tries);
        for command in &tries {
            assert_eq!(answer.one(command), "EPERM", "{command}");
        }
    }
}

fn a_user_namespace_of_its_own_unlocks_nothing() {
    let daemon = Daemon::start();
    let host = directory(daemon.path("host"), 0o777, 0);
    let (exec, dir) = (daemon.exec_dir(), host.to_str().unwrap());
    let exec = exec.to_str().unwrap();
    let tries = [
        (format!("umount {exec}"), "EINVAL"),
        (format!("umount {dir}"), "EINVAL"),
        ("umount /proc".to_owned(), "EINVAL"),
        (format!("remount-rw {exec}"), "EPERM"),
        ("bind / /mnt".to_owned(), "EINVAL"),
        ("mount-proc /mnt".to_owned(), "EPERM"),
        (format!("write {exec}/x y"), "EROFS"),
        ("mknod /tmp/null".to_owned(), "EPERM"),
        ("ptrace-attach 1".to_owned(), "EPERM"),
        ("setns /proc/1/ns/mnt".to_owned(), "EACCES"),
        ("open-w /etc/shadow".to_owned(), "EACCES"),
    ];
    let commands: Vec<&str> = ["unshare user mnt"]
        .into_iter()
        .chain(tries.iter().map(|(command, _)| command.as_str()))
        .collect();
    let launch = daemon.overlaid(probe_package(), &[dir]).user_namespaces(true);
    let answer = app::run(&launch, &commands);
    let made = answer.one("unshare user mnt");
    if made != "ok" {
        runner::skip(&format!("this kernel does not let users make namespaces: {made}"));
    }
    for (command, wanted) in &tries {
        assert_eq!(answer.one(command), *wanted, "{command}");
    }
}

fn namespaces_of_others_cannot_be_joined() {
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package());
    for launch in [launch.clone(), launch.seccomp(Seccomp::Unconfined)] {
        let answer = app::run(
            &launch,
            &[
                "setns /proc/1/ns/mnt",
                "setns /proc/1/ns/user",
                "setns /proc/self/ns/mnt",
                "setns /proc/self/ns/pid",
                "setns /proc/self/ns/net",
            ],
        );
        assert_eq!(answer.one("setns /proc/1/ns/mnt"), "EACCES");
        assert_eq!(answer.one("setns /proc/1/ns/user"), "EACCES");
        for own in ["mnt", "pid", "net"] {
            assert_eq!(answer.one(&format!("setns /proc/self/ns/{own}")), "EPERM");
        }
    }
}

fn setuid_programs_give_nothing() {
    let daemon = Daemon::start();
    let host = directory(daemon.path("host"), 0o755, 0);
    for (name, owner) in [("of-root", 0), ("of-another", 1000)] {
        let program = host.join(name);
        fs::copy(probe(), &program).unwrap();
        std::os::unix::fs::chown(&program, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
    }
    let dir = host.to_str().unwrap();
    // On the host's own mount, and through an overlay.
    for launch in [daemon.launch(probe_package()), daemon.overlaid(probe_package(), &[dir])] {
        for name in ["of-root", "of-another"] {
            let answer = app::run(&launch, &[&format!("run {dir}/{name} ids")]);
            assert_eq!(answer.one("uid"), format!("{APP_UID} {APP_UID} {APP_UID} {APP_UID}"));
            assert_eq!(answer.one("gid"), format!("{APP_GID} {APP_GID} {APP_GID} {APP_GID}"));
        }
    }
}

fn no_device_can_be_made() {
    let daemon = Daemon::start();
    let host = directory(daemon.path("host"), 0o777, 0);
    // One that is there already, in a directory that is overlaid nodev.
    let node = host.join("null");
    let kind = rustix::fs::FileType::CharacterDevice;
    let device = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(rustix::fs::CWD, &node, kind, 0o666.into(), device).unwrap();
    fs::set_permissions(&node, fs::Permissions::from_mode(0o666)).unwrap();
    let dir = host.to_str().unwrap();
    let (open, make) = (format!("open {dir}/null"), format!("mknod {dir}/new"));
    let answer = daemon.probe_overlaid(&[dir], &[&open, &make, "open /dev/null"]);
    assert_eq!((answer.one(&open), answer.one(&make)), ("EACCES", "EPERM"));
    assert_eq!(answer.one("open /dev/null"), "ok");
}

fn the_devices_are_those_that_harm_nobody() {
    let daemon = Daemon::start();
    let names = "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero";
    let commands = [
        "ls /dev",
        "ls /dev/pts",
        "stat /dev/null",
        "open-w /dev/null",
        "open-w /dev/full",
        "open /dev/urandom",
        "open /dev/ptmx",
        "open /dev/fd",
        "flags /dev",
        "flags /dev/shm",
        "write /dev/new x",
        "mkdir /dev/pts/new",
        "unlink /dev/null",
        "chmod 600 /dev/null",
        "umount /dev/pts",
        "umount /dev",
        "mknod /dev/shm/null",
        "mounts",
    ];
    let launches = [daemon.launch(probe_package()), daemon.overlaid(probe_package(), &["/etc"])];
    for answer in launches.iter().flat_map(|launch| app::both_ways(launch, &commands)) {
        let said = |command| answer.one(command);
        assert_eq!((said("ls /dev"), said("ls /dev/pts")), (names, "ptmx"));
        assert_eq!(said("stat /dev/null"), "device 0666 65534 65534");
        for command in commands.iter().filter(|it| it.starts_with("open")) {
            assert_eq!(said(command), "ok", "{command}");
        }
        assert_eq!((said("flags /dev"), said("flags /dev/shm")), ("ro nosuid", "nosuid nodev"));
        assert_eq!((said("write /dev/new x"), said("mkdir /dev/pts/new")), ("EROFS", "EACCES"));
        for command in &commands[12..17] {
            let refused = ["EPERM", "EROFS", "EACCES"].contains(&said(command));
            assert!(refused, "{command}: {}", said(command));
        }
        for (own, kind) in [("at /dev/shm", "tmpfs "), ("at /dev/pts", "devpts ")] {
            // The host's are there, and covered.
            assert!(answer.all(own).last().is_some_and(|last| last.starts_with(kind)), "{own}");
        }
    }
}

fn devices_connect_rockers_of_one_user_at_most() {
    let daemon = Daemon::start();
    let start = |uid| {
        let launch = daemon.launch(probe_package()).uid(uid);
        let mut app = App::start(&launch, &["say on", "wait"]).unwrap();
        assert_eq!(app.line(), "say: on");
        app
    };
    let apps = [APP_UID, APP_UID, APP_UID - 1].map(start);
    let zero = |app: &App| {
        let path = format!("/proc/{}/root/dev/zero", app.rocker.guard_pid());
        std::os::linux::fs::MetadataExt::st_dev(&fs::metadata(path).unwrap())
    };
    assert_eq!(zero(&apps[0]), zero(&apps[1]));
    assert_ne!(zero(&apps[0]), zero(&apps[2]));
    // There may be more users than the master has devices for at a time.
    // The last of these launches may not be over for it yet.
    let before = daemon.fds();
    for uid in APP_UID - 8..APP_UID - 1 {
        let launch = daemon.launch(probe_package()).uid(uid);
        assert_eq!(app::run(&launch, &["open-w /dev/null"]).one("open-w /dev/null"), "ok");
    }
    assert!(within(SOON, || daemon.fds() <= before), "{before} -> {}", daemon.fds());
    // The host has a number of terminals for all together.
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", apps[0].rocker.guard_pid()));
    assert!(
        mounts.unwrap().lines().any(|line| line.contains("/dev/pts") && line.contains("max=64"))
    );
    apps.into_iter().for_each(|app| drop(app.finish()));
}

fn memory_is_shared_within_a_rocker_alone() {
    let daemon = Daemon::start();
    let name = format!("rocker-test-{}", std::process::id());
    let file = format!("/dev/shm/{name}");
    let (write, read) = (format!("write {file} x"), format!("read {file}"));
    let mut app = App::start(&daemon.launch(probe_package()), &[&write, "say on", "wait"]).unwrap();
    assert_eq!(app.line(), format!("{write}: ok"));
    assert_eq!(app.line(), "say: on");
    assert!(!fs::exists(&file).unwrap());
    let fill = format!("run /bin/dd if=/dev/zero of={file} bs=1M count=65");
    let answer = daemon.probe(&[&read, "ls /dev/shm", &fill, "stat /dev/shm"]);
    assert_eq!((answer.one(&read), answer.one("ls /dev/shm")), ("ENOENT", ""));
    assert_eq!(answer.one("stat /dev/shm"), "dir 1777 65534 65534");
    assert_eq!(answer.one(&fill), "exit status: 1", "64 MiB are all there is");
    app.go_on();
    app.finish();
}

fn what_has_a_number_or_a_queues_name_is_the_rockers() {
    let daemon = Daemon::start();
    let [make, find] = app::numbered();
    let [make, find] = [&make, &find].map(|all| all.iter().map(String::as_str).collect::<Vec<_>>());
    let launch = daemon.launch(probe_package());
    let mut app = App::start(&launch, &[&make[..], &["wait"]].concat()).unwrap();
    for command in &make {
        assert_eq!(app.line(), format!("{command}: ok"));
    }
    let assert_all = |answer: &Answer, what: &str, who: &str| {
        find.iter().for_each(|command| assert_eq!(answer.one(command), what, "{who}: {command}"));
    };
    let outside = || {
        let said = Command::new(probe()).args(&find).output().unwrap();
        Answer::new(said.status, core::str::from_utf8(&said.stdout).unwrap())
    };
    let name = app.rocker.guard_name();
    let mut attached = OpenRocker::attach(daemon.socket(), name.as_str(), SOON).unwrap();
    let text = app::commanded(&mut attached, Program::new("bin/probe").args(&find));
    assert_all(&Answer::new(ExitStatus::default(), &text), "ok", "who is attached");
    let mut exec = Command::new(tests::bin("rocker"));
    exec.arg("exec").arg("--socket").arg(daemon.socket()).args([name.as_str(), "--", "bin/probe"]);
    let said = exec.args(&find).output().unwrap();
    let answer = Answer::new(said.status, core::str::from_utf8(&said.stdout).unwrap());
    assert_all(&answer, "ok", "rocker exec");
    assert_all(&outside(), "ENOENT", "the host");
    for other in app::both_ways(&launch, &find) {
        assert_all(&other, "ENOENT", "another rocker");
    }
    drop(attached);
    app.finish();
    assert_all(&outside(), "ENOENT", "the host, at the end");
    assert_all(&app::run(&launch, &find), "ENOENT", "the next rocker");
}

fn the_hosts_devices_are_for_who_asks() {
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package()).host_dev();
    for answer in app::both_ways(&launch, &["ls /dev", "ls /dev/pts"]) {
        for dir in ["/dev", "/dev/pts"] {
            let names = tests::scratch::names(dir).join(" ");
            assert_eq!(answer.one(&format!("ls {dir}")), names);
        }
    }
}

fn a_device_that_is_named_is_what_it_is_outside() {
    let name = format!("/dev/rocker-test-{}", std::process::id());
    let dir = directory(&name, 0o755, 0);
    let [own, others, theirs] = ["own", "others", "theirs"].map(|name| dir.join(name));
    let kind = rustix::fs::FileType::CharacterDevice;
    for (node, mode) in [(&own, 0o660), (&others, 0o664), (&theirs, 0o660)] {
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(rustix::fs::CWD, node, kind, mode.into(), null).unwrap();
        fs::set_permissions(node, fs::Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::chown(&own, None, Some(APP_GID)).unwrap();
    symlink("own", dir.join("link")).unwrap();
    // Who may not get there on the host may not in a rocker.
    let shut = directory(dir.join("shut"), 0o700, 0).join("null");
    rustix::fs::mknodat(rustix::fs::CWD, &shut, kind, 0o666.into(), rustix::fs::makedev(1, 3))
        .unwrap();
    symlink("/proc/self/fd/0", dir.join("out")).unwrap();
    symlink("../shm/x", dir.join("away")).unwrap();
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package());
    let named =
        ["own", "others", "link"].iter().fold(launch.clone(), |it, at| it.device(dir.join(at)));
    let [own, others, link] = ["own", "others", "link"].map(|at| format!("{name}/{at}"));
    let commands = [
        format!("ls {name}"),
        format!("stat {own}"),
        format!("open-w {own}"),
        format!("stat {link}"),
        format!("open-w {others}"),
        format!("chmod 666 {others}"),
        format!("unlink {own}"),
    ];
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    for answer in app::both_ways(&named, &commands) {
        let said: Vec<&str> = commands.iter().map(|command| answer.one(command)).collect();
        let mine = format!("device 0660 65534 {APP_GID}");
        assert_eq!(said[..6], ["link others own", &mine, "ok", &mine, "EACCES", "EROFS"]);
        assert_eq!(said[6], "EROFS");
    }
    let read = format!("open-w {}", shut.display());
    assert_eq!(app::run(&launch.clone().device(&shut), &[&read]).one(&read), "EACCES");
    // The next one has none of them.
    let at = format!("ls {name}");
    assert_eq!(app::run(&launch, &[&at]).one(&at), "ENOENT");
    for (path, why) in [
        (format!("{name}/nope"), "the host has no such device"),
        (format!("{name}/own/nope"), "the host has no such device"),
        (name.clone(), "it is no device, or not on the file system of /dev"),
        (format!("{name}/out"), "it is no device, or not on the file system of /dev"),
        (format!("{name}/away"), "it is no device, or not on the file system of /dev"),
        (
            format!("{name}/theirs"),
            "the App's uid and gid may neither read nor write it; give it one that may: \
             owner 0, group 0, mode 660",
        ),
        ("/dev/null".to_owned(), "it is there already"),
        ("/etc/passwd".to_owned(), "it is not a file of the kind needed here"),
    ] {
        // After one that is good.
        let error = app::refused(&launch.clone().device(dir.join("own")).device(&path));
        assert_eq!(error.to_string(), format!("device {path}: {why}"));
    }
    drop(daemon);
    fs::remove_dir_all(&dir).unwrap();
}

fn nothing_can_be_typed_into_the_callers_terminal() {
    let daemon = Daemon::start();
    let (mut ours, mut theirs) = (-1, -1);
    // SAFETY: the two places are live; no name, attributes or size are asked for or given.
    let made = unsafe {
        libc::openpty(&raw mut ours, &raw mut theirs, null_mut(), null_mut(), null_mut())
    };
    assert_eq!(made, 0);
    // SAFETY: openpty has just made both, and nobody else knows of them.
    let [ours, terminal] = [ours, theirs].map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    // Closed at our end, it would be a SIGHUP for the leader of its session: this process.
    core::mem::forget(ours);
    nix::unistd::setsid().unwrap();
    // SAFETY: it takes a number, and makes the terminal this session's own.
    assert_eq!(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }, 0);
    let launch = daemon.launch(probe_package());
    let free = launch.clone().seccomp(Seccomp::Unconfined);
    let push = |launch: &Launch, program: Program| {
        at_terminal(launch, program.arg("push-input"), &terminal)
    };
    // A session of its own is one wall, and the filter another.
    assert_eq!(push(&free, Program::new("bin/probe")), "push-input: EPERM\n");
    assert_eq!(push(&launch, Program::new("bin/probe").keep_session()), "push-input: EPERM\n");
    // Without both it can, where the kernel still does that: the test can fail.
    let kept = push(&free, Program::new("bin/probe").keep_session());
    assert!(["push-input: ok\n", "push-input: EIO\n"].contains(&kept.as_str()), "{kept}");
}

/// What an App says that has this terminal.
fn at_terminal(launch: &Launch, program: Program, terminal: &OwnedFd) -> String {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let program = program.stdin(terminal.try_clone().unwrap()).stdout(writer);
    let mut rocker = replayed(launch.spawn(&program)).unwrap();
    drop(program);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    rocker.wait().unwrap();
    assert!(rocker.wait_gone(Some(SOON)).unwrap());
    text
}

fn consoles_are_out_of_reach() {
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package());
    let names = ["console", "tty0", "tty1", "tty63", "vcs", "vcs1", "vcsa", "vcsu", "fb0", "input"];
    let opens: Vec<String> = names.iter().map(|name| format!("open-w /dev/{name}")).collect();
    let opens: Vec<&str> = opens.iter().map(String::as_str).collect();
    for answer in app::both_ways(&launch, &opens) {
        opens.iter().for_each(|open| assert_eq!(answer.one(open), "ENOENT", "{open}"));
    }
    for answer in app::both_ways(&launch.clone().host_dev(), &opens) {
        for open in &opens {
            let said = answer.one(open);
            assert!(["ENOENT", "EACCES", "EISDIR"].contains(&said), "{open}: {said}");
        }
    }
    // One that is handed down.
    nix::unistd::setsid().unwrap();
    let console = fs::File::options().read(true).write(true).open("/dev/tty1").map(OwnedFd::from);
    let Ok(console) = console else { runner::skip("there is no /dev/tty1") };
    // SAFETY: it takes a number, and makes the terminal this session's own, if nobody else has it.
    if unsafe { libc::ioctl(console.as_raw_fd(), libc::TIOCSCTTY, 0) } != 0 {
        runner::skip("somebody else has /dev/tty1");
    }
    let free = launch.clone().seccomp(Seccomp::Unconfined);
    let ask = |launch: &Launch, program: Program| {
        at_terminal(launch, program.arg("ask-console"), &console)
    };
    let probe = || Program::new("bin/probe");
    assert_eq!(ask(&free, probe()), "ask-console: EPERM\n");
    assert_eq!(ask(&launch, probe().keep_session()), "ask-console: EPERM\n");
    // Without both it can.
    assert_eq!(ask(&free, probe().keep_session()), "ask-console: ok\n");
}

/// Programs that an App leaves in its layers, with whatever it can give them, are of use to nobody
/// outside: nobody gets there, and what is root's there is as the host has it.
fn programs_in_layers_are_nothing_outside() {
    let daemon = Daemon::start();
    let host = directory(daemon.path("host"), 0o777, 0);
    let tool = host.join("tool");
    fs::copy(probe(), &tool).unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o6755)).unwrap();
    let give = format!("give-capability {}", tool.display());
    let given = Command::new(probe()).arg(&give).output().unwrap();
    assert_eq!(given.stdout, format!("{give}: ok\n").as_bytes(), "root may");
    let at = |name: &str| host.join(name).display().to_string();
    let (moved, own) = (at("moved"), at("own"));
    let commands = [
        give.clone(),
        format!("rename {} {moved}", tool.display()),
        format!("open-w {moved}"),
        format!("chmod 6777 {moved}"),
        format!("run /bin/cp bin/probe {own}"),
        format!("chmod 6755 {own}"),
        format!("give-capability {own}"),
        "unshare user".to_owned(),
        format!("write /proc/self/uid_map 0 {APP_UID} 1"),
        "write /proc/self/setgroups deny".to_owned(),
        format!("write /proc/self/gid_map 0 {APP_GID} 1"),
        format!("give-capability {moved}"),
        format!("give-capability {own}"),
    ];
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let launch = daemon.overlaid(probe_package(), &[host.to_str().unwrap()]).user_namespaces(true);
    let answer = app::run(&launch, &commands);
    if answer.one("unshare user") != "ok" {
        runner::skip("this kernel does not let users make namespaces");
    }
    for refused in [&give, &format!("chmod 6777 {moved}"), &format!("give-capability {moved}")] {
        assert_eq!(answer.one(refused), "EPERM", "{refused}");
    }
    assert_eq!(answer.one(&format!("open-w {moved}")), "EACCES");
    assert_eq!(answer.one(&format!("rename {} {moved}", tool.display())), "ok");
    // Without a namespace of its own it may not, in one it may: for whoever is in that.
    assert_eq!(answer.all(&format!("give-capability {own}")), ["EPERM", "ok"]);
    let layers = daemon.data_dir().join(".rocker");
    let list = format!("ls {}", layers.display());
    assert_eq!(as_user(&daemon, &[&list]).one(&list), "EACCES");
    let left = programs_below(&layers);
    assert_eq!(left.len(), 2, "{left:?}");
    for program in left {
        let status = fs::metadata(&program).unwrap();
        let mut value = [0; 24];
        let length = rustix::fs::getxattr(&program, "security.capability", &mut value).unwrap();
        match std::os::unix::fs::MetadataExt::uid(&status) {
            0 => {
                assert_eq!((program.ends_with("moved"), length), (true, 20), "{program:?}");
                assert_eq!(fs::read(&program).unwrap(), fs::read(&tool).unwrap());
            }
            // Version 3: for the namespaces whose root is the App's user.
            owner => {
                assert_eq!((owner, length, value[3]), (APP_UID, 24, 3), "{program:?}");
                assert_eq!(value[20..], APP_UID.to_le_bytes());
            }
        }
    }
}

/// Files below a directory that somebody may execute.
fn programs_below(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: std::path::PathBuf| {
        let status = fs::symlink_metadata(&path).unwrap();
        let is_program = status.is_file() && status.permissions().mode() & 0o111 != 0;
        if status.is_dir() {
            programs_below(&path)
        } else {
            is_program.then_some(path).into_iter().collect()
        }
    };
    entries.flat_map(below).collect()
}

/// The master is started in this session, and so the guard has its keys, too.
fn keys_of_callers_and_of_the_master_stay_theirs() {
    const JOIN_SESSION_KEYRING: i32 = 1;
    const SESSION_KEYRING: i32 = -3;
    // SAFETY: without a name nothing is read.
    let joined =
        unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, core::ptr::null::<u8>()) };
    assert!(joined > 0, "{}", std::io::Error::last_os_error());
    let (kind, name, secret) = (c"user".as_ptr(), c"of-the-session".as_ptr(), c"secret".as_ptr());
    // SAFETY: two strings, and six bytes that are there.
    let key = unsafe { libc::syscall(libc::SYS_add_key, kind, name, secret, 6, SESSION_KEYRING) };
    assert!(key > 0, "{}", std::io::Error::last_os_error());
    let find = "find-key of-the-session";
    let outside = Command::new(probe()).arg(find).output().unwrap();
    assert_eq!(outside.stdout, format!("{find}: ok\n").as_bytes(), "who is in the session has it");
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package());
    for answer in app::both_ways(&launch, &[find]) {
        assert_eq!(answer.one(find), "EPERM");
    }
    for answer in app::both_ways(&launch.seccomp(Seccomp::Unconfined), &[find, "read /proc/keys"]) {
        assert_eq!(answer.one(find), "ENOKEY");
        assert!(!answer.one("read /proc/keys").contains("of-the-session"));
    }
}

fn other_rockers_cannot_be_seen() {
    let daemon = Daemon::start();
    let mut other = App::start(&daemon.launch(probe_package()), &["say here", "wait"]).unwrap();
    assert_eq!(other.line(), "say: here");
    let foreign = other.rocker.app_pid();
    let answer = daemon.probe(&["processes", &format!("kill {foreign} 9"), "read /proc/loadavg"]);
    assert_eq!(answer.one("processes").split(' ').count(), 2);
    assert_eq!(answer.one(&format!("kill {foreign} 9")), "ESRCH");
    assert!(other.finish().status.success());
}

fn the_programs_of_rocker_cannot_be_written_to() {
    let daemon = Daemon::start();
    let path = |name| tests::bin(name).canonicalize().unwrap();
    let [guard, master] = ["rocker-guard", "rocker-master"].map(path);
    let [guard, master] = [&guard, &master].map(|path| format!("open-w {}", path.display()));
    let answer = daemon.probe(&[&guard, &master, "open-w /proc/1/exe", "open-w /proc/self/exe"]);
    for command in [guard.as_str(), &master, "open-w /proc/1/exe"] {
        let said = answer.one(command);
        assert!(["EACCES", "ENOENT", "ETXTBSY"].contains(&said), "{command}: {said}");
    }
    assert_eq!(answer.one("open-w /proc/self/exe"), "EROFS");
}

/// What the App's user may do from outside.
fn policy(daemon: &Daemon) -> String {
    let dir = daemon.dir().display();
    format!(
        "[[allow]]\nuid = {APP_UID}\npackages = [\"{dir}/packages\"]\n\
         exec_dirs = [\"{dir}/exec\"]\ndata_dirs = [\"{dir}/data\"]\n"
    )
}

/// A daemon that allows the App's user to run what lies in `packages`.
fn daemon_for_the_user() -> Daemon {
    let mut daemon = Daemon::start();
    directory(daemon.path("packages"), 0o755, 0);
    fs::copy(probe_package(), daemon.path("packages/app.sqfs")).unwrap();
    daemon.configure(&policy(&daemon));
    daemon.stop();
    daemon.restart();
    daemon
}

fn the_master_refuses_requests_from_inside_even_of_allowed_users() {
    let daemon = daemon_for_the_user();
    let (socket, package) = (daemon.socket(), daemon.path("packages/app.sqfs"));
    let launch = format!(
        "launch {} {} {}",
        socket.display(),
        package.display(),
        daemon.exec_dir().display()
    );
    let list = format!("list {}", socket.display());
    // From outside the policy lets it, and only the entering takes more (KERNEL A39).
    let outside = as_user(&daemon, &[&launch]);
    assert!(outside.one(&launch).contains("(enter.2)"), "{}", outside.one(&launch));
    let connect = format!("connect {}", socket.display());
    let inside = daemon.probe(&[&connect, &launch, &list]);
    assert_eq!(inside.one(&connect), "ok", "the socket is not hidden, its master says no");
    assert!(inside.one(&launch).contains("another user namespace"), "{}", inside.one(&launch));
    assert!(inside.one(&list).contains("another user namespace"), "{}", inside.one(&list));
}

fn others_see_and_kill_only_their_own_rockers() {
    let daemon = daemon_for_the_user();
    let mut app = App::start(&daemon.launch(probe_package()), &["say here", "wait"]).unwrap();
    assert_eq!(app.line(), "say: here");
    let socket = daemon.socket();
    let list = format!("list {}", socket.display());
    let kill = format!("kill-rocker {} {}", socket.display(), app.rocker.guard_name());
    // It runs as that user, but is root's.
    let answer = as_user(&daemon, &[&list, &kill]);
    assert_eq!(answer.one(&list), "0");
    assert!(answer.one(&kill).contains("no living rocker has this name"), "{}", answer.one(&kill));
    assert!(process::is_alive(app.rocker.guard_pid()));
    app.finish();
}

fn dial(daemon: &Daemon) -> OwnedFd {
    let ours = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(&ours, &SocketAddrUnix::new(daemon.socket()).unwrap()).unwrap();
    ours
}

fn silent_garbled_and_dying_clients_delay_nobody() {
    let daemon = Daemon::start();
    app::run(&daemon.launch(probe_package()), &[]);
    let leaks = Leaks::snapshot().watch_pid(daemon.pid());
    let mut clients = vec![];
    for number in 0..40 {
        let client = dial(&daemon);
        let garbage: &[u8] = match number % 6 {
            0 => &[],
            1 => b"\0",
            2 => b"\x01",
            3 => b"\x01\0\0\x07",
            4 => &[0xff; 4096],
            _ => b"GET / HTTP/1.1\r\n\r\n",
        };
        if number % 6 != 0 {
            send(&client, garbage, SendFlags::NOSIGNAL).unwrap();
        }
        // One in four dies at once.
        if number % 4 != 3 {
            clients.push(client);
        }
    }
    let began = Instant::now();
    assert_eq!(daemon.probe(&["say hello"]).one("say"), "hello");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // Who says nothing is hung up on after two seconds, not before one.
    let mut ready = [rustix::event::PollFd::new(&clients[0], rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 4, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut ready, Some(&limit)), Ok(1));
    drop(clients);
    leaks.assert_none();
}

fn a_hundred_descriptors_are_closed_again() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, sendmsg};
    let daemon = Daemon::start();
    app::run(&daemon.launch(probe_package()), &[]);
    daemon.settle(0);
    let before = daemon.fds();
    let null = fs::File::open("/dev/null").unwrap();
    for _ in 0..10 {
        let client = dial(&daemon);
        let many = vec![std::os::fd::AsFd::as_fd(&null); 100];
        let mut space = vec![core::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(100))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
        let text = [std::io::IoSlice::new(b"\x01\0\0")];
        // Since Linux 6.16 they do not even arrive.
        match sendmsg(&client, &text, &mut control, SendFlags::NOSIGNAL) {
            Ok(_) | Err(rustix::io::Errno::PERM) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(within(SOON, || daemon.fds() == before), "{before} -> {}", daemon.fds());
    assert!(daemon.is_well());
}

fn regression_no_local_user_makes_root_mount_what_it_likes() {
    let mut daemon = Daemon::start();
    let dir = daemon.dir().to_owned();
    let at = |name: &str| dir.join(name).display().to_string();
    directory(dir.join("packages"), 0o755, 0);
    fs::copy(probe_package(), dir.join("packages/app.sqfs")).unwrap();
    fs::copy(probe_package(), dir.join("secret.sqfs")).unwrap();
    fs::set_permissions(dir.join("secret.sqfs"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("../secret.sqfs", dir.join("packages/link.sqfs")).unwrap();
    symlink("..", dir.join("packages/up")).unwrap();
    directory(dir.join("elsewhere"), 0o755, 0);
    let launch = |package: &str, exec: &str| {
        format!("launch {} {} {}", at("run/master.sock"), at(package), exec)
    };
    let good = launch("packages/app.sqfs", &at("exec"));
    let answer = as_user(&daemon, &[&good]);
    // Without any policy the socket itself is root's.
    assert!(answer.one(&good).contains("may not reach"), "{}", answer.one(&good));
    daemon.configure(&policy(&daemon));
    daemon.stop();
    daemon.restart();
    let tries = [
        launch("secret.sqfs", &at("exec")),
        launch("packages/link.sqfs", &at("exec")),
        launch("packages/up/secret.sqfs", &at("exec")),
        launch("packages/../secret.sqfs", &at("exec")),
        launch("packages/app.sqfs", &at("elsewhere")),
        launch("packages/app.sqfs", "/etc"),
        launch("packages/app.sqfs", "/usr/bin"),
        launch("packages/app.sqfs", "/"),
    ];
    let tries: Vec<&str> = tries.iter().map(String::as_str).collect();
    let answer = as_user(&daemon, &tries);
    for command in tries {
        let said = answer.one(command);
        // Before anything is made: at root.1 or root.2.
        let refused =
            ["policy does not allow", "(root.2)", "belongs to the host", "must not contain"];
        assert!(refused.iter().any(|words| said.contains(words)), "{command}: {said}");
    }
    assert!(daemon.log().lines().count() >= 8);
}

fn regression_the_app_is_not_the_hosts_root() {
    let daemon = Daemon::start();
    let secret = daemon.path("secret");
    fs::write(&secret, "of root").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let secret = secret.display().to_string();
    let tries = [
        format!("open {secret}"),
        format!("unlink {secret}"),
        "open /etc/shadow".to_owned(),
        "open-w /dev/loop-control".to_owned(),
        "write /root/x y".to_owned(),
        "write /proc/sys/kernel/core_pattern x".to_owned(),
        "write /proc/sysrq-trigger x".to_owned(),
    ];
    let tries: Vec<&str> = tries.iter().map(String::as_str).collect();
    let answer = daemon.probe(&tries);
    for command in tries {
        // Not every kernel has each of these files.
        let said = answer.one(command);
        assert!(["EACCES", "ENOENT"].contains(&said), "{command}: {said}");
    }
    assert_eq!(answer.one("open /etc/shadow"), "EACCES");
    assert_eq!(fs::read_to_string(daemon.path("secret")).unwrap(), "of root");
}
