//! What can be said on the command line.

use core::time::Duration;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::pack::Compression;
use super::units::{block_size, millis, number, signal, size, time, timeout, whole, whole_seconds};

/// Runs Apps from squashfs packages, each in a rocker of its own.
#[derive(Debug, Parser)]
#[command(name = "rocker", version, max_term_width = 100)]
pub(crate) struct Cli<C: Subcommand = Command> {
    #[command(subcommand)]
    pub(crate) command: C,
}

impl Cli {
    /// What was typed. clap describes each command before it looks at the words, which takes as
    /// long as the kernel takes for a process: so the one that starts Apps is described alone.
    pub(crate) fn typed() -> Result<Command, clap::Error> {
        if std::env::args_os().nth(1).is_some_and(|word| word == "run") {
            return Cli::<Launching>::try_parse().map(|cli| Command::Launching(cli.command));
        }
        Self::try_parse().map(|cli| cli.command)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Launching {
    /// Run an App in a rocker, and end with its exit status
    #[command(after_help = EXIT_STATUS)]
    Run(Box<Run>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build a package of a directory: the same input gives the same bytes
    Pack {
        /// What to pack; a rocker.toml at its root says what "rocker run" starts
        dir: PathBuf,
        /// The squashfs image to write
        package: PathBuf,
        /// How to compress it
        #[arg(long, alias = "comp", value_enum, default_value_t)]
        compression: Compression,
        /// How much is compressed together, a power of two from 4K to 1M: larger blocks make a
        /// smaller package and take more memory when it is read [default: 64K]
        #[arg(long, value_name = "SIZE", value_parser = block_size)]
        block_size: Option<u32>,
        /// How many threads compress, up to 256; the package is the same whatever their number
        /// [default: one for each processor]
        #[arg(long, value_name = "N", value_parser = number::<u16>(1..=256))]
        jobs: Option<u16>,
    },
    #[command(flatten)]
    Launching(Launching),
    /// Run a program in a living rocker, and end with its exit status
    #[command(after_help = EXEC_STATUS)]
    Exec(Exec),
    /// Wait for the end of a detached rocker's App, and end with its exit status
    #[command(after_help = WAIT)]
    Wait {
        /// Where the master listens [default: $ROCKER_SOCKET, else /run/rocker/master.sock]
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// Say how it ended in one line of JSON on standard output
        #[arg(long)]
        json: bool,
        /// The rocker's name, or the beginning of it if no other begins so
        name: String,
    },
    /// Run programs that nobody trusts, each in a rocker that is as new, within limits, and say
    /// in a line of JSON how each ended
    #[command(after_help = JOBS, args_conflicts_with_subcommands = true)]
    Judge(Box<JudgeMany>),
    /// List the living rockers
    #[command(after_help = PS)]
    Ps {
        /// Where the master listens [default: $ROCKER_SOCKET, else /run/rocker/master.sock]
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Copy a file out of a living rocker, or into it
    #[command(after_help = CP)]
    Cp {
        /// Where the master listens [default: $ROCKER_SOCKET, else /run/rocker/master.sock]
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// The longest file that is copied out [default: 1G, and any for "-"]
        #[arg(long, value_name = "SIZE", value_parser = size)]
        max_size: Option<u64>,
        /// NAME:PATH, or a file of this host, or "-" for standard input
        from: OsString,
        /// The same, or "-" for standard output
        to: OsString,
    },
    /// Say what living rockers use now
    #[command(after_help = STATS)]
    Stats {
        /// Where the master listens [default: $ROCKER_SOCKET, else /run/rocker/master.sock]
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// One rocker's name, or the beginning of it if no other begins so [default: all]
        name: Option<String>,
    },
    /// End a rocker and all that runs in it, and return when it is gone
    #[command(after_help = KILL)]
    Kill {
        /// Send a signal to all that runs in it instead, by name or number, and return at once
        #[arg(short, long, value_parser = signal)]
        signal: Option<u8>,
        /// Where the master listens [default: $ROCKER_SOCKET, else /run/rocker/master.sock]
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// Its name, or the beginning of it if no other begins so
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Say what this machine offers and lacks for ROCKER, and what to do about it
    #[command(after_help = DOCTOR)]
    Doctor {
        /// Where the master listens [default: $ROCKER_SOCKET, else /run/rocker/master.sock]
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

const EXIT_STATUS: &str = "\
Signals (INT, TERM, HUP, QUIT, USR1, USR2, WINCH, CONT) are passed on to the App. When the App
has ended, rocker waits for what it left running; a signal then ends that. \"rocker kill\" ends
everything at once.

Exit status: the App's; 128+n if signal n ended it; 127 if the program was not found, 126 if it
could not be executed; 125 if ROCKER itself failed.";

const EXEC_STATUS: &str = "\
Signals (INT, TERM, HUP, QUIT, USR1, USR2, WINCH, CONT) are passed on to the program. It ends with
this command at the latest; what has left its process group may go on, as long as the rocker does.

Exit status: the program's; 128+n if signal n ended it; 127 if it was not found, 126 if it could
not be executed; 125 if ROCKER itself failed.";

const WAIT: &str = "\
The App is one of \"rocker run --detach\", and has to live still: nobody keeps how one has ended. One
can wait at a time. The App gets no signal, and goes on if this ends first.

Exit status: the App's; 128+n if signal n ended it; 125 if ROCKER itself failed, there is no such
App, or its rocker was killed.";

const DOCTOR: &str = "\
\"ok\" is as it should be, \"slow\" costs time or something that ROCKER can do, and without what is
\"missing\" nothing runs.

Exit status: 0 if ROCKER can run here, 1 if something is missing, 125 if that could not be told.";

const KILL: &str = "\
A gentle end: \"rocker kill -s TERM NAME\", and \"rocker wait NAME\" to see it.

Exit status: 0 if all were killed; 125 if one was not, which is told, and the others were.";

const CP: &str = "\
NAME is a rocker's name, or the beginning of it. PATH is as its programs see it, and read or
written with their rights: an absolute path, or one below the exec dir, out of which no link leads
then. A file of this host with a colon in its name is said as ./a:b. Either may be a directory that
the file goes to. Only regular files are copied, with their permissions but for set ids. On this
host a file is replaced when the copy is whole, and a link in its place is refused; in a rocker it
is written in place.";

const PS: &str = "\
APP-ID is what its launch has said (--app-id), UID its user, and GUARD the pid of its guard. APP is
the pid of an App that \"rocker run\" or a library has started itself. \"-\" is one that the guard
has started, as with --detach, or that you may not see.";

const STATS: &str = "\
USER and SYSTEM are processor time since the rocker began. MEMORY and PIDS are what there is now,
with the guard, MEM-PEAK and PIDS-PEAK the most at once. READ and WRITTEN are what went from and to
disks.
A rocker with limits is counted by its cgroups, with what is cached for it. Another is counted by
its processes: its memory is what each has resident, so what they share is counted for each. What
the kernel does not tell, or not to you, is \"-\", and null in JSON, where times are in microseconds
and sizes in bytes.";

const JOBS: &str = "\
Each line of standard input is a job, {\"id\": 1, \"argv\": [\"sh\", \"-c\", \"cat\"], \"stdin\": \"text\"}:
  id                        anything; it comes back with the result
  argv, env                 what to run: a name is looked up in bin of the package, then in PATH; a
                            relative path is one of \"files\", or else the package's
  stdin, stdin_file         its standard input, or a file with it
  stdout_file, stderr_file  files that get its outputs at its end; they are part of the result
                            otherwise
  files                     what lies in its working directory: {\"name\": {\"text\": \"...\"}} or
                            {\"name\": {\"path\": \"...\"}}
  copy_out                  what is to be had of it after: {\"name\": \"path\"}; why one is not to
                            be had is said in the result, under not_copied
  time, wall, output        its own limits, as on the command line: 1s, 500ms, 16M; numbers are
                            seconds of a processor, seconds, bytes

Each line of standard output is a result, in the order in which they end: id, verdict, exit or
signal, user_us, system_us, wall_us, peak_kib, what else the kernel tells, stdout, stderr; or id
and error. Children that nobody has waited for are not in user_us and system_us, but in
rocker_cpu_us, which is of all jobs of this rocker so far, if it has --memory or --pids and cgroups
are of version 2. Verdicts: normal, nonzero exit status, signalled, time limit exceeded, memory
limit exceeded, output limit exceeded, disallowed system call, out of memory (the host's), runner
error (nobody saw how it ended).

A program sees the package, its working directory /tmp, and of the host /usr, /etc and what belongs
to them, for reading only. What one leaves behind is gone before the next.";

const JUDGED: &str = "\
The result reads as one of \"rocker judge\", whose help tells what is in it and what a program sees.

Exit status: 0 if there is a result, whatever the verdict; 125 if ROCKER itself failed, or the
program could not be started.";

/// These are the guard's to keep: it starts the App, as it does for whoever is not root.
const LIMITS: &str = "Limits (the guard starts the App, and ends what the App leaves running)";

/// So is this, for a rocker that takes orders.
const PLACES: &str =
    "What the App sees (the guard starts the App, and ends what the App leaves running)";

const DETACHED: &str = "In the background (the guard starts the App)";

/// These are the kernel's to keep, whoever starts the App.
const TOGETHER: &str = "Limits of all processes in the rocker together (cgroups)";

/// Whose an App is, and by which master it comes to be.
#[derive(Args, Debug)]
pub(crate) struct Common {
    /// The App's user, by name or number [default: yourself, and nobody (65534) for root]
    #[arg(long, value_name = "U", allow_negative_numbers = true)]
    pub(crate) uid: Option<String>,
    /// The App's group, by name or number [default: the user's own]
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    pub(crate) gid: Option<String>,
    /// Where the package is mounted [default: "app" beside the master's socket]
    #[arg(long, value_name = "D")]
    pub(crate) exec_dir: Option<PathBuf>,
    /// Where the master listens [default: $ROCKER_SOCKET, else /run/rocker/master.sock; root
    /// needs no master: without one, this launch gets its own]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct JudgeMany {
    #[command(flatten)]
    pub(crate) judge: Judge,
    /// How many rockers are kept ready, each for one job at a time [default: one for each
    /// processor]
    #[arg(long, value_name = "N", value_parser = number::<u16>(1..=1024))]
    pub(crate) ready: Option<u16>,
    /// Give each of them a uid of its own, --uid and those that follow it: then no program takes
    /// from those that run meanwhile what the kernel counts for each uid
    #[arg(long, requires = "uid")]
    pub(crate) own_uids: bool,
    /// The squashfs package; jobs are read from standard input
    #[arg(required = true)]
    pub(crate) package: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<JudgeCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JudgeCommand {
    /// One run, and its result
    #[command(after_help = JUDGED)]
    Run(Box<JudgeRun>),
}

/// What one run or many have in common.
#[derive(Args, Debug)]
pub(crate) struct Judge {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Time of a processor for each process of a run, in whole seconds [default: what --wall
    /// leaves it]
    #[arg(long, value_name = "TIME", value_parser = whole_seconds)]
    pub(crate) time: Option<u64>,
    /// Time for a run, as in 500ms or 3s
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10s")]
    pub(crate) wall: Duration,
    /// The longest file, output included
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "16M")]
    pub(crate) output: u64,
    /// Memory of all its processes together; takes a cgroup controller [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) memory: Option<u64>,
    /// Processes and threads at once; takes a cgroup controller [default: no limit]
    #[arg(long, value_name = "N", value_parser = whole)]
    pub(crate) pids: Option<u32>,
    /// Which system calls they may make of those that an App may, as a container engine's profile
    /// in JSON: a program that makes one that the profile kills for is killed, and the result names
    /// it; those that no App may fail [default: what an App may]
    #[arg(long, value_name = "PROFILE")]
    pub(crate) seccomp: Option<PathBuf>,
    /// The working directory, which lies in memory
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64M")]
    pub(crate) scratch: u64,
}

#[derive(Args, Debug)]
pub(crate) struct JudgeRun {
    #[command(flatten)]
    pub(crate) judge: Judge,
    /// Standard input [default: nothing]
    #[arg(long, value_name = "FILE")]
    pub(crate) stdin: Option<PathBuf>,
    /// A file that gets standard output at the end [default: the result has it]
    #[arg(long, value_name = "FILE")]
    pub(crate) stdout: Option<PathBuf>,
    /// A file that gets standard error at the end [default: the result has it]
    #[arg(long, value_name = "FILE")]
    pub(crate) stderr: Option<PathBuf>,
    /// A file for the working directory, as in a.out:a.out, any number of times
    #[arg(long, value_name = "FILE:NAME")]
    pub(crate) copy_in: Vec<OsString>,
    /// A file from the working directory, at the end
    #[arg(long, value_name = "NAME:FILE")]
    pub(crate) copy_out: Vec<OsString>,
    /// The squashfs package
    pub(crate) package: PathBuf,
    /// What to run: a name is looked up in bin of the package, then in PATH; a relative path is
    /// one of --copy-in, or else the package's
    #[arg(last = true, required = true, value_name = "ARGV")]
    pub(crate) argv: Vec<OsString>,
}

/// Which `/dev` an App sees.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Dev {
    Own,
    Host,
}

#[derive(Args, Debug)]
pub(crate) struct Run {
    /// A number of your own for the App, shown by "rocker ps"
    #[arg(long, value_name = "N", default_value = "0", value_parser = whole)]
    pub(crate) app_id: u32,
    #[command(flatten)]
    pub(crate) common: Common,
    /// Where the overlays keep what the App writes; another --uid finds it there as another user's
    /// [default, with overlays: /var/lib/rocker/<package's name>, made if missing]
    #[arg(long, value_name = "D")]
    pub(crate) data_dir: Option<PathBuf>,
    /// A directory that the App can change for itself, up to 16 times; or "auto": all in / but
    /// /proc, /sys, /dev and /run [default: what the manifest says]
    #[arg(long, value_name = "D")]
    pub(crate) overlay: Vec<PathBuf>,
    /// Do not wait for a disk: what the App writes to overlays may be lost if the machine crashes
    #[arg(long)]
    pub(crate) volatile: bool,
    /// Which system calls the App may make: a profile in JSON, as container engines have them;
    /// "log": any, and the kernel's log tells of those that are not on the default list;
    /// "unconfined": any [default: those that a process without privileges has a use for]
    #[arg(long, value_name = "FILE|log|unconfined")]
    pub(crate) seccomp: Option<PathBuf>,
    /// A second wall, by Landlock: the App can write only to its overlays, to what --tmpfs and
    /// --bind give it, to its /dev and /proc, and to what it has open from the start, and reaches
    /// no abstract socket of the host's; takes Linux 6.12 [default: what the manifest says]
    #[arg(long)]
    pub(crate) landlock: bool,
    /// Let the App make user namespaces, for sandboxes of its own
    #[arg(long)]
    pub(crate) userns: bool,
    /// Which devices the App sees: "own": null, zero, full, random, urandom, tty, and terminals and
    /// shared memory of its own; "host": all of the host's
    #[arg(long, value_name = "own|host", default_value = "own", hide_possible_values = true)]
    pub(crate) dev: Dev,
    /// A device of the host's, as in /dev/ttyUSB0, in the App's own /dev; any number of times
    #[arg(long, value_name = "PATH")]
    pub(crate) device: Vec<PathBuf>,
    /// A variable for the App; it has none of yours but TERM and LANG
    #[arg(long, value_name = "K=V")]
    pub(crate) env: Vec<OsString>,
    /// Where the App starts [default: what the manifest says, else the exec dir]
    #[arg(long, value_name = "D")]
    pub(crate) cwd: Option<PathBuf>,
    /// How long the launch may take, as in 500ms or 3s
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = "5s")]
    pub(crate) timeout: Duration,
    /// An empty directory in memory, where one is, of at most SIZE [default: 64M]; any number of
    /// times, as the next two
    #[arg(long, value_name = "DIR[:SIZE]", help_heading = PLACES)]
    pub(crate) tmpfs: Vec<OsString>,
    /// Shows a file or directory in another place, for reading only, with the App's rights
    #[arg(long, value_name = "HOST:DIR", help_heading = PLACES)]
    pub(crate) bind_ro: Vec<OsString>,
    /// The same for writing, too
    #[arg(long, value_name = "HOST:DIR", help_heading = PLACES)]
    pub(crate) bind: Vec<OsString>,
    /// What the machine is called inside
    #[arg(long, value_name = "NAME", help_heading = PLACES)]
    pub(crate) hostname: Option<String>,
    /// Kill the App when it has run for so long, as in 500ms or 3s
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = LIMITS)]
    pub(crate) wall: Option<Duration>,
    /// End the App when it has used so much time of a processor, in whole seconds: each of its
    /// processes by itself has so much
    #[arg(long, value_name = "TIME", value_parser = whole_seconds, help_heading = LIMITS)]
    pub(crate) time: Option<u64>,
    /// End the App when it writes a file longer than this, as in 16M
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = LIMITS)]
    pub(crate) output: Option<u64>,
    /// Memory, as in 64M; at least 1M: rocker says if an App is killed for it. In all that rocker
    /// reads and prints K is 1024 bytes, M is 1024K, and G is 1024M
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = TOGETHER)]
    pub(crate) memory: Option<u64>,
    /// Swap, if there is a limit of memory; 0 for none
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = TOGETHER)]
    pub(crate) swap: Option<u64>,
    /// Processes and threads at once
    #[arg(long, value_name = "N", value_parser = whole, help_heading = TOGETHER)]
    pub(crate) pids: Option<u32>,
    /// Processor time, in processors: 0.5 is half of one
    #[arg(long, value_name = "N", value_parser = millis, help_heading = TOGETHER)]
    pub(crate) cpu: Option<u32>,
    /// Share of the processors where others want them too: 1 to 10000, others have 100
    #[arg(long, value_name = "N", value_parser = number::<u16>(1..=10_000), help_heading = TOGETHER)]
    pub(crate) cpu_weight: Option<u16>,
    /// The processors to run on, as in 0-1,3
    #[arg(long, value_name = "LIST", help_heading = TOGETHER)]
    pub(crate) cpus: Option<String>,
    /// Bytes a second that are read from the disk of the package, and from that of the data dir if
    /// it is another, as in 10M; at least 64K
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = TOGETHER)]
    pub(crate) io_read: Option<u64>,
    /// Bytes a second that are written there; with cgroups of version 2 only
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = TOGETHER)]
    pub(crate) io_write: Option<u64>,
    /// Print the rocker's name and return: the App stays until "rocker kill", or until all
    /// processes in its rocker have ended; "rocker wait" tells how it ends. Takes a rocker-master
    #[arg(long, conflicts_with_all = ["json", "report"], help_heading = DETACHED)]
    pub(crate) detach: bool,
    /// A regular file for its standard input, no link [default: /dev/null]
    #[arg(long, value_name = "FILE", requires = "detach", help_heading = DETACHED)]
    pub(crate) stdin: Option<PathBuf>,
    /// A regular file to append its standard output to, no link, made if it is not there [default:
    /// /dev/null]
    #[arg(long, value_name = "FILE", requires = "detach", help_heading = DETACHED)]
    pub(crate) stdout: Option<PathBuf>,
    /// The same for standard error
    #[arg(long, value_name = "FILE", requires = "detach", help_heading = DETACHED)]
    pub(crate) stderr: Option<PathBuf>,
    /// Print every step of the launch, with its microseconds, as a shell command
    #[arg(long)]
    pub(crate) trace: bool,
    /// Write the steps and the result to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Say how it ended in one line of JSON on standard error
    #[arg(long)]
    pub(crate) json: bool,
    /// The squashfs package
    pub(crate) package: PathBuf,
    /// What to run in it: a name is looked up in PATH, a relative path begins at the working
    /// directory [default: the manifest's entry and args]
    #[arg(last = true, value_name = "ARGV")]
    pub(crate) argv: Vec<OsString>,
}

