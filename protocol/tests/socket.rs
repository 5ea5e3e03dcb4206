//! Messages with descriptors over a socket pair, and what a hostile or dying peer can do to it.
#![cfg(feature = "linux")]
#![allow(clippy::unwrap_used, reason = "a test's own mistakes may panic")]

use core::mem::MaybeUninit;
use core::time::Duration;
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};

use protocol::limits::MESSAGE_MAX;
use protocol::socket::{Buffer, Received, now_ns, receive, receive_before, send, wait_readable};
use protocol::{
    Cgroup, ClientMessage, Dev, Errno, GuardMessage, Ids, Loss, MasterMessage, Message, Name,
    Overlays, Package, Path, Request, wire,
};
use rustix::fs::{MemfdFlags, fstat, memfd_create};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};

const LIST: Message<'static> = Message::Client(ClientMessage::List);

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

/// A file that can be told from every other: tests run side by side in one process.
fn file() -> OwnedFd {
    memfd_create(c"test", MemfdFlags::CLOEXEC).unwrap()
}

/// How many descriptors of this process are open on the file.
fn times_open(file: &OwnedFd) -> usize {
    let wanted = fstat(file).unwrap();
    let is_it = |entry: &std::io::Result<std::fs::DirEntry>| {
        let found = rustix::fs::stat(entry.as_ref().unwrap().path());
        found.is_ok_and(|found| (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino))
    };
    std::fs::read_dir("/proc/self/fd").unwrap().filter(is_it).count()
}

/// What no well-behaved peer sends.
fn send_raw(socket: &OwnedFd, bytes: &[u8], file: &OwnedFd, copies: usize) {
    let descriptors = vec![file.as_fd(); copies];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(100))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if copies > 0 {
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

fn loss(socket: &OwnedFd) -> Loss {
    match receive(socket, &mut Buffer::default()) {
        Ok(Received::Lost(loss)) => loss,
        other => panic!("not a loss: {other:?}"),
    }
}

fn request(data_dir: bool) -> Request<'static> {
    let path = |text: &'static str| Path::new(text.as_bytes()).unwrap();
    Request {
        app_id: 1,
        uid: 1000,
        gid: 1000,
        package: path("/p"),
        exec_dir: path("/e"),
        data_dir: data_dir.then(|| path("/d")),
        overlays: Overlays::AllTopDirs,
        ids: Ids::Identity,
        timeout_ms: 1,
        trace: false,
        options: protocol::Options::default(),
    }
}

