//! The rocker's cgroups, which the master has made: prepare.0 joins them, root.5 passes the way in
//! to whoever enters, and what they count is read at exec.3. There is no path to them in here:
//! each is a directory that the master has opened.

use protocol::limits::CGROUPS_MAX;
use protocol::usage::{Ooms, Parse};
use protocol::{Cgroup, Usage};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

/// Room for the files that are read: two lines, or one for each block device.
const FILE_MAX: usize = 2048;

/// One of them.
struct Joined {
    what: Cgroup,
    /// `cgroup.procs`, opened by root: so it can be written to by whoever has it.
    procs: Option<OwnedFd>,
    dir: OwnedFd,
}

/// None, one, or one for each hierarchy.
#[derive(Default)]
pub(crate) struct Cgroups(heapless::Vec<Joined, CGROUPS_MAX>);

impl Cgroups {
    /// Two descriptors each, as root.3 brings them.
    pub(crate) fn new(
        what: &[Cgroup],
        descriptors: &mut impl Iterator<Item = OwnedFd>,
    ) -> Option<Self> {
        let mut all = heapless::Vec::new();
        for &what in what {
            let (procs, dir) = (descriptors.next(), descriptors.next()?);
            all.push(Joined { what, procs, dir }).ok()?;
        }
        Some(Self(all))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// prepare.0: this process, and with it whatever it starts, is in them from now on.
    pub(crate) fn join(&self) -> Result<(), Errno> {
        let mut procs = self.0.iter().filter_map(|it| it.procs.as_ref());
        procs.try_for_each(|procs| rustix::io::write(procs, b"0").map(drop))
    }

    /// The way in, for those who enter: from here on they are read only.
    pub(crate) fn take_entrance(&mut self) -> heapless::Vec<OwnedFd, CGROUPS_MAX> {
        self.0.iter_mut().filter_map(|it| it.procs.take()).collect()
    }

    /// What the OOM killer has done so far.
    pub(crate) fn ooms(&self) -> Ooms {
        let memory = self.0.iter().find(|it| it.what.memory);
        memory.map_or(Ooms::default(), |Joined { what, dir, .. }| {
            Ooms::of(*what, |file, parse| read(dir, file, parse))
        })
    }

    /// What all in the rocker have used.
    pub(crate) fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for Joined { what, dir, .. } in &self.0 {
            usage.count(*what, |file, parse| read(dir, file, parse));
        }
        usage
    }
}

/// What a file of a cgroup says; none if this kernel has no such file. Of a longer one the
/// beginning, up to the end of a line.
#[inline(never)] // Its buffer is for those who ask.
fn read(dir: &OwnedFd, file: &str, parse: Parse<'_>) -> Option<u64> {
    let how = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(dir, file, how, Mode::empty()).ok()?;
    let mut buffer = [0; FILE_MAX];
    let mut length = 0;
    while let Some(room @ [_, ..]) = buffer.get_mut(length..) {
        match rustix::io::read(&file, room) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(_) => return None,
        }
    }
    let text = buffer.get(..length)?;
    let end = text.iter().rposition(|&byte| byte == b'\n')?;
    parse(core::str::from_utf8(text.get(..=end)?).ok()?)
}
