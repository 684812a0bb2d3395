//! The REST API from outside, over real sockets, with a store in memory behind it.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod bad_input;
mod batch;
mod batch_stream;
mod browser;
mod cache;
mod cluster;
mod compat;
mod conditions;
mod connections;
mod delete_range;
mod failures;
mod folders;
mod history;
mod keyspaces;
mod leases;
mod list;
mod locks;
mod once;
mod one_key;
mod openapi;
mod patch;
mod server;
mod session;
mod snapshot;
mod store;
mod txn;
mod user_meta;
mod watch;
