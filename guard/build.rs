//! `src/start.rs` has the first instruction of the program, not the C library.

fn main() {
    println!("cargo::rustc-link-arg-bins=-nostartfiles");
    // There is nothing to relocate, so nothing that could be made read-only after that: a page
    // less in each rocker.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,norelro");
    println!("cargo::rerun-if-changed=build.rs");
}
