//! The documents say what the programs do, and the code keeps its own house rules.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use protocol::{Actor, Step};
use tests::programs::workspace;
use tests::{Package, SOON, bin, process, runner, scratch, within};

fn main() -> ExitCode {
    let mut all = tests::plain![
        steps_are_the_arrows_of_the_readme,
        every_block_of_the_readme_is_of_a_kind_that_is_tried,
        make_has_the_targets_that_the_readme_names,
        make_installs_what_the_readme_lists,
        the_dependency_of_the_readme_is_the_library_alone,
        the_manifest_of_the_readme_can_be_packed,
        options_that_the_documents_name_are_there,
        errors_and_traces_in_the_readme_name_real_steps,
        the_happy_path_of_the_readme_is_the_sims,
        links_lead_somewhere,
        the_top_level_is_as_planned,
        no_place_of_one_machine_is_named,
        machines_make_no_system_calls,
        unsafe_code_is_only_where_it_is_announced,
        root_calls_no_tools,
        tests_that_security_names_are_there,
        every_launch_of_the_tests_goes_through_the_machines,
        the_guard_is_small,
        guard_and_command_load_nothing,
        the_others_load_the_c_library_alone,
        the_front_door_is_short,
    ];
    all.extend(tests::root![
        the_commands_of_the_readme_work_for_a_new_user,
        the_configuration_of_the_readme_starts_a_master,
        the_trace_of_the_readme_is_that_of_a_launch,
    ]);
    runner::main(all)
}

fn read(path: &str) -> String {
    let path = workspace().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The blocks between ``` of a document: language and content.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut found = vec![];
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (line.trim().strip_prefix("```"), open.take()) {
            (Some(language), None) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(block)) => found.push(block),
            (None, Some((language, content))) => open = Some((language, content + line + "\n")),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block has no end: {open:?}");
    found
}

fn readme_blocks(language: &str) -> Vec<String> {
    let all = blocks(&read("README.md")).into_iter();
    all.filter(|(kind, _)| kind == language).map(|(_, content)| content).collect()
}

fn steps_are_the_arrows_of_the_readme() {
    let (mut diagram, mut arrows) = (String::new(), vec![]);
    for line in readme_blocks("mermaid").join("").lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("%% diagram: ") {
            name.clone_into(&mut diagram);
        } else if let Some((who, rest)) = line.split_once(" ->> ") {
            let (_, label) = rest.split_once('(').expect("an arrow reads `A ->> B: (n) caption`");
            let (number, caption) = label.split_once(')').expect("the number is in parentheses");
            arrows.push((format!("{diagram}.{number}"), who.to_owned(), caption.trim().to_owned()));
        }
    }
    let name = |actor| match actor {
        Actor::AppMaster => "AppMaster",
        Actor::Client => "RockerClient",
        Actor::Helper => "Helper",
        Actor::Master => "RockerMaster",
        Actor::Guard => "RockerGuard",
        Actor::App => "App",
        Actor::Kernel => "Kernel",
    };
    let of_code: Vec<_> = Step::ALL
        .iter()
        .map(|step| (step.to_string(), name(step.actor()).to_owned(), step.caption().to_owned()))
        .collect();
    // Line by line, so that a difference can be read.
    for (drawn, coded) in arrows.iter().zip(&of_code) {
        // Who hears of a step in a diagram of its own may be told by another name there.
        assert_eq!((&drawn.0, &drawn.2), (&coded.0, &coded.2));
        let is_told = ["prepare.0", "root.15"].contains(&drawn.0.as_str());
        assert!(drawn.1 == coded.1 || is_told, "{drawn:?} is drawn by {}", coded.1);
    }
    assert_eq!(arrows.len(), of_code.len());
    assert_eq!(readme_blocks("mermaid").len(), 5);
}

/// Rust is compiled as a documentation test of this crate (see `src/lib.rs`), and not run: it
/// names a package that is not there. The other kinds are tried below, the AppMaster in C in `c_documented`,
/// the judge in `c_orders`. A block of another kind, or one too many, needs a test first.
fn every_block_of_the_readme_is_of_a_kind_that_is_tried() {
    let mut kinds: Vec<String> =
        blocks(&read("README.md")).into_iter().map(|(kind, _)| kind).collect();
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds, ["mermaid", "rust,no_run", "sh", "text", "toml"]);
    let count = |kind| readme_blocks(kind).len();
    assert_eq!(["sh", "toml", "text"].map(count), [4, 3, 3]);
    assert!(!read("README.md").contains("@@"), "a placeholder was left in the README");
}

