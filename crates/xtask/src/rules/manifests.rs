//! `Cargo.toml` files: names, what they inherit, and why each dependency is there.

use crate::rules::arrows::PREFIX;
use crate::rules::{Breach, numbered};
use crate::workspace::Workspace;

/// The package in `crates/log` is `quorate-log`.
pub fn names(workspace: &Workspace) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for member in workspace.graph.members() {
        let folder = member.name.strip_prefix(PREFIX).unwrap_or_default();
        if !member.manifest_path.ends_with(&format!("/crates/{folder}/Cargo.toml")) {
            breaches.push(Breach::of(
                &member.name,
                format!("stands in {}: it belongs in crates/<name without {PREFIX}>", member.manifest_path),
            ));
        }
    }
    breaches
}

/// Lints, and every dependency's version, stand once, in the root manifest.
pub fn inherited(workspace: &Workspace) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (path, text) in workspace.texts_with("toml").filter(|(path, _)| is_crate_manifest(path)) {
        let is_inherited = |entry: &Entry| entry.line.replace(' ', "").contains("workspace=true");
        if !entries(text).any(|entry| entry.section == "lints" && is_inherited(&entry)) {
            breaches.push(Breach::of(path, "has lints of its own: write `[lints]` and `workspace = true`"));
        }
        for entry in entries(text).filter(|entry| entry.section.ends_with("dependencies") && !is_inherited(entry)) {
            let advice = "names a version of its own: put it under [workspace.dependencies] and write `workspace = true`";
            breaches.push(Breach::at_line(path, entry.line_number, advice));
        }
        let tables = numbered(text).filter(|(_, line)| line.starts_with('[') && line.contains("dependencies."));
        breaches.extend(
            tables.map(|(number, _)| Breach::at_line(path, number, "spreads a dependency over a table: write it in one line")),
        );
    }
    breaches
}

/// Each entry of `[workspace.dependencies]` has a comment above it that says what it is for; entries of one family, such as
/// `hyper` and `hyper-util`, share one if they stand together.
pub fn reasons(workspace: &Workspace) -> Vec<Breach> {
    const ROOT: &str = "Cargo.toml";
    let text = workspace.texts.get(ROOT).map_or("", String::as_str);
    let mut breaches = Vec::new();
    let mut explained = "";
    for entry in entries(text).filter(|entry| entry.section == "workspace.dependencies") {
        let family = entry.line.split(['-', '_', ' ', '=', '.']).next().unwrap_or_default();
        let follows_its_family = family == explained && !entry.follows_blank;
        if !entry.follows_comment && !follows_its_family {
            breaches.push(Breach::at_line(ROOT, entry.line_number, format!("write a comment above it: what is `{family}` for?")));
        }
        explained = family;
    }
    breaches
}

fn is_crate_manifest(path: &str) -> bool {
    path.starts_with("crates/") && path.ends_with("/Cargo.toml")
}

/// One `key = value` of a manifest.
struct Entry<'text> {
    section: &'text str,
    line_number: usize,
    line: &'text str,
    follows_comment: bool,
    follows_blank: bool,
}

/// The entries of a manifest as our manifests are written: one to a line, arrays perhaps continued on indented lines.
fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    let mut section = "";
    let mut previous = "";
    numbered(text).filter_map(move |(line_number, line)| {
        let above = std::mem::replace(&mut previous, line);
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end().trim_end_matches(']');
            return None;
        }
        let is_entry = line.starts_with(|first: char| first.is_ascii_alphabetic() || first == '"');
        let (follows_comment, follows_blank) = (above.starts_with('#'), above.trim().is_empty());
        is_entry.then_some(Entry { section, line_number, line, follows_comment, follows_blank })
    })
}

#[cfg(test)]
mod tests {
    use super::{inherited, names, reasons};
    use crate::Workspace;
    use crate::crate_graph::CrateGraph;
    use crate::rules::tests::{files, places};

    #[test]
    fn a_package_in_another_folder_is_found() {
        let package = |name: &str, folder: &str| {
            let manifest_path = format!("/q/crates/{folder}/Cargo.toml");
            serde_json::json!({
                "id": name, "name": name, "version": "1.0.0", "manifest_path": manifest_path, "dependencies": [],
            })
        };
        let json = serde_json::json!({
            "packages": [package("quorate-log", "log"), package("quorate-api", "rest"), package("node", "node")],
            "workspace_members": ["quorate-log", "quorate-api", "node"],
            "resolve": { "nodes": [] },
        });
        let graph = CrateGraph::parse(json.to_string().as_bytes()).unwrap();
        assert_eq!(places(&names(&Workspace { graph, ..Workspace::default() })), ["quorate-api", "node"]);
    }

    #[test]
    fn versions_and_lints_of_a_crates_own_are_found() {
        let good = "[lints]\nworkspace = true\n\n\
                    [dependencies]\nbytes.workspace = true\ntokio = { workspace = true, features = [\n  \"fs\",\n] }\n";
        let wrong = "[dependencies]\nbytes = \"1\"\n\n\
                     [dev-dependencies]\nrand = { version = \"0.9\" }\n\
                     [dependencies.http]\nversion = \"1\"\n";
        let workspace = files(&[("crates/a/Cargo.toml", good), ("crates/b/Cargo.toml", wrong)]);
        let found = inherited(&workspace);
        assert_eq!(
            places(&found),
            ["crates/b/Cargo.toml", "crates/b/Cargo.toml:2", "crates/b/Cargo.toml:5", "crates/b/Cargo.toml:6"]
        );
    }

    #[test]
    fn a_dependency_without_a_reason_is_found() {
        let manifest = "[workspace.dependencies]\n\
                        # HTTP.\nhyper = \"1\"\nhyper-util = \"0.1\"\nhttp = \"1\"\n\nhttp-body = \"1\"\n\
                        # Bytes.\nbytes = \"1\"\n\n\
                        [profile.dev]\ndebug = 1\n";
        assert_eq!(places(&reasons(&files(&[("Cargo.toml", manifest)]))), ["Cargo.toml:5", "Cargo.toml:7"]);
    }
}
