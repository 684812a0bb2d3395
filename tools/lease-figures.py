#!/usr/bin/env python3
"""What leases cost, and what happens when very many end at the same moment: figures on standard output.

    tools/lease-figures.py [PROGRAM] [BENCH] [LEASES] [RATE] [ENDING]
        target/release/quorate, target/release/examples/lease_bench, 1,000,000 leases, 20,000 keep-alives/s, 100,000 that end

Needs Linux and python3 alone. Everything it makes is in a temporary folder; it listens on loopback alone, and ends what it
started.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time

from nodes import cluster

PROGRAM = sys.argv[1] if len(sys.argv) > 1 else "target/release/quorate"
BENCH = sys.argv[2] if len(sys.argv) > 2 else "target/release/examples/lease_bench"
LEASES, RATE, ENDING = [int(given) for given in sys.argv[3:6] + ["1000000", "20000", "100000"][len(sys.argv[3:6]):]]
KEEPING_S = 20
TTL_S = 90


def bench(nodes, leases, rate, seconds, ttl):
    endpoints = ",".join(f"http://{node.address()}" for node in nodes)
    done = subprocess.run([BENCH, endpoints, str(leases), str(rate), str(seconds), ttl], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("the load failed")
    print(done.stdout, end="", flush=True)


def data_bytes(node):
    shards = json.loads(node.ask("GET", "/v1/cluster")[1])["shards"]
    return next(shard["data_bytes"] for shard in shards if shard["keyspace"] == "default")


def all_at_once(nodes):
    """A new leader gives every lease its full time: so they all end in one moment, that long after it began to lead."""
    leader = json.loads(nodes[0].ask("GET", "/v1/cluster")[1])["shards"][1]["leader"]
    to = next(f"n{number}" for number in range(1, 4) if f"n{number}" != leader)
    status, answer = nodes[0].ask("POST", "/v1/cluster/leader", json.dumps({"keyspace": "default", "to": to}))
    if status != 200:
        sys.exit(f"{status}: {answer}")
    began, before = time.monotonic(), data_bytes(nodes[0])
    first, longest = None, 0
    while True:
        asked = time.monotonic()
        status, answer = nodes[0].ask("PUT", "/v1/kv/default/beside", "x")
        if status not in (201, 204):
            sys.exit(f"{status}: {answer}")
        left = data_bytes(nodes[0])
        if first is None and left < before // 2 + before // 3:
            first = time.monotonic()
        if first is not None:
            longest = max(longest, time.monotonic() - asked)
        if left < 1000:
            break
        if time.monotonic() - began > 3 * TTL_S:
            sys.exit(f"{left} bytes of leases are left")
        time.sleep(0.005)
    took = time.monotonic() - first
    print(f"{ENDING} leases that ended in one moment were gone within {took:.1f} s of the first sixth; a put and a look beside it "
          f"took {1000 * longest:.0f} ms at most", flush=True)


def main():
    folder = tempfile.mkdtemp(prefix="quorate-leases-")
    nodes = []
    try:
        for leases, rate, seconds, ttl in [(LEASES, RATE, KEEPING_S, "1h"), (ENDING, 1000, 1, f"{TTL_S}s")]:
            nodes = cluster(PROGRAM, 3, f"{folder}/{leases}")
            bench(nodes, leases, rate, seconds, ttl)
            print("memory: " + ", ".join(f"{node.memory_mib():.0f} MiB" for node in nodes), flush=True)
            if ttl != "1h":
                all_at_once(nodes)
            for node in nodes:
                node.kill()
            nodes = []
    finally:
        for node in nodes:
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)


main()
