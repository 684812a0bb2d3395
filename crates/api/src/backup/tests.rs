use proptest::prelude::*;

use super::*;
use crate::problem::Code;

fn pair(number: u8) -> BackupPair {
    let bytes = |text: &str| Bytes::from(format!("{text}{number}"));
    BackupPair {
        key: bytes("k"),
        value: vec![number; usize::from(number)].into(),
        content_type: (number.is_multiple_of(2)).then(|| bytes("text/")),
        ttl_ms: (number.is_multiple_of(3)).then_some(u64::from(number) * 1000),
        lease: (number.is_multiple_of(5)).then_some(u64::from(number)),
        meta: (0..number % 4).map(|at| (bytes("name"), Bytes::from(vec![at]))).collect(),
    }
}

fn head(name: &str) -> KeyspaceHead {
    KeyspaceHead { name: name.to_owned(), settings: SettingsBody::default(), revision: 7 }
}

/// A small backup of two keyspaces, with where its blocks begin.
fn sample() -> (Vec<u8>, Vec<usize>) {
    let keyspaces = vec!["a".to_owned(), "b".to_owned()];
    let (mut writer, begin) = BackupWriter::begin(&BackupHead { cluster: "c".to_owned(), keyspaces, ..BackupHead::default() });
    let mut pieces = vec![begin];
    for (name, numbers) in [("a", 0..20), ("b", 0..0)] {
        pieces.push(writer.keyspace(&head(name)));
        pieces.push(writer.leases(&[BackupLease { id: 5, ttl_ms: 1000 }, BackupLease { id: 6, ttl_ms: 2000 }]));
        pieces.extend(numbers.filter_map(|number| writer.pair(&pair(number))));
        pieces.push(writer.end_keyspace());
    }
    pieces.push(writer.end());
    let bytes = pieces.concat();
    let (mut at, mut blocks) = (FILE_HEAD_BYTES, vec![0, FILE_HEAD_BYTES]);
    while at < bytes.len() {
        at += BLOCK_HEAD_BYTES + u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        blocks.push(at);
    }
    (bytes, blocks)
}

/// Reads it in pieces of this size.
fn read(bytes: &[u8], piece_bytes: usize) -> Result<Vec<Part>, BackupError> {
    let mut reader = BackupReader::default();
    let mut parts = Vec::new();
    for piece in bytes.chunks(piece_bytes) {
        reader.push(piece);
        while let Some(part) = reader.next_part()? {
            parts.push(part);
        }
    }
    reader.finish().map(|()| parts)
}

#[test]
fn what_is_written_is_read_in_pieces_of_any_size() {
    let (bytes, _) = sample();
    let leases = || Part::Leases(vec![BackupLease { id: 5, ttl_ms: 1000 }, BackupLease { id: 6, ttl_ms: 2000 }]);
    let pairs: Vec<BackupPair> = (0..20).map(pair).collect();
    let pair_bytes = pairs.iter().map(|pair| (pair.key.len() + pair.value.len()) as u64).sum();
    let keyspaces = vec!["a".to_owned(), "b".to_owned()];
    let expected = [
        Part::Head(BackupHead { cluster: "c".to_owned(), keyspaces, ..BackupHead::default() }),
        Part::Keyspace(Box::new(head("a"))),
        leases(),
        Part::Pairs(pairs),
        Part::KeyspaceEnd(KeyspaceEnd { pairs: 20, bytes: pair_bytes, leases: 2 }),
        Part::Keyspace(Box::new(head("b"))),
        leases(),
        Part::KeyspaceEnd(KeyspaceEnd { pairs: 0, bytes: 0, leases: 2 }),
        Part::End,
    ];
    for piece_bytes in [1, 7, 100, 1 << 20] {
        assert_eq!(read(&bytes, piece_bytes).as_deref(), Ok(&expected[..]));
    }
}

#[test]
fn a_cut_file_is_refused_and_says_where_it_ends() {
    let (bytes, blocks) = sample();
    for cut in 0..bytes.len() {
        let error = read(&bytes[..cut], 1 << 20).unwrap_err();
        assert_eq!((error.kind.clone(), error.offset), (BackupErrorKind::Cut, cut as u64), "{error}");
        let is_in_a = cut >= blocks[3] && cut < blocks[6];
        assert_eq!(error.keyspace.as_deref() == Some("a"), is_in_a, "{cut}: {error}");
    }
    assert_eq!(read(&[&bytes[..], b"x"].concat(), 1 << 20).unwrap_err().kind, BackupErrorKind::Trailing);
}

#[test]
fn a_flipped_bit_is_found_in_its_block() {
    let (bytes, blocks) = sample();
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        let error = read(&bytes, 1 << 20).unwrap_err();
        let block = blocks.iter().rev().find(|block| **block <= at).copied().unwrap();
        // A length that is too great makes the file look cut.
        let is_named = error.offset == block as u64 || error.kind == BackupErrorKind::Cut;
        assert!(is_named, "{at}: {error}");
    }
}

#[test]
fn blocks_that_are_left_out_repeated_or_swapped_are_found() {
    let (bytes, blocks) = sample();
    let block = |at: usize| &bytes[blocks[at]..blocks[at + 1]];
    let count = blocks.len() - 1;
    for left_out in 1..count {
        let rest: Vec<u8> = (0..count).filter(|at| *at != left_out).flat_map(|at| block(at).to_vec()).collect();
        assert!(read(&rest, 1 << 20).is_err(), "without block {left_out}");
        let twice: Vec<u8> = (0..count).flat_map(|at| block(at).repeat(if at == left_out { 2 } else { 1 })).collect();
        assert!(read(&twice, 1 << 20).is_err(), "with block {left_out} twice");
    }
}

#[test]
fn what_is_no_backup_is_told_at_once() {
    assert_eq!(read(b"PK\x03\x04", 1).unwrap_err().kind, BackupErrorKind::NotABackup);
    assert_eq!(read(b"QRBK\x02\0\0\0", 8).unwrap_err().kind, BackupErrorKind::UnknownVersion(2));
    let (mut writer, begin) = BackupWriter::begin(&BackupHead::default());
    let keyspace = writer.keyspace(&head("a"));
    let failed = writer.fail(&Problem::new(Code::Internal, "the disk is gone"));
    let error = read(&[begin, keyspace, failed].concat(), 9).unwrap_err();
    assert_eq!(error.kind, BackupErrorKind::Failed("Internal error: the disk is gone".to_owned()));
    assert_eq!(error.keyspace.as_deref(), Some("a"));
}

proptest! {
    #[test]
    fn any_bytes_end_without_panic(noise: Vec<u8>) {
        let (mut bytes, _) = sample();
        bytes.truncate(FILE_HEAD_BYTES);
        bytes.extend(noise);
        let _ = read(&bytes, 5);
    }
}
