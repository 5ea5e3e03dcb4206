//! Does what the guard's machine asks for. Owns every descriptor of a guard, under its role's
//! name; when this is dropped, and at the latest when PID 1 exits, all of them are closed.

mod launch;
mod life;
mod words;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::task::Poll;

use protocol::limits::{DESCRIPTORS_MAX, KEPT_LAYERS_MAX};
use protocol::seccomp;
use protocol::socket::{self, Buffer, Descriptors, now_ns};
use protocol::{
    ClientMessage, Command, Driver, Errno, Error, Failure, GuardMessage, Message, Name, Package,
    Request, Step, TraceStep,
};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::action::Action;
use crate::cgroups::Cgroups;
use crate::conf::{self, Pristine};
use crate::loop_device;
use crate::machine::{Guard, Outcome, Peer};
use crate::mount_table::Mount;
use crate::mounts::Refusal;
use crate::overlays::{Kept, Plan, Upper};
use crate::peers::{Intake, Peers};
use crate::privileges;
use crate::programs::{At, Bounds, Programs};
use crate::reaper::{self, Reaper};
use crate::sys;
use crate::wall::Wall;

/// What root.3 handed over.
struct Launch<'b> {
    name: Name,
    guard_pid: u32,
    request: Request<'b>,
    /// What came for its package.
    package: Package,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    deadline_ns: u64,
}

/// What only the building of the rocker needs; gone at root.5.
#[derive(Default)]
struct Building {
    /// As a mere place.
    place: Option<OwnedFd>,
    /// The same, to be read.
    package: Option<OwnedFd>,
    /// The bound loop device, then the mount on it.
    loop_device: Option<OwnedFd>,
    package_mount: Option<OwnedFd>,
    /// The mount of the package that all its rockers are made from.
    shared_mount: Option<OwnedFd>,
    /// The devices that are the rocker's own.
    dev: Option<OwnedFd>,
    /// The data dir's `.rocker` again, as this mount namespace has it.
    layers: Option<OwnedFd>,
    /// What does not depend on the request, if it was made before there was one.
    mounts: Option<Vec<Mount>>,
    proc: Option<OwnedFd>,
    user_limits: Option<OwnedFd>,
    own_devices: Option<[OwnedFd; 2]>,
    own_ipc: bool,
    /// Whether the host's control groups are closed already.
    closed_cgroups: bool,
    /// What the caller is to enter by.
    entrance: Option<OwnedFd>,
    plan: Plan,
    /// What an earlier launch has left of its overlays.
    kept: Option<Kept>,
    /// The master wants the overlays for the next launch.
    keeps: bool,
    /// Once they are there, what they are.
    seal: Option<Vec<u8>>,
}

/// What came of an order to open files.
struct Opened {
    errnos: heapless::Vec<Errno, DESCRIPTORS_MAX>,
    files: Descriptors,
}

/// The guard's side of the kernel.
pub struct Linux<'b> {
    master: Option<OwnedFd>,
    /// Where the request stays for as long as it is borrowed.
    inbox: Option<&'b mut Buffer>,
    outbox: Buffer,
    launch: Option<Launch<'b>>,
    building: Building,
    /// The data dir's `.rocker`, kept for its lock: as long as this is open, no other rocker
    /// gets these layers (KERNEL A11).
    data: Option<OwnedFd>,
    /// The master has the overlays: they outlive the rocker.
    is_kept: bool,
    /// Of those, what tells whether anything has been written.
    uppers: heapless::Vec<Upper, KEPT_LAYERS_MAX>,
    /// The limits, if there are any.
    cgroups: Cgroups,
    /// The second wall, if there is to be one.
    wall: Option<Wall>,
    reaper: Reaper,
    /// The caller's own connection, which from root.3 on is the guard's, and those of others.
    peers: Peers,
    intake: Intake,
    /// Who is to be turned away.
    newcomer: Option<OwnedFd>,
    /// What runs at their command.
    programs: Programs,
    /// The order that came last, and its descriptors.
    order: Buffer,
    order_descriptors: Descriptors,
    /// Where a program's start failed.
    failed_at: Option<At>,
    /// The launch is over.
    lives: bool,
    /// What exec.2 is to tell.
    started: Option<(u32, OwnedFd)>,
    opened: Option<Opened>,
    /// What the rocker is to look like: the order that said so, and how it was before.
    conf: Option<Buffer>,
    pristine: Option<Pristine>,
    /// The part of it that failed.
    conf_failed_at: Option<conf::At>,
    /// Until when the killed are waited for at a reset.
    bury_until_ns: u64,
    /// The step just taken, for errors and traces.
    command: Command,
    /// What the kernel said beyond a number.
    words: String,
}

