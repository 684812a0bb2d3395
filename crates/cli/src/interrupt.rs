//! Being asked to stop: by somebody at the keyboard, by a supervisor, by a terminal that closes.

use std::future::pending;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ends when the process is asked to stop; from the first poll on, that does not end the process by itself. Where the system lets
/// nobody listen, it never ends, and the process does.
pub(crate) async fn interrupted() {
    let Ok([mut interrupt, mut terminate, mut hangup]) = listen() else { return pending().await };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

fn listen() -> io::Result<[Signal; 3]> {
    Ok([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?])
}
