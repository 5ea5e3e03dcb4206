//! What a user types, as whole processes: a program of a compressed package, with five
//! overlays, to its end and until nothing is left. The others mount no packages: `mount(8)` and
//! `umount(8)` do it for them, and what they take without these two is shown as well. Docker has
//! an image instead, which is there beforehand, and one overlay over all of it. `again` is ours by
//! a master as it is by default, which has started that App before: a master is there to have the
//! package mounted, a guard ready and the overlays kept, and the goals are about that. `warm` has
//! new overlays; `launch in C` is the example of that name, linked with the C library, as `again`;
//! `static` is the same with musl (`musl-gcc`, of Debian's musl-tools), which on many a device is the
//! C library that there is. Without a name ours does the very work of the others: all of it is made anew.
//! What a process costs, whoever starts it, is in the rows of the program, which needs no C library,
//! and of an empty one that has one; what the system calls of a launch alone cost in this scene is in
//! floor's, which lives on and launches when it is asked to. With overlays kept, that and the program
//! alone are the least that a launch can take here as a process, without daemon and checks.

use core::error::Error;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rocker_client::protocol::socket::now_ns;
use serde_json::{Value, json};
use tests::scratch::private_mounts;

use crate::docker::{self, Docker};
use crate::exec::{cover, cover_unified_cgroups, oci};
use crate::figure::{Figure, Part, skip};
use crate::floor::Floor;
use crate::{Bench, Master, OVERLAYS, Result, SOON, percentiles, run, run_within, stay_awake};

/// Where some leave directories, whatever they are told: systemd-nspawn, and podman's runtime.
const LITTERED: [&str; 3] = ["/run/systemd", "/run/crun", "/run/runc"];

/// How long the kernel has for what a launcher has left, which is no part of the next: mounts and
/// namespaces go when nobody waits for them any more, on the same processor.
const CALM_NS: u64 = 20_000_000;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Launcher {
    Again,
    AgainC,
    AgainStatic,
    Warm,
    Rocker,
    Alone,
    Empty,
    FloorKept,
    FloorWarm,
    FloorBest,
    Bwrap,
    Nsjail,
    Crun,
    Runc,
    Nspawn,
    Podman,
    Docker,
}

impl Launcher {
    const ALL: [Self; 17] = [
        Self::Again,
        Self::AgainC,
        Self::AgainStatic,
        Self::Warm,
        Self::Rocker,
        Self::Alone,
        Self::Empty,
        Self::FloorKept,
        Self::FloorWarm,
        Self::FloorBest,
        Self::Bwrap,
        Self::Nsjail,
        Self::Crun,
        Self::Runc,
        Self::Nspawn,
        Self::Podman,
        Self::Docker,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Again => "rocker run, again",
            Self::AgainC => "launch in C, again",
            Self::AgainStatic => "launch in C, static, again",
            Self::Warm => "rocker run, warm",
            Self::Rocker => "rocker run",
            Self::Alone => "the program alone",
            Self::Empty => "an empty C program",
            Self::FloorKept => "floor kept, no process",
            Self::FloorWarm => "floor warm, no process",
            Self::FloorBest => "floor best, no process",
            Self::Bwrap => "bwrap",
            Self::Nsjail => "nsjail",
            Self::Crun => "crun run",
            Self::Runc => "runc run",
            Self::Nspawn => "systemd-nspawn",
            Self::Podman => "podman run",
            Self::Docker => "docker run (image, 1 overlay)",
        }
    }

    fn program(self) -> &'static str {
        self.name().split(' ').next().unwrap_or_default()
    }

    /// So many times ours is the goal.
    const fn goal(self) -> Option<f64> {
        match self {
            Self::Bwrap => Some(5.0),
            Self::Crun => Some(8.0),
            Self::Runc => Some(20.0),
            Self::Docker => Some(150.0),
            _ => None,
        }
    }

    /// Without it there is nothing to measure.
    const fn is_ours(self) -> bool {
        let again = matches!(self, Self::Again | Self::AgainC | Self::AgainStatic);
        let ours = again || matches!(self, Self::Warm | Self::Rocker);
        ours || matches!(self, Self::Alone | Self::Empty) || self.floor_mode().is_some()
    }

    const fn floor_mode(self) -> Option<&'static str> {
        match self {
            Self::FloorKept => Some("kept"),
            Self::FloorWarm => Some("warm"),
            Self::FloorBest => Some("best"),
            _ => None,
        }
    }

    /// Whether nobody can have it everywhere.
    const fn is_rare(self) -> bool {
        // Before Linux 6.15 no overlay can be kept.
        !self.is_ours() || matches!(self, Self::AgainStatic | Self::FloorKept)
    }

    /// Whether the package is mounted for it.
    const fn needs_mount(self) -> bool {
        !self.is_ours() && !matches!(self, Self::Docker)
    }
}

