//! A process that does one small operation after the other (`sim/src/operations.rs`) and says
//! what Linux answered. `kernel.rs` talks to it through a socket of its own; the processes that
//! it makes have theirs from it.
//!
//! `actor DIRECTORY NAME=FD..`: the first name is its own.
#![allow(unsafe_code, reason = "forks and clones as no safe function does")]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat, statfs};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount,
    mount_change, move_mount, open_tree,
};
use rustix::net::{
    AddressFamily, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    recvmsg, sendmsg, socket_with, socketpair,
};
use rustix::process::{WaitId, WaitIdOptions, WaitOptions, waitid};
use rustix::thread::{CapabilitySet, CapabilitySets};

type Answer = Result<String, Errno>;

/// Descriptor `a`; `b` to `k` follow, and then what has no name.
const FIRST: RawFd = 100;
const PLACES: &str = "abcdefghijk";
const LISTENER: RawFd = FIRST + 11;
const STOLEN: RawFd = FIRST + 12;

struct Actor {
    /// Its name is the first.
    controls: Vec<(String, RawFd)>,
    dir: String,
    /// The process that the last command was about, if it was about one.
    pidfd: Option<OwnedFd>,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().expect("a directory");
    let controls = arguments.map(|argument| {
        let (name, fd) = argument.split_once('=').expect("NAME=FD");
        (name.to_owned(), fd.parse().expect("a descriptor"))
    });
    let actor = Actor { controls: controls.collect(), dir, pidfd: None };
    become_the_host(&actor.dir).expect("root may");
    actor.work()
}

/// The mounts of this test are its own; whoever loses its parent in here is ours and is reaped
/// by the kernel, as by a good `init`.
fn become_the_host(dir: &str) -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    rustix::thread::set_thread_groups(&[rustix::fs::Gid::from_raw(4_242)])?;
    std::env::set_current_dir(dir)?;
    reap_children(true);
    Ok(())
}

fn reap_children(by_kernel: bool) {
    let action = if by_kernel { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: neither action is a handler.
    unsafe { libc::signal(libc::SIGCHLD, action) };
}

fn place(word: &str) -> RawFd {
    let index = PLACES.find(word).filter(|_| word.len() == 1);
    let index = index.unwrap_or_else(|| panic!("{word} is no place"));
    FIRST + RawFd::try_from(index).expect("eleven")
}

fn borrowed(place: RawFd) -> Result<BorrowedFd<'static>, Errno> {
    // SAFETY: only to ask whether it is there; what is there stays until an operation closes it.
    let fd = unsafe { BorrowedFd::borrow_raw(place) };
    rustix::io::fcntl_getfd(fd).map(|_| fd)
}

fn fd(word: &str) -> Result<BorrowedFd<'static>, Errno> {
    borrowed(place(word))
}

/// Puts a new open file in its place.
fn put(to: RawFd, fd: &impl AsRawFd) -> Answer {
    // SAFETY: the places are nobody's but the operations'.
    let moved = unsafe { libc::dup3(fd.as_raw_fd(), to, libc::O_CLOEXEC) };
    if moved < 0 { Err(last()) } else { ok() }
}

fn last() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).expect("a number of the kernel's")
}

fn close(place: RawFd) -> Result<(), Errno> {
    borrowed(place)?;
    // SAFETY: the places are nobody's but the operations'.
    drop(unsafe { OwnedFd::from_raw_fd(place) });
    Ok(())
}

fn ok() -> Answer {
    Ok("ok".to_owned())
}

fn done<T>(answer: Result<T, Errno>) -> Answer {
    answer.and_then(|_| ok())
}

fn yes(is_so: bool) -> Answer {
    Ok(if is_so { "yes" } else { "no" }.to_owned())
}

fn ours(error: impl Into<io::Error>) -> Errno {
    Errno::from_io_error(&error.into()).unwrap_or(Errno::IO)
}

fn told(answer: io::Result<()>) -> Answer {
    done(answer.map_err(ours))
}

fn number<T: core::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}

