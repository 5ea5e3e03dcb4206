//! enter.1 to enter.3: makes the helper, and within it the App.
//!
//! The helper shares the caller's memory, on a stack of its own, so that it costs the same
//! however large the caller is (a copied address space costs 8 to 10 us for each MB). What it
//! needs is laid out beforehand, and it only makes system calls: nothing allocates, locks or
//! unwinds. The caller's thread waits meanwhile, with all signals blocked, in poll and not in
//! CLONE_VFORK: once it has the App's uid, the helper can be stopped by anybody else who has it,
//! and no launch is to wait for such a one for ever.
//!
//! A helper that joins control groups is a copy instead, as by `fork(2)`: if their memory runs out
//! while it is in them, the kernel ends whoever has the most, and with it all that share its
//! memory.
//!
//! An App that is a **program** shares that memory, too, until it executes. One that is a
//! **callback** is a copy, as by `fork(2)`, in which it lives on: on the helper's stack, which is
//! as large as that of a main thread then.
//!
//! In both the helper shares the caller's descriptor table. `CLONE_PIDFD` therefore puts the
//! App's pidfd straight into the caller's table, made by the same call that makes the App:
//! nobody can reap the App first, whatever the caller does with SIGCHLD. The App has a table of
//! its own, and empties it.
//!
//! The App is the helper's brother (`CLONE_PARENT`) and inherits the helper's exit signal, so
//! both have SIGCHLD (KERNEL A32). System calls are the raw ones, through rustix: glibc's
//! `setgroups` and friends would signal the threads of the process whose memory is shared.
#![allow(unsafe_code, reason = "clone, execve and code in a cloned process have no safe form")]

use core::ffi::{CStr, c_int, c_long, c_uint, c_void};
use core::mem::MaybeUninit;
use core::panic::AssertUnwindSafe;
use core::task::Poll;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::catch_unwind;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{SigSet, SigmaskHow};
use protocol::socket::{errno, now_ns, wait_readable};
use protocol::{Driver, Errno, Error, Loss, Step};
use rustix::fs::{Mode, OFlags, RawDir};
use rustix::process::{
    DumpableBehavior, Signal, WaitId, WaitIdOptions, dumpable_behavior, pidfd_send_signal,
    set_dumpable_behavior, waitid,
};
use rustix::thread::{Gid, ThreadNameSpaceType, Uid};

use crate::Launch;
use crate::action::{HelperAction, HelperOutcome, Outcome};
use crate::helper::Helper;
use crate::program::Layout;
use crate::rocker::Rocker;

/// How long a killed helper may take to be gone. It is stuck in a file system's driver if it
/// takes longer, and what it shares with us is then left to it.
const GRACE_NS: u64 = 1_000_000_000;

/// The App's status when it could not even get rid of the caller's descriptors.
const STATUS_ROCKER: c_int = 125;

/// The App's status when its callback panicked, as of any Rust program.
const STATUS_PANIC: c_int = 101;

impl Launch {
    /// Starts a rocker and calls `app` in it, in a new process that is the caller's child; its
    /// return value becomes that process's exit status.
    ///
    /// The process begins as a copy of this one, as after `fork(2)`, with ids, namespaces,
    /// privileges, signals and session as any App has them, in the exec dir, with descriptors
    /// 0 to 2 alone, on a stack of 8 MiB. It ends by `_exit(2)`: what it leaves in a buffer, as
    /// [`print!`] does with half a line, is lost. A panic ends it with status 101. All that this
    /// process has in its memory, secrets too, is there to be read; to run code that is not
    /// trusted, use [`spawn`](Self::spawn).
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    ///
    /// # Safety
    ///
    /// This process must have one thread only. Another one could hold a lock, of `malloc` for
    /// example, at the moment of the copy, and there is nobody in the copy to release it.
    ///
    /// The copy is made without the C library's knowledge, so its `pthread_atfork` handlers do
    /// not run, and the thread id that it caches for the calling thread is the parent's. With
    /// one thread that is harmless: the id only tells owners of a lock apart, and `raise`,
    /// `abort` and `pthread_create` ask the kernel.
    pub unsafe fn enter<F: FnOnce() -> i32>(&self, app: F) -> Result<Rocker, crate::Error> {
        let mut app = Some(app);
        let mut call = || app.take().map_or(STATUS_ROCKER, |app| app());
        self.run(None, App::Callback(Callback(&mut call)), None)
    }
}

