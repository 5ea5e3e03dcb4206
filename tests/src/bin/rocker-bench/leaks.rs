//! Whether anything is left of many launches: of programs, with and without overlays, by both
//! libraries, in rockers that take orders, with limits, and of packages that were just written.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Instant, SystemTime};

use core::time::Duration;
use rocker_client::{Launch, Limits, Program};
use serde_json::{Value, json};
use tests::c_client::{self, Request, c_string};
use tests::cgroup::hierarchies;
use tests::{process, within};

use crate::figure::{Figure, Part, skip};
use crate::{Bench, Master, OVERLAYS, Result, SOON, rss_bytes};

/// Lines that are printed.
const LINES: usize = 10;

/// How long what is kept for the next launch may be kept: guards that are ready, and mounts.
const IDLE: Duration = Duration::from_secs(90);

/// What the master's memory may grow by, in KiB: its allocator has come to know what launches ask
/// for after some thousands.
const GROWTH_KIB: u64 = 128;

/// What there is at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Counts([u64; Self::NAMES.len()]);

impl Counts {
    const NAMES: [&str; 8] =
        ["RSS KiB", "fds", "own fds", "processes", "loops", "mounts", "cgroups", "records"];

    fn now(bench: &Bench, master: &Master) -> Result<Self> {
        let pid = master.child.id();
        let count = |number: usize| number as u64;
        let lines = |pid: &str| {
            fs::read_to_string(format!("/proc/{pid}/mountinfo")).map(|text| text.lines().count())
        };
        Ok(Self([
            rss_bytes(pid)? >> 10,
            count(process::fds(pid)),
            count(process::fds(std::process::id())),
            count(process::descendants(std::process::id()).len()),
            count(loops(bench.dir.path())),
            count(lines("self")? + lines(&pid.to_string())?),
            count(hierarchies().iter().map(|(place, ..)| below(&place.join(parent()))).sum()),
            count(fs::read_dir(master.socket.with_file_name("rockers")).map_or(0, Iterator::count)),
        ]))
    }

    /// All but the memory, which may grow a little.
    fn is_as(&self, before: &Self) -> bool {
        self.0[1..] == before.0[1..]
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|count| write!(f, " {count:>9}"))
    }
}

/// Loop devices bound to a file of ours.
fn loops(dir: &Path) -> usize {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let files =
        devices.filter_map(|it| fs::read_to_string(it.path().join("loop/backing_file")).ok());
    files.filter(|file| Path::new(file.trim_end()).starts_with(dir)).count()
}

/// Where the master makes cgroups.
fn parent() -> String {
    format!("rocker-bench-{}", std::process::id())
}

/// Directories in this one.
fn below(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count()
}

/// One who launches, again and again.
struct Caller {
    plain: Launch,
    overlaid: Launch,
    limited: Option<Launch>,
    by_c: Request,
    /// A package of its own, and a launch of it.
    rewritten: (PathBuf, Launch),
}

impl Caller {
    fn new(bench: &Bench, master: &Master, number: usize, has_limits: bool) -> Result<Self> {
        let own = bench.path(&format!("caller-{number}"));
        fs::create_dir_all(own.join("data"))?;
        let package = own.join("own.sqfs");
        fs::copy(&bench.package, &package)?;
        let plain = bench.launch(&[]).socket(&master.socket);
        let rewritten = Launch::new(&package).socket(&master.socket);
        let rewritten = rewritten.exec_dir(bench.path("exec")).uid(crate::ID).gid(crate::ID);
        let overlaid = bench.launch(OVERLAYS[2]).socket(&master.socket);
        Ok(Self {
            limited: has_limits.then(|| plain.clone().pids(32)),
            overlaid: overlaid.data_dir(own.join("data")),
            by_c: Request { socket: Some(c_string(&master.socket)), ..bench.request(&[]) },
            rewritten: (package, rewritten),
            plain,
        })
    }

    fn launch(&self, number: usize) -> Result<()> {
        let (mut said, out) = std::io::pipe()?;
        match number % 10 {
            1 | 4 | 7 => {
                let program = c_client::Program::new("./clock").stdio(1, out);
                let mut rocker = self.by_c.spawn(&program).map_err(|error| error.to_string())?;
                rocker.wait()?;
                if !rocker.wait_gone() {
                    return Err("the rocker is still there".into());
                }
            }
            3 => {
                let mut rocker = self.plain.open()?;
                let run = rocker.spawn(&Program::new("./clock").stdout(out), &Limits::new())?;
                rocker.wait(&run)?;
                rocker.kill(SOON)?;
            }
            of => {
                let launch = match (of, &self.limited) {
                    (2 | 6, _) => &self.overlaid,
                    (5, _) => {
                        let file = fs::File::options().write(true).open(&self.rewritten.0)?;
                        file.set_modified(SystemTime::now())?;
                        &self.rewritten.1
                    }
                    (9, Some(limited)) if number % 50 == 49 => limited,
                    _ => &self.plain,
                };
                let mut rocker = launch.spawn(&Program::new("./clock").stdout(out))?;
                rocker.wait()?;
                if !rocker.wait_gone(Some(SOON))? {
                    return Err("the rocker is still there".into());
                }
            }
        }
        Ok(said.read_exact(&mut [0; 16])?)
    }
}

