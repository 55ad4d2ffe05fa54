//! A small pool of threads, kept for the whole run.

use crate::learner::LearnError;

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

    /// Runs `work` on the pool, where parallel iterators and [`join`](Workers::join) use its threads.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
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
