//! The program as scripts see it: output, exit codes and errors, against a node that answers what the test says.

mod answers;
mod bench;
#[expect(clippy::unwrap_used, reason = "the test's own node and calls: what goes wrong in them fails the test")]
mod calls;
#[expect(clippy::unwrap_used, reason = "the test's own files: what is wrong with them fails the test")]
mod examples;
mod history;
mod keyspaces;
mod patch;
mod transfers;
mod txn;
mod usage;
