//! Which system calls an App may make: filters for `seccomp(2)`, made when this is compiled, in
//! the kernel's own small language (`man 2 seccomp`, classic BPF).
//!
//! The default list is that of containers for a process without capabilities, as moby has it: no
//! namespaces, mounts, keys, BPF, performance counters, io_uring or userfaultfd; no typing into a
//! terminal; sockets of known families only. What it lacks fails with `EPERM`. A call that is
//! newer than the list fails with `ENOSYS`, as on an older kernel: programs are ready for that.

use crate::limits::OWN_FILTER_MAX;
use crate::request::{Options, Seccomp};

/// `sizeof(struct sock_filter)`
pub const INSTRUCTION: usize = 8;

/// `SECCOMP_RET_ALLOW`
pub const ALLOW: u32 = 0x7fff_0000;
/// `SECCOMP_RET_LOG`: allowed, and told to the kernel's log.
pub const LOG: u32 = 0x7ffc_0000;
/// `SECCOMP_RET_TRACE`
pub const TRACE: u32 = 0x7ff0_0000;
/// `SECCOMP_RET_USER_NOTIF`: in the filter of a program (exec.0), to kill it and name the call.
pub const NOTIFY: u32 = 0x7fc0_0000;
/// `SECCOMP_RET_ERRNO`; the number is the low half.
pub const ERRNO: u32 = 0x0005_0000;
/// `SECCOMP_RET_TRAP`
pub const TRAP: u32 = 0x0003_0000;
/// `SECCOMP_RET_KILL_THREAD`
pub const KILL_THREAD: u32 = 0;
/// `SECCOMP_RET_KILL_PROCESS`
pub const KILL_PROCESS: u32 = 0x8000_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Where `struct seccomp_data` has the number of the call.
pub const NUMBER_AT: u32 = 0;
/// Where it has the kind of machine.
pub const MACHINE_AT: u32 = 4;

/// Where it has the low half of an argument. (All machines here have that first.)
pub const fn argument_at(index: u32) -> u32 {
    16 + 8 * index
}

/// Whether a filter may want to ask somebody.
pub fn notifies(filter: &[u8]) -> bool {
    const RETURN: u16 = 0x06;
    const ACTION: u32 = 0xffff_0000;
    filter.as_chunks().0.iter().any(|&[c, d, _, _, k, l, m, n]| {
        u16::from_ne_bytes([c, d]) == RETURN && u32::from_ne_bytes([k, l, m, n]) & ACTION == NOTIFY
    })
}

/// A few instructions to stand before a filter, so that one call is allowed whatever follows:
/// `sendmsg(2)`, of which the kernel takes three arguments, with these three behind them.
///
/// Whoever installs a filter with somebody to ask has to send the descriptor for that away,
/// under that very filter. Nobody else knows the numbers, and there are 2^96 to be guessed.
pub fn door(secret: [u32; 3]) -> Assembler<DOOR> {
    let mut code = Assembler::new();
    // Behind the last one: where the filter begins, with nothing loaded.
    let closed = DOOR;
    let allowed = code.answer(ALLOW);
    let fits = (3..).zip(secret).fold(allowed, |then, (index, number)| {
        let same = code.test(Test::Equal, number, then, closed);
        code.load(argument_at(index), same)
    });
    let call = code.test(Test::Equal, THIS.sendmsg, fits, closed);
    code.load(NUMBER_AT, call);
    code
}

/// So many instructions it has.
pub const DOOR: usize = 9;

/// The filter that such a rocker's App gets; empty: none.
pub fn filter<'a>(options: &Options<'a>) -> &'a [u8] {
    static DEFAULT: [[u8; INSTRUCTION]; length(Kind::Default)] = made(Kind::Default);
    static NESTING: [[u8; INSTRUCTION]; length(Kind::Nesting)] = made(Kind::Nesting);
    static LOGGING: [[u8; INSTRUCTION]; length(Kind::Logging)] = made(Kind::Logging);
    match options.seccomp {
        Seccomp::Default if options.user_namespaces => NESTING.as_flattened(),
        Seccomp::Default => DEFAULT.as_flattened(),
        Seccomp::Log => LOGGING.as_flattened(),
        Seccomp::Unconfined => &[],
        Seccomp::Filter(bytes) => bytes,
    }
}

