//! What waits for JavaScript: results of calls, settled heartbeats, events, notices. Filled from
//! the core's threads, drained by the JavaScript thread, one wake for however much there is.
//!
//! A wake costs the JavaScript thread as much as ten events do, so events alone wake it at most once
//! in [`EVENT_PAUSE`]: the first at once, those that follow closely together. Whatever else wakes it
//! takes the events along.
//!
//! Races: `scheduled` is cleared before the queues are read, so whatever is put in later wakes
//! again. Events are bounded; when JavaScript does not take them in time they are dropped as a
//! whole and the gap is told, so memory stays bounded while a handler blocks (spec 4.4).

use super::runtime;
use crate::{
    heartbeat::{Outcome, Settle},
    lock::Told,
    model::{
        error::{Error, Result},
        json::quote,
        limits::Limits,
    },
    store::{ConnectionState, EventSink, Feed, LogLevel, lock::LockCall},
    switches::{Defence, off},
};
use napi::{
    Status,
    threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode},
};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    fmt::Write as _,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Weak: it never keeps the process alive.
pub type Wake = ThreadsafeFunction<(), (), (), Status, false, true>;

/// Time between two wakes for events alone.
const EVENT_PAUSE: Duration = Duration::from_millis(1);

/// Events and bytes that one drain hands over at most, so that a backlog does not block the
/// JavaScript thread in one piece.
const DRAIN_EVENTS: usize = 4_096;
const DRAIN_BYTES: usize = 4 * 1024 * 1024;

/// The notice that events were dropped.
const OVERFLOW: &str = r#"["resync","overflow"]"#;

pub struct Inbox {
    wake: Wake,
    /// For the timer that ends a pause.
    this: Weak<Inbox>,
    scheduled: AtomicBool,
    abandoned: AtomicBool,
    beats: Mutex<Beats>,
    rest: Mutex<Rest>,
    most_events: AtomicUsize,
    most_event_bytes: AtomicUsize,
}

#[derive(Default)]
struct Beats {
    settled: VecDeque<(u64, Outcome)>,
    errors: Vec<Error>,
}

/// What a call is answered with.
enum Answer {
    /// All that is missing.
    Last(Result<String>),
    /// A piece of it, as JSON; more comes.
    Piece(String),
}

#[derive(Default)]
struct Rest {
    answers: Vec<(f64, Answer)>,
    notices: Vec<String>,
    events: VecDeque<(Feed, Box<str>)>,
    event_bytes: usize,
    /// Until when events do not wake JavaScript.
    pause_ends: Option<Instant>,
    /// A timer will wake it at the end of the pause.
    pause_has_timer: bool,
}

