//! A node that is of no cluster yet, as its REST API shows it: what it tells others, and what it waits for.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use quorate_api::cluster::Formation;
use tokio::sync::Notify;

use crate::formation::{Durable, Forming, Step};

/// Rounds in which a node may say nothing before it counts no more.
const MAX_SILENT_ROUNDS: u64 = 5;

/// What the REST API's tasks share with the one that joins or begins a cluster.
#[derive(Debug)]
pub(crate) struct Waiting {
    name: String,
    client_address: String,
    state: Mutex<State>,
    /// Something was heard from which a step follows.
    heard: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Of nodes that may begin a cluster.
    forming: Option<Forming>,
    /// In which round each was heard last.
    heard_in: BTreeMap<String, u64>,
    round: u64,
    awaited: String,
}

const POISONED: &str = "nothing panics while it holds this lock";

impl Waiting {
    pub(crate) fn new(name: String, client_address: String) -> Self {
        Self { name, client_address, state: Mutex::default(), heard: Notify::new() }
    }

    /// What a member of a cluster answers.
    pub(crate) fn tell_of_member(&self, cluster: u64) -> Formation {
        Formation { cluster_id: Some(format!("{cluster:016x}")), ..self.tell_of_nobody() }
    }

    /// What is told to others now.
    pub(crate) fn tell(&self) -> Formation {
        self.state().forming.as_ref().map_or_else(|| self.tell_of_nobody(), |forming| forming.tell(&self.client_address))
    }

    /// Takes in what another node tells.
    pub(crate) fn hear(&self, told: &Formation) {
        let mut state = self.state();
        let round = state.round;
        let Some(forming) = &mut state.forming else { return };
        let has_part = forming.hear(told);
        if forming.next() != Step::Wait {
            self.heard.notify_one();
        }
        if has_part {
            state.heard_in.insert(told.id.clone(), round);
        }
    }

    /// From now on this node may begin a cluster.
    pub(crate) fn begin_forming(&self, forming: Forming) {
        self.state().forming = Some(forming);
    }

    /// What to do now, for one that may begin a cluster.
    pub(crate) fn next(&self) -> Option<(Step, Durable)> {
        self.state().forming.as_ref().map(|forming| (forming.next(), forming.durable().clone()))
    }

    /// Whether this node has begun to found a cluster.
    pub(crate) fn founds(&self) -> bool {
        self.next().is_some_and(|(_, durable)| durable.founds.is_some())
    }

    /// Says that this is durable.
    pub(crate) fn written(&self, durable: Durable) {
        if let Some(forming) = &mut self.state().forming {
            forming.written(durable);
        }
    }

    /// Begins the next round of asking, and forgets who has been silent for too long.
    pub(crate) fn next_round(&self) {
        let mut state = self.state();
        state.round += 1;
        let State { forming, heard_in, round, .. } = &mut *state;
        heard_in.retain(|id, heard| {
            let stays = *heard + MAX_SILENT_ROUNDS >= *round;
            if let Some(forming) = forming.as_mut().filter(|_| !stays) {
                forming.forget(id);
            }
            stays
        });
    }

    /// What a node that may begin a cluster awaits; without one, nothing.
    pub(crate) fn awaits(&self) -> Option<String> {
        self.state().forming.as_ref().map(Forming::awaited)
    }

    /// Says what is waited for; whether that is news.
    pub(crate) fn set_awaited(&self, awaited: &str) -> bool {
        let mut state = self.state();
        let is_new = state.awaited != awaited;
        awaited.clone_into(&mut state.awaited);
        is_new
    }

    /// What is waited for, for people.
    pub(crate) fn awaited(&self) -> String {
        let awaited = self.state().awaited.clone();
        if awaited.is_empty() { "the node is not part of a cluster yet".to_owned() } else { awaited }
    }

    /// Resolves when something was heard from which a step follows.
    pub(crate) async fn heard(&self) {
        self.heard.notified().await;
    }

    fn tell_of_nobody(&self) -> Formation {
        Formation { name: self.name.clone(), client_address: self.client_address.clone(), ..Formation::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(POISONED)
    }
}
