//! What replicas say to each other, and its encoded form.
//!
//! Any message may be lost, come twice, or come late: what it says is true of the moment when it was sent, and nobody relies on
//! hearing it.

use bytes::{BufMut, Bytes, BytesMut};

use crate::digest::{Digest, FAN_OUT, Node};
use crate::entry::Entry;
use crate::version::{Hlc, InstanceId, Version};
use quorate_engine::codec::{DecodeError, Reader, Writer};

/// The first byte of each message.
const MESSAGE_VERSION: u8 = 1;

/// A key with what there is for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The key.
    pub key: Bytes,
    /// What there is.
    pub entry: Entry,
}

impl Pair {
    /// Bytes of the key and of what is there, without overhead.
    pub(crate) fn size_bytes(&self) -> u64 {
        (self.key.len() + self.entry.body.size_bytes()) as u64
    }
}

/// A message from one replica of a keyspace to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who sends it.
    pub from: InstanceId,
    /// Who it is for: an instance that is gone gets nothing that was meant for it.
    pub to: InstanceId,
    /// The sender's epoch: which members it knows.
    pub epoch: u64,
    /// The sender's clock. Whoever hears of it stamps higher from then on.
    pub clock: Hlc,
    /// The sender's wall clock, in milliseconds since 1970.
    pub wall_ms: u64,
    /// What it says.
    pub payload: Payload,
}

/// What a [`Message`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Own writes of the sender, of places `first` to `last` of its stream. A stream begins after `base`.
    Push {
        /// Greater than those of all earlier streams of the sender.
        stream: u64,
        /// The place before the first of the stream.
        base: u64,
        /// The first place.
        first: u64,
        /// The last place.
        last: u64,
        /// What was written there.
        pairs: Vec<Pair>,
    },
    /// All places of a stream up to this one are applied, durably where the keyspace is durable.
    PushAck {
        /// The stream.
        stream: u64,
        /// The place.
        applied: u64,
    },
    /// For each member, the sender itself among them, the stamp up to which it has all own writes of the sender; and that the
    /// sender stamps higher from now on.
    Report {
        /// By member.
        rows: Vec<(InstanceId, Hlc)>,
        /// The sender reports again within so many milliseconds.
        interval_ms: u64,
        /// The sender has not heard of the receiver lately, and wants a report back.
        wants_answer: bool,
    },
    /// Which of these parts differ at the receiver? One of a round's requests; each gets an answer of the same number.
    Ask {
        /// The asker's round.
        round: u64,
        /// The request.
        number: u64,
        /// Parts, and what the asker has there.
        nodes: Vec<(Node, Digest)>,
    },
    /// The parts that differ, out of the first so many that were asked about.
    Tell {
        /// The asker's round.
        round: u64,
        /// The request.
        number: u64,
        /// How many of the parts were looked at.
        looked_at: u32,
        /// Those that differ.
        parts: Vec<Part>,
    },
    /// Which entries have keys with these hashes?
    Want {
        /// The asker's round.
        round: u64,
        /// The request.
        number: u64,
        /// The hashes.
        hashes: Vec<u64>,
    },
    /// The entries of the first so many hashes that were asked for.
    Give {
        /// The asker's round.
        round: u64,
        /// The request.
        number: u64,
        /// How many of the hashes were looked up.
        looked_at: u32,
        /// What there is.
        pairs: Vec<Pair>,
    },
    /// Entries that the receiver lacks, or shall have in any case.
    Put {
        /// The sender's round.
        round: u64,
        /// The request.
        number: u64,
        /// The entries.
        pairs: Vec<Pair>,
    },
    /// They are merged, durably where the keyspace is durable.
    PutDone {
        /// The sender's round.
        round: u64,
        /// The request.
        number: u64,
    },
    /// A piece of a copy that is to take the place of what the receiver has; a [`Payload::PutDone`] confirms it.
    Mirror {
        /// The sender's round.
        round: u64,
        /// The piece.
        number: u64,
        /// What is in it.
        pairs: Vec<Pair>,
    },
    /// All pieces were sent: the copy is to take its place now.
    MirrorEnd {
        /// The sender's round.
        round: u64,
        /// The request.
        number: u64,
        /// The copy's stamp: what the receiver has at or below it, and not in the copy, goes.
        at: Hlc,
        /// How many pieces there are.
        pieces: u64,
        /// The sum of what is in them.
        digest: Digest,
    },
    /// Whether it did: if not, it was not whole.
    MirrorDone {
        /// The sender's round.
        round: u64,
        /// The request.
        number: u64,
        /// Whether it did, durably where the keyspace is durable.
        is_taken: bool,
        /// Whether there is something above its stamp that somebody else wrote: another copy is to come.
        has_newer: bool,
    },
    /// Which version is there for a key?
    VersionAsk {
        /// The asker's read.
        read: u64,
        /// The key.
        key: Bytes,
    },
    /// This one.
    VersionTell {
        /// The asker's read.
        read: u64,
        /// What there is.
        known: Known,
    },
    /// What is there for a key?
    EntryAsk {
        /// The asker's read.
        read: u64,
        /// The key.
        key: Bytes,
    },
    /// This.
    EntryTell {
        /// The asker's read.
        read: u64,
        /// What there is, if anything.
        entry: Option<Entry>,
    },
    /// What a reader found to be newer than what the receiver told it.
    Repair {
        /// The entries.
        pairs: Vec<Pair>,
    },
}

