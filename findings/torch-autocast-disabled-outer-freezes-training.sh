#!/usr/bin/env bash
# torch 2.13.0: a *disabled* autocast region around a training loop freezes a mixed-precision training.
#
# Autocast keeps low-precision copies of weights and drops them when the outermost region ends. A region with enabled=False
# counts as a region, and one of another device does too (torch.autocast("cuda", enabled=False) around a training on the
# CPU). Inside, each step has a region of its own, as the documentation recommends, but the copies outlive optimizer.step():
# every forward pass uses the weights of the first step. There is no error and no warning. Gradients are finite, the fp32
# weights move, and the loss of a fixed batch stays the same to the last bit. It is easy to meet in a harness that opens a
# disabled region so that code of others starts from a known state.
#
# Seen with torch 2.13.0 on Python 3.11 and x86-64 without bf16 units (output of this script):
#   no outer region                          [1.392051, 1.32328, 1.285403, 1.263911]
#   autocast("cpu", enabled=False) outside   [1.392051, 1.392051, 1.392051, 1.392051]
#   autocast("cuda", enabled=False) outside  [1.392051, 1.392051, 1.392051, 1.392051]
#   the first, copies dropped after a step   [1.392051, 1.32328, 1.285403, 1.263911]
# Other CPUs may differ in the last digits. Source: torch/amp/autocast_mode.py, autocast.__enter__ and __exit__: both count
# nesting without looking at enabled or at the device, and only the end of the outermost clears the cache. An enabled outer
# region is known to do the same (https://github.com/X-GenGroup/Flow-Factory/pull/186).
# Way out: torch.clear_autocast_cache() after each step, or cache_enabled=False in the inner regions.
#
# Exit code 0: torch behaves as described. 1: it does not. 2: the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5 || exit 2
cat > "$work/autocast.py" <<'PY'
import contextlib
import sys
import warnings

import torch

warnings.simplefilter("ignore")  # a CPU build says that CUDA is not available


def losses(outer, clear=False):
    """Loss of one fixed batch at each of four steps."""
    torch.manual_seed(0)
    net = torch.nn.Linear(8, 4)
    images, labels = torch.randn(64, 8), torch.randint(0, 4, (64,))
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    before, found = net.weight.detach().clone(), []
    with outer:
        for _ in range(4):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(net(images).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if clear:
                torch.clear_autocast_cache()
            found.append(round(loss.item(), 6))
    assert not torch.equal(before, net.weight), "the fp32 weights move in any case"
    return found


free = losses(contextlib.nullcontext())
disabled = losses(torch.autocast("cpu", enabled=False))
elsewhere = losses(torch.autocast("cuda", enabled=False))
cleared = losses(torch.autocast("cpu", enabled=False), clear=True)
print(f"torch {torch.__version__}")
print(f"no outer region                          {free}")
print(f'autocast("cpu", enabled=False) outside   {disabled}')
print(f'autocast("cuda", enabled=False) outside  {elsewhere}')
print(f"the first, copies dropped after a step   {cleared}")
frozen = len(set(disabled)) == 1 and len(set(elsewhere)) == 1
sys.exit(0 if frozen and free[-1] < free[0] - 0.05 and cleared == free else 1)
PY
"$work/venv/bin/python" "$work/autocast.py"
