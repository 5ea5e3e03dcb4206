//! Why it failed, in one line for people and in types for programs.

use core::fmt;
use core::fmt::Write as _;

use protocol::{Errno, Item, Loss, Rule, Step};

use crate::trace::TraceEntry;

/// Why a launch, or a question to the master, failed.
///
/// Displayed, it is one line that names step, path and reason:
/// `cannot mount the package (prepare.3): mount -t squashfs /dev/loop8 /app: Invalid argument`.
#[derive(Clone, Eq, PartialEq)]
pub struct Error(Box<Details>);

#[derive(Clone, Debug, Eq, PartialEq)]
struct Details {
    kind: protocol::Error,
    /// The path or value of the request that `kind` is about; may be empty.
    subject: String,
    /// The equivalent shell command, or more words; may be empty.
    command: String,
    /// What was ordered of the guard, where that was no program, or asked of the master, where
    /// that was no rocker.
    order: Option<&'static str>,
    at_exec: bool,
    trace: Vec<TraceEntry>,
}

/// The `ROCKER_ERR_*` of the C library: where it failed, never with which errno.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
#[repr(i32)]
pub enum Code {
    /// `ROCKER_ERR_param_invalid`
    ParamInvalid = 2,
    /// `ROCKER_ERR_send_req_failed`
    SendReqFailed = 5,
    /// `ROCKER_ERR_recv_resp_failed`
    RecvRespFailed = 6,
    /// `ROCKER_ERR_build_rocker_failed`
    BuildRockerFailed = 7,
    /// `ROCKER_ERR_enter_rocker_failed`
    EnterRockerFailed = 8,
    /// `ROCKER_ERR_app_exec_failed`
    AppExecFailed = 9,
}

/// For [`Error::ordered`]: what is asked is no rocker.
pub(crate) const ASK_MASTER: &str = "ask the master";

impl Error {
    pub(crate) fn new(kind: protocol::Error) -> Self {
        let (subject, command, trace) = (String::new(), String::new(), Vec::new());
        Self(Box::new(Details { kind, subject, command, order: None, at_exec: false, trace }))
    }

    /// A rule that is broken by `subject`, which may hold any bytes.
    pub(crate) fn invalid(rule: Rule, item: Item, subject: &[u8]) -> Self {
        Self::new(protocol::Error::Invalid { rule, item }).about(printable(subject))
    }

    pub(crate) fn about(mut self, subject: String) -> Self {
        self.0.subject = subject;
        self
    }

    pub(crate) fn during(mut self, command: &str) -> Self {
        self.0.command = printable(command.as_bytes());
        self
    }

    /// The guard has one step for all orders, and the master one for all questions: this is what
    /// could not be carried out.
    pub(crate) fn ordered(mut self, order: &'static str) -> Self {
        self.0.order = Some(order);
        self
    }

    pub(crate) fn at_exec(mut self, at_exec: bool) -> Self {
        self.0.at_exec = at_exec;
        self
    }

    pub(crate) fn traced(mut self, trace: Vec<TraceEntry>) -> Self {
        self.0.trace = trace;
        self
    }

    /// Whose fault it was, where and why.
    pub fn kind(&self) -> protocol::Error {
        self.0.kind
    }

    /// The C library's word for it.
    pub fn code(&self) -> Code {
        match self.0.kind {
            protocol::Error::Invalid { .. } => Code::ParamInvalid,
            kind => match kind.step() {
                Step::RequestRocker => Code::SendReqFailed,
                Step::AwaitEntrance => Code::RecvRespFailed,
                Step::RequestExec => match kind {
                    protocol::Error::Lost { .. } => Code::RecvRespFailed,
                    _ => Code::SendReqFailed,
                },
                Step::ForkHelper | Step::JoinNamespaces | Step::ReportApp => {
                    Code::EnterRockerFailed
                }
                Step::RunApp | Step::StartProgram | Step::ReportExit => Code::AppExecFailed,
                // Whatever master or guard reported.
                _ => Code::BuildRockerFailed,
            },
        }
    }

    /// The arrow at which it happened.
    pub fn step(&self) -> Step {
        self.0.kind.step()
    }

