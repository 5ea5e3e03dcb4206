//! root.3 to enter.4: what a guard does for a launch, from the request to the App.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;

use protocol::devices::SHM_BYTES;
use protocol::limits::{CGROUPS_MAX, KEPT_LAYERS_MAX, MARKS_MAX};
use protocol::socket::{Buffer, Received, now_ns};
use protocol::{
    Errno, GuardMessage, Loss, MasterMessage, Message, Package, Request, Seccomp, Strings, seccomp,
    socket,
};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::life::{Heard, NotHeard};
use super::{Building, Launch, Linux, entrance, show};
use crate::cgroups::Cgroups;
use crate::machine::{Life, Outcome, Peer, forbidden_overlay};
use crate::mounts::Refusal;
use crate::overlays::{Kept, Manner, NoPlan, Plan};
use crate::reaper::Reaper;
use crate::superblock::{self, Unfit};
use crate::wall::Wall;
use crate::{durability, ipc, loop_device, mount_table, mounts, privileges};

impl<'b> Linux<'b> {
    pub(super) fn await_request(&mut self) -> Outcome {
        let (Some(inbox), Some(master)) = (self.inbox.take(), &self.master) else {
            return Outcome::Lost(Loss::Garbage);
        };
        // A guard is ready for a launch that may come much later, as long as its master lives. It
        // does meanwhile what any launch asks for; the master lets go of it when the host's mounts
        // change. What fails now is tried again in its step, which says why.
        let has_time = || matches!(socket::wait_readable(master, 0), Ok(false));
        if has_time() {
            self.building.proc = proc_to_look_in(&mut self.reaper).ok();
            let proc = self.building.proc.as_ref();
            self.building.user_limits = proc.and_then(|proc| privileges::user_limits(proc).ok());
            self.building.own_devices = mounts::own_devices(SHM_BYTES).ok();
            self.building.own_ipc = ipc::isolate(0).is_ok();
            self.building.closed_cgroups = mounts::close_cgroups().is_ok();
            self.building.entrance = entrance().ok();
        }
        if has_time() {
            self.building.mounts = mount_table::read().ok();
            // What every launch writes to is there already then.
            for buffer in [&mut *inbox, &mut self.outbox, &mut self.order] {
                buffer.bytes()[0] = 0;
            }
        }
        let mut descriptors = loop {
            match socket::receive_before(master, &mut *inbox, u64::MAX) {
                Ok(Received::Message(
                    Message::Master(MasterMessage::Keep { seal, marks, .. }),
                    given,
                )) => {
                    self.building.keeps = true;
                    self.building.kept = (!given.is_empty()).then(|| Kept::new(given, seal, marks));
                }
                Ok(Received::Message(_, descriptors)) => break descriptors.into_iter(),
                Ok(Received::Lost(how)) => return Outcome::Lost(how),
                Ok(Received::Empty) => return Outcome::Lost(Loss::Silent),
                Err(errno) => return Outcome::Failed(errno),
            }
        };
        // The request is borrowed for as long as the guard lives.
        let inbox: &'b Buffer = inbox;
        let Some(Message::Master(MasterMessage::HandOver {
            name,
            guard_pid,
            request,
            package,
            cgroups,
        })) = inbox.last()
        else {
            return Outcome::Lost(Loss::Garbage);
        };
        let overlays = !request.overlays.is_empty();
        let life = match (request.options.commanded, request.options.stays) {
            (false, _) => Life::Processes,
            (true, false) => Life::Owner,
            (true, true) => Life::OwnerThenProcesses,
        };
        descriptors.next().into_iter().for_each(|client| self.peers.own(client));
        match package {
            Package::Own | Package::First => self.building.place = descriptors.next(),
            Package::Shared { .. } => self.building.shared_mount = descriptors.next(),
        }
        self.data = request.data_dir.and_then(|_| descriptors.next());
        let Some(cgroups) = Cgroups::new(&cgroups, &mut descriptors) else {
            return Outcome::Lost(Loss::Garbage);
        };
        self.cgroups = cgroups;
        self.building.dev = descriptors.next();
        let deadline_ns = now_ns() + u64::from(request.timeout_ms) * 1_000_000;
        let syncs = overlays && self.building.keeps && !request.options.volatile;
        self.launch = Some(Launch { name, guard_pid, request, package, deadline_ns });
        Outcome::RequestIs { overlays, package, life, syncs }
    }

