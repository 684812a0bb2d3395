//! What the cluster holds, as candidates: asked for in a moment, or else there are none.

use std::ffi::{OsStr, OsString};
use std::sync::OnceLock;
use std::time::Duration;

use clap_complete::CompletionCandidate;
use quorate_api::key::DEFAULT_KEYSPACE;
use quorate_client::{Client, Consistency, Endpoint, Error, GetOptions, ListQuery, Options, Selection};
use tokio::time::timeout;

use crate::args::DEFAULT_ENDPOINT;

/// How long somebody who pressed a key waits for the cluster.
const TIME_LIMIT: Duration = Duration::from_millis(300);

/// Longer lists than this help nobody.
const MAX_CANDIDATES: usize = 200;

/// Where to ask: what stands in the command line so far, then in the environment.
#[derive(Debug, Default)]
struct Asked {
    endpoints: Option<String>,
    keyspace: Option<String>,
    has_base64_keys: bool,
}

/// The command line is looked at once, before anybody is asked for candidates.
static ASKED: OnceLock<Asked> = OnceLock::new();

/// Takes note of a command line, of which the last word is the one to be completed.
pub(super) fn look_at(words: impl Iterator<Item = impl AsRef<OsStr>>) {
    let words: Vec<String> = words.map(|word| word.as_ref().to_string_lossy().into_owned()).collect();
    // A process answers one line.
    let _ = ASKED.set(Asked::read(&words));
}

/// Names of keyspaces.
pub(crate) fn keyspaces(typed: &OsStr) -> Vec<CompletionCandidate> {
    candidates(typed, async |client: Client, _: String| {
        Ok(client.keyspaces().await?.into_iter().map(|keyspace| keyspace.name).collect())
    })
}

/// Types of engines.
pub(crate) fn engines(typed: &OsStr) -> Vec<CompletionCandidate> {
    candidates(typed, async |client: Client, _: String| Ok(client.engines().await?.into_iter().map(|it| it.kind).collect()))
}

/// Replication modes.
pub(crate) fn modes(typed: &OsStr) -> Vec<CompletionCandidate> {
    candidates(typed, async |client: Client, _: String| {
        Ok(client.replication_modes().await?.into_iter().map(|it| it.mode).collect())
    })
}

/// Names of nodes.
pub(crate) fn nodes(typed: &OsStr) -> Vec<CompletionCandidate> {
    candidates(typed, async |client: Client, _: String| Ok(client.nodes().await?.into_iter().map(|node| node.name).collect()))
}

/// Keys of the keyspace that the line names.
pub(crate) fn keys(typed: &OsStr) -> Vec<CompletionCandidate> {
    let Some(asked) = ASKED.get().filter(|asked| !asked.has_base64_keys) else { return Vec::new() };
    let keyspace = asked.keyspace();
    candidates(typed, async move |client: Client, prefix: String| {
        let freshness = GetOptions { consistency: Consistency::Local, ..GetOptions::default() };
        let page_limit = Some(MAX_CANDIDATES);
        let selection = Selection { prefix: prefix.into_bytes(), ..Selection::default() };
        let query = ListQuery { selection, page_limit, freshness, ..ListQuery::default() };
        let page = client.list(&keyspace, query).next_page().await?;
        let entries = page.map(|page| page.entries).unwrap_or_default();
        Ok(entries.into_iter().filter_map(|entry| String::from_utf8(entry.key.into()).ok()).collect())
    })
}

/// Those of the texts found that go on where `typed` ends. Whatever goes wrong, there are none: this is no place for errors.
fn candidates(typed: &OsStr, find: impl AsyncFnOnce(Client, String) -> Result<Vec<String>, Error>) -> Vec<CompletionCandidate> {
    let (Some(typed), Some(asked)) = (typed.to_str(), ASKED.get()) else { return Vec::new() };
    let (Ok(endpoints), Ok(runtime)) = (asked.endpoints(), tokio::runtime::Builder::new_current_thread().enable_all().build())
    else {
        return Vec::new();
    };
    let client = Client::new(endpoints, Options { timeout: TIME_LIMIT, connect_timeout: TIME_LIMIT, max_rounds: 1 });
    let found = runtime.block_on(async { timeout(TIME_LIMIT, find(client, typed.to_owned())).await });
    let found = found.ok().and_then(Result::ok).unwrap_or_default();
    // Shells separate candidates by line breaks and tabs, and show all of them.
    let is_usable = |text: &String| text.starts_with(typed) && !text.contains(char::is_control);
    found.into_iter().filter(is_usable).take(MAX_CANDIDATES).map(CompletionCandidate::new).collect()
}

impl Asked {
    fn read(words: &[String]) -> Self {
        let mut asked = Self::default();
        let mut words = words.split_last().map_or(&[][..], |(_, before)| before).iter();
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => match word.split_at_checked(2) {
                    Some((name @ ("-e" | "-k"), value)) if !value.is_empty() => (name, Some(value.to_owned())),
                    _ => (word.as_str(), None),
                },
            };
            match name {
                "-e" | "--endpoint" => asked.endpoints = value.or_else(|| words.next().cloned()),
                "-k" | "--keyspace" => asked.keyspace = value.or_else(|| words.next().cloned()),
                "--key64" => asked.has_base64_keys = true,
                _ => {}
            }
        }
        asked
    }

    fn endpoints(&self) -> Result<Vec<Endpoint>, Error> {
        let from_environment = || std::env::var("QUORATE_ENDPOINTS").ok().filter(|text| !text.is_empty());
        Endpoint::parse_list(&self.endpoints.clone().or_else(from_environment).unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()))
    }

    fn keyspace(&self) -> String {
        let from_environment = || std::env::var_os("QUORATE_KEYSPACE").map(OsString::into_string).and_then(Result::ok);
        self.keyspace.clone().or_else(from_environment).unwrap_or_else(|| DEFAULT_KEYSPACE.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::Asked;

    fn read(line: &str) -> (Option<String>, Option<String>, bool) {
        let asked = Asked::read(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        (asked.endpoints, asked.keyspace, asked.has_base64_keys)
    }

    #[test]
    fn the_line_tells_where_to_ask_in_every_form_that_is_parsed() {
        let given = |endpoint: &str, keyspace: &str| (Some(endpoint.to_owned()), Some(keyspace.to_owned()), false);
        for line in [
            "quorate -e a:1 -k ks get x",
            "quorate get -ea:1 -kks x",
            "quorate --endpoint=a:1 get --keyspace=ks x",
            "quorate --endpoint a:1 --keyspace ks get ",
        ] {
            assert_eq!(read(line), given("a:1", "ks"), "{line}");
        }
        assert_eq!(read("quorate get --key64 x"), (None, None, true));
        assert_eq!(read("quorate get -k"), (None, None, false), "the last word is not there yet");
    }
}
