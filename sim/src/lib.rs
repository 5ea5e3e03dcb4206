//! Every launch, every fault, without root.
//!
//! The machines that run in production (`Guard`, `Session`, `Client`, `Helper`) take their turns
//! here over a fake kernel, which may refuse any call, kill or stop anybody, and let time pass.
//! What must never happen is a [`Violation`].
//!
//! ```text
//! world      everybody at one table, taking turns; the two phases of a life
//! scene      who asks for what, and what the host looks like
//! fault      what can go wrong: where, and for how long
//! walk       every single fault of a launch, every pair, in a loop
//! violation  what must never happen
//! coverage   which arrows of which machine were walked
//!
//! kernel     processes, namespaces, sockets, loop devices, mounts, ids: what Linux refuses
//! message    what is said, as far as it decides anything
//! client     the drivers of client and helper: what client-rs/src/{linux,enter}.rs do
//! library    the machines of either client, Rust or C
//! c_client   the C client through FFI; the one file with `unsafe`
//! master     the driver of a session, and the one thread around it
//! guard      the driver of a guard
//! app        Apps, programs and what they start: acted, not ours
//! orders     `AppMaster` with a rocker that takes orders, acted; what its guard knows of programs
//! words      the lines of a transcript
//! operations what the kernel answers, one small operation at a time; Linux is asked the same
//!
//! report     a report of `rocker run --report`, and whether the machines would have walked so
//! draw       a report as a sequence diagram and as a timeline
//! ```
//!
//! What is driven here are the machines. What their drivers in production do beside that (paths,
//! encodings, what the kernel really says) is the root tests' to prove; the drivers here answer
//! as those do, and [`coverage`] holds the list of what each can answer.

mod app;
pub mod c_client;
mod client;
pub mod coverage;
pub mod draw;
mod fault;
mod guard;
mod kernel;
mod library;
mod master;
mod message;
pub mod operations;
mod orders;
pub mod report;
mod scene;
mod violation;
pub mod walk;
mod words;
mod world;

pub use coverage::Coverage;
pub use fault::{At, Call, Fault, Mode, Planned, Who};
pub use library::Library;
pub use master::Limits;
pub use scene::{
    App, DIRECTORIES, Does, End, HEIRS, LEFT, Launch, ORDERS, PRIVATE_PACKAGE, ROOT, TEXT_PACKAGE,
    Task, Terms, USERS, VISITS,
};
pub use violation::Violation;
pub use world::{Choice, Order, World};
