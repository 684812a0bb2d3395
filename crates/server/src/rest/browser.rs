//! Keeps web pages from using a browser to reach this node.
//!
//! A page can name a host of its own that resolves to this node (DNS rebinding), and can send simple requests to any
//! origin. So `Host` must name an address of this node, and nothing changes on behalf of another site's page.

use std::net::{IpAddr, SocketAddr};

use http::Version;
use http::header::{HOST, HeaderName, HeaderValue, ORIGIN};
use http::request::Parts;
use quorate_api::problem::Code;

use super::refusal::Refusal;

/// The hosts by which requests may name this node.
#[derive(Debug)]
pub(super) struct AllowedHosts {
    names: Vec<String>,
    allows_any_address: bool,
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

impl AllowedHosts {
    pub(super) fn new(configured: &[String], listened: SocketAddr) -> Self {
        let mut names: Vec<String> = configured.iter().map(|host| host_of(host).to_ascii_lowercase()).collect();
        names.push("localhost".to_owned());
        names.push(listened.ip().to_string());
        Self { names, allows_any_address: listened.ip().is_unspecified() }
    }

    fn allow(&self, authority: &str) -> bool {
        let host = host_of(authority);
        if self.names.iter().any(|name| name.eq_ignore_ascii_case(host)) {
            return true;
        }
        host.parse::<IpAddr>().is_ok_and(|address| self.allows_any_address || address.is_loopback())
    }
}

/// Refuses what a page of another site may have sent.
pub(super) fn check(head: &Parts, allowed: &AllowedHosts) -> Result<(), Refusal> {
    let authority = authority(head)?;
    if let Some(authority) = authority
        && !allowed.allow(authority)
    {
        return Err(Refusal::new(Code::HostNotAllowed, format!("Host {authority:?} is no address of this node")));
    }
    if head.method.is_safe() { Ok(()) } else { check_origin(head, authority) }
}

/// Host and port that the request is for. None only for a client of HTTP/1.0, which no browser is.
fn authority(head: &Parts) -> Result<Option<&str>, Refusal> {
    let bad = |why: &str| Refusal::new(Code::BadRequest, why);
    let mut lines = head.headers.get_all(HOST).iter();
    let (first, second) = (lines.next(), lines.next());
    if second.is_some() {
        return Err(bad("more than one Host header"));
    }
    if let Some(authority) = head.uri.authority() {
        return Ok(Some(authority.as_str()));
    }
    match first {
        Some(value) => value.to_str().map(Some).map_err(|_| bad("the Host header is not visible ASCII")),
        None if head.version == Version::HTTP_10 => Ok(None),
        None => Err(bad("the Host header is missing")),
    }
}

fn check_origin(head: &Parts, authority: Option<&str>) -> Result<(), Refusal> {
    if head.headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "cross-site") {
        return Err(Refusal::new(Code::CrossSite, "Sec-Fetch-Site says cross-site"));
    }
    match head.headers.get(ORIGIN) {
        Some(origin) if !is_same_origin(origin, authority) => {
            Err(Refusal::new(Code::CrossSite, "Origin is not the origin of this node"))
        }
        _ => Ok(()),
    }
}

fn is_same_origin(origin: &HeaderValue, authority: Option<&str>) -> bool {
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    match (origin, authority) {
        (Some((_, origin)), Some(authority)) => origin.eq_ignore_ascii_case(authority),
        _ => false,
    }
}

/// The host of `host`, `host:port`, `[v6]:port` or a bare IPv6 address.
fn host_of(authority: &str) -> &str {
    if let Some((host, _)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return host;
    }
    match authority.split_once(':') {
        Some((host, port)) if !port.contains(':') => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_allowed_by_name_or_as_loopback() {
        let configured = ["Quorate.Example:2379".to_owned(), "10.0.0.7".to_owned(), "[fd00::1]:2379".to_owned()];
        let allowed = AllowedHosts::new(&configured, "192.168.1.5:2379".parse().unwrap());
        let good = [
            "quorate.example",
            "QUORATE.example:80",
            "10.0.0.7:1",
            "[fd00::1]",
            "192.168.1.5:2379",
            "localhost",
            "127.9.9.9:1",
            "[::1]:2",
        ];
        for host in good {
            assert!(allowed.allow(host), "{host}");
        }
        let bad = [
            "",
            "evil.example",
            "localhost.evil.example",
            "10.0.0.8",
            "[fd00::2]:1",
            "127.0.0.1.nip.io",
            "user@localhost",
            "[localhost",
        ];
        for host in bad {
            assert!(!allowed.allow(host), "{host}");
        }
    }

    #[test]
    fn listening_on_every_address_allows_every_address_but_no_other_name() {
        for listened in ["0.0.0.0:2379", "[::]:2379"] {
            let allowed = AllowedHosts::new(&[], listened.parse().unwrap());
            assert!(allowed.allow("10.0.0.8:2379") && allowed.allow("[fd00::2]") && !allowed.allow("evil.example"));
        }
    }
}
