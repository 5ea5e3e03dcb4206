//! The master's driver and its one thread: what `master/src/{linux,event_loop,sessions,residue}.rs`
//! do, over the fake kernel.
//!
//! A turn of the master is one action of one session. As in the event loop, a session runs until
//! it has to wait; then the next one does that the last look found something for; then the master
//! looks again: first for children that have ended, then for callers, then at its launches.

use core::fmt;
use core::task::Poll;
use std::rc::Rc;

use master::action::Action;
use master::looks::Looks;
use master::machine::{Outcome, Session, State, Wants};
use master::overlays::{self, Away, Overlays};
use master::packages::{Found, Key, Lease, Packages};
use master::policy::{Caller, Config, Load};
use master::pool::{Pool, Ready};
use protocol::limits::{GRACE_MS, HELLO_MS, MOUNT_PATIENCE_MS};
use protocol::{Driver, Errno, Error, Exit, Item, Loss, Machine, Name, Package, Rule, Step};

use crate::coverage::Coverage;
use crate::fault::{Call, Who};
use crate::guard::GuardActor;
use crate::kernel::{Answer, Fd, IdMap, Kernel, Pid, Received, Record, Role, Seal, TreeKind};
use crate::message::{Body, Message};
use crate::scene::{Launch, PRIVATE_PACKAGE, ROOT};
use crate::violation::Violation;
use crate::words;

const NS_PER_MS: u64 = 1_000_000;

/// How many there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rockers alive at once.
    pub rockers: usize,
    /// Connections that are not yet a living rocker.
    pub launches: usize,
}

impl Limits {
    /// A configuration with these, in which root alone may do anything.
    pub(crate) fn config(self) -> Config {
        let (max_rockers, max_launches) = (self.rockers, self.launches);
        let (ready_guards, max_overlays) = (0, 0);
        Config { max_rockers, max_launches, ready_guards, max_overlays, ..Config::default() }
    }
}

impl Default for Limits {
    /// As in `master/src/policy.rs`.
    fn default() -> Self {
        Self { rockers: 4096, launches: 256 }
    }
}

/// The master's process.
#[derive(Debug)]
pub(crate) struct MasterActor {
    pub(crate) pid: Pid,
    pub(crate) sessions: Vec<Slot>,
    /// What the last look found, the next one last.
    ready: Vec<usize>,
    config: Rc<Config>,
    /// What is mounted, each in a table of its own.
    packages: Packages<usize>,
    overlays: Overlays<Kept>,
    /// What is done to them beside all else.
    errands: Vec<Away<Kept>>,
    looks: Looks,
    /// The threads that look.
    lookers: Vec<Looker>,
    /// Who waits, each with a table of its own.
    pool: Pool<usize>,
    /// The host's mounts, as it knows them.
    mounts: u32,
    /// What could not be freed stays on record for the next start.
    pub(crate) has_debts: bool,
    /// Cgroups that could not be removed yet.
    pub(crate) unremoved: Vec<Name>,
}

/// Overlays and their lock, in a table of their own, and what they are.
#[derive(Clone, Copy, Debug)]
struct Kept {
    table: usize,
    seal: Seal,
}

/// A thread that looks at a path of a caller's, or the one that makes cgroups.
#[derive(Clone, Copy, Debug)]
struct Looker {
    session: usize,
    user: u32,
    ends_ms: u64,
    /// Whose cgroup it makes then.
    makes: Option<Name>,
}

/// What a session knows of such a thread.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Look {
    Due,
    UnderWay,
    Done,
}

/// One connection, from its request to the end of its rocker.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) machine: Session,
    held: Held,
    place: Place,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    Launching,
    Living,
    Gone,
}

/// What a session holds.
#[derive(Debug)]
struct Held {
    table: usize,
    /// Who asks, or has asked.
    uid: u32,
    /// What was asked for, once that is known.
    launch: Option<usize>,
    rocker: Option<Record>,
    /// Whose cgroup there is, or may be.
    limited: Option<Name>,
    exited: bool,
    adopted: bool,
    /// The master can do nothing more about its guard: it has gone on, or cannot be killed.
    let_go: bool,
    waiters: Vec<usize>,
    package: Package,
    lease: Option<Lease<usize>>,
    overlays: Option<overlays::Lease<Kept>>,
    look: Look,
    /// The cgroup that a thread has made.
    made: Option<Answer<Fd>>,
    /// Whether its data dir was found already.
    has_found: bool,
    /// When to look at it again while it waits for another.
    wakes_ms: u64,
    /// Until when to wait for a look, and for its data dir.
    gives_up_ms: u64,
    /// Until when to wait for a launch that mounts its package.
    patience_ms: u64,
    deadline_ms: u64,
    /// Whether the caller wants to see every step.
    trace: bool,
}

/// Puts a session's connection where its guard will take it out.
fn pack(kernel: &mut Kernel, table: usize) -> Answer<Fd> {
    let [ours, parcel] = kernel.socketpair();
    kernel.install(table, Role::Intake, ours);
    kernel.install(table, Role::Newcomer, parcel);
    let connection = kernel.fd(table, Role::Connection)?;
    kernel.send(table, Role::Intake, Body::Newcomer, &[connection])?;
    kernel.close(table, Role::Connection);
    Ok(parcel)
}

/// Takes it out again.
fn unpack(kernel: &mut Kernel, table: usize) {
    if let Ok(Received::Message(message)) = kernel.receive(table, Role::Newcomer) {
        message.fds.into_iter().flatten().for_each(|connection| {
            kernel.install(table, Role::Connection, connection);
        });
        kernel.drop_message(message);
    }
}

/// All that a turn of the master touches.
pub(crate) struct Around<'a> {
    pub(crate) kernel: &'a mut Kernel,
    pub(crate) guards: &'a mut Vec<GuardActor>,
    pub(crate) scenes: &'a [Launch],
    pub(crate) coverage: &'a mut Coverage,
}

