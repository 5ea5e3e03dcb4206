//! `AppMaster` with a rocker that takes orders: not ours, so acted here. It gives its orders one
//! after the other, and reads the answers whenever there is one.

use guard::action::Order;
use guard::machine::Peer;
use protocol::limits::UNREAD_MS;
use protocol::{Errno, Error, Exit, Name, Step, Verdict};

use crate::fault::{Call, Who};
use crate::kernel::{Answer, Fd, Gate, Kernel, Pid, Received, Role};
use crate::message::Body;
use crate::scene::{End, Launch, PROGRAMS_MAX, Task};
use crate::violation::Violation;
use crate::words;

/// One `AppMaster`, from the end of its launch on.
#[derive(Debug)]
pub(crate) struct Caller {
    launch: usize,
    table: usize,
    tasks: &'static [Task],
    /// Whether it leaves when it has done them.
    leaves: bool,
    /// It has attached, and has no answer yet.
    joins: bool,
    /// Whether the rocker is its own.
    owns: bool,
    /// How many of its tasks it has done.
    done: usize,
    asked: Vec<Asked>,
    pings_owed: u32,
    /// Orders that are no program's, and not answered yet.
    ordered: Vec<u32>,
    /// For whom it has sent signals, each of which may be refused.
    signals: Vec<u32>,
    /// Whom it has let go, which may be refused, too.
    gos: Vec<u32>,
    sleeps_until_ms: Option<u64>,
    /// Until when it waits for room for an order.
    unsent_until_ms: Option<u64>,
    /// root.8: it was told to stop.
    pub(crate) told: bool,
    /// It has the connection no longer; whether that was its own doing.
    pub(crate) left: Option<Left>,
    /// Nothing goes wrong in this world.
    calm: bool,
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Left {
    Closed,
    Lost,
}

/// A program that was asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    id: u32,
    /// When it will be late.
    late_ms: u64,
    /// It gets SIGTERM first.
    is_warned: bool,
    was_killed: bool,
    /// It was let go.
    went: bool,
    /// Another has started it, and left it.
    is_adopted: bool,
    stands: Stands,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stands {
    Asked,
    Runs(Pid),
    Over,
}

impl Caller {
    pub(crate) fn new(launch: usize, table: usize, scene: &Launch, calm: bool) -> Self {
        Self {
            launch,
            table,
            tasks: scene.orders.unwrap_or_default(),
            leaves: scene.end == End::ByItself,
            joins: false,
            owns: true,
            done: 0,
            asked: vec![],
            pings_owed: u32::from(scene.greets),
            ordered: vec![],
            signals: vec![],
            gos: vec![],
            sleeps_until_ms: None,
            unsent_until_ms: None,
            told: false,
            left: None,
            calm,
        }
    }

    /// One that attaches, by another connection of the same process.
    pub(crate) fn visitor(
        kernel: &mut Kernel,
        launch: usize,
        (pid, name): (Pid, Name),
        tasks: &'static [Task],
    ) -> Self {
        let table = kernel.new_table(pid);
        let plain = Self::new(launch, table, &Launch::BARE, false);
        let mut visitor =
            Self { tasks, leaves: true, joins: true, owns: false, pings_owed: 0, ..plain };
        let asked = kernel
            .connect(table)
            .and_then(|_| kernel.send(table, Role::Connection, Body::Attach(name), &[]));
        visitor.say(kernel, Step::HandOver, || "sendmsg # to the master: attach".to_owned());
        if asked.is_err() {
            visitor.leave(kernel, Left::Lost, "close # there is no master");
        }
        visitor
    }

    /// A program of one that has attached and is gone, if it lives.
    pub(crate) fn outlived(&self, kernel: &Kernel) -> Option<Pid> {
        let lives = |asked: &Asked| match asked.stands {
            Stands::Runs(pid) if kernel.is_alive(pid) => Some(pid),
            _ => None,
        };
        let own = self.asked.iter().filter(|asked| !asked.is_adopted);
        { own }.find_map(lives).filter(|_| !self.owns)
    }

