//! Errors, actions and outcomes in the words of the diagrams: the lines of a transcript.

use core::fmt::Debug;

use protocol::{Errno, Error, Exit, Loss, Name, Package};

use crate::kernel::Record;
use crate::message::Body;
use crate::scene::{EXEC_DIR, HOST_MOUNT, Launch, Place, Terms};

/// `EBUSY` for 16.
pub(crate) fn errno_name(errno: Errno) -> String {
    rocker_client::errno_name(errno)
}

/// An error with its errno's name instead of its number.
pub(crate) fn error(error: Error) -> String {
    match error {
        Error::Failed { step, errno } => {
            format!("cannot {} ({step}): {}", step.purpose(), errno_name(errno))
        }
        other => other.to_string(),
    }
}

/// How a program ended.
pub(crate) fn exit(how: Exit) -> String {
    match how {
        Exit::Status(status) => format!("status {status}"),
        Exit::Signal(signal) => format!("signal {signal}"),
    }
}

/// What a caller orders.
pub(crate) fn order(body: Body) -> String {
    match body {
        Body::Exec { id, terms: Terms { wall_ms: 0, .. }, .. } => format!("exec {id}"),
        Body::Exec { id, terms: Terms { wall_ms, .. }, .. } => {
            format!("exec {id}, for {wall_ms} ms")
        }
        Body::Go { id } => format!("go {id}"),
        Body::Signal { id: Some(id), signal } => format!("signal {signal} for {id}"),
        Body::Signal { id: None, signal } => format!("signal {signal} for all"),
        Body::Do { id, order } => format!("{} {id}", plain(order)),
        _ => "ping".to_owned(),
    }
}

fn lost(how: Loss) -> String {
    format!("lost: {how}")
}

