//! The stories that matter, as text: `transcripts/*.txt`. `UPDATE=1 cargo test -p sim` writes
//! them anew; what changes is reviewed as a diff. A caller in C tells the same story.

use std::path::PathBuf;

use protocol::Errno;
use sim::walk::run;
use sim::{
    App, At, Call, Coverage, Does, End, Fault, Launch, Library, Mode, Planned, Task, Terms,
    Violation, Who, World,
};

/// Compares a story with the one on disk, once for each library.
fn compare(name: &str, world: impl Fn(Library) -> World, ends: &Result<(), Violation>) {
    for library in Library::ALL {
        println!("the caller is written in {library:?}");
        compare_one(name, world(library), ends);
    }
}

fn compare_one(name: &str, mut world: World, ends: &Result<(), Violation>) {
    let came = run(&mut world, &mut Coverage::default());
    let told = world.transcript();
    assert_eq!(&came, ends, "{told}");
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "transcripts", name].iter().collect();
    let path = path.with_extension("txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &told).expect("transcripts can be written");
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(told, known, "{} is another story; UPDATE=1 takes it", path.display());
}

/// The launch in which `fault` strikes right after a line that holds `after`.
fn struck(launch: Launch, after: &str, fault: Fault, mode: Mode) -> impl Fn(Library) -> World {
    let world = move |turn, library| {
        let planned = Planned { at: At::Turn(turn), fault, mode };
        World::new(&[Launch { library, ..launch }]).faults(&[planned]).transcribed()
    };
    let turn = (0..200).find(|&turn| {
        let mut world = world(turn, Library::Rust);
        let _ = run(&mut world, &mut Coverage::default());
        let told = world.transcript();
        let lines: Vec<&str> = told.lines().collect();
        lines.windows(2).any(|pair| {
            let is_struck = pair[1].ends_with(" is killed") || pair[1].ends_with(" hangs");
            is_struck && pair[0].contains(after)
        })
    });
    let turn = turn.expect("the line is in the launch");
    move |library| world(turn, library)
}

#[test]
fn happy_path() {
    let world = |library| World::new(&[Launch { library, ..Launch::overlaid(2) }]).transcribed();
    compare("happy_path", world, &Ok(()));
}

#[test]
fn daemon_and_guest() {
    let launch = |library| Launch { library, app: App::Daemon, ..Launch::BARE };
    compare("daemon", |it| World::new(&[launch(it)]).transcribed(), &Ok(()));
    let launch = |library| Launch { library, app: App::Guest, ..Launch::BARE };
    compare("guest", |it| World::new(&[launch(it)]).transcribed(), &Ok(()));
}

#[test]
fn busy_loop() {
    let world = |library| World::new(&[Launch { library, ..Launch::BARE }]).thefts(2).transcribed();
    compare("busy_loop", world, &Ok(()));
}

#[test]
fn bad_image() {
    let launch = |library| Launch { library, good_package: false, ..Launch::overlaid(1) };
    compare("bad_image", |it| World::new(&[launch(it)]).transcribed(), &Ok(()));
}

#[test]
fn data_dir_in_use() {
    let launches = |library| [Launch { library, ..Launch::overlaid(1) }; 2];
    compare("data_dir_in_use", |it| World::new(&launches(it)).transcribed(), &Ok(()));
}

#[test]
fn client_dies_at_enter_2() {
    let world = struck(Launch::BARE, "nsenter", Fault::Kill(Who::Client(0)), Mode::Once);
    compare("client_dies_at_enter_2", world, &Ok(()));
}

#[test]
fn guard_killed() {
    let world = struck(Launch::overlaid(1), "-> watched", Fault::Kill(Who::Guard(0)), Mode::Once);
    compare("guard_killed", world, &Ok(()));
}

#[test]
fn guard_killed_by_name() {
    let launch = |library| Launch { library, end: End::KillByName, ..Launch::BARE };
    compare("guard_killed_by_name", |it| World::new(&[launch(it)]).transcribed(), &Ok(()));
}

#[test]
fn master_restarted() {
    let world = struck(Launch::BARE, "-> watched", Fault::Kill(Who::Master), Mode::Once);
    compare("master_restarted", world, &Ok(()));
}

#[test]
fn master_killed_during_a_launch() {
    let world = struck(Launch::BARE, "uid_map", Fault::Kill(Who::Master), Mode::Once);
    compare("master_killed_during_a_launch", world, &Ok(()));
}

#[test]
fn deadline() {
    let fault = Fault::Hang(Who::Guard(0));
    compare("deadline", struck(Launch::BARE, "mount -t squashfs", fault, Mode::FromNowOn), &Ok(()));
}

/// Its last word is there to be read when it is dead and reaped: from then on its pid may be
/// another's, and prepare.8 must not touch it.
#[test]
fn guard_dies_after_prepare_7() {
    let fault = Fault::Kill(Who::Guard(0));
    let world = struck(Launch::BARE, "to the master: done", fault, Mode::Once);
    compare("guard_dies_after_prepare_7", world, &Ok(()));
}

/// Its App was on its way, but it comes back too late to say so: it is told, and ends the App.
#[test]
fn client_late_at_enter_4() {
    let fault = Fault::Hang(Who::Client(0));
    let world = struck(Launch::BARE, "exec bin/app", fault, Mode::Once);
    compare("client_late_at_enter_4", world, &Ok(()));
}

/// The guard of a machine without memory rests, asks again, and finds whom it could not watch.
#[test]
fn no_memory_at_root_9() {
    let launch = Launch { app: App::Guest, ..Launch::BARE };
    let world = |planned: &[Planned], library| {
        World::new(&[Launch { library, ..launch }]).faults(planned).transcribed()
    };
    let mut counted = world(&[], Library::Rust).counted();
    let _ = run(&mut counted, &mut Coverage::default());
    let at = counted.calls().iter().rposition(|(call, _)| *call == Call::OpenPidfd);
    let at = At::Call(u32::try_from(at.expect("a guest is looked for")).unwrap());
    let fault = Fault::Refuse(Errno::NOMEM);
    let planned = [Planned { at, fault, mode: Mode::Once }];
    compare("no_memory_at_root_9", |library| world(&planned, library), &Ok(()));
}

/// The master waits until the guard has the App, and a little longer than its caller.
#[test]
fn guard_hangs_after_prepare_7() {
    let fault = Fault::Hang(Who::Guard(0));
    let world = struck(Launch::BARE, "to the master: done", fault, Mode::FromNowOn);
    compare("guard_hangs_after_prepare_7", world, &Ok(()));
}

/// The App has been started all the same, and ends with the rocker: nobody would end that.
#[test]
fn guard_hangs_after_root_5() {
    let fault = Fault::Hang(Who::Guard(0));
    let world = struck(Launch::BARE, "entrance, with a pidfd", fault, Mode::FromNowOn);
    compare("guard_hangs_after_root_5", world, &Ok(()));
}

/// A rocker that takes orders: one program exits, one is late, and the connection closes.
#[test]
fn orders() {
    const ORDERS: &[Task] = &[
        Task::Exec { id: 1, does: Does::Exit(0), terms: Terms::wall(0) },
        Task::Exec { id: 2, does: Does::Wait, terms: Terms::wall(100) },
        Task::AwaitEnds,
    ];
    let world = World::new(&[Launch::open(ORDERS)]).transcribed();
    compare_one("orders", world, &Ok(()));
}
