//! Lines from a file or a pipe, read by a thread of its own: a pipe that is slow must not hold up what is under way.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use tokio::sync::mpsc;

use crate::exit::Failure;

/// The lines.
#[derive(Debug)]
pub(super) struct Source {
    total_bytes: Option<u64>,
    pieces: mpsc::Receiver<io::Result<Vec<Line>>>,
    piece: std::vec::IntoIter<Line>,
}

/// A line as it was read.
#[derive(Debug)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: u64,
    /// Its length, with its end.
    pub(super) bytes: u64,
    /// With its end; none if that is more than any node takes.
    pub(super) text: Option<Vec<u8>>,
}

/// The largest value that any node can be set to accept (8 MiB), each byte of it escaped in six, with what else there is.
pub(super) const MAX_LINE_BYTES: u64 = 64 << 20;

/// Lines are handed over in pieces of about this size.
const PIECE_BYTES: usize = 256 << 10;

/// Pieces that wait; with the one that is being read, this is what an import keeps of its source.
const MAX_PIECES: usize = 2;

impl Source {
    /// `-` is standard input.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Self::read(io::stdin(), None, "standard input".to_owned());
        }
        let place = path.display().to_string();
        let file = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = file.map_err(|error| Failure::failed(format!("cannot open {place}: {error}")))?;
        Self::read(file, metadata.is_file().then_some(metadata.len()), place)
    }

    fn read(from: impl Read + Send + 'static, total_bytes: Option<u64>, place: String) -> Result<Self, Failure> {
        let (sender, pieces) = mpsc::channel(MAX_PIECES);
        let read = move || {
            let mut lines = Lines { from: BufReader::with_capacity(PIECE_BYTES, from), number: 0 };
            loop {
                let piece = lines.next_piece();
                let is_last = piece.as_ref().map_or(true, Vec::is_empty);
                let piece = piece.map_err(|error| io::Error::new(error.kind(), format!("cannot read {place}: {error}")));
                // Nobody listens any more once the import has ended.
                if sender.blocking_send(piece).is_err() || is_last {
                    return;
                }
            }
        };
        let started = std::thread::Builder::new().name("import-source".to_owned()).spawn(read);
        started.map_err(|error| Failure::failed(format!("cannot start a thread: {error}")))?;
        Ok(Self { total_bytes, pieces, piece: Vec::new().into_iter() })
    }

    /// The length of all lines, if it is known.
    pub(super) fn total_bytes(&self) -> Option<u64> {
        self.total_bytes
    }

    /// The next line; none at the end. Nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> Result<Option<Line>, Failure> {
        loop {
            if let Some(line) = self.piece.next() {
                return Ok(Some(line));
            }
            match self.pieces.recv().await {
                Some(Ok(piece)) if !piece.is_empty() => self.piece = piece.into_iter(),
                Some(Err(error)) => return Err(Failure::failed(error.to_string())),
                _ => return Ok(None),
            }
        }
    }
}

struct Lines<R> {
    from: BufReader<R>,
    number: u64,
}

impl<R: Read> Lines<R> {
    /// Some lines, at least one; none at the end. From a pipe that pauses, what has come is handed over.
    fn next_piece(&mut self) -> io::Result<Vec<Line>> {
        let mut piece = Vec::new();
        let mut bytes = 0;
        while bytes < PIECE_BYTES && (piece.is_empty() || self.from.buffer().contains(&b'\n')) {
            let mut text = Vec::new();
            let read = self.from.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut text)?;
            if read == 0 {
                break;
            }
            self.number += 1;
            let is_too_long = text.len() as u64 > MAX_LINE_BYTES;
            let rest = if is_too_long && !text.ends_with(b"\n") { self.from.skip_until(b'\n')? } else { 0 };
            let line_bytes = (read + rest) as u64;
            bytes += text.len();
            piece.push(Line { number: self.number, bytes: line_bytes, text: (!is_too_long).then_some(text) });
        }
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read};

    use super::{Lines, MAX_LINE_BYTES, Source};

    async fn all(text: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, crate::exit::Failure> {
        let mut source = Source::read(Cursor::new(text.to_vec()), None, "x".to_owned())?;
        let mut lines = Vec::new();
        while let Some(line) = source.next().await? {
            assert_eq!(line.text.as_ref().map(|text| text.len() as u64), Some(line.bytes));
            lines.push((line.number, line.text.unwrap()));
        }
        Ok(lines)
    }

    #[tokio::test]
    async fn lines_come_in_order_with_their_numbers() {
        let line = |number, text: &str| (number, text.as_bytes().to_vec());
        assert_eq!(all(b"a\n\nb").await.unwrap(), [line(1, "a\n"), line(2, "\n"), line(3, "b")]);
        assert_eq!(all(b"").await.unwrap(), []);
        let many = "0123456789\n".repeat(100_000);
        let lines = all(many.as_bytes()).await.unwrap();
        assert_eq!((lines.len(), lines[99_999].0), (100_000, 100_000));
        assert!(lines.iter().all(|(_, text)| text == b"0123456789\n"));
    }

    #[test]
    fn a_line_that_is_too_long_is_read_over() {
        let long = std::io::repeat(b'x').take(MAX_LINE_BYTES + 5);
        let mut lines = Lines { from: std::io::BufReader::new(long.chain(&b"\nnext"[..])), number: 6 };
        let line = lines.next_piece().unwrap().pop().unwrap();
        assert_eq!((line.number, line.bytes, line.text), (7, MAX_LINE_BYTES + 6, None));
        let line = lines.next_piece().unwrap().pop().unwrap();
        assert_eq!((line.number, line.bytes, line.text), (8, 4, Some(b"next".to_vec())));
        assert!(lines.next_piece().unwrap().is_empty());
    }
}
