//! Transactions as they travel.

use std::borrow::Cow;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{MAX_TXN_DEPTH, Relation, Txn, TxnCompare, TxnKeys, TxnList, TxnOp, TxnRange, TxnTest};
use crate::batch::{BatchOp, BatchOpBody, BatchOpError};
use crate::lease;
use crate::text64::{self, FieldError, split};

/// [`Txn`] as it travels.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TxnBody {
    /// Of a transaction within another: `txn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// All must hold, as things were before the transaction.
    #[serde(default, rename = "if", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<CompareBody>")]
    pub compares: Vec<Box<RawValue>>,
    /// Done in order if they do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<TxnOpBody<'static>>")]
    pub then: Vec<Box<RawValue>>,
    /// Done in order if not.
    #[serde(default, rename = "else", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<TxnOpBody<'static>>")]
    pub otherwise: Vec<Box<RawValue>>,
}

/// [`TxnOp`] as it travels.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum TxnOpBody<'a> {
    /// `get`, `put`, `delete`, `increment`, `append`, `touch` or `merge`, as in a batch, without `cas`.
    Key(Box<BatchOpBody<'a>>),
    /// `list` or `delete_range`.
    Range(RangeOpBody),
    /// `txn`.
    Txn(TxnBody),
}

/// An operation on a range of keys.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RangeOpBody {
    /// `list` or `delete_range`.
    pub op: String,
    /// Keys that begin so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The same as base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix64: Option<String>,
    /// Keys from this one on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// The same as base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start64: Option<String>,
    /// Keys before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// The same as base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end64: Option<String>,
    /// Of a range delete: every key of the keyspace; only without a selection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// Of a list: at most so many pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Of a list: from the last key to the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse: Option<bool>,
    /// Of a list: with the values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<bool>,
}

/// [`TxnCompare`] as it travels: a key or a range, and exactly one test.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompareBody {
    /// The key, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key as base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key64: Option<String>,
    /// Instead of a key: each that begins so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The same as base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix64: Option<String>,
    /// Instead of a key: each from this one on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// The same as base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start64: Option<String>,
    /// Instead of a key: each before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// The same as base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end64: Option<String>,
    /// Whether it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
    /// How many times it was set since it came to be; 0 if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<NumberTest>,
    /// The revision at which it came to be; 0 if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_revision: Option<NumberTest>,
    /// The revision of its last change; 0 if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mod_revision: Option<NumberTest>,
    /// Its value, if it is UTF-8. Of a key that is not there, no test of the value holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<TextTest>,
    /// The value as base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value64: Option<TextTest>,
    /// The id of the lease that it hangs on; `0` if that is none, or if the key is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<TextTest>,
}

/// `3`, or a relation with it: `{">": 3}`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "neither a number nor one of {\"=\": N}, {\"!=\": N}, {\"<\": N}, {\">\": N}")]
pub enum NumberTest {
    /// Equal to it.
    Is(u64),
    /// Otherwise related to it.
    Stands(RelationTo<u64>),
}

/// `"x"`, or a relation with it: `{"<": "x"}`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "neither a text nor one of {\"=\": TEXT}, {\"!=\": TEXT}, {\"<\": TEXT}, {\">\": TEXT}")]
pub enum TextTest {
    /// Equal to it.
    Is(String),
    /// Otherwise related to it.
    Stands(RelationTo<String>),
}

/// A relation and its other side.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub enum RelationTo<T> {
    /// The same.
    #[serde(rename = "=")]
    Equal(T),
    /// Anything else.
    #[serde(rename = "!=")]
    NotEqual(T),
    /// What is there is less.
    #[serde(rename = "<")]
    Less(T),
    /// What is there is greater.
    #[serde(rename = ">")]
    Greater(T),
}

/// Why JSON is no [`Txn`].
#[derive(Debug, thiserror::Error)]
#[error("{at}{kind}")]
pub struct TxnError {
    /// Where, like `then[3].if[0]: `; empty if it is the whole.
    pub at: String,
    /// What is the matter there.
    pub kind: TxnErrorKind,
}

