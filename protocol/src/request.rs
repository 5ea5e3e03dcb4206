//! What a caller asks for (root.1), and the rules it must keep. Parsed once: a [`Path`] that
//! exists keeps the rules for paths, a [`Request`] that was [checked](Request::check) keeps all.

use core::fmt;

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Item, Result, Rule};
use crate::limits::{
    CPU_MILLIS, CPU_WEIGHTS, CPUS_MAX, DEVICES_MAX, IO_MIN, MEMORY_MIN, OVERLAY_DIRS_MAX, PATH_MAX,
    PIDS_MAX, TIMEOUT_MS_MAX,
};
use crate::program::Strings;

/// An absolute path: bytes as Linux has them, at most [`PATH_MAX`], without `..` and without
/// control bytes, which would forge lines in messages and in `/proc/self/mountinfo`.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Path<'a>(&'a [u8]);

impl<'a> Path<'a> {
    /// Checks the rules for paths.
    pub fn new(bytes: &'a [u8]) -> core::result::Result<Self, Rule> {
        let first = *bytes.first().ok_or(Rule::Empty)?;
        if bytes.iter().any(u8::is_ascii_control) {
            return Err(Rule::ControlByte);
        }
        if first != b'/' {
            return Err(Rule::Relative);
        }
        if bytes.len() > PATH_MAX {
            return Err(Rule::TooLong);
        }
        if bytes.split(|&b| b == b'/').any(|component| component == b"..") {
            return Err(Rule::ParentDir);
        }
        Ok(Self(bytes))
    }

    /// As given.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The names on the way down: empty components and `.` mean nothing to the kernel either.
    pub fn components(self) -> impl Iterator<Item = &'a [u8]> {
        self.0.split(|&b| b == b'/').filter(|c| !c.is_empty() && *c != b".")
    }

    /// Whether `self` is `other` or lies below it, by its names alone.
    pub fn is_at_or_below(self, other: Self) -> bool {
        let mut mine = self.components();
        other.components().all(|name| mine.next() == Some(name))
    }

    /// Whether the first name is one of `tops`, or there is none: `/` itself.
    fn is_root_or_below(self, tops: &[&[u8]]) -> bool {
        self.components().next().is_none_or(|first| tops.contains(&first))
    }
}

impl fmt::Debug for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// For people: a byte that is not UTF-8 becomes U+FFFD.
impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_str("\u{fffd}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Path<'_> {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> core::result::Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Path<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> core::result::Result<Self, D::Error> {
        Self::new(<&[u8]>::deserialize(deserializer)?)
            .map_err(|_| serde::de::Error::custom("a path against the rules"))
    }
}

/// Which directories get a writable layer of the App's own.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Overlays<'a> {
    /// `app_overlay_dirs`; none at all is fine.
    #[serde(borrow)]
    Dirs(Vec<Path<'a>, OVERLAY_DIRS_MAX>),
    /// overlay.0: all visible top directories except `/proc`, `/sys`, `/dev` and `/run`.
    AllTopDirs,
}

impl Overlays<'_> {
    /// Whether nothing is to be overlaid.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Dirs(dirs) if dirs.is_empty())
    }
}

/// How ids inside the rocker stand for ids outside. More ways may follow; this is the one
/// that gives an App nothing it would not have without a rocker.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Ids {
    /// The App's own uid and gid are mapped to themselves and nothing else is mapped: any
    /// other owner shows as 65534.
    #[default]
    Identity,
    /// Inside, the App's uid and gid are these; outside, the request's. Nothing else is mapped,
    /// and uid 0 inside is no more than another: no program has a capability. For rockers that
    /// take orders: who enters one from outside would be nobody there.
    Inside {
        /// Its uid.
        uid: u32,
        /// Its gid.
        gid: u32,
    },
}

