//! What a rocker that takes orders is to look like, and how it becomes new again.

use core::time::Duration;
use std::path::{Path, PathBuf};

use protocol::conf::{self, Place, Places, Root};
use protocol::limits::{HOST_NAME_MAX, MESSAGE_MAX, RESET_MS};
use protocol::message::ClientMessage;
use protocol::{Item, Rule};

use crate::error::Error;
use crate::files::checked as file_path;
use crate::launch::checked;
use crate::open::{ANSWER, OpenRocker, strings};
use crate::program::Program;

/// The rocker as its programs will see it: what is mounted where, names, a first command.
///
/// ```no_run
/// use rocker_client::{Conf, Launch};
///
/// let mut rocker = Launch::new("/apps/judge.sqfs").uid(1000).gid(1000).open()?;
/// let conf = Conf::new()
///     .tmpfs("/tmp", 16 << 20)
///     .bind_ro("/srv/tests", "/tmp/tests")
///     .mask("/etc/passwd")
///     .work_dir("/tmp")
///     .host_name("judge");
/// rocker.configure(&conf)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Places are made in the order of the calls, with the App's rights. A place must be there, or
/// lie in what an earlier call has mounted, where it is made; no link is followed to it. What is
/// bound, masked or mounted stays so: no program has the privilege to change it.
///
/// | `containerConfig` of the documents | here |
/// | --- | --- |
/// | `WorkDir` | [`work_dir`](Self::work_dir) |
/// | `HostName`, `DomainName` | [`host_name`](Self::host_name), [`domain_name`](Self::domain_name) |
/// | `ContainerRoot` | [`root`](Self::root), [`empty_root`](Self::empty_root) |
/// | `Mounts` | [`bind`](Self::bind), [`bind_ro`](Self::bind_ro), [`tmpfs`](Self::tmpfs), [`overlay`](Self::overlay), [`proc`](Self::proc), [`dev`](Self::dev) |
/// | `SymbolicLinks` | [`link`](Self::link) |
/// | `MaskPaths` | [`mask`](Self::mask) |
/// | `InitCommand` | [`init`](Self::init) |
/// | `ContainerUID`, `ContainerGID` | [`Launch::ids_inside`](crate::Launch::ids_inside) |
/// | `Cred` | always: programs have the App's ids |
/// | `UnshareCgroup` | [`unshare_cgroup`](Self::unshare_cgroup) |
#[derive(Debug, Default)]
pub struct Conf {
    root: NewRoot,
    places: Vec<NewPlace>,
    work_dir: Option<PathBuf>,
    host_name: Option<String>,
    domain_name: Option<String>,
    unshare_cgroup: bool,
    init: Option<(Program, Duration)>,
}

#[derive(Debug, Default)]
enum NewRoot {
    #[default]
    Whole,
    Directory(PathBuf),
    Empty(u64),
}

#[derive(Debug)]
enum NewPlace {
    Bind { source: PathBuf, target: PathBuf, read_only: bool },
    Tmpfs { target: PathBuf, bytes: u64, mode: u16 },
    Overlay { target: PathBuf, bytes: u64 },
    Proc { target: PathBuf },
    Dev { target: PathBuf, shm_bytes: u64 },
    Link { path: PathBuf, target: PathBuf },
    Mask { target: PathBuf },
}

impl Conf {
    /// The rocker as it is.
    pub fn new() -> Self {
        Self::default()
    }

    fn place(mut self, place: NewPlace) -> Self {
        self.places.push(place);
        self
    }

    /// This directory of the rocker's becomes `/`, with what is mounted below it: the exec dir,
    /// for an App that brings all it needs.
    #[must_use]
    pub fn root(mut self, dir: impl AsRef<Path>) -> Self {
        self.root = NewRoot::Directory(dir.as_ref().to_owned());
        self
    }

    /// `/` is an empty directory in memory, of at most so many bytes, to which only what is named
    /// here comes.
    #[must_use]
    pub fn empty_root(mut self, bytes: u64) -> Self {
        self.root = NewRoot::Empty(bytes);
        self
    }

    /// A file or directory of the rocker's in another place, with what is mounted below it. Set
    /// user ids and devices in it are inert. `source` is meant as it is before any other call.
    #[must_use]
    pub fn bind(self, source: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        self.bound(source.as_ref(), target.as_ref(), false)
    }

    /// The same, for reading only.
    #[must_use]
    pub fn bind_ro(self, source: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        self.bound(source.as_ref(), target.as_ref(), true)
    }

