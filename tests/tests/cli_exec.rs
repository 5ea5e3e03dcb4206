//! The command line on a living rocker: what runs in it beside its App.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};

use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use protocol::Name;
use protocol::socket::{now_ns, wait_readable};
use rocker_client::OpenRocker;
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::tcsetwinsize;
use tests::output::{assert_refused, json_of};
use tests::{APP_UID, Daemon, SOON, bin, command_in, probe_package};
use tests::{process, replayed, runner, within};

fn main() -> ExitCode {
    runner::main(tests::root![
        exec_is_a_program_of_the_rockers,
        exec_ends_with_the_programs_status,
        exec_refuses_in_one_line,
        exec_passes_signals_on_and_takes_its_program_along,
        exec_is_for_the_owner_too,
        exec_tells_of_a_rocker_that_ends,
        a_terminal_is_passed_through_and_restored,
        a_terminal_is_restored_however_it_ends,
        a_terminal_that_is_hung_up_takes_the_programs_along,
        no_program_gets_its_callers_terminal,
        what_a_program_leaves_cannot_keep_it_from_its_end,
    ])
}

fn open(daemon: &Daemon) -> OpenRocker {
    replayed(daemon.launch(probe_package()).open()).unwrap()
}

fn exec(daemon: &Daemon, name: Name, arguments: &[&str]) -> Command {
    let mut command = Command::new(bin("rocker"));
    command.arg("exec").arg("--socket").arg(daemon.socket()).arg(name.as_str());
    command.args(arguments).stdin(Stdio::null()).env_remove("LANG");
    command
}

fn text(bytes: &[u8]) -> &str {
    core::str::from_utf8(bytes).unwrap()
}