/// All samples of one launcher, in microseconds.
pub(crate) struct Row {
    launcher: Launcher,
    all: Vec<f64>,
    /// Without mount and umount.
    alone: Vec<f64>,
}

impl Bench {
    /// Each in turn, so that whatever else the host does hits all alike.
    pub(crate) fn measure_whole(&self) -> Result<Vec<Row>> {
        let made = LITTERED.map(|dir| fs::create_dir(dir).is_ok().then_some(dir));
        let measured = std::thread::scope(|scope| {
            let measured = scope.spawn(|| self.measure_launchers().map_err(|e| e.to_string()));
            measured.join().map_err(|_| "a panic")
        });
        made.into_iter().flatten().try_for_each(fs::remove_dir)?;
        Ok(measured??)
    }

    fn measure_launchers(&self) -> Result<Vec<Row>> {
        private_mounts();
        cover_unified_cgroups()?;
        LITTERED.iter().map(Path::new).filter(|dir| dir.is_dir()).try_for_each(cover)?;
        let (mut rows, mut helpers) = (vec![], Helpers::default());
        for launcher in Launcher::ALL {
            // The first launch shows whether it can, and is to warm up.
            let first = self.prepare(launcher, &mut helpers);
            match first.and_then(|()| self.launch_whole(launcher, &mut helpers)) {
                Ok(_) => rows.push(Row { launcher, all: vec![], alone: vec![] }),
                Err(why) => forgive(launcher, why)?,
            }
        }
        for round in 0..self.options.samples() / 3 {
            let mut failed = vec![];
            // There and back again: nobody always comes behind the one that leaves the most.
            let mut order: Vec<(usize, &mut Row)> = rows.iter_mut().enumerate().collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for (at, row) in order {
                match self.launch_whole(row.launcher, &mut helpers) {
                    Ok([all, alone]) => {
                        row.all.push(all);
                        row.alone.push(alone);
                    }
                    Err(why) => {
                        forgive(row.launcher, why)?;
                        failed.push(at);
                    }
                }
            }
            failed.sort_unstable();
            failed.into_iter().rev().for_each(|at| drop(rows.remove(at)));
        }
        Ok(rows)
    }

    /// What it needs beforehand, once.
    fn prepare(&self, launcher: Launcher, helpers: &mut Helpers) -> Result<()> {
        if let Some(mode) = launcher.floor_mode() {
            helpers.floors.insert(mode, self.floor(mode, OVERLAYS[2])?);
        }
        match launcher {
            Launcher::AgainStatic => self.compile_launch(),
            _ if launcher.is_ours() => Ok(()),
            Launcher::Docker => {
                helpers.docker = Some(Docker::start(self.bundle("docker"), &self.clock)?);
                Ok(())
            }
            Launcher::Bwrap => match self.bwrap {
                Some(version) if version < (0, 11) => Err("it has overlays from 0.11 on".into()),
                Some(_) => Ok(()),
                None => Err("it is not here".into()),
            },
            _ => {
                let program = launcher.program();
                // Where the directories are mounted that are overlaid.
                for dir in OVERLAYS[2].iter().chain(&["/app"]) {
                    fs::create_dir_all(inside(&self.bundle(program).join("rootfs"), dir))?;
                }
                match launcher {
                    Launcher::Crun | Launcher::Runc => self.make_bundle(program),
                    // Its locks are in /dev/shm else, and stay there.
                    Launcher::Podman => Ok(fs::write(
                        self.bundle(program).join("containers.conf"),
                        "[engine]\nlock_type = \"file\"\n",
                    )?),
                    _ => Ok(()),
                }
            }
        }
    }

