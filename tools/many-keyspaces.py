#!/usr/bin/env python3
"""What many keyspaces cost that nobody uses: three nodes on this machine, figures on standard output.

    tools/many-keyspaces.py [PROGRAM] [KEYSPACES] [SECONDS]    target/release/quorate, 1000 keyspaces, idle for 60 s

Needs Linux and python3 alone. Everything it makes is in a temporary folder; it listens on loopback alone, and ends what it started.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time

from nodes import Node, seconds_until

PROGRAM = sys.argv[1] if len(sys.argv) > 1 else "target/release/quorate"
KEYSPACES = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
SECONDS = int(sys.argv[3]) if len(sys.argv) > 3 else 60
SETTINGS = json.dumps({"engine": {"type": "hash"}})


def count(node, metric):
    lines = node.ask("GET", "/metrics")[1].splitlines()
    return sum(line.startswith(metric + "{") and line.endswith(" 1") for line in lines)


def tell(what, figure):
    print(f"{what:<64} {figure}", flush=True)


def create(nodes, names, clients):
    waiting, taken, failed = iter(names), threading.Lock(), []

    def client():
        while True:
            with taken:
                number = next(waiting, None)
            if number is None:
                return
            status, body = nodes[number % len(nodes)].ask("PUT", f"/v1/keyspaces/k{number}", SETTINGS)
            if status not in (200, 201):
                failed.append(body)

    begin = time.monotonic()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    spent = time.monotonic() - begin
    failures = f", {len(failed)} failed: {failed[0][:150]}" if failed else ""
    tell(f"{len(names)} keyspaces made, {clients} at once", f"{spent:.1f} s{failures}")


def idle(nodes, seconds):
    before, begin = [node.cpu_s() for node in nodes], time.monotonic()
    time.sleep(seconds)
    spent = time.monotonic() - begin
    parts = [100 * (node.cpu_s() - cpu) / spent for node, cpu in zip(nodes, before)]
    each = ", ".join(f"{part:.2f}" for part in parts)
    tell("idle, of one core, all nodes together (each)", f"{sum(parts):.2f} % ({each})")
    tell("memory of the largest node", f"{max(node.memory_mib() for node in nodes):.0f} MiB")


def puts(nodes, clients):
    endpoints = ",".join(f"http://{node.address()}" for node in nodes)
    command = [PROGRAM, "bench", "put", "--seconds", "5", "--clients", str(clients), "-e", endpoints, "-o", "json"]
    row = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["items"][0]
    tell(f"puts into one keyspace, {clients} clients", f"{row['rate_per_s']:.0f}/s, p50 {row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.2f} ms")


def main(folder):
    nodes = []
    try:
        for number in (1, 2, 3):
            nodes.append(Node(PROGRAM, number, folder, nodes[0] if nodes else None))
        tell("start of three nodes", f"{seconds_until(lambda: all(node.is_ready() for node in nodes)):.1f} s")
        time.sleep(2)
        idle(nodes, min(SECONDS, 10))
        [puts(nodes, clients) for clients in (1, 64)]
        one_by_one = min(100, KEYSPACES)
        create(nodes, range(one_by_one), 1)
        create(nodes, range(one_by_one, KEYSPACES), 16)
        time.sleep(5)
        idle(nodes, SECONDS)
        [puts(nodes, clients) for clients in (1, 64)]
        groups = sum(count(node, "quorate_raft_is_leader") for node in nodes)
        led = count(nodes[1], "quorate_raft_is_leader")
        nodes[1].kill()
        left = [nodes[0], nodes[2]]
        taken_over = seconds_until(lambda: sum(count(node, "quorate_raft_is_leader") for node in left) >= groups)
        tell(f"a node that leads {led} of {groups} groups is killed: all are led after", f"{taken_over:.1f} s")
        idle(left, min(SECONDS, 20))
        nodes[1].start()
        tell("it starts again, and is ready after", f"{seconds_until(nodes[1].is_ready):.1f} s")
        [node.kill() for node in nodes]
        [node.start() for node in nodes]
        tell("all are killed and start: all are ready after", f"{seconds_until(lambda: all(node.is_ready() for node in nodes)):.1f} s")
    finally:
        [node.kill() for node in nodes if node.process.poll() is None]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="quorate-many-") as work:
        main(work)
