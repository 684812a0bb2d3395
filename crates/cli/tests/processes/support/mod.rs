//! What the tests share: nodes as child processes, clusters of them, a plain HTTP connection, and a load that checks itself.

mod cluster;
mod folder;
mod http;
mod links;
mod load;
mod process;
mod registers;
mod servers;
mod stores;
mod time;
mod work;

pub(crate) use cluster::{Cluster, READY_LIMIT};
pub(crate) use folder::contents;
pub(crate) use http::{Answer, Connection, Request};
pub(crate) use links::Linked;
pub(crate) use load::Load;
pub(crate) use process::{NodeProcess, program};
pub(crate) use quorate_test_servers::free_ports;
pub(crate) use servers::{DnsServer, ZooKeeper};
pub(crate) use stores::{HUSH, TestStore};
pub(crate) use time::{now, pause, since, tell, until};
pub(crate) use work::Work;
