//! The system calls that rustix has no function for, each with a safe face.
#![allow(unsafe_code, reason = "raw system calls")]

use alloc::format;
use core::ffi::CStr;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU32, Ordering};

use protocol::limits::RLIMITS_MAX;
use protocol::socket::now_ns;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use syscalls::{Sysno, syscall};

/// Standard input and output of a process that has not closed them.
pub(crate) fn stdio(number: u8) -> BorrowedFd<'static> {
    // SAFETY: rocker-master, or whoever starts this by hand, has 0 to 2 open, and this process
    // replaces but never closes them.
    unsafe { BorrowedFd::borrow_raw(i32::from(number)) }
}

/// A descriptor as a system call takes it: negative is the one that stands for the working
/// directory alone.
fn number(fd: BorrowedFd<'_>) -> usize {
    (fd.as_raw_fd() as isize).cast_unsigned()
}

fn ours(error: syscalls::Errno) -> Errno {
    Errno::from_raw_os_error(error.into_raw())
}

/// Blocks every signal, and returns a descriptor that can be read when a child has ended
/// (`man 2 signalfd`).
pub(crate) fn signals_of_children() -> Result<OwnedFd, Errno> {
    const SET_BYTES: usize = 8;
    const SIG_SETMASK: usize = 2;
    let (all, children) = (u64::MAX, 1_u64 << (linux_raw_sys::general::SIGCHLD - 1));
    // SAFETY: the kernel reads 8 bytes through the pointer, which are there; no old set is asked
    // for.
    unsafe { syscall!(Sysno::rt_sigprocmask, SIG_SETMASK, &raw const all, 0, SET_BYTES) }
        .map_err(ours)?;
    let flags = linux_raw_sys::general::O_CLOEXEC | linux_raw_sys::general::O_NONBLOCK;
    // SAFETY: the same; -1 asks for a new descriptor.
    let fd = unsafe {
        syscall!(Sysno::signalfd4, usize::MAX, &raw const children, SET_BYTES, flags as usize)
    };
    let fd = i32::try_from(fd.map_err(ours)?).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just made it for this call, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Namespaces of its own, of these kinds: `CLONE_NEWUSER` for one (`man 2 unshare`).
pub(crate) fn unshare(kinds: u32) -> Result<(), Errno> {
    // SAFETY: it changes credentials and which namespaces this process is in, no memory and no
    // descriptors.
    unsafe { syscall!(Sysno::unshare, kinds as usize) }.map(drop).map_err(ours)
}

/// `setns(2)` to a mount namespace: also its root is this process's root then.
pub(crate) fn enter_mounts(namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    let kind = linux_raw_sys::general::CLONE_NEWNS as usize;
    // SAFETY: as above; the descriptor is open for the whole call.
    unsafe { syscall!(Sysno::setns, number(namespace), kind) }.map(drop).map_err(ours)
}

/// `setfsuid(2)` and `setfsgid(2)`. They tell no error: who may not have these ids keeps the old
/// ones.
pub(crate) fn set_file_ids(uid: u32, gid: u32) {
    #[cfg(not(target_arch = "arm"))]
    use Sysno::{setfsgid, setfsuid};
    // Those without a number have 16 bits there.
    #[cfg(target_arch = "arm")]
    use Sysno::{setfsgid32 as setfsgid, setfsuid32 as setfsuid};
    for (call, id) in [(setfsgid, gid), (setfsuid, uid)] {
        // SAFETY: it changes credentials, and touches no memory.
        let _ = unsafe { syscall!(call, id as usize) };
    }
}

/// `sethostname(2)`
pub(crate) fn set_host_name(name: &[u8]) -> Result<(), Errno> {
    // SAFETY: the kernel reads as many bytes as there are.
    unsafe { syscall!(Sysno::sethostname, name.as_ptr(), name.len()) }.map(drop).map_err(ours)
}

/// `setdomainname(2)`
pub(crate) fn set_domain_name(name: &[u8]) -> Result<(), Errno> {
    // SAFETY: as above.
    unsafe { syscall!(Sysno::setdomainname, name.as_ptr(), name.len()) }.map(drop).map_err(ours)
}

/// Makes a mount and everything mounted below it read-only, or inert in another way
/// (`man 2 mount_setattr`).
pub(crate) fn restrict(tree: BorrowedFd<'_>, how: MountAttrFlags) -> Result<(), Errno> {
    restrict_at(tree, c"", how)
}

/// The same for what is mounted at a place in `dir`.
pub(crate) fn restrict_at(
    dir: BorrowedFd<'_>,
    place: &CStr,
    how: MountAttrFlags,
) -> Result<(), Errno> {
    use linux_raw_sys::general::{AT_EMPTY_PATH, AT_RECURSIVE, mount_attr};
    let attributes =
        mount_attr { attr_set: how.bits().into(), attr_clr: 0, propagation: 0, userns_fd: 0 };
    let (place, flags) = (place.as_ptr(), (AT_EMPTY_PATH | AT_RECURSIVE) as usize);
    let (at, size) = (&raw const attributes, size_of::<mount_attr>());
    // SAFETY: the kernel reads the NUL-ended path and `size` bytes at `at`, which are there, and
    // keeps neither; `dir` is open for the whole call, or stands for the working directory.
    unsafe { syscall!(Sysno::mount_setattr, number(dir), place, flags, at, size) }
        .map(drop)
        .map_err(ours)
}

/// `fchmodat2(2)` of an open file, also one that is open by `O_PATH`.
pub(crate) fn chmod(file: BorrowedFd<'_>, how: rustix::fs::Mode) -> Result<(), Errno> {
    let (path, flags) = (c"".as_ptr(), linux_raw_sys::general::AT_EMPTY_PATH as usize);
    let mode = how.as_raw_mode() as usize;
    // SAFETY: the kernel reads the empty, NUL-ended path; the descriptor is open for the whole
    // call.
    let done = unsafe { syscall!(Sysno::fchmodat2, number(file), path, mode, flags) };
    match done.map(drop).map_err(ours) {
        // Before Linux 6.6 by its name in /proc, which leads to it and nothing else.
        Err(Errno::NOSYS) => {
            let name = format!("/proc/self/fd/{}", file.as_raw_fd());
            rustix::fs::chmod(name, how)
        }
        answer => answer,
    }
}

/// Which version of Landlock there is. `ENOSYS` without, `EOPNOTSUPP` if it is not enabled.
pub(crate) fn landlock_abi() -> Result<u32, Errno> {
    let flags = linux_raw_sys::landlock::LANDLOCK_CREATE_RULESET_VERSION as usize;
    // SAFETY: it is asked for its version, and reads nothing.
    let abi = unsafe { syscall!(Sysno::landlock_create_ruleset, 0, 0, flags) };
    u32::try_from(abi.map_err(ours)?).map_err(|_| Errno::OVERFLOW)
}

/// `landlock_create_ruleset(2)`: what is forbidden, but where it is allowed.
pub(crate) fn landlock_ruleset(files: u32, scoped: u32) -> Result<OwnedFd, Errno> {
    use linux_raw_sys::landlock::landlock_ruleset_attr;
    let attributes = landlock_ruleset_attr {
        handled_access_fs: files.into(),
        handled_access_net: 0,
        scoped: scoped.into(),
    };
    let (at, size) = (&raw const attributes, size_of::<landlock_ruleset_attr>());
    // SAFETY: the kernel reads `size` bytes at `at`, which are there.
    let ruleset = unsafe { syscall!(Sysno::landlock_create_ruleset, at, size, 0) };
    let ruleset = i32::try_from(ruleset.map_err(ours)?).map_err(|_| Errno::OVERFLOW)?;
    // SAFETY: the kernel has just made it for this call, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(ruleset) })
}

/// `landlock_add_rule(2)`: here it is allowed, and below.
pub(crate) fn landlock_allow(
    ruleset: BorrowedFd<'_>,
    place: BorrowedFd<'_>,
    what: u32,
) -> Result<(), Errno> {
    use linux_raw_sys::landlock::{landlock_path_beneath_attr, landlock_rule_type};
    let kind = landlock_rule_type::LANDLOCK_RULE_PATH_BENEATH as usize;
    let rule =
        landlock_path_beneath_attr { allowed_access: what.into(), parent_fd: place.as_raw_fd() };
    let rule = &raw const rule;
    // SAFETY: the kernel reads one such rule; both descriptors are open for the whole call.
    unsafe { syscall!(Sysno::landlock_add_rule, number(ruleset), kind, rule, 0) }
        .map(drop)
        .map_err(ours)
}

/// `landlock_restrict_self(2)`
pub(crate) fn landlock_restrict(ruleset: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: it touches no memory; the descriptor is open for the whole call.
    unsafe { syscall!(Sysno::landlock_restrict_self, number(ruleset), 0) }.map(drop).map_err(ours)
}

/// `ioctl(2)` that reads at most one `T`.
pub(crate) fn ioctl<T>(fd: impl AsFd, request: u32, argument: Option<&T>) -> Result<u32, Errno> {
    let argument = argument.map_or(core::ptr::null(), core::ptr::from_ref);
    let request = usize::try_from(request).unwrap_or(usize::MAX);
    // SAFETY: callers (loop_device.rs) pass requests that read one T, or nothing; the kernel
    // does not write to it and does not keep it. The descriptor is open for the whole call.
    let answer = unsafe { syscall!(Sysno::ioctl, number(fd.as_fd()), request, argument) };
    u32::try_from(answer.map_err(ours)?).map_err(|_| Errno::OVERFLOW)
}

/// Most strings of one list. The kernel knows no such limit, but a message of ours does.
const STRINGS_MAX: usize = 1023;

/// Strings as `execve(2)` takes them: pointers to bytes that each end with a NUL.
pub(crate) struct Pointers<'a> {
    pointers: [*const u8; STRINGS_MAX + 1],
    _strings: core::marker::PhantomData<&'a [u8]>,
}

