//! root.2: limits (`man 7 cgroups`). A rocker that has any gets a cgroup of its own before its
//! guard is cloned, in every hierarchy that one of them needs, and loses it at root.15.
//!
//! It lies below a parent that masters alone use, and is called as the rocker is. So its place is
//! its record: what is left of a master that was killed is found there by the next one.

use core::time::Duration;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use protocol::limits::REST_MS;
use protocol::request::cpu_ranges;
use protocol::{Error, Item, Limits, Name, Rule};
use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, flock, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use crate::hierarchies::{Controller, Hierarchy, look, open_dir, read, why_missing};
use crate::unmade::Unmade;

/// The period that quotas of processor time are for, in microseconds: the kernel's own default.
const PERIOD_US: u32 = 100_000;

/// How long to wait before the kernel is asked again to remove a cgroup, and for how many times.
/// What is there longer is a rocker that has lost its master.
pub(crate) const RETRY: Duration = Duration::from_millis(20);
pub(crate) const SOON: u32 = 100;

/// One cgroup of a rocker's.
#[derive(Debug)]
pub(crate) struct Made {
    /// What can be read in it.
    pub(crate) what: protocol::Cgroup,
    /// `cgroup.procs`, to be written to.
    pub(crate) procs: OwnedFd,
    /// To be read in.
    pub(crate) dir: OwnedFd,
}

/// ROCKER's part of this host's cgroups.
#[derive(Debug)]
pub(crate) struct Cgroups {
    /// The parent in every hierarchy, as `/proc/self/cgroup` would have it.
    path: PathBuf,
    used: Vec<Used>,
    /// What could not be removed yet: the kernel is still taking a process out of it.
    debts: Vec<Name>,
    /// How often that was tried since the last of them came.
    tries: u32,
}

/// A hierarchy, and the parent in it, once that is there. Its lock says that a master uses it.
#[derive(Debug)]
struct Used {
    hierarchy: Hierarchy,
    parent: Option<OwnedFd>,
    /// What is at work below the parent. For that nobody has to look at what is above it, which
    /// everybody may list, and so can keep whoever makes something there waiting (`steward.rs`).
    ready: Vec<Controller>,
}

impl Cgroups {
    /// Nothing is looked at before something is to be limited, or may be left.
    pub(crate) fn new(path: &Path) -> Self {
        let path = path.strip_prefix("/").unwrap_or(path).to_owned();
        Self { path, used: vec![], debts: vec![], tries: 0 }
    }

    /// Makes a rocker's cgroups and sets its limits. What a failure leaves is to be removed.
    /// Reading and writing are limited for each of these disks.
    pub(crate) fn make(
        &mut self,
        name: Name,
        limits: &Limits<'_>,
        disks: &[String],
    ) -> Result<Vec<Made>, Unmade> {
        if self.lacks(limits).is_some() {
            self.look();
        }
        if let Some((controller, item)) = self.lacks(limits) {
            let error = Error::Invalid { rule: Rule::NoController, item };
            return Err(Unmade::Rule(error, why_missing(controller)));
        }
        if limits.io_write.is_some() && !self.holds_writing() {
            let error = Error::Invalid { rule: Rule::NotHeld, item: Item::IoWrite };
            return Err(Unmade::Rule(error, String::new()));
        }
        let made = (0..self.used.len()).map(|index| self.make_one(index, name, limits, disks));
        made.filter_map(Result::transpose).collect()
    }

    /// root.15: removes a rocker's cgroups, now or as soon as the kernel lets them go.
    pub(crate) fn remove(&mut self, name: Name) {
        if !self.is_gone(name) {
            self.debts.push(name);
            self.tries = 0;
        }
    }

    /// Tries again what could not be removed.
    pub(crate) fn settle(&mut self) {
        self.tries = self.tries.saturating_add(1);
        let debts = core::mem::take(&mut self.debts);
        self.debts = debts.into_iter().filter(|&name| !self.is_gone(name)).collect();
    }

    /// When to try again, from now on.
    pub(crate) fn retry(&self) -> Duration {
        match self.debts.len() {
            0 => Duration::MAX,
            _ if self.may_hope() => RETRY,
            _ => Duration::from_millis(REST_MS.into()),
        }
    }

    /// Whether what is left may go within a moment.
    pub(crate) fn may_hope(&self) -> bool {
        !self.debts.is_empty() && self.tries < SOON
    }