/// What runs as the App.
pub(crate) enum App<'a> {
    /// A program, executed.
    Program(Layout),
    /// A function of the caller's.
    Callback(Callback<'a>),
}

/// A function to call in a copy of this process. Only [`Launch::enter`] makes one, so whoever
/// holds one has its caller's word that there is one thread.
pub(crate) struct Callback<'a>(&'a mut dyn FnMut() -> i32);

/// What the helper needs to know.
pub(crate) struct Entry<'a> {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Where the App starts, as seen inside.
    pub(crate) directory: CString,
    /// Whether to look at the clock.
    pub(crate) trace: bool,
    /// The App's filter, as the guard has it; empty: none.
    pub(crate) filter: Vec<u8>,
    /// What Landlock is to enforce upon it, as the guard has it.
    pub(crate) ruleset: Option<OwnedFd>,
    pub(crate) app: App<'a>,
}

/// What a helper leaves behind.
pub(crate) struct Answer {
    /// As the client's machine wants it: the App, or a failure, or nothing at all.
    pub(crate) outcome: Outcome,
    /// The App's pidfd, if it runs.
    pub(crate) app: Option<OwnedFd>,
    /// The guard's pidfd, back from the helper.
    pub(crate) guard: Option<OwnedFd>,
    /// The last thing the helper did.
    pub(crate) last: HelperAction,
    /// How far the App's own start came.
    pub(crate) at: At,
    /// When each action was done, if that was asked for.
    pub(crate) spans: [Span; HelperAction::ALL.len()],
}

/// A part of the App's own start.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum At {
    /// Its descriptors; or it did not come to that.
    Descriptors,
    /// Its filter.
    Filter,
    /// The program's execution.
    Execute,
}

/// From when and how long, in nanoseconds; 0 and 0 if never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    pub(crate) began_ns: u64,
    pub(crate) took_ns: u64,
}

/// enter.1: makes the helper, which goes to work at once. `guard` and `cgroups` are the entrance.
pub(crate) fn start(
    entry: Entry<'_>,
    guard: OwnedFd,
    cgroups: Vec<OwnedFd>,
) -> Result<Running<'_>, Errno> {
    let shares_memory = cgroups.is_empty();
    let helper_units = match entry.app {
        App::Program(_) => 1,
        App::Callback(_) => CALLBACK_UNITS,
    };
    let pages = Pages::new(helper_units, shares_memory)?;
    let sharing = shares_memory.then(Sharing::begin);
    let (slip, app_stack) = (pages.slip(), pages.app_stack());
    let luggage = Box::into_raw(Box::new(Luggage { entry, guard, cgroups, slip, app_stack }));
    // The helper is born with this mask and the App with the helper's. Here it stays until the
    // helper is gone: no handler of the caller's sees the errno of a thread lent to others.
    let signals = BlockedSignals::new();
    let mut pidfd: RawFd = -1;
    let memory = if shares_memory { libc::CLONE_VM } else { 0 };
    let flags = memory | libc::CLONE_FILES | libc::CLONE_PIDFD | libc::SIGCHLD;
    let stack = pages.helper_stack();
    // SAFETY: the new process runs `helper_main` on a stack that nobody else uses, with an
    // argument of the type it expects. Stack and argument outlive it: `Running` frees them
    // once its pidfd says that it is gone. It shares this thread's thread-local storage,
    // of which it may touch errno alone, while this thread, in `finish`, does not read
    // errno and has its signals blocked. In a copy all that is its own, but for the slip; and
    // it takes no lock, which another thread may have held.
    let pid = unsafe { libc::clone(helper_main, stack, flags, luggage.cast(), &raw mut pidfd) };
    if pid < 0 {
        let errno = last_errno();
        // SAFETY: it came from `Box::into_raw` above, and no process was made to use it.
        drop(unsafe { Box::from_raw(luggage) });
        sharing.iter().for_each(Sharing::end);
        return Err(errno);
    }
    // SAFETY: the kernel has just installed it for this call, in our table; nobody else knows.
    let helper = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let (state, luggage) = (Life::Working, Some(luggage));
    Ok(Running { helper, state, luggage, pages, sharing, _signals: signals })
}

/// A helper at work. It uses what is in here, so that goes only when the helper is gone.
pub(crate) struct Running<'a> {
    helper: OwnedFd,
    state: Life,
    luggage: Option<*mut Luggage<'a>>,
    pages: Pages,
    sharing: Option<Sharing>,
    _signals: BlockedSignals,
}

