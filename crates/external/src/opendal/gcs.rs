//! `gcs`: Google Cloud Storage. It compares by generation, which is what a [`crate::Tag`] holds here.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use opendal::services::Gcs;

use super::{CLOUD, ComparedBy, Dal, container_and_prefix};
use crate::fields::Fields;
use crate::registry::{Kind, Opening, Settings, capabilities_of};
use crate::{Envelope, KeyEncoding, SpecError, Store, StoreError};

const NAME: &str = "gcs";
const EXAMPLE: &str = "gs://bucket/prefix";

pub(crate) const KIND: Kind = Kind {
    name: NAME,
    summary: "objects in Google Cloud Storage",
    example: r#"{"type": "gcs", "url": "gs://bucket/prefix", "path": "shared",
        "credentials": {"env": {"service_account_key": "GOOGLE_KEY"}}}"#,
    options: &[
        ("url", "`gs://BUCKET/PREFIX`; `{node}` in the prefix for the node's name"),
        ("endpoint", "where it answers, if it is not Google's: `https://HOST:PORT`"),
        ("credentials", "`service_account_key` (the JSON of a key), or `token`; none: unsigned requests"),
    ],
    credentials: &["service_account_key", "token"],
    names: Some(KeyEncoding::Bytes),
    envelope: Some(Envelope::Quorate),
    capabilities: || capabilities_of(CLOUD, Envelope::Quorate),
    read: |fields| Ok(Arc::new(GcsSettings::read(fields)?)),
};

#[derive(Debug)]
struct GcsSettings {
    url: String,
    endpoint: Option<String>,
}

impl GcsSettings {
    fn read(fields: &mut Fields<'_>) -> Result<Self, SpecError> {
        let url = fields.needed("url", EXAMPLE)?;
        container_and_prefix(url, "gs", EXAMPLE)?;
        let endpoint = fields.endpoint("endpoint", "https://storage.example:4443")?;
        Ok(Self { url: url.to_owned(), endpoint })
    }
}

impl Settings for GcsSettings {
    fn place(&self) -> &str {
        &self.url
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Arc<dyn Store>, StoreError> {
        let url = opening.place(&self.url);
        let (bucket, prefix) = container_and_prefix(&url, "gs", EXAMPLE).map_err(|error| opening.wrong(&error))?;
        let mut builder = Gcs::default().bucket(bucket).root(prefix).disable_config_load().disable_vm_metadata();
        if let Some(endpoint) = &self.endpoint {
            builder = builder.endpoint(endpoint);
        }
        builder = match (opening.secrets.find("service_account_key"), opening.secrets.find("token")) {
            (Some(key), _) => builder.credential(&STANDARD.encode(key)),
            (None, Some(token)) => builder.token(token.to_owned()),
            (None, None) => builder.skip_signature(),
        };
        Ok(opening.named(Dal::open(NAME, CLOUD, ComparedBy::Version, url.clone(), builder)?))
    }
}
