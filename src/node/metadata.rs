//! The metadata methods of `NativeClient`.

use super::client::{Admission, NativeClient};
use crate::model::{
    error::Error,
    metadata::{Channel, Operation, change::Change},
};
use napi_derive::napi;

#[napi]
impl NativeClient {
    /// Changes a channel's metadata. `operation` is its name in events. `request` is the JSON text
    /// of an object (see `Change::parse`).
    #[napi(catch_unwind)]
    pub fn metadata_change(
        &self,
        call: f64,
        operation: String,
        channel_type: String,
        channel_name: String,
        request: String,
    ) -> napi::Result<()> {
        let admission = Admission::Bounded(request.len());
        self.call_in_order(call, admission, |client| {
            let operation = Operation::read(&operation)
                .ok_or_else(|| Error::internal(format!("there is no operation {operation:?}")))?;
            let change = Change::parse(operation, &request, client.limits())?;
            client.change_metadata(Channel::new(&channel_type, &channel_name), change)
        })
    }

    #[napi(catch_unwind)]
    pub fn metadata_get(
        &self,
        call: f64,
        channel_type: String,
        channel_name: String,
    ) -> napi::Result<()> {
        let admission = Admission::Bounded(channel_name.len());
        self.call(call, admission, async move |client| {
            client
                .metadata(&Channel::new(&channel_type, &channel_name))
                .await
        })
    }
}
