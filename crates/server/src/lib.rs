//! The real shell around a node: REST, peer transport, configuration, metrics, files, threads.
//!
//! It decides nothing about consensus: what the node wants done is done, and what happens is told to it.

mod abort;
mod behind;
mod clock;
pub mod config;
mod data_dir;
mod eventual_store;
mod eventual_view;
mod finding;
mod formation;
mod job_workers;
mod joining;
mod keyspace_store;
mod log_writer;
mod metrics;
mod node_calls;
mod node_loop;
mod node_store;
mod open_files;
mod outside_engines;
mod outside_store;
mod outside_stores;
mod peer_events;
pub mod peers;
pub mod rest;
mod start;
mod starts;
mod waiting;
mod whereabouts;

pub use data_dir::DataDirError;
pub use joining::JoinRefused;
pub use start::{StartError, readmit, run};
