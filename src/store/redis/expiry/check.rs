//! Checks of a shard: whether the indices of each of its rooms agree and, if something may have
//! been lost, whether its users' indices agree with them. Rooms whose indices differ are repaired
//! (`repair.rs`).

use super::integers;
use crate::{
    failpoints::failpoint,
    keys::RoomKeys,
    model::{error::Result, presence::Sweep},
    store::redis::{
        expiry::fingerprint::ServerFingerprint,
        presence::{rooms::Meta, v1::V1},
        scripts,
        transport::{
            info::info_field,
            link::Repeat,
            scan::{self, END, PAGE},
        },
    },
};
use redis::Pipeline;
use std::collections::BTreeMap;

/// Number of rooms whose users are checked together.
const ROOMS_ASKED: usize = 64;

/// A page of a room's `conn_meta`: the index of the room, then connection ids and their metadata
/// alternately.
type PageOf = (usize, Vec<String>);

/// Scores from here on belong to marks, not to rooms (`lua/include/marks.lua`).
const MARKS: f64 = 4_503_599_627_370_496.0;

/// One of this many checks of a shard checks the users' indices without a reason.
pub(super) const USERS_EVERY: u64 = 4;

impl V1 {
    /// Checks every room of a shard, and repairs those that need it. `users`: check the users'
    /// indices in any case.
    pub(super) async fn check_shard(
        &self,
        shard: usize,
        users: bool,
        shard_key: &str,
        ttl_ms: u64,
        sweep: &mut Sweep,
    ) -> Result<()> {
        let fingerprint = self.fingerprint().await;
        let users = users || fingerprint.is_none_or(|now| self.checks.is_suspected(shard, now));
        let mut cursor = END.to_vec();
        loop {
            let (next, members) = self
                .rooms
                .scripts
                .commands
                .scan("ZSCAN", shard_key, &cursor)
                .await?;
            // ZSCAN returns members and scores alternately. Some of the members are marks.
            let rooms: Vec<&String> = members
                .chunks_exact(2)
                .filter(|entry| entry[1].parse().is_ok_and(|score: f64| score < MARKS))
                .map(|entry| &entry[0])
                .collect();
            for rooms in rooms.chunks(ROOMS_ASKED) {
                for room in self.differing(rooms, users).await? {
                    self.rooms.try_repair(room, ttl_ms, sweep).await?;
                }
            }
            cursor = next;
            if cursor == END {
                break;
            }
        }
        if let (true, Some(then)) = (users, fingerprint) {
            self.checks.asked(shard, then);
        }
        Ok(())
    }

    /// `None` if the server does not return the values.
    async fn fingerprint(&self) -> Option<ServerFingerprint> {
        let info = redis::cmd("INFO").arg("stats").to_owned();
        let info = self
            .rooms
            .scripts
            .commands
            .command(&info, Repeat::Harmless)
            .await
            .ok()?;
        let info: String = redis::from_redis_value(info).ok()?;
        Some(ServerFingerprint {
            evicted: info_field(&info, "evicted_keys")?.parse().ok()?,
            connections: self.rooms.scripts.commands.connections(),
        })
    }

