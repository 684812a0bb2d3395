//! Object stores through `OpenDAL`: one file per store below, and what they share here.
//!
//! `OpenDAL` knows each store's protocol and signatures. Requests go through our own HTTP client, which tells what was sent from
//! what was not, and reads answers whole. Retries are not `OpenDAL`'s either: it repeats writes that may have happened.

pub(crate) mod azblob;
pub(crate) mod gcs;
pub(crate) mod s3;
mod transport;
pub(crate) mod webdav;

use std::fmt;

use bytes::Bytes;
use futures_util::TryStreamExt;
use opendal::options::{DeleteOptions, ListOptions, WriteOptions};
use opendal::{Builder, Error, ErrorKind as DalKind, HttpTransporter, Metadata, OperationContext, Operator};

use self::transport::Transport;
use crate::http_client::HttpClient;
use crate::objects::{Abilities, Listing, Names, Object, Objects};
use crate::{Answer, Comparing, Condition, ErrorKind, SpecError, StoreError, Tag, Written};

/// By what a store compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ComparedBy {
    /// The entity tag of HTTP.
    Etag,
    /// The version, where the tag does for reads only.
    Version,
    /// Nothing.
    Nothing,
}

/// A store of objects behind `OpenDAL`.
pub(crate) struct Dal {
    kind: &'static str,
    abilities: Abilities,
    compared_by: ComparedBy,
    /// Whether lists can begin after a name; else they begin at the beginning, and names are passed over.
    lists_after: bool,
    operator: Operator,
    /// The bucket or container, for messages.
    container: String,
}

impl Dal {
    fn open(
        kind: &'static str,
        abilities: Abilities,
        compared_by: ComparedBy,
        container: String,
        builder: impl Builder,
    ) -> Result<Self, StoreError> {
        let transport = Transport::new(HttpClient::new(kind)?, abilities.max_object_bytes);
        let operator = Operator::new(builder)
            .map_err(|error| StoreError::new(kind, ErrorKind::Unexpected, format_args!("{container}: {}", error.message())))?;
        let context = OperationContext::new().with_http_transport(HttpTransporter::new(transport));
        let operator = operator.with_context(context);
        let lists_after = operator.info().capability().list_with_start_after;
        Ok(Self { kind, abilities, compared_by, lists_after, operator, container })
    }

    fn tag(&self, metadata: &Metadata) -> Option<Tag> {
        let text = match self.compared_by {
            ComparedBy::Etag => metadata.etag(),
            ComparedBy::Version => metadata.version(),
            ComparedBy::Nothing => None,
        };
        text.map(|text| Tag(text.to_owned()))
    }

    fn error(&self, error: &Error) -> StoreError {
        // What the client found out about a request says more than what became of it on the way up.
        if let Some(ours) = transport::client_error(error) {
            // Not all stores name what they were asked for.
            let told = StoreError::new(self.kind, ours.kind, format_args!("{}: {}", self.container, ours.message));
            return StoreError { outcome: ours.outcome, ..told };
        }
        let kind = match error.kind() {
            DalKind::PermissionDenied => ErrorKind::Denied,
            DalKind::RateLimited => ErrorKind::Throttled { retry_after: None },
            DalKind::Unsupported => ErrorKind::Unsupported,
            DalKind::ConfigInvalid | DalKind::NotFound => ErrorKind::NoContainer,
            DalKind::Conflict => ErrorKind::Failing,
            _ => ErrorKind::Unexpected,
        };
        StoreError::new(self.kind, kind, format_args!("{}: {}", self.container, error.message()))
    }

    async fn read_object(&self, name: &str) -> Result<Option<Object>, StoreError> {
        let read = async {
            let reader = self.operator.reader(name).await?;
            let bytes = reader.read(..).await?.to_bytes();
            Ok((bytes, reader.metadata().and_then(|metadata| self.tag(metadata))))
        };
        let (bytes, tag) = match read.await {
            Ok(read) => read,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(self.error(&error)),
        };
        if tag.is_none() && self.compared_by != ComparedBy::Nothing {
            let message = format!("{}: it does not say which version of {name} this is", self.container);
            return Err(StoreError::new(self.kind, ErrorKind::Unexpected, message));
        }
        Ok(Some(Object { bytes, tag }))
    }

    async fn write_object(&self, name: &str, bytes: Bytes, condition: &Condition) -> Result<Written, StoreError> {
        let mut options = WriteOptions::default();
        match condition {
            Condition::Always => {}
            Condition::Absent => options.if_not_exists = true,
            Condition::Matches(Tag(tag)) if self.compared_by == ComparedBy::Version => {
                options.if_version_match = Some(tag.clone());
            }
            Condition::Matches(Tag(tag)) => options.if_match = Some(tag.clone()),
        }
        match self.operator.write_options(name, bytes, options).await {
            Ok(metadata) => Ok(Written::Done(self.tag(&metadata))),
            Err(error) if *condition != Condition::Always && has_failed_condition(&error) => Ok(Written::ConditionFailed),
            Err(error) => Err(self.error(&error)),
        }
    }