    /// Microseconds in all, and without mount and umount.
    fn launch_whole(&self, launcher: Launcher, helpers: &mut Helpers) -> Result<[f64; 2]> {
        if let Some(floor) = launcher.floor_mode().and_then(|mode| helpers.floors.get_mut(mode)) {
            stay_awake(CALM_NS);
            return Ok([floor.launch()?.gone; 2]);
        }
        let mut command = match launcher {
            Launcher::Again => self.rocker_command(&self.again, "again"),
            Launcher::AgainC => self.launch_command(Path::new(env!("ROCKER_EXAMPLE_LAUNCH"))),
            Launcher::AgainStatic => self.launch_command(&self.path("launch")),
            Launcher::Warm => self.rocker_command(&self.warm, "data"),
            Launcher::Rocker => self.rocker_command(&self.master, "data"),
            Launcher::Alone | Launcher::FloorKept | Launcher::FloorWarm | Launcher::FloorBest => {
                Command::new(&self.clock)
            }
            Launcher::Empty => Command::new(&self.empty),
            Launcher::Bwrap => {
                let mut bwrap = self.bwrap_command(OVERLAYS[2])?;
                bwrap.arg(self.path("mnt").join("clock"));
                bwrap
            }
            Launcher::Nsjail => self.nsjail_command()?,
            Launcher::Crun => self.bundle_command("crun"),
            Launcher::Runc => self.bundle_command("runc"),
            Launcher::Nspawn => self.nspawn_command()?,
            Launcher::Podman => self.podman_command()?,
            Launcher::Docker => docker::run_command(&self.bundle("docker"), "/clock"),
        };
        let mount = self.path("mnt");
        fs::create_dir_all(&mount)?;
        let us = |begin_ns: u64| (now_ns() - begin_ns) as f64 / 1e3;
        stay_awake(CALM_NS);
        let begin_ns = now_ns();
        if !launcher.needs_mount() {
            match launcher {
                Launcher::Empty => drop(run_within(&mut command, SOON)?),
                _ => run_bytes(&mut command)?,
            }
            return Ok([us(begin_ns); 2]);
        }
        run(Command::new("mount").args(["-o", "loop,ro"]).arg(&self.package).arg(&mount))?;
        let alone_ns = now_ns();
        let ran = run_bytes(&mut command);
        let alone = us(alone_ns);
        run(Command::new("umount").arg(&mount))?;
        ran?;
        Ok([us(begin_ns), alone])
    }

    pub(crate) fn rocker_command(&self, master: &Master, data: &str) -> Command {
        let mut rocker = Command::new(self.options.bin.join("rocker"));
        rocker.arg("run").arg("--socket").arg(&master.socket);
        rocker.args(["--uid", "1000", "--gid", "1000", "--exec-dir"]).arg(self.path("exec"));
        rocker.arg("--data-dir").arg(self.path(data));
        rocker.args(OVERLAYS[2].iter().flat_map(|dir| ["--overlay", dir]));
        rocker.arg(&self.package).args(["--", "./clock"]);
        rocker
    }

    /// The example again, with the C library from its sources.
    fn compile_launch(&self) -> Result<()> {
        let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../client-c");
        let mut compile = Command::new("musl-gcc");
        compile.args([
            "-std=c11",
            "-Os",
            "-static",
            "-ffunction-sections",
            "-Wl,--gc-sections",
            "-s",
        ]);
        compile.arg("-I").arg(library.join("include")).arg("-o").arg(self.path("launch"));
        compile.arg(library.join("examples/launch.c"));
        for file in fs::read_dir(library.join("src"))? {
            compile.args(Some(file?.path()).filter(|file| file.extension() == Some("c".as_ref())));
        }
        run(&mut compile).map(drop)
    }

    fn launch_command(&self, program: &Path) -> Command {
        let mut launch = Command::new(program);
        launch.args([&self.again.socket, &self.package]);
        launch.args([self.path("exec"), self.path("again")]);
        launch.args(["1000", "./clock"]).args(OVERLAYS[2]);
        launch
    }

    fn bundle_command(&self, runtime: &str) -> Command {
        let mut command = oci(runtime, &self.bundle(runtime));
        let id = format!("rocker-bench-whole-{}", std::process::id());
        command.args(["run", "--bundle"]).arg(self.bundle(runtime)).arg(id);
        command
    }

