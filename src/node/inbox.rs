//! Settled heartbeats and messages (`messages.rs`) that wait for JavaScript. The core's threads
//! fill the inbox, and the JavaScript thread drains it. One wake-up is enough for all that waits.
//!
//! A wake-up costs the JavaScript thread as much as several events. Events wake it at once as long
//! as the rate of such wake-ups is within `EVENT_WAKE_INTERVAL`. Beyond that rate, several events
//! share a wake-up. Any other wake-up also delivers the events that wait.
//!
//! Races: a drain clears `scheduled` before it reads the queues, so an item that is added later
//! causes another wake-up. If a drain leaves items, it reports so. JavaScript then drains again by
//! itself, after other work of its event loop, and `scheduled` is set. A wake-up from here would be
//! wrong: Node.js runs up to a thousand wake-ups in a row before it checks timers.
//!
//! The number of events is bounded. If JavaScript does not take them in time, all of them are
//! dropped and the gap is reported, so memory stays bounded while a handler blocks (spec 4.4).

use super::{
    messages::{Answer, DRAIN_BYTES, Failed, LEASE_LOST, Messages, error_json},
    runtime,
};
use crate::{
    client::{ClientCallbacks, LivenessNotice},
    heartbeat::{Outcome, ResultSink},
    in_flight::{Call, Room},
    lock::LockLostListener,
    model::{
        error::{Error, Result},
        json::quote,
        limits::Limits,
    },
    store::{ConnectionState, Feed, LogLevel},
};
use napi::{
    Status,
    threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode},
};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

pub use super::messages::{Reply, Undo, Value};

/// A weak function: it does not keep the process alive.
pub type Wake = ThreadsafeFunction<(), (), (), Status, false, true>;

/// Number of values before the heartbeats in the output of a drain: the number of heartbeats, and
/// whether there is more to drain.
const HEADER: usize = 2;
/// Number of values of one heartbeat.
const PER_HEARTBEAT: usize = 3;

pub struct Inbox {
    wake: Wake,
    /// For the timer that delays a wake-up.
    this: Weak<Inbox>,
    scheduled: AtomicBool,
    abandoned: AtomicBool,
    heartbeats: Mutex<SettledHeartbeats>,
    messages: Mutex<Messages>,
    most_events: AtomicUsize,
    most_event_bytes: AtomicUsize,
}

#[derive(Default)]
struct SettledHeartbeats {
    settled: VecDeque<(u64, Outcome)>,
    /// Total number of heartbeats that have been settled, and that have been handed over.
    put_in: u64,
    taken_out: u64,
    errors: Vec<Error>,
}

impl Inbox {
    pub fn new(wake: Wake) -> Arc<Self> {
        let limits = Limits::default();
        Arc::new_cyclic(|this| Inbox {
            wake,
            this: this.clone(),
            scheduled: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            heartbeats: Mutex::default(),
            messages: Mutex::default(),
            most_events: AtomicUsize::new(limits.max_event_queue),
            most_event_bytes: AtomicUsize::new(limits.max_event_queue_bytes),
        })
    }

    pub fn bound(&self, limits: &Limits) {
        self.most_events
            .store(limits.max_event_queue, Ordering::Relaxed);
        self.most_event_bytes
            .store(limits.max_event_queue_bytes, Ordering::Relaxed);
    }

