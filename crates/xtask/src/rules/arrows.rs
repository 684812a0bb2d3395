//! Who may depend on whom: the table of crates, the packages that bring in a runtime, the packages with one owner.

use crate::crate_graph::Package;
use crate::rules::Breach;
use crate::workspace::Workspace;

/// What every package of this workspace is called, before its folder's name.
pub(crate) const PREFIX: &str = "quorate-";

/// Each crate and the crates it may depend on, dev-dependencies included. A crate earns its place by what it must not know,
/// so an arrow is added here only together with its reason in ARCHITECTURE.md.
const ARROWS: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("cli", &["server", "client", "api", "discovery", "proxy", "test-servers"]),
    ("client", &["api"]),
    ("discovery", &[]),
    ("engine", &[]),
    ("eventual", &["engine"]),
    ("external", &["engine", "test-servers"]),
    ("keyspace", &["engine"]),
    ("log", &[]),
    ("node", &["keyspace", "eventual", "log", "engine", "api"]),
    ("proxy", &["api"]),
    ("server", &["node", "api", "log", "engine", "external", "discovery"]),
    ("sim", &["node", "keyspace", "eventual", "log", "engine", "api"]),
    ("test-servers", &[]),
    ("xtask", &[]),
];

/// Crates that talk to sockets and so may run on a runtime; all others are driven by whoever calls them.
const SHELLS: [&str; 6] = ["cli", "client", "discovery", "external", "server", "test-servers"];

/// Packages that mean sockets, timers or HTTP: none is reached from the core, not even through somebody else.
const RUNTIMES: [&str; 9] = ["async-std", "axum", "hyper", "mio", "reqwest", "rustls", "smol", "tokio", "tonic"];

/// Every dependency between our crates is in `ARROWS`.
pub fn between_crates(workspace: &Workspace) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for member in workspace.graph.members() {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == short_name(member)) else {
            breaches.push(Breach::of(&member.name, "is not in the table of crates: add it to ARROWS and to ARCHITECTURE.md"));
            continue;
        };
        for dependency in &member.dependencies {
            if let Some(name) = dependency.name.strip_prefix(PREFIX)
                && !allowed.contains(&name)
            {
                let advice =
                    format!("must not know {}: move the code, or let the caller hand in what is needed", dependency.name);
                breaches.push(Breach::of(&member.name, advice));
            }
        }
    }
    breaches
}

/// No crate but the `SHELLS` reaches one of the `RUNTIMES`.
pub fn to_runtimes(workspace: &Workspace) -> Vec<Breach> {
    let core = workspace.graph.members().filter(|member| !SHELLS.contains(&short_name(member)));
    core.filter_map(|member| workspace.graph.way_to(member, &RUNTIMES).map(|way| (member, way)))
        .map(|(member, way)| {
            let way: Vec<&str> = way.into_iter().map(|package| package.name.as_str()).collect();
            Breach::of(&member.name, format!("reaches a runtime, {}: leave that to the shells", way.join(" -> ")))
        })
        .collect()
}

/// Only the wrappers that `deny.toml` names depend on a banned package, whether cargo-deny is installed or not.
pub fn to_banned_packages(workspace: &Workspace) -> Vec<Breach> {
    let resolved = workspace.graph.arrows().map(|(dependent, dependency)| (&dependent.name, &dependency.name));
    let declared = workspace.graph.members().flat_map(|member| member.dependencies.iter().map(|each| (&member.name, &each.name)));
    let mut breaches = Vec::new();
    for (dependent, dependency) in resolved.chain(declared) {
        let ban = workspace.policy.bans.deny.iter().find(|ban| ban.name == *dependency);
        if ban.is_some_and(|ban| !ban.wrappers.contains(dependent)) {
            let breach = Breach::of(dependent, format!("must not depend on {dependency}: deny.toml says why, and who may"));
            if !breaches.contains(&breach) {
                breaches.push(breach);
            }
        }
    }
    breaches
}

fn short_name(member: &Package) -> &str {
    member.name.strip_prefix(PREFIX).unwrap_or(&member.name)
}

#[cfg(test)]
mod tests {
    use super::{ARROWS, SHELLS, between_crates, to_banned_packages, to_runtimes};
    use crate::Workspace;
    use crate::crate_graph::tests::graph;
    use crate::policy::Ban;
    use crate::rules::tests::places;

    fn workspace(arrows: &[(&str, &str, Option<&str>)]) -> Workspace {
        Workspace { graph: graph(arrows), ..Workspace::default() }
    }

    #[test]
    fn an_arrow_against_the_table_is_found() {
        let wrong = workspace(&[("quorate-engine", "quorate-log", None), ("quorate-node", "quorate-log", None)]);
        assert_eq!(places(&between_crates(&wrong)), ["quorate-engine"]);
        let only_in_tests = workspace(&[("quorate-node", "quorate-sim", Some("dev"))]);
        assert_eq!(places(&between_crates(&only_in_tests)), ["quorate-node"]);
    }

    #[test]
    fn a_crate_outside_the_table_is_found() {
        assert_eq!(places(&between_crates(&workspace(&[("quorate-glue", "bytes", None)]))), ["quorate-glue"]);
    }

    #[test]
    fn the_table_has_no_circle_and_no_unknown_crate() {
        let mut settled: Vec<&str> = Vec::new();
        for _ in ARROWS {
            let ready = |(name, needs): &&(&'static str, &[&str])| {
                !settled.contains(name) && needs.iter().all(|need| settled.contains(need))
            };
            let next = ARROWS.iter().find(ready).map(|(name, _)| *name);
            settled.push(next.expect("a crate waits for itself or for one that is not in the table"));
        }
        assert!(SHELLS.iter().all(|shell| settled.contains(shell)));
    }

    #[test]
    fn a_runtime_is_found_behind_another_package() {
        let wrong = workspace(&[("quorate-sim", "a", Some("dev")), ("a", "tokio", None), ("quorate-server", "tokio", None)]);
        let breaches = to_runtimes(&wrong);
        assert_eq!(places(&breaches), ["quorate-sim"]);
        assert!(breaches[0].advice.contains("quorate-sim -> a -> tokio"), "{}", breaches[0]);
    }

    #[test]
    fn a_banned_package_is_left_to_its_wrappers() {
        let mut wrong =
            workspace(&[("quorate-node", "raft", None), ("quorate-sim", "raft", Some("dev")), ("b", "openssl", None)]);
        let ban = |name: &str, wrappers: &[&str]| Ban {
            name: name.to_owned(),
            wrappers: wrappers.iter().map(|&wrapper| wrapper.to_owned()).collect(),
        };
        wrong.policy.bans.deny = vec![ban("raft", &["quorate-node"]), ban("openssl", &[])];
        assert_eq!(places(&to_banned_packages(&wrong)), ["quorate-sim", "b"]);
    }
}
