//! Overlays that are kept for the next launch of their data dir: who gets them, what is seen in
//! them, and when they go.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::time::Duration;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount, umount2};
use protocol::mark::Mark;
use protocol::{Errno, Error, Item, Rule, Step};
use rustix::fs::{XattrFlags, setxattr};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};
use rustix::mount::{fsconfig_create, fsmount, fsopen, open_tree};
use tests::app::{self, App};
use tests::scratch::{directory, private_mounts};
use tests::{
    APP_GID, APP_UID, Answer, Daemon, Launch, Leaks, SOON, bin, probe_package, process, replayed,
    runner, within,
};

fn main() -> ExitCode {
    runner::main(tests::root![
        the_next_launch_has_the_overlays_of_the_last,
        what_the_host_has_changed_is_seen,
        what_was_done_to_the_layers_is_seen,
        what_became_of_a_top_directory_is_seen,
        the_mode_of_a_layer_is_seen,
        other_overlays_are_made_anew,
        another_user_gets_others,
        they_serve_one_rocker_at_a_time,
        a_killed_rocker_is_followed_at_once,
        a_failed_launch_is_followed_at_once,
        no_more_are_kept_than_allowed,
        they_go_after_a_while,
        they_go_when_the_host_changes_its_mounts,
        none_are_kept_where_none_are_to_be,
        they_go_with_their_master,
        layers_on_two_mounts_are_kept_together,
        what_was_written_is_on_disk_when_the_rocker_is_gone,
        no_disk_is_troubled_where_nothing_was_written,
        what_a_disk_keeps_for_others_no_app_gets,
        a_volatile_overlay_whose_disk_has_failed_is_not_passed_on,
        overlays_on_a_full_disk_are_kept_as_ever,
        a_data_dir_that_makes_its_visitors_wait_delays_nobody_else,
        a_package_that_makes_its_visitors_wait_delays_nobody_else,
        a_rocker_of_an_owner_leaves_them_too,
        no_working_directory_leads_to_the_layers,
        three_hundred_launches_leave_as_many_as_before,
    ])
}

/// So long that nothing expires during a test.
const LONG: &str = "max_overlays = 8\noverlay_idle_ms = 60000\n";

fn daemon() -> Daemon {
    keeping(LONG)
}

/// With a configuration by which overlays are kept, where the kernel lets them be.
fn keeping(config: &str) -> Daemon {
    if !can_be_kept() {
        runner::skip("overlays are kept from Linux 6.15 on");
    }
    Daemon::with_config(config)
}

/// Whether what is attached nowhere can be cloned.
fn can_be_kept() -> bool {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_create(&context).unwrap();
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let tree = fsmount(&context, flags, MountAttrFlags::empty()).unwrap();
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(&tree, c"", clone | OpenTreeFlags::AT_EMPTY_PATH).is_ok()
}

/// A directory of the host that any App may write to.
fn host(daemon: &Daemon) -> String {
    directory(daemon.path("host"), 0o777, 0).to_str().unwrap().to_owned()
}

fn overlaid(daemon: &Daemon, dirs: &[&str]) -> Launch {
    daemon.overlaid(probe_package(), dirs).trace(true)
}

/// How many overlays a launch has made, and how many it has found.
fn overlays(app: &App) -> (usize, usize) {
    let steps = app.rocker.trace().iter().filter(|entry| entry.step == Step::BuildOverlay);
    let (found, made): (Vec<_>, Vec<_>) =
        steps.partition(|entry| entry.command.ends_with(", reused"));
    (made.len(), found.len())
}

const MADE: (usize, usize) = (1, 0);
const FOUND: (usize, usize) = (0, 1);

/// Runs the probe to its end, and tells where its overlays come from.
#[track_caller]
fn run(launch: &Launch, commands: &[&str]) -> ((usize, usize), Answer) {
    let app = App::start(launch, commands).unwrap_or_else(|error| panic!("{error}"));
    (overlays(&app), app.finish())
}

/// The descriptors by which a master keeps something mounted that is attached nowhere, and the
/// locks.
fn kept(daemon: &Daemon) -> usize {
    process::fd_links(daemon.pid()).values().filter(|link| link.ends_with("/.rocker")).count()
}

fn the_next_launch_has_the_overlays_of_the_last() {
    let daemon = daemon();
    let dir = host(&daemon);
    fs::write(daemon.path("host/old"), "of the host").unwrap();
    let launch = overlaid(&daemon, &[&dir]);
    let (write, read) = (format!("write {dir}/new x"), format!("read {dir}/new"));
    assert_eq!(run(&launch, &[&write]).0, MADE);
    assert_eq!(kept(&daemon), 1);
    for _ in 0..3 {
        let (from, answer) = run(&launch, &[&read]);
        assert_eq!((from, answer.one(&read)), (FOUND, "x"));
    }
    assert!(!daemon.path("host/new").exists());
    // One that overlays nothing leaves them alone.
    app::run(&daemon.launch(probe_package()).data_dir(daemon.data_dir()), &[]);
    assert_eq!(run(&launch, &[]).0, FOUND);
}

