//! `quorate import`: lines of JSON, each a pair that is written, of any number in little memory.

mod done;
mod line;
mod source;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quorate_client::{Client, Error, PutOptions};
use serde_json::json;
use tokio::task::JoinSet;

use crate::args::{ClientArgs, ImportArgs};
use crate::exit::{Failure, note};
use crate::output::{Format, Output};
use crate::printable::printable;
use crate::progress::{Progress, shown_bytes};

use done::Done;
use line::Pair;
use source::{Line, Source};

/// Bytes of lines that are on their way at the same time, unless it is a single one.
const MAX_BYTES_UNDER_WAY: u64 = 32 << 20;

pub(crate) async fn run(args: ImportArgs, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::without_raw(client.output)?;
    let source = Source::open(&args.file)?;
    let progress = Progress::of_bytes(source.total_bytes(), "lines");
    let mut import = Import {
        client: client.client(),
        keyspace: client.keyspace().into(),
        max_under_way: usize::from(args.clients),
        goes_on: args.continue_on_error,
        under_way: JoinSet::new(),
        keys_under_way: BTreeSet::new(),
        bytes_under_way: 0,
        done: Done::after(args.skip),
        failed: 0,
        first_failure: None,
        progress,
    };
    let ended = import.run(source, args.skip).await;
    let Import { done, failed, progress, .. } = import;
    drop(progress);
    ended.map_err(|failure| with_way_on(failure, &done, &args.file))?;
    match output.format {
        Format::Json => output.json(&json!({ "lines": done.lines(), "bytes": done.bytes(), "failed": failed }))?,
        _ => output.line(format_args!("imported {} lines, {}", done.lines() - failed, shown_bytes(done.bytes())))?,
    }
    output.finish()?;
    if failed == 0 { Ok(()) } else { Err(Failure::failed(format!("{failed} of {} lines were not written", done.lines()))) }
}

/// The failure, and how the rest of the lines gets in.
fn with_way_on(failure: Failure, done: &Done, file: &Path) -> Failure {
    let Failure::Told { exit, message } = failure else { return failure };
    let first = done.first_missing();
    let source = if file == Path::new("-") { "the same lines".to_owned() } else { file.display().to_string() };
    let way_on = match first {
        0 => "no line is in for certain".to_owned(),
        count => format!("the first {count} lines are in; go on with {source} and --skip {count}"),
    };
    Failure::new(exit, format!("{message}\nquorate: {way_on}"))
}

/// An import under way.
struct Import {
    client: Client,
    keyspace: Arc<str>,
    max_under_way: usize,
    goes_on: bool,
    under_way: JoinSet<Ended>,
    /// A line whose key is among them waits, or it might be overtaken by the one before.
    keys_under_way: BTreeSet<Bytes>,
    bytes_under_way: u64,
    done: Done,
    failed: u64,
    first_failure: Option<Failure>,
    progress: Progress,
}

/// A line that was sent, and what became of it.
struct Ended {
    number: u64,
    bytes: u64,
    key: Bytes,
    outcome: Result<(), Error>,
}

impl Import {
    /// Everything up to the end, an interruption, or the first failure if that ends it; what was sent is waited for.
    async fn run(&mut self, mut source: Source, skip: u64) -> Result<(), Failure> {
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        let mut waiting: Option<(Line, Pair)> = None;
        let mut is_over = false;
        loop {
            if self.first_failure.is_some() {
                (is_over, waiting) = (true, None);
            }
            if is_over && waiting.is_none() && self.under_way.is_empty() {
                return self.first_failure.take().map_or(Ok(()), Err);
            }
            if let Some((line, pair)) = waiting.take_if(|(line, pair)| self.has_room_for(line, pair)) {
                self.send(&line, pair);
                continue;
            }
            tokio::select! {
                biased;
                Some(ended) = self.under_way.join_next() => {
                    self.on_ended(ended.map_err(|error| Failure::failed(format!("a line of the import failed: {error}")))?);
                }
                _ = &mut interrupted, if !is_over => self.fail(Failure::failed("interrupted")),
                line = source.next(), if !is_over && waiting.is_none() => match line {
                    Err(failure) => self.fail(failure),
                    Ok(None) => is_over = true,
                    Ok(Some(line)) if line.number <= skip => self.done.skip(&line),
                    Ok(Some(line)) => waiting = self.read(line),
                },
            }
        }
    }

    /// The pair of a line; none if it holds none, which may be a failure.
    fn read(&mut self, line: Line) -> Option<(Line, Pair)> {
        match line.read() {
            Ok(Some(pair)) => return Some((line, pair)),
            Ok(None) => self.done.insert(line.number, line.bytes()),
            Err(reason) => {
                let failure = Failure::failed(format!("line {}: {reason}", line.number));
                self.on_failed(line.number, line.bytes(), true, failure);
            }
        }
        None
    }

    fn has_room_for(&self, line: &Line, pair: &Pair) -> bool {
        let is_first = self.under_way.is_empty();
        let fits = self.under_way.len() < self.max_under_way && self.bytes_under_way + line.bytes() <= MAX_BYTES_UNDER_WAY;
        (is_first || fits) && !self.keys_under_way.contains(&pair.key)
    }

    fn send(&mut self, line: &Line, pair: Pair) {
        let (number, bytes) = (line.number, line.bytes());
        let Pair { key, value, content_type, meta } = pair;
        self.keys_under_way.insert(key.clone());
        self.bytes_under_way += bytes;
        let (client, keyspace) = (self.client.clone(), Arc::clone(&self.keyspace));
        self.under_way.spawn(async move {
            let options = PutOptions { content_type, meta, ..PutOptions::default() };
            let outcome = client.put(&keyspace, &key, value, &options).await.map(drop);
            Ended { number, bytes, key, outcome }
        });
    }

    fn on_ended(&mut self, ended: Ended) {
        let Ended { number, bytes, key, outcome } = ended;
        self.keys_under_way.remove(&key);
        self.bytes_under_way -= bytes;
        match outcome {
            Ok(()) => self.done.insert(number, bytes),
            Err(error) => {
                let failure = Failure::of_request(format!("put `{}` of line {number}", printable(&key)), &error);
                self.on_failed(number, bytes, is_of_the_line(&error), failure);
            }
        }
        self.progress.set_bytes(self.done.bytes(), self.done.lines());
    }

    /// A line that is not in.
    fn on_failed(&mut self, number: u64, bytes: u64, is_of_the_line: bool, failure: Failure) {
        match failure {
            Failure::Told { message, .. } if self.goes_on && is_of_the_line => {
                self.failed += 1;
                self.done.insert(number, bytes);
                self.progress.note(format_args!("quorate: {message}"));
            }
            failure => self.fail(failure),
        }
    }

    /// The first failure counts: it ends the import, and others follow from it.
    fn fail(&mut self, failure: Failure) {
        match (&self.first_failure, failure) {
            (None, failure) => self.first_failure = Some(failure),
            (Some(_), Failure::Told { message, .. }) => note(format_args!("quorate: {message}")),
            (Some(_), Failure::OutputClosed) => {}
        }
    }
}

/// Whether other lines may fare better: a cluster that cannot be reached would refuse them all.
fn is_of_the_line(error: &Error) -> bool {
    match error {
        Error::InvalidRequest { .. } => true,
        Error::Refused { problem, .. } => (400..500).contains(&problem.status) && problem.status != 404,
        _ => false,
    }
}
