//! exec.0 to exec.2 for what is no program: files that are opened, deleted and linked.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::time::Duration;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use nix::mount::MsFlags;
use protocol::{Errno, Step, Verdict};
use rocker_client::{Conf, Error, Launch, Limits, OpenFile, OpenRocker, Run, Stdio};
use rustix::fs::{OFlags, fcntl_getfl};
use tests::{
    APP_GID, APP_UID, Daemon, Package, Program, SOON, app, probe_package, replayed, runner, scratch,
};

const SIGKILL: u8 = 9;

fn main() -> ExitCode {
    runner::main(tests::root![
        files_are_opened_with_the_rights_of_the_app,
        what_a_hostile_app_puts_in_a_files_place_is_not_opened,
        what_is_opened_does_not_keep_the_guard_waiting,
        files_links_and_trees_are_deleted,
        a_tree_is_deleted_however_deep_and_locked,
        a_hostile_app_cannot_lead_a_deletion_astray,
        links_are_made_and_nothing_is_followed,
        a_rocker_is_what_its_configuration_says,
        every_field_of_the_documents_configuration_is_there,
        another_root_has_nothing_but_what_was_named,
        no_program_of_a_configured_rocker_has_a_privilege,
        uid_0_inside_is_nobody_in_particular,
        what_cannot_be_configured_is_told,
        a_hostile_app_cannot_move_a_place,
        a_reset_leaves_nothing_of_what_ran,
        one_that_was_not_configured_is_reset_as_well,
        a_reset_forgets_what_has_a_number_or_a_queues_name,
        a_thousand_resets_leave_guard_and_mounts_as_they_were,
        a_user_without_privilege_configures_and_resets,
    ])
}

/// A rocker, and a directory of the host's that its App may write to.
struct Place {
    rocker: OpenRocker,
    top: PathBuf,
    daemon: Daemon,
    /// Where the probe is, wherever programs start.
    probe: PathBuf,
}

fn place() -> Place {
    place_of(probe_package())
}

fn place_of(package: impl AsRef<Path>) -> Place {
    let daemon = Daemon::start();
    let top = scratch::directory(daemon.path("top"), 0o755, 0);
    // Some disks take milliseconds for each directory.
    let owner = format!("mode=755,uid={APP_UID}");
    nix::mount::mount(Some("tmpfs"), &top, Some("tmpfs"), MsFlags::empty(), Some(&*owner)).unwrap();
    let rocker = replayed(daemon.launch(package).open()).unwrap();
    let probe = daemon.exec_dir().join("bin/probe");
    Place { rocker, top, daemon, probe }
}

fn place_from(daemon: Daemon, launch: &Launch) -> Place {
    let rocker = replayed(launch.open()).unwrap();
    let (top, probe) = (daemon.path("top"), daemon.exec_dir().join("bin/probe"));
    Place { rocker, top, daemon, probe }
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.top.join(name)
    }

    fn open_one(&mut self, file: OpenFile) -> Result<fs::File, Error> {
        let mut answers = self.rocker.open_files(&[file]).unwrap();
        assert_eq!(answers.len(), 1);
        answers.pop().unwrap()
    }

    fn refused(&mut self, file: OpenFile) -> Errno {
        let began = Instant::now();
        let error = self.open_one(file).unwrap_err();
        assert!(began.elapsed() < SOON, "{error}");
        assert_eq!(error.step(), Step::StartProgram);
        error.errno().unwrap()
    }

    /// Starts the probe with these commands; it waits for the end of its input afterwards.
    fn start(&mut self, commands: &[&str]) -> (Run, std::io::PipeReader, std::io::PipeWriter) {
        let (stdin, input) = std::io::pipe().unwrap();
        let (output, stdout) = std::io::pipe().unwrap();
        let program =
            Program::new(&self.probe).args(commands).arg("wait").stdin(stdin).stdout(stdout);
        let run = self.rocker.spawn(&program, &Limits::new()).unwrap();
        (run, output, input)
    }

    /// Runs the probe with these commands, to its end.
    fn probe(&mut self, commands: &[&str]) -> String {
        let (run, mut output, input) = self.start(commands);
        drop(input);
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        assert_eq!(self.rocker.wait(&run).unwrap().verdict, Verdict::Normal, "{text}");
        text
    }

    fn sh(&mut self, script: &str) -> Run {
        let sh = Program::new("/bin/sh").args(["-c", script]).stdin(Stdio::Null).cwd(&self.top);
        self.rocker.spawn(&sh, &Limits::new()).unwrap()
    }

    fn ends(self) {
        assert!(self.rocker.kill(SOON).unwrap(), "the rocker outlives its guard");
    }
}

