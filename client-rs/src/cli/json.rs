//! What is wrong with a text in JSON, in one line: serde_json names types of Rust's, and no key.

use protocol::toml::mistyped;
use serde_json::error::Category;

/// As `line 3: args: it must be a list, not 5`, where the first line of the text is `first`.
pub(super) fn wrong(text: &str, first: usize, error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let place = format!("line {}", line.saturating_sub(1) + first);
    let message = error.to_string();
    let message = message.strip_suffix(&format!(" at line {line} column {column}"));
    let message = message.unwrap_or_default();
    match error.classify() {
        Category::Eof => {
            let within = message.strip_prefix("EOF while parsing ").unwrap_or("it");
            return format!("{place}: it is not JSON: it ends within {within}");
        }
        Category::Syntax | Category::Io => {
            return format!("{place}, column {column}: it is not JSON: {message}");
        }
        Category::Data => {}
    }
    if let Some(rest) = message.strip_prefix("missing field ") {
        return format!("{place}: {} is missing", rest.replace('`', "\""));
    }
    if let Some(rest) = message.strip_prefix("duplicate field ") {
        return format!("{place}: {} is there twice", rest.replace('`', "\""));
    }
    let key = key(text, line, column).map_or(String::new(), |key| format!("{key}: "));
    if let Some((wanted, found)) = mistyped(message, "an object") {
        return format!("{place}: {key}it must be {wanted}, not {found}");
    }
    let unknown = message.strip_prefix("unknown field `");
    if let Some((name, known)) = unknown.and_then(|rest| rest.split_once("`, expected ")) {
        let known = known.trim_start_matches("one of ").replace('`', "");
        return format!("{place}: unknown key {name:?}: known are {known}");
    }
    format!("{place}: {key}{message}")
}

/// That of the value which ends here, or begins.
fn key(text: &str, line: usize, column: usize) -> Option<&str> {
    let before: usize = text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    let (before, _) = text.get(..before + column)?.rsplit_once(':')?;
    Some(before.trim_end().strip_suffix('"')?.rsplit_once('"')?.1)
}
