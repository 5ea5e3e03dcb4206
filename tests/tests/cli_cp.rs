//! `rocker cp`: files out of a living rocker and into it, whole or not at all, and with no more
//! than the App's rights.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use rocker_client::{Conf, Limits, OpenRocker, Program, protocol::Verdict};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tests::output::assert_refused;
use tests::{APP_UID, Daemon, SOON, bin, probe_package, replayed, runner, scratch};

fn main() -> ExitCode {
    runner::main(tests::root![
        a_file_goes_in_and_comes_out_as_it_was,
        streams_are_copied_too,
        what_an_app_has_put_there_leads_nowhere,
        what_is_no_file_is_refused_in_one_line,
        a_full_disk_is_said_and_nothing_is_left,
        what_others_have_put_on_the_host_leads_nowhere,
        what_is_too_long_is_not_copied,
    ])
}

/// A rocker with a megabyte of memory at `/mnt`.
fn open(daemon: &Daemon) -> OpenRocker {
    let mut rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
    rocker.configure(&Conf::new().tmpfs("/mnt", 1 << 20).work_dir("/mnt")).unwrap();
    rocker
}

fn cp(daemon: &Daemon, from: &str, to: &str) -> Command {
    let mut command = Command::new(bin("rocker"));
    command.arg("cp").arg("--socket").arg(daemon.socket()).args([from, to]).stdin(Stdio::null());
    command
}

#[track_caller]
fn copied(daemon: &Daemon, from: &str, to: &str) {
    let output = cp(daemon, from, to).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}