fn hand_over(data_dir: bool, cgroups: usize, dev: Dev<'static>) -> Message<'static> {
    let options = protocol::Options { dev, ..protocol::Options::default() };
    let request = Request { options, ..request(data_dir) };
    let (name, package) = (Name::from_random(1), Package::Own);
    let cgroups = (0..cgroups).map(|_| Cgroup::default()).collect();
    Message::Master(MasterMessage::HandOver { name, guard_pid: 1, request, package, cgroups })
}

#[test]
fn a_message_arrives_with_exactly_its_descriptors() {
    let (name, guard_pid) = (Name::from_random(1), 1);
    let entrance = GuardMessage::Entrance { name, guard_pid, filter: &[], more: 2 };
    let messages = [
        (LIST, 0),
        (Message::Guard(entrance), 3),
        (hand_over(false, 0, Dev::Host), 2),
        (hand_over(true, 5, Dev::Own), 14),
    ];
    for (message, count) in messages {
        let ((ours, theirs), file) = (pair(), file());
        let mut buffer = Buffer::default();
        send(&ours, &message, &vec![file.as_fd(); count], &mut buffer).unwrap();
        match receive(&theirs, &mut buffer).unwrap() {
            Received::Message(received, descriptors) => {
                assert_eq!((&received, descriptors.len()), (&message, count));
                assert_eq!(times_open(&file), 1 + count);
                for descriptor in &descriptors {
                    let flags = rustix::io::fcntl_getfd(descriptor).unwrap();
                    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
                }
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(times_open(&file), 1, "dropping a message closes what came with it");
    }
}

#[test]
fn a_wrong_number_of_descriptors_is_garbage_and_leaves_none_open() {
    let bare = hand_over(false, 0, Dev::Host);
    for (message, right) in [(LIST, 0), (bare, 2), (hand_over(true, 1, Dev::Own), 6)] {
        for count in [0, 1, 2, 3, 5, 10, 100].into_iter().filter(|&count| count != right) {
            let ((ours, theirs), file) = (pair(), file());
            let mut bytes = [0; MESSAGE_MAX];
            let bytes = wire::encode(&message, &mut bytes).unwrap();
            send_raw(&ours, bytes, &file, count);
            assert_eq!(loss(&theirs), Loss::Garbage, "{count} instead of {right}");
            assert_eq!(times_open(&file), 1, "{count} instead of {right}");
            // The connection is none the worse for it: what follows is read.
            send(&ours, &LIST, &[], &mut Buffer::default()).unwrap();
            let mut buffer = Buffer::default();
            assert!(matches!(receive(&theirs, &mut buffer), Ok(Received::Message(LIST, _))));
        }
    }
}

#[test]
fn descriptors_with_bytes_that_are_no_message_are_closed() {
    for bytes in [&b"garbage"[..], &[0; 33 * 1024], &[wire::VERSION], &[wire::VERSION + 1, 0, 2]] {
        for count in [1, 3, 10, 100] {
            let ((ours, theirs), file) = (pair(), file());
            send_raw(&ours, bytes, &file, count);
            assert!(matches!(loss(&theirs), Loss::Garbage | Loss::Version));
            assert_eq!(times_open(&file), 1);
        }
    }
}

#[test]
fn what_is_too_long_is_garbage() {
    let (ours, theirs) = pair();
    let mut bytes = vec![0; MESSAGE_MAX + 1];
    wire::encode(&LIST, &mut bytes).unwrap();
    for length in [MESSAGE_MAX, MESSAGE_MAX + 1, MESSAGE_MAX + 2, 2 * MESSAGE_MAX] {
        bytes.resize(length, 0);
        send_raw(&ours, &bytes, &ours, 0);
        assert_eq!(loss(&theirs), Loss::Garbage, "{length}");
    }
}

#[test]
fn what_breaks_off_is_garbage() {
    let (ours, theirs) = pair();
    let mut bytes = [0; MESSAGE_MAX];
    let bytes = wire::encode(&hand_over(true, 0, Dev::Own), &mut bytes).unwrap();
    send_raw(&ours, &bytes[..bytes.len() / 2], &ours, 0);
    assert_eq!(loss(&theirs), Loss::Garbage);
}

/// SOCK_SEQPACKET has no other sign for the end of a connection.
#[test]
fn an_empty_datagram_is_the_peers_death() {
    let (ours, theirs) = pair();
    send_raw(&ours, &[], &ours, 0);
    assert_eq!(loss(&theirs), Loss::Died);
    let file = file();
    send_raw(&ours, &[], &file, 10);
    assert_eq!(loss(&theirs), Loss::Garbage, "the dead send no descriptors");
    assert_eq!(times_open(&file), 1);
}

#[test]
fn another_version_is_told_from_garbage() {
    let (ours, theirs) = pair();
    send_raw(&ours, &[wire::VERSION + 1, 1, 2, 3], &ours, 0);
    assert_eq!(loss(&theirs), Loss::Version);
}

#[test]
fn a_closed_connection_is_a_death_again_and_again() {
    let (ours, theirs) = pair();
    drop(ours);
    assert_eq!(loss(&theirs), Loss::Died);
    assert_eq!(loss(&theirs), Loss::Died);
    let sent = send(&theirs, &LIST, &[], &mut Buffer::default());
    assert_eq!(sent, Err(Errno::PIPE));
}

/// The kernel then says ECONNRESET first, and would hide the last words for who stops there.
#[test]
fn the_last_words_of_a_peer_that_did_not_listen_are_heard() {
    let ((ours, theirs), file) = (pair(), file());
    let mut buffer = Buffer::default();
    let done = Message::Client(ClientMessage::AppStarted);
    send(&theirs, &LIST, &[], &mut buffer).unwrap();
    send(&ours, &done, &[file.as_fd()], &mut buffer).unwrap();
    drop(ours);
    match receive(&theirs, &mut buffer).unwrap() {
        Received::Message(message, descriptors) => {
            assert_eq!((message, descriptors.len()), (done, 1));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(loss(&theirs), Loss::Died);
}

#[test]
fn nothing_yet_is_neither_a_message_nor_a_loss() {
    let (_ours, theirs) = pair();
    let mut buffer = Buffer::default();
    assert!(matches!(receive(&theirs, &mut buffer), Ok(Received::Empty)));
    let started = now_ns();
    let soon = started + 20_000_000;
    let received = receive_before(&theirs, &mut buffer, soon);
    assert!(matches!(received, Ok(Received::Lost(Loss::Silent))));
    assert!(Duration::from_nanos(now_ns() - started) >= Duration::from_millis(20));
    // A deadline in the past is one that has come.
    assert_eq!(wait_readable(&theirs, 0), Ok(false));
}

#[test]
fn a_peer_that_does_not_read_delays_nobody() {
    let (ours, _theirs) = pair();
    let mut buffer = Buffer::default();
    let full = (0..100_000).find_map(|_| send(&ours, &LIST, &[], &mut buffer).err());
    assert_eq!(full, Some(Errno::AGAIN));
}
