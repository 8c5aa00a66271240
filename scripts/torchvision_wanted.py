"""Print the torchvision that belongs to the installed torch, as a requirement for pip; nothing where PyPI has no build for it.

PyPI's torch and torchvision for Linux are built for CUDA. Beside a torch of another build (`+cpu`, `+cu126`) PyPI's torchvision cannot be
imported, and libraries that find it fail.
"""

from __future__ import annotations

import importlib.metadata

from workers.engine.packages import torchvision_for

version = importlib.metadata.version("torch")
if "+" not in version:
    print(torchvision_for(version))