impl MasterActor {
    /// A new master. It knows the living rockers of the one before it.
    pub(crate) fn start(kernel: &mut Kernel, config: Rc<Config>) -> Self {
        let pid = kernel.fork(crate::kernel::INIT, Who::Master);
        kernel.listen();
        let packages = Packages::new(config.max_packages, config.package_idle_ms);
        let overlays = Overlays::new(config.max_overlays, config.overlay_idle_ms);
        let pool = Pool::new(config.ready_guards);
        let mounts = kernel.mounts;
        let mut master = Self {
            pid,
            sessions: vec![],
            ready: vec![],
            config,
            packages,
            overlays,
            errands: vec![],
            looks: Looks::default(),
            lookers: vec![],
            pool,
            mounts,
            has_debts: false,
            unremoved: vec![],
        };
        let known = core::mem::take(&mut kernel.records);
        for record in known {
            let is_it = kernel.process(record.guard).name == Some(record.name);
            if is_it && !kernel.has_ended(record.guard) {
                kernel.say(None, "master", || format!("rocker {} lives on", record.name));
                kernel.records.push(record);
                let table = kernel.new_table(pid);
                let (rocker, uid) = (Some(record), record.owner);
                let limited = Some(record.name);
                let held = Held { rocker, uid, adopted: true, limited, ..Held::new(table, 0) };
                let machine = Session::adopted();
                master.sessions.push(Slot { machine, held, place: Place::Living });
            } else {
                kernel.say(None, "master", || format!("rocker {} is gone", record.name));
            }
        }
        let lives = |name: &Name| kernel.records.iter().any(|record| record.name == *name);
        let left: Vec<Name> = kernel.cgroups().filter(|name| !lives(name)).collect();
        left.into_iter().for_each(|name| master.remove_cgroup(kernel, name));
        master
    }

    /// Other rules, before anybody has called.
    pub(crate) fn configure(&mut self, config: Rc<Config>) {
        self.packages = Packages::new(config.max_packages, config.package_idle_ms);
        self.overlays = Overlays::new(config.max_overlays, config.overlay_idle_ms);
        self.pool = Pool::new(config.ready_guards);
        self.config = config;
    }

    /// root.15: now, or as soon as the kernel lets it go; by the thread that makes them, so after
    /// that.
    fn remove_cgroup(&mut self, kernel: &mut Kernel, name: Name) {
        let is_to_be_made = self.lookers.iter().any(|looker| looker.makes == Some(name));
        if is_to_be_made || !matches!(kernel.remove_cgroup(name), Ok(()) | Err(Errno::NOENT)) {
            self.unremoved.push(name);
        }
    }

    /// One action of one session; false if there is nothing to do.
    pub(crate) fn turn(&mut self, around: &mut Around<'_>) -> bool {
        loop {
            while let Some(&session) = self.ready.last() {
                if self.step(session, around) {
                    return true;
                }
                self.ready.retain(|&other| other != session);
            }
            let let_go = self.look(around);
            if self.ready.is_empty() {
                return let_go || self.stock(around);
            }
        }
    }

    /// prepare.0 for whoever comes next.
    fn stock(&mut self, around: &mut Around<'_>) -> bool {
        let is_idle = |slot: &Slot| match slot.machine.state() {
            State::AwaitRequest | State::OpenPackage(_) => true,
            State::LockDataDir { .. } => !slot.held.has_found,
            _ => slot.place != Place::Launching,
        };
        if !self.sessions.iter().all(is_idle) {
            return false;
        }
        let now_ns = around.kernel.now_ms * NS_PER_MS;
        if !self.pool.is_short(now_ns) {
            let due_ns = self.pool.due_ns();
            if due_ns < u64::MAX {
                around.kernel.is_late(due_ns.div_ceil(NS_PER_MS));
            }
            return false;
        }
        match self.clone_guard(around) {
            Ok(ready) => {
                around.kernel.say(None, "master", || format!("guard {} is ready", ready.pid));
                self.pool.put(ready);
            }
            Err(_) => self.pool.give_up(),
        }
        true
    }

    /// prepare.0
    fn clone_guard(&self, around: &mut Around<'_>) -> Answer<Ready<usize>> {
        around.kernel.call(Call::Socketpair)?;
        let [ours, theirs] = around.kernel.socketpair();
        let pid = around.kernel.clone_guard(self.pid, around.guards.len())?;
        let link = around.kernel.new_table(self.pid);
        around.kernel.install(link, Role::Link, ours);
        let actor = GuardActor::new(around.kernel, pid, theirs);
        around.guards.push(actor);
        Ok(Ready { pid, link })
    }

    /// Lets go of guards that were cloned before a change of the host's mounts; whether there are
    /// any.
    fn notice_mounts(&mut self, kernel: &mut Kernel) -> bool {
        if core::mem::replace(&mut self.mounts, kernel.mounts) == kernel.mounts {
            return false;
        }
        self.overlays.discard();
        self.let_go(kernel)
    }

    /// The same as by its own end.
    pub(crate) fn dismiss(&mut self, kernel: &mut Kernel) -> bool {
        let had_any = self.let_go(kernel);
        self.pool = Pool::new(0);
        had_any
    }

    fn let_go(&mut self, kernel: &mut Kernel) -> bool {
        let waiting = self.pool.discard(kernel.now_ms * NS_PER_MS);
        let had_any = !waiting.is_empty();
        waiting.into_iter().for_each(|ready| kernel.close_table(ready.link));
        had_any
    }