impl<'a> Pointers<'a> {
    /// `E2BIG` if there are too many, `EINVAL` if one has no end.
    pub(crate) fn new(strings: impl Iterator<Item = &'a [u8]>) -> Result<Self, Errno> {
        let mut pointers = [core::ptr::null(); STRINGS_MAX + 1];
        let mut room = pointers.iter_mut();
        for string in strings {
            if string.last() != Some(&0) {
                return Err(Errno::INVAL);
            }
            *room.next().ok_or(Errno::TOOBIG)? = string.as_ptr();
        }
        // The last one stays null.
        if room.len() == 0 {
            Err(Errno::TOOBIG)
        } else {
            Ok(Self { pointers, _strings: core::marker::PhantomData })
        }
    }
}

/// `execve(2)`, or `execveat(2)` of an open file; it only comes back if it cannot. `path` ends
/// with a NUL.
pub(crate) fn execute(
    path: &[u8],
    file: Option<BorrowedFd<'_>>,
    args: &Pointers<'_>,
    env: &Pointers<'_>,
) -> Errno {
    const AT_FDCWD: usize = usize::MAX - 99;
    if path.last() != Some(&0) {
        return Errno::INVAL;
    }
    let (at, flags) = match file {
        Some(file) => (number(file), linux_raw_sys::general::AT_EMPTY_PATH as usize),
        None => (AT_FDCWD, 0),
    };
    let (args, env) = (args.pointers.as_ptr(), env.pointers.as_ptr());
    // SAFETY: path and strings end with a NUL, the arrays with a null pointer, and all of them
    // are borrowed until this returns, or the process has become another program.
    match unsafe { syscall!(Sysno::execveat, at, path.as_ptr(), args, env, flags) } {
        Err(error) => ours(error),
        Ok(_) => Errno::INVAL,
    }
}

