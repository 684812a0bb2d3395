//! The operator: lets nodes in, takes them out, replaces those whose disk is gone, hands leaderships over; as the shell does
//! it for an administrator's request, through whichever node is asked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use quorate_api::cluster::{JoinAnswer, JoinRequest};
use quorate_engine::EngineSpec;
use quorate_keyspace::Outcome;
use quorate_log::GroupId;
use quorate_node::{
    Answer, Catalog, CatalogError, Failure, Input, KeyspaceRecord, KeyspaceSettings, NodeState, OptionValue, ReplicaRole,
    Request, RequestKind, RetentionRecord, SYSTEM_GROUP,
};

use crate::host::HostId;
use crate::queue::Event;
use crate::simulation::{Asker, Simulation};
use crate::time::SimTime;
use crate::violation::{Step, Violation};
use crate::writers::KEYSPACE;

/// What is to be done to the cluster, one thing at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Let the node on a host in.
    Join(HostId),
    /// Take the node of this host's name out.
    Remove(HostId),
    /// Hand the leadership of a group to the node on a host.
    Transfer(u64, HostId),
    /// Move the clients' keyspace to another engine.
    Move(&'static str),
    /// Make the keyspace whose replicas take writes on their own.
    CreateEventual,
    /// Keep so much of the past of the clients' keyspace.
    Retain(RetentionRecord),
    /// Let all others mirror the node on a host.
    Mirror(HostId),
}

/// The operator's state.
#[derive(Debug, Default)]
pub(crate) struct Operator {
    tasks: VecDeque<Task>,
    step: Stage,
    /// The catalog as it was read last, and once more when a change was made.
    catalog: Arc<Catalog>,
    removed: BTreeSet<u64>,
    /// When the last task was done.
    pub(crate) idle_since: SimTime,
    /// Hosts that shall be members once the first task is done.
    pub(crate) members: BTreeSet<HostId>,
}

/// How far the first task is.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Begin,
    /// The catalog is being read.
    Reading(u64),
    /// A change of the catalog is being written; for a join, the answer to give.
    Writing(u64, Option<JoinAnswer>),
    /// The groups follow the catalog.
    Settling,
    /// A leadership is being handed over.
    Transferring(u64),
}

/// Between two looks at what there is to do.
const PAUSE_MS: u64 = 150;

/// How long a request of the operator may take.
const PATIENCE_MS: u64 = 3000;

impl Operator {
    /// Whether there is nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Whether a node was taken out.
    pub(crate) fn was_removed(&self, node: u64) -> bool {
        self.removed.contains(&node)
    }

    /// Takes a task in.
    pub(crate) fn add(&mut self, task: Task) {
        self.tasks.push_back(task);
    }

    fn end_task(&mut self) {
        self.tasks.pop_front();
        self.step = Stage::Begin;
    }
}

impl Simulation {
    pub(crate) fn on_operator_acts(&mut self) {
        self.queue.schedule(self.now.plus_ms(PAUSE_MS), Event::OperatorActs);
        let Some(task) = self.operator.tasks.front().copied() else { return };
        match (&self.operator.step, task) {
            (
                Stage::Begin,
                Task::Join(_) | Task::Remove(_) | Task::Move(_) | Task::Retain(_) | Task::CreateEventual | Task::Mirror(_),
            ) => {
                self.read_catalog(task);
            }
            (Stage::Begin, Task::Transfer(group, to)) => self.begin_transfer(group, to),
            (Stage::Settling, _) if self.is_settled() => {
                self.trace.note(self.now, format_args!("operator: {task:?} is done"));
                self.coverage.count("membership changes");
                self.operator.end_task();
                self.operator.idle_since = self.now;
            }
            (Stage::Settling | Stage::Reading(_) | Stage::Writing(..) | Stage::Transferring(_), _) => {}
        }
    }

    /// A member that can be asked; not the one that the task is about.
    fn any_member(&mut self, task: Task) -> Option<HostId> {
        let about = match task {
            Task::Join(about) | Task::Remove(about) | Task::Transfer(_, about) => Some(about),
            Task::Move(_) | Task::Retain(_) | Task::CreateEventual | Task::Mirror(_) => None,
        };
        let awake = self.hosts.iter().filter(|host| host.is_awake() && Some(host.id) != about).map(|host| host.id);
        let awake: Vec<HostId> = awake.collect();
        self.random.pick(&awake).copied()
    }

    fn read_catalog(&mut self, task: Task) {
        match task {
            Task::Join(host) => drop(self.operator.members.insert(host)),
            Task::Remove(host) => drop(self.operator.members.remove(&host)),
            Task::Transfer(..) | Task::Move(_) | Task::Retain(_) | Task::CreateEventual | Task::Mirror(_) => {}
        }
        let Some(host) = self.any_member(task) else { return };
        let token = self.operator_asks(host, SYSTEM_GROUP, RequestKind::ReadIndex);
        self.operator.step = Stage::Reading(token);
    }

