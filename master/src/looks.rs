//! Who may look at what may take long: root.2, for a launch whose paths lead to where the kernel
//! would have to wait, or that has cgroups to be made. Each look is a thread, or a place in the queue
//! of one (`steward.rs`), for as long as its user can make it last, so each user has a few at a time;
//! who comes for more waits for these.
//!
//! Nothing in here starts a thread: the sim runs this too.

use std::collections::HashMap;

/// Those of one user.
pub const LOOKS_MAX: usize = 4;

/// All that are under way.
#[derive(Debug, Default)]
pub struct Looks {
    /// By user.
    under_way: HashMap<u32, usize>,
    has_news: bool,
}

impl Looks {
    /// Whether one more of this user's may begin; then it has.
    pub fn begin(&mut self, user: u32) -> bool {
        let looks = self.under_way.entry(user).or_default();
        let has_room = *looks < LOOKS_MAX;
        *looks += usize::from(has_room);
        has_room
    }

    /// One of them has come to its end: somebody knows more, or may begin.
    pub fn end(&mut self, user: u32) {
        self.under_way.entry(user).and_modify(|looks| *looks -= 1);
        self.under_way.retain(|_, looks| *looks > 0);
        self.has_news = true;
    }

    /// Whether there is none.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Whether one has, since this was asked last.
    pub fn has_news(&mut self) -> bool {
        core::mem::take(&mut self.has_news)
    }
}