/// How sure it is that neither the helper nor an App on its way uses our memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Life {
    /// They may be at work.
    Working,
    /// They are gone, or the App has executed.
    Gone,
    /// They have been killed, but the kernel does not let go of one.
    Stuck,
}

impl<'a> Running<'a> {
    /// enter.3: waits for the helper's end and reads what it left. A helper that is not gone at
    /// the deadline is killed, and its App as well.
    pub(crate) fn finish(mut self, deadline_ns: u64) -> Answer {
        let (outcome, app, slip) = self.settle(deadline_ns);
        let guard = self.unpack().map(|luggage| luggage.guard);
        let last = HelperAction::ALL.get(slip.last).copied().unwrap_or(HelperAction::DropGroups);
        Answer { outcome, app, guard, last, at: slip.at(), spans: slip.spans }
    }

    fn settle(&mut self, deadline_ns: u64) -> (Outcome, Option<OwnedFd>, Slip) {
        let in_time = wait_readable(&self.helper, deadline_ns) == Ok(true);
        let mut gone = in_time || end(&self.helper);
        reap(&self.helper);
        // SAFETY: the slip is mapped, began as a valid one, and holds integers only: it is valid
        // whatever a helper that was killed while writing has left there.
        let slip = unsafe { self.pages.slip().read_volatile() };
        let mut app = slip.app();
        let outcome = match (slip.app_pid, Step::from_code(slip.step)) {
            (pid, _) if in_time && pid != 0 => Outcome::App { pid },
            (_, Some(step)) if in_time && slip.errno != 0 => {
                // What could not be executed is on its way out, and nobody is to find its zombie:
                // the helper went on as soon as the App was done with our memory.
                if let Some(app) = app.take() {
                    gone &= end(&app);
                    reap(&app);
                }
                Outcome::Refused(Error::Failed { step, errno: Errno(slip.errno) })
            }
            // The helper was killed on its way. Its App may be under way as well, in our memory.
            _ => {
                if let Some(app) = app.take() {
                    gone &= end(&app);
                    reap(&app);
                }
                Outcome::Lost(if in_time { Loss::Died } else { Loss::Silent })
            }
        };
        self.state = if gone { Life::Gone } else { Life::Stuck };
        (outcome, app, slip)
    }

    /// Takes the luggage back once nobody else can have it in hand.
    fn unpack(&mut self) -> Option<Box<Luggage<'a>>> {
        if self.state != Life::Gone {
            return None;
        }
        // SAFETY: it came from `Box::into_raw` in `start`, and is taken out here, once. The
        // helper, whose it was, is gone; so is an App that shared it, or else it has executed.
        self.luggage.take().map(|luggage| unsafe { Box::from_raw(luggage) })
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.state == Life::Working {
            self.settle(0);
        }
        drop(self.unpack());
        match self.state {
            Life::Gone => self.sharing.iter().for_each(Sharing::end),
            // What they stand on is left to them, and our memory stays closed to others.
            Life::Working | Life::Stuck => self.pages.given_up = true,
        }
    }
}

/// What the helper has with it. It lies in memory that caller, helper and a program's App share,
/// and the caller keeps its hands off it.
struct Luggage<'a> {
    entry: Entry<'a>,
    guard: OwnedFd,
    /// `cgroup.procs` of the rocker's cgroups, opened by the master.
    cgroups: Vec<OwnedFd>,
    slip: *mut Slip,
    app_stack: *mut c_void,
}

/// What helper and kernel write and the caller reads. Any bytes make a valid one.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Slip {
    /// Written by the kernel as it makes the App, before the App's first instruction.
    app_pidfd: RawFd,
    /// Not 0: the App runs.
    app_pid: u32,
    /// Not 0: the helper failed, at this step.
    errno: u16,
    step: u8,
    /// [`At`]
    at: u8,
    /// Index into [`HelperAction::ALL`].
    last: usize,
    spans: [Span; HelperAction::ALL.len()],
}

impl Default for Slip {
    fn default() -> Self {
        let spans = [Span::default(); HelperAction::ALL.len()];
        Self { app_pidfd: -1, app_pid: 0, errno: 0, step: 0, last: 0, at: 0, spans }
    }
}

impl Slip {
    fn at(&self) -> At {
        let all = [At::Descriptors, At::Filter, At::Execute];
        all.into_iter().find(|at| *at as u8 == self.at).unwrap_or(At::Descriptors)
    }

