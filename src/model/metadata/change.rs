//! Changes of a record: the request, and the record that results from it (spec 7.1 to 7.3, 7.5).
//! Pure functions, without stores, locks or time.

use super::{
    Channel, Operation,
    event::EventText,
    record::{Item, Patch, Record, Unreadable},
    response::View,
};
use crate::model::{
    error::{Code, Error, Result},
    ids, json,
    limits::Limits,
};
use indexmap::IndexSet;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{collections::HashSet, sync::Arc};

/// Maximum number of items in one change. Each can add one argument to a command, and Redis accepts
/// 1 048 576 of them.
const MAX_ITEMS: usize = 500_000;

/// One change of a channel's record.
#[derive(Clone, Debug)]
pub struct Change {
    pub operation: Operation,
    items: Vec<ChangeItem>,
    /// The major revision that the record must have.
    expected: Option<u64>,
    /// The lock that must be held.
    pub lock: Option<LockCheck>,
    /// Whether an update creates missing items.
    upsert: bool,
    /// How long the record lives after this change, in ms; `None`: it does not expire.
    pub ttl_ms: Option<u64>,
    stamped: bool,
    /// `authorUid` of the items, as JSON text.
    author: Option<String>,
    actor: Option<Arc<str>>,
    most_bytes: usize,
    /// Length of the request in bytes.
    pub bytes: usize,
}

#[derive(Clone, Debug)]
struct ChangeItem {
    /// The decoded characters of the key.
    name: Arc<[u8]>,
    /// JSON texts.
    key: Box<str>,
    value: Option<Box<str>>,
    revision: Option<i64>,
}

/// The conditions on a lock for a change to be written (spec 7.7, 8.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockCheck {
    pub name: Arc<str>,
    /// The owner that the lock must have. `None` never matches an owner.
    pub actor: Option<Arc<str>>,
    /// The fencing token of the caller's grant. A newer grant refuses the change.
    pub token: Option<u64>,
}

/// Why a lock does not allow a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockState {
    NotHeld,
    HeldByOther,
    /// It was granted again, with this token.
    Outrun {
        newest: u64,
    },
    /// The value of its key is not a lock.
    Unreadable,
}

impl LockCheck {
    pub fn refusal(&self, state: LockState) -> Error {
        let name = &self.name;
        let message = match state {
            LockState::NotHeld => format!("Lock \"{name}\" is not held by any user"),
            LockState::HeldByOther if self.actor.is_none() => {
                format!("Lock \"{name}\" requires an authenticated user")
            }
            LockState::HeldByOther => format!("Lock \"{name}\" is held by a different user"),
            LockState::Outrun { newest } => format!(
                "Lock \"{name}\" has been granted anew: fencing token {} is older than {newest}",
                self.token.unwrap_or_default()
            ),
            LockState::Unreadable => {
                return Error::new(
                    Code::CorruptData,
                    format!("the key of lock \"{name}\" holds a value that is not a lock"),
                );
            }
        };
        Error::new(Code::MetadataLock, message)
    }
}

/// The result of a change, if the stored record is the one that it was applied to.
#[derive(Debug)]
pub enum Verdict {
    Changed(View, EventText, ChangedItems),
    /// The change has no effect.
    Unchanged(View),
    /// Refused. Includes the current record, if the caller gets it.
    Refused(Error, Option<View>),
}

impl Verdict {
    /// The record in the answer.
    pub fn view(&self) -> Option<&View> {
        match self {
            Verdict::Changed(view, ..) | Verdict::Unchanged(view) => Some(view),
            Verdict::Refused(_, view) => view.as_ref(),
        }
    }
}

/// The part of a record that a change has touched.
#[derive(Clone, Debug)]
pub enum ChangedItems {
    /// Any part or all of it.
    All,
    /// The values of these items, which have kept their positions.
    Items(Vec<Arc<Item>>),
}

