#!/usr/bin/env python3
"""What a store behind replicas costs a write: puts of 10,000 keys into `lsm`, and into `lsm` with S3 behind it.

    tools/behind-figures.py PROGRAM [--rounds 3] [--seconds 6] [--with-store]

Three nodes on loopback. Without --with-store nobody answers where the store should be, so that what is measured is the
nodes' own work: noting what waits, and of many changes of a key the last. With it, moto_server (PyPI moto) is the
store, and takes its part of the processors. Both keyspaces take turns, since machines drift.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time
import urllib.request

BASE = 29400
STORE = 29500


def ask(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{BASE}{path}", data, {"content-type": "application/json"}, method=method)
    return json.load(urllib.request.urlopen(request, timeout=20))


def start_store(running):
    arguments = ["moto_server", "-H", "127.0.0.1", "-p", str(STORE)]
    running.append(subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    time.sleep(4)
    who = "AWS4-HMAC-SHA256 Credential=x/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x"
    request = urllib.request.Request(f"http://127.0.0.1:{STORE}/bucket", method="PUT", headers={"authorization": who})
    urllib.request.urlopen(request, timeout=20)


def start_nodes(program, folder, running):
    for number in range(3):
        listen = ["--listen", f"127.0.0.1:{BASE + 2 * number}", "--peer-listen", f"127.0.0.1:{BASE + 2 * number + 1}"]
        join = ["--join", f"127.0.0.1:{BASE}"] if number else []
        own = ["--name", f"n{number + 1}", "--data-dir", str(folder / f"n{number + 1}"), "--credentials-dir", str(folder)]
        with open(folder / f"log-{number + 1}", "wb") as log:
            running.append(subprocess.Popen([program, "server", *own, *listen, *join], stdout=log, stderr=log))
        time.sleep(1.5)
    time.sleep(3)


def measure(program, keyspace, seconds):
    where = ["-k", keyspace, "-e", f"http://127.0.0.1:{BASE}", "-o", "json"]
    bench = [program, "bench", "put", "--clients", "64", "--keys", "10000", "--seconds", str(seconds), *where]
    figures = json.loads(subprocess.run(bench, check=True, capture_output=True).stdout)["items"][0]
    print(f"{keyspace:8} {figures['rate_per_s']:8.0f} puts/s  p99 {figures['p99_ms']:6.1f} ms", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--with-store", action="store_true")
    options = parser.parse_args()
    running = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        try:
            if options.with_store:
                start_store(running)
            credentials = folder / "s3.json"
            credentials.write_text('{"access_key_id": "x", "secret_access_key": "y"}')
            start_nodes(options.program, folder, running)
            store = {"type": "s3", "url": "s3://bucket/{node}", "endpoint": f"http://127.0.0.1:{STORE}"}
            ask("PUT", "/v1/keyspaces/lsm", {"engine": {"type": "lsm"}})
            ask("PUT", "/v1/keyspaces/behind", {"engine": {**store, "credentials": {"file": str(credentials)}}})
            for _ in range(options.rounds):
                measure(options.program, "lsm", options.seconds)
                measure(options.program, "behind", options.seconds)
            behind = ask("GET", "/v1/keyspaces/behind/stats")["behind"]
            print(", ".join(f"{field} {behind[field]}" for field in ("written", "coalesced", "waiting_keys", "failed")))
        finally:
            for process in running:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