impl Ids {
    /// What the App's uid and gid are inside.
    pub const fn inside(self, uid: u32, gid: u32) -> (u32, u32) {
        match self {
            Self::Identity => (uid, gid),
            Self::Inside { uid, gid } => (uid, gid),
        }
    }
}

/// Which system calls the App may make.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Seccomp<'a> {
    /// Those of the default list; the others fail.
    #[default]
    Default,
    /// Any.
    Unconfined,
    /// Any; the kernel's log tells of those that are not on the default list.
    Log,
    /// As this filter says: an array of `struct sock_filter` (`man 2 seccomp`).
    Filter(&'a [u8]),
}

/// `BPF_MAXINSNS`: the kernel takes no more instructions.
pub const FILTER_MAX: usize = 4096;

/// Whether these bytes may be a filter, of instructions of 8 bytes; what they mean the kernel
/// checks.
pub const fn is_filter(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.len().is_multiple_of(8) && bytes.len() <= 8 * FILTER_MAX
}

/// What all processes of a rocker may use together (`man 7 cgroups`); none: as much as there is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Limits<'a> {
    /// Bytes of memory, without swap; the guard's own, some 200 KiB, and what the kernel keeps for
    /// them are part of it.
    pub memory: Option<u64>,
    /// Bytes of swap; with [`memory`](Self::memory) only.
    pub swap: Option<u64>,
    /// Processes and threads, the guard left out. An App that is entered and not started by the
    /// guard needs one more for a moment.
    pub pids: Option<u32>,
    /// Processor time, in thousandths of one processor.
    pub cpu_millis: Option<u32>,
    /// Share of the processors where they are wanted by others too, 1 to 10000; others have 100.
    pub cpu_weight: Option<u16>,
    /// The processors themselves, as a list: `0-1,3`.
    pub cpus: Option<&'a str>,
    /// Bytes a second that are read from the disk of the package, and from that of the data dir
    /// if it is another.
    pub io_read: Option<u64>,
    /// Bytes a second that are written there; with cgroups of version 2 only.
    pub io_write: Option<u64>,
}

impl Limits<'_> {
    /// Whether there is any.
    pub fn is_any(&self) -> bool {
        *self != Self::default()
    }

    /// Checks what can be checked without the host.
    pub fn check(&self) -> Result<()> {
        let is_io = |bytes: Option<u64>| bytes.is_none_or(|bytes| bytes >= IO_MIN);
        let memory = self.memory.is_none_or(|bytes| bytes >= MEMORY_MIN);
        let pids = self.pids.is_none_or(|count| (1..=PIDS_MAX).contains(&count));
        let cpu = self.cpu_millis.is_none_or(|millis| CPU_MILLIS.contains(&millis));
        let weight = self.cpu_weight.is_none_or(|weight| CPU_WEIGHTS.contains(&weight));
        for (kept, rule, item) in [
            (memory, Rule::MemoryOutOfRange, Item::Memory),
            (pids, Rule::PidsOutOfRange, Item::Pids),
            (cpu, Rule::CpuOutOfRange, Item::Cpu),
            (weight, Rule::CpuWeightOutOfRange, Item::CpuWeight),
            (is_io(self.io_read), Rule::IoOutOfRange, Item::IoRead),
            (is_io(self.io_write), Rule::IoOutOfRange, Item::IoWrite),
        ] {
            if !kept {
                return broken(rule, item);
            }
        }
        if self.swap.is_some() && self.memory.is_none() {
            return broken(Rule::NoMemoryLimit, Item::Swap);
        }
        match self.cpus {
            Some(list) if list.len() > CPUS_MAX || cpu_ranges(list).any(|it| it.is_none()) => {
                broken(Rule::NotCpus, Item::Cpus)
            }
            _ => Ok(()),
        }
    }
}

/// The ranges of a list of processors, first and last; none for what is not one.
pub fn cpu_ranges(list: &str) -> impl Iterator<Item = Option<(u16, u16)>> {
    // `parse` takes a sign.
    let number = |digits: &str| {
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u16>().ok())?
    };
    list.split(',').map(move |range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (number(first)?, number(last)?);
        (first <= last).then_some((first, last))
    })
}

