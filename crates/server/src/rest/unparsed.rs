//! Answers to what is no request: hyper refuses it with a bare status, before anybody here hears of it.

use std::fmt::Write as _;

use bytes::Bytes;
use quorate_api::header;
use quorate_api::problem::{Code, MEDIA_TYPE, Problem};

/// What hyper's own answers begin with.
const BARE_START: &[u8] = b"HTTP/1.1 4";

/// The answer to be sent in the place of a bare one, if this is one: the same status, as a problem.
pub(super) fn problem_instead_of(bare: &[u8], node: &str) -> Option<Bytes> {
    if !bare.starts_with(BARE_START) {
        return None;
    }
    let (code, reason, detail) = match bare.get(9..12)? {
        b"400" => (Code::MalformedRequest, "Bad Request", "this is not HTTP/1.1"),
        b"414" => (Code::TargetTooLong, "URI Too Long", "the path and query are longer than 65534 bytes"),
        b"431" => (
            Code::HeadTooLarge,
            "Request Header Fields Too Large",
            "the head of the request is larger than 128 KiB, or has more than 100 headers",
        ),
        _ => return None,
    };
    let problem = Problem::new(code, detail);
    let body = serde_json::to_string(&problem).expect("a problem has string keys and no fallible parts");
    let mut answer = format!("HTTP/1.1 {} {reason}\r\ncontent-type: {MEDIA_TYPE}\r\nconnection: close\r\n", problem.status);
    let _ = write!(answer, "{}: {node}\r\ncontent-length: {}\r\n\r\n{body}", header::NODE, body.len());
    Some(answer.into())
}

#[cfg(test)]
mod tests {
    use super::problem_instead_of;

    #[test]
    fn only_bare_refusals_are_replaced() {
        let answer =
            problem_instead_of(b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n", "n1").unwrap();
        let text = std::str::from_utf8(&answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 431 ") && head.contains("quorate-node: n1"), "{head}");
        assert!(head.ends_with(&format!("content-length: {}", body.len())) && body.contains("head_too_large"), "{text}");
        for other in ["HTTP/1.1 404 Not Found\r\n", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 4", "", "value"] {
            assert_eq!(problem_instead_of(other.as_bytes(), "n1"), None, "{other}");
        }
    }
}
