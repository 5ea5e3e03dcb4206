//! The figures as bars, one picture for each scene, and one page with all of them.

use core::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::figure::Figure;
use crate::{Result, run};

/// What goes into one file.
pub(crate) struct Page {
    /// The file's, its title, and the option that makes it if it takes one.
    pub(crate) name: [&'static str; 3],
    pub(crate) figures: Vec<Figure>,
    /// What else there is to say.
    pub(crate) text: String,
}

impl Page {
    /// Writes it into a directory, with its pictures if it has any.
    pub(crate) fn write(&self, dir: &Path, conditions: &str) -> Result<()> {
        let [name, title, option] = self.name;
        fs::create_dir_all(dir)?;
        let commit = run(Command::new("git").args(["describe", "--always", "--dirty"]));
        let commit = commit.unwrap_or_else(|_| "unknown".to_owned());
        let mut page = format!(
            "# {title}\n\nWritten by `make bench BENCH=--charts=docs/bench`{}, and read there what \
             is measured.\n\n{conditions}; {}; commit {}.\n",
            if option.is_empty() { String::new() } else { format!(" with `{option}`") },
            processors(),
            commit.trim_end()
        );
        page += &self.text;
        for scene in self.figures.chunk_by(|one, next| one.scene == next.scene) {
            let [first, ..] = scene else { continue };
            writeln!(page, "\n## {}\n", first.scene)?;
            // Steps have too many words for a picture.
            if name == "launch" {
                let is_part = |c: char| c.is_ascii_alphanumeric();
                let words: Vec<_> =
                    first.scene.split(|c| !is_part(c)).filter(|it| !it.is_empty()).collect();
                let file = format!("{}.svg", words.join("-"));
                let alike = scene.iter().filter(|figure| figure.unit == first.unit);
                fs::write(dir.join(&file), bars(&alike.collect::<Vec<_>>()))?;
                writeln!(page, "![{}]({file})\n", first.scene)?;
            }
            let unit = if first.unit.is_empty() { "number" } else { first.unit };
            writeln!(page, "| | {unit} |\n| --- | --- |")?;
            for figure in scene {
                let Figure { what, unit, .. } = figure;
                let unit = if *unit == first.unit { "" } else { unit };
                let number = format!("{} {unit}", figure.number());
                writeln!(page, "| {} | {} |", what.trim(), number.trim())?;
            }
        }
        Ok(fs::write(dir.join(name).with_extension("md"), page)?)
    }
}

/// `2 processors (AMD EPYC)`, whichever this program may use
fn processors() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |model| model.trim_start_matches([' ', '\t', ':']));
    let count = text.lines().filter(|line| line.starts_with("processor")).count();
    format!("{count} processors ({model})")
}

/// One bar below the other, the longest as wide as there is room.
fn bars(scene: &[&Figure]) -> String {
    const LINE: usize = 24;
    let longest = scene.iter().map(|figure| figure.value).fold(f64::MIN_POSITIVE, f64::max);
    let height = LINE * (scene.len() + 2);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"760\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"{LINE}\" font-weight=\"bold\">{}</text>\n",
        scene[0].scene
    );
    for (row, Figure { what, value, unit, .. }) in scene.iter().enumerate() {
        let (top, text) = (LINE * (row + 1) + 12, LINE * (row + 2) + 4);
        let width = value / longest * 320.0;
        let (end, color) =
            (340.0 + width, if what.starts_with("rocker") { "#36c" } else { "#9ab" });
        // A String takes any text.
        let _ = writeln!(
            svg,
            "<text x=\"325\" y=\"{text}\" text-anchor=\"end\">{what}</text>\
             <rect x=\"333\" y=\"{top}\" width=\"{width:.1}\" height=\"18\" fill=\"{color}\"/>\
             <text x=\"{end:.1}\" y=\"{text}\">{value:.1} {unit}</text>"
        );
    }
    svg + "</svg>\n"
}