fn files_are_opened_with_the_rights_of_the_app() {
    let mut place = place();
    let path = place.path("in");
    let mut file = place.open_one(OpenFile::new(&path).write().create_new(0o640)).unwrap();
    file.write_all(b"hello").unwrap();
    drop(file);
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.uid(), meta.permissions().mode() & 0o7777), (APP_UID, 0o640));
    let read = format!("read {}", path.display());
    assert_eq!(place.probe(&[&read]), format!("{read}: hello\n"));
    assert_eq!(place.refused(OpenFile::new(&path).write().create_new(0o640)), Errno::EXIST);

    // Relative paths begin in the package; each file of a batch has its own answer.
    let mut files = vec![OpenFile::new("share/hello"), OpenFile::new("share/nothing")];
    files.push(OpenFile::new("/etc/shadow"));
    files.push(OpenFile::new("/etc/passwd").write());
    files.push(OpenFile::new("share").directory());
    files.push(OpenFile::new(&path).append().create(0o7777));
    let answers = place.rocker.open_files(&files).unwrap();
    let errnos: Vec<_> =
        answers.iter().map(|it| it.as_ref().err().and_then(Error::errno)).collect();
    let denied = Some(Errno::ACCES);
    assert_eq!(errnos, [None, Some(Errno::NOENT), denied, denied, None, Some(Errno::INVAL)]);
    let error = answers[1].as_ref().unwrap_err().to_string();
    assert!(error.contains("open share/nothing: No such file"), "{error}");
    let mut text = String::new();
    answers.into_iter().next().unwrap().unwrap().read_to_string(&mut text).unwrap();
    assert!(!text.is_empty());

    let many = vec![OpenFile::new("share/hello"); 16];
    assert!(place.rocker.open_files(&many).unwrap().iter().all(Result::is_ok));
    let error = place.rocker.open_files(&[many, files].concat()).unwrap_err();
    assert!(error.to_string().starts_with("file: "), "{error}");
    assert!(place.rocker.open_files(&[]).unwrap().is_empty());
    place.ends();
}

/// Whatever a caller writes to such a file, it must not be the guard's memory.
fn what_a_hostile_app_puts_in_a_files_place_is_not_opened() {
    let package = Package::with_probe().link("out", "/etc/passwd").build();
    let mut place = place_of(package);
    for (name, target) in [
        ("mem", "/proc/self/mem"),
        ("environ", "/proc/1/environ"),
        ("sysctl", "/proc/sys/kernel/core_pattern"),
        ("root", "/proc/self/root/etc/passwd"),
        ("fd", "/proc/self/fd/0"),
        ("cwd", "/proc/thread-self/cwd"),
        ("null", "/dev/null"),
        ("loop", "loop"),
    ] {
        symlink(target, place.path(name)).unwrap();
    }
    let at = |place: &Place, name: &str| OpenFile::new(place.path(name)).any_kind();
    for name in ["mem", "environ", "sysctl"] {
        let file = at(&place, name);
        assert_eq!(place.refused(file), Errno::ACCES, "{name}");
    }
    let file = at(&place, "mem").read().write();
    assert_eq!(place.refused(file), Errno::ACCES);
    for name in ["root", "fd", "cwd", "loop"] {
        let file = at(&place, name);
        assert_eq!(place.refused(file), Errno::LOOP, "{name}");
    }
    let file = at(&place, "null").no_follow();
    assert_eq!(place.refused(file), Errno::LOOP);
    let null = OpenFile::new(place.path("null")).write();
    assert_eq!(place.refused(null), Errno::ACCES);
    let null = at(&place, "null").write();
    place.open_one(null).unwrap();
    // Below the work dir a link leads nowhere else.
    const XDEV: Errno = Errno(18);
    for outside in ["out", "../../etc/passwd", "bin/../../x"] {
        assert_eq!(place.refused(OpenFile::new(outside)), XDEV, "{outside}");
    }
    place.ends();
}

fn what_is_opened_does_not_keep_the_guard_waiting() {
    const NXIO: Errno = Errno(6);
    let mut place = place();
    let (fifo, leased) = (place.path("fifo"), place.path("leased"));
    let lease = format!("lease {}", leased.display());
    let write = format!("write {} hello", leased.display());
    let (run, mut output, _input) =
        place.start(&[&format!("mkfifo {}", fifo.display()), &write, &lease]);
    let mut text = [0; 512];
    let mut said = String::new();
    while !said.contains(&lease) {
        let length = output.read(&mut text).unwrap();
        said.push_str(core::str::from_utf8(&text[..length]).unwrap());
    }
    assert!(said.ends_with("ok\n"), "{said}");

    assert_eq!(place.refused(OpenFile::new(&fifo)), Errno::ACCES);
    assert_eq!(place.refused(OpenFile::new(&fifo).write().any_kind()), NXIO);
    assert_eq!(place.refused(OpenFile::new(&leased)), Errno::AGAIN);
    assert_eq!(place.refused(OpenFile::new(&leased).truncate()), Errno::AGAIN);
    let flags = |file: &fs::File| fcntl_getfl(file).unwrap().contains(OFlags::NONBLOCK);
    let reader = place.open_one(OpenFile::new(&fifo).any_kind().non_blocking()).unwrap();
    assert!(flags(&reader));
    let reader = place.open_one(OpenFile::new(&fifo).any_kind()).unwrap();
    assert!(!flags(&reader));
    assert!(!flags(&place.open_one(OpenFile::new("share/hello")).unwrap()));
    place.rocker.signal(&run, SIGKILL).unwrap();
    place.rocker.wait(&run).unwrap();
    place.ends();
}

