//! `quorate server`: settles the configuration, starts the log output, and runs the node.

use std::io::{self, Read as _};
use std::path::Path;

use quorate_server::config::{ConfigError, ConfigLayer, ServerConfig};

use crate::args::ServerArgs;
use crate::exit::{Exit, Failure};
use crate::log_output;
use crate::output::{Format, Output};

/// Runs a node until it is told to stop.
pub(crate) fn run(args: ServerArgs) -> Result<(), Failure> {
    let exits_with_stdin = args.exit_with_stdin;
    let file = args.config.clone();
    let config = settle(args.into_layer(), file.as_deref()).map_err(|error| Failure::usage(error.to_string()))?;
    log_output::start(&config).map_err(|error| Failure::usage(format!("log `{}`: {error}", config.log_filter)))?;
    tracing::info!(?config, "starting");
    if exits_with_stdin {
        exit_when_stdin_ends()?;
    }
    quorate_server::run(config).map_err(|error| Failure::failed(error.to_string()))
}

/// Takes back that other nodes refused the data in this folder.
pub(crate) fn readmit(folder: &Path, format: Option<Format>) -> Result<(), Failure> {
    let mut output = Output::without_raw(format)?;
    let readmitted = quorate_server::readmit(folder).map_err(|error| Failure::failed(error.to_string()))?;
    let Some(node) = readmitted else {
        let why = "no other node has refused it: there is nothing to take back";
        return Err(Failure::failed(format!("data folder {}: {why}", folder.display())));
    };
    if output.format == Format::Json {
        output.json(&serde_json::json!({ "readmitted": node }))?;
    } else {
        output.line(format_args!("the other nodes will let {node} in at its next start"))?;
    }
    output.finish()
}

/// Flags and environment over the file over the defaults.
fn settle(upper: ConfigLayer, file: Option<&Path>) -> Result<ServerConfig, ConfigError> {
    let lower = file.map(ConfigLayer::read_file).transpose()?.unwrap_or_default();
    let config = upper.or(lower).into_config();
    config.validate()?;
    Ok(config)
}

/// Nodes of a demo must not outlive it, even if it is killed: the system then closes the other end of their standard input.
/// What was acknowledged is durable, so leaving at once loses nothing.
#[expect(clippy::disallowed_methods, reason = "nobody is left who could stop this node in order")]
fn exit_when_stdin_ends() -> Result<(), Failure> {
    let watch = || {
        let mut ignored = [0; 64];
        while !matches!(io::stdin().read(&mut ignored), Ok(0)) {}
        std::process::exit(i32::from(Exit::Failed as u8));
    };
    let started = std::thread::Builder::new().name("stdin-watch".to_owned()).spawn(watch);
    started.map(drop).map_err(|error| Failure::failed(format!("cannot start a thread: {error}")))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use quorate_server::config::ConfigLayer;

    use super::settle;

    #[test]
    fn flags_go_before_the_file_and_the_file_before_the_defaults() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"name = \"file\"\ndata_dir = \"/file\"\nheartbeat_ms = 50").unwrap();
        let flags = ConfigLayer { name: Some("flag".to_owned()), ..ConfigLayer::default() };
        let config = settle(flags, Some(file.path())).unwrap();
        assert_eq!((config.name.as_str(), config.data_dir.to_str().unwrap()), ("flag", "/file"));
        assert_eq!((config.heartbeat_ms, config.election_ms), (50, 1000));
    }

    #[test]
    fn what_is_settled_is_valid() {
        assert!(settle(ConfigLayer::default(), None).is_err());
        assert!(settle(ConfigLayer::default(), Some("/no/such/file".as_ref())).is_err());
    }
}
