//! What waits for JavaScript: settled heartbeats, and messages (`messages.rs`). Filled from the core's
//! threads, drained by the JavaScript thread, one wake for however much there is.
//!
//! A wake costs the JavaScript thread as much as several events do. Events wake it at once, as long as
//! they do so no more often than `EVENT_WAKE_INTERVAL` permits; beyond that rate, several share a
//! wake. Any other wake delivers the events that wait, too.
//!
//! Races: `scheduled` is cleared before the queues are read, so whatever is put in later wakes
//! again. When a drain leaves something, JavaScript is told so and comes again by itself, after other work
//! of its event loop; `scheduled` is set then. A wake from here would not do: Node.js runs up to a thousand
//! wakes in a row before it looks at timers.
//!
//! Events are bounded; when JavaScript does not take them in time they are dropped as a
//! whole and the gap is told, so memory stays bounded while a handler blocks (spec 4.4).

use super::{
    messages::{Answer, DRAIN_BYTES, Failed, Messages, error_json},
    runtime,
};
use crate::{
    client::ClientCallbacks,
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

/// Weak: it never keeps the process alive.
pub type Wake = ThreadsafeFunction<(), (), (), Status, false, true>;

/// Numbers before those of the heartbeats in what a drain fills: how many there are, and whether there is
/// more to drain.
const HEADER: usize = 2;
/// Numbers of one heartbeat.
const PER_HEARTBEAT: usize = 3;

pub struct Inbox {
    wake: Wake,
    /// For the timer that ends a pause.
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
    /// How many have been settled in all, and handed over.
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

    /// Nobody will drain any more. What answers carry goes back.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        *self.heartbeats.lock() = SettledHeartbeats::default();
        let messages = std::mem::take(&mut *self.messages.lock());
        drop(messages);
    }

    pub fn answer(&self, number: f64, result: Result<Reply>, call: Option<Call>) {
        self.put_answer(Answer::last(number, result, call));
    }

    /// A piece of an answer, as JSON, so that JavaScript can take it in while others are read: its thread is
    /// not blocked by all of them in one.
    pub fn piece(&self, number: f64, piece: Arc<str>, room: Room) {
        self.put_answer(Answer::piece(number, piece, room));
    }

    /// Answers come after the heartbeats that were settled before them: the one to `close` ends whatever is
    /// still pending.
    fn put_answer(&self, answer: Answer) {
        let after = self.heartbeats.lock().put_in;
        self.put(|messages| messages.answer(answer, after));
    }

    /// Takes out what waits. Settled heartbeats go into `out`: their number, whether there is more to drain
    /// (JavaScript then comes again by itself), and three numbers for each. The rest comes back as JSON
    /// text, if there is any: `[calls, notices, events]`, where a call is `[number, value]`,
    /// `[number, null, error]` or, with more to come, `[number, piece, 0]`, and among the events, in the
    /// order in which they came, a number says to which feed those after it belong, and a text that some were
    /// missed.
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

    /// How many have been handed over in all, and whether some are left.
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
            // A burst must not keep its memory for ever.
            *settled = VecDeque::new();
        }
        (*taken_out, !settled.is_empty())
    }

    pub fn take_errors(&self) -> String {
        let errors = std::mem::take(&mut self.heartbeats.lock().errors);
        let errors: Vec<String> = errors.iter().map(error_json).collect();
        format!("[{}]", errors.join(","))
    }

    /// JavaScript has what the last drain handed over.
    pub fn taken(&self) {
        self.messages.lock().taken();
    }

    /// Nobody waits for the answer to this call, which the last drain handed over.
    pub fn unwanted(&self, number: f64) {
        let answer = self.messages.lock().take_unwanted(number);
        // Without the lock: what it carries goes back now.
        drop(answer);
    }

    /// The last drain did not arrive. If JavaScript is to come again, which it then does by itself: the
    /// numbers of the calls whose answers are given up.
    pub fn failed(&self) -> Option<Vec<f64>> {
        let (failed, given_up) = self.messages.lock().failed();
        // Without the lock: what it carries goes back now.
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

    /// JavaScript comes without being woken.
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

    /// Wakes JavaScript for events, now or when the next wake is permitted.
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
        // An event that comes later may wake JavaScript before: the timer has a resolution of 1 ms.
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
            // It fails only when the environment is going away, and then nobody waits.
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
}
