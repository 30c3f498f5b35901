//! The methods of `NativeClient` for locks. The façade identifies a lock by a number.

use super::{
    client::{Admission, NativeClient},
    inbox::{Reply, Undo, Value},
    runtime,
};
use crate::{
    client::Client,
    lock::{AcquireRequest, MAX_MS, clock_ms},
    model::json::quote,
};
use napi_derive::napi;
use tokio::time::Instant;

#[napi]
impl NativeClient {
    /// Acquires lock `number`. Times are in ms. Answers `[fencing token, end of the lease]`. The
    /// lock is certainly held until the latter, a time of `lockClock`.
    #[napi(catch_unwind)]
    #[allow(
        clippy::too_many_arguments,
        reason = "an object would be converted property by property"
    )]
    pub fn lock_acquire(
        &self,
        call: f64,
        number: f64,
        name: String,
        owner: String,
        ttl_ms: f64,
        wait_ms: f64,
        renew: bool,
    ) -> napi::Result<()> {
        let request = AcquireRequest {
            number: number as u64,
            name: name.into(),
            owner: owner.into(),
            ttl_ms: ttl_ms as u64,
            since: Instant::now(),
            wait_ms: wait_ms.min(MAX_MS as f64) as u64,
            renew,
        };
        let admission = Admission::Bounded(request.name.len() + request.owner.len());
        self.call_at_once(call, admission, async move |client| {
            let number = request.number;
            let grant = client
                .locks(async |locks| locks.acquire(request).await)
                .await?;
            let undo: Undo = Box::new(move || abandon(&client, number));
            Ok(Reply {
                value: Value::Text(format!("[{},{}]", grant.token, clock_ms(grant.until))),
                undo: Some(undo),
            })
        })
    }

    /// Lock `number` is no longer wanted. It leaves the queue, or is released.
    #[napi(catch_unwind)]
    pub fn lock_abandon(&self, number: f64) {
        if let Ok(client) = self.client() {
            abandon(client, number as u64);
        }
    }

    /// Extends lock `number`. A TTL of 0 keeps the current TTL. Answers the end of the lease, as
    /// `lockAcquire` does.
    #[napi(catch_unwind)]
    pub fn lock_extend(&self, call: f64, number: f64, ttl_ms: f64) -> napi::Result<()> {
        let ttl_ms = (ttl_ms > 0.0).then_some(ttl_ms as u64);
        self.call(call, Admission::Bounded(0), async move |client| {
            let grant = client
                .locks(async |locks| locks.extend(number as u64, ttl_ms).await)
                .await?;
            Ok(clock_ms(grant.until).to_string())
        })
    }

    #[napi(catch_unwind)]
    pub fn lock_release(&self, call: f64, number: f64) -> napi::Result<()> {
        self.call(call, Admission::Always, async move |client| {
            client
                .locks(async |locks| locks.release(number as u64).await)
                .await?;
            Ok("null".to_owned())
        })
    }

    #[napi(catch_unwind)]
    pub fn lock_inspect(&self, call: f64, name: String) -> napi::Result<()> {
        self.call(call, Admission::Bounded(name.len()), async move |client| {
            let found = client
                .locks(async |locks| locks.inspect(&name).await)
                .await?;
            Ok(found.map_or_else(
                || "null".into(),
                |found| {
                    format!(
                        r#"{{"name":{},"ownerId":{},"fencingToken":{},"ttlMs":{},"waiters":{}}}"#,
                        quote(&name),
                        quote(&found.owner),
                        number_json(found.token),
                        number_json(found.ttl_left_ms),
                        found.waiters
                    )
                },
            ))
        })
    }

    #[napi(catch_unwind)]
    pub fn lock_revoke(&self, call: f64, name: String) -> napi::Result<()> {
        self.call(call, Admission::Bounded(name.len()), async move |client| {
            let revoked = client
                .locks(async |locks| locks.revoke(&name).await)
                .await?;
            Ok(revoked.map_or_else(
                || "null".into(),
                |revoked| {
                    format!(
                        r#"{{"ownerId":{},"fencingToken":{}}}"#,
                        quote(&revoked.owner),
                        number_json(revoked.token)
                    )
                },
            ))
        })
    }

    /// The time of `lockClock` until which lock `number` is certainly held; negative if it is not
    /// held. Once this was negative, it stays negative.
    #[napi(catch_unwind)]
    pub fn lock_ends(&self, number: f64) -> f64 {
        self.client()
            .map_or(-1.0, |client| client.leases().lease_ends(number as u64))
    }

    /// The core's monotonic clock, in ms.
    #[napi(catch_unwind)]
    pub fn lock_clock(&self) -> f64 {
        clock_ms(Instant::now())
    }
}

fn abandon(client: &Client, number: u64) {
    if let Ok(runtime) = runtime() {
        let _in_runtime = runtime.enter();
        client.leases().abandon(number);
    }
}

fn number_json(number: Option<u64>) -> String {
    number.map_or_else(|| "null".into(), |number| number.to_string())
}
