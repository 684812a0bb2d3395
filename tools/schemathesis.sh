#!/usr/bin/env bash
# Starts a node and asks it for all that openapi.json documents, with input that follows the document and input that does not.
# Fails if an answer is a defect (500), is not documented, or accepts what the document forbids.
#
#   tools/schemathesis.sh [PROGRAM] [EXAMPLES]    target/debug/quorate, at most 50 for each operation and phase
#
# Needs python3 with venv and pip, and their registry. Everything it makes is in a temporary folder; it listens on loopback alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
program=$(realpath "${1:-target/debug/quorate}")
examples=${2:-50}
version=4.32.5
max_seconds=300

work=$(mktemp -d)
node=""
on_exit() {
    local status=$?
    if [[ -n $node ]]; then
        kill "$node" 2>/dev/null || true
        wait "$node" 2>/dev/null || true
    fi
    if [[ $status -ne 0 && -s $work/node.log ]]; then
        printf 'what the node said last:\n'
        tail -n 20 "$work/node.log"
    fi
    rm -rf "$work"
    exit "$status"
}
trap on_exit EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"

# Two ports that are free now.
read -r client_port peer_port < <(python3 -c '
import socket
sockets = [socket.socket() for _ in range(2)]
for each in sockets:
    each.bind(("127.0.0.1", 0))
print(*[each.getsockname()[1] for each in sockets])')
"$program" server --name fuzzed --data-dir "$work/data" --listen "127.0.0.1:$client_port" \
    --peer-listen "127.0.0.1:$peer_port" >"$work/node.log" 2>&1 &
node=$!

url=http://127.0.0.1:$client_port
config=$PWD/tools/schemathesis.toml
python3 - "$url" <<'PYTHON'
import sys, time, urllib.request

# Ready, then with keyspaces, a pair and a job that requests can be about.
def ask(method, path, body=None, kind="application/json"):
    request = urllib.request.Request(sys.argv[1] + path, body, {"Content-Type": kind}, method=method)
    return urllib.request.urlopen(request, timeout=10).read()

for attempt in range(100):
    try:
        ask("GET", "/readyz")
        break
    except OSError:
        time.sleep(0.2)
ask("PUT", "/v1/keyspaces/made", b"{}")
ask("PUT", "/v1/keyspaces/own", b'{"replication": {"mode": "none"}}')
for name, settings in {
    "pushed": b'{"replication": {"mode": "push"}}',
    "repaired": b'{"replication": {"mode": "read-repair"}}',
    "batched": b'{"engine": {"type": "hash"}, "replication": {"mode": "batch"}}',
    "copied": b'{"engine": {"type": "trie"}, "replication": {"mode": "full-copy", "variant": "mirror", "source": "fuzzed"}}',
    "cached": b'{"engine": {"type": "cache"}, "replication": {"mode": "push"}, "ttl": "10m"}',
}.items():
    ask("PUT", "/v1/keyspaces/" + name, settings)
for name in ["made", "own", "pushed", "repaired", "batched", "copied", "cached"]:
    ask("PUT", f"/v1/kv/{name}/a", b"1", "text/plain")
ask("PATCH", "/v1/keyspaces/made", b'{"engine": {"type": "hash"}}')
PYTHON

# In the temporary folder, since it keeps notes where it runs. A watch that is well asked for never ends, and it would wait;
# what a restore takes, it cannot make.
(cd "$work" && timeout "$max_seconds" "$work/venv/bin/schemathesis" --config-file "$config" run "$url/openapi.json" \
    --exclude-operation-id watch --exclude-operation-id watch_many --exclude-operation-id restore \
    --max-examples "$examples" --seed 1 --no-color --generation-database none)

kill -0 "$node" || { echo "the node is gone" && exit 1; }
