//! What a program in a living rocker costs, from the request to the report of its end, beside
//! who else starts programs, outside or in a container that is there already.
#![allow(unsafe_code, reason = "`fork` of a thread that goes on to `execve` at once")]

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, execve, fork};
use rocker_client::protocol::socket::now_ns;
use rocker_client::{Limits, OpenRocker, Program};
use rustix::mount::MountFlags;
use serde_json::{Value, json};
use tests::scratch::private_mounts;
use tests::within;

use crate::figure::{Figure, Part, skip};
use crate::{Bench, Gone, Result, SOON, Sample, percentiles, run};

/// Who starts the program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    Rocker,
    Fork,
    Spawn,
    Nsenter,
    Crun,
    Runc,
}

impl Way {
    const ALL: [Self; 6] =
        [Self::Rocker, Self::Fork, Self::Spawn, Self::Nsenter, Self::Crun, Self::Runc];

    const fn name(self) -> &'static str {
        match self {
            Self::Rocker => "rocker",
            Self::Fork => "fork, exec, wait",
            Self::Spawn => "posix_spawn, wait",
            Self::Nsenter => "nsenter",
            Self::Crun => "crun exec",
            Self::Runc => "runc exec",
        }
    }

    /// The goal for our median: this times its own.
    const fn goal(self) -> Option<f64> {
        match self {
            Self::Fork => Some(1.3),
            Self::Nsenter | Self::Crun => Some(0.5),
            Self::Rocker | Self::Spawn | Self::Runc => None,
        }
    }
}

/// All samples of one way.
pub(crate) struct Row {
    way: Way,
    app: Vec<f64>,
    end: Vec<f64>,
}

/// A rocker, and what else programs are started in.
struct Places<'a> {
    bench: &'a Bench,
    rocker: OpenRocker,
    containers: Vec<Container>,
}

impl Bench {
    /// All ways in turn, a batch each.
    pub(crate) fn measure_exec(&self) -> Result<Vec<Row>> {
        // A container of another's wants cgroups of one version, and a host with both covered
        // is for a mount namespace of its own: that of a thread.
        std::thread::scope(|scope| {
            let measured = scope.spawn(|| self.measure_ways().map_err(|error| error.to_string()));
            Ok(measured.join().map_err(|_| "a panic")??)
        })
    }

    fn measure_ways(&self) -> Result<Vec<Row>> {
        private_mounts();
        let mut places = Places {
            bench: self,
            rocker: self.launch(&[]).open()?,
            containers: ["crun", "runc"]
                .into_iter()
                .filter_map(|runtime| Container::start(runtime, self).transpose())
                .collect::<Result<_>>()?,
        };
        let is_there = |way: &Way| match way {
            Way::Crun => places.containers.iter().any(|container| container.runtime == "crun"),
            Way::Runc => places.containers.iter().any(|container| container.runtime == "runc"),
            Way::Nsenter => run(Command::new("nsenter").arg("--version")).is_ok(),
            Way::Rocker | Way::Fork | Way::Spawn => true,
        };
        let ways = Way::ALL.into_iter().filter(is_there);
        let mut rows: Vec<Row> = ways.map(|way| Row { way, app: vec![], end: vec![] }).collect();
        for _ in 0..self.options.rounds {
            for row in &mut rows {
                for number in 0..self.options.warm_ups() + self.options.batch {
                    let sample = places
                        .start(row.way)
                        .map_err(|error| format!("{}: {error}", row.way.name()))?;
                    if number >= self.options.warm_ups() {
                        row.app.push(sample.app);
                        row.end.push(sample.gone);
                    }
                }
            }
            rows.reverse();
        }
        rows.sort_by_key(|row| Way::ALL.iter().position(|way| *way == row.way));
        Ok(rows)
    }
}

/// Where both versions of cgroups are mounted, crun takes neither.
pub(crate) fn cover_unified_cgroups() -> Result<()> {
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.join("cgroup.procs").exists() { cover(unified) } else { Ok(()) }
}

/// By a directory that is empty, and gone with the mount namespace.
pub(crate) fn cover(dir: &Path) -> Result<()> {
    Ok(rustix::mount::mount("tmpfs", dir, "tmpfs", MountFlags::empty(), None)?)
}

impl Places<'_> {
    fn start(&mut self, way: Way) -> Result<Sample> {
        let (mut said, out) = std::io::pipe()?;
        let begin_ns = match way {
            Way::Rocker => {
                let program = Program::new("./clock").stdout(out);
                let begin_ns = now_ns();
                let run = self.rocker.spawn(&program, &Limits::new())?;
                self.rocker.wait(&run)?;
                begin_ns
            }
            Way::Fork => forked(&self.bench.clock, &out.into())?,
            Way::Spawn => spawned(&mut Command::new(&self.bench.clock), out.into())?,
            Way::Nsenter => {
                let guard = self.rocker.guard_pid().to_string();
                let mut nsenter = Command::new("nsenter");
                nsenter.args(["--target", &guard, "--user", "--mount", "--pid"]);
                nsenter.args(["--setuid", "1000", "--setgid", "1000"]);
                nsenter.arg(self.bench.path("exec").join("clock"));
                spawned(&mut nsenter, out.into())?
            }
            Way::Crun => spawned(&mut self.container("crun")?.exec(), out.into())?,
            Way::Runc => spawned(&mut self.container("runc")?.exec(), out.into())?,
        };
        let end_ns = now_ns();
        let mut word = [0; 8];
        said.read_exact(&mut word)?;
        Ok(Gone { app_ns: u64::from_ne_bytes(word), gone_ns: end_ns }.since(begin_ns))
    }

    fn container(&self, runtime: &str) -> Result<&Container> {
        let found = self.containers.iter().find(|container| container.runtime == runtime);
        Ok(found.ok_or("it is gone")?)
    }
}

