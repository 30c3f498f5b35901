//! Tests the names, that no two ids share one, and that ids can be parsed from them.

use super::*;
use crate::model::limits::Limits;
use proptest::prelude::*;

fn keys() -> Keys {
    Keys::new("prs:", DEFAULT_SHARD_COUNT)
}

#[test]
fn spec_2_names_are_those_of_the_table() {
    let room = keys().room("r1");
    assert_eq!(keys().conn("r1", "c1"), "prs:conn:c1");
    assert_eq!(room.conns, "prs:{room:r1}:conns");
    assert_eq!(room.members, "prs:{room:r1}:members");
    assert_eq!(room.last_seen, "prs:{room:r1}:last_seen");
    assert_eq!(room.conn_meta, "prs:{room:r1}:conn_meta");
    assert_eq!(room.events, "prs:{room:r1}:events");
    assert_eq!(keys().user_conns("u1"), "prs:user:u1:conns");
    assert_eq!(keys().user_rooms("u1"), "prs:user:u1:rooms");
    assert_eq!(keys().active_rooms(), "prs:active_rooms");
    assert_eq!(keys().events_pattern(), "prs:{room:*}:events");
    assert_eq!(keys().lock("l1"), "prs:lock:l1");
    assert_eq!(keys().lock_token("l1"), "prs:{prs:lock:l1}:token");
    let channel = Channel::new("doc", "a:b");
    assert_eq!(keys().channel_meta(&channel), "prs:{chan:doc:a:b}:meta");
    assert_eq!(
        keys().channel_events(&channel),
        "prs:{chan:doc:a:b}:meta_events"
    );
    assert_eq!(keys().channel_events_pattern(), "prs:{chan:*}:meta_events");
    assert_eq!(keys().lock_events_pattern(), "prs:{prs:lock:*}:lock_events");
}

fn slotted() -> Keys {
    keys()
        .with_layout(Layout::Slotted)
        .with_sharded_events(true)
}

#[test]
fn slots_are_those_of_redis() {
    for (key, slot) in [
        ("123456789", 12739),
        ("foo{bar}baz", slot_of(b"bar")),
        (
            "foo{}{bar}",
            crc16::State::<crc16::XMODEM>::calculate(b"foo{}{bar}") % SLOTS,
        ),
        ("foo{{bar}}zap", slot_of(b"{bar")),
    ] {
        assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
    }
    for slot in [0, 1, 8000, SLOTS - 1] {
        assert_eq!(slot_of(keys().slot_events(slot).as_bytes()), slot);
    }
}

#[test]
fn where_an_id_begins_follows_from_the_room() {
    let start = slotted().room_last_seen("r}x").len() as i64 + slotted().id_in_conn() - 1;
    assert_eq!(&slotted().conn("r}x", "c")[start as usize..], "c");
}

#[test]
fn a_room_can_be_cut_out_of_its_last_seen() {
    let (from, to) = keys().room_in_last_seen();
    let key = keys().room_last_seen("r}1:");
    let end = key.len().checked_add_signed(to + 1).unwrap();
    assert_eq!(&key[from - 1..end], "r}1:");
}

#[test]
fn a_prefix_with_glob_characters_is_matched_as_it_stands() {
    assert_eq!(
        Keys::new("a*[b]:", 1).events_pattern(),
        "a\\*\\[b\\]:{room:*}:events"
    );
}

#[test]
fn channels_can_have_a_prefix_of_their_own() {
    let keys = Keys::new("app:prs:", 1).with_channel_prefix("prs:");
    assert_eq!(keys.room_conns("r"), "app:prs:{room:r}:conns");
    assert_eq!(keys.room_events("r"), "prs:{room:r}:events");
    assert_eq!(keys.events_pattern(), "prs:{room:*}:events");
    assert_eq!(
        keys.room_of_events("prs:{room:r}:events").as_deref(),
        Some("r")
    );
    assert_eq!(keys.room_of_events("app:prs:{room:r}:events"), None);
}

