//! Compares and operations as words: `counter = 3`, `put counter 4`.

use bytes::Bytes;
use quorate_api::batch::BatchPut;
use quorate_api::lease;
use quorate_api::patch::{BatchPatch, KeyPatch};
use quorate_api::txn::{Relation, TxnCompare, TxnKeys, TxnList, TxnOp, TxnRange, TxnTest};

/// Reads each; the error names the one that cannot be read.
pub(super) fn each<T>(texts: &[String], read: fn(&[String]) -> Result<T, String>) -> Result<Vec<T>, String> {
    texts.iter().map(|text| split(text).and_then(|words| read(&words)).map_err(|error| format!("`{text}`: {error}"))).collect()
}

/// Words between white space. What stands in double quotes is read as JSON text: a whole word, or a key in parentheses.
fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let mut word = String::new();
        if rest.starts_with('"') {
            rest = take_quoted(rest, &mut word)?;
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let quoted = rest[..end].find("(\"").map(|at| at + 1);
            word.push_str(&rest[..quoted.unwrap_or(end)]);
            rest = &rest[quoted.unwrap_or(end)..];
            if quoted.is_some() {
                rest = take_quoted(rest, &mut word)?;
                rest = rest.strip_prefix(')').ok_or("a parenthesis is not closed")?;
                word.push(')');
            }
        }
        if rest.starts_with(|next: char| !next.is_whitespace()) {
            return Err("what stands in double quotes ends a word".to_owned());
        }
        words.push(word);
        rest = rest.trim_start();
    }
    Ok(words)
}

/// Appends what stands in double quotes to a word; returns what stands behind them.
fn take_quoted<'a>(text: &'a str, word: &mut String) -> Result<&'a str, String> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<String>();
    match values.next() {
        Some(Ok(quoted)) => word.push_str(&quoted),
        _ => return Err("a double quote is not closed, or what stands in it is no JSON text".to_owned()),
    }
    Ok(&text[values.byte_offset()..])
}

/// `KEY exists`, `KEY absent`, or a key, its `version(...)`, `mod_revision(...)`, `create_revision(...)` or `lease(...)`, a
/// relation, and what it is compared with.
pub(super) fn compare(words: &[String]) -> Result<TxnCompare, String> {
    let of_key = |key: &str, test| TxnCompare { keys: TxnKeys::One(key.to_owned().into()), test };
    let (subject, sign, side) = match words {
        [key, word] if word == "exists" => return Ok(of_key(key, TxnTest::Exists(true))),
        [key, word] if word == "absent" => return Ok(of_key(key, TxnTest::Exists(false))),
        [subject, sign, side] => (subject, sign, side),
        _ => return Err("neither KEY exists, KEY absent, nor KEY RELATION VALUE".to_owned()),
    };
    let relation = Relation::ALL.into_iter().find(|(_, known)| known == sign).map(|(relation, _)| relation);
    let relation = relation.ok_or_else(|| format!("{sign} is none of =, !=, < and >"))?;
    let call = subject.strip_suffix(')').and_then(|subject| subject.split_once('('));
    let test: fn(Relation, u64) -> TxnTest = match call.map(|(name, _)| name) {
        Some("version") => TxnTest::Version,
        Some("mod_revision") => TxnTest::ModRevision,
        Some("create_revision") => TxnTest::CreateRevision,
        Some("lease") => TxnTest::Lease,
        _ => return Ok(of_key(subject, TxnTest::Value(relation, side.clone().into()))),
    };
    let key = call.map_or("", |(_, key)| key);
    let number = match test(relation, 0) {
        // Of none it is 0.
        TxnTest::Lease(..) if side.bytes().all(|digit| digit == b'0') => 0,
        TxnTest::Lease(..) => lease::parse_id(side).ok_or_else(|| format!("{side} is no id of a lease"))?,
        _ => side.parse().map_err(|_| format!("{side} is no number"))?,
    };
    Ok(of_key(key, test(relation, number)))
}

/// `put KEY VALUE`, `get KEY`, `del KEY`, `incr KEY [BY]`, `append KEY VALUE`, `touch KEY`, `patch KEY JSON`, `ls [PREFIX]` or
/// `del-prefix PREFIX`.
pub(super) fn op(words: &[String]) -> Result<TxnOp, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let bytes = |text: &str| Bytes::from(text.to_owned());
    let range = |prefix: &str| TxnRange { prefix: bytes(prefix), ..TxnRange::default() };
    let list = |prefix: &str| TxnOp::List(TxnList { range: range(prefix), is_with_values: true, ..TxnList::default() });
    let patch = |key: &str, patch| TxnOp::Patch(Box::new(BatchPatch { key: bytes(key), patch, cas: None, ttl: None }));
    match words[..] {
        ["put", key, value] => Ok(TxnOp::Put(Box::new(BatchPut { key: bytes(key), value: bytes(value), ..BatchPut::default() }))),
        ["get", key] => Ok(TxnOp::Get { key: bytes(key) }),
        ["incr", key] => Ok(patch(key, KeyPatch::Increment { by: 1, initial: 0 })),
        ["incr", key, by] => {
            let by = by.parse().map_err(|_| format!("{by} is no whole number"))?;
            Ok(patch(key, KeyPatch::Increment { by, initial: 0 }))
        }
        ["append", key, value] => Ok(patch(key, KeyPatch::Append { value: bytes(value) })),
        ["touch", key] => Ok(patch(key, KeyPatch::Touch)),
        ["patch", key, json] => match serde_json::from_str::<serde::de::IgnoredAny>(json) {
            Ok(_) => Ok(patch(key, KeyPatch::Merge { patch: bytes(json) })),
            Err(error) => Err(format!("the merge patch is no JSON: {error}")),
        },
        ["del", key] => Ok(TxnOp::Delete { key: bytes(key) }),
        ["ls"] => Ok(list("")),
        ["ls", prefix] => Ok(list(prefix)),
        ["del-prefix", prefix] if !prefix.is_empty() => Ok(TxnOp::DeleteRange(range(prefix))),
        _ => Err(format!("none of {FORMS}")),
    }
}

