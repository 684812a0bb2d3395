//! Counters of the REST API, in Prometheus' text form.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{Method, StatusCode};

/// Counters of the REST API.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    connections_opened: AtomicU64,
    connections_closed: AtomicU64,
    connections_refused: AtomicU64,
    requests: [[AtomicU64; CLASSES.len()]; RouteKind::ALL.len()],
}

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RouteKind {
    KeyGet,
    KeyPut,
    KeyPatch,
    KeyDelete,
    List,
    Batch,
    Txn,
    Watch,
    Compat,
    Other,
}

impl RouteKind {
    const ALL: [(Self, &'static str); 10] = [
        (Self::KeyGet, "key_get"),
        (Self::KeyPut, "key_put"),
        (Self::KeyPatch, "key_patch"),
        (Self::KeyDelete, "key_delete"),
        (Self::List, "list"),
        (Self::Batch, "batch"),
        (Self::Txn, "txn"),
        (Self::Watch, "watch"),
        (Self::Compat, "compat"),
        (Self::Other, "other"),
    ];

    pub(super) fn of_key(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD => Self::KeyGet,
            Method::PUT => Self::KeyPut,
            Method::PATCH => Self::KeyPatch,
            Method::DELETE => Self::KeyDelete,
            _ => Self::Other,
        }
    }
}

/// Classes of statuses, by their first digit from 2.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// Counts a connection as closed when it is dropped.
pub(super) struct OpenConnection<'a>(&'a Metrics);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.connections_closed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(super) fn on_connection_opened(&self) -> OpenConnection<'_> {
        self.connections_opened.fetch_add(1, Ordering::Relaxed);
        OpenConnection(self)
    }

    pub(super) fn on_connection_refused(&self) {
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn on_answer(&self, route: RouteKind, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(2, 5) - 2;
        self.requests[route as usize][class].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn write(&self, out: &mut String) {
        let opened = self.connections_opened.load(Ordering::Relaxed);
        let open = opened.saturating_sub(self.connections_closed.load(Ordering::Relaxed));
        let refused = self.connections_refused.load(Ordering::Relaxed);
        let _ = write!(
            out,
            "# HELP quorate_rest_connections Open client connections.\n\
             # TYPE quorate_rest_connections gauge\n\
             quorate_rest_connections {open}\n\
             # HELP quorate_rest_connections_total Client connections accepted since the start.\n\
             # TYPE quorate_rest_connections_total counter\n\
             quorate_rest_connections_total {opened}\n\
             # HELP quorate_rest_connections_refused_total Client connections closed because there were too many.\n\
             # TYPE quorate_rest_connections_refused_total counter\n\
             quorate_rest_connections_refused_total {refused}\n\
             # HELP quorate_rest_requests_total Requests answered, by route and class of status.\n\
             # TYPE quorate_rest_requests_total counter\n"
        );
        for (route, name) in RouteKind::ALL {
            for (class, count) in CLASSES.iter().zip(&self.requests[route as usize]) {
                let count = count.load(Ordering::Relaxed);
                let _ = writeln!(out, "quorate_rest_requests_total{{route=\"{name}\",class=\"{class}\"}} {count}");
            }
        }
    }
}
