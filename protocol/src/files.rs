//! What a caller does with files in a rocker (004's commands open, delete and symlink).

use core::fmt;

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::limits::{DESCRIPTORS_MAX, PATH_MAX};

/// A path inside a rocker: absolute, or below its work dir. Any bytes but NUL: a caller must be
/// able to name whatever an App has made.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct FilePath<'a>(&'a [u8]);

impl<'a> FilePath<'a> {
    /// None if it is empty, longer than [`PATH_MAX`], or holds a NUL.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let fits = (1..=PATH_MAX).contains(&bytes.len()) && !bytes.contains(&0);
        fits.then_some(Self(bytes))
    }

    /// As given.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether it begins at the rocker's root.
    pub fn is_absolute(self) -> bool {
        self.0.starts_with(b"/")
    }

    /// The directory that holds it, which may be empty (the work dir), and its name there. None
    /// if it has no name of its own, as `/`, `.` and `..`.
    pub fn split(self) -> Option<(&'a [u8], &'a [u8])> {
        let end = self.0.iter().rposition(|&byte| byte != b'/')? + 1;
        let path = self.0.get(..end)?;
        let at = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let (directory, name) = path.split_at_checked(at)?;
        (name != b"." && name != b"..").then_some((directory, name))
    }
}

/// One line for people, whatever the bytes.
impl fmt::Display for FilePath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            chunk.valid().chars().try_for_each(|char| match char.is_control() {
                true => write!(f, "{}", char.escape_default()),
                false => write!(f, "{char}"),
            })?;
            if !chunk.invalid().is_empty() {
                f.write_str("\u{fffd}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for FilePath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for FilePath<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for FilePath<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(<&[u8]>::deserialize(deserializer)?)
            .ok_or_else(|| serde::de::Error::custom("a path against the rules"))
    }
}

/// How a file is opened. The numbers are ours: those of `open(2)` differ between machines.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct How(u16);

impl How {
    /// To read from.
    pub const READ: Self = Self(1);
    /// To write to.
    pub const WRITE: Self = Self(1 << 1);
    /// `O_CREAT`
    pub const CREATE: Self = Self(1 << 2);
    /// `O_EXCL`
    pub const EXCLUSIVE: Self = Self(1 << 3);
    /// `O_TRUNC`
    pub const TRUNCATE: Self = Self(1 << 4);
    /// `O_APPEND`
    pub const APPEND: Self = Self(1 << 5);
    /// `O_DIRECTORY`
    pub const DIRECTORY: Self = Self(1 << 6);
    /// `O_NOFOLLOW`
    pub const NO_FOLLOW: Self = Self(1 << 7);
    /// `O_NONBLOCK`, also afterwards.
    pub const NON_BLOCKING: Self = Self(1 << 8);
    /// A fifo, a socket or a device will do; else only regular files and directories do.
    pub const ANY_KIND: Self = Self(1 << 9);
    /// A number that stands for nothing here.
    const UNKNOWN: u16 = !0 << 10;

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in it.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether something is asked for that this release does not know.
    pub const fn is_unknown(self) -> bool {
        self.0 & Self::UNKNOWN != 0
    }
}

/// One file to open.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct OpenFile<'a> {
    /// Which.
    #[serde(borrow)]
    pub path: FilePath<'a>,
    /// How.
    pub how: How,
    /// Who may do what with it, if it is made: `0o600`. Less the guard's umask, `0o022`.
    pub mode: u16,
}

/// Files to open, each of which comes as one descriptor.
pub type OpenFiles<'a> = Vec<OpenFile<'a>, DESCRIPTORS_MAX>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    extern crate std;

    #[test]
    fn paths_keep_the_rules() {
        for bytes in [b"".as_slice(), b"a\0b", b"\0", &[b'/'; PATH_MAX + 1]] {
            assert_eq!(FilePath::new(bytes), None, "{bytes:?}");
        }
        for bytes in [b"a".as_slice(), b"/", b"..", b"a\nb", b"\xff", &[b'/'; PATH_MAX]] {
            assert!(FilePath::new(bytes).is_some(), "{bytes:?}");
        }
        assert_eq!(FilePath::new(b"a\nb\xff").unwrap().to_string(), "a\\nb\u{fffd}");
    }

    #[test]
    fn a_path_is_a_directory_and_a_name() {
        let split = |path: &'static str| FilePath::new(path.as_bytes()).unwrap().split();
        assert_eq!(split("a"), Some((b"".as_slice(), b"a".as_slice())));
        assert_eq!(split("a/b//"), Some((b"a/".as_slice(), b"b".as_slice())));
        assert_eq!(split("/a"), Some((b"/".as_slice(), b"a".as_slice())));
        for nameless in ["/", "//", ".", "..", "a/..", "a/./"] {
            assert_eq!(split(nameless), None, "{nameless}");
        }
    }

    #[test]
    fn what_is_asked_for_is_known() {
        let all = How(0b11_1111_1111);
        assert!(!all.is_unknown() && How(1 << 10).is_unknown() && How(1 << 15).is_unknown());
        assert!(all.has(How::ANY_KIND.and(How::READ)) && !How::READ.has(How::WRITE));
    }
}
