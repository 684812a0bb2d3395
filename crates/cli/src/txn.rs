//! `quorate txn`: a transaction from a file, from standard input, or from the command line.

mod words;

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::Path;

use quorate_api::lease::format_id;
use quorate_api::txn::{MAX_TXN_BYTES, Relation, Txn, TxnCompare, TxnDone, TxnKeys, TxnOp, TxnRange, TxnResult, TxnTest};

use crate::args::{ClientArgs, TxnArgs};
use crate::exit::{Exit, Failure};
use crate::output::{Format, Output};
use crate::printable::{printable, printable_start};

/// What of a value is shown in a table.
const MAX_SHOWN_CHARS: usize = 60;

pub(crate) async fn run(args: TxnArgs, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::without_raw(client.output)?;
    let txn = txn_of(&args)?;
    let result = client.client().txn(client.keyspace(), &txn).await;
    let result = result.map_err(|error| Failure::of_request("do the transaction", &error))?;
    match output.format {
        Format::Json => output.json(&result.to_body())?,
        _ => show(&mut output, &txn, &result)?,
    }
    output.finish()?;
    match result.failed_if.and_then(|failed| txn.compares.get(failed as usize)) {
        Some(compare) if txn.otherwise.is_empty() => {
            let message = format!("nothing was done: {} does not hold", told(compare));
            Err(Failure::new(Exit::ConditionFailed, message))
        }
        _ => Ok(()),
    }
}

/// The transaction that is asked for, from wherever it stands.
fn txn_of(args: &TxnArgs) -> Result<Txn, Failure> {
    if args.has_words() {
        let parsed = |what: &str, error: String| Failure::usage(format!("{what}: {error}"));
        return Ok(Txn {
            compares: words::each(&args.compares, words::compare).map_err(|error| parsed("--if", error))?,
            then: words::each(&args.then, words::op).map_err(|error| parsed("--then", error))?,
            otherwise: words::each(&args.otherwise, words::op).map_err(|error| parsed("--else", error))?,
        });
    }
    let stdin = Path::new("-");
    let path = match &args.file {
        Some(path) => path,
        None if io::stdin().is_terminal() => {
            return Err(Failure::usage("say what to do: a FILE, - for standard input, or --then (see quorate txn --help)"));
        }
        None => stdin,
    };
    let (json, place) = if path == stdin {
        (read_bounded(io::stdin().lock()), "standard input".to_owned())
    } else {
        (std::fs::File::open(path).and_then(read_bounded), path.display().to_string())
    };
    let json = json.map_err(|error| Failure::failed(format!("cannot read {place}: {error}")))?;
    Txn::parse(&json).map_err(|error| Failure::usage(format!("{place} is no transaction: {error}")))
}

fn read_bounded(source: impl io::Read) -> io::Result<Vec<u8>> {
    let mut json = Vec::new();
    source.take(MAX_TXN_BYTES + 1).read_to_end(&mut json)?;
    if json.len() as u64 > MAX_TXN_BYTES {
        return Err(io::Error::other("it holds more than 16 MiB, the most that a node takes"));
    }
    Ok(json)
}

fn show(output: &mut Output, txn: &Txn, result: &TxnResult) -> Result<(), Failure> {
    let failed = result.failed_if.and_then(|failed| txn.compares.get(failed as usize));
    let revision = result.revision;
    match failed {
        None => output.line(format_args!("then, at revision {revision}:"))?,
        Some(compare) => output.line(format_args!("else, at revision {revision}: {} does not hold", told(compare)))?,
    }
    let mut rows = Vec::new();
    add_rows(txn, (result.failed_if, &result.results), 0, &mut rows);
    if rows.is_empty() { Ok(()) } else { output.table(&["OPERATION", "KEY", "RESULT"], rows) }
}

