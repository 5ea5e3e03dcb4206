//! The bytes on the wire: `vectors.txt` holds one encoding per line, `name: hex`, and is the
//! contract with implementations in other languages. `UPDATE=1 cargo test -p protocol` writes
//! it anew; a line that changes is a change of the protocol's version.

#![allow(clippy::unwrap_used, reason = "a test's own mistakes may panic")]

use core::fmt::Write as _;
use std::collections::HashSet;
use std::sync::LazyLock;

use proptest::prelude::*;
use protocol::conf::{Conf, Place, Places, Root, append};
use protocol::limits::{MESSAGE_MAX, OVERLAY_DIRS_MAX, PATH_MAX};
use protocol::wire::{VERSION, decode, decode_for_guard, encode};
use protocol::{
    Actor, Cgroup, ClientMessage, Dev, Errno, Error, Exec, Exit, ExitReport, Failure, FilePath,
    GuardMessage, How, Ids, Item, Loss, MasterMessage, Message, Name, OpenFile, Options, Overlays,
    Package, Path, Request, Rlimit, RockerInfo, Rule, Seccomp, Step, Strings, TraceStep, Usage,
    Verdict,
};

/// Every variant of an enum. That none is missing is seen to by a match without a wildcard.
macro_rules! all {
    ($type:ident: $($variant:ident $(($value:expr))?),* $(,)?) => {{
        // Does not compile when a variant is added: add it above, and then a vector exists.
        let _ = |value: $type| match value { $($type::$variant { .. } => (),)* };
        [$($type::$variant $(($value))?,)*]
    }};
}

fn path(text: &'static str) -> Path<'static> {
    Path::new(text.as_bytes()).unwrap()
}

fn dirs(of: &[&'static str]) -> Overlays<'static> {
    Overlays::Dirs(of.iter().map(|dir| path(dir)).collect())
}

fn name() -> Name {
    Name::new(b"0123456789abcde").unwrap()
}

fn request() -> Request<'static> {
    Request {
        app_id: 7,
        uid: 1000,
        gid: 1001,
        package: path("/apps/hello.sqfs"),
        exec_dir: path("/var/hello/exec"),
        data_dir: Some(path("/var/hello/data")),
        overlays: dirs(&["/usr", "/etc"]),
        ids: Ids::Identity,
        timeout_ms: 5000,
        trace: false,
        options: protocol::Options::default(),
    }
}

/// "Allow".
const FILTER: [u8; 8] = [6, 0, 0, 0, 0, 0, 0xff, 0x7f];

fn filtered_request(seccomp: Seccomp<'static>) -> Request<'static> {
    let user_namespaces = seccomp == Seccomp::Unconfined;
    Request { options: Options { user_namespaces, seccomp, ..Options::default() }, ..request() }
}

fn bare_request() -> Request<'static> {
    Request { data_dir: None, overlays: dirs(&[]), ..request() }
}

/// The largest of all numbers, and bytes that are no text.
fn extreme_request() -> Request<'static> {
    Request {
        app_id: u32::MAX,
        uid: u32::MAX - 1,
        gid: 1,
        package: Path::new(b"/\xff\xfe").unwrap(),
        exec_dir: path("/"),
        overlays: Overlays::Dirs([path("/x"); OVERLAY_DIRS_MAX].into_iter().collect()),
        timeout_ms: u32::MAX,
        trace: true,
        options: protocol::Options::default(),
        ..request()
    }
}

fn trace_step() -> TraceStep<'static> {
    TraceStep {
        actor: Actor::Guard,
        step: Step::MountPackage,
        began_ns: 1 << 40,
        took_ns: 60_000,
        errno: None,
        command: "mount -t squashfs /dev/loop8 /app",
    }
}

