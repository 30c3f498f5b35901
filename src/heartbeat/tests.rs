//! Tests the bounds and deadlines of the engine, on a paused clock, with stores that do not answer.

use super::*;
use crate::{
    liveness::Liveness,
    model::json::BYTES_PARSED,
    model::{
        error::Result as StoreResult,
        limits::Limits,
        presence::Place,
        state::{Patch, State},
    },
    offload::MAX_INLINE_BYTES,
    presence::{self, directory::Directory, own_joins::OwnJoins},
    store::{
        BatchMiss, HeartbeatOutcome, HeartbeatRefresh, HeartbeatUpdate, Join, Lifetime, Located,
        heartbeat::HeartbeatStore, memory::MemoryStore, noop_sink::NoopSink,
    },
};
use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use std::{cell::RefCell, collections::HashMap, future::pending, time::Duration};
use tokio::{
    sync::Notify,
    time::{advance, sleep},
};

type Hook = Box<dyn FnOnce()>;

std::thread_local! {
    /// Runs once, after the engine has checked for batches to start and before it waits.
    static BETWEEN_LOOKS: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

pub(super) fn between_looks() {
    if let Some(hook) = BETWEEN_LOOKS.take() {
        hook();
    }
}

const TIMEOUT: Duration = Duration::from_millis(500);

/// How a store answers heartbeats.
#[derive(Clone, Copy)]
enum Behaviour {
    Answers,
    /// The store answers, and the queue timeout is long enough for all heartbeats.
    Patient,
    Silent,
    /// Each call fails after this time, as if Redis did not answer.
    Fails(Duration),
    /// Each patch meets a conflicting state, after this time.
    Conflicts(Duration),
}

struct TestStore {
    memory: MemoryStore,
    behaviour: Behaviour,
}

impl TestStore {
    async fn answer<T>(&self, answer: BoxFuture<'_, T>, failed: impl FnOnce(Error) -> T) -> T {
        match self.behaviour {
            Behaviour::Answers | Behaviour::Patient => answer.await,
            Behaviour::Silent => pending().await,
            Behaviour::Fails(after) => {
                sleep(after).await;
                failed(Error::new(Code::Timeout, "no answer").with_unknown_outcome())
            }
            Behaviour::Conflicts(after) => {
                sleep(after).await;
                answer.await
            }
        }
    }
}

impl HeartbeatStore for TestStore {
    fn refresh_heartbeats<'a>(
        &'a self,
        heartbeats: &'a [HeartbeatRefresh],
        lifetime: &'a Lifetime,
    ) -> BoxFuture<'a, StoreResult<Vec<BatchMiss>>> {
        Box::pin(self.answer(self.memory.refresh_heartbeats(heartbeats, lifetime), Err))
    }

    fn update_heartbeats<'a>(
        &'a self,
        heartbeats: &'a [HeartbeatUpdate],
        lifetime: &'a Lifetime,
    ) -> BoxFuture<'a, Vec<StoreResult<HeartbeatOutcome>>> {
        let conflict = || HeartbeatOutcome::Conflict {
            stored: State::empty().into(),
        };
        let answer = match self.behaviour {
            Behaviour::Conflicts(_) => {
                Box::pin(async move { heartbeats.iter().map(|_| Ok(conflict())).collect() })
            }
            _ => self.memory.update_heartbeats(heartbeats, lifetime),
        };
        let failed = move |error: Error| heartbeats.iter().map(|_| Err(error.clone())).collect();
        Box::pin(self.answer(answer, failed))
    }

    fn locate<'a>(
        &'a self,
        conns: &'a [Arc<str>],
    ) -> BoxFuture<'a, Vec<StoreResult<Option<Located>>>> {
        let failed = move |error: Error| conns.iter().map(|_| Err(error.clone())).collect();
        Box::pin(self.answer(self.memory.locate(conns), failed))
    }
}

/// The result of each ticket, and its time.
#[derive(Default)]
struct Results(Mutex<HashMap<u64, (Outcome, Instant)>>, Notify);

impl ResultSink for Results {
    fn settle(&self, results: Vec<(u64, Outcome)>) {
        let mut all = self.0.lock();
        for (ticket, outcome) in results {
            let earlier = all.insert(ticket, (outcome, Instant::now()));
            assert!(earlier.is_none(), "ticket {ticket} was settled twice");
        }
        self.1.notify_one();
    }
}

