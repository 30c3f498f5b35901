//! Messages that wait for JavaScript, except settled heartbeats: answers of calls, notices, events.
//! Each drain returns as many as fit into [`DRAIN_BYTES`], in order of arrival for each kind. The
//! rest is left to later drains, so that the JavaScript thread does other work in between.
//!
//! Returned messages stay here until JavaScript reports that it has them. If delivery fails, they
//! are delivered again one by one, and a message that fails again is given up. The call of an
//! answer that is given up is undone (see [`Undo`]).

use crate::{
    failpoints::{failpoint, panic_point},
    in_flight::{Call, Room},
    model::{
        error::{Error, Result},
        json::quote,
        metadata::response::Response,
    },
    pace::Pace,
    store::Feed,
};
use std::{collections::VecDeque, fmt::Write as _, sync::Arc, time::Duration};

/// Maximum numbers of events and bytes that one drain returns, so that a backlog does not block the
/// JavaScript thread for long. A single message may be larger, and is then returned alone.
const DRAIN_EVENTS: usize = 4_096;
pub(super) const DRAIN_BYTES: usize = 4 * 1024 * 1024;

/// Maximum length of a message. JavaScript engines limit strings to about twice that.
const MAX_MESSAGE_BYTES: usize = 256 * 1024 * 1024;

/// Bytes of waiting notices above which log messages are dropped.
const MAX_NOTICE_BYTES: usize = 1024 * 1024;

/// The notice that events were dropped.
const OVERFLOW: &str = r#"["resync","overflow"]"#;

/// The representation of a gap among the events.
const GAP: &str = r#""reconnected""#;

/// The result of a call.
pub enum Value {
    /// JSON text.
    Text(String),
    Record(Response),
}

impl Value {
    fn bytes(&self) -> usize {
        match self {
            Value::Text(text) => text.len(),
            Value::Record(response) => response.bytes(),
        }
    }
}

/// Releases what a call acquired, if its caller never gets the answer. Runs once, on any thread.
pub type Undo = Box<dyn FnOnce() + Send>;

/// The result of a call, and how to undo the call.
pub struct Reply {
    pub value: Value,
    pub undo: Option<Undo>,
}

impl From<String> for Reply {
    fn from(text: String) -> Self {
        Reply {
            value: Value::Text(text),
            undo: None,
        }
    }
}

impl From<Response> for Reply {
    fn from(response: Response) -> Self {
        Reply {
            value: Value::Record(response),
            undo: None,
        }
    }
}

/// The content of an answer.
enum Content {
    /// The whole result, or the last part of it.
    Last(Result<Value>),
    /// A piece of the result, as JSON. More parts follow.
    Piece(Arc<str>),
}

pub(super) struct Answer {
    number: f64,
    content: Content,
    /// Number of settled heartbeats that must be returned before this answer.
    after: u64,
    undo: Option<Undo>,
    /// The registrations of the call and of its memory, held until JavaScript has the answer.
    _call: Option<Call>,
    _room: Option<Room>,
}

impl Answer {
    pub fn last(number: f64, result: Result<Reply>, call: Option<Call>) -> Self {
        let (content, undo) = match result {
            Ok(Reply { value, undo }) if value.bytes() <= MAX_MESSAGE_BYTES => (Ok(value), undo),
            Ok(Reply { value, undo }) => {
                run(undo);
                (Err(too_large(value.bytes())), None)
            }
            Err(error) => (Err(error), None),
        };
        Answer {
            number,
            content: Content::Last(content),
            after: 0,
            undo,
            _call: call,
            _room: None,
        }
    }

    pub fn piece(number: f64, piece: Arc<str>, room: Room) -> Self {
        Answer {
            number,
            content: Content::Piece(piece),
            after: 0,
            undo: None,
            _call: None,
            _room: Some(room),
        }
    }

    fn bytes(&self) -> usize {
        let content = match &self.content {
            Content::Piece(piece) => piece.len(),
            Content::Last(Ok(value)) => value.bytes(),
            Content::Last(Err(error)) => {
                let current = error.current.as_ref().map_or(0, |current| current.bytes());
                error.message.len() + current + 128
            }
        };
        content + 32
    }

