//! Does what a session asks for. Nothing in here waits: what is not there yet is `Pending`,
//! and the event loop comes back.

use core::fmt::Write as _;
use core::task::Poll;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, TryRecvError};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use protocol::limits::{DESCRIPTORS_MAX, GRACE_MS, INTAKE};
use protocol::socket::{self, Buffer, Descriptors, Received, errno, now_ns};
use protocol::{
    Actor, ClientMessage, Command, Driver, Errno, Error, Failure, GuardMessage, Item, Loss,
    MasterMessage, Message, Name, Package, Path, RockerInfo, Rule, Step, TraceStep, wire,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal as PidfdSignal, pidfd_getfd, pidfd_open,
    pidfd_send_signal,
};

use crate::action::Action;
use crate::clone_guard::{Stack, clone_guard};
use crate::devices::{App, Devices};
use crate::errands::{Errands, in_a_thread};
use crate::machine::{Outcome, Session, Wants};
use crate::namespace::Namespace;
use crate::overlays::{self, Overlays};
use crate::package::{Haste, Look, Place};
use crate::packages::{Found, Lease, Packages};
use crate::policy::Config;
use crate::pool::{Pool, Ready};
use crate::residue::{Records, Rocker};
use crate::sessions::{Held, Kept, Launch, Opened, Sessions};
use crate::steward::Steward;
use crate::unmade::Unmade;
use crate::{id_maps, package};

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) config: Config,
    /// The guard's program.
    pub(crate) guard: OwnedFd,
    pub(crate) proc: OwnedFd,
    /// The user namespace of this process.
    pub(crate) home: Namespace,
    /// What a guard has for output.
    pub(crate) null: OwnedFd,
    pub(crate) stack: Box<Stack>,
    /// None for a master of one launch: nobody comes after it.
    pub(crate) records: Option<Records>,
    pub(crate) steward: Steward,
    pub(crate) devices: Devices,
    pub(crate) inbox: Buffer,
    pub(crate) outbox: Buffer,
    /// What came with the guard's last message.
    pub(crate) received: Descriptors,
    pub(crate) packages: Packages<OwnedFd>,
    pub(crate) overlays: Overlays<Kept>,
    pub(crate) errands: Errands,
    /// Who has a data dir, of those that this master has recorded; and its guard.
    pub(crate) holders: HashMap<overlays::Key, (Name, u32)>,
    pub(crate) pool: Pool<OwnedFd>,
    /// `/proc/self/mountinfo`, which tells of changes (`man 5 proc_pid_mountinfo`); where it
    /// cannot be opened no guard waits.
    pub(crate) mounts: Option<OwnedFd>,
    /// The step just taken, for errors and traces.
    pub(crate) command: Command,
    /// The part of a step that failed, where it has several.
    pub(crate) words: String,
}

impl Host {
    /// prepare.0
    fn clone_guard(&mut self) -> Result<Ready<OwnedFd>, Errno> {
        let flags = SocketFlags::CLOEXEC;
        let (link, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(errno)?;
        let (guard, null) = (self.guard.as_fd(), self.null.as_fd());
        let pid = clone_guard(guard, theirs.as_fd(), null, &mut self.stack).map_err(errno)?;
        Ok(Ready { pid, link })
    }

    /// Lets go of guards that were cloned before a change of the host's mounts, and of overlays.
    pub(crate) fn notice_mounts(&mut self, now_ns: u64) {
        let Some(mounts) = &self.mounts else { return };
        // Asking is enough: the kernel tells of each change once.
        let mut sources = [PollFd::new(mounts, PollFlags::PRI)];
        if !matches!(poll(&mut sources, Some(&Timespec::default())), Ok(0)) {
            self.has_other_mounts(now_ns);
        }
    }

    /// The same when they are known to have changed.
    pub(crate) fn has_other_mounts(&mut self, now_ns: u64) {
        drop(self.pool.discard(now_ns));
        self.overlays.discard();
    }

    /// The command of the step that failed. A broken rule says enough by itself, but for three: why
    /// there is no controller, whose a device is, and who has a data dir.
    pub(crate) fn failed_command(&self, error: Error) -> Command {
        match error {
            Error::Invalid {
                rule: Rule::NoController | Rule::OutOfReach | Rule::InUse, ..
            } => self.command.clone(),
            Error::Invalid { .. } => Command::new(),
            _ => self.command.clone(),
        }
    }

    /// prepare.0 for whoever comes next, when there is nothing else to do.
    pub(crate) fn stock(&mut self, now_ns: u64) {
        if self.pool.is_short(now_ns) {
            match self.clone_guard() {
                Ok(ready) => self.pool.put(ready),
                Err(errno) => {
                    let error = Error::Failed { step: Step::CreateGuard, errno };
                    log::debug!("no guard is ready: {error}");
                    self.pool.give_up();
                }
            }
        }
    }
}

/// One session at work: its descriptors, and what is shared.
pub(crate) struct Work<'a> {
    pub(crate) host: &'a mut Host,
    pub(crate) sessions: &'a mut Sessions,
    pub(crate) held: &'a mut Held,
    /// Whether this is what the session was woken for.
    pub(crate) has_news: bool,
}