/// What a replica knows of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It has not all that it should have, and cannot tell.
    Nothing,
    /// The key is not there.
    Absent,
    /// It has this version.
    Version(Version),
}

/// A part of a replica that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a message has many children and few leaves, or leaves only")]
pub enum Part {
    /// The sums of its children.
    Children(Node, [Digest; FAN_OUT]),
    /// A leaf: the hash of each key, and its version.
    Leaf(u32, Vec<(u64, Version)>),
}

const PUSH: u8 = 1;
const PUSH_ACK: u8 = 2;
const REPORT: u8 = 3;
const ASK: u8 = 4;
const TELL: u8 = 5;
const WANT: u8 = 6;
const GIVE: u8 = 7;
const PUT: u8 = 8;
const PUT_DONE: u8 = 9;
const VERSION_ASK: u8 = 10;
const VERSION_TELL: u8 = 11;
const ENTRY_ASK: u8 = 12;
const ENTRY_TELL: u8 = 13;
const REPAIR: u8 = 14;
const MIRROR: u8 = 15;
const MIRROR_END: u8 = 16;
const MIRROR_DONE: u8 = 17;

const NOTHING: u8 = 0;
const ABSENT: u8 = 1;
const KNOWN: u8 = 2;

const CHILDREN: u8 = 0;
const LEAF: u8 = 1;

impl Message {
    /// The encoded form: format version, instances and epoch as varints, clock and wall clock, the payload's tag, and its
    /// fields in their order. Counts and places are varints; lists and byte strings begin with their length; stamps, hashes and
    /// sums are big endian.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(MESSAGE_VERSION);
        out.put_varint(u64::from(self.from.0));
        out.put_varint(u64::from(self.to.0));
        out.put_varint(self.epoch);
        out.put_u64(self.clock.0);
        out.put_varint(self.wall_ms);
        self.payload.encode(&mut out);
        out.freeze()
    }

    /// Decodes what [`Message::to_bytes`] made.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let format = reader.u8()?;
        if format != MESSAGE_VERSION {
            return Err(DecodeError::UnknownTag { what: "message format", tag: format });
        }
        let message = Self {
            from: InstanceId(reader.varint_u32()?),
            to: InstanceId(reader.varint_u32()?),
            epoch: reader.varint()?,
            clock: Hlc(reader.u64_be()?),
            wall_ms: reader.varint()?,
            payload: Payload::read(&mut reader)?,
        };
        reader.finish()?;
        Ok(message)
    }
}

