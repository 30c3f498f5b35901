//! Tests of groups, on stores that behave as real ones do rarely.

use crate::{
    in_flight::InFlight,
    metadata::{Metadata, Settings},
    model::{
        error::{Code, Error, Result},
        limits::Limits,
        metadata::{Channel, Operation, change::Change, record::Stored},
    },
    store::{
        memory::MemoryStore,
        metadata::{Commit, Committed, MetadataStore},
        noop_sink::NoopSink,
    },
};
use futures_util::future::BoxFuture;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// A store whose first commits have a given result.
struct Odd<F> {
    store: MemoryStore,
    commits: AtomicUsize,
    odd: F,
}

impl<F: Fn(usize) -> Option<Result<Committed>> + Send + Sync + 'static> MetadataStore for Odd<F> {
    fn read_metadata<'a>(&'a self, channel: &'a Channel) -> BoxFuture<'a, Result<(Stored, u64)>> {
        self.store.read_metadata(channel)
    }

    fn commit_metadata<'a>(&'a self, commit: Commit<'a>) -> BoxFuture<'a, Result<Committed>> {
        let number = self.commits.fetch_add(1, Ordering::Relaxed);
        match (self.odd)(number) {
            Some(done) => Box::pin(std::future::ready(done)),
            None => self.store.commit_metadata(commit),
        }
    }
}

fn metadata(
    odd: impl Fn(usize) -> Option<Result<Committed>> + Send + Sync + 'static,
    settings: Settings,
) -> Arc<Metadata> {
    let store = Odd {
        store: MemoryStore::open(None, Arc::new(NoopSink)),
        commits: AtomicUsize::new(0),
        odd,
    };
    let in_flight = InFlight::new(&Limits::default(), Arc::default());
    Arc::new(Metadata::new(
        Arc::new(store),
        Arc::default(),
        in_flight,
        settings,
    ))
}

fn settings() -> Settings {
    Settings {
        max_depth: 128,
        queue_timeout: Duration::from_millis(50),
        ..Settings::from(&Limits::default())
    }
}

fn set(value: &str) -> Change {
    let request = format!(r#"{{"data":[{{"key":"k","value":"{value}"}}]}}"#);
    Change::parse(Operation::Set, &request, &Limits::default()).unwrap()
}

fn channel() -> Channel {
    Channel::new("t", "n")
}

fn changed(value: &str, number: usize) -> Committed {
    let stored = Stored {
        items: format!(r#"{{"k":{{"value":"{value}","revision":1}}}}"#).into(),
        major: number.to_string().into(),
        ..Stored::default()
    };
    Committed::Changed(stored, 1)
}

#[tokio::test]
async fn spec_7_6_a_change_is_tried_again_as_long_as_others_change_the_record() {
    // Often, but still below the limit.
    let others = |number| (number < 90).then(|| Ok(changed("other", number)));
    let done = metadata(others, settings())
        .change(channel(), set("x"))
        .unwrap();
    // The in-process store is empty, so the last commit finds another record once more.
    let response = done.await.unwrap().text();
    assert!(response.contains(r#""majorRevision":1,"#), "{response}");
    let always = |number| {
        std::thread::sleep(Duration::from_millis(1));
        Some(Ok(changed("other", number)))
    };
    let error = metadata(always, settings())
        .change(channel(), set("x"))
        .unwrap()
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(!error.outcome_unknown);
    assert!(
        error.message.contains("nothing was written"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn spec_12_a_group_of_unknown_outcome_fails_as_a_whole_and_is_not_sent_again() {
    let lost = |number| {
        (number == 0).then(|| Err(Error::new(Code::Timeout, "no answer").with_unknown_outcome()))
    };
    let metadata = metadata(lost, settings());
    // On a single-threaded runtime they are one group.
    let changes: Vec<_> = ["1", "2", "3"]
        .map(|value| metadata.change(channel(), set(value)).unwrap())
        .into();
    for change in changes {
        let error = change.await.unwrap_err();
        assert_eq!((error.code, error.outcome_unknown), (Code::Timeout, true));
    }
    // Nothing was written, so the next change is the first.
    let response = metadata.change(channel(), set("4")).unwrap().await.unwrap();
    let response = response.text();
    assert!(response.contains(r#""majorRevision":1,"#), "{response}");
    assert_eq!(metadata.waiting(), 0);
}

#[tokio::test]
async fn a_panic_in_a_store_fails_those_who_wait_and_not_the_channel_for_ever() {
    let panics = |number| {
        assert_ne!(number, 0, "a fault of the test");
        None
    };
    let settings = Settings {
        most_in_group: 1,
        ..settings()
    };
    let metadata = metadata(panics, settings);
    let changes = ["1", "2"].map(|value| metadata.change(channel(), set(value)).unwrap());
    for change in changes {
        let error = change.await.unwrap_err();
        assert_eq!((error.code, error.outcome_unknown), (Code::Internal, true));
    }
    assert_eq!(metadata.waiting(), 0);
    metadata.change(channel(), set("3")).unwrap().await.unwrap();
}

#[tokio::test]
async fn big_records_make_small_groups_so_that_answers_do_not_fill_the_memory() {
    let settings = Settings {
        max_depth: 128,
        queue_timeout: Duration::from_secs(60),
        ..settings()
    };
    let metadata = metadata(|_| None, settings);
    let big = "x".repeat(1024 * 1024 - 100);
    let changes: Vec<_> = (0..40)
        .map(|i| {
            metadata
                .change(channel(), set(&format!("{i} {big}")))
                .unwrap()
        })
        .collect();
    for (i, change) in changes.into_iter().enumerate() {
        let response = change.await.unwrap().text();
        assert!(response.contains(&format!(r#""majorRevision":{},"#, i + 1)));
        assert!(response.contains(&format!(r#"{{"value":"{i} xxx"#)));
    }
    let sizes = metadata
        .metrics
        .values(Default::default())
        .histograms
        .metadata_group_size;
    assert!((5.0..=17.0).contains(&sizes.max), "{sizes:?}");
}

#[test]
fn a_change_with_too_many_items_is_refused_and_names_the_limit() {
    let request = |count: usize| {
        let items = vec![r#"{"key":"k"}"#; count].join(",");
        format!(r#"{{"data":[{items}]}}"#)
    };
    let parse = |count| Change::parse(Operation::Set, &request(count), &Limits::default());
    assert!(parse(500_000).is_ok());
    let error = parse(500_001).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    for part in ["500001 items", "500000"] {
        assert!(error.message.contains(part), "{}", error.message);
    }
}
