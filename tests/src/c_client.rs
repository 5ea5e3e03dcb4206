//! The C library, `client-c`, for tests: its public header and nothing else, with owners for
//! what it points to and returns.
#![allow(unsafe_code, reason = "functions of another language have no safe form")]

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use core::marker::PhantomData;
use core::time::Duration;
use core::{fmt, ptr};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use protocol::{Exit, ExitReport, Rlimit, Verdict};
use rocker_client::{RockerEntry, Stdio};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};

/// `ROCKER_ERR_*`
pub mod code {
    #![allow(missing_docs, reason = "the header says what they mean")]
    pub const UNKNOWN: i32 = -1;
    pub const SUCCESS: i32 = 0;
    pub const SYS: i32 = 1;
    pub const PARAM_INVALID: i32 = 2;
    pub const SERVER_UNADDR_INVALID: i32 = 3;
    pub const GEN_LOCAL_ADDR_FAILED: i32 = 4;
    pub const SEND_REQ_FAILED: i32 = 5;
    pub const RECV_RESP_FAILED: i32 = 6;
    pub const BUILD_ROCKER_FAILED: i32 = 7;
    pub const ENTER_ROCKER_FAILED: i32 = 8;
    pub const APP_EXEC_FAILED: i32 = 9;
    pub const GET_GUARDNAME_FAILED: i32 = 10;
}

/// The header's structs, field by field, and its functions.
mod ffi {
    use super::{c_char, c_int, c_uint, c_void};

    #[derive(Clone, Copy)]
    #[repr(C)]
    pub(super) struct RockerResult {
        pub(super) err_no: c_int,
        pub(super) app_pid: c_int,
        pub(super) guard_pid: c_int,
        pub(super) guard_pname: [c_char; 16],
    }

    #[repr(C)]
    pub(super) struct RockerRequest {
        pub(super) app_id: c_int,
        pub(super) uid: c_int,
        pub(super) gid: c_int,
        pub(super) app_pkg_path: *const c_char,
        pub(super) app_exec_dir: *const c_char,
        pub(super) app_data_dir: *const c_char,
        pub(super) app_overlay_dirs: [*const c_char; 16],
    }

    #[repr(C)]
    pub(super) struct RockerOptions {
        pub(super) size: usize,
        pub(super) socket_path: *const c_char,
        pub(super) connection: c_int,
        pub(super) timeout_ms: c_int,
        pub(super) overlay_all: c_int,
        pub(super) flags: core::ffi::c_ulong,
        pub(super) limits: *const RockerLimits,
        /// `const struct sock_filter *`
        pub(super) filter: *const c_void,
        pub(super) filter_count: c_uint,
        pub(super) inside_uid: c_int,
        pub(super) inside_gid: c_int,
        pub(super) devices: *const *const c_char,
    }

    #[repr(C)]
    pub(super) struct RockerLimits {
        pub(super) size: usize,
        pub(super) cpus: *const c_char,
        pub(super) cpu_millis: u32,
        pub(super) cpu_weight: u32,
        pub(super) pids: u32,
        pub(super) has_swap: u32,
        pub(super) swap: u64,
        pub(super) memory: u64,
        pub(super) io_read: u64,
        pub(super) io_write: u64,
    }

    #[repr(C)]
    pub(super) struct RockerProgram {
        pub(super) size: usize,
        pub(super) path: *const c_char,
        pub(super) argv: *const *const c_char,
        pub(super) envp: *const *const c_char,
        pub(super) cwd: *const c_char,
        pub(super) stdio: [c_int; 3],
        pub(super) fds_count: c_uint,
        pub(super) fds: *const c_int,
        pub(super) keep_session: c_int,
        pub(super) terminal: c_int,
    }

    #[repr(C)]
    pub(super) struct Rocker {
        pub(super) app_pid: c_int,
        pub(super) guard_pid: c_int,
        pub(super) guard_pname: [c_char; 16],
        pub(super) app_pidfd: c_int,
        pub(super) guard_pidfd: c_int,
    }

    #[derive(Clone)]
    #[repr(C)]
    pub(super) struct RockerError {
        pub(super) err_no: c_int,
        pub(super) step: c_int,
        pub(super) os_errno: c_int,
        pub(super) at_exec: c_int,
        pub(super) fault: c_int,
        pub(super) rule: c_int,
        pub(super) item: c_int,
        pub(super) index: c_int,
        pub(super) loss: c_int,
        pub(super) order: c_int,
        pub(super) subject: [c_char; 520],
        pub(super) command: [c_char; 520],
    }

    #[repr(C)]
    pub(super) struct RockerInfo {
        pub(super) guard_pname: [c_char; 16],
        pub(super) guard_pid: c_int,
        pub(super) app_id: u32,
        pub(super) uid: u32,
        pub(super) age_ms: u64,
        pub(super) package: *const c_char,
    }

    #[repr(C)]
    pub(super) struct RockerLaunch(pub(super) [u64; 288]);

    #[repr(C)]
    pub(super) struct RockerOpen {
        pub(super) guard_pid: c_int,
        pub(super) guard_pname: [c_char; 16],
        pub(super) guard_pidfd: c_int,
        pub(super) connection: c_int,
        pub(super) opaque: [u64; 1408],
    }

    #[repr(C)]
    pub(super) struct RockerRlimit {
        pub(super) resource: c_int,
        pub(super) soft: u64,
        pub(super) hard: u64,
    }

    #[repr(C)]
    pub(super) struct RockerExec {
        pub(super) size: usize,
        pub(super) data: *mut c_void,
        pub(super) wall_ms: c_uint,
        pub(super) grace_ms: c_uint,
        pub(super) rlimits_count: c_uint,
        pub(super) rlimits: *const RockerRlimit,
        pub(super) program_fd: c_int,
        pub(super) sync: c_int,
        pub(super) filter_count: c_uint,
        /// `const struct sock_filter *`
        pub(super) filter: *const c_void,
        pub(super) cgroups_count: c_uint,
        pub(super) cgroups: *const c_int,
    }

    #[derive(Clone, Copy, Default)]
    #[repr(C)]
    pub(super) struct RockerReport {
        pub(super) status: c_int,
        pub(super) signal: c_int,
        pub(super) verdict: c_uint,
        pub(super) syscall: c_int,
        pub(super) user_us: u64,
        pub(super) system_us: u64,
        pub(super) wall_us: u64,
        pub(super) peak_kib: u64,
        /// `RockerUsage`, in its order.
        pub(super) usage: [u64; 7],
    }

    #[repr(C)]
    pub(super) struct RockerEvent {
        pub(super) kind: c_uint,
        pub(super) id: c_uint,
        pub(super) data: *mut c_void,
        pub(super) pid: c_int,
        pub(super) pidfd: c_int,
        pub(super) report: RockerReport,
        pub(super) error: RockerError,
        pub(super) files_count: c_uint,
        pub(super) files: [c_int; 16],
    }

