//! What the tests share: nodes as child processes, clusters of them, a plain HTTP connection, and a load that checks itself.

mod cluster;
mod folder;
mod http;
mod links;
mod load;
mod process;
mod registers;
mod servers;
mod time;
mod work;

pub(crate) use cluster::{Cluster, READY_LIMIT};
pub(crate) use folder::contents;
pub(crate) use http::{Connection, Request};
pub(crate) use links::Linked;
pub(crate) use load::Load;
pub(crate) use process::{NodeProcess, free_ports, program};
pub(crate) use servers::{DnsServer, Redis, ZooKeeper};
pub(crate) use time::{now, pause, since, tell, until};
pub(crate) use work::Work;
