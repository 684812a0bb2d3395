//! One comparison of this replica with another, or one copy to it, driven from here.
//!
//! The other side keeps nothing: it answers each request from what it has then, and only with what is durable there. When a round
//! ends, everything that was here when it began is there; and after a comparison, everything that was there is here.

use std::collections::{BTreeMap, VecDeque};

use crate::copying::{Copies, Pinned};
use crate::digest::{Digest, FAN_OUT, Node};
use crate::lookup::{Found, Lookup};
use crate::message::{Pair, Part, Payload};
use crate::options::{
    MAX_ASKED_NODES, MAX_MESSAGE_BYTES, MAX_MESSAGE_PAIRS, MAX_OPEN_REQUESTS, MAX_PAUSED_MS, MAX_WANTED_HASHES, PAIR_BYTES,
    RESEND_MS, ROUND_STALL_MS,
};
use crate::pace::Pace;
use crate::store::{Place, ReplicaError, Store};
use crate::version::{Hlc, Version};

/// What is asked of the other side. Light: entries are looked up when they are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Request {
    /// Which of these differ?
    Ask(Vec<Node>),
    /// Give the entries of these hashes.
    Want(Vec<u64>),
    /// Take the entries of these hashes.
    Put(Vec<u64>),
    /// Take everything after this place, up to that one.
    Copy(Option<Place>, Place),
    /// Let the copy take its place.
    End,
}

/// What a round wants next.
#[derive(Debug)]
pub(crate) enum Step {
    /// To send this.
    Send(Payload),
    /// To look this up, for the request of this number.
    LookUp(u64, Lookup),
}

/// When a request was sent whose values are being looked up: not yet.
const LOOKED_UP: u64 = u64::MAX;

/// What was sent of a copy that is to take the place of what is there.
#[derive(Debug, Default)]
struct Mirroring {
    /// What is copied, as it was when the copy began. None: each key as it is when it is sent.
    pinned: Option<Pinned>,
    /// Since when it waits for the other side to be heard of again.
    paused_ms: Option<u64>,
    /// The sum of each piece, by number, as it was sent last.
    sums: BTreeMap<u64, Digest>,
    /// What the other side said of it.
    is_taken: Option<bool>,
}

/// Where a copy stands.
#[derive(Debug)]
enum Copying {
    /// It has not begun.
    Begins,
    /// After this place.
    After(Place),
    /// There is nothing more to copy.
    Ended,
}

/// A round under way.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) id: u64,
    /// The clock when it began.
    pub(crate) started: Hlc,
    /// The same, as [`Store::changes`] counts; of a copy.
    began_at: u64,
    /// Whether it copies; otherwise it compares.
    pub(crate) is_copy: bool,
    /// What is still to be asked; at most all nodes of the tree, by hundreds.
    todo: VecDeque<Request>,
    open: BTreeMap<u64, (Request, u64)>,
    next_number: u64,
    /// The greatest number of a request whose values were looked up elsewhere.
    newest_found: u64,
    copying: Copying,
    /// What comes after it, if it is to take the place of what is there.
    mirroring: Option<Mirroring>,
    pub(crate) progressed_ms: u64,
    /// Entries that came from the other side.
    pub(crate) pulled: u64,
    pub(crate) pulled_bytes: u64,
    /// Entries that went there.
    pub(crate) pushed: u64,
    pub(crate) pushed_bytes: u64,
}

impl Round {
    /// A comparison.
    pub(crate) fn compare(id: u64, started: Hlc, now_ms: u64) -> Self {
        let mut round = Self::begin(id, started, now_ms);
        round.todo.push_back(Request::Ask(vec![Node::ROOT]));
        round
    }

    /// A copy of everything.
    pub(crate) fn copy(id: u64, started: Hlc, now_ms: u64, store: &Store) -> Self {
        Self { copying: Copying::Begins, began_at: store.changes(), is_copy: true, ..Self::begin(id, started, now_ms) }
    }

    /// A copy of everything, as it is now, that takes the place of what is there.
    pub(crate) fn mirror(id: u64, started: Hlc, now_ms: u64, store: &Store) -> Self {
        let mirroring = Mirroring { pinned: store.pin(), ..Mirroring::default() };
        Self { mirroring: Some(mirroring), ..Self::copy(id, started, now_ms, store) }
    }

