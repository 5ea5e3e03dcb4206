//! The command line: what people type, on top of the library.
//!
//! ```text
//! args      what can be said
//! run       rocker run: from words to a launch to an exit status
//! places    --tmpfs and its like
//! judge     rocker judge
//! identity  users and groups by name or number
//! embedded  a master for one launch, where there is none
//! terminal  rocker exec --tty
//! vigil     waiting for a rocker's end, signals in hand
//! report    the launch as text and as JSON
//! exec      rocker exec
//! wait      rocker wait
//! living    rocker ps, rocker kill
//! stats     rocker stats
//! copy      rocker cp
//! temporary a file until it is whole
//! pack      rocker pack
//! manifest  rocker.toml
//! profile   --seccomp FILE
//! json      what is wrong with a text in JSON
//! doctor    rocker doctor
//! units     times and sizes, as people write them
//! ```
//!
//! What args, run, identity and vigil do for a plain `rocker run` of root's, and report for its exit
//! status, `client-c/command` does once more: test `command` holds both together.

mod args;
mod copy;
mod doctor;
mod embedded;
mod exec;
mod identity;
mod json;
mod judge;
mod living;
mod manifest;
mod pack;
mod places;
mod profile;
mod report;
mod run;
mod stats;
mod temporary;
mod terminal;
mod units;
mod vigil;
mod wait;

use core::fmt;
use core::num::NonZero;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use args::{Cli, Command, JudgeCommand, Launching};

/// The exit status when ROCKER itself failed, as of `env`, `timeout` and container engines.
const STATUS_ROCKER: u8 = 125;

/// The exit status when nobody reads what is printed: as a shell has it of whom `SIGPIPE` ends. It
/// ends nobody here, where a rocker would be left.
const STATUS_UNREAD: u8 = 128 + 13;

/// Why a command failed.
#[derive(Debug)]
enum Fault {
    /// At a step of a launch, or when the master was asked.
    Client(rocker_client::Error),
    /// Before there was any, in one line.
    Said(String),
    /// Standard output is a pipe that nobody reads any more: who did has read enough.
    Unread,
}

impl Fault {
    /// `cannot {what}: {why}`
    fn cannot(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::Said(format!("cannot {what}: {why}"))
    }

    /// The same, with the kernel's words alone: "(os error 2)" says nothing more.
    fn refused(what: impl fmt::Display, why: &io::Error) -> Self {
        Self::cannot(what, words(why))
    }
}

/// The kernel's words where the error is the kernel's.
fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(raw) => nix::errno::Errno::from_raw(raw).desc().to_owned(),
        None => error.to_string(),
    }
}

impl From<rocker_client::Error> for Fault {
    fn from(error: rocker_client::Error) -> Self {
        Self::Client(error)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => error.fmt(f),
            Self::Said(line) => f.write_str(line),
            Self::Unread => f.write_str("nobody reads standard output"),
        }
    }
}

pub(crate) fn main() -> ExitCode {
    let command = match Cli::typed() {
        Ok(command) => command,
        Err(error) => return misspelt(&error),
    };
    let done = match command {
        Command::Launching(Launching::Run(args)) => return run::run(&args),
        Command::Exec(args) => return exec::exec(&master_socket(args.socket.clone()), &args),
        Command::Wait { socket, json, name } => {
            return wait::wait(&master_socket(socket), &name, json);
        }
        Command::Pack { dir, package, compression, block_size, jobs } => {
            let mut options = pack::Options { compression, ..pack::Options::default() };
            if let Some(size) = block_size {
                options.block_size = size;
            }
            if let Some(jobs) = jobs.and_then(|jobs| NonZero::new(jobs.into())) {
                options.jobs = jobs;
            }
            pack(&dir, &package, options)
        }
        Command::Judge(args) => match (&args.command, &args.package) {
            (Some(JudgeCommand::Run(run)), _) => judge::run(run),
            (None, Some(package)) => judge::serve(&args, package),
            (None, None) => Err(Fault::Said("no package is given".to_owned())),
        },
        Command::Ps { socket, json } => living::ps(&master_socket(socket), json),
        Command::Cp { socket, max_size, from, to } => {
            copy::copy(&master_socket(socket), &from, &to, max_size)
        }
        Command::Stats { socket, json, name } => {
            stats::stats(&master_socket(socket), name.as_deref(), json)
        }
        Command::Kill { signal, socket, names } => {
            living::kill(&master_socket(socket), &names, signal)
        }
        Command::Doctor { socket, json } => doctor(named_socket(socket).as_deref(), json),
    };
    status(done)
}

