//! `rocker` and `rocker-cli` are one command: what the first does by itself, the second would have
//! done as well, and what it does not know it leaves to the second.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tempfile::TempDir;
use tests::output::{assert_refused, said};
use tests::{Daemon, Package, bin, command_in, probe_package, runner, scratch};

/// `rocker run`, in words.
type Words = &'static [&'static str];

/// What the first does alone, in a directory with `app.sqfs`, `data` and a link to it. `@` is that
/// directory.
const PLAIN: [Words; 16] = [
    &["--uid", "54321", "--gid", "54322", "app.sqfs", "--", "bin/say", "a", "--uid", ""],
    &["--uid=54321", "--gid=54322", "--app-id=7", "@/./app.sqfs", "--", "./bin/say"],
    &["--data-dir", "data", "--gid", "1", "app.sqfs"],
    &["--data-dir=data/../link", "--gid", "1", "app.sqfs", "--"],
    &["--overlay", "/etc", "--overlay", "/usr", "--data-dir", "data", "--gid", "1", "app.sqfs"],
    &["--overlay=auto", "--volatile", "--data-dir", "data", "--gid", "1", "app.sqfs"],
    &["--env", "A=b=c", "--env=LANG=", "--env", "A=d", "--gid", "1", "app.sqfs"],
    &["--env", "HOME=/x", "--env", "FROM=me", "--cwd", "/etc", "--gid", "1", "app.sqfs"],
    &["--landlock", "--gid", "1", "link.sqfs"],
    &["--data-dir", "@/link", "--gid", "1", "@/link.sqfs"],
    &["--data-dir", "@/data/../link/../data", "--gid", "1", "@/app.sqfs"],
    &["--exec-dir", "exec/../exec", "--gid", "1", "app.sqfs"],
    &["--gid", "1", "bare.sqfs", "--", "sh", "-c", "echo $0 $PATH; id; pwd; exit 7"],
    &["--gid", "1", "bare.sqfs", "--", "sh", "-c", "kill -SEGV $$"],
    &["--uid", "0", "--gid", "0", "bare.sqfs", "--", "sh"],
    &["--gid", "1", "bare.sqfs", "--", "nobody-has\u{202e}-this\n"],
];

/// What it leaves to the second.
const UNUSUAL: [Words; 22] = [
    &["--json", "--gid", "1", "app.sqfs"],
    &["--gid", "nogroup", "app.sqfs"],
    &["--gid", "1", "--gid", "1", "app.sqfs"],
    &["--gid", "-1", "app.sqfs"],
    &["--gid", "12345678901", "app.sqfs"],
    &["--gid", "1", "--uid", "", "app.sqfs"],
    &["--gid", "1", "app.sqfs", "sh"],
    &["--gid", "1", "--", "sh"],
    &["--gid", "1", "bare.sqfs"],
    &["--gid", "1", "foreign.sqfs", "--", "sh", "-c", "echo foreign"],
    &["--gid", "1", "appended.sqfs", "--", "sh", "-c", "echo appended"],
    &["--gid", "1", "missing.sqfs"],
    &["--gid", "1", "data"],
    &["--gid", "1", "app.sqfs", "--data-dir", "missing"],
    &["--gid", "1", "app.sqfs", "--data-dir"],
    &["--gid", "1", "app.sqfs", "--data-dir", "--volatile"],
    &["--gid", "1", "app.sqfs", "--env", "A"],
    &["--gid", "1", "app.sqfs", "--env", "=A"],
    &["--gid", "1", "app.sqfs", "--overlay", "etc", "--data-dir", "data"],
    &["--gid", "1", "app.sqfs", "--overlay", "/etc", "--overlay", "auto", "--data-dir", "data"],
    &["--gid", "1", "app.sqfs", "--wall", "10s"],
    &["--gid", "1", "--no-such-option", "app.sqfs"],
];

fn main() -> ExitCode {
    runner::main(tests::root![
        both_parts_do_the_same,
        a_plain_run_takes_one_of_them,
        all_that_is_not_run_is_the_others,
        whose_group_nobody_says_it_is_the_users_own,
        without_a_master_it_is_left_to_the_other,
        closed_descriptors_become_nobodys,
        what_is_gone_is_the_others,
        without_proc_one_finds_the_other,
        who_cannot_wait_says_so,
        signals_reach_the_app_by_either,
        what_is_installed_finds_its_parts,
        plain_apps_need_no_other_part,
        alone_it_says_what_is_missing,
    ])
}

struct Place {
    daemon: Daemon,
}

