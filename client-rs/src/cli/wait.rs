//! `rocker wait`: the end of an App whose launcher has left it, as its guard tells it.

use std::path::Path;
use std::process::ExitCode;

use protocol::socket::{now_ns, wait_readable};
use protocol::{Errno, Error as Kind, Loss};
use rocker_client::{Error, OpenRocker};

use super::living::{ANSWER_MAX, by_beginning};
use super::report::{self, Ending, Lived};
use super::{Fault, complain, print, status};

const BUSY: Errno = Errno(16);

/// How long a rocker in which nothing is left may take to be gone.
const GONE_NS: u64 = 1_000_000_000;

pub(crate) fn wait(socket: &Path, beginning: &str, json: bool) -> ExitCode {
    let mut lived = None;
    let ending = attempt(socket, beginning, &mut lived);
    if json {
        // Its own outputs are elsewhere.
        let line = format!("{}\n", report::result(lived.as_ref(), &ending));
        if let Err(fault) = print(&line) {
            return status(Err(fault));
        }
    } else if let Err(fault) = &ending {
        complain(fault);
    } else if let Some(why) = lived.and_then(|it| it.told).and_then(|it| report::killed_for(&it)) {
        complain(&why);
    }
    report::exit_code(&ending)
}

fn attempt(socket: &Path, beginning: &str, lived: &mut Option<Lived>) -> Result<Ending, Fault> {
    let name = by_beginning(socket, beginning)?.name;
    let said = |error: Error| match (error.kind(), error.errno()) {
        (Kind::Lost { how: Loss::Died, .. }, _) => {
            Fault::Said(format!("rocker {name}: it was killed, and its App with it"))
        }
        (_, Some(Errno::SRCH)) => Fault::Said(format!(
            "rocker {name}: it has no App to wait for: that has ended, or was started without --detach"
        )),
        (_, Some(BUSY)) => {
            Fault::Said(format!("rocker {name}: somebody waits for its App already"))
        }
        _ => error.into(),
    };
    let mut rocker = OpenRocker::attach(socket, name.as_str(), ANSWER_MAX)?;
    let app = rocker.adopt().map_err(said)?;
    let lived = lived.insert(Lived::by_guard(&rocker, &app));
    let told = rocker.wait(&app).map_err(said)?;
    lived.told = Some(told);
    // The data dir is free when the rocker is gone, which lives on with what the App has left.
    let _ = wait_readable(rocker.guard_pidfd(), now_ns().saturating_add(GONE_NS));
    Ok(told.exit.into())
}
