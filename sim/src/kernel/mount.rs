//! The package's loop device, mounts, and what a process finds where.

use protocol::{Errno, Step};

use super::{Answer, Fd, Kernel, LoopDevice, Mount, NODEV, Pid, Tree, TreeKind};
use crate::fault::Call;
use crate::violation::Violation;

impl Kernel {
    /// prepare.1: free now, but anybody may take it before prepare.2 (A52).
    pub(crate) fn find_free_loop(&mut self, pid: Pid) -> Answer<usize> {
        self.owns_devices(pid)?;
        self.call(Call::FindFreeLoop)?;
        let free = self.loops.iter().position(|device| !device.bound);
        Ok(free.unwrap_or_else(|| {
            self.loops.push(LoopDevice::default());
            self.loops.len() - 1
        }))
    }

    /// prepare.2, read-only and with autoclear: the kernel frees it with its last user.
    pub(crate) fn bind_loop(&mut self, pid: Pid, device: usize, package: u8) -> Answer<Fd> {
        self.owns_devices(pid)?;
        self.call(Call::BindLoop)?;
        if self.loops[device].bound {
            return Err(Errno::BUSY);
        }
        (self.loops[device].bound, self.loops[device].package) = (true, Some(package));
        Ok(Fd::Loop(device))
    }

    /// Somebody who has nothing to do with us takes a device.
    pub(crate) fn steal_loop(&mut self, device: usize) {
        if !self.loops[device].bound {
            self.loops[device] = LoopDevice { bound: true, package: None, fds: 1, mounts: 0 };
        }
    }

    /// And gives it back.
    pub(crate) fn return_loops(&mut self, mine: &[usize]) {
        for &device in mine {
            self.release(Fd::Loop(device));
        }
    }

    /// Whether somebody's file is behind it.
    pub(crate) fn is_bound(&self, device: usize) -> bool {
        self.loops[device].bound
    }

    /// A package that two devices hold.
    pub(crate) fn bound_twice(&self) -> Option<u8> {
        let bound = || self.loops.iter().filter(|it| it.bound).filter_map(|it| it.package);
        bound().find(|&package| bound().filter(|&other| other == package).count() > 1)
    }

    /// Which package a mount is of.
    pub(crate) fn package_of(&self, mount: Fd) -> Option<u8> {
        let Fd::Tree(tree) = mount else { return None };
        let TreeKind::Package { device } = self.trees[tree].kind else { return None };
        self.loops[device].package
    }

    /// Which layer's an overlay is.
    pub(crate) fn layer_of(&self, mount: Fd) -> u16 {
        match mount {
            Fd::Tree(tree) => match self.trees[tree].kind {
                TreeKind::Overlay { layer, .. } => layer,
                _ => 0,
            },
            _ => 0,
        }
    }

    /// Whether a mount is of a rocker's own devices.
    pub(crate) fn is_dev(&self, mount: Fd) -> bool {
        matches!(mount, Fd::Tree(tree) if self.trees[tree].kind == TreeKind::Dev)
    }

    pub(super) fn autoclear(&mut self, device: usize) {
        let it = &mut self.loops[device];
        if it.bound && it.fds == 0 && it.mounts == 0 {
            it.bound = false;
            self.consequence(Step::FreeResidue, || format!("losetup -d /dev/loop{device}"));
        }
    }

    /// A mount that is nowhere yet.
    pub(crate) fn new_tree(&mut self, pid: Pid, call: Call, kind: TreeKind) -> Answer<Fd> {
        self.privileged(pid)?;
        self.call(call)?;
        if let TreeKind::Package { device } = kind {
            if !self.loops[device].bound {
                return Err(Errno::IO);
            }
            self.loops[device].mounts += 1;
        }
        if let TreeKind::Overlay { data, layer, made } = kind {
            let space = self.process(pid).mounts;
            if call == Call::MountOverlay {
                // Layers are mounts of one's own namespace.
                if made != space {
                    return Err(Errno::INVAL);
                }
                let writes_as = self.process(pid).file_id;
                self.made_overlay(data, layer, made, writes_as);
            }
            self.check_layer(data, layer, made);
            self.used_overlay(data, layer, made, space);
        }
        self.trees.push(Tree { kind, fds: 0, places: 0 });
        Ok(Fd::Tree(self.trees.len() - 1))
    }

    /// `open_tree(OPEN_TREE_CLONE)` of a mount, or a part of an overlay.
    pub(crate) fn clone_part(&mut self, pid: Pid, of: Fd) -> Answer<Fd> {
        let Fd::Tree(of) = of else { return Err(Errno::INVAL) };
        let Tree { kind, places, .. } = self.trees[of];
        if self.is_old && places == 0 {
            self.call(Call::OpenTree)?;
            return Err(Errno::INVAL);
        }
        self.new_tree(pid, Call::OpenTree, kind)
    }