    /// The App's pidfd, if the kernel got as far as to make it.
    fn app(&self) -> Option<OwnedFd> {
        if self.app_pidfd < 0 {
            return None;
        }
        // SAFETY: the kernel has put the number here and nobody else uses it. A clone that
        // fails after that takes it back; the helper then resets it, unless it was killed in
        // that very call. So it is borrowed first, only to ask whether it is a pidfd at all.
        let pidfd = unsafe { BorrowedFd::borrow_raw(self.app_pidfd) };
        let ask = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let asked = waitid(WaitId::PidFd(pidfd), ask);
        if matches!(asked, Err(rustix::io::Errno::BADF | rustix::io::Errno::INVAL)) {
            return None;
        }
        // SAFETY: it is open and a pidfd, so it is the one that was made for us to own.
        Some(unsafe { OwnedFd::from_raw_fd(self.app_pidfd) })
    }
}

/// The helper's process, from its first line to its exit status.
extern "C" fn helper_main(luggage: *mut c_void) -> c_int {
    // SAFETY: `start` passes its luggage and touches it no more until this process is gone.
    let luggage = unsafe { &mut *luggage.cast::<Luggage<'_>>() };
    let slip = luggage.slip;
    let mut helper = Helper::new();
    protocol::run(&mut helper, &mut HelperDriver { luggage });
    // SAFETY: it points into pages that the caller keeps mapped until this process is gone,
    // and which it does not look at until then. The driver's borrow of it has ended.
    let slip = unsafe { &mut *slip };
    match helper.result() {
        Some(Ok(pid)) => slip.app_pid = pid,
        Some(Err(Error::Failed { step, errno })) => {
            (slip.step, slip.errno) = (step.code(), errno.0);
        }
        _ => {}
    }
    0
}

/// Does what the helper's machine asks for, in the helper's process.
struct HelperDriver<'d, 'a> {
    luggage: &'d mut Luggage<'a>,
}

impl Driver<Helper> for HelperDriver<'_, '_> {
    fn perform(&mut self, _: Step, action: HelperAction) -> Poll<HelperOutcome> {
        let trace = self.luggage.entry.trace;
        let began_ns = if trace { now_ns() } else { 0 };
        let result = match action {
            HelperAction::StartApp => self.start_app(),
            other => self.prepare(other).map_err(errno).map(|()| HelperOutcome::Done),
        };
        // SAFETY: as in `helper_main`, whose reference does not exist yet.
        let slip = unsafe { &mut *self.luggage.slip };
        slip.last = HelperAction::ALL.iter().position(|&known| known == action).unwrap_or(0);
        if trace && let Some(span) = slip.spans.get_mut(slip.last) {
            *span = Span { began_ns, took_ns: now_ns().saturating_sub(began_ns) };
        }
        Poll::Ready(result.unwrap_or_else(HelperOutcome::Failed))
    }
}

impl HelperDriver<'_, '_> {
    /// All but the App itself.
    fn prepare(&self, action: HelperAction) -> rustix::io::Result<()> {
        let entry = &self.luggage.entry;
        match action {
            HelperAction::DropGroups => {
                leave_session_keyring()?;
                rustix::thread::set_thread_groups(&[])
            }
            HelperAction::JoinNamespaces => {
                // The App is born where its parent is.
                for procs in &self.luggage.cgroups {
                    rustix::io::write(procs, b"0")?;
                }
                let entrance = ThreadNameSpaceType::USER
                    | ThreadNameSpaceType::MOUNT
                    | ThreadNameSpaceType::PROCESS_ID
                    | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION;
                let guard = self.luggage.guard.as_fd();
                rustix::thread::move_into_thread_name_spaces(guard, entrance)
            }
            HelperAction::TakeIds => take_ids(entry.uid, entry.gid),
            HelperAction::DropPrivileges => {
                protocol::privileges::drop_all()?;
                // What this process may not do, the App may not.
                entry.ruleset.as_ref().map_or(Ok(()), enforce)
            }
            HelperAction::EnterDirectory => rustix::process::chdir(entry.directory.as_c_str()),
            HelperAction::StartApp => unreachable!("has a function of its own"),
        }
    }

    fn start_app(&mut self) -> Result<HelperOutcome, Errno> {
        let Luggage { entry, slip, app_stack, .. } = &mut *self.luggage;
        // SAFETY: only the place is taken, for the kernel to write to; no reference is made.
        let pidfd = unsafe { &raw mut (**slip).app_pidfd };
        let flags = libc::CLONE_PARENT | libc::CLONE_PIDFD | libc::SIGCHLD;
        let mut failure = None;
        let pid = match &mut entry.app {
            App::Program(layout) => {
                let mut start = AppStart { layout, filter: &entry.filter, failure: &mut failure };
                let flags = flags | libc::CLONE_VM | libc::CLONE_VFORK;
                // SAFETY: as for the helper: a stack of its own and an argument of the type
                // expected. `CLONE_VFORK` keeps this process here, and with it both, until the
                // App has executed or exited; if this process is killed meanwhile, the caller
                // sees to it (`finish`) that the App is gone before it frees the stacks.
                unsafe { libc::clone(app_main, *app_stack, flags, (&raw mut start).cast(), pidfd) }
            }
            App::Callback(callback) => {
                // SAFETY: by the existence of a `Callback` the caller has one thread, which waits
                // in poll, so the copy is consistent; it runs the callback and exits.
                let pid = unsafe { raw_clone(flags, pidfd) };
                if pid == 0 {
                    call(callback, &entry.filter);
                }
                pid
            }
        };
        let Ok(pid) = u32::try_from(pid) else {
            let errno = last_errno();
            // SAFETY: the place is the slip's, which is mapped; the kernel is done with it. It
            // may have written a number there that it has taken back since.
            unsafe { pidfd.write(-1) };
            return Err(errno);
        };
        match failure {
            None => Ok(HelperOutcome::App { pid }),
            Some(Failure { errno, at }) => {
                // SAFETY: only the place is taken, as above.
                let place = unsafe { &raw mut (**slip).at };
                // SAFETY: the slip is mapped and nobody reads it before this process is gone.
                unsafe { place.write(at as u8) };
                Err(errno)
            }
        }
    }
}

/// Keys of the caller's would stay the App's through everything that follows: whoever has a
/// session keyring possesses what is in it, whatever its ids (`man 7 session-keyring`). So it
/// gets an empty one, while that still counts against the caller's quota.
fn leave_session_keyring() -> rustix::io::Result<()> {
    const JOIN_SESSION_KEYRING: c_long = 1;
    let no_name = core::ptr::null::<u8>();
    // SAFETY: without a name nothing is read; only this process's credentials change.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, no_name) };
    match last_errno() {
        _ if joined >= 0 => Ok(()),
        // A kernel without keys has none to leave.
        Errno::NOSYS => Ok(()),
        error => Err(rustix::io::Errno::from_raw_os_error(error.0.into())),
    }
}

/// Which version of Landlock the kernel has (`man 7 landlock`); none without it, or where it is not
/// enabled. [`Launch::landlock`] takes 6.
pub fn landlock_abi() -> Option<u32> {
    const VERSION: c_long = 1;
    let none = core::ptr::null::<u8>();
    // SAFETY: it is asked for its version, and reads nothing.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    u32::try_from(abi).ok()
}

/// `man 2 landlock_restrict_self`: for this process, and those that it makes.
fn enforce(ruleset: &OwnedFd) -> rustix::io::Result<()> {
    const NO_FLAGS: c_long = 0;
    let ruleset = c_long::from(ruleset.as_raw_fd());
    // SAFETY: it touches no memory; the descriptor is open for the whole call.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, NO_FLAGS) } {
        0 => Ok(()),
        _ => Err(rustix::io::Errno::from_raw_os_error(last_errno().0.into())),
    }
}

