//! The App of the tests: runs its arguments as commands (see `facts.rs`), and some that have no
//! safe form. Its output is what the tests judge.
#![allow(unsafe_code, reason = "an App may do what no safe function does")]

use core::ffi::c_void;
use std::process::ExitCode;

use tests::facts::{run_one, say, word};

fn main() -> ExitCode {
    for command in std::env::args().skip(1) {
        if !run_one(&command) && !run_unsafe(&command) {
            eprintln!("probe: unknown command {command:?}");
            return ExitCode::from(99);
        }
    }
    ExitCode::SUCCESS
}

fn run_unsafe(command: &str) -> bool {
    let words: Vec<&str> = command.split_whitespace().collect();
    let number = |word: &str| word.parse::<i32>().expect("a number");
    let answer = match words[..] {
        ["steal-memory", pid] => steal_memory(number(pid)),
        ["push-input"] => to_terminal(libc::TIOCSTI, b'!'),
        ["ask-console"] => to_terminal(TIOCLINUX, 6),
        ["find-key", name] => find_key(name),
        ["lease", path] => take_lease(path),
        ["call", number, ref arguments @ ..] => call(number, arguments),
        ["call-32"] => call_32(),
        ["call-by", threads, number] => {
            let (threads, number) = (threads.parse().expect("a number"), number.to_owned());
            let call = move || call(&number, &[]);
            let all: Vec<_> = (0..threads).map(|_| std::thread::spawn(call.clone())).collect();
            all.into_iter().map(|it| it.join().expect("no panic")).collect::<String>()
        }
        ["forks", most] => forks(number(most)),
        ["close-all"] => {
            // SAFETY: this program owns no descriptor as an object, and says nothing from here.
            unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
            return true;
        }
        ["bear-sibling", ms] => bear(libc::CLONE_PARENT, || {
            std::thread::sleep(core::time::Duration::from_millis(ms.parse().expect("a number")));
        }),
        ["bear-siblings", count] => {
            // Those that nobody has waited for count, and so they do not use up the host's numbers.
            let most = nix::sys::resource::Resource::RLIMIT_NPROC;
            nix::sys::resource::setrlimit(most, 2000, 2000).expect("less than before");
            let without_end = || loop {
                bear(libc::CLONE_PARENT, || ());
            };
            let born: Vec<_> =
                (0..number(count)).map(|_| bear(libc::CLONE_PARENT, without_end)).collect();
            born.into_iter().find(|word| word != "ok").unwrap_or_else(|| "ok".to_owned())
        }
        ["rewind-output", bytes] => {
            rewind_output(number(bytes).cast_unsigned());
            return true;
        }
        ["traced-child"] => traced_child(),
        ["traced-by-child"] => traced_by_child(nix::unistd::getpid()),
        ["thread-traced-by-child"] => thread_traced_by_child(),
        ["traced-thread"] => traced_thread(),
        ["die", signal] => {
            // SAFETY: raise has no memory to do with; the signal's action is the default.
            unsafe { libc::raise(number(signal)) };
            return true;
        }
        ["end-leader", milliseconds] => {
            let left = u64::try_from(number(milliseconds)).expect("not negative");
            std::thread::spawn(move || {
                std::thread::sleep(core::time::Duration::from_millis(left));
                std::process::exit(0);
            });
            // SAFETY: it ends this thread only. Nothing on its stack is used by the other one.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
            unreachable!("the thread has ended")
        }
        _ => return false,
    };
    say(command, answer);
    true
}

/// Reads eight bytes of another process. Whether it may is decided before where it would read.
fn steal_memory(pid: i32) -> String {
    let mut loot = [0_u8; 8];
    let local = libc::iovec { iov_base: loot.as_mut_ptr().cast(), iov_len: loot.len() };
    let remote =
        libc::iovec { iov_base: core::ptr::without_provenance_mut::<c_void>(4096), iov_len: 8 };
    // SAFETY: the kernel writes at most the eight bytes of `loot`, which outlives the call.
    let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    word(if read < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) })
}

/// Makes children that wait, so many at most, and ends them: how many, and why not more.
fn forks(most: i32) -> String {
    let mut children = vec![];
    let why = loop {
        if i32::try_from(children.len()) == Ok(most) {
            break "enough".to_owned();
        }
        // SAFETY: this program has one thread.
        match unsafe { nix::unistd::fork() } {
            Ok(nix::unistd::ForkResult::Parent { child }) => children.push(child),
            Ok(nix::unistd::ForkResult::Child) => loop {
                nix::unistd::pause();
            },
            Err(error) => break format!("{error:?}"),
        }
    };
    let count = children.len();
    for child in children {
        let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(child, None);
    }
    format!("{count}, then {why}")
}

/// Another process, born with these flags.
fn bear(flags: libc::c_int, live: impl FnOnce()) -> String {
    // SAFETY: without a stack of its own the child goes on here with a copy of this process's
    // memory, as after fork. There is one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
    if pid == 0 {
        live();
        std::process::exit(0);
    }
    word(if pid < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) })
}

