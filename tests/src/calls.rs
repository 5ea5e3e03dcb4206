//! What a process asks the kernel for, as `ptrace(2)` shows it.
#![allow(unsafe_code, reason = "the kernel's answer is a union")]

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};

use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// One system call, as it was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    number: u64,
    arguments: [u64; 6],
}

impl Call {
    /// Whether it is this one, by its `SYS_` number.
    pub fn is(&self, number: libc::c_long) -> bool {
        i64::try_from(self.number) == Ok(number)
    }

    /// The process that its first argument names; none if it is one for several.
    pub fn pid(&self) -> Option<u32> {
        let pid = u32::try_from(self.arguments[0] & u64::from(u32::MAX)).ok()?;
        (pid.cast_signed() > 0).then_some(pid)
    }
}

/// All system calls of a process from before `during` until after it, or until its end. A last
/// one comes after `during`, by `nudge`, to which it must react if it lives.
///
/// # Panics
///
/// If it cannot be traced.
pub fn calls_of(pid: u32, during: impl FnOnce(), nudge: impl FnOnce()) -> Vec<Call> {
    let pid = Pid::from_raw(pid.cast_signed());
    let (attached, is_over) = (channel(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let tracer = scope.spawn(|| trace(pid, &attached.0, &is_over));
        attached.1.recv().expect("it can be traced");
        during();
        is_over.store(true, Ordering::Release);
        nudge();
        tracer.join().expect("a tracer")
    })
}

/// The process belongs to the thread that traces it.
fn trace(pid: Pid, attached: &Sender<()>, is_over: &AtomicBool) -> Vec<Call> {
    ptrace::seize(pid, Options::PTRACE_O_TRACESYSGOOD).expect("root may");
    ptrace::interrupt(pid).expect("it is traced");
    let mut calls = vec![];
    loop {
        let signal = match waitpid(pid, Some(WaitPidFlag::__WALL)).expect("it is traced") {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return calls,
            WaitStatus::PtraceSyscall(_) => {
                calls.extend(entered(pid));
                None
            }
            WaitStatus::Stopped(_, signal) => Some(signal),
            _ => None,
        };
        // Whoever is not there any more has ended meanwhile, which the next round hears.
        let _ = match is_over.load(Ordering::Acquire) {
            false => ptrace::syscall(pid, signal),
            true => match ptrace::detach(pid, signal) {
                Ok(()) => return calls,
                gone => gone,
            },
        };
        let _ = attached.send(());
    }
}

fn entered(pid: Pid) -> Option<Call> {
    let info = ptrace::syscall_info(pid).ok()?;
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // SAFETY: the kernel says that this part of the union is what it has filled.
    let entry = unsafe { info.u.entry };
    Some(Call { number: entry.nr, arguments: entry.args })
}
