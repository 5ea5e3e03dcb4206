//! What `rocker run --report` has written, and whether the machines would have walked so.
//!
//! Each actor's steps are given to the very machine it ran, one after the other: the machine
//! says which step comes next, the report says which one came, and what the kernel answered.
//! Then the arrows between the actors: nothing is heard before it was said.

use core::fmt;

use guard::machine::{Guard, Life, Outcome as GuardOutcome, State as GuardState};
use master::machine::{Outcome as SessionOutcome, Session, State as SessionState, Wants};
use protocol::{Errno, Machine, Name, Package, Step};
use rocker_client::action::{Action, HelperAction, HelperOutcome, Outcome as ClientOutcome};
use rocker_client::helper::Helper;
use rocker_client::machine::Client;
use rocker_client::{Error, OpenRocker, Rocker, TraceEntry};
use serde_json::Value;

use crate::words::errno_name;

/// A launch as it was reported, or as the sim has told it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order of the diagrams.
    pub steps: Vec<Entry>,
    /// Whether the launch got its App.
    pub succeeded: bool,
    /// Where it failed.
    failed_at: Option<Step>,
    name: u64,
    guard_pid: u32,
    app_pid: u32,
}

/// What a launch gives its caller.
pub trait Launched {
    /// The steps, if they were asked for.
    fn trace(&self) -> &[TraceEntry];
    /// The guard's name and pid, and the App's pid: 0 where there is none.
    fn who(&self) -> (Name, u32, u32);
}

impl Launched for Rocker {
    fn trace(&self) -> &[TraceEntry] {
        self.trace()
    }

    fn who(&self) -> (Name, u32, u32) {
        (self.guard_name(), self.guard_pid(), self.app_pid())
    }
}

impl Launched for OpenRocker {
    fn trace(&self) -> &[TraceEntry] {
        self.trace()
    }

    fn who(&self) -> (Name, u32, u32) {
        (self.guard_name(), self.guard_pid(), 0)
    }
}

/// One step that somebody took.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Who: a word of the diagrams.
    pub actor: String,
    /// Which arrow; none for what the documents do not draw.
    pub step: Option<Step>,
    /// When it began, in microseconds since the first.
    pub at_us: f64,
    /// How long it took.
    pub took_us: f64,
    /// The equivalent shell command.
    pub command: String,
    /// What the kernel refused it with.
    pub errno: Option<Errno>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = self.step.map(|step| step.to_string()).unwrap_or_default();
        write!(f, "{step} ({})", self.command)?;
        self.errno.map_or(Ok(()), |errno| write!(f, ": {}", errno_name(errno)))
    }
}