const FORMS: &str = "put KEY VALUE, get KEY, del KEY, incr KEY [BY], append KEY VALUE, touch KEY, patch KEY JSON, ls [PREFIX] \
    and del-prefix PREFIX";

#[cfg(test)]
mod tests {
    use super::*;

    fn read_compare(text: &str) -> Result<TxnCompare, String> {
        each(&[text.to_owned()], compare).map(|mut compares| compares.remove(0))
    }

    fn read_op(text: &str) -> Result<TxnOp, String> {
        each(&[text.to_owned()], op).map(|mut ops| ops.remove(0))
    }

    #[test]
    fn compares_are_read() {
        let cases = [
            ("a exists", "a", TxnTest::Exists(true)),
            (" \"a b\"  absent ", "a b", TxnTest::Exists(false)),
            ("a = x", "a", TxnTest::Value(Relation::Equal, "x".into())),
            ("a != \"x \\\" y\"", "a", TxnTest::Value(Relation::NotEqual, "x \" y".into())),
            ("a < \"\"", "a", TxnTest::Value(Relation::Less, "".into())),
            ("version(a) > 3", "a", TxnTest::Version(Relation::Greater, 3)),
            ("mod_revision(a(b)) = 12", "a(b)", TxnTest::ModRevision(Relation::Equal, 12)),
            ("version(\"a) \\\" b\") > 3", "a) \" b", TxnTest::Version(Relation::Greater, 3)),
            ("\"create_revision(a b)\" != 0", "a b", TxnTest::CreateRevision(Relation::NotEqual, 0)),
            ("lease(a) = 0abc", "a", TxnTest::Lease(Relation::Equal, 0xabc)),
            ("lease(a) != 0", "a", TxnTest::Lease(Relation::NotEqual, 0)),
            ("other(a) = 3", "other(a)", TxnTest::Value(Relation::Equal, "3".into())),
        ];
        for (text, key, test) in cases {
            let keys = TxnKeys::One(key.into());
            assert_eq!(read_compare(text), Ok(TxnCompare { keys, test }), "{text}");
        }
        for text in [
            "",
            "a",
            "a is there",
            "a >= 3",
            "version(a) = x",
            "version(a) = -1",
            "a = \"x",
            "a = \"x\"y",
            "a = x y",
            "version(\"a\" > 3",
        ] {
            assert!(read_compare(text).unwrap_err().starts_with(&format!("`{text}`: ")), "{text}");
        }
    }

    #[test]
    fn operations_are_read() {
        let put = BatchPut { key: "a b".into(), value: "".into(), ..BatchPut::default() };
        let range = |prefix: &'static str| TxnRange { prefix: prefix.into(), ..TxnRange::default() };
        let list = |prefix| TxnOp::List(TxnList { range: range(prefix), is_with_values: true, ..TxnList::default() });
        let patch = |patch| TxnOp::Patch(Box::new(BatchPatch { key: "a".into(), patch, cas: None, ttl: None }));
        let cases = [
            ("put \"a b\" \"\"", TxnOp::Put(Box::new(put))),
            ("get a", TxnOp::Get { key: "a".into() }),
            ("get {\"a\":1}", TxnOp::Get { key: "{\"a\":1}".into() }),
            ("incr a", patch(KeyPatch::Increment { by: 1, initial: 0 })),
            ("incr a -3", patch(KeyPatch::Increment { by: -3, initial: 0 })),
            ("append a \" x\"", patch(KeyPatch::Append { value: " x".into() })),
            ("touch a", patch(KeyPatch::Touch)),
            ("patch a {\"b\":1.0}", patch(KeyPatch::Merge { patch: "{\"b\":1.0}".into() })),
            ("del a", TxnOp::Delete { key: "a".into() }),
            ("ls", list("")),
            ("ls a/", list("a/")),
            ("del-prefix a/", TxnOp::DeleteRange(range("a/"))),
        ];
        for (text, op) in cases {
            assert_eq!(read_op(text), Ok(op), "{text}");
        }
        for text in
            ["", "put a", "put a b c", "get", "del-prefix \"\"", "delete a", "watch a", "incr a x", "incr a 1 2", "patch a {"]
        {
            assert!(read_op(text).is_err(), "{text}");
        }
    }
}
