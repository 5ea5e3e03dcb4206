//! Breaks each machine, and the fake kernel, in the ways of `sim/mutants.txt`, one at a time, in a copy of the
//! workspace, and sees whether the sim notices. Writes `sim/MUTANTS.md`.
//!
//! `cargo run -p sim --bin sim-mutants [WORDS]`: only those whose name holds WORDS, and then
//! nothing is written. The golden transcripts are left out: they notice every change.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What is copied: the crates, and what makes a workspace of them.
const COPIED: [&str; 8] =
    ["Cargo.toml", "Cargo.lock", "protocol", "guard", "master", "client-rs", "sim", "tests"];

/// The tests that may notice, quickest first.
const TESTS: [&str; 7] =
    ["operations", "crowd", "truth", "single_faults", "coverage", "schedules", "pairs"];

/// One way to break a machine.
struct Mutant<'a> {
    name: &'a str,
    file: &'a str,
    /// Lines, and what stands in their place.
    changes: Vec<(&'a str, Vec<&'a str>)>,
}

fn main() -> ExitCode {
    match run(std::env::args().nth(1).as_deref()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "sim-mutants: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every mutant was noticed.
fn run(only: Option<&str>) -> io::Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let list = fs::read_to_string(root.join("sim/mutants.txt"))?;
    let scratch = std::env::temp_dir().join(format!("sim-mutants-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    for name in COPIED {
        copy(&root.join(name), &scratch.join(name))?;
    }
    let mut table = String::new();
    let (mut noticed, mut all) = (0, 0);
    for mutant in parse(&list).iter().filter(|it| only.is_none_or(|words| it.name.contains(words)))
    {
        let path = scratch.join(mutant.file);
        let sound = fs::read_to_string(&path)?;
        fs::write(&path, apply(mutant, &sound)?)?;
        let found = test(&scratch)?;
        fs::write(&path, &sound)?;
        all += 1;
        noticed += usize::from(found.is_some());
        let found = found.unwrap_or_else(|| "**not noticed**".to_owned());
        let _ = writeln!(io::stdout(), "{}\n    {found}", mutant.name);
        table.push_str(&format!("| {} | {} |\n", mutant.name, found.replace('|', "\\|")));
    }
    fs::remove_dir_all(&scratch)?;
    let _ = writeln!(io::stdout(), "{noticed} of {all} noticed");
    if only.is_none() {
        let head = "# Mutants\n\nEach machine, and the fake kernel, broken in the ways of `mutants.txt`, one at a time, \
            and what the sim says to it.\nWritten by `cargo run -p sim --bin sim-mutants`; the \
            golden transcripts, which notice every change, are left out.\n\n";
        let text = format!(
            "{head}{noticed} of {all} are noticed.\n\n| the machine | the sim |\n| --- | --- |\n{table}"
        );
        fs::write(root.join("sim/MUTANTS.md"), text)?;
    }
    Ok(noticed == all)
}

fn copy(from: &Path, to: &PathBuf) -> io::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            if name != "target" {
                copy(&from.join(&name), &to.join(&name))?;
            }
        }
        return Ok(());
    }
    fs::copy(from, to).map(|_| ())
}

fn parse(list: &str) -> Vec<Mutant<'_>> {
    let mut mutants: Vec<Mutant<'_>> = vec![];
    for line in list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix("= ") {
            mutants.push(Mutant { name, file: "", changes: vec![] });
        } else if let Some(mutant) = mutants.last_mut() {
            match (line.strip_prefix("- "), line.strip_prefix("+ ")) {
                (Some(old), _) => mutant.changes.push((old, vec![])),
                (_, Some(new)) => {
                    if let Some((_, lines)) = mutant.changes.last_mut() {
                        lines.push(new);
                    }
                }
                _ => mutant.file = line,
            }
        }
    }
    mutants
}

/// The file with the changes made; a line that is not there once is no longer what it was.
fn apply(mutant: &Mutant<'_>, sound: &str) -> io::Result<String> {
    let mut pieces: Vec<(usize, usize, String)> = vec![];
    for (old, new) in &mutant.changes {
        let found: Vec<usize> = sound.match_indices(old).map(|(at, _)| at).collect();
        let &[at] = found.as_slice() else {
            let why = format!("{}: {} times in {}: {old}", mutant.name, found.len(), mutant.file);
            return Err(io::Error::other(why));
        };
        pieces.push((at, at + old.len(), new.join("\n")));
    }
    pieces.sort();
    let mut broken = String::new();
    let mut done = 0;
    for (from, to, new) in pieces {
        broken.push_str(sound.get(done..from).unwrap_or_default());
        broken.push_str(&new);
        done = to;
    }
    broken.push_str(sound.get(done..).unwrap_or_default());
    Ok(broken)
}

/// Which test notices, and what it says.
fn test(scratch: &Path) -> io::Result<Option<String>> {
    for name in TESTS {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["test", "--quiet", "--offline", "-p", "sim", "--test", name])
            .current_dir(scratch)
            .env("RUST_BACKTRACE", "0")
            .output()?;
        if output.status.success() {
            continue;
        }
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let wrong = String::from_utf8_lossy(&output.stderr).into_owned();
        if wrong.contains("error: could not compile") {
            return Err(io::Error::other(wrong));
        }
        return Ok(Some(format!("`{name}`: {}", promise(&said))));
    }
    Ok(None)
}

/// The broken promise in what a test says.
fn promise(said: &str) -> String {
    let mut lines = said.lines().skip_while(|line| !line.contains("panicked at sim/tests"));
    let first = lines.nth(1).unwrap_or("fails");
    let words = if first.starts_with("assertion") {
        // Between them stands the story.
        lines.find(|line| line.starts_with("  left: ")).unwrap_or(first)
    } else if first.contains("worlds. One:") || first.starts_with("SIM_SEED") {
        lines.next().unwrap_or(first)
    } else {
        first
    };
    words.trim().trim_start_matches("Test failed: ").chars().take(160).collect()
}
