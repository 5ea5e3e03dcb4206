//! What runs inside: program, arguments, environment, working directory, descriptors. All that
//! a freshly cloned App needs is laid out here beforehand, since it can allocate nothing.

use core::ffi::c_char;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use protocol::{Errno, Item, Rule, Step};

use crate::error::Error;

/// `execvp(3)` looks here when the App has no `PATH`.
const PATH_DEFAULT: &[u8] = b"/bin:/usr/bin";

/// A program to start in a rocker.
///
/// Nothing is handed down that is not named here: the environment is empty but for
/// [`env`](Self::env), the descriptors are 0 to 2 and [`keep_fd`](Self::keep_fd)'s, signals
/// are as at boot, and the session is the App's own.
#[derive(Debug)]
pub struct Program {
    path: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cwd: Option<PathBuf>,
    stdio: [Stdio; 3],
    kept: Vec<OwnedFd>,
    keep_session: bool,
    terminal: bool,
}

/// Where the App's standard input, output or error leads.
#[derive(Debug, Default)]
pub enum Stdio {
    /// Where the caller's does.
    #[default]
    Inherit,
    /// To `/dev/null`.
    Null,
    /// To this descriptor.
    Fd(OwnedFd),
}

impl<T: Into<OwnedFd>> From<T> for Stdio {
    fn from(fd: T) -> Self {
        Self::Fd(fd.into())
    }
}