impl Results {
    /// Waits until `count` tickets are settled.
    async fn of(&self, count: usize) {
        while self.0.lock().len() < count {
            self.1.notified().await;
        }
        assert_eq!(self.0.lock().len(), count);
    }

    fn failed_with(&self, code: Code, words: &str) -> usize {
        let all = self.0.lock();
        let fits = |error: &Error| error.code == code && error.message.contains(words);
        let errors = all
            .values()
            .filter_map(|(outcome, _)| outcome.as_ref().err());
        errors.filter(|error| fits(error)).count()
    }

    fn last(&self) -> Instant {
        self.0.lock().values().map(|(_, at)| *at).max().unwrap()
    }
}

struct World {
    engine: Arc<Engine>,
    results: Arc<Results>,
    tickets: u64,
}

impl World {
    /// An engine whose connections `c0`, `c1` and so on have joined with this state.
    async fn new(behaviour: Behaviour, limits: &Limits, window: Duration, state: &str) -> World {
        let memory = MemoryStore::open(None, Arc::new(NoopSink));
        let directory = Arc::new(Directory::default());
        for i in 0..20 {
            let mut join = Join {
                conn: format!("c{i}").into(),
                place: Place::new("r", "u"),
                state: State::parse("state", state).unwrap(),
                lifetime: Lifetime::of_heartbeats(1_000_000),
                floor: 0,
            };
            presence::join(&memory, &directory, &OwnJoins::default(), &mut join)
                .await
                .unwrap();
        }
        let results = Arc::<Results>::default();
        let engine = Engine::new(
            Arc::new(TestStore { memory, behaviour }),
            directory,
            Arc::default(),
            Liveness::new(1_000_000, None),
            Arc::default(),
            results.clone(),
            Settings {
                window,
                max_batch: limits.max_batch_size,
                second_from: SECOND_FLIGHT_FROM,
                queue: limits.into(),
                max_state_bytes: limits.max_state_bytes,
                max_depth: limits.max_depth,
                timeout: match behaviour {
                    Behaviour::Patient => TIMEOUT * 1_000,
                    _ => TIMEOUT,
                },
            },
        );
        World {
            engine,
            results,
            tickets: 0,
        }
    }

    fn submit(&mut self, conn: usize, patch: Option<&str>) {
        let patch = patch.map(|set| Patch::parse("patchState", set, "").unwrap());
        self.engine.submit(vec![Request {
            conn: format!("c{conn}").as_str().into(),
            epoch: None,
            patch: patch.map(Box::new),
            ticket: self.tickets,
        }]);
        self.tickets += 1;
    }

    /// Runs the engine until everything is settled.
    async fn finish(&self) {
        let running = tokio::spawn(self.engine.clone().run());
        self.results.of(self.tickets as usize).await;
        self.engine.stop();
        running.await.unwrap();
        let held = self.engine.queue.lock().held();
        assert_eq!((held, self.engine.queued()), ((0, 0), 0));
    }
}

#[tokio::test(start_paused = true)]
async fn spec_5_1_a_window_that_ends_between_two_looks_ends_the_wait() {
    let window = Duration::from_millis(50);
    let mut world = World::new(Behaviour::Answers, &Limits::default(), window, "{}").await;
    let start = Instant::now();
    world.submit(0, None);
    let ends_window = move || {
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(advance(window * 2).now_or_never().is_none());
    };
    // The first wait ends at once, because `submit` has called `notify_one`.
    BETWEEN_LOOKS.set(Some(Box::new(move || {
        BETWEEN_LOOKS.set(Some(Box::new(ends_window)));
    })));
    world.finish().await;
    assert_eq!(world.results.last() - start, window * 2);
}

