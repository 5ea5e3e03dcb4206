//! prepare.6: from root to nobody in particular, in three steps that the machine orders.

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, set_capabilities, set_keep_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

/// Gives up groups, gid and uid of root, in the only order in which each is still allowed
/// (KERNEL A24, A28). `CAP_SYS_ADMIN` is kept for `unshare(USER)`, which some hosts allow to
/// nobody else; the namespace belongs to the App's uid all the same.
pub(crate) fn take_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_keep_capabilities(true)?;
    set_thread_res_uid(uid, uid, uid)?;
    set_keep_capabilities(false)?;
    let admin = CapabilitySet::SYS_ADMIN;
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: admin, permitted: admin, inheritable })
}

/// Gives up all that `unshare(USER)` gave inside the new namespace, and every way back.
///
/// Not dumpable: no ptrace, no `/proc/1/mem`, no `pidfd_getfd`, even by a process with every
/// capability in the rocker (KERNEL A27). The kernel sets its default at each change of
/// credentials, so this comes last.
pub(crate) fn drop_all() -> Result<(), Errno> {
    protocol::privileges::drop_all()?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}
