//! Many launches at once: nobody waits for another, and limits are kept. Every other caller is
//! written in C.

use protocol::{Errno, Error, Item, Rule, Step};
use sim::walk::run;
use sim::{
    At, Coverage, End, Fault, Launch, Library, Limits, Mode, Order, Planned, ROOT, USERS, Who,
    World,
};

/// The n-th caller's.
fn library(n: usize) -> Library {
    Library::ALL[n % 2]
}

/// The master never waits for a caller or a guard: whatever one launch does or does not do,
/// another is told before any time has passed.
#[test]
fn whoever_hangs_delays_nobody_else() {
    for order in Order::ALL {
        for first in [0, 1_usize] {
            let launch = |n| Launch { library: library(first + n), ..Launch::overlaid(1) };
            delays_nobody_else(&[launch(0), Launch { data: 1, ..launch(1) }], order);
        }
    }
}

fn delays_nobody_else(launches: &[Launch], order: Order) {
    let mut quiet = World::new(launches).order(order);
    assert_eq!(run(&mut quiet, &mut Coverage::default()), Ok(()));
    for turn in 0..quiet.turns() {
        for who in [Who::Client(0), Who::Helper(0), Who::App(0)] {
            let (fault, mode) = (Fault::Hang(who), Mode::FromNowOn);
            let planned = Planned { at: At::Turn(turn), fault, mode };
            let mut world = World::new(launches).order(order).faults(&[planned]).transcribed();
            let ended = run(&mut world, &mut Coverage::default());
            assert_eq!(ended, Ok(()), "{planned}\n{}", world.transcript());
            assert_eq!(world.told_ms(1), Some(0), "{planned}\n{}", world.transcript());
        }
    }
}

/// So does the path of a user's, whoever makes it slow, and however many there are.
#[test]
fn whose_paths_are_slow_delays_nobody_else() {
    let theirs =
        |n| Launch { caller: USERS[0], slow_ms: 60_000, library: library(n), ..Launch::BARE };
    let roots = |data, slow_ms| Launch { data, slow_ms, ..Launch::overlaid(1) };
    for order in Order::ALL {
        let mut launches: Vec<Launch> = (0..9).map(theirs).collect();
        launches.extend([roots(0, 0), roots(1, 30)]);
        let mut world = World::new(&launches).users().rockers_each(9).order(order).transcribed();
        assert_eq!(run(&mut world, &mut Coverage::default()), Ok(()), "{}", world.transcript());
        let error = Error::Failed { step: Step::CreateGuard, errno: Errno::TIMEDOUT };
        for n in 0..9 {
            // The answer arrives before its caller gives up.
            let told = (world.told(n), world.told_ms(n));
            assert_eq!(told, (Some(Err(error)), Some(4900)), "{}", world.transcript());
        }
        // The second waits for its package, and for its data dir.
        for (n, ms) in [(9, 0), (10, 60)] {
            assert!(matches!(world.told(n), Some(Ok(_))), "{}", world.transcript());
            assert_eq!(world.told_ms(n), Some(ms), "{}", world.transcript());
        }
    }
}

/// Cgroups take long where a path does: who has none waits for nobody's. What was made for whoever
/// had given up does not stay.
#[test]
fn whose_cgroups_are_slow_delays_nobody_else() {
    for (slow_ms, told_ms) in [(0, 0), (30, 60), (4000, 4900)] {
        for order in Order::ALL {
            let limited = Launch { slow_ms, limited: true, ..Launch::BARE };
            let launches = [limited, Launch { library: library(1), ..limited }, Launch::BARE];
            let mut world = World::new(&launches).order(order).transcribed();
            assert_eq!(run(&mut world, &mut Coverage::default()), Ok(()), "{}", world.transcript());
            let told = [0, 1, 2].map(|n| world.told_ms(n));
            let told_ms = [told_ms, told_ms, 0].map(Some);
            assert_eq!(told, told_ms, "{}", world.transcript());
        }
    }
}

/// Four at a time, and each as soon as it can.
#[test]
fn a_users_slow_paths_wait_for_each_other() {
    let launch = |n| Launch { slow_ms: 40, timeout_ms: 180, library: library(n), ..Launch::BARE };
    let launches: Vec<Launch> = (0..17).map(launch).collect();
    for order in Order::ALL {
        let mut world = World::new(&launches).order(order).transcribed();
        assert_eq!(run(&mut world, &mut Coverage::default()), Ok(()), "{}", world.transcript());
        let mut told: Vec<_> = (0..17).filter_map(|n| world.told_ms(n)).collect();
        told.sort_unstable();
        // Half of the time there is at least for looking.
        let wanted = [40, 80, 90].into_iter().zip([4, 4, 9]);
        let wanted: Vec<u64> = wanted.flat_map(|(ms, n)| core::iter::repeat_n(ms, n)).collect();
        assert_eq!(told, wanted, "{}", world.transcript());
        let started = (0..17).filter(|&n| matches!(world.told(n), Some(Ok(_)))).count();
        assert_eq!(started, 8, "{}", world.transcript());
    }
}

#[test]
fn a_crowd_is_served_and_leaves_nothing() {
    for order in Order::ALL {
        let launches: Vec<Launch> = (0..32)
            .map(|data| Launch { data, library: library(usize::from(data)), ..Launch::overlaid(1) })
            .collect();
        let mut world = World::new(&launches).order(order).transcribed();
        let ended = run(&mut world, &mut Coverage::default());
        assert_eq!(ended, Ok(()), "{}", world.transcript());
        assert!((0..32).all(|n| matches!(world.told(n), Some(Ok(_)))), "{}", world.transcript());
    }
}

