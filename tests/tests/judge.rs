//! `rocker judge`: what each way to end is called, and that nothing of one run is there in the
//! next.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::time::Duration;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

use serde_json::{Value, json};
use tests::cgroup::needs;
use tests::output::{assert_refused, json_lines_of, json_of};
use tests::{APP_UID, Daemon, Leaks, SOON, bin, probe_package, process, runner, scratch};

fn main() -> ExitCode {
    runner::main(tests::root![
        each_way_to_end_has_its_verdict,
        a_hog_and_a_forbidden_call_have_theirs,
        one_run_finds_nothing_of_another,
        nobody_leaves_the_next_one_less,
        who_shares_an_output_cannot_make_it_longer,
        jobs_are_done_by_all_that_are_ready,
        each_rocker_may_have_a_uid_of_its_own,
        a_rocker_that_cannot_be_made_anew_is_tried_again,
        who_takes_what_a_uid_has_keeps_no_job_from_its_result,
        files_go_in_and_come_out,
        what_is_not_to_be_copied_leaves_the_result,
        what_is_no_job_is_said_and_the_next_one_done,
        nothing_of_the_host_can_be_written,
        an_ordinary_user_judges,
        who_writes_a_users_file_has_no_rights_over_it,
    ])
}

fn judge(daemon: &Daemon, more: &[&str]) -> Command {
    let mut judge = Command::new(bin("rocker"));
    judge.arg("judge").arg("--socket").arg(daemon.socket());
    judge.arg("--exec-dir").arg(daemon.exec_dir()).args(more);
    judge
}

fn as_nobody(mut judge: Command) -> Command {
    judge.args(["--uid", "54321", "--gid", "54322"]);
    judge
}

/// The results of these jobs, by their ids.
fn judged(judge: Command, jobs: &[Value]) -> Vec<Value> {
    judged_with(judge, &probe_package(), jobs)
}

fn judged_with(mut judge: Command, package: &Path, jobs: &[Value]) -> Vec<Value> {
    let text: String = jobs.iter().map(|job| format!("{job}\n")).collect();
    let output = fed(judge.arg(package), &text);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{:?} {said}", output.status);
    let mut results = json_lines_of(&output.stdout);
    results.sort_by_key(|result| result["id"].as_u64());
    assert_eq!(results.len(), jobs.len(), "{results:?}");
    results
}

