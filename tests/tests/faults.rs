//! What hostile, dying and unlucky processes can do to a master: nothing that lasts.
#![allow(unsafe_code, reason = "fork(2), to be another user, has no safe form")]

use core::mem::MaybeUninit;
use core::time::Duration;
use std::fs;
use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{ForkResult, Gid, Uid, fork, setgroups, setresgid, setresuid};
use protocol::limits::MESSAGE_MAX;
use protocol::socket::{Buffer, Received, now_ns, receive_before, send};
use protocol::{
    ClientMessage, Errno, Error, GuardMessage, Ids, Item, Loss, MasterMessage, Message, Overlays,
    Request, Rule, Step, wire,
};
use rocker_client::{kill_by_name, list};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getrlimit, kill_process, pidfd_send_signal, prlimit,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tests::app::App;
use tests::{APP_GID, APP_UID, Daemon, Leaks, Package, SOON, bin, scratch, within};
use tests::{probe_package, process, runner};

fn main() -> ExitCode {
    runner::main(tests::root![
        callers_that_say_nothing_delay_nobody,
        nonsense_is_refused_and_leaves_nothing,
        a_caller_that_dies_leaves_nothing_whenever_that_is,
        a_caller_that_never_enters_has_until_its_deadline,
        a_guard_that_does_not_go_on_is_killed,
        a_caller_that_reads_late_has_its_entrance_behind_a_long_trace,
        an_app_that_is_no_process_of_the_rocker_keeps_nothing_for_ever,
        three_hundred_callers_at_once_are_all_answered,
        one_user_cannot_take_every_place,
        who_does_not_enter_keeps_no_guard_from_being_ready,
        strangers_take_no_place_of_others,
        a_flood_of_refusals_does_not_fill_the_log,
        a_master_without_descriptors_sheds_callers_and_lives,
        a_thousand_launches_leave_the_master_as_it_was,
        sixty_four_launches_at_once_all_succeed,
        apps_outlive_a_master_that_is_killed,
        apps_outlive_a_master_that_is_stopped,
        records_that_are_not_true_are_forgotten,
        a_host_without_loop_control_is_named,
        a_loop_device_that_is_always_taken_is_not_tried_for_ever,
        there_is_one_master_per_socket,
        what_is_no_socket_stays_where_it_is,
        an_argument_without_its_value_is_refused,
        a_value_may_stand_behind_an_equals_sign,
        the_log_says_who_asked_for_what,
        a_guard_that_cannot_be_used_is_named_at_the_start,
        a_configuration_with_an_unknown_key_is_refused,
        a_configuration_that_others_can_write_is_refused,
        others_than_root_may_do_nothing_by_default,
        whom_the_policy_does_not_name_may_do_nothing,
        nobody_but_root_gets_the_way_into_control_groups,
        the_policy_says_what_a_user_may_do,
        the_policy_says_how_many_rockers_a_user_may_have,
        only_a_guard_is_sent_descriptors,
        a_pid_that_is_anothers_by_now_is_nobodys,
        who_waits_for_an_end_takes_no_place_of_others,
        who_has_seen_an_end_finds_nothing_of_it,
        a_cleaner_that_deletes_the_masters_directory_ends_no_rocker,
    ])
}

/// How long a launch may take while others misbehave: far below the 2 s that a caller has to
/// say what it wants.
const QUICK: Duration = Duration::from_secs(1);

/// A connection on which nothing has been said.
fn call(socket: &Path) -> rustix::io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let caller = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    connect(&caller, &SocketAddrUnix::new(socket)?)?;
    Ok(caller)
}

fn caller(daemon: &Daemon) -> OwnedFd {
    call(&daemon.socket()).expect("the master listens")
}

/// Says any bytes, with any descriptors. False if the kernel does not let a master be sent any
/// (Linux 6.16); one that has closed already did not want them either.
fn say_raw(caller: &OwnedFd, bytes: &[u8], file: &OwnedFd, copies: usize) -> bool {
    let descriptors = vec![file.as_fd(); copies];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(100))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if copies > 0 {
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    }
    let sent = sendmsg(caller, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
    copies == 0 || sent != Err(rustix::io::Errno::PERM)
}

fn ask(caller: &OwnedFd, request: Request<'_>) {
    let message = Message::Client(ClientMessage::Launch(request));
    send(caller, &message, &[], &mut Buffer::default()).expect("there is room for a request");
}

/// What a caller is told in the end.
#[derive(Debug)]
enum Told {
    Entrance(OwnedFd),
    Gone,
    Failed(Error),
    Lost(Loss),
}

fn hear(caller: &OwnedFd) -> Told {
    let deadline = now_ns() + u64::try_from(SOON.as_nanos()).expect("a few seconds");
    let mut buffer = Buffer::default();
    loop {
        return match receive_before(caller, &mut buffer, deadline).expect("a socket") {
            Received::Message(message, mut descriptors) => match message {
                Message::Master(MasterMessage::Step(_)) | Message::Guard(GuardMessage::Step(_)) => {
                    continue;
                }
                Message::Master(MasterMessage::Failed(failure))
                | Message::Guard(GuardMessage::Failed(failure)) => Told::Failed(failure.error),
                Message::Guard(GuardMessage::Entrance { .. }) => {
                    Told::Entrance(descriptors.pop().expect("it comes with one"))
                }
                Message::Master(MasterMessage::Gone) => Told::Gone,
                other => panic!("{other:?}"),
            },
            Received::Lost(how) => Told::Lost(how),
            Received::Empty => continue,
        };
    }
}

/// The places that a request names.
struct Places {
    package: PathBuf,
    exec_dir: PathBuf,
    data_dir: Option<PathBuf>,
}

impl Places {
    fn of(daemon: &Daemon) -> Self {
        Self { package: probe_package(), exec_dir: daemon.exec_dir(), data_dir: None }
    }

    fn request(&self) -> Request<'_> {
        let path = |path| protocol::Path::new(bytes(path)).expect("a path");
        Request {
            app_id: 1,
            uid: APP_UID,
            gid: APP_GID,
            package: protocol::Path::new(bytes(&self.package)).expect("a path"),
            exec_dir: protocol::Path::new(bytes(&self.exec_dir)).expect("a path"),
            data_dir: self.data_dir.as_deref().map(path),
            overlays: Overlays::Dirs(core::iter::empty().collect()),
            ids: Ids::Identity,
            timeout_ms: 5000,
            trace: false,
            options: protocol::Options::default(),
        }
    }

    fn encoded(&self) -> Vec<u8> {
        let message = Message::Client(ClientMessage::Launch(self.request()));
        let mut bytes = vec![0; MESSAGE_MAX];
        wire::encode(&message, &mut bytes).expect("it fits").to_vec()
    }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// Somebody else is served, and quickly.
#[track_caller]
fn assert_well(daemon: &Daemon) {
    // The first test has to make it.
    probe_package();
    let living = daemon.records().len();
    let began = Instant::now();
    assert_eq!(daemon.probe(&["say hello"]).one("say"), "hello");
    let took = began.elapsed();
    assert!(took < QUICK, "a launch took {took:?}");
    daemon.settle(living);
}

/// The master holds nothing of anybody: as many descriptors as at `before`, and no record.
#[track_caller]
fn assert_flat(daemon: &Daemon, before: usize) {
    assert_flat_but(daemon, before, 0);
}

/// The same while there are `living` rockers.
#[track_caller]
fn assert_flat_but(daemon: &Daemon, before: usize, living: usize) {
    let is_flat = within(SOON, || daemon.fds() == before && daemon.records().len() == living);
    let links = process::fd_links(daemon.pid());
    assert!(is_flat, "{before} descriptors were open, now {links:#?}; {:?}", daemon.records());
}

fn callers_that_say_nothing_delay_nobody() {
    let daemon = Daemon::start();
    assert_well(&daemon);
    let before = daemon.fds();
    let silent: Vec<OwnedFd> = (0..200).map(|_| caller(&daemon)).collect();
    let began = Instant::now();
    for _ in 0..5 {
        assert_well(&daemon);
    }
    for caller in &silent {
        let wanted = Error::Lost { step: Step::RequestRocker, how: Loss::Silent };
        assert!(matches!(hear(caller), Told::Failed(error) if error == wanted));
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "they were told after {took:?}");
    assert_flat(&daemon, before);
}

