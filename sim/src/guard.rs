//! The guard's driver: what `guard/src/linux.rs` does, over the fake kernel.

use core::task::Poll;

use guard::action::{Action, Order};
use guard::machine::{Guard, Outcome, Peer, State, forbidden_overlay};
use protocol::limits::{REST_MS, UNREAD_MS};
use protocol::{Driver, Errno, Error, Exit, Item, Loss, Name, Path, Rule, Step, request};

use crate::app::AppActor;
use crate::client::check_app;
use crate::fault::{Call, Who};
use crate::kernel::{Answer, Fd, Gate, Kernel, Pid, Received, Role, Seal, TreeKind};
use crate::message::{Body, Message};
use crate::orders::{Programs, Running, SIGKILL};
use crate::scene::{
    DIRECTORIES, Does, EXEC_DIR, HOST_DIRECTORIES, HOST_MOUNT, Launch, Place, STAGE, TEXT_PACKAGE,
};
use crate::violation::Violation;

/// PID 1 of one rocker: its machine, and what its driver holds.
#[derive(Debug)]
pub(crate) struct GuardActor {
    pub(crate) machine: Guard,
    pub(crate) hands: Hands,
}

/// What a guard holds.
#[derive(Debug)]
pub(crate) struct Hands {
    pub(crate) pid: Pid,
    table: usize,
    launch: Option<Handed>,
    /// Where overlay.1 has put the first directory's part.
    first_place: Option<usize>,
    /// Which layers had to be attached before parts of them could be cloned, and whether any had.
    was_staged: bool,
    /// The master wants the overlays, and what an earlier launch has left of them.
    keeps: bool,
    kept: Option<Seal>,
    /// It has them.
    is_kept: bool,
    watched: Vec<Pid>,
    /// root.9: until when it rests, and whom it has found no word on before.
    rests_until_ms: Option<u64>,
    rested_among: Option<(usize, u16, bool)>,
    /// The launch is over.
    lives: bool,
    pub(crate) programs: Programs,
    /// The order that came last.
    order: Option<Body>,
    /// What exec.2 and exec.3 are to tell.
    started: Option<Pid>,
    /// Ended children of whom SIGCHLD was read.
    known_ends: Vec<Pid>,
    /// More children may have ended than were reaped.
    has_more: bool,
    /// Until when a peer has to read something; none: there is room.
    read_by_ms: [Option<u64>; PEERS_MAX],
    /// Who comes first the next time.
    turn: usize,
    /// With whom something went wrong.
    hurt: Vec<Peer>,
    /// What programs would see.
    view: View,
    configured: bool,
    /// A program was started.
    begun: bool,
}

/// How far a configuration has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum View {
    /// Of an earlier time, or not begun.
    Stale,
    /// Without what the init command does.
    Mounted,
    /// All there.
    Whole,
}

#[derive(Clone, Copy, Debug)]
struct Handed {
    number: usize,
    name: Name,
    pid: Pid,
    deadline_ms: u64,
}

impl GuardActor {
    /// Just executed, with one end of a socket pair.
    pub(crate) fn new(kernel: &mut Kernel, pid: Pid, link: Fd) -> Self {
        let table = kernel.new_table(pid);
        kernel.install(table, Role::Link, link);
        for (role, end) in [Role::Intake, Role::IntakeOutside].into_iter().zip(kernel.socketpair())
        {
            kernel.install(table, role, end);
        }
        let (launch, first_place, watched) = (None, None, vec![]);
        let (rests_until_ms, rested_among) = (None, None);
        let hands = Hands {
            pid,
            table,
            launch,
            first_place,
            was_staged: false,
            keeps: false,
            kept: None,
            is_kept: false,
            watched,
            rests_until_ms,
            rested_among,
            lives: false,
            programs: Programs::default(),
            order: None,
            started: None,
            known_ends: vec![],
            has_more: false,
            read_by_ms: [None; PEERS_MAX],
            turn: 0,
            hurt: vec![],
            view: View::Whole,
            configured: false,
            begun: false,
        };
        Self { machine: Guard::default(), hands }
    }

    /// Which launch it is for, once it knows.
    pub(crate) fn launch(&self) -> Option<usize> {
        self.hands.launch.map(|launch| launch.number)
    }
}

/// What only the building of a rocker needs: it must be closed by enter.4.
const BUILDING: [Role; 9] = [
    Role::Cgroup,
    Role::Package,
    Role::LoopDevice,
    Role::PackageMount,
    Role::SharedMount,
    Role::Dev,
    Role::Layers,
    Role::LayerOfRoot,
    Role::LayerOfVar,
];

/// A guard at work.
pub(crate) struct AtWork<'a> {
    pub(crate) kernel: &'a mut Kernel,
    pub(crate) hands: &'a mut Hands,
    pub(crate) scenes: &'a [Launch],
    pub(crate) apps: &'a mut Vec<AppActor>,
}

impl Driver<Guard> for AtWork<'_> {
    fn perform(&mut self, _: Step, action: Action) -> Poll<Outcome> {
        let outcome = self.act(action);
        let is_told = matches!(action, Action::ReportFailure(_));
        let traces = !self.hands.lives && self.launch().is_ok_and(|(_, scene)| scene.trace);
        if outcome.is_ready() && !is_told && traces {
            self.show();
        }
        outcome
    }
}

