//! `make bench`: what a launch costs, beside the physical limit and bubblewrap; `--help` says
//! what else there is ([`options`]).
//!
//! Everything is pinned to one CPU: this program, which is the AppMaster, the master and all it
//! starts, and what it is compared with. All take turns, a batch each, so that whatever else
//! the host does hits all alike. The programs are those in `DIRECTORY`, else `target/rocker`.
//!
//! * `rocker` starts a program of the package, through a master that has been running, mounts
//!   each package anew, and has no guard ready.
//! * `rocker, warm` does so through a master as it is by default, but that each launch makes its
//!   overlays: it keeps the mount, and a guard is ready. `none ready`: it keeps the mount alone.
//!   `again`: as it is by default, and the App is the same that has just ended.
//! * `rocker, C` does the same by the C library. The two alternate launch by launch.
//! * `callback` runs a function of this program instead ([`Launch::enter`]).
//! * `floor` is `bench/floor.c`: the system calls alone, without daemon, protocol and checks.
//!   `walls` does what `warm` does and what else stands around each App: the same filter, empty
//!   capability sets, devices of its own.
//! * `bwrap` starts the same program from the host. It mounts no package; overlays it has
//!   from version 0.11 on.
//!
//! Each scene has a file. `--charts` draws them all ([`charts`]): `make bench
//! BENCH=--charts=docs/bench`.
//!
//! A launch is counted from the request to the App's first instruction (`App`), and until App
//! and guard are gone and the loop device is free (`gone`). The App is `bench/clock.c`.
#![allow(
    unsafe_code,
    reason = "`Launch::enter` is for programs with one thread, as this one; `pre_exec`"
)]

use core::error::Error;
use core::fmt::Write as _;
use core::time::Duration;
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};

use figure::{Figure, Part};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use options::{Options, Scene};
use rocker_client::protocol::socket::now_ns;
use rocker_client::{Launch, Program};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::json;
use tempfile::TempDir;
use tests::c_client::{self, Request, c_string};
use tests::scratch::private_mounts;
use tests::{process, scratch, within};

mod among;
mod callers;
mod calls;
mod charts;
mod docker;
mod exec;
mod figure;
mod floor;
mod idle;
mod keeper;
mod leaks;
mod mounts;
mod options;
mod packages;
mod profile;
mod scale;
mod whole;

type Result<T> = core::result::Result<T, Box<dyn Error>>;

/// Host directories that are overlaid, by how many. Of the last, those that are there.
const OVERLAYS: [&[&str]; 4] = [
    &[],
    &["/usr"],
    &["/usr", "/var", "/etc", "/home", "/root"],
    &[
        "/etc",
        "/home",
        "/root",
        "/opt",
        "/srv",
        "/mnt",
        "/media",
        "/boot",
        "/usr/bin",
        "/usr/lib",
        "/usr/sbin",
        "/usr/share",
        "/usr/local",
        "/var/cache",
        "/var/lib",
        "/var/log",
    ],
];

/// The App's ids: floor has them built in.
const ID: u32 = 1000;

/// How long anything may take before this is given up.
const SOON: Duration = Duration::from_secs(10);

const FLOOR: &str = include_str!("../../../bench/floor.c");
const CLOCK: &str = include_str!("../../../bench/clock.c");