/// What a caller of the master may get wrong: in name, bytes, descriptors.
fn nonsense() -> Vec<(&'static str, Vec<u8>, usize)> {
    let places = Places {
        package: "/no/such/package".into(),
        exec_dir: "/exec".into(),
        data_dir: Some("/data".into()),
    };
    let right = places.encoded();
    let other = |message: &Message<'_>| {
        let mut bytes = vec![0; MESSAGE_MAX];
        wire::encode(message, &mut bytes).expect("it fits").to_vec()
    };
    let mut wrong_version = right.clone();
    wrong_version[0] += 1;
    let mut long = right.clone();
    long.resize(33 * 1024, 0);
    let mut root = places.request();
    root.uid = 0;
    vec![
        ("an empty datagram", vec![], 0),
        ("an empty datagram with descriptors", vec![], 100),
        ("one byte", vec![wire::VERSION], 0),
        ("garbage", b"GET / HTTP/1.1\r\n\r\n".to_vec(), 0),
        ("garbage with descriptors", vec![0xff; 100], 100),
        ("half a message", right[..right.len() / 2].to_vec(), 0),
        ("a message and a half", [&right[..], &right[..9]].concat(), 0),
        ("33 KiB", long.clone(), 0),
        ("33 KiB with descriptors", long, 100),
        ("a request with one descriptor", right.clone(), 1),
        ("a request with a hundred descriptors", right, 100),
        ("another version", wrong_version, 0),
        ("the App first", other(&Message::Client(ClientMessage::AppStarted)), 1),
        ("a guard's message", other(&Message::Guard(GuardMessage::Done)), 0),
        ("a master's message", other(&Message::Master(MasterMessage::GoOn)), 0),
        ("a request for root", other(&Message::Client(ClientMessage::Launch(root))), 0),
    ]
}

fn nonsense_is_refused_and_leaves_nothing() {
    let daemon = Daemon::start();
    assert_well(&daemon);
    let before = daemon.fds();
    let file: OwnedFd = tempfile::tempfile().expect("a scratch file").into();
    for (name, bytes, descriptors) in nonsense() {
        let began = Instant::now();
        let caller = caller(&daemon);
        if !say_raw(&caller, &bytes, &file, descriptors) {
            drop(caller);
            assert_flat(&daemon, before);
            continue;
        }
        match hear(&caller) {
            Told::Entrance(_) | Told::Gone => panic!("{name} was let in"),
            Told::Failed(error) => assert_eq!(error.step(), Step::RequestRocker, "{name}"),
            // An empty datagram is a caller's end, and who has ended is told nothing.
            Told::Lost(how) => assert_eq!((how, bytes.len()), (Loss::Died, 0), "{name}"),
        }
        let took = began.elapsed();
        assert!(took < QUICK, "{name} was answered after {took:?}");
        assert_flat(&daemon, before);
        assert_well(&daemon);
    }
    assert_flat(&daemon, before);
}

fn a_caller_that_dies_leaves_nothing_whenever_that_is() {
    let daemon = Daemon::start();
    assert_well(&daemon);
    let leaks = Leaks::snapshot();
    let before = daemon.fds();
    let places = Places { data_dir: Some(daemon.data_dir()), ..Places::of(&daemon) };
    for _ in 0..10 {
        drop(caller(&daemon));
        assert_flat(&daemon, before);

        let late = caller(&daemon);
        ask(&late, places.request());
        drop(late);
        let all_free = within(SOON, || daemon.records().is_empty() && leaks.now().is_empty());
        assert!(all_free, "{:?}", leaks.now());
        assert_flat(&daemon, before);

        let inside = caller(&daemon);
        ask(&inside, places.request());
        assert!(matches!(hear(&inside), Told::Entrance(_)));
        drop(inside);
        assert_flat(&daemon, before);

        // What it says is the App has ended before.
        let inside = caller(&daemon);
        ask(&inside, places.request());
        let Told::Entrance(_guard) = hear(&inside) else { panic!("no entrance") };
        let mut short = Command::new("true").spawn().expect("a program of every host");
        let app = process::pidfd(short.id()).expect("it is not waited for yet");
        short.wait().expect("it is ours");
        let started = Message::Client(ClientMessage::AppStarted);
        send(&inside, &started, &[app.as_fd()], &mut Buffer::default()).expect("it is awaited");
        drop(inside);
        assert_flat(&daemon, before);
    }
    leaks.assert_none();
    assert_well(&daemon);
}

fn a_caller_that_never_enters_has_until_its_deadline() {
    let daemon = Daemon::start();
    assert_well(&daemon);
    let (leaks, before) = (Leaks::snapshot(), daemon.fds());
    let places = Places::of(&daemon);
    let began = Instant::now();
    let late: Vec<OwnedFd> = (0_u32..20)
        .map(|number| {
            let caller = caller(&daemon);
            ask(
                &caller,
                Request { timeout_ms: 1500, trace: number.is_multiple_of(2), ..places.request() },
            );
            caller
        })
        .collect();
    // Half of them never read; the others hold on to the entrance.
    let entrances: Vec<Told> = late.iter().skip(1).step_by(2).map(hear).collect();
    assert!(entrances.iter().all(|told| matches!(told, Told::Entrance(_))), "{entrances:?}");
    let living = || list(daemon.socket(), SOON).expect("the master answers").len();
    assert!(within(SOON, || living() == late.len()), "{} rockers live", living());
    assert_well(&daemon);
    for caller in late.iter().skip(1).step_by(2) {
        let late = Error::Lost { step: Step::ReportApp, how: Loss::Silent };
        let told = hear(caller);
        assert!(matches!(told, Told::Failed(error) if error == late), "{told:?}");
    }
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1450) && took < Duration::from_secs(4), "{took:?}");
    assert_flat(&daemon, before);
    leaks.assert_none();
}

/// It is stopped between root.5 and enter.4, with a caller that has gone and with one that waits.
fn a_guard_that_does_not_go_on_is_killed() {
    let daemon = Daemon::start();
    assert_well(&daemon);
    let (leaks, before) = (Leaks::snapshot(), daemon.fds());
    let places = Places { data_dir: Some(daemon.data_dir()), ..Places::of(&daemon) };
    for waits in [false, true] {
        let (began, caller) = (Instant::now(), caller(&daemon));
        ask(&caller, Request { timeout_ms: 500, ..places.request() });
        let Told::Entrance(guard) = hear(&caller) else { panic!("no entrance") };
        pidfd_send_signal(&guard, Signal::STOP).expect("root may");
        let rocker = list(daemon.socket(), SOON).expect("the master answers");
        assert_eq!(rocker.len(), 1, "{rocker:?}");
        let caller = Some(caller).filter(|_| waits);
        let deadline = now_ns() + u64::try_from(SOON.as_nanos()).expect("a few seconds");
        assert_eq!(protocol::socket::wait_readable(&guard, deadline), Ok(true), "it lives on");
        let took = began.elapsed();
        assert!(took > Duration::from_millis(1450) && took < Duration::from_secs(4), "{took:?}");
        assert!(caller.is_none_or(|caller| matches!(hear(&caller), Told::Lost(Loss::Died))));
        assert_flat(&daemon, before);
    }
    assert!(daemon.log().contains("its guard does not go on"), "{}", daemon.log());
    leaks.assert_none();
    assert_well(&daemon);
}

