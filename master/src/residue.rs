//! root.15: what the kernel does not free by itself, written down before it exists.
//!
//! Today that is one small file per rocker, by which a master that was restarted knows the
//! rockers of the one before. They live on meanwhile: a rocker needs no master.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use protocol::{Name, Path};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A rocker as the master remembers it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Rocker {
    pub(crate) name: Name,
    pub(crate) guard_pid: u32,
    pub(crate) app_id: u32,
    /// The App's user.
    pub(crate) uid: u32,
    /// Who asked for it.
    pub(crate) owner: u32,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub(crate) began_ns: u64,
    /// A valid [`Path`].
    pub(crate) package: Box<[u8]>,
}

/// The directory of records.
#[derive(Debug)]
pub(crate) struct Records(OwnedFd);

impl Records {
    /// Opens `rockers` in the state directory, made at first use. Only root looks in.
    pub(crate) fn open(state_dir: &OwnedFd) -> Result<Self, Errno> {
        match mkdirat(state_dir, c"rockers", Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(state_dir, c"rockers", how, Mode::empty()).map(Self)
    }

    /// Writes a rocker down.
    pub(crate) fn write(&self, rocker: &Rocker) -> Result<(), Errno> {
        let how = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.0, rocker.name.as_str(), how, Mode::RUSR)?);
        file.write_all(&to_text(rocker))
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    /// Forgets a rocker.
    pub(crate) fn remove(&self, name: Name) -> Result<(), Errno> {
        match unlinkat(&self.0, name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The rockers on record that live, each with its guard's pidfd; the others are forgotten.
    pub(crate) fn adopt(&self) -> Result<Vec<(Rocker, OwnedFd)>, Errno> {
        let mut living = vec![];
        for entry in Dir::read_from(&self.0)? {
            let Ok(name) = Name::new(entry?.file_name().to_bytes()) else { continue };
            match self.read(name).and_then(|rocker| Some((living_guard(&rocker)?, rocker))) {
                Some((guard, rocker)) => living.push((rocker, guard)),
                None => self.remove(name)?,
            }
        }
        Ok(living)
    }

    fn read(&self, name: Name) -> Option<Rocker> {
        let how = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.0, name.as_str(), how, Mode::empty()).ok()?);
        let mut text = vec![];
        file.read_to_end(&mut text).ok()?;
        from_text(name, &text)
    }
}

/// One line: numbers, then the package, which has no line ends.
fn to_text(rocker: &Rocker) -> Vec<u8> {
    let Rocker { guard_pid, app_id, uid, owner, began_ns, package, .. } = rocker;
    let mut text = format!("{guard_pid} {app_id} {uid} {owner} {began_ns} ").into_bytes();
    text.extend_from_slice(package);
    text.push(b'\n');
    text
}

fn from_text(name: Name, text: &[u8]) -> Option<Rocker> {
    let mut fields = text.strip_suffix(b"\n")?.splitn(6, |&b| b == b' ');
    let mut number = || core::str::from_utf8(fields.next()?).ok()?.parse::<u64>().ok();
    let mut small = || u32::try_from(number()?).ok();
    let (guard_pid, app_id, uid, owner) = (small()?, small()?, small()?, small()?);
    let began_ns = number()?;
    let package = fields.next()?;
    Path::new(package).ok()?;
    Some(Rocker { name, guard_pid, app_id, uid, owner, began_ns, package: package.into() })
}

/// The guard, if it still is the one on record: its random name says so (KERNEL A55).
fn living_guard(rocker: &Rocker) -> Option<OwnedFd> {
    let pid = Pid::from_raw(rocker.guard_pid.cast_signed())?;
    let guard = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", rocker.guard_pid)).ok()?;
    let is_it = comm.trim_end() == rocker.name.as_str() && crate::linux::is_silent(guard.as_fd());
    is_it.then_some(guard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_written() {
        let rocker = Rocker {
            name: Name::from_random(77),
            guard_pid: 4711,
            app_id: 7,
            uid: 1000,
            owner: 0,
            began_ns: u64::MAX,
            package: b"/apps/with space.sqfs".as_slice().into(),
        };
        assert_eq!(from_text(rocker.name, &to_text(&rocker)), Some(rocker.clone()));
        let text = to_text(&rocker);
        for end in 0..text.len() {
            assert_eq!(from_text(rocker.name, &text[..end]), None, "cut at {end}");
        }
    }
}
