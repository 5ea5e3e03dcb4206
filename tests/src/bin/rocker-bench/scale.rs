//! What many rockers cost, and what a launch asks of the kernel: with a master as it is by
//! default, which keeps packages mounted and guards ready, and on all processors.
//!
//! Each scene gives figures, and nothing else: they are printed, and drawn ([`crate::charts`]).

use core::time::Duration;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use rocker_client::protocol::socket::now_ns;
use rocker_client::{Conf, Launch, Limits, Program, Rocker};
use serde_json::{Value, json};
use tests::within;

use crate::{Bench, Master, Result, SOON, memory_bytes, percentiles, rss_bytes, run, state_dir};

/// One number.
pub(crate) struct Figure {
    pub(crate) scene: String,
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
}

impl Figure {
    pub(crate) fn new(
        scene: &str,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) -> Self {
        Self { scene: scene.to_owned(), what: what.into(), value, unit }
    }
}

/// How much of everything.
struct Amounts {
    /// Rockers that live while others are launched, one after the other.
    live: [usize; 3],
    at_once: usize,
    lasting: Duration,
}

impl Amounts {
    const FULL: Self = Self { live: [0, 100, 1000], at_once: 100, lasting: Duration::from_secs(5) };
    const QUICK: Self = Self { live: [0, 5, 10], at_once: 10, lasting: Duration::from_millis(500) };
}

impl Bench {
    /// All scenes.
    pub(crate) fn measure_scale(&self) -> Result<Vec<Figure>> {
        let here = Pid::from_raw(0);
        let mut only = CpuSet::new();
        only.set(self.cpu)?;
        sched_setaffinity(here, &self.cpus)?;
        let figures = self.scenes();
        sched_setaffinity(here, &only)?;
        let mut figures = figures?;
        // What one measurement says of several scenes comes to its scene.
        let mut scenes: Vec<String> = vec![];
        for figure in &figures {
            if !scenes.contains(&figure.scene) {
                scenes.push(figure.scene.clone());
            }
        }
        figures.sort_by_key(|figure| scenes.iter().position(|scene| *scene == figure.scene));
        Ok(figures)
    }

    fn scenes(&self) -> Result<Vec<Figure>> {
        let amounts = if self.options.quick { Amounts::QUICK } else { Amounts::FULL };
        let state = state_dir(self.dir.path())?;
        let program = Command::new(self.options.bin.join("rocker-master"));
        let master = Master::start(program, state.path(), "")?;
        let launch = self.launch(&[]).socket(&master.socket);
        let mut figures = self.at_once(&launch, amounts.at_once)?;
        master.settle()?;
        figures.push(self.lasting(&launch, amounts.lasting)?);
        master.settle()?;
        figures.extend(self.among_others(&launch, &master, amounts.live)?);
        master.settle()?;
        figures.push(self.resets(&launch)?);
        drop(master);
        figures.extend(self.system_calls()?);
        Ok(figures)
    }

    /// Each caller has a thread of its own, and all begin together.
    fn at_once(&self, launch: &Launch, count: usize) -> Result<Vec<Figure>> {
        let (mut said, out) = std::io::pipe()?;
        let program = Program::new("./clock").stdout(out);
        let together = Barrier::new(count + 1);
        let one = || -> core::result::Result<u64, String> {
            together.wait();
            let mut rocker = launch.spawn(&program).map_err(|error| error.to_string())?;
            rocker.wait().map_err(|error| error.to_string())?;
            rocker.wait_gone(Some(SOON)).map_err(|error| error.to_string())?;
            Ok(now_ns())
        };
        let (begin_ns, ended) = thread::scope(|scope| {
            let callers: Vec<_> = (0..count).map(|_| scope.spawn(one)).collect();
            together.wait();
            let begin_ns = now_ns();
            let ended: Vec<_> = callers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            (begin_ns, ended)
        });
        let ms = |at_ns: u64| at_ns.saturating_sub(begin_ns) as f64 / 1e6;
        let mut gone: f64 = 0.0;
        for end in ended {
            gone = gone.max(ms(end.map_err(|_| "a panic")??));
        }
        let mut words = vec![0; 16 * count];
        said.read_exact(&mut words)?;
        let started = words.chunks_exact(16).filter_map(|words| words.first_chunk::<8>());
        let started: Vec<f64> = started.map(|word| ms(u64::from_ne_bytes(*word))).collect();
        let scene = format!("{count} launches at once");
        let last = started.iter().copied().fold(0.0, f64::max);
        Ok(vec![
            Figure::new(&scene, "half of the Apps run", percentiles(&started)[0], "ms"),
            Figure::new(&scene, "all Apps run", last, "ms"),
            Figure::new(&scene, "all are gone", gone, "ms"),
        ])
    }