    fn begin(id: u64, started: Hlc, now_ms: u64) -> Self {
        Self {
            id,
            started,
            began_at: 0,
            is_copy: false,
            todo: VecDeque::new(),
            open: BTreeMap::new(),
            next_number: 1,
            newest_found: 0,
            copying: Copying::Ended,
            mirroring: None,
            progressed_ms: now_ms,
            pulled: 0,
            pulled_bytes: 0,
            pushed: 0,
            pushed_bytes: 0,
        }
    }

    /// Whether an answer is one to this round.
    pub(crate) fn is(&self, id: u64) -> bool {
        self.id == id
    }

    pub(crate) fn is_done(&self) -> bool {
        self.has_sent_all() && self.mirroring.as_ref().is_none_or(|mirroring| mirroring.is_taken == Some(true))
    }

    /// Whether the other side found that the copy was not whole: it restarted, or took an older piece for a newer one.
    pub(crate) fn is_refused(&self) -> bool {
        self.mirroring.as_ref().is_some_and(|mirroring| mirroring.is_taken == Some(false))
    }

    fn has_sent_all(&self) -> bool {
        self.open.is_empty() && self.has_begun_all()
    }

    fn has_begun_all(&self) -> bool {
        self.todo.is_empty() && matches!(self.copying, Copying::Ended)
    }

    /// Whether nothing was heard for long of what is on its way.
    pub(crate) fn is_stalled(&self, now_ms: u64) -> bool {
        !self.open.is_empty() && now_ms.saturating_sub(self.progressed_ms) >= ROUND_STALL_MS
    }

