//! Clusters of nodes without a shell: scripts of the protocol, step by step.

mod defects;
mod durability;
#[expect(clippy::unwrap_used, reason = "the test's own cluster: what goes wrong in it fails the test")]
mod harness;
mod leaders;
mod members;
mod odd_messages;
mod snapshots;