impl Work<'_> {
    /// What a launch holds, which it does in every state up to enter.4.
    fn launch(&self) -> Result<&Launch, Errno> {
        self.held.launch.as_deref().ok_or(Errno::BADF)
    }

    fn launch_mut(&mut self) -> Result<&mut Launch, Errno> {
        self.held.launch.as_deref_mut().ok_or(Errno::BADF)
    }

    /// root.1
    fn await_request(&mut self) -> Poll<Outcome> {
        match self.receive_request() {
            // A launch is checked at its own step, with the rest of the policy.
            Ok(Some(Asked::Launch(wants))) => Poll::Ready(Outcome::RequestIs(wants)),
            Ok(Some(asked)) => Poll::Ready(match self.at_home() {
                Ok(()) => self.answer(asked),
                Err(Refusal::System(errno)) => Outcome::Failed(errno),
                Err(Refusal::Rule(error)) => Outcome::Refused(error),
            }),
            Ok(None) => Poll::Pending,
            Err(outcome) => Poll::Ready(outcome),
        }
    }

    fn answer(&mut self, asked: Asked) -> Outcome {
        match asked {
            Asked::Launch(wants) => Outcome::RequestIs(wants),
            Asked::List => self.list(),
            Asked::Kill(name) => self.kill_by_name(name),
            Asked::Attach(name) => self.attach(name),
        }
    }

    /// What the caller wants, or none if it has not said so yet. A request is kept.
    fn receive_request(&mut self) -> Result<Option<Asked>, Outcome> {
        let launch = self.held.launch.as_deref_mut().ok_or(Outcome::Failed(Errno::BADF))?;
        let client = launch.client.as_ref().ok_or(Outcome::Failed(Errno::BADF))?;
        let message = match socket::receive(client, &mut self.host.inbox) {
            Ok(Received::Message(Message::Client(message), _)) => message,
            Ok(Received::Message(..)) => return Err(Outcome::Lost(Loss::Garbage)),
            Ok(Received::Empty) if now_ns() < launch.deadline_ns => return Ok(None),
            Ok(Received::Empty) => return Err(Outcome::Lost(Loss::Silent)),
            Ok(Received::Lost(how)) => return Err(Outcome::Lost(how)),
            Err(errno) => return Err(Outcome::Failed(errno)),
        };
        match message {
            ClientMessage::List => Ok(Some(Asked::List)),
            ClientMessage::Kill(name) => Ok(Some(Asked::Kill(name))),
            ClientMessage::Attach(name) => Ok(Some(Asked::Attach(name))),
            ClientMessage::AppStarted
            | ClientMessage::Exec(_)
            | ClientMessage::ExecIn { .. }
            | ClientMessage::Signal { .. }
            | ClientMessage::Go { .. }
            | ClientMessage::Adopt { .. }
            | ClientMessage::Ping
            | ClientMessage::Open { .. }
            | ClientMessage::Delete { .. }
            | ClientMessage::Symlink { .. }
            | ClientMessage::Conf { .. }
            | ClientMessage::Reset { .. } => Err(Outcome::Lost(Loss::Garbage)),
            ClientMessage::Launch(request) => {
                launch.trace = request.trace;
                launch.asked_ns = Some(now_ns());
                let timeout_ms = request.timeout_ms;
                let limits = self.host.config.limits(&launch.caller, request.options.limits);
                let wants = Wants { data_dir: request.data_dir.is_some(), limits: limits.is_any() };
                let message = Message::Client(ClientMessage::Launch(request));
                launch.datagram = wire::encode(&message, self.host.outbox.bytes())
                    .ok_or(Outcome::Lost(Loss::Garbage))?
                    .into();
                launch.begins(timeout_ms);
                Ok(Some(Asked::Launch(wants)))
            }
        }
    }

    /// Tells a caller of all living rockers it may know of: root of all, others of their own.
    fn list(&mut self) -> Outcome {
        let Some(Launch { client: Some(client), caller, .. }) = self.held.launch.as_deref() else {
            return Outcome::Failed(Errno::BADF);
        };
        // The whole answer fits the queue: the master does not wait for a reader. Others than
        // root have few rockers, and no business with so much of the kernel's memory.
        if caller.uid == 0
            && let Err(error) = setsockopt(client, sockopt::SndBufForce, &LIST_QUEUE)
        {
            return Outcome::Failed(from_nix(error));
        }
        let now = now_ns();
        let living = self.sessions.rockers().filter_map(|entry| entry.held.rocker.as_ref());
        for rocker in living.filter(|rocker| caller.uid == 0 || caller.uid == rocker.owner) {
            let Ok(package) = Path::new(&rocker.package) else { continue };
            let info = RockerInfo {
                name: rocker.name,
                app_id: rocker.app_id,
                uid: rocker.uid,
                guard_pid: rocker.guard_pid,
                age_ms: now.saturating_sub(rocker.began_ns) / 1_000_000,
                package,
            };
            let message = Message::Master(MasterMessage::Rocker(info));
            if let Err(errno) = socket::send(client, &message, &[], &mut self.host.outbox) {
                return Outcome::Failed(errno);
            }
        }
        match socket::send(client, &Message::Master(MasterMessage::End), &[], &mut self.host.outbox)
        {
            Ok(()) => Outcome::Answered,
            Err(errno) => Outcome::Failed(errno),
        }
    }

    /// root.10, for whoever knows only a name. The answer comes after root.15.
    fn kill_by_name(&mut self, name: Name) -> Outcome {
        let Ok(Launch { client, caller, .. }) = self.held.launch.as_deref_mut().ok_or(()) else {
            return Outcome::Failed(Errno::BADF);
        };
        let waiting = self.sessions.waiting_of(caller);
        let Some(entry) = self.sessions.rocker_of(caller, name) else {
            return Outcome::Refused(NO_SUCH_ROCKER);
        };
        if waiting >= WAITERS_MAX && caller.uid != 0 {
            let (rule, item) = (Rule::TooManyRockers, Item::Request);
            return Outcome::Refused(Error::Invalid { rule, item });
        }
        match kill_guard(&entry.held) {
            Ok(()) => {
                entry.held.waiters.extend(client.take());
                self.sessions.hurries_until_ns = now_ns() + HURRY_NS;
                Outcome::Answered
            }
            Err(errno) => Outcome::Failed(errno),
        }
    }

    /// Passes the connection on to a living guard, as at root.3, and is out of the conversation.
    fn attach(&mut self, name: Name) -> Outcome {
        let Ok(Launch { client, caller, .. }) = self.held.launch.as_deref_mut().ok_or(()) else {
            return Outcome::Failed(Errno::BADF);
        };
        let Some(entry) = self.sessions.rocker_of(caller, name) else {
            return Outcome::Refused(NO_SUCH_ROCKER);
        };
        let Host { inbox, outbox, .. } = &mut *self.host;
        let handed = intake(&entry.held).and_then(|intake| {
            let parcel = pack(client, outbox)?;
            let sent = socket::send(&intake, &PASSED_ON, &[parcel.as_fd()], outbox);
            sent.inspect_err(|_| *client = unpack(&parcel, inbox))
        });
        match handed {
            Ok(()) => Outcome::Answered,
            Err(errno) => Outcome::Refused(Error::Failed { step: Step::HandOver, errno }),
        }
    }

    /// root.1
    fn check_caller(&mut self) -> Result<(), Refusal> {
        {
            let launch = self.launch()?;
            let request = launch.request().ok_or(Errno::PROTO)?;
            let load = self.sessions.load(&launch.caller, &self.host.config);
            self.host.config.check(&launch.caller, &request, load)?;
        }
        self.at_home()
    }

    /// The caller has to sit in the master's own user namespace.
    fn at_home(&mut self) -> Result<(), Refusal> {
        let Host { proc, home, words, .. } = &mut *self.host;
        let launch = self.held.launch.as_deref().ok_or(Errno::BADF)?;
        let connection = launch.client.as_ref().ok_or(Errno::BADF)?;
        match launch.caller.is_at_home(connection, proc, *home) {
            Ok(true) => Ok(()),
            Ok(false) => Err(FOREIGN.into()),
            Err(error) => {
                if error == rustix::io::Errno::SRCH {
                    "the process that connected has ended".clone_into(words);
                }
                Err(errno(error).into())
            }
        }
    }

    /// root.2. A path of the caller's may lead to where the kernel would have to wait: then a
    /// thread goes there, and all others are served meanwhile. Whoever looks in time goes there
    /// anyway.
    fn look(&mut self, item: Item, haste: Haste) -> Result<Poll<Place>, Refusal> {
        let Host { config, errands, .. } = &mut *self.host;
        let launch = self.held.launch.as_deref_mut().ok_or(Errno::BADF)?;
        launch.wakes_ns = launch.gives_up_ns;
        match heard(&mut launch.looking, launch.gives_up_ns)? {
            Poll::Ready(None) => {}
            Poll::Ready(Some(place)) => return Ok(Poll::Ready(place?)),
            Poll::Pending => return Ok(Poll::Pending),
        }
        let looking = {
            let request = launch.request().ok_or(Errno::PROTO)?;
            let (path, reach) = if item == Item::Package {
                (request.package, config.package_reach(&launch.caller, request.package)?)
            } else {
                let path = request.data_dir.ok_or(Errno::PROTO)?;
                (path, config.data_reach(&launch.caller, path)?)
            };
            let look = Look { item, path, reach, caller: launch.caller.uid };
            if haste == Haste::Now
                && let Some(place) = look.now()
            {
                return Ok(Poll::Ready(place?));
            }
            if launch.gives_up_ns <= now_ns() {
                return Err(package::TOO_SLOW.into());
            }
            errands.look(launch.caller.uid).map(|(errand, told)| {
                let look = look.in_time();
                in_a_thread(move || errand.finds(look()));
                told
            })
        };
        launch.looking = looking;
        Ok(Poll::Pending)
    }

    /// root.2
    fn open_package(&mut self) -> Result<Poll<()>, Refusal> {
        let Poll::Ready(place) = self.look(Item::Package, Haste::Now)? else {
            return Ok(Poll::Pending);
        };
        let launch = self.launch_mut()?;
        launch.is_patient();
        let (key, how) = (place.package(), Package::Own);
        launch.package = Some(Opened { place: place.file, key, how });
        Ok(Poll::Ready(()))
    }

    /// root.2
    fn find_mount(&mut self) -> Poll<Outcome> {
        let Some(Launch { package: Some(opened), patience_ns, wakes_ns, .. }) =
            self.held.launch.as_deref_mut()
        else {
            return Poll::Ready(Outcome::Failed(Errno::BADF));
        };
        let is_late = *patience_ns <= now_ns();
        match self.host.packages.find(opened.key, is_late) {
            Found::NotYet => {
                *wakes_ns = *patience_ns;
                Poll::Pending
            }
            Found::Package(how, lease) => {
                opened.how = how;
                self.held.lease = lease;
                Poll::Ready(Outcome::PackageIs(how))
            }
        }
    }

    /// root.2. Who comes when the last rocker ends waits for that, and for its overlays.
    fn lock_data_dir(&mut self) -> Result<Poll<()>, Refusal> {
        let looked = match self.launch_mut()?.found.take() {
            Some(place) => Poll::Ready(place),
            None => self.look(Item::DataDir, Haste::Now)?,
        };
        let Poll::Ready(mut place) = looked else { return Ok(Poll::Pending) };
        let key = place.data_dir();
        let launch = self.held.launch.as_deref_mut().ok_or(Errno::BADF)?;
        let lock = |kept: &Kept| kept.descriptors.last().map(OwnedFd::try_clone);
        let until_ns = match self.host.overlays.find(key) {
            overlays::Found::Kept(lease) => {
                let lock = lease.with(lock).flatten().ok_or(Errno::BADF)?;
                launch.data = Some(lock.map_err(|error| from_io(&error))?);
                self.held.overlays = Some(lease);
                self.held.data_dir = Some(key);
                return Ok(Poll::Ready(()));
            }
            overlays::Found::Unknown => 0,
            overlays::Found::InUse => launch.patience_ns,
            overlays::Found::Away => launch.gives_up_ns,
        };
        if until_ns > now_ns() {
            (launch.found, launch.wakes_ns) = (Some(place), until_ns);
            return Ok(Poll::Pending);
        }
        if !place.is_open && launch.caller.uid == 0 {
            place.open_dir()?;
        }
        // Who serves its file system may have whoever opens it wait.
        if !place.is_open && until_ns < launch.gives_up_ns {
            return Ok(self.look(Item::DataDir, Haste::InTime)?.map(drop));
        }
        let locked = if place.is_open { package::lock(&place.file) } else { Err(package::IN_USE) };
        if locked == Err(package::IN_USE) {
            self.host.words = match self.host.holders.get(&key) {
                Some((name, guard)) => format!(
                    "rocker {name} has it, whose guard is {guard}: each needs a data dir of its own"
                ),
                None => "no rocker that this master knows has it".to_owned(),
            };
        }
        locked?;
        launch.data = Some(place.file);
        self.held.data_dir = Some(key);
        self.held.overlays = self.host.overlays.enter(key);
        Ok(Poll::Ready(()))
    }

    /// root.2. A thread makes them, for that may take long as well. Whatever comes of it, they go
    /// with this session.
    fn make_cgroup(&mut self) -> Result<Poll<()>, Refusal> {
        let Host { config, errands, steward, words, proc, .. } = &mut *self.host;
        let launch = self.held.launch.as_deref_mut().ok_or(Errno::BADF)?;
        launch.wakes_ns = launch.gives_up_ns;
        match heard(&mut launch.making, launch.gives_up_ns)? {
            Poll::Ready(None) => {}
            Poll::Ready(Some(made)) => {
                launch.cgroups = made.map_err(|refusal| split(refusal, words))?;
                return Ok(Poll::Ready(()));
            }
            Poll::Pending => return Ok(Poll::Pending),
        }
        if launch.gives_up_ns <= now_ns() {
            return Err(package::TOO_SLOW.into());
        }
        let Some((errand, told)) = errands.look(launch.caller.uid) else {
            return Ok(Poll::Pending);
        };
        {
            let request = launch.request().ok_or(Errno::PROTO)?;
            let limits = config.limits(&launch.caller, request.options.limits);
            let disks = match limits.io_read.or(limits.io_write) {
                Some(_) => launch.disks(proc, self.held.data_dir),
                None => Ok(vec![]),
            };
            let disks = disks.map_err(|refusal| split(refusal, words))?;
            let name = draw_name()?;
            self.held.limited = Some(name);
            steward.make(name, &limits, disks, errand);
        }
        launch.making = Some(told);
        Ok(Poll::Pending)
    }

    /// prepare.0
    fn clone_guard(&mut self) -> Result<(), Refusal> {
        let name = self.held.limited.map_or_else(draw_name, Ok)?;
        let began_ns = now_ns();
        self.host.notice_mounts(began_ns);
        let ready = self.host.pool.take(began_ns);
        if let (Some(ready), true) = (&ready, self.launch()?.trace) {
            self.host.words =
                format!("unshare --mount --pid --fork rocker-guard # {}, ready", ready.pid);
        }
        let Ready { pid: guard_pid, link } = match ready {
            Some(ready) => ready,
            None => self.host.clone_guard()?,
        };
        self.held.overlays.iter().for_each(overlays::Lease::begins);
        let launch = self.launch_mut()?;
        launch.link = Some(link);
        let rocker = launch.request().map(|request| Rocker {
            name,
            guard_pid,
            app_id: request.app_id,
            uid: request.uid,
            owner: launch.caller.uid,
            began_ns,
            package: request.package.as_bytes().into(),
        });
        self.held.rocker = rocker;
        Ok(())
    }

    /// root.3. The master keeps no copy of what it hands over.
    fn hand_over(&mut self) -> Result<(), Refusal> {
        let (Some(launch), Some(rocker)) = (self.held.launch.as_deref_mut(), &self.held.rocker)
        else {
            return Err(Errno::BADF.into());
        };
        {
            let request = launch.request().ok_or(Errno::PROTO)?;
            let overlaid = !request.overlays.is_empty();
            let (devices, words) = (&mut self.host.devices, &mut self.host.words);
            let dev = devices.of(App { uid: request.uid, gid: request.gid }, request.options.dev);
            let dev = dev.map_err(|refusal| split(refusal, words))?;
            let (name, guard_pid) = (rocker.name, rocker.guard_pid);
            let opened = launch.package.as_ref().ok_or(Errno::BADF)?;
            let package = opened.how;
            let mount = self.held.lease.as_ref().and_then(Lease::mount);
            let handed = if let Package::Shared { .. } = package {
                mount.ok_or(Errno::BADF)?
            } else {
                &opened.place
            };
            let cgroups = launch.cgroups.iter().map(|made| made.what).collect();
            let message = Message::Master(MasterMessage::HandOver {
                name,
                guard_pid,
                request,
                package,
                cgroups,
            });
            let held = [launch.client.as_ref(), Some(handed), launch.data.as_ref()];
            let groups = launch.cgroups.iter().flat_map(|made| [&made.procs, &made.dir]);
            let descriptors: heapless::Vec<BorrowedFd<'_>, DESCRIPTORS_MAX> =
                held.into_iter().flatten().chain(groups).chain(&dev).map(AsFd::as_fd).collect();
            let link = launch.link.as_ref().ok_or(Errno::BADF)?;
            if let Some(lease) = self.held.overlays.as_ref().filter(|_| overlaid) {
                let (is_old, kept) = (lease.is_old(), lease.take());
                let (seal, marks, given) = kept.as_ref().map_or_else(Default::default, |kept| {
                    (&*kept.seal, &*kept.marks, &*kept.descriptors)
                });
                // The guard would make others, and is to unmount these: that may take long.
                let seal = if is_old { &[] } else { seal };
                let layers = u8::try_from(given.len().saturating_sub(1)).unwrap_or(u8::MAX);
                let message = Message::Master(MasterMessage::Keep { seal, layers, marks });
                let given: heapless::Vec<BorrowedFd<'_>, DESCRIPTORS_MAX> =
                    given.iter().map(AsFd::as_fd).collect();
                socket::send(link, &message, &given, &mut self.host.outbox)?;
            }
            socket::send(link, &message, &descriptors, &mut self.host.outbox)?;
        }
        (launch.client, launch.package, launch.data) = (None, None, None);
        launch.cgroups = vec![];
        Ok(())
    }

    /// prepare.3
    fn await_mount(&mut self) -> Poll<Outcome> {
        let heard = self.hear_guard(|message| matches!(message, GuardMessage::Mounted { .. }));
        let lease = self.held.lease.as_ref();
        if let (Poll::Ready(Outcome::Done), Some(lease)) = (&heard, lease)
            && let Some(Message::Guard(GuardMessage::Mounted { loop_dev })) = self.host.inbox.last()
            && let Some(mount) = self.host.received.pop()
        {
            lease.put(mount, loop_dev);
        }
        heard
    }

    /// prepare.7
    fn await_done(&mut self) -> Poll<Outcome> {
        let heard =
            self.hear_guard(|said| matches!(said, GuardMessage::Done | GuardMessage::Kept { .. }));
        if let (Poll::Ready(Outcome::Done), Some(lease)) = (&heard, &self.held.overlays)
            && let Some(Message::Guard(GuardMessage::Kept { seal, root, top_dirs, .. })) =
                self.host.inbox.last()
        {
            let request = self.held.launch.as_ref().and_then(|launch| launch.request());
            let is_volatile = request.is_some_and(|request| request.options.volatile);
            let descriptors = core::mem::take(&mut self.host.received);
            let (top_dirs, marks) = (top_dirs.as_bytes().into(), [].into());
            let seal = seal.into();
            lease.put(Kept { descriptors, seal, root, top_dirs, marks, is_volatile });
        }
        heard
    }

    /// What the guard says, which has to be what is awaited, or what its silence means.
    fn hear_guard(&mut self, is_awaited: fn(&GuardMessage<'_>) -> bool) -> Poll<Outcome> {
        let Some(Launch { link: Some(link), deadline_ns, .. }) = self.held.launch.as_deref() else {
            return Poll::Ready(Outcome::Failed(Errno::BADF));
        };
        if !self.has_news {
            // It was told something a moment ago, and what it says to that wakes this session.
            return Poll::Pending;
        }
        Poll::Ready(match socket::receive(link, &mut self.host.inbox) {
            Ok(Received::Message(Message::Guard(said), with)) if is_awaited(&said) => {
                self.host.received = with;
                Outcome::Done
            }
            Ok(Received::Message(..)) => Outcome::Lost(Loss::Garbage),
            Ok(Received::Empty) if now_ns() < *deadline_ns => return Poll::Pending,
            Ok(Received::Empty) => Outcome::Lost(Loss::Silent),
            Ok(Received::Lost(how)) => Outcome::Lost(how),
            Err(errno) => Outcome::Failed(errno),
        })
    }

    fn guard_pid(&self) -> Result<u32, Errno> {
        self.held.rocker.as_ref().map(|rocker| rocker.guard_pid).ok_or(Errno::SRCH)
    }

    /// prepare.8
    fn write_map(&self, action: Action) -> Result<(), Refusal> {
        // A pid that was reaped may be another's by now.
        let guard = self.guard_pid().ok().filter(|_| !self.held.exited).ok_or(Errno::SRCH)?;
        let request = self.launch()?.request().ok_or(Errno::PROTO)?;
        let inside = request.ids.inside(request.uid, request.gid);
        let proc = &self.host.proc;
        let written = match action {
            Action::DenySetgroups => id_maps::deny_setgroups(proc, guard),
            Action::WriteUidMap => id_maps::write_uid_map(proc, guard, inside.0, request.uid),
            _ => id_maps::write_gid_map(proc, guard, inside.1, request.gid),
        };
        Ok(written.map_err(errno)?)
    }

    /// prepare.9
    fn record(&mut self) -> Result<(), Refusal> {
        if let (Some(key), Some(rocker)) = (self.held.data_dir, &self.held.rocker) {
            self.host.holders.insert(key, (rocker.name, rocker.guard_pid));
        }
        let (Some(records), Some(rocker)) = (&self.host.records, &self.held.rocker) else {
            return Ok(());
        };
        Ok(records.write(rocker).map_err(errno)?)
    }

    /// The last word to the guard: prepare.9, or why not. It closes its end when it has the App
    /// or by its own end, and has a little longer for that than the caller has patience.
    fn say_last(&mut self, message: &Message<'_>) -> Result<(), Refusal> {
        let launch = self.held.launch.as_deref_mut().ok_or(Errno::BADF)?;
        let link = launch.link.as_ref().ok_or(Errno::BADF)?;
        launch.deadline_ns += u64::from(GRACE_MS) * 1_000_000;
        // Nobody passes on what comes after it.
        launch.trace = false;
        let said = socket::send(link, message, &[], &mut self.host.outbox);
        if said.is_err() {
            // Whom it did not reach hears the end; that there is none already is fine.
            let _ = shutdown(link, Shutdown::Write);
        }
        Ok(said?)
    }

    /// prepare.9
    fn release(&mut self) -> Result<(), Refusal> {
        let said = self.say_last(&Message::Master(MasterMessage::GoOn));
        if let (Ok(()), Some(launch)) = (&said, self.held.launch.as_deref_mut()) {
            (launch.is_going, launch.wakes_ns) = (true, now_ns() + UNHEARD_NS);
        }
        said
    }

    /// enter.4
    fn await_app(&mut self) -> Poll<Outcome> {
        let outcome = self.hear_guard(|_| false);
        if let (true, Some(launch)) = (self.has_news, self.held.launch.as_deref_mut()) {
            launch.is_going = false;
        }
        if outcome == Poll::Ready(Outcome::Lost(Loss::Silent))
            && let Some(rocker) = &self.held.rocker
        {
            log::warn!("rocker {}: its guard does not go on, and is killed", rocker.name);
        }
        outcome
    }

    /// root.15
    fn free_residue(&mut self) -> Result<(), Refusal> {
        if let Some(name) = self.held.limited.take() {
            self.host.steward.remove(name);
        }
        if let (Some(key), Some(rocker)) = (self.held.data_dir, &self.held.rocker) {
            // It may be the next one's by now.
            let holder = self.host.holders.get(&key).is_some_and(|(name, _)| *name == rocker.name);
            holder.then(|| self.host.holders.remove(&key));
        }
        if let (Some(records), Some(rocker)) = (&self.host.records, &self.held.rocker) {
            records.remove(rocker.name).map_err(errno)?;
        }
        for waiter in self.held.waiters.drain(..) {
            // Whoever has stopped waiting does not need to know.
            let gone = Message::Master(MasterMessage::Gone);
            let _ = socket::send(&waiter, &gone, &[], &mut self.host.outbox);
        }
        Ok(())
    }

    /// Tells the caller of a failure, and lets go of caller and guard.
    fn refuse(&mut self, error: Error) -> Result<(), Refusal> {
        let command = self.host.failed_command(error);
        self.held.lease = None;
        let launch = self.held.launch.as_deref_mut().ok_or(Errno::BADF)?;
        launch.link = None;
        let client = launch.client.take().ok_or(Errno::PIPE)?;
        let failure = Failure { error, command: command.as_str() };
        let message = Message::Master(MasterMessage::Failed(failure));
        Ok(socket::send(&client, &message, &[], &mut self.host.outbox)?)
    }

    /// Tells the guard of a failure, which tells the caller.
    fn stop_guard(&mut self, error: Error) -> Result<(), Refusal> {
        let command = self.host.failed_command(error);
        let failure = Failure { error, command: command.as_str() };
        self.say_last(&Message::Master(MasterMessage::Failed(failure)))
    }

    fn perform_now(&mut self, action: Action) -> Poll<Outcome> {
        let answer = match action {
            Action::AwaitRequest => return self.await_request(),
            Action::CheckCaller => self.check_caller(),
            Action::OpenPackage => match self.open_package() {
                Ok(Poll::Pending) => return Poll::Pending,
                answer => answer.map(drop),
            },
            Action::LockDataDir => match self.lock_data_dir() {
                Ok(Poll::Pending) => return Poll::Pending,
                answer => answer.map(drop),
            },
            Action::FindMount => return self.find_mount(),
            Action::MakeCgroup => match self.make_cgroup() {
                Ok(Poll::Pending) => return Poll::Pending,
                answer => answer.map(drop),
            },
            Action::CloneGuard => self.clone_guard(),
            Action::HandOver => self.hand_over(),
            Action::AwaitMount => return self.await_mount(),
            Action::AwaitDone => return self.await_done(),
            Action::DenySetgroups | Action::WriteUidMap | Action::WriteGidMap => {
                self.write_map(action)
            }
            Action::RecordRocker => self.record(),
            Action::ReleaseGuard => self.release(),
            Action::AwaitApp => return self.await_app(),
            Action::AwaitExit if self.held.exited => return Poll::Ready(Outcome::Exited),
            Action::AwaitExit => return Poll::Pending,
            Action::FreeResidue => self.free_residue(),
            Action::Refuse(error) => self.refuse(error),
            Action::StopGuard(error) => self.stop_guard(error),
            Action::KillGuard => {
                // Others may wait for a mount that will not come.
                self.held.lease = None;
                kill_guard(self.held).map_err(Refusal::from)
            }
        };
        Poll::Ready(match answer {
            Ok(()) => Outcome::Done,
            Err(Refusal::System(errno)) => Outcome::Failed(errno),
            Err(Refusal::Rule(error)) => Outcome::Refused(error),
        })
    }

    /// Writes the action as the shell command that would do the same.
    fn describe(&mut self, action: Action) {
        let mut command = core::mem::take(&mut self.host.command);
        command.clear();
        // A Command takes any text.
        let _ = match core::mem::take(&mut self.host.words) {
            words if words.is_empty() => self.write_command(action, &mut command),
            words => command.write_str(&words),
        };
        self.host.command = command;
    }

    fn write_command(&self, action: Action, command: &mut Command) -> core::fmt::Result {
        let Some(request) = self.held.launch.as_ref().and_then(|launch| launch.request()) else {
            return Ok(());
        };
        let guard = self.guard_pid().unwrap_or(0);
        match action {
            Action::AwaitRequest => command.write_str("recvmsg # from the caller"),
            Action::CheckCaller => {
                let uid = self.held.launch.as_ref().map_or(0, |launch| launch.caller.uid);
                write!(command, "id {uid} # may it?")
            }
            Action::OpenPackage => write!(command, "open {}", request.package),
            Action::LockDataDir => match request.data_dir {
                Some(dir) => write!(command, "mkdir -m 700 {dir}/.rocker; flock {dir}/.rocker"),
                None => Ok(()),
            },
            Action::FindMount => write!(command, "findmnt --types squashfs # {}", request.package),
            Action::MakeCgroup => {
                let name = self.held.limited.map(|name| name.to_string()).unwrap_or_default();
                write!(command, "cgcreate -g *:{}/{name}", self.host.config.cgroup.display())
            }
            Action::CloneGuard => command.write_str("unshare --mount --pid --fork rocker-guard"),
            Action::HandOver => command.write_str("sendmsg # to the guard, with descriptors"),
            Action::AwaitMount => command.write_str("recvmsg # from the guard, with the mount"),
            Action::AwaitDone => command.write_str("recvmsg # from the guard"),
            Action::DenySetgroups => write!(command, "echo deny > /proc/{guard}/setgroups"),
            Action::WriteUidMap => {
                let (uid, inside) = (request.uid, request.ids.inside(request.uid, 0).0);
                write!(command, "echo {inside} {uid} 1 > /proc/{guard}/uid_map")
            }
            Action::WriteGidMap => {
                let (gid, inside) = (request.gid, request.ids.inside(0, request.gid).1);
                write!(command, "echo {inside} {gid} 1 > /proc/{guard}/gid_map")
            }
            Action::RecordRocker => {
                let name = self.held.rocker.as_ref().map_or("", |rocker| rocker.name.as_str());
                write!(command, "echo {guard} > rockers/{name}")
            }
            Action::ReleaseGuard => command.write_str("sendmsg # to the guard"),
            Action::KillGuard => write!(command, "kill -KILL {guard}"),
            Action::AwaitApp
            | Action::AwaitExit
            | Action::FreeResidue
            | Action::Refuse(_)
            | Action::StopGuard(_) => Ok(()),
        }
    }

    /// Shows the step to the caller, or to the guard to pass on once it has the caller.
    fn trace(&mut self, step: Step, began_ns: u64, outcome: &Outcome) {
        let Some(launch) = self.held.launch.as_deref() else { return };
        let Some(to) = launch.client.as_ref().or(launch.link.as_ref()) else { return };
        let took_ns = now_ns() - began_ns;
        let errno = match outcome {
            Outcome::Failed(errno) => Some(*errno),
            _ => None,
        };
        let command = self.host.command.as_str();
        let step = TraceStep { actor: Actor::Master, step, began_ns, took_ns, errno, command };
        let message = Message::Master(MasterMessage::Step(step));
        // A peer that does not read loses its trace, not its App.
        let _ = socket::send(to, &message, &[], &mut self.host.outbox);
    }
}

