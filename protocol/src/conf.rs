//! What a commanded rocker is to look like (004's command conf): once, before its first program.

use serde::{Deserialize, Serialize};

use crate::files::FilePath;
use crate::program::Strings;
use crate::request::Path;

/// The rocker as its programs will see it. Done in this order: the root, the places one after
/// the other, names, the init command.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Conf<'a> {
    /// What `/` is.
    #[serde(borrow)]
    pub root: Root<'a>,
    /// What is where.
    pub places: Places<'a>,
    /// Where programs start and relative paths begin; else the exec dir, or `/` of a root of
    /// their own.
    pub work_dir: Option<Path<'a>>,
    /// `sethostname(2)`; at most 64 bytes.
    pub host_name: Option<&'a str>,
    /// `setdomainname(2)`; at most 64 bytes.
    pub domain_name: Option<&'a str>,
    /// The rocker's part of the control groups is all that is seen of them
    /// (`man 7 cgroup_namespaces`).
    pub unshare_cgroup: bool,
    /// A program that runs to its end before the first order, with this environment.
    pub init: Strings<'a>,
    /// As above.
    pub init_env: Strings<'a>,
    /// It is killed after so many milliseconds.
    pub init_ms: u32,
}

/// What programs see at `/`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Root<'a> {
    /// What the rocker has there.
    #[default]
    Whole,
    /// A directory of the rocker's, with what is mounted below it.
    #[serde(borrow)]
    Directory(Path<'a>),
    /// An empty directory in memory, of so many bytes.
    Tmpfs(u64),
}

/// Something that is put in a place. Targets are places below the new root, sources are as the
/// rocker has them before any of this.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Place<'a> {
    /// A file or a directory, with what is mounted below it.
    Bind {
        /// What.
        #[serde(borrow)]
        source: Path<'a>,
        /// Where.
        target: Path<'a>,
        /// For reading only.
        read_only: bool,
    },
    /// Memory to keep files in.
    Tmpfs {
        /// Where.
        #[serde(borrow)]
        target: Path<'a>,
        /// So many bytes, and one file for each 1024.
        bytes: u64,
        /// `0o1777`
        mode: u16,
    },
    /// The directory as it is, but what is written there goes to memory.
    Overlay {
        /// Which.
        #[serde(borrow)]
        target: Path<'a>,
        /// So many bytes.
        bytes: u64,
    },
    /// The rocker's `/proc`.
    Proc {
        /// Where.
        #[serde(borrow)]
        target: Path<'a>,
    },
    /// The devices that hurt nobody, terminals and shared memory of the rocker's own.
    Dev {
        /// Where.
        #[serde(borrow)]
        target: Path<'a>,
        /// So many bytes of shared memory.
        shm_bytes: u64,
    },
    /// A symbolic link.
    Link {
        /// Where it is.
        #[serde(borrow)]
        path: Path<'a>,
        /// Where it leads.
        target: FilePath<'a>,
    },
    /// Nothing of it can be seen: a file reads as empty, a directory is. One that is not there
    /// hides nothing.
    Mask {
        /// What.
        #[serde(borrow)]
        target: Path<'a>,
    },
}

/// Places one after the other, encoded as one list is not: so that they need no room until they
/// are looked at.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Places<'a>(&'a [u8]);

impl<'a> Places<'a> {
    /// So many bytes that [`append`] has written; none if they are anything else.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let mut all = Self(bytes).iter();
        all.all(|place| place.is_some()).then_some(Self(bytes))
    }

    /// One after the other; none, and the end, where the bytes are no place.
    pub fn iter(self) -> impl Iterator<Item = Option<Place<'a>>> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let taken = postcard::take_from_bytes(rest).ok();
            rest = taken.map_or(&[], |(_, rest)| rest);
            Some(taken.map(|(place, _)| place))
        })
    }
}

/// Writes a place to the front of `room`; how long it is, or none if there is no room.
pub fn append(place: &Place<'_>, room: &mut [u8]) -> Option<usize> {
    postcard::to_slice(place, room).ok().map(|written| written.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_were_written() {
        let path = |text: &'static str| Path::new(text.as_bytes()).unwrap();
        let all = [
            Place::Tmpfs { target: path("/tmp"), bytes: u64::MAX, mode: 0o1777 },
            Place::Mask { target: path("/etc/shadow") },
        ];
        let mut room = [0; 64];
        let mut used = 0;
        for place in &all {
            used += append(place, &mut room[used..]).unwrap();
        }
        let places = Places::new(&room[..used]).unwrap();
        assert!(places.iter().eq(all.map(Some)));
        assert_eq!(append(&all[0], &mut [0; 8]), None);
        for end in 1..used {
            let cut = Places::new(&room[..end]);
            assert!(cut.is_none_or(|cut| cut.iter().count() == 1), "{end}");
        }
        assert_eq!(Places::new(b"\x7f"), None);
        assert_eq!(Places::default().iter().count(), 0);
    }
}
