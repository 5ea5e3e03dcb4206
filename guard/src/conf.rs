//! exec.1 for a configuration: the rocker as its programs will see it, and the same anew at each
//! reset.
//!
//! All of it is done with the App's ids and what it could do by itself in a user namespace of its
//! own: mount in a mount namespace that belongs to the rocker's user namespace, where every mount
//! of the rocker's is locked (`man 7 mount_namespaces`). There are two of these. One stays as the
//! rocker was built; of it the other is a copy, in which the places are mounted. A reset makes
//! another copy, so it takes as long as a configuration, whatever an App has left.
//!
//! An App of an earlier run may have planted links in a persistent overlay. No link is followed on
//! the way to a target, and nothing is made but in what this configuration has mounted itself.

use core::ffi::CStr;
use core::fmt::Write as _;

use linux_raw_sys::general::{CLONE_NEWCGROUP, CLONE_NEWNS, CLONE_NEWUTS};
use protocol::conf::{Conf, Place, Root};
use protocol::devices::{DEVICES, DIRECTORIES, LINKS, SHM_BYTES};
use protocol::{Command, Dev, FilePath, Path};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, fchmod, fstat, mkdirat, openat,
    statx, symlinkat,
};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::ipc;
use crate::mounts::{self, Refusal};
use crate::privileges;
use crate::sys;
use crate::wall::Wall;

/// What a reset begins with, and what is beyond a new root.
pub(crate) struct Pristine {
    /// The mount namespace as the rocker was built.
    namespace: OwnedFd,
    /// Its root, which is not the namespace's own where the master runs in a chroot.
    root: OwnedFd,
    /// `/proc` there.
    proc: OwnedFd,
    /// Whether `/dev` there is the rocker's.
    own_dev: bool,
}

/// What could not be done, and of what.
pub(crate) struct Failed {
    pub(crate) at: At,
    pub(crate) refusal: Refusal,
}

/// A part of a configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum At {
    /// Those of the guard.
    Limits,
    Namespaces,
    Root,
    /// Counted from 0.
    Place(usize),
    HostName,
    DomainName,
    Wall,
    WorkDir,
    Init,
}

/// Adds the part to an error.
pub(crate) fn at<E: Into<Refusal>>(at: At) -> impl Fn(E) -> Failed {
    move |error| Failed { at, refusal: error.into() }
}

impl Pristine {
    /// Leaves the namespaces that the rocker was built in for the first of its own.
    pub(crate) fn new(dev: Dev<'_>) -> Result<Self, Errno> {
        sys::unshare(CLONE_NEWNS)?;
        let open = |path: &CStr, how| openat(CWD, path, how | OFlags::CLOEXEC, Mode::empty());
        Ok(Self {
            namespace: open(c"/proc/self/ns/mnt", OFlags::RDONLY)?,
            root: open(c"/", OFlags::PATH | OFlags::DIRECTORY)?,
            proc: open(c"/proc", OFlags::PATH | OFlags::DIRECTORY)?,
            own_dev: dev.is_own(),
        })
    }

    /// Goes back to how the rocker was built. What was configured is gone once no process sees it.
    pub(crate) fn restore(&self) -> Result<(), Errno> {
        sys::enter_mounts(self.namespace.as_fd())?;
        rustix::process::fchdir(&self.root)?;
        rustix::process::chroot(c".")
    }

