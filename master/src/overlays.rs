//! Which overlays are kept for the next launch of their data dir, and since when nobody uses them.
//!
//! A guard gives its overlays to the master before any code of an App runs, and the next guard of
//! the same data dir gets them: it says whether they are what it would make. Each belongs to one
//! rocker at a time, as its data dir does, whose lock is kept with it. After each rocker they are
//! away, to be made ready for the next one: nothing that they remember of their layers may reach
//! it. That has time until whoever waited for the rocker's end has heard of it, or somebody comes
//! for the data dir. In the end they are away for good, to be unmounted. Both may take long; who
//! comes for the data dir meanwhile waits.
//!
//! Nothing in here asks the kernel or reads a clock, and what is kept can be anything: the sim runs
//! this too.

use core::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::pool::END_NS;

/// A data dir as the `.rocker` directory in it. The lock keeps the inode from being another's.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Key {
    /// `st_dev`
    pub device: u64,
    /// `st_ino`
    pub inode: u64,
}

/// Where overlays are.
#[derive(Debug)]
enum Place<K> {
    /// There are none yet, or a guard has them.
    Nowhere,
    /// Their guard has given them, and whether it has ended by itself: they remember its rocker.
    Given { kept: K, has_ended_well: bool },
    /// They are being made ready, or unmounted.
    Away,
    /// For the next launch.
    Ready(K),
}

/// The overlays of one data dir.
#[derive(Debug)]
struct Entry<K> {
    key: Key,
    place: RefCell<Place<K>>,
    /// The host has changed its mounts since they were made.
    is_old: Cell<bool>,
    /// The host has changed its mounts since the guard was cloned that has the data dir.
    has_old_guard: Cell<bool>,
    /// A launch waits for them.
    is_awaited: Cell<bool>,
    /// Since when nobody has used them.
    idle_since_ns: Cell<Option<u64>>,
}

impl<K> Entry<K> {
    fn is_used(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) > 1
    }

    /// Nobody has anything to do with it.
    fn is_void(self: &Rc<Self>) -> bool {
        !self.is_used() && matches!(*self.place.borrow(), Place::Nowhere)
    }

    /// What leaves, and whether its guard has ended by itself: if it has to, whatever it is.
    fn leave(&self, is_over: bool, is_urgent: bool) -> Option<(K, bool)> {
        let left = match self.place.replace(Place::Away) {
            Place::Given { kept, has_ended_well } if is_over || is_urgent => (kept, has_ended_well),
            Place::Ready(kept) if is_over => (kept, true),
            stays => {
                self.place.replace(stays);
                return None;
            }
        };
        self.is_old.set(is_over);
        Some(left)
    }
}

/// A rocker's claim to the overlays of its data dir; it ends when this is dropped.
#[derive(Debug)]
pub struct Lease<K> {
    entry: Rc<Entry<K>>,
    news: Rc<Cell<bool>>,
}

impl<K> Lease<K> {
    /// What there is, while it is here.
    pub fn with<R>(&self, look: impl FnOnce(&K) -> R) -> Option<R> {
        match &*self.entry.place.borrow() {
            Place::Given { kept, .. } | Place::Ready(kept) => Some(look(kept)),
            Place::Nowhere | Place::Away => None,
        }
    }

    /// prepare.0: its guard has the host's mounts as they are now.
    pub fn begins(&self) {
        self.entry.has_old_guard.set(false);
    }

    /// Whether what there is was made with other mounts of the host's: for the guard to close.
    pub fn is_old(&self) -> bool {
        self.entry.is_old.get()
    }

    /// root.3: what there is, for the guard.
    pub fn take(&self) -> Option<K> {
        match self.entry.place.replace(Place::Nowhere) {
            Place::Given { kept, .. } | Place::Ready(kept) => Some(kept),
            Place::Nowhere | Place::Away => None,
        }
    }

    /// prepare.7: what the guard has given.
    pub fn put(&self, kept: K) {
        self.entry.place.replace(Place::Given { kept, has_ended_well: false });
        self.entry.is_old.set(self.entry.has_old_guard.get());
    }

    /// root.11: the guard has ended by itself, and has synced what was to be.
    pub fn ended_well(&self) {
        if let Place::Given { has_ended_well, .. } = &mut *self.entry.place.borrow_mut() {
            *has_ended_well = true;
        }
    }
}

