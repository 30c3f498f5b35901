//! The messages that wait for JavaScript, besides settled heartbeats: answers of calls, notices, events.
//! Each drain hands over as many as fit into [`DRAIN_BYTES`], in order of arrival for each kind, and leaves
//! the others to later drains, so that the JavaScript thread does other work in between.
//!
//! What is handed over stays here until JavaScript says that it has it. If it cannot be delivered, it is
//! delivered once more, message by message, and the one that fails again is given up alone. An answer that
//! is given up gives back what its call got (see [`Undo`]).

use crate::{
    failpoints::{failpoint, panic_point},
    in_flight::{Call, Room},
    model::{
        error::{Error, Result},
        json::quote,
        metadata::response::Response,
    },
    store::Feed,
};
use std::{collections::VecDeque, fmt::Write as _, time::Instant};

/// Events and bytes that one drain hands over at most, so that a backlog does not block the JavaScript
/// thread in one piece. A single message may be larger, and then goes alone.
const DRAIN_EVENTS: usize = 4_096;
pub(super) const DRAIN_BYTES: usize = 4 * 1024 * 1024;

/// The longest message: no JavaScript engine has longer strings than twice that.
const MAX_MESSAGE_BYTES: usize = 256 * 1024 * 1024;

/// Bytes of notices that wait; beyond it, what is only logged is dropped.
const MAX_NOTICE_BYTES: usize = 1024 * 1024;

/// The notice that events were dropped.
const OVERFLOW: &str = r#"["resync","overflow"]"#;

/// What stands for a gap among the events.
const GAP: &str = r#""reconnected""#;

/// What a call comes to.
pub enum Value {
    /// As JSON text.
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

/// Gives back what a call got, when nobody will ever know that it did. Runs on any thread, once.
pub type Undo = Box<dyn FnOnce() + Send>;

/// What a call comes to, and how that is undone.
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

/// What a call is answered with.
enum Content {
    /// All that is missing.
    Last(Result<Value>),
    /// A piece of it, as JSON; more comes.
    Piece(String),
}

pub(super) struct Answer {
    number: f64,
    content: Content,
    /// It is handed over after so many heartbeats.
    after: u64,
    undo: Option<Undo>,
    /// Counted, and in the room that it takes, until JavaScript has it.
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

    pub fn piece(number: f64, piece: String, room: Room) -> Self {
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

/// However it ends without being delivered: what it carries goes back.
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

/// What one drain has handed over, until it is known to have arrived.
enum Handed {
    Answer(Answer),
    Notice(String),
}

/// What waits for handlers, in order of arrival.
enum Queued {
    Event(Feed, Box<str>),
    /// Events were missed here. Not a notice, which would overtake the events before it: these are older than
    /// what a handler of `resync` reads.
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

#[derive(Default)]
pub(super) struct Messages {
    answers: VecDeque<Answer>,
    notices: VecDeque<String>,
    notice_bytes: usize,
    events: VecDeque<Queued>,
    event_bytes: usize,
    handed: Vec<Handed>,
    /// How many events the last drain handed over.
    handed_events: usize,
    /// So many messages are to be delivered one by one, because one of them could not be.
    one_by_one: usize,
    /// Until when events do not wake JavaScript.
    pub pause_ends: Option<Instant>,
    /// A timer will wake it at the end of the pause.
    pub pause_has_timer: bool,
}

/// What JavaScript learns of a drain that failed.
pub(super) enum Failed {
    /// There was nothing that could have failed.
    Nothing,
    /// The messages will be delivered one by one.
    Again,
    /// This call's answer could not be delivered, and will not be.
    GivenUp(Option<f64>),
}

impl Messages {
    /// `after`: how many heartbeats were settled before.
    pub fn answer(&mut self, mut answer: Answer, after: u64) {
        answer.after = after;
        self.answers.push_back(answer);
    }

    pub fn notice(&mut self, notice: String) {
        self.notice_bytes += notice.len();
        self.notices.push_back(notice);
    }

    /// A notice that may be dropped.
    pub fn log(&mut self, notice: String) {
        if self.notice_bytes < MAX_NOTICE_BYTES {
            self.notice(notice);
        }
    }

    /// Takes an event in. If there is no room, all of them are dropped, with a notice; says how many.
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

    /// Events were missed between those that are here and those that come. Gaps with nothing between them are one.
    pub fn gap(&mut self) {
        if matches!(self.events.back(), Some(Queued::Gap)) {
            return;
        }
        self.event_bytes += GAP.len();
        self.events.push_back(Queued::Gap);
    }

    /// As long as JavaScript has not heard of it, it is one gap.
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

    /// Hands messages over, as JSON text if there are any, and says whether more are left. `settled`: how
    /// many heartbeats have been handed over; answers that came after others wait for those.
    pub fn drain(&mut self, settled: u64) -> (Option<String>, bool) {
        // JavaScript would have said so if it had not got these.
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
        // Notices and events are not to wait until no answer is left.
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
            // Before it becomes text: if that fails, it is among those that did not arrive.
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

    /// JavaScript has what it was handed.
    pub fn taken(&mut self) {
        self.handed_events = 0;
        for handed in self.handed.drain(..) {
            if let Handed::Answer(mut answer) = handed {
                answer.undo = None;
            }
        }
    }

    /// The answer to this call, which has been handed over and which nobody waits for.
    pub fn take_unwanted(&mut self, number: f64) -> Option<Answer> {
        let place = self.handed.iter().position(
            |handed| matches!(handed, Handed::Answer(answer) if answer.number == number),
        )?;
        match self.handed.swap_remove(place) {
            Handed::Answer(answer) => Some(answer),
            Handed::Notice(_) => None,
        }
    }

    /// What was handed over did not arrive. Each such drain either leads to smaller ones or gives one
    /// message up, so that this ends. The message is returned, to be dropped without the lock.
    pub fn failed(&mut self) -> (Failed, Option<Answer>) {
        let had_events = self.handed_events > 0;
        if had_events {
            // They are gone, as if they had been dropped.
            self.handed_events = 0;
            self.overflow();
        }
        if self.handed.is_empty() && !had_events {
            // It failed before the first was handed over: at that one.
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
                _ => (Failed::GivenUp(None), None),
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
