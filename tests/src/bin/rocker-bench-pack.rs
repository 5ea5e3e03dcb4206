//! `make bench-pack`: what an App's tree costs as a package, beside its plain files.
//!
//! ```text
//! rocker-bench-pack [--rounds N] [--compression A,B] [--block-size A,B] [--packer FILE]
//!                   TREE PROGRAM [ARGUMENT..]
//! ```
//!
//! `PROGRAM` is a path in `TREE`. The packages lie in a directory beside the tree, so on the same
//! disk. Whatever is cold has a mount and a loop device of its own, and of the image nothing is
//! in memory; of plain files only what the file system knows about them is. Before each package
//! the plain files have their turn: ratios are medians of such pairs.
//!
//! * `mount`: from the image to the mounted tree.
//! * `first`: to open the program and to read its first 4 KiB, cold.
//! * `start`: to run the program to its end, cold, then `warm`.
//! * `read`: all files of the tree, one after the other, cold.
//! * `held`: what is in the page cache after the first `start` and after `read`: of the files,
//!   of the image and of the loop device.
#![allow(unsafe_code, reason = "loop devices and cachestat(2), of which rustix has nothing safe")]

use core::error::Error;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use linux_raw_sys::loop_device as ioctl;
use rustix::fs::{Advice, fadvise};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

type Result<T> = core::result::Result<T, Box<dyn Error>>;

/// How often a program is started warm; the median counts.
const STARTS: usize = 9;

