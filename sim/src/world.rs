//! Everybody at one table, taking turns.
//!
//! A turn is one action of one machine, or one deed of those that are not ours: `AppMaster`
//! after root.7, the App, an operator. When nobody can do anything the clock moves on to the next
//! deadline that somebody waits for; when there is none all is at rest, and the next phase of the
//! world begins:
//!
//! 1. **Launch.** Faults strike as planned. At rest every caller has been told.
//! 2. **End.** Faults still strike as planned, while every App comes to its end: root.8, root.10.
//! 3. **Mend.** Nothing fails any more. A master that was killed is started again; who hangs goes
//!    on, or is killed by an operator if it never would; what still lives is stopped. At rest
//!    nothing may be left.

use core::task::Poll;
use std::rc::Rc;

use guard::machine::{Life, Peer, State};
use master::policy::Config;
use protocol::{Driver, Machine};

use crate::app::{AppActor, Part};
use crate::client::{self, ClientActor, HelperActor, end_helper};
use crate::coverage::Coverage;
use crate::fault::{At, Call, Fault, Mode, Plan, Planned, Who};
use crate::guard::{AtWork as GuardAtWork, Ended, GuardActor};
use crate::kernel::{INIT, Kernel, Received, Role};
use crate::master::{Around, Limits, MasterActor};
use crate::message::Body;
use crate::orders::{Caller, KILLED, Left};
use crate::scene::{App, End, Launch, ROOT, TEXT_PACKAGE, Task, USERS, policy};
use crate::violation::Violation;
use crate::words;

/// Who moves when several can.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// The first of clients, helpers, master, guards, Apps: whoever is further from the caller
    /// only moves when those before wait.
    CallerFirst,
    /// The other way round.
    CallerLast,
    /// Whoever comes after the one who moved last.
    InTurn,
}

impl Order {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::CallerFirst, Self::CallerLast, Self::InTurn];
}

/// What chance decides in a world without a plan. It shrinks towards "the first who can, moves".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Choice {
    /// The n-th actor moves, or the next one after it that can.
    Move(u8),
    /// SIGKILL for the n-th actor.
    Kill(u8),
    /// The n-th actor hangs until all others are at rest.
    Hang(u8),
    /// The next call that anybody makes is refused, with the n-th errno that it knows.
    Refuse(u8),
    /// The next message that anybody sends arrives garbled.
    Garble,
    /// Time passes though there is work: the machine is busy with something else.
    Wait(u16),
    /// A stranger takes the loop device that a guard has just found.
    Steal,
    /// A dead master is started again now, not only when all is at rest.
    Restart,
    /// An operator asks who lives.
    List,
    /// The host mounts something, or unmounts it.
    Mount,
    /// `AppMaster` removes the layers of data dir 0.
    Wipe,
}

/// What an operator has asked the master, and has heard so far.
#[derive(Debug)]
struct Question {
    table: usize,
    uid: u32,
    /// The guards of which a list has to tell, unless they end meanwhile.
    must: Vec<u32>,
    heard: Vec<protocol::Name>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Launch,
    End,
    Mend,
    Over,
}

/// A world: see the module.
#[derive(Debug)]
pub struct World {
    kernel: Kernel,
    scenes: Vec<Launch>,
    config: Rc<Config>,
    order: Order,
    clients: Vec<ClientActor>,
    master: MasterActor,
    guards: Vec<GuardActor>,
    apps: Vec<AppActor>,
    /// Those whose rockers take orders, by launch.
    callers: Vec<Option<Caller>>,
    /// Those who have attached, by launch.
    visitors: Vec<Vec<Caller>>,
    hung: Vec<(Who, Mode)>,
    operator: Vec<Question>,
    /// Before which turns the operator asks for a list.
    asks: Vec<u32>,
    /// Before which turns the host changes its mounts, and layers are removed.
    changes: Vec<u32>,
    wipes: Vec<u32>,
    /// Which launches have begun.
    begun: Vec<bool>,
    /// What chance has decided, the next one last.
    choices: Vec<Choice>,
    choices_made: usize,
    thefts: u8,
    stolen: Vec<usize>,
    phase: Phase,
    turns: u32,
    /// How often nobody could move before a deadline.
    waits: u32,
    /// Who moved last, as a place at the table.
    last: usize,
    /// Time has passed for no reason, or a caller could not move: being late is no fault then.
    unpunctual: bool,
    struck: Option<u32>,
}

impl World {
    /// A world with these launches, in which nothing goes wrong.
    pub fn new(scenes: &[Launch]) -> Self {
        Self::with_limits(scenes, Limits::default())
    }

    /// The same with other limits than the master's own.
    pub fn with_limits(scenes: &[Launch], limits: Limits) -> Self {
        let mut kernel = Kernel::new();
        let config = Rc::new(limits.config());
        let master = MasterActor::start(&mut kernel, Rc::clone(&config));
        let clients = scenes.iter().enumerate();
        let clients = clients.map(|(launch, scene)| ClientActor::new(&mut kernel, launch, scene));
        Self {
            clients: clients.collect(),
            kernel,
            scenes: scenes.to_vec(),
            config,
            order: Order::CallerFirst,
            master,
            guards: vec![],
            apps: vec![],
            callers: scenes.iter().map(|_| None).collect(),
            visitors: scenes.iter().map(|_| vec![]).collect(),
            hung: vec![],
            operator: vec![],
            asks: vec![],
            changes: vec![],
            wipes: vec![],
            begun: vec![false; scenes.len()],
            choices: vec![],
            choices_made: 0,
            thefts: 0,
            stolen: vec![],
            phase: Phase::Launch,
            turns: 0,
            waits: 0,
            last: 0,
            unpunctual: false,
            struck: None,
        }
    }

