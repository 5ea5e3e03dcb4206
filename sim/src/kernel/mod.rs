//! A kernel with what the machines touch and nothing else. It refuses what Linux refuses, which
//! `operations.txt` holds against Linux; each rule names its paragraph of KERNEL.md. What Linux
//! would allow but nobody may ever ask for is a [`Violation`], which ends the world.
//!
//! ```text
//! process   who is whose child, in which PID namespace; root.12 to root.14
//! socket    descriptors, and the sockets they go through
//! mount     loop devices and mounts: prepare.1 to prepare.5, overlay.1
//! overlay   prepare.4: what of it outlives a rocker
//! cgroup    root.2, and who is in one
//! identity  privileges and ids: prepare.6, prepare.8; the way in: enter.2, enter.3
//! ```

mod cgroup;
mod identity;
mod mount;
mod overlay;
mod process;
mod socket;

use core::fmt;

use protocol::{Actor, Errno, Exit, Loss, Name, Step};

use crate::fault::{Call, Fault, Plan, Who};
use crate::message::{Message, Verdict};
use crate::violation::Violation;
pub(crate) use overlay::Seal;

pub(crate) type Answer<T = ()> = Result<T, Errno>;

/// A process number. The fake kernel never gives one twice, so that it notices whoever means a
/// process that is gone.
pub(crate) type Pid = u32;

/// The host's `init`.
pub(crate) const INIT: Pid = 1;

/// The host's mount, PID and user namespaces.
pub(crate) const HOST: usize = 0;

/// Messages that wait unread in a socket before a sender is refused.
pub(crate) const QUEUE_MAX: usize = 64;

/// Connections that wait for the master's `accept`.
pub(crate) const BACKLOG_MAX: usize = 16;

pub(crate) const CONNRESET: Errno = Errno(104);
const NOTSOCK: Errno = Errno(88);
const CHILD: Errno = Errno(10);
const NODEV: Errno = Errno(19);

/// An open file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fd {
    Socket {
        connection: usize,
        side: usize,
    },
    Pidfd(Pid),
    /// Which file.
    Package(u8),
    /// `.rocker` of a data dir, locked: the lock is the open file's.
    Lock {
        data: u8,
    },
    /// `.rocker` again, as opened in this namespace.
    Layers {
        data: u8,
        space: usize,
    },
    Loop(usize),
    Tree(usize),
    /// `cgroup.procs`, to be written to.
    Cgroup(usize),
    /// What Landlock is to enforce.
    Ruleset,
    /// A program's input, output or errors.
    Stream,
}

/// What a descriptor is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// Between caller and master, then between caller and guard.
    Connection,
    /// Between master and guard.
    Link,
    Package,
    LoopDevice,
    PackageMount,
    /// The mount that all rockers of a package are made from.
    SharedMount,
    /// The rocker's own devices.
    Dev,
    Lock,
    Layers,
    LayerOfRoot,
    LayerOfVar,
    Entrance,
    App,
    Cgroup,
    /// Between a guard and those who were attached.
    Attached,
    AttachedToo,
    /// For whom a guard has no room.
    Newcomer,
    /// Where a guard finds those whom its master passes on, and the end that the master takes.
    Intake,
    IntakeOutside,
    Ruleset,
}

const ROLES: usize = 20;

/// A table of descriptors: a process', shared with its helper, or one session's of the master.
#[derive(Clone, Debug)]
struct Table {
    owner: Pid,
    sharers: u8,
    slots: [Option<Fd>; ROLES],
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Life {
    Alive,
    /// PID 1 of a rocker that has ended, but whose end is not reported before the last zombie
    /// in it was reaped by its parent outside (A44).
    Ending,
    Zombie,
    Reaped,
}

/// What a process may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Capabilities {
    /// Root's.
    All,
    /// `CAP_SYS_ADMIN` alone, on the host.
    Admin,
    /// All in its own user namespace, none outside it.
    Inside,
    None,
}

