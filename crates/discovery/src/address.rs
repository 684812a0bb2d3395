//! `host:port`, as people write it.

use std::net::Ipv6Addr;

/// Host and port of `host:port`; IPv6 addresses stand in brackets. The error is the rest of a sentence about the address.
pub fn split_address(address: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("is `{address}`: it must be HOST:PORT, as in 127.0.0.1:2379 or [::1]:2379");
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().ok().filter(|&port| port != 0).ok_or_else(wrong)?;
    let host = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.strip_suffix(']').filter(|ip| ip.parse::<Ipv6Addr>().is_ok()).ok_or_else(wrong)?,
        None => host,
    };
    let is_plain = is_host_name(host) || host.parse::<Ipv6Addr>().is_ok();
    let is_ambiguous = host.contains(':') && !address.starts_with('[');
    if is_plain && !is_ambiguous { Ok((host, port)) } else { Err(wrong()) }
}

/// Letters, digits and `-._`: names, and IPv4 addresses.
pub(crate) fn is_host_name(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::split_address;

    #[test]
    fn addresses_have_host_and_port() {
        assert_eq!(split_address("[::1]:2379"), Ok(("::1", 2379)));
        assert_eq!(split_address("db-1.example:80"), Ok(("db-1.example", 80)));
        for address in ["", "localhost", ":2379", "::1:2379", "[::1]", "[db]:1", "a:0", "a:65536", "a b:1", "http://a:1", "a:1/"]
        {
            assert!(split_address(address).is_err(), "{address}");
        }
    }
}
