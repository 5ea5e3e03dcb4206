//! The C client is the Rust client in another language: whatever comes of what they do, both walk
//! the same states and end with the same pids or the same error; of any request both say the
//! same broken rule, or send the same bytes; any bytes mean the same to both.

#![allow(clippy::unwrap_used, reason = "a test's own mistakes may panic")]

use core::ffi::CStr;
use core::panic::AssertUnwindSafe;
use core::time::Duration;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::panic::catch_unwind;

use proptest::array;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use protocol::conf::{Conf, Place, Places, Root, append};
use protocol::limits::{
    CGROUPS_MAX, CPUS_MAX, DESCRIPTORS_MAX, MESSAGE_MAX, OVERLAY_DIRS_MAX, PATH_MAX, TIMEOUT_MS_MAX,
};
use protocol::message::{ClientMessage, Failure, GuardMessage, MasterMessage, Message};
use protocol::request::FILTER_MAX;
use protocol::seccomp::INSTRUCTION;
use protocol::socket::{Buffer, send};
use protocol::{
    Dev, Errno, Error, Exec, Exit, ExitReport, FilePath, How, Ids, Item, Loss, Machine, Name,
    Overlays, Request, Rlimit, Rule, Seccomp, Step, Strings, Usage, Verdict, wire,
};
use rocker_client::action::{HelperOutcome, Outcome};
use rocker_client::helper::Helper;
use rocker_client::machine::{Client, Started};
use rocker_client::{EXEC_DIR, Launch, Limits, Program};
use sim::c_client::{
    Answer, Asked, CClient, CHelper, COrders, Event, Heard, Meaning, Told, Wanted, c_strings,
    decode, decode_answer, decode_told, encode_adopt, encode_app_started, encode_attach,
    encode_conf, encode_delete, encode_go, encode_kill, encode_list, encode_open, encode_ping,
    encode_reset, encode_signal, encode_symlink, path_length,
};

// --- The machines. ---

/// Whether a machine takes it: in Rust a bug is a panic, after which the machine is as before.
fn takes<M: Machine>(machine: &mut M, outcome: M::Outcome) -> bool {
    catch_unwind(AssertUnwindSafe(|| machine.advance(outcome))).is_ok()
}

fn clients_agree(outcomes: &[Outcome]) -> Result<(), TestCaseError> {
    walk_the_same((Client::new(), CClient::new()), outcomes)?;
    walk_the_same((Client::to_take_orders(), CClient::to_take_orders()), outcomes)
}

fn walk_the_same(
    (mut rust, mut c): (Client, CClient),
    outcomes: &[Outcome],
) -> Result<(), TestCaseError> {
    for &outcome in outcomes {
        prop_assert_eq!(rust.step(), c.step());
        prop_assert_eq!(takes(&mut rust, outcome), c.try_advance(outcome), "{:?}", outcome);
        prop_assert_eq!(rust.state(), c.state());
        prop_assert_eq!(rust.result(), c.result());
        if rust.step().is_some() {
            prop_assert_eq!(rust.action(), c.action());
        }
    }
    prop_assert_eq!(rust.step(), c.step());
    Ok(())
}

/// What a helper in Rust cannot even be told, it does not take.
fn helpers_agree(outcomes: &[Outcome]) -> Result<(), TestCaseError> {
    let (mut rust, mut c) = (Helper::new(), CHelper::new());
    for &outcome in outcomes {
        let for_helper = match outcome {
            Outcome::Done => Some(HelperOutcome::Done),
            Outcome::App { pid } => Some(HelperOutcome::App { pid }),
            Outcome::Failed(errno) => Some(HelperOutcome::Failed(errno)),
            Outcome::Entrance { .. } | Outcome::Lost(_) | Outcome::Refused(_) => None,
        };
        prop_assert_eq!(rust.step(), c.step());
        let taken = for_helper.is_some_and(|outcome| takes(&mut rust, outcome));
        prop_assert_eq!(taken, c.try_advance(outcome), "{:?}", outcome);
        prop_assert_eq!(rust.state(), c.state());
        prop_assert_eq!(rust.result(), c.result());
        if rust.step().is_some() {
            prop_assert_eq!(rust.action(), c.action());
        }
    }
    prop_assert_eq!(rust.step(), c.step());
    Ok(())
}

fn any_loss() -> impl Strategy<Value = Loss> {
    select(vec![Loss::Died, Loss::Silent, Loss::Garbage, Loss::Version])
}

fn any_error() -> impl Strategy<Value = Error> {
    let rules = [Rule::Empty, Rule::InUse, Rule::TooLong, Rule::NoSuchRocker];
    let item = prop_oneof![
        any::<u8>().prop_map(Item::OverlayDir),
        any::<u8>().prop_map(Item::Device),
        select(vec![Item::Request, Item::Package, Item::Name, Item::Program, Item::File]),
    ];
    let step = || select(Step::ALL.to_vec());
    prop_oneof![
        (select(rules.to_vec()), item).prop_map(|(rule, item)| Error::Invalid { rule, item }),
        (step(), any::<u16>()).prop_map(|(step, it)| Error::Failed { step, errno: Errno(it) }),
        (step(), any_loss()).prop_map(|(step, how)| Error::Lost { step, how }),
    ]
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        8 => Just(Outcome::Done),
        2 => any::<(u64, u32)>().prop_map(|(bits, guard_pid)| Outcome::Entrance {
            name: Name::from_random(bits),
            guard_pid
        }),
        2 => any::<u32>().prop_map(|pid| Outcome::App { pid }),
        1 => any::<u16>().prop_map(|errno| Outcome::Failed(Errno(errno))),
        1 => any_loss().prop_map(Outcome::Lost),
        1 => any_error().prop_map(Outcome::Refused),
    ]
}

/// One outcome of each kind.
fn kinds() -> [Outcome; 6] {
    let error = Error::Invalid { rule: Rule::InUse, item: Item::DataDir };
    [
        Outcome::Done,
        Outcome::Entrance { name: Name::from_random(0x5eed), guard_pid: 70 },
        Outcome::App { pid: 71 },
        Outcome::Failed(Errno::NOMEM),
        Outcome::Lost(Loss::Silent),
        Outcome::Refused(error),
    ]
}

/// Every outcome in every state, and every other one after it.
#[test]
fn c_and_rust_machines_have_the_same_arms() {
    let [done, entrance, app, ..] = kinds();
    for (way, agree) in [
        (vec![done, done, entrance, done, app, done], clients_agree as fn(&[Outcome]) -> _),
        (vec![done, done, entrance, done], clients_agree),
        (vec![done, done, done, done, done, app], helpers_agree),
    ] {
        for so_far in 0..=way.len() {
            for first in kinds() {
                for second in kinds() {
                    agree(&[&way[..so_far], &[first, second]].concat()).unwrap();
                }
            }
        }
    }
}

/// The Rust library asks without a machine (`query.rs`).
#[test]
fn c_attaches_in_three_steps() {
    let [done, entrance, app, ..] = kinds();
    let way = [done, done, entrance];
    let steps = [Step::RequestRocker, Step::HandOver, Step::HandOver];
    for so_far in 0..way.len() {
        for outcome in kinds() {
            let mut c = CClient::to_attach();
            way[..so_far].iter().for_each(|&it| assert!(c.try_advance(it)));
            let step = steps[so_far];
            assert_eq!((c.step(), c.result()), (Some(step), None));
            let taken = c.try_advance(outcome);
            let ended = match outcome {
                Outcome::Failed(errno) => Some(Err(Error::Failed { step, errno })),
                Outcome::Lost(how) => Some(Err(Error::Lost { step, how })),
                Outcome::Refused(error) => Some(Err(error)),
                Outcome::Entrance { name, guard_pid } if so_far == 2 => {
                    Some(Ok(Started { name, guard_pid, app_pid: 0 }))
                }
                _ => None,
            };
            assert_eq!(c.result(), ended, "{outcome:?} after {so_far}");
            assert_eq!(taken, ended.is_some() || (outcome == done && so_far < 2));
            assert!(outcome != app || !taken);
            assert!(ended.is_none() || (c.step().is_none() && !c.try_advance(done)));
        }
    }
    // Nobody was greeted.
    let mut orders = COrders::after_pings(0);
    assert_eq!(orders.hear(&said(GuardMessage::Pong)), Meaning::Denied);
}

