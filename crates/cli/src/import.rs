//! `quorate import`: lines of JSON, each a pair that is written, of any number in little memory.
//!
//! They go to one node as a stream of operations, and are kept until their results have come. Where a stream breaks off, the next
//! one, to another node if there is one, begins with the first line that has no result. So a line may be written twice, which
//! leaves its pair the same; only a line that is still under way at a node out of reach, and whose key comes once more soon
//! after, might end up above the later one.

mod source;
mod under_way;

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use quorate_api::batch::BatchOp;
use quorate_api::problem::{Problem, WriteOutcome};
use quorate_client::{BatchOutcome, BatchReceiver, BatchSender, Client, Error};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use crate::args::{ClientArgs, ImportArgs};
use crate::exit::{Failure, note};
use crate::interrupt::interrupted;
use crate::output::{Format, Output};
use crate::pair_line;
use crate::printable::printable;
use crate::progress::{Progress, shown_bytes};

use source::{Line, MAX_LINE_BYTES, Source};
use under_way::UnderWay;

/// A node ends a stream on which nothing comes for half a minute. One that is not needed for so long is ended before.
const MAX_IDLE: Duration = Duration::from_secs(5);

/// Beyond the time limit of an operation, for its result to travel.
const TRAVEL_TIME: Duration = Duration::from_secs(1);

/// Streams in a row that end without a single result before the import gives up. With the pauses between them this is long
/// enough for an election, or the restart of a node.
const MAX_VAIN_STREAMS: u32 = 4;

/// Before the first of them; then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

pub(crate) async fn run(args: ImportArgs, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::without_raw(client.output)?;
    let source = Source::open(&args.file)?;
    let progress = Progress::of_bytes(source.total_bytes(), "lines");
    let mut import = Import {
        client: client.client(),
        keyspace: client.keyspace(),
        patience: client.timeout() + TRAVEL_TIME,
        skip: args.skip,
        goes_on: args.continue_on_error,
        source,
        interrupted: Box::pin(interrupted()),
        is_over: false,
        under_way: UnderWay::new(),
        failed: 0,
        first_failure: None,
        is_refused: false,
        progress,
    };
    let ended = import.run().await;
    let Import { under_way, failed, progress, .. } = import;
    drop(progress);
    ended.map_err(|failure| with_way_on(failure, &under_way, &args.file))?;
    let (lines, bytes) = (under_way.done_lines(), under_way.done_bytes() - under_way.skipped_bytes());
    match output.format {
        Format::Json => output.json(&json!({ "lines": lines, "bytes": bytes, "failed": failed }))?,
        _ => output.line(format_args!("imported {} lines, {}", lines - failed, shown_bytes(bytes)))?,
    }
    output.finish()?;
    if failed == 0 { Ok(()) } else { Err(Failure::failed(format!("{failed} of {lines} lines were not written"))) }
}

/// The failure, and how the rest of the lines gets in.
fn with_way_on(failure: Failure, under_way: &UnderWay, file: &Path) -> Failure {
    let Failure::Told { exit, message } = failure else { return failure };
    let source = if file == Path::new("-") { "the same lines".to_owned() } else { file.display().to_string() };
    let way_on = match under_way.done() {
        0 => "no line is in for certain".to_owned(),
        1 => format!("the first line is in; go on with {source} and --skip 1"),
        count => format!("the first {count} lines are in; go on with {source} and --skip {count}"),
    };
    Failure::new(exit, format!("{message}\nquorate: {way_on}"))
}

/// An import under way.
struct Import<'a> {
    client: Client,
    keyspace: &'a str,
    /// How long no result may come while there are some to come.
    patience: Duration,
    skip: u64,
    goes_on: bool,
    source: Source,
    interrupted: Pin<Box<dyn Future<Output = ()>>>,
    /// There is no further line, or none is wanted any more.
    is_over: bool,
    under_way: UnderWay,
    failed: u64,
    first_failure: Option<Failure>,
    /// The first line under way was refused: it and what comes after it does not count.
    is_refused: bool,
    progress: Progress,
}