    pub(super) fn isolate(&self) -> Result<(), rustix::io::Errno> {
        let mut name = [0; protocol::limits::NAME_LEN + 1];
        for (to, from) in name.iter_mut().zip(self.launch().name.as_str().bytes()) {
            *to = from;
        }
        let name = core::ffi::CStr::from_bytes_until_nul(&name);
        rustix::thread::set_name(name.map_err(|_| rustix::io::Errno::INVAL)?)?;
        self.cgroups.join()?;
        if !self.building.own_ipc {
            // There is as much time again for all else, and for whoever is to be told.
            ipc::isolate(now_ns() + u64::from(self.launch().request.timeout_ms) * 500_000)?;
        }
        mounts::make_private()
    }

    pub(super) fn bind(&mut self, loop_dev: u32) -> Outcome {
        self.look_and_bind(loop_dev).map_or_else(Unfit::into, |()| Outcome::Done)
    }

    fn look_and_bind(&mut self, loop_dev: u32) -> Result<(), Unfit> {
        if let Some(place) = self.building.place.take() {
            self.building.package = Some(superblock::open(place.as_fd())?);
        }
        let package = self.building.package.as_ref().ok_or(rustix::io::Errno::BADF)?;
        let device = loop_device::bind(loop_dev, package.as_fd())?;
        self.building.loop_device = Some(device);
        Ok(())
    }

    /// The number is the package's for as long as the device is open or mounted.
    pub(super) fn mount_package(&mut self, loop_dev: u32) -> Result<(), Refusal> {
        self.building.package_mount = Some(mounts::package(&format!("/dev/loop{loop_dev}"))?);
        // The mount keeps the device bound from here on, and unbinds it when it goes.
        self.building.loop_device = None;
        self.building.package = None;
        Ok(())
    }

    /// The master keeps it; what this rocker gets is a copy, as all others'.
    pub(super) fn share_package(&mut self, loop_dev: u32) -> Result<(), Errno> {
        let mount = self.building.package_mount.take().ok_or(Errno::BADF)?;
        let master = self.master.as_ref().ok_or(Errno::BADF)?;
        let message = Message::Guard(GuardMessage::Mounted { loop_dev });
        socket::send(master, &message, &[mount.as_fd()], &mut self.outbox)?;
        self.building.shared_mount = Some(mount);
        Ok(())
    }

    pub(super) fn reuse_package(&mut self, loop_dev: u32) -> Outcome {
        let Some(shared) = self.building.shared_mount.take() else {
            return Outcome::Failed(Errno::BADF);
        };
        let copy = mounts::package_again(shared.as_fd(), &format!("/dev/loop{loop_dev}"));
        let copied = copy.map(|copy| self.building.package_mount = Some(copy));
        self.refused(copied)
    }

    pub(super) fn list_top_dirs(&mut self) -> Outcome {
        let mounts = self.building.mounts.take();
        match Plan::new(&self.launch().request.overlays, self.manner(), mounts) {
            Ok(plan) => {
                let found = Outcome::DirsAre { layers: plan.layers(), places: plan.places() };
                self.building.plan = plan;
                found
            }
            Err(NoPlan::Forbidden(index)) => Outcome::Refused(forbidden_overlay(index)),
            Err(NoPlan::Failed(errno, path)) => {
                self.words = String::from_utf8_lossy(&path).into_owned();
                Outcome::Failed(errno)
            }
        }
    }

    /// The kernel takes an overlay's upper directory only from the mount namespace that the
    /// overlay is made in, and the locked descriptor comes from the master's. So the path is
    /// followed once more, and must lead to the very directory that is locked.
    fn open_layers(&mut self) -> Result<(), Refusal> {
        let locked = self.data.as_ref().ok_or(rustix::io::Errno::BADF)?;
        let data_dir = self.launch().request.data_dir.ok_or(rustix::io::Errno::BADF)?;
        let layers = mounts::open_layers(data_dir.as_bytes(), locked.as_fd())?;
        let manner = self.manner();
        if let Some(kept) = self.building.kept.take() {
            self.building.seal = self.building.plan.reuse(kept, layers.as_fd(), manner);
        }
        if self.building.seal.is_none() {
            durability::settle(layers.as_fd(), manner.volatile)?;
        }
        self.building.layers = Some(layers);
        Ok(())
    }

    fn manner(&self) -> Manner {
        let Request { uid, gid, ref options, .. } = self.launch().request;
        Manner { volatile: options.volatile, uid, gid }
    }

    pub(super) fn build_overlay(&mut self, layer: u16) -> Result<(), Refusal> {
        if self.building.layers.is_none() {
            self.open_layers()?;
        }
        let manner = self.manner();
        let Building { plan, layers, keeps, seal, .. } = &mut self.building;
        let data = layers.as_ref().ok_or(rustix::io::Errno::BADF)?.as_fd();
        if !plan.has(layer) {
            plan.build(layer, data, manner, *keeps)?;
        }
        if *keeps && seal.is_none() && layer + 1 == plan.layers() {
            // Without one they go with the rocker.
            *seal = plan.seal(data, manner).ok();
        }
        Ok(())
    }