    /// One turn of the loop's `poll`: what has happened becomes sessions that can go on. Whether
    /// it has let go of guards, which hear of that.
    fn look(&mut self, around: &mut Around<'_>) -> bool {
        let kernel = &mut *around.kernel;
        for name in core::mem::take(&mut self.unremoved) {
            self.remove_cgroup(kernel, name);
        }
        let mut let_go = self.notice_mounts(kernel);
        for ready in self.pool.surplus(kernel.now_ms * NS_PER_MS) {
            kernel.close_table(ready.link);
            let_go = true;
        }
        let_go |= self.run_errands(kernel);
        self.heed_lookers(kernel);
        let has_looked = self.looks.has_news();
        let has_news = self.packages.has_news() | self.overlays.has_news() | has_looked;
        for mount in self.packages.expired(kernel.now_ms * NS_PER_MS) {
            kernel.close_table(mount);
        }
        let expires_ns = self.packages.expires_ns();
        if expires_ns < u64::MAX {
            // Nothing is ready then but this look.
            kernel.is_late(expires_ns.div_ceil(NS_PER_MS));
        }
        // The snapshot comes first; what is done about one event may change another's cause.
        let mut launching = vec![];
        for (index, slot) in self.sessions.iter().enumerate() {
            if slot.place != Place::Launching {
                continue;
            }
            if slot.machine.awaits_another() {
                if kernel.is_late(slot.held.wakes_ms) || has_news {
                    launching.push(index);
                }
                continue;
            }
            let role = match kernel.fd(slot.held.table, Role::Link) {
                Ok(_) => Role::Link,
                Err(_) => Role::Connection,
            };
            let is_late = kernel.is_late(slot.held.deadline_ms);
            if is_late || kernel.is_readable(slot.held.table, role) {
                launching.push(index);
            }
        }
        let mut adopted = vec![];
        for (index, slot) in self.sessions.iter().enumerate() {
            let guard = slot.held.rocker.map(|rocker| rocker.guard).filter(|_| slot.held.adopted);
            if slot.place == Place::Living && guard.is_some_and(|guard| kernel.has_ended(guard)) {
                adopted.push(index);
            }
        }
        let mut order = vec![];
        while let Ok(Some(pid)) = kernel.wait_any(self.pid) {
            if let Some(lost) = self.pool.lose(pid, kernel.now_ms * NS_PER_MS) {
                kernel.close_table(lost.link);
            }
            let is_well = kernel.process(pid).ended == Exit::Status(0);
            order.extend(self.has_exited(pid, is_well));
        }
        while let Some(session) = self.take_in(kernel) {
            order.push(session);
        }
        for index in adopted {
            self.sessions[index].held.exited = true;
            order.push(index);
        }
        // From the last to the first, as in the loop.
        order.extend(launching.into_iter().rev());
        order.reverse();
        self.ready = order;
        let_go
    }

    /// Threads that are done with their look, whether anybody still waits for it or not.
    fn heed_lookers(&mut self, kernel: &mut Kernel) {
        let Self { lookers, looks, sessions, .. } = self;
        lookers.retain(|looker| {
            let is_done = kernel.is_late(looker.ends_ms);
            if is_done {
                looks.end(looker.user);
                let held = &mut sessions[looker.session].held;
                held.look = Look::Done;
                held.made = looker.makes.map(|name| kernel.make_cgroup(name));
            }
            !is_done
        });
    }

    /// root.11. A launching session only remembers; its socket moves it on.
    fn has_exited(&mut self, pid: Pid, is_well: bool) -> Option<usize> {
        let is_it = |slot: &Slot| slot.held.rocker.is_some_and(|rocker| rocker.guard == pid);
        let index =
            self.sessions.iter().position(|slot| slot.place != Place::Gone && is_it(slot))?;
        self.sessions[index].held.exited = true;
        if let (Some(overlays), true) = (&self.sessions[index].held.overlays, is_well) {
            overlays.ended_well();
        }
        (self.sessions[index].place == Place::Living).then_some(index)
    }

    /// What threads do: first those of the last look. Whether there are any.
    fn run_errands(&mut self, kernel: &mut Kernel) -> bool {
        let done = core::mem::take(&mut self.errands);
        let has_any = !done.is_empty();
        for Away { key, kept, has_ended_well, is_over } in done {
            let is_ready = !is_over && make_ready(kernel, kept.table, has_ended_well).is_ok();
            if !is_ready {
                kernel.close_table(kept.table);
            }
            self.overlays.is_back(key, Some(kept).filter(|_| is_ready));
        }
        self.errands = self.overlays.leave(kernel.now_ms * NS_PER_MS);
        let leaves_ns = self.overlays.leaves_ns();
        if leaves_ns < u64::MAX {
            kernel.is_late(leaves_ns.div_ceil(NS_PER_MS));
        }
        has_any || !self.errands.is_empty()
    }

    /// How many there are, as `sessions.rs` counts: a launch that is admitted is as good as a
    /// rocker.
    fn load(&self, uid: u32) -> Load {
        let mut load = Load::default();
        for slot in self.sessions.iter().filter(|slot| slot.place != Place::Gone) {
            let (is_theirs, is_launching) = (slot.held.uid == uid, slot.place == Place::Launching);
            let is_rocker = slot.place == Place::Living || slot.is_admitted();
            load.rockers += usize::from(is_rocker);
            load.rockers_of_caller += usize::from(is_rocker && is_theirs && uid != ROOT);
            load.launches += usize::from(is_launching);
            load.launches_of_caller += usize::from(is_launching && is_theirs);
            load.launches_of_strangers += usize::from(is_launching && !self.knows(slot.held.uid));
        }
        load
    }

    fn knows(&self, uid: u32) -> bool {
        self.config.knows(&Caller::new(uid, uid, 0))
    }

    /// root.1: a caller more, or one too many.
    fn take_in(&mut self, kernel: &mut Kernel) -> Option<usize> {
        loop {
            let table = kernel.new_table(self.pid);
            if !kernel.accept(table) {
                return None;
            }
            let uid = kernel.peer_uid(table, Role::Connection);
            let mut load = self.load(uid);
            load.launches += 1;
            load.launches_of_caller += 1;
            load.launches_of_strangers += usize::from(!self.knows(uid));
            if self.config.admits(&Caller::new(uid, uid, 0), load) {
                let deadline_ms = kernel.now_ms + u64::from(HELLO_MS);
                let held = Held { uid, ..Held::new(table, deadline_ms) };
                let machine = Session::default();
                self.sessions.push(Slot { machine, held, place: Place::Launching });
                return Some(self.sessions.len() - 1);
            }
            let _ = kernel.send(table, Role::Connection, Body::Failed(TOO_MANY), &[]);
            kernel.close_table(table);
        }
    }

