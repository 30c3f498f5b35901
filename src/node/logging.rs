//! `tracing` events, for observing what Rollcall does. `ROLLCALL_LOG` selects them, in the form of
//! `RUST_LOG`: `debug`, or `rollcall::store=trace,rollcall::heartbeat=debug`. Without it there is
//! no subscriber, and an event costs one comparison.
//!
//! The events are those of the whole process. They go to the logger of each open client that has
//! one, or to stderr if there is none. Nothing here panics, and nothing writes to stdout.

use super::inbox::Inbox;
use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use std::{
    fmt::{self, Write as _},
    io::{self, Write as _},
    sync::{Arc, Weak},
    time::SystemTime,
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
};
use tracing_subscriber::filter::Targets;

/// The environment variable.
const VARIABLE: &str = "ROLLCALL_LOG";

static BEGUN: OnceCell<()> = OnceCell::new();
/// Open clients that have a logger.
static LOGGERS: Mutex<Vec<Weak<Inbox>>> = Mutex::new(Vec::new());

/// Installs the subscriber, if the environment asks for events and it is not installed yet.
pub fn begin() {
    BEGUN.get_or_init(|| {
        let filter = std::env::var(VARIABLE).unwrap_or_default();
        if filter.is_empty() {
            return;
        }
        match filter.parse::<Targets>() {
            // Fails if there is a subscriber already, which then gets the events.
            Ok(filter) => drop(tracing::subscriber::set_global_default(Events::new(filter))),
            Err(error) => write_line(&format!("rollcall: {VARIABLE} is not a filter: {error}")),
        }
    });
}

/// Sends events to this client's logger from now on.
pub fn add_logger(inbox: &Arc<Inbox>) {
    LOGGERS.lock().push(Arc::downgrade(inbox));
}

/// Call when the client is closed, or could not be opened.
pub fn remove_logger(inbox: &Arc<Inbox>) {
    LOGGERS.lock().retain(|each| {
        each.upgrade()
            .is_some_and(|each| !Arc::ptr_eq(&each, inbox))
    });
}

struct Events {
    filter: Targets,
    max: LevelFilter,
}

impl Events {
    fn new(filter: Targets) -> Events {
        let levels = filter.iter().map(|(_, level)| level);
        let max = levels.chain(filter.default_level()).max();
        Events {
            max: max.unwrap_or(LevelFilter::OFF),
            filter,
        }
    }
}

impl Subscriber for Events {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter
            .would_enable(metadata.target(), metadata.level())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.max)
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut text = Text::default();
        event.record(&mut text);
        let line = format!("{}: {}{}", metadata.target(), text.message, text.fields);
        let loggers: Vec<_> = LOGGERS.lock().iter().filter_map(Weak::upgrade).collect();
        if loggers.is_empty() {
            let time = humantime::format_rfc3339_millis(SystemTime::now());
            write_line(&format!("{time} {:>5} {line}", metadata.level()));
        }
        for logger in loggers {
            logger.log_event(logger_level(*metadata.level()), &line);
        }
    }

    // There are no spans.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The method name of a logger, which has no `trace`.
fn logger_level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        _ => "debug",
    }
}

/// Ignores errors, because stderr may be closed.
fn write_line(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// An event's message, and its other fields as ` name=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail. A value whose formatting fails is left out.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