/// A process.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) who: Who,
    pub(crate) parent: Pid,
    pub(crate) life: Life,
    /// Whose PID namespace it is in, whose its children will be in, whose mounts it sees, whose
    /// ids it has. They part only in a helper (A21, A34).
    pids: usize,
    children_pids: usize,
    mounts: usize,
    user: usize,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// As whom it writes.
    file_id: u32,
    /// Whether it has supplementary groups of the host's.
    pub(crate) groups: bool,
    pub(crate) capabilities: Capabilities,
    /// Landlock bounds it, and its children.
    pub(crate) walled: bool,
    pub(crate) name: Option<Name>,
    /// Its process group: the first of its session, and whoever came of that.
    group: Pid,
    /// One of a rocker's.
    cgroup: Option<usize>,
    /// How it ended, once it has.
    pub(crate) ended: Exit,
    /// Whether it waits before it executes.
    pub(crate) gate: Gate,
    /// Why it could not execute, when it had waited.
    pub(crate) failure: Option<Errno>,
    /// SIGTERM is nothing to it.
    pub(crate) ignores: bool,
    /// Its filter has stopped it at a call, and the guard is to say what to do.
    pub(crate) asks: bool,
    /// The guard has heard of it.
    pub(crate) denied: bool,
    /// When its time was over and it was told so.
    pub(crate) warned_ms: Option<u64>,
}

/// What a program is stopped at between its clone and its execution.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Gate {
    None,
    Shut,
    Open,
    Passed,
}

/// The namespaces that one guard is cloned into, and the user namespace it makes.
#[derive(Clone, Debug, Default)]
struct Space {
    init: Pid,
    /// The host's mounts that it has a copy of, by the number of their changes until then.
    born: u32,
    pids_ended: bool,
    /// Processes in the PID namespace that are not reaped, PID 1 left out.
    members: u16,
    /// Processes that see these mounts. With the last one the mounts go.
    viewers: u16,
    private: bool,
    mounts: Vec<Mount>,
    /// prepare.6
    user: bool,
    setgroups_denied: bool,
    uid_map: Option<u32>,
    gid_map: Option<u32>,
    /// prepare.9
    pub(crate) released: bool,
}

/// Something attached: on which mount of this namespace (none is the host's root), and where.
#[derive(Clone, Copy, Debug)]
struct Mount {
    tree: usize,
    on: Option<usize>,
    at: &'static str,
}

/// What can be attached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TreeKind {
    Package {
        device: usize,
    },
    /// A writable layer, or the part of it for one directory. `made` in this namespace.
    Overlay {
        data: u8,
        layer: u16,
        made: usize,
    },
    /// A mount of the host's, or a read-only copy of it.
    Host,
    Proc,
    /// Of a `/dev` that is not the host's.
    Dev,
}

/// A mount with or without a place. It goes when it has neither place nor descriptor.
#[derive(Clone, Copy, Debug)]
struct Tree {
    kind: TreeKind,
    fds: u8,
    places: u8,
}

#[derive(Clone, Copy, Debug, Default)]
struct LoopDevice {
    bound: bool,
    /// Which package; none of ours for a stranger's.
    package: Option<u8>,
    fds: u8,
    mounts: u8,
}

#[derive(Clone, Debug, Default)]
struct End {
    fds: u8,
    inbox: Vec<Message>,
    /// The reading half is shut down: what comes is refused to its sender.
    deaf: bool,
    /// The writing half is shut down: the far end hears the end.
    mute: bool,
    /// The other end has gone without reading everything: told once, before what is here.
    reset: bool,
    /// `SO_PASSRIGHTS`: descriptors are refused to their sender.
    refuses: bool,
}

#[derive(Clone, Debug, Default)]
struct Connection {
    ends: [End; 2],
    /// The last that the caller was sent of its launch.
    verdict: Verdict,
    cut: bool,
    /// Who has called `connect`.
    uid: u32,
    /// `SO_SNDBUFFORCE`: there is room for any answer.
    wide: bool,
}