    /// Whether it makes no progress at present.
    pub(crate) fn is_held_up(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.progressed_ms) >= RESEND_MS
    }

    /// Waits for the other side to be heard of again, if it is a copy that can go on where it is; whether it is. The other side
    /// keeps the pieces that it has, as long as it runs.
    pub(crate) fn pause(&mut self, now_ms: u64) -> bool {
        self.mirroring.as_mut().is_some_and(|mirroring| now_ms < *mirroring.paused_ms.get_or_insert(now_ms) + MAX_PAUSED_MS)
    }

    /// Since when it waits, if it does.
    pub(crate) fn paused_ms(&self) -> Option<u64> {
        self.mirroring.as_ref().and_then(|mirroring| mirroring.paused_ms)
    }

    /// Goes on: what was on its way is sent again at once.
    pub(crate) fn resume(&mut self, now_ms: u64) {
        self.mirroring.iter_mut().for_each(|mirroring| mirroring.paused_ms = None);
        self.progressed_ms = now_ms;
        self.open.values_mut().filter(|(_, sent_ms)| *sent_ms != LOOKED_UP).for_each(|(_, sent_ms)| *sent_ms = 0);
    }

    /// The next message, or what is to be looked up for it, if one may be sent now.
    pub(crate) fn next(
        &mut self,
        (store, can_look_up): (&Store, bool),
        copies: &mut Copies,
        now_ms: u64,
    ) -> Result<Option<Step>, ReplicaError> {
        if self.paused_ms().is_some() || (self.is_copy && !copies.pace.has_room()) {
            return Ok(None);
        }
        // What one piece takes is known before the next one is looked up.
        if self.is_copy && copies.pace.is_bounded() && self.open.values().any(|(_, sent_ms)| *sent_ms == LOOKED_UP) {
            return Ok(None);
        }
        if let Some(mirroring) = &mut self.mirroring {
            mirroring.pinned.take_if(|pinned| copies.is_outdated(store, pinned));
        }
        let must_wait = store.is_durable() && !can_look_up;
        let late = self.open.iter_mut().find(|(_, (_, sent_ms))| now_ms.saturating_sub(*sent_ms) >= RESEND_MS);
        if let Some((number, (request, sent_ms))) = late {
            if must_wait {
                *sent_ms = now_ms;
                return Ok(None);
            }
            let (number, request) = (*number, request.clone());
            return self.send((number, request), store, copies, now_ms).map(Some);
        }
        let is_next_looked_up = matches!(self.todo.front(), Some(Request::Put(_) | Request::Copy(..))) || self.todo.is_empty();
        if must_wait && is_next_looked_up && !self.has_begun_all() {
            return Ok(None);
        }
        if self.open.len() >= MAX_OPEN_REQUESTS {
            return Ok(None);
        }
        let request = match self.todo.pop_front() {
            Some(request) => request,
            None => match self.next_copy(store, copies) {
                Some(request) => request,
                None if self.mirroring.as_ref().is_some_and(|own| own.is_taken.is_none()) && self.has_sent_all() => Request::End,
                None => return Ok(None),
            },
        };
        let number = self.next_number;
        self.next_number += 1;
        self.progressed_ms = now_ms;
        self.send((number, request), store, copies, now_ms).map(Some)
    }

    /// The next piece of a copy: places, so that a piece that is sent again carries the same keys.
    fn next_copy(&mut self, store: &Store, copies: &Copies) -> Option<Request> {
        let from = match std::mem::replace(&mut self.copying, Copying::Ended) {
            Copying::Begins => None,
            Copying::After(place) => Some(place),
            Copying::Ended => return None,
        };
        let last = copies.end_of_piece(store, from.as_ref());
        let last = last?;
        self.copying = Copying::After(last.clone());
        Some(Request::Copy(from, last))
    }

    fn send(
        &mut self,
        (number, request): (u64, Request),
        store: &Store,
        copies: &mut Copies,
        now_ms: u64,
    ) -> Result<Step, ReplicaError> {
        let round = self.id;
        let (request, payload) = match request {
            Request::Ask(nodes) => {
                let with_digest = |node: &Node| store.digest().digest(*node).map(|digest| (*node, digest));
                let payload = Payload::Ask { round, number, nodes: nodes.iter().filter_map(with_digest).collect() };
                (Request::Ask(nodes), payload)
            }
            Request::Want(hashes) => (Request::Want(hashes.clone()), Payload::Want { round, number, hashes }),
            Request::Put(hashes) if store.is_durable() => {
                let lookup = store.look_up_hashes(&hashes);
                self.open.insert(number, (Request::Put(hashes), LOOKED_UP));
                return Ok(Step::LookUp(number, lookup));
            }
            Request::Put(hashes) => {
                let (looked_at, pairs) = pairs_with(&hashes, store)?;
                self.given(number, hashes, looked_at, pairs)
            }
            Request::Copy(from, upto) => {
                let pinned = self.mirroring.as_ref().and_then(|mirroring| mirroring.pinned.as_ref());
                let between = (from.as_ref(), &upto);
                if store.is_durable() {
                    let lookup = copies.look_up_piece(store, between, pinned);
                    self.open.insert(number, (Request::Copy(from, upto), LOOKED_UP));
                    return Ok(Step::LookUp(number, lookup));
                }
                let found = copies.piece(store, between, self.began_at, pinned)?;
                self.copied(number, (from, upto), found, (store, copies))
            }
            Request::End => {
                let sums = self.mirroring.iter().flat_map(|mirroring| mirroring.sums.values().copied());
                let (pieces, digest) = sums.fold((0, Digest::default()), |(count, sum), next| (count + 1, sum.plus(next)));
                (Request::End, Payload::MirrorEnd { round, number, at: self.started, pieces, digest })
            }
        };
        self.open.insert(number, (request, now_ms));
        Ok(Step::Send(payload))
    }

    /// The entries of the first so many of these hashes.
    fn given(&mut self, number: u64, mut hashes: Vec<u64>, looked_at: usize, pairs: Vec<Pair>) -> (Request, Payload) {
        let rest = hashes.split_off(looked_at);
        if !rest.is_empty() {
            self.todo.push_front(Request::Put(rest));
        }
        self.count_pushed(&pairs);
        (Request::Put(hashes), Payload::Put { round: self.id, number, pairs })
    }

    /// A piece of a copy, and where it ends.
    fn copied(
        &mut self,
        number: u64,
        (from, upto): (Option<Place>, Place),
        (end, pairs): (Place, Vec<Pair>),
        (store, copies): (&Store, &mut Copies),
    ) -> (Request, Payload) {
        let round = self.id;
        if end < upto {
            // What is there takes more than what was there when the piece was chosen.
            self.todo.push_front(Request::Copy(Some(end.clone()), upto));
        }
        self.count_pushed(&pairs);
        copies.pace.took(size_bytes(&pairs) + PAIR_BYTES * pairs.len() as u64);
        let payload = match &mut self.mirroring {
            Some(mirroring) => {
                mirroring.sums.insert(number, store.digest().sum_of(&pairs));
                Payload::Mirror { round, number, pairs }
            }
            None => Payload::Put { round, number, pairs },
        };
        (Request::Copy(from, end), payload)
    }

    /// What was to be looked up for a request was found: the message, if it still is to be sent.
    pub(crate) fn on_found(
        &mut self,
        number: u64,
        found: Found,
        (store, copies): (&Store, &mut Copies),
        now_ms: u64,
    ) -> Option<Payload> {
        if !matches!(self.open.get(&number), Some((_, LOOKED_UP))) {
            // It was answered meanwhile: what was sent before has come.
            return None;
        }
        let (request, _) = self.open.remove(&number)?;
        if self.paused_ms().is_some() {
            // It is sent with all the others, once they are.
            self.open.insert(number, (request, 0));
            return None;
        }
        let (request, payload) = match request {
            Request::Put(hashes) => {
                let looked_at = found.looked_at(&hashes);
                self.given(number, hashes, looked_at, found.pairs)
            }
            Request::Copy(from, upto) => {
                let end = found.end(upto.clone());
                self.copied(number, (from, upto), (end, found.pairs), (store, copies))
            }
            Request::Ask(_) | Request::Want(_) | Request::End => return None,
        };
        if number > self.newest_found {
            // What is sent again is no progress.
            self.newest_found = number;
            self.progressed_ms = now_ms;
        }
        self.open.insert(number, (request, now_ms));
        Some(payload)
    }

    fn count_pushed(&mut self, pairs: &[Pair]) {
        self.pushed += pairs.len() as u64;
        self.pushed_bytes += size_bytes(pairs);
    }

    /// The answer to an ask. `fence`: what is not wanted, because it would be ignored.
    pub(crate) fn on_tell(&mut self, number: u64, looked_at: u32, parts: &[Part], (store, fence): (&Store, Hlc), now_ms: u64) {
        if !matches!(self.open.get(&number), Some((Request::Ask(_), _))) || looked_at == 0 {
            return;
        }
        let Some((Request::Ask(mut nodes), _)) = self.open.remove(&number) else { return };
        self.progressed_ms = now_ms;
        let rest = nodes.split_off((looked_at as usize).min(nodes.len()));
        if !rest.is_empty() {
            self.todo.push_front(Request::Ask(rest));
        }
        let (mut ask, mut want, mut put) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            match part {
                Part::Children(node, theirs) => {
                    let Some(ours) = store.digest().children(*node) else { continue };
                    let differ = (0..FAN_OUT as u32).filter(|at| ours[*at as usize] != theirs[*at as usize]);
                    ask.extend(differ.map(|at| Node { level: node.level + 1, index: node.index * FAN_OUT as u32 + at }));
                }
                Part::Leaf(leaf, theirs) => compare(&store.leaf(*leaf), theirs, fence, (&mut want, &mut put)),
            }
        }
        // What is known to differ goes first: so what waits here stays small.
        ask.chunks(MAX_ASKED_NODES).for_each(|nodes| self.todo.push_front(Request::Ask(nodes.to_vec())));
        put.chunks(MAX_WANTED_HASHES).for_each(|hashes| self.todo.push_front(Request::Put(hashes.to_vec())));
        want.chunks(MAX_WANTED_HASHES).for_each(|hashes| self.todo.push_front(Request::Want(hashes.to_vec())));
    }

    /// The answer to a want. Returns whether it is one, and so what came with it counts.
    pub(crate) fn on_give(&mut self, number: u64, looked_at: u32, pairs: &[Pair], now_ms: u64) -> bool {
        if !matches!(self.open.get(&number), Some((Request::Want(_), _))) || looked_at == 0 {
            return false;
        }
        let Some((Request::Want(mut hashes), _)) = self.open.remove(&number) else { return false };
        self.progressed_ms = now_ms;
        self.pulled += pairs.len() as u64;
        self.pulled_bytes += size_bytes(pairs);
        let rest = hashes.split_off((looked_at as usize).min(hashes.len()));
        if !rest.is_empty() {
            self.todo.push_front(Request::Want(rest));
        }
        true
    }

    /// What was sent is there.
    pub(crate) fn on_put_done(&mut self, number: u64, now_ms: u64) {
        if matches!(self.open.get(&number), Some((Request::Put(_) | Request::Copy(..), _))) {
            self.open.remove(&number);
            self.progressed_ms = now_ms;
        }
    }

    /// Whether the copy took its place; who has lost pieces says of the next one that it cannot. Returns whether it was waited
    /// for.
    pub(crate) fn on_mirror_done(&mut self, number: u64, is_taken: bool, now_ms: u64) -> bool {
        let is_answer = match self.open.get(&number) {
            Some((Request::End, _)) => true,
            Some((Request::Copy(..), _)) => !is_taken,
            _ => false,
        };
        if is_answer {
            self.open.remove(&number);
            self.progressed_ms = now_ms;
            self.mirroring.iter_mut().for_each(|mirroring| mirroring.is_taken = Some(is_taken));
        }
        is_answer
    }

    /// When something is to be sent, or the round to be given up.
    pub(crate) fn due_ms(&self, pace: &Pace) -> u64 {
        if let Some(paused_ms) = self.paused_ms() {
            return paused_ms + MAX_PAUSED_MS;
        }
        let again = self.open.values().map(|(_, sent_ms)| sent_ms.saturating_add(RESEND_MS)).min();
        let stalls = again.map(|_| self.progressed_ms + ROUND_STALL_MS);
        if !self.is_copy || pace.has_room() {
            return again.into_iter().chain(stalls).min().unwrap_or(u64::MAX);
        }
        let next = (self.open.len() < MAX_OPEN_REQUESTS).then(|| pace.due_ms());
        again.map(|again| again.max(pace.due_ms())).into_iter().chain(stalls).chain(next).min().unwrap_or(u64::MAX)
    }
}