    /// One action of this session; false if it has to wait or has ended.
    fn step(&mut self, index: usize, around: &mut Around<'_>) -> bool {
        let Some(step) = self.sessions[index].machine.step() else { return false };
        let action = self.sessions[index].machine.action();
        let mut work = AtWork { master: self, index, around };
        let Poll::Ready(outcome) = work.perform(step, action) else {
            self.settle(index, around.kernel);
            return false;
        };
        let slot = &mut self.sessions[index];
        let before = slot.machine.state();
        let number = slot.held.launch;
        around.kernel.say(Some(step), Numbered(number), || {
            let scene = number.and_then(|number| around.scenes.get(number));
            words::session(before, outcome, slot.held.rocker, scene, number)
        });
        around.coverage.session(before, outcome);
        slot.held.let_go |= is_let_go(before, outcome);
        self.has_debts |= matches!((before, outcome), (State::FreeResidue, Outcome::Failed(_)));
        slot.machine.advance(outcome);
        self.settle(index, around.kernel);
        true
    }

    /// Puts a session where it belongs: a living rocker holds no descriptor.
    fn settle(&mut self, index: usize, kernel: &mut Kernel) {
        let slot = &mut self.sessions[index];
        match slot.machine.state() {
            State::Ended(_) => {
                let limited = slot.held.limited.take();
                kernel.close_table(slot.held.table);
                for waiter in core::mem::take(&mut slot.held.waiters) {
                    kernel.close_table(waiter);
                }
                slot.held.lease = None;
                slot.held.overlays = None;
                slot.place = Place::Gone;
                limited.into_iter().for_each(|name| self.remove_cgroup(kernel, name));
            }
            State::AwaitExit if slot.held.rocker.is_some() => {
                // What a living rocker holds would be copied at every later spawn.
                kernel.close_table(slot.held.table);
                slot.place = Place::Living;
            }
            _ => {}
        }
    }

    /// Whether it has made this guard and waits for it still: then it kills one that hangs.
    pub(crate) fn answers_for(&self, guard: Pid) -> bool {
        let is_it = |slot: &Slot| slot.held.rocker.is_some_and(|rocker| rocker.guard == guard);
        self.sessions.iter().any(|slot| is_it(slot) && !slot.held.adopted && !slot.held.let_go)
    }

    /// The rockers it knows to be alive.
    pub(crate) fn living(&self) -> impl Iterator<Item = Record> {
        self.sessions.iter().filter(|slot| slot.is_rocker()).filter_map(|slot| slot.held.rocker)
    }
}

/// As `errands.rs` does.
fn make_ready(kernel: &mut Kernel, table: usize, has_ended_well: bool) -> Answer {
    if let (false, Ok(Fd::Lock { data })) = (has_ended_well, kernel.fd(table, Role::Lock)) {
        kernel.sync(data)?;
    }
    [Role::LayerOfRoot, Role::LayerOfVar]
        .into_iter()
        .try_for_each(|role| kernel.fd(table, role).map_or(Ok(()), |tree| kernel.refresh(tree)))
}

/// Whether a session cannot do anything more about its guard.
fn is_let_go(before: State, outcome: Outcome) -> bool {
    match before {
        State::AwaitApp => matches!(outcome, Outcome::Lost(Loss::Died) | Outcome::Failed(_)),
        State::KillGuard => matches!(outcome, Outcome::Failed(_)),
        _ => false,
    }
}

impl Slot {
    /// Root may know of all rockers, others of their own.
    fn may_be_known_to(&self, uid: u32) -> bool {
        uid == ROOT || uid == self.held.uid
    }

    /// Whether the policy lets it be a rocker.
    fn is_admitted(&self) -> bool {
        !matches!(self.machine.state(), State::AwaitRequest | State::CheckCaller(_))
    }

    /// Whether a caller can know of its rocker: it does from root.5 on.
    fn is_rocker(&self) -> bool {
        self.place == Place::Living || self.machine.state() == State::AwaitApp
    }
}

const NO_SUCH_ROCKER: Error = Error::Invalid { rule: Rule::NoSuchRocker, item: Item::Name };

const TOO_MANY: Error = Error::Invalid { rule: Rule::TooManyRockers, item: Item::Request };

impl Held {
    fn new(table: usize, deadline_ms: u64) -> Self {
        Self {
            table,
            uid: ROOT,
            launch: None,
            rocker: None,
            limited: None,
            exited: false,
            adopted: false,
            let_go: false,
            waiters: vec![],
            package: Package::Own,
            lease: None,
            overlays: None,
            look: Look::Due,
            made: None,
            has_found: false,
            wakes_ms: 0,
            gives_up_ms: 0,
            patience_ms: 0,
            deadline_ms,
            trace: false,
        }
    }
}

/// `master`, or `master.2` for the session of launch 2.
struct Numbered(Option<usize>);

impl fmt::Display for Numbered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number @ 1..) => f.pad(&format!("master.{number}")),
            _ => f.pad("master"),
        }
    }
}

/// One session at work.
struct AtWork<'w, 'a> {
    master: &'w mut MasterActor,
    index: usize,
    around: &'w mut Around<'a>,
}

