//! root.3: the `/dev` that a rocker gets, attached nowhere: nodes on a small file system in memory,
//! which root alone can make. It is read-only, so all rockers of one user may have the same one,
//! each by a mount of its own; those of different users could meet there, by locks on the nodes
//! and by watching them (`man 7 inotify`). What is each rocker's own in it its guard mounts
//! (`guard/src/mounts.rs`).

use core::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use protocol::devices::{DEVICES, DIRECTORIES, LINKS};
use protocol::{Dev, Error, Item, Path, Rule};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, chownat, fstat, makedev,
    mkdirat, mknodat, openat, openat2, symlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, open_tree,
};
use rustix::process::umask;

use crate::unmade::Unmade;

/// Whose a `/dev` is to be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct App {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl App {
    /// Whether it may read or write what belongs to these, with no capability and one group.
    fn may_use(self, found: &Stat) -> bool {
        let shift = match self {
            Self { uid, .. } if uid == found.st_uid => 6,
            Self { gid, .. } if gid == found.st_gid => 3,
            _ => 0,
        };
        found.st_mode >> shift & 0o6 != 0
    }
}

/// One for each user.
#[derive(Debug)]
pub(crate) struct Devices {
    /// The users of late, the latest last; first those that are nobody's yet. None at all before
    /// Linux 6.15, where what is attached nowhere cannot be cloned (KERNEL A14).
    templates: Vec<(Option<u32>, OwnedFd)>,
}

impl Devices {
    /// For so many users at a time, each of whom takes a descriptor, from now on. What cannot be
    /// made here is told to whoever asks for one.
    pub(crate) fn new(users: usize) -> Self {
        let one = || tree(App::default(), Dev::Own).ok().filter(|tree| copy(tree).is_ok());
        Self { templates: (0..users).map_while(|_| Some((None, one()?))).collect() }
    }

    /// For one rocker of this user's; none where it has the host's.
    pub(crate) fn of(&mut self, app: App, dev: Dev<'_>) -> Result<Option<OwnedFd>, Unmade> {
        match dev {
            Dev::Host => Ok(None),
            Dev::Own => self.own(app).map(Some),
            Dev::With(_) => tree(app, dev).map(Some),
        }
    }

    fn own(&mut self, app: App) -> Result<OwnedFd, Unmade> {
        let new = || tree(app, Dev::Own);
        let copied = |errno| failed(errno, "mount --bind devices /dev");
        if let Some((_, template)) = self.templates.iter().find(|(of, _)| *of == Some(app.uid)) {
            return copy(template).map_err(copied);
        }
        let Some((of, template)) = self.templates.first_mut() else { return new() };
        if of.is_some() {
            // That one's rockers keep what they have.
            *template = new()?;
        }
        *of = Some(app.uid);
        let one = copy(template).map_err(copied);
        self.templates.rotate_left(1);
        one
    }
}

fn copy(tree: &OwnedFd) -> Result<OwnedFd, Errno> {
    let how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(tree.as_fd(), c"", how | OpenTreeFlags::AT_EMPTY_PATH)
}

fn failed(errno: Errno, command: &str) -> Unmade {
    Unmade::System(errno, command.to_owned())
}

fn tree(app: App, named: Dev<'_>) -> Result<OwnedFd, Unmade> {
    // What is made here has the mode that is said.
    let mask = umask(Mode::empty());
    let made = make(app, named);
    umask(mask);
    made
}

fn make(app: App, named: Dev<'_>) -> Result<OwnedFd, Unmade> {
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
    for (index, path) in (0..).zip(named.named().flatten()) {
        let broken =
            |rule, words| Unmade::Rule(Error::Invalid { rule, item: Item::Device(index) }, words);
        let found = put(&dev, path).map_err(|errno| match rule(errno) {
            Some(rule) => broken(rule, String::new()),
            None => failed(errno, &format!("cp -a {path} /dev")),
        })?;
        if !app.may_use(&found) {
            let Stat { st_uid, st_gid, .. } = found;
            let mode = found.st_mode & 0o777;
            let words = format!("owner {st_uid}, group {st_gid}, mode {mode:o}");
            return Err(broken(Rule::OutOfReach, words));
        }
    }
    fsconfig_set_flag(&context, c"ro")
        .and_then(|()| fsconfig_reconfigure(&context))
        .map_err(|errno| failed(errno, "mount -o remount,ro /dev"))?;
    Ok(dev)
}

/// What the caller has done wrong, if it is that.
fn rule(errno: Errno) -> Option<Rule> {
    Some(match errno {
        Errno::NOENT | Errno::NOTDIR => Rule::NoSuchDevice,
        Errno::EXIST => Rule::AlreadyThere,
        Errno::NODEV | Errno::XDEV => Rule::NotADevice,
        _ => return None,
    })
}

/// One of the host's, with its owner and mode of this moment, and those of the directories above:
/// the App may do with it what its user may, and no more. Links are followed, as those of
/// `/dev/serial/by-id` have to be, but not out of the file system of `/dev`: users can write to
/// others, and another may never answer.
fn put(dev: &OwnedFd, path: Path<'_>) -> Result<Stat, Errno> {
    let how = OFlags::PATH | OFlags::CLOEXEC;
    let host = openat(CWD, c"/dev", how | OFlags::DIRECTORY, Mode::empty())?;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let look = |name: &[u8]| fstat(openat2(&host, name, how, Mode::empty(), inside)?);
    let owned = |name: &[u8], of: &Stat| {
        let (uid, gid) = (Uid::from_raw(of.st_uid), Gid::from_raw(of.st_gid));
        chownat(dev, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
    };
    let parts: Vec<&[u8]> = path.components().skip(1).collect();
    let found = look(&parts.join(b"/".as_slice()))?;
    let kind = FileType::from_raw_mode(found.st_mode);
    if !matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
        return Err(Errno::NODEV);
    }
    for depth in 1..parts.len() {
        let name = parts.get(..depth).unwrap_or_default().join(b"/".as_slice());
        let above = look(&name)?;
        match mkdirat(dev, name.as_slice(), Mode::from_raw_mode(above.st_mode)) {
            Ok(()) => owned(&name, &above)?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    let name = parts.join(b"/".as_slice());
    mknodat(dev, name.as_slice(), kind, Mode::from_raw_mode(found.st_mode), found.st_rdev)?;
    owned(&name, &found).map(|()| found)
}

fn text(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}
