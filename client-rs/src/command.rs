//! Programs in an [`OpenRocker`], started as with [`std::process::Command`].

use std::ffi::OsStr;
use std::io::{PipeReader, PipeWriter, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use protocol::{Errno, ExitReport, Step};

use crate::error::Error;
use crate::open::{Limits, OpenRocker, Run, Start};
use crate::program::{Program, Stdio};

/// A program that is to run in an [`OpenRocker`], made by [`OpenRocker::command`].
///
/// As with [`Program`], nothing is handed down that is not named: the environment is empty.
/// Standard input, output and error are the caller's, but for what [`output`](Self::output) says.
#[derive(Debug)]
pub struct Command<'r> {
    rocker: &'r mut OpenRocker,
    program: Program,
    stdio: [Where; 3],
    limits: Limits,
    start: Start,
}

/// Where a standard descriptor leads.
#[derive(Debug)]
enum Where {
    /// Nobody has said.
    Default,
    Said(Stdio),
    Piped,
}

/// A program that was started by a [`Command`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Spawned {
    /// The program, for [`OpenRocker::wait`] and the like.
    pub run: Run,
    /// The other end of its standard input, if that was [piped](Command::stdin_piped).
    pub stdin: Option<PipeWriter>,
    /// The same of its standard output.
    pub stdout: Option<PipeReader>,
    /// The same of its standard error.
    pub stderr: Option<PipeReader>,
}

/// What a program has said, and how it ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Output {
    /// How.
    pub report: ExitReport,
    /// All of its standard output, if that was not sent elsewhere.
    pub stdout: Vec<u8>,
    /// All of its standard error, if that was not sent elsewhere.
    pub stderr: Vec<u8>,
}

impl<'r> Command<'r> {
    pub(crate) fn new(rocker: &'r mut OpenRocker, path: &OsStr) -> Self {
        let stdio = [Where::Default, Where::Default, Where::Default];
        let (program, limits, start) = (Program::new(path), Limits::new(), Start::default());
        Self { rocker, program, stdio, limits, start }
    }

    fn program(mut self, change: impl FnOnce(Program) -> Program) -> Self {
        self.program = change(self.program);
        self
    }

    fn stdio(mut self, number: usize, to: Where) -> Self {
        self.stdio[number] = to;
        self
    }

    /// One more argument.
    #[must_use]
    pub fn arg(self, arg: impl AsRef<OsStr>) -> Self {
        self.program(|it| it.arg(arg))
    }

