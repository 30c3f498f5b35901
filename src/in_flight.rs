//! The calls that one client has in flight, bounded in number and in bytes (spec 7.11): calls that
//! are not settled, with their requests, and answers until JavaScript has taken them.
//!
//! Requests and answers are bounded in different ways. The size of a request is known when the call
//! is made, so a call that does not fit is refused at once. The size of an answer is only known
//! when it has been read. Therefore calls with large answers wait before they read, as long as
//! earlier answers take up the room. The wait ends when JavaScript takes those. Requests and
//! answers have half of `limits.maxInFlightBytes` each.
//!
//! There is no deadlock: JavaScript alone releases a [`Room`] of [`Use::Pieces`], and its holder
//! waits for nothing else. A holder of [`Use::Reading`] waits at most for pieces. An answer that is
//! larger than all the room is admitted when the room is empty.

use crate::{
    metrics::{Metrics, count},
    model::{
        error::{Code, Error, Result},
        limits::Limits,
    },
};
use lru::LruCache;
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    hash::{BuildHasher, Hash, RandomState},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::oneshot, time::timeout};

/// Maximum time that a call waits for room, as a multiple of `limits.commandTimeoutMs`.
const MAX_WAIT_TIMEOUTS: u32 = 5;
/// Maximum number of answer sizes that are remembered.
const MAX_SIZES: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");
/// Number of answers of unknown size that may be read at once before anything has been read.
const UNKNOWN_AT_ONCE: usize = 64;
/// A large answer raises the estimate for unknown answers at once. A small one lowers it by one
/// part in this many. A client that reads small answers can therefore soon read many at once.
const EASE: usize = 8;
/// Minimum reservation for reading, because what was small may have grown.
const MIN_EXPECTED_BYTES: usize = 16 * 1024;

/// The purpose of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Reading something, and holding it until JavaScript has it.
    Reading,
    /// Pieces of answers as text, until JavaScript has them.
    Pieces,
}

pub struct InFlight {
    max_calls: usize,
    max_request_bytes: usize,
    max_bytes: usize,
    max_wait: Duration,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Sizes of earlier answers, by a hash of what was read. A collision makes one estimate wrong.
    sizes: Mutex<Sizes>,
    hasher: RandomState,
}

struct Sizes {
    known: LruCache<u64, usize>,
    /// The estimate for other answers.
    unknown: usize,
}

struct State {
    calls: usize,
    request_bytes: usize,
    reading: Pool,
    pieces: Pool,
}

struct Pool {
    held: usize,
    max: usize,
    /// In order of arrival. A later call never overtakes an earlier one, so that large answers are
    /// served too.
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    bytes: usize,
    ready: oneshot::Sender<Room>,
}

/// A call that is not settled. Counts until it is dropped.
pub struct Call {
    in_flight: Arc<InFlight>,
    bytes: usize,
}

/// A reservation of memory for an answer. Released when it is dropped.
pub struct Room {
    in_flight: Arc<InFlight>,
    of: Use,
    bytes: usize,
}

impl InFlight {
    pub fn new(limits: &Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        let answers = limits.max_in_flight_bytes / 2;
        let pool = || Pool {
            held: 0,
            max: answers / 2,
            waiting: VecDeque::new(),
        };
        Arc::new(InFlight {
            max_calls: limits.max_pending_calls,
            max_request_bytes: limits.max_in_flight_bytes - answers,
            max_bytes: limits.max_in_flight_bytes,
            max_wait: MAX_WAIT_TIMEOUTS * Duration::from_millis(limits.command_timeout_ms),
            metrics,
            state: Mutex::new(State {
                calls: 0,
                request_bytes: 0,
                reading: pool(),
                pieces: pool(),
            }),
            sizes: Mutex::new(Sizes {
                known: LruCache::new(MAX_SIZES),
                unknown: answers / 2 / UNKNOWN_AT_ONCE,
            }),
            hasher: RandomState::new(),
        })
    }

    /// Registers a call that sends this many bytes. Fails with `OVERLOADED` if a limit is reached.
    /// A single call always fits.
    pub fn accept(self: &Arc<Self>, bytes: usize) -> Result<Call> {
        let mut state = self.state.lock();
        let message = if state.calls >= self.max_calls {
            format!(
                "{} calls are not settled yet, the limit is {} (limits.maxPendingCalls)",
                state.calls, self.max_calls
            )
        } else if state.request_bytes > 0
            && state.request_bytes.saturating_add(bytes) > self.max_request_bytes
        {
            format!(
                "a call that sends {bytes} bytes does not fit: calls that send {} bytes are not settled \
                 yet, the limit is {} bytes (half of limits.maxInFlightBytes)",
                state.request_bytes, self.max_request_bytes
            )
        } else {
            return Ok(self.counted(&mut state, bytes));
        };
        drop(state);
        Err(self.refused(format!(
            "{message}; wait for some of them before you make more"
        )))
    }