/// `CamelCase`, as `{:?}` has it, to `snake_case`, for readers in other languages.
fn snake(debug: &impl core::fmt::Debug) -> String {
    let mut text = String::new();
    for c in format!("{debug:?}").chars().take_while(char::is_ascii_alphanumeric) {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

/// One message per variant of every enum that can be in one.
fn messages() -> Vec<(String, Message<'static>)> {
    let mut all = requests();
    all.extend(plain());
    all.extend(errors());
    all.extend(traces());
    all.extend(programs());
    all.extend(files());
    all.extend(confs());
    all.extend(late_failures());
    all
}

fn requests() -> Vec<(String, Message<'static>)> {
    let _ = |ids: Ids| match ids {
        Ids::Identity | Ids::Inside { .. } => (),
    };
    let _ = |overlays: Overlays<'_>| match overlays {
        Overlays::Dirs(_) | Overlays::AllTopDirs => (),
    };
    let _ = |seccomp: Seccomp<'_>| match seccomp {
        Seccomp::Default | Seccomp::Unconfined | Seccomp::Log | Seccomp::Filter(_) => (),
    };
    let _ = |dev: Dev<'_>| match dev {
        Dev::Own | Dev::Host | Dev::With(_) => (),
    };
    let all_top_dirs = Request { overlays: Overlays::AllTopDirs, ..request() };
    let hand_over = |request: Request<'static>, cgroups: &[Cgroup]| {
        let cgroups = cgroups.iter().copied().collect();
        let (name, guard_pid, package) = (name(), 70_000, Package::Own);
        Message::Master(MasterMessage::HandOver { name, guard_pid, request, package, cgroups })
    };
    let limited = |limits| Request {
        options: protocol::Options { limits, ..Default::default() },
        ..request()
    };
    let limits = protocol::Limits {
        memory: Some(64 << 20),
        swap: Some(0),
        pids: Some(32),
        cpu_millis: Some(500),
        cpu_weight: Some(10_000),
        cpus: Some("0-1,3"),
        io_read: Some(10 << 20),
        io_write: Some(u64::MAX),
    };
    let unified = Cgroup { unified: true, memory: true, pids: true, cpu: true, io: true };
    let pids = Cgroup { pids: true, ..Cgroup::default() };
    let launch = |request: Request<'static>| Message::Client(ClientMessage::Launch(request));
    let with = |options: Options<'static>| launch(Request { options, ..request() });
    [
        ("client_launch", launch(request())),
        ("client_launch_bare", launch(bare_request())),
        ("client_launch_all_top_dirs", launch(all_top_dirs)),
        ("client_launch_extreme", launch(extreme_request())),
        ("client_launch_traced", launch(Request { trace: true, ..request() })),
        ("client_launch_inside", {
            let options = Options { commanded: true, ..Options::default() };
            launch(Request { ids: Ids::Inside { uid: 0, gid: 100 }, options, ..request() })
        }),
        ("client_launch_volatile", with(Options { volatile: true, ..Options::default() })),
        ("client_launch_unconfined", launch(filtered_request(Seccomp::Unconfined))),
        ("client_launch_log", launch(filtered_request(Seccomp::Log))),
        ("client_launch_filter", launch(filtered_request(Seccomp::Filter(&FILTER)))),
        ("master_hand_over", hand_over(request(), &[])),
        ("master_hand_over_bare", hand_over(bare_request(), &[])),
        ("client_launch_limited", launch(limited(limits))),
        ("client_launch_host_dev", with(Options { dev: Dev::Host, ..Options::default() })),
        ("client_launch_device", {
            let dev = Dev::With(Strings::new(b"/dev/ttyUSB0\0").unwrap());
            with(Options { dev, ..Options::default() })
        }),
        ("client_launch_landlock", with(Options { landlock: true, ..Options::default() })),
        ("master_hand_over_cgroups", hand_over(limited(limits), &[unified, pids])),
    ]
    .map(|(name, message)| (name.to_owned(), message))
    .into()
}