    fn write_into(&self, text: &mut String) {
        panic_point!(DrainPanic);
        let number = self.number;
        write!(text, "[{number},").expect("a String takes any text");
        match &self.content {
            Content::Piece(piece) => {
                text.push_str(piece);
                text.push_str(",0");
            }
            Content::Last(Ok(Value::Text(value))) => text.push_str(value),
            Content::Last(Ok(Value::Record(response))) => response.write_into(text),
            Content::Last(Err(error)) => {
                text.push_str("null,");
                write_error(text, error);
            }
        }
        text.push(']');
    }
}

/// Undoes the call if its answer was not delivered.
impl Drop for Answer {
    fn drop(&mut self) {
        run(self.undo.take());
    }
}

fn run(undo: Option<Undo>) {
    if let Some(undo) = undo
        && !failpoint!(Undelivered)
    {
        undo();
    }
}

fn too_large(bytes: usize) -> Error {
    Error::internal(format!(
        "the answer is {bytes} bytes of JSON, more than the {MAX_MESSAGE_BYTES} bytes that can be handed to \
         JavaScript in one piece"
    ))
}

/// A message that a drain has returned and whose delivery is not confirmed.
enum Handed {
    Answer(Answer),
    Notice(String),
}

/// The notice that this node has lost its lease.
pub(super) const LEASE_LOST: &str = r#"["leaseLost","",""]"#;

/// Messages for handlers, in order of arrival.
enum Queued {
    Event(Feed, Box<str>),
    /// Events were missed at this point. A gap is not a notice, because a notice would overtake
    /// earlier events. Those are older than what a handler of `resync` reads.
    Gap,
}

impl Queued {
    fn text(&self) -> &str {
        match self {
            Queued::Event(_, payload) => payload,
            Queued::Gap => GAP,
        }
    }
}

/// Average time between two wakes for events alone, when there are more.
const EVENT_WAKE_INTERVAL: Duration = Duration::from_micros(250);
/// Number of wakes for events alone that may follow each other faster.
const EVENT_WAKE_BURST: u32 = 50;

/// How often events wake JavaScript when nothing else does.
pub(super) struct EventWakes {
    pub pace: Pace,
    /// Whether a timer will wake it when the next wake is permitted.
    pub has_timer: bool,
}

impl Default for EventWakes {
    fn default() -> Self {
        EventWakes {
            pace: Pace::new(EVENT_WAKE_INTERVAL, EVENT_WAKE_BURST),
            has_timer: false,
        }
    }
}

#[derive(Default)]
pub(super) struct Messages {
    answers: VecDeque<Answer>,
    notices: VecDeque<String>,
    notice_bytes: usize,
    /// Number of `LEASE_LOST` among the notices and what was handed over.
    lease_losses: usize,
    events: VecDeque<Queued>,
    event_bytes: usize,
    handed: Vec<Handed>,
    /// Number of events that the last drain returned.
    handed_events: usize,
    /// Number of messages to deliver one by one, because one of them could not be delivered.
    one_by_one: usize,
    pub event_wakes: EventWakes,
}

/// The result that JavaScript gets after a failed drain.
pub(super) enum Failed {
    /// No message was affected.
    Nothing,
    /// The messages will be delivered one by one.
    Again,
    /// The answer to this call could not be delivered, and is given up.
    GivenUp(Option<f64>),
}

impl Messages {
    /// `after`: number of heartbeats that were settled before.
    pub fn answer(&mut self, mut answer: Answer, after: u64) {
        answer.after = after;
        self.answers.push_back(answer);
    }

    pub fn notice(&mut self, notice: String) {
        self.notice_bytes += notice.len();
        self.lease_losses += usize::from(notice == LEASE_LOST);
        self.notices.push_back(notice);
    }

    /// Whether JavaScript does not know yet that this node has lost a lease.
    pub fn has_lease_loss(&self) -> bool {
        self.lease_losses > 0
    }

