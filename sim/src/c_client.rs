//! The C client through FFI: its machines as [`Machine`]s, the check of a request, the messages
//! it says and reads. The one file of this crate with `unsafe`.
//!
//! The structs are those of `client-c/src/*.h`; the tests below compare every offset and every
//! number with the headers.
#![allow(unsafe_code, reason = "C is called")]

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use core::mem::{MaybeUninit, size_of};
use core::ptr;
use std::ffi::CString;

use protocol::conf::{Conf, Place, Root};
use protocol::limits::{
    DESCRIPTORS_MAX, DEVICES_MAX, MESSAGE_MAX, NAME_LEN, OVERLAY_DIRS_MAX, PROGRAMS_MAX,
};
use protocol::message::Failure;
use protocol::seccomp::INSTRUCTION;
use protocol::{
    Errno, Error, Exit, ExitReport, Ids, Item, Limits, Loss, Machine, Name, Path, Rlimit, Rule,
    Seccomp, Step, Strings, Usage, Verdict,
};
use rocker_client::action::{Action, HelperAction, HelperOutcome, Outcome};
use rocker_client::helper::State as HelperState;
use rocker_client::machine::{Started, State};

/// `struct rk_error`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct RawError {
    fault: u8,
    step: u8,
    os_errno: u16,
    rule: u8,
    item: u8,
    index: u8,
    loss: u8,
}

/// `struct rk_outcome`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct RawOutcome {
    result: u8,
    loss: u8,
    os_errno: u16,
    pid: u32,
    error: RawError,
    name: [u8; NAME_LEN + 1],
}

/// `struct rk_client`: the client's machine.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CClient {
    state: u8,
    purpose: u8,
    reserved: [u8; 2],
    guard_pid: u32,
    app_pid: u32,
    error: RawError,
    name: [u8; NAME_LEN + 1],
}

/// `struct rk_helper`: the helper's machine.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CHelper {
    state: u8,
    reserved: [u8; 3],
    app_pid: u32,
    error: RawError,
}

/// `struct rk_path`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct RawPath {
    bytes: *const u8,
    length: usize,
}

/// `struct rk_request`
#[repr(C)]
struct RawRequest {
    app_id: u32,
    uid: u32,
    gid: u32,
    package: RawPath,
    exec_dir: RawPath,
    data_dir: RawPath,
    overlay_all: u8,
    overlays: u8,
    overlay_index: [u8; OVERLAY_DIRS_MAX],
    seccomp: u8,
    user_namespaces: u8,
    commanded: u8,
    stays: u8,
    host_dev: u8,
    is_volatile: u8,
    landlock: u8,
    has_inside: u8,
    inside_uid: u32,
    inside_gid: u32,
    filter: RawPath,
    overlay_dirs: [RawPath; OVERLAY_DIRS_MAX],
    timeout_ms: u32,
    limits: RawLimits,
    devices: *const *const c_char,
}

/// `struct rk_limits`
#[repr(C)]
struct RawLimits {
    memory: u64,
    swap: u64,
    has_swap: u32,
    pids: u32,
    cpu_millis: u32,
    cpu_weight: u32,
    cpus: RawPath,
    io_read: u64,
    io_write: u64,
}

/// `struct iovec`
#[repr(C)]
#[derive(Clone, Copy)]
struct RawPiece {
    iov_base: *const u8,
    iov_len: usize,
}

const PIECES_MAX: usize = 2 * (5 + OVERLAY_DIRS_MAX) + 1 + DEVICES_MAX + 1;

/// `RK_OTHERS_MAX`
const OTHERS_MAX: usize = 16;

/// `struct rk_pieces`
#[repr(C)]
struct RawPieces {
    numbers: *mut u8,
    room: usize,
    used: usize,
    length: usize,
    count: c_uint,
    pieces: [RawPiece; PIECES_MAX],
}

/// `RockerUsage`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct RawUsage {
    memory: u64,
    memory_peak: u64,
    pids: u64,
    pids_peak: u64,
    cpu_us: u64,
    read: u64,
    written: u64,
}

/// `RockerReport`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct RawReport {
    status: c_int,
    signal: c_int,
    verdict: c_uint,
    syscall: c_int,
    user_us: u64,
    system_us: u64,
    wall_us: u64,
    peak_kib: u64,
    usage: RawUsage,
}

/// `RockerInfo`
#[repr(C)]
#[derive(Debug)]
struct RawInfo {
    guard_pname: [u8; NAME_LEN + 1],
    guard_pid: c_int,
    app_id: u32,
    uid: u32,
    age_ms: u64,
    package: *const c_char,
}

/// `struct rk_message`
#[repr(C)]
#[derive(Debug)]
struct RawMessage {
    kind: u8,
    loss: u8,
    descriptors: u8,
    reserved: u8,
    pid: u32,
    error: RawError,
    name: [u8; NAME_LEN + 1],
    rest: RawPath,
    id: u32,
    report: RawReport,
    errnos: [u16; DESCRIPTORS_MAX],
    files: u32,
    info: RawInfo,
}

/// `RockerFile`
#[repr(C)]
struct RawFile {
    path: *const c_char,
    how: c_uint,
    mode: c_uint,
}

/// `RockerPlace`
#[repr(C)]
struct RawPlace {
    kind: c_uint,
    mode: c_uint,
    source: *const c_char,
    target: *const c_char,
    bytes: u64,
}

/// `RockerConf`
#[repr(C)]
struct RawConf {
    size: usize,
    root: *const c_char,
    empty_root: u64,
    places: *const RawPlace,
    places_count: c_uint,
    unshare_cgroup: c_int,
    work_dir: *const c_char,
    host_name: *const c_char,
    domain_name: *const c_char,
    init: *const RawProgram,
    init_ms: c_uint,
}

/// `RockerProgram`
#[repr(C)]
struct RawProgram {
    size: usize,
    path: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
    cwd: *const c_char,
    stdio: [c_int; 3],
    fds_count: c_uint,
    fds: *const c_int,
    keep_session: c_int,
    terminal: c_int,
}

/// `RockerRlimit`
#[repr(C)]
struct RawRlimit {
    resource: c_int,
    soft: u64,
    hard: u64,
}

/// `RockerExec`
#[repr(C)]
struct RawExec {
    size: usize,
    data: *mut c_void,
    wall_ms: c_uint,
    grace_ms: c_uint,
    rlimits_count: c_uint,
    rlimits: *const RawRlimit,
    program_fd: c_int,
    sync: c_int,
    filter_count: c_uint,
    filter: *const c_void,
    cgroups_count: c_uint,
    cgroups: *const c_int,
}

/// `RockerEvent`, of which the machine sets what is before `error`.
#[repr(C)]
struct RawEvent {
    kind: c_uint,
    id: c_uint,
    data: *mut c_void,
    pid: c_int,
    pidfd: c_int,
    report: RawReport,
    error: [c_int; 10],
    words: [[c_char; 520]; 2],
    files_count: c_uint,
    files: [c_int; DESCRIPTORS_MAX],
}

/// `struct rk_order`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct RawOrder {
    id: u32,
    stage: u8,
    kind: u8,
    files: u8,
    apart: u8,
    data: *mut c_void,
    error: RawError,
    /// A `RockerReport`, or text.
    end: [u64; 13],
}

/// `struct rk_orders`: the machine of a caller's orders.
#[repr(C)]
#[derive(Debug)]
struct RawOrders {
    last_id: u32,
    pings: u32,
    ping_id: u32,
    signals: u32,
    lost_order: u32,
    reserved: u32,
    lost: RawError,
    orders: [RawOrder; PROGRAMS_MAX + OTHERS_MAX],
    last_words: [c_char; 520],
}