// --- The language. ---

/// A comparison of the loaded word with a number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Test {
    /// It is the same.
    Equal,
    /// It is greater.
    Greater,
    /// It is not less.
    NotLess,
    /// They have a bit in common.
    Shares,
}

/// A filter that is written from its end to its beginning, because a jump only leads forward: so
/// where it leads is always there already. A place is an index from the front.
#[derive(Clone, Debug)]
pub struct Assembler<const N: usize> {
    instructions: [[u8; INSTRUCTION]; N],
    first: usize,
    is_full: bool,
}

impl<const N: usize> Default for Assembler<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Assembler<N> {
    /// Without an instruction.
    pub const fn new() -> Self {
        Self { instructions: [[0; INSTRUCTION]; N], first: N, is_full: false }
    }

    /// The filter; none if there was no room for all of it.
    pub fn bytes(&self) -> Option<&[u8]> {
        let written = self.instructions.get(self.first..)?.as_flattened();
        if self.is_full { None } else { Some(written) }
    }

    /// In front of all others.
    const fn put(&mut self, code: u16, yes: u8, no: u8, operand: u32) -> usize {
        if self.first == 0 {
            self.is_full = true;
            return 0;
        }
        self.first -= 1;
        let [c, d] = code.to_ne_bytes();
        let [k, l, m, n] = operand.to_ne_bytes();
        self.instructions[self.first] = [c, d, yes, no, k, l, m, n];
        self.first
    }

    /// How far a jump from the next instruction is, in at most `farthest` instructions.
    const fn distance(&self, place: usize) -> usize {
        place.saturating_sub(self.first)
    }

    /// A place that a comparison can lead to, which has eight bits for that.
    const fn near(&mut self, place: usize) -> usize {
        // Two comparisons' worth of room: the other way may need such a jump as well.
        if self.distance(place) < 250 { place } else { self.jump(place) }
    }

    const fn jump(&mut self, place: usize) -> usize {
        const JUMP: u16 = 0x05;
        #[expect(clippy::cast_possible_truncation, reason = "at most N, which is 4096")]
        let distance = self.distance(place) as u32;
        self.put(JUMP, 0, 0, distance)
    }

    /// What follows an instruction that goes on with the next one.
    const fn fall_through(&mut self, then: usize) {
        if then != self.first {
            self.jump(then);
        }
    }

    /// The end: what becomes of the call.
    pub const fn answer(&mut self, action: u32) -> usize {
        const RETURN: u16 = 0x06;
        self.put(RETURN, 0, 0, action)
    }

    /// Loads a word of `struct seccomp_data`.
    pub const fn load(&mut self, offset: u32, then: usize) -> usize {
        const LOAD_WORD: u16 = 0x20;
        self.fall_through(then);
        self.put(LOAD_WORD, 0, 0, offset)
    }

    /// Keeps these bits of the loaded word only.
    pub const fn mask(&mut self, mask: u32, then: usize) -> usize {
        const AND: u16 = 0x54;
        self.fall_through(then);
        self.put(AND, 0, 0, mask)
    }

    /// Compares the loaded word.
    pub const fn test(&mut self, test: Test, operand: u32, yes: usize, no: usize) -> usize {
        let code = match test {
            Test::Equal => 0x15,
            Test::Greater => 0x25,
            Test::NotLess => 0x35,
            Test::Shares => 0x45,
        };
        let (yes, no) = (self.near(yes), self.near(no));
        let [yes, ..] = self.distance(yes).to_le_bytes();
        let [no, ..] = self.distance(no).to_le_bytes();
        self.put(code, yes, no, operand)
    }

