//! Plans, applied to a shard as the system keyspace would.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use proptest::prelude::*;
use quorate_engine::Trie;
use quorate_keyspace::{Command, EntryHeader, Limits, Outcome, RequestId, Settings, Shard, ShardHeader, encode_entry};

use super::*;
use crate::limits::MAX_VOTERS;

fn config() -> Config {
    Config { default_max_bytes: 1 << 20, ..Config::default() }
}

/// A system keyspace.
pub(super) struct System {
    pub(super) shard: Shard,
}

impl System {
    /// One that holds a catalog.
    pub(super) fn with(catalog: &Catalog) -> Self {
        let settings = Settings::of(Limits { max_bytes: 1 << 20, ..Limits::default() });
        let header = ShardHeader { settings, ..ShardHeader::default() };
        let mut system = Self { shard: Shard::found(Arc::new(Trie::new()), header).unwrap() };
        assert!(system.is_applied(&Catalog::default().write_to(catalog)));
        system
    }

    /// A new cluster of one node, n1.
    pub(super) fn found() -> Self {
        Self::with(&Catalog::founding(7, "n1", ("n1:1", "n1:2"), &config()))
    }

    /// A cluster of the nodes n1 to n`size`.
    pub(super) fn of(size: u64) -> Self {
        let mut system = Self::found();
        (2..=size).for_each(|number| assert_eq!(system.join(number), number));
        system
    }

    pub(super) fn catalog(&self) -> Catalog {
        Catalog::read(self.shard.engine().view().as_ref()).unwrap()
    }

    /// Applies a plan; false if it was made from an older catalog.
    pub(super) fn is_applied(&mut self, write: &Write) -> bool {
        let mut command = BytesMut::new();
        Command::encode_prefix(RequestId::default(), 0, &mut command);
        command.extend_from_slice(&write.to_bytes());
        let entry = encode_entry(EntryHeader::default(), [command.freeze()].iter());
        let index = self.shard.header().applied_index + 1;
        let applied = self.shard.apply(&[(index, 1, entry)]).unwrap();
        matches!(applied.outcomes[0].1, Outcome::Applied { .. })
    }

    /// Lets a node in; returns its id.
    pub(super) fn join(&mut self, number: u64) -> u64 {
        let (write, answer) = self.catalog().plan_join(&request(number)).unwrap();
        assert!(self.is_applied(&write.unwrap()));
        answer.node_id
    }

    pub(super) fn announce(&mut self, name: &str, peer_address: &str) {
        let write = self.catalog().plan_announce(name, peer_address).unwrap();
        assert!(self.is_applied(&write.unwrap()));
    }

    pub(super) fn remove(&mut self, name: &str) {
        let write = self.catalog().plan_remove(name).unwrap();
        assert!(self.is_applied(&write.unwrap()));
    }

    pub(super) fn forget(&mut self, name: &str) {
        let write = self.catalog().plan_forget(name).unwrap();
        assert!(self.is_applied(&write));
    }

    /// Nodes with a replica in this role, the same in every shard.
    pub(super) fn nodes_as(&self, role: ReplicaRole) -> Vec<u64> {
        let catalog = self.catalog();
        let nodes = |shard: &ShardRecord| shard.replicas.iter().filter(|r| r.role == role).map(|r| r.node).collect::<Vec<_>>();
        let of_shards: BTreeSet<Vec<u64>> = catalog.shards().map(|(_, _, shard)| nodes(shard)).collect();
        assert_eq!(of_shards.len(), 1, "the shards' replicas are on the same nodes");
        of_shards.into_iter().next().unwrap_or_default()
    }
}

pub(super) fn request(number: u64) -> JoinRequest {
    JoinRequest {
        name: format!("n{number}"),
        client_address: format!("n{number}:1"),
        peer_address: format!("n{number}:2"),
        token: format!("token {number}"),
    }
}

fn name_taken(number: u64) -> CatalogError {
    CatalogError::NameTaken { name: format!("n{number}"), address: format!("n{number}:2") }
}

#[test]
fn a_catalog_is_read_as_it_was_written() {
    let founding = Catalog::founding(7, "n1", ("n1:1", "n1:2"), &config());
    let read = System::with(&founding).catalog();
    assert_eq!(read, Catalog { changed_at: Revision(2), ..founding });
    assert_eq!((read.node_name(1), read.node_name(2), read.node_name(0)), (Some("n1"), None, None));
}

