//! What the App sees of the file system: its package, its own changes, and the host unchanged.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::mount::{MsFlags, mount};
use protocol::{Errno, Error, Item, Rule, Step};
use rocker_client::Seccomp;
use tests::app::{self, Answer, App};
use tests::scratch::{directory, names, private_mounts};
use tests::{APP_GID, APP_UID, Daemon, Leaks, Package, Program, SOON};
use tests::{probe_package, replayed, runner, within};

fn main() -> ExitCode {
    runner::main(tests::root![
        the_package_is_read_only_and_inert,
        every_name_of_a_big_package_is_found,
        the_package_is_mounted_for_the_app_alone,
        what_the_app_writes_survives_its_restart_and_never_touches_the_host,
        what_the_app_removes_stays_removed_for_it_alone,
        directories_of_the_host_can_be_overlaid_for_real,
        overlays_are_inert_too,
        owners_and_modes_decide_in_an_overlay_as_on_the_host,
        a_link_to_a_directory_is_overlaid_where_it_leads,
        a_missing_directory_cannot_be_overlaid,
        a_file_cannot_be_overlaid,
        what_the_apps_user_may_not_look_up_is_not_told,
        a_directory_that_is_listed_twice_or_nested_is_served_once,
        directories_of_the_host_alone_are_refused_also_through_links,
        names_with_commas_colons_and_blanks_are_only_names,
        a_missing_exec_dir_is_made_in_the_layer,
        a_missing_exec_dir_elsewhere_is_an_error,
        a_file_as_exec_dir_is_an_error,
        exec_dir_and_data_dir_may_lie_below_an_overlaid_directory,
        the_layers_are_closed_to_the_app,
        a_host_mount_below_an_overlaid_directory_is_visible_and_read_only,
        directories_of_several_host_mounts_are_overlaid_together,
        the_mode_of_an_overlaid_mount_is_kept,
        a_data_dir_serves_one_rocker_at_a_time,
        a_data_dir_is_free_as_soon_as_a_launch_has_failed,
        a_data_dir_with_a_strange_rocker_directory_is_not_ours,
        a_data_dir_must_be_a_directory_that_is_there,
        a_data_dir_on_an_overlay_is_an_error,
        a_read_only_data_dir_is_an_error,
        a_full_data_dir_is_an_error,
        a_data_dir_on_ramfs_works_or_is_an_error,
        volatile_layers_are_made_durable_again,
        volatile_layers_are_not_trusted_after_a_restart_of_the_machine,
        links_that_the_app_planted_lead_a_later_launch_nowhere,
        a_link_planted_over_a_host_mount_is_not_followed,
        a_link_planted_at_the_top_of_a_layer_is_not_followed,
        sockets_and_fifos_below_an_overlay_are_dead,
        a_package_that_is_replaced_stays_the_old_one_for_the_living,
        a_hidden_host_mount_stays_hidden,
        a_dead_host_mount_below_an_overlaid_directory_is_no_obstacle,
        proc_shows_the_rocker_alone,
        proc_and_sys_cannot_be_written_to,
        control_groups_cannot_be_written_to,
    ])
}

fn tmpfs(at: &Path, options: &str) {
    fs::create_dir_all(at).unwrap();
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options)).expect("root may");
}

/// A directory of the host that any App may write to.
fn open_dir(daemon: &Daemon, name: &str) -> PathBuf {
    directory(daemon.path(name), 0o777, 0)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("ours are UTF-8")
}

fn the_package_is_read_only_and_inert() {
    let daemon = Daemon::start();
    let exec = daemon.exec_dir();
    let (flags, write) = (format!("flags {}", text(&exec)), format!("write {}/x y", text(&exec)));
    let answer = daemon.probe(&[&flags, &write, "unlink share/hello", "chmod 777 share/hello"]);
    assert_eq!(answer.one(&flags), "ro nosuid nodev");
    for command in [write.as_str(), "unlink share/hello", "chmod 777 share/hello"] {
        assert_eq!(answer.one(command), "EROFS");
    }
}

/// By the kernel: in a big directory it looks where the index leads it.
fn every_name_of_a_big_package_is_found() {
    let daemon = Daemon::start();
    let many = (0..2000).map(|number| format!("many/{number:04}{}", "x".repeat(number % 100)));
    let mut names: Vec<String> = many.collect();
    names.push("d/".repeat(100) + "file");
    let package = names
        .iter()
        .fold(Package::with_probe(), |package, name| package.file(name, 0o644, &name[..9]));
    // As many as one request can carry.
    for some in names.chunks(100).step_by(4).chain([&names[2000..]]) {
        let commands: Vec<String> = some.iter().map(|name| format!("read {name}")).collect();
        let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
        let answer = app::run(&daemon.launch(package.build()), &commands);
        for (command, name) in commands.iter().zip(some) {
            assert_eq!(answer.one(command), &name[..9], "{command}");
        }
    }
}

fn the_package_is_mounted_for_the_app_alone() {
    let daemon = Daemon::start();
    let table = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = table();
    let mut app =
        App::start(&daemon.overlaid(probe_package(), &["/etc"]), &["say here", "wait"]).unwrap();
    assert_eq!(app.line(), "say: here");
    assert_eq!(table(), before);
    assert!(names(daemon.exec_dir()).is_empty());
    app.finish();
}

