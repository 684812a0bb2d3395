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
        value_parser = parse_server,
        hide_env_values = true
    )]
    pub(crate) dns_servers: Option<Vec<SocketAddr>>,
}

fn parse_server(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "a DNS server is IP:PORT, as in 127.0.0.1:53")
}