    fn bound(self, source: &Path, target: &Path, read_only: bool) -> Self {
        let (source, target) = (source.to_owned(), target.to_owned());
        self.place(NewPlace::Bind { source, target, read_only })
    }

    /// An empty directory in memory, of at most so many bytes and a file for each 1024 of them,
    /// in which everybody may make files (`1777`). A [reset](OpenRocker::reset) empties it.
    #[must_use]
    pub fn tmpfs(self, target: impl AsRef<Path>, bytes: u64) -> Self {
        self.tmpfs_mode(target, bytes, 0o1777)
    }

    /// The same with these permissions.
    #[must_use]
    pub fn tmpfs_mode(self, target: impl AsRef<Path>, bytes: u64, mode: u16) -> Self {
        self.place(NewPlace::Tmpfs { target: target.as_ref().to_owned(), bytes, mode })
    }

    /// The directory as it is, but what the App writes there goes to memory, at most so many
    /// bytes, and is gone after a [reset](OpenRocker::reset). Permissions still count, but the
    /// directory itself is the App's own, and what is mounted below it is not seen.
    #[must_use]
    pub fn overlay(self, target: impl AsRef<Path>, bytes: u64) -> Self {
        self.place(NewPlace::Overlay { target: target.as_ref().to_owned(), bytes })
    }

    /// The rocker's `/proc` in another place, for another `/`.
    #[must_use]
    pub fn proc(self, target: impl AsRef<Path>) -> Self {
        self.place(NewPlace::Proc { target: target.as_ref().to_owned() })
    }

    /// A small `/dev`: `null`, `zero`, `full`, `random`, `urandom`, `tty`, `fd`, `stdin`,
    /// `stdout`, `stderr`; terminals of its own; and so many bytes of shared memory.
    #[must_use]
    pub fn dev(self, target: impl AsRef<Path>, shm_bytes: u64) -> Self {
        self.place(NewPlace::Dev { target: target.as_ref().to_owned(), shm_bytes })
    }

    /// A symbolic link at `path` that leads to `target`.
    #[must_use]
    pub fn link(self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> Self {
        let (target, path) = (target.as_ref().to_owned(), path.as_ref().to_owned());
        self.place(NewPlace::Link { path, target })
    }

    /// A file that reads as empty, or a directory that is. One that is not there hides nothing.
    #[must_use]
    pub fn mask(self, target: impl AsRef<Path>) -> Self {
        self.place(NewPlace::Mask { target: target.as_ref().to_owned() })
    }

    /// Where programs start, and relative paths of orders begin; else the exec dir, or `/` where
    /// that is another one.
    #[must_use]
    pub fn work_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.work_dir = Some(dir.as_ref().to_owned());
        self
    }

    /// What the machine is called inside; at most 64 bytes.
    #[must_use]
    pub fn host_name(mut self, name: impl Into<String>) -> Self {
        self.host_name = Some(name.into());
        self
    }

    /// Its NIS domain; at most 64 bytes.
    #[must_use]
    pub fn domain_name(mut self, name: impl Into<String>) -> Self {
        self.domain_name = Some(name.into());
        self
    }

    /// Programs see the rocker's control groups as the top of all.
    #[must_use]
    pub fn unshare_cgroup(mut self) -> Self {
        self.unshare_cgroup = true;
        self
    }

    /// A program that has to end well, within this time, before the first order and after each
    /// [reset](OpenRocker::reset). Of it counts what is to run, and the environment.
    #[must_use]
    pub fn init(mut self, program: Program, timeout: Duration) -> Self {
        self.init = Some((program, timeout));
        self
    }

    fn init_timeout(&self) -> Duration {
        self.init.as_ref().map_or(Duration::ZERO, |(_, timeout)| *timeout)
    }
}

/// An absolute path.
fn path(path: &Path) -> Result<protocol::Path<'_>, Error> {
    checked(path, Item::File)
}

impl NewPlace {
    fn place(&self) -> Result<Place<'_>, Error> {
        Ok(match self {
            Self::Bind { source, target, read_only } => {
                Place::Bind { source: path(source)?, target: path(target)?, read_only: *read_only }
            }
            Self::Tmpfs { target, bytes, mode } => {
                Place::Tmpfs { target: path(target)?, bytes: *bytes, mode: *mode }
            }
            Self::Overlay { target, bytes } => {
                Place::Overlay { target: path(target)?, bytes: *bytes }
            }
            Self::Proc { target } => Place::Proc { target: path(target)? },
            Self::Dev { target, shm_bytes } => {
                Place::Dev { target: path(target)?, shm_bytes: *shm_bytes }
            }
            Self::Link { path: at, target } => {
                Place::Link { path: path(at)?, target: file_path(target)? }
            }
            Self::Mask { target } => Place::Mask { target: path(target)? },
        })
    }
}

