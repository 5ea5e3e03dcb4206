//! `rocker stats`: what living rockers use now. Everything is read as any user may read it: a
//! rocker with limits is counted by its cgroups, and what they do not tell by its processes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use protocol::usage::{self, Ooms, Parse};
use protocol::{Cgroup, Usage};
use rocker_client::{RockerEntry, list};
use serde_json::{Value, json};

use super::living::{ANSWER_MAX, age, by_beginning, named, namespace, read, table};
use super::units::sized;
use super::{Fault, print};

const HEADER: [&str; 12] = [
    "NAME",
    "GUARD",
    "AGE",
    "USER",
    "SYSTEM",
    "MEMORY",
    "MEM-PEAK",
    "PIDS",
    "PIDS-PEAK",
    "READ",
    "WRITTEN",
    "PACKAGE",
];

/// What one rocker uses; none: nobody tells.
#[derive(Debug, Default)]
struct Stats {
    user_us: Option<u64>,
    system_us: Option<u64>,
    /// But for its `cpu_us`, which is the sum of those two.
    usage: Usage,
}

pub(crate) fn stats(socket: &Path, name: Option<&str>, json: bool) -> Result<ExitCode, Fault> {
    let rockers = match name {
        Some(name) => vec![by_beginning(socket, name)?],
        None => list(socket, ANSWER_MAX)?,
    };
    let (all, mounts) = (Processes::now(), cgroup_mounts());
    let told = rockers.iter().map(|rocker| (rocker, Stats::of(rocker, &all, &mounts)));
    if json {
        let mut objects = told.map(|(rocker, stats)| object(rocker, &stats));
        let value = match name {
            Some(_) => objects.next().unwrap_or_default(),
            None => objects.collect(),
        };
        return print(&format!("{value:#}\n"));
    }
    let rows = told.map(|(rocker, stats)| row(rocker, &stats)).collect::<Vec<_>>();
    print(&if rows.is_empty() { "no rockers\n".to_owned() } else { table(&HEADER, &rows) })
}

impl Stats {
    fn of(rocker: &RockerEntry, all: &Processes, mounts: &[Mount]) -> Self {
        // Who has this pid but not this name is another: the rocker has ended meanwhile.
        let is_it = |guard: &&Process| guard.name == rocker.name.as_str();
        let Some(guard) = all.0.get(&rocker.guard_pid).filter(is_it) else {
            return Self::default();
        };
        let cgroups = cgroups(rocker.guard_pid, rocker.name.as_str(), mounts);
        let mut counted = Usage::default();
        for (what, dir) in &cgroups {
            counted.count(*what, |file, parse| parsed(dir, file, parse));
        }
        let [user_us, system_us] = processor_time(&cgroups);
        let members = all.members(guard.pid);
        let sum = |what: fn(&Process) -> u64| Some(members.iter().map(|it| what(it)).sum());
        let bytes = |key: &str| members.iter().map(|it| it.moved(key)).sum::<Option<u64>>();
        Self {
            user_us: user_us.or_else(|| sum(|it| it.user_us)),
            system_us: system_us.or_else(|| sum(|it| it.system_us)),
            usage: Usage {
                memory: counted.memory.or_else(|| sum(|it| it.resident)),
                pids: counted.pids.or_else(|| sum(|it| it.threads)),
                read: counted.read.or_else(|| bytes("read_bytes:")),
                written: counted.written.or_else(|| bytes("write_bytes:")),
                ..counted
            },
        }
    }
}

fn row(rocker: &RockerEntry, stats: &Stats) -> [String; HEADER.len()] {
    fn cell(value: Option<u64>, words: impl FnOnce(u64) -> String) -> String {
        value.map_or("-".to_owned(), words)
    }
    let seconds = |us: u64| format!("{}.{:02}s", us / 1_000_000, us / 10_000 % 100);
    let Usage { memory, memory_peak, pids, pids_peak, read, written, .. } = stats.usage;
    [
        rocker.name.to_string(),
        rocker.guard_pid.to_string(),
        age(rocker.age),
        cell(stats.user_us, seconds),
        cell(stats.system_us, seconds),
        cell(memory, sized),
        cell(memory_peak, sized),
        cell(pids, |count| count.to_string()),
        cell(pids_peak, |count| count.to_string()),
        cell(read, sized),
        cell(written, sized),
        rocker.package.display().to_string(),
    ]
}

