#!/usr/bin/env python3
"""How fast a keyspace is backed up and restored, and in how much memory: figures on standard output.

    tools/backup-figures.py [PROGRAM] [MEBIBYTES] [NODES]    target/release/quorate, 1024 MiB in pairs of 1 KiB, into 3 nodes

Needs Linux and python3 alone, and a few times the data on the disk. Everything it makes is in a temporary folder; it listens on
loopback alone, and ends what it started.
"""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

PROGRAM = sys.argv[1] if len(sys.argv) > 1 else "target/release/quorate"
MEBIBYTES = int(sys.argv[2]) if len(sys.argv) > 2 else 1024
NODES = int(sys.argv[3]) if len(sys.argv) > 3 else 3
VALUE_BYTES = 1000
PATIENCE_S = 120


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Node:
    def __init__(self, number, folder, join):
        self.port = free_port()
        command = [PROGRAM, "server", "--name", f"n{number}", "--data-dir", f"{folder}/n{number}"]
        command += ["--listen", self.address(), "--peer-listen", f"127.0.0.1:{free_port()}"]
        command += ["--join", join.address()] if join else []
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=open(f"{folder}/n{number}.log", "w"))

    def address(self):
        return f"127.0.0.1:{self.port}"

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def until_ready(self):
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            try:
                if self.request("GET", "/readyz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        sys.exit(f"{self.address()} does not become ready")

    def peak_mib(self):
        return peak_mib(self.process.pid)


def peak_mib(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def cluster(count, folder):
    os.makedirs(folder)
    nodes = []
    for number in range(1, count + 1):
        nodes.append(Node(number, folder, nodes[0] if nodes else None))
        nodes[-1].until_ready()
    return nodes


def fill(node):
    node.request("PUT", "/v1/keyspaces/data", json.dumps({"engine": {"type": "lsm"}}))
    value = "v" * VALUE_BYTES
    per_batch = 1000
    for first in range(0, MEBIBYTES * (1 << 20) // (VALUE_BYTES + 24), per_batch):
        ops = [{"op": "put", "key": f"key/{number:020}", "value": value} for number in range(first, first + per_batch)]
        status, answer = node.request("POST", "/v1/batch/data?atomic=true", json.dumps({"ops": ops}))
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
        nodes = cluster(1, f"{folder}/source")
        fill(nodes[0])
        file = f"{folder}/data.qbk"
        timed("backup", ["backup", file, "--only", "data"], nodes[0])
        for node in nodes:
            node.process.kill()
            node.process.wait()
        shutil.rmtree(f"{folder}/source")
        nodes = cluster(NODES, f"{folder}/target")
        timed(f"restore, {NODES} nodes", ["restore", file], nodes[0])
        count = json.loads(nodes[-1].request("GET", "/v1/kv/data?count_only")[1])["count"]
        print(f"{count} pairs are back")
    finally:
        for node in nodes:
            node.process.kill()
            node.process.wait()
        shutil.rmtree(folder, ignore_errors=True)


main()
