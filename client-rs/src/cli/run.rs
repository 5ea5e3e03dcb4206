//! `rocker run`: from words to a launch, to an exit status.

use core::time::Duration;
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use protocol::seccomp::{KILL_PROCESS, NOTIFY};
use protocol::usage::Ooms;
use protocol::{Errno, Error as Kind, Step};
use rocker_client::{
    EXEC_DIR, Launch, Limits, OpenRocker, Program, Rocker, SOCKET, Seccomp, Stdio,
};

use super::args::{Common, Dev, Run};
use super::copy::IS_LINK;
use super::embedded::Master;
use super::identity::Identity;
use super::manifest::{self, Manifest};
use super::places::Places;
use super::report::{self, Ending, Lived};
use super::stats::Memory;
use super::vigil::{Signals, until_gone, until_told};
use super::{Fault, complain, named_socket, pack, profile, words, write_out};

/// Where Apps look for programs.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Below it, data dirs that nobody named.
const DATA_DIRS: &str = "/var/lib/rocker";

pub(crate) fn run(args: &Run) -> ExitCode {
    if args.detach {
        return match detached(args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(fault) => {
                complain(&fault);
                let ending = Err(fault);
                if args.trace {
                    print_trace(None, &ending);
                }
                report::exit_code(&ending)
            }
        };
    }
    let mut lived = None;
    let ending = report_file(args).and_then(|file| {
        let ending = attempt(args, &mut lived);
        if args.trace {
            print_trace(lived.as_ref(), &ending);
        }
        if let Some((mut file, path)) = file {
            let package = args.package.display().to_string();
            let text = report::report(&package, lived.as_ref(), &ending);
            let written = writeln!(file, "{text:#}").and_then(|()| file.sync_all());
            written.map_err(|error| Fault::refused(format!("write {}", path.display()), &error))?;
        }
        ending
    });
    if args.json {
        let _ = writeln!(io::stderr(), "{}", report::result(lived.as_ref(), &ending));
    } else if let Err(fault) = &ending {
        complain(fault);
    }
    report::exit_code(&ending)
}

/// Opened before anything is started: a report that cannot be written is said in time.
fn report_file(args: &Run) -> Result<Option<(File, &Path)>, Fault> {
    let Some(path) = &args.report else { return Ok(None) };
    match File::create(path) {
        Ok(file) => Ok(Some((file, path))),
        Err(error) => Err(Fault::refused(format!("write {}", path.display()), &error)),
    }
}

fn print_trace(lived: Option<&Lived>, ending: &Result<Ending, Fault>) {
    let steps = match (lived, ending) {
        // It has been printed when the App started.
        (Some(_), _) => return,
        (None, Err(Fault::Client(error))) => error.trace(),
        (None, _) => return,
    };
    let _ = io::stderr().write_all(report::trace(steps).as_bytes());
}

fn attempt(args: &Run, lived: &mut Option<Lived>) -> Result<Ending, Fault> {
    let plan = Plan::new(args)?;
    let cannot = |error: io::Error| Fault::refused("take signals", &error);
    if plan.by_guard {
        let signals = Signals::take().map_err(cannot)?;
        return attempt_by_guard(args, &plan, &signals, lived);
    }
    let signals = Signals::with_children().map_err(cannot)?;
    let (rocker, master) = plan.start()?;
    let lived = lived.insert(Lived::from(&rocker));
    if args.trace {
        let _ = io::stderr().write_all(report::trace(&lived.steps).as_bytes());
    }
    let own = |_| Memory::of(rocker.guard_pid(), rocker.guard_name().as_str());
    let memory = args.memory.and_then(own);
    let mut ooms = None;
    let status = until_gone(&rocker, &signals, || ooms = memory.as_ref().map(Memory::ooms))
        .map_err(|error| Fault::refused("wait for the App", &error))?;
    if let Some(master) = master {
        master.finish()?;
    }
    let number = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    if !status.success() {
        lived.killed_for = ooms.and_then(|ooms| ooms.verdict_since(Ooms::default()));
    }
    if let Some(why) = lived.killed_for.filter(|_| !args.json) {
        complain(&why);
    }
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Exit(number(code)),
        (None, signal) => Ending::Signal(number(signal.unwrap_or_default())),
    })
}