    /// Leads a number to the last of these that begins at or below it, by halves. The first
    /// begins at 0.
    pub const fn search(&mut self, ranges: &[(u32, usize)]) -> usize {
        let mut middle = pierced(ranges);
        if middle == ranges.len() {
            return self.pick(ranges);
        }
        loop {
            let next = middle + pierced(ranges.split_at(middle).1);
            if next > ranges.len() / 2 {
                break;
            }
            middle = next;
        }
        let (low, high) = ranges.split_at(middle);
        let (yes, no) = (self.search(high), self.search(low));
        if yes == no { yes } else { self.test(Test::NotLess, high[0].0, yes, no) }
    }

    /// The same for a range with single numbers in it that lead elsewhere, one after the other.
    const fn pick(&mut self, ranges: &[(u32, usize)]) -> usize {
        match ranges {
            [_, (single, place), others @ ..] => {
                let others = self.pick(others);
                self.test(Test::Equal, *single, *place, others)
            }
            [(_, place)] => *place,
            [] => unreachable!(),
        }
    }
}

/// How many of these ranges, from the first on, are one but for single numbers in it. To compare
/// with such a number takes one instruction, to find where it begins and where it ends two; and
/// the kernel compiles each of them anew with each start of a program.
const fn pierced(mut ranges: &[(u32, usize)]) -> usize {
    let mut count = 1;
    while let [(_, before), (single, _), (next, after), ..] = ranges
        && *before == *after
        && *next == *single + 1
    {
        ranges = ranges.split_at(2).1;
        count += 2;
    }
    count
}

// --- The default lists. ---

#[derive(Clone, Copy)]
enum Kind {
    Default,
    /// For an App that may make user namespaces, and what belongs to them.
    Nesting,
    /// Allows all, and logs what the default lacks.
    Logging,
}

/// A kind of machine: its number, and those of its calls.
struct Machine {
    /// `AUDIT_ARCH_*`
    number: u32,
    allowed: &'static [u32],
    /// The calls of this machine alone.
    own: &'static [u32],
    /// Allowed to those who may make user namespaces.
    nesting: &'static [u32],
    clone: u32,
    clone3: u32,
    ioctl: u32,
    personality: u32,
    socket: u32,
    sendmsg: u32,
    /// Numbers far from all others: from where on, and whether they are allowed.
    far: &'static [(u32, bool)],
}

/// The newest call that the lists have an opinion on: `removexattrat` of Linux 6.13.
const NEWEST: u32 = 466;

macro_rules! numbers {
    ($calls:ident, $($name:ident)*) => { &[$($calls::$name as u32,)*] };
}

