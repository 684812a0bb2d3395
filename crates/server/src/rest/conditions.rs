//! `If-Match`, `If-None-Match` and `cas`: one meaning, three spellings.

use bytes::Bytes;
use http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue};
use quorate_api::etag::EntityTag;
use quorate_api::problem::Code;
use quorate_node::keyspace::{Condition, Guard, Revision};

use super::query::parse_number;
use super::refusal::Refusal;

/// What a request demands of the key that it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
    cas: Option<Cas>,
}

/// The value of `If-Match` or `If-None-Match`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    /// `*`: every content.
    Any,
    /// A list.
    Listed(Vec<ListedTag>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ListedTag {
    is_weak: bool,
    /// None if it is not of our making: it matches nothing here.
    tag: Option<EntityTag>,
}

/// `cas=N` or `cas=epoch.N`. `N` 0 stands for "no such key".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cas {
    epoch: Option<u64>,
    mod_revision: u64,
}

impl Cas {
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(mod_revision) = parse_number(text) {
            return Some(Self { epoch: None, mod_revision });
        }
        EntityTag::parse(text)
            .filter(|tag| tag.instance == 0)
            .map(|tag| Self { epoch: Some(tag.epoch), mod_revision: tag.mod_revision })
    }
}

/// What conditions mean for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadVerdict {
    /// Answer it.
    Proceed,
    /// The client has this content.
    NotModified,
    /// `If-Match` does not hold.
    Failed,
}

/// Most tags in one header: they travel through the log.
const MAX_TAGS: usize = 64;

impl Conditions {
    pub(super) fn parse(headers: &HeaderMap, cas: Option<Cas>) -> Result<Self, Refusal> {
        let conditions = Self { if_match: tags(headers, &IF_MATCH)?, if_none_match: tags(headers, &IF_NONE_MATCH)?, cas };
        match conditions.contradiction() {
            Some(why) => Err(Refusal::new(Code::ContradictingConditions, why)),
            None => Ok(conditions),
        }
    }

    /// `cas` alone.
    pub(super) fn of_cas(cas: Option<Cas>) -> Self {
        Self { cas, ..Self::default() }
    }

    /// Whether the keyspace's epoch must be known to turn them into guards.
    pub(super) fn need_epoch(&self) -> bool {
        let has_tags =
            |tags: &Option<Tags>| matches!(tags, Some(Tags::Listed(listed)) if listed.iter().any(|tag| tag.tag.is_some()));
        has_tags(&self.if_match) || has_tags(&self.if_none_match) || self.cas.is_some_and(|cas| cas.epoch.is_some())
    }

    /// The guards for a write. `epoch` matters only if [`Conditions::need_epoch`].
    pub(super) fn guards(&self, key: &Bytes, epoch: u64) -> Vec<Guard> {
        let if_match = self.if_match.as_ref().map(|tags| match tags {
            Tags::Any => Condition::Exists,
            Tags::Listed(listed) => Condition::ModRevisionIn(strong_revisions(listed, epoch)),
        });
        let if_none_match = self.if_none_match.as_ref().map(|tags| match tags {
            Tags::Any => Condition::Absent,
            Tags::Listed(listed) => Condition::ModRevisionNotIn(revisions(listed.iter(), epoch)),
        });
        let cas = self.cas.map(|cas| match cas {
            Cas { epoch: Some(told), .. } if told != epoch => Condition::ModRevisionIn(Vec::new()),
            Cas { mod_revision: 0, .. } => Condition::Absent,
            Cas { mod_revision, .. } => Condition::ModRevisionIn(vec![Revision(mod_revision)]),
        });
        let conditions = [if_match, if_none_match, cas].into_iter().flatten();
        conditions.map(|condition| Guard { key: key.clone(), condition }).collect()
    }

    /// What they mean for a read of a key that has this tag, or is not there.
    pub(super) fn judge_read(&self, current: Option<EntityTag>) -> ReadVerdict {
        let matches = |tags: &Tags, is_strong: bool| match (tags, current) {
            (_, None) => false,
            (Tags::Any, Some(_)) => true,
            (Tags::Listed(listed), Some(current)) => {
                listed.iter().any(|listed| listed.tag == Some(current) && !(is_strong && listed.is_weak))
            }
        };
        if self.if_match.as_ref().is_some_and(|tags| !matches(tags, true)) {
            return ReadVerdict::Failed;
        }
        if self.if_none_match.as_ref().is_some_and(|tags| matches(tags, false)) {
            return ReadVerdict::NotModified;
        }
        ReadVerdict::Proceed
    }