impl Place {
    fn new() -> Self {
        let daemon = Daemon::start();
        let app = Package::new().program("bin/say", "/bin/sh").file("say.sh", 0o644, "").file(
            "rocker.toml",
            0o644,
            "entry = \"/bin/sh\"\nargs = [\"-c\", \"env | sort; id; pwd; echo \\\"$0|$@\\\"\", \
                 \"a b\", \"\"]\n[env]\nFROM = \"the manifest\"\nA = \"\"\n",
        );
        let put = |package: &Package, name: &str| {
            fs::copy(package.build(), daemon.path(name)).unwrap();
        };
        put(&app, "app.sqfs");
        put(&Package::new().file("x", 0o644, "x"), "bare.sqfs");
        symlink("app.sqfs", daemon.path("link.sqfs")).unwrap();
        symlink("data", daemon.path("link")).unwrap();
        // Nothing behind the image; and a superblock that is another, as when something was
        // appended.
        let image = fs::read(daemon.path("bare.sqfs")).unwrap();
        let end = usize::try_from(u64::from_le_bytes(image[40..48].try_into().unwrap())).unwrap();
        let mut foreign = image.clone();
        foreign[end..].fill(0);
        fs::write(daemon.path("foreign.sqfs"), foreign).unwrap();
        let mut appended = image;
        // When it was made.
        appended[8] ^= 1;
        fs::write(daemon.path("appended.sqfs"), appended).unwrap();
        Self { daemon }
    }

    fn command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        let here = self.daemon.dir().to_str().unwrap();
        command.arg("run").arg("--socket").arg(self.daemon.socket());
        command.args(words.iter().map(|word| word.replace('@', here)));
        command.current_dir(here).stdin(Stdio::null());
        command.env("TERM", "dumb").env("LANG", "C").env_remove("ROCKER_SOCKET");
        command
    }
}

fn both_parts_do_the_same() {
    let place = Place::new();
    for words in PLAIN.iter().chain(&UNUSUAL) {
        let [one, other] = ["rocker", "rocker-cli"].map(|name| {
            let output = place.command(&bin(name), words).output().unwrap();
            let texts = [output.stdout, output.stderr];
            (output.status, texts.map(|text| String::from_utf8(text).unwrap()))
        });
        assert_eq!(one.0, other.0, "{words:?}: {one:?}");
        // On standard error --json tells how long it took.
        let plain = |texts: &[String; 2]| match words.contains(&"--json") {
            true => texts[0].clone(),
            false => texts.concat(),
        };
        assert_eq!(plain(&one.1), plain(&other.1), "{words:?}");
    }
}

/// The program of a process that runs.
fn program_of(child: &Child) -> PathBuf {
    fs::read_link(format!("/proc/{}/exe", child.id())).unwrap_or_default()
}

/// Which of the two waits for the App.
fn waiting(mut command: Command) -> PathBuf {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // It has said something: it runs.
    let mut first = [0; 1];
    let told = child.stdout.as_mut().unwrap().read_exact(&mut first);
    let program = program_of(&child);
    // Nobody has waited for it yet.
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    child.wait().unwrap();
    assert!(told.is_ok(), "{command:?}");
    program
}

fn a_plain_run_takes_one_of_them() {
    const WAITING: &str = "echo here; exec sleep 60";
    let place = Place::new();
    for words in PLAIN {
        let options = words.iter().position(|word| *word == "--").unwrap_or(words.len());
        let mut words = words[..options].to_vec();
        words.extend(["--", "sh", "-c", WAITING]);
        // An App of root's is refused.
        if words.contains(&"0") {
            continue;
        }
        assert_eq!(waiting(place.command(&bin("rocker"), &words)), bin("rocker"), "{words:?}");
    }
    for option in ["--userns", "--report=/dev/null", "--timeout=4s", "--pids=100"] {
        let words = [option, "--gid", "1", "app.sqfs", "--", "sh", "-c", WAITING];
        let program = waiting(place.command(&bin("rocker"), &words));
        assert_eq!(program, bin("rocker-cli"), "{option}");
    }
    for package in ["foreign.sqfs", "appended.sqfs"] {
        let words = ["--gid", "1", package, "--", "sh", "-c", WAITING];
        let program = waiting(place.command(&bin("rocker"), &words));
        assert_eq!(program, bin("rocker-cli"), "{package}");
    }
}

fn all_that_is_not_run_is_the_others() {
    for words in
        [&[][..], &["--version"], &["run"], &["run", "--help"], &["pack", "--help"], &["x"]]
    {
        let outputs = ["rocker", "rocker-cli"]
            .map(|name| Command::new(bin(name)).arg0("rocker").args(words).output().unwrap());
        assert_eq!(outputs[0], outputs[1], "{words:?}");
    }
}

