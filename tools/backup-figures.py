#!/usr/bin/env python3
"""How fast a keyspace is backed up and restored, and in how much memory: figures on standard output.

    tools/backup-figures.py [PROGRAM] [MEBIBYTES] [NODES]    target/release/quorate, 1024 MiB in pairs of 1 KiB, into 3 nodes

Needs Linux and python3 alone, and a few times the data on the disk. Everything it makes is in a temporary folder; it listens on
loopback alone, and ends what it started.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from nodes import cluster, peak_mib

PROGRAM = sys.argv[1] if len(sys.argv) > 1 else "target/release/quorate"
MEBIBYTES = int(sys.argv[2]) if len(sys.argv) > 2 else 1024
NODES = int(sys.argv[3]) if len(sys.argv) > 3 else 3
VALUE_BYTES = 1000


def fill(node):
    node.ask("PUT", "/v1/keyspaces/data", json.dumps({"engine": {"type": "lsm"}}))
    value = "v" * VALUE_BYTES
    per_batch = 1000
    for first in range(0, MEBIBYTES * (1 << 20) // (VALUE_BYTES + 24), per_batch):
        ops = [{"op": "put", "key": f"key/{number:020}", "value": value} for number in range(first, first + per_batch)]
        status, answer = node.ask("POST", "/v1/batch/data?atomic=true", json.dumps({"ops": ops}))
        if status != 200:
            sys.exit(f"{status}: {answer}")


def timed(name, arguments, node):
    before = node.peak_mib()
    began = time.monotonic()
    program = subprocess.Popen([PROGRAM] + arguments + ["-e", f"http://{node.address()}"], stdout=subprocess.DEVNULL)
    peak = 0
    while program.poll() is None:
        try:
            peak = max(peak, peak_mib(program.pid))
        except (OSError, StopIteration):
            pass
        time.sleep(0.05)
    if program.returncode:
        sys.exit(f"{name} failed")
    took = time.monotonic() - began
    mebibytes = os.path.getsize(arguments[1]) / (1 << 20)
    print(f"{name}: {mebibytes:.0f} MiB in {took:.1f} s, {mebibytes / took:.0f} MiB/s; "
          f"the command {peak:.0f} MiB at most, its node {node.peak_mib():.0f} MiB ({before:.0f} before)", flush=True)


def main():
    folder = tempfile.mkdtemp(prefix="quorate-backup-")
    nodes = []
    try:
        nodes = cluster(PROGRAM, 1, f"{folder}/source")
        fill(nodes[0])
        file = f"{folder}/data.qbk"
        timed("backup", ["backup", file, "--only", "data"], nodes[0])
        for node in nodes:
            node.kill()
        shutil.rmtree(f"{folder}/source")
        nodes = cluster(PROGRAM, NODES, f"{folder}/target")
        timed(f"restore, {NODES} nodes", ["restore", file], nodes[0])
        count = json.loads(nodes[-1].ask("GET", "/v1/kv/data?count_only")[1])["count"]
        print(f"{count} pairs are back")
    finally:
        for node in nodes:
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)


main()
