//! One launch, and one program, in the words of both libraries.
#![allow(missing_docs, reason = "they are called as in the libraries")]
#![allow(clippy::missing_panics_doc, reason = "a test that cannot go on has failed")]
#![allow(clippy::unwrap_used, reason = "as above")]

use core::time::Duration;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::c_client::{self, Request, c_string};
use crate::probe_package;
use crate::{APP_GID, APP_UID, Daemon};
use protocol::socket::{Buffer, Received, now_ns, receive_before, send};
use protocol::{GuardMessage, Message};
use rocker_client::{Launch, Program, Seccomp, Stdio};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socketpair};

/// One launch in the words of both.
#[derive(Clone, Debug)]
pub struct Both {
    pub rust: Launch,
    pub c: Request,
}

impl Both {
    pub fn new(daemon: &Daemon) -> Self {
        Self::of(daemon, &probe_package())
    }

    pub fn of(daemon: &Daemon, package: &Path) -> Self {
        let c = Request {
            uid: Some(APP_UID.cast_signed()),
            gid: Some(APP_GID.cast_signed()),
            package: Some(c_string(package)),
            exec_dir: Some(c_string(daemon.exec_dir())),
            socket: Some(c_string(daemon.socket())),
            ..Request::default()
        };
        Self { rust: daemon.launch(package), c }
    }

    pub fn unconfined(mut self) -> Self {
        self.c.unconfined = true;
        Self { rust: self.rust.seccomp(Seccomp::Unconfined), ..self }
    }

    pub fn seccomp_log(mut self) -> Self {
        self.c.seccomp_log = true;
        Self { rust: self.rust.seccomp(Seccomp::Log), ..self }
    }

    pub fn filter(mut self, filter: &[u8]) -> Self {
        self.c.filter = filter.to_vec();
        Self { rust: self.rust.seccomp(Seccomp::Filter(filter.to_vec())), ..self }
    }

    pub fn volatile(mut self) -> Self {
        self.c.volatile = true;
        Self { rust: self.rust.volatile(true), ..self }
    }

    pub fn landlock(mut self) -> Self {
        self.c.landlock = true;
        Self { rust: self.rust.landlock(true), ..self }
    }

    pub fn user_namespaces(mut self) -> Self {
        self.c.user_namespaces = true;
        Self { rust: self.rust.user_namespaces(true), ..self }
    }

    pub fn uid(mut self, uid: u32) -> Self {
        self.c.uid = Some(uid.cast_signed());
        Self { rust: self.rust.uid(uid), ..self }
    }

    pub fn gid(mut self, gid: u32) -> Self {
        self.c.gid = Some(gid.cast_signed());
        Self { rust: self.rust.gid(gid), ..self }
    }

    pub fn package(self, package: &str) -> Self {
        let Self { mut c, .. } = self;
        let rust = Launch::new(package).uid(APP_UID).gid(APP_GID);
        c.package = Some(c_string(package));
        Self { rust, c }
    }

    pub fn exec_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.c.exec_dir = Some(c_string(&dir));
        Self { rust: self.rust.exec_dir(dir), ..self }
    }

    pub fn data_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.c.data_dir = Some(c_string(&dir));
        Self { rust: self.rust.data_dir(dir), ..self }
    }

    pub fn overlay(mut self, dir: impl AsRef<Path>) -> Self {
        self.c.overlay_dirs.push(c_string(&dir));
        Self { rust: self.rust.overlay(dir), ..self }
    }

    pub fn timeout_ms(mut self, ms: u32) -> Self {
        self.c.timeout_ms = Some(ms.cast_signed());
        Self { rust: self.rust.timeout(Duration::from_millis(ms.into())), ..self }
    }

    pub fn socket(mut self, socket: impl AsRef<Path>) -> Self {
        self.c.socket = Some(c_string(&socket));
        Self { rust: self.rust.socket(socket), ..self }
    }
}

/// One program in the words of both.
#[derive(Clone, Debug)]
pub struct Words {
    pub path: String,
    pub args: Vec<String>,
    pub env: Vec<(&'static str, &'static str)>,
    pub cwd: Option<String>,
    /// Not descriptor 1, unless the output goes elsewhere.
    pub null: [bool; 3],
    /// Where the pipe is that is read: as 1, or else as 3.
    pub output_is_stdout: bool,
    pub files: Vec<PathBuf>,
    pub keep_session: bool,
}