#[track_caller]
fn shell(rocker: &mut OpenRocker, script: &str) {
    let run = rocker.spawn(&Program::new("sh").args(["-ec", script]), &Limits::new()).unwrap();
    assert_eq!(rocker.wait(&run).unwrap().verdict, Verdict::Normal, "{script}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn what_others_have_put_on_the_host_leads_nowhere() {
    let (daemon, dir) = (Daemon::start(), scratch());
    let mut rocker = open(&daemon);
    let name = rocker.guard_name().to_string();
    shell(&mut rocker, "echo new > victim");
    // Everybody may write there, and the kernel protects nobody without the sticky bit.
    let (open_dir, victims) = (dir.path().join("open"), dir.path().join("victims"));
    for (path, mode) in [(&open_dir, 0o777), (&victims, 0o755)] {
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let victim = victims.join("victim");
    fs::write(&victim, "old").unwrap();
    symlink(&victim, open_dir.join("victim")).unwrap();
    symlink(&victims, open_dir.join("dir")).unwrap();
    symlink(victims.join("new"), open_dir.join("new")).unwrap();
    for to in ["", "victim", "dir", "new"] {
        let to = open_dir.join(to).display().to_string();
        let output = cp(&daemon, &format!("{name}:victim"), &to).output().unwrap();
        assert_refused(&output, 125, &["it is a link: name what it leads to"]);
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "old");
    assert_eq!(tests::scratch::names(&victims), ["victim"]);
    assert_eq!(tests::scratch::names(&open_dir), ["dir", "new", "victim"]);
    copied(&daemon, &format!("{name}:victim"), &victim.display().to_string());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "new\n");
    assert!(rocker.kill(SOON).unwrap());
}

fn what_is_too_long_is_not_copied() {
    let (daemon, dir) = (Daemon::start(), scratch());
    let mut rocker = open(&daemon);
    let name = rocker.guard_name().to_string();
    // It has no blocks at all.
    shell(&mut rocker, "truncate -s 2G sparse; echo 12345 > short");
    let to = dir.path().join("copy").display().to_string();
    let refused = |from: &str, options: &[&str], to: &str, words: &str| {
        let output = cp(&daemon, &format!("{name}:{from}"), to).args(options).output().unwrap();
        assert_refused(&output, 125, &[words]);
        assert!(tests::scratch::names(dir.path()).is_empty(), "{from}");
    };
    refused("sparse", &[], &to, "it is longer than --max-size 1.0G");
    refused("sparse", &["--max-size", "1M"], "-", "it is longer than --max-size 1.0M");
    refused("short", &["--max-size", "5"], &to, "it is longer than --max-size 5");
    let exact = cp(&daemon, &format!("{name}:short"), &to).args(["--max-size", "6"]).output();
    assert!(exact.unwrap().status.success());
    assert_eq!(fs::read_to_string(&to).unwrap(), "12345\n");
    assert!(rocker.kill(SOON).unwrap());
}

fn a_file_goes_in_and_comes_out_as_it_was() {
    let (daemon, dir) = (Daemon::start(), scratch());
    let mut rocker = open(&daemon);
    let name = rocker.guard_name().to_string();
    let at = |path: &str| dir.path().join(path).display().to_string();
    let bytes: Vec<u8> = (0..300_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    fs::write(at("here"), &bytes).unwrap();
    fs::set_permissions(at("here"), fs::Permissions::from_mode(0o4775)).unwrap();
    // Below the work dir, and with the beginning of a name.
    copied(&daemon, &at("here"), &format!("{}:there", &name[..4]));
    shell(&mut rocker, &format!("test $(stat -c %a-%u /mnt/there) = 775-{APP_UID}"));
    copied(&daemon, &format!("{name}:/mnt/there"), &at("back"));
    assert!(fs::read(at("back")).unwrap() == bytes);
    // As of any new file of the caller's.
    assert_eq!(mode(at("back").as_ref()), 0o755);
    // A directory is where it goes to, on either side.
    fs::create_dir(at("dir")).unwrap();
    copied(&daemon, &format!("{name}:there"), &at("dir"));
    assert!(fs::read(at("dir/there")).unwrap() == bytes);
    shell(&mut rocker, "mkdir /mnt/inside");
    copied(&daemon, &at("back"), &format!("{name}:inside"));
    shell(&mut rocker, "cmp /mnt/there /mnt/inside/back");
    // What is there is replaced: on the host by another file.
    fs::write(at("old"), "old").unwrap();
    let before = fs::metadata(at("old")).unwrap().ino();
    copied(&daemon, &format!("{name}:there"), &at("old"));
    assert!(fs::read(at("old")).unwrap() == bytes);
    assert_ne!(fs::metadata(at("old")).unwrap().ino(), before);
    fs::write(at("short"), "short").unwrap();
    copied(&daemon, &at("short"), &format!("{name}:there"));
    shell(&mut rocker, "test $(cat /mnt/there)-$(stat -c %a /mnt/there) = short-775");
    // The package, too.
    copied(&daemon, &format!("{name}:{}/bin/probe", daemon.exec_dir().display()), &at("probe"));
    assert!(fs::metadata(at("probe")).unwrap().len() > 1000);
    assert!(rocker.kill(SOON).unwrap());
}

fn streams_are_copied_too() {
    let daemon = Daemon::start();
    let rocker = open(&daemon);
    let name = rocker.guard_name().to_string();
    let mut child =
        cp(&daemon, "-", &format!("{name}:/mnt/in")).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"piped\n").unwrap();
    assert!(child.wait().unwrap().success());
    let output = cp(&daemon, &format!("{name}:/mnt/in"), "-").output().unwrap();
    assert_eq!((output.stdout.as_slice(), output.status.code()), (b"piped\n".as_slice(), Some(0)));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = cp(&daemon, &format!("{name}:/mnt/in"), "-").stdout(full).output().unwrap();
    assert_refused(&output, 125, &["No space left on device"]);
    assert!(rocker.kill(SOON).unwrap());
}

fn what_an_app_has_put_there_leads_nowhere() {
    let (daemon, dir) = (Daemon::start(), scratch());
    let mut rocker = open(&daemon);
    let name = rocker.guard_name().to_string();
    let secret = dir.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let script = format!(
        "cd /mnt; ln -s {} secret; ln -s /etc/passwd out; ln -s /proc/1/mem mem; mkfifo fifo; \
         ln -s ../etc up; ln -s /etc/rocker-was-here made",
        secret.display()
    );
    shell(&mut rocker, &script);
    let to = dir.path().join("to").display().to_string();
    let from = |path: &str| cp(&daemon, &format!("{name}:{path}"), &to).output().unwrap();
    // Root asks, and has no more than the App.
    assert_refused(&from("/mnt/secret"), 125, &["the App may not"]);
    assert_refused(&from("/mnt/mem"), 125, &[""]);
    assert_refused(&from("/mnt/fifo"), 125, &["no regular file"]);
    assert_refused(&from("/proc/self/status"), 125, &[""]);
    for out in ["out", "up/passwd", "../etc/passwd"] {
        assert_refused(&from(out), 125, &["leads out of where it begins"]);
    }
    let into = cp(&daemon, &to, &format!("{name}:/mnt/made")).output().unwrap();
    assert_refused(&into, 125, &["No such file or directory"]);
    fs::write(&to, "x").unwrap();
    let into = |path: &str| cp(&daemon, &to, &format!("{name}:{path}")).output().unwrap();
    assert_refused(&into("/mnt/made"), 125, &["No such file or directory"]);
    assert_refused(&into("/mnt/fifo"), 125, &[""]);
    assert_refused(&into("/etc/passwd"), 125, &["the App may not"]);
    assert!(!fs::exists("/etc/rocker-was-here").unwrap());
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
    assert!(rocker.kill(SOON).unwrap());
}

fn what_is_no_file_is_refused_in_one_line() {
    let (daemon, dir) = (Daemon::start(), scratch());
    let rocker = open(&daemon);
    let name = rocker.guard_name().to_string();
    let to = dir.path().join("to").display().to_string();
    let refused = |from: &str, to: &str, words: &str| {
        assert_refused(&cp(&daemon, from, to).output().unwrap(), 125, &[words]);
    };
    let inside = |path: &str| format!("{name}:{path}");
    refused(&inside("/etc"), &to, "it is a directory");
    refused(&inside("/nowhere"), &to, "No such file or directory");
    refused(&inside(""), &to, ": needs a path");
    refused(&to, &inside(""), ": needs a path");
    refused(&inside("/etc/passwd"), "/dev/null", "no regular file");
    refused(&inside("/etc/passwd"), "/nowhere/to", "No such file or directory");
    refused("/etc", &inside("x"), "it is a directory");
    refused("/dev/zero", &inside("x"), "no regular file");
    refused("-", &inside("/mnt"), "it is a directory");
    refused("/etc/passwd", &inside("/mnt/no/such"), "No such file or directory");
    refused("/etc/passwd", &to, "one of the two has to read NAME:PATH");
    refused(&inside("/a"), &inside("/b"), "one of the two has to read NAME:PATH");
    refused(":/etc/passwd", &to, "no name");
    refused("zzz:/etc/passwd", &to, "no living rocker has this name");
    assert!(!fs::exists(&to).unwrap());
    assert!(rocker.kill(SOON).unwrap());
}

fn a_full_disk_is_said_and_nothing_is_left() {
    let (daemon, dir) = (Daemon::start(), scratch());
    let mut rocker = open(&daemon);
    let name = rocker.guard_name().to_string();
    // On the host.
    shell(&mut rocker, "head -c 500000 /dev/zero > /mnt/large");
    let small = dir.path().join("small");
    fs::create_dir(&small).unwrap();
    mount("tmpfs", &small, "tmpfs", MountFlags::empty(), Some(c"size=65536")).unwrap();
    fs::write(small.join("to"), "old").unwrap();
    let to = small.join("to").display().to_string();
    let output = cp(&daemon, &format!("{name}:/mnt/large"), &to).output().unwrap();
    let names: Vec<_> = fs::read_dir(&small).unwrap().map(|it| it.unwrap().file_name()).collect();
    let kept = fs::read(small.join("to")).unwrap();
    unmount(&small, UnmountFlags::empty()).unwrap();
    assert_refused(&output, 125, &["No space left on device"]);
    assert_eq!(names, ["to"]);
    assert!(kept == b"old", "it is half-written");
    // In the rocker.
    let large = dir.path().join("large");
    fs::write(&large, vec![0; 2 << 20]).unwrap();
    let into = cp(&daemon, &large.display().to_string(), &format!("{name}:new")).output().unwrap();
    assert_refused(&into, 125, &["No space left on device"]);
    shell(&mut rocker, "test $(ls /mnt) = large");
    assert!(rocker.kill(SOON).unwrap());
}
