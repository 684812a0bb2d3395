//! Where other nodes may be: from specifications to the addresses that they find now.
//!
//! A [`Spec`] says where to look, [`Discovery`] looks there as often as it is asked, and what it finds are addresses of clients,
//! `host:port`, of nodes that may run, or be of another cluster. *Must not know*: Raft, the node, the REST API, and what is done
//! with an address. Only this crate names the DNS resolver, and speaks with ZooKeeper.

mod address;
mod dns;
mod file;
mod spec;
mod zookeeper;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

pub use address::split_address;
pub use spec::{Spec, SpecError};

use zookeeper::Registration;

/// Addresses that one specification finds at most; further ones are left out, and that is told.
pub const MAX_ADDRESSES: usize = 1024;

/// How long one source may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What all sources are looked at with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The DNS servers to ask; without any, those of the system.
    pub dns_servers: Vec<SocketAddr>,
    /// What to register in registries, which ZooKeeper is; without it they are only read.
    pub entry: Option<Entry>,
}

/// What a node registers of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node's name.
    pub name: String,
    /// Where clients find it, `host:port`.
    pub address: String,
}

/// What one specification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The specification.
    pub spec: Spec,
    /// What it found, in the source's order, each once. A registry that is away keeps what it found last.
    pub addresses: Vec<String>,
    /// Why it found nothing, or not all there is; one line for people.
    pub problem: Option<Problem>,
}

/// Why a specification found nothing, or not all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The source answered, and there is nothing.
    #[error("{0}")]
    Nothing(String),
    /// The source did not answer, or not with what was asked for.
    #[error("{0}")]
    Failed(String),
}

/// Looks at a set of specifications, again with every [`Self::find`].
///
/// *Life cycle*: registries are connected to from [`Self::start`] on until [`Self::withdraw`], or until it is dropped; then what
/// was registered goes when the registry notices.
#[derive(Debug)]
pub struct Discovery {
    sources: Vec<Arc<Source>>,
    options: Arc<Options>,
}

#[derive(Debug)]
struct Source {
    spec: Spec,
    /// Of specifications that are registries.
    registration: Option<Registration>,
}

impl Discovery {
    /// Begins with it. Panics outside of a tokio runtime.
    pub fn start(specs: Vec<Spec>, options: Options) -> Self {
        let registration = |spec: &Spec| match spec {
            Spec::ZooKeeper { servers, path } => Some(Registration::start(servers.clone(), path.clone(), options.entry.clone())),
            _ => None,
        };
        let sources = specs.into_iter().map(|spec| Arc::new(Source { registration: registration(&spec), spec })).collect();
        Self { sources, options: Arc::new(options) }
    }

    /// What every specification finds now, in their order. Takes as long as the slowest of them, and a few seconds at most.
    pub async fn find(&self) -> Vec<Found> {
        let mut looking = JoinSet::new();
        for (place, source) in self.sources.iter().enumerate() {
            let (source, options) = (Arc::clone(source), Arc::clone(&self.options));
            looking.spawn(async move { (place, source.look(&options).await) });
        }
        let mut found = looking.join_all().await;
        found.sort_by_key(|(place, _)| *place);
        found.into_iter().map(|(_, found)| found).collect()
    }

    /// Takes back what was registered, so that nobody is sent to this node any more. Ends with the registry's answer, or after
    /// a few seconds without.
    pub async fn withdraw(&self) {
        for registration in self.sources.iter().filter_map(|source| source.registration.as_ref()) {
            let _ = tokio::time::timeout(PATIENCE, registration.withdraw()).await;
        }
    }
}

impl Source {
    async fn look(&self, options: &Options) -> Found {
        let looking = async {
            match (&self.spec, &self.registration) {
                (_, Some(registration)) => registration.now().await,
                (Spec::Address(address), _) => (vec![address.clone()], None),
                (Spec::File(path), _) => split(file::read(path).await),
                (Spec::Dns { name, port }, _) => split(dns::addresses(name, *port, &options.dns_servers).await),
                (Spec::Srv { name }, _) => split(dns::services(name, &options.dns_servers).await),
                (Spec::ZooKeeper { .. }, None) => unreachable!("registries are registered with"),
            }
        };
        let silence = || (Vec::new(), Some(Problem::Failed(format!("no answer within {} s", PATIENCE.as_secs()))));
        let (mut addresses, mut problem) = tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| silence());
        let mut seen = BTreeSet::new();
        addresses.retain(|address| seen.insert(address.clone()));
        if addresses.len() > MAX_ADDRESSES {
            addresses.truncate(MAX_ADDRESSES);
            problem = Some(Problem::Failed(format!("it names more than {MAX_ADDRESSES} addresses: the others are left out")));
        }
        Found { spec: self.spec.clone(), addresses, problem }
    }
}

fn split(found: Result<Vec<String>, Problem>) -> (Vec<String>, Option<Problem>) {
    match found {
        Ok(addresses) => (addresses, None),
        Err(problem) => (Vec::new(), Some(problem)),
    }
}
