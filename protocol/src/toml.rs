//! What is wrong with a text in TOML, in one line: the master's configuration and a package's
//! manifest are read by crates that share nothing else. toml itself explains over several lines,
//! with a drawing.

use core::fmt;

/// Displayed as `line 3: cwd: it must be a text in quotes, not 5`.
#[derive(Clone, Copy, Debug)]
pub struct Wrong<'a> {
    /// All of it.
    pub text: &'a str,
    /// Where in it, in bytes; none where it is the text as a whole.
    pub at: Option<usize>,
    /// Why, in one line or several.
    pub message: &'a str,
}

impl Wrong<'_> {
    /// What stands before the `=` of the line, if the message does not say it.
    fn key(&self, line: usize) -> Option<&str> {
        let key = self.text.lines().nth(line - 1)?.split_once('=')?.0.trim();
        let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        let quoted = |(at, _): (usize, &str)| {
            self.message[..at].ends_with('`') && self.message[at + key.len()..].starts_with('`')
        };
        let is_key = !key.is_empty() && key.bytes().all(is_bare);
        (is_key && !self.message.match_indices(key).any(quoted)).then_some(key)
    }
}

impl fmt::Display for Wrong<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = self.at {
            let line = line_of(self.text, at);
            write!(f, "line {line}: ")?;
            self.key(line).map_or(Ok(()), |key| write!(f, "{key}: "))?;
        }
        if let Some((wanted, found)) = mistyped(self.message, "a table") {
            return write!(f, "it must be {wanted}, not {found}");
        }
        for (index, line) in self.message.lines().enumerate() {
            f.write_str(if index == 0 { "" } else { ", " })?;
            f.write_str(line)?;
        }
        Ok(())
    }
}

/// What was wanted and what was found, where a message of serde's says it in words of Rust's.
/// `table` is what the format calls names with values.
pub fn mistyped<'a>(message: &'a str, table: &'static str) -> Option<(&'static str, &'a str)> {
    let said = ["invalid type: ", "invalid value: "].map(|it| message.strip_prefix(it));
    let (found, wanted) = said.into_iter().flatten().next()?.rsplit_once(", expected ")?;
    let wanted = match wanted {
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "path string" => "a text in quotes",
        "a sequence" => "a list",
        "a map" => table,
        _ if wanted.starts_with("struct ") => table,
        _ => return None,
    };
    let found = match found {
        "map" => table,
        "sequence" => "a list",
        _ => found.strip_prefix("string ").or(found.split('`').nth(1)).unwrap_or(found),
    };
    Some((wanted, found))
}

/// The line of a place, counted from 1.
pub fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString as _;

    use super::*;

    #[test]
    fn what_is_wrong_is_one_line_with_its_place() {
        let text = "a = 1\n\n  b.c = 2\n[d]\n\"e f\" = 3\n";
        let told = |at, message| Wrong { text, at, message }.to_string();
        assert_eq!(told(Some(0), "too small"), "line 1: a: too small");
        assert_eq!(told(Some(9), "too\nsmall"), "line 3: b.c: too, small");
        // Said already, or no bare key.
        assert_eq!(
            told(Some(0), "unknown field `a`, not `aa`"),
            "line 1: unknown field `a`, not `aa`"
        );
        assert_eq!(told(Some(0), "not `aa`"), "line 1: a: not `aa`");
        assert_eq!(told(Some(18), "no"), "line 4: no");
        assert_eq!(told(Some(22), "no"), "line 5: no");
        assert_eq!(told(None, "no"), "no");
        assert_eq!(told(Some(999), "no end"), "line 6: no end");
    }

    #[test]
    fn what_is_of_the_wrong_kind_is_told_without_words_of_rusts() {
        for (message, plain) in [
            ("type: string \"x\", expected u64", "a whole number, 0 or more, not \"x\""),
            ("value: integer `-1`, expected usize", "a whole number, 0 or more, not -1"),
            ("value: integer `-1`, expected u32", "a whole number from 0 to 4294967295, not -1"),
            ("type: floating point `1.5`, expected u16", "a whole number from 0 to 65535, not 1.5"),
            ("type: string \"a `b` c\", expected f64", "a number, not \"a `b` c\""),
            ("type: integer `1`, expected a boolean", "true or false, not 1"),
            ("type: integer `1`, expected path string", "a text in quotes, not 1"),
            ("type: sequence, expected a string", "a text in quotes, not a list"),
            ("type: map, expected a sequence", "a list, not a table"),
        ] {
            let message = std::format!("invalid {message}");
            let told = Wrong { text: "a = 1", at: Some(0), message: &message }.to_string();
            assert_eq!(told, std::format!("line 1: a: it must be {plain}"));
        }
        let other = "invalid type: boolean `true`, expected \"auto\" or a list";
        let told = Wrong { text: "", at: None, message: other }.to_string();
        assert_eq!(told, other);
    }
}
