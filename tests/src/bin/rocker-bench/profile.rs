//! Where the time of a launch goes: the steps of its trace, as client, helper, master and guard
//! took them, and what is between them.
//!
//! All share one CPU, so a step has it until it ends or a step of another process begins: a
//! message wakes whoever waits for it before the call that sent it returns. What a process waits
//! for is no time of its own. Each figure is the median of many launches.

use std::collections::HashMap;
use std::io::Read;

use rocker_client::TraceEntry;
use rocker_client::protocol::Actor;
use rocker_client::protocol::socket::now_ns;
use rocker_client::{Launch, Program};

use crate::figure::Figure;
use crate::{Bench, Master, OVERLAYS, Result, SOON, percentiles};

/// A step by who takes it, its arrow, and which of that actor's own at this arrow it is.
type Key = (Actor, u8, usize);

/// One step in all launches.
#[derive(Default)]
struct Row {
    command: String,
    name: String,
    /// When it began, to know their order.
    at: Vec<f64>,
    us: Vec<f64>,
}

impl Bench {
    pub(crate) fn measure_profile(&self) -> Result<Vec<Figure>> {
        let mut figures = vec![];
        for (master, how) in
            [(&self.warm, "the package's mount kept"), (&self.master, "the package mounted anew")]
        {
            let launch = self.launch(OVERLAYS[2]).socket(&master.socket);
            let scene = format!("a launch with {} overlays, {how}", OVERLAYS[2].len());
            figures.extend(self.steps(&launch, master, &scene)?);
        }
        Ok(figures)
    }

    fn steps(&self, launch: &Launch, master: &Master, scene: &str) -> Result<Vec<Figure>> {
        let mut rows = HashMap::new();
        let [mut untraced, mut all, mut between] = [const { vec![] }; 3];
        for number in 0..self.options.warm_ups() + self.options.samples() {
            let plain = self.program(launch, master)?;
            master.settle()?;
            let (begin_ns, app_ns, steps) = self.traced_launch(launch)?;
            master.settle()?;
            if number >= self.options.warm_ups() {
                untraced.push(plain.app);
                let us = (app_ns - begin_ns) as f64 / 1e3;
                all.push(us);
                between.push(us - self.add(&mut rows, &steps, begin_ns, app_ns));
            }
        }
        let median = |values: &[f64]| percentiles(values)[0];
        let mut rows: Vec<Row> = rows.into_values().collect();
        rows.sort_by(|one, other| median(&one.at).total_cmp(&median(&other.at)));
        let figure = |what: &str, us: &[f64]| Figure::new(scene, what, median(us), "us");
        let mut figures: Vec<Figure> = rows
            .iter()
            .map(|row| figure(&format!("{} {}", row.name, row.command), &row.us))
            .collect();
        figures.push(figure("between steps: switches, waking, what is not traced", &between));
        figures.push(figure("request to App", &all));
        figures.push(figure("the same without a trace", &untraced));
        Ok(figures)
    }

    /// When it began, when the App ran, and all that was done for it.
    fn traced_launch(&self, launch: &Launch) -> Result<(u64, u64, Vec<TraceEntry>)> {
        let (mut said, out) = std::io::pipe()?;
        let program = Program::new("./clock").stdout(out);
        let launch = launch.clone().trace(true);
        let begin_ns = now_ns();
        let mut rocker = launch.spawn(&program)?;
        rocker.wait()?;
        let mut word = [0; 8];
        said.read_exact(&mut word)?;
        let steps = rocker.trace().to_vec();
        rocker.wait_gone(Some(SOON))?;
        Ok((begin_ns, u64::from_ne_bytes(word), steps))
    }

    /// Microseconds of all steps together.
    fn add(
        &self,
        rows: &mut HashMap<Key, Row>,
        steps: &[TraceEntry],
        begin_ns: u64,
        app_ns: u64,
    ) -> f64 {
        let mut steps: Vec<&TraceEntry> = steps.iter().collect();
        steps.sort_by_key(|step| step.began_ns);
        let mut counts: HashMap<(Actor, u8), usize> = HashMap::new();
        let mut sum = 0.0;
        for (at, step) in steps.iter().enumerate() {
            if is_wait(step) || step.began_ns >= app_ns {
                continue;
            }
            let others = steps[at + 1..].iter().find(|other| other.actor != step.actor);
            let end_ns = (step.began_ns + step.took_ns)
                .min(others.map_or(u64::MAX, |other| other.began_ns))
                .min(app_ns);
            let us = end_ns.saturating_sub(step.began_ns) as f64 / 1e3;
            sum += us;
            let count = counts.entry((step.actor, step.step.code())).or_default();
            let row = rows.entry((step.actor, step.step.code(), *count)).or_default();
            *count += 1;
            if row.command.is_empty() {
                row.name = format!("{:<9} {:<6}", step.step.to_string(), step.actor);
                row.command = self.words(&step.command);
            }
            row.at.push(step.began_ns.saturating_sub(begin_ns) as f64 / 1e3);
            row.us.push(us);
        }
        sum
    }

    /// The shell command, as much as there is room for.
    fn words(&self, command: &str) -> String {
        const ROOM: usize = 44;
        let here = format!("{}/", self.dir.path().display());
        let command = command.replace(&here, "");
        match command.char_indices().nth(ROOM) {
            Some((end, _)) => format!("{}..", command[..end].trim_end()),
            None => command,
        }
    }
}

/// The same two in each process: it has nothing to do until another has.
fn is_wait(step: &TraceEntry) -> bool {
    ["recvmsg", "waitid"].iter().any(|call| step.command.starts_with(call))
}