impl Actor {
    /// Says that it is there, and obeys until nobody commands any more.
    fn work(mut self) -> ExitCode {
        self.say("here");
        let mut buffer = [0; 256];
        while let Some(length) = self.hear(&mut buffer) {
            let command = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let words: Vec<&str> = command.split_whitespace().collect();
            let answer = match words.as_slice() {
                ["exit"] => {
                    self.say("ok");
                    return ExitCode::SUCCESS;
                }
                words => self.obey(words),
            };
            let answer = answer.unwrap_or_else(|errno| {
                format!("{:?}", nix::errno::Errno::from_raw(errno.raw_os_error()))
            });
            self.say(&answer);
        }
        ExitCode::SUCCESS
    }

    fn control(&self) -> BorrowedFd<'static> {
        borrowed(self.controls[0].1).expect("made by the test")
    }

    fn say(&self, words: &str) {
        let _ = rustix::net::send(self.control(), words.as_bytes(), SendFlags::NOSIGNAL);
    }

    /// One command; with it the process that it is about.
    fn hear(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let (length, mut fds) = read(self.control(), buffer, RecvFlags::empty()).ok()?;
        self.pidfd = fds.pop();
        (length > 0).then_some(length)
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_ref().expect("the test sends it").as_fd()
    }

    fn obey(&mut self, words: &[&str]) -> Answer {
        None.or_else(|| self.life(words))
            .or_else(|| self.death(words))
            .or_else(|| self.identity(words))
            .or_else(|| id_map(words))
            .or_else(|| self.loop_device(words))
            .or_else(|| self.mount(words))
            .or_else(|| self.socket(words))
            .or_else(|| self.listener(words))
            .unwrap_or_else(|| panic!("no such operation: {words:?}"))
    }

    fn life(&mut self, words: &[&str]) -> Option<Answer> {
        const SIGNAL: libc::c_int = libc::SIGCHLD;
        Some(match words {
            ["fork", name, fds @ ..] => self.begin(SIGNAL, name, fds),
            ["fork-sharing", name] => self.begin(SIGNAL | libc::CLONE_FILES, name, &[]),
            ["clone-guard", name, fds @ ..] => {
                let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
                self.begin(SIGNAL | namespaces, name, fds)
            }
            ["clone-app", name] => self.begin(SIGNAL | libc::CLONE_PARENT, name, &[]),
            ["alone"] => {
                let all = nix::unistd::Pid::from_raw(-1);
                yes(nix::sys::signal::kill(all, None) == Err(nix::errno::Errno::ESRCH))
            }
            ["others"] => {
                let is_one = |pid: &u32| *pid != 1 && tests::process::is_alive(*pid);
                Ok(tests::process::all().into_iter().filter(is_one).count().to_string())
            }
            _ => return None,
        })
    }

    /// Another process, which obeys as the one of this name.
    fn begin(&mut self, flags: libc::c_int, name: &str, fds: &[&str]) -> Answer {
        // SAFETY: without a stack of its own the child goes on here with a copy of this
        // process's memory, as after fork. There is one thread.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        if pid != 0 {
            return if pid < 0 { Err(last()) } else { ok() };
        }
        if flags & libc::CLONE_FILES == 0 {
            let given: Vec<RawFd> = fds.iter().map(|fd| place(fd)).collect();
            for place in (FIRST..=STOLEN).filter(|place| !given.contains(place)) {
                let _ = close(place);
            }
        }
        reap_children(false);
        let own = self.controls.iter().position(|(known, _)| known == name);
        self.controls.swap(0, own.expect("the test knows all names"));
        let me = Self {
            controls: core::mem::take(&mut self.controls),
            dir: core::mem::take(&mut self.dir),
            pidfd: None,
        };
        let _ = me.work();
        // Neither destructors nor buffers are the child's.
        // SAFETY: it does not come back.
        unsafe { libc::_exit(0) }
    }

    fn death(&self, words: &[&str]) -> Option<Answer> {
        const LOOK: WaitIdOptions =
            WaitIdOptions::EXITED.union(WaitIdOptions::NOHANG).union(WaitIdOptions::NOWAIT);
        let kill = rustix::process::Signal::KILL;
        Some(match words {
            ["kill", pid] => {
                let pid = rustix::process::Pid::from_raw(number(pid)).expect("a pid");
                done(rustix::process::kill_process(pid, kill))
            }
            ["kill-by-pidfd", _] => done(rustix::process::pidfd_send_signal(self.pidfd(), kill)),
            ["wait"] => rustix::process::wait(WaitOptions::NOHANG)
                .map(|one| one.map_or("none yet", |_| "one").to_owned()),
            ["wait-for", _] => {
                let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
                waitid(WaitId::PidFd(self.pidfd()), how)
                    .map(|it| it.map_or("not yet", |_| "it").to_owned())
            }
            ["ended", _] => yes(is_readable(self.pidfd())),
            ["zombie"] => yes(waitid(WaitId::All, LOOK).is_ok_and(|it| it.is_some())),
            _ => return None,
        })
    }

    fn identity(&self, words: &[&str]) -> Option<Answer> {
        use rustix::thread::ThreadNameSpaceType as Kind;
        Some(match words {
            ["drop-groups"] => done(rustix::thread::set_thread_groups(&[])),
            ["groups"] => Ok(match rustix::process::getgroups() {
                Ok(groups) if groups.is_empty() => "none",
                _ => "some",
            }
            .to_owned()),
            ["take-ids", id] => done(take_ids(number(id))),
            ["keep-admin"] => done(keep(CapabilitySet::SYS_ADMIN)),
            ["drop-capabilities"] => done(protocol::privileges::drop_all()),
            ["capabilities"] => rustix::thread::capabilities(None).map(|sets| {
                match sets.effective.bits().count_ones() {
                    0 => "none",
                    1 => "one",
                    _ => "all",
                }
                .to_owned()
            }),
            ["unshare-user"] => {
                told(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).map_err(Into::into))
            }
            ["join", _] => {
                let all =
                    Kind::USER | Kind::MOUNT | Kind::PROCESS_ID | Kind::INTER_PROCESS_COMMUNICATION;
                done(rustix::thread::move_into_thread_name_spaces(self.pidfd(), all))
            }
            _ => return None,
        })
    }

    fn loop_device(&self, words: &[&str]) -> Option<Answer> {
        Some(match words {
            ["find-loop"] => find_loop().map(|number| number.to_string()),
            ["bind-loop", to, device] => self.bind_loop(device).and_then(|it| put(place(to), &it)),
            ["steal-loop", device] => self.bind_loop(device).and_then(|it| put(STOLEN, &it)),
            ["return-loop", _] => done(close(STOLEN)),
            ["bound", device] => {
                yes(fs::exists(format!("/sys/block/loop{device}/loop")).unwrap_or(false))
            }
            _ => return None,
        })
    }

    fn bind_loop(&self, device: &str) -> Result<OwnedFd, Errno> {
        use linux_raw_sys::loop_device::{LO_FLAGS_AUTOCLEAR, LO_FLAGS_READ_ONLY, LOOP_CONFIGURE};
        let package = File::open(format!("{}/package.sqfs", self.dir)).map_err(ours)?;
        let path = format!("/dev/loop{device}");
        let device = openat(CWD, path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // SAFETY: all of it is numbers, for which zero is one.
        let mut config: linux_raw_sys::loop_device::loop_config = unsafe { core::mem::zeroed() };
        config.fd = package.as_raw_fd().cast_unsigned();
        config.info.lo_flags = LO_FLAGS_READ_ONLY as u32 | LO_FLAGS_AUTOCLEAR as u32;
        // SAFETY: the kernel reads the struct that this request takes.
        let answer =
            unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE.into(), &raw const config) };
        if answer < 0 { Err(last()) } else { Ok(device) }
    }

    /// `/var/x` in here is `DIRECTORY/var/x` there.
    fn path(&self, word: &str) -> String {
        if word == "/proc" { word.to_owned() } else { format!("{}{word}", self.dir) }
    }

    fn mount(&self, words: &[&str]) -> Option<Answer> {
        Some(match words {
            ["private"] => done(mount_change(
                c"/",
                MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
            )),
            ["package", to, device] => {
                package(&format!("/dev/loop{device}")).and_then(|tree| put(place(to), &tree))
            }
            ["layers", to, data] => fs::OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECTORY)
                .open(format!("{}/data{data}/.rocker", self.dir))
                .map_err(ours)
                .and_then(|layers| put(place(to), &layers)),
            ["overlay", to, layers] => fd(layers)
                .and_then(|layers| self.overlay(layers))
                .and_then(|it| put(place(to), &it)),
            ["copy", to, at] => {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                open_tree(CWD, self.path(at).as_str(), flags).and_then(|it| put(place(to), &it))
            }
            ["host-mount", at] => {
                done(mount("tmpfs", self.path(at), "tmpfs", MountFlags::empty(), None))
            }
            ["attach", tree, at] => fd(tree).and_then(|tree| {
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
                done(move_mount(tree, "", CWD, self.path(at).as_str(), flags))
            }),
            ["proc"] => done(mount("proc", "/proc", "proc", MountFlags::empty(), None)),
            ["look", at] => self.look(at),
            _ => return None,
        })
    }

    fn overlay(&self, layers: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        let part = |name| openat(layers, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let (upper, work) = (part("up")?, part("work")?);
        let named = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", "overlay")?;
        fsconfig_set_string(&context, "lowerdir", self.path("/var").as_str())?;
        fsconfig_set_string(&context, "upperdir", named(&upper).as_str())?;
        fsconfig_set_string(&context, "workdir", named(&work).as_str())?;
        fsconfig_set_string(&context, "index", "off")?;
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    }

    fn look(&self, at: &str) -> Answer {
        let kind = statfs(self.path(at))?.f_type;
        let device = |path: &str| rustix::fs::stat(path).map(|it| it.st_dev);
        let is_mount = device(&self.path(at))? != device(&self.dir)?;
        let own = || {
            fs::read_link("/proc/self")
                .is_ok_and(|me| me.to_str() == Some(std::process::id().to_string().as_str()))
        };
        Ok(match u32::try_from(kind).unwrap_or(0) {
            0x7371_7368 => "the package",
            0x794c_7630 => "an overlay",
            0x0102_1994 if is_mount => "a host mount",
            0x9fa0 if own() => "its own /proc",
            _ => "the host's",
        }
        .to_owned())
    }

    fn socket(&self, words: &[&str]) -> Option<Answer> {
        Some(match words {
            ["socketpair", one, other] => {
                let kind = SocketType::SEQPACKET;
                let pair = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
                pair.and_then(|(near, far)| {
                    put(place(one), &near)?;
                    put(place(other), &far)
                })
            }
            ["send", to, text, fds @ ..] => done(send(to, text, fds)),
            ["fill", to] => loop {
                if let Err(errno) = send(to, "filling", &[]) {
                    break Err(errno);
                }
            },
            ["receive", from, places @ ..] => receive(from, places),
            ["accept-descriptors", at] => fd(at).and_then(|fd| done(pass_rights(fd, 1))),
            ["readable", from] => fd(from).and_then(|fd| yes(is_readable(fd))),
            ["shut-reading", at] => {
                fd(at).and_then(|fd| done(rustix::net::shutdown(fd, rustix::net::Shutdown::Read)))
            }
            ["close", at] => done(close(place(at))),
            ["lock", to, data] => {
                let file = File::open(format!("{}/data{data}/.rocker", self.dir));
                let how = rustix::fs::FlockOperation::NonBlockingLockExclusive;
                file.map_err(ours).and_then(|file| {
                    rustix::fs::flock(&file, how)?;
                    put(place(to), &file)
                })
            }
            _ => return None,
        })
    }

    fn listener(&self, words: &[&str]) -> Option<Answer> {
        let address = || SocketAddrUnix::new("master.sock");
        let new = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        };
        Some(match words {
            ["listen"] => {
                let _ = fs::remove_file("master.sock");
                new().and_then(|socket| {
                    bind(&socket, &address()?)?;
                    listen(&socket, 16)?;
                    // Linux before 6.16 has no such option.
                    let _ = pass_rights(socket.as_fd(), 0);
                    put(LISTENER, &socket)
                })
            }
            ["stop-listening"] => done(close(LISTENER)),
            ["connect", to] => new().and_then(|socket| {
                connect(&socket, &address()?)?;
                put(place(to), &socket)
            }),
            ["accept", to] => borrowed(LISTENER)
                .and_then(|listener| put(place(to), &accept_with(listener, SocketFlags::CLOEXEC)?)),
            _ => return None,
        })
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)) != Ok(0)
}