impl core::fmt::Debug for Linux<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Linux").field("command", &self.command).finish_non_exhaustive()
    }
}

/// `rocker-guard --version`: what a master reads before it trusts a guard binary.
pub fn print_version() -> Result<(), rustix::io::Errno> {
    let version = env!("CARGO_PKG_VERSION");
    let line = format!("rocker-guard {version} wire {}\n", protocol::wire::VERSION);
    rustix::io::write(sys::stdio(1), line.as_bytes()).map(drop)
}

/// One line on standard error.
pub fn complain(line: &str) {
    // There is nowhere to say that this could not be said.
    let _ = rustix::io::write(sys::stdio(2), line.as_bytes());
}

impl<'b> Linux<'b> {
    /// Takes the master's end from standard input, and puts `/dev/null` in its place.
    ///
    /// `EPERM` if this is not PID 1.
    pub fn new(inbox: &'b mut Buffer) -> Result<Self, rustix::io::Errno> {
        if !rustix::process::getpid().is_init() {
            return Err(rustix::io::Errno::PERM);
        }
        // What whoever started the master left open in it is nothing to a rocker, nor is its
        // working directory, nor what it masks, nor its groups.
        sys::close_from(3)?;
        rustix::thread::set_thread_groups(&[])?;
        rustix::process::chdir(c"/")?;
        rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
        let master = rustix::io::fcntl_dupfd_cloexec(sys::stdio(0), 3)?;
        rustix::stdio::dup2_stdin(sys::stdio(1))?;
        Ok(Self {
            master: Some(master),
            inbox: Some(inbox),
            outbox: Buffer::for_guard(),
            launch: None,
            building: Building::default(),
            data: None,
            is_kept: false,
            uppers: heapless::Vec::new(),
            cgroups: Cgroups::default(),
            wall: None,
            reaper: Reaper::new()?,
            peers: Peers::new(),
            intake: Intake::new()?,
            newcomer: None,
            programs: Programs::default(),
            order: Buffer::for_guard(),
            order_descriptors: Descriptors::new(),
            failed_at: None,
            lives: false,
            started: None,
            opened: None,
            conf: None,
            pristine: None,
            conf_failed_at: None,
            bury_until_ns: 0,
            command: Command::new(),
            words: String::new(),
        })
    }