// As the headers assert it of theirs.
const _: () = assert!(size_of::<RawError>() == 8);
const _: () = assert!(size_of::<RawOutcome>() == 32);
const _: () = assert!(size_of::<CClient>() == 36);
const _: () = assert!(size_of::<CHelper>() == 16);

// SAFETY: the signatures are those of client-c/src/*.h, with a reference where the function
// reads or writes exactly the one struct that it is given a pointer to, and keeps no pointer.
// Of these structs any bytes are a value, so C can leave no invalid one behind.
unsafe extern "C" {
    safe fn rk_client_init(client: &mut CClient, purpose: c_uint);
    safe fn rk_client_step(client: &CClient) -> u8;
    safe fn rk_client_advance(client: &mut CClient, outcome: &RawOutcome) -> bool;
    safe fn rk_helper_init(helper: &mut CHelper);
    safe fn rk_helper_step(helper: &CHelper) -> u8;
    safe fn rk_helper_advance(helper: &mut CHelper, outcome: &RawOutcome) -> bool;
    safe fn rk_is_step(step: u8) -> bool;
    // These follow pointers in what they are given.
    fn rk_path(text: *const c_char) -> RawPath;
    fn rk_request_check(request: *const RawRequest) -> RawError;
    fn rk_encode_launch(request: *const RawRequest, out: *mut RawPieces);
    fn rk_encode_attach(name: *const c_char, out: *mut RawPieces);
    fn rk_encode_kill(name: *const c_char, out: *mut RawPieces);
    fn rk_encode_list(out: *mut RawPieces);
    fn rk_encode_adopt(id: u32, out: *mut RawPieces);
    fn rk_decode_told(datagram: *const u8, length: usize, message: *mut RawMessage);
    fn rk_encode_app_started(out: *mut RawPieces);
    fn rk_encode_ping(out: *mut RawPieces);
    fn rk_encode_signal(id: u32, signal: u8, out: *mut RawPieces);
    fn rk_encode_exec(
        id: u32,
        program: *const RawProgram,
        exec: *const RawExec,
        descriptors: c_uint,
        out: *mut RawPieces,
    );
    fn rk_encode_go(id: u32, out: *mut RawPieces);
    fn rk_encode_conf(id: u32, conf: *const RawConf, out: *mut RawPieces);
    fn rk_encode_reset(id: u32, out: *mut RawPieces);
    fn rk_encode_open(id: u32, files: *const RawFile, count: c_uint, out: *mut RawPieces);
    fn rk_encode_delete(id: u32, path: *const c_char, tree: bool, out: *mut RawPieces);
    fn rk_encode_symlink(id: u32, target: *const c_char, path: *const c_char, out: *mut RawPieces);
    fn rk_decode(datagram: *const u8, length: usize, message: *mut RawMessage);
    fn rk_decode_answer(datagram: *const u8, length: usize, message: *mut RawMessage);
    fn rk_orders_init(orders: *mut RawOrders, pings: u32);
    safe fn rk_orders_next_id(orders: &RawOrders) -> u32;
    safe fn rk_orders_have_room(orders: &RawOrders, kind: c_uint) -> bool;
    safe fn rk_orders_files(orders: &mut RawOrders, count: c_uint);
    safe fn rk_orders_deed(orders: &mut RawOrders, kind: c_uint);
    fn rk_orders_exec(orders: *mut RawOrders, data: *mut c_void, apart: bool);
    safe fn rk_orders_ping(orders: &mut RawOrders);
    safe fn rk_orders_signal(orders: &mut RawOrders);
    safe fn rk_orders_live(orders: &RawOrders, id: u32) -> bool;
    safe fn rk_orders_may_await(orders: &RawOrders, id: u32) -> bool;
    fn rk_orders_hear(
        orders: *mut RawOrders,
        message: *const RawMessage,
        event: *mut RawEvent,
    ) -> c_uint;
    fn rk_orders_end(orders: *mut RawOrders, id: u32, event: *mut RawEvent) -> *const RawOrder;
}

// --- Errors. ---

/// `enum rk_fault`
const NO_FAULT: u8 = 0;
const INVALID: u8 = 1;
const FAILED_FAULT: u8 = 2;
const LOST_FAULT: u8 = 3;

/// `RK_NO_STEP`
const NO_STEP: u8 = 0xff;

/// Every rule, by its number.
const RULES: [Rule; 44] = [
    Rule::Empty,
    Rule::Relative,
    Rule::ParentDir,
    Rule::ControlByte,
    Rule::TooLong,
    Rule::TooMany,
    Rule::Forbidden,
    Rule::NoDataDir,
    Rule::Root,
    Rule::NoSuchId,
    Rule::OutOfRange,
    Rule::NotAllowed,
    Rule::ForeignNamespace,
    Rule::WrongType,
    Rule::NotSquashfs,
    Rule::UnknownFormat,
    Rule::Truncated,
    Rule::InUse,
    Rule::NotOurs,
    Rule::TooManyRockers,
    Rule::NoSuchRocker,
    Rule::NotAFilter,
    Rule::MemoryOutOfRange,
    Rule::NoMemoryLimit,
    Rule::NotCpus,
    Rule::NoSuchCpu,
    Rule::NoController,
    Rule::NotListed,
    Rule::NoSuchDevice,
    Rule::AlreadyThere,
    Rule::NotADevice,
    Rule::NoDisk,
    Rule::NotHeld,
    Rule::PidsOutOfRange,
    Rule::CpuOutOfRange,
    Rule::CpuWeightOutOfRange,
    Rule::IoOutOfRange,
    Rule::TimeOutOfRange,
    Rule::NoOverlays,
    Rule::NotCommanded,
    Rule::NotTheCallers,
    Rule::OutOfReach,
    Rule::NoSuchDir,
    Rule::NotADir,
];

/// Every item, by its number; the place of an overlay dir, or of a device, is beside it.
const ITEMS: [Item; 24] = [
    Item::Request,
    Item::Package,
    Item::ExecDir,
    Item::DataDir,
    Item::OverlayDir(0),
    Item::Uid,
    Item::Gid,
    Item::Timeout,
    Item::Name,
    Item::Program,
    Item::File,
    Item::Seccomp,
    Item::UserNamespaces,
    Item::Memory,
    Item::Swap,
    Item::Pids,
    Item::Cpu,
    Item::CpuWeight,
    Item::Cpus,
    Item::Dev,
    Item::Device(0),
    Item::IoRead,
    Item::IoWrite,
    Item::Volatile,
];

/// Every loss, by its number.
const LOSSES: [Loss; 4] = [Loss::Died, Loss::Silent, Loss::Garbage, Loss::Version];

const fn item_number(item: Item) -> (u8, u8) {
    match item {
        Item::Request => (0, 0),
        Item::Package => (1, 0),
        Item::ExecDir => (2, 0),
        Item::DataDir => (3, 0),
        Item::OverlayDir(index) => (4, index),
        Item::Uid => (5, 0),
        Item::Gid => (6, 0),
        Item::Timeout => (7, 0),
        Item::Name => (8, 0),
        Item::Program => (9, 0),
        Item::File => (10, 0),
        Item::Seccomp => (11, 0),
        Item::UserNamespaces => (12, 0),
        Item::Memory => (13, 0),
        Item::Swap => (14, 0),
        Item::Pids => (15, 0),
        Item::Cpu => (16, 0),
        Item::CpuWeight => (17, 0),
        Item::Cpus => (18, 0),
        Item::Dev => (19, 0),
        Item::Device(index) => (20, index),
        Item::IoRead => (21, 0),
        Item::IoWrite => (22, 0),
        Item::Volatile => (23, 0),
    }
}

