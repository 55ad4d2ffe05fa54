//! A small pool of threads, kept for the whole run.
//!
//! An update is some ten pairs of pieces of fifty microseconds each. Threads that sleep between them, or ask the system for their turn,
//! lose more than the second one brings: so a second thread stays awake, and pieces go from one to the other through a word of
//! memory that it watches.
#![allow(unsafe_code)] // a piece of work lies on the stack of the thread that waits for it

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rayon::Yield;

use crate::learner::LearnError;

/// How long a thread without work looks for some before it goes to sleep. To be woken takes tens of microseconds, as long as a layer's
/// product; this is longer than what lies between the passes of one update and the next.
const PATIENCE: Duration = Duration::from_micros(500);

/// How long it sleeps before it looks again, should its wakening have come to nothing.
const NAP: Duration = Duration::from_millis(20);

/// How often a thread looks whether another is done before it lets other programs run in between: some hundred microseconds.
const LOOKS: usize = 1 << 12;

/// The run's worker threads; with one thread everything runs on the caller's.
pub struct Workers {
    pool: Option<rayon::ThreadPool>,
    counter: Counter,
}

impl Workers {
    /// `threads` workers.
    ///
    /// # Errors
    /// The system refuses to start threads.
    pub fn new(threads: usize) -> Result<Workers, LearnError> {
        let start = || rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let refused = |e| LearnError::Unsuitable(format!("`threads = {threads}`: the threads do not start: {e}"));
        Ok(Workers { pool: (threads > 1).then(start).transpose().map_err(refused)?, counter: Counter::default() })
    }

    /// Whether there is more than one.
    pub fn parallel(&self) -> bool {
        self.pool.is_some()
    }

    /// Runs `work` on the pool, where [`join`](Workers::join) uses its threads, and so do parallel iterators, which are to be in a
    /// `run` of their own there too. A second thread stays awake as long as there is something for it every now and then.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) if rayon::current_thread_index().is_none() => pool.install(|| {
                let over = AtomicBool::new(false);
                let watched = || {
                    let _over = AtEnd(|| {
                        over.store(true, Ordering::SeqCst);
                        self.counter.wake();
                    });
                    work()
                };
                rayon::join(watched, || self.counter.attend(&over)).0
            }),
            _ => {
                self.counter.wake();
                work()
            }
        }
    }

    /// Runs two independent pieces of work, side by side within [`run`](Workers::run) and otherwise one after the other.
    pub fn join<A: Send, B: Send>(&self, a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
        match &self.pool {
            // Outside the pool they would go to threads of rayon's own.
            Some(_) if rayon::current_thread_index().is_some() => self.counter.join(a, b),
            _ => (a(), b()),
        }
    }
}

/// Where a thread leaves a piece of work for one that has none.
#[derive(Default)]
struct Counter {
    piece: Apart<AtomicPtr<Piece>>,
    /// Threads that look for one, asleep or not.
    looking: Apart<AtomicUsize>,
    asleep: AtomicBool,
    /// The thread that last fell asleep.
    sleeper: Mutex<Option<Thread>>,
}

/// What does not share its cache lines with anything: else who writes beside it holds up who watches it.
#[derive(Default)]
#[repr(align(128))]
struct Apart<T>(T);

impl<T> std::ops::Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A piece of work that lies somewhere, whatever it is.
struct Piece {
    /// Does the work; to be called once.
    run: unsafe fn(*mut Piece),
    done: AtomicBool,
}

/// A piece of work with its result.
#[repr(C)] // the piece comes first, so that a pointer to it is one to all
struct Work<F, R> {
    piece: Piece,
    work: Option<F>,
    result: Option<thread::Result<R>>,
}

impl<R, F: FnOnce() -> R> Work<F, R> {
    fn new(work: F) -> Work<F, R> {
        Work { piece: Piece { run: Self::run, done: AtomicBool::new(false) }, work: Some(work), result: None }
    }

