//! What a guard does, as the commands of a shell: for errors and traces.

use core::fmt::Write as _;

use protocol::{ClientMessage, Command, Message, Overlays, Package, Request};

use super::{Linux, conf_in, exec_in};
use crate::action::Action;
use crate::{conf, programs};

/// In the command of prepare.6, where Landlock is asked for.
const WALL_WORDS: &str = " --landlock-access fs";

impl Linux<'_> {
    /// Writes the action as the shell command that would do the same.
    pub(super) fn describe(&mut self, action: Action) {
        let mut command = core::mem::take(&mut self.command);
        command.clear();
        if let (Action::AwaitRelease, false) = (action, self.words.is_empty()) {
            // What the master could not do, in its words.
            let _ = command.write_str(&self.words);
        } else if let (Action::ListTopDirs, false) = (action, self.words.is_empty()) {
            let _ = write!(command, "realpath {}", self.words);
        } else if let Some(launch) = &self.launch {
            // A Command takes any text.
            let _ = self.write_command(action, &launch.request, &mut command);
            if !self.words.is_empty() {
                let _ = write!(command, " [{}]", self.words);
            }
        }
        self.words.clear();
        self.command = command;
    }

    fn write_command(
        &self,
        action: Action,
        request: &Request<'_>,
        command: &mut Command,
    ) -> core::fmt::Result {
        let Request { package, exec_dir, uid, gid, .. } = request;
        match action {
            Action::AwaitRequest => command.write_str("recvmsg # the request, with descriptors"),
            Action::IsolateMounts if self.cgroups.is_empty() => {
                command.write_str("unshare --ipc; mount --make-rprivate /")
            }
            Action::IsolateMounts => {
                command.write_str("echo 0 > cgroup.procs; unshare --ipc; mount --make-rprivate /")
            }
            Action::FindFreeLoop => command.write_str("losetup --find"),
            Action::BindLoop { loop_dev } => {
                write!(command, "losetup --read-only /dev/loop{loop_dev} {package}")
            }
            Action::MountPackage { loop_dev } => {
                write!(command, "mount -t squashfs -o ro /dev/loop{loop_dev} {exec_dir}")
            }
            Action::SharePackage { .. } => {
                command.write_str("sendmsg # to the master, with the mount")
            }
            Action::ReusePackage { loop_dev } => {
                write!(command, "mount --bind package {exec_dir} # on /dev/loop{loop_dev}")?;
                match self.launch().package {
                    Package::Shared { .. } => {
                        command.write_str(", reused: no prepare.1, no prepare.2")
                    }
                    Package::Own | Package::First => Ok(()),
                }
            }
            Action::ListTopDirs => match &request.overlays {
                Overlays::AllTopDirs => command.write_str("realpath /*/"),
                Overlays::Dirs(dirs) => {
                    command.write_str("realpath")?;
                    dirs.iter().try_for_each(|dir| write!(command, " {dir}"))
                }
            },
            Action::BuildOverlay { layer } => {
                if let Some(data_dir) = request.data_dir {
                    let volatile = request.options.volatile;
                    self.building.plan.describe_layer(layer, data_dir, volatile, command);
                }
                Ok(())
            }
            Action::MountOverlay { place } => {
                self.building.plan.describe_place(place, command);
                Ok(())
            }
            Action::AttachPackage => write!(command, "mount --move package {exec_dir}"),
            Action::RemountProc => {
                command.write_str("mount -t proc -o nosuid,nodev,noexec proc /proc")?;
                match request.options.dev.is_own() {
                    true => command.write_str("; mount --move devices /dev"),
                    false => Ok(()),
                }
            }
            Action::TakeAppIds => {
                write!(command, "setpriv --clear-groups --regid {gid} --reuid {uid}")
            }
            Action::UnshareUser => command.write_str("unshare --user"),
            Action::DropPrivileges => {
                command.write_str("setpriv --inh-caps -all --bounding-set -all --no-new-privs")?;
                command.write_str(if request.options.landlock { WALL_WORDS } else { "" })
            }
            Action::ReportDone if self.is_kept => {
                command.write_str("sendmsg # to the master, with the overlays")
            }
            Action::ReportDone => command.write_str("sendmsg # to the master"),
            Action::AwaitRelease => command.write_str("recvmsg # from the master"),
            Action::SendEntrance => command.write_str("sendmsg # to the caller, with a pidfd"),
            Action::AwaitApp => command.write_str("recvmsg # from the caller, with a pidfd"),
            Action::Listen => command.write_str("recvmsg # from the caller"),
            Action::StartProgram { .. } => self.write_program(command),
            Action::SendSignal { signal, .. } => write!(command, "kill -{signal}"),
            Action::LetGo { .. } => command.write_str("go # for a program that waits"),
            Action::ReportStarted { .. } => {
                command.write_str("sendmsg # to the caller, with a pidfd")
            }
            Action::CarryOut { .. } => self.write_order(command),
            Action::Welcome { .. } => command.write_str("sendmsg # to the peer, with a pidfd"),
            Action::TurnAway => command.write_str("sendmsg # to the peer"),
            Action::Bury => command.write_str("wait # for all that was killed"),
            Action::BuildView | Action::RunInit => {
                match (self.conf_failed_at, self.conf.as_ref().and_then(conf_in)) {
                    (Some(at), Some(conf)) => conf::describe(at, &conf, command),
                    (Some(_), None) => command.write_str("unshare --ipc"),
                    (None, _) => Ok(()),
                }
            }
            Action::ReportObeyed { .. }
            | Action::ReportNotStarted { .. }
            | Action::Answer { .. }
            | Action::ReportExit { .. } => command.write_str("sendmsg # to the caller"),
            Action::HangUp { .. } => command.write_str("close # the caller's connection"),
            Action::KillLate => command.write_str("kill -9"),
            Action::Reap => command.write_str("wait"),
            Action::FindStrangers => command.write_str("ls /proc"),
            Action::Rest => command.write_str("sleep 1"),
            Action::Settle { is_alone: true } => command.write_str("sync -f .rocker"),
            Action::Settle { .. } => command.write_str("kill -9 -1; sync -f .rocker"),
            Action::ReportFailure(_) => Ok(()),
        }
    }

    /// The part of a program's start that failed.
    fn write_program(&self, command: &mut Command) -> core::fmt::Result {
        let Some((exec, _)) = exec_in(&self.order) else { return Ok(()) };
        programs::describe(self.failed_at, &exec, command)
    }

    /// What an order is about.
    fn write_order(&self, command: &mut Command) -> core::fmt::Result {
        match self.order.last() {
            Some(Message::Client(ClientMessage::Delete { path, tree: false, .. })) => {
                write!(command, "rm -d {path}")
            }
            Some(Message::Client(ClientMessage::Delete { path, .. })) => {
                write!(command, "rm -r {path}")
            }
            Some(Message::Client(ClientMessage::Symlink { target, path, .. })) => {
                write!(command, "ln -s {target} {path}")
            }
            Some(Message::Client(ClientMessage::Conf { .. })) => {
                command.write_str("configure # once, before the first program")
            }
            Some(Message::Client(ClientMessage::Reset { .. })) => command.write_str("kill -9 -1"),
            Some(Message::Client(ClientMessage::Adopt { .. })) => {
                command.write_str("wait # for a program that its launcher has left")
            }
            _ => Ok(()),
        }
    }
}
