//! Apps, programs and what they start: not ours, so acted here.

use protocol::Exit;

use crate::fault::Who;
use crate::kernel::{Gate, Kernel, Pid};
use crate::scene::{App, Does};
use crate::words;

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
    /// What a program does, and whoever it leaves behind.
    program: Option<Does>,
    /// When a program is late, and how much time it has from its warning on.
    late_ms: u64,
    grace_ms: u32,
}

/// What a process in a rocker is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    App,
    Program,
    Descendant,
    Guest,
}

impl AppActor {
    pub(crate) fn new(pid: Pid, launch: usize, todo: App) -> Self {
        let (program, late_ms, grace_ms) = (None, u64::MAX, 0);
        Self { pid, launch, todo, part: Part::App, told: false, program, late_ms, grace_ms }
    }

    /// A process that could not become the App, and exits.
    pub(crate) fn failed(pid: Pid, launch: usize) -> Self {
        Self { told: true, ..Self::new(pid, launch, App::Plain) }
    }

    /// A guest of an operator's.
    pub(crate) fn guest(pid: Pid, launch: usize) -> Self {
        Self { part: Part::Guest, ..Self::new(pid, launch, App::Plain) }
    }

    /// A program.
    pub(crate) fn program(
        pid: Pid,
        launch: usize,
        does: Does,
        late_ms: u64,
        grace_ms: u32,
    ) -> Self {
        let plain = Self::new(pid, launch, App::Plain);
        Self { part: Part::Program, program: Some(does), late_ms, grace_ms, ..plain }
    }

    /// When its guard has to do something about its time: to warn it, or to kill it.
    pub(crate) fn late_ms(&self, kernel: &Kernel) -> u64 {
        match kernel.process(self.pid).warned_ms {
            Some(warned_ms) => warned_ms + u64::from(self.grace_ms),
            None => self.late_ms,
        }
    }

    /// One turn: whether anything was done, and whom it has started.
    pub(crate) fn turn(&mut self, kernel: &mut Kernel, number: usize) -> (bool, Option<Self>) {
        if let Some(does) = self.program {
            return self.program_turn(kernel, number, does);
        }
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
            let child = Self::new(pid, launch, todo);
            return (true, Some(Self { part: Part::Descendant, told, ..child }));
        }
        // A daemon's first child goes at once, its last when there is no other left to do so.
        let goes = match self.part {
            Part::App => self.told,
            Part::Descendant => !self.has_living_parent(kernel),
            Part::Program | Part::Guest => false,
        };
        if goes {
            kernel.say(None, who, || "exits".to_owned());
            kernel.exit(self.pid);
        }
        (goes, None)
    }

    fn program_turn(
        &mut self,
        kernel: &mut Kernel,
        number: usize,
        does: Does,
    ) -> (bool, Option<Self>) {
        let who = Who::App(number);
        match kernel.process(self.pid).gate {
            Gate::None | Gate::Passed => {}
            Gate::Shut => return (false, None),
            Gate::Open => {
                kernel.pass_gate(self.pid);
                return (true, None);
            }
        }
        // What it does next, and what its child does.
        let (next, child) = match does {
            Does::Wait | Does::Ignore | Does::Orphan(0) if self.told => {
                return self.ends(kernel, number, Exit::Status(0));
            }
            Does::Wait | Does::Ignore | Does::Orphan(0) => return (false, None),
            Does::Exit(status) => return self.ends(kernel, number, Exit::Status(status)),
            Does::Crash(signal) => return self.ends(kernel, number, Exit::Signal(signal)),
            Does::Forbidden => return (kernel.make_forbidden_call(self.pid), None),
            Does::WaitInTwo => (Does::Wait, Does::Wait),
            Does::Linger => (Does::Exit(0), Does::Wait),
            Does::Orphan(left) => (Does::Orphan(left - 1), Does::Exit(0)),
        };
        self.program = Some(next);
        let pid = kernel.fork(self.pid, Who::App(number + 1));
        kernel.say(None, who, || format!("starts process {pid}"));
        if does == Does::Linger {
            kernel.new_session(pid);
        }
        if let Does::Orphan(_) = does {
            // Of a child that has ended.
            kernel.process_mut(pid).parent = kernel.init_of(pid);
        }
        let plain = Self::new(pid, self.launch, App::Plain);
        (true, Some(Self { part: Part::Descendant, program: Some(child), ..plain }))
    }

    fn ends(&self, kernel: &mut Kernel, number: usize, how: Exit) -> (bool, Option<Self>) {
        kernel.say(None, Who::App(number), || format!("ends: {}", words::exit(how)));
        kernel.exit_with(self.pid, how);
        (true, None)
    }

    /// Whether its parent is in the rocker, too, and not its PID 1.
    fn has_living_parent(&self, kernel: &Kernel) -> bool {
        let parent = kernel.process(self.pid).parent;
        parent != kernel.init_of(self.pid) && kernel.is_alive(parent)
    }
}
