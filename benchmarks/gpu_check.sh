#!/usr/bin/env bash
# On a machine with a GPU: the tests of the fused kernels, then a training step in CUDA graphs on PyTorch's machine, (e),
# against the same in a few kernels for each step, (i), and in one for each loop, (j) and without graphs (k), paired by
# round in one process. Then the other tests that need a GPU.
#
#     benchmarks/gpu_check.sh [PYTHON] [ROUNDS]      # from anywhere; python3 and 3 rounds by default
#
# `--limit 1` leaves out (g), the hand-written loop under torch.compile: its two forms would be compiled for up to two
# minutes each at every size, and the rest is meant to end within five minutes. It has not been run on a GPU yet.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${1:-python3}"
rounds="${2:-3}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
unset TRITON_INTERPRET ZF_PYRO_MACHINE

"$python" -c '
import torch, triton, zf_pyro
assert torch.cuda.is_available(), "no CUDA device"
print(torch.cuda.get_device_name(), "torch", torch.__version__, "triton", triton.__version__)
zf_pyro.show_config()
'
echo "+ tests of the fused kernels"  # most of their time is that of compiling kernels, on one core each
jobs=()
if "$python" -c 'import xdist' 2>/dev/null; then jobs=(-n 8); fi
"$python" -m pytest -q -p no:cacheprovider "${jobs[@]}" tests/gpu/test_fused.py
for work in timit mnist_128 mnist_512; do
  echo "+ $work"
  "$python" benchmarks/train_step.py --device cuda --work "$work" --rounds "$rounds" --limit 1
done
echo "+ the other tests on a GPU"
"$python" -m pytest -q -p no:cacheprovider tests/gpu --ignore tests/gpu/test_fused.py
for machine in fused persistent; do
  echo "+ the same on the machine $machine"
  ZF_PYRO_MACHINE=$machine "$python" -m pytest -q -p no:cacheprovider tests/gpu/test_recurrence.py tests/gpu/test_graphs.py
done