macro_rules! machine {
    ($name:ident, $number:literal, $far:expr, $($own:ident)*) => {{
        use syscalls::$name::Sysno as S;
        Machine {
            number: $number,
            #[rustfmt::skip]
            allowed: numbers!(S,
                accept accept4 adjtimex bind brk cachestat capget capset chdir
                clock_adjtime clock_getres clock_gettime clock_nanosleep close
                close_range connect copy_file_range dup dup3 epoll_create1
                epoll_ctl epoll_pwait epoll_pwait2 eventfd2 execve execveat exit
                exit_group faccessat faccessat2 fallocate fanotify_mark fchdir
                fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync
                fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstatfs
                fsync ftruncate futex futex_requeue futex_wait futex_waitv
                futex_wake get_robust_list getcpu getcwd getdents64 getegid
                geteuid getgid getgroups getitimer getpeername getpgid getpid
                getppid getpriority getrandom getresgid getresuid getrusage getsid
                getsockname getsockopt gettid gettimeofday getuid getxattr
                getxattrat inotify_add_watch inotify_init1 inotify_rm_watch
                io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit
                ioprio_get ioprio_set kill landlock_add_rule
                landlock_create_ruleset landlock_restrict_self lgetxattr linkat
                listen listmount listxattr listxattrat llistxattr lremovexattr
                lseek lsetxattr madvise map_shadow_stack membarrier memfd_create
                mincore mkdirat mknodat mlock mlock2 mlockall mprotect
                mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend
                mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock
                munlockall munmap name_to_handle_at nanosleep openat openat2
                pidfd_open pidfd_send_signal pipe2 pkey_alloc pkey_free
                pkey_mprotect ppoll prctl pread64 preadv preadv2 prlimit64
                process_mrelease process_vm_readv process_vm_writev pselect6
                ptrace pwrite64 pwritev pwritev2 read readahead readlinkat readv
                recvfrom recvmmsg recvmsg remap_file_pages removexattr
                removexattrat renameat2 restart_syscall rseq rt_sigaction
                rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
                rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
                sched_get_priority_max sched_get_priority_min sched_getaffinity
                sched_getattr sched_getparam sched_getscheduler
                sched_rr_get_interval sched_setaffinity sched_setattr
                sched_setparam sched_setscheduler sched_yield seccomp semctl
                semget semop semtimedop sendfile sendmmsg sendmsg sendto
                set_robust_list set_tid_address setfsgid setfsuid setgid setgroups
                setitimer setpgid setpriority setregid setresgid setresuid
                setreuid setrlimit setsid setsockopt setuid setxattr setxattrat
                shmat shmctl shmdt shmget shutdown sigaltstack signalfd4
                socketpair splice statfs statmount statx symlinkat sync syncfs
                sysinfo tee tgkill timer_create timer_delete timer_getoverrun
                timer_gettime timer_settime timerfd_create timerfd_gettime
                timerfd_settime times tkill truncate umask uname unlinkat
                utimensat vmsplice wait4 waitid write writev
            ),
            own: numbers!(S, $($own)*),
            #[rustfmt::skip]
            nesting: numbers!(S,
                chroot clone3 fsconfig fsmount fsopen fspick mount mount_setattr move_mount
                open_tree pivot_root setdomainname sethostname setns umount2 unshare
            ),
            clone: S::clone as u32,
            clone3: S::clone3 as u32,
            ioctl: S::ioctl as u32,
            personality: S::personality as u32,
            socket: S::socket as u32,
            sendmsg: S::sendmsg as u32,
            far: $far,
        }
    }};
}

/// `__X32_SYSCALL_BIT`: another set of calls of the same machine, which no list here is about.
#[cfg(any(test, target_arch = "x86_64"))]
#[rustfmt::skip]
const X86_64: Machine = machine!(x86_64, 0xc000_003e, &[(0x4000_0000, false)],
    access alarm arch_prctl chmod chown creat dup2 epoll_create epoll_ctl_old epoll_wait
    epoll_wait_old eventfd fadvise64 fork futimesat get_thread_area getdents getpgrp getrlimit
    inotify_init lchown link lstat memfd_secret mkdir mknod mmap modify_ldt newfstatat open
    pause pipe poll readlink rename renameat rmdir select set_thread_area signalfd stat
    symlink sync_file_range time unlink uprobe uretprobe utime utimes vfork
);

#[cfg(any(test, target_arch = "aarch64"))]
#[rustfmt::skip]
const AARCH64: Machine = machine!(aarch64, 0xc000_00b7, &[],
    fadvise64 fstatat getrlimit memfd_secret mmap renameat sync_file_range
);

#[cfg(any(test, target_arch = "riscv64"))]
#[rustfmt::skip]
const RISCV64: Machine = machine!(riscv64, 0xc000_00f3, &[],
    fadvise64 getrlimit memfd_secret mmap newfstatat riscv_flush_icache riscv_hwprobe
    sync_file_range
);