fn plain() -> Vec<(String, Message<'static>)> {
    let _ = |message: ClientMessage<'_>| match message {
        ClientMessage::Launch(_)
        | ClientMessage::AppStarted
        | ClientMessage::List
        | ClientMessage::Kill(_)
        | ClientMessage::Exec(_)
        | ClientMessage::Signal { .. }
        | ClientMessage::Ping
        | ClientMessage::Open { .. }
        | ClientMessage::Delete { .. }
        | ClientMessage::Symlink { .. }
        | ClientMessage::Attach(_)
        | ClientMessage::Conf { .. }
        | ClientMessage::Reset { .. }
        | ClientMessage::Go { .. }
        | ClientMessage::ExecIn { .. }
        | ClientMessage::Adopt { .. } => (),
    };
    let _ = |message: MasterMessage<'_>| match message {
        MasterMessage::HandOver { .. }
        | MasterMessage::GoOn
        | MasterMessage::Failed(_)
        | MasterMessage::Step(_)
        | MasterMessage::Rocker(_)
        | MasterMessage::End
        | MasterMessage::Gone
        | MasterMessage::Attach
        | MasterMessage::Keep { .. } => (),
    };
    let _ = |message: GuardMessage<'_>| match message {
        GuardMessage::Done
        | GuardMessage::Entrance { .. }
        | GuardMessage::Failed(_)
        | GuardMessage::Step(_)
        | GuardMessage::Started { .. }
        | GuardMessage::ExecFailed { .. }
        | GuardMessage::Exited { .. }
        | GuardMessage::Pong
        | GuardMessage::Obeyed { .. }
        | GuardMessage::Opened { .. }
        | GuardMessage::Mounted { .. }
        | GuardMessage::Kept { .. } => (),
    };
    let entrance = |filter, more| {
        let (name, guard_pid) = (name(), 4711);
        Message::Guard(GuardMessage::Entrance { name, guard_pid, filter, more })
    };
    let info = RockerInfo {
        name: name(),
        app_id: 7,
        uid: 1000,
        guard_pid: 4711,
        age_ms: 86_400_000,
        package: path("/apps/hello.sqfs"),
    };
    [
        ("client_app_started", Message::Client(ClientMessage::AppStarted)),
        ("client_list", Message::Client(ClientMessage::List)),
        ("client_kill", Message::Client(ClientMessage::Kill(name()))),
        ("master_go_on", Message::Master(MasterMessage::GoOn)),
        ("master_rocker", Message::Master(MasterMessage::Rocker(info))),
        ("master_end", Message::Master(MasterMessage::End)),
        ("master_gone", Message::Master(MasterMessage::Gone)),
        ("guard_done", Message::Guard(GuardMessage::Done)),
        ("guard_entrance", entrance(&[], 0)),
        ("guard_entrance_with_a_filter", entrance(&FILTER, 0)),
        ("guard_entrance_cgroups", entrance(&[], 5)),
    ]
    .map(|(name, message)| (name.to_owned(), message))
    .into()
}

fn errors() -> Vec<(String, Message<'static>)> {
    let rules = all!(Rule: Empty, Relative, ParentDir, ControlByte, TooLong, TooMany, Forbidden,
        NoDataDir, Root, NoSuchId, OutOfRange, NotAllowed, ForeignNamespace, WrongType,
        NotSquashfs, UnknownFormat, Truncated, InUse, NotOurs, TooManyRockers, NoSuchRocker,
        NotAFilter, MemoryOutOfRange, NoMemoryLimit, NotCpus, NoSuchCpu, NoController,
        NotListed, NoSuchDevice, AlreadyThere, NotADevice, NoDisk, NotHeld, PidsOutOfRange,
        CpuOutOfRange, CpuWeightOutOfRange, IoOutOfRange, TimeOutOfRange, NoOverlays,
        NotCommanded, NotTheCallers, OutOfReach, NoSuchDir, NotADir);
    let items = all!(Item: Request, Package, ExecDir, DataDir, OverlayDir(15), Uid, Gid, Timeout,
        Name, Program, File, Seccomp, UserNamespaces, Memory, Swap, Pids, Cpu, CpuWeight, Cpus, Dev,
        Device(31), IoRead, IoWrite, Volatile);
    let losses = all!(Loss: Died, Silent, Garbage, Version);
    let failed =
        |error, command| Message::Master(MasterMessage::Failed(Failure { error, command }));
    let guard = |error, command| Message::Guard(GuardMessage::Failed(Failure { error, command }));
    let mut all = vec![];
    for rule in rules {
        let error = Error::Invalid { rule, item: Item::Package };
        all.push((format!("master_failed_rule_{}", snake(&rule)), failed(error, "")));
    }
    for item in items {
        let error = Error::Invalid { rule: Rule::NotAllowed, item };
        all.push((format!("master_failed_item_{}", snake(&item)), failed(error, "")));
    }
    for how in losses {
        let error = Error::Lost { step: Step::ReportDone, how };
        all.push((format!("master_failed_lost_{}", snake(&how)), failed(error, "recvmsg")));
    }
    for &step in Step::ALL {
        let error = Error::Failed { step, errno: Errno::BUSY };
        all.push((format!("guard_failed_step_{}", snake(&step)), guard(error, "mount /\u{e9}")));
    }
    all
}