fn make_has_the_targets_that_the_readme_names() {
    let makefile = read("Makefile");
    let mut named = 0;
    for block in readme_blocks("sh") {
        for line in block.lines() {
            if let Some(target) = line.strip_prefix("make ") {
                let target = target.split_whitespace().next().unwrap();
                let has = makefile.lines().any(|line| {
                    line.split_once(':').is_some_and(|(names, _)| {
                        !line.starts_with('\t')
                            && names.split_whitespace().any(|name| name == target)
                    })
                });
                assert!(has, "make {target}");
                named += 1;
            }
        }
    }
    assert!(named >= 2);
}

/// `make -n` says what it would do; the unit is made as it says.
fn make_installs_what_the_readme_lists() {
    let (dir, readme) = (scratch(), read("README.md"));
    let top = format!("{}/usr/", dir.path().display());
    let mut make = Command::new("make");
    make.args(["-n", "install", "PREFIX=/usr"]).arg(format!("DESTDIR={}", dir.path().display()));
    let plan = make.current_dir(workspace()).env("MAKEFLAGS", "").output().unwrap().stdout;
    let plan = String::from_utf8(plan).unwrap();
    let mut listed = 0;
    for line in plan.lines().filter(|line| line.contains("install -D")) {
        let mut words = line.split_whitespace().skip_while(|word| !word.starts_with(&top));
        let place = words.next().and_then(|word| word.strip_prefix(&top)).expect("a place in /usr");
        let names = words.filter_map(|file| file.rsplit('/').next());
        let mut paths: Vec<String> = names.map(|name| format!("{place}/{name}")).collect();
        if place.ends_with(".service") {
            paths.push(place.to_owned());
            let made = Command::new("sh").args(["-ec", line]).current_dir(workspace()).status();
            assert!(made.unwrap().success());
        }
        for path in paths {
            // A library's file has a version in its name.
            let path = match path.split_once(".so.") {
                Some((stem, _)) => format!("{stem}.so"),
                None => path,
            };
            let named = |path: &str| readme.contains(&format!("`{path}`"));
            let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
            assert!(named(&path) || named(dir), "{path}");
            listed += 1;
        }
    }
    assert!(listed >= 9, "{plan}");
    let unit =
        fs::read_to_string(format!("{top}lib/systemd/system/rocker-master.service")).unwrap();
    assert!(unit.contains("\nExecStart=/usr/sbin/rocker-master\n") && !unit.contains("/local"));
    // It looks whether the program is there.
    let unit = unit.replace("/usr/sbin/rocker-master", bin("rocker-master").to_str().unwrap());
    fs::write(dir.path().join("rocker-master.service"), unit).unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(dir.path().join("rocker-master.service"));
    match verify.output() {
        Ok(said) => {
            let said = String::from_utf8_lossy(&said.stderr).into_owned();
            assert!(!said.contains("rocker-master.service"), "{said}");
        }
        Err(_) => println!("systemd-analyze is not here"),
    }
}

/// The line resolves, to what this workspace has been built from.
fn the_dependency_of_the_readme_is_the_library_alone() {
    let blocks = readme_blocks("toml").into_iter();
    let line = blocks.into_iter().find(|text| text.contains("[dependencies]")).unwrap();
    let library = format!("\"{}\"", workspace().join("client-rs").display());
    let dir = scratch();
    fs::create_dir(dir.path().join("src")).unwrap();
    fs::write(dir.path().join("src/main.rs"), "fn main() {}").unwrap();
    fs::copy(workspace().join("Cargo.lock"), dir.path().join("Cargo.lock")).unwrap();
    let package = "[package]\nname = \"app-master\"\nedition = \"2024\"\n";
    let text = line.replace("\"../rocker/client-rs\"", &library);
    fs::write(dir.path().join("Cargo.toml"), format!("{package}{text}")).unwrap();
    let mut cargo = Command::new("cargo");
    cargo.args(["tree", "--offline", "--edges", "normal"]).current_dir(dir.path());
    let output = cargo.output().unwrap();
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(tree.contains("client-rs v") && tree.contains("rustix v"), "{tree}");
    assert!(!tree.contains("clap v") && !tree.contains("backhand v"), "{tree}");
}

