//! Which system calls an App may make, and what comes of the others.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::Read;
use std::process::ExitCode;

use protocol::{Errno, Exit, ExitReport, Rule, Step, Verdict};
use rocker_client::{Limits, OpenRocker, Seccomp, Stdio};
use tests::app::{self, App};
use tests::{APP_GID, APP_UID, Daemon, Program, SOON, probe_package, replayed, runner};

fn main() -> ExitCode {
    runner::main(tests::root![
        every_app_and_program_has_the_default_filter,
        what_the_default_lacks_fails_with_eperm,
        what_is_newer_than_the_list_fails_with_enosys,
        other_machines_calls_end_the_app,
        ordinary_programs_run_as_ever,
        who_is_unconfined_has_no_filter,
        log_denies_nothing,
        a_filter_of_the_callers_own_replaces_the_default,
        a_filter_that_the_kernel_refuses_is_told,
        user_namespaces_are_for_who_asks,
        without_a_filter_there_are_no_user_namespaces_either,
        the_policy_says_who_may_ask,
        a_program_is_killed_for_what_its_own_filter_forbids_and_the_call_is_named,
        a_program_may_not_even_be_executed,
        many_threads_at_once_are_one_violation,
        a_child_in_another_session_is_no_way_out,
        who_outlives_its_program_is_denied,
        a_program_may_have_a_filter_that_asks_nobody,
    ])
}

fn every_app_and_program_has_the_default_filter() {
    let daemon = Daemon::start();
    for answer in app::both_ways(&daemon.launch(probe_package()), &["status Seccomp NoNewPrivs"]) {
        assert_eq!((answer.one("Seccomp"), answer.one("NoNewPrivs")), ("2", "1"));
    }
}

/// A call, and what it would say without a filter: not EPERM, or the test could not fail.
const DENIED: [(&str, i64, &str); 25] = [
    ("add_key", libc::SYS_add_key, ""),
    ("bpf", libc::SYS_bpf, "999"),
    ("chroot", libc::SYS_chroot, ""),
    ("clone3", libc::SYS_clone3, ""),
    ("fanotify_init", libc::SYS_fanotify_init, "0xffffffff"),
    ("fsopen", libc::SYS_fsopen, ""),
    ("get_mempolicy", libc::SYS_get_mempolicy, ""),
    ("io_uring_setup", libc::SYS_io_uring_setup, ""),
    ("kcmp", libc::SYS_kcmp, ""),
    ("keyctl", libc::SYS_keyctl, ""),
    ("kexec_load", libc::SYS_kexec_load, ""),
    ("mount", libc::SYS_mount, ""),
    ("move_pages", libc::SYS_move_pages, ""),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, "-1"),
    ("open_tree", libc::SYS_open_tree, "-1 0 -1"),
    ("perf_event_open", libc::SYS_perf_event_open, ""),
    ("pidfd_getfd", libc::SYS_pidfd_getfd, "-1"),
    ("process_madvise", libc::SYS_process_madvise, "-1"),
    ("request_key", libc::SYS_request_key, ""),
    ("setns", libc::SYS_setns, "-1"),
    ("socket AF_VSOCK", libc::SYS_socket, "40 1"),
    ("socket AF_ALG", libc::SYS_socket, "0x2600000026 5"),
    ("unshare CLONE_NEWUSER", libc::SYS_unshare, "0x10000000"),
    ("userfaultfd", libc::SYS_userfaultfd, "1"),
    ("personality ADDR_NO_RANDOMIZE", libc::SYS_personality, "0x40000"),
];

fn what_the_default_lacks_fails_with_eperm() {
    let daemon = Daemon::start();
    let calls: Vec<String> =
        DENIED.iter().map(|(_, number, words)| format!("call {number} {words}")).collect();
    let calls: Vec<&str> = calls.iter().map(|call| call.trim_end()).collect();
    let launch = daemon.launch(probe_package());
    for answer in app::both_ways(&launch, &calls) {
        for (call, (name, ..)) in calls.iter().zip(DENIED) {
            let wanted = if name == "clone3" { "ENOSYS" } else { "EPERM" };
            assert_eq!(answer.one(call), wanted, "{name}");
        }
    }
    // Most of these would come to something, or to another end, if nothing but the kernel's own
    // rules were in the way.
    let free = app::run(&launch.seccomp(Seccomp::Unconfined), &calls);
    let others = calls.iter().filter(|call| !["EPERM", "ENOSYS"].contains(&free.one(call)));
    assert!(others.count() > 12, "{free:?}");
}

