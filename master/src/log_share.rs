//! How much of the log a caller may have: what anybody can bring about in any number is told a few
//! times a second, and then how often it was not.

use std::collections::HashMap;

use crate::policy::{Caller, Config};

/// Lines for one of [`Whose`] in a second.
const LINES_MAX: u32 = 10;

const SECOND_NS: u64 = 1_000_000_000;

/// Those who have a share: as many as the policy names, and one more for all others together, who
/// may be as many as they like.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Whose {
    Uid(u32),
    Strangers,
}

impl Whose {
    pub(crate) fn of(caller: &Caller, config: &Config) -> Self {
        if config.knows(caller) { Self::Uid(caller.uid) } else { Self::Strangers }
    }
}

impl core::fmt::Display for Whose {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid {uid}"),
            Self::Strangers => f.write_str("users that the policy does not name"),
        }
    }
}

/// What each has had in the second that began with the first line.
#[derive(Debug, Default)]
pub(crate) struct LogShare(HashMap<Whose, Second>);

#[derive(Debug)]
struct Second {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    ends_ns: u64,
    lines: u32,
}

impl LogShare {
    /// Whether there may be one more line. What is over by now has been [told](Self::left_out).
    pub(crate) fn has_room(&mut self, whose: Whose, now_ns: u64) -> bool {
        let ends_ns = now_ns.saturating_add(SECOND_NS);
        let second = self.0.entry(whose).or_insert(Second { ends_ns, lines: 0 });
        second.lines = second.lines.saturating_add(1);
        second.lines <= LINES_MAX
    }

    /// Whose second is over, and how many lines were left out in it.
    pub(crate) fn left_out(&mut self, now_ns: u64) -> Vec<(Whose, u32)> {
        let over = self.0.extract_if(|_, second| second.ends_ns <= now_ns);
        let left_out = over.map(|(whose, second)| (whose, second.lines.saturating_sub(LINES_MAX)));
        left_out.filter(|(_, lines)| *lines > 0).collect()
    }

    /// When there is something to tell, if nothing else happens; `u64::MAX`: never.
    pub(crate) fn due_ns(&self) -> u64 {
        let waiting = self.0.values().filter(|second| second.lines > LINES_MAX);
        waiting.map(|second| second.ends_ns).min().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_room_for_a_few_lines_a_second_and_left_out_says_the_rest() {
        let mut share = LogShare::default();
        let [one, other] = [Whose::Uid(1), Whose::Strangers];
        for line in 0..LINES_MAX + 7 {
            assert_eq!(share.has_room(one, u64::from(line)), line < LINES_MAX);
        }
        assert!(share.has_room(other, 5), "it is another's");
        assert_eq!((share.due_ns(), share.left_out(SECOND_NS - 1)), (SECOND_NS, vec![]));
        assert_eq!(share.left_out(SECOND_NS), [(one, 7)]);
        assert_eq!(share.due_ns(), u64::MAX);
        assert!(share.has_room(one, SECOND_NS));
        // Whose second is over without that is forgotten, too.
        assert_eq!((share.left_out(u64::MAX), share.0.len()), (vec![], 0));
    }
}
