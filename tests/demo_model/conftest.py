"""Read before torch loads its OpenMP: two busy test processes on two cores must not spin against each other."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