/// Room for the stack of a process that is about to execute.
#[repr(align(16))]
pub(crate) struct Stack([MaybeUninit<u8>; 32 * 1024]);

impl Stack {
    pub(crate) const fn new() -> Self {
        Self([MaybeUninit::uninit(); 32 * 1024])
    }
}

/// A new process.
pub(crate) struct Spawned {
    /// Its pid here.
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// It took too long.
    pub(crate) killed: bool,
}

/// How long a process may take to end that was killed.
const DEATH_NS: u64 = 5_000_000_000;

/// What a process that shares our memory has of our descriptors.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Table {
    /// Copies.
    Own,
    /// The same: what it opens is ours.
    Shared,
}

/// Calls `child` in a new process that shares this one's memory, and waits until that one has
/// executed a program or ended, with the status that `child` returns.
///
/// As `vfork(2)`, but for the wait: other processes of this uid could stop the new one for ever
/// before it executes, and with it this one. Here it is killed after `patience_ns`; meanwhile
/// `others` is called again whenever the nanoseconds have passed that it returns. If the kernel
/// does not let go of it even then, stuck in a file system, this process ends, and the rocker:
/// it could not tell when its memory is its own again.
pub(crate) fn spawn<F: FnMut() -> u8>(
    stack: &mut Stack,
    mut child: F,
    table: Table,
    patience_ns: u64,
    mut others: impl FnMut() -> u64,
) -> Result<Spawned, Errno> {
    use linux_raw_sys::general::{
        CLONE_CHILD_CLEARTID, CLONE_FILES, CLONE_PIDFD, CLONE_VM, SIGCHLD,
    };
    let files = if table == Table::Shared { CLONE_FILES } else { 0 };
    let flags = (CLONE_VM | files | CLONE_PIDFD | CLONE_CHILD_CLEARTID | SIGCHLD) as usize;
    let mut pidfd: i32 = -1;
    // The kernel makes it 0, and wakes who waits for that, when the new process lets go of our
    // memory: `man 2 set_tid_address`.
    let shares = AtomicU32::new(1);
    let request = Clone {
        flags,
        stack: stack.0.as_mut_ptr_range().end.cast(),
        pidfd: &raw mut pidfd,
        shares: shares.as_ptr(),
        call: run::<F> as extern "C" fn(*mut F) -> usize as usize,
        argument: (&raw mut child).cast(),
    };
    // SAFETY: the new process runs `run` with the argument it expects, on a stack that nobody
    // else uses, and never returns from here. Until it shares our memory no more this one only
    // looks at `shares`, the clock, and what `others` has borrowed, which `child` has not.
    // Signals, which could call a handler in either, are blocked.
    let pid = unsafe { clone_onto(&request) };
    let (pid, pidfd) = cloned(pid, pidfd)?;
    let mut deadline_ns = now_ns().saturating_add(patience_ns);
    let mut killed = false;
    while shares.load(Ordering::Acquire) != 0 {
        let now = now_ns();
        if now >= deadline_ns {
            if killed {
                // SAFETY: it ends this process and touches no memory.
                let _ = unsafe { syscall!(Sysno::exit_group, 1_usize) };
            }
            killed = true;
            // However little time it was to have: a busy kernel takes a while to end anybody.
            deadline_ns = now.saturating_add(DEATH_NS);
            let _ = kill(pid, 9);
        }
        let left_ns = others().min(deadline_ns.saturating_sub(now));
        let timeout = [left_ns / 1_000_000_000, left_ns % 1_000_000_000];
        wait_while_one(&shares, timeout.map(|part| usize::try_from(part).unwrap_or(0)));
    }
    Ok(Spawned { pid, pidfd, killed })
}

