"""Nodes on loopback, for the tools that take figures. Needs Linux and python3 alone."""

import http.client
import json
import os
import socket
import subprocess
import time

PATIENCE_S = 120


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def status_kib(pid, name):
    """A line of /proc/PID/status, in KiB."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))


def peak_mib(pid):
    return status_kib(pid, "VmHWM") / 1024


def seconds_until(is_done):
    begin = time.monotonic()
    while not is_done():
        if time.monotonic() - begin > PATIENCE_S:
            raise SystemExit(f"not within {PATIENCE_S} s")
        time.sleep(0.05)
    return time.monotonic() - begin


class Node:
    def __init__(self, program, number, folder, join, more=()):
        self.port = free_port()
        self.command = [program, "server", "--name", f"n{number}", "--data-dir", f"{folder}/n{number}"]
        self.command += ["--listen", self.address(), "--peer-listen", f"127.0.0.1:{free_port()}"]
        self.command += ["--join", join.address()] if join else []
        self.command += more
        self.log = f"{folder}/n{number}.log"
        self.start()

    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def ask(self, method, path, body=None):
        """Status and body of the answer; status 0 and the reason if there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError as error:
            return 0, str(error)
        finally:
            connection.close()

    def is_ready(self):
        return self.ask("GET", "/readyz")[0] == 200

    def cpu_s(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self):
        return status_kib(self.process.pid, "VmRSS") / 1024

    def peak_mib(self):
        return peak_mib(self.process.pid)


def load(node, options, *more):
    """What `quorate bench` with these arguments measures in the keyspace `data`, of as many and as large pairs as the options say."""
    command = [options.program, "bench", *more, "-k", "data", "-e", f"http://{node.address()}", "-o", "json"]
    command += ["--keys", str(options.pairs), "--value-bytes", str(options.value_bytes)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["items"][0]


def cluster(program, count, folder, more=()):
    """So many nodes in a folder that is made for them, each ready before the next one joins the first; with further flags."""
    os.makedirs(folder)
    nodes = []
    for number in range(1, count + 1):
        nodes.append(Node(program, number, folder, nodes[0] if nodes else None, more))
        seconds_until(nodes[-1].is_ready)
    return nodes