/// `__ARM_NR_BASE`: breakpoint, cacheflush, usr26, usr32, set_tls, get_tls.
#[cfg(any(test, target_arch = "arm"))]
#[rustfmt::skip]
const ARM: Machine = machine!(arm, 0x4000_0028, &[(0xf_0001, true), (0xf_0007, false)],
    _llseek _newselect access arm_fadvise64_64 arm_sync_file_range chmod chown chown32
    clock_adjtime64 clock_getres_time64 clock_gettime64 clock_nanosleep_time64 creat dup2
    epoll_create epoll_wait eventfd fchown32 fcntl64 fork fstat64 fstatat64 fstatfs64
    ftruncate64 futex_time64 futimesat getdents getegid32 geteuid32 getgid32 getgroups32
    getpgrp getresgid32 getresuid32 getuid32 inotify_init io_pgetevents_time64 lchown lchown32
    link lstat lstat64 mkdir mknod mmap2 mq_timedreceive_time64 mq_timedsend_time64 nice open
    pause pipe poll ppoll_time64 pselect6_time64 readlink recv recvmmsg_time64 rename renameat
    rmdir rt_sigtimedwait_time64 sched_rr_get_interval_time64 semtimedop_time64 send
    sendfile64 setfsgid32 setfsuid32 setgid32 setgroups32 setregid32 setresgid32 setresuid32
    setreuid32 setuid32 sigaction signalfd sigpending sigprocmask sigreturn sigsuspend stat
    stat64 statfs64 symlink timer_gettime64 timer_settime64 timerfd_gettime64
    timerfd_settime64 truncate64 ugetrlimit unlink utimensat_time64 utimes vfork
);

#[cfg(target_arch = "x86_64")]
const THIS: Machine = X86_64;
#[cfg(target_arch = "aarch64")]
const THIS: Machine = AARCH64;
#[cfg(target_arch = "riscv64")]
const THIS: Machine = RISCV64;
#[cfg(target_arch = "arm")]
const THIS: Machine = ARM;

/// `AUDIT_ARCH_*` of this machine.
pub const THIS_MACHINE: u32 = THIS.number;

const ROOM: usize = 256;

const fn length(kind: Kind) -> usize {
    let code = compile(&THIS, kind);
    assert!(!code.is_full, "a default filter has room");
    let length = ROOM - code.first;
    assert!(length * INSTRUCTION <= OWN_FILTER_MAX, "so has the C library for it");
    length
}

const fn made<const N: usize>(kind: Kind) -> [[u8; INSTRUCTION]; N] {
    let code = compile(&THIS, kind);
    let mut made = [[0; INSTRUCTION]; N];
    made.copy_from_slice(code.instructions.split_at(code.first).1);
    made
}

const fn compile(machine: &Machine, kind: Kind) -> Assembler<ROOM> {
    let mut code = Assembler::new();
    let (foreign, denied, missing) = match kind {
        Kind::Logging => (LOG, LOG, LOG),
        Kind::Default | Kind::Nesting => (KILL_PROCESS, ERRNO | EPERM, ERRNO | ENOSYS),
    };
    let foreign = code.answer(foreign);
    let missing = code.answer(missing);
    let denied = code.answer(denied);
    let allowed = code.answer(ALLOW);

    let mut places = [denied; NEWEST as usize + 1];
    allow(&mut places, machine.allowed, allowed);
    allow(&mut places, machine.own, allowed);
    places[machine.personality as usize] = personality(&mut code, allowed, denied);
    places[machine.socket as usize] = socket(&mut code, allowed, denied);
    places[machine.ioctl as usize] = ioctl(&mut code, allowed, denied);
    if matches!(kind, Kind::Nesting) {
        allow(&mut places, machine.nesting, allowed);
        allow(&mut places, &[machine.clone], allowed);
    } else {
        places[machine.clone as usize] = clone(&mut code, allowed, denied);
        // Its flags are in memory, where no filter can look; without it `clone` is used.
        places[machine.clone3 as usize] = missing;
    }

    let search = search(&mut code, machine, &places, allowed, denied, missing);
    let number = code.load(NUMBER_AT, search);
    let machine = code.test(Test::Equal, machine.number, number, foreign);
    code.load(MACHINE_AT, machine);
    code
}

const fn allow(places: &mut [usize], calls: &[u32], allowed: usize) {
    let mut index = 0;
    while index < calls.len() {
        places[calls[index] as usize] = allowed;
        index += 1;
    }
}