fn files_links_and_trees_are_deleted() {
    let mut place = place();
    let errno = |result: Result<(), Error>| result.unwrap_err().errno().unwrap();
    let tree = place.path("tree");
    place.probe(&[
        &format!("mkdir {}", tree.display()),
        &format!("write {}/file x", tree.display()),
        &format!("symlink /etc {}/etc", tree.display()),
        &format!("mkdir {}/empty", tree.display()),
        &format!("mkdir {}/full", tree.display()),
        &format!("write {}/full/file x", tree.display()),
        &format!("write {} x", place.path("plain").display()),
        &format!("symlink tree {}", place.path("link").display()),
    ]);
    place.rocker.delete(tree.join("empty")).unwrap();
    const NOTEMPTY: Errno = Errno(39);
    let error = place.rocker.delete(&tree).unwrap_err();
    assert_eq!(error.errno(), Some(NOTEMPTY));
    assert!(error.to_string().contains(&format!("rm -d {}", tree.display())), "{error}");
    // A link is deleted, and not what it leads to; also where it is only the last of a path.
    place.rocker.delete_tree(place.path("link"), SOON).unwrap();
    place.rocker.delete_tree(place.path("plain"), SOON).unwrap();
    assert!(tree.join("full/file").exists());
    place.rocker.delete_tree(format!("{}//", tree.display()), SOON).unwrap();
    assert_eq!(scratch::names(&place.top), Vec::<String>::new());
    assert!(Path::new("/etc/passwd").exists());

    assert_eq!(errno(place.rocker.delete(&tree)), Errno::NOENT);
    assert_eq!(errno(place.rocker.delete_tree("bin", SOON)), Errno::ROFS);
    assert_eq!(errno(place.rocker.delete_tree("/etc/passwd", SOON)), Errno::ACCES);
    for nameless in ["/", ".", "..", "bin/.."] {
        assert_eq!(errno(place.rocker.delete_tree(nameless, SOON)), Errno::INVAL, "{nameless}");
    }
    assert!(place.rocker.delete("").unwrap_err().to_string().starts_with("file: "));
    place.ends();
}

fn a_tree_is_deleted_however_deep_and_locked() {
    let mut place = place();
    let deep = place.path("deep");
    let commands = [
        format!("deep {} 10000", deep.display()),
        format!("mkdir {}/locked", deep.display()),
        format!("write {}/locked/file x", deep.display()),
        format!("mkdir {}/locked/inner", deep.display()),
        format!("write {}/locked/inner/file x", deep.display()),
        format!("chmod 000 {}/locked/inner", deep.display()),
        format!("chmod 000 {}/locked", deep.display()),
        // What the guard would call them.
        format!("mkdir {}/rocker.0", deep.display()),
        format!("mkdir {}/rocker.2", deep.display()),
        format!("write {}/rocker.2/file x", deep.display()),
    ];
    let text = place.probe(&commands.each_ref().map(String::as_str));
    assert_eq!(text.matches(": ok\n").count(), commands.len(), "{text}");
    let before = tests::process::fds(place.rocker.guard_pid());
    place.rocker.delete_tree(&deep, SOON).unwrap();
    assert!(!deep.exists());
    assert_eq!(tests::process::fds(place.rocker.guard_pid()), before);
    // What is mounted below is neither deleted nor gone into.
    let error = place.rocker.delete_tree(place.daemon.exec_dir(), SOON).unwrap_err();
    assert!([Errno::BUSY, Errno::ACCES, Errno::ROFS].contains(&error.errno().unwrap()), "{error}");
    place.ends();
}

