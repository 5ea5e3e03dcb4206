//! The one error type that crosses processes. Whose fault it was decides what the caller can
//! do about it, so that is its shape. Words are made at the edge, from this and the request.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::Step;

/// What the kernel answered: an `errno` of Linux (`man 3 errno`).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Errno(pub u16);

macro_rules! errnos {
    ($($name:ident = $number:literal;)*) => {
        /// Those that a machine decides by. The numbers are the same on every architecture
        /// that Rust's `*-linux-*` targets support, but for MIPS and SPARC.
        impl Errno {
            $(#[doc = concat!("`E", stringify!($name), "`")] pub const $name: Self = Self($number);)*
        }
    };
}

errnos! {
    PERM = 1; NOENT = 2; SRCH = 3; INTR = 4; IO = 5; BADF = 9; AGAIN = 11; NOMEM = 12; ACCES = 13;
    BUSY = 16; EXIST = 17; NOTDIR = 20; INVAL = 22; NFILE = 23; MFILE = 24; NOSPC = 28; ROFS = 30;
    PIPE = 32; NAMETOOLONG = 36; NOSYS = 38; LOOP = 40; TIME = 62; PROTO = 71; MSGSIZE = 90;
    CONNRESET = 104; TIMEDOUT = 110; CONNREFUSED = 111; CANCELED = 125;
}

/// Which part of a request an error is about.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub enum Item {
    /// The request as a whole.
    Request,
    /// `app_pkg_path`
    Package,
    /// `app_exec_dir`
    ExecDir,
    /// `app_data_dir`
    DataDir,
    /// `app_overlay_dirs[n]`
    OverlayDir(u8),
    /// `uid`
    Uid,
    /// `gid`
    Gid,
    /// The deadline.
    Timeout,
    /// A rocker's name.
    Name,
    /// What is to run inside: program, arguments, environment, working directory.
    Program,
    /// A file inside.
    File,
    /// Which system calls the App may make.
    Seccomp,
    /// Whether it may make user namespaces.
    UserNamespaces,
    /// [`Limits::memory`](crate::Limits::memory)
    Memory,
    /// [`Limits::swap`](crate::Limits::swap)
    Swap,
    /// [`Limits::pids`](crate::Limits::pids)
    Pids,
    /// [`Limits::cpu_millis`](crate::Limits::cpu_millis)
    Cpu,
    /// [`Limits::cpu_weight`](crate::Limits::cpu_weight)
    CpuWeight,
    /// [`Limits::cpus`](crate::Limits::cpus)
    Cpus,
    /// Which devices the App sees.
    Dev,
    /// One of those of the host's, by its place.
    Device(u8),
    /// [`Limits::io_read`](crate::Limits::io_read)
    IoRead,
    /// [`Limits::io_write`](crate::Limits::io_write)
    IoWrite,
    /// [`Options::volatile`](crate::Options::volatile)
    Volatile,
}

