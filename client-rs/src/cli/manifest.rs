//! `rocker.toml` at the root of a package: what to start, and with what around it.
//!
//! ```toml
//! entry = "bin/clock"            # required; relative to the exec dir, or absolute
//! args = ["--face", "round"]
//! cwd = "/var/lib/clock"
//! overlay = ["/etc", "/var"]     # or "auto"
//! landlock = true                # the second wall, as with --landlock
//!
//! [env]
//! LANG = "C.UTF-8"
//! ```
//!
//! Strict: a key that is not known is an error, because a misspelt `overlay` would otherwise
//! start an App whose writes go nowhere.

use core::fmt;
use std::collections::BTreeMap;

use protocol::limits::OVERLAY_DIRS_MAX;
use protocol::toml::{Wrong, line_of};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

/// Name of the manifest at the root of a package.
pub(crate) const NAME: &str = "rocker.toml";

/// Longest manifest, in bytes. What does not fit here does not fit in a request either.
pub(crate) const SIZE_MAX: u64 = 32 * 1024;

/// A manifest that keeps every rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Manifest {
    /// The program: an absolute path, or one relative to the exec dir.
    pub(crate) entry: String,
    /// Its arguments, without the program's own name.
    pub(crate) args: Vec<String>,
    /// Its environment, by name.
    pub(crate) env: BTreeMap<String, String>,
    /// Its working directory; the caller decides when there is none.
    pub(crate) cwd: Option<String>,
    /// The directories it may write to.
    pub(crate) overlay: Overlay,
    /// Whether it is to be bound by Landlock; the caller may want it all the same.
    pub(crate) landlock: bool,
}

/// Which directories of the host get an overlay.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Overlay {
    /// None: the key is missing.
    #[default]
    None,
    /// `"auto"`: the guard chooses (overlay.0).
    Auto,
    /// These: absolute paths, none with a `..`.
    Dirs(Vec<String>),
}

impl Manifest {
    /// Reads `text` and checks every rule. The error is one line: `line 3: entry: is empty`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let raw: Raw = toml::from_str(text).map_err(|error| {
            let message = error.message();
            // What is missing stands nowhere, though toml points at the table it is missing from.
            let place = error.span().filter(|_| !message.starts_with("missing field"));
            Wrong { text, at: place.map(|span| span.start), message }.to_string()
        })?;
        raw.check().map_err(|broken| format!("line {}: {}", line_of(text, broken.at), broken.words))
    }
}

/// The file as written: the values know where they stand, so that an error can name the line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    entry: Spanned<String>,
    #[serde(default)]
    args: Vec<Spanned<String>>,
    #[serde(default)]
    env: BTreeMap<String, Spanned<String>>,
    cwd: Option<Spanned<String>>,
    overlay: Option<Spanned<RawOverlay>>,
    #[serde(default)]
    landlock: bool,
}

enum RawOverlay {
    Word(String),
    Dirs(Vec<String>),
}

/// By hand, because an untagged enum would answer "data did not match any variant".
impl<'de> Deserialize<'de> for RawOverlay {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct WordOrDirs;

        impl<'de> Visitor<'de> for WordOrDirs {
            type Value = RawOverlay;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("\"auto\" or an array of directories")
            }

            fn visit_str<E>(self, word: &str) -> Result<RawOverlay, E> {
                Ok(RawOverlay::Word(word.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, dirs: A) -> Result<RawOverlay, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(dirs)).map(RawOverlay::Dirs)
            }
        }

        from.deserialize_any(WordOrDirs)
    }
}

/// A rule that a value breaks.
struct Broken {
    at: usize,
    words: String,
}

impl Raw {
    fn check(self) -> Result<Manifest, Broken> {
        filled("entry", &self.entry)?;
        for arg in &self.args {
            no_nul("args", arg)?;
        }
        for (name, value) in &self.env {
            let key = format!("env.{}", name.escape_default());
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(broken(value, &key, "the name is empty, or has a '=' or a NUL"));
            }
            no_nul(&key, value)?;
        }
        if let Some(cwd) = &self.cwd {
            filled("cwd", cwd)?;
        }
        Ok(Manifest {
            overlay: self.overlay.map_or(Ok(Overlay::None), |raw| check_overlay(&raw))?,
            entry: self.entry.into_inner(),
            args: self.args.into_iter().map(Spanned::into_inner).collect(),
            env: self.env.into_iter().map(|(name, value)| (name, value.into_inner())).collect(),
            cwd: self.cwd.map(Spanned::into_inner),
            landlock: self.landlock,
        })
    }
}

