//! `rocker judge`: short, bounded runs of programs that nobody trusts, each in a rocker that is as
//! new. A run is a job: what to run, on which input, with which files and limits. Its result is
//! one line of JSON.

use core::num::NonZero;
use core::time::Duration;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use rocker_client::{Conf, Launch, Limits, OpenFile, OpenRocker, Program};
use serde::Deserialize;
use serde_json::Value;

use super::args::{Judge, JudgeMany, JudgeRun};
use super::copy::Max;
use super::embedded::Master;
use super::run::{Base, PATH, open, resolved};
use super::{Fault, copy, json, print, profile, report, units};

/// Where a program starts. It can write there, and elsewhere only to what is in memory, too.
const WORK_DIR: &str = "/tmp";

/// What a program sees of the host, for reading only.
const HOST_DIRS: [&str; 9] =
    ["/bin", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/sbin", "/usr"];

/// The empty `/` holds nothing but names.
const ROOT_BYTES: u64 = 1 << 20;

/// From one attempt at a new rocker to the next.
const AGAIN: Duration = Duration::from_millis(100);

/// A run. What is not named is as the command line has it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Job {
    /// Comes back with the result.
    #[serde(default)]
    id: Value,
    argv: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Standard input itself, or a file of the host's with it.
    stdin: Option<String>,
    stdin_file: Option<PathBuf>,
    /// Files of the host's that get the outputs, which are part of the result otherwise.
    stdout_file: Option<PathBuf>,
    stderr_file: Option<PathBuf>,
    /// What lies in the working directory before: by name, what is in it or a file of the host's.
    #[serde(default)]
    files: BTreeMap<String, Content>,
    /// What is to be had of it after: by name, where to write it.
    #[serde(default)]
    copy_out: BTreeMap<String, PathBuf>,
    /// On a processor, and on the clock: as on the command line, or a number of seconds.
    time: Option<Value>,
    wall: Option<Value>,
    /// The longest file, each of the outputs too: as on the command line, or a number of bytes.
    output: Option<Value>,
}

/// A line that is none, with its id where that can be read.
struct NoJob {
    id: Value,
    why: Fault,
}

/// One of the two.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    text: Option<String>,
    path: Option<PathBuf>,
}

/// `rocker judge run`
pub(crate) fn run(run: &JudgeRun) -> Result<ExitCode, Fault> {
    let text = |words: &std::ffi::OsStr| match words.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Fault::Said(format!("{words:?}: not UTF-8"))),
    };
    let pair = |words: &std::ffi::OsString| match text(words)?.rsplit_once(':') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => {
            Ok((from.to_owned(), to.to_owned()))
        }
        _ => Err(Fault::Said(format!("{words:?}: it must read FROM:TO"))),
    };
    let mut job = Job {
        argv: run.argv.iter().map(|word| text(word)).collect::<Result<_, _>>()?,
        stdin_file: run.stdin.clone(),
        stdout_file: run.stdout.clone(),
        stderr_file: run.stderr.clone(),
        ..Job::default()
    };
    for words in &run.copy_in {
        let (from, to) = pair(words)?;
        job.files.insert(to, Content { path: Some(from.into()), ..Content::default() });
    }
    for words in &run.copy_out {
        let (from, to) = pair(words)?;
        job.copy_out.insert(from, to.into());
    }
    let plan = Plan::new(&run.judge, &run.package)?;
    let mut place = Place::new(&plan, 0)?;
    let result = place.judge(&plan, &job);
    place.end()?;
    print(&format!("{}\n", result?))
}

/// `rocker judge`: a job for each line of standard input, a line for each result, in the order in
/// which they come to an end.
pub(crate) fn serve(args: &JudgeMany, package: &Path) -> Result<ExitCode, Fault> {
    let plan = Plan::new(&args.judge, package)?;
    let processors = || std::thread::available_parallelism().map_or(1, NonZero::get);
    let ready = args.ready.map_or_else(processors, usize::from);
    // All are there before the first job is taken: what cannot work is said at once.
    let places = (0_u32..)
        .take(ready)
        .map(|number| Place::new(&plan, if args.own_uids { number } else { 0 }))
        .collect::<Result<Vec<_>, Fault>>()?;
    let (give, jobs) = mpsc::sync_channel::<Result<Job, NoJob>>(1);
    let jobs = Arc::new(Mutex::new(jobs));
    let ended = std::thread::scope(|scope| {
        let workers: Vec<_> = places
            .into_iter()
            .map(|place| {
                let (plan, jobs) = (&plan, Arc::clone(&jobs));
                scope.spawn(move || work(plan, place, &jobs))
            })
            .collect();
        drop(jobs);
        let read = read_jobs(&give);
        drop(give);
        let worked = workers.into_iter().map(|worker| {
            worker.join().unwrap_or_else(|_| Err(Fault::Said("a worker panicked".to_owned())))
        });
        worked.fold(read, |ended, one| ended.and(one))
    });
    ended.map(|()| ExitCode::SUCCESS)
}