fn traces() -> Vec<(String, Message<'static>)> {
    let actors = all!(Actor: AppMaster, Client, Helper, Master, Guard, App, Kernel);
    let guard = |step| Message::Guard(GuardMessage::Step(step));
    let mut all: Vec<_> = actors
        .map(|actor| {
            let step = TraceStep { actor, ..trace_step() };
            (format!("guard_step_actor_{}", snake(&actor)), guard(step))
        })
        .into();
    let failed = TraceStep { errno: Some(Errno(u16::MAX)), began_ns: u64::MAX, ..trace_step() };
    all.push(("guard_step_failed".to_owned(), guard(failed)));
    all.push(("master_step".to_owned(), Message::Master(MasterMessage::Step(trace_step()))));
    all
}

const USAGE: Usage = Usage {
    memory: Some(1 << 20),
    memory_peak: Some(u64::MAX),
    pids: Some(1),
    pids_peak: Some(33),
    cpu_us: Some(3_000),
    read: Some(0),
    written: Some(512),
};

/// No one but a guard knows what this means.
const SEAL: [u8; 3] = [1, 0, 255];

fn bare_program() -> Exec<'static> {
    Exec {
        id: 1,
        args: Strings::new(b"true\0").unwrap(),
        env: Strings::default(),
        cwd: Strings::default(),
        descriptors: 0,
        by_descriptor: false,
        terminal: false,
        rlimits: heapless::Vec::new(),
        wall_ms: 0,
        grace_ms: 0,
        filter: &[],
        sync: false,
    }
}

fn programs() -> Vec<(String, Message<'static>)> {
    let strings = |bytes: &'static [u8]| Strings::new(bytes).unwrap();
    let bare = bare_program();
    let rlimit = Rlimit { resource: 15, soft: 64 << 20, hard: u64::MAX };
    let full = Exec {
        id: u32::MAX,
        args: strings(b"bin/app\0-v\0\0"),
        env: strings(b"PATH=/bin\0A=\0"),
        cwd: strings(b"/tmp\0"),
        descriptors: 3,
        by_descriptor: true,
        terminal: true,
        rlimits: heapless::Vec::from_slice(&[rlimit; 16]).unwrap(),
        wall_ms: 3000,
        grace_ms: 500,
        filter: &[],
        sync: false,
    };
    let filtered = Exec { filter: &FILTER, ..bare.clone() };
    let placed = Exec { descriptors: 4, ..bare.clone() };
    let placed = Message::Client(ClientMessage::ExecIn { cgroups: 1, exec: placed });
    let waiting = Exec { sync: true, ..bare.clone() };
    let error = Error::Failed { step: Step::StartProgram, errno: Errno::NOENT };
    let failure = Failure { error, command: "exec bin/app" };
    let hand_over = |package| {
        let (name, guard_pid, request) = (name(), 70_000, bare_request());
        let cgroups = heapless::Vec::new();
        Message::Master(MasterMessage::HandOver { name, guard_pid, request, package, cgroups })
    };
    let keep = |seal, layers, marks| Message::Master(MasterMessage::Keep { seal, layers, marks });
    let kept = |top_dirs| {
        let top_dirs = Strings::new(top_dirs).unwrap();
        Message::Guard(GuardMessage::Kept { seal: &SEAL, layers: 2, root: 1, top_dirs })
    };
    let mut all = vec![
        ("client_exec_bare".to_owned(), Message::Client(ClientMessage::Exec(bare))),
        ("client_exec".to_owned(), Message::Client(ClientMessage::Exec(full))),
        ("client_exec_with_a_filter".to_owned(), Message::Client(ClientMessage::Exec(filtered))),
        ("client_exec_to_wait".to_owned(), Message::Client(ClientMessage::Exec(waiting))),
        ("client_go".to_owned(), Message::Client(ClientMessage::Go { id: 1 })),
        ("client_exec_in".to_owned(), placed),
        ("client_adopt".to_owned(), Message::Client(ClientMessage::Adopt { id: 1 })),
        (
            "client_signal".to_owned(),
            Message::Client(ClientMessage::Signal { id: Some(1), signal: 15 }),
        ),
        (
            "client_signal_all".to_owned(),
            Message::Client(ClientMessage::Signal { id: None, signal: 9 }),
        ),
        ("client_ping".to_owned(), Message::Client(ClientMessage::Ping)),
        ("guard_started".to_owned(), Message::Guard(GuardMessage::Started { id: 1, pid: 2 })),
        (
            "guard_exec_failed".to_owned(),
            Message::Guard(GuardMessage::ExecFailed { id: 1, failure }),
        ),
        ("guard_pong".to_owned(), Message::Guard(GuardMessage::Pong)),
        ("client_attach".to_owned(), Message::Client(ClientMessage::Attach(name()))),
        ("master_attach".to_owned(), Message::Master(MasterMessage::Attach)),
        ("guard_mounted".to_owned(), Message::Guard(GuardMessage::Mounted { loop_dev: 1_000 })),
        ("master_hand_over_first".to_owned(), hand_over(Package::First)),
        ("master_hand_over_shared".to_owned(), hand_over(Package::Shared { loop_dev: 1_000 })),
        ("master_keep".to_owned(), keep(&[], 0, &[])),
        ("master_keep_given".to_owned(), keep(&SEAL, 2, &[])),
        ("master_keep_marked".to_owned(), keep(&SEAL, 2, &SEAL)),
        ("guard_kept".to_owned(), kept(b"")),
        ("guard_kept_top_dirs".to_owned(), kept(b"etc\0usr\0")),
    ];
    all.extend(ends());
    all
}

