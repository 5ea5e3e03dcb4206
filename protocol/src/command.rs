//! The shell command that does what a step does: what errors and traces show to people.

use core::fmt;

use heapless::String;

use crate::limits::COMMAND_MAX;

/// At most [`COMMAND_MAX`] bytes of text; what is longer is cut and ends in `...`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Command {
    text: String<COMMAND_MAX>,
    cut: bool,
}

const ELLIPSIS: &str = "...";

impl Command {
    /// No text.
    pub const fn new() -> Self {
        Self { text: String::new(), cut: false }
    }

    /// What was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Starts over.
    pub fn clear(&mut self) {
        *self = Self::new();
    }
}

impl fmt::Write for Command {
    /// Never fails.
    fn write_str(&mut self, more: &str) -> fmt::Result {
        if self.cut {
            return Ok(());
        }
        let room = COMMAND_MAX - ELLIPSIS.len() - self.text.len();
        let fits = more.floor_char_boundary(room.min(more.len()));
        self.cut = fits < more.len();
        // Both pushes fit: that is what `room` says.
        let _ = self.text.push_str(more.get(..fits).unwrap_or_default());
        if self.cut {
            let _ = self.text.push_str(ELLIPSIS);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::fmt::Write;

    #[test]
    fn long_commands_are_cut_between_characters() {
        let mut command = Command::new();
        for _ in 0..300 {
            write!(command, "\u{e9}x").unwrap();
        }
        assert!(command.as_str().ends_with("\u{e9}..."));
        assert!(command.as_str().len() <= COMMAND_MAX);
        write!(command, "more").unwrap();
        assert!(command.as_str().ends_with("\u{e9}..."));
    }

    #[test]
    fn short_commands_are_kept() {
        let mut command = Command::new();
        command.write_str("mount -t ").unwrap();
        command.write_str("proc /proc").unwrap();
        assert_eq!(command.as_str(), "mount -t proc /proc");
    }
}
