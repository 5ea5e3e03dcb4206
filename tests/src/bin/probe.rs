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
        ["push-input"] => push_input(),
        ["find-key", name] => find_key(name),
        ["lease", path] => take_lease(path),
        ["close-all"] => {
            // SAFETY: this program owns no descriptor as an object, and says nothing from here.
            unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
            return true;
        }
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

/// Types a character into the terminal that standard input is.
fn push_input() -> String {
    let typed = b'!';
    // SAFETY: the kernel reads the one byte, which outlives the call.
    let answer = unsafe { libc::ioctl(0, libc::TIOCSTI, &raw const typed) };
    word(if answer < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) })
}