/// It moves things in and out, swaps directories for links that lead outside, and adds to the
/// tree as fast as it can.
fn a_hostile_app_cannot_lead_a_deletion_astray() {
    let mut place = place();
    let outside = place.path("outside");
    place.probe(&[
        &format!("mkdir {}", outside.display()),
        &format!("write {}/precious x", outside.display()),
    ]);
    let hostile = "while :; do
            mkdir -p tree/a/b/c tree/d; echo x > tree/a/b/c/file
            mv tree/a/b tree/d/e; rm -rf tree/a; ln -s ../outside tree/a
            rm -f tree/a; mv tree/d moved; mv moved tree/a; ln -s ../../outside tree/a/x
            rm -rf moved
        done 2>/dev/null";
    let hostile = place.sh(hostile);
    std::thread::sleep(Duration::from_millis(100));
    let tree = place.path("tree");
    for _ in 0..200 {
        let began = Instant::now();
        if let Err(error) = place.rocker.delete_tree(&tree, SOON) {
            assert!(error.errno().is_some(), "{error}");
        }
        assert!(began.elapsed() < SOON, "it never ends");
        assert!(outside.join("precious").exists(), "it has left the tree");
    }
    place.rocker.signal(&hostile, SIGKILL).unwrap();
    place.rocker.wait(&hostile).unwrap();
    // One that grows faster than it is deleted.
    let mut growing = vec![];
    for n in 0..8 {
        let script = format!(
            "i=0; while :; do mkdir -p tree/{n}; : > tree/{n}/$i; i=$((i+1)); done 2>/dev/null"
        );
        growing.push(place.sh(&script));
    }
    std::thread::sleep(Duration::from_millis(100));
    let began = Instant::now();
    let _ = place.rocker.delete_tree(&tree, SOON);
    assert!(began.elapsed() < 2 * SOON, "it never ends");
    for run in &growing {
        place.rocker.signal(run, SIGKILL).unwrap();
        place.rocker.wait(run).unwrap();
    }
    place
        .rocker
        .delete_tree(&tree, SOON)
        .or_else(|error| match error.errno() {
            Some(Errno::NOENT) => Ok(()),
            _ => Err(error),
        })
        .unwrap();
    place.rocker.ping().unwrap();
    place.ends();
}

fn links_are_made_and_nothing_is_followed() {
    let mut place = place();
    let link = place.path("link");
    place.rocker.symlink("../some where\n", &link).unwrap();
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("../some where\n"));
    let errno = |result: Result<(), Error>| result.unwrap_err().errno().unwrap();
    assert_eq!(errno(place.rocker.symlink("x", &link)), Errno::EXIST);
    assert_eq!(errno(place.rocker.symlink("x", "bin/link")), Errno::ROFS);
    assert_eq!(errno(place.rocker.symlink("x", "/")), Errno::INVAL);
    let error = place.rocker.symlink("x", "nowhere/link").unwrap_err().to_string();
    assert!(error.contains("ln -s x nowhere/link: No such file"), "{error}");
    assert!(place.rocker.symlink("", "x").unwrap_err().to_string().starts_with("file: "));
    place.ends();
}

/// With memory at `/tmp`, where the directories of the tests are.
fn with_tmp(place: &Place) -> Conf {
    let exec_dir = place.daemon.exec_dir();
    Conf::new().tmpfs("/tmp", 4 << 20).bind_ro(&exec_dir, &exec_dir).bind(&place.top, &place.top)
}

fn configured(place: &mut Place, conf: &Conf) {
    place.rocker.configure(conf).unwrap_or_else(|error| panic!("{error}"));
}