/// The same for an App that the guard is to start.
fn attempt_by_guard(
    args: &Run,
    plan: &Plan,
    signals: &Signals,
    lived: &mut Option<Lived>,
) -> Result<Ending, Fault> {
    let limits = limits(args)?;
    let (mut rocker, master) = plan.open()?;
    let told = begun(&mut rocker, plan, &limits).and_then(|run| {
        let lived = lived.insert(Lived::by_guard(&rocker, &run));
        if args.trace {
            let _ = io::stderr().write_all(report::trace(&lived.steps).as_bytes());
        }
        let told = until_told(&mut rocker, &run, signals)?;
        lived.told = Some(told);
        Ok(told)
    });
    // Whatever came of it, nothing is left when this ends.
    let gone = rocker.kill(Duration::from_secs(10));
    let finished = master.map_or(Ok(()), Master::finish);
    let told = match told {
        // As without a guard that tells: its App went with it.
        Err(Fault::Client(error))
            if lived.is_some() && matches!(error.kind(), Kind::Lost { .. }) =>
        {
            if !args.json {
                complain(&"the rocker was killed, and its App with it");
            }
            return Ok(Ending::Signal(9));
        }
        told => told?,
    };
    gone.map_err(|error| Fault::refused("end the rocker", &error))?;
    finished?;
    if let Some(why) = report::killed_for(&told).filter(|_| !args.json) {
        complain(&why);
    }
    Ok(told.exit.into())
}

/// The App, in what it is to see.
fn begun(
    rocker: &mut OpenRocker,
    plan: &Plan,
    limits: &Limits,
) -> Result<rocker_client::Run, Fault> {
    if let Some(places) = &plan.places {
        rocker.configure(&places.conf).map_err(|error| places.fault(error))?;
    }
    Ok(rocker.spawn(&plan.program, limits)?)
}

/// The same for an App that stays when this ends, once its rocker's name is told.
fn detached(args: &Run) -> Result<(), Fault> {
    let plan = Plan::new(args)?;
    let limits = limits(args)?;
    let mut rocker = plan.launch.open().map_err(|error| {
        if !(plan.embeddable && nobody_listens(&error)) {
            return error.into();
        }
        let why = "no master listens, and one that this launch brings would end with it: start \
                   rocker-master";
        Fault::cannot("detach", why)
    })?;
    let told = begun(&mut rocker, &plan, &limits).and_then(|_| {
        write_out(&format!("{}\n", rocker.guard_name())).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Fault::Unread,
            _ => Fault::refused("tell the rocker's name", &error),
        })
    });
    if let Err(fault) = told {
        // Nothing is left of what did not begin, or of what nobody could name; why says more than
        // this could.
        let _ = rocker.kill(Duration::from_secs(10));
        return Err(fault);
    }
    if args.trace {
        let _ = io::stderr().write_all(report::trace(rocker.trace()).as_bytes());
    }
    Ok(rocker.detach()?)
}

/// The App with nothing of the terminal's, nor of a pipe's that somebody else waits for.
fn background(args: &Run, program: Program) -> Result<Program, Fault> {
    let file = |path: &Option<PathBuf>, how: &OpenOptions| {
        let Some(path) = path.as_deref().filter(|path| *path != Path::new("/dev/null")) else {
            return Ok(Stdio::Null);
        };
        let what = format!("open {}", path.display());
        // A fifo would have us wait for somebody, and a link of the directory's owner lead what the
        // App writes into a file of ours.
        let opened = how.clone().custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path);
        let file = opened.map_err(|error| match path.is_symlink() {
            true => Fault::cannot(&what, IS_LINK),
            false => Fault::refused(&what, &error),
        })?;
        match file.metadata().is_ok_and(|found| found.is_file()) {
            true => Ok(Stdio::from(file)),
            false => Err(Fault::cannot(what, "it is no regular file")),
        }
    };
    let (mut read, mut append) = (OpenOptions::new(), OpenOptions::new());
    read.read(true);
    append.append(true).create(true);
    let program = program.stdin(file(&args.stdin, &read)?);
    Ok(program.stdout(file(&args.stdout, &append)?).stderr(file(&args.stderr, &append)?))
}