impl Driver<Session> for Work<'_> {
    fn perform(&mut self, step: Step, action: Action) -> Poll<Outcome> {
        let began_ns = now_ns();
        let Poll::Ready(outcome) = self.perform_now(action) else { return Poll::Pending };
        let is_told = matches!(action, Action::Refuse(_) | Action::StopGuard(_));
        let is_failure =
            matches!(outcome, Outcome::Failed(_) | Outcome::Lost(_) | Outcome::Refused(_));
        let traces = self.held.launch.as_ref().is_some_and(|launch| launch.trace);
        if (is_failure || traces) && !is_told {
            self.describe(action);
            if traces {
                self.trace(step, began_ns, &outcome);
            }
        }
        Poll::Ready(outcome)
    }
}

/// What a connection is for.
#[derive(Clone, Copy)]
enum Asked {
    Launch(Wants),
    List,
    Kill(Name),
    Attach(Name),
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

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Rule(error)
    }
}

/// What a thread has found out; none if there was nothing to find out.
fn heard<T>(from: &mut Option<Receiver<T>>, gives_up_ns: u64) -> Result<Poll<Option<T>>, Error> {
    let Some(told) = from else { return Ok(Poll::Ready(None)) };
    match told.try_recv() {
        Ok(found) => {
            *from = None;
            Ok(Poll::Ready(Some(found)))
        }
        Err(TryRecvError::Empty) if now_ns() < gives_up_ns => Ok(Poll::Pending),
        Err(TryRecvError::Empty) => Err(package::TOO_SLOW),
        // There was no thread to be had.
        Err(TryRecvError::Disconnected) => Err(package::failed(rustix::io::Errno::BUSY)),
    }
}

