//! The part of `deny.toml` that the rules hold themselves, so that they hold where cargo-deny is not installed.

use serde::Deserialize;

/// `deny.toml`, as far as the rules read it; cargo-deny reads the rest.
#[derive(Debug, Default, Deserialize)]
pub struct Policy {
    /// The section `[licenses]`.
    pub licenses: Licences,
    /// The section `[bans]`.
    pub bans: Bans,
}

/// Which licences the dependency tree may carry.
#[derive(Debug, Default, Deserialize)]
pub struct Licences {
    /// SPDX identifiers, with exception where there is one, as in `Apache-2.0 WITH LLVM-exception`.
    pub allow: Vec<String>,
}

/// Which packages nobody may depend on, or only somebody.
#[derive(Debug, Default, Deserialize)]
pub struct Bans {
    /// Banned packages in their table form, `{ crate = "a", wrappers = ["b"] }`.
    pub deny: Vec<Ban>,
}

/// One banned package.
#[derive(Debug, Default, Deserialize)]
pub struct Ban {
    /// The banned package's name, without a version.
    #[serde(rename = "crate")]
    pub name: String,
    /// The only packages that may depend on it directly; none at all if empty.
    #[serde(default)]
    pub wrappers: Vec<String>,
}

impl Policy {
    /// Reads the text of `deny.toml`; keys that only cargo-deny uses are passed over.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::Policy;

    #[test]
    fn what_only_cargo_deny_reads_is_passed_over() {
        let policy = Policy::parse(
            r#"
            [graph]
            all-features = true
            [licenses]
            confidence-threshold = 0.9
            allow = ["MIT"]
            [bans]
            multiple-versions = "deny"
            deny = [{ crate = "redb", wrappers = ["quorate-engine"], reason = "one owner" }, { crate = "openssl" }]
            "#,
        )
        .unwrap();
        assert_eq!(policy.licenses.allow, ["MIT"]);
        assert_eq!(policy.bans.deny[0].wrappers, ["quorate-engine"]);
        assert!(policy.bans.deny[1].wrappers.is_empty());
    }

    #[test]
    fn a_policy_without_licences_is_refused() {
        assert!(Policy::parse("[bans]\ndeny = []").is_err());
    }
}