    /// A program of one that has left that was killed, though nobody had asked for that. One that
    /// still waits to execute has nobody left to let it go.
    pub(crate) fn taken_along(&self, kernel: &Kernel) -> Option<Pid> {
        let killed = |asked: &Asked| match asked.stands {
            Stands::Runs(pid) if asked.late_ms == u64::MAX && !asked.was_killed => {
                let it = kernel.process(pid);
                let is_killed = kernel.has_ended(pid) && it.ended == KILLED;
                (is_killed && it.gate != Gate::Shut).then_some(pid)
            }
            _ => None,
        };
        self.asked.iter().find_map(killed).filter(|_| self.left == Some(Left::Closed))
    }

    /// One turn; whether anything was done.
    pub(crate) fn turn(&mut self, kernel: &mut Kernel, guard: Pid) -> bool {
        if self.left.is_some() {
            return self.let_go(kernel, guard);
        }
        if self.told || (self.done == self.tasks.len() && self.leaves && !self.joins) {
            self.leave(kernel, Left::Closed, "close # the connection");
            return true;
        }
        if let Some(until_ms) = self.sleeps_until_ms {
            if !kernel.is_late(until_ms) {
                return false;
            }
            self.sleeps_until_ms = None;
            return true;
        }
        if kernel.is_readable(self.table, Role::Connection) {
            self.hear(kernel);
            return true;
        }
        let next = self.tasks.get(self.done).copied().filter(|_| !self.joins);
        next.is_some_and(|task| self.does(kernel, task))
    }

    fn say(&self, kernel: &mut Kernel, step: Step, words: impl FnOnce() -> String) {
        kernel.say(Some(step), Who::Client(self.launch), words);
    }

    fn leave(&mut self, kernel: &mut Kernel, how: Left, words: &str) {
        kernel.close(self.table, Role::Connection);
        self.left = Some(how);
        self.say(kernel, Step::StopAll, || words.to_owned());
    }

    /// The guard's pidfd goes when all of the rocker has gone.
    fn let_go(&self, kernel: &mut Kernel, guard: Pid) -> bool {
        let is_over = kernel.has_ended(guard) && kernel.fd(self.table, Role::Entrance).is_ok();
        if is_over {
            kernel.close(self.table, Role::Entrance);
            kernel.say(None, Who::Client(self.launch), || "the rocker is gone".to_owned());
        }
        is_over
    }

    fn does(&mut self, kernel: &mut Kernel, task: Task) -> bool {
        let body = match task {
            Task::AwaitEnds if self.waits_for().is_some() => return false,
            Task::AwaitEnds => {
                self.done += 1;
                return true;
            }
            Task::Sleep { ms } => {
                self.done += 1;
                self.sleeps_until_ms = Some(kernel.now_ms + u64::from(ms));
                kernel.say(None, Who::Client(self.launch), || format!("reads nothing for {ms} ms"));
                return true;
            }
            Task::Exec { id, does, terms } => Body::Exec { id, does, terms },
            Task::Go { id } => Body::Go { id },
            Task::Signal { id, signal } => Body::Signal { id, signal },
            Task::Ping => Body::Ping,
            Task::Do { id, order } => Body::Do { id, order },
        };
        if !kernel.is_writable(self.table, Role::Connection) {
            let until_ms = kernel.now_ms + u64::from(UNREAD_MS);
            let until_ms = *self.unsent_until_ms.get_or_insert(until_ms);
            let is_late = kernel.is_late(until_ms);
            if is_late {
                self.leave(kernel, Left::Lost, "close # the guard does not read");
            }
            return is_late;
        }
        self.unsent_until_ms = None;
        // The standard streams of a program.
        let streams = match body {
            Body::Exec { .. } => &[Fd::Stream; 3][..],
            _ => &[],
        };
        let sent = kernel.send(self.table, Role::Connection, body, streams);
        self.say(kernel, Step::RequestExec, || {
            let came = sent.map_or_else(words::errno_name, |()| "ok".to_owned());
            format!("sendmsg # to the guard: {} -> {came}", words::order(body))
        });
        match sent {
            Ok(()) => self.is_sent(kernel, task),
            // If the guard has said why it ended, that is still there to be read.
            Err(Errno::PIPE) => {}
            Err(_) => self.leave(kernel, Left::Lost, "close # the order was refused"),
        }
        true
    }

