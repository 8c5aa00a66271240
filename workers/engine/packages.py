"""Python packages that a model needs beyond those of the service: which one is missing, and the command that brings it."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

#: Quantiser, as a part's config names it -> (the module it needs, the package that brings it).
_QUANTISERS = {
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "bitsandbytes_4bit": ("bitsandbytes", "bitsandbytes"),
    "bitsandbytes_8bit": ("bitsandbytes", "bitsandbytes"),
    "torchao": ("torchao", "torchao"),
    "gguf": ("gguf", "gguf"),
    "quanto": ("optimum.quanto", "optimum-quanto"),
    "modelopt": ("modelopt", "nvidia-modelopt"),
    "auto-round": ("auto_round", "auto-round"),
    "sdnq": ("sdnq", "sdnq"),
    "nunchaku_lite": ("kernels", "kernels"),
    "awq": ("gptqmodel", "gptqmodel"),
    "gptq": ("gptqmodel", "gptqmodel"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
    "hqq": ("hqq", "hqq"),
    "eetq": ("eetq", "eetq"),
    "aqlm": ("aqlm", "aqlm"),
    "quark": ("quark", "amd-quark"),
    "vptq": ("vptq", "vptq"),
}

#: Errors of libraries for a package that is not there.
_COMPLAINTS = (
    re.compile(r"requires the ([\w.-]+) library", re.IGNORECASE),
    re.compile(r"`([\w.-]+)` is not installed"),
    re.compile(r"No package metadata was found for ([\w.-]+)"),
    re.compile(r"No module named '([\w-]+)"),
)

#: How libraries guard an import that is not always possible.
_GUARD = re.compile(r"is_(\w+)_available")

#: Modules whose package has another name.
_PACKAGES = {
    "cv2": "opencv-python-headless",
    "opencv": "opencv-python-headless",
    "bs4": "beautifulsoup4",
    "PIL": "pillow",
}


def missing_quantiser(directory: Path) -> str:
    """One sentence on the first part whose quantiser is not installed; "" when all are."""
    for part, method in _quantised(directory):
        module, package = _QUANTISERS.get(method, ("", ""))
        if module and not _is_installed(module):
            return f"its {part} is quantised with {method}, which {_is_missing(package)}"
    return ""


def leave_out(packages: Iterable[str]) -> None:
    """Let imports and looks for these packages find nothing, from now on in this process."""
    for package in packages:
        sys.modules.setdefault(package, None)  # type: ignore[arg-type] # as in Python's documentation


def missing_package(error: BaseException) -> str:
    """One sentence on the package whose absence a library complains of; "" when it is of something else."""
    found = next((match[1] for complaint in _COMPLAINTS if (match := complaint.search(str(error)))), "")
    if not found and isinstance(error, NameError):
        found = _guard_of(error)
    if not found:
        return ""
    name = _PACKAGES.get(found, found.lower())
    return f"it needs {name}, which {_is_missing(name)}"


def _guard_of(error: NameError) -> str:
    """Return the package in whose absence the module that raised the error does not import that name; "" when there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    try:
        tree = ast.parse(Path(frames[-1].filename).read_text(encoding="utf-8"))
    except (IndexError, OSError, ValueError, SyntaxError):
        return ""
    for node in tree.body:
        match node:
            case ast.If(test=ast.Call(func=ast.Name(id=guard)), body=body) if found := _GUARD.fullmatch(guard):
                imports = (one for one in body if isinstance(one, ast.Import | ast.ImportFrom))
                if error.name in {alias.asname or alias.name for one in imports for alias in one.names}:
                    return found[1]
    return ""


def torchvision_for(torch_version: str) -> str:
    """The requirement of the torchvision that belongs to a torch: its minor version is fifteen more, before the first dot a zero."""
    minor = int(torch_version.split(".")[1])
    return f"torchvision==0.{minor + 15}.*"


def _is_missing(package: str) -> str:
    return f"is not installed: {_command(package)}"


def _command(package: str) -> str:
    if package != "torchvision":
        return f"pip install {package}"
    version = importlib.metadata.version("torch")
    build = version.partition("+")[2]
    # Any other build of torchvision than that of the installed torch cannot be imported; a dependency of it would replace torch.
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    return f"pip install --no-deps '{torchvision_for(version)}'{index}"


def _quantised(directory: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(directory.glob("*/config.json")):
        try:
            method = json.loads(file.read_text(encoding="utf-8"))["quantization_config"]["quant_method"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        yield file.parent.name, str(method)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