    /// Returns the rooms whose keys do not agree.
    async fn differing<'a>(&self, rooms: &[&'a String], users: bool) -> Result<Vec<&'a String>> {
        if failpoint!(Checks) {
            return Ok(Vec::new());
        }
        let of_rooms: Vec<RoomKeys> = rooms
            .iter()
            .map(|room| self.rooms.keys.room(room))
            .collect();
        let mut call = scripts::v1::CHECK_ROOMS.call(1 + 4 * rooms.len());
        call.arg(self.rooms.keys.active_rooms());
        for keys in &of_rooms {
            call.arg(&keys.conns)
                .arg(&keys.members)
                .arg(&keys.last_seen)
                .arg(&keys.conn_meta);
        }
        for room in rooms {
            call.arg(room);
        }
        let value = self
            .rooms
            .scripts
            .call(&scripts::v1::CHECK_ROOMS, &call, Repeat::Harmless)
            .await?;
        let mut differ = vec![false; rooms.len()];
        for index in integers(value)? {
            differ[index.unsigned_abs() as usize] = true;
        }
        if users {
            self.ask_users(rooms, &of_rooms, &mut differ).await?;
        }
        let differing = rooms.iter().zip(differ).filter(|(_, differs)| *differs);
        Ok(differing.map(|(room, _)| *room).collect())
    }

    /// Checks that the users' indices contain the rooms' connections, and that the rooms' members
    /// contain the users. Sets `differ` for rooms where that is not so.
    async fn ask_users(
        &self,
        rooms: &[&String],
        keys: &[RoomKeys],
        differ: &mut [bool],
    ) -> Result<()> {
        let mut open: Vec<(usize, Vec<u8>)> = (0..rooms.len())
            .filter(|&at| !differ[at])
            .map(|at| (at, END.to_vec()))
            .collect();
        while !open.is_empty() {
            let mut scans = Pipeline::with_capacity(open.len());
            for (at, cursor) in &open {
                scans.add_command(scan::command("HSCAN", &keys[*at].conn_meta, cursor));
            }
            let pages = self
                .rooms
                .scripts
                .commands
                .pipeline(&scans, Repeat::Harmless)
                .await?;
            let mut asks = Vec::new();
            let mut more = Vec::new();
            for ((at, _), answer) in open.into_iter().zip(pages) {
                // If a page cannot be read, repair fails with the same error and reports it.
                let Ok((next, entries)) = scan::page(answer) else {
                    differ[at] = true;
                    continue;
                };
                asks.push((at, entries));
                if next != END {
                    more.push((at, next));
                }
            }
            let mut connections = 0;
            let in_one_call = |(_, before): &PageOf, (_, entries): &PageOf| {
                connections += before.len() / 2;
                let fits = connections + entries.len() / 2 <= PAGE;
                connections *= usize::from(fits);
                fits
            };
            for asks in asks.chunk_by(in_one_call) {
                let value = self
                    .rooms
                    .scripts
                    .call(
                        &scripts::v1::CHECK_USERS,
                        &self.users_call(rooms, keys, asks),
                        Repeat::Harmless,
                    )
                    .await?;
                for index in integers(value)? {
                    differ[asks[index.unsigned_abs() as usize].0] = true;
                }
            }
            more.retain(|&(at, _)| !differ[at]);
            open = more;
        }
        Ok(())
    }

    /// The call that checks the users of pages of `conn_meta`.
    fn users_call(&self, rooms: &[&String], keys: &[RoomKeys], pages: &[PageOf]) -> redis::Cmd {
        let of_users: Vec<_> = pages.iter().map(|(_, entries)| by_user(entries)).collect();
        let count: usize = of_users.iter().map(BTreeMap::len).sum();
        let mut call = scripts::v1::CHECK_USERS.call(pages.len() + 2 * count);
        for ((at, _), users) in pages.iter().zip(&of_users) {
            call.arg(&keys[*at].members);
            for user in users.keys() {
                call.arg(self.rooms.keys.user_conns(user))
                    .arg(self.rooms.keys.user_rooms(user));
            }
        }
        for ((at, _), users) in pages.iter().zip(&of_users) {
            call.arg(rooms[*at]).arg(users.len());
            for (user, conns) in users {
                call.arg(user).arg(conns.len()).arg(conns);
            }
        }
        call
    }
}

/// The users on a page of `conn_meta`, with their connections.
fn by_user(entries: &[String]) -> BTreeMap<String, Vec<&str>> {
    let mut of_users: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for entry in entries.chunks_exact(2) {
        let Meta { user, .. } = Meta::parse(entry[1].as_bytes());
        if !user.is_empty() {
            of_users.entry(user).or_default().push(&entry[0]);
        }
    }
    of_users
}