fn read_jobs(give: &mpsc::SyncSender<Result<Job, NoJob>>) -> Result<(), Fault> {
    for (line, number) in io::stdin().lock().lines().zip(1..) {
        let line = line.map_err(|error| Fault::refused("read the jobs", &error))?;
        if line.trim().is_empty() {
            continue;
        }
        let job = serde_json::from_str(&line).map_err(|error| NoJob {
            id: serde_json::from_str(&line).map_or(Value::Null, |line: Value| line["id"].clone()),
            why: Fault::Said(format!("not a job: {}", json::wrong(&line, number, &error))),
        });
        if give.send(job).is_err() {
            // Nobody works any more, and says why.
            break;
        }
    }
    Ok(())
}

/// One place for one job after the other.
fn work(
    plan: &Plan,
    mut place: Place,
    jobs: &Mutex<mpsc::Receiver<Result<Job, NoJob>>>,
) -> Result<(), Fault> {
    loop {
        let next = match jobs.lock() {
            Ok(jobs) => jobs.recv(),
            Err(_) => break,
        };
        let Ok(job) = next else { break };
        let result = match job {
            Ok(job) => {
                let until = Instant::now() + plan.wall;
                let mut judged = place.judge(plan, &job);
                // Another program has what all of its uid share, and ends: see `renewed`.
                while judged.as_ref().is_err_and(is_crowded) && Instant::now() < until {
                    std::thread::sleep(AGAIN);
                    place = place.renewed(plan)?;
                    judged = place.judge(plan, &job);
                }
                judged.unwrap_or_else(|fault| refusal(&job.id, &fault))
            }
            Err(NoJob { id, why }) => refusal(&id, &why),
        };
        // One line at once: workers do not write into each other's.
        if let Err(fault) = print(&format!("{result}\n")) {
            place.end()?;
            return Err(fault);
        }
        place = place.renewed(plan)?;
    }
    place.end()
}

/// Whether no descriptor could be sent in the name of the program's user.
fn is_crowded(fault: &Fault) -> bool {
    matches!(fault, Fault::Client(error) if error.errno() == Some(copy::TOOMANYREFS))
}

fn refusal(id: &Value, fault: &Fault) -> Value {
    serde_json::json!({"id": id, "error": fault.to_string()})
}

/// What all jobs have in common.
struct Plan {
    launch: Launch,
    uid: u32,
    embeddable: bool,
    exec_dir: PathBuf,
    scratch: u64,
    time: Option<u64>,
    output: u64,
    wall: Duration,
    filter: Option<Vec<u8>>,
}

impl Plan {
    fn new(args: &Judge, package: &Path) -> Result<Self, Fault> {
        let Base { mut launch, identity, exec_dir, embeddable } =
            Base::new(&args.common, &resolved(package)?)?;
        if let Some(bytes) = args.memory {
            launch = launch.memory(bytes);
        }
        if let Some(count) = args.pids {
            launch = launch.pids(count);
        }
        let read = |path: &PathBuf| profile::read(path, protocol::seccomp::NOTIFY);
        let filter = args.seccomp.as_ref().map(read).transpose()?;
        Ok(Self {
            launch,
            uid: identity.uid,
            embeddable,
            exec_dir,
            scratch: args.scratch,
            time: args.time,
            output: args.output,
            wall: args.wall,
            filter,
        })
    }

    /// Nothing of the host's can be written, and what the job needs lies in memory.
    fn conf(&self) -> Conf {
        let mut conf = Conf::new().empty_root(ROOT_BYTES);
        for dir in HOST_DIRS {
            conf = match std::fs::read_link(dir) {
                Ok(target) => conf.link(target, dir),
                Err(_) if Path::new(dir).is_dir() => conf.bind_ro(dir, dir),
                Err(_) => conf,
            };
        }
        conf.proc("/proc")
            .dev("/dev", self.scratch)
            .tmpfs(WORK_DIR, self.scratch)
            .bind_ro(&self.exec_dir, &self.exec_dir)
            .work_dir(WORK_DIR)
            .host_name("rocker")
    }
}

/// A rocker for one job at a time.
struct Place {
    rocker: OpenRocker,
    master: Option<Master>,
    /// What its uid has beyond the first one.
    number: u32,
}

impl Place {
    fn new(plan: &Plan, number: u32) -> Result<Self, Fault> {
        // Beyond the last uid there is none, which is told.
        let launch = plan.launch.clone().uid(plan.uid.saturating_add(number));
        let (mut rocker, master) = open(&launch, plan.embeddable)?;
        rocker.configure(&plan.conf())?;
        Ok(Self { rocker, master, number })
    }