impl Program {
    /// A name without a slash is looked up in the App's own `PATH`, inside the rocker; a
    /// relative path begins at the working directory.
    pub fn new(path: impl AsRef<OsStr>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            stdio: [Stdio::Inherit, Stdio::Inherit, Stdio::Inherit],
            kept: Vec::new(),
            keep_session: false,
            terminal: false,
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Sets a variable; the last one of a name wins.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let (name, value) = (name.as_ref().to_owned(), value.as_ref().to_owned());
        match self.env.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.env.push((name, value)),
        }
        self
    }

    /// The working directory, as seen inside; else the exec dir.
    #[must_use]
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.cwd = Some(dir.as_ref().to_owned());
        self
    }

    /// Standard input; else the caller's.
    #[must_use]
    pub fn stdin(self, stdio: impl Into<Stdio>) -> Self {
        self.stdio(0, stdio.into())
    }

    /// Standard output; else the caller's.
    #[must_use]
    pub fn stdout(self, stdio: impl Into<Stdio>) -> Self {
        self.stdio(1, stdio.into())
    }

    /// Standard error; else the caller's.
    #[must_use]
    pub fn stderr(self, stdio: impl Into<Stdio>) -> Self {
        self.stdio(2, stdio.into())
    }

    fn stdio(mut self, number: usize, stdio: Stdio) -> Self {
        self.stdio[number] = stdio;
        self
    }

    /// Hands a descriptor down; the App finds them as 3, 4, ... in the order of the calls.
    #[must_use]
    pub fn keep_fd(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.kept.push(fd.into());
        self
    }

    /// Leaves the App in the caller's session. It can then push characters into the caller's
    /// terminal (`TIOCSTI`), where the kernel still allows that.
    #[must_use]
    pub fn keep_session(mut self) -> Self {
        self.keep_session = true;
        self
    }

    /// Makes its standard input, a terminal that controls no other session, the one that controls
    /// its own: what is typed there, such as ^C, becomes signals. Not with
    /// [`keep_session`](Self::keep_session).
    #[must_use]
    pub fn terminal(mut self) -> Self {
        self.terminal = true;
        self
    }

    pub(crate) fn has_terminal(&self) -> bool {
        self.terminal
    }

    /// What it is called, for people.
    pub(crate) fn path(&self) -> &OsStr {
        &self.path
    }

    pub(crate) fn directory(&self) -> Option<&Path> {
        self.cwd.as_deref()
    }

    /// The same for a guard to start.
    pub(crate) fn order(&self) -> Result<Order<'_>, Error> {
        let mut descriptors = Vec::new();
        let own = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        let mut null = None;
        for (stdio, own) in self.stdio.iter().zip(own) {
            descriptors.push(match stdio {
                Stdio::Inherit => Some(own),
                Stdio::Fd(fd) => Some(fd.as_fd()),
                Stdio::Null => {
                    null = Some(dev_null()?);
                    None
                }
            });
        }
        descriptors.extend(self.kept.iter().map(|fd| Some(fd.as_fd())));
        let args = core::iter::once(&self.path).chain(&self.args);
        let env = self.env.iter().map(|(name, value)| {
            let mut entry = name.clone();
            entry.push("=");
            entry.push(value);
            entry
        });
        Ok(Order {
            args: joined(args.map(|arg| c_string(arg)))?,
            env: joined(env.map(|entry| c_string(&entry)))?,
            cwd: joined(self.cwd.iter().map(|dir| c_string(dir.as_os_str())))?,
            descriptors,
            null,
        })
    }

    pub(crate) fn lay_out(&self) -> Result<Layout, Error> {
        let mut null = None;
        let mut moves = Vec::new();
        for (target, stdio) in (0..).zip(&self.stdio) {
            let source = match stdio {
                Stdio::Inherit => continue,
                Stdio::Fd(fd) => fd.as_raw_fd(),
                Stdio::Null => match &null {
                    Some(file) => File::as_raw_fd(file),
                    None => null.insert(dev_null()?).as_raw_fd(),
                },
            };
            moves.push(Move { source, target });
        }
        let mut first_closed = 3;
        for fd in &self.kept {
            moves.push(Move { source: fd.as_raw_fd(), target: first_closed });
            first_closed += 1;
        }
        let argv = core::iter::once(&self.path).chain(&self.args);
        let env = self.env.iter().map(|(name, value)| {
            let mut entry = name.clone();
            entry.push("=");
            entry.push(value);
            entry
        });
        Ok(Layout {
            candidates: self.candidates()?,
            argv: Strings::new(argv.map(|arg| c_string(arg)).collect::<Result<_, _>>()?),
            envp: Strings::new(env.map(|entry| c_string(&entry)).collect::<Result<_, _>>()?),
            moves,
            first_closed,
            new_session: !self.keep_session,
            terminal: self.terminal,
            _null: null,
        })
    }

    /// The paths that `execvp(3)` would try.
    fn candidates(&self) -> Result<Vec<CString>, Error> {
        let name = self.path.as_bytes();
        if name.is_empty() {
            return Err(Error::invalid(Rule::Empty, Item::Program, name));
        }
        if name.contains(&b'/') {
            return Ok(vec![c_string(&self.path)?]);
        }
        let path = self.env.iter().find(|(name, _)| name == "PATH");
        let dirs = path.map_or(PATH_DEFAULT, |(_, dirs)| dirs.as_bytes());
        let join = |dir: &[u8]| {
            // An empty entry is the working directory.
            let dir = if dir.is_empty() { b"." } else { dir };
            c_string(OsStr::from_bytes(&[dir, b"/", name].concat()))
        };
        dirs.split(|&byte| byte == b':').map(join).collect()
    }
}

/// A program as a message carries it: strings that end with NUL, one after the other.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub(crate) args: Vec<u8>,
    pub(crate) env: Vec<u8>,
    pub(crate) cwd: Vec<u8>,
    /// None: `null`.
    descriptors: Vec<Option<BorrowedFd<'a>>>,
    null: Option<File>,
}

impl Order<'_> {
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let null = self.null.as_ref().map(AsFd::as_fd);
        self.descriptors.iter().filter_map(|fd| fd.or(null)).collect()
    }
}

fn joined(strings: impl Iterator<Item = Result<CString, Error>>) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    for string in strings {
        bytes.extend(string?.into_bytes_with_nul());
    }
    Ok(bytes)
}