/// What is the matter with a part of a transaction.
#[derive(Debug, thiserror::Error)]
pub enum TxnErrorKind {
    /// No JSON, or no object with these fields.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// An operation on one key that is none.
    #[error(transparent)]
    Op(BatchOpError),
    /// An operation that there is not, or not yet.
    #[error(
        "there is no operation {0:?}; there are get, put, delete, increment, append, touch, merge, list, delete_range and txn"
    )]
    UnknownOp(String),
    /// None or several of fields of which there must be one.
    #[error("exactly one of {0} must be there")]
    NotOne(&'static str),
    /// A field that has no meaning here.
    #[error("{field}: {why}")]
    Pointless {
        /// The field.
        field: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// A range delete that names no range.
    #[error("a range delete needs a selection: prefix, or start and end, or \"all\": true for every key of the keyspace")]
    EmptySelection,
    /// Bytes that are not given as they must be.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// Transactions within transactions, deeper than is possible.
    #[error("transactions within transactions, more than {MAX_TXN_DEPTH} deep")]
    TooDeep,
}

impl From<BatchOpError> for TxnErrorKind {
    fn from(error: BatchOpError) -> Self {
        match error {
            BatchOpError::UnknownOp(op) => Self::UnknownOp(op),
            error => Self::Op(error),
        }
    }
}

impl From<TxnErrorKind> for TxnError {
    fn from(kind: TxnErrorKind) -> Self {
        Self { at: String::new(), kind }
    }
}

impl TxnError {
    fn within(self, list: &str, position: usize) -> Self {
        let inner = if self.at.is_empty() { ": ".to_owned() } else { format!(".{}", self.at) };
        Self { at: format!("{list}[{position}]{inner}"), kind: self.kind }
    }
}

impl Txn {
    /// Reads one from JSON.
    pub fn parse(json: &[u8]) -> Result<Self, TxnError> {
        let body: TxnBody = from_json(json)?;
        if body.op.is_some() {
            return Err(TxnErrorKind::Pointless { field: "op", why: "only a transaction within another has it" }.into());
        }
        Self::of_body(&body, 1)
    }

    fn of_body(body: &TxnBody, depth: usize) -> Result<Self, TxnError> {
        if depth > MAX_TXN_DEPTH {
            return Err(TxnErrorKind::TooDeep.into());
        }
        let op = |json: &RawValue| parse_op(json.get().as_bytes(), depth);
        Ok(Self {
            compares: parse_list("if", &body.compares, |json| Ok(from_json::<CompareBody>(json.get().as_bytes())?.try_into()?))?,
            then: parse_list("then", &body.then, op)?,
            otherwise: parse_list("else", &body.otherwise, op)?,
        })
    }

    /// As it travels. What is not UTF-8 goes as base64url.
    pub fn to_body(&self) -> TxnBody {
        TxnBody {
            op: None,
            compares: self.compares.iter().map(|compare| raw(&compare.to_body())).collect(),
            then: self.then.iter().map(|op| raw(&op.to_body())).collect(),
            otherwise: self.otherwise.iter().map(|op| raw(&op.to_body())).collect(),
        }
    }
}

impl TxnOp {
    /// As it travels.
    pub fn to_body(&self) -> TxnOpBody<'_> {
        match self {
            Self::Get { key } => TxnOpBody::Key(Box::new(BatchOpBody::of_key("get", key))),
            Self::Put(put) => TxnOpBody::Key(Box::new(put.to_body())),
            Self::Patch(patch) => TxnOpBody::Key(Box::new(patch.to_body())),
            Self::Delete { key } => TxnOpBody::Key(Box::new(BatchOpBody::of_key("delete", key))),
            Self::List(TxnList { range, limit, is_reverse, is_with_values }) => TxnOpBody::Range(RangeOpBody {
                op: "list".to_owned(),
                limit: *limit,
                reverse: is_reverse.then_some(true),
                values: is_with_values.then_some(true),
                ..range.to_body()
            }),
            Self::DeleteRange(range) => TxnOpBody::Range(RangeOpBody {
                op: "delete_range".to_owned(),
                all: range.is_everything().then_some(true),
                ..range.to_body()
            }),
            Self::Txn(txn) => TxnOpBody::Txn(TxnBody { op: Some("txn".to_owned()), ..txn.to_body() }),
        }
    }
}