impl Payload {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Push { stream, base, first, last, pairs } => {
                put_numbers(PUSH, &[*stream, *base, *first, *last], out);
                encode_pairs(pairs, out);
            }
            Self::PushAck { stream, applied } => put_numbers(PUSH_ACK, &[*stream, *applied], out),
            Self::Report { rows, interval_ms, wants_answer } => encode_report(rows, *interval_ms, *wants_answer, out),
            Self::Ask { round, number, nodes } => {
                put_numbers(ASK, &[*round, *number, nodes.len() as u64], out);
                for (node, digest) in nodes {
                    encode_node(*node, out);
                    out.put_u128(digest.0);
                }
            }
            Self::Tell { round, number, looked_at, parts } => {
                put_numbers(TELL, &[*round, *number, u64::from(*looked_at), parts.len() as u64], out);
                parts.iter().for_each(|part| part.encode(out));
            }
            Self::Want { round, number, hashes } => {
                put_numbers(WANT, &[*round, *number, hashes.len() as u64], out);
                hashes.iter().for_each(|hash| out.put_u64(*hash));
            }
            Self::Give { round, number, looked_at, pairs } => {
                put_numbers(GIVE, &[*round, *number, u64::from(*looked_at)], out);
                encode_pairs(pairs, out);
            }
            Self::Put { round, number, pairs } => {
                put_numbers(PUT, &[*round, *number], out);
                encode_pairs(pairs, out);
            }
            Self::PutDone { round, number } => put_numbers(PUT_DONE, &[*round, *number], out),
            Self::Mirror { round, number, pairs } => {
                put_numbers(MIRROR, &[*round, *number], out);
                encode_pairs(pairs, out);
            }
            Self::MirrorEnd { round, number, at, pieces, digest } => {
                put_numbers(MIRROR_END, &[*round, *number, *pieces], out);
                out.put_u64(at.0);
                out.put_u128(digest.0);
            }
            Self::MirrorDone { round, number, is_taken, has_newer } => {
                put_numbers(MIRROR_DONE, &[*round, *number], out);
                out.put_u8(u8::from(*is_taken));
                out.put_u8(u8::from(*has_newer));
            }
            Self::VersionAsk { read, key } => {
                put_numbers(VERSION_ASK, &[*read], out);
                out.put_bytes_with_len(key);
            }
            Self::VersionTell { read, known } => {
                put_numbers(VERSION_TELL, &[*read], out);
                encode_known(*known, out);
            }
            Self::EntryAsk { read, key } => {
                put_numbers(ENTRY_ASK, &[*read], out);
                out.put_bytes_with_len(key);
            }
            Self::EntryTell { read, entry } => {
                put_numbers(ENTRY_TELL, &[*read], out);
                out.put_optional_bytes(entry.as_ref().map(Entry::to_bytes).as_deref());
            }
            Self::Repair { pairs } => {
                out.put_u8(REPAIR);
                encode_pairs(pairs, out);
            }
        }
    }

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match reader.u8()? {
            PUSH => Self::Push {
                stream: reader.varint()?,
                base: reader.varint()?,
                first: reader.varint()?,
                last: reader.varint()?,
                pairs: read_pairs(reader)?,
            },
            PUSH_ACK => Self::PushAck { stream: reader.varint()?, applied: reader.varint()? },
            REPORT => Self::Report {
                rows: reader.list(|reader| Ok((InstanceId(reader.varint_u32()?), Hlc(reader.u64_be()?))))?,
                interval_ms: reader.varint()?,
                wants_answer: read_flag(reader)?,
            },
            ASK => Self::Ask {
                round: reader.varint()?,
                number: reader.varint()?,
                nodes: reader.list(|reader| Ok((read_node(reader)?, Digest(reader.u128_be()?))))?,
            },
            TELL => Self::Tell {
                round: reader.varint()?,
                number: reader.varint()?,
                looked_at: reader.varint_u32()?,
                parts: reader.list(Part::read)?,
            },
            WANT => Self::Want { round: reader.varint()?, number: reader.varint()?, hashes: reader.list(Reader::u64_be)? },
            GIVE => Self::Give {
                round: reader.varint()?,
                number: reader.varint()?,
                looked_at: reader.varint_u32()?,
                pairs: read_pairs(reader)?,
            },
            PUT => Self::Put { round: reader.varint()?, number: reader.varint()?, pairs: read_pairs(reader)? },
            PUT_DONE => Self::PutDone { round: reader.varint()?, number: reader.varint()? },
            MIRROR => Self::Mirror { round: reader.varint()?, number: reader.varint()?, pairs: read_pairs(reader)? },
            MIRROR_END => {
                let (round, number, pieces) = (reader.varint()?, reader.varint()?, reader.varint()?);
                Self::MirrorEnd { round, number, at: Hlc(reader.u64_be()?), pieces, digest: Digest(reader.u128_be()?) }
            }
            MIRROR_DONE => Self::MirrorDone {
                round: reader.varint()?,
                number: reader.varint()?,
                is_taken: read_flag(reader)?,
                has_newer: read_flag(reader)?,
            },
            VERSION_ASK => Self::VersionAsk { read: reader.varint()?, key: reader.bytes()? },
            VERSION_TELL => Self::VersionTell { read: reader.varint()?, known: read_known(reader)? },
            ENTRY_ASK => Self::EntryAsk { read: reader.varint()?, key: reader.bytes()? },
            ENTRY_TELL => {
                Self::EntryTell { read: reader.varint()?, entry: reader.optional_bytes()?.map(Entry::decode).transpose()? }
            }
            REPAIR => Self::Repair { pairs: read_pairs(reader)? },
            tag => return Err(DecodeError::UnknownTag { what: "payload", tag }),
        })
    }
}

