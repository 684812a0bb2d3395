//! `webdav`: files on a WebDAV server.
//!
//! It is written to as it is found: servers differ in what they make of conditions, so there are none, and of two writers the
//! later wins. A put replaces the file in one request; whether a reader may meet half of it meanwhile is the server's affair,
//! and noticed by the envelope. Folders that long names need are made before; those that are left empty stay.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use opendal::Error;
use opendal::services::Webdav;

use super::{ComparedBy, Dal, is_missing};
use crate::fields::Fields;
use crate::objects::{Abilities, Listing, Names, Object, Objects};
use crate::registry::{Kind, Opening, Settings, capabilities_of};
use crate::walk::{Folders, Smallest, walk};
use crate::{Answer, Comparing, Condition, Envelope, KeyEncoding, MAX_KEY_BYTES, SpecError, Store, StoreError, Written};

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
        let dal = Dal::open(NAME, ABILITIES, ComparedBy::Nothing, url, builder)?;
        Ok(opening.named(WebdavFolders { dal, keys: opening.spec.key_encoding }))
    }
}

/// Files, with long names in folders.
struct WebdavFolders {
    dal: Dal,
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
        Box::pin(async move { self.dal.read_object(&self.keys.path_of(name)).await })
    }

    fn write<'a>(&'a self, name: &'a str, bytes: Bytes, condition: &'a Condition) -> Answer<'a, Written> {
        Box::pin(async move { self.dal.write_object(&self.keys.path_of(name), bytes, condition).await })
    }

    fn remove<'a>(&'a self, name: &'a str, condition: &'a Condition) -> Answer<'a, Written> {
        Box::pin(async move { self.dal.remove_object(&self.keys.path_of(name), condition).await })
    }

    fn list<'a>(&'a self, listing: &'a Listing) -> Answer<'a, Names> {
        Box::pin(walk(self, self.keys, listing))
    }

    fn check(&self) -> Answer<'_, ()> {
        let root = Smallest::of_root(self.keys);
        Box::pin(async move { self.offer_children(String::new(), root).await.map(|_| ()) })
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
