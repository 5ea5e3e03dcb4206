//! A Docker daemon of the benchmark's own, with an image of its program.
//!
//! It lives in namespaces of its own, so that it ends with this program, and with it all that it
//! started, what it did to the network, and what it wrote to `/etc`, `/opt` and `/run`. All else
//! is in one directory, but for its cgroups, which are deleted here.

use core::time::Duration;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tests::{cgroup, within};

use crate::{Result, SOON, run, run_within};

/// What takes shells and daemons two seconds where nothing else runs.
const START: Duration = Duration::from_secs(30);

const IMAGE: &str = "rocker-bench";

/// In the daemon's directory. The shell stays, to bury those that have lost their parents.
const SCRIPT: &str = "
    for top in etc opt; do
        mkdir -p upper/$top work/$top
        mount -t overlay overlay /$top \
            -o lowerdir=/$top,upperdir=$PWD/upper/$top,workdir=$PWD/work/$top
    done
    mount -t tmpfs tmpfs /run
    dockerd \"$@\"
    exit";

pub(crate) struct Docker {
    daemon: Child,
    dir: PathBuf,
    cgroup: String,
}

impl Docker {
    /// Returns when it has an image of `program`, whose files are in `dir`.
    pub(crate) fn start(dir: PathBuf, program: &Path) -> Result<Self> {
        run(Command::new("dockerd").arg("--version"))?;
        fs::create_dir_all(&dir)?;
        let log = File::create(dir.join("log"))?;
        let cgroup = format!("rocker-bench-{}", std::process::id());
        let mut daemon = Command::new("setpriv");
        daemon.args(["--pdeathsig", "KILL", "unshare", "--fork", "--pid", "--net"]);
        daemon.args(["--mount-proc", "--kill-child=KILL", "sh", "-ec", SCRIPT, "sh"]);
        daemon.args(["--config-file=", "--bridge=none", "--iptables=false", "--ip6tables=false"]);
        daemon.args(["--ip-forward=false", "--exec-opt=native.cgroupdriver=cgroupfs"]);
        daemon.arg(format!("--cgroup-parent=/{cgroup}"));
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")]
        {
            daemon.arg(flag).arg(dir.join(name));
        }
        daemon.arg("--host").arg(socket(&dir)).current_dir(&dir).stdin(Stdio::null());
        let daemon = daemon.stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut docker = Self { daemon, dir, cgroup };
        docker.wait_ready()?;
        docker.import(program)?;
        Ok(docker)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let answered = within(START, || {
            let is_there = self.dir.join("socket").exists();
            let asked = |mut docker: Command| run_within(docker.arg("version"), SOON);
            (is_there && asked(client(&self.dir)).is_ok())
                || !matches!(self.daemon.try_wait(), Ok(None))
        });
        if answered && matches!(self.daemon.try_wait(), Ok(None)) {
            return Ok(());
        }
        let log = fs::read_to_string(self.dir.join("log"))?;
        let last = log.lines().rfind(|line| !line.is_empty()).unwrap_or("it says nothing");
        Err(format!("dockerd: {last}").into())
    }

    fn import(&self, program: &Path) -> Result<()> {
        let [top, name] = [program.parent(), program.file_name().map(Path::new)]
            .map(|part| part.ok_or("the program has no path"));
        let archive = self.dir.join("image.tar");
        let mut tar = Command::new("tar");
        run(tar
            .arg("--create")
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(top?)
            .arg(name?))?;
        run_within(client(&self.dir).arg("import").arg(&archive).arg(IMAGE), START)?;
        Ok(())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // Its first process goes with it, and all others with that.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        for (place, ..) in cgroup::hierarchies() {
            let ours = place.join(&self.cgroup);
            within(SOON, || remove_cgroup(&ours).is_ok());
        }
    }
}

/// With those of containers that were killed just now.
fn remove_cgroup(dir: &Path) -> io::Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

fn client(dir: &Path) -> Command {
    let mut docker = Command::new("docker");
    docker.arg("--host").arg(socket(dir)).env("DOCKER_CONFIG", dir);
    docker
}

fn socket(dir: &Path) -> String {
    format!("unix://{}", dir.join("socket").display())
}

/// Runs the program of the image, by the daemon whose files are in `dir`.
pub(crate) fn run_command(dir: &Path, program: &str) -> Command {
    let mut docker = client(dir);
    docker.args(["run", "--rm", "--network=none", "--user=1000:1000", IMAGE, program]);
    docker
}