/// How programs end.
fn ends() -> Vec<(String, Message<'static>)> {
    let mut all = vec![];
    let verdicts = all!(Verdict: Normal, TimeLimitExceeded, MemoryLimitExceeded,
        OutputLimitExceeded, DisallowedSyscall, Signalled, NonzeroExitStatus, RunnerError,
        OutOfMemory, Cancelled);
    let _ = all!(Exit: Status(0), Signal(9));
    for verdict in verdicts {
        let exit = if verdict == Verdict::Normal { Exit::Status(0) } else { Exit::Signal(9) };
        let (user_us, system_us, wall_us, peak_kib) = (1_000, 2_000, u64::MAX, 4096);
        let syscall = (verdict == Verdict::DisallowedSyscall).then_some(101);
        let usage = if verdict == Verdict::MemoryLimitExceeded { USAGE } else { Usage::default() };
        let report =
            ExitReport { exit, verdict, user_us, system_us, wall_us, peak_kib, syscall, usage };
        let exited = Message::Guard(GuardMessage::Exited { id: 1, report });
        all.push((format!("guard_exited_{}", snake(&verdict)), exited));
    }
    all
}

fn files() -> Vec<(String, Message<'static>)> {
    let path = |bytes: &'static [u8]| FilePath::new(bytes).unwrap();
    let every_way = [
        How::READ,
        How::WRITE,
        How::CREATE,
        How::EXCLUSIVE,
        How::TRUNCATE,
        How::APPEND,
        How::DIRECTORY,
        How::NO_FOLLOW,
        How::NON_BLOCKING,
        How::ANY_KIND,
    ];
    let all = every_way.into_iter().fold(How::default(), How::and);
    let few = OpenFile { path: path(b"out\n\xff"), how: How::READ, mode: 0 };
    let many = OpenFile { path: path(b"/tmp/x"), how: all, mode: 0o777 };
    let errnos = [Errno(0), Errno::NOENT, Errno(0), Errno(u16::MAX)];
    [
        ("client_open", ClientMessage::Open { id: 1, files: [few, many].into_iter().collect() }),
        ("client_open_none", ClientMessage::Open { id: 2, files: heapless::Vec::new() }),
        ("client_open_extreme", {
            let files = [many; protocol::limits::DESCRIPTORS_MAX].into_iter().collect();
            ClientMessage::Open { id: u32::MAX, files }
        }),
        ("client_delete", ClientMessage::Delete { id: 3, path: path(b"a/b"), tree: false }),
        ("client_delete_tree", ClientMessage::Delete { id: 4, path: path(b"/a"), tree: true }),
        (
            "client_symlink",
            ClientMessage::Symlink { id: 5, target: path(b"../x"), path: path(b"y") },
        ),
    ]
    .map(|(name, message)| (name, Message::Client(message)))
    .into_iter()
    .chain(
        [
            ("guard_obeyed", GuardMessage::Obeyed { id: 3 }),
            ("guard_opened", GuardMessage::Opened { id: 1, errnos: errnos.into_iter().collect() }),
        ]
        .map(|(name, message)| (name, Message::Guard(message))),
    )
    .map(|(name, message)| (name.to_owned(), message))
    .collect()
}

