#!/usr/bin/env bash
# The whole walk, as a team would go it: every step is a public command of the model repo.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD
demo=$here/build/demo
repo=$demo/flight-delay
# The demo's repo makes its own environment; nothing of a caller's make run may steer it.
unset VENV MAKEFLAGS MAKELEVEL MFLAGS
export GIT_AUTHOR_NAME=modelyard GIT_AUTHOR_EMAIL=modelyard@localhost
export GIT_COMMITTER_NAME=modelyard GIT_COMMITTER_EMAIL=modelyard@localhost

step() { printf '\n\033[1m%s\033[0m\n' "▸ $1"; }
show() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }
commit() { git add --all && git commit --quiet --message "$1"; }
keep() { cp .modelyard/last_train.json "$demo/train-$1.json"; }

[ ! -d "$repo/.venv" ] || make -s -C "$repo" stop || true
rm -rf "$demo" && mkdir -p "$demo"

step "A model repo from the template (this checkout's HEAD)"
git clone --quiet "$here" "$demo/modelyard"
show copier copy --quiet --defaults --vcs-ref HEAD --data project_name=flight-delay --data owner=acme \
  "$demo/modelyard" "$repo"
cd "$repo"
git init --quiet --initial-branch=main
commit "Start from the modelyard template"
trap 'make -s stop' EXIT
show make -s setup

step "Version 1: half a year of flights; nothing is deployed yet, so it is bootstrapped"
show make -s train
keep 1
show make -s release

step "Version 2: three more months; shadow, then the canary's steps"
sed -i 's/^\( *train:.*\)2013-06/\12013-09/' config.yaml
commit "Train on three more months"
show make -s train
keep 2
show make -s release

step "Version 3: a mistake in the service, as a team would make it"
show git apply "$here/scripts/demo-fault.patch"
commit "Keep the recent predictions for the dashboard"
show make -s train
keep 3
show make -s release || echo "(make release gave $?: rolled back)"

step "What happened"
show make -s report
cp .modelyard/report.html "$demo/report.html"
.venv/bin/modelyard release status --json > "$demo/status.json"
python "$here/scripts/demo_summary.py" "$demo"
