//! Backup files: how they are written, and how they are read back. No I/O: bytes come out, bytes go in.
//!
//! ```text
//! file  := magic "QRBK" | version u16 | zero u16 | block*
//! block := tag u8 | zero u8 u8 u8 | length u32 | crc u32 | body, of that length
//! ```
//!
//! Integers are little-endian. The CRC32C is over tag, length and body. In this order:
//!
//! | tag | body | |
//! |---|---|---|
//! | 1 head | JSON: [`BackupHead`] | once, first |
//! | 2 keyspace | JSON: [`KeyspaceHead`] | begins a keyspace |
//! | 3 leases | (id u64, time to live u64)* | any number of times, before the pairs |
//! | 4 pairs | pair* | any number of times |
//! | 5 end of keyspace | JSON: [`KeyspaceEnd`] | ends it |
//! | 6 end | keyspaces u32, digest 16 bytes | once, last; nothing follows |
//! | 7 failure | JSON: a problem | instead of the rest: the node could not go on |
//!
//! ```text
//! pair := flags u8 | key | value | [media type] | [ttl u64] | [lease u64] | [count u16 | (name | text)*]
//! ```
//!
//! Flags say what there is: 1 media type, 2 milliseconds left to live, 4 lease, 8 metadata. Byte strings have a length u32 before
//! them. The digest is SipHash-1-3 with 128 bits and a key of zeros over all bytes before it, from the magic on. It tells damage
//! and what was put together wrongly; it is no proof of who wrote a file.

use std::hash::Hasher as _;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::keyspace::SettingsBody;
use crate::problem::Problem;

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.quorate.backup";

/// Blocks of pairs end once they are this long.
pub const BLOCK_BYTES: usize = 256 << 10;

/// The longest block: the largest value that a node can be set to accept, with what goes with it and what was before it.
pub const MAX_BLOCK_BYTES: usize = 16 << 20;

const MAGIC: &[u8; 4] = b"QRBK";
const VERSION: u16 = 1;
const FILE_HEAD_BYTES: usize = 8;
const BLOCK_HEAD_BYTES: usize = 12;

const TAG_HEAD: u8 = 1;
const TAG_KEYSPACE: u8 = 2;
const TAG_LEASES: u8 = 3;
const TAG_PAIRS: u8 = 4;
const TAG_KEYSPACE_END: u8 = 5;
const TAG_END: u8 = 6;
const TAG_FAILURE: u8 = 7;

const HAS_CONTENT_TYPE: u8 = 1;
const HAS_TTL: u8 = 2;
const HAS_LEASE: u8 = 4;
const HAS_META: u8 = 8;

/// What is said of a backup as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupHead {
    /// The cluster that it is of.
    pub cluster: String,
    /// The node that wrote it.
    pub node: String,
    /// The program's version there.
    pub version: String,
    /// The keyspaces that are to come.
    pub keyspaces: Vec<String>,
}

/// What is said of a keyspace before its pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyspaceHead {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: SettingsBody,
    /// The revision that all of its pairs are of.
    pub revision: u64,
}

/// What is said of a keyspace behind its pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyspaceEnd {
    /// How many pairs there were.
    pub pairs: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// How many leases there were.
    pub leases: u64,
}

/// A lease: it begins anew where it is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupLease {
    /// Its id.
    pub id: u64,
    /// How long it lives without being kept alive, in milliseconds.
    pub ttl_ms: u64,
}

/// A pair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupPair {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The media type it was stored with.
    pub content_type: Option<Bytes>,
    /// How long it had still to live, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// The lease that it hangs on.
    pub lease: Option<u64>,
    /// What was noted beside it.
    pub meta: Vec<(Bytes, Bytes)>,
}

/// `PUT /v1/snapshot`: what was restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RestoredKeyspace {
    /// Its name.
    pub name: String,
    /// How many pairs it has.
    pub pairs: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// What a backup holds next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The beginning.
    Head(BackupHead),
    /// A keyspace begins.
    Keyspace(Box<KeyspaceHead>),
    /// Leases of it.
    Leases(Vec<BackupLease>),
    /// Pairs of it.
    Pairs(Vec<BackupPair>),
    /// It ends.
    KeyspaceEnd(KeyspaceEnd),
    /// Everything ends.
    End,
}

/// Why bytes are no backup, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at byte {offset}{}", keyspace.as_ref().map_or(String::new(), |name| format!(", in keyspace {name}")))]
pub struct BackupError {
    /// The byte, from 0, at which the block begins that is not as it should be, or the file ends.
    pub offset: u64,
    /// The keyspace that it is in.
    pub keyspace: Option<String>,
    /// What is the matter.
    pub kind: BackupErrorKind,
}

