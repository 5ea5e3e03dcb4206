//! Where the controllers of cgroups are on this host (`man 7 cgroups`): each in a hierarchy of
//! version 1, or in the unified one of version 2.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use protocol::limits::CGROUPS_MAX;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// What limits something, or counts it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Controller {
    Memory,
    Pids,
    Cpu,
    Cpuset,
    Io,
}

impl Controller {
    pub(crate) const ALL: [Self; CGROUPS_MAX] =
        [Self::Memory, Self::Pids, Self::Cpu, Self::Cpuset, Self::Io];

    /// Its name in version 2.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Io => "io",
        }
    }

    /// Its name in version 1.
    const fn old_name(self) -> &'static str {
        match self {
            Self::Io => "blkio",
            other => other.name(),
        }
    }

    fn among(names: impl Iterator<Item = impl AsRef<str>>, unified: bool) -> Vec<Self> {
        let names: Vec<_> = names.collect();
        let called = |it: Self| if unified { it.name() } else { it.old_name() };
        let is_named = |it: &Self| names.iter().any(|name| name.as_ref() == called(*it));
        Self::ALL.into_iter().filter(is_named).collect()
    }
}

/// A mounted hierarchy, and those controllers in it that are in no other.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    pub(crate) unified: bool,
    pub(crate) controllers: Vec<Controller>,
    pub(crate) top: OwnedFd,
    /// Where it is mounted, for people.
    pub(crate) place: PathBuf,
}

/// All that are mounted and have one of our controllers. Without any, a mount of version 2 is made
/// that only its descriptor leads to: small systems have nobody who mounts one.
pub(crate) fn look() -> Vec<Hierarchy> {
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<Hierarchy> = vec![];
    for Mount { unified, place, options } in mounts(&table) {
        let Ok(top) = open_dir(CWD, &place) else { continue };
        found.extend(hierarchy(unified, top, place, &options, &found));
    }
    if found.is_empty()
        && let Ok(top) = mount_unified()
    {
        found.extend(hierarchy(true, top, "cgroup2".into(), "", &[]));
    }
    found
}

fn hierarchy(
    unified: bool,
    top: OwnedFd,
    place: PathBuf,
    options: &str,
    others: &[Hierarchy],
) -> Option<Hierarchy> {
    let mut controllers = if unified {
        let names = read(&top, "cgroup.controllers").unwrap_or_default();
        Controller::among(names.split_whitespace(), true)
    } else {
        Controller::among(options.split(','), false)
    };
    // One hierarchy can be mounted in several places.
    controllers.retain(|it| !others.iter().any(|other| other.controllers.contains(it)));
    (!controllers.is_empty()).then_some(Hierarchy { unified, controllers, top, place })
}

/// A line of the mount table.
struct Mount {
    unified: bool,
    place: PathBuf,
    /// Those of the file system: in version 1 the controllers are among them.
    options: String,
}

/// The cgroup file systems in a mount table (`man 5 proc_pid_mountinfo`).
fn mounts(table: &[u8]) -> impl Iterator<Item = Mount> {
    table.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let place = unescape(fields.nth(4)?);
        let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
        let unified = match rest.next()? {
            b"cgroup" => false,
            b"cgroup2" => true,
            _ => return None,
        };
        let options = String::from_utf8_lossy(rest.nth(1)?).into_owned();
        Some(Mount { unified, place: OsString::from_vec(place).into(), options })
    })
}

/// Blanks and the like are in the table as `\040`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut text = vec![];
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| byte == b'\\');
        let code = octal.and_then(|digits| core::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(meant) => {
                text.push(meant);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                text.push(byte);
                rest = after;
            }
        }
    }
    text
}

/// Why there is no such controller, as far as `/proc/cgroups` tells.
pub(crate) fn why_missing(controller: Controller) -> String {
    let name = controller.old_name();
    let table = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    match rows.find(|row| row.first() == Some(&name)).as_deref() {
        Some([_, _, _, "0"]) => format!("cgroup_disable={name} # on the kernel's command line"),
        Some([_, hierarchy, ..]) if *hierarchy != "0" => {
            format!("mount -t cgroup -o {name} {name} /sys/fs/cgroup/{name} # is to be done first")
        }
        Some(_) => format!("grep {} cgroup.controllers # in /sys/fs/cgroup", controller.name()),
        None => format!("grep {name} /proc/cgroups # this kernel was built without"),
    }
}

/// A mount of version 2 that has no place. Controllers that hierarchies of version 1 have taken
/// are not in it.
fn mount_unified() -> Result<OwnedFd, Errno> {
    let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Opens a directory of a hierarchy.
pub(crate) fn open_dir(dir: impl AsFd, name: impl AsRef<Path>) -> Result<OwnedFd, Errno> {
    let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(dir, name.as_ref(), how, Mode::empty())
}

/// The text of a file in it.
pub(crate) fn read(dir: impl AsFd, name: &str) -> Result<String, Errno> {
    let file = openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    let read = File::from(file).read_to_string(&mut text);
    read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_their_file_system() {
        let table = b"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            33 31 0:30 / /a\\040b rw shared:7 master:2 - cgroup cgroup rw,blkio\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
            42 31 0:39 / /cgroup2 rw - ext4 /dev/sda rw\n";
        let found: Vec<_> = mounts(table).map(|it| (it.unified, it.place, it.options)).collect();
        let wanted = [
            (false, "/sys/fs/cgroup/cpu,cpuacct", "rw,cpu,cpuacct"),
            (false, "/a b", "rw,blkio"),
            (true, "/sys/fs/cgroup/unified", "rw"),
        ];
        let wanted = wanted
            .map(|(unified, place, options)| (unified, PathBuf::from(place), options.to_owned()));
        assert_eq!(found, wanted);
        let io = Controller::among("rw,blkio".split(','), false);
        assert_eq!(io, [Controller::Io]);
        assert_eq!(Controller::among("rw,cpuacct,io".split(','), false), []);
    }
}
