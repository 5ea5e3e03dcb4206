//! Which packages are mounted: one mount of each file, for all rockers that are made from it.
//!
//! The first launch of a package has its guard mount it (prepare.1 to prepare.3) and gets the
//! mount from there; every later one is handed that, and its guard makes itself a copy. So the
//! master mounts nothing, and a package that the kernel chokes on, or a file system that never
//! answers, holds up its own guard alone. Each launch has opened the package by itself before it
//! asks here: nobody shares what it may not open.
//!
//! Nothing in here asks the kernel or reads a clock, and a mount can be anything: the sim runs
//! this too.

use core::cell::{Cell, OnceCell};
use std::rc::Rc;

use protocol::Package;

/// A package as the file that it is. What is written to it, or put in its place, is another: the
/// mount keeps the inode from being given to anybody else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Key {
    /// `st_dev`
    pub device: u64,
    /// `st_ino`
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// `st_mtime`, seconds and nanoseconds.
    pub modified: (i64, u64),
    /// `st_ctime`, which nobody can set.
    pub changed: (i64, u64),
}

/// A package that is mounted, or about to be.
#[derive(Debug)]
struct Entry<M> {
    key: Key,
    mount: OnceCell<(M, u32)>,
    /// A launch is at it.
    is_awaited: Cell<bool>,
    /// Since when nobody has used it.
    idle_since_ns: Cell<Option<u64>>,
}

/// One user of a package; it is one no more when this is dropped.
#[derive(Debug)]
pub struct Lease<M> {
    entry: Rc<Entry<M>>,
    news: Rc<Cell<bool>>,
    is_first: bool,
}

impl<M> Lease<M> {
    /// The mount, once there is one.
    pub fn mount(&self) -> Option<&M> {
        self.entry.mount.get().map(|(mount, _)| mount)
    }

    /// The mount has come from the guard, with the number of its loop device.
    pub fn put(&self, mount: M, loop_dev: u32) {
        let is_new = self.entry.mount.set((mount, loop_dev)).is_ok();
        debug_assert!(is_new && self.is_first, "one launch mounts a package, once");
        self.entry.is_awaited.set(false);
        self.news.set(true);
    }
}

impl<M> Drop for Lease<M> {
    fn drop(&mut self) {
        if self.is_first && self.entry.mount.get().is_none() {
            self.entry.is_awaited.set(false);
            self.news.set(true);
        }
    }
}

/// What a launch is told about its package.
#[derive(Debug)]
pub enum Found<M> {
    /// How to hand it over. A lease for what is shared, or will be.
    Package(Package, Option<Lease<M>>),
    /// Another launch mounts it at this moment.
    NotYet,
}

/// All of them.
#[derive(Debug)]
pub struct Packages<M> {
    max: usize,
    idle_ns: u64,
    entries: Vec<Rc<Entry<M>>>,
    /// Whether something has come of what launches wait for.
    news: Rc<Cell<bool>>,
    /// What had to make room.
    ousted: Vec<M>,
}

impl<M> Packages<M> {
    /// At most so many mounts, each for so long after its last user.
    pub fn new(max: usize, idle_ms: u32) -> Self {
        let idle_ns = u64::from(idle_ms) * 1_000_000;
        Self { max, idle_ns, entries: vec![], news: Rc::default(), ousted: vec![] }
    }

    /// What to do about this package. Whoever is late waits for no other launch.
    pub fn find(&mut self, key: Key, is_late: bool) -> Found<M> {
        let Some(entry) = self.known(key).or_else(|| self.new_entry(key)) else {
            return Found::Package(Package::Own, None);
        };
        let package = match (entry.mount.get(), entry.is_awaited.get()) {
            (Some(&(_, loop_dev)), _) => Package::Shared { loop_dev },
            (None, false) => Package::First,
            (None, true) if is_late => return Found::Package(Package::Own, None),
            (None, true) => return Found::NotYet,
        };
        let is_first = package == Package::First;
        if is_first {
            entry.is_awaited.set(true);
        }
        Found::Package(package, Some(Lease { entry, news: Rc::clone(&self.news), is_first }))
    }

    fn known(&self, key: Key) -> Option<Rc<Entry<M>>> {
        self.entries.iter().find(|entry| entry.key == key).cloned()
    }

    /// One more, if need be in place of the one that was idle for longest.
    fn new_entry(&mut self, key: Key) -> Option<Rc<Entry<M>>> {
        if self.entries.len() >= self.max {
            let entries = self.entries.iter().enumerate();
            let idle = entries.filter(|(_, entry)| Rc::strong_count(entry) == 1);
            let (longest, _) =
                idle.min_by_key(|(_, entry)| entry.idle_since_ns.get().unwrap_or(u64::MAX))?;
            self.ousted.extend(mount_of(self.entries.swap_remove(longest)));
        }
        let (is_awaited, idle_since_ns) = (Cell::default(), Cell::default());
        let entry = Rc::new(Entry { key, mount: OnceCell::new(), is_awaited, idle_since_ns });
        self.entries.push(Rc::clone(&entry));
        Some(entry)
    }

    /// Whether a mount has come, or will not come, since this was asked last: those who were
    /// told [`NotYet`](Found::NotYet) may ask again.
    pub fn has_news(&self) -> bool {
        self.news.take()
    }

