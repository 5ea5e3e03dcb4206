//! All launches and all living rockers of one master.
//!
//! A launch is small in number and holds descriptors; a living rocker is one of thousands and
//! holds none: each would be copied at every later spawn (KERNEL B, scaling). A child's pid
//! cannot be another's before it is reaped, so the pid is enough to know it by.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::Receiver;

use protocol::limits::MOUNT_PATIENCE_MS;
use protocol::socket::{Descriptors, now_ns};
use protocol::{ClientMessage, Error, Item, Message, Name, Package, Request, wire};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::cgroup::Made;
use crate::disk::disk_of;
use crate::linux::is_silent;
use crate::machine::{Session, State};
use crate::overlays;
use crate::package::Place;
use crate::packages::{Key, Lease};
use crate::policy::{Caller, Config, Load};
use crate::residue::Rocker;
use crate::unmade::Unmade;

/// One connection, from its request to the end of its rocker.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) machine: Session,
    pub(crate) held: Held,
    /// Something has happened to it since it was looked at.
    pub(crate) has_news: bool,
}

impl Entry {
    /// When it must be looked at even if nothing happens; `CLOCK_MONOTONIC`, nanoseconds.
    pub(crate) fn due_ns(&self) -> u64 {
        let Some(launch) = &self.held.launch else { return u64::MAX };
        if self.is_left_alone() { launch.wakes_ns } else { launch.deadline_ns }
    }

    /// Whether its peer is not listened to until it is due.
    pub(crate) fn is_left_alone(&self) -> bool {
        self.machine.awaits_another() || self.is_going()
    }

    /// Whether its guard was released so lately that nobody listens to it yet.
    fn is_going(&self) -> bool {
        self.is_released() && self.held.launch.as_ref().is_some_and(|launch| launch.is_going)
    }

    /// Whether the policy lets it be a rocker.
    fn is_admitted(&self) -> bool {
        !matches!(self.machine.state(), State::AwaitRequest | State::CheckCaller(_))
    }

    /// Whether its guard has heard prepare.9 and its App is on the way.
    pub(crate) fn is_released(&self) -> bool {
        self.machine.state() == State::AwaitApp
    }
}

/// What a session holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// While it is launching.
    pub(crate) launch: Option<Box<Launch>>,
    /// From prepare.0 on.
    pub(crate) rocker: Option<Rocker>,
    /// Whose cgroups there are, or may be: they go with this session.
    pub(crate) limited: Option<Name>,
    /// Whether the guard has ended and was reaped.
    pub(crate) exited: bool,
    /// A guard that is not our child: an earlier master's. [`Adopted`] tells of its end.
    pub(crate) adopted: Option<OwnedFd>,
    /// The mount that its rocker is made from, if that is shared.
    pub(crate) lease: Option<Lease<OwnedFd>>,
    /// Its data dir, once that is locked.
    pub(crate) data_dir: Option<overlays::Key>,
    /// The overlays of its data dir, if they are kept for the next launch.
    pub(crate) overlays: Option<overlays::Lease<Kept>>,
    /// Who asked for its end, and waits to hear of it.
    pub(crate) waiters: Vec<OwnedFd>,
}

impl Held {
    /// root.11: well, if the guard has said so by its status.
    pub(crate) fn has_exited(&mut self, is_well: bool) {
        self.exited = true;
        if let (Some(overlays), true) = (&self.overlays, is_well) {
            overlays.ended_well();
        }
    }
}

/// A launch takes no longer where nobody makes it wait.
const LAUNCH_NS: u64 = 20_000_000;

/// What a launch holds.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) caller: Caller,
    /// When it was asked for: `CLOCK_MONOTONIC`, nanoseconds.
    pub(crate) asked_ns: Option<u64>,
    /// The caller's connection, until it is handed over.
    pub(crate) client: Option<OwnedFd>,
    /// The socket pair with the guard, until that has the App.
    pub(crate) link: Option<OwnedFd>,
    /// The request as it was sent; it was well-formed when it was kept.
    pub(crate) datagram: Box<[u8]>,
    pub(crate) package: Option<Opened>,
    /// Looks at a path of the caller's, in a thread.
    pub(crate) looking: Option<Receiver<Result<Place, Error>>>,
    /// Makes its cgroups, in another.
    pub(crate) making: Option<Receiver<Result<Vec<Made>, Unmade>>>,
    /// The data dir's `.rocker`.
    pub(crate) found: Option<Place>,
    /// The data dir's `.rocker`, locked.
    pub(crate) data: Option<OwnedFd>,
    /// The rocker's cgroups, if it has limits.
    pub(crate) cgroups: Vec<Made>,
    /// When to give up waiting: `CLOCK_MONOTONIC`, nanoseconds.
    pub(crate) deadline_ns: u64,
    /// The same for a look, and for the data dir: its caller is still to hear why.
    pub(crate) gives_up_ns: u64,
    /// The same for another launch, or rocker.
    pub(crate) patience_ns: u64,
    /// When to look at it again while it is left alone: the same clock.
    pub(crate) wakes_ns: u64,
    /// enter.4: nobody listens to its guard yet.
    pub(crate) is_going: bool,
    pub(crate) trace: bool,
}

