//! Overlays that outlive a rocker: what they are, what they remember, and what is on disk.

use super::{Answer, Fd, Kernel, Life, Pid, Process, Role, Table, TreeKind};
use crate::fault::{Call, Who};
use crate::violation::Violation;

/// What of an overlay its mounts share. `made` in this namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overlay {
    data: u8,
    layer: u16,
    made: usize,
    /// Whose names it remembers.
    knows: Option<usize>,
    /// The host's mounts that it was made with, as in [`super::Space`].
    born: u32,
    /// What it was made of.
    seal: Seal,
    /// Who had made it, for files.
    writes_as: u32,
    /// Something was written that is not on disk.
    is_dirty: bool,
}

/// What says that overlays are those that a launch would make.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Seal {
    layers: u16,
    wiped: usize,
    id: u32,
}

impl Kernel {
    /// What a launch with so many layers would make now, for an App with this id.
    pub(crate) fn seal(&self, data: u8, layers: u16, id: u32) -> Seal {
        let wiped = self.wiped.iter().filter(|&&it| it == data).count();
        Seal { layers, wiped, id }
    }

    /// `AppMaster` removes the layers of a data dir in which nobody lives.
    pub(crate) fn wipe(&mut self, data: u8) -> bool {
        let is_used = |space: usize| self.spaces.get(space).is_some_and(|it| it.viewers > 0);
        let is_free = !(1..self.spaces.len()).any(is_used);
        if is_free {
            self.wiped.push(data);
        }
        is_free
    }

    pub(super) fn made_overlay(&mut self, data: u8, layer: u16, made: usize, writes_as: u32) {
        let (seal, is_dirty) = (self.seal(data, 0, 0), false);
        let (knows, born) = (Some(made), self.spaces[made].born);
        self.overlays.push(Overlay { data, layer, made, knows, born, seal, writes_as, is_dirty });
    }

    /// Part of one comes to a namespace: it belongs to nobody else, and remembers nobody else's
    /// names.
    pub(super) fn used_overlay(&mut self, data: u8, layer: u16, made: usize, space: usize) {
        let is_elsewhere = self.processes.iter().any(|it| {
            let looks = it.life == Life::Alive && !matches!(it.who, Who::Helper(_));
            looks && it.mounts != space && self.sees(it.mounts, data, layer)
        });
        if is_elsewhere || !self.locks.iter().any(|lock| lock.0 == data) {
            self.violated(Violation::LayerShared { data });
        }
        let seal = self.seal(data, 0, 0);
        let mounts = self.spaces[space].born;
        let Some(overlay) = self.overlay(data, layer, made) else { return };
        let (knows, was, is_old) =
            (overlay.knows.replace(space), overlay.seal, overlay.born != mounts);
        let (is_dirty, is_new) = (overlay.is_dirty, knows != Some(space));
        if is_new && knows.is_some() {
            self.violated(Violation::Remembers { data });
        }
        if is_new && is_dirty {
            self.violated(Violation::NotSynced { data });
        }
        if was != seal {
            self.violated(Violation::OtherLayers { data });
        }
        if is_old {
            self.violated(Violation::OldOverlays { data });
        }
    }

    fn sees(&self, space: usize, data: u8, layer: u16) -> bool {
        self.spaces[space].mounts.iter().any(|mount| {
            matches!(self.trees[mount.tree].kind, TreeKind::Overlay { data: d, layer: l, .. }
                if d == data && l == layer)
        })
    }

    fn overlay(&mut self, data: u8, layer: u16, made: usize) -> Option<&mut Overlay> {
        let is_it = |it: &&mut Overlay| (it.data, it.layer, it.made) == (data, layer, made);
        self.overlays.iter_mut().find(is_it)
    }

    /// A reconfiguration: names that nobody uses are forgotten. A helper on its way in uses none but
    /// those that something is mounted on.
    pub(crate) fn refresh(&mut self, tree: Fd) -> Answer {
        self.call(Call::Refresh)?;
        let Fd::Tree(tree) = tree else { return Ok(()) };
        if let TreeKind::Overlay { data, layer, made } = self.trees[tree].kind {
            let space = self.overlay(data, layer, made).and_then(|it| it.knows);
            let is_used = space.is_some_and(|space| {
                let looks = |it: &Process| it.mounts == space && it.life == Life::Alive;
                self.processes.iter().any(|it| looks(it) && !matches!(it.who, Who::Helper(_)))
            });
            if let Some(overlay) = self.overlay(data, layer, made).filter(|_| !is_used) {
                overlay.knows = None;
            }
        }
        Ok(())
    }

    /// An App runs, and writes. Room for that is who has made the overlay's.
    pub(crate) fn write_as(&mut self, pid: Pid) {
        let Process { mounts: space, uid, .. } = *self.process(pid);
        for at in 0..self.spaces[space].mounts.len() {
            let kind = self.trees[self.spaces[space].mounts[at].tree].kind;
            if let TreeKind::Overlay { data, layer, made } = kind
                && let Some(overlay) = self.overlay(data, layer, made)
            {
                overlay.is_dirty = true;
                if overlay.writes_as != uid {
                    self.violated(Violation::WritesAsAnother { data });
                }
            }
        }
    }

    /// `syncfs`. Whoever lives on writes on.
    pub(crate) fn sync(&mut self, data: u8) -> Answer {
        self.call(Call::Sync)?;
        self.overlays.iter_mut().filter(|it| it.data == data).for_each(|it| it.is_dirty = false);
        Ok(())
    }

    /// With its last mount it goes, and is synced.
    pub(super) fn overlay_let_go(&mut self, data: u8, layer: u16, made: usize) {
        let kind = TreeKind::Overlay { data, layer, made };
        if !self.trees.iter().any(|it| it.kind == kind && (it.fds > 0 || it.places > 0)) {
            self.overlays.retain(|it| (it.data, it.layer, it.made) != (data, layer, made));
        }
    }

    /// An overlay that no rocker has, made with mounts that are not the host's any more: those
    /// are in use for nobody's sake.
    pub(crate) fn kept_in_vain(&self) -> Option<u8> {
        let is_old = |it: &&Overlay| it.born != self.mounts;
        let is_used = |it: &Overlay| {
            let looks = |process: &Process| process.life == Life::Alive;
            let mut spaces = self.processes.iter().filter(|it| looks(it)).map(|it| it.mounts);
            spaces.any(|space| self.sees(space, it.data, it.layer))
        };
        self.overlays.iter().filter(is_old).find(|it| !is_used(it)).map(|it| it.data)
    }

    /// How many data dirs a process holds overlays of.
    pub(crate) fn overlays_held_by(&self, pid: Pid) -> usize {
        let theirs = self.tables.iter().filter(|table| table.owner == pid);
        let holds = |table: &&Table, role: Role| table.slots[role as usize].is_some();
        theirs.filter(|it| holds(it, Role::LayerOfRoot) || holds(it, Role::LayerOfVar)).count()
    }

    /// Of a rocker that has ended by itself nothing is to be written any more.
    pub(crate) fn check_synced(&mut self, data: u8) {
        if self.overlays.iter().any(|it| it.data == data && it.is_dirty) {
            self.violated(Violation::NotSynced { data });
        }
    }
}