fn what_the_app_writes_survives_its_restart_and_never_touches_the_host() {
    let daemon = Daemon::start();
    let host = open_dir(&daemon, "host");
    fs::write(host.join("old"), "of the host").unwrap();
    fs::set_permissions(host.join("old"), fs::Permissions::from_mode(0o666)).unwrap();
    let dir = text(&host);
    let change = [
        format!("write {dir}/old of the App"),
        format!("mkdir {dir}/new"),
        format!("write {dir}/new/file first"),
        format!("read {dir}/old"),
    ];
    let change: Vec<&str> = change.iter().map(String::as_str).collect();
    let answer = daemon.probe_overlaid(&[dir], &change);
    assert_eq!(answer.one(change[0]), "ok");
    assert_eq!(answer.one(change[2]), "ok");
    assert_eq!(answer.one(change[3]), "of the App");
    for _ in 0..2 {
        let (old, new) = (format!("read {dir}/old"), format!("read {dir}/new/file"));
        let again = daemon.probe_overlaid(&[dir], &[&old, &new]);
        assert_eq!((again.one(&old), again.one(&new)), ("of the App", "first"));
    }
    assert_eq!(names(&host), ["old"]);
    assert_eq!(fs::read_to_string(host.join("old")).unwrap(), "of the host");
    // Without the overlay the App sees the host's again.
    let read = format!("read {dir}/old");
    assert_eq!(daemon.probe(&[&read]).one(&read), "of the host");
}

fn what_the_app_removes_stays_removed_for_it_alone() {
    let daemon = Daemon::start();
    let host = open_dir(&daemon, "host");
    fs::write(host.join("file"), "x").unwrap();
    directory(host.join("dir"), 0o777, 0);
    let dir = text(&host);
    let (file, subdir) = (format!("unlink {dir}/file"), format!("rmdir {dir}/dir"));
    let answer = daemon.probe_overlaid(&[dir], &[&file, &subdir]);
    assert_eq!((answer.one(&file), answer.one(&subdir)), ("ok", "ok"));
    let list = format!("ls {dir}");
    assert_eq!(daemon.probe_overlaid(&[dir], &[&list]).one(&list), "");
    assert_eq!(names(&host), ["dir", "file"]);
}

fn directories_of_the_host_can_be_overlaid_for_real() {
    let daemon = Daemon::start();
    let dirs = ["/usr", "/etc", "/var", "/home", "/root"];
    let before: Vec<_> =
        dirs.iter().map(|dir| (names(dir), fs::metadata(dir).unwrap().mtime_nsec())).collect();
    let answer = daemon
        .probe_overlaid(&dirs, &["mounts", "ls /root", "write /usr/x y", "read /etc/hostname"]);
    for dir in dirs {
        let kinds = answer.all(&format!("at {dir}"));
        assert!(kinds.iter().any(|kind| kind.starts_with("overlay rw")), "{dir}: {kinds:?}");
    }
    // A9: /root stays 0700, and A31: what root owns stays root's.
    assert_eq!(answer.one("ls /root"), "EACCES");
    assert_eq!(answer.one("write /usr/x y"), "EACCES");
    let after: Vec<_> =
        dirs.iter().map(|dir| (names(dir), fs::metadata(dir).unwrap().mtime_nsec())).collect();
    assert_eq!(before, after);
}

fn overlays_are_inert_too() {
    let daemon = Daemon::start();
    let host = open_dir(&daemon, "host");
    let flags = format!("flags {}", text(&host));
    assert_eq!(daemon.probe_overlaid(&[text(&host)], &[&flags]).one(&flags), "nosuid nodev");
}

fn owners_and_modes_decide_in_an_overlay_as_on_the_host() {
    let daemon = Daemon::start();
    let host = directory(daemon.path("host"), 0o755, 0);
    directory(host.join("own"), 0o700, APP_UID);
    directory(host.join("closed"), 0o700, 0);
    fs::write(host.join("file"), "x").unwrap();
    let dir = text(&host);
    let commands = [
        format!("write {dir}/new x"),
        format!("write {dir}/file x"),
        format!("ls {dir}/closed"),
        format!("write {dir}/own/file x"),
        format!("stat {dir}/own"),
        format!("stat {dir}/file"),
    ];
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let answer = daemon.probe_overlaid(&[dir], &commands);
    let wanted =
        ["EACCES", "EACCES", "EACCES", "ok", "dir 0700 54321 65534", "file 0644 65534 65534"];
    for (command, wanted) in commands.iter().zip(wanted) {
        assert_eq!(answer.one(command), wanted, "{command}");
    }
    // `directory` gave it the App's uid as group too, which is not the App's group.
    assert_ne!(APP_UID, APP_GID);
}

fn a_link_to_a_directory_is_overlaid_where_it_leads() {
    let daemon = Daemon::start();
    let host = open_dir(&daemon, "host");
    let link = daemon.path("link");
    symlink("host", &link).unwrap();
    let write = format!("write {}/new x", text(&link));
    let read = format!("read {}/new", text(&host));
    let answer = daemon.probe_overlaid(&[text(&link)], &[&write, &read]);
    assert_eq!((answer.one(&write), answer.one(&read)), ("ok", "x"));
    assert!(names(&host).is_empty());
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
}

fn a_missing_directory_cannot_be_overlaid() {
    let daemon = Daemon::start();
    let error = app::refused(&daemon.overlaid(probe_package(), &["/etc", "/nowhere-at-all"]));
    assert_eq!(error.kind(), Error::Failed { step: Step::ListTopDirs, errno: Errno::NOENT });
    assert!(error.to_string().contains("/nowhere-at-all"), "{error}");
}

fn a_file_cannot_be_overlaid() {
    let daemon = Daemon::start();
    let error = app::refused(&daemon.overlaid(probe_package(), &["/etc/passwd"]));
    assert_eq!(error.kind(), Error::Failed { step: Step::ListTopDirs, errno: Errno::NOTDIR });
    assert!(error.to_string().contains("/etc/passwd"), "{error}");
}

fn what_the_apps_user_may_not_look_up_is_not_told() {
    let daemon = Daemon::start();
    let closed = directory(daemon.path("closed"), 0o700, 0);
    directory(closed.join("there"), 0o777, 0);
    symlink(closed.join("there"), daemon.path("link")).unwrap();
    for path in [closed.join("there"), closed.join("missing"), daemon.path("link")] {
        let error = app::refused(&daemon.overlaid(probe_package(), &[text(&path)]));
        let wanted = Error::Failed { step: Step::ListTopDirs, errno: Errno::ACCES };
        assert_eq!(error.kind(), wanted, "{error}");
    }
    // That one itself anybody may look up.
    let answer = daemon.probe_overlaid(&[text(&closed)], &["mounts"]);
    assert_eq!(answer.all(&format!("at {}", text(&closed))).len(), 1);
}

