//! The fake kernel answers as `operations.txt` has it, and Linux with it (root test `kernel`).

use std::collections::BTreeSet;

use sim::operations::{OPERATIONS, fake, scenarios};

#[test]
fn the_fake_kernel_answers_as_it_is_written() {
    let scenarios = scenarios();
    assert!(scenarios.len() > 60);
    let differences: Vec<String> = scenarios.iter().filter_map(fake::difference).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn every_operation_is_asked() {
    let scenarios = scenarios();
    let asked: BTreeSet<&str> =
        scenarios.iter().flat_map(|it| &it.operations).map(|it| it.words[0]).collect();
    let known = OPERATIONS.map(|(usage, _)| usage.split(' ').next().unwrap_or(usage));
    assert_eq!(asked, BTreeSet::from(known));
}

/// What the drivers of the sim call of the kernel and no operation does, with the reason.
const NOT_ASKED: [(&str, &str); 9] = [
    (
        "bookkeeping",
        "new say end_turn is_late violated begin call new_name has_named leftovers is_clean census \
         zombie_children",
    ),
    (
        "promises",
        "shared_end has_any released is_released ids_are_final is_alive has_living_group \
         bound_twice package_of is_stale kept_in_vain overlays_held_by",
    ),
    ("who and where", "process_mut init_of"),
    ("close, for all of a table", "close_table"),
    ("read, as protocol::socket does it", "receive"),
    (
        "the root test exec sees them work",
        "clone_program new_session exit_with signal kill_group signal_all pass_gate \
         fails_at_gate warn_group make_forbidden_call hear_violation",
    ),
    (
        "the root test kept sees them work",
        "layer_of seal wipe refresh write_as sync check_synced set_file_ids",
    ),
    ("the root test landlock sees them work", "make_ruleset enforce"),
    (
        "the root tests see them work",
        "widen is_writable shut_writing peer_uid clone_part detach get_fd mount_in_dev is_dev",
    ),
];

#[test]
fn every_call_of_the_fake_kernel_is_an_operation() {
    let kernel = [
        include_str!("../src/kernel/mod.rs"),
        include_str!("../src/kernel/identity.rs"),
        include_str!("../src/kernel/mount.rs"),
        include_str!("../src/kernel/overlay.rs"),
        include_str!("../src/kernel/process.rs"),
        include_str!("../src/kernel/socket.rs"),
    ];
    let asker = include_str!("../src/operations/fake.rs");
    let excused: Vec<&str> = NOT_ASKED.iter().flat_map(|(_, names)| names.split(' ')).collect();
    for line in kernel.iter().flat_map(|text| text.lines()) {
        let Some(rest) = line.strip_prefix("    pub(crate) fn ") else { continue };
        let name = rest.split(['(', '<']).next().unwrap_or(rest);
        let is_asked = asker.contains(&format!(".{name}("));
        assert!(is_asked != excused.contains(&name), "{name} is asked: {is_asked}");
    }
}
