//! What a command has said, and how it refused.

use std::process::{Command, Output};

use serde_json::Value;

/// Runs it. What goes well says nothing on standard error.
///
/// # Panics
///
/// If it does not go well.
#[track_caller]
pub fn said(command: &mut Command) -> String {
    let output = command.output().expect("it is there");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    text(&output.stdout)
}

/// # Panics
///
/// If it is none.
#[track_caller]
pub fn text(bytes: &[u8]) -> String {
    core::str::from_utf8(bytes).expect("text").to_owned()
}

/// One value, and nothing else.
///
/// # Panics
///
/// If it is none.
#[track_caller]
pub fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(bytes)))
}

/// A value in each line.
#[track_caller]
pub fn json_lines_of(bytes: &[u8]) -> Vec<Value> {
    text(bytes).lines().map(|line| json_of(line.as_bytes())).collect()
}

/// What goes wrong is said in one line that a terminal shows as it is.
///
/// # Panics
///
/// If it did not go wrong with this status and these words.
#[track_caller]
pub fn assert_refused(output: &Output, status: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(said.lines().count(), 1, "{said:?}");
    assert!(said.starts_with("rocker: ") && said.ends_with('\n'), "{said:?}");
    assert!(!said.chars().any(|char| char.is_control() && char != '\n'), "{said:?}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
}
