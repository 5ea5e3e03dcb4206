//! The root daemon: reads its configuration, takes the guard's program, and serves.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use master::event_loop::Master;
use master::{guard_binary, heap, policy};

// What std needs of libgcc for a stack trace becomes a part of the program: to load, relocate and
// initialise the shared one takes a fifth of a start (ARCHITECTURE.md).
#[cfg(all(target_env = "gnu", not(target_feature = "crt-static")))]
#[allow(unsafe_code, reason = "it declares nothing, and is there to link")]
#[link(name = "gcc_eh", kind = "static", modifiers = "-bundle")]
unsafe extern "C" {}

const HELP: &str = "\
rocker-master: the root daemon that makes rockers

usage: rocker-master [--config FILE] [--socket PATH]

  --config FILE          policy and limits (default: /etc/rocker/master.toml, if it is there)
  --socket PATH          where to listen (default: /run/rocker/master.sock)
  --connection-on-stdin  serve the one launch whose connection is standard input, then end
  --version              print the version
  --help                 print this

An App has the default filter of system calls and no user namespaces of its own. A user for whom
the configuration says `unconfined = true` may ask for other filters or none, and for namespaces.

Rockers do not need the master once they live: it can be stopped (SIGTERM) and started again.
";

#[derive(Default)]
struct Arguments {
    config: Option<PathBuf>,
    socket: Option<PathBuf>,
    connection_on_stdin: bool,
}

fn main() -> ExitCode {
    // Both are set once and before anything is logged.
    let _ = log::set_logger(&StandardError);
    log::set_max_level(log::LevelFilter::Info);
    let mut arguments = Arguments::default();
    let mut given = std::env::args_os().skip(1).flat_map(apart);
    while let Some(argument) = given.next() {
        match argument.to_str() {
            Some("--config") => match given.next() {
                Some(file) => arguments.config = Some(file.into()),
                None => return wrong("--config needs a FILE"),
            },
            Some("--socket") => match given.next() {
                Some(path) => arguments.socket = Some(path.into()),
                None => return wrong("--socket needs a PATH"),
            },
            Some("--connection-on-stdin") => arguments.connection_on_stdin = true,
            Some("--version") => {
                return print(&format!("rocker-master {}\n", env!("CARGO_PKG_VERSION")));
            }
            Some("--help" | "-h") => return print(HELP),
            _ => return wrong(&format!("unknown argument {}", argument.display())),
        }
    }
    match serve(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            log::error!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// `--config=FILE` as `--config FILE`.
fn apart(word: OsString) -> Vec<OsString> {
    for name in ["--config", "--socket"] {
        let value = word.as_bytes().strip_prefix(name.as_bytes());
        if let Some(value) = value.and_then(|rest| rest.strip_prefix(b"=")) {
            return vec![name.into(), OsStr::from_bytes(value).to_owned()];
        }
    }
    vec![word]
}

fn serve(arguments: &Arguments) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("cannot start: it must run as root".to_owned());
    }
    // Whatever the rights of its caller's files, those of a rocker's are said where it is made.
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    let mut config = policy::read_config(arguments.config.as_deref())?;
    if let Some(socket) = &arguments.socket {
        config.socket.clone_from(socket);
    }
    let guard = guard_binary::take(config.guard.as_deref()).map_err(|error| error.to_string())?;
    if arguments.connection_on_stdin {
        let connection = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3)
            .and_then(|connection| {
                rustix::stdio::dup2_stdin(std::io::stdout()).map(|()| connection)
            })
            .map_err(|error| format!("cannot take the connection: {error}"))?;
        return Master::serve_one(config, guard, connection)?.run();
    }
    heap::keep_small();
    let socket = config.socket.clone();
    let mut master = Master::listen(config, guard)?;
    log::info!("listening on {}", socket.display());
    master.run()
}

fn wrong(what: &str) -> ExitCode {
    log::error!("{what}; see --help");
    ExitCode::from(2)
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Log lines go to standard error, where every supervisor takes them from.
struct StandardError;

impl log::Log for StandardError {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = record.args().to_string();
            // There is nowhere to say that this could not be said.
            let _ = writeln!(std::io::stderr(), "rocker-master: {}", line(&text));
        }
    }

    fn flush(&self) {}
}

/// One line, whatever callers have named; and after the kernel's words "(os error 2)" says nothing
/// more.
fn line(text: &str) -> String {
    let is_number = |tail: &str| tail.bytes().all(|byte| byte.is_ascii_digit());
    let words = text
        .strip_suffix(')')
        .and_then(|text| text.rsplit_once(" (os error "))
        .map_or(text, |(words, tail)| if is_number(tail) { words } else { text });
    let mut line = String::with_capacity(words.len());
    for char in words.chars() {
        if char.is_control() {
            line.extend(char.escape_default());
        } else {
            line.push(char);
        }
    }
    line
}