/// A variant's name and fields in small letters, for outcomes that need no other words.
fn plain(it: impl Debug) -> String {
    let text = format!("{it:?}");
    let mut words = String::new();
    for (index, letter) in text.char_indices() {
        if letter.is_uppercase() && index > 0 && !words.ends_with(' ') {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

/// What a guard did, and what came of it.
pub(crate) fn guard(
    before: guard::machine::State,
    outcome: guard::machine::Outcome,
    scene: Option<&Launch>,
    launch: usize,
) -> String {
    use guard::machine::State;
    let id = scene.map_or(0, |scene| scene.id(launch));
    let places = |index: u16| scene.and_then(|scene| scene.places().nth(usize::from(index)));
    let did = match before {
        State::AwaitRequest => "recvmsg # the request, with descriptors".to_owned(),
        State::IsolateMounts { .. } => "unshare --ipc; mount --make-rprivate /".to_owned(),
        State::CreateLoop { .. } => "losetup --find".to_owned(),
        State::BindPackage { loop_dev, .. } => {
            format!("losetup --read-only /dev/loop{loop_dev} app{launch}.sqfs")
        }
        State::MountPackage { loop_dev, .. } => {
            format!("mount -t squashfs -o ro /dev/loop{loop_dev} # nowhere yet")
        }
        State::SharePackage { .. } => "sendmsg # to the master: the mount".to_owned(),
        State::ReusePackage { loop_dev, .. } => {
            format!("mount --bind package # on /dev/loop{loop_dev}, nowhere yet")
        }
        State::ListTopDirs => {
            let dirs = scene.map(Launch::directories).unwrap_or_default();
            format!("realpath {}", dirs.join(" "))
        }
        State::BuildOverlay { layer, .. } => {
            format!("mount -t overlay overlay # layer {layer}, nowhere yet")
        }
        State::MountOverlay { place, .. } => match places(place) {
            Some(Place::Directory { at }) => format!("mount --bind overlay:{at} {at}"),
            Some(Place::HostMount) => format!("mount --rbind -o ro {HOST_MOUNT} {HOST_MOUNT}"),
            None => "mount --bind".to_owned(),
        },
        State::AttachPackage => format!("mount --move package {EXEC_DIR}"),
        State::RemountProc => "mount -t proc proc /proc".to_owned(),
        State::TakeAppIds => format!("setpriv --clear-groups --regid {id} --reuid {id}"),
        State::UnshareUser => "unshare --user".to_owned(),
        State::DropPrivileges => "setpriv --bounding-set -all --no-new-privs".to_owned(),
        State::ReportDone => "sendmsg # to the master: done".to_owned(),
        State::AwaitRelease => "recvmsg # from the master".to_owned(),
        State::SendEntrance => "sendmsg # to the caller: entrance, with a pidfd".to_owned(),
        State::AwaitApp => "recvmsg # from the caller: the App's pidfd".to_owned(),
        State::Listen => "poll # orders, ends, lateness".to_owned(),
        State::StartProgram { .. } => "exec # the program".to_owned(),
        State::ReportStarted { id, .. } => format!("sendmsg # to the caller: program {id} runs"),
        State::ReportNotStarted { id, error: it, .. } => {
            format!("sendmsg # to the caller: program {id}: {}", error(it))
        }
        State::SendSignal { id: Some(id), signal, .. } => format!("kill -{signal} # program {id}"),
        State::LetGo { id, .. } => format!("go # program {id}"),
        State::SendSignal { id: None, signal, .. } => format!("kill -{signal} -- -1"),
        State::Answer { .. } => "sendmsg # to the caller: here".to_owned(),
        State::Welcome { .. } => "sendmsg # to another: it may give orders".to_owned(),
        State::TurnAway => "sendmsg # to another: too many do".to_owned(),
        State::CarryOut { order, .. } => format!("{} # as ordered", plain(order)),
        State::Bury { .. } => "wait # for all that was killed".to_owned(),
        State::BuildView { .. } => "mount # what was configured".to_owned(),
        State::RunInit { .. } => "exec # the init command, to its end".to_owned(),
        State::ReportObeyed { id, .. } => format!("sendmsg # to the caller: {id} is done"),
        State::HangUp { peer, .. } => format!("close # the connection of peer {}", peer.0),
        State::KillLate => "kill -KILL # whatever is late".to_owned(),
        State::Reap => "wait # whoever has ended".to_owned(),
        State::ReportExit { .. } => "sendmsg # to the caller: how that ended".to_owned(),
        State::FindStrangers => "ls /proc # is anybody there?".to_owned(),
        State::Rest => "sleep 1".to_owned(),
        State::Settle { is_alone: true } => "sync -f .rocker".to_owned(),
        State::Settle { .. } => "kill -KILL -1; sync -f .rocker".to_owned(),
        State::ReportFailure(it) => format!("sendmsg # to the caller: {}", error(it)),
        State::Ended(_) => String::new(),
    };
    format!("{did} -> {}", came_of_guard(outcome))
}

fn came_of_guard(outcome: guard::machine::Outcome) -> String {
    use guard::machine::Outcome;
    match outcome {
        Outcome::Done | Outcome::RequestIs { .. } => "ok".to_owned(),
        Outcome::LoopIs(number) => format!("/dev/loop{number}"),
        Outcome::DirsAre { layers, places } => format!("{layers} layers, {places} places"),
        Outcome::Exec { id, .. } => format!("exec {id}"),
        Outcome::Signal { id: Some(id), signal, .. } => format!("signal {signal} for {id}"),
        Outcome::Signal { id: None, signal, .. } => format!("signal {signal} for all"),
        Outcome::Ping { .. } => "ping".to_owned(),
        Outcome::Order { id, order, .. } => format!("{} {id}", plain(order)),
        Outcome::Attached { peer } => format!("peer {} is there", peer.0),
        Outcome::PeerLost { peer } => format!("peer {} is lost", peer.0),
        Outcome::Exited { .. } => "a program has ended".to_owned(),
        Outcome::Failed(errno) => errno_name(errno),
        Outcome::Lost(how) => lost(how),
        Outcome::Refused(it) => error(it),
        other => plain(other),
    }
}

/// What a session of the master did, and what came of it.
pub(crate) fn session(
    before: master::machine::State,
    outcome: master::machine::Outcome,
    rocker: Option<Record>,
    scene: Option<&Launch>,
    launch: Option<usize>,
) -> String {
    use master::machine::{Outcome, State};
    let id = scene.zip(launch).map_or(0, |(scene, launch)| scene.id(launch));
    let number = launch.unwrap_or(0);
    let guard = rocker.map_or(0, |rocker| rocker.guard);
    let name = rocker.map_or(Name::from_random(0), |rocker| rocker.name);
    let did = match before {
        State::AwaitRequest => "recvmsg # from the caller".to_owned(),
        State::CheckCaller { .. } => "id # may it?".to_owned(),
        State::OpenPackage { .. } => format!("open app{number}.sqfs"),
        State::LockDataDir { .. } => "mkdir -m 700 .rocker; flock .rocker".to_owned(),
        State::FindMount => "findmnt --types squashfs".to_owned(),
        State::MakeCgroup => "cgcreate # with its limits".to_owned(),
        State::CloneGuard => "unshare --mount --pid --fork rocker-guard".to_owned(),
        State::HandOver { .. } => "sendmsg # to the guard, with descriptors".to_owned(),
        State::AwaitMount => "recvmsg # from the guard: the mount".to_owned(),
        State::AwaitDone => "recvmsg # from the guard".to_owned(),
        State::DenySetgroups => format!("echo deny > /proc/{guard}/setgroups"),
        State::WriteUidMap => format!("echo {id} {id} 1 > /proc/{guard}/uid_map"),
        State::WriteGidMap => format!("echo {id} {id} 1 > /proc/{guard}/gid_map"),
        State::RecordRocker => format!("echo {guard} > rockers/{name}"),
        State::ReleaseGuard => "sendmsg # to the guard: go on".to_owned(),
        State::AwaitApp => "recvmsg # from the guard: its end of the pair".to_owned(),
        State::AwaitExit => format!("wait {guard}"),
        State::FreeResidue => format!("rm rockers/{name}"),
        State::Refuse { error: it, .. } => format!("sendmsg # to the caller: {}", error(it)),
        State::StopGuard(it) => format!("sendmsg # to the guard: {}", error(it)),
        State::KillGuard => format!("kill -KILL {guard}"),
        State::Ended(_) => String::new(),
    };
    let came = match outcome {
        Outcome::Done | Outcome::RequestIs { .. } => "ok".to_owned(),
        Outcome::PackageIs(Package::Own) => "not mounted".to_owned(),
        Outcome::PackageIs(Package::First) => "not mounted, be the first".to_owned(),
        Outcome::PackageIs(Package::Shared { loop_dev }) => format!("on /dev/loop{loop_dev}"),
        Outcome::Lost(Loss::Died) if before == State::AwaitApp => "closed".to_owned(),
        Outcome::Failed(errno) => errno_name(errno),
        Outcome::Lost(how) => lost(how),
        Outcome::Refused(it) => error(it),
        other => plain(other),
    };
    format!("{did} -> {came}")
}

/// What a client did, and what came of it.
pub(crate) fn client(
    action: rocker_client::action::Action,
    outcome: rocker_client::action::Outcome,
) -> String {
    use rocker_client::action::{Action, Outcome};
    let did = match action {
        Action::Connect => "connect /run/rocker/master.sock",
        Action::SendRequest => "sendmsg # to the master: the request",
        Action::AwaitEntrance => "recvmsg # the entrance",
        Action::ForkHelper => "clone # the helper",
        Action::AwaitApp => "waitid # for the helper",
        Action::ReportApp => "sendmsg # to the guard: the App's pidfd",
        Action::Greet => "sendmsg # to the guard: orders will come",
    };
    let came = match outcome {
        Outcome::Done => "ok".to_owned(),
        Outcome::Entrance { name, guard_pid } => format!("guard {guard_pid}, {name}"),
        Outcome::App { pid } => format!("App {pid}"),
        Outcome::Failed(errno) => errno_name(errno),
        Outcome::Lost(how) => lost(how),
        Outcome::Refused(it) => error(it),
    };
    format!("{did} -> {came}")
}

/// What a helper did, and what came of it.
pub(crate) fn helper(
    action: rocker_client::action::HelperAction,
    outcome: rocker_client::action::HelperOutcome,
    id: u32,
) -> String {
    use rocker_client::action::{HelperAction, HelperOutcome};
    let did = match action {
        HelperAction::DropGroups => "setpriv --clear-groups".to_owned(),
        HelperAction::JoinNamespaces => "nsenter --user --mount --pid --ipc".to_owned(),
        HelperAction::TakeIds => format!("setpriv --regid {id} --reuid {id}"),
        HelperAction::DropPrivileges => "setpriv --bounding-set -all --no-new-privs".to_owned(),
        HelperAction::EnterDirectory => format!("cd {EXEC_DIR}"),
        HelperAction::StartApp => "exec bin/app # as my brother".to_owned(),
    };
    let came = match outcome {
        HelperOutcome::Done => "ok".to_owned(),
        HelperOutcome::App { pid } => format!("App {pid}"),
        HelperOutcome::Failed(errno) => errno_name(errno),
    };
    format!("{did} -> {came}")
}
