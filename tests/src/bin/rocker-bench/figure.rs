//! What scenes say: numbers by name.

use serde_json::{Value, json};

/// One number.
#[derive(Clone)]
pub(crate) struct Figure {
    pub(crate) scene: String,
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// It is to be this at most.
    goal: Option<f64>,
}

impl Figure {
    pub(crate) fn new(
        scene: &str,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) -> Self {
        Self { scene: scene.to_owned(), what: what.into(), value, unit, goal: None }
    }

    pub(crate) fn at_most(mut self, goal: f64) -> Self {
        self.goal = Some(goal);
        self
    }

    /// As many digits as say something.
    pub(crate) fn number(&self) -> String {
        number(self.value)
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        whole if whole.fract() == 0.0 => format!("{value:.0}"),
        1000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// What a scene has to say.
pub(crate) struct Part {
    pub(crate) text: String,
    pub(crate) json: Value,
    pub(crate) figures: Vec<Figure>,
    /// What else goes on its page.
    pub(crate) page: String,
}

impl From<Vec<Figure>> for Part {
    /// What one measurement says of several scenes comes to its scene.
    fn from(mut figures: Vec<Figure>) -> Self {
        let mut scenes: Vec<String> = vec![];
        for figure in &figures {
            if !scenes.contains(&figure.scene) {
                scenes.push(figure.scene.clone());
            }
        }
        figures.sort_by_key(|figure| scenes.iter().position(|scene| *scene == figure.scene));
        Self { text: to_text(&figures), json: to_json(&figures), figures, page: String::new() }
    }
}

fn to_text(figures: &[Figure]) -> String {
    let mut text = String::new();
    for scene in figures.chunk_by(|one, next| one.scene == next.scene) {
        let width = scene.iter().map(|figure| figure.what.chars().count()).fold(50, usize::max);
        text += &format!("\n{}\n", scene.first().map_or("", |figure| &figure.scene));
        for figure in scene {
            let Figure { what, value, unit, goal, .. } = figure;
            let verdict = goal.map_or(String::new(), |goal| {
                let is_met = if *value <= goal { "met" } else { "missed" };
                format!("  goal {}: {is_met}", number(goal))
            });
            text += format!("  {what:width$} {:>10} {unit}{verdict}", figure.number()).trim_end();
            text += "\n";
        }
    }
    text
}

fn to_json(figures: &[Figure]) -> Value {
    let figure = |it: &Figure| {
        json!({"scene": it.scene, "what": it.what, "value": it.value, "unit": it.unit,
            "goal": it.goal})
    };
    figures.iter().map(figure).collect()
}

/// What could not be measured, and why.
pub(crate) fn skip(what: &str, why: impl core::fmt::Display) {
    eprintln!("rocker-bench: SKIP {what}: {why}");
}
