//! The drivers of client and helper: what `client-rs/src/{linux,enter}.rs` do, over the fake
//! kernel.

use core::task::Poll;

use protocol::{Driver, Errno, Error, Item, Loss, Rule, Step};
use rocker_client::action::{Action, HelperAction, HelperOutcome, Outcome};

use crate::app::AppActor;
use crate::fault::{Call, Who};
use crate::kernel::{Answer, CONNRESET, Capabilities, Fd, Kernel, Pid, Received, Role, TreeKind};
use crate::library::{ClientMachine, HelperMachine, Library};
use crate::message::{Body, Message};
use crate::scene::{Does, EXEC_DIR, HOST_DIRECTORIES, HOST_MOUNT, Launch, Terms};
use crate::violation::Violation;

/// One launch as its caller has it: the client's machine, and what its driver holds.
#[derive(Debug)]
pub(crate) struct ClientActor {
    pub(crate) machine: ClientMachine,
    pub(crate) hands: Hands,
    pub(crate) helper: Option<HelperActor>,
    /// When the caller was told.
    pub(crate) told_ms: Option<u64>,
}

/// The forked child: its machine and its process. It has no descriptor of its own.
#[derive(Debug)]
pub(crate) struct HelperActor {
    pub(crate) pid: Pid,
    pub(crate) machine: HelperMachine,
}

/// What a client holds.
#[derive(Debug)]
pub(crate) struct Hands {
    pub(crate) pid: Pid,
    pub(crate) launch: usize,
    library: Library,
    table: usize,
    pub(crate) deadline_ms: u64,
    guard: Pid,
    helper: Option<Pid>,
    /// The memory shared with the helper: what the kernel and the helper write there.
    pub(crate) slip: Slip,
    /// enter.4 was said, and not in vain.
    pub(crate) reported: bool,
    /// exec.0 begins with a greeting.
    greets: bool,
    deceives: bool,
}

/// What helper and kernel leave to the client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slip {
    /// Written by the kernel as it makes the App.
    pub(crate) app: Option<Pid>,
    pub(crate) result: Option<Result<u32, Error>>,
}

impl ClientActor {
    /// An `AppMaster` that is about to launch.
    pub(crate) fn new(kernel: &mut Kernel, launch: usize, scene: &Launch) -> Self {
        let pid = kernel.fork(crate::kernel::INIT, Who::Client(launch));
        kernel.process_mut(pid).uid = scene.caller;
        let table = kernel.new_table(pid);
        let deadline_ms = kernel.now_ms + scene.timeout_ms;
        let library = scene.library;
        let hands = Hands {
            pid,
            launch,
            library,
            table,
            deadline_ms,
            guard: 0,
            helper: None,
            slip: Slip::default(),
            reported: false,
            greets: scene.greets,
            deceives: scene.deceives,
        };
        let machine = match scene.orders {
            Some(_) => ClientMachine::to_take_orders(library),
            None => ClientMachine::of(library),
        };
        Self { machine, hands, helper: None, told_ms: None }
    }

    /// The driver's end: an App that did not get past enter.4 ends here, and all descriptors go
    /// but the two pidfds of a success.
    pub(crate) fn finish(&mut self, kernel: &mut Kernel) {
        let Hands { pid, table, slip, .. } = self.hands;
        if !matches!(self.machine.result(), Some(Ok(_)))
            && let Some(app) = slip.app
        {
            let _ = kernel.kill_by_pidfd(app);
            let _ = kernel.wait_for(pid, app);
        }
        let takes_orders =
            matches!(self.machine.result(), Some(Ok(started)) if started.app_pid == 0);
        if !takes_orders {
            kernel.close(table, Role::Connection);
        }
        self.told_ms = Some(kernel.now_ms);
    }

    /// root.7: the guard and the App, as the caller got to know them.
    pub(crate) fn started(&self) -> Option<(Pid, Pid)> {
        let started = self.machine.result()?.ok()?;
        Some((started.guard_pid, started.app_pid))
    }
}

/// A client at work.
pub(crate) struct AtWork<'a> {
    pub(crate) kernel: &'a mut Kernel,
    pub(crate) hands: &'a mut Hands,
    pub(crate) helper: &'a mut Option<HelperActor>,
}

