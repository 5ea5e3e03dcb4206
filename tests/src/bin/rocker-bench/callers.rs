//! Launches by a caller that has little memory and by one that has much: private pages of 4 KiB
//! that it has written to, as a program's heap is.
//!
//! A program's form is to cost the same. A callback runs in a copy of its caller, as after
//! `fork(2)`, which is measured beside it: the call, to the child's first instruction.
#![allow(
    unsafe_code,
    reason = "mmap(2), and `fork` and `Launch::enter` of a program with one thread"
)]

use core::ffi::c_void;
use core::ptr;
use std::io::{Read, Write};

use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};
use rocker_client::Launch;
use rocker_client::protocol::socket::now_ns;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use tests::c_client::{Request, c_string};

use crate::figure::{Figure, skip};
use crate::keeper::meminfo_kib;
use crate::{Bench, Gone, Result, Sample, percentiles, say_when};

const SCENE: &str = "a launch by a caller of 5 or 400 MB, request to App";

const SMALL_MB: usize = 5;
const LARGE_MB: usize = 400;

/// The goals: a program from the large caller to one from the small; a callback from the large to
/// one from the small and a fork of the large.
const GOAL_PROGRAM: f64 = 1.2;
const GOAL_CALLBACK: f64 = 1.5;

/// How something is started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    Program,
    ProgramC,
    Callback,
    CallbackC,
    Fork,
}

impl Form {
    const ALL: [Self; 5] =
        [Self::Program, Self::ProgramC, Self::Callback, Self::CallbackC, Self::Fork];

    const fn name(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::ProgramC => "program, C",
            Self::Callback => "callback",
            Self::CallbackC => "callback, C",
            Self::Fork => "fork alone",
        }
    }
}

impl Bench {
    pub(crate) fn measure_callers(&self) -> Result<Vec<Figure>> {
        let available = meminfo_kib("MemAvailable")? / 1024.0;
        if available < 2.0 * LARGE_MB as f64 {
            skip(SCENE, format_args!("{available:.0} MB are available"));
            return Ok(vec![]);
        }
        let launch = self.launch(&[]).socket(&self.warm.socket);
        let request = Request { socket: Some(c_string(&self.warm.socket)), ..self.request(&[]) };
        let mut times = [(); 2].map(|()| [(); Form::ALL.len()].map(|()| vec![]));
        for _ in 0..self.options.rounds {
            for (times, megabytes) in times.iter_mut().zip([SMALL_MB, LARGE_MB]) {
                let _memory = Memory::touched(megabytes)?;
                for (times, form) in times.iter_mut().zip(Form::ALL) {
                    for number in 0..self.options.warm_ups() + self.options.batch {
                        let sample = self
                            .start(form, &launch, &request)
                            .map_err(|error| format!("{}: {error}", form.name()))?;
                        self.warm.settle()?;
                        if number >= self.options.warm_ups() {
                            times.push(sample.app);
                        }
                    }
                }
            }
        }
        let [small, large] = times.map(|times| times.map(|times| percentiles(&times)[0]));
        let mut figures = vec![];
        for (at, form) in Form::ALL.into_iter().enumerate() {
            for (megabytes, us) in [(SMALL_MB, small[at]), (LARGE_MB, large[at])] {
                let what = format!("{}, {megabytes} MB", form.name());
                figures.push(Figure::new(SCENE, what, us, "us"));
            }
        }
        let [.., forked] = large;
        for (at, form) in Form::ALL.into_iter().enumerate() {
            let ratio = |to: &str, times: f64, goal: f64| {
                let what = format!("{}, {LARGE_MB} MB to {SMALL_MB} MB{to}", form.name());
                Figure::new(SCENE, what, times, "times").at_most(goal)
            };
            match form {
                Form::Program | Form::ProgramC => {
                    figures.push(ratio("", large[at] / small[at], GOAL_PROGRAM));
                }
                Form::Callback | Form::CallbackC => {
                    let times = large[at] / (small[at] + forked);
                    figures.push(ratio(" and one fork", times, GOAL_CALLBACK));
                }
                Form::Fork => {}
            }
        }
        Ok(figures)
    }

    fn start(&self, form: Form, launch: &Launch, request: &Request) -> Result<Sample> {
        match form {
            Form::Program => self.program(launch, &self.warm),
            Form::ProgramC => self.program_by_c(request, &self.warm),
            Form::Callback => self.callback(launch, &self.warm),
            Form::CallbackC => self.callback_by_c(request, &self.warm),
            Form::Fork => forked(),
        }
    }

    fn callback_by_c(&self, request: &Request, master: &crate::Master) -> Result<Sample> {
        let (mut said, out) = std::io::pipe()?;
        let ours = rustix::io::dup(std::io::stdout())?;
        rustix::stdio::dup2_stdout(&out)?;
        let begin = now_ns();
        // SAFETY: this program has one thread.
        let entered = unsafe { request.enter(say_when) };
        rustix::stdio::dup2_stdout(&ours)?;
        let mut rocker = entered.map_err(|error| error.to_string())?;
        rocker.wait()?;
        let gone = self.wait_gone(|| Ok(rocker.wait_gone()), master.keeps, &mut said)?;
        Ok(gone.since(begin))
    }
}

/// `fork(2)`, to the child's first instruction.
fn forked() -> Result<Sample> {
    let (mut said, mut out) = std::io::pipe()?;
    let begin = now_ns();
    // SAFETY: this program has one thread.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            waitpid(child, None)?;
            let gone_ns = now_ns();
            let mut word = [0; 8];
            said.read_exact(&mut word)?;
            Ok(Gone { app_ns: u64::from_ne_bytes(word), gone_ns }.since(begin))
        }
        ForkResult::Child => {
            let status = i32::from(out.write_all(&now_ns().to_ne_bytes()).is_err());
            // SAFETY: it ends this process.
            unsafe { libc::_exit(status) }
        }
    }
}

/// Memory that this process has written to.
struct Memory {
    at: *mut c_void,
    bytes: usize,
}

impl Memory {
    fn touched(megabytes: usize) -> Result<Self> {
        let bytes = megabytes << 20;
        // SAFETY: a new mapping, wherever there is room.
        let at = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        let memory = Self { at, bytes };
        // Where the kernel has no huge pages it does not know them either.
        // SAFETY: it is our mapping, and only how it is kept changes.
        let _ = unsafe { madvise(at, bytes, Advice::LinuxNoHugepage) };
        // SAFETY: it is our mapping, of so many bytes, which may be written to.
        unsafe { ptr::write_bytes(at.cast::<u8>(), 1, bytes) };
        Ok(memory)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it is our mapping, and nobody has a reference into it.
        let _ = unsafe { munmap(self.at, self.bytes) };
    }
}
