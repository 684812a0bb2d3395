//! `quorate get`, `put`, `del`, `ls`.

use bytes::Bytes;
use quorate_api::duration::format_seconds;
use quorate_api::entry::{Encoding, Entry, folder_names};
use quorate_api::lease::format_id;
use quorate_api::problem::Code;
use quorate_api::text64;
use quorate_client::{
    Condition, Counted, DeleteOptions, DeletedRange, Found, GetOptions, ListQuery, Listing, Page, PutOptions, Replicated,
    Selection, Written,
};
use serde_json::json;

use crate::args::{ClientArgs, DelArgs, Deletion, GetArgs, LsArgs, PutArgs};
use crate::exit::{Exit, Failure, note};
use crate::output::{Format, Output};
use crate::printable::{printable, printable_start};
use crate::value_source::ValueSource;

/// Keys asked for at once while listing many.
const PAGE_KEYS: u64 = 1000;

/// What of a value is shown in a table.
const MAX_SHOWN_CHARS: usize = 60;

pub(crate) async fn get(args: GetArgs, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::new(client.output.unwrap_or(Format::Raw));
    let options = args.reading.options();
    let key = args.key.bytes()?;
    let doing = format!("get `{}`", printable(&key));
    let found = client.client().get(client.keyspace(), &key, &options).await;
    let Some(found) = found.map_err(|error| Failure::of_request(&doing, &error))? else {
        return Err(not_found(&key, client));
    };
    match output.format {
        Format::Raw => output.bytes(found.entry.value.as_deref().unwrap_or_default())?,
        Format::Json => output.json(&found.entry.to_body(Encoding::Text))?,
        Format::Table => show(&mut output, &found)?,
    }
    output.finish()
}

pub(crate) async fn put(args: PutArgs, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::without_raw(client.output)?;
    let meta = args.meta()?;
    let key = args.key.bytes()?;
    let value = ValueSource::from(args.value).read()?;
    let absent = args.if_absent.then_some(Condition::Absent);
    let condition = args.cas.map(Condition::ModRevision).or(absent);
    let PutArgs { content_type, ttl, lease, ack, .. } = args;
    let options = PutOptions { condition, content_type, meta, ttl, lease, ack };
    let written = client.client().put(client.keyspace(), &key, value.into(), &options).await;
    let written = written.map_err(|error| Failure::of_request(format!("put `{}`", printable(&key)), &error))?;
    if output.format == Format::Json {
        let Written { is_new, etag, revision, version, replicated } = written;
        output.json(&match replicated {
            None => json!({ "created": is_new, "revision": revision, "version": version, "etag": etag }),
            Some(Replicated { members, is_met, stamp }) => {
                json!({ "created": is_new, "stamp": stamp, "etag": etag, "replicated": members, "acknowledged": is_met })
            }
        })?;
    } else {
        let what = match &written.replicated {
            Some(replicated) if !replicated.is_met => "wrote",
            _ if written.is_new => "created",
            // Nobody looked whether it was there.
            None if written.revision == 0 => "wrote",
            _ => "replaced",
        };
        output.line(format_args!(
            "{what} `{}` {}",
            printable(&key),
            whereabouts(written.revision, written.replicated.as_ref())
        ))?;
    }
    output.finish()
}

/// At which revision a write is, or at how many nodes.
fn whereabouts(revision: u64, replicated: Option<&Replicated>) -> String {
    match replicated {
        None if revision == 0 => "in the store outside".to_owned(),
        None => format!("at revision {revision}"),
        Some(Replicated { members: 0, is_met: true, .. }) => "at this node; it goes on to the others".to_owned(),
        Some(Replicated { members, is_met: true, .. }) => format!("at this node and {}", others(*members)),
        Some(Replicated { members, is_met: false, .. }) => {
            let others = others(*members);
            format!("at this node and {others}; those it should wait for did not have it in time, and get it later")
        }
    }
}