fn main() -> ExitCode {
    let run = || match Options::parse(std::env::args().skip(1))? {
        None => {
            print!("{}", options::help());
            Ok(())
        }
        Some(options) => Bench::new(options)?.run(),
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error: Box<dyn Error> = error;
            eprintln!("rocker-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Subject {
    Rocker,
    RockerC,
    Warm,
    Again,
    NoneReady,
    FloorDoc,
    FloorBest,
    FloorWarm,
    FloorWalls,
    FloorKept,
    Bwrap,
    Callback,
    FloorDocCallback,
}

impl Subject {
    /// In the order of their turns: what is compared most comes next to each other.
    const ALL: [Self; 13] = [
        Self::Rocker,
        Self::RockerC,
        Self::FloorDoc,
        Self::FloorBest,
        Self::FloorWarm,
        Self::FloorWalls,
        Self::Warm,
        Self::Again,
        Self::FloorKept,
        Self::NoneReady,
        Self::Bwrap,
        Self::FloorDocCallback,
        Self::Callback,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Rocker => "rocker",
            Self::RockerC => "rocker, C",
            Self::Warm => "rocker, warm",
            Self::Again => "rocker, again",
            Self::NoneReady => "rocker, none ready",
            Self::FloorDoc => "floor doc",
            Self::FloorBest => "floor best",
            Self::FloorWarm => "floor warm",
            Self::FloorWalls => "floor walls",
            Self::FloorKept => "floor kept",
            Self::Bwrap => "bwrap",
            Self::Callback => "rocker, callback",
            Self::FloorDocCallback => "floor doc, callback",
        }
    }
}

/// What of ours is compared with what, and the goals for the medians of request to App and of
/// request to all gone: so many times the other's.
const COMPARED: [(Subject, Subject, Option<f64>, Option<f64>); 12] = [
    (Subject::RockerC, Subject::Rocker, Some(1.03), Some(1.03)),
    (Subject::Rocker, Subject::FloorDoc, Some(1.25), Some(1.25)),
    (Subject::Rocker, Subject::FloorBest, None, Some(1.5)),
    (Subject::Warm, Subject::FloorWarm, Some(1.0), Some(1.15)),
    (Subject::Warm, Subject::FloorWalls, None, None),
    (Subject::Again, Subject::FloorWarm, Some(0.5), None),
    (Subject::Again, Subject::FloorKept, None, None),
    (Subject::Again, Subject::Warm, None, None),
    (Subject::NoneReady, Subject::FloorWarm, None, Some(1.5)),
    (Subject::Callback, Subject::FloorDocCallback, None, None),
    (Subject::Rocker, Subject::Bwrap, None, None),
    (Subject::Warm, Subject::Rocker, None, None),
];

/// What the rows are, for who reads the page alone.
const LEGEND: &str = "
A launch is counted from the request to the App's first instruction, and until App and guard are \
gone. `rocker` mounts the package anew and has no guard ready; `warm` finds the package mounted \
and a guard ready, `none ready` the package alone; `again` is the same App again, with its \
overlays kept; `C` is by the C library, `callback` calls a function instead of a program. `floor` \
is the system calls alone, by a bare C program: `doc` as the diagrams have them, `best` the \
fewest, `warm` with the package mounted, `walls` with filter, empty capability sets and devices \
of its own besides, `kept` with the overlays made before as well. Goals are this project's own.
";

/// Microseconds of one launch.
#[derive(Clone, Copy, Debug)]
struct Sample {
    app: f64,
    gone: f64,
}

/// All samples of one subject with one number of overlays.
struct Row {
    overlays: usize,
    subject: Subject,
    app: Vec<f64>,
    gone: Vec<f64>,
}

impl Row {
    fn add(&mut self, samples: &[Sample]) {
        self.app.extend(samples.iter().map(|sample| sample.app));
        self.gone.extend(samples.iter().map(|sample| sample.gone));
    }

    fn figure(&self) -> Figure {
        let scene = format!("a launch with {} overlays, request to App", self.overlays);
        Figure::new(&scene, self.subject.name(), self.percentiles()[0][0], "us")
    }

    /// p50, p95 and p99 of both.
    fn percentiles(&self) -> [[f64; 3]; 2] {
        [&self.app, &self.gone].map(|values| percentiles(values))
    }
}

/// p50, p95 and p99.
fn percentiles(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    [50, 95, 99].map(|percent| match (sorted.len() * percent).div_ceil(100) {
        0 => f64::NAN,
        rank => sorted[rank - 1],
    })
}

/// Everything there is to measure with.
struct Bench {
    options: Options,
    /// The CPU that all share, and all that there are.
    cpu: usize,
    cpus: CpuSet,
    master: Master,
    /// One as it is by default, but that it keeps no overlays.
    warm: Master,
    /// One as it is by default.
    again: Master,
    none_ready: Master,
    floor: PathBuf,
    clock: PathBuf,
    /// A program that has a C library and does nothing.
    empty: PathBuf,
    package: PathBuf,
    /// Its version; none if there is none.
    bwrap: Option<(u32, u32)>,
    _states: [TempDir; 4],
    dir: TempDir,
}

impl Bench {
    fn new(options: Options) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err("mounting and entering rockers needs root".into());
        }
        // Whatever is mounted here goes with this program, however that ends.
        private_mounts();
        let cpus = sched_getaffinity(Pid::from_raw(0))?;
        let cpu = pin(&cpus, options.cpu)?;
        let dir = scratch();
        let top = dir.path();
        let optimized = ["-O2", "-static"];
        let floor = compile(top, "floor", FLOOR, &optimized)?;
        let alone = ["-O2", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-s"];
        let clock = compile(top, "clock", CLOCK, &alone)?;
        let empty = compile(top, "empty", "int main(void) { return 0; }", &optimized)?;
        for name in ["content", "data", "again", "exec", "up", "work"] {
            fs::create_dir(top.join(name))?;
        }
        fs::copy(&clock, top.join("content/clock"))?;
        let package = top.join("clock.sqfs");
        let mut pack = Command::new(options.bin.join("rocker"));
        run(pack.arg("pack").arg(top.join("content")).arg(&package))?;
        let states = [state_dir(top)?, state_dir(top)?, state_dir(top)?, state_dir(top)?];
        let program = || Command::new(options.bin.join("rocker-master"));
        let start = |at: usize, lines| Master::start(program(), states[at].path(), lines);
        let master = start(0, "max_packages = 0\nmax_overlays = 0\nready_guards = 0\n")?;
        let warm = start(1, "max_overlays = 0\n")?;
        let none_ready = start(2, "max_overlays = 0\nready_guards = 0\n")?;
        let again = start(3, "")?;
        let (bwrap, _states) = (bwrap_version(), states);
        Ok(Self {
            options,
            cpu,
            cpus,
            master,
            warm,
            again,
            none_ready,
            floor,
            clock,
            empty,
            package,
            bwrap,
            _states,
            dir,
        })
    }

    /// Each scene's part is printed when it is there; JSON and pictures need all.
    fn run(&self) -> Result<()> {
        let mut all = json!({"conditions": self.conditions()});
        let mut pages: Vec<charts::Page> = vec![];
        if !self.options.json {
            println!("{}", self.conditions());
        }
        for &scene in &self.options.scenes {
            let part = self.scene(scene)?;
            match self.options.json {
                true => all[scene.name()] = part.json,
                false => print!("{}", part.text),
            }
            match pages.iter_mut().find(|page| page.name == scene.page()) {
                Some(page) => {
                    page.figures.extend(part.figures);
                    page.text += &part.page;
                }
                None => pages.push(charts::Page {
                    name: scene.page(),
                    figures: part.figures,
                    text: part.page,
                }),
            }
        }
        if self.options.json {
            println!("{all:#}");
        }
        match &self.options.charts {
            Some(dir) => pages.iter().try_for_each(|page| page.write(dir, &self.conditions())),
            None => Ok(()),
        }
    }

    fn scene(&self, scene: Scene) -> Result<Part> {
        Ok(match scene {
            Scene::Launch => self.launches()?,
            Scene::Exec => exec::to_part(&self.measure_exec()?),
            Scene::Whole => whole::to_part(&self.measure_whole()?),
            Scene::Sizes => self.sizes()?.into(),
            Scene::Scale => self.measure_scale()?.into(),
            Scene::Callers => self.measure_callers()?.into(),
            Scene::Among => self.measure_among()?.into(),
            Scene::Mounts => self.measure_mounts()?.into(),
            Scene::Memory => self.measure_memory()?.into(),
            Scene::Profile => self.measure_profile()?.into(),
            Scene::Leaks => self.measure_leaks()?,
            Scene::Packages => self.measure_packages()?,
            Scene::Calls => self.system_calls()?.into(),
        })
    }

    /// Launches by all subjects, with each number of overlays.
    fn launches(&self) -> Result<Part> {
        let mut rows = vec![];
        for dirs in OVERLAYS {
            let dirs: Vec<&str> =
                dirs.iter().copied().filter(|dir| Path::new(dir).is_dir()).collect();
            rows.extend(self.measure(&dirs)?);
        }
        let figures = rows.iter().map(Row::figure).collect();
        let text = to_text(&rows);
        let page = format!("{LEGEND}\n```text\n{}\n```\n", text.trim());
        Ok(Part { text, json: to_json(&rows), figures, page })
    }

    /// On all processors, with a master of its own as it is by default, but for `lines`.
    fn on_all_cpus<T>(&self, lines: &str, scene: impl FnOnce(&Master) -> Result<T>) -> Result<T> {
        let here = Pid::from_raw(0);
        let mut only = CpuSet::new();
        only.set(self.cpu)?;
        sched_setaffinity(here, &self.cpus)?;
        let done = self.with_master(lines, scene);
        sched_setaffinity(here, &only)?;
        done
    }

    /// With a master of its own as it is by default, but for `lines`.
    fn with_master<T>(&self, lines: &str, scene: impl FnOnce(&Master) -> Result<T>) -> Result<T> {
        let state = state_dir(self.dir.path())?;
        let program = Command::new(self.options.bin.join("rocker-master"));
        Master::start(program, state.path(), lines).and_then(|master| scene(&master))
    }

    fn measure(&self, dirs: &[&str]) -> Result<Vec<Row>> {
        let has_overlays = self.bwrap.is_some_and(|version| version >= (0, 11));
        let mut skips_bwrap = self.bwrap.is_none() || (!dirs.is_empty() && !has_overlays);
        if !skips_bwrap && let Err(why) = self.bwrap(dirs) {
            figure::skip(&format!("bwrap with {} overlays", dirs.len()), why);
            skips_bwrap = true;
        }
        let skips_kept = self.floor_batch("kept", true, dirs).err();
        if let Some(why) = &skips_kept {
            figure::skip(&format!("floor kept with {} overlays", dirs.len()), why);
        }
        let mut rows: Vec<Row> = Subject::ALL
            .into_iter()
            .filter(|&subject| match subject {
                Subject::Bwrap => !skips_bwrap,
                Subject::FloorKept => skips_kept.is_none(),
                _ => true,
            })
            .map(|subject| Row { overlays: dirs.len(), subject, app: vec![], gone: vec![] })
            .collect();
        for round in 0..self.options.rounds {
            // Every other time backwards, so that nobody always comes after the same.
            let mut order: Vec<Subject> = rows.iter().map(|row| row.subject).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for subject in order {
                let failed =
                    |error| format!("{} with {} overlays: {error}", subject.name(), dirs.len());
                let mut add = |subject, samples: &[Sample]| {
                    rows.iter_mut()
                        .filter(|row| row.subject == subject)
                        .for_each(|row| row.add(samples));
                };
                match subject {
                    // Both are measured in the turn of one.
                    Subject::RockerC => {}
                    Subject::Rocker => {
                        let [rust, c] = self.both_batches(dirs).map_err(failed)?;
                        add(Subject::Rocker, &rust);
                        add(Subject::RockerC, &c);
                    }
                    _ => add(subject, &self.batch(subject, dirs).map_err(failed)?),
                }
            }
        }
        Ok(rows)
    }

    fn batch(&self, subject: Subject, dirs: &[&str]) -> Result<Vec<Sample>> {
        let floor = |mode, program| self.floor_batch(mode, program, dirs);
        match subject {
            Subject::FloorDoc => return floor("doc", true),
            Subject::FloorBest => return floor("best", true),
            Subject::FloorWarm => return floor("warm", true),
            Subject::FloorWalls => return floor("walls", true),
            Subject::FloorKept => return floor("kept", true),
            Subject::FloorDocCallback => return floor("doc", false),
            Subject::Rocker | Subject::RockerC => unreachable!("they have one turn"),
            Subject::Callback
            | Subject::Bwrap
            | Subject::Warm
            | Subject::Again
            | Subject::NoneReady => {}
        }
        let launch = match (subject, dirs) {
            // Nobody else's: it is kept from turn to turn.
            (Subject::Again, [_, ..]) => self.launch(dirs).data_dir(self.path("again")),
            _ => self.launch(dirs),
        };
        let through = |master: &Master| -> Result<Sample> {
            let sample = self.program(&launch.clone().socket(&master.socket), master)?;
            master.settle()?;
            Ok(sample)
        };
        let count = self.options.warm_ups() + self.options.batch;
        let mut samples = vec![];
        for _ in 0..count {
            samples.push(match subject {
                Subject::Callback => {
                    let sample = self.callback(&launch, &self.master)?;
                    self.master.settle()?;
                    sample
                }
                Subject::Warm => through(&self.warm)?,
                Subject::Again => through(&self.again)?,
                Subject::NoneReady => through(&self.none_ready)?,
                _ => self.bwrap(dirs)?,
            });
        }
        Ok(samples.split_off(self.options.warm_ups()))
    }

    /// Launches by the Rust library and by the C library, in turn.
    fn both_batches(&self, dirs: &[&str]) -> Result<[Vec<Sample>; 2]> {
        let (launch, request) = (self.launch(dirs), self.request(dirs));
        let mut samples = [vec![], vec![]];
        for number in 0..self.options.warm_ups() + self.options.batch {
            for turn in 0..2 {
                let by_c = (number + turn) % 2;
                samples[by_c].push(match by_c {
                    0 => self.program(&launch, &self.master)?,
                    _ => self.program_by_c(&request, &self.master)?,
                });
                self.master.settle()?;
            }
        }
        Ok(samples.map(|mut samples| samples.split_off(self.options.warm_ups())))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn launch(&self, dirs: &[&str]) -> Launch {
        let launch = Launch::new(&self.package)
            .socket(&self.master.socket)
            .exec_dir(self.path("exec"))
            .uid(ID)
            .gid(ID);
        match dirs {
            [] => launch,
            dirs => dirs.iter().fold(launch.data_dir(self.path("data")), Launch::overlay),
        }
    }

    /// As [`launch`](Self::launch).
    fn request(&self, dirs: &[&str]) -> Request {
        Request {
            uid: Some(ID.cast_signed()),
            gid: Some(ID.cast_signed()),
            package: Some(c_string(&self.package)),
            exec_dir: Some(c_string(self.path("exec"))),
            data_dir: (!dirs.is_empty()).then(|| c_string(self.path("data"))),
            overlay_dirs: dirs.iter().map(c_string).collect(),
            socket: Some(c_string(&self.master.socket)),
            ..Request::default()
        }
    }

    fn program(&self, launch: &Launch, master: &Master) -> Result<Sample> {
        let (mut said, out) = std::io::pipe()?;
        let program = Program::new("./clock").stdout(out);
        let begin = now_ns();
        let mut rocker = launch.spawn(&program)?;
        rocker.wait()?;
        let wait = || Ok(rocker.wait_gone(Some(SOON))?);
        let gone = self.wait_gone(wait, master.keeps, &mut said)?;
        Ok(gone.since(begin))
    }

    fn program_by_c(&self, request: &Request, master: &Master) -> Result<Sample> {
        let (mut said, out) = std::io::pipe()?;
        let program = c_client::Program::new("./clock").stdio(1, out);
        let begin = now_ns();
        let mut rocker = request.spawn(&program).map_err(|error| error.to_string())?;
        rocker.wait()?;
        let gone = self.wait_gone(|| Ok(rocker.wait_gone()), master.keeps, &mut said)?;
        Ok(gone.since(begin))
    }

    /// Standard output is the only way out of a rocker that a callback is given.
    fn callback(&self, launch: &Launch, master: &Master) -> Result<Sample> {
        let (mut said, out) = std::io::pipe()?;
        let ours = rustix::io::dup(std::io::stdout())?;
        rustix::stdio::dup2_stdout(&out)?;
        let begin = now_ns();
        // SAFETY: this program has one thread.
        let entered = unsafe { launch.enter(say_when) };
        let ended = entered.as_ref().map(|_| ());
        rustix::stdio::dup2_stdout(&ours)?;
        ended.map_err(ToString::to_string)?;
        let mut rocker = entered?;
        rocker.wait()?;
        let wait = || Ok(rocker.wait_gone(Some(SOON))?);
        let gone = self.wait_gone(wait, master.keeps, &mut said)?;
        Ok(gone.since(begin))
    }

    /// Waits until the guard is gone and, unless its mount is kept, the loop device is nobody's, as
    /// floor does.
    fn wait_gone(
        &self,
        wait: impl FnOnce() -> Result<bool>,
        is_kept: bool,
        said: &mut impl Read,
    ) -> Result<Gone> {
        let mut words = [0; 16];
        said.read_exact(&mut words)?;
        let [app_ns, minor] = [0, 8].map(|at| {
            let mut word = [0; 8];
            word.copy_from_slice(&words[at..at + 8]);
            u64::from_ne_bytes(word)
        });
        if !wait()? {
            return Err("the rocker is still there".into());
        }
        let file = format!("/sys/block/loop{minor}/loop/backing_file");
        let is_ours = |text: Vec<u8>| text.starts_with(self.package.as_os_str().as_encoded_bytes());
        while !is_kept && fs::read(&file).is_ok_and(is_ours) {}
        Ok(Gone { app_ns, gone_ns: now_ns() })
    }

    /// What it can do of the same: namespaces, the App's ids, /proc, and overlays if it can.
    fn bwrap(&self, dirs: &[&str]) -> Result<Sample> {
        let mut bwrap = self.bwrap_command(dirs)?;
        let (mut said, out) = std::io::pipe()?;
        bwrap.arg(&self.clock).stdin(Stdio::null()).stdout(OwnedFd::from(out));
        let begin_ns = now_ns();
        let mut child = bwrap.spawn()?;
        let status = child.wait()?;
        let gone_ns = now_ns();
        drop(bwrap);
        let mut word = [0; 8];
        said.read_exact(&mut word).map_err(|error| format!("{status}: {error}"))?;
        Ok(Gone { app_ns: u64::from_ne_bytes(word), gone_ns }.since(begin_ns))
    }

    fn bwrap_command(&self, dirs: &[&str]) -> Result<Command> {
        let mut bwrap = Command::new("bwrap");
        bwrap.args(["--unshare-user", "--unshare-pid", "--uid", "1000", "--gid", "1000"]);
        bwrap.args(["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]);
        for dir in dirs {
            let [up, work] = ["up", "work"].map(|kind| self.path(kind).join(dir.replace('/', "_")));
            fs::create_dir_all(&up)?;
            fs::create_dir_all(&work)?;
            bwrap.args(["--overlay-src", dir, "--overlay"]).args([&up, &work]).arg(dir);
        }
        Ok(bwrap)
    }

    fn sizes(&self) -> Result<Vec<Figure>> {
        let guard_file = fs::metadata(self.options.bin.join("rocker-guard"))?.len();
        let (said, out) = std::io::pipe()?;
        let (input, end) = std::io::pipe()?;
        let program = Program::new("./clock").arg("wait").stdin(input).stdout(out);
        let mut rocker = self.launch(OVERLAYS[2]).spawn(&program)?;
        drop((program, said));
        let idle = memory_bytes(rocker.guard_pid(), &["Anonymous"]);
        let alone = memory_bytes(rocker.guard_pid(), &["Private_Clean", "Private_Dirty"]);
        let master = rss_bytes(self.master.child.id());
        drop(end);
        rocker.wait()?;
        rocker.wait_gone(Some(SOON))?;
        // The command waits as long as its App runs.
        let (said, out) = std::io::pipe()?;
        let (input, end) = std::io::pipe()?;
        let mut command = self.rocker_command(&self.again, "again");
        let mut command = command.arg("wait").stdin(input).stdout(out).spawn()?;
        (&said).read_exact(&mut [0; 16])?;
        let waiting = memory_bytes(command.id(), &["Anonymous"]);
        drop(end);
        command.wait()?;
        let size = |what, bytes: u64, limit: u64| {
            Figure::new("sizes", what, bytes as f64, "bytes").at_most(limit as f64)
        };
        Ok(vec![
            size("rocker-guard, stripped", guard_file, tests::GUARD_MAX),
            size("idle guard, memory of its own", idle?, 52 << 10),
            // All guards share these pages, which the master has sealed.
            size("the same with its program", alone?, 200 << 10),
            // A page more or less, as its stack happens to lie.
            size("waiting rocker run, memory of its own", waiting?, 56 << 10),
            size("rocker-master, resident memory", master?, 4 << 20),
        ])
    }

    fn conditions(&self) -> String {
        let Options { batch, rounds, .. } = self.options;
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let bwrap = match self.bwrap {
            None => "no bwrap here".to_owned(),
            Some((major, minor)) if (major, minor) < (0, 11) => {
                format!("bwrap {major}.{minor} (no overlays before 0.11)")
            }
            Some((major, minor)) => format!("bwrap {major}.{minor}"),
        };
        format!(
            "{} launches each, {rounds} rounds of {batch}, all on CPU {}, Linux {}, {bwrap}",
            batch * rounds,
            self.cpu,
            kernel.trim_end(),
        )
    }
}

fn to_text(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut line = |columns: core::fmt::Arguments<'_>| {
        // A String takes any text.
        let _ = writeln!(text, "{columns}");
    };
    line(format_args!("\n{:34}{:^26} {:^26}", "microseconds", "request to App", "to all gone"));
    line(format_args!(
        "{:8} {:24} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "overlays", "", "p50", "p95", "p99", "p50", "p95", "p99"
    ));
    for row in rows {
        let [app, gone] = row.percentiles().map(|p| p.map(|us| format!("{us:8.0}")).join(" "));
        line(format_args!("{:8} {:24} {app} {gone}", row.overlays, row.subject.name()));
    }
    line(format_args!("\n{:40} {:>8} {:>8}", "ratio of medians", "App", "all gone"));
    for ratio in ratios(rows) {
        line(format_args!(
            "{:8} {:31} {:8.2} {:8.2}{}",
            ratio.overlays,
            ratio.name(),
            ratio.app,
            ratio.gone,
            ratio.verdict()
        ));
    }
    text
}

fn to_json(rows: &[Row]) -> serde_json::Value {
    let row = |row: &Row| {
        let [app, gone] =
            row.percentiles().map(|[p50, p95, p99]| json!({"p50": p50, "p95": p95, "p99": p99}));
        let (name, count) = (row.subject.name(), row.app.len());
        json!({"overlays": row.overlays, "what": name, "launches": count,
            "app_us": app, "gone_us": gone})
    };
    let ratio = |ratio: Ratio| {
        json!({"overlays": ratio.overlays, "of": ratio.of.name(), "to": ratio.to.name(),
            "app": ratio.app, "gone": ratio.gone, "goals": ratio.goals})
    };
    json!({
        "rows": rows.iter().map(row).collect::<Vec<_>>(),
        "ratios": ratios(rows).into_iter().map(ratio).collect::<Vec<_>>(),
    })
}

/// When it was over.
struct Gone {
    app_ns: u64,
    gone_ns: u64,
}

impl Gone {
    fn since(&self, begin_ns: u64) -> Sample {
        let since = |at: u64| Duration::from_nanos(at.saturating_sub(begin_ns)).as_secs_f64() * 1e6;
        Sample { app: since(self.app_ns), gone: since(self.gone_ns) }
    }
}

/// Our median by another's.
struct Ratio {
    overlays: usize,
    of: Subject,
    to: Subject,
    app: f64,
    gone: f64,
    goals: [Option<f64>; 2],
}

impl Ratio {
    fn name(&self) -> String {
        let ours = self.of.name().trim_start_matches("rocker").trim_start_matches(", ");
        let to = self.to.name();
        if ours.is_empty() { format!("to {to}") } else { format!("{ours} to {to}") }
    }

    fn verdict(&self) -> String {
        let verdicts = [(self.app, self.goals[0], "App"), (self.gone, self.goals[1], "gone")];
        let verdicts = verdicts.map(|(ratio, goal, what)| {
            let goal = goal?;
            Some(format!("{what} {goal:.2} {}", if ratio <= goal { "met" } else { "missed" }))
        });
        let verdicts: Vec<String> = verdicts.into_iter().flatten().collect();
        if verdicts.is_empty() {
            String::new()
        } else {
            format!("  goals: {}", verdicts.join(", "))
        }
    }
}

fn ratios(rows: &[Row]) -> Vec<Ratio> {
    let mut ratios = vec![];
    for ours in rows {
        for (of, to, app_goal, gone_goal) in COMPARED {
            let is_it = |row: &&Row| row.overlays == ours.overlays && row.subject == to;
            let (true, Some(other)) = (of == ours.subject, rows.iter().find(is_it)) else {
                continue;
            };
            let (mine, theirs) = (ours.percentiles(), other.percentiles());
            let [app, gone] = [0, 1].map(|which: usize| mine[which][0] / theirs[which][0]);
            let overlays = ours.overlays;
            // The goals are for five, but between our own libraries.
            let counts = overlays == OVERLAYS[2].len() || to == Subject::Rocker;
            let goals = [app_goal, gone_goal].map(|goal| goal.filter(|_| counts));
            ratios.push(Ratio { overlays, of, to, app, gone, goals });
        }
    }
    ratios
}

/// The App as a callback: the same as `bench/clock.c`.
fn say_when() -> i32 {
    let now = now_ns();
    let device = rustix::fs::stat(".").map_or(0, |status| rustix::fs::minor(status.st_dev));
    let words = [now, u64::from(device)].map(u64::to_ne_bytes).concat();
    match rustix::io::write(std::io::stdout(), &words) {
        Ok(16) => 0,
        _ => 1,
    }
}

/// A master that ends with this program, however that ends.
struct Master {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
    /// A package stays mounted for the next rocker.
    keeps: bool,
    /// A guard waits for the next launch.
    prepares: bool,
}

impl Master {
    /// `lines` are its configuration.
    fn start(mut program: Command, state: &Path, lines: &str) -> Result<Self> {
        let [keeps, prepares] =
            ["max_packages = 0", "ready_guards = 0"].map(|line| !lines.contains(line));
        let [socket, config, log] =
            ["run/master.sock", "master.toml", "log"].map(|at| state.join(at));
        fs::write(&config, lines)?;
        program.arg("--config").arg(config).arg("--socket").arg(&socket);
        let end = || Ok(set_parent_process_death_signal(Some(Signal::TERM))?);
        // SAFETY: it makes one system call.
        unsafe { program.pre_exec(end) };
        let child = program.stdin(Stdio::null()).stderr(fs::File::create(&log)?).spawn()?;
        let mut master = Self { child, socket, log, keeps, prepares };
        let ready = within(SOON, || {
            master.settle().is_ok() || !matches!(master.child.try_wait(), Ok(None))
        });
        match ready && matches!(master.child.try_wait(), Ok(None)) {
            true => Ok(master),
            false => Err(fs::read_to_string(&master.log)?.trim_end().to_owned().into()),
        }
    }

    /// Returns when it has nothing to do: it hears of a rocker's end at once, as the caller does,
    /// but what it does then is no part of the next launch.
    fn settle(&self) -> Result<()> {
        let living = || rocker_client::list(&self.socket, SOON);
        living()?;
        if !within(SOON, || living().is_ok_and(|living| living.is_empty())) {
            return Err("a rocker lives on".into());
        }
        if self.prepares {
            stay_awake(PREPARED_NS);
        }
        Ok(())
    }
}

/// By then a master has a guard ready again, and overlays: it begins a millisecond after an end.
const PREPARED_NS: u64 = 1_600_000;

/// Who sleeps instead has a slow processor for a while, in some rows alone.
fn stay_awake(ns: u64) {
    let until_ns = now_ns() + ns;
    while now_ns() < until_ns {
        std::thread::yield_now();
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if let Some(master) = process::pidfd(self.child.id()) {
            let _ = rustix::process::pidfd_send_signal(master, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

/// Where the master keeps its records: in memory, as `/run` is on the usual host, if that is to
/// be had. Elsewhere a record costs a tenth of a millisecond.
fn state_dir(top: &Path) -> Result<TempDir> {
    /// `TMPFS_MAGIC` of linux/magic.h
    const TMPFS: u64 = 0x0102_1994;
    let is_tmpfs = |dir: &&Path| {
        rustix::fs::statfs(*dir).is_ok_and(|found| u64::try_from(found.f_type) == Ok(TMPFS))
    };
    let dir = [Path::new("/run"), Path::new("/dev/shm")].into_iter().find(is_tmpfs);
    Ok(tempfile::Builder::new().prefix("rocker-bench-").tempdir_in(dir.unwrap_or(top))?)
}

/// One CPU for this program and all it starts: the last that it may use, unless one is given.
fn pin(may: &CpuSet, wanted: Option<usize>) -> Result<usize> {
    let last = || (0..CpuSet::count()).rev().find(|&cpu| may.is_set(cpu) == Ok(true));
    let cpu = wanted.or_else(last).ok_or("no CPU to be had")?;
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &only)
        .map_err(|error| format!("cannot run on CPU {cpu}: {error}"))?;
    Ok(cpu)
}

fn compile(top: &Path, name: &str, source: &str, flags: &[&str]) -> Result<PathBuf> {
    let (file, program) = (top.join(name).with_extension("c"), top.join(name));
    fs::write(&file, source)?;
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut command = Command::new(&compiler);
    run(command.args(flags).arg("-o").arg(&program).arg(&file))
        .map_err(|error| format!("the benchmark needs a C compiler ($CC, else cc): {error}"))?;
    Ok(program)
}

/// What a command that succeeds has said.
fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{name}: {error}"))?;
    Ok(String::from_utf8(words(&name, output)?)?)
}

/// The same, in bytes, of one that is killed if it takes longer.
fn run_within(command: &mut Command, limit: Duration) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
    let end = process::pidfd(child.id()).ok_or("a child of ours is gone")?;
    let limit = Timespec::try_from(limit)?;
    if poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&limit))? == 0 {
        child.kill()?;
        child.wait()?;
        return Err(format!("{name}: it was killed after {} s", limit.tv_sec).into());
    }
    words(&name, child.wait_with_output()?)
}

fn words(name: &str, output: Output) -> Result<Vec<u8>> {
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{name}: {}: {}", output.status, words.trim_end()).into());
    }
    Ok(output.stdout)
}

