//! `--tmpfs`, `--bind`, `--bind-ro`, `--hostname`: what the App is to see.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use protocol::Errno;
use protocol::limits::HOST_NAME_MAX;
use rocker_client::Conf;

use super::Fault;
use super::args::Run;
use super::run::resolved;
use super::units::size;

/// How large a directory in memory is that nobody has said a size for: 64M.
const TMPFS_BYTES: u64 = 64 << 20;

/// What is in a place.
enum Place {
    Tmpfs(u64),
    Bind(PathBuf),
    BindRo(PathBuf),
}

/// What was said of what the App is to see.
pub(super) struct Places {
    pub(super) conf: Conf,
    /// In the words of the command line, and where.
    said: Vec<(String, PathBuf)>,
}

impl Places {
    /// None if nothing was said.
    pub(super) fn new(args: &Run) -> Result<Option<Self>, Fault> {
        let all = [("tmpfs", &args.tmpfs), ("bind-ro", &args.bind_ro), ("bind", &args.bind)];
        let said = all.into_iter().flat_map(|(option, all)| {
            all.iter().map(move |words| {
                let dir = match (option, split(words)) {
                    ("tmpfs", Some((dir, _))) | (_, Some((_, dir))) => dir,
                    (_, None) => words,
                };
                (format!("{option} {}", words.display()), dir.into())
            })
        });
        Ok(conf(args)?.map(|conf| Self { conf, said: said.collect() }))
    }

    /// Why the guard could not make them: what is not there, in words of the command line's.
    pub(super) fn fault(&self, error: rocker_client::Error) -> Fault {
        let is_it = |dir: &Path| {
            let at = |word: &str| Path::new(word) == dir;
            error.command().split(' ').any(at)
        };
        match self.said.iter().find(|(_, dir)| is_it(dir)) {
            Some((said, dir)) if error.errno() == Some(Errno::NOENT) && !dir.exists() => {
                Fault::Said(format!(
                    "{said}: there is no {}: name a place that the host has, or one below a --tmpfs",
                    dir.display()
                ))
            }
            _ => error.into(),
        }
    }
}

fn conf(args: &Run) -> Result<Option<Conf>, Fault> {
    let wrong = |option: &str, words: &OsStr, form: &str| {
        Fault::Said(format!("{option} {words:?}: it must read {form}"))
    };
    let mut places: Vec<(PathBuf, Place)> = vec![];
    for words in &args.tmpfs {
        let (dir, bytes) = match split(words) {
            Some((dir, bytes)) => (dir, bytes.to_str().and_then(|bytes| size(bytes).ok())),
            None => (words.as_os_str(), Some(TMPFS_BYTES)),
        };
        let form = "DIR or DIR:SIZE, as in /tmp:64M";
        let bytes = bytes.ok_or_else(|| wrong("tmpfs", words, form))?;
        if !Path::new(dir).is_absolute() {
            return Err(wrong("tmpfs", words, "an absolute DIR, as in /tmp:64M"));
        }
        places.push((dir.into(), Place::Tmpfs(bytes)));
    }
    for (option, all) in [("bind-ro", &args.bind_ro), ("bind", &args.bind)] {
        for words in all {
            let (source, dir) = split(words).ok_or_else(|| wrong(option, words, "HOST:DIR"))?;
            let source = resolved(Path::new(source))?;
            let place = match option {
                "bind" => Place::Bind(source),
                _ => Place::BindRo(source),
            };
            places.push((dir.into(), place));
        }
    }
    if let Some(name) = args.hostname.iter().find(|name| name.len() > HOST_NAME_MAX) {
        let why = format!("hostname {name:?}: it is longer than {HOST_NAME_MAX} bytes");
        return Err(Fault::Said(why));
    }
    if places.is_empty() && args.hostname.is_none() {
        return Ok(None);
    }
    // What lies in another place comes after that, however they were said.
    places.sort_by_key(|(dir, _)| dir.components().count());
    let conf = places.into_iter().fold(Conf::new(), |conf, (dir, place)| match place {
        Place::Tmpfs(bytes) => conf.tmpfs(dir, bytes),
        Place::Bind(source) => conf.bind(source, dir),
        Place::BindRo(source) => conf.bind_ro(source, dir),
    });
    Ok(Some(args.hostname.iter().fold(conf, Conf::host_name)))
}

/// At the last colon.
fn split(words: &OsStr) -> Option<(&OsStr, &OsStr)> {
    let bytes = words.as_bytes();
    let at = bytes.iter().rposition(|byte| *byte == b':')?;
    let (before, after) = (&bytes[..at], &bytes[at + 1..]);
    let both = !before.is_empty() && !after.is_empty();
    both.then(|| (OsStr::from_bytes(before), OsStr::from_bytes(after)))
}

#[cfg(test)]
mod tests {
    use crate::cli::args::Run;

    fn places(words: &str) -> Result<String, String> {
        let conf =
            super::conf(&Run::of(&format!("{words} x"))).map_err(|fault| fault.to_string())?;
        Ok(conf.map(|conf| format!("{conf:?}")).unwrap_or_default())
    }

    #[test]
    fn a_place_comes_before_what_lies_in_it() {
        let said = places("--tmpfs /a/b/c:1M --bind-ro /etc:/a/b --bind /usr:/a").unwrap();
        let at = |words: &str| said.find(words).unwrap_or_else(|| panic!("{words}: {said}"));
        assert!(at("\"/usr\"") < at("\"/etc\"") && at("\"/etc\"") < at("1048576"), "{said}");
        assert!(places("--tmpfs /a").unwrap().contains("bytes: 67108864"));
        assert!(places("--hostname box").unwrap().contains("box"));
        assert_eq!(places(""), Ok(String::new()));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (words, said) in [
            ("--tmpfs /a:b", "tmpfs \"/a:b\": it must read DIR or DIR:SIZE, as in /tmp:64M"),
            ("--tmpfs rel:1M", "tmpfs \"rel:1M\": it must read an absolute DIR, as in /tmp:64M"),
            ("--bind /a", "bind \"/a\": it must read HOST:DIR"),
            ("--bind-ro /a:", "bind-ro \"/a:\": it must read HOST:DIR"),
        ] {
            assert_eq!(places(words), Err(said.to_owned()));
        }
    }
}
