//! The methods of `NativeClient` for `liveness: "node"`.

use super::client::{Admission, NativeClient};
use napi_derive::napi;

#[napi]
impl NativeClient {
    /// The time of `lockClock` until which this node certainly holds its lease; negative if it does
    /// not, and as long as JavaScript has not received the notice that it lost one. The call shows
    /// that the JavaScript thread runs.
    #[napi(catch_unwind)]
    pub fn node_lease(&self) -> f64 {
        let ends = self.client().map_or(-1.0, |client| client.node_lease());
        if self.inbox.has_lease_loss() {
            -1.0
        } else {
            ends
        }
    }

    /// Ends a connection that has been idle for too long, if this node owns it with this epoch.
    #[napi(catch_unwind)]
    pub fn leave_idle(&self, call: f64, conn: String, epoch: f64) -> napi::Result<()> {
        let admission = Admission::of([&conn]);
        self.call(call, admission, async move |client| {
            client.leave_idle(&conn, epoch as u64).await?;
            Ok("null".to_owned())
        })
    }
}