/// passwd(5) and nsswitch.conf(5), which differ from host to host: those of a mount namespace of
/// the test's own.
fn whose_group_nobody_says_it_is_the_users_own() {
    let place = Place::new();
    let cover = |file: &str, text: &str| {
        let own = place.daemon.path("covered").join(file);
        fs::create_dir_all(own.parent().unwrap()).unwrap();
        fs::write(&own, text).unwrap();
        format!("mount --bind {} /etc/{file}; ", own.display())
    };
    let passwd = "root:x:0:0::/:/bin/sh\nbroken\nx:x:12\nnobody:x:65534:77::/:\nu:x:4711:88::/:\n\
                  #a:x:4713:0::/:\na:x:4713:90::/:\n -b:x:4714:0::/:\nb:x:4714:91::/:\n\
                  c:x:4715:92\nc:x:4715:0::/:\nd:x: 4716:93::/:\nd:x:4716:0::/:\n";
    let group = |uid: &str, nsswitch: Option<&str>| {
        let mut script = "mount --make-rprivate /; ".to_owned() + &cover("passwd", passwd);
        script += &nsswitch.map_or(String::new(), |text| cover("nsswitch.conf", text));
        script += "exec \"$@\"";
        ["rocker", "rocker-cli"].map(|name| {
            let words = ["--uid", uid, "bare.sqfs", "--", "id", "-g"];
            let run = place.command(&bin(name), &words);
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-ec", &script, "sh"]).arg(run.get_program());
            said(command.args(run.get_args()).current_dir(place.daemon.dir()))
        })
    };
    let both = |gid: &str| [gid, gid].map(|gid| format!("{gid}\n"));
    assert_eq!(group("65534", None), both("77"));
    assert_eq!(group("4711", Some("passwd: files systemd\n")), both("88"));
    assert_eq!(group("4711", Some("group: db\n# passwd: db\n\tpasswd :files")), both("88"));
    // Comments, entries of NIS, what is not as it should be: as the C library has it.
    for (uid, gid) in [("4713", "90"), ("4714", "91"), ("4715", "92"), ("4716", "93")] {
        assert_eq!(group(uid, None), both(gid), "{uid}");
    }
    // Who is not in it is alone in a group.
    assert_eq!(group("4712", None), both("4712"));
    assert_eq!(group("12", None)[0], group("12", None)[1]);
    // Where others are asked first that is left to who can.
    let [one, other] = group("4711", Some("passwd:\tdb files\n"));
    assert_eq!(one, other);
}

fn without_a_master_it_is_left_to_the_other() {
    let dir = scratch();
    let run = |name: &str| {
        let mut command = Command::new(bin(name));
        command.arg("run").arg("--socket").arg(dir.path().join("none.sock")).args(["--gid", "1"]);
        command.arg(probe_package()).args(["--", "sh"]).output().unwrap()
    };
    let outputs = ["rocker", "rocker-cli"].map(run);
    assert_refused(&outputs[0], 125, &["root.1", "none.sock", "No such file"]);
    assert_eq!(outputs[0], outputs[1]);
}

fn closed_descriptors_become_nobodys() {
    const DEVICES: &str = "for fd in 0 1 2; do test -c /proc/self/fd/$fd || exit 4; done; exit 3";
    let place = Place::new();
    for closed in ["<&-", "<&- >&-", "<&- >&- 2>&-", ">&-", "2>&-"] {
        let script = format!("exec \"$@\" {closed}");
        let words = ["--gid", "1", "bare.sqfs", "--", "sh", "-c", DEVICES];
        for name in ["rocker", "rocker-cli"] {
            let run = place.command(&bin(name), &words);
            let mut command = Command::new("sh");
            command.args(["-c", &script, "sh"]).arg(run.get_program()).args(run.get_args());
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let status = command.current_dir(place.daemon.dir()).status().unwrap();
            assert_eq!(status.code(), Some(3), "{name} {closed}");
        }
    }
    assert!(place.daemon.is_well());
}

/// What each of the two says, started by a shell that does this before.
fn both_after(place: &Place, before: &str, words: &[&str]) -> [Output; 2] {
    ["rocker", "rocker-cli"].map(|name| {
        let run = place.command(&bin(name), words);
        let script = format!("mount --make-rprivate /; {before}; exec \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", &script, "sh"]).arg(run.get_program());
        command.args(run.get_args()).current_dir(place.daemon.dir()).output().unwrap()
    })
}

fn what_is_gone_is_the_others() {
    let place = Place::new();
    let before = "mkdir gone; cd gone; rmdir ../gone";
    for option in ["--data-dir", "--exec-dir"] {
        let words = [option, ".", "--gid", "1", "@/bare.sqfs", "--", "sh"];
        let outputs = both_after(&place, before, &words);
        assert_refused(&outputs[0], 125, &["cannot use \".\"", "No such file"]);
        assert_eq!(outputs[0], outputs[1], "{option}");
    }
    let before = "cp bare.sqfs gone; exec 3<gone; rm gone";
    let words = ["--gid", "1", "/proc/self/fd/3", "--", "sh"];
    for output in both_after(&place, before, &words) {
        assert_refused(&output, 125, &["/fd/3"]);
    }
}