impl Driver<ClientMachine> for AtWork<'_> {
    fn perform(&mut self, _: Step, action: Action) -> Poll<Outcome> {
        match action {
            Action::Connect => self.connect(),
            Action::SendRequest => Poll::Ready(self.send_request()),
            Action::AwaitEntrance => self.await_entrance(),
            Action::ForkHelper => Poll::Ready(told(self.fork_helper())),
            Action::AwaitApp => self.await_app(),
            Action::ReportApp => Poll::Ready(self.report_app()),
            Action::Greet => Poll::Ready(self.greet()),
        }
    }
}

/// What is no announcement of an App.
const ORDER: Body = Body::Exec { id: 1, does: Does::Wait, terms: Terms::wall(0) };

const MSGSIZE: Errno = Errno(90);

impl AtWork<'_> {
    /// root.1. Where the master's queue is full this waits.
    fn connect(&mut self) -> Poll<Outcome> {
        Poll::Ready(match self.kernel.connect(self.hands.table) {
            Ok(true) => Outcome::Done,
            Ok(false) if self.kernel.is_late(self.hands.deadline_ms) => Outcome::Lost(Loss::Silent),
            Ok(false) => return Poll::Pending,
            Err(errno) => Outcome::Failed(errno),
        })
    }

    /// root.1
    fn send_request(&mut self) -> Outcome {
        let request = Body::Launch(self.hands.launch);
        match self.kernel.send(self.hands.table, Role::Connection, request, &[]) {
            Err(MSGSIZE) => {
                Outcome::Refused(Error::Invalid { rule: Rule::TooLong, item: Item::Request })
            }
            // It has closed already, but may have said why: that is still there to be read.
            Ok(()) | Err(Errno::PIPE | CONNRESET) => Outcome::Done,
            Err(errno) => Outcome::Failed(errno),
        }
    }

    /// enter.0
    fn await_entrance(&mut self) -> Poll<Outcome> {
        match self.hear() {
            Some(outcome) => Poll::Ready(outcome),
            None if self.kernel.is_late(self.hands.deadline_ms) => {
                Poll::Ready(Outcome::Lost(Loss::Silent))
            }
            None => Poll::Pending,
        }
    }

    /// What is there to be heard.
    fn hear(&mut self) -> Option<Outcome> {
        let message = loop {
            match self.kernel.receive(self.hands.table, Role::Connection) {
                Ok(Received::Message(Message { body: Body::Step, .. })) => {}
                Ok(Received::Message(message)) => break message,
                Ok(Received::Lost(how)) => return Some(Outcome::Lost(how)),
                Ok(Received::Empty) => return None,
                Err(errno) => return Some(Outcome::Failed(errno)),
            }
        };
        Some(match message.body {
            Body::Failed(error) => Outcome::Refused(error),
            Body::Entrance { name, guard } => {
                self.hands.guard = guard;
                for fd in message.fds.into_iter().flatten() {
                    let role = match fd {
                        Fd::Cgroup(_) => Role::Cgroup,
                        Fd::Ruleset => Role::Ruleset,
                        _ => Role::Entrance,
                    };
                    self.kernel.install(self.hands.table, role, fd);
                }
                Outcome::Entrance { name, guard_pid: guard }
            }
            _ => Outcome::Lost(Loss::Garbage),
        })
    }

    /// enter.1
    fn fork_helper(&mut self) -> Answer {
        self.kernel.call(Call::ForkHelper)?;
        let pid = self.kernel.fork(self.hands.pid, Who::Helper(self.hands.launch));
        self.kernel.share_table(self.hands.table);
        self.hands.helper = Some(pid);
        let machine = HelperMachine::of(self.hands.library);
        *self.helper = Some(HelperActor { pid, machine });
        Ok(())
    }

    /// enter.3, as far as it is the client's: waits for the helper's end. One that is late is
    /// killed, and its App as well.
    fn await_app(&mut self) -> Poll<Outcome> {
        let Some(helper) = self.hands.helper else {
            return Poll::Ready(Outcome::Failed(Errno::BADF));
        };
        let in_time = self.kernel.has_ended(helper);
        if !in_time && !self.kernel.is_late(self.hands.deadline_ms) {
            return Poll::Pending;
        }
        if !in_time {
            end_helper(self.kernel, helper, self.hands.table);
        }
        let _ = self.kernel.wait_for(self.hands.pid, helper);
        let slip = &mut self.hands.slip;
        Poll::Ready(match slip.result {
            Some(Ok(pid)) if in_time => {
                self.kernel.install(self.hands.table, Role::App, Fd::Pidfd(pid));
                Outcome::App { pid }
            }
            Some(Err(error)) if in_time => {
                // What could not be executed is on its way out.
                if let Some(app) = slip.app.take() {
                    let _ = self.kernel.kill_by_pidfd(app);
                    let _ = self.kernel.wait_for(self.hands.pid, app);
                }
                Outcome::Refused(error)
            }
            _ => {
                if let Some(app) = slip.app.take() {
                    let _ = self.kernel.kill_by_pidfd(app);
                    let _ = self.kernel.wait_for(self.hands.pid, app);
                }
                Outcome::Lost(if in_time { Loss::Died } else { Loss::Silent })
            }
        })
    }

    /// enter.4
    fn report_app(&mut self) -> Outcome {
        let table = self.hands.table;
        if let Err(errno) = self.kernel.shut_reading(table, Role::Connection) {
            return Outcome::Failed(errno);
        }
        match self.hear() {
            // The end, or what a socket says that has nothing more.
            Some(Outcome::Lost(Loss::Died)) | None => {}
            Some(outcome) => return outcome,
        }
        let Ok(app) = self.kernel.fd(table, Role::App) else {
            return Outcome::Failed(Errno::BADF);
        };
        let said = if self.hands.deceives { ORDER } else { Body::AppStarted };
        match self.kernel.send(table, Role::Connection, said, &[app]) {
            Ok(()) => {
                self.hands.reported = true;
                Outcome::Done
            }
            Err(Errno::PIPE | CONNRESET) => Outcome::Lost(Loss::Died),
            Err(errno) => Outcome::Failed(errno),
        }
    }
}

