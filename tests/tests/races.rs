//! What others do meanwhile: whoever owns a directory swaps it while a launch looks at it, and an
//! App or program attacks those that begin beside it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use protocol::Verdict;
use rocker_client::{Launch, Limits, OpenRocker, Program, Seccomp, Stdio};
use rustix::fs::{CWD, FileType, RenameFlags, makedev, mknodat, renameat_with};
use tests::app;
use tests::scratch::directory;
use tests::{APP_GID, APP_UID, Daemon, Package, SOON};
use tests::{bin, probe_package, process, replayed, runner};

fn main() -> ExitCode {
    runner::main(tests::root![
        directories_that_their_owner_swaps_lead_a_users_launch_nowhere,
        directories_that_their_owner_swaps_lead_roots_launch_nowhere,
        regression_root_keeps_layers_behind_no_link_of_others,
        a_device_that_is_swapped_is_a_device_or_none,
        a_program_gets_hold_of_no_new_one,
    ])
}

/// Launches beside each swap.
const TRIES: usize = 10;

/// What `task` comes to while two names are exchanged all along.
fn while_swapped<T>([one, other]: [&Path; 2], task: impl FnOnce() -> T) -> T {
    let (stop, swaps) = (AtomicBool::new(false), AtomicU32::new(0));
    let done = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        // A task that panics must not leave the other one without its end.
        let done = std::panic::catch_unwind(core::panic::AssertUnwindSafe(task));
        stop.store(true, Ordering::Relaxed);
        done
    });
    // Again as at the beginning.
    if swaps.load(Ordering::Relaxed) % 2 == 1 {
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
    }
    assert!(swaps.load(Ordering::Relaxed) > 100, "{swaps:?} swaps");
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// All that is there, and what writing to it would change.
fn state(top: &Path) -> Vec<String> {
    let it = fs::symlink_metadata(top).unwrap();
    let mut all = vec![format!(
        "{top:?} {} {:o} {}:{} {} {}.{}",
        it.ino(),
        it.mode(),
        it.uid(),
        it.gid(),
        it.len(),
        it.ctime(),
        it.ctime_nsec()
    )];
    if it.is_dir() {
        let entries = fs::read_dir(top).unwrap();
        all.extend(entries.flat_map(|entry| state(&entry.unwrap().path())));
    }
    all.sort();
    all
}

/// What the App says, or the one line that says why there is none.
fn launched(
    daemon: &Daemon,
    launch: &Launch,
    uid: u32,
    commands: &[&str],
) -> Result<String, String> {
    let line = |error: rocker_client::Error| {
        let line = error.to_string();
        let is_one = !line.is_empty() && !line.contains('\n') && !line.contains("internal");
        assert!(is_one, "{line:?}");
        line
    };
    let mut rocker = replayed(launch.open_over(daemon.connection_of(uid))).map_err(line)?;
    let (mut output, stdout) = std::io::pipe().unwrap();
    let program = Program::new("bin/probe").args(commands).stdin(Stdio::Null).stdout(stdout);
    let run = rocker.spawn(&program, &Limits::new());
    drop(program);
    let mut text = String::new();
    let said = run.map_err(line).map(|run| {
        output.read_to_string(&mut text).unwrap();
        assert_eq!(rocker.wait(&run).unwrap().verdict, Verdict::Normal, "{text}");
        text
    });
    ends(rocker);
    said
}

fn ends(rocker: OpenRocker) {
    assert!(rocker.kill(SOON).unwrap(), "the rocker outlives its guard");
}

/// A user's places, whatever the user swaps them for, and what must stay as it is.
struct Swapped {
    daemon: Daemon,
    mine: PathBuf,
    victim: PathBuf,
}

impl Swapped {
    fn new() -> Self {
        let mut daemon = Daemon::start();
        let mine = directory(daemon.path("mine"), 0o755, APP_UID);
        for dir in ["apps", "at", "at/exec", "on", "on/data", "on/data/theirs", "over"] {
            directory(mine.join(dir), 0o755, APP_UID);
        }
        fs::copy(probe_package(), mine.join("apps/app.sqfs")).unwrap();
        let victim = directory(daemon.path("victim"), 0o755, 0);
        directory(victim.join("exec"), 0o755, 0);
        // The user's own as well, but where its data dirs may not be.
        directory(victim.join("data"), 0o755, APP_UID);
        directory(victim.join("layers"), 0o700, 0);
        fs::write(victim.join("file"), "of the host").unwrap();
        let secret = Package::with_probe().file("share/hello", 0o644, "secret\n").build();
        fs::copy(secret, victim.join("secret.sqfs")).unwrap();
        fs::set_permissions(victim.join("secret.sqfs"), fs::Permissions::from_mode(0o600)).unwrap();
        for (link, target) in [
            ("apps/link", "secret.sqfs"),
            ("at/link", "exec"),
            ("at-link", ""),
            ("on/link", "data"),
            ("on-link", ""),
            ("on/data/link", "layers"),
        ] {
            symlink(victim.join(target), mine.join(link)).unwrap();
        }
        symlink("/proc", mine.join("over-link")).unwrap();
        for link in ["apps/link", "at/link", "at-link", "on/link", "on-link", "over-link"] {
            lchown(mine.join(link), Some(APP_UID), Some(APP_UID)).unwrap();
        }
        daemon.stop();
        daemon.configure(&format!(
            "[[allow]]\nuid = {APP_UID}\nrun_as_gids = [{APP_GID}]\npackages = [{0:?}]\n\
             exec_dirs = [{0:?}]\ndata_dirs = [{0:?}]\n",
            mine
        ));
        daemon.restart();
        Self { daemon, mine, victim }
    }