    /// The kernel's answer, where it was the kernel's.
    pub fn errno(&self) -> Option<Errno> {
        match self.0.kind {
            protocol::Error::Failed { errno, .. } => Some(errno),
            _ => None,
        }
    }

    /// The shell command that would have failed the same way; may be empty.
    pub fn command(&self) -> &str {
        &self.0.command
    }

    /// Whether the rocker was there and entered, and only the program could not be executed.
    pub fn is_at_exec(&self) -> bool {
        self.0.at_exec
    }

    /// The steps until it failed, if they were asked for.
    pub fn trace(&self) -> &[TraceEntry] {
        &self.0.trace
    }

    fn hint(&self) -> Option<&'static str> {
        match self.0.kind {
            protocol::Error::Failed { errno, .. } if self.0.at_exec => {
                exec_hint(errno, &self.0.command)
            }
            protocol::Error::Failed { step, errno } => failure_hint(step, errno),
            protocol::Error::Lost { step, how } => loss_hint(step, how),
            _ => None,
        }
    }
}

impl core::error::Error for Error {}

/// The same line, for `main() -> Result<(), Error>` and `unwrap()` show this; all that is known of
/// it with `{:#?}`.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() { fmt::Debug::fmt(&self.0, f) } else { fmt::Display::fmt(self, f) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { kind, subject, command, order, .. } = &*self.0;
        match kind {
            protocol::Error::Invalid { rule, item } => {
                match (item, subject.as_str()) {
                    (item, "") => write!(f, "{item}: {rule}")?,
                    (Item::OverlayDir(_), dir) => write!(f, "overlay dir {dir}: {rule}")?,
                    (Item::Device(_), path) => write!(f, "device {path}: {rule}")?,
                    (item, subject) => write!(f, "{item} {subject}: {rule}")?,
                }
                if command.is_empty() { Ok(()) } else { write!(f, ": {command}") }
            }
            kind => {
                let step = kind.step();
                match (order, step) {
                    (Some(order), Step::StartProgram) => write!(f, "cannot {order} ({step}): ")?,
                    // No rocker was requested: that is nobody's step.
                    (Some(order), Step::RequestRocker) => write!(f, "cannot {order}: ")?,
                    _ => write!(f, "cannot {} ({step}): ", step.purpose())?,
                }
                if !command.is_empty() {
                    write!(f, "{command}: ")?;
                }
                match kind {
                    protocol::Error::Failed { errno, .. } => f.write_str(&words(*errno))?,
                    protocol::Error::Lost { how, .. } => write!(f, "{how}")?,
                    other => write!(f, "{other}")?,
                }
                self.hint().map_or(Ok(()), |hint| write!(f, ": {hint}"))
            }
        }
    }
}

/// As `strerror(3)` says it. (nix has words of its own for some.)
fn words(errno: Errno) -> String {
    let text = std::io::Error::from_raw_os_error(i32::from(errno.0)).to_string();
    text.rsplit_once(" (os error ").map_or(text.clone(), |(words, _)| words.to_owned())
}

/// As `errno(3)` calls it: `ENOENT`.
pub fn errno_name(errno: Errno) -> String {
    match nix::errno::Errno::from_raw(i32::from(errno.0)) {
        nix::errno::Errno::UnknownErrno => errno.0.to_string(),
        known => format!("{known:?}"),
    }
}

/// One line, whatever the bytes: control characters are escaped, what is not UTF-8 is U+FFFD.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            // Writing to a String cannot fail.
            let _ = if char.is_control() {
                write!(text, "{}", char.escape_default())
            } else {
                text.write_char(char)
            };
        }
        if !chunk.invalid().is_empty() {
            text.push('\u{fffd}');
        }
    }
    text
}

fn exec_hint(errno: Errno, command: &str) -> Option<&'static str> {
    const NOEXEC: Errno = Errno(8);
    Some(match errno {
        Errno::NOENT if command.strip_prefix("exec ").is_some_and(|name| !name.contains('/')) => {
            "a name without / is looked up in PATH; ./NAME is the package's"
        }
        Errno::NOENT => "the rocker holds no such program, or not its interpreter or loader",
        Errno::ACCES => "it is not executable for the App's uid",
        NOEXEC => "it is neither a program for this machine nor a script with #!",
        _ => return None,
    })
}