    /// Why no key can ever satisfy them.
    fn contradiction(&self) -> Option<&'static str> {
        let demands_absence = self.if_none_match == Some(Tags::Any) || self.cas.is_some_and(|cas| cas.mod_revision == 0);
        let demands_presence = self.if_match.is_some() || self.cas.is_some_and(|cas| cas.mod_revision > 0);
        if demands_absence && demands_presence {
            return Some("the key cannot be there and not be there");
        }
        let wanted = match &self.if_match {
            Some(Tags::Listed(listed)) => Some(listed),
            _ => None,
        };
        let is_wanted = |cas: Cas| wanted.is_none_or(|listed| listed.iter().any(|tag| tag.agrees_with(cas)));
        if self.cas.is_some_and(|cas| !is_wanted(cas)) {
            return Some("cas and If-Match name different revisions");
        }
        let Some(Tags::Listed(unwanted)) = &self.if_none_match else {
            return None;
        };
        let is_unwanted = |tag: &ListedTag| tag.tag.is_some() && unwanted.iter().any(|other| other.tag == tag.tag);
        if wanted.is_some_and(|listed| listed.iter().all(is_unwanted)) {
            return Some("If-None-Match excludes every tag of If-Match");
        }
        if self.cas.is_some_and(|cas| cas.epoch.is_some() && unwanted.iter().any(|tag| tag.agrees_with(cas))) {
            return Some("If-None-Match excludes what cas demands");
        }
        None
    }
}

impl ListedTag {
    fn agrees_with(self, cas: Cas) -> bool {
        let agrees = |tag: EntityTag| tag.mod_revision == cas.mod_revision && cas.epoch.is_none_or(|epoch| epoch == tag.epoch);
        self.tag.is_some_and(agrees)
    }
}

fn strong_revisions(listed: &[ListedTag], epoch: u64) -> Vec<Revision> {
    revisions(listed.iter().filter(|tag| !tag.is_weak), epoch)
}

fn revisions<'a>(listed: impl Iterator<Item = &'a ListedTag>, epoch: u64) -> Vec<Revision> {
    listed.filter_map(|listed| listed.tag.filter(|tag| tag.epoch == epoch)).map(|tag| Revision(tag.mod_revision)).collect()
}

/// All lines of a header, read as one list.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Refusal> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    let bad = |why: &str| Refusal::new(Code::BadHeader, format!("{name}: {why}"));
    let mut listed = Vec::new();
    let mut has_any = false;
    for line in headers.get_all(name) {
        if line.as_bytes().trim_ascii() == b"*" {
            has_any = true;
        } else {
            read_line(line, &mut listed).map_err(bad)?;
        }
    }
    match (has_any, listed.is_empty()) {
        (true, true) => Ok(Some(Tags::Any)),
        (true, false) => Err(bad("* stands alone")),
        (false, true) => Err(bad("empty")),
        (false, false) => Ok(Some(Tags::Listed(listed))),
    }
}

fn read_line(line: &HeaderValue, listed: &mut Vec<ListedTag>) -> Result<(), &'static str> {
    let mut rest = line.as_bytes().trim_ascii_start();
    while !rest.is_empty() {
        if let [b',', after @ ..] = rest {
            rest = after.trim_ascii_start();
            continue;
        }
        let (tag, after) = read_tag(rest)?;
        if listed.len() == MAX_TAGS {
            return Err("more than 64 tags");
        }
        listed.push(tag);
        rest = after.trim_ascii_start();
        if !matches!(rest, [] | [b',', ..]) {
            return Err("tags are separated by commas");
        }
    }
    Ok(())
}

