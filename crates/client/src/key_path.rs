//! Keys in URLs: the path form where it survives every proxy, `key64` where it would not.

use quorate_api::key::encode_percent;
use quorate_api::text64;

use crate::error::Error;

/// Path and query that address one key; `query` continues it and carries no `?` or leading `&`.
///
/// The path form percent-encodes every byte that is not unreserved, except `/`. Keys that a proxy or a URL parser would change
/// in that form (`//`, a segment `.` or `..`, control bytes, not UTF-8) are sent as `key64` instead.
pub(crate) fn one_key(keyspace: &str, key: &[u8], query: &str) -> String {
    let keyspace = path_of(keyspace);
    let (mut target, separator) = if survives_as_path(key) {
        (format!("{keyspace}/{}", encode_percent(key)), '?')
    } else {
        (format!("{keyspace}?key64={}", text64::encode(key)), '&')
    };
    if !query.is_empty() {
        target.push(separator);
        target.push_str(query);
    }
    target
}

/// The path of a whole keyspace.
pub(crate) fn path_of(keyspace: &str) -> String {
    format!("/v1/kv/{}", one_segment(keyspace))
}

/// The path of a lock.
pub(crate) fn one_lock(keyspace: &str, name: &str) -> Result<String, Error> {
    if name.is_empty() || !survives_as_path(name.as_bytes()) {
        return Err(Error::InvalidRequest { reason: format!("`{}` cannot be the name of a lock", name.escape_debug()) });
    }
    Ok(format!("/v1/locks/{}/{}", one_segment(keyspace), encode_percent(name.as_bytes())))
}

/// A name as one segment of a path, whatever is in it; the server then says what is wrong with it.
pub(crate) fn one_segment(name: &str) -> String {
    encode_percent(name.as_bytes()).replace('/', "%2F")
}

fn survives_as_path(key: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(key) else { return false };
    let is_dotted = |segment: &str| segment == "." || segment == "..";
    // A leading slash makes an empty segment together with the one before the key.
    let has_empty_segment = text.starts_with('/') || text.contains("//");
    !has_empty_segment && !text.split('/').any(is_dotted) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};
    use proptest::{prop_assert, prop_assert_eq};

    use quorate_api::key::decode_percent;
    use quorate_api::text64;

    use super::one_key;

    #[test]
    fn keys_that_survive_stand_in_the_path() {
        let cases: [(&[u8], &str); 6] = [
            (b"greeting", "/v1/kv/ks/greeting"),
            (b"a/b c+d", "/v1/kv/ks/a/b%20c%2Bd"),
            (b"a/", "/v1/kv/ks/a/"),
            (b"...", "/v1/kv/ks/..."),
            ("\u{e9}%?#".as_bytes(), "/v1/kv/ks/%C3%A9%25%3F%23"),
            (b"", "/v1/kv/ks/"),
        ];
        for (key, target) in cases {
            assert_eq!(one_key("ks", key, ""), target);
        }
        assert_eq!(one_key("ks", b"a", "cas=1&x=2"), "/v1/kv/ks/a?cas=1&x=2");
    }

    #[test]
    fn keys_that_proxies_mangle_are_sent_as_base64() {
        for key in [b"/a".as_slice(), b"a//b", b"..", b".", b"a/../b", b"a/.", b"\xff", b"a\0b", b"a\nb", b"\xc2\x85"] {
            assert_eq!(one_key("ks", key, ""), format!("/v1/kv/ks?key64={}", text64::encode(key)));
        }
        assert_eq!(one_key("ks", b"..", "cas=1"), "/v1/kv/ks?key64=Li4&cas=1");
    }

    /// What a server does with the target: raw path after the keyspace, decoded once; else `key64`.
    fn decoded(target: &str) -> Vec<u8> {
        match target.strip_prefix("/v1/kv/ks?key64=") {
            Some(encoded) => text64::decode(encoded).unwrap(),
            None => decode_percent(target.strip_prefix("/v1/kv/ks/").unwrap().as_bytes()).unwrap().to_vec(),
        }
    }

    proptest! {
        #[test]
        fn any_key_arrives_as_it_was_sent(key in vec(any::<u8>(), 0..64)) {
            let target = one_key("ks", &key, "");
            prop_assert_eq!(decoded(&target), key);
            prop_assert!(target.parse::<http::Uri>().is_ok_and(|uri| uri == target.as_str()), "{}", target);
        }

        #[test]
        fn keys_of_awkward_text_arrive_too(key in "[./%?#&=+ a\u{e9}\u{0}]{0,12}") {
            let target = one_key("ks", key.as_bytes(), "");
            prop_assert_eq!(decoded(&target), key.as_bytes());
            prop_assert!(!target.contains("//") && !target.contains("/../") && !target.contains("/./"), "{}", target);
        }
    }
}