impl AtWork<'_> {
    fn act(&mut self, action: Action) -> Poll<Outcome> {
        Poll::Ready(match action {
            Action::AwaitRequest => return self.await_request(),
            Action::IsolateMounts => told(self.isolate()),
            Action::FindFreeLoop => match self.kernel.find_free_loop(self.hands.pid) {
                Ok(device) => Outcome::LoopIs(u32::try_from(device).unwrap_or(u32::MAX)),
                Err(errno) => Outcome::Failed(errno),
            },
            Action::BindLoop { loop_dev } => match self.launch() {
                Ok((_, scene)) if scene.package == TEXT_PACKAGE => Outcome::Refused(NO_IMAGE),
                _ => told(self.bind(device(loop_dev))),
            },
            Action::MountPackage { loop_dev } => told(self.mount_package(device(loop_dev))),
            Action::SharePackage { loop_dev } => told(self.share_package(loop_dev)),
            Action::ReusePackage { loop_dev } => told(self.reuse_package(device(loop_dev))),
            Action::ListTopDirs => self.list_top_dirs(),
            Action::BuildOverlay { layer } => told(self.build_overlay(layer)),
            Action::MountOverlay { place } => told(self.mount_overlay(place)),
            Action::AttachPackage => told(self.attach_package()),
            Action::RemountProc => told(self.remount_proc()),
            Action::TakeAppIds => told(self.take_ids()),
            Action::UnshareUser => told(self.kernel.unshare_user(self.hands.pid)),
            Action::DropPrivileges => told(self.drop_privileges()),
            Action::ReportDone => told(self.report_done()),
            Action::AwaitRelease => return self.await_release(),
            Action::SendEntrance => return self.send_entrance().map(told),
            Action::AwaitApp => return self.await_app(),
            Action::Listen => return self.listen(),
            Action::StartProgram { peer } => told(self.start_program(peer)),
            Action::ReportStarted { peer, id } => told(self.report_started(peer, id)),
            Action::ReportNotStarted { peer, id, error } => {
                told(self.reply(peer, Body::ExecFailed { id, error }, &[]))
            }
            Action::SendSignal { peer, id, signal } => {
                let pid = self.hands.pid;
                told(self.hands.programs.signal(self.kernel, pid, peer, id, signal))
            }
            Action::LetGo { peer, id } => told(self.hands.programs.let_go(self.kernel, peer, id)),
            Action::Answer { peer } => told(self.reply(peer, Body::Pong, &[])),
            Action::Welcome { peer } => told(self.welcome(peer)),
            Action::TurnAway => told(self.turn_away()),
            Action::CarryOut { peer, id, order } => told(self.carry_out(peer, id, order)),
            Action::Bury => self.bury(),
            Action::BuildView => told(self.build_view()),
            Action::RunInit => told(self.run_init()),
            Action::ReportObeyed { peer, id } => told(self.reply(peer, Body::Obeyed { id }, &[])),
            Action::HangUp { peer, kills } => {
                self.hang_up(peer, kills);
                Outcome::Done
            }
            Action::KillLate => {
                self.hands.programs.kill_late(self.kernel);
                Outcome::Done
            }
            Action::Reap => self.reap(),
            Action::ReportExit { peer } => told(self.report_exit(peer)),
            Action::FindStrangers => self.find_strangers().unwrap_or_else(Outcome::Failed),
            Action::Rest => return self.rest(),
            Action::Settle { is_alone } => self.settle(is_alone),
            Action::ReportFailure(error) => return self.report_failure(error).map(told),
        })
    }

    fn carry_out(&mut self, peer: Peer, id: u32, order: Order) -> Answer {
        match order {
            Order::Open | Order::Delete | Order::Symlink => self.kernel.call(Call::Files),
            Order::Configure => self.take_conf(),
            Order::Reset => {
                let pid = self.hands.pid;
                self.hands.programs.signal(self.kernel, pid, Peer::OWNER, None, SIGKILL)
            }
            Order::Adopt => {
                self.kernel.call(Call::OpenPidfd)?;
                self.hands.started = Some(self.hands.programs.adopt(peer, id)?);
                Ok(())
            }
        }
    }

    fn launch(&self) -> Answer<(Handed, Launch)> {
        let handed = self.hands.launch.ok_or(Errno::BADF)?;
        let scene = self.scenes.get(handed.number).copied().ok_or(Errno::BADF)?;
        Ok((handed, scene))
    }

    fn send(&mut self, role: Role, body: Body, fds: &[Fd]) -> Answer {
        self.kernel.send(self.hands.table, role, body, fds)
    }

    /// A caller that does not read loses its trace, not its App.
    fn show(&mut self) {
        if self.kernel.fd(self.hands.table, Role::Connection).is_ok() {
            let _ = self.send(Role::Connection, Body::Step, &[]);
        }
    }

    /// What has to be said: where the queue is full this waits, until the deadline.
    fn tell(&mut self, body: Body, fds: &[Fd]) -> Poll<Answer> {
        let deadline_ms = self.hands.launch.map_or(0, |launch| launch.deadline_ms);
        let has_room = self.kernel.is_writable(self.hands.table, Role::Connection);
        if !has_room && !self.kernel.is_late(deadline_ms) {
            // No call, so that how often one looks does not count.
            return Poll::Pending;
        }
        let mut said = self.send(Role::Connection, body, fds);
        if said == Err(Errno::AGAIN) && has_room {
            said = self.send(Role::Connection, body, fds);
        }
        Poll::Ready(said)
    }

    /// One message, or what its absence means; pending until the deadline.
    fn receive(&mut self, role: Role, deadline_ms: u64) -> Poll<Result<Message, Outcome>> {
        let received = match self.kernel.receive(self.hands.table, role) {
            Ok(received) => received,
            Err(errno) => return Poll::Ready(Err(Outcome::Failed(errno))),
        };
        Poll::Ready(Err(Outcome::Lost(match received {
            Received::Message(message) => return Poll::Ready(Ok(message)),
            Received::Lost(how) => how,
            Received::Empty if self.kernel.is_late(deadline_ms) => Loss::Silent,
            Received::Empty => return Poll::Pending,
        })))
    }

    /// root.3
    fn await_request(&mut self) -> Poll<Outcome> {
        let received = match self.receive(Role::Link, u64::MAX) {
            Poll::Ready(Ok(message)) => message,
            Poll::Ready(Err(outcome)) => return Poll::Ready(outcome),
            Poll::Pending => return Poll::Pending,
        };
        if let Body::Keep { seal } = received.body {
            (self.hands.keeps, self.hands.kept) = (true, seal);
            for fd in received.fds.into_iter().flatten() {
                let role = match fd {
                    Fd::Tree(_) => layer_role(self.kernel.layer_of(fd)),
                    _ => Role::Lock,
                };
                self.kernel.install(self.hands.table, role, fd);
            }
            self.kernel.drop_message(received);
            return self.await_request();
        }
        let Body::HandOver { launch: number, name, guard, package } = received.body else {
            self.kernel.drop_message(received);
            return Poll::Ready(Outcome::Lost(Loss::Garbage));
        };
        for fd in received.fds.into_iter().flatten() {
            let role = match fd {
                Fd::Package(_) => Role::Package,
                Fd::Tree(_) if self.kernel.is_dev(fd) => Role::Dev,
                Fd::Tree(_) => Role::SharedMount,
                Fd::Lock { .. } => Role::Lock,
                Fd::Cgroup(_) => Role::Cgroup,
                _ => Role::Connection,
            };
            self.kernel.install(self.hands.table, role, fd);
        }
        self.kernel.drop_message(received);
        let scene = self.scenes[number];
        let deadline_ms = self.kernel.now_ms + scene.timeout_ms;
        self.hands.launch = Some(Handed { number, name, pid: guard, deadline_ms });
        if scene.host_mount {
            self.kernel.add_host_mount(self.hands.pid, HOST_MOUNT);
        }
        let (overlays, life) = (scene.dirs > 0, scene.life());
        let syncs = overlays && self.hands.keeps;
        Poll::Ready(Outcome::RequestIs { overlays, package, life, syncs })
    }

    /// prepare.0
    fn isolate(&mut self) -> Answer {
        let (handed, _) = self.launch()?;
        self.kernel.process_mut(self.hands.pid).name = Some(handed.name);
        if let Ok(procs) = self.kernel.fd(self.hands.table, Role::Cgroup) {
            self.kernel.join_cgroup(self.hands.pid, procs)?;
        }
        self.kernel.make_private(self.hands.pid)
    }

    /// prepare.2
    fn bind(&mut self, device: usize) -> Answer {
        let Fd::Package(package) = self.kernel.fd(self.hands.table, Role::Package)? else {
            return Err(Errno::BADF);
        };
        let fd = self.kernel.bind_loop(self.hands.pid, device, package)?;
        self.kernel.install(self.hands.table, Role::LoopDevice, fd);
        Ok(())
    }

    /// prepare.3
    fn mount_package(&mut self, device: usize) -> Answer {
        let (_, scene) = self.launch()?;
        if !scene.good_package {
            self.kernel.call(Call::MountSquashfs)?;
            return Err(Errno(117));
        }
        let kind = TreeKind::Package { device };
        let tree = self.kernel.new_tree(self.hands.pid, Call::MountSquashfs, kind)?;
        self.kernel.install(self.hands.table, Role::PackageMount, tree);
        self.kernel.close(self.hands.table, Role::LoopDevice);
        self.kernel.close(self.hands.table, Role::Package);
        Ok(())
    }

    /// prepare.3: the master keeps it.
    fn share_package(&mut self, loop_dev: u32) -> Answer {
        let table = self.hands.table;
        let mount = self.kernel.fd(table, Role::PackageMount)?;
        self.send(Role::Link, Body::Mounted { loop_dev }, &[mount])?;
        self.kernel.install(table, Role::SharedMount, mount);
        self.kernel.close(table, Role::PackageMount);
        Ok(())
    }

    /// prepare.3, where what is attached nowhere can be cloned or the device mounted again.
    fn reuse_package(&mut self, device: usize) -> Answer {
        let (pid, table) = (self.hands.pid, self.hands.table);
        let shared = self.kernel.fd(table, Role::SharedMount)?;
        let tree = match self.kernel.clone_part(pid, shared) {
            Err(Errno::INVAL) => {
                self.kernel.new_tree(pid, Call::MountSquashfs, TreeKind::Package { device })?
            }
            answer => answer?,
        };
        self.kernel.install(table, Role::PackageMount, tree);
        self.kernel.close(table, Role::SharedMount);
        Ok(())
    }

    /// The App's.
    fn id(&self) -> Answer<u32> {
        let (handed, scene) = self.launch()?;
        Ok(scene.id(handed.number))
    }

    /// overlay.0
    fn list_top_dirs(&mut self) -> Outcome {
        let found = self.kernel.call(Call::OpenDirectories).and_then(|()| self.launch());
        let may_overlay = |at: &&&str| Path::new(at.as_bytes()).is_ok_and(request::may_overlay);
        match found {
            Ok((_, scene)) if scene.auto => {
                let top = DIRECTORIES.iter().chain(&HOST_DIRECTORIES).filter(may_overlay).count();
                let places = top + usize::from(scene.host_mount);
                let places = u16::try_from(places).unwrap_or(u16::MAX);
                Outcome::DirsAre { layers: scene.layers(), places }
            }
            Ok((_, Launch { forbidden: true, .. })) => Outcome::Refused(forbidden_overlay(1)),
            Ok((_, scene)) => Outcome::DirsAre {
                layers: scene.layers(),
                places: u16::try_from(scene.places().count()).unwrap_or(u16::MAX),
            },
            Err(errno) => Outcome::Failed(errno),
        }
    }

    /// prepare.4
    fn build_overlay(&mut self, layer: u16) -> Answer {
        let (pid, table) = (self.hands.pid, self.hands.table);
        let Fd::Lock { data } = self.kernel.fd(table, Role::Lock)? else {
            return Err(Errno::BADF);
        };
        if self.kernel.fd(table, Role::Layers).is_err() {
            self.kernel.call(Call::OpenLayers)?;
            let space = self.kernel.space_of(pid);
            self.kernel.install(table, Role::Layers, Fd::Layers { data, space });
            let (layers, id) = (self.launch()?.1.layers(), self.id()?);
            if self.hands.kept != Some(self.kernel.seal(data, layers, id)) {
                self.kernel.close(table, Role::LayerOfRoot);
                self.kernel.close(table, Role::LayerOfVar);
            }
        }
        if self.kernel.fd(table, layer_role(layer)).is_ok() {
            return Ok(());
        }
        let Fd::Layers { space: made, .. } = self.kernel.fd(table, Role::Layers)? else {
            return Err(Errno::BADF);
        };
        let kind = TreeKind::Overlay { data, layer, made };
        let id = self.id()?;
        self.kernel.set_file_ids(pid, id);
        let tree = self.kernel.new_tree(pid, Call::MountOverlay, kind);
        self.kernel.set_file_ids(pid, 0);
        let tree = tree?;
        self.kernel.install(table, layer_role(layer), tree);
        if !self.hands.keeps {
            self.kernel.attach(pid, tree, None, STAGE)?;
        }
        Ok(())
    }

    /// overlay.1
    fn mount_overlay(&mut self, place: u16) -> Answer {
        let (pid, table) = (self.hands.pid, self.hands.table);
        let (_, scene) = self.launch()?;
        let place = scene.places().nth(usize::from(place)).ok_or(Errno::INVAL)?;
        match place {
            Place::Directory { at } => {
                let layer = scene.layer_of(at);
                let whole = self.kernel.fd(table, layer_role(layer))?;
                let part = match self.kernel.clone_part(pid, whole) {
                    Err(Errno::INVAL) => {
                        self.kernel.attach(pid, whole, None, STAGE)?;
                        self.hands.was_staged = true;
                        self.kernel.clone_part(pid, whole)?
                    }
                    answer => answer?,
                };
                let index = self.kernel.attach(pid, part, None, at)?;
                self.hands.first_place.get_or_insert(index);
            }
            Place::HostMount => {
                let part = self.kernel.new_tree(pid, Call::OpenTree, TreeKind::Host)?;
                self.kernel.attach(pid, part, self.hands.first_place, HOST_MOUNT)?;
            }
        }
        Ok(())
    }

    /// prepare.3, its end: on what is at the exec dir now. Where it is missing it can be made in
    /// a layer of the App's only.
    fn attach_package(&mut self) -> Answer {
        let (pid, table) = (self.hands.pid, self.hands.table);
        let (_, scene) = self.launch()?;
        self.kernel.call(Call::OpenExecDir)?;
        let on = self.kernel.walk(pid, EXEC_DIR);
        if !scene.exec_dir && on.is_none() {
            return Err(Errno::NOENT);
        }
        let package = self.kernel.fd(table, Role::PackageMount)?;
        if self.kernel.package_of(package) != Some(scene.package) {
            let (handed, _) = self.launch()?;
            self.kernel.violated(Violation::WrongPackage { launch: handed.number });
        }
        self.kernel.attach(pid, package, on, EXEC_DIR).map(|_| ())
    }

    /// prepare.5
    fn remount_proc(&mut self) -> Answer {
        let (pid, table) = (self.hands.pid, self.hands.table);
        self.kernel.mount_proc(pid)?;
        self.kernel.call(Call::OpenProc)?;
        if self.launch()?.1.host_dev {
            return Ok(());
        }
        let dev = self.kernel.fd(table, Role::Dev)?;
        self.kernel.call(Call::OpenDev)?;
        let on = self.kernel.attach(pid, dev, None, "/dev")?;
        self.kernel.mount_in_dev(pid, on)
    }

    /// prepare.6
    fn take_ids(&mut self) -> Answer {
        let (pid, id) = (self.hands.pid, self.id()?);
        self.kernel.drop_groups(pid)?;
        self.kernel.take_ids(pid, id, id)?;
        self.kernel.keep_admin(pid)
    }

    /// prepare.6
    fn drop_privileges(&mut self) -> Answer {
        self.kernel.drop_capabilities(self.hands.pid)?;
        if self.launch()?.1.landlock {
            let ruleset = self.kernel.make_ruleset()?;
            self.kernel.install(self.hands.table, Role::Ruleset, ruleset);
        }
        Ok(())
    }

    /// prepare.7
    fn report_done(&mut self) -> Answer {
        let table = self.hands.table;
        let (_, scene) = self.launch()?;
        let lock = self.kernel.fd(table, Role::Lock);
        let (true, false, Ok(Fd::Lock { data })) =
            (self.hands.keeps && scene.dirs > 0, self.hands.was_staged, lock)
        else {
            return self.send(Role::Link, Body::Done, &[]);
        };
        let seal = self.kernel.seal(data, scene.layers(), self.id()?);
        let layers = (0..scene.layers()).map(|layer| self.kernel.fd(table, layer_role(layer)));
        let fds: heapless::Vec<Fd, 3> = layers.chain([lock]).collect::<Answer<_>>()?;
        self.send(Role::Link, Body::Kept { seal }, &fds)?;
        self.hands.is_kept = true;
        Ok(())
    }

    /// prepare.9
    fn await_release(&mut self) -> Poll<Outcome> {
        let deadline_ms = self.hands.launch.map_or(0, |launch| launch.deadline_ms);
        let outcome = loop {
            break match self.receive(Role::Link, deadline_ms) {
                Poll::Ready(Ok(Message { body: Body::Step, .. })) => {
                    self.show();
                    continue;
                }
                Poll::Ready(Ok(Message { body: Body::GoOn, .. })) => Outcome::Done,
                Poll::Ready(Ok(Message { body: Body::Failed(it), .. })) => Outcome::Refused(it),
                Poll::Ready(Ok(_)) => Outcome::Lost(Loss::Garbage),
                Poll::Ready(Err(outcome)) => outcome,
                Poll::Pending => return Poll::Pending,
            };
        };
        if outcome == Outcome::Done {
            self.kernel.released(self.hands.pid);
        }
        Poll::Ready(outcome)
    }

    fn stop_building(&mut self) {
        for role in BUILDING {
            self.kernel.close(self.hands.table, role);
        }
    }

    /// root.5
    fn send_entrance(&mut self) -> Poll<Answer> {
        let opened = self.launch().and_then(|(handed, _)| {
            // No further call while it waits for room.
            if self.kernel.is_writable(self.hands.table, Role::Connection) {
                self.kernel.call(Call::OpenPidfd)?;
            }
            self.kernel.accept_descriptors(self.hands.table, Role::Connection)?;
            Ok(Body::Entrance { name: handed.name, guard: handed.pid })
        });
        let body = match opened {
            Ok(body) => body,
            Err(errno) => return Poll::Ready(Err(errno)),
        };
        let procs = self.kernel.fd(self.hands.table, Role::Cgroup).ok();
        let enters = self.launch().is_ok_and(|(_, scene)| scene.orders.is_none());
        let ruleset = self.kernel.fd(self.hands.table, Role::Ruleset).ok().filter(|_| enters);
        let fds: heapless::Vec<Fd, 3> =
            [Fd::Pidfd(self.hands.pid)].into_iter().chain(procs).chain(ruleset).collect();
        let said = self.tell(body, &fds);
        if said == Poll::Ready(Ok(())) {
            self.stop_building();
        }
        said
    }

    /// enter.4
    fn await_app(&mut self) -> Poll<Outcome> {
        if let Some(role) = self.kernel.has_any(self.hands.table, &BUILDING) {
            self.kernel.violated(Violation::KeptDescriptor { role: format!("{role:?}") });
        }
        let deadline_ms = self.hands.launch.map_or(0, |launch| launch.deadline_ms);
        let outcome = match self.receive(Role::Connection, deadline_ms) {
            Poll::Ready(Ok(message)) => {
                let Message { body, fds } = message;
                let outcome = match self.ordered(Peer::OWNER, message) {
                    None if body == Body::AppStarted => Outcome::Done,
                    None => return Poll::Ready(Outcome::Lost(Loss::Garbage)),
                    Some(outcome) => outcome,
                };
                let enters = outcome == Outcome::Done;
                if enters != self.launch().is_ok_and(|(_, scene)| scene.orders.is_some()) {
                    // So the master hears that the launch is over.
                    self.kernel.close(self.hands.table, Role::Link);
                    self.hands.lives = true;
                    if enters {
                        let app = fds.into_iter().flatten().find_map(|fd| match fd {
                            Fd::Pidfd(pid) => Some(pid),
                            _ => None,
                        });
                        self.hands.watched.extend(app);
                        self.kernel.close(self.hands.table, Role::Connection);
                    }
                }
                outcome
            }
            Poll::Ready(Err(outcome)) => outcome,
            Poll::Pending => return Poll::Pending,
        };
        Poll::Ready(outcome)
    }

    /// What a peer says, if it is an order.
    fn ordered(&mut self, peer: Peer, message: Message) -> Option<Outcome> {
        self.kernel.drop_message(message);
        self.hands.order = Some(message.body);
        match message.body {
            Body::Exec { id, .. } => Some(Outcome::Exec { peer, id }),
            Body::Signal { id, signal } => Some(Outcome::Signal { peer, id, signal }),
            Body::Go { id } => Some(Outcome::Go { peer, id }),
            Body::Ping => Some(Outcome::Ping { peer }),
            Body::Do { id, order } => Some(Outcome::Order { peer, id, order }),
            _ => None,
        }
    }

    /// Everybody who is there, in turn.
    fn peers(&self) -> Vec<Peer> {
        let peers = (0..PEERS_MAX).map(|offset| peer_at(self.hands.turn + offset));
        peers.filter(|&peer| self.kernel.fd(self.hands.table, role_of(peer)).is_ok()).collect()
    }

    /// One that cannot be told anything has to read soon.
    fn has_room(&mut self, peer: Peer) -> bool {
        let has_room = self.kernel.is_writable(self.hands.table, role_of(peer));
        let until_ms = self.kernel.now_ms + u64::from(UNREAD_MS);
        let read_by_ms = &mut self.hands.read_by_ms[usize::from(peer.0)];
        *read_by_ms = if has_room { None } else { Some(read_by_ms.unwrap_or(until_ms)) };
        has_room
    }

    fn lose(&mut self, peer: Peer) -> Poll<Outcome> {
        self.hands.hurt.push(peer);
        Poll::Ready(Outcome::PeerLost { peer })
    }

    /// exec.0 and root.9
    fn listen(&mut self) -> Poll<Outcome> {
        let (table, pid) = (self.hands.table, self.hands.pid);
        let enters = self.launch().is_ok_and(|(_, scene)| scene.orders.is_none());
        let owner = enters.then_some(Role::Connection);
        let kept: Vec<Role> = BUILDING.into_iter().chain([Role::Link]).chain(owner).collect();
        if let Some(role) = self.kernel.has_any(table, &kept) {
            self.kernel.violated(Violation::KeptDescriptor { role: format!("{role:?}") });
        }
        if self.kernel.is_late(self.hands.programs.late_ms()) {
            return Poll::Ready(Outcome::Late);
        }
        let read_by_ms = self.hands.read_by_ms;
        for peer in self.peers() {
            let read_by_ms = read_by_ms[usize::from(peer.0)];
            if read_by_ms.is_some_and(|until_ms| self.kernel.is_late(until_ms)) {
                return self.lose(peer);
            }
        }
        let is_news = |child| !self.hands.known_ends.contains(&child);
        let mut changed = self.kernel.zombie_children(pid).any(is_news)
            || self.hands.has_more
            || self.hands.watched.iter().any(|&watched| self.kernel.has_ended(watched));
        let is_reading = |peer: Peer| read_by_ms[usize::from(peer.0)].is_some();
        let is_ready = |peer: &Peer| match is_reading(*peer) {
            true => self.kernel.is_writable(table, role_of(*peer)),
            false => self.kernel.is_readable(table, role_of(*peer)),
        };
        let ready: Vec<Peer> = self.peers().into_iter().filter(is_ready).collect();
        let is_violated = self.hands.programs.has_violations(self.kernel);
        let is_attached = self.kernel.is_readable(table, Role::Intake);
        if ready.is_empty() && !changed && !is_attached && !is_violated {
            // No call, so that how often one looks does not count.
            return Poll::Pending;
        }
        if let Err(errno) = self.kernel.call(Call::Poll) {
            return Poll::Ready(Outcome::Failed(errno));
        }
        if is_violated {
            self.hands.programs.hear_violations(self.kernel);
            return Poll::Ready(Outcome::Late);
        }
        if is_attached {
            match self.receive(Role::Intake, u64::MAX) {
                Poll::Ready(Ok(message)) => return Poll::Ready(self.take_in(message)),
                Poll::Ready(Err(Outcome::Lost(_))) | Poll::Pending => {}
                failed @ Poll::Ready(Err(_)) => {
                    return failed.map(|it| it.err().unwrap_or(Outcome::Done));
                }
            }
        }
        for peer in ready {
            if !self.has_room(peer) {
                continue;
            }
            if is_reading(peer) {
                changed = true;
                continue;
            }
            self.hands.turn = (usize::from(peer.0) + 1) % PEERS_MAX;
            return match self.receive(role_of(peer), u64::MAX) {
                Poll::Ready(Ok(message)) => match self.ordered(peer, message) {
                    Some(outcome) => Poll::Ready(outcome),
                    None => self.lose(peer),
                },
                Poll::Ready(Err(Outcome::Lost(_))) => self.lose(peer),
                Poll::Ready(Err(outcome)) => Poll::Ready(outcome),
                Poll::Pending => Poll::Pending,
            };
        }
        if changed { Poll::Ready(Outcome::Changed) } else { Poll::Pending }
    }

    /// The connection is in a socket that was passed on.
    fn take_in(&mut self, message: Message) -> Outcome {
        if let Some(parcel) = message.fds[0] {
            self.kernel.install(self.hands.table, Role::Newcomer, parcel);
        }
        self.kernel.drop_message(message);
        let packed = self.receive(Role::Newcomer, u64::MAX);
        self.kernel.close(self.hands.table, Role::Newcomer);
        match packed {
            Poll::Ready(Ok(message)) => self.admit(message),
            Poll::Ready(Err(Outcome::Lost(_))) | Poll::Pending => Outcome::Changed,
            Poll::Ready(Err(outcome)) => outcome,
        }
    }

    fn admit(&mut self, message: Message) -> Outcome {
        let table = self.hands.table;
        let Some(connection) = message.fds[0].filter(|_| message.body == Body::Newcomer) else {
            self.kernel.drop_message(message);
            return Outcome::Changed;
        };
        let mut places = (1..PEERS_MAX).map(peer_at);
        let place = places.find(|&peer| self.kernel.fd(table, role_of(peer)).is_err());
        self.kernel.install(table, place.map_or(Role::Newcomer, role_of), connection);
        self.kernel.drop_message(message);
        place.map_or(Outcome::Crowded, |peer| Outcome::Attached { peer })
    }

    fn welcome(&mut self, peer: Peer) -> Answer {
        let (handed, _) = self.launch()?;
        if let Err(errno) = self.kernel.call(Call::OpenPidfd) {
            self.hands.hurt.push(peer);
            return Err(errno);
        }
        self.kernel.accept_descriptors(self.hands.table, role_of(peer))?;
        let body = Body::Entrance { name: handed.name, guard: handed.pid };
        self.reply(peer, body, &[Fd::Pidfd(self.hands.pid)])
    }

    fn turn_away(&mut self) -> Answer {
        let error = Error::Failed { step: Step::HandOver, errno: Errno(87) };
        let said = self.send(Role::Newcomer, Body::Failed(error), &[]);
        self.kernel.close(self.hands.table, Role::Newcomer);
        said
    }

    fn hang_up(&mut self, peer: Peer, kills: bool) {
        if !self.hands.hurt.contains(&peer) {
            self.kernel.violated(Violation::GaveUp { guard: self.hands.pid });
        }
        self.hands.hurt.retain(|&hurt| hurt != peer);
        self.hands.read_by_ms[usize::from(peer.0)] = None;
        self.kernel.close(self.hands.table, role_of(peer));
        self.hands.programs.forget(self.kernel, peer, kills);
    }

    /// exec.1
    fn start_program(&mut self, peer: Peer) -> Answer {
        let (handed, scene) = self.launch()?;
        let Some(Body::Exec { id, does, terms }) = self.hands.order else {
            return Err(Errno(71));
        };
        self.hands.programs.can_start(peer, id)?;
        if self.hands.view != View::Whole {
            self.kernel.violated(Violation::HalfConfigured);
        }
        self.hands.begun = true;
        let late_ms = terms.late_ms(self.kernel.now_ms);
        if terms.sync {
            self.kernel.call(Call::Socketpair)?;
        }
        let who = Who::App(self.apps.len());
        let pid = self.kernel.clone_program(self.hands.pid, who)?;
        let parts = [
            Call::PlaceDescriptors,
            Call::TakeTerminal,
            Call::SetRlimit,
            Call::ChangeDirectory,
            Call::Execve,
        ];
        let process = self.kernel.process_mut(pid);
        process.ignores = does == Does::Ignore;
        if terms.sync {
            process.gate = Gate::Shut;
        }
        let wall = Some(Call::Enforce).filter(|_| scene.landlock);
        for part in wall.into_iter().chain(parts) {
            if part == Call::Execve && terms.sync {
                break;
            }
            let done = match part {
                Call::Enforce => self.kernel.enforce(pid),
                other => self.kernel.call(other),
            };
            if let Err(errno) = done {
                if terms.sync {
                    // exec.2 says that it is there; its end says this.
                    self.kernel.fails_at_gate(pid, errno);
                    break;
                }
                self.kernel.exit_with(pid, Exit::Status(127));
                return Err(errno);
            }
        }
        if self.kernel.process(pid).failure.is_none() {
            check_app(self.kernel, pid, handed.number, &scene);
        }
        self.apps.push(AppActor::program(pid, handed.number, does, late_ms, terms.grace_ms));
        self.hands.programs.running.push(Running::new(peer, id, pid, late_ms, terms.grace_ms));
        self.hands.started = Some(pid);
        Ok(())
    }

    /// exec.1 of a configuration: once, and before the first program.
    fn take_conf(&mut self) -> Answer {
        match (self.hands.configured, self.hands.begun) {
            (true, _) => Err(Errno::EXIST),
            (false, true) => Err(Errno::BUSY),
            (false, false) => {
                self.hands.configured = true;
                self.hands.view = View::Stale;
                Ok(())
            }
        }
    }

    /// exec.1 of a reset.
    fn bury(&mut self) -> Outcome {
        if let Err(errno) = self.kernel.call(Call::Poll) {
            return Outcome::Failed(errno);
        }
        while let Ok(Some(pid)) = self.kernel.wait_any(self.hands.pid) {
            self.hands.programs.note(self.kernel, pid);
        }
        match self.kernel.others(self.hands.pid).next() {
            None => Outcome::Alone,
            Some(_) => Outcome::Failed(Errno::TIME),
        }
    }

    /// exec.1: only alone, so that nobody sees the old next to the new.
    fn build_view(&mut self) -> Answer {
        if self.kernel.others(self.hands.pid).next().is_some() {
            self.kernel.violated(Violation::SawTwoViews);
        }
        self.hands.view = View::Stale;
        self.kernel.call(Call::MountView)?;
        self.hands.view = View::Mounted;
        Ok(())
    }

    fn run_init(&mut self) -> Answer {
        if self.hands.view != View::Mounted {
            self.kernel.violated(Violation::HalfConfigured);
        }
        if self.hands.configured {
            self.kernel.call(Call::RunInit)?;
        }
        self.hands.view = View::Whole;
        Ok(())
    }

    /// exec.2
    fn report_started(&mut self, peer: Peer, id: u32) -> Answer {
        let pid = self.hands.started.take().ok_or(Errno::SRCH)?;
        self.reply(peer, Body::Started { id }, &[Fd::Pidfd(pid)])
    }

    /// exec.3 and root.9
    fn reap(&mut self) -> Outcome {
        if let Err(errno) = self.kernel.call(Call::Wait) {
            return Outcome::Failed(errno);
        }
        let guard = self.hands.pid;
        self.hands.known_ends = self.kernel.zombie_children(guard).collect();
        self.hands.has_more = true;
        let mut children = true;
        for _ in 0..REAPED_MAX {
            match self.kernel.wait_any(guard) {
                Ok(Some(pid)) => {
                    self.hands.programs.note(self.kernel, pid);
                    continue;
                }
                Ok(None) => {}
                Err(_) => children = false,
            }
            self.hands.has_more = false;
            break;
        }
        let kernel = &mut *self.kernel;
        let lives = |pid: &Pid| kernel.call(Call::Poll).is_ok() && !kernel.has_ended(*pid);
        self.hands.watched.retain(lives);
        let untold = self.hands.programs.untold();
        match untold.iter().find(|&&peer| self.has_room(peer)) {
            Some(&peer) => Outcome::Exited { peer },
            None if children || !self.hands.watched.is_empty() || !untold.is_empty() => {
                Outcome::Watched
            }
            None => Outcome::NobodyKnown,
        }
    }

    /// exec.3
    fn report_exit(&mut self, peer: Peer) -> Answer {
        let exited = self.hands.programs.tell(peer).ok_or(Errno::SRCH)?;
        self.reply(peer, exited, &[])
    }

    /// There was room when the order was heard.
    fn reply(&mut self, peer: Peer, body: Body, fds: &[Fd]) -> Answer {
        let said = self.send(role_of(peer), body, fds);
        if said.is_err() {
            self.hands.hurt.push(peer);
        }
        said
    }

    /// Lets go of everything first: whoever hears of the failure may try again at once.
    fn report_failure(&mut self, error: Error) -> Poll<Answer> {
        self.stop_building();
        self.kernel.close(self.hands.table, Role::Lock);
        self.tell(Body::Failed(error), &[])
    }

    /// root.9, where the overlays outlive the rocker.
    fn settle(&mut self, is_alone: bool) -> Outcome {
        let (pid, lock) = (self.hands.pid, self.kernel.fd(self.hands.table, Role::Lock));
        let (true, Ok(Fd::Lock { data })) = (self.hands.is_kept, lock) else {
            return Outcome::Done;
        };
        if is_alone {
            return told(self.kernel.sync(data));
        }
        if !self.kernel.is_alone(pid)
            && let Err(errno) =
                self.hands.programs.signal(self.kernel, pid, Peer::OWNER, None, SIGKILL)
        {
            return Outcome::Failed(errno);
        }
        match self.bury() {
            Outcome::Alone => told(self.kernel.sync(data)),
            outcome => outcome,
        }
    }

    /// root.9: a `/proc` that is open takes neither memory nor a descriptor to look through.
    fn find_strangers(&mut self) -> Answer<Outcome> {
        let stranger = self.kernel.others(self.hands.pid).next();
        let Some(stranger) = stranger else { return Ok(Outcome::Alone) };
        self.kernel.call(Call::OpenPidfd)?;
        self.kernel.call(Call::Poll)?;
        self.hands.watched.push(stranger);
        Ok(Outcome::Watched)
    }
}