/// As `query.rs` words it: connecting is root.1 for all.
#[test]
fn c_asks_in_three_steps() {
    let [done, ..] = kinds();
    for (kill, step) in [(true, Step::KillGuard), (false, Step::RequestRocker)] {
        for (so_far, step) in [Step::RequestRocker, step, step].into_iter().enumerate() {
            for outcome in kinds() {
                let mut c = CClient::to_ask(kill);
                (0..so_far).for_each(|_| assert!(c.try_advance(done)));
                assert_eq!(c.step(), Some(step));
                let taken = c.try_advance(outcome);
                let is_end = match outcome {
                    Outcome::Done => so_far == 2,
                    Outcome::Entrance { .. } | Outcome::App { .. } => false,
                    Outcome::Failed(_) | Outcome::Lost(_) | Outcome::Refused(_) => true,
                };
                assert_eq!(taken, is_end || outcome == done, "{outcome:?} after {so_far}");
                assert_eq!(c.step().is_none(), is_end);
                if is_end && outcome != done {
                    let error = match outcome {
                        Outcome::Failed(errno) => Error::Failed { step, errno },
                        Outcome::Lost(how) => Error::Lost { step, how },
                        Outcome::Refused(error) => error,
                        other => panic!("{other:?}"),
                    };
                    assert_eq!(c.result(), Some(Err(error)));
                }
            }
        }
    }
}

// --- Requests. ---

/// A request as a caller of either library has it.
#[derive(Clone, Debug)]
struct Wish {
    ids: [u32; 3],
    package: Option<Vec<u8>>,
    exec_dir: Option<Vec<u8>>,
    data_dir: Option<Vec<u8>>,
    overlay_all: bool,
    /// The caller's array in C, with its gaps.
    overlay_dirs: Vec<Option<Vec<u8>>>,
    timeout_ms: u32,
    /// Volatile, with user namespaces, to stay, and with the host's devices.
    free: [bool; 5],
    seccomp: rocker_client::Seccomp,
    inside: Option<(u32, u32)>,
    limits: [u64; 7],
    cpus: Option<String>,
    devices: Vec<CString>,
}

/// As C gets to see a path: no more of it than is needed to see that it is too long.
fn cut(path: &[u8]) -> &[u8] {
    &path[..path.len().min(PATH_MAX + 1)]
}

impl Wish {
    fn dirs(&self) -> impl Iterator<Item = (u8, &[u8])> {
        (0..).zip(&self.overlay_dirs).filter_map(|(n, dir)| Some((n, dir.as_deref()?)))
    }

    /// As `client-c/src/rocker.c` takes it from its caller.
    fn in_c(&self) -> Asked<'_> {
        let [app_id, uid, gid] = self.ids;
        Asked {
            app_id,
            uid,
            gid,
            package: self.package.as_deref().map(cut),
            exec_dir: Some(self.exec_dir.as_deref().map_or(EXEC_DIR.as_bytes(), cut)),
            data_dir: self.data_dir.as_deref().map(cut),
            overlay_all: self.overlay_all,
            overlay_dirs: self.dirs().map(|(n, dir)| (n, cut(dir))).collect(),
            timeout_ms: self.timeout_ms,
            seccomp: match &self.seccomp {
                rocker_client::Seccomp::Unconfined => Seccomp::Unconfined,
                rocker_client::Seccomp::Log => Seccomp::Log,
                rocker_client::Seccomp::Filter(bytes) => Seccomp::Filter(bytes),
                _ => Seccomp::Default,
            },
            volatile: self.free[0],
            ids: self.inside.map_or(Ids::Identity, |(uid, gid)| Ids::Inside { uid, gid }),
            user_namespaces: self.free[1],
            commanded: false,
            stays: self.free[2],
            host_dev: self.free[3],
            landlock: self.free[4],
            limits: self.limits(),
            devices: self.devices.clone(),
        }
    }

    /// In C a limit of 0 is none.
    fn limits(&self) -> protocol::Limits<'_> {
        let [memory, swap, pids, cpu_millis, cpu_weight, io_read, io_write] = self.limits;
        let number = |it: u64| u32::try_from(it).ok().filter(|&it| it != 0);
        protocol::Limits {
            memory: Some(memory).filter(|&it| it != 0),
            swap: Some(swap).filter(|&it| it != 0),
            pids: number(pids),
            cpu_millis: number(cpu_millis),
            cpu_weight: u16::try_from(cpu_weight).ok().filter(|&it| it != 0),
            cpus: self.cpus.as_deref(),
            io_read: Some(io_read).filter(|&it| it != 0),
            io_write: Some(io_write).filter(|&it| it != 0),
        }
    }

    fn in_rust(&self) -> Launch {
        let [app_id, uid, gid] = self.ids;
        let package = OsStr::from_bytes(self.package.as_deref().unwrap_or_default());
        let timeout = Duration::from_millis(u64::from(self.timeout_ms));
        let mut launch = Launch::new(package).app_id(app_id).uid(uid).gid(gid).timeout(timeout);
        if let Some(dir) = &self.exec_dir {
            launch = launch.exec_dir(OsStr::from_bytes(dir));
        }
        if let Some(dir) = &self.data_dir {
            launch = launch.data_dir(OsStr::from_bytes(dir));
        }
        for (_, dir) in self.dirs() {
            launch = launch.overlay(OsStr::from_bytes(dir));
        }
        launch = launch.volatile(self.free[0]).seccomp(self.seccomp.clone());
        launch = self.inside.iter().fold(launch, |launch, &(uid, gid)| launch.ids_inside(uid, gid));
        launch = launch.user_namespaces(self.free[1]).stays(self.free[2]).landlock(self.free[4]);
        if self.free[3] {
            launch = launch.host_dev();
        }
        let protocol::Limits {
            memory,
            swap,
            pids,
            cpu_millis,
            cpu_weight,
            cpus,
            io_read,
            io_write,
        } = self.limits();
        launch = memory.into_iter().fold(launch, Launch::memory);
        launch = swap.into_iter().fold(launch, Launch::swap);
        launch = pids.into_iter().fold(launch, Launch::pids);
        launch = cpu_millis.into_iter().fold(launch, Launch::cpu_millis);
        launch = cpu_weight.into_iter().fold(launch, Launch::cpu_weight);
        launch = cpus.into_iter().fold(launch, |launch, list| launch.cpus(list));
        launch = io_read.into_iter().fold(launch, Launch::io_read);
        launch = io_write.into_iter().fold(launch, Launch::io_write);
        for device in &self.devices {
            launch = launch.device(OsStr::from_bytes(device.to_bytes()));
        }
        if self.overlay_all { launch.overlay_all() } else { launch }
    }

    /// What the Rust library really says to a master, or why it says nothing.
    fn sent_by_rust(&self) -> Result<Vec<u8>, Error> {
        const GARBAGE: [u8; 2] = [wire::VERSION, 0xff];
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        // The answer is there already, so nobody waits.
        ours.send(&GARBAGE).unwrap();
        let connection = OwnedFd::from(theirs);
        let error = self.in_rust().spawn_over(connection, &Program::new("x")).unwrap_err().kind();
        let mut bytes = vec![0; MESSAGE_MAX + 1];
        match error {
            Error::Lost { step: Step::AwaitEntrance, how: Loss::Garbage } => {
                let length = ours.recv(&mut bytes).unwrap();
                bytes.truncate(length);
                Ok(bytes)
            }
            // The place in the list is in C the one in the array.
            Error::Invalid { rule, item: Item::OverlayDir(n) } => {
                let (place, _) = self.dirs().nth(usize::from(n)).unwrap();
                Err(Error::Invalid { rule, item: Item::OverlayDir(place) })
            }
            error => Err(error),
        }
    }

    /// As `client-c/src/{rocker,linux}.c` do it.
    fn sent_by_c(&self) -> Result<Vec<u8>, Error> {
        if let Some(error) = self.in_c().check() {
            return Err(error);
        }
        let bytes = self.in_c().encode();
        if bytes.len() > MESSAGE_MAX {
            return Err(Error::Invalid { rule: Rule::TooLong, item: Item::Request });
        }
        Ok(bytes)
    }
}

