//! Does what the guard's machine asks for. Owns every descriptor of a guard, under its role's
//! name; when this is dropped, and at the latest when PID 1 exits, all of them are closed.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::task::Poll;
use core::time::Duration;

use protocol::devices::SHM_BYTES;
use protocol::limits::{CGROUPS_MAX, DESCRIPTORS_MAX, KEPT_LAYERS_MAX, PROGRAMS_MAX, RESET_MS};
use protocol::seccomp;
use protocol::socket::{self, Buffer, Descriptors, Received, now_ns};
use protocol::{
    ClientMessage, Command, Driver, Errno, Error, Failure, GuardMessage, Loss, MasterMessage,
    Message, Name, OpenFiles, Overlays, Package, Request, Seccomp, Step, TraceStep,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use crate::action::{Action, Order};
use crate::cgroups::Cgroups;
use crate::conf::{self, Pristine};
use crate::durability;
use crate::files;
use crate::gate::Room;
use crate::loop_device;
use crate::machine::{Guard, Life, Outcome, Peer, forbidden_overlay};
use crate::mount_table::{self, Mount};
use crate::mounts::{self, Refusal};
use crate::overlays::{Kept, NoPlan, Plan, Upper};
use crate::peers::{Intake, PEERS_MAX, Peers};
use crate::privileges;
use crate::programs::{self, At, Bounds, Failed, Programs};
use crate::reaper::{self, Reaper};
use crate::sys;
use crate::wall::Wall;

const SIGKILL: u8 = 9;

/// In the command of prepare.6, where Landlock is asked for.
const WALL_WORDS: &str = " --landlock-access fs";

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

/// What a peer has said.
enum Heard {
    /// enter.4
    AppStarted,
    /// exec.0
    Order(Outcome),
}

/// Why nothing was heard of a peer.
enum NotHeard {
    Lost(Loss),
    Failed(Errno),
}

/// What there is to do for a guard that listens.
struct Ready {
    /// Somebody wants to give orders.
    attached: bool,
    /// Somebody has ended, or may have.
    changed: bool,
    /// A program may have done what its own filter forbids.
    violated: bool,
    /// Who has something to say, or has read something.
    peers: heapless::Vec<Peer, PEERS_MAX>,
}

/// All that a guard waits for: children, somebody it watches, peers, new ones, and filters that
/// tell.
const SOURCES_MAX: usize = 3 + PEERS_MAX + PROGRAMS_MAX;

/// What only the building of the rocker needs; gone at root.5.
#[derive(Default)]
struct Building {
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
        // working directory, nor what it masks.
        sys::close_from(3)?;
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

    fn await_request(&mut self) -> Outcome {
        let (Some(inbox), Some(master)) = (self.inbox.take(), &self.master) else {
            return Outcome::Lost(Loss::Garbage);
        };
        // A guard is ready for a launch that may come much later, as long as its master lives. It
        // does meanwhile what any launch asks for; the master lets go of it when the host's mounts
        // change. What fails now is tried again in its step, which says why.
        let has_time = || matches!(socket::wait_readable(master, 0), Ok(false));
        if has_time() {
            self.building.proc = proc_to_look_in(&mut self.reaper).ok();
            let proc = self.building.proc.as_ref();
            self.building.user_limits = proc.and_then(|proc| privileges::user_limits(proc).ok());
            self.building.own_devices = mounts::own_devices(SHM_BYTES).ok();
            self.building.closed_cgroups = mounts::close_cgroups().is_ok();
            self.building.entrance = entrance().ok();
        }
        if has_time() {
            self.building.mounts = mount_table::read().ok();
            // What every launch writes to is there already then.
            for buffer in [&mut *inbox, &mut self.outbox, &mut self.order] {
                buffer.bytes()[0] = 0;
            }
        }
        let mut descriptors = loop {
            match socket::receive_before(master, &mut *inbox, u64::MAX) {
                Ok(Received::Message(Message::Master(MasterMessage::Keep { seal, .. }), given)) => {
                    self.building.keeps = true;
                    self.building.kept = Some(Kept::new(given, seal)).filter(|_| !seal.is_empty());
                }
                Ok(Received::Message(_, descriptors)) => break descriptors.into_iter(),
                Ok(Received::Lost(how)) => return Outcome::Lost(how),
                Ok(Received::Empty) => return Outcome::Lost(Loss::Silent),
                Err(errno) => return Outcome::Failed(errno),
            }
        };
        // The request is borrowed for as long as the guard lives.
        let inbox: &'b Buffer = inbox;
        let Some(Message::Master(MasterMessage::HandOver {
            name,
            guard_pid,
            request,
            package,
            cgroups,
        })) = inbox.last()
        else {
            return Outcome::Lost(Loss::Garbage);
        };
        let overlays = !request.overlays.is_empty();
        let life = match (request.options.commanded, request.options.stays) {
            (false, _) => Life::Processes,
            (true, false) => Life::Owner,
            (true, true) => Life::OwnerThenProcesses,
        };
        descriptors.next().into_iter().for_each(|client| self.peers.own(client));
        match package {
            Package::Own | Package::First => self.building.package = descriptors.next(),
            Package::Shared { .. } => self.building.shared_mount = descriptors.next(),
        }
        self.data = request.data_dir.and_then(|_| descriptors.next());
        let Some(cgroups) = Cgroups::new(&cgroups, &mut descriptors) else {
            return Outcome::Lost(Loss::Garbage);
        };
        self.cgroups = cgroups;
        self.building.dev = descriptors.next();
        let deadline_ns = now_ns() + u64::from(request.timeout_ms) * 1_000_000;
        let syncs = overlays && self.building.keeps && !request.options.volatile;
        self.launch = Some(Launch { name, guard_pid, request, package, deadline_ns });
        Outcome::RequestIs { overlays, package, life, syncs }
    }

    fn isolate(&self) -> Result<(), rustix::io::Errno> {
        let mut name = [0; protocol::limits::NAME_LEN + 1];
        for (to, from) in name.iter_mut().zip(self.launch().name.as_str().bytes()) {
            *to = from;
        }
        let name = core::ffi::CStr::from_bytes_until_nul(&name);
        rustix::thread::set_name(name.map_err(|_| rustix::io::Errno::INVAL)?)?;
        self.cgroups.join()?;
        mounts::make_private()
    }

    fn bind(&mut self, loop_dev: u32) -> Result<(), rustix::io::Errno> {
        let package = self.building.package.as_ref().ok_or(rustix::io::Errno::BADF)?;
        let device = loop_device::bind(loop_dev, package.as_fd())?;
        self.building.loop_device = Some(device);
        Ok(())
    }

    /// The number is the package's for as long as the device is open or mounted.
    fn mount_package(&mut self, loop_dev: u32) -> Result<(), Refusal> {
        self.building.package_mount = Some(mounts::package(&format!("/dev/loop{loop_dev}"))?);
        // The mount keeps the device bound from here on, and unbinds it when it goes.
        self.building.loop_device = None;
        self.building.package = None;
        Ok(())
    }

    /// The master keeps it; what this rocker gets is a copy, as all others'.
    fn share_package(&mut self, loop_dev: u32) -> Result<(), Errno> {
        let mount = self.building.package_mount.take().ok_or(Errno::BADF)?;
        let master = self.master.as_ref().ok_or(Errno::BADF)?;
        let message = Message::Guard(GuardMessage::Mounted { loop_dev });
        socket::send(master, &message, &[mount.as_fd()], &mut self.outbox)?;
        self.building.shared_mount = Some(mount);
        Ok(())
    }

    fn reuse_package(&mut self, loop_dev: u32) -> Outcome {
        let Some(shared) = self.building.shared_mount.take() else {
            return Outcome::Failed(Errno::BADF);
        };
        let copy = mounts::package_again(shared.as_fd(), &format!("/dev/loop{loop_dev}"));
        let copied = copy.map(|copy| self.building.package_mount = Some(copy));
        self.refused(copied)
    }

    fn list_top_dirs(&mut self) -> Outcome {
        let mounts = self.building.mounts.take();
        match Plan::new(&self.launch().request.overlays, mounts) {
            Ok(plan) => {
                let found = Outcome::DirsAre { layers: plan.layers(), places: plan.places() };
                self.building.plan = plan;
                found
            }
            Err(NoPlan::Forbidden(index)) => Outcome::Refused(forbidden_overlay(index)),
            Err(NoPlan::Failed(errno, path)) => {
                self.words = String::from_utf8_lossy(&path).into_owned();
                Outcome::Failed(errno)
            }
        }
    }

    /// The kernel takes an overlay's upper directory only from the mount namespace that the
    /// overlay is made in, and the locked descriptor comes from the master's. So the path is
    /// followed once more, and must lead to the very directory that is locked.
    fn open_layers(&mut self) -> Result<(), Refusal> {
        let locked = self.data.as_ref().ok_or(rustix::io::Errno::BADF)?;
        let data_dir = self.launch().request.data_dir.ok_or(rustix::io::Errno::BADF)?;
        let layers = mounts::open_layers(data_dir.as_bytes(), locked.as_fd())?;
        let volatile = self.launch().request.options.volatile;
        if let Some(kept) = self.building.kept.take() {
            self.building.seal = self.building.plan.reuse(kept, layers.as_fd(), volatile);
        }
        if self.building.seal.is_none() {
            durability::settle(layers.as_fd(), volatile)?;
        }
        self.building.layers = Some(layers);
        Ok(())
    }

    fn build_overlay(&mut self, layer: u16) -> Result<(), Refusal> {
        if self.building.layers.is_none() {
            self.open_layers()?;
        }
        let volatile = self.launch().request.options.volatile;
        let Building { plan, layers, keeps, seal, .. } = &mut self.building;
        let data = layers.as_ref().ok_or(rustix::io::Errno::BADF)?.as_fd();
        if !plan.has(layer) {
            plan.build(layer, data, volatile)?;
        }
        if *keeps && seal.is_none() && layer + 1 == plan.layers() {
            // Without one they go with the rocker.
            *seal = plan.seal(data, volatile).ok();
        }
        Ok(())
    }

    fn mount_overlay(&mut self, place: u16) -> Result<(), rustix::io::Errno> {
        let Building { plan, layers, .. } = &mut self.building;
        plan.attach(place, layers.as_ref().ok_or(rustix::io::Errno::BADF)?.as_fd())
    }

    fn attach_package(&mut self) -> Result<(), rustix::io::Errno> {
        self.building.plan.unstage()?;
        let package = self.building.package_mount.as_ref().ok_or(rustix::io::Errno::BADF)?;
        let exec_dir = self.launch().request.exec_dir;
        let target = self.building.plan.open_or_make(exec_dir.as_bytes())?;
        mounts::attach(package.as_fd(), target.as_fd())
    }

    fn remount_proc(&mut self) -> Outcome {
        let Building { proc, dev, own_devices, closed_cgroups, .. } = &mut self.building;
        let (devices, are_closed) = (own_devices.take(), *closed_cgroups);
        // Who is to see the host's devices has none of its own.
        let attach_devices = || {
            let Some(tree) = dev else { return Ok(()) };
            let [memory, terminals] = devices.map_or_else(|| mounts::own_devices(SHM_BYTES), Ok)?;
            mounts::attach_at(tree.as_fd(), c"/dev")?;
            mounts::attach_at(memory.as_fd(), c"/dev/shm")?;
            mounts::attach_at(terminals.as_fd(), c"/dev/pts")
        };
        let proc = proc.take().map_or_else(|| proc_to_look_in(&mut self.reaper), Ok);
        let mounted = proc
            .and_then(|proc| mounts::attach_at(proc.as_fd(), c"/proc"))
            .and_then(|()| if are_closed { Ok(()) } else { Ok(mounts::close_cgroups()?) })
            .and_then(|()| attach_devices());
        self.refused(mounted)
    }

    fn drop_privileges(&mut self) -> Outcome {
        let dropped = self.become_nobody().map_err(Refusal::from);
        let walled = dropped.and_then(|()| self.build_wall());
        self.refused(walled)
    }

    fn become_nobody(&self) -> Result<(), rustix::io::Errno> {
        if !self.launch().request.options.user_namespaces {
            privileges::forbid_user_namespaces(self.building.user_limits.as_ref())?;
        }
        privileges::drop_all(self.launch().request.options.commanded)
    }

    fn build_wall(&mut self) -> Result<(), Refusal> {
        if self.launch().request.options.landlock {
            self.wall = Some(Wall::new(self.building.plan.take_overlaid())?);
        }
        Ok(())
    }

    fn report_done(&mut self) -> Result<(), Errno> {
        let master = self.master.as_ref().ok_or(Errno::BADF)?;
        self.uppers = self.building.plan.take_uppers();
        let Building { plan, seal, .. } = &self.building;
        let (Some(seal), Some(layers), Some(lock)) = (seal, plan.to_keep(), &self.data) else {
            return socket::send(
                master,
                &Message::Guard(GuardMessage::Done),
                &[],
                &mut self.outbox,
            );
        };
        let count = u8::try_from(layers.len()).unwrap_or(u8::MAX);
        let message = Message::Guard(GuardMessage::Kept { seal, layers: count });
        let descriptors: heapless::Vec<BorrowedFd<'_>, { KEPT_LAYERS_MAX + 1 }> =
            layers.into_iter().chain([lock.as_fd()]).collect();
        socket::send(master, &message, &descriptors, &mut self.outbox)?;
        self.is_kept = true;
        Ok(())
    }

    /// prepare.9. The master's own steps come this way too, when the caller wants to see them.
    fn await_release(&mut self) -> Outcome {
        let deadline = self.launch().deadline_ns;
        loop {
            let Some(master) = &self.master else { return Outcome::Failed(Errno::BADF) };
            match socket::receive_before(master, &mut self.order, deadline) {
                Ok(Received::Message(Message::Master(MasterMessage::GoOn), _)) => {
                    return Outcome::Done;
                }
                Ok(Received::Message(Message::Master(MasterMessage::Failed(failure)), _)) => {
                    self.words = failure.command.to_owned();
                    return Outcome::Refused(failure.error);
                }
                Ok(Received::Message(Message::Master(MasterMessage::Step(step)), _)) => {
                    let step = Message::Master(MasterMessage::Step(step));
                    show(&self.peers, &step, &mut self.outbox);
                }
                Ok(Received::Message(..)) => return Outcome::Lost(Loss::Garbage),
                Ok(Received::Lost(how)) => return Outcome::Lost(how),
                Ok(Received::Empty) => return Outcome::Lost(Loss::Silent),
                Err(errno) => return Outcome::Failed(errno),
            }
        }
    }

    /// root.5. The pidfd is the entrance: it keeps no mount alive, and cannot come to mean
    /// another process (KERNEL A45).
    fn send_entrance(&mut self) -> Result<(), Errno> {
        let entrance = self.building.entrance.take().map_or_else(entrance, Ok)?;
        let groups = self.cgroups.take_entrance();
        let Launch { name, guard_pid, ref request, deadline_ns, .. } = *self.launch();
        let filter = match request.options.seccomp {
            // Its caller has it.
            Seccomp::Filter(_) => &[],
            _ => seccomp::filter(&request.options),
        };
        // Whoever gives orders enters nothing.
        let wall = if request.options.commanded { None } else { self.wall.as_ref() };
        let client = self.peers.socket(Peer::OWNER).ok_or(Errno::PIPE)?;
        let descriptors: heapless::Vec<BorrowedFd<'_>, { CGROUPS_MAX + 2 }> =
            core::iter::once(&entrance)
                .chain(&groups)
                .map(OwnedFd::as_fd)
                .chain(wall.map(Wall::ruleset))
                .collect();
        let more = u8::try_from(descriptors.len() - 1).unwrap_or(u8::MAX);
        let message = Message::Guard(GuardMessage::Entrance { name, guard_pid, filter, more });
        socket::send_before(client, &message, &descriptors, &mut self.outbox, deadline_ns)
    }

    /// enter.4, after which both connections have served their purpose; or exec.0, after which
    /// the caller's stays. That this end of the master's closes tells the master that the launch
    /// is over.
    fn await_app(&mut self) -> Outcome {
        let deadline = self.launch().deadline_ns;
        let Some(client) = self.peers.socket(Peer::OWNER) else {
            return Outcome::Failed(Errno::BADF);
        };
        match socket::wait_readable(client, deadline) {
            Ok(true) => {}
            Ok(false) => return Outcome::Lost(Loss::Silent),
            Err(errno) => return Outcome::Failed(errno),
        }
        let outcome = match self.hear(Peer::OWNER) {
            Ok(Some(Heard::AppStarted)) => {
                match self.order_descriptors.pop().filter(is_pidfd) {
                    Some(app) => self.reaper.watch(app),
                    None => return Outcome::Lost(Loss::Garbage),
                }
                Outcome::Done
            }
            Ok(Some(Heard::Order(outcome))) => outcome,
            Ok(None) => return Outcome::Lost(Loss::Silent),
            Err(NotHeard::Lost(how)) => return Outcome::Lost(how),
            Err(NotHeard::Failed(errno)) => return Outcome::Failed(errno),
        };
        let is_as_announced =
            self.launch().request.options.commanded == !matches!(outcome, Outcome::Done);
        if is_as_announced {
            self.lives = true;
            self.master = None;
        }
        if is_as_announced && matches!(outcome, Outcome::Done) {
            self.peers.close(Peer::OWNER);
        }
        outcome
    }

    /// What a peer says, if it is an order; none if it says nothing.
    fn hear(&mut self, peer: Peer) -> Result<Option<Heard>, NotHeard> {
        let socket = self.peers.socket(peer).ok_or(NotHeard::Failed(Errno::BADF))?;
        let (message, descriptors) = match socket::receive(socket, &mut self.order) {
            Ok(Received::Message(Message::Client(message), descriptors)) => (message, descriptors),
            Ok(Received::Message(..)) => return Err(NotHeard::Lost(Loss::Garbage)),
            Ok(Received::Lost(how)) => return Err(NotHeard::Lost(how)),
            Ok(Received::Empty) => return Ok(None),
            Err(errno) => return Err(NotHeard::Failed(errno)),
        };
        self.order_descriptors = descriptors;
        Ok(Some(Heard::Order(match message {
            ClientMessage::AppStarted => return Ok(Some(Heard::AppStarted)),
            ClientMessage::Exec(exec) | ClientMessage::ExecIn { exec, .. } => {
                Outcome::Exec { peer, id: exec.id }
            }
            ClientMessage::Signal { id, signal: signal @ 1..=64 } => {
                Outcome::Signal { peer, id, signal }
            }
            ClientMessage::Go { id } => Outcome::Go { peer, id },
            ClientMessage::Ping => Outcome::Ping { peer },
            ClientMessage::Open { id, .. } => Outcome::Order { peer, id, order: Order::Open },
            ClientMessage::Delete { id, .. } => Outcome::Order { peer, id, order: Order::Delete },
            ClientMessage::Symlink { id, .. } => Outcome::Order { peer, id, order: Order::Symlink },
            ClientMessage::Conf { id, .. } => Outcome::Order { peer, id, order: Order::Configure },
            ClientMessage::Reset { id } => Outcome::Order { peer, id, order: Order::Reset },
            ClientMessage::Adopt { id } => Outcome::Order { peer, id, order: Order::Adopt },
            ClientMessage::Signal { .. }
            | ClientMessage::Launch(_)
            | ClientMessage::List
            | ClientMessage::Attach(_)
            | ClientMessage::Kill(_) => return Err(NotHeard::Lost(Loss::Garbage)),
        })))
    }

    /// exec.0 and root.9. Lateness first, then one order of whoever's turn it is, and ends last:
    /// after each order they are looked for anyway. So nobody keeps anybody waiting.
    fn listen(&mut self) -> Outcome {
        // What the building needed goes now that there is nothing to be done: one processor may be
        // all that the App has to come to its start, and to close a mount that was attached nowhere
        // takes 100 us. Of an App that has ended already it goes with all else.
        self.building = Building::default();
        loop {
            let now = now_ns();
            if self.programs.late_ns() <= now {
                return Outcome::Late;
            }
            if let Some(peer) = self.peers.overdue(now) {
                return Outcome::PeerLost { peer };
            }
            let ready = match self.wait(now) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Outcome::Failed(socket::errno(error)),
                Ok(ready) => ready,
            };
            if ready.violated {
                self.programs.hear_violations();
                if self.programs.late_ns() <= now {
                    return Outcome::Late;
                }
            }
            if ready.attached {
                match self.intake.take(&mut self.order) {
                    Ok(Some(newcomer)) => return self.admit(newcomer),
                    Ok(None) => {}
                    Err(errno) => return Outcome::Failed(errno),
                }
            }
            let mut changed = ready.changed;
            for peer in ready.peers {
                let was_reading = self.peers.is_reading(peer);
                if !self.peers.has_room(peer, now) {
                    continue;
                }
                if was_reading {
                    changed = true;
                    continue;
                }
                self.peers.was_heard(peer);
                match self.hear(peer) {
                    Ok(Some(Heard::Order(outcome))) => return outcome,
                    // enter.4 comes once, and first.
                    Ok(Some(Heard::AppStarted)) | Err(NotHeard::Lost(_)) => {
                        return Outcome::PeerLost { peer };
                    }
                    Err(NotHeard::Failed(errno)) => return Outcome::Failed(errno),
                    Ok(None) => {}
                }
            }
            if changed {
                return Outcome::Changed;
            }
        }
    }

    /// Waits until somebody has something to say or has ended, or until something is late.
    fn wait(&self, now: u64) -> Result<Ready, rustix::io::Errno> {
        let mut polled: heapless::Vec<PollFd<'_>, SOURCES_MAX> =
            self.reaper.sources().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let enders = polled.len();
        let _ = polled.push(PollFd::new(self.intake.source(), PollFlags::IN));
        polled.extend(self.programs.watches().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let tellers = polled.len() - enders - 1;
        let mut peers: heapless::Vec<Peer, PEERS_MAX> = heapless::Vec::new();
        for (peer, source) in self.peers.sources() {
            // There is room for everybody.
            let _ = (polled.push(source), peers.push(peer));
        }
        let until = match self.reaper.has_more() {
            true => now,
            false => self.programs.late_ns().min(self.peers.read_by_ns()),
        };
        let left = Duration::from_nanos(until.saturating_sub(now));
        let left = Timespec::try_from(left).ok().filter(|_| until != u64::MAX);
        poll(&mut polled, left.as_ref())?;
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let (ended, rest) = polled.split_at(enders);
        let (attached, rest) = rest.split_at(1);
        let (told, said) = rest.split_at(tellers);
        Ok(Ready {
            attached: attached.iter().any(is_ready),
            changed: self.reaper.has_more() || ended.iter().any(is_ready),
            violated: told.iter().any(is_ready),
            peers: peers
                .iter()
                .zip(said)
                .filter(|(_, fd)| is_ready(fd))
                .map(|(it, _)| *it)
                .collect(),
        })
    }

    /// exec.1
    fn start_program(&mut self, peer: Peer) -> Outcome {
        let descriptors = core::mem::take(&mut self.order_descriptors);
        let Some((exec, cgroups)) = exec_in(&self.order) else {
            return Outcome::Failed(Errno::PROTO);
        };
        // As many came as it says.
        let own = descriptors.len().saturating_sub(cgroups);
        let Some(launch) = &self.launch else { return Outcome::Failed(Errno::PROTO) };
        let bounds = bounds(launch, self.wall.as_ref());
        let work_dir = work_dir(Some(launch), self.conf.as_ref());
        self.programs.ooms = self.cgroups.ooms();
        let room = self.outbox.bytes();
        match self.programs.start(peer, &exec, descriptors.split_at(own), work_dir, bounds, room) {
            Ok(started) => {
                self.started = Some(started);
                Outcome::Done
            }
            Err(Failed { errno, at }) => {
                self.failed_at = Some(at);
                Outcome::Failed(socket::errno(errno))
            }
        }
    }

    /// exec.1 for what is done at once.
    fn carry_out(&mut self, peer: Peer, id: u32, order: Order) -> Result<(), rustix::io::Errno> {
        match order {
            Order::Configure => return self.take_conf(),
            Order::Adopt => {
                self.started = Some(self.programs.adopt(peer, id)?);
                return Ok(());
            }
            Order::Open | Order::Delete | Order::Symlink | Order::Reset => {}
        }
        if let Order::Reset = order {
            self.bury_until_ns = now_ns() + u64::from(RESET_MS) * 1_000_000;
            return self.programs.signal(Peer::OWNER, None, SIGKILL);
        }
        let work_dir = work_dir(self.launch.as_ref(), self.conf.as_ref());
        let (message, programs, opened) = (self.order.last(), &mut self.programs, &mut self.opened);
        let reaper = &self.reaper;
        let act = || match message {
            Some(Message::Client(ClientMessage::Open { files, .. })) => {
                *opened = Some(open_all(&files, work_dir));
                Ok(())
            }
            Some(Message::Client(ClientMessage::Delete { path, tree, .. })) => {
                files::delete(path, tree, work_dir, || programs.kill_late(reaper))
            }
            Some(Message::Client(ClientMessage::Symlink { target, path, .. })) => {
                files::symlink(target, path, work_dir)
            }
            _ => Err(rustix::io::Errno::PROTO),
        };
        match &self.wall {
            Some(wall) => wall.behind(act),
            None => act(),
        }
    }

    /// exec.1 of a configuration: whether it may be, and a copy, for the resets.
    fn take_conf(&mut self) -> Result<(), rustix::io::Errno> {
        if !self.launch().request.options.commanded {
            return Err(rustix::io::Errno::PERM);
        }
        if self.conf.is_some() {
            return Err(rustix::io::Errno::EXIST);
        }
        if self.programs.have_begun() {
            return Err(rustix::io::Errno::BUSY);
        }
        self.conf = Some(core::mem::replace(&mut self.order, Buffer::for_guard()));
        Ok(())
    }

    /// exec.1 of a reset. It kills again whoever has escaped: a process that was just being made.
    fn bury(&mut self) -> Outcome {
        const AGAIN_NS: u64 = 10_000_000;
        loop {
            let Self { reaper, programs, cgroups, .. } = self;
            if let Err(errno) = reaper.reap(|ended| programs.note(ended, cgroups)) {
                return Outcome::Failed(socket::errno(errno));
            }
            // What is left may have ended, and wait for a parent outside.
            if self.reaper.find_stranger() == Ok(false) {
                return Outcome::Alone;
            }
            let now = now_ns();
            if now >= self.bury_until_ns {
                return Outcome::Failed(Errno::TIME);
            }
            if let Err(errno) = self.programs.signal(Peer::OWNER, None, SIGKILL) {
                return Outcome::Failed(socket::errno(errno));
            }
            let deadline_ns = self.bury_until_ns.min(now + AGAIN_NS);
            for source in self.reaper.sources().take(1) {
                if let Err(errno) = socket::wait_readable(source, deadline_ns) {
                    return Outcome::Failed(errno);
                }
            }
        }
    }

    /// exec.1: from how the rocker was built to how it is to look.
    fn mount_view(&mut self) -> Result<(), conf::Failed> {
        let Some(conf) = self.conf.as_ref().and_then(conf_in) else { return Ok(()) };
        let failed = conf::at(conf::At::Namespaces);
        let pristine = match &self.pristine {
            Some(pristine) => {
                pristine.restore().map_err(failed)?;
                pristine
            }
            None => self.pristine.insert(Pristine::new(&conf, self.launch().request.options.dev)?),
        };
        let exec_dir = self.launch.as_ref().map(|launch| launch.request.exec_dir.as_bytes());
        pristine.configure(&conf, exec_dir.unwrap_or(b"/"), self.wall.as_mut())
    }

    fn build_view(&mut self) -> Outcome {
        let Err(conf::Failed { at, refusal }) = self.mount_view() else { return Outcome::Done };
        self.conf_failed_at = Some(at);
        self.refused(Err(refusal))
    }

    /// exec.1: the init command.
    fn run_init(&mut self) -> Outcome {
        let Some(conf) = self.conf.as_ref().and_then(conf_in) else { return Outcome::Done };
        if conf.init.as_bytes().is_empty() {
            return Outcome::Done;
        }
        let exec = protocol::Exec {
            id: u32::MAX,
            args: conf.init,
            env: conf.init_env,
            cwd: protocol::Strings::default(),
            descriptors: 0,
            by_descriptor: false,
            terminal: false,
            rlimits: heapless::Vec::new(),
            wall_ms: conf.init_ms,
            grace_ms: 0,
            filter: &[],
            sync: false,
        };
        self.conf_failed_at = Some(conf::At::Init);
        let Some(launch) = &self.launch else { return Outcome::Failed(Errno::PROTO) };
        let work_dir = work_dir(Some(launch), self.conf.as_ref());
        let bounds = bounds(launch, self.wall.as_ref());
        let Self { reaper, programs, cgroups, outbox, .. } = self;
        match programs.run_to_end(&exec, work_dir, bounds, outbox.bytes(), reaper, cgroups) {
            Ok(report) if report.verdict == protocol::Verdict::Normal => Outcome::Done,
            Ok(report) => {
                self.words = match report.exit {
                    protocol::Exit::Status(status) => format!("it ended with status {status}"),
                    protocol::Exit::Signal(signal) => format!("it ended by signal {signal}"),
                };
                Outcome::Failed(if report.verdict == protocol::Verdict::TimeLimitExceeded {
                    Errno::TIME
                } else {
                    Errno::CANCELED
                })
            }
            Err(Failed { errno, .. }) => Outcome::Failed(socket::errno(errno)),
        }
    }

    /// exec.2
    fn report_obeyed(&mut self, peer: Peer, id: u32) -> Result<(), Errno> {
        let Some(Opened { errnos, files }) = self.opened.take() else {
            return self.reply(peer, &Message::Guard(GuardMessage::Obeyed { id }), &[]);
        };
        let files: heapless::Vec<BorrowedFd<'_>, DESCRIPTORS_MAX> =
            files.iter().map(AsFd::as_fd).collect();
        self.reply(peer, &Message::Guard(GuardMessage::Opened { id, errnos }), &files)
    }

    fn report_started(&mut self, peer: Peer, id: u32) -> Result<(), Errno> {
        let (pid, pidfd) = self.started.take().ok_or(Errno::SRCH)?;
        let message = Message::Guard(GuardMessage::Started { id, pid });
        self.reply(peer, &message, &[pidfd.as_fd()])
    }

    fn report_not_started(&mut self, peer: Peer, id: u32, error: Error) -> Result<(), Errno> {
        let command = core::mem::take(&mut self.command);
        let failure = Failure { error, command: command.as_str() };
        self.reply(peer, &Message::Guard(GuardMessage::ExecFailed { id, failure }), &[])
    }

    /// exec.3 and root.9
    fn reap(&mut self) -> Outcome {
        let Self { reaper, programs, peers, cgroups, .. } = self;
        let is_watched = match reaper.reap(|ended| programs.note(ended, cgroups)) {
            Ok(is_watched) => is_watched,
            Err(errno) => return Outcome::Failed(socket::errno(errno)),
        };
        let now = now_ns();
        match programs.untold().find(|&peer| peers.has_room(peer, now)) {
            Some(peer) => Outcome::Exited { peer },
            // Who has not heard of an end yet keeps the rocker alive for as long as that may take.
            None if is_watched || programs.untold().next().is_some() => Outcome::Watched,
            None => Outcome::NobodyKnown,
        }
    }

    /// root.9, where the kernel will not unmount the overlays, and so not sync them. The lock is
    /// on the directory that the layers are in. A disk that is told to write takes a millisecond,
    /// even where it has nothing to write.
    fn settle(&mut self) -> Outcome {
        if !self.is_kept {
            return Outcome::Done;
        }
        self.bury_until_ns = now_ns() + u64::from(RESET_MS) * 1_000_000;
        match (self.bury(), &self.data) {
            (Outcome::Alone, _) if self.uppers.iter().all(Upper::is_untouched) => Outcome::Done,
            (Outcome::Alone, Some(data)) => done(rustix::fs::syncfs(data)),
            (outcome, _) => outcome,
        }
    }

    fn report_exit(&mut self, peer: Peer) -> Result<(), Errno> {
        let (id, report, gate) = self.programs.tell(peer).ok_or(Errno::SRCH)?;
        let mut room = Room::default();
        let failure = gate.and_then(|gate| gate.failure(&mut room));
        let message = match failure {
            Some((errno, command)) => {
                let error = Error::Failed { step: Step::ReportExit, errno };
                GuardMessage::ExecFailed { id, failure: Failure { error, command } }
            }
            None => GuardMessage::Exited { id, report },
        };
        self.reply(peer, &Message::Guard(message), &[])
    }

    /// Answers an order. There was room when it was heard; a peer that fills it is lost.
    fn reply(
        &mut self,
        peer: Peer,
        message: &Message<'_>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Errno> {
        let socket = self.peers.socket(peer).ok_or(Errno::PIPE)?;
        socket::send(socket, message, fds, &mut self.outbox)
    }

    fn admit(&mut self, newcomer: OwnedFd) -> Outcome {
        match self.peers.admit(newcomer) {
            Ok(peer) => Outcome::Attached { peer },
            Err(newcomer) => {
                self.newcomer = Some(newcomer);
                Outcome::Crowded
            }
        }
    }

    /// The answer to an Attach is that to a launch.
    fn welcome(&mut self, peer: Peer) -> Result<(), Errno> {
        let entrance = entrance()?;
        let Launch { name, guard_pid, .. } = *self.launch();
        // Who gives orders enters nothing.
        let (filter, more) = ([].as_slice(), 0);
        let message = Message::Guard(GuardMessage::Entrance { name, guard_pid, filter, more });
        self.reply(peer, &message, &[entrance.as_fd()])
    }

    fn turn_away(&mut self) -> Result<(), Errno> {
        /// `EUSERS`
        const USERS: Errno = Errno(87);
        let newcomer = self.newcomer.take().ok_or(Errno::PIPE)?;
        let error = Error::Failed { step: Step::HandOver, errno: USERS };
        let failure = Failure { error, command: "attach # 8 are attached already" };
        let message = Message::Guard(GuardMessage::Failed(failure));
        socket::send(&newcomer, &message, &[], &mut self.outbox)
    }

    fn hang_up(&mut self, peer: Peer, kills: bool) {
        self.peers.close(peer);
        self.programs.forget(peer, kills);
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
            Action::BindLoop { loop_dev } => done(self.bind(loop_dev)),
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
            Action::UnshareUser => done(sys::unshare_user()),
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
                reaper::rest();
                Outcome::Done
            }
            Action::Settle => self.settle(),
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

    /// Writes the action as the shell command that would do the same.
    fn describe(&mut self, action: Action) {
        let mut command = core::mem::take(&mut self.command);
        command.clear();
        if let (Action::AwaitRelease, false) = (action, self.words.is_empty()) {
            // What the master could not do, in its words.
            let _ = command.write_str(&self.words);
        } else if let (Action::ListTopDirs, false) = (action, self.words.is_empty()) {
            let _ = write!(command, "realpath {}", self.words);
        } else if let Some(launch) = &self.launch {
            // A Command takes any text.
            let _ = self.write_command(action, &launch.request, &mut command);
            if !self.words.is_empty() {
                let _ = write!(command, " [{}]", self.words);
            }
        }
        self.words.clear();
        self.command = command;
    }

    fn write_command(
        &self,
        action: Action,
        request: &Request<'_>,
        command: &mut Command,
    ) -> core::fmt::Result {
        let Request { package, exec_dir, uid, gid, .. } = request;
        match action {
            Action::AwaitRequest => command.write_str("recvmsg # the request, with descriptors"),
            Action::IsolateMounts if self.cgroups.is_empty() => {
                command.write_str("mount --make-rprivate /")
            }
            Action::IsolateMounts => {
                command.write_str("echo 0 > cgroup.procs; mount --make-rprivate /")
            }
            Action::FindFreeLoop => command.write_str("losetup --find"),
            Action::BindLoop { loop_dev } => {
                write!(command, "losetup --read-only /dev/loop{loop_dev} {package}")
            }
            Action::MountPackage { loop_dev } => {
                write!(command, "mount -t squashfs -o ro /dev/loop{loop_dev} {exec_dir}")
            }
            Action::SharePackage { .. } => {
                command.write_str("sendmsg # to the master, with the mount")
            }
            Action::ReusePackage { loop_dev } => {
                write!(command, "mount --bind package {exec_dir} # on /dev/loop{loop_dev}")?;
                match self.launch().package {
                    Package::Shared { .. } => {
                        command.write_str(", reused: no prepare.1, no prepare.2")
                    }
                    Package::Own | Package::First => Ok(()),
                }
            }
            Action::ListTopDirs => match &request.overlays {
                Overlays::AllTopDirs => command.write_str("realpath /*/"),
                Overlays::Dirs(dirs) => {
                    command.write_str("realpath")?;
                    dirs.iter().try_for_each(|dir| write!(command, " {dir}"))
                }
            },
            Action::BuildOverlay { layer } => {
                if let Some(data_dir) = request.data_dir {
                    let volatile = request.options.volatile;
                    self.building.plan.describe_layer(layer, data_dir, volatile, command);
                }
                Ok(())
            }
            Action::MountOverlay { place } => {
                self.building.plan.describe_place(place, command);
                Ok(())
            }
            Action::AttachPackage => write!(command, "mount --move package {exec_dir}"),
            Action::RemountProc => {
                command.write_str("mount -t proc -o nosuid,nodev,noexec proc /proc")?;
                match request.options.dev.is_own() {
                    true => command.write_str("; mount --move devices /dev"),
                    false => Ok(()),
                }
            }
            Action::TakeAppIds => {
                write!(command, "setpriv --clear-groups --regid {gid} --reuid {uid}")
            }
            Action::UnshareUser => command.write_str("unshare --user"),
            Action::DropPrivileges => {
                command.write_str("setpriv --inh-caps -all --bounding-set -all --no-new-privs")?;
                command.write_str(if request.options.landlock { WALL_WORDS } else { "" })
            }
            Action::ReportDone if self.is_kept => {
                command.write_str("sendmsg # to the master, with the overlays")
            }
            Action::ReportDone => command.write_str("sendmsg # to the master"),
            Action::AwaitRelease => command.write_str("recvmsg # from the master"),
            Action::SendEntrance => command.write_str("sendmsg # to the caller, with a pidfd"),
            Action::AwaitApp => command.write_str("recvmsg # from the caller, with a pidfd"),
            Action::Listen => command.write_str("recvmsg # from the caller"),
            Action::StartProgram { .. } => self.write_program(command),
            Action::SendSignal { signal, .. } => write!(command, "kill -{signal}"),
            Action::LetGo { .. } => command.write_str("go # for a program that waits"),
            Action::ReportStarted { .. } => {
                command.write_str("sendmsg # to the caller, with a pidfd")
            }
            Action::CarryOut { .. } => self.write_order(command),
            Action::Welcome { .. } => command.write_str("sendmsg # to the peer, with a pidfd"),
            Action::TurnAway => command.write_str("sendmsg # to the peer"),
            Action::Bury => command.write_str("wait # for all that was killed"),
            Action::BuildView | Action::RunInit => {
                match (self.conf_failed_at, self.conf.as_ref().and_then(conf_in)) {
                    (Some(at), Some(conf)) => conf::describe(at, &conf, command),
                    _ => Ok(()),
                }
            }
            Action::ReportObeyed { .. }
            | Action::ReportNotStarted { .. }
            | Action::Answer { .. }
            | Action::ReportExit { .. } => command.write_str("sendmsg # to the caller"),
            Action::HangUp { .. } => command.write_str("close # the caller's connection"),
            Action::KillLate => command.write_str("kill -9"),
            Action::Reap => command.write_str("wait"),
            Action::FindStrangers => command.write_str("ls /proc"),
            Action::Rest => command.write_str("sleep 1"),
            Action::Settle => command.write_str("kill -9 -1; sync -f .rocker"),
            Action::ReportFailure(_) => Ok(()),
        }
    }

    /// The part of a program's start that failed.
    fn write_program(&self, command: &mut Command) -> core::fmt::Result {
        let Some((exec, _)) = exec_in(&self.order) else { return Ok(()) };
        programs::describe(self.failed_at, &exec, command)
    }

    /// What an order is about.
    fn write_order(&self, command: &mut Command) -> core::fmt::Result {
        match self.order.last() {
            Some(Message::Client(ClientMessage::Delete { path, tree: false, .. })) => {
                write!(command, "rm -d {path}")
            }
            Some(Message::Client(ClientMessage::Delete { path, .. })) => {
                write!(command, "rm -r {path}")
            }
            Some(Message::Client(ClientMessage::Symlink { target, path, .. })) => {
                write!(command, "ln -s {target} {path}")
            }
            Some(Message::Client(ClientMessage::Conf { .. })) => {
                command.write_str("configure # once, before the first program")
            }
            Some(Message::Client(ClientMessage::Reset { .. })) => command.write_str("kill -9 -1"),
            Some(Message::Client(ClientMessage::Adopt { .. })) => {
                command.write_str("wait # for a program that its launcher has left")
            }
            _ => Ok(()),
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

/// A `/proc`, in which others are looked for from now on.
fn proc_to_look_in(reaper: &mut Reaper) -> Result<OwnedFd, Refusal> {
    let proc = mounts::proc()?;
    reaper.look_in(proc.as_fd())?;
    Ok(proc)
}

/// What stands for the guard itself.
fn entrance() -> Result<OwnedFd, Errno> {
    pidfd_open(Pid::INIT, PidfdFlags::empty()).map_err(socket::errno)
}

/// Whether a descriptor stands for a process. Anything else could keep the guard waiting for
/// something that is no App, or in the kernel of a file system that never answers.
fn is_pidfd(fd: &OwnedFd) -> bool {
    let ask = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // The App is not PID 1's child, so the answer for a process is ECHILD.
    !matches!(
        waitid(WaitId::PidFd(fd.as_fd()), ask),
        Err(rustix::io::Errno::BADF | rustix::io::Errno::INVAL)
    )
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

/// Shows the caller a step. One that does not read loses its trace, not its App.
fn open_all(files: &OpenFiles<'_>, work_dir: &[u8]) -> Opened {
    let mut opened = Opened { errnos: heapless::Vec::new(), files: Descriptors::new() };
    for file in files {
        let errno = match files::open(file, work_dir) {
            Ok(file) => opened.files.push(file).map_or(Errno::MFILE, |()| Errno(0)),
            Err(errno) => socket::errno(errno),
        };
        let _ = opened.errnos.push(errno);
    }
    opened
}

fn show(peers: &Peers, message: &Message<'_>, outbox: &mut Buffer) {
    let client = peers.socket(Peer::OWNER);
    // A caller that is gone by now is found out at root.5.
    let _ = client.map(|client| socket::send(client, message, &[], outbox));
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
