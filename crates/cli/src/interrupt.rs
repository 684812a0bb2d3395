//! Being asked to stop: by somebody at the keyboard, by a supervisor, by a terminal that closes.

use std::future::pending;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Requests to stop, from now on: none is lost between two waits for one.
pub(crate) struct Interruptions(Option<[Signal; 3]>);

impl Interruptions {
    /// Begins to listen. From now on a request to stop does not end the process by itself; but where the system lets nobody
    /// listen, it does.
    pub(crate) fn listen() -> Self {
        Self(listen().ok())
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        let Some([interrupt, terminate, hangup]) = &mut self.0 else { return pending().await };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Ends when the process is asked to stop; from the first poll on, that does not end the process by itself. Where the system lets
/// nobody listen, it never ends, and the process does.
pub(crate) async fn interrupted() {
    Interruptions::listen().next().await;
}

fn listen() -> io::Result<[Signal; 3]> {
    Ok([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?])
}