impl RawError {
    fn new(error: Error) -> Self {
        let step = error.step().code();
        match error {
            Error::Invalid { rule, item } => {
                let (item, index) = item_number(item);
                Self { fault: INVALID, step, rule: rule as u8, item, index, ..Self::default() }
            }
            Error::Failed { errno, .. } => {
                Self { fault: FAILED_FAULT, step, os_errno: errno.0, ..Self::default() }
            }
            Error::Lost { how, .. } => {
                Self { fault: LOST_FAULT, step, loss: how as u8, ..Self::default() }
            }
            other => unreachable!("C has no word for {other}"),
        }
    }

    /// None where nothing has failed. A number that protocol does not have is a bug in C.
    fn read(self) -> Option<Error> {
        let step = || Step::from_code(self.step).expect("it is a step");
        Some(match self.fault {
            NO_FAULT => return None,
            INVALID => Error::Invalid {
                rule: RULES[usize::from(self.rule)],
                item: match ITEMS[usize::from(self.item)] {
                    Item::OverlayDir(_) => Item::OverlayDir(self.index),
                    Item::Device(_) => Item::Device(self.index),
                    item => item,
                },
            },
            FAILED_FAULT => Error::Failed { step: step(), errno: Errno(self.os_errno) },
            LOST_FAULT => Error::Lost { step: step(), how: LOSSES[usize::from(self.loss)] },
            other => unreachable!("there is no fault {other}"),
        })
    }
}

/// Whether a diagram has this arrow, as C knows them.
pub fn is_step(code: u8) -> bool {
    rk_is_step(code)
}

fn step_of(code: u8) -> Option<Step> {
    (code != NO_STEP).then(|| Step::from_code(code).expect("it is a step"))
}

/// `enum rk_purpose`
const TO_ENTER: u32 = 0;
const TO_ORDER: u32 = 1;
const TO_ATTACH: u32 = 2;
const TO_KILL: u32 = 3;
const TO_LIST: u32 = 4;

/// The digits, before the NUL.
fn name_of(text: [u8; NAME_LEN + 1]) -> Name {
    let [digits @ .., 0] = text else { unreachable!("a name ends with NUL") };
    Name::new(&digits).expect("it is a name")
}

// --- The machines. ---

/// `enum rk_result`
const DONE: u8 = 0;
const ENTRANCE: u8 = 1;
const APP: u8 = 2;
const FAILED: u8 = 3;
const LOST: u8 = 4;
const REFUSED: u8 = 5;

impl RawOutcome {
    fn new(outcome: Outcome) -> Self {
        let empty = Self::default();
        match outcome {
            Outcome::Done => Self { result: DONE, ..empty },
            Outcome::Entrance { name, guard_pid } => {
                let mut text = [0; NAME_LEN + 1];
                text[..NAME_LEN].copy_from_slice(name.as_str().as_bytes());
                Self { result: ENTRANCE, name: text, pid: guard_pid, ..empty }
            }
            Outcome::App { pid } => Self { result: APP, pid, ..empty },
            Outcome::Failed(errno) => Self { result: FAILED, os_errno: errno.0, ..empty },
            Outcome::Lost(how) => Self { result: LOST, loss: how as u8, ..empty },
            Outcome::Refused(error) => {
                Self { result: REFUSED, error: RawError::new(error), ..empty }
            }
        }
    }
}

impl CClient {
    /// At root.1.
    pub fn new() -> Self {
        Self::made(TO_ENTER)
    }

    /// At root.1 of a rocker that is to take orders.
    pub fn to_take_orders() -> Self {
        Self::made(TO_ORDER)
    }

    /// At root.1 of the way to a living rocker.
    pub fn to_attach() -> Self {
        Self::made(TO_ATTACH)
    }

    /// Of a question: whether to kill a living rocker, or else to list them.
    pub fn to_ask(kill: bool) -> Self {
        Self::made(if kill { TO_KILL } else { TO_LIST })
    }

    fn made(purpose: u32) -> Self {
        let mut client = Self {
            state: u8::MAX,
            purpose: u8::MAX,
            reserved: [u8::MAX; 2],
            guard_pid: u32::MAX,
            app_pid: u32::MAX,
            error: RawError { fault: u8::MAX, ..RawError::default() },
            name: [u8::MAX; NAME_LEN + 1],
        };
        rk_client_init(&mut client, purpose);
        client
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        let &Self { guard_pid, app_pid, name, .. } = self;
        let started = || Started { name: name_of(name), guard_pid, app_pid };
        match self.state {
            0 => State::Connect,
            1 => State::SendRequest,
            2 => State::AwaitEntrance,
            3 => State::ForkHelper { name: name_of(name), guard_pid },
            4 => State::AwaitApp { name: name_of(name), guard_pid },
            5 => State::ReportApp(started()),
            6 => State::Greet(started()),
            7 => State::Ended(self.error.read().map_or_else(|| Ok(started()), Err)),
            other => unreachable!("there is no state {other}"),
        }
    }

    /// What came of the launch; none while it is under way.
    pub fn result(&self) -> Option<Result<Started, Error>> {
        match self.state() {
            State::Ended(result) => Some(result),
            _ => None,
        }
    }

    /// Whether this can come of the action. If it cannot, nothing changes.
    pub fn try_advance(&mut self, outcome: Outcome) -> bool {
        rk_client_advance(self, &RawOutcome::new(outcome))
    }
}

impl Default for CClient {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine for CClient {
    type Action = Action;
    type Outcome = Outcome;

    fn step(&self) -> Option<Step> {
        step_of(rk_client_step(self))
    }

    fn action(&self) -> Action {
        match self.state() {
            State::Connect => Action::Connect,
            State::SendRequest => Action::SendRequest,
            State::AwaitEntrance => Action::AwaitEntrance,
            State::ForkHelper { .. } => Action::ForkHelper,
            State::AwaitApp { .. } => Action::AwaitApp,
            State::ReportApp(_) => Action::ReportApp,
            State::Greet(_) => Action::Greet,
            State::Ended(_) => unreachable!("an ended launch asks for nothing"),
        }
    }

    fn advance(&mut self, outcome: Outcome) {
        assert!(self.try_advance(outcome), "{:?} cannot see {outcome:?}", self.state());
    }
}

impl CHelper {
    /// Just forked.
    pub fn new() -> Self {
        let error = RawError { fault: u8::MAX, ..RawError::default() };
        let (state, reserved, app_pid) = (u8::MAX, [u8::MAX; 3], u32::MAX);
        let mut helper = Self { state, reserved, app_pid, error };
        rk_helper_init(&mut helper);
        helper
    }

    /// Where it stands.
    pub fn state(&self) -> HelperState {
        match self.state {
            0 => HelperState::DropGroups,
            1 => HelperState::JoinNamespaces,
            2 => HelperState::TakeIds,
            3 => HelperState::DropPrivileges,
            4 => HelperState::EnterDirectory,
            5 => HelperState::StartApp,
            6 => HelperState::Ended(self.error.read().map_or(Ok(self.app_pid), Err)),
            other => unreachable!("there is no state {other}"),
        }
    }

