//! A master for one launch, where there is none: root needs no daemon.

use core::time::Duration;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use protocol::socket::{now_ns, wait_readable};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use super::Fault;

const PROGRAM: &str = "rocker-master";

/// How long the master may take to free what the kernel does not, once the guard is gone.
const CLEAN_UP_MAX: Duration = Duration::from_secs(10);

/// A running master that ends by itself when its one rocker has ended. Whoever waits for all that
/// ends in this process may wait for it.
#[derive(Debug)]
pub(crate) struct Master(OwnedFd);

impl Master {
    /// Starts one; the descriptor is the connection to it.
    pub(crate) fn start() -> Result<(Self, OwnedFd), Fault> {
        let cannot = |error| Fault::cannot(format!("make a connection for {PROGRAM}"), error);
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
        let (ours, theirs) =
            socketpair(family, SocketType::SEQPACKET, flags, None).map_err(cannot)?;
        let child = Command::new(program())
            .arg("--connection-on-stdin")
            .stdin(theirs)
            .stdout(Stdio::null())
            // Ctrl-C is for the App; the master is done when the rocker is.
            .process_group(0)
            .spawn();
        match child {
            Ok(child) => Ok((Self(pidfd(&child)?), ours)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Fault::Said(format!(
                "no master listens, and {PROGRAM} is neither beside rocker nor in PATH"
            ))),
            Err(error) => Err(Fault::refused(format!("start {PROGRAM}"), &error)),
        }
    }

    /// root.15: waits until it has ended.
    pub(crate) fn finish(self) -> Result<(), Fault> {
        let wait_ns = u64::try_from(CLEAN_UP_MAX.as_nanos()).unwrap_or(u64::MAX);
        if wait_readable(&self.0, now_ns().saturating_add(wait_ns)) == Ok(false) {
            let why = format!("it has not ended after {} s", CLEAN_UP_MAX.as_secs());
            return Err(Fault::cannot(format!("wait for {PROGRAM}"), why));
        }
        match waitid(WaitId::PidFd(self.0.as_fd()), WaitIdOptions::EXITED) {
            Ok(_) | Err(Errno::CHILD) => Ok(()),
            Err(error) => Err(Fault::refused(format!("wait for {PROGRAM}"), &error.into())),
        }
    }
}

fn pidfd(child: &Child) -> Result<OwnedFd, Fault> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pidfd = pid.map_or(Err(Errno::SRCH), |pid| pidfd_open(pid, PidfdFlags::empty()));
    pidfd.map_err(|error| Fault::refused(format!("start {PROGRAM}"), &error.into()))
}

/// The master that was installed with this program, else what PATH has.
fn program() -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    let dir = here.parent().unwrap_or(Path::new(""));
    ["", "../libexec/rocker", "../sbin", "../../sbin"]
        .map(|place| dir.join(place).join(PROGRAM))
        .into_iter()
        .find(|path| path.is_file())
        .unwrap_or_else(|| PROGRAM.into())
}
