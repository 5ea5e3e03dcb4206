//! SIGKILL at every system call of a launch: of the client, its helper, the guard, the master;
//! of client and helper in both libraries.
//! After each the next launch works, with the next master if it was that, and nothing is left.
//!
//! A tracer (`man 2 ptrace`) stops the victim at each of its calls and kills it at the entry of
//! the n-th, for n = 1, 2, ... until a launch gets through untouched. So everything between two
//! calls is covered, and every step with its calls.
#![allow(unsafe_code, reason = "fork(2) has no safe form, and a client is to be traced")]

use std::collections::BTreeMap;
use std::io::{PipeWriter, Read, Write};
use std::process::ExitCode;
use std::time::Instant;

use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use protocol::{Error, Item, Rule};
use rocker_client::{Launch, Program, Stdio, list};
use tests::app::App;
use tests::c_client::{self, Request, c_string};
use tests::{APP_GID, APP_UID, Daemon, Leaks, SOON, probe_package, runner, within};

fn main() -> ExitCode {
    runner::main(tests::root![
        a_client_can_be_killed_at_every_call,
        a_helper_can_be_killed_at_every_call,
        a_client_in_c_can_be_killed_at_every_call,
        a_helper_in_c_can_be_killed_at_every_call,
        a_copied_helper_in_c_can_be_killed_at_every_call,
        a_guard_can_be_killed_at_every_call,
        a_master_can_be_killed_at_every_call,
    ])
}

/// Who is killed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Victim {
    Client,
    Helper,
    Guard,
    Master,
}

/// Its exit statuses; anything else is a failure.
const LAUNCHED: i32 = 0;
const REFUSED: i32 = 1;

/// A process that makes one launch and waits until it is gone.
struct Client {
    pid: Pid,
    /// It waits for a byte before it begins.
    go: PipeWriter,
}

/// By which library the client launches.
#[derive(Clone, Debug)]
enum By {
    Rust(Launch),
    C(Request),
    /// The same while its helpers can be no more than copies.
    CCopies(Request),
}

impl By {
    /// Launches, waits until all is gone, and says how it went.
    fn run(&self) -> Result<bool, String> {
        match self {
            Self::Rust(launch) => {
                let program = Program::new("bin/probe").arg("say hello").stdout(Stdio::Null);
                let rocker = launch.spawn(&program);
                rocker.map_err(|error| error.to_string()).map(|mut rocker| {
                    let _ = rocker.wait();
                    matches!(rocker.wait_gone(Some(SOON)), Ok(true))
                })
            }
            Self::C(request) => {
                let program = c_client::Program::new("bin/probe").args(["say hello"]);
                let rocker = request.spawn(&program.stdio(1, Stdio::Null));
                rocker.map_err(|error| error.to_string()).map(|mut rocker| rocker.wait_gone())
            }
            Self::CCopies(request) => {
                let lock = std::fs::File::open("/proc/self/status").expect("it is running");
                rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
                    .expect("nobody else has it");
                Self::C(request.clone()).run()
            }
        }
    }
}

impl Client {
    fn start(by: &By, socket: &std::path::Path) -> Self {
        let (mut wait, go) = std::io::pipe().expect("descriptors are to be had");
        // SAFETY: the runner gives each test a process of its own, and this one has one thread.
        match unsafe { fork() }.expect("one more process") {
            ForkResult::Parent { child } => Self { pid: child, go },
            ForkResult::Child => {
                drop(go);
                let _ = wait.read(&mut [0]);
                let status = match by.run() {
                    Ok(gone) => {
                        // The master's last calls for this rocker come before its answer.
                        let _ = list(socket, SOON);
                        if gone { LAUNCHED } else { 2 }
                    }
                    Err(error) => {
                        println!("   {error}");
                        if error.contains('\n') { 3 } else { REFUSED }
                    }
                };
                std::process::exit(status)
            }
        }
    }

    fn go(&mut self) {
        // It may have been killed already.
        let _ = self.go.write_all(b"g");
    }

    /// Waits for its end: the status, or none if it was killed.
    fn end(&self) -> Option<i32> {
        let mut status = None;
        let ended = within(2 * SOON, || match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => {
                status = Some(code);
                true
            }
            Ok(WaitStatus::Signaled(..)) | Err(_) => true,
            Ok(_) => false,
        });
        assert!(ended, "the client is stuck");
        status
    }
}

