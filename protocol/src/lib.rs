//! What ROCKER's processes say to each other, and nothing about how they do it.
//!
//! ```text
//! step     the arrows of the README's diagrams, numbered as drawn
//! machine  what every state machine and every driver of one looks like
//! program  what runs in a rocker at the caller's command, and how it ended
//! usage    what cgroups tell of those in them
//! devices  what is in a rocker's own /dev
//! conf     what a rocker is to look like for the programs in it
//! files    what a caller does with files in a rocker
//! request  what a caller asks for, and its rules
//! message  every message, by sender
//! command  a step as the shell command that does the same, for people
//! error    whose fault it was: the caller's, the system's, the peer's
//! limits   all maxima in one place
//! wire     version, framing, postcard
//! socket   SOCK_SEQPACKET with descriptors (feature `linux`)
//! seccomp  which system calls an App may make (feature `linux`)
//! mark     whether a directory is what it was (feature `linux`)
//! privileges  how guard and helper give up theirs (feature `linux`)
//! ```
//!
//! `no_std`, no `unsafe`, and no allocation but for the buffers of `socket`. Values borrow from the
//! receive buffer; `vectors.txt` is the contract with implementations in other languages.
#![no_std]
#![forbid(unsafe_code)]

pub mod command;
pub mod conf;
pub mod devices;
pub mod error;
pub mod files;
pub mod limits;
pub mod machine;
#[cfg(feature = "linux")]
pub mod mark;
pub mod message;
#[cfg(feature = "linux")]
pub mod privileges;
pub mod program;
pub mod request;
#[cfg(feature = "linux")]
pub mod seccomp;
#[cfg(feature = "linux")]
pub mod socket;
pub mod step;
pub mod toml;
pub mod usage;
pub mod wire;

pub use command::Command;
pub use conf::Conf;
pub use error::{Errno, Error, Item, Loss, Rule};
pub use files::{FilePath, How, OpenFile, OpenFiles};
pub use machine::{Driver, Machine, run};
pub use message::{
    Cgroup, ClientMessage, Failure, GuardMessage, MasterMessage, Message, Name, Package,
    RockerInfo, TraceStep,
};
pub use program::{Exec, Exit, ExitReport, Rlimit, Strings, Usage, Verdict};
pub use request::{Dev, Ids, Limits, Options, Overlays, Path, Request, Seccomp};
pub use step::{Actor, Step};
