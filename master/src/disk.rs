//! root.2: which disk a file is on. The kernel limits reading and writing for each disk by itself.

use protocol::{Error, Item, Rule};
use rustix::fs::{CWD, major, minor};
use rustix::io::Errno;

use crate::hierarchies::{open_dir, read};
use crate::unmade::Unmade;

/// The disk of an item's file system, which has this `st_dev`, as `MAJOR:MINOR`: for a partition
/// the whole one, for there is no limit of less.
pub(crate) fn disk_of(device: u64, item: Item) -> Result<String, Unmade> {
    let failed = |command: String| move |errno| Unmade::System(errno, command);
    if major(device) == 0 {
        let error = Error::Invalid { rule: Rule::NoDisk, item };
        return Err(Unmade::Rule(error, String::new()));
    }
    let number = format!("{}:{}", major(device), minor(device));
    let place = format!("/sys/dev/block/{number}");
    let dir = open_dir(CWD, &place).map_err(failed(format!("cd {place}")))?;
    match read(&dir, "partition") {
        Ok(_) => {
            let whole = read(&dir, "../dev").map_err(failed(format!("cat {place}/../dev")))?;
            Ok(whole.trim_end().to_owned())
        }
        Err(Errno::NOENT) => Ok(number),
        Err(errno) => Err(failed(format!("cat {place}/partition"))(errno)),
    }
}