impl Report {
    /// Reads a report, or a transcript of the sim, in which time is the number of the line.
    ///
    /// # Errors
    ///
    /// In words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim_start().starts_with('{') {
            let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
            Self::from_json(&value)
        } else {
            let report = Self::from_transcript(text);
            // Of what is none nothing would deviate.
            let is_one = report.steps.iter().any(|it| it.step.is_some() && !it.actor.is_empty());
            is_one.then_some(report).ok_or_else(|| "it is neither a report nor a transcript".into())
        }
    }

    fn from_json(value: &Value) -> Result<Self, String> {
        let steps = value.get("steps").and_then(Value::as_array).ok_or("it has no \"steps\"")?;
        let number = |key| value.get(key).and_then(Value::as_u64).unwrap_or(0);
        let pid = |key| u32::try_from(number(key)).unwrap_or(0);
        let name = value.get("name").and_then(Value::as_str).unwrap_or_default();
        Ok(Self {
            steps: steps.iter().map(Entry::from_json).collect::<Result<_, _>>()?,
            succeeded: value.get("app_pid").is_some(),
            failed_at: value.pointer("/error/step").and_then(Value::as_str).and_then(step_named),
            name: u64::from_str_radix(name, 16).unwrap_or(0),
            guard_pid: pid("guard_pid"),
            app_pid: pid("app_pid"),
        })
    }

    /// The steps of a launch that asked for its trace.
    pub fn of_launch<L: Launched>(launch: &Result<L, Error>) -> Self {
        let steps = launch.as_ref().map_or_else(Error::trace, L::trace);
        let first_ns = steps.iter().map(|entry| entry.began_ns).min().unwrap_or(0);
        let steps = steps.iter().map(|entry| Entry::from_trace(entry, first_ns)).collect();
        match launch {
            Ok(rocker) => {
                let (name, guard_pid, app_pid) = rocker.who();
                let name = u64::from_str_radix(name.as_str(), 16).unwrap_or(0);
                Self { steps, succeeded: true, failed_at: None, name, guard_pid, app_pid }
            }
            Err(error) => Self { steps, failed_at: Some(error.step()), ..Self::default() },
        }
    }

    fn from_transcript(text: &str) -> Self {
        let mut steps = vec![];
        for (line, at_us) in text.lines().zip((0..).map(f64::from)) {
            let (step, rest) = line.split_at_checked(11).unwrap_or(("", line));
            let (actor, words) = rest.split_once(' ').unwrap_or((rest, ""));
            let (command, came) = words.trim().split_once(" -> ").unwrap_or((words.trim(), ""));
            let command = match came.starts_with("lost: ") {
                true => format!("{command}: {came}"),
                false => command.to_owned(),
            };
            steps.push(Entry {
                actor: actor.to_owned(),
                step: step_named(step.trim()),
                at_us,
                took_us: 1.0,
                command,
                errno: errno_named(came),
            });
        }
        Self { steps, ..Self::default() }
    }

    fn of<'a>(&'a self, actor: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.steps.iter().filter(move |entry| entry.actor == actor)
    }

    fn count(&self, actor: &str, step: Step) -> usize {
        self.of(actor).filter(|entry| entry.step == Some(step)).count()
    }

    /// Whether the rocker was not to be entered. One that failed early does not say.
    fn takes_orders(&self) -> bool {
        self.count("client", Step::RequestExec) > 0
    }

    /// Whether every actor walked as its machine does. What a launch that fails does not tell
    /// any more is not missed.
    ///
    /// # Errors
    ///
    /// The first deviation, in words.
    pub fn conforms(&self) -> Result<(), String> {
        let mut client = if self.takes_orders() { Client::to_take_orders() } else { Client::new() };
        self.walk("client", &mut client, |machine, entry, _| {
            self.client_outcome(machine.action(), entry)
        })?;
        self.walk("helper", &mut Helper::new(), |machine, entry, _| {
            Ok(match (entry.errno, machine.action()) {
                (Some(errno), _) => HelperOutcome::Failed(errno),
                (None, HelperAction::StartApp) => HelperOutcome::App { pid: self.app_pid },
                (None, _) => HelperOutcome::Done,
            })
        })?;
        self.walk("master", &mut Session::default(), |machine, entry, next| {
            Ok(match (entry.errno, machine.state()) {
                (Some(errno), _) => SessionOutcome::Failed(errno),
                (None, SessionState::AwaitRequest) => {
                    // They open the package, lock the data dir, or are about the cgroup; and after
                    // prepare.0 comes a look at what is mounted.
                    let mut wants = Wants::default();
                    let opens = |it: &&Entry| it.step != Some(Step::CloneGuard);
                    let opened = self.of("master").take_while(opens);
                    for entry in opened.filter(|it| it.step == Some(Step::CreateGuard)) {
                        let locks = entry.command.starts_with("mkdir -m 700 ");
                        wants.data_dir |= locks;
                        wants.limits |= !locks && !entry.command.starts_with("open ");
                    }
                    SessionOutcome::RequestIs(wants)
                }
                (None, SessionState::FindMount) => SessionOutcome::PackageIs(self.package()),
                // What comes after a silent guard is its death.
                (None, SessionState::AwaitMount | SessionState::AwaitDone)
                    if next.is_some_and(|it| it.step == Some(Step::KillGuard)) =>
                {
                    SessionOutcome::Lost(protocol::Loss::Silent)
                }
                (None, SessionState::AwaitExit) => SessionOutcome::Exited,
                (None, _) => SessionOutcome::Done,
            })
        })?;
        self.walk("guard", &mut Guard::default(), |machine, entry, _| {
            Ok(match entry.errno {
                Some(errno) => GuardOutcome::Failed(errno),
                None => self.guard_outcome(machine.state(), entry),
            })
        })?;
        if self.succeeded {
            self.is_complete()?;
        }
        self.failed_where_somebody_was()?;
        self.nothing_is_heard_before_it_was_said()
    }

    /// Leads a machine through an actor's steps. `outcome` is told the next one as well.
    fn walk<M: Machine>(
        &self,
        actor: &str,
        machine: &mut M,
        outcome: impl Fn(&M, &Entry, Option<&Entry>) -> Result<M::Outcome, String>,
    ) -> Result<(), String> {
        let mut last: Option<&Entry> = None;
        let mut entries: Vec<&Entry> = self.of(actor).collect();
        entries.sort_by(|a, b| a.at_us.total_cmp(&b.at_us));
        for (index, entry) in entries.iter().copied().enumerate() {
            let after = last.map_or_else(|| "first".to_owned(), |last| format!("after {last}"));
            match machine.step() {
                Some(step) if Some(step) == entry.step => {}
                Some(step) => {
                    return Err(format!("{actor}: {after} comes {step}, but it took {entry}"));
                }
                None => return Err(format!("{actor}: {after} it has ended, but it took {entry}")),
            }
            let outcome = outcome(machine, entry, entries.get(index + 1).copied())?;
            machine.advance(outcome);
            last = Some(entry);
        }
        Ok(())
    }

    fn client_outcome(&self, action: Action, entry: &Entry) -> Result<ClientOutcome, String> {
        let name = Name::from_random(self.name);
        Ok(match (entry.errno, action) {
            (Some(errno), _) => ClientOutcome::Failed(errno),
            // A wait without an errno that ended a launch was a loss or a refusal.
            (
                None,
                Action::AwaitEntrance | Action::AwaitApp | Action::ReportApp | Action::Greet,
            ) if !self.succeeded
                && self.of("client").last().is_some_and(|it| it.step == entry.step) =>
            {
                ClientOutcome::Lost(protocol::Loss::Died)
            }
            (None, Action::AwaitEntrance) => {
                ClientOutcome::Entrance { name, guard_pid: self.guard_pid }
            }
            (None, Action::AwaitApp) => ClientOutcome::App { pid: self.app_pid },
            (None, _) => ClientOutcome::Done,
        })
    }

    fn guard_outcome(&self, state: GuardState, entry: &Entry) -> GuardOutcome {
        let count = |step| u16::try_from(self.count("guard", step)).unwrap_or(u16::MAX);
        match state {
            GuardState::AwaitRequest => {
                let life = match self.takes_orders() {
                    true => Life::Owner,
                    false => Life::Processes,
                };
                let overlays = count(Step::ListTopDirs) > 0;
                // What comes of it is beyond a launch.
                let syncs = false;
                GuardOutcome::RequestIs { overlays, package: self.package(), life, syncs }
            }
            GuardState::CreateLoop { .. } => GuardOutcome::LoopIs(loop_number(entry)),
            GuardState::ListTopDirs => GuardOutcome::DirsAre {
                layers: count(Step::BuildOverlay),
                places: count(Step::MountOverlay),
            },
            GuardState::Reap => GuardOutcome::Watched,
            GuardState::Listen => GuardOutcome::Changed,
            GuardState::FindStrangers => GuardOutcome::Alone,
            _ => GuardOutcome::Done,
        }
    }

    /// What the guard got. A launch that failed before that mattered does not say.
    fn package(&self) -> Package {
        let mounts = || self.of("guard").filter(|it| it.step == Some(Step::MountPackage));
        let is_first = self.count("master", Step::MountPackage) > 0
            || mounts().any(|it| it.command.starts_with("sendmsg"));
        let reused = mounts().find(|it| it.command.starts_with("mount --bind"));
        match reused {
            _ if is_first => Package::First,
            Some(entry) => Package::Shared { loop_dev: loop_number(entry) },
            None => Package::Own,
        }
    }

    /// A launch that succeeded went at least so far. What the guard says after the entrance may
    /// come too late for its caller.
    fn is_complete(&self) -> Result<(), String> {
        // An order ends the guard's part in the trace, as the App does that of whoever enters.
        let (entered, ordered): (&[_], &[_]) = (
            &[("client", Step::ReportApp), ("helper", Step::RunApp)],
            &[("client", Step::RequestExec)],
        );
        let (must, must_not) = match self.takes_orders() {
            true => (ordered, [entered, &[("guard", Step::ReportApp)]].concat()),
            false => (entered, vec![]),
        };
        if let Some((actor, step)) = must_not.iter().find(|it| self.count(it.0, it.1) > 0) {
            return Err(format!("{actor}: the rocker takes orders, but it took {step}"));
        }
        let all = [("master", Step::SetIdMaps), ("guard", Step::ReleaseGuard)];
        for &(actor, must) in must.iter().chain(&all) {
            if self.count(actor, must) == 0 {
                return Err(format!("{actor}: the launch succeeded, but {must} is missing"));
            }
        }
        Ok(())
    }

    /// An error names an arrow at which somebody stood.
    fn failed_where_somebody_was(&self) -> Result<(), String> {
        let took = |step| self.steps.iter().any(|entry| entry.step == Some(step));
        match self.failed_at {
            Some(step) if !self.succeeded && !self.steps.is_empty() && !took(step) => {
                Err(format!("the launch failed at {step}, which nobody took"))
            }
            _ => Ok(()),
        }
    }

    /// Message by message: who says it at which step, who hears it at which.
    fn nothing_is_heard_before_it_was_said(&self) -> Result<(), String> {
        for (sender, said, receiver, heard) in ARROWS {
            let last = |actor, step| self.of(actor).filter(move |it| it.step == Some(step)).last();
            let (Some(said), Some(heard)) = (last(sender, said), last(receiver, heard)) else {
                continue;
            };
            if heard.at_us + heard.took_us < said.at_us && heard.errno.is_none() {
                return Err(format!(
                    "{receiver}: {heard} was over {:.0} us before {sender} began {said}",
                    said.at_us - heard.at_us - heard.took_us
                ));
            }
        }
        Ok(())
    }
}