fn what_is_newer_than_the_list_fails_with_enosys() {
    let daemon = Daemon::start();
    let calls = ["call 467", "call 600", "call 100000", "call 0x3fffffff"];
    for answer in app::both_ways(&daemon.launch(probe_package()), &calls) {
        for call in calls {
            assert_eq!(answer.one(call), "ENOSYS");
        }
    }
}

fn other_machines_calls_end_the_app() {
    let daemon = Daemon::start();
    if !cfg!(target_arch = "x86_64") {
        runner::skip("this processor is one machine only");
    }
    // x32: getpid, and an exit that would be a success.
    let calls = ["call 0x40000027", "call 0x400000e7"];
    for answer in app::both_ways(&daemon.launch(probe_package()), &calls) {
        assert_eq!(calls.map(|call| answer.one(call)), ["EPERM"; 2]);
    }
    let answer = daemon.probe(&["say before", "call-32", "say after"]);
    assert_eq!(answer.all("say"), ["before"]);
    let signal = std::os::unix::process::ExitStatusExt::signal(&answer.status);
    assert_eq!(signal, Some(libc::SIGSYS));
}

/// What people run; each says `ok` when it has done what it is for.
const ORDINARY: [&str; 16] = [
    "sh -c 'x=$(echo a | tr a b); test $x = b && (exit 3); test $? = 3'",
    "cd /tmp && d=$(mktemp -d) && cp /etc/passwd $d/a && mv $d/a $d/b && ln -s b $d/l \
     && chmod 600 $d/b && touch -d yesterday $d/b && stat $d/l >&2 && ls -la $d >&2 \
     && truncate -s 9 $d/b && mkfifo $d/f && rm -r $d",
    "seq 100000 | sort -rn | uniq | head -1 | grep -q 100000",
    "find /etc -maxdepth 1 -name 'pass*' | xargs wc -l >&2",
    "tar -C /etc -cf - passwd group | tar -tf - | wc -l | grep -q 2",
    "bash -c 'coproc cat; echo x >&${COPROC[1]}; read -u ${COPROC[0]} y; kill %1; test $y = x'",
    "perl -e 'use Socket; socketpair(A, B, AF_UNIX, SOCK_STREAM, 0) or die; \
     if (fork) { close A; print {*STDERR} <B>; wait } else { print A qq(hello\\n) }'",
    "python3 -c 'import threading, subprocess, multiprocessing, tempfile, socket, mmap, select
with multiprocessing.Pool(2) as pool: assert pool.map(abs, [-1, -2]) == [1, 2]
thread = threading.Thread(target=lambda: None); thread.start(); thread.join()
assert subprocess.check_output([\"echo\", \"x\"]) == b\"x\\n\"
server = socket.create_server((\"127.0.0.1\", 0)); server.close()
mmap.mmap(-1, 4096); select.epoll().close(); tempfile.TemporaryFile().close()'",
    "python3 -c 'import asyncio
async def run():
    made = await asyncio.create_subprocess_exec(\"sleep\", \"0.01\")
    assert await made.wait() == 0
asyncio.run(run())'",
    "cd /tmp && d=$(mktemp -d) && cd $d && echo 'int main(void) { return 0; }' > a.c \
     && gcc -O1 a.c -o a && ./a && rm -r $d",
    "openssl rand -hex 8 >&2",
    "git --version >&2 && cd /tmp && d=$(mktemp -d) && HOME=$d git init -q $d/r && rm -rf $d",
    "timeout 5 nice -n 5 ionice -c 3 taskset -c 0 true",
    "strace -f -o /dev/null true || test $? = 127",
    "date >&2; uname -a >&2; df /tmp >&2; free >&2; ps >&2; id >&2; uptime >&2",
    "flock /tmp -c true; setsid true; nohup true; stdbuf -oL true; env -i /bin/true",
];

fn ordinary_programs_run_as_ever() {
    let daemon = Daemon::start();
    let launch = daemon.overlaid(probe_package(), &["/tmp"]);
    let script = |line: &str| {
        let line = format!("{{ {line}\n}} 2>&1 >/dev/null && echo ok");
        Program::new("sh").args(["-c", &line]).env("PATH", "/usr/bin:/bin").env("HOME", "/tmp")
    };
    let mut rocker = replayed(launch.open()).unwrap();
    for line in ORDINARY {
        let program = line.split(' ').next().unwrap();
        let is_there = |program| {
            ["/usr/bin", "/bin"].iter().any(|dir| fs::exists(format!("{dir}/{program}")).unwrap())
        };
        if ["python3", "perl", "git", "openssl", "strace"].contains(&program) && !is_there(program)
            || line.contains("gcc") && !is_there("gcc")
        {
            continue;
        }
        let text = app::commanded(&mut rocker, script(line));
        assert!(text.ends_with("ok\n"), "{line}: {text}");
    }
    assert!(rocker.kill(SOON).unwrap());
    // The most demanding one as an entered App.
    let answer = App::start_program(&launch, script(ORDINARY[1])).unwrap().finish();
    assert_eq!(answer.all("ok").len(), 1, "{answer:?}");
}

fn who_is_unconfined_has_no_filter() {
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package()).seccomp(Seccomp::Unconfined);
    let unshare = format!("call {} 0x10000000", libc::SYS_unshare);
    for answer in app::both_ways(&launch, &["status Seccomp", "call 600", "call-32", &unshare]) {
        assert_eq!(answer.one("Seccomp"), "0");
        assert_eq!(answer.one("call 600"), "ENOSYS");
        assert!(answer.status.success());
    }
}

fn log_denies_nothing() {
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package()).seccomp(Seccomp::Log);
    let find = format!("call {} 10 -3", libc::SYS_keyctl);
    for answer in app::both_ways(&launch, &["status Seccomp", &find, "call-32"]) {
        assert_eq!((answer.one("Seccomp"), answer.one(&find)), ("2", "EFAULT"));
        assert!(answer.status.success());
    }
}

/// `struct sock_filter`
fn instruction(code: u16, yes: u8, no: u8, operand: u32) -> [u8; 8] {
    let ([a, b], [c, d, e, f]) = (code.to_ne_bytes(), operand.to_ne_bytes());
    [a, b, yes, no, c, d, e, f]
}

/// One call fails with this errno, the others are allowed.
fn one_fails(call: i64, errno: u32) -> Seccomp {
    let call = u32::try_from(call).unwrap();
    let filter = [
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 0, 1, call),
        instruction(0x06, 0, 0, 0x5_0000 | errno),
        instruction(0x06, 0, 0, 0x7fff_0000),
    ];
    Seccomp::Filter(filter.concat())
}

fn a_filter_of_the_callers_own_replaces_the_default() {
    const EXDEV: u32 = 18;
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package()).seccomp(one_fails(libc::SYS_uname, EXDEV));
    let (uname, find) =
        (format!("call {} 0", libc::SYS_uname), format!("call {} 10 -3", libc::SYS_keyctl));
    for answer in app::both_ways(&launch, &[&uname, &find]) {
        assert_eq!((answer.one(&uname), answer.one(&find)), ("EXDEV", "EFAULT"));
    }
    // It has to allow the execution; whether that is so shows when it is too late for words of
    // ours, and says so.
    let launch = daemon.launch(probe_package()).seccomp(one_fails(libc::SYS_execve, EXDEV));
    let error = app::refused(&launch);
    assert_eq!((error.step(), error.errno()), (Step::RunApp, Some(Errno(18))));
}

fn a_filter_that_the_kernel_refuses_is_told() {
    let daemon = Daemon::start();
    // It falls off its end.
    let bad = Seccomp::Filter(instruction(0x20, 0, 0, 0).to_vec());
    let launch = daemon.launch(probe_package()).seccomp(bad);
    let error = app::refused(&launch);
    let wanted = "cannot start the App (enter.3): seccomp # the rocker's filter: Invalid argument";
    assert_eq!(error.to_string(), wanted);
    let mut rocker = replayed(launch.open()).unwrap();
    let error = rocker.spawn(&Program::new("bin/probe"), &Limits::new()).unwrap_err();
    let wanted =
        "cannot start the program (exec.1): seccomp # the rocker's filter: Invalid argument";
    assert_eq!(error.to_string(), wanted);
    assert!(rocker.kill(SOON).unwrap());
    let error = app::refused(&launch.seccomp(Seccomp::Filter(vec![0; 12])));
    let wanted = "system call filter: it is not a row of 1 to 4096 instructions of 8 bytes";
    assert_eq!(error.to_string(), wanted);
}

fn user_namespaces_are_for_who_asks() {
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package());
    let commands = ["unshare user mnt", "mount-tmpfs /tmp", "ls /tmp"];
    let answer = app::run(&launch, &commands);
    assert_eq!(answer.one("unshare user mnt"), "EPERM");
    for answer in app::both_ways(&launch.user_namespaces(true), &commands) {
        assert_eq!(commands.map(|command| answer.one(command)), ["ok", "ok", ""]);
    }
}