fn fed(command: &mut Command, text: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn shell(id: u32, script: &str) -> Value {
    json!({"id": id, "argv": ["sh", "-c", script]})
}

fn each_way_to_end_has_its_verdict() {
    let (leaks, daemon) = (Leaks::snapshot(), Daemon::start());
    let with = |mut job: Value, key: &str, value: Value| {
        job[key] = value;
        job
    };
    let jobs = [
        with(shell(0, "cat; echo said >&2"), "stdin", json!("heard")),
        shell(1, "exit 3"),
        shell(2, "kill -SEGV $$"),
        with(shell(3, "while :; do :; done"), "time", json!(1)),
        with(shell(4, "exec sleep 60"), "wall", json!("200ms")),
        with(shell(5, "while :; do echo flood; done"), "output", json!(65536)),
        // The shell ends when it cannot fork any more.
        shell(6, "while :; do sleep 60 & done"),
        shell(7, "exec no-such-program"),
        json!({"id": 8, "argv": ["no-such-program"]}),
        with(shell(9, "exit"), "wall", json!(0)),
        with(shell(10, "exit"), "time", json!("500ms")),
        with(shell(11, "while :; do echo flood; done"), "output", json!("64K")),
        with(shell(12, "exit"), "output", json!("64KB")),
    ];
    let results = judged(as_nobody(judge(&daemon, &["--ready", "1", "--pids", "50"])), &jobs);
    let verdicts: Vec<&str> =
        results.iter().map(|result| result["verdict"].as_str().unwrap_or("none")).collect();
    let [time, signalled, failed] = ["time limit exceeded", "signalled", "nonzero exit status"];
    let wanted = [
        "normal",
        failed,
        signalled,
        time,
        time,
        "output limit exceeded",
        failed,
        failed,
        "none",
        "none",
        "none",
        "output limit exceeded",
        "none",
    ];
    assert_eq!(verdicts, wanted, "{results:#?}");
    assert_eq!((&results[0]["stdout"], &results[0]["stderr"]), (&json!("heard"), &json!("said\n")));
    assert_eq!((&results[1]["exit"], &results[2]["signal"]), (&json!(3), &json!(11)));
    assert!(results[3]["user_us"].as_u64() > Some(500_000), "{}", results[3]);
    assert!(
        results[6]["rocker_pids_peak"].as_u64().is_none_or(|peak| peak <= 51),
        "{}",
        results[6]
    );
    for at in [5, 11] {
        assert_eq!(results[at]["stdout"].as_str().map(str::len), Some(65536), "{at}");
    }
    for (at, words) in [
        (8, "no-such-program"),
        (9, "wall 0: it must be a time, like 0.5, 500ms, 3s, 2m or 1h"),
        (10, "time \"500ms\": it must be a time in whole seconds"),
        (12, "output \"64KB\": it must be a number of bytes below 2^64, or one with K, M or G"),
    ] {
        assert!(results[at]["error"].as_str().unwrap().contains(words), "{}", results[at]);
    }
    drop(daemon);
    leaks.assert_none();
}

fn a_hog_and_a_forbidden_call_have_theirs() {
    needs("memory");
    let (leaks, daemon) = (Leaks::snapshot(), Daemon::start());
    let profile = daemon.path("profile.json");
    let text = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["umask", "acct"], "action": "SCMP_ACT_KILL_PROCESS"}],
    });
    fs::write(&profile, text.to_string()).unwrap();
    let probe = |id: u32, command: &str| json!({"id": id, "argv": ["bin/probe", command]});
    let jobs = [
        probe(0, "hog 64"),
        probe(1, &format!("call {} 18", libc::SYS_umask)),
        // Both have the same rocker: neither is left with what was the other's.
        probe(2, "hog 4"),
        // What no App may fails, whatever a profile says.
        probe(3, &format!("call {}", libc::SYS_acct)),
    ];
    let options = ["--ready", "1", "--memory", "32M", "--seccomp", profile.to_str().unwrap()];
    let results = judged(as_nobody(judge(&daemon, &options)), &jobs);
    let verdicts: Vec<&Value> = results.iter().map(|result| &result["verdict"]).collect();
    let wanted = ["memory limit exceeded", "disallowed system call", "normal", "normal"];
    assert_eq!(verdicts, wanted, "{results:#?}");
    assert_eq!((&results[0]["signal"], &results[1]["signal"]), (&json!(9), &json!(9)));
    assert_eq!(results[1]["syscall"], "umask");
    assert!(results[3]["stdout"].as_str().unwrap().ends_with("EPERM\n"), "{}", results[3]);
    assert!(results[0].get("syscall").is_none(), "{}", results[0]);
    let peak = results[0]["rocker_memory_peak"].as_u64();
    assert!(peak.is_none_or(|bytes| bytes <= 32 << 20), "{}", results[0]);
    drop(daemon);
    leaks.assert_none();
}

fn one_run_finds_nothing_of_another() {
    let (leaks, daemon) = (Leaks::snapshot(), Daemon::start());
    let leave = "echo x > mine; mkdir -p deep/er; ln -s /etc/passwd link; echo x > /dev/shm/mine; \
        (setsid sleep 1000 &) ; exit 0";
    let look = "ls -A . /dev/shm; cat /proc/[0-9]*/comm | grep -c sleep; exit 0";
    let results = judged(
        as_nobody(judge(&daemon, &["--ready", "1"])),
        &[shell(0, look), shell(1, leave), shell(2, look)],
    );
    assert_eq!(results[0]["stdout"], results[2]["stdout"], "{results:#?}");
    assert!(results[2]["stdout"].as_str().unwrap().ends_with("0\n"), "{}", results[2]);
    assert_eq!(results[1]["verdict"], "normal", "{}", results[1]);
    drop(daemon);
    leaks.assert_none();
}

/// What a program leaves running has its outputs still, as its result is read.
/// What every program inherits belongs to PID 1, whose user is theirs.
fn nobody_leaves_the_next_one_less() {
    let (leaks, daemon) = (Leaks::snapshot(), Daemon::start());
    let look = "ulimit -Hn; grep SigQ: /proc/self/status";
    let jobs = [
        shell(0, look),
        shell(1, "prlimit --pid 1 --nofile=99:99 && echo lower"),
        shell(2, look),
        shell(3, "for i in 1 2 3 4 5 6 7 8 9; do kill -40 1; done; grep SigQ: /proc/self/status"),
        shell(4, look),
    ];
    let results = judged(as_nobody(judge(&daemon, &["--ready", "1"])), &jobs);
    let said: Vec<&str> = results.iter().map(|it| it["stdout"].as_str().unwrap()).collect();
    assert_eq!(said[1], "lower\n", "{results:?}");
    assert!(said[3].starts_with("SigQ:\t9/"), "{results:?}");
    assert!(said[0].contains("SigQ:\t0/"), "{results:?}");
    assert_eq!([said[2], said[4]], [said[0]; 2]);
    drop(daemon);
    leaks.assert_none();
}

