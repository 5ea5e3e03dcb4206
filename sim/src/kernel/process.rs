//! Processes: who is whose child, who is in which PID namespace, who reaps whom; root.12 to
//! root.14 are what happens when a PID 1 exits.

use protocol::{Errno, Exit, Step};

use super::{
    Answer, CHILD, Gate, HOST, INIT, Kernel, Life, Pid, Process, Space, pid_index, pid_of,
};
use crate::fault::{Call, Who};
use crate::violation::Violation;

const KILLED: Exit = Exit::Signal(9);

impl Kernel {
    pub(crate) fn process(&self, pid: Pid) -> &Process {
        &self.processes[pid_index(pid)]
    }

    pub(crate) fn process_mut(&mut self, pid: Pid) -> &mut Process {
        &mut self.processes[pid_index(pid)]
    }

    pub(crate) fn is_alive(&self, pid: Pid) -> bool {
        self.process(pid).life == Life::Alive
    }

    /// What `poll` says of a pidfd.
    pub(crate) fn has_ended(&self, pid: Pid) -> bool {
        matches!(self.process(pid).life, Life::Zombie | Life::Reaped)
    }

    /// A process of the host, as `fork` makes it.
    pub(crate) fn fork(&mut self, parent: Pid, who: Who) -> Pid {
        let child = Process { who, parent, life: Life::Alive, ..self.process(parent).clone() };
        self.add(child)
    }

    /// Nobody comes into a PID namespace whose PID 1 is gone (A46).
    pub(crate) fn can_fork(&self, parent: Pid) -> Answer {
        let space = self.process(parent).children_pids;
        if self.spaces[space].pids_ended { Err(Errno::NOMEM) } else { Ok(()) }
    }

    pub(super) fn add(&mut self, mut process: Process) -> Pid {
        process.pids = process.children_pids;
        self.spaces[process.mounts].viewers += 1;
        self.spaces[process.pids].members += 1;
        self.processes.push(process);
        u32::try_from(self.processes.len() - 1).unwrap_or(Pid::MAX)
    }

    /// prepare.0: a child in a mount and a PID namespace of its own. Nothing that we do knows of
    /// its IPC namespace.
    pub(crate) fn clone_guard(&mut self, master: Pid, number: usize) -> Answer<Pid> {
        self.call(Call::CloneGuard)?;
        let space = self.spaces.len();
        self.spaces.push(Space::default());
        // Its PID 1 is no member of it: the kernel waits for all the others.
        let guard = Process {
            who: Who::Guard(number),
            parent: master,
            life: Life::Alive,
            children_pids: space,
            mounts: space,
            ..self.process(master).clone()
        };
        let pid = self.add(guard);
        self.spaces[space].init = pid;
        self.spaces[space].born = self.mounts;
        self.spaces[space].members = 0;
        // What is mounted on the host is mounted here, too: only mounts that are below a
        // directory to be overlaid matter, see `add_host_mount`.
        Ok(pid)
    }

    /// Whether it would show its App mounts that the host has no more, or lacks some.
    pub(crate) fn is_stale(&self, guard: Pid) -> bool {
        self.spaces[self.process(guard).mounts].born < self.mounts
    }

    /// exec.1: a child of a guard's, in a session of its own.
    pub(crate) fn clone_program(&mut self, guard: Pid, who: Who) -> Answer<Pid> {
        self.call(Call::CloneProgram)?;
        let pid = self.fork(guard, who);
        self.process_mut(pid).name = None;
        self.new_session(pid);
        Ok(pid)
    }

    /// exec.1, the end of it: what waited executes, or says why it cannot, and ends.
    pub(crate) fn pass_gate(&mut self, pid: Pid) {
        self.process_mut(pid).gate = Gate::Passed;
        if let Err(errno) = self.call(Call::Execve) {
            self.fails_at_gate(pid, errno);
        }
    }

    pub(crate) fn fails_at_gate(&mut self, pid: Pid, errno: Errno) {
        self.process_mut(pid).failure = Some(errno);
        self.exit_with(pid, Exit::Status(127));
    }

    /// `setsid`
    pub(crate) fn new_session(&mut self, pid: Pid) {
        self.process_mut(pid).group = pid;
    }

    /// An end of which its parent will hear how it was.
    pub(crate) fn exit_with(&mut self, pid: Pid, how: Exit) {
        if self.is_alive(pid) {
            self.process_mut(pid).ended = how;
            self.exit(pid);
        }
    }

