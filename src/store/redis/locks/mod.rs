//! Locks: `lock_*.lua`.

pub mod ends;

use crate::{
    keys::Keys,
    model::{
        error::{Error, Result},
        json::quote,
        lock::{FencingToken, Inspection},
    },
    store::{
        lock::{
            Claim, Due, DueLook, Holds, LockCall, LockStore, Revoked, TOKEN_KEPT_MS, Take, Taken,
            Token,
        },
        redis::{
            presence::fields::unknown_code,
            scripts::{self, Reply, Script, ScriptClient},
            transport::link::Repeat,
        },
    },
};
use ends::Ends;
use futures_util::future::BoxFuture;
use redis::{Cmd, RedisError};
use std::{sync::Arc, time::Duration};

/// Maximum number of locks that one read of the index returns.
const MAX_DUE: usize = 256;
/// Maximum number of attempts to revoke a lock that was not written by Rollcall and whose owner
/// changes in between.
const MAX_OWNERS: usize = 16;

/// The locks of a server or a cluster.
pub(in crate::store::redis) struct Locks {
    pub keys: Keys,
    pub scripts: Arc<ScriptClient>,
    /// The channel on which this node is notified of changes of its claims.
    pub wake_channel: Box<str>,
    pub ends: Box<dyn Ends>,
}

impl Locks {
    /// A call with all keys of a lock, its name, and its name as JSON.
    fn lock_call(&self, script: &Script, name: &str) -> Cmd {
        let mut keys = vec![
            self.keys.lock(name),
            self.keys.lock_token(name),
            self.keys.lock_holder(name),
            self.keys.lock_queue(name),
            self.keys.lock_living(name),
            self.keys.lock_events(name),
        ];
        keys.extend(self.ends.index_key());
        let mut call = script.call_with(&keys);
        call.arg(name).arg(quote(name));
        call
    }

    async fn do_lock_take(&self, claim: &Claim, take: &Take) -> Result<Taken> {
        let mut call = self.lock_call(&scripts::LOCK_ACQUIRE, &claim.name);
        call.arg(&*claim.proof).arg(&*claim.owner);
        call.arg(if claim.emits_events {
            quote(&claim.owner)
        } else {
            String::new()
        });
        call.arg(take.ttl_ms);
        match take.token {
            Token::Next => call.arg("next"),
            Token::Ask => call.arg("ask"),
            Token::Agreed(token) => call.arg(token),
        };
        let (lease, place) = match take.wait {
            None => (0, None),
            Some(wait) => (wait.lease.as_millis() as u64, wait.place),
        };
        call.arg(TOKEN_KEPT_MS)
            .arg(claim.number)
            .arg(&*self.wake_channel)
            .arg(lease)
            .arg(place.map_or_else(String::new, |place| place.to_string()));
        let value = self
            .ends
            .call(&scripts::LOCK_ACQUIRE, call, &claim.name, take.ttl_ms)
            .await?;
        scripts::read(value, |reply| {
            Ok(match reply.integer()? {
                scripts::lock_acquire::GRANTED => Taken::Granted {
                    token: token(reply)?,
                    stored: token(reply)?,
                },
                scripts::lock_acquire::WAITING => Taken::Waiting {
                    place: token(reply)?,
                    look_again: millis(reply.integer()?),
                    known: reply.integer()? == 1,
                },
                scripts::lock_acquire::HELD => Taken::Held {
                    owner: some(reply.text()?),
                    ttl_left_ms: u64::try_from(reply.integer()?).ok(),
                    stored: token(reply)?,
                    waiters: token(reply)?,
                },
                code => return Err(unknown_code("lock_acquire", code)),
            })
        })
    }

    async fn do_lock_extend(&self, claim: &Claim, ttl_ms: u64) -> Result<Holds> {
        let mut call = self.lock_call(&scripts::LOCK_EXTEND, &claim.name);
        call.arg(&*claim.proof).arg(ttl_ms).arg(TOKEN_KEPT_MS);
        let value = self
            .ends
            .call(&scripts::LOCK_EXTEND, call, &claim.name, ttl_ms)
            .await?;
        scripts::read(value, |reply| {
            Ok(match reply.integer()? {
                scripts::lock_extend::EXTENDED => Holds::Yes,
                scripts::lock_extend::NOT_HELD => Holds::No(some(reply.text()?)),
                code => return Err(unknown_code("lock_extend", code)),
            })
        })
    }