fn read_tag(text: &[u8]) -> Result<(ListedTag, &[u8]), &'static str> {
    let (is_weak, quoted) = match text.strip_prefix(b"W/") {
        Some(quoted) => (true, quoted),
        None => (false, text),
    };
    let opaque = quoted.strip_prefix(b"\"").ok_or("a tag stands in double quotes, as in ETag")?;
    let end = opaque.iter().position(|byte| *byte == b'"').ok_or("a tag's closing quote is missing")?;
    let tag = std::str::from_utf8(&opaque[..end]).ok().and_then(EntityTag::parse);
    Ok((ListedTag { is_weak, tag }, &opaque[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(if_match: &[&'static str], if_none_match: &[&'static str], cas: &str) -> Result<Conditions, Refusal> {
        let mut headers = HeaderMap::new();
        for value in if_match {
            headers.append(IF_MATCH, HeaderValue::from_static(value));
        }
        for value in if_none_match {
            headers.append(IF_NONE_MATCH, HeaderValue::from_static(value));
        }
        Conditions::parse(&headers, (!cas.is_empty()).then(|| Cas::parse(cas).expect("a good cas")))
    }

    fn conditions_of(if_match: &[&'static str], if_none_match: &[&'static str], cas: &str) -> Vec<Condition> {
        let conditions = parse(if_match, if_none_match, cas).expect("good conditions");
        conditions.guards(&Bytes::from_static(b"k"), 0xe1).into_iter().map(|guard| guard.condition).collect()
    }

    fn within(revisions: &[u64]) -> Condition {
        Condition::ModRevisionIn(revisions.iter().copied().map(Revision).collect())
    }

    fn not_within(revisions: &[u64]) -> Condition {
        Condition::ModRevisionNotIn(revisions.iter().copied().map(Revision).collect())
    }

    #[test]
    fn headers_and_cas_become_guards() {
        assert_eq!(conditions_of(&[], &[], ""), []);
        assert_eq!(conditions_of(&["*"], &[], ""), [Condition::Exists]);
        assert_eq!(conditions_of(&[], &["*"], ""), [Condition::Absent]);
        assert_eq!(conditions_of(&["\"e1.5\""], &[], ""), [within(&[5])]);
        assert_eq!(conditions_of(&["\"e1.5\" ,, \"e1.6\"", "\"e1.7\""], &[], ""), [within(&[5, 6, 7])]);
        assert_eq!(conditions_of(&["W/\"e1.5\", \"e2.6\", \"a,b\", \"e1.7\""], &[], ""), [within(&[7])]);
        assert_eq!(conditions_of(&["\"foreign\""], &[], ""), [within(&[])]);
        assert_eq!(conditions_of(&[], &["W/\"e1.5\", \"e2.6\", \"x\""], ""), [not_within(&[5])]);
        assert_eq!(conditions_of(&[], &[], "0"), [Condition::Absent]);
        assert_eq!(conditions_of(&[], &[], "e1.0"), [Condition::Absent]);
        assert_eq!(conditions_of(&[], &[], "9"), [within(&[9])]);
        assert_eq!(conditions_of(&[], &[], "e1.9"), [within(&[9])]);
        assert_eq!(conditions_of(&[], &[], "e2.9"), [within(&[])]);
        assert_eq!(conditions_of(&["\"e1.9\""], &["\"e1.8\""], "9"), [within(&[9]), not_within(&[8]), within(&[9])]);
    }

    #[test]
    fn malformed_headers_are_refused() {
        for value in ["", " , ", "e1.5", "\"e1.5", "\"e1.5\" \"e1.6\"", "*, \"e1.5\"", "w/\"e1.5\"", "\"e1.5\"x"] {
            assert!(parse(&[value], &[], "").is_err(), "If-Match: {value}");
            assert!(parse(&[], &[value], "").is_err(), "If-None-Match: {value}");
        }
        assert!(parse(&["*", "\"e1.5\""], &[], "").is_err());
        for cas in ["", "-1", "+1", "x", "1.", ".1", "E1.5", "18446744073709551616"] {
            assert!(Cas::parse(cas).is_none(), "{cas}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let contradicting: [(&[&'static str], &[&'static str], &str); 8] = [
            (&["*"], &["*"], ""),
            (&["\"e1.5\""], &["*"], ""),
            (&["*"], &[], "0"),
            (&[], &["*"], "5"),
            (&["\"e1.5\""], &[], "6"),
            (&["\"e1.5\""], &[], "e2.5"),
            (&["\"e1.5\""], &["\"e1.5\", \"e1.6\""], ""),
            (&[], &["\"e1.5\""], "e1.5"),
        ];
        for (if_match, if_none_match, cas) in contradicting {
            assert!(parse(if_match, if_none_match, cas).is_err(), "{if_match:?} {if_none_match:?} {cas}");
        }
    }

    #[test]
    fn reads_are_judged() {
        let current = EntityTag { epoch: 0xe1, mod_revision: 5, instance: 0 };
        let judge = |if_match: &[&'static str], if_none_match: &[&'static str], current| {
            parse(if_match, if_none_match, "").expect("good conditions").judge_read(current)
        };
        let cases: [(&[&'static str], &[&'static str], ReadVerdict, ReadVerdict); 8] = [
            (&[], &[], ReadVerdict::Proceed, ReadVerdict::Proceed),
            (&["*"], &[], ReadVerdict::Proceed, ReadVerdict::Failed),
            (&["\"e1.5\""], &[], ReadVerdict::Proceed, ReadVerdict::Failed),
            (&["W/\"e1.5\""], &[], ReadVerdict::Failed, ReadVerdict::Failed),
            (&["\"e2.5\""], &[], ReadVerdict::Failed, ReadVerdict::Failed),
            (&[], &["*"], ReadVerdict::NotModified, ReadVerdict::Proceed),
            (&[], &["\"x\", W/\"e1.5\""], ReadVerdict::NotModified, ReadVerdict::Proceed),
            (&[], &["\"e1.6\""], ReadVerdict::Proceed, ReadVerdict::Proceed),
        ];
        for (if_match, if_none_match, there, missing) in cases {
            assert_eq!(judge(if_match, if_none_match, Some(current)), there, "{if_match:?} {if_none_match:?}");
            assert_eq!(judge(if_match, if_none_match, None), missing, "{if_match:?} {if_none_match:?}, missing");
        }
    }
}