fn without_a_filter_there_are_no_user_namespaces_either() {
    let daemon = Daemon::start();
    let launch = daemon.launch(probe_package()).seccomp(Seccomp::Unconfined);
    let limit = "/proc/sys/user/max_user_namespaces";
    let (read, write) = (format!("read {limit}"), format!("write {limit} 9"));
    let unshare = format!("call {} 0x10000000", libc::SYS_unshare);
    let commands = [unshare.as_str(), &read, &write, "unshare user mnt"];
    for answer in app::both_ways(&launch, &commands) {
        let said = commands.map(|command| answer.one(command));
        assert_eq!(said, ["ENOSPC", "0", "EACCES", "ENOSPC"]);
    }
    // The limit is this rocker's, not the host's, nor that of one that asks for such namespaces.
    assert_ne!(fs::read_to_string(limit).unwrap().trim(), "0");
    for answer in app::both_ways(&launch.user_namespaces(true), &["unshare user mnt"]) {
        assert_eq!(answer.one("unshare user mnt"), "ok");
    }
}

fn the_policy_says_who_may_ask() {
    let mut daemon = Daemon::start();
    fs::copy(probe_package(), daemon.path("app.sqfs")).unwrap();
    let package = daemon.path("app.sqfs");
    let policy = |more: &str| {
        format!(
            "[[allow]]\nuid = {APP_UID}\npackages = [{:?}]\nexec_dirs = [{:?}]\n{more}\n",
            daemon.dir(),
            daemon.exec_dir()
        )
    };
    let policies = [policy(""), policy("unconfined = true")];
    let launch = daemon.launch(&package);
    let asked = [
        ("system call filter", launch.clone().seccomp(Seccomp::Unconfined)),
        ("system call filter", launch.clone().seccomp(Seccomp::Log)),
        ("user namespaces", launch.clone().user_namespaces(true)),
    ];
    for (policy, may) in policies.iter().zip([false, true]) {
        daemon.configure(policy);
        daemon.stop();
        daemon.restart();
        for (item, launch) in &asked {
            match replayed(as_user(|| launch.open())) {
                Ok(rocker) => assert!(rocker.kill(SOON).unwrap() && may, "{item}"),
                Err(error) => {
                    let wanted = format!("{item}: {}", Rule::NotAllowed);
                    assert_eq!((error.to_string(), may), (wanted, false));
                }
            }
        }
        let rocker = replayed(as_user(|| launch.open())).unwrap();
        assert!(rocker.kill(SOON).unwrap());
    }
}