    /// Linux does not refuse two overlays with one upper directory, and both break (A11).
    pub(super) fn check_layer(&mut self, data: u8, layer: u16, made: usize) {
        let is_same = |tree: &Tree| {
            let is_there = tree.fds > 0 || tree.places > 0;
            is_there
                && matches!(tree.kind, TreeKind::Overlay { data: d, layer: l, made: m }
                    if d == data && l == layer && m != made)
        };
        if self.trees.iter().any(is_same) || !self.locks.iter().any(|lock| lock.0 == data) {
            self.violated(Violation::LayerShared { data });
        }
    }

    pub(super) fn tree_let_go(&mut self, tree: usize) {
        let it = self.trees[tree];
        if it.fds > 0 || it.places > 0 {
            return;
        }
        match it.kind {
            TreeKind::Package { device } => {
                self.loops[device].mounts -= 1;
                self.autoclear(device);
            }
            TreeKind::Overlay { data, layer, made } => self.overlay_let_go(data, layer, made),
            TreeKind::Host | TreeKind::Proc | TreeKind::Dev => {}
        }
    }

    /// prepare.0: without it every mount in here would be a mount on the host (A20).
    pub(crate) fn make_private(&mut self, pid: Pid) -> Answer {
        self.privileged(pid)?;
        self.call(Call::MakePrivate)?;
        let space = self.process(pid).mounts;
        self.spaces[space].private = true;
        Ok(())
    }

    /// What the host has mounted here already when a guard gets its copy.
    pub(crate) fn add_host_mount(&mut self, pid: Pid, at: &'static str) {
        self.trees.push(Tree { kind: TreeKind::Host, fds: 0, places: 1 });
        let space = self.process(pid).mounts;
        self.spaces[space].mounts.push(Mount { tree: self.trees.len() - 1, on: None, at });
    }

    /// `move_mount` to what `at` is on the mount `on`. It lands on top of what lies there.
    pub(crate) fn attach(
        &mut self,
        pid: Pid,
        tree: Fd,
        on: Option<usize>,
        at: &'static str,
    ) -> Answer<usize> {
        self.privileged(pid)?;
        self.call(Call::MoveMount)?;
        let Fd::Tree(tree) = tree else { return Err(Errno::INVAL) };
        let space = self.process(pid).mounts;
        if !self.spaces[space].private {
            self.violated(Violation::MountOnHost { at });
        }
        let mounts = &mut self.spaces[space].mounts;
        let on = top_at(mounts, on, at);
        mounts.push(Mount { tree, on, at });
        self.trees[tree].places += 1;
        Ok(self.spaces[space].mounts.len() - 1)
    }

    /// What a process finds when it walks to `path`: the mount it ends up on.
    pub(crate) fn walk(&self, pid: Pid, path: &str) -> Option<usize> {
        let mounts = &self.spaces[self.process(pid).mounts].mounts;
        let mut here = None;
        loop {
            // Of all mounts on this one, the first on the way; of several there, the oldest:
            // the others lie on it.
            let next = mounts
                .iter()
                .enumerate()
                .filter(|(_, mount)| mount.on == here && is_at_or_below(path, mount.at))
                .min_by_key(|(_, mount)| mount.at.len());
            match next {
                Some((index, _)) => here = Some(index),
                None => return here,
            }
        }
    }

    /// What kind of mount that is.
    pub(crate) fn kind_at(&self, pid: Pid, path: &str) -> Option<TreeKind> {
        let mount = self.walk(pid, path)?;
        let mounts = &self.spaces[self.process(pid).mounts].mounts;
        // A place on the way to it does not count: it must be the package's very root.
        Some(self.trees[mounts[mount].tree].kind)
    }

    /// prepare.5: a `/proc` of this PID namespace.
    pub(crate) fn mount_proc(&mut self, pid: Pid) -> Answer {
        self.mount_at_once(pid, Call::MountProc, TreeKind::Proc, None, "/proc")
    }

    /// prepare.5: what is each rocker's own in its `/dev`, which is the mount `on`.
    pub(crate) fn mount_in_dev(&mut self, pid: Pid, on: usize) -> Answer {
        ["/dev/shm", "/dev/pts"]
            .into_iter()
            .try_for_each(|at| self.mount_at_once(pid, Call::MountDev, TreeKind::Dev, Some(on), at))
    }

    /// `mount(2)`, which makes a mount and gives it its place.
    fn mount_at_once(
        &mut self,
        pid: Pid,
        call: Call,
        kind: TreeKind,
        on: Option<usize>,
        at: &'static str,
    ) -> Answer {
        let Fd::Tree(index) = self.new_tree(pid, call, kind)? else { return Err(NODEV) };
        let space = self.process(pid).mounts;
        let mounts = &mut self.spaces[space].mounts;
        let on = top_at(mounts, on, at);
        mounts.push(Mount { tree: index, on, at });
        self.trees[index].places += 1;
        Ok(())
    }
}

/// Whatever lies on the mount `on` at `at`, and on that, and so on.
fn top_at(mounts: &[Mount], mut on: Option<usize>, at: &str) -> Option<usize> {
    while let Some(above) = mounts.iter().position(|mount| mount.on == on && mount.at == at) {
        on = Some(above);
    }
    on
}

/// By whole names.
pub(crate) fn is_at_or_below(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
