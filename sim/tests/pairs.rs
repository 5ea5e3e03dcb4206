//! Every pair of faults of the shortest launch: what one fault leaves in order, a second one may
//! not upset. `SIM_LONG=1` runs really every pair, about a million (use `--release`); without it
//! one errno stands for all of its call, and nothing lasts.

use std::thread;

use sim::walk::{Walk, is_essential};
use sim::{Launch, Order, Planned};

/// As many threads as the machine that this must be quick on has processors.
const SHARES: usize = 2;

#[test]
fn every_pair_of_faults_of_a_bare_launch_is_told_and_leaves_nothing() {
    let is_long = std::env::var_os("SIM_LONG").is_some();
    let is_wanted: fn(&Planned) -> bool = if is_long { |_| true } else { is_essential };
    let threads: Vec<_> = (0..SHARES)
        .map(|share| {
            thread::spawn(move || {
                let mut walk = Walk::default();
                walk.pairs(&[Launch::BARE], Order::CallerFirst, is_wanted, (share, SHARES));
                walk
            })
        })
        .collect();
    let mut walk = Walk::default();
    for thread in threads {
        walk.merge(thread.join().unwrap());
    }
    println!("{} pairs", walk.worlds);
    if let Err(story) = walk.verdict() {
        panic!("{story}");
    }
}