impl Words {
    pub fn new<S: ToString>(path: &str, args: impl IntoIterator<Item = S>) -> Self {
        Self {
            path: path.to_owned(),
            args: args.into_iter().map(|arg| arg.to_string()).collect(),
            env: vec![],
            cwd: None,
            null: [false; 3],
            output_is_stdout: true,
            files: vec![],
            keep_session: false,
        }
    }

    pub fn probe<S: ToString>(commands: impl IntoIterator<Item = S>) -> Self {
        Self::new("bin/probe", commands)
    }

    /// What the App finds as 3, 4, ...
    pub fn kept(&self, output: &OwnedFd) -> Vec<OwnedFd> {
        let output = (!self.output_is_stdout).then(|| output.try_clone().unwrap());
        let files = self.files.iter().map(|file| fs::File::open(file).unwrap().into());
        output.into_iter().chain(files).collect()
    }

    pub fn stdio(&self, number: usize, output: &OwnedFd) -> Stdio {
        match number {
            1 if self.output_is_stdout => output.try_clone().unwrap().into(),
            _ if self.null[number] => Stdio::Null,
            _ => Stdio::Inherit,
        }
    }

    pub fn rust(&self, output: &OwnedFd) -> Program {
        let mut program = Program::new(&self.path)
            .args(&self.args)
            .stdin(self.stdio(0, output))
            .stdout(self.stdio(1, output))
            .stderr(self.stdio(2, output));
        program = self.env.iter().fold(program, |program, (name, value)| program.env(name, value));
        program = self.kept(output).into_iter().fold(program, Program::keep_fd);
        program = self.cwd.iter().fold(program, |program, dir| program.cwd(dir));
        if self.keep_session { program.keep_session() } else { program }
    }

    pub fn c(&self, output: &OwnedFd) -> c_client::Program {
        let mut program = c_client::Program::new(&self.path).args(&self.args);
        program = (0..3).fold(program, |program, n| program.stdio(n, self.stdio(n, output)));
        program = self.env.iter().fold(program, |program, (name, value)| program.env(name, value));
        program = self.kept(output).into_iter().fold(program, c_client::Program::keep_fd);
        program = self.cwd.iter().fold(program, |program, dir| program.cwd(dir));
        if self.keep_session { program.keep_session() } else { program }
    }
}

/// Numbers that the kernel gives out anew each time: `pipe:[1234]`, `/dev/loop7`, a guard's pid.
pub fn without_numbers(text: &str) -> String {
    let mut told = String::new();
    let mut rest = text;
    let begins =
        |rest: &str| ["[", "/dev/loop", "--target "].into_iter().find(|b| rest.starts_with(b));
    while let Some(first) = rest.chars().next() {
        let length = begins(rest).map_or(first.len_utf8(), str::len);
        let (head, tail) = rest.split_at(length);
        told.push_str(head);
        rest = tail;
        if begins(head).is_some() {
            let tail = rest.trim_start_matches(|char: char| char.is_ascii_digit());
            told.push_str(if tail.len() < rest.len() { "#" } else { "" });
            rest = tail;
        }
    }
    told
}

/// A program that does nothing until it is killed.
pub fn sleeper() -> c_client::Program {
    c_client::Program::new("bin/probe").args(["sleep 60000"])
}

/// A connection to the master on which somebody kills the guard before the caller hears of it.
pub fn ambush(daemon: &Daemon) -> OwnedFd {
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (callers, ours) = pair.unwrap();
    let master = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::connect(&master, &SocketAddrUnix::new(daemon.socket()).unwrap()).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        let flags = rustix::net::RecvFlags::empty();
        let (length, _) = rustix::net::recv(&ours, &mut bytes[..], flags).unwrap();
        rustix::net::send(&master, &bytes[..length], rustix::net::SendFlags::empty()).unwrap();
        let deadline = now_ns() + 5_000_000_000;
        let mut buffer = Buffer::default();
        let (message, guard) = loop {
            let said = receive_before(&master, &mut buffer, deadline);
            let Ok(Received::Message(message, guard)) = said else { panic!("no entrance") };
            match message {
                message @ Message::Guard(GuardMessage::Entrance { .. }) => break (message, guard),
                // What only who asks for a trace is told.
                step => send(&ours, &step, &[], &mut Buffer::default()).unwrap(),
            }
        };
        let guard = guard.into_iter().next().expect("it comes with the guard's pidfd");
        rustix::process::pidfd_send_signal(&guard, rustix::process::Signal::KILL).unwrap();
        poll(&mut [PollFd::new(&guard, PollFlags::IN)], None).unwrap();
        send(&ours, &message, &[guard.as_fd()], &mut Buffer::default()).unwrap();
    });
    callers
}
