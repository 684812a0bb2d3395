//! Nodes that register themselves in ZooKeeper, and find each other there.
//!
//! Below the path, each node has an entry of its name, whose content is its address and which goes with the node's session: a
//! node that dies is gone from there when its session ends, at the latest [`SESSION_TIMEOUT`] later. A task holds the session:
//! it looks at the entries whenever ZooKeeper tells that they changed, and every third of the time limit, which also is what
//! keeps the session. A connection that is lost is made again, with the next server, and takes the session up; if that has
//! ended meanwhile, a new one begins, and the node registers again.
//!
//! Written here, and not taken from a crate: of those there are, one brings a second reactor beside tokio's and forty packages,
//! and the others lose watches or sessions when the connection breaks.

mod connection;
mod wire;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::{Entry, MAX_ADDRESSES, Problem, split_address};

use connection::{Connection, Trouble, code};
use wire::Session;

/// For how long a node may be silent before its entry goes.
const SESSION_TIMEOUT: Duration = Duration::from_secs(6);

/// Between two attempts to reach any server.
const PAUSE: Duration = Duration::from_millis(500);

/// What is known of the entries.
type Known = (Vec<String>, Option<Problem>);

/// One node's part in the registry; without an entry, that of a reader. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    known: watch::Receiver<Option<Known>>,
    /// Holds one at most: there is nothing to withdraw twice.
    withdraw: mpsc::Sender<oneshot::Sender<()>>,
}

impl Registration {
    /// Begins, on a task of its own.
    pub(crate) fn start(servers: Vec<String>, path: String, entry: Option<Entry>) -> Self {
        let (publish, known) = watch::channel(None);
        let (withdraw, mut withdrawn) = mpsc::channel::<oneshot::Sender<()>>(1);
        let mut registrar = Registrar { servers, path, entry, session: Session::default(), took_over: None, publish };
        tokio::spawn(async move {
            let mut connection = None;
            // Dropped between two packets, a connection is still one; the session can be ended on it.
            let answer = tokio::select! {
                () = registrar.run(&mut connection) => None,
                answer = withdrawn.recv() => answer,
            };
            if let Some(connection) = connection {
                let _ = connection.close().await;
            }
            let _ = answer.map(|answer| answer.send(()));
        });
        Self { known, withdraw }
    }

    /// The addresses of all entries, as last seen, once they have been looked at at all.
    pub(crate) async fn now(&self) -> Known {
        let mut known = self.known.clone();
        let first = known.wait_for(Option::is_some).await.ok().and_then(|known| known.clone());
        first.unwrap_or_else(|| (Vec::new(), Some(Problem::Failed("the registration was withdrawn".to_owned()))))
    }

    /// Ends the session, and with it the entry.
    pub(crate) async fn withdraw(&self) {
        let (answer, answered) = oneshot::channel();
        if self.withdraw.send(answer).await.is_ok() {
            let _ = answered.await;
        }
    }
}

struct Registrar {
    servers: Vec<String>,
    path: String,
    entry: Option<Entry>,
    session: Session,
    /// The session in which an entry of this name was taken over: that is done once.
    took_over: Option<i64>,
    publish: watch::Sender<Option<Known>>,
}