/// Keeps the words for people.
fn split(unmade: Unmade, kept: &mut String) -> Refusal {
    let (refusal, words) = match unmade {
        Unmade::Rule(error, words) => (Refusal::Rule(error), words),
        Unmade::System(error, words) => (Refusal::System(errno(error)), words),
    };
    *kept = words;
    refusal
}

/// How long after a kill ends are seen to at once: somebody waits for one.
const HURRY_NS: u64 = 1_000_000_000;

/// How long nobody listens to a guard that was told prepare.9. It needs nothing of its master any
/// more, and that it closes their connection would wake this one on its App's processor.
const UNHEARD_NS: u64 = 3_000_000;

/// Room for the answer to `List`, in bytes: a thousand for each of 16,000 rockers.
const LIST_QUEUE: usize = 16 << 20;

/// Connections of one user's that wait for the ends of rockers.
const WAITERS_MAX: usize = 16;

const PASSED_ON: Message<'_> = Message::Master(MasterMessage::Attach);

const NO_SUCH_ROCKER: Error = Error::Invalid { rule: Rule::NoSuchRocker, item: Item::Name };

/// 60 random bits are unique among living rockers.
fn draw_name() -> Result<Name, Errno> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).map_err(errno)?;
    Ok(Name::from_random(u64::from_ne_bytes(random)))
}