    /// As new, or a new one where that cannot be. That is tried for as long as a run may take: a
    /// program may have what all of its uid share, and others do the jobs meanwhile.
    fn renewed(mut self, plan: &Plan) -> Result<Self, Fault> {
        match self.rocker.reset() {
            Ok(()) => Ok(self),
            Err(_) => {
                let (number, until) = (self.number, Instant::now() + plan.wall);
                self.end()?;
                loop {
                    match Self::new(plan, number) {
                        // Nothing tells when it would be worth it.
                        Err(_) if Instant::now() < until => std::thread::sleep(AGAIN),
                        made => break made,
                    }
                }
            }
        }
    }

    /// Nothing is left when this returns.
    fn end(self) -> Result<(), Fault> {
        let gone = self.rocker.kill(Duration::from_secs(10));
        self.master.map_or(Ok(()), Master::finish)?;
        gone.map(drop).map_err(|error| Fault::refused("end the rocker", &error))
    }

    fn judge(&mut self, plan: &Plan, job: &Job) -> Result<Value, Fault> {
        let Some((path, rest)) = job.argv.split_first() else {
            return Err(Fault::Said("argv: it is empty".to_owned()));
        };
        self.copy_in(job)?;
        let input = input(job)?;
        let output = said("output", &job.output, units::size)?.unwrap_or(plan.output);
        let out = Output::new("stdout", job.stdout_file.as_deref())?;
        let err = Output::new("stderr", job.stderr_file.as_deref())?;
        let program = Program::new(in_package(&plan.exec_dir, path, job))
            .args(rest)
            .env("PATH", format!("{}:{PATH}", plan.exec_dir.join("bin").display()))
            .env("HOME", WORK_DIR);
        let program =
            job.env.iter().fold(program, |program, (name, value)| program.env(name, value));
        let program = program.cwd(WORK_DIR).stdin(input);
        let program = program.stdout(out.file()?).stderr(err.file()?);
        let run = self.rocker.spawn(&program, &limits(plan, job, output)?)?;
        let report = self.rocker.wait(&run)?;
        let mut result = report::job(&job.id, &report);
        for (name, path) in &job.copy_out {
            if let Err(fault) = self.copy_out(name, path, output) {
                result["not_copied"][name] = fault.to_string().into();
            }
        }
        for stream in [out, err] {
            let name = stream.name;
            if let Some(text) = stream.deliver(output)? {
                result[name] = text.into();
            }
        }
        Ok(result)
    }

    fn copy_in(&mut self, job: &Job) -> Result<(), Fault> {
        for (name, content) in &job.files {
            let wanted = [OpenFile::new(name).write().create_new(0o755)];
            let mut file = first(self.rocker.open_files(&wanted)?)
                .map_err(|fault| copy::refused(&format!("write {name}"), fault))?;
            let copied = match (&content.text, &content.path) {
                (Some(text), None) => file.write_all(text.as_bytes()),
                (None, Some(path)) => File::open(path)
                    .map_err(|error| Fault::refused(format!("read {}", path.display()), &error))
                    .map(|mut from| io::copy(&mut from, &mut file).map(drop))?,
                _ => return Err(Fault::Said(format!("files, {name}: it takes text or path"))),
            };
            copied.map_err(|error| Fault::refused(format!("copy to {name}"), &error))?;
        }
        Ok(())
    }

    fn copy_out(&mut self, name: &str, path: &Path, max: u64) -> Result<(), Fault> {
        // What the program left there may be anything: a link would be followed inside only.
        let what = format!("copy {name} to {}", path.display());
        let from = first(self.rocker.open_files(&[OpenFile::new(name).read()])?)
            .map_err(|fault| copy::refused(&what, fault))?;
        let max = Max { option: "--output", bytes: max };
        copy::out(&from, path, None, max, &what)
    }
}

/// The answer for the only file that was asked for.
pub(super) fn first(answers: Vec<Result<File, rocker_client::Error>>) -> Result<File, Fault> {
    match answers.into_iter().next() {
        Some(answer) => Ok(answer?),
        None => Err(Fault::Said("the guard opened nothing".to_owned())),
    }
}

/// A file of the job's is meant before one of the package's.
fn in_package(exec_dir: &Path, path: &str, job: &Job) -> PathBuf {
    let name = path.strip_prefix("./").unwrap_or(path);
    match path.contains('/') && !path.starts_with('/') && !job.files.contains_key(name) {
        true => exec_dir.join(name),
        false => path.into(),
    }
}