    /// Who moves when several can.
    #[must_use]
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// What goes wrong.
    #[must_use]
    pub fn faults(mut self, faults: &[Planned]) -> Self {
        self.kernel.plan = Plan::new(faults);
        self
    }

    /// What chance decides, the first one first. After the last all take turns.
    #[must_use]
    pub fn choices(mut self, choices: &[Choice]) -> Self {
        self.choices = choices.iter().rev().copied().collect();
        self.choices_made = choices.len();
        self
    }

    /// A stranger takes the next so many loop devices that a guard finds.
    #[must_use]
    pub fn thefts(mut self, thefts: u8) -> Self {
        self.thefts = thefts;
        self
    }

    /// An operator asks who lives, before each of these turns.
    #[must_use]
    pub fn asks(mut self, turns: &[u32]) -> Self {
        self.asks = turns.to_vec();
        self
    }

    /// The host mounts something, or unmounts it, before each of these turns.
    #[must_use]
    pub fn mounts(mut self, turns: &[u32]) -> Self {
        self.changes = turns.to_vec();
        self
    }

    /// `AppMaster` removes the layers of data dir 0 before each of these turns, if nobody lives.
    #[must_use]
    pub fn wipes(mut self, turns: &[u32]) -> Self {
        self.wipes = turns.to_vec();
        self
    }

    /// The overlays of so many data dirs are kept for their next launches.
    #[must_use]
    pub fn keeping(mut self, overlays: usize) -> Self {
        // For longer than packages are mounted: each has to be waited for by itself.
        let (max_overlays, overlay_idle_ms) = (overlays, 2_500);
        self.configure(Config { max_overlays, overlay_idle_ms, ..(*self.config).clone() });
        self
    }

    /// The policy names [`USERS`].
    #[must_use]
    pub fn users(mut self) -> Self {
        self.configure(Config { allow: policy(), ..(*self.config).clone() });
        self
    }

    /// Each of them may have so many rockers.
    #[must_use]
    pub fn rockers_each(mut self, max_rockers: usize) -> Self {
        let mut config = (*self.config).clone();
        config.allow.iter_mut().for_each(|allow| allow.max_rockers = max_rockers);
        self.configure(config);
        self
    }

    /// No package is mounted for more than one rocker, as by a master of one launch.
    #[must_use]
    pub fn unshared(mut self) -> Self {
        self.configure(Config { max_packages: 0, ..(*self.config).clone() });
        self
    }

    /// So many guards wait for a launch, at most.
    #[must_use]
    pub fn ready(mut self, guards: usize) -> Self {
        self.configure(Config { ready_guards: guards, ..(*self.config).clone() });
        self
    }

    fn configure(&mut self, config: Config) {
        self.config = Rc::new(config);
        self.master.configure(Rc::clone(&self.config));
    }

    /// A socket holds so many messages that nobody has read.
    #[must_use]
    pub fn queue(mut self, messages: usize) -> Self {
        self.kernel.queue_max = messages;
        self
    }

    /// Linux before 6.15.
    #[must_use]
    pub fn old_kernel(mut self) -> Self {
        self.kernel.is_old = true;
        self
    }

    /// Keeps a transcript.
    #[must_use]
    pub fn transcribed(mut self) -> Self {
        self.kernel.transcript = Some(vec![]);
        self
    }

    /// Keeps a list of all calls.
    #[must_use]
    pub fn counted(mut self) -> Self {
        self.kernel.called = Some(vec![]);
        self
    }

    /// Runs to the end, or to the first broken promise.
    ///
    /// # Errors
    ///
    /// The promise.
    pub fn run(&mut self, coverage: &mut Coverage) -> Result<(), Violation> {
        let patience = 1_000 + 500 * u32::try_from(self.scenes.len()).unwrap_or(1_000);
        while self.phase != Phase::Over && self.kernel.violation.is_none() {
            self.kernel.end_turn();
            self.strike();
            self.kernel.end_turn();
            self.kernel.next_deadline_ms = u64::MAX;
            if self.turn(coverage) {
                self.turns += 1;
                if let Some(connection) = self.kernel.shared_end() {
                    self.kernel.violated(Violation::TwoOwners { connection });
                }
                if self.turns > patience {
                    self.kernel.violated(Violation::Endless { turns: self.turns });
                }
            } else if self.kernel.next_deadline_ms < u64::MAX {
                // A deadline that has passed would have moved its actor.
                self.check_late();
                self.check_kept();
                self.waits += 1;
                if self.waits > patience {
                    self.kernel.violated(Violation::Endless { turns: self.turns });
                }
                self.kernel.now_ms = self.kernel.next_deadline_ms.max(self.kernel.now_ms + 1);
                let now_ms = self.kernel.now_ms;
                self.kernel.say(None, "clock", || format!("{now_ms} ms"));
            } else {
                self.at_rest();
            }
        }
        self.kernel.end_turn();
        self.kernel.violation.clone().map_or(Ok(()), Err)
    }

    /// How many turns it took.
    pub fn turns(&self) -> u32 {
        self.turns
    }

    /// How many guards were cloned.
    pub fn guards(&self) -> usize {
        self.guards.len()
    }

    /// When a caller was told, on the world's clock; none if it was not.
    pub fn told_ms(&self, launch: usize) -> Option<u64> {
        self.clients.get(launch)?.told_ms
    }

    /// What a caller was told: the App's pid, or why there is none.
    pub fn told(&self, launch: usize) -> Option<Result<u32, protocol::Error>> {
        let result = self.clients.get(launch)?.machine.result()?;
        Some(result.map(|started| started.app_pid))
    }

    /// The calls, if they were counted.
    pub fn calls(&self) -> &[(Call, protocol::Actor)] {
        self.kernel.called.as_deref().unwrap_or_default()
    }

    /// The lines so far, if they are kept.
    pub fn transcript(&self) -> String {
        let mut text = self.kernel.transcript.as_deref().unwrap_or_default().join("\n");
        text.push('\n');
        text
    }