    /// The end of a process: its own doing, a signal's, or its PID 1's.
    pub(crate) fn exit(&mut self, pid: Pid) {
        if self.process(pid).life != Life::Alive {
            return;
        }
        let Process { pids, mounts, .. } = *self.process(pid);
        self.process_mut(pid).life = Life::Zombie;
        self.close_tables_of(pid);
        let is_init = self.spaces[pids].init == pid;
        if is_init {
            self.end_space(pids);
        }
        self.orphan_children_of(pid);
        self.leave_mounts(mounts);
        if is_init && self.spaces[pids].members > 0 {
            self.process_mut(pid).life = Life::Ending;
        }
        self.reap_for_init();
    }

    /// root.12, root.13: PID 1 is gone, and with it everybody in its PID namespace. Those whose
    /// parent was inside are gone without a trace, the others are their parents' to reap.
    pub(super) fn end_space(&mut self, space: usize) {
        self.spaces[space].pids_ended = true;
        let mut others = 0_usize;
        for index in 1..self.processes.len() {
            let it = &self.processes[index];
            if it.pids != space
                || it.life == Life::Reaped
                || self.spaces[space].init == pid_of(index)
            {
                continue;
            }
            others += usize::from(it.life == Life::Alive);
            let parent = it.parent;
            if it.life == Life::Alive {
                self.exit(pid_of(index));
            }
            if self.process(parent).pids == space {
                self.reap(pid_of(index));
            }
        }
        if others > 0 {
            self.consequence(Step::KillAll, || format!("kill -KILL -1 # {others} left"));
        }
    }

    /// Children of the dead go to their PID namespace's PID 1, or to the host's (A37).
    pub(super) fn orphan_children_of(&mut self, pid: Pid) {
        let space = self.process(pid).pids;
        let init = match self.spaces[space].init {
            init if init != 0 && self.is_alive(init) => init,
            _ => INIT,
        };
        for child in self.processes.iter_mut().filter(|child| child.parent == pid) {
            child.parent = init;
        }
    }

    /// root.14: with the last process that sees them the mounts go, and with the package's
    /// mount its loop device.
    pub(super) fn leave_mounts(&mut self, space: usize) {
        self.spaces[space].viewers -= 1;
        if self.spaces[space].viewers > 0 || space == HOST {
            return;
        }
        let mounts = core::mem::take(&mut self.spaces[space].mounts);
        if !mounts.is_empty() {
            self.consequence(Step::UmountOverlay, || {
                let places: Vec<&str> = mounts.iter().rev().map(|mount| mount.at).collect();
                format!("umount {}", places.join(" "))
            });
        }
        for mount in mounts.iter().rev() {
            self.trees[mount.tree].places -= 1;
            self.tree_let_go(mount.tree);
        }
    }

    /// The host's `init` reaps whoever becomes its child.
    pub(super) fn reap_for_init(&mut self) {
        for index in 2..self.processes.len() {
            let it = &self.processes[index];
            if it.life == Life::Zombie && it.parent == INIT {
                self.reap(pid_of(index));
            }
        }
    }

    pub(super) fn reap(&mut self, pid: Pid) {
        if self.process(pid).life == Life::Reaped {
            return;
        }
        self.process_mut(pid).life = Life::Reaped;
        let space = self.process(pid).pids;
        let init = self.spaces[space].init;
        if init == pid || space == HOST {
            return;
        }
        self.spaces[space].members -= 1;
        if self.spaces[space].members == 0 && self.process(init).life == Life::Ending {
            self.process_mut(init).life = Life::Zombie;
            self.reap_for_init();
        }
    }

    /// `waitpid(-1, WNOHANG)`: a reaped child, or none yet, or ECHILD.
    pub(crate) fn wait_any(&mut self, parent: Pid) -> Answer<Option<Pid>> {
        let mut has_child = false;
        for index in 2..self.processes.len() {
            let it = &self.processes[index];
            if it.parent == parent && it.life == Life::Zombie {
                self.reap(pid_of(index));
                return Ok(Some(pid_of(index)));
            }
            has_child |= it.parent == parent && it.life != Life::Reaped;
        }
        if has_child { Ok(None) } else { Err(CHILD) }
    }

    /// Whether SIGCHLD is waiting.
    pub(crate) fn has_zombie_child(&self, parent: Pid) -> bool {
        self.zombie_children(parent).next().is_some()
    }

    /// Whom SIGCHLD has told of, and nobody has reaped.
    pub(crate) fn zombie_children(&self, parent: Pid) -> impl Iterator<Item = Pid> {
        let is_one = move |it: &Process| it.parent == parent && it.life == Life::Zombie;
        (2..self.processes.len()).filter(move |&at| is_one(&self.processes[at])).map(pid_of)
    }

    /// `waitid(P_PIDFD, WNOHANG)`
    pub(crate) fn wait_for(&mut self, parent: Pid, child: Pid) -> Answer<bool> {
        let it = self.process(child);
        if it.parent != parent || it.life == Life::Reaped {
            return Err(CHILD);
        }
        let is_over = it.life == Life::Zombie;
        if is_over {
            self.reap(child);
        }
        Ok(is_over)
    }

