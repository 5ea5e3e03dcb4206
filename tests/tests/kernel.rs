//! The sim's kernel is no kernel of fancy: `sim/operations.txt` is put to Linux, operation by
//! operation, and Linux must answer as it is written there. That the sim's kernel does is its
//! own test, without root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use core::time::Duration;
use std::collections::BTreeMap;
use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command, ExitCode};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    sockopt,
};
use sim::operations::{Operation, Scenario, first_difference, scenarios};
use tests::{Package, SOON, process, programs, root, runner, scratch, within};

fn main() -> ExitCode {
    runner::main(root![linux_answers_as_it_is_written])
}

/// How long something may take that is on its way already.
const SETTLED: Duration = Duration::from_millis(50);

/// Another program may take a loop device in between, as one may in a launch.
const TRIES: usize = 3;

fn linux_answers_as_it_is_written() {
    let package = Package::new().file("hello", 0o644, "hello\n").build();
    let mut differences = vec![];
    for scenario in scenarios() {
        let loops = scenario.operations.iter().any(|it| it.words[0] == "find-loop");
        let tries = if loops { TRIES } else { 1 };
        let difference = (0..tries).map(|_| Stage::new(&scenario, &package).play(&scenario));
        differences.extend(difference.take_while(Option::is_some).last().flatten());
    }
    // Before Linux 6.16 there is no SO_PASSRIGHTS.
    differences.retain(|difference: &String| !difference.ends_with("ENOPROTOOPT"));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Processes that do as they are told, and a directory for them.
struct Stage {
    dir: tempfile::TempDir,
    init: Child,
    controls: BTreeMap<String, OwnedFd>,
    people: BTreeMap<String, Person>,
    loops: Vec<(String, u32)>,
}

struct Person {
    pid: u32,
    pidfd: OwnedFd,
}

impl Stage {
    fn new(scenario: &Scenario<'_>, package: &std::path::Path) -> Self {
        let dir = scratch();
        for name in ["var/app/exec", "var/sub", "data1/.rocker/up", "data1/.rocker/work"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        fs::create_dir_all(dir.path().join("data2/.rocker")).unwrap();
        fs::copy(package, dir.path().join("package.sqfs")).unwrap();
        let mut init = Command::new(programs::actor());
        init.arg(dir.path());
        let (mut controls, mut theirs) = (BTreeMap::new(), vec![]);
        for name in names(scenario) {
            let none = SocketFlags::empty();
            let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, none, None);
            let (ours, their) = pair.unwrap();
            rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC).unwrap();
            // Each message says who has sent it, by the pid that it has here.
            sockopt::set_socket_passcred(&ours, true).unwrap();
            sockopt::set_socket_timeout(&ours, sockopt::Timeout::Recv, Some(SOON)).unwrap();
            init.arg(format!("{name}={}", their.as_raw_fd()));
            controls.insert(name.to_owned(), ours);
            theirs.push(their);
        }
        let init = init.spawn().unwrap();
        drop(theirs);
        let (people, loops) = (BTreeMap::new(), vec![]);
        let mut stage = Self { dir, init, controls, people, loops };
        stage.meet("init");
        stage
    }

    fn play(mut self, scenario: &Scenario<'_>) -> Option<String> {
        first_difference(scenario, "Linux", |operation| {
            let mut said = self.ask(operation);
            if is_question(operation) {
                within(SOON, || {
                    if said != operation.answer {
                        said = self.ask(operation);
                    }
                    said == operation.answer
                });
            }
            said
        })
    }

    /// Somebody new says that it is there.
    fn meet(&mut self, name: &str) {
        let (said, pid) = self.hear(name);
        assert_eq!(said, "here", "{name}");
        let pidfd = process::pidfd(pid).expect("it is there");
        self.people.insert(name.to_owned(), Person { pid, pidfd });
    }

    /// What somebody says, and who that is.
    fn hear(&self, name: &str) -> (String, u32) {
        let mut buffer = [0; 256];
        let mut space = [core::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut buffer)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = match recvmsg(&self.controls[name], &mut into, &mut control, flags) {
            Ok(got) => got,
            Err(errno) => return (format!("nothing: {errno}"), 0),
        };
        let pid = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
            _ => None,
        });
        let pid = pid.map_or(0, |pid| pid.as_raw_nonzero().get().cast_unsigned());
        (String::from_utf8_lossy(&buffer[..got.bytes]).into_owned(), pid)
    }

    fn ask(&mut self, operation: &Operation<'_>) -> String {
        let (who, words) = (operation.who, operation.words.as_slice());
        if let ["parent", name] = words {
            return self.parent(name);
        }
        let mut command = words.to_vec();
        let begins = is_beginning(words[0]);
        let whom = words[1..].iter().find_map(|word| self.people.get(*word)).filter(|_| !begins);
        let pid = whom.map_or(String::new(), |it| it.pid.to_string());
        for word in command.iter_mut().skip(1).filter(|word| self.people.contains_key(**word)) {
            *word = &pid;
        }
        let numbers: Vec<String> =
            self.loops.iter().map(|(_, number)| number.to_string()).collect();
        for word in command.iter_mut().skip(1) {
            if let Some(known) = self.loops.iter().position(|(name, _)| name == word) {
                *word = &numbers[known];
            }
        }
        if words[0] == "find-loop" {
            command.truncate(1);
        }
        let mut space = [core::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<_> = whom.iter().map(|it| it.pidfd.as_fd()).collect();
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let text = command.join(" ");
        let text = [IoSlice::new(text.as_bytes())];
        sendmsg(&self.controls[who], &text, &mut control, SendFlags::NOSIGNAL).unwrap();
        let (said, _) = self.hear(who);
        self.heard(operation, said)
    }

    /// What an answer means beyond itself.
    fn heard(&mut self, operation: &Operation<'_>, said: String) -> String {
        match operation.words.as_slice() {
            [verb, name, ..] if is_beginning(verb) && said == "ok" => self.meet(name),
            ["find-loop", name] if said.parse::<u32>().is_ok() => {
                let number = said.parse().unwrap();
                let known = self.loops.iter().find(|(_, known)| *known == number);
                let words = known.map_or("ok".to_owned(), |(name, _)| name.clone());
                self.loops.push(((*name).to_owned(), number));
                return words;
            }
            ["exit"] => self.settle(operation.who),
            ["kill" | "kill-by-pidfd", name] => self.settle(name),
            _ => {}
        }
        said
    }

    /// The end takes a moment.
    fn settle(&self, name: &str) {
        let pid = self.people[name].pid;
        within(SETTLED, || !process::is_alive(pid));
    }

    fn parent(&self, name: &str) -> String {
        let stat = process::stat(self.people[name].pid);
        let found =
            self.people.iter().find(|(_, it)| Some(it.pid) == stat.as_ref().map(|it| it.ppid));
        found.map_or("nobody", |(name, _)| name).to_owned()
    }
}

