//! A launch as text for people and as JSON for programs.

use core::fmt::Write as _;
use std::process::ExitCode;

use protocol::{Errno, Exit, ExitReport, Usage, Verdict};
use rocker_client::{Error, OpenRocker, Rocker, Run, TraceEntry, errno_name, syscall_name};
use serde_json::{Map, Value, json};

use super::{Fault, STATUS_ROCKER, STATUS_UNREAD};

const STATUS_NOT_EXECUTABLE: u8 = 126;
const STATUS_NOT_FOUND: u8 = 127;
const STATUS_SIGNAL: u8 = 128;

/// What is known of a rocker that lived.
#[derive(Debug)]
pub(crate) struct Lived {
    name: String,
    /// None: it had ended before it could be looked at.
    app_pid: Option<u32>,
    guard_pid: u32,
    pub(crate) steps: Vec<TraceEntry>,
    /// What the guard tells of an App that it has started.
    pub(crate) told: Option<ExitReport>,
    /// What the rocker's cgroup tells of another one that was killed.
    pub(crate) killed_for: Option<Verdict>,
}

impl Lived {
    /// An App that the guard has started.
    pub(crate) fn by_guard(rocker: &OpenRocker, run: &Run) -> Self {
        Self {
            name: rocker.guard_name().to_string(),
            app_pid: run.pid(),
            guard_pid: rocker.guard_pid(),
            steps: rocker.trace().to_vec(),
            told: None,
            killed_for: None,
        }
    }
}

impl From<&Rocker> for Lived {
    fn from(rocker: &Rocker) -> Self {
        Self {
            name: rocker.guard_name().to_string(),
            app_pid: Some(rocker.app_pid()),
            guard_pid: rocker.guard_pid(),
            steps: rocker.trace().to_vec(),
            told: None,
            killed_for: None,
        }
    }
}

/// How the App ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ending {
    Exit(u8),
    Signal(u8),
}

impl From<Exit> for Ending {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Status(status) => Self::Exit(status),
            Exit::Signal(number) => Self::Signal(number),
        }
    }
}

/// Why the guard or the kernel has killed it, where its status alone would not tell.
pub(crate) fn killed_for(told: &ExitReport) -> Option<String> {
    let call = told.syscall.map(|number| format!(": {}", system_call(number)));
    let killed = [
        Verdict::TimeLimitExceeded,
        Verdict::DisallowedSyscall,
        Verdict::MemoryLimitExceeded,
        Verdict::OutputLimitExceeded,
        Verdict::OutOfMemory,
    ];
    killed.contains(&told.verdict).then(|| format!("{}{}", told.verdict, call.unwrap_or_default()))
}

/// What `rocker` ends with.
pub(crate) fn exit_code(ending: &Result<Ending, Fault>) -> ExitCode {
    ExitCode::from(match ending {
        Ok(Ending::Exit(status)) => *status,
        Ok(Ending::Signal(number)) => STATUS_SIGNAL.saturating_add(*number),
        Err(Fault::Client(error)) if error.is_at_exec() => match error.errno() {
            Some(Errno::NOENT | Errno::NOTDIR) => STATUS_NOT_FOUND,
            _ => STATUS_NOT_EXECUTABLE,
        },
        Err(Fault::Unread) => STATUS_UNREAD,
        Err(_) => STATUS_ROCKER,
    })
}

/// One line a step, as the diagrams read.
pub(crate) fn trace(steps: &[TraceEntry]) -> String {
    let mut text = String::new();
    for entry in in_order(steps) {
        let TraceEntry { actor, step, command, .. } = entry;
        let took = entry.took_ns / 1_000;
        // Writing to a String cannot fail.
        let _ = write!(text, "{step:<10}  {actor:<6}  {took:>7} us  {command}");
        if let Some(errno) = entry.errno {
            let _ = write!(text, ": {}", errno_name(errno));
        }
        text.push('\n');
    }
    text
}

/// An arrow is told by who draws it, when it begins, and by whom it reaches, when it is there.
fn in_order(steps: &[TraceEntry]) -> Vec<&TraceEntry> {
    let mut steps = steps.iter().collect::<Vec<_>>();
    steps.sort_by_key(|entry| match entry.actor == entry.step.actor() {
        true => entry.began_ns,
        false => entry.began_ns.saturating_add(entry.took_ns),
    });
    steps
}

/// Its name, or its number.
pub(crate) fn system_call(number: u32) -> String {
    syscall_name(number).map_or_else(|| number.to_string(), ToOwned::to_owned)
}

/// What the guard tells of a program's end.
fn tell(report: &ExitReport, result: &mut Map<String, Value>) {
    result.insert("verdict".into(), json!(report.verdict.to_string()));
    if let Some(number) = report.syscall {
        result.insert("syscall".into(), json!(system_call(number)));
    }
    result.insert("user_us".into(), json!(report.user_us));
    result.insert("system_us".into(), json!(report.system_us));
    result.insert("wall_us".into(), json!(report.wall_us));
    result.insert("peak_kib".into(), json!(report.peak_kib));
    // What the kernel does not count is not there.
    let Usage { memory, memory_peak, pids, pids_peak, cpu_us, read, written } = report.usage;
    for (key, value) in [
        ("rocker_memory", memory),
        ("rocker_memory_peak", memory_peak),
        ("rocker_pids", pids),
        ("rocker_pids_peak", pids_peak),
        ("rocker_cpu_us", cpu_us),
        ("rocker_read", read),
        ("rocker_written", written),
    ] {
        if let Some(value) = value {
            result.insert(key.into(), json!(value));
        }
    }
}

