//! Addresses from DNS. Nothing is remembered between two looks, and the system's settings are read with each: what an
//! orchestrator changes counts at once.

use std::net::SocketAddr;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RData;
use std::time::Duration;

use crate::Problem;

/// How long one server may take for one question, and how often it is asked.
const TIMEOUT: Duration = Duration::from_millis(1200);
const ATTEMPTS: usize = 2;

/// Every address of the name, with this port.
pub(crate) async fn addresses(name: &str, port: u16, servers: &[SocketAddr]) -> Result<Vec<String>, Problem> {
    let resolver = resolver(servers)?;
    hosts(&resolver, name, port).await
}

/// The addresses of every target of the name's SRV records, those of the lowest priority and the greatest weight first.
pub(crate) async fn services(name: &str, servers: &[SocketAddr]) -> Result<Vec<String>, Problem> {
    let resolver = resolver(servers)?;
    let answer = resolver.srv_lookup(name).await.map_err(|error| problem(name, "SRV record", &error))?;
    let mut targets: Vec<_> = answer
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => Some((srv.priority, u16::MAX - srv.weight, srv.target.to_string(), srv.port)),
            _ => None,
        })
        .collect();
    targets.sort();
    let (mut found, mut why) = (Vec::new(), Problem::Nothing(format!("{name} has no SRV record")));
    for (_, _, target, port) in targets {
        match hosts(&resolver, &target, port).await {
            Ok(addresses) => found.extend(addresses),
            Err(problem) => why = problem,
        }
    }
    if found.is_empty() { Err(why) } else { Ok(found) }
}

async fn hosts(resolver: &TokioResolver, name: &str, port: u16) -> Result<Vec<String>, Problem> {
    let answer = resolver.lookup_ip(name).await.map_err(|error| problem(name, "address", &error))?;
    // Servers change the order with each answer; whoever compares answers wants them in one.
    let mut addresses: Vec<SocketAddr> = answer.iter().map(|ip| SocketAddr::new(ip, port)).collect();
    addresses.sort_unstable();
    Ok(addresses.iter().map(SocketAddr::to_string).collect())
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, Problem> {
    let failed = |error: NetError| Problem::Failed(format!("DNS cannot be asked: {error}"));
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio().map_err(failed)?
    } else {
        let at = |server: &SocketAddr| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.into())
        };
        let config = ResolverConfig::from_name_servers(servers.iter().map(at).collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = TIMEOUT;
    options.attempts = ATTEMPTS;
    builder.build().map_err(failed)
}

/// What an answer without what was asked for means to people.
fn problem(name: &str, what: &str, error: &NetError) -> Problem {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => Problem::Nothing(format!("DNS knows no name {name}")),
            ResponseCode::NoError => Problem::Nothing(format!("the name {name} has no {what}")),
            code => Problem::Failed(format!("DNS does not answer for {name}: {code}")),
        },
        NetError::Timeout => Problem::Failed(format!("no DNS server answers for {name}")),
        error => Problem::Failed(format!("DNS does not answer for {name}: {error}")),
    }
}
