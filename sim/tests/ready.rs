//! Guards that wait for a launch: whatever becomes of them, it is told, finds the host's mounts as
//! they are, and they go with their master.

use protocol::limits::HELLO_MS;
use sim::walk::{Walk, faults_in, run};
use sim::{At, Call, Coverage, Fault, Launch, Mode, Order, Planned, Who, World};

fn run_well(world: World) -> World {
    let mut world = world.transcribed().counted();
    assert_eq!(run(&mut world, &mut Coverage::default()), Ok(()), "{}", world.transcript());
    world
}

/// Cloned before anybody has called.
fn is_ahead(world: &World) -> bool {
    let calls = world.calls();
    let position = |wanted| calls.iter().position(|(call, _)| *call == wanted);
    position(Call::CloneGuard) < position(Call::Connect)
}

#[test]
fn a_launch_takes_the_guard_that_waits() {
    let (mut ahead, mut worlds) = (0, 0);
    for order in Order::ALL {
        for ready in 0..3 {
            let world = run_well(World::new(&[Launch::overlaid(1)]).order(order).ready(ready));
            assert!(matches!(world.told(0), Some(Ok(_))), "{}", world.transcript());
            assert!(ready > 0 || world.guards() == 1, "{}", world.transcript());
            ahead += u32::from(is_ahead(&world));
            worlds += u32::from(ready > 0);
        }
    }
    assert!(0 < ahead && ahead < worlds, "{ahead} of {worlds}: one comes before the other, or not");
}

/// However long it has waited.
#[test]
fn a_guard_waits_for_longer_than_a_caller_may() {
    let late = sim::Choice::Wait(u16::try_from(2 * HELLO_MS).unwrap());
    let first = sim::Choice::Move(2);
    let world = World::new(&[Launch::BARE]).ready(1).choices(&[first, late]);
    let world = run_well(world);
    assert!(is_ahead(&world) && world.told(0).is_some_and(|told| told.is_ok()));
}

#[test]
fn no_launch_begins_on_mounts_that_the_host_has_no_more() {
    for order in Order::ALL {
        let all = [0, 1, 2].map(|data| Launch { data, ..Launch::overlaid(1) });
        let world = || World::new(&all).order(order).ready(2);
        let (turns, guards) = {
            let world = run_well(world());
            (world.turns(), world.guards())
        };
        let mut discarded = 0;
        for turn in 0..turns {
            let world = run_well(world().mounts(&[turn]));
            let well = (0..3).filter(|&n| world.told(n).is_some_and(|told| told.is_ok())).count();
            assert_eq!(well, 3, "{}", world.transcript());
            discarded += usize::from(world.guards() > guards);
        }
        assert!(discarded > 0, "it was never noticed");
    }
}

#[test]
fn every_single_fault_of_a_launch_with_ready_guards_is_told_and_leaves_nothing() {
    let mut walk = Walk::default();
    for order in Order::ALL {
        for launches in [&[Launch::overlaid(1)][..], &[Launch::BARE; 2]] {
            for ready in [1, 2] {
                let world = || World::new(launches).order(order).ready(ready);
                for fault in faults_in(world()) {
                    walk.run(launches, &[fault], &|| world().faults(&[fault]));
                }
            }
        }
    }
    println!("{} worlds", walk.worlds);
    if let Err(story) = walk.verdict() {
        panic!("{story}");
    }
}

/// A master that cannot clone guards ahead does without, and so it does without those that have
/// ended.
#[test]
fn who_cannot_be_made_ready_or_is_no_more_is_missed_by_nobody() {
    let world = || World::new(&[Launch::BARE]).order(Order::CallerLast).ready(1);
    let counted = run_well(world());
    let connected = counted.calls().iter().position(|(call, _)| *call == Call::Connect);
    assert!(is_ahead(&counted), "{}", counted.transcript());
    let is_before = |planned: &Planned| match (planned.at, planned.fault) {
        (At::Call(index), Fault::Refuse(_)) => usize::try_from(index).ok() < connected,
        (At::Turn(1), Fault::Kill(Who::Guard(0))) => true,
        _ => false,
    };
    let faults: Vec<Planned> = faults_in(world()).into_iter().filter(is_before).collect();
    assert!(faults.iter().any(|planned| matches!(planned.fault, Fault::Kill(_))));
    for fault in faults.into_iter().filter(|planned| planned.mode == Mode::Once) {
        let world = run_well(world().faults(&[fault]));
        let is_told = world.told(0).is_some_and(|told| told.is_ok());
        assert!(is_told, "{fault}\n{}", world.transcript());
    }
}
