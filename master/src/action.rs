//! What a session can ask for. Plain data: roles, never descriptors, pids or paths.

use protocol::Error;

/// One thing that can fail meaningfully, one arrow of a diagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// root.1: receive what the caller wants.
    AwaitRequest,
    /// root.1: the policy, the limits, the rules for requests.
    CheckCaller,
    /// root.2: open the package and look at its superblock.
    OpenPackage,
    /// root.2: whether the package is mounted already; wait for a launch that is mounting it.
    FindMount,
    /// root.2: open the data dir, make `.rocker` in it and lock that.
    LockDataDir,
    /// root.2: make the rocker's cgroups, and set its limits.
    MakeCgroup,
    /// prepare.0: `clone(CLONE_NEWNS | CLONE_NEWPID)` and execute the guard.
    CloneGuard,
    /// root.3: request, package, data dir and the caller's own connection.
    HandOver,
    /// prepare.3: wait for the mount of a package that others will use too.
    AwaitMount,
    /// prepare.7: wait for the guard.
    AwaitDone,
    /// prepare.8: `echo deny > /proc/GUARD/setgroups`
    DenySetgroups,
    /// prepare.8: `echo UID UID 1 > /proc/GUARD/uid_map`
    WriteUidMap,
    /// prepare.8: `echo GID GID 1 > /proc/GUARD/gid_map`
    WriteGidMap,
    /// prepare.9: write the rocker down.
    RecordRocker,
    /// prepare.9: tell the guard.
    ReleaseGuard,
    /// enter.4: wait for the guard to close its end of the socket pair.
    AwaitApp,
    /// root.11: wait for SIGCHLD, as long as the rocker lives.
    AwaitExit,
    /// root.15: what the kernel does not free.
    FreeResidue,
    /// Tell the caller that there will be no rocker.
    Refuse(Error),
    /// Tell the guard to end, and why.
    StopGuard(Error),
    /// `kill -KILL GUARD`
    KillGuard,
}
