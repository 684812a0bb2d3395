//! The bytes of headers, as FORMAT.md has them: the segment's and the batch's. All integers are little-endian.

/// The format that is written. A file with a higher one is refused.
pub const FORMAT_VERSION: u32 = 1;

/// What a disk writes at once. Batches start at multiples of it, so that a torn write never touches a durable batch.
pub(crate) const SECTOR_BYTES: u64 = 512;
/// Bytes before a segment's first batch.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = SECTOR_BYTES;
/// Bytes before a batch's body.
pub(crate) const BATCH_HEADER_BYTES: usize = 32;

const SEGMENT_MAGIC: [u8; 8] = *b"QUORLOG\n";
const BATCH_MAGIC: [u8; 4] = *b"QBAT";
/// Where the segment header's checksum stands: the same in every version, as are the magic and the version before it.
const SEGMENT_CRC_AT: usize = 12;

/// Rounds up to whole sectors.
pub(crate) const fn to_sectors(bytes: u64) -> u64 {
    bytes.next_multiple_of(SECTOR_BYTES)
}

/// What stands at the start of a segment.
///
/// The epoch of a segment is the sequence number of its first batch. It salts the checksums of all batches in it, so that what a
/// recycled file held before is never taken for a batch of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) epoch: u64,
}

/// Why a segment header is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// Not what was written.
    Damaged,
    /// Written in a format that is newer than ours.
    Newer { version: u32 },
}

impl SegmentHeader {
    pub(crate) fn encode(self) -> [u8; SEGMENT_HEADER_BYTES as usize] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        let crc = Self::checksum(&bytes);
        bytes[SEGMENT_CRC_AT..SEGMENT_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES as usize]) -> Result<Self, HeaderError> {
        let mut fields = Fields(bytes);
        let parsed = (|| Some((fields.take(8)?, fields.u32()?, fields.u32()?, fields.u64()?)))();
        let (magic, version, crc, epoch) = parsed.ok_or(HeaderError::Damaged)?;
        if magic != SEGMENT_MAGIC || crc != Self::checksum(bytes) {
            return Err(HeaderError::Damaged);
        }
        match version {
            FORMAT_VERSION => Ok(Self { epoch }),
            0 => Err(HeaderError::Damaged),
            _ => Err(HeaderError::Newer { version }),
        }
    }

    /// Of the whole sector but for the checksum itself.
    fn checksum(bytes: &[u8; SEGMENT_HEADER_BYTES as usize]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[..SEGMENT_CRC_AT]), &bytes[SEGMENT_CRC_AT + 4..])
    }
}

/// What stands at the start of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    /// The batch's number in the log; each is one more than that before it.
    pub(crate) sequence: u64,
    /// Bytes after this header, padding not counted.
    pub(crate) body_bytes: u32,
    /// See [`body_checksum`].
    pub(crate) body_crc: u32,
    /// How many records the body has.
    pub(crate) record_count: u32,
}

impl BatchHeader {
    pub(crate) fn encode(self, epoch: u64) -> [u8; BATCH_HEADER_BYTES] {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        bytes[..4].copy_from_slice(&BATCH_MAGIC);
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.body_crc.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.record_count.to_le_bytes());
        let crc = salted(epoch, &bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` if these bytes are not the header of a batch of this epoch.
    pub(crate) fn decode(bytes: &[u8], epoch: u64) -> Option<Self> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES)?;
        let mut fields = Fields(bytes);
        if fields.take(4)? != BATCH_MAGIC || fields.u32()? != salted(epoch, &bytes[8..]) {
            return None;
        }
        Some(Self { sequence: fields.u64()?, body_bytes: fields.u32()?, body_crc: fields.u32()?, record_count: fields.u32()? })
    }

    /// Bytes of header, body and padding.
    pub(crate) fn extent_bytes(self) -> u64 {
        to_sectors(BATCH_HEADER_BYTES as u64 + u64::from(self.body_bytes))
    }
}

/// The checksum of a batch's body; it holds the body to its place in the log.
pub(crate) fn body_checksum(epoch: u64, sequence: u64, body: &[u8]) -> u32 {
    crc32c::crc32c_append(salted(epoch, &sequence.to_le_bytes()), body)
}

fn salted(epoch: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&epoch.to_le_bytes()), bytes)
}

/// Takes fields off the front of a slice; `None` when it is too short.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(u32::from_le_bytes(*head))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(u64::from_le_bytes(*head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_header_survives_the_round_trip_and_no_flipped_bit() {
        let header = SegmentHeader { epoch: 77 };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&flipped), Err(HeaderError::Damaged), "bit {bit}");
        }
    }

    #[test]
    fn newer_segment_header_is_told_from_a_damaged_one() {
        let mut bytes = SegmentHeader { epoch: 1 }.encode();
        bytes[8] = 9;
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Damaged));
        let crc = SegmentHeader::checksum(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Newer { version: 9 }));
    }

    #[test]
    fn batch_header_is_bound_to_its_epoch() {
        let header = BatchHeader { sequence: 9, body_bytes: 100, body_crc: 5, record_count: 2 };
        let bytes = header.encode(3);
        assert_eq!(BatchHeader::decode(&bytes, 3), Some(header));
        assert_eq!(BatchHeader::decode(&bytes, 4), None);
        assert_eq!(header.extent_bytes(), 512);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(BatchHeader::decode(&flipped, 3), None, "bit {bit}");
        }
    }

    /// The bytes of version 1, frozen: a change of them is a change of the format. The checksums were computed by another
    /// program.
    #[test]
    fn headers_of_version_1_stay_as_they_are() {
        let segment = SegmentHeader { epoch: 0x0102 }.encode();
        assert_eq!(segment[..24], *b"QUORLOG\n\x01\0\0\0\x33\x26\x2b\x98\x02\x01\0\0\0\0\0\0");
        let body_crc = body_checksum(0x0102, 0x0103, b"body");
        let batch = BatchHeader { sequence: 0x0103, body_bytes: 4, body_crc, record_count: 1 }.encode(0x0102);
        assert_eq!(
            batch,
            *b"QBAT\x25\xb3\xa0\x68\x03\x01\x00\x00\x00\x00\x00\x00\
              \x04\x00\x00\x00\xa5\xfc\xc2\xc1\x01\x00\x00\x00\x00\x00\x00\x00"
        );
    }
}