/// A data dir's overlays while no guard has them.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The overlays, and last, so that it goes last, the locked `.rocker`.
    pub(crate) descriptors: Descriptors,
    /// What they are, for guards alone to read.
    pub(crate) seal: Box<[u8]>,
    /// Which is that over the root mount, and the top directories that are attached from it.
    pub(crate) root: u8,
    pub(crate) top_dirs: Box<[u8]>,
    /// What lay below it as these were looked up; empty: it remembers no names.
    pub(crate) marks: Box<[u8]>,
    /// Nobody is to wait for a disk.
    pub(crate) is_volatile: bool,
}

/// The caller's package, as a mere place: whoever opens it may wait for its owner.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) place: OwnedFd,
    pub(crate) key: Key,
    /// How the guard gets it.
    pub(crate) how: Package,
}

impl Launch {
    /// From now on it has this long, of which a little, or half, is for an answer to arrive in.
    pub(crate) fn begins(&mut self, timeout_ms: u32) {
        self.deadline_ns = now_ns() + u64::from(timeout_ms) * 1_000_000;
        let answer_ms = MOUNT_PATIENCE_MS.min(timeout_ms / 2);
        self.gives_up_ns = self.deadline_ns - u64::from(answer_ms) * 1_000_000;
    }

    /// From now on it waits a little for another launch, and no longer than it may take itself.
    pub(crate) fn is_patient(&mut self) {
        let patience_ns = now_ns() + u64::from(MOUNT_PATIENCE_MS) * 1_000_000;
        self.patience_ns = patience_ns.min(self.deadline_ns);
    }

    /// The request.
    pub(crate) fn request(&self) -> Option<Request<'_>> {
        match wire::decode(&self.datagram) {
            Ok(Message::Client(ClientMessage::Launch(request))) => Some(request),
            _ => None,
        }
    }

    /// The disks of the package and of the data dir, each once.
    pub(crate) fn disks(
        &self,
        proc: &OwnedFd,
        data_dir: Option<overlays::Key>,
    ) -> Result<Vec<String>, Unmade> {
        let package = self.package.as_ref().map(|opened| (opened.key.device, Item::Package));
        let data = data_dir.map(|key| (key.device, Item::DataDir));
        let mut disks = vec![];
        for (device, item) in package.into_iter().chain(data) {
            let disk = disk_of(proc, device, item)?;
            if !disks.contains(&disk) {
                disks.push(disk);
            }
        }
        Ok(disks)
    }
}

/// Everybody. Nothing that a launch asks of it looks at each of the living.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// Waiting for a request, for a guard to be done, or for its App.
    pub(crate) launching: Vec<Entry>,
    /// By the guard's pid.
    living: HashMap<u32, Entry>,
    /// How many of the living each user owns.
    owned: HashMap<u32, usize>,
    /// Until when somebody who has asked for an end may wait for it: `CLOCK_MONOTONIC`,
    /// nanoseconds.
    pub(crate) hurries_until_ns: u64,
}

impl Sessions {
    /// A rocker lives, and this is the session with its guard.
    pub(crate) fn begin(&mut self, pid: u32, entry: Entry) {
        if let Some(rocker) = &entry.held.rocker {
            *self.owned.entry(rocker.owner).or_default() += 1;
        }
        self.living.insert(pid, entry);
    }

    /// The guard with this pid has ended; none if no rocker that lives is its.
    pub(crate) fn end(&mut self, pid: u32) -> Option<Entry> {
        let entry = self.living.remove(&pid)?;
        if let Some(rocker) = &entry.held.rocker
            && let Some(count) = self.owned.get_mut(&rocker.owner)
        {
            *count -= 1;
            if *count == 0 {
                self.owned.remove(&rocker.owner);
            }
        }
        Some(entry)
    }