/// What to do about it, where that is more than the words of the errno.
fn failure_hint(step: Step, errno: Errno) -> Option<&'static str> {
    const NXIO: Errno = Errno(6);
    const NODEV: Errno = Errno(19);
    Some(match (step, errno) {
        (Step::RequestRocker, Errno::NOENT | Errno::CONNREFUSED) => {
            "start rocker-master, or name its socket"
        }
        (Step::RequestRocker, Errno::ACCES) => {
            "this user may not reach the master's socket; root can add an [[allow]], \
             by default in /etc/rocker/master.toml"
        }
        (Step::CreateGuard, Errno::LOOP) => "links are followed for root alone, and only root's",
        (Step::CloneGuard, Errno::NOSPC) => "see user.max_{pid,mnt,ipc}_namespaces",
        (Step::CloneGuard, Errno::INVAL) => "this kernel lacks pid or ipc namespaces",
        (Step::CreateLoop | Step::BindPackage, Errno::NOENT | NXIO | NODEV) => {
            "is the kernel's loop driver there?"
        }
        (Step::CreateLoop | Step::BindPackage, Errno::BUSY) => "no loop device is to be had",
        (Step::MountPackage, Errno::NOENT) => {
            "create the exec dir, or overlay a directory above it"
        }
        (Step::MountPackage, Errno::NOTDIR) => "the exec dir must be a directory",
        (Step::MountPackage, NODEV) => "this kernel has no squashfs",
        (Step::MountPackage, Errno::INVAL) => {
            "the image is damaged, or its length is no multiple of 512"
        }
        (Step::BuildOverlay | Step::MountOverlay, NODEV) => "this kernel has no overlay",
        (Step::BuildOverlay | Step::MountOverlay, Errno::INVAL) => {
            "the data dir's file system cannot hold an upper layer"
        }
        (Step::BuildOverlay | Step::MountOverlay, Errno::ROFS) => "the data dir is read-only",
        (Step::BuildOverlay | Step::MountOverlay, Errno::NOSPC) => {
            "the data dir's file system is full"
        }
        (Step::UnshareUser, Errno::NOSPC | Errno::PERM) => "see user.max_user_namespaces",
        (Step::ForkHelper, Errno::AGAIN) => "too many processes: see ulimit -u and pid_max",
        (Step::JoinNamespaces, Errno::PERM) => {
            "entering a rocker needs CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID; run as root"
        }
        (Step::JoinNamespaces, Errno::INVAL | Errno::NOSYS) => {
            "entering by pidfd needs Linux 5.8 or later"
        }
        (Step::RunApp, Errno::AGAIN) => "too many processes: see --pids and ulimit -u",
        (Step::HandOver, Errno::PERM | Errno::NOSYS) => {
            "the master needs CAP_SYS_PTRACE and pidfd_getfd(2) for that; \
             see kernel.yama.ptrace_scope"
        }
        (Step::HandOver, Errno::AGAIN) => "too many wait for its guard already; try again",
        (Step::JoinNamespaces, Errno::SRCH) => "the guard has ended",
        _ => return None,
    })
}