    fn is_sent(&mut self, kernel: &Kernel, task: Task) {
        self.done += 1;
        match task {
            Task::Exec { id, terms, .. } => {
                let late_ms = terms.late_ms(kernel.now_ms);
                let stands = Stands::Asked;
                let is_warned = terms.grace_ms > 0;
                self.asked.push(Asked {
                    id,
                    late_ms,
                    is_warned,
                    was_killed: false,
                    went: false,
                    is_adopted: false,
                    stands,
                });
            }
            Task::Signal { id, signal } => {
                self.signals.extend(id);
                for asked in &mut self.asked {
                    asked.was_killed |= signal == SIGKILL && id.is_none_or(|id| id == asked.id);
                }
            }
            Task::Go { id } => {
                self.gos.push(id);
                for asked in self.asked.iter_mut().filter(|it| it.id == id) {
                    asked.went = true;
                }
            }
            Task::Ping => self.pings_owed += 1,
            // What others have done with it before is not known.
            Task::Do { id, order: Order::Adopt } => self.asked.push(Asked {
                id,
                late_ms: 0,
                is_warned: true,
                was_killed: true,
                went: true,
                is_adopted: true,
                stands: Stands::Asked,
            }),
            Task::Do { id, order } => {
                self.ordered.push(id);
                for asked in &mut self.asked {
                    asked.was_killed |= order == Order::Reset;
                }
            }
            Task::AwaitEnds | Task::Sleep { .. } => {}
        }
    }

    /// What is there to be heard; each answer must be one, and true.
    fn hear(&mut self, kernel: &mut Kernel) {
        let message = match kernel.receive(self.table, Role::Connection) {
            Ok(Received::Message(message)) => message,
            Ok(Received::Empty) => return,
            Ok(Received::Lost(how)) => {
                return self.leave(kernel, Left::Lost, &format!("close # lost: {how}"));
            }
            Err(errno) => {
                let words = format!("close # {}", words::errno_name(errno));
                return self.leave(kernel, Left::Lost, &words);
            }
        };
        let wrong = match message.body {
            Body::Step => None,
            Body::Entrance { .. } if self.joins => {
                self.joins = false;
                self.say(kernel, Step::HandOver, || "recvmsg # it may give orders".to_owned());
                None
            }
            Body::Failed(_) if self.joins => {
                return self.leave(kernel, Left::Lost, "close # it may not give orders");
            }
            Body::Started { id } => self.started(kernel, id, message.fds),
            Body::ExecFailed { id, error } => self.refused(kernel, id, error),
            Body::Exited { id, exit, verdict } => self.exited(kernel, id, exit, verdict),
            Body::Pong => match self.pings_owed.checked_sub(1) {
                Some(left) => {
                    self.pings_owed = left;
                    self.say(kernel, Step::RequestExec, || "recvmsg # it is there".to_owned());
                    None
                }
                None => Some("of a ping that it never sent"),
            },
            Body::Obeyed { id } => {
                self.say(kernel, Step::ReportStarted, || format!("recvmsg # {id} is done"));
                let is_one = self.was_ordered(id);
                (!is_one).then_some("that an order is done that it never gave, or twice")
            }
            _ => return self.leave(kernel, Left::Lost, "close # garbage"),
        };
        if let Some(why) = wrong {
            kernel.violated(Violation::AnsweredWrongly { launch: self.launch, why });
        }
    }

    /// The order with this number is answered; whether there was one.
    fn was_ordered(&mut self, id: u32) -> bool {
        let place = self.ordered.iter().position(|&it| it == id);
        place.map(|place| self.ordered.remove(place)).is_some()
    }

    /// The one with this number of which there is no end yet; of two, the one that runs is older.
    fn find(&mut self, id: u32, is_it: impl Fn(Stands) -> bool) -> Option<&mut Asked> {
        self.asked.iter_mut().find(|asked| asked.id == id && is_it(asked.stands))
    }

    fn started(
        &mut self,
        kernel: &mut Kernel,
        id: u32,
        fds: [Option<Fd>; 5],
    ) -> Option<&'static str> {
        let [Some(Fd::Pidfd(pid)), ..] = fds else { return Some("of a start without a pidfd") };
        let Some(asked) = self.find(id, |stands| stands == Stands::Asked) else {
            return Some("of a start that it never asked for");
        };
        asked.stands = Stands::Runs(pid);
        self.say(kernel, Step::ReportStarted, || format!("recvmsg # program {id} is {pid}"));
        None
    }