fn object(rocker: &RockerEntry, stats: &Stats) -> Value {
    let Usage { memory, memory_peak, pids, pids_peak, read, written, .. } = stats.usage;
    json!({
        "name": rocker.name.as_str(),
        "guard_pid": rocker.guard_pid,
        "age_ms": u64::try_from(rocker.age.as_millis()).unwrap_or(u64::MAX),
        "package": rocker.package.display().to_string(),
        "user_us": stats.user_us,
        "system_us": stats.system_us,
        "memory": memory,
        "memory_peak": memory_peak,
        "pids": pids,
        "pids_peak": pids_peak,
        "read": read,
        "written": written,
    })
}

/// One line of `/proc/PID/stat`, and what a process has used with its children that are gone.
#[derive(Debug)]
struct Process {
    pid: u32,
    parent: u32,
    name: String,
    user_us: u64,
    system_us: u64,
    threads: u64,
    resident: u64,
}

impl Process {
    fn of(pid: u32) -> Option<Self> {
        Self::parse(pid, &read(&format!("/proc/{pid}/stat"))?)
    }

    /// `man 5 proc_pid_stat`
    fn parse(pid: u32, stat: &str) -> Option<Self> {
        let (name, after) = named(stat)?;
        let fields: Vec<&str> = after.split_whitespace().collect();
        // They are counted from 1 there, and the third is the first after the name.
        let number = |field: usize| -> Option<u64> {
            // A time may be negative, for children that nobody has waited for.
            fields.get(field - 3)?.parse::<i64>().ok().map(|number| number.max(0).cast_unsigned())
        };
        let micros = |own, children| -> Option<u64> {
            let ticks = number(own)? + number(children)?;
            Some(ticks * 1_000_000 / rustix::param::clock_ticks_per_second().max(1))
        };
        Some(Self {
            pid,
            parent: u32::try_from(number(4)?).ok()?,
            name: name.to_owned(),
            user_us: micros(14, 16)?,
            system_us: micros(15, 17)?,
            threads: number(20)?,
            resident: number(24)? * u64::try_from(rustix::param::page_size()).ok()?,
        })
    }

    /// Bytes that it has had read or written, its children that are gone among them; none where
    /// this user may not look.
    fn moved(&self, key: &str) -> Option<u64> {
        let io = fs::read_to_string(format!("/proc/{}/io", self.pid)).ok()?;
        usage::named(&io, key)
    }
}

/// All that this user sees, by their pids.
struct Processes(HashMap<u32, Process>);

impl Processes {
    fn now() -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Self(pids.filter_map(|pid| Some((pid, Process::of(pid)?))).collect())
    }

    /// A guard, whoever descends from it, and whoever has entered its pid namespace, with all
    /// that descend from those. Who has entered is seen by whom the kernel lets look; others
    /// cannot enter anyway.
    fn members(&self, guard: u32) -> Vec<&Process> {
        let inside = namespace(guard);
        let is_inside = |pid: u32| inside.is_some() && namespace(pid) == inside;
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for process in self.0.values() {
            children.entry(process.parent).or_default().push(process.pid);
        }
        let mut next: Vec<u32> = self.0.keys().copied().filter(|&pid| is_inside(pid)).collect();
        next.push(guard);
        let mut members = HashMap::new();
        while let Some(pid) = next.pop() {
            let Some(process) = self.0.get(&pid) else { continue };
            if members.insert(pid, process).is_none() {
                next.extend(children.get(&pid).into_iter().flatten());
            }
        }
        members.into_values().collect()
    }
}

/// A hierarchy of cgroups, and where its top is mounted.
#[derive(Debug, Eq, PartialEq)]
struct Mount {
    /// Of version 1: the names of its controllers, among other words; of version 2 none.
    options: Option<String>,
    place: PathBuf,
}

fn cgroup_mounts() -> Vec<Mount> {
    let table = read("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(cgroup_mount).collect()
}

/// `man 5 proc_pid_mountinfo`
fn cgroup_mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let [_, _, _, "/", place, ..] = before.split(' ').collect::<Vec<_>>()[..] else { return None };
    let mut words = after.split(' ');
    let options = match words.next()? {
        "cgroup2" => None,
        "cgroup" => Some(words.nth(1)?.to_owned()),
        _ => return None,
    };
    Some(Mount { options, place: place.into() })
}

/// The cgroup that keeps a rocker's memory, as far as this user sees it.
#[derive(Debug)]
pub(crate) struct Memory(Cgroup, PathBuf);

impl Memory {
    /// To be asked for while the guard lives: version 1 does not tell where one is that ends.
    pub(crate) fn of(guard_pid: u32, name: &str) -> Option<Self> {
        let mut all = cgroups(guard_pid, name, &cgroup_mounts()).into_iter();
        all.find(|(what, _)| what.memory).map(|(what, dir)| Self(what, dir))
    }