impl AtWork<'_> {
    /// root.9. It asks once a second; how often in vain is left out, for nothing else comes of
    /// it: after the first time it is told when there is another answer, or something is late.
    fn rest(&mut self) -> Poll<Outcome> {
        let (living, all) = self.kernel.census(self.hands.pid);
        let among = (living, all, self.kernel.plan.is_empty());
        let late_ms = self.hands.programs.late_ms();
        let is_late = self.kernel.now_ms >= late_ms || self.hands.rests_until_ms.is_some();
        if self.hands.rested_among == Some(among) && !is_late && !self.kernel.is_late(late_ms) {
            return Poll::Pending;
        }
        let until_ms = late_ms.min(self.kernel.now_ms + u64::from(REST_MS));
        let until_ms = *self.hands.rests_until_ms.get_or_insert(until_ms);
        if !self.kernel.is_late(until_ms) {
            return Poll::Pending;
        }
        self.hands.rests_until_ms = None;
        self.hands.rested_among = Some(among);
        Poll::Ready(Outcome::Done)
    }
}

/// Children that are reaped at once here: few, so that there are more soon.
const REAPED_MAX: usize = 2;

/// The owner, and whoever was attached: few, so that it is full soon.
const PEERS_MAX: usize = 3;

fn peer_at(number: usize) -> Peer {
    Peer(u8::try_from(number % PEERS_MAX).unwrap_or(0))
}

const fn role_of(peer: Peer) -> Role {
    match peer.0 {
        0 => Role::Connection,
        1 => Role::Attached,
        _ => Role::AttachedToo,
    }
}

/// Whether a guard has ended, and how.
pub(crate) enum Ended {
    With(Result<(), Error>),
    NotYet,
}

impl Ended {
    pub(crate) const fn of(state: State) -> Self {
        match state {
            State::Ended(result) => Self::With(result),
            _ => Self::NotYet,
        }
    }
}

const NO_IMAGE: Error = Error::Invalid { rule: Rule::NotSquashfs, item: Item::Package };

fn told(answer: Answer) -> Outcome {
    answer.map_or_else(Outcome::Failed, |()| Outcome::Done)
}

fn device(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

const fn layer_role(layer: u16) -> Role {
    match layer {
        0 => Role::LayerOfRoot,
        _ => Role::LayerOfVar,
    }
}