    #[repr(C)]
    pub(super) struct RockerFile {
        pub(super) path: *const c_char,
        pub(super) how: c_uint,
        pub(super) mode: c_uint,
    }

    #[repr(C)]
    pub(super) struct RockerPlace {
        pub(super) kind: c_uint,
        pub(super) mode: c_uint,
        pub(super) source: *const c_char,
        pub(super) target: *const c_char,
        pub(super) bytes: u64,
    }

    #[repr(C)]
    pub(super) struct RockerConf {
        pub(super) size: usize,
        pub(super) root: *const c_char,
        pub(super) empty_root: u64,
        pub(super) places: *const RockerPlace,
        pub(super) places_count: c_uint,
        pub(super) unshare_cgroup: c_int,
        pub(super) work_dir: *const c_char,
        pub(super) host_name: *const c_char,
        pub(super) domain_name: *const c_char,
        pub(super) init: *const RockerProgram,
        pub(super) init_ms: c_uint,
    }

    pub(super) type Callback = unsafe extern "C" fn(*mut c_void) -> c_int;

    // SAFETY: the signatures are those of include/rocker.h.
    unsafe extern "C" {
        pub(super) safe fn ROCKER_request_new() -> RockerRequest;
        pub(super) fn ROCKER_enter_rocker(
            req: *mut RockerRequest,
            app: Option<Callback>,
            args: *mut c_void,
        ) -> RockerResult;
        pub(super) safe fn ROCKER_get_guardname(pid: c_int) -> RockerResult;
        pub(super) fn ROCKER_strerror(
            error: *const RockerError,
            line: *mut c_char,
            size: usize,
        ) -> usize;
        pub(super) safe fn ROCKER_err_name(code: c_int) -> *const c_char;
        pub(super) fn ROCKER_enter(
            req: *const RockerRequest,
            options: *const RockerOptions,
            app: Option<Callback>,
            args: *mut c_void,
            rocker: *mut Rocker,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_spawn(
            req: *const RockerRequest,
            options: *const RockerOptions,
            program: *const RockerProgram,
            rocker: *mut Rocker,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_kill(rocker: *const Rocker) -> c_int;
        pub(super) fn ROCKER_signal_app(rocker: *const Rocker, signal: c_int) -> c_int;
        pub(super) fn ROCKER_kill_guard(pid: c_int, name: *const c_char) -> c_int;
        pub(super) fn ROCKER_close(rocker: *mut Rocker);
        pub(super) fn ROCKER_launch_begin(
            launch: *mut RockerLaunch,
            req: *const RockerRequest,
            options: *const RockerOptions,
            program: *const RockerProgram,
        );
        pub(super) fn ROCKER_launch_begin_enter(
            launch: *mut RockerLaunch,
            req: *const RockerRequest,
            options: *const RockerOptions,
            app: Option<Callback>,
            args: *mut c_void,
        );
        pub(super) fn ROCKER_launch_go_on(launch: *mut RockerLaunch) -> c_int;
        pub(super) fn ROCKER_launch_fd(launch: *const RockerLaunch) -> c_int;
        pub(super) fn ROCKER_launch_wait_ms(launch: *const RockerLaunch) -> c_int;
        pub(super) fn ROCKER_launch_end(
            launch: *mut RockerLaunch,
            rocker: *mut Rocker,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_open(
            req: *const RockerRequest,
            options: *const RockerOptions,
            open: *mut RockerOpen,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_attach(
            guard_pname: *const c_char,
            options: *const RockerOptions,
            open: *mut RockerOpen,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_launch_begin_attach(
            launch: *mut RockerLaunch,
            guard_pname: *const c_char,
            options: *const RockerOptions,
        );
        pub(super) fn ROCKER_list(
            each: unsafe extern "C" fn(*mut c_void, *const RockerInfo),
            data: *mut c_void,
            options: *const RockerOptions,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_kill_named(
            guard_pname: *const c_char,
            options: *const RockerOptions,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_launch_begin_list(
            launch: *mut RockerLaunch,
            each: unsafe extern "C" fn(*mut c_void, *const RockerInfo),
            data: *mut c_void,
            options: *const RockerOptions,
        );
        pub(super) fn ROCKER_launch_begin_kill(
            launch: *mut RockerLaunch,
            guard_pname: *const c_char,
            options: *const RockerOptions,
        );
        pub(super) fn ROCKER_launch_end_question(
            launch: *mut RockerLaunch,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_adopt(
            open: *mut RockerOpen,
            data: *mut c_void,
            id: *mut c_uint,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_launch_begin_open(
            launch: *mut RockerLaunch,
            req: *const RockerRequest,
            options: *const RockerOptions,
        );
        pub(super) fn ROCKER_launch_end_open(
            launch: *mut RockerLaunch,
            open: *mut RockerOpen,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_exec(
            open: *mut RockerOpen,
            program: *const RockerProgram,
            exec: *const RockerExec,
            id: *mut c_uint,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_signal(
            open: *mut RockerOpen,
            id: c_uint,
            signal: c_int,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_go(
            open: *mut RockerOpen,
            id: c_uint,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_ping(
            open: *mut RockerOpen,
            id: *mut c_uint,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_open_files(
            open: *mut RockerOpen,
            files: *const RockerFile,
            count: c_uint,
            id: *mut c_uint,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_delete(
            open: *mut RockerOpen,
            path: *const c_char,
            tree: c_int,
            id: *mut c_uint,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_symlink(
            open: *mut RockerOpen,
            target: *const c_char,
            path: *const c_char,
            id: *mut c_uint,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_configure(
            open: *mut RockerOpen,
            conf: *const RockerConf,
            id: *mut c_uint,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_reset(
            open: *mut RockerOpen,
            id: *mut c_uint,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_leave(open: *mut RockerOpen);
        pub(super) fn ROCKER_next(open: *mut RockerOpen, event: *mut RockerEvent) -> c_int;
        pub(super) fn ROCKER_await(
            open: *mut RockerOpen,
            id: c_uint,
            timeout_ms: c_int,
            event: *mut RockerEvent,
        ) -> c_int;
        pub(super) fn ROCKER_run(
            open: *mut RockerOpen,
            program: *const RockerProgram,
            exec: *const RockerExec,
            report: *mut RockerReport,
            error: *mut RockerError,
        ) -> c_int;
        pub(super) fn ROCKER_end(open: *mut RockerOpen, timeout_ms: c_int) -> c_int;
        pub(super) safe fn ROCKER_verdict_name(verdict: c_uint) -> *const c_char;
    }
}

/// `RockerRequest` and `RockerOptions`: [`rocker_client::Launch`] in C. What is not set is left
/// as the library has it.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the header says what they mean")]
pub struct Request {
    pub app_id: Option<i32>,
    pub uid: Option<i32>,
    pub gid: Option<i32>,
    pub package: Option<CString>,
    pub exec_dir: Option<CString>,
    pub data_dir: Option<CString>,
    pub overlay_dirs: Vec<CString>,
    pub overlay_all: bool,
    pub stays: bool,
    pub socket: Option<CString>,
    pub timeout_ms: Option<i32>,
    pub unconfined: bool,
    pub user_namespaces: bool,
    pub host_dev: bool,
    pub volatile: bool,
    pub seccomp_log: bool,
    pub landlock: bool,
    /// Whole instructions.
    pub filter: Vec<u8>,
    pub inside: Option<(i32, i32)>,
    pub devices: Vec<CString>,
    pub memory: u64,
    pub pids: u32,
    pub io_read: u64,
    pub io_write: u64,
}

/// `RockerProgram`: [`rocker_client::Program`] in C.
#[derive(Debug)]
pub struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    cwd: Option<CString>,
    stdio: [Stdio; 3],
    kept: Vec<OwnedFd>,
    keep_session: bool,
    terminal: bool,
}

/// A string of C, from one of Rust's.
///
/// # Panics
///
/// If there is a NUL within.
pub fn c_string(text: impl AsRef<Path>) -> CString {
    CString::new(text.as_ref().as_os_str().as_bytes()).expect("no NUL")
}

/// A `Program` in the same words as its Rust counterpart.
#[allow(missing_docs, reason = "named as in rocker_client::Program")]
impl Program {
    pub fn new(path: impl AsRef<Path>) -> Self {
        let stdio = [Stdio::Inherit, Stdio::Inherit, Stdio::Inherit];
        let (args, env, kept) = (vec![], vec![], vec![]);
        let (path, cwd, keep_session, terminal) = (c_string(path), None, false, false);
        Self { path, args, env, cwd, stdio, kept, keep_session, terminal }
    }

    #[must_use]
    pub fn args<S: AsRef<Path>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(c_string));
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(c_string(format!("{name}={value}")));
        self
    }

    #[must_use]
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.cwd = Some(c_string(dir));
        self
    }

    /// Where descriptor 0, 1 or 2 leads.
    #[must_use]
    pub fn stdio(mut self, number: usize, stdio: impl Into<Stdio>) -> Self {
        self.stdio[number] = stdio.into();
        self
    }

    #[must_use]
    pub fn keep_fd(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.kept.push(fd.into());
        self
    }

    #[must_use]
    pub fn keep_session(mut self) -> Self {
        self.keep_session = true;
        self
    }

    #[must_use]
    pub fn terminal(mut self) -> Self {
        self.terminal = true;
        self
    }
}

fn pointer(text: Option<&CString>) -> *const c_char {
    text.map_or(ptr::null(), |text| text.as_ptr())
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}

/// What the library is given, with all that it points to.
struct Given<'a> {
    request: ffi::RockerRequest,
    options: ffi::RockerOptions,
    program: ffi::RockerProgram,
    _argv: Vec<*const c_char>,
    _envp: Vec<*const c_char>,
    _fds: Vec<c_int>,
    _limits: Option<Box<ffi::RockerLimits>>,
    _devices: Vec<*const c_char>,
    _owners: PhantomData<(&'a Request, &'a Program)>,
}

impl<'a> Given<'a> {
    fn new(request: &'a Request, program: Option<&'a Program>, connection: c_int) -> Self {
        let argv: Vec<*const c_char> = program.map_or(vec![], |program| {
            core::iter::once(program.path.as_ptr()).chain(pointers(&program.args)).collect()
        });
        let envp = program.map_or(vec![], |program| pointers(&program.env));
        let fds: Vec<c_int> =
            program.map_or(vec![], |p| p.kept.iter().map(AsRawFd::as_raw_fd).collect());
        let number = |stdio: &Stdio| match stdio {
            Stdio::Inherit => -1,
            Stdio::Null => -2,
            Stdio::Fd(fd) => fd.as_raw_fd(),
        };
        let stdio = program.map_or([-1; 3], |program| [0, 1, 2].map(|n| number(&program.stdio[n])));
        let program = ffi::RockerProgram {
            size: size_of::<ffi::RockerProgram>(),
            path: pointer(program.map(|program| &program.path)),
            argv: argv.as_ptr(),
            envp: envp.as_ptr(),
            cwd: pointer(program.and_then(|program| program.cwd.as_ref())),
            stdio,
            fds_count: c_uint::try_from(fds.len()).expect("a few"),
            fds: fds.as_ptr(),
            keep_session: program.is_some_and(|program| program.keep_session).into(),
            terminal: program.is_some_and(|program| program.terminal).into(),
        };
        let (_limits, _devices) = (request.raw_limits(), pointers(&request.devices));
        let options = request.raw_options(connection, _limits.as_deref(), &_devices);
        let (request, _argv, _envp, _fds) = (request.raw(), argv, envp, fds);
        let _owners = PhantomData;
        Self { request, options, program, _argv, _envp, _fds, _limits, _devices, _owners }
    }
}

impl Request {
    fn raw(&self) -> ffi::RockerRequest {
        let mut raw = ffi::ROCKER_request_new();
        let set = |field: &mut c_int, value: Option<i32>| *field = value.unwrap_or(*field);
        set(&mut raw.app_id, self.app_id);
        set(&mut raw.uid, self.uid);
        set(&mut raw.gid, self.gid);
        raw.app_pkg_path = pointer(self.package.as_ref());
        raw.app_exec_dir = pointer(self.exec_dir.as_ref());
        raw.app_data_dir = pointer(self.data_dir.as_ref());
        for (place, dir) in raw.app_overlay_dirs.iter_mut().zip(&self.overlay_dirs) {
            *place = dir.as_ptr();
        }
        raw
    }

    /// Of these tests some limit memory, processes and disks, and none anything else.
    fn raw_limits(&self) -> Option<Box<ffi::RockerLimits>> {
        let limited = [self.memory, self.pids.into(), self.io_read, self.io_write];
        (limited != [0; 4]).then(|| {
            Box::new(ffi::RockerLimits {
                size: size_of::<ffi::RockerLimits>(),
                cpus: ptr::null(),
                cpu_millis: 0,
                cpu_weight: 0,
                pids: self.pids,
                has_swap: 0,
                swap: 0,
                memory: self.memory,
                io_read: self.io_read,
                io_write: self.io_write,
            })
        })
    }

    fn raw_options(
        &self,
        connection: c_int,
        limits: Option<&ffi::RockerLimits>,
        devices: &[*const c_char],
    ) -> ffi::RockerOptions {
        ffi::RockerOptions {
            size: size_of::<ffi::RockerOptions>(),
            socket_path: pointer(self.socket.as_ref()),
            connection,
            timeout_ms: self.timeout_ms.unwrap_or(-1),
            overlay_all: self.overlay_all.into(),
            flags: core::ffi::c_ulong::from(self.unconfined)
                | core::ffi::c_ulong::from(self.user_namespaces) << 1
                | (core::ffi::c_ulong::from(self.stays) << 2)
                | (core::ffi::c_ulong::from(self.host_dev) << 3)
                | (core::ffi::c_ulong::from(self.volatile) << 4)
                | (core::ffi::c_ulong::from(self.seccomp_log) << 5)
                | (core::ffi::c_ulong::from(self.landlock) << 6),
            limits: limits.map_or(ptr::null(), ptr::from_ref),
            filter: if self.filter.is_empty() { ptr::null() } else { self.filter.as_ptr().cast() },
            filter_count: c_uint::try_from(self.filter.len() / 8).expect("a few"),
            inside_uid: self.inside.map_or(-1, |(uid, _)| uid),
            inside_gid: self.inside.map_or(-1, |(_, gid)| gid),
            devices: devices.as_ptr(),
        }
    }

    /// `ROCKER_spawn`
    pub fn spawn(&self, program: &Program) -> Result<Rocker, Error> {
        self.spawn_by(-1, program)
    }

    /// `ROCKER_spawn` with `RockerOptions.connection`.
    pub fn spawn_over(&self, connection: OwnedFd, program: &Program) -> Result<Rocker, Error> {
        self.spawn_by(connection.into_raw_fd(), program)
    }

    fn spawn_by(&self, connection: c_int, program: &Program) -> Result<Rocker, Error> {
        let given = Given::new(self, Some(program), connection);
        take(|rocker, error| {
            // SAFETY: all three are as the header wants them, and `given` outlives the call.
            unsafe {
                ffi::ROCKER_spawn(&given.request, &given.options, &given.program, rocker, error)
            }
        })
    }

    /// `ROCKER_enter`
    ///
    /// # Safety
    ///
    /// As of [`rocker_client::Launch::enter`]: this process has one thread.
    pub unsafe fn enter<F: FnOnce() -> i32>(&self, app: F) -> Result<Rocker, Error> {
        let given = Given::new(self, None, -1);
        let mut app = Some(app);
        let args = (&raw mut app).cast();
        take(|rocker, error| {
            // SAFETY: `call::<F>` is called with the `Option<F>` that it expects, in a copy of
            // this process, which by the caller's word is consistent.
            unsafe {
                ffi::ROCKER_enter(
                    &given.request,
                    &given.options,
                    Some(call::<F>),
                    args,
                    rocker,
                    error,
                )
            }
        })
    }

    /// `ROCKER_enter_rocker`: code, App, guard, and its name.
    ///
    /// # Safety
    ///
    /// As of [`enter`](Self::enter).
    pub unsafe fn enter_rocker<F: FnOnce() -> i32>(&self, app: F) -> (i32, i32, i32, String) {
        let mut app = Some(app);
        let mut raw = self.raw();
        // SAFETY: as in `enter`.
        let result = unsafe {
            ffi::ROCKER_enter_rocker(&raw mut raw, Some(call::<F>), (&raw mut app).cast())
        };
        (result.err_no, result.app_pid, result.guard_pid, text(&result.guard_pname))
    }

    /// `ROCKER_launch_begin`
    pub fn begin<'a>(&'a self, program: &'a Program) -> Pending<'a> {
        let given = Box::new(Given::new(self, Some(program), -1));
        let mut raw = Box::new(ffi::RockerLaunch([0; 288]));
        // SAFETY: all stay where they are, on the heap, until the launch is ended.
        unsafe {
            ffi::ROCKER_launch_begin(&raw mut *raw, &given.request, &given.options, &given.program);
        };
        Pending { raw, _given: given, ended: false }
    }

    /// `ROCKER_launch_begin_enter`
    ///
    /// # Safety
    ///
    /// As of [`enter`](Self::enter).
    pub unsafe fn begin_enter<'a, F: FnOnce() -> i32>(
        &'a self,
        app: &'a mut Option<F>,
    ) -> Pending<'a> {
        let given = Box::new(Given::new(self, None, -1));
        let mut raw = Box::new(ffi::RockerLaunch([0; 288]));
        // SAFETY: as in `begin` and `enter`; `app` is borrowed until the launch is ended.
        unsafe {
            ffi::ROCKER_launch_begin_enter(
                &raw mut *raw,
                &given.request,
                &given.options,
                Some(call::<F>),
                ptr::from_mut(app).cast(),
            );
        };
        Pending { raw, _given: given, ended: false }
    }
}

/// What C calls: in the App's process.
unsafe extern "C" fn call<F: FnOnce() -> i32>(args: *mut c_void) -> c_int {
    // SAFETY: it is what `Request` has given with this function.
    let app = unsafe { &mut *args.cast::<Option<F>>() };
    app.take().map_or(125, |app| app())
}

/// Calls one of the functions that make a rocker.
fn take(
    make: impl FnOnce(*mut ffi::Rocker, *mut ffi::RockerError) -> c_int,
) -> Result<Rocker, Error> {
    let mut raw = ffi::Rocker {
        app_pid: -7,
        guard_pid: -7,
        guard_pname: [7; 16],
        app_pidfd: -7,
        guard_pidfd: -7,
    };
    let mut error = no_error();
    let code = make(&raw mut raw, &raw mut error);
    assert_eq!(code, error.err_no, "both say the same");
    if code != code::SUCCESS {
        let left = (raw.app_pid, raw.guard_pid, raw.app_pidfd, raw.guard_pidfd);
        assert_eq!(left, (0, 0, -1, -1), "a failed launch returns nothing");
        return Err(Error(Box::new(error)));
    }
    Ok(Rocker { raw, status: None })
}

/// One that nobody has written yet.
fn no_error() -> ffi::RockerError {
    ffi::RockerError {
        err_no: -7,
        step: -7,
        os_errno: -7,
        at_exec: -7,
        fault: -7,
        rule: -7,
        item: -7,
        index: -7,
        loss: -7,
        order: -7,
        subject: [7; 520],
        command: [7; 520],
    }
}

/// A launch in a poll loop: `RockerLaunch`. Dropped, it is given up.
pub struct Pending<'a> {
    raw: Box<ffi::RockerLaunch>,
    _given: Box<Given<'a>>,
    ended: bool,
}

impl fmt::Debug for Pending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("fd", &self.fd()).finish_non_exhaustive()
    }
}

impl Pending<'_> {
    /// `ROCKER_launch_go_on`
    pub fn go_on(&mut self) -> bool {
        // SAFETY: it was begun, and not ended.
        unsafe { ffi::ROCKER_launch_go_on(&raw mut *self.raw) != 0 }
    }

    /// `ROCKER_launch_fd`
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: it was begun, and not ended.
        let fd = unsafe { ffi::ROCKER_launch_fd(&raw const *self.raw) };
        // SAFETY: by the header it is open until the launch goes on.
        (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// `ROCKER_launch_wait_ms`
    pub fn wait_ms(&self) -> i32 {
        // SAFETY: it was begun, and not ended.
        unsafe { ffi::ROCKER_launch_wait_ms(&raw const *self.raw) }
    }

    /// `ROCKER_launch_end`
    pub fn end(mut self) -> Result<Rocker, Error> {
        self.finish()
    }

    fn finish(&mut self) -> Result<Rocker, Error> {
        self.ended = true;
        take(|rocker, error| {
            // SAFETY: it was begun, and is ended once.
            unsafe { ffi::ROCKER_launch_end(&raw mut *self.raw, rocker, error) }
        })
    }

    /// What everybody does with it who has nothing else to do.
    pub fn complete(mut self) -> Result<Rocker, Error> {
        while !self.go_on() {
            self.wait(None);
        }
        self.end()
    }

    /// Waits until it can go on, or for as long.
    pub fn wait(&self, at_most: Option<Duration>) {
        let wait_ms = u64::try_from(self.wait_ms()).expect("it never waits for ever");
        let limit = Duration::from_millis(wait_ms);
        let limit = at_most.map_or(limit, |at_most| limit.min(at_most));
        let limit = Timespec::try_from(limit).expect("an hour at most");
        let fd = self.fd();
        let mut ready: Vec<_> = fd.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let _ = poll(&mut ready, Some(&limit));
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.ended
            && let Ok(mut rocker) = self.finish()
        {
            // Over already, and nobody took it: it is given up as well.
            rocker.kill();
            rocker.wait_gone();
        }
    }
}

/// `Rocker`. Dropped, its pidfds are closed.
pub struct Rocker {
    raw: ffi::Rocker,
    status: Option<Status>,
}

/// How an App ended: its exit status, or its signal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs, reason = "said above")]
pub enum Status {
    Exited(i32),
    Signaled(i32),
}

impl fmt::Debug for Rocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (app, guard) = (self.app_pid(), self.guard_pid());
        write!(f, "Rocker {{ app {app}, guard {guard} {} }}", self.guard_name())
    }
}

#[allow(missing_docs, reason = "named as in rocker_client::Rocker")]
impl Rocker {
    pub fn app_pid(&self) -> u32 {
        self.raw.app_pid.cast_unsigned()
    }

    pub fn guard_pid(&self) -> u32 {
        self.raw.guard_pid.cast_unsigned()
    }

    pub fn guard_name(&self) -> String {
        text(&self.raw.guard_pname)
    }

    pub fn app_pidfd(&self) -> BorrowedFd<'_> {
        // SAFETY: it is this object's until that is dropped.
        unsafe { BorrowedFd::borrow_raw(self.raw.app_pidfd) }
    }

    pub fn guard_pidfd(&self) -> BorrowedFd<'_> {
        // SAFETY: as above.
        unsafe { BorrowedFd::borrow_raw(self.raw.guard_pidfd) }
    }

    /// `ROCKER_kill`: 0, or an errno.
    pub fn kill(&self) -> i32 {
        // SAFETY: it is one that the library has made.
        unsafe { ffi::ROCKER_kill(&raw const self.raw) }
    }

    /// `ROCKER_signal_app`: 0, or an errno.
    pub fn signal_app(&self, signal: i32) -> i32 {
        // SAFETY: as above.
        unsafe { ffi::ROCKER_signal_app(&raw const self.raw, signal) }
    }

    /// Waits for the App's end, as any parent does.
    pub fn wait(&mut self) -> io::Result<Status> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let app = self.app_pidfd();
        while poll(&mut [PollFd::new(&app, PollFlags::IN)], None).is_err() {}
        let ended = waitid(WaitId::PidFd(self.app_pidfd()), WaitIdOptions::EXITED)?;
        let ended = ended.ok_or(io::ErrorKind::NotFound)?;
        Ok(*self.status.insert(Status::new(&ended)))
    }

    /// Waits until all of the rocker is gone.
    pub fn wait_gone(&mut self) -> bool {
        let _ = self.wait();
        let limit = Timespec::try_from(crate::SOON).expect("a few seconds");
        let guard = self.guard_pidfd();
        poll(&mut [PollFd::new(&guard, PollFlags::IN)], Some(&limit)).is_ok_and(|ready| ready > 0)
    }
}

impl Status {
    fn new(ended: &WaitIdStatus) -> Self {
        match (ended.exit_status(), ended.terminating_signal()) {
            (Some(code), _) => Self::Exited(code),
            (None, signal) => Self::Signaled(signal.unwrap_or(0)),
        }
    }
}

impl Drop for Rocker {
    fn drop(&mut self) {
        // SAFETY: nobody borrows them any more.
        unsafe { ffi::ROCKER_close(&raw mut self.raw) };
    }
}

/// `RockerError`; its words are those of `ROCKER_strerror`.
#[derive(Clone)]
pub struct Error(Box<ffi::RockerError>);

impl Error {
    /// `ROCKER_ERR_*`
    pub fn code(&self) -> i32 {
        self.0.err_no
    }

    /// The arrow, as `Step::code` has it.
    pub fn step(&self) -> i32 {
        self.0.step
    }

    /// The kernel's answer; 0 if it was not the kernel.
    pub fn errno(&self) -> i32 {
        self.0.os_errno
    }

    /// Whether the program could not be executed.
    pub fn is_at_exec(&self) -> bool {
        self.0.at_exec != 0
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = vec![7_u8; 8192];
        // SAFETY: the library writes at most as many bytes as it is told.
        let length = unsafe {
            ffi::ROCKER_strerror(&raw const *self.0, line.as_mut_ptr().cast(), line.len())
        };
        let text = CStr::from_bytes_until_nul(&line).expect("it is ended by NUL");
        assert_eq!(text.count_bytes(), length, "all of it fits");
        f.write_str(&text.to_string_lossy())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} [{}]", error_name(self.code()))
    }
}

/// `ROCKER_err_name`
pub fn error_name(code: i32) -> &'static str {
    // SAFETY: it is a constant of the library's, ended by NUL.
    let name = unsafe { CStr::from_ptr(ffi::ROCKER_err_name(code)) };
    name.to_str().expect("it is ASCII")
}

/// `ROCKER_get_guardname`
pub fn guard_name(pid: i32) -> Result<String, i32> {
    let result = ffi::ROCKER_get_guardname(pid);
    assert_eq!((result.guard_pid, result.app_pid), (pid, 0));
    if result.err_no == 0 { Ok(text(&result.guard_pname)) } else { Err(result.err_no) }
}

/// `ROCKER_kill_guard`: 0, or an errno.
pub fn kill_guard(pid: u32, name: &str) -> i32 {
    let name = c_string(name);
    // SAFETY: the name is ended by NUL, and outlives the call.
    unsafe { ffi::ROCKER_kill_guard(pid.cast_signed(), name.as_ptr()) }
}

/// A name of C: ended by NUL, in its 16 bytes.
fn text(name: &[c_char; 16]) -> String {
    let bytes = name.map(|byte| byte.to_ne_bytes()[0]);
    let name = CStr::from_bytes_until_nul(&bytes).expect("names are ended by NUL");
    name.to_string_lossy().into_owned()
}

// --- Living rockers. ---

/// What C calls, with a `Vec` of them.
unsafe extern "C" fn each(data: *mut c_void, info: *const ffi::RockerInfo) {
    // SAFETY: it is what `Request` has given with this function.
    let all = unsafe { &mut *data.cast::<Vec<RockerEntry>>() };
    // SAFETY: by the header it is there as long as this call.
    let info = unsafe { &*info };
    // SAFETY: so is this, ended by NUL.
    let package = unsafe { CStr::from_ptr(info.package) };
    all.push(RockerEntry {
        name: protocol::Name::new(text(&info.guard_pname).as_bytes()).expect("a name"),
        app_id: info.app_id,
        uid: info.uid,
        guard_pid: info.guard_pid.cast_unsigned(),
        age: Duration::from_millis(info.age_ms),
        package: std::ffi::OsStr::from_bytes(package.to_bytes()).into(),
    });
}

// --- Rockers that take orders. ---

/// `RockerOpen`. Dropped, it is ended.
pub struct Open(Box<ffi::RockerOpen>);

/// `RockerExec`: what is not in a [`Program`]. [`rocker_client::Limits`] in C.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "the header says what they mean")]
pub struct Exec {
    pub data: usize,
    pub wall_ms: u32,
    pub grace_ms: u32,
    pub rlimits: Vec<Rlimit>,
    pub program: Option<OwnedFd>,
    pub sync: bool,
    /// Whole instructions.
    pub filter: Vec<u8>,
    pub cgroups: Vec<OwnedFd>,
}

/// `RockerConf`: [`rocker_client::Conf`] in C.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "the header says what they mean")]
pub struct Conf {
    pub root: Option<CString>,
    pub empty_root: u64,
    pub places: Vec<Place>,
    pub unshare_cgroup: bool,
    pub work_dir: Option<CString>,
    pub host_name: Option<CString>,
    pub domain_name: Option<CString>,
    pub init: Option<(Program, u32)>,
}

/// `RockerPlace`, of `ROCKER_PLACE_*`.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the header says what they mean")]
pub struct Place {
    pub kind: u32,
    pub mode: u32,
    pub source: Option<CString>,
    pub target: CString,
    pub bytes: u64,
}

/// `RockerEvent`
#[derive(Debug)]
#[allow(missing_docs, reason = "the header says what they mean")]
pub enum Event {
    Lost(Error),
    Started {
        id: u32,
        data: usize,
        pid: i32,
        pidfd: OwnedFd,
    },
    Failed {
        id: u32,
        data: usize,
        error: Error,
    },
    Ended {
        id: u32,
        data: usize,
        report: ExitReport,
    },
    Pong(u32),
    Done(u32),
    /// For each file its descriptor, or the errno.
    Opened(u32, Vec<Result<OwnedFd, i32>>),
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Open {{ guard {} }}", self.0.guard_pid)
    }
}

/// What a function has written for its error; what it has returned says the same.
fn came_of(code: c_int, error: ffi::RockerError) -> Result<(), Error> {
    assert_eq!(code, error.err_no, "both say the same");
    if code == code::SUCCESS { Ok(()) } else { Err(Error(Box::new(error))) }
}

impl Request {
    /// `ROCKER_open`
    pub fn open_rocker(&self) -> Result<Open, Error> {
        let given = Given::new(self, None, -1);
        Open::made(|open, error| {
            // SAFETY: all are as the header wants them, and `given` outlives the call.
            unsafe { ffi::ROCKER_open(&given.request, &given.options, open, error) }
        })
    }