/// Nothing of the caller's identity may be left: not in the saved ids, not in those for files.
fn take_ids(uid: u32, gid: u32) -> rustix::io::Result<()> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    // The kernel has done so unless fs.suid_dumpable says otherwise: nobody of that uid may look
    // into memory that still is the caller's.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let (Ok(users), Ok(groups)) = (nix::unistd::getresuid(), nix::unistd::getresgid()) else {
        return Err(rustix::io::Errno::PERM);
    };
    let users = [users.real, users.effective, users.saved].map(nix::unistd::Uid::as_raw);
    let groups = [groups.real, groups.effective, groups.saved].map(nix::unistd::Gid::as_raw);
    let taken = users == [uid; 3] && groups == [gid; 3];
    if taken { Ok(()) } else { Err(rustix::io::Errno::PERM) }
}

struct AppStart<'a> {
    layout: &'a mut Layout,
    filter: &'a [u8],
    failure: &'a mut Option<Failure>,
}

/// Why a program does not run.
struct Failure {
    errno: Errno,
    at: At,
}

/// The App's process until it executes. It comes back only if it cannot, and then exits.
extern "C" fn app_main(start: *mut c_void) -> c_int {
    // SAFETY: `start_app` passes an `AppStart` and waits until this process needs it no more.
    let start = unsafe { &mut *start.cast::<AppStart<'_>>() };
    let placed = place_descriptors(start.layout).and_then(|()| take_session(start.layout));
    *start.failure = Some(match placed {
        Ok(()) => {
            reset_signals();
            match install_filter(start.filter) {
                Ok(()) => Failure { errno: execute(start.layout), at: At::Execute },
                Err(errno) => Failure { errno, at: At::Filter },
            }
        }
        Err(errno) => Failure { errno, at: At::Descriptors },
    });
    STATUS_ROCKER
}

/// The App's process when it is a callback.
fn call(callback: &mut Callback<'_>, filter: &[u8]) -> ! {
    // As execve(2) would: descriptors marked close-on-exec are not the App's.
    for fd in 0..3 {
        // SAFETY: it reads the flags of a number, open or not.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        if flags >= 0 && flags & libc::FD_CLOEXEC != 0 {
            close(fd);
        }
    }
    if close_from(3).is_err() {
        exit(STATUS_ROCKER);
    }
    // The new ids have made it undumpable, and with that /proc/self root's (KERNEL A26). Now
    // that nothing of the host's is open, it can have its own back.
    let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
    new_session();
    reset_signals();
    if install_filter(filter).is_err() {
        exit(STATUS_ROCKER);
    }
    exit(catch_unwind(AssertUnwindSafe(|| (callback.0)())).unwrap_or(STATUS_PANIC))
}