    fn refused(&mut self, kernel: &mut Kernel, id: u32, error: Error) -> Option<&'static str> {
        self.say(kernel, Step::ReportStarted, || {
            format!("recvmsg # program {id}: {}", words::error(error))
        });
        let Error::Failed { errno, .. } = error else {
            return Some("of a refusal without an errno");
        };
        if error.step() == Step::ReportExit {
            return self.not_executed(kernel, id, errno);
        }
        if self.was_ordered(id) {
            return self.calm.then_some("that an order was refused, and nobody refuses it");
        }
        let living = self.asked.iter().filter(|it| it.stands != Stands::Over).count();
        let is_calm = self.calm;
        // An earlier order is answered earlier: what was not asked for is a signal's.
        let Some(asked) = self.find(id, |stands| stands == Stands::Asked) else {
            let place = |all: &[u32]| all.iter().position(|&it| it == id);
            if errno == Errno::SRCH || place(&self.gos).is_none() {
                let all = match place(&self.signals) {
                    Some(_) => &mut self.signals,
                    None => &mut self.gos,
                };
                let Some(at) = all.iter().position(|&it| it == id) else {
                    return Some("of a refusal that it never asked for");
                };
                all.remove(at);
            } else if let Some(at) = place(&self.gos) {
                self.gos.remove(at);
                let goes = errno == ALREADY;
                return (is_calm && !goes).then_some("that nobody can be let go, and one can");
            }
            let is_there = is_calm && errno != Errno::SRCH;
            return is_there.then_some("that a signal was refused, and nobody refuses it");
        };
        asked.stands = Stands::Over;
        let has_room = errno == Errno::AGAIN && living <= PROGRAMS_MAX;
        (is_calm && has_room).then_some("that there is no room, and there is")
    }

    /// The end of one that was to execute, and could not.
    fn not_executed(&mut self, kernel: &Kernel, id: u32, errno: Errno) -> Option<&'static str> {
        let Some(asked) = self.find(id, |stands| matches!(stands, Stands::Runs(_))) else {
            return Some("of an execution that it never asked for");
        };
        let Stands::Runs(pid) = asked.stands else { return None };
        asked.stands = Stands::Over;
        let is_true = kernel.has_ended(pid) && kernel.process(pid).failure == Some(errno);
        (!is_true).then_some("that a program could not execute, and it did")
    }

    fn exited(
        &mut self,
        kernel: &mut Kernel,
        id: u32,
        exit: Exit,
        verdict: Verdict,
    ) -> Option<&'static str> {
        self.say(kernel, Step::ReportExit, || {
            format!("recvmsg # program {id}: {}, {verdict}", words::exit(exit))
        });
        let now_ms = kernel.now_ms;
        let Some(asked) = self.find(id, |stands| matches!(stands, Stands::Runs(_))) else {
            return Some("of an end without a start, or twice");
        };
        let Stands::Runs(pid) = asked.stands else { return None };
        asked.stands = Stands::Over;
        if kernel.process(pid).gate == Gate::Passed && !asked.went {
            return Some("of one that was never let go, and executed");
        }
        if kernel.process(pid).failure.is_some() {
            return Some("of an end, and not that it could not execute");
        }
        if !kernel.has_ended(pid) || kernel.process(pid).ended != exit {
            return Some("of an end that was another");
        }
        let asked_is_warned = asked.is_warned;
        let (has_asked, is_denied) = (kernel.process(pid).asks, kernel.process(pid).denied);
        match verdict {
            Verdict::TimeLimitExceeded if now_ms < asked.late_ms => Some("of a lateness too early"),
            Verdict::Cancelled if !asked.was_killed => Some("of a signal that it never sent"),
            Verdict::DisallowedSyscall if !has_asked => Some("of a call that it never made"),
            Verdict::DisallowedSyscall => None,
            Verdict::Signalled if is_denied => {
                Some("of a signal, and not that it made a forbidden call")
            }
            Verdict::TimeLimitExceeded | Verdict::Cancelled if exit == KILLED => {
                let lives = kernel.has_living_group(pid);
                lives.then_some("of a kill that left some of a process group")
            }
            Verdict::TimeLimitExceeded if asked_is_warned => None,
            _ if verdict == exit.verdict() => None,
            _ => Some("of another verdict than the end's"),
        }
    }

    /// An order without an answer, or a program without its end.
    fn waits_for(&self) -> Option<u32> {
        let waits = self.asked.iter().find(|asked| asked.stands != Stands::Over);
        waits.map(|asked| asked.id).or(self.owed())
    }

    /// The same at rest, where what lives is no longer waited for.
    pub(crate) fn misses(&self, kernel: &Kernel) -> Option<u32> {
        let has_missed = |asked: &&Asked| match asked.stands {
            Stands::Asked => true,
            Stands::Runs(pid) => kernel.has_ended(pid),
            Stands::Over => false,
        };
        let missed = self.asked.iter().find(has_missed);
        missed.map(|asked| asked.id).or(self.owed()).or(self.joins.then_some(0))
    }

    /// An order that is no program's, or a ping, without its answer.
    fn owed(&self) -> Option<u32> {
        self.ordered.first().copied().or((self.pings_owed > 0).then_some(0))
    }
}