fn add_rows(txn: &Txn, (failed, results): (Option<u64>, &[TxnDone]), depth: usize, rows: &mut Vec<Vec<String>>) {
    let indent = "  ".repeat(depth);
    let ops = if failed.is_none() { &txn.then } else { &txn.otherwise };
    for (op, done) in ops.iter().zip(results) {
        let (name, key) = match op {
            TxnOp::Get { key } => ("get", printable(key)),
            TxnOp::Put(put) => ("put", printable(&put.key)),
            TxnOp::Patch(patch) => (patch.patch.name(), printable(&patch.key)),
            TxnOp::Delete { key } => ("delete", printable(key)),
            TxnOp::List(list) => ("list", told_range(&list.range)),
            TxnOp::DeleteRange(range) => ("delete_range", told_range(range)),
            TxnOp::Txn(_) => ("txn", String::new()),
        };
        rows.push(vec![format!("{indent}{name}"), key, told_result(done)]);
        match (op, done) {
            (TxnOp::Txn(within), TxnDone::Txn { failed_if, results }) => add_rows(within, (*failed_if, results), depth + 1, rows),
            (_, TxnDone::Listed { items, .. }) => rows.extend(items.iter().map(|entry| {
                vec![
                    format!("{indent}  "),
                    printable(&entry.key),
                    entry.value.as_ref().map_or(String::new(), |value| shown(value)),
                ]
            })),
            _ => {}
        }
    }
}

fn told_result(done: &TxnDone) -> String {
    match done {
        TxnDone::Put { is_new: true, .. } => "created".to_owned(),
        TxnDone::Put { version, .. } => format!("replaced, version {version}"),
        TxnDone::Patched { number: Some(sum), .. } => sum.to_string(),
        TxnDone::Patched { version, .. } => format!("changed, version {version}"),
        TxnDone::Deleted { keys: 0 } => "was not there".to_owned(),
        TxnDone::Deleted { .. } => "deleted".to_owned(),
        TxnDone::DeletedRange { keys } => format!("{keys} deleted"),
        TxnDone::Got(None) => "not there".to_owned(),
        TxnDone::Got(Some(entry)) => entry.value.as_ref().map_or(String::new(), |value| shown(value)),
        TxnDone::Listed { items, has_more } => format!("{} keys{}", items.len(), if *has_more { ", and more" } else { "" }),
        TxnDone::Txn { failed_if: None, .. } => "then".to_owned(),
        TxnDone::Txn { failed_if: Some(failed), .. } => format!("else: if[{failed}] does not hold"),
    }
}

fn shown(value: &[u8]) -> String {
    printable_start(value, MAX_SHOWN_CHARS)
}

fn told_range(range: &TxnRange) -> String {
    if range.is_everything() {
        return "every key".to_owned();
    }
    let mut told = format!("{}*", printable(&range.prefix));
    if !range.start.is_empty() {
        let _ = write!(told, " from {}", printable(&range.start));
    }
    if !range.end.is_empty() {
        let _ = write!(told, " before {}", printable(&range.end));
    }
    told
}

/// A compare as it can be written on the command line.
fn told(compare: &TxnCompare) -> String {
    let key = match &compare.keys {
        TxnKeys::One(key) => printable(key),
        TxnKeys::Range(range) => format!("every {}", told_range(range)),
    };
    let sign = |relation| Relation::ALL.into_iter().find(|(known, _)| *known == relation).map_or("", |(_, sign)| sign);
    match &compare.test {
        TxnTest::Exists(true) => format!("`{key} exists`"),
        TxnTest::Exists(false) => format!("`{key} absent`"),
        TxnTest::Version(relation, number) => format!("`version({key}) {} {number}`", sign(*relation)),
        TxnTest::CreateRevision(relation, number) => format!("`create_revision({key}) {} {number}`", sign(*relation)),
        TxnTest::ModRevision(relation, number) => format!("`mod_revision({key}) {} {number}`", sign(*relation)),
        TxnTest::Lease(relation, id) => format!("`lease({key}) {} {}`", sign(*relation), format_id(*id)),
        TxnTest::Value(relation, value) => format!("`{key} {} {}`", sign(*relation), shown(value)),
    }
}
