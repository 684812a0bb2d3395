//! The cluster: who is in it, who leads, letting in and removing, readiness.

use http::Method;
use quorate_api::cluster::{ClusterStatus, Items, JoinAnswer, JoinRequest, NodeStatus, TransferAnswer, TransferRequest};
use quorate_api::problem::WriteOutcome;

use crate::call::Client;
use crate::error::Error;
use crate::key_path::one_segment;
use crate::transport::{Effect, READINESS_PATH, Request};

impl Client {
    /// The cluster as the answering node sees it.
    pub async fn cluster(&self) -> Result<ClusterStatus, Error> {
        self.call(Request::read("/v1/cluster".to_owned())).await?.json(WriteOutcome::NotApplied)
    }

    /// The nodes, by name.
    pub async fn nodes(&self) -> Result<Vec<NodeStatus>, Error> {
        let answer = self.call(Request::read("/v1/cluster/nodes".to_owned())).await?;
        Ok(answer.json::<Items<NodeStatus>>(WriteOutcome::NotApplied)?.items)
    }

    /// Asks to be let in. Retried at every endpoint: the cluster knows a repetition by its token.
    ///
    /// # Panics
    ///
    /// If the request has no token.
    pub async fn join(&self, request: &JoinRequest) -> Result<JoinAnswer, Error> {
        assert!(!request.token.is_empty(), "without a token a repetition looks like another node");
        let post = Request::write(Method::POST, "/v1/cluster/nodes".to_owned()).with_json(request);
        let answer = self.call(Request { effect: Effect::Repeatable, ..post }).await?;
        answer.json(WriteOutcome::Applied)
    }

    /// Removes a node for good: its name may come back, with an empty disk, as another node.
    pub async fn remove_node(&self, name: &str) -> Result<(), Error> {
        self.call(Request::write(Method::DELETE, format!("/v1/cluster/nodes/{}", one_segment(name)))).await.map(drop)
    }

    /// Hands leadership over.
    pub async fn transfer_leader(&self, request: &TransferRequest) -> Result<TransferAnswer, Error> {
        let post = Request::write(Method::POST, "/v1/cluster/leader".to_owned()).with_json(request);
        self.call(post).await?.json(WriteOutcome::Applied)
    }

    /// The answering node's metrics, in Prometheus' text form.
    pub async fn metrics(&self) -> Result<String, Error> {
        let answer = self.call(Request::read("/metrics".to_owned())).await?;
        String::from_utf8(answer.body.to_vec()).map_err(|error| answer.unexpected(error.to_string(), WriteOutcome::NotApplied))
    }

    /// Returns if a node is ready to serve, one of several is enough; otherwise [`Error::NotReady`] says what it waits for.
    pub async fn ready(&self) -> Result<(), Error> {
        self.call(Request::read(READINESS_PATH.to_owned())).await.map(drop)
    }
}
