//! `webdav`: files on a WebDAV server.
//!
//! It is written to as it is found: servers differ in what they make of conditions, so there are none, and of two writers the
//! later wins. A put replaces the file in one request; whether a reader may meet half of it meanwhile is the server's affair,
//! and noticed by the envelope. Folders that long names need are made before; those that are left empty stay. The store's own
//! folder must be there when it is first asked for, and is not made.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use opendal::Error;
use opendal::services::Webdav;

use super::{ComparedBy, Dal, is_missing};
use crate::fields::Fields;
use crate::http_client::HttpClient;
use crate::objects::{Abilities, Listing, Names, Object, Objects};
use crate::registry::{Kind, Opening, Settings, capabilities_of};
use crate::walk::{Folders, Smallest, walk};
use crate::{
    Answer, Comparing, Condition, Envelope, ErrorKind, KeyEncoding, MAX_KEY_BYTES, Outcome, SpecError, Store, StoreError, Written,
};

const NAME: &str = "webdav";
const EXAMPLE: &str = "https://files.example/quorate";

const ABILITIES: Abilities = Abilities {
    writable: true,
    listable: true,
    comparing: Comparing::Unconditional,
    max_object_bytes: 256 << 20,
    // Servers take requests with a first line of 8,190 bytes, and what stands in it is escaped once more.
    max_name_bytes: MAX_KEY_BYTES / 2,
};

pub(crate) const KIND: Kind = Kind {
    name: NAME,
    summary: "files on a WebDAV server, such as Nextcloud or Apache's mod_dav",
    example: r#"{"type": "webdav", "url": "https://files.example/quorate", "path": "shared",
        "credentials": {"env": {"username": "DAV_USER", "password": "DAV_PASSWORD"}}}"#,
    options: &[
        ("url", "a folder on the server, which must be there; `{node}` for the node's name"),
        ("credentials", "`username` and `password`, or `token`"),
    ],
    credentials: &["username", "password", "token"],
    names: Some(KeyEncoding::Bytes),
    envelope: Some(Envelope::Quorate),
    capabilities: || capabilities_of(ABILITIES, Envelope::Quorate),
    read: |fields| Ok(Arc::new(WebdavSettings::read(fields)?)),
};

#[derive(Debug)]
struct WebdavSettings {
    url: String,
}

impl WebdavSettings {
    fn read(fields: &mut Fields<'_>) -> Result<Self, SpecError> {
        let url = fields.needed_endpoint("url", EXAMPLE)?;
        Ok(Self { url })
    }
}

impl Settings for WebdavSettings {
    fn place(&self) -> &str {
        &self.url
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Arc<dyn Store>, StoreError> {
        let url = opening.place(&self.url);
        let mut builder = Webdav::default().endpoint(&url);
        if let Some(username) = opening.secrets.find("username") {
            builder = builder.username(username).password(opening.secrets.find("password").unwrap_or_default());
        }
        if let Some(token) = opening.secrets.find("token") {
            builder = builder.token(token);
        }
        let bearer = opening.secrets.find("token").map(|token| format!("Bearer {token}"));
        let authorization = bearer.or_else(|| opening.secrets.authorization());
        let root = Root { client: HttpClient::new(NAME)?, url: url.clone(), authorization, is_there: AtomicBool::new(false) };
        let dal = Dal::open(NAME, ABILITIES, ComparedBy::Nothing, url, builder)?;
        Ok(opening.named(WebdavFolders { dal, root, keys: opening.spec.key_encoding }))
    }
}

/// The folder of the store. Who writes makes the folders that a name needs, and would make this one, too.
struct Root {
    client: HttpClient,
    url: String,
    authorization: Option<String>,
    /// It was seen. One that goes later is not missed until the store is opened anew.
    is_there: AtomicBool,
}

impl Root {
    /// Asks for it, until it was seen once.
    async fn must_be_there(&self) -> Result<(), StoreError> {
        if self.is_there.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut request = Request::builder().method("PROPFIND").uri(format!("{}/", self.url)).header("depth", "0");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let wrong = |error| StoreError::new(NAME, ErrorKind::Unexpected, error);
        let request = request.body(Bytes::new()).map_err(wrong)?;
        // Nothing is changed by asking.
        let answer = self.client.send(request, MAX_ANSWER_BYTES).await;
        let answer = answer.map_err(|error| StoreError { outcome: Outcome::NotApplied, ..error })?;
        match answer.status() {
            status if status.is_success() => {
                self.is_there.store(true, Ordering::Relaxed);
                Ok(())
            }
            StatusCode::NOT_FOUND | StatusCode::CONFLICT | StatusCode::GONE => {
                Err(StoreError::new(NAME, ErrorKind::NoContainer, format_args!("there is no folder {}", self.url)))
            }
            _ => {
                let failure = self.client.failure(&answer).unwrap_or_else(|| self.client.unexpected(&answer));
                Err(StoreError { outcome: Outcome::NotApplied, ..failure })
            }
        }
    }
}

/// What is told of one folder is no longer.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Files, with long names in folders.
struct WebdavFolders {
    dal: Dal,
    root: Root,
    keys: KeyEncoding,
}

impl WebdavFolders {
    async fn offer_children(&self, folder: String, mut children: Smallest) -> Result<Smallest, StoreError> {
        let path = if folder.is_empty() { "/".to_owned() } else { format!("{folder}/") };
        let list = async {
            let mut lister = self.dal.operator.lister(&path).await?;
            while let Some(entry) = lister.try_next().await? {
                let inside = entry.path().strip_prefix(path.trim_start_matches('/')).unwrap_or_default();
                let name = inside.trim_end_matches('/');
                // The folder itself is among them.
                if !name.is_empty() && !name.contains('/') {
                    children.offer(name, entry.metadata().is_dir());
                }
            }
            Ok(())
        };
        match list.await {
            Ok(()) => Ok(children),
            Err(error) if is_missing(&error) && !folder.is_empty() => Ok(children),
            Err(error) => {
                let error: Error = error;
                Err(self.dal.error(&error))
            }
        }
    }
}

impl Objects for WebdavFolders {
    fn kind(&self) -> &'static str {
        NAME
    }

    fn abilities(&self) -> Abilities {
        ABILITIES
    }

    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Object>> {
        Box::pin(async move {
            self.root.must_be_there().await?;
            self.dal.read_object(&self.keys.path_of(name)).await
        })
    }

    fn write<'a>(&'a self, name: &'a str, bytes: Bytes, condition: &'a Condition) -> Answer<'a, Written> {
        Box::pin(async move {
            self.root.must_be_there().await?;
            self.dal.write_object(&self.keys.path_of(name), bytes, condition).await
        })
    }

    fn remove<'a>(&'a self, name: &'a str, condition: &'a Condition) -> Answer<'a, Written> {
        Box::pin(async move { self.dal.remove_object(&self.keys.path_of(name), condition).await })
    }

    fn list<'a>(&'a self, listing: &'a Listing) -> Answer<'a, Names> {
        Box::pin(async move {
            self.root.must_be_there().await?;
            walk(self, self.keys, listing).await
        })
    }

    fn check(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            // However it was before.
            self.root.is_there.store(false, Ordering::Relaxed);
            self.root.must_be_there().await
        })
    }
}

impl Folders for WebdavFolders {
    fn children(&self, folder: String, children: Smallest) -> Answer<'_, Smallest> {
        Box::pin(self.offer_children(folder, children))
    }
}

impl fmt::Debug for WebdavFolders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.dal.fmt(f)
    }
}