/// The record that changes are applied to, one after the other.
pub type Contents = std::result::Result<Record, Unreadable>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Request<'a> {
    #[serde(borrow, default)]
    data: Vec<RequestItem<'a>>,
    major_revision: Option<i64>,
    lock_name: Option<Arc<str>>,
    #[serde(default)]
    upsert: bool,
    ttl_ms: Option<u64>,
    #[serde(default)]
    add_timestamp: bool,
    #[serde(default)]
    add_user_id: bool,
    actor_user_id: Option<Arc<str>>,
    fencing_token: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestItem<'a> {
    #[serde(borrow)]
    key: &'a RawValue,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    revision: Option<i64>,
}

impl Change {
    /// Parses a request: a JSON object with the fields of [`Request`].
    pub fn parse(operation: Operation, request: &str, limits: &Limits) -> Result<Change> {
        let asked: Request<'_> = serde_json::from_str(request)
            .map_err(|error| Error::invalid(format!("metadata.{}: {error}", operation.as_str())))?;
        if let Some(name) = &asked.lock_name {
            ids::check("lockName", name, limits)?;
        } else if asked.fencing_token.is_some() {
            return Err(Error::invalid(
                "fencingToken needs options.lockName: it is the token of a grant of that lock",
            ));
        }
        if let Some(actor) = &asked.actor_user_id {
            ids::check("actorUserId", actor, limits)?;
        }
        if asked.upsert && operation != Operation::Update {
            return Err(Error::invalid(format!(
                "options.upsert is for metadata.update: metadata.{} does not need an item to exist",
                operation.as_str()
            )));
        }
        if let Some(ttl_ms) = asked.ttl_ms {
            check_ttl("options.ttlMs", ttl_ms)?;
        }
        if asked.data.len() > MAX_ITEMS {
            return Err(Error::invalid(format!(
                "data has {} items, more than the limit of {MAX_ITEMS} in one change; make several changes",
                asked.data.len()
            )));
        }
        let items = asked.data.iter().enumerate();
        let items = items
            .map(|(place, item)| ChangeItem::take(place, item, limits))
            .collect::<Result<Vec<_>>>()?;
        if items.is_empty() && operation == Operation::Update {
            return Err(Error::new(
                Code::MetadataInvalid,
                "At least one metadata item is required",
            ));
        }
        let actor = asked.actor_user_id;
        Ok(Change {
            operation,
            items,
            expected: asked.major_revision.and_then(|given| given.try_into().ok()),
            lock: asked.lock_name.map(|name| LockCheck {
                name,
                actor: actor.clone(),
                token: asked.fencing_token,
            }),
            upsert: asked.upsert,
            ttl_ms: asked.ttl_ms,
            stamped: asked.add_timestamp,
            author: actor
                .as_deref()
                .filter(|_| asked.add_user_id)
                .map(json::quote),
            actor,
            most_bytes: limits.max_metadata_record_bytes,
            bytes: request.len(),
        })
    }