fn loss_hint(step: Step, how: Loss) -> Option<&'static str> {
    Some(match (step, how) {
        (Step::RequestRocker | Step::AwaitEntrance, Loss::Died) => "the master's log may say why",
        (Step::AwaitEntrance, Loss::Silent) => {
            "the master is stuck or the machine overloaded; a longer timeout may help"
        }
        (Step::KillGuard, Loss::Silent) => {
            "it is dead but not gone before the App's parent has waited for the App"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(step: Step, errno: Errno) -> Error {
        Error::new(protocol::Error::Failed { step, errno })
    }

    #[test]
    fn failures_read_as_one_line() {
        const CLEAN: Errno = Errno(117);
        let mount = failed(Step::MountPackage, CLEAN).during("mount -t squashfs /dev/loop8 /app");
        assert_eq!(
            mount.to_string(),
            "cannot mount the package (prepare.3): mount -t squashfs /dev/loop8 /app: \
             Structure needs cleaning"
        );
        // As `main()` shows it.
        assert_eq!(format!("{mount:?}"), mount.to_string());
        let connect = failed(Step::RequestRocker, Errno::NOENT).during("connect /run/m.sock");
        assert_eq!(
            connect.to_string(),
            "cannot request a rocker (root.1): connect /run/m.sock: No such file or directory: \
             start rocker-master, or name its socket"
        );
        let asked = failed(Step::RequestRocker, Errno::CONNREFUSED).during("connect /run/m.sock");
        assert_eq!(
            asked.ordered(ASK_MASTER).to_string(),
            "cannot ask the master: connect /run/m.sock: Connection refused: \
             start rocker-master, or name its socket"
        );
        let full = failed(Step::RunApp, Errno::AGAIN).during("clone # the App");
        assert!(full.to_string().ends_with(": too many processes: see --pids and ulimit -u"));
        let lost = protocol::Error::Lost { step: Step::RunApp, how: Loss::Silent };
        assert_eq!(
            Error::new(lost).to_string(),
            "cannot start the App (enter.3): no answer before the deadline"
        );
    }

    #[test]
    fn broken_rules_name_what_broke_them() {
        let package = Error::invalid(Rule::NotSquashfs, Item::Package, b"/x/y");
        assert_eq!(
            package.to_string(),
            "package /x/y: it is not a squashfs image; build one with \"rocker pack\""
        );
        let dir = Error::invalid(Rule::Forbidden, Item::OverlayDir(3), b"/proc");
        assert_eq!(
            dir.to_string(),
            "overlay dir /proc: this place belongs to the host and stays so"
        );
        let request = Error::new(protocol::Error::Invalid {
            rule: Rule::TooManyRockers,
            item: Item::Request,
        });
        assert!(request.to_string().starts_with("request: too many rockers"));
    }

    #[test]
    fn no_bytes_make_a_second_line() {
        let error = Error::invalid(Rule::ControlByte, Item::Package, b"/a\nb\0\x1b[1m\xff");
        assert_eq!(
            error.to_string(),
            "package /a\\nb\\u{0}\\u{1b}[1m\u{fffd}: it contains a NUL or another control character"
        );
        let error = failed(Step::MountPackage, Errno::IO).during("mount\nrocker: fine");
        assert!(error.to_string().ends_with(": Input/output error"), "{error}");
        assert!(!error.to_string().contains('\n'));
    }

    #[test]
    fn every_step_has_a_code() {
        for &step in Step::ALL {
            let code = failed(step, Errno::IO).code();
            let wanted = match step.to_string().as_str() {
                "root.1" | "exec.0" => Code::SendReqFailed,
                "enter.0" => Code::RecvRespFailed,
                "enter.1" | "enter.2" | "enter.4" => Code::EnterRockerFailed,
                "enter.3" | "exec.1" | "exec.3" => Code::AppExecFailed,
                _ => Code::BuildRockerFailed,
            };
            assert_eq!(code, wanted, "{step}");
        }
        let lost = protocol::Error::Lost { step: Step::RequestExec, how: Loss::Died };
        assert_eq!(Error::new(lost).code(), Code::RecvRespFailed);
        let invalid = Error::invalid(Rule::Root, Item::Uid, b"0");
        assert_eq!(invalid.code(), Code::ParamInvalid);
    }

    #[test]
    fn an_exec_failure_is_told_from_others_of_its_step() {
        let exec = failed(Step::RunApp, Errno::NOENT).during("exec ./nothing").at_exec(true);
        assert!(exec.to_string().ends_with("or not its interpreter or loader"));
        let name = failed(Step::RunApp, Errno::NOENT).during("exec nothing").at_exec(true);
        assert!(name.to_string().ends_with("./NAME is the package's"));
        let cd = failed(Step::RunApp, Errno::NOENT).during("cd /nowhere");
        assert_eq!(
            cd.to_string(),
            "cannot start the App (enter.3): cd /nowhere: No such file or directory"
        );
    }

    #[test]
    fn errnos_have_names() {
        assert_eq!(errno_name(Errno::NOENT), "ENOENT");
        assert_eq!(errno_name(Errno(4095)), "4095");
    }
}