/// `bubblewrap 0.8.0`
fn bwrap_version() -> Option<(u32, u32)> {
    let said = run(Command::new("bwrap").arg("--version")).ok()?;
    let mut numbers = said.trim_end().rsplit(' ').next()?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Memory of a process, by its kinds (`man 5 proc_pid_smaps`).
fn memory_bytes(pid: u32, kinds: &[&str]) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = |line: &str| {
        let (kind, kib) = line.split_once(':')?;
        kinds.contains(&kind).then(|| kib.trim().strip_suffix(" kB")?.parse::<u64>().ok())?
    };
    Ok(text.lines().filter_map(kib).sum::<u64>() << 10)
}

fn rss_bytes(pid: u32) -> Result<u64> {
    let text = process::status(pid).get("VmRSS").cloned().unwrap_or_default();
    Ok(text.trim_end_matches(" kB").parse::<u64>()? << 10)
}

#[cfg(test)]
mod tests_of_peers {
    use super::*;

    #[test]
    fn run_within_kills_who_takes_longer() {
        let mut sleep = Command::new("sleep");
        let limit = Duration::from_secs(1);
        let error = run_within(sleep.arg("100"), limit).expect_err("it sleeps");
        assert_eq!(error.to_string(), "sleep: it was killed after 1 s");
        let mut echo = Command::new("echo");
        assert_eq!(run_within(echo.arg("hello"), SOON).expect("it is quick"), b"hello\n");
    }
}