    /// What came of it; none while it is under way.
    pub fn result(&self) -> Option<Result<u32, Error>> {
        match self.state() {
            HelperState::Ended(result) => Some(result),
            _ => None,
        }
    }

    /// Whether this can come of the action, of the outcomes that a client knows. If it cannot,
    /// nothing changes.
    pub fn try_advance(&mut self, outcome: Outcome) -> bool {
        rk_helper_advance(self, &RawOutcome::new(outcome))
    }
}

impl Default for CHelper {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine for CHelper {
    type Action = HelperAction;
    type Outcome = HelperOutcome;

    fn step(&self) -> Option<Step> {
        step_of(rk_helper_step(self))
    }

    fn action(&self) -> HelperAction {
        match self.state() {
            HelperState::DropGroups => HelperAction::DropGroups,
            HelperState::JoinNamespaces => HelperAction::JoinNamespaces,
            HelperState::TakeIds => HelperAction::TakeIds,
            HelperState::DropPrivileges => HelperAction::DropPrivileges,
            HelperState::EnterDirectory => HelperAction::EnterDirectory,
            HelperState::StartApp => HelperAction::StartApp,
            HelperState::Ended(_) => unreachable!("an ended helper asks for nothing"),
        }
    }

    fn advance(&mut self, outcome: HelperOutcome) {
        let told = match outcome {
            HelperOutcome::Done => Outcome::Done,
            HelperOutcome::App { pid } => Outcome::App { pid },
            HelperOutcome::Failed(errno) => Outcome::Failed(errno),
        };
        assert!(self.try_advance(told), "{:?} cannot see {outcome:?}", self.state());
    }
}

// --- Requests. ---

/// What a caller asks for, as C has it: nothing is checked yet. None: it is not set.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// As in [`protocol::Request`].
    pub app_id: u32,
    /// As there.
    pub uid: u32,
    /// As there.
    pub gid: u32,
    /// As there.
    pub package: Option<&'a [u8]>,
    /// As there.
    pub exec_dir: Option<&'a [u8]>,
    /// As there.
    pub data_dir: Option<&'a [u8]>,
    /// All top directories, whatever else is named.
    pub overlay_all: bool,
    /// At most 16, each with its place in the caller's array.
    pub overlay_dirs: Vec<(u8, &'a [u8])>,
    /// As in [`protocol::Request`].
    pub timeout_ms: u32,
    /// As in [`protocol::Options`].
    pub seccomp: Seccomp<'a>,
    /// As there.
    pub volatile: bool,
    /// As in [`protocol::Request`].
    pub ids: Ids,
    /// Whether it may make user namespaces.
    pub user_namespaces: bool,
    /// Whether it takes orders.
    pub commanded: bool,
    /// Whether it stays without who gives them.
    pub stays: bool,
    /// Whether it sees the host's devices.
    pub host_dev: bool,
    /// As in [`protocol::Options`].
    pub landlock: bool,
    /// As there.
    pub limits: Limits<'a>,
    /// Those of the host's that it sees.
    pub devices: Vec<CString>,
}

impl RawPath {
    const NONE: Self = Self { bytes: ptr::null(), length: 0 };

    fn new(bytes: Option<&[u8]>) -> Self {
        let of = |bytes: &[u8]| Self { bytes: bytes.as_ptr(), length: bytes.len() };
        bytes.map_or(Self::NONE, of)
    }
}

/// How many bytes of a text C takes for a path.
pub fn path_length(text: &CStr) -> usize {
    // SAFETY: it reads up to the NUL at most, and a `CStr` has one.
    unsafe { rk_path(text.as_ptr()) }.length
}

impl Asked<'_> {
    /// Its pointers lead to what `self` owns or borrows; `devices` to its devices, and then nowhere.
    fn raw(&self, devices: &[*const c_char]) -> RawRequest {
        assert!(self.overlay_dirs.len() <= OVERLAY_DIRS_MAX, "the caller's array has 16 places");
        let mut overlay_index = [0; OVERLAY_DIRS_MAX];
        let mut overlay_dirs = [RawPath::NONE; OVERLAY_DIRS_MAX];
        let mut overlays = 0;
        for (place, &(index, dir)) in self.overlay_dirs.iter().enumerate() {
            (overlay_index[place], overlay_dirs[place]) = (index, RawPath::new(Some(dir)));
            overlays += 1;
        }
        let (inside_uid, inside_gid) = self.ids.inside(self.uid, self.gid);
        let (seccomp, filter) = match self.seccomp {
            Seccomp::Default => (0, None),
            Seccomp::Unconfined => (1, None),
            Seccomp::Log => (2, None),
            Seccomp::Filter(bytes) => (3, Some(bytes)),
        };
        RawRequest {
            app_id: self.app_id,
            uid: self.uid,
            gid: self.gid,
            package: RawPath::new(self.package),
            exec_dir: RawPath::new(self.exec_dir),
            data_dir: RawPath::new(self.data_dir),
            overlay_all: u8::from(self.overlay_all),
            overlays,
            overlay_index,
            seccomp,
            user_namespaces: u8::from(self.user_namespaces),
            commanded: u8::from(self.commanded),
            stays: u8::from(self.stays),
            host_dev: u8::from(self.host_dev),
            is_volatile: u8::from(self.volatile),
            landlock: u8::from(self.landlock),
            has_inside: u8::from(self.ids != Ids::Identity),
            inside_uid,
            inside_gid,
            filter: RawPath::new(filter),
            overlay_dirs,
            timeout_ms: self.timeout_ms,
            limits: self.limits(),
            devices: devices.as_ptr(),
        }
    }

    /// C has no limit that is 0, but for swap.
    fn limits(&self) -> RawLimits {
        let Limits { memory, swap, pids, cpu_millis, cpu_weight, cpus, io_read, io_write } =
            self.limits;
        RawLimits {
            memory: memory.unwrap_or(0),
            swap: swap.unwrap_or(0),
            has_swap: u32::from(swap.is_some()),
            pids: pids.unwrap_or(0),
            cpu_millis: cpu_millis.unwrap_or(0),
            cpu_weight: u32::from(cpu_weight.unwrap_or(0)),
            cpus: RawPath::new(cpus.map(str::as_bytes)),
            io_read: io_read.unwrap_or(0),
            io_write: io_write.unwrap_or(0),
        }
    }

    /// Which rule it breaks.
    pub fn check(&self) -> Option<Error> {
        // SAFETY: each path's pointer and length are those of a slice that outlives the call, or
        // null and 0; `overlays` counts the first of them that are set; `devices` ends with null.
        unsafe { rk_request_check(&self.raw(&pointers(&self.devices))) }.read()
    }