/// What was said of the App's limits.
fn limits(args: &Run) -> Result<Limits, Fault> {
    const RLIMIT_CPU: u8 = 0;
    const RLIMIT_FSIZE: u8 = 1;
    let mut limits = Limits::new();
    if let Some(time) = args.wall {
        limits = limits.wall(time);
    }
    if let Some(seconds) = args.time {
        // A second more for an App that wants to say why it ends.
        limits = limits.rlimit(RLIMIT_CPU, seconds, seconds.saturating_add(1));
    }
    let profile = args
        .seccomp
        .as_ref()
        .filter(|it| !["log", "unconfined"].map(Path::new).contains(&it.as_path()));
    if let Some(profile) = profile {
        limits = limits.filter(profile::read(profile, NOTIFY)?);
    }
    if let Some(bytes) = args.output {
        limits = limits.rlimit(RLIMIT_FSIZE, bytes, bytes);
    }
    Ok(limits)
}

/// Which system calls the App may make. A program that the guard starts has a profile for itself:
/// then the guard can name the call that it was killed for.
fn seccomp(args: &Run, by_guard: bool) -> Result<Seccomp, Fault> {
    let Some(said) = &args.seccomp else { return Ok(Seccomp::Default) };
    Ok(match said.as_os_str().as_bytes() {
        b"log" => Seccomp::Log,
        b"unconfined" => Seccomp::Unconfined,
        _ if by_guard => Seccomp::Unconfined,
        _ => Seccomp::Filter(profile::read(said, KILL_PROCESS)?),
    })
}

/// What was said of the limits that all processes share.
fn together(args: &Run, mut launch: Launch) -> Launch {
    if let Some(bytes) = args.memory {
        launch = launch.memory(bytes);
    }
    if let Some(bytes) = args.swap {
        launch = launch.swap(bytes);
    }
    if let Some(count) = args.pids {
        launch = launch.pids(count);
    }
    if let Some(millis) = args.cpu {
        launch = launch.cpu_millis(millis);
    }
    if let Some(weight) = args.cpu_weight {
        launch = launch.cpu_weight(weight);
    }
    if let Some(bytes) = args.io_read {
        launch = launch.io_read(bytes);
    }
    if let Some(bytes) = args.io_write {
        launch = launch.io_write(bytes);
    }
    args.cpus.iter().fold(launch, |launch, list| launch.cpus(list))
}

/// What every launch of the command line begins with.
pub(super) struct Base {
    pub(super) launch: Launch,
    pub(super) identity: Identity,
    pub(super) exec_dir: PathBuf,
    /// Whether a master may be started if none listens.
    pub(super) embeddable: bool,
}

impl Base {
    /// `package` is [`resolved`].
    pub(super) fn new(args: &Common, package: &Path) -> Result<Self, Fault> {
        let identity = Identity::of(args.uid.as_deref(), args.gid.as_deref())?;
        let named = named_socket(args.socket.clone());
        let embeddable = named.is_none() && nix::unistd::geteuid().is_root();
        let socket = absolute(named.as_deref().unwrap_or(Path::new(SOCKET)))?;
        let exec_dir = match &args.exec_dir {
            Some(dir) => resolved(dir)?,
            None => socket.parent().unwrap_or(Path::new("/")).join("app"),
        };
        let launch = Launch::new(package).uid(identity.uid).gid(identity.gid);
        let launch = launch.exec_dir(&exec_dir).socket(socket);
        Ok(Self { launch, identity, exec_dir, embeddable })
    }
}

/// What was said, with every default in place.
struct Plan {
    launch: Launch,
    program: Program,
    /// What the App is to see, where that was said.
    places: Option<Places>,
    /// Whether a master may be started if none listens.
    embeddable: bool,
    /// Whether the guard is to start the App.
    by_guard: bool,
    _made: Made,
}

