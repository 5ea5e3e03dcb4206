//! root.9: whom an App has left this process to wait for, beside itself. Until somebody has, the
//! kernel keeps them as zombies, and their guard with them.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Whether a process has been killed or has exited, and only zombies keep it.
pub(crate) fn is_dying(pid: u32) -> bool {
    // What a process has last of all things given up that can be seen is its memory.
    fs::read(format!("/proc/{pid}/statm")).is_ok_and(|sizes| sizes.starts_with(b"0 "))
}

/// Waits for the threads of an App that dies which it has made this process the tracer of: it has
/// not ended before they have.
pub(crate) fn reap_threads(app_pid: u32) {
    if is_dying(app_pid) {
        reap_threads_of(app_pid.cast_signed(), app_pid);
    }
}

/// It may be gone meanwhile, and so may each thread.
fn reap_threads_of(process: i32, app_pid: u32) {
    let threads = numbers(format!("/proc/{process}/task").as_ref());
    for thread in threads.into_iter().filter(|thread| thread.cast_unsigned() != app_pid) {
        let _ = ended(thread, WaitIdOptions::empty());
    }
}

/// Waits for those who have ended in this guard's PID namespace, and are this process's to wait
/// for: its children, and threads and processes that it is the tracer of. Not for the App itself.
///
/// Who may not look into the guard's `/proc` (`PTRACE_MODE_READ` of `ptrace(2)`), as a caller that
/// is root no more, cannot tell whose its children are, and leaves them alone.
pub(crate) fn reap(guard_pid: u32, app_pid: u32) {
    let Ok(inside) = fs::read_link(format!("/proc/{guard_pid}/ns/pid")) else { return };
    for process in numbers("/proc".as_ref()) {
        // A thread has no tracer outside unless its process is the App, or has the same one.
        if !is_ours(process)
            || fs::read_link(format!("/proc/{process}/ns/pid")).ok().as_ref() != Some(&inside)
        {
            continue;
        }
        reap_threads_of(process, app_pid);
    }
}

/// None where this process may not look.
fn numbers(dir: &Path) -> Vec<i32> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn is_ours(process: i32) -> bool {
    ended(process, WaitIdOptions::NOWAIT).is_ok()
}

/// `ECHILD` if it is none of ours.
fn ended(pid: i32, how: WaitIdOptions) -> rustix::io::Result<()> {
    let pid = Pid::from_raw(pid).ok_or(rustix::io::Errno::CHILD)?;
    waitid(WaitId::Pid(pid), how | WaitIdOptions::EXITED | WaitIdOptions::NOHANG).map(drop)
}
