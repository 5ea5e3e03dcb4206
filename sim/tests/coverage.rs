//! Every arrow of every machine is walked: what `linux.rs` can answer in a state, some world
//! answers, to callers in Rust and to callers in C. The tables are printed with `--nocapture`.

use sim::walk::{Walk, faults_in, faults_of};
use sim::{
    App, Call, End, Fault, Launch, Library, Limits, Mode, ORDERS, Order, Planned, TEXT_PACKAGE,
    Task, World,
};

/// What a plain launch does not meet by single faults.
fn rare_cases(walk: &mut Walk, plain: Launch) {
    let bare = [plain];
    // Another takes the device that the guard has found, and then the guard finds none.
    for fault in faults_of(&bare, Order::CallerFirst, &[]) {
        walk.run(&bare, &[fault], &|| World::new(&bare).thefts(1).faults(&[fault]));
    }
    // A directory that leads to the host's own; an image that is none.
    walk.world(
        &[Launch { library: plain.library, forbidden: true, ..Launch::overlaid(3) }],
        Order::CallerFirst,
        &[],
    );
    walk.world(&[Launch { good_package: false, ..plain }], Order::CallerFirst, &[]);
    walk.world(&[Launch { package: TEXT_PACKAGE, ..plain }], Order::CallerFirst, &[]);
    // Two launches of one package, and one that is not to be kept waiting.
    let two = [plain; 2];
    walk.single_faults(&two, Order::InTurn);
    // Nobody comes after it.
    for alone in [plain, Launch { library: plain.library, ..Launch::overlaid(1) }] {
        let alone = [alone];
        for fault in faults_of(&alone, Order::CallerFirst, &[]) {
            let world = || World::new(&alone).unshared().faults(&[fault]);
            walk.run(&alone, &[fault], &world);
        }
    }
    // Overlays that outlive it.
    let kept = [Launch { library: plain.library, end: End::ByItself, ..Launch::overlaid(1) }];
    for fault in faults_in(World::new(&kept).keeping(1)) {
        walk.run(&kept, &[fault], &|| World::new(&kept).keeping(1).faults(&[fault]));
    }
    // More rockers than there may be.
    let limits = Limits { rockers: 0, launches: 256 };
    walk.run(&bare, &[], &|| World::with_limits(&bare, limits));
    // A master that hangs while more callers come than it can keep waiting.
    let crowd = [plain; 20];
    let hang = Fault::Hang(sim::Who::Master);
    let planned = Planned { at: sim::At::Turn(0), fault: hang, mode: Mode::Once };
    walk.world(&crowd, Order::CallerFirst, &[planned]);
}

/// Rockers that take orders, also from a client that does not greet first.
fn orders(walk: &mut Walk) {
    for orders in ORDERS {
        walk.single_faults(&[Launch::open(orders)], Order::CallerFirst);
    }
    let walled = Launch { landlock: true, ..Launch::open(ORDERS[0]) };
    walk.single_faults(&[walled], Order::CallerFirst);
    let visited = [Launch { visits: sim::VISITS, ..Launch::open(ORDERS[2]) }];
    walk.single_faults(&visited, Order::InTurn);
    let signal: &[Task] = const { &[Task::Signal { id: None, signal: 15 }] };
    let delete: &[Task] = const { &[Task::Do { id: 1, order: guard::action::Order::Delete }] };
    let go: &[Task] = const { &[Task::Go { id: 1 }] };
    for orders in [signal, delete, go, ORDERS[0], ORDERS[1], ORDERS[2]] {
        walk.world(&[Launch { greets: false, ..Launch::open(orders) }], Order::CallerFirst, &[]);
    }
}

/// Two faults, of which the second befalls the answer to the first.
fn failures_of_failure(walk: &mut Walk, plain: Launch) {
    let bare = [plain];
    let is_cause = |planned: &Planned| {
        planned.mode == Mode::Once
            && matches!(planned.fault, Fault::Refuse(_) | Fault::Garble | Fault::Kill(_))
    };
    walk.pairs(&bare, Order::CallerLast, is_cause, (0, 12));
    // Whoever is to be told is gone, or cannot be killed.
    let mut world = World::new(&bare).counted();
    let _ = world.run(&mut walk.coverage);
    let sends: Vec<u32> = (0..)
        .zip(world.calls())
        .filter(|(_, (call, _))| *call == Call::Send)
        .map(|it| it.0)
        .collect();
    for at in sends {
        let at = sim::At::Call(at);
        let first = Planned { at, fault: Fault::Garble, mode: Mode::Once };
        for second in faults_of(&bare, Order::CallerFirst, &[first]) {
            walk.world(&bare, Order::CallerFirst, &[first, second]);
        }
    }
    for first in faults_of(&bare, Order::CallerFirst, &[]) {
        if matches!(first.fault, Fault::Kill(sim::Who::Client(0))) && first.mode == Mode::Once {
            for second in faults_of(&bare, Order::CallerFirst, &[first]) {
                walk.world(&bare, Order::CallerFirst, &[first, second]);
            }
        }
    }
}

#[test]
fn every_arm_of_every_machine_is_reached() {
    every_arm_is_reached(Library::Rust);
}

#[test]
fn every_arm_of_the_c_client_is_reached() {
    every_arm_is_reached(Library::C);
}

fn every_arm_is_reached(library: Library) {
    let plain = Launch { library, ..Launch::BARE };
    let mut walk = Walk::default();
    for order in Order::ALL {
        for launch in [
            plain,
            Launch { end: End::KillByName, ..plain },
            Launch { library, app: App::Guest, ..Launch::overlaid(3) },
        ] {
            walk.single_faults(&[launch], order);
        }
    }
    // With limits, with limits and a data dir, with the host's devices, and with a second wall.
    for launch in [
        Launch { limited: true, ..plain },
        Launch { library, ..Launch::limited() },
        Launch { host_dev: true, ..plain },
        Launch { landlock: true, ..plain },
    ] {
        walk.single_faults(&[launch], Order::CallerFirst);
    }
    if library == Library::Rust {
        orders(&mut walk);
    }
    rare_cases(&mut walk, plain);
    failures_of_failure(&mut walk, plain);
    println!("{} worlds\n{}", walk.worlds, walk.coverage);
    if let Err(story) = walk.verdict() {
        panic!("{story}");
    }
    assert_eq!(walk.coverage.unexpected(), Vec::<String>::new(), "not in the contract");
    let mut missing = walk.coverage.missing();
    if library == Library::C {
        // There are no orders in C; the other machines' part in them is the other test's.
        missing.retain(|arm| arm.starts_with("client ") || arm.starts_with("helper "));
        missing.retain(|arm| !arm.starts_with("client Greet "));
    }
    assert_eq!(missing, Vec::<String>::new(), "never reached");
}
