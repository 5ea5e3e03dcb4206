//! What an idle rocker holds: its guard's memory, and the kernel's.

use std::fs;
use std::path::Path;
use std::process::{self, Command};

use rocker_client::Launch;

use crate::figure::{Figure, skip};
use crate::keeper::{END, Held, MANY, meminfo_kib, settle};
use crate::{Bench, Master, OVERLAYS, Result, memory_bytes, percentiles, rss_bytes};

/// The goals for an idle rocker, in KiB: its guard's own memory, and its part of the kernel's.
const GOAL_GUARD: f64 = 100.0;
const GOAL_KERNEL: f64 = 160.0;

/// What of the kernel's memory is counted (`man 5 proc_meminfo`).
const KERNEL: [&str; 5] = ["SReclaimable", "SUnreclaim", "KernelStack", "PageTables", "Percpu"];

impl Bench {
    /// With five overlays, and a package that others have mounted too.
    pub(crate) fn measure_memory(&self) -> Result<Vec<Figure>> {
        let counts: &[usize] = if self.options.quick { &[10] } else { &[100, 1000] };
        self.on_all_cpus(MANY, |master| {
            let mut figures = vec![];
            for &count in counts {
                // Each has a data dir of its own, which was there before.
                let launch = |number: usize| {
                    let data = self.path("idle").join(number.to_string());
                    let launch = self.launch(OVERLAYS[2]).socket(&master.socket);
                    launch.data_dir(data)
                };
                for number in 0..count {
                    fs::create_dir_all(self.path("idle").join(number.to_string()))?;
                }
                // What is mounted, read and made once is there from now on.
                Held::ByOthers.rockers(count.min(8), &launch)?.end()?;
                settle(master)?;
                figures.extend(idle(count, master, &launch, &self.clock)?);
                settle(master)?;
            }
            Ok(figures)
        })
    }
}

fn idle(
    count: usize,
    master: &Master,
    launch: &impl Fn(usize) -> Launch,
    program: &Path,
) -> Result<Vec<Figure>> {
    let alone = plain_processes(count, program)? / count as f64;
    let before = kernel_kib()?;
    let keeper = match Held::ByOthers.rockers(count, launch) {
        Ok(keeper) => keeper,
        Err(why) => {
            skip(&format!("memory of {count} idle rockers"), why);
            return Ok(vec![]);
        }
    };
    let after = kernel_kib()?;
    let living = rocker_client::list(&master.socket, END)?;
    let mut guards = vec![];
    for rocker in living.iter().take(50) {
        guards.push(memory_bytes(rocker.guard_pid, &["Anonymous"])? as f64 / 1024.0);
    }
    let master = rss_bytes(master.child.id())? as f64 / 1024.0;
    keeper.end()?;
    let scene = format!("memory of an idle rocker among {count}, 5 overlays");
    let of = |what: &str, kib: f64| Figure::new(&scene, what, kib, "KiB");
    let each = |at: usize| (after[at] - before[at]) / count as f64;
    let parts = (0..KERNEL.len()).map(|at| of(&format!("  of it {}", KERNEL[at]), each(at)));
    let kernel = (0..KERNEL.len()).map(each).sum();
    let mut figures = vec![
        of("its guard's own", percentiles(&guards)[0]).at_most(GOAL_GUARD),
        of("the kernel's for all of it, App included", kernel),
    ];
    figures.extend(parts);
    figures.extend([
        of("the kernel's for that program alone, without a rocker", alone),
        of("the kernel's for the rocker: the difference", kernel - alone).at_most(GOAL_KERNEL),
    ]);
    figures.push(Figure::new(
        "memory of the master",
        format!("among {count} rockers"),
        master,
        "KiB",
    ));
    Ok(figures)
}

/// The kernel's memory for so many processes of a program that waits, in KiB.
fn plain_processes(count: usize, program: &Path) -> Result<f64> {
    let (input, end) = std::io::pipe()?;
    let before = kernel_kib()?;
    let mut living = vec![];
    for _ in 0..count {
        let mut command = Command::new(program);
        command.arg("wait").stdin(input.try_clone()?).stdout(process::Stdio::null());
        living.push(command.spawn()?);
    }
    let after = kernel_kib()?;
    drop((input, end));
    for mut process in living {
        process.wait()?;
    }
    Ok(after.iter().sum::<f64>() - before.iter().sum::<f64>())
}

/// Of the machine, each of [`KERNEL`].
fn kernel_kib() -> Result<[f64; KERNEL.len()]> {
    let mut found = [0.0; KERNEL.len()];
    for (place, name) in found.iter_mut().zip(KERNEL) {
        *place = meminfo_kib(name)?;
    }
    Ok(found)
}