    /// `ROCKER_attach`, of which the options count.
    pub fn attach(&self, name: &CStr) -> Result<Open, Error> {
        let given = Given::new(self, None, -1);
        Open::made(|open, error| {
            // SAFETY: all are as the header wants them, and outlive the call.
            unsafe { ffi::ROCKER_attach(name.as_ptr(), &given.options, open, error) }
        })
    }

    /// `ROCKER_list`, of which the options count.
    pub fn list(&self) -> Result<Vec<RockerEntry>, Error> {
        let given = Given::new(self, None, -1);
        let (mut all, mut error) = (Vec::new(), no_error());
        let data = (&raw mut all).cast();
        // SAFETY: `each` expects a list of entries, which outlives the call, as the options do.
        let code = unsafe { ffi::ROCKER_list(each, data, &given.options, &raw mut error) };
        came_of(code, error).map(|()| all)
    }

    /// `ROCKER_launch_begin_list`, and what everybody does with it.
    pub fn list_in_a_poll_loop(&self) -> Result<Vec<RockerEntry>, Error> {
        let mut all = Vec::new();
        let data = (&raw mut all).cast();
        self.asked(|launch, given| {
            // SAFETY: as above; it stays where it is until the question is ended.
            unsafe { ffi::ROCKER_launch_begin_list(launch, each, data, &given.options) }
        })?;
        Ok(all)
    }