fn status(done: Result<ExitCode, Fault>) -> ExitCode {
    done.unwrap_or_else(|fault| match fault {
        Fault::Unread => ExitCode::from(STATUS_UNREAD),
        fault => {
            complain(&fault);
            ExitCode::from(STATUS_ROCKER)
        }
    })
}

/// Help goes to standard output as clap has it; an error becomes one line like all others.
fn misspelt(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return status(written(error.print()).map(|()| ExitCode::SUCCESS));
    }
    let line = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "no command is given".to_owned(),
        _ => {
            let text = error.render().to_string();
            if let Some(why) = misplaced(error) {
                return status(Err(Fault::Said(why)));
            }
            let first = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
            let line = first.collect::<Vec<_>>().join(" ");
            // Not how to say the same where it has another meaning: that is the other tip there is.
            let tip = text.lines().filter_map(|line| line.trim().strip_prefix("tip: "));
            let meant = tip.filter(|tip| tip.contains(" similar ")).map(|tip| format!(": {tip}"));
            line.trim_start_matches("error: ").to_owned() + &meant.collect::<String>()
        }
    };
    complain(&format_args!("{line}; see {} --help", verb()));
    ExitCode::from(STATUS_ROCKER)
}

/// A word after the package or the rocker that no option is: the program, most likely.
fn misplaced(error: &clap::Error) -> Option<String> {
    let word = match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(word) if error.kind() == ErrorKind::UnknownArgument => word,
        _ => return None,
    };
    let verb = verb();
    let runs = ["rocker run", "rocker exec", "rocker judge run"].contains(&verb.as_str());
    (runs && !word.starts_with('-'))
        .then(|| format!("unexpected {word:?}: put -- before the program; see {verb} --help"))
}

/// What of the command line names a command that has a help of its own.
fn verb() -> String {
    let (mut command, mut verb) = (<Cli>::command(), "rocker".to_owned());
    for word in std::env::args_os().skip(1) {
        let Some(found) = command.find_subcommand(word) else { break };
        verb = format!("{verb} {}", found.get_name());
        command = found.clone();
    }
    verb
}

fn complain(what: &dyn fmt::Display) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "rocker: {}", plain(&what.to_string()));
}

/// What a terminal shows and does not obey: names come from packages and other users, and may
/// hold control characters and changes of direction.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for char in text.chars() {
        let turns = matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match char.is_control() || turns {
            true => plain.extend(char.escape_default()),
            false => plain.push(char),
        }
    }
    plain
}

/// Writes to standard output, at once and whole.
fn write_out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// The same for what nobody is wronged by who reads no further.
fn print(text: &str) -> Result<ExitCode, Fault> {
    written(write_out(text)).map(|()| ExitCode::SUCCESS)
}

/// What came of it where it went to standard output.
fn written(result: io::Result<()>) -> Result<(), Fault> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Fault::Unread,
        _ => Fault::refused("write to standard output", &error),
    })
}

/// `--socket`, else `$ROCKER_SOCKET`.
fn named_socket(socket: Option<PathBuf>) -> Option<PathBuf> {
    let environment = || std::env::var_os("ROCKER_SOCKET").filter(|path| !path.is_empty());
    socket.or_else(|| environment().map(PathBuf::from))
}

fn master_socket(socket: Option<PathBuf>) -> PathBuf {
    named_socket(socket).unwrap_or_else(|| rocker_client::SOCKET.into())
}

fn pack(dir: &Path, package: &Path, options: pack::Options) -> Result<ExitCode, Fault> {
    let packed =
        pack::pack(dir, package, options).map_err(|error| Fault::Said(error.to_string()))?;
    let pack::Packed { files, bytes_in, bytes_out } = packed;
    let percent = (bytes_out * 100).checked_div(bytes_in).unwrap_or(100);
    let [from, to] = [bytes_in, bytes_out].map(units::sized);
    let package = package.display();
    let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
    print(&format!("{package}: {files}, {from} -> {to} ({percent} %)\n"))
}

fn doctor(socket: Option<&Path>, json: bool) -> Result<ExitCode, Fault> {
    let findings = doctor::examine(socket);
    let text = match json {
        true => {
            let text = serde_json::to_string_pretty(&findings);
            text.map_err(|error| Fault::cannot("print the findings", error))? + "\n"
        }
        false => doctor::table(&findings),
    };
    print(&text)?;
    let missing = findings.iter().any(|finding| finding.state == doctor::State::Missing);
    Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
