//! `src/start.rs` has the first instruction of the program, not the C library.

fn main() {
    println!("cargo::rustc-link-arg-bins=-nostartfiles");
    println!("cargo::rerun-if-changed=build.rs");
}