/// A line of `/run/rocker/rockers`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Record {
    pub(crate) name: Name,
    pub(crate) guard: Pid,
    pub(crate) launch: usize,
    pub(crate) owner: u32,
}

/// What an attempt to receive gave.
#[derive(Debug)]
pub(crate) enum Received {
    Message(Message),
    /// Nothing more will come, or what came was nonsense; its descriptors are closed.
    Lost(Loss),
    Empty,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) now_ms: u64,
    /// Whose turn it is.
    pub(crate) acting: Option<Who>,
    pub(crate) calls: u32,
    pub(crate) plan: Plan,
    /// Every call with its caller, if somebody wants to know them.
    pub(crate) called: Option<Vec<(Call, Actor)>>,
    /// The transcript, if somebody wants to read it.
    pub(crate) transcript: Option<Vec<String>>,
    consequences: Vec<String>,
    /// The earliest deadline of all who have waited since the clock last stood still.
    pub(crate) next_deadline_ms: u64,
    pub(crate) violation: Option<Violation>,
    /// How often the host has changed its mounts.
    pub(crate) mounts: u32,
    pub(crate) processes: Vec<Process>,
    pub(crate) backlog: Vec<usize>,
    pub(crate) listening: bool,
    pub(crate) queue_max: usize,
    /// Linux before 6.15: only what is attached can be cloned (A14).
    pub(crate) is_old: bool,
    /// The socket's file outlives whoever listened there.
    has_socket: bool,
    pub(crate) records: Vec<Record>,
    tables: Vec<Table>,
    connections: Vec<Connection>,
    spaces: Vec<Space>,
    trees: Vec<Tree>,
    loops: Vec<LoopDevice>,
    locks: Vec<(u8, u8)>,
    cgroups: Vec<cgroup::Cgroup>,
    overlays: Vec<overlay::Overlay>,
    /// The data dirs whose layers were removed, once for each time.
    wiped: Vec<u8>,
    names: u64,
}

impl Kernel {
    pub(crate) fn new() -> Self {
        let init = Process {
            who: Who::Master,
            parent: 0,
            life: Life::Alive,
            pids: HOST,
            children_pids: HOST,
            mounts: HOST,
            user: HOST,
            uid: 0,
            gid: 0,
            file_id: 0,
            groups: true,
            capabilities: Capabilities::All,
            walled: false,
            name: None,
            group: INIT,
            cgroup: None,
            ended: Exit::Status(0),
            gate: Gate::None,
            failure: None,
            ignores: false,
            asks: false,
            denied: false,
            warned_ms: None,
        };
        let nobody = Process { life: Life::Reaped, ..init.clone() };
        let host = Space { viewers: 1, private: true, ..Space::default() };
        let (processes, spaces) = (vec![nobody, init], vec![host]);
        Self { processes, spaces, queue_max: QUEUE_MAX, ..Self::default() }
    }

    /// One more line of the transcript; not even made if nobody reads it.
    pub(crate) fn say(
        &mut self,
        step: Option<Step>,
        who: impl fmt::Display,
        words: impl FnOnce() -> String,
    ) {
        if let Some(transcript) = &mut self.transcript {
            transcript.push(line(step, who, &words()));
            transcript.append(&mut self.consequences);
        }
    }

    /// What the kernel does because of an action is told after the action.
    fn consequence(&mut self, step: Step, words: impl FnOnce() -> String) {
        if self.transcript.is_some() {
            self.consequences.push(line(Some(step), Actor::Kernel, &words()));
        }
    }

    /// Nobody has anything more to say in this turn.
    pub(crate) fn end_turn(&mut self) {
        if let Some(transcript) = &mut self.transcript {
            transcript.append(&mut self.consequences);
        }
    }

    /// Whether a deadline has passed; if not, the clock will not go beyond it.
    pub(crate) fn is_late(&mut self, deadline_ms: u64) -> bool {
        self.next_deadline_ms = self.next_deadline_ms.min(deadline_ms);
        self.now_ms >= deadline_ms
    }

