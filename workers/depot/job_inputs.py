"""The inputs that a job's spec names by their paths at its edge, and the spec with their paths on this machine."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from broker.wire.inputs import INPUT_FILE
from broker.wire.jobspec import decode_spec, encode_spec


def input_names(body: bytes) -> tuple[str, ...]:
    """The file names of a spec's inputs, each once; none when the bytes are no spec, which the engine will report."""
    try:
        paths = decode_spec(body).input_paths()
    except ValueError:
        return ()
    names = dict.fromkeys(Path(path).name for path in paths)
    return tuple(name for name in names if INPUT_FILE.fullmatch(name))


def with_local_inputs(body: bytes, directory: str) -> bytes:
    """The spec whose inputs lie in this directory. Raises `ValueError` when the bytes are no spec."""
    spec = decode_spec(body)

    def local(path: str) -> str:
        name = Path(path).name
        return f"{directory}/{name}" if INPUT_FILE.fullmatch(name) else path

    return encode_spec(
        replace(
            spec,
            image=local(spec.image) if spec.image else "",
            inputs={role: tuple(map(local, paths)) for role, paths in spec.inputs.items()},
        )
    )