fn without_proc_one_finds_the_other() {
    let place = Place::new();
    let words = ["--gid", "1", "bare.sqfs", "--", "echo", "here"];
    for output in both_after(&place, "umount -l /proc", &words) {
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "here\n");
    }
}

fn who_cannot_wait_says_so() {
    let place = Place::new();
    for name in ["rocker", "rocker-cli"] {
        let words = ["--gid", "1", "bare.sqfs", "--", "sh", "-c", "echo here; read it"];
        let mut command = place.command(&bin(name), &words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
        // Fewer than poll(2) is asked for.
        let limit = Rlimit { current: Some(1), maximum: Some(1) };
        prlimit(Some(Pid::from_child(&child)), Resource::Nofile, limit).unwrap();
        kill_process(Pid::from_child(&child), Signal::CONT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_refused(&output, 125, &["cannot wait for the App", "Invalid argument"]);
    }
}

fn signals_reach_the_app_by_either() {
    // The last one ends it.
    let all = [
        ("HUP", Signal::HUP),
        ("INT", Signal::INT),
        ("QUIT", Signal::QUIT),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("WINCH", Signal::WINCH),
        ("CONT", Signal::CONT),
        ("TERM", Signal::TERM),
    ];
    let place = Place::new();
    let script = "for it in HUP INT QUIT USR1 USR2 WINCH CONT; do trap \"echo $it\" $it; done; \
                  trap 'echo TERM; exit 3' TERM; echo here; while :; do sleep 0.01; done";
    for name in ["rocker", "rocker-cli"] {
        let words = ["--gid", "1", "bare.sqfs", "--", "sh", "-c", script];
        let mut command = place.command(&bin(name), &words);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(lines.next().unwrap(), "here");
        for (said, signal) in all {
            kill_process(Pid::from_child(&child), signal).unwrap();
            assert_eq!(lines.next().unwrap(), said, "{name}");
        }
        assert_eq!(child.wait().unwrap().code(), Some(3), "{name}");
    }
}

/// As `make install` lays them out.
fn installed() -> TempDir {
    let dir = scratch();
    for (place, names) in [
        ("bin", &["rocker"][..]),
        ("sbin", &["rocker-master"]),
        ("libexec/rocker", &["rocker-cli", "rocker-guard"]),
    ] {
        fs::create_dir_all(dir.path().join(place)).unwrap();
        for name in names {
            fs::copy(bin(name), dir.path().join(place).join(name)).unwrap();
        }
    }
    dir
}

/// With nobody's files of this host's, and nobody who listens on it.
fn alone(dir: &Path, script: &str, words: &[&str]) -> String {
    let script = "mount --make-rprivate /; mount -t tmpfs none /run; \
                  mount -t tmpfs -o mode=755 none /var/lib; "
        .to_owned()
        + script;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", &script, "sh"]).arg(dir.join("bin/rocker"));
    command.args(["run", "--gid", "1"]).args(words).env_remove("ROCKER_SOCKET");
    said(&mut command)
}

/// The master too, of which a launch without one brings its own.
fn what_is_installed_finds_its_parts() {
    let dir = installed();
    let package = probe_package();
    let words = [package.to_str().unwrap(), "--", "echo", "here"];
    assert_eq!(alone(dir.path(), "exec \"$@\"", &words), "here\n");
}

/// What nobody has to say is the same for both: socket, exec dir and data dir.
fn plain_apps_need_no_other_part() {
    let dir = installed();
    fs::remove_file(dir.path().join("libexec/rocker/rocker-cli")).unwrap();
    let app = dir.path().join("app.sqfs");
    fs::copy(probe_package(), &app).unwrap();
    let script = "${1%/bin/*}/sbin/rocker-master 2>/dev/null & trap \"kill $!\" EXIT; \
                  until test -S /run/rocker/master.sock; do sleep 0.01; done; \
                  install -d -o 65534 -g 1 /var/lib/rocker/app; \"$@\"";
    let inside = ["--", "sh", "-c", "echo $HOME $PWD"];
    let words = [&["--overlay", "/etc", app.to_str().unwrap()], &inside[..]].concat();
    let output = alone(dir.path(), script, &words);
    assert_eq!(output, "/var/lib/rocker/app /run/rocker/app\n");
}

fn alone_it_says_what_is_missing() {
    let dir = scratch();
    let rocker = command_in(dir.path());
    fs::remove_file(dir.path().join("rocker-cli")).unwrap();
    let output = Command::new(rocker).arg("ps").output().unwrap();
    let words = ["rocker-cli", "beside rocker or in ../libexec/rocker", "No such file"];
    assert_refused(&output, 125, &words);
}
