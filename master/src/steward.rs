//! Who makes and removes cgroups: a thread, which does it in the order in which it is told to.
//!
//! Whoever may list a directory can hold its lock (`package.rs`), and so keep waiting who makes or
//! removes something in it, or removes it. What is above ROCKER's part of the cgroups everybody may
//! list, and that part itself where systemd has made it.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use protocol::{Limits, Name};

use crate::cgroup::{Cgroups, Made, RETRY, SOON};
use crate::errands::{Look, in_a_thread};
use crate::unmade::Unmade;

type Job = Box<dyn FnOnce(&mut Cgroups) + Send>;

/// The way to that thread.
#[derive(Debug)]
pub(crate) struct Steward {
    path: PathBuf,
    /// None before there is something to do. The receiver hears of nothing but the thread's end.
    work: Option<(Sender<Job>, Receiver<()>)>,
}

impl Steward {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), work: None }
    }

    /// Makes a rocker's cgroups and sets its limits.
    pub(crate) fn make(
        &mut self,
        name: Name,
        limits: &Limits<'_>,
        disks: Vec<String>,
        errand: Look<Result<Vec<Made>, Unmade>>,
    ) {
        let Limits { memory, swap, pids, cpu_millis, cpu_weight, cpus, io_read, io_write } =
            *limits;
        let cpus = cpus.map(str::to_owned);
        self.tell(move |cgroups| {
            let cpus = cpus.as_deref();
            let limits =
                Limits { memory, swap, pids, cpu_millis, cpu_weight, cpus, io_read, io_write };
            errand.finds(cgroups.make(name, &limits, &disks));
        });
    }

    /// root.15: what there is of a rocker's cgroups, now or as soon as the kernel lets them go.
    pub(crate) fn remove(&mut self, name: Name) {
        self.tell(move |cgroups| cgroups.remove(name));
    }

    /// What masters before this one have left, but for that of these.
    pub(crate) fn sweep(&mut self, living: Vec<Name>) {
        self.tell(move |cgroups| cgroups.sweep(&living));
    }

    /// The end of this master. It waits for what can be removed within a moment.
    pub(crate) fn leave(&mut self) {
        let Some((jobs, ended)) = self.work.take() else { return };
        drop(jobs);
        // Whether that was enough is the next master's to find out.
        let _ = ended.recv_timeout(RETRY * (SOON + 1));
    }

    fn tell(&mut self, job: impl FnOnce(&mut Cgroups) + Send + 'static) {
        if self.work.is_none() {
            let ((jobs, told), (ends, ended)) = (channel(), channel());
            let cgroups = Cgroups::new(&self.path);
            let has_begun = in_a_thread(move || {
                serve(cgroups, &told);
                drop(ends);
            });
            self.work = has_begun.then_some((jobs, ended));
        }
        // Without a thread nothing is made, its caller is told so, and there is nothing to remove.
        if let Some((jobs, _)) = &self.work {
            let _ = jobs.send(Box::new(job));
        }
    }
}

/// What the thread does, until the master ends.
fn serve(mut cgroups: Cgroups, told: &Receiver<Job>) {
    loop {
        match told.recv_timeout(cgroups.retry()) {
            Ok(job) => job(&mut cgroups),
            Err(RecvTimeoutError::Timeout) => {}
            // The kernel tells nobody when a cgroup of version 1 can go.
            Err(RecvTimeoutError::Disconnected) if cgroups.may_hope() => std::thread::sleep(RETRY),
            Err(RecvTimeoutError::Disconnected) => return cgroups.leave(),
        }
        cgroups.settle();
    }
}
