"""Seconds of one denoising step of transformers of published shapes, with weights that are drawn on the device itself.

`python -m scripts.step_time SHAPE [--device cuda] [--repeats 3]` prints one JSON object: a step (two calls, with guidance) plain, with each
attention backend that there is, with an unmerged LoRA, compiled, and with its blocks moved to the device one by one while others compute;
of the last, whether a call that is broken off in the middle leaves the next one as it was. `tiny` is for trying it out on a CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from peft import LoraConfig

_Wan: Any = diffusers.WanTransformer3DModel
_Flux: Any = diffusers.FluxTransformer2DModel

_WAN_14B = {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824}

#: Shape -> (class, its config beside the class's defaults, (width, height, frames)).
SHAPES: dict[str, tuple[Any, dict[str, Any], tuple[int, int, int]]] = {
    "wan-1.3b": (_Wan, {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}, (832, 480, 81)),
    "wan-14b": (_Wan, _WAN_14B, (832, 480, 81)),
    "wan-14b-i2v": (_Wan, {**_WAN_14B, "in_channels": 36, "out_channels": 16}, (832, 480, 81)),
    "flux": (_Flux, {"guidance_embeds": True}, (1024, 1024, 1)),
    "tiny": (
        _Wan,
        {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 3, "ffn_dim": 32, "text_dim": 32, "freq_dim": 16},
        (64, 64, 5),
    ),
}  # fmt: skip

_BACKENDS = ("native", "_native_cudnn", "_native_flash", "_flash_3_hub", "sage")


class Broken(Exception):
    """Raised inside a call to break it off, as a cancel does."""


def inputs_of(shape: str, model: Any, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """What the model is called with for one sample."""
    kind, _, (width, height, frames) = SHAPES[shape]
    config, noise = model.config, torch.Generator("cpu").manual_seed(1)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=noise).to(device, dtype)

    if kind is _Flux:
        tokens = (width // 16) * (height // 16)
        return {
            "hidden_states": draw(1, tokens, config.in_channels), "timestep": torch.tensor([0.5], device=device, dtype=dtype),
            "encoder_hidden_states": draw(1, 512, config.joint_attention_dim), "pooled_projections": draw(1, config.pooled_projection_dim),
            "img_ids": torch.zeros(tokens, 3, device=device, dtype=dtype), "txt_ids": torch.zeros(512, 3, device=device, dtype=dtype),
            "guidance": torch.tensor([3.5], device=device, dtype=dtype), "return_dict": False,
        }  # fmt: skip
    latents = draw(1, config.in_channels, (frames - 1) // 4 + 1, height // 8, width // 8)
    text = draw(1, 512 if shape != "tiny" else 8, config.text_dim)
    return {
        "hidden_states": latents, "timestep": torch.tensor([500], device=device), "encoder_hidden_states": text, "return_dict": False,
    }  # fmt: skip


def measure(shape: str, device: str, repeats: int, backends: tuple[str, ...] = _BACKENDS) -> dict[str, Any]:
    """Seconds a step by what was done; a text where it could not be."""
    kind, config, _ = SHAPES[shape]
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = kind(**config).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    given = inputs_of(shape, model, device, dtype)
    calls = 1 if kind is _Flux else 2  # Flux embeds its guidance

    def step() -> Any:
        with torch.no_grad():
            return [model(**given)[0] for _ in range(calls)][-1]

    found: dict[str, Any] = {"shape": shape, "device": _name(device), "calls_a_step": calls}

    def note(what: str, act: Callable[[], Any]) -> None:
        try:
            found[what] = act()
        except Exception as error:  # one that cannot be had is reported, and the others are measured
            found[what] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        print(f"{shape} {what}: {found[what]}", file=sys.stderr, flush=True)

    note("plain_s", lambda: timed(step, device, repeats))
    for name in backends:
        note(f"attention_{name}_s", lambda name=name: _with_backend(model, name, step, device, repeats))  # type: ignore[misc]
    model.set_attention_backend("native")
    note("lora_64_s", lambda: _with_lora(model, step, device, repeats))
    if device == "cuda":
        found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    note("compile", lambda: _compiled(model, step, device, repeats))
    if device == "cuda":
        note("group_offload", lambda: _offloaded(model, step, repeats))
    return found


def timed(act: Callable[[], Any], device: str, repeats: int) -> float:
    """Seconds of a call, the least of several after one that does not count."""
    act()
    took = []
    for _ in range(repeats):
        _wait(device)
        begun = time.perf_counter()
        act()
        _wait(device)
        took.append(time.perf_counter() - begun)
    return round(min(took), 4)


def _with_backend(model: Any, name: str, step: Callable[[], Any], device: str, repeats: int) -> float:
    model.set_attention_backend(name)
    return timed(step, device, repeats)


def _with_lora(model: Any, step: Callable[[], Any], device: str, repeats: int) -> float:
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    model.add_adapter(LoraConfig(r=64, lora_alpha=64, init_lora_weights=False, target_modules=targets), "measured")
    try:
        return timed(step, device, repeats)
    finally:
        model.delete_adapters("measured")


def _offloaded(model: Any, step: Callable[[], Any], repeats: int) -> dict[str, Any]:
    before = step()
    model.enable_group_offload(
        onload_device=torch.device("cuda"), offload_device=torch.device("cpu"), offload_type="block_level",
        num_blocks_per_group=1, use_stream=True,
    )  # fmt: skip
    took = timed(step, "cuda", repeats)
    blocks = getattr(model, "blocks", None) or model.transformer_blocks

    def stop(*_: Any) -> None:
        raise Broken

    handle = blocks[len(blocks) // 2].register_forward_pre_hook(stop)
    try:
        step()
    except Broken:
        pass
    finally:
        handle.remove()
    return {
        "step_s": took,
        "same": bool(torch.equal(step(), before)),
        "same_after_a_cancel": bool(torch.equal(step(), before)),
    }


def _compiled(model: Any, step: Callable[[], Any], device: str, repeats: int) -> dict[str, float]:
    model.compile_repeated_blocks(backend="inductor" if device == "cuda" else "eager", dynamic=True)
    begun = time.perf_counter()
    step()
    _wait(device)
    first_s = round(time.perf_counter() - begun, 2)
    took = timed(step, device, repeats)
    for module in model.modules():
        module._compiled_call_impl = None
    return {"first_s": first_s, "step_s": took}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def main() -> int:
    """Measure one shape."""
    parser = argparse.ArgumentParser(description="Seconds of one denoising step.")
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    print(json.dumps(measure(given.shape, given.device, given.repeats)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