/// A rule that a request can break.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub enum Rule {
    /// A path is empty.
    Empty,
    /// A path does not begin with `/`.
    Relative,
    /// A path has a `..` component.
    ParentDir,
    /// A path or text holds a NUL or another control byte.
    ControlByte,
    /// A path is longer than [`crate::limits::PATH_MAX`], or the request than one message.
    TooLong,
    /// More than 16 overlay dirs, or descriptors or limits of a program, or files of an order: see
    /// [`crate::limits`].
    TooMany,
    /// `/`, `/proc`, `/sys`, `/dev` or `/run`, or a place below one that must stay the host's.
    Forbidden,
    /// Overlays want a data dir to keep their layers in, and there is none.
    NoDataDir,
    /// uid or gid 0: an App is never root.
    Root,
    /// uid or gid 4294967295, which the kernel reads as "unchanged".
    NoSuchId,
    /// A deadline of 0 or beyond [`crate::limits::TIMEOUT_MS_MAX`].
    OutOfRange,
    /// The policy does not allow this caller this item.
    NotAllowed,
    /// The caller sits in another user namespace, an App for example.
    ForeignNamespace,
    /// Not a regular file where one is needed, or a path outside `/dev` for a device.
    WrongType,
    /// The package does not begin with a squashfs superblock.
    NotSquashfs,
    /// The package is a squashfs of a version or compression the kernel has no word for.
    UnknownFormat,
    /// The package ends before its superblock says it does.
    Truncated,
    /// The data dir is in use by a living rocker, or its overlays are kept for the next one.
    InUse,
    /// The `.rocker` directory in the data dir is not root's own, so somebody else made it.
    NotOurs,
    /// As many rockers or launches as the master's configuration allows are there already.
    TooManyRockers,
    /// No living rocker has this name.
    NoSuchRocker,
    /// A filter that is no row of 1 to 4096 instructions.
    NotAFilter,
    /// Less memory than [`crate::limits::MEMORY_MIN`].
    MemoryOutOfRange,
    /// A limit of swap without one of memory.
    NoMemoryLimit,
    /// Not a list of processors.
    NotCpus,
    /// The host has no such processor, or ROCKER may not use it.
    NoSuchCpu,
    /// The kernel has no cgroup controller for it, or none that is mounted.
    NoController,
    /// The policy does not know this caller.
    NotListed,
    /// The host has no such device.
    NoSuchDevice,
    /// Every rocker has it, or it is named twice.
    AlreadyThere,
    /// Not a device, or not one of `/dev` itself.
    NotADevice,
    /// A file system without a block device of its own, where reading and writing are to be
    /// limited.
    NoDisk,
    /// Only cgroups of version 2 limit what is written.
    NotHeld,
    /// No processes, or more than [`crate::limits::PIDS_MAX`].
    PidsOutOfRange,
    /// Processor time beyond [`crate::limits::CPU_MILLIS`].
    CpuOutOfRange,
    /// A share beyond [`crate::limits::CPU_WEIGHTS`].
    CpuWeightOutOfRange,
    /// Less than [`crate::limits::IO_MIN`].
    IoOutOfRange,
    /// A time of a program's that is none, or longer than an order can say.
    TimeOutOfRange,
    /// Something is said of overlays where there is none.
    NoOverlays,
    /// Something that only a rocker can have that takes orders.
    NotCommanded,
    /// Whoever is not root may name directories of its own only.
    NotTheCallers,
    /// A device that its owner and mode keep from the App.
    OutOfReach,
    /// The data dir, or a directory above it, is not there.
    NoSuchDir,
    /// The data dir is something else.
    NotADir,
}

/// How a peer was lost.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub enum Loss {
    /// It closed the connection: the only death notice between our processes.
    Died,
    /// It said nothing until the deadline.
    Silent,
    /// It said something the protocol does not allow.
    Garbage,
    /// It speaks another version of the protocol.
    Version,
}

/// Why a launch failed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Error {
    /// The caller's fault: the request breaks a rule, or may not be made.
    Invalid {
        /// The rule.
        rule: Rule,
        /// What broke it.
        item: Item,
    },
    /// The system's fault: the kernel refused a step.
    Failed {
        /// The step.
        step: Step,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The peer's fault, at the step that waited for it.
    Lost {
        /// The step.
        step: Step,
        /// How.
        how: Loss,
    },
}

/// A result with that error.
pub type Result<T> = core::result::Result<T, Error>;

impl core::error::Error for Error {}

impl Error {
    /// The step at which it happened: a broken rule is found at root.1.
    pub const fn step(self) -> Step {
        match self {
            Self::Invalid { .. } => Step::RequestRocker,
            Self::Failed { step, .. } | Self::Lost { step, .. } => step,
        }
    }
}