    /// Removes what masters before this one have left: launches and ends were under way when they
    /// were killed. These live on.
    pub(crate) fn sweep(&mut self, living: &[Name]) {
        self.look();
        for index in 0..self.used.len() {
            let Ok(parent) = open_dir(&self.used[index].hierarchy.top, &self.path) else {
                continue;
            };
            self.adopt(index, parent, living);
        }
    }

    /// The end of this master: the parents go, if nobody else uses them.
    pub(crate) fn leave(&mut self) {
        self.settle();
        for Used { hierarchy, parent, .. } in self.used.drain(..) {
            let Some(parent) = parent else { continue };
            if flock(&parent, FlockOperation::NonBlockingLockExclusive).is_ok() {
                // Where rockers live on it is busy.
                let _ = unlinkat(&hierarchy.top, &self.path, AtFlags::REMOVEDIR);
            }
        }
    }

    /// A controller that a limit needs, and that is not there.
    fn lacks(&self, limits: &Limits<'_>) -> Option<(Controller, Item)> {
        let there =
            |it| self.used.iter().any(|Used { hierarchy, .. }| hierarchy.controllers.contains(&it));
        let needed = Controller::ALL.into_iter().filter_map(|it| Some((it, limit(it, limits)?)));
        { needed }.find(|(it, _)| !there(*it))
    }

    /// Whether what is written later, by the kernel, counts as that of who wrote it: then `memory`
    /// knows whose it is, and `io` asks it.
    fn holds_writing(&self) -> bool {
        self.used.iter().any(|Used { hierarchy, .. }| {
            let has = |it| hierarchy.controllers.contains(&it);
            hierarchy.unified && has(Controller::Memory) && has(Controller::Io)
        })
    }

    /// Looks for hierarchies that have been mounted since.
    fn look(&mut self) {
        for mut hierarchy in look() {
            let known = |it: &Controller| {
                self.used.iter().any(|used| used.hierarchy.controllers.contains(it))
            };
            hierarchy.controllers.retain(|it| !known(it));
            if !hierarchy.controllers.is_empty() {
                self.used.push(Used { hierarchy, parent: None, ready: vec![] });
            }
        }
    }

    /// The rocker's cgroup in this hierarchy, if that has anything to do.
    fn make_one(
        &mut self,
        index: usize,
        name: Name,
        limits: &Limits<'_>,
        disks: &[String],
    ) -> Result<Option<Made>, Unmade> {
        let hierarchy = &self.used[index].hierarchy;
        let unified = hierarchy.unified;
        // These two are there to count as well.
        let counts = |it: &Controller| matches!(it, Controller::Memory | Controller::Io);
        let wanted = hierarchy.controllers.iter().copied();
        let wanted: Vec<Controller> =
            wanted.filter(|it| counts(it) || limit(*it, limits).is_some()).collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        // Who finds the parent otherwise than it was left has it prepared again.
        let was_ready = core::mem::take(&mut self.used[index].ready);
        let is_ready = wanted.iter().all(|it| was_ready.contains(it));
        if !is_ready {
            self.prepare_parent(index, &wanted)?;
        }
        let (parent, group) = match self.make_below(index, name) {
            // It is gone.
            Err(Unmade::System(Errno::NOENT, _)) if is_ready => {
                self.prepare_parent(index, &wanted)?;
                self.make_below(index, name)?
            }
            made => made?,
        };
        for controller in &wanted {
            group.limit(*controller, unified, limits, disks, &parent)?;
        }
        let more = wanted.iter().filter(|it| !was_ready.contains(it));
        self.used[index].ready = was_ready.iter().chain(more).copied().collect();
        let procs = group.open_to_write("cgroup.procs")?;
        let has = |it| wanted.contains(&it);
        let what = protocol::Cgroup {
            unified,
            memory: has(Controller::Memory),
            pids: has(Controller::Pids),
            // In version 2 it counts without a controller; in version 1 another one does.
            cpu: unified,
            io: has(Controller::Io),
        };
        Ok(Some(Made { what, procs, dir: group.dir }))
    }

    /// The parent, and the rocker's cgroup in it. Only root lists that: an App in a cgroup namespace
    /// of its own could pass it on to somebody who then keeps it from being removed.
    fn make_below(&self, index: usize, name: Name) -> Result<(Group, Group), Unmade> {
        let Used { hierarchy, parent: Some(parent), .. } = &self.used[index] else {
            return Err(Unmade::System(Errno::NOENT, String::new()));
        };
        let parent = Group::top(parent, &hierarchy.place.join(&self.path))?;
        let group = parent.make(name.as_str(), Mode::from_raw_mode(0o711))?;
        Ok((parent, group))
    }