fn check_overlay(raw: &Spanned<RawOverlay>) -> Result<Overlay, Broken> {
    let dirs = match raw.get_ref() {
        RawOverlay::Word(word) if word == "auto" => return Ok(Overlay::Auto),
        RawOverlay::Word(_) => {
            return Err(broken(raw, "overlay", "neither \"auto\" nor an array of directories"));
        }
        RawOverlay::Dirs(dirs) => dirs,
    };
    if dirs.len() > OVERLAY_DIRS_MAX {
        let rule = format!("{} directories, at most {OVERLAY_DIRS_MAX} are allowed", dirs.len());
        return Err(broken(raw, "overlay", &rule));
    }
    for dir in dirs {
        let rule = if !dir.starts_with('/') {
            "is not absolute"
        } else if dir.split('/').any(|component| component == "..") {
            "has a '..'"
        } else if dir.contains('\0') {
            "has a NUL"
        } else {
            continue;
        };
        return Err(broken(raw, "overlay", &format!("\"{}\" {rule}", dir.escape_debug())));
    }
    Ok(Overlay::Dirs(dirs.clone()))
}

/// A path that must be there: the kernel has no word for an empty one.
fn filled(key: &str, value: &Spanned<String>) -> Result<(), Broken> {
    if value.get_ref().is_empty() {
        return Err(broken(value, key, "is empty"));
    }
    no_nul(key, value)
}

/// execve(2) takes C strings, and would silently cut at the NUL.
fn no_nul(key: &str, value: &Spanned<String>) -> Result<(), Broken> {
    if value.get_ref().contains('\0') {
        return Err(broken(value, key, "has a NUL"));
    }
    Ok(())
}

