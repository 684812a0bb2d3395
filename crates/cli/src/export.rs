//! `quorate export`: a keyspace's pairs as lines of JSON, of any number in little memory.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use quorate_api::entry::{Encoding, Entry};
use quorate_client::{ListQuery, Page, Selection};
use serde_json::json;
use tempfile::NamedTempFile;

use crate::args::{ClientArgs, ExportArgs};
use crate::exit::{Failure, note};
use crate::output::{Format, Output};
use crate::progress::{Progress, shown_bytes};

/// Pairs asked for at once; a page ends before them where values are large.
const PAGE_KEYS: usize = 1000;

pub(crate) async fn run(args: ExportArgs, client: &ClientArgs) -> Result<(), Failure> {
    let target = Target::of(&args.file);
    if matches!(target, Target::Stdout) && client.output.is_some() {
        return Err(Failure::usage("the lines go to standard output, and always as JSON: give a FILE for a report with -o"));
    }
    let prefix = args.prefix()?;
    let total = if prefix.is_empty() { count_of_keys(client).await } else { None };
    let query = ListQuery {
        selection: Selection { prefix, ..Selection::default() },
        page_limit: Some(PAGE_KEYS),
        with_values: true,
        freshness: args.freshness.options(),
        ..ListQuery::default()
    };
    let mut sink = Sink::open(target)?;
    let written = tokio::select! {
        written = write_all(&mut sink, client, query, Progress::of_count(total, "pairs")) => written?,
        interrupted = tokio::signal::ctrl_c() => {
            let _ = interrupted;
            return Err(Failure::failed("interrupted: the export is not whole"));
        }
    };
    sink.finish()?;
    if written.has_changed {
        note("quorate: keys changed meanwhile: the lines are not one moment's content");
    }
    report(&args.file, client, &written)
}

/// What was written.
#[derive(Debug, Default)]
struct Written {
    pairs: u64,
    bytes: u64,
    revision: u64,
    has_changed: bool,
}

async fn write_all(sink: &mut Sink, client: &ClientArgs, query: ListQuery, progress: Progress) -> Result<Written, Failure> {
    let mut listing = client.client().list(client.keyspace(), query);
    let mut written = Written::default();
    while let Some(Page { entries, revision, revision_changed, .. }) =
        listing.next_page().await.map_err(|error| Failure::of_request("export", &error))?
    {
        for entry in &entries {
            written.bytes += sink.write(entry)?;
        }
        written.pairs += entries.len() as u64;
        written.revision = revision;
        written.has_changed |= revision_changed;
        progress.set_count(written.pairs, &format!(", {}", shown_bytes(written.bytes)));
    }
    Ok(written)
}

/// For the bar only: without it, the bar shows no end.
async fn count_of_keys(client: &ClientArgs) -> Option<u64> {
    client.client().keyspace_stats(client.keyspace()).await.ok().map(|stats| stats.keys)
}

fn report(file: &Path, client: &ClientArgs, written: &Written) -> Result<(), Failure> {
    let Written { pairs, bytes, revision, .. } = written;
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
            _ => Self::File(path.to_owned()),
        }
    }
}

/// Lines on their way out. A file comes into its place when it is whole.
struct Sink {
    out: BufWriter<Box<dyn Write>>,
    line: Vec<u8>,
    file: Option<(NamedTempFile, PathBuf)>,
}

/// What others may do with a file, before the process's mask.
const FILE_MODE: u32 = 0o666;

impl Sink {
    fn open(target: Target) -> Result<Self, Failure> {
        let failed = |path: &Path, error: io::Error| Failure::failed(format!("cannot write {}: {error}", path.display()));
        let (out, file): (Box<dyn Write>, _) = match target {
            Target::Stdout => (Box::new(io::stdout()), None),
            Target::Special(path) => {
                (Box::new(File::options().write(true).open(&path).map_err(|error| failed(&path, error))?), None)
            }
            Target::File(path) => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
                let permissions = fs::Permissions::from_mode(FILE_MODE);
                let made = tempfile::Builder::new().prefix(".quorate-export-").permissions(permissions).tempfile_in(folder);
                let made = made.map_err(|error| failed(&path, error))?;
                (Box::new(made.reopen().map_err(|error| failed(&path, error))?), Some((made, path)))
            }
        };
        Ok(Self { out: BufWriter::new(out), line: Vec::new(), file })
    }

    /// Writes one line; its length.
    fn write(&mut self, entry: &Entry) -> Result<u64, Failure> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, &entry.to_body(Encoding::Text)).map_err(io::Error::from)?;
        self.line.push(b'\n');
        self.out.write_all(&self.line)?;
        Ok(self.line.len() as u64)
    }

    /// What was written is in its place, and durable if that is a file.
    fn finish(mut self) -> Result<(), Failure> {
        self.out.flush()?;
        let Some((made, path)) = self.file else { return Ok(()) };
        let placed = made.as_file().sync_all().and_then(|()| made.persist(&path).map_err(|error| error.error));
        placed.map(drop).map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
    }
}