fn the_manifest_of_the_readme_can_be_packed() {
    let manifest = readme_blocks("toml").into_iter().find(|text| text.contains("entry")).unwrap();
    let dir = scratch();
    let tree = dir.path().join("tree");
    let package = Package::new().file("rocker.toml", 0o644, manifest);
    package.file("bin/hello", 0o755, "#!/bin/sh\necho hello $1\n").lay_out(&tree);
    let mut pack = Command::new(bin("rocker"));
    let output = pack.arg("pack").arg(&tree).arg(dir.path().join("x.sqfs")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn options_that_the_documents_name_are_there() {
    let help: String =
        ["run", "exec", "wait", "cp", "stats", "judge", "pack", "ps", "kill", "doctor"]
            .iter()
            .map(|verb| {
                let output = Command::new(bin("rocker")).args([verb, "--help"]).output().unwrap();
                String::from_utf8(output.stdout).unwrap()
            })
            .collect();
    let master = Command::new(bin("rocker-master")).arg("--help").output().unwrap();
    let bench = Command::new(env!("CARGO_BIN_EXE_rocker-bench")).arg("--help").output().unwrap();
    let help = [master, bench]
        .into_iter()
        .fold(help, |help, said| help + &String::from_utf8(said.stdout).unwrap());
    for document in ["README.md"] {
        // What stands in a trace is another program's.
        let text: String = read(document)
            .lines()
            .filter(|line| !line.contains(" us  ") && !is_told_by_the_sim(line))
            .collect::<Vec<_>>()
            .join("\n");
        for word in text.split(|char: char| char.is_whitespace() || "`\"(),;:.[]=".contains(char)) {
            if word.starts_with("--")
                && word.len() > 2
                && word.as_bytes()[2].is_ascii_lowercase()
                && word != "--move"
            {
                assert!(help.contains(word), "{document}: {word}");
            }
        }
    }
}

fn errors_and_traces_in_the_readme_name_real_steps() {
    let step = |name: &str| Step::ALL.iter().find(|step| step.to_string() == name).copied();
    for block in readme_blocks("text") {
        for line in block.lines() {
            if let Some(error) = line.strip_prefix("rocker: ") {
                let named = error.split_once(" (").and_then(|(words, rest)| {
                    Some((words.strip_prefix("cannot ")?, step(rest.split_once(')')?.0)?))
                });
                if let Some((purpose, step)) = named {
                    assert_eq!(purpose, step.purpose(), "{line}");
                }
            } else if line != "..." {
                let name = line.split_whitespace().next().unwrap();
                assert!(step(name).is_some(), "{line}");
            }
        }
    }
}

/// Whether a line is one of the sim's happy path.
fn is_told_by_the_sim(line: &str) -> bool {
    read("sim/transcripts/happy_path.txt").lines().any(|told| told == line)
}

/// Line by line and in order; "..." stands for what is left out.
fn the_happy_path_of_the_readme_is_the_sims() {
    let quote = readme_blocks("text").into_iter().find(|text| text.contains("\n...\n"));
    let quote = quote.expect("the README quotes the sim");
    let transcript = read("sim/transcripts/happy_path.txt");
    let mut told = transcript.lines();
    let mut skips = false;
    for line in quote.lines() {
        if line == "..." {
            skips = true;
        } else if core::mem::take(&mut skips) {
            assert!(told.any(|it| it == line), "the sim does not say so, or not here: {line}");
        } else {
            assert_eq!(told.next(), Some(line));
        }
    }
    assert!(quote.lines().count() > 10);
}

fn links_lead_somewhere() {
    for document in
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/bench/packages.md", "sim/README.md"]
    {
        let (text, here) = (read(document), Path::new(document).parent().unwrap());
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap().split('#').next().unwrap();
            if !target.is_empty() && !target.contains("://") {
                assert!(workspace().join(here).join(target).exists(), "{document}: {target}");
            }
        }
    }
}

/// All files of the repository with one of these endings, with their texts.
fn files(endings: &[&str]) -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, endings: &[&str], found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    walk(&path, endings, found);
                }
            } else if endings.iter().any(|ending| name.to_string_lossy().ends_with(ending))
                && let Ok(text) = fs::read_to_string(&path)
            {
                let path = path.strip_prefix(workspace()).unwrap().to_owned();
                found.push((path, text));
            }
        }
    }
    let mut found = vec![];
    walk(workspace(), endings, &mut found);
    assert!(!found.is_empty());
    found
}

