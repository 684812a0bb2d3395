#!/usr/bin/env python3
"""What a store outside costs at a node: memory for lists of many objects, and what a hit in the cache in front costs beside the
engine `cache`. Figures on standard output.

    tools/store-figures.py [PROGRAM] [OBJECTS...]    target/release/quorate, 10,000 and 100,000 objects

Needs Linux and python3 alone. Everything it makes is in a temporary folder; it listens on loopback alone, and ends what it
started.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

from nodes import cluster

PROGRAM = sys.argv[1] if len(sys.argv) > 1 else "target/release/quorate"
OBJECTS = [int(given) for given in sys.argv[2:]] or [10_000, 100_000]
PER_FOLDER = 1000
PER_PAGE = 1000
ROUNDS = 3
KEYS = 2000


def create(node, keyspace, settings):
    status, answer = node.ask("PUT", f"/v1/keyspaces/{keyspace}", json.dumps(settings))
    if status not in (200, 201):
        sys.exit(f"{status}: {answer}")


def pages(node, keyspace):
    """How many keys there are, with their values, page by page."""
    count, cursor = 0, ""
    while True:
        status, answer = node.ask("GET", f"/v1/kv/{keyspace}?values=true&limit={PER_PAGE}{cursor}&timeout=60s")
        if status != 200:
            sys.exit(f"{status}: {answer}")
        page = json.loads(answer)
        count += len(page["items"])
        if not page.get("next_cursor"):
            return count
        cursor = "&cursor=" + urllib.parse.quote(page["next_cursor"])


def lines(node, keyspace):
    """The same as one stream."""
    request = urllib.request.Request(f"http://{node.address()}/v1/kv/{keyspace}?values=true")
    request.add_header("Accept", "application/x-ndjson")
    count = 0
    with urllib.request.urlopen(request) as answer:
        for line in answer:
            count += 1 if b'"key"' in line else 0
    return count


def listed(folder, objects, per_folder):
    place = f"{folder}/objects-{objects}-{per_folder}"
    for number in range(objects):
        within = f"{place}/{number // per_folder:05}"
        if number % per_folder == 0:
            os.makedirs(within)
        with open(f"{within}/{number:08}", "w") as written:
            written.write("v" * 100)
    [node] = cluster(PROGRAM, 1, f"{folder}/nodes-{objects}-{per_folder}", ["--fs-root", folder])
    try:
        engine = {"type": "fs", "folder": place, "path": "shared", "envelope": "none", "key_encoding": "path"}
        create(node, "objects", {"engine": engine})
        node.ask("GET", "/v1/kv/objects?limit=10")
        before = node.peak_mib()
        told = []
        for name, list_all in [("pages", pages), ("lines", lines)]:
            began = time.monotonic()
            count = list_all(node, "objects")
            if count != objects:
                sys.exit(f"{count} of {objects} objects in {name}")
            told.append(f"{name} in {time.monotonic() - began:.1f} s, peak {node.peak_mib():.1f} MiB")
        print(f"{objects} objects, {per_folder} to a folder: peak {before:.1f} MiB before; {'; '.join(told)}", flush=True)
    finally:
        node.kill()
        shutil.rmtree(place)


def hits(folder):
    [node] = cluster(PROGRAM, 1, f"{folder}/hits", ["--fs-root", folder])
    try:
        os.makedirs(f"{folder}/pairs")
        room = {"max_bytes": "256MiB"}
        create(node, "plain", {"engine": {"type": "cache", **room}, "replication": {"mode": "none"}})
        front = {"type": "fs", "folder": f"{folder}/pairs", "path": "shared", "cache": {**room, "ttl": "1h"}}
        create(node, "front", {"engine": front})
        rates, cpus = {"plain": [], "front": []}, {"plain": [], "front": []}
        for number in range(ROUNDS + 1):
            for keyspace in rates:
                command = [PROGRAM, "bench", "get", "-k", keyspace, "--keys", str(KEYS), "--seconds", "3", "-o", "json"]
                command += ["--pids", str(node.process.pid), "-e", f"http://{node.address()}"]
                command += ["--no-fill"] if number else []
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
                told = json.loads(done.stdout)
                measured = told["items"][0]
                # The first round fills the cache.
                if number:
                    rates[keyspace].append(measured["rate_per_s"])
                    cpus[keyspace].append(measured["server_cpu_s_per_100k"])
        rate = {keyspace: statistics.median(found) for keyspace, found in rates.items()}
        cpu = {keyspace: statistics.median(found) for keyspace, found in cpus.items()}
        print(f"gets of the engine cache {rate['plain']:.0f}/s, hits in front of a store {rate['front']:.0f}/s: "
              f"{rate['front'] / rate['plain']:.2f} of it; server-CPU-s per 100k {cpu['plain']:.2f} and {cpu['front']:.2f}: "
              f"{cpu['front'] / cpu['plain']:.2f} of it", flush=True)
    finally:
        node.kill()


def main():
    folder = tempfile.mkdtemp(prefix="quorate-stores-")
    try:
        for objects in OBJECTS:
            listed(folder, objects, PER_FOLDER)
        listed(folder, OBJECTS[-1], OBJECTS[-1])
        hits(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


main()
