//! root.2: which disk a file is on. The kernel limits reading and writing for each disk by itself.
//!
//! `/sys/dev/block` tells that too, but everybody may list it, and so can keep whoever looks there
//! waiting (see `package.rs`).

use std::os::fd::OwnedFd;

use protocol::{Error, Item, Rule};
use rustix::fs::{major, minor};

use crate::hierarchies::read;
use crate::unmade::Unmade;

/// The disk of an item's file system, which has this `st_dev`, as `MAJOR:MINOR`: for a partition
/// the whole one, for there is no limit of less.
pub(crate) fn disk_of(proc: &OwnedFd, device: u64, item: Item) -> Result<String, Unmade> {
    if major(device) == 0 {
        let error = Error::Invalid { rule: Rule::NoDisk, item };
        return Err(Unmade::Rule(error, String::new()));
    }
    let number = format!("{}:{}", major(device), minor(device));
    let failed = |errno| Unmade::System(errno, "cat /proc/partitions".to_owned());
    let table = read(proc, "partitions").map_err(failed)?;
    Ok(whole(&table, &number).unwrap_or(number))
}

/// The number of a partition's disk in `/proc/partitions`; none: that is no partition. It is called
/// as its disk, with a number behind that, and a `p` between two numbers.
fn whole(table: &str, number: &str) -> Option<String> {
    let disks = || {
        table.lines().filter_map(|line| {
            let mut fields = line.split_whitespace();
            let number = format!("{}:{}", fields.next()?, fields.next()?);
            Some((fields.nth(1)?, number))
        })
    };
    let (name, _) = disks().find(|(_, its)| its == number)?;
    let stem = name.trim_end_matches(|it: char| it.is_ascii_digit());
    let numbered =
        stem.strip_suffix('p').filter(|disk| disk.ends_with(|it: char| it.is_ascii_digit()));
    let disk = numbered.unwrap_or(stem);
    disks().find(|(its, _)| *its == disk && disk != name).map(|(_, number)| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_of_the_disk_that_it_is_called_after() {
        let table = "major minor  #blocks  name\n\n   8        0  500107608 sda\n   \
            8        1     524288 sda1\n   8       17      1024 sdb1\n 259        0  250059096 nvme0n1\n \
            259       12     102400 nvme0n1p12\n   7        0       4096 loop0\n   \
            7        1       4096 loop1\n 179        0   15273600 mmcblk0\n 179        8       4096 mmcblk0boot0\n \
            252        3    1048576 dm-3\n";
        let found = ["8:1", "259:12"].map(|number| whole(table, number).unwrap());
        assert_eq!(found, ["8:0", "259:0"]);
        for number in ["8:0", "8:17", "259:0", "7:1", "179:8", "252:3", "11:0", "major:minor"] {
            assert_eq!(whole(table, number), None, "{number}");
        }
    }
}