    // Faults.

    /// What strikes before this turn.
    fn strike(&mut self) {
        if self.struck == Some(self.turns) {
            return;
        }
        self.struck = Some(self.turns);
        if self.asks.contains(&self.turns) {
            self.ask_who_lives();
        }
        if self.changes.contains(&self.turns) {
            self.change_mounts();
        }
        if self.wipes.contains(&self.turns) {
            self.wipe();
        }
        for Planned { fault, mode, .. } in self.kernel.plan.at_turn(self.turns) {
            match fault {
                Fault::Kill(who) => self.kill(who),
                Fault::Hang(who) => self.hang(who, mode),
                Fault::Refuse(_) | Fault::Garble | Fault::Misversion | Fault::Cut => {}
            }
        }
    }

    fn hang(&mut self, who: Who, mode: Mode) {
        self.kernel.say(None, who, || "hangs".to_owned());
        self.unpunctual = true;
        self.hung.push((who, mode));
    }

    /// SIGKILL, if there is anybody.
    fn kill(&mut self, who: Who) {
        let pid = match who {
            Who::Client(n) => self.clients.get(n).map(|client| client.hands.pid),
            Who::Helper(n) => {
                let client = self.clients.get(n);
                client.and_then(|client| client.helper.as_ref()).map(|helper| helper.pid)
            }
            Who::Master => Some(self.master.pid),
            Who::Guard(n) => self.guards.get(n).map(|guard| guard.hands.pid),
            Who::App(n) => self.apps.get(n).map(|app| app.pid),
        };
        let Some(pid) = pid.filter(|&pid| self.kernel.is_alive(pid)) else { return };
        self.kernel.say(None, who, || "is killed".to_owned());
        match who {
            Who::Helper(n) => end_helper(&mut self.kernel, pid, self.clients[n].hands.table()),
            Who::Master => {
                self.kernel.stop_listening();
                self.kernel.exit(pid);
            }
            Who::App(_) | Who::Guard(_) => self.kernel.exit_with(pid, KILLED),
            Who::Client(_) => self.kernel.exit(pid),
        }
    }

    /// The service manager's part.
    fn restart_master(&mut self) {
        if !self.kernel.is_alive(self.master.pid) {
            self.kernel.say(None, "master", || "is started again".to_owned());
            self.master = MasterActor::start(&mut self.kernel, Rc::clone(&self.config));
        }
    }

    // Turns.

    /// Somebody moves, if anybody can.
    fn turn(&mut self, coverage: &mut Coverage) -> bool {
        let places = 2 * self.clients.len() + 1 + self.guards.len() + self.apps.len() + 1;
        let first = match self.choose(places) {
            Some(first) => first,
            None if self.order == Order::InTurn => self.last + 1,
            None => 0,
        };
        let backwards = self.order == Order::CallerLast;
        for offset in 0..places {
            let place = (first + offset) % places;
            let place = if backwards { places - 1 - place } else { place };
            if self.take_turn(place, coverage) {
                self.last = place;
                return true;
            }
        }
        false
    }

    /// Lets chance have its way until it is somebody's turn.
    fn choose(&mut self, places: usize) -> Option<usize> {
        while let Some(choice) = self.choices.pop() {
            let who = |n: u8| self.who_at(usize::from(n) % places);
            match choice {
                Choice::Move(n) => return Some(usize::from(n)),
                Choice::Kill(n) => {
                    if let Some(who) = who(n) {
                        self.unpunctual = true;
                        self.kill(who);
                    }
                }
                Choice::Hang(n) => {
                    if let Some(who) = who(n) {
                        self.hang(who, Mode::Once);
                    }
                }
                Choice::Refuse(n) => self.kernel.plan.refuse_next(self.kernel.calls, n),
                Choice::Garble => {
                    let (at, mode) = (At::Call(self.kernel.calls), Mode::Once);
                    let fault = Fault::Garble;
                    self.kernel.plan = Plan::new(&[Planned { at, fault, mode }]);
                }
                Choice::Wait(ms) => {
                    self.unpunctual = true;
                    self.kernel.now_ms += u64::from(ms);
                }
                Choice::Steal => self.thefts = self.thefts.saturating_add(1),
                Choice::Restart => self.restart_master(),
                Choice::List => self.ask_who_lives(),
                Choice::Mount => self.change_mounts(),
                Choice::Wipe => self.wipe(),
            }
        }
        None
    }

    /// Whoever is cloned from here on sees others than those who wait.
    fn change_mounts(&mut self) {
        self.kernel.say(None, "operator", || "mount # or umount".to_owned());
        self.kernel.mounts += 1;
    }

    fn wipe(&mut self) {
        if self.kernel.wipe(0) {
            self.kernel.say(None, "operator", || "rm -r .rocker/up # of data dir 0".to_owned());
        }
    }

    /// Whether a launch need not wait for another one.
    fn begins(&mut self, n: usize) -> bool {
        if !self.begun[n] {
            self.begun[n] = self.scenes[n].after.is_none_or(|other| {
                let other = &self.clients[other];
                match other.machine.result() {
                    Some(Ok(started)) => self.kernel.has_ended(started.guard_pid),
                    Some(Err(_)) => true,
                    None => !self.kernel.is_alive(other.hands.pid),
                }
            });
            let deadline_ms = self.kernel.now_ms + self.scenes[n].timeout_ms;
            self.clients[n].hands.deadline_ms = deadline_ms;
        }
        self.begun[n]
    }

