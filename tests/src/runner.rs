//! Runs each test in a process of its own, which is this program once more. So a test may do
//! to its process what it likes: `Launch::enter` needs a process with one thread, some tests
//! ignore signals or leak descriptors. It may hang, too, without hanging the others; and
//! whatever it leaves behind becomes a child of the runner (a subreaper), is reported, and
//! ended.
//!
//! ```text
//! ROCKER_REQUIRE_ROOT=1   a test that needs root fails without it; else it prints SKIP
//! ROCKER_TEST_DIR         where to put scratch directories, instead of $TMPDIR or /tmp
//! ROCKER_BIN              where the built programs are, instead of target/rocker
//! ```

use core::time::Duration;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use libtest_mimic::{Arguments, Failed, Trial};
use rustix::process::{WaitOptions, WaitStatus, wait};

use crate::scratch::{VARIABLE, names, set_top, unmount_below};
use crate::{Leaks, process, scratch};

/// Set in the process of a test: its name.
pub(crate) const ONE: &str = "ROCKER_TEST_ONE";

/// Status of a test that found that it cannot run here.
const SKIPPED: i32 = 77;

/// How long a test may take before it counts as one that hangs. The longest make a thousand launches,
/// 6 s of a processor that may have much else to do.
const TIMEOUT: Duration = Duration::from_secs(180);

/// One test: a name that is a sentence, and a function that panics if it is not true.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    name: &'static str,
    needs_root: bool,
    run: fn(),
}

/// A test that needs root.
pub const fn root(name: &'static str, run: fn()) -> Test {
    Test { name, needs_root: true, run }
}

/// A test that anybody can run.
pub const fn plain(name: &'static str, run: fn()) -> Test {
    Test { name, needs_root: false, run }
}

/// `root![a, b]` is a list of tests that need root, named as their functions are.
#[macro_export]
macro_rules! root {
    ($($name:ident),* $(,)?) => {
        vec![$($crate::runner::root(stringify!($name), $name)),*]
    };
}

/// The same of tests that anybody can run.
#[macro_export]
macro_rules! plain {
    ($($name:ident),* $(,)?) => {
        vec![$($crate::runner::plain(stringify!($name), $name)),*]
    };
}

/// Ends this test: the host lacks what it needs. Not for what ROCKER itself needs.
pub fn skip(why: &str) -> ! {
    eprintln!("{why}");
    std::process::exit(SKIPPED)
}

/// The `main` of a test program.
pub fn main(tests: Vec<Test>) -> ExitCode {
    if let Some(one) = std::env::var_os(ONE) {
        let test = tests.iter().find(|test| one == *test.name).expect("the runner knows its tests");
        (test.run)();
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    // Leaks are looked for in the kernel, which all tests share.
    arguments.test_threads = Some(1);
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("Linux 3.4");
    let top = scratch();
    let place = top.path().to_owned();
    set_top(&place);
    let trial = |test: Test| {
        let place = place.clone();
        Trial::test(test.name, move || run(test, &place))
    };
    let trials = tests.into_iter().map(trial).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn run(test: Test, place: &Path) -> Result<(), Failed> {
    if test.needs_root && !rustix::process::geteuid().is_root() {
        if std::env::var_os("ROCKER_REQUIRE_ROOT").is_some_and(|value| value == "1") {
            return Err("needs root, and ROCKER_REQUIRE_ROOT is set".into());
        }
        println!("SKIP {}: needs root", test.name);
        return Ok(());
    }
    let own = tempfile::tempdir_in(place)?;
    let output = own.path().join("output");
    let leaks = Leaks::snapshot();
    let before = names(place);
    let status = run_in_process(test.name, place, &output)?;
    let mut problems = vec![];
    match status {
        Some(status) if status.exit_status() == Some(0) => {}
        Some(status) if status.exit_status() == Some(SKIPPED) => {
            println!("SKIP {}: {}", test.name, text(&output).trim_end());
        }
        Some(status) => {
            let how = match (status.exit_status(), status.terminating_signal()) {
                (_, Some(signal)) => format!("it was ended by signal {signal}"),
                (code, None) => format!("it exited with {}", code.unwrap_or(-1)),
            };
            problems.push(format!("{how}\n{}", text(&output)));
        }
        None => problems.push(format!("not done after {TIMEOUT:?}\n{}", text(&output))),
    }
    if status.is_none() {
        end_descendants();
    }
    problems.extend(found_since(&leaks));
    end_descendants();
    unmount_below(place);
    let left = names(place).into_iter().filter(|name| name != "packages" && !before.contains(name));
    problems.extend(left.map(|name| format!("LEAK file    {name}")));
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n").into()) }
}

fn text(output: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(output).unwrap_or_default()).into_owned()
}

/// Its status; none if it takes too long. Orphans are reaped meanwhile, as init would.
fn run_in_process(
    name: &str,
    place: &Path,
    output: &Path,
) -> Result<Option<WaitStatus>, std::io::Error> {
    let file = File::create(output)?;
    let child = Command::new(std::env::current_exe()?)
        .env(ONE, name)
        .env(VARIABLE, place)
        .stdin(std::process::Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()?;
    let end = Instant::now() + TIMEOUT;
    while Instant::now() < end {
        match wait(WaitOptions::NOHANG)? {
            Some((pid, status)) if pid.as_raw_nonzero().get().cast_unsigned() == child.id() => {
                return Ok(Some(status));
            }
            Some(_) => {}
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    Ok(None)
}

/// Reaps while it looks: a zombie of ours is a leak only if somebody else was to reap it.
fn found_since(leaks: &Leaks) -> Vec<String> {
    let mut last = vec![];
    crate::within(crate::SOON, || {
        reap();
        last = leaks.now();
        last.is_empty()
    });
    if !last.is_empty() {
        last.push(format!("held by: {}", Leaks::holders()));
    }
    last
}

fn reap() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

/// What a failed test has left running would disturb the next one.
fn end_descendants() {
    let gone = crate::within(crate::SOON, || {
        let left = process::descendants(std::process::id());
        left.iter().for_each(|(pid, _)| process::kill(*pid));
        reap();
        left.is_empty()
    });
    if !gone {
        // The tests that follow will say what of it.
        let _ = writeln!(std::io::stderr(), "some processes of the last test cannot be ended");
    }
}
