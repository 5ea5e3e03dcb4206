//! Every pair of faults of the shortest launch: what one fault leaves in order, a second one may
//! not upset. `SIM_LONG=1` runs really every pair, about a million (use `--release`); without it
//! one errno stands for all of its call, and nothing lasts.

use std::thread;

use sim::walk::{Walk, is_essential};
use sim::{Launch, Library, Order, Planned};

/// As many threads as the machine that this must be quick on has processors.
const SHARES: usize = 2;

fn every_pair(library: Library) {
    let is_long = std::env::var_os("SIM_LONG").is_some();
    let is_wanted: fn(&Planned) -> bool = if is_long { |_| true } else { is_essential };
    // What C decides is what Rust does (`c_matches_rust`): of its pairs every fourth is enough.
    let parts = if is_long || library == Library::Rust { SHARES } else { 4 * SHARES };
    let threads: Vec<_> = (0..SHARES)
        .map(|share| {
            thread::spawn(move || {
                let mut walk = Walk::default();
                let launch = Launch { library, ..Launch::BARE };
                walk.pairs(&[launch], Order::CallerFirst, is_wanted, (share, parts));
                walk
            })
        })
        .collect();
    let mut walk = Walk::default();
    for thread in threads {
        walk.merge(thread.join().expect("a walk does not panic"));
    }
    println!("{} pairs", walk.worlds);
    if let Err(story) = walk.verdict() {
        panic!("{story}");
    }
}

#[test]
fn every_pair_of_faults_of_a_bare_launch_is_told_and_leaves_nothing() {
    every_pair(Library::Rust);
}

#[test]
fn every_pair_of_faults_of_a_bare_launch_from_c_is_told_and_leaves_nothing() {
    every_pair(Library::C);
}
