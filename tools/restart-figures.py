#!/usr/bin/env python3
"""How long nodes with a large keyspace in memory take to serve again after kill -9.

    tools/restart-figures.py PROGRAM [--engines trie,hash] [--nodes 1] [--pairs 1000000] [--value-bytes 1024] [--rounds 3] [--puts 5]
        [--folder DIR]

Nodes on loopback, for each engine a new cluster, with a keyspace that is filled first. Each round puts for a few seconds, so that a
part of what is to be read back lies in the log alone, kills all nodes at once, and starts them: a node reads its newest snapshot
and the log from there on. It counts until every node says that it is ready, and until every one has answered a linearizable read of
the keyspace and has as many pairs as before. Needs Linux and python3 alone, twice the data of disk and, once per node, of memory.
"""

import argparse
import json
import shutil
import tempfile
import time

from nodes import cluster, load, seconds_until

READ = "/v1/kv/data?limit=1"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--engines", default="trie,hash")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--puts", type=int, default=5, help="seconds of puts before each kill")
    parser.add_argument("--folder")
    options = parser.parse_args()
    for engine in options.engines.split(","):
        measure(engine, options)


def measure(engine, options):
    folder = tempfile.mkdtemp(prefix="quorate-restarts-", dir=options.folder)
    nodes = []
    try:
        nodes = cluster(options.program, options.nodes, f"{folder}/nodes")
        fill(nodes, engine, options)
        for _ in range(options.rounds):
            load(nodes[0], options, "put", "--seconds", str(options.puts))
            seconds_until(lambda: len({keys(node) for node in nodes}) == 1)
            restart(nodes, keys(nodes[0]))
    finally:
        for node in nodes:
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)


def fill(nodes, engine, options):
    settings = {"engine": {"type": engine}, "limits": {"max_bytes": 2 * options.pairs * (options.value_bytes + 128)}}
    status, answer = nodes[0].ask("PUT", "/v1/keyspaces/data", json.dumps(settings))
    if status != 201:
        raise SystemExit(f"{status}: {answer}")
    load(nodes[0], options, "get", "--seconds", "1")
    stats = json.loads(nodes[0].ask("GET", "/v1/keyspaces/data/stats")[1])
    memory = ", ".join(f"{node.memory_mib():.0f}" for node in nodes)
    print(f"{engine}: {stats['keys']} pairs of {stats['data_bytes'] / 2**20:.0f} MiB, {memory} MiB resident", flush=True)


def keys(node):
    status, answer = node.ask("GET", "/v1/keyspaces/data/stats")
    return json.loads(answer)["keys"] if status == 200 else None


def restart(nodes, pairs):
    for node in nodes:
        node.process.kill()
    for node in nodes:
        node.process.wait()
    begin = time.monotonic()
    for node in nodes:
        node.start()
    seconds_until(lambda: all(node.is_ready() for node in nodes))
    ready_s = time.monotonic() - begin
    seconds_until(lambda: all(node.ask("GET", READ)[0] == 200 and keys(node) == pairs for node in nodes))
    served_s = time.monotonic() - begin
    cpu = ", ".join(f"{node.cpu_s():.1f}" for node in nodes)
    memory = ", ".join(f"{node.peak_mib():.0f}" for node in nodes)
    print(f"    ready after {ready_s:.1f} s, all read after {served_s:.1f} s; {cpu} s of processor, {memory} MiB at most", flush=True)


if __name__ == "__main__":
    main()
