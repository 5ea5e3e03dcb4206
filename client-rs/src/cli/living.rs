//! `rocker ps` and `rocker kill`: who lives, and root.10 by name. Whose name begins so.

use core::fmt::Write as _;
use core::time::Duration;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use rocker_client::{OpenRocker, RockerEntry, kill_by_name, list};
use serde_json::json;

use super::{Fault, plain, print, status};

/// How long the master may take to answer.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How long a rocker may take to be gone: its overlays are written to disk before they go.
const GONE_MAX: Duration = Duration::from_secs(30);

const HEADER: [&str; 7] = ["NAME", "APP-ID", "UID", "GUARD", "APP", "AGE", "PACKAGE"];

pub(crate) fn ps(socket: &Path, json: bool) -> Result<ExitCode, Fault> {
    let rockers = list(socket, ANSWER_MAX)?;
    let rockers = rockers.iter().map(|rocker| (rocker, app_pid(rocker.guard_pid)));
    if json {
        let rockers = rockers.map(|(rocker, app_pid)| {
            json!({
                "name": rocker.name.as_str(),
                "app_id": rocker.app_id,
                "uid": rocker.uid,
                "guard_pid": rocker.guard_pid,
                "app_pid": app_pid,
                "age_ms": u64::try_from(rocker.age.as_millis()).unwrap_or(u64::MAX),
                "package": rocker.package.display().to_string(),
            })
        });
        return print(&format!("{:#}\n", rockers.collect::<serde_json::Value>()));
    }
    let rows = rockers.map(|(rocker, app_pid)| row(rocker, app_pid)).collect::<Vec<_>>();
    print(&if rows.is_empty() { "no rockers\n".to_owned() } else { table(&HEADER, &rows) })
}

/// All names are looked up before anybody is killed: of what lives then, each may name one. Those
/// that cannot be killed are told, and keep no other alive.
pub(crate) fn kill(
    socket: &Path,
    beginnings: &[String],
    signal: Option<u8>,
) -> Result<ExitCode, Fault> {
    let living = list(socket, ANSWER_MAX)?;
    let found: Vec<_> = beginnings.iter().map(|beginning| only(&living, beginning)).collect();
    let mut done = ExitCode::SUCCESS;
    for rocker in found {
        let killed = rocker.and_then(|rocker| {
            let name = rocker.name.as_str();
            match signal {
                Some(number) => OpenRocker::attach(socket, name, ANSWER_MAX)?.signal_all(number)?,
                None => kill_by_name(socket, name, GONE_MAX)?,
            }
            Ok(())
        });
        if let Err(fault) = killed {
            done = status(Err(fault));
        }
    }
    Ok(done)
}

/// The one living rocker whose name begins so.
pub(crate) fn by_beginning(socket: &Path, beginning: &str) -> Result<RockerEntry, Fault> {
    only(&list(socket, ANSWER_MAX)?, beginning).cloned()
}

fn only<'a>(living: &'a [RockerEntry], beginning: &str) -> Result<&'a RockerEntry, Fault> {
    let mut matching = living.iter().filter(|rocker| rocker.name.as_str().starts_with(beginning));
    let why = match (matching.next(), matching.next()) {
        // An unset variable in a script is no name, however few rockers there are.
        _ if beginning.is_empty() => "no name".to_owned(),
        (Some(rocker), None) => return Ok(rocker),
        (None, _) => "no living rocker has this name".to_owned(),
        (Some(one), Some(other)) => {
            format!("several begin so: {} and {}, for example", one.name, other.name)
        }
    };
    Err(Fault::Said(format!("rocker {beginning:?}: {why}")))
}

fn row(rocker: &RockerEntry, app_pid: Option<u32>) -> [String; HEADER.len()] {
    [
        rocker.name.to_string(),
        rocker.app_id.to_string(),
        rocker.uid.to_string(),
        rocker.guard_pid.to_string(),
        app_pid.map_or("-".to_owned(), |pid| pid.to_string()),
        age(rocker.age),
        rocker.package.display().to_string(),
    ]
}

