//! What a launch asks of the kernel, by process.

use std::fs;
use std::path::Path;
use std::process::Command;

use tests::within;

use crate::figure::{Figure, skip};
use crate::{Bench, Master, Result, SOON, run, state_dir};

impl Bench {
    /// Of a launch, by process. None where there is no strace(1).
    pub(crate) fn system_calls(&self) -> Result<Vec<Figure>> {
        if run(Command::new("strace").arg("--version")).is_err() {
            skip("system calls", "there is no strace here");
            return Ok(vec![]);
        }
        let [few, more] = [self.traced(2)?, self.traced(12)?];
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
            } else if is("m.") && text.contains("unshare(") {
                // One that waits for a launch has not come to that, and a thread never does.
                guards.push(text.lines().count());
            } else if text.contains("setns(") {
                calls.helper = text.lines().count();
            } else if text.contains("connect(") {
                let own = text.lines().skip_while(|line| !line.starts_with("socket("));
                calls.client = own.take_while(|line| !line.starts_with("shutdown(")).count();
            }
        }
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