fn others(members: u64) -> String {
    match members {
        0 => "no other".to_owned(),
        1 => "1 other".to_owned(),
        members => format!("{members} others"),
    }
}

pub(crate) async fn del(args: DelArgs, client: &ClientArgs) -> Result<(), Failure> {
    let output = Output::without_raw(client.output)?;
    match args.deletion()? {
        Deletion::Key(key) => {
            let options = DeleteOptions { condition: args.cas.map(Condition::ModRevision), ack: args.ack };
            del_key(output, &key, &options, client).await
        }
        Deletion::Many(selection) => del_many(output, Some(&selection), client).await,
        Deletion::Everything => del_many(output, None, client).await,
    }
}

async fn del_key(mut output: Output, key: &[u8], options: &DeleteOptions, client: &ClientArgs) -> Result<(), Failure> {
    let deleted = client.client().delete(client.keyspace(), key, options).await;
    let deleted = deleted.map_err(|error| Failure::of_request(format!("delete `{}`", printable(key)), &error))?;
    match output.format {
        Format::Json => {
            let was_there = u8::from(deleted.was_there);
            output.json(&match &deleted.replicated {
                None => json!({ "deleted": was_there, "revision": deleted.revision }),
                Some(Replicated { members, is_met, stamp }) => {
                    json!({ "deleted": was_there, "stamp": stamp, "replicated": members, "acknowledged": is_met })
                }
            })?;
        }
        _ if deleted.was_there => {
            let at = whereabouts(deleted.revision, deleted.replicated.as_ref());
            output.line(format_args!("deleted `{}` {at}", printable(key)))?;
        }
        _ => {}
    }
    output.finish()?;
    if deleted.was_there { Ok(()) } else { Err(not_found(key, client)) }
}

/// As many requests as it takes: each ends with the time limit at the latest, and says how far it came.
async fn del_many(mut output: Output, selection: Option<&Selection>, client: &ClientArgs) -> Result<(), Failure> {
    let mut gone = 0;
    let DeletedRange { deleted, revision } = loop {
        let deleted = match selection {
            Some(selection) => client.client().delete_range(client.keyspace(), selection).await,
            None => client.client().delete_all(client.keyspace()).await,
        };
        match deleted {
            Ok(deleted) => break deleted,
            Err(error) => {
                let deleted = error.problem().and_then(|problem| problem.deleted).unwrap_or(0);
                gone += deleted;
                if deleted == 0 || error.code() != Some(Code::Incomplete.facts().code) {
                    let so_far = if gone > 0 { format!(" ({gone} keys are gone)") } else { String::new() };
                    return Err(Failure::of_request(format!("delete keys{so_far}"), &error));
                }
            }
        }
    };
    gone += deleted;
    match output.format {
        Format::Json => output.json(&json!({ "deleted": gone, "revision": revision }))?,
        _ if revision == 0 => output.line(format_args!("deleted {gone} keys"))?,
        _ => output.line(format_args!("deleted {gone} keys at revision {revision}"))?,
    }
    output.finish()
}

pub(crate) async fn ls(args: LsArgs, client: &ClientArgs) -> Result<(), Failure> {
    let selection = args.selection()?;
    if args.count {
        return count(&selection, &args.reading.options(), client).await;
    }
    let max_keys = args.max_keys();
    let query = ListQuery {
        selection,
        page_limit: Some(max_keys.min(PAGE_KEYS) as usize),
        is_reverse: args.reverse,
        with_values: args.values,
        delimiter: args.delimiter()?,
        freshness: args.reading.options(),
    };
    let mut output = Output::new(client.output.unwrap_or(Format::Table));
    let listing = client.client().list(client.keyspace(), query);
    let shown = Shown { with_values: args.values, is_reverse: args.reverse };
    let has_more = match output.format {
        Format::Json => list_as_json(&mut output, listing, max_keys).await?,
        _ => list_as_lines(&mut output, listing, max_keys, shown).await?,
    };
    output.finish()?;
    if has_more && client.output != Some(Format::Json) {
        note(format_args!("quorate: there are more than {max_keys} keys: --all lists them all, --limit N more of them"));
    }
    Ok(())
}

