//! The benchmark runs and says what it is asked for. How fast is for `make bench`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use serde_json::Value;
use tests::{Package, bin, runner, scratch};

fn main() -> ExitCode {
    runner::main(tests::root![
        the_benchmark_measures_everything,
        one_scene_alone_is_measured_and_drawn,
        peers_that_cannot_are_left_out_with_a_word,
        launches_leave_nothing,
        packages_are_measured_beside_plain_files,
    ])
}

fn the_benchmark_measures_everything() {
    if Command::new("cc").arg("--version").output().is_err() {
        runner::skip("there is no C compiler");
    }
    let dir = scratch();
    let charts = dir.path().join("charts");
    let drawn = format!("--charts={}", charts.display());
    let output = bench(&["--quick", "--json", &drawn]).output().expect("cargo builds it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for overlays in [0, 1, 5] {
        let kept = ["rocker, warm", "rocker, none ready"];
        let ours = ["rocker", "rocker, C", "rocker, callback"].into_iter().chain(kept);
        for what in
            ours.chain(["floor doc", "floor best", "floor warm", "floor walls", "floor kept"])
        {
            let rows = said["launch"]["rows"].as_array().expect("a list");
            let is_it = |row: &&Value| row["overlays"] == overlays && row["what"] == what;
            let row = rows.iter().find(is_it).expect("every combination");
            assert_eq!(row["launches"], 30, "{row}");
            for (early, late) in [("p50", "p95"), ("p95", "p99")] {
                assert!(row["gone_us"][early].as_f64() <= row["gone_us"][late].as_f64(), "{row}");
                assert!(row["app_us"][early].as_f64() < row["gone_us"][early].as_f64(), "{row}");
            }
        }
    }
    let ratios = said["launch"]["ratios"].as_array().expect("a list");
    let is_c_to_rust = |ratio: &&Value| ratio["of"] == "rocker, C" && ratio["to"] == "rocker";
    let c_to_rust: Vec<&Value> = ratios.iter().filter(is_c_to_rust).collect();
    assert_eq!(c_to_rust.len(), 4, "{ratios:?}");
    assert!(
        c_to_rust
            .iter()
            .all(|ratio| ratio["goals"] == serde_json::json!([1.03, 1.03])
                && ratio["app"].is_number())
    );
    let programs = said["exec"].as_array().expect("a list");
    for what in ["rocker", "fork, exec, wait", "posix_spawn, wait"] {
        let row = programs.iter().find(|row| row["what"] == what).expect("each way");
        assert_eq!(row["programs"], 30, "{row}");
        assert!(row["app_us"]["p50"].as_f64() < row["end_us"]["p50"].as_f64(), "{row}");
        assert_eq!(row["ours_to_it"].is_number(), what != "rocker", "{row}");
    }
    let whole = &said["whole"][0];
    let again = "rocker run, again".into();
    assert_eq!((&whole["what"], &whole["launches"]), (&again, &10.into()), "{whole}");
    for size in said["sizes"].as_array().expect("a list") {
        assert!(size["value"].as_f64() <= size["goal"].as_f64(), "{size}");
    }
    many_rockers_are_measured(&said, &charts);
}

