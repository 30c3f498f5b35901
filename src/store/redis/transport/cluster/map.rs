//! The map of slots to masters.

use crate::{
    keys::SLOTS,
    model::error::{Error, Result},
    store::redis::transport::address::Address,
};
use redis::Value;
use std::collections::BTreeSet;

const NOBODY: u16 = u16::MAX;

/// A map of slots, as one server returned it and redirections corrected it.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// The highest configuration epoch that the server knew. A map with a lower epoch does not
    /// replace one with a higher epoch.
    pub epoch: u64,
    /// The ids of the servers in it, masters and replicas.
    pub ids: BTreeSet<Box<str>>,
    masters: Vec<Address>,
    /// For each slot, the index of its master in `masters`.
    owners: Vec<u16>,
}

impl Map {
    pub fn empty() -> Map {
        Map {
            epoch: 0,
            ids: BTreeSet::new(),
            masters: Vec::new(),
            owners: vec![NOBODY; usize::from(SLOTS)],
        }
    }

    pub fn owner(&self, slot: u16) -> Option<&Address> {
        self.masters
            .get(usize::from(*self.owners.get(usize::from(slot))?))
    }

    /// The masters that have slots, in order.
    pub fn masters(&self) -> &[Address] {
        &self.masters
    }

    /// The map with the correction from a redirection.
    pub fn with_owner(&self, slot: u16, owner: &Address) -> Map {
        let mut map = self.clone();
        let at = match map.masters.iter().position(|master| master == owner) {
            Some(at) => at,
            None => {
                map.masters.push(owner.clone());
                map.masters.len() - 1
            }
        };
        if let Some(place) = map.owners.get_mut(usize::from(slot)) {
            *place = at as u16;
        }
        map
    }

    /// Parses the answers to `CLUSTER INFO` and `CLUSTER SLOTS` of the server at `asked`.
    pub fn parse(info: Value, slots: Value, asked: &Address) -> Result<Map> {
        let unexpected = || Error::internal("CLUSTER SLOTS was answered in an unexpected form");
        let info: String = redis::from_redis_value(info).map_err(|_| unexpected())?;
        let mut map = Map::empty();
        map.epoch = info
            .lines()
            .find_map(|line| line.strip_prefix("cluster_current_epoch:"))
            .and_then(|epoch| epoch.trim().parse().ok())
            .unwrap_or(0);
        let Value::Array(ranges) = slots else {
            return Err(unexpected());
        };
        for range in ranges {
            let Value::Array(parts) = range else {
                return Err(unexpected());
            };
            let [Value::Int(first), Value::Int(last), servers @ ..] = &parts[..] else {
                return Err(unexpected());
            };
            let [Value::Array(master), ..] = servers else {
                return Err(unexpected());
            };
            map.ids.extend(servers.iter().filter_map(id_of));
            let [host, Value::Int(port), ..] = &master[..] else {
                return Err(unexpected());
            };
            let host = match host {
                Value::BulkString(host) => String::from_utf8_lossy(host).into_owned(),
                Value::SimpleString(host) => host.clone(),
                _ => String::new(),
            };
            let owner = Address {
                // A server that does not know its own name, or is configured not to announce it.
                // The address that was asked is used.
                host: if matches!(&*host, "" | "?") {
                    asked.host.clone()
                } else {
                    host
                },
                port: u16::try_from(*port).map_err(|_| unexpected())?,
            };
            let at = match map.masters.iter().position(|known| *known == owner) {
                Some(at) => at,
                None => {
                    map.masters.push(owner);
                    map.masters.len() - 1
                }
            };
            for slot in *first..=*last {
                let place = usize::try_from(slot)
                    .ok()
                    .and_then(|slot| map.owners.get_mut(slot));
                *place.ok_or_else(unexpected)? = at as u16;
            }
        }
        Ok(map)
    }
}

/// The id in the entry of a server.
fn id_of(server: &Value) -> Option<Box<str>> {
    let Value::Array(parts) = server else {
        return None;
    };
    match parts.get(2)? {
        Value::BulkString(id) => Some(String::from_utf8_lossy(id).into()),
        Value::SimpleString(id) => Some(id.as_str().into()),
        _ => None,
    }
}

