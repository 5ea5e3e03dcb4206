//! What a guard can ask for. Plain data: roles and numbers, never descriptors or paths.

use protocol::Error;

use crate::machine::Peer;

/// An order that is no program's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// `open(2)`, for a list of files. That one cannot be opened is said in the answer.
    Open,
    /// `rm`, or `rm -r`
    Delete,
    /// `ln -s`
    Symlink,
    /// Take down what the rocker is to look like.
    Configure,
    /// `kill -9 -1`, to begin with.
    Reset,
    /// Let the peer have a program that its launcher has left.
    Adopt,
}

/// One thing that can fail meaningfully, one arrow of a diagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// root.3: receive the request, the caller's connection, the package and the data dir.
    AwaitRequest,
    /// prepare.0: `mount --make-rprivate /`, and take the rocker's name.
    IsolateMounts,
    /// prepare.1: `losetup --find`
    FindFreeLoop,
    /// prepare.2: `losetup --read-only /dev/loopN PACKAGE`, detached by the kernel after use.
    BindLoop {
        /// N
        loop_dev: u32,
    },
    /// prepare.3: a squashfs superblock on the bound device, as a mount that is nowhere yet.
    MountPackage {
        /// N
        loop_dev: u32,
    },
    /// prepare.3: hand that mount to the master, for later rockers.
    SharePackage {
        /// N
        loop_dev: u32,
    },
    /// prepare.3: one more mount of a package that is mounted, nowhere yet.
    ReusePackage {
        /// N
        loop_dev: u32,
    },
    /// overlay.0: open the directories, and find what is mounted where below them.
    ListTopDirs,
    /// prepare.4: one overlay over a whole host mount, nowhere yet.
    BuildOverlay {
        /// Which.
        layer: u16,
    },
    /// overlay.1: put a directory's part of the overlay, or a host mount below, in its place.
    MountOverlay {
        /// Which.
        place: u16,
    },
    /// prepare.3: move the package to its place in the merged view.
    AttachPackage,
    /// prepare.5: `mount -t proc proc /proc`
    RemountProc,
    /// prepare.6: no groups, the App's gid and uid; one capability is kept for the next step.
    TakeAppIds,
    /// prepare.6: `unshare --user`
    UnshareUser,
    /// prepare.6: every capability, and every way to gain one.
    DropPrivileges,
    /// prepare.7
    ReportDone,
    /// prepare.9
    AwaitRelease,
    /// root.5 = enter.0: a pidfd of PID 1 to the caller.
    SendEntrance,
    /// enter.4: wait for the App's pidfd.
    AwaitApp,
    /// exec.0 and root.9: wait, as long as it takes.
    Listen,
    /// exec.1: clone and execve, as the order says.
    StartProgram {
        /// Whose it will be.
        peer: Peer,
    },
    /// exec.2: the program's pidfd to the peer.
    ReportStarted {
        /// For whom.
        peer: Peer,
        /// The peer's number for it.
        id: u32,
    },
    /// exec.2: why there is none.
    ReportNotStarted {
        /// For whom.
        peer: Peer,
        /// The peer's number for it.
        id: u32,
        /// Why.
        error: Error,
    },
    /// `kill(2)`
    SendSignal {
        /// Who sends it.
        peer: Peer,
        /// The peer's number for a program; none: all.
        id: Option<u32>,
        /// `man 7 signal`
        signal: u8,
    },
    /// exec.1: lets a program execute that waits.
    LetGo {
        /// Whose it is.
        peer: Peer,
        /// The peer's number for it.
        id: u32,
    },
    /// The guard is there.
    Answer {
        /// For whom.
        peer: Peer,
    },
    /// exec.1 for what is done at once: see [`Order`].
    CarryOut {
        /// For whom.
        peer: Peer,
        /// The peer's number for it.
        id: u32,
        /// What.
        order: Order,
    },
    /// exec.1 of a reset: wait for the end of all that was killed.
    Bury,
    /// exec.1: mount what the rocker is to look like, or the same anew.
    BuildView,
    /// exec.1: run the init command to its end.
    RunInit,
    /// exec.2: it was carried out.
    ReportObeyed {
        /// For whom.
        peer: Peer,
        /// The peer's number for it.
        id: u32,
    },
    /// The guard's pidfd to a new peer.
    Welcome {
        /// For whom.
        peer: Peer,
    },
    /// Why somebody cannot become a peer.
    TurnAway,
    /// Close a peer's connection.
    HangUp {
        /// Whose.
        peer: Peer,
        /// Whether its programs are killed; else they are nobody's.
        kills: bool,
    },
    /// exec.3: SIGKILL for those that have run for as long as they may.
    KillLate,
    /// exec.3 and root.9: `wait4(-1, WNOHANG)`, as often as there is somebody to reap, but not
    /// for ever.
    Reap,
    /// exec.3: how it ended.
    ReportExit {
        /// For whom.
        peer: Peer,
    },
    /// root.9: look through `/proc` once.
    FindStrangers,
    /// `sleep 1`, where the kernel has no memory or no descriptor to say more.
    Rest,
    /// root.9: SIGKILL for whoever is left, and `syncfs(2)`, where the overlays outlive the rocker.
    Settle {
        /// Nobody is left.
        is_alone: bool,
    },
    /// Tell the caller.
    ReportFailure(Error),
}