/// Mostly good, and of every kind of bad.
fn any_path() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        6 => select(vec!["a", "usr", "b c", "...", ".x", "run", "proc2", "deve", "sy", ".", ""]),
        1 => select(vec!["proc", "sys", "dev", "..", "ru", "runs", "\u{e9}"]),
    ];
    let names = vec(name, 0..5).prop_map(|names| format!("/{}", names.join("/")).into_bytes());
    let hostile =
        vec(prop_oneof![select(b"/./.\0\n\x1f\x7f\x80\xff az".to_vec()), any::<u8>()], 0..9);
    let hostile = (hostile, any::<bool>()).prop_map(|(mut bytes, is_absolute)| {
        if is_absolute {
            bytes.insert(0, b'/');
        }
        bytes
    });
    // A control byte behind what C looks at is another rule there.
    let length = prop_oneof![0..200_usize, PATH_MAX - 2..PATH_MAX + 3, Just(2 * PATH_MAX)];
    let byte = select(b"/a.\xff".to_vec());
    let long = (length, byte).prop_map(|(length, byte)| {
        let mut path = vec![byte; length];
        path.insert(0, b'/');
        path
    });
    prop_oneof![12 => names, 2 => hostile, 1 => long]
}

fn any_id() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 1..u32::MAX, 1 => select(vec![0, 1, u32::MAX, u32::MAX - 1])]
}

fn any_wish() -> impl Strategy<Value = Wish> {
    let timeout_ms = prop_oneof![
        8 => 1..=TIMEOUT_MS_MAX,
        1 => select(vec![0, TIMEOUT_MS_MAX + 1, u32::MAX]),
    ];
    let dirs = prop_oneof![
        4 => vec(option::weighted(0.7, any_path()), 0..4),
        1 => vec(option::weighted(0.9, any_path()), 0..=OVERLAY_DIRS_MAX),
    ];
    let paths = (option::weighted(0.97, any_path()), option::of(any_path()));
    let data_dir = option::weighted(0.8, any_path());
    let all = prop::bool::weighted(0.2);
    let free = any::<[bool; 5]>();
    let ids = (any::<u32>(), any_id(), any_id());
    let inside = option::weighted(0.05, (any_id(), any_id()));
    let rest = (timeout_ms, free, any_limits(), any_seccomp(), inside, any_devices());
    (ids, paths, data_dir, all, dirs, rest).prop_map(
        |(ids, (package, exec_dir), data_dir, overlay_all, overlay_dirs, rest)| {
            let (timeout_ms, free, (limits, cpus), seccomp, inside, devices) = rest;
            let ids = ids.into();
            Wish {
                ids,
                package,
                exec_dir,
                data_dir,
                overlay_all,
                overlay_dirs,
                timeout_ms,
                free,
                seccomp,
                inside,
                limits,
                cpus,
                devices,
            }
        },
    )
}

/// Mostly none; and one more than there may be. A path of C's has no NUL.
fn any_devices() -> impl Strategy<Value = Vec<CString>> {
    let c = |path: Vec<u8>| CString::new(path.into_iter().filter(|&b| b != 0).collect::<Vec<_>>());
    let good = select(vec!["/dev/kvm", "//dev/./dri/", "/dev/a b"]);
    let one = prop_oneof![
        6 => good.prop_map(|path| path.as_bytes().to_vec()),
        1 => any_path(),
    ];
    let one = one.prop_map(move |path| c(path).unwrap());
    prop_oneof![4 => Just(vec![]), 2 => vec(one.clone(), 1..4), 1 => vec(one, 30..34)]
}

/// Each kind; of filters also those that are none, and those that do not fit.
fn any_seccomp() -> impl Strategy<Value = rocker_client::Seccomp> {
    use rocker_client::Seccomp;
    let length = prop_oneof![4 => (1..9_usize).prop_map(|count| count * INSTRUCTION),
        1 => select(vec![0, 1, 7, 9, 32_000, 32_768, 32_776])];
    prop_oneof![
        4 => Just(Seccomp::Default),
        1 => Just(Seccomp::Unconfined),
        1 => Just(Seccomp::Log),
        2 => length.prop_map(|length| Seccomp::Filter(vec![0xa5; length])),
    ]
}

/// Mostly none; and what lies on both sides of each edge.
fn any_limits() -> impl Strategy<Value = ([u64; 7], Option<String>)> {
    let edges = [
        0,
        0,
        0,
        1,
        9,
        10,
        10_000,
        10_001,
        1 << 16,
        1_000_000,
        1_000_001,
        1 << 20,
        1 << 22,
        1 << 40,
    ];
    let limits = prop_oneof![3 => Just([0; 7]), 1 => array::uniform7(select(edges.to_vec()))];
    let cpus = "[0-9]{1,6}([-,][0-9]{1,2}){0,3}[-,+ ]?".prop_map(String::from);
    let long = (CPUS_MAX / 2 - 1..CPUS_MAX / 2 + 2).prop_map(|n| "1,".repeat(n) + "1");
    (limits, option::weighted(0.1, prop_oneof![4 => cpus, 1 => long]))
}

/// What both say to a good request, but for one thing.
fn good_but(change: impl FnOnce(&mut Wish)) -> Result<Vec<u8>, Error> {
    let mut wish = Wish {
        ids: [7, 1000, 1001],
        package: Some(b"/apps/x.sqfs".to_vec()),
        exec_dir: Some(b"/x".to_vec()),
        data_dir: Some(b"/d".to_vec()),
        overlay_all: false,
        overlay_dirs: vec![None, Some(b"/usr".to_vec()), None, Some(b"/etc".to_vec())],
        timeout_ms: 5000,
        free: [false; 5],
        seccomp: rocker_client::Seccomp::Default,
        inside: None,
        limits: [0; 7],
        cpus: None,
        devices: vec![],
    };
    change(&mut wish);
    let (rust, c) = (wish.sent_by_rust(), wish.sent_by_c());
    assert_eq!(rust, c, "{wish:?}");
    c
}

