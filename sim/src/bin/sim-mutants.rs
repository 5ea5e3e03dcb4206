//! Breaks each machine, and the fake kernel, in the ways of `sim/mutants.txt`, one at a time, in
//! a copy of the workspace, and sees whether the sim notices. The golden transcripts are left
//! out: they notice every change.
//!
//! ```text
//! sim-mutants              all of them
//! sim-mutants WORDS..      only those whose name or file holds one of WORDS
//! sim-mutants show WORDS   what chance says to the first of these; writes sim/PLANTED.md
//! ```
//!
//! Each writes its row of `sim/MUTANTS.md` when it is done; the other rows stay.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use sim::draw;
use sim::report::Report;

/// What is copied: the crates, and what makes a workspace of them.
const COPIED: [&str; 9] = [
    "Cargo.toml",
    "Cargo.lock",
    "protocol",
    "guard",
    "master",
    "client-rs",
    "client-c",
    "sim",
    "tests",
];

/// The tests that may notice, quickest first.
const TESTS: [&str; 12] = [
    "operations",
    "crowd",
    "packages",
    "ready",
    "kept",
    "truth",
    "orders",
    "single_faults",
    "coverage",
    "schedules",
    "pairs",
    "c_matches_rust",
];

/// What C checks, says and reads: no world has it.
const OF_NO_WORLD: [&str; 2] = ["client-c/src/request.c", "client-c/src/wire.c"];

/// One way to break a machine.
struct Mutant<'a> {
    name: &'a str,
    file: &'a str,
    /// Lines, and what stands in their place.
    changes: Vec<(&'a str, Vec<&'a str>)>,
}

