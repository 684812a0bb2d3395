//! Free ports on loopback.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

use crate::exit::Failure;

/// The ports of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodePorts {
    pub(crate) client: u16,
    pub(crate) peer: u16,
}

const DEFAULT_BASE: u16 = 2379;

/// Two ports for each node: those from `base` on, which must be free; without it, those from 2379 on, or else any.
///
/// They are only known to have been free: who takes one before the node does is found out when the node starts.
pub(crate) fn choose(nodes: u16, base: Option<u16>) -> Result<Vec<NodePorts>, Failure> {
    let wanted = base.unwrap_or(DEFAULT_BASE);
    match consecutive(nodes, wanted) {
        Ok(ports) => Ok(ports),
        Err(_) if base.is_none() => {
            any(nodes).map_err(|error| Failure::failed(format!("cannot find {} free ports: {error}", 2 * nodes)))
        }
        Err((port, error)) => {
            Err(Failure::failed(format!("cannot use port {port}: {error}; choose another --base-port, or leave it out")))
        }
    }
}

fn consecutive(nodes: u16, base: u16) -> Result<Vec<NodePorts>, (u16, io::Error)> {
    let last = base.checked_add(2 * nodes - 1);
    let last = last.ok_or_else(|| (base, io::Error::other("the ports after it end at 65535")))?;
    for port in base..=last {
        listen(port).map_err(|error| (port, error))?;
    }
    Ok((0..nodes).map(|node| NodePorts { client: base + 2 * node, peer: base + 2 * node + 1 }).collect())
}

fn any(nodes: u16) -> io::Result<Vec<NodePorts>> {
    // All are held until all are chosen, so that none is chosen twice.
    let held: Vec<TcpListener> = (0..2 * nodes).map(|_| listen(0)).collect::<io::Result<_>>()?;
    let ports: Vec<u16> = held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<io::Result<_>>()?;
    Ok(ports.chunks_exact(2).map(|pair| NodePorts { client: pair[0], peer: pair[1] }).collect())
}

fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{any, choose, listen};

    #[test]
    fn any_ports_are_all_different() {
        let ports: BTreeSet<u16> = any(9).unwrap().into_iter().flat_map(|ports| [ports.client, ports.peer]).collect();
        assert_eq!(ports.len(), 18);
    }

    #[test]
    fn a_wanted_port_that_is_taken_is_named() {
        let taken = listen(0).unwrap();
        let port = taken.local_addr().unwrap().port();
        let failure = format!("{:?}", choose(1, Some(port)).unwrap_err());
        assert!(failure.contains(&format!("cannot use port {port}")), "{failure}");
        assert!(choose(1, Some(65535)).is_err());
    }
}