/// The steps of a launch with hundreds of host mounts are more than the kernel keeps for a
/// caller that does not read. Those are lost, and nothing else.
fn a_caller_that_reads_late_has_its_entrance_behind_a_long_trace() {
    with_own_mounts();
    let daemon = Daemon::start();
    let host = daemon.path("host");
    for number in 0..400 {
        let below = host.join(number.to_string());
        fs::create_dir_all(&below).expect("a scratch directory");
        mount_bind(&below, &below).expect("root may");
    }
    let places = Places { data_dir: Some(daemon.data_dir()), ..Places::of(&daemon) };
    let mut request = Request { trace: true, ..places.request() };
    let dir = protocol::Path::new(bytes(&host)).expect("a path");
    request.overlays = Overlays::Dirs([dir].into_iter().collect());
    let caller = caller(&daemon);
    ask(&caller, request);
    // It is late itself.
    std::thread::sleep(Duration::from_millis(1500));
    let told = hear(&caller);
    assert!(matches!(told, Told::Entrance(_)), "{told:?}");
    drop((caller, told));
    assert!(within(SOON, || daemon.records().is_empty()));
}

/// The guard watches what it is given; that ends with its owner at the latest.
fn an_app_that_is_no_process_of_the_rocker_keeps_nothing_for_ever() {
    let daemon = Daemon::start();
    assert_well(&daemon);
    let (leaks, before) = (Leaks::snapshot(), daemon.fds());
    let places = Places::of(&daemon);
    let enter_as = |app: &OwnedFd| {
        let caller = caller(&daemon);
        ask(&caller, places.request());
        let Told::Entrance(guard) = hear(&caller) else { panic!("no entrance") };
        let started = Message::Client(ClientMessage::AppStarted);
        send(&caller, &started, &[app.as_fd()], &mut Buffer::default()).expect("it is awaited");
        guard
    };
    let gone = |guard: &OwnedFd| {
        let deadline = now_ns() + u64::try_from(SOON.as_nanos()).expect("a few seconds");
        assert_eq!(protocol::socket::wait_readable(guard, deadline), Ok(true));
    };
    // A process of the host.
    let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn().expect("of every host");
    let guard = enter_as(&process::pidfd(cat.id()).expect("it runs"));
    assert_eq!(list(daemon.socket(), SOON).expect("the master answers").len(), 1);
    drop(cat.stdin.take());
    cat.wait().expect("it is ours");
    gone(&guard);
    // No process at all: a pipe that nobody writes to, a device, a file.
    let (silence, _end) = std::io::pipe().expect("descriptors are to be had");
    gone(&enter_as(&silence.into()));
    gone(&enter_as(&fs::File::open("/dev/null").expect("a device").into()));
    gone(&enter_as(&tempfile::tempfile().expect("a scratch file").into()));
    assert_flat(&daemon, before);
    leaks.assert_none();
}

fn three_hundred_callers_at_once_are_all_answered() {
    let daemon = Daemon::start();
    assert_well(&daemon);
    let before = daemon.fds();
    let callers: Vec<OwnedFd> = (0..300).map(|_| caller(&daemon)).collect();
    assert_well(&daemon);
    for told in callers.iter().rev().map(hear) {
        let silent = Error::Lost { step: Step::RequestRocker, how: Loss::Silent };
        assert!(matches!(told, Told::Failed(error) if error == silent), "{told:?}");
    }
    drop(callers);
    assert_flat(&daemon, before);
    assert_well(&daemon);
}

/// Whom the policy names has 32 places, anybody else two, and root is never kept out.
fn one_user_cannot_take_every_place() {
    let daemon = Daemon::with_config("[[allow]]\nuid = 1000\npackages = []\nexec_dirs = []\n");
    assert_well(&daemon);
    let before = daemon.fds();
    for (uid, places) in [(1000, 32), (1001, 2)] {
        let socket = daemon.socket();
        let greedy = as_user(uid, uid, || {
            let callers: Vec<OwnedFd> = (0..200).filter_map(|_| call(&socket).ok()).collect();
            let refused = callers.iter().skip(places).filter(|caller| {
                let many = Error::Invalid { rule: Rule::TooManyRockers, item: Item::Request };
                matches!(hear(caller), Told::Failed(error) if error == many)
            });
            format!("{} of {}", refused.count(), callers.len())
        });
        assert_well(&daemon);
        assert_eq!(greedy.answer(), format!("{} of 200", 200 - places));
        assert_flat(&daemon, before);
    }
    assert_well(&daemon);
}

fn who_does_not_enter_keeps_no_guard_from_being_ready() {
    let daemon = Daemon::with_config("ready_guards = 1\n");
    let places = Places::of(&daemon);
    let slow = caller(&daemon);
    ask(&slow, Request { timeout_ms: 60_000, ..places.request() });
    let told = hear(&slow);
    assert!(matches!(told, Told::Entrance(_)), "{told:?}");
    let finds_one = || {
        let app = App::start(&daemon.launch(probe_package()).trace(true), &["say hello"]);
        let app = app.expect("root may");
        let finds_one = app.rocker.trace().iter().any(|step| step.command.ends_with(", ready"));
        app.finish();
        finds_one
    };
    assert!(within(SOON, finds_one));
}

/// Who has many names, as whoever has subordinate uids.
fn strangers_take_no_place_of_others() {
    let mut daemon = daemon_for_the_user();
    daemon.stop();
    let text = fs::read_to_string(daemon.path("master.toml")).expect("it is there");
    daemon.configure(&format!("max_launches = 20\n{text}"));
    daemon.restart();
    let strangers: Vec<OwnedFd> =
        (0..40).map(|number| daemon.connection_of(100_000 + number / 2)).collect();
    let caller = daemon.connection_of(APP_UID);
    ask(&caller, Request { gid: APP_GID, ..Places::of(&daemon).request() });
    let told = hear(&caller);
    assert!(matches!(told, Told::Entrance(_)), "{told:?}");
    let many = Error::Invalid { rule: Rule::TooManyRockers, item: Item::Request };
    let told = hear(&strangers[16]);
    assert!(matches!(told, Told::Failed(error) if error == many), "{told:?}");
}

/// Each user's refusals are told, or counted.
fn a_flood_of_refusals_does_not_fill_the_log() {
    const EACH: usize = 150;
    let daemon = Daemon::with_config("[[allow]]\nuid = 1000\npackages = []\nexec_dirs = []\n");
    let places = Places::of(&daemon);
    let began = Instant::now();
    // Who is not named is one with all others who are not, and nobody has another's share.
    for uid in [1000, 1001, 1002] {
        let socket = daemon.socket();
        let flood = as_user(uid, uid, || {
            let refused = (0..EACH).filter(|_| {
                let caller = call(&socket).expect("the master listens");
                ask(&caller, places.request());
                matches!(hear(&caller), Told::Failed(_))
            });
            refused.count().to_string()
        });
        assert_eq!(flood.answer(), EACH.to_string());
    }
    let seconds = usize::try_from(began.elapsed().as_secs()).expect("a few") + 2;
    let told = || daemon.log().matches("no rocker: ").count();
    let left_out = |whose: &str| -> usize {
        let log = daemon.log();
        let whose = format!(" more lines about launches of {whose} are left out");
        let counts = log.lines().filter_map(|line| line.strip_suffix(whose.as_str()));
        counts.map(|line| line.rsplit(' ').next().unwrap_or("").parse().unwrap_or(0)).sum()
    };
    let counted = || left_out("uid 1000") + left_out("users that the policy does not name");
    assert!(within(SOON, || told() + counted() == 3 * EACH), "{}", daemon.log());
    assert!(told() <= 2 * 10 * seconds, "{} in {seconds} s: {}", told(), daemon.log());
    assert!(left_out("uid 1000") > 0 && left_out("uid 1000") < EACH, "{}", daemon.log());
    assert_well(&daemon);
}