    /// `ROCKER_kill_named`, of which the options count.
    pub fn kill_named(&self, name: &CStr) -> Result<(), Error> {
        let given = Given::new(self, None, -1);
        let mut error = no_error();
        // SAFETY: all are as the header wants them, and outlive the call.
        let code = unsafe { ffi::ROCKER_kill_named(name.as_ptr(), &given.options, &raw mut error) };
        came_of(code, error)
    }

    /// `ROCKER_launch_begin_kill`, and what everybody does with it.
    pub fn kill_named_in_a_poll_loop(&self, name: &CStr) -> Result<(), Error> {
        self.asked(|launch, given| {
            // SAFETY: the name outlives this call, and the rest stays where it is.
            unsafe { ffi::ROCKER_launch_begin_kill(launch, name.as_ptr(), &given.options) }
        })
    }

    fn asked(&self, begin: impl FnOnce(*mut ffi::RockerLaunch, &Given<'_>)) -> Result<(), Error> {
        let given = Box::new(Given::new(self, None, -1));
        let mut raw = Box::new(ffi::RockerLaunch([0; 288]));
        begin(&raw mut *raw, &given);
        let mut pending = Pending { raw, _given: given, ended: false };
        while !pending.go_on() {
            pending.wait(None);
        }
        pending.ended = true;
        let mut error = no_error();
        // SAFETY: it was begun, and is ended once.
        let code =
            unsafe { ffi::ROCKER_launch_end_question(&raw mut *pending.raw, &raw mut error) };
        came_of(code, error)
    }

    /// `ROCKER_launch_begin_attach`, and what everybody does with it.
    pub fn attach_in_a_poll_loop(&self, name: &CStr) -> Result<Open, Error> {
        self.begun(|launch, given| {
            // SAFETY: the name outlives this call, and the rest stays where it is.
            unsafe { ffi::ROCKER_launch_begin_attach(launch, name.as_ptr(), &given.options) }
        })
    }

    /// `ROCKER_launch_begin_open`, and what everybody does with it.
    pub fn open_in_a_poll_loop(&self) -> Result<Open, Error> {
        self.begun(|launch, given| {
            // SAFETY: they stay where they are.
            unsafe { ffi::ROCKER_launch_begin_open(launch, &given.request, &given.options) }
        })
    }

    /// All stay where they are, on the heap, until the launch is ended.
    fn begun(&self, begin: impl FnOnce(*mut ffi::RockerLaunch, &Given<'_>)) -> Result<Open, Error> {
        let given = Box::new(Given::new(self, None, -1));
        let mut raw = Box::new(ffi::RockerLaunch([0; 288]));
        begin(&raw mut *raw, &given);
        let mut pending = Pending { raw, _given: given, ended: false };
        while !pending.go_on() {
            pending.wait(None);
        }
        pending.ended = true;
        Open::made(|open, error| {
            // SAFETY: it was begun, and is ended once.
            unsafe { ffi::ROCKER_launch_end_open(&raw mut *pending.raw, open, error) }
        })
    }
}

#[allow(missing_docs, reason = "named as the functions of the header")]
impl Open {
    fn made(
        make: impl FnOnce(*mut ffi::RockerOpen, *mut ffi::RockerError) -> c_int,
    ) -> Result<Self, Error> {
        let mut raw = Box::new(ffi::RockerOpen {
            guard_pid: -7,
            guard_pname: [7; 16],
            guard_pidfd: -7,
            connection: -7,
            opaque: [7; 1408],
        });
        let mut error = no_error();
        let code = make(&raw mut *raw, &raw mut error);
        if code != code::SUCCESS {
            let left = (raw.guard_pid, raw.guard_pidfd, raw.connection);
            assert_eq!(left, (0, -1, -1), "a failed launch returns nothing");
        }
        came_of(code, error)?;
        Ok(Self(raw))
    }

    pub fn guard_pid(&self) -> u32 {
        self.0.guard_pid.cast_unsigned()
    }

    pub fn guard_name(&self) -> String {
        text(&self.0.guard_pname)
    }

    pub fn guard_pidfd(&self) -> BorrowedFd<'_> {
        // SAFETY: it is this object's until that is dropped.
        unsafe { BorrowedFd::borrow_raw(self.0.guard_pidfd) }
    }

    pub fn connection(&self) -> BorrowedFd<'_> {
        // SAFETY: as above.
        unsafe { BorrowedFd::borrow_raw(self.0.connection) }
    }