fn take_session(layout: &Layout) -> Result<(), Errno> {
    if layout.new_session {
        new_session();
    }
    match layout.terminal {
        true => rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()).map_err(errno),
        false => Ok(()),
    }
}

fn new_session() {
    // Refused only to the leader of a process group, which a new process never is.
    let _ = rustix::process::setsid();
}

/// Brings each descriptor to the number it is wanted under, and closes all others.
fn place_descriptors(layout: &mut Layout) -> Result<(), Errno> {
    // First out of the way of all targets, so that no move hits the source of a later one.
    for entry in &mut layout.moves {
        // SAFETY: it makes a new number for an open one, in a table that is this process's own.
        let moved =
            unsafe { libc::fcntl(entry.source, libc::F_DUPFD_CLOEXEC, layout.first_closed) };
        if moved < 0 {
            return Err(last_errno());
        }
        entry.source = moved;
    }
    for entry in &layout.moves {
        // SAFETY: whatever the target's number stood for was the caller's, whose table is
        // another one; nothing in this process uses it.
        if unsafe { libc::dup2(entry.source, entry.target) } < 0 {
            return Err(last_errno());
        }
    }
    close_from(layout.first_closed)
}

fn close_from(first: RawFd) -> Result<(), Errno> {
    let first_number = c_uint::try_from(first).unwrap_or(0);
    // SAFETY: nothing in this process uses a descriptor beyond those it was told to keep.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first_number, c_uint::MAX, 0) };
    if closed == 0 { Ok(()) } else { close_listed_from(first).map_err(errno) }
}

/// Without close_range (Linux 5.9): closes what the rocker's /proc lists.
fn close_listed_from(first: RawFd) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let list = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut entries = RawDir::new(&list, &mut buffer);
    while let Some(entry) = entries.next() {
        let name = entry?;
        if let Some(fd) = number(name.file_name())
            && fd >= first
            && fd != list.as_raw_fd()
        {
            close(fd);
        }
    }
    Ok(())
}

/// A name in `/proc/self/fd`; none for `.` and `..`.
fn number(name: &CStr) -> Option<RawFd> {
    core::str::from_utf8(name.to_bytes()).ok()?.parse().ok()
}

fn close(fd: RawFd) {
    // SAFETY: the caller has checked that it is none that this process keeps. (Not libc's: that
    // is a cancellation point, and looks at a thread that this process only shares.)
    unsafe { rustix::io::close(fd) };
}

