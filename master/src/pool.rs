//! prepare.0 ahead of its request: guards that are cloned, and wait for one.
//!
//! A guard has the mounts of the moment in which it was cloned. So one that waits serves only
//! while the host's are still the same, and ends when they are not: no rocker starts on an old
//! view, and no disk stays in use that the host has let go of.
//!
//! There is one, and twice as many after each launch that found none; half as many after each
//! while without a launch. They are cloned when no launch is under way, and not while the App of
//! the last one comes to its start: one processor may be all there is.
//!
//! Nothing in here asks the kernel or reads a clock, and the master's end of a guard's socket
//! pair can be anything: the sim runs this too.

/// A guard that waits, and ends with the other end of its socket pair.
#[derive(Debug)]
pub struct Ready<L> {
    /// As the master sees it.
    pub pid: u32,
    /// The master's end.
    pub link: L,
}

/// All that wait.
#[derive(Debug)]
pub struct Pool<L> {
    most: usize,
    wanted: usize,
    waiting: Vec<Ready<L>>,
    /// `CLOCK_MONOTONIC`, nanoseconds: no other is cloned before; all ones: before a launch.
    rests_until_ns: u64,
    /// The same, for the sake of an App, or of whoever waits for its end.
    settles_ns: u64,
    /// The same: no launch puts it off for longer.
    latest_ns: u64,
    /// The same: when half as many will do.
    shrinks_ns: u64,
}

/// By then the App of a launch runs, if its package is there.
pub const SETTLE_NS: u64 = 5_000_000;

/// By then whoever waited for a rocker's end has heard of it, and `rocker run` has ended: one
/// processor may be all there is.
pub const END_NS: u64 = 1_000_000;

/// How long a host that changes its mounts is left alone.
pub const REST_NS: u64 = 1_000_000_000;

/// The while without a launch.
pub const IDLE_NS: u64 = 10_000_000_000;

