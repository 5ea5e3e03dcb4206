//! Chance: who moves next, who is killed, what fails, how time passes; for one launch, for a few
//! that share a master, its limits and their data dirs, and for a crowd. A counter-example
//! shrinks towards "nothing fails, the first who can, moves", and is printed as a transcript
//! with the choices that lead there. `SIM_SEED=2` takes other chances, `SIM_LONG=100000` more.

use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use sim::walk::run;
use sim::{App, Choice, Coverage, End, Launch, Library, Limits, ORDERS, ROOT, USERS, World};

/// Cases of each property, unless `SIM_LONG` says how many.
const CASES: u32 = 1_500;

fn choice() -> impl Strategy<Value = Choice> {
    prop_oneof![
        30 => any::<u8>().prop_map(Choice::Move),
        1 => any::<u8>().prop_map(Choice::Kill),
        1 => any::<u8>().prop_map(Choice::Hang),
        1 => any::<u8>().prop_map(Choice::Refuse),
        1 => prop::sample::select(vec![
            Choice::Garble,
            Choice::Steal,
            Choice::Restart,
            Choice::List,
            Choice::Mount,
            Choice::Wipe,
        ]),
        1 => (1..3_000_u16).prop_map(Choice::Wait),
    ]
}

fn launch() -> impl Strategy<Value = Launch> {
    let dirs = prop::sample::select(vec![0_usize, 0, 1, 3]);
    let end = prop::sample::select(End::ALL.to_vec());
    let app = prop::sample::select(App::ALL.to_vec());
    let library = prop::sample::select(Library::ALL.to_vec());
    let caller = prop::sample::select(vec![ROOT, ROOT, USERS[0], USERS[1], 502]);
    let orders = prop_oneof![2 => Just(None), 1 => prop::sample::select(ORDERS.map(Some).to_vec())];
    // The one before it, if there is one.
    let after = prop::sample::select(vec![None, Some(usize::MAX)]);
    let user = prop::sample::select(vec![None, Some(1000), Some(1000)]);
    let all = (library, dirs, caller, any::<bool>(), 0..3_u8, user, end, app, orders, after);
    all.prop_map(|(library, dirs, caller, trace, data, user, end, app, orders, after)| Launch {
        library,
        orders,
        caller,
        // C asks for none.
        trace: trace && library == Library::Rust,
        data,
        user,
        end,
        app,
        after,
        ..Launch::overlaid(dirs)
    })
}

/// Runs one world; a broken promise comes with its story.
fn holds(
    launches: &[Launch],
    limits: Limits,
    (ready, kept): (usize, usize),
    choices: &[Choice],
) -> Result<(), TestCaseError> {
    let world = || {
        let world = World::with_limits(launches, limits).users();
        world.ready(ready).keeping(kept).choices(choices)
    };
    let Err(violation) = run(&mut world(), &mut Coverage::default()) else { return Ok(()) };
    let mut again = world().transcribed();
    let _ = run(&mut again, &mut Coverage::default());
    Err(TestCaseError::fail(format!("{violation}\n\n{}", again.transcript())))
}

fn check(launches: core::ops::Range<usize>, turns: usize, share: u32, limits: Limits) {
    let number = |name| std::env::var(name).ok().and_then(|it| it.parse::<u64>().ok());
    let cases = number("SIM_LONG").and_then(|cases| u32::try_from(cases).ok());
    let cases = (cases.unwrap_or(CASES) / share).max(CASES / share);
    let seed = number("SIM_SEED").unwrap_or(1);
    let launches = prop::collection::vec(launch(), launches).prop_map(|all| {
        let all = all.into_iter().enumerate();
        let in_order = all.map(|(n, it)| Launch { after: it.after.and(n.checked_sub(1)), ..it });
        in_order.collect::<Vec<_>>()
    });
    let choices = prop::collection::vec(choice(), 0..turns);
    let config = Config {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    };
    let result = TestRunner::new(config)
        .run(&(launches, (0..4_usize, 0..3_usize), choices), |(launches, ahead, choices)| {
            holds(&launches, limits, ahead, &choices)
        });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(story, (launches, (ready, kept), choices))) => {
            let ahead = format!("{ready} ready, {kept} kept");
            panic!("SIM_SEED={seed}\n{story}\n{launches:?}\n{ahead}\n{}", in_short(&choices))
        }
        Err(TestError::Abort(why)) => panic!("SIM_SEED={seed}\n{why}"),
    }
}

/// `Move(0) 22 times, Kill(212)`
fn in_short(choices: &[Choice]) -> String {
    let runs = choices.chunk_by(|one, next| one == next);
    let words = runs.map(|run| match run {
        [one] => format!("{one:?}"),
        run => format!("{:?} {} times", run[0], run.len()),
    });
    words.collect::<Vec<_>>().join(", ")
}

#[test]
fn whatever_happens_to_a_launch_it_is_told_and_leaves_nothing() {
    check(1..2, 120, 1, Limits::default());
}

#[test]
fn whatever_happens_to_eight_launches_they_are_told_and_leave_nothing() {
    check(2..9, 600, 2, Limits { rockers: 5, launches: 6 });
}

#[test]
fn whatever_happens_to_a_crowd_it_is_told_and_leaves_nothing() {
    check(32..33, 2_000, 30, Limits { rockers: 20, launches: 24 });
}