impl Registrar {
    /// Never ends by itself.
    async fn run(&mut self, connection: &mut Option<Connection>) {
        let servers = self.servers.clone();
        let mut failed_in_turn = 0;
        for server in servers.iter().cycle() {
            let held = self.hold(server, connection).await;
            if connection.take().is_some() {
                failed_in_turn = 0;
            }
            if let Err(error) = held {
                failed_in_turn += 1;
                // One that is down is what there are several for.
                if failed_in_turn >= servers.len() {
                    self.report(Problem::Failed(format!("{server}: {error}")));
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Keeps the session at this server for as long as that goes.
    async fn hold(&mut self, server: &str, held: &mut Option<Connection>) -> std::io::Result<()> {
        let timeout_ms = SESSION_TIMEOUT.as_millis() as i32;
        self.session.timeout_ms = timeout_ms;
        let Some((connection, session)) = Connection::open(server, &self.session).await? else {
            tracing::info!(server, "the session with ZooKeeper has ended: beginning another");
            self.session = Session::default();
            return Ok(());
        };
        if session.id != self.session.id {
            tracing::debug!(server, session = session.id, "a session with ZooKeeper");
        }
        let beat = Duration::from_millis(u64::from(session.timeout_ms.unsigned_abs()) / 3);
        self.session = session;
        let connection = held.insert(connection);
        loop {
            match self.look(connection).await {
                Ok((addresses, None)) => {
                    let nobody = || Problem::Nothing(format!("no node is registered below {}", self.path));
                    let problem = addresses.is_empty().then(nobody);
                    self.publish.send_replace(Some((addresses, problem)));
                }
                Ok((addresses, Some(refused))) => {
                    self.publish.send_modify(|known| *known = Some((addresses, known.take().and_then(|(_, problem)| problem))));
                    self.report(self.refusal(refused));
                }
                Err(Trouble::Lost(error)) => return Err(error),
                Err(Trouble::Refused(code::SESSION_EXPIRED)) => {
                    self.session = Session::default();
                    return Ok(());
                }
                Err(Trouble::Refused(error)) => self.report(self.refusal(error)),
            }
            if let Ok(Err(error)) = tokio::time::timeout(beat, connection.notified()).await {
                return Err(error);
            }
        }
    }

    /// Makes sure of the own entry, and reads all there are; besides, why the own entry is not among them.
    async fn look(&mut self, connection: &mut Connection) -> Result<(Vec<String>, Option<i32>), Trouble> {
        let mut refused = None;
        if let Some(entry) = self.entry.clone() {
            match self.register(connection, &entry).await {
                Err(Trouble::Refused(error)) if error != code::SESSION_EXPIRED => refused = Some(error),
                registered => registered?,
            }
        }
        let mut names = connection.children(&self.path).await?;
        names.sort();
        // One more than is taken, so that what is left out is told.
        names.truncate(MAX_ADDRESSES + 1);
        let mut addresses = Vec::new();
        for name in names {
            let data = match connection.data(&format!("{}/{name}", self.path)).await {
                Ok(data) => data,
                // Gone since they were listed.
                Err(Trouble::Refused(code::NO_NODE)) => continue,
                Err(trouble) => return Err(trouble),
            };
            match std::str::from_utf8(&data.bytes) {
                Ok(address) if split_address(address).is_ok() => addresses.push(address.to_owned()),
                _ => tracing::warn!(name, path = self.path, "an entry in ZooKeeper that is no address is passed over"),
            }
        }
        Ok((addresses, refused))
    }

    async fn register(&mut self, connection: &mut Connection, entry: &Entry) -> Result<(), Trouble> {
        let path = format!("{}/{}", self.path, entry.name);
        match connection.data(&path).await {
            Ok(data) if data.owner == self.session.id && data.bytes == entry.address.as_bytes() => return Ok(()),
            // What goes with no session is no node's; and two nodes of one name would take it from each other for ever.
            Ok(data) if data.owner == 0 || self.took_over == Some(self.session.id) => {
                return Err(Trouble::Refused(code::NODE_EXISTS));
            }
            // Of an earlier start, whose session has not ended yet: the others would go on waiting for it.
            Ok(_) => {
                self.took_over = Some(self.session.id);
                match connection.delete(&path).await {
                    Ok(()) | Err(Trouble::Refused(code::NO_NODE)) => {}
                    Err(trouble) => return Err(trouble),
                }
            }
            Err(Trouble::Refused(code::NO_NODE)) => {}
            Err(trouble) => return Err(trouble),
        }
        match connection.create(&path, entry.address.as_bytes(), true).await {
            Err(Trouble::Refused(code::NO_NODE)) => {
                self.make_path(connection).await?;
                connection.create(&path, entry.address.as_bytes(), true).await?;
            }
            created => created?,
        }
        tracing::info!(path, address = entry.address, "registered in ZooKeeper");
        Ok(())
    }

    /// Makes what is missing of the path: the first node there is.
    async fn make_path(&self, connection: &mut Connection) -> Result<(), Trouble> {
        let ends = self.path.match_indices('/').skip(1).map(|(end, _)| end).chain([self.path.len()]);
        for end in ends {
            match connection.create(&self.path[..end], b"", false).await {
                Ok(()) | Err(Trouble::Refused(code::NODE_EXISTS)) => {}
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(())
    }

    /// What an error that ZooKeeper answers means to people.
    fn refusal(&self, error: i32) -> Problem {
        let path = &self.path;
        match error {
            code::NO_NODE => Problem::Nothing(format!("ZooKeeper has no {path}: no node has registered there")),
            code::NO_PERMISSION => Problem::Failed(format!(
                "ZooKeeper does not permit it: the access list of {path} must let anybody read, and nodes create and delete"
            )),
            code::NO_CHILDREN_BELOW_EPHEMERALS => {
                Problem::Failed(format!("nothing can be registered below {path}: it goes with somebody's session"))
            }
            code::NODE_EXISTS => Problem::Failed(format!(
                "another node, or something else, stands below {path} under the name of this node, which cannot register there"
            )),
            other => Problem::Failed(format!("ZooKeeper answers error {other} for {path}")),
        }
    }

    /// Keeps the addresses that were found last, and says what is the matter, in the log once.
    fn report(&self, problem: Problem) {
        self.publish.send_modify(|known| {
            let (addresses, before) = known.take().unwrap_or_default();
            if before.as_ref() != Some(&problem) {
                tracing::warn!(path = self.path, %problem, "ZooKeeper");
            }
            let keeps = !matches!(problem, Problem::Nothing(_));
            *known = Some((if keeps { addresses } else { Vec::new() }, Some(problem)));
        });
    }
}
