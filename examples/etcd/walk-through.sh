#!/bin/sh
# etcd as the source of truth, from nothing to a rollback, with the manifests of ../quickstart.
#
# Needs root, `weir`, an etcd at 127.0.0.1:2379 with `etcdctl`, and the network namespaces `web` and `db`
# (`ip netns add web; ip netns add db`). Leaves what it applied live; `weir uninstall` removes that.
set -eu
cd "$(dirname "$0")"
export WEIR_NODE=node1 ETCDCTL_API=3
etcd=etcd://127.0.0.1:2379/weir/manifests/

# A node shows the revision that it follows and how it stands. Wait until both are so.
until_follows() {
    for _ in $(seq 300); do
        weir status -o json | grep -q "\"state\":\"converged\".*\"revision\":\"$1\"" && return
        sleep 0.1
    done
    weir status
    exit 1
}

echo "# Publish a directory: the whole set at once, and only if it is valid."
weir push -f ../quickstart --to $etcd
first=$(weir push -f ../quickstart --to $etcd -o name)

echo "# Each node follows it."
weir run --source $etcd 2>agent.log &
agent=$!
trap 'kill $agent 2>/dev/null; wait $agent' EXIT
until_follows "$first"
weir status | head -n 3

echo "# The same set again is not a single write."
weir push -f ../quickstart --to $etcd

echo "# An edit: the change is shown before it is published, and live a moment after."
cp -r ../quickstart edited
sed -i 's/port: 80$/port: 8080/' edited/policies.yaml
weir diff -f edited && exit 1
second=$(weir push -f edited --to $etcd -o name)
until_follows "$second"

echo "# The fleet, as the nodes tell it themselves."
for _ in $(seq 100); do
    weir status --all --from $etcd | grep -q "$(echo "$second" | cut -c 1-12)" && break
    sleep 0.1
done
weir status --all --from $etcd

echo "# What is in force, as a directory."
weir pull --from $etcd pulled
diff -r edited pulled

echo "# Back: the last three sets are kept, and one key says which is in force."
etcdctl --endpoints 127.0.0.1:2379 put /weir/manifests/revision "$first"
until_follows "$first"
echo "the first revision is back"

rm -r edited pulled