/// Why a step failed: a number of the kernel's, or a rule of ours.
enum Refusal {
    System(Errno),
    Rule(Error),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

impl Driver<Session> for AtWork<'_, '_> {
    fn perform(&mut self, _: Step, action: Action) -> Poll<Outcome> {
        let outcome = self.act(action);
        let is_told = matches!(action, Action::Refuse(_) | Action::StopGuard(_));
        if outcome.is_ready() && !is_told && self.held().trace {
            self.show();
        }
        outcome
    }
}

impl AtWork<'_, '_> {
    fn act(&mut self, action: Action) -> Poll<Outcome> {
        let answer = match action {
            Action::AwaitRequest => return self.await_request(),
            Action::CheckCaller => self.check_caller(),
            Action::OpenPackage => match self.open_package() {
                Ok(Poll::Pending) => return Poll::Pending,
                answer => answer.map(|_| ()),
            },
            Action::LockDataDir => match self.lock_data_dir() {
                Ok(Poll::Pending) => return Poll::Pending,
                answer => answer.map(|_| ()),
            },
            Action::FindMount => return self.find_mount(),
            Action::MakeCgroup => match self.make_cgroup() {
                Ok(Poll::Pending) => return Poll::Pending,
                answer => answer.map(|_| ()),
            },
            Action::CloneGuard => self.clone_guard().map_err(Refusal::System),
            Action::HandOver => self.hand_over().map_err(Refusal::System),
            Action::AwaitMount => return self.await_mount(),
            Action::AwaitDone => return self.await_done(),
            Action::DenySetgroups | Action::WriteUidMap | Action::WriteGidMap => {
                self.write_map(action).map_err(Refusal::System)
            }
            Action::RecordRocker => self.record().map_err(Refusal::System),
            Action::ReleaseGuard => self.say_last(Body::GoOn).map_err(Refusal::System),
            Action::AwaitApp => return self.await_app(),
            Action::AwaitExit if self.held().exited => return Poll::Ready(Outcome::Exited),
            Action::AwaitExit => return Poll::Pending,
            Action::FreeResidue => self.free_residue().map_err(Refusal::System),
            Action::Refuse(error) => self.refuse(error).map_err(Refusal::System),
            Action::StopGuard(error) => self.say_last(Body::Failed(error)).map_err(Refusal::System),
            Action::KillGuard => self.kill_guard().map_err(Refusal::System),
        };
        Poll::Ready(match answer {
            Ok(()) => Outcome::Done,
            Err(Refusal::System(errno)) => Outcome::Failed(errno),
            Err(Refusal::Rule(error)) => Outcome::Refused(error),
        })
    }

    /// A step, to the caller, or to the guard to pass on once it has the caller.
    fn show(&mut self) {
        let table = self.held().table;
        let has = |role: &Role| self.around.kernel.fd(table, *role).is_ok();
        if let Some(role) = [Role::Connection, Role::Link].into_iter().find(has) {
            let _ = self.around.kernel.send(table, role, Body::Step, &[]);
        }
    }

    fn held(&mut self) -> &mut Held {
        &mut self.master.sessions[self.index].held
    }

    fn scene(&mut self) -> Answer<Launch> {
        let number = self.held().launch.ok_or(Errno::PROTO)?;
        self.around.scenes.get(number).copied().ok_or(Errno::PROTO)
    }

    fn guard(&mut self) -> Answer<Pid> {
        self.held().rocker.map(|rocker| rocker.guard).ok_or(Errno::SRCH)
    }

    /// One message, or what its absence means.
    fn receive(&mut self, role: Role) -> Poll<Result<Message, Outcome>> {
        let (table, deadline_ms) = (self.held().table, self.held().deadline_ms);
        let received = match self.around.kernel.receive(table, role) {
            Ok(received) => received,
            Err(errno) => return Poll::Ready(Err(Outcome::Failed(errno))),
        };
        Poll::Ready(Err(Outcome::Lost(match received {
            Received::Message(message) => return Poll::Ready(Ok(message)),
            Received::Lost(how) => how,
            Received::Empty if self.around.kernel.is_late(deadline_ms) => Loss::Silent,
            Received::Empty => return Poll::Pending,
        })))
    }

    /// root.1
    fn await_request(&mut self) -> Poll<Outcome> {
        let message = match self.receive(Role::Connection) {
            Poll::Ready(Ok(message)) => message,
            Poll::Ready(Err(outcome)) => return Poll::Ready(outcome),
            Poll::Pending => return Poll::Pending,
        };
        Poll::Ready(match message.body {
            Body::Launch(number) => {
                let scene = self.around.scenes[number];
                let deadline_ms = self.around.kernel.now_ms + scene.timeout_ms;
                let held = self.held();
                (held.launch, held.deadline_ms) = (Some(number), deadline_ms);
                let answer_ms = u64::from(MOUNT_PATIENCE_MS).min(scene.timeout_ms / 2);
                held.gives_up_ms = deadline_ms - answer_ms;
                held.trace = scene.trace;
                let limits = scene.limited;
                Outcome::RequestIs(Wants { data_dir: scene.has_data_dir(), limits })
            }
            Body::List => self.list(),
            Body::Kill(name) => self.kill_by_name(name),
            Body::Attach(name) => self.attach(name),
            _ => Outcome::Lost(Loss::Garbage),
        })
    }

    /// All rockers, and the end of them.
    fn list(&mut self) -> Outcome {
        let (table, uid) = (self.held().table, self.held().uid);
        if uid == ROOT {
            self.around.kernel.widen(table, Role::Connection);
        }
        let theirs = |slot: &&Slot| slot.is_rocker() && slot.may_be_known_to(uid);
        let slots = self.master.sessions.iter().filter(theirs);
        let rockers: Vec<Name> =
            slots.filter_map(|slot| slot.held.rocker).map(|rocker| rocker.name).collect();
        let bodies = rockers.into_iter().map(Body::Rocker).chain([Body::End]);
        for body in bodies {
            if let Err(errno) = self.around.kernel.send(table, Role::Connection, body, &[]) {
                return Outcome::Failed(errno);
            }
        }
        Outcome::Answered
    }