fn what_the_host_has_changed_is_seen() {
    let daemon = daemon();
    let dir = host(&daemon);
    let at = |name: &str| daemon.path("host").join(name);
    fs::write(at("edited"), "old").unwrap();
    fs::write(at("replaced"), "old").unwrap();
    fs::write(at("removed"), "old").unwrap();
    directory(at("dir"), 0o755, 0);
    fs::write(at("dir/file"), "old").unwrap();
    directory(at("emptied"), 0o755, 0);
    fs::write(at("emptied/file"), "old").unwrap();
    let names = ["edited", "replaced", "removed", "added", "dir/file", "emptied/file", "late/file"];
    let reads = names.map(|name| format!("read {dir}/{name}"));
    let list = format!("ls {dir}");
    let commands: Vec<&str> = reads.iter().chain([&list]).map(String::as_str).collect();
    let launch = overlaid(&daemon, &[&dir]);
    let (_, answer) = run(&launch, &commands);
    let said = |answer: &Answer| reads.each_ref().map(|read| answer.one(read).to_owned());
    assert_eq!(said(&answer), ["old", "old", "old", "ENOENT", "old", "old", "ENOENT"]);
    for round in ["new", "newer"] {
        fs::write(at("edited"), round).unwrap();
        fs::write(at("other"), round).unwrap();
        fs::rename(at("other"), at("replaced")).unwrap();
        let _ = fs::remove_file(at("removed"));
        fs::write(at("added"), round).unwrap();
        fs::rename(at("dir"), daemon.path(round)).unwrap();
        directory(at("dir"), 0o755, 0);
        fs::write(at("dir/file"), round).unwrap();
        let _ = fs::remove_file(at("emptied/file"));
        fs::create_dir_all(at("late")).unwrap();
        fs::write(at("late/file"), round).unwrap();
        let (from, answer) = run(&launch, &commands);
        assert_eq!(from, FOUND);
        assert_eq!(said(&answer), [round, round, "ENOENT", round, round, "ENOENT", round]);
        assert_eq!(answer.one(&list), "added dir edited emptied late replaced");
    }
}

fn what_was_done_to_the_layers_is_seen() {
    let daemon = daemon();
    let dir = host(&daemon);
    let launch = overlaid(&daemon, &[&dir]);
    let (write, read) = (format!("write {dir}/new x"), format!("read {dir}/new"));
    let data = |name: &str| daemon.path("data").join(name);
    // What is in the upper layer, away: the layer is the same.
    run(&launch, &[&write]);
    let upper = data(".rocker/up").join(dir.trim_start_matches('/')).join("new");
    fs::remove_file(upper).unwrap();
    let (from, answer) = run(&launch, &[&read]);
    assert_eq!((from, answer.one(&read)), (FOUND, "ENOENT"));
    // The layers themselves, away: others are made.
    let away: [(&str, &dyn Fn()); 5] = [
        ("up", &|| fs::remove_dir_all(data(".rocker/up")).unwrap()),
        ("work", &|| fs::remove_dir_all(data(".rocker/work")).unwrap()),
        ("work/work", &|| fs::remove_dir_all(data(".rocker/work/work")).unwrap()),
        (".rocker", &|| fs::remove_dir_all(data(".rocker")).unwrap()),
        ("data", &|| {
            fs::remove_dir_all(data("")).unwrap();
            directory(data(""), 0o755, 0);
        }),
    ];
    for (what, remove) in away {
        assert_eq!(run(&launch, &[&write]).1.one(&write), "ok", "{what}");
        remove();
        let gone = what.starts_with("work");
        let (from, answer) = run(&launch, &[&read, &write]);
        assert_eq!((from, answer.one(&read)), (MADE, if gone { "x" } else { "ENOENT" }), "{what}");
        assert_eq!(answer.one(&write), "ok", "{what}");
    }
}

/// A top directory of the host, for as long as this lives.
struct Top(PathBuf);

