//! Descriptors, who holds them, and the sockets they go through.

use protocol::{Errno, Loss};

use super::{
    Answer, BACKLOG_MAX, CONNRESET, Connection, Fd, Kernel, NOTSOCK, Pid, ROLES, Received, Role,
    Table,
};
use crate::fault::{Call, Fault};
use crate::message::{Body, Message};
use crate::violation::Violation;

impl Kernel {
    pub(crate) fn new_table(&mut self, owner: Pid) -> usize {
        self.tables.push(Table { owner, sharers: 1, slots: [None; ROLES] });
        self.tables.len() - 1
    }

    /// `CLONE_FILES`: the table lives as long as either.
    pub(crate) fn share_table(&mut self, table: usize) {
        self.tables[table].sharers += 1;
    }

    pub(crate) fn unshare_table(&mut self, table: usize) {
        self.tables[table].sharers -= 1;
        if self.tables[table].sharers == 0 {
            self.close_table(table);
        }
    }

    pub(super) fn close_tables_of(&mut self, pid: Pid) {
        for table in 0..self.tables.len() {
            if self.tables[table].owner == pid {
                self.tables[table].owner = 0;
                self.unshare_table(table);
            }
        }
    }

    pub(crate) fn close_table(&mut self, table: usize) {
        let slots = core::mem::replace(&mut self.tables[table].slots, [None; ROLES]);
        for fd in slots.into_iter().flatten() {
            self.release(fd);
        }
    }

    pub(crate) fn fd(&self, table: usize, role: Role) -> Answer<Fd> {
        self.tables[table].slots[slot(role)].ok_or(Errno::BADF)
    }

    /// Puts an open file in its place; whatever was there is closed.
    pub(crate) fn install(&mut self, table: usize, role: Role, fd: Fd) {
        self.retain(fd);
        self.close(table, role);
        self.tables[table].slots[slot(role)] = Some(fd);
    }

    pub(crate) fn close(&mut self, table: usize, role: Role) {
        if let Some(fd) = self.tables[table].slots[slot(role)].take() {
            self.release(fd);
        }
    }

    /// Another's descriptor for the same open file.
    pub(super) fn retain(&mut self, fd: Fd) {
        match fd {
            Fd::Socket { connection, side } => self.connections[connection].ends[side].fds += 1,
            Fd::Loop(device) => self.loops[device].fds += 1,
            Fd::Tree(tree) => self.trees[tree].fds += 1,
            Fd::Lock { data } => match self.locks.iter_mut().find(|lock| lock.0 == data) {
                Some(lock) => lock.1 += 1,
                None => self.locks.push((data, 1)),
            },
            Fd::Pidfd(_)
            | Fd::Package(_)
            | Fd::Layers { .. }
            | Fd::Cgroup(_)
            | Fd::Ruleset
            | Fd::Stream => {}
        }
    }

    pub(super) fn release(&mut self, fd: Fd) {
        match fd {
            Fd::Socket { connection, side } => {
                let end = &mut self.connections[connection].ends[side];
                end.fds -= 1;
                if end.fds == 0 {
                    // What nobody will read any more goes with what was sent along.
                    let unread = core::mem::take(&mut end.inbox);
                    self.connections[connection].ends[1 - side].reset |= !unread.is_empty();
                    for message in unread {
                        message.fds.into_iter().flatten().for_each(|fd| self.release(fd));
                    }
                }
            }
            Fd::Loop(device) => {
                self.loops[device].fds -= 1;
                self.autoclear(device);
            }
            Fd::Tree(tree) => {
                self.trees[tree].fds -= 1;
                self.tree_let_go(tree);
            }
            Fd::Lock { data } => {
                if let Some(index) = self.locks.iter().position(|lock| lock.0 == data) {
                    self.locks[index].1 -= 1;
                    if self.locks[index].1 == 0 {
                        self.locks.swap_remove(index);
                    }
                }
            }
            Fd::Pidfd(_)
            | Fd::Package(_)
            | Fd::Layers { .. }
            | Fd::Cgroup(_)
            | Fd::Ruleset
            | Fd::Stream => {}
        }
    }

    /// `flock(LOCK_EX | LOCK_NB)` on `.rocker`, just opened (A11).
    pub(crate) fn lock(&mut self, data: u8) -> Answer<Fd> {
        self.call(Call::Lock)?;
        let is_held = self.locks.iter().any(|lock| lock.0 == data);
        if is_held { Err(Errno::AGAIN) } else { Ok(Fd::Lock { data }) }
    }

    /// `pidfd_getfd`
    pub(crate) fn get_fd(&mut self, of: Pid, role: Role) -> Answer<Fd> {
        self.call(Call::GetFd)?;
        if !self.is_alive(of) {
            return Err(Errno::SRCH);
        }
        let table = self.tables.iter().position(|table| table.owner == of).ok_or(Errno::BADF)?;
        self.fd(table, role)
    }