    /// The message that asks for it, however long.
    pub fn encode(&self) -> Vec<u8> {
        let devices = pointers(&self.devices);
        // SAFETY: as for `check`; the numbers and pieces of the longest request have room.
        gather(|out| unsafe { rk_encode_launch(&self.raw(&devices), out) })
    }
}

/// The message that asks for a living rocker.
pub fn encode_attach(name: Name) -> Vec<u8> {
    // SAFETY: it reads so many digits as a name has.
    gather(|out| unsafe { rk_encode_attach(name.as_str().as_ptr().cast(), out) })
}

/// The message that kills a living rocker.
pub fn encode_kill(name: Name) -> Vec<u8> {
    // SAFETY: as above.
    gather(|out| unsafe { rk_encode_kill(name.as_str().as_ptr().cast(), out) })
}

/// The message that asks for all of them.
pub fn encode_list() -> Vec<u8> {
    // SAFETY: it writes one `struct rk_pieces`, for which there is room.
    gather(|out| unsafe { rk_encode_list(out) })
}

/// The message of enter.4.
pub fn encode_app_started() -> Vec<u8> {
    // SAFETY: it writes one `struct rk_pieces`, for which there is room.
    gather(|out| unsafe { rk_encode_app_started(out) })
}

/// The message that `write` leaves in pieces. One that does not fit is cut; none is so long.
fn gather(write: impl FnOnce(*mut RawPieces)) -> Vec<u8> {
    let mut numbers = vec![0; MESSAGE_MAX + 1];
    let none = RawPiece { iov_base: ptr::null(), iov_len: 0 };
    let (room, pieces) = (numbers.len(), [none; PIECES_MAX]);
    let mut out =
        RawPieces { numbers: numbers.as_mut_ptr(), room, used: 0, length: 0, count: 0, pieces };
    write(&raw mut out);
    let count = usize::try_from(out.count).expect("there are few");
    let mut bytes = vec![];
    for piece in &out.pieces[..count] {
        // SAFETY: a piece lies in `numbers`, or is a path of the request, whose slices the caller
        // of `write` still borrows.
        bytes.extend_from_slice(unsafe {
            core::slice::from_raw_parts(piece.iov_base, piece.iov_len)
        });
    }
    assert!(bytes.len() == out.length || bytes.len() > MESSAGE_MAX, "that is all");
    bytes
}

// --- Answers. ---

/// What a client hears in a datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Heard<'a> {
    /// root.5
    Entrance {
        /// The guard's name.
        name: Name,
        /// The guard's pid.
        guard_pid: u32,
        /// The App's filter.
        filter: &'a [u8],
    },
    /// From master or guard.
    Failed(Failure<'a>),
    /// No message for a client.
    Lost(Loss),
}

/// `enum rk_kind`
const NOTHING: u8 = 0;
const ENTERING: u8 = 1;
const FAILURE: u8 = 2;
const STARTED: u8 = 3;
const NOT_STARTED: u8 = 4;
const EXITED: u8 = 5;
const PONG: u8 = 6;
const OBEYED: u8 = 7;
const OPENED: u8 = 8;
const ROCKER: u8 = 9;
const LIST_END: u8 = 10;
const GONE: u8 = 11;

/// `enum rk_kind_of_order`
const PROGRAM: u32 = 0;
const FILES: u32 = 1;
const DELETE: u32 = 2;
const SYMLINK: u32 = 3;
const CONFIGURE: u32 = 4;
const RESET: u32 = 5;

impl RawMessage {
    /// What `read` makes of a datagram.
    fn of(datagram: &[u8], read: unsafe extern "C" fn(*const u8, usize, *mut Self)) -> Box<Self> {
        let mut message = Box::new(MaybeUninit::<Self>::zeroed());
        // SAFETY: it reads so many bytes from there on, and writes one `struct rk_message`.
        unsafe { read(datagram.as_ptr(), datagram.len(), message.as_mut_ptr()) };
        // SAFETY: null pointers and zeros are a value of each field, and C writes only others.
        unsafe { message.assume_init() }
    }

    fn rest<'a>(&self, datagram: &'a [u8]) -> &'a [u8] {
        // It is a part of the datagram, so there is no need to follow the pointer.
        let begin = self.rest.bytes.addr() - datagram.as_ptr().addr();
        &datagram[begin..begin + self.rest.length]
    }

    fn failure<'a>(&self, datagram: &'a [u8]) -> Failure<'a> {
        let command = str::from_utf8(self.rest(datagram)).expect("it is UTF-8");
        Failure { error: self.error.read().expect("a failure"), command }
    }
}

/// Reads a datagram: what it says, and how many descriptors come with it.
pub fn decode(datagram: &[u8]) -> (Heard<'_>, usize) {
    let message = RawMessage::of(datagram, rk_decode);
    let heard = match message.kind {
        NOTHING => Heard::Lost(LOSSES[usize::from(message.loss)]),
        ENTERING => Heard::Entrance {
            name: name_of(message.name),
            guard_pid: message.pid,
            filter: message.rest(datagram),
        },
        FAILURE => Heard::Failed(message.failure(datagram)),
        other => unreachable!("there is no kind {other}"),
    };
    (heard, usize::from(message.descriptors))
}

/// What whoever asks the master hears in a datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Told<'a> {
    /// A living rocker.
    Rocker(protocol::RockerInfo<'a>),
    /// That was the last one.
    End,
    /// What was to be killed is.
    Gone,
    /// From master or guard.
    Failed(Failure<'a>),
    /// No answer to a question.
    Lost(Loss),
}

/// Reads the answer to a question: what it says, and how many descriptors come with it.
pub fn decode_told(datagram: &[u8]) -> (Told<'_>, usize) {
    let message = RawMessage::of(datagram, rk_decode_told);
    let told = match message.kind {
        NOTHING => Told::Lost(LOSSES[usize::from(message.loss)]),
        FAILURE => Told::Failed(message.failure(datagram)),
        ROCKER => Told::Rocker(protocol::RockerInfo {
            name: name_of(message.info.guard_pname),
            app_id: message.info.app_id,
            uid: message.info.uid,
            guard_pid: message.info.guard_pid.cast_unsigned(),
            age_ms: message.info.age_ms,
            package: Path::new(message.rest(datagram)).expect("a path that keeps the rules"),
        }),
        LIST_END => Told::End,
        GONE => Told::Gone,
        other => unreachable!("there is no kind {other}"),
    };
    (told, usize::from(message.descriptors))
}

/// What whoever gives orders hears in a datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer<'a> {
    /// exec.2
    Started {
        /// The order.
        id: u32,
        /// Its pid inside.
        pid: u32,
    },
    /// exec.2
    Failed {
        /// The order.
        id: u32,
        /// Why.
        failure: Failure<'a>,
    },
    /// exec.3
    Exited {
        /// The order.
        id: u32,
        /// How.
        report: ExitReport,
    },
    /// The guard is there.
    Pong,
    /// It was carried out.
    Obeyed {
        /// The order.
        id: u32,
    },
    /// Files were opened, or not.
    Opened {
        /// The order.
        id: u32,
        /// How many, and for each the kernel's answer.
        errnos: (usize, [u16; DESCRIPTORS_MAX]),
    },
    /// Its last words.
    LastWords(Failure<'a>),
    /// No answer to an order.
    Lost(Loss),
}

/// Every verdict, by its number.
const VERDICTS: [Verdict; 10] = [
    Verdict::Normal,
    Verdict::TimeLimitExceeded,
    Verdict::MemoryLimitExceeded,
    Verdict::OutputLimitExceeded,
    Verdict::DisallowedSyscall,
    Verdict::Signalled,
    Verdict::NonzeroExitStatus,
    Verdict::RunnerError,
    Verdict::OutOfMemory,
    Verdict::Cancelled,
];

impl RawUsage {
    fn read(self) -> Usage {
        let known = |number| (number != u64::MAX).then_some(number);
        Usage {
            memory: known(self.memory),
            memory_peak: known(self.memory_peak),
            pids: known(self.pids),
            pids_peak: known(self.pids_peak),
            cpu_us: known(self.cpu_us),
            read: known(self.read),
            written: known(self.written),
        }
    }
}

impl RawReport {
    fn read(self) -> ExitReport {
        let byte = |number: c_int| u8::try_from(number).expect("it was one");
        let exit = match self.status {
            -1 => Exit::Signal(byte(self.signal)),
            status => Exit::Status(byte(status)),
        };
        let Self { user_us, system_us, wall_us, peak_kib, usage, .. } = self;
        let verdict = VERDICTS[usize::try_from(self.verdict).expect("there are ten")];
        let syscall = (self.syscall != -1).then_some(self.syscall.cast_unsigned());
        let usage = usage.read();
        ExitReport { exit, verdict, user_us, system_us, wall_us, peak_kib, syscall, usage }
    }
}

impl RawMessage {
    fn answer<'a>(&self, datagram: &'a [u8]) -> Answer<'a> {
        let id = self.id;
        match self.kind {
            NOTHING => Answer::Lost(LOSSES[usize::from(self.loss)]),
            STARTED => Answer::Started { id, pid: self.pid },
            FAILURE => Answer::LastWords(self.failure(datagram)),
            NOT_STARTED => Answer::Failed { id, failure: self.failure(datagram) },
            EXITED => Answer::Exited { id, report: self.report.read() },
            PONG => Answer::Pong,
            OBEYED => Answer::Obeyed { id },
            OPENED => {
                let count = usize::try_from(self.files).expect("there are few");
                let mut errnos = [0; DESCRIPTORS_MAX];
                errnos[..count].copy_from_slice(&self.errnos[..count]);
                Answer::Opened { id, errnos: (count, errnos) }
            }
            other => unreachable!("there is no kind {other}"),
        }
    }
}