    pub fn exec(&mut self, program: &Program, exec: &Exec) -> Result<u32, Error> {
        let nobody = Request::default();
        let given = Given::new(&nobody, Some(program), -1);
        let (mut id, mut error) = (7, no_error());
        let code = exec.with_raw(|raw| {
            // SAFETY: it is an open one; all else is as the header wants it, and outlives the
            // call.
            unsafe {
                ffi::ROCKER_exec(&raw mut *self.0, &given.program, raw, &mut id, &raw mut error)
            }
        });
        assert_eq!(code == code::SUCCESS, id != 0, "what was ordered has a number");
        came_of(code, error).map(|()| id)
    }

    pub fn run(&mut self, program: &Program, exec: &Exec) -> Result<ExitReport, Error> {
        let nobody = Request::default();
        let given = Given::new(&nobody, Some(program), -1);
        let (mut report, mut error) = (ffi::RockerReport::default(), no_error());
        let code = exec.with_raw(|raw| {
            let report = &raw mut report;
            // SAFETY: as in `exec`.
            unsafe {
                ffi::ROCKER_run(&raw mut *self.0, &given.program, raw, report, &raw mut error)
            }
        });
        came_of(code, error).map(|()| report.read())
    }

    pub fn adopt(&mut self, data: usize) -> Result<u32, Error> {
        let (mut id, mut error) = (7, no_error());
        let data = ptr::without_provenance_mut(data);
        // SAFETY: as in `exec`.
        let code = unsafe { ffi::ROCKER_adopt(&raw mut *self.0, data, &mut id, &raw mut error) };
        came_of(code, error).map(|()| id)
    }

