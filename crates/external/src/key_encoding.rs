//! Keys as names: of files and objects.
//!
//! # `bytes`, the default
//!
//! Any key becomes a name that every file system and object store takes, and names sort as their keys do. Letters and digits and
//! `-` stand for themselves. Every other byte is three characters: one that says between which of those it sorts, and its two
//! hexadecimal digits.
//!
//! | bytes | become | example |
//! | --- | --- | --- |
//! | 00-2C | `!XX` | a space is `!20` |
//! | `-` | itself | |
//! | 2E, 2F | `.XX` | `a/b` is `a.2Fb` |
//! | `0`-`9` | themselves | |
//! | 3A-40 | `=XX` | `a:b` is `a=3Ab` |
//! | `A`-`Z` | themselves | |
//! | 5B-60 | `_XX` | `a_b` is `a_5Fb` |
//! | `a`-`z` | themselves | |
//! | 7B-FF | `~XX` | |
//!
//! The empty key is `!` alone, which no other key becomes and which sorts first. No name begins with a dot that is followed by
//! something else than `2E` or `2F`, so that names of our own can.
//!
//! Where names of files are bounded, a longer name is cut: every full piece of [`PIECE_CHARS`] but the last is a folder, and ends
//! in `~d`, which no encoded key does (`split_name`).
//!
//! # `path`
//!
//! The key is the name, so that people and other programs recognise it. It must be UTF-8, of parts between `/` that are neither
//! empty, nor `.` or `..`, nor begin with `.quorate`, without control characters and backslashes, without white space at the
//! ends, and of 255 bytes each at most. In a folder or on a WebDAV server, a key can then not be another's folder: `a` and `a/b`
//! exclude each other.

use bytes::Bytes;

/// Keys are no longer than this, encoded or not; longer ones are refused before a store sees them.
pub const MAX_KEY_BYTES: usize = 4096;

/// Names of objects are no longer than this: what S3, Google Cloud Storage and Azure take.
pub(crate) const MAX_NAME_BYTES: usize = 1024;

/// A piece of a name that was cut; with its mark it stays below the 255 of file names.
pub(crate) const PIECE_CHARS: usize = 240;

/// Names of our own begin with this; no key's does.
pub(crate) const OWN_PREFIX: &str = ".quorate";

const EMPTY_KEY: &str = "!";
const FOLDER_MARK: &str = "~d";
const MAX_PART_BYTES: usize = 255;

/// How a key becomes a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyEncoding {
    /// Any key, escaped; names sort as keys do.
    #[default]
    Bytes,
    /// The key as it is, within limits.
    Path,
}

/// Why a key cannot be a name, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadKey(String);

impl KeyEncoding {
    /// The word in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Path => "path",
        }
    }

    /// The path of a name where a store has folders.
    pub(crate) fn path_of(self, name: &str) -> String {
        match self {
            Self::Bytes => split_name(name),
            Self::Path => name.to_owned(),
        }
    }

    /// The name of a key.
    pub(crate) fn encode(self, key: &[u8]) -> Result<String, BadKey> {
        match self {
            Self::Bytes if key.is_empty() => Ok(EMPTY_KEY.to_owned()),
            Self::Bytes => Ok(escape(key)),
            Self::Path => check_path(key).map(str::to_owned),
        }
    }

    /// The key of a name; none if no key has this name, so that it is somebody else's.
    pub(crate) fn decode(self, name: &str) -> Option<Bytes> {
        match self {
            Self::Bytes if name == EMPTY_KEY => Some(Bytes::new()),
            Self::Bytes => unescape(name).filter(|key| !key.is_empty()),
            Self::Path => check_path(name.as_bytes()).ok().map(|key| Bytes::copy_from_slice(key.as_bytes())),
        }
    }

    /// With what the names of all keys with this prefix begin; and names of at most few others do.
    pub(crate) fn name_prefix(self, prefix: &[u8]) -> String {
        match self {
            Self::Bytes => escape(prefix),
            Self::Path => String::from_utf8_lossy(valid_start(prefix)).into_owned(),
        }
    }

    /// A name such that those of all keys at or after `key` are at or after it, in byte order.
    pub(crate) fn lower_bound(self, key: &[u8]) -> String {
        match self {
            // Before every name, the empty key's too.
            Self::Bytes if key.is_empty() => String::new(),
            Self::Bytes => escape(key),
            Self::Path => String::from_utf8_lossy(valid_start(key)).into_owned(),
        }
    }
}