impl Plan {
    fn new(args: &Run) -> Result<Self, Fault> {
        let package = resolved(&args.package)?;
        let Base { launch, identity, exec_dir, embeddable } = Base::new(&args.common, &package)?;
        let manifest = read_manifest(&package, args.argv.is_empty())?;
        let overlays = overlays(args, manifest.as_ref())?;
        let mut made = Made::default();
        let data_dir = match (&args.data_dir, &overlays) {
            (Some(dir), _) => Some(resolved(dir)?),
            (None, Overlays::Dirs(dirs)) if dirs.is_empty() => None,
            (None, _) => Some(default_data_dir(&package, identity, &mut made)?),
        };
        let limited = args.wall.is_some() || args.time.is_some() || args.output.is_some();
        let places = Places::new(args)?;
        let by_guard =
            limited || places.is_some() || args.detach || !nix::unistd::geteuid().is_root();
        let mut launch = launch
            .app_id(args.app_id)
            .volatile(args.volatile)
            .stays(args.detach)
            .user_namespaces(args.userns)
            .landlock(args.landlock || manifest.as_ref().is_some_and(|it| it.landlock))
            .seccomp(seccomp(args, by_guard)?)
            .timeout(args.timeout)
            .trace(args.trace || args.report.is_some());
        if args.dev == Dev::Host {
            launch = launch.host_dev();
        }
        launch = args.device.iter().fold(launch, Launch::device);
        let home = data_dir.clone();
        if let Some(dir) = data_dir {
            launch = launch.data_dir(dir);
        }
        launch = together(args, launch);
        launch = match overlays {
            Overlays::Auto => launch.overlay_all(),
            Overlays::Dirs(dirs) => dirs.iter().fold(launch, Launch::overlay),
        };
        let mut program = program(args, manifest.as_ref(), &exec_dir, home.as_deref())?;
        if args.detach {
            program = background(args, program)?;
        }
        Ok(Self { launch, program, places, embeddable, by_guard, _made: made })
    }

    /// root.1 to root.7.
    fn start(&self) -> Result<(Rocker, Option<Master>), Fault> {
        let (launch, program) = (&self.launch, &self.program);
        let over = |master| launch.spawn_over(master, program);
        launched(self.embeddable, || launch.spawn(program), over)
    }

    /// root.1 to exec.0.
    fn open(&self) -> Result<(OpenRocker, Option<Master>), Fault> {
        open(&self.launch, self.embeddable)
    }
}

/// root.1 to exec.0, with a master of its own where there may be one and none listens.
pub(super) fn open(
    launch: &Launch,
    embeddable: bool,
) -> Result<(OpenRocker, Option<Master>), Fault> {
    launched(embeddable, || launch.open(), |master| launch.open_over(master))
}

/// Over the daemon's socket, or over a master's of its own.
fn launched<T>(
    embeddable: bool,
    over_socket: impl FnOnce() -> Result<T, rocker_client::Error>,
    over: impl FnOnce(OwnedFd) -> Result<T, rocker_client::Error>,
) -> Result<(T, Option<Master>), Fault> {
    match over_socket() {
        Ok(rocker) => return Ok((rocker, None)),
        Err(error) if embeddable && nobody_listens(&error) => {}
        Err(error) => return Err(error.into()),
    }
    make_exec_dir()?;
    let (master, connection) = Master::start()?;
    match over(connection) {
        Ok(rocker) => Ok((rocker, Some(master))),
        Err(error) => {
            // Its own words, if it has any, are on standard error already.
            let _ = master.finish();
            Err(error.into())
        }
    }
}

fn nobody_listens(error: &rocker_client::Error) -> bool {
    let errno = error.errno();
    error.step() == Step::RequestRocker && matches!(errno, Some(Errno::NOENT | Errno::CONNREFUSED))
}

/// What a daemon makes when it starts.
fn make_exec_dir() -> Result<(), Fault> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(EXEC_DIR);
    made.map_err(|error| Fault::refused(format!("create {EXEC_DIR}"), &error))
}

