//! `quorate backup` and `quorate restore`: keyspaces, each as of one revision, in a file that tells whether it is whole.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write as _};
use std::path::Path;

use quorate_api::backup::{BackupHead, BackupReader, KeyspaceEnd, KeyspaceHead, Part, RestoredKeyspace};
use serde_json::json;

use crate::args::{BackupArgs, BackupCommand, ClientArgs, RestoreArgs};
use crate::exit::Failure;
use crate::export::beside;
use crate::interrupt::interrupted;
use crate::output::{Format, Output};
use crate::progress::{Progress, shown_bytes};

/// Files are read in pieces of this size.
const PIECE_BYTES: usize = 256 << 10;

pub(crate) async fn run(args: BackupArgs, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::without_raw(client.output)?;
    let (contents, told) = match &args.command {
        None => {
            let file = args.file.as_deref().ok_or_else(|| Failure::usage("say where the backup shall go: a FILE"))?;
            let contents = tokio::select! {
                contents = write(file, &args, client) => contents,
                () = interrupted() => Err(Failure::failed(format!("interrupted: {} was not made", file.display()))),
            }?;
            (contents, format!("backed up to {}", file.display()))
        }
        Some(BackupCommand::Verify(of)) => (read(&of.file)?, format!("{} is whole", of.file.display())),
        Some(BackupCommand::Show(of)) => (read(&of.file)?, String::new()),
    };
    let is_shown = matches!(args.command, Some(BackupCommand::Show(_)));
    match output.format {
        Format::Json => output.json(&contents.to_json())?,
        _ if is_shown => contents.show(&mut output)?,
        _ => output.line(format_args!("{told}: {}", contents.in_short()))?,
    }
    output.finish()
}

pub(crate) async fn restore(args: RestoreArgs, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::without_raw(client.output)?;
    // Nothing is sent of what cannot be restored to its end.
    let contents = read(&args.file)?;
    if let Some(missing) = args.only.iter().find(|name| !contents.keyspaces.iter().any(|(head, _)| head.name == **name)) {
        return Err(Failure::usage(format!("{} has no keyspace {missing}", args.file.display())));
    }
    let restored = tokio::select! {
        restored = send(&args, client, &contents) => restored,
        () = interrupted() => Err(Failure::failed("interrupted: what was not whole is not there; it can be restored again")),
    }?;
    match output.format {
        Format::Json => output.json(&json!({ "keyspaces": restored }))?,
        _ => {
            let rows = restored.iter().map(|done| vec![done.name.clone(), done.pairs.to_string(), shown_bytes(done.bytes)]);
            output.table(&["RESTORED", "PAIRS", "BYTES"], rows)?;
        }
    }
    output.finish()
}

async fn send(args: &RestoreArgs, client: &ClientArgs, contents: &Contents) -> Result<Vec<RestoredKeyspace>, Failure> {
    let failed = |error: io::Error| Failure::failed(format!("cannot read {}: {error}", args.file.display()));
    let mut file = File::open(&args.file).map_err(failed)?;
    let progress = Progress::of_bytes(Some(contents.bytes), "keyspaces");
    let mut stream = client.client().restore(&args.only);
    let mut sent = 0;
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let length = file.read(&mut piece).map_err(failed)?;
        piece.truncate(length);
        if length == 0 || !stream.send(piece.into()).await {
            break;
        }
        sent += length as u64;
        progress.set_bytes(sent, contents.keyspaces.len() as u64);
    }
    stream.finish().await.map_err(|error| Failure::of_request(format!("restore {}", args.file.display()), &error))
}

/// What a backup was found to hold.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    head: BackupHead,
    keyspaces: Vec<(KeyspaceHead, KeyspaceEnd)>,
    begun: Option<KeyspaceHead>,
    pairs: u64,
    bytes: u64,
}

impl Contents {
    /// Takes what has come so far; whether that is everything.
    fn take(&mut self, reader: &mut BackupReader) -> Result<(), Failure> {
        while let Some(part) = reader.next_part().map_err(|error| Failure::failed(error.to_string()))? {
            match part {
                Part::Head(head) => self.head = head,
                Part::Keyspace(head) => self.begun = Some(*head),
                Part::Pairs(pairs) => self.pairs += pairs.len() as u64,
                Part::KeyspaceEnd(end) => self.keyspaces.extend(self.begun.take().map(|head| (head, end))),
                Part::Leases(_) | Part::End => {}
            }
        }
        self.bytes = reader.offset();
        Ok(())
    }