/// `fork(2)`, `execve(2)`, `waitpid(2)`, and nothing else. When it began.
fn forked(program: &Path, out: &OwnedFd) -> Result<u64> {
    let path = tests::c_client::c_string(program);
    let begin_ns = now_ns();
    // SAFETY: the child calls nothing but dup2, execve and _exit.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            waitpid(child, None)?;
            Ok(begin_ns)
        }
        ForkResult::Child => {
            let _ = rustix::stdio::dup2_stdout(out);
            let _ = execve(&path, &[&path], &[] as &[&core::ffi::CStr]);
            // SAFETY: it ends this process, which nobody else shares.
            unsafe { libc::_exit(127) }
        }
    }
}

/// As the standard library does it. When it began.
pub(crate) fn spawned(command: &mut Command, out: OwnedFd) -> Result<u64> {
    command.stdin(Stdio::null()).stdout(out);
    let begin_ns = now_ns();
    let status = command.spawn()?.wait()?;
    // The pipe's other end.
    command.stdout(Stdio::null());
    if status.success() { Ok(begin_ns) } else { Err(status.to_string().into()) }
}

/// An OCI runtime that keeps its records in the bundle, and not in `/run`.
pub(crate) fn oci(runtime: &str, bundle: &Path) -> Command {
    let mut command = Command::new(runtime);
    command.arg("--root").arg(bundle.join("state"));
    command
}

/// A living container of an OCI runtime with the benchmark's program in it.
struct Container {
    runtime: &'static str,
    bundle: PathBuf,
    id: String,
    first: Child,
}

impl Container {
    /// None if there is no such runtime here.
    fn start(runtime: &'static str, bench: &Bench) -> Result<Option<Self>> {
        if run(Command::new(runtime).arg("--version")).is_err() {
            return Ok(None);
        }
        cover_unified_cgroups()?;
        let bundle = bench.path(runtime);
        fs::create_dir_all(bundle.join("rootfs"))?;
        fs::copy(&bench.clock, bundle.join("rootfs/clock"))?;
        run(Command::new(runtime).arg("spec").current_dir(&bundle))?;
        let file = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file)?)?;
        config["process"]["args"] = json!(["/clock", "wait"]);
        config["process"]["terminal"] = json!(false);
        fs::write(&file, config.to_string())?;
        let id = format!("rocker-bench-{}-{runtime}", std::process::id());
        let mut first = oci(runtime, &bundle);
        first.args(["run", "--bundle"]).arg(&bundle).arg(&id);
        let log = fs::File::create(bundle.join("log"))?;
        let first = first.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn()?;
        let container = Self { runtime, bundle, id, first };
        if !within(SOON, || container.exec().output().is_ok_and(|said| said.status.success())) {
            let why = fs::read_to_string(container.bundle.join("log"))?;
            skip(runtime, why.trim_end());
            return Ok(None);
        }
        Ok(Some(container))
    }

    fn exec(&self) -> Command {
        let mut exec = oci(self.runtime, &self.bundle);
        exec.args(["exec", &self.id, "/clock"]);
        exec
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The end of its input is the end of its first process.
        drop(self.first.stdin.take());
        let _ = self.first.wait();
        let _ = oci(self.runtime, &self.bundle).args(["delete", "--force", &self.id]).output();
    }
}

pub(crate) fn to_part(rows: &[Row]) -> Part {
    let figures = to_figures(rows).collect();
    Part { text: to_text(rows), json: to_json(rows), figures, page: String::new() }
}

fn to_text(rows: &[Row]) -> String {
    let head = ["request to program", "to its end told"].map(|head| format!("{head:^26}"));
    let mut text = format!("\n{:31}{}\n", "a program in a living rocker", head.join(" "));
    for row in rows {
        let [app, end] = [&row.app, &row.end]
            .map(|values| percentiles(values).map(|us| format!("{us:8.0}")).join(" "));
        text += &format!("{:30} {app} {end}\n", row.way.name());
    }
    text += "\n";
    for (row, ratio) in ratios(rows) {
        let name = format!("to {}", row.way.name());
        let verdict = row.way.goal().map_or(String::new(), |goal| {
            format!("  goal {goal}: {}", if ratio <= goal { "met" } else { "missed" })
        });
        text += &format!("{name:30} {ratio:8.2}{verdict}\n");
    }
    text
}

fn to_figures(rows: &[Row]) -> impl Iterator<Item = Figure> {
    let scene = "a program in a living rocker, to its end told";
    rows.iter().map(|row| Figure::new(scene, row.way.name(), percentiles(&row.end)[0], "us"))
}

fn to_json(rows: &[Row]) -> Value {
    let mut all = vec![];
    for row in rows {
        let [app, end] = [&row.app, &row.end].map(|values| {
            let [p50, p95, p99] = percentiles(values);
            json!({"p50": p50, "p95": p95, "p99": p99})
        });
        let ratio = ratios(rows).into_iter().find(|(other, _)| other.way == row.way);
        all.push(json!({"what": row.way.name(), "programs": row.end.len(), "app_us": app,
            "end_us": end, "ours_to_it": ratio.map(|(_, ratio)| ratio), "goal": row.way.goal()}));
    }
    all.into()
}

/// Our median by that of each other.
fn ratios(rows: &[Row]) -> Vec<(&Row, f64)> {
    let Some((ours, others)) = rows.split_first() else { return vec![] };
    let median = |row: &Row| percentiles(&row.end)[0];
    others.iter().map(|row| (row, median(ours) / median(row))).collect()
}
