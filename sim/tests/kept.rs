//! Overlays that outlive their rocker: whatever happens, the next one of the data dir gets what it
//! would have made, from nobody who uses it still, and in the end nothing is left.

use protocol::limits::MOUNT_PATIENCE_MS;
use sim::walk::{Walk, faults_in, run};
use sim::{Call, Coverage, End, Fault, Launch, Mode, ORDERS, Order, Planned, Task, World};

fn run_well(world: World) -> World {
    let mut world = world.transcribed().counted();
    assert_eq!(run(&mut world, &mut Coverage::default()), Ok(()), "{}", world.transcript());
    world
}

/// How many overlays these launches have made, of which none has failed.
fn made(world: &World) -> usize {
    let mut told = (0..).map_while(|launch| world.told(launch));
    assert!(told.all(|told| told.is_ok()), "one has failed\n{}", world.transcript());
    world.calls().iter().filter(|(call, _)| *call == Call::MountOverlay).count()
}

/// Each begins when the one before it is gone. Their Apps are one user's.
fn in_turn<const N: usize>(launch: Launch) -> [Launch; N] {
    core::array::from_fn(|n| Launch { after: n.checked_sub(1), ..launch })
}

fn brief(dirs: usize) -> Launch {
    Launch { end: End::ByItself, user: Some(1000), ..Launch::overlaid(dirs) }
}

#[test]
fn the_next_launch_makes_no_overlay() {
    for order in Order::ALL {
        for (dirs, layers) in [(1, 1), (3, 2)] {
            for end in [End::ByItself, End::KillGuard] {
                let all = in_turn::<2>(Launch { end, ..brief(dirs) });
                let world = || World::new(&all).order(order);
                assert_eq!(made(&run_well(world().keeping(8))), layers, "{end:?}");
                // None is kept that cannot be used, or is not wanted.
                assert_eq!(made(&run_well(world().keeping(8).old_kernel())), 2 * layers);
                assert_eq!(made(&run_well(world())), 2 * layers);
            }
        }
    }
}

#[test]
fn other_layers_are_made_anew_and_others_make_room() {
    for order in Order::ALL {
        // One more layer; another user; another data dir, where there is room for one.
        let [first, second] = in_turn::<2>(brief(1));
        let more = [first, Launch { dirs: 3, host_mount: true, ..second }];
        assert_eq!(made(&run_well(World::new(&more).order(order).keeping(8))), 3);
        let other = [first, Launch { user: None, ..second }];
        assert_eq!(made(&run_well(World::new(&other).order(order).keeping(8))), 2);
        let [first, second, third] = in_turn::<3>(brief(1));
        let other = [first, Launch { data: 1, ..second }, third];
        for (most, overlays) in [(1, 3), (2, 2)] {
            let world = run_well(World::new(&other).order(order).keeping(most));
            assert_eq!(made(&world), overlays, "{}", world.transcript());
        }
    }
}

#[test]
fn the_longest_idle_ones_make_room() {
    for order in Order::ALL {
        let of = |data| Launch { data, ..brief(1) };
        let mut all = [0, 1, 2, 1].map(of);
        (1..all.len()).for_each(|n| all[n].after = Some(n - 1));
        let world = run_well(World::new(&all).order(order).keeping(2));
        assert_eq!(made(&world), 3, "{}", world.transcript());
    }
}

/// Longer than overlays are kept that nobody uses.
const LONG: &[Task] = &[Task::Sleep { ms: 3_000 }, Task::Ping];

#[test]
fn they_are_kept_for_a_while_after_their_rocker() {
    for order in Order::ALL {
        for (data, overlays) in [(0, 1), (1, 3)] {
            let [first, second, third] = in_turn::<3>(brief(1));
            let long = Launch { data, orders: Some(LONG), ..second };
            let all = [first, long, third];
            let world = run_well(World::new(&all).order(order).keeping(8));
            assert_eq!(made(&world), overlays, "{}", world.transcript());
            // For what has gone nobody waits.
            assert!(world.told_ms(2) < Some(3_100), "one has waited\n{}", world.transcript());
        }
    }
}

#[test]
fn a_data_dir_that_is_in_use_is_refused_as_ever() {
    for order in Order::ALL {
        let all = [Launch::overlaid(1); 2];
        let world = run_well(World::new(&all).order(order).keeping(8));
        let well = (0..2).filter(|&n| world.told(n).is_some_and(|told| told.is_ok())).count();
        assert_eq!(well, 1, "{}", world.transcript());
    }
}

/// Whether there are overlays to be made ready, or none.
#[test]
fn who_comes_before_the_end_waits_for_that_alone() {
    for order in Order::ALL {
        let all = [brief(1); 2];
        let world = || World::new(&all).order(order).keeping(8);
        for (world, overlays) in [(world(), 1), (world().old_kernel(), 2)] {
            let world = run_well(world);
            assert_eq!(made(&world), overlays, "{}", world.transcript());
            let in_time = |launch| world.told_ms(launch) < Some(MOUNT_PATIENCE_MS.into());
            assert!((0..2).all(in_time), "one has waited\n{}", world.transcript());
        }
    }
}

#[test]
fn layers_that_were_removed_and_mounts_that_changed_are_noticed() {
    let mut anew = 0;
    for order in Order::ALL {
        let all = in_turn::<2>(brief(1));
        let world = || World::new(&all).order(order).keeping(8);
        for turn in 0..run_well(world()).turns() {
            anew += made(&run_well(world().wipes(&[turn]))) - 1;
            let world = run_well(world().mounts(&[turn]));
            anew += made(&world) - 1;
            // Whoever is made after the change leaves what is new.
            let story = world.transcript();
            let changed = story.find("mount # or umount");
            assert!(
                changed > story.find("prepare.0") || made(&world) == 1,
                "new ones are gone\n{story}"
            );
        }
    }
    assert!(anew > 0, "it was never noticed");
}

#[test]
fn every_single_fault_of_launches_in_turn_is_told_and_leaves_nothing() {
    let mut walk = Walk::default();
    for order in Order::ALL {
        let stopped = Launch { end: End::StopAll, ..brief(3) };
        let owned = Launch { orders: Some(ORDERS[2]), end: End::StopAll, ..brief(1) };
        for all in [in_turn::<2>(brief(1)), in_turn(stopped), in_turn(owned)] {
            let world = || World::new(&all).order(order).keeping(1);
            for fault in faults_in(world()) {
                walk.run(&all, &[fault], &|| world().faults(&[fault]));
            }
        }
    }
    println!("{} worlds", walk.worlds);
    if let Err(story) = walk.verdict() {
        panic!("{story}");
    }
}

/// Whatever cannot be synced or made ready is no use to anybody, and is made anew.
#[test]
fn what_cannot_be_made_ready_is_made_anew() {
    for order in Order::ALL {
        // The guard has synced, or was killed.
        for (wanted, end) in [(Call::Refresh, End::ByItself), (Call::Sync, End::KillGuard)] {
            let all = in_turn::<2>(Launch { end, ..brief(1) });
            let world = || World::new(&all).order(order).keeping(8);
            let counted = run_well(world());
            let at = counted.calls().iter().position(|(call, _)| *call == wanted);
            let at = at.and_then(|at| u32::try_from(at).ok()).map(sim::At::Call);
            let fault = Fault::Refuse(protocol::Errno(12));
            let planned = Planned { at: at.expect("it is"), fault, mode: Mode::Once };
            let world = run_well(world().faults(&[planned]));
            assert_eq!(made(&world), 2, "{}", world.transcript());
        }
    }
}