/// Calls `child` in a new process with a copy of this one's memory, and waits for nothing. As
/// `fork(2)`: what the new process does is its own affair, so it may take its time.
pub(crate) fn spawn_apart<F: FnMut() -> u8>(
    stack: &mut Stack,
    mut child: F,
) -> Result<Spawned, Errno> {
    use linux_raw_sys::general::{CLONE_PIDFD, SIGCHLD};
    let mut pidfd: i32 = -1;
    let request = Clone {
        flags: (CLONE_PIDFD | SIGCHLD) as usize,
        stack: stack.0.as_mut_ptr_range().end.cast(),
        pidfd: &raw mut pidfd,
        // Nobody looks at it.
        shares: core::ptr::null_mut(),
        call: run::<F> as extern "C" fn(*mut F) -> usize as usize,
        argument: (&raw mut child).cast(),
    };
    // SAFETY: the new process runs `run` with the argument it expects, on a stack that nobody
    // else uses, both of them its own copies, and never returns from here. There is one thread,
    // so no other's locks are copied; signals are blocked.
    let pid = unsafe { clone_onto(&request) };
    let (pid, pidfd) = cloned(pid, pidfd)?;
    Ok(Spawned { pid, pidfd, killed: false })
}

/// What a new process calls.
extern "C" fn run<F: FnMut() -> u8>(child: *mut F) -> usize {
    // SAFETY: `spawn` and `spawn_apart` pass their own `child`, which nobody else touches for as
    // long as the new process needs it.
    usize::from(unsafe { (*child)() })
}