/// What the caller ignores or handles means nothing to the App; what it blocks neither. The
/// mask goes last: no handler of the caller's runs in a process that shares its memory.
fn reset_signals() {
    /// `_NSIG` less one, everywhere but on MIPS.
    const SIGNAL_MAX: c_int = 64;
    /// The kernel's `struct sigaction` on any machine is no longer. All zeros are SIG_DFL, no
    /// flags and an empty mask.
    static DEFAULT: [u64; 4] = [0; 4];
    let (default, none) = (&raw const DEFAULT, core::ptr::null_mut::<u64>());
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: dispositions are this process's own, without CLONE_SIGHAND. The kernel reads
        // the struct and no old one is asked for; 8 is the size of its signal set. SIGKILL and
        // SIGSTOP are refused, and cannot be ignored. Not by the C library, which refuses two
        // more that it keeps for itself, and that a caller may have inherited ignored.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default, none, 8_usize) };
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// The last thing before the App's own code, so that it has to allow nothing else.
fn install_filter(filter: &[u8]) -> Result<(), Errno> {
    const SET_MODE_FILTER: c_long = 1;
    const NO_FLAGS: c_long = 0;
    if filter.is_empty() {
        return Ok(());
    }
    let len = u16::try_from(filter.len() / 8).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut().cast() };
    let program = &raw const program;
    // SAFETY: the kernel reads the struct, and so many instructions of 8 bytes each, which are
    // there, at any address; it writes to neither, and keeps a copy.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, NO_FLAGS, program) };
    if set == 0 { Ok(()) } else { Err(last_errno()) }
}

/// As `execvp(3)` does, but with a `PATH` of the App's own, and no shell for what is neither a
/// program nor a script.
fn execute(layout: &Layout) -> Errno {
    const NODEV: Errno = Errno(19);
    const STALE: Errno = Errno(116);
    let (mut last, mut denied) = (Errno::NOENT, false);
    for path in &layout.candidates {
        // SAFETY: path and arrays end as execve(2) wants them to and live in `layout`.
        unsafe { libc::execve(path.as_ptr(), layout.argv.as_ptr(), layout.envp.as_ptr()) };
        last = last_errno();
        match last {
            // Found, but not for us: what to say if no later one is better.
            Errno::ACCES => denied = true,
            Errno::NOENT | Errno::NOTDIR | NODEV | STALE | Errno::TIMEDOUT => {}
            other => return other,
        }
    }
    if denied { Errno::ACCES } else { last }
}

/// `fork(2)` with flags, and without what the C library adds.
///
/// # Safety
///
/// As for `fork`: in a process with other threads, the copy may only make system calls.
unsafe fn raw_clone(flags: c_int, pidfd: *mut RawFd) -> c_int {
    let (flags, none) = (c_long::from(flags), c_long::from(0));
    // SAFETY: without CLONE_VM and with no stack given, both processes go on from here, each in
    // memory of its own. The kernel writes the pidfd to a place that the caller vouches for.
    // (The order of the arguments after it differs between machines; they are all none.)
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, none, pidfd, none, none) };
    c_int::try_from(pid).unwrap_or(-1)
}

fn exit(status: c_int) -> ! {
    // SAFETY: it ends this process, whose memory holds nothing of its own to be put in order.
    unsafe { libc::_exit(status) }
}

fn last_errno() -> Errno {
    Errno(u16::try_from(nix::errno::Errno::last_raw()).unwrap_or(0))
}

/// Kills, and waits for the end; false if the kernel does not let go of it in time.
pub(crate) fn end(process: &OwnedFd) -> bool {
    let _ = pidfd_send_signal(process, Signal::KILL);
    wait_readable(process, now_ns().saturating_add(GRACE_NS)) == Ok(true)
}

/// Takes a dead child's zombie away, unless somebody has: a caller that ignores SIGCHLD, or
/// another thread that waits for any child (KERNEL A33).
pub(crate) fn reap(process: &OwnedFd) {
    let pidfd = WaitId::PidFd(process.as_fd());
    let _ = waitid(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
}

/// Blocks all signals of this thread, until it is dropped.
struct BlockedSignals(Option<SigSet>);

impl BlockedSignals {
    fn new() -> Self {
        Self(SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).ok())
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            let _ = before.thread_set_mask();
        }
    }
}

/// The time in which a helper shares our memory. Taking the App's ids makes that memory
/// undumpable, which is right as long as it lasts: nobody of that uid may look at it. But it is
/// ours too, and is to be as it was afterwards (KERNEL A35): when the last helper of all our
/// threads is gone.
struct Sharing;

struct Sharers {
    helpers: usize,
    was_dumpable: bool,
}

impl Sharing {
    fn begin() -> Self {
        let mut sharers = Self::sharers();
        if sharers.helpers == 0 {
            sharers.was_dumpable = matches!(dumpable_behavior(), Ok(DumpableBehavior::Dumpable));
        }
        sharers.helpers += 1;
        Self
    }

