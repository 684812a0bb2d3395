#!/usr/bin/env bash
# Puts every file below a folder into one node, its path as key; kills a third node; reads every file back from another node and
# compares it byte for byte. Needs curl.
#
#   tools/tour-doc.sh PUT_URL GET_URL [PID_TO_KILL] [FOLDER]
#
# Left out, and counted: files beyond 1.5 MiB, the default limit of a value, and paths with quotes or bytes beyond ASCII, which a
# curl configuration file cannot carry.
set -euo pipefail
usage="usage: $0 PUT_URL GET_URL [PID_TO_KILL] [FOLDER]"
put_url=${1:?"$usage"}
get_url=${2:?"$usage"}
pid=${3:-}
folder=${4:-/usr/share/doc}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LC_ALL=C

find -L "$folder" -type f -print > "$work/all"
find -L "$folder" -type f -size -1536k -print | grep -v '["\\]' | grep -v '[^ -~]' > "$work/paths"
count=$(wc -l < "$work/paths")
echo "$count files, $(($(wc -l < "$work/all") - count)) left out"

# The path without its first slash, percent-encoded where a URL needs it.
sed -e 's|^/||' -e 's/%/%25/g' -e 's/ /%20/g' -e 's/#/%23/g' -e 's/?/%3F/g' -e 's/\[/%5B/g' -e 's/\]/%5D/g' \
    -e 's/{/%7B/g' -e 's/}/%7D/g' -e 's/|/%7C/g' -e 's/\^/%5E/g' -e 's/`/%60/g' -e 's/</%3C/g' -e 's/>/%3E/g' \
    "$work/paths" > "$work/keys"

options='globoff
path-as-is
fail
silent
show-error'
paste -d '\t' "$work/keys" "$work/paths" | awk -F '\t' -v url="$put_url/v1/kv/default/" -v options="$options" '
    NR > 1 { print "next" }
    { printf "%s\nurl = \"%s%s\"\nupload-file = \"%s\"\noutput = \"/dev/null\"\n", options, url, $1, $2 }' > "$work/puts"
awk -v url="$get_url/v1/kv/default/" -v options="$options" -v back="$work/back" '
    NR > 1 { print "next" }
    { printf "%s\ncreate-dirs\nurl = \"%s%s\"\noutput = \"%s/%d\"\n", options, url, $0, back, NR }' "$work/keys" > "$work/gets"

milliseconds_since() { echo $((($(date +%s%N) - $1) / 1000000)); }

began=$(date +%s%N)
curl --config "$work/puts"
echo "put in $(milliseconds_since "$began") ms"

if [[ -n $pid ]]; then
    kill -9 "$pid"
    echo "killed $pid"
fi

began=$(date +%s%N)
curl --config "$work/gets"
echo "read back in $(milliseconds_since "$began") ms"

number=0
while IFS= read -r path; do
    number=$((number + 1))
    cmp -- "$path" "$work/back/$number"
done < "$work/paths"
echo "all $number files are the same, byte for byte"