    /// Without a network of its own, which would take longer than all else together.
    fn nsjail_command(&self) -> Result<Command> {
        let name = Launcher::Nsjail.program();
        let mut nsjail = Command::new(name);
        nsjail.args(["--mode=o", "--quiet", "--disable_clone_newnet", "--chroot"]);
        nsjail.arg(self.bundle(name).join("rootfs"));
        nsjail.args(["--user=1000:0", "--group=1000:0", "--bindmount_ro"]);
        nsjail.arg(format!("{}:/app", self.path("mnt").display()));
        for Layers { dir, up, work } in self.layers(name)? {
            let (up, work) = (up.display(), work.display());
            let options = format!("lowerdir={dir},upperdir={up},workdir={work}");
            nsjail.arg(format!("--mount=overlay:{dir}:overlay:{options}"));
        }
        nsjail.args(["--", "/app/clock"]);
        Ok(nsjail)
    }

    /// Without what it does for systems that boot: logs, time zone, name servers.
    fn nspawn_command(&self) -> Result<Command> {
        let name = Launcher::Nspawn.program();
        let mut nspawn = Command::new(name);
        nspawn.args(["--quiet", "--register=no", "--keep-unit", "--as-pid2", "--console=pipe"]);
        nspawn.args(["--link-journal=no", "--timezone=off", "--resolv-conf=off", "--directory"]);
        nspawn.arg(self.bundle(name).join("rootfs"));
        nspawn.arg(format!("--bind-ro={}:/app", self.path("mnt").display()));
        for Layers { dir, up, .. } in self.layers(name)? {
            nspawn.arg(format!("--overlay={dir}:{}:{dir}", up.display()));
        }
        nspawn.arg("/app/clock");
        Ok(nspawn)
    }

    /// Without images, networks and cgroups. All that it keeps is in our directory.
    fn podman_command(&self) -> Result<Command> {
        let name = Launcher::Podman.program();
        let bundle = self.bundle(name);
        let mut podman = Command::new(name);
        podman.env("CONTAINERS_CONF", bundle.join("containers.conf"));
        for (flag, dir) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            podman.arg(flag).arg(bundle.join(dir));
        }
        podman.args(["--storage-driver=vfs", "--events-backend=none", "--cgroup-manager=cgroupfs"]);
        podman.args(["run", "--rm", "--network=none", "--cgroups=disabled", "--user=1000:1000"]);
        // Its own are more than every host allows.
        podman.args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"]);
        for Layers { dir, up, work } in self.layers(name)? {
            let (up, work) = (up.display(), work.display());
            podman.arg(format!("--volume={dir}:{dir}:O,upperdir={up},workdir={work}"));
        }
        podman.arg(format!("--volume={}:/app:ro", self.path("mnt").display()));
        podman.arg("--rootfs").arg(bundle.join("rootfs")).arg("/app/clock");
        Ok(podman)
    }

    /// For each directory that is overlaid, where its layers go.
    fn layers(&self, runtime: &str) -> Result<Vec<Layers>> {
        let layers = |dir: &'static str| {
            let [up, work] =
                ["up", "work"].map(|kind| inside(&self.bundle(runtime).join(kind), dir));
            fs::create_dir_all(&up)?;
            fs::create_dir_all(&work)?;
            Ok(Layers { dir, up, work })
        };
        OVERLAYS[2].iter().copied().map(layers).collect()
    }

    fn bundle(&self, runtime: &str) -> PathBuf {
        self.path(&format!("whole-{runtime}"))
    }

    /// What `spec` says, with the package and an overlay over each of the directories.
    fn make_bundle(&self, runtime: &str) -> Result<()> {
        let bundle = self.bundle(runtime);
        run(Command::new(runtime).arg("spec").current_dir(&bundle))?;
        let file = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file)?)?;
        config["process"]["args"] = json!(["/app/clock"]);
        config["process"]["terminal"] = json!(false);
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        config["root"]["readonly"] = json!(false);
        let mounts = config["mounts"].as_array_mut().ok_or("spec without mounts")?;
        mounts.push(json!({"destination": "/app", "type": "none", "source": self.path("mnt"),
            "options": ["bind", "ro"]}));
        for Layers { dir, up, work } in self.layers(runtime)? {
            let options = [
                format!("lowerdir={dir}"),
                format!("upperdir={}", up.display()),
                format!("workdir={}", work.display()),
            ];
            mounts.push(json!({"destination": dir, "type": "overlay", "source": "overlay",
                "options": options}));
        }
        fs::write(&file, config.to_string())?;
        Ok(())
    }
}

/// What lives from launch to launch.
#[derive(Default)]
struct Helpers {
    docker: Option<Docker>,
    floors: HashMap<&'static str, Floor>,
}

/// One directory's.
struct Layers {
    dir: &'static str,
    up: PathBuf,
    work: PathBuf,
}