impl Mutant<'_> {
    fn is_meant(&self, words: &str) -> bool {
        self.name.contains(words) || self.file.contains(words)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.as_slice() {
        [show, words] if show == "show" => plant(words),
        words => run(words),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "sim-mutants: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every mutant was noticed.
fn run(only: &[String]) -> io::Result<bool> {
    let root = root();
    let list = fs::read_to_string(root.join("sim/mutants.txt"))?;
    let mutants = parse(&list);
    let stale = stale(&mutants);
    if !stale.is_empty() {
        return Err(io::Error::other(format!("some are no longer there:\n{}", stale.join("\n"))));
    }
    let page = root.join("sim/MUTANTS.md");
    let mut found = rows(&fs::read_to_string(&page)?);
    let scratch = copied()?;
    if let Some(said) = TESTS.iter().find_map(|name| noticed(&scratch, name).transpose()) {
        return Err(io::Error::other(format!("there is something wrong as it is: {}", said?)));
    }
    let (mut noticed, mut all) = (0, 0);
    let is_meant =
        |it: &&Mutant<'_>| only.is_empty() || only.iter().any(|words| it.is_meant(words));
    for mutant in mutants.iter().filter(is_meant) {
        let path = scratch.join(mutant.file);
        let sound = fs::read_to_string(&path)?;
        fs::write(&path, apply(mutant, &sound)?)?;
        let said = test(&scratch, mutant.file)?;
        fs::write(&path, &sound)?;
        all += 1;
        noticed += usize::from(said.is_some());
        let said = said.unwrap_or_else(|| NOT_NOTICED.to_owned());
        let _ = writeln!(io::stdout(), "{}\n    {said}", mutant.name);
        found.insert(mutant.name.to_owned(), said.replace('|', "\\|"));
        fs::write(&page, written(&mutants, &found))?;
    }
    fs::remove_dir_all(&scratch)?;
    let _ = writeln!(io::stdout(), "{noticed} of {all} noticed");
    Ok(noticed == all)
}

const NOT_NOTICED: &str = "**not noticed**";
const NOT_TRIED: &str = "**not tried**";

/// Those that cannot be made, for the text is another by now, and why.
fn stale(mutants: &[Mutant<'_>]) -> Vec<String> {
    let made = |mutant: &Mutant<'_>| apply(mutant, &fs::read_to_string(root().join(mutant.file))?);
    mutants.iter().filter_map(|mutant| made(mutant).err()).map(|error| error.to_string()).collect()
}

/// What the page says of each mutant.
fn rows(page: &str) -> BTreeMap<String, String> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = rows.filter_map(|row| row.split_once(" | ")).skip(2);
    rows.map(|(name, said)| (name.to_owned(), said.to_owned())).collect()
}

/// The page, with a row for each mutant.
fn written(mutants: &[Mutant<'_>], found: &BTreeMap<String, String>) -> String {
    let said = |mutant: &Mutant<'_>| found.get(mutant.name).map_or(NOT_TRIED, String::as_str);
    let noticed = mutants.iter().filter(|it| ![NOT_NOTICED, NOT_TRIED].contains(&said(it))).count();
    let row = |mutant: &Mutant<'_>| format!("| {} | {} |\n", mutant.name, said(mutant));
    format!(
        "# Mutants\n\nEach machine, and the fake kernel, broken in the ways of `mutants.txt`, one at \
         a time, and what the sim says to it.\nWritten by `cargo run -p sim --bin sim-mutants`; \
         the golden transcripts, which notice every change, are left out.\n\n\
         {noticed} of {} are noticed.\n\n| the machine | the sim |\n| --- | --- |\n{}",
        mutants.len(),
        mutants.iter().map(row).collect::<String>()
    )
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// A copy of the workspace, to be broken.
fn copied() -> io::Result<PathBuf> {
    let scratch = std::env::temp_dir().join(format!("sim-mutants-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    for name in COPIED {
        copy(&root().join(name), &scratch.join(name))?;
    }
    Ok(scratch)
}

/// Breaks one machine, lets chance find it, and writes down what it says. True if it does.
fn plant(words: &str) -> io::Result<bool> {
    let list = fs::read_to_string(root().join("sim/mutants.txt"))?;
    let mutants = parse(&list);
    let none = || io::Error::other(format!("no mutant's name holds {words}"));
    let mutant = mutants.iter().find(|it| it.name.contains(words)).ok_or_else(none)?;
    let scratch = copied()?;
    let path = scratch.join(mutant.file);
    let broken = apply(mutant, &fs::read_to_string(&path)?)?;
    fs::write(&path, broken)?;
    let said = told(&cargo_test(&scratch, "schedules", &[CHANCE])?);
    fs::remove_dir_all(&scratch)?;
    let said = said.ok_or_else(|| io::Error::other("chance does not find it"))?;
    fs::write(root().join("sim/PLANTED.md"), planted(mutant, &said).map_err(io::Error::other)?)?;
    Ok(true)
}

/// The test in which chance has one launch.
const CHANCE: &str = "whatever_happens_to_a_launch_it_is_told_and_leaves_nothing";

/// The words of a test that has panicked.
fn told(output: &Output) -> Option<String> {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, rest) = said.split_once("panicked at sim/tests/schedules.rs")?;
    let (_, rest) = rest.split_once('\n')?;
    let end = rest.find("\nnote: run with")?;
    Some(rest.get(..end)?.trim_end().to_owned())
}

/// A page on it: the change, the command, what it prints, and the picture.
fn planted(mutant: &Mutant<'_>, said: &str) -> Result<String, String> {
    let (_, story) = said.split_once("\n\n").ok_or("it tells no story")?;
    let story: Vec<&str> = story.lines().take_while(|line| !line.is_empty()).collect();
    let picture = draw::mermaid(&Report::parse(&story.join("\n"))?);
    let (name, file) = (mutant.name, mutant.file);
    let change = mutant.changes.iter().map(|(old, new)| {
        let new: String = new.iter().map(|line| format!("+{line}\n")).collect();
        format!("-{old}\n{new}")
    });
    let change: String = change.collect();
    Ok(format!(
        "# A planted bug\n\n\
         Written by `cargo run -p sim --bin sim-mutants show \"{name}\"`.\n\
         Any name of `mutants.txt` that chance finds will do.\n\n\
         ## The change\n\n`{file}`:\n\n```diff\n{change}```\n\n\
         ## What chance says to it\n\n\
         `cargo test -p sim --test schedules {CHANCE}` prints the seed, which makes it the same \
         world each time, and the broken promise.\n\
         Then the story, shrunk until nothing could be left out, and the launches and choices \
         that lead there.\n\n\
         ```text\n{said}\n```\n\n\
         ## The picture\n\n\
         `rocker-sim draw FILE`, where `FILE` holds the story.\n\n\
         ```mermaid\n{picture}```\n"
    ))
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
            // A line may be left out: nothing stands in its place.
            let new = if line == "+" { Some("") } else { line.strip_prefix("+ ") };
            match (line.strip_prefix("- "), new) {
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

/// Runs one test file of the copy, or these tests of it.
fn cargo_test(scratch: &Path, name: &str, only: &[&str]) -> io::Result<Output> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["test", "--quiet", "--offline", "-p", "sim", "--test", name])
        .args(only)
        .current_dir(scratch)
        .env("RUST_BACKTRACE", "0")
        // Built again for each of them, and run for longer than that.
        .envs([("CARGO_PROFILE_DEV_DEBUG", "0"), ("CARGO_PROFILE_DEV_OPT_LEVEL", "1")])
        .env("CARGO_INCREMENTAL", "1")
        .output()?;
    let wrong = String::from_utf8_lossy(&output.stderr);
    let fails = ["error: could not compile", "error: failed to run custom build command"];
    if fails.iter().any(|words| wrong.contains(words)) {
        return Err(io::Error::other(wrong.into_owned()));
    }
    Ok(output)
}

/// Which test notices, and what it says.
fn test(scratch: &Path, file: &str) -> io::Result<Option<String>> {
    let tests = if OF_NO_WORLD.contains(&file) { &["c_matches_rust"][..] } else { &TESTS };
    tests.iter().find_map(|name| noticed(scratch, name).transpose()).transpose()
}

/// What this test says, if it fails.
fn noticed(scratch: &Path, name: &str) -> io::Result<Option<String>> {
    let output = cargo_test(scratch, name, &[])?;
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(Some(format!("`{name}`: {}", promise(&said))))
}

/// The broken promise in what a test says.
fn promise(said: &str) -> String {
    let mut lines = said.lines().skip_while(|line| !line.contains("panicked at sim/"));
    let first = lines.nth(1).unwrap_or("fails").trim_start_matches("Test failed: ");
    let words = if first.starts_with("assertion") {
        // Between them stands the story.
        lines.find(|line| line.starts_with("  left: ")).unwrap_or(first)
    } else if first.contains("worlds. One:") || first.starts_with("SIM_SEED") {
        lines.next().unwrap_or(first)
    } else {
        first
    };
    words.trim().chars().take(160).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_can_be_made() {
        let mutants = parse(include_str!("../../mutants.txt"));
        assert_eq!(stale(&mutants), [""; 0]);
        for mutant in &mutants {
            let same = mutants.iter().filter(|it| it.name == mutant.name).count();
            assert!(same == 1 && !mutant.changes.is_empty(), "{}", mutant.name);
        }
    }

    #[test]
    fn what_the_page_says_stays() {
        let mutants = parse(include_str!("../../mutants.txt"));
        let page = include_str!("../../MUTANTS.md");
        assert!(written(&mutants, &rows(page)) == page, "sim-mutants WORDS writes it anew");
    }
}