impl TxnCompare {
    /// As it travels.
    pub fn to_body(&self) -> CompareBody {
        let mut body = match &self.keys {
            TxnKeys::One(key) => {
                let (key, key64) = split(key);
                CompareBody { key, key64, ..CompareBody::default() }
            }
            TxnKeys::Range(range) => {
                let RangeOpBody { prefix, prefix64, start, start64, end, end64, .. } = range.to_body();
                // Every key, too, has to be asked for.
                let prefix = if range.is_everything() { Some(String::new()) } else { prefix };
                CompareBody { prefix, prefix64, start, start64, end, end64, ..CompareBody::default() }
            }
        };
        let number = |relation, number: u64| match relation {
            Relation::Equal => NumberTest::Is(number),
            relation => NumberTest::Stands(RelationTo::of(relation, number)),
        };
        match &self.test {
            TxnTest::Exists(exists) => body.exists = Some(*exists),
            TxnTest::Version(relation, told) => body.version = Some(number(*relation, *told)),
            TxnTest::CreateRevision(relation, told) => body.create_revision = Some(number(*relation, *told)),
            TxnTest::ModRevision(relation, told) => body.mod_revision = Some(number(*relation, *told)),
            TxnTest::Value(relation, value) => {
                let test = |text| match relation {
                    Relation::Equal => TextTest::Is(text),
                    relation => TextTest::Stands(RelationTo::of(*relation, text)),
                };
                let (value, value64) = split(value);
                (body.value, body.value64) = (value.map(test), value64.map(test));
            }
            TxnTest::Lease(relation, id) => {
                let id = lease::format_id(*id);
                body.lease = Some(match relation {
                    Relation::Equal => TextTest::Is(id),
                    relation => TextTest::Stands(RelationTo::of(*relation, id)),
                });
            }
        }
        body
    }
}

impl TryFrom<CompareBody> for TxnCompare {
    type Error = TxnErrorKind;

    fn try_from(body: CompareBody) -> Result<Self, TxnErrorKind> {
        let CompareBody { key, key64, prefix, prefix64, start, start64, end, end64, .. } = body;
        let range = RangeOpBody { prefix, prefix64, start, start64, end, end64, ..RangeOpBody::default() };
        let key = text64::join("key", key, key64)?;
        let keys = match (key, range.has_selection()) {
            (Some(key), false) => TxnKeys::One(key),
            (None, true) => TxnKeys::Range(range.selection()?),
            _ => return Err(TxnErrorKind::NotOne("a key and a range (prefix, start, end)")),
        };
        let mut tests = Vec::new();
        tests.extend(body.exists.map(TxnTest::Exists));
        let number = |test: NumberTest| match test {
            NumberTest::Is(number) => (Relation::Equal, number),
            NumberTest::Stands(relation) => relation.parts(),
        };
        let text = |test: TextTest| match test {
            TextTest::Is(text) => (Relation::Equal, text),
            TextTest::Stands(relation) => relation.parts(),
        };
        tests.extend(body.version.map(number).map(|(relation, told)| TxnTest::Version(relation, told)));
        tests.extend(body.create_revision.map(number).map(|(relation, told)| TxnTest::CreateRevision(relation, told)));
        tests.extend(body.mod_revision.map(number).map(|(relation, told)| TxnTest::ModRevision(relation, told)));
        tests.extend(body.value.map(text).map(|(relation, value)| TxnTest::Value(relation, value.into())));
        if let Some((relation, value64)) = body.value64.map(text) {
            let value = text64::decode(value64).map_err(|source| FieldError::Malformed { name: "value", source })?;
            tests.push(TxnTest::Value(relation, value.into()));
        }
        if let Some((relation, id)) = body.lease.map(text) {
            let is_none = !id.is_empty() && id.bytes().all(|digit| digit == b'0');
            let id = if is_none { Some(0) } else { lease::parse_id(&id) };
            let why = "neither the id of a lease nor 0";
            tests.push(TxnTest::Lease(relation, id.ok_or(TxnErrorKind::Pointless { field: "lease", why })?));
        }
        match (tests.pop(), tests.is_empty()) {
            (Some(test), true) => Ok(Self { keys, test }),
            _ => Err(TxnErrorKind::NotOne("exists, version, create_revision, mod_revision, value, value64 and lease")),
        }
    }
}

impl TxnRange {
    /// The bounds alone, where there are some.
    fn to_body(&self) -> RangeOpBody {
        let split_bound = |bound: &Bytes| if bound.is_empty() { (None, None) } else { split(bound) };
        let ((prefix, prefix64), (start, start64), (end, end64)) =
            (split_bound(&self.prefix), split_bound(&self.start), split_bound(&self.end));
        RangeOpBody { prefix, prefix64, start, start64, end, end64, ..RangeOpBody::default() }
    }
}

impl RangeOpBody {
    fn has_selection(&self) -> bool {
        let Self { prefix, prefix64, start, start64, end, end64, .. } = self;
        [prefix, prefix64, start, start64, end, end64].into_iter().any(Option::is_some)
    }

