//! JSON merge patch (RFC 7396) on the text as it is written.
//!
//! Replicas must come to the same bytes, whatever their version, so no choice of a JSON library may decide what they are. A
//! number in particular stays the text that it is: libraries read `1.0`, `1e400` and `12345678901234567890` differently.
//!
//! What comes of it has no white space between its parts. Names, strings, numbers and whole arrays keep the text in which they
//! were written. Members stay in their order, and where they are if they are changed; new ones follow in the patch's order. Of
//! several members with one name, the last one counts, in the place of the first. Names are the same if they are once their
//! escapes are read.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// How deep arrays and objects may lie in each other, in a patch and in what is patched.
pub const MAX_JSON_DEPTH: usize = 128;

/// Most bytes of a patch, and of a value that is patched: reading one takes about fifteen times its size in memory, if it is all
/// short members.
pub const MAX_JSON_BYTES: usize = 1 << 20;

/// Why a text cannot be patched, or be a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It is no JSON.
    #[error("no JSON at byte {at}")]
    Malformed {
        /// The first byte, from 0, that cannot stand where it does; one behind the last if the text ends too early.
        at: u64,
    },
    /// Arrays and objects lie too deep in each other.
    #[error("arrays and objects lie in each other more than {MAX_JSON_DEPTH} deep")]
    TooDeep,
    /// It is longer than [`MAX_JSON_BYTES`].
    #[error("the JSON has more than {MAX_JSON_BYTES} bytes")]
    TooLong,
}

/// Whether a text can be a merge patch.
///
/// # Errors
///
/// If it cannot: no such patch is applied to anything.
pub fn check_merge_patch(patch: &[u8]) -> Result<(), JsonError> {
    parse(patch).map(|_| ())
}

/// Which of the two texts is the matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Target,
    Patch,
}

/// What a patch makes of a target, or of nothing.
pub(crate) fn merge_patch(target: Option<&[u8]>, patch: &[u8]) -> Result<Vec<u8>, (Part, JsonError)> {
    let patch = parse(patch).map_err(|error| (Part::Patch, error))?;
    let target = target.map(parse).transpose().map_err(|error| (Part::Target, error))?;
    let mut out = Vec::new();
    merge(target, patch).write(&mut out);
    Ok(out)
}

enum Node<'a> {
    Object(Object<'a>),
    /// Anything else, as it is written.
    Other(&'a [u8]),
}

/// Members by place, none where one was taken out.
#[derive(Default)]
struct Object<'a> {
    members: Vec<Option<Member<'a>>>,
    places: BTreeMap<Cow<'a, [u8]>, usize>,
}

struct Member<'a> {
    /// With its quotes, as it is written.
    name: &'a [u8],
    value: Node<'a>,
}

fn merge<'a>(target: Option<Node<'a>>, patch: Node<'a>) -> Node<'a> {
    let Node::Object(patch) = patch else { return patch };
    let mut object = match target {
        Some(Node::Object(object)) => object,
        _ => Object::default(),
    };
    for member in patch.members.into_iter().flatten() {
        object.patch(member);
    }
    Node::Object(object)
}

impl<'a> Object<'a> {
    /// Sets a member, in its place if it is there already.
    fn set(&mut self, member: Member<'a>) {
        let place = self.place_of(member.name);
        let name = self.members[place].as_ref().map_or(member.name, |before| before.name);
        self.members[place] = Some(Member { name, ..member });
    }

    fn patch(&mut self, member: Member<'a>) {
        if matches!(member.value, Node::Other(b"null")) {
            if let Some(place) = self.places.remove(&read_name(member.name)) {
                self.members[place] = None;
            }
            return;
        }
        let place = self.place_of(member.name);
        let (name, before) = match self.members[place].take() {
            Some(before) => (before.name, Some(before.value)),
            None => (member.name, None),
        };
        self.members[place] = Some(Member { name, value: merge(before, member.value) });
    }

    /// Where the member of this name is, or will be.
    fn place_of(&mut self, name: &'a [u8]) -> usize {
        let next = self.members.len();
        let place = *self.places.entry(read_name(name)).or_insert(next);
        if place == next {
            self.members.push(None);
        }
        place
    }
}

impl Node<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let object = match self {
            Self::Other(text) => return write_compact(text, out),
            Self::Object(object) => object,
        };
        out.push(b'{');
        for (position, member) in object.members.iter().flatten().enumerate() {
            if position > 0 {
                out.push(b',');
            }
            out.extend_from_slice(member.name);
            out.push(b':');
            member.value.write(out);
        }
        out.push(b'}');
    }
}

/// Well-formed JSON without the white space between its parts.
fn write_compact(text: &[u8], out: &mut Vec<u8>) {
    let (mut is_string, mut is_escaped) = (false, false);
    for &byte in text {
        if is_string || !is_space(byte) {
            out.push(byte);
        }
        is_string ^= byte == b'"' && !is_escaped;
        is_escaped = is_string && byte == b'\\' && !is_escaped;
    }
}

