//! Many launches: with a master as it is by default, which keeps packages mounted and guards
//! ready, and on all processors.

use core::time::Duration;
use std::io::Read;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use rocker_client::protocol::socket::now_ns;
use rocker_client::{Conf, Launch, Limits, Program};

use crate::figure::Figure;
use crate::{Bench, Master, Result, SOON, percentiles};

impl Bench {
    pub(crate) fn measure_scale(&self) -> Result<Vec<Figure>> {
        self.on_all_cpus("", |master| self.many(master))
    }

    fn many(&self, master: &Master) -> Result<Vec<Figure>> {
        let (count, time) = match self.options.quick {
            true => (10, Duration::from_millis(500)),
            false => (100, Duration::from_secs(30)),
        };
        let launch = self.launch(&[]).socket(&master.socket);
        let mut figures = self.at_once(&launch, count)?;
        master.settle()?;
        figures.push(self.lasting(&launch, time)?);
        master.settle()?;
        figures.push(self.resets(&launch)?);
        Ok(figures)
    }

    /// Each caller has a thread of its own, and all begin together.
    fn at_once(&self, launch: &Launch, count: usize) -> Result<Vec<Figure>> {
        let (mut said, out) = std::io::pipe()?;
        let program = Program::new("./clock").stdout(out);
        let together = Barrier::new(count + 1);
        let one = || -> core::result::Result<u64, String> {
            together.wait();
            let mut rocker = launch.spawn(&program).map_err(|error| error.to_string())?;
            rocker.wait().map_err(|error| error.to_string())?;
            rocker.wait_gone(Some(SOON)).map_err(|error| error.to_string())?;
            Ok(now_ns())
        };
        let (begin_ns, ended) = thread::scope(|scope| {
            let callers: Vec<_> = (0..count).map(|_| scope.spawn(one)).collect();
            together.wait();
            let begin_ns = now_ns();
            let ended: Vec<_> = callers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            (begin_ns, ended)
        });
        let ms = |at_ns: u64| at_ns.saturating_sub(begin_ns) as f64 / 1e6;
        let mut gone: f64 = 0.0;
        for end in ended {
            gone = gone.max(ms(end.map_err(|_| "a panic")??));
        }
        let mut words = vec![0; 16 * count];
        said.read_exact(&mut words)?;
        let started = words.chunks_exact(16).filter_map(|words| words.first_chunk::<8>());
        let started: Vec<f64> = started.map(|word| ms(u64::from_ne_bytes(*word))).collect();
        let scene = format!("{count} launches at once");
        let last = started.iter().copied().fold(0.0, f64::max);
        Ok(vec![
            Figure::new(&scene, "half of the Apps run", percentiles(&started)[0], "ms"),
            Figure::new(&scene, "all Apps run", last, "ms"),
            Figure::new(&scene, "all are gone", gone, "ms"),
        ])
    }

    /// As many callers as processors, each with one launch after the other.
    fn lasting(&self, launch: &Launch, time: Duration) -> Result<Figure> {
        let callers = thread::available_parallelism()?.get();
        let begin = Instant::now();
        let one = || -> core::result::Result<usize, String> {
            let (mut said, out) = std::io::pipe().map_err(|error| error.to_string())?;
            let program = Program::new("./clock").stdout(out);
            let mut count = 0;
            while begin.elapsed() < time {
                let mut rocker = launch.spawn(&program).map_err(|error| error.to_string())?;
                rocker.wait().map_err(|error| error.to_string())?;
                rocker.wait_gone(Some(SOON)).map_err(|error| error.to_string())?;
                said.read_exact(&mut [0; 16]).map_err(|error| error.to_string())?;
                count += 1;
            }
            Ok(count)
        };
        let counts = thread::scope(|scope| {
            let callers: Vec<_> = (0..callers).map(|_| scope.spawn(one)).collect();
            callers.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        let mut all = 0;
        for count in counts {
            all += count.map_err(|_| "a panic")??;
        }
        let rate = all as f64 / begin.elapsed().as_secs_f64();
        let what = format!("launches, {callers} callers on as many processors");
        Ok(Figure::new("a second has room for", what, rate, "/s"))
    }

    /// As new, and a program to its end, over and over.
    fn resets(&self, launch: &Launch) -> Result<Figure> {
        let (mut said, out) = std::io::pipe()?;
        let program = Program::new("./clock").stdout(out);
        let mut rocker = launch.open()?;
        rocker.configure(&Conf::new())?;
        let count = self.options.samples();
        let begin = Instant::now();
        for _ in 0..count {
            rocker.reset()?;
            let run = rocker.spawn(&program, &Limits::new())?;
            rocker.wait(&run)?;
            said.read_exact(&mut [0; 16])?;
        }
        let rate = count as f64 / begin.elapsed().as_secs_f64();
        rocker.kill(SOON)?;
        Ok(Figure::new("a second has room for", "resets, each with a program", rate, "/s"))
    }
}