    /// The first rule that was broken is the one that counts.
    pub(crate) fn violated(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    /// Begins a call: it is counted, and refused if the plan says so.
    pub(crate) fn begin(&mut self, call: Call) -> Result<(), Fault> {
        let index = self.calls;
        self.calls += 1;
        let by = self.acting.map_or(Actor::Kernel, Who::actor);
        if let Some(called) = &mut self.called {
            called.push((call, by));
        }
        self.plan.at_call(index, call, by).map_or(Ok(()), Err)
    }

    /// The same for a call that sends nothing, of which only a refusal makes sense.
    pub(crate) fn call(&mut self, call: Call) -> Answer {
        match self.begin(call) {
            Err(Fault::Refuse(errno)) => Err(errno),
            _ => Ok(()),
        }
    }

    pub(crate) fn new_name(&mut self) -> Name {
        self.names += 1;
        Name::from_random(self.names)
    }

    /// Whether this name was ever given.
    pub(crate) fn has_named(&self, name: Name) -> bool {
        (1..=self.names).any(|number| Name::from_random(number) == name)
    }

    /// Everything that somebody should have freed, in words.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = vec![];
        for (index, process) in self.processes.iter().enumerate().skip(2) {
            let in_rocker = matches!(process.who, Who::Guard(_) | Who::App(_) | Who::Helper(_));
            if in_rocker && process.life != Life::Reaped {
                left.push(format!("process {index}, {}, {:?}", process.who, process.life));
            }
        }
        for (index, device) in self.loops.iter().enumerate().filter(|(_, device)| device.bound) {
            left.push(format!("/dev/loop{index}, {} mounts", device.mounts));
        }
        for tree in self.trees.iter().filter(|tree| tree.fds > 0 || tree.places > 0) {
            left.push(format!("a mount, {:?}", tree.kind));
        }
        for (data, _) in &self.locks {
            left.push(format!("the lock of data dir {data}"));
        }
        for name in self.cgroups() {
            left.push(format!("the cgroup of {name}"));
        }
        for record in &self.records {
            left.push(format!("the record of {}", record.name));
        }
        for (index, connection) in self.connections.iter().enumerate() {
            for (side, end) in connection.ends.iter().enumerate() {
                if end.fds > 0 {
                    left.push(format!("end {side} of connection {index}"));
                }
            }
        }
        left
    }

    /// The same in one look, without words.
    pub(crate) fn is_clean(&self) -> bool {
        self.records.is_empty()
            && self.cgroups().next().is_none()
            && self.locks.is_empty()
            && self.loops.iter().all(|device| !device.bound)
            && self.trees.iter().all(|tree| tree.fds == 0 && tree.places == 0)
            && self.connections.iter().all(|it| it.ends.iter().all(|end| end.fds == 0))
            && self.processes.iter().skip(2).all(|process| {
                process.life == Life::Reaped || matches!(process.who, Who::Client(_) | Who::Master)
            })
    }

    /// One owner for each end of a connection, in flight or not.
    pub(crate) fn shared_end(&self) -> Option<usize> {
        self.connections.iter().position(|it| it.ends.iter().any(|end| end.fds > 1))
    }
}

/// What the master writes at prepare.8.
#[derive(Clone, Copy, Debug)]
pub(crate) enum IdMap {
    DenySetgroups,
    Uid(u32),
    Gid(u32),
}

fn line(step: Option<Step>, who: impl fmt::Display, words: &str) -> String {
    let step = step.map(|step| step.to_string()).unwrap_or_default();
    format!("{step:<10} {who:<9} {words}").trim_end().to_owned()
}

fn pid_index(pid: Pid) -> usize {
    usize::try_from(pid).unwrap_or(0)
}

fn pid_of(index: usize) -> Pid {
    Pid::try_from(index).unwrap_or(0)
}
