//! How `quorate lock` and `quorate elect` are called.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use quorate_api::duration;
use quorate_client::LockOptions;

#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    /// The lock's name
    pub(crate) name: String,
    /// What others see of who holds it
    #[arg(long, value_name = "TEXT", default_value = "")]
    value: String,
    #[command(flatten)]
    waiting: WaitArgs,
    /// Show who holds it, exit code 3 if nobody does
    #[arg(long, conflicts_with_all = ["value", "ttl", "wait", "no_wait", "command"])]
    pub(crate) show: bool,
    /// What to run while it is held; without it, it is held until Ctrl-C
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct ElectArgs {
    /// The election's name
    pub(crate) name: String,
    /// What the leader says of itself, such as its address
    #[arg(required_unless_present = "observe")]
    value: Option<String>,
    #[command(flatten)]
    waiting: WaitArgs,
    /// Print who leads, and whenever that is another
    #[arg(long, conflicts_with_all = ["value", "ttl", "wait", "no_wait", "command"])]
    pub(crate) observe: bool,
    /// What to run while this one leads; without it, it leads until Ctrl-C
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
struct WaitArgs {
    /// How long it stays held when this command is not heard of any more; at least 2s
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "10s")]
    ttl: Duration,
    /// Give up after so long, with exit code 4; without it, wait as long as it takes
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    wait: Option<Duration>,
    /// Do not wait at all
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
}

impl WaitArgs {
    fn options(&self, value: &str) -> LockOptions {
        let wait = if self.no_wait { Some(Duration::ZERO) } else { self.wait };
        LockOptions { ttl: self.ttl, wait, value: value.to_owned().into() }
    }
}

impl LockArgs {
    pub(crate) fn options(&self) -> LockOptions {
        self.waiting.options(&self.value)
    }
}

impl ElectArgs {
    pub(crate) fn options(&self) -> LockOptions {
        self.waiting.options(self.value.as_deref().unwrap_or_default())
    }
}
