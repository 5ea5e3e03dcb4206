//! Compiles the C library from its sources, as `src/c_client.rs` links it, and its examples,
//! which tests run: in C11 with the warnings of `client-c/Makefile`.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let top = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("../client-c");
    let makefile = fs::read_to_string(top.join("Makefile")).expect("client-c has a Makefile");
    let warnings = makefile.lines().find_map(|line| line.strip_prefix("WARNINGS :=")?.into());
    let warnings = warnings.expect("client-c/Makefile lists its warnings").split_whitespace();
    let mut build = cc::Build::new();
    // As small as it is shipped: a helper's stack and the memory that it shares are real there.
    build.include(top.join("include")).flag("-std=c11").flags(warnings).opt_level_str("s");
    build.files(sources(&top.join("src"))).compile("rocker_client_c");
    for example in sources(&top.join("examples")) {
        let name = example.file_stem().expect("a file").to_string_lossy().into_owned();
        let program = PathBuf::from(variable("OUT_DIR")).join(&name);
        let mut compile = build.get_compiler().to_command();
        compile.arg(&example).arg("-o").arg(&program);
        let library = PathBuf::from(variable("OUT_DIR")).join("librocker_client_c.a");
        let status = compile.arg(library).status().expect("there is a C compiler");
        assert!(status.success(), "{name}.c does not compile");
        let name = name.to_uppercase();
        println!("cargo::rustc-env=ROCKER_EXAMPLE_{name}={}", program.display());
    }
    for input in ["src", "include", "examples", "Makefile"] {
        println!("cargo::rerun-if-changed={}", top.join(input).display());
    }
}

fn variable(name: &str) -> String {
    env::var(name).expect("cargo sets it")
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|kind| kind == "c"));
    files.sort();
    files
}