#[test]
fn c_and_rust_clients_know_every_rule() {
    let path = |text: &str| Some(text.as_bytes().to_vec());
    let long = "/".repeat(PATH_MAX + 1);
    let broken = |change: &dyn Fn(&mut Wish)| match good_but(change) {
        Err(Error::Invalid { rule, item }) => (rule, item),
        other => panic!("{other:?}"),
    };
    assert!(good_but(|_| ()).is_ok());
    assert!(good_but(|wish| wish.exec_dir = path("/run/x")).is_ok());
    assert!(good_but(|wish| wish.data_dir = path("/run")).is_ok());
    assert_eq!(broken(&|it| it.package = None), (Rule::Empty, Item::Package));
    assert_eq!(broken(&|it| it.package = path("x")), (Rule::Relative, Item::Package));
    assert_eq!(broken(&|it| it.exec_dir = path("/a/..")), (Rule::ParentDir, Item::ExecDir));
    assert_eq!(broken(&|it| it.data_dir = path("/\n")), (Rule::ControlByte, Item::DataDir));
    assert_eq!(broken(&|it| it.data_dir = path(&long)), (Rule::TooLong, Item::DataDir));
    assert_eq!(broken(&|it| it.exec_dir = path("/./run/")), (Rule::Forbidden, Item::ExecDir));
    assert_eq!(broken(&|it| it.exec_dir = path("//sys/x")), (Rule::Forbidden, Item::ExecDir));
    assert_eq!(broken(&|it| it.data_dir = path("/")), (Rule::Forbidden, Item::DataDir));
    assert_eq!(broken(&|it| it.data_dir = None), (Rule::NoDataDir, Item::DataDir));
    assert_eq!(broken(&|it| it.ids[1] = 0), (Rule::Root, Item::Uid));
    assert_eq!(broken(&|it| it.ids[2] = u32::MAX), (Rule::NoSuchId, Item::Gid));
    assert_eq!(broken(&|it| it.timeout_ms = 0), (Rule::OutOfRange, Item::Timeout));
    let filter = |length| rocker_client::Seccomp::Filter(vec![6; length]);
    assert_eq!(broken(&|it| it.seccomp = filter(9)), (Rule::NotAFilter, Item::Seccomp));
    assert!(good_but(|it| it.seccomp = filter(8)).is_ok());
    assert_eq!(broken(&|it| it.inside = Some((0, 0))), (Rule::NotCommanded, Item::Uid));
    let without = |it: &mut Wish| {
        it.free[0] = true;
        it.overlay_dirs.clear();
    };
    assert_eq!(broken(&without), (Rule::NoOverlays, Item::Volatile));
    assert!(good_but(|it| it.free[0] = true).is_ok());
    assert_eq!(broken(&|it| it.inside = Some((0, u32::MAX))), (Rule::NoSuchId, Item::Gid));
    let devices = |paths: &[&str]| paths.iter().map(|&it| CString::new(it).unwrap()).collect();
    assert!(good_but(|it| it.devices = devices(&["/dev/kvm", "/dev/dri/card0"])).is_ok());
    assert!(good_but(|it| it.devices = devices(&["/dev/kvm"; 32])).is_ok());
    let device = |paths: &[&str]| broken(&|it| it.devices = devices(paths));
    assert_eq!(device(&["/dev/kvm"; 33]), (Rule::TooLong, Item::Dev));
    assert_eq!(device(&["/dev/kvm", "/etc/passwd"]), (Rule::WrongType, Item::Device(1)));
    assert_eq!(device(&["/dev/"]), (Rule::WrongType, Item::Device(0)));
    assert_eq!(device(&["/dev/../x"]), (Rule::ParentDir, Item::Device(0)));
    let fourth = |text| move |wish: &mut Wish| wish.overlay_dirs[3] = path(text);
    assert_eq!(broken(&fourth("/run/x")), (Rule::Forbidden, Item::OverlayDir(3)));
    assert_eq!(broken(&fourth("")), (Rule::Empty, Item::OverlayDir(3)));
    // Who is named first if everything is wrong: the dirs, as the Rust library meets them.
    let all_wrong = |wish: &mut Wish| {
        (wish.package, wish.exec_dir, wish.data_dir) = (path("p"), path("e"), path("d"));
        (wish.ids, wish.timeout_ms) = ([0; 3], 0);
        wish.overlay_dirs[1] = path("o");
    };
    assert_eq!(broken(&all_wrong), (Rule::Relative, Item::OverlayDir(1)));
}

/// 32 KiB fit, one byte more does not.
#[test]
fn c_and_rust_clients_send_no_more_than_fits() {
    let of_length = |length: usize| {
        let dir = |length| Some(vec![b'/'; length - 1].into_iter().chain([b'a']).collect());
        let lengths = [PATH_MAX; 7].into_iter().chain([length]);
        good_but(|wish| wish.overlay_dirs = lengths.map(dir).collect())
    };
    let too_long = Err(Error::Invalid { rule: Rule::TooLong, item: Item::Request });
    let room = (3000..PATH_MAX).rev().find(|&length| of_length(length).is_ok()).unwrap();
    assert_eq!(of_length(room).unwrap().len(), MESSAGE_MAX);
    assert_eq!(of_length(room + 1), too_long);
}

/// Every number of bits, and lengths of one byte and of two.
#[test]
fn c_and_rust_clients_write_numbers_alike() {
    for bits in 0..32 {
        for number in [(1 << bits) - 1, 1 << bits, (1 << bits) + 1] {
            assert!(good_but(|wish| wish.ids[0] = number).is_ok());
            let _ = good_but(|wish| wish.ids[1] = number);
            let _ = good_but(|wish| wish.timeout_ms = number);
        }
    }
    for length in 1..300 {
        let path: Vec<u8> = b"/".iter().copied().chain(vec![b'a'; length]).collect();
        assert!(good_but(|wish| wish.package = Some(path)).is_ok());
    }
}

#[test]
fn c_looks_at_no_more_of_a_path_than_is_needed() {
    for length in [0, 1, PATH_MAX - 1, PATH_MAX, PATH_MAX + 1, PATH_MAX + 2, 3 * PATH_MAX] {
        let text = vec![b'/'; length];
        assert_eq!(path_length(&CString::new(text.clone()).unwrap()), cut(&text).len());
    }
}

// --- Messages. ---

/// The record of all encodings: names and bytes.
fn vectors() -> Vec<(&'static str, Vec<u8>)> {
    let of_line = |line: &'static str| {
        let (name, hex) = line.split_once(": ").unwrap();
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (name, (0..hex.len()).step_by(2).map(byte).collect())
    };
    let text = include_str!("../../protocol/vectors.txt");
    text.lines().filter(|line| !line.starts_with('#')).map(of_line).collect()
}

/// What the Rust client takes from a datagram, and the descriptors that belong to it.
fn heard_by_rust(datagram: &[u8]) -> (Heard<'_>, usize) {
    let message = match wire::decode(datagram) {
        Ok(message) => message,
        Err(how) => return (Heard::Lost(how), 0),
    };
    let descriptors = message.descriptors();
    match message {
        Message::Guard(GuardMessage::Entrance { name, guard_pid, filter, more })
            if usize::from(more) <= CGROUPS_MAX + 1 =>
        {
            (Heard::Entrance { name, guard_pid, filter }, descriptors)
        }
        Message::Master(MasterMessage::Failed(failure))
        | Message::Guard(GuardMessage::Failed(failure)) => (Heard::Failed(failure), descriptors),
        _ => (Heard::Lost(Loss::Garbage), 0),
    }
}

/// What the Rust library takes from a datagram of a guard that takes orders.
fn answer_to_rust(datagram: &[u8]) -> (Answer<'_>, usize) {
    let message = match wire::decode(datagram) {
        Ok(message) => message,
        Err(how) => return (Answer::Lost(how), 0),
    };
    let descriptors = message.descriptors();
    let answer = match message {
        Message::Guard(GuardMessage::Started { id, pid }) => Answer::Started { id, pid },
        Message::Guard(GuardMessage::ExecFailed { id, failure }) => Answer::Failed { id, failure },
        Message::Guard(GuardMessage::Exited { id, report }) => {
            // In C the largest number says that it is not known.
            let report = if report.usage.memory_peak == Some(u64::MAX) {
                let usage = Usage { memory_peak: None, ..report.usage };
                ExitReport { usage, ..report }
            } else {
                report
            };
            Answer::Exited { id, report }
        }
        Message::Guard(GuardMessage::Failed(failure)) => Answer::LastWords(failure),
        Message::Guard(GuardMessage::Pong) => Answer::Pong,
        Message::Guard(GuardMessage::Obeyed { id }) => Answer::Obeyed { id },
        Message::Guard(GuardMessage::Opened { id, errnos }) => {
            let mut all = [0; DESCRIPTORS_MAX];
            all.iter_mut().zip(&errnos).for_each(|(place, errno)| *place = errno.0);
            Answer::Opened { id, errnos: (errnos.len(), all) }
        }
        _ => return (Answer::Lost(Loss::Garbage), 0),
    };
    (answer, descriptors)
}