    /// Who sits there; the operator's place is nobody's.
    fn who_at(&self, place: usize) -> Option<Who> {
        let clients = self.clients.len();
        let guards = 2 * clients + 1;
        let apps = guards + self.guards.len();
        Some(match place {
            _ if place < clients => Who::Client(place),
            _ if place < 2 * clients => Who::Helper(place - clients),
            _ if place < guards => Who::Master,
            _ if place < apps => Who::Guard(place - guards),
            _ if place < apps + self.apps.len() => Who::App(place - apps),
            _ => return None,
        })
    }

    fn take_turn(&mut self, place: usize, coverage: &mut Coverage) -> bool {
        let who = self.who_at(place);
        if who.is_some_and(|who| self.hangs(who)) {
            return false;
        }
        self.kernel.acting = who;
        match who {
            Some(Who::Client(n)) => self.client_turn(n, coverage),
            Some(Who::Helper(n)) => self.helper_turn(n, coverage),
            Some(Who::Master) => self.master_turn(coverage),
            Some(Who::Guard(n)) => self.guard_turn(n, coverage),
            Some(Who::App(n)) => self.app_turn(n),
            None => self.operator_turn(),
        }
    }

    fn client_turn(&mut self, n: usize, coverage: &mut Coverage) -> bool {
        let pid = self.clients[n].hands.pid;
        if !self.kernel.is_alive(pid) || !self.begins(n) {
            return false;
        }
        let client = &mut self.clients[n];
        let Some(step) = client.machine.step() else { return self.app_master_turn(n) };
        let action = client.machine.action();
        let (hands, helper) = (&mut client.hands, &mut client.helper);
        let calls = self.kernel.calls;
        let mut work = client::AtWork { kernel: &mut self.kernel, hands, helper };
        let Poll::Ready(outcome) = work.perform(step, action) else {
            // To have read a step of others' is something done as well.
            return self.kernel.calls > calls;
        };
        let who = Who::Client(n);
        self.kernel.say(Some(step), who, || words::client(action, outcome));
        coverage.client(action, outcome);
        client.machine.advance(outcome);
        if let Some(result) = client.machine.result() {
            client.finish(&mut self.kernel);
            self.kernel.say(Some(protocol::Step::ReturnPids), who, || match result {
                Ok(started) if started.app_pid == 0 => format!("guard {}", started.guard_pid),
                Ok(started) => format!("guard {}, App {}", started.guard_pid, started.app_pid),
                Err(error) => words::error(error),
            });
            self.check_told(n);
        }
        true
    }

    /// What the caller was told must have happened, and in time.
    fn check_told(&mut self, n: usize) {
        let client = &self.clients[n];
        let started = client.machine.result().is_some_and(|result| result.is_ok());
        let takes_orders = self.scenes[n].orders.is_some();
        let has_app = takes_orders || self.apps.iter().any(|app| app.launch == n);
        let is_true = client.hands.reported && has_app;
        if started && !is_true {
            self.kernel.violated(Violation::ToldNonsense { launch: n });
        }
        let at_ms = self.kernel.now_ms;
        if at_ms > client.hands.deadline_ms && !self.unpunctual {
            self.kernel.violated(Violation::ToldLate { launch: n, at_ms });
        }
        if let Some(Ok(begun)) = self.clients[n].machine.result() {
            let who = (self.clients[n].hands.pid, begun.name);
            let visits = self.scenes[n].visits.iter();
            let kernel = &mut self.kernel;
            self.visitors[n] = visits.map(|tasks| Caller::visitor(kernel, n, who, tasks)).collect();
        }
        if started && takes_orders {
            let calm = self.kernel.plan.is_empty()
                && self.choices_made == 0
                && self.scenes[n].visits.is_empty();
            let table = self.clients[n].hands.table();
            self.callers[n] = Some(Caller::new(n, table, &self.scenes[n], calm));
            return;
        }
        if started && self.scenes[n].app == App::Guest {
            self.bring_guest(n);
        }
        if started && self.scenes[n].end == End::ByItself {
            self.apps.iter_mut().filter(|app| app.launch == n).for_each(|app| app.told = true);
        }
    }

    /// `AppMaster` with its App: reaps it, and lets go of the rocker when all of it is gone.
    fn app_master_turn(&mut self, n: usize) -> bool {
        let client = &self.clients[n];
        let (pid, table) = (client.hands.pid, client.hands.table());
        let Some((guard, app)) = client.started() else { return false };
        for visitor in &mut self.visitors[n] {
            if visitor.turn(&mut self.kernel, guard) {
                return true;
            }
        }
        if let Some(caller) = &mut self.callers[n] {
            return caller.turn(&mut self.kernel, guard);
        }
        if self.kernel.wait_for(pid, app) == Ok(true) {
            self.kernel.say(None, Who::Client(n), || format!("wait {app} -> ok"));
            return true;
        }
        if self.kernel.has_ended(guard) && self.kernel.fd(table, Role::Entrance).is_ok() {
            self.kernel.close(table, Role::Entrance);
            self.kernel.close(table, Role::App);
            self.kernel.say(None, Who::Client(n), || "the rocker is gone".to_owned());
            return true;
        }
        false
    }

    fn helper_turn(&mut self, n: usize, coverage: &mut Coverage) -> bool {
        let ClientActor { hands, helper, .. } = &mut self.clients[n];
        let Some(HelperActor { pid, machine }) = helper else { return false };
        let pid = *pid;
        if !self.kernel.is_alive(pid) {
            return false;
        }
        let Some(step) = machine.step() else {
            hands.slip.result = machine.result();
            end_helper(&mut self.kernel, pid, hands.table());
            return true;
        };
        let action = machine.action();
        let (apps, scene) = (&mut self.apps, self.scenes[n]);
        let kernel = &mut self.kernel;
        let mut work = client::HelperAtWork { kernel, hands, helper: pid, apps, scene };
        let Poll::Ready(outcome) = work.perform(step, action) else { return false };
        let who = Who::Helper(n);
        self.kernel.say(Some(step), who, || words::helper(action, outcome, scene.id(n)));
        coverage.helper(action, outcome);
        machine.advance(outcome);
        true
    }