/// Stops a process and has it traced.
fn seize(pid: Pid, options: Options) {
    let options = options | Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options).expect("root may trace its own");
    ptrace::interrupt(pid).expect("it is traced");
    let stopped = waitpid(pid, Some(WaitPidFlag::__WALL)).expect("it stops");
    assert!(matches!(stopped, WaitStatus::PtraceEvent(..)), "{stopped:?}");
}

/// Runs a stopped process until it makes its first child, and returns that, stopped. None if it
/// ends first.
fn first_child(parent: Pid) -> Option<Pid> {
    loop {
        ptrace::cont(parent, None).ok()?;
        match waitpid(parent, Some(WaitPidFlag::__WALL)).expect("it is traced") {
            WaitStatus::PtraceEvent(_, _, event) if is_birth(event) => {
                let child = ptrace::getevent(parent).expect("the event says who");
                let child = Pid::from_raw(i32::try_from(child).expect("a pid"));
                let stopped = waitpid(child, Some(WaitPidFlag::__WALL)).expect("it is traced, too");
                assert!(matches!(stopped, WaitStatus::PtraceEvent(..)), "{stopped:?}");
                ptrace::detach(parent, None).expect("it is stopped");
                return Some(child);
            }
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return None,
            _ => {}
        }
    }
}

fn is_birth(event: i32) -> bool {
    [Event::PTRACE_EVENT_FORK, Event::PTRACE_EVENT_VFORK, Event::PTRACE_EVENT_CLONE]
        .into_iter()
        .any(|birth| birth as i32 == event)
}

/// Lets a stopped process make `calls` system calls less one, and kills it as it makes the
/// next. The number of that call; none if it does not come to it: it has ended, or `is_over`.
fn kill_at(victim: Pid, calls: usize, mut is_over: impl FnMut() -> bool) -> Option<u64> {
    let mut made = 0;
    let mut signal = None;
    loop {
        if ptrace::syscall(victim, signal.take()).is_err() {
            return None;
        }
        let status = loop {
            match waitpid(victim, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) if is_over() => return None,
                // A victim that waits has time.
                Ok(WaitStatus::StillAlive) => std::thread::yield_now(),
                Ok(status) => break status,
                Err(_) => return None,
            }
        };
        match status {
            WaitStatus::PtraceSyscall(_) => {
                let info = ptrace::syscall_info(victim).expect("Linux 5.3");
                if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
                    continue;
                }
                made += 1;
                if made == calls {
                    // SAFETY: `op` says which member it is.
                    let number = unsafe { info.u.entry.nr };
                    kill(victim, Signal::SIGKILL).expect("it is ours");
                    let _ = waitpid(victim, Some(WaitPidFlag::__WALL));
                    return Some(number);
                }
            }
            WaitStatus::Stopped(_, stopped) => signal = Some(stopped),
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return None,
            _ => {}
        }
    }
}

/// One launch, and the death of one of its processes. The number of the call, or none if the
/// launch got through.
fn die_once(daemon: &Daemon, by: &By, victim: Victim, calls: usize) -> Option<u64> {
    let births =
        Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK | Options::PTRACE_O_TRACECLONE;
    let mut client = Client::start(by, &daemon.socket());
    let master = Pid::from_raw(daemon.pid().cast_signed());
    let mut status = None;
    let died_at = match victim {
        Victim::Client => {
            seize(client.pid, Options::empty());
            client.go();
            kill_at(client.pid, calls, || false)
        }
        Victim::Helper => {
            seize(client.pid, births);
            client.go();
            let helper = first_child(client.pid).expect("a client makes a helper");
            ptrace::setoptions(helper, sweep_options()).expect("it is stopped");
            kill_at(helper, calls, || false)
        }
        Victim::Guard => {
            // A thread is born as well, where a path is looked at.
            seize(master, Options::PTRACE_O_TRACEVFORK);
            client.go();
            let guard = first_child(master).expect("a master makes a guard");
            ptrace::setoptions(guard, sweep_options()).expect("it is stopped");
            kill_at(guard, calls, || false)
        }
        Victim::Master => {
            seize(master, Options::empty());
            client.go();
            let died_at = kill_at(master, calls, || {
                match waitpid(client.pid, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::Exited(_, code)) => status = Some(code),
                    _ => return false,
                }
                true
            });
            if died_at.is_none() {
                ptrace::interrupt(master).expect("it is traced");
                waitpid(master, Some(WaitPidFlag::__WALL)).expect("it stops");
                ptrace::detach(master, None).expect("it is stopped");
            }
            died_at
        }
    };
    if victim != Victim::Client && status.is_none() {
        status = client.end();
    }
    let untouched = died_at.is_none();
    match (victim, status) {
        (Victim::Client, None) | (_, Some(LAUNCHED)) => {}
        (_, Some(REFUSED)) if !untouched => {}
        other => panic!("{other:?}, killed at call {died_at:?}"),
    }
    died_at
}