/// Which `/dev` the App sees.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Dev<'a> {
    /// One of the rocker's own: [`crate::devices`].
    #[default]
    Own,
    /// The host's, with all that is mounted there.
    Host,
    /// One of the rocker's own, and in it these of the host's, by their paths below `/dev`.
    #[serde(borrow)]
    With(Strings<'a>),
}

impl<'a> Dev<'a> {
    /// Whether it is not the host's.
    pub fn is_own(self) -> bool {
        self != Self::Host
    }

    /// The host's devices in it.
    pub fn named(self) -> impl Iterator<Item = core::result::Result<Path<'a>, Rule>> {
        let named = if let Self::With(named) = self { named } else { Strings::default() };
        named.texts().map(|name| {
            let path = Path::new(name)?;
            let mut names = path.components();
            let is_below = names.next() == Some(b"dev") && names.next().is_some();
            if is_below { Ok(path) } else { Err(Rule::WrongType) }
        })
    }
}

/// What a rocker is to be beyond the documents. The default asks for nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Options<'a> {
    /// The caller will give commands (exec.0), and enter nothing.
    pub commanded: bool,
    /// A commanded rocker does not end with its caller's connection, but with its last process.
    pub stays: bool,
    /// What the App writes to its overlays need not survive a crash of the machine.
    pub volatile: bool,
    /// The App may make user namespaces of its own.
    pub user_namespaces: bool,
    /// Which system calls it may make.
    #[serde(borrow)]
    pub seccomp: Seccomp<'a>,
    /// What it may use.
    pub limits: Limits<'a>,
    /// Which devices it sees.
    #[serde(borrow)]
    pub dev: Dev<'a>,
    /// A second wall around each of its programs: `man 7 landlock`.
    pub landlock: bool,
}

/// root.1: what to start and where. 001 names the first seven fields and what they mean.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Request<'a> {
    /// The caller's own number for the App; ROCKER only shows it.
    pub app_id: u32,
    /// The App's user: real, effective, saved and file system uid.
    pub uid: u32,
    /// The App's group, its only one.
    pub gid: u32,
    /// The squashfs package.
    #[serde(borrow)]
    pub package: Path<'a>,
    /// Where the package is mounted.
    pub exec_dir: Path<'a>,
    /// Where the overlays' layers are kept, in a directory `.rocker` of root's own.
    pub data_dir: Option<Path<'a>>,
    /// What is overlaid.
    pub overlays: Overlays<'a>,
    /// Whose ids are whose.
    pub ids: Ids,
    /// The whole launch, root.1 to root.7, takes at most this long, in milliseconds.
    pub timeout_ms: u32,
    /// Whether every actor reports its steps.
    pub trace: bool,
    /// All else.
    pub options: Options<'a>,
}

/// Directories that are the running system itself (002, overlay.0; KERNEL A18): an overlay
/// over them breaks the host's live files or does nothing.
const LIVE_DIRS: [&[u8]; 4] = [b"proc", b"sys", b"dev", b"run"];

/// Where neither package nor layers can be: file systems that hold no directories of ours.
const API_DIRS: [&[u8]; 3] = [b"proc", b"sys", b"dev"];

