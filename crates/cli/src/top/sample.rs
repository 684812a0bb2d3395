//! What all nodes say at one moment.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quorate_client::{Client, Options};
use tokio::task::JoinSet;

use crate::args::ClientArgs;
use crate::exit::Failure;

/// What all nodes say at one moment.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) nodes: Vec<NodeSample>,
}

/// What one node says.
#[derive(Debug)]
pub(super) struct NodeSample {
    pub(super) name: String,
    pub(super) role: String,
    /// None if it cannot be reached.
    pub(super) metrics: Option<Metrics>,
}

/// A node's metrics.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Metrics(BTreeMap<String, Vec<Value>>);

/// One value of a metric.
#[derive(Debug, PartialEq)]
pub(super) struct Value {
    /// Its labels, as they stand between the braces.
    labels: String,
    value: f64,
}

/// How long one node may keep all others from being shown.
const NODE_TIME_LIMIT: Duration = Duration::from_millis(800);

impl Sample {
    /// Asks any node who the others are, and each of them for its metrics.
    pub(super) async fn take(client: &ClientArgs) -> Result<Self, Failure> {
        let nodes = client.client().nodes().await.map_err(|error| Failure::of_request("list the members", &error))?;
        let mut asked = JoinSet::new();
        for node in nodes {
            asked.spawn(async move {
                let metrics = metrics_of(&node.client_address).await;
                NodeSample { name: node.name, role: node.role, metrics }
            });
        }
        let mut nodes = asked.join_all().await;
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Self { at: now(), nodes })
    }

    pub(super) fn node(&self, name: &str) -> Option<&NodeSample> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

async fn metrics_of(address: &str) -> Option<Metrics> {
    let options = Options { timeout: NODE_TIME_LIMIT, connect_timeout: NODE_TIME_LIMIT, max_rounds: 1 };
    let client = Client::new(vec![address.parse().ok()?], options);
    client.metrics().await.ok().map(|text| Metrics::parse(&text))
}

impl Metrics {
    /// Reads Prometheus' text form, as nodes write it; what is none of that is passed over.
    fn parse(text: &str) -> Self {
        let mut metrics: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = labels.strip_suffix('}').unwrap_or(labels).to_owned();
            metrics.entry(name.to_owned()).or_default().push(Value { labels, value });
        }
        Self(metrics)
    }

    /// The sum over all values of a metric that have this label, written `name="value"`; over all if it is empty.
    pub(super) fn sum(&self, name: &str, label: &str) -> f64 {
        let values = self.0.get(name).map_or(&[][..], Vec::as_slice);
        values.iter().filter(|value| label.is_empty() || value.has(label)).map(|value| value.value).sum()
    }

    /// The keyspaces of which there are metrics.
    pub(super) fn keyspaces(&self) -> impl Iterator<Item = &str> {
        let values = self.0.get("quorate_keyspace_revision").map_or(&[][..], Vec::as_slice);
        values.iter().filter_map(|value| value.labels.strip_prefix("keyspace=\"")?.strip_suffix('"'))
    }
}

impl Value {
    /// Names of keyspaces and routes hold no commas.
    fn has(&self, label: &str) -> bool {
        self.labels.split(',').any(|found| found == label)
    }
}

#[expect(clippy::disallowed_methods, reason = "rates are told by the time between two samples")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
pub(super) mod tests {
    use super::Metrics;

    pub(in crate::top) fn metrics(text: &str) -> Metrics {
        Metrics::parse(text)
    }

    #[test]
    fn metrics_are_read_and_summed() {
        let text = "# HELP a_total All.\n# TYPE a_total counter\na_total{route=\"get\",class=\"2xx\"} 3\n\
                    a_total{route=\"get\",class=\"5xx\"} 1\na_total{route=\"put\",class=\"2xx\"} 10\nb 7\nnonsense\n\
                    quorate_keyspace_revision{keyspace=\"default\"} 1\nquorate_keyspace_revision{keyspace=\"orders\"} 2\n";
        let metrics = metrics(text);
        let sums = ["", "route=\"get\"", "class=\"2xx\""].map(|label| metrics.sum("a_total", label));
        assert_eq!((sums, metrics.sum("b", ""), metrics.sum("c", "")), ([14.0, 4.0, 13.0], 7.0, 0.0));
        assert_eq!(metrics.keyspaces().collect::<Vec<_>>(), ["default", "orders"]);
    }
}
