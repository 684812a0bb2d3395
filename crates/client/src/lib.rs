//! Client library of Quorate: any node answers, and what failed is tried at the next one where that is safe.
//!
//! A [`Client`] holds several endpoints and a pool of connections to them. Reads are retried freely. A write is sent again only
//! if it certainly did nothing: nobody could be connected to, or the problem that came back says `not_applied`. Everything else
//! ends as an [`Error`] whose [`Error::outcome`] says whether the write may have happened.
//!
//! ```no_run
//! # async fn example() -> Result<(), quorate_client::Error> {
//! use quorate_client::{Client, Endpoint, GetOptions, Options, PutOptions};
//!
//! let client = Client::new(Endpoint::parse_list("http://127.0.0.1:2379,http://127.0.0.1:2381")?, Options::default());
//! client.put("default", b"greeting", "hello".into(), &PutOptions::default()).await?;
//! let found = client.get("default", b"greeting", &GetOptions::default()).await?;
//! assert_eq!(found.unwrap().entry.value, Some("hello".into()));
//! # Ok(())
//! # }
//! ```
//!
//! *Must not know*: the server's insides. *Not here*: TLS and authentication, which the server does not have yet either.

mod backup;
mod batch;
mod batch_stream;
mod call;
mod cluster;
mod endpoint;
mod error;
mod history;
mod key_path;
mod keys;
mod keyspaces;
mod leases;
mod list;
mod list_stream;
mod locks;
mod patch;
mod selection;
mod session;
mod streams;
mod transport;
mod txn;
mod watch;

pub use backup::{BackupStream, RestoreStream};
pub use batch::BatchOutcome;
pub use batch_stream::{BatchReceiver, BatchSender, StreamEnded};
pub use call::{Client, Options};
pub use endpoint::Endpoint;
pub use error::{Error, Tried};
pub use history::{HistoryQuery, KeyVersion, Versions};
pub use keys::{Ack, Condition, Consistency, DeleteOptions, Deleted, Found, GetOptions, PutOptions, Replicated, Written};
pub use keyspaces::FlushOptions;
pub use leases::{GrantedLease, HeldLease};
pub use list::{ListQuery, Listing, Page};
pub use list_stream::{ListStream, StreamQuery};
pub use locks::{HeldLock, LockObserver, LockOptions, LockState};
pub use patch::{Incremented, PatchOptions, Patched};
pub use selection::{Counted, DeletedRange, Selection};
pub use session::Session;
pub use watch::{News, WatchQuery, WatchStream, Watched, WatchedKeys};