/// Every scene has its figures, and its picture.
fn many_rockers_are_measured(said: &Value, charts: &Path) {
    let at_once = |what| value(&said["scale"], "10 launches at once", what);
    assert!(at_once("half of the Apps run") <= at_once("all Apps run"));
    assert!(at_once("all Apps run") < at_once("all are gone"));
    let resets = value(&said["scale"], "a second has room for", "resets, each with a program");
    assert!(resets > 1.0);
    let among = "a launch among living rockers, request to App";
    for what in ["among none", "among 10, held by others", "among 10, held by the caller"] {
        assert!(value(&said["among"], among, what) > 1.0, "{what}");
    }
    assert!(value(&said["among"], among, "its program without a rocker, among none") > 1.0);
    for held in ["among 10, held by others", "among 10, held by the caller"] {
        for what in ["", "its program, ", "launch to program, "] {
            let what = format!("{what}{held}, to among none");
            assert!(value(&said["among"], among, &what) > 0.0, "{what}");
        }
    }
    let mounts = "a launch on a host with more mounts, request to all gone";
    for what in ["floor warm, 10 more", "rocker, warm, 10 more below a sixth overlay"] {
        assert!(value(&said["mounts"], mounts, what) > 1.0, "{what}");
    }
    let idle = "memory of an idle rocker among 10, 5 overlays";
    let own = value(&said["memory"], idle, "its guard's own");
    assert!((4.0..=48.0).contains(&own), "{own} KiB");
    let all = value(&said["memory"], idle, "the kernel's for all of it, App included");
    let program = "the kernel's for that program alone, without a rocker";
    let program = value(&said["memory"], idle, program);
    let rocker = value(&said["memory"], idle, "the kernel's for the rocker: the difference");
    assert!((all - program - rocker).abs() < 0.2, "{all} {program} {rocker}");
    let caller = "a launch by a caller of 5 or 400 MB, request to App";
    for form in ["program", "program, C", "callback", "callback, C", "fork alone"] {
        let [small, large] = [5, 400].map(|mb| format!("{form}, {mb} MB"));
        let [small, large] = [small, large].map(|it| value(&said["callers"], caller, &it));
        // What is copied takes its time: 100,000 pages.
        let is_copied = !form.starts_with("program");
        assert!(!is_copied || large > small + 500.0, "{form}: {small} {large}");
    }
    if Command::new("strace").arg("--version").output().is_ok() {
        for process in ["client", "client's helper", "master", "guard, to its end"] {
            let calls = value(&said["calls"], "system calls of a launch", process);
            assert!((10.0..200.0).contains(&calls), "{process}: {calls}");
        }
    }
    let page = fs::read_to_string(charts.join("launch.md")).expect("it was written");
    let pictures: Vec<&str> = page.lines().filter(|line| line.starts_with("![")).collect();
    assert!(pictures.len() > 8, "{page}");
    for picture in pictures {
        let (_, file) = picture.split_once("](").expect("a picture");
        let svg = fs::read_to_string(charts.join(file.trim_end_matches(')'))).expect("a file");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    }
}

/// What a scene's part says.
fn value(part: &Value, scene: &str, what: &str) -> f64 {
    let figures = part.as_array().expect("a list");
    let is_it = |it: &&Value| it["scene"] == scene && it["what"] == what;
    let figure = figures.iter().find(is_it).unwrap_or_else(|| panic!("{scene}: {what}"));
    figure["value"].as_f64().expect("a number")
}

fn bench(arguments: &[&str]) -> Command {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_rocker-bench"));
    bench.args(arguments).arg(bin("rocker").parent().expect("it lies in a directory"));
    bench
}