    /// Makes the parent, with these controllers at work in what is below it.
    fn prepare_parent(&mut self, index: usize, wanted: &[Controller]) -> Result<(), Unmade> {
        let Hierarchy { unified, top, place, .. } = &self.used[index].hierarchy;
        let mut group = Group::top(top, place)?;
        for name in &self.path {
            if *unified {
                self.delegate(index, &group, wanted)?;
            }
            let above = group;
            group = above.make_or_open(name.as_ref())?;
            if !*unified && wanted.contains(&Controller::Cpuset) {
                group.inherit_cpus(&above)?;
            }
        }
        if *unified {
            self.delegate(index, &group, wanted)?;
        }
        self.adopt(index, group.dir, &[]);
        Ok(())
    }

    /// Version 2: has these controllers at work below a cgroup. No process may be in that one
    /// then; this one itself steps aside.
    fn delegate(&self, index: usize, group: &Group, wanted: &[Controller]) -> Result<(), Unmade> {
        const FILE: &str = "cgroup.subtree_control";
        let there = read(&group.dir, FILE).unwrap_or_default();
        let missing =
            wanted.iter().filter(|it| !there.split_whitespace().any(|name| name == it.name()));
        let text: Vec<String> = missing.map(|it| format!("+{}", it.name())).collect();
        if text.is_empty() {
            return Ok(());
        }
        let text = text.join(" ");
        match group.write(FILE, &text) {
            Err(Unmade::System(Errno::BUSY, _)) => {}
            written => return written,
        }
        let me = std::process::id().to_string();
        if read(&group.dir, "cgroup.procs").is_ok_and(|all| all.lines().any(|pid| pid == me)) {
            let Hierarchy { top, place, .. } = &self.used[index].hierarchy;
            let mut aside = Group::top(top, place)?;
            for name in self.path.iter().chain(["master".as_ref()]) {
                aside = aside.make_or_open(name.as_ref())?;
            }
            aside.write("cgroup.procs", "0")?;
        }
        group.write(FILE, &text)
    }

    /// Keeps a parent, and clears it of what nobody alive has made.
    fn adopt(&mut self, index: usize, parent: OwnedFd, living: &[Name]) {
        if flock(&parent, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let entries = Dir::read_from(&parent).into_iter().flatten().flatten();
            let names = entries.filter_map(|entry| Name::new(entry.file_name().to_bytes()).ok());
            let left = names.filter(|name| !living.contains(name) && !self.debts.contains(name));
            let left: Vec<Name> = left.collect();
            self.debts.extend(left);
            self.tries = 0;
        }
        // Another master may be alive. Nobody is to sweep while this one is.
        let _ = flock(&parent, FlockOperation::NonBlockingLockShared);
        self.used[index].parent = Some(parent);
        self.settle();
    }

    /// Removes from all hierarchies what can be removed; whether that was all.
    fn is_gone(&self, name: Name) -> bool {
        let parents = self.used.iter().filter_map(|used| used.parent.as_ref());
        let removed = parents.map(|parent| unlinkat(parent, name.as_str(), AtFlags::REMOVEDIR));
        removed.filter(|answer| !matches!(answer, Ok(()) | Err(Errno::NOENT))).count() == 0
    }
}

/// What of these limits a controller sees to; none: nothing.
fn limit(controller: Controller, limits: &Limits<'_>) -> Option<Item> {
    match controller {
        Controller::Memory => limits.memory.map(|_| Item::Memory),
        Controller::Pids => limits.pids.map(|_| Item::Pids),
        Controller::Cpu => {
            let weight = limits.cpu_weight.map(|_| Item::CpuWeight);
            limits.cpu_millis.map(|_| Item::Cpu).or(weight)
        }
        Controller::Cpuset => limits.cpus.map(|_| Item::Cpus),
        Controller::Io => {
            let write = limits.io_write.map(|_| Item::IoWrite);
            limits.io_read.map(|_| Item::IoRead).or(write)
        }
    }
}