proptest! {
    #[test]
    fn spec_2_2_a_room_can_be_read_back_from_its_channel(room in ".*") {
        for keys in [keys(), slotted()] {
            let channel = keys.room_events(&room);
            let read = keys.room_of_events(&channel);
            prop_assert_eq!(read.as_deref(), Some(room.as_str()));
        }
    }

    #[test]
    fn everything_of_a_room_lies_in_one_slot(room in "[a-c{}%:]{0,8}", id in "[a-c{}%:]{0,8}") {
        let keys = slotted();
        let names = keys.room(&room);
        let slot = slot_of(names.conns.as_bytes());
        for name in [
            names.members, names.last_seen, names.conn_meta, names.events,
            keys.slot_events_of(&room), keys.conn(&room, &id), keys.conn_state(&room, &id),
            keys.user_conns_in_room(&room, &id), keys.outbox(&room),
        ] {
            prop_assert_eq!(slot_of(name.as_bytes()), slot, "{}", name);
        }
        prop_assert!(keys.is_conn(&keys.conn(&room, &id)));
        let conns = keys.room_conns(&room);
        let read = keys.room_of_conns(&conns);
        prop_assert_eq!(read.as_deref(), Some(room.as_str()));
    }

    #[test]
    fn spec_2_2_different_ids_never_make_the_same_key_on_slotted(
        a in "[:{}%2a-c]{0,4}(conns|\\}:conns|\\}:conn:a|:at|at:|%7D)?",
        b in "[:{}%2a-c]{0,4}(conns|\\}:conns|\\}:conn:a|:at|at:|%7D)?",
    ) {
        let keys = slotted();
        let names = |room: &str, id: &str| {
            let r = keys.room(room);
            vec![
                r.conns, r.members, r.last_seen, r.conn_meta, r.events, keys.outbox(room),
                keys.conn(room, id), keys.user_conns_in_room(room, id), keys.at(id), keys.user_at(id),
            ]
        };
        let all = [names(&a, &a), names(&a, &b), names(&b, &a), names(&b, &b)];
        for (m, of_m) in all.iter().enumerate() {
            for (n, of_n) in all.iter().enumerate() {
                for (i, x) in of_m.iter().enumerate() {
                    for (j, y) in of_n.iter().enumerate() {
                        let (rooms, ids) = (m / 2 == n / 2, m % 2 == n % 2);
                        let of_room = rooms || i >= 8;
                        let of_id = ids || i < 6;
                        prop_assert_eq!(
                            x == y, i == j && (a == b || (of_room && of_id)), "{} {}", x, y
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn spec_2_2_declared_types_share_no_key_with_another_channel(
        declared in prop::collection::vec("[ab]{0,2}:[ab:]{0,3}", 0..4),
        kind in "[ab:]{1,5}",
        name in "[ab:]{1,5}",
    ) {
        let limits = Limits::default();
        let types = ColonTypes::new(&declared, &limits).unwrap();
        let keys = keys().with_channel_types(types.clone());
        let channel = Channel::new(&kind, &name);
        let both = format!("{kind}:{name}");
        // All channels that have this key.
        let same: Vec<Channel> = both
            .match_indices(':')
            .map(|(at, _)| Channel::new(&both[..at], &both[at + 1..]))
            .filter(|channel| channel.check(&limits, &types).is_ok())
            .collect();
        prop_assert!(same.len() <= 1, "{:?}", same);
        if channel.check(&limits, &types).is_ok() {
            let read = keys.channel_of_events(&keys.channel_events(&channel));
            prop_assert_eq!(read, Some(channel));
            prop_assert!(!kind.contains(':') || declared.contains(&kind));
        }
    }

    #[test]
    fn spec_2_2_a_channel_can_be_read_back_from_its_events(kind in "[^:]*", name in ".*") {
        let channel = Channel::new(&kind, &name);
        let events = keys().channel_events(&channel);
        prop_assert_eq!(keys().channel_of_events(&events), Some(channel));
        prop_assert_eq!(keys().room_of_events(&events), None);
    }

    #[test]
    fn spec_2_2_a_lock_can_be_read_back_from_its_channel(name in ".*") {
        for keys in [keys(), slotted()] {
            let channel = keys.lock_events(&name);
            let read = keys.lock_of_events(&channel);
            prop_assert_eq!(read.as_deref(), Some(name.as_str()));
        }
    }

    #[test]
    fn everything_of_a_lock_lies_in_one_slot(name in "[a-c{}%:]{0,8}") {
        let keys = slotted();
        let slot = slot_of(keys.lock(&name).as_bytes());
        for key in [
            keys.lock_token(&name), keys.lock_holder(&name), keys.lock_queue(&name),
            keys.lock_living(&name), keys.lock_events(&name),
        ] {
            prop_assert_eq!(slot_of(key.as_bytes()), slot, "{}", key);
        }
    }

    #[test]
    fn spec_2_2_different_ids_never_make_the_same_key(
        a in "(\\{prs:lock:)?[:{}a-c]{0,6}(conns|rooms|:state|\\}:conns|\\}:token|\\}:queue)?",
        b in "(\\{prs:lock:)?[:{}a-c]{0,6}(conns|rooms|:state|\\}:conns|\\}:token|\\}:queue)?",
    ) {
        let names = |id: &str| {
            let r = keys().room(id);
            vec![
                keys().conn(id, id), r.conns, r.members, r.last_seen, r.conn_meta, r.events,
                keys().user_conns(id), keys().user_rooms(id),
                keys().channel_meta(&Channel::new("t", id)),
                keys().channel_events(&Channel::new("t", id)),
                keys().lock(id), keys().lock_token(id), keys().lock_holder(id),
                keys().lock_queue(id), keys().lock_living(id), keys().lock_events(id),
                keys().lock_wake(id),
            ]
        };
        let (of_a, of_b) = (names(&a), names(&b));
        for (i, x) in of_a.iter().enumerate() {
            for (j, y) in of_b.iter().enumerate() {
                prop_assert_eq!(x == y, i == j && a == b, "{} {}", x, y);
            }
        }
    }
}
