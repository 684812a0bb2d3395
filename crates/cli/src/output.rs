//! What goes to stdout: tables for people, JSON for programs, raw bytes for pipes.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::exit::Failure;

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// The bytes as they are: values of `get`, keys of `ls` one a line.
    Raw,
}

/// Standard output. Buffered: call [`Output::finish`] at the end.
pub(crate) struct Output {
    out: BufWriter<StdoutLock<'static>>,
    pub(crate) format: Format,
    is_terminal: bool,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        let stdout = io::stdout();
        Self { is_terminal: stdout.is_terminal(), out: BufWriter::new(stdout.lock()), format }
    }

    /// An output for a command that has no raw form.
    pub(crate) fn without_raw(format: Option<Format>) -> Result<Self, Failure> {
        match format {
            Some(Format::Raw) => Err(Failure::usage("raw output is for get and ls; use -o table or -o json here")),
            format => Ok(Self::new(format.unwrap_or(Format::Table))),
        }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.out.write_all(bytes)?)
    }

    pub(crate) fn line(&mut self, line: impl std::fmt::Display) -> Result<(), Failure> {
        Ok(writeln!(self.out, "{line}")?)
    }

    /// A value and a line break; indented if somebody looks at it.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let written = if self.is_terminal {
            serde_json::to_writer_pretty(&mut self.out, value)
        } else {
            serde_json::to_writer(&mut self.out, value)
        };
        written.map_err(io::Error::from)?;
        self.line("")
    }

    /// Rows under a header: with lines around them on a terminal, in plain columns elsewhere.
    pub(crate) fn table(&mut self, header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_style(if self.is_terminal { presets::UTF8_FULL_CONDENSED } else { presets::NOTHING });
        table.set_header(header.to_vec());
        table.add_rows(rows);
        if !self.is_terminal {
            for column in table.column_iter_mut() {
                column.set_padding((0, 2));
            }
        }
        let text = table.to_string();
        // Cells are padded to the column's width; at the end of a line that helps nobody.
        text.lines().try_for_each(|line| self.line(line.trim_end()))
    }

    /// Shows what was written so far, for commands that go on.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }

    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.flush()
    }

    /// Writes the last bytes.
    pub(crate) fn finish_with(mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.bytes(bytes)?;
        self.finish()
    }
}