#[tokio::test(start_paused = true)]
async fn spec_5_1_a_heartbeat_waits_for_its_window_and_no_longer() {
    let window = Duration::from_millis(50);
    let mut world = World::new(Behaviour::Answers, &Limits::default(), window, "{}").await;
    let start = Instant::now();
    world.submit(0, None);
    world.submit(1, Some(r#"{"a":1}"#));
    world.finish().await;
    let waited = world.results.last() - start;
    assert!(
        waited >= window && waited < window + TIMEOUT / 10,
        "{waited:?}"
    );
}

/// Checks that all heartbeats fail within the window plus twice the timeout, whatever the store
/// does.
async fn all_fail_in_time(behaviour: Behaviour, conns: usize, window: Duration) {
    let mut world = World::new(behaviour, &Limits::default(), window, "{}").await;
    let start = Instant::now();
    for i in 0..3_000 {
        world.submit(i % conns, Some(&format!("{{\"k{i}\":1}}")));
    }
    world.finish().await;
    let last = world.results.last() - start;
    // Tokio timers have a granularity of one millisecond.
    let most = window + 2 * TIMEOUT + Duration::from_millis(2);
    assert!(last <= most, "the last one failed after {last:?}");
    let unsent = world
        .results
        .failed_with(Code::Unavailable, "Nothing was sent");
    let sent = world.results.failed_with(Code::Timeout, "");
    assert_eq!(unsent + sent, 3_000);
    // One batch of each connection is sent, and at most one more after that one fails.
    let most_sent = 2 * 256 * conns.min(MAX_FULL_FLIGHTS);
    assert!((1..=most_sent).contains(&sent), "{sent} were sent");
}

#[tokio::test(start_paused = true)]
async fn spec_5_4_patches_that_are_parked_fail_in_time_when_the_store_is_silent() {
    for conns in [1, 20] {
        all_fail_in_time(Behaviour::Silent, conns, Duration::ZERO).await;
        all_fail_in_time(Behaviour::Silent, conns, Duration::from_millis(70)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn spec_5_4_flights_that_fail_one_after_the_other_do_not_add_up() {
    for after in [1.0, 0.7] {
        all_fail_in_time(Behaviour::Fails(TIMEOUT.mul_f64(after)), 1, Duration::ZERO).await;
    }
}

#[tokio::test(start_paused = true)]
async fn spec_5_4_rounds_of_one_flight_do_not_add_up() {
    all_fail_in_time(
        Behaviour::Conflicts(TIMEOUT.mul_f64(0.9)),
        1,
        Duration::ZERO,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn spec_5_4_heartbeats_count_against_max_queue_wherever_they_wait() {
    for conns in [1, 20] {
        let limits = Limits {
            max_queue: 10,
            ..Limits::default()
        };
        let mut world = World::new(Behaviour::Silent, &limits, Duration::ZERO, "{}").await;
        let running = tokio::spawn(world.engine.clone().run());
        for i in 0..1_000 {
            world.submit(i % conns, (i % 3 > 0).then_some("{}"));
            // Let the engine take it from the queue.
            tokio::task::yield_now().await;
        }
        assert_eq!(world.results.failed_with(Code::Overloaded, "maxQueue"), 990);
        running.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn spec_5_4_bytes_of_patches_are_bounded_wherever_they_wait() {
    let mut world = World::new(Behaviour::Silent, &Limits::default(), Duration::ZERO, "{}").await;
    let patch = format!("{{\"k\":\"{}\"}}", "x".repeat(1_000_000));
    let running = tokio::spawn(world.engine.clone().run());
    for i in 0..100 {
        world.submit(i % 20, Some(&patch));
        tokio::task::yield_now().await;
    }
    let fit = (64 * 1024 * 1024) / patch.len();
    let refused = world.results.failed_with(Code::Overloaded, "maxStateBytes");
    assert_eq!(refused, 100 - fit);
    // Heartbeats without a patch are still accepted.
    world.submit(0, None);
    assert_eq!(world.results.0.lock().len(), refused);
    running.abort();
}

#[tokio::test]
async fn spec_9_3_large_states_are_merged_away_from_the_worker_which_serves_others() {
    let keys: Vec<String> = (0..20_000).map(|i| format!("\"key{i}\":{i}")).collect();
    let state = format!("{{{}}}", keys.join(","));
    let limits = Limits::default();
    // This test uses the real clock, because blocking threads do the work.
    let window = Duration::from_millis(1);
    let mut world = World::new(Behaviour::Patient, &limits, window, &state).await;
    for i in 0..3_000 {
        world.submit(0, Some(&format!("{{\"key{i}\":-1}}")));
    }
    world.submit(1, None);
    BYTES_PARSED.set(0);
    world.finish().await;
    let parsed = BYTES_PARSED.get();
    assert!(parsed <= MAX_INLINE_BYTES, "{parsed} bytes on the worker");
    let results = world.results.0.lock();
    let changed = |outcome: &Outcome| outcome.as_ref().is_ok_and(|heartbeat| heartbeat.changed);
    let changed = results.values().filter(|(outcome, _)| changed(outcome));
    assert_eq!(changed.count(), 3_000);
}