    /// Registers a call that cannot be refused, because it releases something.
    pub fn accept_always(self: &Arc<Self>, bytes: usize) -> Call {
        self.counted(&mut self.state.lock(), bytes)
    }

    fn counted(self: &Arc<Self>, state: &mut State, bytes: usize) -> Call {
        state.calls += 1;
        state.request_bytes += bytes;
        Call {
            in_flight: self.clone(),
            bytes,
        }
    }

    /// Reserves room for reading. Waits until there is room. Fails with `OVERLOADED` if JavaScript
    /// does not take earlier answers in time.
    pub async fn reading(self: &Arc<Self>, bytes: usize) -> Result<Room> {
        let given = match self.take_or_wait(Use::Reading, bytes) {
            Ok(room) => return Ok(room),
            Err(given) => given,
        };
        match timeout(self.max_wait, given).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_)) => Err(Error::closed()),
            Err(_) => Err(self.refused(format!(
                "answers of {} bytes are being read or wait for JavaScript, the limit is {} bytes (a quarter \
                 of limits.maxInFlightBytes, {} bytes), and there was no room for another within {} ms; \
                 nothing was sent. Make fewer calls at once, or block the event loop less",
                self.state.lock().reading.held,
                self.max_bytes / 4,
                self.max_bytes,
                self.max_wait.as_millis()
            ))),
        }
    }

    /// Reserves room for a piece of an answer. Waits until there is room.
    pub async fn piece(self: &Arc<Self>, bytes: usize) -> Result<Room> {
        match self.take_or_wait(Use::Pieces, bytes) {
            Ok(room) => Ok(room),
            Err(given) => given.await.map_err(|_| Error::closed()),
        }
    }

    /// The reservation, or the receiver that gets it. The sender is only dropped with the client.
    fn take_or_wait(
        self: &Arc<Self>,
        of: Use,
        bytes: usize,
    ) -> std::result::Result<Room, oneshot::Receiver<Room>> {
        let mut state = self.state.lock();
        let pool = state.pool(of);
        if pool.waiting.is_empty() && pool.fits(bytes) {
            pool.held += bytes;
            return Ok(Room {
                in_flight: self.clone(),
                of,
                bytes,
            });
        }
        let (ready, given) = oneshot::channel();
        pool.waiting.push_back(Waiting { bytes, ready });
        Err(given)
    }

    /// The estimated bytes of reading `what`.
    pub fn expected(&self, what: impl Hash) -> usize {
        let mut sizes = self.sizes.lock();
        let known = sizes.known.get(&self.hasher.hash_one(what)).copied();
        known.unwrap_or(sizes.unknown).max(MIN_EXPECTED_BYTES)
    }

    /// Records the bytes of `what` for later estimates.
    pub fn learn(&self, what: impl Hash, bytes: usize) {
        let mut sizes = self.sizes.lock();
        sizes.known.put(self.hasher.hash_one(what), bytes);
        let eased = sizes.unknown - sizes.unknown / EASE;
        sizes.unknown = bytes.max(eased);
    }

    /// The number of calls that are not settled.
    pub fn calls(&self) -> usize {
        self.state.lock().calls
    }

    /// Bytes of requests, and bytes of answers.
    pub fn bytes(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.request_bytes, state.reading.held + state.pieces.held)
    }

    fn refused(&self, message: String) -> Error {
        count(&self.metrics.counters.overloaded, 1);
        Error::new(Code::Overloaded, message)
    }

    /// Releases room, and gives it to waiting calls.
    fn give_back(self: &Arc<Self>, of: Use, bytes: usize) {
        let mut ready = Vec::new();
        {
            let mut state = self.state.lock();
            let pool = state.pool(of);
            pool.held = pool.held.saturating_sub(bytes);
            while let Some(next) = pool.waiting.front() {
                if !next.ready.is_closed() && !pool.fits(next.bytes) {
                    break;
                }
                if let Some(next) = pool.waiting.pop_front()
                    && !next.ready.is_closed()
                {
                    pool.held += next.bytes;
                    ready.push(next);
                }
            }
        }
        for Waiting { bytes, ready } in ready {
            let room = Room {
                in_flight: self.clone(),
                of,
                bytes,
            };
            // If the receiver has gone away in the meantime, the room is dropped here and given to
            // the next.
            let _ = ready.send(room);
        }
    }
}

