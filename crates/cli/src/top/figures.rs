//! What is shown: gauges of the newer of two samples, and rates between the two.

use std::collections::BTreeSet;

use serde::Serialize;

use super::sample::{Metrics, NodeSample, Sample};

/// What is shown.
#[derive(Debug)]
pub(super) struct Figures {
    /// By name.
    pub(super) nodes: Vec<NodeFigures>,
    /// The busiest first.
    pub(super) keyspaces: Vec<KeyspaceFigures>,
}

/// One node.
#[derive(Debug, Serialize)]
pub(super) struct NodeFigures {
    pub(super) name: String,
    pub(super) role: String,
    /// Whether it said anything; if not, all its figures are 0.
    pub(super) is_reached: bool,
    pub(super) connections: u64,
    pub(super) gets_per_s: f64,
    /// Puts and deletes, of the older routes too.
    pub(super) writes_per_s: f64,
    pub(super) lists_per_s: f64,
    pub(super) others_per_s: f64,
    /// Answers of 500 and above.
    pub(super) failed_per_s: f64,
    pub(super) pending_requests: u64,
    pub(super) is_disk_full: bool,
    /// Groups that it leads.
    pub(super) leads: u64,
}

/// One keyspace, over all nodes that were reached.
#[derive(Debug, Serialize)]
pub(super) struct KeyspaceFigures {
    pub(super) name: String,
    pub(super) leader: Option<String>,
    /// Applied by the node that applied most.
    pub(super) commands_per_s: f64,
    pub(super) revision: u64,
    pub(super) data_bytes: u64,
    pub(super) log_entries: u64,
    /// Entries that are committed and that the slowest replica has not applied.
    pub(super) behind_entries: u64,
}

impl Figures {
    pub(super) fn between(before: &Sample, now: &Sample) -> Self {
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64().max(f64::EPSILON);
        let metrics_before = |node: &NodeSample| before.node(&node.name).and_then(|node| node.metrics.as_ref());
        let rates = |node: &NodeSample| Rates { before: metrics_before(node), seconds };
        let nodes = now.nodes.iter().map(|node| NodeFigures::of(node, &rates(node))).collect();
        let names: BTreeSet<&str> =
            now.nodes.iter().filter_map(|node| node.metrics.as_ref()).flat_map(Metrics::keyspaces).collect();
        let of_keyspace = |name| {
            let nodes = now.nodes.iter().filter_map(|node| Some((node, node.metrics.as_ref()?, rates(node))));
            KeyspaceFigures::of(name, nodes)
        };
        let mut keyspaces: Vec<KeyspaceFigures> = names.into_iter().map(of_keyspace).collect();
        keyspaces.sort_by(|one, other| {
            let busier = other.commands_per_s.total_cmp(&one.commands_per_s);
            busier.then(other.data_bytes.cmp(&one.data_bytes)).then_with(|| one.name.cmp(&other.name))
        });
        Self { nodes, keyspaces }
    }
}

/// How counters of a node have grown.
struct Rates<'a> {
    before: Option<&'a Metrics>,
    seconds: f64,
}

impl Rates<'_> {
    /// By how much a counter grew each second: nothing if it is not known from before, or began anew.
    fn of(&self, now: &Metrics, name: &str, label: &str) -> f64 {
        let grown = self.before.map_or(0.0, |before| now.sum(name, label) - before.sum(name, label));
        grown.max(0.0) / self.seconds
    }
}

const REQUESTS: &str = "quorate_rest_requests_total";

impl NodeFigures {
    fn of(node: &NodeSample, rates: &Rates<'_>) -> Self {
        let silent = Metrics::default();
        let metrics = node.metrics.as_ref().unwrap_or(&silent);
        let requests = |label: &str| rates.of(metrics, REQUESTS, label);
        let routes = |names: &[&str]| names.iter().map(|name| requests(&format!("route=\"{name}\""))).sum::<f64>();
        let (gets, writes, lists) = (routes(&["key_get"]), routes(&["key_put", "key_delete", "compat"]), routes(&["list"]));
        Self {
            name: node.name.clone(),
            role: node.role.clone(),
            is_reached: node.metrics.is_some(),
            connections: count(metrics.sum("quorate_rest_connections", "")),
            gets_per_s: gets,
            writes_per_s: writes,
            lists_per_s: lists,
            others_per_s: (requests("") - gets - writes - lists).max(0.0),
            failed_per_s: requests("class=\"5xx\""),
            pending_requests: count(metrics.sum("quorate_node_pending_requests", "")),
            is_disk_full: metrics.sum("quorate_node_is_disk_full", "") > 0.0,
            leads: count(metrics.sum("quorate_raft_is_leader", "")),
        }
    }
}