/// Who says something at which step to whom, and the step at which that is heard.
const ARROWS: [(&str, Step, &str, Step); 7] = [
    ("master", Step::HandOver, "guard", Step::HandOver),
    ("guard", Step::MountPackage, "master", Step::ReportDone),
    ("guard", Step::ReportDone, "master", Step::ReportDone),
    ("master", Step::SetIdMaps, "guard", Step::ReleaseGuard),
    ("guard", Step::SendEntrance, "client", Step::AwaitEntrance),
    ("client", Step::ForkHelper, "helper", Step::JoinNamespaces),
    ("helper", Step::JoinNamespaces, "client", Step::RunApp),
];

impl Entry {
    fn from_trace(entry: &TraceEntry, first_ns: u64) -> Self {
        // Exact for as long as a launch can take.
        let micros = |ns: u64| ns as f64 / 1e3;
        Self {
            actor: entry.actor.to_string(),
            step: Some(entry.step),
            at_us: micros(entry.began_ns - first_ns),
            took_us: micros(entry.took_ns),
            command: entry.command.clone(),
            errno: entry.errno,
        }
    }

    fn from_json(value: &Value) -> Result<Self, String> {
        let text = |key| value.get(key).and_then(Value::as_str);
        let number = |key| value.get(key).and_then(Value::as_f64);
        let missing = |key: &str| format!("a step has no \"{key}\": {value}");
        let step = text("step").ok_or_else(|| missing("step"))?;
        let errno = match text("errno") {
            Some(name) => Some(errno_named(name).ok_or(format!("there is no errno {name}"))?),
            None => None,
        };
        Ok(Self {
            actor: text("actor").ok_or_else(|| missing("actor"))?.to_owned(),
            step: Some(step_named(step).ok_or(format!("there is no step {step}"))?),
            at_us: number("at_us").ok_or_else(|| missing("at_us"))?,
            took_us: number("took_us").ok_or_else(|| missing("took_us"))?,
            command: text("command").unwrap_or_default().to_owned(),
            errno,
        })
    }
}

fn step_named(name: &str) -> Option<Step> {
    Step::ALL.iter().copied().find(|step| step.to_string() == name)
}

fn errno_named(name: &str) -> Option<Errno> {
    // Beyond 133, EHWPOISON, Linux has none; a number stands for itself.
    (1..=133).map(Errno).find(|&errno| errno_name(errno) == name)
}

/// N of the first `/dev/loopN` in a command.
fn loop_number(entry: &Entry) -> u32 {
    let after = entry.command.split("/dev/loop").nth(1).unwrap_or_default();
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}