    /// root.10 for whoever knows only a name: the answer comes after root.15.
    fn kill_by_name(&mut self, name: Name) -> Outcome {
        let Some(found) = self.rocker_of(name) else { return Outcome::Refused(NO_SUCH_ROCKER) };
        let waiter = self.around.kernel.new_table(self.master.pid);
        let asker = self.held().table;
        let moved = self.around.kernel.fd(asker, Role::Connection).map(|connection| {
            self.around.kernel.install(waiter, Role::Connection, connection);
            self.around.kernel.close(asker, Role::Connection);
        });
        let killed = moved.and_then(|()| self.kill(found));
        match killed {
            Ok(()) => {
                self.master.sessions[found].held.waiters.push(waiter);
                Outcome::Answered
            }
            Err(errno) => {
                self.around.kernel.close_table(waiter);
                Outcome::Failed(errno)
            }
        }
    }

    /// The rocker of this name, if the caller may do something about it.
    fn rocker_of(&mut self, name: Name) -> Option<usize> {
        let uid = self.held().uid;
        let is_it = |slot: &Slot| {
            slot.is_rocker()
                && slot.may_be_known_to(uid)
                && slot.held.rocker.is_some_and(|it| it.name == name)
        };
        self.master.sessions.iter().position(is_it)
    }

    /// The guard has the caller's connection then, and the master is out of the conversation.
    fn attach(&mut self, name: Name) -> Outcome {
        let Some(found) = self.rocker_of(name) else { return Outcome::Refused(NO_SUCH_ROCKER) };
        let held = &self.master.sessions[found].held;
        let guard = held.rocker.map(|rocker| rocker.guard).filter(|_| !held.exited);
        let table = self.held().table;
        let kernel = &mut *self.around.kernel;
        let handed = guard.ok_or(Errno::SRCH).and_then(|guard| {
            let intake = kernel.get_fd(guard, Role::IntakeOutside)?;
            kernel.install(table, Role::Link, intake);
            let parcel = pack(kernel, table)?;
            let sent = kernel.send(table, Role::Link, Body::Newcomer, &[parcel]);
            if sent.is_err() {
                unpack(kernel, table);
            }
            sent
        });
        for role in [Role::Link, Role::Intake, Role::Newcomer] {
            kernel.close(table, role);
        }
        match handed {
            Ok(()) => Outcome::Answered,
            Err(errno) => Outcome::Refused(Error::Failed { step: Step::HandOver, errno }),
        }
    }

    fn kill(&mut self, session: usize) -> Answer {
        let held = &self.master.sessions[session].held;
        if held.exited {
            return Err(Errno::SRCH);
        }
        let guard = held.rocker.map(|rocker| rocker.guard).ok_or(Errno::SRCH)?;
        if held.adopted {
            self.around.kernel.call(Call::Kill)?;
            return self.around.kernel.kill_by_pidfd(guard);
        }
        self.around.kernel.kill(guard)
    }

    /// root.1
    fn check_caller(&mut self) -> Result<(), Refusal> {
        let (uid, number) = (self.held().uid, self.held().launch.ok_or(Errno::PROTO)?);
        let request = self.scene()?.request(number);
        let (caller, load) = (Caller::new(uid, uid, 0), self.master.load(uid));
        self.master.config.check(&caller, &request, load).map_err(Refusal::Rule)
    }

    /// root.2. What is slow is a thread's.
    fn look(&mut self, call: Call) -> Result<Poll<()>, Refusal> {
        let slow_ms = self.scene()?.slow_ms;
        let (index, now_ms) = (self.index, self.around.kernel.now_ms);
        let Held { look, uid, gives_up_ms, .. } = *self.held();
        let is_late = gives_up_ms <= now_ms;
        match look {
            Look::Due if slow_ms > 0 && !is_late => {
                if self.master.looks.begin(uid) {
                    let ends_ms = now_ms + slow_ms;
                    let looker = Looker { session: index, user: uid, ends_ms, makes: None };
                    self.master.lookers.push(looker);
                    self.held().look = Look::UnderWay;
                    self.around.kernel.is_late(ends_ms);
                }
            }
            Look::UnderWay if !is_late => {}
            Look::Due if slow_ms == 0 => {
                self.around.kernel.call(call).map_err(at_root_2)?;
                return Ok(Poll::Ready(()));
            }
            Look::Done => {
                self.held().look = Look::Due;
                self.around.kernel.call(call).map_err(at_root_2)?;
                return Ok(Poll::Ready(()));
            }
            Look::Due | Look::UnderWay => return Err(at_root_2(Errno::TIMEDOUT)),
        }
        self.held().wakes_ms = gives_up_ms;
        Ok(Poll::Pending)
    }

    /// root.2
    fn open_package(&mut self) -> Result<Poll<()>, Refusal> {
        if self.look(Call::OpenPackage)?.is_pending() {
            return Ok(Poll::Pending);
        }
        let Launch { package, .. } = self.scene()?;
        if package == PRIVATE_PACKAGE && self.held().uid != ROOT {
            return Err(at_root_2(Errno::ACCES));
        }
        let patience_ms = self.around.kernel.now_ms + u64::from(MOUNT_PATIENCE_MS);
        let held = self.held();
        held.patience_ms = patience_ms.min(held.deadline_ms);
        let table = self.held().table;
        self.around.kernel.install(table, Role::Package, Fd::Package(package));
        Ok(Poll::Ready(()))
    }

    /// root.2
    fn find_mount(&mut self) -> Poll<Outcome> {
        let Ok(Launch { package, good_package, .. }) = self.scene() else {
            return Poll::Ready(Outcome::Failed(Errno::PROTO));
        };
        let inode = u64::from(package) * 2 + u64::from(good_package);
        let key = Key { device: 0, inode, size: 0, modified: (0, 0), changed: (0, 0) };
        let is_late = self.around.kernel.now_ms >= self.held().patience_ms;
        match self.master.packages.find(key, is_late) {
            Found::NotYet => {
                self.held().wakes_ms = self.held().patience_ms;
                Poll::Pending
            }
            Found::Package(package, lease) => {
                (self.held().package, self.held().lease) = (package, lease);
                Poll::Ready(Outcome::PackageIs(package))
            }
        }
    }

