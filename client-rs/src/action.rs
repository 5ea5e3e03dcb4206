//! What client and helper do, and what can come of it. Displayed, an action is the shell
//! command that would do the same, as far as there is one.

use core::fmt;

use protocol::request::Overlays;
use protocol::{Dev, Errno, Error, Loss, Name, Request, Step};

/// What the client does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Reach the master's socket.
    Connect,
    /// Send the request.
    SendRequest,
    /// Wait for the guard's pidfd, or for a failure.
    AwaitEntrance,
    /// Make the helper.
    ForkHelper,
    /// Wait for the helper's answer.
    AwaitApp,
    /// Send the App's pidfd to the guard.
    ReportApp,
    /// Tell the guard that orders will come.
    Greet,
}

impl Action {
    /// The arrow it belongs to.
    pub const fn step(self) -> Step {
        match self {
            Self::Connect | Self::SendRequest => Step::RequestRocker,
            Self::AwaitEntrance => Step::AwaitEntrance,
            Self::ForkHelper => Step::ForkHelper,
            // enter.2 and enter.3 are the helper's; this is where the client waits for them.
            Self::AwaitApp => Step::RunApp,
            Self::ReportApp => Step::ReportApp,
            Self::Greet => Step::RequestExec,
        }
    }
}

/// What can come of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// The guard sent the entrance.
    Entrance {
        /// The guard's name.
        name: Name,
        /// The guard's pid.
        guard_pid: u32,
    },
    /// The App runs.
    App {
        /// Its pid.
        pid: u32,
    },
    /// The kernel refused it.
    Failed(Errno),
    /// The peer is lost: master, guard or helper.
    Lost(Loss),
    /// Master, guard or helper report that the launch has failed.
    Refused(Error),
}

/// What the helper does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HelperAction {
    /// Drop the caller's supplementary groups.
    DropGroups,
    /// Join the guard's user, mount, pid and IPC namespaces.
    JoinNamespaces,
    /// Take the App's gid and uid, and see that they are taken.
    TakeIds,
    /// Drop every capability, for good.
    DropPrivileges,
    /// Go where the App starts.
    EnterDirectory,
    /// Clone the App as the caller's child.
    StartApp,
}

impl HelperAction {
    /// All, in their order.
    pub const ALL: [Self; 6] = [
        Self::DropGroups,
        Self::JoinNamespaces,
        Self::TakeIds,
        Self::DropPrivileges,
        Self::EnterDirectory,
        Self::StartApp,
    ];

    /// The arrow it belongs to.
    pub const fn step(self) -> Step {
        match self {
            Self::DropGroups | Self::JoinNamespaces => Step::JoinNamespaces,
            Self::TakeIds | Self::DropPrivileges | Self::EnterDirectory | Self::StartApp => {
                Step::RunApp
            }
        }
    }
}

/// What can come of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HelperOutcome {
    /// It is done.
    Done,
    /// The App runs.
    App {
        /// Its pid, as the caller sees it.
        pid: u32,
    },
    /// The kernel refused it.
    Failed(Errno),
}

/// What the words for an action are made of.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// The master's socket; none if a connection was given.
    pub socket: Option<&'a str>,
    /// What was asked for.
    pub request: &'a Request<'a>,
    /// Where the App starts.
    pub directory: &'a str,
    /// What is started.
    pub program: &'a str,
    /// The guard's pid, once it is known.
    pub guard_pid: u32,
    /// Whether the rocker has cgroups, once that is known.
    pub limited: bool,
}

/// An action as a command line.
#[derive(Clone, Copy, Debug)]
pub struct Shell<'a, A>(pub A, pub Scene<'a>);

impl fmt::Display for Shell<'_, Action> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(action, scene) = self;
        match action {
            Action::Connect => match scene.socket {
                Some(path) => write!(f, "connect {path}"),
                None => f.write_str("connect # given"),
            },
            Action::SendRequest => write_request(f, scene.request),
            Action::AwaitEntrance => f.write_str("recvmsg # from the guard, with its pidfd"),
            Action::ForkHelper => f.write_str("clone # the helper"),
            Action::AwaitApp => f.write_str("waitid # for the helper"),
            Action::ReportApp => f.write_str("sendmsg # to the guard, with the App's pidfd"),
            Action::Greet => f.write_str("sendmsg # to the guard"),
        }
    }
}

