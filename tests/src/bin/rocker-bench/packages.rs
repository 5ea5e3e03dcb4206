//! What an App's tree costs as a package, beside its plain files: by default a Python with its
//! standard library, as Debian has it, made here of what the machine has.
//!
//! The packages lie in a directory beside the tree, so on the same disk. Whatever is cold has a
//! mount and a loop device of its own, and of the image nothing is in memory; of plain files
//! only what the file system knows about them is. Nobody else's files are touched. Before each
//! package the plain files have their turn: ratios are medians of such pairs.
//!
//! * `pack`: how long `rocker pack` takes, and `x mk`: to `mksquashfs` with the same compressor,
//!   level, blocks and processors, if it is here; `size`: the package's size to its.
//! * `mount`: from the image to the mounted tree.
//! * `first`: to open the program and to read its first 4 KiB, cold.
//! * `start`: to run the program to its end, cold, then `warm`.
//! * `read`: all files of the tree, one after the other, cold.
//! * `held`: what is in the page cache after the first `start` and after `read`: of the files,
//!   of the image and of the loop device.
#![allow(unsafe_code, reason = "loop devices and cachestat(2), of which rustix has nothing safe")]

use core::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use linux_raw_sys::loop_device as ioctl;
use nix::sched::sched_setaffinity;
use nix::unistd::Pid;
use rustix::fs::{Advice, fadvise};
use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::scratch::private_mounts;

use crate::figure::{Figure, Part, skip};
use crate::{Bench, Result, percentiles, run};

/// How often a program is started warm; the median counts.
const STARTS: usize = 9;

/// How much of the plain files may still be in memory when they are cold.
const COLD: f64 = 0.01;

/// What `rocker pack` does unless it is told otherwise.
const USUAL: (&str, &str) = ("zstd", "64K");

/// The goals for it: the part of the disk that is saved, at least; a warm start to one from plain
/// files; time and size to those of mksquashfs.
const GOAL_SIZE: f64 = 0.4;
const GOAL_START: f64 = 1.05;
const GOAL_PACK: f64 = 1.0;
const GOAL_LIKE: f64 = 1.01;

/// What is packed, and how.
pub(crate) struct Packing {
    /// None: a Python is made.
    pub(crate) tree: Option<PathBuf>,
    /// A path in the tree, and arguments.
    pub(crate) start: Vec<String>,
    pub(crate) compressions: Vec<String>,
    pub(crate) block_sizes: Vec<String>,
}

impl Default for Packing {
    fn default() -> Self {
        let list = |text: &str| text.split(',').map(str::to_owned).collect();
        let import = "import json, ssl, sqlite3, asyncio, http.client";
        Self {
            tree: None,
            start: vec!["bin/python3".to_owned(), "-Ic".to_owned(), import.to_owned()],
            compressions: list("zstd,lz4,gzip,xz"),
            block_sizes: list("32K,64K,128K,256K,1M"),
        }
    }
}

impl Packing {
    /// What is packed and read in seconds.
    pub(crate) fn few(&mut self) {
        self.compressions.truncate(2);
        self.block_sizes = vec![USUAL.1.to_owned()];
    }
}

/// The tree in one of its forms.
struct Form {
    name: String,
    is_usual: bool,
    /// None: plain files.
    image: Option<PathBuf>,
    bytes: u64,
    pack_s: f64,
    /// Of mksquashfs: time and size.
    mksquashfs: Option<(f64, u64)>,
    samples: Vec<Sample>,
    /// Those of the plain files, each right before ours.
    plain: Vec<Sample>,
}

/// Microseconds, and KiB that are held.
#[derive(Clone, Copy)]
struct Sample {
    mount: f64,
    first: f64,
    start: f64,
    start_held: f64,
    warm: f64,
    read: f64,
    read_held: f64,
}

/// A tree, and where its packages go.
struct Tree<'a> {
    packing: &'a Packing,
    packer: PathBuf,
    top: PathBuf,
    /// Regular files of the tree, and their length together.
    files: Vec<PathBuf>,
    bytes: u64,
    /// Where images lie and are mounted.
    dir: TempDir,
    /// The tree's own, if it was made here.
    _made: Option<TempDir>,
}

impl Bench {
    /// On all processors, and with mounts of its own.
    pub(crate) fn measure_packages(&self) -> Result<Part> {
        let apart = || -> Result<Part> {
            sched_setaffinity(Pid::from_raw(0), &self.cpus)?;
            private_mounts();
            match Tree::new(&self.options.packing, self.options.bin.join("rocker"))? {
                Some(tree) => tree.measure(self.options.packing_rounds()),
                None => Ok(vec![].into()),
            }
        };
        std::thread::scope(|scope| {
            let measured = scope.spawn(|| apart().map_err(|error| error.to_string()));
            Ok(measured.join().map_err(|_| "a panic")??)
        })
    }
}

