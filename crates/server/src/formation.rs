//! Who begins the cluster, among nodes that were all started with the same `--expect`: the rules, without I/O.
//!
//! Each node tells the others what stands in its data folder ([`Durable`]), over and over, and hears the same of them. What is
//! heard may be late, repeated or lost, and nodes may be killed at any moment.
//!
//! - A node **promises** at most one node at a time that it may begin the cluster; itself, or another that it sees.
//! - A node that has promised itself is a **candidate**. Whose candidacy ends begins another **round** with it.
//! - A candidate **founds** once it knows of promises to itself, in its present round, of as many nodes as are expected, its own
//!   among them. What it has written then is never changed again.
//! - A promise to another node is **void** only when that node itself says that it is in a later round, and so has not founded in
//!   the one that was promised, and never will.
//! - Nobody promises anything before it sees as many nodes as are expected. Then the lowest by name and id is to be it: higher
//!   candidates end their candidacy, and who is free promises it.
//!
//! *Why there are not two.* Both would have the promises of N nodes. Of at most 2 N - 1 nodes, one has then promised both, first
//! the one in round r, later the other. In between it heard from the first that this was in a round above r, without having
//! founded; so the first does not count what was promised to it in r, then or later. With 2 N nodes and more, two halves that do
//! not see each other can each be as many as are expected: `--expect` is to be the number of nodes that are started.
//!
//! Every change is durable before it is told ([`Step::Write`]). The tests go through all that a few nodes can do.

use std::collections::{BTreeMap, BTreeSet};

use quorate_api::cluster::{Formation, FormationPromise};
use serde::{Deserialize, Serialize};

/// What a node has promised, as it stands in its data folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Durable {
    /// Drawn for this data folder.
    pub(crate) id: String,
    /// Which candidacy of this node is the next one, or the present one.
    pub(crate) round: u64,
    /// Whom this node lets begin the cluster.
    pub(crate) promised: Option<Promise>,
    /// The cluster that this node founds: it may have begun, or is about to.
    pub(crate) founds: Option<String>,
}

/// To whom, and for which of its candidacies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Promise {
    pub(crate) id: String,
    pub(crate) round: u64,
}

/// What a node is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Hear more.
    Wait,
    /// Make this durable, and say so with [`Forming::written`].
    Write(Durable),
    /// Draw a cluster's id, make it durable as what this node founds, and found it.
    Found,
}

/// One node's part.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Forming {
    name: String,
    expect: u32,
    durable: Durable,
    /// What was last heard of each, by id.
    seen: BTreeMap<String, Seen>,
}

/// What counts of what was heard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Seen {
    name: String,
    round: u64,
    promised: Option<Promise>,
    expects_the_same: bool,
}

/// Nodes that are remembered at most: far more than a cluster has.
const MAX_SEEN: usize = 1024;

impl Forming {
    pub(crate) fn new(name: &str, expect: u32, durable: Durable) -> Self {
        Self { name: name.to_owned(), expect, durable, seen: BTreeMap::new() }
    }

    pub(crate) fn durable(&self) -> &Durable {
        &self.durable
    }

    /// What is told to the others; all of it is durable.
    pub(crate) fn tell(&self, client_address: &str) -> Formation {
        let promised = self.durable.promised.clone().map(|Promise { id, round }| FormationPromise { id, round });
        Formation {
            name: self.name.clone(),
            id: self.durable.id.clone(),
            client_address: client_address.to_owned(),
            expect: Some(self.expect),
            round: self.durable.round,
            promised,
            cluster_id: None,
        }
    }

    /// Takes in what another node tells; whether it has a part in this. Who is of a cluster, or waits for none to begin, has
    /// none.
    pub(crate) fn hear(&mut self, told: &Formation) -> bool {
        let is_another = told.cluster_id.is_none() && !told.id.is_empty() && told.id != self.durable.id;
        let has_room = self.seen.len() < MAX_SEEN || self.seen.contains_key(&told.id);
        let Some(expect) = told.expect.filter(|_| is_another && has_room) else {
            return false;
        };
        let promised = told.promised.clone().map(|FormationPromise { id, round }| Promise { id, round });
        let seen = Seen { name: told.name.clone(), round: told.round, promised, expects_the_same: expect == self.expect };
        self.seen.insert(told.id.clone(), seen);
        true
    }

    /// Forgets a node that is not heard of any more. That does no harm, whenever it is done.
    pub(crate) fn forget(&mut self, id: &str) {
        self.seen.remove(id);
    }

