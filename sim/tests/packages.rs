//! Launches of one package share its mount, and nothing else: whoever fails or hangs with it
//! fails or hangs alone. That each rocker is made from the package that was asked for, and a
//! package mounted once, is looked at in every world.

use protocol::limits::MOUNT_PATIENCE_MS;
use protocol::{Errno, Error, Step};
use sim::walk::{Walk, run};
use sim::{
    At, Call, Coverage, Fault, Launch, Library, Mode, Order, PRIVATE_PACKAGE, Planned, ROOT, USERS,
    Who, World,
};

fn run_well(world: World) -> World {
    let mut world = world.transcribed().counted();
    assert_eq!(run(&mut world, &mut Coverage::default()), Ok(()), "{}", world.transcript());
    world
}

fn bound(world: &World) -> usize {
    world.calls().iter().filter(|(call, _)| *call == Call::BindLoop).count()
}

fn started(world: &World, launches: usize) -> usize {
    (0..launches).filter(|&n| matches!(world.told(n), Some(Ok(_)))).count()
}

#[test]
fn launches_of_one_package_share_its_mount() {
    for order in Order::ALL {
        for is_old in [false, true] {
            for (packages, launches) in [(1, 12), (3, 12), (1, 32)] {
                let launch = |n: u8| Launch {
                    package: n % packages,
                    data: n,
                    library: Library::ALL[usize::from(n) % 2],
                    ..Launch::overlaid(1)
                };
                let all: Vec<Launch> = (0..launches).map(launch).collect();
                let world = World::new(&all).order(order);
                let world = run_well(if is_old { world.old_kernel() } else { world });
                assert_eq!(started(&world, all.len()), all.len(), "{}", world.transcript());
                assert_eq!(bound(&world), usize::from(packages), "{}", world.transcript());
            }
        }
    }
}

/// Nobody is told later than a launch waits for another, whatever becomes of that.
#[test]
fn who_hangs_or_fails_with_a_package_does_so_alone() {
    let all = [Launch::BARE; 3];
    for order in Order::ALL {
        let turns = run_well(World::new(&all).order(order)).turns();
        for turn in 0..turns {
            for fault in [Fault::Hang(Who::Guard(0)), Fault::Kill(Who::Guard(0))] {
                let planned = Planned { at: At::Turn(turn), fault, mode: Mode::FromNowOn };
                let world = run_well(World::new(&all).order(order).faults(&[planned]));
                let in_time = |&n: &usize| {
                    let soon = world.told_ms(n).is_some_and(|ms| ms <= MOUNT_PATIENCE_MS.into());
                    matches!(world.told(n), Some(Ok(_))) && soon
                };
                let well = (0..all.len()).filter(in_time).count();
                assert!(well >= all.len() - 1, "{planned}\n{}", world.transcript());
            }
        }
    }
}

#[test]
fn nobody_shares_what_it_may_not_open() {
    for order in Order::ALL {
        let launch = |caller| Launch { caller, package: PRIVATE_PACKAGE, ..Launch::BARE };
        let all = [ROOT, USERS[0], ROOT].map(launch);
        let world = run_well(World::new(&all).users().order(order));
        let error = Error::Failed { step: Step::CreateGuard, errno: Errno::ACCES };
        assert_eq!(world.told(1), Some(Err(error)), "{}", world.transcript());
        assert_eq!(started(&world, 3), 2, "{}", world.transcript());
        assert_eq!(bound(&world), 1);
    }
}

#[test]
fn a_package_that_cannot_be_mounted_keeps_nobody_waiting() {
    for order in Order::ALL {
        let all = [Launch { good_package: false, ..Launch::BARE }; 6];
        let world = run_well(World::new(&all).order(order));
        let error = Error::Failed { step: Step::MountPackage, errno: Errno(117) };
        for n in 0..all.len() {
            assert_eq!(world.told(n), Some(Err(error)), "{}", world.transcript());
            assert_eq!(world.told_ms(n), Some(0), "{}", world.transcript());
        }
    }
}

#[test]
fn every_single_fault_of_two_launches_of_one_package_is_told_and_leaves_nothing() {
    let mut walk = Walk::default();
    for order in [Order::CallerLast, Order::InTurn] {
        walk.single_faults(&[Launch::BARE; 2], order);
    }
    println!("{} worlds", walk.worlds);
    if let Err(story) = walk.verdict() {
        panic!("{story}");
    }
}