fn a_master_without_descriptors_sheds_callers_and_lives() {
    let daemon = Daemon::start();
    assert_well(&daemon);
    let before = daemon.fds();
    let own = getrlimit(Resource::Nofile);
    let limit = |descriptors: Option<usize>| {
        let current = descriptors.map_or(own.current, |few| u64::try_from(few).ok());
        let pid = Pid::from_raw(daemon.pid().cast_signed());
        prlimit(pid, Resource::Nofile, Rlimit { current, ..own }).expect("root may");
    };
    limit(Some(before + 8));
    let callers: Vec<OwnedFd> = (0..60).map(|_| caller(&daemon)).collect();
    let told: Vec<Told> = callers.iter().map(hear).collect();
    let shed = told.iter().filter(|told| matches!(told, Told::Lost(Loss::Died))).count();
    assert!(shed >= 50, "{shed} were shed: {told:?}");
    assert!(daemon.log().contains("no descriptors left"), "{}", daemon.log());
    drop(callers);
    assert_flat(&daemon, before);
    limit(None);
    assert_well(&daemon);
    // With no room for a launch's descriptors either, it says so, and lives.
    for room in 1..6 {
        limit(Some(before + room));
        let launch = daemon.overlaid(probe_package(), &["/usr"]);
        match App::start(&launch, &["say hello"]) {
            Ok(app) => assert!(app.finish().status.success()),
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        }
        assert_flat(&daemon, before);
    }
    limit(None);
    assert_well(&daemon);
}

fn a_thousand_launches_leave_the_master_as_it_was() {
    let daemon = Daemon::start();
    let overlaid = daemon.overlaid(probe_package(), &["/usr", "/etc"]);
    let bare = daemon.launch(probe_package());
    let launch = |number: u32| {
        let launch = if number.is_multiple_of(2) { &overlaid } else { &bare };
        let app = App::start(launch, &["say hello"]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(app.finish().one("say"), "hello");
    };
    (0..50).for_each(launch);
    assert!(daemon.is_well());
    let (leaks, fds, rss) =
        (Leaks::snapshot().watch_pid(daemon.pid()), daemon.fds(), daemon.rss_kib());
    (0..1000).for_each(launch);
    assert!(daemon.is_well());
    assert_flat(&daemon, fds);
    let now = daemon.rss_kib();
    println!("a thousand launches: {fds} descriptors, {rss} then {now} KiB resident");
    assert!(now <= rss + 64, "{rss} KiB were resident, now {now}");
    leaks.assert_none();
}

fn sixty_four_launches_at_once_all_succeed() {
    let daemon = Daemon::start();
    for number in 0..64 {
        fs::create_dir(daemon.path(&format!("data-{number}"))).expect("a scratch directory");
    }
    assert_well(&daemon);
    let (leaks, fds, rss) =
        (Leaks::snapshot().watch_pid(daemon.pid()), daemon.fds(), daemon.rss_kib());
    let package = probe_package();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let launches: Vec<_> = (0..64)
                .map(|number| {
                    let data_dir = daemon.path(&format!("data-{number}"));
                    let launch = daemon.overlaid(&package, &["/usr", "/etc"]).data_dir(data_dir);
                    let launch = launch.timeout(Duration::from_secs(30));
                    scope.spawn(move || {
                        App::start(&launch, &["wait", "say hello"])
                            .unwrap_or_else(|error| panic!("{error}"))
                    })
                })
                .collect();
            let join = |launch: std::thread::ScopedJoinHandle<'_, App>| launch.join().expect("one");
            let apps: Vec<App> = launches.into_iter().map(join).collect();
            assert_eq!(list(daemon.socket(), SOON).expect("the master answers").len(), 64);
            for app in apps {
                assert_eq!(app.finish().one("say"), "hello");
            }
        });
        assert_flat(&daemon, fds);
    }
    let now = daemon.rss_kib();
    println!("64 at once: {fds} descriptors, {rss} then {now} KiB resident");
    assert!(now <= rss + 512, "{rss} KiB were resident, now {now}");
    leaks.assert_none();
}

/// Starts one App that stays and one that ends while there is no master, ends the master, and
/// looks at both through the next one.
fn outlive(end: fn(&mut Daemon)) {
    let mut daemon = Daemon::start();
    let places = ["data-1", "data-2"].map(|name| daemon.path(name));
    let start = |data_dir: &PathBuf| {
        fs::create_dir(data_dir).expect("a scratch directory");
        let launch = daemon.overlaid(probe_package(), &["/usr"]).data_dir(data_dir);
        App::start(&launch, &["say here", "wait", "say there"]).unwrap_or_else(|e| panic!("{e}"))
    };
    let (mut stays, ends) = (start(&places[0]), start(&places[1]));
    assert_eq!(stays.line(), "say: here");
    let name = stays.rocker.guard_name().to_string();
    end(&mut daemon);
    assert!(
        process::is_alive(stays.rocker.app_pid()) && process::is_alive(stays.rocker.guard_pid())
    );
    assert_eq!(ends.finish().all("say"), ["here", "there"]);
    assert_eq!(daemon.records().len(), 2);
    daemon.restart();
    let living = list(daemon.socket(), SOON).expect("the master answers");
    assert_eq!(living.len(), 1, "{living:?}");
    assert_eq!(living[0].name.to_string(), name);
    assert_eq!(living[0].guard_pid, stays.rocker.guard_pid());
    assert_eq!(daemon.records(), core::slice::from_ref(&name));
    assert_well(&daemon);
    // Its data dir is locked still, and its name means it still.
    let again = daemon.overlaid(probe_package(), &["/usr"]).data_dir(&places[0]);
    let kind = tests::app::refused(&again).kind();
    assert_eq!(kind, Error::Invalid { rule: Rule::InUse, item: Item::DataDir });
    let reaper = std::thread::spawn(move || stays.rocker.wait().map(|status| status.to_string()));
    kill_by_name(daemon.socket(), &name, SOON).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(reaper.join().expect("it waits").expect("it is ours"), "signal: 9 (SIGKILL)");
    assert!(daemon.records().is_empty());
    assert!(list(daemon.socket(), SOON).expect("the master answers").is_empty());
    assert_eq!(tests::app::run(&again, &["say again"]).one("say"), "again");
}

fn apps_outlive_a_master_that_is_killed() {
    outlive(Daemon::kill);
}

fn apps_outlive_a_master_that_is_stopped() {
    outlive(Daemon::stop);
}

/// A pid means another process by now, or the file is no record: nobody is killed for that.
fn records_that_are_not_true_are_forgotten() {
    let mut daemon = Daemon::start();
    assert_well(&daemon);
    daemon.stop();
    let me = std::process::id();
    for (name, text) in [
        ("000000000000000", "1 7 1000 0 5 /apps/x.sqfs\n".to_owned()),
        ("000000000000001", format!("{me} 7 1000 0 5 /apps/x.sqfs\n")),
        ("000000000000002", "0 7 1000 0 5 /apps/x.sqfs\n".to_owned()),
        ("000000000000003", "4294967295 7 1000 0 5 /apps/x.sqfs\n".to_owned()),
        ("000000000000004", "no record at all".to_owned()),
        ("000000000000005", String::new()),
    ] {
        fs::write(daemon.path("run/rockers").join(name), text).expect("a scratch directory");
    }
    daemon.restart();
    assert!(daemon.records().is_empty(), "{:?}", daemon.records());
    assert!(list(daemon.socket(), SOON).expect("the master answers").is_empty());
    assert_well(&daemon);
}

/// Host mounts that only this test and its master see.
fn with_own_mounts() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root may");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).expect("root may");
}

fn a_host_without_loop_control_is_named() {
    with_own_mounts();
    mount_bind("/dev/null", "/dev/loop-control").expect("root may");
    let daemon = Daemon::start();
    let (leaks, before) = (Leaks::snapshot(), daemon.fds());
    let error = tests::app::refused(&daemon.launch(probe_package()));
    let Error::Failed { step: Step::CreateLoop, .. } = error.kind() else { panic!("{error}") };
    assert_flat(&daemon, before);
    leaks.assert_none();
    unmount("/dev/loop-control", UnmountFlags::DETACH).expect("it is ours");
    assert_well(&daemon);
}

