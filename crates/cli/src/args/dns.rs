//! Which DNS servers are asked.

use std::net::SocketAddr;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct DnsArgs {
    /// The DNS servers to ask for names of nodes [default: those of the system]
    #[arg(
        long = "dns-server",
        env = "QUORATE_DNS_SERVERS",
        value_name = "IP:PORT,...",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub(crate) dns_servers: Option<Vec<SocketAddr>>,
}