impl Top {
    fn new(name: &str) -> Self {
        Self(directory(format!("/rocker-test-{}-{name}", std::process::id()), 0o777, 0))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// These are looked up again at the end of a rocker, if their last change was a while ago.
fn what_became_of_a_top_directory_is_seen() {
    // More than the end of a rocker is left alone for. Nothing tells when they are looked up: where
    // that takes longer, this test sees less.
    const LOOKED_UP: Duration = Duration::from_millis(200);
    let daemon = daemon();
    let tops = ["replaced", "closed", "added", "covered"].map(Top::new);
    let data = |index: usize| daemon.path(&format!("data{index}"));
    let launches = [0, 1, 2, 3].map(|index| {
        let data = directory(data(index), 0o755, 0);
        overlaid(&daemon, &[tops[index].path(), "/etc"]).data_dir(data)
    });
    let [replaced, closed, added, covered] = tops.each_ref().map(Top::path);
    let commands = [
        format!("read {replaced}/file"),
        format!("write {closed}/file x"),
        format!("read {added}/file"),
        format!("read {covered}/dir/file"),
    ];
    fs::write(format!("{replaced}/file"), "old").unwrap();
    directory(format!("{covered}/dir"), 0o755, 0);
    fs::write(format!("{covered}/dir/file"), "old").unwrap();
    launches.iter().for_each(|launch| drop(run(launch, &[])));
    run(&launches[3], &[&format!("write {covered}/mine x")]);
    let are_settled = || {
        let uppers = (0..launches.len()).map(|index| data(index).join(".rocker/up"));
        let own = data(3).join(".rocker/up").join(covered.trim_start_matches('/'));
        let directories = tops.iter().map(|top| top.0.clone()).chain(uppers).chain([own]);
        directories.into_iter().all(|directory| {
            let directory = fs::File::open(directory).unwrap();
            Mark::of(directory.as_fd(), b"").unwrap().is_settled()
        })
    };
    assert!(within(SOON, are_settled));
    launches.iter().for_each(|launch| assert_eq!(run(launch, &[]).0, FOUND));
    std::thread::sleep(LOOKED_UP);
    let away = Top(PathBuf::from(format!("{replaced}-away")));
    fs::rename(replaced, away.path()).unwrap();
    directory(replaced, 0o755, 0);
    fs::write(format!("{replaced}/file"), "new").unwrap();
    fs::set_permissions(closed, fs::Permissions::from_mode(0o755)).unwrap();
    let in_layer = |index: usize, top: &str| {
        directory(data(index).join(".rocker/up").join(top.trim_start_matches('/')), 0o755, 0)
    };
    fs::write(in_layer(2, added).join("file"), "new").unwrap();
    // As what an App has removed and made anew.
    let opaque = c"trusted.overlay.opaque";
    setxattr(in_layer(3, covered), opaque, b"y", XattrFlags::empty()).unwrap();
    let said = ["new", "EACCES", "new", "ENOENT"];
    for ((launch, command), said) in launches.iter().zip(&commands).zip(said) {
        let (from, answer) = run(launch, &[command]);
        assert_eq!((from, answer.one(command)), (FOUND, said), "{command}");
    }
}

/// A merged root shows what it has once read of its upper layer's.
fn the_mode_of_a_layer_is_seen() {
    private_mounts();
    let daemon = daemon();
    let dir = host(&daemon);
    mount(Some("tmpfs"), &*dir, Some("tmpfs"), MsFlags::empty(), Some("mode=777")).unwrap();
    let launch = overlaid(&daemon, &[&dir]);
    let write = format!("write {dir}/file x");
    let upper = daemon.path(&format!("data/.rocker/up{}", dir.replace('/', "%2F")));
    run(&launch, &[]);
    for (mode, said) in [(0o755, "EACCES"), (0o777, "ok")] {
        fs::set_permissions(&upper, fs::Permissions::from_mode(mode)).unwrap();
        let (from, answer) = run(&launch, &[&write]);
        assert_eq!((from, answer.one(&write)), (MADE, said));
        assert_eq!(run(&launch, &[]).0, FOUND);
    }
}

fn other_overlays_are_made_anew() {
    let daemon = daemon();
    let dir = host(&daemon);
    let launch = overlaid(&daemon, &[&dir]);
    run(&launch, &[]);
    // Another directory of the same mount is a part of the same overlay.
    assert_eq!(run(&overlaid(&daemon, &["/etc", &dir]), &[]).0, FOUND);
    let (write, read) = (format!("write {dir}/file x"), format!("read {dir}/file"));
    for volatile in [true, false, true] {
        let other = launch.clone().volatile(volatile);
        let look = "read /proc/self/mountinfo";
        let is_volatile = |answer: &Answer| {
            let table = answer.all(look).join(" ");
            assert!(table.contains("upperdir="), "{table}");
            table.contains("volatile")
        };
        let (from, answer) = run(&other, &[&write, look]);
        assert_eq!((from, is_volatile(&answer)), (MADE, volatile));
        let (from, answer) = run(&other, &[&read, look]);
        assert_eq!((from, is_volatile(&answer)), (FOUND, volatile));
        assert_eq!(answer.one(&read), "x");
    }
}

/// The policy says who may have a data dir. Its overlays write as whoever they were made for.
fn another_user_gets_others() {
    let daemon = daemon();
    let dir = host(&daemon);
    let (write, read) = (format!("write {dir}/file x"), format!("read {dir}/file"));
    let launch = overlaid(&daemon, &[&dir]);
    run(&launch, &[&write, &format!("chmod 600 {dir}/file")]);
    assert_eq!(run(&launch, &[]).0, FOUND);
    for other in [launch.clone().uid(APP_UID + 1), launch.clone().gid(APP_GID + 1)] {
        assert_eq!(run(&other, &[]).0, MADE);
        assert_eq!(run(&other, &[]).0, FOUND);
    }
    let (from, answer) = run(&launch.uid(APP_UID + 1), &[&read]);
    assert_eq!((from, answer.one(&read)), (MADE, "EACCES"));
}

const IN_USE: Error = Error::Invalid { rule: Rule::InUse, item: Item::DataDir };

fn living(launch: &Launch) -> App {
    let mut app = App::start(launch, &["say here", "wait"]).unwrap();
    assert_eq!(app.line(), "say: here");
    app
}

fn they_serve_one_rocker_at_a_time() {
    let daemon = daemon();
    let dir = host(&daemon);
    let launch = overlaid(&daemon, &[&dir]);
    for _ in 0..2 {
        let app = living(&launch);
        assert_eq!(app::refused(&launch).kind(), IN_USE);
        // Not by another master either, while there is one rocker, or while they are kept.
        let other = Daemon::start();
        let theirs = other.launch(probe_package()).data_dir(daemon.data_dir()).overlay(&dir);
        assert_eq!(app::refused(&theirs).kind(), IN_USE);
        app.finish();
        assert_eq!(app::refused(&theirs).kind(), IN_USE);
    }
    assert_eq!(run(&launch, &[]).0, FOUND);
}

fn a_killed_rocker_is_followed_at_once() {
    let daemon = daemon();
    let dir = host(&daemon);
    let launch = overlaid(&daemon, &[&dir]);
    let (write, read) = (format!("write {dir}/file x"), format!("read {dir}/file"));
    let mut expected = MADE;
    for _ in 0..10 {
        let mut app = App::start(&launch, &[&write, "say here", "wait"]).unwrap();
        while app.line() != "say: here" {}
        assert_eq!(overlays(&app), expected);
        app.rocker.kill().unwrap();
        assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
        let (from, answer) = run(&launch, &[&read]);
        assert_eq!((from, answer.one(&read)), (FOUND, "x"));
        expected = FOUND;
    }
}

fn a_failed_launch_is_followed_at_once() {
    let daemon = daemon();
    let dir = host(&daemon);
    let launch = overlaid(&daemon, &[&dir]);
    for round in 0..20 {
        let failed = launch.spawn(&tests::Program::new("bin/nope"));
        assert!(replayed(failed).is_err());
        let failed = replayed(launch.clone().exec_dir("/none").spawn(&tests::Program::new("x")));
        assert!(failed.is_err());
        if round % 2 == 0 {
            run(&launch, &[]);
        }
    }
}

fn no_more_are_kept_than_allowed() {
    let daemon = keeping("max_overlays = 2\noverlay_idle_ms = 60000\n");
    let dir = host(&daemon);
    let launches: Vec<Launch> = (0..3)
        .map(|n| directory(daemon.path(&format!("data{n}")), 0o755, 0))
        .map(|data| daemon.launch(probe_package()).data_dir(data).overlay(&dir).trace(true))
        .collect();
    for launch in &launches {
        assert_eq!(run(launch, &[]).0, MADE);
    }
    // The longest idle one had to make room.
    assert!(within(SOON, || kept(&daemon) == 2));
    assert_eq!(run(&launches[1], &[]).0, FOUND);
    assert_eq!(run(&launches[2], &[]).0, FOUND);
    assert_eq!(run(&launches[0], &[]).0, MADE);
    // Where all are used nobody's are kept in addition.
    let apps: Vec<App> = launches.iter().map(living).collect();
    assert_eq!(kept(&daemon), 2);
    apps.into_iter().for_each(|app| drop(app.finish()));
    assert_eq!(kept(&daemon), 2);
}

fn they_go_after_a_while() {
    let leaks = Leaks::snapshot();
    let daemon = keeping("max_overlays = 8\noverlay_idle_ms = 300\n");
    let dir = host(&daemon);
    let launch = overlaid(&daemon, &[&dir]);
    run(&launch, &[]);
    let before = std::time::Instant::now();
    assert_eq!(kept(&daemon), 1);
    assert!(within(SOON, || kept(&daemon) == 0));
    assert!(before.elapsed() >= Duration::from_millis(150), "{:?}", before.elapsed());
    assert_eq!(run(&launch, &[]).0, MADE);
    // Whoever comes while they go waits for that.
    let brief = Daemon::with_config("max_overlays = 8\noverlay_idle_ms = 1\n");
    let launch = overlaid(&brief, &[&host(&brief)]);
    for _ in 0..50 {
        run(&launch, &[]);
        std::thread::sleep(Duration::from_micros(900));
    }
    drop((daemon, brief));
    leaks.assert_none();
}

fn they_go_when_the_host_changes_its_mounts() {
    private_mounts();
    let daemon = daemon();
    let disk = directory(daemon.path("disk"), 0o755, 0);
    let tmpfs = || {
        mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some("mode=777")).unwrap();
    };
    tmpfs();
    fs::write(disk.join("file"), "first").unwrap();
    let at = disk.to_str().unwrap();
    let (launch, read) = (overlaid(&daemon, &[at]), format!("read {at}/file"));
    assert_eq!(run(&launch, &[&read]).1.one(&read), "first");
    assert_eq!(run(&launch, &[]).0, FOUND);
    umount(&disk).unwrap();
    // Whatever is still there is not in use any more.
    assert!(within(SOON, || kept(&daemon) == 0));
    tmpfs();
    fs::write(disk.join("file"), "second").unwrap();
    let (from, answer) = run(&launch, &[&read]);
    assert_eq!((from, answer.one(&read)), (MADE, "second"));
    // At once, and while a rocker lives.
    let app = living(&launch);
    umount(&disk).unwrap();
    tmpfs();
    fs::write(disk.join("file"), "third").unwrap();
    app.finish();
    let (from, answer) = run(&launch, &[&read]);
    assert_eq!((from, answer.one(&read)), (MADE, "third"));
    umount(&disk).unwrap();
}

fn none_are_kept_where_none_are_to_be() {
    // And where the kernel does not let them be.
    let configs = if can_be_kept() { &["max_overlays = 0\n"][..] } else { &["", LONG] };
    for config in configs {
        let daemon = Daemon::with_config(config);
        let dir = host(&daemon);
        let launch = overlaid(&daemon, &[&dir]);
        for _ in 0..3 {
            let app = living(&launch);
            assert_eq!((overlays(&app), kept(&daemon)), (MADE, 0));
            app.finish();
        }
    }
}

fn they_go_with_their_master() {
    let leaks = Leaks::snapshot();
    let mut daemon = daemon();
    let dir = host(&daemon);
    let launch = overlaid(&daemon, &[&dir]);
    run(&launch, &[]);
    for kills in [false, true] {
        assert_eq!(run(&launch, &[]).0, FOUND);
        if kills {
            daemon.kill()
        } else {
            daemon.stop()
        }
        daemon.restart();
        assert_eq!(run(&launch, &[]).0, MADE);
        // A rocker that lives on is none of those that are kept.
        let app = living(&launch);
        if kills {
            daemon.kill()
        } else {
            daemon.stop()
        }
        daemon.restart();
        assert_eq!(app::refused(&launch).kind(), IN_USE);
        app.finish();
        assert_eq!((run(&launch, &[]).0, run(&launch, &[]).0), (MADE, FOUND));
    }
    drop(daemon);
    leaks.assert_none();
}

fn layers_on_two_mounts_are_kept_together() {
    private_mounts();
    let daemon = daemon();
    let disks: Vec<PathBuf> = ["one", "two"].map(|name| daemon.path(name)).into();
    for disk in &disks {
        fs::create_dir(disk).unwrap();
        mount(Some("tmpfs"), disk, Some("tmpfs"), MsFlags::empty(), Some("mode=777")).unwrap();
    }
    let dir = host(&daemon);
    let all = [&dir, disks[0].to_str().unwrap(), disks[1].to_str().unwrap()];
    let write = all.map(|dir| format!("write {dir}/file {dir}"));
    let read = all.map(|dir| format!("read {dir}/file"));
    let launch = overlaid(&daemon, &all);
    let (from, answer) = run(&launch, &write.each_ref().map(String::as_str));
    assert_eq!((from, write.each_ref().map(|it| answer.one(it))), ((3, 0), ["ok"; 3]));
    let (from, answer) = run(&launch, &read.each_ref().map(String::as_str));
    assert_eq!((from, read.each_ref().map(|it| answer.one(it))), ((0, 3), all));
    // Other layers are others, all of them.
    assert_eq!(run(&overlaid(&daemon, &all[..2]), &[]).0, (2, 0));
    assert_eq!(run(&launch, &[]).0, (3, 0));
}

/// What a shell does, and can do.
fn shell(command: &str) {
    assert!(succeeds(command), "{command}");
}

fn succeeds(command: &str) -> bool {
    std::process::Command::new("sh").args(["-c", command]).status().unwrap().success()
}

/// A disk whose image is copied as it is at some moments, and looked at later: for then the host
/// changes its mounts.
struct Disk {
    at: String,
    image: String,
    look: String,
}

impl Disk {
    fn new(daemon: &Daemon) -> Self {
        Self::of(daemon, "image")
    }