    /// Refuses keys and values with unpaired surrogates, for a store that cannot hold them.
    pub fn check_whole_characters(&self) -> Result<()> {
        for (place, item) in self.items.iter().enumerate() {
            let fields = [("key", Some(&item.key)), ("value", item.value.as_ref())];
            for (field, text) in fields {
                if text.is_some_and(|text| json::has_half_a_pair(text)) {
                    return Err(Error::invalid(format!(
                        "data[{place}].{field} has half of a surrogate pair, which RedisJSON cannot \
                         hold; with metadataStorage \"hash\" it can be stored"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Applies the change to the record. A refused change leaves the record unchanged.
    pub fn apply(&self, channel: &Channel, contents: &mut Contents) -> Verdict {
        let unreadable = match contents {
            Ok(record) => return self.apply_to(channel, record),
            Err(unreadable) => *unreadable,
        };
        let fits = self
            .expected
            .is_none_or(|expected| expected == unreadable.major);
        if self.operation != Operation::Set || !fits {
            return Verdict::Refused(unreadable.error(channel), None);
        }
        let mut record = Record {
            major: unreadable.major,
            ..Record::default()
        };
        let verdict = self.apply_to(channel, &mut record);
        if matches!(verdict, Verdict::Changed(..)) {
            *contents = Ok(record);
        }
        verdict
    }

    fn apply_to(&self, channel: &Channel, record: &mut Record) -> Verdict {
        if let Some(expected) = self.expected
            && expected != record.major
        {
            let message = format!(
                "Expected major revision {expected}, but got {}",
                record.major
            );
            return conflict(message, record);
        }
        match self.operation {
            Operation::Set => self.set(channel, record),
            Operation::Update => self.update(channel, record),
            Operation::Remove => self.remove(channel, record),
        }
    }

    fn set(&self, channel: &Channel, record: &mut Record) -> Verdict {
        let mut after = Record {
            major: record.major,
            ..Record::default()
        };
        for item in &self.items {
            let patch = Patch {
                value: Some(item.value.as_deref().unwrap_or("\"\"")),
                revision: item.revision.filter(|given| *given > 0).unwrap_or(1),
                stamped: self.stamped,
                author: self.author.as_deref(),
            };
            let made = Arc::new(Item::new(&item.key, &patch));
            after.items.insert(item.name.clone(), made);
        }
        after.rewrite();
        if let Err(error) = self.check_bytes(&after, record) {
            return Verdict::Refused(error, None);
        }
        *record = after;
        let items: Vec<Arc<Item>> = record.items.values().cloned().collect();
        self.changed(channel, record, &items, ChangedItems::All)
    }

    fn update(&self, channel: &Channel, record: &mut Record) -> Verdict {
        if !record.exists() && !self.upsert {
            return Verdict::Refused(missing("Channel metadata does not exist".into()), None);
        }
        let count = record.items.len();
        let mut before: Vec<(usize, Arc<Item>)> = Vec::with_capacity(self.items.len());
        // The positions of the items without duplicates, in the order in which the request names
        // them first.
        let mut places = IndexSet::with_capacity(self.items.len());
        let mut refused = None;
        for item in &self.items {
            let found = record.items.get_full_mut(&item.name);
            if found.is_none() && !self.upsert {
                let message = format!("Metadata item \"{}\" does not exist", item.display());
                refused = Some((missing(message), false));
                break;
            }
            // A missing item has revision 0, so an expected revision of 0 means that the item must
            // not exist.
            let revision = found.as_ref().map_or(0, |(_, _, old)| old.revision());
            if item
                .revision
                .is_some_and(|given| given >= 0 && given != revision)
            {
                let message = format!("Revision mismatch for key \"{}\"", item.display());
                refused = Some((Error::new(Code::MetadataConflict, message), true));
                break;
            }
            let mut patch = Patch {
                value: item.value.as_deref(),
                revision: revision.saturating_add(1),
                stamped: self.stamped,
                author: self.author.as_deref(),
            };
            let place = match found {
                Some((place, _, old)) => {
                    let new = Arc::new(old.patched(&patch));
                    before.push((place, std::mem::replace(old, new)));
                    place
                }
                None => {
                    patch.value.get_or_insert("\"\"");
                    let new = Arc::new(Item::new(&item.key, &patch));
                    record.items.insert_full(item.name.clone(), new).0
                }
            };
            places.insert(place);
        }
        let text = record.text.clone();
        if refused.is_none() {
            let bytes = record.bytes();
            record.rewrite();
            refused = self
                .check_growth(record.bytes(), bytes)
                .err()
                .map(|error| (error, false));
        }
        let Some((error, shows_record)) = refused else {
            let items: Vec<Arc<Item>> = places
                .into_iter()
                .map(|place| record.items[place].clone())
                .collect();
            let touched = if record.items.len() == count {
                ChangedItems::Items(items.clone())
            } else {
                ChangedItems::All
            };
            return self.changed(channel, record, &items, touched);
        };
        record.items.truncate(count);
        // In reverse order, because one item may have been changed twice. Items that were created
        // here are removed.
        before.retain(|(place, _)| *place < count);
        for (place, old) in before.into_iter().rev() {
            record.items[place] = old;
        }
        record.text = text;
        Verdict::Refused(error, shows_record.then(|| record.view()))
    }

    fn remove(&self, channel: &Channel, record: &mut Record) -> Verdict {
        let mut removed: Vec<Arc<Item>> = Vec::new();
        if self.items.is_empty() {
            removed.extend(record.items.drain(..).map(|(_, item)| item));
        } else {
            // In the order in which the request names them, as other implementations publish them.
            let mut named: HashSet<&[u8]> = HashSet::with_capacity(self.items.len());
            for item in &self.items {
                if named.insert(&item.name)
                    && let Some(found) = record.items.get(&item.name)
                {
                    removed.push(found.clone());
                }
            }
            record.items.retain(|name, _| !named.contains(&**name));
        }
        if removed.is_empty() {
            return Verdict::Unchanged(record.view());
        }
        record.rewrite();
        self.changed(channel, record, &removed, ChangedItems::All)
    }

    fn changed(
        &self,
        channel: &Channel,
        record: &mut Record,
        items: &[Arc<Item>],
        touched: ChangedItems,
    ) -> Verdict {
        record.major += 1;
        let event = EventText::new(
            channel,
            self.operation,
            items.iter().map(|item| &**item),
            record.major,
            self.actor.as_deref(),
        );
        Verdict::Changed(record.view(), event, touched)
    }

    fn check_bytes(&self, after: &Record, before: &Record) -> Result<()> {
        self.check_growth(after.bytes(), before.bytes())
    }

    /// A record that other software made too large may still shrink.
    fn check_growth(&self, after: usize, before: usize) -> Result<()> {
        if after > self.most_bytes && after > before {
            return Err(Error::invalid(format!(
                "the record would be {after} bytes of JSON, more than the limit of {} bytes \
                 (limits.maxMetadataRecordBytes); keep big data elsewhere and its id in the \
                 metadata",
                self.most_bytes
            )));
        }
        Ok(())
    }
}

impl ChangeItem {
    fn take(place: usize, item: &RequestItem<'_>, limits: &Limits) -> Result<ChangeItem> {
        let (key, value) = (item.key.get(), item.value.map(RawValue::get));
        let text = |field: &str, json: &str, most: usize, limit: &str| {
            let decoded = json::decoded(json)
                .ok_or_else(|| Error::invalid(format!("data[{place}].{field} must be a string")))?;
            if decoded.len() > most {
                return Err(Error::invalid(format!(
                    "data[{place}].{field} is {} bytes long, more than the limit of {most} bytes \
                     ({limit})",
                    decoded.len()
                )));
            }
            Ok(Arc::<[u8]>::from(&*decoded))
        };
        let most = limits.max_metadata_key_bytes;
        let name = text("key", key, most, "limits.maxMetadataKeyBytes")?;
        if let Some(value) = value {
            let most = limits.max_metadata_value_bytes;
            text("value", value, most, "limits.maxMetadataValueBytes")?;
        }
        Ok(ChangeItem {
            name,
            key: key.into(),
            value: value.map(Into::into),
            revision: item.revision,
        })
    }

    fn display(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }
}

/// JavaScript represents it exactly, and Redis can add it to its clock.
const MAX_TTL_MS: u64 = (1 << 53) - 1;

/// Checks a TTL of a record (spec 7.10).
pub fn check_ttl(field: &str, ttl_ms: u64) -> Result<()> {
    if ttl_ms == 0 || ttl_ms > MAX_TTL_MS {
        return Err(Error::invalid(format!(
            "{field} must be a whole number from 1 to 2^53-1, got {ttl_ms}"
        )));
    }
    Ok(())
}

fn missing(message: String) -> Error {
    Error::new(Code::MetadataInvalid, message)
}

fn conflict(message: String, record: &Record) -> Verdict {
    Verdict::Refused(
        Error::new(Code::MetadataConflict, message),
        Some(record.view()),
    )
}
