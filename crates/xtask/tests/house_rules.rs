//! The house rules hold in this repository.

use quorate_xtask::{Workspace, check};

#[test]
fn the_house_rules_hold() {
    let workspace = Workspace::load().unwrap_or_else(|error| panic!("{error}"));
    let server = workspace.graph.members().find(|member| member.name == "quorate-server").expect("no server in the crate graph");
    assert!(workspace.graph.way_to(server, &["tokio"]).is_some(), "the arrows between packages were not read");
    assert!(workspace.texts.contains_key("crates/xtask/tests/house_rules.rs"), "the sources were not read");
    let breaches: Vec<String> = check(&workspace).into_iter().map(|(rule, breach)| format!("{rule}: {breach}")).collect();
    assert!(breaches.is_empty(), "{} places break a house rule:\n{}", breaches.len(), breaches.join("\n"));
}