/// An absolute path of a root somewhere else.
fn inside(root: &Path, dir: &str) -> PathBuf {
    root.join(dir.trim_start_matches('/'))
}

/// The program says sixteen bytes, which are no text.
fn run_bytes(command: &mut Command) -> Result<()> {
    match run_within(command, SOON)?.len() {
        16 => Ok(()),
        said => Err(format!("its program has said {said} bytes, not 16").into()),
    }
}

/// A peer that cannot, or not any more, is left out. We have to.
fn forgive(launcher: Launcher, why: Box<dyn Error>) -> Result<()> {
    if !launcher.is_rare() {
        return Err(why);
    }
    skip(launcher.name(), why);
    Ok(())
}

pub(crate) fn to_part(rows: &[Row]) -> Part {
    let figures = to_figures(rows).collect();
    Part { text: to_text(rows), json: to_json(rows), figures, page: String::new() }
}

fn to_text(rows: &[Row]) -> String {
    let head = ["with the package's mount", "without"].map(|head| format!("{head:^26}"));
    let mut text = format!("\n{:31}{}\n", "as whole processes, 5 overlays", head.join(" "));
    for row in rows {
        let [all, alone] = [&row.all, &row.alone]
            .map(|values| percentiles(values).map(|us| format!("{us:8.0}")).join(" "));
        text += &format!("{:30} {all} {alone}\n", row.launcher.name());
    }
    let heads =
        ["again", "in C", "static", "anew", "floor"].map(|head| format!("{head:>8}")).join(" ");
    text += &format!("\n{:42}{heads}\n", "");
    for Ratio { row, times } in ratios(rows) {
        let [again, ..] = times;
        let verdict = row.launcher.goal().map_or(String::new(), |goal| {
            format!("  goal {goal}: {}", if again >= goal { "met" } else { "missed" })
        });
        let name = format!("{} takes, times", row.launcher.name());
        let times = times.map(|times| match times.is_nan() {
            true => format!("{:>8}", "-"),
            false => format!("{times:8.1}"),
        });
        let times = times.join(" ");
        text += &format!("{name:42}{times}{verdict}\n");
    }
    text
}

fn to_figures(rows: &[Row]) -> impl Iterator<Item = Figure> {
    let scene = "as whole processes, 5 overlays and the package mounted";
    rows.iter().map(|row| Figure::new(scene, row.launcher.name(), percentiles(&row.all)[0], "us"))
}

fn to_json(rows: &[Row]) -> Value {
    let mut said = vec![];
    for row in rows {
        let [all, alone] = [&row.all, &row.alone].map(|values| {
            let [p50, p95, p99] = percentiles(values);
            json!({"p50": p50, "p95": p95, "p99": p99})
        });
        let ratio = ratios(rows).into_iter().find(|ratio| ratio.row.launcher == row.launcher);
        said.push(json!({"what": row.launcher.name(), "launches": row.all.len(), "all_us": all,
            "alone_us": alone, "times_again": ratio.as_ref().map(|ratio| ratio.times[0]),
            "times_in_c": ratio.as_ref().map(|ratio| ratio.times[1]),
            "times_static": ratio.as_ref().map(|ratio| ratio.times[2]),
            "times_ours": ratio.as_ref().map(|ratio| ratio.times[3]),
            "times_floor": ratio.as_ref().map(|ratio| ratio.times[4]),
            "goal": row.launcher.goal()}));
    }
    said.into()
}

/// Another's median by those of `rocker run` again, of the same in C, also static, and of all made
/// anew; and by `floor kept`, or `warm` where none can be, with a process.
struct Ratio<'r> {
    row: &'r Row,
    times: [f64; 5],
}

fn ratios(rows: &[Row]) -> Vec<Ratio<'_>> {
    let median = |row: &Row| percentiles(&row.all)[0];
    let of = |launcher| rows.iter().find(|row| row.launcher == launcher).map_or(f64::NAN, median);
    let floor = of(Launcher::FloorKept).min(of(Launcher::FloorWarm)) + of(Launcher::Alone);
    let again = [Launcher::Again, Launcher::AgainC, Launcher::AgainStatic].map(of);
    let [run, in_c, in_static] = again;
    let ours = [run, in_c, in_static, of(Launcher::Rocker), floor];
    let others = rows.iter().filter(|row| !row.launcher.is_ours());
    others.map(|row| Ratio { row, times: ours.map(|ours| median(row) / ours) }).collect()
}