    /// Without a journal what was not synced is nowhere.
    fn of(daemon: &Daemon, image: &str) -> Self {
        let path = |name: &str| daemon.path(name).to_str().unwrap().to_owned();
        let [at, image, look] = ["disk", image, "look"].map(path);
        for dir in [&at, &look] {
            directory(dir, 0o755, 0);
        }
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        shell(&format!("mkfs.ext4 -q -O ^has_journal {image} && mount -o loop {image} {at}"));
        Self { at, image, look }
    }

    /// What is on it now, as copy `at`.
    fn copy(&self, at: usize) {
        shell(&format!("cp {0} {0}{at}", self.image));
    }

    /// Whether a file of 1,000 bytes was on it then.
    fn had(&self, at: usize, file: &str) -> bool {
        shell(&format!("mount -o loop,ro {}{at} {}", self.image, self.look));
        let had = fs::read_to_string(format!("{}/{file}", self.look));
        shell(&format!("umount {}", self.look));
        had.is_ok_and(|text| text.len() == 1000)
    }

    /// Whoever has used it is gone.
    fn end(self) {
        shell(&format!("umount {}", self.at));
    }
}

fn what_was_written_is_on_disk_when_the_rocker_is_gone() {
    private_mounts();
    let mut daemon = daemon();
    let (disk, dir) = (Disk::new(&daemon), host(&daemon));
    let launch = daemon.launch(probe_package()).data_dir(&disk.at).overlay(&dir).trace(true);
    for (round, from) in [MADE, FOUND, FOUND].into_iter().enumerate() {
        let write = format!("write {dir}/file{round} {}", "x".repeat(1000));
        let (came_from, answer) = run(&launch, &[&write]);
        assert_eq!((came_from, answer.one(&write)), (from, "ok"));
        disk.copy(round);
    }
    for round in 0..3 {
        assert!(disk.had(round, &format!(".rocker/up{dir}/file{round}")), "round {round}");
    }
    daemon.stop();
    disk.end();
}

/// A file system on which nothing is made until this is dropped: who tries waits.
struct Frozen<'d>(&'d Disk);