/// Finds a number among the places, and beyond them.
const fn search(
    code: &mut Assembler<ROOM>,
    machine: &Machine,
    places: &[usize],
    allowed: usize,
    denied: usize,
    missing: usize,
) -> usize {
    let mut ranges = [(0, 0); ROOM];
    ranges[0].1 = places[0];
    let (mut count, mut number) = (1, 1);
    while number <= NEWEST {
        let place = places[number as usize];
        if place != ranges[count - 1].1 {
            ranges[count] = (number, place);
            count += 1;
        }
        number += 1;
    }
    ranges[count] = (NEWEST + 1, missing);
    count += 1;
    let mut far = 0;
    while far < machine.far.len() {
        let (begin, is_allowed) = machine.far[far];
        ranges[count] = (begin, if is_allowed { allowed } else { denied });
        count += 1;
        far += 1;
    }
    code.search(ranges.split_at(count).0)
}

/// `personality(2)`: what it is, Linux, 32-bit Linux, or either with an old version's name. Not
/// `READ_IMPLIES_EXEC` and not `ADDR_NO_RANDOMIZE`.
const fn personality(code: &mut Assembler<ROOM>, allowed: usize, denied: usize) -> usize {
    const PER_LINUX32: u32 = 8;
    const UNAME26: u32 = 0x2_0000;
    let known = code.test(Test::Equal, u32::MAX, allowed, denied);
    let known = code.test(Test::Equal, UNAME26 | PER_LINUX32, allowed, known);
    let known = code.test(Test::Equal, UNAME26, allowed, known);
    let known = code.test(Test::Equal, PER_LINUX32, allowed, known);
    let known = code.test(Test::Equal, 0, allowed, known);
    code.load(argument_at(0), known)
}

/// `socket(2)`: the kernel's cryptography is no concern of an App's, and a virtual machine's host
/// cares for no network namespace.
const fn socket(code: &mut Assembler<ROOM>, allowed: usize, denied: usize) -> usize {
    const AF_ALG: u32 = 38;
    const AF_VSOCK: u32 = 40;
    const AF_MCTP: u32 = 45;
    let known = code.test(Test::Greater, AF_MCTP, denied, allowed);
    let known = code.test(Test::Equal, AF_VSOCK, denied, known);
    let known = code.test(Test::Equal, AF_ALG, denied, known);
    code.load(argument_at(0), known)
}

/// `ioctl(2)`: nothing is typed into a terminal. The kernel reads 32 bits of the request, and so
/// does this: CVE-2019-10063.
const fn ioctl(code: &mut Assembler<ROOM>, allowed: usize, denied: usize) -> usize {
    const TIOCSTI: u32 = 0x5412;
    const TIOCLINUX: u32 = 0x541c;
    let harmless = code.test(Test::Equal, TIOCLINUX, denied, allowed);
    let harmless = code.test(Test::Equal, TIOCSTI, denied, harmless);
    code.load(argument_at(1), harmless)
}

