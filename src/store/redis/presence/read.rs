//! Reads connections of rooms, with their states.

use crate::{
    model::{
        codec,
        error::{Error, Result},
        state::State,
    },
    offload::offload,
    store::{
        Stored,
        redis::{
            presence::{
                rooms::Rooms,
                states::{BRIEF, FIELDS, Found},
            },
            scripts,
            transport::{errors, link::Repeat},
        },
    },
};
use redis::{Pipeline, Value};

impl Rooms {
    /// Reads connections of rooms. Returns one result for each, in order; `None` for those that do
    /// not exist. The room is only used on `slotted`. A key of another type fails with
    /// `CORRUPT_DATA`.
    pub(in crate::store::redis) async fn read_connections(
        &self,
        pairs: &[(impl AsRef<str>, impl AsRef<str>)],
    ) -> Vec<Result<Option<Found>>> {
        if self.states.are_separate() {
            return self.read_with_keys(pairs).await;
        }
        let mut found = self.read_hashes(pairs, &FIELDS, Found::read).await;
        let separate: Vec<usize> = (0..found.len())
            .filter(|&i| matches!(&found[i], Ok(Some(found)) if found.separate))
            .collect();
        if !separate.is_empty() {
            let separate_pairs = picked(pairs, &separate);
            let again = self.read_with_keys(&separate_pairs).await;
            for (i, again) in separate.into_iter().zip(again) {
                found[i] = again;
            }
        }
        found
    }

    /// Like [`Rooms::read_connections`], with the decoded states. The fields about the state's
    /// encoding are only read for states that are not JSON objects as stored. Once a state with
    /// another encoding was found, they are read for all connections, because more of them are
    /// likely.
    pub(in crate::store::redis) async fn read_states(
        &self,
        pairs: &[(impl AsRef<str>, String)],
    ) -> Vec<Result<Option<(Found, Option<State>)>>> {
        if self.states.may_be_stored_otherwise() {
            let found = self.read_connections(pairs).await;
            let conns = pairs.iter().map(|(_, conn)| conn.as_str());
            return self.with_states(found, conns).await;
        }
        let found = self
            .read_hashes(pairs, &FIELDS[..BRIEF], Found::read_brief)
            .await;
        let max_depth = self.states.reader.bounds.depth;
        let as_it_is = move |found: Found| {
            let bytes = found.state.as_deref();
            let state = bytes.and_then(|bytes| codec::as_it_is(bytes, max_depth).ok());
            (found, state)
        };
        let mut read: Vec<_> = offload(bytes_of(&found), move || {
            let found = found.into_iter();
            found.map(|found| Ok(found?.map(as_it_is))).collect()
        })
        .await;
        let unclear: Vec<usize> = (0..read.len())
            .filter(|&i| matches!(&read[i], Ok(Some((_, None)))))
            .collect();
        if !unclear.is_empty() {
            let again = self.read_connections(&picked(pairs, &unclear)).await;
            let conns = unclear.iter().map(|&i| pairs[i].1.as_str());
            let again = self.with_states(again, conns).await;
            for (i, again) in unclear.into_iter().zip(again) {
                read[i] = again;
            }
        }
        read
    }

    /// Decodes the states of connections.
    async fn with_states(
        &self,
        found: Vec<Result<Option<Found>>>,
        conns: impl Iterator<Item = &str>,
    ) -> Vec<Result<Option<(Found, Option<State>)>>> {
        let reader = self.states.reader.clone();
        let read = move |found: Found| {
            let state = reader.read(&found);
            (found, state)
        };
        let read: Vec<Result<Option<_>>> = offload(bytes_of(&found), move || {
            let found = found.into_iter();
            found.map(|found| Ok(found?.map(&read))).collect()
        })
        .await;
        let display = |conn: &str, (found, state): (Found, _)| {
            let state = self.states.display(conn, &found, state);
            (found, state)
        };
        read.into_iter()
            .zip(conns)
            .map(|(read, conn)| Ok(read?.map(|read| display(conn, read))))
            .collect()
    }

    /// Reads fields of the hashes of connections.
    async fn read_hashes(
        &self,
        pairs: &[(impl AsRef<str>, impl AsRef<str>)],
        fields: &[&str],
        read: impl Fn(Value) -> Result<Option<Found>>,
    ) -> Vec<Result<Option<Found>>> {
        let mut pipeline = Pipeline::with_capacity(pairs.len());
        for (room, conn) in pairs {
            pipeline
                .cmd("HMGET")
                .arg(self.keys.conn(room.as_ref(), conn.as_ref()))
                .arg(fields);
        }
        let answers = self
            .scripts
            .commands
            .pipeline_each(&pipeline, Repeat::Harmless)
            .await;
        let read = |answer: Result<Value>| answer.and_then(&read);
        answers.into_iter().map(read).collect()
    }