fn who_shares_an_output_cannot_make_it_longer() {
    const LIMIT: usize = 4 << 20;
    let (leaks, daemon, dir) = (Leaks::snapshot(), Daemon::start(), scratch());
    let command = format!("rewind-output {LIMIT}");
    let rewinds = |id: u32| json!({"id": id, "argv": ["bin/probe", command], "output": LIMIT});
    let mut longer = shell(2, "exit 0");
    longer["files"] = json!({"longer": {"text": "more than 8"}});
    longer["copy_out"] = json!({"longer": dir.path().join("out")});
    longer["output"] = json!(8);
    let results =
        judged(as_nobody(judge(&daemon, &["--ready", "1"])), &[rewinds(0), rewinds(1), longer]);
    for result in &results[..2] {
        let said = result["stdout"].as_str().map(str::len);
        assert_eq!((said, &result["verdict"]), (Some(LIMIT), &json!("normal")));
    }
    let why = results[2]["not_copied"]["longer"].as_str().unwrap();
    assert!(why.ends_with("it is longer than --output 8"), "{why}");
    drop((daemon, dir));
    leaks.assert_none();
}

fn jobs_are_done_by_all_that_are_ready() {
    let (leaks, daemon) = (Leaks::snapshot(), Daemon::start());
    let jobs: Vec<Value> = (0..60).map(|id| shell(id, &format!("echo {id}"))).collect();
    let results = judged(as_nobody(judge(&daemon, &["--ready", "4"])), &jobs);
    for (id, result) in results.iter().enumerate() {
        assert_eq!(result["stdout"], json!(format!("{id}\n")), "{result}");
    }
    drop(daemon);
    leaks.assert_none();
}

fn each_rocker_may_have_a_uid_of_its_own() {
    let (leaks, daemon) = (Leaks::snapshot(), Daemon::start());
    let jobs = [shell(0, "id -u; sleep 0.5"), shell(1, "id -u; sleep 0.5")];
    let options = ["--ready", "2", "--own-uids"];
    let results = judged(as_nobody(judge(&daemon, &options)), &jobs);
    let mut uids: Vec<_> = results.iter().map(|result| result["stdout"].as_str()).collect();
    uids.sort_unstable();
    assert_eq!(uids, [Some("54321\n"), Some("54322\n")]);
    // Whose those beyond nobody are is not ours to say.
    let unsaid = fed(judge(&daemon, &options).arg(probe_package()), "");
    assert_refused(&unsaid, 125, &["--uid"]);
    drop(daemon);
    leaks.assert_none();
}

fn a_rocker_that_cannot_be_made_anew_is_tried_again() {
    let mut daemon = Daemon::start();
    let mut judge = as_nobody(judge(&daemon, &["--ready", "1"]));
    judge.arg(probe_package()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = judge.spawn().unwrap();
    let mut give = child.stdin.take().unwrap();
    let mut told = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&told.next().unwrap().unwrap()).unwrap() };
    writeln!(give, "{}", shell(0, "echo done")).unwrap();
    assert_eq!(next()["verdict"], "normal");
    let name = rocker_client::list(daemon.socket(), SOON).unwrap()[0].name;
    rocker_client::kill_by_name(daemon.socket(), name.as_str(), SOON).unwrap();
    daemon.stop();
    // This one finds that the rocker is gone, if the reset of the last one has not.
    writeln!(give, "{}", shell(1, "echo done")).unwrap();
    // It has been tried in vain by then.
    std::thread::sleep(Duration::from_millis(200));
    daemon.restart();
    assert_eq!(next()["id"], 1);
    writeln!(give, "{}", shell(2, "echo done")).unwrap();
    let last = next();
    assert_eq!((&last["id"], &last["verdict"]), (&json!(2), &json!("normal")));
    drop(give);
    assert!(child.wait().unwrap().success());
}