/// What is the matter with a backup.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupErrorKind {
    /// It does not begin like one.
    #[error("this is no backup: it begins with other bytes")]
    NotABackup,
    /// It was written by a newer version of the program.
    #[error("the backup has format version {0}, which this version does not know")]
    UnknownVersion(u16),
    /// It ends before its end.
    #[error("the backup is cut: it ends")]
    Cut,
    /// It goes on after its end.
    #[error("the backup goes on after its end")]
    Trailing,
    /// A block's checksum does not fit it.
    #[error("the backup is damaged: the checksum of a block is wrong")]
    BadChecksum,
    /// The digest does not fit the whole.
    #[error("the backup is damaged: its digest is wrong, though every block is whole")]
    BadDigest,
    /// A block cannot be read, or stands where it cannot.
    #[error("the backup is damaged: {0}")]
    Malformed(String),
    /// The node that wrote it could not go on.
    #[error("the backup is not whole, the node that wrote it said: {0}")]
    Failed(String),
}

/// Writes a backup.
#[derive(Debug)]
pub struct BackupWriter {
    hasher: SipHasher13,
    pairs: BytesMut,
    told: KeyspaceEnd,
    keyspaces: u32,
}

impl BackupWriter {
    /// Begins one; the bytes to write first.
    pub fn begin(head: &BackupHead) -> (Self, Bytes) {
        let mut writer = Self { hasher: SipHasher13::new(), pairs: BytesMut::new(), told: KeyspaceEnd::default(), keyspaces: 0 };
        let mut out = BytesMut::new();
        out.put_slice(MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(0);
        writer.hasher.write(&out);
        writer.put_block(TAG_HEAD, &json(head), &mut out);
        (writer, out.freeze())
    }

    /// A keyspace begins.
    pub fn keyspace(&mut self, head: &KeyspaceHead) -> Bytes {
        self.told = KeyspaceEnd::default();
        self.keyspaces += 1;
        self.block(TAG_KEYSPACE, &json(head))
    }

    /// Leases of the keyspace.
    pub fn leases(&mut self, leases: &[BackupLease]) -> Bytes {
        let mut body = BytesMut::with_capacity(leases.len() * 16);
        for lease in leases {
            body.put_u64_le(lease.id);
            body.put_u64_le(lease.ttl_ms);
        }
        self.told.leases += leases.len() as u64;
        self.block(TAG_LEASES, &body)
    }

    /// One more pair; bytes to write if a block is full.
    pub fn pair(&mut self, pair: &BackupPair) -> Option<Bytes> {
        put_pair(pair, &mut self.pairs);
        self.told.pairs += 1;
        self.told.bytes += (pair.key.len() + pair.value.len()) as u64;
        (self.pairs.len() >= BLOCK_BYTES).then(|| self.take_pairs())
    }

    /// The keyspace ends.
    pub fn end_keyspace(&mut self) -> Bytes {
        let mut out = BytesMut::new();
        if !self.pairs.is_empty() {
            out.put_slice(&self.take_pairs());
        }
        let told = self.told;
        self.put_block(TAG_KEYSPACE_END, &json(&told), &mut out);
        out.freeze()
    }

    /// Everything ends.
    pub fn end(mut self) -> Bytes {
        let mut body = BytesMut::with_capacity(20);
        body.put_u32_le(self.keyspaces);
        body.put_slice(&self.hasher.finish128().as_bytes());
        self.block(TAG_END, &body)
    }

    /// It cannot go on.
    pub fn fail(mut self, problem: &Problem) -> Bytes {
        self.block(TAG_FAILURE, &json(problem))
    }

    fn take_pairs(&mut self) -> Bytes {
        let pairs = self.pairs.split();
        self.block(TAG_PAIRS, &pairs)
    }

    fn block(&mut self, tag: u8, body: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(BLOCK_HEAD_BYTES + body.len());
        self.put_block(tag, body, &mut out);
        out.freeze()
    }

    fn put_block(&mut self, tag: u8, body: &[u8], out: &mut BytesMut) {
        let start = out.len();
        out.put_u8(tag);
        out.put_slice(&[0; 3]);
        out.put_u32_le(body.len() as u32);
        out.put_u32_le(checksum(tag, body));
        out.put_slice(body);
        self.hasher.write(&out[start..]);
    }
}

/// Reads a backup, piece by piece.
#[derive(Debug)]
pub struct BackupReader {
    buffer: BytesMut,
    offset: u64,
    hasher: SipHasher13,
    state: State,
    told: KeyspaceEnd,
    keyspace: Option<String>,
    keyspaces: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Begin,
    Head,
    Between,
    InKeyspace,
    Ended,
}

impl Default for BackupReader {
    fn default() -> Self {
        Self {
            buffer: BytesMut::new(),
            offset: 0,
            hasher: SipHasher13::new(),
            state: State::Begin,
            told: KeyspaceEnd::default(),
            keyspace: None,
            keyspaces: 0,
        }
    }
}

impl BackupReader {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes were read so far, with what came of them.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next part; none if there have to come more bytes before. After an error there is nothing more.
    pub fn next_part(&mut self) -> Result<Option<Part>, BackupError> {
        if self.state == State::Begin && !self.begin()? {
            return Ok(None);
        }
        if self.state == State::Ended {
            return if self.buffer.is_empty() { Ok(None) } else { Err(self.error(BackupErrorKind::Trailing)) };
        }
        let Some(mut head) = self.buffer.get(..BLOCK_HEAD_BYTES) else {
            return Ok(None);
        };
        let tag = head.get_u8();
        let zeros = [head.get_u8(), head.get_u8(), head.get_u8()];
        let (length, crc) = (head.get_u32_le() as usize, head.get_u32_le());
        if length > MAX_BLOCK_BYTES || zeros != [0; 3] {
            return Err(self.error(BackupErrorKind::BadChecksum));
        }
        if self.buffer.len() < BLOCK_HEAD_BYTES + length {
            return Ok(None);
        }
        let body = &self.buffer[BLOCK_HEAD_BYTES..BLOCK_HEAD_BYTES + length];
        if checksum(tag, body) != crc {
            return Err(self.error(BackupErrorKind::BadChecksum));
        }
        let digest = self.hasher.finish128().as_bytes();
        let block = self.buffer.split_to(BLOCK_HEAD_BYTES + length).freeze();
        self.hasher.write(&block);
        let part = self.part(tag, &block.slice(BLOCK_HEAD_BYTES..), digest).map_err(|kind| self.error(kind))?;
        self.offset += block.len() as u64;
        if matches!(part, Part::KeyspaceEnd(_)) {
            self.keyspace = None;
        }
        Ok(Some(part))
    }

