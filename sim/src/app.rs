//! Apps and what they start: not ours, so acted here.

use crate::fault::Who;
use crate::kernel::{Kernel, Pid};
use crate::scene::App;

/// A process in a rocker that is not its guard.
#[derive(Debug)]
pub(crate) struct AppActor {
    pub(crate) pid: Pid,
    pub(crate) launch: usize,
    /// What it has yet to do before it waits for its end.
    todo: App,
    /// The App itself, its descendant, or a guest.
    pub(crate) part: Part,
    /// root.8: it was told to stop.
    pub(crate) told: bool,
}

/// What a process in a rocker is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    App,
    Descendant,
    Guest,
}

impl AppActor {
    pub(crate) fn new(pid: Pid, launch: usize, todo: App) -> Self {
        Self { pid, launch, todo, part: Part::App, told: false }
    }

    /// A process that could not become the App, and exits.
    pub(crate) fn failed(pid: Pid, launch: usize) -> Self {
        Self { pid, launch, todo: App::Plain, part: Part::App, told: true }
    }

    /// A guest of an operator's.
    pub(crate) fn guest(pid: Pid, launch: usize) -> Self {
        Self { pid, launch, todo: App::Plain, part: Part::Guest, told: false }
    }

    /// One turn: whether anything was done, and whom it has started.
    pub(crate) fn turn(&mut self, kernel: &mut Kernel, number: usize) -> (bool, Option<Self>) {
        let who = Who::App(number);
        let child = match self.todo {
            App::Child => Some(App::Plain),
            App::Daemon => Some(App::Child),
            App::Plain | App::Guest => None,
        };
        if let Some(todo) = child {
            self.todo = App::Plain;
            let pid = kernel.fork(self.pid, Who::App(number + 1));
            kernel.say(None, who, || format!("starts process {pid}"));
            let (launch, told) = (self.launch, false);
            return (true, Some(Self { pid, launch, todo, part: Part::Descendant, told }));
        }
        // A daemon's first child goes at once, its last when there is no other left to do so.
        let goes = match self.part {
            Part::App => self.told,
            Part::Descendant => !self.has_living_parent(kernel),
            Part::Guest => false,
        };
        if goes {
            kernel.say(None, who, || "exits".to_owned());
            kernel.exit(self.pid);
        }
        (goes, None)
    }

    /// Whether its parent is in the rocker, too, and not its PID 1.
    fn has_living_parent(&self, kernel: &Kernel) -> bool {
        let parent = kernel.process(self.pid).parent;
        parent != kernel.init_of(self.pid) && kernel.is_alive(parent)
    }
}