/// A crowd that comes at once does not get past `max_rockers` either, nor does one that waits.
#[test]
fn limits_are_kept() {
    let scenes = [(0, false), (0, true), (5, false), (5, true)].into_iter();
    let scenes = scenes.flat_map(|scene| [1, 3, 100].map(|launches_max| (scene, launches_max)));
    for ((slow_ms, limited), launches_max) in scenes {
        let launch = Launch { slow_ms, limited, ..Launch::BARE };
        let launches: [Launch; 12] =
            core::array::from_fn(|n| Launch { library: library(n), ..launch });
        let limits = Limits { rockers: 5, launches: launches_max };
        let mut world = World::with_limits(&launches, limits).transcribed();
        assert_eq!(run(&mut world, &mut Coverage::default()), Ok(()), "{}", world.transcript());
        let started = (0..12).filter(|&n| matches!(world.told(n), Some(Ok(_)))).count();
        assert!((1..=5).contains(&started), "{started} started\n{}", world.transcript());
    }
}

/// A caller that reads late loses steps, and nothing else. The master's own few always fit.
#[test]
fn a_full_queue_costs_no_launch() {
    let launches = [Launch { trace: true, ..Launch::overlaid(3) }];
    for order in Order::ALL {
        for queue in 8..40 {
            let mut world = World::new(&launches).order(order).queue(queue).transcribed();
            assert_eq!(run(&mut world, &mut Coverage::default()), Ok(()), "{}", world.transcript());
            assert_eq!(world.told_ms(0), Some(0), "{queue}\n{}", world.transcript());
        }
    }
}

/// Root has no limit of its own, a user of the policy has two rockers, one who may not mount
/// there has none, and a stranger has a clear answer.
#[test]
fn the_policy_has_the_last_word() {
    let callers = [ROOT, USERS[0], USERS[1], 502];
    let launches: Vec<Launch> = (0..24_usize)
        .map(|number| {
            let library = library(number / 4);
            Launch { library, caller: callers[number % 4], ..Launch::BARE }
        })
        .collect();
    for order in Order::ALL {
        let mut world = World::new(&launches).users().order(order).asks(&[200, 301, 402]);
        world = world.transcribed();
        assert_eq!(run(&mut world, &mut Coverage::default()), Ok(()), "{}", world.transcript());
        let started = |caller| {
            let theirs = (0..24).filter(|&n| launches[n].caller == caller);
            theirs.filter(|&n| matches!(world.told(n), Some(Ok(_)))).count()
        };
        assert_eq!(callers.map(started), [6, 2, 0, 0], "{}", world.transcript());
        for (number, launch) in launches.iter().enumerate() {
            let Some(Err(error)) = world.told(number) else { continue };
            let Error::Invalid { rule, item } = error else { panic!("{error}") };
            let (rules, items) = match launch.caller {
                500 => (vec![Rule::TooManyRockers], vec![Item::Request]),
                501 => (vec![Rule::NotAllowed], vec![Item::ExecDir]),
                _ => (vec![Rule::NotListed, Rule::TooManyRockers], vec![Item::Request]),
            };
            assert!(rules.contains(&rule) && items.contains(&item), "{number}: {error}");
        }
    }
}

/// Whenever somebody asks who lives: nobody whom a caller has is left out, no launch is upset.
#[test]
fn lists_are_true_while_launches_go_on() {
    let launches: [Launch; 3] = [0, 1, 2].map(|data| {
        let library = library(usize::from(data));
        Launch { library, data, end: End::KillByName, ..Launch::overlaid(1) }
    });
    for order in Order::ALL {
        let mut quiet = World::new(&launches).order(order);
        run(&mut quiet, &mut Coverage::default()).unwrap();
        for turn in 0..quiet.turns() {
            let asks = [turn, turn + 1, turn + 7];
            let world = || World::new(&launches).order(order).asks(&asks).queue(2);
            let mut world = world().transcribed();
            assert_eq!(run(&mut world, &mut Coverage::default()), Ok(()), "{}", world.transcript());
            let told = world.transcript();
            assert!((0..3).all(|n| matches!(world.told(n), Some(Ok(_)))), "{told}");
            assert!(told.contains("that is all") || turn + 20 > quiet.turns(), "{told}");
            assert!(!told.contains("it is refused"), "{told}");
        }
    }
}

/// Somebody else takes the device between prepare.1 and prepare.2, more than once.
#[test]
fn a_stolen_loop_device_is_no_failure() {
    for library in Library::ALL {
        let launch = Launch { library, ..Launch::overlaid(1) };
        let mut world = World::new(&[launch]).thefts(100).transcribed();
        assert_eq!(run(&mut world, &mut Coverage::default()), Ok(()), "{}", world.transcript());
        assert!(matches!(world.told(0), Some(Ok(_))), "{}", world.transcript());
    }
}

/// One data dir is one living rocker's.
#[test]
fn rivals_for_a_data_dir_are_told() {
    for order in Order::ALL {
        let launches: [Launch; 6] =
            core::array::from_fn(|n| Launch { library: library(n), ..Launch::overlaid(1) });
        let mut world = World::new(&launches).order(order).transcribed();
        assert_eq!(run(&mut world, &mut Coverage::default()), Ok(()), "{}", world.transcript());
        let started = (0..6).filter(|&n| matches!(world.told(n), Some(Ok(_)))).count();
        assert_eq!(started, 1, "{}", world.transcript());
    }
}
