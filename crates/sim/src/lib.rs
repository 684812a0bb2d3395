//! The simulated shell: whole clusters in one thread, where time, network, disks and misfortune follow from a seed.
//!
//! [`run`] takes a [`Scenario`] and returns a [`Report`]. The nodes are the real ones (`quorate-node` with its log, state machine
//! and codec); what the real shell takes from the operating system is simulated: sockets in `transport` over `network`, disks by
//! `quorate_log::testing::MemoryDisk` in `host`, clocks in `time`, threads as events in `queue`.
//!
//! What is checked is in `oracle` (while things happen) and [`history`] (what clients saw). What goes wrong is in `faults`.
//! That the checkers find bugs is seen by planting some: `mutation`.
//!
//! What it must not know: tokio, real clocks and sockets.

mod clients;
mod counters;
mod coverage;
mod faults;
mod fingerprint;
pub mod history;
mod host;
mod journal;
mod leasers;
mod model;
mod mutation;
mod network;
mod node_watches;
mod operator;
mod oracle;
mod queue;
mod random;
mod report;
mod retained;
mod scenario;
mod shell;
mod simulation;
mod time;
mod timed;
mod trace;
mod transactions;
mod transport;
mod values;
mod violation;
mod watchers;
mod writers;

pub use coverage::Coverage;
pub use faults::FaultKind;
pub use mutation::Mutation;
pub use random::Random;
pub use report::{Report, run};
pub use scenario::{Load, Scenario, Speed};
pub use time::SimTime;
pub use trace::{Sink, Trace};
pub use violation::Violation;
