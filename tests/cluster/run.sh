#!/usr/bin/env bash
# make test-cluster: a real one-node Slurm (Debian's packages) and a local Ray, our executors on both.
# Wants the virtual environment's bin folder first on PATH. Nothing is skipped: what cannot be started is a failure.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PATH:/usr/sbin:/sbin"
if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "test-cluster: no Slurm here; as root on Debian or Ubuntu it is installed by itself (slurm-wlm munge)" >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
fi
python -m pip install --quiet -c constraints.txt -e '.[test,slurm,ray]'
BENCHBD_CLUSTER=1 python -m pytest tests/cluster -p no:xdist --timeout 1200 "$@"
