//! Every single fault: each call refused with each errno it knows, each message garbled, each
//! actor killed or hanging before each turn; once and from now on; for each order of turns, each
//! end of life, each kind of App. Whatever it is: the caller is told, once and in time, and
//! nothing is left.
//!
//! `SIM_LONG=1` takes every kind of App and every order of turns for every number of overlays.

use sim::walk::Walk;
use sim::{App, End, Launch, Order};

fn every_single_fault(dirs: usize, apps: &[App], orders: &[Order]) {
    let is_long = std::env::var_os("SIM_LONG").is_some();
    let (apps, orders) = if is_long { (&App::ALL[..], &Order::ALL[..]) } else { (apps, orders) };
    let mut walk = Walk::default();
    for &order in orders {
        for end in End::ALL {
            for &app in apps {
                walk.single_faults(&[Launch { end, app, ..Launch::overlaid(dirs) }], order);
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
