//! base64url, the form of every `...64` field and parameter: written without padding, read with or without.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const FORM: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Text that is not base64url.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not base64url: {0}")]
pub struct MalformedText64(#[from] base64::DecodeError);

/// The text for these bytes.
pub fn encode(bytes: &[u8]) -> String {
    FORM.encode(bytes)
}

/// The bytes of this text.
pub fn decode(text: impl AsRef<[u8]>) -> Result<Vec<u8>, MalformedText64> {
    Ok(FORM.decode(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_not_written_and_not_minded() {
        assert_eq!(encode(b"\xfb\xff\xfe>"), "-__-Pg");
        for text in ["-__-Pg", "-__-Pg=="] {
            assert_eq!(decode(text).unwrap(), b"\xfb\xff\xfe>");
        }
        assert_eq!(decode("").unwrap(), b"");
        for text in ["+//+Pg", "a", "a b", "-__-Ph"] {
            assert!(decode(text).is_err(), "{text}");
        }
    }
}