async fn count(selection: &Selection, freshness: &GetOptions, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::new(client.output.unwrap_or(Format::Table));
    let counted = client.client().count(client.keyspace(), selection, freshness).await;
    let Counted { count, revision } = counted.map_err(|error| Failure::of_request("count keys", &error))?;
    match output.format {
        Format::Json => output.json(&json!({ "count": count, "revision": revision }))?,
        _ => output.line(count)?,
    }
    output.finish()
}

/// Page by page, so that a list of any length takes little memory. Returns whether there is more than was asked for.
async fn list_as_lines(output: &mut Output, mut listing: Listing, max_keys: u64, shown: Shown) -> Result<bool, Failure> {
    let mut left = max_keys;
    let mut is_first = true;
    while let Some(page) = next_page(&mut listing, left).await? {
        left = left.saturating_sub(size_of(&page));
        match output.format {
            Format::Raw => raw_lines(output, &page, shown.is_reverse)?,
            _ => list_table(output, &page, is_first, shown)?,
        }
        output.flush()?;
        if left == 0 {
            return Ok(page.next_cursor.is_some());
        }
        is_first = false;
    }
    Ok(false)
}

/// One object, its items one a line.
async fn list_as_json(output: &mut Output, mut listing: Listing, max_keys: u64) -> Result<bool, Failure> {
    let mut left = max_keys;
    let (mut revision, mut has_more, mut separator) = (0, false, "\n");
    let mut folders = Vec::new();
    output.bytes(b"{\"items\":[")?;
    while let Some(page) = next_page(&mut listing, left).await? {
        for entry in &page.entries {
            let item = serde_json::to_string(&entry.to_body(Encoding::Text)).map_err(std::io::Error::from)?;
            output.bytes(format!("{separator}{item}").as_bytes())?;
            separator = ",\n";
        }
        left = left.saturating_sub(size_of(&page));
        folders.extend(page.folders);
        (revision, has_more) = (page.revision, page.next_cursor.is_some());
        if left == 0 {
            break;
        }
    }
    let (prefixes, prefixes64) = folder_names(&folders, Encoding::Text);
    let named = |name: &str, names: String| if names == "[]" { String::new() } else { format!(",\"{name}\":{names}") };
    let folders = named("prefixes", json!(prefixes).to_string()) + &named("prefixes64", json!(prefixes64).to_string());
    output.line(format_args!("\n]{folders},\"revision\":{revision},\"has_more\":{has_more}}}"))?;
    Ok(has_more)
}

async fn next_page(listing: &mut Listing, left: u64) -> Result<Option<Page>, Failure> {
    listing.set_page_limit(left.min(PAGE_KEYS) as usize);
    listing.next_page().await.map_err(|error| Failure::of_request("list keys", &error))
}

fn size_of(page: &Page) -> u64 {
    (page.entries.len() + page.folders.len()) as u64
}

/// How pairs are shown.
#[derive(Clone, Copy)]
struct Shown {
    with_values: bool,
    is_reverse: bool,
}

/// A page's pairs and folders, together in the order of the list.
fn in_order(page: &Page, is_reverse: bool) -> Vec<Result<&Entry, &Bytes>> {
    let mut all: Vec<Result<&Entry, &Bytes>> = page.entries.iter().map(Ok).chain(page.folders.iter().map(Err)).collect();
    all.sort_by_key(|item| item.map_or_else(Bytes::clone, |entry| entry.key.clone()));
    if is_reverse {
        all.reverse();
    }
    all
}

