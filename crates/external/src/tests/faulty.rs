//! A connection that fails: bytes pass through, until they are told not to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to what a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// Nobody answers: connections end as they begin.
    Gone,
    /// Connections are taken, and nothing comes.
    Silent,
    /// So many answers are lost, with their connections; what was asked for has happened.
    Lost(usize),
    /// So many answers end after some bytes.
    Cut(usize, usize),
}

/// Stands between a store and its server.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    fault: Mutex<Fault>,
    /// Counts what breaks all connections.
    breaks: watch::Sender<usize>,
    connections: AtomicUsize,
}

impl Link {
    pub(super) async fn to(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let fault = Mutex::new(Fault::None);
        let shared = Arc::new(Shared { fault, breaks: watch::channel(0).0, connections: AtomicUsize::new(0) });
        let task = tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    shared.connections.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(shared.clone().carry(client, server_port));
                }
            }
        });
        Self { port, shared, task }
    }

    /// From now on; connections that are there break.
    pub(super) fn set(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        self.shared.breaks.send_modify(|count| *count += 1);
    }

    /// From the next answer on, on connections as they are.
    pub(super) fn set_later(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.breaks.send_modify(|count| *count += 1);
    }
}

impl Shared {
    async fn carry(self: Arc<Self>, mut client: TcpStream, server_port: u16) {
        let mut breaks = self.breaks.subscribe();
        let fault = *self.fault.lock().unwrap();
        match fault {
            Fault::Gone => return,
            Fault::Silent => {}
            _ => {
                let Ok(mut server) = TcpStream::connect(("127.0.0.1", server_port)).await else { return };
                tokio::select! {
                    () = self.pass(&mut client, &mut server) => {}
                    _ = breaks.changed() => {}
                }
                return;
            }
        }
        breaks.changed().await.ok();
    }

    async fn pass(&self, client: &mut TcpStream, server: &mut TcpStream) {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let asking = tokio::io::copy(&mut from_client, &mut to_server);
        let answering = async {
            let mut bytes = vec![0; 64 << 10];
            loop {
                let Ok(len @ 1..) = from_server.read(&mut bytes).await else { return };
                let passes = self.next(len);
                if to_client.write_all(&bytes[..passes]).await.is_err() || passes < len {
                    return;
                }
            }
        };
        tokio::select! {
            _ = asking => {}
            () = answering => {}
        }
    }

    /// How much of the next answer passes.
    fn next(&self, len: usize) -> usize {
        let mut fault = self.fault.lock().unwrap();
        match &mut *fault {
            Fault::Lost(left @ 1..) => {
                *left -= 1;
                0
            }
            Fault::Cut(left @ 1.., bytes) => {
                *left -= 1;
                len.min(*bytes)
            }
            _ => len,
        }
    }
}