/// All three of each, with the capabilities that root has.
fn take_ids(id: u32) -> Result<(), Errno> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(id), rustix::fs::Gid::from_raw(id));
    let before = rustix::thread::capabilities(None)?.effective;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_keep_capabilities(true)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    keep(before)
}

fn keep(set: CapabilitySet) -> Result<(), Errno> {
    let inheritable = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: set, permitted: set, inheritable },
    )
}

fn id_map(words: &[&str]) -> Option<Answer> {
    let (pid, file, text) = match words {
        ["deny-setgroups", pid] => (pid, "setgroups", "deny".to_owned()),
        ["uid-map", pid, id] => (pid, "uid_map", format!("{id} {id} 1")),
        ["gid-map", pid, id] => (pid, "gid_map", format!("{id} {id} 1")),
        _ => return None,
    };
    let file = fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/{file}"));
    Some(done(file.map_err(ours).and_then(|file| rustix::io::write(&file, text.as_bytes()))))
}

fn find_loop() -> Result<i32, Errno> {
    let how = OFlags::RDWR | OFlags::CLOEXEC;
    let control = openat(CWD, "/dev/loop-control", how, Mode::empty())?;
    let request = linux_raw_sys::loop_device::LOOP_CTL_GET_FREE;
    // SAFETY: this request has no argument.
    let free = unsafe { libc::ioctl(control.as_raw_fd(), request.into()) };
    if free < 0 { Err(last()) } else { Ok(free) }
}

