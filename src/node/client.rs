//! `NativeClient`: one core client for JavaScript. Methods convert and forward their arguments. The
//! result of a call goes to the inbox under the call's number.

use super::{
    heartbeats::{PER_REQUEST, requests},
    inbox::{Inbox, Reply, Undo, Value, Wake},
    logging, runtime,
};
use crate::{
    client::Client,
    failpoints::{failpoint, panic_point},
    heartbeat::ResultSink,
    in_flight::{Call, InFlight},
    model::{
        error::{Error, Result},
        json::quote,
        presence::Member,
    },
    options::Options,
    presence::readings::{EachMemberPiece, MemberPiece, member_pieces},
    store::{Feed, Topic},
};
use futures_util::{FutureExt, future::BoxFuture};
use napi::bindgen_prelude::{Float64ArraySlice, Function};
use napi_derive::napi;
use once_cell::sync::OnceCell;
use std::{panic::AssertUnwindSafe, sync::Arc};
use tokio_util::task::TaskTracker;

/// Whether a call can be refused because too much is in flight.
pub(super) enum Admission {
    /// It sends this many bytes.
    Bounded(usize),
    /// Never refused: it releases something, and is called only once.
    Always,
}

impl Admission {
    pub(super) fn of<const N: usize>(texts: [&str; N]) -> Admission {
        Admission::Bounded(texts.iter().map(|text| text.len()).sum())
    }

    fn admit(self, in_flight: &Arc<InFlight>) -> Result<Call> {
        match self {
            Admission::Bounded(bytes) => in_flight.accept(bytes),
            Admission::Always => Ok(in_flight.accept_always(0)),
        }
    }
}

#[napi]
pub struct NativeClient {
    core: Arc<OnceCell<Arc<Client>>>,
    pub(super) inbox: Arc<Inbox>,
    /// Calls of JavaScript that have not ended. They are counted when they are made. The runtime
    /// may start tasks in another order, and a close must not overtake earlier calls.
    calls: TaskTracker,
}

#[napi]
impl NativeClient {
    /// `wake` is called on the JavaScript thread, without arguments, when there is something to
    /// drain. It does not keep the process alive.
    #[napi(constructor)]
    pub fn new(wake: Function<'_, (), ()>) -> napi::Result<Self> {
        let wake: Wake = wake
            .build_threadsafe_function()
            .weak::<true>()
            .callee_handled::<false>()
            .build()?;
        Ok(NativeClient {
            core: Arc::default(),
            inbox: Inbox::new(wake),
            calls: TaskTracker::new(),
        })
    }

    #[napi(catch_unwind)]
    /// `has_logger`: the caller has given a logger, which also gets `tracing` events.
    pub fn connect(&self, call: f64, options: String, has_logger: bool) -> napi::Result<()> {
        logging::begin();
        let core = self.core.clone();
        let inbox = self.inbox.clone();
        self.spawn(call, None, async move {
            let options = Options::parse(&options)?;
            inbox.bound(&options.limits);
            if has_logger {
                logging::add_logger(&inbox);
            }
            let client = Client::connect(options, inbox.clone())
                .await
                .inspect_err(|_| logging::remove_logger(&inbox))?;
            let client = Arc::new(client);
            core.set(client.clone())
                .map_err(|_| Error::internal("connected twice"))?;
            let undo: Undo = Box::new(move || {
                if let Ok(runtime) = runtime() {
                    runtime.spawn(async move { client.close().await });
                }
            });
            Ok(Reply {
                value: Value::Text("null".into()),
                undo: Some(undo),
            })
        })
    }

    #[napi(catch_unwind)]
    pub fn join(
        &self,
        call: f64,
        room: String,
        user: String,
        conn: String,
        state: String,
        snapshot: bool,
    ) -> napi::Result<()> {
        let inbox = self.inbox.clone();
        let admission = Admission::of([&room, &user, &conn, &state]);
        self.call(call, admission, async move |client| {
            let each = pieces(call, inbox, client.in_flight().clone());
            let snapshot: Option<EachMemberPiece> = if snapshot { Some(&each) } else { None };
            let epoch = client.join(&room, &user, &conn, &state, snapshot).await?;
            Ok(epoch.to_string())
        })
    }

