//! The rules, in the order in which they are checked.

use std::fmt;

use crate::Workspace;

pub mod arrows;
pub mod licences;
pub mod manifests;
pub mod pages;
pub mod sources;

/// One house rule.
#[derive(Debug)]
pub struct Rule {
    /// What is kept, in a few words, for messages.
    pub name: &'static str,
    /// Finds every place where it is not kept; free of side effects.
    pub check: fn(&Workspace) -> Vec<Breach>,
}

/// One place where a rule is not kept.
#[derive(Debug, PartialEq, Eq)]
pub struct Breach {
    /// A file, with a line where there is one, or a crate.
    pub place: String,
    /// What is wrong and what to do.
    pub advice: String,
}

/// Every rule.
pub const RULES: &[Rule] = &[
    Rule { name: "crates depend along the arrows", check: arrows::between_crates },
    Rule { name: "the core knows no runtime", check: arrows::to_runtimes },
    Rule { name: "banned packages stay with their wrappers", check: arrows::to_banned_packages },
    Rule { name: "licences are on the allow-list", check: licences::allowed },
    Rule { name: "folders and packages share a name", check: manifests::names },
    Rule { name: "manifests inherit from the workspace", check: manifests::inherited },
    Rule { name: "dependencies say what they are for", check: manifests::reasons },
    Rule { name: "sources hold no leftovers", check: sources::leftovers },
    Rule { name: "sources are ASCII and fit the page", check: sources::lines },
    Rule { name: "files are short and say what they hold", check: sources::files },
    Rule { name: "clocks are read by the shells", check: sources::clocks },
    Rule { name: "links resolve", check: pages::links },
    Rule { name: "pages are reachable", check: pages::reachable },
    Rule { name: "no registry is named", check: pages::registries },
];

impl Breach {
    /// A breach at a line, counted from 1.
    pub(crate) fn at_line(path: &str, line_number: usize, advice: impl Into<String>) -> Self {
        Self { place: format!("{path}:{line_number}"), advice: advice.into() }
    }

    /// A breach by a file or crate as a whole.
    pub(crate) fn of(place: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { place: place.into(), advice: advice.into() }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.place, self.advice)
    }
}

/// Lines of a text with their numbers, counted from 1.
pub(crate) fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Breach, RULES};
    use crate::Workspace;

    /// A workspace of these files and nothing else.
    pub(crate) fn files(files: &[(&str, &str)]) -> Workspace {
        let mut workspace = Workspace::default();
        for (path, text) in files {
            workspace.texts.insert((*path).to_owned(), (*text).to_owned());
            for (end, _) in path.match_indices('/') {
                workspace.paths.insert(path[..end].to_owned());
            }
            workspace.paths.insert((*path).to_owned());
        }
        workspace
    }

    /// Where the breaches are, in the order found.
    pub(crate) fn places(breaches: &[Breach]) -> Vec<&str> {
        breaches.iter().map(|breach| breach.place.as_str()).collect()
    }

    #[test]
    fn an_empty_workspace_breaks_no_rule() {
        for rule in RULES {
            assert_eq!((rule.check)(&Workspace::default()), [], "{}", rule.name);
        }
    }
}
