//! Looks at what `rocker run --report FILE` has written, or at a transcript of the sim.
//!
//! ```text
//! rocker-sim replay FILE   whether the machines would have walked so, or where not
//! rocker-sim draw FILE     FILE.mmd, a sequence diagram, and FILE.svg, a timeline
//! rocker-sim speed         worlds per second
//! ```

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use sim::report::Report;
use sim::{Coverage, Launch, Library, World, draw};

const HELP: &str = "rocker-sim replay FILE | draw FILE | speed\n";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let said = match arguments.as_slice() {
        ["replay", file] => replay(Path::new(file)),
        ["draw", file] => draw(Path::new(file)),
        ["speed"] => Ok(speed()),
        _ => Err(HELP.trim_end().to_owned()),
    };
    match said {
        Ok(words) => {
            let _ = writeln!(io::stdout(), "{words}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            let _ = writeln!(io::stderr(), "rocker-sim: {why}");
            ExitCode::FAILURE
        }
    }
}

fn read(file: &Path) -> Result<Report, String> {
    let cannot = |why: &dyn core::fmt::Display| format!("cannot read {}: {why}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| cannot(&error))?;
    Report::parse(&text).map_err(|why| cannot(&why))
}

fn replay(file: &Path) -> Result<String, String> {
    let report = read(file)?;
    report.conforms()?;
    Ok(format!("conforms: {} steps", report.steps.len()))
}

fn draw(file: &Path) -> Result<String, String> {
    let report = read(file)?;
    let mut written = vec![];
    for (extension, text) in [("mmd", draw::mermaid(&report)), ("svg", draw::svg(&report))] {
        let path = file.with_extension(extension);
        std::fs::write(&path, text)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        written.push(path.display().to_string());
    }
    Ok(written.join("\n"))
}

/// One core, the bare launch from root.0 to root.15, and the one with sixteen overlays, by a
/// caller of either library.
fn speed() -> String {
    let mut lines = vec![];
    for (library, dirs) in Library::ALL.into_iter().flat_map(|it| [(it, 0), (it, 16)]) {
        let launch = Launch { library, ..Launch::overlaid(dirs) };
        let (mut worlds, begin) = (0_u32, Instant::now());
        let mut coverage = Coverage::default();
        while begin.elapsed().as_secs() < 1 {
            for _ in 0..1_000 {
                let _ = World::new(&[launch]).run(&mut coverage);
            }
            worlds += 1_000;
        }
        let rate = f64::from(worlds) / begin.elapsed().as_secs_f64();
        lines.push(format!("{library:?}: {rate:.0} worlds per second with {dirs} overlay dirs"));
    }
    lines.join("\n")
}