    /// To all without an id.
    pub fn signal(&mut self, id: Option<u32>, signal: i32) -> Result<(), Error> {
        let mut error = no_error();
        let id = id.unwrap_or(0);
        // SAFETY: as in `exec`.
        let code = unsafe { ffi::ROCKER_signal(&raw mut *self.0, id, signal, &raw mut error) };
        came_of(code, error)
    }

    pub fn go(&mut self, id: u32) -> Result<(), Error> {
        let mut error = no_error();
        // SAFETY: as in `exec`.
        let code = unsafe { ffi::ROCKER_go(&raw mut *self.0, id, &raw mut error) };
        came_of(code, error)
    }

    pub fn ping(&mut self) -> Result<u32, Error> {
        let (mut id, mut error) = (0, no_error());
        // SAFETY: as in `exec`.
        let code = unsafe { ffi::ROCKER_ping(&raw mut *self.0, &mut id, &raw mut error) };
        came_of(code, error).map(|()| id)
    }

    /// `ROCKER_open_files`, of path, `ROCKER_FILE_*` and mode.
    pub fn open_files(&mut self, files: &[(CString, u32, u32)]) -> Result<u32, Error> {
        let raw = |(path, how, mode): &(CString, u32, u32)| ffi::RockerFile {
            path: path.as_ptr(),
            how: *how,
            mode: *mode,
        };
        let raw: Vec<_> = files.iter().map(raw).collect();
        let count = c_uint::try_from(raw.len()).expect("a few");
        let (mut id, mut error) = (7, no_error());
        let (open, files) = (&raw mut *self.0, raw.as_ptr());
        // SAFETY: as in `exec`.
        let code = unsafe { ffi::ROCKER_open_files(open, files, count, &mut id, &raw mut error) };
        came_of(code, error).map(|()| id)
    }