impl<'a> Tree<'a> {
    /// None, and words about it, if there is nothing to pack.
    fn new(packing: &'a Packing, packer: PathBuf) -> Result<Option<Self>> {
        let (top, made) = match &packing.tree {
            Some(tree) => (tree.canonicalize()?, None),
            None => match python()? {
                Some(made) => (made.path().join("python"), Some(made)),
                None => return Ok(None),
            },
        };
        let mut files = vec![];
        list(&top, Path::new(""), &mut files)?;
        let mut bytes = 0;
        for file in &files {
            bytes += fs::metadata(top.join(file))?.len();
        }
        let beside = top.parent().ok_or("the tree is /")?;
        let dir = tempfile::Builder::new().prefix(".rocker-bench-").tempdir_in(beside)?;
        fs::create_dir(dir.path().join("mnt"))?;
        Ok(Some(Self { packing, packer, top, files, bytes, dir, _made: made }))
    }

    fn measure(&self, rounds: usize) -> Result<Part> {
        let has_mksquashfs = run(Command::new("mksquashfs").arg("-help")).is_ok()
            || run(Command::new("mksquashfs").arg("-version")).is_ok();
        if !has_mksquashfs {
            skip("mksquashfs", "it is not here (Debian: squashfs-tools)");
        }
        let mut forms = vec![];
        for compression in &self.packing.compressions {
            for block_size in &self.packing.block_sizes {
                forms.push(self.pack(compression, block_size, has_mksquashfs, rounds)?);
            }
        }
        rustix::fs::sync();
        let plain = Form {
            name: "plain files".to_owned(),
            is_usual: false,
            image: None,
            bytes: self.bytes,
            pack_s: 0.0,
            mksquashfs: None,
            samples: vec![],
            plain: vec![],
        };
        let kept = self.held(&self.cold(&plain)?)?;
        if kept > self.bytes as f64 / 1024.0 * COLD {
            let why = format_args!("{kept:.0} KiB of the tree stay in memory, whatever is cold");
            skip("cold plain files", why);
        }
        for round in 0..rounds {
            // Every other time backwards, so that nobody always comes after the same.
            let mut order: Vec<usize> = (0..forms.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for at in order {
                let beside = self.sample(&plain)?;
                let sample = self.sample(&forms[at])?;
                forms[at].plain.push(beside);
                forms[at].samples.push(sample);
            }
        }
        Ok(self.part(&forms, rounds))
    }

    /// By `rocker pack` and by mksquashfs in turn.
    fn pack(
        &self,
        compression: &str,
        block_size: &str,
        has_mksquashfs: bool,
        rounds: usize,
    ) -> Result<Form> {
        let name = format!("{compression} {block_size}");
        let image = self.dir.path().join(&name);
        let theirs = self.dir.path().join("mksquashfs");
        let jobs = std::thread::available_parallelism()?.get().to_string();
        let (mut own_s, mut their_s, mut their_bytes) = (vec![], vec![], 0);
        for _ in 0..rounds.min(3) {
            let mut packer = Command::new(&self.packer);
            packer.args(["pack", "--compression", compression, "--block-size", block_size]);
            let begin = Instant::now();
            run(packer.args(["--jobs", &jobs]).arg(&self.top).arg(&image))?;
            own_s.push(begin.elapsed().as_secs_f64());
            if !has_mksquashfs {
                continue;
            }
            let mut packer = Command::new("mksquashfs");
            packer.arg(&self.top).arg(&theirs).args(["-noappend", "-no-progress", "-quiet"]);
            packer.args(["-no-xattrs", "-all-root", "-all-time", "0", "-mkfs-time", "0"]);
            packer.args(["-processors", &jobs, "-b", block_size, "-comp", compression]);
            if compression == "zstd" {
                packer.args(["-Xcompression-level", "9"]);
            }
            let begin = Instant::now();
            run(&mut packer)?;
            their_s.push(begin.elapsed().as_secs_f64());
            their_bytes = fs::metadata(&theirs)?.len();
            fs::remove_file(&theirs)?;
        }
        let bytes = fs::metadata(&image)?.len();
        Ok(Form {
            name,
            is_usual: (compression, block_size) == USUAL,
            image: Some(image),
            bytes,
            pack_s: median(&own_s),
            mksquashfs: has_mksquashfs.then(|| (median(&their_s), their_bytes)),
            samples: vec![],
            plain: vec![],
        })
    }

    fn sample(&self, form: &Form) -> Result<Sample> {
        let cold = self.cold(form)?;
        let begin = Instant::now();
        let mut page = [0; 4096];
        let _ = File::open(cold.dir.join(&self.packing.start[0]))?.read(&mut page)?;
        let first = micros(begin);
        let mount = cold.mount;
        drop(cold);

        let cold = self.cold(form)?;
        let start = self.start(&cold.dir)?;
        let start_held = self.held(&cold)?;
        let mut warm = vec![];
        for _ in 0..STARTS {
            warm.push(self.start(&cold.dir)?);
        }
        drop(cold);

        let cold = self.cold(form)?;
        let mut buffer = vec![0; 128 * 1024];
        let begin = Instant::now();
        for file in &self.files {
            let mut file = File::open(cold.dir.join(file))?;
            while file.read(&mut buffer)? > 0 {}
        }
        let read = micros(begin);
        let read_held = self.held(&cold)?;
        Ok(Sample { mount, first, start, start_held, warm: median(&warm), read, read_held })
    }

    /// Nothing of its files is in memory.
    fn cold(&self, form: &Form) -> Result<Cold> {
        let Some(image) = &form.image else {
            for file in &self.files {
                forget(&File::open(self.top.join(file))?)?;
            }
            let dir = self.top.clone();
            return Ok(Cold { dir, image: None, device: None, mount: 0.0 });
        };
        let dir = self.dir.path().join("mnt");
        let image = File::open(image)?;
        forget(&image)?;
        let begin = Instant::now();
        let (path, device) = attach(&image)?;
        rustix::mount::mount(&path, &dir, c"squashfs", MountFlags::RDONLY, None)
            .map_err(|error| format!("cannot mount the package: {error}"))?;
        let mount = micros(begin);
        Ok(Cold { dir, image: Some(image), device: Some(device), mount })
    }

    /// Runs the program to its end.
    fn start(&self, dir: &Path) -> Result<f64> {
        let mut program = Command::new(dir.join(&self.packing.start[0]));
        program.args(&self.packing.start[1..]).stdin(Stdio::null()).stdout(Stdio::null());
        // Nothing may change the tree.
        program.env("PYTHONDONTWRITEBYTECODE", "1");
        let begin = Instant::now();
        let status = program.status()?;
        let elapsed = micros(begin);
        if status.success() { Ok(elapsed) } else { Err(format!("the program: {status}").into()) }
    }

    fn held(&self, cold: &Cold) -> Result<f64> {
        let mut pages = 0;
        for file in &self.files {
            pages += cached_pages(&File::open(cold.dir.join(file))?)?;
        }
        for file in cold.image.iter().chain(&cold.device) {
            pages += cached_pages(file)?;
        }
        Ok(pages as f64 * 4.0)
    }

    fn part(&self, forms: &[Form], rounds: usize) -> Part {
        let all: Vec<Sample> = forms.iter().flat_map(|form| form.plain.clone()).collect();
        let name = self.top.file_name().unwrap_or_default().display();
        let mut text = format!(
            "\n{name}: {} files, {:.1} MB, {rounds} rounds; {}\n\n",
            self.files.len(),
            self.bytes as f64 / 1e6,
            self.packing.start.join(" ")
        );
        text += "| | MB | % | pack s | x mk | size | mount us | first us | start ms | x plain \
                 | held MB | read MB/s | x plain | held MB | warm ms | x plain |\n|";
        text += &" --- |".repeat(16);
        text += "\n";
        let plain = Line::new(self.bytes, self.bytes, &all, &all);
        text += &plain.text("plain files", None);
        let mut said = vec![plain.json("plain files", None)];
        let mut figures = vec![];
        for form in forms {
            let line = Line::new(form.bytes, self.bytes, &form.samples, &form.plain);
            text += &line.text(&form.name, Some(form));
            said.push(line.json(&form.name, Some(form)));
            if form.is_usual {
                figures = verdicts(form, &line);
            }
        }
        let page = text.clone();
        let verdicts = Part::from(figures.clone());
        text += &verdicts.text;
        let json = json!({"forms": said, "goals": verdicts.json});
        Part { text, json, figures, page }
    }
}

/// Of the form that is packed unless another is wanted.
fn verdicts(form: &Form, line: &Line) -> Vec<Figure> {
    let scene = format!("packed as by default, {}", form.name);
    let times =
        |what: &str, value: f64, goal: f64| Figure::new(&scene, what, value, "times").at_most(goal);
    let mut figures = vec![
        times("the plain files' size", line.part, GOAL_SIZE),
        times("a start from plain files, both warm", line.warm_to_plain, GOAL_START),
    ];
    if let Some([seconds, size]) = form.to_mksquashfs() {
        figures.push(times("the time of mksquashfs", seconds, GOAL_PACK));
        figures.push(times("the size of mksquashfs's", size, GOAL_LIKE));
    }
    figures
}

impl Form {
    fn to_mksquashfs(&self) -> Option<[f64; 2]> {
        let (seconds, bytes) = self.mksquashfs?;
        Some([self.pack_s / seconds, self.bytes as f64 / bytes as f64])
    }
}

/// Medians.
struct Line {
    megabytes: f64,
    /// Of the plain files.
    part: f64,
    mount_us: f64,
    first_us: f64,
    start_ms: f64,
    start_to_plain: f64,
    start_held_mb: f64,
    read_mb_s: f64,
    read_to_plain: f64,
    read_held_mb: f64,
    warm_ms: f64,
    warm_to_plain: f64,
}

impl Line {
    fn new(bytes: u64, plain_bytes: u64, own: &[Sample], plain: &[Sample]) -> Self {
        let of = |which: fn(&Sample) -> f64| median(&own.iter().map(which).collect::<Vec<_>>());
        let ratio = |which: fn(&Sample) -> f64| {
            let pairs = own.iter().zip(plain);
            median(&pairs.map(|(own, plain)| which(own) / which(plain)).collect::<Vec<_>>())
        };
        Self {
            megabytes: bytes as f64 / 1e6,
            part: bytes as f64 / plain_bytes as f64,
            mount_us: of(|it| it.mount),
            first_us: of(|it| it.first),
            start_ms: of(|it| it.start) / 1e3,
            start_to_plain: ratio(|it| it.start),
            start_held_mb: of(|it| it.start_held) * 1.024e-3,
            read_mb_s: plain_bytes as f64 / of(|it| it.read),
            read_to_plain: 1.0 / ratio(|it| it.read),
            read_held_mb: of(|it| it.read_held) * 1.024e-3,
            warm_ms: of(|it| it.warm) / 1e3,
            warm_to_plain: ratio(|it| it.warm),
        }
    }