fn name(text: &str) -> Result<&str, Error> {
    match text.len() > HOST_NAME_MAX {
        true => Err(Error::invalid(Rule::TooLong, Item::Name, text.as_bytes())),
        false => Ok(text),
    }
}

impl OpenRocker {
    /// Makes the rocker look like this: once, and before its first program.
    ///
    /// Technically: the guard mounts in a mount namespace that belongs to the rocker's user
    /// namespace, with the App's ids and no right that the App has not. It gets a new IPC
    /// namespace with it, so that shared memory goes at a reset, too.
    ///
    /// # Errors
    ///
    /// One that names the part, the path and the reason. Unless it was refused as a whole
    /// (`EBUSY`: a program has run; `EEXIST`: this was done before; `EPERM`: a rocker that was not
    /// made for orders) the rocker has ended: nothing runs in one that is half of what was asked
    /// for.
    pub fn configure(&mut self, conf: &Conf) -> Result<(), Error> {
        let mut bytes = vec![0; MESSAGE_MAX];
        let mut used = 0;
        for place in &conf.places {
            let room = bytes.get_mut(used..).unwrap_or_default();
            let more = conf::append(&place.place()?, room);
            used += more.ok_or_else(|| Error::invalid(Rule::TooLong, Item::Request, b""))?;
        }
        let places = bytes.get(..used).and_then(Places::new);
        let order = conf.init.as_ref().map(|(program, _)| program.order()).transpose()?;
        let [init, init_env] = match &order {
            Some(order) => [strings(&order.args)?, strings(&order.env)?],
            None => Default::default(),
        };
        let out_of_range = || Error::invalid(Rule::TimeOutOfRange, Item::Program, b"");
        let init_ms = match u32::try_from(conf.init_timeout().as_millis()) {
            Ok(0) if conf.init.is_some() => return Err(out_of_range()),
            ms => ms.map_err(|_| out_of_range())?,
        };
        let order = protocol::Conf {
            root: match &conf.root {
                NewRoot::Whole => Root::Whole,
                NewRoot::Directory(dir) => Root::Directory(path(dir)?),
                NewRoot::Empty(bytes) => Root::Tmpfs(*bytes),
            },
            places: places.unwrap_or_default(),
            work_dir: conf.work_dir.as_deref().map(path).transpose()?,
            host_name: conf.host_name.as_deref().map(name).transpose()?,
            domain_name: conf.domain_name.as_deref().map(name).transpose()?,
            unshare_cgroup: conf.unshare_cgroup,
            init,
            init_env,
            init_ms,
        };
        let id = self.next_id();
        self.init_timeout = conf.init_timeout();
        self.obeyed_within(ANSWER + self.init_timeout, id, ClientMessage::Conf { id, conf: order })
            .map_err(|error| error.ordered("set up what the App sees"))
    }

    /// Ends every program, which is told as [`wait`](Self::wait) tells it, and makes the rocker
    /// what it was after [`configure`](Self::configure), or at its beginning without one: memory
    /// is empty again, what was mounted is mounted anew, the init command has run. It takes as
    /// long whatever an App has left.
    ///
    /// Not touched are the host's own directories, and the persistent overlays of
    /// [`Launch::overlay`](crate::Launch::overlay).
    ///
    /// # Errors
    ///
    /// `ETIME`: some process cannot be killed, and nothing else was done. After any other the
    /// rocker has ended.
    pub fn reset(&mut self) -> Result<(), Error> {
        let id = self.next_id();
        let timeout = ANSWER + Duration::from_millis(u64::from(RESET_MS)) + self.init_timeout;
        self.obeyed_within(timeout, id, ClientMessage::Reset { id })
            .map_err(|error| error.ordered("make the rocker as new"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_a_rule_is_named() {
        let refusal = |conf: Conf| conf.places[0].place().unwrap_err().to_string();
        assert_eq!(refusal(Conf::new().tmpfs("tmp", 1)), "file tmp: the path must be absolute");
        assert!(refusal(Conf::new().bind("/a/../b", "/c")).starts_with("file /a/../b: "));
        assert!(refusal(Conf::new().link("", "/c")).starts_with("file: it is empty"));
        assert!(name(&"n".repeat(65)).is_err());
        assert_eq!(name("n").ok(), Some("n"));
    }
}