#[test]
fn a_node_that_joins_gets_an_id_and_a_replica_of_every_shard() {
    let system = System::of(3);
    let catalog = system.catalog();
    assert_eq!(system.nodes_as(ReplicaRole::Voter), [1, 2, 3]);
    let replicas: Vec<u64> = catalog.shards().flat_map(|(_, _, shard)| &shard.replicas).map(|r| r.replica).collect();
    assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), 6, "replica ids are used once: {replicas:?}");
    assert!(catalog.shards().all(|(_, _, shard)| shard.founding.len() == 1), "later replicas begin empty");
}

#[test]
fn the_answer_to_a_joining_node_names_the_others_and_its_replica() {
    let mut system = System::of(2);
    system.announce("n9", "n9:2");
    let (write, answer) = system.catalog().plan_join(&request(3)).unwrap();
    assert!(system.is_applied(&write.unwrap()));
    let catalog = system.catalog();
    let (_, _, shard) = catalog.shard(SYSTEM_GROUP).unwrap();
    let replica_of = |node| shard.replica_on(node).unwrap().replica;
    assert_eq!((answer.cluster_id.as_str(), answer.node_id), ("0000000000000007", 3));
    assert_eq!(answer.system_replica, replica_of(3));
    let peer = |node| PeerAddress { node_id: node, system_replica: replica_of(node), peer_address: format!("n{node}:2") };
    assert_eq!(answer.peers, [peer(1), peer(2)]);
}

#[test]
fn a_node_that_asks_again_gets_the_same_answer_and_changes_nothing() {
    let mut system = System::found();
    let (write, first) = system.catalog().plan_join(&request(2)).unwrap();
    assert!(system.is_applied(&write.unwrap()));
    assert_eq!(system.catalog().plan_join(&request(2)), Ok((None, first)));
}

/// Its answer was lost, and it came back elsewhere: it was refused for ever.
#[test]
fn a_node_that_moves_while_it_joins_is_let_in_where_it_is() {
    let mut system = System::of(2);
    let elsewhere =
        JoinRequest { client_address: "elsewhere:1".to_owned(), peer_address: "elsewhere:2".to_owned(), ..request(2) };
    let (write, answer) = system.catalog().plan_join(&elsewhere).unwrap();
    assert!(system.is_applied(&write.unwrap()));
    let node = &system.catalog().nodes["n2"];
    assert_eq!((answer.node_id, node.id), (2, 2));
    assert_eq!((node.client_address.as_str(), node.peer_address.as_str()), ("elsewhere:1", "elsewhere:2"));
    assert_eq!(system.catalog().plan_join(&elsewhere), Ok((None, answer)));
}

#[test]
fn another_node_cannot_take_the_name_of_a_member() {
    let catalog = System::of(2).catalog();
    let other_token = JoinRequest { token: "another".to_owned(), ..request(2) };
    let no_token = JoinRequest { token: String::new(), ..request(2) };
    for request in [other_token, no_token] {
        assert_eq!(catalog.plan_join(&request), Err(name_taken(2)));
    }
    let founder = JoinRequest { token: String::new(), ..request(1) };
    assert_eq!(catalog.plan_join(&founder), Err(name_taken(1)), "who founded the cluster never asks to be let in");
}

#[test]
fn another_node_cannot_take_the_peer_address_of_a_member() {
    let catalog = System::of(2).catalog();
    let taken = CatalogError::AddressTaken { name: "n2".to_owned(), address: "n2:2".to_owned() };
    let thief = JoinRequest { peer_address: "n2:2".to_owned(), ..request(3) };
    assert_eq!(catalog.plan_join(&thief), Err(taken.clone()));
    assert_eq!(catalog.plan_announce("n3", "n2:2"), Err(taken));
}