pub(crate) const SIGKILL: u8 = 9;
/// `EALREADY`
const ALREADY: Errno = Errno(114);
pub(crate) const KILLED: Exit = Exit::Signal(SIGKILL);

/// A program that runs, or whose end is yet to be told, as its guard has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    peer: Option<Peer>,
    id: u32,
    pid: Pid,
    late_ms: u64,
    grace_ms: u32,
    warned: bool,
    killed: Option<Verdict>,
    ended: Option<Body>,
    is_left: bool,
}

impl Running {
    pub(crate) const fn new(peer: Peer, id: u32, pid: Pid, late_ms: u64, grace_ms: u32) -> Self {
        let (warned, killed, ended) = (false, None, None);
        let (peer, is_left) = (Some(peer), false);
        Self { peer, id, pid, late_ms, grace_ms, warned, killed, ended, is_left }
    }

    /// exec.3: what it wanted its filter forbids. Whoever else is in its group ends with it.
    fn violates(&mut self) {
        if self.killed.is_none() && self.ended.is_none() {
            self.killed = Some(Verdict::DisallowedSyscall);
            (self.late_ms, self.grace_ms) = (0, 0);
        }
    }

    /// Nothing more is to be done about one that was killed.
    fn is_killed(&mut self, by: Option<Verdict>) {
        self.killed = self.killed.or(by);
        if by.is_some() {
            self.late_ms = u64::MAX;
        }
    }
}

/// What a guard holds of the programs: `guard/src/programs.rs`.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    pub(crate) running: Vec<Running>,
}

impl Programs {
    /// When the next one is late.
    pub(crate) fn late_ms(&self) -> u64 {
        self.running.iter().map(|program| program.late_ms).min().unwrap_or(u64::MAX)
    }

    /// Whether there is a place for one more, with this number.
    pub(crate) fn can_start(&self, peer: Peer, id: u32) -> Answer {
        if self.running.iter().any(|program| program.peer == Some(peer) && program.id == id) {
            return Err(Errno::EXIST);
        }
        if self.running.len() < PROGRAMS_MAX { Ok(()) } else { Err(Errno::AGAIN) }
    }

    pub(crate) fn signal(
        &mut self,
        kernel: &mut Kernel,
        guard: Pid,
        peer: Peer,
        id: Option<u32>,
        signal: u8,
    ) -> Answer {
        let kills = (signal == SIGKILL).then_some(Verdict::Cancelled);
        let Some(id) = id else {
            match kernel.signal_all(guard, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                refused => return refused,
            }
            self.running.iter_mut().for_each(|program| program.is_killed(kills));
            return Ok(());
        };
        let is_it = |it: &&mut Running| it.peer == Some(peer) && it.id == id && it.ended.is_none();
        let program = self.running.iter_mut().find(is_it).ok_or(Errno::SRCH)?;
        kernel.signal(program.pid, signal, kills.is_some())?;
        program.is_killed(kills);
        Ok(())
    }

