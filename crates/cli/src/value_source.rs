//! Where the value of a `put` comes from: the command line, a file, or standard input.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use crate::exit::Failure;

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ValueSource {
    Argument(Vec<u8>),
    File(PathBuf),
    Stdin,
}

/// The largest value that any node can be set to accept. What is larger is not read to the end.
pub(crate) const MAX_VALUE_BYTES: u64 = 8 << 20;

impl From<OsString> for ValueSource {
    fn from(argument: OsString) -> Self {
        match argument.as_bytes() {
            b"-" => Self::Stdin,
            [b'@', path @ ..] => Self::File(OsString::from_vec(path.to_vec()).into()),
            _ => Self::Argument(argument.into_vec()),
        }
    }
}

impl ValueSource {
    /// Reads it all. Blocks until the source ends.
    pub(crate) fn read(self) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Argument(value) => Ok(value),
            Self::File(path) => {
                let place = path.display().to_string();
                let file = File::open(&path).map_err(|error| Failure::failed(format!("cannot open {place}: {error}")))?;
                read_bounded(file, &place)
            }
            Self::Stdin => read_bounded(io::stdin().lock(), "standard input"),
        }
    }
}

fn read_bounded(source: impl Read, place: &str) -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    let read = source.take(MAX_VALUE_BYTES + 1).read_to_end(&mut value);
    read.map_err(|error| Failure::failed(format!("cannot read {place}: {error}")))?;
    if value.len() as u64 > MAX_VALUE_BYTES {
        return Err(Failure::failed(format!("{place} holds more than 8 MiB, the most that any node accepts as a value")));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::{MAX_VALUE_BYTES, ValueSource, read_bounded};

    #[test]
    fn the_first_byte_tells_the_source() {
        let source = |argument: &str| ValueSource::from(OsString::from(argument));
        assert_eq!(source("-"), ValueSource::Stdin);
        assert_eq!(source("@a/b"), ValueSource::File("a/b".into()));
        assert_eq!(source("-1"), ValueSource::Argument(b"-1".to_vec()));
        assert_eq!(source(""), ValueSource::Argument(Vec::new()));
    }

    #[test]
    fn the_largest_value_is_read_and_no_larger_one() {
        let largest = vec![b'x'; MAX_VALUE_BYTES as usize];
        assert_eq!(read_bounded(largest.as_slice(), "x").unwrap().len(), largest.len());
        assert!(read_bounded([largest.as_slice(), b"x"].concat().as_slice(), "x").is_err());
        assert!(read_bounded(std::io::repeat(0), "x").is_err());
    }
}
