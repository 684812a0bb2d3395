//! The crate graph, as `cargo metadata` prints it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::Deserialize;

/// Packages of the workspace and of everything it depends on, and who depends on whom.
///
/// The arrows between packages are those of one platform and of default features; what a member *declares*, on any platform
/// and under any feature, is in its [`Package::dependencies`].
#[derive(Debug, Default, Deserialize)]
pub struct CrateGraph {
    packages: Vec<Package>,
    #[serde(rename = "workspace_members")]
    members: BTreeSet<PackageId>,
    resolve: Resolve,
}

/// cargo's opaque name of a package with its version and origin.
pub type PackageId = String;

/// One package, ours or another's.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// Unique in the graph.
    pub id: PackageId,
    /// The name that manifests use; several versions share it.
    pub name: String,
    /// The version, for messages.
    pub version: String,
    /// The SPDX expression of its manifest.
    pub license: Option<String>,
    /// The absolute path of its manifest.
    pub manifest_path: String,
    /// What its manifest declares: normal, dev and build dependencies, optional ones included.
    pub dependencies: Vec<Dependency>,
}

/// One line of a manifest's dependency tables.
#[derive(Debug, Deserialize)]
pub struct Dependency {
    /// The package's own name, not the name it may be renamed to.
    pub name: String,
}

#[derive(Debug, Default, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: PackageId,
    deps: Vec<Arrow>,
}

#[derive(Debug, Deserialize)]
struct Arrow {
    pkg: PackageId,
    dep_kinds: Vec<ArrowKind>,
}

#[derive(Debug, Deserialize)]
struct ArrowKind {
    /// `None` for a normal dependency, else `dev` or `build`.
    kind: Option<String>,
}

impl Arrow {
    fn is_only_for_tests(&self) -> bool {
        self.dep_kinds.iter().all(|each| each.kind.as_deref() == Some("dev"))
    }
}

impl CrateGraph {
    /// Reads the output of `cargo metadata --format-version 1`.
    pub fn parse(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }

    /// All packages, in no particular order.
    pub fn packages(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter()
    }

    /// The packages of this workspace.
    pub fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.members.contains(&package.id))
    }

    /// Every arrow of the graph as (dependent, dependency), those that exist only for a member's tests included.
    pub fn arrows(&self) -> impl Iterator<Item = (&Package, &Package)> {
        let by_id = self.by_id();
        self.resolve.nodes.iter().flat_map(move |node| {
            let dependent = by_id[node.id.as_str()];
            let dependencies: Vec<_> = node.deps.iter().map(|arrow| (dependent, by_id[arrow.pkg.as_str()])).collect();
            dependencies
        })
    }

    /// The shortest way from a member to a package with one of these names, both ends included.
    ///
    /// Follows the member's own dev-dependencies, and normal and build dependencies from there on.
    pub fn way_to(&self, member: &Package, names: &[&str]) -> Option<Vec<&Package>> {
        let by_id = self.by_id();
        let arrows: BTreeMap<&str, &[Arrow]> =
            self.resolve.nodes.iter().map(|node| (node.id.as_str(), node.deps.as_slice())).collect();
        let start = by_id[member.id.as_str()];
        let mut came_from: BTreeMap<&str, &Package> = BTreeMap::new();
        let mut waiting = VecDeque::from([start]);
        while let Some(package) = waiting.pop_front() {
            if names.contains(&package.name.as_str()) {
                return Some(way_back(package, &came_from));
            }
            for arrow in arrows.get(package.id.as_str()).copied().unwrap_or_default() {
                let is_followed = package.id == start.id || !arrow.is_only_for_tests();
                if is_followed && arrow.pkg != start.id && !came_from.contains_key(arrow.pkg.as_str()) {
                    came_from.insert(arrow.pkg.as_str(), package);
                    waiting.push_back(by_id[arrow.pkg.as_str()]);
                }
            }
        }
        None
    }

    fn by_id(&self) -> BTreeMap<&str, &Package> {
        self.packages.iter().map(|package| (package.id.as_str(), package)).collect()
    }
}

fn way_back<'graph>(end: &'graph Package, came_from: &BTreeMap<&str, &'graph Package>) -> Vec<&'graph Package> {
    let mut way = vec![end];
    let mut package = end;
    while let Some(previous) = came_from.get(package.id.as_str()) {
        way.push(previous);
        package = previous;
    }
    way.reverse();
    way
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Arrow, ArrowKind, CrateGraph, Dependency, Node, Package, Resolve};

    /// A graph of (dependent, dependency, kind) arrows; packages named `quorate-*` are members.
    pub(crate) fn graph(arrows: &[(&str, &str, Option<&str>)]) -> CrateGraph {
        let mut graph = CrateGraph { resolve: Resolve { nodes: Vec::new() }, ..CrateGraph::default() };
        for (dependent, dependency, kind) in arrows {
            ensure(&mut graph, dependent);
            ensure(&mut graph, dependency);
            let package = graph.packages.iter_mut().find(|package| package.name == *dependent).unwrap();
            package.dependencies.push(Dependency { name: (*dependency).to_owned() });
            let node = graph.resolve.nodes.iter_mut().find(|node| node.id == *dependent).unwrap();
            let kind = ArrowKind { kind: kind.map(str::to_owned) };
            node.deps.push(Arrow { pkg: (*dependency).to_owned(), dep_kinds: vec![kind] });
        }
        graph
    }

    fn ensure(graph: &mut CrateGraph, name: &str) {
        if graph.packages.iter().any(|package| package.name == name) {
            return;
        }
        graph.packages.push(Package {
            id: name.to_owned(),
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            license: Some("MIT OR Apache-2.0".to_owned()),
            manifest_path: format!("/q/crates/{}/Cargo.toml", name.trim_start_matches("quorate-")),
            dependencies: Vec::new(),
        });
        graph.resolve.nodes.push(Node { id: name.to_owned(), deps: Vec::new() });
        if name.starts_with("quorate-") {
            graph.members.insert(name.to_owned());
        }
    }

    fn names(way: Option<Vec<&Package>>) -> Option<Vec<&str>> {
        way.map(|way| way.into_iter().map(|package| package.name.as_str()).collect())
    }

    #[test]
    fn a_way_leads_over_other_packages() {
        let graph = graph(&[("quorate-node", "a", None), ("a", "b", None), ("b", "tokio", Some("build"))]);
        let node = graph.members().next().unwrap();
        assert_eq!(names(graph.way_to(node, &["mio", "tokio"])), Some(vec!["quorate-node", "a", "b", "tokio"]));
        assert_eq!(names(graph.way_to(node, &["hyper"])), None);
    }

    #[test]
    fn only_the_members_own_dev_dependencies_count() {
        let graph = graph(&[("quorate-sim", "quorate-log", None), ("quorate-log", "tokio", Some("dev"))]);
        let member = |name: &str| graph.members().find(|package| package.name == name).unwrap();
        assert_eq!(names(graph.way_to(member("quorate-sim"), &["tokio"])), None);
        assert_eq!(names(graph.way_to(member("quorate-log"), &["tokio"])), Some(vec!["quorate-log", "tokio"]));
    }

    #[test]
    fn a_circle_of_dev_dependencies_ends() {
        let graph = graph(&[("quorate-api", "quorate-log", None), ("quorate-log", "quorate-api", Some("dev"))]);
        for member in graph.members() {
            assert_eq!(names(graph.way_to(member, &["tokio"])), None);
        }
    }
}
