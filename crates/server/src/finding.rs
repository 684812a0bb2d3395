//! Where a keyspace is: in this node's replica, in a store outside, or, for as long as this node has none that can be read, at
//! others.

use quorate_node::{Catalog, HostedKeyspace, KeyspaceRecord, Monotonic, ReplicaRole, SYSTEM_KEYSPACE};

use crate::node_store::{Running, START_POLL};
use crate::outside_stores::OutsideKeyspace;
use crate::rest::StoreError;

/// So many other nodes are asked for what cannot be read here.
const MAX_ELSEWHERE: usize = 4;

/// Where the pairs of a keyspace are.
pub(crate) enum Found {
    /// In this node's replica.
    Hosted(HostedKeyspace),
    /// In a store outside.
    Outside(OutsideKeyspace),
}

impl Running {
    /// Where a keyspace is. What is missing here may have been made through another node a moment ago, so the cluster is asked
    /// before that is said; and until the catalog has arrived, nothing is known to be missing.
    pub(crate) async fn hosted(&self, keyspace: &str, deadline: Monotonic) -> Result<HostedKeyspace, StoreError> {
        let hosted = self.hosted_in_any_state(keyspace, deadline).await?;
        if self.is_restoring(keyspace, deadline).await? {
            return Err(StoreError::Busy(format!("keyspace {keyspace} is being restored from a backup")));
        }
        Ok(hosted)
    }

    /// The same, also while it is being restored.
    pub(crate) async fn hosted_in_any_state(&self, keyspace: &str, deadline: Monotonic) -> Result<HostedKeyspace, StoreError> {
        match self.found(keyspace, deadline).await? {
            Found::Hosted(hosted) => Ok(hosted),
            Found::Outside(_) => Err(StoreError::Internal(format!("keyspace {keyspace} is in a store outside"))),
        }
    }

    /// The same of a keyspace that may be outside.
    pub(crate) async fn found(&self, keyspace: &str, deadline: Monotonic) -> Result<Found, StoreError> {
        self.look_for(keyspace, deadline, || self.find(keyspace)).await
    }

    fn find(&self, keyspace: &str) -> Option<Found> {
        let hosted = self.handle.views.hosted.load();
        let hosted = hosted.keyspaces.get(keyspace).cloned().map(Found::Hosted);
        hosted.or_else(|| self.outside.find(keyspace).map(Found::Outside))
    }

    /// Looks again until there is something of a keyspace. A missing one is so for the whole cluster, as of now.
    pub(crate) async fn look_for<T>(
        &self,
        keyspace: &str,
        deadline: Monotonic,
        look: impl Fn() -> Option<T>,
    ) -> Result<T, StoreError> {
        let mut is_known = false;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            let hosted = self.handle.views.hosted.load_full();
            if let Some(system) = hosted.keyspaces.get(SYSTEM_KEYSPACE).filter(|_| !is_known) {
                if self.latest_record(system, keyspace, deadline).await?.is_none() {
                    return Err(StoreError::KeyspaceNotFound(keyspace.to_owned()));
                }
                is_known = true;
            }
            if self.handle.clock.now() >= deadline {
                return Err(StoreError::NoLeader);
            }
            tokio::time::sleep(START_POLL).await;
        }
    }

    /// Whether a keyspace can be read through this node now: in its own replica, or in a store outside.
    pub(crate) fn has(&self, keyspace: &str) -> bool {
        self.handle.views.hosted.load().keyspaces.contains_key(keyspace) || self.outside.has(keyspace)
    }

    /// Where clients find nodes that have a whole replica of a keyspace; first those that this node is connected to, which after
    /// a start may be none yet.
    pub(crate) fn elsewhere(&self, keyspace: &str) -> Vec<String> {
        let catalog = self.handle.views.catalog.load();
        let is_replicated = |record: &&KeyspaceRecord| !record.replication.is_alone() && !record.is_restoring;
        let Some(record) = catalog.keyspaces.get(keyspace).filter(is_replicated) else { return Vec::new() };
        let replicas = record.shards.iter().flat_map(|shard| &shard.replicas);
        let whole = replicas.filter(|replica| replica.role == ReplicaRole::Voter && replica.node != self.node);
        let links = self.peers.status();
        let is_connected = |node: u64| links.iter().any(|link| link.node == node && link.is_connected);
        let mut nodes: Vec<u64> = whole.map(|replica| replica.node).collect();
        nodes.sort_by_key(|node| !is_connected(*node));
        nodes.truncate(MAX_ELSEWHERE);
        let address =
            |node: u64| catalog.nodes.values().find(|record| record.id == node).map(|record| record.client_address.clone());
        nodes.into_iter().filter_map(address).filter(|address| !address.is_empty()).collect()
    }

    /// Its restore may have ended through another node a moment ago, so here, too, the cluster is asked before that is said.
    async fn is_restoring(&self, keyspace: &str, deadline: Monotonic) -> Result<bool, StoreError> {
        if !self.handle.views.catalog.load().keyspaces.get(keyspace).is_some_and(|record| record.is_restoring) {
            return Ok(false);
        }
        let hosted = self.handle.views.hosted.load_full();
        let Some(system) = hosted.keyspaces.get(SYSTEM_KEYSPACE) else { return Ok(true) };
        let latest = self.latest_record(system, keyspace, deadline).await?;
        Ok(latest.is_some_and(|record| record.is_restoring))
    }

    /// A keyspace as the cluster has it now.
    async fn latest_record(
        &self,
        system: &HostedKeyspace,
        keyspace: &str,
        deadline: Monotonic,
    ) -> Result<Option<KeyspaceRecord>, StoreError> {
        self.read_index(system.group, deadline).await?;
        Ok(Catalog::keyspace(system.engine.view().as_ref(), keyspace)?)
    }
}