#[derive(Args, Debug)]
pub(crate) struct Exec {
    /// A variable for the program; it has none of yours but TERM and LANG
    #[arg(long, value_name = "K=V")]
    pub(crate) env: Vec<OsString>,
    /// Where the program starts [default: the exec dir]
    #[arg(long, value_name = "D")]
    pub(crate) cwd: Option<PathBuf>,
    /// Give the program a terminal of its own, and pass this one through to it [default: what it
    /// writes is shown on this one, and it reads nothing that is typed]
    #[arg(long)]
    pub(crate) tty: bool,
    /// Kill the program when it has run for so long, as in 500ms or 3s
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) wall: Option<Duration>,
    /// Where the master listens [default: $ROCKER_SOCKET, else /run/rocker/master.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Say how it ended in one line of JSON on standard error
    #[arg(long)]
    pub(crate) json: bool,
    /// The rocker's name, or the beginning of it if no other begins so
    pub(crate) name: String,
    /// What to run in it, as the rocker's user: a name is looked up in PATH, a relative path
    /// begins at the working directory
    #[arg(last = true, required = true, value_name = "ARGV")]
    pub(crate) argv: Vec<OsString>,
}

#[cfg(test)]
impl Run {
    /// What `rocker run` is told by these words.
    pub(crate) fn of(words: &str) -> Self {
        let words = ["rocker", "run"].into_iter().chain(words.split_whitespace());
        let Launching::Run(run) = Cli::<Launching>::try_parse_from(words).unwrap().command;
        *run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        <Cli>::command().debug_assert();
    }

    #[test]
    fn what_follows_the_dashes_is_the_apps() {
        assert_eq!(Run::of("--uid 1000 x.sqfs -- sh -c --uid").argv, ["sh", "-c", "--uid"]);
        assert!(<Cli>::try_parse_from(["rocker", "run", "x.sqfs", "sh"]).is_err());
    }

    #[test]
    fn what_is_described_alone_is_the_same() {
        use clap::CommandFactory as _;
        let help = |mut command: clap::Command| {
            command.build();
            command.find_subcommand_mut("run").unwrap().render_help().to_string()
        };
        assert_eq!(help(Cli::<Launching>::command()), help(<Cli>::command()));
    }
}
