//! Reads of many keys in a session: they wait until all that its client has seen is here, by comparison with those who may have
//! more.

use crate::io::{Answer, Refusal};
use crate::options::MAX_WAITS;
use crate::replica::Replica;
use crate::session::Session;

/// Somebody waits until this replica has all that a session has seen.
#[derive(Debug)]
pub(crate) struct LevelWait {
    token: u64,
    session: Session,
    pub(crate) deadline_ms: u64,
    /// Comparisons that began later count.
    pub(crate) after_round: u64,
}

impl Replica {
    pub(crate) fn on_level(&mut self, token: u64, session: Session, deadline_ms: u64) {
        if self.levels.len() >= MAX_WAITS {
            self.reply(token, Answer::Refused(Refusal::Overloaded));
            return;
        }
        if !self.is_up() {
            self.reply(token, Answer::Refused(Refusal::NotUp));
            return;
        }
        let now_ms = self.now.mono_ms;
        // Caches are compared with nobody, and a mirror with nobody but its source, which decides when.
        let compares = self.merges() && !self.is_cache();
        for id in self.whom_it_needs(&session, None) {
            if let Some(peer) = self.peers.get_mut(&id).filter(|_| compares) {
                peer.sync_due_ms = Some(now_ms);
            }
        }
        self.levels.push(LevelWait { token, session, deadline_ms, after_round: self.next_round });
    }

    /// Answers those for whom everything is here, and those who waited long enough.
    pub(crate) fn answer_levels(&mut self) {
        for wait in std::mem::take(&mut self.levels) {
            let has_ended = |id| self.peers.get(id).is_some_and(|peer| peer.last_comparison > wait.after_round);
            if self.whom_it_needs(&wait.session, None).iter().all(has_ended) {
                let mut session = wait.session;
                session.join(&self.store.seen);
                // All of it is here, by comparison if not by reports.
                session.is_at(Some(self.instance));
                let session = self.seen_in(session, None);
                self.reply(wait.token, Answer::Level { session });
            } else if self.now.mono_ms >= wait.deadline_ms {
                self.reply(wait.token, Answer::Refused(Refusal::NotYet));
            } else {
                self.levels.push(wait);
            }
        }
    }
}