impl AtWork<'_> {
    /// exec.0. The guard answers in its own time.
    fn greet(&mut self) -> Outcome {
        let said = if self.hands.deceives { Body::AppStarted } else { Body::Ping };
        let greeted = match self.hands.greets {
            true => self.kernel.send(self.hands.table, Role::Connection, said, &[]),
            false => Ok(()),
        };
        match greeted {
            Ok(()) => {
                self.hands.reported = true;
                Outcome::Done
            }
            Err(Errno::PIPE | CONNRESET) => Outcome::Lost(Loss::Died),
            Err(errno) => Outcome::Failed(errno),
        }
    }
}

/// The end of a helper's process: its share of the client's table goes.
pub(crate) fn end_helper(kernel: &mut Kernel, helper: Pid, table: usize) {
    if kernel.is_alive(helper) {
        kernel.unshare_table(table);
        let _ = kernel.kill_by_pidfd(helper);
    }
}

impl Hands {
    /// The table that the helper shares.
    pub(crate) const fn table(&self) -> usize {
        self.table
    }
}

/// A helper at work.
pub(crate) struct HelperAtWork<'a> {
    pub(crate) kernel: &'a mut Kernel,
    pub(crate) hands: &'a mut Hands,
    pub(crate) helper: Pid,
    pub(crate) apps: &'a mut Vec<AppActor>,
    pub(crate) scene: Launch,
}

impl Driver<HelperMachine> for HelperAtWork<'_> {
    fn perform(&mut self, _: Step, action: HelperAction) -> Poll<HelperOutcome> {
        let id = self.scene.id(self.hands.launch);
        let done = match action {
            HelperAction::DropGroups => self.kernel.drop_groups(self.helper),
            HelperAction::JoinNamespaces => self.join(),
            HelperAction::TakeIds => self.kernel.take_ids(self.helper, id, id),
            HelperAction::DropPrivileges => self.drop_privileges(),
            HelperAction::EnterDirectory => self.kernel.call(Call::ChangeDirectory),
            HelperAction::StartApp => {
                return Poll::Ready(match self.start_app() {
                    Ok(pid) => HelperOutcome::App { pid },
                    Err(errno) => HelperOutcome::Failed(errno),
                });
            }
        };
        Poll::Ready(done.map_or_else(HelperOutcome::Failed, |()| HelperOutcome::Done))
    }
}