fn the_top_level_is_as_planned() {
    let planned = [
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "Makefile",
        "README.md",
        "client-c",
        "client-rs",
        "docs",
        "guard",
        "master",
        "protocol",
        "sim",
        "tests",
    ];
    let found = tests::scratch::names(workspace());
    let found: Vec<&str> = found
        .iter()
        .map(String::as_str)
        .filter(|name| *name != "target" && !name.starts_with('.'))
        .collect();
    assert_eq!(found, planned);
    assert!(read("LICENSE").starts_with("MIT License"));
    assert!(read("CHANGELOG.md").lines().count() > 3);
    let ci = fs::metadata(workspace().join(".ci/run")).expect(".ci/run");
    assert!(ci.permissions().mode() & 0o100 != 0, ".ci/run can be executed");
}

fn no_place_of_one_machine_is_named() {
    // Put together, so that they are not found here.
    let foreign = [
        ["/wo", "rk/main"],
        ["/wo", "rk/shared"],
        ["../sha", "red"],
        ["/ro", "ot/."],
        ["/tmp/hel", "per"],
    ]
    .map(|parts| parts.concat());
    for (path, text) in files(&[".rs", ".md", ".toml", ".c", ".h", "Makefile", "run", ".txt"]) {
        for place in &foreign {
            assert!(!text.contains(place.as_str()), "{} names {place}", path.display());
        }
    }
}

fn machines_make_no_system_calls() {
    let mut count = 0;
    for (path, text) in files(&["machine.rs", "helper.rs"]) {
        if path.starts_with("tests") {
            continue;
        }
        count += 1;
        let code = text.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for forbidden in
                ["libc", "nix::", "rustix", "std::", "unsafe", "Vec<", "Box<", "String"]
            {
                assert!(!line.contains(forbidden), "{}: {line}", path.display());
            }
        }
    }
    assert!(count >= 4, "protocol, guard, master and client have one each");
}

fn unsafe_code_is_only_where_it_is_announced() {
    for (path, text) in files(&[".rs"]) {
        let uses = text.lines().any(|line| {
            let line = line.trim_start();
            let code = line.split("//").next().unwrap_or("");
            ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                .iter()
                .any(|form| code.contains(form))
                && !code.contains('"')
        });
        let announced = text.contains("#![allow(unsafe_code, reason = ")
            || text.contains("unsafe_code,\n    reason = ")
            || text.contains("#![allow(\n    unsafe_code");
        assert!(!uses || announced, "{} uses unsafe code without a word", path.display());
        let is_small = ["protocol", "sim"].iter().all(|dir| !path.starts_with(dir));
        let calls_c = path == Path::new("sim/src/c_client.rs");
        assert!(is_small || calls_c || !uses, "{} needs no unsafe code", path.display());
    }
    assert!(read("protocol/src/lib.rs").contains("#![forbid(unsafe_code)]"));
    assert!(read("protocol/src/lib.rs").contains("#![no_std]"));
}

fn root_calls_no_tools() {
    for (path, text) in files(&[".rs"]) {
        // It asks the guard's binary, which it has opened and checked, for its version.
        let is_roots = ["master/src", "guard/src"].iter().any(|dir| path.starts_with(dir));
        if is_roots && !path.ends_with("guard_binary.rs") {
            assert!(!text.contains("Command::new(\""), "{}", path.display());
            assert!(!text.contains("process::Command"), "{}", path.display());
        }
    }
}

