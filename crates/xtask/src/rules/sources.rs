//! Rust sources: leftovers, line and file lengths, names of modules, clocks.

use crate::rules::{Breach, numbered};
use crate::workspace::Workspace;

/// The widest line, in characters: rustfmt holds it for code, this rule for comments and strings as well.
const MAX_LINE_CHARS: usize = 130;

/// The longest file, in lines: beyond it, a file holds more than one subject.
const MAX_FILE_LINES: usize = 800;

/// What is not to be committed, in two halves, so that this file does not hold it either.
const LEFTOVERS: [&str; 4] = [concat!("FIX", "ME"), concat!("dbg", "!("), concat!("to", "do!("), concat!("unimple", "mented!(")];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 7] = ["common", "helper", "helpers", "misc", "types", "util", "utils"];

/// Calls that read a clock, in two halves as above; clippy.toml bans them too, this rule says where an exception may stand.
const CLOCK_READS: [&str; 2] = [concat!("SystemTime", "::now"), concat!("Instant", "::now")];

/// No line holds a word of `LEFTOVERS`.
pub fn leftovers(workspace: &Workspace) -> Vec<Breach> {
    let found = |line: &str| LEFTOVERS.iter().find(|leftover| line.contains(**leftover)).copied();
    in_lines(workspace, |_, line| {
        found(line).map(|leftover| format!("holds `{leftover}`: finish it, or open an issue and remove it"))
    })
}

/// Lines are ASCII, and no wider than `MAX_LINE_CHARS` unless a web address makes them so.
pub fn lines(workspace: &Workspace) -> Vec<Breach> {
    in_lines(workspace, |_, line| {
        if let Some(character) = line.chars().find(|character| !character.is_ascii()) {
            return Some(format!("holds `{character}`: write `{}`, or say it in ASCII", character.escape_unicode()));
        }
        let is_too_wide = line.len() > MAX_LINE_CHARS && !line.contains("://");
        is_too_wide.then(|| format!("is {} characters wide: break it at {MAX_LINE_CHARS}", line.len()))
    })
}

/// Files are no longer than `MAX_FILE_LINES` and named after what they hold.
pub fn files(workspace: &Workspace) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (path, text) in workspace.texts_with("rs") {
        let line_count = text.lines().count();
        if line_count > MAX_FILE_LINES {
            breaches.push(Breach::of(path, format!("has {line_count} lines: split it by subject, {MAX_FILE_LINES} at most")));
        }
        let mut parts = path.trim_end_matches(".rs").split('/');
        if let Some(name) = parts.find(|part| EMPTY_NAMES.contains(part)) {
            breaches
                .push(Breach::of(path, format!("`{name}` does not say what is inside: name it after the one thing it holds")));
        }
    }
    breaches
}

/// Only the shells' own files, tests and examples read a clock; everything else is told the time.
pub fn clocks(workspace: &Workspace) -> Vec<Breach> {
    in_lines(workspace, |path, line| {
        let call = CLOCK_READS.iter().find(|call| line.contains(**call))?;
        (!may_read_clock(path)).then(|| format!("calls `{call}`: take the time as an argument, or read it in server::clock"))
    })
}

fn may_read_clock(path: &str) -> bool {
    path == "crates/server/src/clock.rs"
        || ["crates/cli/", "crates/sim/src/bin/", "crates/sim/src/main.rs"].iter().any(|folder| path.starts_with(folder))
        || ["/tests/", "/examples/", "/benches/"].iter().any(|folder| path.contains(folder))
}

/// The breach of each line for which `advice` says something; it is handed path and line.
fn in_lines(workspace: &Workspace, advice: impl Fn(&str, &str) -> Option<String>) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (path, text) in workspace.texts_with("rs") {
        let found = numbered(text).filter_map(|(number, line)| Some(Breach::at_line(path, number, advice(path, line)?)));
        breaches.extend(found);
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::{CLOCK_READS, LEFTOVERS, MAX_FILE_LINES, MAX_LINE_CHARS, clocks, files, leftovers, lines};
    use crate::rules::tests::{files as workspace, places};

    #[test]
    fn each_leftover_is_found() {
        for leftover in LEFTOVERS {
            let text = format!("fn main() {{\n    // {leftover}\n}}\n");
            assert_eq!(places(&leftovers(&workspace(&[("a.rs", &text), ("a.md", &text)]))), ["a.rs:2"], "{leftover}");
        }
    }

    #[test]
    fn wide_and_non_ascii_lines_are_found() {
        let fits = "a".repeat(MAX_LINE_CHARS);
        let text = format!("{fits}\n{fits}b\n// https://{fits}\ncaf\u{e9}\n");
        let breaches = lines(&workspace(&[("a.rs", &text)]));
        assert_eq!(places(&breaches), ["a.rs:2", "a.rs:4"]);
        assert!(breaches[1].advice.contains("\\u{e9}"), "{}", breaches[1]);
    }

    #[test]
    fn long_files_and_empty_names_are_found() {
        let fits = "\n".repeat(MAX_FILE_LINES);
        let workspace = workspace(&[
            ("crates/a/src/long.rs", &format!("{fits}\n")),
            ("crates/a/src/short.rs", &fits),
            ("crates/a/src/types.rs", ""),
            ("crates/a/src/types_of_ship.rs", ""),
            ("crates/a/tests/common/mod.rs", ""),
        ]);
        assert_eq!(places(&files(&workspace)), ["crates/a/src/long.rs", "crates/a/src/types.rs", "crates/a/tests/common/mod.rs"]);
    }

    #[test]
    fn a_clock_below_the_shell_is_found() {
        for call in CLOCK_READS {
            let text = format!("let now = std::time::{call}();\n");
            let paths = [
                "crates/node/src/lib.rs",
                "crates/server/src/clock.rs",
                "crates/server/src/peers.rs",
                "crates/log/tests/crash.rs",
            ];
            let breaches = clocks(&workspace(&paths.map(|path| (path, text.as_str()))));
            assert_eq!(places(&breaches), ["crates/node/src/lib.rs:1", "crates/server/src/peers.rs:1"]);
        }
    }
}