fn a_rocker_is_what_its_configuration_says() {
    let mut place = place();
    fs::write(place.path("file"), "of the host").unwrap();
    let top = place.top.clone();
    let own = top.components().nth(2).unwrap().as_os_str().to_str().unwrap();
    let conf = with_tmp(&place)
        .bind(&top, "/tmp/rw")
        .bind_ro(&top, "/tmp/ro")
        .bind_ro(top.join("file"), "/tmp/deep/er/file")
        .overlay(&top, 1 << 20)
        .link("deep/er", "/tmp/link")
        .mask("/etc/passwd")
        .mask("/usr/share")
        .mask("/no/such/place")
        .dev("/dev", 1 << 20)
        .work_dir("/tmp");
    configured(&mut place, &conf);
    let text = place.probe(&[
        "cwd",
        "ls /tmp",
        "read /tmp/rw/file",
        "read /tmp/link/file",
        "write /tmp/rw/new x",
        "write /tmp/ro/other x",
        &format!("write {}/ephemeral x", top.display()),
        &format!("ls {}", top.display()),
        "read /etc/passwd",
        "ls /usr/share",
        "write /usr/share/x x",
        "ls /dev",
        "open-w /dev/null",
        "write /dev/shm/x x",
        "open /dev/ptmx",
        "stat /tmp",
        "flags /tmp",
        "flags /tmp/rw",
        "flags /tmp/ro",
    ]);
    for line in [
        "cwd: /tmp",
        &format!("ls /tmp: deep link ro {own} rw"),
        "read /tmp/rw/file: of the host",
        "read /tmp/link/file: of the host",
        "write /tmp/rw/new x: ok",
        "write /tmp/ro/other x: EROFS",
        &format!("write {}/ephemeral x: ok", top.display()),
        "read /etc/passwd: ",
        "ls /usr/share: ",
        "write /usr/share/x x: EROFS",
        "ls /dev: fd full null ptmx pts random shm stderr stdin stdout tty urandom zero",
        "open-w /dev/null: ok",
        "write /dev/shm/x x: ok",
        "open /dev/ptmx: ok",
        &format!("stat /tmp: dir 1777 {APP_UID} {APP_GID}"),
        "flags /tmp: nosuid nodev",
        "flags /tmp/rw: nosuid nodev",
        "flags /tmp/ro: ro nosuid nodev",
    ] {
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
    // Only what was bound for writing has reached the host.
    assert_eq!(scratch::names(&top), ["file", "new"]);
    // Orders begin where programs do.
    place.open_one(OpenFile::new("made").write().create_new(0o600)).unwrap();
    assert!(place.probe(&["ls ."]).contains("ls .: deep link made ro "));
    place.rocker.delete("made").unwrap();
    place.ends();
}

fn every_field_of_the_documents_configuration_is_there() {
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package()).ids_inside(0, 0);
    let mut place = place_from(daemon, &launch);
    let init = Program::new("/bin/sh").args(["-c", "echo $MADE > /tmp/init"]).env("MADE", "first");
    let conf = Conf::new()
        .empty_root(1 << 20) // ContainerRoot
        .bind_ro("/usr", "/usr") // Mounts
        .bind_ro("/etc", "/etc")
        .bind_ro(place.daemon.exec_dir(), "/app")
        .link("usr/bin", "/bin") // SymbolicLinks
        .link("usr/lib", "/lib")
        .link("usr/lib64", "/lib64")
        .tmpfs("/tmp", 1 << 20)
        .proc("/proc")
        .mask("/etc/passwd") // MaskPaths
        .work_dir("/tmp") // WorkDir
        .host_name("judge") // HostName
        .domain_name("example") // DomainName
        .unshare_cgroup() // UnshareCgroup
        .init(init, SOON); // InitCommand
    configured(&mut place, &conf);
    let (stdin, _input) = std::io::pipe().unwrap();
    let (mut output, stdout) = std::io::pipe().unwrap();
    let commands = [
        "ids",
        "cwd",
        "read init",
        "read /etc/passwd",
        "ls /",
        "read /proc/sys/kernel/hostname",
        "read /proc/sys/kernel/domainname",
        "readlink /proc/self/ns/cgroup",
        "processes",
    ];
    let program = Program::new("/app/bin/probe").args(commands).stdin(stdin).stdout(stdout);
    let run = place.rocker.spawn(&program, &Limits::new()).unwrap();
    drop(program);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(place.rocker.wait(&run).unwrap().verdict, Verdict::Normal, "{text}");
    let host = format!(
        "readlink /proc/self/ns/cgroup: {}",
        fs::read_link("/proc/self/ns/cgroup").unwrap().display()
    );
    for line in [
        "getresuid: 0 0 0",                 // ContainerUID
        "getresgid: 0 0 0",                 // ContainerGID
        &format!("uid_map: 0 {APP_UID} 1"), // Cred
        "cwd: /tmp",
        "read init: first",
        "read /etc/passwd: ",
        "ls /: app bin etc lib lib64 proc tmp usr",
        "read /proc/sys/kernel/hostname: judge",
        "read /proc/sys/kernel/domainname: example",
    ] {
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
    assert!(!text.contains(&host), "{text}");
    place.ends();
}

fn another_root_has_nothing_but_what_was_named() {
    let package = Package::with_probe()
        .directory("proc", 0o755)
        .directory("usr", 0o755)
        .link("lib", "usr/lib")
        .link("lib64", "usr/lib64")
        .directory("tmp", 0o755)
        .build();
    let mut place = place_of(package);
    let exec_dir = place.daemon.exec_dir();
    let conf = Conf::new().root(&exec_dir).bind_ro("/usr", "/usr").tmpfs("/tmp", 1 << 20);
    configured(&mut place, &conf.proc("/proc"));
    place.probe = "/bin/probe".into();
    let text = place.probe(&[
        "cwd",
        "ls /",
        "ls /tmp",
        "ls ..",
        "chroot /",
        "mounts",
        "open /proc/1/root/etc",
    ]);
    assert!(
        text.contains("cwd: /\n") && text.contains("ls /: bin lib lib64 proc tmp usr\n"),
        "{text}"
    );
    assert!(text.contains("ls ..: bin lib lib64 proc tmp usr\n"), "{text}");
    assert!(!text.contains("at /etc") && !text.contains("at /dev"), "{text}");
    assert!(text.contains("open /proc/1/root/etc: EACCES"), "{text}");
    // The guard finds its way without a /proc of its own, too.
    place.rocker.reset().unwrap();
    assert!(place.probe(&["ls /"]).contains("ls /: bin lib lib64 proc tmp usr\n"));
    place.ends();
}

fn no_program_of_a_configured_rocker_has_a_privilege() {
    let mut place = place();
    let conf = with_tmp(&place).mask("/etc/passwd").mask("/usr/share");
    configured(&mut place, &conf);
    for _ in 0..2 {
        let status = "status CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs";
        let text = place.probe(&[
            status,
            "umount /etc/passwd",
            "umount /usr/share",
            "umount /tmp",
            "remount-rw /usr/share",
            "mount-tmpfs /tmp",
            "bind /tmp /etc",
            "fsopen tmpfs",
            "clone-tree /tmp",
            "pivot /tmp /tmp",
            "chroot /tmp",
            "unshare mnt",
            "setns /proc/1/ns/mnt",
            "ptrace-attach 1",
            "ptrace-seize 1",
            "steal-memory 1",
            "steal-fd 1 0",
            "open-w /proc/1/mem",
            "open /proc/1/root",
        ]);
        for line in text.lines() {
            let (key, value) = line.split_once(": ").unwrap();
            match key {
                "NoNewPrivs" => assert_eq!(value, "1"),
                _ if key.starts_with("Cap") => assert_eq!(value, "0000000000000000", "{key}"),
                _ => assert!(["EPERM", "EACCES"].contains(&value), "{line}"),
            }
        }
        assert_eq!(text.lines().count(), 24, "{text}");
        // In a user namespace that it makes itself the masks are locked.
        let text = place.probe(&[
            "unshare user mnt",
            "umount /etc/passwd",
            "umount /usr/share",
            "umount /tmp",
            "remount-rw /usr/share",
            "read /etc/passwd",
            "ptrace-attach 1",
        ]);
        if text.starts_with("unshare user mnt: ok") {
            assert!(text.contains("umount /etc/passwd: EINVAL"), "{text}");
            assert!(text.contains("umount /usr/share: EINVAL"), "{text}");
            assert!(text.contains("remount-rw /usr/share: EPERM"), "{text}");
            assert!(text.contains("ptrace-attach 1: EPERM"), "{text}");
        }
        assert!(text.contains("read /etc/passwd: \n"), "{text}");
        place.rocker.reset().unwrap();
    }
    // What the guard has kept is over this rocker only.
    let status = tests::process::status(place.rocker.guard_pid());
    assert_eq!(status["CapEff"], format!("{:016x}", 1_u64 << 21 | 1 << 18));
    assert_eq!(
        [&*status["CapInh"], &*status["CapBnd"], &*status["CapAmb"]],
        ["0000000000000000"; 3]
    );
    assert_eq!(status["NoNewPrivs"], "1");
    place.ends();
}

fn uid_0_inside_is_nobody_in_particular() {
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package()).ids_inside(0, 0);
    let mut place = place_from(daemon, &launch);
    let status = "status CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs";
    for program in ["", "run /proc/self/exe "] {
        let text = place.probe(&[
            &format!("{program}ids"),
            if program.is_empty() { status } else { "say x" },
            "open /etc/shadow",
            "mount-tmpfs /tmp",
            "setns /proc/1/ns/mnt",
            "mknod /tmp/rocker-test-node",
            "ptrace-attach 1",
        ]);
        assert!(text.contains("getresuid: 0 0 0\n"), "{text}");
        assert!(
            text.lines()
                .filter(|line| line.starts_with("Cap"))
                .all(|it| it.ends_with(": 0000000000000000"))
        );
        for refused in
            ["open /etc/shadow", "mount-tmpfs /tmp", "setns /proc/1/ns/mnt", "ptrace-attach 1"]
        {
            assert!(
                ["EPERM", "EACCES"]
                    .iter()
                    .any(|errno| text.contains(&format!("{refused}: {errno}\n"))),
                "{text}"
            );
        }
        assert!(text.contains("mknod /tmp/rocker-test-node: EPERM\n"), "{text}");
    }
    // Outside it is the App's own.
    let (run, _, _input) = place.start(&[]);
    let outside = tests::process::status(run.pid().unwrap());
    assert_eq!(outside["Uid"].split_whitespace().next(), Some(&*APP_UID.to_string()));
    place.rocker.signal(&run, SIGKILL).unwrap();
    place.rocker.wait(&run).unwrap();
    let error = replayed(
        place.daemon.launch(probe_package()).ids_inside(0, 0).spawn(&Program::new("bin/probe")),
    );
    assert!(error.unwrap_err().to_string().contains("for rockers that take orders"));
    place.ends();
}

