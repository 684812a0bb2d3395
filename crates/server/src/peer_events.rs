//! From the transport to the loop: frames in order, and what was lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_api::peer::{Frame, Lane, Refusal, RefusalKind};
use quorate_node::{Input, PeerFrame};
use tokio::sync::mpsc;

use crate::peers::{Arrival, Delivery, PeerEvents};
use crate::starts::{self, KeptStarts};

/// Hands what the transport reports to the loop.
#[derive(Debug)]
pub(crate) struct ToLoop {
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) starts: Arc<KeptStarts>,
}

impl PeerEvents for ToLoop {
    fn on_frame(&self, arrival: Arrival, frame: Frame) -> Delivery<'_> {
        let Arrival { from, start, connection, lane } = arrival;
        Box::pin(async move {
            // Durable before anything that it says has an effect, so that an older one is refused after our own restart too.
            if !self.starts.has(from, &start) && !starts::keep(&self.starts, BTreeMap::from([(from, start)]), true).await {
                return;
            }
            let frame = PeerFrame { from, incarnation: start.incarnation, connection, lane, frame };
            // The loop has ended: so will the transport.
            let _ = self.inputs.send(Input::Frame(frame)).await;
        })
    }

    fn on_unreachable(&self, node: u64, lane: Lane) {
        // If the loop is that far behind, its own timeouts tell it.
        let _ = self.inputs.try_send(Input::Unreachable { node, lane });
    }

    fn on_cast_out(&self, refusal: &Refusal) {
        let input = match refusal.kind {
            RefusalKind::RemovedNode => Input::Removed,
            _ => Input::Outdated(refusal.reason.clone()),
        };
        // Told again with every attempt to connect.
        let _ = self.inputs.try_send(input);
    }

    fn on_connected(&self, node: u64, lane: Lane) {
        tracing::debug!(node, lane = lane.name(), "connected");
    }
}