/// The answer of `clone_onto`, and the pidfd that it wrote.
fn cloned(pid: isize, pidfd: i32) -> Result<(i32, OwnedFd), Errno> {
    let pid = usize::try_from(pid)
        .map_err(|_| Errno::from_raw_os_error(i32::try_from(-pid).unwrap_or(0)))?;
    // SAFETY: the kernel has just made it for this call, and nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok((i32::try_from(pid).map_err(|_| Errno::RANGE)?, pidfd))
}

/// Waits while it is 1, for so many seconds and nanoseconds at most (`man 2 futex`).
fn wait_while_one(word: &AtomicU32, timeout: [usize; 2]) {
    const FUTEX_WAIT: usize = 0;
    // SAFETY: the kernel reads the word and two longs, which are there.
    let _ = unsafe {
        syscall!(Sysno::futex, word.as_ptr(), FUTEX_WAIT, 1_usize, timeout.as_ptr(), 0, 0)
    };
}

/// What `clone(2)` is to do.
struct Clone {
    flags: usize,
    /// The aligned end of the new process's stack.
    stack: *mut u8,
    pidfd: *mut i32,
    /// See CLONE_CHILD_CLEARTID; null without it.
    shares: *mut u32,
    /// A function of one pointer.
    call: usize,
    argument: *mut u8,
}

/// `clone(2)`: the new process calls `call` with `argument` on `stack`, and exits with what it
/// returns. The pid, or a negative errno.
///
/// # Safety
///
/// `call` is a function of one pointer that `argument` suits; `stack` is the aligned end of
/// memory that is the new process's own; what both run in the same memory does not collide;
/// `pidfd` and `shares` can be written to, the latter as long as the new process shares them.
unsafe fn clone_onto(request: &Clone) -> isize {
    let Clone { flags, stack, pidfd, shares, call, argument } = *request;
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as the caller promises. The new process leaves this block by the exit only.
    unsafe {
        core::arch::asm!(
            "syscall", "test rax, rax", "jnz 2f",
            "xor ebp, ebp", "mov rdi, r13", "call r12",
            "mov edi, eax", "mov eax, 60", "syscall", "ud2",
            "2:",
            inlateout("rax") 56_usize => result, in("rdi") flags, in("rsi") stack, in("rdx") pidfd,
            in("r10") shares, in("r8") 0_usize, in("r12") call, in("r13") argument,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "svc 0", "cbnz x0, 2f",
            "mov x29, xzr", "mov x0, x21", "blr x20",
            "mov x8, 93", "svc 0", "brk 1",
            "2:",
            inlateout("x0") flags => result, in("x1") stack, in("x2") pidfd, in("x3") 0_usize,
            in("x4") shares, in("x8") 220_usize, in("x20") call, in("x21") argument,
        );
    }
    #[cfg(target_arch = "riscv64")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "ecall", "bnez a0, 2f",
            "mv a0, s3", "jalr s2",
            "li a7, 93", "ecall", "ebreak",
            "2:",
            inlateout("a0") flags => result, in("a1") stack, in("a2") pidfd, in("a3") 0_usize,
            in("a4") shares, in("a7") 220_usize, in("s2") call, in("s3") argument,
        );
    }
    #[cfg(target_arch = "arm")]
    // SAFETY: as above. r7 is the number of the call, and may be the frame pointer: it is saved.
    unsafe {
        core::arch::asm!(
            "mov r8, r7", "mov r7, #120", "svc 0", "mov r7, r8", "cmp r0, #0", "bne 2f",
            "mov r0, r5", "blx r6", "mov r7, #1", "svc 0", "udf #0",
            "2:",
            inlateout("r0") flags => result, in("r1") stack, in("r2") pidfd, in("r3") 0_usize,
            in("r4") shares, in("r5") argument, inlateout("r6") call => _, out("r8") _,
        );
    }
    result
}

/// What `wait4(2)` tells of a child that has ended.
pub(crate) struct Ended {
    /// Its pid here.
    pub(crate) pid: i32,
    /// As `wait(2)` packs it.
    pub(crate) status: u32,
    /// Microseconds.
    pub(crate) user_us: u64,
    /// Microseconds.
    pub(crate) system_us: u64,
    /// KiB.
    pub(crate) peak_kib: u64,
}