fn what_cannot_be_configured_is_told() {
    let daemon = Daemon::start();
    let dir = daemon.path("top");
    fs::create_dir(&dir).unwrap();
    symlink("/etc", dir.join("link")).unwrap();
    let refused = |conf: Conf| {
        let mut rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
        let error = rocker.configure(&conf).unwrap_err();
        // It has ended: nothing runs in what is half of it.
        let program = Program::new("bin/probe").stdin(Stdio::Null);
        assert!(rocker.spawn(&program, &Limits::new()).is_err());
        assert_eq!(error.step(), Step::StartProgram);
        (error.errno().unwrap(), error.to_string())
    };
    for (conf, errno, words) in [
        (
            Conf::new().tmpfs("/no/where", 4096),
            Errno::NOENT,
            "mount -t tmpfs -o size=4096,mode=1777 tmpfs /no/where",
        ),
        (Conf::new().tmpfs("/etc/passwd", 4096), Errno::NOTDIR, "tmpfs /etc/passwd"),
        (Conf::new().bind("/no/where", "/tmp"), Errno::NOENT, "mount --rbind /no/where /tmp"),
        (Conf::new().bind_ro("/usr", dir.join("link")), Errno::LOOP, "mount --rbind -o ro /usr "),
        (Conf::new().mask(dir.join("link/passwd")), Errno::LOOP, "mount --bind /dev/null"),
        (
            Conf::new().link("x", dir.join("made")),
            Errno::NOENT,
            "only where this configuration has mounted memory",
        ),
        (Conf::new().overlay("/proc/1", 4096), Errno::INVAL, "mount -t overlay"),
        (Conf::new().root("/no/where"), Errno::NOENT, "pivot_root /no/where"),
        (Conf::new().work_dir("/no/where"), Errno::NOENT, "cd /no/where"),
        (Conf::new().init(Program::new("/no/where"), SOON), Errno::NOENT, "/no/where # to its end"),
        (
            Conf::new().init(Program::new("/bin/false"), SOON),
            Errno::CANCELED,
            "it ended with status 1",
        ),
        (
            Conf::new().init(Program::new("/bin/sleep").arg("50"), Duration::from_millis(50)),
            Errno::TIME,
            "/bin/sleep # to its end",
        ),
    ] {
        let (found, text) = refused(conf);
        assert!(found == errno && text.contains(words), "{text}: not {words}");
    }
    // What is refused as a whole does no harm.
    let launch = daemon.launch(probe_package());
    let mut place = place_from(daemon, &launch);
    let exec_dir = place.daemon.exec_dir();
    configured(&mut place, &Conf::new().tmpfs("/tmp", 65536).bind(&exec_dir, &exec_dir));
    let error = place.rocker.configure(&Conf::new()).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EXIST));
    place.probe(&["say on"]);
    place.ends();
    let mut place = crate::place();
    place.probe(&["say on"]);
    assert_eq!(place.rocker.configure(&Conf::new()).unwrap_err().errno(), Some(Errno::BUSY));
    place.probe(&["say on"]);
    place.ends();
}

