//! What `--help` teaches at the end of each command.

pub(super) const ALL: &str = "\
Examples:
  quorate demo                                 a cluster of three nodes, to try things out
  quorate put greeting hello                   any node takes any request
  quorate get greeting
  quorate incr visits                          adds 1, and prints the sum
  quorate ls                                   what is there
  quorate txn --if 'a exists' --then 'del a' --then 'put b 1'
                                               several keys as a whole
  quorate watch --prefix config/               what happens, as it happens
  quorate keyspace create orders --engine lsm  keys of their own, on an engine that suits them
  quorate cluster status -e http://db2:2379    who leads, who is behind

Exit codes:
  0 done, 1 failed, 2 wrong usage, 3 not found, 4 condition failed,
  5 outcome unknown: the write may have been done, or may still be";

pub(super) const SERVER: &str = "\
Every flag can be set in the environment too (QUORATE_LISTEN for --listen), and in the file of
--config, with underscores (listen = \"127.0.0.1:2379\"; --compat-post-key is compat.post_key).
A flag goes before the environment, the environment before the file.

Examples:
  quorate server --name n1 --data-dir /var/lib/quorate
      a cluster of one, on this machine; further nodes may join it
  quorate server --name n2 --data-dir /data --listen 10.0.0.2:2379 --peer-listen 10.0.0.2:2380 \\
      --join 10.0.0.1:2379,10.0.0.3:2379
      joins the cluster of whichever node answers; with data of an earlier run, goes on where it was
  quorate server --name $(hostname) --data-dir /data --listen 10.0.0.2:2379 --peer-listen 10.0.0.2:2380 \\
      --join dns://quorate.internal:2379 --expect 3
      the same on three machines, in any order: they begin one cluster once all are there
  quorate server --config /etc/quorate.toml --log info --log-format json";

pub(super) const DISCOVER: &str = "\
Examples:
  quorate discover dns://quorate.internal:2379
  quorate discover dns+srv://_quorate._tcp.internal --dns-server 127.0.0.1:8600
  quorate discover zk://zk1:2181,zk2:2181/quorate file:///etc/quorate/nodes -o json

Exit code 0 if each of them finds an address, 3 if one has none now, 1 if one cannot be asked.";

pub(super) const DEMO: &str = "\
Examples:
  quorate demo                                 three nodes; Ctrl-C stops them and removes their data
  quorate demo --nodes 5 --keep ./cluster      five, whose data stays
  quorate demo -o json                         prints one line of JSON once the nodes are ready";

pub(super) const GET: &str = "\
Examples:
  quorate get config/app.toml > app.toml
  quorate get greeting -o json                 with revision, version and content type
  quorate get greeting --local                 from the asked node, without asking the others
  quorate get greeting --revision 7            as it was
  quorate get --key64 _wA                      the key of the bytes ff 00";

pub(super) const PUT: &str = "\
Examples:
  quorate put greeting hello
  quorate put config/app.toml @app.toml --content-type application/toml
  tar c src | quorate put backup/src -
  quorate put lock me --if-absent              exit code 4 if it is there
  quorate put counter 8 --cas 12               only if nobody changed it since revision 12
  quorate put job @job.json --meta owner=me    noted beside the value, and shown with it";

pub(super) const INCR: &str = "\
Examples:
  quorate incr visits                          1 the first time
  quorate incr stock/apples --by -3
  quorate incr tickets --initial 1000          1001 the first time
  quorate incr visits --cas 12                 only if nobody changed it since revision 12";

pub(super) const APPEND: &str = "\
Examples:
  quorate append log 'one more line
'
  date | quorate append log -";

pub(super) const TOUCH: &str = "\
Examples:
  quorate touch session/7                      a new version of the same value
  quorate touch session/7 --ttl 30m            which goes by itself half an hour from now";

pub(super) const PATCH: &str = "\
Examples:
  quorate patch user/7 '{\"name\": \"Ada\", \"phone\": null}'
                                               sets the name, takes the phone out, leaves the rest
  quorate patch user/7 @changes.json";

pub(super) const DEL: &str = "\
Examples:
  quorate del greeting                         exit code 3 if it is not there
  quorate del --prefix logs/2024-              all keys that begin so
  quorate del --start a --end c                a <= key < c
  quorate del --all -k scratch                 every key of a keyspace";

pub(super) const WATCH: &str = "\
One line for each event, all events of a revision together. It goes on until Ctrl-C: if its node goes
away, another one goes on from there; no change is missed, and none comes twice.

Examples:
  quorate watch config/app.toml                one key
  quorate watch --prefix config/ --initial     what is there, then what changes
  quorate watch --from-revision 120            all that happened since, as far as it is kept
  quorate watch jobs/1 --count 1 -o json       waits for the next change, and ends
  quorate watch --prefix a/ --types delete,expire --prev   what goes away, and what it was";

pub(super) const LS: &str = "\
Examples:
  quorate ls users/                            keys that begin so
  quorate ls --start a --end c --values        a <= key < c, with values
  quorate ls users/ --delimiter /              what is directly in it: keys and folders
  quorate ls --count                           how many keys there are
  quorate ls logs/ --reverse --limit 1         the last one
  quorate ls config/ --revision 7 --values     as they were";

pub(super) const HISTORY: &str = "\
The newest version first, back to the one that was there at the oldest revision that can be read.
`quorate keyspace show` tells how much is kept, `quorate keyspace alter --retention-age` changes it.

Examples:
  quorate history config/app.toml              what it was, and when it was deleted
  quorate history config/app.toml -o json | jq -r '.items[].revision'
  quorate get config/app.toml --revision 41    one of them, byte for byte
  quorate put config/app.toml \"$(quorate get config/app.toml --revision 41)\"
                                               back to what it was";

pub(super) const DIFF: &str = "\
+ a key that was added, - one that was removed, ~ one that was changed. Keys that are as they were
are read and not shown.

Examples:
  quorate diff 40                              since revision 40
  quorate diff 40 57 --prefix config/          between the two
  quorate diff 40 --key config/app.toml --values
  quorate diff 40 -o json | jq -r '.items[] | select(.change == \"removed\") | .key'";

pub(super) const KEYSPACE_COMPACT: &str = "\
A key's present value stays whatever is compacted. Reads of older revisions and watches that begin
there are refused with `compacted`; what only they needed goes soon after.

Examples:
  quorate keyspace compact orders              nothing but what is there now
  quorate keyspace compact orders 4711 --physical";

pub(super) const TXN: &str = "\
COMPARE is one of
  KEY exists               KEY absent
  KEY = VALUE              also !=, < and >, byte by byte
  version(KEY) > 3         also mod_revision(KEY) and create_revision(KEY); 0 if KEY is not there
  lease(KEY) = ID          0 if it hangs on none
OPERATION is one of
  put KEY VALUE            get KEY            del KEY
  incr KEY [BY]            append KEY VALUE   touch KEY      patch KEY JSON
  ls [PREFIX]              del-prefix PREFIX
A word with spaces stands in double quotes, as in JSON, also in version(\"a b\"). In a FILE more is
possible: any bytes, media types, compares of every key of a range, transactions within others.

All compares look at what was there before; operations are done in order, each upon what those before
it left, all under one revision, or not at all. Exit code 4 if a compare does not hold and there is no
--else.

Examples:
  quorate txn --if 'config exists' --then 'get config' --else 'put config {}'
  quorate txn --if 'account/a = 70' --if 'account/b = 30' --then 'put account/a 60' --then 'put account/b 40'
  quorate txn --then 'get user/7' --then 'ls user/7/'    one moment's content
  quorate txn transfer.json -o json
  echo '{\"if\": [{\"prefix\": \"job/\", \"version\": 1}], \"then\": [{\"op\": \"list\", \"prefix\": \"job/\"}]}' | quorate txn";

pub(super) const KEYSPACE: &str = "\
Examples:
  quorate keyspace create orders --engine lsm
  quorate keyspace list
  quorate keyspace show orders -o json
  quorate keyspace alter orders --max-bytes 2GiB
  quorate keyspace delete orders               asks first
  quorate put -k orders 4711 @order.json       keys of a keyspace";

pub(super) const KEYSPACE_CREATE: &str = "\
Examples:
  quorate keyspace create orders               on the default engine, with raft
  quorate keyspace create orders --engine lsm --max-bytes 20GiB --max-value-bytes 64KiB
  quorate keyspace create scratch --mode none  each node keeps its own keys
  quorate keyspace create sessions --mode push --mode-option ack=all_up --ttl 30m
      any node takes writes, and waits until one other has them
  quorate keyspace create audit --engine lsm --retention-age 7d --retention-revisions 10000000 \
      --retention-bytes 10GiB                  what was there in the last week can be read";

pub(super) const KEYSPACE_ALTER: &str = "\
`none` takes a limit or the time to live away, or brings the default of a retention back.

Examples:
  quorate keyspace alter orders --max-bytes 2GiB --max-value-bytes none
  quorate keyspace alter orders --engine btree
      moves one replica after the other, while reads and writes go on, and shows how far it is
  quorate keyspace alter orders --engine btree --no-wait";

pub(super) const LEASE: &str = "\
Examples:
  quorate lease grant 30s                      prints the id
  quorate put --lease ID service/n1 10.0.0.1:80
  quorate lease keep-alive --hold ID
  quorate lease show --keys ID
  quorate lease list
  quorate lease revoke ID                      the keys go at once";

pub(super) const LEASE_GRANT: &str = "\
Examples:
  quorate lease grant 30s
  ID=$(quorate lease grant 30s -o raw)         for scripts";

pub(super) const LEASE_KEEP_ALIVE: &str = "\
Examples:
  quorate lease keep-alive ID
  quorate lease keep-alive --hold ID           three times within its life, until Ctrl-C";

pub(super) const LOCK: &str = "\
The exit code is that of COMMAND; 4 if the lock was not to be had. If the lock is lost, because no node could be
reached for --ttl, COMMAND gets SIGTERM, and the exit code is 1. COMMAND finds the fencing token in QUORATE_LOCK_TOKEN:
whoever it writes to can refuse a token that is less than one it has seen.

Examples:
  quorate lock jobs/nightly -- ./nightly.sh     waits for its turn, and runs it
  quorate lock jobs/nightly --no-wait -- make   only if nobody holds it
  quorate lock deploy --wait 1m --value \"$USER\" -- ./deploy.sh
  quorate lock deploy --show                    who holds it, and how many wait
  quorate lock deploy                           holds it until Ctrl-C";

pub(super) const ELECT: &str = "\
An election is a lock whose holder says something of itself; all that `quorate lock --help` says holds here too.

Examples:
  quorate elect web 10.0.0.1:80                 leads when its turn comes, until Ctrl-C
  quorate elect web \"$HOSTNAME\" -- ./primary.sh
  quorate elect web --observe                   a line for each leader
  quorate elect web --observe -o raw            only what each says of itself";

pub(super) const ENGINES: &str = "\
Examples:
  quorate engines
  quorate engines -o json                      with all that each can do";

pub(super) const EXPORT: &str = "\
A line is an object with key and value, or key64 and value64 where they are no text, and with
content_type and meta. The lines are those of one revision, in the order of the keys. A FILE that
is there is replaced once all lines are on the disk; if something goes wrong it stays as it was.

Examples:
  quorate export orders.ndjson -k orders
  quorate export --prefix users/ | jq -r .key
  quorate export -k orders | quorate import -k orders -e http://other:2379";

pub(super) const IMPORT: &str = "\
Of each line key, value, content_type and meta count, or json for a value that is JSON; revisions
are given anew. Lines of the same key are written in their order. If a node fails it goes on, at
another one if -e names several, with the first line that is not in for certain: to write a line
twice does no harm, and neither does to import a file once more.

Examples:
  quorate import orders.ndjson -k orders
  zstdcat orders.ndjson.zst | quorate import -k orders
  quorate import orders.ndjson --skip 120000   goes on where an import was interrupted";

pub(super) const BACKUP: &str = "\
Examples:
  quorate backup monday.qbk                    every keyspace with replication raft
  quorate backup orders.qbk --only orders,customers
  quorate backup before.qbk --only orders --revision 4711
                                               as it was then, as far as its history goes
  quorate backup verify monday.qbk             whether it is whole, without a cluster
  quorate backup show monday.qbk               keyspaces, revisions, numbers of pairs";

pub(super) const RESTORE: &str = "\
Examples:
  quorate restore monday.qbk                   into a new cluster; of its keyspaces, `default` may be there, empty
  quorate restore monday.qbk --only orders
A restore that broke off can be begun again: what it left is made anew.";

pub(super) const CLUSTER: &str = "\
Examples:
  quorate cluster status
  quorate cluster remove n3                    for good; n3 may come back with an empty disk, as a new node
  quorate cluster transfer-leader n2           before maintenance of the leader
  quorate cluster transfer-leader -k orders    of one keyspace, to whoever is furthest";

pub(super) const READMIT: &str = "\
A node whose folder is a copy, or was put back from an older one, has lost what it had promised; the others refuse it,
and it ends. The way that loses nothing: quorate cluster remove NODE, an empty folder, and a start with --join. Where that is
not possible, since the disks of all nodes were set back together, this takes the refusal back: what was acknowledged
since the copy may be lost, and deleted keys of eventually consistent keyspaces may be back.

Example:
  quorate readmit /var/lib/quorate/n3";

pub(super) const BENCH: &str = "\
Examples:
  quorate bench compare                        starts a cluster, and prints put and get beside a bare server
  quorate bench put --clients 64 --seconds 5 -e http://127.0.0.1:2379,http://127.0.0.1:2381
  quorate bench get --local --value-bytes 4096
  quorate bench mix --reads-percent 95 --pick zipf --keys 1000000 -k sessions
  quorate bench put --rate 5000 --seconds 60   5,000 a second, on time: latencies as users have them
  quorate bench put --bare --pids 4711,4712    beside a bare server, with the processor time of nodes
  quorate bench bare --clients 256             what this machine can do at all";

pub(super) const TOP: &str = "\
Examples:
  quorate top                                  until Ctrl-C, the busiest keyspaces first
  quorate top --once --seconds 10              the figures of ten seconds
  quorate top -o json | jq .keyspaces[0]       an object for each second";

pub(super) const COMPLETIONS: &str = "\
While completing, the nodes of --endpoint or QUORATE_ENDPOINTS are asked for keyspaces, keys and
node names; if none answers within a moment, the rest is completed all the same.

Examples:
  source <(quorate completions bash)           in ~/.bashrc, or for this shell alone
  source <(quorate completions zsh)            in ~/.zshrc
  quorate completions fish > ~/.config/fish/completions/quorate.fish";

pub(super) const MODES: &str = "\
Example:
  quorate modes
  quorate keyspace create cart --engine hash --mode batch --mode-option interval=2s --mode-option max_entries=500";

pub(super) const KEYSPACE_REPLICAS: &str = "\
BEHIND says which other nodes lack what of the writes that were made at a node; replicas with the same DIGEST are equal; OVERTAKEN
counts writes of the node that gave way to a newer one of another.

Examples:
  quorate keyspace replicas sessions
  quorate keyspace replicas sessions --until-equal    after a cut, say";
