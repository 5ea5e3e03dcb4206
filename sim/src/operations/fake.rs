//! The fake kernel is asked.

use protocol::Errno;

use super::{Operation, Scenario, first_difference};
use crate::fault::{Call, Who};
use crate::kernel::{Answer, Capabilities, Fd, INIT, IdMap, Kernel, Pid, Role, TreeKind};
use crate::message::{Body, Message};
use crate::words::errno_name;

/// Where the fake kernel answers otherwise than it is written.
pub fn difference(scenario: &Scenario<'_>) -> Option<String> {
    let mut kernel = Kernel::new();
    let table = kernel.new_table(INIT);
    let init = Actor { name: "init".to_owned(), pid: INIT, table, shares: false };
    let mut asker = Asker { kernel, actors: vec![init], loops: vec![] };
    first_difference(scenario, "the model", |operation| asker.ask(operation))
}

struct Asker {
    kernel: Kernel,
    actors: Vec<Actor>,
    /// Found devices by name.
    loops: Vec<(String, usize)>,
}

/// A process, and its table of descriptors or another's.
struct Actor {
    name: String,
    pid: Pid,
    table: usize,
    shares: bool,
}

type Words = Answer<String>;

/// Who asks.
#[derive(Clone, Copy)]
struct Me {
    pid: Pid,
    table: usize,
}

impl Asker {
    fn ask(&mut self, operation: &Operation<'_>) -> String {
        let me = self.actor(operation.who);
        let me = Me { pid: me.pid, table: me.table };
        let words = operation.words.as_slice();
        let answer = None
            .or_else(|| self.life(me, words))
            .or_else(|| self.death(me, words))
            .or_else(|| self.identity(me, words))
            .or_else(|| self.id_map(me, words))
            .or_else(|| self.loop_device(me, words))
            .or_else(|| self.mount(me, words))
            .or_else(|| self.socket(me, words))
            .or_else(|| self.listener(me, words))
            .unwrap_or_else(|| panic!("no such operation: {operation}"));
        answer.unwrap_or_else(errno_name)
    }

    fn actor(&self, name: &str) -> &Actor {
        let found = self.actors.iter().find(|actor| actor.name == name);
        found.unwrap_or_else(|| panic!("there is no {name}"))
    }

    fn pid(&self, name: &str) -> Pid {
        self.actor(name).pid
    }