/// What it has planted in an overlay is there at the next start.
fn a_hostile_app_cannot_move_a_place() {
    let daemon = Daemon::start();
    let top = scratch::directory(daemon.path("top"), 0o777, APP_UID);
    let launch = daemon.overlaid(probe_package(), &[top.to_str().unwrap()]);
    let mut place = place_from(daemon, &launch);
    let at = |name: &str| top.join(name).display().to_string();
    place.probe(&[
        &format!("symlink /etc {}", at("target")),
        &format!("mkdir {}", at("real")),
        &format!("symlink real {}", at("above")),
        &format!("symlink /etc/passwd {}", at("real/mask")),
    ]);
    let Place { rocker, daemon, .. } = place;
    assert!(rocker.kill(SOON).unwrap());
    for conf in [
        Conf::new().tmpfs(at("target"), 4096),
        Conf::new().tmpfs(at("target/new"), 4096),
        Conf::new().bind_ro("/usr", at("above/new")),
        Conf::new().overlay(at("above"), 4096),
        Conf::new().mask(at("real/mask")),
        Conf::new().tmpfs(at("real"), 4096).dev(at("target"), 4096),
        Conf::new().tmpfs(at("real"), 4096).link("x", at("above/link")),
    ] {
        // The last one's data dir is free a moment after its end.
        let mut rocker = None;
        tests::within(SOON, || {
            rocker = replayed(launch.open()).ok();
            rocker.is_some()
        });
        let mut rocker = rocker.unwrap();
        let error = rocker.configure(&conf).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::LOOP), "{error}");
        assert!(rocker.kill(SOON).unwrap());
    }
    drop(daemon);
}

fn a_reset_leaves_nothing_of_what_ran() {
    let mut place = place();
    let top = place.top.clone();
    let conf = with_tmp(&place).overlay(&top, 1 << 20).work_dir("/tmp").init(
        Program::new("/bin/sh")
            .args(["-c", "echo $((1 + $(cat /tmp/count || echo 0))) > /tmp/count"]),
        SOON,
    );
    configured(&mut place, &conf);
    for _ in 0..3 {
        let ephemeral = format!("write {}/ephemeral x", top.display());
        let text = place.probe(&[
            "read /tmp/count",
            "ls /tmp",
            "processes",
            "ls /dev/shm",
            "write /dev/shm/x y",
            &ephemeral,
            "write /tmp/x y",
            "deep /tmp/deep 1000",
        ]);
        assert!(
            text.contains("read /tmp/count: 1\n") && text.contains("ls /tmp: count rocker-test-"),
            "{text}"
        );
        assert_eq!(text.lines().nth(2).unwrap().split_whitespace().count(), 3, "{text}");
        assert!(text.contains("ls /dev/shm: \nwrite /dev/shm/x y: ok\n"), "{text}");
        let hostile = [
            place.sh("setsid sh -c 'while :; do sh -c : & done' & while :; do sh -c : & done 2>/dev/null"),
            place.sh("trap '' TERM INT HUP; (setsid sleep 1000 &); exec sleep 1000"),
            place.sh("kill -STOP $$"),
        ];
        std::thread::sleep(Duration::from_millis(50));
        let began = Instant::now();
        place.rocker.reset().unwrap_or_else(|error| panic!("{error}"));
        assert!(began.elapsed() < SOON);
        for run in &hostile {
            assert_eq!(place.rocker.wait(run).unwrap().verdict, Verdict::Cancelled);
        }
        assert_eq!(scratch::names(&top), Vec::<String>::new());
    }
    place.ends();
}