fn package(device: &str) -> Result<OwnedFd, Errno> {
    let context = fsopen("squashfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", device)?;
    fsconfig_set_flag(&context, "ro")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
}

fn send(to: &str, text: &str, fds: &[&str]) -> Result<(), Errno> {
    let fds = fds.iter().map(|word| fd(word)).collect::<Result<Vec<_>, _>>()?;
    let mut space = [core::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(fd(to)?, &[io::IoSlice::new(text.as_bytes())], &mut control, flags).map(drop)
}

fn pass_rights(socket: BorrowedFd<'_>, value: i32) -> Result<(), Errno> {
    /// `SO_PASSRIGHTS`, asm-generic/socket.h
    const PASS_RIGHTS: i32 = 83;
    let (fd, at) = (socket.as_raw_fd(), (&raw const value).cast());
    // SAFETY: the kernel reads one int through the pointer, which is to a live one.
    match unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, PASS_RIGHTS, at, 4) } {
        0 => Ok(()),
        _ => Err(ours(io::Error::last_os_error())),
    }
}

fn receive(from: &str, places: &[&str]) -> Answer {
    let mut buffer = [0; 64];
    let (length, fds) = read(fd(from)?, &mut buffer, RecvFlags::DONTWAIT)?;
    for (to, fd) in places.iter().zip(&fds) {
        put(place(to), fd)?;
    }
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    Ok(if text.is_empty() { "eof".to_owned() } else { text })
}

/// One message, and the descriptors that came along.
fn read(
    from: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = [core::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(from, &mut [io::IoSliceMut::new(buffer)], &mut control, flags)?;
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok((got.bytes, rights.flatten().collect()))
}