fn a_directory_that_is_listed_twice_or_nested_is_served_once() {
    let daemon = Daemon::start();
    let host = open_dir(&daemon, "host");
    let deep = directory(host.join("a/b"), 0o777, 0);
    let (top, deep) = (text(&host), text(&deep));
    symlink("host", daemon.path("link")).unwrap();
    let link = daemon.path("link");
    let [one, two] = [format!("write {top}/one 1"), format!("write {deep}/two 2")];
    for dirs in [vec![top, top], vec![deep, top, deep, text(&link)], vec![top; 16]] {
        let answer = daemon.probe_overlaid(&dirs, &[&one, &two, "mounts"]);
        assert_eq!((answer.one(&one), answer.one(&two)), ("ok", "ok"));
        let overlays =
            answer.all(&format!("at {top}")).len() + answer.all(&format!("at {deep}")).len();
        assert_eq!(overlays, 1, "{dirs:?}");
    }
    assert_eq!(names(&host), ["a"]);
    assert!(names(deep).is_empty());
}

fn directories_of_the_host_alone_are_refused_also_through_links() {
    let daemon = Daemon::start();
    let links =
        [("to-run", "/run"), ("to-run2", "/run/../run"), ("to-root", "/"), ("to-dev", "/dev")];
    for (name, target) in links {
        let link = daemon.path(name);
        symlink(target, &link).unwrap();
        let data = directory(daemon.path(&format!("data-{name}")), 0o755, 0);
        let launch = daemon.launch(probe_package()).data_dir(data).overlay("/etc").overlay(&link);
        let error = app::refused(&launch);
        let wanted = Error::Invalid { rule: Rule::Forbidden, item: Item::OverlayDir(1) };
        assert_eq!(error.kind(), wanted, "{name}");
        assert!(error.to_string().contains(text(&link)), "{error}");
    }
    // Where a process is at work is not told: who asks may be one that may not look.
    let link = daemon.path("to-cwd");
    symlink(format!("/proc/{}/cwd", daemon.pid()), &link).unwrap();
    let error = app::refused(&daemon.overlaid(probe_package(), &[text(&link)]));
    assert!(error.to_string().contains(text(&link)), "{error}");
    for dir in ["/", "/proc", "/sys/fs", "/dev", "/run", "//./run"] {
        let error = app::refused(&daemon.overlaid(probe_package(), &[dir]));
        let wanted = Error::Invalid { rule: Rule::Forbidden, item: Item::OverlayDir(0) };
        assert_eq!(error.kind(), wanted, "{dir}");
    }
}

fn names_with_commas_colons_and_blanks_are_only_names() {
    let daemon = Daemon::start();
    // The probe splits its commands at blanks, so it enters the directory by being started there.
    for name in ["a,lowerdir=/etc", "b:c", "d\\e", "f g", "%2F", "-o", "ü", "'\"$(x)"] {
        let host = open_dir(&daemon, name);
        let data = directory(daemon.path(&format!("data {name}")), 0o755, 0);
        let launch = daemon.launch(probe_package()).overlay(&host).data_dir(&data);
        let program = Program::new(daemon.exec_dir().join("bin/probe"));
        let program = program.args(["write new x", "read new"]).cwd(&host);
        let answer = App::start_program(&launch, program).unwrap().finish();
        assert_eq!(answer.one("read new"), "x", "{name}");
        assert!(names(&host).is_empty(), "{name}");
        let launch = daemon.launch(probe_package()).exec_dir(&host);
        assert_eq!(app::run(&launch, &["read share/hello"]).one("read share/hello"), "hello");
    }
}

fn a_missing_exec_dir_is_made_in_the_layer() {
    let daemon = Daemon::start();
    let host = directory(daemon.path("host"), 0o755, 0);
    let exec = host.join("a/b/c");
    let launch = daemon.overlaid(probe_package(), &[text(&host)]).exec_dir(&exec);
    for _ in 0..2 {
        let answer = app::run(&launch, &["cwd", "read share/hello"]);
        assert_eq!(answer.one("cwd"), text(&exec));
        assert_eq!(answer.one("read share/hello"), "hello");
        assert!(names(&host).is_empty());
    }
}

fn a_missing_exec_dir_elsewhere_is_an_error() {
    let daemon = Daemon::start();
    let exec = daemon.path("not/there");
    let error = app::refused(&daemon.launch(probe_package()).exec_dir(&exec));
    assert_eq!(error.kind(), Error::Failed { step: Step::MountPackage, errno: Errno::NOENT });
    let words = error.to_string();
    assert!(words.contains(text(&exec)) && words.contains("create the exec dir"), "{words}");
    assert!(!daemon.path("not").exists());
}

fn a_file_as_exec_dir_is_an_error() {
    let daemon = Daemon::start();
    let file = daemon.path("file");
    fs::write(&file, "").unwrap();
    let error = app::refused(&daemon.launch(probe_package()).exec_dir(&file));
    assert_eq!(error.kind(), Error::Failed { step: Step::MountPackage, errno: Errno::NOTDIR });
    assert!(error.to_string().contains(text(&file)), "{error}");
    // Below an overlaid directory as well.
    let launch = daemon.overlaid(probe_package(), &[text(daemon.dir())]).exec_dir(&file);
    assert_eq!(app::refused(&launch).errno(), Some(Errno::NOTDIR));
}

