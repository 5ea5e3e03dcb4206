//! Privileges and ids, and the way into a rocker.

use protocol::Errno;

use super::{Answer, Capabilities, HOST, IdMap, Kernel, Life, Pid, Process};
use crate::fault::{Call, Who};
use crate::violation::Violation;

impl Kernel {
    /// Mounts need `CAP_SYS_ADMIN` on the host. From prepare.6 on a guard must not even ask.
    pub(super) fn privileged(&mut self, pid: Pid) -> Answer {
        self.must_be_root(pid);
        match self.process(pid).capabilities {
            Capabilities::All | Capabilities::Admin => Ok(()),
            Capabilities::Inside | Capabilities::None => Err(Errno::PERM),
        }
    }

    /// Devices are the host's root's, whatever it can do.
    pub(super) fn owns_devices(&mut self, pid: Pid) -> Answer {
        self.must_be_root(pid);
        if self.process(pid).uid == 0 { Ok(()) } else { Err(Errno::ACCES) }
    }

    fn must_be_root(&mut self, pid: Pid) {
        if self.process(pid).capabilities != Capabilities::All {
            self.violated(Violation::AskedForPrivilege);
        }
    }

    /// `setgroups(0, NULL)`: refused for ever where "deny" was written (A24), and before the map
    /// of groups is.
    pub(crate) fn drop_groups(&mut self, pid: Pid) -> Answer {
        self.call(Call::SetGroups)?;
        let user = self.process(pid).user;
        let space = &self.spaces[user];
        let is_early = user != HOST && space.gid_map.is_none();
        if is_early || space.setgroups_denied || self.is_unprivileged(pid) {
            return Err(Errno::PERM);
        }
        self.process_mut(pid).groups = false;
        Ok(())
    }

    pub(super) fn is_unprivileged(&self, pid: Pid) -> bool {
        matches!(self.process(pid).capabilities, Capabilities::None | Capabilities::Admin)
    }

    /// `setresgid`, `setresuid`: only to ids that the user namespace knows (A23).
    pub(crate) fn take_ids(&mut self, pid: Pid, uid: u32, gid: u32) -> Answer {
        self.call(Call::SetIds)?;
        let user = self.process(pid).user;
        let space = &self.spaces[user];
        if user != HOST && (space.uid_map != Some(uid) || space.gid_map != Some(gid)) {
            return Err(Errno::INVAL);
        }
        if self.is_unprivileged(pid) {
            return Err(Errno::PERM);
        }
        let it = self.process_mut(pid);
        (it.uid, it.gid, it.file_id) = (uid, gid, uid);
        Ok(())
    }

    /// `setfsuid`, `setfsgid`, which do not tell whether they did it.
    pub(crate) fn set_file_ids(&mut self, pid: Pid, id: u32) {
        if !self.is_unprivileged(pid) {
            self.process_mut(pid).file_id = id;
        }
    }

    /// prepare.6: all capabilities in the new namespace, none outside it any more.
    pub(crate) fn unshare_user(&mut self, pid: Pid) -> Answer {
        self.call(Call::UnshareUser)?;
        let space = self.process(pid).mounts;
        self.spaces[space].user = true;
        let it = self.process_mut(pid);
        it.user = space;
        it.capabilities = Capabilities::Inside;
        Ok(())
    }

    /// `capset`: what prepare.6 still needs.
    pub(crate) fn keep_admin(&mut self, pid: Pid) -> Answer {
        self.call(Call::DropCapabilities)?;
        self.process_mut(pid).capabilities = Capabilities::Admin;
        Ok(())
    }

    /// For good: `no_new_privs`, bounding set, not dumpable. The second needs a capability itself.
    pub(crate) fn drop_capabilities(&mut self, pid: Pid) -> Answer {
        self.call(Call::DropCapabilities)?;
        if self.is_unprivileged(pid) {
            return Err(Errno::PERM);
        }
        self.process_mut(pid).capabilities = Capabilities::None;
        Ok(())
    }