/// A program with all its strings ended by NUL and all its pointers in place.
#[derive(Debug)]
pub(crate) struct Layout {
    /// To be tried one after the other.
    pub(crate) candidates: Vec<CString>,
    pub(crate) argv: Strings,
    pub(crate) envp: Strings,
    pub(crate) moves: Vec<Move>,
    /// This descriptor and all above are closed.
    pub(crate) first_closed: RawFd,
    pub(crate) new_session: bool,
    /// Whether standard input is the terminal that controls it.
    pub(crate) terminal: bool,
    /// Keeps `/dev/null` open until the App has its own copy.
    _null: Option<File>,
}

/// A descriptor's number on the outside, and the one the App is to find it under.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) source: RawFd,
    pub(crate) target: RawFd,
}

/// An array of strings as `execve(2)` wants it.
#[derive(Debug)]
pub(crate) struct Strings {
    pointers: Vec<*const c_char>,
    _strings: Vec<CString>,
}

impl Strings {
    fn new(strings: Vec<CString>) -> Self {
        let ends = core::iter::once(core::ptr::null());
        let pointers = strings.iter().map(|string| string.as_ptr()).chain(ends).collect();
        // The bytes are on the heap: moving the CStrings leaves them where they are.
        Self { pointers, _strings: strings }
    }

    /// Ended by a null pointer; valid as long as `self`.
    pub(crate) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

/// A string for the kernel; a NUL within is the caller's mistake.
pub(crate) fn c_string(text: &OsStr) -> Result<CString, Error> {
    CString::new(text.as_bytes())
        .map_err(|_| Error::invalid(Rule::ControlByte, Item::Program, text.as_bytes()))
}

/// The host's: it is opened before the rocker is entered.
fn dev_null() -> Result<File, Error> {
    File::options().read(true).write(true).open("/dev/null").map_err(|error| {
        let errno =
            Errno(error.raw_os_error().and_then(|raw| u16::try_from(raw).ok()).unwrap_or(0));
        Error::new(protocol::Error::Failed { step: Step::RunApp, errno }).during("open /dev/null")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(program: &Program) -> Vec<String> {
        let paths = program.candidates().unwrap();
        paths.iter().map(|path| path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn names_are_looked_up_in_the_apps_own_path() {
        assert_eq!(candidates(&Program::new("sh")), ["/bin/sh", "/usr/bin/sh"]);
        let program = Program::new("sh").env("PATH", "/app/bin::/sbin");
        assert_eq!(candidates(&program), ["/app/bin/sh", "./sh", "/sbin/sh"]);
        assert_eq!(candidates(&Program::new("bin/sh").env("PATH", "/app")), ["bin/sh"]);
    }

    #[test]
    fn a_nul_is_refused_wherever_it_hides() {
        for program in [
            Program::new("a\0b"),
            Program::new("/a\0b"),
            Program::new("a").arg("b\0c"),
            Program::new("a").env("b", "c\0d"),
        ] {
            let error = program.lay_out().unwrap_err();
            let wanted = protocol::Error::Invalid { rule: Rule::ControlByte, item: Item::Program };
            assert_eq!(error.kind(), wanted);
        }
        assert!(Program::new("").lay_out().is_err());
    }

    #[test]
    fn descriptors_are_numbered_from_three() {
        let [one, two] = [dev_null().unwrap(), dev_null().unwrap()];
        let sources = [one.as_raw_fd(), two.as_raw_fd()];
        let program = Program::new("a").stdout(Stdio::Null).keep_fd(one).keep_fd(two);
        let layout = program.lay_out().unwrap();
        let targets = layout.moves.iter().map(|m| m.target).collect::<Vec<_>>();
        assert_eq!(targets, [1, 3, 4]);
        assert_eq!([layout.moves[1].source, layout.moves[2].source], sources);
        assert_eq!(layout.first_closed, 5);
    }

    #[test]
    fn the_last_variable_of_a_name_wins() {
        let program = Program::new("a").env("A", "1").env("B", "2").env("A", "3");
        assert_eq!(program.env, [("A".into(), "3".into()), ("B".into(), "2".into())]);
    }
}
