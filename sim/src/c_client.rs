//! The C client through FFI: its machines as [`Machine`]s, the check of a request, the messages
//! it says and reads. The one file of this crate with `unsafe`.
//!
//! The structs are those of `client-c/src/*.h`; the tests below compare every offset and every
//! number with the headers.
#![allow(unsafe_code, reason = "C is called")]

use core::ffi::{CStr, c_char, c_uint};
use core::mem::{MaybeUninit, size_of};
use core::ptr;

use protocol::limits::{NAME_LEN, OVERLAY_DIRS_MAX};
use protocol::message::Failure;
use protocol::{Errno, Error, Item, Loss, Machine, Name, Rule, Step};
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
    reserved: [u8; 3],
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
    unconfined: u8,
    user_namespaces: u8,
    overlay_dirs: [RawPath; OVERLAY_DIRS_MAX],
    timeout_ms: u32,
}

/// `struct iovec`
#[repr(C)]
#[derive(Clone, Copy)]
struct RawPiece {
    iov_base: *const u8,
    iov_len: usize,
}

const PIECES_MAX: usize = 2 * (3 + OVERLAY_DIRS_MAX) + 1;

/// `struct rk_pieces`
#[repr(C)]
struct RawPieces {
    count: c_uint,
    used: c_uint,
    length: usize,
    pieces: [RawPiece; PIECES_MAX],
    numbers: [u8; 144],
}

/// `struct rk_message`
#[repr(C)]
#[derive(Debug)]
struct RawMessage {
    kind: u8,
    loss: u8,
    descriptors: u8,
    reserved: u8,
    guard_pid: u32,
    error: RawError,
    name: [u8; NAME_LEN + 1],
    rest: RawPath,
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
    safe fn rk_client_init(client: &mut CClient);
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
    fn rk_encode_app_started(out: *mut RawPieces);
    fn rk_decode(datagram: *const u8, length: usize, message: *mut RawMessage);
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
const RULES: [Rule; 22] = [
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
];

/// Every item, by its number; the place of an overlay dir is beside it.
const ITEMS: [Item; 13] = [
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
        let mut client = Self {
            state: u8::MAX,
            reserved: [u8::MAX; 3],
            guard_pid: u32::MAX,
            app_pid: u32::MAX,
            error: RawError { fault: u8::MAX, ..RawError::default() },
            name: [u8::MAX; NAME_LEN + 1],
        };
        rk_client_init(&mut client);
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
            6 => State::Ended(self.error.read().map_or_else(|| Ok(started()), Err)),
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
            State::Greet(_) => unreachable!("there are no orders in C"),
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
    /// Whether it may make any system call.
    pub unconfined: bool,
    /// Whether it may make user namespaces.
    pub user_namespaces: bool,
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
    /// Its pointers lead to what `self` borrows.
    fn raw(&self) -> RawRequest {
        assert!(self.overlay_dirs.len() <= OVERLAY_DIRS_MAX, "the caller's array has 16 places");
        let mut overlay_index = [0; OVERLAY_DIRS_MAX];
        let mut overlay_dirs = [RawPath::NONE; OVERLAY_DIRS_MAX];
        let mut overlays = 0;
        for (place, &(index, dir)) in self.overlay_dirs.iter().enumerate() {
            (overlay_index[place], overlay_dirs[place]) = (index, RawPath::new(Some(dir)));
            overlays += 1;
        }
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
            unconfined: u8::from(self.unconfined),
            user_namespaces: u8::from(self.user_namespaces),
            overlay_dirs,
            timeout_ms: self.timeout_ms,
        }
    }

    /// Which rule it breaks.
    pub fn check(&self) -> Option<Error> {
        // SAFETY: each path's pointer and length are those of a slice that outlives the call, or
        // null and 0; `overlays` counts the first of them that are set.
        unsafe { rk_request_check(&self.raw()) }.read()
    }

    /// The message that asks for it, however long.
    pub fn encode(&self) -> Vec<u8> {
        // SAFETY: as for `check`; the numbers and pieces of the longest request have room.
        gather(|out| unsafe { rk_encode_launch(&self.raw(), out) })
    }
}

