//! Values as they lie in a store that keeps nothing but bytes.
//!
//! # Format, version 1
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 4 | `QXV` and the version, 1 |
//! | 4 | 4 | CRC32C of all that follows, little-endian |
//! | 8 | 8 | stamp: microseconds since 1970, little-endian |
//! | 16 | 8 | stamp: the writer, little-endian |
//! | 24 | 8 | when its time is up, in milliseconds since 1970, little-endian; 0 if it stays |
//! | 32 | | the value |
//!
//! A value that was cut, or that another program wrote, is recognised and is an error ([`crate::ErrorKind::BadData`]), never
//! taken for another value. A greater version is refused by name: a newer node wrote it.

use bytes::{BufMut, Bytes, BytesMut};

use crate::Stamp;

const MAGIC: &[u8; 3] = b"QXV";
const VERSION: u8 = 1;

/// Bytes before the value.
pub(crate) const HEADER_BYTES: usize = 32;

/// A value with what is kept beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Enveloped {
    pub(crate) stamp: Stamp,
    pub(crate) expires_at_ms: Option<u64>,
    pub(crate) value: Bytes,
}

impl Enveloped {
    /// The bytes to store.
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES + self.value.len());
        bytes.put_slice(MAGIC);
        bytes.put_u8(VERSION);
        bytes.put_u32_le(0);
        bytes.put_u64_le(self.stamp.unix_us);
        bytes.put_u64_le(self.stamp.writer);
        bytes.put_u64_le(self.expires_at_ms.unwrap_or(0));
        bytes.put_slice(&self.value);
        let checksum = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        bytes.freeze()
    }

    /// What these bytes hold, or why they hold no value of ours, for people.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, String> {
        let foreign = || "it is not in Quorate's envelope; a keyspace with \"envelope\": \"none\" reads what others wrote";
        if bytes.len() < 4 || bytes[..3] != MAGIC[..] {
            return Err(foreign().to_owned());
        }
        if bytes[3] != VERSION {
            return Err(format!("its envelope is of version {}, and this node knows version {VERSION}", bytes[3]));
        }
        if bytes.len() < HEADER_BYTES {
            return Err(format!("it is cut: {} bytes of an envelope of {HEADER_BYTES}", bytes.len()));
        }
        let number = |at: usize| bytes[at..at + 8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let checksum = bytes[4..8].iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte));
        if crc32c::crc32c(&bytes[8..]) != checksum {
            return Err("it is cut or damaged: its checksum differs".to_owned());
        }
        Ok(Self {
            stamp: Stamp { unix_us: number(8), writer: number(16) },
            expires_at_ms: Some(number(24)).filter(|at| *at > 0),
            value: bytes.slice(HEADER_BYTES..),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Enveloped {
        let stamp = Stamp { unix_us: 0x0102_0304_0506_0708, writer: 0x1112_1314_1516_1718 };
        Enveloped { stamp, expires_at_ms: Some(0x2122), value: Bytes::from_static(b"value") }
    }

    /// The format as it was laid down: nodes of every later version read it.
    #[test]
    fn version_1_is_read_back() {
        let stored = b"QXV\x01\
            \x73\x5d\xc1\x44\
            \x08\x07\x06\x05\x04\x03\x02\x01\
            \x18\x17\x16\x15\x14\x13\x12\x11\
            \x22\x21\0\0\0\0\0\0\
            value";
        assert_eq!(example().encode(), &stored[..], "{:02x?}", &example().encode()[..8]);
        assert_eq!(Enveloped::decode(&Bytes::from_static(stored)).unwrap(), example());
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let whole = example().encode();
        for len in 0..whole.len() {
            assert!(Enveloped::decode(&whole.slice(..len)).is_err(), "cut at {len}");
        }
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Enveloped::decode(&damaged.into()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_empty_value_that_stays_is_a_value() {
        let empty = Enveloped { expires_at_ms: None, value: Bytes::new(), ..example() };
        assert_eq!(Enveloped::decode(&empty.encode()).unwrap(), empty);
    }

    #[test]
    fn what_others_wrote_and_what_newer_nodes_wrote_is_told_apart() {
        let error = Enveloped::decode(&Bytes::from_static(b"plain text of another program")).unwrap_err();
        assert!(error.contains("envelope"), "{error}");
        let mut newer = example().encode().to_vec();
        newer[3] = 2;
        let error = Enveloped::decode(&newer.into()).unwrap_err();
        assert!(error.contains("version 2"), "{error}");
    }
}