    pub(crate) fn socketpair(&mut self) -> [Fd; 2] {
        self.connections.push(Connection::default());
        let connection = self.connections.len() - 1;
        [0, 1].map(|side| Fd::Socket { connection, side })
    }

    /// root.1. The far end waits in the backlog until somebody takes it in.
    pub(crate) fn connect(&mut self, table: usize) -> Answer<bool> {
        // One more than listen(2) was told.
        if self.listening && self.backlog.len() > BACKLOG_MAX {
            return Ok(false);
        }
        self.call(Call::Connect)?;
        if !self.has_socket {
            return Err(Errno::NOENT);
        }
        if !self.listening {
            return Err(Errno::CONNREFUSED);
        }
        let [near, far] = self.socketpair();
        self.install(table, Role::Connection, near);
        self.retain(far);
        let Fd::Socket { connection, .. } = far else { return Err(Errno::BADF) };
        self.connections[connection].uid = self.process(self.tables[table].owner).uid;
        // As the listening socket does.
        self.connections[connection].ends[1].refuses = true;
        self.backlog.push(connection);
        Ok(true)
    }

    /// Takes in the first caller of the backlog.
    pub(crate) fn accept(&mut self, table: usize) -> bool {
        if self.backlog.is_empty() {
            return false;
        }
        let fd = Fd::Socket { connection: self.backlog.remove(0), side: 1 };
        self.install(table, Role::Connection, fd);
        self.release(fd);
        true
    }

    /// The socket's file is made anew, and whoever connects waits there.
    pub(crate) fn listen(&mut self) {
        (self.listening, self.has_socket) = (true, true);
    }

    /// The listening socket goes, and with it whoever waits there; its file stays.
    pub(crate) fn stop_listening(&mut self) {
        self.listening = false;
        for connection in core::mem::take(&mut self.backlog) {
            self.connections[connection].ends[0].reset = true;
            self.release(Fd::Socket { connection, side: 1 });
        }
    }

    pub(super) fn socket(&self, table: usize, role: Role) -> Answer<(usize, usize)> {
        match self.fd(table, role)? {
            Fd::Socket { connection, side } => Ok((connection, side)),
            _ => Err(NOTSOCK),
        }
    }

    /// Sends without waiting. The descriptors stay the sender's as well.
    pub(crate) fn send(&mut self, table: usize, role: Role, body: Body, fds: &[Fd]) -> Answer {
        let mut message = Message { body, fds: [None; 5] };
        for (slot, fd) in message.fds.iter_mut().zip(fds) {
            *slot = Some(*fd);
        }
        match self.begin(Call::Send) {
            Ok(()) => {}
            Err(Fault::Refuse(errno)) => return Err(errno),
            Err(Fault::Garble) => message.body = Body::Garbage,
            Err(Fault::Misversion) => message.body = Body::OtherVersion,
            // Both ends are the guard's own: nobody can cut them.
            Err(_) if body == Body::Newcomer => return Ok(()),
            Err(_) => {
                let (connection, _) = self.socket(table, role)?;
                self.cut(connection);
                return Ok(());
            }
        }
        let (connection, side) = self.socket(table, role)?;
        let it = &mut self.connections[connection];
        if core::mem::take(&mut it.ends[side].reset) {
            return Err(CONNRESET);
        }
        let far = &mut it.ends[1 - side];
        if far.fds == 0 || far.deaf || it.cut {
            return Err(Errno::PIPE);
        }
        if far.refuses && !fds.is_empty() {
            self.violated(Violation::SentTooEarly);
            return Err(Errno::PERM);
        }
        if far.inbox.len() >= self.queue_max && !it.wide {
            return Err(Errno::AGAIN);
        }
        if let Some(verdict) = message.body.verdict() {
            let is_news = verdict > it.verdict;
            it.verdict = verdict;
            if !is_news {
                self.violated(Violation::ToldTwice);
            }
        }
        message.fds.into_iter().flatten().for_each(|fd| self.retain(fd));
        self.connections[connection].ends[1 - side].inbox.push(message);
        Ok(())
    }

    /// `SO_PASSRIGHTS`
    pub(crate) fn accept_descriptors(&mut self, table: usize, role: Role) -> Answer {
        let (connection, side) = self.socket(table, role)?;
        self.connections[connection].ends[side].refuses = false;
        Ok(())
    }

    /// `SO_PEERCRED`
    pub(crate) fn peer_uid(&self, table: usize, role: Role) -> u32 {
        self.socket(table, role)
            .map_or(u32::MAX, |(connection, _)| self.connections[connection].uid)
    }

