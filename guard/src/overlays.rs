//! overlay.0, prepare.4 and overlay.1: which directories get a writable layer, how many
//! overlays that takes, and what must be put back in its place afterwards.
//!
//! Three facts of the kernel shape this (KERNEL A1, A3, A14):
//! - An overlay covers one mount without its children. So every *place* that gets something
//!   attached is found first, from the mount table, and parents are served before children.
//! - One overlay over a whole mount serves all requested directories of it, each by a clone of
//!   its part: sixteen directories cost what one does.
//! - What is mounted below a requested directory would vanish. It is put back, read-only.
//!
//! Nothing inside a merged view is trusted: earlier runs of the App may have left links there.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::mem::MaybeUninit;

use protocol::limits::{KEPT_LAYERS_MAX, SEAL_MAX};
use protocol::mark::{self, Mark};
use protocol::socket::Descriptors;
use protocol::{Command, Errno, Overlays, Path, Strings, request};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, RawDir, Uid};
use rustix::fs::{
    ResolveFlags, SeekFrom, StatxFlags, fchmod, fchown, fstat, mkdirat, openat, readlinkat, seek,
    statx,
};
use rustix::io;

use crate::mount_table::{self, Mount, below, is_strictly_below};
use crate::mounts::{self, Refusal, open_beneath};
use crate::privileges;

/// How a layer's directories are opened, of which nobody but the guard has laid any.
const TO_READ: OFlags =
    OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);

/// Why overlay.0 found no plan.
pub(crate) enum NoPlan {
    /// The kernel refused to open or read this path.
    Failed(Errno, Vec<u8>),
    /// This entry of the list leads to a place that stays the host's.
    Forbidden(u8),
}

/// An overlay over one host mount.
struct Layer {
    /// The mount's own root, opened while nothing covered it.
    lower: OwnedFd,
    /// Where the mount is, which also names the layer's directories on disk.
    mountpoint: Vec<u8>,
    mount_id: u64,
    /// The overlay, once prepare.4 has made it.
    tree: Option<OwnedFd>,
    /// Whether an earlier launch has made it.
    reused: bool,
    /// Its upper directory, once it is sealed.
    upper: Option<Upper>,
}

/// The upper directory of a layer, by which its guard sees whether there is anything to sync.
pub(crate) struct Upper {
    directory: OwnedFd,
    /// What it was as it was sealed; none if nobody could tell the next change.
    was: Option<Mark>,
}

impl Upper {
    fn new(directory: OwnedFd) -> io::Result<Self> {
        let was = Some(Mark::of(directory.as_fd(), b"")?).filter(Mark::is_settled);
        Ok(Self { directory, was })
    }

    /// Whether the layer is as it was: nothing came, went or changed here, and there is nothing in
    /// it that could have changed. If that cannot be told, it is not.
    pub(crate) fn is_untouched(&self) -> bool {
        let is = Mark::of(self.directory.as_fd(), b"").ok();
        is.is_some() && is == self.was && self.is_empty() == Ok(true)
    }