fn raw_lines(output: &mut Output, page: &Page, is_reverse: bool) -> Result<(), Failure> {
    for item in in_order(page, is_reverse) {
        match item {
            Ok(entry) => raw_line(output, entry)?,
            Err(folder) => {
                output.bytes(folder)?;
                output.bytes(b"\n")?;
            }
        }
    }
    Ok(())
}

fn raw_line(output: &mut Output, entry: &Entry) -> Result<(), Failure> {
    output.bytes(&entry.key)?;
    if let Some(value) = &entry.value {
        output.bytes(b"\t")?;
        output.bytes(value)?;
    }
    output.bytes(b"\n")
}

fn list_table(output: &mut Output, page: &Page, is_first: bool, shown: Shown) -> Result<(), Failure> {
    // An empty page under a header says that there is nothing; later ones say nothing at all.
    if size_of(page) == 0 && !is_first {
        return Ok(());
    }
    // In an eventual keyspace stamps name what is there, and nothing is counted.
    let is_stamped = page.entries.first().is_some_and(|entry| entry.stamp.is_some());
    let mut header = vec!["KEY"];
    header.extend(if is_stamped { &["STAMP"][..] } else { &["REVISION", "VERSION"] });
    header.push("TYPE");
    header.extend(shown.with_values.then_some("VALUE"));
    let rows = in_order(page, shown.is_reverse).into_iter().map(|item| {
        let mut row = match item {
            Err(folder) => {
                let counters = if is_stamped { 1 } else { 2 };
                let mut row = vec![printable(folder)];
                row.extend(vec![String::new(); counters]);
                row.push("folder".to_owned());
                row
            }
            Ok(entry) => {
                let mut row = vec![printable(&entry.key)];
                match &entry.stamp {
                    Some(stamp) => row.push(stamp.clone()),
                    None => row.extend([entry.mod_revision.to_string(), entry.version.to_string()]),
                }
                row.push(entry.content_type.as_deref().map(|kind| printable(kind.as_bytes())).unwrap_or_default());
                row
            }
        };
        let value = item.ok().and_then(|entry| entry.value.as_ref());
        row.extend(shown.with_values.then(|| value.map(|value| printable_start(value, MAX_SHOWN_CHARS)).unwrap_or_default()));
        row
    });
    output.table(&header, rows)
}

fn show(output: &mut Output, found: &Found) -> Result<(), Failure> {
    let entry = &found.entry;
    let value = entry.value.as_deref().unwrap_or_default();
    let mut rows = vec![
        ("key", printable(&entry.key)),
        ("value", printable_start(value, MAX_SHOWN_CHARS)),
        ("bytes", value.len().to_string()),
        ("type", entry.content_type.as_deref().map(|kind| printable(kind.as_bytes())).unwrap_or_default()),
    ];
    match &entry.stamp {
        Some(stamp) => rows.push(("stamp", stamp.clone())),
        None => rows.extend([
            ("mod revision", entry.mod_revision.to_string()),
            ("create revision", entry.create_revision.to_string()),
            ("version", entry.version.to_string()),
        ]),
    }
    rows.push(("etag", found.etag.clone()));
    let noted: Vec<String> = entry.meta.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if !noted.is_empty() {
        rows.push(("meta", noted.join(", ")));
    }
    rows.extend(entry.ttl_ms.map(|ttl_ms| ("seconds left", format_seconds(ttl_ms))));
    rows.extend(entry.lease.map(|lease| ("lease", format_id(lease))));
    if std::str::from_utf8(&entry.key).is_err() {
        rows.insert(1, ("key64", text64::encode(&entry.key)));
    }
    output.table(&["FIELD", "VALUE"], rows.into_iter().map(|(field, value)| vec![field.to_owned(), value]))
}

fn not_found(key: &[u8], client: &ClientArgs) -> Failure {
    Failure::new(Exit::NotFound, format!("keyspace {} holds no key `{}`", client.keyspace(), printable(key)))
}
