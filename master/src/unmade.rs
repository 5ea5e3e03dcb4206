//! Why something that a launch needs could not be made, with the words for people.

use protocol::Error;
use rustix::io::Errno;

/// Whose fault it is.
#[derive(Debug)]
pub(crate) enum Unmade {
    /// The request breaks a rule; what more there is to say of it.
    Rule(Error, String),
    /// The kernel's answer, and the shell command that would have got it, too.
    System(Errno, String),
}
