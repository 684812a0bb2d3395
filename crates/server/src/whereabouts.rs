//! Where nodes are, for as long as the catalog is wrong about it.
//!
//! A node that comes back with other addresses tells a member, over REST, and again until its catalog says so: its peers would
//! look for it where it was, and could not even answer it. And a node whose own catalog is behind, while a peer that has moved
//! reaches it, asks other members where that is: what its leader sends it is of no use as long as it cannot answer.

use std::time::Duration;

use http::Method;
use quorate_api::cluster::{AddressChange, ClusterStatus};
use quorate_api::peer::Lane;
use quorate_discovery::Discovery;
use quorate_node::{Catalog, NodeRecord, SYSTEM_KEYSPACE};
use tokio::task::JoinSet;

use crate::node_calls::{call, get, reason};
use crate::node_loop::LoopHandle;
use crate::peers::Peers;

/// Between two looks at the catalog and at the peers.
const PAUSE: Duration = Duration::from_millis(500);

/// How long one member may take. It need not be long enough for an election: what it hears first is where this node is, and it
/// is told again.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What this node is, and where.
#[derive(Debug)]
pub(crate) struct Whereabouts {
    pub(crate) name: String,
    pub(crate) own: AddressChange,
}

impl Whereabouts {
    /// Never ends: nodes may move at any time.
    pub(crate) async fn keep(self, handle: &LoopHandle, peers: &Peers, discovery: &Discovery) {
        let mut unanswered: Vec<u64> = Vec::new();
        loop {
            tokio::time::sleep(PAUSE).await;
            let catalog = handle.views.catalog.load_full();
            let known = catalog.nodes.get(&self.name);
            // Before its first catalog a node cannot know, and it may be that nobody can send it one.
            if known.is_none_or(|known| self.is_elsewhere(known)) {
                let known = known.map_or("nothing", |known| known.peer_address.as_str());
                tracing::info!(known, now = self.own.peer_address, "telling the cluster where this node is");
                self.tell(self.members(&catalog, discovery).await).await;
            }
            let before = std::mem::replace(&mut unanswered, unanswered_peers(peers));
            // Seen twice: connections in both directions are not made at the same moment.
            if unanswered.iter().any(|node| before.contains(node)) {
                self.ask(handle, peers, self.members(&catalog, discovery).await).await;
            }
        }
    }

    fn is_elsewhere(&self, known: &NodeRecord) -> bool {
        let AddressChange { node_id, client_address, peer_address, .. } = &self.own;
        known.id == *node_id && (known.client_address != *client_address || known.peer_address != *peer_address)
    }

    /// Where members may be asked: where the catalog knows them, and, if they have moved too, wherever nodes are found. This node
    /// itself as well: it may be the only one.
    async fn members(&self, catalog: &Catalog, discovery: &Discovery) -> Vec<String> {
        let others = catalog.nodes.values().filter(|node| node.id != self.own.node_id && !node.client_address.is_empty());
        let mut addresses: Vec<String> = others.map(|node| node.client_address.clone()).collect();
        addresses.extend(discovery.find().await.into_iter().flat_map(|found| found.addresses));
        addresses.push(self.own.client_address.clone());
        addresses.sort();
        addresses.dedup();
        addresses
    }

    async fn tell(&self, members: Vec<String>) {
        let path = format!("/v1/cluster/nodes/{}/addresses?timeout=1s", self.name);
        let mut telling = JoinSet::new();
        for address in members {
            let (path, own) = (path.clone(), self.own.clone());
            telling.spawn(async move {
                match call(&address, (Method::PUT, &path), &own, PATIENCE).await {
                    Ok((status, _)) if status.is_success() => tracing::info!(address, "the cluster knows where this node is"),
                    Ok((status, body)) => tracing::info!(address, reason = reason(status, &body), "not told"),
                    Err(error) => tracing::debug!(address, error, "not told"),
                }
            });
        }
        telling.join_all().await;
    }

    /// Asks where the peers are, and dials them where the member says whose catalog is the newest, if it is newer than ours.
    async fn ask(&self, handle: &LoopHandle, peers: &Peers, members: Vec<String>) {
        let mut asking = JoinSet::new();
        for address in members.into_iter().filter(|address| *address != self.own.client_address) {
            asking.spawn(async move { get(&address, "/v1/cluster", PATIENCE).await });
        }
        let answers = asking.join_all().await.into_iter().filter_map(|answer| {
            let (status, body) = answer.ok()?;
            let cluster: ClusterStatus = status.is_success().then(|| serde_json::from_slice(&body).ok())??;
            (cluster.id == self.own.cluster_id).then_some(cluster)
        });
        let own_revision = handle.views.catalog.load().changed_at.0;
        let newest = answers.max_by_key(catalog_revision).filter(|cluster| catalog_revision(cluster) > own_revision);
        let Some(newest) = newest else { return };
        let catalog = handle.views.catalog.load();
        for node in newest.nodes {
            let known = catalog.nodes.get(&node.name).filter(|known| known.peer_address != node.peer_address);
            if let Some(known) = known {
                tracing::info!(node = known.id, peer_address = node.peer_address, told_by = newest.served_by, "a peer has moved");
                peers.redirect(known.id, &node.peer_address);
            }
        }
    }
}

/// Peers that reach this node and that it does not reach.
fn unanswered_peers(peers: &Peers) -> Vec<u64> {
    let status = peers.status().into_iter();
    status.filter(|link| link.lane == Lane::Append && link.is_receiving && !link.is_connected).map(|link| link.node).collect()
}

/// How new the catalog is by which a member answers.
fn catalog_revision(cluster: &ClusterStatus) -> u64 {
    let system = cluster.shards.iter().find(|shard| shard.keyspace == SYSTEM_KEYSPACE);
    system.map_or(0, |system| system.revision)
}
