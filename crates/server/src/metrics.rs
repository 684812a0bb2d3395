//! The node's metrics in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::time::Duration;

use quorate_api::keyspace::CacheFigures;
use quorate_api::outside::BehindBody;
use quorate_external::{Call, CallFigures, LATENCY_BOUNDS};
use quorate_node::eventual_replication::{PeerStatus, Status};
use quorate_node::{Catalog, Hosted, NodeStatus, ReplicaStatus};

use crate::keyspace_store::cache_figures;
use crate::outside_store::failures_by_code;
use crate::outside_stores::OutsideKeyspace;
use crate::peers::LinkStatus;

/// A gauge or counter of each thing of a kind: name, kind, help, value.
type Metric<T, V = u64> = (&'static str, &'static str, &'static str, fn(&T) -> V);

/// Per replica.
const REPLICA_METRICS: [Metric<ReplicaStatus>; 15] = [
    ("quorate_raft_is_leader", "gauge", "1 if this node leads the group.", |r| u64::from(r.role == "leader")),
    ("quorate_raft_has_leader", "gauge", "1 if this node knows who leads.", |r| u64::from(r.leader.is_some())),
    ("quorate_raft_term", "gauge", "The term.", |r| r.term),
    ("quorate_raft_commit_index", "gauge", "The commit index.", |r| r.commit_index),
    ("quorate_raft_applied_index", "gauge", "The applied index.", |r| r.applied_index),
    ("quorate_raft_log_entries", "gauge", "Entries in the log.", |r| (r.last_index + 1).saturating_sub(r.first_index)),
    ("quorate_raft_is_caught_up", "gauge", "1 if the replica is in its role and has caught up.", |r| u64::from(r.is_caught_up)),
    ("quorate_keyspace_revision", "gauge", "The published revision.", |r| r.revision),
    ("quorate_keyspace_data_bytes", "gauge", "Keys and records.", |r| r.data_bytes),
    ("quorate_keyspace_history_bytes", "gauge", "What is kept of the past.", |r| r.history_bytes),
    ("quorate_keyspace_compacted_revision", "gauge", "The oldest revision that can be read.", |r| r.compacted),
    ("quorate_keyspace_applied_commands_total", "counter", "Commands applied since the start.", |r| r.applied_commands),
    ("quorate_snapshot_cut_total", "counter", "Snapshots cut since the start.", |r| r.snapshots_cut),
    ("quorate_snapshot_sent_total", "counter", "Snapshots sent since the start.", |r| r.snapshots_sent),
    ("quorate_snapshot_loaded_total", "counter", "Snapshots loaded since the start.", |r| r.snapshots_loaded),
];

/// Per cache.
const CACHE_METRICS: [Metric<CacheFigures>; 4] = [
    ("quorate_cache_hits_total", "counter", "Reads of one key that found it.", |c| c.hits),
    ("quorate_cache_misses_total", "counter", "Reads of one key that did not.", |c| c.misses),
    ("quorate_cache_weight_bytes", "gauge", "Pairs with the engine's overhead.", |c| c.weight_bytes),
    ("quorate_cache_max_bytes", "gauge", "The bound.", |c| c.max_bytes),
];

/// Per cache in front of a store outside.
const FRONT_CACHE_METRICS: [Metric<quorate_external::CacheFigures>; 4] = [
    ("quorate_store_cache_hits_total", "counter", "Reads that the cache in front answered.", |c| c.hits),
    ("quorate_store_cache_stale_total", "counter", "Reads it answered beyond their time since the store failed.", |c| c.stale),
    ("quorate_store_cache_fetched_total", "counter", "Reads that went to the store.", |c| c.fetched),
    ("quorate_store_cache_joined_total", "counter", "Reads that waited for another's fetch.", |c| c.joined),
];

/// Per replica with a store outside behind it.
const BEHIND_METRICS: [Metric<BehindBody>; 9] = [
    ("quorate_behind_waiting_keys", "gauge", "Keys that the store has not got as the replica has them.", |b| b.waiting_keys),
    ("quorate_behind_waiting_bytes", "gauge", "Their bytes, as they count towards the bound.", |b| b.waiting_bytes),
    ("quorate_behind_max_waiting_bytes", "gauge", "The bound.", |b| b.max_waiting_bytes),
    ("quorate_behind_is_spilled", "gauge", "1 if more keys wait than are kept in memory.", |b| u64::from(b.is_spilled)),
    ("quorate_behind_oldest_ms", "gauge", "For how long the first of them has waited.", |b| b.oldest_ms),
    ("quorate_behind_refused_keys", "gauge", "Keys that the store does not take, while it takes others.", |b| b.refused_keys),
    ("quorate_behind_written_total", "counter", "Values and removals that the store has taken.", |b| b.written),
    ("quorate_behind_coalesced_total", "counter", "Changes that the store was spared.", |b| b.coalesced),
    ("quorate_behind_failed_total", "counter", "Attempts that failed.", |b| b.failed),
];

/// Per replica of an eventual keyspace.
const EVENTUAL_METRICS: [Metric<Status>; 23] = [
    ("quorate_eventual_is_up", "gauge", "1 if the replica serves.", |r| u64::from(r.is_up)),
    ("quorate_eventual_keys", "gauge", "Keys with a value.", |r| r.keys),
    ("quorate_eventual_tombstones", "gauge", "Keys of which only a tombstone is left.", |r| r.tombstones),
    ("quorate_eventual_data_bytes", "gauge", "Keys and values.", |r| r.data_bytes),
    ("quorate_eventual_outbox_entries", "gauge", "Own writes that another member has not confirmed.", |r| r.outbox_entries),
    ("quorate_eventual_outbox_bytes", "gauge", "Their bytes.", |r| r.outbox_bytes),
    ("quorate_eventual_clock_ahead_ms", "gauge", "How far stamps are ahead of the wall clock.", |r| r.hlc_ahead_ms),
    ("quorate_eventual_is_clock_off", "gauge", "1 if the wall clock stops writes.", |r| u64::from(r.skew_ms.is_some())),
    ("quorate_eventual_stable_ms", "gauge", "All members have what was written before, since 1970.", |r| r.stable.ms()),
    ("quorate_eventual_tombstones_are_held", "gauge", "1 if a member keeps tombstones from being dropped.", |r| {
        u64::from(!r.gc_blocked_by.is_empty())
    }),
    ("quorate_eventual_written_total", "counter", "Own writes.", |r| r.counts.written),
    ("quorate_eventual_merged_total", "counter", "Writes of others that were kept.", |r| r.counts.merged),
    ("quorate_eventual_superseded_total", "counter", "Own writes that gave way to one of another.", |r| r.counts.superseded),
    ("quorate_eventual_fenced_total", "counter", "Entries that came too late to matter.", |r| r.counts.fenced),
    ("quorate_eventual_mismatched_total", "counter", "Entries that differ from what has their version here: damage.", |r| {
        r.counts.mismatched
    }),
    ("quorate_eventual_pushed_bytes_total", "counter", "Bytes of own writes that were sent.", |r| r.counts.pushed_bytes),
    ("quorate_eventual_overflows_total", "counter", "Members that fell too far behind to be sent to.", |r| r.counts.overflows),
    ("quorate_eventual_rounds_total", "counter", "Comparisons and copies that ended.", |r| r.counts.rounds),
    ("quorate_eventual_stalled_rounds_total", "counter", "Those that were given up.", |r| r.counts.stalled_rounds),
    ("quorate_eventual_resumed_total", "counter", "Copies that went on where they broke off.", |r| r.counts.resumed),
    (
        "quorate_eventual_large_copies_total",
        "counter",
        "A mirror's copies that could be seen in parts: they changed too much.",
        |r| r.counts.merged_mirrors,
    ),
    ("quorate_eventual_exchanged_total", "counter", "Entries that they brought.", |r| r.counts.pulled + r.counts.put),
    ("quorate_eventual_repairs_total", "counter", "Reads that found something newer elsewhere.", |r| r.counts.repairs),
];

/// Per replica of an eventual keyspace and other member.
const EVENTUAL_PEER_METRICS: [Metric<PeerStatus, i64>; 11] = [
    ("quorate_eventual_peer_is_reachable", "gauge", "1 if the member was heard of lately.", |p| p.is_reachable.into()),
    ("quorate_eventual_peer_lag_entries", "gauge", "Own writes it has not confirmed; -1: it is compared with.", |p| {
        p.lag_entries.map_or(-1, u64::cast_signed)
    }),
    ("quorate_eventual_peer_lag_ms", "gauge", "How long the oldest of them has been waiting.", |p| p.lag_ms.cast_signed()),
    ("quorate_eventual_peer_needs_sync", "gauge", "1 if it may lack what only a comparison brings.", |p| p.needs_sync.into()),
    ("quorate_eventual_peer_pushed_bytes_total", "counter", "Own writes that were sent to it.", |p| p.pushed_bytes.cast_signed()),
    ("quorate_eventual_peer_pulled_bytes_total", "counter", "What comparisons brought from it.", |p| {
        p.pulled_bytes.cast_signed()
    }),
    ("quorate_eventual_peer_put_bytes_total", "counter", "What comparisons and copies took to it.", |p| {
        p.put_bytes.cast_signed()
    }),
    ("quorate_eventual_peer_rounds_total", "counter", "Comparisons with it, and copies to it.", |p| p.rounds.cast_signed()),
    ("quorate_eventual_peer_compared_at_ms", "gauge", "When a comparison with it ended last, since 1970; 0: not yet.", |p| {
        p.compared_wall_ms.unwrap_or_default().cast_signed()
    }),
    ("quorate_eventual_peer_copied_at_ms", "gauge", "When a full copy to it ended last, since 1970; 0: not yet.", |p| {
        p.copied_wall_ms.unwrap_or_default().cast_signed()
    }),
    ("quorate_eventual_peer_clock_offset_ms", "gauge", "How far its wall clock is ahead.", |p| p.clock_offset_ms),
];

/// Per peer and lane.
const LINK_METRICS: [Metric<LinkStatus>; 8] = [
    ("quorate_peer_is_connected", "gauge", "1 if the lane's connection is there.", |l| u64::from(l.is_connected)),
    ("quorate_peer_queued_bytes", "gauge", "Bytes that wait to be written.", |l| l.queued_bytes),
    ("quorate_peer_sent_frames_total", "counter", "Frames written.", |l| l.sent_frames),
    ("quorate_peer_sent_bytes_total", "counter", "Bytes written.", |l| l.sent_bytes),
    ("quorate_peer_received_frames_total", "counter", "Frames received.", |l| l.received_frames),
    ("quorate_peer_received_bytes_total", "counter", "Bytes received.", |l| l.received_bytes),
    ("quorate_peer_refused_frames_total", "counter", "Frames not taken since the queue was full.", |l| l.refused_frames),
    ("quorate_peer_dropped_frames_total", "counter", "Frames lost with a connection.", |l| l.dropped_frames),
];

/// Appends the metrics of a node and of its connections to peers.
pub(crate) fn node(out: &mut String, status: &NodeStatus, links: &[LinkStatus]) {
    plain(out, ("quorate_node_pending_requests", "gauge", "Requests that wait."), status.pending_requests);
    plain(out, ("quorate_node_is_disk_full", "gauge", "1 if writes are refused."), u8::from(status.is_disk_full));
    let replicas = status.replicas.iter().map(|replica| (format!("keyspace=\"{}\"", replica.keyspace), &**replica));
    families(out, &REPLICA_METRICS, &replicas.collect::<Vec<_>>());
    let links = links.iter().map(|link| (format!("peer=\"{}\",lane=\"{}\"", link.node, link.lane.name()), link));
    families(out, &LINK_METRICS, &links.collect::<Vec<_>>());
}

/// Appends the metrics of the replicas of eventual keyspaces; nothing if there are none.
pub(crate) fn eventuals(out: &mut String, status: &NodeStatus, catalog: &Catalog) {
    if status.eventuals.is_empty() {
        return;
    }
    let replicas = status.eventuals.iter().map(|own| (format!("keyspace=\"{}\"", own.keyspace), &own.replica));
    families(out, &EVENTUAL_METRICS, &replicas.collect::<Vec<_>>());
    let peers = status.eventuals.iter().flat_map(|own| own.replica.peers.iter().map(move |peer| (own, peer)));
    let peers = peers.map(|(own, peer)| {
        let node = own.nodes.get(&peer.instance).and_then(|node| catalog.node_name(*node)).unwrap_or("unknown");
        (format!("keyspace=\"{}\",peer=\"{node}\"", own.keyspace), peer)
    });
    families(out, &EVENTUAL_PEER_METRICS, &peers.collect::<Vec<_>>());
    head(
        out,
        (
            "quorate_eventual_tombstones_held",
            "gauge",
            "1 for whose writes (from) keep tombstones, for they have not reached whom (to).",
        ),
    );
    for own in status.eventuals.iter() {
        let name = |instance| own.nodes.get(instance).and_then(|node| catalog.node_name(*node)).unwrap_or("unknown");
        for (from, to) in &own.replica.gc_blocked_by {
            let (from, to, keyspace) = (name(from), name(to), &own.keyspace);
            let _ = writeln!(out, "quorate_eventual_tombstones_held{{keyspace=\"{keyspace}\",from=\"{from}\",to=\"{to}\"}} 1");
        }
    }
}

/// Appends the metrics of the caches on a node; nothing if there are none.
pub(crate) fn caches(out: &mut String, hosted: &Hosted) {
    let figures = |(name, keyspace): (&'_ String, &quorate_node::HostedKeyspace)| {
        Some((name.clone(), cache_figures(&keyspace.engine.cache_stats()?), keyspace.engine.stats().keys))
    };
    let caches: Vec<(String, CacheFigures, u64)> = hosted.keyspaces.iter().filter_map(figures).collect();
    if caches.is_empty() {
        return;
    }
    let labelled = caches.iter().map(|(keyspace, figures, _)| (format!("keyspace=\"{keyspace}\""), figures));
    families(out, &CACHE_METRICS, &labelled.collect::<Vec<_>>());
    head(out, ("quorate_cache_keys", "gauge", "Pairs there are."));
    for (keyspace, _, keys) in &caches {
        let _ = writeln!(out, "quorate_cache_keys{{keyspace=\"{keyspace}\"}} {keys}");
    }
    head(out, ("quorate_cache_gone_total", "counter", "Pairs that went, by cause."));
    for (keyspace, figures, _) in &caches {
        for (cause, count) in figures.gone.named() {
            let _ = writeln!(out, "quorate_cache_gone_total{{keyspace=\"{keyspace}\",cause=\"{cause}\"}} {count}");
        }
    }
}

/// Appends what this node asked of stores outside; nothing if there are none.
pub(crate) fn stores(out: &mut String, stores: &BTreeMap<String, OutsideKeyspace>) {
    if stores.is_empty() {
        return;
    }
    head(out, ("quorate_store_is_open", "gauge", "1 if the node has what it needs to use the store."));
    for (keyspace, store) in stores {
        let _ = writeln!(out, "quorate_store_is_open{{keyspace=\"{keyspace}\"}} {}", u8::from(store.is_open()));
    }
    let each = |(keyspace, store): (&String, &OutsideKeyspace)| {
        Call::ALL.map(|call| (format!("keyspace=\"{keyspace}\",call=\"{}\"", call.name()), store.meter.figures(call)))
    };
    let calls: Vec<(String, CallFigures)> = stores.iter().flat_map(each).collect();
    head(out, ("quorate_store_calls_in_flight", "gauge", "Calls that run, or wait until they may."));
    for (labels, figures) in &calls {
        let _ = writeln!(out, "quorate_store_calls_in_flight{{{labels}}} {}", figures.in_flight);
    }
    head(out, ("quorate_store_failed_calls_total", "counter", "Calls that failed, by code."));
    for (labels, figures) in &calls {
        for (code, count) in failures_by_code(figures) {
            let _ = writeln!(out, "quorate_store_failed_calls_total{{{labels},code=\"{code}\"}} {count}");
        }
    }
    head(out, ("quorate_store_call_seconds", "histogram", "How long calls took that ended, retries included."));
    for (labels, figures) in &calls {
        latencies(out, "quorate_store_call_seconds", labels, figures);
    }
    let caches = stores.iter().filter(|(_, store)| store.is_cached);
    let caches: Vec<(String, quorate_external::CacheFigures)> =
        caches.map(|(keyspace, store)| (format!("keyspace=\"{keyspace}\""), store.meter.cache_figures())).collect();
    if !caches.is_empty() {
        families(
            out,
            &FRONT_CACHE_METRICS,
            &caches.iter().map(|(labels, figures)| (labels.clone(), figures)).collect::<Vec<_>>(),
        );
    }
}

/// Appends how far stores behind this node's replicas are, and what was asked of them; nothing if there are none.
pub(crate) fn behind(out: &mut String, behind: &[(String, BehindBody)]) {
    if behind.is_empty() {
        return;
    }
    let labelled: Vec<_> = behind.iter().map(|(keyspace, body)| (format!("keyspace=\"{keyspace}\""), body)).collect();
    families(out, &BEHIND_METRICS, &labelled);
    head(out, ("quorate_behind_calls_total", "counter", "Calls to the store behind that ended, well or not."));
    for (labels, body) in &labelled {
        for calls in body.calls.iter().filter(|calls| calls.ended > 0) {
            let _ = writeln!(out, "quorate_behind_calls_total{{{labels},call=\"{}\"}} {}", calls.call, calls.ended);
        }
    }
}

/// One histogram, whose buckets count what took as long or less.
fn latencies(out: &mut String, name: &str, labels: &str, figures: &CallFigures) {
    let mut so_far = 0;
    let bounds = LATENCY_BOUNDS.iter().map(|bound| bound.as_secs_f64().to_string()).chain(["+Inf".to_owned()]);
    for (bound, count) in bounds.zip(figures.by_latency) {
        so_far += count;
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {so_far}");
    }
    let seconds = Duration::from_micros(figures.total_us).as_secs_f64();
    let _ = writeln!(out, "{name}_sum{{{labels}}} {seconds}\n{name}_count{{{labels}}} {so_far}");
}

/// Appends each metric of all things, which have their labels with them.
fn families<T, V: Display>(out: &mut String, metrics: &[Metric<T, V>], things: &[(String, &T)]) {
    for &(name, kind, help, value) in metrics {
        head(out, (name, kind, help));
        for (labels, thing) in things {
            let _ = writeln!(out, "{name}{{{labels}}} {}", value(thing));
        }
    }
}

fn plain(out: &mut String, (name, kind, help): (&str, &str, &str), value: impl Display) {
    head(out, (name, kind, help));
    let _ = writeln!(out, "{name} {value}");
}

fn head(out: &mut String, (name, kind, help): (&str, &str, &str)) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