/// Reads a datagram of a guard that takes orders: what it says, and how many descriptors come
/// with it.
pub fn decode_answer(datagram: &[u8]) -> (Answer<'_>, usize) {
    let message = RawMessage::of(datagram, rk_decode_answer);
    (message.answer(datagram), usize::from(message.descriptors))
}

// --- Orders. ---

/// A program, as C has it in `RockerProgram` and `RockerExec`.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Its own name first, which is the path, too.
    pub args: Vec<CString>,
    /// `NAME=value`
    pub env: Vec<CString>,
    /// As in [`protocol::Exec`].
    pub cwd: Option<CString>,
    /// As there.
    pub descriptors: u8,
    /// As there.
    pub by_descriptor: bool,
    /// As there.
    pub terminal: bool,
    /// As there.
    pub rlimits: Vec<Rlimit>,
    /// As there.
    pub wall_ms: u32,
    /// As there.
    pub grace_ms: u32,
    /// As there: whole instructions.
    pub filter: Vec<u8>,
    /// As there.
    pub sync: bool,
    /// As in [`protocol::ClientMessage::ExecIn`].
    pub cgroups: u8,
}

fn pointer(text: Option<&CString>) -> *const c_char {
    text.map_or(ptr::null(), |text| text.as_ptr())
}

/// Null at the end.
fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}

impl RawProgram {
    fn new(
        argv: &[*const c_char],
        envp: &[*const c_char],
        cwd: *const c_char,
        terminal: bool,
    ) -> Self {
        Self {
            size: size_of::<Self>(),
            path: argv[0],
            argv: argv.as_ptr(),
            envp: envp.as_ptr(),
            cwd,
            stdio: [-1; 3],
            fds_count: 0,
            fds: ptr::null(),
            keep_session: 0,
            terminal: terminal.into(),
        }
    }
}

/// Strings as a message has them, each for itself.
pub fn c_strings(strings: Strings<'_>) -> Vec<CString> {
    let owned = |it: &[u8]| CStr::from_bytes_with_nul(it).expect("it ends with NUL").to_owned();
    strings.iter().map(owned).collect()
}

impl Wanted {
    /// The message that asks for it.
    pub fn encode(&self, id: u32) -> Vec<u8> {
        let (argv, envp) = (pointers(&self.args), pointers(&self.env));
        let cwd = pointer(self.cwd.as_ref());
        let program = RawProgram::new(&argv, &envp, cwd, self.terminal);
        let raw = |limit: &Rlimit| RawRlimit {
            resource: limit.resource.into(),
            soft: limit.soft,
            hard: limit.hard,
        };
        let rlimits: Vec<RawRlimit> = self.rlimits.iter().map(raw).collect();
        let exec = RawExec {
            size: size_of::<RawExec>(),
            data: ptr::null_mut(),
            wall_ms: self.wall_ms,
            grace_ms: self.grace_ms,
            rlimits_count: c_uint::try_from(rlimits.len()).expect("a few"),
            rlimits: rlimits.as_ptr(),
            program_fd: if self.by_descriptor { 9 } else { -1 },
            sync: self.sync.into(),
            filter_count: c_uint::try_from(self.filter.len() / INSTRUCTION).expect("a few"),
            filter: self.filter.as_ptr().cast(),
            cgroups_count: self.cgroups.into(),
            // Their numbers are no part of the message.
            cgroups: ptr::null(),
        };
        // SAFETY: every pointer is that of a string or a list of this scope, or null where the
        // header allows it; the lists end with null, or have the length beside them.
        gather(|out| unsafe {
            rk_encode_exec(id, &raw const program, &raw const exec, self.descriptors.into(), out);
        })
    }
}

/// The message that asks for files: path, how, and mode of each.
pub fn encode_open(id: u32, files: &[(CString, u16, u16)]) -> Vec<u8> {
    let raw = |(path, how, mode): &(CString, u16, u16)| RawFile {
        path: path.as_ptr(),
        how: (*how).into(),
        mode: (*mode).into(),
    };
    let raw: Vec<RawFile> = files.iter().map(raw).collect();
    let count = c_uint::try_from(raw.len()).expect("a few");
    // SAFETY: it reads so many files, with paths that `files` owns.
    gather(|out| unsafe { rk_encode_open(id, raw.as_ptr(), count, out) })
}

/// The message that deletes.
pub fn encode_delete(id: u32, path: &CStr, tree: bool) -> Vec<u8> {
    // SAFETY: it reads up to the NUL.
    gather(|out| unsafe { rk_encode_delete(id, path.as_ptr(), tree, out) })
}

/// The message that links.
pub fn encode_symlink(id: u32, target: &CStr, path: &CStr) -> Vec<u8> {
    // SAFETY: as above.
    gather(|out| unsafe { rk_encode_symlink(id, target.as_ptr(), path.as_ptr(), out) })
}

/// The message that greets a guard, and asks whether it is there.
pub fn encode_ping() -> Vec<u8> {
    // SAFETY: it writes one `struct rk_pieces`, for which there is room.
    gather(|out| unsafe { rk_encode_ping(out) })
}

/// `ROCKER_PLACE_*`, source, target, bytes and mode of a place.
fn place(place: Place<'_>) -> (c_uint, Option<CString>, CString, u64, u16) {
    let c = |bytes: &[u8]| CString::new(bytes).expect("paths have no NUL");
    let path = |path: Path<'_>| c(path.as_bytes());
    match place {
        Place::Bind { source, target, read_only } => {
            (u32::from(read_only), Some(path(source)), path(target), 0, 0)
        }
        Place::Tmpfs { target, bytes, mode } => (2, None, path(target), bytes, mode),
        Place::Overlay { target, bytes } => (3, None, path(target), bytes, 0),
        Place::Proc { target } => (4, None, path(target), 0, 0),
        Place::Dev { target, shm_bytes } => (5, None, path(target), shm_bytes, 0),
        Place::Link { path: at, target } => (6, Some(c(target.as_bytes())), path(at), 0, 0),
        Place::Mask { target } => (7, None, path(target), 0, 0),
    }
}