    /// By number: whoever may have been reaped must not be meant any more (A46).
    pub(crate) fn kill(&mut self, pid: Pid) -> Answer {
        self.call(Call::Kill)?;
        self.still_means(pid, Errno::SRCH)?;
        self.exit_with(pid, KILLED);
        Ok(())
    }

    /// By pidfd, which cannot come to mean another process.
    pub(crate) fn kill_by_pidfd(&mut self, pid: Pid) -> Answer {
        if self.process(pid).life == Life::Reaped {
            return Err(Errno::SRCH);
        }
        self.exit_with(pid, KILLED);
        Ok(())
    }

    /// `kill(2)` for one child, or for its process group; nobody here handles a signal.
    pub(crate) fn signal(&mut self, pid: Pid, signal: u8, group: bool) -> Answer {
        self.call(Call::Kill)?;
        self.still_means(pid, Errno::SRCH)?;
        if group {
            self.kill_group(pid);
        } else if signal != 15 || !self.process(pid).ignores {
            self.exit_with(pid, Exit::Signal(signal));
        }
        Ok(())
    }

    /// A call that its filter asks about (`man 2 seccomp_unotify`); whether it was not made before.
    pub(crate) fn make_forbidden_call(&mut self, pid: Pid) -> bool {
        !core::mem::replace(&mut self.process_mut(pid).asks, true)
    }

    /// The guard hears of it and kills.
    pub(crate) fn hear_violation(&mut self, pid: Pid) -> bool {
        let is_asked = self.is_alive(pid) && self.process(pid).asks;
        if is_asked {
            self.process_mut(pid).denied = true;
            self.exit_with(pid, KILLED);
        }
        is_asked
    }

    /// SIGKILL for a child's process group. A zombie keeps the number of its group.
    pub(crate) fn kill_group(&mut self, group: Pid) {
        if self.still_means(group, Errno::SRCH).is_err() {
            return;
        }
        for index in 2..self.processes.len() {
            if self.processes[index].group == group {
                self.exit_with(pid_of(index), KILLED);
            }
        }
    }

    /// SIGTERM for the same: those that do not ignore it end.
    pub(crate) fn warn_group(&mut self, group: Pid) {
        if self.still_means(group, Errno::SRCH).is_err() {
            return;
        }
        for index in 2..self.processes.len() {
            if self.processes[index].group != group {
                continue;
            }
            self.processes[index].warned_ms = Some(self.now_ms);
            if !self.processes[index].ignores {
                self.exit_with(pid_of(index), Exit::Signal(15));
            }
        }
    }

    /// Whether anybody of a process group lives.
    pub(crate) fn has_living_group(&self, group: Pid) -> bool {
        self.processes.iter().any(|it| it.group == group && it.life == Life::Alive)
    }

    /// `kill(-1, SIGNAL)` by PID 1.
    pub(crate) fn signal_all(&mut self, init: Pid, signal: u8) -> Answer {
        self.call(Call::Kill)?;
        if self.is_alone(init) {
            return Err(Errno::SRCH);
        }
        let others: Vec<Pid> = self.others(init).collect();
        let ends = |pid: &Pid| signal != 15 || !self.process(*pid).ignores;
        let others: Vec<Pid> = others.into_iter().filter(ends).collect();
        others.into_iter().for_each(|pid| self.exit_with(pid, Exit::Signal(signal)));
        Ok(())
    }

    pub(super) fn still_means(&mut self, pid: Pid, or: Errno) -> Answer {
        if self.process(pid).life == Life::Reaped {
            self.violated(Violation::PidMeansAnother { pid });
            return Err(or);
        }
        Ok(())
    }

    /// Whose mounts a process sees.
    pub(crate) fn space_of(&self, pid: Pid) -> usize {
        self.process(pid).mounts
    }

    /// `kill(-1, 0)` by PID 1: ESRCH only if nobody else is there, zombies counted (A48).
    pub(crate) fn is_alone(&self, init: Pid) -> bool {
        self.spaces[self.process(init).pids].members == 0
    }

    /// How many there are in a PID namespace but for its PID 1: the living, and with zombies.
    pub(crate) fn census(&self, init: Pid) -> (usize, u16) {
        (self.others(init).count(), self.spaces[self.process(init).pids].members)
    }

    /// The living processes in a PID namespace but for its PID 1.
    pub(crate) fn others(&self, init: Pid) -> impl Iterator<Item = Pid> {
        let space = self.process(init).pids;
        (2..self.processes.len()).map(pid_of).filter(move |&pid| {
            let it = self.process(pid);
            pid != init && it.pids == space && it.life == Life::Alive
        })
    }
}