fn exec_dir_and_data_dir_may_lie_below_an_overlaid_directory() {
    let daemon = Daemon::start();
    let host = open_dir(&daemon, "host");
    // The whole scratch directory, with package, exec dir, data dir and socket.
    let top = text(daemon.dir());
    let write = format!("write {}/new x", text(&host));
    let read = format!("read {}/new", text(&host));
    let answer = daemon.probe_overlaid(&[top], &[&write, "read share/hello"]);
    assert_eq!((answer.one(&write), answer.one("read share/hello")), ("ok", "hello"));
    assert_eq!(daemon.probe_overlaid(&[top], &[&read]).one(&read), "x");
    assert!(names(&host).is_empty() && names(daemon.exec_dir()).is_empty());
}

fn the_layers_are_closed_to_the_app() {
    let daemon = Daemon::start();
    let data = text(&daemon.data_dir()).to_owned();
    // To an App that owns the data dir itself, overlaid or not.
    directory(&data, 0o700, APP_UID);
    let list = format!("ls {data}/.rocker");
    let rename = format!("rename {data}/.rocker {data}/mine");
    let top = text(daemon.dir()).to_owned();
    for dirs in [vec!["/etc"], vec![top.as_str()]] {
        let answer = daemon.probe_overlaid(&dirs, &[&list, &rename]);
        assert_eq!(answer.one(&list), "EACCES");
    }
    let layers =
        fs::metadata(format!("{data}/.rocker")).or_else(|_| fs::metadata(format!("{data}/mine")));
    let layers = layers.unwrap();
    assert_eq!((layers.uid(), layers.mode() & 0o777), (0, 0o700));
}

fn a_host_mount_below_an_overlaid_directory_is_visible_and_read_only() {
    private_mounts();
    let daemon = Daemon::start();
    let host = open_dir(&daemon, "host");
    tmpfs(&host.join("below"), "mode=777");
    tmpfs(&host.join("below/deeper"), "mode=777");
    fs::write(host.join("below/file"), "of the tmpfs").unwrap();
    fs::write(host.join("below/deeper/file"), "of the deeper").unwrap();
    let (source, bound) = (daemon.path("source"), host.join("bound"));
    fs::write(&source, "of the source").unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o666)).unwrap();
    fs::write(&bound, "hidden").unwrap();
    mount(Some(&source), &bound, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let dir = text(&host);
    let commands = [
        format!("read {dir}/below/file"),
        format!("read {dir}/below/deeper/file"),
        format!("read {dir}/bound"),
        format!("write {dir}/below/new x"),
        format!("write {dir}/below/deeper/new x"),
        format!("write {dir}/bound x"),
        format!("unlink {dir}/below/file"),
        format!("write {dir}/new x"),
    ];
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let wanted = [
        "of the tmpfs",
        "of the deeper",
        "of the source",
        "EROFS",
        "EROFS",
        "EROFS",
        "EROFS",
        "ok",
    ];
    for _ in 0..2 {
        let answer = daemon.probe_overlaid(&[dir], &commands);
        for (command, wanted) in commands.iter().zip(wanted) {
            assert_eq!(answer.one(command), wanted, "{command}");
        }
    }
    assert_eq!(fs::read_to_string(&source).unwrap(), "of the source");
    assert_eq!(names(host.join("below")), ["deeper", "file"]);
    // Named itself, it gets a layer of its own and can be written to.
    let below = host.join("below");
    let write = format!("write {}/new x", text(&below));
    assert_eq!(daemon.probe_overlaid(&[dir, text(&below)], &[&write]).one(&write), "ok");
    assert_eq!(names(host.join("below")), ["deeper", "file"]);
}

/// What another mount hides on the host does not come back with it.
fn a_hidden_host_mount_stays_hidden() {
    private_mounts();
    let daemon = Daemon::start();
    let host = open_dir(&daemon, "host");
    for place in ["cover/in", "cover/gone"] {
        tmpfs(&host.join(place), "mode=777");
        fs::write(host.join(place).join("file"), "hidden").unwrap();
    }
    tmpfs(&host.join("cover"), "mode=777");
    fs::create_dir(host.join("cover/in")).unwrap();
    fs::write(host.join("cover/in/file"), "of the cover").unwrap();
    let dir = text(&host);
    let commands = [
        format!("read {dir}/cover/in/file"),
        format!("write {dir}/cover/in/new x"),
        format!("read {dir}/cover/gone/file"),
    ];
    let commands = commands.each_ref().map(String::as_str);
    let answer = daemon.probe_overlaid(&[dir], &commands);
    let said = commands.map(|command| answer.one(command));
    assert_eq!(said, ["of the cover", "EROFS", "ENOENT"]);
}

fn a_dead_host_mount_below_an_overlaid_directory_is_no_obstacle() {
    private_mounts();
    let Ok(fuse) = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") else {
        runner::skip("there is no /dev/fuse");
    };
    let daemon = Daemon::start();
    let host = open_dir(&daemon, "host");
    fs::write(host.join("file"), "of the host").unwrap();
    let dead = host.join("dead");
    fs::create_dir(&dead).unwrap();
    let options =
        format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", fuse.as_raw_fd());
    mount(Some("dead"), &dead, Some("fuse"), MsFlags::empty(), Some(options.as_str())).unwrap();
    // Whoever served it has gone.
    drop(fuse);
    assert_eq!(fs::read_dir(&dead).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    let dir = text(&host);
    let (read, list, write) =
        (format!("read {dir}/file"), format!("ls {dir}/dead"), format!("write {dir}/new x"));
    let answer = daemon.probe_overlaid(&[dir], &[&read, &list, &write]);
    let said = [&read, &list, &write].map(|command| answer.one(command));
    assert_eq!(said, ["of the host", "ENOTCONN", "ok"]);
}