    fn master_turn(&mut self, coverage: &mut Coverage) -> bool {
        if !self.kernel.is_alive(self.master.pid) {
            return false;
        }
        let (kernel, guards, scenes) = (&mut self.kernel, &mut self.guards, &self.scenes);
        self.master.turn(&mut Around { kernel, guards, scenes, coverage })
    }

    fn guard_turn(&mut self, n: usize, coverage: &mut Coverage) -> bool {
        let GuardActor { machine, hands } = &mut self.guards[n];
        let pid = hands.pid;
        if !self.kernel.is_alive(pid) {
            return false;
        }
        let Some(step) = machine.step() else { return false };
        let (before, action) = (machine.state(), machine.action());
        let calls = self.kernel.calls;
        let (kernel, scenes, apps) = (&mut self.kernel, &self.scenes, &mut self.apps);
        let mut work = GuardAtWork { kernel, hands, scenes, apps };
        let Poll::Ready(outcome) = work.perform(step, action) else {
            return self.kernel.calls > calls;
        };
        let launch = self.guards[n].launch().unwrap_or(0);
        let scene = self.scenes.get(launch);
        let who = Who::Guard(n);
        self.kernel.say(Some(step), who, || words::guard(before, outcome, scene, launch));
        coverage.guard(before, outcome);
        let machine = &mut self.guards[n].machine;
        machine.advance(outcome);
        self.check_punctual(n, before, outcome);
        if let Ended::With(result) = Ended::of(self.guards[n].machine.state()) {
            self.guard_ends(n, result, before);
        } else if let guard::machine::Outcome::LoopIs(device) = outcome
            && self.thefts > 0
        {
            self.steal(device);
        }
        true
    }

    fn steal(&mut self, device: u32) {
        let device = usize::try_from(device).unwrap_or(0);
        self.thefts -= 1;
        self.kernel.say(None, "stranger", || format!("takes /dev/loop{device}"));
        self.kernel.steal_loop(device);
        self.stolen.push(device);
    }

    /// root.9: when, and only when, nobody is left whom it has not been told to leave.
    /// Without a caller it does not wait for anybody.
    fn guard_ends(&mut self, n: usize, result: Result<(), protocol::Error>, before: State) {
        let pid = self.guards[n].hands.pid;
        // The rocker was its owner's, which is gone: so the driver has said.
        let was_told =
            matches!(before, State::HangUp { peer: Peer::OWNER, .. } | State::Settle { .. });
        if was_told && self.guards[n].machine.life() == Life::Owner {
            return self.guard_exits(n, result);
        }
        if self.guards[n].machine.life() != Life::Processes && !is_told(before) {
            self.kernel.violated(Violation::GaveUp { guard: pid });
        }
        let gave_up = match result {
            Ok(()) => true,
            Err(error) => error.step() == protocol::Step::ExitSelf,
        };
        let left = self.kernel.others(pid).next();
        if gave_up && let Some(left) = left {
            self.kernel.violated(Violation::EndedEarly { left });
        }
        self.guard_exits(n, result);
    }

    /// With a status that tells whether all is well, and then what was written is on disk.
    fn guard_exits(&mut self, n: usize, result: Result<(), protocol::Error>) {
        let status = u8::from(result.is_err());
        self.kernel.exit_with(self.guards[n].hands.pid, protocol::Exit::Status(status));
        if let (Ok(()), Some(launch)) = (result, self.guards[n].launch())
            && self.scenes[launch].dirs > 0
        {
            self.kernel.check_synced(self.scenes[launch].data);
        }
    }

    /// A program is killed within its time and a turn of its guard.
    fn check_punctual(
        &mut self,
        n: usize,
        before: guard::machine::State,
        outcome: guard::machine::Outcome,
    ) {
        use guard::machine::{Outcome, State};
        let is_over = matches!(outcome, Outcome::Late | Outcome::Failed(_));
        let had_a_turn = match before {
            State::Listen => !is_over,
            State::KillLate => true,
            _ => false,
        };
        if let Some(pid) = self.late_program(n).filter(|_| had_a_turn) {
            self.kernel.violated(Violation::Late { pid });
        }
    }

    /// Before time passes: all who could kill a late program have had their turns, but for those
    /// who hang. Who rests hears nothing, but knows whose time is over.
    fn check_late(&mut self) {
        for n in 0..self.guards.len() {
            let unheard = self.unheard_program(n).filter(|_| !self.rests(n));
            let late = self.late_program(n).or(unheard);
            if let Some(pid) = late.filter(|_| !self.hangs(Who::Guard(n))) {
                self.kernel.violated(Violation::Late { pid });
            }
        }
    }

    /// Before time passes: no more overlays are kept than may be and, where nothing fails, none
    /// that were made with mounts of another time.
    fn check_kept(&mut self) {
        let is_calm = self.kernel.plan.is_empty() && self.choices_made == 0;
        if !self.kernel.is_alive(self.master.pid) || self.hangs(Who::Master) {
            return;
        }
        let data_dirs = self.kernel.overlays_held_by(self.master.pid);
        if data_dirs > self.config.max_overlays {
            self.kernel.violated(Violation::KeptTooMany { data_dirs });
        }
        if let Some(data) = self.kernel.kept_in_vain().filter(|_| is_calm) {
            self.kernel.violated(Violation::KeptInVain { data });
        }
    }

    /// Whether a guard cannot hear or see anything, for the kernel refuses it.
    fn rests(&self, guard: usize) -> bool {
        self.guards[guard].machine.state() == guard::machine::State::Rest
    }

    fn late_program(&self, guard: usize) -> Option<u32> {
        self.program_of(guard, self.kernel.now_ms)
    }

