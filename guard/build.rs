//! `src/start.rs` has the first instruction of the program, not the C library.

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::rustc-link-arg-bins=-nostartfiles");
    // Nobody unwinds a stack here: link.ld leaves out what describes it. And there is nothing to
    // relocate, so nothing that could be made read-only after that: a page less in each rocker.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,norelro,--no-eh-frame-hdr,-T,{dir}/link.ld");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=link.ld");
}
