#!/usr/bin/env bash
# make test-cluster: a real one-node Slurm (Debian's packages) and a local Ray, our executors on both.
# Wants the virtual environment's bin folder first on PATH.
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! command -v slurmctld >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
fi
python -c 'import submitit, ray' 2>/dev/null || python -m pip install --quiet -c constraints.txt -e '.[slurm,ray]'
BENCHBD_CLUSTER=1 python -m pytest tests/cluster -p no:xdist "$@"
