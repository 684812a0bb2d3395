//! Where the log lines of a node go: to stderr, filtered and formatted as configured.

use std::io::{self, IsTerminal as _};

use quorate_server::config::{LogFormat, ServerConfig};
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt;

/// Starts logging for the whole process. To be called once, before anything logs.
///
/// # Panics
///
/// If logging was started before.
pub(crate) fn start(config: &ServerConfig) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(&config.log_filter)?;
    let lines = fmt().with_env_filter(filter).with_writer(io::stderr);
    match config.log_format {
        LogFormat::Text => lines.with_ansi(wants_colour()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Colours are for people who look, and who did not say that they want none (<https://no-color.org>).
fn wants_colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