/// Kills, and names, who makes this call.
fn one_is_named(call: i64) -> Limits {
    let Seccomp::Filter(mut filter) = one_fails(call, 0) else { unreachable!("it is one") };
    filter[16..24].copy_from_slice(&instruction(0x06, 0, 0, 0x7fc0_0000));
    Limits::new().filter(filter)
}

/// What comes of a script under these limits, and what it says until all ends of its output are
/// closed.
fn script(rocker: &mut OpenRocker, limits: &Limits, line: &str) -> (ExitReport, String) {
    let program = Program::new("/bin/sh").args(["-c", line]);
    let (mut output, stdout) = std::io::pipe().unwrap();
    let run = rocker.spawn(&program.stdin(Stdio::Null).stdout(stdout), limits).unwrap();
    let report = rocker.wait(&run).unwrap();
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    (report, text)
}

fn assert_is_named(report: &ExitReport, call: i64) {
    let told = (report.exit, report.verdict, report.syscall);
    let wanted = (Exit::Signal(9), Verdict::DisallowedSyscall, u32::try_from(call).ok());
    assert_eq!(told, wanted, "{report:?}");
}

fn a_program_is_killed_for_what_its_own_filter_forbids_and_the_call_is_named() {
    let daemon = Daemon::start();
    let mut rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
    let limits = one_is_named(libc::SYS_sync);
    let line = format!("bin/probe 'say before' 'call {}' 'say after'", libc::SYS_sync);
    for line in [line.clone(), format!("{line} & wait; echo not reached"), format!("exec {line}")] {
        let (report, text) = script(&mut rocker, &limits, &line);
        assert_is_named(&report, libc::SYS_sync);
        assert_eq!(text, "say: before\n", "{line}");
    }
    assert_eq!(rocker_client::syscall_name(u32::try_from(libc::SYS_sync).unwrap()), Some("sync"));
    // Others have another filter, or none, and what it allows is allowed.
    let (report, text) = script(&mut rocker, &Limits::new(), &line);
    assert_eq!((report.verdict, report.syscall), (Verdict::Normal, None));
    assert!(text.ends_with("say: after\n"), "{text}");
    let (report, _) = script(&mut rocker, &limits, "ls / >/dev/null; exit 3");
    assert_eq!((report.verdict, report.syscall), (Verdict::NonzeroExitStatus, None));
    assert!(rocker.kill(SOON).unwrap());
}