impl Bench {
    /// Each line is printed when it is there: this takes minutes.
    pub(crate) fn measure_leaks(&self) -> Result<Part> {
        let mut lines = format!("cgroup = \"/{}\"\n", parent());
        if self.options.quick {
            lines += "ready_guards = 1\n";
        }
        let part = self.on_all_cpus(&lines, |master| {
            let has_limits = self.limits(master)?;
            let callers = thread::available_parallelism()?.get();
            let callers: Vec<Caller> = (0..callers)
                .map(|number| Caller::new(self, master, number, has_limits))
                .collect::<Result<_>>()?;
            // What is made once is there from now on, and as many packages were kept as ever are:
            // one launch in ten brings another.
            let warm_ups = if self.options.quick { 50 } else { 500 };
            many(&callers, warm_ups * callers.len())?;
            let before = self.idle(master, None)?;
            let mut rows = vec![];
            self.line(&mut rows, 0, 0.0, before);
            let (begin, mut done) = (Instant::now(), 0);
            while done < self.options.leaks {
                let next = self.options.leaks.div_ceil(LINES).min(self.options.leaks - done);
                many(&callers, next)?;
                done += next;
                let seconds = begin.elapsed().as_secs_f64();
                master.settle()?;
                self.line(&mut rows, done, seconds, Counts::now(self, master)?);
            }
            let after = self.idle(master, Some(&before))?;
            self.line(&mut rows, done, begin.elapsed().as_secs_f64(), after);
            let scene = format!("more than before after {done} launches, when nothing is kept");
            let names = Counts::NAMES.iter().zip(before.0.iter().zip(after.0)).enumerate();
            let figures = names.map(|(at, (name, (before, after)))| {
                let goal = if at == 0 { GROWTH_KIB as f64 } else { 0.0 };
                Figure::new(&scene, *name, after as f64 - *before as f64, "").at_most(goal)
            });
            let mut part = Part::from(figures.collect::<Vec<_>>());
            part.json = json!({"rows": rows, "left": part.json});
            Ok(part)
        });
        // The master leaves it: it may be an operator's.
        for (place, ..) in hierarchies() {
            let _ = fs::remove_dir(place.join(parent()));
        }
        part
    }

    /// Whether this host has what a rocker with limits takes.
    fn limits(&self, master: &Master) -> Result<bool> {
        let (_said, out) = std::io::pipe()?;
        let launch = self.launch(&[]).socket(&master.socket).pids(32);
        match launch.spawn(&Program::new("./clock").stdout(out)) {
            Ok(mut rocker) => {
                rocker.wait()?;
                Ok(rocker.wait_gone(Some(SOON))?)
            }
            Err(why) => {
                skip("launches with limits", why);
                Ok(false)
            }
        }
    }

    /// What there is when the master keeps nothing for the next launch any more.
    fn idle(&self, master: &Master, wanted: Option<&Counts>) -> Result<Counts> {
        let mut last = Counts::now(self, master)?;
        let mut since = Instant::now();
        // Mounts go after two seconds, and ready guards by halves, each after ten.
        let rest = Duration::from_secs(if self.options.quick { 4 } else { 25 });
        within(IDLE, || {
            let Ok(now) = Counts::now(self, master) else { return true };
            if !now.is_as(&last) {
                (last, since) = (now, Instant::now());
            }
            thread::sleep(Duration::from_millis(100));
            since.elapsed() > rest || wanted.is_some_and(|wanted| now.is_as(wanted))
        });
        Counts::now(self, master)
    }

    fn line(&self, rows: &mut Vec<Value>, done: usize, seconds: f64, counts: Counts) {
        if !self.options.json {
            if rows.is_empty() {
                print!("\n{:>9} {:>9}", "launches", "seconds");
                Counts::NAMES.iter().for_each(|name| print!(" {name:>9}"));
                println!();
            }
            println!("{done:>9} {seconds:>9.1}{counts}");
        }
        let mut row = json!({"launches": done, "seconds": seconds});
        for (name, count) in Counts::NAMES.iter().zip(counts.0) {
            row[*name] = count.into();
        }
        rows.push(row);
    }
}

/// So many launches by all callers together.
fn many(callers: &[Caller], count: usize) -> Result<()> {
    let next = AtomicUsize::new(0);
    let one = |caller: &Caller| -> core::result::Result<(), String> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            caller.launch(number).map_err(|error| format!("launch {number}: {error}"))?;
        }
    };
    thread::scope(|scope| {
        let callers: Vec<_> = callers.iter().map(|caller| scope.spawn(|| one(caller))).collect();
        for caller in callers {
            caller.join().map_err(|_| "a panic")??;
        }
        Ok(())
    })
}