/// One of each place.
fn every_place() -> Vec<Place<'static>> {
    let target = path("/t");
    let all = vec![
        Place::Bind { source: path("/s"), target, read_only: true },
        Place::Tmpfs { target, bytes: 1 << 20, mode: 0o1777 },
        Place::Overlay { target, bytes: u64::MAX },
        Place::Proc { target },
        Place::Dev { target, shm_bytes: 4096 },
        Place::Link { path: target, target: FilePath::new(b"../x").unwrap() },
        Place::Mask { target },
    ];
    // Does not compile when one is added: add it above.
    let _ = |place: Place<'_>| match place {
        Place::Bind { .. }
        | Place::Tmpfs { .. }
        | Place::Overlay { .. }
        | Place::Proc { .. }
        | Place::Dev { .. }
        | Place::Link { .. }
        | Place::Mask { .. } => (),
    };
    all
}

fn confs() -> Vec<(String, Message<'static>)> {
    static PLACES: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut room = [0; 1024];
        let mut used = 0;
        for place in every_place() {
            used += append(&place, &mut room[used..]).unwrap();
        }
        room[..used].to_vec()
    });
    let strings = |bytes: &'static [u8]| Strings::new(bytes).unwrap();
    let bare = Conf {
        root: Root::Whole,
        places: Places::default(),
        work_dir: None,
        host_name: None,
        domain_name: None,
        unshare_cgroup: false,
        init: strings(b""),
        init_env: strings(b""),
        init_ms: 1,
    };
    let full = Conf {
        root: Root::Directory(path("/app")),
        places: Places::new(&PLACES).unwrap(),
        work_dir: Some(path("/tmp")),
        host_name: Some("judge"),
        domain_name: Some("example"),
        unshare_cgroup: true,
        init: strings(b"bin/init\0-v\0"),
        init_env: strings(b"A=b\0"),
        init_ms: 5000,
    };
    let empty = Conf { root: Root::Tmpfs(1 << 20), ..bare };
    [
        ("client_conf_bare", ClientMessage::Conf { id: 1, conf: bare }),
        ("client_conf", ClientMessage::Conf { id: 2, conf: full }),
        ("client_conf_empty_root", ClientMessage::Conf { id: 3, conf: empty }),
        ("client_reset", ClientMessage::Reset { id: 4 }),
    ]
    .map(|(name, message)| (name.to_owned(), Message::Client(message)))
    .into()
}

/// In place of an end.
fn late_failures() -> Vec<(String, Message<'static>)> {
    let error = Error::Failed { step: Step::ReportExit, errno: Errno(2) };
    let failure = Failure { error, command: "exec bin/app" };
    let message = Message::Guard(GuardMessage::ExecFailed { id: 1, failure });
    vec![("guard_exec_failed_late".to_owned(), message)]
}

fn bytes(message: &Message<'_>) -> Vec<u8> {
    encode(message, &mut [0; MESSAGE_MAX]).unwrap().to_vec()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// What the file says: names and bytes.
fn vectors() -> Vec<(String, Vec<u8>)> {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors.txt");
        if std::env::var_os("UPDATE").is_some() {
            let mut text = format!("# Version {VERSION}. Written by tests/vectors.rs.\n");
            for (name, message) in messages() {
                writeln!(text, "{name}: {}", to_hex(&bytes(&message))).unwrap();
            }
            std::fs::write(&file, text).unwrap();
        }
        std::fs::read_to_string(file).unwrap()
    });
    let of_line = |line: &str| {
        let (name, hex) = line.split_once(": ").unwrap();
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (name.to_owned(), (0..hex.len()).step_by(2).map(byte).collect())
    };
    TEXT.lines().filter(|line| !line.starts_with('#')).map(of_line).collect()
}