    fn end(&self) {
        let mut sharers = Self::sharers();
        sharers.helpers -= 1;
        if sharers.helpers == 0 && sharers.was_dumpable {
            let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
        }
    }

    fn sharers() -> MutexGuard<'static, Sharers> {
        static SHARERS: Mutex<Sharers> = Mutex::new(Sharers { helpers: 0, was_dumpable: false });
        SHARERS.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory for the children: a slip, and two stacks above a gap. A helper that ran out of its own
/// would have the App's, which is of use only while the helper waits.
struct Pages {
    base: *mut c_void,
    length: usize,
    given_up: bool,
}

/// A multiple of every page size there is. Only what is touched is ever there.
const UNIT: usize = 64 * 1024;

/// Where the helper's stack begins: above the gap, and the App's, which is one unit.
const HELPER: usize = 2;

/// The stack of a callback: as large as a main thread's usually is.
const CALLBACK_UNITS: usize = 128;

impl Pages {
    /// The helper's stack has so many units. What is a copy of this process writes to the slip all
    /// the same.
    fn new(helper: usize, shares_memory: bool) -> Result<Self, Errno> {
        let length = (HELPER + helper + 1) * UNIT;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping where the kernel likes it touches nothing that exists.
        let base = unsafe { libc::mmap(core::ptr::null_mut(), length, access, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(last_errno());
        }
        let pages = Self { base, length, given_up: false };
        // SAFETY: the gap lies in the mapping just made, which nobody uses yet.
        if unsafe { libc::mprotect(pages.at(0), UNIT, libc::PROT_NONE) } < 0 {
            return Err(last_errno());
        }
        if !shares_memory {
            let (slip, flags) = (pages.slip().cast(), libc::MAP_SHARED | libc::MAP_FIXED);
            let flags = flags | libc::MAP_ANONYMOUS;
            // SAFETY: it replaces the last unit of the mapping just made, which nobody uses yet.
            let slip = unsafe { libc::mmap(slip, UNIT, access, flags, -1, 0) };
            if slip == libc::MAP_FAILED {
                return Err(last_errno());
            }
        }
        // SAFETY: the last unit is mapped, writable, aligned, and large enough for a slip.
        unsafe { pages.slip().write(Slip::default()) };
        Ok(pages)
    }

    fn at(&self, unit: usize) -> *mut c_void {
        self.base.cast::<u8>().wrapping_add(unit * UNIT).cast()
    }

    /// The top of unit 1, above the gap.
    fn app_stack(&self) -> *mut c_void {
        self.at(HELPER)
    }

    /// The top of all units but the last.
    fn helper_stack(&self) -> *mut c_void {
        self.slip().cast()
    }

    /// The last unit.
    fn slip(&self) -> *mut Slip {
        self.at(self.length / UNIT - 1).cast()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if !self.given_up {
            // SAFETY: the mapping is ours, and `Running` says that no process uses it any more.
            unsafe { libc::munmap(self.base, self.length) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_the_numbers_among_the_names() {
        assert_eq!(number(c"17"), Some(17));
        for name in [c".", c"..", c"", c"1x"] {
            assert_eq!(number(name), None);
        }
    }

    #[test]
    fn a_helper_that_left_nothing_has_no_app() {
        let pages = Pages::new(1, false).unwrap();
        // SAFETY: the slip is mapped, and nobody else uses these pages.
        let slip = unsafe { pages.slip().read_volatile() };
        assert!(slip.app().is_none());
        assert_eq!((slip.app_pid, slip.errno), (0, 0));
        // Not a pidfd: a number that was taken back and given to something else.
        let other = std::fs::File::open("/dev/null").unwrap();
        let stale = Slip { app_pidfd: other.as_raw_fd(), ..slip };
        assert!(stale.app().is_none());
        assert!(rustix::io::fcntl_getfd(&other).is_ok(), "it is not ours to close");
    }

    #[test]
    fn stacks_end_where_another_or_the_slip_begins() {
        for helper in [1, CALLBACK_UNITS] {
            let pages = Pages::new(helper, true).unwrap();
            let places = [pages.app_stack(), pages.helper_stack(), pages.slip().cast()];
            let units = places.map(|place| (place.addr() - pages.base.addr()) / UNIT);
            assert_eq!(units, [2, 2 + helper, 2 + helper]);
            assert_eq!(pages.length, (3 + helper) * UNIT);
        }
        assert!(size_of::<Slip>() < UNIT);
    }
}