    /// prepare.6
    pub(crate) fn make_ruleset(&mut self) -> Answer<super::Fd> {
        self.call(Call::MakeRuleset)?;
        Ok(super::Fd::Ruleset)
    }

    /// `landlock_restrict_self(2)`, for itself and its children. It takes a capability or
    /// `no_new_privs`, which comes with the end of all of them here: everybody has one or the other.
    pub(crate) fn enforce(&mut self, pid: Pid) -> Answer {
        self.call(Call::Enforce)?;
        self.process_mut(pid).walled = true;
        Ok(())
    }

    /// prepare.8, by the master, through `/proc/PID`: the pid must mean the guard still. A zombie
    /// has its namespaces.
    pub(crate) fn write_id_map(&mut self, writer: Pid, guard: Pid, map: IdMap) -> Answer {
        self.call(Call::WriteIdMap)?;
        self.still_means(guard, Errno::NOENT)?;
        let user = self.process(guard).user;
        let is_root = self.process(writer).capabilities == Capabilities::All;
        let space = &mut self.spaces[user];
        if user == HOST || !is_root {
            return Err(Errno::PERM);
        }
        match map {
            // Too late once groups have a meaning (man 7 user_namespaces).
            IdMap::DenySetgroups if space.gid_map.is_some() => return Err(Errno::PERM),
            IdMap::DenySetgroups => space.setgroups_denied = true,
            // A map is written once.
            IdMap::Uid(_) if space.uid_map.is_some() => return Err(Errno::PERM),
            IdMap::Gid(_) if space.gid_map.is_some() => return Err(Errno::PERM),
            IdMap::Uid(uid) => space.uid_map = Some(uid),
            IdMap::Gid(gid) => space.gid_map = Some(gid),
        }
        Ok(())
    }

    /// prepare.9, for the rules that begin there.
    pub(crate) fn released(&mut self, guard: Pid) {
        let space = self.process(guard).mounts;
        self.spaces[space].released = true;
    }

    /// Whether a guard has heard prepare.9.
    pub(crate) fn is_released(&self, guard: Pid) -> bool {
        self.spaces[self.process(guard).mounts].released
    }

    /// Whether ids and groups inside are final.
    pub(crate) fn ids_are_final(&self, guard: Pid) -> bool {
        let space = &self.spaces[self.process(guard).mounts];
        space.released
            && space.setgroups_denied
            && space.uid_map.is_some()
            && space.gid_map.is_some()
    }

    /// enter.2: `setns` by a pidfd; ESRCH once the process behind it has ended (A45).
    pub(crate) fn join(&mut self, pid: Pid, guard: Pid) -> Answer {
        self.call(Call::Setns)?;
        if !self.is_alive(guard) {
            return Err(Errno::SRCH);
        }
        if self.is_unprivileged(pid) {
            return Err(Errno::PERM);
        }
        let space = self.process(guard).mounts;
        let user = self.process(guard).user;
        // One's own user namespace cannot be entered.
        if self.process(pid).user == user {
            return Err(Errno::INVAL);
        }
        let left = self.process(pid).mounts;
        let it = self.process_mut(pid);
        it.children_pids = space;
        it.mounts = space;
        it.user = user;
        it.capabilities = Capabilities::Inside;
        self.spaces[space].viewers += 1;
        self.leave_mounts(left);
        Ok(())
    }

    /// enter.3: `clone(CLONE_PARENT)`; a PID 1 has no siblings (A32).
    pub(crate) fn clone_app(&mut self, helper: Pid, who: Who) -> Answer<Pid> {
        self.call(Call::CloneApp)?;
        if self.init_of(helper) == helper {
            return Err(Errno::INVAL);
        }
        self.can_fork(helper)?;
        let it = self.process(helper);
        let parent = it.parent;
        let app = Process { who, parent, life: Life::Alive, ..it.clone() };
        Ok(self.add(app))
    }

    /// PID 1 of the rocker that a process is in.
    pub(crate) fn init_of(&self, pid: Pid) -> Pid {
        self.spaces[self.process(pid).pids].init
    }
}