    /// Takes heartbeats. `conns` are the connection ids one after the other, `patches` the patches: of each,
    /// the JSON text of the keys to set, and that of an array of keys to remove or nothing. `items` has five
    /// numbers for each heartbeat: ticket, epoch (-1: none), and in UTF-16 units the lengths of the id, of
    /// the keys to set (0: no patch) and of the keys to remove.
    #[napi(catch_unwind)]
    pub fn heartbeats(&self, conns: String, patches: String, items: &[f64]) {
        panic_point!(CallPanic);
        match self.client() {
            Ok(client) => {
                let (requests, refused) = requests(conns, &patches, items, client.limits());
                if !refused.is_empty() {
                    self.inbox.settle(refused);
                }
                client.heartbeats(requests);
            }
            Err(error) => self.inbox.settle(
                items
                    .chunks_exact(PER_REQUEST)
                    .map(|item| (item[0] as u64, Err(Box::new(error.clone()))))
                    .collect(),
            ),
        }
    }

    /// `epoch`: -1 for none.
    #[napi(catch_unwind)]
    pub fn leave(&self, call: f64, conn: String, epoch: f64) -> napi::Result<()> {
        let admission = Admission::of([&conn]);
        self.call(call, admission, async move |client| {
            let epoch = (epoch >= 0.0).then_some(epoch as u64);
            Ok(match client.leave(&conn, epoch).await? {
                None => "null".into(),
                Some(place) => format!(
                    r#"{{"roomId":{},"userId":{}}}"#,
                    quote(&place.room),
                    quote(&place.user)
                ),
            })
        })
    }

    #[napi(catch_unwind)]
    pub fn epoch(&self, call: f64, conn: String) -> napi::Result<()> {
        let admission = Admission::of([&conn]);
        self.call(call, admission, async move |client| {
            Ok(client
                .epoch(&conn)
                .await?
                .map_or_else(|| "null".into(), |epoch| epoch.to_string()))
        })
    }

    #[napi(catch_unwind)]
    pub fn room_snapshot(&self, call: f64, room: String) -> napi::Result<()> {
        let inbox = self.inbox.clone();
        self.call(call, Admission::of([&room]), async move |client| {
            let each = pieces(call, inbox, client.in_flight().clone());
            client.room_snapshot(&room, &each).await?;
            Ok("null".to_owned())
        })
    }

    #[napi(catch_unwind)]
    pub fn user_presence(&self, call: f64, user: String) -> napi::Result<()> {
        let inbox = self.inbox.clone();
        self.call(call, Admission::of([&user]), async move |client| {
            let (connections, _room) = client.user_connections(&user).await?;
            let rooms = rooms_json(&connections);
            let each = pieces(call, inbox, client.in_flight().clone());
            for piece in member_pieces(&connections) {
                each(piece).await;
            }
            Ok(rooms)
        })
    }

    /// `feed` is the number of the feed. `name` names the object, for feeds of single objects.
    #[napi(catch_unwind)]
    pub fn subscribe(&self, call: f64, feed: u32, name: String) -> napi::Result<()> {
        self.call(call, Admission::of([&name]), async move |client| {
            let topic = topic(feed, &name)?;
            client.subscribe(topic.clone()).await?;
            let undo: Undo = Box::new(move || {
                if let Ok(runtime) = runtime() {
                    // A failure cannot be reported to anyone.
                    runtime.spawn(async move { client.unsubscribe(topic).await });
                }
            });
            Ok(Reply {
                value: Value::Text("null".into()),
                undo: Some(undo),
            })
        })
    }

    #[napi(catch_unwind)]
    pub fn unsubscribe(&self, call: f64, feed: u32, name: String) -> napi::Result<()> {
        self.call(call, Admission::Always, async move |client| {
            client.unsubscribe(topic(feed, &name)?).await?;
            Ok("null".to_owned())
        })
    }

    #[napi(catch_unwind)]
    pub fn start_reaper(&self, call: f64) -> napi::Result<()> {
        self.call(call, Admission::Bounded(0), async move |client| {
            client.start_reaper().map(|()| "null".to_owned())
        })
    }

