//! What a process can say about itself, and try, without `unsafe`. The probe is this and a few
//! things more; callbacks of `Launch::enter` use it too.
//!
//! A command is a line of words. What it tries is answered by one line, `COMMAND: ok` or
//! `COMMAND: EACCES`; facts have keys of their own. Output is written at once, unbuffered.

use core::fmt::Display;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chroot, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, pidfd_open};

/// Runs commands one after the other.
pub fn run(commands: &[&str]) {
    commands.iter().for_each(|command| assert!(run_one(command), "unknown command {command:?}"));
}

/// Says `key: value`, in one write.
pub fn say(key: &str, value: impl Display) {
    let line = format!("{key}: {}\n", value.to_string().escape_debug());
    // If nobody listens there is nobody to be told.
    let _ = rustix::io::write(io::stdout(), line.as_bytes());
}

/// `ok`, or the name of the errno.
pub fn word<T, E: Into<io::Error>>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => name(&error.into()),
    }
}

fn name(error: &io::Error) -> String {
    error.raw_os_error().map_or(error.to_string(), |raw| format!("{:?}", Errno::from_raw(raw)))
}

/// What was read, or the name of the errno.
fn text(result: io::Result<impl Display>) -> String {
    result.map_or_else(|error| name(&error), |text| text.to_string())
}

/// Runs one command; false if there is no such command here.
pub fn run_one(command: &str) -> bool {
    let words: Vec<&str> = command.split_whitespace().collect();
    let Some((&verb, rest)) = words.split_first() else { return false };
    if tell(verb, rest) {
        return true;
    }
    let answer = look(verb, rest)
        .or_else(|| change(verb, rest))
        .or_else(|| mounts(verb, rest))
        .or_else(|| queues(verb, rest))
        .or_else(|| other_processes(verb, rest))
        .or_else(|| rockers(verb, rest));
    answer.map(|answer| say(command, answer)).is_some()
}

/// Facts about this process, under keys of their own.
fn tell(verb: &str, rest: &[&str]) -> bool {
    match (verb, rest) {
        ("say", words) => say("say", words.join(" ")),
        ("ids", []) => tell_ids(),
        ("status", fields) => {
            let status = crate::process::status(own_pid());
            fields.iter().for_each(|&f| say(f, status.get(f).map_or("", String::as_str)));
        }
        // All of it but what counts memory, signals and time, and so is never twice the same.
        ("whole-status", []) => {
            let mut status = crate::process::status(own_pid());
            status.retain(|key, _| {
                let counts = ["Vm", "Rss", "Hugetlb", "FDSize", "SigQ"];
                !key.ends_with("switches") && !counts.iter().any(|count| key.starts_with(count))
            });
            status.iter().for_each(|(key, value)| say(key, value));
        }
        ("privileges", []) => tell_privileges(),
        ("fds", []) => {
            // The directory itself is open while it is listed.
            let links: Vec<_> = crate::process::fd_links(own_pid())
                .into_iter()
                .filter(|(fd, _)| fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok())
                .collect();
            let numbers: Vec<String> = links.iter().map(|(fd, _)| fd.to_string()).collect();
            say("fds", numbers.join(" "));
            links.iter().for_each(|(fd, link)| say(&format!("fd {fd}"), link));
        }
        ("cwd", []) => {
            say("cwd", text(std::env::current_dir().map(|dir| dir.display().to_string())))
        }
        ("environ", []) => {
            let mut all: Vec<String> =
                std::env::vars().map(|(key, value)| format!("{key}={value}")).collect();
            all.sort();
            say("environ", all.join(" "));
        }
        ("pids", []) => {
            say("pid", own_pid());
            say("ppid", rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get()));
            // 0 if the leader is outside, which rustix does not expect.
            say("sid", text(nix::unistd::getsid(None).map_err(Into::into)));
        }
        ("processes", []) => {
            let mut all = crate::process::all();
            all.sort_unstable();
            say("processes", all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        }
        ("sleep", [ms]) => std::thread::sleep(core::time::Duration::from_millis(number(ms))),
        // Asks its parent, the caller, to trace it, and stops: a wait that is careless about
        // what it is told takes that for the end.
        ("traced-stop", []) => {
            say(
                "traced-stop",
                text(nix::sys::ptrace::traceme().map(|()| "ok").map_err(Into::into)),
            );
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
        }
        ("wait", []) => {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
        }
        ("exit", [status]) => std::process::exit(number(status)),
        ("hog", [mib]) => {
            let bytes = vec![1_u8; number::<usize>(mib) << 20];
            say("hog", core::hint::black_box(&bytes).len());
        }
        ("burn", [ms]) => {
            let clock = rustix::time::ClockId::ProcessCPUTime;
            let ms: i64 = number(ms);
            let spent = || rustix::time::clock_gettime(clock);
            while spent().tv_sec * 1000 + spent().tv_nsec / 1_000_000 < ms {}
            say("burn", ms);
        }
        _ => return false,
    }
    true
}

