//! How a process gives up every capability: the guard at prepare.6, the helper at enter.3.

use rustix::io::{Errno, Result};
use rustix::thread::{
    CapabilitiesSecureBits as Bits, CapabilitySet, CapabilitySets,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
    set_no_new_privs,
};

/// No id brings capabilities, no program does, and nobody changes that: `SECBIT_*`.
const SECURE: Bits = Bits::NO_ROOT
    .union(Bits::NO_ROOT_LOCKED)
    .union(Bits::NO_SETUID_FIXUP)
    .union(Bits::NO_SETUID_FIXUP_LOCKED)
    .union(Bits::KEEP_CAPS_LOCKED)
    .union(Bits::NO_CAP_AMBIENT_RAISE)
    .union(Bits::NO_CAP_AMBIENT_RAISE_LOCKED);

/// Empties all five sets of the calling thread and sets `no_new_privs`, so that no program it
/// executes brings one back (`man 7 capabilities`). A user namespace gives all of them to whoever
/// makes or joins it, so this comes after that.
pub fn drop_all() -> Result<()> {
    keep_only(CapabilitySet::empty())
}

/// The same, but these stay at hand in this program. No program that it executes has them: they
/// are not inheritable, nothing can be gained, and being uid 0 inside a namespace means nothing.
pub fn keep_only(kept: CapabilitySet) -> Result<()> {
    // Not that an id without privileges in its namespace could make use of the old rules: they
    // are locked all the same.
    set_capabilities_secure_bits(SECURE)?;
    for bit in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            // The first number that this kernel has no capability for.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    put_in_force(kept, kept)?;
    set_no_new_privs(true)
}

/// Which of the kept ones are in force from now on; the others stay at hand. What is not
/// inheritable is not ambient either.
pub fn put_in_force(kept: CapabilitySet, effective: CapabilitySet) -> Result<()> {
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective, permitted: kept, inheritable })
}

/// Gives up in a process that is about to execute what the guard has kept.
pub fn drop_kept() -> Result<()> {
    put_in_force(CapabilitySet::empty(), CapabilitySet::empty())
}