    fn in_short(&self) -> String {
        format!("{} keyspaces, {} pairs, {}", self.keyspaces.len(), self.pairs, shown_bytes(self.bytes))
    }

    fn to_json(&self) -> serde_json::Value {
        let keyspace = |(head, end): &(KeyspaceHead, KeyspaceEnd)| {
            json!({
                "name": head.name, "revision": head.revision, "settings": head.settings,
                "pairs": end.pairs, "bytes": end.bytes, "leases": end.leases,
            })
        };
        let keyspaces: Vec<_> = self.keyspaces.iter().map(keyspace).collect();
        let BackupHead { cluster, node, version, .. } = &self.head;
        json!({ "cluster": cluster, "node": node, "version": version, "bytes": self.bytes, "keyspaces": keyspaces })
    }

    fn show(&self, output: &mut Output) -> Result<(), Failure> {
        let BackupHead { cluster, node, version, .. } = &self.head;
        output.line(format_args!("of cluster {cluster}, by node {node}, quorate {version}: {}", self.in_short()))?;
        let rows = self.keyspaces.iter().map(|(head, end)| {
            let engine = head.settings.engine.as_ref().map(|engine| engine.kind.clone()).unwrap_or_default();
            let numbers = [head.revision, end.pairs, end.bytes, end.leases].map(|number| number.to_string());
            [vec![head.name.clone(), engine], numbers.to_vec()].concat()
        });
        output.table(&["KEYSPACE", "ENGINE", "REVISION", "PAIRS", "BYTES", "LEASES"], rows)
    }
}

async fn write(path: &Path, args: &BackupArgs, client: &ClientArgs) -> Result<Contents, Failure> {
    let failed = |error: &io::Error| Failure::failed(format!("cannot write {}: {error}", path.display()));
    let not_made = |error| Failure::of_request(format!("back up: {} was not made", path.display()), &error);
    let mut stream = client.client().backup(&args.only, args.revision).await.map_err(not_made)?;
    let progress = Progress::of_bytes(expected_bytes(&args.only, client).await, "pairs");
    let made = beside(path).map_err(|error| failed(&error))?;
    let mut out = BufWriter::with_capacity(PIECE_BYTES, made.as_file());
    let (mut reader, mut contents) = (BackupReader::default(), Contents::default());
    while let Some(piece) = stream.next().await.map_err(not_made)? {
        out.write_all(&piece).map_err(|error| failed(&error))?;
        reader.push(&piece);
        contents.take(&mut reader)?;
        progress.set_bytes(contents.bytes, contents.pairs);
    }
    reader.finish().map_err(|error| Failure::failed(format!("{error}: {} was not made", path.display())))?;
    out.flush().map_err(|error| failed(&error))?;
    drop(out);
    made.as_file().sync_all().map_err(|error| failed(&error))?;
    made.persist(path).map_err(|error| failed(&error.error))?;
    Ok(contents)
}

/// For the bar only: about so many.
async fn expected_bytes(only: &[String], client: &ClientArgs) -> Option<u64> {
    let client = client.client();
    let names = match only {
        [] => client.keyspaces().await.ok()?.into_iter().map(|keyspace| keyspace.name).collect(),
        only => only.to_vec(),
    };
    let mut total = 0;
    for name in names {
        total += client.keyspace_stats(&name).await.ok()?.data_bytes;
    }
    Some(total)
}

/// Reads a file to its end.
fn read(path: &Path) -> Result<Contents, Failure> {
    let failed = |error: io::Error| Failure::failed(format!("cannot read {}: {error}", path.display()));
    let told = |why: String| Failure::failed(format!("{}: {why}", path.display()));
    let mut file = File::open(path).map_err(failed)?;
    let progress = Progress::of_bytes(file.metadata().ok().map(|found| found.len()), "pairs");
    let (mut reader, mut contents) = (BackupReader::default(), Contents::default());
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = file.read(&mut piece).map_err(failed)?;
        if length == 0 {
            break;
        }
        reader.push(&piece[..length]);
        contents.take(&mut reader).map_err(|failure| match failure {
            Failure::Told { message, .. } => told(message),
            other => other,
        })?;
        progress.set_bytes(contents.bytes, contents.pairs);
    }
    reader.finish().map_err(|error| told(error.to_string()))?;
    Ok(contents)
}
