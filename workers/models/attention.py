"""Attention backends of diffusers: what each needs, looked for at start without importing it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from pathlib import Path

from msgspec import Struct


class Backend(Struct, frozen=True, kw_only=True):
    """Requirements of an attention backend."""

    #: Module whose absence is an error, its package, the least version of it, and the command that brings it.
    module: str = ""
    package: str = ""
    least: str = ""
    cure: str = ""
    #: Repository of the hub whose code it runs.
    kernel: str = ""
    #: Least compute capability of the GPU; (0, 0): a CPU does, too.
    capability: tuple[int, int] = (0, 0)
    #: Whether it computes in half precision only.
    half: bool = False


_AMPERE, _HOPPER, _BLACKWELL = (8, 0), (9, 0), (10, 0)


def _flash() -> Backend:
    return Backend(module="flash_attn", package="flash-attn", least="2.6.3", cure="pip install flash-attn --no-build-isolation",
                   half=True, capability=_AMPERE)  # fmt: skip


def _hub(kernel: str, capability: tuple[int, int] = _AMPERE) -> Backend:
    return Backend(module="kernels", package="kernels", least="0.12", cure="pip install 'kernels>=0.12'", kernel=kernel,
                   half=True, capability=capability)  # fmt: skip


_SAGE = Backend(module="sageattention", package="sageattention", least="2.1.1", half=True, capability=_AMPERE,
                cure="build it from its sources, those of PyPI are older")  # fmt: skip
_FLASH_3 = Backend(module="flash_attn_interface", package="flash_attn_3", half=True, capability=_HOPPER,
                   cure="build FlashAttention 3 from its sources, or use _flash_3_hub")  # fmt: skip

BACKENDS: dict[str, Backend] = {
    "native": Backend(),
    "_native_math": Backend(),
    "_native_efficient": Backend(capability=(5, 0)),
    "_native_flash": Backend(capability=_AMPERE, half=True),
    "_native_cudnn": Backend(capability=_AMPERE, half=True),
    "flex": Backend(),
    "flash": _flash(),
    "flash_varlen": _flash(),
    "flash_hub": _hub("kernels-community/flash-attn2"),
    "flash_varlen_hub": _hub("kernels-community/flash-attn2"),
    "_flash_3": _FLASH_3,
    "_flash_varlen_3": _FLASH_3,
    "_flash_3_hub": _hub("kernels-community/flash-attn3", _HOPPER),
    "_flash_3_varlen_hub": _hub("kernels-community/flash-attn3", _HOPPER),
    "flash_4_hub": _hub("kernels-community/flash-attn4", _BLACKWELL),
    "sage": _SAGE,
    "sage_varlen": _SAGE,
    "sage_hub": _hub("SageAttention/sage-attention"),
    "xformers": Backend(
        module="xformers", package="xformers", least="0.0.29", cure="pip install xformers", capability=(7, 0)
    ),
}


def why_not(name: str, *, downloads: bool) -> str:
    """Return the reason why this backend cannot be used on this machine; "" when nothing that can be seen without torch is in its way.

    The rest of a sentence that begins with the name. `downloads`: whether code of the hub may be fetched when the model is loaded.
    """
    backend = BACKENDS.get(name)
    if backend is None:
        return f"is not one of {', '.join(BACKENDS)}"
    if backend.module and importlib.util.find_spec(backend.module) is None:
        return f"needs the package {backend.package}, which is not installed: {backend.cure}"
    if backend.least and (there := _version(backend.package)) and _numbers(there) < _numbers(backend.least):
        return f"needs {backend.package} {backend.least} or later, and installed is {there}: {backend.cure}"
    if backend.kernel and not downloads and not _is_cached(backend.kernel):
        return (
            f"runs code of {backend.kernel}, which is not in the hub's cache: fetch it once, "
            f"or let it be fetched with speed.download_kernels = true"
        )
    return ""


def unfit_device(name: str, device: str, capability: tuple[int, int], *, half: bool) -> str:
    """Return the reason why this device and precision do not do; "" when they do. `capability` is (0, 0) for a CPU."""
    backend = BACKENDS[name]
    if capability < backend.capability:
        least = ".".join(map(str, backend.capability))
        own = f"has {'.'.join(map(str, capability))}" if device == "cuda" else "is none"
        return f"{name!r} needs a GPU of compute capability {least} or later, and this {own}"
    if backend.half and not half:
        return f"{name!r} computes in bfloat16 or float16 only, and the model is in float32"
    return ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    parts = []
    for part in version.split("+")[0].split("."):
        digits = "".join(letter for letter in part if letter.isdigit())
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def _is_cached(kernel: str) -> bool:
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    return any((cache / f"{kind}s--{kernel.replace('/', '--')}" / "snapshots").is_dir() for kind in ("model", "kernel"))
