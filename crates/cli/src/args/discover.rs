//! The arguments of `quorate discover`.

use std::net::SocketAddr;

use clap::Args;
use quorate_discovery::Spec;

const FORMS: &str = "What would be given to --join: host:port, dns://name:port, dns+srv://name, \
zk://host:port,host:port/path, file:///path; several are separated by commas or blanks";

#[derive(Debug, Args)]
pub(crate) struct DiscoverArgs {
    /// What would be given to --join
    #[arg(required = true, value_name = "SPEC", help = FORMS)]
    lists: Vec<String>,
    /// The DNS servers to ask [default: those of the system]
    #[arg(
        long = "dns-server",
        env = "QUORATE_DNS_SERVERS",
        value_name = "IP:PORT,...",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub(crate) dns_servers: Vec<SocketAddr>,
}

impl DiscoverArgs {
    /// The specifications, not read yet.
    pub(crate) fn specs(&self) -> Vec<String> {
        self.lists.iter().flat_map(|list| Spec::split_list(list)).collect()
    }
}