/// A well-formed name without its quotes and escapes, to be compared with others. Half a surrogate pair is no character, but it
/// is no mistake of the grammar either: it stands for itself.
fn read_name(name: &[u8]) -> Cow<'_, [u8]> {
    let inner = &name[1..name.len() - 1];
    if !inner.contains(&b'\\') {
        return Cow::Borrowed(inner);
    }
    let mut read = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'\\', [b'u', digits @ ..]) => {
                let (mut unit, mut behind) = read_unit(digits);
                if let (0xd800..0xdc00, [b'\\', b'u', digits @ ..]) = (unit, behind)
                    && let (low @ 0xdc00..0xe000, behind_low) = read_unit(digits)
                {
                    unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                    behind = behind_low;
                }
                rest = behind;
                push_code_point(unit, &mut read);
            }
            (b'\\', [escaped, behind @ ..]) => {
                rest = behind;
                read.push(match escaped {
                    b'b' => 0x08,
                    b'f' => 0x0c,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => *other,
                });
            }
            (byte, _) => read.push(*byte),
        }
    }
    Cow::Owned(read)
}

/// Four hexadecimal digits, and what follows them.
fn read_unit(digits: &[u8]) -> (u32, &[u8]) {
    let (unit, behind) = digits.split_at(digits.len().min(4));
    let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap_or(0);
    (unit.iter().fold(0, |unit, byte| unit << 4 | digit(byte)), behind)
}

/// As UTF-8 writes it; so also what UTF-8 does not have.
fn push_code_point(point: u32, out: &mut Vec<u8>) {
    match char::from_u32(point) {
        Some(char) => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        None => out.extend([0xe0 | (point >> 12) as u8, 0x80 | (point >> 6 & 0x3f) as u8, 0x80 | (point & 0x3f) as u8]),
    }
}

fn parse(text: &[u8]) -> Result<Node<'_>, JsonError> {
    if text.len() > MAX_JSON_BYTES {
        return Err(JsonError::TooLong);
    }
    if let Err(error) = std::str::from_utf8(text) {
        return Err(JsonError::Malformed { at: error.valid_up_to() as u64 });
    }
    let mut parser = Parser { text, at: 0 };
    parser.skip_space();
    let node = parser.value(0)?;
    parser.skip_space();
    if parser.at < text.len() { Err(parser.malformed()) } else { Ok(node) }
}

/// Reads RFC 8259's grammar, and nothing else.
struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Parser<'a> {
    fn value(&mut self, depth: usize) -> Result<Node<'a>, JsonError> {
        if self.peek() == Some(b'{') {
            return self.object(depth).map(Node::Object);
        }
        let start = self.at;
        self.skip_value(depth)?;
        Ok(Node::Other(&self.text[start..self.at]))
    }

    fn object(&mut self, depth: usize) -> Result<Object<'a>, JsonError> {
        let mut object = Object::default();
        self.members(b'}', depth, |parser| {
            let name = parser.name()?;
            let value = parser.value(depth + 1)?;
            object.set(Member { name, value });
            Ok(())
        })?;
        Ok(object)
    }

    /// A value of which nothing is wanted but where it ends.
    fn skip_value(&mut self, depth: usize) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'{') => self.members(b'}', depth, |parser| {
                parser.name()?;
                parser.skip_value(depth + 1)
            }),
            Some(b'[') => self.members(b']', depth, |parser| parser.skip_value(depth + 1)),
            Some(b'"') => self.string(),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            _ => self.number(),
        }
    }

    /// What stands between a bracket and its counterpart, with commas between.
    fn members(
        &mut self,
        end: u8,
        depth: usize,
        mut member: impl FnMut(&mut Self) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        if depth >= MAX_JSON_DEPTH {
            return Err(JsonError::TooDeep);
        }
        self.at += 1;
        self.skip_space();
        if self.take(end) {
            return Ok(());
        }
        loop {
            member(self)?;
            self.skip_space();
            if self.take(end) {
                return Ok(());
            }
            self.expect(b',')?;
            self.skip_space();
        }
    }

    /// A name, up to the value behind it.
    fn name(&mut self) -> Result<&'a [u8], JsonError> {
        let start = self.at;
        self.string()?;
        let name = &self.text[start..self.at];
        self.skip_space();
        self.expect(b':')?;
        self.skip_space();
        Ok(name)
    }

    fn string(&mut self) -> Result<(), JsonError> {
        self.expect(b'"')?;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                Some(0x20..) => self.at += 1,
                _ => return Err(self.malformed()),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return Err(self.malformed());
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.malformed()),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), JsonError> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(())
    }

    /// At least one.
    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.malformed()) } else { Ok(()) }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), JsonError> {
        word.iter().try_for_each(|byte| self.expect(*byte))
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.take(byte) { Ok(()) } else { Err(self.malformed()) }
    }

    fn malformed(&self) -> JsonError {
        JsonError::Malformed { at: self.at as u64 }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

#[cfg(test)]
mod tests;
