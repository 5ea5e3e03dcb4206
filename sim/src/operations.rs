//! What the kernel answers, one small operation at a time: `operations.txt` is the list, with
//! the answers. [`fake`] asks the fake kernel, the root test `kernel` asks Linux; both must
//! answer as it is written there.
//!
//! ```text
//! = a name that is a sentence
//! WHO: OPERATION WORDS -> ANSWER
//! ```
//!
//! `init` is there from the beginning: root on the host, and it reaps whoever becomes its child.
//! Everybody has eleven places for descriptors, `a` to `k`.

pub mod fake;

/// What can be asked, and which system call that is.
pub const OPERATIONS: [(&str, &str); 52] = [
    ("fork WHO [FD..]", "fork, and the child has these descriptors alone"),
    ("fork-sharing WHO", "clone(CLONE_FILES)"),
    ("clone-guard WHO [FD..]", "clone(CLONE_NEWNS | CLONE_NEWPID)"),
    ("clone-app WHO", "clone(CLONE_PARENT)"),
    ("exit", "_exit"),
    ("kill WHO", "kill(SIGKILL)"),
    ("kill-by-pidfd WHO", "pidfd_send_signal(SIGKILL)"),
    ("wait", "waitpid(-1, WNOHANG): one, none yet"),
    ("wait-for WHO", "waitid(P_PIDFD, WNOHANG): it, not yet"),
    ("ended WHO", "poll of a pidfd: yes, no"),
    ("zombie", "waitid(WNOHANG | WNOWAIT), as SIGCHLD would tell: yes, no"),
    ("parent WHO", "/proc/PID/stat"),
    ("alone", "kill(-1, 0): yes for ESRCH, no"),
    ("others", "the living in /proc but for PID 1"),
    ("drop-groups", "setgroups(0)"),
    ("groups", "getgroups: some, none"),
    ("take-ids ID", "setresgid, setresuid, keeping capabilities"),
    ("keep-admin", "capset(CAP_SYS_ADMIN)"),
    ("drop-capabilities", "prctl(PR_CAPBSET_DROP), capset(0), PR_SET_NO_NEW_PRIVS"),
    ("capabilities", "capget: all, one, none"),
    ("unshare-user", "unshare(CLONE_NEWUSER)"),
    ("deny-setgroups WHO", "\"deny\" to /proc/PID/setgroups"),
    ("uid-map WHO ID", "\"ID ID 1\" to /proc/PID/uid_map"),
    ("gid-map WHO ID", "\"ID ID 1\" to /proc/PID/gid_map"),
    ("join WHO", "setns(pidfd, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC)"),
    ("private", "mount(MS_REC | MS_PRIVATE)"),
    ("find-loop X", "LOOP_CTL_GET_FREE: ok, or the name of the device that it is again"),
    ("bind-loop FD X", "LOOP_CONFIGURE of the package, LO_FLAGS_AUTOCLEAR"),
    ("steal-loop X", "the same, by somebody who has nothing to do with us"),
    ("return-loop X", "and the end of that"),
    ("bound X", "/sys/block/loopN/loop: yes, no"),
    ("package FD X", "fsopen(squashfs), fsmount"),
    ("layers FD DATA", "open of .rocker in this mount namespace"),
    ("overlay FD LAYERS", "fsopen(overlay) over /var, fsmount"),
    ("copy FD PATH", "open_tree(OPEN_TREE_CLONE)"),
    ("host-mount PATH", "a tmpfs"),
    ("attach FD PATH", "move_mount"),
    ("proc", "mount -t proc proc /proc"),
    ("look PATH", "statfs: what is there"),
    ("socketpair FD FD", "socketpair(SOCK_SEQPACKET)"),
    ("send FD NUMBER [FD..]", "sendmsg(MSG_DONTWAIT), with descriptors"),
    ("receive FD [FD..]", "recvmsg(MSG_DONTWAIT): NUMBER, eof; descriptors go to these places"),
    ("fill FD", "sendmsg again and again, until it is refused"),
    ("accept-descriptors FD", "SO_PASSRIGHTS of yes"),
    ("readable FD", "poll: yes, no"),
    ("shut-reading FD", "shutdown(SHUT_RD)"),
    ("close FD", "close"),
    ("lock FD DATA", "flock(LOCK_EX | LOCK_NB) of .rocker, opened anew"),
    ("listen", "bind(2) in the file system, listen(16), and SO_PASSRIGHTS of no"),
    ("stop-listening", "close of that socket; its file stays"),
    ("connect a", "connect(2), without waiting"),
    ("accept a", "accept(2), without waiting"),
];

/// Operations after each other, from an empty world.
#[derive(Clone, Debug)]
pub struct Scenario<'a> {
    /// A sentence.
    pub name: &'a str,
    /// In order.
    pub operations: Vec<Operation<'a>>,
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Operation<'a> {
    /// Who asks.
    pub who: &'a str,
    /// What, and its operands.
    pub words: Vec<&'a str>,
    /// What Linux says.
    pub answer: &'a str,
}

impl core::fmt::Display for Operation<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}: {}", self.who, self.words.join(" "))
    }
}

/// All of them.
///
/// # Panics
///
/// If a line of `operations.txt` is none.
pub fn scenarios() -> Vec<Scenario<'static>> {
    let mut scenarios: Vec<Scenario<'_>> = vec![];
    let lines = include_str!("../operations.txt").lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix("= ") {
            scenarios.push(Scenario { name, operations: vec![] });
            continue;
        }
        let operation = line.split_once(": ").and_then(|(who, rest)| {
            let (words, answer) = rest.split_once(" -> ")?;
            let words = words.split_whitespace().collect();
            Some(Operation { who, words, answer: answer.trim() })
        });
        let operation = operation.unwrap_or_else(|| panic!("operations.txt: {line}"));
        scenarios.last_mut().expect("a name comes first").operations.push(operation);
    }
    scenarios
}

/// Which answer is not as it is written, in words; none if all are.
pub fn first_difference(
    scenario: &Scenario<'_>,
    teller: &str,
    mut answer: impl FnMut(&Operation<'_>) -> String,
) -> Option<String> {
    scenario.operations.iter().find_map(|operation| {
        let said = answer(operation);
        let Operation { answer, .. } = operation;
        (said != *answer).then(|| {
            format!(
                "{}\n    {operation}\n    written: {answer}\n    {teller}: {said}",
                scenario.name
            )
        })
    })
}