/// The message that says what a rocker is to look like.
pub fn encode_conf(id: u32, conf: &Conf<'_>) -> Vec<u8> {
    let c = |bytes: &[u8]| CString::new(bytes).expect("neither paths nor names have a NUL");
    let path = |path: Path<'_>| c(path.as_bytes());
    let owned: Vec<_> = conf.places.iter().map(|it| place(it.expect("it is one"))).collect();
    let raw = |(kind, source, target, bytes, mode): &(_, Option<CString>, CString, u64, u16)| {
        let (source, target) = (pointer(source.as_ref()), target.as_ptr());
        RawPlace { kind: *kind, mode: (*mode).into(), source, target, bytes: *bytes }
    };
    let places: Vec<RawPlace> = owned.iter().map(raw).collect();
    let (root, empty_root) = match conf.root {
        Root::Whole => (None, 0),
        Root::Directory(dir) => (Some(path(dir)), 0),
        Root::Tmpfs(bytes) => (None, bytes),
    };
    let work_dir = conf.work_dir.map(path);
    let [host_name, domain_name] =
        [conf.host_name, conf.domain_name].map(|name| name.map(|name| c(name.as_bytes())));
    let (init, init_env) = (c_strings(conf.init), c_strings(conf.init_env));
    let (argv, envp) = (pointers(&init), pointers(&init_env));
    let program = RawProgram::new(&argv, &envp, ptr::null(), false);
    let raw = RawConf {
        size: size_of::<RawConf>(),
        root: pointer(root.as_ref()),
        empty_root,
        places: places.as_ptr(),
        places_count: c_uint::try_from(places.len()).expect("few"),
        unshare_cgroup: conf.unshare_cgroup.into(),
        work_dir: pointer(work_dir.as_ref()),
        host_name: pointer(host_name.as_ref()),
        domain_name: pointer(domain_name.as_ref()),
        init: if init.is_empty() { ptr::null() } else { &raw const program },
        init_ms: conf.init_ms,
    };
    // SAFETY: every pointer is that of a string, a list or a struct of this scope, or null where
    // the header allows it; lists have their length beside them, or end with null.
    gather(|out| unsafe { rk_encode_conf(id, &raw const raw, out) })
}

/// The message that makes a rocker new again.
pub fn encode_reset(id: u32) -> Vec<u8> {
    // SAFETY: as above.
    gather(|out| unsafe { rk_encode_reset(id, out) })
}

/// The message that lets a program execute.
pub fn encode_go(id: u32) -> Vec<u8> {
    // SAFETY: as above.
    gather(|out| unsafe { rk_encode_go(id, out) })
}

/// The message that takes over a program.
pub fn encode_adopt(id: u32) -> Vec<u8> {
    // SAFETY: as above.
    gather(|out| unsafe { rk_encode_adopt(id, out) })
}

/// The message of a signal.
pub fn encode_signal(id: Option<u32>, signal: u8) -> Vec<u8> {
    // SAFETY: as above.
    gather(|out| unsafe { rk_encode_signal(id.unwrap_or(0), signal, out) })
}

/// What C tells its caller.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// exec.2
    Started {
        /// The order.
        id: u32,
        /// Its pid inside.
        pid: u32,
    },
    /// exec.2
    Failed {
        /// The order.
        id: u32,
    },
    /// exec.3
    Ended {
        /// The order.
        id: u32,
        /// How.
        report: ExitReport,
    },
    /// The guard is there.
    Pong {
        /// The order.
        id: u32,
    },
    /// It was carried out.
    Done {
        /// The order.
        id: u32,
    },
    /// Files were opened, or not.
    Opened {
        /// The order.
        id: u32,
    },
}

/// What C makes of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Meaning {
    /// It is told at once.
    Told(Event),
    /// It is told when its order is asked about.
    Kept,
    /// Nobody is told.
    Forgotten,
    /// No guard says that.
    Denied,
}

/// The machine of a caller's orders: `client-c/src/orders.c`.
#[derive(Debug)]
pub struct COrders(Box<RawOrders>);

impl COrders {
    /// After the greeting.
    pub fn new() -> Self {
        Self::after_pings(1)
    }

    /// After so many pings that are unanswered.
    pub fn after_pings(pings: u32) -> Self {
        let mut orders = Box::new(MaybeUninit::<RawOrders>::uninit());
        // SAFETY: it writes one `struct rk_orders`.
        unsafe { rk_orders_init(orders.as_mut_ptr(), pings) };
        // SAFETY: it has written all of it.
        Self(unsafe { orders.assume_init() })
    }

    /// An order to start a program, if there is room for one: its number.
    pub fn exec(&mut self) -> Option<u32> {
        self.start(false)
    }

    /// The same of one for which the guard does not wait.
    pub fn exec_to_wait(&mut self) -> Option<u32> {
        self.start(true)
    }

    fn start(&mut self, apart: bool) -> Option<u32> {
        let id = rk_orders_next_id(&self.0);
        let has_room = rk_orders_have_room(&self.0, PROGRAM);
        has_room.then(|| {
            // Unlike any other.
            let data = ptr::without_provenance_mut(!usize::try_from(id).unwrap_or(0));
            // SAFETY: it keeps the pointer, and does not follow it.
            unsafe { rk_orders_exec(&raw mut *self.0, data, apart) };
            id
        })
    }

    /// An order for so many files, if there is room for one.
    pub fn files(&mut self, count: u32) -> Option<u32> {
        let id = rk_orders_next_id(&self.0);
        rk_orders_have_room(&self.0, FILES).then(|| {
            rk_orders_files(&mut self.0, count);
            id
        })
    }

    /// An order of another kind, if there is room for one.
    pub fn deed(&mut self) -> Option<u32> {
        let id = rk_orders_next_id(&self.0);
        // Each in turn: they have the same answers.
        let kind = [DELETE, SYMLINK, CONFIGURE, RESET][usize::try_from(id % 4).unwrap_or(0)];
        rk_orders_have_room(&self.0, kind).then(|| {
            rk_orders_deed(&mut self.0, kind);
            id
        })
    }

    /// A ping: its number.
    pub fn ping(&mut self) -> u32 {
        let id = rk_orders_next_id(&self.0);
        rk_orders_ping(&mut self.0);
        id
    }

    /// A signal, or the word to go; whether it is sent at all.
    pub fn signal(&mut self, id: Option<u32>) -> bool {
        let sent = id.is_none_or(|id| rk_orders_live(&self.0, id));
        if sent {
            rk_orders_signal(&mut self.0);
        }
        sent
    }

    /// Whether this order's events can be waited for.
    pub fn may_await(&self, id: u32) -> bool {
        rk_orders_may_await(&self.0, id)
    }

    /// What it makes of a datagram.
    pub fn hear(&mut self, datagram: &[u8]) -> Meaning {
        let message = RawMessage::of(datagram, rk_decode_answer);
        let mut event = RawEvent::new();
        // SAFETY: all three are as C has them, and of this scope.
        let told =
            unsafe { rk_orders_hear(&raw mut *self.0, &raw const *message, &raw mut *event) };
        match told {
            0 => Meaning::Told(event.read()),
            1 => Meaning::Kept,
            2 => Meaning::Forgotten,
            3 => Meaning::Denied,
            other => unreachable!("there is no answer {other}"),
        }
    }

    /// An end that was kept: of this order, or of any.
    pub fn end(&mut self, id: Option<u32>) -> Option<Event> {
        let mut event = RawEvent::new();
        // SAFETY: both are as C has them, and of this scope.
        let ended = unsafe { rk_orders_end(&raw mut *self.0, id.unwrap_or(0), &raw mut *event) };
        (!ended.is_null()).then(|| event.read())
    }
}

