//! Rockers by the thousand that live while something is measured.
#![allow(unsafe_code, reason = "`fork` of a program with one thread")]

use core::time::Duration;
use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use rocker_client::{Launch, Program, Rocker, Stdio};
use tests::within;

use crate::{Master, Result};

/// What the master is to allow.
pub(crate) const MANY: &str = "max_rockers = 8192\nmax_overlays = 0\n";

/// How long thousands may take to end.
pub(crate) const END: Duration = Duration::from_secs(120);

/// Returns when no rocker lives any more.
pub(crate) fn settle(master: &Master) -> Result<()> {
    let none = || rocker_client::list(&master.socket, END).is_ok_and(|living| living.is_empty());
    if within(END, none) { Ok(()) } else { Err("a rocker lives on".into()) }
}

/// Who has the descriptors of the living ones.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Held {
    ByTheCaller,
    ByOthers,
}

/// Keeps rockers alive.
pub(crate) enum Keeper {
    Caller(Idle),
    Other { pid: Pid, stop: PipeWriter },
}

impl Held {
    pub(crate) const fn by(self) -> &'static str {
        match self {
            Self::ByTheCaller => "the caller",
            Self::ByOthers => "others",
        }
    }

    /// Says why there cannot be so many.
    pub(crate) fn rockers(self, count: usize, launch: &impl Fn(usize) -> Launch) -> Result<Keeper> {
        /// An idle rocker, its App and what holds it, with room to spare.
        const EACH_KIB: f64 = 512.0;
        let (has, takes) =
            (meminfo_kib("MemAvailable")? / 1024.0, count as f64 * EACH_KIB / 1024.0);
        if has < takes {
            return Err(format!("it may take {takes:.0} MB, and {has:.0} are available").into());
        }
        match self {
            Self::ByTheCaller => Ok(Keeper::Caller(Idle::start(count, launch)?)),
            Self::ByOthers => Keeper::fork(count, launch),
        }
    }
}

impl Keeper {
    fn fork(count: usize, launch: &impl Fn(usize) -> Launch) -> Result<Self> {
        let (stopped, stop) = std::io::pipe()?;
        let (mut told, tell) = std::io::pipe()?;
        // SAFETY: this program has one thread, so the copy is consistent.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                drop((stopped, tell));
                let mut words = String::new();
                told.read_to_string(&mut words)?;
                match words.is_empty() {
                    true => Ok(Self::Other { pid: child, stop }),
                    false => {
                        waitpid(child, None)?;
                        Err(words.into())
                    }
                }
            }
            ForkResult::Child => {
                drop((told, stop));
                let status = i32::from(keep(count, launch, tell, stopped).is_err());
                // SAFETY: it ends this process, which owns nothing but its rockers.
                unsafe { libc::_exit(status) }
            }
        }
    }

    pub(crate) fn end(self) -> Result<()> {
        match self {
            Self::Caller(idle) => idle.end(),
            Self::Other { pid, stop } => {
                drop(stop);
                waitpid(pid, None)?;
                Ok(())
            }
        }
    }
}

/// All that the other process does. It says nothing when all live.
fn keep(
    count: usize,
    launch: &impl Fn(usize) -> Launch,
    mut tell: PipeWriter,
    mut stopped: PipeReader,
) -> Result<()> {
    match Idle::start(count, launch) {
        Ok(idle) => {
            drop(tell);
            let _ = stopped.read(&mut [0])?;
            idle.end()
        }
        Err(why) => Ok(tell.write_all(why.to_string().as_bytes())?),
    }
}

/// Rockers whose Apps wait for the end of their input.
pub(crate) struct Idle {
    rockers: Vec<Rocker>,
    end: PipeWriter,
    limits: (u64, u64),
}

impl Idle {
    fn start(count: usize, launch: &impl Fn(usize) -> Launch) -> Result<Self> {
        let limits = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, limits.1, limits.1)?;
        let (input, end) = std::io::pipe()?;
        let program = Program::new("./clock").arg("wait").stdin(input).stdout(Stdio::Null);
        let mut idle = Self { rockers: vec![], end, limits };
        for number in 0..count {
            match launch(number).spawn(&program) {
                Ok(rocker) => idle.rockers.push(rocker),
                Err(error) => {
                    drop(program);
                    idle.end()?;
                    return Err(format!("after {number}: {error}").into());
                }
            }
        }
        Ok(idle)
    }

    fn end(self) -> Result<()> {
        drop(self.end);
        for mut rocker in self.rockers {
            rocker.wait()?;
            if !rocker.wait_gone(Some(END))? {
                return Err("a rocker lives on".into());
            }
        }
        setrlimit(Resource::RLIMIT_NOFILE, self.limits.0, self.limits.1)?;
        Ok(())
    }
}

pub(crate) fn meminfo_kib(name: &str) -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.ok_or_else(|| format!("/proc/meminfo has no {name}"))?.parse()?)
}