/// Says so many bytes, and leaves children who say one of them anew as long as they live: whoever
/// has the same open file has its offset moved.
fn rewind_output(bytes: u32) {
    let said = vec![b'a'; usize::try_from(bytes).expect("of memory")];
    std::io::Write::write_all(&mut std::io::stdout(), &said).expect("it is not too much");
    let rewind = || {
        let _ = nix::sys::signal::SigSet::all().thread_block();
        let _ = rustix::process::setsid();
        loop {
            let _ = rustix::fs::seek(std::io::stdout(), rustix::fs::SeekFrom::Start(0));
            let _ = rustix::io::write(std::io::stdout(), b"b");
        }
    };
    for _ in 0..4 {
        assert_eq!(bear(0, rewind), "ok");
    }
}

/// A child that is traced by this process's parent, and so stops as it begins. That its parent
/// would be told of it stops this one not.
fn traced_child() -> String {
    let _ = nix::sys::signal::SigSet::all().thread_block();
    match nix::sys::ptrace::traceme() {
        Ok(()) => bear(libc::CLONE_PTRACE, || ()),
        Err(error) => format!("{error:?}"),
    }
}

/// A thread that is traced by this process's parent, and ends: who traces it is to wait for it.
fn traced_thread() -> String {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = tell.send(word(nix::sys::ptrace::traceme()));
        // SAFETY: it ends this thread only, of whose stack nobody else has anything.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    });
    told.recv().expect("it says so")
}

/// The same for a thread that is not the first.
fn thread_traced_by_child() -> String {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = tell.send(nix::unistd::gettid());
        std::thread::park();
    });
    traced_by_child(told.recv().expect("it says so"))
}

/// A child that traces a thread of this process, in a session of its own, and never waits for it.
fn traced_by_child(me: nix::unistd::Pid) -> String {
    let _ = rustix::process::set_ptracer(rustix::process::PTracer::Any);
    let born = bear(0, || {
        let _ = rustix::process::setsid();
        let _ = nix::sys::ptrace::seize(me, nix::sys::ptrace::Options::empty());
        loop {
            nix::unistd::pause();
        }
    });
    let tracer = || tests::process::status(me.as_raw().cast_unsigned())["TracerPid"].clone();
    if tests::within(tests::SOON, || tracer() != "0") { born } else { "not traced".to_owned() }
}

/// Looks for a key in the session's keyring, as whoever possesses that may.
fn find_key(name: &str) -> String {
    const KEYCTL_SEARCH: i32 = 10;
    const SESSION_KEYRING: i32 = -3;
    let name = std::ffi::CString::new(name).expect("no NUL");
    let (kind, name) = (c"user".as_ptr(), name.as_ptr());
    // SAFETY: the kernel reads two strings, which outlive the call; the last 0 is "nowhere".
    let key =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SEARCH, SESSION_KEYRING, kind, name, 0) };
    word(if key < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) })
}

/// Takes a lease on a file, for as long as this lives, and will not let go of it when asked.
fn take_lease(path: &str) -> String {
    let file = std::fs::File::options().read(true).write(true).open(path).expect("a file");
    let file = std::os::fd::IntoRawFd::into_raw_fd(file);
    // SAFETY: SIGIO tells that somebody wants the file, and is ignored; neither touches memory.
    #[allow(clippy::multiple_unsafe_ops_per_block, reason = "one lease")]
    let taken = unsafe {
        libc::signal(libc::SIGIO, libc::SIG_IGN);
        libc::fcntl(file, libc::F_SETLEASE, libc::F_WRLCK)
    };
    word(if taken < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) })
}

/// A system call by its number, with numbers for arguments.
fn call(call: &str, arguments: &[&str]) -> String {
    let number = |word: &str| match word.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).expect("a number"),
        None => word.parse().expect("a number"),
    };
    let mut given = [0; 6];
    for (place, word) in given.iter_mut().zip(arguments) {
        *place = number(word);
    }
    let [a, b, c, d, e, f] = given;
    // SAFETY: the tests give no address of this program's, and no call that changes its memory.
    let answer = unsafe { libc::syscall(number(call), a, b, c, d, e, f) };
    word(if answer < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) })
}

/// `getpid` of the other machine that this processor can be.
#[cfg(target_arch = "x86_64")]
fn call_32() -> String {
    let mut answer = 20_i32;
    // SAFETY: it changes the one register.
    unsafe { core::arch::asm!("int 0x80", inout("eax") answer) };
    answer.to_string()
}

#[cfg(not(target_arch = "x86_64"))]
fn call_32() -> String {
    "none".to_owned()
}

/// `man 2 ioctl_console`; 6 asks which keys are held down.
const TIOCLINUX: u64 = 0x541c;

/// Says one byte to the terminal that standard input is: a character to type, or what to do.
fn to_terminal(request: u64, byte: u8) -> String {
    // With something in the upper half of the request, which the kernel does not look at.
    let request = request | 0x5eed << 32;
    let mut byte = byte;
    // SAFETY: the kernel reads and writes the one byte, which outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_ioctl, 0, request, &raw mut byte) };
    word(if answer < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) })
}
