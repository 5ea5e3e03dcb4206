//! Every launch of the tests asks for its trace, and the machines are led through it: each
//! actor must have taken the steps that its machine would have taken. What does not conform
//! fails the test, in words.

use core::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rocker_client::Error;
use sim::report::{Launched, Report};

/// Tests whose launches are as they are without a trace, with the reason.
pub const UNTRACED: [(&str, &str); 4] = [
    ("a_launch_without_trace_has_none", "it says so"),
    ("can_be_killed_at_every_call", "there are many, and the usual calls are what it is about"),
    ("regression_launches_leak_no_descriptor_and_no_memory", "it measures the usual path"),
    ("sixty_four_launches_at_once_leave_nothing", "so that many at once are tested without, too"),
];

/// A program of tests whose launches ask for none: `rocker run` does those that are plain without
/// `rocker-cli` then.
const UNREPORTED: &str = "cli_unreported";

/// Whether the launches of this test ask for a trace.
pub fn traces() -> bool {
    let name = std::env::var(crate::runner::ONE).unwrap_or_default();
    let program = std::env::current_exe().unwrap_or_default();
    let is_unreported = program
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(UNREPORTED.as_bytes()));
    !is_unreported && !UNTRACED.iter().any(|(untraced, _)| name.ends_with(untraced))
}

/// What came of a launch, if its trace conforms.
///
/// # Panics
///
/// If it does not, or if there is none though it was asked for.
#[track_caller]
pub fn replayed<L: Launched>(launch: Result<L, Error>) -> Result<L, Error> {
    if let Ok(rocker) = &launch {
        assert_eq!(!rocker.trace().is_empty(), traces(), "a launch has a trace if asked for one");
    }
    if traces() {
        let what = launch.as_ref().map_or_else(Error::to_string, |_| "it succeeded".to_owned());
        conforms(&Report::of_launch(&launch), &what);
    }
    launch
}

#[track_caller]
fn conforms(report: &Report, what: &str) {
    if let Err(deviation) = report.conforms() {
        let steps = report.steps.iter().map(|it| format!("{:<6} {it}\n", it.actor));
        panic!("{what}: {deviation}\n{}", steps.collect::<String>());
    }
}

/// Where `rocker run` writes its reports; they are replayed at the end.
#[derive(Debug)]
pub struct Reports {
    dir: PathBuf,
    count: Cell<u32>,
}

impl Reports {
    /// In this directory, which is made.
    pub fn new(dir: PathBuf) -> Self {
        fs::create_dir_all(&dir).expect("a scratch directory is writable");
        Self { dir, count: Cell::new(0) }
    }

    fn file(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{number}.json"))
    }

    /// Has `rocker run` write one more.
    pub fn ask(&self, run: &mut Command) {
        if traces() {
            self.count.set(self.count.get() + 1);
            run.arg("--report").arg(self.file(self.count.get()));
        }
    }
}

/// Replays what a `rocker run` has reported. One that was killed, or never started, has nothing
/// to say.
///
/// # Panics
///
/// If it does not conform.
pub fn replay(file: &Path) {
    let text = fs::read_to_string(file).unwrap_or_default();
    if !text.is_empty() {
        let report = Report::parse(&text);
        let report = report.unwrap_or_else(|why| panic!("{}: {why}\n{text}", file.display()));
        conforms(&report, &text);
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let numbers = 1..=self.count.get();
            numbers.for_each(|number| replay(&self.file(number)));
        }
    }
}
