//! `floor`: the system calls of a launch alone, by `bench/floor.c`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rocker_client::protocol::{Options, seccomp};

use crate::{Bench, Result, Sample, run};

/// One that launches when it is asked to.
pub(crate) struct Floor {
    child: Child,
    /// None at its end: then it ends.
    asks: Option<ChildStdin>,
    says: BufReader<ChildStdout>,
}

impl Floor {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .args(["-w", "-n", "20000"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (asks, says) = (child.stdin.take(), child.stdout.take());
        Ok(Self { child, asks, says: BufReader::new(says.ok_or("it has no output")?) })
    }

    pub(crate) fn launch(&mut self) -> Result<Sample> {
        self.asks.as_mut().ok_or("it has no input")?.write_all(b"\n")?;
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        sample(line.trim_end())
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.asks = None;
        let _ = self.child.wait();
    }
}

impl Bench {
    /// A batch by one that launches as fast as it can, after its own warm-up; with a program for an
    /// App, else a function.
    pub(crate) fn floor_batch(
        &self,
        mode: &str,
        program: bool,
        dirs: &[&str],
    ) -> Result<Vec<Sample>> {
        let mut floor = self.floor_command(mode, program, dirs)?;
        floor.args(["-r", "-n", &self.options.batch.to_string()]);
        run(&mut floor)?.lines().map(sample).collect()
    }

    /// One that launches when it is asked to.
    pub(crate) fn floor(&self, mode: &str, dirs: &[&str]) -> Result<Floor> {
        Floor::start(self.floor_command(mode, true, dirs)?)
    }

    fn floor_command(&self, mode: &str, program: bool, dirs: &[&str]) -> Result<Command> {
        let data = self.path(&format!("floor-{mode}"));
        let mut floor = Command::new(&self.floor);
        floor.args(["-m", mode, "-o", &dirs.join(",")]);
        floor.arg("-d").arg(&data).arg("-p").arg(&self.package);
        if program {
            floor.arg("-x").arg(data.join("exec/clock"));
        }
        if ["walls", "kept"].contains(&mode) {
            let filter = self.path("filter");
            fs::write(&filter, seccomp::filter(&Options::default()))?;
            floor.arg("-f").arg(filter);
        }
        Ok(floor)
    }
}

/// A line of `floor -r`.
fn sample(line: &str) -> Result<Sample> {
    let (app, gone) = line.split_once(' ').ok_or("floor says something else")?;
    Ok(Sample { app: app.parse()?, gone: gone.parse()? })
}
