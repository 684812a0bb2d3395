//! `azblob`: Azure Blob Storage.
//!
//! Lists cannot begin after a name: a page far behind in a list costs all the pages before it.

use std::sync::Arc;

use opendal::services::Azblob;

use super::{CLOUD, ComparedBy, Dal, container_and_prefix};
use crate::fields::Fields;
use crate::registry::{Kind, Opening, Settings, capabilities_of};
use crate::{Envelope, KeyEncoding, SpecError, Store, StoreError};

const NAME: &str = "azblob";
const EXAMPLE: &str = "azblob://container/prefix";
const ENDPOINT_EXAMPLE: &str = "https://ACCOUNT.blob.core.windows.net";

pub(crate) const KIND: Kind = Kind {
    name: NAME,
    summary: "blobs in Azure Blob Storage",
    example: r#"{"type": "azblob", "url": "azblob://container/prefix", "endpoint": "https://account.blob.core.windows.net",
        "account": "account", "path": "shared", "credentials": {"env": {"account_key": "AZURE_KEY"}}}"#,
    options: &[
        ("url", "`azblob://CONTAINER/PREFIX`; `{node}` in the prefix for the node's name"),
        ("endpoint", "where the account answers"),
        ("account", "the account's name; needed with `account_key`"),
        ("credentials", "`account_key`, or `sas_token`; none: unsigned requests"),
    ],
    credentials: &["account_key", "sas_token"],
    names: Some(KeyEncoding::Bytes),
    envelope: Some(Envelope::Quorate),
    capabilities: || capabilities_of(CLOUD, Envelope::Quorate),
    read: |fields| Ok(Arc::new(AzblobSettings::read(fields)?)),
};

#[derive(Debug)]
struct AzblobSettings {
    url: String,
    endpoint: String,
    account: Option<String>,
}

impl AzblobSettings {
    fn read(fields: &mut Fields<'_>) -> Result<Self, SpecError> {
        let url = fields.needed("url", EXAMPLE)?;
        container_and_prefix(url, NAME, EXAMPLE)?;
        let endpoint = fields.needed_endpoint("endpoint", ENDPOINT_EXAMPLE)?;
        let account = fields.text("account", "account")?.map(str::to_owned);
        Ok(Self { url: url.to_owned(), endpoint, account })
    }
}

impl Settings for AzblobSettings {
    fn place(&self) -> &str {
        &self.url
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Arc<dyn Store>, StoreError> {
        let url = opening.place(&self.url);
        let (container, prefix) = container_and_prefix(&url, NAME, EXAMPLE).map_err(|error| opening.wrong(&error))?;
        let mut builder = Azblob::default().container(container).root(prefix).endpoint(&self.endpoint);
        if let Some(account) = &self.account {
            builder = builder.account_name(account);
        }
        builder = match (opening.secrets.find("account_key"), opening.secrets.find("sas_token")) {
            (Some(key), _) => builder.account_key(key),
            (None, Some(token)) => builder.sas_token(token),
            (None, None) => builder.skip_signature(),
        };
        Ok(opening.named(Dal::open(NAME, CLOUD, ComparedBy::Etag, url.clone(), builder)?))
    }
}
