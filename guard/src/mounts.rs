//! The single mounts of prepare.3, prepare.4 and prepare.5, made with the mount API of
//! Linux 5.2: each one exists first, as a descriptor, and is given its place by `move_mount(2)`.
//! A mount that never gets a place goes with its descriptor.
//!
//! Not the `sys-mount` crate: it speaks mount(2) only, where an option string is cut without a
//! word after 4095 bytes and a comma in a path is a second option.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use core::ffi::CStr;

use protocol::devices::DIRECTORIES;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, StatVfsMountFlags, fstat, fstatvfs, mkdirat, openat2,
    unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, mount_change, mount_remount, move_mount, open_tree,
    unmount,
};

use crate::mount_table::{self, Mount, below};
use crate::sys;

/// A refused mount: the kernel's number, and its words where it has any.
pub(crate) struct Refusal {
    pub(crate) errno: Errno,
    /// What the file system itself said, without a line end; may be empty.
    pub(crate) words: String,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self { errno, words: String::new() }
    }
}

/// prepare.0: nothing mounted here leaks out, nothing mounted outside comes in (KERNEL A20).
pub(crate) fn make_private() -> Result<(), Errno> {
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
}

/// prepare.3: the package on `device`: read-only, and inert where it claims ids or devices.
pub(crate) fn package(device: &str) -> Result<OwnedFd, Refusal> {
    let context = fsopen(c"squashfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let made = fsconfig_set_string(&context, c"source", device)
        .and_then(|()| fsconfig_set_flag(&context, c"ro"))
        .and_then(|()| fsconfig_create(&context));
    created(&context, made, MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// prepare.3 for a package that is mounted on `device`: one more mount of it, with the same flags.
///
/// Before Linux 6.15 what is attached nowhere cannot be cloned (KERNEL A14). There the device is
/// mounted again, which gives the same file system: `shared` keeps it from being another's.
pub(crate) fn package_again(shared: BorrowedFd<'_>, device: &str) -> Result<OwnedFd, Refusal> {
    match clone_at(shared) {
        Err(Errno::INVAL) => package(device),
        answer => Ok(answer?),
    }
}

/// Gives an overlay a layer by its descriptor, so that no character of a path means anything and
/// no path is longer than fsconfig(2)'s 255 bytes. Linux before 6.15 takes no descriptor that just
/// stands for its place, before 6.13 paths only, and before 6.5 nothing but text (`EOPNOTSUPP`):
/// there it is a path in `proc`, a directory of `/proc`.
fn set_layer(
    context: &OwnedFd,
    key: &CStr,
    layer: BorrowedFd<'_>,
    proc: &str,
) -> Result<(), Errno> {
    // The only lower layer is the first that is added.
    let by_descriptor = if key == c"lowerdir" { c"lowerdir+" } else { key };
    match fsconfig_set_fd(context, by_descriptor, layer) {
        Err(Errno::INVAL | Errno::BADF | Errno::OPNOTSUPP) => {
            // What it wrote about that is not why a mount is refused.
            drop(words(context));
            fsconfig_set_string(context, key, &*format!("{proc}/fd/{}", layer.as_raw_fd()))
        }
        answer => answer,
    }
}

/// prepare.4: one overlay.
///
/// What an App could have planted in an upper layer is not followed (SECURITY D2). Volatile:
/// nobody waits until what was written is on disk, neither the App (`fsync(2)`) nor, at its end,
/// the rocker.
pub(crate) fn overlay(
    [lower, upper, work]: [BorrowedFd<'_>; 3],
    volatile: bool,
) -> Result<OwnedFd, Refusal> {
    let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key, value: &str| fsconfig_set_string(&context, key, value);
    let layer = |key, fd| set_layer(&context, key, fd, "/proc/self");
    let made = set(c"source", "overlay")
        .and_then(|()| layer(c"lowerdir", lower))
        .and_then(|()| layer(c"upperdir", upper))
        .and_then(|()| layer(c"workdir", work))
        .and_then(|()| set(c"redirect_dir", "nofollow"))
        .and_then(|()| set(c"metacopy", "off"))
        .and_then(|()| set(c"index", "off"))
        .and_then(|()| if volatile { fsconfig_set_flag(&context, c"volatile") } else { Ok(()) })
        .and_then(|()| fsconfig_create(&context));
    let overlay = created(&context, made, MountAttrFlags::empty())?;
    // Without a work directory of its own the kernel makes the overlay read-only, and says so
    // in its log alone.
    if fstatvfs(&overlay)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let errno = mkdirat(work, c"probe", Mode::RWXU)
            .and_then(|()| unlinkat(work, c"probe", AtFlags::REMOVEDIR))
            .map_or_else(|errno| errno, |()| Errno::ROFS);
        let words = "the kernel would make it read-only".to_owned();
        return Err(Refusal { errno, words });
    }
    Ok(overlay)
}

/// An empty directory in memory, of so many bytes, and with a file for each 1024 at most.
pub(crate) fn tmpfs(bytes: u64, mode: u16) -> Result<OwnedFd, Refusal> {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key, value: &str| fsconfig_set_string(&context, key, value);
    let files = (bytes / 1024).max(16);
    let made = set(c"source", "rocker")
        .and_then(|()| set(c"size", &format!("{bytes}")))
        .and_then(|()| set(c"nr_inodes", &format!("{files}")))
        .and_then(|()| set(c"mode", &format!("{mode:o}")))
        .and_then(|()| fsconfig_create(&context));
    created(&context, made, MountAttrFlags::empty())
}

/// Terminals of nobody else's (`man 4 pts`): 64, for the host has a number for all together.
pub(crate) fn terminals() -> Result<OwnedFd, Refusal> {
    let context = fsopen(c"devpts", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key, value: &str| fsconfig_set_string(&context, key, value);
    let made = set(c"source", "rocker")
        .and_then(|()| set(c"mode", "620"))
        .and_then(|()| set(c"ptmxmode", "666"))
        .and_then(|()| set(c"max", "64"))
        .and_then(|()| fsconfig_create(&context));
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    made.and_then(|()| fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes))
        .map_err(|errno| Refusal { errno, words: words(&context) })
}

/// An overlay in a mount namespace that belongs to a user. The working directory is a `/proc`:
/// there may be none at its usual place.
pub(crate) fn overlay_of_user(
    lower: BorrowedFd<'_>,
    upper: BorrowedFd<'_>,
    work: BorrowedFd<'_>,
) -> Result<OwnedFd, Refusal> {
    let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let layer = |key, fd| set_layer(&context, key, fd, "self");
    let made = layer(c"lowerdir", lower)
        .and_then(|()| layer(c"upperdir", upper))
        .and_then(|()| layer(c"workdir", work))
        .and_then(|()| fsconfig_set_flag(&context, c"userxattr"))
        .and_then(|()| fsconfig_create(&context));
    created(&context, made, MountAttrFlags::empty())
}

/// A `/proc` that shows the rocker's own processes.
pub(crate) fn proc() -> Result<OwnedFd, Refusal> {
    let context = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let made =
        fsconfig_set_string(&context, c"source", "proc").and_then(|()| fsconfig_create(&context));
    created(&context, made, MountAttrFlags::MOUNT_ATTR_NOEXEC)
}

/// What nobody shares in a `/dev`, in the order of [`DIRECTORIES`].
pub(crate) fn own_devices(shm_bytes: u64) -> Result<[OwnedFd; DIRECTORIES.len()], Refusal> {
    Ok([tmpfs(shm_bytes, 0o1777)?, terminals()?])
}

/// Gives a mount its place in the rocker: one that is not followed if it is a link, and none of
/// the directories above can be.
pub(crate) fn attach_at(tree: BorrowedFd<'_>, place: &CStr) -> Result<(), Refusal> {
    move_mount(tree, c"", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| Refusal { errno, words: place.to_string_lossy().into_owned() })
}

/// prepare.5: the host's control groups can be looked at but not changed. A part of the tree
/// that the host has delegated to the App's user would let it end that user's processes outside.
pub(crate) fn close_cgroups() -> Result<(), Errno> {
    let place = c"/sys/fs/cgroup";
    match sys::restrict_at(CWD, place, MountAttrFlags::MOUNT_ATTR_RDONLY) {
        // There is no such place, or nothing is mounted there.
        Err(Errno::NOENT | Errno::INVAL) => Ok(()),
        // Before Linux 5.12 one by one.
        Err(Errno::NOSYS) => {
            let how = MountFlags::BIND | MountFlags::RDONLY;
            let how = how | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            let is_there = |mount: &Mount| below(&mount.at, place.to_bytes()).is_some();
            let mut there = mount_table::read()?.into_iter().filter(is_there);
            there.try_for_each(|mount| mount_remount(mount.at, how, c""))
        }
        answer => answer,
    }
}

fn created(
    context: &OwnedFd,
    made: Result<(), Errno>,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Refusal> {
    let attributes =
        attributes | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    made.and_then(|()| fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes))
        .map_err(|errno| Refusal { errno, words: words(context) })
}

/// What the kernel wrote about this mount: lines like `e overlay: upper fs is read-only`.
fn words(context: &OwnedFd) -> String {
    let mut words = String::new();
    let mut line = [0; 256];
    // At most a handful of lines are kept by the kernel; then it says ENODATA.
    while let Ok(length @ 1..) = rustix::io::read(context, &mut line) {
        let text = String::from_utf8_lossy(line.get(..length).unwrap_or_default()).into_owned();
        if let Some(said) = text.strip_prefix("e ") {
            words.push_str(if words.is_empty() { "" } else { "; " });
            words.push_str(said.trim_end());
        }
    }
    words
}

/// A name for an open file that any system call takes, while it is open in this process.
pub(crate) fn by_descriptor(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Opens what only stands for its place (`O_PATH`), and is closed when a program is executed.
pub(crate) fn open_place(
    at: BorrowedFd<'_>,
    path: &[u8],
    how: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    openat2(at, path, OFlags::PATH | OFlags::CLOEXEC | how, Mode::empty(), resolve)
}

/// Opens `below` inside `dir`, following no link and leaving it by no other way. `dir` itself
/// if `below` is empty.
pub(crate) fn open_beneath(
    dir: BorrowedFd<'_>,
    below: &[u8],
    how: OFlags,
) -> Result<OwnedFd, Errno> {
    let below = if below.is_empty() { b"." } else { below };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    open_place(dir, below, how, resolve)
}

/// Opens an absolute path, following no link.
pub(crate) fn open_without_links(path: &[u8], how: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    open_place(CWD, path, how, resolve)
}

/// Opens `.rocker` in the data dir, if that is the directory behind `locked`.
pub(crate) fn open_layers(data_dir: &[u8], locked: BorrowedFd<'_>) -> Result<OwnedFd, Refusal> {
    let path = [data_dir, b"/.rocker"].concat();
    let how = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let layers = open_place(CWD, &path, how, ResolveFlags::NO_MAGICLINKS)?;
    let (found, wanted) = (fstat(&layers)?, fstat(locked)?);
    if (found.st_dev, found.st_ino) != (wanted.st_dev, wanted.st_ino) {
        let words = "the data dir was moved during the launch".to_owned();
        return Err(Refusal { errno: Errno::STALE, words });
    }
    Ok(layers)
}

/// A copy of the mount that `dir` is in, beginning at `dir`, attached nowhere.
///
/// `EINVAL` before Linux 6.15 if that mount is attached nowhere itself.
pub(crate) fn clone_at(dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    open_tree(dir, c"", CLONE)
}

/// The same of `inside` a mount, following no link on the way.
pub(crate) fn clone_beneath(tree: BorrowedFd<'_>, inside: &[u8]) -> Result<OwnedFd, Errno> {
    if inside.is_empty() || inside.contains(&b'/') {
        return clone_at(open_beneath(tree, inside, OFlags::DIRECTORY)?.as_fd());
    }
    // A single name: a link there is none on the way but what is cloned, which nothing that is a
    // directory can be covered with.
    let itself = OpenTreeFlags::AT_SYMLINK_NOFOLLOW.union(OpenTreeFlags::AT_NO_AUTOMOUNT);
    open_tree(tree, inside, CLONE.union(itself))
}

/// The same with everything that is mounted below, and read-only all through: writable, it
/// would let the App's writes out to the host (KERNEL A3).
pub(crate) fn clone_read_only(dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let tree = clone_all(dir)?;
    sys::restrict(tree.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    Ok(tree)
}

/// The same with everything that is mounted below.
pub(crate) fn clone_all(place: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    open_tree(place, c"", CLONE.union(OpenTreeFlags::AT_RECURSIVE))
}

const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE
    .union(OpenTreeFlags::OPEN_TREE_CLOEXEC)
    .union(OpenTreeFlags::AT_EMPTY_PATH);

/// Gives a mount its place, over what `target` is.
pub(crate) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let by_descriptors =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", by_descriptors)
}

/// Takes the mount whose root is the working directory out of the tree.
pub(crate) fn detach_here() -> Result<(), Errno> {
    unmount(c".", UnmountFlags::DETACH)
}
