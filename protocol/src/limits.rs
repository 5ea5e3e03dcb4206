//! Every maximum, in one place. A limit that is reached is an error, never a truncation.

/// Longest message on any socket, version byte included, in bytes.
pub const MESSAGE_MAX: usize = 32 * 1024;

/// Longest filter that is not a caller's own, in bytes: the C library has room for it in what
/// its callers have compiled in.
pub const OWN_FILTER_MAX: usize = 896;

/// Longest path, in bytes, without the NUL: `PATH_MAX` of Linux less one.
pub const PATH_MAX: usize = 4095;

/// Entries of `app_overlay_dirs` (001: `char *app_overlay_dirs[16]`).
pub const OVERLAY_DIRS_MAX: usize = 16;

/// Length of a guard's name: `TASK_COMM_LEN` less the NUL (001: `char guard_pname[16]`).
pub const NAME_LEN: usize = 15;

/// How often the guard asks for another loop device when somebody else took the one it was
/// offered. Forty launches at once needed 161 further tries in all, in a prototype.
pub const LOOP_TRIES_MAX: u8 = 128;

/// Longest text of a command in an error or a trace line, in bytes. Longer ones are cut, and
/// say so with `...`: they are for people.
pub const COMMAND_MAX: usize = 512;

/// Most descriptors that come with one message (see [`crate::Message::descriptors`]).
pub const DESCRIPTORS_MAX: usize = 16;

/// `RLIMIT_NLIMITS`: each of them at most once.
pub const RLIMITS_MAX: usize = 16;

/// Programs that run in one rocker at its caller's command.
pub const PROGRAMS_MAX: usize = 64;

/// Connections that give orders to one rocker beside its owner's.
pub const ATTACHED_MAX: usize = 8;

/// The number of the descriptor by which a master reaches a living guard.
pub const INTAKE: i32 = 10;

/// How long whoever gives orders may leave answers unread before the guard takes it for lost, in
/// milliseconds.
pub const UNREAD_MS: u32 = 5_000;

/// Longest host or domain name, in bytes: `__NEW_UTS_LEN` of Linux.
pub const HOST_NAME_MAX: usize = 64;

/// How long killed programs may take to be gone at a reset, in milliseconds.
pub const RESET_MS: u32 = 5_000;

/// How long a guard works at deleting a tree before it looks after others again, in
/// milliseconds. The caller orders the rest.
pub const DELETE_MS: u32 = 1_000;

/// A launch that names no deadline has this long, in milliseconds.
pub const TIMEOUT_MS_DEFAULT: u32 = 5_000;

/// The longest deadline a caller may ask for, in milliseconds: one hour.
pub const TIMEOUT_MS_MAX: u32 = 3_600_000;

/// How long a new connection may take to say what it wants, in milliseconds.
pub const HELLO_MS: u32 = 2_000;

/// How much longer than its deadline a launch may be under way before the master kills its
/// guard, in milliseconds. A guard that does not hang has given up by itself long before.
pub const GRACE_MS: u32 = 1_000;

/// Children that a guard reaps before it looks at everything else again.
pub const REAPED_MAX: usize = 64;

/// How long a launch waits for another one that is mounting the same package, in milliseconds.
/// That takes less than one; a file system that does not answer holds up its own launch.
pub const MOUNT_PATIENCE_MS: u32 = 100;

/// Overlays of one rocker that may be kept for the next launch of its data dir: one for each host
/// mount that it overlays.
pub const KEPT_LAYERS_MAX: usize = 4;

/// Longest description of those, in bytes: paths of the mounts, and numbers of directories.
pub const SEAL_MAX: usize = 2048;

/// Most that is said of what lies below them, in bytes ([`mark`](crate::mark)): 63 directories.
pub const MARKS_MAX: usize = 4096;

/// How long a guard rests before it asks again what the kernel could not say, in milliseconds.
pub const REST_MS: u32 = 1_000;

/// Cgroups of one rocker: one, or one for each of memory, pids, cpu, cpuset and blkio where those
/// are hierarchies of version 1.
pub const CGROUPS_MAX: usize = 5;

/// The least memory that a rocker may be limited to, in bytes: its guard has some too.
pub const MEMORY_MIN: u64 = 1 << 20;

/// As many processes as Linux can have (`man 5 proc`, `pid_max`).
pub const PIDS_MAX: u32 = 1 << 22;

/// Of processor time, in thousandths of one processor: the kernel takes no quota below 1 ms, in
/// periods of 100 ms; and the most.
pub const CPU_MILLIS: core::ops::RangeInclusive<u32> = 10..=1_000_000;

/// Shares of the processors.
pub const CPU_WEIGHTS: core::ops::RangeInclusive<u16> = 1..=10_000;

/// The least that a rocker may be limited to read from a disk or write to it, in bytes a second.
/// Nothing ends a process that waits for its turn: for 1 MiB, a large block of a package's, that
/// is 16 seconds with this.
pub const IO_MIN: u64 = 64 << 10;

/// Longest list of processors, in bytes.
pub const CPUS_MAX: usize = 256;

/// Devices of the host's that one rocker can have.
pub const DEVICES_MAX: usize = 32;