    #[napi(catch_unwind)]
    pub fn reap_once(&self, call: f64) -> napi::Result<()> {
        self.call(call, Admission::Bounded(0), async move |client| {
            let (sweep, took) = client.reap_once().await?;
            Ok(format!(
                r#"{{"rooms":{},"expired":{},"durationMs":{}}}"#,
                sweep.rooms,
                sweep.expired,
                took.as_secs_f64() * 1_000.0
            ))
        })
    }

    #[napi(catch_unwind)]
    pub fn close(&self, call: f64) -> napi::Result<()> {
        let core = self.core.clone();
        let calls = self.calls.clone();
        let inbox = self.inbox.clone();
        self.spawn(call, None, async move {
            calls.close();
            calls.wait().await;
            if let Some(client) = core.get() {
                client.close().await;
            }
            logging::remove_logger(&inbox);
            Ok("null".to_owned())
        })
    }

    /// The metrics as JSON text; empty before the client is connected.
    #[napi(catch_unwind)]
    pub fn metrics(&self) -> napi::Result<String> {
        panic_point!(CallPanic);
        match self.core.get() {
            None => Ok("{}".into()),
            Some(client) => serde_json::to_string(&client.metrics())
                .map_err(|error| napi::Error::from_reason(error.to_string())),
        }
    }

    /// Passes on everything that has arrived. Settled heartbeats are written into `out`: their
    /// number, 1 if there is more to drain (JavaScript must then call `drain` again), and three
    /// numbers for each. These are the ticket; 0 for unchanged, 1 for changed, -1 for failed; and
    /// the epoch, or the number of the error (see `takeErrors`). The rest is returned as JSON text,
    /// `[calls, notices, events]` (see `inbox.rs`); `null` if there is none.
    #[napi(catch_unwind)]
    pub fn drain(&self, mut out: Float64ArraySlice<'_>) -> Option<String> {
        // SAFETY: this runs on the JavaScript thread, and JavaScript is not called while the slice
        // exists. The façade owns the array and does not share it with a worker.
        self.inbox.drain(unsafe { out.as_mut() })
    }

    /// The errors that the last `drain` numbered, as a JSON array.
    #[napi(catch_unwind)]
    pub fn take_errors(&self) -> String {
        self.inbox.take_errors()
    }

    /// Call when JavaScript has what the last `drain` returned.
    #[napi(catch_unwind)]
    pub fn taken(&self) {
        self.inbox.taken();
    }

    /// Call before `taken` if no caller waits for the answer to this call. The answer's undo
    /// function runs.
    #[napi(catch_unwind)]
    pub fn unwanted(&self, call: f64) {
        self.inbox.unwanted(call);
    }

    /// Call when the result of the last `drain` could not be processed, or when `drain` failed.
    /// Returns the numbers of the calls whose answers are given up; `drain` must then be called
    /// again. `null`: it need not be.
    #[napi(catch_unwind)]
    pub fn drain_failed(&self) -> Option<Vec<f64>> {
        self.inbox.failed()
    }

    pub(super) fn client(&self) -> Result<&Arc<Client>> {
        self.core.get().ok_or_else(Error::closed)
    }

    /// The client, and the registration of the call, unless the call is refused.
    fn admitted(&self, admission: Admission) -> Result<(&Arc<Client>, Call)> {
        let client = self.client()?;
        Ok((client, admission.admit(client.in_flight())?))
    }

    pub(super) fn call<F, R>(
        &self,
        number: f64,
        admission: Admission,
        work: impl FnOnce(Arc<Client>) -> F,
    ) -> napi::Result<()>
    where
        F: Future<Output = Result<R>> + Send + 'static,
        R: Into<Reply>,
    {
        self.call_in_order(number, admission, |client| Ok(work(client.clone())))
    }

    /// For calls whose order matters. `begin` runs at once, on this thread, because the runtime may
    /// start tasks in another order.
    pub(super) fn call_in_order<F, R>(
        &self,
        number: f64,
        admission: Admission,
        begin: impl FnOnce(&Arc<Client>) -> Result<F>,
    ) -> napi::Result<()>
    where
        F: Future<Output = Result<R>> + Send + 'static,
        R: Into<Reply>,
    {
        let begun = self
            .admitted(admission)
            .and_then(|(client, call)| Ok((begin(client)?, call)));
        let (begun, call) = match begun {
            Ok((work, call)) => (Ok(work), Some(call)),
            Err(error) => (Err(error), None),
        };
        let counted = self.calls.token();
        self.spawn(number, call, async move {
            let result = begun?.await;
            drop(counted);
            result
        })
    }

