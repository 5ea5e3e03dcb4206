//! root.3: the `/dev` that a rocker gets, attached nowhere: nodes on a small file system in memory,
//! which root alone can make. It is read-only and nobody's own, so all rockers may have the same
//! one, each by a mount of its own. What is each rocker's own in it its guard mounts
//! (`guard/src/mounts.rs`).

use core::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use protocol::devices::{DEVICES, DIRECTORIES, LINKS};
use protocol::{Dev, Path};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fstat, makedev, mkdirat,
    mknodat, openat2, symlinkat,
};
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
        Self { template: tree(Dev::Own).ok().filter(|tree| copy(tree).is_ok()) }
    }

    /// For one rocker; none where it has the host's.
    pub(crate) fn of(&self, dev: Dev<'_>) -> Result<Option<OwnedFd>, Refusal> {
        let copied = |errno| failed(errno, "mount --bind devices /dev");
        match (dev, &self.template) {
            (Dev::Host, _) => Ok(None),
            (Dev::Own, Some(tree)) => copy(tree).map(Some).map_err(copied),
            (Dev::Own | Dev::With(_), _) => tree(dev).map(Some),
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

fn tree(named: Dev<'_>) -> Result<OwnedFd, Refusal> {
    // What is made here has the mode that is said.
    let mask = umask(Mode::empty());
    let made = make(named);
    umask(mask);
    made
}

fn make(named: Dev<'_>) -> Result<OwnedFd, Refusal> {
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
    for path in named.named().flatten() {
        put(&dev, path).map_err(|errno| failed(errno, &format!("cp -a {path} /dev")))?;
    }
    fsconfig_set_flag(&context, c"ro")
        .and_then(|()| fsconfig_reconfigure(&context))
        .map_err(|errno| failed(errno, "mount -o remount,ro /dev"))?;
    Ok(dev)
}

/// One of the host's, with its owner and mode of this moment: the App may do with it what its user
/// may, and no more. Links are followed, as those of `/dev/serial/by-id` have to be.
fn put(dev: &OwnedFd, path: Path<'_>) -> Result<(), Errno> {
    let how = OFlags::PATH | OFlags::CLOEXEC;
    let found = openat2(CWD, path.as_bytes(), how, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?;
    let found = fstat(found)?;
    let kind = FileType::from_raw_mode(found.st_mode);
    if !matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
        return Err(Errno::NODEV);
    }
    let mut name = Vec::new();
    for part in path.components().skip(1) {
        if !name.is_empty() {
            match mkdirat(dev, name.as_slice(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            name.push(b'/');
        }
        name.extend_from_slice(part);
    }
    mknodat(dev, name.as_slice(), kind, Mode::from_raw_mode(found.st_mode), found.st_rdev)?;
    let (uid, gid) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
    chownat(dev, name.as_slice(), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

fn text(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}