    /// Discards all items, because nothing will drain them. Discarded answers undo their calls.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        *self.heartbeats.lock() = SettledHeartbeats::default();
        let messages = std::mem::take(&mut *self.messages.lock());
        drop(messages);
    }

    pub fn answer(&self, number: f64, result: Result<Reply>, call: Option<Call>) {
        self.put_answer(Answer::last(number, result, call));
    }

    /// Adds a piece of an answer, as JSON. JavaScript can process it while other pieces are read,
    /// and its thread is not blocked by all of them at once.
    pub fn piece(&self, number: f64, piece: Arc<str>, room: Room) {
        self.put_answer(Answer::piece(number, piece, room));
    }

    /// Adds an answer. It comes after the heartbeats that were settled before it, because the
    /// answer to `close` ends all heartbeats that are still pending.
    fn put_answer(&self, answer: Answer) {
        let after = self.heartbeats.lock().put_in;
        self.put(|messages| messages.answer(answer, after));
    }

    /// Takes out the items that wait. Settled heartbeats go into `out`: their number, whether there
    /// is more to drain (JavaScript then drains again by itself), and three values for each. The
    /// rest is returned as JSON text, if there is any: `[calls, notices, events]`. A call is
    /// `[number, value]`, `[number, null, error]` or, if more pieces follow, `[number, piece, 0]`.
    /// The events are in the order in which they came. Among them, a number is the feed of the
    /// events after it, and a text says that some events were missed.
    pub fn drain(&self, out: &mut [f64]) -> Option<String> {
        self.scheduled.store(false, Ordering::Release);
        let (settled, more_settled) = self.drain_heartbeats(out);
        let (text, more) = self.messages.lock().drain(settled);
        if more || more_settled {
            self.comes_again();
            if let Some(says_so) = out.get_mut(1) {
                *says_so = 1.0;
            }
        }
        text
    }

    /// Returns the total number of heartbeats that have been handed over, and whether some are
    /// left.
    fn drain_heartbeats(&self, out: &mut [f64]) -> (u64, bool) {
        let mut heartbeats = self.heartbeats.lock();
        let SettledHeartbeats {
            settled,
            taken_out,
            errors,
            ..
        } = &mut *heartbeats;
        let Some((header, slots)) = out.split_at_mut_checked(HEADER) else {
            return (*taken_out, false);
        };
        header.fill(0.0);
        errors.clear();
        let mut error_bytes = 0;
        let mut count = 0;
        for slot in slots.chunks_exact_mut(PER_HEARTBEAT) {
            if error_bytes > DRAIN_BYTES {
                break;
            }
            let Some((ticket, result)) = settled.pop_front() else {
                break;
            };
            count += 1;
            slot[0] = ticket as f64;
            match result {
                Ok(heartbeat) => {
                    slot[1] = if heartbeat.changed { 1.0 } else { 0.0 };
                    slot[2] = heartbeat.epoch as f64;
                }
                Err(error) => {
                    slot[1] = -1.0;
                    slot[2] = errors.len() as f64;
                    error_bytes += error.message.len();
                    errors.push(*error);
                }
            }
        }
        header[0] = count as f64;
        *taken_out += count;
        if settled.is_empty() && settled.capacity() > 16 * 1024 {
            // The queue must not keep the memory of a burst.
            *settled = VecDeque::new();
        }
        (*taken_out, !settled.is_empty())
    }

    pub fn take_errors(&self) -> String {
        let errors = std::mem::take(&mut self.heartbeats.lock().errors);
        let errors: Vec<String> = errors.iter().map(error_json).collect();
        format!("[{}]", errors.join(","))
    }

    /// JavaScript has received what the last drain handed over.
    pub fn taken(&self) {
        self.messages.lock().taken();
    }

    /// The caller does not wait any more for the answer to this call, which the last drain handed
    /// over.
    pub fn unwanted(&self, number: f64) {
        let answer = self.messages.lock().take_unwanted(number);
        // The lock is released before this drop, which undoes the call.
        drop(answer);
    }

    /// Whether JavaScript does not know yet that this node has lost a lease.
    pub fn has_lease_loss(&self) -> bool {
        self.messages.lock().has_lease_loss()
    }

    /// The output of the last drain did not arrive. If JavaScript must drain again, which it then
    /// does by itself, returns the numbers of the calls whose answers are given up.
    pub fn failed(&self) -> Option<Vec<f64>> {
        let (failed, given_up) = self.messages.lock().failed();
        // The lock is released before this drop, which undoes the calls.
        drop(given_up);
        match failed {
            Failed::Nothing => {
                self.scheduled.store(false, Ordering::Release);
                None
            }
            Failed::Again => {
                self.comes_again();
                Some(Vec::new())
            }
            Failed::GivenUp(number) => {
                self.comes_again();
                Some(number.into_iter().collect())
            }
        }
    }

    /// JavaScript drains again without a wake-up.
    fn comes_again(&self) {
        self.scheduled.store(true, Ordering::Release);
    }

    fn put(&self, into: impl FnOnce(&mut Messages)) {
        if self.abandoned.load(Ordering::Acquire) {
            return;
        }
        into(&mut self.messages.lock());
        self.schedule();
    }

    /// Wakes JavaScript for events, now or when the next wake-up is permitted.
    fn schedule_events(&self, messages: &mut Messages) {
        if self.scheduled.load(Ordering::Acquire) {
            return;
        }
        let Err(permitted) = messages.event_wakes.pace.take(Instant::now()) else {
            return self.schedule();
        };
        if messages.event_wakes.has_timer {
            return;
        }
        let Ok(runtime) = runtime() else {
            return self.schedule();
        };
        messages.event_wakes.has_timer = true;
        let this = self.this.clone();
        // An event that comes later may wake JavaScript earlier, because the timer has a resolution
        // of 1 ms.
        runtime.spawn(async move {
            tokio::time::sleep_until(permitted.into()).await;
            if let Some(inbox) = this.upgrade() {
                inbox.wake_for_events();
            }
        });
    }

    fn wake_for_events(&self) {
        let mut messages = self.messages.lock();
        messages.event_wakes.has_timer = false;
        if messages.has_events() {
            self.schedule_events(&mut messages);
        }
    }

    fn schedule(&self) {
        if !self.scheduled.swap(true, Ordering::AcqRel) {
            // The call fails only when the environment shuts down. Nothing waits then.
            self.wake.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }
}