    pub(crate) fn let_go(&self, kernel: &mut Kernel, peer: Peer, id: u32) -> Answer {
        let is_it = |it: &&Running| it.peer == Some(peer) && it.id == id && it.ended.is_none();
        let pid = self.running.iter().find(is_it).ok_or(Errno::SRCH)?.pid;
        if kernel.process(pid).gate != Gate::Shut {
            return Err(ALREADY);
        }
        kernel.call(Call::Send)?;
        if !kernel.is_alive(pid) {
            return Err(Errno::SRCH);
        }
        kernel.process_mut(pid).gate = Gate::Open;
        Ok(())
    }

    pub(crate) fn adopt(&mut self, peer: Peer, id: u32) -> Answer<Pid> {
        if self.running.iter().any(|program| program.peer == Some(peer) && program.id == id) {
            return Err(Errno::EXIST);
        }
        let left = |it: &Running| it.is_left && it.ended.is_none();
        let none = if self.running.iter().any(left) { Errno::BUSY } else { Errno::SRCH };
        // They are in the order in which they began.
        let nobodys = self.running.iter_mut().find(|it| left(it) && it.peer.is_none());
        let program = nobodys.ok_or(none)?;
        (program.peer, program.id) = (Some(peer), id);
        Ok(program.pid)
    }

    pub(crate) fn forget(&mut self, kernel: &mut Kernel, peer: Peer, kills: bool) {
        for program in self.running.iter_mut().filter(|it| it.peer == Some(peer)) {
            program.peer = None;
            let waits = kernel.process(program.pid).gate == Gate::Shut;
            if program.ended.is_some() {
                continue;
            }
            if waits || (kills && !program.is_left) {
                program.late_ms = u64::MAX;
                kernel.kill_group(program.pid);
            } else {
                program.is_left = true;
            }
        }
        self.running.retain(|it| it.peer.is_some() || it.ended.is_none());
    }

    /// Whether anybody waits to be heard.
    pub(crate) fn has_violations(&self, kernel: &Kernel) -> bool {
        let asks = |it: &Running| kernel.is_alive(it.pid) && kernel.process(it.pid).asks;
        self.running.iter().any(asks)
    }

    pub(crate) fn hear_violations(&mut self, kernel: &mut Kernel) {
        self.running
            .iter_mut()
            .filter(|it| kernel.hear_violation(it.pid))
            .for_each(Running::violates);
    }

    pub(crate) fn kill_late(&mut self, kernel: &mut Kernel) {
        for program in &mut self.running {
            if kernel.now_ms >= program.late_ms {
                program.is_killed(Some(Verdict::TimeLimitExceeded));
                match core::mem::take(&mut program.grace_ms) {
                    0 => kernel.kill_group(program.pid),
                    ms => {
                        program.warned = true;
                        program.late_ms = kernel.now_ms + u64::from(ms);
                        kernel.warn_group(program.pid);
                    }
                }
            }
        }
    }

    /// How one has ended that was reaped, if it was one of these.
    pub(crate) fn note(&mut self, kernel: &Kernel, pid: Pid) {
        let place = self.running.iter().position(|it| it.pid == pid && it.ended.is_none());
        let Some(place) = place else { return };
        let program = &mut self.running[place];
        if program.peer.is_none() {
            self.running.remove(place);
            return;
        }
        let exit = kernel.process(pid).ended;
        let killed = program.killed.filter(|_| program.warned || exit == KILLED);
        let verdict = killed.unwrap_or(exit.verdict());
        program.late_ms = u64::MAX;
        let id = program.id;
        program.ended = Some(match kernel.process(pid).failure {
            Some(errno) => {
                let error = Error::Failed { step: Step::ReportExit, errno };
                Body::ExecFailed { id, error }
            }
            None => Body::Exited { id, exit, verdict },
        });
    }

    /// Whose programs have ended, and it was not told yet.
    pub(crate) fn untold(&self) -> Vec<Peer> {
        self.running.iter().filter(|it| it.ended.is_some()).filter_map(|it| it.peer).collect()
    }

    /// Takes the end of one of a peer's programs.
    pub(crate) fn tell(&mut self, peer: Peer) -> Option<Body> {
        let is_it = |it: &Running| it.peer == Some(peer) && it.ended.is_some();
        let place = self.running.iter().position(is_it)?;
        self.running.remove(place).ended
    }
}