    /// A living program of this guard's whose time is over by then.
    fn program_of(&self, guard: usize, by_ms: u64) -> Option<u32> {
        self.program(guard, |app| app.late_ms(&self.kernel) <= by_ms)
    }

    /// One that waits at a forbidden call.
    fn unheard_program(&self, guard: usize) -> Option<u32> {
        self.program(guard, |app| self.kernel.process(app.pid).asks)
    }

    fn program(&self, guard: usize, is_it: impl Fn(&AppActor) -> bool) -> Option<u32> {
        let guard = self.guards[guard].hands.pid;
        let is_its = |pid| self.kernel.is_alive(pid) && self.kernel.init_of(pid) == guard;
        self.apps.iter().find(|app| is_it(app) && is_its(app.pid)).map(|app| app.pid)
    }

    fn app_turn(&mut self, n: usize) -> bool {
        if !self.kernel.is_alive(self.apps[n].pid) {
            return false;
        }
        let (moved, child) = self.apps[n].turn(&mut self.kernel, n);
        self.apps.extend(child);
        moved
    }

    /// `nsenter` from the host.
    fn bring_guest(&mut self, n: usize) {
        let Some((guard, app)) = self.clients[n].started() else { return };
        if self.kernel.is_alive(guard) && self.kernel.is_alive(app) {
            let pid = self.kernel.fork(app, Who::App(self.apps.len()));
            self.kernel.process_mut(pid).parent = INIT;
            self.kernel.say(None, "operator", || format!("nsenter {guard}: process {pid}"));
            self.apps.push(AppActor::guest(pid, n));
        }
    }

    // Rest.

    /// Nobody can move, and nobody waits for a time.
    fn at_rest(&mut self) {
        // Ready guards end with their master, or when it is told to end.
        if !self.hangs(Who::Master) && self.master.dismiss(&mut self.kernel) {
            return;
        }
        match self.phase {
            Phase::Launch => {
                self.check_all_told(true);
                self.check_living();
                if self.nobody_started() && self.master_is_well() && !self.kernel.is_clean() {
                    self.kernel.violated(Violation::LeftBehind(self.kernel.leftovers()));
                }
                self.phase = Phase::End;
                (0..self.scenes.len()).for_each(|n| self.end_launch(n));
            }
            Phase::End => {
                if self.hung.is_empty() {
                    self.restart_master();
                }
                self.check_living();
                if !self.dismiss_guest() {
                    self.mend();
                }
            }
            Phase::Mend | Phase::Over => {
                if self.end_latecomers() || self.dismiss_guest() || self.pay_debts() {
                    return;
                }
                self.check_all_told(false);
                self.phase = Phase::Over;
                if !self.kernel.is_clean() {
                    self.kernel.violated(Violation::LeftBehind(self.kernel.leftovers()));
                }
            }
        }
    }

    /// A dead master's records, and what one could not free, are the next one's.
    fn master_is_well(&self) -> bool {
        let owes = self.master.has_debts || !self.master.unremoved.is_empty();
        self.kernel.is_alive(self.master.pid) && !owes
    }

    fn nobody_started(&self) -> bool {
        self.stolen.is_empty()
            && self.hung.iter().all(|(who, _)| self.is_masters_to_kill(*who))
            && self.clients.iter().all(|client| {
                matches!(client.machine.result(), Some(Err(_)))
                    && self.kernel.is_alive(client.hands.pid)
            })
    }

    /// A guard that hangs before enter.4 has been killed by the master that made it when all is
    /// at rest.
    fn is_masters_to_kill(&self, who: Who) -> bool {
        match who {
            Who::Guard(n) => {
                self.guards.get(n).is_some_and(|guard| self.master.answers_for(guard.hands.pid))
            }
            _ => false,
        }
    }

    /// Who lives at rest has somebody who knows.
    fn check_living(&mut self) {
        self.check_orders();
        for app in self.apps.iter().filter(|app| app.part == Part::App) {
            let has_owner = self.clients[app.launch].started().is_some();
            if self.kernel.is_alive(app.pid) && !has_owner && self.hung.is_empty() {
                let launch = app.launch;
                self.kernel.violation.get_or_insert(Violation::Ownerless { launch });
            }
        }
        let master_is_up = self.kernel.is_alive(self.master.pid) && !self.hangs(Who::Master);
        for guard in &self.guards {
            let pid = guard.hands.pid;
            let has_failed = guard.launch().is_some_and(|launch| {
                let client = &self.clients[launch];
                let result = client.machine.result();
                let is_dead = !self.kernel.is_alive(client.hands.pid);
                result.map_or(is_dead, |result| result.is_err())
            });
            let is_waited_for = master_is_up && self.master.answers_for(pid);
            if has_failed && is_waited_for && self.kernel.is_alive(pid) {
                self.kernel.violation.get_or_insert(Violation::Unclaimed { guard: pid });
            }
            let is_known = self.master.living().any(|rocker| rocker.guard == pid);
            let is_living = self.kernel.is_alive(pid) && self.kernel.is_released(pid);
            if is_living && master_is_up && !is_known {
                self.kernel.violation.get_or_insert(Violation::Forgotten { guard: pid });
            }
        }
        if self.kernel.plan.is_empty() && self.choices_made == 0 && self.phase == Phase::Launch {
            if let Some(package) =
                self.kernel.bound_twice().filter(|_| self.config.max_packages > 0)
            {
                self.kernel.violation.get_or_insert(Violation::MountedTwice { package });
            }
            let rivals = self.scenes.len() > 1 || self.config.max_rockers == 0;
            for n in 0..self.clients.len() {
                let Launch { forbidden, good_package, caller, deceives, .. } = self.scenes[n];
                let is_good = good_package && self.scenes[n].package != TEXT_PACKAGE;
                let is_hopeless = forbidden || !is_good || caller != ROOT || deceives;
                let app = self.clients[n].started().map(|(_, app)| app);
                let ends = self.scenes[n].end == End::ByItself;
                let is_well = match &self.callers[n] {
                    Some(caller) => caller.left != Some(Left::Lost) || is_lazy(&self.scenes[n]),
                    None => app.is_some_and(|app| ends || self.kernel.is_alive(app)),
                };
                let caller = self.callers[n].as_ref().filter(|_| self.scenes[n].stays);
                let taken = caller.and_then(|caller| caller.taken_along(&self.kernel));
                if let Some(pid) = taken.filter(|_| !deceives) {
                    self.kernel.violation.get_or_insert(Violation::TakenAlong { pid });
                }
                if !is_well && !is_hopeless && !rivals {
                    self.kernel.violation.get_or_insert(Violation::FailedForNothing { launch: n });
                }
            }
        }
    }

