//! Ports for servers.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// Below those that systems hand out for outgoing connections, or one of these might take a dead server's port before it is
/// back.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// Ports on loopback that nobody listens on and that no other test of this process was given.
pub fn free_ports(count: usize) -> Vec<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let span = u32::from(PORTS.end - PORTS.start);
    // Two runs on one machine begin at different places.
    let first = std::process::id().wrapping_mul(211) % span;
    let in_order = (0..span).map(|step| PORTS.start + ((first + step) % span) as u16);
    let is_free = |port: &u16| !given.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let ports: Vec<u16> = in_order.filter(is_free).take(count).collect();
    given.extend(&ports);
    assert_eq!(ports.len(), count, "free ports on loopback");
    ports
}