impl Part {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Children(node, digests) => {
                out.put_u8(CHILDREN);
                encode_node(*node, out);
                digests.iter().for_each(|digest| out.put_u128(digest.0));
            }
            Self::Leaf(leaf, pairs) => {
                put_numbers(LEAF, &[u64::from(*leaf), pairs.len() as u64], out);
                for (hash, version) in pairs {
                    out.put_u64(*hash);
                    version.encode(out);
                }
            }
        }
    }

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        match reader.u8()? {
            CHILDREN => {
                let node = read_node(reader)?;
                let mut digests = [Digest::default(); FAN_OUT];
                for digest in &mut digests {
                    *digest = Digest(reader.u128_be()?);
                }
                Ok(Self::Children(node, digests))
            }
            LEAF => {
                let leaf = reader.varint_u32()?;
                Ok(Self::Leaf(leaf, reader.list(|reader| Ok((reader.u64_be()?, Version::read(reader)?)))?))
            }
            tag => Err(DecodeError::UnknownTag { what: "part", tag }),
        }
    }
}

fn put_numbers(tag: u8, numbers: &[u64], out: &mut BytesMut) {
    out.put_u8(tag);
    numbers.iter().for_each(|number| out.put_varint(*number));
}

fn encode_report(rows: &[(InstanceId, Hlc)], interval_ms: u64, wants_answer: bool, out: &mut BytesMut) {
    put_numbers(REPORT, &[rows.len() as u64], out);
    for (instance, hlc) in rows {
        out.put_varint(u64::from(instance.0));
        out.put_u64(hlc.0);
    }
    out.put_varint(interval_ms);
    out.put_u8(u8::from(wants_answer));
}

fn encode_known(known: Known, out: &mut BytesMut) {
    match known {
        Known::Nothing => out.put_u8(NOTHING),
        Known::Absent => out.put_u8(ABSENT),
        Known::Version(version) => {
            out.put_u8(KNOWN);
            version.encode(out);
        }
    }
}

fn encode_node(node: Node, out: &mut BytesMut) {
    out.put_u8(node.level);
    out.put_varint(u64::from(node.index));
}

fn read_node(reader: &mut Reader) -> Result<Node, DecodeError> {
    Ok(Node { level: reader.u8()?, index: reader.varint_u32()? })
}

/// Reads a byte that is 0 or 1.
pub(crate) fn read_flag(reader: &mut Reader) -> Result<bool, DecodeError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        tag => Err(DecodeError::UnknownTag { what: "flag", tag }),
    }
}

