//! root.3: the `/dev` that a rocker gets, attached nowhere: nodes on a small file system in memory,
//! which root alone can make. It is read-only and nobody's own, so all rockers may have the same
//! one, each by a mount of its own. What is each rocker's own in it its guard mounts
//! (`guard/src/mounts.rs`).

use core::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use protocol::devices::{DEVICES, DIRECTORIES, LINKS};
use rustix::fs::{FileType, Mode, makedev, mkdirat, mknodat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, open_tree,
};
use rustix::process::umask;

/// What could not be made, as the shell command that would fail the same way.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) errno: Errno,
    pub(crate) command: String,
}

/// The one for all.
#[derive(Debug)]
pub(crate) struct Devices {
    /// None where each rocker gets another: before Linux 6.15 what is attached nowhere cannot be
    /// cloned (KERNEL A14).
    template: Option<OwnedFd>,
}

impl Devices {
    /// To be made once. What cannot be made here is told to whoever asks for one.
    pub(crate) fn new() -> Self {
        Self { template: tree().ok().filter(|tree| copy(tree).is_ok()) }
    }

    /// For one rocker.
    pub(crate) fn for_one(&self) -> Result<OwnedFd, Refusal> {
        match &self.template {
            Some(tree) => copy(tree).map_err(|errno| failed(errno, "mount --bind devices /dev")),
            None => tree(),
        }
    }
}

fn copy(tree: &OwnedFd) -> Result<OwnedFd, Errno> {
    let how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(tree.as_fd(), c"", how | OpenTreeFlags::AT_EMPTY_PATH)
}

fn failed(errno: Errno, command: &str) -> Refusal {
    Refusal { errno, command: command.to_owned() }
}

fn tree() -> Result<OwnedFd, Refusal> {
    // What is made here has the mode that is said.
    let mask = umask(Mode::empty());
    let made = make();
    umask(mask);
    made
}

fn make() -> Result<OwnedFd, Refusal> {
    let mount = |errno| failed(errno, "mount -t tmpfs -o mode=755,size=4k rocker /dev");
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(mount)?;
    for (key, value) in [(c"source", c"rocker"), (c"mode", c"755"), (c"size", c"4k")] {
        fsconfig_set_string(&context, key, value).map_err(mount)?;
    }
    fsconfig_create(&context).map_err(mount)?;
    // Devices are what it is for.
    let inert = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let dev = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, inert).map_err(mount)?;
    for (name, major, minor) in DEVICES {
        let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o666));
        mknodat(&dev, name, kind, mode, makedev(major, minor)).map_err(|errno| {
            failed(errno, &format!("mknod -m 666 /dev/{} c {major} {minor}", text(name)))
        })?;
    }
    for (name, leads) in LINKS {
        symlinkat(leads, &dev, name).map_err(|errno| {
            failed(errno, &format!("ln -s {} /dev/{}", text(leads), text(name)))
        })?;
    }
    for name in DIRECTORIES {
        mkdirat(&dev, name, Mode::from_raw_mode(0o755))
            .map_err(|errno| failed(errno, &format!("mkdir /dev/{}", text(name))))?;
    }
    fsconfig_set_flag(&context, c"ro")
        .and_then(|()| fsconfig_reconfigure(&context))
        .map_err(|errno| failed(errno, "mount -o remount,ro /dev"))?;
    Ok(dev)
}

fn text(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}
