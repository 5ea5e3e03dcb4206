//! `rocker-master`: the root daemon. It decides who may start what, clones the guard, sets its
//! id maps, and frees what the kernel does not. Once a rocker lives, the master is not in it.
//!
//! ```text
//! machine       what comes next for one launch, in diagram order; no I/O
//! action        what a session can ask for
//! linux         does it: the only file that knows both sides
//! event_loop    one thread, one poll: the world becomes outcomes
//! sessions      all launches and all living rockers
//! listener      the socket and its directory
//! log_share     how much of the log a caller may have
//! policy        root.1: who is asking, and may they
//! package       root.2: package and data dir, each opened once
//! packages      which of them are mounted, for all rockers that are made from one
//! looks         who may look at what may take long
//! overlays      which are kept for the next launch of their data dir
//! errands       what waits for disks, in threads
//! names         root.15: what the next launch looks up first
//! steward       root.2, root.15: makes and removes cgroups, in a thread
//! cgroup        root.2: limits
//! disk          root.2: which one a file is on
//! devices       root.3: a /dev that is not the host's
//! hierarchies   which controllers this host has, and where
//! guard_binary  the guard's program, sealed
//! heap          does not grow with the number of launches
//! clone_guard   prepare.0
//! namespace     root.1: where the caller sits
//! proc          /proc, which nobody else can hold up
//! id_maps       prepare.8
//! residue       root.15
//! rights        no descriptors from strangers
//! ```

pub mod action;
mod cgroup;
mod clone_guard;
mod devices;
mod disk;
mod errands;
pub mod event_loop;
pub mod guard_binary;
pub mod heap;
mod hierarchies;
mod id_maps;
mod linux;
mod listener;
mod log_share;
pub mod looks;
pub mod machine;
mod names;
mod namespace;
pub mod overlays;
mod package;
pub mod packages;
pub mod policy;
pub mod pool;
mod proc;
mod residue;
mod rights;
mod sessions;
mod steward;
mod unmade;