fn exec_is_a_program_of_the_rockers() {
    let daemon = Daemon::start();
    let rocker = open(&daemon);
    let name = rocker.guard_name();
    let script = "read line; echo $line $A $PWD; id -u; echo no >&2; env | sort";
    let options = ["--env", "A=b c", "--cwd", "/etc", "--", "sh", "-c", script];
    let mut child = exec(&daemon, name, &options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"in\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.starts_with(&format!("in b c /etc\n{APP_UID}\n")), "{said}");
    assert!(said.contains("\nHOME=/\n") && said.contains("\nPATH=/usr/local/sbin:"), "{said}");
    assert!(!said.contains("LANG=") && !said.contains("ROCKER"), "{said}");
    assert_eq!(output.stderr, b"no\n");
    // Its beginning will do, and a relative path begins at the exec dir.
    let mut command = Command::new(bin("rocker"));
    command.arg("exec").arg("--socket").arg(daemon.socket()).arg(&name.as_str()[..4]);
    let output = command.args(["--", "bin/probe", "say here"]).output().unwrap();
    assert_eq!(output.stdout, b"say: here\n", "{output:?}");
    assert!(within(SOON, || process::inside(rocker.guard_pid()).is_empty()));
    assert!(rocker.kill(SOON).unwrap());
}

fn exec_ends_with_the_programs_status() {
    let daemon = Daemon::start();
    let rocker = open(&daemon);
    let status = |arguments: &[&str]| {
        exec(&daemon, rocker.guard_name(), arguments).output().unwrap().status.code()
    };
    assert_eq!(status(&["--", "sh", "-c", "exit 7"]), Some(7));
    assert_eq!(status(&["--", "sh", "-c", "kill -TERM $$"]), Some(143));
    assert_eq!(status(&["--", "no-such-program"]), Some(127));
    assert_eq!(status(&["--", "/etc/passwd"]), Some(126));
    let late = exec(&daemon, rocker.guard_name(), &["--wall", "0.2", "--", "sleep", "60"]);
    assert_refused(&{ late }.output().unwrap(), 137, &["time"]);
    let json = ["--json", "--wall", "200ms", "--", "sleep", "60"];
    let output = exec(&daemon, rocker.guard_name(), &json).output().unwrap();
    let told = json_of(&output.stderr);
    assert_eq!((output.status.code(), told["signal"].as_u64()), (Some(137), Some(9)), "{told}");
    assert!(told["verdict"].is_string() && told["wall_us"].as_u64().unwrap() >= 200_000, "{told}");
    assert_eq!(told["name"], rocker.guard_name().as_str());
    assert!(rocker.kill(SOON).unwrap());
}

fn exec_refuses_in_one_line() {
    let daemon = Daemon::start();
    let rockers = [open(&daemon), open(&daemon)];
    let refused = |name: &str, arguments: &[&str], words: &str| {
        let mut command = Command::new(bin("rocker"));
        command.arg("exec").arg("--socket").arg(daemon.socket()).arg(name).args(arguments);
        assert_refused(&command.output().unwrap(), 125, &[words]);
    };
    refused("", &["--", "true"], "rocker \"\": no name");
    refused("zzz", &["--", "true"], "no living rocker has this name");
    let name = rockers[0].guard_name();
    refused(name.as_str(), &[], "ARGV");
    refused(name.as_str(), &["--wall", "-1", "--", "true"], "");
    refused(name.as_str(), &["--wall=-1", "--", "true"], "a time, like");
    refused(name.as_str(), &["--env", "A", "--", "true"], "NAME=VALUE");
    let nowhere = exec(&daemon, name, &["--socket", "/nowhere", "--", "true"]).output().unwrap();
    assert_refused(&nowhere, 125, &[""]);
    assert!(rockers.into_iter().all(|rocker| rocker.kill(SOON).unwrap()));
}

fn exec_passes_signals_on_and_takes_its_program_along() {
    let daemon = Daemon::start();
    let rocker = open(&daemon);
    let script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done";
    let started = || {
        let mut child = exec(&daemon, rocker.guard_name(), &["--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        (child, output)
    };
    let (mut child, mut output) = started();
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let mut said = String::new();
    output.read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(9), "caught\n"));
    let (mut child, _output) = started();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(within(SOON, || process::inside(rocker.guard_pid()).is_empty()));
    assert!(rocker.kill(SOON).unwrap());
}

fn exec_is_for_the_owner_too() {
    const STRANGER: u32 = APP_UID + 1;
    let (daemon, package) = Daemon::for_users(&[APP_UID, STRANGER]);
    let (program, exec_dir) = (command_in(daemon.dir()), daemon.exec_dir());
    let rocker = |uid: u32, verb: &str| {
        let mut command = Command::new(&program);
        command.uid(uid).gid(uid).arg(verb).arg("--socket").arg(daemon.socket());
        command.stdin(Stdio::null());
        command
    };
    let mut app = rocker(APP_UID, "run")
        .arg("--exec-dir")
        .args([&exec_dir, &package])
        .args(["--", "sh", "-c", "echo ready; exec sleep 60"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(app.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let name = rocker_client::list(daemon.socket(), SOON).unwrap()[0].name;
    let run = |uid| rocker(uid, "exec").args([name.as_str(), "--", "id", "-u"]).output().unwrap();
    assert_eq!(run(APP_UID).stdout, format!("{APP_UID}\n").as_bytes());
    assert_refused(&run(STRANGER), 125, &["no living rocker has this name"]);
    rocker_client::kill_by_name(daemon.socket(), name.as_str(), SOON).unwrap();
    app.wait().unwrap();
}

fn exec_tells_of_a_rocker_that_ends() {
    let daemon = Daemon::start();
    let rocker = open(&daemon);
    let script = ["--", "sh", "-c", "echo ready; sleep 60"];
    let mut command = exec(&daemon, rocker.guard_name(), &script);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    assert!(rocker.kill(SOON).unwrap());
    assert_refused(&child.wait_with_output().unwrap(), 125, &["closed the connection"]);
}

/// A terminal, and who sits at it.
struct Terminal {
    here: File,
    theirs: File,
    before: Termios,
    shown: String,
}

impl Terminal {
    fn new() -> Self {
        let size = Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        // A copy that no child inherits: it would keep the terminal from being hung up.
        let here = File::from(pty.master).try_clone().unwrap();
        Self { here, theirs: pty.slave.into(), before, shown: String::new() }
    }

    fn start(&self, mut command: Command) -> Child {
        let again = || self.theirs.try_clone().unwrap();
        command.stdin(again()).stdout(again()).stderr(again()).spawn().unwrap()
    }

    #[track_caller]
    fn await_words(&mut self, words: &str) {
        while !self.shown.contains(words) {
            let soon = now_ns() + u64::try_from(SOON.as_nanos()).unwrap();
            assert!(wait_readable(&self.here, soon).unwrap(), "{words:?}: {:?}", self.shown);
            let mut bytes = [0; 4096];
            let count = self.here.read(&mut bytes).unwrap();
            self.shown.push_str(text(&bytes[..count]));
        }
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.theirs).unwrap().local_flags.contains(LocalFlags::ICANON)
    }

    #[track_caller]
    fn assert_restored(&self) {
        assert_eq!(tcgetattr(&self.theirs).unwrap(), self.before);
    }
}

fn exec_tty(daemon: &Daemon, rocker: &OpenRocker, script: &str) -> Command {
    exec(daemon, rocker.guard_name(), &["--tty", "--", "sh", "-c", script])
}

#[track_caller]
fn status(mut child: Child) -> Option<i32> {
    assert!(within(SOON, || child.try_wait().unwrap().is_some()), "it hangs");
    child.wait().unwrap().code()
}

fn a_terminal_is_passed_through_and_restored() {
    let daemon = Daemon::start();
    let rocker = open(&daemon);
    let mut terminal = Terminal::new();
    let script = "test -t 0 && test -t 1 && test -t 2 && stty size; trap 'stty size' WINCH; \
        trap 'echo caught; exit 5' INT; echo >/dev/tty ready; while :; do sleep 0.05; done";
    let child = terminal.start(exec_tty(&daemon, &rocker, script));
    terminal.await_words("ready");
    assert!(terminal.shown.contains("33 77"), "{}", terminal.shown);
    assert!(within(SOON, || terminal.is_raw()));
    let size = rustix::termios::Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal.here, size).unwrap();
    kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::WINCH).unwrap();
    terminal.await_words("40 100");
    terminal.here.write_all(b"\x03").unwrap();
    terminal.await_words("caught");
    assert_eq!(status(child), Some(5));
    terminal.assert_restored();
    // Lines, the end of input, and all of a long output.
    let child = terminal.start(exec_tty(&daemon, &rocker, "cat; seq 20000; printf end"));
    assert!(within(SOON, || terminal.is_raw()));
    terminal.here.write_all(b"line\n\x04").unwrap();
    terminal.await_words("\r\n20000\r\nend");
    assert_eq!(status(child), Some(0));
    assert!(terminal.shown.contains("line\r\nline\r\n1\r\n2\r\n"), "{}", terminal.shown);
    terminal.assert_restored();
    assert!(rocker.kill(SOON).unwrap());
}

fn a_terminal_is_restored_however_it_ends() {
    let daemon = Daemon::start();
    let rocker = open(&daemon);
    let mut terminal = Terminal::new();
    let wait = "echo ready; exec sleep 60";
    let child = terminal.start(exec_tty(&daemon, &rocker, wait));
    terminal.await_words("ready");
    assert!(within(SOON, || terminal.is_raw()));
    kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::TERM).unwrap();
    assert_eq!(status(child), Some(143));
    terminal.assert_restored();
    let missing = exec(&daemon, rocker.guard_name(), &["--tty", "--", "no-such-program"]);
    assert_eq!(status(terminal.start(missing)), Some(127));
    terminal.assert_restored();
    let none = exec_tty(&daemon, &rocker, "true").output().unwrap();
    assert_refused(&none, 125, &["standard input is no terminal"]);
    terminal.shown.clear();
    let child = terminal.start(exec_tty(&daemon, &rocker, wait));
    terminal.await_words("ready");
    assert!(within(SOON, || terminal.is_raw()));
    assert!(rocker.kill(SOON).unwrap());
    assert_eq!(status(child), Some(125));
    terminal.assert_restored();
}