fn directories_of_several_host_mounts_are_overlaid_together() {
    private_mounts();
    let daemon = Daemon::start();
    let dirs: Vec<PathBuf> = ["one", "two", "three"].map(|name| daemon.path(name)).into();
    for dir in &dirs[..2] {
        tmpfs(dir, "mode=777");
    }
    directory(&dirs[2], 0o777, 0);
    let dirs: Vec<&str> = dirs.iter().map(|dir| text(dir)).collect();
    let writes: Vec<String> = dirs.iter().map(|dir| format!("write {dir}/new of {dir}")).collect();
    let writes: Vec<&str> = writes.iter().map(String::as_str).collect();
    let answer = daemon.probe_overlaid(&dirs, &writes);
    writes.iter().for_each(|write| assert_eq!(answer.one(write), "ok"));
    let reads: Vec<String> = dirs.iter().map(|dir| format!("read {dir}/new")).collect();
    let reads: Vec<&str> = reads.iter().map(String::as_str).collect();
    // In another order: each finds its own layer again.
    let reversed: Vec<&str> = dirs.iter().rev().copied().collect();
    let answer = daemon.probe_overlaid(&reversed, &reads);
    for (read, dir) in reads.iter().zip(&dirs) {
        assert_eq!(answer.one(read), format!("of {dir}"));
        assert!(names(dir).is_empty());
    }
}

fn the_mode_of_an_overlaid_mount_is_kept() {
    private_mounts();
    let daemon = Daemon::start();
    let own = format!("uid={APP_UID},gid={APP_GID},mode=750");
    for (name, options, wanted) in [
        ("sticky", "mode=1777", "dir 1777 65534 65534"),
        ("closed", "mode=700", "dir 0700 65534 65534"),
        ("own", own.as_str(), "dir 0750 54321 54322"),
    ] {
        let dir = daemon.path(name);
        tmpfs(&dir, options);
        let stat = format!("stat {}", text(&dir));
        for _ in 0..2 {
            assert_eq!(daemon.probe_overlaid(&[text(&dir)], &[&stat]).one(&stat), wanted);
        }
    }
}

fn a_data_dir_serves_one_rocker_at_a_time() {
    let daemon = Daemon::start();
    let launch = daemon.overlaid(probe_package(), &["/etc"]);
    let mut app = App::start(&launch, &["say here", "wait"]).unwrap();
    assert_eq!(app.line(), "say: here");
    let in_use = Error::Invalid { rule: Rule::InUse, item: Item::DataDir };
    for _ in 0..3 {
        let error = app::refused(&launch);
        assert_eq!(error.kind(), in_use);
        assert!(error.to_string().contains(text(&daemon.data_dir())), "{error}");
        let (name, guard) = (app.rocker.guard_name(), app.rocker.guard_pid());
        let holder = format!(
            ": rocker {name} has it, whose guard is {guard}: each needs a data dir of its own"
        );
        assert!(error.to_string().ends_with(&holder), "{error}");
    }
    // Also under another name of it, and for a launch without overlays.
    symlink("data", daemon.path("link")).unwrap();
    let by_link = daemon.launch(probe_package()).data_dir(daemon.path("link"));
    assert_eq!(app::refused(&by_link).kind(), in_use);
    app.finish();
    // Nor is one named that has ended, when somebody else has it.
    let lock = fs::File::open(daemon.data_dir().join(".rocker")).unwrap();
    assert!(within(SOON, || lock.try_lock().is_ok()), "its overlays are away some day");
    let error = app::refused(&launch);
    assert_eq!(error.kind(), in_use);
    assert!(error.to_string().ends_with(": no rocker that this master knows has it"), "{error}");
    drop(lock);
    assert_eq!(app::run(&launch, &["say again"]).one("say"), "again");
    // Free after root.10, too.
    let mut app = App::start(&launch, &["wait"]).unwrap();
    app.rocker.kill().unwrap();
    assert!(app.rocker.wait_gone(Some(SOON)).unwrap());
    assert_eq!(app::run(&launch, &["say again"]).one("say"), "again");
}

fn a_data_dir_is_free_as_soon_as_a_launch_has_failed() {
    let daemon = Daemon::start();
    let launch = daemon.overlaid(probe_package(), &["/etc", "/nowhere-at-all"]);
    for _ in 0..20 {
        let error = app::refused(&launch);
        let wanted = Error::Failed { step: Step::ListTopDirs, errno: Errno::NOENT };
        assert_eq!(error.kind(), wanted, "nothing of the launch before is left");
    }
}

fn a_data_dir_with_a_strange_rocker_directory_is_not_ours() {
    let daemon = Daemon::start();
    let elsewhere = directory(daemon.path("elsewhere"), 0o700, 0);
    let layers = |name: &str| directory(daemon.path(name), 0o777, 0).join(".rocker");
    directory(layers("of-the-app"), 0o700, APP_UID);
    directory(layers("open"), 0o755, 0);
    fs::write(layers("file"), "").unwrap();
    symlink(&elsewhere, layers("link")).unwrap();
    symlink("/nowhere", layers("dangling")).unwrap();
    for name in ["of-the-app", "open", "file", "link", "dangling"] {
        let launch = daemon.launch(probe_package()).data_dir(daemon.path(name)).overlay("/etc");
        let error = app::refused(&launch);
        let wanted = Error::Invalid { rule: Rule::NotOurs, item: Item::DataDir };
        assert_eq!(error.kind(), wanted, "{name}: {error}");
        assert!(error.to_string().contains(text(&daemon.path(name))), "{error}");
    }
    assert!(names(&elsewhere).is_empty());
}

fn a_data_dir_must_be_a_directory_that_is_there() {
    let daemon = Daemon::start();
    fs::write(daemon.path("file"), "").unwrap();
    let error = app::refused(&daemon.launch(probe_package()).data_dir(daemon.path("file")));
    assert_eq!(error.kind(), Error::Invalid { rule: Rule::NotADir, item: Item::DataDir });
    let missing = daemon.path("missing");
    let error = app::refused(&daemon.launch(probe_package()).data_dir(&missing));
    assert_eq!(error.kind(), Error::Invalid { rule: Rule::NoSuchDir, item: Item::DataDir });
    assert!(error.to_string().contains(text(&missing)), "{error}");
    assert!(!missing.exists());
    let error = app::refused(&daemon.launch(probe_package()).overlay("/etc"));
    assert_eq!(error.kind(), Error::Invalid { rule: Rule::NoDataDir, item: Item::DataDir });
}