/// Aligned to the left; the last column, which is the widest, is not filled up.
pub(crate) fn table<const N: usize>(header: &[&str; N], rows: &[[String; N]]) -> String {
    let header = header.map(str::to_owned);
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| core::array::from_fn(|at| plain(&row[at]))).collect();
    let mut widths = [0; N];
    for row in rows.iter().chain([&header]) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in [&header].into_iter().chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// In the largest unit of which there is one.
pub(crate) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    match units.into_iter().find(|(unit, _)| seconds >= *unit) {
        Some((unit, name)) => format!("{}{name}", seconds / unit),
        None => format!("{seconds}s"),
    }
}

/// The App: the process in the guard's pid namespace, other than the guard, whose parent is
/// outside. None where this user may not look, or it has ended.
fn app_pid(guard_pid: u32) -> Option<u32> {
    let inside = namespace(guard_pid)?;
    let processes = std::fs::read_dir("/proc").ok()?;
    let mut pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.find(|&pid: &u32| {
        pid != guard_pid
            && namespace(pid).as_ref() == Some(&inside)
            && parent(pid).is_some_and(|parent| namespace(parent).as_ref() != Some(&inside))
    })
}

/// The pid namespace of a process; none where this user may not look.
pub(crate) fn namespace(pid: u32) -> Option<OsString> {
    let name: OsString = std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()?.into();
    // Linux 5.10 says nothing, and that it went well.
    Some(name).filter(|name| !name.is_empty())
}

fn parent(pid: u32) -> Option<u32> {
    // State and parent follow the name.
    named(&read(&format!("/proc/{pid}/stat"))?)?.1.split_whitespace().nth(1)?.parse().ok()
}

/// A file of the kernel's in which whoever names a process, or a place, may have put any bytes:
/// those that are no text are told as such.
pub(crate) fn read(path: &str) -> Option<String> {
    std::fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The name in a line of `/proc/PID/stat`, and the fields after it. It may hold anything, and ends
/// at the last parenthesis.
pub(crate) fn named(stat: &str) -> Option<(&str, &str)> {
    let (before, after) = stat.rsplit_once(')')?;
    Some((before.split_once('(')?.1, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3_599, "59m"),
            (3_600, "1h"),
            (86_399, "23h"),
            (200_000, "2d"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest() {
        let row = |name: &str, pid: &str| {
            [name, "0", "1000", pid, "-", "3s", "/x.sqfs"].map(str::to_owned)
        };
        let hostile = table(&["A"], &[["\u{1b}]0;x\u{7} \u{9b}2J \u{202e}y".to_owned()]]);
        assert_eq!(hostile, "A\n\\u{1b}]0;x\\u{7} \\u{9b}2J \\u{202e}y\n");
        assert_eq!(
            table(&HEADER, &[row("aaaaaa", "1"), row("b", "123456")]),
            "NAME    APP-ID  UID   GUARD   APP  AGE  PACKAGE\n\
             aaaaaa  0       1000  1       -    3s   /x.sqfs\n\
             b       0       1000  123456  -    3s   /x.sqfs\n"
        );
    }

    #[test]
    fn this_process_has_a_parent_of_its_own_namespace() {
        let pid = std::process::id();
        assert_eq!(parent(pid), Some(std::os::unix::process::parent_id()));
        assert!(namespace(pid).is_some());
        // This process is no guard: whoever has its parent outside is not here.
        assert_eq!(namespace(u32::MAX), None);
    }

    #[test]
    fn a_name_may_hold_any_bytes() {
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let name = std::ffi::CString::new(b"\xff)\xfe".as_slice()).unwrap();
            rustix::thread::set_name(&name).unwrap();
            tell.send(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()).unwrap();
            let _ = ended.recv();
        });
        let pid = told.recv().unwrap();
        assert_eq!(parent(pid), Some(std::os::unix::process::parent_id()));
        drop(end);
        thread.join().unwrap();
    }
}
