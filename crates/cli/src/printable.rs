//! Bytes as people can read them on a terminal.

/// Text as it is, but control characters escaped (a key must not move the cursor); bytes that are no text as `\xNN`.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else { return bytes.escape_ascii().to_string() };
    let mut shown = String::with_capacity(text.len());
    for each in text.chars() {
        if each.is_control() || is_invisible(each) {
            shown.extend(each.escape_default());
        } else {
            shown.push(each);
        }
    }
    shown
}

/// As [`printable`], but no longer than `max_chars`; three dots stand for the rest.
pub(crate) fn printable_start(bytes: &[u8], max_chars: usize) -> String {
    // A character takes four bytes at most, so what is cut off here would not be shown anyway.
    let start = &bytes[..bytes.len().min(max_chars * 4)];
    let start = match std::str::from_utf8(start) {
        Err(error) if error.error_len().is_none() => &start[..error.valid_up_to()],
        _ => start,
    };
    let shown = printable(start);
    if start.len() == bytes.len() && shown.chars().count() <= max_chars {
        return shown;
    }
    let kept: String = shown.chars().take(max_chars.saturating_sub(3)).collect();
    kept + "..."
}

/// Characters that reorder or hide what stands around them.
fn is_invisible(each: char) -> bool {
    matches!(each, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::{printable, printable_start};

    #[test]
    fn text_stays_and_the_rest_is_escaped() {
        assert_eq!(printable("caf\u{e9}/a b".as_bytes()), "caf\u{e9}/a b");
        assert_eq!(printable(b"a\x1b[2J\n"), "a\\u{1b}[2J\\n");
        assert_eq!(printable("a\u{202e}b".as_bytes()), "a\\u{202e}b");
        assert_eq!(printable(b"a\xff\0"), "a\\xff\\x00");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(printable_start(b"12345678", 8), "12345678");
        assert_eq!(printable_start(b"123456789", 8), "12345...");
        assert_eq!(printable_start("\u{e9}".repeat(100).as_bytes(), 5), "\u{e9}\u{e9}...");
        assert_eq!(printable_start(&[0xff; 1000], 8), "\\xff\\...");
    }
}