/// What the Rust library takes from an answer to a question.
fn told_to_rust(datagram: &[u8]) -> (Told<'_>, usize) {
    let message = match wire::decode(datagram) {
        Ok(message) => message,
        Err(how) => return (Told::Lost(how), 0),
    };
    let told = match message {
        Message::Master(MasterMessage::Rocker(info)) => Told::Rocker(info),
        Message::Master(MasterMessage::End) => Told::End,
        Message::Master(MasterMessage::Gone) => Told::Gone,
        Message::Master(MasterMessage::Failed(failure))
        | Message::Guard(GuardMessage::Failed(failure)) => Told::Failed(failure),
        _ => Told::Lost(Loss::Garbage),
    };
    (told, 0)
}

/// To a launch, to whoever gives orders, and to whoever asks.
fn means_the_same(datagram: &[u8]) -> Result<(), TestCaseError> {
    prop_assert_eq!(decode(datagram), heard_by_rust(datagram), "{:02x?}", datagram);
    prop_assert_eq!(decode_answer(datagram), answer_to_rust(datagram), "{:02x?}", datagram);
    prop_assert_eq!(decode_told(datagram), told_to_rust(datagram), "{:02x?}", datagram);
    Ok(())
}

#[test]
fn c_says_the_bytes_on_record() {
    let mut launches = 0;
    for (name, mut wanted) in vectors() {
        let said = match wire::decode(&wanted).unwrap() {
            Message::Client(ClientMessage::Launch(request)) => {
                launches += 1;
                asked(&request).encode()
            }
            Message::Client(ClientMessage::Attach(name)) => encode_attach(name),
            Message::Client(ClientMessage::Kill(name)) => encode_kill(name),
            Message::Client(ClientMessage::List) => encode_list(),
            Message::Client(ClientMessage::Adopt { id }) => encode_adopt(id),
            Message::Client(ClientMessage::AppStarted) => encode_app_started(),
            Message::Client(ClientMessage::Exec(exec)) => wanted_of(&exec).encode(exec.id),
            Message::Client(ClientMessage::ExecIn { cgroups, exec }) => {
                Wanted { cgroups, ..wanted_of(&exec) }.encode(exec.id)
            }
            Message::Client(ClientMessage::Signal { id, signal }) => encode_signal(id, signal),
            Message::Client(ClientMessage::Ping) => encode_ping(),
            Message::Client(ClientMessage::Go { id }) => encode_go(id),
            Message::Client(ClientMessage::Conf { id, conf }) => encode_conf(id, &conf),
            Message::Client(ClientMessage::Reset { id }) => encode_reset(id),
            Message::Client(ClientMessage::Open { id, files }) => {
                let c = |path: FilePath<'_>| CString::new(path.as_bytes()).unwrap();
                let how = |how: How| {
                    let has = |n: &u16| how.has(HOW[usize::from(*n)]);
                    (0..10).filter(has).fold(0, |all, n| all | 1 << n)
                };
                let files: Vec<_> =
                    files.iter().map(|it| (c(it.path), how(it.how), it.mode)).collect();
                encode_open(id, &files)
            }
            Message::Client(ClientMessage::Delete { id, path, tree }) => {
                encode_delete(id, &CString::new(path.as_bytes()).unwrap(), tree)
            }
            Message::Client(ClientMessage::Symlink { id, target, path }) => {
                let c = |path: FilePath<'_>| CString::new(path.as_bytes()).unwrap();
                encode_symlink(id, &c(target), &c(path))
            }
            _ => continue,
        };
        if ["client_launch_extreme", "client_launch_traced"].contains(&name) {
            // C asks for no trace, which stands before the options.
            let trace = wanted.len() - 16;
            wanted[trace] = 0;
        }
        assert_eq!(said, wanted, "{name}");
    }
    assert_eq!(launches, 14);
}

fn asked<'a>(request: &Request<'a>) -> Asked<'a> {
    let overlay_dirs = match &request.overlays {
        Overlays::Dirs(dirs) => (0..).zip(dirs.iter().map(|dir| dir.as_bytes())).collect(),
        Overlays::AllTopDirs => vec![],
    };
    Asked {
        app_id: request.app_id,
        uid: request.uid,
        gid: request.gid,
        package: Some(request.package.as_bytes()),
        exec_dir: Some(request.exec_dir.as_bytes()),
        data_dir: request.data_dir.map(|dir| dir.as_bytes()),
        overlay_all: matches!(request.overlays, Overlays::AllTopDirs),
        overlay_dirs,
        timeout_ms: request.timeout_ms,
        limits: request.options.limits,
        seccomp: request.options.seccomp,
        volatile: request.options.volatile,
        ids: request.ids,
        user_namespaces: request.options.user_namespaces,
        commanded: request.options.commanded,
        stays: request.options.stays,
        host_dev: request.options.dev == Dev::Host,
        landlock: request.options.landlock,
        devices: match request.options.dev {
            Dev::With(named) => c_strings(named),
            Dev::Own | Dev::Host => vec![],
        },
    }
}