    /// What there is already; `of` is counted by itself, too.
    pub(crate) fn load(&self, of: &Caller, config: &Config) -> Load {
        let callers = || {
            let launches = self.launching.iter().filter_map(|entry| entry.held.launch.as_ref());
            launches.map(|launch| &launch.caller).chain([of])
        };
        let owned = |entry: &&Entry| {
            entry.held.launch.as_ref().is_some_and(|launch| launch.caller.uid == of.uid)
        };
        // A launch that is admitted is as good as a rocker: many come at once, and wait.
        let is_admitted = |entry: &&Entry| entry.is_admitted() && !entry.held.exited;
        let admitted = self.launching.iter().filter(is_admitted);
        let living_owned = self.owned.get(&of.uid).copied().unwrap_or_default();
        Load {
            rockers: self.living.len() + admitted.clone().count(),
            rockers_of_caller: living_owned + admitted.filter(owned).count(),
            launches: self.launching.len() + 1,
            launches_of_caller: callers().filter(|caller| caller.uid == of.uid).count(),
            launches_of_strangers: callers().filter(|caller| !config.knows(caller)).count(),
        }
    }

    /// Every rocker that a caller can know of: it does from root.5 on.
    pub(crate) fn rockers(&self) -> impl Iterator<Item = &Entry> {
        self.living.values().chain(self.launching.iter().filter(|entry| entry.is_released()))
    }

    /// The same, to change them.
    pub(crate) fn rockers_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        let launching = self.launching.iter_mut().filter(|entry| entry.is_released());
        self.living.values_mut().chain(launching)
    }

    /// The rocker of this name, if the caller may do something about it.
    pub(crate) fn rocker_of(&mut self, caller: &Caller, name: Name) -> Option<&mut Entry> {
        let uid = caller.uid;
        self.rockers_mut().find(|entry| {
            let rocker = entry.held.rocker.as_ref();
            rocker.is_some_and(|it| it.name == name && (uid == 0 || uid == it.owner))
        })
    }

    /// How many wait for the ends of a caller's rockers. Who has hung up waits no more, and is let
    /// go of: a rocker whose end somebody holds up could be asked for it for ever.
    pub(crate) fn waiting_of(&mut self, caller: &Caller) -> usize {
        let is_theirs = |entry: &&mut Entry| {
            entry.held.rocker.as_ref().is_some_and(|rocker| rocker.owner == caller.uid)
        };
        let waiting = self.rockers_mut().filter(is_theirs).map(|entry| {
            entry.held.waiters.retain(|waiter| is_silent(waiter.as_fd()));
            entry.held.waiters.len()
        });
        waiting.sum()
    }

    /// Until when somebody may wait for a launch to come to its App: none who has not said yet what
    /// it wants, and none whose launch takes so long that it is the one who is waited for.
    pub(crate) fn quiet_ns(&self) -> u64 {
        let asked = self.launching.iter().filter_map(|entry| entry.held.launch.as_ref()?.asked_ns);
        asked.max().map_or(0, |asked_ns| asked_ns.saturating_add(LAUNCH_NS))
    }

    /// Whether Apps are about to start, and that is all that is under way.
    pub(crate) fn are_all_going(&self) -> bool {
        !self.launching.is_empty() && self.launching.iter().all(Entry::is_going)
    }

    /// Whether somebody may wait for the end of a rocker: who has asked for it, or a launch that is
    /// to have what it leaves.
    pub(crate) fn may_end_be_awaited(&self, now_ns: u64) -> bool {
        now_ns < self.hurries_until_ns
            || self.launching.iter().any(|entry| entry.machine.awaits_another())
    }

    /// Launches and living rockers.
    pub(crate) fn count(&self) -> usize {
        self.launching.len() + self.living.len()
    }

    /// Whether there is nobody.
    pub(crate) fn is_empty(&self) -> bool {
        self.launching.is_empty() && self.living.is_empty()
    }
}

/// The ends of guards that are nobody's children here, as one source however many there are.
#[derive(Debug)]
pub(crate) struct Adopted(OwnedFd);

impl Adopted {
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Watches a guard: its end is told once.
    pub(crate) fn watch(&self, pid: u32, guard: BorrowedFd<'_>) -> Result<(), Errno> {
        let once = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        epoll::add(&self.0, guard, epoll::EventData::new_u64(pid.into()), once)
    }

    /// Can be read when one of them has ended.
    pub(crate) fn source(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The pids of some that have ended. Whom there is no room for is told the next time.
    pub(crate) fn ended(&self) -> Vec<u32> {
        const AT_ONCE: usize = 64;
        let mut events = Vec::with_capacity(AT_ONCE);
        let room = rustix::buffer::spare_capacity(&mut events);
        // An errno says nothing of a guard: the next turn asks again.
        let _ = epoll::wait(&self.0, room, Some(&Timespec::default()));
        events.iter().filter_map(|event| u32::try_from(event.data.u64()).ok()).collect()
    }
}
