//! The state machine of a shard, from outside: entries in; outcomes, pairs and numbers out.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod full;
mod history;
mod leases;
mod model;
mod once;
mod pages;
mod patches;
mod ranges;
mod replicas;
mod restarts;
mod transactions;
mod writes;
