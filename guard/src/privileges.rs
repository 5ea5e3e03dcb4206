//! prepare.6: from root to nobody in particular, in three steps that the machine orders. At overlay.0
//! and prepare.4 the guard is the App's user for a moment, where files are concerned.

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, openat};
use rustix::io::{Errno, write};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_keep_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::sys;

/// prepare.4: makes an overlay with the App's ids. Whatever an App writes there is written with the
/// credentials of who has made it, and some file systems keep their last blocks for a uid or a group
/// (`man 5 ext4`, resuid): for root, if the host does not say otherwise.
///
/// All capabilities stay: copying up a file of another user's takes some, as the work directory does.
/// But for `CAP_SYS_RESOURCE`, which is as good as being root there: the kernel leaves it out by
/// itself once the overlay is made (`ovl_fill_super`). Until then it makes one on a disk that is full.
pub(crate) fn with_file_ids<T, E: From<Errno>>(
    uid: u32,
    gid: u32,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let all = capabilities(None)?;
    as_user(uid, gid, || set_capabilities(None, all).map_err(E::from).and_then(|()| work()))
}

/// overlay.0: looks files up as the App's user does, who learns of no others by what is refused.
/// The capabilities over files go with uid 0, and come back with it (`man 7 capabilities`).
pub(crate) fn as_user<T>(uid: u32, gid: u32, work: impl FnOnce() -> T) -> T {
    sys::set_file_ids(uid, gid);
    let answer = work();
    sys::set_file_ids(0, 0);
    answer
}

/// Gives up groups, gid and uid of root, in the only order in which each is still allowed
/// (KERNEL A24, A28). `CAP_SYS_ADMIN` is kept for `unshare(USER)`, which some hosts allow to
/// nobody else; the namespace belongs to the App's uid all the same.
pub(crate) fn take_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    // Until `unshare(USER)`, which begins anew with such bits.
    set_keep_capabilities(true)?;
    set_thread_res_uid(uid, uid, uid)?;
    let admin = CapabilitySet::SYS_ADMIN;
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: admin, permitted: admin, inheritable })
}

/// No process of the rocker gets a user namespace of its own, and with it every capability that
/// works there: the rocker's has room for none. Whoever joins the rocker's is bound by it too, and
/// only `CAP_SYS_RESOURCE` in that one changes it, which nobody has there after [`drop_all`]. So
/// the other kinds of namespaces, which take a capability, need no limits of their own; the guard
/// itself may make some of them later (`crate::conf`).
///
/// `limits` is [`user_limits`], if that is open already.
pub(crate) fn forbid_user_namespaces(limits: Option<&OwnedFd>) -> Result<(), Errno> {
    let how = OFlags::WRONLY | OFlags::CLOEXEC;
    let opened = match limits {
        Some(limits) => openat(limits, c"max_user_namespaces", how, Mode::empty()),
        None => openat(CWD, c"/proc/sys/user/max_user_namespaces", how, Mode::empty()),
    };
    match opened {
        // A kernel without sysctl. The filter forbids it as well, to all but those whom the
        // policy lets do without.
        Err(Errno::NOENT) => Ok(()),
        opened => write(opened?, b"0").map(drop),
    }
}

/// The way to the numbers in a `/proc`. They are those of whoever opens one, at that moment.
pub(crate) fn user_limits(proc: &OwnedFd) -> Result<OwnedFd, Errno> {
    let how = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(proc, c"sys/user", how, Mode::empty())
}

/// Gives up all that `unshare(USER)` gave inside the new namespace, and every way back. The guard
/// of a commanded rocker keeps what it takes to mount in a mount namespace of the rocker's own,
/// and to come back to one (`crate::conf`): over the rocker's user namespace, so nothing that an
/// App could not have in a user namespace that it makes itself.
///
/// Not dumpable: no ptrace, no `/proc/1/mem`, no `pidfd_getfd`, even by a process with every
/// capability in the rocker (KERNEL A27). The kernel sets its default at each change of
/// credentials, so this comes last.
pub(crate) fn drop_all(commanded: bool) -> Result<(), Errno> {
    if commanded {
        protocol::privileges::keep_only(KEPT)?;
        protocol::privileges::put_in_force(KEPT, MOUNTING)?;
    } else {
        protocol::privileges::drop_all()?;
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// To mount, and to come back to a mount namespace.
const MOUNTING: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::SYS_CHROOT);

/// An overlay's work directory has no permissions at all, and the kernel goes through it as
/// whoever has mounted it.
const KEPT: CapabilitySet = MOUNTING.union(CapabilitySet::DAC_OVERRIDE);

/// Does what takes all that was kept.
pub(crate) fn with_all<T, E: From<Errno>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    protocol::privileges::put_in_force(KEPT, KEPT)?;
    let answer = work();
    protocol::privileges::put_in_force(KEPT, MOUNTING)?;
    answer
}