/// A launch whose overlays must fail at prepare.4, or even before, with words to go on with.
fn refused_at_overlay(daemon: &Daemon, data: &Path, words: &[&str]) {
    let leaks = Leaks::snapshot();
    let error = app::refused(&daemon.launch(probe_package()).data_dir(data).overlay("/etc"));
    let said = error.to_string();
    assert!(matches!(error.kind(), Error::Failed { .. }), "{said}");
    assert!(said.contains(text(data)), "{said}");
    assert!(words.iter().any(|word| said.contains(word)), "{said}");
    leaks.assert_none();
}

fn a_data_dir_on_an_overlay_is_an_error() {
    private_mounts();
    let daemon = Daemon::start();
    let [lower, upper, work, merged] =
        ["lower", "upper", "work", "merged"].map(|name| directory(daemon.path(name), 0o755, 0));
    let options =
        format!("lowerdir={},upperdir={},workdir={}", text(&lower), text(&upper), text(&work));
    mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .unwrap();
    refused_at_overlay(&daemon, &merged, &["cannot hold an upper layer"]);
}

fn a_read_only_data_dir_is_an_error() {
    private_mounts();
    let daemon = Daemon::start();
    let data = daemon.path("read-only");
    tmpfs(&data, "mode=755");
    let read_only = || {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, &data, None::<&str>, flags, None::<&str>).unwrap();
    };
    // Before and after ROCKER has used it.
    read_only();
    refused_at_overlay(&daemon, &data, &["Read-only file system"]);
    mount(None::<&str>, &data, None::<&str>, MsFlags::MS_REMOUNT, None::<&str>).unwrap();
    app::run(&daemon.launch(probe_package()).data_dir(&data).overlay("/etc"), &[]);
    read_only();
    refused_at_overlay(&daemon, &data, &["read-only", "Read-only file system"]);
    // Nothing is to be kept, so nothing is needed.
    assert_eq!(daemon.probe(&["say lives"]).one("say"), "lives");
}

fn a_full_data_dir_is_an_error() {
    private_mounts();
    let daemon = Daemon::start();
    let data = daemon.path("full");
    tmpfs(&data, "mode=755,nr_inodes=1");
    refused_at_overlay(&daemon, &data, &["No space left"]);
    let host = open_dir(&daemon, "host");
    let write = format!("mkdir {}/new", text(&host));
    for inodes in 2..=8 {
        // Full at each of the directories that ROCKER and the kernel make, one after the other.
        let data = daemon.path(&format!("full{inodes}"));
        tmpfs(&data, &format!("mode=755,nr_inodes={inodes}"));
        match App::start(&daemon.launch(probe_package()).data_dir(&data).overlay(&host), &[&write])
        {
            // Once it runs it is the App's business; what it writes is refused as on any disk.
            Ok(app) => {
                let answer = app.finish();
                let said = answer.one(&write);
                assert!(["ok", "ENOSPC"].contains(&said), "{inodes}: {said}");
            }
            Err(error) => {
                let said = error.to_string();
                assert!(said.contains(text(&data)) && said.contains("No space left"), "{said}");
            }
        }
    }
    assert!(daemon.is_well());
}

fn a_data_dir_on_ramfs_works_or_is_an_error() {
    private_mounts();
    let daemon = Daemon::start();
    let data = daemon.path("ram");
    fs::create_dir(&data).unwrap();
    mount(Some("ramfs"), &data, Some("ramfs"), MsFlags::empty(), None::<&str>).unwrap();
    let host = open_dir(&daemon, "host");
    let launch = daemon.launch(probe_package()).data_dir(&data).overlay(&host);
    let write = format!("write {}/new x", text(&host));
    match App::start(&launch, &[&write]) {
        Ok(app) => assert_eq!(app.finish().one(&write), "ok"),
        Err(error) => assert!(error.to_string().contains(text(&data)), "{error}"),
    }
    assert!(names(&host).is_empty());
}

/// What the kernel leaves of a volatile overlay, and what the guard does.
fn marks(daemon: &Daemon) -> [bool; 2] {
    ["data/.rocker/work/work/incompat/volatile", "data/.rocker/volatile"]
        .map(|name| daemon.path(name).exists())
}

fn volatile_layers_are_made_durable_again() {
    let daemon = Daemon::start();
    let host = open_dir(&daemon, "host");
    let dir = text(&host);
    let launch = |volatile| daemon.overlaid(probe_package(), &[dir]).volatile(volatile);
    let (write, read) = (format!("write {dir}/file kept"), format!("read {dir}/file"));
    let is_volatile = |answer: &tests::Answer| {
        let table = answer.all("read /proc/self/mountinfo").join(" ");
        assert!(table.contains("upperdir="), "{table}");
        table.contains("volatile")
    };
    let look = "read /proc/self/mountinfo";
    for round in 0..2 {
        let answer = app::run(&launch(true), &[&write, look]);
        assert_eq!(answer.one(&write), "ok", "round {round}");
        assert!(is_volatile(&answer));
        assert_eq!(marks(&daemon), [true, true]);
    }
    for round in 0..2 {
        let answer = app::run(&launch(false), &[&read, look]);
        assert_eq!(answer.one(&read), "kept", "round {round}");
        assert!(!is_volatile(&answer));
        assert_eq!(marks(&daemon), [false, false]);
    }
}