    pub(super) fn mount_overlay(&mut self, place: u16) -> Result<(), rustix::io::Errno> {
        let Building { plan, layers, .. } = &mut self.building;
        plan.attach(place, layers.as_ref().ok_or(rustix::io::Errno::BADF)?.as_fd())
    }

    pub(super) fn attach_package(&mut self) -> Result<(), rustix::io::Errno> {
        let package = self.building.package_mount.as_ref().ok_or(rustix::io::Errno::BADF)?;
        let exec_dir = self.launch().request.exec_dir;
        let target = self.building.plan.open_or_make(exec_dir.as_bytes())?;
        mounts::attach(package.as_fd(), target.as_fd())
    }

    pub(super) fn remount_proc(&mut self) -> Outcome {
        let Building { proc, dev, own_devices, closed_cgroups, .. } = &mut self.building;
        let (devices, are_closed) = (own_devices.take(), *closed_cgroups);
        // Who is to see the host's devices has none of its own.
        let attach_devices = || {
            let Some(tree) = dev else { return Ok(()) };
            let [memory, terminals] = devices.map_or_else(|| mounts::own_devices(SHM_BYTES), Ok)?;
            mounts::attach_at(tree.as_fd(), c"/dev")?;
            mounts::attach_at(memory.as_fd(), c"/dev/shm")?;
            mounts::attach_at(terminals.as_fd(), c"/dev/pts")
        };
        let proc = proc.take().map_or_else(|| proc_to_look_in(&mut self.reaper), Ok);
        let mounted = proc
            .and_then(|proc| mounts::attach_at(proc.as_fd(), c"/proc"))
            .and_then(|()| if are_closed { Ok(()) } else { Ok(mounts::close_cgroups()?) })
            .and_then(|()| attach_devices());
        self.refused(mounted)
    }

    pub(super) fn drop_privileges(&mut self) -> Outcome {
        let dropped = self.become_nobody().map_err(Refusal::from);
        let walled = dropped.and_then(|()| self.build_wall());
        self.refused(walled)
    }

    fn become_nobody(&self) -> Result<(), rustix::io::Errno> {
        if !self.launch().request.options.user_namespaces {
            privileges::forbid_user_namespaces(self.building.user_limits.as_ref())?;
        }
        privileges::drop_all(self.launch().request.options.commanded)
    }

    fn build_wall(&mut self) -> Result<(), Refusal> {
        if self.launch().request.options.landlock {
            self.wall = Some(Wall::new(self.building.plan.take_overlaid())?);
        }
        Ok(())
    }

    pub(super) fn report_done(&mut self) -> Result<(), Errno> {
        let master = self.master.as_ref().ok_or(Errno::BADF)?;
        self.uppers = self.building.plan.take_uppers();
        let Building { plan, seal, .. } = &self.building;
        let (Some(seal), Some(layers), Some(lock)) = (seal, plan.to_keep(), &self.data) else {
            return socket::send(
                master,
                &Message::Guard(GuardMessage::Done),
                &[],
                &mut self.outbox,
            );
        };
        let count = u8::try_from(layers.len()).unwrap_or(u8::MAX);
        let (root, top_dirs) = (plan.root(), plan.top_dirs());
        let message = Message::Guard(GuardMessage::Kept {
            seal,
            layers: count,
            root: root.and_then(|root| u8::try_from(root).ok()).unwrap_or_default(),
            // More than can be marked are of no use.
            top_dirs: Strings::new(&top_dirs)
                .filter(|_| top_dirs.len() <= MARKS_MAX)
                .unwrap_or_default(),
        });
        let descriptors: heapless::Vec<BorrowedFd<'_>, { KEPT_LAYERS_MAX + 1 }> =
            layers.into_iter().chain([lock.as_fd()]).collect();
        socket::send(master, &message, &descriptors, &mut self.outbox)?;
        self.is_kept = true;
        Ok(())
    }