#[test]
fn every_message_is_encoded_as_on_record() {
    let recorded = vectors();
    for ((name, message), (recorded_name, recorded)) in messages().iter().zip(&recorded) {
        let ours = (name, to_hex(&bytes(message)));
        assert_eq!(ours, (recorded_name, to_hex(recorded)));
    }
    assert_eq!(messages().len(), recorded.len());
}

#[test]
fn every_vector_is_decoded_as_the_message_it_is_named_for() {
    let (messages, vectors) = (messages(), vectors());
    assert_eq!(messages.len(), vectors.len());
    for ((name, message), (recorded_name, bytes)) in messages.iter().zip(&vectors) {
        assert_eq!(name, recorded_name);
        assert_eq!(decode(bytes).as_ref(), Ok(message), "{name}");
    }
    let names: HashSet<&String> = vectors.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), vectors.len(), "names are unique");
}

#[test]
fn a_guard_is_told_all_but_what_guards_say() {
    for (name, message) in messages() {
        let bytes = bytes(&message);
        let wanted = match message {
            Message::Client(_) | Message::Master(_) => Ok(message),
            Message::Guard(_) => Err(Loss::Garbage),
        };
        assert_eq!(decode_for_guard(&bytes), wanted, "{name}");
    }
}

#[test]
fn no_prefix_of_a_vector_is_a_message() {
    for (name, bytes) in vectors() {
        assert_eq!(decode(&[]), Err(Loss::Died));
        for end in 1..bytes.len() {
            assert_eq!(decode(&bytes[..end]), Err(Loss::Garbage), "{name} cut at {end}");
        }
    }
}

/// What decodes is a message like any other: it can be sent on, and is read there as it was
/// here.
#[test]
fn a_flipped_bit_gives_garbage_or_another_message() {
    for (name, bytes) in vectors() {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match decode(&flipped) {
                Ok(message) => {
                    let again = self::bytes(&message);
                    assert_eq!(decode(&again), Ok(message), "{name} with bit {bit} flipped");
                    assert!(again.len() <= flipped.len(), "{name} with bit {bit} flipped");
                }
                Err(Loss::Version) => assert!(bit < 8),
                Err(loss) => assert_eq!(loss, Loss::Garbage, "{name} with bit {bit} flipped"),
            }
        }
    }
}

#[test]
fn bytes_left_over_are_garbage() {
    for (name, bytes) in vectors() {
        for extra in [&[0][..], &[VERSION], &[0xff; 100], &bytes] {
            let longer = [&bytes[..], extra].concat();
            assert_eq!(decode(&longer), Err(Loss::Garbage), "{name}");
        }
    }
}

#[test]
fn another_version_is_named_as_such_whatever_follows() {
    for (name, mut bytes) in vectors() {
        for version in (0..=u8::MAX).filter(|&version| version != VERSION) {
            bytes[0] = version;
            assert_eq!(decode(&bytes), Err(Loss::Version), "{name}");
            assert_eq!(decode(&[version]), Err(Loss::Version));
        }
    }
}

/// A path against the rules is no path on the wire either: no message carries one.
#[test]
fn paths_against_the_rules_do_not_decode() {
    let message = Message::Client(ClientMessage::Launch(bare_request()));
    let bytes = bytes(&message);
    let package = b"/apps/hello.sqfs";
    let at = bytes.windows(package.len()).position(|part| part == package).unwrap();
    for bad in
        [b"apps//hello.sqfs", b"/apps/../llo.sqf", b"/apps/hell\0.sqfs", b"/apps/hell\n.sqfs"]
    {
        let mut changed = bytes.clone();
        changed[at..at + bad.len()].copy_from_slice(bad);
        assert_eq!(decode(&changed), Err(Loss::Garbage));
    }
}