    /// Not repeated: the second answer would say that the claim does not hold the lock.
    async fn do_lock_release(&self, claim: &Claim, token: FencingToken) -> Result<Holds> {
        let mut call = self.lock_call(&scripts::LOCK_RELEASE, &claim.name);
        call.arg(&*claim.proof)
            .arg(claim.number)
            .arg(&*self.wake_channel)
            .arg(token)
            .arg(TOKEN_KEPT_MS);
        let value = self
            .scripts
            .call(&scripts::LOCK_RELEASE, &call, Repeat::Never)
            .await?;
        scripts::read(value, |reply| {
            Ok(match reply.integer()? {
                scripts::lock_release::RELEASED => Holds::Yes,
                scripts::lock_release::NOT_HELD => Holds::No(some(reply.text()?)),
                code => return Err(unknown_code("lock_release", code)),
            })
        })
    }

    async fn do_lock_raise(
        &self,
        claim: &Claim,
        agreed: FencingToken,
    ) -> Result<Option<FencingToken>> {
        let mut call = scripts::LOCK_RAISE.call(3);
        call.arg(self.keys.lock(&claim.name))
            .arg(self.keys.lock_token(&claim.name))
            .arg(self.keys.lock_holder(&claim.name))
            .arg(&*claim.proof)
            .arg(agreed)
            .arg(TOKEN_KEPT_MS);
        let value = self
            .scripts
            .call(&scripts::LOCK_RAISE, &call, Repeat::Harmless)
            .await?;
        scripts::read(value, |reply| {
            Ok(match reply.integer()? {
                scripts::lock_raise::RAISED => None,
                scripts::lock_raise::NEWER => Some(token(reply)?),
                code => return Err(unknown_code("lock_raise", code)),
            })
        })
    }

    async fn do_lock_revoke(&self, name: &str) -> Result<Option<Revoked>> {
        let mut owner: Option<String> = None;
        for _ in 0..MAX_OWNERS {
            let mut call = self.lock_call(&scripts::LOCK_REVOKE, name);
            call.arg(owner.as_deref().map_or_else(String::new, quote))
                .arg(owner.as_deref().unwrap_or_default());
            let value = self
                .scripts
                .call(&scripts::LOCK_REVOKE, &call, Repeat::Never)
                .await?;
            let revoked = scripts::read(value, |reply| {
                Ok(match reply.integer()? {
                    scripts::lock_revoke::FREE => Some(None),
                    scripts::lock_revoke::REVOKED => {
                        let owner = reply.text()?;
                        let token = reply.text()?.parse().ok();
                        Some(Some(Revoked { owner, token }))
                    }
                    scripts::lock_revoke::FOREIGN => {
                        owner = Some(reply.text()?);
                        None
                    }
                    code => return Err(unknown_code("lock_revoke", code)),
                })
            })?;
            if let Some(revoked) = revoked {
                return Ok(revoked);
            }
        }
        Err(Error::internal(
            "the owner of a lock kept changing while it was revoked",
        ))
    }

    async fn do_lock_inspect(&self, name: &str) -> Result<Option<Inspection>> {
        let mut call = scripts::LOCK_INSPECT.call(3);
        call.arg(self.keys.lock(name))
            .arg(self.keys.lock_holder(name))
            .arg(self.keys.lock_queue(name));
        let value = self
            .scripts
            .call(&scripts::LOCK_INSPECT, &call, Repeat::Harmless)
            .await?;
        scripts::read(value, |reply| {
            Ok(match reply.integer()? {
                scripts::lock_inspect::FREE => None,
                scripts::lock_inspect::HELD => Some(Inspection {
                    owner: reply.text()?,
                    token: reply.text()?.parse().ok(),
                    ttl_left_ms: u64::try_from(reply.integer()?).ok(),
                    waiters: token(reply)?,
                }),
                code => return Err(unknown_code("lock_inspect", code)),
            })
        })
    }

