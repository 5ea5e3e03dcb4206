//! What the benchmark is told on its command line.

use core::fmt::Write as _;
use std::path::PathBuf;

use crate::Result;
use crate::packages::Packing;

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scene {
    Launch,
    Exec,
    Whole,
    Sizes,
    Scale,
    Callers,
    Among,
    Mounts,
    Memory,
    Calls,
    Packages,
    Profile,
    Leaks,
}

impl Scene {
    /// In the order of their turns.
    const ALL: [Self; 13] = [
        Self::Launch,
        Self::Exec,
        Self::Whole,
        Self::Sizes,
        Self::Scale,
        Self::Callers,
        Self::Among,
        Self::Mounts,
        Self::Memory,
        Self::Calls,
        Self::Packages,
        Self::Profile,
        Self::Leaks,
    ];

    /// Its flag without the dashes, and its key in the JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Launch => "launch",
            Self::Exec => "exec",
            Self::Whole => "whole",
            Self::Sizes => "sizes",
            Self::Scale => "scale",
            Self::Callers => "callers",
            Self::Among => "among",
            Self::Mounts => "mounts",
            Self::Memory => "memory",
            Self::Calls => "calls",
            Self::Packages => "packages",
            Self::Profile => "profile",
            Self::Leaks => "leaks",
        }
    }

    const fn help(self) -> &'static str {
        match self {
            Self::Launch => "a launch beside the least possible, and bubblewrap",
            Self::Exec => "a program in a living rocker, beside fork, nsenter, crun and runc",
            Self::Whole => "whole processes, beside all other launchers that are here",
            Self::Sizes => "files and memory that have a limit",
            Self::Scale => "100 launches at once, launches and resets a second",
            Self::Callers => "launches by a caller of 5 MB and by one of 400 MB",
            Self::Among => "launches among as many as 5,000 living rockers",
            Self::Mounts => "launches on a host with as many as 1,000 mounts more",
            Self::Memory => "what an idle rocker holds, with its part of the kernel",
            Self::Calls => "system calls of a launch (needs strace)",
            Self::Packages => "a Python as packages, beside plain files and mksquashfs",
            Self::Profile => "where the time of a launch goes, step by step",
            Self::Leaks => "N launches, and what is left of them",
        }
    }

    /// The page that `--charts` writes of it: its file, its title, and the option that makes it if
    /// it takes one.
    pub(crate) const fn page(self) -> [&'static str; 3] {
        match self {
            Self::Packages => ["package-figures", "Packages beside plain files", "--packages"],
            Self::Profile => ["profile", "Where the time of a launch goes", "--profile"],
            Self::Leaks => ["leaks", "What is left of many launches", "--leaks"],
            _ => ["launch", "What launches cost", ""],
        }
    }

    /// Whether it is measured when no scene is named.
    const fn is_usual(self) -> bool {
        !matches!(self, Self::Packages | Self::Profile | Self::Leaks)
    }
}

pub(crate) struct Options {
    pub(crate) bin: PathBuf,
    pub(crate) scenes: Vec<Scene>,
    pub(crate) batch: usize,
    pub(crate) rounds: usize,
    pub(crate) quick: bool,
    pub(crate) json: bool,
    pub(crate) charts: Option<PathBuf>,
    pub(crate) cpu: Option<usize>,
    pub(crate) packing: Packing,
    /// Launches of the scene [`Scene::Leaks`].
    pub(crate) leaks: usize,
}

