//! What is mounted where: `/proc/self/mountinfo` (`man 5 proc_pid_mountinfo`).

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, read as read_some};

use crate::proc;

/// One mount.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Mount {
    /// As in `statx(2)`'s `stx_mnt_id`.
    pub(crate) id: u64,
    /// That of the mount it is on.
    pub(crate) parent: u64,
    /// Where it is, as this process sees it.
    pub(crate) at: Vec<u8>,
}

/// Reads the table of this process, in the kernel's order: of two mounts at one place the
/// later line is the one on top.
pub(crate) fn read() -> Result<Vec<Mount>, Errno> {
    let how = OFlags::RDONLY | OFlags::CLOEXEC;
    let table = openat(CWD, c"/proc/self/mountinfo", how, Mode::empty())?;
    let mut text = vec![0; 16 * 1024];
    let mut length = 0;
    loop {
        match read_some(&table, text.get_mut(length..).unwrap_or_default())? {
            0 => break,
            more => length += more,
        }
        if length == text.len() {
            text.resize(2 * length, 0);
        }
    }
    parse(text.get(..length).unwrap_or_default()).ok_or(Errno::PROTO)
}

/// The id of the mount that an open file was reached through, without a word to its file system.
pub(crate) fn id_of(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    proc::number(CWD, &format!("/proc/self/fdinfo/{}", fd.as_raw_fd()), b"mnt_id:")
}

/// `36 35 98:0 /root /mount/point rw,noatime shared:1 - ext4 /dev/sda rw`
fn parse(text: &[u8]) -> Option<Vec<Mount>> {
    let lines = || text.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    let mut mounts = Vec::with_capacity(lines().count());
    for line in lines() {
        mounts.push(mount(line)?);
    }
    Some(mounts)
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let mut number = || core::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    let at = unescape(fields.nth(2)?);
    Some(Mount { id, parent, at })
}

/// The kernel writes space, tab, newline and backslash as `\ooo`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let octal =
            tail.get(..3).filter(|o| byte == b'\\' && o.iter().all(|d| matches!(d, b'0'..=b'7')));
        match octal {
            Some(&[a, b, c]) => {
                plain.push((a - b'0').wrapping_mul(64) + (b - b'0') * 8 + (c - b'0'));
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => plain.push(byte),
        }
    }
    plain
}

/// The part of `path` below `ancestor`: empty if they are the same, none if it is not below.
/// Both are as the kernel writes them: absolute, and without empty components.
pub(crate) fn below<'p>(path: &'p [u8], ancestor: &[u8]) -> Option<&'p [u8]> {
    match path.strip_prefix(ancestor.strip_suffix(b"/").unwrap_or(ancestor))? {
        b"" => Some(b""),
        rest => rest.strip_prefix(b"/"),
    }
}

/// Whether `path` lies below `ancestor` and is not the same.
pub(crate) fn is_strictly_below(path: &[u8], ancestor: &[u8]) -> bool {
    below(path, ancestor).is_some_and(|relative| !relative.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_man_page_are_read() {
        let text = b"36 35 98:0 /mnt1 /mnt/parent rw,noatime master:1 - ext3 /dev/root rw\n\
                     37 36 0:25 / /a\\040b\\134c rw - tmpfs tmpfs rw\n";
        let wanted = vec![
            Mount { id: 36, parent: 35, at: b"/mnt/parent".to_vec() },
            Mount { id: 37, parent: 36, at: b"/a b\\c".to_vec() },
        ];
        assert_eq!(parse(text), Some(wanted));
        assert_eq!(parse(b"36 35\n"), None);
        assert_eq!(parse(b""), Some(vec![]));
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(read().unwrap().iter().any(|mount| mount.at == b"/"));
    }

    #[test]
    fn an_open_file_knows_its_mount() {
        let root = openat(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let id = id_of(rustix::fd::AsFd::as_fd(&root)).unwrap();
        assert!(read().unwrap().iter().any(|mount| mount.id == id && mount.at == b"/"));
    }

    #[test]
    fn below_compares_whole_names() {
        assert_eq!(below(b"/usr/lib", b"/usr"), Some(b"lib".as_slice()));
        assert_eq!(below(b"/usr/lib", b"/"), Some(b"usr/lib".as_slice()));
        assert_eq!(below(b"/usr", b"/usr"), Some(b"".as_slice()));
        assert_eq!(below(b"/usrlib", b"/usr"), None);
        assert!(is_strictly_below(b"/usr/lib", b"/usr"));
        assert!(!is_strictly_below(b"/usr", b"/usr"));
    }
}
