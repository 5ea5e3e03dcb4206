//! A launch among rockers that live already, and what each of these holds.
//!
//! Whoever launches a rocker keeps two descriptors of it, and every process that it makes copies
//! its table of them. So the living ones are held by the caller that is timed, and then by
//! another process. All on one processor, as in other rows: what wakes another one varies by more
//! than is to be seen here.
#![allow(unsafe_code, reason = "`fork` of a program with one thread")]

use core::time::Duration;
use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::path::Path;
use std::process::{self, Command};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use rocker_client::{Launch, Program, Rocker, Stdio};
use tests::within;

use crate::figure::{Figure, skip};
use crate::{
    Bench, Master, OVERLAYS, PREPARED_NS, Result, memory_bytes, percentiles, rss_bytes, stay_awake,
};

/// What the master is to allow.
const MANY: &str = "max_rockers = 8192\nmax_overlays = 0\n";

/// Each starts 5,000 rockers twice, in 20 s and more.
const ROUNDS_MAX: usize = 7;

/// How long thousands may take to end.
const END: Duration = Duration::from_secs(120);

/// The goals: a launch among so many others takes so many times as long as among none.
const fn goal(living: usize) -> f64 {
    if living > 1_000 { 1.2 } else { 1.1 }
}

/// The goals for an idle rocker, in KiB: its guard's own memory, and its part of the kernel's.
const GOAL_GUARD: f64 = 100.0;
const GOAL_KERNEL: f64 = 160.0;

/// What of the kernel's memory is counted (`man 5 proc_meminfo`).
const KERNEL: [&str; 5] = ["SReclaimable", "SUnreclaim", "KernelStack", "PageTables", "Percpu"];

impl Bench {
    pub(crate) fn measure_among(&self) -> Result<Vec<Figure>> {
        let counts: &[usize] = if self.options.quick { &[5, 10] } else { &[100, 1000, 5000] };
        self.with_master(MANY, |master| {
            let launch = self.launch(&[]).socket(&master.socket);
            let mut rows = vec![];
            for held in [Held::ByOthers, Held::ByTheCaller] {
                rows.extend(counts.iter().map(|&count| Row::new(held, count)));
            }
            let mut alone = vec![];
            for _ in 0..self.options.rounds.min(ROUNDS_MAX) {
                for rows in rows.chunk_by_mut(|one, next| one.held == next.held) {
                    alone.extend(self.round(&launch, master, rows)?);
                    settle(master)?;
                }
            }
            rows.retain(|row| !row.ratios.is_empty());
            let scene = "a launch among living rockers, request to App";
            let us = |what, app: &[f64]| Figure::new(scene, what, percentiles(app)[0], "us");
            let mut figures = vec![us("among none".to_owned(), &alone)];
            figures.extend(rows.iter().map(|row| us(row.what(), &row.app)));
            figures.extend(rows.iter().map(|row| {
                let what = format!("{}, to among none", row.what());
                let ratio = Figure::new(scene, what, percentiles(&row.ratios)[0], "times");
                match row.held {
                    Held::ByOthers => ratio.at_most(goal(row.count)),
                    Held::ByTheCaller => ratio,
                }
            }));
            Ok(figures)
        })
    }

    /// Launches among none, and then among more and more.
    fn round(&self, launch: &Launch, master: &Master, rows: &mut [Row]) -> Result<Vec<f64>> {
        let alone = self.among(launch, master)?;
        let mut keepers: Vec<Keeper> = vec![];
        let mut living = 0;
        for row in rows {
            match row.held.rockers(row.count - living, &|_| launch.clone()) {
                Err(why) => skip(&row.what(), why),
                Ok(keeper) => {
                    keepers.push(keeper);
                    living = row.count;
                    row.add(&self.among(launch, master)?, &alone);
                }
            }
        }
        // Each gives back the limit of descriptors that it has found.
        while let Some(keeper) = keepers.pop() {
            keeper.end()?;
        }
        Ok(alone)
    }

    /// Each finds a guard ready, and nothing to be done for the one before.
    fn among(&self, launch: &Launch, master: &Master) -> Result<Vec<f64>> {
        let mut app = vec![];
        for _ in 0..self.options.warm_ups() + self.options.batch {
            app.push(self.program(launch, master)?.app);
            // To ask the master, as `settle` does, would have it list thousands. Nobody has it hurry
            // so, and its next guard comes later.
            stay_awake(3 * PREPARED_NS);
        }
        Ok(app.split_off(self.options.warm_ups()))
    }