    /// Makes what `conf` says of a copy.
    pub(crate) fn configure(
        &self,
        conf: &Conf<'_>,
        exec_dir: &[u8],
        wall: Option<&mut Wall>,
        until_ns: u64,
    ) -> Result<(), Failed> {
        let names = conf.host_name.is_some() || conf.domain_name.is_some();
        let names = if names { CLONE_NEWUTS } else { 0 };
        let cgroup = if conf.unshare_cgroup { CLONE_NEWCGROUP } else { 0 };
        sys::unshare(CLONE_NEWNS | names | cgroup).map_err(at(At::Namespaces))?;
        ipc::isolate(until_ns).map_err(at(At::Namespaces))?;
        let named = |name: Option<&str>, set: fn(&[u8]) -> Result<(), Errno>| {
            name.map_or(Ok(()), |name| set(name.as_bytes()))
        };
        named(conf.host_name, sys::set_host_name).map_err(at(At::HostName))?;
        named(conf.domain_name, sys::set_domain_name).map_err(at(At::DomainName))?;
        if self.own_dev {
            forget_memory().map_err(at(At::Namespaces))?;
        }
        let sources = sources(conf)?;
        let mut view = View::new(conf.root, exec_dir, self.proc.as_fd()).map_err(at(At::Root))?;
        let mut sources = sources.into_iter();
        for (index, place) in conf.places.iter().enumerate() {
            let place = place.ok_or(Errno::PROTO).map_err(at(At::Place(index)))?;
            view.put(place, &mut sources).map_err(at(At::Place(index)))?;
        }
        let (root, mut writable) = view.finish().map_err(at(At::Root))?;
        if let Some(wall) = wall {
            let has_root = match conf.root {
                Root::Whole => Ok(false),
                Root::Directory(_) => wall.has(root.as_fd()),
                Root::Tmpfs(_) => Ok(true),
            };
            if has_root.map_err(at(At::Wall))? {
                writable.push(root).map_err(|_| at(At::Wall)(Errno::MFILE))?;
            }
            wall.renew(&writable).map_err(at(At::Wall))?;
        }
        let work_dir = work_dir(conf, exec_dir);
        mounts::open_place(CWD, work_dir, OFlags::DIRECTORY, ResolveFlags::NO_MAGICLINKS)
            .map(drop)
            .map_err(at(At::WorkDir))
    }
}

/// An empty `/dev/shm`, whatever an earlier run has left in the rocker's own.
fn forget_memory() -> Result<(), Refusal> {
    mounts::attach_at(mounts::tmpfs(SHM_BYTES, 0o1777)?.as_fd(), c"/dev/shm")
}

/// Most things that are bound.
const BOUND_MAX: usize = 64;

type Sources = heapless::Vec<OwnedFd, BOUND_MAX>;

/// Copies of all that is to be bound, as the rocker has it before anything covers it.
fn sources(conf: &Conf<'_>) -> Result<Sources, Failed> {
    let mut sources = Sources::new();
    for (index, place) in conf.places.iter().enumerate() {
        let Some(Place::Bind { source, read_only, .. }) = place else { continue };
        let copied = || -> Result<OwnedFd, Errno> {
            let source = mounts::open_place(CWD, source.as_bytes(), OFlags::empty(), MAGIC)?;
            let tree = mounts::clone_all(source.as_fd())?;
            let also = match read_only {
                true => MountAttrFlags::MOUNT_ATTR_RDONLY,
                false => MountAttrFlags::empty(),
            };
            sys::restrict(tree.as_fd(), INERT | also)?;
            Ok(tree)
        };
        let tree = copied().map_err(at(At::Place(index)))?;
        sources.push(tree).map_err(|_| at(At::Place(index))(Errno::MFILE))?;
    }
    Ok(sources)
}

/// Where programs start.
pub(crate) fn work_dir<'a>(conf: &Conf<'a>, exec_dir: &'a [u8]) -> &'a [u8] {
    match (conf.work_dir, conf.root) {
        (Some(dir), _) => dir.as_bytes(),
        (None, Root::Whole) => exec_dir,
        (None, Root::Directory(_) | Root::Tmpfs(_)) => b"/",
    }
}

/// Most mounts of its own that a configuration can have places in.
const OWN_MAX: usize = 64;

/// Places that have a mount of their own and can be written to, and a root.
type Writable = heapless::Vec<OwnedFd, { OWN_MAX + BOUND_MAX + 1 }>;