    /// `SO_SNDBUFFORCE`
    pub(crate) fn widen(&mut self, table: usize, role: Role) {
        if let Ok((connection, _)) = self.socket(table, role) {
            self.connections[connection].wide = true;
        }
    }

    /// Whether `poll` finds room for another message, or nobody to read it.
    pub(crate) fn is_writable(&self, table: usize, role: Role) -> bool {
        let Ok((connection, side)) = self.socket(table, role) else { return true };
        let it = &self.connections[connection];
        let far = &it.ends[1 - side];
        far.inbox.len() < self.queue_max || far.fds == 0 || far.deaf || it.cut
    }

    /// Both ends see the other closed; what was unread is lost.
    pub(super) fn cut(&mut self, connection: usize) {
        self.connections[connection].cut = true;
        for side in 0..2 {
            for message in core::mem::take(&mut self.connections[connection].ends[side].inbox) {
                message.fds.into_iter().flatten().for_each(|fd| self.release(fd));
            }
        }
    }

    /// Whether `receive` would find something: a message, or that no more will come.
    pub(crate) fn is_readable(&self, table: usize, role: Role) -> bool {
        let Ok((connection, side)) = self.socket(table, role) else { return true };
        let it = &self.connections[connection];
        let end = &it.ends[side];
        let far = &it.ends[1 - side];
        !end.inbox.is_empty() || far.fds == 0 || far.mute || it.cut || end.deaf
    }

    /// `recvmsg(MSG_DONTWAIT)`: a message, or none at the end.
    pub(crate) fn read(&mut self, table: usize, role: Role) -> Answer<Option<Message>> {
        let (connection, side) = self.socket(table, role)?;
        let it = &mut self.connections[connection];
        if core::mem::take(&mut it.ends[side].reset) {
            return Err(CONNRESET);
        }
        if !it.ends[side].inbox.is_empty() {
            return Ok(Some(it.ends[side].inbox.remove(0)));
        }
        let far = &it.ends[1 - side];
        let is_over = far.fds == 0 || far.mute || it.cut || it.ends[side].deaf;
        if is_over { Ok(None) } else { Err(Errno::AGAIN) }
    }

    /// Receives if something is there, as `protocol::socket` does. Descriptors that came along are the message's still:
    /// whoever takes it installs them, and then [drops](Self::drop_message) it.
    pub(crate) fn receive(&mut self, table: usize, role: Role) -> Answer<Received> {
        if !self.is_readable(table, role) {
            return Ok(Received::Empty);
        }
        self.call(Call::Receive)?;
        let message = loop {
            match self.read(table, role) {
                Err(CONNRESET) => {}
                Err(Errno::AGAIN) => return Ok(Received::Empty),
                Err(errno) => return Err(errno),
                Ok(None) => return Ok(Received::Lost(Loss::Died)),
                Ok(Some(message)) => break message,
            }
        };
        let how = match message.body {
            Body::Garbage => Loss::Garbage,
            Body::OtherVersion => Loss::Version,
            _ => return Ok(Received::Message(message)),
        };
        self.drop_message(message);
        Ok(Received::Lost(how))
    }

    pub(crate) fn drop_message(&mut self, message: Message) {
        message.fds.into_iter().flatten().for_each(|fd| self.release(fd));
    }

    /// `shutdown(SHUT_RD)`
    pub(crate) fn shut_reading(&mut self, table: usize, role: Role) -> Answer {
        self.call(Call::Shutdown)?;
        let (connection, side) = self.socket(table, role)?;
        self.connections[connection].ends[side].deaf = true;
        Ok(())
    }

    /// `shutdown(SHUT_WR)`: that there is no far end any more is fine.
    pub(crate) fn shut_writing(&mut self, table: usize, role: Role) {
        if let Ok((connection, side)) = self.socket(table, role) {
            self.connections[connection].ends[side].mute = true;
        }
    }

    /// The role of a descriptor that this table should not have any more.
    pub(crate) fn has_any(&self, table: usize, roles: &[Role]) -> Option<Role> {
        roles.iter().copied().find(|&role| self.tables[table].slots[slot(role)].is_some())
    }
}

const fn slot(role: Role) -> usize {
    match role {
        Role::Connection => 0,
        Role::Link => 1,
        Role::Package => 2,
        Role::LoopDevice => 3,
        Role::PackageMount => 4,
        Role::Lock => 5,
        Role::Layers => 6,
        Role::LayerOfRoot => 7,
        Role::LayerOfVar => 8,
        Role::Entrance => 9,
        Role::App => 10,
        Role::Attached => 11,
        Role::AttachedToo => 12,
        Role::Newcomer => 13,
        Role::Intake => 14,
        Role::IntakeOutside => 15,
        Role::SharedMount => 16,
        Role::Cgroup => 17,
        Role::Dev => 18,
        Role::Ruleset => 19,
    }
}