    fn operator_asks(&mut self, host: HostId, group: u64, kind: RequestKind) -> u64 {
        let token = self.next_token(Asker::Operator(host));
        let deadline = self.deadline(host, PATIENCE_MS - 500);
        self.tell(host, Input::Request(Request { token, group: GroupId(group), deadline, kind }));
        self.queue.schedule(self.now.plus_ms(PATIENCE_MS), Event::RequestExpires(token));
        token
    }

    /// The catalog may be read at a host: the change is planned and written there.
    pub(crate) fn on_operator_read(&mut self, host: HostId, token: u64) -> Step {
        let Some(task) = self.operator.tasks.front().copied() else { return Ok(()) };
        if !matches!(self.operator.step, Stage::Reading(asked) if asked == token) {
            return Ok(());
        }
        let view = self.hosts[host.0].process.as_ref().and_then(|process| process.shell.view(SYSTEM_GROUP));
        let Some(view) = view else {
            self.operator.step = Stage::Begin;
            return Ok(());
        };
        let catalog =
            Catalog::read(view.as_ref()).map_err(|error| Violation::new("the catalog can be read", error.to_string()))?;
        self.operator.catalog = Arc::new(catalog);
        match task {
            Task::Join(about) => self.plan_join(host, about),
            Task::Remove(about) => self.plan_remove(host, about),
            Task::Move(engine) => self.plan_alter(host, "default", |settings| settings.engine = EngineSpec::of(engine).into()),
            Task::Retain(retention) => self.plan_alter(host, "default", |settings| settings.retention = Some(retention)),
            Task::Mirror(source) => self.plan_mirror(host, source),
            Task::CreateEventual => self.plan_create_eventual(host),
            Task::Transfer(..) => Ok(()),
        }
    }

    fn plan_join(&mut self, host: HostId, about: HostId) -> Step {
        let boots = self.next_boot;
        let joining = self.hosts[about.0].joining.get_or_insert_with(|| JoinRequest {
            name: about.to_string(),
            client_address: about.client_address(),
            peer_address: about.peer_address(),
            token: format!("token-{about}-{boots}"),
        });
        match self.operator.catalog.plan_join(joining) {
            Ok((None, answer)) => {
                self.admit(about, answer)?;
                self.operator.step = Stage::Settling;
                Ok(())
            }
            Ok((Some(write), answer)) => {
                let token = self.operator_asks(host, SYSTEM_GROUP, RequestKind::Write(write.to_bytes()));
                self.operator.step = Stage::Writing(token, Some(answer));
                Ok(())
            }
            // The old node of that name is on its way out.
            Err(CatalogError::StillLeaving(_)) => {
                self.operator.step = Stage::Begin;
                Ok(())
            }
            Err(error) => Err(Violation::new("a node can join", format!("{about}: {error}"))),
        }
    }

    fn plan_remove(&mut self, host: HostId, about: HostId) -> Step {
        let node = self.operator.catalog.nodes.get(&about.to_string()).map(|node| node.id);
        match self.operator.catalog.plan_remove(&about.to_string()) {
            Ok(Some(write)) => {
                // From now on it may be out, whatever the answer will be.
                self.operator.removed.extend(node);
                // It gives to others what they lack, unless it is not heard of.
                self.writers.on_loss();
                if self.writers.source == Some(about) {
                    // Nobody could write.
                    let next = self.operator.members.first().copied().unwrap_or(host);
                    self.operator.add(Task::Mirror(next));
                }
                let token = self.operator_asks(host, SYSTEM_GROUP, RequestKind::Write(write.to_bytes()));
                self.operator.step = Stage::Writing(token, None);
                Ok(())
            }
            Ok(None) | Err(CatalogError::NodeNotFound(_)) => {
                self.operator.step = Stage::Settling;
                Ok(())
            }
            Err(error) => Err(Violation::new("a node can be removed", format!("{about}: {error}"))),
        }
    }

    fn plan_create_eventual(&mut self, host: HostId) -> Step {
        let Some(replication) = self.writers.replication.clone() else { return Ok(()) };
        let settings = KeyspaceSettings::with_defaults(EngineSpec::of(self.writers.engine).into(), replication, 1 << 30);
        match self.operator.catalog.plan_create(KEYSPACE, &settings, 0) {
            Ok(Some(write)) => {
                let token = self.operator_asks(host, SYSTEM_GROUP, RequestKind::Write(write.to_bytes()));
                self.operator.step = Stage::Writing(token, None);
            }
            Ok(None) => self.operator.step = Stage::Settling,
            Err(error) => return Err(Violation::new("a keyspace can be made", format!("{settings:?}: {error}"))),
        }
        Ok(())
    }

    /// Who is no member any more cannot be mirrored.
    fn plan_mirror(&mut self, host: HostId, source: HostId) -> Step {
        let is_member = self.operator.catalog.nodes.get(&source.to_string()).is_some_and(|node| node.state == NodeState::Member);
        if !is_member || !self.operator.members.contains(&source) {
            self.operator.end_task();
            return Ok(());
        }
        if self.writers.source != Some(source) {
            self.writers.on_other_source(source);
        }
        let name = OptionValue::Word(source.to_string().into());
        self.plan_alter(host, KEYSPACE, |settings| drop(settings.replication.options.insert("source".to_owned(), name)))
    }

