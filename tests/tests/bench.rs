//! The benchmark runs and says what it is asked for. How fast is for `make bench`.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use serde_json::Value;
use tests::{Package, bin, runner, scratch};

fn main() -> ExitCode {
    runner::main(tests::root![
        the_benchmark_measures_everything,
        packages_are_measured_beside_plain_files,
    ])
}

fn the_benchmark_measures_everything() {
    if Command::new("cc").arg("--version").output().is_err() {
        runner::skip("there is no C compiler");
    }
    let programs = bin("rocker");
    let dir = scratch();
    let charts = dir.path().join("charts");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_rocker-bench"));
    bench.args(["--quick", "--json"]).arg(format!("--charts={}", charts.display()));
    bench.arg(programs.parent().expect("it lies in a directory"));
    let output = bench.output().expect("cargo builds it with the tests");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for overlays in [0, 1, 5] {
        let ours = ["rocker", "rocker, C", "rocker, warm", "rocker, callback"];
        for what in ours.into_iter().chain(["floor doc", "floor best", "floor warm"]) {
            let rows = said["rows"].as_array().expect("a list");
            let is_it = |row: &&Value| row["overlays"] == overlays && row["what"] == what;
            let row = rows.iter().find(is_it).expect("every combination");
            assert_eq!(row["launches"], 30, "{row}");
            for (early, late) in [("p50", "p95"), ("p95", "p99")] {
                assert!(row["gone_us"][early].as_f64() <= row["gone_us"][late].as_f64(), "{row}");
                assert!(row["app_us"][early].as_f64() < row["gone_us"][early].as_f64(), "{row}");
            }
        }
    }
    let ratios = said["ratios"].as_array().expect("a list");
    let is_c_to_rust = |ratio: &&Value| ratio["of"] == "rocker, C" && ratio["to"] == "rocker";
    let c_to_rust: Vec<&Value> = ratios.iter().filter(is_c_to_rust).collect();
    assert_eq!(c_to_rust.len(), 4, "{ratios:?}");
    assert!(c_to_rust.iter().all(|ratio| ratio["goal"] == 1.03 && ratio["app"].is_number()));
    let programs = said["exec"].as_array().expect("a list");
    for what in ["rocker", "fork, exec, wait", "posix_spawn, wait"] {
        let row = programs.iter().find(|row| row["what"] == what).expect("each way");
        assert_eq!(row["programs"], 30, "{row}");
        assert!(row["app_us"]["p50"].as_f64() < row["end_us"]["p50"].as_f64(), "{row}");
        assert_eq!(row["ours_to_it"].is_number(), what != "rocker", "{row}");
    }
    let whole = &said["whole"][0];
    assert_eq!((&whole["what"], &whole["launches"]), (&"rocker run".into(), &10.into()), "{whole}");
    many_rockers_are_measured(&said["scale"], &charts);
    for size in said["sizes"].as_array().expect("a list") {
        assert!(size["bytes"].as_u64() <= size["limit"].as_u64(), "{size}");
    }
}

/// Every scene has its figures, and its picture.
fn many_rockers_are_measured(scale: &Value, charts: &Path) {
    let figures = scale.as_array().expect("a list");
    let value = |scene: &str, what: &str| {
        let is_it = |it: &&Value| it["scene"] == scene && it["what"] == what;
        let figure = figures.iter().find(is_it).unwrap_or_else(|| panic!("{scene}: {what}"));
        figure["value"].as_f64().expect("a number")
    };
    let at_once = |what| value("10 launches at once", what);
    assert!(at_once("half of the Apps run") <= at_once("all Apps run"));
    assert!(at_once("all Apps run") < at_once("all are gone"));
    assert!(value("a second has room for", "resets, each with a program") > 1.0);
    for live in [0, 5, 10] {
        value("a launch among others, request to App", &format!("among {live} rockers"));
    }
    let own = value("memory of an idle rocker", "its guard's own, among 10 rockers");
    assert!((4.0..=48.0).contains(&own), "{own} KiB");
    if Command::new("strace").arg("--version").output().is_ok() {
        for process in ["client", "client's helper", "master", "guard, to its end"] {
            let calls = value("system calls of a launch", process);
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

fn packages_are_measured_beside_plain_files() {
    let dir = scratch();
    let tree = dir.path().join("tree");
    Package::with_probe().file("share/zeros", 0o644, [0; 100_000]).lay_out(&tree);
    let mut bench = Command::new(env!("CARGO_BIN_EXE_rocker-bench-pack"));
    bench.args(["--rounds", "1", "--compression", "zstd,gzip", "--block-size", "4K,1M"]);
    let output = bench.arg("--packer").arg(bin("rocker")).arg(&tree).arg("bin/probe").output();
    let output = output.expect("cargo builds it with the tests");
    let complaint = String::from_utf8_lossy(&output.stderr);
    if complaint.contains("cachestat(2)") {
        runner::skip("this kernel does not tell what is in the page cache");
    }
    assert!(output.status.success(), "{complaint}");
    let table = String::from_utf8(output.stdout).expect("text");
    for form in ["plain files", "zstd 4K", "zstd 1M", "gzip 4K", "gzip 1M"] {
        let row = table.lines().find(|line| line.starts_with(&format!("| {form} |")));
        let row = row.unwrap_or_else(|| panic!("{form}: {table}"));
        let numbers = row.split('|').skip(2).filter(|cell| !cell.is_empty());
        let numbers: Vec<f64> = numbers.map(|cell| cell.trim().parse().expect(cell)).collect();
        assert_eq!(numbers.len(), 13, "{row}");
        assert!(numbers.iter().all(|number| number.is_finite()), "{row}");
    }
    assert_eq!(tests::scratch::names(dir.path()), ["tree"]);
}