fn size_bytes(pairs: &[Pair]) -> u64 {
    pairs.iter().map(|pair| (pair.key.len() + pair.entry.body.size_bytes()) as u64).sum()
}

/// What differs between two leaves, by hash. Where two keys share a hash, everything travels both ways.
fn compare(ours: &[(u64, Version)], theirs: &[(u64, Version)], fence: Hlc, (want, put): (&mut Vec<u64>, &mut Vec<u64>)) {
    let mut by_hash: BTreeMap<u64, (Vec<Version>, Vec<Version>)> = BTreeMap::new();
    ours.iter().for_each(|(hash, version)| by_hash.entry(*hash).or_default().0.push(*version));
    theirs.iter().for_each(|(hash, version)| by_hash.entry(*hash).or_default().1.push(*version));
    for (hash, (mut ours, mut theirs)) in by_hash {
        if let ([own], [other]) = (&ours[..], &theirs[..]) {
            match own.cmp(other) {
                std::cmp::Ordering::Less => want.push(hash),
                std::cmp::Ordering::Greater => put.push(hash),
                std::cmp::Ordering::Equal => {}
            }
            continue;
        }
        ours.sort_unstable();
        theirs.sort_unstable();
        if ours != theirs {
            if theirs.iter().any(|version| version.hlc > fence) {
                want.push(hash);
            }
            if !ours.is_empty() {
                put.push(hash);
            }
        }
    }
}