impl<K> Drop for Lease<K> {
    fn drop(&mut self) {
        self.news.set(true);
    }
}

/// What a launch is told about its data dir.
#[derive(Debug)]
pub enum Found<K> {
    /// It has the lock, and overlays that an earlier launch has left.
    Kept(Lease<K>),
    /// Nothing is known of it: it is to be locked.
    Unknown,
    /// A rocker of this master's has it, which may just be ending.
    InUse,
    /// Its overlays are away, or about to be.
    Away,
}

/// Overlays that go to be made ready or unmounted: see [`Overlays::is_back`].
#[derive(Debug)]
pub struct Away<K> {
    /// Their data dir.
    pub key: Key,
    /// They, and the lock.
    pub kept: K,
    /// Their guard has ended by itself, and has synced what was to be.
    pub has_ended_well: bool,
    /// They are to be unmounted.
    pub is_over: bool,
}

/// All of them.
#[derive(Debug)]
pub struct Overlays<K> {
    max: usize,
    idle_ns: u64,
    entries: Vec<Rc<Entry<K>>>,
    news: Rc<Cell<bool>>,
}

impl<K> Overlays<K> {
    /// Those of at most so many data dirs, each for so long after its last rocker.
    pub fn new(max: usize, idle_ms: u32) -> Self {
        let idle_ns = u64::from(idle_ms) * 1_000_000;
        Self { max, idle_ns, entries: vec![], news: Rc::default() }
    }

    /// What there is of this data dir.
    pub fn find(&self, key: Key) -> Found<K> {
        let Some(entry) = self.known(key) else { return Found::Unknown };
        if entry.is_used() {
            return Found::InUse;
        }
        match *entry.place.borrow() {
            Place::Nowhere => Found::Unknown,
            Place::Ready(_) if !entry.is_old.get() => Found::Kept(self.lease(Rc::clone(entry))),
            _ => {
                entry.is_awaited.set(true);
                Found::Away
            }
        }
    }

    /// Whoever has locked a data dir of which nothing is known. None: its overlays will not be
    /// kept, for too many are used. The one that was idle for longest makes room.
    pub fn enter(&mut self, key: Key) -> Option<Lease<K>> {
        self.forget_the_void();
        if self.known(key).is_some() {
            return None;
        }
        let staying = || self.entries.iter().filter(|entry| entry.is_used() || !entry.is_old.get());
        if staying().count() >= self.max {
            let idle = staying().filter(|entry| !entry.is_used());
            let longest = idle.min_by_key(|entry| entry.idle_since_ns.get().unwrap_or(u64::MAX))?;
            longest.is_old.set(true);
        }
        let entry = Rc::new(Entry {
            key,
            place: RefCell::new(Place::Nowhere),
            is_old: Cell::default(),
            has_old_guard: Cell::default(),
            is_awaited: Cell::default(),
            idle_since_ns: Cell::default(),
        });
        self.entries.push(Rc::clone(&entry));
        Some(self.lease(entry))
    }

    fn forget_the_void(&mut self) {
        self.entries.retain(|entry| !entry.is_void());
    }

    fn known(&self, key: Key) -> Option<&Rc<Entry<K>>> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    fn lease(&self, entry: Rc<Entry<K>>) -> Lease<K> {
        entry.idle_since_ns.set(None);
        entry.is_awaited.set(false);
        Lease { entry, news: Rc::clone(&self.news) }
    }

    /// The host's mounts are others: what was made before keeps none of them in use for longer than
    /// its rocker lives.
    pub fn discard(&mut self) {
        for entry in &self.entries {
            entry.is_old.set(true);
            entry.has_old_guard.set(true);
        }
    }

    /// Whether something has come of what launches wait for, since this was asked last.
    pub fn has_news(&self) -> bool {
        self.news.take()
    }