fn volatile_layers_are_not_trusted_after_a_restart_of_the_machine() {
    let daemon = Daemon::start();
    let launch = |volatile| daemon.overlaid(probe_package(), &["/etc"]).volatile(volatile);
    app::run(&launch(true), &[]);
    let record = daemon.path("data/.rocker/volatile");
    let boot = fs::read_to_string(&record).unwrap();
    assert_eq!(boot, fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap());
    fs::write(&record, "00000000-0000-4000-8000-000000000000\n").unwrap();
    for volatile in [true, false] {
        let leaks = Leaks::snapshot();
        let error = app::refused(&launch(volatile));
        let kind = Error::Failed { step: Step::BuildOverlay, errno: Errno(117) };
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(".rocker/volatile"), "{error}");
        assert_eq!(marks(&daemon), [true, true]);
        leaks.assert_none();
    }
    // A guard that was killed before it had written all of it has mounted nothing.
    fs::remove_dir_all(daemon.path("data/.rocker/work/work/incompat")).unwrap();
    fs::write(&record, "").unwrap();
    app::run(&launch(true), &[]);
    assert_eq!(fs::read_to_string(&record).unwrap(), boot);
}

fn links_that_the_app_planted_lead_a_later_launch_nowhere() {
    let daemon = Daemon::start();
    let host = open_dir(&daemon, "host");
    let outside = directory(daemon.path("outside"), 0o777, 0);
    let launch = daemon.overlaid(probe_package(), &[text(&host)]).exec_dir(host.join("app/exec"));
    // The exec dir's parent, which root made in the App's layer, is replaced.
    let plant = [
        format!("rename {0}/app {0}/old", text(&host)),
        format!("symlink {} {}/app", text(&outside), text(&host)),
    ];
    let answer = app::run(&launch, &[&plant[0], &plant[1]]);
    assert_eq!((answer.one(&plant[0]), answer.one(&plant[1])), ("ok", "ok"));
    let error = app::refused(&launch);
    assert_eq!(error.kind(), Error::Failed { step: Step::MountPackage, errno: Errno::LOOP });
    assert!(names(&outside).is_empty(), "nothing was made through the link");
    // An overlaid directory itself cannot be replaced: it is looked up on the host.
    let inner = directory(host.join("inner"), 0o777, 0);
    let data = directory(daemon.path("data2"), 0o755, 0);
    let both = |dirs: &[&str]| {
        dirs.iter().fold(daemon.launch(probe_package()).data_dir(&data), |l, d| l.overlay(d))
    };
    let plant = [
        format!("rmdir {}", text(&inner)),
        format!("symlink {} {}", text(&outside), text(&inner)),
        format!("write {}/leak x", text(&inner)),
    ];
    app::run(&both(&[text(&host)]), &[&plant[0], &plant[1], &plant[2]]);
    let _ = App::start(&both(&[text(&host), text(&inner)]), &[&plant[2]]).map(App::finish);
    let _ = App::start(&both(&[text(&inner)]), &[&plant[2]]).map(App::finish);
    // The App may write to `outside` itself, which is nobody's overlay; what counts is the host's
    // own directory.
    assert!(names(&inner).is_empty());
}

fn a_link_planted_over_a_host_mount_is_not_followed() {
    private_mounts();
    let daemon = Daemon::start();
    let host = open_dir(&daemon, "host");
    let below = directory(host.join("dir/below"), 0o777, 0);
    fs::set_permissions(host.join("dir"), fs::Permissions::from_mode(0o777)).unwrap();
    let outside = directory(daemon.path("outside"), 0o777, 0);
    fs::create_dir(outside.join("below")).unwrap();
    let plant = [
        format!("rename {0}/dir {0}/gone", text(&host)),
        format!("mkdir {0}/other", text(&host)),
        format!("rmdir {}", text(&below)),
        format!("rmdir {}/dir", text(&host)),
        format!("symlink {} {}/dir", text(&outside), text(&host)),
    ];
    let plant: Vec<&str> = plant.iter().map(String::as_str).collect();
    let answer = daemon.probe_overlaid(&[text(&host)], &plant);
    assert_eq!(answer.one(plant[4]), "ok", "the link is there");
    tmpfs(&below, "mode=777");
    fs::write(below.join("file"), "of the tmpfs").unwrap();
    let list = format!("ls {}/below", text(&outside));
    let answer = daemon.probe_overlaid(&[text(&host)], &[&list, "say lives"]);
    assert_eq!(answer.one(&list), "", "nothing was mounted through the link");
    assert_eq!(answer.one("say"), "lives");
}

fn a_link_planted_at_the_top_of_a_layer_is_not_followed() {
    private_mounts();
    let daemon = Daemon::start();
    let mount = directory(daemon.path("mount"), 0o777, 0);
    tmpfs(&mount, "mode=777");
    let inner = directory(mount.join("inner"), 0o777, 0);
    let outside = directory(daemon.path("outside"), 0o755, 0);
    let data = directory(daemon.path("data2"), 0o755, 0);
    let over = |dir| daemon.launch(probe_package()).data_dir(&data).overlay(dir);
    for (plant, errno) in [
        (format!("symlink {} {}", text(&outside), text(&inner)), Errno::LOOP),
        (format!("write {} x", text(&inner)), Errno::NOTDIR),
    ] {
        let rmdir = format!("rmdir {}", text(&inner));
        let unlink = format!("unlink {}", text(&inner));
        let answer = app::run(&over(text(&mount)), &[&rmdir, &plant]);
        assert_eq!(answer.one(&plant), "ok");
        let error = app::refused(&over(text(&inner)));
        assert_eq!(error.kind(), Error::Failed { step: Step::MountOverlay, errno }, "{error}");
        let mkdir = format!("mkdir {}", text(&inner));
        let answer = app::run(&over(text(&mount)), &[&unlink, &mkdir]);
        assert_eq!(answer.one(&mkdir), "ok");
    }
    // A directory of the App's own is one.
    app::run(&over(text(&inner)), &[&format!("write {}/file x", text(&inner))]);
    assert!(names(&outside).is_empty() && names(&inner).is_empty());
}

