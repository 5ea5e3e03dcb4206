//! Starts an App from a squashfs package in a rocker of its own, as the caller's own child.
//!
//! ```no_run
//! use rocker_client::{Launch, Program};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut rocker = Launch::new("/apps/hello.sqfs")
//!         .uid(1000)
//!         .gid(1000)
//!         .exec_dir("/var/hello/exec")
//!         .data_dir("/var/hello/data")
//!         .overlay("/etc")
//!         .spawn(&Program::new("bin/hello").arg("world").env("LANG", "C"))?;
//!     println!("App {} in rocker {}", rocker.app_pid(), rocker.guard_name());
//!     println!("App ended: {}", rocker.wait()?);
//!     rocker.kill()?; // whatever it left running
//!     rocker.wait_gone(None)?;
//!     Ok(())
//! }
//! ```
//!
//! ```text
//! launch   what is asked for: Launch, spawn, enter
//! program  what runs inside: Program
//! rocker   what one gets: Rocker, guard_name
//! strays   whom an App leaves its launcher to wait for
//! open     a rocker that takes orders: OpenRocker, Limits
//! files    files in it: OpenFile
//! conf     what it looks like: Conf
//! query    what else the master knows: list, kill_by_name
//! error    why it failed, in one line
//! trace    the steps, as all actors took them
//!
//! machine  the client's states, root.1 to enter.4
//! helper   the forked child's states, enter.2 to enter.3
//! action   what the two do, and the same as shell commands
//! linux    does it: socket, descriptors, clock
//! enter    does it: clone, setns, execve; the one file with `unsafe`
//! ```
//!
//! The library keeps no state between calls, installs no handlers, starts no threads and prints
//! nothing. It needs Linux 5.8, and the rights to enter: see [`Launch::spawn`].

pub mod action;
mod command;
mod conf;
mod enter;
mod error;
mod files;
pub mod helper;
mod launch;
mod linux;
pub mod machine;
mod open;
mod program;
mod query;
mod rocker;
mod strays;
mod trace;
mod words;

pub use command::{Command, Output, Spawned};
pub use conf::Conf;
pub use enter::landlock_abi;
pub use error::{Code, Error, errno_name};
pub use files::OpenFile;
pub use launch::{EXEC_DIR, Launch, SOCKET, Seccomp};
pub use open::{Limits, OpenRocker, Run};
pub use program::{Program, Stdio};
pub use protocol;
pub use query::{RockerEntry, kill_by_name, list};
pub use rocker::{Rocker, guard_name};
pub use trace::TraceEntry;
pub use words::syscall_name;