/// The message of enter.4.
pub fn encode_app_started() -> Vec<u8> {
    // SAFETY: it writes one `struct rk_pieces`, for which there is room.
    gather(|out| unsafe { rk_encode_app_started(out) })
}

/// The message that `write` leaves in pieces.
fn gather(write: impl FnOnce(*mut RawPieces)) -> Vec<u8> {
    let mut out = MaybeUninit::<RawPieces>::zeroed();
    write(out.as_mut_ptr());
    // SAFETY: null pointers and zeros are a value of each field, and C writes only others.
    let out = unsafe { out.assume_init_ref() };
    let count = usize::try_from(out.count).expect("there are few");
    let mut bytes = vec![];
    for piece in &out.pieces[..count] {
        // SAFETY: a piece lies in `out.numbers`, which has not moved since, or is a path of the
        // request, whose slices the caller of `write` still borrows.
        bytes.extend_from_slice(unsafe {
            core::slice::from_raw_parts(piece.iov_base, piece.iov_len)
        });
    }
    assert_eq!(bytes.len(), out.length, "the length is that of all pieces");
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

/// Reads a datagram: what it says, and how many descriptors come with it.
pub fn decode(datagram: &[u8]) -> (Heard<'_>, usize) {
    let mut message = MaybeUninit::<RawMessage>::zeroed();
    // SAFETY: it reads so many bytes from there on, and writes one `struct rk_message`.
    unsafe { rk_decode(datagram.as_ptr(), datagram.len(), message.as_mut_ptr()) };
    // SAFETY: null pointers and zeros are a value of each field, and C writes only others.
    let message = unsafe { message.assume_init_ref() };
    let rest = || {
        // It is a part of the datagram, so there is no need to follow the pointer.
        let begin = message.rest.bytes.addr() - datagram.as_ptr().addr();
        &datagram[begin..begin + message.rest.length]
    };
    let heard = match message.kind {
        NOTHING => Heard::Lost(LOSSES[usize::from(message.loss)]),
        ENTERING => Heard::Entrance {
            name: name_of(message.name),
            guard_pid: message.guard_pid,
            filter: rest(),
        },
        FAILURE => {
            let command = str::from_utf8(rest()).expect("it is UTF-8");
            Heard::Failed(Failure { error: message.error.read().expect("a failure"), command })
        }
        other => unreachable!("there is no kind {other}"),
    };
    (heard, usize::from(message.descriptors))
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

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
            CClient: state reserved guard_pid app_pid error name;
            CHelper: state reserved app_pid error;
            RawPath: bytes length;
            RawRequest: app_id uid gid package exec_dir data_dir overlay_all overlays
                overlay_index unconfined user_namespaces overlay_dirs timeout_ms;
            RawPiece: iov_base iov_len;
            RawPieces: count used length pieces numbers;
            RawMessage: kind loss descriptors reserved guard_pid error name rest;
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
        ]
        .map(Step::code);
        let faults = [NO_FAULT, INVALID, FAILED_FAULT, LOST_FAULT];
        let results = [DONE, ENTRANCE, APP, FAILED, LOST, REFUSED];
        let kinds = [NOTHING, ENTERING, FAILURE];
        // The seven states of either machine, and how many there are.
        let states = [0, 1, 2, 3, 4, 5, 6, 7];
        let lists: [&[u8]; 12] = [
            &rules,
            &[22],
            &items,
            &[13],
            &losses,
            &[4],
            &steps,
            &[NO_STEP],
            &faults,
            &results,
            &kinds,
            &[states, states].concat(),
        ];
        let mut ours: Vec<usize> = lists.concat().into_iter().map(usize::from).collect();
        let timeouts = [limits::TIMEOUT_MS_DEFAULT, limits::TIMEOUT_MS_MAX];
        let [default, max] = timeouts.map(|ms| usize::try_from(ms).unwrap());
        ours.extend([NAME_LEN, limits::PATH_MAX, OVERLAY_DIRS_MAX, default, max]);
        ours.extend([limits::MESSAGE_MAX, limits::COMMAND_MAX, limits::OWN_FILTER_MAX]);
        ours.push(usize::from(wire::VERSION));
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
