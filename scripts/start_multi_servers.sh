#!/usr/bin/env bash
# Start num_gpus services on consecutive ports, one worker behind each, one broker behind all; Ctrl-C stops everything.
#   num_gpus=8 bash scripts/start_multi_servers.sh [--start_port 8000]
set -euo pipefail

# Edit this: a directory that diffusers can load (empty: the small demo model that comes along).
model_path=""
num_gpus=${num_gpus:-1}

if ! [[ $num_gpus =~ ^[1-9][0-9]{0,2}$ ]]; then
  echo "num_gpus: '$num_gpus' must be a number from 1 to 999" >&2
  exit 2
fi

found=0
if command -v nvidia-smi >/dev/null; then
  found=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | grep -c '^[0-9]' || true)
fi
if [ "$found" -eq 0 ]; then
  gpus="cpu:$num_gpus"
elif [ "$found" -ge "$num_gpus" ]; then
  gpus=$(seq -s , 0 $((num_gpus - 1)))
else
  echo "num_gpus: $num_gpus services were asked for and this machine has $found GPUs" >&2
  exit 2
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
make --no-print-directory setup
export PATH="$PWD/.venv/bin:$PATH"

exec python -m zoetrope serve \
  --services "$num_gpus" \
  --model "$model_path" \
  --gpus "$gpus" \
  --start_port 8000 \
  "$@"