    /// What root.3 handed over, which the machine asks for before all else.
    #[expect(clippy::expect_used, reason = "AwaitRequest is the machine's first state")]
    fn launch(&self) -> &Launch<'b> {
        self.launch.as_ref().expect("root.3 comes first")
    }

    /// Lets go of everything first: whoever hears of the failure may try again at once.
    fn report_failure(&mut self, error: Error) -> Result<(), Errno> {
        self.building = Building::default();
        self.uppers.clear();
        self.data = None;
        // A broken rule says enough by itself.
        let command = match error {
            Error::Invalid { .. } => Command::new(),
            _ => self.command.clone(),
        };
        let failure = Failure { error, command: command.as_str() };
        self.tell(&Message::Guard(GuardMessage::Failed(failure)), &[])
    }

    /// Says to the caller how its launch has ended, which has to get past all steps that it has
    /// not read yet.
    fn tell(&mut self, message: &Message<'_>, descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let launch = self.launch.as_ref().ok_or(Errno::PIPE)?;
        let client = self.peers.socket(Peer::OWNER).ok_or(Errno::PIPE)?;
        let deadline = launch.deadline_ns;
        socket::send_before(client, message, descriptors, &mut self.outbox, deadline)
    }

    fn perform_now(&mut self, action: Action) -> Outcome {
        match action {
            Action::AwaitRequest => self.await_request(),
            Action::IsolateMounts => done(self.isolate()),
            Action::FindFreeLoop => loop_device::find_free().map_or_else(failed, Outcome::LoopIs),
            Action::BindLoop { loop_dev } => self.bind(loop_dev),
            Action::MountPackage { loop_dev } => {
                let mounted = self.mount_package(loop_dev);
                self.refused(mounted)
            }
            Action::SharePackage { loop_dev } => told(self.share_package(loop_dev)),
            Action::ReusePackage { loop_dev } => self.reuse_package(loop_dev),
            Action::ListTopDirs => self.list_top_dirs(),
            Action::BuildOverlay { layer } => {
                let built = self.build_overlay(layer);
                self.refused(built)
            }
            Action::MountOverlay { place } => done(self.mount_overlay(place)),
            Action::AttachPackage => done(self.attach_package()),
            Action::RemountProc => self.remount_proc(),
            Action::TakeAppIds => {
                let Request { uid, gid, .. } = self.launch().request;
                done(privileges::take_ids(uid, gid))
            }
            Action::UnshareUser => done(sys::unshare(linux_raw_sys::general::CLONE_NEWUSER)),
            Action::DropPrivileges => self.drop_privileges(),
            Action::ReportDone => told(self.report_done()),
            Action::AwaitRelease => self.await_release(),
            Action::SendEntrance => told(self.send_entrance()),
            Action::AwaitApp => self.await_app(),
            Action::Listen => self.listen(),
            Action::StartProgram { peer } => self.start_program(peer),
            Action::ReportStarted { peer, id } => told(self.report_started(peer, id)),
            Action::ReportNotStarted { peer, id, error } => {
                told(self.report_not_started(peer, id, error))
            }
            Action::SendSignal { peer, id, signal } => done(self.programs.signal(peer, id, signal)),
            Action::LetGo { peer, id } => done(self.programs.let_go(peer, id)),
            Action::Answer { peer } => {
                told(self.reply(peer, &Message::Guard(GuardMessage::Pong), &[]))
            }
            Action::Welcome { peer } => told(self.welcome(peer)),
            Action::TurnAway => told(self.turn_away()),
            Action::CarryOut { peer, id, order } => done(self.carry_out(peer, id, order)),
            Action::Bury => self.bury(),
            Action::BuildView => self.build_view(),
            Action::RunInit => self.run_init(),
            Action::ReportObeyed { peer, id } => told(self.report_obeyed(peer, id)),
            Action::HangUp { peer, kills } => {
                self.hang_up(peer, kills);
                Outcome::Done
            }
            Action::KillLate => {
                self.programs.kill_late(&self.reaper);
                Outcome::Done
            }
            Action::Reap => self.reap(),
            Action::ReportExit { peer } => told(self.report_exit(peer)),
            Action::FindStrangers => match self.reaper.find_stranger() {
                Ok(true) => Outcome::Watched,
                Ok(false) => Outcome::Alone,
                Err(errno) => Outcome::Failed(socket::errno(errno)),
            },
            Action::Rest => {
                reaper::rest(self.programs.late_ns());
                Outcome::Done
            }
            Action::Settle { is_alone } => self.settle(is_alone),
            Action::ReportFailure(error) => told(self.report_failure(error)),
        }
    }

    fn refused(&mut self, made: Result<(), Refusal>) -> Outcome {
        match made {
            Ok(()) => Outcome::Done,
            Err(refusal) => {
                self.words = refusal.words;
                Outcome::Failed(socket::errno(refusal.errno))
            }
        }
    }

    /// Shows the caller the step that was just taken.
    fn trace(&mut self, step: Step, began_ns: u64, outcome: &Outcome) {
        let errno = match outcome {
            Outcome::Failed(errno) => Some(*errno),
            _ => None,
        };
        let command = self.command.clone();
        let took_ns = now_ns() - began_ns;
        let command = command.as_str();
        let actor = protocol::Actor::Guard;
        let step = TraceStep { actor, step, began_ns, took_ns, errno, command };
        show(&self.peers, &Message::Guard(GuardMessage::Step(step)), &mut self.outbox);
    }

    /// A launch is traced until it is over; what follows has answers of its own.
    fn traces(&self) -> bool {
        !self.lives && self.launch.as_ref().is_some_and(|launch| launch.request.trace)
    }
}

