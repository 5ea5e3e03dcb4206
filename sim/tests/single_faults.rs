//! Every single fault: each call refused with each errno it knows, each message garbled, each
//! actor killed or hanging before each turn; once and from now on; for each order of turns, each
//! end of life, each kind of App, for callers in Rust and in C. Whatever it is: the caller is
//! told, once and in time, and nothing is left.
//!
//! `SIM_LONG=1` takes every kind of App and every order of turns for every number of overlays.

use sim::walk::{Walk, faults_of};
use sim::{App, At, Call, End, Fault, Launch, Library, Mode, Order, Planned, World};

fn every_single_fault(dirs: usize, apps: &[App], orders: &[Order]) {
    let is_long = std::env::var_os("SIM_LONG").is_some();
    let (apps, orders) = if is_long { (&App::ALL[..], &Order::ALL[..]) } else { (apps, orders) };
    let mut walk = Walk::default();
    for library in Library::ALL {
        for &order in orders {
            for end in End::ALL {
                for &app in apps {
                    let launch = Launch { library, end, app, ..Launch::overlaid(dirs) };
                    walk.single_faults(&[launch], order);
                }
            }
        }
    }
    println!("{dirs} overlay dirs: {} worlds", walk.worlds);
    if let Err(story) = walk.verdict() {
        panic!("{story}");
    }
}

#[test]
fn every_single_fault_of_a_bare_launch_is_told_and_leaves_nothing() {
    every_single_fault(0, &App::ALL, &Order::ALL);
}

/// With a queue that holds no whole trace, as with hundreds of host mounts in a real one. Only
/// a caller in Rust can ask for one.
#[test]
fn every_single_fault_of_a_traced_launch_is_told_and_leaves_nothing() {
    let mut walk = Walk::default();
    let launch = [Launch { trace: true, ..Launch::overlaid(1) }];
    for order in Order::ALL {
        for queue in [8, 64] {
            for fault in faults_of(&launch, order, &[]) {
                let world = || World::new(&launch).order(order).queue(queue).faults(&[fault]);
                walk.run(&launch, &[fault], &world);
            }
        }
    }
    if let Err(story) = walk.verdict() {
        panic!("{story}");
    }
}

/// Before Linux 6.15 a layer has to be put somewhere before parts of it can be cloned, also one that
/// the master would keep.
#[test]
fn every_single_fault_on_an_old_kernel_is_told_and_leaves_nothing() {
    let mut walk = Walk::default();
    let launches = Library::ALL
        .into_iter()
        .flat_map(|library| [1, 3].map(|dirs| [Launch { library, ..Launch::overlaid(dirs) }]));
    for launch in launches {
        let newer = || World::new(&launch).keeping(8);
        let mut counted = newer().old_kernel().counted();
        counted.run(&mut walk.coverage).expect("nothing goes wrong");
        let mut not_staged = newer().counted();
        not_staged.run(&mut walk.coverage).expect("nothing goes wrong");
        let moves = |calls: &[(Call, _)]| calls.iter().filter(|it| it.0 == Call::MoveMount).count();
        assert!(moves(counted.calls()) > moves(not_staged.calls()), "nothing staged");
        for (at, &(call, _)) in (0..).map(At::Call).zip(counted.calls()) {
            for (&errno, mode) in call.errnos().iter().flat_map(|e| Mode::ALL.map(|mode| (e, mode)))
            {
                let fault = Planned { at, fault: Fault::Refuse(errno), mode };
                walk.run(&launch, &[fault], &|| newer().old_kernel().faults(&[fault]));
            }
        }
    }
    if let Err(story) = walk.verdict() {
        panic!("{story}");
    }
}

#[test]
fn every_single_fault_with_one_overlay_is_told_and_leaves_nothing() {
    every_single_fault(1, &[App::Plain, App::Daemon], &Order::ALL);
}

#[test]
fn every_single_fault_with_three_overlays_is_told_and_leaves_nothing() {
    every_single_fault(3, &[App::Child, App::Guest], &Order::ALL);
}

#[test]
fn every_single_fault_with_sixteen_overlays_is_told_and_leaves_nothing() {
    every_single_fault(16, &[App::Plain], &[Order::CallerFirst, Order::InTurn]);
}

/// A cgroup for a while; its removal may have to wait for a process that the kernel still has.
#[test]
fn every_single_fault_of_a_limited_launch_is_told_and_leaves_nothing() {
    let mut walk = Walk::default();
    for library in Library::ALL {
        for end in End::ALL {
            let launch = Launch { library, end, app: App::Daemon, ..Launch::limited() };
            walk.single_faults(&[launch], Order::InTurn);
        }
    }
    if let Err(story) = walk.verdict() {
        panic!("{story}");
    }
}

/// `--overlay auto`
#[test]
fn every_single_fault_with_all_top_directories_is_told_and_leaves_nothing() {
    let mut walk = Walk::default();
    walk.single_faults(&[Launch::auto()], Order::CallerFirst);
    if let Err(story) = walk.verdict() {
        panic!("{story}");
    }
}