fn read_known(reader: &mut Reader) -> Result<Known, DecodeError> {
    match reader.u8()? {
        NOTHING => Ok(Known::Nothing),
        ABSENT => Ok(Known::Absent),
        KNOWN => Version::read(reader).map(Known::Version),
        tag => Err(DecodeError::UnknownTag { what: "knowledge", tag }),
    }
}

/// Appends pairs: how many, then key and entry of each. The same in messages and in the log.
pub(crate) fn encode_pairs(pairs: &[Pair], out: &mut BytesMut) {
    out.put_varint(pairs.len() as u64);
    let bytes = |pair: &Pair| pair.key.len() + pair.entry.encoded_bytes() + 10;
    out.reserve(10 + pairs.iter().map(bytes).sum::<usize>());
    for Pair { key, entry } in pairs {
        out.put_bytes_with_len(key);
        out.put_varint(entry.encoded_bytes() as u64);
        entry.encode(out);
    }
}

/// Reads what [`encode_pairs`] wrote.
pub(crate) fn read_pairs(reader: &mut Reader) -> Result<Vec<Pair>, DecodeError> {
    reader.list(|reader| Ok(Pair { key: reader.bytes()?, entry: Entry::decode(reader.bytes()?)? }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::tests::entry;

    fn version() -> impl Strategy<Value = Version> {
        any::<[u8; 12]>().prop_map(Version::from_bytes)
    }

    fn key() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
    }

    fn pairs() -> impl Strategy<Value = Vec<Pair>> {
        prop::collection::vec((key(), entry()).prop_map(|(key, entry)| Pair { key, entry }), 0..4)
    }

    fn node() -> impl Strategy<Value = Node> {
        (any::<u8>(), any::<u32>()).prop_map(|(level, index)| Node { level, index })
    }

    fn part() -> impl Strategy<Value = Part> {
        prop_oneof![
            (node(), any::<[u128; FAN_OUT]>()).prop_map(|(node, sums)| Part::Children(node, sums.map(Digest))),
            (any::<u32>(), prop::collection::vec((any::<u64>(), version()), 0..4))
                .prop_map(|(leaf, pairs)| Part::Leaf(leaf, pairs)),
        ]
    }

    fn known() -> impl Strategy<Value = Known> {
        prop_oneof![Just(Known::Nothing), Just(Known::Absent), version().prop_map(Known::Version)]
    }

    fn payload() -> impl Strategy<Value = Payload> {
        let n = any::<u64>;
        prop_oneof![
            (n(), n(), n(), n(), pairs()).prop_map(|(stream, base, first, last, pairs)| Payload::Push {
                stream,
                base,
                first,
                last,
                pairs
            }),
            (n(), n()).prop_map(|(stream, applied)| Payload::PushAck { stream, applied }),
            (n(), n(), pairs()).prop_map(|(round, number, pairs)| Payload::Mirror { round, number, pairs }),
            (n(), n(), n(), n(), any::<u128>()).prop_map(|(round, number, at, pieces, digest)| Payload::MirrorEnd {
                round,
                number,
                at: Hlc(at),
                pieces,
                digest: Digest(digest)
            }),
            (n(), n(), any::<bool>(), any::<bool>()).prop_map(|(round, number, is_taken, has_newer)| Payload::MirrorDone {
                round,
                number,
                is_taken,
                has_newer
            }),
            (prop::collection::vec((any::<u32>().prop_map(InstanceId), n().prop_map(Hlc)), 0..5), n(), any::<bool>())
                .prop_map(|(rows, interval_ms, wants_answer)| Payload::Report { rows, interval_ms, wants_answer }),
            (n(), n(), prop::collection::vec((node(), any::<u128>().prop_map(Digest)), 0..4))
                .prop_map(|(round, number, nodes)| Payload::Ask { round, number, nodes }),
            (n(), n(), any::<u32>(), prop::collection::vec(part(), 0..3))
                .prop_map(|(round, number, looked_at, parts)| Payload::Tell { round, number, looked_at, parts }),
            (n(), n(), prop::collection::vec(n(), 0..4)).prop_map(|(round, number, hashes)| Payload::Want {
                round,
                number,
                hashes
            }),
            (n(), n(), any::<u32>(), pairs()).prop_map(|(round, number, looked_at, pairs)| Payload::Give {
                round,
                number,
                looked_at,
                pairs
            }),
            (n(), n(), pairs()).prop_map(|(round, number, pairs)| Payload::Put { round, number, pairs }),
            (n(), n()).prop_map(|(round, number)| Payload::PutDone { round, number }),
            (n(), key()).prop_map(|(read, key)| Payload::VersionAsk { read, key }),
            (n(), known()).prop_map(|(read, known)| Payload::VersionTell { read, known }),
            (n(), key()).prop_map(|(read, key)| Payload::EntryAsk { read, key }),
            (n(), prop::option::of(entry())).prop_map(|(read, entry)| Payload::EntryTell { read, entry }),
            pairs().prop_map(|pairs| Payload::Repair { pairs }),
        ]
    }

    fn message() -> impl Strategy<Value = Message> {
        (any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>(), payload()).prop_map(
            |(from, to, epoch, clock, wall_ms, payload)| Message {
                from: InstanceId(from),
                to: InstanceId(to),
                epoch,
                clock: Hlc(clock),
                wall_ms,
                payload,
            },
        )
    }

    proptest! {
        #[test]
        fn messages_round_trip(message in message()) {
            prop_assert_eq!(Message::decode(message.to_bytes()), Ok(message));
        }

        #[test]
        fn a_message_that_is_cut_or_longer_is_refused(message in message(), at in any::<prop::sample::Index>()) {
            let bytes = message.to_bytes();
            prop_assert!(Message::decode(bytes.slice(..at.index(bytes.len()))).is_err());
            prop_assert_eq!(Message::decode([&bytes[..], b"x"].concat().into()), Err(DecodeError::Trailing(1)));
        }

        #[test]
        fn damaged_bytes_never_panic(message in message(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let mut bytes = message.to_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= with;
            // What it is taken for then, is the checksum's business.
            let _ = Message::decode(bytes.into());
        }
    }

    /// Written out, so that peers of an older version stay understood.
    #[test]
    fn messages_are_as_they_were() {
        let message =
            |payload| Message { from: InstanceId(1), to: InstanceId(300), epoch: 2, clock: Hlc(0x0304), wall_ms: 5, payload };
        let head = &b"\x01\x01\xac\x02\x02\0\0\0\0\0\0\x03\x04\x05"[..];
        let cases = [
            (Payload::PushAck { stream: 6, applied: 7 }, &b"\x02\x06\x07"[..]),
            (
                Payload::Report { rows: vec![(InstanceId(8), Hlc(9))], interval_ms: 300, wants_answer: true },
                b"\x03\x01\x08\0\0\0\0\0\0\0\x09\xac\x02\x01",
            ),
            (Payload::Want { round: 1, number: 2, hashes: vec![3] }, b"\x06\x01\x02\x01\0\0\0\0\0\0\0\x03"),
            (Payload::PutDone { round: 1, number: 2 }, b"\x09\x01\x02"),
            (Payload::Mirror { round: 1, number: 2, pairs: Vec::new() }, b"\x0f\x01\x02\0"),
            (
                Payload::MirrorEnd { round: 1, number: 2, at: Hlc(3), pieces: 4, digest: Digest(5) },
                b"\x10\x01\x02\x04\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x05",
            ),
            (Payload::MirrorDone { round: 1, number: 2, is_taken: true, has_newer: false }, b"\x11\x01\x02\x01\0"),
            (Payload::VersionAsk { read: 1, key: Bytes::from_static(b"k") }, b"\x0a\x01\x01k"),
            (Payload::VersionTell { read: 1, known: Known::Absent }, b"\x0b\x01\x01"),
            (Payload::EntryTell { read: 1, entry: None }, b"\x0d\x01\0"),
        ];
        for (payload, bytes) in cases {
            let message = message(payload);
            assert_eq!(message.to_bytes(), [head, bytes].concat());
            assert_eq!(Message::decode(message.to_bytes()), Ok(message));
        }
    }
}
