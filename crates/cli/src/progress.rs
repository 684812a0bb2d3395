//! A bar on stderr for what takes its time; nothing if stderr is no terminal.

use std::fmt::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// How far something is.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    counted: &'static str,
}

/// How often it is drawn anew even if nothing moves.
const STEADY_TICK: Duration = Duration::from_millis(200);

impl Progress {
    /// Measured by bytes, of which there are so many if that is known; `counted` names what else is counted.
    pub(crate) fn of_bytes(total_bytes: Option<u64>, counted: &'static str) -> Self {
        let template = match total_bytes {
            Some(_) => {
                "{wide_bar} {percent:>3} %  {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {msg}, {eta} left"
            }
            None => "{spinner} {binary_bytes}, {binary_bytes_per_sec}, {msg}, {elapsed}",
        };
        Self::new(total_bytes, template, counted)
    }

    /// Measured by count, of which there are about so many if that is known.
    pub(crate) fn of_count(total: Option<u64>, counted: &'static str) -> Self {
        let template = match total {
            Some(_) => "{wide_bar} {percent:>3} %  {human_pos} of {human_len} {msg}, {rate}, {eta} left",
            None => "{spinner} {human_pos} {msg}, {rate}, {elapsed}",
        };
        Self::new(total, template, counted)
    }

    /// Measured by a few steps, of which neither a rate nor the time left would say anything.
    pub(crate) fn of_steps(total: u64, counted: &'static str) -> Self {
        Self::new(Some(total), "{bar:30} {pos} of {len} {msg}", counted)
    }

    fn new(total: Option<u64>, template: &str, counted: &'static str) -> Self {
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        let style = ProgressStyle::with_template(template).expect("the templates above are well-formed");
        bar.set_style(style.with_key("rate", |state: &ProgressState, out: &mut dyn Write| {
            let _ = write!(out, "{:.0}/s", state.per_sec());
        }));
        bar.set_message(counted);
        bar.enable_steady_tick(STEADY_TICK);
        Self { bar, counted }
    }

    /// So many bytes, with so many of what else is counted.
    pub(crate) fn set_bytes(&self, bytes: u64, count: u64) {
        self.bar.set_position(bytes);
        self.bar.set_message(format!("{count} {}", self.counted));
    }

    /// So many, and what else there is to say.
    pub(crate) fn set_count(&self, count: u64, more: &str) {
        self.bar.set_position(count);
        self.bar.set_message(format!("{}{more}", self.counted));
    }

    /// So many more.
    pub(crate) fn add(&self, count: u64) {
        self.bar.inc(count);
    }

    /// Shows a line above the bar; only the line if there is no bar.
    pub(crate) fn note(&self, line: impl std::fmt::Display) {
        self.bar.suspend(|| crate::exit::note(line));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// An amount of bytes for people.
pub(crate) fn shown_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