    /// What has been idle for long enough, to be unmounted. To be asked before each wait.
    pub fn expired(&mut self, now_ns: u64) -> Vec<M> {
        let mut expired = core::mem::take(&mut self.ousted);
        let mut index = 0;
        while let Some(entry) = self.entries.get(index) {
            let is_used = Rc::strong_count(entry) > 1;
            let since_ns = entry.idle_since_ns.get().unwrap_or(now_ns);
            entry.idle_since_ns.set((!is_used).then_some(since_ns));
            let is_empty = entry.mount.get().is_none();
            if !is_used && (is_empty || now_ns.saturating_sub(since_ns) >= self.idle_ns) {
                expired.extend(mount_of(self.entries.swap_remove(index)));
            } else {
                index += 1;
            }
        }
        expired
    }

    /// When the next one will have been idle for long enough; `u64::MAX`: none is idle.
    pub fn expires_ns(&self) -> u64 {
        let since = self.entries.iter().filter_map(|entry| entry.idle_since_ns.get());
        since.min().map_or(u64::MAX, |since_ns| since_ns.saturating_add(self.idle_ns))
    }
}

fn mount_of<M>(entry: Rc<Entry<M>>) -> Option<M> {
    Rc::into_inner(entry)?.mount.into_inner().map(|(mount, _)| mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(inode: u64) -> Key {
        Key { device: 8, inode, size: 4096, modified: (1, 2), changed: (3, 4) }
    }

    fn lease(found: Found<&'static str>, how: Package) -> Option<Lease<&'static str>> {
        match found {
            Found::Package(package, lease) if package == how => lease,
            other => panic!("{other:?} is not {how:?}"),
        }
    }

    #[test]
    fn the_first_mounts_for_all() {
        let mut packages = Packages::new(8, 0);
        let first = lease(packages.find(key(1), false), Package::First).unwrap();
        assert!(matches!(packages.find(key(1), false), Found::NotYet));
        assert!(lease(packages.find(key(1), true), Package::Own).is_none());
        let other = lease(packages.find(key(2), false), Package::First).unwrap();
        assert!(!packages.has_news());
        first.put("mount", 7);
        assert!(packages.has_news() && !packages.has_news());
        let second = lease(packages.find(key(1), false), Package::Shared { loop_dev: 7 }).unwrap();
        assert_eq!(second.mount(), Some(&"mount"));
        drop((first, other));
        assert!(packages.expired(1).is_empty());
        drop(second);
        assert_eq!(packages.expired(1), ["mount"]);
        assert_eq!(packages.expires_ns(), u64::MAX);
    }

    #[test]
    fn whoever_fails_is_followed_by_another() {
        let mut packages = Packages::<&str>::new(8, 0);
        let first = lease(packages.find(key(1), false), Package::First);
        drop(first);
        assert!(packages.has_news());
        let second = lease(packages.find(key(1), false), Package::First).unwrap();
        second.put("mount", 0);
        drop(second);
        assert_eq!(packages.expired(0), ["mount"]);
    }

    #[test]
    fn another_file_is_another_package() {
        let mut packages = Packages::<&str>::new(8, 0);
        let one = lease(packages.find(key(1), false), Package::First).unwrap();
        one.put("mount", 0);
        for other in [
            Key { device: 9, ..key(1) },
            Key { size: 8192, ..key(1) },
            Key { modified: (1, 3), ..key(1) },
            Key { changed: (3, 5), ..key(1) },
        ] {
            drop(lease(packages.find(other, false), Package::First).unwrap());
        }
    }

    #[test]
    fn an_idle_one_is_kept_for_a_while() {
        let mut packages = Packages::new(8, 1);
        let first = lease(packages.find(key(1), false), Package::First).unwrap();
        first.put("mount", 0);
        drop(first);
        assert!(packages.expired(5).is_empty());
        assert_eq!(packages.expires_ns(), 1_000_005);
        // Used once more, its time begins anew.
        let again = lease(packages.find(key(1), false), Package::Shared { loop_dev: 0 });
        assert!(packages.expired(2_000_000).is_empty());
        assert_eq!(packages.expires_ns(), u64::MAX);
        drop(again);
        assert!(packages.expired(2_000_000).is_empty());
        assert!(packages.expired(2_999_999).is_empty());
        assert_eq!(packages.expired(3_000_000), ["mount"]);
    }

    #[test]
    fn the_longest_idle_one_makes_room_and_no_other() {
        let mut packages = Packages::new(2, 1_000);
        for (inode, name) in [(1, "one"), (2, "two")] {
            let lease = lease(packages.find(key(inode), false), Package::First).unwrap();
            lease.put(name, 0);
            drop(lease);
            assert!(packages.expired(inode).is_empty());
        }
        let third = lease(packages.find(key(3), false), Package::First).unwrap();
        assert_eq!(packages.expired(3), ["one"]);
        let second = lease(packages.find(key(2), false), Package::Shared { loop_dev: 0 });
        assert!(lease(packages.find(key(1), false), Package::Own).is_none());
        drop((second, third));
        let none = Packages::<&str>::new(0, 1_000).find(key(1), false);
        assert!(lease(none, Package::Own).is_none());
    }
}
