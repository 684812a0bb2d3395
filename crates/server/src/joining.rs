//! How a node comes to be of a cluster. It looks for others wherever it was told to, over and over, and tells each of them how it
//! stands; the others answer the same. As soon as one of them is of a cluster, the node asks to be let in there, until it is,
//! or hears why it never will be. A node that may begin a cluster goes by the rules of [`crate::formation`] meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::Method;
use quorate_api::cluster::{Formation, JoinAnswer, JoinRequest};
use quorate_discovery::{Discovery, Found};
use tokio::task::JoinSet;

use crate::data_dir::{DataDir, DataDirError};
use crate::formation::{Durable, Step};
use crate::node_calls::{call, reason};
use crate::waiting::Waiting;

/// Between two rounds over all addresses.
const PAUSE: Duration = Duration::from_millis(300);

/// How long one address may take to say how it stands.
const TELL_PATIENCE: Duration = Duration::from_secs(1);

/// How long it may take to let a node in.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);

/// Why a node will never be let in.
#[derive(Debug, thiserror::Error)]
#[error("{address} does not let this node in: {reason}")]
pub struct JoinRefused {
    address: String,
    reason: String,
}

/// Why a node does not come to be of a cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    #[error(transparent)]
    Refused(#[from] JoinRefused),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("no random number: {0}")]
    Random(#[from] getrandom::Error),
}

/// How it ended.
pub(crate) enum Outcome {
    /// The node was let in.
    Joined(JoinAnswer),
    /// The node begins the cluster of this id, which is durable.
    Founds(String),
}

/// What one round over all addresses brought.
struct Round {
    /// Addresses by the cluster that their nodes are of.
    members: BTreeMap<String, Vec<String>>,
    /// Why there are not more, one line for each.
    problems: Vec<String>,
}

/// Looks, tells and asks until there is an outcome. Never gives up on addresses that do not answer: they may start later.
pub(crate) async fn join_or_found(
    discovery: &Discovery,
    waiting: &Waiting,
    folder: &DataDir,
    request: &JoinRequest,
) -> Result<Outcome, JoinError> {
    loop {
        waiting.next_round();
        let Round { members, problems } = look_around(discovery, waiting, &request.client_address).await;
        // What this node has begun to found may be there for others already: there is no way back.
        let mut awaited = match members.len() {
            0 => None,
            _ if waiting.founds() => None,
            1 => match ask_members(members.into_values().flatten(), request).await? {
                Ok(answer) => return Ok(Outcome::Joined(answer)),
                Err(why) => Some(format!("not let in yet: {why}")),
            },
            _ => Some(two_clusters(&members)),
        };
        // A step that may not be taken now is none to hurry for.
        let hurries = awaited.is_none();
        if awaited.is_none() {
            match take_steps(waiting, folder)? {
                Progress::Founds(cluster) => return Ok(Outcome::Founds(cluster)),
                // To be told at once.
                Progress::Some => continue,
                Progress::None => awaited = waiting.awaits(),
            }
        }
        let awaited = awaited.unwrap_or_else(|| "waiting for a node that is of a cluster".to_owned());
        let problems = if problems.is_empty() { String::new() } else { format!(" ({})", problems.join("; ")) };
        let awaited = awaited + &problems;
        if waiting.set_awaited(&awaited) {
            tracing::warn!("{awaited}");
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = waiting.heard(), if hurries => {}
        }
    }
}

/// Tells every address that is found how this node stands, and hears the same.
async fn look_around(discovery: &Discovery, waiting: &Waiting, own_address: &str) -> Round {
    let mut round = Round { members: BTreeMap::new(), problems: Vec::new() };
    let mut known = BTreeSet::new();
    for Found { spec, addresses, problem } in discovery.find().await {
        round.problems.extend(problem.map(|problem| format!("{spec}: {problem}")));
        known.extend(addresses.into_iter().filter(|address| address != own_address));
    }
    let mut asked = JoinSet::new();
    for address in known {
        let told = waiting.tell();
        asked.spawn(async move {
            let told = tell(&address, &told).await;
            (address, told)
        });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (address, answer) in answers {
        match answer {
            Ok(Formation { cluster_id: Some(cluster), .. }) => round.members.entry(cluster).or_default().push(address),
            Ok(formation) => waiting.hear(&formation),
            Err(error) => round.problems.push(format!("{address}: {error}")),
        }
    }
    round
}

async fn tell(address: &str, told: &Formation) -> Result<Formation, String> {
    let (status, body) = call(address, (Method::POST, "/v1/cluster/formation"), told, TELL_PATIENCE).await?;
    if !status.is_success() {
        return Err(reason(status, &body));
    }
    serde_json::from_slice(&body).map_err(|error| format!("its answer cannot be read: {error}"))
}

/// Nobody can say which of them is meant: to join any would be a guess.
fn two_clusters(members: &BTreeMap<String, Vec<String>>) -> String {
    let named: Vec<String> = members.iter().map(|(cluster, at)| format!("{cluster} (at {})", at.join(", "))).collect();
    format!("joining none of several clusters, {}: correct where this node looks for others", named.join(" and "))
}

/// Asks members of one cluster in turn to be let in. The inner error may be another one next time.
async fn ask_members(
    addresses: impl Iterator<Item = String>,
    request: &JoinRequest,
) -> Result<Result<JoinAnswer, String>, JoinRefused> {
    let mut why = String::new();
    for address in addresses {
        let (status, body) = match call(&address, (Method::POST, "/v1/cluster/nodes"), request, JOIN_PATIENCE).await {
            Ok(answer) => answer,
            Err(error) => {
                why = format!("{address}: {error}");
                continue;
            }
        };
        if status.is_success() {
            match serde_json::from_slice(&body) {
                Ok(answer) => return Ok(Ok(answer)),
                Err(error) => why = format!("{address}: its answer cannot be read: {error}"),
            }
            continue;
        }
        let reason = reason(status, &body);
        // What names and addresses are wrong for stays wrong; a time limit or too many requests do not.
        if [400, 403, 404, 405, 409, 413, 415, 422].contains(&status.as_u16()) {
            return Err(JoinRefused { address, reason });
        }
        why = format!("{address}: {reason}");
    }
    Ok(Err(why))
}

/// How far the steps went.
enum Progress {
    None,
    Some,
    Founds(String),
}

/// Takes all steps that follow from what was heard, each durable before the next, and before anybody is told.
fn take_steps(waiting: &Waiting, folder: &DataDir) -> Result<Progress, JoinError> {
    let mut progress = Progress::None;
    while let Some((step, durable)) = waiting.next() {
        let next = match (step, durable.founds.clone()) {
            (Step::Wait, _) => break,
            (Step::Found, Some(cluster)) => return Ok(Progress::Founds(cluster)),
            (Step::Found, None) => Durable { founds: Some(format!("{:016x}", getrandom::u64()?)), ..durable },
            (Step::Write(next), _) => next,
        };
        folder.write_formation(&next)?;
        tracing::info!(round = next.round, promised = ?next.promised, founds = next.founds, "noted for the cluster's beginning");
        waiting.written(next);
        progress = Progress::Some;
    }
    Ok(progress)
}