impl fmt::Display for Shell<'_, HelperAction> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(action, scene) = self;
        match action {
            HelperAction::DropGroups => f.write_str("setpriv --clear-groups"),
            HelperAction::JoinNamespaces => {
                if scene.limited {
                    f.write_str("echo 0 > cgroup.procs; ")?;
                }
                write!(f, "nsenter --target {} --user --mount --pid --ipc", scene.guard_pid)
            }
            HelperAction::TakeIds => {
                write!(f, "setpriv --reuid {} --regid {}", scene.request.uid, scene.request.gid)
            }
            HelperAction::DropPrivileges => {
                f.write_str("setpriv --ambient-caps -all --bounding-set -all --inh-caps -all ")?;
                f.write_str("--no-new-privs")?;
                f.write_str(if scene.request.options.landlock {
                    " --landlock-access fs"
                } else {
                    ""
                })
            }
            HelperAction::EnterDirectory => write!(f, "cd {}", scene.directory),
            HelperAction::StartApp => write!(f, "exec {}", scene.program),
        }
    }
}

fn write_request(f: &mut fmt::Formatter<'_>, request: &Request<'_>) -> fmt::Result {
    write!(f, "rocker run --app-id {} --uid {} ", request.app_id, request.uid)?;
    write!(f, "--gid {} --exec-dir {} ", request.gid, request.exec_dir)?;
    if let Some(dir) = request.data_dir {
        write!(f, "--data-dir {dir} ")?;
    }
    match &request.overlays {
        Overlays::Dirs(dirs) => dirs.iter().try_for_each(|dir| write!(f, "--overlay {dir} "))?,
        Overlays::AllTopDirs => f.write_str("--overlay auto ")?,
    }
    if request.options.volatile {
        f.write_str("--volatile ")?;
    }
    if request.options.dev == Dev::Host {
        f.write_str("--dev host ")?;
    }
    if request.options.landlock {
        f.write_str("--landlock ")?;
    }
    request.options.dev.named().flatten().try_for_each(|path| write!(f, "--device {path} "))?;
    write!(f, "{}", request.package)
}

#[cfg(test)]
mod tests {
    use protocol::{Ids, Path};

    use super::*;

    #[test]
    fn actions_read_as_commands() {
        let path = |text: &'static str| Path::new(text.as_bytes()).unwrap();
        let request = Request {
            app_id: 7,
            uid: 1000,
            gid: 1001,
            package: path("/apps/x.sqfs"),
            exec_dir: path("/x"),
            data_dir: Some(path("/d")),
            overlays: Overlays::Dirs(heapless::Vec::from_slice(&[path("/usr")]).unwrap()),
            ids: Ids::Identity,
            timeout_ms: 5000,
            trace: false,
            options: protocol::Options::default(),
        };
        let scene = Scene {
            socket: Some("/run/m.sock"),
            request: &request,
            directory: "/x",
            program: "bin/app",
            guard_pid: 70,
            limited: true,
        };
        for (action, words) in [
            (Action::Connect, "connect /run/m.sock"),
            (
                Action::SendRequest,
                "rocker run --app-id 7 --uid 1000 --gid 1001 --exec-dir /x --data-dir /d \
                 --overlay /usr /apps/x.sqfs",
            ),
            (Action::ReportApp, "sendmsg # to the guard, with the App's pidfd"),
        ] {
            assert_eq!(Shell(action, scene).to_string(), words);
        }
        for (action, words) in [
            (
                HelperAction::JoinNamespaces,
                "echo 0 > cgroup.procs; nsenter --target 70 --user --mount --pid --ipc",
            ),
            (HelperAction::TakeIds, "setpriv --reuid 1000 --regid 1001"),
            (HelperAction::EnterDirectory, "cd /x"),
            (HelperAction::StartApp, "exec bin/app"),
        ] {
            assert_eq!(Shell(action, scene).to_string(), words);
        }
    }
}