impl State {
    fn pool(&mut self, of: Use) -> &mut Pool {
        match of {
            Use::Reading => &mut self.reading,
            Use::Pieces => &mut self.pieces,
        }
    }
}

impl Pool {
    fn fits(&self, bytes: usize) -> bool {
        self.held == 0 || self.held.saturating_add(bytes) <= self.max
    }
}

impl Room {
    /// Changes the size. Never waits, because the data are already in memory.
    pub fn resize(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes > before {
            self.in_flight.state.lock().pool(self.of).held += bytes - before;
        } else {
            self.in_flight.give_back(self.of, before - bytes);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut state = self.in_flight.state.lock();
        state.calls = state.calls.saturating_sub(1);
        state.request_bytes = state.request_bytes.saturating_sub(self.bytes);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.in_flight.give_back(self.of, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn in_flight(max_bytes: usize, max_calls: usize) -> Arc<InFlight> {
        let limits = Limits {
            max_in_flight_bytes: max_bytes,
            max_pending_calls: max_calls,
            command_timeout_ms: 100,
            ..Limits::default()
        };
        InFlight::new(&limits, Arc::default())
    }

    #[test]
    fn spec_7_11_calls_are_bounded_in_number_and_in_bytes() {
        let in_flight = in_flight(1_000, 3);
        // A single call fits, whatever its size.
        let large = in_flight.accept(10_000).unwrap();
        let error = in_flight.accept(1).map(drop).unwrap_err();
        assert_eq!(error.code, Code::Overloaded);
        for part in ["10000 bytes", "500 bytes", "limits.maxInFlightBytes"] {
            assert!(error.message.contains(part), "{}", error.message);
        }
        drop(large);
        let calls: Vec<_> = (0..3).map(|_| in_flight.accept(100).unwrap()).collect();
        let error = in_flight.accept(0).map(drop).unwrap_err();
        assert!(error.message.contains("limits.maxPendingCalls"));
        let one_more = in_flight.accept_always(0);
        assert_eq!((in_flight.calls(), in_flight.bytes()), (4, (300, 0)));
        drop((calls, one_more));
        assert_eq!((in_flight.calls(), in_flight.bytes()), (0, (0, 0)));
        assert_eq!(
            in_flight
                .metrics
                .values(Default::default())
                .counters
                .overloaded,
            2
        );
    }

    #[tokio::test(start_paused = true)]
    async fn spec_7_11_answers_wait_for_room_in_order_and_not_for_ever() {
        let in_flight = in_flight(4_000, 10);
        let mut first = in_flight.reading(600).await.unwrap();
        let mut large = Box::pin(in_flight.reading(5_000));
        let mut small = Box::pin(in_flight.reading(1));
        assert!(large.as_mut().now_or_never().is_none());
        // It would fit, but does not overtake.
        assert!(small.as_mut().now_or_never().is_none());
        // The room for pieces is not affected.
        drop(in_flight.piece(1_000).await.unwrap());
        first.resize(1_500);
        assert_eq!(in_flight.bytes(), (0, 1_500));
        drop(first);
        let large = large.await.unwrap();
        assert_eq!(in_flight.bytes(), (0, 5_000));
        assert!(small.as_mut().now_or_never().is_none());
        drop(large);
        drop(small.await.unwrap());

        let held = in_flight.reading(1_000).await.unwrap();
        let error = in_flight.reading(1).await.map(drop).unwrap_err();
        assert_eq!(error.code, Code::Overloaded);
        assert!(error.message.contains("1000 bytes"), "{}", error.message);
        // Waiting calls that have given up are skipped.
        drop(held);
        drop(in_flight.reading(1_000).await.unwrap());
        assert_eq!(in_flight.bytes(), (0, 0));
    }

    #[test]
    fn what_is_unknown_takes_a_share_and_what_is_known_its_size() {
        let in_flight = in_flight(64 * 4 * 1_000_000, 1);
        assert_eq!(in_flight.expected("a"), 1_000_000);
        in_flight.learn("a", 7);
        assert_eq!(in_flight.expected("a"), MIN_EXPECTED_BYTES);
        in_flight.learn("a", 5_000_000);
        assert_eq!(in_flight.expected("a"), 5_000_000);
        // The last answers determine the estimate for others: large ones at once, small ones
        // gradually.
        assert_eq!(in_flight.expected("b"), 5_000_000);
        for i in 0..100 {
            in_flight.learn(i, 100);
        }
        assert_eq!(in_flight.expected("b"), MIN_EXPECTED_BYTES);
        assert_eq!(in_flight.expected("a"), 5_000_000);
    }
}