    fn device(&self, name: &str) -> usize {
        let found = self.loops.iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("{name} was never found")).1
    }

    /// A process begins, with some of its parent's descriptors.
    fn meet(&mut self, me: Me, name: &str, pid: Pid, fds: &[&str]) -> Words {
        let table = self.kernel.new_table(pid);
        for fd in fds {
            let role = place(fd);
            let fd = self.kernel.fd(me.table, role)?;
            self.kernel.install(table, role, fd);
        }
        self.actors.push(Actor { name: name.to_owned(), pid, table, shares: false });
        ok()
    }

    fn life(&mut self, me: Me, words: &[&str]) -> Option<Words> {
        let who = Who::App(self.actors.len());
        Some(match words {
            ["fork", name, fds @ ..] => self.kernel.can_fork(me.pid).and_then(|()| {
                let pid = self.kernel.fork(me.pid, who);
                self.meet(me, name, pid, fds)
            }),
            ["fork-sharing", name] => self.kernel.can_fork(me.pid).and_then(|()| {
                let pid = self.kernel.fork(me.pid, who);
                self.kernel.share_table(me.table);
                let name = (*name).to_owned();
                self.actors.push(Actor { name, pid, table: me.table, shares: true });
                ok()
            }),
            ["clone-guard", name, fds @ ..] => self
                .kernel
                .clone_guard(me.pid, self.actors.len())
                .and_then(|pid| self.meet(me, name, pid, fds)),
            ["clone-app", name] => {
                self.kernel.clone_app(me.pid, who).and_then(|pid| self.meet(me, name, pid, &[]))
            }
            ["parent", name] => {
                let parent = self.kernel.process(self.pid(name)).parent;
                let found = self.actors.iter().find(|actor| actor.pid == parent);
                Ok(found.map_or("nobody", |actor| &actor.name).to_owned())
            }
            ["alone"] => yes(self.kernel.is_alone(me.pid)),
            ["others"] => Ok(self.kernel.others(me.pid).count().to_string()),
            _ => return None,
        })
    }

    /// A process goes: what it shared has one user less.
    fn let_go(&mut self, pid: Pid) {
        if let Some(actor) = self.actors.iter_mut().find(|it| it.pid == pid && it.shares) {
            actor.shares = false;
            self.kernel.unshare_table(actor.table);
        }
    }

    fn death(&mut self, me: Me, words: &[&str]) -> Option<Words> {
        Some(match words {
            ["exit"] => {
                self.let_go(me.pid);
                self.kernel.exit(me.pid);
                ok()
            }
            ["kill", name] => {
                self.let_go(self.pid(name));
                done(self.kernel.kill(self.pid(name)))
            }
            ["kill-by-pidfd", name] => {
                self.let_go(self.pid(name));
                done(self.kernel.kill_by_pidfd(self.pid(name)))
            }
            ["wait"] => {
                self.kernel.wait_any(me.pid).map(|one| one.map_or("none yet", |_| "one").to_owned())
            }
            ["wait-for", name] => self
                .kernel
                .wait_for(me.pid, self.pid(name))
                .map(|is_it| if is_it { "it" } else { "not yet" }.to_owned()),
            ["ended", name] => yes(self.kernel.has_ended(self.pid(name))),
            ["zombie"] => yes(self.kernel.has_zombie_child(me.pid)),
            _ => return None,
        })
    }

    fn identity(&mut self, me: Me, words: &[&str]) -> Option<Words> {
        Some(match words {
            ["drop-groups"] => done(self.kernel.drop_groups(me.pid)),
            ["groups"] => {
                Ok(if self.kernel.process(me.pid).groups { "some" } else { "none" }.to_owned())
            }
            ["take-ids", id] => done(self.kernel.take_ids(me.pid, number(id), number(id))),
            ["keep-admin"] => done(self.kernel.keep_admin(me.pid)),
            ["drop-capabilities"] => done(self.kernel.drop_capabilities(me.pid)),
            ["capabilities"] => Ok(match self.kernel.process(me.pid).capabilities {
                Capabilities::All | Capabilities::Inside => "all",
                Capabilities::Admin => "one",
                Capabilities::None => "none",
            }
            .to_owned()),
            ["unshare-user"] => done(self.kernel.unshare_user(me.pid)),
            ["join", name] => done(self.kernel.join(me.pid, self.pid(name))),
            _ => return None,
        })
    }

    fn id_map(&mut self, me: Me, words: &[&str]) -> Option<Words> {
        let (guard, map) = match words {
            ["deny-setgroups", name] => (name, IdMap::DenySetgroups),
            ["uid-map", name, id] => (name, IdMap::Uid(number(id))),
            ["gid-map", name, id] => (name, IdMap::Gid(number(id))),
            _ => return None,
        };
        Some(done(self.kernel.write_id_map(me.pid, self.pid(guard), map)))
    }

    fn loop_device(&mut self, me: Me, words: &[&str]) -> Option<Words> {
        Some(match words {
            ["find-loop", name] => self.kernel.find_free_loop(me.pid).map(|device| {
                let known = self.loops.iter().find(|(_, known)| *known == device);
                let words = known.map_or("ok", |(name, _)| name).to_owned();
                self.loops.push(((*name).to_owned(), device));
                words
            }),
            ["bind-loop", fd, name] => {
                let device = self.device(name);
                self.kernel.bind_loop(me.pid, device, 0).and_then(|it| self.put(me, fd, it))
            }
            ["steal-loop", name] => {
                self.kernel.steal_loop(self.device(name));
                ok()
            }
            ["return-loop", name] => {
                self.kernel.return_loops(&[self.device(name)]);
                ok()
            }
            ["bound", name] => yes(self.kernel.is_bound(self.device(name))),
            _ => return None,
        })
    }

    /// A new open file comes to its place.
    fn put(&mut self, me: Me, to: &str, fd: Fd) -> Words {
        self.kernel.install(me.table, place(to), fd);
        ok()
    }

    fn tree(&mut self, me: Me, to: &str, call: Call, kind: TreeKind) -> Words {
        self.kernel.new_tree(me.pid, call, kind).and_then(|tree| self.put(me, to, tree))
    }

    fn mount(&mut self, me: Me, words: &[&str]) -> Option<Words> {
        Some(match words {
            ["private"] => done(self.kernel.make_private(me.pid)),
            ["package", fd, name] => {
                let kind = TreeKind::Package { device: self.device(name) };
                self.tree(me, fd, Call::MountSquashfs, kind)
            }
            ["layers", fd, data] => {
                let (data, space) = (byte(data), self.kernel.space_of(me.pid));
                self.put(me, fd, Fd::Layers { data, space })
            }
            ["overlay", fd, layers] => match self.kernel.fd(me.table, place(layers)) {
                Ok(Fd::Layers { data, space }) => {
                    let kind = TreeKind::Overlay { data, layer: 0, made: space };
                    self.tree(me, fd, Call::MountOverlay, kind)
                }
                answer => answer.and(Err(Errno::INVAL)),
            },
            ["copy", fd, _] => self.tree(me, fd, Call::OpenTree, TreeKind::Host),
            ["host-mount", at] => {
                self.kernel.add_host_mount(me.pid, path(at));
                ok()
            }
            ["attach", fd, at] => self.kernel.fd(me.table, place(fd)).and_then(|tree| {
                let on = self.kernel.walk(me.pid, at);
                done(self.kernel.attach(me.pid, tree, on, path(at)).map(|_| ()))
            }),
            ["proc"] => done(self.kernel.mount_proc(me.pid)),
            ["look", at] => Ok(match self.kernel.kind_at(me.pid, at) {
                None => "the host's",
                Some(TreeKind::Host) => "a host mount",
                Some(TreeKind::Package { .. }) => "the package",
                Some(TreeKind::Overlay { .. }) => "an overlay",
                Some(TreeKind::Proc) => "its own /proc",
                Some(TreeKind::Dev) => "its own /dev",
            }
            .to_owned()),
            _ => return None,
        })
    }

    fn socket(&mut self, me: Me, words: &[&str]) -> Option<Words> {
        Some(match words {
            ["socketpair", one, other] => {
                let [near, far] = self.kernel.socketpair();
                self.kernel.install(me.table, place(one), near);
                self.put(me, other, far)
            }
            ["send", to, text, fds @ ..] => {
                let fds: Answer<Vec<Fd>> =
                    fds.iter().map(|fd| self.kernel.fd(me.table, place(fd))).collect();
                let body = Body::Launch(number::<usize>(text));
                done(fds.and_then(|fds| self.kernel.send(me.table, place(to), body, &fds)))
            }
            ["fill", to] => loop {
                if let Err(errno) = self.kernel.send(me.table, place(to), Body::GoOn, &[]) {
                    break Err(errno);
                }
            },
            ["receive", from, places @ ..] => {
                self.kernel.read(me.table, place(from)).map(|message| match message {
                    None => "eof".to_owned(),
                    Some(message) => self.take(me, message, places),
                })
            }
            ["accept-descriptors", fd] => done(self.kernel.accept_descriptors(me.table, place(fd))),
            ["readable", fd] => yes(self.kernel.is_readable(me.table, place(fd))),
            ["shut-reading", fd] => done(self.kernel.shut_reading(me.table, place(fd))),
            ["close", fd] => self.kernel.fd(me.table, place(fd)).and_then(|_| {
                self.kernel.close(me.table, place(fd));
                ok()
            }),
            ["lock", fd, data] => {
                self.kernel.lock(byte(data)).and_then(|lock| self.put(me, fd, lock))
            }
            _ => return None,
        })
    }

    fn take(&mut self, me: Me, message: Message, places: &[&str]) -> String {
        for (to, fd) in places.iter().zip(message.fds.into_iter().flatten()) {
            self.kernel.install(me.table, place(to), fd);
        }
        let words = match message.body {
            Body::Launch(number) => number.to_string(),
            _ => "filling".to_owned(),
        };
        self.kernel.drop_message(message);
        words
    }

    fn listener(&mut self, me: Me, words: &[&str]) -> Option<Words> {
        Some(match words {
            ["listen"] => {
                self.kernel.listen();
                ok()
            }
            ["stop-listening"] => {
                self.kernel.stop_listening();
                ok()
            }
            ["connect", "a"] => self
                .kernel
                .connect(me.table)
                .and_then(|is_in| if is_in { ok() } else { Err(Errno::AGAIN) }),
            ["accept", "a"] if self.kernel.accept(me.table) => ok(),
            ["accept", "a"] => Err(Errno::AGAIN),
            _ => return None,
        })
    }
}

fn ok() -> Words {
    Ok("ok".to_owned())
}

fn done(answer: Answer) -> Words {
    answer.and_then(|()| ok())
}

fn yes(is_so: bool) -> Words {
    Ok(if is_so { "yes" } else { "no" }.to_owned())
}

fn number<T: core::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}

fn byte(word: &str) -> u8 {
    number(word)
}

/// The eleven places, in the order of the alphabet.
fn place(word: &str) -> Role {
    const PLACES: [Role; 11] = [
        Role::Connection,
        Role::Link,
        Role::Package,
        Role::LoopDevice,
        Role::PackageMount,
        Role::Lock,
        Role::Layers,
        Role::LayerOfRoot,
        Role::LayerOfVar,
        Role::Entrance,
        Role::App,
    ];
    let index = "abcdefghijk".find(word).filter(|_| word.len() == 1);
    PLACES[index.unwrap_or_else(|| panic!("{word} is no place"))]
}

/// The directories that there are.
fn path(word: &str) -> &'static str {
    const PATHS: [&str; 3] = ["/var", "/var/app/exec", "/var/sub"];
    let known = PATHS.into_iter().find(|known| *known == word);
    known.unwrap_or_else(|| panic!("there is no {word}"))
}