impl<'d> Frozen<'d> {
    fn new(disk: &'d Disk) -> Self {
        shell(&format!("fsfreeze --freeze {}", disk.at));
        Self(disk)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = succeeds(&format!("fsfreeze --unfreeze {}", self.0.at));
    }
}

const TOO_SLOW: &str = "Connection timed out";

/// Its owner has many a way to do that. Here it has no `.rocker` yet, and none can be made.
fn a_data_dir_that_makes_its_visitors_wait_delays_nobody_else() {
    private_mounts();
    let mut daemon = Daemon::with_config(LONG);
    let disk = Disk::new(&daemon);
    shell(&format!("chown {APP_UID}:{APP_GID} {}", disk.at));
    let parent = |path: &Path| path.parent().unwrap().to_owned();
    daemon.stop();
    daemon.configure(&format!(
        "{LONG}[[allow]]\nuid = {APP_UID}\npackages = [{:?}]\nexec_dirs = [{:?}]\n\
         data_dirs = [{:?}]\n",
        parent(&probe_package()),
        parent(&daemon.exec_dir()),
        disk.at,
    ));
    daemon.restart();
    let theirs = || {
        let mut rocker = Command::new(bin("rocker"));
        rocker.arg("run").arg("--socket").arg(daemon.socket()).args(["--timeout", "2s"]);
        rocker.arg("--exec-dir").arg(daemon.exec_dir()).args(["--data-dir", &disk.at]);
        rocker.args(["--overlay", "/mnt"]).arg(probe_package()).args(["--", "bin/probe"]);
        rocker.uid(APP_UID).gid(APP_GID).stdout(Stdio::piped()).stderr(Stdio::piped());
        rocker.stdin(Stdio::null()).spawn().unwrap()
    };
    let frozen = Frozen::new(&disk);
    let mut waiting: Vec<_> = (0..6).map(|_| theirs()).collect();
    let others = daemon.launch(probe_package()).timeout(Duration::from_secs(1));
    for _ in 0..20 {
        app::run(&others, &[]);
    }
    // A thread for each, but for no more than four of one user's.
    for one in waiting.drain(..) {
        let output = one.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(said.contains("(root.2)") && said.trim_end().ends_with(TOO_SLOW), "{said}");
    }
    drop(frozen);
    let output = theirs().wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let output = theirs().wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    daemon.stop();
    disk.end();
}

