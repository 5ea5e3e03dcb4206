//! Rockers that take orders: every order is answered once, every end is told once, a late program
//! is killed in time, and whatever goes wrong leaves nothing.

use sim::walk::{Walk, faults_of, run};
use sim::{Coverage, End, HEIRS, LEFT, Launch, Library, ORDERS, Order, VISITS, World};

#[test]
fn orders_of_all_kinds_are_answered() {
    for orders in ORDERS {
        for order in Order::ALL {
            for end in End::ALL {
                for queue in [2, 4, 64] {
                    for stays in [false, true] {
                        let launch = [Launch { end, stays, ..Launch::open(orders) }];
                        let world = World::new(&launch).order(order).queue(queue);
                        let mut world = world.transcribed();
                        let ended = run(&mut world, &mut Coverage::default());
                        assert_eq!(ended, Ok(()), "{}", world.transcript());
                    }
                }
            }
        }
    }
}

/// `SIM_LONG=1` takes the third way, too.
fn turns() -> &'static [Order] {
    match std::env::var_os("SIM_LONG") {
        Some(_) => &Order::ALL,
        None => &[Order::CallerFirst, Order::InTurn],
    }
}

#[test]
fn every_single_fault_of_a_rocker_that_takes_orders_leaves_nothing() {
    let mut walk = Walk::default();
    for orders in ORDERS {
        for &order in turns() {
            for (end, greets, stays) in [
                (End::ByItself, true, false),
                (End::StopAll, false, true),
                (End::KillGuard, true, false),
            ] {
                let launch = Launch { end, greets, stays, ..Launch::open(orders) };
                walk.single_faults(&[launch], order);
            }
        }
    }
    println!("{} worlds", walk.worlds);
    if let Err(story) = walk.verdict() {
        panic!("{story}");
    }
}

/// With a queue so short that answers have to wait for their reader.
#[test]
fn every_single_fault_with_a_short_queue_leaves_nothing() {
    let mut walk = Walk::default();
    for orders in ORDERS {
        let launch = [Launch::open(orders)];
        for &order in turns() {
            for fault in faults_of(&launch, order, &[]) {
                let world = || World::new(&launch).order(order).queue(2).faults(&[fault]);
                walk.run(&launch, &[fault], &world);
            }
        }
    }
    if let Err(story) = walk.verdict() {
        panic!("{story}");
    }
}

/// An owner that leaves a rocker that stays takes no program along.
#[test]
fn who_is_to_outlive_the_owner_does() {
    let launch = [Launch { stays: true, end: End::ByItself, ..Launch::open(LEFT) }];
    for order in Order::ALL {
        let mut world = World::new(&launch).order(order).transcribed();
        let ended = run(&mut world, &mut Coverage::default());
        assert_eq!(ended, Ok(()), "{}", world.transcript());
    }
}

/// Whoever has asked for one thing and does the other is not served.
#[test]
fn who_does_other_than_it_asked_for_has_no_rocker() {
    let open = Launch::open(ORDERS[0]);
    let mut walk = Walk::default();
    for launch in [Launch::BARE, open, Launch { stays: true, ..open }] {
        for library in Library::ALL {
            let launch = [Launch { library, deceives: true, ..launch }];
            for &order in turns() {
                walk.single_faults(&launch, order);
            }
        }
    }
    if let Err(story) = walk.verdict() {
        panic!("{story}");
    }
}

/// Those who attach at any time, to a rocker that takes orders, to one that stays, and to one that
/// was entered: nobody hears what is another's, and whoever leaves leaves nothing.
#[test]
fn every_single_fault_of_a_rocker_with_visitors_leaves_nothing() {
    let mut walk = Walk::default();
    let left = Launch { stays: true, end: End::ByItself, ..Launch::open(ORDERS[2]) };
    let launches = [
        Launch { visits: VISITS, ..Launch::open(ORDERS[0]) },
        Launch { visits: VISITS, ..left },
        Launch { visits: HEIRS, ..left },
        Launch { visits: VISITS, ..Launch::BARE },
    ];
    for launch in launches {
        let launch = [launch];
        for queue in [2, 64] {
            for order in Order::ALL {
                walk.run(&launch, &[], &|| World::new(&launch).order(order).queue(queue));
            }
        }
        for fault in faults_of(&launch, Order::InTurn, &[]) {
            let world = || World::new(&launch).order(Order::InTurn).faults(&[fault]);
            walk.run(&launch, &[fault], &world);
        }
    }
    println!("{} worlds", walk.worlds);
    if let Err(story) = walk.verdict() {
        panic!("{story}");
    }
}