    /// At rest every order is answered, every end told, nobody will be late, and no rocker has
    /// lost its caller.
    fn check_orders(&mut self) {
        for n in 0..self.callers.len() {
            if let Some(broken) = self.broken_promise(n) {
                self.kernel.violation.get_or_insert(broken);
            }
        }
    }

    fn broken_promise(&self, n: usize) -> Option<Violation> {
        if let Some(broken) = self.broken_to_visitors(n) {
            return Some(broken);
        }
        let caller = self.callers[n].as_ref()?;
        let (pid, (guard, _)) = (self.clients[n].hands.pid, self.clients[n].started()?);
        let number = self.guards.iter().position(|it| it.hands.pid == guard)?;
        if self.hangs(Who::Guard(number)) || self.rests(number) {
            return None;
        }
        // Nobody waits for its time to be over.
        let waits = self.program_of(number, u64::MAX - 1).or(self.unheard_program(number));
        if let Some(pid) = waits {
            return Some(Violation::Late { pid });
        }
        if !self.kernel.is_alive(pid) || caller.left.is_some() {
            let stays = self.scenes[n].stays && self.kernel.others(guard).next().is_some();
            let lives = self.kernel.is_alive(guard) && !stays;
            return lives.then_some(Violation::Unclaimed { guard });
        }
        if self.hangs(Who::Client(n)) {
            return None;
        }
        caller.misses(&self.kernel).map(|id| Violation::Unanswered { launch: n, id })
    }

    /// The same for those who have attached, of whose programs none outlives them.
    fn broken_to_visitors(&self, n: usize) -> Option<Violation> {
        let (guard, _) = self.clients[n].started()?;
        let number = self.guards.iter().position(|it| it.hands.pid == guard)?;
        if self.hangs(Who::Guard(number)) || self.rests(number) || !self.kernel.is_alive(guard) {
            return None;
        }
        let is_there = self.kernel.is_alive(self.clients[n].hands.pid);
        self.visitors[n].iter().find_map(|visitor| match visitor.left.is_none() && is_there {
            true if self.hangs(Who::Client(n)) || self.hangs(Who::Master) => None,
            true => visitor.misses(&self.kernel).map(|id| Violation::Unanswered { launch: n, id }),
            false => visitor.outlived(&self.kernel).map(|pid| Violation::Outlived { pid }),
        })
    }

    /// Every living caller, but for those who hang.
    fn check_all_told(&mut self, hanging_may_wait: bool) {
        for n in 0..self.clients.len() {
            let client = &self.clients[n];
            let waits = self.hangs(Who::Client(n)) || !self.begun[n];
            let excused = hanging_may_wait && waits;
            if client.told_ms.is_none() && self.kernel.is_alive(client.hands.pid) && !excused {
                self.kernel.violated(Violation::NeverTold { launch: n });
            }
        }
    }

    /// From here on all goes well.
    fn mend(&mut self) {
        self.phase = Phase::Mend;
        self.kernel.plan.stop();
        self.choices.clear();
        self.thefts = 0;
        for device in core::mem::take(&mut self.stolen) {
            self.kernel.return_loops(&[device]);
        }
        for (who, mode) in core::mem::take(&mut self.hung) {
            match mode {
                Mode::Once => self.kernel.say(None, who, || "goes on".to_owned()),
                Mode::FromNowOn => self.kill(who),
            }
        }
        self.restart_master();
        (0..self.scenes.len()).for_each(|n| self.end_launch(n));
    }

    /// root.8 or root.10, as far as there is anybody to do it. At last somebody stops whatever
    /// is still there.
    fn end_launch(&mut self, n: usize) {
        self.kernel.acting = None;
        let client = &self.clients[n];
        let owner = self.kernel.is_alive(client.hands.pid) && !self.hangs(Who::Client(n));
        let is_stopped = match (self.scenes[n].end, client.started()) {
            (End::KillGuard, Some((guard, _))) if owner => {
                let who = Who::Client(n);
                if self.kernel.is_alive(guard) {
                    self.kernel.say(Some(protocol::Step::KillGuard), who, || {
                        format!("kill -KILL {guard} # by pidfd")
                    });
                }
                let _ = self.kernel.kill_by_pidfd(guard);
                false
            }
            (End::KillByName, _) => {
                self.ask_to_kill(n);
                false
            }
            (End::StopAll | End::ByItself, _) => owner,
            (End::KillGuard, _) => false,
        };
        if is_stopped || self.phase == Phase::Mend {
            self.callers[n].iter_mut().for_each(|caller| caller.told = true);
            self.visitors[n].iter_mut().for_each(|visitor| visitor.told = true);
            for app in self.apps.iter_mut().filter(|app| app.launch == n) {
                app.told = true;
            }
        }
    }

    fn hangs(&self, who: Who) -> bool {
        self.hung.iter().any(|(hung, _)| *hung == who)
    }

