"""API keys, and requests that bear an idempotency key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx


def add_key(home: Path, *words: str) -> str:
    command = [sys.executable, "-m", "http_edge", "keys", "add", *words, "--keys-file", str(home / "keys.jsonl")]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=home, env=os.environ).stdout.strip()


def post(client: httpx.Client, key: str = "", **fields: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/v1/jobs", json={"prompt": "a red circle", **fields}, headers=headers)