impl<L> Pool<L> {
    /// At most so many.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            wanted: most.min(1),
            waiting: vec![],
            rests_until_ns: 0,
            settles_ns: 0,
            latest_ns: 0,
            shrinks_ns: 0,
        }
    }

    /// prepare.0: one for a launch, if there is one. The host's mounts are those that it has.
    pub fn take(&mut self, now_ns: u64) -> Option<Ready<L>> {
        self.shrinks_ns = now_ns.saturating_add(IDLE_NS);
        if self.rests_until_ns == u64::MAX {
            self.rests_until_ns = now_ns;
        }
        let is_first = self.waiting.len() == self.wanted;
        let ready = self.waiting.pop();
        if ready.is_none() {
            self.wanted = self.wanted.saturating_mul(2).min(self.most);
        }
        // Those that follow before it is full again put it off for as long as the first alone.
        if is_first || (ready.is_none() && self.latest_ns <= now_ns) {
            self.latest_ns = now_ns.saturating_add(SETTLE_NS);
        }
        self.settles_ns = self.latest_ns;
        ready
    }

    /// Whether one more is to be cloned.
    pub fn is_short(&self, now_ns: u64) -> bool {
        self.waiting.len() < self.wanted && self.clones_ns() <= now_ns
    }

    fn clones_ns(&self) -> u64 {
        self.rests_until_ns.max(self.settles_ns)
    }

    /// It is.
    pub fn put(&mut self, ready: Ready<L>) {
        self.waiting.push(ready);
    }

    /// It could not be: nobody tries again for nothing.
    pub fn give_up(&mut self) {
        self.rests_until_ns = u64::MAX;
    }

    /// A child of the master's has ended. If it was one of these, it is so no more; else it was
    /// a rocker, and the next launch may come soon.
    pub fn lose(&mut self, pid: u32, now_ns: u64) -> Option<Ready<L>> {
        let Some(index) = self.waiting.iter().position(|ready| ready.pid == pid) else {
            self.settles_ns = self.settles_ns.min(now_ns.saturating_add(END_NS));
            return None;
        };
        self.give_up();
        Some(self.waiting.swap_remove(index))
    }

    /// The host's mounts are others: whoever waits is of no use, and is to be let go.
    pub fn discard(&mut self, now_ns: u64) -> Vec<Ready<L>> {
        self.rests_until_ns = now_ns.saturating_add(REST_NS);
        core::mem::take(&mut self.waiting)
    }

    /// Who is one too many by now, and is to be let go.
    pub fn surplus(&mut self, now_ns: u64) -> Vec<Ready<L>> {
        if self.wanted > 1 && self.shrinks_ns <= now_ns {
            self.wanted /= 2;
            self.shrinks_ns = now_ns.saturating_add(IDLE_NS);
        }
        self.waiting.split_off(self.wanted.min(self.waiting.len()))
    }

    /// When there is something to do for it, by itself.
    pub fn due_ns(&self) -> u64 {
        let shrinks_ns = if self.wanted > 1 { self.shrinks_ns } else { u64::MAX };
        if self.waiting.len() < self.wanted { self.clones_ns().min(shrinks_ns) } else { shrinks_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(pool: &mut Pool<u32>, now_ns: u64) -> usize {
        let before = pool.waiting.len();
        while pool.is_short(now_ns) {
            let number = u32::try_from(pool.waiting.len()).unwrap();
            pool.put(Ready { pid: number, link: number });
        }
        pool.waiting.len() - before
    }

    #[test]
    fn without_room_there_is_none() {
        let mut pool = Pool::<u32>::new(0);
        assert!(!pool.is_short(0) && pool.take(0).is_none());
        assert!(!pool.is_short(1) && pool.due_ns() == u64::MAX);
    }

    #[test]
    fn there_are_as_many_as_were_missed() {
        let mut pool = Pool::new(5);
        assert_eq!((pool.due_ns(), filled(&mut pool, 0)), (0, 1));
        assert_eq!(pool.due_ns(), u64::MAX, "no processor for a pool that nobody needs");
        assert!(pool.take(0).is_some());
        assert_eq!(filled(&mut pool, SETTLE_NS), 1);
        let mut now_ns = SETTLE_NS;
        for wanted in [2, 4, 5, 5] {
            while pool.take(now_ns).is_some() {}
            now_ns += SETTLE_NS;
            assert_eq!(filled(&mut pool, now_ns), wanted);
        }
        assert_eq!(pool.due_ns(), now_ns - SETTLE_NS + IDLE_NS);
        for left in [2, 1, 1] {
            let due_ns = pool.due_ns().min(9 * IDLE_NS);
            pool.surplus(due_ns - 1);
            assert!(pool.waiting.len() > left || due_ns == 9 * IDLE_NS);
            pool.surplus(due_ns);
            assert_eq!((pool.waiting.len(), filled(&mut pool, due_ns)), (left, 0));
        }
    }

    #[test]
    fn the_app_of_who_took_one_starts_first() {
        let mut pool = Pool::new(4);
        filled(&mut pool, 0);
        assert!(pool.take(10).is_some());
        // Neither one that has none left nor any later one is to put it off for ever.
        for now_ns in [11, 12, 9 + SETTLE_NS] {
            assert!(pool.take(now_ns).is_none());
            assert!(!pool.is_short(now_ns) && pool.due_ns() == 10 + SETTLE_NS);
        }
        assert_eq!(filled(&mut pool, 10 + SETTLE_NS), 4);
        assert!(pool.take(20 + SETTLE_NS).is_some() && !pool.is_short(20 + SETTLE_NS));
        assert!(pool.lose(99, 30 + SETTLE_NS).is_none());
        assert!(!pool.is_short(30 + SETTLE_NS), "somebody waits for that end");
        // Later ends do not put it off.
        assert!(pool.lose(98, 40 + SETTLE_NS).is_none());
        assert!(pool.is_short(30 + SETTLE_NS + END_NS), "the App was there already");
        // The next launch does, but not for longer than the first alone.
        assert!(pool.take(50 + SETTLE_NS).is_some() && !pool.is_short(30 + SETTLE_NS + END_NS));
        assert_eq!(pool.due_ns(), 20 + 2 * SETTLE_NS);
    }

    #[test]
    fn who_comes_to_a_full_pool_is_the_first_again() {
        let mut pool = Pool::new(1);
        filled(&mut pool, 0);
        assert!(pool.take(10).is_some() && pool.lose(99, 20).is_none());
        assert_eq!(filled(&mut pool, 20 + END_NS), 1);
        assert!(pool.take(30 + END_NS).is_some());
        assert_eq!(pool.due_ns(), 30 + END_NS + SETTLE_NS, "this one's App comes first, too");
    }

    #[test]
    fn nobody_serves_with_old_mounts_and_the_host_has_a_rest() {
        let mut pool = Pool::new(1);
        filled(&mut pool, 0);
        assert_eq!(pool.discard(5).len(), 1);
        assert!(pool.take(5).is_none());
        assert!(!pool.is_short(4 + REST_NS) && pool.due_ns() == 5 + REST_NS);
        assert_eq!(filled(&mut pool, 5 + REST_NS), 1);
    }

    #[test]
    fn one_that_has_ended_serves_nobody() {
        let mut pool = Pool::new(1);
        filled(&mut pool, 0);
        assert!(pool.lose(7, 0).is_none());
        assert_eq!(pool.due_ns(), u64::MAX, "it was somebody else");
        assert!(pool.lose(0, 0).is_some());
        assert!(!pool.is_short(u64::MAX - 1) && pool.due_ns() == u64::MAX);
        assert!(pool.take(1).is_none() && pool.is_short(1 + SETTLE_NS));
    }
}