    /// As many callers as processors, each with one launch after the other.
    fn lasting(&self, launch: &Launch, time: Duration) -> Result<Figure> {
        let callers = thread::available_parallelism()?.get();
        let begin = Instant::now();
        let one = || -> core::result::Result<usize, String> {
            let (mut said, out) = std::io::pipe().map_err(|error| error.to_string())?;
            let program = Program::new("./clock").stdout(out);
            let mut count = 0;
            while begin.elapsed() < time {
                let mut rocker = launch.spawn(&program).map_err(|error| error.to_string())?;
                rocker.wait().map_err(|error| error.to_string())?;
                rocker.wait_gone(Some(SOON)).map_err(|error| error.to_string())?;
                said.read_exact(&mut [0; 16]).map_err(|error| error.to_string())?;
                count += 1;
            }
            Ok(count)
        };
        let counts = thread::scope(|scope| {
            let callers: Vec<_> = (0..callers).map(|_| scope.spawn(one)).collect();
            callers.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        let mut all = 0;
        for count in counts {
            all += count.map_err(|_| "a panic")??;
        }
        let rate = all as f64 / begin.elapsed().as_secs_f64();
        let what = format!("launches, {callers} callers on as many processors");
        Ok(Figure::new("a second has room for", what, rate, "/s"))
    }

    /// Launches among idle rockers, and what these hold. Two descriptors are kept of each.
    fn among_others(
        &self,
        launch: &Launch,
        master: &Master,
        live: [usize; 3],
    ) -> Result<Vec<Figure>> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        let (input, end) = std::io::pipe()?;
        let (said, out) = std::io::pipe()?;
        let idle = Program::new("./clock").arg("wait").stdin(input).stdout(out);
        let mut figures = vec![];
        let mut rockers: Vec<Rocker> = vec![];
        let available = available_bytes()?;
        for count in live {
            while rockers.len() < count {
                rockers.push(launch.spawn(&idle)?);
            }
            let held = available.saturating_sub(available_bytes()?);
            let mut app = vec![];
            for number in 0..self.options.warm_ups() + self.options.batch {
                let sample = self.program(launch, master)?;
                if number >= self.options.warm_ups() {
                    app.push(sample.app);
                }
            }
            let among = format!("among {count} rockers");
            let scene = "a launch among others, request to App";
            figures.push(Figure::new(scene, among.clone(), percentiles(&app)[0], "us"));
            if let Some(last) = rockers.last() {
                let kib = |bytes: u64| bytes as f64 / 1024.0;
                let own = memory_bytes(last.guard_pid(), &["Anonymous"])?;
                let all = kib(held) / count as f64;
                let scene = "memory of an idle rocker";
                let what = |what: &str| format!("{what}, {among}");
                figures.push(Figure::new(scene, what("its guard's own"), kib(own), "KiB"));
                figures.push(Figure::new(scene, what("all, kernel and App"), all, "KiB"));
                let master = kib(rss_bytes(master.child.id())?);
                figures.push(Figure::new("memory of the master", among, master, "KiB"));
            }
        }
        drop((end, said, idle));
        for mut rocker in rockers {
            rocker.wait()?;
            rocker.wait_gone(Some(SOON))?;
        }
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
        Ok(figures)
    }

    /// As new, and a program to its end, over and over.
    fn resets(&self, launch: &Launch) -> Result<Figure> {
        let (mut said, out) = std::io::pipe()?;
        let program = Program::new("./clock").stdout(out);
        let mut rocker = launch.open()?;
        rocker.configure(&Conf::new())?;
        let count = self.options.batch * self.options.rounds;
        let begin = Instant::now();
        for _ in 0..count {
            rocker.reset()?;
            let run = rocker.spawn(&program, &Limits::new())?;
            rocker.wait(&run)?;
            said.read_exact(&mut [0; 16])?;
        }
        let rate = count as f64 / begin.elapsed().as_secs_f64();
        rocker.kill(SOON)?;
        Ok(Figure::new("a second has room for", "resets, each with a program", rate, "/s"))
    }

    /// Of a launch, by process. None where there is no strace(1).
    fn system_calls(&self) -> Result<Vec<Figure>> {
        if run(Command::new("strace").arg("--version")).is_err() {
            return Ok(vec![]);
        }
        let few = self.traced(2)?;
        let more = self.traced(12)?;
        let scene = "system calls of a launch";
        let master = (more.master - few.master) as f64 / 10.0;
        Ok(vec![
            Figure::new(scene, "client", more.client as f64, ""),
            Figure::new(scene, "client's helper", more.helper as f64, ""),
            Figure::new(scene, "master", master, ""),
            Figure::new(scene, "guard, to its end", more.guard as f64, ""),
        ])
    }

    fn traced(&self, launches: usize) -> Result<Calls> {
        let state = state_dir(self.dir.path())?;
        let traces = tempfile::tempdir_in(self.dir.path())?;
        // -D: the child is the master, and not strace.
        let traced = |program: &str, name: &str| {
            let mut strace = Command::new("strace");
            strace.args(["-D", "-f", "-ff", "-qq", "-o"]).arg(traces.path().join(name));
            strace.arg(self.options.bin.join(program));
            strace
        };
        let master = Master::start(traced("rocker-master", "m"), state.path(), "")?;
        let launch = self.launch(&[]).socket(&master.socket);
        for _ in 1..launches {
            self.program(&launch, &master)?;
        }
        let mut client = traced("rocker", "c");
        client.arg("run").arg("--socket").arg(&master.socket).args(["--uid", "1000"]);
        client.args(["--gid", "1000", "--exec-dir"]).arg(self.path("exec"));
        client.arg(&self.package).args(["--", "./clock"]);
        // The App says bytes that are no text.
        let status = client.stdout(std::process::Stdio::null()).status()?;
        if !status.success() {
            return Err(format!("rocker run under strace: {status}").into());
        }
        master.settle()?;
        let file = format!("m.{}", master.child.id());
        drop(master);
        let read = |name: &Path| fs::read_to_string(name).unwrap_or_default();
        if !within(SOON, || read(&traces.path().join(&file)).contains("exit_group(")) {
            return Err("strace has not written everything".into());
        }
        let (mut calls, mut guards) = (Calls::default(), vec![]);
        for entry in fs::read_dir(traces.path())? {
            let name = entry?.path();
            let text = read(&name);
            let is = |prefix: &str| {
                name.file_name().is_some_and(|it| it.to_string_lossy().starts_with(prefix))
            };
            if name.ends_with(&file) {
                calls.master = text.lines().count();
            } else if is("m.") {
                guards.push(text.lines().count());
            } else if text.contains("setns(") {
                calls.helper = text.lines().count();
            } else if text.contains("connect(") {
                let own = text.lines().skip_while(|line| !line.starts_with("socket("));
                calls.client = own.take_while(|line| !line.starts_with("shutdown(")).count();
            }
        }
        // Those that wait for a launch to come have done less.
        guards.sort_unstable();
        calls.guard = guards.get(guards.len() / 2).copied().unwrap_or(0);
        Ok(calls)
    }
}

#[derive(Default)]
struct Calls {
    client: usize,
    helper: usize,
    master: usize,
    guard: usize,
}

/// Of the machine (`man 5 proc_meminfo`).
fn available_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no MemAvailable")?;
    Ok(kib.parse::<u64>()? << 10)
}

pub(crate) fn to_text(figures: &[Figure]) -> String {
    let mut text = String::new();
    let mut scene = "";
    for figure in figures {
        if figure.scene != scene {
            scene = &figure.scene;
            text += &format!("\n{scene}\n");
        }
        let Figure { what, value, unit, .. } = figure;
        text += &format!("  {what:50} {value:10.1} {unit}\n");
    }
    text
}

pub(crate) fn to_json(figures: &[Figure]) -> Value {
    let figure = |it: &Figure| json!({"scene": it.scene, "what": it.what, "value": it.value, "unit": it.unit});
    figures.iter().map(figure).collect()
}
