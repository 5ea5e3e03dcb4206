//! The caller of a launch that failed learns at which step and why, in the kernel's own number,
//! whoever it was that the kernel refused.

use std::collections::BTreeSet;

use protocol::{Actor, Errno};
use sim::walk::{faults_of, run};
use sim::{At, Call, Coverage, Fault, Launch, Library, Mode, Order, World};

/// Where the reason does not get through, and why.
const UNTOLD: &[(Actor, Call, &str)] = &[
    (Actor::Guard, Call::Send, "root.5: what failed is the only way to say so"),
    (Actor::Guard, Call::Receive, "root.3: the guard does not have the caller's connection yet"),
    (Actor::Master, Call::Receive, "prepare.7: the guard has the connection, and it is killed"),
    (Actor::Master, Call::Send, "prepare.9: what failed is the only way to the guard"),
];

#[test]
fn the_caller_learns_what_the_kernel_said() {
    for library in Library::ALL {
        learns_what_the_kernel_said(&[Launch { library, ..Launch::overlaid(3) }]);
    }
}

fn learns_what_the_kernel_said(launch: &[Launch]) {
    let mut untold = BTreeSet::new();
    for planned in faults_of(launch, Order::CallerFirst, &[]) {
        let (At::Call(at), Fault::Refuse(errno)) = (planned.at, planned.fault) else { continue };
        if planned.mode != Mode::Once {
            continue;
        }
        let mut world = World::new(launch).faults(&[planned]).counted();
        let _ = run(&mut world, &mut Coverage::default());
        let (call, actor) = world.calls()[usize::try_from(at).expect("there are few")];
        let Some(Err(error)) = world.told(0) else { continue };
        let is_told = matches!(error, protocol::Error::Failed { errno: told, .. } if told == errno);
        // A request that is too long breaks a rule.
        let is_rule = errno == Errno(90) && matches!(error, protocol::Error::Invalid { .. });
        let is_known = UNTOLD.iter().any(|known| (known.0, known.1) == (actor, call));
        if !is_told && !is_rule && !is_known {
            untold.insert(format!("{actor} {call:?}: {error}"));
        }
    }
    assert_eq!(untold, BTreeSet::new());
}