    /// Says that what [`Step::Write`] asked for is durable.
    pub(crate) fn written(&mut self, durable: Durable) {
        self.durable = durable;
    }

    /// What to do now.
    pub(crate) fn next(&self) -> Step {
        if self.durable.founds.is_some() {
            return Step::Found;
        }
        match &self.durable.promised {
            Some(promise) if promise.id == self.durable.id => self.next_of_candidate(),
            Some(promise) => {
                let is_void = self.seen.get(&promise.id).is_some_and(|seen| seen.round > promise.round);
                if is_void { self.write(None) } else { Step::Wait }
            }
            None => self.next_of_free(),
        }
    }

    fn next_of_candidate(&self) -> Step {
        let Durable { id, round, .. } = &self.durable;
        let promise = Promise { id: id.clone(), round: *round };
        let promised = self.others().filter(|(_, seen)| seen.promised.as_ref() == Some(&promise));
        let names: BTreeSet<&str> = promised.map(|(_, seen)| seen.name.as_str()).chain([self.name.as_str()]).collect();
        if names.len() >= self.expect as usize {
            return Step::Found;
        }
        if self.sees_enough() && self.lowest().is_some() {
            // The promises to this candidacy are void from now on.
            return Step::Write(Durable { round: round + 1, promised: None, ..self.durable.clone() });
        }
        Step::Wait
    }

    fn next_of_free(&self) -> Step {
        if !self.sees_enough() {
            return Step::Wait;
        }
        match self.lowest() {
            None => self.write(Some(Promise { id: self.durable.id.clone(), round: self.durable.round })),
            Some((id, seen)) => match &seen.promised {
                // Only a candidate: who ends its candidacy begins another round, and that is what makes promises void.
                Some(own) if own.id == *id => self.write(Some(Promise { id: id.clone(), round: seen.round })),
                _ => Step::Wait,
            },
        }
    }

    fn write(&self, promised: Option<Promise>) -> Step {
        Step::Write(Durable { promised, ..self.durable.clone() })
    }

    fn others(&self) -> impl Iterator<Item = (&String, &Seen)> {
        self.seen.iter().filter(|(_, seen)| seen.expects_the_same)
    }

    /// The lowest of the others that is lower than this node.
    fn lowest(&self) -> Option<(&String, &Seen)> {
        let lowest = self.others().min_by_key(|(id, seen)| (&seen.name, *id));
        lowest.filter(|(id, seen)| (&seen.name, *id) < (&self.name, &self.durable.id))
    }

    fn sees_enough(&self) -> bool {
        self.names().len() >= self.expect as usize
    }

    /// The nodes that this one sees and that expect as many as it does, itself among them.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.others().map(|(_, seen)| seen.name.as_str()).chain([self.name.as_str()]).collect()
    }

    /// What is awaited, for people.
    pub(crate) fn awaited(&self) -> String {
        let names = self.names();
        let listed = names.iter().copied().collect::<Vec<_>>().join(", ");
        let missing = (self.expect as usize).saturating_sub(names.len());
        let main = match (missing, &self.durable.promised) {
            (1.., _) => format!("waiting for {missing} more of {} nodes; here are {listed}", self.expect),
            (0, Some(promise)) if promise.id == self.durable.id => {
                format!("all {} nodes are here ({listed}): waiting for their promises", self.expect)
            }
            (0, Some(promise)) => match self.seen.get(&promise.id) {
                Some(seen) => format!("all {} nodes are here ({listed}): {} begins the cluster", self.expect, seen.name),
                None => format!(
                    "waiting for the node of id {}, which was promised to begin the cluster; if its data folder is lost for \
                     good, and no cluster has begun, empty the folder of this node too",
                    promise.id
                ),
            },
            (0, None) => format!("all {} nodes are here ({listed}): settling who begins the cluster", self.expect),
        };
        [Some(main), self.who_expects_otherwise(), self.who_is_called_the_same()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("; ")
    }

    fn who_expects_otherwise(&self) -> Option<String> {
        let others = self.seen.values().filter(|seen| !seen.expects_the_same);
        let names: BTreeSet<&str> = others.map(|seen| seen.name.as_str()).collect();
        let listed = names.iter().copied().collect::<Vec<_>>().join(", ");
        (!names.is_empty()).then(|| format!("{listed} expect another number of nodes, and do not count"))
    }

    fn who_is_called_the_same(&self) -> Option<String> {
        let has_namesake = self.others().any(|(_, seen)| seen.name == self.name);
        has_namesake.then(|| format!("another node is called {} as well, and counts as the same one", self.name))
    }
}

#[cfg(test)]
mod tests;