    /// # Safety
    /// `piece` is that of a `Work<F, R>`, which nobody else looks into until it is done.
    unsafe fn run(piece: *mut Piece) {
        let all = piece.cast::<Self>();
        // SAFETY: the caller's. Nothing is touched after `done` is set, when it may be gone.
        unsafe {
            (*all).result = (*all).work.take().map(|work| catch_unwind(AssertUnwindSafe(work)));
            (*piece).done.store(true, Ordering::Release);
        }
    }
}

impl Counter {
    /// Both, the second by another thread if one comes for it before the first is done.
    fn join<A: Send, B: Send>(&self, a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
        if self.looking.load(Ordering::Relaxed) == 0 || !self.piece.load(Ordering::Relaxed).is_null() {
            return rayon::join(a, b);
        }
        let mut work = Work::new(b);
        // From here to its end it is looked at through this pointer alone.
        let work = &raw mut work;
        let piece = work.cast::<Piece>();
        let left = self.piece.compare_exchange(ptr::null_mut(), piece, Ordering::SeqCst, Ordering::Relaxed).is_ok();
        self.wake();
        let a = catch_unwind(AssertUnwindSafe(a));
        let back =
            left && self.piece.compare_exchange(piece, ptr::null_mut(), Ordering::Relaxed, Ordering::Relaxed).is_ok();
        // SAFETY: what was not left, or is back, nobody else knows of; what was taken is awaited before its end, also where the
        // first piece has panicked.
        let b = unsafe {
            if left && !back {
                self.wait_for(&(*piece).done);
            } else {
                ((*piece).run)(piece);
            }
            (*work).result.take()
        };
        match (a, b) {
            (Ok(a), Some(Ok(b))) => (a, b),
            (Err(panic), _) | (_, Some(Err(panic))) => resume_unwind(panic),
            (_, None) => unreachable!("a piece that is done has a result"),
        }
    }