fn one_scene_alone_is_measured_and_drawn() {
    let dir = scratch();
    let charts = format!("--charts={}", dir.path().display());
    let output = bench(&["--quick", "--profile", &charts]).output().expect("cargo builds it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(tests::scratch::names(dir.path()), ["profile.md"]);
    let page = fs::read_to_string(dir.path().join("profile.md")).expect("it was written");
    // Each actor's steps, in the words of the trace; and what is not there in the warm one.
    let (warm, cold) = page.split_once("the package mounted anew").expect("two tables");
    for half in [warm, cold] {
        for step in
            ["root.1    client", "prepare.4 guard  mount -t overlay", "prepare.8 master echo"]
        {
            assert!(half.contains(&format!("| {step}")), "{step}: {half}");
        }
        assert!(half.contains("| enter.3   helper exec ./clock |"), "{half}");
        assert!(!half.contains("recvmsg"), "nobody works while he waits: {half}");
        let us = |what: &str| -> f64 {
            let line = half.lines().find(|line| line.starts_with(&format!("| {what}")));
            let number = line.and_then(|line| line.rsplit('|').nth(1)).expect(what);
            number.trim().parse().expect(number)
        };
        assert!(us("between steps") < us("request to App"), "{half}");
    }
    assert!(cold.contains("| prepare.2 guard  losetup") && !warm.contains("losetup"), "{page}");
}

/// None of them is needed for it: what is called so here fails, each in its own way.
fn peers_that_cannot_are_left_out_with_a_word() {
    let dir = scratch();
    let says_no = "echo not today >&2; exit 3";
    let peers = [
        ("musl-gcc", says_no),
        ("bwrap", "[ $1 != --version ] || exec echo bubblewrap 0.12.0; echo not today >&2; exit 3"),
        // Once it can.
        (
            "nsjail",
            "[ ! -e $0.ran ] || { echo not today >&2; exit 3; }; touch $0.ran; echo fifteen+newline",
        ),
        ("crun", says_no),
        ("runc", says_no),
        ("systemd-nspawn", says_no),
        ("podman", "echo hello"),
        ("dockerd", "[ $1 = --version ] || { echo starting; echo not today; exit 3; }"),
    ];
    for (name, script) in peers {
        let program = dir.path().join(name);
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a file");
        fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("it is ours");
    }
    let path = std::env::var("PATH").expect("there is one");
    let path = format!("{}:{path}", dir.path().display());
    let output = bench(&["--quick", "--json", "--whole"]).env("PATH", path).output();
    let output = output.expect("cargo builds it");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    for (name, why) in [
        ("launch in C, static, again", "musl-gcc: exit status: 3: not today"),
        ("bwrap", "bwrap: exit status: 3: not today"),
        ("nsjail", "nsjail: exit status: 3: not today"),
        ("crun run", "crun: exit status: 3: not today"),
        ("runc run", "runc: exit status: 3: not today"),
        ("systemd-nspawn", "systemd-nspawn: exit status: 3: not today"),
        ("podman run", "its program has said 6 bytes, not 16"),
        ("docker run (image, 1 overlay)", "dockerd: not today"),
    ] {
        let line = format!("rocker-bench: SKIP {name}: {why}");
        assert!(complaint.lines().any(|said| said == line), "{line}: {complaint}");
    }
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rows = said["whole"].as_array().expect("a list");
    let names: Vec<_> = rows.iter().map(|row| &row["what"]).collect();
    assert_eq!(
        names,
        [
            "rocker run, again",
            "launch in C, again",
            "rocker run, warm",
            "rocker run",
            "the program alone",
            "an empty C program",
            "floor kept, no process",
            "floor warm, no process",
            "floor best, no process"
        ],
        "{rows:?}"
    );
}

fn launches_leave_nothing() {
    let output = bench(&["--quick", "--json", "--leaks=100"]).output().expect("cargo builds it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rows = said["leaks"]["rows"].as_array().expect("a list");
    let done: Vec<_> = rows.iter().map(|row| row["launches"].as_u64()).collect();
    let wanted: Vec<_> = (0..=10).map(|ten| ten * 10).chain([100]).map(Some).collect();
    assert_eq!(done, wanted);
    for left in said["leaks"]["left"].as_array().expect("a list") {
        assert!(left["value"].as_f64() <= left["goal"].as_f64(), "{left}: {rows:?}");
    }
    // While they run there is something to be left.
    assert!(rows.iter().any(|row| row["loops"].as_u64() > Some(0)), "{rows:?}");
    assert!(
        rows.iter().any(|row| row["mounts"] != rows[0]["mounts"] || row["fds"] != rows[0]["fds"])
    );
}

fn packages_are_measured_beside_plain_files() {
    /// `TMPFS_MAGIC` of linux/magic.h
    const TMPFS: rustix::fs::FsWord = 0x0102_1994;
    let dir = scratch();
    let tree = dir.path().join("tree");
    Package::with_probe().file("share/zeros", 0o644, [0; 100_000]).lay_out(&tree);
    let tree_flag = format!("--tree={}", tree.display());
    let flags = ["--quick", "--packages", "--compression=zstd,gzip", "--block-size=64K,1M"];
    let mut bench = bench(&flags);
    let output = bench.args([&tree_flag, "--start=bin/probe"]).output().expect("cargo builds it");
    let complaint = String::from_utf8_lossy(&output.stderr);
    if complaint.contains("cachestat(2)") {
        runner::skip("this kernel does not tell what is in the page cache");
    }
    assert!(output.status.success(), "{complaint}");
    let has_mksquashfs = !complaint.contains("SKIP mksquashfs");
    // A file system in memory keeps all of it there.
    let has_disk = rustix::fs::statfs(dir.path()).expect("it is there").f_type != TMPFS;
    assert_eq!(complaint.contains("SKIP cold plain files"), !has_disk, "{complaint}");
    let table = String::from_utf8(output.stdout).expect("text");
    for form in ["plain files", "zstd 64K", "zstd 1M", "gzip 64K", "gzip 1M"] {
        let row = table.lines().find(|line| line.starts_with(&format!("| {form} |")));
        let row = row.unwrap_or_else(|| panic!("{form}: {table}"));
        let cells: Vec<&str> = row.split('|').map(str::trim).skip(2).collect();
        let numbers: Vec<f64> = cells.iter().filter_map(|cell| cell.parse().ok()).collect();
        let lacks = match form {
            "plain files" => 3,
            _ if has_mksquashfs => 0,
            _ => 2,
        };
        assert_eq!(numbers.len(), 15 - lacks, "{row}");
        assert!(numbers.iter().all(|number| number.is_finite()), "{row}");
    }
    assert!(table.contains("packed as by default, zstd 64K\n  the plain files' size "), "{table}");
    assert_eq!(tests::scratch::names(dir.path()), ["tree"]);
}