    /// Gives a keyspace other settings.
    fn plan_alter(&mut self, host: HostId, name: &str, change: impl FnOnce(&mut KeyspaceSettings)) -> Step {
        let catalog = Arc::clone(&self.operator.catalog);
        let Some(keyspace) = catalog.keyspaces.get(name) else { return Ok(()) };
        let mut settings = keyspace.settings();
        change(&mut settings);
        match catalog.plan_alter(name, &settings, 0) {
            Ok(Some(write)) => {
                self.coverage.count(match () {
                    () if settings.engine != keyspace.engine => "moves to another engine",
                    () if settings.replication != keyspace.replication => "mirrors of another node",
                    () => "retentions altered",
                });
                let token = self.operator_asks(host, SYSTEM_GROUP, RequestKind::Write(write.to_bytes()));
                self.operator.step = Stage::Writing(token, None);
                Ok(())
            }
            Ok(None) => {
                self.operator.step = Stage::Settling;
                Ok(())
            }
            Err(error) => Err(Violation::new("a keyspace can be altered", format!("{settings:?}: {error}"))),
        }
    }

    /// A node that was let in begins, unless it has.
    fn admit(&mut self, about: HostId, answer: JoinAnswer) -> Step {
        if self.hosts[about.0].folder.is_some() {
            return Ok(());
        }
        self.join(about, answer)
    }

    /// The operator has its answer.
    pub(crate) fn on_operator_answer(&mut self, token: u64, answer: &Answer) -> Step {
        let Some(task) = self.operator.tasks.front().copied() else { return Ok(()) };
        match std::mem::take(&mut self.operator.step) {
            Stage::Writing(asked, joined) if asked == token => {
                let is_written = matches!(answer, Answer::Written(Outcome::Applied { .. }));
                // In any other case the catalog is read again: it tells whether the change was made.
                if is_written && let (Some(joined), Task::Join(about)) = (joined, task) {
                    self.admit(about, joined)?;
                }
                Ok(())
            }
            Stage::Reading(asked) if asked == token => Ok(()),
            Stage::Transferring(asked) if asked == token => {
                self.coverage.count(match answer {
                    Answer::Transferred => "leaderships handed over",
                    _ => "leaderships not handed over",
                });
                self.operator.end_task();
                Ok(())
            }
            other => {
                self.operator.step = other;
                Ok(())
            }
        }
    }

    /// The operator gives up waiting.
    pub(crate) fn on_operator_expired(&mut self, token: u64) -> Step {
        self.on_operator_answer(token, &Answer::Failed(Failure::Unknown))
    }

    fn begin_transfer(&mut self, group: u64, to: HostId) {
        let target = self.hosts[to.0].node_id();
        let Some(host) = self.any_member(Task::Transfer(group, to)) else {
            return self.operator.end_task();
        };
        let token = self.operator_asks(host, group, RequestKind::TransferLeader(target));
        self.operator.step = Stage::Transferring(token);
    }

    /// Whether the members of every group are those of the catalog, as far as leaders know.
    pub(crate) fn is_settled(&self) -> bool {
        let Some(catalog) = self.latest_catalog() else { return false };
        let members: BTreeMap<u64, HostId> = member_hosts(&catalog);
        let is_as_wanted = members.values().copied().collect::<BTreeSet<_>>() == self.operator.members;
        is_as_wanted
            && catalog.nodes.values().all(|node| node.state != NodeState::Leaving)
            && !catalog.keyspaces.values().any(KeyspaceRecord::is_moving)
            && catalog.shards().all(|(_, keyspace, shard)| {
                if !keyspace.replication.is_raft() {
                    return shard.replicas.iter().all(|replica| replica.role == ReplicaRole::Voter);
                }
                let wanted = |role: ReplicaRole| {
                    let of_kind = shard.replicas.iter().filter(|replica| replica.role == role);
                    let mut nodes: Vec<u64> = of_kind.map(|replica| replica.node).collect();
                    nodes.sort_unstable();
                    nodes
                };
                let statuses = self
                    .hosts
                    .iter()
                    .filter_map(|host| host.process.as_ref())
                    .flat_map(|process| process.shell.status.replicas.iter());
                let leading = statuses.filter(|status| status.group.0 == shard.group && status.role == "leader");
                leading.max_by_key(|status| status.term).is_some_and(|leader| {
                    leader.voters == wanted(ReplicaRole::Voter) && leader.learners == wanted(ReplicaRole::Learner)
                })
            })
    }

    /// The newest catalog that any node has.
    pub(crate) fn latest_catalog(&self) -> Option<Arc<Catalog>> {
        let catalogs = self.hosts.iter().filter_map(|host| host.process.as_ref()).map(|process| &process.shell.catalog);
        catalogs.max_by_key(|catalog| catalog.changed_at).cloned()
    }
}

/// Members by node, with their hosts.
pub(crate) fn member_hosts(catalog: &Catalog) -> BTreeMap<u64, HostId> {
    let members = catalog.nodes.values().filter(|node| node.state == NodeState::Member);
    members.filter_map(|node| Some((node.id, HostId::from_peer_address(&node.peer_address)?))).collect()
}
