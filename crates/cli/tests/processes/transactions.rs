//! Transactions through every node, while leaders are killed: what they move is never lost, never doubled, never seen half.

use serde_json::{Value, json};

use crate::support::{Cluster, Connection, Request, Work, pause};

const ACCOUNTS: u64 = 6;
const EACH: u64 = 100;

fn account(number: u64) -> String {
    format!("account/{number}")
}

fn txn(connection: &mut Connection, txn: &Value) -> Option<Value> {
    let request = Request::json("POST", "/v1/txn?timeout=5s", txn.to_string());
    let answer = connection.send(&request).ok()?;
    (answer.status == 200).then(|| answer.json())
}

/// Value and revision of each account, as one transaction read them.
fn read_all(connection: &mut Connection) -> Option<Vec<(u64, u64)>> {
    let gets: Vec<Value> = (0..ACCOUNTS).map(|number| json!({"op": "get", "key": account(number)})).collect();
    let answer = txn(connection, &json!({ "then": gets }))?;
    let of = |result: &Value| {
        let value = result["entry"]["value"].as_str()?.parse().ok()?;
        Some((value, result["entry"]["mod_revision"].as_u64()?))
    };
    answer["results"].as_array()?.iter().map(of).collect()
}

fn sum(accounts: &[(u64, u64)]) -> u64 {
    accounts.iter().map(|(value, _)| value).sum()
}

/// Moves something from one account to another, if nobody touched either meanwhile; whether it was done for certain.
fn transfer(connection: &mut Connection, step: u64) -> bool {
    let Some(accounts) = read_all(connection) else { return false };
    assert_eq!(sum(&accounts), ACCOUNTS * EACH, "a read saw half of a transfer: {accounts:?}");
    let (from, to) = (step % ACCOUNTS, (step / ACCOUNTS + step + 1) % ACCOUNTS);
    let ((from_value, from_revision), (to_value, to_revision)) = (accounts[from as usize], accounts[to as usize]);
    let amount = from_value.min(1 + step % 7);
    if from == to || amount == 0 {
        return false;
    }
    let asked = json!({
        "if": [
            {"key": account(from), "mod_revision": from_revision},
            {"key": account(to), "mod_revision": to_revision},
        ],
        "then": [
            {"op": "put", "key": account(from), "value": (from_value - amount).to_string()},
            {"op": "put", "key": account(to), "value": (to_value + amount).to_string()},
        ],
    });
    txn(connection, &asked).is_some_and(|answer| answer["succeeded"] == json!(true))
}

#[test]
fn nothing_is_lost_between_accounts_while_leaders_are_killed() {
    let mut cluster = Cluster::ready(3);
    let puts: Vec<Value> =
        (0..ACCOUNTS).map(|number| json!({"op": "put", "key": account(number), "value": EACH.to_string()})).collect();
    let made = txn(&mut cluster.connection("n1"), &json!({ "then": puts })).expect("three nodes answer");
    assert_eq!(made["succeeded"], json!(true));

    let addresses = cluster.addresses();
    let work = Work::default();
    std::thread::scope(|scope| {
        for (address, first) in addresses.iter().zip(0..) {
            let work = &work;
            scope.spawn(move || {
                let mut connection = Connection::to(address);
                for step in (first..).step_by(5).take_while(|_| work.goes_on()) {
                    if transfer(&mut connection, step) {
                        work.step();
                    } else {
                        pause(5);
                    }
                }
            });
        }
        cluster.kill_leaders(2, &work, 50);
    });
    for node in ["n1", "n2", "n3"] {
        let accounts = read_all(&mut cluster.connection(node)).expect("every node is ready");
        assert_eq!(sum(&accounts), ACCOUNTS * EACH, "{node}: {accounts:?}");
    }
    cluster.assert_same_everywhere();
}

#[test]
fn a_large_answer_comes_through_a_node_that_does_not_lead() {
    let cluster = Cluster::ready(3);
    let follower = cluster.other_than(&[&cluster.leader()]);
    let mut connection = cluster.connection(&follower);
    let value = |number: usize| (0..1_400_000).map(|index| b'a' + ((index * number) % 26) as u8).collect::<Vec<u8>>();
    for number in 0..7 {
        connection.expect(201, &Request::put(format!("large/{number}").as_bytes(), value(number)));
    }
    let with_gets = |count: usize| {
        let put = json!({"op": "put", "key": "small", "value": count.to_string()});
        let gets = (0..count).map(|number| json!({"op": "get", "key": format!("large/{number}")}));
        let ops: Vec<Value> = std::iter::once(put).chain(gets).collect();
        Request::json("POST", "/v1/txn", json!({ "then": ops }).to_string())
    };
    let answer: Value = connection.expect(200, &with_gets(6)).json();
    for number in 0..6 {
        let read = answer["results"][number + 1]["entry"]["value"].as_str().expect("it is text");
        assert!(read.as_bytes() == value(number), "value {number} came back otherwise");
    }
    let refused: Value = connection.expect(413, &with_gets(7)).json();
    assert_eq!(refused["code"], json!("transaction_too_large"));
    assert_eq!(connection.expect(200, &Request::get(b"small")).text(), "6", "what is refused is not done");
}
