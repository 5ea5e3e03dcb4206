//! Every single fault of a launch, and every pair: loops, no chance.

use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use protocol::Errno;

use crate::coverage::Coverage;
use crate::fault::{At, Call, Fault, Mode, Planned, Who};
use crate::scene::Launch;
use crate::violation::Violation;
use crate::world::{Order, World};

/// A world in which a promise was broken.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What went wrong, and in which order who moved.
    pub cause: String,
    /// The promise.
    pub violation: Violation,
    /// How it came to that.
    pub transcript: String,
}

impl core::fmt::Display for Finding {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}\n  {}\n\n{}", self.violation, self.cause, self.transcript)
    }
}

/// Runs a world; a machine's panic is a broken promise as well.
pub fn run(world: &mut World, coverage: &mut Coverage) -> Result<(), Violation> {
    catch_unwind(AssertUnwindSafe(|| world.run(coverage))).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|&words| words.to_owned()));
        Err(Violation::Panicked(words.unwrap_or_default()))
    })
}

/// What can be done to a launch at one place, all of it.
pub fn faults_of(scenes: &[Launch], order: Order, before: &[Planned]) -> Vec<Planned> {
    faults_in(World::new(scenes).order(order).faults(before))
}

/// The same for a world with more to it.
pub fn faults_in(world: World) -> Vec<Planned> {
    let mut world = world.counted();
    let _ = run(&mut world, &mut Coverage::default());
    let mut faults = vec![];
    for mode in Mode::ALL {
        for (index, &(call, _)) in (0..).zip(world.calls()) {
            let errnos = call.errnos().iter().map(|&errno| Fault::Refuse(errno));
            let sent = [Fault::Garble, Fault::Misversion, Fault::Cut];
            let too_long = Fault::Refuse(Errno(90));
            let sent = sent.into_iter().chain([too_long]).filter(|_| call == Call::Send);
            let at = At::Call(index);
            faults.extend(errnos.chain(sent).map(|fault| Planned { at, fault, mode }));
        }
        for turn in 0..world.turns() {
            let at = At::Turn(turn);
            for who in Who::ALL.into_iter().chain((1..world.guards()).map(Who::Guard)) {
                faults.push(Planned { at, fault: Fault::Kill(who), mode });
                faults.push(Planned { at, fault: Fault::Hang(who), mode });
            }
        }
    }
    faults
}

/// Stories that a walk keeps: nobody reads more.
const STORIES_MAX: usize = 20;

/// Broken worlds after which a walk gives up: something is wrong with all of them.
const BROKEN_MAX: u64 = 200;

/// What a walk has seen.
#[derive(Debug, Default)]
pub struct Walk {
    /// Worlds that were run.
    pub worlds: u64,
    /// Those in which a promise was broken.
    pub broken: u64,
    /// The stories of the first of them.
    pub findings: Vec<Finding>,
    /// Which arrows were walked.
    pub coverage: Coverage,
}

impl Walk {
    /// One broken promise with its story; and how many there are.
    ///
    /// # Errors
    ///
    /// In words.
    pub fn verdict(&self) -> Result<(), String> {
        // The shortest story is the easiest to understand.
        match self.findings.iter().min_by_key(|finding| finding.transcript.len()) {
            None => Ok(()),
            Some(first) => Err(format!("{} of {} worlds. One:\n{first}", self.broken, self.worlds)),
        }
    }

    /// Adds what another walk has seen.
    pub fn merge(&mut self, other: Self) {
        self.worlds += other.worlds;
        self.broken += other.broken;
        self.findings.extend(other.findings);
        self.coverage.merge(&other.coverage);
    }

    /// Runs one world; a broken promise is told with its transcript.
    pub fn world(&mut self, scenes: &[Launch], order: Order, faults: &[Planned]) {
        self.run(scenes, faults, &|| World::new(scenes).order(order).faults(faults));
    }

    /// The same for a world with more to it than a plan.
    pub fn run(&mut self, scenes: &[Launch], faults: &[Planned], world: &dyn Fn() -> World) {
        if self.broken >= BROKEN_MAX {
            return;
        }
        self.worlds += 1;
        let Err(violation) = run(&mut world(), &mut self.coverage) else { return };
        self.broken += 1;
        if self.findings.len() >= STORIES_MAX {
            return;
        }
        let mut again = world().transcribed();
        let _ = run(&mut again, &mut Coverage::default());
        let causes: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let launch = scenes.first().map(|scene| format!("{scene:?}")).unwrap_or_default();
        let cause = format!("{}\n  {launch}", causes.join(" and "));
        self.findings.push(Finding { cause, violation, transcript: again.transcript() });
    }

    /// Every single fault, each at every place of the launch where it can strike.
    pub fn single_faults(&mut self, scenes: &[Launch], order: Order) {
        self.world(scenes, order, &[]);
        for fault in faults_of(scenes, order, &[]) {
            self.world(scenes, order, &[fault]);
        }
    }

    /// Every pair of faults of which `is_wanted` wants both. The second may strike wherever the
    /// first has led. `share` of `shares` equal parts, so that several can divide the work.
    pub fn pairs(
        &mut self,
        scenes: &[Launch],
        order: Order,
        is_wanted: fn(&Planned) -> bool,
        (share, shares): (usize, usize),
    ) {
        let firsts = faults_of(scenes, order, &[]).into_iter().filter(is_wanted);
        for first in firsts.skip(share).step_by(shares) {
            let seconds = faults_of(scenes, order, &[first]).into_iter().filter(is_wanted);
            for second in seconds.filter(|second| !is_before(second, &first)) {
                self.world(scenes, order, &[first, second]);
            }
        }
    }
}

/// Of two faults at calls, or two at turns, only one order is worth while.
fn is_before(second: &Planned, first: &Planned) -> bool {
    match (second.at, first.at) {
        (At::Call(second), At::Call(first)) | (At::Turn(second), At::Turn(first)) => second < first,
        _ => false,
    }
}

/// Of all faults those that differ: once, and one errno for each call; which one it is no
/// machine asks, but for EBUSY at prepare.2 and what the sockets say.
pub fn is_essential(planned: &Planned) -> bool {
    let is_first = |errno| [1, 2, 11, 16, 37].contains(&errno) || errno == 12;
    planned.mode == Mode::Once
        && match planned.fault {
            Fault::Refuse(errno) => is_first(errno.0),
            Fault::Misversion => false,
            Fault::Garble | Fault::Cut | Fault::Kill(_) | Fault::Hang(_) => true,
        }
}