/// Every one, by its bit.
const HOW: [How; 10] = [
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

fn wanted_of(exec: &Exec<'_>) -> Wanted {
    Wanted {
        args: c_strings(exec.args),
        env: c_strings(exec.env),
        cwd: c_strings(exec.cwd).pop(),
        descriptors: exec.descriptors,
        by_descriptor: exec.by_descriptor,
        terminal: exec.terminal,
        rlimits: exec.rlimits.to_vec(),
        wall_ms: exec.wall_ms,
        grace_ms: exec.grace_ms,
        filter: exec.filter.to_vec(),
        sync: exec.sync,
        cgroups: 0,
    }
}

/// Every rule, item, loss and step is in one of them.
#[test]
fn c_reads_every_vector_as_rust_does() {
    let (mut heard, mut answers) = ([0; 2], 0);
    for (name, bytes) in vectors() {
        means_the_same(&bytes).unwrap();
        answers += usize::from(!matches!(decode_answer(&bytes).0, Answer::Lost(_)));
        let begins = ["master_failed_", "guard_failed_", "guard_entrance"];
        let is_for_clients = begins.iter().any(|begin| name.starts_with(begin));
        assert_eq!(!matches!(decode(&bytes).0, Heard::Lost(_)), is_for_clients, "{name}");
        heard[usize::from(is_for_clients)] += 1;
    }
    assert_eq!(heard[1], 3 + 44 + 24 + 4 + Step::ALL.len());
    // Started, refused early and late, pong, an end with each verdict, obeyed and opened; and last
    // words of each step.
    assert_eq!(answers, 4 + 10 + 2 + Step::ALL.len());
}

#[test]
fn c_reads_what_is_cut_or_flipped_as_rust_does() {
    for (_, bytes) in vectors() {
        for end in 0..bytes.len() {
            means_the_same(&bytes[..end]).unwrap();
        }
        let mut changed = bytes.clone();
        for (at, &byte) in bytes.iter().enumerate() {
            for other in 0..=u8::MAX {
                changed[at] = other;
                means_the_same(&changed).unwrap();
            }
            changed[at] = byte;
        }
    }
}

/// Numbers may be longer than they need to be, up to their type's most bytes.
#[test]
fn c_reads_long_numbers_as_rust_does() {
    let entrance = |pid: &[u8]| [&[1, 2, 1], &b"0123456789abcde"[..], pid].concat();
    let failed = |number: &[u8]| [&[1, 2, 2, 1, 0x13], number, &[0]].concat();
    let text = |length: &[u8]| [&[1, 2, 2, 1, 0x13, 5], length, b"ab"].concat();
    for zeros in 0..12 {
        for last in 0..=u8::MAX {
            for middle in [0x80, 0xff, 0x82] {
                let mut number = vec![middle; zeros];
                number.push(last);
                means_the_same(&entrance(&number)).unwrap();
                means_the_same(&failed(&number)).unwrap();
                means_the_same(&text(&number)).unwrap();
                means_the_same(&[&[1], &number[..], &[1, 0, 0, 0, 0]].concat()).unwrap();
            }
        }
    }
}

/// The bytes at which the rules for UTF-8 change.
const UTF8_EDGES: &[u8] = b"\0\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xec\xed\xee\xef\
    \xf0\xf1\xf3\xf4\xf5\xff";

#[test]
fn c_takes_for_text_what_rust_does() {
    let edges = UTF8_EDGES;
    let mut datagram = [1, 1, 2, 2, 0x30, 3, 4, 0, 0, 0, 0];
    for (&a, &b) in edges.iter().flat_map(|a| edges.iter().map(move |b| (a, b))) {
        for (&c, &d) in edges.iter().flat_map(|c| edges.iter().map(move |d| (c, d))) {
            datagram[7..].copy_from_slice(&[a, b, c, d]);
            means_the_same(&datagram).unwrap();
        }
    }
}

/// Two vectors, of which one ends where the other begins, and some bytes in between.
fn any_splice() -> impl Strategy<Value = Vec<u8>> {
    let whole = || select(vectors()).prop_map(|(_, bytes)| bytes);
    let between = vec(any::<u8>(), 0..4);
    (whole(), any::<Index>(), between, whole(), any::<Index>()).prop_map(
        |(first, end, between, second, begin)| {
            let (end, begin) = (end.index(first.len() + 1), begin.index(second.len() + 1));
            [&first[..end], &between, &second[begin..]].concat()
        },
    )
}

/// A number as it is written, not always as short as can be, and at times too long.
fn any_number() -> impl Strategy<Value = Vec<u8>> {
    let short = prop_oneof![3 => 0..5_u8, 3 => 0..25_u8, 1 => 0..0x80_u8];
    let long = (vec(0x80..=0xff_u8, 1..11), 0..0x80_u8).prop_map(|(mut bytes, last)| {
        bytes.push(last);
        bytes
    });
    prop_oneof![8 => short.prop_map(|byte| vec![byte]), 1 => long]
}

/// Bytes with their number, of which most are a text, and at times another number.
fn any_text() -> impl Strategy<Value = Vec<u8>> {
    let text = "[a-z \u{0}\u{7ff}\u{d7ff}\u{e000}\u{10ffff}]{0,30}".prop_map(String::into_bytes);
    let text = prop_oneof![2 => text, 1 => vec(select(UTF8_EDGES.to_vec()), 0..7)];
    (text, prop::bool::weighted(0.1)).prop_map(|(text, is_longer)| {
        let length = u8::try_from(text.len()).unwrap() + u8::from(is_longer);
        [&[length], &text[..]].concat()
    })
}

/// What a client reads, or nearly so.
fn any_answer() -> impl Strategy<Value = Vec<u8>> {
    let digit = select(b"0123456789abcdef".to_vec());
    let digit = prop_oneof![100 => digit, 1 => any::<u8>()];
    let entrance = (vec(digit, 15), any_number())
        .prop_map(|(name, pid)| [&[1, 2, 1], &name[..], &pid].concat());
    let begin = select(vec![[1, 2, 2], [1, 1, 2]]);
    let failed = (begin, any_failure()).prop_map(|(begin, it)| [&begin, &it[..]].concat());
    let started = vec(any_number(), 2).prop_map(|it| [&[1, 2, 4], &it.concat()[..]].concat());
    let refused = (any_number(), any_failure())
        .prop_map(|(id, failure)| [&[1, 2, 5], &id[..], &failure].concat());
    let ended = vec(any_number(), 8).prop_map(|it| [&[1, 2, 6], &it.concat()[..]].concat());
    let opened = (0..20_usize, any_number())
        .prop_flat_map(|(count, id)| (Just(count), Just(id), vec(any_number(), count)))
        .prop_map(|(count, id, errnos)| {
            [&[1, 2, 9], &id[..], &[u8::try_from(count).unwrap()], &errnos.concat()].concat()
        });
    prop_oneof![
        1 => entrance,
        4 => failed,
        1 => started,
        2 => refused,
        2 => ended,
        2 => opened,
    ]
}

/// Error and command.
fn any_failure() -> impl Strategy<Value = Vec<u8>> {
    let step = select(Step::ALL.to_vec()).prop_map(|step| vec![step.code()]);
    let first = prop_oneof![any_number(), step];
    let index = option::of(any::<u8>()).prop_map(Vec::from_iter);
    (any_number(), first, any_number(), index, any_text()).prop_map(
        |(fault, first, second, index, text)| [&fault[..], &first, &second, &index, &text].concat(),
    )
}

// --- Orders. ---

/// Up to the greeting.
#[test]
fn c_and_rust_open_with_the_same_words() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let (name, guard_pid) = (Name::from_random(1), 7);
    let entrance = Message::Guard(GuardMessage::Entrance { name, guard_pid, filter: b"", more: 0 });
    send(&ours, &entrance, &[null.as_fd()], &mut Buffer::default()).unwrap();
    let launch = Launch::new("/a.sqfs").uid(7).gid(8).stays(true);
    let rocker = launch.open_over(OwnedFd::from(theirs)).unwrap();
    let next = || {
        let mut bytes = vec![0; MESSAGE_MAX];
        let length = ours.recv(&mut bytes).unwrap();
        bytes.truncate(length);
        bytes
    };
    let asked = Asked {
        app_id: 0,
        uid: 7,
        gid: 8,
        package: Some(b"/a.sqfs"),
        exec_dir: Some(EXEC_DIR.as_bytes()),
        data_dir: None,
        overlay_all: false,
        overlay_dirs: vec![],
        timeout_ms: 5000,
        seccomp: Seccomp::Default,
        volatile: false,
        ids: Ids::Identity,
        user_namespaces: false,
        commanded: true,
        stays: true,
        host_dev: false,
        landlock: false,
        devices: vec![],
        limits: protocol::Limits::default(),
    };
    assert_eq!((next(), next()), (asked.encode(), encode_ping()));
    drop(rocker);
}

/// A program as a caller of either library has it.
#[derive(Clone, Debug)]
struct Order {
    path: CString,
    args: Vec<CString>,
    env: Vec<(CString, CString)>,
    cwd: Option<CString>,
    kept: usize,
    rlimits: Vec<Rlimit>,
    wall_ms: u32,
    filter: Vec<u8>,
}

fn os(text: &CStr) -> &OsStr {
    OsStr::from_bytes(text.to_bytes())
}

impl Order {
    /// What the Rust library really says to a guard, or why it says nothing. It has the greeting's
    /// ping behind it, and 1 is its first number.
    fn sent_by_rust(&self) -> Result<Vec<u8>, Error> {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let entrance = GuardMessage::Entrance {
            name: Name::from_random(1),
            guard_pid: 7,
            filter: b"",
            more: 0,
        };
        let fds = [null()];
        let mut buffer = Buffer::default();
        send(&ours, &Message::Guard(entrance), &[fds[0].as_fd()], &mut buffer).unwrap();
        let launch = Launch::new("/a.sqfs").uid(7).gid(7);
        let mut rocker = launch.open_over(OwnedFd::from(theirs)).unwrap();
        // The answer is there already, so nobody waits.
        ours.send(&[wire::VERSION, 0xff]).unwrap();
        let mut program = Program::new(os(&self.path)).args(self.args.iter().map(|it| os(it)));
        for (name, value) in &self.env {
            program = program.env(os(name), os(value));
        }
        if let Some(cwd) = &self.cwd {
            program = program.cwd(os(cwd));
        }
        for _ in 0..self.kept {
            program = program.keep_fd(null());
        }
        let mut limits = Limits::new().filter(self.filter.clone());
        for it in &self.rlimits {
            limits = limits.rlimit(it.resource, it.soft, it.hard);
        }
        if self.wall_ms > 0 {
            limits = limits.wall(Duration::from_millis(self.wall_ms.into()));
        }
        match rocker.spawn(&program, &limits).unwrap_err().kind() {
            Error::Lost { step: Step::RequestExec, how: Loss::Garbage } => {
                let mut bytes = vec![0; MESSAGE_MAX + 1];
                let length = (0..3).map(|_| ours.recv(&mut bytes).unwrap()).last().unwrap();
                bytes.truncate(length);
                Ok(bytes)
            }
            error => Err(error),
        }
    }

