//! The house rules as checks: what a compiler, a formatter and clippy cannot hold.
//!
//! Each rule is a pure function from a [`Workspace`] (file texts, crate graph, policy) to its [`Breach`]es, and each
//! breach says what to do. The rules run as a test, so `cargo test --workspace` holds them, and by hand with
//! `cargo run -p quorate-xtask -- check`. What may be named by whom, and under which licence, is read from `deny.toml`,
//! so that cargo-deny and the rules cannot disagree.
//!
//! This crate knows nothing about the other crates' code: it reads their manifests and sources as text.

pub mod crate_graph;
pub mod policy;
pub mod rules;
pub mod workspace;

pub use rules::{Breach, RULES, Rule};
pub use workspace::{LoadError, Workspace};

/// Checks every rule and returns the breaches in the order of [`RULES`], each with the name of the rule it breaks.
#[must_use]
pub fn check(workspace: &Workspace) -> Vec<(&'static str, Breach)> {
    RULES.iter().flat_map(|rule| (rule.check)(workspace).into_iter().map(|breach| (rule.name, breach))).collect()
}