/// The files to write, each for one limit.
fn settings(
    controller: Controller,
    unified: bool,
    limits: &Limits<'_>,
    disks: &[String],
) -> Vec<(Item, &'static str, String)> {
    let Limits { memory, swap, pids, cpu_millis, cpu_weight, cpus, io_read, io_write } = *limits;
    let quota_us = cpu_millis.map(|millis| u64::from(millis) * u64::from(PERIOD_US) / 1000);
    let all: Vec<Option<(Item, &str, String)>> = match (controller, unified) {
        (Controller::Memory, true) => vec![
            memory.map(|bytes| (Item::Memory, "memory.max", bytes.to_string())),
            swap.map(|bytes| (Item::Swap, "memory.swap.max", bytes.to_string())),
        ],
        (Controller::Memory, false) => vec![
            memory.map(|bytes| (Item::Memory, "memory.limit_in_bytes", bytes.to_string())),
            // Both together.
            swap.zip(memory).map(|(swap, memory)| {
                let both = swap.saturating_add(memory).to_string();
                (Item::Swap, "memory.memsw.limit_in_bytes", both)
            }),
        ],
        // The guard is in it, too.
        (Controller::Pids, _) => {
            vec![pids.map(|count| (Item::Pids, "pids.max", (count + 1).to_string()))]
        }
        (Controller::Cpu, true) => vec![
            quota_us.map(|quota| (Item::Cpu, "cpu.max", format!("{quota} {PERIOD_US}"))),
            cpu_weight.map(|weight| (Item::CpuWeight, "cpu.weight", weight.to_string())),
        ],
        (Controller::Cpu, false) => vec![
            quota_us.map(|_| (Item::Cpu, "cpu.cfs_period_us", PERIOD_US.to_string())),
            quota_us.map(|quota| (Item::Cpu, "cpu.cfs_quota_us", quota.to_string())),
            cpu_weight.map(|weight| {
                // What others have is 100 here and 1024 there.
                let shares = u32::from(weight) * 1024 / 100;
                (Item::CpuWeight, "cpu.shares", shares.to_string())
            }),
        ],
        (Controller::Cpuset, _) => {
            vec![cpus.map(|list| (Item::Cpus, "cpuset.cpus", list.to_owned()))]
        }
        (Controller::Io, true) => {
            let both = disks.iter().flat_map(|disk| {
                [
                    io_read.map(|it| (Item::IoRead, "io.max", format!("{disk} rbps={it}"))),
                    io_write.map(|it| (Item::IoWrite, "io.max", format!("{disk} wbps={it}"))),
                ]
            });
            both.collect()
        }
        // Here writing cannot be held: `holds_writing`.
        (Controller::Io, false) => {
            let file = "blkio.throttle.read_bps_device";
            let read = |disk| io_read.map(|it| (Item::IoRead, file, format!("{disk} {it}")));
            disks.iter().map(read).collect()
        }
    };
    all.into_iter().flatten().collect()
}

/// Whether all processors of one list are in the other.
fn has_cpus(there: &str, asked: &str) -> bool {
    let there: Vec<_> = cpu_ranges(there.trim_end()).flatten().collect();
    let is_there = |cpu: u16| there.iter().any(|&(first, last)| (first..=last).contains(&cpu));
    cpu_ranges(asked).flatten().all(|(first, last)| (first..=last).all(is_there))
}

/// A directory of a hierarchy, and how people call it.
#[derive(Debug)]
struct Group {
    dir: OwnedFd,
    place: PathBuf,
}

impl Group {
    fn top(dir: &OwnedFd, place: &Path) -> Result<Self, Unmade> {
        let refused = |errno| Unmade::System(errno, format!("cd {}", place.display()));
        Ok(Self { dir: open_dir(dir, ".").map_err(refused)?, place: place.to_owned() })
    }

    fn failed(&self, command: &str, name: &str) -> impl FnOnce(Errno) -> Unmade {
        let command = format!("{command} {}", self.place.join(name).display());
        move |errno| Unmade::System(errno, command)
    }

    fn make(&self, name: &str, mode: Mode) -> Result<Self, Unmade> {
        mkdirat(&self.dir, name, mode).map_err(self.failed("mkdir", name))?;
        self.open(name)
    }

    /// Only root looks in: nobody else may lock it.
    fn make_or_open(&self, name: &Path) -> Result<Self, Unmade> {
        let name = name.to_string_lossy();
        match mkdirat(&self.dir, &*name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => self.open(&name),
            Err(errno) => Err(self.failed("mkdir", &name)(errno)),
        }
    }

