//! The REST API: HTTP/1 connections, the key routes, and everything else.
//!
//! What is behind it comes in as a [`Store`]. The key routes (`/v1/kv/...`, `/key...`) are dispatched by hand on the raw
//! bytes of the path, because keys are any bytes and because they are what load consists of; the rest goes through axum.
//!
//! One request, in the order of the files: [`connections`](serve) accepts and watches over time limits, `endpoint` checks
//! host and origin (`browser`), picks the route and renders refusals; `one_key`, `list`, `compat`, `keyspaces` and
//! `admin` answer.

mod activity;
mod admin;
mod answer;
mod answer_memory;
mod batch;
mod batch_atomic;
mod batch_stream;
mod body;
mod browser;
mod compat;
mod conditions;
mod config;
mod connections;
mod cursor;
mod deadline;
mod delete_range;
mod endpoint;
mod exchange;
mod feeds;
mod forward;
mod history;
mod keyspaces;
mod leases;
mod lines;
mod list;
mod locks;
mod meta;
mod metrics;
mod once;
mod one_key;
mod openapi;
mod outside;
mod patch;
mod query;
mod refusal;
mod restore;
mod scans;
mod selection;
mod session;
mod settings;
mod snapshot;
mod store;
mod turns;
mod txn;
mod unparsed;
mod watch;
mod window;

use std::time::Duration;

pub use config::{CompatPostKey, RestConfig};
pub use connections::serve;
pub use feeds::{Feeds, LiveFeed, Watcher};
pub(crate) use keyspaces::point_in_time;
pub(crate) use outside::{UNKNOWN, meta_of_tag};
pub(crate) use refusal::code_of_store;
pub(crate) use settings::{engine_body, spec_in, spec_of};

pub use outside::Outside;
pub use settings::SettingsPatch;
pub use store::{
    Answered, Check, Freshness, KeyReading, KnownKeyspace, Reading, Replicated, Store, StoreError, Synced, Syncing, Wish, Written,
};

/// The largest write: it must fit into one entry, one frame, and the queue of the request lane.
pub(crate) const MAX_WRITE_BYTES: usize = 12 << 20;

/// Time limit of a request that names none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time limit that a request can ask for.
pub const MAX_TIMEOUT: Duration = Duration::from_mins(1);