fn tests_that_security_names_are_there() {
    let text = read("tests/SECURITY.md");
    let mut named = 0;
    for row in text.lines().filter(|line| line.starts_with("| ")).skip(2) {
        let mut tests = row.split('`').filter_map(|word| word.split_once("::")).peekable();
        assert!(tests.peek().is_some() || row.contains("Not tested"), "{row}");
        for (file, test) in tests {
            let code = read(&format!("tests/tests/{file}.rs"));
            // It is there, and in the list of those that run.
            assert!(code.contains(&format!("fn {test}(")), "{file}::{test}");
            assert!(code.contains(&format!("        {test},\n")), "{file}::{test} is not run");
            named += 1;
        }
    }
    assert!(named > 45, "{named}");
}

fn every_launch_of_the_tests_goes_through_the_machines() {
    // Peers are killed all along; an App may not launch; the benchmark; C asks for no trace.
    let excused = [
        ("sweep.rs", 2),
        ("facts.rs", 1),
        ("rocker-bench/main.rs", 4),
        ("rocker-bench/exec.rs", 1),
        ("rocker-bench/scale.rs", 3),
        ("rocker-bench/among.rs", 1),
        ("rocker-bench/keeper.rs", 1),
        ("rocker-bench/callers.rs", 1),
        ("rocker-bench/leaks.rs", 4),
        ("rocker-bench/profile.rs", 1),
        ("c_documented.rs", 2),
        ("c_errors.rs", 10),
        ("c_same.rs", 15),
        ("c_many.rs", 1),
        ("c_orders.rs", 2),
        ("limits.rs", 1),
    ];
    for (path, text) in files(&[".rs"]).into_iter().filter(|(path, _)| path.starts_with("tests")) {
        let count = |call: String| i32::try_from(text.matches(&call).count()).unwrap();
        let ways = ["spawn(&", "spawn_over(", "enter(", "open()", "open_over("]
            .map(|way| count(format!(".{way}")));
        // A program in a rocker that takes orders is no launch.
        let programs = count("rocker.spawn(&".to_owned());
        let replays = count(format!("{}(", "replayed"));
        let excused = excused.iter().find(|(name, _)| path.ends_with(name)).map_or(0, |it| it.1);
        assert_eq!(ways.iter().sum::<i32>(), programs + replays + excused, "{}", path.display());
    }
}

fn the_guard_is_small() {
    let size = fs::metadata(bin("rocker-guard")).unwrap().len();
    assert!(size <= tests::GUARD_MAX, "{size} bytes");
}

/// One file that needs no other has no interpreter's name in it. On machines that
/// `client-c/command/start.c` does not know, the command needs a C library.
fn guard_and_command_load_nothing() {
    let command = cfg!(any(target_arch = "x86_64", target_arch = "aarch64")).then_some("rocker");
    for name in command.into_iter().chain(["rocker-guard"]) {
        let program = fs::read(bin(name)).unwrap();
        assert!(!program.windows(7).any(|bytes| bytes == b"/ld-lin"), "{name} loads libraries");
    }
}

/// See "No libgcc to load" in ARCHITECTURE.md.
fn the_others_load_the_c_library_alone() {
    for name in ["rocker-cli", "rocker-master"] {
        let program = fs::read(bin(name)).unwrap();
        assert!(!program.windows(8).any(|bytes| bytes == b"libgcc_s"), "{name} loads libgcc_s");
    }
}

fn the_front_door_is_short() {
    let lines = read("Makefile").lines().count();
    assert!(lines < 60, "the Makefile has {lines} lines");
}

/// A host of this process's own with nothing of ROCKER on it yet.
fn fresh_host() {
    unshare(CloneFlags::CLONE_NEWNS).expect("root may");
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).expect("root may");
    for dir in ["/run", "/var/lib"] {
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
            .expect("root may");
    }
}