    fn text(&self, name: &str, form: Option<&Form>) -> String {
        let mut text = format!("| {name} | {:.1} | {:.0} ", self.megabytes, self.part * 100.0);
        let packed = form.map_or("-".to_owned(), |form| format!("{:.2}", form.pack_s));
        let [seconds, size] = match form.and_then(Form::to_mksquashfs) {
            Some([seconds, size]) => [format!("{seconds:.2}"), format!("{size:.3}")],
            None => ["-", "-"].map(str::to_owned),
        };
        // A String takes any text.
        let _ = writeln!(
            text,
            "| {packed} | {seconds} | {size} | {:.0} | {:.0} | {:.1} | {:.2} | {:.1} | {:.0} \
             | {:.2} | {:.0} | {:.1} | {:.3} |",
            self.mount_us,
            self.first_us,
            self.start_ms,
            self.start_to_plain,
            self.start_held_mb,
            self.read_mb_s,
            self.read_to_plain,
            self.read_held_mb,
            self.warm_ms,
            self.warm_to_plain,
        );
        text
    }

    fn json(&self, name: &str, form: Option<&Form>) -> Value {
        let to_mksquashfs = form.and_then(Form::to_mksquashfs);
        json!({"form": name, "mb": self.megabytes, "part": self.part,
            "pack_s": form.map(|form| form.pack_s),
            "pack_to_mksquashfs": to_mksquashfs.map(|it| it[0]),
            "size_to_mksquashfs": to_mksquashfs.map(|it| it[1]),
            "mount_us": self.mount_us, "first_us": self.first_us, "start_ms": self.start_ms,
            "start_to_plain": self.start_to_plain, "start_held_mb": self.start_held_mb,
            "read_mb_s": self.read_mb_s, "read_to_plain": self.read_to_plain,
            "read_held_mb": self.read_held_mb, "warm_ms": self.warm_ms,
            "warm_to_plain": self.warm_to_plain})
    }
}

/// A Python as Debian has it, with its standard library, compiled for a package: what compares
/// the times of files would find its bytecode out of date there. None where there is no Python.
fn python() -> Result<Option<TempDir>> {
    let ask = "import sys, sysconfig; print(sys.executable, sysconfig.get_path('stdlib'))";
    let mut words = None;
    for python in ["/usr/bin/python3", "python3"] {
        match run(Command::new(python).args(["-Ic", ask])) {
            Ok(said) => {
                words = Some(said);
                break;
            }
            Err(why) if python == "python3" => skip("a Python as a package", why),
            Err(_) => {}
        }
    }
    let Some(words) = words else { return Ok(None) };
    let (program, library) = words.trim_end().split_once(' ').ok_or("python3 says nothing")?;
    // On a disk, whatever is in memory here.
    let dir = tempfile::Builder::new().prefix("rocker-bench-").tempdir_in("/var/tmp")?;
    let (bin, lib) = (dir.path().join("python/bin"), dir.path().join("python/lib"));
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&lib)?;
    fs::copy(program, bin.join("python3"))?;
    run(Command::new("cp").args(["-a", "--dereference", library]).arg(&lib))?;
    let compile = ["-I", "-m", "compileall", "-f", "-q", "--invalidation-mode", "unchecked-hash"];
    // It compiles what it can; tests of Python's own have files that are wrong on purpose.
    let _ = run(Command::new(bin.join("python3")).args(compile).arg(&lib));
    let own = "import sys, os; assert os.__file__.startswith(sys.argv[1]), os.__file__";
    let own = run(Command::new(bin.join("python3")).args(["-Ic", own]).arg(&lib));
    match own {
        Ok(_) => Ok(Some(dir)),
        Err(why) => {
            skip("a Python as a package", format_args!("{program} cannot be moved: {why}"));
            Ok(None)
        }
    }
}