impl Default for COrders {
    fn default() -> Self {
        Self::new()
    }
}

impl RawEvent {
    fn new() -> Box<Self> {
        Box::new(Self {
            kind: 0,
            id: 0,
            data: ptr::null_mut(),
            pid: 0,
            pidfd: -1,
            report: RawReport::default(),
            error: [0; 10],
            words: [[0; 520]; 2],
            files_count: 0,
            files: [0; DESCRIPTORS_MAX],
        })
    }

    fn read(&self) -> Event {
        let id = self.id;
        let data = if id == 0 { 0 } else { !usize::try_from(id).unwrap_or(0) };
        let is_programs = matches!(self.kind, 1 | 3) || self.data.addr() != 0;
        assert!(!is_programs || self.data.addr() == data, "its data comes with its events");
        match self.kind {
            1 => Event::Started { id, pid: self.pid.cast_unsigned() },
            2 => Event::Failed { id },
            3 => Event::Ended { id, report: self.report.read() },
            4 => Event::Pong { id },
            5 => Event::Done { id },
            6 => Event::Opened { id },
            other => unreachable!("the machine tells of no event {other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use protocol::request::FILTER_MAX;
    use protocol::{limits, wire};

    use super::*;

    // SAFETY: as above; both take and return a number.
    unsafe extern "C" {
        safe fn rk_sim_layout(n: usize) -> usize;
        safe fn rk_sim_number(n: usize) -> usize;
    }

    fn all(entry: impl Fn(usize) -> usize) -> Vec<usize> {
        (0..).map(entry).take_while(|&entry| entry != usize::MAX).collect()
    }

    macro_rules! layout {
        ($($type:ident: $($field:ident)*;)*) => {
            vec![$(size_of::<$type>(), $(offset_of!($type, $field),)*)*]
        };
    }

    #[test]
    fn the_structs_are_those_of_the_headers() {
        let ours = layout![
            RawError: fault step os_errno rule item index loss;
            RawOutcome: result loss os_errno pid error name;
            CClient: state purpose reserved guard_pid app_pid error name;
            CHelper: state reserved app_pid error;
            RawPath: bytes length;
            RawRequest: app_id uid gid package exec_dir data_dir overlay_all overlays
                overlay_index seccomp user_namespaces commanded stays host_dev is_volatile landlock
                has_inside inside_uid inside_gid filter overlay_dirs timeout_ms limits
                devices;
            RawLimits: memory swap has_swap pids cpu_millis cpu_weight cpus io_read io_write;
            RawPiece: iov_base iov_len;
            RawPieces: numbers room used length count pieces;
            RawUsage: memory memory_peak pids pids_peak cpu_us read written;
            RawReport: status signal verdict syscall user_us system_us wall_us peak_kib usage;
            RawMessage: kind loss descriptors reserved pid error name rest id report errnos files
                info;
            RawInfo: guard_pname guard_pid app_id uid age_ms package;
            RawProgram: size path argv envp cwd stdio fds_count fds keep_session terminal;
            RawRlimit: resource soft hard;
            RawExec: size data wall_ms grace_ms rlimits_count rlimits program_fd sync
                filter_count filter cgroups_count cgroups;
            RawEvent: kind id data pid pidfd report error words files_count files;
            RawFile: path how mode;
            RawPlace: kind mode source target bytes;
            RawConf: size root empty_root places places_count unshare_cgroup work_dir host_name
                domain_name init init_ms;
            RawOrder: id stage kind files apart data error end;
            RawOrders: last_id pings ping_id signals lost_order reserved lost orders last_words;
        ];
        assert_eq!(all(|n| rk_sim_layout(n)), ours);
    }

    #[test]
    fn the_numbers_are_those_of_the_headers() {
        let rules = RULES.map(|rule| rule as u8);
        let items = ITEMS.map(|item| item_number(item).0);
        let losses = LOSSES.map(|how| how as u8);
        let steps = [
            Step::RequestRocker,
            Step::HandOver,
            Step::KillGuard,
            Step::CloneGuard,
            Step::CreateLoop,
            Step::BindPackage,
            Step::MountPackage,
            Step::BuildOverlay,
            Step::UnshareUser,
            Step::MountOverlay,
            Step::AwaitEntrance,
            Step::ForkHelper,
            Step::JoinNamespaces,
            Step::RunApp,
            Step::ReportApp,
            Step::RequestExec,
            Step::StartProgram,
            Step::ReportExit,
        ]
        .map(Step::code);
        let faults = [NO_FAULT, INVALID, FAILED_FAULT, LOST_FAULT];
        let results = [DONE, ENTRANCE, APP, FAILED, LOST, REFUSED];
        let launch = [NOTHING, ENTERING, FAILURE];
        let orders = [STARTED, NOT_STARTED, EXITED, PONG, OBEYED, OPENED];
        let kinds = [&launch[..], &orders[..], &[ROCKER, LIST_END, GONE]].concat();
        let purposes =
            [TO_ENTER, TO_ORDER, TO_ATTACH, TO_KILL, TO_LIST].map(|it| u8::try_from(it).unwrap());
        // The states of either machine, and how many there are.
        let states = [0, 1, 2, 3, 4, 5, 6, 7, 8];
        // What is told of answers, how orders stand, every event, and every kind of order.
        let orders = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5];
        let verdicts = VERDICTS.map(|verdict| verdict as u8);
        let lists: [&[u8]; 16] = [
            &rules,
            &[44],
            &items,
            &[24],
            &losses,
            &[4],
            &steps,
            &[NO_STEP],
            &faults,
            &results,
            &kinds,
            &purposes,
            &states[..4],
            &[&states[..], &states[..8]].concat(),
            &orders,
            &verdicts,
        ];
        let mut ours: Vec<usize> = lists.concat().into_iter().map(usize::from).collect();
        let timeouts = [limits::TIMEOUT_MS_DEFAULT, limits::TIMEOUT_MS_MAX];
        let [default, max] = timeouts.map(|ms| usize::try_from(ms).unwrap());
        ours.extend([NAME_LEN, limits::PATH_MAX, OVERLAY_DIRS_MAX, default, max]);
        ours.extend([limits::MESSAGE_MAX, limits::COMMAND_MAX, limits::OWN_FILTER_MAX]);
        ours.extend([usize::from(wire::VERSION), PROGRAMS_MAX, limits::RLIMITS_MAX]);
        ours.extend([DESCRIPTORS_MAX, FILTER_MAX, INSTRUCTION, limits::HOST_NAME_MAX]);
        // All of `protocol::How`.
        ours.extend((0..10).map(|bit| 1 << bit));
        // Every place.
        ours.extend(0..8);
        assert_eq!(all(|n| rk_sim_number(n)), ours);
    }

    /// That none is missing here is seen with the messages of `vectors.txt`, which hold them all.
    #[test]
    fn the_numbers_are_those_of_protocol() {
        assert!(RULES.iter().zip(0_u8..).all(|(&rule, number)| rule as u8 == number));
        assert!(LOSSES.iter().zip(0_u8..).all(|(&how, number)| how as u8 == number));
        assert!(ITEMS.iter().zip(0_u8..).all(|(&item, number)| item_number(item).0 == number));
        for code in 0..=u8::MAX {
            assert_eq!(is_step(code), Step::from_code(code).is_some(), "{code:#x}");
        }
    }
}
