//! Where a node listens for clients.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// One node's client address, as `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    authority: http::uri::Authority,
}

impl Endpoint {
    /// Reads several, separated by commas; at least one.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, Error> {
        text.split(',').map(|each| each.trim().parse()).collect()
    }

    /// `host:port`.
    pub fn authority(&self) -> &str {
        self.authority.as_str()
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    /// Reads `http://host:port` or `host:port`; a port must be there, a path must not.
    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |reason| Error::InvalidEndpoint { endpoint: text.to_owned(), reason };
        if text.starts_with("https://") {
            return Err(invalid("TLS is not supported yet, write http://"));
        }
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let authority: http::uri::Authority =
            rest.strip_suffix('/').unwrap_or(rest).parse().map_err(|_| invalid("write http://HOST:PORT"))?;
        let has_name = authority.as_str().contains('@') || authority.host().is_empty();
        if has_name || authority.port_u16().is_none_or(|port| port == 0) {
            return Err(invalid("write http://HOST:PORT"));
        }
        Ok(Self { authority })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::Endpoint;

    #[test]
    fn endpoints_as_people_write_them() {
        let list = Endpoint::parse_list("http://127.0.0.1:2379, db:2381,http://[::1]:2383/").unwrap();
        let shown: Vec<String> = list.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["http://127.0.0.1:2379", "http://db:2381", "http://[::1]:2383"]);
        assert_eq!(list[1].authority(), "db:2381");
    }

    #[test]
    fn what_is_no_endpoint() {
        for text in ["", "http://", "db", "https://db:1", "http://db:1/v1", "db:0", "db:99999", "u@db:1", "a b:1", "ftp://db:1"] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