/// The manifest, if there is one. Where something else is to be run, a package that this user
/// cannot read is for the master to judge.
fn read_manifest(package: &Path, needed: bool) -> Result<Option<Manifest>, Fault> {
    let at = |why: &dyn core::fmt::Display| {
        Fault::Said(format!("{}: {}: {why}", package.display(), manifest::NAME))
    };
    let text = match pack::read_file(package, manifest::NAME, manifest::SIZE_MAX) {
        Ok(Some(text)) => text,
        Ok(None) if needed => {
            return Err(at(&"there is none to say what to run; add one, or say it after --"));
        }
        Err(error) if needed => return Err(Fault::Said(error.to_string())),
        Ok(None) | Err(_) => return Ok(None),
    };
    let text = core::str::from_utf8(&text).map_err(|error| at(&error))?;
    Manifest::parse(text).map(Some).map_err(|error| at(&error))
}

/// What is to be overlaid.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Overlays {
    Auto,
    Dirs(Vec<PathBuf>),
}

/// What was said, else what the manifest says.
fn overlays(args: &Run, manifest: Option<&Manifest>) -> Result<Overlays, Fault> {
    match args.overlay.as_slice() {
        [] => Ok(match manifest.map(|manifest| &manifest.overlay) {
            Some(manifest::Overlay::Auto) => Overlays::Auto,
            Some(manifest::Overlay::Dirs(dirs)) => {
                Overlays::Dirs(dirs.iter().map(PathBuf::from).collect())
            }
            Some(manifest::Overlay::None) | None => Overlays::Dirs(Vec::new()),
        }),
        [dir] if dir == "auto" => Ok(Overlays::Auto),
        dirs if dirs.iter().any(|dir| dir == "auto") => Err(Fault::Said(
            "overlay auto: it stands for all directories, and goes with no other".to_owned(),
        )),
        dirs => dirs.iter().map(|dir| absolute(dir)).collect::<Result<_, _>>().map(Overlays::Dirs),
    }
}

fn program(
    args: &Run,
    manifest: Option<&Manifest>,
    exec_dir: &Path,
    home: Option<&Path>,
) -> Result<Program, Fault> {
    let mut program = match (args.argv.split_first(), manifest) {
        (Some((path, rest)), _) => Program::new(path).args(rest),
        (None, Some(manifest)) => Program::new(exec_dir.join(&manifest.entry)).args(&manifest.args),
        (None, None) => unreachable!("without ARGV there is a manifest, or an error"),
    };
    program = default_environment(program, home.unwrap_or(Path::new("/")));
    for (name, value) in manifest.iter().flat_map(|manifest| &manifest.env) {
        program = program.env(name, value);
    }
    program = said_environment(program, &args.env)?;
    let cwd = args.cwd.as_deref().or(manifest.and_then(|m| m.cwd.as_deref().map(Path::new)));
    Ok(cwd.into_iter().fold(program, Program::cwd))
}

/// What a program has that nobody said.
pub(crate) fn default_environment(mut program: Program, home: &Path) -> Program {
    program = program.env("PATH", PATH).env("HOME", home);
    let on_terminal = io::stdin().is_terminal() || io::stdout().is_terminal();
    for (name, wanted) in [("TERM", on_terminal), ("LANG", true)] {
        if let Some(value) = std::env::var_os(name).filter(|_| wanted) {
            program = program.env(name, value);
        }
    }
    program
}

/// `--env`, over all else.
pub(crate) fn said_environment(program: Program, variables: &[OsString]) -> Result<Program, Fault> {
    variables.iter().try_fold(program, |program, variable| {
        let (name, value) = split_variable(variable)?;
        Ok(program.env(name, value))
    })
}

fn split_variable(variable: &OsStr) -> Result<(&OsStr, &OsStr), Fault> {
    let bytes = variable.as_bytes();
    match bytes.iter().position(|&byte| byte == b'=') {
        Some(at) if at > 0 => {
            let (name, value) = bytes.split_at(at);
            Ok((OsStr::from_bytes(name), OsStr::from_bytes(&value[1..])))
        }
        _ => Err(Fault::Said(format!("env {variable:?}: it must read NAME=VALUE"))),
    }
}

