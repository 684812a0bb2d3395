//! `s3`: Amazon S3 and what speaks its protocol.
//!
//! Conditions are S3's own: `If-None-Match: *` and `If-Match` on puts, `If-Match` on deletes. A server that ignores them would
//! break what is promised; of those that were looked at, Amazon's, MinIO's and R2's know them on puts.

use std::sync::Arc;

use opendal::services::S3;

use super::{CLOUD, ComparedBy, Dal, container_and_prefix};
use crate::fields::Fields;
use crate::registry::{Kind, Opening, Settings, capabilities_of};
use crate::{Envelope, KeyEncoding, SpecError, Store, StoreError};

const NAME: &str = "s3";
const EXAMPLE: &str = "s3://bucket/prefix";

pub(crate) const KIND: Kind = Kind {
    name: NAME,
    summary: "objects in Amazon S3, MinIO, R2, Ceph and others that speak S3",
    example: r#"{"type": "s3", "url": "s3://bucket/prefix", "region": "eu-west-1", "path": "shared",
        "credentials": {"env": {"access_key_id": "AWS_ACCESS_KEY_ID", "secret_access_key": "AWS_SECRET_ACCESS_KEY"}}}"#,
    options: &[
        ("url", "`s3://BUCKET/PREFIX`; `{node}` in the prefix for the node's name"),
        ("region", "the bucket's region; `us-east-1` by default"),
        ("endpoint", "where it answers, if it is not Amazon's: `https://HOST:PORT`"),
        ("credentials", "`access_key_id`, `secret_access_key`, `session_token`; none: unsigned requests"),
    ],
    credentials: &["access_key_id", "secret_access_key", "session_token"],
    names: Some(KeyEncoding::Bytes),
    envelope: Some(Envelope::Quorate),
    capabilities: || capabilities_of(CLOUD, Envelope::Quorate),
    read: |fields| Ok(Arc::new(S3Settings::read(fields)?)),
};

#[derive(Debug)]
struct S3Settings {
    url: String,
    region: String,
    endpoint: Option<String>,
}

impl S3Settings {
    fn read(fields: &mut Fields<'_>) -> Result<Self, SpecError> {
        let url = fields.needed("url", EXAMPLE)?;
        container_and_prefix(url, "s3", EXAMPLE)?;
        let endpoint = fields.endpoint("endpoint", "https://minio.example:9000")?;
        let region = fields.text("region", "eu-west-1")?;
        Ok(Self { url: url.to_owned(), region: region.unwrap_or("us-east-1").to_owned(), endpoint })
    }
}

impl Settings for S3Settings {
    fn place(&self) -> &str {
        &self.url
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Arc<dyn Store>, StoreError> {
        let url = opening.place(&self.url);
        let (bucket, prefix) = container_and_prefix(&url, NAME, EXAMPLE).map_err(|error| opening.wrong(&error))?;
        // Nothing is looked for in the environment, in files or on the machine's network: settings say all.
        let mut builder = S3::default().bucket(bucket).root(prefix).region(&self.region).disable_config_load();
        if let Some(endpoint) = &self.endpoint {
            builder = builder.endpoint(endpoint);
        }
        builder = match (opening.secrets.find("access_key_id"), opening.secrets.find("secret_access_key")) {
            (Some(id), Some(secret)) => builder.access_key_id(id).secret_access_key(secret),
            _ => builder.skip_signature(),
        };
        if let Some(token) = opening.secrets.find("session_token") {
            builder = builder.session_token(token);
        }
        Ok(opening.named(Dal::open(NAME, CLOUD, ComparedBy::Etag, url.clone(), builder)?))
    }
}
