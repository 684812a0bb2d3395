//! Specifications: where to look for other nodes, as one writes it after `--join`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::address::{is_host_name, split_address};

/// Where to look for other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// `host:port`: there.
    Address(String),
    /// `dns://name:port`: at all addresses, of both families, that the name has.
    Dns {
        /// The name.
        name: String,
        /// The port at each of them.
        port: u16,
    },
    /// `dns+srv://name`: at the targets and ports that the name's SRV records give, in the order of their priorities.
    Srv {
        /// The name, as in `_quorate._tcp.example.org`.
        name: String,
    },
    /// `zk://host:port,host:port/path`: what nodes have registered in ZooKeeper, below the path.
    ZooKeeper {
        /// The ensemble, tried in turn.
        servers: Vec<String>,
        /// Begins with `/`.
        path: String,
    },
    /// `file:///path`: one address a line; what follows a `#` is for people.
    File(PathBuf),
}

/// Why a text is no specification; one line for people, which lists the forms.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` {why}; the forms are host:port, dns://name:port, dns+srv://_quorate._tcp.name, zk://host:port,host:port/path and \
     file:///path"
)]
pub struct SpecError {
    text: String,
    why: String,
}

/// What begins a specification whose servers are separated by the same commas as specifications are.
const SEVERAL_SERVERS: [&str; 2] = ["zk://", "etcd://"];

impl Spec {
    /// The specifications of a list that commas separate. A comma between the servers of one specification does not end it.
    pub fn split_list(list: &str) -> Vec<String> {
        let mut specs: Vec<String> = Vec::new();
        for part in list.split(',') {
            match specs.last_mut().filter(|last| wants_servers(last) && !part.contains("://")) {
                Some(last) => {
                    last.push(',');
                    last.push_str(part);
                }
                None => specs.push(part.trim().to_owned()),
            }
        }
        specs
    }
}

/// Whether what follows the next comma is another server of this specification: its path has not begun.
fn wants_servers(spec: &str) -> bool {
    SEVERAL_SERVERS.iter().filter_map(|scheme| spec.strip_prefix(scheme)).any(|rest| !rest.contains('/'))
}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let wrong = |why: &str| SpecError { text: text.to_owned(), why: why.to_owned() };
        let Some((scheme, rest)) = text.split_once("://") else {
            split_address(text).map_err(|_| wrong("is no host:port"))?;
            return Ok(Self::Address(text.to_owned()));
        };
        match scheme {
            "dns" => match split_address(rest) {
                Ok((name, port)) if !rest.starts_with('[') => Ok(Self::Dns { name: name.to_owned(), port }),
                _ => Err(wrong("has no name:port")),
            },
            "dns+srv" if is_host_name(rest) => Ok(Self::Srv { name: rest.to_owned() }),
            "dns+srv" => Err(wrong("has no name, as in _quorate._tcp.example.org, or more than that")),
            "zk" => zookeeper(rest).map_err(wrong),
            "file" if rest.len() > 1 && rest.starts_with('/') => Ok(Self::File(rest.into())),
            "file" => Err(wrong("has no absolute path, as in file:///etc/quorate/nodes")),
            "etcd" => Err(wrong("names etcd, which is not looked at")),
            "http" | "https" => Err(wrong("is a URL: leave out what stands before the host")),
            _ => Err(wrong("begins with a scheme that is not known")),
        }
    }
}

fn zookeeper(rest: &str) -> Result<Spec, &'static str> {
    let (servers, path) = rest.split_once('/').ok_or("has no path, as in zk://host:port/quorate")?;
    let servers: Vec<String> = servers.split(',').map(str::to_owned).collect();
    if servers.iter().any(|server| split_address(server).is_err()) {
        return Err("names a server that is no host:port");
    }
    let is_element = |element: &str| {
        let is_plain = element.bytes().all(|byte| byte.is_ascii_graphic());
        is_plain && !["", ".", ".."].contains(&element)
    };
    if !path.split('/').all(is_element) {
        return Err("has a path that ZooKeeper would not take: elements of visible characters, none of them empty, . or ..");
    }
    Ok(Spec::ZooKeeper { servers, path: format!("/{path}") })
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => f.write_str(address),
            Self::Dns { name, port } => write!(f, "dns://{name}:{port}"),
            Self::Srv { name } => write!(f, "dns+srv://{name}"),
            Self::ZooKeeper { servers, path } => write!(f, "zk://{}{path}", servers.join(",")),
            Self::File(path) => write!(f, "file://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Spec;

    #[test]
    fn every_form_is_read_and_written_the_same() {
        let forms = [
            "db1:2379",
            "[::1]:2379",
            "dns://nodes.example.org:2379",
            "dns+srv://_quorate._tcp.example.org",
            "zk://zk1:2181,zk2:2181/quorate/test",
            "file:///etc/quorate/nodes",
        ];
        for form in forms {
            assert_eq!(form.parse::<Spec>().unwrap().to_string(), form);
        }
        let servers = vec!["zk1:2181".to_owned(), "zk2:2181".to_owned()];
        assert_eq!(forms[4].parse(), Ok(Spec::ZooKeeper { servers, path: "/quorate/test".to_owned() }));
    }

    #[test]
    fn what_is_wrong_is_told_in_one_line_with_the_forms() {
        let wrong = [
            "",
            "db1",
            "db1:0",
            "http://db1:2379",
            "dns://db1",
            "dns://[::1]:1",
            "dns+srv://",
            "dns+srv://_q._tcp.a:1",
            "zk://zk1:2181",
            "zk://zk1:2181/",
            "zk://zk1/quorate",
            "zk://zk1:2181,/quorate",
            "zk://zk1:2181/a//b",
            "zk://zk1:2181/a/..",
            "zk://zk1:2181/a/",
            "file://nodes",
            "file:///",
            "etcd://a:1/b",
            "consul://a:1",
        ];
        for text in wrong {
            let error = text.parse::<Spec>().expect_err(text).to_string();
            assert!(error.starts_with(&format!("`{text}` ")) && error.contains("file:///path"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_list_is_split_between_specifications_only() {
        let list = "a:1,zk://z1:1,z2:2,z3:3/q, dns://n:1,zk://z4:4,dns+srv://s,file:///f,b:2";
        let specs = ["a:1", "zk://z1:1,z2:2,z3:3/q", "dns://n:1", "zk://z4:4", "dns+srv://s", "file:///f", "b:2"];
        assert_eq!(Spec::split_list(list), specs);
        assert_eq!(Spec::split_list(""), [""]);
    }
}
