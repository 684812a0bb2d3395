//! Clusters of nodes without a shell: scripts of the protocol, step by step.

#![expect(clippy::unwrap_used, reason = "the test's own cluster: what goes wrong in it fails the test")]

mod beats;
mod defects;
mod durability;
mod eventual;
mod eventual_on_disk;
mod failing_engines;
mod harness;
mod keyspaces;
mod leaders;
mod leases;
mod lost_engines;
mod members;
mod odd_messages;
mod snapshots;
