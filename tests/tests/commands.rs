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
use rocker_client::{Error, Limits, OpenFile, OpenRocker, Run, Stdio};
use rustix::fs::{OFlags, fcntl_getfl};
use tests::{APP_UID, Daemon, Package, Program, SOON, probe_package, replayed, runner, scratch};

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
    ])
}

/// A rocker, and a directory of the host's that its App may write to.
struct Place {
    rocker: OpenRocker,
    top: PathBuf,
    _daemon: Daemon,
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
    Place { rocker, top, _daemon: daemon }
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
            Program::new("bin/probe").args(commands).arg("wait").stdin(stdin).stdout(stdout);
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
    let error = place.rocker.delete_tree(place._daemon.exec_dir(), SOON).unwrap_err();
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