    /// Launches for this caller while these two are swapped; how many succeed.
    fn tries(&self, caller: u32, pair: [&str; 2]) -> usize {
        let at = |name: &str| self.mine.join(name);
        let launch = self
            .daemon
            .launch(at("apps/app.sqfs"))
            .exec_dir(at("at/exec"))
            .data_dir(at("on/data"))
            .overlay(at("over"));
        let write = format!("write {}/new x", at("over").display());
        let commands = ["read share/hello", "mounts", &write];
        let [one, other] = pair.map(at);
        let tried = while_swapped([&one, &other], || {
            let one = || launched(&self.daemon, &launch, caller, &commands);
            (0..TRIES).map(|_| one()).collect::<Vec<_>>()
        });
        for text in tried.iter().flatten() {
            self.assert_at_home(text);
        }
        tried.iter().flatten().count()
    }

    /// Nothing was mounted but where it was to be, and it is the right package.
    fn assert_at_home(&self, text: &str) {
        assert!(text.contains("read share/hello: hello\n"), "{text}");
        let (mine, victim) = (self.mine.to_str().unwrap(), self.victim.to_str().unwrap());
        for line in text.lines().filter_map(|line| line.strip_prefix("at ")) {
            let is_ours = ["overlay", "squashfs"].iter().any(|kind| line.contains(kind));
            assert!(!line.starts_with(victim), "{text}");
            assert!(!is_ours || line.starts_with(mine), "{text}");
        }
    }
}

/// Every pair that this caller's launches look at.
fn swaps(caller: u32, pairs: &[[&str; 2]]) {
    let scene = Swapped::new();
    let before = state(&scene.victim);
    // All is as it is to be, when nobody swaps anything.
    let still = scene.tries(caller, ["over-link", "apps/link"]);
    assert_eq!(still, TRIES);
    for pair in pairs {
        scene.tries(caller, *pair);
        assert_eq!(state(&scene.victim), before, "{pair:?}");
    }
    assert_eq!(scene.tries(caller, ["over-link", "apps/link"]), TRIES);
    assert!(fs::read_dir(scene.mine.join("over")).unwrap().next().is_none());
}

const PLACES: [[&str; 2]; 7] = [
    ["at/exec", "at/link"],
    ["at", "at-link"],
    ["on/data", "on/link"],
    ["on", "on-link"],
    ["on/data/.rocker", "on/data/theirs"],
    ["on/data/.rocker", "on/data/link"],
    ["over", "over-link"],
];

fn directories_that_their_owner_swaps_lead_a_users_launch_nowhere() {
    swaps(APP_UID, &PLACES);
    swaps(APP_UID, &[["apps/app.sqfs", "apps/link"]]);
}

/// Root names a package by any path, and means what is there.
fn directories_that_their_owner_swaps_lead_roots_launch_nowhere() {
    swaps(0, &PLACES);
}

/// Behind root's own, one after the other and relative ones too, it does.
fn regression_root_keeps_layers_behind_no_link_of_others() {
    let daemon = Daemon::start();
    let elsewhere = directory(daemon.path("elsewhere/deep"), 0o755, 0);
    symlink("elsewhere", daemon.path("first")).unwrap();
    symlink(daemon.path("first/deep/../deep"), daemon.path("second")).unwrap();
    symlink(".", elsewhere.join("again")).unwrap();
    symlink("loop", daemon.path("loop")).unwrap();
    fs::write(daemon.path("file"), "").unwrap();
    symlink("file", daemon.path("to-file")).unwrap();
    let launch = daemon.launch(probe_package()).overlay("/etc");
    let at = |name: &str| launch.clone().data_dir(daemon.path(name));
    assert_eq!(app::run(&at("second/again"), &["say hello"]).one("say"), "hello");
    assert!(elsewhere.join(".rocker/up").is_dir());
    fs::remove_dir_all(elsewhere.join(".rocker")).unwrap();
    lchown(daemon.path("first"), Some(APP_UID), Some(APP_UID)).unwrap();
    let hint =
        "Too many levels of symbolic links: links are followed for root alone, and only root's";
    for name in ["second/again", "first/deep", "loop"] {
        let error = app::refused(&at(name)).to_string();
        assert!(error.contains("(root.2)") && error.ends_with(hint), "{error}");
    }
    let error = app::refused(&at("to-file")).to_string();
    assert!(error.contains("it is not a directory"), "{error}");
    assert!(fs::read_dir(&elsewhere).unwrap().all(|it| it.unwrap().file_name() == "again"));
}