impl Request<'_> {
    /// Checks every rule that can be checked without looking at a file system.
    pub fn check(&self) -> Result<()> {
        for (id, item) in [(self.uid, Item::Uid), (self.gid, Item::Gid)] {
            match id {
                0 => return broken(Rule::Root, item),
                u32::MAX => return broken(Rule::NoSuchId, item),
                _ => {}
            }
        }
        if let Ids::Inside { uid, gid } = self.ids {
            for (id, item) in [(uid, Item::Uid), (gid, Item::Gid)] {
                if id == u32::MAX {
                    return broken(Rule::NoSuchId, item);
                }
            }
            if !self.options.commanded {
                return broken(Rule::NotCommanded, Item::Uid);
            }
        }
        if self.timeout_ms == 0 || self.timeout_ms > TIMEOUT_MS_MAX {
            return broken(Rule::OutOfRange, Item::Timeout);
        }
        // A package may be mounted below /run, but not over it.
        if self.exec_dir.is_root_or_below(&API_DIRS)
            || self.exec_dir.components().eq([b"run".as_slice()])
        {
            return broken(Rule::Forbidden, Item::ExecDir);
        }
        if self.data_dir.is_some_and(|dir| dir.is_root_or_below(&API_DIRS)) {
            return broken(Rule::Forbidden, Item::DataDir);
        }
        if !self.overlays.is_empty() && self.data_dir.is_none() {
            return broken(Rule::NoDataDir, Item::DataDir);
        }
        if self.options.volatile && self.overlays.is_empty() {
            return broken(Rule::NoOverlays, Item::Volatile);
        }
        self.options.limits.check()?;
        for (index, device) in (0..).zip(self.options.dev.named()) {
            match device {
                _ if usize::from(index) == DEVICES_MAX => return broken(Rule::TooLong, Item::Dev),
                Err(rule) => return broken(rule, Item::Device(index)),
                Ok(_) => {}
            }
        }
        if let Seccomp::Filter(bytes) = self.options.seccomp
            && !is_filter(bytes)
        {
            return broken(Rule::NotAFilter, Item::Seccomp);
        }
        if let Overlays::Dirs(dirs) = &self.overlays {
            for (index, dir) in (0..).zip(dirs) {
                if dir.is_root_or_below(&LIVE_DIRS) {
                    return broken(Rule::Forbidden, Item::OverlayDir(index));
                }
            }
        }
        Ok(())
    }
}

/// Whether an overlay may lie at `dir`, which the guard asks again once links are resolved.
pub fn may_overlay(dir: Path<'_>) -> bool {
    !dir.is_root_or_below(&LIVE_DIRS)
}

