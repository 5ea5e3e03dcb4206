//! A report or a transcript as pictures: a mermaid sequence diagram, and a timeline in SVG.

use core::fmt::Write as _;

use crate::report::{Entry, Report};
use crate::words::errno_name;

/// The arrows, in order, in mermaid's words.
pub fn mermaid(report: &Report) -> String {
    let mut text = "sequenceDiagram\n".to_owned();
    for actor in actors(report) {
        let _ = writeln!(text, "   participant {actor}");
    }
    for entry in report.steps.iter().filter(|entry| is_actor(entry)) {
        let (actor, words) = (&entry.actor, words(entry));
        // What breaks a line, or ends it, in mermaid.
        let words = words.replace(['\n', ';', '#'], " ");
        let is_in_vain = entry.errno.is_some() || entry.command.contains(": lost: ");
        let arrow = if is_in_vain { "--x" } else { "->>" };
        let _ = writeln!(text, "   {actor} {arrow} {}: {words}", receiver(entry));
    }
    text
}

/// Who hears of a step: the actor itself, unless the command says to whom something is sent.
fn receiver(entry: &Entry) -> &str {
    let hears = |it: &&(&str, &'static str)| entry.command.contains(it.0);
    HEARERS.iter().find(hears).map_or(&entry.actor, |(_, hearer)| hearer)
}

const HEARERS: [(&str, &str); 5] = [
    ("sendmsg # to the master", "master"),
    ("sendmsg # to the guard", "guard"),
    ("sendmsg # to the caller", "client"),
    ("rocker run ", "master"),
    ("clone # the helper", "helper"),
];

fn words(entry: &Entry) -> String {
    let step = entry.step.map(|step| step.to_string()).unwrap_or_default();
    let errno = entry.errno.map(|errno| format!(": {}", errno_name(errno))).unwrap_or_default();
    format!("{step} {}{errno}", entry.command).trim().to_owned()
}

const fn is_actor(entry: &Entry) -> bool {
    !entry.actor.is_empty()
}

/// Everybody, in the order in which they first move.
fn actors(report: &Report) -> Vec<&str> {
    let mut actors: Vec<&str> = vec![];
    for entry in report.steps.iter().filter(|entry| is_actor(entry)) {
        if !actors.contains(&entry.actor.as_str()) {
            actors.push(&entry.actor);
        }
    }
    actors
}

/// One lane for each actor, one bar for each step, as long as it took; waiting is pale.
pub fn svg(report: &Report) -> String {
    const WIDTH: f64 = 1_200.0;
    const LEFT: f64 = 90.0;
    const ROW: f64 = 18.0;
    const TOP: f64 = 30.0;
    let end_us = report.steps.iter().map(|it| it.at_us + it.took_us).fold(1.0, f64::max);
    let scale = (WIDTH - LEFT - 20.0) / end_us;
    let height = TOP + ROW * f64::from(u32::try_from(report.steps.len()).unwrap_or(0)) + 20.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"monospace\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\">0</text>\
         <text x=\"{}\" y=\"18\" text-anchor=\"end\">{end_us:.0} us</text>\n",
        WIDTH - 20.0
    );
    let actors = actors(report);
    let mut y = TOP;
    for entry in report.steps.iter().filter(|entry| is_actor(entry)) {
        let lane = actors.iter().position(|actor| *actor == entry.actor).unwrap_or(0);
        let color = match (entry.errno, waits(entry)) {
            (Some(_), _) => "#d62728",
            (None, true) => "#dddddd",
            (None, false) => COLORS[lane % COLORS.len()],
        };
        let (x, width) = (LEFT + entry.at_us * scale, (entry.took_us * scale).max(1.0));
        // A label that would leave the picture on the right goes to the left of its bar.
        let (at, anchor) = match x + width > WIDTH * 0.6 {
            true => (x - 4.0, "end"),
            false => (x + width + 4.0, "start"),
        };
        let label = escape(&format!("{} {:.0} us", words(entry), entry.took_us));
        let _ = writeln!(
            text,
            "<text x=\"4\" y=\"{:.1}\">{}</text>\
             <rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{color}\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{label}</text>",
            y + 11.0,
            escape(&entry.actor),
            ROW - 4.0,
            y + 11.0
        );
        y += ROW;
    }
    text.push_str("</svg>\n");
    text
}

const COLORS: [&str; 5] = ["#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b"];

/// Whether a step is spent waiting for another actor.
fn waits(entry: &Entry) -> bool {
    entry.command.starts_with("recvmsg") || entry.command.starts_with("await")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