/// As if somebody else were faster each time: every device that the kernel offers is one that
/// has a package already.
fn a_loop_device_that_is_always_taken_is_not_tried_for_ever() {
    with_own_mounts();
    let daemon = Daemon::start();
    let app = App::start(&daemon.launch(probe_package()), &["wait"]).expect("devices are free");
    let table = fs::read_to_string(format!("/proc/{}/mountinfo", app.rocker.guard_pid()));
    let table = table.expect("it lives");
    let taken = table.split(' ').find(|word| word.starts_with("/dev/loop")).expect("a package");
    let is_loop = |name: &String| {
        name.strip_prefix("loop").is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let others: Vec<String> = tests::scratch::names("/dev")
        .into_iter()
        .filter(is_loop)
        .map(|n| format!("/dev/{n}"))
        .collect();
    for other in others.iter().filter(|other| *other != taken) {
        mount_bind(taken, other).expect("root may");
    }
    // Another package: that of the living one is mounted.
    let package = Package::with_probe().file("other", 0o644, "").build();
    let (leaks, before, began) = (Leaks::snapshot(), daemon.fds(), Instant::now());
    let error = tests::app::refused(&daemon.launch(package));
    assert!(began.elapsed() < QUICK, "refused after {:?}", began.elapsed());
    let busy = Error::Failed { step: Step::BindPackage, errno: protocol::Errno::BUSY };
    assert_eq!(error.kind(), busy, "{error}");
    assert_flat_but(&daemon, before, 1);
    leaks.assert_none();
    for other in others.iter().filter(|other| *other != taken) {
        unmount(other, UnmountFlags::DETACH).expect("it is ours");
    }
    assert_well(&daemon);
    app.finish();
}

/// Starts a master that must not start, and returns the one line that it says.
#[track_caller]
fn no_start(config: &Path, socket: &Path) -> String {
    let mut program = Command::new(bin("rocker-master"));
    program.arg("--config").arg(config).arg("--socket").arg(socket);
    let mut master = program.stderr(Stdio::piped()).spawn().expect("rocker-master can be started");
    let ended = within(SOON, || !matches!(master.try_wait(), Ok(None)));
    let _ = master.kill();
    let status = master.wait().expect("it is ours");
    let mut text = String::new();
    let mut said = master.stderr.take().expect("it is piped");
    said.read_to_string(&mut text).expect("it is text");
    assert!(ended && !status.success(), "{status}: {text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

fn there_is_one_master_per_socket() {
    let daemon = Daemon::start();
    let said = no_start(&daemon.path("master.toml"), &daemon.socket());
    assert!(said.contains("another rocker-master serves it"), "{said}");
    assert!(said.contains(daemon.socket().to_str().expect("a plain path")), "{said}");
    assert_well(&daemon);
}

fn what_is_no_socket_stays_where_it_is() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("master.toml"), "").expect("a scratch directory");
    fs::write(at("notes.txt"), "dear").expect("a scratch directory");
    fs::create_dir(at("dir")).expect("a scratch directory");
    std::os::unix::fs::symlink(at("notes.txt"), at("link")).expect("a scratch directory");
    let before = tests::scratch::names(dir.path());
    for name in ["notes.txt", "dir", "link"] {
        let said = no_start(&at("master.toml"), &at(name));
        let wanted =
            format!("cannot listen on {}: it is there and is no socket", at(name).display());
        assert_eq!(said.trim_end(), format!("rocker-master: {wanted}"));
    }
    for name in ["rel.sock", ""] {
        let said = no_start(&at("master.toml"), Path::new(name));
        let wanted = format!("cannot listen on {name}: it must be an absolute path of a file");
        assert_eq!(said.trim_end(), format!("rocker-master: {wanted}"));
    }
    assert_eq!(fs::read_to_string(at("notes.txt")).expect("it is there"), "dear");
    assert_eq!(tests::scratch::names(dir.path()), before);
}

fn an_argument_without_its_value_is_refused() {
    for (last, wanted) in
        [("--socket", "--socket needs a PATH"), ("--config", "--config needs a FILE")]
    {
        let mut program = Command::new(bin("rocker-master"));
        // Of no use to a master that would start.
        program.env_clear().args(["--config", "/nonexistent", last]);
        let output = program.output().expect("it can be started");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said, format!("rocker-master: {wanted}; see --help\n"));
        assert_eq!(output.status.code(), Some(2));
    }
}

