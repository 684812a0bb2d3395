//! What travels between client and node, and between peers: plain types with checked conversions. No behaviour.

pub mod backup;
pub mod batch;
pub mod cluster;
pub mod duration;
pub mod entry;
pub mod etag;
pub mod header;
pub mod key;
pub mod keyspace;
pub mod lease;
pub mod lock;
pub mod node;
pub mod outside;
pub mod patch;
pub mod peer;
pub mod problem;
pub mod quantity;
pub mod replication;
pub mod session;
pub mod text64;
pub mod txn;
pub mod user_meta;
pub mod watch;