fn a_device_that_is_swapped_is_a_device_or_none() {
    let name = format!("/dev/rocker-test-{}", std::process::id());
    let dir = directory(&name, 0o755, 0);
    let (own, file) = (dir.join("own"), dir.join("file"));
    mknodat(CWD, &own, FileType::CharacterDevice, 0o666.into(), makedev(1, 3)).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o666)).unwrap();
    fs::write(&file, "of the host").unwrap();
    symlink("own", dir.join("link")).unwrap();
    symlink("/etc/passwd", dir.join("out")).unwrap();
    symlink("../../etc/passwd", dir.join("away")).unwrap();
    let daemon = Daemon::start();
    let before = fs::read("/etc/passwd").unwrap();
    for (named, other) in [("own", "file"), ("own", "out"), ("link", "out"), ("link", "away")] {
        let launch = daemon.launch(probe_package()).device(dir.join(named));
        let (stat, read) = (format!("stat {name}/{named}"), format!("read {name}/{named}"));
        let commands = [stat.as_str(), &read, &format!("write {name}/{named} x")];
        while_swapped([&dir.join(named), &dir.join(other)], || {
            for _ in 0..TRIES {
                if let Ok(text) = launched(&daemon, &launch, 0, &commands) {
                    assert!(text.starts_with(&format!("{stat}: device ")), "{text}");
                    assert!(text.contains(&format!("{read}: \n")), "{text}");
                }
            }
        });
    }
    assert_eq!(fs::read("/etc/passwd").unwrap(), before);
    assert_eq!(fs::read_to_string(&file).unwrap(), "of the host");
    drop(daemon);
    fs::remove_dir_all(&dir).unwrap();
}

/// How often programs begin beside one that is after all others, and a rocker meanwhile.
const BESIDE: usize = 25;

/// Until it has executed a program has its guard's memory, or a copy of it, and nobody who may
/// have the program later may have that. The programs of ROCKER are tried all along.
fn a_program_gets_hold_of_no_new_one() {
    let daemon = Daemon::start();
    let files = ["rocker-guard", "rocker-master", "rocker"].map(bin);
    let before = files.each_ref().map(|file| fs::read(file).unwrap());
    let named: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let hunt = format!("hunt {}", named.join(" "));
    let launch = daemon.launch(probe_package());
    for launch in [launch.clone(), launch.seccomp(Seccomp::Unconfined)] {
        let mut rocker = replayed(launch.open()).unwrap();
        let (output, stdout) = std::io::pipe().unwrap();
        let (stdin, input) = std::io::pipe().unwrap();
        let mut lines = BufReader::new(output).lines().map(Result::unwrap);
        let program = Program::new("bin/probe").arg(&hunt).stdin(stdin).stdout(stdout);
        let hunter = rocker.spawn(&program, &Limits::new()).unwrap();
        drop(program);
        for _ in 0..BESIDE {
            let waits = rocker.command("bin/probe").arg("exit 0").sync().spawn().unwrap().run;
            let tried = format!("tried: {}", waits.pid_inside());
            assert!(lines.any(|line| line == tried), "{tried}");
            rocker.go(&waits).unwrap();
            assert_eq!(rocker.wait(&waits).unwrap().verdict, Verdict::Normal);
            for _ in 0..4 {
                let program = Program::new("bin/probe").arg("exit 0").stdin(Stdio::Null);
                let run = rocker.spawn(&program, &Limits::new()).unwrap();
                rocker.wait(&run).unwrap();
            }
            app::run(&launch, &["say hello"]);
        }
        assert!(process::is_alive(rocker.guard_pid()));
        drop(input);
        let caught = lines.find(|line| line.starts_with("hunt ")).unwrap();
        assert_eq!(caught, format!("{hunt}: "));
        assert_eq!(rocker.wait(&hunter).unwrap().verdict, Verdict::Normal);
        ends(rocker);
    }
    assert!(before == files.each_ref().map(|file| fs::read(file).unwrap()), "they are others");
}