/// Directories that this run has made, which go with it while they are empty: no master has laid
/// anything there.
#[derive(Default)]
struct Made(Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        for dir in self.0.iter().rev() {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

/// A place for the App's layers that belongs to the App, made if it is not there.
fn default_data_dir(package: &Path, identity: Identity, made: &mut Made) -> Result<PathBuf, Fault> {
    let dir = Path::new(DATA_DIRS).join(package.file_stem().unwrap_or(OsStr::new("app")));
    let Identity { uid, gid } = identity;
    let cannot = |error: io::Error| {
        let place = dir.display();
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => format!(
                ": name another (--data-dir), or have root make it: install -d -o {uid} -g {gid} \
                 {place}"
            ),
            _ => String::new(),
        };
        Fault::cannot(format_args!("create {place}"), words(&error) + &remedy)
    };
    let mut builder = DirBuilder::new();
    let is_new = !Path::new(DATA_DIRS).exists();
    builder.mode(0o755).recursive(true).create(DATA_DIRS).map_err(cannot)?;
    made.0.extend(is_new.then(|| DATA_DIRS.into()));
    match builder.recursive(false).create(&dir) {
        Ok(()) => {
            made.0.push(dir.clone());
            std::os::unix::fs::chown(&dir, Some(uid), Some(gid)).map_err(cannot)?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(cannot(error)),
    }
    Ok(dir)
}

fn absolute(path: &Path) -> Result<PathBuf, Fault> {
    std::path::absolute(path).map_err(|error| Fault::refused(format!("use {path:?}"), &error))
}

/// Absolute and, as far as it exists, without links and `..`, which the master does not follow.
pub(super) fn resolved(path: &Path) -> Result<PathBuf, Fault> {
    let path = absolute(path)?;
    let mut missing = Vec::new();
    let mut existing = path.as_path();
    loop {
        if let Ok(real) = existing.canonicalize() {
            return Ok(missing.iter().rev().fold(real, |path, name: &OsString| path.join(name)));
        }
        let last = existing.components().next_back();
        match (last, existing.parent()) {
            (Some(Component::Normal(name)), Some(parent)) => {
                missing.push(name.to_owned());
                existing = parent;
            }
            // A `..` behind something that is not there: as it is, for the rules to refuse.
            _ => return Ok(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_stands_alone() {
        let overlays = |words| overlays(&Run::of(words), None).map_err(|fault| fault.to_string());
        assert_eq!(overlays("x"), Ok(dirs(&[])));
        assert_eq!(overlays("--overlay auto x"), Ok(Overlays::Auto));
        assert_eq!(overlays("--overlay /a --overlay /b x"), Ok(dirs(&["/a", "/b"])));
        assert!(overlays("--overlay /a --overlay auto x").unwrap_err().starts_with("overlay auto"));
    }

    fn dirs(dirs: &[&str]) -> Overlays {
        Overlays::Dirs(dirs.iter().map(|&dir| dir.into()).collect())
    }

    #[test]
    fn what_is_said_goes_before_the_manifest() {
        let manifest = Manifest::parse("entry = \"a\"\noverlay = [\"/m\"]").unwrap();
        assert_eq!(overlays(&Run::of("x"), Some(&manifest)).unwrap(), dirs(&["/m"]));
        assert_eq!(overlays(&Run::of("--overlay /a x"), Some(&manifest)).unwrap(), dirs(&["/a"]));
    }

    #[test]
    fn variables_have_a_name() {
        let split = |text: &str| {
            split_variable(OsStr::new(text))
                .map(|(name, value)| format!("{} {}", name.display(), value.display()))
                .map_err(|fault| fault.to_string())
        };
        assert_eq!(split("A=b=c"), Ok("A b=c".to_owned()));
        assert_eq!(split("A="), Ok("A ".to_owned()));
        assert_eq!(split("A"), Err("env \"A\": it must read NAME=VALUE".to_owned()));
        assert_eq!(split("=b"), Err("env \"=b\": it must read NAME=VALUE".to_owned()));
    }

    #[test]
    fn links_and_dots_are_resolved_as_far_as_there_are_any() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().canonicalize().unwrap();
        std::fs::create_dir(dir.join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.join("link")).unwrap();
        let resolved = |path: &str| super::resolved(&dir.join(path)).unwrap();
        assert_eq!(resolved("link/../link"), dir.join("real"));
        assert_eq!(resolved("link/new/er"), dir.join("real/new/er"));
        assert_eq!(resolved("link/new/../er"), dir.join("link/new/../er"));
    }
}