fn broken(rule: Rule, item: Item) -> Result<()> {
    Err(Error::Invalid { rule, item })
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    fn path(text: &str) -> Path<'_> {
        Path::new(text.as_bytes()).unwrap()
    }

    fn request<'a>() -> Request<'a> {
        Request {
            app_id: 7,
            uid: 1000,
            gid: 1000,
            package: path("/apps/x.sqfs"),
            exec_dir: path("/var/x/exec"),
            data_dir: Some(path("/var/x/data")),
            overlays: Overlays::Dirs(Vec::from_slice(&[path("/usr"), path("/var")]).unwrap()),
            ids: Ids::Identity,
            timeout_ms: 5000,
            trace: false,
            options: Options::default(),
        }
    }

    fn verdict(change: impl FnOnce(&mut Request<'_>)) -> Result<()> {
        let mut request = request();
        change(&mut request);
        request.check()
    }

    #[test]
    fn paths_keep_the_rules() {
        for (bytes, rule) in [
            (b"".as_slice(), Rule::Empty),
            (b"usr", Rule::Relative),
            (b"./usr", Rule::Relative),
            (b"/usr/../etc", Rule::ParentDir),
            (b"/..", Rule::ParentDir),
            (b"/a\0b", Rule::ControlByte),
            (b"/a\nb", Rule::ControlByte),
            (b"/a\x7f", Rule::ControlByte),
            (&[b'/'; 4096], Rule::TooLong),
        ] {
            assert_eq!(Path::new(bytes), Err(rule), "{bytes:?}");
        }
        for bytes in [b"/".as_slice(), b"/a..b", b"/...", b"//usr/./lib/", b"/\xff", &[b'/'; 4095]]
        {
            assert!(Path::new(bytes).is_ok(), "{bytes:?}");
        }
    }

    #[test]
    fn paths_are_compared_by_their_names() {
        assert!(path("//usr/./lib/").is_at_or_below(path("/usr")));
        assert!(path("/usr").is_at_or_below(path("/")));
        assert!(path("/usr").is_at_or_below(path("/usr/")));
        assert!(!path("/usrx").is_at_or_below(path("/usr")));
        assert!(!path("/").is_at_or_below(path("/usr")));
    }

    #[test]
    fn a_request_as_documented_is_accepted() {
        assert_eq!(request().check(), Ok(()));
    }

    #[test]
    fn an_app_is_never_root() {
        let root = |item| Err(Error::Invalid { rule: Rule::Root, item });
        assert_eq!(verdict(|r| r.uid = 0), root(Item::Uid));
        assert_eq!(verdict(|r| r.gid = 0), root(Item::Gid));
        // "none" of the C API is -1; an earlier implementation made it 0.
        let none = |item| Err(Error::Invalid { rule: Rule::NoSuchId, item });
        assert_eq!(verdict(|r| r.uid = u32::MAX), none(Item::Uid));
        assert_eq!(verdict(|r| r.gid = u32::MAX), none(Item::Gid));
    }

    #[test]
    fn the_hosts_own_places_stay_the_hosts() {
        for dir in ["/", "/proc", "/sys/fs", "/dev/shm", "/run/x", "//run", "/./dev"] {
            let found =
                verdict(|r| r.overlays = Overlays::Dirs(Vec::from_slice(&[path(dir)]).unwrap()));
            let wanted = Error::Invalid { rule: Rule::Forbidden, item: Item::OverlayDir(0) };
            assert_eq!(found, Err(wanted), "{dir}");
        }
        for dir in ["/", "/proc/self/fd/3", "/sys", "/dev", "/run", "/run/"] {
            let found = verdict(|r| r.exec_dir = path(dir));
            let wanted = Error::Invalid { rule: Rule::Forbidden, item: Item::ExecDir };
            assert_eq!(found, Err(wanted), "{dir}");
        }
        assert_eq!(verdict(|r| r.exec_dir = path("/run/rocker/app")), Ok(()));
        let wanted = Error::Invalid { rule: Rule::Forbidden, item: Item::DataDir };
        assert_eq!(verdict(|r| r.data_dir = Some(path("/dev/shm/x"))), Err(wanted));
    }

    #[test]
    fn overlays_need_a_data_dir() {
        let wanted = Error::Invalid { rule: Rule::NoDataDir, item: Item::DataDir };
        assert_eq!(verdict(|r| r.data_dir = None), Err(wanted));
        let bare = verdict(|r| (r.data_dir, r.overlays) = (None, Overlays::Dirs(Vec::new())));
        assert_eq!(bare, Ok(()));
    }

    #[test]
    fn a_filter_is_a_row_of_instructions() {
        let wanted = Error::Invalid { rule: Rule::NotAFilter, item: Item::Seccomp };
        static BYTES: [u8; 8 * (FILTER_MAX + 1)] = [0; 8 * (FILTER_MAX + 1)];
        for length in [0, 1, 7, 9, 8 * (FILTER_MAX + 1)] {
            let found = verdict(|r| r.options.seccomp = Seccomp::Filter(&BYTES[..length]));
            assert_eq!(found, Err(wanted), "{length}");
        }
        for length in [8, 16, 8 * FILTER_MAX] {
            let found = verdict(|r| r.options.seccomp = Seccomp::Filter(&BYTES[..length]));
            assert_eq!(found, Ok(()), "{length}");
        }
    }

    #[test]
    fn devices_are_below_dev() {
        let named = |bytes| verdict(|r| r.options.dev = Dev::With(Strings::new(bytes).unwrap()));
        assert_eq!(named(b""), Ok(()));
        assert_eq!(named(b"/dev/ttyUSB0\0/dev/bus/usb/001/002\0"), Ok(()));
        let wrong = |rule, n| Err(Error::Invalid { rule, item: Item::Device(n) });
        for bytes in [b"/dev\0".as_slice(), b"/dev/.\0", b"/etc/x\0"] {
            assert_eq!(named(bytes), wrong(Rule::WrongType, 0), "{bytes:?}");
        }
        assert_eq!(named(b"/dev/x\0/devil\0"), wrong(Rule::WrongType, 1));
        assert_eq!(named(b"dev/x\0"), wrong(Rule::Relative, 0));
        assert_eq!(named(b"/dev/../x\0"), wrong(Rule::ParentDir, 0));
        let too_many = Err(Error::Invalid { rule: Rule::TooLong, item: Item::Dev });
        let (most, many) = (b"/dev/x\0".repeat(DEVICES_MAX), b"/dev/x\0".repeat(DEVICES_MAX + 1));
        assert_eq!((named(most.leak()), named(many.leak())), (Ok(()), too_many));
    }

    #[test]
    fn limits_make_sense() {
        let limited = |limits| verdict(|r| r.options.limits = limits);
        let wrong = |rule, item| Err(Error::Invalid { rule, item });
        let none = Limits::default();
        let sound = Limits {
            memory: Some(MEMORY_MIN),
            swap: Some(0),
            pids: Some(1),
            cpu_millis: Some(10),
            cpu_weight: Some(10_000),
            cpus: Some("0-1,3"),
            io_read: Some(IO_MIN),
            io_write: Some(IO_MIN),
        };
        assert_eq!(limited(sound), Ok(()));
        assert!(sound.is_any() && !none.is_any());
        for (limits, rule, item) in [
            (Limits { memory: Some(0), ..none }, Rule::MemoryOutOfRange, Item::Memory),
            (Limits { pids: Some(0), ..none }, Rule::PidsOutOfRange, Item::Pids),
            (Limits { pids: Some(PIDS_MAX + 1), ..none }, Rule::PidsOutOfRange, Item::Pids),
            (Limits { cpu_millis: Some(9), ..none }, Rule::CpuOutOfRange, Item::Cpu),
            (Limits { cpu_weight: Some(0), ..none }, Rule::CpuWeightOutOfRange, Item::CpuWeight),
            (
                Limits { cpu_weight: Some(10_001), ..none },
                Rule::CpuWeightOutOfRange,
                Item::CpuWeight,
            ),
            (Limits { io_read: Some(IO_MIN - 1), ..none }, Rule::IoOutOfRange, Item::IoRead),
            (Limits { io_write: Some(0), ..none }, Rule::IoOutOfRange, Item::IoWrite),
        ] {
            assert_eq!(limited(limits), wrong(rule, item), "{limits:?}");
        }
        let alone = limited(Limits { swap: Some(0), ..none });
        assert_eq!(alone, wrong(Rule::NoMemoryLimit, Item::Swap));
        for cpus in ["", ",", "1,", "-1", "3-1", "0-", "+1", "a", "0 1", "0\n", "65536", "1-2-3"] {
            let found = limited(Limits { cpus: Some(cpus), ..none });
            assert_eq!(found, wrong(Rule::NotCpus, Item::Cpus), "{cpus:?}");
        }
        // One byte too many of what is right otherwise.
        let long: &str = (std::string::String::from("1") + &"1,".repeat(CPUS_MAX / 2)).leak();
        let found = limited(Limits { cpus: Some(long), ..none });
        assert_eq!(found, wrong(Rule::NotCpus, Item::Cpus));
    }

    #[test]
    fn a_launch_has_an_end() {
        let wanted = Error::Invalid { rule: Rule::OutOfRange, item: Item::Timeout };
        assert_eq!(verdict(|r| r.timeout_ms = 0), Err(wanted));
        assert_eq!(verdict(|r| r.timeout_ms = TIMEOUT_MS_MAX + 1), Err(wanted));
    }
}