    /// Adds a notice that may be dropped.
    pub fn log(&mut self, notice: String) {
        if self.notice_bytes < MAX_NOTICE_BYTES {
            self.notice(notice);
        }
    }

    /// Adds an event. If the queue is full, all events are dropped, and `resync` is emitted through
    /// a notice. Returns the number of dropped events.
    pub fn event(&mut self, feed: Feed, payload: &str, most: usize, most_bytes: usize) -> u64 {
        let full = self.events.len() >= most || self.event_bytes + payload.len() > most_bytes;
        if full && !failpoint!(EventBound) {
            let events = |queued: &&Queued| matches!(queued, Queued::Event(..));
            let dropped = self.events.iter().filter(events).count() as u64 + 1;
            self.events.clear();
            self.event_bytes = 0;
            self.overflow();
            return dropped;
        }
        self.event_bytes += payload.len();
        self.events.push_back(Queued::Event(feed, payload.into()));
        0
    }

    /// Records that events were missed between those in the queue and later ones. Adjacent gaps
    /// become one.
    pub fn gap(&mut self) {
        if matches!(self.events.back(), Some(Queued::Gap)) {
            return;
        }
        self.event_bytes += GAP.len();
        self.events.push_back(Queued::Gap);
    }

    /// Until JavaScript has the notice, further overflows belong to the same gap.
    fn overflow(&mut self) {
        if self.notices.back().is_none_or(|last| last != OVERFLOW) {
            self.notice(OVERFLOW.into());
        }
    }

    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.answers.is_empty() && self.notices.is_empty() && self.events.is_empty()
    }

    /// Returns messages as JSON text, if there are any, and whether more are left. `settled`:
    /// number of heartbeats that have been returned. Answers that depend on others wait for them.
    pub fn drain(&mut self, settled: u64) -> (Option<String>, bool) {
        // If JavaScript had not got these, it would have called `failed`.
        self.taken();
        if self.is_empty() {
            return (None, false);
        }
        let alone = self.one_by_one > 0;
        let mut text = String::with_capacity(256 + self.event_bytes.min(DRAIN_BYTES));
        text.push_str("[[");
        self.drain_answers(&mut text, settled, alone);
        text.push_str("],[");
        self.drain_notices(&mut text, alone);
        text.push_str("],[");
        if alone {
            self.one_by_one -= self.handed.len().min(self.one_by_one);
            if self.answers.is_empty() && self.notices.is_empty() {
                self.one_by_one = 0;
            }
        } else {
            self.drain_events(&mut text);
        }
        text.push_str("]]");
        (Some(text), !self.is_empty())
    }

    fn drain_answers(&mut self, text: &mut String, settled: u64, alone: bool) {
        // Notices and events must not wait until no answer is left.
        let others = !self.notices.is_empty() || !self.events.is_empty();
        let most = if others { DRAIN_BYTES / 2 } else { DRAIN_BYTES };
        let mut count = 0;
        while let Some(next) = self.answers.front() {
            let full = text.len() + next.bytes() > most || alone;
            if next.after > settled || (full && count > 0) {
                break;
            }
            separate(text, count);
            count += 1;
            // Before it is converted to text: if the conversion fails, it is among those that were
            // not delivered.
            let next = self.answers.pop_front();
            self.handed.extend(next.map(Handed::Answer));
            if let Some(Handed::Answer(next)) = self.handed.last() {
                next.write_into(text);
            }
        }
        if self.answers.is_empty() {
            self.answers.shrink_to(1_024);
        }
    }

    fn drain_notices(&mut self, text: &mut String, alone: bool) {
        let mut count = 0;
        while let Some(next) = self.notices.front() {
            let full = text.len() + next.len() > DRAIN_BYTES || alone;
            if full && !self.handed.is_empty() {
                break;
            }
            separate(text, count);
            text.push_str(next);
            count += 1;
            if let Some(next) = self.notices.pop_front() {
                self.notice_bytes -= next.len();
                self.handed.push(Handed::Notice(next));
            }
        }
    }

    fn drain_events(&mut self, text: &mut String) {
        let mut last = None;
        for count in 0..DRAIN_EVENTS {
            let Some(next) = self.events.front() else {
                break;
            };
            let full = text.len() + next.text().len() > DRAIN_BYTES;
            if full && (count > 0 || !self.handed.is_empty()) {
                break;
            }
            separate(text, count);
            if let Queued::Event(feed, _) = next
                && last != Some(*feed)
            {
                last = Some(*feed);
                write!(text, "{},", feed.number()).expect("a String takes any text");
            }
            text.push_str(next.text());
            self.event_bytes -= next.text().len();
            self.handed_events += 1;
            self.events.pop_front();
        }
        if self.events.is_empty() {
            self.events.shrink_to(1_024);
        }
    }

    /// Confirms that JavaScript has the returned messages.
    pub fn taken(&mut self) {
        self.handed_events = 0;
        for handed in self.handed.drain(..) {
            match handed {
                Handed::Answer(mut answer) => answer.undo = None,
                Handed::Notice(notice) => self.lease_losses -= usize::from(notice == LEASE_LOST),
            }
        }
    }

    /// Takes the returned answer to this call, if no caller waits for it.
    pub fn take_unwanted(&mut self, number: f64) -> Option<Answer> {
        let place = self.handed.iter().position(
            |handed| matches!(handed, Handed::Answer(answer) if answer.number == number),
        )?;
        match self.handed.swap_remove(place) {
            Handed::Answer(answer) => Some(answer),
            Handed::Notice(_) => None,
        }
    }

    /// Handles a failed delivery. Each failed drain either leads to smaller ones or gives up one
    /// message, so this terminates. The message is returned so that it is dropped without the lock.
    pub fn failed(&mut self) -> (Failed, Option<Answer>) {
        let had_events = self.handed_events > 0;
        if had_events {
            // These events are lost, as if they had been dropped.
            self.handed_events = 0;
            self.overflow();
        }
        if self.handed.is_empty() && !had_events {
            // The drain failed before it had taken a message, so the first message is the cause.
            let first = self.answers.pop_front().map(Handed::Answer);
            let first = first.or_else(|| {
                let notice = self.notices.pop_front()?;
                self.notice_bytes -= notice.len();
                Some(Handed::Notice(notice))
            });
            self.handed.extend(first);
        }
        match self.handed.len() {
            0 if !had_events => (Failed::Nothing, None),
            1 if !had_events => match self.handed.pop() {
                Some(Handed::Answer(answer)) => {
                    (Failed::GivenUp(Some(answer.number)), Some(answer))
                }
                Some(Handed::Notice(notice)) => {
                    // JavaScript forgets what it owns when notices are lost.
                    self.lease_losses -= usize::from(notice == LEASE_LOST);
                    (Failed::GivenUp(None), None)
                }
                None => (Failed::GivenUp(None), None),
            },
            several => {
                self.one_by_one = several;
                for handed in self.handed.drain(..).rev() {
                    match handed {
                        Handed::Answer(answer) => self.answers.push_front(answer),
                        Handed::Notice(notice) => {
                            self.notice_bytes += notice.len();
                            self.notices.push_front(notice);
                        }
                    }
                }
                (Failed::Again, None)
            }
        }
    }
}

fn separate(list: &mut String, index: usize) {
    if index > 0 {
        list.push(',');
    }
}

pub(super) fn error_json(error: &Error) -> String {
    let mut text = String::new();
    write_error(&mut text, error);
    text
}

fn write_error(text: &mut String, error: &Error) {
    let cause = error.cause.as_deref().map_or_else(|| "null".into(), quote);
    write!(
        text,
        r#"{{"code":"{}","message":{},"unknown":{},"cause":{cause},"current":"#,
        error.code,
        quote(&error.message),
        error.outcome_unknown,
    )
    .expect("a String takes any text");
    match &error.current {
        None => text.push_str("null"),
        Some(current) => current.write_into(text),
    }
    text.push('}');
}