impl Driver<Guard> for Linux<'_> {
    fn perform(&mut self, step: Step, action: Action) -> Poll<Outcome> {
        if let Action::ReportNotStarted { peer, id, error } = action {
            return Poll::Ready(told(self.report_not_started(peer, id, error)));
        }
        if let Action::ReportFailure(error) = action {
            return Poll::Ready(told(self.report_failure(error)));
        }
        let began_ns = now_ns();
        let outcome = self.perform_now(action);
        // It was ready for the request long before that came.
        let began_ns = if action == Action::AwaitRequest { now_ns() } else { began_ns };
        let is_failure =
            matches!(outcome, Outcome::Failed(_) | Outcome::Lost(_) | Outcome::Refused(_));
        if is_failure || self.traces() {
            self.describe(action);
        }
        if self.traces() {
            self.trace(step, began_ns, &outcome);
        }
        Poll::Ready(outcome)
    }
}

/// What stands for the guard itself.
fn entrance() -> Result<OwnedFd, Errno> {
    pidfd_open(Pid::INIT, PidfdFlags::empty()).map_err(socket::errno)
}

/// The program in an order, and how many of its descriptors are those of control groups.
fn exec_in(order: &Buffer) -> Option<(protocol::Exec<'_>, usize)> {
    match order.last()? {
        Message::Client(ClientMessage::Exec(exec)) => Some((exec, 0)),
        Message::Client(ClientMessage::ExecIn { cgroups, exec }) => Some((exec, cgroups.into())),
        _ => None,
    }
}

/// What bounds a program.
fn bounds<'a>(launch: &'a Launch<'_>, wall: Option<&'a Wall>) -> Bounds<'a> {
    Bounds { filter: seccomp::filter(&launch.request.options), ruleset: wall.map(Wall::ruleset) }
}

/// The configuration in an order.
fn conf_in(order: &Buffer) -> Option<protocol::Conf<'_>> {
    match order.last()? {
        Message::Client(ClientMessage::Conf { conf, .. }) => Some(conf),
        _ => None,
    }
}

/// Where a program starts, and relative paths begin.
fn work_dir<'a>(launch: Option<&'a Launch<'_>>, order: Option<&'a Buffer>) -> &'a [u8] {
    let exec_dir = launch.map_or(b"/".as_slice(), |launch| launch.request.exec_dir.as_bytes());
    order.and_then(conf_in).map_or(exec_dir, |conf| conf::work_dir(&conf, exec_dir))
}

fn failed(errno: rustix::io::Errno) -> Outcome {
    Outcome::Failed(socket::errno(errno))
}

fn done(answer: Result<(), rustix::io::Errno>) -> Outcome {
    told(answer.map_err(socket::errno))
}

fn told(answer: Result<(), Errno>) -> Outcome {
    match answer {
        Ok(()) => Outcome::Done,
        Err(errno) => Outcome::Failed(errno),
    }
}

/// Shows the caller a step. One that does not read loses its trace, not its App.
fn show(peers: &Peers, message: &Message<'_>, outbox: &mut Buffer) {
    let client = peers.socket(Peer::OWNER);
    // A caller that is gone by now is found out at root.5.
    let _ = client.map(|client| socket::send(client, message, &[], outbox));
}
