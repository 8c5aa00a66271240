#!/usr/bin/env bash
# Start the whole service on this machine, in the foreground; Ctrl-C stops it.
# Files that clients name with a relative path are written below the repository, the service's start directory. For absolute paths
# (save_video_path: /data/videos/a.mp4) name the directory: bash scripts/start_server.sh --output-root /data/videos
set -euo pipefail

# Edit these: a directory that diffusers can load (empty: the small demo model that comes along), and the GPUs:
# "auto" (all, or one CPU worker), "0-7", "0,2", "cpu", "cpu:2".
model_path=""
gpus=auto

cd "$(dirname "${BASH_SOURCE[0]}")/.."
make --no-print-directory setup
export PATH="$PWD/.venv/bin:$PATH"

exec python -m zoetrope serve \
  --model "$model_path" \
  --gpus "$gpus" \
  --port 8000 \
  "$@"