    /// What the OOM killer has done in it. It is there until its guard has ended.
    pub(crate) fn ooms(&self) -> Ooms {
        let Self(what, dir) = self;
        Ooms::of(*what, |file, parse| parsed(dir, file, parse))
    }
}

fn parsed(dir: &Path, file: &str, parse: Parse<'_>) -> Option<u64> {
    parse(&fs::read_to_string(dir.join(file)).ok()?)
}

/// The cgroups of this rocker's own, which are called as it is, and what can be read in each.
fn cgroups(guard_pid: u32, name: &str, mounts: &[Mount]) -> Vec<(Cgroup, PathBuf)> {
    let table = fs::read(format!("/proc/{guard_pid}/cgroup")).unwrap_or_default();
    let own = table.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.splitn(3, |&byte| byte == b':').skip(1);
        let controllers = core::str::from_utf8(fields.next()?).ok()?;
        let path = Path::new(OsStr::from_bytes(fields.next()?));
        (path.file_name()? == name).then_some((controllers, path))
    });
    own.filter_map(|(controllers, path)| {
        let unified = controllers.is_empty();
        let is_it = |mount: &&Mount| match (&mount.options, controllers.split(',').next()) {
            (None, _) => unified,
            (Some(options), Some(one)) => options.split(',').any(|word| word == one),
            (Some(_), None) => false,
        };
        let place = &mounts.iter().find(is_it)?.place;
        let dir = place.join(path.strip_prefix("/").ok()?);
        let named = match unified {
            true => fs::read_to_string(dir.join("cgroup.controllers")).ok()?,
            false => controllers.replace(',', " "),
        };
        let has = |name| named.split_whitespace().any(|it| it == name);
        let (memory, pids, io) = (has("memory"), has("pids"), has("io") || has("blkio"));
        Some((Cgroup { unified, memory, pids, cpu: false, io }, dir))
    })
    .collect()
}

/// Of users and of the kernel, in microseconds.
fn processor_time(cgroups: &[(Cgroup, PathBuf)]) -> [Option<u64>; 2] {
    let old = ["cpuacct.usage_user", "cpuacct.usage_sys"];
    let new = ["user_usec", "system_usec"];
    [0, 1].map(|index| {
        cgroups.iter().find_map(|(what, dir)| {
            let read = |file| fs::read_to_string(dir.join(file)).ok();
            match what.unified {
                true => usage::named(&read("cpu.stat")?, new[index]),
                false => usage::number(&read(old[index])?).map(|ns| ns / 1000),
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_it_is_called() {
        let stat = "7 (a) R 1 (b) S 3 7 7 0 -1 4194560 9 9 0 0 5 6 10 -1 20 0 4 0 99 8192 2 0 0";
        let process = Process::parse(7, stat).unwrap();
        let ticks = rustix::param::clock_ticks_per_second();
        assert_eq!((process.parent, process.name.as_str(), process.threads), (3, "a) R 1 (b", 4));
        assert_eq!(process.user_us, 15 * 1_000_000 / ticks);
        assert_eq!(process.system_us, 6 * 1_000_000 / ticks);
        assert_eq!(process.resident, 2 * u64::try_from(rustix::param::page_size()).unwrap());
        assert!(Process::parse(7, "7 (a) R 1").is_none());
    }

    #[test]
    fn who_descends_from_a_guard_is_a_member() {
        let process = |pid, parent| {
            let stat = format!("{pid} (p) S {parent} {}", "0 ".repeat(30));
            (pid, Process::parse(pid, &stat).unwrap())
        };
        // Pids that no process has: nobody is found by its namespace.
        let base = 1 << 30;
        let [guard, child, grandchild, other] = [base, base + 1, base + 2, base + 3];
        let all = [(guard, 1), (child, guard), (grandchild, child), (other, 1)];
        let all = Processes(all.into_iter().map(|(pid, parent)| process(pid, parent)).collect());
        let mut pids: Vec<u32> = all.members(guard).iter().map(|it| it.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [guard, child, grandchild]);
    }

    #[test]
    fn cgroups_are_where_their_top_is_mounted() {
        let line =
            "30 29 0:26 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory";
        let options = Some("rw,memory".to_owned());
        let place = "/sys/fs/cgroup/memory".into();
        assert_eq!(cgroup_mount(line), Some(Mount { options, place }));
        let line = "31 29 0:27 / /c rw - cgroup2 cgroup2 rw";
        assert_eq!(cgroup_mount(line), Some(Mount { options: None, place: "/c".into() }));
        assert_eq!(cgroup_mount("31 29 0:27 /part /c rw - cgroup2 cgroup2 rw"), None);
        assert_eq!(cgroup_mount("31 29 0:27 / /c rw - tmpfs tmpfs rw"), None);
    }
}
