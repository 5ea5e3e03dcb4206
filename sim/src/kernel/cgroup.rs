//! The cgroups of rockers: root.2, prepare.0, enter.2, root.15. What they limit is not the
//! machines' business; who is in them is, and that none is left.

use protocol::{Errno, Name};

use super::{Answer, Fd, Kernel, Life, NODEV, Pid};
use crate::fault::Call;

/// A directory that a master has made. Its number stays its own when it is removed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cgroup {
    name: Name,
    exists: bool,
}

impl Kernel {
    /// root.2: `mkdir`, then a limit. A master removes what it cannot set.
    pub(crate) fn make_cgroup(&mut self, name: Name) -> Answer<Fd> {
        self.call(Call::MakeCgroup)?;
        self.cgroups.push(Cgroup { name, exists: true });
        self.call(Call::SetLimit)?;
        Ok(Fd::Cgroup(self.cgroups.len() - 1))
    }

    /// `echo 0 > cgroup.procs`, by whoever has it open.
    pub(crate) fn join_cgroup(&mut self, pid: Pid, fd: Fd) -> Answer {
        self.call(Call::JoinCgroup)?;
        let Fd::Cgroup(number) = fd else { return Err(Errno::BADF) };
        if !self.cgroups[number].exists {
            return Err(NODEV);
        }
        self.process_mut(pid).cgroup = Some(number);
        Ok(())
    }

    /// root.15: `rmdir`, which is refused as long as somebody in it lives.
    pub(crate) fn remove_cgroup(&mut self, name: Name) -> Answer {
        self.call(Call::RemoveCgroup)?;
        let is_it = |it: &Cgroup| it.name == name && it.exists;
        let number = self.cgroups.iter().position(is_it).ok_or(Errno::NOENT)?;
        let lives_there = |it: &super::Process| {
            it.cgroup == Some(number) && matches!(it.life, Life::Alive | Life::Ending)
        };
        if self.processes.iter().any(lives_there) {
            return Err(Errno::BUSY);
        }
        self.cgroups[number].exists = false;
        Ok(())
    }

    /// Those that are there: what a master finds when it starts.
    pub(crate) fn cgroups(&self) -> impl Iterator<Item = Name> {
        self.cgroups.iter().filter(|it| it.exists).map(|it| it.name)
    }

    /// Which one a process is in.
    pub(crate) fn cgroup_of(&self, pid: Pid) -> Option<usize> {
        self.process(pid).cgroup
    }
}
