//! Tests that the engine does not pause between two calls, on a real Redis.

use super::{Engine, Outcome, Request, ResultSink, Settings};
use crate::{
    keys::Layout,
    liveness::Liveness,
    metadata::tests::redis::RedisServer,
    metrics::Metrics,
    model::{
        event::Reason,
        limits::Limits,
        presence::{Epoch, HeartbeatResult, Place},
        state::{Patch, State},
    },
    pause::{pause, pauses},
    presence::{self, directory::Directory, own_joins::OwnJoins},
    store::{Join, Lifetime, PresenceStore, Store, redis::RedisStore},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

struct Results(mpsc::UnboundedSender<(u64, Outcome)>);

impl ResultSink for Results {
    fn settle(&self, results: Vec<(u64, Outcome)>) {
        for result in results {
            self.0.send(result).unwrap();
        }
    }
}

struct World {
    store: Arc<dyn PresenceStore>,
    connection: Arc<RedisStore>,
    directory: Arc<Directory>,
    own_joins: Arc<OwnJoins>,
    engine: Arc<Engine>,
    results: mpsc::UnboundedReceiver<(u64, Outcome)>,
}

impl World {
    async fn new(server: &RedisServer, layout: Layout) -> World {
        let connection = Arc::new(server.connect_on(layout).await);
        let store = connection.clone().presence();
        let (directory, own_joins) = (Arc::default(), Arc::default());
        let (sender, results) = mpsc::unbounded_channel();
        let engine = Engine::new(
            store.clone(),
            Arc::clone(&directory),
            Arc::clone(&own_joins),
            Liveness::new(600_000, None),
            Arc::new(Metrics::default()),
            Arc::new(Results(sender)),
            Settings {
                window: Duration::ZERO,
                max_batch: 256,
                second_from: 64,
                queue: (&Limits::default()).into(),
                max_state_bytes: 1 << 20,
                max_depth: 64,
                timeout: Duration::from_secs(60),
            },
        );
        tokio::spawn(engine.clone().run());
        World {
            store,
            connection,
            directory,
            own_joins,
            engine,
            results,
        }
    }

    async fn join(&self, conn: &str) -> Epoch {
        let mut join = Join {
            conn: conn.into(),
            place: Place::new("r", "u"),
            state: State::empty(),
            lifetime: Lifetime::of_heartbeats(600_000),
            floor: 0,
        };
        presence::join(&*self.store, &self.directory, &self.own_joins, &mut join)
            .await
            .unwrap()
            .expect("no node answers for it")
    }

    async fn patch(&mut self, conn: &str, n: u64) -> Outcome {
        let patch = Patch::parse("patchState", &format!(r#"{{"n":{n}}}"#), "").unwrap();
        self.engine.submit(vec![Request {
            conn: conn.into(),
            epoch: None,
            patch: Some(Box::new(patch)),
            ticket: n,
        }]);
        let (ticket, outcome) = self.results.recv().await.unwrap();
        assert_eq!(ticket, n);
        outcome
    }
}

#[tokio::test]
async fn spec_5_1_no_patch_pauses_before_or_after_it_is_answered() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    for layout in [Layout::V1, Layout::Slotted] {
        let mut world = World::new(&server, layout).await;
        let epoch = world.join("c").await;
        let before = pauses();
        for n in 1..=20 {
            let changed = true;
            let heartbeat = world.patch("c", n).await.unwrap();
            assert_eq!(heartbeat, HeartbeatResult { changed, epoch });
        }
        // A heartbeat that fails does not pause either.
        world.patch("nobody", 21).await.unwrap_err();
        assert_eq!(pauses() - before, 0, "{layout:?}");

        presence::leave(
            &*world.store,
            &world.directory,
            &world.own_joins,
            "c",
            None,
            None,
            Reason::Left,
        )
        .await
        .unwrap();
        world.engine.stop();
        world.connection.close().await;
    }
    // Check that the counter works.
    let before = pauses();
    pause(Duration::ZERO).await;
    assert_eq!(pauses() - before, 1);
}
