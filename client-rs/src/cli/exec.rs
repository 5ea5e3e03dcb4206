//! `rocker exec`: one more program in a living rocker, started by its guard.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use rocker_client::{Limits, OpenRocker, Program, Stdio};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::isatty;

use super::args::Exec;
use super::living::{ANSWER_MAX, by_beginning};
use super::report::{self, Ending, Lived};
use super::run::{default_environment, said_environment};
use super::terminal::Terminal;
use super::vigil::{Signals, until_told};
use super::{Fault, complain};

pub(crate) fn exec(socket: &Path, args: &Exec) -> ExitCode {
    let mut lived = None;
    let ending = attempt(socket, args, &mut lived);
    if args.json {
        let _ = writeln!(io::stderr(), "{}", report::result(lived.as_ref(), &ending));
    } else if let Err(fault) = &ending {
        complain(fault);
    }
    report::exit_code(&ending)
}

fn attempt(socket: &Path, args: &Exec, lived: &mut Option<Lived>) -> Result<Ending, Fault> {
    let program = program(args)?;
    let limits = args.wall.into_iter().fold(Limits::new(), Limits::wall);
    let signals = Signals::take().map_err(|error| Fault::refused("take signals", &error))?;
    let entry = by_beginning(socket, &args.name)?;
    let mut rocker = OpenRocker::attach(socket, entry.name.as_str(), ANSWER_MAX)?;
    let (program, terminal) = match args.tty {
        true => on_terminal(program, entry.uid).map(|(program, it)| (program, Some(it)))?,
        false => beside_terminal(program, entry.uid)?,
    };
    let run = rocker.spawn(&program, &limits)?;
    // The program's end of the terminal is the program's alone.
    drop(program);
    let lived = lived.insert(Lived::by_guard(&rocker, &run));
    let told = match terminal {
        Some(terminal) => terminal.until_told(&mut rocker, &run, &signals)?,
        None => until_told(&mut rocker, &run, &signals)?,
    };
    lived.told = Some(told);
    if let Some(why) = report::killed_for(&told).filter(|_| !args.json) {
        complain(&why);
    }
    Ok(told.exit.into())
}

fn on_terminal(program: Program, uid: u32) -> Result<(Program, Terminal), Fault> {
    let (terminal, theirs) = Terminal::passed_through(uid)?;
    let program = program.stdin(again(&theirs)?).stdout(again(&theirs)?).stderr(theirs).terminal();
    Ok((program, terminal))
}

/// Each of the program's three that would be this terminal is another: it reads nothing, and what
/// it writes is shown here.
fn beside_terminal(mut program: Program, uid: u32) -> Result<(Program, Option<Terminal>), Fault> {
    if isatty(stdin()) {
        program = program.stdin(Stdio::Null);
    }
    let Some(this) = [stdout(), stderr()].into_iter().find(|fd| isatty(fd)) else {
        return Ok((program, None));
    };
    let (terminal, theirs) = Terminal::shown_at(this, uid)?;
    if isatty(stdout()) {
        program = program.stdout(again(&theirs)?);
    }
    if isatty(stderr()) {
        program = program.stderr(theirs);
    }
    Ok((program, Some(terminal)))
}

fn again(theirs: &OwnedFd) -> Result<OwnedFd, Fault> {
    theirs.try_clone().map_err(|error| Fault::refused("make a terminal", &error))
}

fn program(args: &Exec) -> Result<Program, Fault> {
    let Some((path, rest)) = args.argv.split_first() else {
        unreachable!("ARGV is required");
    };
    // Where the App keeps its data is known to whoever has launched it, and not here.
    let program = default_environment(Program::new(path).args(rest), Path::new("/"));
    let program = said_environment(program, &args.env)?;
    Ok(args.cwd.iter().fold(program, Program::cwd))
}