    /// There are no more bytes: whether that is the end.
    pub fn finish(&self) -> Result<(), BackupError> {
        if self.state == State::Ended && self.buffer.is_empty() {
            return Ok(());
        }
        let mut error = self.error(BackupErrorKind::Cut);
        error.offset += self.buffer.len() as u64;
        Err(error)
    }

    fn begin(&mut self) -> Result<bool, BackupError> {
        let Some(head) = self.buffer.get(..FILE_HEAD_BYTES) else {
            let known = self.buffer.len().min(MAGIC.len());
            return if self.buffer[..known] == MAGIC[..known] { Ok(false) } else { Err(self.error(BackupErrorKind::NotABackup)) };
        };
        if &head[..4] != MAGIC {
            return Err(self.error(BackupErrorKind::NotABackup));
        }
        let version = u16::from_le_bytes([head[4], head[5]]);
        if version != VERSION || head[6..] != [0; 2] {
            return Err(self.error(BackupErrorKind::UnknownVersion(version)));
        }
        let head = self.buffer.split_to(FILE_HEAD_BYTES);
        self.hasher.write(&head);
        self.offset = FILE_HEAD_BYTES as u64;
        self.state = State::Head;
        Ok(true)
    }

    fn part(&mut self, tag: u8, body: &Bytes, digest: [u8; 16]) -> Result<Part, BackupErrorKind> {
        let malformed = |what: &str| BackupErrorKind::Malformed(what.to_owned());
        let part = match (self.state, tag) {
            (State::Head, TAG_HEAD) => Part::Head(parse(body)?),
            (State::Between, TAG_KEYSPACE) => {
                let head: KeyspaceHead = parse(body)?;
                self.keyspace = Some(head.name.clone());
                self.told = KeyspaceEnd::default();
                self.keyspaces += 1;
                Part::Keyspace(Box::new(head))
            }
            (State::InKeyspace, TAG_LEASES) => {
                let leases = read_leases(body.clone()).ok_or_else(|| malformed("a block of leases cannot be read"))?;
                self.told.leases += leases.len() as u64;
                Part::Leases(leases)
            }
            (State::InKeyspace, TAG_PAIRS) => {
                let pairs = read_pairs(body.clone()).ok_or_else(|| malformed("a block of pairs cannot be read"))?;
                self.told.pairs += pairs.len() as u64;
                self.told.bytes += pairs.iter().map(|pair| (pair.key.len() + pair.value.len()) as u64).sum::<u64>();
                Part::Pairs(pairs)
            }
            (State::InKeyspace, TAG_KEYSPACE_END) => {
                let end: KeyspaceEnd = parse(body)?;
                if end != self.told {
                    return Err(malformed("a keyspace has not as many pairs as it says"));
                }
                Part::KeyspaceEnd(end)
            }
            (State::Between, TAG_END) => {
                let mut told = body.clone();
                if told.len() != 20 {
                    return Err(malformed("the last block is too short or too long"));
                }
                let keyspaces = told.get_u32_le();
                if keyspaces != self.keyspaces || told[..] != digest {
                    return Err(BackupErrorKind::BadDigest);
                }
                Part::End
            }
            (_, TAG_FAILURE) => {
                let problem: Problem = parse(body)?;
                return Err(BackupErrorKind::Failed(format!("{}: {}", problem.title, problem.detail)));
            }
            (_, tag) => return Err(malformed(&format!("a block with tag {tag} stands where it cannot"))),
        };
        self.state = match part {
            Part::Head(_) | Part::KeyspaceEnd(_) => State::Between,
            Part::Keyspace(_) | Part::Leases(_) | Part::Pairs(_) => State::InKeyspace,
            Part::End => State::Ended,
        };
        Ok(part)
    }