fn sockets_and_fifos_below_an_overlay_are_dead() {
    let daemon = Daemon::start();
    let host = open_dir(&daemon, "host");
    let socket = host.join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    let connect = format!("connect {}", text(&socket));
    // KERNEL A15, and in the README: EPROTOTYPE says that somebody listens, in another way.
    assert_eq!(daemon.probe(&[&connect]).one(&connect), "EPROTOTYPE");
    assert_eq!(daemon.probe_overlaid(&[text(&host)], &[&connect]).one(&connect), "ECONNREFUSED");
}

fn a_package_that_is_replaced_stays_the_old_one_for_the_living() {
    let daemon = Daemon::start();
    let package = daemon.path("app.sqfs");
    let put = |content: &str| {
        let made = Package::with_probe().file("share/hello", 0o644, content).build();
        fs::copy(made, daemon.path("new.sqfs")).unwrap();
        fs::rename(daemon.path("new.sqfs"), &package).unwrap();
    };
    put("old");
    let mut app =
        App::start(&daemon.launch(&package), &["say here", "wait", "read share/hello"]).unwrap();
    assert_eq!(app.line(), "say: here");
    put("new");
    let read = "read share/hello";
    assert_eq!(app::run(&daemon.launch(&package), &[read]).one(read), "new");
    assert_eq!(app.finish().one(read), "old");
}

fn proc_shows_the_rocker_alone() {
    let daemon = Daemon::start();
    let answer = daemon.probe(&[
        "processes",
        "read /proc/1/comm",
        "write /proc/sys/kernel/hostname x",
        "flags /proc",
    ]);
    assert_eq!(answer.one("processes").split(' ').count(), 2);
    assert_eq!(answer.one("read /proc/1/comm").len(), 15);
    assert_eq!(answer.one("write /proc/sys/kernel/hostname x"), "EACCES");
    assert_eq!(answer.one("flags /proc"), "nosuid nodev");
    assert!(within(SOON, || daemon.records().is_empty()));
}

fn proc_and_sys_cannot_be_written_to() {
    /// Everybody may open these, and the kernel asks for more when they are written to, or has
    /// them change nothing but what the writer is told.
    const HARMLESS: [&str; 2] = ["/proc/pressure/", "/proc/sys/kernel/ns_last_pid"];
    let daemon = Daemon::start();
    let find = "for f in $(find /proc /sys -path '/proc/[0-9]*' -prune -o \
                -type f -writable -print 2>/dev/null); do echo \"$f: \"; done; \
                find /proc/1 /dev/null -maxdepth 0 -writable -exec echo 'tried: {}' ';'; \
                echo 99 2>/dev/null >/proc/sys/kernel/ns_last_pid || echo 'pid: refused'";
    let launch = daemon.launch(probe_package()).seccomp(Seccomp::Unconfined);
    let program = Program::new("sh").args(["-c", find]).env("PATH", "/usr/bin:/bin");
    let answer = App::start_program(&launch, program).unwrap().finish();
    // Nor does uid 0 inside make a difference.
    let inside = launch.clone().ids_inside(0, 0);
    let mut rocker = replayed(inside.open()).unwrap();
    let program = Program::new("sh").args(["-c", find]).env("PATH", "/usr/bin:/bin");
    let as_root = Answer::new(answer.status, &app::commanded(&mut rocker, program));
    assert!(rocker.kill(SOON).unwrap());
    for answer in [answer, as_root] {
        nothing_can_be_written_to(&answer, &HARMLESS);
    }
    // What tells of the host's memory is root's, or does not tell.
    let secrets = ["kcore", "kmsg", "timer_list", "slabinfo", "kpageflags", "1/mem", "vmallocinfo"];
    let secrets = secrets.map(|name| format!("open /proc/{name}"));
    let commands: Vec<&str> = secrets.iter().map(String::as_str).collect();
    let mut rocker = replayed(inside.open()).unwrap();
    let program = Program::new("bin/probe").args(&commands);
    let entered = app::run(&launch, &commands);
    let as_root = Answer::new(entered.status, &app::commanded(&mut rocker, program));
    assert!(rocker.kill(SOON).unwrap());
    for answer in [entered, as_root] {
        for command in &commands {
            let said = answer.one(command);
            assert!(["EACCES", "EPERM", "ENOENT"].contains(&said), "{command}: {said}");
        }
    }
}

#[track_caller]
fn nothing_can_be_written_to(answer: &Answer, harmless: &[&str]) {
    assert_eq!(answer.all("tried"), ["/dev/null"], "it finds what can be written to");
    assert_eq!(answer.all("pid"), ["refused"]);
    let found = answer.keys().filter(|key| key.starts_with('/'));
    let other: Vec<&str> =
        found.filter(|file| !harmless.iter().any(|it| file.starts_with(it))).collect();
    assert!(other.is_empty(), "{other:?}");
}

fn control_groups_cannot_be_written_to() {
    private_mounts();
    let there = Path::new("/sys/fs/cgroup");
    if !there.exists() {
        runner::skip("there is no /sys/fs/cgroup");
    }
    // A tree that lets everybody, with one below that was delegated to the App's user.
    mount(Some("tmpfs"), there, Some("tmpfs"), MsFlags::empty(), Some("mode=777")).unwrap();
    tmpfs(&there.join("delegated"), &format!("mode=700,uid={APP_UID},gid={APP_GID}"));
    let procs = there.join("delegated/cgroup.procs");
    fs::write(&procs, "").unwrap();
    std::os::unix::fs::chown(&procs, Some(APP_UID), Some(APP_GID)).unwrap();
    let commands = [
        "write /sys/fs/cgroup/release_agent /tmp/x",
        "mkdir /sys/fs/cgroup/own",
        "write /sys/fs/cgroup/delegated/cgroup.procs 1",
        "mkdir /sys/fs/cgroup/delegated/own",
    ];
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package());
    for launch in [launch.clone(), launch.seccomp(Seccomp::Unconfined)] {
        let answer = app::run(&launch, &commands);
        assert_eq!(commands.map(|command| answer.one(command)), ["EROFS"; 4]);
    }
}