#[test]
fn names_and_addresses_are_checked() {
    let catalog = System::found().catalog();
    let long = "n".repeat(64);
    for name in ["", ".n", "-n", "n/2", "n 2", "n\u{e4}", long.as_str()] {
        let bad = JoinRequest { name: name.to_owned(), ..request(2) };
        assert_eq!(catalog.plan_join(&bad), Err(CatalogError::BadName(name.to_owned())));
        assert_eq!(catalog.plan_announce(name, "n2:2"), Err(CatalogError::BadName(name.to_owned())));
    }
    for address in ["", "n2", ":2", "n2:", "n2:0", "n2:65536", "n2:x"] {
        let refused = Err(CatalogError::BadAddress(address.to_owned()));
        assert_eq!(catalog.plan_join(&JoinRequest { peer_address: address.to_owned(), ..request(2) }), refused);
        assert_eq!(catalog.plan_join(&JoinRequest { client_address: address.to_owned(), ..request(2) }), refused);
    }
    for name in ["n", "9", "a.b-c_D", &long[1..]] {
        assert!(catalog.plan_announce(name, "[::1]:2").is_ok(), "{name}");
    }
}

#[test]
fn five_vote_and_the_sixth_learns_until_there_is_room() {
    let mut system = System::of(7);
    assert_eq!(system.nodes_as(ReplicaRole::Voter), [1, 2, 3, 4, 5]);
    assert_eq!(system.nodes_as(ReplicaRole::Learner), [6, 7]);
    system.remove("n7");
    assert_eq!(system.nodes_as(ReplicaRole::Voter), [1, 2, 3, 4, 5], "no vote became free");
    system.remove("n2");
    assert_eq!(system.nodes_as(ReplicaRole::Voter), [1, 3, 4, 5, 6]);
    assert_eq!(system.nodes_as(ReplicaRole::Leaving), [2, 7]);
}

#[test]
fn an_announced_node_joins_under_its_name() {
    let mut system = System::found();
    system.announce("n2", "n2:2");
    assert_eq!(system.catalog().nodes["n2"].state, NodeState::Announced);
    assert_eq!(system.nodes_as(ReplicaRole::Voter), [1], "who has not come holds nothing");
    assert_eq!(system.join(2), 2);
    assert_eq!(system.catalog().nodes["n2"].state, NodeState::Member);
}

#[test]
fn a_node_can_be_announced_again() {
    let mut system = System::of(2);
    system.announce("n3", "n3:2");
    assert_eq!(system.catalog().plan_announce("n3", "n3:2"), Ok(None));
    system.announce("n3", "n3:7");
    assert_eq!(system.catalog().nodes["n3"].peer_address, "n3:7");
    assert_eq!(system.catalog().plan_announce("n2", "n2:2"), Ok(None), "it is there already");
    assert_eq!(system.catalog().plan_announce("n2", "n2:7"), Err(name_taken(2)));
}

#[test]
fn an_announced_node_is_removed_at_once() {
    let mut system = System::found();
    system.announce("n2", "n2:2");
    system.remove("n2");
    assert!(!system.catalog().nodes.contains_key("n2"));
    assert_eq!(system.join(2), 2, "no id was given out for it");
}

#[test]
fn a_member_leaves_in_two_steps() {
    let mut system = System::of(3);
    system.remove("n2");
    let catalog = system.catalog();
    assert_eq!(catalog.nodes["n2"].state, NodeState::Leaving);
    assert_eq!((catalog.node_name(2), catalog.is_removed(2)), (Some("n2"), false), "its vote may still be needed");
    assert_eq!(catalog.plan_remove("n2"), Ok(None), "that was said before");

    system.forget("n2");
    let catalog = system.catalog();
    assert!(catalog.is_removed(2) && !catalog.is_removed(1) && !catalog.is_removed(4));
    assert!(catalog.shards().all(|(_, _, shard)| shard.replica_on(2).is_none()));
    assert_eq!(catalog.plan_forget("n2"), None);
    assert_eq!(catalog.plan_remove("n2"), Err(CatalogError::NodeNotFound("n2".to_owned())));
}

#[test]
fn nothing_of_a_leaving_node_is_given_to_another() {
    let mut system = System::of(3);
    system.remove("n2");
    let catalog = system.catalog();
    let leaving = CatalogError::StillLeaving("n2".to_owned());
    assert_eq!(catalog.plan_join(&request(2)), Err(leaving.clone()));
    assert_eq!(catalog.plan_announce("n2", "n2:2"), Err(leaving.clone()));
    assert_eq!(catalog.plan_announce("n2", "n2:7"), Err(leaving.clone()));
    let same_address = JoinRequest { peer_address: "n2:2".to_owned(), ..request(4) };
    assert_eq!(catalog.plan_join(&same_address), Err(leaving));
}