    /// What goes to be made ready, for its rocker has ended, or to be unmounted, for it has been
    /// idle for long enough or is old. To be asked before each wait.
    pub fn leave(&mut self, now_ns: u64) -> Vec<Away<K>> {
        self.forget_the_void();
        let mut away = vec![];
        for entry in self.entries.iter().filter(|entry| !entry.is_used()) {
            let since_ns = entry.idle_since_ns.get().unwrap_or(now_ns);
            entry.idle_since_ns.set(Some(since_ns));
            let idle_ns = now_ns.saturating_sub(since_ns);
            let is_over = entry.is_old.get() || idle_ns >= self.idle_ns;
            let is_urgent = entry.is_awaited.get() || idle_ns >= END_NS;
            if let Some((kept, has_ended_well)) = entry.leave(is_over, is_urgent) {
                away.push(Away { key: entry.key, kept, has_ended_well, is_over });
            }
        }
        away
    }

    /// They are ready; or, if there are none, unmounted, and the lock is free.
    pub fn is_back(&mut self, key: Key, kept: Option<K>) {
        if let Some(entry) = self.entries.iter().find(|entry| entry.key == key) {
            entry.place.replace(kept.map_or(Place::Nowhere, Place::Ready));
        }
        self.news.set(true);
    }

    /// When the next one leaves by itself; `u64::MAX`: none is idle.
    pub fn leaves_ns(&self) -> u64 {
        let leaves = self.entries.iter().filter_map(|entry| {
            let idle_ns = match *entry.place.borrow() {
                Place::Given { .. } => END_NS.min(self.idle_ns),
                Place::Ready(_) => self.idle_ns,
                Place::Nowhere | Place::Away => return None,
            };
            Some(entry.idle_since_ns.get()?.saturating_add(idle_ns))
        });
        leaves.min().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn key(inode: u64) -> Key {
        Key { device: 8, inode }
    }

    fn overlays(max: usize) -> Overlays<&'static str> {
        Overlays::new(max, 10)
    }

    /// A rocker that has left these, and has ended.
    fn leave(overlays: &mut Overlays<&'static str>, inode: u64, kept: &'static str, now_ns: u64) {
        let lease = overlays.enter(key(inode)).unwrap();
        lease.put(kept);
        lease.ended_well();
        drop(lease);
        make_ready(overlays, now_ns);
    }

    fn make_ready(overlays: &mut Overlays<&'static str>, now_ns: u64) {
        assert!(overlays.leave(now_ns).is_empty(), "somebody hears of that end");
        for away in overlays.leave(now_ns + END_NS) {
            assert!(!away.is_over && matches!(overlays.find(away.key), Found::Away));
            overlays.is_back(away.key, Some(away.kept));
        }
    }

