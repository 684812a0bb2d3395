//! Keys and keyspace names as they stand in URLs.

use std::fmt::Write as _;

use bytes::Bytes;

/// Longest key, in bytes, after decoding.
pub const MAX_KEY_BYTES: usize = 4096;

/// Longest keyspace or node name, in bytes.
pub const MAX_NAME_BYTES: usize = 63;

/// The keyspace that always exists, and that the compat routes use.
pub const DEFAULT_KEYSPACE: &str = "default";

/// The keyspace of the catalog: clients may read it, only the cluster itself writes it.
pub const SYSTEM_KEYSPACE: &str = "_system";

/// A `%` that is not followed by two hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the % at byte {position} is not followed by two hexadecimal digits")]
pub struct MalformedPercent {
    /// Where it stands, from 0.
    pub position: usize,
}

/// Decodes percent-encoding once, to bytes. Nothing else is special: `+` is a plus, `//` and `..` stay as they are, and the
/// bytes need not be UTF-8.
pub fn decode_percent(text: &[u8]) -> Result<Bytes, MalformedPercent> {
    if !text.contains(&b'%') {
        return Ok(Bytes::copy_from_slice(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut position = 0;
    while let Some(byte) = text.get(position) {
        if *byte == b'%' {
            let digits = text.get(position + 1..position + 3).and_then(|pair| Some(hex(pair[0])? << 4 | hex(pair[1])?));
            out.push(digits.ok_or(MalformedPercent { position })?);
            position += 3;
        } else {
            out.push(*byte);
            position += 1;
        }
    }
    Ok(out.into())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// Encodes a key for the path of a URL. `/` stays readable, since the server takes it and `%2F` for the same byte.
///
/// Many URL parsers remove `.` and `..` segments, also encoded ones: a client that goes through one sends such keys as
/// `key64`.
pub fn encode_percent(key: &[u8]) -> String {
    let mut out = String::with_capacity(key.len() + 16);
    for byte in key {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(byte) {
            out.push(char::from(*byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Whether clients may give a keyspace this name: `[a-z0-9][a-z0-9_-]{0,62}`.
pub fn is_keyspace_name(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    name.len() <= MAX_NAME_BYTES && name.bytes().all(is_inner) && name.starts_with(|first: char| first.is_ascii_alphanumeric())
}

/// Whether a node may have this name: `[A-Za-z0-9][A-Za-z0-9._-]{0,62}`, so that it can stand in a URL, a header and a
/// host name's place.
pub fn is_node_name(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    name.len() <= MAX_NAME_BYTES && name.bytes().all(is_inner) && name.starts_with(|first: char| first.is_ascii_alphanumeric())
}

/// Whether this is `host:port` with something for a host and a port number above 0.
pub fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let is_host = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/@?#".contains(&byte));
        is_host && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn encoded_keys_decode_to_themselves(key in proptest::collection::vec(any::<u8>(), 0..80)) {
            let text = encode_percent(&key);
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(decode_percent(text.as_bytes()).unwrap(), key);
        }
    }

    #[test]
    fn decoding_touches_nothing_but_percent_signs() {
        let cases: [(&str, &[u8]); 5] =
            [("a+b", b"a+b"), ("a//b/../c/", b"a//b/../c/"), ("%2F%2f", b"//"), ("%00%ff", b"\0\xff"), ("%25%32%35", b"%25")];
        for (text, bytes) in cases {
            assert_eq!(decode_percent(text.as_bytes()).unwrap(), bytes, "{text}");
        }
        for (text, position) in [("%", 0), ("a%2", 1), ("ab%zz", 2), ("%%41", 0), ("%+1", 0)] {
            assert_eq!(decode_percent(text.as_bytes()), Err(MalformedPercent { position }), "{text}");
        }
    }

    #[test]
    fn names_follow_their_rules() {
        let long = "a".repeat(MAX_NAME_BYTES);
        for name in ["a", "0", "orders", "a_b-c", long.as_str()] {
            assert!(is_keyspace_name(name) && is_node_name(name), "{name}");
        }
        let too_long = "a".repeat(MAX_NAME_BYTES + 1);
        for name in ["", "_system", "-a", "a/b", "a b", "\u{fc}", too_long.as_str()] {
            assert!(!is_keyspace_name(name) && !is_node_name(name), "{name}");
        }
        assert!(is_node_name("Node-1.example") && !is_keyspace_name("Node"));
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for address in ["127.0.0.1:2380", "[::1]:1", "node-1.example:65535"] {
            assert!(is_address(address), "{address}");
        }
        for address in ["", "127.0.0.1", ":2380", "host:", "host:0", "host:65536", "host:+1", "http://host:1", "a b:1"] {
            assert!(!is_address(address), "{address}");
        }
    }
}
