//! A redis-server for tests of the core, on a unix socket in a temporary folder. It ends with the
//! test.

use crate::{
    keys::{Keys, Layout},
    model::limits::Limits,
    store::{
        Sinks,
        noop_sink::NoopSink,
        redis::{PubSub, RedisStore, Settings, StorageOptions, transport::config::Target},
    },
};
use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

pub(crate) struct RedisServer {
    child: Child,
    folder: PathBuf,
}

impl RedisServer {
    /// `None` if there is no redis-server; the reason is printed. `npm test` sets
    /// `REDIS_SERVER_BIN`.
    pub fn start() -> Option<RedisServer> {
        let named = std::env::var_os("REDIS_SERVER_BIN");
        let program = named.clone().unwrap_or_else(|| "redis-server".into());
        let folder = std::env::temp_dir().join(format!("rollcall-core-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder can be made");
        let started = Command::new(&program)
            .current_dir(&folder)
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(folder.join("redis.sock"))
            .stdout(Stdio::null())
            .spawn();
        match started {
            Ok(child) => Some(RedisServer { child, folder }),
            Err(error) => {
                assert!(named.is_none(), "REDIS_SERVER_BIN does not start: {error}");
                println!("not run: there is no redis-server ({error}); set REDIS_SERVER_BIN");
                None
            }
        }
    }

    pub async fn connect(&self) -> RedisStore {
        self.connect_on(Layout::V1).await
    }

    pub async fn connect_on(&self, layout: Layout) -> RedisStore {
        let url = format!("redis+unix://{}", self.folder.join("redis.sock").display());
        for _ in 0..500 {
            let target = Target::parse(&url, None, None).unwrap();
            let settings = Settings {
                keys: Keys::new("prs:", 1).with_layout(layout),
                limits: &Limits::default(),
                storage: StorageOptions::default(),
                sinks: Sinks::new(Arc::new(NoopSink)),
            };
            match RedisStore::open(target, PubSub::default(), settings).await {
                Ok(store) => return store,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        panic!("the redis-server does not answer");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