    /// root.2
    fn lock_data_dir(&mut self) -> Result<Poll<()>, Refusal> {
        let data = self.scene()?.data;
        let table = self.held().table;
        if !self.held().has_found && self.look(Call::OpenDataDir)?.is_pending() {
            return Ok(Poll::Pending);
        }
        self.held().has_found = true;
        let key = overlays::Key { device: 0, inode: data.into() };
        let until_ms = match self.master.overlays.find(key) {
            overlays::Found::Kept(lease) => {
                let kept = lease.with(|kept| *kept).ok_or(Errno::BADF)?;
                let lock = self.around.kernel.fd(kept.table, Role::Lock)?;
                self.around.kernel.install(table, Role::Lock, lock);
                self.held().overlays = Some(lease);
                return Ok(Poll::Ready(()));
            }
            overlays::Found::Unknown => 0,
            overlays::Found::InUse => self.held().patience_ms,
            overlays::Found::Away => self.held().gives_up_ms,
        };
        if self.around.kernel.now_ms < until_ms {
            self.held().wakes_ms = until_ms;
            return Ok(Poll::Pending);
        }
        let kernel = &mut *self.around.kernel;
        let lock = kernel.lock(data).map_err(|errno| match errno {
            Errno::AGAIN => {
                Refusal::Rule(Error::Invalid { rule: Rule::InUse, item: Item::DataDir })
            }
            errno => at_root_2(errno),
        })?;
        kernel.install(table, Role::Lock, lock);
        self.held().overlays = self.master.overlays.enter(key);
        Ok(Poll::Ready(()))
    }

    /// root.2
    fn make_cgroup(&mut self) -> Result<Poll<()>, Refusal> {
        let Some(made) = self.held().made.take() else { return self.have_cgroup_made() };
        let (rule, item) = (Rule::NoController, Item::Pids);
        let fd = made.map_err(|errno| match errno {
            // A file that is missing.
            Errno::NOENT => Refusal::Rule(Error::Invalid { rule, item }),
            errno => Refusal::System(errno),
        })?;
        let table = self.held().table;
        self.around.kernel.install(table, Role::Cgroup, fd);
        Ok(Poll::Ready(()))
    }

    /// However quick it is, it is a thread's.
    fn have_cgroup_made(&mut self) -> Result<Poll<()>, Refusal> {
        let slow_ms = self.scene()?.slow_ms;
        let (session, now_ms) = (self.index, self.around.kernel.now_ms);
        let Held { look, uid: user, gives_up_ms, .. } = *self.held();
        self.held().wakes_ms = gives_up_ms;
        if gives_up_ms <= now_ms {
            return Err(at_root_2(Errno::TIMEDOUT));
        }
        if look != Look::UnderWay && self.master.looks.begin(user) {
            let name = self.around.kernel.new_name();
            let held = self.held();
            (held.look, held.limited) = (Look::UnderWay, Some(name));
            let (ends_ms, makes) = (now_ms + slow_ms, Some(name));
            self.master.lookers.push(Looker { session, user, ends_ms, makes });
            self.around.kernel.is_late(ends_ms);
        }
        Ok(Poll::Pending)
    }

    /// prepare.0
    fn clone_guard(&mut self) -> Answer {
        let (table, launch) = (self.held().table, self.held().launch.ok_or(Errno::PROTO)?);
        self.master.notice_mounts(self.around.kernel);
        let Ready { pid: guard, link } =
            match self.master.pool.take(self.around.kernel.now_ms * NS_PER_MS) {
                Some(ready) => ready,
                None => self.master.clone_guard(self.around)?,
            };
        let kernel = &mut *self.around.kernel;
        if kernel.is_stale(guard) {
            kernel.violated(Violation::Stale { guard });
        }
        self.held().overlays.iter().for_each(overlays::Lease::begins);
        let kernel = &mut *self.around.kernel;
        let ours = kernel.fd(link, Role::Link)?;
        kernel.install(table, Role::Link, ours);
        kernel.close_table(link);
        let name = self.held().limited.unwrap_or_else(|| self.around.kernel.new_name());
        let owner = self.held().uid;
        self.held().rocker = Some(Record { name, guard, launch, owner });
        Ok(())
    }

    /// root.3. The master keeps no copy of what it hands over.
    fn hand_over(&mut self) -> Answer {
        let (table, rocker) = (self.held().table, self.held().rocker.ok_or(Errno::BADF)?);
        let Record { name, guard, launch, .. } = rocker;
        let roles = [Role::Connection, Role::Package, Role::Lock, Role::Dev];
        let (pid, host_dev) = (self.master.pid, self.scene()?.host_dev);
        let package = self.held().package;
        let mount = self.held().lease.as_ref().and_then(|lease| lease.mount().copied());
        let kernel = &mut *self.around.kernel;
        let handed = match (package, mount) {
            (Package::Shared { .. }, Some(mount)) => kernel.fd(mount, Role::SharedMount),
            _ => kernel.fd(table, Role::Package),
        };
        if !host_dev {
            // In a table that is closed at the next step: nobody else gets this one.
            let dev = kernel.new_tree(pid, Call::CopyDev, TreeKind::Dev)?;
            kernel.install(table, Role::Dev, dev);
        }
        let [connection, lock, cgroup, dev] =
            [Role::Connection, Role::Lock, Role::Cgroup, Role::Dev]
                .map(|role| kernel.fd(table, role).ok());
        self.give_overlays()?;
        let kernel = &mut *self.around.kernel;
        let fds: heapless::Vec<Fd, 5> =
            [connection, handed.ok(), lock, cgroup, dev].into_iter().flatten().collect();
        kernel.send(table, Role::Link, Body::HandOver { launch, name, guard, package }, &fds)?;
        for role in roles {
            kernel.close(table, role);
        }
        Ok(())
    }