/// A file system of somebody's who answers nothing until this is dropped (`man 4 fuse`).
struct Silent {
    at: PathBuf,
    _server: fs::File,
}

impl Silent {
    fn new(at: PathBuf) -> Self {
        let server = fs::File::options().read(true).write(true).open("/dev/fuse");
        let server = server.unwrap_or_else(|error| runner::skip(&format!("/dev/fuse: {error}")));
        let options = format!(
            "fd={},rootmode=40000,user_id={APP_UID},group_id={APP_GID},allow_other",
            server.as_raw_fd()
        );
        mount(Some("silent"), &at, Some("fuse"), MsFlags::empty(), Some(&*options)).unwrap();
        Self { at, _server: server }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

/// Neither a user's nor root's.
fn a_package_that_makes_its_visitors_wait_delays_nobody_else() {
    private_mounts();
    let mut daemon = Daemon::with_config(LONG);
    let (at, data) = (directory(daemon.path("silent"), 0o755, APP_UID), daemon.path("theirs"));
    directory(data.clone(), 0o755, APP_UID);
    daemon.stop();
    daemon.configure(&format!(
        "[[allow]]\nuid = {APP_UID}\npackages = [{at:?}]\nexec_dirs = [{:?}]\n\
         data_dirs = [{data:?}]\nrun_as_gids = [{APP_GID}]\n",
        daemon.exec_dir().parent().unwrap(),
    ));
    daemon.restart();
    let package = at.join("app.sqfs");
    let launch = daemon.launch(&package).data_dir(&data).overlay("/mnt");
    let launch = launch.timeout(Duration::from_secs(2));
    let open = |connection| {
        let opened = replayed(launch.open_over(connection));
        let rocker = opened.map_err(|error| error.to_string())?;
        rocker.kill(SOON).map_err(|error| error.to_string())
    };
    let silent = Silent::new(at.clone());
    // A thread for each, but for no more than four of one user's.
    let theirs = [APP_UID, APP_UID, APP_UID, APP_UID, APP_UID, APP_UID, 0];
    let theirs = theirs.map(|uid| daemon.connection_of(uid));
    std::thread::scope(|threads| {
        let waiting = theirs.map(|connection| threads.spawn(|| open(connection)));
        let others = daemon.launch(probe_package()).timeout(Duration::from_secs(1));
        for _ in 0..20 {
            app::run(&others, &[]);
        }
        for one in waiting {
            let error = one.join().unwrap().unwrap_err();
            assert!(error.contains("(root.2): open ") && error.ends_with(TOO_SLOW), "{error}");
        }
    });
    drop(silent);
    // Nobody is left who looks: there is the master, and who makes cgroups.
    let threads = format!("/proc/{}/task", daemon.pid());
    assert!(within(SOON, || fs::read_dir(&threads).unwrap().count() == 2));
    fs::copy(probe_package(), &package).unwrap();
    for uid in [APP_UID, 0] {
        assert_eq!(open(daemon.connection_of(uid)), Ok(true));
    }
}

/// A disk that is told to write takes a millisecond, even where it has nothing to write.
fn no_disk_is_troubled_where_nothing_was_written() {
    private_mounts();
    let mut daemon = daemon();
    let (disk, dir) = (Disk::new(&daemon), host(&daemon));
    let launch = daemon.launch(probe_package()).data_dir(&disk.at).overlay(&dir).trace(true);
    // What is as new as this may have been changed since, and nobody could tell: some disks write
    // down seconds.
    assert_eq!(run(&launch, &[]).0, MADE);
    std::thread::sleep(core::time::Duration::from_millis(2100));
    let write = format!("write {dir}/file {}", "x".repeat(1000));
    let rounds = [
        vec![],
        vec![write.as_str()],
        // There is something by now that could have been changed.
        vec![],
    ];
    for (round, commands) in rounds.iter().enumerate() {
        // Somebody else's, who does not wait for the disk.
        fs::write(format!("{}/other{round}", disk.at), "x".repeat(1000)).unwrap();
        assert_eq!(run(&launch, commands).0, FOUND);
        disk.copy(round);
    }
    assert_eq!([0, 1, 2].map(|at| disk.had(at, &format!("other{at}"))), [false, true, true]);
    assert!(disk.had(1, &format!(".rocker/up{dir}/file")));
    daemon.stop();
    disk.end();
}

/// The last twentieth of a disk is for root, or for whom the host says (`man 5 ext4`): an App gets
/// of it what its user gets outside, whether its overlays were kept or not.
fn what_a_disk_keeps_for_others_no_app_gets() {
    private_mounts();
    // Of the master's groups an App has none.
    nix::unistd::setgroups(&[nix::unistd::Gid::from_raw(APP_GID + 1)]).unwrap();
    let mut daemon = daemon();
    let (disk, dir) = (Disk::new(&daemon), host(&daemon));
    let launch = daemon.launch(probe_package()).data_dir(&disk.at).overlay(&dir).trace(true);
    let [inside, outside] =
        [format!("{}/.rocker/up{dir}/big", disk.at), format!("{}/all/big", disk.at)];
    directory(format!("{}/all", disk.at), 0o777, 0);
    run(&launch, &[&format!("mkdir {dir}/made")]);
    let free = || rustix::fs::statvfs(&*disk.at).unwrap().f_bfree;
    let empty = free();
    let room = |file: &str| {
        let bytes = fs::metadata(file).unwrap().len();
        fs::remove_file(file).unwrap();
        // An overlay has it open for a moment longer.
        assert!(within(SOON, || free() >= empty));
        bytes >> 10
    };
    let fill = |file: &str| format!("run dd if=/dev/zero of={file} bs=4k status=none");
    let mut found = 0;
    // Whether they are made anew depends on when the master hears of the host's mounts.
    let mut room_inside = || {
        let fill = fill(&format!("{dir}/big"));
        let (from, answer) = run(&launch, &[&fill]);
        assert_eq!(answer.one(&fill), "exit status: 1");
        found += from.1;
        room(&inside)
    };
    let room_outside = || {
        let fill = fill(&outside);
        let mut words = fill.split(' ').skip(1);
        let mut dd = Command::new(words.next().unwrap());
        assert!(!dd.args(words).uid(APP_UID).gid(APP_GID).status().unwrap().success());
        room(&outside)
    };
    let kept_for = [(0, 0), (0, APP_GID + 1), (0, APP_GID), (APP_UID, 0)];
    let rooms = kept_for.map(|(uid, gid)| {
        shell(&format!("mount -o remount,resuid={uid},resgid={gid} {}", disk.at));
        [room_inside(), room_inside(), room_outside()]
    });
    assert!(found > 0, "none was kept");
    let (usual, all) = (rooms[0][2], rooms[3][2]);
    assert!(usual + 500 < all, "{usual} KiB of {all}");
    assert_eq!(rooms, [[usual; 3], [usual; 3], [all; 3], [all; 3]]);
    daemon.stop();
    disk.end();
}

/// It writes nothing to its disk by itself, but fails for good once that has: one whose image has
/// no room to grow.
fn a_volatile_overlay_whose_disk_has_failed_is_not_passed_on() {
    private_mounts();
    let mut daemon = daemon();
    let small = directory(daemon.path("small"), 0o755, 0);
    mount(Some("tmpfs"), &small, Some("tmpfs"), MsFlags::empty(), Some("size=8m")).unwrap();
    let (disk, dir) = (Disk::of(&daemon, "small/image"), host(&daemon));
    let full = small.join("full").display().to_string();
    let launch = daemon.launch(probe_package()).data_dir(&disk.at).overlay(&dir).trace(true);
    let launch = launch.volatile(true);
    let (write, read) = (format!("write {dir}/file x"), format!("read {dir}/file"));
    assert_eq!(run(&launch, &[&write]).0, MADE);
    assert_eq!(run(&launch, &[&read]).0, FOUND);
    let sync = format!("sync -f {} 2>/dev/null", disk.at);
    shell(&format!("{sync} && ! dd if=/dev/zero of={full} bs=4k 2>/dev/null"));
    let fill = format!("run dd if=/dev/zero of={dir}/big bs=64k count=32 status=none");
    let mut app = App::start(&launch, &[&fill, "say here", "wait"]).unwrap();
    while app.line() != "say: here" {}
    assert_eq!(overlays(&app), FOUND);
    assert!(!succeeds(&sync));
    app.finish();
    let (from, answer) = run(&launch, &[&read]);
    assert_eq!((from, answer.one(&read)), (MADE, "x"));
    // One of a disk that is well again is.
    shell(&format!("rm {full}; {sync} || {sync}"));
    run(&launch, &[]);
    let (from, answer) = run(&launch, &[&read]);
    assert_eq!((from, answer.one(&read)), (FOUND, "x"));
    daemon.stop();
    disk.end();
    umount(&small).unwrap();
}

/// They take no room. To make them anew takes some, or an error says that there is none.
fn overlays_on_a_full_disk_are_kept_as_ever() {
    private_mounts();
    let mut daemon = daemon();
    let (dir, data) = (host(&daemon), daemon.path("data"));
    let launch = overlaid(&daemon, &[&dir]);
    let [first, more] = ["first", "more"].map(|name| format!("write {dir}/{name} x"));
    let read = format!("read {dir}/first");
    // No bytes are left, or no files.
    for most in ["size=256k", "nr_inodes=32"] {
        let options = format!("mode=755,{most}");
        mount(Some("tmpfs"), &data, Some("tmpfs"), MsFlags::empty(), Some(&*options)).unwrap();
        assert_eq!(run(&launch, &[&first]).0, MADE);
        let other = |n: &u32| data.join(format!("other{n}"));
        let filled = (0..100).take_while(|n| fs::write(other(n), [0; 4096]).is_ok()).count();
        assert!((8..100).contains(&filled), "{most}: {filled}");
        for _ in 0..2 {
            let (from, answer) = run(&launch, &[&more, &read]);
            assert_eq!((from, answer.one(&more), answer.one(&read)), (FOUND, "ENOSPC", "x"));
        }
        daemon.stop();
        daemon.restart();
        match App::start(&launch, &[&read]) {
            Ok(app) => assert_eq!((overlays(&app), app.finish().one(&read)), (MADE, "x")),
            Err(error) => {
                let full = "No space left on device: the data dir's file system is full";
                let text = error.to_string();
                assert!(text.ends_with(full) && !text.contains('\n'), "{text}");
            }
        }
        (0..8).for_each(|n| fs::remove_file(other(&n)).unwrap());
        assert_eq!(run(&launch, &[&more]).1.one(&more), "ok");
        assert_eq!(run(&launch, &[]).0, FOUND);
        daemon.stop();
        umount(&data).unwrap();
        daemon.restart();
    }
}

/// Its guard has the layers open, and whoever starts a program for it has what the guard has, until
/// a path of the App's is followed.
fn no_working_directory_leads_to_the_layers() {
    let daemon = daemon();
    let dir = host(&daemon);
    let mut rocker = replayed(overlaid(&daemon, &[&dir]).open()).unwrap();
    for descriptor in 0..64 {
        let link = format!("/dev/shm/{descriptor}");
        rocker.symlink(format!("/proc/self/fd/{descriptor}"), &link).unwrap();
        let program = tests::Program::new("bin/probe").cwd(&link);
        let error = rocker.spawn(&program, &rocker_client::Limits::new()).unwrap_err();
        assert!(matches!(error.errno(), Some(Errno::NOENT | Errno::NOTDIR)), "{error}");
    }
    assert!(rocker.kill(SOON).unwrap());
}

fn a_rocker_of_an_owner_leaves_them_too() {
    let daemon = daemon();
    let dir = host(&daemon);
    let launch = overlaid(&daemon, &[&dir]);
    let (write, read) = (format!("write {dir}/file x"), format!("read {dir}/file"));
    let mut rocker = replayed(launch.open()).unwrap();
    let program = tests::Program::new("bin/probe").args([&write]);
    assert!(app::commanded(&mut rocker, program).ends_with("ok\n"));
    // Somebody is left, and ends with its owner.
    let (stdin, _input) = std::io::pipe().unwrap();
    let waits = tests::Program::new("bin/probe").arg("wait").stdin(stdin);
    rocker.spawn(&waits, &rocker_client::Limits::new()).unwrap();
    let guard = rocker.guard_pid();
    drop(rocker);
    assert!(within(SOON, || !process::is_alive(guard)));
    let (from, answer) = run(&launch, &[&read]);
    assert_eq!((from, answer.one(&read)), (FOUND, "x"));
}

fn three_hundred_launches_leave_as_many_as_before() {
    let daemon = daemon();
    let dir = host(&daemon);
    let launch = daemon.overlaid(probe_package(), &[&dir]);
    let run = |launches: u32| (0..launches).for_each(|_| drop(app::run(&launch, &["say hello"])));
    run(20);
    let before = (daemon.fds(), daemon.rss_kib());
    run(280);
    assert!(within(SOON, || daemon.fds() <= before.0), "{} -> {}", before.0, daemon.fds());
    assert!(daemon.rss_kib() <= before.1 + 200, "{} -> {} KiB", before.1, daemon.rss_kib());
}