    async fn remove_object(&self, name: &str, condition: &Condition) -> Result<Written, StoreError> {
        let mut options = DeleteOptions::default();
        match condition {
            Condition::Always => {}
            Condition::Absent => return Ok(Written::ConditionFailed),
            Condition::Matches(Tag(tag)) if self.compared_by == ComparedBy::Version => {
                options.if_version_match = Some(tag.clone());
            }
            Condition::Matches(Tag(tag)) => options.if_match = Some(tag.clone()),
        }
        let is_conditional = *condition != Condition::Always;
        // Some stores take a condition on nothing for a success.
        if is_conditional && self.read_object(name).await?.is_none() {
            return Ok(Written::ConditionFailed);
        }
        match self.operator.delete_options(name, options).await {
            Ok(()) => Ok(Written::Done(None)),
            Err(error) if is_conditional && (has_failed_condition(&error) || is_missing(&error)) => Ok(Written::ConditionFailed),
            Err(error) if is_missing(&error) => Ok(Written::Done(None)),
            Err(error) => Err(self.error(&error)),
        }
    }

    async fn names(&self, listing: &Listing) -> Result<Names, StoreError> {
        let options = ListOptions {
            recursive: true,
            limit: Some(listing.max_names),
            start_after: listing.after.clone().filter(|_| self.lists_after),
            ..ListOptions::default()
        };
        let mut found = Names::default();
        let list = async {
            let mut lister = self.operator.lister_options(&listing.prefix, options).await?;
            while let Some(entry) = lister.try_next().await? {
                // Some programs mark folders by empty objects.
                let is_wanted = entry.metadata().is_file() && listing.after.as_deref().is_none_or(|after| entry.path() > after);
                if is_wanted {
                    found.names.push(entry.path().to_owned());
                }
                if found.names.len() == listing.max_names {
                    found.next = found.names.last().cloned();
                    return Ok(());
                }
            }
            Ok(())
        };
        list.await.map_err(|error: Error| self.error(&error))?;
        Ok(found)
    }
}

/// Whether there is no such object; no bucket is something else, and told by the client.
fn is_missing(error: &Error) -> bool {
    error.kind() == DalKind::NotFound && transport::client_error(error).is_none()
}

fn has_failed_condition(error: &Error) -> bool {
    matches!(error.kind(), DalKind::ConditionNotMatch | DalKind::AlreadyExists)
}

impl Objects for Dal {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn abilities(&self) -> Abilities {
        self.abilities
    }

    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Object>> {
        Box::pin(self.read_object(name))
    }

    fn write<'a>(&'a self, name: &'a str, bytes: Bytes, condition: &'a Condition) -> Answer<'a, Written> {
        Box::pin(self.write_object(name, bytes, condition))
    }

    fn remove<'a>(&'a self, name: &'a str, condition: &'a Condition) -> Answer<'a, Written> {
        Box::pin(self.remove_object(name, condition))
    }

    fn list<'a>(&'a self, listing: &'a Listing) -> Answer<'a, Names> {
        Box::pin(self.names(listing))
    }

    fn check(&self) -> Answer<'_, ()> {
        let listing = Listing { prefix: String::new(), after: None, max_names: 1 };
        Box::pin(async move { self.names(&listing).await.map(|_| ()) })
    }
}

impl fmt::Debug for Dal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dal").field("kind", &self.kind).field("container", &self.container).finish_non_exhaustive()
    }
}

/// A URL of the form `scheme://container/prefix`, in its two parts.
fn container_and_prefix<'a>(url: &'a str, scheme: &str, example: &str) -> Result<(&'a str, &'a str), SpecError> {
    let wrong = |problem: String| SpecError::new("url", problem, format!("\"url\": \"{example}\""));
    let form = || format!("must have the form {scheme}://NAME or {scheme}://NAME/PREFIX");
    let rest = url.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")).ok_or_else(|| wrong(form()))?;
    let (container, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if container.is_empty() || !container.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        return Err(wrong(form()));
    }
    if prefix.contains("//") || prefix.split('/').any(|part| part == "." || part == "..") || prefix.contains(['?', '#']) {
        return Err(wrong("must have a prefix without //, . and .. in it, and no query".to_owned()));
    }
    Ok((container, prefix.trim_end_matches('/')))
}

/// What object stores in the cloud can do: all but those that differ.
const CLOUD: Abilities = Abilities {
    writable: true,
    listable: true,
    comparing: Comparing::Atomic,
    max_object_bytes: 256 << 20,
    max_name_bytes: crate::key_encoding::MAX_NAME_BYTES,
};
