#!/bin/sh
# A node that follows a git repository, from the first commit to a revert. As root, with weir on the PATH:
#
#     examples/git/walkthrough.sh /tmp/firewall
#
# makes a repository there, follows it with an agent of its own until the end of the script, and says each command
# before it runs it. What is live at the end stays live: `weir uninstall` removes it.
set -eu
repository=$1
here=$(cd "$(dirname "$0")" && pwd)
export GIT_AUTHOR_NAME=Ann GIT_AUTHOR_EMAIL=ann@example.org GIT_COMMITTER_NAME=Ann GIT_COMMITTER_EMAIL=ann@example.org
export WEIR_NODE=node1

show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

# The agent follows by itself; this only waits until it has.
live() {
    until weir status -o json | grep -q "\"revision\":\"$(git rev-parse HEAD)\",\"author\""; do
        kill -0 "$agent"
        sleep 0.1
    done
}

# The endpoint's network namespace. (Its veth pair, addresses and routes are made by weir.)
ip netns list | grep -qw web || ip netns add web

git init --quiet -b main "$repository"
cd "$repository"
cp -r "$here/manifests" .
git add manifests
show git commit --quiet -m "web answers on port 80"

source="git+file://$repository#main"
show weir validate --source "$source" --path manifests
weir run --source "$source" --path manifests 2> "$repository/.git/agent.log" &
agent=$!
trap 'kill "$agent"; wait "$agent"' EXIT
live

# A commit goes live by itself.
sed -i 's/port: 80$/port: 8080/' manifests/policy.yaml
show git commit --quiet --all -m "web moves to port 8080"
live
show weir status

# What it changed, as whoever reviewed it would have seen it: no agent, kernel or privilege is needed for this.
show weir diff --from HEAD~1 --to HEAD --path manifests --all-nodes || test $? = 1

# And back.
show git revert --no-edit HEAD
live
show weir history

# From now on only signed commits.
ssh-keygen -q -t ed25519 -N '' -C '' -f .git/key
echo "ann@example.org $(cat .git/key.pub)" > .git/signers
if show weir validate --source "$source" --path manifests --verify-signatures .git/signers; then exit 1; fi
git config gpg.format ssh
git config user.signingkey "$PWD/.git/key"
show git commit --quiet --allow-empty --gpg-sign -m "signed"
show weir validate --source "$source" --path manifests --verify-signatures .git/signers