    fn open(&self, name: &str) -> Result<Self, Unmade> {
        let dir = open_dir(&self.dir, name).map_err(self.failed("cd", name))?;
        Ok(Self { dir, place: self.place.join(name) })
    }

    fn open_to_write(&self, file: &str) -> Result<OwnedFd, Unmade> {
        let how = OFlags::WRONLY | OFlags::CLOEXEC;
        openat(&self.dir, file, how, Mode::empty()).map_err(self.failed("open", file))
    }

    /// The kernel takes a value in one write, or not at all.
    fn write(&self, file: &str, text: &str) -> Result<(), Unmade> {
        let how = OFlags::WRONLY | OFlags::CLOEXEC;
        openat(&self.dir, file, how, Mode::empty())
            .and_then(|opened| {
                let written = File::from(opened).write_all(text.as_bytes());
                written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            })
            .map_err(self.failed(&format!("echo {text} >"), file))
    }

    /// Sets what a controller is to limit.
    fn limit(
        &self,
        controller: Controller,
        unified: bool,
        limits: &Limits<'_>,
        disks: &[String],
        parent: &Self,
    ) -> Result<(), Unmade> {
        let invalid = |rule, item, words| Err(Unmade::Rule(Error::Invalid { rule, item }, words));
        if let (Controller::Cpuset, Some(asked)) = (controller, limits.cpus) {
            if !unified {
                self.inherit_cpus(parent)?;
            }
            let file = if unified { "cpuset.cpus.effective" } else { "cpuset.effective_cpus" };
            let there = read(&parent.dir, file).map_err(parent.failed("cat", file))?;
            // A set that the host lacks would be no limit at all.
            if !has_cpus(&there, asked) {
                return invalid(Rule::NoSuchCpu, Item::Cpus, String::new());
            }
        }
        for (item, file, text) in settings(controller, unified, limits, disks) {
            match self.write(file, &text) {
                // The kernel was built, or started, without this part of it.
                Err(Unmade::System(Errno::NOENT, command)) => {
                    return invalid(Rule::NoController, item, command);
                }
                written => written?,
            }
        }
        Ok(())
    }

    /// Version 1: a cgroup without processors and memory nodes takes no process.
    fn inherit_cpus(&self, parent: &Self) -> Result<(), Unmade> {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if read(&self.dir, file).is_ok_and(|text| !text.trim_end().is_empty()) {
                continue;
            }
            let theirs = read(&parent.dir, file).map_err(parent.failed("cat", file))?;
            self.write(file, theirs.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Limits<'_> = Limits {
        memory: Some(64 << 20),
        swap: Some(1 << 20),
        pids: Some(32),
        cpu_millis: Some(500),
        cpu_weight: Some(1),
        cpus: Some("0"),
        io_read: Some(1 << 20),
        io_write: Some(2 << 20),
    };

    fn written(unified: bool) -> String {
        let disks = ["8:0", "259:16"].map(String::from);
        let all = Controller::ALL.into_iter().flat_map(|it| settings(it, unified, &ALL, &disks));
        all.map(|(_, file, text)| format!("{file}={text};")).collect()
    }

    #[test]
    fn each_version_has_its_files() {
        assert_eq!(
            written(true),
            "memory.max=67108864;memory.swap.max=1048576;pids.max=33;cpu.max=50000 100000;\
             cpu.weight=1;cpuset.cpus=0;io.max=8:0 rbps=1048576;io.max=8:0 wbps=2097152;\
             io.max=259:16 rbps=1048576;io.max=259:16 wbps=2097152;"
        );
        assert_eq!(
            written(false),
            "memory.limit_in_bytes=67108864;memory.memsw.limit_in_bytes=68157440;pids.max=33;\
             cpu.cfs_period_us=100000;cpu.cfs_quota_us=50000;cpu.shares=10;cpuset.cpus=0;\
             blkio.throttle.read_bps_device=8:0 1048576;\
             blkio.throttle.read_bps_device=259:16 1048576;"
        );
        let none = Limits::default();
        assert!(Controller::ALL.into_iter().all(|it| settings(it, true, &none, &[]).is_empty()));
    }

    #[test]
    fn processors_must_be_there() {
        assert!(has_cpus("0-1,4\n", "1,4,0-1"));
        for asked in ["2", "0-2", "4-5"] {
            assert!(!has_cpus("0-1,4\n", asked), "{asked}");
        }
        assert!(!has_cpus("\n", "0"));
    }
}