/// The same with how it ended: the result of a job.
pub(crate) fn job(id: &Value, report: &ExitReport) -> Value {
    let mut result = Map::new();
    result.insert("id".into(), id.clone());
    tell(report, &mut result);
    let (key, number) = match report.exit {
        Exit::Status(status) => ("exit", status),
        Exit::Signal(number) => ("signal", number),
    };
    result.insert(key.into(), json!(number));
    Value::Object(result)
}

/// `--json`: how it ended, in one line.
pub(crate) fn result(lived: Option<&Lived>, ending: &Result<Ending, Fault>) -> Value {
    let mut result = Map::new();
    if let Some(report) = lived.and_then(|lived| lived.told) {
        tell(&report, &mut result);
    }
    if let Some(verdict) = lived.and_then(|lived| lived.killed_for) {
        result.insert("verdict".into(), json!(verdict.to_string()));
    }
    if let Some(Lived { name, app_pid, guard_pid, .. }) = lived {
        result.insert("name".into(), json!(name));
        result.insert("app_pid".into(), json!(app_pid));
        result.insert("guard_pid".into(), json!(guard_pid));
    }
    let (key, value) = match ending {
        Ok(Ending::Exit(status)) => ("exit", json!(status)),
        Ok(Ending::Signal(number)) => ("signal", json!(number)),
        Err(fault) => ("error", error(fault)),
    };
    result.insert(key.into(), value);
    Value::Object(result)
}

/// `--report`: the same, with package and steps.
pub(crate) fn report(
    package: &str,
    lived: Option<&Lived>,
    ending: &Result<Ending, Fault>,
) -> Value {
    let mut report = result(lived, ending);
    let steps = match (lived, ending) {
        (Some(lived), _) => &lived.steps,
        (None, Err(Fault::Client(error))) => error.trace(),
        (None, _) => [].as_slice(),
    };
    let first_ns = steps.iter().map(|entry| entry.began_ns).min().unwrap_or(0);
    let steps = in_order(steps);
    let step = |entry: &&TraceEntry| {
        json!({
            "actor": entry.actor.to_string(),
            "step": entry.step.to_string(),
            "at_us": micros(entry.began_ns - first_ns),
            "took_us": micros(entry.took_ns),
            "command": entry.command,
            "errno": entry.errno.map(errno_name),
        })
    };
    report["package"] = json!(package);
    report["steps"] = steps.iter().map(step).collect();
    report
}

fn error(fault: &Fault) -> Value {
    let details = |error: &Error| {
        json!({
            "message": error.to_string(),
            "step": error.step().to_string(),
            "errno": error.errno().map(errno_name),
            "command": error.command(),
        })
    };
    match fault {
        Fault::Client(error) => details(error),
        Fault::Said(_) | Fault::Unread => json!({ "message": fault.to_string() }),
    }
}

/// Exact for as long as a launch can take.
fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use protocol::{Actor, Errno, Step};

    use super::*;

    fn entry(actor: Actor, step: Step, began_ns: u64, errno: Option<Errno>) -> TraceEntry {
        TraceEntry { actor, step, began_ns, took_ns: 1_500, errno, command: "true".to_owned() }
    }

    #[test]
    fn steps_are_told_as_the_diagrams_read() {
        let mut wait = entry(Actor::Client, Step::AwaitEntrance, 5_000, None);
        wait.took_ns = 9_000;
        let text = trace(&[
            wait,
            entry(Actor::Guard, Step::MountPackage, 9_000, Some(Errno::INVAL)),
            entry(Actor::Guard, Step::SendEntrance, 13_000, None),
            entry(Actor::Client, Step::RequestRocker, 1_000, None),
        ]);
        assert_eq!(
            text,
            "root.1      client        1 us  true\n\
             prepare.3   guard         1 us  true: EINVAL\n\
             root.5      guard         1 us  true\n\
             enter.0     client        9 us  true\n"
        );
    }

    #[test]
    fn a_result_says_how_it_ended() {
        let lived = Lived {
            name: "0".to_owned(),
            app_pid: Some(2),
            guard_pid: 1,
            steps: vec![],
            told: None,
            killed_for: None,
        };
        let line = result(Some(&lived), &Ok(Ending::Exit(3))).to_string();
        assert_eq!(line, r#"{"app_pid":2,"exit":3,"guard_pid":1,"name":"0"}"#);
        let lived = Lived { killed_for: Some(Verdict::MemoryLimitExceeded), ..lived };
        let told = result(Some(&lived), &Ok(Ending::Signal(9)));
        assert_eq!(
            (&told["signal"], &told["verdict"]),
            (&json!(9), &json!("memory limit exceeded"))
        );
        let line = result(None, &Err(Fault::Said("no".to_owned()))).to_string();
        assert_eq!(line, r#"{"error":{"message":"no"}}"#);
    }

    #[test]
    fn a_report_counts_from_the_first_step() {
        let steps = vec![
            entry(Actor::Guard, Step::MountPackage, 4_250, Some(Errno::INVAL)),
            entry(Actor::Client, Step::RequestRocker, 1_000, None),
        ];
        let lived = Lived {
            name: "0".to_owned(),
            app_pid: Some(2),
            guard_pid: 1,
            steps,
            told: None,
            killed_for: None,
        };
        let report = report("/x.sqfs", Some(&lived), &Ok(Ending::Signal(9)));
        assert_eq!(report["package"], "/x.sqfs");
        assert_eq!(report["signal"], 9);
        assert_eq!(report["steps"][0]["at_us"], 0.0);
        assert_eq!(report["steps"][1]["at_us"], 3.25);
        assert_eq!(report["steps"][1]["errno"], "EINVAL");
        assert_eq!(report["steps"][1]["actor"], "guard");
    }
}