impl Import<'_> {
    /// Everything up to the end, an interruption, or the first failure if that ends it; what was sent is waited for.
    async fn run(&mut self) -> Result<(), Failure> {
        let mut vain_streams = 0;
        loop {
            let is_done = self.is_over && self.under_way.is_empty();
            if is_done || self.is_refused {
                break;
            }
            if self.under_way.is_empty() {
                tokio::select! {
                    biased;
                    line = self.source.next() => self.on_line(line),
                    () = &mut self.interrupted => self.on_interruption(),
                }
                continue;
            }
            let done_before = self.under_way.done();
            let Err(error) = self.stream().await else { continue };
            vain_streams = if self.under_way.done() > done_before { 0 } else { vain_streams + 1 };
            let doing = format!("write line {}", self.under_way.first_number());
            // A cluster in which nothing was written yet may never have been there.
            let may_pass = may_pass(&error) && self.under_way.done_lines() > 0 && vain_streams < MAX_VAIN_STREAMS;
            if !may_pass || self.first_failure.is_some() {
                self.fail(Failure::of_repeatable(doing, &error));
                break;
            }
            self.progress.note(format_args!("quorate: cannot {doing}: {error}; trying again from there"));
            self.client.turn_to_next_endpoint();
            tokio::select! {
                () = sleep(FIRST_PAUSE * 2_u32.pow(vain_streams)) => {}
                () = &mut self.interrupted, if !self.is_over => {
                    self.on_interruption();
                    break;
                }
            }
        }
        self.first_failure.take().map_or(Ok(()), Err)
    }

    /// One stream: until all that was read is in, and nothing more came for a while or will. An error says why it broke off.
    async fn stream(&mut self) -> Result<(), Error> {
        let (sender, mut results) = self.client.batch_stream(self.keyspace, false).await?;
        let mut sender = Some(sender);
        self.under_way.on_new_stream();
        let mut give_up_at = Instant::now() + self.patience;
        loop {
            self.push_to(&mut sender);
            let takes_lines = sender.as_ref().is_some_and(|sender| !sender.is_full());
            let takes_lines = takes_lines && !self.is_over && self.under_way.has_room();
            tokio::select! {
                biased;
                outcome = results.next() => match outcome? {
                    Some(outcome) => {
                        give_up_at = Instant::now() + self.patience;
                        self.on_outcome(outcome, &results)?;
                    }
                    None if !self.under_way.is_empty() && !self.is_refused => return Err(too_few(&results)),
                    None => return Ok(()),
                },
                line = self.source.next(), if takes_lines => self.on_line(line),
                // If the stream has ended, its results say why.
                flushed = flush(&mut sender), if sender.as_ref().is_some_and(|sender| !sender.is_flushed()) => {
                    sender = sender.filter(|_| flushed.is_ok());
                }
                () = sleep_until(give_up_at), if self.under_way.has_sent() => return Err(silent(&results, self.patience)),
                () = sleep(MAX_IDLE), if self.under_way.is_empty() => sender = None,
                () = &mut self.interrupted, if !self.is_over => self.on_interruption(),
            }
        }
    }

    /// Hands over what is to be sent as far as there is room; ends the stream behind the last of it.
    fn push_to(&mut self, sender: &mut Option<BatchSender>) {
        let Some(open) = sender else { return };
        while !open.is_full() && !self.is_refused {
            let Some(op) = self.under_way.next_to_send() else { break };
            open.push(op);
        }
        if self.is_refused || (self.is_over && open.is_flushed()) {
            *sender = None;
        }
    }

    fn on_line(&mut self, line: Result<Option<Line>, Failure>) {
        let line = match line {
            Err(failure) => return self.fail(failure),
            Ok(None) => return self.is_over = true,
            Ok(Some(line)) => line,
        };
        let Line { number, bytes, text } = line;
        if number <= self.skip {
            return self.under_way.skip(bytes);
        }
        let too_long = || format!("longer than {}, which no value makes it", shown_bytes(MAX_LINE_BYTES));
        match text.ok_or_else(too_long).and_then(|text| pair_line::read(&text)) {
            Ok(put) => self.under_way.insert(bytes, put.map(|put| BatchOp::Put(Box::new(put)))),
            Err(reason) => {
                let told = format!("line {number}: {reason}");
                if self.passes_over(&told) { self.under_way.insert(bytes, None) } else { self.fail(Failure::failed(told)) }
            }
        }
    }

    /// What became of the first line under way.
    fn on_outcome(&mut self, outcome: BatchOutcome, results: &BatchReceiver) -> Result<(), Error> {
        if self.is_refused {
            return Ok(());
        }
        if let Some(problem) = outcome.problem {
            let is_of_the_line = is_of_the_line(&problem);
            let error = Error::Refused { endpoint: results.endpoint().to_owned(), problem: Box::new(problem) };
            if !is_of_the_line {
                return Err(error);
            }
            let key = self.under_way.first_key().map(|key| printable(key)).unwrap_or_default();
            let doing = format!("put `{key}` of line {}", self.under_way.first_number());
            if !self.passes_over(&format!("cannot {doing}: {error}")) {
                self.is_refused = true;
                self.fail(Failure::of_repeatable(doing, &error));
                return Ok(());
            }
        }
        self.under_way.on_done();
        self.progress.set_bytes(self.under_way.done_bytes(), self.under_way.done_lines());
        Ok(())
    }

    /// Tells of a line that cannot be written, and goes on, if that is wanted.
    fn passes_over(&mut self, told: &str) -> bool {
        if self.goes_on {
            self.failed += 1;
            self.progress.note(format_args!("quorate: {told}"));
        }
        self.goes_on
    }

    fn on_interruption(&mut self) {
        self.fail(Failure::failed("interrupted"));
    }

    /// Takes no more lines. The first failure counts: others follow from it.
    fn fail(&mut self, failure: Failure) {
        self.is_over = true;
        match (&self.first_failure, failure) {
            (None, failure) => self.first_failure = Some(failure),
            (Some(_), Failure::Told { message, .. }) => note(format_args!("quorate: {message}")),
            (Some(_), Failure::OutputClosed | Failure::AsCommand(_)) => {}
        }
    }
}

async fn flush(sender: &mut Option<BatchSender>) -> Result<(), quorate_client::StreamEnded> {
    match sender {
        Some(sender) => sender.flush().await,
        None => Ok(()),
    }
}

/// Whether other lines may fare better: a keyspace that is not there or takes no writes, or a node that cannot, would refuse
/// them all.
fn is_of_the_line(problem: &Problem) -> bool {
    (400..500).contains(&problem.status) && !matches!(problem.status, 403 | 404)
}

/// Whether the same may go better a little later, or at another node.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } | Error::NoAnswer { .. } | Error::NotReady { .. } => true,
        Error::Refused { problem, .. } => matches!(problem.status, 408 | 503 | 504),
        _ => false,
    }
}

fn silent(results: &BatchReceiver, patience: Duration) -> Error {
    let reason = format!("nothing came within {}", quorate_api::duration::format(patience));
    Error::NoAnswer { endpoint: results.endpoint().to_owned(), reason, outcome: WriteOutcome::Unknown }
}

fn too_few(results: &BatchReceiver) -> Error {
    let reason = "results are missing".to_owned();
    Error::Unexpected { endpoint: results.endpoint().to_owned(), reason, outcome: WriteOutcome::Unknown }
}
