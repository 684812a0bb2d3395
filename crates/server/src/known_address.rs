//! Keeps the cluster's word of where this node is true. A node that comes back with other addresses tells a member, over REST, and
//! again until the catalog says so: its peers would look for it where it was, and could not even answer it.

use std::time::Duration;

use http::Method;
use quorate_api::cluster::AddressChange;
use quorate_discovery::Discovery;
use quorate_node::{Catalog, NodeRecord};

use crate::node_calls::{call, reason};
use crate::node_loop::LoopHandle;

/// Between two looks at the catalog, or two rounds of telling.
const PAUSE: Duration = Duration::from_millis(500);

/// How long one member may take. It need not be long enough for an election: what it hears first is where this node is, and it is
/// told again.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What this node is, and where.
#[derive(Debug)]
pub(crate) struct KnownAddress {
    pub(crate) name: String,
    pub(crate) change: AddressChange,
}

impl KnownAddress {
    /// Never ends: somebody else may change the catalog at any time.
    pub(crate) async fn keep(self, handle: &LoopHandle, discovery: &Discovery) {
        loop {
            tokio::time::sleep(PAUSE).await;
            let catalog = handle.views.catalog.load_full();
            if let Some(known) = catalog.nodes.get(&self.name).filter(|known| self.is_elsewhere(known)) {
                tracing::info!(
                    known = known.peer_address,
                    now = self.change.peer_address,
                    "telling the cluster that this node is found elsewhere"
                );
                self.tell(&catalog, discovery).await;
            }
        }
    }

    fn is_elsewhere(&self, known: &NodeRecord) -> bool {
        let AddressChange { node_id, client_address, peer_address, .. } = &self.change;
        known.id == *node_id && (known.client_address != *client_address || known.peer_address != *peer_address)
    }

    /// Tells everybody who may be a member: where the catalog knows them, and, if they have moved too, wherever nodes are found.
    /// This node itself as well: it may be the only one.
    async fn tell(&self, catalog: &Catalog, discovery: &Discovery) {
        let others = catalog.nodes.values().filter(|node| node.id != self.change.node_id && !node.client_address.is_empty());
        let mut addresses: Vec<String> = others.map(|node| node.client_address.clone()).collect();
        addresses.extend(discovery.find().await.into_iter().flat_map(|found| found.addresses));
        addresses.push(self.change.client_address.clone());
        addresses.sort();
        addresses.dedup();
        let path = format!("/v1/cluster/nodes/{}/addresses?timeout=1s", self.name);
        let mut telling = tokio::task::JoinSet::new();
        for address in addresses {
            let (path, change) = (path.clone(), self.change.clone());
            telling.spawn(async move {
                match call(&address, (Method::PUT, &path), &change, PATIENCE).await {
                    Ok((status, _)) if status.is_success() => tracing::info!(address, "the cluster knows where this node is"),
                    Ok((status, body)) => tracing::info!(address, reason = reason(status, &body), "not told"),
                    Err(error) => tracing::debug!(address, error, "not told"),
                }
            });
        }
        telling.join_all().await;
    }
}
