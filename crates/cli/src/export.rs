//! `quorate export`: a keyspace's pairs as lines of JSON, of any number in little memory, all as of one revision.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use quorate_api::entry::Entry;
use quorate_client::{Selection, StreamQuery};
use serde_json::json;
use tempfile::NamedTempFile;

use crate::args::{ClientArgs, ExportArgs};
use crate::exit::Failure;
use crate::interrupt::interrupted;
use crate::output::{Format, Output};
use crate::pair_line;
use crate::progress::{Progress, shown_bytes};

/// How often the bar moves.
const PAIRS_BETWEEN_REPORTS: u64 = 1000;

pub(crate) async fn run(args: ExportArgs, client: &ClientArgs) -> Result<(), Failure> {
    let target = Target::of(&args.file);
    if matches!(target, Target::Stdout) && client.output.is_some() {
        return Err(Failure::usage("the lines go to standard output, and always as JSON: give a FILE for a report with -o"));
    }
    let prefix = args.prefix()?;
    let total = if prefix.is_empty() { count_of_keys(client).await } else { None };
    let selection = Selection { prefix, ..Selection::default() };
    let query = StreamQuery { selection, with_values: true, freshness: args.reading.options(), ..StreamQuery::default() };
    let mut sink = Sink::open(target)?;
    let written = tokio::select! {
        written = write_all(&mut sink, client, &query, Progress::of_count(total, "pairs")) => written,
        () = interrupted() => Err(Failure::failed("interrupted")),
    };
    let written = written.map_err(|failure| sink.not_whole(failure))?;
    sink.finish()?;
    report(&args.file, client, &written)
}

/// What was written.
#[derive(Debug, Default)]
struct Written {
    pairs: u64,
    bytes: u64,
    revision: u64,
}

async fn write_all(sink: &mut Sink, client: &ClientArgs, query: &StreamQuery, progress: Progress) -> Result<Written, Failure> {
    let failed = |error| Failure::of_request(format!("export keyspace {}", client.keyspace()), &error);
    let mut pairs = client.client().list_stream(client.keyspace(), query).await.map_err(failed)?;
    let mut written = Written { revision: pairs.revision(), ..Written::default() };
    while let Some(entry) = pairs.next().await.map_err(failed)? {
        written.bytes += sink.write(&entry)?;
        written.pairs += 1;
        if written.pairs.is_multiple_of(PAIRS_BETWEEN_REPORTS) {
            progress.set_count(written.pairs, &format!(", {}", shown_bytes(written.bytes)));
        }
    }
    Ok(written)
}

/// For the bar only: without it, the bar shows no end.
async fn count_of_keys(client: &ClientArgs) -> Option<u64> {
    client.client().keyspace_stats(client.keyspace()).await.ok().map(|stats| stats.keys)
}

fn report(file: &Path, client: &ClientArgs, written: &Written) -> Result<(), Failure> {
    let Written { pairs, bytes, revision } = written;
    if file == Path::new("-") {
        return Ok(());
    }
    let mut output = Output::without_raw(client.output)?;
    match output.format {
        Format::Json => output.json(&json!({ "pairs": pairs, "bytes": bytes, "revision": revision }))?,
        _ => output.line(format_args!(
            "exported {pairs} pairs, {}, at revision {revision} to {}",
            shown_bytes(*bytes),
            file.display()
        ))?,
    }
    output.finish()
}

/// Where the lines go.
#[derive(Debug)]
enum Target {
    Stdout,
    /// A device or a pipe: it cannot be replaced.
    Special(PathBuf),
    File(PathBuf),
}

impl Target {
    fn of(path: &Path) -> Self {
        match fs::metadata(path) {
            _ if path == Path::new("-") => Self::Stdout,
            Ok(there) if !there.is_file() => Self::Special(path.to_owned()),
            // Of a link, what it leads to is replaced.
            _ => Self::File(fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())),
        }
    }
}

/// Lines on their way out. A file comes into its place when it is whole.
struct Sink {
    out: BufWriter<Box<dyn Write>>,
    line: Vec<u8>,
    /// What it is called in errors.
    name: String,
    file: Option<(NamedTempFile, PathBuf)>,
}

/// Lines are written in pieces of this size.
const BUFFER_BYTES: usize = 64 << 10;

/// What others may do with a new file, before the process's mask.
pub(crate) const FILE_MODE: u32 = 0o666;

impl Sink {
    fn open(target: Target) -> Result<Self, Failure> {
        let name = match &target {
            Target::Stdout => "standard output".to_owned(),
            Target::Special(path) | Target::File(path) => path.display().to_string(),
        };
        let failed = |error| cannot_write(&name, &error);
        let (out, file): (Box<dyn Write>, _) = match target {
            Target::Stdout => (Box::new(io::stdout()), None),
            Target::Special(path) => (Box::new(File::options().write(true).open(path).map_err(failed)?), None),
            Target::File(path) => {
                let made = beside(&path).map_err(failed)?;
                (Box::new(made.reopen().map_err(failed)?), Some((made, path)))
            }
        };
        Ok(Self { out: BufWriter::with_capacity(BUFFER_BYTES, out), line: Vec::new(), name, file })
    }

    /// Writes one line; its length.
    fn write(&mut self, entry: &Entry) -> Result<u64, Failure> {
        self.line.clear();
        pair_line::write(entry, &mut self.line);
        self.out.write_all(&self.line).map_err(|error| cannot_write(&self.name, &error))?;
        Ok(self.line.len() as u64)
    }

    /// The failure, with what it means for whoever has got some of the lines. A file never comes into its place then.
    fn not_whole(&self, failure: Failure) -> Failure {
        let Failure::Told { exit, message } = failure else { return failure };
        let what_is = match &self.file {
            None => format!("what went to {} is not whole", self.name),
            Some((_, path)) if path.exists() => format!("{} is as it was", self.name),
            Some(_) => format!("{} was not made", self.name),
        };
        Failure::new(exit, format!("{message}\nquorate: {what_is}"))
    }

    /// What was written is in its place, and durable if that is a file.
    fn finish(mut self) -> Result<(), Failure> {
        let placed = self.out.flush().and_then(|()| match self.file.take() {
            Some((made, path)) => {
                made.as_file().sync_all().and_then(|()| made.persist(path).map(drop).map_err(|error| error.error))
            }
            None => Ok(()),
        });
        let failed = placed.map_err(|error| cannot_write(&self.name, &error));
        failed.map_err(|failure| self.not_whole(failure))
    }
}

/// A file that is to take the place of this one, and lets others do with it what they may do now. It is gone if it is not used.
pub(crate) fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let new = || fs::Permissions::from_mode(FILE_MODE);
    // An error about the file beside it would name that one too, which says nothing to anybody.
    fs::metadata(folder)?;
    let made = tempfile::Builder::new().prefix(".quorate-export-").permissions(new()).tempfile_in(folder)?;
    if let Ok(there) = fs::metadata(path) {
        made.as_file().set_permissions(there.permissions())?;
    }
    Ok(made)
}

fn cannot_write(name: &str, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => {
            // An error about the file beside it would name that one too, which says nothing to anybody.
            let told =
                error.get_ref().and_then(|wrapper| wrapper.source()).map_or_else(|| error.to_string(), ToString::to_string);
            Failure::failed(format!("cannot write {name}: {told}"))
        }
    }
}