/// The longest start of a key that is UTF-8: every path with the key's prefix begins with it.
fn valid_start(key: &[u8]) -> &[u8] {
    match std::str::from_utf8(key) {
        Ok(_) => key,
        Err(error) => &key[..error.valid_up_to()],
    }
}

fn escape(key: &[u8]) -> String {
    let mut name = String::with_capacity(key.len() + key.len() / 2);
    for byte in key {
        match lead(*byte) {
            None => name.push(char::from(*byte)),
            Some(lead) => {
                name.push(lead);
                name.push(hex_digit(byte >> 4));
                name.push(hex_digit(byte & 0xf));
            }
        }
    }
    name
}

/// The character before a byte's digits: it sorts where the byte does among those that stand for themselves.
fn lead(byte: u8) -> Option<char> {
    match byte {
        b'-' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => None,
        0x00..=0x2c => Some('!'),
        0x2e..=0x2f => Some('.'),
        0x3a..=0x40 => Some('='),
        0x5b..=0x60 => Some('_'),
        0x7b..=0xff => Some('~'),
    }
}

fn hex_digit(nibble: u8) -> char {
    char::from(b"0123456789ABCDEF"[usize::from(nibble)])
}

fn unescape(name: &str) -> Option<Bytes> {
    let mut key = Vec::with_capacity(name.len());
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        if lead(byte).is_none() {
            key.push(byte);
            continue;
        }
        let escaped = hex_value(bytes.next()?)? << 4 | hex_value(bytes.next()?)?;
        // Only what `escape` makes: one name per key.
        if lead(escaped) != Some(char::from(byte)) {
            return None;
        }
        key.push(escaped);
    }
    Some(key.into())
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn check_path(key: &[u8]) -> Result<&str, BadKey> {
    let bad = |why: &str| Err(BadKey(format!("with key_encoding \"path\", {why}")));
    let Ok(path) = std::str::from_utf8(key) else {
        return bad("a key must be UTF-8");
    };
    if path.is_empty() {
        return bad("a key must not be empty");
    }
    if path.contains(|c: char| c.is_control() || c == '\\') {
        return bad("a key must not hold control characters or backslashes");
    }
    for part in path.split('/') {
        match part {
            "" => return bad("a key must not begin or end with / or hold //"),
            "." | ".." => return bad("no part of a key may be . or .."),
            _ if part.starts_with(OWN_PREFIX) => return bad("no part of a key may begin with .quorate"),
            _ if part.len() > MAX_PART_BYTES => return bad("the parts of a key between / must not be longer than 255 bytes"),
            _ if part.trim() != part => return bad("no part of a key may begin or end with white space"),
            _ => {}
        }
    }
    Ok(path)
}

/// A name of the encoding `bytes` as a path whose parts are short enough for file names.
pub(crate) fn split_name(name: &str) -> String {
    let mut path = String::with_capacity(name.len() + 8);
    let mut rest = name;
    while rest.len() > PIECE_CHARS {
        let (piece, after) = rest.split_at(PIECE_CHARS);
        path.push_str(piece);
        path.push_str(FOLDER_MARK);
        path.push('/');
        rest = after;
    }
    path.push_str(rest);
    path
}