const FOREIGN: Error = Error::Invalid { rule: Rule::ForeignNamespace, item: Item::Request };

/// SIGKILL, to a child that is not reaped yet, or by pidfd: never to another process.
fn kill_guard(held: &Held) -> Result<(), Errno> {
    if held.exited {
        return Err(Errno::SRCH);
    }
    if let Some(guard) = &held.adopted {
        return pidfd_send_signal(guard, PidfdSignal::KILL).map_err(errno);
    }
    let pid = held.rocker.as_ref().map(|rocker| rocker.guard_pid).ok_or(Errno::SRCH)?;
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    kill(pid, Signal::SIGKILL).map_err(from_nix)
}

/// The way into a living guard, which is that guard's own: see `guard/src/peers.rs`. It is asked
/// for each time anew, so that nothing is held for a living rocker.
fn intake(held: &Held) -> Result<OwnedFd, Errno> {
    if held.exited {
        return Err(Errno::SRCH);
    }
    let get =
        |guard: BorrowedFd<'_>| pidfd_getfd(guard, INTAKE, PidfdGetfdFlags::empty()).map_err(errno);
    if let Some(guard) = &held.adopted {
        return get(guard.as_fd());
    }
    // A child that is not reaped yet: the number is its own.
    let pid = held.rocker.as_ref().map(|rocker| rocker.guard_pid.cast_signed());
    let pid = pid.and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    get(pidfd_open(pid, PidfdFlags::empty()).map_err(errno)?.as_fd())
}