    /// Does the piece that is there, if there is one.
    fn serve(&self) -> bool {
        if self.piece.load(Ordering::Relaxed).is_null() {
            return false;
        }
        let piece = self.piece.swap(ptr::null_mut(), Ordering::Acquire);
        if piece.is_null() {
            return false;
        }
        self.looking.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: who takes it has it alone, and it stays where it is until it is done.
        unsafe { ((*piece).run)(piece) };
        self.looking.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// The same, if there is one within a microsecond.
    fn serve_soon(&self) -> bool {
        (0..16).any(|_| {
            std::hint::spin_loop();
            self.serve()
        })
    }

    /// Does what there is to do meanwhile.
    fn wait_for(&self, done: &AtomicBool) {
        self.looking.fetch_add(1, Ordering::Relaxed);
        let mut looks = 0;
        while !done.load(Ordering::Acquire) {
            if self.serve() {
                looks = 0;
            } else if looks < LOOKS {
                looks += 1;
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        self.looking.fetch_sub(1, Ordering::Relaxed);
    }

    /// Does what there is to do here and in the pool until it is over, and sleeps where there has been nothing for too long.
    fn attend(&self, over: &AtomicBool) {
        self.looking.fetch_add(1, Ordering::Relaxed);
        let mut idle_since = Instant::now();
        while !over.load(Ordering::SeqCst) {
            if self.serve_soon() || rayon::yield_now() == Some(Yield::Executed) {
                idle_since = Instant::now();
            } else if idle_since.elapsed() > PATIENCE {
                self.sleep(over);
                idle_since = Instant::now();
            }
        }
        self.looking.fetch_sub(1, Ordering::Relaxed);
    }

    fn sleep(&self, over: &AtomicBool) {
        if let Ok(mut sleeper) = self.sleeper.lock() {
            *sleeper = Some(thread::current());
        }
        self.asleep.store(true, Ordering::SeqCst);
        // Who leaves a piece, or says that it is over, looks afterwards whether someone is to be woken; here it is the other way round.
        while self.asleep.load(Ordering::SeqCst)
            && !over.load(Ordering::SeqCst)
            && self.piece.load(Ordering::SeqCst).is_null()
            && rayon::yield_now() != Some(Yield::Executed)
        {
            thread::park_timeout(NAP);
        }
        self.asleep.store(false, Ordering::SeqCst);
    }

    fn wake(&self) {
        if self.asleep.load(Ordering::SeqCst)
            && self.asleep.swap(false, Ordering::SeqCst)
            && let Ok(sleeper) = self.sleeper.lock()
            && let Some(thread) = &*sleeper
        {
            thread.unpark();
        }
    }
}

/// Does something in the end, also where that is a panic.
struct AtEnd<F: Fn()>(F);

impl<F: Fn()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use rayon::prelude::*;

    use super::*;

    #[test]
    fn work_is_shared_however_long_a_thread_had_none() {
        for threads in [1, 2, 3] {
            let workers = Workers::new(threads).expect("threads start");
            let sum: usize = workers.run(|| {
                let share = |i: usize| {
                    thread::sleep(PATIENCE * (i as u32 % 3));
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
    fn a_second_thread_comes_while_the_first_is_at_work() {
        let workers = Workers::new(2).expect("threads start");
        let both = Barrier::new(2);
        workers.run(|| {
            for i in 0..30 {
                thread::sleep(PATIENCE * (i % 3));
                workers.join(|| both.wait(), || both.wait());
                workers.run(|| [0, 1].par_iter().for_each(|_| _ = both.wait()));
                // Its own second piece goes to the thread that has done the first.
                let busy = AtomicBool::new(true);
                let until_idle = || {
                    while busy.load(Ordering::Acquire) {
                        thread::yield_now();
                    }
                };
                workers.join(
                    || busy.store(false, Ordering::Release),
                    || {
                        until_idle();
                        thread::sleep(PATIENCE / 5);
                        workers.join(|| both.wait(), || both.wait())
                    },
                );
            }
        });
    }

    #[test]
    fn pieces_of_pieces_are_all_done_once() {
        fn sum(numbers: &mut [u64], workers: &Workers) -> u64 {
            if let [number] = numbers {
                *number += 1;
                return *number;
            }
            let (left, right) = numbers.split_at_mut(numbers.len() / 2);
            let (left, right) = workers.join(|| sum(left, workers), || sum(right, workers));
            left + right
        }
        for threads in [1, 2, 3] {
            let workers = Workers::new(threads).expect("threads start");
            let mut numbers: Vec<u64> = (0..500).collect();
            let sums: Vec<u64> = workers.run(|| (0..200).map(|_| sum(&mut numbers, &workers)).collect());
            let expected: Vec<u64> = (1..=200).map(|round| 500 * round + 499 * 250).collect();
            assert_eq!(sums, expected);
        }
    }

    #[test]
    fn a_panic_ends_the_run_and_leaves_the_workers_whole() {
        let workers = Workers::new(2).expect("threads start");
        let both = Barrier::new(2);
        let panic_at_once = || -> usize { panic!("as it should") };
        // Where the other thread has surely taken the second piece.
        let wait_and_panic = || -> usize {
            both.wait();
            panic!("as it should")
        };
        let wait = || {
            both.wait();
            1
        };
        let panics = |a: &(dyn Fn() -> usize + Sync), b: &(dyn Fn() -> usize + Sync)| {
            catch_unwind(AssertUnwindSafe(|| workers.run(|| workers.join(a, b)))).is_err()
        };
        for _ in 0..20 {
            assert!(panics(&panic_at_once, &|| 1) && panics(&|| 1, &panic_at_once));
            assert!(panics(&wait_and_panic, &wait) && panics(&wait, &wait_and_panic));
            assert_eq!(workers.run(|| workers.join(|| 1, || 2)), (1, 2));
        }
    }
}