/// Decides whether a map is newer than the known one.
#[derive(Default)]
pub struct Succession {
    /// The ids of all servers in maps so far.
    seen: BTreeSet<Box<str>>,
}

/// Above this number, only the servers of the newest map are remembered.
const MAX_SEEN: usize = 16_384;

impl Succession {
    /// Whether `map` replaces `known`. Within one cluster, epochs only grow, so a map with a lower
    /// epoch comes from a server that lags behind. If all servers in a map are new, the map belongs
    /// to a cluster that was recreated at the same addresses. Its epochs start again from the
    /// beginning.
    pub fn accepts(&mut self, known: &Map, map: &Map) -> bool {
        let is_other_cluster =
            !map.ids.is_empty() && !self.seen.is_empty() && self.seen.is_disjoint(&map.ids);
        if map.masters.is_empty() || (map.epoch < known.epoch && !is_other_cluster) {
            return false;
        }
        if self.seen.len() > MAX_SEEN {
            self.seen.clear();
        }
        self.seen.extend(map.ids.iter().cloned());
        map != known
    }
}

/// The address in a redirection (`host:port`). Without a host, the host that was asked is used.
pub fn redirected(text: &str, asked: &Address) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']);
    Some(Address {
        host: if matches!(host, "" | "?") {
            asked.host.clone()
        } else {
            host.to_owned()
        },
        port: port.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Address {
        Address {
            host: "h".into(),
            port,
        }
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        Value::Array(vec![
            Value::Int(first),
            Value::Int(last),
            Value::Array(vec![
                host,
                Value::Int(port),
                Value::BulkString(vec![b'i', port as u8]),
            ]),
        ])
    }

    #[test]
    fn slots_belong_to_masters_and_redirections_correct_that() {
        let host = || Value::BulkString(b"h".to_vec());
        let info = Value::BulkString(b"cluster_state:ok\r\ncluster_current_epoch:7\r\n".to_vec());
        let slots = Value::Array(vec![
            range(0, 99, host(), 1),
            range(200, 16383, Value::Nil, 2),
        ]);
        let map = Map::parse(info, slots, &address(1)).unwrap();
        assert_eq!(map.epoch, 7);
        assert_eq!(map.ids.len(), 2);
        assert_eq!(map.owner(99), Some(&address(1)));
        assert_eq!(map.owner(100), None);
        assert_eq!(map.owner(16383), Some(&address(2)));
        let moved = map.with_owner(99, &address(3));
        assert_eq!(moved.owner(99), Some(&address(3)));
        assert_eq!(moved.owner(98), Some(&address(1)));
        assert_eq!(moved.masters().len(), 3);
    }

    fn map_of(epoch: u64, ids: &[&str]) -> Map {
        let mut map = Map::empty().with_owner(0, &address(1));
        map.epoch = epoch;
        map.ids = ids.iter().map(|id| (*id).into()).collect();
        map
    }

    #[test]
    fn older_maps_are_refused_unless_all_servers_are_new() {
        let mut succession = Succession::default();
        let mut known = Map::empty();
        for (epoch, ids, accepted, why) in [
            (7, &["a", "b"][..], true, "the first one"),
            (6, &["a", "b"], false, "older"),
            (6, &["b", "c"], false, "older, with one that is new"),
            (8, &["b", "c"], true, "newer"),
            (9, &["c", "d"], true, "newer"),
            (
                7,
                &["a", "b"],
                false,
                "older, of servers that have left since",
            ),
            (8, &[], false, "older, without ids"),
            (2, &["x", "y"], true, "another cluster"),
            (1, &["x", "y"], false, "an older one of that"),
            (3, &["x", "z"], true, "a newer one of that"),
        ] {
            let map = map_of(epoch, ids);
            assert_eq!(succession.accepts(&known, &map), accepted, "{why}");
            if accepted {
                known = map;
            }
        }
        let mut empty = map_of(9, &["v"]);
        empty.masters.clear();
        assert!(!succession.accepts(&known, &empty), "nobody has slots");
    }

    #[test]
    fn a_redirection_without_a_host_is_to_the_one_that_was_asked() {
        assert_eq!(redirected(":7001", &address(1)), Some(address(7001)));
        assert_eq!(redirected("h:7001", &address(1)), Some(address(7001)));
        assert_eq!(redirected("h", &address(1)), None);
    }
}