impl KeyspaceFigures {
    fn of<'a>(name: &str, nodes: impl Iterator<Item = (&'a NodeSample, &'a Metrics, Rates<'a>)>) -> Self {
        let label = format!("keyspace=\"{name}\"");
        let mut figures = Self {
            name: name.to_owned(),
            leader: None,
            commands_per_s: 0.0,
            revision: 0,
            data_bytes: 0,
            log_entries: 0,
            behind_entries: 0,
        };
        let (mut committed, mut slowest) = (0, u64::MAX);
        for (node, metrics, rates) in nodes {
            let gauge = |name: &str| count(metrics.sum(name, &label));
            if gauge("quorate_raft_is_leader") > 0 {
                figures.leader = Some(node.name.clone());
            }
            let commands_per_s = rates.of(metrics, "quorate_keyspace_applied_commands_total", &label);
            figures.commands_per_s = figures.commands_per_s.max(commands_per_s);
            figures.revision = figures.revision.max(gauge("quorate_keyspace_revision"));
            figures.data_bytes = figures.data_bytes.max(gauge("quorate_keyspace_data_bytes"));
            figures.log_entries = figures.log_entries.max(gauge("quorate_raft_log_entries"));
            committed = committed.max(gauge("quorate_raft_commit_index"));
            slowest = slowest.min(gauge("quorate_raft_applied_index"));
        }
        Self { behind_entries: committed.saturating_sub(slowest), ..figures }
    }
}

/// Counters and most gauges are whole numbers, and never negative.
#[expect(clippy::cast_sign_loss, reason = "what is below 0 becomes 0")]
fn count(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Figures, NodeSample, Sample};
    use crate::bench::now;
    use crate::top::sample::tests::metrics;

    fn node(name: &str, text: Option<&str>) -> NodeSample {
        NodeSample { name: name.to_owned(), role: "voter".to_owned(), metrics: text.map(metrics) }
    }

    fn text(gets: u64, failed: u64, applied: u64, is_leader: u64) -> String {
        let requests = |route: &str, class: &str, count| {
            format!("quorate_rest_requests_total{{route=\"{route}\",class=\"{class}\"}} {count}\n")
        };
        let of_keyspace = |name: &str, value| format!("{name}{{keyspace=\"default\"}} {value}\n");
        [
            requests("key_get", "2xx", gets),
            requests("key_put", "2xx", 50),
            requests("other", "5xx", failed),
            of_keyspace("quorate_keyspace_revision", applied),
            of_keyspace("quorate_keyspace_applied_commands_total", applied),
            of_keyspace("quorate_raft_commit_index", applied),
            of_keyspace("quorate_raft_applied_index", applied),
            of_keyspace("quorate_raft_is_leader", is_leader),
            "quorate_rest_connections 3\n".to_owned(),
        ]
        .concat()
    }

    fn sample(at: Instant, nodes: [Option<String>; 3]) -> Sample {
        let names = ["n1", "n2", "n3"];
        let nodes = names.into_iter().zip(nodes).map(|(name, text)| node(name, text.as_deref())).collect();
        Sample { at, nodes }
    }

    #[test]
    fn rates_are_what_grew_and_gauges_are_what_is() {
        let start = now();
        let before = sample(start, [Some(text(100, 0, 10, 1)), None, Some(text(999, 0, 10, 0))]);
        let after =
            sample(start + Duration::from_secs(2), [Some(text(300, 4, 50, 1)), Some(text(7, 0, 50, 0)), Some(text(5, 0, 44, 0))]);
        let figures = Figures::between(&before, &after);
        let [n1, n2, n3] = figures.nodes.as_slice() else { panic!("three nodes") };
        assert_eq!((n1.gets_per_s, n1.writes_per_s, n1.others_per_s, n1.failed_per_s), (100.0, 0.0, 2.0, 2.0));
        assert_eq!((n1.connections, n1.leads, n1.is_reached), (3, 1, true));
        assert_eq!((n2.gets_per_s, n3.gets_per_s), (0.0, 0.0), "one was not known before, one began anew");
        let keyspace = &figures.keyspaces[0];
        assert_eq!((keyspace.name.as_str(), keyspace.leader.as_deref()), ("default", Some("n1")));
        assert_eq!((keyspace.commands_per_s, keyspace.revision, keyspace.behind_entries), (20.0, 50, 6));
    }

    #[test]
    fn a_node_that_is_not_reached_is_shown_without_figures() {
        let start = now();
        let before = sample(start, [Some(text(1, 0, 1, 1)), None, None]);
        let after = sample(start + Duration::from_secs(1), [None, None, None]);
        let figures = Figures::between(&before, &after);
        assert!(figures.nodes.iter().all(|node| !node.is_reached && node.connections == 0));
        assert!(figures.keyspaces.is_empty());
    }
}