/// Without paths and without the words of `strerror(3)`, which are not known here.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { rule, item } => write!(f, "{item}: {rule}"),
            Self::Failed { step, errno } => {
                write!(f, "cannot {} ({step}): errno {}", step.purpose(), errno.0)
            }
            Self::Lost { step, how } => write!(f, "cannot {} ({step}): {how}", step.purpose()),
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request => f.write_str("request"),
            Self::Package => f.write_str("package"),
            Self::ExecDir => f.write_str("exec dir"),
            Self::DataDir => f.write_str("data dir"),
            Self::OverlayDir(n) => write!(f, "overlay dir {n}"),
            Self::Uid => f.write_str("uid"),
            Self::Gid => f.write_str("gid"),
            Self::Timeout => f.write_str("deadline"),
            Self::Name => f.write_str("rocker"),
            Self::Program => f.write_str("program"),
            Self::File => f.write_str("file"),
            Self::Seccomp => f.write_str("system call filter"),
            Self::UserNamespaces => f.write_str("user namespaces"),
            Self::Memory => f.write_str("memory limit"),
            Self::Swap => f.write_str("swap limit"),
            Self::Pids => f.write_str("process limit"),
            Self::Cpu => f.write_str("cpu limit"),
            Self::CpuWeight => f.write_str("cpu weight"),
            Self::Cpus => f.write_str("cpus"),
            Self::Dev => f.write_str("/dev"),
            Self::Device(n) => write!(f, "device {n}"),
            Self::IoRead => f.write_str("read limit"),
            Self::IoWrite => f.write_str("write limit"),
            Self::Volatile => f.write_str("volatile"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "it is empty",
            Self::Relative => "the path must be absolute",
            Self::ParentDir => "the path must not contain \"..\"",
            Self::ControlByte => "it contains a NUL or another control character",
            Self::TooLong => "it is too long",
            Self::TooMany => "at most 16 of them are possible",
            Self::Forbidden => "this place belongs to the host and stays so",
            Self::NoDataDir => "overlays need a data dir to keep their layers in",
            Self::Root => "an App never runs as root (id 0)",
            Self::NoSuchId => "4294967295 (-1) is not an id",
            Self::OutOfRange => "it must lie between 1 ms and 1 hour",
            Self::NotAllowed => {
                "the master's policy does not allow it to this caller; root can, \
                 by default in /etc/rocker/master.toml"
            }
            Self::ForeignNamespace => "the caller sits in another user namespace than the master",
            Self::WrongType => "it is not a file of the kind needed here",
            Self::NotSquashfs => "it is not a squashfs image; build one with \"rocker pack\"",
            Self::UnknownFormat => "it is a squashfs of an unknown version or compression",
            Self::Truncated => "the image is truncated, or its length is no multiple of 512",
            Self::InUse => "another rocker uses it, or a master still keeps its overlays",
            Self::NotOurs => "its .rocker directory was not made by ROCKER",
            Self::TooManyRockers => {
                "too many rockers; see max_rockers in the master's configuration"
            }
            Self::NoSuchRocker => "no living rocker has this name",
            Self::NotAFilter => "it is not a row of 1 to 4096 instructions of 8 bytes",
            Self::MemoryOutOfRange => "it must be at least 1 MiB",
            Self::NoMemoryLimit => "a limit of swap needs a limit of memory",
            Self::NotCpus => "it must be a list of processors, such as 0-1,3",
            Self::NoSuchCpu => "the host has no such processor, or the master may not use it",
            Self::NoController => "no cgroup controller sees to that here, see \"rocker doctor\"",
            Self::NotListed => {
                "the master's policy has no [[allow]] for this caller's uid; root can add one, \
                 by default in /etc/rocker/master.toml"
            }
            Self::NoSuchDevice => "the host has no such device",
            Self::AlreadyThere => "it is there already",
            Self::NotADevice => "it is no device, or not on the file system of /dev",
            Self::NoDisk => {
                "its file system has no disk of its own, so reading and writing cannot be limited"
            }
            Self::NotHeld => {
                "only cgroups of version 2, with memory and io, hold what is written to disks"
            }
            Self::PidsOutOfRange => "it must lie between 1 and 4194304",
            Self::CpuOutOfRange => "it must lie between 0.01 and 1000 processors",
            Self::CpuWeightOutOfRange => "it must lie between 1 and 10000",
            Self::IoOutOfRange => "it must be at least 64 KiB a second",
            Self::TimeOutOfRange => "a time must lie between 1 ms and 49 days",
            Self::NoOverlays => "it is about overlays, and there is none",
            Self::NotCommanded => {
                "ids inside, and limits of who is not root, are for rockers that take orders"
            }
            Self::NotTheCallers => "it must belong to the caller; name one that does",
            Self::OutOfReach => {
                "the App's uid and gid may neither read nor write it; give it one that may"
            }
            Self::NoSuchDir => "there is no such directory; make it: install -d -o UID DIR",
            Self::NotADir => "it is not a directory",
        })
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Died => "the peer closed the connection",
            Self::Silent => "no answer before the deadline",
            Self::Garbage => "the peer broke the protocol",
            Self::Version => {
                "the peer speaks another version of the protocol; install client, \
                 master and guard of the same release"
            }
        })
    }
}
