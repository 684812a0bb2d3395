//! Licences of the whole dependency tree.

use spdx::{Expression, ParseMode};

use crate::rules::Breach;
use crate::workspace::Workspace;

/// Every package's licence expression can be met with the licences that `deny.toml` allows.
pub fn allowed(workspace: &Workspace) -> Vec<Breach> {
    let allow = &workspace.policy.licenses.allow;
    let mut breaches = Vec::new();
    for package in workspace.graph.packages() {
        let licence = package.license.as_deref().unwrap_or_default();
        // Lax, because older manifests separate their choices by a slash.
        let is_allowed = Expression::parse_mode(licence, ParseMode::LAX)
            .is_ok_and(|expression| expression.evaluate(|requirement| allow.contains(&requirement.to_string())));
        if !is_allowed {
            let advice =
                format!("is under `{licence}`: choose another package, or extend the allow-list of deny.toml with a reason");
            breaches.push(Breach::of(format!("{} {}", package.name, package.version), advice));
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::allowed;
    use crate::Workspace;
    use crate::crate_graph::CrateGraph;
    use crate::rules::tests::places;

    fn allows(licence: &str) -> bool {
        let package = serde_json::json!({
            "id": "a", "name": "a", "version": "1.2.3", "license": licence, "manifest_path": "/a", "dependencies": [],
        });
        let json = serde_json::json!({ "packages": [package], "workspace_members": [], "resolve": { "nodes": [] } });
        let graph = CrateGraph::parse(json.to_string().as_bytes()).unwrap();
        let mut workspace = Workspace { graph, ..Workspace::default() };
        let allow = ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"];
        workspace.policy.licenses.allow = allow.map(str::to_owned).to_vec();
        let breaches = allowed(&workspace);
        assert!(breaches.is_empty() || places(&breaches) == ["a 1.2.3"]);
        breaches.is_empty()
    }

    #[test]
    fn one_side_of_a_choice_is_enough_and_a_sum_needs_all() {
        assert!(allows("MIT"));
        assert!(allows("GPL-3.0-only OR MIT"));
        assert!(allows("Apache-2.0/MIT"));
        assert!(allows("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(allows("Apache-2.0 WITH LLVM-exception"));
        assert!(!allows("GPL-3.0-only AND MIT"));
        assert!(!allows("Apache-2.0"));
    }

    #[test]
    fn a_missing_or_unreadable_licence_is_refused() {
        assert!(!allows(""));
        assert!(!allows("do what you like"));
    }
}