    /// `rocker kill NAME`
    fn ask_to_kill(&mut self, n: usize) {
        let Some(rocker) = self.master.living().find(|rocker| rocker.launch == n) else { return };
        let name = rocker.name;
        self.kernel.say(Some(protocol::Step::KillGuard), "operator", || format!("kill {name}"));
        self.ask(Body::Kill(name), ROOT, vec![]);
    }

    /// `rocker ps`: of every rocker that a caller was told of it has to be told, too.
    fn ask_who_lives(&mut self) {
        let turn = usize::try_from(self.turns).unwrap_or(0);
        let uid = [ROOT, USERS[0], USERS[1]][turn % 3];
        let theirs = self.clients.iter().zip(&self.scenes);
        let theirs = theirs.filter(|(_, scene)| uid == ROOT || uid == scene.caller);
        let told = theirs.filter_map(|(client, _)| client.started()).map(|(guard, _)| guard);
        let must = told.filter(|&guard| self.kernel.is_alive(guard)).collect();
        self.kernel.say(None, "operator", || format!("ps # of user {uid}"));
        self.ask(Body::List, uid, must);
    }

    fn ask(&mut self, body: Body, uid: u32, must: Vec<u32>) {
        self.kernel.acting = None;
        let pid = self.kernel.fork(INIT, Who::Client(0));
        self.kernel.process_mut(pid).uid = uid;
        let table = self.kernel.new_table(pid);
        if self.kernel.connect(table) == Ok(true)
            && self.kernel.send(table, Role::Connection, body, &[]).is_ok()
        {
            self.operator.push(Question { table, uid, must, heard: vec![] });
        } else {
            self.kernel.close_table(table);
        }
    }

    /// Hears an answer, or a part of one.
    fn operator_turn(&mut self) -> bool {
        let kernel = &mut self.kernel;
        let is_answered = |asked: &Question| kernel.is_readable(asked.table, Role::Connection);
        let Some(index) = self.operator.iter().position(is_answered) else { return false };
        let table = self.operator[index].table;
        let received = match kernel.receive(table, Role::Connection) {
            Ok(Received::Message(message)) => Some(message.body),
            _ => None,
        };
        if let Some(Body::Rocker(name)) = received {
            kernel.say(None, "operator", || format!("rocker {name}"));
            self.operator[index].heard.push(name);
            return true;
        }
        let asked = self.operator.swap_remove(index);
        let words = match received {
            Some(Body::Gone) => "all is gone",
            Some(Body::End) => "that is all",
            Some(Body::Failed(_)) => "it is refused",
            _ => "no answer",
        };
        kernel.say(None, "operator", || words.to_owned());
        kernel.close_table(table);
        if received == Some(Body::End) {
            self.check_list(&asked);
        }
        true
    }

    /// A list names everybody who was to be named, once, and nobody who never was.
    fn check_list(&mut self, asked: &Question) {
        let name_of = |guard: u32| self.kernel.process(guard).name;
        let is_missing = |guard: &&u32| {
            let name = name_of(**guard);
            self.kernel.is_alive(**guard) && !asked.heard.iter().any(|&it| Some(it) == name)
        };
        let missing = asked.must.iter().find(is_missing).copied();
        let is_nobody = |name: &&protocol::Name| {
            let times = asked.heard.iter().filter(|it| it == name).count();
            let others = |guard: &&GuardActor| {
                let owner = guard.launch().map(|launch| self.scenes[launch].caller);
                name_of(guard.hands.pid) == Some(**name) && owner != Some(asked.uid)
            };
            let is_anothers = asked.uid != ROOT && self.guards.iter().any(|it| others(&it));
            times != 1 || !self.kernel.has_named(**name) || is_anothers
        };
        let invented = asked.heard.iter().find(is_nobody).copied();
        if let Some(guard) = missing {
            self.kernel.violated(Violation::Unlisted { guard });
        }
        if let Some(name) = invented {
            self.kernel.violated(Violation::Invented { name });
        }
    }

    /// A caller that went on late has an App only now.
    fn end_latecomers(&mut self) -> bool {
        let is_late = |app: &&AppActor| !app.told && self.kernel.is_alive(app.pid);
        let is_app = |app: &&AppActor| app.part == Part::App || self.scenes[app.launch].stays;
        let launch = self.apps.iter().filter(is_app).find(is_late);
        let is_open = |caller: &&Caller| !caller.told && caller.left.is_none();
        let launch = launch.map(|app| app.launch).or_else(|| {
            let callers = self.callers.iter().map(|caller| caller.as_ref());
            callers.enumerate().find_map(|(n, caller)| {
                let lives = self.kernel.is_alive(self.clients[n].hands.pid);
                caller.filter(|caller| is_open(caller) && lives).map(|_| n)
            })
        });
        let Some(launch) = launch else { return false };
        self.end_launch(launch);
        true
    }

    /// What a master could not free the next one does.
    fn pay_debts(&mut self) -> bool {
        let has_debts = self.master.has_debts;
        if has_debts {
            self.kill(Who::Master);
            self.restart_master();
        }
        has_debts
    }

    /// Guests go when everybody else has.
    fn dismiss_guest(&mut self) -> bool {
        let is_here = |app: &&AppActor| app.part == Part::Guest && self.kernel.is_alive(app.pid);
        let Some(guest) = self.apps.iter().find(is_here).map(|app| app.pid) else { return false };
        self.kernel.say(None, "guest", || "leaves".to_owned());
        self.kernel.exit(guest);
        true
    }
}

/// Whether a guard ends because its launch has failed.
fn is_told(before: guard::machine::State) -> bool {
    use guard::machine::State;
    matches!(before, State::ReportFailure(_) | State::AwaitRequest)
}

/// Whether a caller leaves answers unread for longer than a guard waits.
fn is_lazy(scene: &Launch) -> bool {
    scene.orders.unwrap_or_default().iter().any(|task| matches!(task, Task::Sleep { .. }))
}
