//! Starts the probe in a rocker, and reads what it says.

use core::time::Duration;
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Seek};
use std::process::ExitStatus;

use rocker_client::{Error, Launch, Limits, OpenRocker, Program, Rocker, Stdio};

use crate::{Daemon, SOON, probe_package, replayed};

/// How long a rocker may take to be gone after its App.
const GONE: Duration = Duration::from_secs(5);

/// What a probe said: lines of `key: value`.
#[derive(Clone, Debug)]
pub struct Answer {
    /// How it ended.
    pub status: ExitStatus,
    lines: Vec<(String, String)>,
}

impl Answer {
    /// Reads lines, as the probe and `/proc` write them; one without a colon has an empty value.
    pub fn new(status: ExitStatus, text: &str) -> Self {
        let split = |line: &str| {
            let pair = line.split_once(": ").or_else(|| line.split_once(":\t"));
            let (key, value) = pair.unwrap_or((line, ""));
            (key.to_owned(), value.to_owned())
        };
        Self { status, lines: text.lines().map(split).collect() }
    }

    /// Everything that was said about this.
    pub fn all(&self, key: &str) -> Vec<&str> {
        self.lines.iter().filter(|(k, _)| k == key).map(|(_, value)| value.as_str()).collect()
    }

    /// What something was said about.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(|(key, _)| key.as_str())
    }

    /// The one thing that was said about this.
    ///
    /// # Panics
    ///
    /// If there is none, or more than one.
    #[track_caller]
    pub fn one(&self, key: &str) -> &str {
        match self.all(key)[..] {
            [value] => value,
            ref other => {
                panic!("{key}: {} answers in {:#?}, {}", other.len(), self.lines, self.status)
            }
        }
    }
}

/// A probe that runs in a rocker and is talked to.
#[derive(Debug)]
pub struct App {
    /// Its rocker.
    pub rocker: Rocker,
    output: BufReader<PipeReader>,
    input: Option<PipeWriter>,
}

impl App {
    /// Starts the probe with these commands. Its standard input is a pipe; `wait` reads from it.
    pub fn start(launch: &Launch, commands: &[&str]) -> Result<Self, Error> {
        Self::start_program(launch, Program::new("bin/probe").args(commands))
    }

    /// The same for any program that talks to its standard output.
    pub fn start_program(launch: &Launch, program: Program) -> Result<Self, Error> {
        let (output, stdout) = std::io::pipe().expect("descriptors are to be had");
        let (stdin, input) = std::io::pipe().expect("descriptors are to be had");
        let program = program.stdin(stdin).stdout(stdout);
        let rocker = replayed(launch.spawn(&program))?;
        // `program` goes here, and with it our copies of the App's ends.
        Ok(Self { rocker, output: BufReader::new(output), input: Some(input) })
    }

    /// The next line; empty at the end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.output.read_line(&mut line);
        read.unwrap_or_else(|error| panic!("the App's output: {error}"));
        line.trim_end().to_owned()
    }

    /// Lets every `wait` of the probe return, now and later.
    pub fn go_on(&mut self) {
        self.input = None;
    }

    /// All it has still to say, and how it ends. The rocker is gone then.
    pub fn finish(mut self) -> Answer {
        self.go_on();
        let mut text = String::new();
        let read = self.output.read_to_string(&mut text);
        read.unwrap_or_else(|error| panic!("the App's output: {error}"));
        let status = self.rocker.wait().expect("the App is our child");
        let gone = self.rocker.wait_gone(Some(GONE)).expect("the guard has a pidfd");
        assert!(gone, "the rocker is there {GONE:?} after its App");
        Answer::new(status, &text)
    }
}

/// Runs the probe with these commands to its end, and waits until the rocker is gone.
#[track_caller]
pub fn run(launch: &Launch, commands: &[&str]) -> Answer {
    match App::start(launch, commands) {
        Ok(app) => app.finish(),
        Err(error) => panic!("{error}"),
    }
}

/// What the App says in a rocker of this launch: entered, and started by the guard.
#[track_caller]
pub fn both_ways(launch: &Launch, commands: &[&str]) -> [Answer; 2] {
    let entered = run(launch, commands);
    let mut rocker = replayed(launch.open()).unwrap_or_else(|error| panic!("{error}"));
    let text = commanded(&mut rocker, Program::new("bin/probe").args(commands));
    assert!(rocker.kill(SOON).expect("the guard has a pidfd"));
    [Answer::new(entered.status, &text), entered]
}

/// What a program says that the guard starts.
#[track_caller]
pub fn commanded(rocker: &mut OpenRocker, program: Program) -> String {
    let (mut output, stdout) = std::io::pipe().expect("there is room for a pipe");
    let program = program.stdin(Stdio::Null).stdout(stdout);
    let run = rocker.spawn(&program, &Limits::new()).expect("the program is there");
    drop(program);
    let mut text = String::new();
    output.read_to_string(&mut text).expect("it says text");
    rocker.wait(&run).expect("it ends");
    text
}

/// Commands that make shared memory, semaphores and queues, and those that find them: of this
/// process's own number.
pub fn numbered() -> [Vec<String>; 2] {
    use libc::{SYS_msgget, SYS_semget, SYS_shmget};
    let own = std::process::id();
    // `IPC_CREAT | IPC_EXCL | 0600`
    let all = |queue: &str, how: i32| {
        vec![
            format!("call {SYS_shmget} {own} 4096 {how}"),
            format!("call {SYS_semget} {own} 1 {how}"),
            format!("call {SYS_msgget} {own} {how}"),
            format!("{queue} /rocker-test-{own}"),
        ]
    };
    [all("make-queue", 0o3600), all("find-queue", 0)]
}

/// Why a launch that must fail does. Nothing is left of it.
#[track_caller]
pub fn refused(launch: &Launch) -> Error {
    match App::start(launch, &["say it should not run"]) {
        Ok(app) => panic!("it was to be refused, and said {:?}", app.finish()),
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains('\n'), "an error is one line: {text:?}");
            error
        }
    }
}

/// Runs `task` with standard output going to a file, and returns what was written there. For
/// callbacks of `Launch::enter`, which inherit it.
pub fn with_output<T>(task: impl FnOnce() -> T) -> (T, String) {
    let mut file: File = tempfile::tempfile().expect("a scratch file");
    let before = rustix::io::dup(std::io::stdout()).expect("descriptors are to be had");
    rustix::stdio::dup2_stdout(&file).expect("descriptor 1 is there");
    let result = task();
    rustix::stdio::dup2_stdout(&before).expect("descriptor 1 is there");
    let mut text = String::new();
    file.rewind().expect("a file");
    file.read_to_string(&mut text).expect("a file of text");
    (result, text)
}

impl Daemon {
    /// Runs the probe of the usual package with these commands, with nothing overlaid.
    #[track_caller]
    pub fn probe(&self, commands: &[&str]) -> Answer {
        run(&self.launch(probe_package()), commands)
    }

    /// The same with these directories overlaid.
    #[track_caller]
    pub fn probe_overlaid(&self, dirs: &[&str], commands: &[&str]) -> Answer {
        run(&self.overlaid(probe_package(), dirs), commands)
    }
}
