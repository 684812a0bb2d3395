//! `quorate history` and `quorate diff`: what was.

use std::cmp::Ordering;
use std::vec;

use quorate_api::entry::{Encoding, Entry, Happened, VersionBody};
use quorate_api::text64;
use quorate_client::{GetOptions, HistoryQuery, KeyVersion, ListQuery, Listing, Versions};
use serde_json::{Map, Value, json};

use crate::args::{ClientArgs, DiffArgs, HistoryArgs};
use crate::exit::{Exit, Failure, note};
use crate::output::{Format, Output};
use crate::printable::{printable, printable_start};

/// Versions, and keys, that are asked for at once.
const PAGE_LEN: u64 = 1000;

/// What of a value is shown in a table.
const MAX_SHOWN_CHARS: usize = 40;

pub(crate) async fn history(args: HistoryArgs, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::without_raw(client.output)?;
    let (max_versions, before) = (args.max_versions(), args.before);
    let key = args.key.bytes()?;
    let mut all = Vec::new();
    let mut query = HistoryQuery { before, with_values: true, ..HistoryQuery::default() };
    let Versions { revision, compacted_revision, .. } = loop {
        query.limit = Some((max_versions - all.len() as u64).min(PAGE_LEN) as usize);
        let page = client.client().history(client.keyspace(), &key, &query).await;
        let mut page = page.map_err(|error| Failure::of_request(format!("read the history of `{}`", printable(&key)), &error))?;
        all.append(&mut page.versions);
        query.before = page.next_before;
        if page.next_before.is_none() || all.len() as u64 >= max_versions {
            break page;
        }
    };
    if all.is_empty() {
        let what = format!(
            "keyspace {} knows no version of `{}` since revision {compacted_revision}",
            client.keyspace(),
            printable(&key)
        );
        return Err(Failure::new(Exit::NotFound, what));
    }
    let has_more = query.before.is_some();
    if output.format == Format::Json {
        let items: Vec<VersionBody<'_>> = all.iter().map(version_body).collect();
        output.json(&json!({
            "items": items, "revision": revision, "compacted_revision": compacted_revision, "has_more": has_more
        }))?;
        return output.finish();
    }
    let has_ages = all.iter().any(|version| version.age_ms.is_some());
    let mut header = vec!["REVISION", "WHAT", "VERSION", "TYPE", "VALUE"];
    header.extend(has_ages.then_some("AGE"));
    output.table(&header, all.iter().map(|version| version_row(version, has_ages)))?;
    output.finish()?;
    if has_more {
        note(format_args!("quorate: there are more than {max_versions} versions: --all shows them all, --limit N more of them"));
    }
    Ok(())
}

fn version_body(version: &KeyVersion) -> VersionBody<'_> {
    VersionBody {
        revision: version.revision,
        happened: version.happened,
        age_ms: version.age_ms,
        entry: version.entry.as_ref().map(|entry| entry.to_body(Encoding::Text)),
    }
}

fn version_row(version: &KeyVersion, has_ages: bool) -> Vec<String> {
    let what = match version.happened {
        Happened::Put => "put",
        Happened::Delete => "deleted",
        Happened::Expire => "expired",
    };
    let mut row = vec![version.revision.to_string(), what.to_owned()];
    row.extend(match &version.entry {
        None => [String::new(), String::new(), String::new()],
        Some(entry) => [
            entry.version.to_string(),
            entry.content_type.as_deref().map(|kind| printable(kind.as_bytes())).unwrap_or_default(),
            shown(entry),
        ],
    });
    row.extend(has_ages.then(|| version.age_ms.map(shown_age).unwrap_or_default()));
    row
}

/// In the largest unit that there was one of.
fn shown_age(age_ms: u64) -> String {
    let minutes = age_ms / 60_000;
    match (minutes / 60 / 24, minutes / 60, minutes) {
        (0, 0, 0) => "just now".to_owned(),
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, _) => format!("{hours}h"),
        (days, ..) => format!("{days}d"),
    }
}

fn shown(entry: &Entry) -> String {
    printable_start(entry.value.as_deref().unwrap_or_default(), MAX_SHOWN_CHARS)
}

/// What became of a key between two revisions.
enum Difference {
    Added(Entry),
    Removed(Entry),
    Changed(Entry, Entry),
}

