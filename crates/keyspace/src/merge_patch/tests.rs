use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn merged(target: Option<&str>, patch: &str) -> Result<String, (Part, JsonError)> {
    let merged = merge_patch(target.map(str::as_bytes), patch.as_bytes())?;
    Ok(String::from_utf8(merged).unwrap())
}

/// RFC 7396, appendix A, in its order.
#[test]
fn the_cases_of_the_rfc() {
    let cases = [
        (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
        (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
        (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
        (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
        (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
        (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
        (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
        (r#"{"a":"foo"}"#, "null", "null"),
        (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
        (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
        ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
        ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
    ];
    for (target, patch, result) in cases {
        assert_eq!(merged(Some(target), patch).as_deref(), Ok(result), "{target} {patch}");
    }
    assert_eq!(merged(None, r#"{"a":{"b":null,"c":1}}"#).as_deref(), Ok(r#"{"a":{"c":1}}"#));
}

/// Each was a way for two versions of a library to disagree.
#[test]
fn what_is_written_stays_as_it_is_written() {
    let cases = [
        // Numbers.
        (r#"{"a":1.0,"b":12345678901234567890123}"#, r#"{"c":1e400}"#, r#"{"a":1.0,"b":12345678901234567890123,"c":1e400}"#),
        (r#"{"a":-0}"#, r#"{"b":-0.0E+0}"#, r#"{"a":-0,"b":-0.0E+0}"#),
        // Order, and the place of what is changed and of what is new.
        (r#"{"z":1,"a":2,"m":3}"#, r#"{"y":4,"a":5,"b":6}"#, r#"{"z":1,"a":5,"m":3,"y":4,"b":6}"#),
        (r#"{"z":1,"a":2}"#, r#"{"z":null}"#, r#"{"a":2}"#),
        // The same name more than once.
        (r#"{"a":1,"b":2,"a":3}"#, "{}", r#"{"a":3,"b":2}"#),
        (r#"{"a":{"x":1},"a":{"y":2}}"#, r#"{"a":{"z":3}}"#, r#"{"a":{"y":2,"z":3}}"#),
        ("{}", r#"{"a":1,"a":null}"#, "{}"),
        (r#"{"a":0}"#, r#"{"a":null,"b":1,"a":2}"#, r#"{"a":2,"b":1}"#),
        (r#"{"a":[{"x":1,"x":2}]}"#, "{}", r#"{"a":[{"x":1,"x":2}]}"#),
        // White space.
        (" { \"a b\" : [ 1 , \" \\\" \" , { } ] } \n", "\t{ \"c\" : { \"d\" : null } }", r#"{"a b":[1," \" ",{}],"c":{}}"#),
        // Escapes: the same name, written otherwise, keeps the text that was there first.
        (r#"{"a\/b":1}"#, r#"{"a/b":2}"#, r#"{"a\/b":2}"#),
        (r#"{"\u00e4":1}"#, "{\"\u{e4}\":2}", r#"{"\u00e4":2}"#),
        (r#"{"\ud83d\uDE00":1}"#, "{\"\u{1f600}\":null}", "{}"),
        (r#"{"\ud83d":1,"\ud83D":2,"\ud83e":3}"#, "{}", r#"{"\ud83d":2,"\ud83e":3}"#),
        (r#"{"\ud83d\u0041":1,"\ud83dA":2}"#, "{}", r#"{"\ud83d\u0041":2}"#),
        (r#"{"\b\f\n\r\t\"\\":1}"#, r#"{"\u0008\u000c\u000A\u000d\u0009\u0022\u005c":2}"#, r#"{"\b\f\n\r\t\"\\":2}"#),
        (r#"{"a":"\u00e4\/"}"#, "{}", r#"{"a":"\u00e4\/"}"#),
        (r#"{"":1}"#, r#"{"":{"":2}}"#, r#"{"":{"":2}}"#),
    ];
    for (target, patch, result) in cases {
        assert_eq!(merged(Some(target), patch).as_deref(), Ok(result), "{target} {patch}");
    }
}

#[test]
fn what_is_no_json_says_which_and_where() {
    let cases = [
        ("", 0),
        (" ", 1),
        ("nul", 3),
        ("nulL", 3),
        ("[1,]", 3),
        ("[1 2]", 3),
        ("{\"a\":1,}", 7),
        ("{\"a\" 1}", 5),
        ("{a:1}", 1),
        ("{'a':1}", 1),
        ("{\"a\":1", 6),
        ("01", 1),
        ("1.", 2),
        (".5", 0),
        ("+1", 0),
        ("1e", 2),
        ("-", 1),
        ("NaN", 0),
        ("\"\\x\"", 2),
        ("\"\\u12g4\"", 5),
        ("\"a\nb\"", 2),
        ("\"a", 2),
        ("1 2", 2),
        ("{} // no", 3),
        ("\u{feff}{}", 0),
    ];
    for (text, at) in cases {
        let error = JsonError::Malformed { at };
        assert_eq!(merged(Some(text), "{}"), Err((Part::Target, error)), "{text:?}");
        assert_eq!(merged(Some("{}"), text), Err((Part::Patch, error)), "{text:?}");
        assert_eq!(check_merge_patch(text.as_bytes()), Err(error), "{text:?}");
    }
    assert_eq!(check_merge_patch(b"\"ab\xff\""), Err(JsonError::Malformed { at: 3 }));
}

#[test]
fn depth_and_length_have_a_bound() {
    let deep = |open: &str, close: &str, depth| [open.repeat(depth), "1".to_owned(), close.repeat(depth)].concat();
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deepest = deep(open, close, MAX_JSON_DEPTH);
        assert_eq!(merged(Some(&deepest), &deepest), Ok(deepest.clone()));
        assert_eq!(check_merge_patch(deep(open, close, MAX_JSON_DEPTH + 1).as_bytes()), Err(JsonError::TooDeep));
        assert_eq!(check_merge_patch(open.repeat(100_000).as_bytes()), Err(JsonError::TooDeep));
    }
    let longest = [&b"\""[..], &vec![b'x'; MAX_JSON_BYTES - 2], b"\""].concat();
    assert_eq!(check_merge_patch(&longest), Ok(()));
    assert_eq!(check_merge_patch(&[&longest[..], b" "].concat()), Err(JsonError::TooLong));
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a\"\\\\\u{e4}\n\u{1f600}]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |within| {
        let name = prop::sample::select(vec!["a", "b", "", "\"", "\u{e4}", "\n"]).prop_map(str::to_owned);
        prop_oneof![
            prop::collection::vec(within.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(name, within, 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// The RFC's own words, on values.
fn model(target: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else { return patch };
    let mut object = match target {
        Value::Object(object) => object,
        _ => serde_json::Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            object.remove(&name);
        } else {
            let before = object.remove(&name).unwrap_or(Value::Null);
            object.insert(name, model(before, value));
        }
    }
    Value::Object(object)
}

/// Every character of a string as an escape, and white space wherever it may be.
fn otherwise_written(value: &Value) -> String {
    let string = |text: &str| {
        let units: Vec<String> = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
        format!("\"{}\"", units.concat())
    };
    match value {
        Value::String(text) => string(text),
        Value::Array(items) => format!("[ {}\n]", items.iter().map(otherwise_written).collect::<Vec<_>>().join(" ,\t")),
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| format!("{} : {}", string(name), otherwise_written(value));
            format!("{{\r{} }}", members.iter().map(member).collect::<Vec<_>>().join(" , "))
        }
        other => other.to_string(),
    }
}

proptest! {
    #[test]
    fn it_does_what_the_rfc_says(target in json(), patch in json(), is_written_otherwise: bool) {
        let text = if is_written_otherwise { otherwise_written(&target) } else { target.to_string() };
        let result = merged(Some(&text), &patch.to_string()).unwrap();
        prop_assert_eq!(serde_json::from_str::<Value>(&result).unwrap(), model(target, patch.clone()));
        // What was patched is compact, and a patch leaves what it has done as it is.
        let untouched = if result.starts_with('{') { result.clone() } else { "{}".to_owned() };
        prop_assert_eq!(merged(Some(&result), "{}"), Ok(untouched));
        prop_assert_eq!(merged(Some(&result), &patch.to_string()), Ok(result));
    }

    #[test]
    fn it_takes_what_is_json_and_nothing_else(text in "[\\[\\]{}:,\"\\\\ 0-9eE+.\\-tfnua]{0,12}") {
        let is_json = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
        prop_assert_eq!(check_merge_patch(text.as_bytes()).is_ok(), is_json, "{}", text);
    }

    #[test]
    fn any_bytes_end_without_panic(target: Vec<u8>, patch: Vec<u8>) {
        let _ = merge_patch(Some(&target), &patch);
    }
}
