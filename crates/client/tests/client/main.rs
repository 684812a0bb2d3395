//! The client against nodes that answer what the test says.

#[expect(clippy::unwrap_used, reason = "the test's own node: what goes wrong in it fails the test")]
mod fake_node;
mod forms;
mod history;
mod keyspaces;
mod leases;
mod locks;
mod many;
mod patch;
mod retries;
mod txn;
mod watch;