    fn selection(self) -> Result<TxnRange, TxnErrorKind> {
        let Self { prefix, prefix64, start, start64, end, end64, .. } = self;
        Ok(TxnRange {
            prefix: text64::join("prefix", prefix, prefix64)?.unwrap_or_default(),
            start: text64::join("start", start, start64)?.unwrap_or_default(),
            end: text64::join("end", end, end64)?.unwrap_or_default(),
        })
    }

    fn list(self) -> Result<TxnOp, TxnErrorKind> {
        if self.all.is_some() {
            return Err(TxnErrorKind::Pointless { field: "all", why: "a list without a selection is one of every key" });
        }
        let (limit, is_reverse, is_with_values) = (self.limit, self.reverse == Some(true), self.values == Some(true));
        Ok(TxnOp::List(TxnList { range: self.selection()?, limit, is_reverse, is_with_values }))
    }

    fn delete_range(self) -> Result<TxnOp, TxnErrorKind> {
        let given = [("limit", self.limit.is_some()), ("reverse", self.reverse.is_some()), ("values", self.values.is_some())];
        if let Some((field, _)) = given.into_iter().find(|(_, is_given)| *is_given) {
            return Err(TxnErrorKind::Pointless { field, why: "delete_range does not take it" });
        }
        let is_all = self.all == Some(true);
        let range = self.selection()?;
        match (range.is_everything(), is_all) {
            (true, false) => Err(TxnErrorKind::EmptySelection),
            (false, true) => Err(TxnErrorKind::Pointless { field: "all", why: "only without a selection" }),
            _ => Ok(TxnOp::DeleteRange(range)),
        }
    }
}

impl<T> RelationTo<T> {
    fn of(relation: Relation, side: T) -> Self {
        match relation {
            Relation::Equal => Self::Equal(side),
            Relation::NotEqual => Self::NotEqual(side),
            Relation::Less => Self::Less(side),
            Relation::Greater => Self::Greater(side),
        }
    }

    fn parts(self) -> (Relation, T) {
        match self {
            Self::Equal(side) => (Relation::Equal, side),
            Self::NotEqual(side) => (Relation::NotEqual, side),
            Self::Less(side) => (Relation::Less, side),
            Self::Greater(side) => (Relation::Greater, side),
        }
    }
}

fn parse_list<T>(
    name: &str,
    list: &[Box<RawValue>],
    parse: impl Fn(&RawValue) -> Result<T, TxnError>,
) -> Result<Vec<T>, TxnError> {
    list.iter().enumerate().map(|(position, json)| parse(json).map_err(|error| error.within(name, position))).collect()
}

/// What an operation is called.
#[derive(Deserialize)]
struct OpName<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
}

fn parse_op(json: &[u8], depth: usize) -> Result<TxnOp, TxnError> {
    let OpName { op } = serde_json::from_slice(json).map_err(TxnErrorKind::Json)?;
    match &*op {
        "list" => Ok(from_json::<RangeOpBody>(json)?.list()?),
        "delete_range" => Ok(from_json::<RangeOpBody>(json)?.delete_range()?),
        "txn" => Txn::of_body(&from_json(json)?, depth + 1).map(TxnOp::Txn),
        _ => Ok(match BatchOp::parse(json).map_err(TxnErrorKind::from)? {
            BatchOp::Get { key } => TxnOp::Get { key },
            BatchOp::Delete { cas: Some(_), .. } => return Err(pointless_cas().into()),
            BatchOp::Put(put) if put.cas.is_some() => return Err(pointless_cas().into()),
            BatchOp::Patch(patch) if patch.cas.is_some() => return Err(pointless_cas().into()),
            BatchOp::Delete { key, .. } => TxnOp::Delete { key },
            BatchOp::Put(put) => TxnOp::Put(put),
            BatchOp::Patch(patch) => TxnOp::Patch(patch),
        }),
    }
}

fn pointless_cas() -> TxnErrorKind {
    TxnErrorKind::Pointless { field: "cas", why: "a transaction compares in \"if\"" }
}

/// An object: fields without their names are not understood.
fn from_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, TxnErrorKind> {
    if json.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(serde_json::Error::custom("not a JSON object").into());
    }
    Ok(serde_json::from_slice(json)?)
}

fn raw(body: &impl Serialize) -> Box<RawValue> {
    to_raw_value(body).expect("bodies have string keys and no fallible parts")
}