    /// root.3: the overlays of an earlier launch, and that these are wanted, too.
    fn give_overlays(&mut self) -> Answer {
        let (table, overlaid) = (self.held().table, self.scene()?.dirs > 0);
        let Some(lease) = self.held().overlays.as_ref().filter(|_| overlaid) else { return Ok(()) };
        let (is_old, given) = (lease.is_old(), lease.take());
        let kernel = &mut *self.around.kernel;
        let roles = [Role::LayerOfRoot, Role::LayerOfVar, Role::Lock];
        let fds: heapless::Vec<Fd, 3> = given
            .iter()
            .flat_map(|kept| roles.map(|role| kernel.fd(kept.table, role).ok()))
            .flatten()
            .collect();
        let seal = given.filter(|_| !is_old).map(|kept| kept.seal);
        let body = Body::Keep { seal };
        let sent = kernel.send(table, Role::Link, body, &fds);
        given.into_iter().for_each(|kept| kernel.close_table(kept.table));
        sent
    }

    /// prepare.3
    fn await_mount(&mut self) -> Poll<Outcome> {
        let message = match self.receive(Role::Link) {
            Poll::Ready(Ok(message)) => message,
            Poll::Ready(Err(outcome)) => return Poll::Ready(outcome),
            Poll::Pending => return Poll::Pending,
        };
        let (Body::Mounted { loop_dev }, Some(mount)) = (message.body, message.fds[0]) else {
            self.around.kernel.drop_message(message);
            return Poll::Ready(Outcome::Lost(Loss::Garbage));
        };
        let table = self.around.kernel.new_table(self.master.pid);
        self.around.kernel.install(table, Role::SharedMount, mount);
        self.around.kernel.drop_message(message);
        if let Some(lease) = &self.held().lease {
            lease.put(table, loop_dev);
        }
        Poll::Ready(Outcome::Done)
    }

    /// prepare.7
    fn await_done(&mut self) -> Poll<Outcome> {
        Poll::Ready(match self.receive(Role::Link) {
            Poll::Ready(Ok(Message { body: Body::Done, .. })) => Outcome::Done,
            Poll::Ready(Ok(message)) => {
                let outcome = match message.body {
                    Body::Kept { seal } => {
                        self.keep(message, seal);
                        Outcome::Done
                    }
                    _ => Outcome::Lost(Loss::Garbage),
                };
                self.around.kernel.drop_message(message);
                outcome
            }
            Poll::Ready(Err(outcome)) => outcome,
            Poll::Pending => return Poll::Pending,
        })
    }

    fn keep(&mut self, message: Message, seal: Seal) {
        let table = self.around.kernel.new_table(self.master.pid);
        for fd in message.fds.into_iter().flatten() {
            let role = match (fd, self.around.kernel.layer_of(fd)) {
                (Fd::Tree(_), 0) => Role::LayerOfRoot,
                (Fd::Tree(_), _) => Role::LayerOfVar,
                _ => Role::Lock,
            };
            self.around.kernel.install(table, role, fd);
        }
        match &self.held().overlays {
            Some(lease) => lease.put(Kept { table, seal }),
            None => self.around.kernel.close_table(table),
        }
    }

    /// prepare.8
    fn write_map(&mut self, action: Action) -> Answer {
        // A pid that was reaped may be another's by now.
        let guard = self.guard().ok().filter(|_| !self.held().exited).ok_or(Errno::SRCH)?;
        let id = self.scene()?.id(self.held().launch.ok_or(Errno::PROTO)?);
        let map = match action {
            Action::DenySetgroups => IdMap::DenySetgroups,
            Action::WriteUidMap => IdMap::Uid(id),
            _ => IdMap::Gid(id),
        };
        self.around.kernel.write_id_map(self.master.pid, guard, map)
    }

    /// prepare.9
    fn record(&mut self) -> Answer {
        let rocker = self.held().rocker.ok_or(Errno::BADF)?;
        self.around.kernel.call(Call::WriteRecord)?;
        self.around.kernel.records.push(rocker);
        Ok(())
    }

    /// The last word to the guard, which closes its end when it has the App or by its own end.
    fn say_last(&mut self, body: Body) -> Answer {
        self.held().deadline_ms += u64::from(GRACE_MS);
        self.held().trace = false;
        let table = self.held().table;
        let said = self.around.kernel.send(table, Role::Link, body, &[]);
        if said.is_err() {
            self.around.kernel.shut_writing(table, Role::Link);
        }
        said
    }

    /// enter.4
    fn await_app(&mut self) -> Poll<Outcome> {
        Poll::Ready(match self.receive(Role::Link) {
            Poll::Ready(Ok(_)) => Outcome::Lost(Loss::Garbage),
            Poll::Ready(Err(outcome)) => outcome,
            Poll::Pending => return Poll::Pending,
        })
    }

    fn refuse(&mut self, error: Error) -> Answer {
        self.held().lease = None;
        let table = self.held().table;
        self.around.kernel.close(table, Role::Link);
        let said = self.around.kernel.send(table, Role::Connection, Body::Failed(error), &[]);
        self.around.kernel.close(table, Role::Connection);
        said
    }

    fn kill_guard(&mut self) -> Answer {
        self.held().lease = None;
        self.kill(self.index)
    }

    /// root.15
    fn free_residue(&mut self) -> Answer {
        if let Some(name) = self.held().limited.take() {
            self.master.remove_cgroup(self.around.kernel, name);
        }
        if let Some(rocker) = self.held().rocker {
            self.around.kernel.call(Call::RemoveRecord)?;
            self.around.kernel.records.retain(|record| record.name != rocker.name);
        }
        for waiter in core::mem::take(&mut self.held().waiters) {
            let _ = self.around.kernel.send(waiter, Role::Connection, Body::Gone, &[]);
            self.around.kernel.close_table(waiter);
        }
        Ok(())
    }
}

/// As `package.rs` says it: an error of root.2, whoever the driver was.
fn at_root_2(errno: Errno) -> Refusal {
    Refusal::Rule(Error::Failed { step: Step::CreateGuard, errno })
}
