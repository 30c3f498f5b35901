//! Tests that histories of concurrent clients on one channel are linearizable: there is a total
//! order of all calls that respects the real-time order, and in which every answer is that of a
//! record with sequential access. The checker is that of todc-utils. The same check must fail when
//! the compare is disabled.

use super::{Careless, NoopSink, Random, Slow, redis::RedisServer, seed};
use crate::{
    in_flight::InFlight,
    metadata::{Metadata, Settings},
    model::{
        error::Result,
        limits::Limits,
        metadata::{Channel, Operation, change::Change},
    },
    store::{Store, memory::MemoryStore, metadata::MetadataStore},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};
use todc_utils::{Action, History, linearizability::WGLChecker, specifications::Specification};

const CLIENTS: usize = 8;
const CALLS: usize = 30;
const HISTORIES: u64 = 10;
const KEYS: [&str; 3] = ["a", "b", "c"];

/// The sequential model of a record: values and revisions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Model {
    major: u64,
    items: BTreeMap<String, (String, i64)>,
}

#[derive(Clone, Debug)]
enum Ask {
    Get,
    Change {
        operation: Operation,
        /// Key, value, revision (-1: none).
        items: Vec<(&'static str, String, i64)>,
        /// -1: none.
        expected: i64,
    },
}

/// The result of a call: the record after it, or a code, with the record if the error has one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Record(Model),
    Refused(&'static str, Option<Model>),
}

/// A call, with its answer once there is one.
#[derive(Clone, Debug)]
struct Call {
    ask: Ask,
    answer: Option<Answer>,
}

impl Model {
    /// The specification, clause by clause (7.1 to 7.5).
    fn answer(&self, ask: &Ask) -> (Answer, Model) {
        let mut after = self.clone();
        let Ask::Change {
            operation,
            items,
            expected,
        } = ask
        else {
            return (Answer::Record(after.clone()), after);
        };
        let refused = |code, current: bool| {
            let current = current.then(|| self.clone());
            (Answer::Refused(code, current), self.clone())
        };
        if *expected >= 0 && *expected as u64 != self.major {
            return refused("METADATA_CONFLICT", true);
        }
        match operation {
            Operation::Set => {
                after.items.clear();
                for (key, value, revision) in items {
                    let revision = if *revision > 0 { *revision } else { 1 };
                    after.items.insert((*key).into(), (value.clone(), revision));
                }
            }
            Operation::Update => {
                if self.major == 0 && self.items.is_empty() {
                    return refused("METADATA_INVALID", false);
                }
                for (key, value, revision) in items {
                    let Some(item) = after.items.get_mut(*key) else {
                        return refused("METADATA_INVALID", false);
                    };
                    if *revision >= 0 && *revision != item.1 {
                        return refused("METADATA_CONFLICT", true);
                    }
                    *item = (value.clone(), item.1 + 1);
                }
            }
            Operation::Remove => {
                let goes =
                    |key: &String| items.is_empty() || items.iter().any(|(named, ..)| key == named);
                after.items.retain(|key, _| !goes(key));
                if after.items.len() == self.items.len() {
                    return (Answer::Record(after.clone()), after);
                }
            }
        }
        after.major += 1;
        (Answer::Record(after.clone()), after)
    }
}

/// Starts and ends of calls with their clients, in the order in which they happened.
type Happened = Vec<(usize, Action<Call>)>;

struct Spec;

impl Specification for Spec {
    type State = Model;
    type Operation = Call;

    fn init() -> Model {
        Model::default()
    }