fn a_value_may_stand_behind_an_equals_sign() {
    let start = |arguments: [&str; 2]| {
        let mut program = Command::new(bin("rocker-master"));
        let output = program.env_clear().args(arguments).output().expect("it can be started");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = start(["--config=/dev/null", "--socket=here"]);
    assert!(said.contains("cannot listen on here: it must be an absolute path"), "{said}");
    let said = start(["--config=/nonexistent", "--socket=/here"]);
    assert!(said.contains("/nonexistent"), "{said}");
    let said = start(["--config", "--version=1"]);
    assert!(said.contains("--version=1"), "{said}");
}

fn the_log_says_who_asked_for_what() {
    let policy = "[[allow]]\nuid = 1000\npackages = [\"/apps\"]\nexec_dirs = [\"/opt\"]\n";
    let daemon = Daemon::with_config(policy);
    let ask_for = |uid, package: &str, exec_dir: &str| {
        let (package, exec_dir) = (package.into(), exec_dir.into());
        let places = Places { package, exec_dir, data_dir: None };
        let caller = as_user(uid, uid, || {
            let caller = call(&daemon.socket()).expect("the master listens");
            ask(&caller, Request { uid, gid: uid, ..places.request() });
            format!("{}", matches!(hear(&caller), Told::Failed(_)))
        });
        assert_eq!(caller.answer(), "true");
    };
    ask_for(1000, "/apps/a.sqfs", "/srv/\u{9b}31m");
    ask_for(1001, "/apps/b.sqfs", "/opt");
    ask_for(1000, "/apps/none.sqfs", "/opt");
    let refused = "the master's policy does not allow it to this caller";
    for wanted in [
        format!("uid 1000: /apps/a.sqfs: exec dir /srv/\\u{{9b}}31m: {refused}"),
        "uid 1001: /apps/b.sqfs: request: ".to_owned(),
        "uid 1000: /apps/none.sqfs: cannot make the rocker (root.2): open \
         /apps/none.sqfs: No such file or directory"
            .to_owned(),
    ] {
        let wanted = format!("rocker-master: no rocker: {wanted}");
        let is_told = || daemon.log().lines().any(|line| line.starts_with(&wanted));
        assert!(within(SOON, is_told), "{wanted}: {}", daemon.log());
    }
    assert!(!daemon.log().contains("os error"), "{}", daemon.log());
}

fn a_guard_that_cannot_be_used_is_named_at_the_start() {
    let dir = scratch();
    let write = |name: &str, mode, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("a scratch directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
        path
    };
    let (said, missing) = ("#!/bin/sh\necho", dir.path().join("missing"));
    let guards = [
        (missing, "No such file"),
        (dir.path().to_owned(), "denied"),
        (write("plain", 0o644, said), "denied"),
        (write("broken", 0o755, "no program"), "format"),
        (write("empty", 0o755, ""), "format"),
        (write("silent", 0o755, said), "needs \"rocker-guard"),
        (write("old", 0o755, &format!("{said} rocker-guard 0.0.1 wire 1")), "0.0.1 wire 1"),
        (write("wire", 0o755, &format!("{said} rocker-guard 0.1.0 wire 9")), "wire 9"),
    ];
    for (guard, wanted) in guards {
        let config = write("master.toml", 0o644, &format!("guard = {:?}", guard.display()));
        // A directory for each, or else the first would have been made for the next.
        let said = no_start(&config, &dir.path().join("run/master.sock"));
        assert!(said.contains(wanted), "{}: {said}", guard.display());
        assert!(said.contains(guard.to_str().expect("a plain path")), "{said}");
    }
    // A program without the guard beside it.
    let alone = dir.path().join("rocker-master");
    fs::copy(bin("rocker-master"), &alone).expect("a scratch directory");
    let config = write("master.toml", 0o644, "");
    let mut program = Command::new(alone);
    program.arg("--config").arg(config).arg("--socket").arg(dir.path().join("run/master.sock"));
    let output = program.output().expect("it can be started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.lines().count() == 1, "{said}");
    assert!(said.contains("neither beside rocker-master nor in"), "{said}");
}

fn a_configuration_with_an_unknown_key_is_refused() {
    let dir = scratch();
    let config = dir.path().join("master.toml");
    for (text, wanted) in [
        ("max_rocker = 3", "line 1: unknown field `max_rocker`, "),
        (
            "[[allow]]\nuid = 1000\npackages = []\nexec_dirs = []\npakages = []",
            "line 5: unknown field `pakages`",
        ),
        ("\n[[allow]]\nuid = 1000", "line 2: missing field `packages`"),
        (
            "max_rockers = \"many\"",
            "line 1: max_rockers: it must be a whole number, 0 or more, not \"many\"",
        ),
        ("[[allow]]\nuid = 1000\npackages = [\"apps\"]\nexec_dirs = []", "apps"),
        ("max_rockers = 3\nthis is no toml", "line 2: "),
        (
            "[[allow]]\nuid = 7\npackages = []\nexec_dirs = []\n\
             [[allow]]\nuid = 7\npackages = [\"/apps\"]\nexec_dirs = []",
            "uid 7 has two [[allow]]",
        ),
    ] {
        fs::write(&config, text).expect("a scratch directory");
        let mut program = Command::new(bin("rocker-master"));
        program.arg("--config").arg(&config).arg("--socket").arg(dir.path().join("run/m.sock"));
        let output = program.output().expect("it can be started");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{text} was taken");
        let begin = format!("rocker-master: cannot read {}: ", config.display());
        let why = said.strip_prefix(&begin).unwrap_or_default();
        assert!(why.contains(wanted) && why.lines().count() == 1, "{text}: {said}");
    }
    let missing = dir.path().join("missing.toml");
    let said = no_start(&missing, &dir.path().join("run/m.sock"));
    let wanted = format!("cannot read {}: No such file or directory\n", missing.display());
    assert_eq!(said, format!("rocker-master: {wanted}"));
}

fn a_configuration_that_others_can_write_is_refused() {
    let dir = scratch();
    let config = dir.path().join("master.toml");
    fs::write(&config, "").expect("a scratch directory");
    let said = |uid: u32, gid: u32, mode: u32| {
        std::os::unix::fs::chown(&config, Some(uid), Some(gid)).expect("root may");
        fs::set_permissions(&config, fs::Permissions::from_mode(mode)).expect("root may");
        no_start(&config, &config.join("m.sock"))
    };
    let wanted = format!(
        "rocker-master: cannot read {}: others than root can write to it: chown root, chmod go-w\n",
        config.display()
    );
    for (uid, gid, mode) in [(0, 0, 0o602), (0, 1000, 0o620), (1000, 0, 0o600)] {
        assert_eq!(said(uid, gid, mode), wanted, "{uid} {gid} {mode:o}");
    }
    for (gid, mode) in [(0, 0o664), (1000, 0o644)] {
        assert!(!said(0, gid, mode).contains("write to it"), "{gid} {mode:o}");
    }
}

/// A process of another user that answers with one line.
struct Other {
    process: nix::unistd::Pid,
    said: std::io::PipeReader,
}

/// Runs `task` as this user, without any group or right of root's.
fn as_user(uid: u32, gid: u32, task: impl FnOnce() -> String) -> Other {
    use std::io::Write;
    let (said, mut say) = std::io::pipe().expect("descriptors are to be had");
    // SAFETY: the runner gives each test a process of its own, and this one has one thread.
    match unsafe { fork() }.expect("one more process") {
        ForkResult::Parent { child } => Other { process: child, said },
        ForkResult::Child => {
            drop(said);
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            setgroups(&[]).expect("root may");
            setresgid(gid, gid, gid).expect("root may");
            setresuid(uid, uid, uid).expect("root may");
            let text = task();
            let _ = say.write_all(text.as_bytes());
            drop(say);
            // SAFETY: it ends this process, and nothing of its parent's runs in it.
            unsafe { libc::_exit(0) }
        }
    }
}

impl Other {
    fn answer(mut self) -> String {
        let mut text = String::new();
        self.said.read_to_string(&mut text).expect("it is text");
        nix::sys::wait::waitpid(self.process, None).expect("it is ours");
        text
    }
}

/// What the master tells this user about this request.
fn verdict(daemon: &Daemon, uid: u32, gid: u32, request: Request<'_>) -> String {
    let socket = daemon.socket();
    let other = as_user(uid, gid, || {
        let caller = match call(&socket) {
            Ok(caller) => caller,
            Err(error) => return format!("not connected: {error}"),
        };
        ask(&caller, request);
        match hear(&caller) {
            Told::Entrance(_) => "welcome".to_owned(),
            Told::Failed(Error::Invalid { rule, item }) => format!("{rule:?} {item:?}"),
            Told::Failed(error) => error.to_string(),
            Told::Gone => "gone".to_owned(),
            Told::Lost(how) => format!("{how:?}"),
        }
    });
    other.answer()
}

fn others_than_root_may_do_nothing_by_default() {
    let daemon = Daemon::start();
    let places = Places::of(&daemon);
    let told = verdict(&daemon, 1000, 1000, places.request());
    assert!(told.starts_with("not connected: Permission denied"), "{told}");
    assert_well(&daemon);
}

fn whom_the_policy_does_not_name_may_do_nothing() {
    let daemon = Daemon::with_config("[[allow]]\nuid = 1001\npackages = []\nexec_dirs = []\n");
    let places = Places::of(&daemon);
    assert_eq!(verdict(&daemon, 1000, 1000, places.request()), "NotListed Request");
    let own = Request { uid: 1000, gid: 1000, ..places.request() };
    assert_eq!(verdict(&daemon, 1000, 1000, own), "NotListed Request");
    // Nor does it learn of others' rockers, or end them.
    let app = App::start(&daemon.launch(probe_package()), &["wait"]).expect("root may");
    let (socket, name) = (daemon.socket(), app.rocker.guard_name().to_string());
    let asked = as_user(1000, 1000, || {
        let living = list(&socket, SOON).map(|living| living.len());
        let killed = kill_by_name(&socket, &name, SOON).map_err(|error| error.kind());
        format!("{living:?} {killed:?}")
    });
    assert_eq!(asked.answer(), "Ok(0) Err(Invalid { rule: NoSuchRocker, item: Name })");
    assert!(process::is_alive(app.rocker.guard_pid()));
    app.finish();
}

/// Root's own way into them is one for any process of the host's.
fn nobody_but_root_gets_the_way_into_control_groups() {
    tests::cgroup::needs("pids");
    let mut daemon = Daemon::start();
    daemon.stop();
    let places = Places::of(&daemon);
    let apps = probe_package();
    let apps = apps.parent().expect("a directory");
    let allow = |uid: u32, more: &str| {
        let exec_dirs = daemon.exec_dir();
        format!(
            "[[allow]]\nuid = {uid}\npackages = [{apps:?}]\nexec_dirs = [{exec_dirs:?}]\n\
             run_as_gids = [{uid}]\n{more}"
        )
    };
    daemon.configure(&(allow(1000, "") + &allow(1001, "max_pids = 9\n")));
    daemon.restart();
    let descriptors = |uid: u32, pids: Option<u32>, commanded: bool| {
        let limits = protocol::Limits { pids, ..protocol::Limits::default() };
        let options = protocol::Options { limits, commanded, ..protocol::Options::default() };
        let id = if uid == 0 { APP_UID } else { uid };
        let caller = daemon.connection_of(uid);
        ask(&caller, Request { uid: id, gid: id, options, ..places.request() });
        let deadline = now_ns() + u64::try_from(SOON.as_nanos()).expect("a few seconds");
        match receive_before(&caller, &mut Buffer::default(), deadline).expect("a socket") {
            Received::Message(Message::Guard(GuardMessage::Entrance { .. }), with) => {
                Ok(with.len())
            }
            Received::Message(Message::Master(MasterMessage::Failed(failure)), _) => {
                Err(failure.error)
            }
            other => panic!("{other:?}"),
        }
    };
    let refused = Err(Error::Invalid { rule: Rule::NotCommanded, item: Item::Pids });
    assert_eq!(descriptors(1000, None, false), Ok(1));
    assert_eq!(descriptors(1000, Some(5), false), refused);
    assert_eq!(descriptors(1001, None, false), refused);
    for (uid, pids) in [(1000, Some(5)), (1001, None), (0, Some(5))] {
        assert_eq!(descriptors(uid, pids, true), Ok(1), "{uid}");
    }
    assert!(descriptors(0, Some(5), false).is_ok_and(|count| count > 1));
}

fn the_policy_says_what_a_user_may_do() {
    let mut daemon = Daemon::start();
    let top = daemon.dir().to_owned();
    let at = |name: &str| top.join(name).to_str().expect("a plain path").to_owned();
    for dir in ["apps", "places", "layers", "secret"] {
        fs::create_dir(at(dir)).expect("a scratch directory");
    }
    tests::scratch::directory(at("layers/mine"), 0o755, 1000);
    tests::scratch::directory(at("layers/theirs"), 0o777, 1001);
    fs::create_dir(at("places/x")).expect("a scratch directory");
    for dir in ["apps", "secret"] {
        fs::copy(probe_package(), at(&format!("{dir}/app.sqfs"))).expect("a scratch directory");
    }
    symlink(at("secret/app.sqfs"), at("apps/link.sqfs")).expect("a scratch directory");
    symlink(at("secret"), at("apps/linked")).expect("a scratch directory");
    symlink(at("secret"), at("layers/linked")).expect("a scratch directory");
    fs::set_permissions(at("secret"), fs::Permissions::from_mode(0o700)).expect("it is ours");
    daemon.stop();
    daemon.configure(&format!(
        "[[allow]]\nuid = 1000\npackages = [{:?}]\nexec_dirs = [{:?}]\ndata_dirs = [{:?}]\n\
         run_as_uids = [1000, 1001]\n",
        at("apps"),
        at("places"),
        at("layers"),
    ));
    let places = |package: &str, exec_dir: &str, data_dir: Option<&str>| Places {
        package: at(package).into(),
        exec_dir: at(exec_dir).into(),
        data_dir: data_dir.map(|dir| at(dir).into()),
    };
    daemon.restart();
    let right = ("apps/app.sqfs", "places/x", Some("layers/mine"));
    let cases = [
        (right, 1000, 1000, "welcome"),
        (right, 1001, 1000, "welcome"),
        (("apps/app.sqfs", "places/x", None), 1000, 1000, "welcome"),
        (right, 1002, 1000, "NotAllowed Uid"),
        (right, 0, 1000, "Root Uid"),
        (right, 1000, 1001, "NotAllowed Gid"),
        (right, 1000, 0, "Root Gid"),
        (("secret/app.sqfs", right.1, None), 1000, 1000, "NotAllowed Package"),
        (("appsx/app.sqfs", right.1, None), 1000, 1000, "NotAllowed Package"),
        (("apps/link.sqfs", right.1, None), 1000, 1000, "errno 40"),
        (("apps/linked/app.sqfs", right.1, None), 1000, 1000, "errno 40"),
        (("apps/missing", right.1, None), 1000, 1000, "errno 2"),
        (("apps", right.1, None), 1000, 1000, "WrongType Package"),
        ((right.0, "exec", None), 1000, 1000, "NotAllowed ExecDir"),
        ((right.0, "placesx", None), 1000, 1000, "NotAllowed ExecDir"),
        ((right.0, right.1, Some("data")), 1000, 1000, "NotAllowed DataDir"),
        ((right.0, right.1, Some("layers/linked")), 1000, 1000, "errno"),
        ((right.0, right.1, Some("layers/theirs")), 1000, 1000, "NotTheCallers DataDir"),
        ((right.0, right.1, Some("layers/mine/.rocker")), 1000, 1000, "Forbidden DataDir"),
    ];
    let mut problems = vec![];
    for ((package, exec_dir, data_dir), uid, gid, wanted) in cases {
        let places = places(package, exec_dir, data_dir);
        let told = verdict(&daemon, 1000, 1000, Request { uid, gid, ..places.request() });
        if !told.contains(wanted) {
            let asked = format!("{package} {exec_dir} {data_dir:?} as {uid}:{gid}");
            problems.push(format!("{asked}: {told}, not {wanted}"));
        }
        assert!(within(SOON, || daemon.records().is_empty()), "{:?}", daemon.records());
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

fn the_policy_says_how_many_rockers_a_user_may_have() {
    let mut daemon = Daemon::start();
    let places = Places::of(&daemon);
    let packages = places.package.parent().expect("it lies in a directory").to_owned();
    daemon.stop();
    daemon.configure(&format!(
        "[[allow]]\nuid = 1000\npackages = [{packages:?}]\nexec_dirs = [{:?}]\nmax_rockers = 1\n",
        daemon.exec_dir(),
    ));
    daemon.restart();
    let request = || Request { uid: 1000, gid: 1000, ..places.request() };
    assert_eq!(verdict(&daemon, 1000, 1000, request()), "welcome");
    assert_eq!(verdict(&daemon, 1002, 1000, request()), "NotListed Request");
    assert!(within(SOON, || daemon.records().is_empty()), "{:?}", daemon.records());
    let socket = daemon.socket();
    let second = as_user(1000, 1000, || {
        let [first, second] = [0, 1].map(|_| call(&socket).expect("the master listens"));
        ask(&first, request());
        let Told::Entrance(_guard) = hear(&first) else { return "no entrance".to_owned() };
        ask(&second, request());
        format!("{:?}", hear(&second))
    });
    assert!(second.answer().contains("TooManyRockers"));
}

/// A daemon that lets the App's user run the usual package.
fn daemon_for_the_user() -> Daemon {
    daemon_for_the_user_with("")
}

fn daemon_for_the_user_with(more: &str) -> Daemon {
    let package = probe_package();
    let packages = package.parent().expect("it lies in a directory");
    let mut daemon = Daemon::start();
    daemon.stop();
    daemon.configure(&format!(
        "{more}[[allow]]\nuid = {APP_UID}\nrun_as_gids = [{APP_GID}]\npackages = [{packages:?}]\n\
         exec_dirs = [{:?}]\n",
        daemon.exec_dir(),
    ));
    daemon.restart();
    daemon
}

/// To close them could take whoever has the connection as long as their sender likes: that is never
/// a master.
fn only_a_guard_is_sent_descriptors() {
    let daemon = daemon_for_the_user_with("ready_guards = 1\n");
    let file = OwnedFd::from(fs::File::open("/dev/null").expect("it is there"));
    if say_raw(&caller(&daemon), &[0], &file, 1) {
        drop(daemon);
        runner::skip("this kernel (before 6.16) cannot refuse descriptors");
    }
    let signal = |pid: u32, signal| {
        let pid = Pid::from_raw(pid.cast_signed()).expect("it is one");
        kill_process(pid, signal).expect("it lives");
    };
    // It waits for a launch, and its connection has come to it by now.
    let ready = || process::descendants(daemon.pid()).first().map(|(guard, _)| *guard);
    assert!(within(SOON, || ready().is_some()), "no guard is ready");
    let guard = ready().expect("it waits");
    signal(guard, Signal::STOP);
    let launching = daemon.connection_of(APP_UID);
    ask(&launching, Request { uid: APP_UID, gid: APP_GID, ..Places::of(&daemon).request() });
    assert!(!is_told_soon(&launching), "another guard has it");
    assert!(!is_sent(&launching, &file), "nobody says that there is an entrance");
    signal(guard, Signal::CONT);
    assert!(matches!(hear(&launching), Told::Entrance(_)));
    assert!(is_sent(&launching, &file), "the guard has it alone");

    let launch = daemon.launch(probe_package());
    let opened = tests::replayed(launch.open_over(daemon.connection_of(APP_UID)));
    let mut rocker = opened.expect("it may");
    rocker.delete("/nowhere").expect_err("it takes orders");
    // Its owner may do so, too.
    signal(rocker.guard_pid(), Signal::STOP);
    let attach = Message::Client(ClientMessage::Attach(rocker.guard_name()));
    let mut left = 100;
    let attached: Vec<OwnedFd> = (0..2_000)
        .map(|_| daemon.connection_of(APP_UID))
        .take_while(|caller| {
            send(caller, &attach, &[], &mut Buffer::default()).expect("there is room");
            // Who is told something has not been passed on: there is no room in the guard's queue.
            left -= i32::from(is_told_soon(caller));
            assert!(!is_sent(caller, &file), "nobody says that there is an entrance");
            left > 0
        })
        .collect();
    assert_eq!(left, 0, "{} wait", attached.len());
    signal(rocker.guard_pid(), Signal::CONT);
    assert!(matches!(hear(&attached[0]), Told::Entrance(_)));
    assert!(is_sent(&attached[0], &file), "the guard has it alone");
    drop(attached);
    assert!(rocker.kill(SOON).expect("it is there"));
}

fn is_told_soon(caller: &OwnedFd) -> bool {
    let mut waits = [PollFd::new(caller, PollFlags::IN)];
    let soon = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    poll(&mut waits, Some(&soon)) == Ok(1)
}

fn is_sent(caller: &OwnedFd, file: &OwnedFd) -> bool {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    sendmsg(caller, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL).is_ok()
}

/// A process with this number, which nobody has.
fn forked_as(pid: nix::unistd::Pid) -> Option<nix::unistd::Pid> {
    fs::write("/proc/sys/kernel/ns_last_pid", (pid.as_raw() - 1).to_string()).ok()?;
    // SAFETY: the runner gives each test a process of its own, and this one has one thread.
    match unsafe { fork() }.expect("one more process") {
        ForkResult::Parent { child } if child == pid => Some(child),
        ForkResult::Parent { child } => {
            end(child);
            None
        }
        ForkResult::Child => loop {
            nix::unistd::pause();
        },
    }
}

fn end(child: nix::unistd::Pid) {
    nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).expect("it is ours");
    nix::sys::wait::waitpid(child, None).expect("it is ours");
}

/// A caller in another user namespace that has died is not whoever has its number.
fn a_pid_that_is_anothers_by_now_is_nobodys() {
    let (mine, _yours) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
    if getsockopt(&mine, sockopt::PeerPidfd).is_err() {
        runner::skip("this kernel (before 6.5) does not tell which process calls");
    }
    let daemon = daemon_for_the_user();
    let places = Places::of(&daemon);
    let address = SocketAddrUnix::new(daemon.socket()).expect("its path is short");
    for _ in 0..100 {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let caller = socket_with(family, kind, SocketFlags::CLOEXEC, None).expect("a descriptor");
        let foreign = as_user(APP_UID, APP_GID, || {
            let made = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER);
            format!("{made:?} {:?}", connect(&caller, &address))
        });
        let pid = foreign.process;
        let said = foreign.answer();
        if said != "Ok(()) Ok(())" {
            drop(daemon);
            runner::skip(&format!("no caller in a user namespace: {said}"));
        }
        // Others may be quicker.
        let Some(innocent) = forked_as(pid) else { continue };
        ask(&caller, Request { gid: APP_GID, ..places.request() });
        let told = hear(&caller);
        end(innocent);
        let (step, errno) = (Step::RequestRocker, Errno::SRCH);
        let is_refused =
            matches!(told, Told::Failed(error) if error == Error::Failed { step, errno });
        assert!(is_refused, "{told:?}");
        let why = "(root.1): the process that connected has ended: No such process";
        // Its caller is told first.
        assert!(within(SOON, || daemon.log().contains(why)), "{}", daemon.log());
        return;
    }
    drop(daemon);
    runner::skip("a number cannot be had again here");
}

/// A rocker whose App nobody reaps does not end, and whoever asks for its end waits.
fn who_waits_for_an_end_takes_no_place_of_others() {
    const MOST: usize = 16;
    let daemon = daemon_for_the_user();
    assert_well(&daemon);
    // A rocker takes one, for its package's mount.
    let before = daemon.fds() + 1;
    let launch = daemon.launch(probe_package());
    let program = rocker_client::Program::new("bin/probe").arg("sleep 100000");
    let rocker = launch.spawn_over(daemon.connection_of(APP_UID), &program);
    let mut rocker = tests::replayed(rocker).expect("the policy lets it");
    let name = rocker.guard_name();
    let wait = |uid| {
        let caller = daemon.connection_of(uid);
        let message = Message::Client(ClientMessage::Kill(name));
        send(&caller, &message, &[], &mut Buffer::default()).expect("there is room");
        caller
    };
    let mut waiting: Vec<OwnedFd> = (0..MOST).map(|_| wait(APP_UID)).collect();
    let holds = |count| within(SOON, || daemon.fds() == before + count);
    assert!(holds(MOST), "{before} descriptors, now {}", daemon.fds());
    let is_full = || {
        let told = hear(&wait(APP_UID));
        matches!(told, Told::Failed(Error::Invalid { rule: Rule::TooManyRockers, .. }))
    };
    for _ in 0..100 {
        assert!(is_full());
    }
    assert!(holds(MOST), "{before} descriptors, now {}", daemon.fds());
    assert!(process::is_alive(rocker.guard_pid()), "the App is not reaped");
    // Who hangs up makes room, and root is not counted.
    waiting.truncate(MOST - 4);
    for count in MOST - 3..=MOST {
        waiting.push(wait(APP_UID));
        // Those who hung up are let go of when the first of these asks.
        assert!(holds(count), "{before} descriptors, now {}, not {count} more", daemon.fds());
    }
    assert!(is_full());
    waiting.push(wait(0));
    assert!(holds(MOST + 1));
    assert_eq!(daemon.probe(&["say hello"]).one("say"), "hello");
    rocker.wait().expect("the App is our child");
    for caller in &waiting {
        assert!(matches!(hear(caller), Told::Gone));
    }
    assert!(rocker.wait_gone(Some(SOON)).expect("the guard has a pidfd"));
}

/// What a rocker leaves is seen to later than its caller hears of its end, but before anybody else
/// is.
fn who_has_seen_an_end_finds_nothing_of_it() {
    // On one processor the master has had no time for that when the next one comes.
    let all = sched_getaffinity(None).expect("of its own it may know");
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|&cpu| all.is_set(cpu)).expect("there is one"));
    sched_setaffinity(None, &one).expect("it may have less");
    let daemon = Daemon::with_config("max_rockers = 1\n");
    let launch = daemon.launch(probe_package());
    let program = rocker_client::Program::new("bin/probe");
    for round in 0..200 {
        let rocker = tests::replayed(launch.spawn(&program));
        let mut rocker = rocker.unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(rocker.wait().expect("the App is our child").success());
        assert!(rocker.wait_gone(Some(SOON)).expect("the guard has a pidfd"));
        if round % 2 == 0 {
            let living = list(daemon.socket(), SOON).expect("root may");
            assert!(living.is_empty(), "round {round}: {living:?}");
        }
    }
}