fn sweep_options() -> Options {
    Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL
}

/// The launch after. What is left of the one before may still have its data dir: not for long.
fn next(launch: &Launch) {
    let in_use = Error::Invalid { rule: Rule::InUse, item: Item::DataDir };
    let began = Instant::now();
    let mut app = None;
    let launched = within(SOON, || {
        match App::start(launch, &["say again"]) {
            Ok(started) => app = Some(started),
            Err(error) => assert_eq!(error.kind(), in_use, "{error}"),
        }
        app.is_some()
    });
    assert!(launched, "the data dir is in use after {:?}", began.elapsed());
    assert_eq!(app.expect("it is launched").finish().one("say"), "again");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

fn sweep(victim: Victim) {
    sweep_by(victim, |launch, _| By::Rust(launch.clone()));
}

fn sweep_by(victim: Victim, by: fn(&Launch, Request) -> By) {
    probe_package();
    let began = Instant::now();
    let before = Leaks::snapshot();
    let mut daemon = Daemon::start();
    let launch = daemon.overlaid(probe_package(), &["/usr", "/etc"]);
    let by = by(
        &launch,
        Request {
            uid: Some(APP_UID.cast_signed()),
            gid: Some(APP_GID.cast_signed()),
            package: Some(c_string(probe_package())),
            exec_dir: Some(c_string(daemon.exec_dir())),
            data_dir: Some(c_string(daemon.data_dir())),
            overlay_dirs: ["/usr", "/etc"].map(c_string).into(),
            socket: Some(c_string(daemon.socket())),
            ..Request::default()
        },
    );
    let with_daemon = Leaks::snapshot();
    let descriptors = daemon.fds();
    let mut killed_at: BTreeMap<u64, usize> = BTreeMap::new();
    let mut calls = 1;
    loop {
        println!("{victim:?} at call {calls}");
        let died_at = die_once(&daemon, &by, victim, calls);
        println!("  which is system call {died_at:?}");
        if victim == Victim::Master && died_at.is_some() {
            daemon.kill();
            daemon.restart();
        }
        next(&launch);
        assert!(within(SOON, || daemon.records().is_empty()), "{:?}", daemon.records());
        if victim == Victim::Master {
            daemon.stop();
            before.assert_none();
            daemon.restart();
        } else {
            with_daemon.assert_none();
            assert!(within(SOON, || daemon.fds() == descriptors));
        }
        let Some(died_at) = died_at else { break };
        *killed_at.entry(died_at).or_default() += 1;
        calls += 1;
    }
    println!("{victim:?}: killed at each of {} calls, {:?}", calls - 1, began.elapsed());
    assert!(calls > 10, "a {victim:?} makes more calls than {calls}");
    drop(daemon);
    before.assert_none();
}

fn a_client_can_be_killed_at_every_call() {
    sweep(Victim::Client);
}

fn a_helper_can_be_killed_at_every_call() {
    sweep(Victim::Helper);
}

fn a_client_in_c_can_be_killed_at_every_call() {
    sweep_by(Victim::Client, |_, request| By::C(request));
}

fn a_helper_in_c_can_be_killed_at_every_call() {
    sweep_by(Victim::Helper, |_, request| By::C(request));
}

fn a_copied_helper_in_c_can_be_killed_at_every_call() {
    sweep_by(Victim::Helper, |_, request| By::CCopies(request));
}

fn a_guard_can_be_killed_at_every_call() {
    sweep(Victim::Guard);
}

fn a_master_can_be_killed_at_every_call() {
    sweep(Victim::Master);
}
