//! Bash, which splits words at `:` and `=` too, so that neither an endpoint nor many a key reaches a completer in one piece.
//! clap's own adapter lives with that (its issue 6280); this one takes the line as it was typed and splits it as bash runs it.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use clap_complete::env::EnvCompleter;

use super::live;

pub(super) const NAME: &str = "bash";

/// Completion for bash 3.2 and later.
#[derive(Debug)]
pub(super) struct Bash;

impl EnvCompleter for Bash {
    fn name(&self) -> &'static str {
        NAME
    }

    fn is(&self, name: &str) -> bool {
        name == NAME
    }

    fn write_registration(&self, var: &str, name: &str, bin: &str, completer: &str, out: &mut dyn Write) -> io::Result<()> {
        let completer = crate::demo::node_process::shell_word(completer);
        write!(
            out,
            r#"_{name}() {{
    local reply
    COMPREPLY=()
    while IFS= read -r reply; do
        COMPREPLY+=("$reply")
    done < <({var}={NAME} {completer} -- "${{COMP_LINE:0:COMP_POINT}}" "$2")
    if [[ ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} == *[=/:] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}}
complete -o bashdefault -F _{name} {bin}
"#
        )
    }

    /// `args` are the line up to the cursor, and the part of its last word that bash replaces with what is chosen.
    fn write_complete(
        &self,
        command: &mut clap::Command,
        args: Vec<OsString>,
        here: Option<&Path>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let mut args = args.into_iter().map(|arg| arg.to_string_lossy().into_owned());
        let line = Line::split(&args.next().unwrap_or_default());
        let replaced = args.next().unwrap_or_default();
        // Of a quoted word bash tells what is in the quotes.
        let replaced = match line.open_quote {
            Some(_) => replaced,
            None => Line::split(&replaced).words.pop().unwrap_or_default(),
        };
        live::look_at(line.words.iter());
        let words: Vec<OsString> = line.words.iter().map(OsString::from).collect();
        let last = words.len() - 1;
        for candidate in clap_complete::engine::complete(command, words, last, here)? {
            if let Some(value) = candidate.get_value().to_str() {
                writeln!(out, "{}", line.replacement(value, &replaced))?;
            }
        }
        Ok(())
    }
}

/// A command line, read as bash reads it.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    /// At least one; the last is the one to be completed, perhaps still empty.
    words: Vec<String>,
    /// The quote that the last word is in.
    open_quote: Option<char>,
}

impl Line {
    fn split(line: &str) -> Self {
        let mut words = vec![String::new()];
        let mut open_quote = None;
        let mut is_in_word = false;
        let mut chars = line.chars().peekable();
        while let Some(each) = chars.next() {
            let word = words.last_mut().expect("there is always one");
            match (open_quote, each) {
                (None, ' ' | '\t') => {
                    if std::mem::take(&mut is_in_word) {
                        words.push(String::new());
                    }
                    continue;
                }
                (None, '\'' | '"') => open_quote = Some(each),
                (Some(quote), _) if quote == each => open_quote = None,
                (None, '\\') => word.extend(chars.next()),
                (Some('"'), '\\') if matches!(chars.peek(), Some('"' | '\\' | '$' | '`')) => word.extend(chars.next()),
                _ => word.push(each),
            }
            is_in_word = true;
        }
        Self { words, open_quote }
    }

    /// What stands in the line, instead of `replaced`, once `value` is chosen for the last word.
    fn replacement(&self, value: &str, replaced: &str) -> String {
        let typed = self.words.last().map_or("", String::as_str);
        let kept = typed.strip_suffix(replaced).and_then(|kept| value.strip_prefix(kept)).unwrap_or(value);
        match self.open_quote {
            // Readline closes the quote.
            Some('"') => escaped(kept, |each| !"\"\\$`".contains(each)),
            Some(_) => kept.to_owned(),
            None => escaped(kept, |each| each.is_alphanumeric() || "-_./:,=@%+".contains(each) || !each.is_ascii()),
        }
    }
}

/// A word of which bash makes this one again.
fn escaped(word: &str, is_plain: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(word.len());
    for each in word.chars() {
        if !is_plain(each) {
            escaped.push('\\');
        }
        escaped.push(each);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::Line;

    fn split(line: &str) -> (Vec<String>, Option<char>) {
        let line = Line::split(line);
        (line.words, line.open_quote)
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn lines_are_split_as_bash_does_but_not_at_colons() {
        assert_eq!(split(""), (words(&[""]), None));
        assert_eq!(split("quorate -e http://a:1  get "), (words(&["quorate", "-e", "http://a:1", "get", ""]), None));
        assert_eq!(split(r#"q 'a b'"c"\ d"#), (words(&["q", "a bc d"]), None));
        assert_eq!(split(r#"q "a\"b\c"#), (words(&["q", r#"a"b\c"#]), Some('"')));
        assert_eq!(split("q '' x'y z"), (words(&["q", "", "xy z"]), Some('\'')));
    }

    #[test]
    fn only_what_bash_replaces_is_replaced() {
        let line = Line::split("quorate get users:an");
        assert_eq!(line.replacement("users:ann", "an"), "ann");
        assert_eq!(line.replacement("users:ann", "users:an"), "users:ann");
        assert_eq!(Line::split("quorate get a").replacement("a b$", "a"), "a\\ b\\$");
        assert_eq!(Line::split("quorate get 'a").replacement("a b$", "a"), "a b$");
        assert_eq!(Line::split("quorate get \"a").replacement("a b$", "a"), "a b\\$");
        assert_eq!(Line::split("quorate get ").replacement("caf\u{e9}/x~", ""), "caf\u{e9}/x\\~");
    }
}
