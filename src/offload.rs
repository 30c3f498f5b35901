//! CPU-intensive work: parsing, merging and compressing large states and records. The runtime has
//! one worker, which all waiting tasks (heartbeats, renewals of locks, pings) need, so such work
//! runs on a blocking thread.

use std::panic::resume_unwind;
use tokio::{sync::Semaphore, task::spawn_blocking};

/// Work on at most this many bytes runs on the calling thread. It takes less than a millisecond,
/// and a switch to another thread would cost more.
pub const MAX_INLINE_BYTES: usize = 64 * 1024;

/// Maximum number of pieces of work that run at once in the process, for all clients. More would
/// take CPU time from the worker.
const MAX_AT_ONCE: usize = 2;

static PERMITS: Semaphore = Semaphore::const_new(MAX_AT_ONCE);

/// Runs work whose duration is proportional to `bytes` without blocking the runtime's worker. The
/// work continues if the caller is dropped.
pub async fn offload<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if bytes <= MAX_INLINE_BYTES {
        return work();
    }
    let permit = PERMITS.acquire().await;
    // The work owns the permit, so that abandoned work counts until it ends.
    let done = spawn_blocking(move || {
        let _permit = permit;
        work()
    });
    match done.await {
        Ok(result) => result,
        Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
        // The runtime is shutting down, and this task with it.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[tokio::test]
    async fn large_work_leaves_the_worker_and_small_work_stays() {
        let worker = thread::current().id();
        let of = |bytes| offload(bytes, || thread::current().id());
        assert_eq!(of(MAX_INLINE_BYTES).await, worker);
        assert_ne!(of(MAX_INLINE_BYTES + 1).await, worker);
    }

    #[tokio::test]
    async fn a_panic_reaches_the_caller_and_gives_the_permit_back() {
        for _ in 0..2 * MAX_AT_ONCE {
            let task = tokio::spawn(offload(usize::MAX, || panic!("for a test")));
            assert!(task.await.unwrap_err().is_panic());
        }
        assert_eq!(offload(usize::MAX, || 7).await, 7);
    }
}