/// Reaps one child that has ended, or hears of one that stops for PID 1 to trace it; none if all
/// live. `ECHILD` without any.
pub(crate) fn reap_one() -> Result<Option<Ended>, Errno> {
    const WNOHANG: usize = 1;
    // As the kernel has it on any machine: two times of two longs, the peak, and 13 more.
    let mut usage = [0_usize; 18];
    let mut status = 0_u32;
    let (status_at, usage_at) = (&raw mut status, usage.as_mut_ptr());
    // SAFETY: the kernel writes 4 bytes and one `struct rusage`, for which there is room.
    let pid = unsafe { syscall!(Sysno::wait4, usize::MAX, status_at, WNOHANG, usage_at) };
    let pid = i32::try_from(pid.map_err(ours)?).unwrap_or(0);
    let micros = |at: usize| usage[at] as u64 * 1_000_000 + usage[at + 1] as u64;
    let ended =
        Ended { pid, status, user_us: micros(0), system_us: micros(2), peak_kib: usage[4] as u64 };
    Ok((pid > 0).then_some(ended))
}

/// `man 7 signal`
pub(crate) const SIGKILL: u8 = 9;

/// `kill(2)`
pub(crate) fn kill(pid: i32, signal: u8) -> Result<(), Errno> {
    // SAFETY: it touches no memory.
    unsafe { syscall!(Sysno::kill, (pid as isize).cast_unsigned(), usize::from(signal)) }
        .map(drop)
        .map_err(ours)
}

/// What whoever started the master ignores, or the C library of one of them, means nothing to a
/// program in the rocker.
pub(crate) fn heed_all_signals() {
    const SIGNAL_MAX: usize = 64;
    /// The kernel's `struct sigaction` on any machine is no longer. All zeros are SIG_DFL, no
    /// flags and an empty mask.
    static DEFAULT: [u64; 4] = [0; 4];
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: the kernel reads the struct and is asked for no old one; 8 is the size of its
        // signal set. SIGKILL and SIGSTOP are refused, and cannot be ignored.
        let _ = unsafe { syscall!(Sysno::rt_sigaction, signal, DEFAULT.as_ptr(), 0, 8_usize) };
    }
}

/// Forgets the real-time signals that were sent to this process, which blocks all: the kernel keeps
/// each of them, and they count among those that may wait for its user's processes. A signal that
/// is ignored is dropped where it waits (`man 7 signal`).
pub(crate) fn forget_signals() {
    const SIGNALS: core::ops::RangeInclusive<usize> = 32..=64;
    /// `struct sigaction`, as above: SIG_IGN, and SIG_DFL.
    static ACTIONS: [[u64; 4]; 2] = [[1, 0, 0, 0], [0; 4]];
    for (signal, action) in SIGNALS.flat_map(|signal| ACTIONS.iter().map(move |it| (signal, it))) {
        // SAFETY: as above.
        let _ = unsafe { syscall!(Sysno::rt_sigaction, signal, action.as_ptr(), 0, 8_usize) };
    }
}

/// Unblocks every signal. No handler is there: this program sets none.
pub(crate) fn unblock_signals() {
    const SIG_SETMASK: usize = 2;
    let none = 0_u64;
    // SAFETY: the kernel reads 8 bytes through the pointer; no old set is asked for.
    let _ = unsafe { syscall!(Sysno::rt_sigprocmask, SIG_SETMASK, &raw const none, 0, 8_usize) };
}

/// Leaves the keys of whoever started this program: `man 7 session-keyring`.
pub(crate) fn leave_session_keyring() -> Result<(), Errno> {
    const JOIN_SESSION_KEYRING: usize = 1;
    // SAFETY: without a name nothing is read.
    match unsafe { syscall!(Sysno::keyctl, JOIN_SESSION_KEYRING, 0) } {
        // A kernel without keys has none to leave.
        Ok(_) | Err(syscalls::Errno::ENOSYS) => Ok(()),
        Err(error) => Err(ours(error)),
    }
}