    /// As `client-c/src/open.c` does it.
    fn sent_by_c(&self) -> Result<Vec<u8>, Error> {
        let invalid = |rule| Err(Error::Invalid { rule, item: Item::Program });
        if self.kept + 3 > DESCRIPTORS_MAX {
            return invalid(Rule::TooMany);
        }
        let env = self.env.iter().map(|(name, value)| {
            CString::new([name.to_bytes(), b"=", value.to_bytes()].concat()).unwrap()
        });
        let wanted = Wanted {
            args: [core::slice::from_ref(&self.path), &self.args].concat(),
            env: env.collect(),
            cwd: self.cwd.clone(),
            descriptors: u8::try_from(3 + self.kept).unwrap(),
            by_descriptor: false,
            terminal: false,
            rlimits: self.rlimits.clone(),
            wall_ms: self.wall_ms,
            grace_ms: 0,
            filter: self.filter.clone(),
            sync: false,
            cgroups: 0,
        };
        let bytes = wanted.encode(1);
        if bytes.len() > MESSAGE_MAX { invalid(Rule::TooLong) } else { Ok(bytes) }
    }
}

fn any_order() -> impl Strategy<Value = Order> {
    let word = || "[a-z/=\u{e9}]{1,12}".prop_map(|text| CString::new(text).unwrap());
    let argument = prop_oneof![
        8 => "[ -~]{0,40}".prop_map(|text| CString::new(text).unwrap()),
        1 => (0..2 * MESSAGE_MAX).prop_map(|n| CString::new(vec![b'x'; n]).unwrap()),
    ];
    let env = proptest::collection::btree_map("[A-Z]{1,5}", "[ -~]{0,9}", 0..5);
    let env = env.prop_map(|env| {
        let c = |text: String| CString::new(text).unwrap();
        env.into_iter().map(|(name, value)| (c(name), c(value))).collect()
    });
    let rlimits = proptest::collection::btree_map(any::<u8>(), any::<(u64, u64)>(), 0..17);
    let rlimits = rlimits.prop_map(|all| {
        all.into_iter().map(|(resource, (soft, hard))| Rlimit { resource, soft, hard }).collect()
    });
    let wall_ms = prop_oneof![Just(0), any::<u32>()];
    let filter = prop_oneof![4 => 0..3_usize, 1 => 0..FILTER_MAX + 1];
    let filter = filter.prop_map(|count| vec![0xa5; count * INSTRUCTION]);
    let words = (word(), vec(argument, 0..5), env, option::of(word()));
    (words, 0..15_usize, rlimits, wall_ms, filter).prop_map(
        |((path, args, env, cwd), kept, rlimits, wall_ms, filter)| Order {
            path,
            args,
            env,
            cwd,
            kept,
            rlimits,
            wall_ms,
            filter,
        },
    )
}

/// What a rocker is to look like: its message. Every kind of place, of which C has two for one.
fn any_conf() -> impl Strategy<Value = Vec<u8>> {
    let path = || {
        let long = (1..300_usize).prop_map(|length| "/".repeat(length));
        prop_oneof![4 => "/[a-z\u{e9}/]{0,9}", 1 => long]
    };
    let place = (0..8_u8, path(), path(), any::<u64>(), 1..=u16::MAX);
    let root = (0..3_u8, 1..=u64::MAX, path());
    let names = (option::of(path()), option::of("[ -~]{0,64}"), option::of("[ -~]{0,64}"));
    let init = (vec("[ -~]{0,9}", 0..4), vec("[A-Z]=[ -~]{0,9}", 0..3), any::<u32>());
    (root, vec(place, 0..12), names, init, any::<bool>()).prop_map(
        |((kind, bytes, dir), all, (work_dir, host_name, domain_name), init, unshare_cgroup)| {
            let mut room = vec![0; MESSAGE_MAX];
            let mut used = 0;
            for it in &all {
                used += append(&place_of(it), &mut room[used..]).unwrap();
            }
            let (init, init_env, init_ms) = init;
            // Of a program that is not there C says nothing.
            let init_env = if init.is_empty() { vec![] } else { init_env };
            let strings = |all: Vec<String>| -> String {
                all.iter().flat_map(|it| [it.as_str(), "\0"]).collect()
            };
            let [init, init_env] = [init, init_env].map(strings);
            let conf = Conf {
                root: match kind {
                    0 => Root::Whole,
                    1 => Root::Directory(protocol::Path::new(dir.as_bytes()).unwrap()),
                    _ => Root::Tmpfs(bytes),
                },
                places: Places::new(&room[..used]).unwrap(),
                work_dir: work_dir.as_ref().map(|dir| protocol::Path::new(dir.as_bytes()).unwrap()),
                host_name: host_name.as_deref(),
                domain_name: domain_name.as_deref(),
                unshare_cgroup,
                init: Strings::new(init.as_bytes()).unwrap(),
                init_env: Strings::new(init_env.as_bytes()).unwrap(),
                init_ms,
            };
            let message = Message::Client(ClientMessage::Conf { id: init_ms, conf });
            wire::encode(&message, &mut vec![0; MESSAGE_MAX]).unwrap().to_vec()
        },
    )
}

fn place_of((kind, source, target, bytes, mode): &(u8, String, String, u64, u16)) -> Place<'_> {
    let path = |text| protocol::Path::new(str::as_bytes(text)).unwrap();
    let (from, target, bytes, mode) = (path(source), path(target), *bytes, *mode);
    match *kind {
        0 | 1 => Place::Bind { source: from, target, read_only: *kind == 1 },
        2 => Place::Tmpfs { target, bytes, mode },
        3 => Place::Overlay { target, bytes },
        4 => Place::Proc { target },
        5 => Place::Dev { target, shm_bytes: bytes },
        6 => Place::Link { path: target, target: FilePath::new(source.as_bytes()).unwrap() },
        _ => Place::Mask { target },
    }
}

/// A message of a guard's, as bytes.
fn said(message: GuardMessage<'_>) -> Vec<u8> {
    wire::encode(&Message::Guard(message), &mut [0; 1024]).unwrap().to_vec()
}

fn refusal(id: u32) -> Vec<u8> {
    let error = Error::Failed { step: Step::StartProgram, errno: Errno::NOENT };
    said(GuardMessage::ExecFailed { id, failure: Failure { error, command: "exec x" } })
}

fn an_end(id: u32, peak_kib: u64) -> (Vec<u8>, ExitReport) {
    let (exit, verdict) = (Exit::Status(0), Verdict::Normal);
    let (syscall, usage) = (None, Usage::default());
    let (user_us, system_us, wall_us) = (1, 2, 3);
    let report =
        ExitReport { exit, verdict, user_us, system_us, wall_us, peak_kib, syscall, usage };
    (said(GuardMessage::Exited { id, report }), report)
}

