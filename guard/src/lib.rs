//! `rocker-guard`: PID 1 of one rocker, from root.3 to root.9.
//!
//! ```text
//! machine      what comes next, in diagram order; no I/O
//! action       what the machine can ask for
//! linux        does it, and alone knows both sides: launch, life, words
//! superblock   prepare.2: whether the package is one
//! loop_device  prepare.1, prepare.2
//! mounts       prepare.3, prepare.5, and the pieces of prepare.4
//! overlays     overlay.0, prepare.4, overlay.1: what is mounted where, and in which order
//! durability   prepare.4: layers that need not survive a crash of the machine
//! mount_table  /proc/self/mountinfo
//! proc         other files of /proc
//! peers        exec.0: whose orders are taken
//! privileges   prepare.6
//! programs     exec.1, exec.3: what runs at their command
//! conf         exec.1: what the rocker looks like for them, and the same anew
//! files        exec.1: what is opened, deleted and linked at their command
//! wall         prepare.6, exec.1: Landlock
//! violations   exec.3: what a program's own filter forbids
//! ipc          prepare.0, exec.1: a namespace of its own for queues and shared memory
//! cgroups      prepare.0, root.5, exec.3: the limits, and what was used
//! reaper       exec.3, root.9: who has ended
//! sys          the system calls that rustix has no function for
//! start        the program without a C library; part of the binary only
//! ```
//!
//! It is a program of its own, small and static, so that a rocker costs little while it idles
//! and nothing of the master's memory or descriptors can reach one.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod action;
mod cgroups;
mod conf;
mod durability;
mod files;
mod gate;
mod ipc;
pub mod linux;
mod loop_device;
pub mod machine;
mod mount_table;
mod mounts;
mod overlays;
mod peers;
mod privileges;
mod proc;
mod programs;
mod reaper;
mod superblock;
mod sys;
mod violations;
mod wall;