/// What a folder made by [`split_name`] stands for in names; none if it is no such folder.
pub(crate) fn folder_piece(folder: &str) -> Option<&str> {
    folder.strip_suffix(FOLDER_MARK).filter(|piece| piece.len() == PIECE_CHARS)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn examples_of_the_documentation_hold() {
        for (key, name) in [
            (&b""[..], "!"),
            (b" ", "!20"),
            (b"a/b", "a.2Fb"),
            (b"a:b", "a=3Ab"),
            (b"a_b", "a_5Fb"),
            (b"..", ".2E.2E"),
            (b"\xff", "~FF"),
            (b"Az-09", "Az-09"),
        ] {
            assert_eq!(KeyEncoding::Bytes.encode(key).unwrap(), name);
            assert_eq!(KeyEncoding::Bytes.decode(name).unwrap(), key);
        }
    }

    #[test]
    fn names_of_others_are_no_keys() {
        for name in ["", "a!", "a!2", "!ZZ", "a/b", "a.b", "!20!", "a%20", "=41", "!2f", ".quorate", "a b", "~d"] {
            assert_eq!(KeyEncoding::Bytes.decode(name), None, "{name}");
        }
    }

    #[test]
    fn paths_that_would_lead_elsewhere_are_refused_and_say_why() {
        let long = "x".repeat(256);
        for key in ["", "/a", "a/", "a//b", ".", "a/../b", "a\\b", "a\nb", "a/.quorate-x", " a", "a /b", &long] {
            let error = KeyEncoding::Path.encode(key.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("key_encoding"), "{error}");
            assert_eq!(KeyEncoding::Path.decode(key), None, "{key}");
        }
        assert!(KeyEncoding::Path.encode(b"\xff").is_err());
        assert_eq!(KeyEncoding::Path.encode("b\u{fc}cher/1.txt".as_bytes()).unwrap(), "b\u{fc}cher/1.txt");
    }

    proptest! {
        #[test]
        fn any_key_comes_back(key in vec(any::<u8>(), 0..40)) {
            let name = KeyEncoding::Bytes.encode(&key).unwrap();
            prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!-.=_~".contains(&b)), "{name}");
            prop_assert!(name != "." && name != ".." && !name.starts_with(OWN_PREFIX));
            prop_assert_eq!(KeyEncoding::Bytes.decode(&name).unwrap(), key);
        }

        #[test]
        fn names_sort_as_keys(a in vec(any::<u8>(), 0..6), b in vec(any::<u8>(), 0..6)) {
            let name = |key: &[u8]| KeyEncoding::Bytes.encode(key).unwrap();
            prop_assert_eq!(a.cmp(&b), name(&a).cmp(&name(&b)));
            prop_assert!(a < b || KeyEncoding::Bytes.lower_bound(&b) <= name(&a));
        }

        #[test]
        fn a_prefix_of_keys_is_one_of_names(a in vec(any::<u8>(), 1..4), b in vec(any::<u8>(), 1..6)) {
            let name = KeyEncoding::Bytes.encode(&b).unwrap();
            prop_assert_eq!(b.starts_with(&a), name.starts_with(&KeyEncoding::Bytes.name_prefix(&a)));
        }

        #[test]
        fn pieces_are_short_and_join_again(key in vec(any::<u8>(), 0..1000)) {
            let name = KeyEncoding::Bytes.encode(&key).unwrap();
            let path = split_name(&name);
            let mut joined = String::new();
            let parts: Vec<&str> = path.split('/').collect();
            for (at, part) in parts.iter().enumerate() {
                prop_assert!(part.len() <= MAX_PART_BYTES && !part.is_empty());
                joined.push_str(if at + 1 < parts.len() { folder_piece(part).unwrap() } else { part });
            }
            prop_assert_eq!(joined, name);
        }

        #[test]
        fn no_end_of_a_name_is_taken_for_a_folder(key in vec(any::<u8>(), 0..300)) {
            let path = split_name(&KeyEncoding::Bytes.encode(&key).unwrap());
            prop_assert_eq!(folder_piece(path.rsplit('/').next().unwrap()), None);
        }
    }
}