    fn is_empty(&self) -> io::Result<bool> {
        seek(&self.directory, SeekFrom::Start(0))?;
        let mut buffer = [MaybeUninit::uninit(); 512];
        let mut entries = RawDir::new(&self.directory, &mut buffer);
        while let Some(entry) = entries.next() {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What a layer's overlay is, but for the directories that it is made of.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    /// Nobody waits until what was written is on disk.
    pub(crate) volatile: bool,
    /// Whose disk space it takes.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Overlays of an earlier launch, as the master gives them: to be used or to be closed.
pub(crate) struct Kept {
    layers: Descriptors,
    /// What their guard has found them to be: see [`Plan::seal`].
    seal: Vec<u8>,
    /// What lay below that over the root mount as names were looked up in it; empty: none were.
    marks: Vec<u8>,
}

impl Kept {
    /// The last descriptor is the data dir's lock, so that it is there for longer than the others.
    pub(crate) fn new(layers: Descriptors, seal: &[u8], marks: &[u8]) -> Self {
        Self { layers, seal: seal.to_vec(), marks: marks.to_vec() }
    }
}

/// What comes to a place.
enum Source {
    /// A requested directory: its part of a layer.
    Overlaid { layer: usize },
    /// A host mount below one: itself, read-only.
    HostMount,
}

/// Where something is attached.
struct Place {
    path: Vec<u8>,
    source: Source,
    /// The nearest requested directory above, as an index into the places.
    parent: Option<usize>,
    /// The directory as the host has it, opened while nothing covered it; requested ones only.
    host: Option<OwnedFd>,
    /// What was attached.
    tree: Option<OwnedFd>,
}

/// All of it, in the order in which it must be done.
#[derive(Default)]
pub(crate) struct Plan {
    layers: Vec<Layer>,
    places: Vec<Place>,
    /// Parts of what is attached nowhere cannot be cloned here, as a later launch would have to.
    was_staged: bool,
}

/// A directory to overlay, with its links resolved.
struct Directory {
    path: Vec<u8>,
    fd: OwnedFd,
    mount_id: u64,
}

impl Plan {
    /// overlay.0. `table` is the mount table, if it is known.
    pub(crate) fn new(
        overlays: &Overlays<'_>,
        Manner { uid, gid, .. }: Manner,
        table: Option<Vec<Mount>>,
    ) -> Result<Self, NoPlan> {
        let mut directories = match overlays {
            Overlays::Dirs(listed) => privileges::as_user(uid, gid, || listed_directories(listed))?,
            Overlays::AllTopDirs => top_directories()?,
        };
        sort(&mut directories, |directory| &directory.path);
        directories.dedup_by(|a, b| a.path == b.path);
        let table = table.map_or_else(mount_table::read, Ok);
        let table =
            table.map_err(|error| NoPlan::Failed(ours(error), b"/proc/self/mountinfo".to_vec()))?;
        let directories = without_covered(directories, &table);
        let host_mounts: Vec<Vec<Vec<u8>>> = directories
            .iter()
            .map(|directory| host_mounts_below(directory, &directories, &table))
            .collect();

        let mut plan = Self::default();
        // What one is below comes before it: a directory, or a host mount of one.
        for (directory, host_mounts) in directories.into_iter().zip(host_mounts) {
            let layer = plan.layer_of(&directory, &table)?;
            let here = plan.places.len();
            plan.places.push(Place {
                parent: plan.overlaid_above(&directory.path),
                path: directory.path,
                source: Source::Overlaid { layer },
                host: Some(directory.fd),
                tree: None,
            });
            plan.places.extend(host_mounts.into_iter().map(|path| Place {
                path,
                source: Source::HostMount,
                parent: Some(here),
                host: None,
                tree: None,
            }));
        }
        Ok(plan)
    }

    pub(crate) fn layers(&self) -> u16 {
        u16::try_from(self.layers.len()).unwrap_or(u16::MAX)
    }

    pub(crate) fn places(&self) -> u16 {
        u16::try_from(self.places.len()).unwrap_or(u16::MAX)
    }

    /// The layer over the mount that `directory` is in.
    fn layer_of(&mut self, directory: &Directory, table: &[Mount]) -> Result<usize, NoPlan> {
        let id = directory.mount_id;
        if let Some(found) = self.layers.iter().position(|layer| layer.mount_id == id) {
            return Ok(found);
        }
        let failed = |errno: io::Errno| NoPlan::Failed(ours(errno), directory.path.clone());
        let mount = table.iter().find(|mount| mount.id == id).ok_or(failed(io::Errno::NOENT))?;
        let lower = mounts::open_place(CWD, &mount.at, OFlags::DIRECTORY, ResolveFlags::empty())
            .map_err(failed)?;
        // Another mount may cover this one's root, with the directory reached around it.
        if mount_id(lower.as_fd()).map_err(failed)? != id {
            return Err(failed(io::Errno::BUSY));
        }
        let mountpoint = mount.at.clone();
        let (tree, reused, upper) = (None, false, None);
        self.layers.push(Layer { lower, mountpoint, mount_id: id, tree, reused, upper });
        Ok(self.layers.len() - 1)
    }

    /// The nearest requested directory strictly above `path`.
    fn overlaid_above(&self, path: &[u8]) -> Option<usize> {
        self.places.iter().rposition(|place| {
            matches!(place.source, Source::Overlaid { .. }) && is_strictly_below(path, &place.path)
        })
    }

    /// prepare.4: takes what an earlier launch has left, if that is what this one would make, with
    /// its seal, which is never empty. Else it is closed when this returns, which unmounts it.
    pub(crate) fn reuse(
        &mut self,
        kept: Kept,
        data: BorrowedFd<'_>,
        manner: Manner,
    ) -> Option<Vec<u8>> {
        let is_same = self.seal(data, manner).is_ok_and(|seal| seal == kept.seal);
        if !is_same {
            return None;
        }
        if !kept.marks.is_empty() && !self.are_marks(&kept.marks) {
            mark::forget_names(kept.layers.get(self.root()?)?.as_fd()).ok()?;
        }
        for (layer, tree) in self.layers.iter_mut().zip(kept.layers) {
            (layer.tree, layer.reused) = (Some(tree), true);
        }
        Some(kept.seal)
    }

    /// Whether what lies below the top directories of this plan is what it was.
    fn are_marks(&self, were: &[u8]) -> bool {
        let still = || {
            let layer = self.layers.get(self.root()?)?;
            let upper = layer.upper.as_ref()?.directory.as_fd();
            let top_dirs = self.top_dirs();
            Some(mark::are_still(were, upper, layer.lower.as_fd(), Strings::new(&top_dirs)?))
        };
        still() == Some(true)
    }

    /// The layer over the root mount.
    pub(crate) fn root(&self) -> Option<usize> {
        self.layers.iter().position(|layer| layer.mountpoint == b"/")
    }

    /// The top directories that are attached from that, each with a NUL.
    pub(crate) fn top_dirs(&self) -> Vec<u8> {
        let mut top_dirs = vec![];
        for place in &self.places {
            if let (Source::Overlaid { layer }, [b'/', name @ ..]) = (&place.source, &*place.path)
                && Some(*layer) == self.root()
                && !name.contains(&b'/')
            {
                top_dirs.extend_from_slice(name);
                top_dirs.push(0);
            }
        }
        top_dirs
    }

    /// What says that two overlays are the same: what they are like, where their host mounts are,
    /// and which directories they are made of, with the kernel's own below `work`. While an
    /// overlay has these open nothing else can have their numbers. The merged root shows what it
    /// has once read of the upper one's mode and owner.
    ///
    /// `EXDEV` if a layer is not on the file system of `data`, which is what is synced.
    pub(crate) fn seal(&mut self, data: BorrowedFd<'_>, manner: Manner) -> io::Result<Vec<u8>> {
        let disk = fstat(data)?.st_dev;
        let Manner { volatile, uid, gid } = manner;
        let mut seal = vec![u8::from(volatile)];
        seal.extend([uid, gid].iter().flat_map(|id| id.to_ne_bytes()));
        for layer in &mut self.layers {
            let [upper, work] = directory_names(&layer.mountpoint);
            let upper = openat(data, &*upper, TO_READ, Mode::empty())?;
            let work = open_beneath(data, work.as_bytes(), OFlags::DIRECTORY)?;
            let kernels = open_beneath(work.as_fd(), b"work", OFlags::DIRECTORY)?;
            seal.extend_from_slice(&layer.mountpoint);
            for directory in [&layer.lower, &upper, &work, &kernels] {
                let is = fstat(directory)?;
                if is.st_dev != disk && !core::ptr::eq(directory, &layer.lower) {
                    return Err(io::Errno::XDEV);
                }
                seal.extend_from_slice(&is.st_dev.to_ne_bytes());
                seal.extend_from_slice(&is.st_ino.to_ne_bytes());
                for number in [is.st_mode, is.st_uid, is.st_gid] {
                    seal.extend_from_slice(&number.to_ne_bytes());
                }
            }
            layer.upper = Some(Upper::new(upper)?);
        }
        if seal.len() > SEAL_MAX { Err(io::Errno::NAMETOOLONG) } else { Ok(seal) }
    }

    /// Whether layer `index` is there already.
    pub(crate) fn has(&self, index: u16) -> bool {
        self.layers.get(usize::from(index)).is_some_and(|layer| layer.tree.is_some())
    }

    /// prepare.7: all of them, for the next launch; none if they are too many, or of no use to it.
    pub(crate) fn to_keep(&self) -> Option<heapless::Vec<BorrowedFd<'_>, KEPT_LAYERS_MAX>> {
        if self.layers.is_empty() || self.layers.len() > KEPT_LAYERS_MAX || self.was_staged {
            return None;
        }
        self.layers.iter().map(|layer| layer.tree.as_ref().map(AsFd::as_fd)).collect()
    }

    /// Once they are sealed; of no more than can be kept.
    pub(crate) fn take_uppers(&mut self) -> heapless::Vec<Upper, KEPT_LAYERS_MAX> {
        let uppers = self.layers.iter_mut().filter_map(|layer| layer.upper.take());
        uppers.take(KEPT_LAYERS_MAX).collect()
    }

    /// prepare.4: makes layer `index`, with its directories in `data`, the `.rocker` directory. One
    /// that nobody `keeps` is attached where nobody but root may go, and so goes with the rocker's
    /// other mounts: unmounted by itself, it would take as long once more.
    pub(crate) fn build(
        &mut self,
        index: u16,
        data: BorrowedFd<'_>,
        manner: Manner,
        keeps: bool,
    ) -> Result<(), Refusal> {
        let Manner { volatile, uid, gid } = manner;
        let layer = &mut self.layers[usize::from(index)];
        let [upper, work] = directory_names(&layer.mountpoint);
        let upper = layer_directory(data, &upper, layer.lower.as_fd())?;
        let work = layer_directory(data, &work, layer.lower.as_fd())?;
        let layers = [&layer.lower, &upper, &work].map(AsFd::as_fd);
        let make = || mounts::overlay(layers, volatile);
        let tree = layer.tree.insert(privileges::with_file_ids(uid, gid, make)?);
        if !keeps {
            mounts::attach(tree.as_fd(), work.as_fd())?;
        }
        Ok(())
    }

    /// overlay.1: gives place `index` what comes to it.
    pub(crate) fn attach(&mut self, index: u16, data: BorrowedFd<'_>) -> Result<(), io::Errno> {
        let index = usize::from(index);
        match self.places[index].source {
            Source::Overlaid { layer } => self.attach_overlaid(index, layer, data),
            Source::HostMount => self.attach_host_mount(index),
        }
    }

    fn attach_overlaid(
        &mut self,
        index: usize,
        layer: usize,
        data: BorrowedFd<'_>,
    ) -> Result<(), io::Errno> {
        let Layer { tree, mountpoint, .. } = &self.layers[layer];
        let tree = tree.as_ref().ok_or(io::Errno::INVAL)?;
        let inside = below(&self.places[index].path, mountpoint).ok_or(io::Errno::INVAL)?;
        let part = match mounts::clone_beneath(tree.as_fd(), inside) {
            // Before Linux 6.15 only what is attached can be cloned (KERNEL A14).
            Err(io::Errno::INVAL) => {
                let [_, work] = directory_names(mountpoint);
                let work = open_beneath(data, work.as_bytes(), OFlags::DIRECTORY)?;
                mounts::attach(tree.as_fd(), work.as_fd())?;
                self.was_staged = true;
                mounts::clone_beneath(tree.as_fd(), inside)?
            }
            answer => answer?,
        };
        let place = &self.places[index];
        let target;
        let target = match (place.parent, &place.host) {
            (Some(parent), _) => {
                target = self.inside_merged(parent, &place.path, OFlags::DIRECTORY)?;
                target.as_fd()
            }
            (None, Some(host)) => host.as_fd(),
            (None, None) => return Err(io::Errno::INVAL),
        };
        if let Err(errno) = mounts::attach(part.as_fd(), target) {
            // The layer may have something else there by now, and this says what.
            let tree = self.layers[layer].tree.as_ref().ok_or(errno)?;
            return open_beneath(tree.as_fd(), inside, OFlags::DIRECTORY).and(Err(errno));
        }
        self.places[index].tree = Some(part);
        Ok(())
    }

    /// A host mount comes back where it was. It does not where the App's layer has something
    /// else at that name by now: removed, renamed, replaced by a link.
    fn attach_host_mount(&mut self, index: usize) -> Result<(), io::Errno> {
        let place = &self.places[index];
        let parent = place.parent.ok_or(io::Errno::INVAL)?;
        let above = &self.places[parent];
        let inside = below(&place.path, &above.path).ok_or(io::Errno::INVAL)?;
        let (Source::Overlaid { layer }, Some(host)) = (&above.source, &above.host) else {
            return Err(io::Errno::INVAL);
        };
        let original = match open_beneath(host.as_fd(), inside, OFlags::empty()) {
            // Hidden on the host as well, by a later mount above it.
            Err(io::Errno::NOENT | io::Errno::NOTDIR) => return Ok(()),
            answer => answer?,
        };
        if mount_id(original.as_fd())? == self.layers[*layer].mount_id {
            return Ok(());
        }
        let target = match self.inside_merged(parent, &place.path, OFlags::empty()) {
            Err(io::Errno::NOENT | io::Errno::NOTDIR | io::Errno::LOOP) => return Ok(()),
            answer => answer?,
        };
        let copy = mounts::clone_read_only(original.as_fd())?;
        mounts::attach(copy.as_fd(), target.as_fd())
    }

    /// Opens `path` in the merged view that place `parent` has by now.
    fn inside_merged(&self, parent: usize, path: &[u8], how: OFlags) -> io::Result<OwnedFd> {
        let parent = &self.places[parent];
        let tree = parent.tree.as_ref().ok_or(io::Errno::INVAL)?;
        open_beneath(tree.as_fd(), below(path, &parent.path).ok_or(io::Errno::INVAL)?, how)
    }

    /// Opens a directory of the merged view. A missing one is made, with its parents, where
    /// that lands in a layer of the App and not on the host (KERNEL A2).
    pub(crate) fn open_or_make(&self, path: &[u8]) -> Result<OwnedFd, io::Errno> {
        let missing = match mounts::open_without_links(path, OFlags::DIRECTORY) {
            Err(error @ io::Errno::NOENT) => error,
            answer => return answer,
        };
        let above = self.overlaid_above(path).ok_or(missing)?;
        let place = &self.places[above];
        let tree = place.tree.as_ref().ok_or(missing)?;
        let mut here = open_beneath(tree.as_fd(), b"", OFlags::DIRECTORY)?;
        let inside = below(path, &place.path).ok_or(missing)?;
        for name in inside.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            match mkdirat(&here, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(io::Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            here = open_beneath(here.as_fd(), name, OFlags::DIRECTORY)?;
        }
        Ok(here)
    }

    /// The overlays that have their places.
    pub(crate) fn take_overlaid(&mut self) -> Vec<OwnedFd> {
        self.places.iter_mut().filter_map(|place| place.tree.take()).collect()
    }

    /// prepare.4 as a shell command.
    pub(crate) fn describe_layer(
        &self,
        index: u16,
        data_dir: Path<'_>,
        volatile: bool,
        command: &mut Command,
    ) {
        let volatile = if volatile { ",volatile" } else { "" };
        let Some(layer) = self.layers.get(usize::from(index)) else { return };
        let lower = String::from_utf8_lossy(&layer.mountpoint);
        let [upper, work] = directory_names(&layer.mountpoint);
        // A Command takes any text.
        let _ = if layer.reused {
            write!(command, "mount --bind overlay # over {lower}, of an earlier launch, reused")
        } else {
            write!(
                command,
                "mount -t overlay overlay -o lowerdir={lower},upperdir={data_dir}/.rocker/{upper},\
             workdir={data_dir}/.rocker/{work}{volatile}"
            )
        };
    }

    /// overlay.1 as a shell command.
    pub(crate) fn describe_place(&self, index: u16, command: &mut Command) {
        let Some(place) = self.places.get(usize::from(index)) else { return };
        let path = String::from_utf8_lossy(&place.path);
        let _ = match place.source {
            Source::Overlaid { .. } => write!(command, "mount --bind overlay:{path} {path}"),
            Source::HostMount => write!(command, "mount --rbind -o ro {path} {path}"),
        };
    }
}

/// `app_overlay_dirs`: each must be there, and must not lead to a place of the host's.
fn listed_directories(listed: &[Path<'_>]) -> Result<Vec<Directory>, NoPlan> {
    let mut found = Vec::with_capacity(listed.len());
    for (index, path) in (0..).zip(listed) {
        let directory = open_directory(path.as_bytes())
            .map_err(|error| NoPlan::Failed(ours(error), path.as_bytes().to_vec()))?;
        if !may_overlay(&directory) {
            return Err(NoPlan::Forbidden(index));
        }
        found.push(directory);
    }
    Ok(found)
}

/// Every top directory that may be overlaid. Links count as what they lead to, and what
/// leads nowhere is not visible.
fn top_directories() -> Result<Vec<Directory>, NoPlan> {
    let failed = |error: io::Errno| NoPlan::Failed(ours(error), b"/".to_vec());
    let root =
        openat(CWD, c"/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed)?;
    let mut found = vec![];
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(&root, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let path = [b"/".as_slice(), name].concat();
        match open_directory(&path) {
            Ok(directory) if may_overlay(&directory) => found.push(directory),
            Ok(_) | Err(io::Errno::NOTDIR | io::Errno::NOENT | io::Errno::LOOP) => {}
            Err(error) => return Err(NoPlan::Failed(ours(error), path)),
        }
    }
    Ok(found)
}

fn open_directory(path: &[u8]) -> io::Result<Directory> {
    let (fd, path) = match mounts::open_without_links(path, OFlags::DIRECTORY) {
        Err(io::Errno::LOOP) => {
            // Where a process of somebody else's is, is not for its caller to know.
            let links = ResolveFlags::NO_MAGICLINKS;
            let fd = mounts::open_place(CWD, path, OFlags::DIRECTORY, links)?;
            let leads = readlinkat(CWD, mounts::by_descriptor(fd.as_fd()), Vec::new())?;
            (fd, leads.into_bytes())
        }
        fd => (fd?, as_written(path)),
    };
    let mount_id = mount_id(fd.as_fd())?;
    Ok(Directory { path, fd, mount_id })
}

/// A path without links, as the kernel writes it.
fn as_written(path: &[u8]) -> Vec<u8> {
    let mut written = Vec::with_capacity(path.len());
    for name in path.split(|&b| b == b'/').filter(|name| !matches!(*name, b"" | b".")) {
        written.push(b'/');
        written.extend_from_slice(name);
    }
    written
}

fn may_overlay(directory: &Directory) -> bool {
    Path::new(&directory.path).is_ok_and(request::may_overlay)
}

/// `statx(2)` asks the file system, and one that belongs to a user (FUSE) may refuse even root;
/// what the kernel knows by itself is in `/proc/self/fdinfo`.
fn mount_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let wanted = StatxFlags::MNT_ID;
    match statx(fd, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, wanted) {
        Ok(found) if StatxFlags::from_bits_retain(found.stx_mask).contains(wanted) => {
            Ok(found.stx_mnt_id)
        }
        _ => mount_table::id_of(fd),
    }
}

/// Leaves out what another requested directory of the same mount covers already: it would
/// show the same files. Nothing else may be mounted in between.
fn without_covered(directories: Vec<Directory>, table: &[Mount]) -> Vec<Directory> {
    let mut kept: Vec<Directory> = vec![];
    for directory in directories {
        let above = kept.iter().rfind(|other| is_strictly_below(&directory.path, &other.path));
        let covered = above.is_some_and(|above| {
            above.mount_id == directory.mount_id
                && !table.iter().any(|mount| {
                    is_strictly_below(&mount.at, &above.path)
                        && below(&directory.path, &mount.at).is_some()
                })
        });
        if !covered {
            kept.push(directory);
        }
    }
    kept
}

/// The host mounts that the overlay of `directory` would hide: those that are on its own mount, for
/// each brings along what is on itself. A host may have thousands.
fn host_mounts_below(
    directory: &Directory,
    directories: &[Directory],
    table: &[Mount],
) -> Vec<Vec<u8>> {
    let is_hidden = |mount: &&Mount| {
        mount.parent == directory.mount_id
            && is_strictly_below(&mount.at, &directory.path)
            && !directories.iter().any(|dir| dir.path == mount.at)
    };
    table.iter().filter(is_hidden).map(|mount| mount.at.clone()).collect()
}

/// By their paths. They are few, and the library's sorts are 3 KB of program and 7 of stack.
fn sort<T>(items: &mut [T], path: impl Fn(&T) -> &[u8]) {
    for sorted in 1..items.len() {
        for at in (1..=sorted).rev() {
            if path(&items[at - 1]) <= path(&items[at]) {
                break;
            }
            items.swap(at - 1, at);
        }
    }
}

/// The names of a layer's directories in `.rocker`: `up` and `work` for the root mount, and
/// for any other mount the same followed by its place with `/` as `%2F`.
fn directory_names(mountpoint: &[u8]) -> [String; 2] {
    let mut place = String::new();
    if mountpoint != b"/" {
        for &byte in mountpoint {
            match byte {
                b'/' | b'%' | 0x80.. => {
                    // A String takes any text.
                    let _ = write!(place, "%{byte:02X}");
                }
                _ => place.push(char::from(byte)),
            }
        }
    }
    [format!("{}{place}", mark::UPPER), format!("work{place}")]
}

/// Opens a layer's directory, made at first use. The merged root shows mode and owner of the
/// upper directory, not of the lower (KERNEL A9): so they are taken from `like`.
fn layer_directory(
    data: BorrowedFd<'_>,
    name: &str,
    like: BorrowedFd<'_>,
) -> Result<OwnedFd, io::Errno> {
    match openat(data, name, TO_READ, Mode::empty()) {
        Err(io::Errno::NOENT) => {}
        answer => return answer,
    }
    mkdirat(data, name, Mode::RWXU)?;
    let directory = openat(data, name, TO_READ, Mode::empty())?;
    let like = fstat(like)?;
    fchown(&directory, Some(Uid::from_raw(like.st_uid)), Some(Gid::from_raw(like.st_gid)))?;
    fchmod(&directory, Mode::from_raw_mode(like.st_mode))?;
    Ok(directory)
}

fn ours(error: io::Errno) -> Errno {
    protocol::socket::errno(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic;

    fn directory(path: &str, mount_id: u64) -> Directory {
        let fd = openat(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        Directory { path: path.into(), fd, mount_id }
    }

    /// Each with its id, that of the mount it is on, and its place.
    fn table(mounts: &[(u64, u64, &str)]) -> Vec<Mount> {
        mounts.iter().map(|&(id, parent, at)| Mount { id, parent, at: at.into() }).collect()
    }

    fn paths(directories: &[Directory]) -> Vec<&str> {
        directories.iter().map(|d| core::str::from_utf8(&d.path).unwrap()).collect()
    }

    #[test]
    fn nested_directories_of_one_mount_are_one() {
        let table = table(&[(1, 0, "/")]);
        let kept = without_covered(vec![directory("/usr", 1), directory("/usr/local", 1)], &table);
        assert_eq!(paths(&kept), ["/usr"]);
    }

    #[test]
    fn nested_directories_of_two_mounts_are_two() {
        let table = table(&[(1, 0, "/"), (2, 1, "/var/lib")]);
        let kept = without_covered(vec![directory("/var", 1), directory("/var/lib/x", 2)], &table);
        assert_eq!(paths(&kept), ["/var", "/var/lib/x"]);
        // The same file system again, bound below another mount of it.
        let kept = without_covered(vec![directory("/var", 1), directory("/var/lib/x", 1)], &table);
        assert_eq!(paths(&kept), ["/var", "/var/lib/x"]);
    }

    #[test]
    fn only_topmost_mounts_below_are_put_back() {
        let table = table(&[
            (1, 0, "/"),
            (2, 1, "/var/a"),
            (3, 5, "/var/a/b"),
            (4, 1, "/varx"),
            (5, 2, "/var/a"),
            (6, 1, "/var/c"),
        ]);
        let found = |directories: &[Directory]| -> Vec<_> {
            let below = |directory| host_mounts_below(directory, directories, &table);
            directories.iter().map(below).collect()
        };
        assert_eq!(found(&[directory("/var", 1)]), [[b"/var/a", b"/var/c"]]);
        // Below a requested directory inside a put-back mount counting starts again.
        let two = found(&[directory("/var", 1), directory("/var/a", 5)]);
        assert_eq!(two, [[b"/var/c".to_vec()], [b"/var/a/b".to_vec()]]);
    }

    #[test]
    fn parents_come_before_what_is_below_them() {
        let mut paths = ["/var/a", "/usr", "/", "/var", "/a", "/var/a/b", "/usr"].to_vec();
        sort(&mut paths, |path| path.as_bytes());
        assert_eq!(paths, ["/", "/a", "/usr", "/usr", "/var", "/var/a", "/var/a/b"]);
    }

    #[test]
    fn layers_on_disk_are_named_by_their_mount() {
        assert_eq!(directory_names(b"/"), ["up", "work"]);
        assert_eq!(directory_names(b"/home"), ["up%2Fhome", "work%2Fhome"]);
        assert_eq!(directory_names(b"/a%2Fb\xff"), ["up%2Fa%252Fb%FF", "work%2Fa%252Fb%FF"]);
    }

    fn upper(directory: &std::path::Path) -> Upper {
        let path = directory.as_os_str().as_encoded_bytes();
        Upper::new(openat(CWD, path, TO_READ, Mode::empty()).unwrap()).unwrap()
    }

    #[test]
    fn an_upper_directory_knows_whether_it_was_touched() {
        let name = std::format!("rocker-guard-upper-{}", std::process::id());
        let all = std::env::temp_dir().join(name);
        let names = ["untouched", "filled", "used", "restricted"];
        let [untouched, filled, used, restricted] = names.map(|name| all.join(name));
        for directory in [&untouched, &filled, &used, &restricted] {
            std::fs::create_dir_all(directory).unwrap();
        }
        std::fs::create_dir(filled.join("directory")).unwrap();
        // Whether it is as it was cannot be told for as long as its time may be that of a change.
        assert!(!upper(&untouched).is_untouched());
        std::thread::sleep(core::time::Duration::from_millis(2100));
        let old = [&untouched, &filled, &used, &restricted].map(|directory| upper(directory));
        std::fs::write(used.join("file"), "").unwrap();
        std::fs::remove_file(used.join("file")).unwrap();
        let how = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(&restricted, how).unwrap();
        // Whenever it is asked.
        let told = [0, 1].map(|_| old.each_ref().map(Upper::is_untouched));
        std::fs::remove_dir_all(&all).unwrap();
        assert_eq!(told, [[true, false, false, false]; 2]);
    }

    #[test]
    fn all_top_directories_leave_out_what_is_the_hosts() {
        let found = top_directories().unwrap_or_else(|_| panic!("/ can be listed"));
        assert!(found.iter().any(|directory| directory.path == b"/usr"));
        for live in ["/proc", "/sys", "/dev", "/run", "/"] {
            assert!(found.iter().all(|directory| directory.path != live.as_bytes()), "{live}");
        }
    }
}
