//! What `/proc` says about a process.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A line of `/proc/PID/stat`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stat {
    /// The name the kernel has for it.
    pub comm: String,
    /// `R`, `S`, `Z`, ...
    pub state: char,
    /// Its parent.
    pub ppid: u32,
    /// When it began, in clock ticks since the boot: with its pid it is unique.
    pub start: u64,
}

/// None if there is no such process.
pub fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = text.rsplit_once(')')?;
    let (_, comm) = head.split_once('(')?;
    let mut fields = tail.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let ppid = fields.next()?.parse().ok()?;
    let start = fields.nth(17)?.parse().ok()?;
    Some(Stat { comm: comm.to_owned(), state, ppid, start })
}

/// Whether it is there and no zombie.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.state != 'Z')
}

/// `/proc/PID/status`, by field.
///
/// # Panics
///
/// If there is no such process.
pub fn status(pid: u32) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap_or_else(|error| panic!("process {pid}: {error}"));
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
    };
    text.lines().filter_map(field).collect()
}

/// All processes that there are.
pub fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The children of a process and theirs, as the kernel has them now.
pub fn descendants(ancestor: u32) -> Vec<(u32, Stat)> {
    let table: Vec<(u32, Stat)> =
        all().into_iter().filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let mut found = vec![ancestor];
    loop {
        let is_new =
            |(pid, stat): &&(u32, Stat)| found.contains(&stat.ppid) && !found.contains(pid);
        let more: Vec<u32> = table.iter().filter(is_new).map(|(pid, _)| *pid).collect();
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    table.into_iter().filter(|(pid, _)| *pid != ancestor && found.contains(pid)).collect()
}

/// How many descriptors a process has open.
///
/// # Panics
///
/// If there is no such process.
pub fn fds(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap_or_else(|error| panic!("process {pid}: {error}"))
        .count()
}

/// What descriptors lead to, by number.
pub fn fd_links(pid: u32) -> BTreeMap<u32, String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeMap::new() };
    let link = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some((number, target.to_string_lossy().into_owned()))
    };
    entries.filter_map(|entry| link(entry.ok()?)).collect()
}

/// Whether a descriptor leads to a directory of cgroups: a thread of the master's opens them, in its
/// time.
pub fn is_cgroup(link: &str) -> bool {
    link.starts_with("/sys/fs/cgroup") && !link.ends_with("/cgroup.procs")
}

/// A pidfd; none if there is no such process.
pub fn pidfd(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()
}

/// SIGKILL; that it has ended already is fine.
pub fn kill(pid: u32) {
    if let Some(process) = pidfd(pid) {
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}

/// How often a process has gone to sleep and been woken up.
pub fn wake_ups(pid: u32) -> u64 {
    status(pid)["voluntary_ctxt_switches"].parse().expect("the kernel writes numbers")
}

/// The processes in a guard's PID namespace, without the guard; by the pids they have here.
pub fn inside(guard: u32) -> Vec<u32> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(theirs) = namespace(guard) else { return vec![] };
    all()
        .into_iter()
        .filter(|&pid| pid != guard && namespace(pid).as_ref() == Some(&theirs))
        .collect()
}

/// As many descriptors as there may be of this user's are on their way through sockets, until
/// this is dropped. The user is to be nobody else's in any test.
pub fn hold_descriptors(uid: u32) -> Held {
    let (held, is_held) = mpsc::channel();
    let (release, is_over) = mpsc::channel();
    let holder = std::thread::spawn(move || {
        // Of this thread alone.
        let uid = rustix::process::Uid::from_raw(uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("this is root");
        let null = File::open("/dev/null").expect("it is there");
        let descriptors = [null.as_raw_fd(); 253];
        let control = [ControlMessage::ScmRights(&descriptors)];
        let bytes = [IoSlice::new(b"x")];
        let mut pairs = vec![];
        loop {
            pairs.push(UnixDatagram::pair().expect("there is room for a socket"));
            let from = pairs.last().map_or(-1, |(from, _)| from.as_raw_fd());
            let send =
                || sendmsg::<()>(from, &bytes, &control, MsgFlags::MSG_DONTWAIT, None).map(drop);
            let refused = core::iter::repeat_with(send).find_map(Result::err);
            if refused == Some(nix::Error::ETOOMANYREFS) {
                break;
            }
        }
        let _ = held.send(());
        // Until nobody can say anything any more.
        let _ = is_over.recv();
    });
    is_held.recv().expect("they are on their way");
    Held { release: Some(release), holder: Some(holder) }
}

/// See [`hold_descriptors`].
#[derive(Debug)]
pub struct Held {
    release: Option<mpsc::Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release = None;
        if let Some(holder) = self.holder.take() {
            let _ = holder.join();
        }
    }
}