    pub fn delete(&mut self, path: &CStr, tree: bool) -> Result<u32, Error> {
        let (mut id, mut error) = (7, no_error());
        let (open, path) = (&raw mut *self.0, path.as_ptr());
        // SAFETY: as in `exec`.
        let code = unsafe { ffi::ROCKER_delete(open, path, tree.into(), &mut id, &raw mut error) };
        came_of(code, error).map(|()| id)
    }

    pub fn symlink(&mut self, target: &CStr, path: &CStr) -> Result<u32, Error> {
        let (mut id, mut error) = (7, no_error());
        let open = &raw mut *self.0;
        let (target, path) = (target.as_ptr(), path.as_ptr());
        // SAFETY: as in `exec`.
        let code = unsafe { ffi::ROCKER_symlink(open, target, path, &mut id, &raw mut error) };
        came_of(code, error).map(|()| id)
    }

    pub fn configure(&mut self, conf: &Conf) -> Result<u32, Error> {
        let raw = |place: &Place| ffi::RockerPlace {
            kind: place.kind,
            mode: place.mode,
            source: pointer(place.source.as_ref()),
            target: place.target.as_ptr(),
            bytes: place.bytes,
        };
        let places: Vec<_> = conf.places.iter().map(raw).collect();
        let nobody = Request::default();
        let init = conf.init.as_ref().map(|(program, _)| Given::new(&nobody, Some(program), -1));
        let raw = ffi::RockerConf {
            size: size_of::<ffi::RockerConf>(),
            root: pointer(conf.root.as_ref()),
            empty_root: conf.empty_root,
            places: places.as_ptr(),
            places_count: c_uint::try_from(places.len()).expect("few"),
            unshare_cgroup: conf.unshare_cgroup.into(),
            work_dir: pointer(conf.work_dir.as_ref()),
            host_name: pointer(conf.host_name.as_ref()),
            domain_name: pointer(conf.domain_name.as_ref()),
            init: init.as_ref().map_or(ptr::null(), |given| &raw const given.program),
            init_ms: conf.init.as_ref().map_or(0, |(_, ms)| *ms),
        };
        let (mut id, mut error) = (7, no_error());
        let (open, raw) = (&raw mut *self.0, &raw const raw);
        // SAFETY: as in `exec`.
        let code = unsafe { ffi::ROCKER_configure(open, raw, &mut id, &raw mut error) };
        came_of(code, error).map(|()| id)
    }

