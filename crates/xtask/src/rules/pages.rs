//! Markdown pages: links, reachability, and what neither they nor the sources name.

use std::collections::BTreeSet;

use crate::rules::{Breach, numbered};
use crate::workspace::Workspace;

/// Hosts of package registries, in two halves, so that this file does not name them either.
const REGISTRY_HOSTS: [&str; 6] = [
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("npmjs", ".org"),
    concat!("npmjs", ".com"),
    concat!("deb.debian", ".org"),
];

/// Every relative link leads to a file or folder of the repository.
pub fn links(workspace: &Workspace) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (path, text) in workspace.texts_with("md") {
        for (line_number, target) in relative_links(text) {
            if !resolved(path, target).is_some_and(|target| workspace.paths.contains(&target)) {
                breaches.push(Breach::at_line(
                    path,
                    line_number,
                    format!("links to `{target}`, which is not there: correct or remove it"),
                ));
            }
        }
    }
    breaches
}

/// Every page below `docs/` is linked from README.md or docs/README.md.
pub fn reachable(workspace: &Workspace) -> Vec<Breach> {
    let mut linked = BTreeSet::new();
    for index in ["README.md", "docs/README.md"] {
        let text = workspace.texts.get(index).map_or("", String::as_str);
        linked.extend(relative_links(text).filter_map(|(_, target)| resolved(index, target)));
    }
    let pages = workspace.texts_with("md").filter(|(path, _)| path.starts_with("docs/"));
    pages
        .filter(|(path, _)| !linked.contains(*path))
        .map(|(path, _)| Breach::of(path, "is linked from neither README.md nor docs/README.md: nobody will find it"))
        .collect()
}

/// Neither pages nor sources name a registry's host, so that nothing has to change behind a mirror.
pub fn registries(workspace: &Workspace) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (path, text) in workspace.texts_with("md").chain(workspace.texts_with("rs")) {
        for (line_number, line) in numbered(text) {
            if let Some(host) = REGISTRY_HOSTS.iter().find(|host| line.contains(**host)) {
                breaches.push(Breach::at_line(
                    path,
                    line_number,
                    format!("names `{host}`: say `the registry`, or name the package only"),
                ));
            }
        }
    }
    breaches
}

/// The relative targets of a page's links, with their lines and without their fragments; code is passed over.
fn relative_links(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_in_fence = false;
    let prose = numbered(text).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_in_fence ^= is_fence;
        !is_in_fence && !is_fence
    });
    prose.flat_map(|(number, line)| targets(line).filter_map(move |target| Some((number, relative(target)?))))
}

/// What stands behind each `](`, and behind the `]:` of a definition.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let definition = line.starts_with('[').then(|| line.split_once("]: ")).flatten().map(|(_, target)| target);
    let inline = line.match_indices("](").filter(|(at, _)| !is_in_code(line, *at)).map(|(at, open)| &line[at + open.len()..]);
    let inline = inline.map(|rest| rest.split(')').next().unwrap_or(rest));
    inline.chain(definition).filter_map(|target| target.split_whitespace().next())
}

/// Whether an odd number of backticks stands before a place of the line.
fn is_in_code(line: &str, at: usize) -> bool {
    line[..at].matches('`').count() % 2 == 1
}

/// A link's path, if it leads to another file of the repository.
fn relative(target: &str) -> Option<&str> {
    let path = target.split('#').next().unwrap_or(target);
    let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
    (!is_elsewhere && !path.is_empty()).then_some(path)
}

/// The path from the repository's root of what `page` calls `target`; `None` if it leads out of the repository.
fn resolved(page: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::{REGISTRY_HOSTS, links, reachable, registries};
    use crate::rules::tests::{files, places};

    #[test]
    fn broken_links_are_found() {
        let page = "[a](../README.md#top) [b](gone.md) `[c](gone.md)`\n\
                    ```\n[d](gone.md)\n```\n\
                    [e](https://example.org/gone.md) [f](#here) [`g`](./deep/) [h](../../out.md)\n\
                    [i]: also-gone.md \"title\"\n";
        let workspace = files(&[("README.md", ""), ("docs/page.md", page), ("docs/deep/page.md", "")]);
        assert_eq!(places(&links(&workspace)), ["docs/page.md:1", "docs/page.md:5", "docs/page.md:6"]);
    }

    #[test]
    fn a_page_without_a_link_is_found() {
        let workspace = files(&[
            ("README.md", "[all](docs/README.md)"),
            ("docs/README.md", "[known](known.md)"),
            ("docs/known.md", "[deep](deep/lost.md)"),
            ("docs/deep/lost.md", ""),
        ]);
        assert_eq!(places(&reachable(&workspace)), ["docs/deep/lost.md"]);
    }

    #[test]
    fn each_registry_is_found() {
        for host in REGISTRY_HOSTS {
            let text = format!("See\nhttps://www.{host}/x\n");
            let workspace = files(&[("README.md", &text), ("a.rs", &text), ("Cargo.toml", &text)]);
            assert_eq!(places(&registries(&workspace)), ["README.md:2", "a.rs:2"], "{host}");
        }
    }
}