/// `clone(2)`: no namespace, and no child for whoever has launched the App (`CLONE_PARENT`): who
/// does not expect one does not wait for it, and a rocker is not gone while it holds a zombie.
/// (On no machine here are its flags in another place.)
const fn clone(code: &mut Assembler<ROOM>, allowed: usize, denied: usize) -> usize {
    /// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID`, `NEWNET`. That of
    /// `NEWTIME` is part of the exit signal here.
    const CLONE_NEW: u32 = 0x7e02_0000;
    const CLONE_PARENT: u32 = 0x8000;
    let shares = code.test(Test::Shares, CLONE_NEW | CLONE_PARENT, denied, allowed);
    code.load(argument_at(0), shares)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    const MACHINES: [(&str, Machine); 4] =
        [("x86_64", X86_64), ("aarch64", AARCH64), ("riscv64", RISCV64), ("arm", ARM)];

    /// What the kernel would do: `man 2 seccomp`.
    fn run(filter: &[u8], machine: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_ne_bytes());
        data.extend(machine.to_ne_bytes());
        data.extend(0_u64.to_ne_bytes());
        arguments.iter().for_each(|argument| data.extend(argument.to_ne_bytes()));
        let (mut at, mut word) = (0, 0_u32);
        loop {
            let [c, d, yes, no, k, l, m, n] = filter[at * 8..][..8].try_into().unwrap();
            let operand = u32::from_ne_bytes([k, l, m, n]);
            let passes = match u16::from_ne_bytes([c, d]) {
                0x06 => return operand,
                0x05 => {
                    at += 1 + operand as usize;
                    continue;
                }
                0x20 => {
                    word = u32::from_ne_bytes(data[operand as usize..][..4].try_into().unwrap());
                    at += 1;
                    continue;
                }
                0x54 => {
                    word &= operand;
                    at += 1;
                    continue;
                }
                0x15 => word == operand,
                0x25 => word > operand,
                0x35 => word >= operand,
                0x45 => word & operand != 0,
                other => panic!("{other:#x} is no instruction of ours"),
            };
            at += 1 + usize::from(if passes { yes } else { no });
        }
    }

    const DENIED: u32 = ERRNO | EPERM;
    const MISSING: u32 = ERRNO | ENOSYS;

    /// What becomes of a call without arguments.
    fn plain(machine: &Machine, kind: Kind, number: u32) -> u32 {
        let code = compile(machine, kind);
        run(code.bytes().unwrap(), machine.number, number, [0; 6])
    }

    #[test]
    fn what_is_listed_is_allowed_and_nothing_else() {
        for (name, machine) in MACHINES {
            let checked = [machine.clone, machine.ioctl, machine.personality, machine.socket];
            for number in 0..600 {
                let wanted = match number {
                    _ if machine.allowed.contains(&number) || machine.own.contains(&number) => {
                        ALLOW
                    }
                    _ if checked.contains(&number) => ALLOW,
                    _ if number == machine.clone3 || number > NEWEST => MISSING,
                    _ => DENIED,
                };
                let found = plain(&machine, Kind::Default, number);
                assert_eq!(found, wanted, "{name} {number}");
                let found = plain(&machine, Kind::Logging, number);
                assert_eq!(found, if wanted == ALLOW { ALLOW } else { LOG }, "{name} {number}");
            }
        }
    }

    #[test]
    fn other_machines_and_x32_are_kept_out() {
        for (name, machine) in MACHINES {
            let code = compile(&machine, Kind::Default);
            for (other, foreign) in MACHINES.iter().filter(|(other, _)| *other != name) {
                let found = run(code.bytes().unwrap(), foreign.number, 0, [0; 6]);
                assert_eq!(found, KILL_PROCESS, "{name} {other}");
            }
        }
        for number in [0x4000_0000, 0x4000_0001, 0x4000_0200, u32::MAX] {
            assert_eq!(plain(&X86_64, Kind::Default, number), DENIED);
        }
        for (number, wanted) in
            [(0xf_0000, MISSING), (0xf_0002, ALLOW), (0xf_0006, ALLOW), (0xf_0007, DENIED)]
        {
            assert_eq!(plain(&ARM, Kind::Default, number), wanted);
        }
    }

    #[test]
    fn arguments_are_compared_as_the_kernel_reads_them() {
        for (name, machine) in MACHINES {
            let code = compile(&machine, Kind::Default);
            let check = |number, index: usize, value: u64, wanted| {
                for junk in [0, 1 << 32, 0xdead_beef << 32] {
                    let mut arguments = [0; 6];
                    arguments[index] = value | junk;
                    let found = run(code.bytes().unwrap(), machine.number, number, arguments);
                    assert_eq!(found, wanted, "{name} {number} {value:#x} {junk:#x}");
                }
            };
            check(machine.ioctl, 1, 0x5412, DENIED);
            check(machine.ioctl, 1, 0x541c, DENIED);
            check(machine.ioctl, 1, 0x5413, ALLOW);
            for bit in [15, 17, 25, 26, 27, 28, 29, 30] {
                check(machine.clone, 0, 1 << bit | 17, DENIED);
            }
            // As fork(3) and pthread_create(3) have it.
            check(machine.clone, 0, 0x0120_0011, ALLOW);
            check(machine.clone, 0, 0x003d_0f00, ALLOW);
            for (family, wanted) in
                [(1, ALLOW), (10, ALLOW), (29, ALLOW), (38, DENIED), (40, DENIED), (46, DENIED)]
            {
                check(machine.socket, 0, family, wanted);
            }
            for (value, wanted) in [
                (0, ALLOW),
                (8, ALLOW),
                (0x2_0000, ALLOW),
                (0x2_0008, ALLOW),
                (0xffff_ffff, ALLOW),
                (0x40_0000, DENIED),
                (0x4_0000, DENIED),
            ] {
                check(machine.personality, 0, value, wanted);
            }
        }
    }

    #[test]
    fn who_may_make_user_namespaces_may_use_them() {
        for (name, machine) in MACHINES {
            let code = compile(&machine, Kind::Nesting);
            let new_user = [0x1000_0011, 0, 0, 0, 0, 0];
            let found = run(code.bytes().unwrap(), machine.number, machine.clone, new_user);
            assert_eq!(found, ALLOW, "{name}");
            for &number in machine.nesting {
                assert_eq!(plain(&machine, Kind::Nesting, number), ALLOW, "{name} {number}");
            }
        }
    }

    #[test]
    fn a_door_is_for_who_knows_it() {
        let secret = [0x5eed, 1, u32::MAX];
        let mut code = Assembler::<1>::new();
        code.answer(NOTIFY);
        let door = door(secret);
        let mut filter = Vec::from(door.bytes().unwrap());
        assert_eq!(filter.len(), DOOR * INSTRUCTION);
        filter.extend_from_slice(code.bytes().unwrap());
        assert!(notifies(&filter) && !notifies(door.bytes().unwrap()));
        let [a, b, c] = secret.map(u64::from);
        let ask = |number, arguments| run(&filter, THIS.number, number, arguments);
        assert_eq!(ask(THIS.sendmsg, [1, 2, 3, a, b, c]), ALLOW);
        assert_eq!(ask(THIS.sendmsg + 1, [1, 2, 3, a, b, c]), NOTIFY);
        for wrong in [[a + 1, b, c], [a, 0, c], [a, b, c - 1], [0; 3]] {
            assert_eq!(ask(THIS.sendmsg, [1, 2, 3, wrong[0], wrong[1], wrong[2]]), NOTIFY);
        }
    }

    #[test]
    fn the_default_filter_is_small() {
        let default = filter(&Options::default());
        assert!(crate::request::is_filter(default));
        assert!(default.len() / INSTRUCTION <= 80, "{} instructions", default.len() / INSTRUCTION);
        let options = Options { user_namespaces: true, ..Options::default() };
        assert_ne!(filter(&options), default);
        assert_eq!(filter(&Options { seccomp: Seccomp::Unconfined, ..options }), [0_u8; 0]);
        assert_eq!(filter(&Options { seccomp: Seccomp::Filter(b"x"), ..options }), b"x");
    }

    #[test]
    fn far_places_are_reached_by_jumps() {
        let mut code = Assembler::<4096>::new();
        let ranges: Vec<_> =
            (0..900).map(|number| (number * 2, code.answer(ERRNO | number))).collect();
        let search = code.search(&ranges);
        code.load(NUMBER_AT, search);
        for number in 0..2000 {
            let found = run(code.bytes().unwrap(), 0, number, [0; 6]);
            assert_eq!(found, ERRNO | (number / 2).min(899));
        }
    }

    #[test]
    fn what_does_not_fit_is_none() {
        let mut code = Assembler::<2>::new();
        code.answer(ALLOW);
        code.answer(ALLOW);
        assert!(code.bytes().is_some());
        code.answer(ALLOW);
        assert!(code.bytes().is_none());
    }
}