/// What a guard may say in each state of an order, and what it may not.
#[test]
fn c_takes_no_answer_that_was_not_asked_for() {
    let started = |id| said(GuardMessage::Started { id, pid: 9 });
    let pong = || said(GuardMessage::Pong);
    let mut orders = COrders::new();
    for nonsense in [started(1), started(0), refusal(1), an_end(1, 0).0, an_end(0, 0).0] {
        assert_eq!(orders.hear(&nonsense), Meaning::Denied);
    }
    // The greeting's.
    assert_eq!(orders.hear(&pong()), Meaning::Forgotten);
    assert_eq!(orders.hear(&pong()), Meaning::Denied);
    let id = orders.exec().unwrap();
    assert_eq!(orders.hear(&an_end(id, 0).0), Meaning::Denied);
    assert_eq!(orders.hear(&started(id + 1)), Meaning::Denied);
    assert_eq!(orders.hear(&started(id)), Meaning::Told(Event::Started { id, pid: 9 }));
    assert_eq!(orders.hear(&started(id)), Meaning::Denied);
    assert_eq!(orders.hear(&refusal(id)), Meaning::Denied);
    let (end, report) = an_end(id, u64::MAX);
    assert_eq!(orders.end(None), None);
    assert_eq!(orders.hear(&end), Meaning::Kept);
    assert_eq!(orders.hear(&end), Meaning::Denied);
    assert_eq!(orders.end(Some(id + 1)), None);
    assert_eq!(orders.end(Some(id)), Some(Event::Ended { id, report }));
    assert_eq!((orders.end(Some(id)), orders.end(None)), (None, None));
    // A signal may be refused, once.
    assert!(!orders.signal(Some(id)), "it has ended");
    let id = orders.exec().unwrap();
    assert!(orders.signal(Some(id)));
    assert_eq!(orders.hear(&started(id)), Meaning::Told(Event::Started { id, pid: 9 }));
    assert_eq!(orders.hear(&refusal(id)), Meaning::Forgotten);
    assert_eq!(orders.hear(&refusal(id)), Meaning::Denied);
    let id = orders.exec().unwrap();
    assert_eq!(orders.hear(&refusal(id)), Meaning::Told(Event::Failed { id }));
    assert_eq!(orders.hear(&refusal(id)), Meaning::Denied);
    // One that waited may fail where another one ends.
    let late = |id| {
        let error = Error::Failed { step: Step::ReportExit, errno: Errno::NOENT };
        said(GuardMessage::ExecFailed { id, failure: Failure { error, command: "exec x" } })
    };
    for waits in [false, true] {
        let id = if waits { orders.exec_to_wait() } else { orders.exec() }.unwrap();
        assert_eq!(orders.hear(&late(id)), Meaning::Denied);
        assert_eq!(orders.hear(&started(id)), Meaning::Told(Event::Started { id, pid: 9 }));
        // The word to go, which may be refused like a signal.
        assert!(orders.signal(Some(id)));
        assert_eq!(orders.hear(&refusal(id)), Meaning::Forgotten);
        assert_eq!(orders.hear(&refusal(id)), Meaning::Denied);
        if waits {
            assert_eq!(orders.hear(&late(id)), Meaning::Kept);
            assert_eq!(orders.end(None), Some(Event::Failed { id }));
        }
        assert_eq!((orders.hear(&late(id)), orders.end(None)), (Meaning::Denied, None));
    }
    // The latest ping is answered by its own answer.
    let [_, id] = [orders.ping(), orders.ping()];
    assert_eq!(orders.hear(&pong()), Meaning::Forgotten);
    assert_eq!(orders.hear(&pong()), Meaning::Told(Event::Pong { id }));
    assert_eq!(orders.hear(&pong()), Meaning::Denied);
}

/// An answer is one to the kind of order that was given.
#[test]
fn c_takes_no_answer_to_another_kind_of_order() {
    let obeyed = |id| said(GuardMessage::Obeyed { id });
    let opened = |id, count| {
        let errnos = (0..count).map(|_| Errno::NOENT).collect();
        said(GuardMessage::Opened { id, errnos })
    };
    let started = |id| said(GuardMessage::Started { id, pid: 9 });
    let mut orders = COrders::new();
    let program = orders.exec().unwrap();
    let files = orders.files(2).unwrap();
    let deed = orders.deed().unwrap();
    for nonsense in [
        obeyed(program),
        obeyed(files),
        opened(program, 2),
        opened(deed, 2),
        opened(files, 1),
        opened(files, 3),
        started(files),
        started(deed),
    ] {
        assert_eq!(orders.hear(&nonsense), Meaning::Denied);
    }
    assert!(!orders.signal(Some(files)) && !orders.signal(Some(deed)), "they are no programs");
    assert_eq!(orders.hear(&opened(files, 2)), Meaning::Told(Event::Opened { id: files }));
    assert_eq!(orders.hear(&obeyed(deed)), Meaning::Told(Event::Done { id: deed }));
    assert_eq!(orders.hear(&obeyed(deed)), Meaning::Denied);
    let last = orders.files(0).unwrap();
    assert_eq!(orders.hear(&refusal(last)), Meaning::Told(Event::Failed { id: last }));
    // They leave programs their room, and have their own.
    let all: Vec<u32> = (0..16).map(|_| orders.deed().unwrap()).collect();
    assert_eq!((orders.deed(), orders.files(1)), (None, None));
    assert!(orders.exec().is_some());
    assert_eq!(orders.hear(&obeyed(all[7])), Meaning::Told(Event::Done { id: all[7] }));
    assert!(orders.files(1).is_some());
}

#[test]
fn c_has_room_for_as_many_programs_as_a_guard_runs() {
    let mut orders = COrders::new();
    let ids: Vec<u32> = (0..64).map(|_| orders.exec().unwrap()).collect();
    assert_eq!(orders.exec(), None);
    for &id in &ids {
        assert_eq!(orders.hear(&said(GuardMessage::Started { id, pid: id })), {
            Meaning::Told(Event::Started { id, pid: id })
        });
        assert_eq!(orders.hear(&an_end(id, id.into()).0), Meaning::Kept);
    }
    // Each is kept until somebody asks.
    assert_eq!(orders.exec(), None);
    for &id in ids.iter().rev() {
        let report = an_end(id, id.into()).1;
        assert_eq!(orders.end(Some(id)), Some(Event::Ended { id, report }));
    }
    assert_eq!(orders.exec(), Some(65));
}

#[test]
fn c_waits_for_no_order_behind_another_ones_answer() {
    let mut orders = COrders::new();
    assert!(!orders.may_await(0) && !orders.may_await(1));
    let first = orders.exec().unwrap();
    assert!(orders.may_await(first));
    let second = orders.exec().unwrap();
    assert!(!orders.may_await(first) && !orders.may_await(second));
    orders.hear(&said(GuardMessage::Started { id: first, pid: 9 }));
    assert!(!orders.may_await(first) && orders.may_await(second));
    orders.hear(&refusal(second));
    assert!(orders.may_await(first) && !orders.may_await(second));
    // It says nothing of the greeting that it is not answered yet.
    let ping = orders.ping();
    assert!(!orders.may_await(first) && orders.may_await(ping));
    for _ in 0..2 {
        orders.hear(&said(GuardMessage::Pong));
    }
    assert!(orders.may_await(first) && !orders.may_await(ping));
    orders.hear(&an_end(first, 0).0);
    assert!(orders.may_await(first));
    orders.end(None).unwrap();
    assert!(!orders.may_await(first));
}

/// So many cases of each property, or as many as `SIM_LONG` says.
fn config() -> ProptestConfig {
    let cases = std::env::var("SIM_LONG").ok().and_then(|it| it.parse().ok()).unwrap_or(0);
    ProptestConfig { cases: cases.max(1_500), failure_persistence: None, ..Default::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn c_and_rust_clients_walk_the_same(outcomes in vec(any_outcome(), 0..12)) {
        clients_agree(&outcomes)?;
    }

    #[test]
    fn c_and_rust_helpers_walk_the_same(outcomes in vec(any_outcome(), 0..12)) {
        helpers_agree(&outcomes)?;
    }

    #[test]
    fn c_and_rust_clients_say_the_same(wish in any_wish()) {
        prop_assert_eq!(wish.sent_by_rust(), wish.sent_by_c());
    }

    #[test]
    fn c_and_rust_give_the_same_orders(order in any_order()) {
        prop_assert_eq!(order.sent_by_rust(), order.sent_by_c());
    }

    #[test]
    fn c_and_rust_configure_with_the_same_bytes(wanted in any_conf()) {
        let Ok(Message::Client(ClientMessage::Conf { id, conf })) = wire::decode(&wanted) else {
            panic!("it is one");
        };
        prop_assert_eq!(encode_conf(id, &conf), wanted);
    }

    #[test]
    fn any_bytes_mean_the_same_to_c_and_rust(
        random in vec(any::<u8>(), 0..60),
        splice in any_splice(),
        answer in any_answer(),
    ) {
        for datagram in [random, splice, answer] {
            means_the_same(&datagram)?;
        }
    }
}
