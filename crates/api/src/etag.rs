//! The entity tag of a key: what `ETag`, `If-Match` and `cas=epoch.N` carry. Opaque to clients.

use std::fmt;

/// Names one content of one key for ever: the keyspace's epoch and the revision of the key's last change; in an eventual keyspace
/// the stamp of that change, and who made it.
///
/// The epoch is renewed when a keyspace is made anew, so that an old tag never matches by accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntityTag {
    /// The keyspace's epoch.
    pub epoch: u64,
    /// The revision of the key's last change, or its stamp; 0 in a condition stands for "no such key".
    pub mod_revision: u64,
    /// Who made the change, where that belongs to its name; otherwise 0.
    pub instance: u32,
}

impl EntityTag {
    /// Reads the part between the quotes. Only the one way in which a tag is written is read; all else is somebody else's tag.
    pub fn parse(opaque: &str) -> Option<Self> {
        let (epoch, rest) = opaque.split_once('.')?;
        let (mod_revision, instance) = rest.split_once('.').map_or((rest, None), |(stamp, instance)| (stamp, Some(instance)));
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if !is_canonical(epoch, is_hex) || !is_canonical(mod_revision, |byte| byte.is_ascii_digit()) {
            return None;
        }
        let instance = match instance {
            Some(text) if is_canonical(text, |byte| byte.is_ascii_digit()) && text != "0" => text.parse().ok()?,
            Some(_) => return None,
            None => 0,
        };
        Some(Self { epoch: u64::from_str_radix(epoch, 16).ok()?, mod_revision: mod_revision.parse().ok()?, instance })
    }
}

fn is_canonical(number: &str, is_digit: impl Fn(u8) -> bool) -> bool {
    let has_leading_zero = number.len() > 1 && number.starts_with('0');
    !number.is_empty() && !has_leading_zero && number.bytes().all(is_digit)
}

/// Without the quotes that stand around it in headers.
impl fmt::Display for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{}", self.epoch, self.mod_revision)?;
        if self.instance == 0 { Ok(()) } else { write!(f, ".{}", self.instance) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tags_round_trip(epoch: u64, mod_revision: u64, instance: u32) {
            let tag = EntityTag { epoch, mod_revision, instance };
            prop_assert_eq!(EntityTag::parse(&tag.to_string()), Some(tag));
        }
    }

    #[test]
    fn other_text_is_no_tag_of_ours() {
        for text in [
            "",
            "1",
            ".",
            "1.",
            ".1",
            "01.1",
            "1.01",
            "A.1",
            "1.a",
            "+1.1",
            "1.+1",
            "1.2.0",
            "1.2.x",
            "1.2.03",
            "1.2.3.4",
            "10000000000000000.1",
        ] {
            assert_eq!(EntityTag::parse(text), None, "{text}");
        }
    }
}
