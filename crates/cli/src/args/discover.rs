//! The arguments of `quorate discover`.

use clap::Args;
use quorate_discovery::Spec;

use super::dns::DnsArgs;

const FORMS: &str = "What would be given to --join: host:port, dns://name:port, dns+srv://name, \
zk://host:port,host:port/path, file:///path; several are separated by commas or blanks";

#[derive(Debug, Args)]
pub(crate) struct DiscoverArgs {
    /// What would be given to --join
    #[arg(required = true, value_name = "SPEC", help = FORMS)]
    lists: Vec<String>,
    #[command(flatten)]
    pub(crate) dns: DnsArgs,
}

impl DiscoverArgs {
    /// The specifications, not read yet.
    pub(crate) fn specs(&self) -> Vec<String> {
        self.lists.iter().flat_map(|list| Spec::split_list(list)).collect()
    }
}