    /// What goes for good.
    fn over(overlays: &mut Overlays<&'static str>, now_ns: u64) -> Vec<&'static str> {
        let away = overlays.leave(now_ns);
        let over: Vec<_> = away.iter().filter(|it| it.is_over).map(|it| it.kept).collect();
        assert_eq!(away.len(), over.len());
        away.into_iter().for_each(|it| overlays.is_back(it.key, None));
        over
    }

    #[track_caller]
    fn kept(found: Found<&'static str>) -> Lease<&'static str> {
        match found {
            Found::Kept(lease) => lease,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_next_launch_has_what_the_last_has_left() {
        let mut overlays = overlays(8);
        assert!(matches!(overlays.find(key(1)), Found::Unknown));
        let first = overlays.enter(key(1)).unwrap();
        assert_eq!(first.take(), None);
        first.put("made");
        assert!(matches!(overlays.find(key(1)), Found::InUse));
        assert!(overlays.enter(key(1)).is_none());
        drop(first);
        // Nobody gets them before they are ready.
        assert!(overlays.has_news() && !overlays.has_news());
        assert_eq!((overlays.leave(0).len(), overlays.leaves_ns()), (0, END_NS));
        assert!(matches!(overlays.find(key(1)), Found::Away));
        let away = overlays.leave(0).pop().unwrap();
        assert_eq!((away.kept, away.has_ended_well, away.is_over), ("made", false, false));
        assert!(matches!(overlays.find(key(1)), Found::Away) && overlays.enter(key(1)).is_none());
        overlays.is_back(away.key, Some(away.kept));
        assert!(overlays.has_news());
        let second = kept(overlays.find(key(1)));
        assert_eq!(
            (second.with(|it| *it), second.take(), second.take()),
            (Some("made"), Some("made"), None)
        );
        second.put("again");
        second.ended_well();
        drop(second);
        assert!(overlays.leave(0).is_empty(), "nobody waits for them any more");
        assert!(overlays.leave(END_NS).pop().unwrap().has_ended_well);
    }

    #[test]
    fn what_a_launch_has_not_used_is_as_it_was() {
        let mut overlays = overlays(8);
        leave(&mut overlays, 1, "made", 0);
        drop(kept(overlays.find(key(1))));
        assert!(overlays.leave(0).is_empty());
        let failed = kept(overlays.find(key(1)));
        failed.take();
        drop(failed);
        assert!(matches!(overlays.find(key(1)), Found::Unknown));
        assert!(overlays.enter(key(1)).is_some());
        assert!(overlays.leave(0).is_empty() && matches!(overlays.find(key(1)), Found::Unknown));
    }

    #[test]
    fn what_cannot_be_made_ready_is_gone() {
        let mut overlays = overlays(8);
        let lease = overlays.enter(key(1)).unwrap();
        lease.put("made");
        drop(lease);
        assert!(matches!(overlays.find(key(1)), Found::Away));
        let away = overlays.leave(0).pop().unwrap();
        overlays.is_back(away.key, None);
        assert!(matches!(overlays.find(key(1)), Found::Unknown));
    }

    #[test]
    fn an_idle_one_is_kept_for_a_while() {
        let mut overlays = overlays(8);
        leave(&mut overlays, 1, "made", 5);
        assert_eq!(overlays.leaves_ns(), 10_000_005);
        let again = kept(overlays.find(key(1)));
        assert_eq!((overlays.leave(20_000_000).len(), overlays.leaves_ns()), (0, u64::MAX));
        drop(again);
        assert!(over(&mut overlays, 20_000_000).is_empty());
        assert!(over(&mut overlays, 29_999_999).is_empty());
        assert_eq!(over(&mut overlays, 30_000_000), ["made"]);
        assert_eq!(overlays.leaves_ns(), u64::MAX);
        assert!(matches!(overlays.find(key(1)), Found::Unknown));
    }

    #[test]
    fn the_longest_idle_one_makes_room_and_no_other() {
        let mut overlays = overlays(2);
        leave(&mut overlays, 1, "one", 1);
        leave(&mut overlays, 2, "two", 2);
        let third = overlays.enter(key(3)).unwrap();
        let second = kept(overlays.find(key(2)));
        assert!(overlays.enter(key(4)).is_none(), "one that goes makes room once");
        assert_eq!(over(&mut overlays, 3), ["one"]);
        assert!(overlays.enter(key(1)).is_none());
        drop((second, third));
        assert!(Overlays::<&str>::new(0, 1_000).enter(key(1)).is_none());
    }

    #[test]
    fn old_ones_go_when_nobody_uses_them() {
        let mut overlays = overlays(8);
        leave(&mut overlays, 1, "idle", 0);
        let used = overlays.enter(key(2)).unwrap();
        used.put("used");
        let beginning = overlays.enter(key(3)).unwrap();
        overlays.discard();
        assert!(matches!(overlays.find(key(1)), Found::Away));
        assert_eq!(over(&mut overlays, 0), ["idle"]);
        used.ended_well();
        drop(used);
        assert_eq!(over(&mut overlays, 0), ["used"]);
        // Its guard is cloned after the change.
        beginning.begins();
        beginning.put("new");
        drop(beginning);
        make_ready(&mut overlays, 0);
        assert_eq!(kept(overlays.find(key(3))).take(), Some("new"));
    }

    #[test]
    fn old_ones_that_a_launch_has_found_are_used_by_none() {
        let mut overlays = overlays(8);
        for inode in [1, 2] {
            leave(&mut overlays, inode, "made", 0);
        }
        let [goes_on, fails] = [1, 2].map(|inode| kept(overlays.find(key(inode))));
        assert!(!goes_on.is_old());
        overlays.discard();
        goes_on.begins();
        fails.begins();
        assert!(goes_on.is_old() && goes_on.take() == Some("made"));
        goes_on.put("new");
        assert!(!goes_on.is_old());
        drop((goes_on, fails));
        // The launch of the second has failed, or has no overlays.
        assert_eq!(over(&mut overlays, 0), ["made"]);
        make_ready(&mut overlays, 0);
        assert_eq!(kept(overlays.find(key(1))).take(), Some("new"));
    }
}
