//! What the files of a cgroup say of those in it (`man 7 cgroups`), in version 1 and 2. Whoever
//! asks brings what reads a file: the guard has directories that were opened, a user has paths.

use crate::message::Cgroup;
use crate::program::{Usage, Verdict};

/// How a number is found in the text of a file.
pub type Parse<'a> = &'a dyn Fn(&str) -> Option<u64>;

impl Usage {
    /// Takes in what one cgroup tells. `read` finds a number in a file of it; none if there is no
    /// such file, or no such number in it.
    pub fn count(&mut self, what: Cgroup, read: impl Fn(&str, Parse<'_>) -> Option<u64>) {
        let [now, peak] = match what.unified {
            true => ["memory.current", "memory.peak"],
            false => ["memory.usage_in_bytes", "memory.max_usage_in_bytes"],
        };
        if what.memory {
            self.memory = read(now, &number);
            self.memory_peak = read(peak, &number);
        }
        if what.pids {
            self.pids = read("pids.current", &number);
            self.pids_peak = read("pids.peak", &number);
        }
        // Version 2 counts it without a controller.
        if what.unified {
            self.cpu_us = read("cpu.stat", &|text| named(text, "usage_usec"));
        } else if what.cpu {
            self.cpu_us = read("cpuacct.usage", &number).map(|ns| ns / 1000);
        }
        if what.io {
            let (file, keys) = match what.unified {
                true => ("io.stat", ["rbytes=", "wbytes="]),
                false => ("blkio.throttle.io_service_bytes_recursive", ["Read", "Write"]),
            };
            [self.read, self.written] = keys.map(|key| read(file, &|text| moved(text, key)));
        }
    }
}

/// What the kernel's OOM killer has done in a cgroup with `memory`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ooms {
    kills: u64,
    /// How often the cgroup's own limit was in the way.
    limited: u64,
}

impl Ooms {
    /// What it has done so far; `read` is as for [`Usage::count`].
    pub fn of(what: Cgroup, read: impl Fn(&str, Parse<'_>) -> Option<u64>) -> Self {
        let (kills, limited) = if what.unified {
            let oom = |name| read("memory.events", &|text| named(text, name));
            (oom("oom_kill"), oom("oom"))
        } else {
            let kills = read("memory.oom_control", &|text| named(text, "oom_kill"));
            (kills, read("memory.failcnt", &number))
        };
        Self { kills: kills.unwrap_or(0), limited: limited.unwrap_or(0) }
    }

    /// What to make of a program that has failed, if the OOM killer was at work since `before`,
    /// and for whom: for the rocker's limit, or for the host.
    pub fn verdict_since(self, before: Self) -> Option<Verdict> {
        (self.kills > before.kills).then_some(if self.limited > before.limited {
            Verdict::MemoryLimitExceeded
        } else {
            Verdict::OutOfMemory
        })
    }
}

/// Bytes of all block devices. Without a line there were none.
fn moved(text: &str, key: &str) -> Option<u64> {
    Some(text.lines().filter_map(|line| transfer(line, key)).sum())
}

/// `8:0 rbytes=4096 wbytes=0 ..`, or `8:0 Read 4096`.
fn transfer(line: &str, key: &str) -> Option<u64> {
    let mut words = line.split_ascii_whitespace();
    let found = words.find_map(|word| word.strip_prefix(key))?;
    if found.is_empty() { number(words.next()?) } else { number(found) }
}

/// `oom_kill 3`, among other lines.
pub fn named(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| number(line.strip_prefix(name)?.strip_prefix(' ')?))
}

/// The only one in a file.
pub fn number(text: &str) -> Option<u64> {
    text.trim_ascii().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_names() {
        let events = "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(named(events, "oom"), Some(2));
        assert_eq!(named(events, "oom_kill"), Some(1));
        assert_eq!(named(events, "oom_"), None);
        assert_eq!(number("67108864\n"), Some(64 << 20));
        assert_eq!(number("max\n"), None);
    }

    #[test]
    fn processor_time_is_counted_wherever_it_can_be() {
        let count = |unified, cpu| {
            let mut usage = Usage::default();
            let read = |file: &str, parse: Parse<'_>| match file {
                "cpu.stat" => parse("usage_usec 7\nuser_usec 5\n"),
                "cpuacct.usage" => parse("7000\n"),
                _ => None,
            };
            usage.count(Cgroup { unified, cpu, ..Cgroup::default() }, read);
            usage.cpu_us
        };
        assert_eq!([count(true, true), count(true, false)], [Some(7); 2]);
        assert_eq!([count(false, true), count(false, false)], [Some(7), None]);
    }

    #[test]
    fn who_was_out_of_memory_is_told() {
        let ooms = |kills, limited| Ooms { kills, limited };
        let before = ooms(1, 5);
        assert_eq!(ooms(1, 9).verdict_since(before), None);
        assert_eq!(ooms(2, 5).verdict_since(before), Some(Verdict::OutOfMemory));
        assert_eq!(ooms(2, 6).verdict_since(before), Some(Verdict::MemoryLimitExceeded));
    }

    #[test]
    fn transfers_are_of_both_versions() {
        let line = "254:0 rbytes=4096 wbytes=512 rios=1 wios=1 dbytes=0 dios=0";
        assert_eq!([transfer(line, "rbytes="), transfer(line, "wbytes=")], [Some(4096), Some(512)]);
        assert_eq!(transfer("254:0 Read 8192", "Read"), Some(8192));
        assert_eq!(transfer("254:0 Write 1", "Read"), None);
        assert_eq!(transfer("Total 8192", "Read"), None);
        assert_eq!(moved("", "Read"), Some(0));
    }
}