/// `seccomp(2)` with a filter, as bytes; empty: none. The kernel wants `no_new_privs` for it.
pub(crate) fn install_filter(bytes: &[u8]) -> Result<(), Errno> {
    if bytes.is_empty() { Ok(()) } else { set_filter(bytes, 0).map(drop) }
}

fn set_filter(bytes: &[u8], flags: usize) -> Result<usize, Errno> {
    const SET_MODE_FILTER: usize = 1;
    /// `struct sock_fprog`
    #[repr(C)]
    struct Program {
        instructions: u16,
        at: *const u8,
    }
    let instructions = u16::try_from(bytes.len() / 8).map_err(|_| Errno::INVAL)?;
    let program = Program { instructions, at: bytes.as_ptr() };
    // SAFETY: the kernel reads the struct, and so many instructions of 8 bytes each, which are
    // there; it keeps a copy of its own.
    unsafe { syscall!(Sysno::seccomp, SET_MODE_FILTER, flags, &raw const program) }.map_err(ours)
}

/// A filter, and the descriptor that tells what it asks.
pub(crate) fn install_listening(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    const NEW_LISTENER: usize = 8;
    let listener = set_filter(bytes, NEW_LISTENER)?;
    let listener = i32::try_from(listener).map_err(|_| Errno::OVERFLOW)?;
    // SAFETY: the kernel has just made it for this call, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(listener) })
}

/// `sendmsg(2)` of one byte and a descriptor, with three numbers behind its arguments, for a
/// filter that lets nothing else through.
pub(crate) fn send_through(
    way: BorrowedFd<'_>,
    fd: BorrowedFd<'_>,
    secret: [u32; 3],
) -> Result<(), Errno> {
    const SOL_SOCKET: i32 = 1;
    const SCM_RIGHTS: i32 = 1;
    /// `struct iovec`
    #[repr(C)]
    struct Piece {
        at: *const u8,
        length: usize,
    }
    /// `struct cmsghdr`, and its content.
    #[repr(C)]
    struct Control {
        length: usize,
        level: i32,
        kind: i32,
        fd: i32,
    }
    /// `struct msghdr`
    #[repr(C)]
    struct Message {
        name: *const u8,
        name_length: u32,
        pieces: *const Piece,
        piece_count: usize,
        control: *const Control,
        control_length: usize,
        flags: i32,
    }
    let length = core::mem::offset_of!(Control, fd) + size_of::<i32>();
    let (byte, fd) = ([0], fd.as_raw_fd());
    let piece = Piece { at: byte.as_ptr(), length: byte.len() };
    let control = Control { length, level: SOL_SOCKET, kind: SCM_RIGHTS, fd };
    let message = Message {
        name: core::ptr::null(),
        name_length: 0,
        pieces: &raw const piece,
        piece_count: 1,
        control: &raw const control,
        control_length: size_of::<Control>(),
        flags: 0,
    };
    let (message, [a, b, c]) = (&raw const message, secret.map(|word| word as usize));
    // SAFETY: the kernel reads the struct and what it leads to, all of which is there until it
    // returns; a number behind the three arguments it does not look at.
    unsafe { syscall!(Sysno::sendmsg, number(way), message, 0, a, b, c) }.map(drop).map_err(ours)
}

/// Has a socket take descriptors (`SO_PASSRIGHTS`, Linux 6.16). A kernel that does not know the
/// option takes them anyway.
pub(crate) fn accept_descriptors(socket: &OwnedFd) {
    /// asm-generic/socket.h
    const SOL_SOCKET: usize = 1;
    const SO_PASSRIGHTS: usize = 83;
    static YES: i32 = 1;
    let (fd, at) = (number(socket.as_fd()), &raw const YES);
    // SAFETY: the kernel reads one int through the pointer, and keeps nothing.
    let _ = unsafe { syscall!(Sysno::setsockopt, fd, SOL_SOCKET, SO_PASSRIGHTS, at, 4) };
}

/// The descriptor that somebody has sent, if it is there.
pub(crate) fn receive_one(way: BorrowedFd<'_>) -> Option<OwnedFd> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut pieces = [rustix::io::IoSliceMut::new(&mut byte)];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    recvmsg(way, &mut pieces, &mut control, flags).ok()?;
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })
}