/// The entries of the first of these hashes that fit into a message, at least of one, and of how many that is.
pub(crate) fn pairs_with(hashes: &[u64], store: &Store) -> Result<(usize, Vec<Pair>), ReplicaError> {
    let (mut pairs, mut bytes) = (Vec::new(), 0);
    for (looked_at, hash) in hashes.iter().enumerate() {
        let found = store.with_hash(*hash)?;
        let more: usize = found.iter().map(|(key, entry)| key.len() + entry.body.size_bytes()).sum();
        if looked_at > 0 && (bytes + more as u64 > MAX_MESSAGE_BYTES || looked_at >= MAX_MESSAGE_PAIRS) {
            return Ok((looked_at, pairs));
        }
        bytes += more as u64;
        pairs.extend(found.into_iter().map(|(key, entry)| Pair { key, entry }));
    }
    Ok((hashes.len(), pairs))
}

/// The parts that differ, out of the first of those that were asked about, and of how many that is.
pub(crate) fn differing(nodes: &[(Node, Digest)], store: &Store) -> (u32, Vec<Part>) {
    let (mut parts, mut bytes) = (Vec::new(), 0_u64);
    for (looked_at, (node, theirs)) in nodes.iter().enumerate() {
        if bytes >= MAX_MESSAGE_BYTES {
            return (looked_at as u32, parts);
        }
        if store.digest().digest(*node).is_none_or(|ours| ours == *theirs) {
            continue;
        }
        match store.digest().children(*node) {
            Some(children) => {
                bytes += 16 * FAN_OUT as u64;
                parts.push(Part::Children(*node, children));
            }
            None => {
                let leaf = store.leaf(node.index);
                bytes += 20 * leaf.len() as u64;
                parts.push(Part::Leaf(node.index, leaf));
            }
        }
    }
    (nodes.len() as u32, parts)
}