fn who_takes_what_a_uid_has_keeps_no_job_from_its_result() {
    // Nobody else's in any test.
    const UID: u32 = 54398;
    let daemon = Daemon::start();
    let mut judge = judge(&daemon, &["--ready", "1", "--uid", &UID.to_string()]);
    judge.arg(probe_package()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = judge.spawn().unwrap();
    let mut give = child.stdin.take().unwrap();
    let mut told = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&told.next().unwrap().unwrap()).unwrap() };
    for files in [json!({}), json!({"a": {"text": "b"}})] {
        let job = json!({"argv": ["sh", "-c", "echo done"], "files": files});
        writeln!(give, "{job}").unwrap();
        assert_eq!(next()["verdict"], "normal");
        let held = process::hold_descriptors(UID);
        writeln!(give, "{job}").unwrap();
        // It has been tried in vain by then.
        std::thread::sleep(Duration::from_millis(200));
        drop(held);
        assert_eq!(next()["verdict"], "normal");
    }
    drop(give);
    assert!(child.wait().unwrap().success());
}

fn files_go_in_and_come_out() {
    let (leaks, daemon, dir) = (Leaks::snapshot(), Daemon::start(), scratch());
    let [source, out, result] = ["source", "out", "result"].map(|name| dir.path().join(name));
    fs::write(&source, "#!/bin/sh\ncat; tr a-z A-Z < data > made\n").unwrap();
    fs::write(&result, "beside").unwrap();
    let mut one = Command::new(bin("rocker"));
    one.args(["judge", "run", "--uid", "54321", "--gid", "54322", "--socket"]);
    one.arg(daemon.socket()).arg("--exec-dir").arg(daemon.exec_dir());
    one.arg("--stdin").arg(&result).arg("--stdout").arg(&out);
    one.arg("--copy-in").arg(format!("{}:program", source.display()));
    one.arg("--copy-in").arg(format!("{}:data", result.display()));
    one.arg("--copy-out").arg(format!("made:{}", result.display()));
    let output = one.arg(probe_package()).args(["--", "./program"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let told = json_of(&output.stdout);
    assert_eq!((&told["verdict"], &told["stderr"]), (&json!("normal"), &json!("")), "{told}");
    assert!(told.get("stdout").is_none(), "{told}");
    assert_eq!(fs::read_to_string(&out).unwrap(), "beside");
    assert_eq!(fs::read_to_string(&result).unwrap(), "BESIDE");
    drop((daemon, dir));
    leaks.assert_none();
}

fn what_is_not_to_be_copied_leaves_the_result() {
    let (leaks, daemon, dir) = (Leaks::snapshot(), Daemon::start(), scratch());
    let at = |name: &str| dir.path().join(name).display().to_string();
    let mut job = shell(0, "echo said; echo x > there");
    job["copy_out"] = json!({"nope": at("nope"), "there": at("there"), "./there": at("link")});
    std::os::unix::fs::symlink(at("nope"), at("link")).unwrap();
    let lost = json!({"id": 1, "argv": ["true"], "files": {"no/dir": {"text": ""}}});
    let results = judged(as_nobody(judge(&daemon, &["--ready", "1"])), &[job, lost]);
    let why = format!("cannot copy nope to {}: No such file or directory", at("nope"));
    let link = format!("copy ./there to {}: it is a link: name what it leads to", at("link"));
    let link = format!("cannot {link}");
    assert_eq!(results[0]["not_copied"], json!({"nope": why, "./there": link}), "{}", results[0]);
    assert_eq!((&results[0]["stdout"], &results[0]["exit"]), (&json!("said\n"), &json!(0)));
    assert_eq!(fs::read_to_string(at("there")).unwrap(), "x\n");
    assert!(!fs::exists(at("nope")).unwrap());
    assert!(results[1]["error"].as_str().unwrap().starts_with("cannot write no/dir: No such"));
    drop((daemon, dir));
    leaks.assert_none();
}

fn what_is_no_job_is_said_and_the_next_one_done() {
    let (leaks, daemon) = (Leaks::snapshot(), Daemon::start());
    let mut judge = as_nobody(judge(&daemon, &["--ready", "1"]));
    let jobs = format!(
        "{{\n\n{}\n{}\n{}\n{}\n{}\n{}\n",
        json!({"id": 1, "argv": []}),
        json!({"id": 2, "argv": ["true"], "nonsense": 1}),
        json!({"id": 3, "argv": ["true"], "files": {"../x": {"text": ""}}}),
        json!({"id": 4, "argv": ["true"]}),
        json!({"id": 5, "argv": ["true"], "files": {"x": "text"}}),
        json!({"id": 6, "argv": ["true"], "files": {"x": {}}}),
    );
    let output = fed(judge.arg(probe_package()), &jobs);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results = json_lines_of(&output.stdout);
    let errors: Vec<&str> =
        results.iter().map(|result| result["error"].as_str().unwrap_or("none")).collect();
    assert_eq!(errors.len(), 7, "{results:?}");
    assert_eq!(errors[0], "not a job: line 1: it is not JSON: it ends within an object");
    let unknown = "not a job: line 4: unknown key \"nonsense\": known are id, argv, env, ";
    assert!(errors[2].starts_with(unknown), "{results:?}");
    assert_eq!(errors[5], "not a job: line 7: x: it must be an object, not \"text\"");
    assert_eq!(errors[6], "files, x: it takes text or path");
    // What is no JSON has no id either.
    let ids: Vec<&Value> = results.iter().map(|result| &result["id"]).collect();
    assert_eq!(json!(ids), json!([null, 1, 2, 3, 4, 5, 6]));
    assert!(
        errors[1].starts_with("argv") && errors[3].contains("../x: a relative path"),
        "{results:?}"
    );
    assert_eq!((errors[4], &results[4]["verdict"]), ("none", &json!("normal")), "{results:?}");
    drop(daemon);
    leaks.assert_none();
}

fn nothing_of_the_host_can_be_written() {
    let (leaks, daemon) = (Leaks::snapshot(), Daemon::start());
    let script = "for dir in / /usr /etc /var /home /root /run /var/tmp /opt /srv /mnt; do \
        (echo x > $dir/rocker-was-here) 2>/dev/null && echo $dir; done; exit 0";
    let results = judged(as_nobody(judge(&daemon, &["--ready", "1"])), &[shell(0, script)]);
    // `/` itself is the rocker's own, and empty in the next run.
    assert!(["", "/\n"].contains(&results[0]["stdout"].as_str().unwrap()), "{}", results[0]);
    for dir in ["", "usr", "etc", "var", "home", "root", "run", "var/tmp", "opt"] {
        assert!(!fs::exists(format!("/{dir}/rocker-was-here")).unwrap(), "/{dir}");
    }
    drop(daemon);
    leaks.assert_none();
}

fn an_ordinary_user_judges() {
    let leaks = Leaks::snapshot();
    let (daemon, package) = Daemon::for_users(&[APP_UID]);
    // The programs' own, so they may write to it where they can open it.
    let input = daemon.path("input");
    fs::write(&input, format!("{APP_UID}\n")).unwrap();
    std::os::unix::fs::chown(&input, Some(APP_UID), None).unwrap();
    let mut judge = judge(&daemon, &["--ready", "2"]);
    judge.uid(APP_UID).gid(APP_UID);
    let mut jobs: Vec<Value> = (0..6).map(|id| shell(id, "id -u; exit 0")).collect();
    jobs.push(shell(6, "cat; echo spoilt > /proc/self/fd/0; exit 0"));
    jobs[6]["stdin_file"] = json!(input);
    for result in judged_with(judge, &package, &jobs) {
        assert_eq!(result["stdout"], json!(format!("{APP_UID}\n")), "{result}");
    }
    assert_eq!(fs::read_to_string(&input).unwrap(), format!("{APP_UID}\n"));
    drop(daemon);
    leaks.assert_none();
}

/// The programs are that user's too, who may give a file any rights: setuid and for all, for one.
fn who_writes_a_users_file_has_no_rights_over_it() {
    let leaks = Leaks::snapshot();
    let (daemon, package) = Daemon::for_users(&[APP_UID]);
    let dir = daemon.path("results");
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::chown(&dir, Some(APP_UID), None).unwrap();
    let mut judge = judge(&daemon, &["--ready", "1"]);
    judge.uid(APP_UID).gid(APP_UID);
    // Who is left running has the output still when it is in its file.
    let later = "(sleep 0.2; echo later) & chmod 6777 /proc/self/fd/1; echo said; exit 0";
    let mut jobs = [shell(0, later), shell(1, "chmod 6777 /proc/self/fd/2; echo said >&2; exit 0")];
    jobs[0]["stdout_file"] = json!(dir.join("0"));
    jobs[1]["stderr_file"] = json!(dir.join("1"));
    judged_with(judge, &package, &jobs);
    for name in ["0", "1"] {
        let found = fs::metadata(dir.join(name)).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid()), (0o644, APP_UID), "{name}");
        assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), "said\n", "{name}");
    }
    drop(daemon);
    leaks.assert_none();
}
