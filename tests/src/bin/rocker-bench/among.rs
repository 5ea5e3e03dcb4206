//! A launch among rockers that live already.
//!
//! Whoever launches a rocker keeps two descriptors of it, and every process that it makes copies
//! its table of them. So the living ones are held by the caller that is timed, and then by
//! another process. All on one processor, as in other rows: what wakes another one varies by more
//! than is to be seen here.
//!
//! By turns with each launch its program is started without a rocker, from the same package: what
//! that takes more among so many, the kernel asks of everybody who starts it, or the machine is
//! slower by.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use rocker_client::protocol::socket::now_ns;
use rocker_client::{Launch, Program, Stdio};

use crate::exec::spawned;
use crate::figure::{Figure, skip};
use crate::keeper::{END, Held, Keeper, MANY, settle};
use crate::{Bench, Gone, Master, PREPARED_NS, Result, percentiles, stay_awake};

/// Each starts 5,000 rockers twice, in 20 s and more.
const ROUNDS_MAX: usize = 7;

/// The goals: a launch among so many others takes so many times as long as among none.
const fn goal(living: usize) -> f64 {
    if living > 1_000 { 1.2 } else { 1.1 }
}

impl Bench {
    pub(crate) fn measure_among(&self) -> Result<Vec<Figure>> {
        let counts: &[usize] = if self.options.quick { &[5, 10] } else { &[100, 1000, 5000] };
        self.with_master(MANY, |master| {
            let launch = self.launch(&[]).socket(&master.socket);
            let scene = Among { bench: self, master, file: self.file_of(&launch)?, launch };
            let mut rows = vec![];
            for held in [Held::ByOthers, Held::ByTheCaller] {
                rows.extend(counts.iter().map(|&count| Row::new(held, count)));
            }
            let mut alone = Starts::default();
            for _ in 0..self.options.rounds.min(ROUNDS_MAX) {
                for rows in rows.chunk_by_mut(|one, next| one.held == next.held) {
                    alone.extend(scene.round(rows)?);
                    settle(master)?;
                }
            }
            rows.retain(|row| !row.app.is_empty());
            Ok(to_figures(&alone, &rows))
        })
    }

    /// The program's file in its package, as a rocker has it mounted.
    fn file_of(&self, launch: &Launch) -> Result<OwnedFd> {
        let (input, end) = std::io::pipe()?;
        let program = Program::new("./clock").arg("wait").stdin(input).stdout(Stdio::Null);
        let mut rocker = launch.spawn(&program)?;
        let root = format!("/proc/{}/root", rocker.app_pid());
        let path = self.path("exec").join("clock");
        let file = File::open(root + path.to_str().ok_or("a path that is no text")?);
        drop((program, end));
        rocker.wait()?;
        rocker.wait_gone(Some(END))?;
        Ok(file?.into())
    }
}

/// What is launched among the living.
struct Among<'a> {
    bench: &'a Bench,
    master: &'a Master,
    launch: Launch,
    /// The program of that launch.
    file: OwnedFd,
}