    /// What an idle rocker holds: with five overlays, and a package that others have mounted too.
    pub(crate) fn measure_memory(&self) -> Result<Vec<Figure>> {
        let counts: &[usize] = if self.options.quick { &[10] } else { &[100, 1000] };
        self.on_all_cpus(MANY, |master| {
            let mut figures = vec![];
            for &count in counts {
                // Each has a data dir of its own, which was there before.
                let launch = |number: usize| {
                    let data = self.path("idle").join(number.to_string());
                    let launch = self.launch(OVERLAYS[2]).socket(&master.socket);
                    launch.data_dir(data)
                };
                for number in 0..count {
                    fs::create_dir_all(self.path("idle").join(number.to_string()))?;
                }
                // What is mounted, read and made once is there from now on.
                Held::ByOthers.rockers(count.min(8), &launch)?.end()?;
                settle(master)?;
                figures.extend(idle(count, master, &launch, &self.clock)?);
                settle(master)?;
            }
            Ok(figures)
        })
    }
}

fn idle(
    count: usize,
    master: &Master,
    launch: &impl Fn(usize) -> Launch,
    program: &Path,
) -> Result<Vec<Figure>> {
    let alone = plain_processes(count, program)? / count as f64;
    let before = kernel_kib()?;
    let keeper = match Held::ByOthers.rockers(count, launch) {
        Ok(keeper) => keeper,
        Err(why) => {
            skip(&format!("memory of {count} idle rockers"), why);
            return Ok(vec![]);
        }
    };
    let after = kernel_kib()?;
    let living = rocker_client::list(&master.socket, END)?;
    let mut guards = vec![];
    for rocker in living.iter().take(50) {
        guards.push(memory_bytes(rocker.guard_pid, &["Anonymous"])? as f64 / 1024.0);
    }
    let master = rss_bytes(master.child.id())? as f64 / 1024.0;
    keeper.end()?;
    let scene = format!("memory of an idle rocker among {count}, 5 overlays");
    let of = |what: &str, kib: f64| Figure::new(&scene, what, kib, "KiB");
    let each = |at: usize| (after[at] - before[at]) / count as f64;
    let parts = (0..KERNEL.len()).map(|at| of(&format!("  of it {}", KERNEL[at]), each(at)));
    let kernel = (0..KERNEL.len()).map(each).sum();
    let mut figures = vec![
        of("its guard's own", percentiles(&guards)[0]).at_most(GOAL_GUARD),
        of("the kernel's for all of it, App included", kernel),
    ];
    figures.extend(parts);
    figures.extend([
        of("the kernel's for that program alone, without a rocker", alone),
        of("the kernel's for the rocker: the difference", kernel - alone).at_most(GOAL_KERNEL),
    ]);
    figures.push(Figure::new(
        "memory of the master",
        format!("among {count} rockers"),
        master,
        "KiB",
    ));
    Ok(figures)
}

/// The kernel's memory for so many processes of a program that waits, in KiB.
fn plain_processes(count: usize, program: &Path) -> Result<f64> {
    let (input, end) = std::io::pipe()?;
    let before = kernel_kib()?;
    let mut living = vec![];
    for _ in 0..count {
        let mut command = Command::new(program);
        command.arg("wait").stdin(input.try_clone()?).stdout(process::Stdio::null());
        living.push(command.spawn()?);
    }
    let after = kernel_kib()?;
    drop((input, end));
    for mut process in living {
        process.wait()?;
    }
    Ok(after.iter().sum::<f64>() - before.iter().sum::<f64>())
}

/// Of the machine, each of [`KERNEL`].
fn kernel_kib() -> Result<[f64; KERNEL.len()]> {
    let mut found = [0.0; KERNEL.len()];
    for (place, name) in found.iter_mut().zip(KERNEL) {
        *place = meminfo_kib(name)?;
    }
    Ok(found)
}

pub(crate) fn meminfo_kib(name: &str) -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.ok_or_else(|| format!("/proc/meminfo has no {name}"))?.parse()?)
}

/// Returns when no rocker lives any more.
fn settle(master: &Master) -> Result<()> {
    let none = || rocker_client::list(&master.socket, END).is_ok_and(|living| living.is_empty());
    if within(END, none) { Ok(()) } else { Err("a rocker lives on".into()) }
}

/// Launches among so many that live.
struct Row {
    held: Held,
    count: usize,
    app: Vec<f64>,
    /// Of each round's medians: to that of among none. The machine may have another speed in the
    /// next round.
    ratios: Vec<f64>,
}

impl Row {
    const fn new(held: Held, count: usize) -> Self {
        Self { held, count, app: vec![], ratios: vec![] }
    }

