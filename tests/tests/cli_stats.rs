//! `rocker stats`: what living rockers use, as the kernel tells it to whoever asks.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rocker_client::{Launch, Limits, OpenRocker, Program, Run, Stdio};
use serde_json::Value;
use tests::cgroup::needs;
use tests::output::{json_of, said};
use tests::{APP_UID, Daemon, SOON, bin, probe_package, process, replayed, runner, within};

fn main() -> ExitCode {
    runner::main(tests::root![
        a_rocker_without_limits_is_counted_by_its_processes,
        a_rocker_with_limits_is_counted_by_its_cgroups,
        an_entered_app_is_counted,
        an_ordinary_user_sees_his_own,
        what_is_not_there_is_said_in_one_line,
    ])
}

fn stats(daemon: &Daemon, more: &[&str]) -> Command {
    let mut command = Command::new(bin("rocker"));
    command.arg("stats").arg("--socket").arg(daemon.socket()).args(more);
    command
}

fn told(mut command: Command) -> Value {
    json_of(said(command.arg("--json")).as_bytes())
}

fn open(launch: &Launch) -> OpenRocker {
    replayed(launch.open()).unwrap()
}

/// Has a shell say that it is ready, and lets it be.
fn shell(rocker: &mut OpenRocker, script: &str) -> Run {
    use std::io::Read;
    let (mut output, stdout) = std::io::pipe().unwrap();
    let program = Program::new("sh").args(["-c", script]).stdin(Stdio::Null).stdout(stdout);
    let run = rocker.spawn(&program, &Limits::new()).unwrap();
    drop(program);
    let mut ready = [0];
    output.read_exact(&mut ready).unwrap();
    run
}

const BURN: &str = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";

fn a_rocker_without_limits_is_counted_by_its_processes() {
    let daemon = Daemon::start();
    assert_eq!(said(&mut stats(&daemon, &[])), "no rockers\n");
    let mut rockers =
        [open(&daemon.launch(probe_package())), open(&daemon.launch(probe_package()))];
    let names = rockers.each_ref().map(|rocker| rocker.guard_name().to_string());
    let of = |name: &str| told(stats(&daemon, &[name]));
    let before = of(&names[0]);
    assert_eq!(before["pids"], 1, "the guard: {before}");
    shell(&mut rockers[0], "sleep 1000 & sleep 1000 & echo; wait");
    let now = of(&names[0]);
    assert_eq!((&now["pids"], &now["pids_peak"]), (&Value::from(4), &Value::Null), "{now}");
    assert!(now["memory"].as_u64() > before["memory"].as_u64(), "{before} {now}");
    assert_eq!(now["memory_peak"], Value::Null);
    assert!(now["read"].is_u64() && now["written"].is_u64(), "root may look: {now}");
    assert_eq!((&now["name"], &now["guard_pid"]), (&before["name"], &before["guard_pid"]));
    assert_eq!(now["package"], probe_package().display().to_string());
    // What was used by those who are gone counts.
    let run = shell(&mut rockers[0], &format!("echo; {BURN}"));
    rockers[0].wait(&run).unwrap();
    let after = of(&names[0]);
    assert!(after["user_us"].as_u64().unwrap() >= now["user_us"].as_u64().unwrap() + 100_000);
    assert!(of(&names[1])["user_us"].as_u64() < Some(100_000), "not the other's");
    // All of them, and as a table.
    let all = told(stats(&daemon, &[]));
    assert_eq!(all.as_array().map(Vec::len), Some(2), "{all}");
    let table = said(&mut stats(&daemon, &[]));
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("NAME "), "{table}");
    let line = lines.iter().find(|line| line.starts_with(&names[0])).unwrap();
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!((cells.len(), cells[6], cells[7], cells[8]), (12, "-", "4", "-"), "{table}");
    assert!(cells[3].ends_with('s') && cells[5].ends_with(['K', 'M']), "{table}");
    assert!(rockers.into_iter().all(|rocker| rocker.kill(SOON).unwrap()));
}