impl Among<'_> {
    /// Launches among none, and then among more and more.
    fn round(&self, rows: &mut [Row]) -> Result<Starts> {
        let alone = self.starts()?;
        let mut keepers: Vec<Keeper> = vec![];
        let mut living = 0;
        for row in rows {
            match row.held.rockers(row.count - living, &|_| self.launch.clone()) {
                Err(why) => skip(&row.what(), why),
                Ok(keeper) => {
                    keepers.push(keeper);
                    living = row.count;
                    row.add(self.starts()?, &alone);
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
    fn starts(&self) -> Result<Starts> {
        let Bench { options, .. } = self.bench;
        let mut starts = Starts::default();
        for number in 0..options.warm_ups() + options.batch {
            let app = self.bench.program(&self.launch, self.master)?.app;
            // To ask the master, as `settle` does, would have it list thousands. Nobody has it hurry
            // so, and its next guard comes later.
            stay_awake(3 * PREPARED_NS);
            let plain = self.plain()?;
            if number >= options.warm_ups() {
                starts.app.push(app);
                starts.plain.push(plain);
            }
        }
        Ok(starts)
    }

    /// The program without a rocker, from the request to its first instruction.
    fn plain(&self) -> Result<f64> {
        let (mut said, out) = std::io::pipe()?;
        let file = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let begin_ns = spawned(&mut Command::new(file), out.into())?;
        let mut word = [0; 8];
        said.read_exact(&mut word)?;
        Ok(Gone { app_ns: u64::from_ne_bytes(word), gone_ns: now_ns() }.since(begin_ns).app)
    }
}

/// From the request to the first instruction, in us: of the App, and of its program without a
/// rocker.
#[derive(Default)]
struct Starts {
    app: Vec<f64>,
    plain: Vec<f64>,
}

impl Starts {
    fn extend(&mut self, more: Self) {
        self.app.extend(more.app);
        self.plain.extend(more.plain);
    }
}

/// Launches among so many that live.
struct Row {
    held: Held,
    count: usize,
    starts: Starts,
    /// Of each round, to that among none: the machine may have another speed in the next one.
    app: Vec<f64>,
    plain: Vec<f64>,
    app_to_plain: Vec<f64>,
}

impl Row {
    fn new(held: Held, count: usize) -> Self {
        let starts = Starts::default();
        Self { held, count, starts, app: vec![], plain: vec![], app_to_plain: vec![] }
    }

    fn add(&mut self, starts: Starts, alone: &Starts) {
        let times = |us: &[f64], alone: &[f64]| percentiles(us)[0] / percentiles(alone)[0];
        let (app, plain) = (times(&starts.app, &alone.app), times(&starts.plain, &alone.plain));
        self.app.push(app);
        self.plain.push(plain);
        self.app_to_plain.push(app / plain);
        self.starts.extend(starts);
    }

    fn what(&self) -> String {
        format!("among {}, held by {}", self.count, self.held.by())
    }
}

fn to_figures(alone: &Starts, rows: &[Row]) -> Vec<Figure> {
    let scene = "a launch among living rockers, request to App";
    let us = |what: &str, us: &[f64]| Figure::new(scene, what, percentiles(us)[0], "us");
    let times =
        |what: String, times: &[f64]| Figure::new(scene, what, percentiles(times)[0], "times");
    let mut figures = vec![us("among none", &alone.app)];
    figures.extend(rows.iter().map(|row| us(&row.what(), &row.starts.app)));
    figures.extend(rows.iter().map(|row| {
        let ratio = times(format!("{}, to among none", row.what()), &row.app);
        match row.held {
            Held::ByOthers => ratio.at_most(goal(row.count)),
            Held::ByTheCaller => ratio,
        }
    }));
    figures.push(us("its program without a rocker, among none", &alone.plain));
    let of = |what: &str, row: &Row| format!("{what}, {}, to among none", row.what());
    figures.extend(rows.iter().map(|row| times(of("its program", row), &row.plain)));
    let both = "launch to program";
    figures.extend(rows.iter().map(|row| times(of(both, row), &row.app_to_plain)));
    figures
}

#[cfg(test)]
mod tests_of_rows {
    use super::{Held, Row, Starts};

    /// A round in which the machine is twice as slow changes no ratio.
    #[test]
    fn a_row_is_compared_within_its_round() {
        let starts = |app, plain| Starts { app: vec![app], plain: vec![plain] };
        let mut row = Row::new(Held::ByOthers, 100);
        for speed in [1.0, 2.0, 1.0] {
            row.add(starts(speed * 120.0, speed * 12.0), &starts(speed * 100.0, speed * 10.0));
        }
        assert_eq!((row.app, row.plain), (vec![1.2; 3], vec![1.2; 3]));
        assert_eq!((row.app_to_plain, row.starts.app), (vec![1.0; 3], vec![120.0, 240.0, 120.0]));
    }
}