fn the_commands_of_the_readme_work_for_a_new_user() {
    fresh_host();
    let dir = scratch();
    std::os::unix::fs::symlink(workspace().join("tests"), dir.path().join("tests")).unwrap();
    let programs = bin("rocker").parent().unwrap().to_owned();
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
    let sh = |line: &str| {
        let mut command = Command::new("sh");
        command
            .arg("-ec")
            .arg(line)
            .current_dir(dir.path())
            .env("PATH", &path)
            .env_remove("ROCKER_SOCKET");
        command.stdin(Stdio::null());
        command
    };
    let block = readme_blocks("sh").into_iter().find(|text| text.contains("rocker pack")).unwrap();
    let (mut master, mut name) = (None, String::new());
    for line in block.lines().map(|line| line.split('#').next().unwrap().trim()) {
        if let Some(background) = line.strip_suffix('&') {
            let child = sh(&format!("exec {background}")).stderr(Stdio::null()).spawn().unwrap();
            master = Some(child);
            let answers = || rocker_client::list(rocker_client::SOCKET, SOON).is_ok();
            assert!(within(SOON, answers), "{line}");
        } else if let Some(run) = line.strip_prefix("NAME=$(").and_then(|it| it.strip_suffix(')')) {
            let output = sh(run).output().unwrap();
            assert!(output.status.success(), "{line}: {output:?}");
            name = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        } else {
            let output = sh(line).env("NAME", &name).output().unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{line}: {output:?}");
            if line.starts_with("rocker run") {
                assert!(output.stdout.starts_with(b"hello, world"), "{line}: {output:?}");
            }
        }
    }
    let mut master = master.expect("the README starts one");
    process::kill(master.id());
    master.wait().unwrap();
}

/// Who did what at which step, without numbers, which differ each time, and in no order: what two
/// processes do at a time comes as it comes.
fn steps_of(trace: &str) -> BTreeSet<String> {
    let step = |line: &str| {
        let mut words = line.split_whitespace();
        let (step, actor) = (words.next()?, words.next()?);
        let command: Vec<&str> = words.skip(2).collect();
        let command = command.join(" ");
        // How many there are of these is the host's affair, and what a rocker is called is chance.
        let command = match (step, command.split_once(' ')) {
            ("prepare.4" | "overlay.1", Some((program, _))) => program.to_owned(),
            ("prepare.9", Some(_)) => command.split('/').next()?.to_owned(),
            _ => command,
        };
        let plain: String = command.chars().filter(|char| !char.is_ascii_digit()).collect();
        Some(format!("{step} {actor} {plain}"))
    };
    trace.lines().filter_map(step).collect()
}

fn the_trace_of_the_readme_is_that_of_a_launch() {
    let told = readme_blocks("text").into_iter().find(|text| text.contains(" us  ")).unwrap();
    let daemon = tests::Daemon::start();
    let package = Package::new().file("bin/hello", 0o755, "#!/bin/sh\n").build();
    let places = [
        (daemon.socket(), "/run/rocker/master.sock"),
        (daemon.exec_dir(), "/var/hello/exec"),
        (daemon.data_dir(), "/var/hello/data"),
        (package.clone(), "/apps/hello.sqfs"),
    ];
    let mut run = Command::new(bin("rocker"));
    run.args(["run", "--trace", "--uid", "1000", "--gid", "1000", "--socket"]);
    run.arg(daemon.socket()).arg("--exec-dir").arg(daemon.exec_dir());
    run.arg("--data-dir").arg(daemon.data_dir()).args(["--overlay", "/etc", "--overlay", "/var"]);
    let output = run.arg(&package).args(["--", "bin/hello"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let traced = String::from_utf8(output.stderr).unwrap();
    let traced = places
        .iter()
        .fold(traced, |traced, (place, name)| traced.replace(&place.display().to_string(), name));
    let (told, traced) = (steps_of(&told), steps_of(&traced));
    let only = |these: &BTreeSet<String>, not: &BTreeSet<String>| -> Vec<String> {
        these.difference(not).cloned().collect()
    };
    let mut missing = only(&told, &traced);
    // The guard tells of it after the entrance, which its caller may not wait for.
    missing.retain(|step| !step.starts_with("root.5 "));
    let none: Vec<String> = vec![];
    assert_eq!((missing, only(&traced, &told)), (none.clone(), none));
}

fn the_configuration_of_the_readme_starts_a_master() {
    let text = readme_blocks("toml").into_iter().find(|text| text.contains("[[allow]]")).unwrap();
    let daemon = tests::Daemon::with_config(&text);
    assert!(daemon.is_well());
}
