//! Which controllers of cgroups this host has, and where (`man 7 cgroups`).

use std::fs;
use std::path::PathBuf;

use crate::runner;

/// The hierarchies that are mounted here, each with the names of its controllers.
///
/// # Panics
///
/// Where there is no `/proc`.
pub fn hierarchies() -> Vec<(PathBuf, bool, String)> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let cgroups = fields.filter_map(|fields| {
        let kind = fields.iter().position(|field| *field == "-")? + 1;
        let place = PathBuf::from(fields[4]);
        match fields[kind] {
            "cgroup" => Some((place, false, fields[kind + 2].to_owned())),
            "cgroup2" => {
                let names = fs::read_to_string(place.join("cgroup.controllers")).ok()?;
                Some((place, true, names.trim_end().replace(' ', ",")))
            }
            _ => None,
        }
    });
    cgroups.collect()
}

/// Where a controller is, and whether that is version 2. Without it a test is skipped.
pub fn needs(name: &str) -> (PathBuf, bool) {
    let has = |names: &str| names.split(',').any(|it| it == name);
    let found = hierarchies().into_iter().find(|(_, _, names)| has(names));
    match found {
        Some((place, unified, _)) => (place, unified),
        None => runner::skip(&format!("this host has no cgroup controller {name}")),
    }
}