fn a_program_may_not_even_be_executed() {
    let daemon = Daemon::start();
    let mut rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
    for call in [libc::SYS_execveat, libc::SYS_execve] {
        let began = std::time::Instant::now();
        let (report, text) = script(&mut rocker, &one_is_named(call), "exec /bin/true");
        assert_is_named(&report, call);
        assert_eq!(text, "");
        assert!(began.elapsed() < SOON / 5, "{:?}", began.elapsed());
    }
    assert!(rocker.kill(SOON).unwrap());
}

fn many_threads_at_once_are_one_violation() {
    let daemon = Daemon::start();
    let mut rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
    let line = format!("bin/probe 'call-by 100 {}'", libc::SYS_sync);
    let forks = format!("for n in 1 2 3 4 5 6 7 8 9; do {line} & done; wait");
    for line in [line, forks] {
        let (report, text) = script(&mut rocker, &one_is_named(libc::SYS_sync), &line);
        assert_is_named(&report, libc::SYS_sync);
        assert_eq!(text, "");
    }
    // It goes on as if nothing had been.
    rocker.ping().unwrap();
    assert!(rocker.kill(SOON).unwrap());
}

fn a_child_in_another_session_is_no_way_out() {
    let daemon = Daemon::start();
    let mut rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
    let line = format!("setsid bin/probe 'call {}' 'say after' & sleep 50", libc::SYS_sync);
    let (report, text) = script(&mut rocker, &one_is_named(libc::SYS_sync), &line);
    assert_is_named(&report, libc::SYS_sync);
    assert_eq!(text, "");
    assert!(rocker.kill(SOON).unwrap());
}

fn who_outlives_its_program_is_denied() {
    let daemon = Daemon::start();
    let mut rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
    let call = format!("call {}", libc::SYS_sync);
    let line = format!("setsid sh -c 'sleep 0.5; bin/probe \"{call}\"' & exit 0");
    let (report, text) = script(&mut rocker, &one_is_named(libc::SYS_sync), &line);
    assert_eq!((report.exit, report.verdict), (Exit::Status(0), Verdict::Normal));
    assert_eq!(text, format!("{call}: ENOSYS\n"));
    assert!(rocker.kill(SOON).unwrap());
}

fn a_program_may_have_a_filter_that_asks_nobody() {
    const EXDEV: u32 = 18;
    let daemon = Daemon::start();
    let mut rocker = replayed(daemon.launch(probe_package()).open()).unwrap();
    let Seccomp::Filter(filter) = one_fails(libc::SYS_sync, EXDEV) else { unreachable!("it is") };
    let line = format!("bin/probe 'call {}' 'call {}'", libc::SYS_sync, libc::SYS_keyctl);
    let (report, text) = script(&mut rocker, &Limits::new().filter(filter), &line);
    assert_eq!(report.verdict, Verdict::Normal);
    // The rocker's holds as well.
    assert!(text.contains(": EXDEV\n") && text.ends_with(": EPERM\n"), "{text}");
    // It falls off its end; it is none.
    for filter in [instruction(0x20, 0, 0, 0).to_vec(), vec![0; 7]] {
        let limits = Limits::new().filter(filter);
        let error = rocker.spawn(&Program::new("bin/probe"), &limits).unwrap_err();
        let wanted =
            "cannot start the program (exec.1): seccomp # the program's filter: Invalid argument";
        assert_eq!(error.to_string(), wanted);
    }
    assert!(rocker.kill(SOON).unwrap());
}

/// Does it in a thread that is the App's user: ids are a thread's own.
fn as_user<T: Send>(task: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (user, group) =
                (rustix::process::Uid::from_raw(APP_UID), rustix::process::Gid::from_raw(APP_GID));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(group, group, group).unwrap();
            rustix::thread::set_thread_res_uid(user, user, user).unwrap();
            task()
        });
        thread.join().unwrap()
    })
}