/// A tree of which nothing is in memory yet. It is unmounted when this is dropped.
struct Cold {
    dir: PathBuf,
    image: Option<File>,
    device: Option<File>,
    mount: f64,
}

impl Drop for Cold {
    fn drop(&mut self) {
        if self.device.is_some() {
            // What is busy goes with the namespace.
            let _ = rustix::mount::unmount(&self.dir, UnmountFlags::empty());
        }
    }
}

/// Regular files below `top`, sorted.
fn list(top: &Path, below: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let mut names = vec![];
    for entry in fs::read_dir(top.join(below))? {
        let entry = entry?;
        names.push((entry.file_name(), entry.file_type()?));
    }
    names.sort_by(|one, other| one.0.cmp(&other.0));
    for (name, kind) in names {
        let path = below.join(name);
        if kind.is_dir() {
            list(top, &path, files)?;
        } else if kind.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

/// The kernel need not keep any of it. It does what others use or what is not on disk yet.
fn forget(file: &File) -> io::Result<()> {
    Ok(fadvise(file, 0, None, Advice::DontNeed)?)
}

/// A free loop device for the image, which the kernel detaches when nobody uses it any more.
fn attach(image: &File) -> Result<(String, File)> {
    let control = File::options().read(true).write(true).open("/dev/loop-control")?;
    loop {
        // SAFETY: this request has no argument.
        let free = unsafe { libc::ioctl(control.as_raw_fd(), ioctl::LOOP_CTL_GET_FREE.into()) };
        if free < 0 {
            return Err(format!("no loop device: {}", io::Error::last_os_error()).into());
        }
        let path = format!("/dev/loop{free}");
        let device = File::open(&path)?;
        // SAFETY: all of it is numbers, for which zero is one.
        let mut config: ioctl::loop_config = unsafe { core::mem::zeroed() };
        config.fd = image.as_raw_fd().cast_unsigned();
        config.info.lo_flags = ioctl::LO_FLAGS_READ_ONLY as u32 | ioctl::LO_FLAGS_AUTOCLEAR as u32;
        let request = ioctl::LOOP_CONFIGURE.into();
        // SAFETY: the kernel reads the struct that this request takes.
        let answer = unsafe { libc::ioctl(device.as_raw_fd(), request, &raw const config) };
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            _ if answer == 0 => return Ok((path, device)),
            // Somebody else was faster.
            Some(libc::EBUSY) => {}
            _ => return Err(format!("cannot attach {path}: {error}").into()),
        }
    }
}

/// How many pages of it are in memory; Linux tells since 6.5.
fn cached_pages(file: &impl AsFd) -> Result<u64> {
    /// The same on every architecture.
    const CACHESTAT: libc::c_long = 451;
    let whole = [0_u64; 2];
    let mut told = [0_u64; 5];
    // SAFETY: the kernel reads a range of two numbers, all of the file if they are zero, and
    // writes five.
    let answer = unsafe {
        let fd = file.as_fd().as_raw_fd();
        libc::syscall(CACHESTAT, fd, &raw const whole, &raw mut told, 0)
    };
    if answer < 0 {
        return Err(format!("cachestat(2): {}", io::Error::last_os_error()).into());
    }
    Ok(told[0])
}

fn micros(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e6
}

fn median(values: &[f64]) -> f64 {
    percentiles(values)[0]
}
