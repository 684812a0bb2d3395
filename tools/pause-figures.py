#!/usr/bin/env python3
"""How long puts wait while a large keyspace in memory is cut into a snapshot and moves to another engine.

    tools/pause-figures.py PROGRAM [--pairs 1000000] [--value-bytes 1024] [--rate 1000] [--rounds 4] [--seconds 15] [--folder DIR]

One node on loopback, with a keyspace on `trie` that is filled first. Each round puts at a fixed rate, once with nothing beside it
and once while the keyspace moves to the other of `hash` and `trie`: the present engine is cut into a snapshot file, the new one is
filled from it, the log is purged, the old engine is dropped. Latencies count from when a put was due. Needs Linux and python3 alone,
three times the data of disk and of memory, and a disk that nobody else syncs to: what others write waits in the same queue.
"""

import argparse
import json
import shutil
import tempfile
import threading
import time

from nodes import cluster, load, seconds_until

SETTLE_S = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=1024)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--folder")
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="quorate-pauses-", dir=options.folder)
    nodes = []
    try:
        nodes = cluster(options.program, 1, f"{folder}/nodes")
        fill(nodes[0], options)
        for round_number in range(options.rounds):
            alone = puts(nodes[0], options)
            moving = Moving(nodes[0], "trie" if round_number % 2 else "hash")
            beside = puts(nodes[0], options)
            begun, ended = moving.finish()
            tell("alone", alone)
            tell(f"while it moves to {moving.engine} ({ended - begun:.1f} s)", beside)
            worst = ", ".join(f"{second['max_ms']:.0f}" for second in beside["seconds"])
            print(f"    longest of each second, in ms (it moves from {begun - moving.start:.1f} s on): {worst}", flush=True)
    finally:
        for node in nodes:
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)


def fill(node, options):
    node.ask("PUT", "/v1/keyspaces/data", json.dumps({"engine": {"type": "trie"}}))
    load(node, options, "get", "--seconds", "1")
    print(f"{options.pairs} pairs, {node.memory_mib():.0f} MiB resident", flush=True)
    time.sleep(SETTLE_S)


def puts(node, options):
    return load(node, options, "put", "--rate", str(options.rate), "--seconds", str(options.seconds))


def tell(what, figures):
    latencies = "  ".join(f"{name} {figures[field]:6.1f}" for name, field in
                          (("p50", "p50_ms"), ("p99", "p99_ms"), ("p99.9", "p999_ms"), ("most", "max_ms")))
    print(f"{what:<36} {latencies} ms", flush=True)


class Moving:
    """Asks for a move a little after the puts began, and waits until it is over."""

    def __init__(self, node, engine):
        self.node, self.engine, self.start = node, engine, time.monotonic()
        self.begun = self.ended = None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        time.sleep(SETTLE_S)
        self.begun = time.monotonic()
        status, answer = self.node.ask("PATCH", "/v1/keyspaces/data", json.dumps({"engine": {"type": self.engine}}))
        if status != 200:
            raise SystemExit(f"{status}: {answer}")
        seconds_until(self.is_over)
        self.ended = time.monotonic()

    def is_over(self):
        stats = json.loads(self.node.ask("GET", "/v1/keyspaces/data/stats")[1])
        return stats.get("engine") == self.engine

    def finish(self):
        self.thread.join()
        if self.ended is None:
            raise SystemExit("it did not move")
        return self.begun, self.ended


if __name__ == "__main__":
    main()
