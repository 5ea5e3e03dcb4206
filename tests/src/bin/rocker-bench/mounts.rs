//! A launch on a host that has many mounts.
//!
//! A new mount namespace is a copy of all of them, which its end takes away: floor asks the kernel
//! for that, too. A guard that is ready has its copy already.
//!
//! What is mounted below an overlaid directory is more work: each is put back in its place.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, mount_bind, unmount};

use crate::figure::{Figure, skip};
use crate::{Bench, OVERLAYS, Result, Sample, Subject, percentiles, stay_awake};

/// Each waits [`REST_NS`] for each row.
const ROUNDS_MAX: usize = 6;

/// A master has guards ready again when its host has mounted nothing for a second.
const REST_NS: u64 = 1_100_000_000;

/// Those that are launched, with the goals for the medians of request to App and of request to all
/// gone, so many times floor's: as many mounts as there are, the goals are a launch's.
const LAUNCHED: [(Subject, Option<f64>, Option<f64>); 3] = [
    (Subject::Warm, Some(1.0), Some(1.15)),
    (Subject::NoneReady, None, Some(1.5)),
    (FLOOR, None, None),
];
const FLOOR: Subject = Subject::FloorWarm;

/// What a host has besides: so many mounts, in a directory that is overlaid or in another one.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Host {
    more: usize,
    is_overlaid: bool,
}

impl Bench {
    pub(crate) fn measure_mounts(&self) -> Result<Vec<Figure>> {
        let counts = if self.options.quick { [0, 5, 10] } else { [0, 100, 1000] };
        let mut rows = vec![];
        for is_overlaid in [false, true] {
            for more in counts {
                let host = Host { more, is_overlaid };
                rows.extend(LAUNCHED.map(|(subject, ..)| Row::new(subject, host)));
            }
        }
        // Floor puts none back.
        rows.retain(|row| !row.host.is_overlaid || row.subject != FLOOR);
        let place = self.path("mounts");
        fs::create_dir(&place)?;
        let overlaid = [OVERLAYS[2], &[place.to_str().ok_or("a path that is no text")?]].concat();
        for round in 0..self.options.rounds.min(ROUNDS_MAX) {
            for rows in rows.chunk_by_mut(|one, next| one.host == next.host) {
                let Host { more, is_overlaid } = rows[0].host;
                let _mounts = Mounts::new(&place, more)?;
                if !self.options.quick {
                    stay_awake(REST_NS);
                }
                // Every other time backwards: who comes first pays for the change of mounts.
                let mut order: Vec<&mut Row> = rows.iter_mut().collect();
                if round % 2 == 1 {
                    order.reverse();
                }
                for row in order {
                    let dirs = if is_overlaid { &overlaid } else { OVERLAYS[2] };
                    match self.batch(row.subject, dirs) {
                        Ok(samples) => row.add(&samples),
                        Err(why) => skip(&row.what(), why),
                    }
                }
            }
        }
        rows.retain(|row| !row.us[0].is_empty());
        Ok([0, 1].map(|until| to_figures(&rows, until)).concat())
    }
}

/// Mounts that go with it, or with this program.
struct Mounts<'a> {
    dir: &'a Path,
    count: usize,
}

impl<'a> Mounts<'a> {
    fn new(dir: &'a Path, count: usize) -> Result<Self> {
        let mut mounts = Self { dir, count: 0 };
        while mounts.count < count {
            let at = mounts.at(mounts.count);
            fs::create_dir_all(&at)?;
            mount_bind(&at, &at)?;
            mounts.count += 1;
        }
        Ok(mounts)
    }

    fn at(&self, number: usize) -> PathBuf {
        self.dir.join(number.to_string())
    }
}

impl Drop for Mounts<'_> {
    fn drop(&mut self) {
        for number in 0..self.count {
            let _ = unmount(self.at(number), UnmountFlags::DETACH);
        }
    }
}

/// Launches of one subject on one host.
struct Row {
    subject: Subject,
    host: Host,
    /// Request to App, and request to all gone.
    us: [Vec<f64>; 2],
}

impl Row {
    fn new(subject: Subject, host: Host) -> Self {
        Self { subject, host, us: [vec![], vec![]] }
    }

    fn add(&mut self, samples: &[Sample]) {
        self.us[0].extend(samples.iter().map(|sample| sample.app));
        self.us[1].extend(samples.iter().map(|sample| sample.gone));
    }

    fn p50(&self, until: usize) -> f64 {
        percentiles(&self.us[until])[0]
    }

    fn what(&self) -> String {
        let place = if self.host.is_overlaid { " below a sixth overlay" } else { "" };
        format!("{}, {} more{place}", self.subject.name(), self.host.more)
    }
}

/// Of one of the two times.
fn to_figures(rows: &[Row], until: usize) -> Vec<Figure> {
    let scene = ["request to App", "request to all gone"][until];
    let scene = format!("a launch on a host with more mounts, {scene}");
    let figure = |what: String, value, unit| Figure::new(&scene, what, value, unit);
    let of = |subject, host| {
        let is_it = |row: &&Row| row.subject == subject && row.host == host;
        rows.iter().find(is_it).map_or(f64::NAN, |row| row.p50(until))
    };
    let mut figures: Vec<Figure> =
        rows.iter().map(|row| figure(row.what(), row.p50(until), "us")).collect();
    for row in rows.iter().filter(|row| row.host.more > 0) {
        let none = of(row.subject, Host { more: 0, ..row.host });
        figures.push(figure(format!("{}, to 0 more", row.what()), row.p50(until) / none, "times"));
        if row.host.is_overlaid {
            let each = (row.p50(until) - none) / row.host.more as f64;
            figures.push(figure(format!("{}, each of them", row.what()), each, "us"));
        }
    }
    for row in rows.iter().filter(|row| !row.host.is_overlaid && row.subject != FLOOR) {
        let times = row.p50(until) / of(FLOOR, row.host);
        let figure = figure(format!("{}, to floor's", row.what()), times, "times");
        let goals = LAUNCHED.iter().find(|(subject, ..)| *subject == row.subject);
        figures.push(match goals.and_then(|(_, app, gone)| [*app, *gone][until]) {
            Some(goal) => figure.at_most(goal),
            None => figure,
        });
    }
    figures
}