    fn apply(call: &Call, state: &Model) -> (bool, Model) {
        let (answer, after) = state.answer(&call.ask);
        (call.answer.as_ref() == Some(&answer), after)
    }
}

fn read(response: &str) -> Model {
    let value: Value = serde_json::from_str(response).unwrap();
    let items = value["metadata"].as_object().unwrap().iter();
    let model = Model {
        major: value["majorRevision"].as_u64().unwrap(),
        items: items
            .map(|(key, item)| {
                let text = item["value"].as_str().unwrap().to_owned();
                (key.clone(), (text, item["revision"].as_i64().unwrap()))
            })
            .collect(),
    };
    assert_eq!(
        value["totalCount"].as_u64().unwrap() as usize,
        model.items.len()
    );
    model
}

/// Runs one client's calls one after the other, and records their starts and ends.
async fn client(
    id: usize,
    metadata: Arc<Metadata>,
    channel: Channel,
    mut random: Random,
    history: Arc<Mutex<Happened>>,
) {
    let mut seen = Model::default();
    for number in 0..CALLS {
        let ask = choose(&mut random, &seen, id, number);
        let call = Call { ask, answer: None };
        history.lock().push((id, Action::Call(call.clone())));
        let answer = match carry_out(&metadata, &channel, &call.ask).await {
            Ok(response) => Answer::Record(read(&response)),
            Err(error) => {
                let current = error.current.as_ref().map(|current| read(&current.text()));
                Answer::Refused(error.code.as_str(), current)
            }
        };
        if let Answer::Record(record) | Answer::Refused(_, Some(record)) = &answer {
            seen = record.clone();
        }
        let answer = Some(answer);
        history
            .lock()
            .push((id, Action::Response(Call { answer, ..call })));
    }
}

fn choose(random: &mut Random, seen: &Model, id: usize, number: usize) -> Ask {
    let operation = match random.below(10) {
        0..2 => return Ask::Get,
        2..4 => Operation::Set,
        4..9 => Operation::Update,
        _ => Operation::Remove,
    };
    let some = random.below(7) + 1;
    let mut items = Vec::new();
    for (i, key) in KEYS.into_iter().enumerate() {
        if some & (1 << i) != 0 {
            let known = seen.items.get(key).map_or(1, |item| item.1);
            let revision = if random.below(4) == 0 { known } else { -1 };
            items.push((key, format!("{id}-{number}"), revision));
        }
    }
    if operation == Operation::Remove && random.below(3) == 0 {
        items.clear();
    }
    let expected = if random.below(3) == 0 {
        seen.major as i64
    } else {
        -1
    };
    Ask::Change {
        operation,
        items,
        expected,
    }
}

async fn carry_out(metadata: &Arc<Metadata>, channel: &Channel, ask: &Ask) -> Result<String> {
    match ask {
        Ask::Get => Ok(metadata.get(channel).await?.text()),
        Ask::Change {
            operation,
            items,
            expected,
        } => {
            let data: Vec<Value> = items
                .iter()
                .map(|(key, value, revision)| {
                    json!({ "key": key, "value": value, "revision": revision })
                })
                .collect();
            let request = json!({ "data": data, "majorRevision": expected }).to_string();
            let change = Change::parse(*operation, &request, &Limits::default())?;
            Ok(metadata.change(channel.clone(), change)?.await?.text())
        }
    }
}

/// The history of [`CLIENTS`] clients that use one channel through these stores. Each client uses
/// one store.
async fn history(stores: &[Arc<dyn MetadataStore>], channel: &str, stream: u64) -> Happened {
    let nodes: Vec<Arc<Metadata>> = stores
        .iter()
        .map(|store| {
            let settings = Settings::from(&Limits::default());
            let in_flight = InFlight::new(&Limits::default(), Arc::default());
            let store = store.clone();
            Arc::new(Metadata::new(store, Arc::default(), in_flight, settings))
        })
        .collect();
    let history = Arc::default();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|id| {
            tokio::spawn(client(
                id,
                nodes[id % nodes.len()].clone(),
                Channel::new("t", channel),
                Random::new(stream * 1_000 + id as u64),
                Arc::clone(&history),
            ))
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    std::mem::take(&mut *history.lock())
}

fn is_linearizable(history: Happened) -> bool {
    assert_eq!(history.len(), 2 * CLIENTS * CALLS);
    WGLChecker::<Spec>::is_linearizable(History::from_actions(history))
}

/// The number of linearizable histories with this many nodes on the in-process store.
fn in_process(nodes: usize, histories: u64, careless: bool) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    (0..histories)
        .filter(|&number| {
            let name = format!("linearizable-{nodes}-{careless}-{number}");
            let stores: Vec<Arc<dyn MetadataStore>> = (0..nodes as u64)
                .map(|node| {
                    let store = MemoryStore::open(Some(&name), Arc::new(NoopSink));
                    let store = Slow::new(store, number * 100 + node);
                    slow_or_careless(Arc::new(store), careless)
                })
                .collect();
            is_linearizable(runtime.block_on(history(&stores, "c", number)))
        })
        .count() as u64
}

fn slow_or_careless(store: Arc<dyn MetadataStore>, careless: bool) -> Arc<dyn MetadataStore> {
    if careless {
        Arc::new(Careless(store))
    } else {
        store
    }
}

/// The same on a redis-server; `None` if there is none.
fn on_redis(nodes: usize, histories: u64, careless: bool) -> Option<u64> {
    let server = RedisServer::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut linearizable = 0;
    runtime.block_on(async {
        let mut stores: Vec<Arc<dyn MetadataStore>> = Vec::new();
        for _ in 0..nodes {
            stores.push(slow_or_careless(
                Arc::new(server.connect().await).metadata(),
                careless,
            ));
        }
        for number in 0..histories {
            let happened = history(&stores, &format!("{careless}-{number}"), number).await;
            linearizable += u64::from(is_linearizable(happened));
        }
    });
    Some(linearizable)
}

#[test]
fn spec_7_6_eight_clients_of_eight_nodes_see_one_record() {
    assert_eq!(
        in_process(CLIENTS, HISTORIES, false),
        HISTORIES,
        "seed {}",
        seed()
    );
    let redis = on_redis(CLIENTS, HISTORIES, false);
    assert!(
        redis.is_none_or(|linearizable| linearizable == HISTORIES),
        "{redis:?}, seed {}",
        seed()
    );
}

#[test]
fn spec_7_8_eight_clients_of_two_nodes_see_one_record_whose_changes_go_in_groups() {
    assert_eq!(
        in_process(2, HISTORIES, false),
        HISTORIES,
        "seed {}",
        seed()
    );
    let redis = on_redis(2, HISTORIES, false);
    assert!(
        redis.is_none_or(|linearizable| linearizable == HISTORIES),
        "{redis:?}, seed {}",
        seed()
    );
}

#[test]
fn the_check_finds_the_fault_when_the_compare_is_turned_off() {
    assert!(
        in_process(CLIENTS, HISTORIES, true) < HISTORIES,
        "seed {}",
        seed()
    );
    assert!(
        on_redis(CLIENTS, HISTORIES, true).is_none_or(|linearizable| linearizable < HISTORIES),
        "seed {}",
        seed()
    );
}

/// The checker distinguishes a valid history from an invalid one. Otherwise the tests above would
/// prove nothing.
#[test]
fn the_check_knows_a_lost_update() {
    let update = |value: &str, major, items: &[(&str, &str, i64)]| Call {
        ask: Ask::Change {
            operation: Operation::Set,
            items: vec![("a", value.into(), -1)],
            expected: -1,
        },
        answer: Some(Answer::Record(Model {
            major,
            items: items
                .iter()
                .map(|(key, value, revision)| ((*key).into(), ((*value).into(), *revision)))
                .collect(),
        })),
    };
    let check = |second_major| {
        let (one, two) = (
            update("1", 1, &[("a", "1", 1)]),
            update("2", second_major, &[("a", "2", 1)]),
        );
        let calls = vec![
            (0, Action::Call(one.clone())),
            (1, Action::Call(two.clone())),
            (0, Action::Response(one)),
            (1, Action::Response(two)),
        ];
        WGLChecker::<Spec>::is_linearizable(History::from_actions(calls))
    };
    assert!(check(2));
    assert!(!check(1));
}