    /// Like [`NativeClient::call_in_order`], for calls that may take any time. The first step runs
    /// at once, on this thread, so that the calls reach the store in the order in which they were
    /// made. A close does not wait for them but ends them.
    pub(super) fn call_at_once<F>(
        &self,
        number: f64,
        admission: Admission,
        work: impl FnOnce(Arc<Client>) -> F + Send + 'static,
    ) -> napi::Result<()>
    where
        F: Future<Output = Result<Reply>> + Send,
    {
        panic_point!(CallPanic);
        let (client, call) = match self.admitted(admission) {
            Ok((client, call)) => (client.clone(), call),
            Err(error) => {
                self.inbox.answer(number, Err(error), None);
                return Ok(());
            }
        };
        let mut work = Box::pin(guarded(async move { work(client).await }));
        let first = {
            let _in_runtime = runtime()?.enter();
            work.as_mut().now_or_never()
        };
        match first {
            Some(result) => self.inbox.answer(number, result, Some(call)),
            None => {
                let inbox = self.inbox.clone();
                runtime()?.spawn(async move {
                    inbox.answer(number, work.await, Some(call));
                });
            }
        }
        Ok(())
    }

    /// Runs a call and puts its result into the inbox.
    fn spawn<R: Into<Reply>>(
        &self,
        number: f64,
        call: Option<Call>,
        work: impl Future<Output = Result<R>> + Send + 'static,
    ) -> napi::Result<()> {
        panic_point!(CallPanic);
        let inbox = self.inbox.clone();
        runtime()?.spawn(async move {
            let result = guarded(work).await;
            inbox.answer(number, result.map(Into::into), call);
        });
        Ok(())
    }
}

/// Passes pieces to JavaScript as fast as it takes them.
fn pieces(
    number: f64,
    inbox: Arc<Inbox>,
    in_flight: Arc<InFlight>,
) -> impl Fn(MemberPiece) -> BoxFuture<'static, ()> + Send + Sync {
    move |piece| {
        let (inbox, in_flight) = (inbox.clone(), in_flight.clone());
        Box::pin(async move {
            // It fails if the client has been dropped.
            if let Ok(room) = in_flight.piece(piece.bytes).await {
                inbox.piece(number, piece.columns, room);
            }
        })
    }
}

/// Runs the work. A panic becomes an error.
async fn guarded<R>(work: impl Future<Output = Result<R>>) -> Result<R> {
    let work = async {
        panic_point!(TaskPanic);
        work.await
    };
    if failpoint!(Panics) {
        return work.await;
    }
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Err(Error::panicked(&*panic)))
}

impl Drop for NativeClient {
    /// The JavaScript object or its environment has gone. Its resources are released in the
    /// background.
    fn drop(&mut self) {
        if failpoint!(Ending) {
            std::mem::forget((self.core.clone(), self.inbox.clone()));
            return;
        }
        self.inbox.abandon();
        if let (Some(client), Ok(runtime)) = (self.core.get().cloned(), runtime()) {
            runtime.spawn(async move { client.close().await });
        }
    }
}

fn topic(feed: u32, name: &str) -> Result<Topic> {
    let feed = Feed::ALL
        .get(feed as usize)
        .ok_or_else(|| Error::internal(format!("there is no feed {feed}")))?;
    feed.topic(name)
        .ok_or_else(|| Error::internal(format!("{name:?} names nothing of feed {}", feed.number())))
}

/// The distinct rooms of a user's connections.
fn rooms_json(connections: &[Member]) -> String {
    let rooms: std::collections::BTreeSet<&str> = connections
        .iter()
        .map(|member| member.room.as_str())
        .collect();
    let quoted: Vec<String> = rooms.into_iter().map(quote).collect();
    format!("[{}]", quoted.join(","))
}