fn main() -> ExitCode {
    match Options::parse().and_then(|options| Bench::new(options)?.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rocker-bench-pack: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    rounds: usize,
    compressions: Vec<String>,
    block_sizes: Vec<String>,
    packer: PathBuf,
    tree: PathBuf,
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Options {
    fn parse() -> Result<Self> {
        let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let mut rounds = 5;
        let mut compressions = list("zstd,lz4,gzip,xz");
        let mut block_sizes = list("4K,16K,32K,64K,128K,256K,1M");
        let mut packer = tests::programs::workspace().join("target/rocker/rocker");
        let mut given = std::env::args_os().skip(1);
        let tree = loop {
            let word = given.next().ok_or("no tree is given")?;
            let mut value = || {
                let value = given.next().ok_or("a value is missing")?;
                value.into_string().map_err(|_| "a value is no text")
            };
            match word.to_str() {
                Some("--rounds") => rounds = value()?.parse()?,
                Some("--compression") => compressions = list(&value()?),
                Some("--block-size") => block_sizes = list(&value()?),
                Some("--packer") => packer = value()?.into(),
                Some(flag) if flag.starts_with('-') => {
                    return Err(format!("no such flag: {flag}").into());
                }
                _ => break PathBuf::from(word).canonicalize()?,
            }
        };
        if rounds == 0 {
            return Err("at least one round is needed".into());
        }
        let program = given.next().ok_or("no program is given")?.into();
        let arguments = given.collect();
        Ok(Self { rounds, compressions, block_sizes, packer, tree, program, arguments })
    }
}

/// The tree in one of its forms.
struct Form {
    name: String,
    /// None: plain files.
    image: Option<PathBuf>,
    bytes: u64,
    pack_s: f64,
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

struct Bench {
    options: Options,
    /// Regular files of the tree, and their length together.
    files: Vec<PathBuf>,
    bytes: u64,
    /// Where images lie and are mounted.
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(options: Options) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err("mounting packages needs root".into());
        }
        // Mounts and loop devices end with this process, however it ends.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private)?;
        let mut files = vec![];
        list(&options.tree, Path::new(""), &mut files)?;
        let mut bytes = 0;
        for file in &files {
            bytes += fs::metadata(options.tree.join(file))?.len();
        }
        let beside = options.tree.parent().ok_or("the tree is /")?;
        let dir = tempfile::Builder::new().prefix(".rocker-bench-").tempdir_in(beside)?;
        fs::create_dir(dir.path().join("mnt"))?;
        Ok(Self { options, files, bytes, dir })
    }

    fn run(&self) -> Result<()> {
        let mut forms = vec![];
        for compression in &self.options.compressions {
            for block_size in &self.options.block_sizes {
                forms.push(self.pack(compression, block_size)?);
            }
        }
        rustix::fs::sync();
        let plain = Form {
            name: "plain files".to_owned(),
            image: None,
            bytes: self.bytes,
            pack_s: 0.0,
            samples: vec![],
            plain: vec![],
        };
        for round in 0..self.options.rounds {
            // Every other time backwards, so that nobody always comes after the same.
            let mut order: Vec<usize> = (0..forms.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for at in order {
                let beside = self.measure(&plain)?;
                let sample = self.measure(&forms[at])?;
                forms[at].plain.push(beside);
                forms[at].samples.push(sample);
            }
        }
        self.print(&forms);
        Ok(())
    }

    fn pack(&self, compression: &str, block_size: &str) -> Result<Form> {
        let name = format!("{compression} {block_size}");
        let image = self.dir.path().join(&name);
        let mut packer = Command::new(&self.options.packer);
        packer.args(["pack", "--compression", compression, "--block-size", block_size]);
        let begin = Instant::now();
        let output = packer.arg(&self.options.tree).arg(&image).output()?;
        let pack_s = begin.elapsed().as_secs_f64();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned().into());
        }
        let bytes = fs::metadata(&image)?.len();
        Ok(Form { name, image: Some(image), bytes, pack_s, samples: vec![], plain: vec![] })
    }

    fn measure(&self, form: &Form) -> Result<Sample> {
        let cold = self.cold(form)?;
        let begin = Instant::now();
        let mut page = [0; 4096];
        let _ = File::open(cold.dir.join(&self.options.program))?.read(&mut page)?;
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
                forget(&File::open(self.options.tree.join(file))?)?;
            }
            let dir = self.options.tree.clone();
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
        let mut program = Command::new(dir.join(&self.options.program));
        program.args(&self.options.arguments).stdin(Stdio::null()).stdout(Stdio::null());
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

    fn print(&self, forms: &[Form]) {
        let all: Vec<Sample> = forms.iter().flat_map(|form| form.plain.clone()).collect();
        let of = |samples: &[Sample], which: fn(&Sample) -> f64| {
            median(&samples.iter().map(which).collect::<Vec<_>>())
        };
        println!(
            "{}: {} files, {:.1} MB, {} rounds, Linux {}\n",
            self.options.tree.file_name().unwrap_or_default().display(),
            self.files.len(),
            self.bytes as f64 / 1e6,
            self.options.rounds,
            fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim_end(),
        );
        println!(
            "| | MB | % | pack s | mount us | first us | start ms | x plain | held MB | read MB/s \
             | x plain | held MB | warm ms | x plain |"
        );
        println!("|{}", " --- |".repeat(14));
        let line = |name: &str, bytes: u64, pack_s: f64, own: &[Sample], plain: &[Sample]| {
            let ratio = |which: fn(&Sample) -> f64| {
                let pairs = own.iter().zip(plain);
                median(&pairs.map(|(own, plain)| which(own) / which(plain)).collect::<Vec<_>>())
            };
            println!(
                "| {name} | {:.1} | {:.0} | {pack_s:.1} | {:.0} | {:.0} | {:.1} | {:.2} | {:.1} \
                 | {:.0} | {:.2} | {:.0} | {:.1} | {:.3} |",
                bytes as f64 / 1e6,
                bytes as f64 * 100.0 / self.bytes as f64,
                of(own, |it| it.mount),
                of(own, |it| it.first),
                of(own, |it| it.start) / 1e3,
                ratio(|it| it.start),
                of(own, |it| it.start_held) * 1.024e-3,
                self.bytes as f64 / of(own, |it| it.read),
                1.0 / ratio(|it| it.read),
                of(own, |it| it.read_held) * 1.024e-3,
                of(own, |it| it.warm) / 1e3,
                ratio(|it| it.warm),
            );
        };
        line("plain files", self.bytes, 0.0, &all, &all);
        for form in forms {
            line(&form.name, form.bytes, form.pack_s, &form.samples, &form.plain);
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
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
