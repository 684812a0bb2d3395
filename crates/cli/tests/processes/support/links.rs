//! Clusters whose nodes reach each other through proxies.

use quorate_proxy::{Link, Proxy};

use super::{Cluster, free_ports};

/// Three nodes whose links can be cut.
pub(crate) struct Linked {
    pub(crate) cluster: Cluster,
    /// In front of n1, n2 and n3, which have the ids 1, 2 and 3.
    proxies: Vec<Proxy>,
}

impl Linked {
    pub(crate) fn ready() -> Self {
        let mut cluster = Cluster::empty();
        let mut proxies = Vec::new();
        for number in 1..=3 {
            let ports = free_ports(3);
            let at = |place: usize| format!("127.0.0.1:{}", ports[place]);
            let name = format!("n{number}");
            cluster.add_at(&name, [at(0), at(1)]);
            let [listen, target] = [at(2), at(1)].map(|address| address.parse().expect("an address"));
            proxies.push(Proxy::start(listen, target).expect("a proxy can be started"));
            let first = cluster.node("n1").client_address.clone();
            let mut arguments = vec!["--peer-advertise".to_owned(), at(2)];
            if number > 1 {
                arguments.extend(["--join".to_owned(), first]);
            }
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            cluster.node_mut(&name).start_with(&arguments);
            cluster.until_ready();
        }
        Self { cluster, proxies }
    }

    /// Treats what goes between a node and the others, both ways.
    pub(crate) fn set(&self, node: u64, link: Link) {
        for (number, proxy) in (1..).zip(&self.proxies) {
            if number == node {
                (1..=3).filter(|from| *from != node).for_each(|from| proxy.set(from, link));
            } else {
                proxy.set(node, link);
            }
        }
    }

    /// Kills a node, and starts it again behind its proxy.
    pub(crate) fn restart(&mut self, number: usize) {
        let advertised = self.proxies[number - 1].address().to_string();
        let node = self.cluster.node_mut(&format!("n{number}"));
        node.kill();
        node.start_with(&["--peer-advertise", &advertised]);
    }

    pub(crate) fn heal(&self) {
        self.proxies.iter().for_each(Proxy::heal);
    }
}