fn one_that_was_not_configured_is_reset_as_well() {
    let mut place = place();
    let write = ["ls /dev/shm", "write /dev/shm/x y"];
    for _ in 0..2 {
        assert!(place.probe(&write).contains("ls /dev/shm: \nwrite /dev/shm/x y: ok\n"));
        let run = place.sh("exec sleep 1000");
        place.rocker.reset().unwrap();
        assert_eq!(place.rocker.wait(&run).unwrap().verdict, Verdict::Cancelled);
    }
    place.ends();
    // What is said after a reset is heard.
    let mut place = crate::place();
    place.rocker.reset().unwrap();
    let conf = with_tmp(&place).host_name("reset");
    configured(&mut place, &conf);
    assert!(place.probe(&["read /proc/sys/kernel/hostname"]).contains(": reset\n"));
    place.rocker.reset().unwrap();
    assert!(place.probe(&["read /proc/sys/kernel/hostname"]).contains(": reset\n"));
    place.ends();
}

fn a_reset_forgets_what_has_a_number_or_a_queues_name() {
    let [make, find] = app::numbered();
    let ask = |place: &mut Place, commands: &[String], answer: &str| {
        let text = place.probe(&commands.iter().map(String::as_str).collect::<Vec<_>>());
        for command in commands {
            assert!(text.contains(&format!("{command}: {answer}\n")), "{text}");
        }
    };
    for is_configured in [true, false] {
        let mut place = place();
        if is_configured {
            configured(&mut place, &Conf::new());
        }
        for _ in 0..2 {
            ask(&mut place, &make, "ok");
            ask(&mut place, &find, "ok");
            place.rocker.reset().unwrap();
            ask(&mut place, &find, "ENOENT");
        }
        place.ends();
    }
}

fn a_thousand_resets_leave_guard_and_mounts_as_they_were() {
    let mut place = place();
    let top = place.top.clone();
    let conf = with_tmp(&place)
        .overlay(&top, 1 << 20)
        .mask("/etc/passwd")
        .dev("/dev", 4096)
        .work_dir("/tmp");
    configured(&mut place, &conf);
    let cycle = |place: &mut Place, times: u32| {
        for _ in 0..times {
            let run = place.sh(": > file");
            assert_eq!(place.rocker.wait(&run).unwrap().verdict, Verdict::Normal);
            place.rocker.reset().unwrap();
        }
    };
    cycle(&mut place, 20);
    let guard = place.rocker.guard_pid();
    let mounts = || {
        let table = fs::read_to_string(format!("/proc/{guard}/mountinfo")).unwrap();
        table.lines().count()
    };
    let measure =
        || (tests::process::fds(guard), tests::process::status(guard)["VmRSS"].clone(), mounts());
    let before = measure();
    let began = Instant::now();
    cycle(&mut place, 1000);
    println!(
        "{:.0} resets with a program each in a second",
        1000.0 / began.elapsed().as_secs_f64()
    );
    assert_eq!(measure(), before);
    place.ends();
}

fn a_user_without_privilege_configures_and_resets() {
    let (daemon, package) = Daemon::for_users(&[APP_UID]);
    let launch = daemon.launch(&package).ids_inside(0, 0);
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setresgid(APP_GID.into(), APP_GID.into(), APP_GID.into()).unwrap();
    nix::unistd::setresuid(APP_UID.into(), APP_UID.into(), 0.into()).unwrap();
    let mut place = place_from(daemon, &launch);
    let exec_dir = place.daemon.exec_dir();
    let conf = Conf::new().tmpfs("/tmp", 1 << 20).bind_ro(&exec_dir, &exec_dir);
    let conf = conf.mask("/etc/passwd").tmpfs("/tmp/work", 65536).work_dir("/tmp/work");
    configured(&mut place, &conf);
    let mut file = place.open_one(OpenFile::new("in").write().create_new(0o600)).unwrap();
    file.write_all(b"hello").unwrap();
    assert!(place.probe(&["read in"]).contains("read in: hello\n"));
    place.rocker.reset().unwrap();
    assert!(place.probe(&["ls ."]).contains("ls .: \n"));
    let Place { rocker, daemon, .. } = place;
    assert!(rocker.kill(SOON).unwrap());
    nix::unistd::setresuid(0.into(), 0.into(), 0.into()).unwrap();
    drop(daemon);
}