pub(crate) async fn diff(args: DiffArgs, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::without_raw(client.output)?;
    let selection = args.selection()?;
    let side = |revision: Option<u64>| {
        let query = ListQuery {
            selection: selection.clone(),
            page_limit: Some(PAGE_LEN as usize),
            with_values: args.values,
            freshness: GetOptions { revision, ..GetOptions::default() },
            ..ListQuery::default()
        };
        Side::new(client.client().list(client.keyspace(), query))
    };
    let (mut before, mut after) = (side(Some(args.from)), side(args.to));
    // The pages of a list without a revision are all of that of the first.
    let mut next = next_difference(&mut before, &mut after).await?;
    let (from, to) = (args.from, after.revision);
    let is_json = output.format == Format::Json;
    if is_json {
        output.bytes(format!("{{\"from\":{from},\"to\":{to},\"items\":[").as_bytes())?;
    }
    let (mut counts, mut separator) = ([0_u64; 3], "\n");
    while let Some(difference) = next {
        counts[difference.place()] += 1;
        if is_json {
            output.bytes(format!("{separator}{}", difference.to_json()).as_bytes())?;
            separator = ",\n";
        } else {
            output.line(difference.to_line(args.values))?;
        }
        next = next_difference(&mut before, &mut after).await?;
    }
    let [added, removed, changed] = counts;
    if is_json {
        output.line(format_args!("\n],\"added\":{added},\"removed\":{removed},\"changed\":{changed}}}"))?;
    }
    output.finish()?;
    if !is_json {
        note(format_args!("quorate: revision {from} to {to}: {added} added, {removed} removed, {changed} changed"));
    }
    Ok(())
}

/// The keys of one revision, one by one.
struct Side {
    listing: Listing,
    page: vec::IntoIter<Entry>,
    next: Option<Entry>,
    revision: u64,
    is_over: bool,
}

impl Side {
    fn new(listing: Listing) -> Self {
        Self { listing, page: Vec::new().into_iter(), next: None, revision: 0, is_over: false }
    }

    /// Sees to it that the next key is at hand, if there is one.
    async fn fill(&mut self) -> Result<(), Failure> {
        while self.next.is_none() && !self.is_over {
            self.next = self.page.next();
            if self.next.is_none() {
                let page = self.listing.next_page().await.map_err(|error| Failure::of_request("compare revisions", &error))?;
                match page {
                    Some(page) => {
                        self.revision = page.revision;
                        self.page = page.entries.into_iter();
                    }
                    None => self.is_over = true,
                }
            }
        }
        Ok(())
    }
}

/// Both sides are in the order of keys: the first key that is not the same on both.
async fn next_difference(before: &mut Side, after: &mut Side) -> Result<Option<Difference>, Failure> {
    loop {
        before.fill().await?;
        after.fill().await?;
        let order = match (&before.next, &after.next) {
            (None, None) => return Ok(None),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.key.cmp(&new.key),
        };
        let old = if order == Ordering::Greater { None } else { before.next.take() };
        let new = if order == Ordering::Less { None } else { after.next.take() };
        match (old, new) {
            (Some(old), None) => return Ok(Some(Difference::Removed(old))),
            (None, Some(new)) => return Ok(Some(Difference::Added(new))),
            (Some(old), Some(new)) if old.mod_revision != new.mod_revision => return Ok(Some(Difference::Changed(old, new))),
            _ => {}
        }
    }
}

impl Difference {
    fn place(&self) -> usize {
        match self {
            Self::Added(_) => 0,
            Self::Removed(_) => 1,
            Self::Changed(..) => 2,
        }
    }

    fn sides(&self) -> (&'static str, Option<&Entry>, Option<&Entry>) {
        match self {
            Self::Added(new) => ("added", None, Some(new)),
            Self::Removed(old) => ("removed", Some(old), None),
            Self::Changed(old, new) => ("changed", Some(old), Some(new)),
        }
    }

    fn key(&self) -> &[u8] {
        match self {
            Self::Added(entry) | Self::Removed(entry) | Self::Changed(_, entry) => &entry.key,
        }
    }

    fn to_line(&self, with_values: bool) -> String {
        let (_, old, new) = self.sides();
        let sign = ["+", "-", "~"][self.place()];
        let mut line = format!("{sign} {}", printable(self.key()));
        if with_values {
            let values: Vec<String> = [old, new].into_iter().flatten().map(shown).collect();
            line.extend(["  ", &*values.join(" -> ")]);
        }
        line
    }

    fn to_json(&self) -> Value {
        let (change, old, new) = self.sides();
        let mut item = Map::from_iter([("change".to_owned(), change.into())]);
        item.insert(
            match std::str::from_utf8(self.key()) {
                Ok(_) => "key".to_owned(),
                Err(_) => "key64".to_owned(),
            },
            match std::str::from_utf8(self.key()) {
                Ok(key) => key.into(),
                Err(_) => text64::encode(self.key()).into(),
            },
        );
        let body = |entry: &Entry| serde_json::to_value(entry.to_body(Encoding::Text)).expect("entries are plain data");
        item.extend(old.map(|old| ("before".to_owned(), body(old))));
        item.extend(new.map(|new| ("after".to_owned(), body(new))));
        Value::Object(item)
    }
}