    /// More arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Self {
        self.program(|it| it.args(args))
    }

    /// Sets a variable; the last one of a name wins.
    #[must_use]
    pub fn env(self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.program(|it| it.env(name, value))
    }

    /// The working directory, as seen inside; else the exec dir.
    #[must_use]
    pub fn current_dir(self, dir: impl AsRef<Path>) -> Self {
        self.program(|it| it.cwd(dir))
    }

    /// Hands a descriptor down: [`Program::keep_fd`].
    #[must_use]
    pub fn keep_fd(self, fd: impl Into<OwnedFd>) -> Self {
        self.program(|it| it.keep_fd(fd))
    }

    /// Standard input.
    #[must_use]
    pub fn stdin(self, stdio: impl Into<Stdio>) -> Self {
        self.stdio(0, Where::Said(stdio.into()))
    }

    /// Standard output.
    #[must_use]
    pub fn stdout(self, stdio: impl Into<Stdio>) -> Self {
        self.stdio(1, Where::Said(stdio.into()))
    }

    /// Standard error.
    #[must_use]
    pub fn stderr(self, stdio: impl Into<Stdio>) -> Self {
        self.stdio(2, Where::Said(stdio.into()))
    }

    /// Standard input is a pipe, to which [`Spawned::stdin`] writes.
    #[must_use]
    pub fn stdin_piped(self) -> Self {
        self.stdio(0, Where::Piped)
    }

    /// Standard output is a pipe, from which [`Spawned::stdout`] reads.
    #[must_use]
    pub fn stdout_piped(self) -> Self {
        self.stdio(1, Where::Piped)
    }

    /// Standard error is a pipe, from which [`Spawned::stderr`] reads.
    #[must_use]
    pub fn stderr_piped(self) -> Self {
        self.stdio(2, Where::Piped)
    }

    /// What it may use; else what the master may.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// It waits before it executes, for [`OpenRocker::go`]: its caller knows its pid by then, and
    /// may put it where it is to be. Meanwhile its time on the clock runs, and a signal reaches
    /// it. It ends with the connection.
    #[must_use]
    pub fn sync(mut self) -> Self {
        self.start.sync = true;
        self
    }

    /// It is in this control group before it executes, instead of the rocker's: a `cgroup.procs`
    /// that its caller has opened for writing, of version 1 or 2; once for each hierarchy. What
    /// the caller may do counts, as if it wrote the pid there by itself.
    ///
    /// Nobody waits for it to get there: [`spawn`](Self::spawn) may return before, and why it
    /// could not execute is told by [`OpenRocker::wait`]. In a group that is frozen it executes
    /// when that thaws. In one of version 1 it does not even die before: not when it is killed or
    /// late, and the rocker's end, too, waits for whoever has frozen it to thaw it.
    #[must_use]
    pub fn cgroup(mut self, procs: impl Into<OwnedFd>) -> Self {
        self.start.cgroups.push(procs.into());
        self
    }

    /// Its standard input is a terminal, and is to control it.
    #[must_use]
    pub fn terminal(mut self) -> Self {
        self.program = self.program.terminal();
        self
    }

    /// exec.0: starts it.
    ///
    /// # Errors
    ///
    /// Those of [`OpenRocker::spawn`].
    pub fn spawn(self) -> Result<Spawned, Error> {
        self.begin().map(|(_, spawned)| spawned)
    }

    /// Starts it, and waits for its end. One that was to [wait](Self::sync) goes at once.
    ///
    /// # Errors
    ///
    /// Those of [`OpenRocker::spawn`] and [`OpenRocker::wait`].
    pub fn status(self) -> Result<ExitReport, Error> {
        let sync = self.start.sync;
        let (rocker, Spawned { run, .. }) = self.begin()?;
        if sync {
            rocker.go(&run)?;
        }
        rocker.wait(&run)
    }

    /// The same, and all that it says until nobody can say any more. Of what was not said
    /// otherwise, standard output and error are piped, and standard input leads to `/dev/null`.
    ///
    /// All of it is held in memory, however much: the bound is the program's time, as with
    /// [`std::process::Command::output`]. Whom one does not trust has a [file](Self::stdout) and
    /// `RLIMIT_FSIZE` ([`Limits::rlimit`]), or a [pipe](Self::stdout_piped) that is read no
    /// further than one likes.
    ///
    /// # Errors
    ///
    /// As above, and that what it says cannot be read.
    pub fn output(mut self) -> Result<Output, Error> {
        let defaults = [Where::Said(Stdio::Null), Where::Piped, Where::Piped];
        for (place, default) in self.stdio.iter_mut().zip(defaults) {
            if matches!(place, Where::Default) {
                *place = default;
            }
        }
        let sync = self.start.sync;
        let (rocker, Spawned { run, stdin, stdout, stderr }) = self.begin()?;
        drop(stdin);
        if sync {
            rocker.go(&run)?;
        }
        let (stdout, stderr) = std::thread::scope(|scope| {
            let stderr = scope.spawn(|| all_of(stderr));
            (all_of(stdout), stderr.join())
        });
        // all_of does not panic.
        let stderr = stderr.unwrap_or_else(|_| Ok(Vec::new()))?;
        Ok(Output { report: rocker.wait(&run)?, stdout: stdout?, stderr })
    }

    /// exec.0
    fn begin(self) -> Result<(&'r mut OpenRocker, Spawned), Error> {
        let Self { rocker, mut program, stdio: [stdin, stdout, stderr], limits, start } = self;
        let mut ends = (None, None, None);
        program = match stdin {
            Where::Default => program,
            Where::Said(stdio) => program.stdin(stdio),
            Where::Piped => {
                let (reader, writer) = pipe()?;
                ends.0 = Some(writer);
                program.stdin(reader)
            }
        };
        program = match stdout {
            Where::Default => program,
            Where::Said(stdio) => program.stdout(stdio),
            Where::Piped => {
                let (reader, writer) = pipe()?;
                ends.1 = Some(reader);
                program.stdout(writer)
            }
        };
        program = match stderr {
            Where::Default => program,
            Where::Said(stdio) => program.stderr(stdio),
            Where::Piped => {
                let (reader, writer) = pipe()?;
                ends.2 = Some(reader);
                program.stderr(writer)
            }
        };
        let run = rocker.start(&program, &limits, &start)?;
        // `program` goes here, and with it our copies of its ends.
        let (stdin, stdout, stderr) = ends;
        Ok((rocker, Spawned { run, stdin, stdout, stderr }))
    }
}

fn pipe() -> Result<(PipeReader, PipeWriter), Error> {
    std::io::pipe().map_err(|error| failed(&error, "pipe"))
}

fn all_of(pipe: Option<PipeReader>) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut bytes).map_err(|error| failed(&error, "read # its output"))?;
    }
    Ok(bytes)
}

fn failed(error: &std::io::Error, command: &str) -> Error {
    let raw = error.raw_os_error().and_then(|raw| u16::try_from(raw).ok());
    let errno = Errno(raw.unwrap_or(0));
    Error::new(protocol::Error::Failed { step: Step::RequestExec, errno }).during(command)
}
