//! What a launch could leave in the kernel: loop devices, mounts, namespaces, processes,
//! cgroups, sockets, files and descriptors.
//!
//! Other programs on the host come and go, so only what can be ours counts: what names a
//! scratch directory or ROCKER, and what belongs to a descendant of this process. For that the
//! [runner](crate::runner) is a subreaper, whose descendants are all that a test has started.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::process;
use crate::scratch::is_ours;
use crate::{SOON, within};

/// What is there at one moment.
#[derive(Clone, Debug, Default)]
pub struct Leaks {
    found: BTreeSet<Found>,
    watched_dirs: Vec<PathBuf>,
    watched_pids: Vec<u32>,
    fds: BTreeMap<(u32, String), usize>,
}

/// One thing: its kind, and what it is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Found(&'static str, String);

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LEAK {:<7} {}", self.0, self.1)
    }
}

impl Leaks {
    /// What there is now. `/run/rocker` is watched as well.
    pub fn snapshot() -> Self {
        Self::default().watch_dir("/run/rocker").taken()
    }

    /// Files in this directory count too.
    #[must_use]
    pub fn watch_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.watched_dirs.push(dir.as_ref().to_owned());
        self.taken()
    }

    /// Descriptors of this process count too.
    #[must_use]
    pub fn watch_pid(mut self, pid: u32) -> Self {
        self.watched_pids.push(pid);
        self.taken()
    }

    fn taken(mut self) -> Self {
        self.found.clear();
        for collect in [loops, mounts, processes_and_namespaces, cgroups, unix_sockets] {
            collect(&mut self.found);
        }
        let files: Vec<PathBuf> = self.watched_dirs.clone();
        files.iter().for_each(|dir| tree(dir, &mut self.found));
        self.fds = descriptors(&self.watched_pids);
        self
    }

    /// What is there now and was not then. The kernel takes some things apart lazily, so this
    /// waits for a few seconds before it believes in a leak.
    pub fn found_since(&self) -> Vec<String> {
        let mut leaks = vec![];
        within(SOON, || {
            leaks = self.now();
            leaks.is_empty()
        });
        leaks
    }

    /// The same at once.
    pub fn now(&self) -> Vec<String> {
        self.difference(&self.clone().taken())
    }

    /// # Panics
    ///
    /// If something is left.
    #[track_caller]
    pub fn assert_none(&self) {
        let leaks = self.found_since();
        assert!(leaks.is_empty(), "{} leaks:\n{}", leaks.len(), leaks.join("\n"));
    }

    /// Who has mounts of ours, ours or not: to find out why something is left.
    pub fn holders() -> String {
        let has_ours = |pid: &u32| {
            let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            is_ours(&table)
        };
        let all = process::all().into_iter().filter(has_ours);
        all.map(|pid| format!("{pid} {:?}", process::stat(pid))).collect::<Vec<_>>().join(", ")
    }

    fn difference(&self, now: &Self) -> Vec<String> {
        let things = now.found.difference(&self.found).map(ToString::to_string);
        let fds = now.fds.iter().filter_map(|(key @ (pid, target), &count)| {
            let before = self.fds.get(key).copied().unwrap_or(0);
            let text = format!("process {pid}, {target}: {before} -> {count}");
            (count > before).then(|| Found("fd", text).to_string())
        });
        things.chain(fds).collect()
    }
}

/// Loop devices bound to a file of ours.
fn loops(found: &mut BTreeSet<Found>) {
    let Ok(entries) = fs::read_dir("/sys/block") else { return };
    for entry in entries.flatten() {
        let Ok(file) = fs::read_to_string(entry.path().join("loop/backing_file")) else { continue };
        if is_ours(&file) {
            let name = entry.file_name().to_string_lossy().into_owned();
            found.insert(Found("loop", format!("{name} {}", file.trim_end())));
        }
    }
}

/// Mounts of the host and of this process: all, since nobody mounts by the way.
fn mounts(found: &mut BTreeSet<Found>) {
    for pid in ["1", "self"] {
        let Ok(table) = fs::read_to_string(format!("/proc/{pid}/mountinfo")) else { continue };
        for line in table.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let kind: Vec<&str> =
                fields.iter().skip_while(|f| **f != "-").skip(1).copied().collect();
            let of_rocker = ["squashfs", "overlay"].contains(kind.first().unwrap_or(&""));
            if is_ours(line) || of_rocker {
                let at = fields.get(4).unwrap_or(&"");
                found.insert(Found("mount", format!("{at} {} of {pid}", kind.join(" "))));
            }
        }
    }
}

/// Descendants of this process, and the namespaces that they, or their descriptors, hold.
fn processes_and_namespaces(found: &mut BTreeSet<Found>) {
    let me = std::process::id();
    let namespaces = |pid: u32| -> BTreeMap<String, String> {
        let links = fs::read_dir(format!("/proc/{pid}/ns")).into_iter().flatten().flatten();
        let links = links.filter_map(|entry| fs::read_link(entry.path()).ok());
        let named =
            links.map(|link| (link.to_string_lossy().into_owned(), format!("process {pid}")));
        named.collect()
    };
    let own = namespaces(me);
    let mut all = BTreeMap::new();
    for (pid, stat) in process::descendants(me) {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let zombie = if stat.state == 'Z' { " ZOMBIE" } else { "" };
        let text = format!("{pid}/{} {}{zombie} {command}", stat.start, stat.comm);
        found.insert(Found("process", text));
        all.extend(namespaces(pid));
    }
    for pid in process::descendants(me).into_iter().map(|(pid, _)| pid).chain([me]) {
        for (fd, link) in process::fd_links(pid) {
            if ["mnt:[", "pid:[", "user:["].iter().any(|kind| link.starts_with(kind)) {
                all.insert(link, format!("descriptor {fd} of process {pid}"));
            }
        }
    }
    for (namespace, holder) in all {
        if !own.contains_key(&namespace) {
            found.insert(Found("ns", format!("{namespace} held by {holder}")));
        }
    }
}

/// Directories of cgroup hierarchies that are called after ROCKER.
fn cgroups(found: &mut BTreeSet<Found>) {
    fn walk(dir: &Path, depth: usize, found: &mut BTreeSet<Found>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().contains("rocker") {
                    found.insert(Found("cgroup", entry.path().display().to_string()));
                }
                if depth > 0 {
                    walk(&entry.path(), depth - 1, found);
                }
            }
        }
    }
    walk(Path::new("/sys/fs/cgroup"), 4, found);
}

/// Bound unix sockets of ours, abstract ones too.
fn unix_sockets(found: &mut BTreeSet<Found>) {
    for line in fs::read_to_string("/proc/net/unix").unwrap_or_default().lines().skip(1) {
        let name = line.split_whitespace().nth(7).unwrap_or("");
        if is_ours(name) || name.contains("@rocker") {
            found.insert(Found("socket", name.to_owned()));
        }
    }
}

fn tree(dir: &Path, found: &mut BTreeSet<Found>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        found.insert(Found("file", entry.path().display().to_string()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            tree(&entry.path(), found);
        }
    }
}

/// How many descriptors each of these processes has to each target, whichever inode it is.
fn descriptors(pids: &[u32]) -> BTreeMap<(u32, String), usize> {
    let mut counts = BTreeMap::new();
    for &pid in pids {
        let links = process::fd_links(pid).into_values();
        for link in links.filter(|link| !process::is_cgroup(link)) {
            let kind = link.split(":[").next().unwrap_or(&link).to_owned();
            *counts.entry((pid, kind)).or_insert(0) += 1;
        }
    }
    counts
}