fn a_terminal_that_is_hung_up_takes_the_programs_along() {
    let daemon = Daemon::start();
    let rocker = open(&daemon);
    let mut terminal = Terminal::new();
    let child = terminal.start(exec_tty(&daemon, &rocker, "echo ready; exec sleep 60"));
    terminal.await_words("ready");
    assert!(within(SOON, || terminal.is_raw()));
    let Terminal { here, theirs, .. } = terminal;
    drop((here, theirs));
    assert_eq!(status(child), Some(129));
    assert!(within(SOON, || process::inside(rocker.guard_pid()).is_empty()));
    assert!(rocker.kill(SOON).unwrap());
}

fn no_program_gets_its_callers_terminal() {
    let daemon = Daemon::start();
    let rocker = open(&daemon);
    let run = |script| exec(&daemon, rocker.guard_name(), &["--", "sh", "-c", script]);
    let mut terminal = Terminal::new();
    let script = "cat; test ! -t 0 && test -t 1 && test -t 2 && stty size <&1; \
        stat -L -c dev=%t,%T /dev/fd/1 /dev/fd/2; trap 'stty size <&1' WINCH; \
        trap 'echo caught >&2; exit 5' INT; echo ready; while :; do sleep 0.05; done";
    let child = terminal.start(run(script));
    terminal.await_words("ready\r\n");
    assert!(terminal.shown.starts_with("33 77\r\n"), "{}", terminal.shown);
    let here = terminal.theirs.metadata().unwrap().rdev();
    let here = format!("dev={:x},{:x}", rustix::fs::major(here), rustix::fs::minor(here));
    assert_eq!(terminal.shown.matches("dev=").count(), 2);
    assert!(!terminal.shown.contains(&here), "{here}: {}", terminal.shown);
    terminal.assert_restored();
    let caller = Pid::from_raw(child.id().cast_signed()).unwrap();
    let size = rustix::termios::Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal.here, size).unwrap();
    kill_process(caller, Signal::WINCH).unwrap();
    terminal.await_words("40 100");
    // What is typed meanwhile is for whoever reads here next.
    terminal.here.write_all(b"typed\n").unwrap();
    kill_process(caller, Signal::INT).unwrap();
    terminal.await_words("caught\r\n");
    assert_eq!(status(child), Some(5));
    let mut typed = [0; 9];
    assert_eq!(terminal.theirs.read(&mut typed).unwrap(), 6);
    // Of the three only those that are a terminal.
    let mut command = run("cat; seq 20000 >&2; test ! -t 1 && test -t 2 && echo told");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(terminal.theirs.try_clone().unwrap()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"in\n").unwrap();
    terminal.await_words("\r\n20000\r\n");
    assert_eq!(text(&child.wait_with_output().unwrap().stdout), "in\ntold\n");
    assert!(rocker.kill(SOON).unwrap());
}

fn what_a_program_leaves_cannot_keep_it_from_its_end() {
    let daemon = Daemon::start();
    let rocker = open(&daemon);
    let terminal = Terminal::new();
    let script = "setsid sh -c 'trap \"\" HUP; yes' & sleep 0.1; exit 3";
    let at_terminal = exec(&daemon, rocker.guard_name(), &["--", "sh", "-c", script]);
    for command in [at_terminal, exec_tty(&daemon, &rocker, script)] {
        let mut child = terminal.start(command);
        let mut ended = None;
        assert!(within(SOON, || {
            while wait_readable(&terminal.here, now_ns()).unwrap() {
                let count = (&terminal.here).read(&mut [0; 4096]).unwrap();
                ended = child.try_wait().unwrap();
                if count == 0 || ended.is_some() {
                    break;
                }
            }
            ended = child.try_wait().unwrap();
            ended.is_some()
        }));
        assert_eq!(ended.unwrap().code(), Some(3));
        terminal.assert_restored();
    }
    assert!(rocker.kill(SOON).unwrap());
}
