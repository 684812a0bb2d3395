//! From the transport to the loop: frames in order, and what was lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use quorate_api::peer::{Frame, Lane};
use quorate_node::{Input, PeerFrame};
use tokio::sync::mpsc;

use crate::data_dir::DataDir;
use crate::peers::{Arrival, Delivery, PeerEvents};

/// Hands what the transport reports to the loop.
#[derive(Debug)]
pub(crate) struct ToLoop {
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) folder: Arc<DataDir>,
    /// The newest start of every peer that is on disk.
    pub(crate) seen: Arc<Mutex<BTreeMap<u64, u64>>>,
}

const POISONED: &str = "no panic while the map is locked";

impl PeerEvents for ToLoop {
    fn on_frame(&self, arrival: Arrival, frame: Frame) -> Delivery<'_> {
        let Arrival { from, incarnation, connection, lane } = arrival;
        Box::pin(async move {
            if self.is_new_start(from, incarnation) && !self.remember(from, incarnation).await {
                return;
            }
            let frame = PeerFrame { from, incarnation, connection, lane, frame };
            // The loop has ended: so will the transport.
            let _ = self.inputs.send(Input::Frame(frame)).await;
        })
    }

    fn on_unreachable(&self, node: u64, lane: Lane) {
        // If the loop is that far behind, its own timeouts tell it.
        let _ = self.inputs.try_send(Input::Unreachable { node, lane });
    }

    fn on_removed(&self) {
        // Told again with every attempt to connect.
        let _ = self.inputs.try_send(Input::Removed);
    }

    fn on_connected(&self, node: u64, lane: Lane) {
        tracing::debug!(node, lane = lane.name(), "connected");
    }
}

impl ToLoop {
    fn is_new_start(&self, from: u64, incarnation: u64) -> bool {
        self.seen.lock().expect(POISONED).get(&from).is_none_or(|seen| *seen < incarnation)
    }

    /// Makes the start durable before anything that it says has an effect, so that an older one is refused after our own
    /// restart too.
    async fn remember(&self, from: u64, incarnation: u64) -> bool {
        let (folder, seen) = (Arc::clone(&self.folder), Arc::clone(&self.seen));
        let written = tokio::task::spawn_blocking(move || {
            let mut seen = seen.lock().expect(POISONED);
            let mut next = seen.clone();
            next.insert(from, incarnation);
            folder.write_seen_incarnations(&next)?;
            *seen = next;
            Ok::<_, crate::data_dir::DataDirError>(())
        });
        match written.await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(%error, "what a peer says is dropped, since its start cannot be noted");
                false
            }
            Err(_) => false,
        }
    }
}