    fn add(&mut self, app: &[f64], alone: &[f64]) {
        self.ratios.push(percentiles(app)[0] / percentiles(alone)[0]);
        self.app.extend(app);
    }

    fn what(&self) -> String {
        format!("among {}, held by {}", self.count, self.held.by())
    }
}

/// Who has the descriptors of the living ones.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Held {
    ByTheCaller,
    ByOthers,
}

/// Keeps rockers alive.
enum Keeper {
    Caller(Idle),
    Other { pid: Pid, stop: PipeWriter },
}

impl Held {
    const fn by(self) -> &'static str {
        match self {
            Self::ByTheCaller => "the caller",
            Self::ByOthers => "others",
        }
    }

    /// Says why there cannot be so many.
    fn rockers(self, count: usize, launch: &impl Fn(usize) -> Launch) -> Result<Keeper> {
        /// An idle rocker, its App and what holds it, with room to spare.
        const EACH_KIB: f64 = 512.0;
        let (has, takes) =
            (meminfo_kib("MemAvailable")? / 1024.0, count as f64 * EACH_KIB / 1024.0);
        if has < takes {
            return Err(format!("it may take {takes:.0} MB, and {has:.0} are available").into());
        }
        match self {
            Self::ByTheCaller => Ok(Keeper::Caller(Idle::start(count, launch)?)),
            Self::ByOthers => Keeper::fork(count, launch),
        }
    }
}

impl Keeper {
    fn fork(count: usize, launch: &impl Fn(usize) -> Launch) -> Result<Self> {
        let (stopped, stop) = std::io::pipe()?;
        let (mut told, tell) = std::io::pipe()?;
        // SAFETY: this program has one thread, so the copy is consistent.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                drop((stopped, tell));
                let mut words = String::new();
                told.read_to_string(&mut words)?;
                match words.is_empty() {
                    true => Ok(Self::Other { pid: child, stop }),
                    false => {
                        waitpid(child, None)?;
                        Err(words.into())
                    }
                }
            }
            ForkResult::Child => {
                drop((told, stop));
                let status = i32::from(keep(count, launch, tell, stopped).is_err());
                // SAFETY: it ends this process, which owns nothing but its rockers.
                unsafe { libc::_exit(status) }
            }
        }
    }

    fn end(self) -> Result<()> {
        match self {
            Self::Caller(idle) => idle.end(),
            Self::Other { pid, stop } => {
                drop(stop);
                waitpid(pid, None)?;
                Ok(())
            }
        }
    }
}

/// All that the other process does. It says nothing when all live.
fn keep(
    count: usize,
    launch: &impl Fn(usize) -> Launch,
    mut tell: PipeWriter,
    mut stopped: PipeReader,
) -> Result<()> {
    match Idle::start(count, launch) {
        Ok(idle) => {
            drop(tell);
            let _ = stopped.read(&mut [0])?;
            idle.end()
        }
        Err(why) => Ok(tell.write_all(why.to_string().as_bytes())?),
    }
}

/// Rockers whose Apps wait for the end of their input.
struct Idle {
    rockers: Vec<Rocker>,
    end: PipeWriter,
    limits: (u64, u64),
}

impl Idle {
    fn start(count: usize, launch: &impl Fn(usize) -> Launch) -> Result<Self> {
        let limits = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, limits.1, limits.1)?;
        let (input, end) = std::io::pipe()?;
        let program = Program::new("./clock").arg("wait").stdin(input).stdout(Stdio::Null);
        let mut idle = Self { rockers: vec![], end, limits };
        for number in 0..count {
            match launch(number).spawn(&program) {
                Ok(rocker) => idle.rockers.push(rocker),
                Err(error) => {
                    drop(program);
                    idle.end()?;
                    return Err(format!("after {number}: {error}").into());
                }
            }
        }
        Ok(idle)
    }

    fn end(self) -> Result<()> {
        drop(self.end);
        for mut rocker in self.rockers {
            rocker.wait()?;
            if !rocker.wait_gone(Some(END))? {
                return Err("a rocker lives on".into());
            }
        }
        setrlimit(Resource::RLIMIT_NOFILE, self.limits.0, self.limits.1)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests_of_rows {
    use super::{Held, Row};

    /// A round in which the machine is twice as slow changes no ratio.
    #[test]
    fn a_row_is_compared_within_its_round() {
        let mut row = Row::new(Held::ByOthers, 100);
        for speed in [1.0, 2.0, 1.0] {
            row.add(&[speed * 110.0], &[speed * 100.0]);
        }
        assert_eq!((row.ratios, row.app), (vec![1.1; 3], vec![110.0, 220.0, 110.0]));
    }
}