/// Everybody goes when nobody commands any more; who does not is a failure of this test.
impl Drop for Stage {
    fn drop(&mut self) {
        self.controls.clear();
        let _ = self.init.wait();
        let left = |stage: &Self| stage.people.values().any(|it| process::is_alive(it.pid));
        if !within(SOON, || !left(self)) {
            for person in self.people.values() {
                let kill = rustix::process::Signal::KILL;
                let _ = rustix::process::pidfd_send_signal(&person.pidfd, kill);
            }
            assert!(std::thread::panicking(), "{}: somebody stays", self.dir.path().display());
        }
    }
}

fn is_beginning(verb: &str) -> bool {
    ["fork", "fork-sharing", "clone-guard", "clone-app"].contains(&verb)
}

/// Everybody in a scenario, `init` first.
fn names<'a>(scenario: &Scenario<'a>) -> Vec<&'a str> {
    let begun = scenario.operations.iter().filter(|it| is_beginning(it.words[0]));
    let mut names: Vec<&str> = vec!["init"];
    names.extend(begun.map(|it| it.words[1]));
    names
}

/// What can be asked twice, and may become true a moment later.
fn is_question(operation: &Operation<'_>) -> bool {
    const QUESTIONS: [&str; 9] =
        ["ended", "zombie", "alone", "others", "wait", "wait-for", "bound", "parent", "readable"];
    QUESTIONS.contains(&operation.words[0])
}
