//! `quorate incr`, `append`, `touch`, `patch`.

use quorate_api::patch::KeyPatch;
use quorate_api::problem::Code;
use serde_json::json;

use crate::args::{AppendArgs, ClientArgs, IncrArgs, PatchArgs, PatchedKeyArgs, TouchArgs};
use crate::exit::{Exit, Failure};
use crate::output::{Format, Output};
use crate::printable::printable;
use crate::value_source::ValueSource;

pub(crate) async fn incr(args: IncrArgs, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::new(client.output.unwrap_or(Format::Table));
    let options = args.key.options();
    let key = args.key.key.bytes()?;
    let done = client.client().increment(client.keyspace(), &key, args.by, args.initial, &options).await;
    let done = done.map_err(|error| Failure::of_request(format!("increment `{}`", printable(&key)), &error))?;
    match output.format {
        Format::Json => {
            let (number, revision, version) = (done.sum, done.revision, done.version);
            output.json(&json!({ "number": number, "revision": revision, "version": version, "etag": done.etag }))?;
        }
        // The sum alone, so that a script has it.
        _ => output.line(done.sum)?,
    }
    output.finish()
}

pub(crate) async fn append(args: AppendArgs, client: &ClientArgs) -> Result<(), Failure> {
    let value = ValueSource::from(args.value).read()?;
    change(args.key, KeyPatch::Append { value: value.into() }, ("append to", "appended to"), client).await
}

pub(crate) async fn touch(args: TouchArgs, client: &ClientArgs) -> Result<(), Failure> {
    change(args.key, KeyPatch::Touch, ("touch", "touched"), client).await
}

pub(crate) async fn patch(args: PatchArgs, client: &ClientArgs) -> Result<(), Failure> {
    let patch = ValueSource::from(args.patch).read()?;
    change(args.key, KeyPatch::Merge { patch: patch.into() }, ("patch", "patched"), client).await
}

/// Changes a key, and says so in these words: what is to be done, and what was.
async fn change(args: PatchedKeyArgs, patch: KeyPatch, told: (&str, &str), client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::without_raw(client.output)?;
    let options = args.options();
    let key = args.key.bytes()?;
    let done = client.client().patch(client.keyspace(), &key, &patch, &options).await;
    let done = done.map_err(|error| match error.code() {
        Some(code) if code == Code::KeyNotFound.facts().code => {
            Failure::new(Exit::NotFound, format!("keyspace {} holds no key `{}`", client.keyspace(), printable(&key)))
        }
        _ => Failure::of_request(format!("{} `{}`", told.0, printable(&key)), &error),
    })?;
    match output.format {
        Format::Json => {
            let (bytes, revision, version) = (done.value.len(), done.revision, done.version);
            output.json(&json!({ "bytes": bytes, "revision": revision, "version": version, "etag": done.etag }))?;
        }
        _ => output.line(format_args!("{} `{}` at revision {}", told.1, printable(&key), done.revision))?,
    }
    output.finish()
}
