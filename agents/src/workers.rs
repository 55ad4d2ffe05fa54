//! A small pool of threads, kept for the whole run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::learner::LearnError;

/// How long a thread without work looks for some before it goes to sleep. To be woken takes tens of microseconds, as long as a layer's
/// product; this is longer than what lies between the passes of one update and the next.
const PATIENCE: Duration = Duration::from_micros(500);

/// The run's worker threads; with one thread everything runs on the caller's.
pub struct Workers {
    pool: Option<rayon::ThreadPool>,
}

impl Workers {
    /// `threads` workers.
    ///
    /// # Errors
    /// The system refuses to start threads.
    pub fn new(threads: usize) -> Result<Workers, LearnError> {
        let start = || rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let refused = |e| LearnError::Unsuitable(format!("`threads = {threads}`: the threads do not start: {e}"));
        Ok(Workers { pool: (threads > 1).then(start).transpose().map_err(refused)? })
    }

    /// Whether there is more than one.
    pub fn parallel(&self) -> bool {
        self.pool.is_some()
    }

    /// Runs `work` on the pool, where parallel iterators and [`join`](Workers::join) use its threads. Of these a second one stays
    /// awake as long as there is something for it every now and then.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) if rayon::current_thread_index().is_none() => pool.install(|| {
                let over = AtomicBool::new(false);
                let watched = || {
                    let _over = SetAtEnd(&over);
                    work()
                };
                rayon::join(watched, || stay_awake(&over)).0
            }),
            _ => work(),
        }
    }

    /// Runs two independent pieces of work, side by side within [`run`](Workers::run) and otherwise one after the other.
    pub fn join<A: Send, B: Send>(&self, a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
        match &self.pool {
            // Outside the pool they would go to threads of rayon's own.
            Some(_) if rayon::current_thread_index().is_some() => rayon::join(a, b),
            _ => (a(), b()),
        }
    }
}

/// Does what there is to do in the pool until it is over, or there has been nothing for too long.
fn stay_awake(over: &AtomicBool) {
    let mut idle_since = Instant::now();
    while !over.load(Ordering::Acquire) {
        if rayon::yield_now() == Some(rayon::Yield::Executed) {
            idle_since = Instant::now();
        } else if idle_since.elapsed() > PATIENCE {
            break;
        } else {
            (0..16).for_each(|_| std::hint::spin_loop());
        }
    }
}

/// Says that it is over, also where a panic ends it.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_shared_however_long_a_thread_had_none() {
        for threads in [1, 2, 3] {
            let workers = Workers::new(threads).expect("threads start");
            let sum: usize = workers.run(|| {
                let share = |i: usize| {
                    std::thread::sleep(PATIENCE * (i as u32 % 3));
                    // One that is in the pool already takes no second watch.
                    let (a, b) = workers.run(|| workers.join(|| i, || 2 * i));
                    a + b
                };
                (0..6).map(share).sum()
            });
            assert_eq!(sum, 3 * 15);
        }
    }

    #[test]
    fn a_panic_ends_the_run() {
        let workers = Workers::new(2).expect("threads start");
        let run = || workers.run(|| workers.join(|| panic!("as it should"), || ()));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
        assert_eq!(workers.run(|| workers.join(|| 1, || 2)), (1, 2));
    }
}