fn a_rocker_with_limits_is_counted_by_its_cgroups() {
    for controller in ["memory", "pids"] {
        needs(controller);
    }
    let parent = format!("/rocker-test-{}", std::process::id());
    let daemon = Daemon::with_config(&format!("cgroup = \"{parent}\"\n"));
    let mut rocker = open(&daemon.launch(probe_package()).memory(64 << 20).pids(20));
    let name = rocker.guard_name().to_string();
    // A file in memory is no process's own: a cgroup alone counts it.
    let script = "head -c 8000000 /dev/zero > /dev/shm/rocker-$$; rm /dev/shm/rocker-$$; \
        sleep 1000 & echo; wait";
    let run = shell(&mut rocker, script);
    let now = told(stats(&daemon, &[&name]));
    let peak = now["memory_peak"].as_u64();
    assert!(peak.is_none_or(|peak| (8_000_000..=64 << 20).contains(&peak)), "{now}");
    assert!(now["memory"].as_u64().unwrap() <= 64 << 20, "{now}");
    assert_eq!(now["pids"], 3, "{now}");
    assert!(now["pids_peak"].as_u64().is_none_or(|peak| (3..=20).contains(&peak)), "{now}");
    rocker.signal(&run, 9).unwrap();
    // The same figures as the guard's own report has.
    let report = rocker.wait(&run).unwrap();
    let after = told(stats(&daemon, &[&name]));
    assert_eq!(after["memory_peak"].as_u64(), report.usage.memory_peak, "{after} {report:?}");
    assert!(rocker.kill(SOON).unwrap());
}

fn an_entered_app_is_counted() {
    let daemon = Daemon::start();
    let program = Program::new("sh").args(["-c", "sleep 1000 & wait"]).stdin(Stdio::Null);
    let mut rocker = replayed(daemon.launch(probe_package()).spawn(&program)).unwrap();
    assert!(within(SOON, || process::inside(rocker.guard_pid()).len() == 2));
    let now = told(stats(&daemon, &[rocker.guard_name().as_str()]));
    assert_eq!(now["pids"], 3, "{now}");
    rocker.kill().unwrap();
    rocker.wait().unwrap();
    assert!(rocker.wait_gone(Some(SOON)).unwrap());
}

fn an_ordinary_user_sees_his_own() {
    let (daemon, package) = Daemon::for_users(&[APP_UID]);
    let mut run = Command::new(bin("rocker"));
    run.arg("run").arg("--socket").arg(daemon.socket()).arg("--exec-dir").arg(daemon.exec_dir());
    run.arg(&package).args(["--", "sh", "-c", "sleep 1000 & wait"]);
    let mut child = run.uid(APP_UID).gid(APP_UID).spawn().unwrap();
    let told = || {
        let mut stats = stats(&daemon, &[]);
        stats.uid(APP_UID).gid(APP_UID);
        told(stats)
    };
    assert!(within(SOON, || told()[0]["pids"] == 3), "{}", told());
    let now = &told()[0];
    assert!(now["user_us"].is_u64() && now["memory"].as_u64() > Some(0), "{now}");
    // The kernel tells nobody but root what the guard has read.
    assert_eq!((&now["read"], &now["written"]), (&Value::Null, &Value::Null), "{now}");
    // Root's are not his to see.
    let other = open(&daemon.launch(probe_package()));
    assert_eq!(told().as_array().map(Vec::len), Some(1));
    let mut denied = stats(&daemon, &[other.guard_name().as_str()]);
    let denied = denied.uid(APP_UID).gid(APP_UID).output().unwrap();
    assert_eq!(denied.status.code(), Some(125), "{denied:?}");
    assert!(other.kill(SOON).unwrap());
    let name = told()[0]["name"].as_str().unwrap().to_owned();
    rocker_client::kill_by_name(daemon.socket(), &name, SOON).unwrap();
    child.wait().unwrap();
}

fn what_is_not_there_is_said_in_one_line() {
    let daemon = Daemon::start();
    let output = stats(&daemon, &["abc"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let line = "rocker: rocker \"abc\": no living rocker has this name\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), line);
    let output = stats(&daemon, &[""]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "rocker: rocker \"\": no name\n");
}
