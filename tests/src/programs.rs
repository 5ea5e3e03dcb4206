//! Where the built programs are.

use std::path::{Path, PathBuf};

/// A program of `make build`: in `$ROCKER_BIN`, else in `target/rocker` of this repository.
///
/// # Panics
///
/// If it is not there.
pub fn bin(name: &str) -> PathBuf {
    let dir = std::env::var_os("ROCKER_BIN")
        .map_or_else(|| workspace().join("target/rocker"), PathBuf::from);
    let program = dir.join(name);
    assert!(program.is_file(), "{} is missing: run \"make build\" first", program.display());
    program
}

/// The command with both its parts, copied to a directory where anybody may execute it.
///
/// # Panics
///
/// If they cannot be copied.
pub fn command_in(dir: &Path) -> PathBuf {
    let [rocker, _] = ["rocker", "rocker-cli"].map(|name| {
        let copy = dir.join(name);
        std::fs::copy(bin(name), &copy).expect("a directory of a test's own");
        copy
    });
    rocker
}

/// The top of this repository.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a directory of the workspace")
}

/// The program that the tests run as an App. Cargo builds it before any test.
///
/// # Panics
///
/// If cargo has not.
pub fn probe() -> PathBuf {
    built("probe")
}

/// The program that asks Linux what the sim's kernel is asked.
///
/// # Panics
///
/// If cargo has not built it.
pub fn actor() -> PathBuf {
    built("actor")
}

fn built(name: &str) -> PathBuf {
    let me = std::env::current_exe().expect("a running program has a path");
    let found = me.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    found.into_iter().find(|it| it.is_file()).expect("cargo builds them with the tests")
}