/// A call that is not made yet.
pub(crate) struct Notification {
    /// Whose, as seen here; 0: nobody's of this rocker.
    pub(crate) pid: i32,
    /// Which.
    pub(crate) number: u32,
    /// `AUDIT_ARCH_*`
    pub(crate) machine: u32,
}

/// What a filter asks; `ENOENT` if nobody waits for an answer any more.
pub(crate) fn hear_notification(listener: BorrowedFd<'_>) -> Result<Notification, Errno> {
    /// `SECCOMP_IOCTL_NOTIF_RECV`, `_ID_VALID` as every kernel knows it.
    const RECEIVE: usize = 0xc050_2100;
    const IS_VALID: usize = 0x8008_2102;
    // `struct seccomp_notif`: id, pid and flags, then `struct seccomp_data`.
    let mut words = [0_u64; 10];
    // SAFETY: the kernel wants the 80 bytes to be zero, and writes as many.
    unsafe { syscall!(Sysno::ioctl, number(listener), RECEIVE, words.as_mut_ptr()) }
        .map_err(ours)?;
    // SAFETY: it reads 8 bytes.
    unsafe { syscall!(Sysno::ioctl, number(listener), IS_VALID, words.as_ptr()) }.map_err(ours)?;
    let halves = |word: u64| {
        let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
        (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]))
    };
    let ((pid, _), (number, machine)) = (halves(words[1]), halves(words[2]));
    Ok(Notification { pid: pid.cast_signed(), number, machine })
}

/// `prlimit(2)` of this process; `u64::MAX` is "none" for the kernel too.
pub(crate) fn set_rlimit(resource: u8, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = [soft, hard];
    // SAFETY: the kernel reads 16 bytes through the pointer; the old limit is not asked for.
    unsafe { syscall!(Sysno::prlimit64, 0, usize::from(resource), limit.as_ptr(), 0) }
        .map(drop)
        .map_err(ours)
}

/// All limits of this process, each with the one that it cannot go beyond.
pub(crate) fn rlimits() -> [[u64; 2]; RLIMITS_MAX] {
    let mut limits = [[0; 2]; RLIMITS_MAX];
    for (resource, limit) in limits.iter_mut().enumerate() {
        // SAFETY: the kernel writes 16 bytes, for which there is room, and reads none.
        let _ = unsafe { syscall!(Sysno::prlimit64, 0, resource, 0, limit.as_mut_ptr()) };
    }
    limits
}

/// Makes the terminal at descriptor 0 the one that controls this session (`man 2 TIOCSCTTY`).
pub(crate) fn take_terminal() -> Result<(), Errno> {
    const TIOCSCTTY: usize = 0x540e;
    // SAFETY: with 0 as its argument it reads nothing.
    unsafe { syscall!(Sysno::ioctl, 0, TIOCSCTTY, 0) }.map(drop).map_err(ours)
}

/// `dup3(2)` to a number, in a process that is about to execute.
pub(crate) fn place(fd: BorrowedFd<'_>, target: u32) -> Result<(), Errno> {
    if number(fd) == target as usize {
        return Ok(());
    }
    // SAFETY: whatever the number stood for is this process's own copy, which nothing uses.
    unsafe { syscall!(Sysno::dup3, number(fd), target as usize, 0) }.map(drop).map_err(ours)
}

/// Closes this descriptor and all above, in a process that is about to execute, or has just been.
pub(crate) fn close_from(first: u32) -> Result<(), Errno> {
    close_range(first, u32::MAX)
}

/// Closes these two and all between, in such a process.
pub(crate) fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: as above.
    unsafe { syscall!(Sysno::close_range, first as usize, last as usize, 0) }
        .map(drop)
        .map_err(ours)
}

/// Marks a number as close-on-exec, and takes it as a descriptor of this process, which is about
/// to execute.
pub(crate) fn close_on_exec(fd: u32) -> Result<OwnedFd, Errno> {
    const F_SETFD: usize = 2;
    const FD_CLOEXEC: usize = 1;
    // SAFETY: it touches no memory.
    unsafe { syscall!(Sysno::fcntl, fd as usize, F_SETFD, FD_CLOEXEC) }.map_err(ours)?;
    // SAFETY: the caller has just placed it there, and nobody else in this process uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd.cast_signed()) })
}