fn broken<T>(value: &Spanned<T>, key: &str, rule: &str) -> Broken {
    Broken { at: value.span().start, words: format!("{key}: {rule}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Manifest::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn parse_entry_alone_has_defaults() {
        let manifest = Manifest::parse("entry = \"bin/clock\"\n").unwrap();
        let expected = Manifest {
            entry: "bin/clock".to_owned(),
            args: Vec::new(),
            env: BTreeMap::new(),
            cwd: None,
            overlay: Overlay::None,
            landlock: false,
        };
        assert_eq!(manifest, expected);
    }

    #[test]
    fn parse_every_key() {
        let text = r#"
            entry = "/app/bin/clock"
            args = ["--face", "", "round one"]
            cwd = "/var/lib/clock"
            overlay = ["/etc", "/var/lib"]
            landlock = true
            [env]
            LANG = "C.UTF-8"
            EMPTY = ""
        "#;
        let manifest = Manifest::parse(text).unwrap();
        assert_eq!(manifest.entry, "/app/bin/clock");
        assert_eq!(manifest.args, ["--face", "", "round one"]);
        assert_eq!(manifest.cwd.as_deref(), Some("/var/lib/clock"));
        assert_eq!(manifest.overlay, Overlay::Dirs(vec!["/etc".to_owned(), "/var/lib".to_owned()]));
        assert!(manifest.landlock);
        assert_eq!(manifest.env.len(), 2);
        assert_eq!(manifest.env["LANG"], "C.UTF-8");
        assert_eq!(manifest.env["EMPTY"], "");
    }

    #[test]
    fn parse_overlay_auto_and_empty_list() {
        let auto = Manifest::parse("entry = \"a\"\noverlay = \"auto\"").unwrap();
        assert_eq!(auto.overlay, Overlay::Auto);
        let none = Manifest::parse("entry = \"a\"\noverlay = []").unwrap();
        assert_eq!(none.overlay, Overlay::Dirs(Vec::new()));
    }

    #[test]
    fn parse_unknown_key_names_line_and_key() {
        let text = error("entry = \"a\"\n\noverlays = \"auto\"\n");
        assert!(text.starts_with("line 3: unknown field `overlays`, expected one of"), "{text}");
        let text = error("entry = \"a\"\n[limits]\nmemory = 1\n");
        assert!(text.starts_with("line 2: unknown field `limits`"), "{text}");
    }

    #[test]
    fn parse_missing_entry() {
        assert_eq!(error("args = []\n"), "missing field `entry`");
        assert_eq!(error(""), "missing field `entry`");
    }

    #[test]
    fn parse_wrong_type_names_line_and_key() {
        assert_eq!(error("entry = 3\n"), "line 1: entry: it must be a text in quotes, not 3");
        assert_eq!(
            error("entry = \"a\"\noverlay = true\n"),
            "line 2: overlay: invalid type: boolean `true`, \
             expected \"auto\" or an array of directories"
        );
        assert_eq!(
            error("entry = \"a\"\n[env]\nLEVEL = 3\n"),
            "line 3: LEVEL: it must be a text in quotes, not 3"
        );
    }

    #[test]
    fn parse_broken_toml_is_one_line() {
        for text in ["entry = \"a\"\nargs = [\"b\"\n", "entry = \"a\"\nargs = \n", "\u{0}", "= 3"] {
            let text = error(text);
            assert!(text.starts_with("line ") && text.lines().count() == 1, "{text}");
        }
        let text = error("entry = \"a\"\nentry = \"b\"\n");
        assert!(text.starts_with("line 2: "), "{text}");
    }

    #[test]
    fn parse_entry_rules() {
        assert_eq!(error("\nentry = \"\""), "line 2: entry: is empty");
        assert_eq!(error("entry = \"a\\u0000b\""), "line 1: entry: has a NUL");
    }

    #[test]
    fn parse_args_rules() {
        let text = "entry = \"a\"\nargs = [\n  \"fine\",\n  \"b\\u0000\",\n]";
        assert_eq!(error(text), "line 4: args: has a NUL");
    }

    #[test]
    fn parse_env_rules() {
        let rule = "the name is empty, or has a '=' or a NUL";
        assert_eq!(error("entry = \"a\"\n[env]\n\"\" = \"x\""), format!("line 3: env.: {rule}"));
        assert_eq!(
            error("entry = \"a\"\n[env]\n\"A=B\" = \"\""),
            format!("line 3: env.A=B: {rule}")
        );
        let text = error("entry = \"a\"\n[env]\n\"A\\u0000\" = \"\"");
        assert_eq!(text, format!("line 3: env.A\\u{{0}}: {rule}"));
        assert_eq!(error("entry = \"a\"\n[env]\nA = \"\\u0000\""), "line 3: env.A: has a NUL");
    }

    #[test]
    fn parse_cwd_rules() {
        assert_eq!(error("entry = \"a\"\ncwd = \"\""), "line 2: cwd: is empty");
        assert_eq!(error("entry = \"a\"\ncwd = \"/\\u0000\""), "line 2: cwd: has a NUL");
    }

    #[test]
    fn parse_overlay_rules() {
        let overlay = |value: &str| error(&format!("entry = \"a\"\noverlay = {value}"));
        let neither = "line 2: overlay: neither \"auto\" nor an array of directories";
        assert_eq!(overlay("\"all\""), neither);
        assert_eq!(overlay("[\"/a\", \"b\"]"), "line 2: overlay: \"b\" is not absolute");
        assert_eq!(overlay("[\"\"]"), "line 2: overlay: \"\" is not absolute");
        assert_eq!(overlay("[\"/a/../b\"]"), "line 2: overlay: \"/a/../b\" has a '..'");
        assert_eq!(overlay("[\"/a\\u0000\"]"), "line 2: overlay: \"/a\\0\" has a NUL");
        assert!(Manifest::parse("entry = \"a\"\noverlay = [\"/a..b/...\"]").is_ok());
        let dirs = |count: usize| format!("[{}]", vec!["\"/a\""; count].join(", "));
        assert_eq!(overlay(&dirs(17)), "line 2: overlay: 17 directories, at most 16 are allowed");
        assert!(Manifest::parse(&format!("entry = \"a\"\noverlay = {}", dirs(16))).is_ok());
    }
}