    /// prepare.9. The master's own steps come this way too, when the caller wants to see them.
    pub(super) fn await_release(&mut self) -> Outcome {
        let deadline = self.launch().deadline_ns;
        loop {
            let Some(master) = &self.master else { return Outcome::Failed(Errno::BADF) };
            match socket::receive_before(master, &mut self.order, deadline) {
                Ok(Received::Message(Message::Master(MasterMessage::GoOn), _)) => {
                    return Outcome::Done;
                }
                Ok(Received::Message(Message::Master(MasterMessage::Failed(failure)), _)) => {
                    self.words = failure.command.to_owned();
                    return Outcome::Refused(failure.error);
                }
                Ok(Received::Message(Message::Master(MasterMessage::Step(step)), _)) => {
                    let step = Message::Master(MasterMessage::Step(step));
                    show(&self.peers, &step, &mut self.outbox);
                }
                Ok(Received::Message(..)) => return Outcome::Lost(Loss::Garbage),
                Ok(Received::Lost(how)) => return Outcome::Lost(how),
                Ok(Received::Empty) => return Outcome::Lost(Loss::Silent),
                Err(errno) => return Outcome::Failed(errno),
            }
        }
    }

    /// root.5. The pidfd is the entrance: it keeps no mount alive, and cannot come to mean
    /// another process (KERNEL A45).
    pub(super) fn send_entrance(&mut self) -> Result<(), Errno> {
        let entrance = self.building.entrance.take().map_or_else(entrance, Ok)?;
        // Whoever gives orders enters nothing.
        let enters = !self.launch().request.options.commanded;
        let groups = Some(self.cgroups.take_entrance()).filter(|_| enters).unwrap_or_default();
        let Launch { name, guard_pid, ref request, deadline_ns, .. } = *self.launch();
        let filter = match request.options.seccomp {
            // Its caller has it.
            Seccomp::Filter(_) => &[],
            _ => seccomp::filter(&request.options),
        };
        let wall = self.wall.as_ref().filter(|_| enters);
        // The master has let go of it before prepare.9. enter.4 and exec.0 bring some.
        self.peers.accept_descriptors(Peer::OWNER);
        let client = self.peers.socket(Peer::OWNER).ok_or(Errno::PIPE)?;
        let descriptors: heapless::Vec<BorrowedFd<'_>, { CGROUPS_MAX + 2 }> =
            core::iter::once(&entrance)
                .chain(&groups)
                .map(OwnedFd::as_fd)
                .chain(wall.map(Wall::ruleset))
                .collect();
        let more = u8::try_from(descriptors.len() - 1).unwrap_or(u8::MAX);
        let message = Message::Guard(GuardMessage::Entrance { name, guard_pid, filter, more });
        socket::send_before(client, &message, &descriptors, &mut self.outbox, deadline_ns)
    }

    /// enter.4, after which both connections have served their purpose; or exec.0, after which
    /// the caller's stays. That this end of the master's closes tells the master that the launch
    /// is over.
    pub(super) fn await_app(&mut self) -> Outcome {
        let deadline = self.launch().deadline_ns;
        let Some(client) = self.peers.socket(Peer::OWNER) else {
            return Outcome::Failed(Errno::BADF);
        };
        match socket::wait_readable(client, deadline) {
            Ok(true) => {}
            Ok(false) => return Outcome::Lost(Loss::Silent),
            Err(errno) => return Outcome::Failed(errno),
        }
        let outcome = match self.hear(Peer::OWNER) {
            Ok(Some(Heard::AppStarted)) => {
                match self.order_descriptors.pop().filter(is_pidfd) {
                    Some(app) => self.reaper.watch(app),
                    None => return Outcome::Lost(Loss::Garbage),
                }
                Outcome::Done
            }
            Ok(Some(Heard::Order(outcome))) => outcome,
            Ok(None) => return Outcome::Lost(Loss::Silent),
            Err(NotHeard::Lost(how)) => return Outcome::Lost(how),
            Err(NotHeard::Failed(errno)) => return Outcome::Failed(errno),
        };
        let is_as_announced =
            self.launch().request.options.commanded == !matches!(outcome, Outcome::Done);
        if is_as_announced {
            self.lives = true;
            self.master = None;
        }
        if is_as_announced && matches!(outcome, Outcome::Done) {
            self.peers.close(Peer::OWNER);
        }
        outcome
    }
}

/// A `/proc`, in which others are looked for from now on.
fn proc_to_look_in(reaper: &mut Reaper) -> Result<OwnedFd, Refusal> {
    let proc = mounts::proc()?;
    reaper.look_in(proc.as_fd())?;
    Ok(proc)
}

/// Whether a descriptor stands for a process. Anything else could keep the guard waiting for
/// something that is no App, or in the kernel of a file system that never answers.
fn is_pidfd(fd: &OwnedFd) -> bool {
    let ask = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // The App is not PID 1's child, so the answer for a process is ECHILD.
    !matches!(
        waitid(WaitId::PidFd(fd.as_fd()), ask),
        Err(rustix::io::Errno::BADF | rustix::io::Errno::INVAL)
    )
}