fn own_pid() -> u32 {
    rustix::process::getpid().as_raw_pid().cast_unsigned()
}

fn number<T: core::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("{word:?} is no number"))
}

/// What no table of the kernel shows.
fn tell_privileges() {
    say("dumpable", format!("{:?}", rustix::process::dumpable_behavior()));
    say("no new privs", format!("{:?}", rustix::thread::no_new_privs()));
    say("secure bits", format!("{:?}", rustix::thread::capabilities_secure_bits()));
    say("keep caps", format!("{:?}", rustix::thread::get_keep_capabilities()));
    say("parent death", format!("{:?}", rustix::process::parent_process_death_signal()));
    say("subreaper", format!("{:?}", rustix::process::child_subreaper()));
    say("nice", format!("{:?}", rustix::process::getpriority_process(None)));
    // Keys that it may see, without their numbers.
    for key in fs::read_to_string("/proc/keys").unwrap_or_default().lines() {
        let fields: Vec<&str> = key.split_whitespace().collect();
        say("key", fields.get(4..).unwrap_or_default().join(" "));
    }
}

/// Real, effective, saved, and for files: from the kernel's table and from the system calls.
fn tell_ids() {
    let status = crate::process::status(own_pid());
    say("uid", &status["Uid"]);
    say("gid", &status["Gid"]);
    say("groups", &status["Groups"]);
    let groups = rustix::process::getgroups().unwrap_or_default();
    say("getgroups", groups.len());
    if let (Ok(u), Ok(g)) = (nix::unistd::getresuid(), nix::unistd::getresgid()) {
        say("getresuid", format!("{} {} {}", u.real, u.effective, u.saved));
        say("getresgid", format!("{} {} {}", g.real, g.effective, g.saved));
    }
    for map in ["uid_map", "gid_map", "setgroups"] {
        let text = fs::read_to_string(format!("/proc/self/{map}")).unwrap_or_default();
        say(map, text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
}

/// What can be seen of the file system.
fn look(verb: &str, rest: &[&str]) -> Option<String> {
    Some(match (verb, rest) {
        ("read", [path]) => {
            text(fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned()))
        }
        ("ls", [path]) => text(fs::read_dir(path).map(|entries| {
            let mut names: Vec<String> = entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names.join(" ")
        })),
        ("stat", [path]) => text(fs::symlink_metadata(path).map(|meta| {
            let kind = meta.file_type();
            let kind = match kind {
                _ if kind.is_dir() => "dir",
                _ if kind.is_file() => "file",
                _ if kind.is_symlink() => "link",
                _ if kind.is_fifo() || kind.is_socket() => "pipe",
                _ => "device",
            };
            format!("{kind} {:04o} {} {}", meta.mode() & 0o7777, meta.uid(), meta.gid())
        })),
        ("readlink", [path]) => text(fs::read_link(path).map(|link| link.display().to_string())),
        // As they are for the mount that the path is on.
        ("flags", [path]) => text(rustix::fs::statvfs(*path).map_err(Into::into).map(|found| {
            use rustix::fs::StatVfsMountFlags as F;
            let all = [(F::RDONLY, "ro"), (F::NOSUID, "nosuid"), (F::NODEV, "nodev")];
            let set = all.iter().filter(|(flag, _)| found.f_flag.contains(*flag));
            set.map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
        })),
        ("open", [path]) => word(fs::File::open(path)),
        ("open-w", [path]) => word(fs::OpenOptions::new().write(true).open(path)),
        ("chdir", [path]) => word(std::env::set_current_dir(path)),
        _ => return None,
    })
}

/// What can be changed in the file system.
fn change(verb: &str, rest: &[&str]) -> Option<String> {
    Some(match (verb, rest) {
        ("write", [path, words @ ..]) => word(fs::write(path, words.join(" "))),
        ("mkdir", [path]) => word(fs::DirBuilder::new().mode(0o755).create(path)),
        ("rmdir", [path]) => word(fs::remove_dir(path)),
        ("unlink", [path]) => word(fs::remove_file(path)),
        ("symlink", [target, path]) => word(symlink(target, path)),
        ("rename", [from, to]) => word(fs::rename(from, to)),
        ("chmod", [mode, path]) => {
            let mode = u32::from_str_radix(mode, 8).expect("an octal mode");
            word(fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        }
        // Whoever executes it may use raw sockets (`man 7 capabilities`, version 2).
        ("give-capability", [path]) => {
            let value = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let flags = rustix::fs::XattrFlags::empty();
            word(rustix::fs::setxattr(*path, "security.capability", &value, flags))
        }
        ("mknod", [path]) => {
            let device = rustix::fs::makedev(1, 3);
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            let kind = rustix::fs::FileType::CharacterDevice;
            word(rustix::fs::mknodat(rustix::fs::CWD, *path, kind, mode, device))
        }
        // So many directories, each in the last.
        ("deep", [path, count]) => word(
            fs::create_dir(path).and_then(|()| std::env::set_current_dir(path)).and_then(|()| {
                (0..number::<u32>(count)).try_for_each(|_| {
                    fs::create_dir("d")?;
                    std::env::set_current_dir("d")
                })
            }),
        ),
        ("mkfifo", [path]) => {
            word(nix::unistd::mkfifo(*path, nix::sys::stat::Mode::from_bits_truncate(0o644)))
        }
        // Its output is ours.
        ("run", [program, args @ ..]) => match Command::new(program).args(args).status() {
            Ok(status) => status.to_string(),
            Err(error) => name(&error),
        },
        _ => return None,
    })
}

fn mounts(verb: &str, rest: &[&str]) -> Option<String> {
    let none = None::<&str>;
    Some(match (verb, rest) {
        ("mounts", []) => {
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let mut mounts: Vec<Vec<&str>> =
                table.lines().map(|line| line.split(' ').collect()).collect();
            // What a guard that waited has made ahead comes before what it made for its launch.
            mounts.sort_by_key(|fields| fields[4]);
            for fields in mounts {
                let mut kind = fields.iter().skip_while(|field| **field != "-").skip(1);
                say(&format!("at {}", fields[4]), format!("{} {}", kind.next()?, fields[5]));
            }
            table.lines().count().to_string()
        }
        ("mount-tmpfs", [at]) => {
            word(nix::mount::mount(Some("tmpfs"), *at, Some("tmpfs"), MsFlags::empty(), none))
        }
        ("mount-proc", [at]) => {
            word(nix::mount::mount(Some("proc"), *at, Some("proc"), MsFlags::empty(), none))
        }
        ("bind", [from, to]) => {
            word(nix::mount::mount(Some(*from), *to, none, MsFlags::MS_BIND, none))
        }
        ("remount-rw", [at]) => {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
            word(nix::mount::mount(none, *at, none, flags, none))
        }
        ("umount", [at]) => word(nix::mount::umount2(*at, MntFlags::MNT_DETACH)),
        ("pivot", [root, old]) => word(nix::unistd::pivot_root(*root, *old)),
        ("chroot", [root]) => word(chroot(root)),
        ("fsopen", [kind]) => {
            word(rustix::mount::fsopen(*kind, rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC))
        }
        ("clone-tree", [path]) => {
            use rustix::mount::OpenTreeFlags as F;
            let flags = F::OPEN_TREE_CLONE | F::OPEN_TREE_CLOEXEC;
            word(rustix::mount::open_tree(rustix::fs::CWD, *path, flags))
        }
        ("unshare", kinds) => {
            let kind = |kind: &&str| match *kind {
                "user" => CloneFlags::CLONE_NEWUSER,
                "mnt" => CloneFlags::CLONE_NEWNS,
                "pid" => CloneFlags::CLONE_NEWPID,
                other => panic!("no namespace {other}"),
            };
            word(nix::sched::unshare(kinds.iter().map(kind).collect()))
        }
        _ => return None,
    })
}

/// `man 7 mq_overview`
fn queues(verb: &str, rest: &[&str]) -> Option<String> {
    use nix::mqueue::{MQ_OFlag, MqAttr, mq_open};
    let owner = nix::sys::stat::Mode::S_IRWXU;
    let small = MqAttr::new(0, 1, 8, 0);
    let open = |name: &str, how| word(mq_open(name, MQ_OFlag::O_RDWR | how, owner, Some(&small)));
    Some(match (verb, rest) {
        ("make-queue", [name]) => open(name, MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL),
        ("find-queue", [name]) => open(name, MQ_OFlag::empty()),
        _ => return None,
    })
}

fn other_processes(verb: &str, rest: &[&str]) -> Option<String> {
    let raw = rest.first().and_then(|word| word.parse::<i32>().ok());
    let pid = raw.and_then(Pid::from_raw);
    Some(match (verb, rest) {
        ("kill", [_, signal]) => {
            let signal = nix::sys::signal::Signal::try_from(number::<i32>(signal));
            let signal = signal.expect("a standard signal");
            word(nix::sys::signal::kill(nix::unistd::Pid::from_raw(raw?), signal))
        }
        ("ptrace-attach", [_]) => word(nix::sys::ptrace::attach(nix::unistd::Pid::from_raw(raw?))),
        ("ptrace-seize", [_]) => {
            let options = nix::sys::ptrace::Options::empty();
            word(nix::sys::ptrace::seize(nix::unistd::Pid::from_raw(raw?), options))
        }
        ("steal-fd", [_, fd]) => match rustix::process::pidfd_open(pid?, PidfdFlags::empty()) {
            Ok(process) => {
                let flags = PidfdGetfdFlags::empty();
                word(rustix::process::pidfd_getfd(process, number(fd), flags))
            }
            Err(error) => word(Err::<(), _>(error)),
        },
        ("starve-fds", [_]) => {
            let none = Rlimit { current: Some(0), maximum: Some(0) };
            word(rustix::process::prlimit(pid, Resource::Nofile, none))
        }
        ("setns", [path]) => match fs::File::open(path) {
            Ok(namespace) => word(nix::sched::setns(namespace, CloneFlags::empty())),
            Err(error) => name(&error),
        },
        ("hunt", files) => hunt(files),
        ("setuid", [id]) => word(nix::unistd::setuid(number::<u32>(id).into())),
        ("setgid", [id]) => word(nix::unistd::setgid(number::<u32>(id).into())),
        ("spawn", _) => word(spawn(&rest.join(" ")).map(drop)),
        ("daemon", _) => word(spawn(&format!("spawn {}", rest.join(" "))).and_then(|mut child| {
            let status = child.wait()?;
            if status.success() { Ok(()) } else { Err(io::Error::other("the daemon's parent")) }
        })),
        ("chain", [_, words @ ..]) => word(spawn(&match raw? {
            0 => words.join(" "),
            left => format!("daemon chain {} {}", left - 1, words.join(" ")),
        })),
        _ => return None,
    })
}

/// Tries, until standard input ends, to write to these files, and to get hold of every other
/// process that there is, as long as it is not this program. Says whom it has tried, and at the
/// end what of whom it had.
fn hunt(files: &[&str]) -> String {
    let (mut seen, mut traced, mut caught) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let stdin = io::stdin();
    let is_over = || {
        let mut input = [rustix::event::PollFd::new(&stdin, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut input, Some(&rustix::event::Timespec::default())) == Ok(1)
    };
    while !is_over() {
        for file in files.iter().filter(|file| written(file)) {
            caught.insert(format!("{file} written"));
        }
        for pid in crate::process::all().into_iter().filter(|&pid| pid != own_pid()) {
            caught.extend(prey(pid, &mut traced));
            if seen.insert(pid) {
                say("tried", pid);
            }
        }
    }
    caught.into_iter().collect::<Vec<_>>().join(" ")
}

fn written(path: impl AsRef<Path>) -> bool {
    fs::OpenOptions::new().write(true).open(path).is_ok()
}

/// What can be had of a process that is not this program. Who was traced once goes on.
fn prey(pid: u32, traced: &mut BTreeSet<u32>) -> Vec<String> {
    let at = |name: &str| format!("/proc/{pid}/{name}");
    // Whoever may read this link may trace.
    let is_another = || fs::read_link(at("exe")).is_ok_and(|exe| !exe.ends_with("bin/probe"));
    let mut had = vec![];
    let mut note = |is_had: bool, what: &str| {
        if is_had {
            had.push(format!("{what}-of-{pid}"));
        }
    };
    note(is_another(), "exe");
    note(written(at("exe")), "program-written");
    let place = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let exe = rustix::fs::open(at("exe"), place, rustix::fs::Mode::empty());
    let again = |exe: std::os::fd::OwnedFd| written(format!("/proc/self/fd/{}", exe.as_raw_fd()));
    note(exe.is_ok_and(again), "program-written");
    let memory = fs::OpenOptions::new().read(true).write(true).open(at("mem"));
    note(memory.is_ok() && is_another(), "memory");
    note(fs::read_to_string(at("maps")).is_ok_and(|maps| maps.contains("/rocker-guard")), "maps");
    let tracee = nix::unistd::Pid::from_raw(pid.cast_signed());
    if !traced.contains(&pid) && nix::sys::ptrace::attach(tracee).is_ok() {
        traced.insert(pid);
        let _ = nix::sys::wait::waitpid(tracee, Some(nix::sys::wait::WaitPidFlag::__WALL));
        note(is_another(), "trace");
        let _ = nix::sys::ptrace::detach(tracee, None);
        // If it has just executed, what stopped it is not the signal of the attach: that is to come.
        let _ = nix::sys::signal::kill(tracee, nix::sys::signal::Signal::SIGCONT);
    }
    let process = Pid::from_raw(pid.cast_signed()).map(|it| pidfd_open(it, PidfdFlags::empty()));
    let Some(Ok(process)) = process else { return had };
    for fd in 0..8 {
        let got = rustix::process::pidfd_getfd(&process, fd, PidfdGetfdFlags::empty());
        let link = got.map(|got| fs::read_link(format!("/proc/self/fd/{}", got.as_raw_fd())));
        let is_guards = |link: &Path| link.to_string_lossy().starts_with("socket:");
        note(link.is_ok_and(|link| link.is_ok_and(|link| is_guards(&link))), "socket");
    }
    had
}

/// Starts this program again with one command, without any descriptor of ours.
fn spawn(command: &str) -> io::Result<std::process::Child> {
    let null = Stdio::null;
    let me = std::env::current_exe()?;
    Command::new(me).arg(command).stdin(null()).stdout(null()).stderr(null()).spawn()
}

fn abstract_socket(
    name: &str,
    use_it: impl FnOnce(&OwnedFd, &SocketAddrUnix) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let ours = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
    use_it(&ours, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    core::mem::forget(ours);
    Ok(())
}

/// What an App could ask the master for.
fn rockers(verb: &str, rest: &[&str]) -> Option<String> {
    Some(match (verb, rest) {
        ("connect", [socket]) => {
            let kind = SocketType::SEQPACKET;
            let made = rustix::net::socket(AddressFamily::UNIX, kind, None);
            let address = SocketAddrUnix::new(*socket);
            word(made.and_then(|ours| rustix::net::connect(ours, &address?)))
        }
        ("connect-abstract", [name]) => {
            word(abstract_socket(name, |ours, address| rustix::net::connect(ours, address)))
        }
        // It stays as long as this program.
        ("listen-abstract", [name]) => word(abstract_socket(name, |ours, address| {
            rustix::net::bind(ours, address)?;
            rustix::net::listen(ours, 1)
        })),
        ("attach", [socket, name]) => {
            let wait = core::time::Duration::from_secs(5);
            match rocker_client::OpenRocker::attach(socket, name, wait) {
                Ok(_) => "ok".to_owned(),
                Err(error) => error.to_string(),
            }
        }
        ("launch", [socket, package, exec_dir]) => {
            let launch = rocker_client::Launch::new(package).socket(socket).exec_dir(exec_dir);
            match launch.spawn(&rocker_client::Program::new("bin/probe")) {
                Ok(_) => "ok".to_owned(),
                Err(error) => error.to_string(),
            }
        }
        ("list", [socket]) => match rocker_client::list(Path::new(socket), crate::SOON) {
            Ok(rockers) => rockers.len().to_string(),
            Err(error) => error.to_string(),
        },
        ("kill-rocker", [socket, name]) => {
            match rocker_client::kill_by_name(Path::new(socket), name, crate::SOON) {
                Ok(()) => "ok".to_owned(),
                Err(error) => error.to_string(),
            }
        }
        _ => return None,
    })
}