impl HelperAtWork<'_> {
    /// enter.3: what bounds the helper bounds the App.
    fn drop_privileges(&mut self) -> Answer {
        self.kernel.drop_capabilities(self.helper)?;
        match self.kernel.fd(self.hands.table, Role::Ruleset) {
            Ok(_) => self.kernel.enforce(self.helper),
            Err(_) => Ok(()),
        }
    }

    /// enter.2
    fn join(&mut self) -> Answer {
        let Fd::Pidfd(guard) = self.kernel.fd(self.hands.table, Role::Entrance)? else {
            return Err(Errno::BADF);
        };
        if let Ok(procs) = self.kernel.fd(self.hands.table, Role::Cgroup) {
            self.kernel.join_cgroup(self.helper, procs)?;
        }
        self.kernel.join(self.helper, guard)
    }

    /// enter.3: the App is the caller's child. What cannot be executed exits, in its own time.
    fn start_app(&mut self) -> Answer<Pid> {
        let who = Who::App(self.apps.len());
        let app = self.kernel.clone_app(self.helper, who)?;
        self.hands.slip.app = Some(app);
        let executed = self.kernel.call(Call::Execve).and_then(|()| {
            match self.kernel.kind_at(app, EXEC_DIR) {
                Some(TreeKind::Package { .. }) => Ok(()),
                _ => Err(Errno::NOENT),
            }
        });
        if let Err(errno) = executed {
            self.apps.push(AppActor::failed(app, self.hands.launch));
            return Err(errno);
        }
        check_app(self.kernel, app, self.hands.launch, &self.scene);
        self.apps.push(AppActor::new(app, self.hands.launch, self.scene.app));
        Ok(app)
    }
}

/// The first instruction of an App, or of a program: everything it is must be final by now.
pub(crate) fn check_app(kernel: &mut Kernel, app: Pid, launch: usize, scene: &Launch) {
    kernel.write_as(app);
    let id = scene.id(launch);
    let guard = kernel.init_of(app);
    let (it, pid1) = (kernel.process(app), kernel.process(guard));
    let at = |path: &str| kernel.kind_at(app, path);
    let overlaid = |path: &&str| matches!(at(path), Some(TreeKind::Overlay { .. }));
    let is_not = |path: &str| (at(path) == Some(TreeKind::Dev)) == scene.host_dev;
    let hides = scene.host_mount && at(HOST_MOUNT) != Some(TreeKind::Host);
    let [inside, limits] = [app, guard].map(|pid| kernel.cgroup_of(pid));
    let wrong = [
        (inside != limits || scene.limited != inside.is_some(), "outside its cgroup"),
        ((it.uid, it.gid) != (id, id), "with another's ids"),
        (it.groups, "with its caller's groups"),
        (it.capabilities != Capabilities::None, "with capabilities"),
        (it.walled != scene.landlock, "without the wall that was asked for, or within another"),
        (!kernel.ids_are_final(guard), "before its ids were final and prepare.9 done"),
        (pid1.uid != id || pid1.groups, "beside a guard that is root"),
        (pid1.capabilities != Capabilities::None, "beside a guard with capabilities"),
        (at("/proc") != Some(TreeKind::Proc), "with the host's /proc"),
        (["/dev", "/dev/shm", "/dev/pts"].into_iter().any(is_not), "with devices of others"),
        (!scene.directories().iter().all(overlaid), "without its overlays"),
        (hides, "without a host mount below an overlay"),
        (HOST_DIRECTORIES.iter().any(overlaid), "without a directory of the host's"),
    ];
    if let Some((_, why)) = wrong.into_iter().find(|(is_wrong, _)| *is_wrong) {
        kernel.violated(Violation::AppRanWrongly { why });
    }
}

fn told(answer: Answer) -> Outcome {
    answer.map_or_else(Outcome::Failed, |()| Outcome::Done)
}