    pub fn reset(&mut self) -> Result<u32, Error> {
        let (mut id, mut error) = (7, no_error());
        // SAFETY: as in `exec`.
        let code = unsafe { ffi::ROCKER_reset(&raw mut *self.0, &mut id, &raw mut error) };
        came_of(code, error).map(|()| id)
    }

    pub fn leave(mut self) {
        // SAFETY: as in `exec`; what was left may be ended.
        unsafe { ffi::ROCKER_leave(&raw mut *self.0) };
    }

    pub fn next_event(&mut self) -> Option<Event> {
        Event::made(|event| {
            // SAFETY: as in `exec`.
            unsafe { ffi::ROCKER_next(&raw mut *self.0, event) }
        })
    }

    /// `ROCKER_await`
    pub fn await_event(&mut self, id: u32, timeout_ms: i32) -> Option<Event> {
        Event::made(|event| {
            // SAFETY: as in `exec`.
            unsafe { ffi::ROCKER_await(&raw mut *self.0, id, timeout_ms, event) }
        })
    }

    /// `ROCKER_end`: 0, or an errno.
    pub fn end(mut self, timeout_ms: i32) -> i32 {
        // SAFETY: as in `exec`; what is ended may be ended again.
        unsafe { ffi::ROCKER_end(&raw mut *self.0, timeout_ms) }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: as in `exec`.
        unsafe { ffi::ROCKER_end(&raw mut *self.0, 5_000) };
    }
}

impl Exec {
    fn with_raw<T>(&self, call: impl FnOnce(*const ffi::RockerExec) -> T) -> T {
        let raw = |limit: &Rlimit| ffi::RockerRlimit {
            resource: limit.resource.into(),
            soft: limit.soft,
            hard: limit.hard,
        };
        let rlimits: Vec<_> = self.rlimits.iter().map(raw).collect();
        let cgroups: Vec<_> = self.cgroups.iter().map(AsRawFd::as_raw_fd).collect();
        call(&ffi::RockerExec {
            size: size_of::<ffi::RockerExec>(),
            data: ptr::without_provenance_mut(self.data),
            wall_ms: self.wall_ms,
            grace_ms: self.grace_ms,
            rlimits_count: c_uint::try_from(rlimits.len()).expect("a few"),
            rlimits: rlimits.as_ptr(),
            program_fd: self.program.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            sync: self.sync.into(),
            filter_count: c_uint::try_from(self.filter.len() / 8).expect("a few"),
            filter: if self.filter.is_empty() { ptr::null() } else { self.filter.as_ptr().cast() },
            cgroups_count: c_uint::try_from(cgroups.len()).expect("a few"),
            cgroups: cgroups.as_ptr(),
        })
    }
}

impl ffi::RockerReport {
    fn read(self) -> ExitReport {
        let byte = |number: c_int| u8::try_from(number).expect("it is one");
        let exit = match self.status {
            -1 => Exit::Signal(byte(self.signal)),
            status => Exit::Status(byte(status)),
        };
        let all = [
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
        let verdict = all[usize::try_from(self.verdict).expect("there are ten")];
        // SAFETY: it is a constant of the library's, ended by NUL.
        let name = unsafe { CStr::from_ptr(ffi::ROCKER_verdict_name(self.verdict)) };
        assert_eq!(name.to_str(), Ok(&*verdict.to_string()), "both have the same words");
        let Self { user_us, system_us, wall_us, peak_kib, usage, .. } = self;
        let syscall = u32::try_from(self.syscall).ok();
        let [memory, memory_peak, pids, pids_peak, cpu_us, read, written] =
            usage.map(|number| (number != u64::MAX).then_some(number));
        let usage = protocol::Usage { memory, memory_peak, pids, pids_peak, cpu_us, read, written };
        ExitReport { exit, verdict, user_us, system_us, wall_us, peak_kib, syscall, usage }
    }
}

impl Event {
    fn made(make: impl FnOnce(*mut ffi::RockerEvent) -> c_int) -> Option<Self> {
        let mut raw = Box::new(ffi::RockerEvent {
            kind: 77,
            id: 77,
            data: ptr::null_mut(),
            pid: -7,
            pidfd: -7,
            report: ffi::RockerReport::default(),
            error: no_error(),
            files_count: 0,
            files: [-7; 16],
        });
        if make(&raw mut *raw) == 0 {
            return None;
        }
        let ffi::RockerEvent { kind, id, data, pid, pidfd, report, error, .. } = *raw;
        let data = data.addr();
        Some(match kind {
            0 => Self::Lost(Error(Box::new(error))),
            1 => {
                // SAFETY: by the header it is the caller's own.
                let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
                Self::Started { id, data, pid, pidfd }
            }
            2 => Self::Failed { id, data, error: Error(Box::new(error)) },
            3 => Self::Ended { id, data, report: report.read() },
            4 => Self::Pong(id),
            5 => Self::Done(id),
            6 => {
                let count = usize::try_from(raw.files_count).expect("there are few");
                let file = |fd: &c_int| match *fd {
                    errno @ ..0 => Err(-errno),
                    // SAFETY: by the header it is the caller's own.
                    fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
                };
                Self::Opened(id, raw.files[..count].iter().map(file).collect())
            }
            other => panic!("there is no event {other}"),
        })
    }
}