    async fn do_lock_due(&self, look: DueLook) -> Result<Due> {
        let mut call = scripts::LOCK_DUE.call(1);
        call.arg(self.keys.lock_due())
            .arg(MAX_DUE)
            .arg(look.skip)
            .arg(u8::from(look.all));
        let value = self
            .scripts
            .call(&scripts::LOCK_DUE, &call, Repeat::Harmless)
            .await?;
        scripts::read(value, |reply| {
            let server_ms = Some(token(reply)?);
            let next = millis(reply.integer()?);
            let mut names: Vec<Arc<str>> = Vec::with_capacity(reply.left());
            while reply.left() > 0 {
                names.push(reply.text()?.into());
            }
            Ok(Due {
                names,
                next,
                server_ms,
            })
        })
    }

    async fn do_lock_settle(&self, names: &[Arc<str>]) -> Vec<Result<bool>> {
        let calls = names
            .iter()
            .map(|name| self.lock_call(&scripts::LOCK_SETTLE, name))
            .collect();
        let answers = self
            .scripts
            .call_all(&scripts::LOCK_SETTLE, calls, Repeat::Harmless)
            .await;
        let left: Vec<Result<i64>> = answers
            .into_iter()
            .map(|answer| scripts::read(answer?, |left| left.integer()))
            .collect();
        self.ends.settled(names, &left).await;
        left.into_iter()
            .map(|left| left.map(|left| left >= 0))
            .collect()
    }
}

impl LockStore for Locks {
    fn lock_take<'a>(&'a self, claim: &'a Claim, take: &'a Take) -> BoxFuture<'a, Result<Taken>> {
        Box::pin(self.do_lock_take(claim, take))
    }

    fn lock_extend<'a>(&'a self, claim: &'a Claim, ttl_ms: u64) -> BoxFuture<'a, Result<Holds>> {
        Box::pin(self.do_lock_extend(claim, ttl_ms))
    }

    fn lock_release<'a>(
        &'a self,
        claim: &'a Claim,
        token: FencingToken,
    ) -> BoxFuture<'a, Result<Holds>> {
        Box::pin(self.do_lock_release(claim, token))
    }

    fn lock_raise<'a>(
        &'a self,
        claim: &'a Claim,
        token: FencingToken,
    ) -> BoxFuture<'a, Result<Option<FencingToken>>> {
        Box::pin(self.do_lock_raise(claim, token))
    }

    fn lock_revoke<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Revoked>>> {
        Box::pin(self.do_lock_revoke(name))
    }

    fn lock_inspect<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Inspection>>> {
        Box::pin(self.do_lock_inspect(name))
    }

    fn lock_due(&self, look: DueLook) -> BoxFuture<'_, Result<Due>> {
        Box::pin(self.do_lock_due(look))
    }

    fn lock_settle<'a>(&'a self, names: &'a [Arc<str>]) -> BoxFuture<'a, Vec<Result<bool>>> {
        Box::pin(self.do_lock_settle(names))
    }

    fn reachable(&self) -> bool {
        self.scripts.commands.is_live()
    }
}

/// Parses a notification that the scripts publish for a node: `turn <number>` or `lost <number>`.
pub(in crate::store::redis) fn parse_call(payload: &str) -> Option<LockCall> {
    let (what, number) = payload.split_once(' ')?;
    let number = number.parse().ok()?;
    match what {
        "turn" => Some(LockCall::Turn(number)),
        "lost" => Some(LockCall::Lost(number)),
        _ => None,
    }
}

fn token(reply: &mut Reply) -> Result<FencingToken, RedisError> {
    reply.integer().map(|number| number.max(0).unsigned_abs())
}

fn millis(number: i64) -> Option<Duration> {
    u64::try_from(number).ok().map(Duration::from_millis)
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_understands_what_the_scripts_tell_it_and_nothing_else() {
        assert_eq!(parse_call("turn 12"), Some(LockCall::Turn(12)));
        assert_eq!(parse_call("lost 0"), Some(LockCall::Lost(0)));
        for bad in ["", "turn", "turn ", "turn x", "turn -1", "shrug 1"] {
            assert_eq!(parse_call(bad), None, "{bad}");
        }
    }
}
