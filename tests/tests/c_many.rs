//! Many launches by the C library: in one poll loop, given up, and what they leave.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::time::Duration;
use std::collections::VecDeque;
use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use protocol::socket::now_ns;
use rocker_client::Stdio;
use rustix::event::{PollFd, PollFlags, poll};
use tests::both::{Both, sleeper};
use tests::c_client::{self, Pending, Status};
use tests::{Daemon, Leaks, SOON};
use tests::{process, runner, within};

fn main() -> ExitCode {
    runner::main(tests::root![
        five_hundred_launches_leave_caller_and_master_flat,
        thirty_two_launches_go_through_one_poll_loop,
        launches_given_up_at_any_moment_leave_nothing,
    ])
}

/// This process's own memory. (`VmRSS` is put together from counters of all processors, late.)
fn private_kib() -> u64 {
    let text = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn five_hundred_launches_leave_caller_and_master_flat() {
    let daemon = Daemon::start();
    let both = Both::new(&daemon).data_dir(daemon.data_dir()).overlay("/etc");
    let program = c_client::Program::new("true").stdio(0, Stdio::Null);
    let run = |times: u32| {
        for round in 0..times {
            let mut rocker = match round % 2 {
                0 => both.c.spawn(&program).unwrap(),
                _ => both.c.begin(&program).complete().unwrap(),
            };
            assert_eq!(rocker.wait().unwrap(), Status::Exited(0));
            assert!(rocker.wait_gone());
        }
        daemon.settle(0);
    };
    run(30);
    let maps = || fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let before = (process::fds(std::process::id()), daemon.fds(), maps());
    let (ours, theirs) = (private_kib(), daemon.rss_kib());
    run(500);
    assert_eq!((process::fds(std::process::id()), daemon.fds(), maps()), before);
    assert!(private_kib() <= ours + 64, "{ours} -> {} KiB", private_kib());
    assert!(daemon.rss_kib() <= theirs + 64, "{theirs} -> {} KiB", daemon.rss_kib());
}

/// Waits until one of these launches can go on, in one poll.
fn wait_for_any(launches: &VecDeque<(usize, Pending<'_>)>) {
    let fds: Vec<_> = launches.iter().filter_map(|(_, launch)| launch.fd()).collect();
    let mut ready: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    let wait_ms = launches.iter().map(|(_, launch)| launch.wait_ms()).min().unwrap_or(0);
    let limit = Duration::from_millis(u64::try_from(wait_ms).unwrap());
    let limit = rustix::event::Timespec::try_from(limit).unwrap();
    poll(&mut ready, Some(&limit)).unwrap();
}

fn thirty_two_launches_go_through_one_poll_loop() {
    let daemon = Daemon::start();
    let both = Both::new(&daemon).timeout_ms(20_000);
    let leaks = Leaks::snapshot().watch_pid(daemon.pid()).watch_pid(std::process::id());
    let programs: Vec<c_client::Program> = (0..32)
        .map(|number| match number % 8 {
            7 => c_client::Program::new("bin/missing"),
            _ => c_client::Program::new("bin/probe").args([format!("exit {number}")]),
        })
        .collect();
    let mut launches: VecDeque<(usize, Pending<'_>)> =
        programs.iter().map(|program| both.c.begin(program)).enumerate().collect();
    let mut rockers = vec![];
    let mut failed = 0;
    let mut most_waiting = 0;
    while !launches.is_empty() {
        for _ in 0..launches.len() {
            let (number, mut launch) = launches.pop_front().unwrap();
            match launch.go_on() {
                false => launches.push_back((number, launch)),
                true => match launch.end() {
                    Ok(rocker) => rockers.push((number, rocker)),
                    Err(error) => {
                        assert_eq!((number % 8, error.is_at_exec()), (7, true), "{error}");
                        failed += 1;
                    }
                },
            }
        }
        most_waiting = most_waiting.max(launches.len());
        wait_for_any(&launches);
    }
    assert_eq!((rockers.len(), failed), (28, 4));
    assert!(most_waiting > 16, "{most_waiting} at once is nobody's poll loop");
    for (number, rocker) in &mut rockers {
        assert_eq!(rocker.wait().unwrap(), Status::Exited(i32::try_from(*number).unwrap()));
        assert!(rocker.wait_gone());
    }
    drop(rockers);
    leaks.assert_none();
}

/// A stream of numbers that says how it began (`xorshift64`, Marsaglia 2003).
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = now_ns() | 1;
        println!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn launches_given_up_at_any_moment_leave_nothing() {
    let daemon = Daemon::start();
    let both = Both::new(&daemon).data_dir(daemon.data_dir()).overlay("/etc");
    let leaks = Leaks::snapshot().watch_pid(daemon.pid()).watch_pid(std::process::id());
    let program = sleeper();
    // How long a whole one takes, so that the moments are spread over it.
    let began = Instant::now();
    let mut whole = both.c.begin(&program).complete().unwrap();
    let usual = began.elapsed();
    whole.kill();
    assert!(whole.wait_gone());
    drop(whole);
    let mut random = Random::new();
    let (mut given_up, mut late) = (0, 0);
    for _ in 0..200 {
        // What is left of the one before has its data dir for a moment.
        let is_gone = || daemon.records().is_empty() && leaks.now().is_empty();
        assert!(
            daemon.is_well() && within(SOON, is_gone),
            "{:?} {:?}",
            daemon.records(),
            leaks.now()
        );
        let enough =
            Duration::from_nanos(random.below(u64::try_from(usual.as_nanos()).unwrap() * 5 / 4));
        let began = Instant::now();
        let mut launch = both.c.begin(&program);
        let mut is_over = false;
        while !is_over && began.elapsed() < enough {
            is_over = launch.go_on();
            if !is_over {
                launch.wait(Some(enough.saturating_sub(began.elapsed())));
            }
        }
        *(if is_over { &mut late } else { &mut given_up }) += 1;
        match launch.end() {
            // Over, or so far that nothing could be waited for.
            Ok(mut rocker) => {
                rocker.kill();
                assert!(is_over && rocker.wait_gone());
            }
            Err(error) => {
                // The master may have heard of the one before only now.
                let in_use = error.to_string().contains(": another rocker uses it");
                assert!(!is_over || in_use, "{error}");
            }
        }
    }
    println!("{given_up} given up, {late} came to their end");
    assert!(given_up > 50);
    assert!(within(SOON, || daemon.records().is_empty()));
    leaks.assert_none();
    assert_eq!(daemon.probe(&["say well"]).one("say"), "well");
}