#[test]
fn a_node_that_comes_back_is_a_new_one() {
    let mut system = System::of(3);
    let before: BTreeSet<u64> = system.catalog().shards().flat_map(|(_, _, s)| &s.replicas).map(|r| r.replica).collect();
    system.remove("n2");
    system.forget("n2");
    assert_eq!(system.join(2), 4);
    let catalog = system.catalog();
    assert!(catalog.is_removed(2));
    assert!(catalog.shards().all(|(_, _, shard)| !before.contains(&shard.replica_on(4).unwrap().replica)));
}

#[test]
fn the_last_voter_cannot_be_removed() {
    let mut system = System::of(2);
    system.remove("n1");
    assert_eq!(system.catalog().plan_remove("n2"), Err(CatalogError::LastVoter("n2".to_owned())));
    assert_eq!(System::found().catalog().plan_remove("n1"), Err(CatalogError::LastVoter("n1".to_owned())));
}

#[test]
fn of_two_plans_made_from_one_catalog_the_second_changes_nothing() {
    let system = System::of(3);
    let catalog = system.catalog();
    let plans = [
        catalog.plan_join(&request(4)).unwrap().0.unwrap(),
        catalog.plan_announce("n5", "n5:2").unwrap().unwrap(),
        catalog.plan_remove("n2").unwrap().unwrap(),
        catalog.plan_forget("n3").unwrap(),
    ];
    for first in &plans {
        for second in &plans {
            let mut system = System::of(3);
            assert!(system.is_applied(first));
            let between = system.catalog();
            assert!(!system.is_applied(second));
            assert_eq!(system.catalog(), between);
        }
    }
}

#[test]
fn a_record_that_cannot_be_read_is_named() {
    let mut system = System::found();
    assert!(system.is_applied(&Write::put(Bytes::from_static(b"nodes/n2"), Bytes::from_static(b"{"))));
    let error = Catalog::read(system.shard.engine().view().as_ref()).unwrap_err();
    assert!(matches!(&error, CatalogError::Damaged { key, .. } if key == "nodes/n2"), "{error}");
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Join(u64),
    Announce(u64),
    Remove(u64),
    Forget(u64),
    Create(u64, Mode),
    Delete(u64),
}

fn change() -> impl Strategy<Value = Change> {
    let number = 1..9_u64;
    prop_oneof![
        4 => number.clone().prop_map(Change::Join),
        1 => number.clone().prop_map(Change::Announce),
        2 => number.clone().prop_map(Change::Remove),
        2 => number.clone().prop_map(Change::Forget),
        1 => number.clone().prop_map(|number| Change::Create(number, Mode::Raft)),
        1 => number.clone().prop_map(|number| Change::Create(number, Mode::None)),
        1 => number.prop_map(Change::Delete),
    ]
}

/// The plan for a change, if it can be made now.
fn plan(catalog: &Catalog, change: Change) -> Option<Write> {
    match change {
        Change::Join(number) => catalog.plan_join(&request(number)).ok()?.0,
        Change::Announce(number) => catalog.plan_announce(&format!("n{number}"), &format!("n{number}:2")).ok()?,
        Change::Remove(number) => catalog.plan_remove(&format!("n{number}")).ok()?,
        Change::Forget(number) => {
            let name = format!("n{number}");
            catalog.nodes.get(&name).filter(|node| node.state == NodeState::Leaving)?;
            catalog.plan_forget(&name)
        }
        Change::Create(number, mode) => {
            let settings =
                KeyspaceSettings { replication: ReplicationSettings::of(mode), ..catalog.keyspaces[DEFAULT_KEYSPACE].settings() };
            catalog.plan_create(&format!("k{number}"), &settings, 0).ok()?
        }
        Change::Delete(number) => catalog.plan_delete(&format!("k{number}")).ok(),
    }
}