/// What programs will see, while it is made.
struct View<'p> {
    /// Where sources are.
    old: OwnedFd,
    /// Where targets are.
    root: OwnedFd,
    is_new: bool,
    /// The ids of the mounts in which things are made.
    own: heapless::Vec<u64, OWN_MAX>,
    /// What programs may write to, but for a new root.
    writable: Writable,
    proc: BorrowedFd<'p>,
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const NO_LINKS: ResolveFlags =
    ResolveFlags::IN_ROOT.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl<'p> View<'p> {
    /// A new root is made one at once, so that its mount hides none of the sources: the old one
    /// lies on top of it until the end (`man 2 pivot_root`, "pivot_root(".", ".")").
    fn new(root: Root<'_>, exec_dir: &[u8], proc: BorrowedFd<'p>) -> Result<Self, Refusal> {
        let old = openat(CWD, c"/", DIRECTORY, Mode::empty())?;
        let own = heapless::Vec::new();
        let (root, is_new) = match root {
            Root::Whole => (openat(CWD, c"/", DIRECTORY, Mode::empty())?, false),
            Root::Directory(path) => {
                let place = mounts::open_place(CWD, path.as_bytes(), OFlags::DIRECTORY, MAGIC)?;
                let tree = mounts::clone_all(place.as_fd())?;
                sys::restrict(tree.as_fd(), INERT)?;
                mounts::attach(tree.as_fd(), place.as_fd())?;
                (tree, true)
            }
            Root::Tmpfs(bytes) => {
                let place = mounts::open_place(CWD, exec_dir, OFlags::DIRECTORY, MAGIC)?;
                let tree = mounts::tmpfs(bytes, 0o755)?;
                mounts::attach(tree.as_fd(), place.as_fd())?;
                (tree, true)
            }
        };
        let mut view = Self { old, root, is_new, own, writable: Writable::new(), proc };
        if is_new {
            rustix::process::fchdir(&view.root)?;
            rustix::process::pivot_root(c".", c".")?;
        }
        if is_tmpfs(view.root.as_fd())? {
            let root = mount_id(view.root.as_fd())?;
            view.own.push(root).map_err(|_| Errno::NOSPC)?;
        }
        Ok(view)
    }

    /// The root, and what else programs may write to.
    fn finish(self) -> Result<(OwnedFd, Writable), Refusal> {
        if self.is_new {
            rustix::process::fchdir(&self.old)?;
            mounts::detach_here()?;
        }
        rustix::process::chdir(c"/")?;
        Ok((self.root, self.writable))
    }

    fn put(
        &mut self,
        place: Place<'_>,
        sources: &mut impl Iterator<Item = OwnedFd>,
    ) -> Result<(), Refusal> {
        match place {
            Place::Bind { target, read_only, .. } => {
                let tree = sources.next().ok_or(Errno::PROTO)?;
                let kind = FileType::from_raw_mode(fstat(&tree)?.st_mode);
                let target = self.target(target, kind == FileType::Directory)?;
                mounts::attach(tree.as_fd(), target.as_fd())?;
                if !read_only {
                    self.writable.push(tree).map_err(|_| Errno::MFILE)?;
                }
                Ok(())
            }
            Place::Tmpfs { target, bytes, mode } => {
                let target = self.directory(target)?;
                self.attach_own(mounts::tmpfs(bytes, mode)?, target.as_fd())
            }
            Place::Overlay { target, bytes } => self.overlay(target, bytes),
            Place::Proc { target } => {
                let target = self.directory(target)?;
                let proc = mounts::clone_all(self.source(b"/proc")?.as_fd())?;
                Ok(mounts::attach(proc.as_fd(), target.as_fd())?)
            }
            Place::Dev { target, shm_bytes } => self.dev(target, shm_bytes),
            Place::Link { path, target } => self.link(path, target),
            Place::Mask { target } => self.mask(target),
        }
    }

    fn source(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | MAGIC;
        mounts::open_place(self.old.as_fd(), path, OFlags::empty(), resolve)
    }

    /// The kernel takes an upper directory only from what is mounted somewhere; that is the
    /// target itself, until the overlay covers it.
    fn overlay(&mut self, target: Path<'_>, bytes: u64) -> Result<(), Refusal> {
        let target = self.directory(target)?;
        let memory = mounts::tmpfs(bytes, 0o700)?;
        mounts::attach(memory.as_fd(), target.as_fd())?;
        let made = self.overlay_over(target.as_fd(), memory.as_fd());
        rustix::process::fchdir(&memory)?;
        mounts::detach_here()?;
        self.attach_own(made?, target.as_fd())
    }

    fn overlay_over(
        &self,
        lower: BorrowedFd<'_>,
        memory: BorrowedFd<'_>,
    ) -> Result<OwnedFd, Refusal> {
        let directory = |name| -> Result<OwnedFd, Errno> {
            mkdirat(memory, name, Mode::RWXU)?;
            mounts::open_beneath(memory, name, OFlags::DIRECTORY)
        };
        let (upper, work) = (directory(b"up".as_slice())?, directory(b"work".as_slice())?);
        // The merged directory has the upper one's mode.
        let mode = Mode::from_raw_mode(fstat(lower)?.st_mode);
        let writable = openat(&upper, c".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        fchmod(&writable, mode)?;
        rustix::process::fchdir(self.proc)?;
        privileges::with_all(|| mounts::overlay_of_user(lower, upper.as_fd(), work.as_fd()))
    }

    fn dev(&mut self, target: Path<'_>, shm_bytes: u64) -> Result<(), Refusal> {
        let target = self.directory(target)?;
        let dev = mounts::tmpfs(64 << 10, 0o755)?;
        // Before they are covered.
        let mut devices = heapless::Vec::<OwnedFd, { DEVICES.len() }>::new();
        for (name, ..) in DEVICES {
            devices.push(self.device(name)?).map_err(|_| Errno::MFILE)?;
        }
        mounts::attach(dev.as_fd(), target.as_fd())?;
        for ((name, ..), device) in DEVICES.into_iter().zip(devices) {
            let file = make_file(dev.as_fd(), name.to_bytes())?;
            mounts::attach(device.as_fd(), file.as_fd())?;
        }
        for (name, leads) in LINKS {
            symlinkat(leads, &dev, name)?;
        }
        for (name, tree) in DIRECTORIES.into_iter().zip(mounts::own_devices(shm_bytes)?) {
            mkdirat(&dev, name, Mode::from_raw_mode(0o755))?;
            let at = mounts::open_beneath(dev.as_fd(), name.to_bytes(), OFlags::DIRECTORY)?;
            mounts::attach(tree.as_fd(), at.as_fd())?;
        }
        self.owns(dev)
    }

    /// A mount of one of the host's devices, and nothing else that has its name.
    fn device(&self, name: &CStr) -> Result<OwnedFd, Errno> {
        let mut path = heapless::Vec::<u8, 16>::new();
        for part in [b"/dev/", name.to_bytes()] {
            path.extend_from_slice(part).map_err(|_| Errno::NAMETOOLONG)?;
        }
        let device = self.source(&path)?;
        if FileType::from_raw_mode(fstat(&device)?.st_mode) != FileType::CharacterDevice {
            return Err(Errno::NODEV);
        }
        mounts::clone_all(device.as_fd())
    }

    fn link(&mut self, path: Path<'_>, target: FilePath<'_>) -> Result<(), Refusal> {
        let file = FilePath::new(path.as_bytes()).ok_or(Errno::INVAL)?;
        let (parent, name) = file.split().ok_or(Errno::INVAL)?;
        let parent = Path::new(parent).map_err(|_| Errno::INVAL)?;
        let parent = self.target(parent, true)?;
        self.is_own(parent.as_fd())?;
        Ok(symlinkat(target.as_bytes(), parent, name)?)
    }

    fn mask(&mut self, target: Path<'_>) -> Result<(), Refusal> {
        let target = match self.find(target.as_bytes()) {
            Err(Errno::NOENT) => return Ok(()),
            answer => answer?,
        };
        let nothing = match FileType::from_raw_mode(fstat(&target)?.st_mode) {
            FileType::Directory => {
                let empty = mounts::tmpfs(4096, 0o555)?;
                sys::restrict(empty.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY)?;
                empty
            }
            _ => self.device(c"null")?,
        };
        Ok(mounts::attach(nothing.as_fd(), target.as_fd())?)
    }

    fn directory(&mut self, path: Path<'_>) -> Result<OwnedFd, Refusal> {
        let target = self.target(path, true)?;
        match FileType::from_raw_mode(fstat(&target)?.st_mode) {
            FileType::Directory => Ok(target),
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    /// Opens a target that is there.
    fn find(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        mounts::open_place(self.root.as_fd(), path, OFlags::empty(), NO_LINKS)
    }

    /// Opens a target, which is made where it is missing, with the directories above it.
    fn target(&self, path: Path<'_>, is_directory: bool) -> Result<OwnedFd, Refusal> {
        match self.find(path.as_bytes()) {
            Err(Errno::NOENT) => {}
            answer => return Ok(answer?),
        }
        let mut here = self.find(b".")?;
        let mut names = path.components().peekable();
        while let Some(name) = names.next() {
            let is_last = names.peek().is_none();
            here = match mounts::open_place(here.as_fd(), name, OFlags::empty(), NO_LINKS) {
                Err(Errno::NOENT) => {
                    self.is_own(here.as_fd())?;
                    if is_last && !is_directory {
                        return Ok(make_file(here.as_fd(), name)?);
                    }
                    mkdirat(&here, name, Mode::from_raw_mode(0o755))?;
                    mounts::open_beneath(here.as_fd(), name, OFlags::DIRECTORY)?
                }
                answer => answer?,
            };
        }
        Ok(here)
    }

    fn attach_own(&mut self, tree: OwnedFd, target: BorrowedFd<'_>) -> Result<(), Refusal> {
        mounts::attach(tree.as_fd(), target)?;
        self.owns(tree)
    }

    fn owns(&mut self, tree: OwnedFd) -> Result<(), Refusal> {
        self.own.push(mount_id(tree.as_fd())?).map_err(|_| Errno::NOSPC)?;
        self.writable.push(tree).map_err(|_| Errno::MFILE)?;
        Ok(())
    }

    /// Whether things may be made here: elsewhere they would be the host's, or stay.
    fn is_own(&self, directory: BorrowedFd<'_>) -> Result<(), Refusal> {
        if self.own.contains(&mount_id(directory)?) {
            return Ok(());
        }
        let words = "it can be made only where this configuration has mounted memory".into();
        Err(Refusal { errno: Errno::NOENT, words })
    }
}

const MAGIC: ResolveFlags = ResolveFlags::NO_MAGICLINKS;
const INERT: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

fn make_file(directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let how = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    drop(openat(directory, name, how, Mode::from_raw_mode(0o644))?);
    mounts::open_beneath(directory, name, OFlags::empty())
}

fn is_tmpfs(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let kind = rustix::fs::fstatfs(directory)?.f_type;
    Ok(u64::try_from(kind).is_ok_and(|kind| kind == TMPFS_MAGIC))
}

fn mount_id(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    let wanted = StatxFlags::MNT_ID;
    let found = statx(fd, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, wanted)?;
    match StatxFlags::from_bits_retain(found.stx_mask).contains(wanted) {
        true => Ok(found.stx_mnt_id),
        // Before Linux 5.8.
        false => Err(Errno::NOSYS),
    }
}

/// The part as the shell command that would do the same.
pub(crate) fn describe(part: At, conf: &Conf<'_>, command: &mut Command) -> core::fmt::Result {
    let place = match part {
        At::Limits => return command.write_str("prlimit --pid 1 # a program has lowered them"),
        At::Namespaces => return command.write_str("unshare --mount --ipc"),
        At::HostName => return write!(command, "hostname {}", conf.host_name.unwrap_or_default()),
        At::DomainName => {
            return write!(command, "domainname {}", conf.domain_name.unwrap_or_default());
        }
        At::Wall => return command.write_str("setpriv --landlock-access fs"),
        At::WorkDir => {
            return match conf.work_dir {
                Some(dir) => write!(command, "cd {dir}"),
                None => command.write_str("cd # to the exec dir"),
            };
        }
        At::Init => {
            let name = conf.init.texts().next().unwrap_or_default();
            let name = FilePath::new(name);
            return name.map_or(Ok(()), |name| write!(command, "{name} # to its end"));
        }
        At::Root => {
            return match conf.root {
                Root::Whole => command.write_str("cd /"),
                Root::Directory(path) => write!(command, "pivot_root {path}"),
                Root::Tmpfs(bytes) => write!(command, "pivot_root # to a tmpfs of {bytes} bytes"),
            };
        }
        At::Place(index) => conf.places.iter().nth(index).flatten(),
    };
    match place {
        Some(Place::Bind { source, target, read_only }) => {
            let how = if read_only { " -o ro" } else { "" };
            write!(command, "mount --rbind{how} {source} {target}")
        }
        Some(Place::Tmpfs { target, bytes, mode }) => {
            write!(command, "mount -t tmpfs -o size={bytes},mode={mode:o} tmpfs {target}")
        }
        Some(Place::Overlay { target, .. }) => {
            write!(command, "mount -t overlay -o userxattr,lowerdir={target} overlay {target}")
        }
        Some(Place::Proc { target }) => write!(command, "mount --rbind /proc {target}"),
        Some(Place::Dev { target, .. }) => write!(command, "mount -t tmpfs dev {target}"),
        Some(Place::Link { path, target }) => write!(command, "ln -s {target} {path}"),
        Some(Place::Mask { target }) => write!(command, "mount --bind /dev/null {target}"),
        None => Ok(()),
    }
}