fn input(job: &Job) -> Result<OwnedFd, Fault> {
    let cannot = |error: io::Error| Fault::refused("hold the input", &error);
    match (&job.stdin, &job.stdin_file) {
        (Some(_), Some(_)) => {
            Err(Fault::Said("stdin, stdin_file: only one of them can be".to_owned()))
        }
        (Some(text), None) => {
            let mut file = in_memory("stdin")?;
            file.write_all(text.as_bytes()).and_then(|()| file.rewind()).map_err(cannot)?;
            Ok(file.into())
        }
        (None, path) => {
            let path = path.as_deref().unwrap_or(Path::new("/dev/null"));
            let opened = File::open(path).and_then(|file| Ok((may_be_written(&file)?, file)));
            let (is_writable, mut file) = opened
                .map_err(|error| Fault::refused(format!("read {}", path.display()), &error))?;
            if !is_writable {
                return Ok(file.into());
            }
            let mut copy = in_memory("stdin")?;
            io::copy(&mut file, &mut copy).and_then(|_| copy.rewind()).map_err(cannot)?;
            Ok(copy.into())
        }
    }
}

/// Whether others than root may write to a regular file, or let themselves: who has it open for
/// reading can open it for writing then, through `/proc/self/fd`, wherever else it is read-only.
fn may_be_written(file: &File) -> io::Result<bool> {
    let found = file.metadata()?;
    Ok(found.is_file() && (found.uid() != 0 || found.mode() & 0o022 != 0))
}

fn in_memory(name: &str) -> Result<File, Fault> {
    rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)
        .map(File::from)
        .map_err(|errno| Fault::refused(format!("hold {name}"), &errno.into()))
}

/// An output: a file, so that its limit is the kernel's to keep, and one in memory, for its owner
/// may give it any permissions, and a program of an ordinary user's is that user.
struct Output<'a> {
    name: &'static str,
    held: File,
    /// The caller's file that gets it.
    to: Option<(&'a Path, File)>,
}

impl<'a> Output<'a> {
    fn new(name: &'static str, path: Option<&'a Path>) -> Result<Self, Fault> {
        let to = path.map(|path| File::create(path).map(|file| (path, file)).map_err(wrote(path)));
        Ok(Self { name, held: in_memory(name)?, to: to.transpose()? })
    }

    /// For the program.
    fn file(&self) -> Result<OwnedFd, Fault> {
        let copy = self.held.try_clone();
        copy.map(OwnedFd::from)
            .map_err(|error| Fault::refused(format!("hold {}", self.name), &error))
    }

    /// Hands over what the program has said, so many bytes at most: to the caller's file, and
    /// none is left, or else for the result.
    fn deliver(self, max: u64) -> Result<Option<String>, Fault> {
        let read = read_held(&self.held, max);
        let bytes = read.map_err(|error| Fault::refused(format!("read {}", self.name), &error))?;
        match self.to {
            Some((path, mut file)) => {
                file.write_all(&bytes).map_err(wrote(path))?;
                Ok(None)
            }
            None => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        }
    }
}

fn wrote(path: &Path) -> impl Fn(io::Error) -> Fault {
    move |error| Fault::refused(format!("write {}", path.display()), &error)
}

/// Whom the program has left has the same open file still: its offset is theirs to move.
fn read_held(file: &File, max: u64) -> io::Result<Vec<u8>> {
    let wanted = file.metadata()?.len().min(max);
    let mut bytes = vec![0; usize::try_from(wanted).map_err(io::Error::other)?];
    let mut got = 0;
    while got < bytes.len() {
        match file.read_at(&mut bytes[got..], got as u64) {
            Ok(0) => break, // They have made it shorter.
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(got);
    Ok(bytes)
}

/// What a job says under this key, in the command line's words.
fn said<T>(
    key: &str,
    value: &Option<Value>,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, Fault> {
    let Some(value) = value else { return Ok(None) };
    let parsed = match value.as_str() {
        Some(text) => parse(text),
        None => parse(&value.to_string()),
    };
    parsed.map(Some).map_err(|why| Fault::Said(format!("{key} {value}: it must be {why}")))
}

fn limits(plan: &Plan, job: &Job, output: u64) -> Result<Limits, Fault> {
    const RLIMIT_CPU: u8 = 0;
    const RLIMIT_FSIZE: u8 = 1;
    const RLIMIT_CORE: u8 = 4;
    let wall = said("wall", &job.wall, units::time)?.unwrap_or(plan.wall);
    let mut limits = Limits::new().wall(wall);
    limits = limits.rlimit(RLIMIT_CORE, 0, 0).rlimit(RLIMIT_FSIZE, output, output);
    if let Some(seconds) = said("time", &job.time, units::whole_seconds)?.or(plan.time) {
        limits = limits.rlimit(RLIMIT_CPU, seconds, seconds.saturating_add(1));
    }
    if let Some(filter) = &plan.filter {
        limits = limits.filter(filter.clone());
    }
    Ok(limits)
}
