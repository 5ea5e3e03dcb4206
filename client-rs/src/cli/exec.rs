//! `rocker exec`: one more program in a living rocker, started by its guard.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use rocker_client::{Limits, OpenRocker, Program};

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
        false => (program, None),
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
    let (terminal, theirs) = Terminal::new(uid)?;
    let again = || theirs.try_clone().map_err(|error| Fault::refused("make a terminal", &error));
    let program = program.stdin(again()?).stdout(again()?).stderr(theirs).terminal();
    Ok((program, terminal))
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
