//! Watches: what is asked for, and what is told.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::entry::{Entry, EntryBody, EntryError};
use crate::problem::Problem;

/// The media type of server-sent events.
pub const EVENT_STREAM: &str = "text/event-stream";

/// Most selections of one stream.
pub const MAX_WATCHES: usize = 1_000;

/// The largest body of `POST /v1/watch/{ks}`.
pub const MAX_WATCH_BODY_BYTES: u64 = 4 << 20;

/// Longest name of a selection, in bytes.
pub const MAX_WATCH_ID_BYTES: usize = 64;

/// `POST /v1/watch/{ks}`: several selections in one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WatchBody {
    /// The selections, 1 to 1,000.
    pub watches: Vec<WatchSelection>,
    /// The first revision to be told of; without it, the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_revision: Option<u64>,
    /// First what is there now, then what changes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub initial: bool,
    /// Whether entries come with their values; yes, unless it says no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<bool>,
    /// Whether events say what was before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prev: bool,
    /// `base64`: keys and values as base64url always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
}

/// A selection: one key, or the keys with a prefix, or between two keys; all, if nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WatchSelection {
    /// Its name, which comes with each event that is of it; at most 64 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// One key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The same as base64url; so are the others whose names end in 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key64: Option<String>,
    /// What the keys begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// See above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix64: Option<String>,
    /// The first key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// See above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start64: Option<String>,
    /// The first key behind the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// See above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end64: Option<String>,
    /// Of which kinds events are told; all, if none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<EventType>,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// It was set.
    Put,
    /// It was deleted.
    Delete,
    /// Its time was up.
    Expire,
}

impl EventType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Put, Self::Delete, Self::Expire];

    /// Its name in messages and parameters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Expire => "expire",
        }
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A message of a watch: a line, or the `data` of a server-sent event of the same name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum WatchMessage<'a> {
    /// All that one revision changed of what is watched.
    Change {
        /// The revision.
        revision: u64,
        /// What it changed.
        events: Vec<WatchEvent<'a>>,
    },
    /// With `initial`: some of what was there at a revision, before the first change.
    Snapshot {
        /// The revision.
        revision: u64,
        /// The keys that were there, as if they were set.
        events: Vec<WatchEvent<'a>>,
    },
    /// With `initial`: that was all; changes of later revisions come from now on.
    Sync {
        /// The revision.
        revision: u64,
    },
    /// Nothing else happened up to this revision. Comes when there was nothing to tell for a while.
    Progress {
        /// The revision.
        revision: u64,
    },
    /// The watch ends.
    Error {
        /// The last revision that was told.
        revision: u64,
        /// Why it ends.
        problem: Box<Problem>,
    },
}

/// What happened to one key. A deleted key has its name and the revision only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WatchEvent<'a> {
    /// What it was.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// The key as it is now.
    #[serde(flatten)]
    pub entry: EntryBody<'a>,
    /// With `prev`: the key as it was before, if it was there, and that is still known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<Box<EntryBody<'a>>>,
    /// The names of the selections that it is of, where selections have names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watches: Vec<Cow<'a, str>>,
}

/// [`WatchEvent`] with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// What it was.
    pub kind: EventType,
    /// The key as it is now.
    pub entry: Entry,
    /// As it was before.
    pub prev: Option<Entry>,
    /// The names of the selections that it is of.
    pub watches: Vec<String>,
}

impl TryFrom<WatchEvent<'_>> for Happened {
    type Error = EntryError;

    fn try_from(event: WatchEvent<'_>) -> Result<Self, EntryError> {
        Ok(Self {
            kind: event.kind,
            entry: event.entry.try_into()?,
            prev: event.prev.map(|prev| (*prev).try_into()).transpose()?,
            watches: event.watches.into_iter().map(Cow::into_owned).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Encoding;
    use crate::problem::Code;

    fn entry(key: &'static str, value: Option<&'static [u8]>) -> Entry {
        Entry {
            key: key.as_bytes().into(),
            value: value.map(Into::into),
            content_type: None,
            meta: crate::user_meta::UserMeta::default(),
            create_revision: 1,
            mod_revision: 2,
            version: 3,
            stamp: None,
            ttl_ms: Some(1_500),
            lease: None,
        }
    }

    #[test]
    fn messages_round_trip() {
        let (now, before) = (entry("a", Some(b"\xff")), entry("a", Some(b"text")));
        let event = WatchEvent {
            kind: EventType::Put,
            entry: now.to_body(Encoding::Text),
            prev: Some(Box::new(before.to_body(Encoding::Text))),
            watches: vec![Cow::Borrowed("w")],
        };
        let text = serde_json::to_string(&WatchMessage::Change { revision: 7, events: vec![event.clone()] }).unwrap();
        assert!(
            text.starts_with(r#"{"event":"change","revision":7,"events":[{"type":"put","key":"a","value64":"_w","#),
            "{text}"
        );
        let messages = [
            WatchMessage::Change { revision: 7, events: vec![event.clone()] },
            WatchMessage::Snapshot { revision: 7, events: vec![event] },
            WatchMessage::Sync { revision: 7 },
            WatchMessage::Progress { revision: 8 },
            WatchMessage::Error { revision: 8, problem: Box::new(Problem::new(Code::Compacted, "gone")) },
        ];
        for message in messages {
            let text = serde_json::to_string(&message).unwrap();
            assert_eq!(serde_json::from_str::<WatchMessage<'_>>(&text).unwrap(), message, "{text}");
            if let WatchMessage::Change { events, .. } = serde_json::from_str(&text).unwrap() {
                let happened: Vec<Happened> = events.into_iter().map(|event| event.try_into().unwrap()).collect();
                assert_eq!((&happened[0].entry, happened[0].prev.as_ref()), (&now, Some(&before)));
            }
        }
    }

    #[test]
    fn event_types_have_their_names() {
        for kind in EventType::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(EventType::from_name(kind.name()), Some(kind));
        }
        assert_eq!(EventType::from_name("set"), None);
    }
}