fn a_cleaner_that_deletes_the_masters_directory_ends_no_rocker() {
    let mut daemon = Daemon::start();
    let launch = daemon.launch(probe_package());
    let mut app = App::start(&launch, &["say here", "wait", "say still"]).expect("root may");
    assert_eq!(app.line(), "say: here");
    let run = daemon.path("run");
    let is_over = core::sync::atomic::AtomicBool::new(false);
    let relaxed = core::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(relaxed) {
                let _ = fs::remove_dir_all(run.join("rockers"));
                let _ = fs::create_dir(run.join("rockers"));
            }
        });
        for _ in 0..20 {
            match App::start(&launch, &["say hello"]) {
                Ok(app) => assert_eq!(app.finish().one("say"), "hello"),
                Err(error) => {
                    let line = error.to_string();
                    assert!(line.contains("(prepare.9)") && !line.contains('\n'), "{line}");
                }
            }
        }
        is_over.store(true, relaxed);
    });
    fs::remove_dir_all(&run).expect("the master makes no more files there");
    let error = tests::app::refused(&launch).to_string();
    assert!(error.contains("(root.1)") && error.contains("No such file"), "{error}");
    assert!(process::is_alive(app.rocker.guard_pid()));
    assert_eq!(app.finish().one("say"), "still");
    daemon.stop();
    daemon.restart();
    assert_well(&daemon);
}