/// Puts a connection where a guard takes it out, and closes it. The guard lets others send
/// descriptors to it: if the guard had it before the master has closed it, and ended, the master
/// would have to close those, which can take as long as their sender likes (`rights.rs`).
fn pack(connection: &mut Option<OwnedFd>, outbox: &mut Buffer) -> Result<OwnedFd, Errno> {
    let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    let (ours, parcel) = socketpair(family, SocketType::SEQPACKET, flags, None).map_err(errno)?;
    let packed = connection.as_ref().ok_or(Errno::BADF)?;
    socket::send(&ours, &PASSED_ON, &[packed.as_fd()], outbox)?;
    *connection = None;
    Ok(parcel)
}

/// Takes it out again.
fn unpack(parcel: &OwnedFd, inbox: &mut Buffer) -> Option<OwnedFd> {
    match socket::receive(parcel, inbox) {
        Ok(Received::Message(_, mut packed)) => packed.pop(),
        _ => None,
    }
}

fn from_io(error: &std::io::Error) -> Errno {
    Errno(error.raw_os_error().and_then(|number| u16::try_from(number).ok()).unwrap_or(0))
}

fn from_nix(error: nix::errno::Errno) -> Errno {
    Errno(u16::try_from(error as i32).unwrap_or(0))
}

/// Whether there is nothing to be heard: the process behind a pidfd has not ended yet, a peer has
/// neither said anything nor hung up.
pub(crate) fn is_silent(source: BorrowedFd<'_>) -> bool {
    let mut sources = [PollFd::from_borrowed_fd(source, PollFlags::IN)];
    matches!(poll(&mut sources, Some(&Timespec::default())), Ok(0))
}