/// 32 KiB fit, one byte more does not, whatever room there is.
#[test]
fn a_message_is_as_long_as_the_limit_at_most() {
    let full = vec![b'/'; PATH_MAX];
    let with_last = |length: usize| {
        let last = &full[..length];
        let lengths = [&full[..]; 7].into_iter().chain([last]);
        let dirs = lengths.map(|dir| Path::new(dir).unwrap()).collect();
        let request = Request { overlays: Overlays::Dirs(dirs), ..bare_request() };
        let message = Message::Client(ClientMessage::Launch(request));
        encode(&message, &mut vec![0; 2 * MESSAGE_MAX]).map(<[u8]>::len)
    };
    let room = (1..=PATH_MAX).rev().find(|&length| with_last(length).is_some()).unwrap();
    assert_eq!(with_last(room), Some(MESSAGE_MAX));
    assert_eq!(with_last(room + 1), None);
    // A smaller buffer is a smaller limit.
    let list = Message::Client(ClientMessage::List);
    assert_eq!(encode(&list, &mut [0; 2]), None);
    assert_eq!(encode(&list, &mut []), None);
    assert_eq!(encode(&list, &mut [0; 3]).map(<[u8]>::len), Some(3));
}

/// Paths that keep the rules: any bytes but control bytes, none called `..`.
fn any_path() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b'/'), Just(b'.'), 0x20..=0x7e_u8, 0x80..=0xff_u8];
    let short = proptest::collection::vec(byte.clone(), 0..40);
    let long = (byte, 0..PATH_MAX).prop_map(|(byte, length)| vec![byte; length]);
    prop_oneof![3 => short, 1 => long].prop_map(|mut bytes| {
        bytes.insert(0, b'/');
        for at in 1..bytes.len() {
            if bytes[at - 1..=at] == *b".." {
                bytes[at] = b'x';
            }
        }
        bytes
    })
}

#[derive(Clone, Debug)]
struct Parts {
    numbers: [u32; 4],
    paths: [Vec<u8>; 2],
    data_dir: Option<Vec<u8>>,
    dirs: Option<Vec<Vec<u8>>>,
    trace: bool,
}

impl Parts {
    fn request(&self) -> Request<'_> {
        let path = |bytes| Path::new(bytes).unwrap();
        let [app_id, uid, gid, timeout_ms] = self.numbers;
        Request {
            app_id,
            uid,
            gid,
            package: path(&self.paths[0]),
            exec_dir: path(&self.paths[1]),
            data_dir: self.data_dir.as_deref().map(path),
            overlays: self.dirs.as_ref().map_or(Overlays::AllTopDirs, |dirs| {
                Overlays::Dirs(dirs.iter().map(|dir| path(dir)).collect())
            }),
            ids: Ids::Identity,
            timeout_ms,
            trace: self.trace,
            options: protocol::Options::default(),
        }
    }

    /// What it takes without lengths and numbers.
    fn length(&self) -> usize {
        let dirs = self.dirs.iter().flatten().chain(&self.data_dir).chain(&self.paths);
        dirs.map(Vec::len).sum()
    }
}

fn any_parts() -> impl Strategy<Value = Parts> {
    let dirs = proptest::collection::vec(any_path(), 0..=OVERLAY_DIRS_MAX);
    let paths = [any_path(), any_path()];
    let data_dir = proptest::option::of(any_path());
    (any::<[u32; 4]>(), paths, data_dir, proptest::option::of(dirs), any::<bool>()).prop_map(
        |(numbers, paths, data_dir, dirs, trace)| Parts { numbers, paths, data_dir, dirs, trace },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_request_is_read_as_it_was_written(parts in any_parts()) {
        let message = Message::Client(ClientMessage::Launch(parts.request()));
        let mut buffer = vec![0; 2 * MESSAGE_MAX];
        match encode(&message, &mut buffer) {
            Some(bytes) => {
                prop_assert!(bytes.len() <= MESSAGE_MAX);
                prop_assert_eq!(decode(bytes), Ok(message));
            }
            // Twenty paths have two bytes of length each, five numbers at most five bytes.
            None => prop_assert!(parts.length() > MESSAGE_MAX - 80),
        }
    }

    #[test]
    fn any_bytes_at_all_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let datagram = [&[VERSION], &bytes[..]].concat();
        if let Ok(message) = decode(&datagram) {
            let again = self::bytes(&message);
            prop_assert_eq!(decode(&again), Ok(message.clone()));
        }
    }
}