impl Options {
    /// None if all that was wanted is [`help`].
    pub(crate) fn parse(given: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut options = Self {
            bin: tests::programs::workspace().join("target/rocker"),
            scenes: vec![],
            batch: 30,
            rounds: 10,
            quick: false,
            json: false,
            charts: None,
            cpu: None,
            packing: Packing::default(),
            leaks: 0,
        };
        let mut has_start = false;
        let list = |words: String| words.split(',').map(str::to_owned).collect();
        let mut given = given;
        while let Some(argument) = given.next() {
            // `--flag=VALUE`, and `--flag VALUE`.
            let (flag, value) = match argument.split_once('=') {
                Some((flag, value)) if flag.starts_with('-') => (flag, Some(value.to_owned())),
                _ => (&*argument, None),
            };
            let mut value = || value.clone().or_else(|| given.next()).ok_or("a value is missing");
            let scene =
                Scene::ALL.into_iter().find(|scene| flag.strip_prefix("--") == Some(scene.name()));
            match (flag, scene) {
                (_, Some(scene)) => {
                    options.scenes.push(scene);
                    if scene == Scene::Leaks {
                        options.leaks = value()?.parse()?;
                    }
                }
                ("--help" | "-h", _) => return Ok(None),
                ("--quick", _) => {
                    (options.batch, options.rounds, options.quick) = (10, 3, true);
                    options.packing.few();
                }
                ("--json", _) => options.json = true,
                ("--launches", _) => {
                    options.rounds = value()?.parse::<usize>()?.div_ceil(options.batch);
                }
                ("--cpu", _) => options.cpu = Some(value()?.parse()?),
                ("--tree", _) => options.packing.tree = Some(value()?.into()),
                ("--start", _) => {
                    has_start = true;
                    options.packing.start = value()?.split(' ').map(str::to_owned).collect();
                }
                ("--compression", _) => options.packing.compressions = list(value()?),
                ("--block-size", _) => options.packing.block_sizes = list(value()?),
                ("--charts", _) => options.charts = Some(value()?.into()),
                _ if flag.starts_with('-') => {
                    return Err(format!("no such flag: {argument}; see --help").into());
                }
                _ => options.bin = argument.into(),
            }
        }
        if options.rounds == 0 || (options.scenes.contains(&Scene::Leaks) && options.leaks == 0) {
            return Err("at least one launch is needed".into());
        }
        if options.packing.tree.is_some() != has_start {
            return Err("--tree and --start: neither without the other".into());
        }
        let all = || Scene::ALL.into_iter();
        options.scenes = match options.scenes.is_empty() {
            true => all().filter(|scene| scene.is_usual()).collect(),
            false => all().filter(|scene| options.scenes.contains(scene)).collect(),
        };
        Ok(Some(options))
    }

    /// As many as floor adds of its own.
    pub(crate) fn warm_ups(&self) -> usize {
        self.batch / 10 + 5
    }

    /// Of packages, each of which takes a second or more.
    pub(crate) fn packing_rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds.min(5) }
    }

    /// Samples of each row.
    pub(crate) fn samples(&self) -> usize {
        self.batch * self.rounds
    }
}

pub(crate) fn help() -> String {
    let mut text = "make bench BENCH=\"[FLAG..]\", or rocker-bench [FLAG..] [DIRECTORY]\n\n\
         Measures ROCKER, as root: the programs in DIRECTORY, else in target/rocker.\n\n\
         What; all but the last three, unless it is said:\n"
        .to_owned();
    for scene in Scene::ALL {
        let flag = format!("{}{}", scene.name(), if scene == Scene::Leaks { "=N" } else { "" });
        // A String takes any text.
        let _ = writeln!(text, "  --{flag:13} {}", scene.help());
    }
    text + "\nHow:\n\
         \x20 --quick         few samples, and two packages, to see that it works\n\
         \x20 --launches=N    samples of each row [300]\n\
         \x20 --cpu=N         where all runs that is measured alone [the last]\n\
         \x20 --json          for programs\n\
         \x20 --charts=DIR    writes pages and pictures of what is measured here\n\
         \x20 --help          this\n\n\
         Of packages:\n\
         \x20 --tree=DIR      another tree than a Python\n\
         \x20 --start=\"PROGRAM [ARGUMENT..]\"  what is started of it, a path in it\n\
         \x20 --compression=A,B  [zstd,lz4,gzip,xz]\n\
         \x20 --block-size=A,B   [32K,64K,128K,256K,1M]\n\n\
         make bench-peers installs what others launch with, on Debian: all but nsjail, which it\n\
         has not, and Docker with its service, which is not needed here.\n"
}