    fn error(&self, kind: BackupErrorKind) -> BackupError {
        BackupError { offset: self.offset, keyspace: self.keyspace.clone(), kind }
    }
}

fn checksum(tag: u8, body: &[u8]) -> u32 {
    let head = [&[tag][..], &(body.len() as u32).to_le_bytes()].concat();
    crc32c::crc32c_append(crc32c::crc32c(&head), body)
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("heads have string keys and no fallible parts")
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, BackupErrorKind> {
    serde_json::from_slice(body).map_err(|error| BackupErrorKind::Malformed(format!("a block cannot be read: {error}")))
}

fn put_pair(pair: &BackupPair, out: &mut BytesMut) {
    let flag = |flag: u8, is_set: bool| if is_set { flag } else { 0 };
    out.put_u8(
        flag(HAS_CONTENT_TYPE, pair.content_type.is_some())
            | flag(HAS_TTL, pair.ttl_ms.is_some())
            | flag(HAS_LEASE, pair.lease.is_some())
            | flag(HAS_META, !pair.meta.is_empty()),
    );
    put_bytes(&pair.key, out);
    put_bytes(&pair.value, out);
    pair.content_type.iter().for_each(|content_type| put_bytes(content_type, out));
    pair.ttl_ms.into_iter().chain(pair.lease).for_each(|number| out.put_u64_le(number));
    if !pair.meta.is_empty() {
        out.put_u16_le(pair.meta.len() as u16);
        for (name, text) in &pair.meta {
            put_bytes(name, out);
            put_bytes(text, out);
        }
    }
}

fn put_bytes(bytes: &[u8], out: &mut BytesMut) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

fn read_leases(mut body: Bytes) -> Option<Vec<BackupLease>> {
    let mut leases = Vec::with_capacity(body.len() / 16);
    while !body.is_empty() {
        leases.push(BackupLease { id: body.try_get_u64_le().ok()?, ttl_ms: body.try_get_u64_le().ok()? });
    }
    Some(leases)
}

fn read_pairs(mut body: Bytes) -> Option<Vec<BackupPair>> {
    let mut pairs = Vec::new();
    while !body.is_empty() {
        pairs.push(read_pair(&mut body)?);
    }
    Some(pairs)
}

fn read_pair(body: &mut Bytes) -> Option<BackupPair> {
    let flags = body.try_get_u8().ok()?;
    if flags & !(HAS_CONTENT_TYPE | HAS_TTL | HAS_LEASE | HAS_META) != 0 {
        return None;
    }
    let (key, value) = (read_bytes(body)?, read_bytes(body)?);
    let content_type = if flags & HAS_CONTENT_TYPE != 0 { Some(read_bytes(body)?) } else { None };
    let ttl_ms = if flags & HAS_TTL != 0 { Some(body.try_get_u64_le().ok()?) } else { None };
    let lease = if flags & HAS_LEASE != 0 { Some(body.try_get_u64_le().ok()?) } else { None };
    let mut meta = Vec::new();
    if flags & HAS_META != 0 {
        for _ in 0..body.try_get_u16_le().ok()? {
            meta.push((read_bytes(body)?, read_bytes(body)?));
        }
    }
    Some(BackupPair { key, value, content_type, ttl_ms, lease, meta })
}

fn read_bytes(body: &mut Bytes) -> Option<Bytes> {
    let length = body.try_get_u32_le().ok()? as usize;
    (length <= body.len()).then(|| body.split_to(length))
}

#[cfg(test)]
mod tests;