impl Inbox {
    pub fn new(wake: Wake) -> Arc<Self> {
        let limits = Limits::default();
        Arc::new_cyclic(|this| Inbox {
            wake,
            this: this.clone(),
            scheduled: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            beats: Mutex::default(),
            rest: Mutex::default(),
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

    /// Nobody will drain any more.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        *self.beats.lock() = Beats::default();
        *self.rest.lock() = Rest::default();
    }

    pub fn answer(&self, call: f64, result: Result<String>) {
        self.put(|rest| rest.answers.push((call, Answer::Last(result))));
    }

    /// A piece of an answer, as JSON, so that JavaScript can take it in while others are read: its thread is
    /// not blocked by all of them in one.
    pub fn piece(&self, call: f64, piece: String) {
        self.put(|rest| rest.answers.push((call, Answer::Piece(piece))));
    }

    /// Takes out what waits. Settled heartbeats go into `out`: their number, then three numbers for
    /// each. The rest comes back as JSON text, if there is any: `[calls, notices, events]`, where a
    /// call is `[number, value]`, `[number, null, error]` or, with more to come, `[number, piece, 0]`, and
    /// among the events, in the order in which they came, a number says to which feed those after it
    /// belong.
    pub fn drain(&self, out: &mut [f64]) -> Option<String> {
        self.scheduled.store(false, Ordering::Release);
        let all_settled = self.drain_heartbeats(out);
        self.drain_rest(all_settled)
    }

    /// Whether there was room for all.
    fn drain_heartbeats(&self, out: &mut [f64]) -> bool {
        let Some((number, out)) = out.split_first_mut() else {
            return false;
        };
        let mut beats = self.beats.lock();
        let Beats { settled, errors } = &mut *beats;
        let count = settled.len().min(out.len() / 3);
        *number = count as f64;
        for (slot, (ticket, result)) in out.chunks_exact_mut(3).zip(settled.drain(..count)) {
            slot[0] = ticket as f64;
            match result {
                Ok(beat) => {
                    slot[1] = if beat.changed { 1.0 } else { 0.0 };
                    slot[2] = beat.epoch as f64;
                }
                Err(error) => {
                    slot[1] = -1.0;
                    slot[2] = errors.len() as f64;
                    errors.push(*error);
                }
            }
        }
        if !settled.is_empty() {
            self.schedule();
            return false;
        }
        if settled.capacity() > 16 * 1024 {
            // A burst must not keep its memory for ever.
            *settled = VecDeque::new();
        }
        true
    }

    pub fn take_errors(&self) -> String {
        let errors = std::mem::take(&mut self.beats.lock().errors);
        let errors: Vec<String> = errors.iter().map(error_json).collect();
        format!("[{}]", errors.join(","))
    }

    /// Answers come after the heartbeats that were settled before them: the one to `close` ends
    /// whatever is still pending. So they wait while heartbeats do.
    fn drain_rest(&self, with_answers: bool) -> Option<String> {
        let mut rest = self.rest.lock();
        let answers = if with_answers {
            std::mem::take(&mut rest.answers)
        } else {
            Vec::new()
        };
        if answers.is_empty() && rest.notices.is_empty() && rest.events.is_empty() {
            return None;
        }
        let mut text = String::with_capacity(256 + rest.event_bytes.min(DRAIN_BYTES));
        text.push_str("[[");
        for (index, (call, answer)) in answers.into_iter().enumerate() {
            separate(&mut text, index);
            match answer {
                Answer::Piece(piece) => write!(text, "[{call},{piece},0]"),
                Answer::Last(Ok(value)) => write!(text, "[{call},{value}]"),
                Answer::Last(Err(error)) => write!(text, "[{call},null,{}]", error_json(&error)),
            }
            .expect("a String takes any text");
        }
        text.push_str("],[");
        text.push_str(&std::mem::take(&mut rest.notices).join(","));
        text.push_str("],[");
        let mut last = None;
        for count in 0..DRAIN_EVENTS {
            if text.len() >= DRAIN_BYTES {
                break;
            }
            let Some((feed, payload)) = rest.events.pop_front() else {
                break;
            };
            rest.event_bytes -= payload.len();
            separate(&mut text, count);
            if last != Some(feed) {
                last = Some(feed);
                write!(text, "{},", feed.number()).expect("a String takes any text");
            }
            text.push_str(&payload);
        }
        if rest.events.is_empty() {
            rest.events.shrink_to(1_024);
        } else {
            self.schedule();
        }
        text.push_str("]]");
        Some(text)
    }

    fn put(&self, into: impl FnOnce(&mut Rest)) {
        if self.abandoned.load(Ordering::Acquire) {
            return;
        }
        into(&mut self.rest.lock());
        self.schedule();
    }

    /// Wakes JavaScript for events, now or at the end of the pause.
    fn schedule_events(&self, rest: &mut Rest) {
        let now = Instant::now();
        match rest.pause_ends {
            Some(end) if now < end => {
                if rest.pause_has_timer {
                    return;
                }
                let Ok(runtime) = runtime() else {
                    return self.schedule();
                };
                rest.pause_has_timer = true;
                let this = self.this.clone();
                runtime.spawn(async move {
                    tokio::time::sleep_until(end.into()).await;
                    if let Some(inbox) = this.upgrade() {
                        inbox.end_pause();
                    }
                });
            }
            _ => {
                rest.pause_ends = Some(now + EVENT_PAUSE);
                self.schedule();
            }
        }
    }

    fn end_pause(&self) {
        let mut rest = self.rest.lock();
        rest.pause_has_timer = false;
        if !rest.events.is_empty() {
            rest.pause_ends = Some(Instant::now() + EVENT_PAUSE);
            self.schedule();
        }
    }

    fn schedule(&self) {
        if !self.scheduled.swap(true, Ordering::AcqRel) {
            // It fails only when the environment is going away, and then nobody waits.
            self.wake.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }
}

impl Settle for Inbox {
    fn settle(&self, results: Vec<(u64, Outcome)>) {
        if self.abandoned.load(Ordering::Acquire) {
            return;
        }
        self.beats.lock().settled.extend(results);
        self.schedule();
    }
}

impl Told for Inbox {
    fn lock_lost(&self, number: u64, error: &Error) {
        let notice = format!(r#"["lock","{number}",{}]"#, quote(&error_json(error)));
        self.put(|rest| rest.notices.push(notice));
    }
}

impl EventSink for Inbox {
    fn event(&self, feed: Feed, payload: &str) -> u64 {
        let most = self.most_events.load(Ordering::Relaxed);
        let most_bytes = self.most_event_bytes.load(Ordering::Relaxed);
        if self.abandoned.load(Ordering::Acquire) {
            return 0;
        }
        let mut rest = self.rest.lock();
        let full = rest.events.len() >= most || rest.event_bytes + payload.len() > most_bytes;
        if full && !off(Defence::EventBound) {
            let dropped = rest.events.len() as u64 + 1;
            rest.events.clear();
            rest.event_bytes = 0;
            // As long as JavaScript has not heard of it, it is one gap.
            if rest.notices.last().is_none_or(|last| last != OVERFLOW) {
                rest.notices.push(OVERFLOW.into());
            }
            self.schedule();
            return dropped;
        }
        rest.event_bytes += payload.len();
        rest.events.push_back((feed, payload.into()));
        self.schedule_events(&mut rest);
        0
    }

    fn gap(&self) {
        self.put(|rest| rest.notices.push(r#"["resync","reconnected"]"#.into()));
    }

    fn malformed(&self) {}

    fn expired(&self) {}

    fn lock_call(&self, _: LockCall) {}

    fn state(&self, state: ConnectionState, detail: &str) {
        let notice = format!(r#"["state","{}",{}]"#, state.as_str(), quote(detail));
        self.put(|rest| rest.notices.push(notice));
    }

    fn log(&self, level: LogLevel, message: &str) {
        let notice = format!(r#"["log","{}",{}]"#, level.as_str(), quote(message));
        self.put(|rest| rest.notices.push(notice));
    }
}

fn separate(list: &mut String, index: usize) {
    if index > 0 {
        list.push(',');
    }
}

fn error_json(error: &Error) -> String {
    let cause = error.cause.as_deref().map_or_else(|| "null".into(), quote);
    let current = error.current.as_deref().unwrap_or("null");
    format!(
        r#"{{"code":"{}","message":{},"unknown":{},"cause":{cause},"current":{current}}}"#,
        error.code,
        quote(&error.message),
        error.outcome_unknown,
    )
}