    /// Reads the hashes and the keys of states in one atomic step. A hash that is older or newer
    /// than the state could name another compression.
    async fn read_with_keys(
        &self,
        pairs: &[(impl AsRef<str>, impl AsRef<str>)],
    ) -> Vec<Result<Option<Found>>> {
        if self.scripts.commands.is_cluster() {
            return self.read_by_script(pairs).await;
        }
        match self.read_by_transaction(pairs).await {
            Ok(found) => found,
            Err(error) => pairs.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn read_by_transaction(
        &self,
        pairs: &[(impl AsRef<str>, impl AsRef<str>)],
    ) -> Result<Vec<Result<Option<Found>>>> {
        let mut pipeline = Pipeline::with_capacity(2 * pairs.len() + 2);
        pipeline.cmd("MULTI");
        for (room, conn) in pairs {
            let (room, conn) = (room.as_ref(), conn.as_ref());
            pipeline
                .cmd("HMGET")
                .arg(self.keys.conn(room, conn))
                .arg(&FIELDS);
            pipeline.cmd("GET").arg(self.keys.conn_state(room, conn));
        }
        pipeline.cmd("EXEC");
        let mut answers = self
            .scripts
            .commands
            .pipeline(&pipeline, Repeat::Harmless)
            .await?;
        let done = answers.pop().unwrap_or(Value::Nil);
        let answers = match done {
            // The answers may include errors of single commands.
            Value::Array(answers) => answers,
            // The user lacks permission for transactions, so the commands were answered one by one.
            _ if matches!(answers.first(), Some(Value::ServerError(_))) => answers.split_off(1),
            other => {
                let error = other
                    .extract_error()
                    .err()
                    .map(|error| errors::request(&error));
                return Err(error.unwrap_or_else(|| Error::internal("EXEC answered nothing")));
            }
        };
        let mut answers = answers.into_iter();
        let mut found = Vec::with_capacity(pairs.len());
        while let (Some(hash), Some(state)) = (answers.next(), answers.next()) {
            found.push(Found::read_both(hash, state));
        }
        Ok(found)
    }

    /// The same on a cluster. The connections are in many slots, and a transaction cannot follow
    /// `ASK` redirections, so each connection is read by one script call.
    async fn read_by_script(
        &self,
        pairs: &[(impl AsRef<str>, impl AsRef<str>)],
    ) -> Vec<Result<Option<Found>>> {
        let calls = pairs
            .iter()
            .map(|(room, conn)| {
                let (room, conn) = (room.as_ref(), conn.as_ref());
                let mut call = scripts::CONN_READ.call(2);
                call.arg(self.keys.conn(room, conn))
                    .arg(self.keys.conn_state(room, conn))
                    .arg(&FIELDS);
                call
            })
            .collect();
        let answers = self
            .scripts
            .call_all(&scripts::CONN_READ, calls, Repeat::Harmless)
            .await;
        let read = |answer: Result<Value>| match answer? {
            Value::Array(mut parts) if parts.len() == 2 => {
                let state = parts.pop().unwrap_or(Value::Nil);
                Found::read_both(parts.pop().unwrap_or(Value::Nil), state)
            }
            other => Err(Error::internal(format!("conn_read answered {other:?}"))),
        };
        answers.into_iter().map(read).collect()
    }

    pub(in crate::store::redis) fn stored_state(&self, found: Found) -> Stored {
        self.states.stored(
            found.state.unwrap_or_default(),
            found.compressed.as_deref().unwrap_or_default(),
            found.separate,
            found.revision,
        )
    }
}

/// The bytes of states in what was read.
fn bytes_of(found: &[Result<Option<Found>>]) -> usize {
    let found = found
        .iter()
        .filter_map(|found| found.as_ref().ok()?.as_ref());
    found
        .map(|found| found.state.as_ref().map_or(0, Vec::len))
        .sum()
}

fn picked<'a>(
    pairs: &'a [(impl AsRef<str>, impl AsRef<str>)],
    which: &[usize],
) -> Vec<(&'a str, &'a str)> {
    let pair = |&i: &usize| (pairs[i].0.as_ref(), pairs[i].1.as_ref());
    which.iter().map(pair).collect()
}