impl ResultSink for Inbox {
    fn settle(&self, results: Vec<(u64, Outcome)>) {
        if self.abandoned.load(Ordering::Acquire) {
            return;
        }
        let mut heartbeats = self.heartbeats.lock();
        heartbeats.put_in += results.len() as u64;
        heartbeats.settled.extend(results);
        drop(heartbeats);
        self.schedule();
    }
}

impl LockLostListener for Inbox {
    fn lock_lost(&self, number: u64, error: &Error) {
        let notice = format!(r#"["lock","{number}",{}]"#, quote(&error_json(error)));
        self.put(|messages| messages.notice(notice));
    }
}

impl Inbox {
    /// An event for the logger (`logging.rs`). Must not be called while `messages` is locked.
    pub fn log_event(&self, level: &str, message: &str) {
        let notice = format!(r#"["log","{level}",{}]"#, quote(message));
        self.put(|messages| messages.log(notice));
    }
}

impl ClientCallbacks for Inbox {
    fn event(&self, feed: Feed, payload: &str) -> u64 {
        let most = self.most_events.load(Ordering::Relaxed);
        let most_bytes = self.most_event_bytes.load(Ordering::Relaxed);
        if self.abandoned.load(Ordering::Acquire) {
            return 0;
        }
        let mut messages = self.messages.lock();
        let dropped = messages.event(feed, payload, most, most_bytes);
        match dropped {
            0 => self.schedule_events(&mut messages),
            _ => self.schedule(),
        }
        dropped
    }

    fn gap(&self) {
        self.put(Messages::gap);
    }

    fn state(&self, state: ConnectionState, detail: &str) {
        let notice = format!(r#"["state","{}",{}]"#, state.as_str(), quote(detail));
        self.put(|messages| messages.notice(notice));
    }

    fn log(&self, level: LogLevel, message: &str) {
        self.log_event(level.as_str(), message);
    }

    fn liveness(&self, notice: LivenessNotice<'_>) {
        let notice = match notice {
            LivenessNotice::Dispossessed(conn, epoch) => {
                format!(r#"["dispossessed",{},"{epoch}"]"#, quote(conn))
            }
            LivenessNotice::Restored(conn, epoch) => {
                format!(r#"["restored",{},"{epoch}"]"#, quote(conn))
            }
            LivenessNotice::LeaseLost => LEASE_LOST.to_owned(),
        };
        self.put(|messages| messages.notice(notice));
    }
}