fn assert_sound(catalog: &Catalog) {
    let members: BTreeSet<u64> = catalog.nodes.values().map(|node| node.id).filter(|id| *id != 0).collect();
    let mut replicas = BTreeSet::new();
    let mut groups = BTreeSet::new();
    for (name, keyspace, shard) in catalog.shards() {
        assert!(groups.insert(shard.group) && shard.group < catalog.cluster.next_group && keyspace.epoch == shard.group + 1);
        let is_raft = keyspace.replication.is_raft();
        let hosts: Vec<u64> = shard.replicas.iter().map(|replica| replica.node).collect();
        let is_leaving = |id: &u64| catalog.nodes[catalog.node_name(*id).unwrap()].state == NodeState::Leaving;
        // A keyspace that was made while a node leaves has nothing there; who leaves one without agreement is out at once.
        let wanted: BTreeSet<u64> = members.iter().copied().filter(|id| hosts.contains(id) || !is_leaving(id)).collect();
        assert_eq!(hosts.len(), wanted.len(), "{name}: one replica on each member");
        assert_eq!(hosts.iter().copied().collect::<BTreeSet<_>>(), wanted, "{name}");
        let voters = shard.replicas.iter().filter(|replica| replica.role == ReplicaRole::Voter).count();
        let learners = shard.replicas.iter().filter(|replica| replica.role == ReplicaRole::Learner).count();
        if is_raft {
            assert!((1..=MAX_VOTERS).contains(&voters) && (learners == 0 || voters == MAX_VOTERS), "{name}: {voters} voters");
            assert!((1..=MAX_VOTERS).contains(&shard.founding.len()), "{name}");
        } else {
            assert!(voters == hosts.len() && shard.founding.is_empty(), "{name}");
        }
        for replica in &shard.replicas {
            assert!(replicas.insert(replica.replica) && replica.replica < catalog.cluster.next_replica);
            assert_eq!(replica.role == ReplicaRole::Leaving, is_leaving(&replica.node), "{name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_planned_leaves_a_sound_catalog(changes in prop::collection::vec(change(), 0..40)) {
        let mut system = System::found();
        let mut given_out = BTreeSet::new();
        for change in changes {
            let before = system.catalog();
            let Some(write) = plan(&before, change) else { continue };
            prop_assert!(system.is_applied(&write));
            let catalog = system.catalog();
            assert_sound(&catalog);
            prop_assert!(catalog.changed_at > before.changed_at);
            let is_new = |id: &u64| *id != 0 && before.node_name(*id).is_none();
            for id in catalog.nodes.values().map(|node| node.id).filter(is_new) {
                prop_assert!(given_out.insert(id), "id {} was given out before", id);
            }
        }
    }
}

/// Two members that have changed their addresses, each for the other's, say so one after the other.
#[test]
fn a_member_says_where_it_is_found() {
    let mut system = System::of(3);
    let change = |node_id, address: &str| AddressChange {
        cluster_id: format!("{:016x}", 7),
        node_id,
        client_address: format!("{address}:1"),
        peer_address: format!("{address}:2"),
    };
    for (name, id, address) in [("n2", 2, "n3"), ("n3", 3, "n2"), ("n1", 1, "elsewhere")] {
        let write = system.catalog().plan_readdress(name, &change(id, address)).unwrap().expect("it is another one");
        assert!(system.is_applied(&write));
        let node = &system.catalog().nodes[name];
        assert_eq!((node.id, node.client_address.as_str()), (id, format!("{address}:1").as_str()));
        assert_eq!((node.peer_address.as_str(), node.state), (format!("{address}:2").as_str(), NodeState::Member));
        assert_eq!(system.catalog().plan_readdress(name, &change(id, address)), Ok(None), "it is known");
    }
    let catalog = system.catalog();
    let stranger = AddressChange { cluster_id: "b".to_owned(), ..change(1, "a") };
    let told = catalog.plan_readdress("n1", &stranger).unwrap_err().to_string();
    assert!(told.contains("cluster b") && told.contains("0000000000000007"), "{told}");
    assert_eq!(catalog.plan_readdress("n1", &change(2, "a")), Err(CatalogError::NodeNotFound("n1".to_owned())));
    assert_eq!(catalog.plan_readdress("n9", &change(9, "a")), Err(CatalogError::NodeNotFound("n9".to_owned())));
    assert!(matches!(catalog.plan_readdress("n1", &change(1, "a b")), Err(CatalogError::BadAddress(_))));
}
