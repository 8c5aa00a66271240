"""Carries a placement out: the place of each of a pipeline's weights, and the hooks that bring them to the device when they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from accelerate.hooks import remove_hook_from_module
from diffusers.hooks.group_offloading import apply_group_offloading

from workers.engine.device import Device
from workers.engine.encoders import EncodedAside, set_aside
from workers.engine.execution_device import forget_execution_device, keep_execution_device
from workers.engine.tiles import tile_vae
from workers.models.placement import ORDER, Component, Placement, role_of

#: The names under which diffusers keeps the hooks of group offloading.
_GROUP_HOOKS = ["group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading"]


def components(pipe: Any) -> tuple[Component, ...]:
    """Measure the pipeline's components as they are in memory: after casts and quantisers."""
    return tuple(component(name, module) for name, module in _modules(pipe))


def possible(pipe: Any) -> tuple[Placement, ...]:
    """The placements that this pipeline can have."""
    found: list[Placement] = ["resident"]
    names = [name for name, _ in _modules(pipe)]
    if any(role_of(name) == "encoder" for name in names) and hasattr(pipe, "encode_prompt"):
        found += ["text_encoder_aside", "text_encoder_streamed"]
    found.append("model")
    if all(getattr(module, "_supports_group_offloading", True) for name, module in _modules(pipe)):
        found += ["group", "leaf"]
    # Pipelines made of others run their parts by rules of their own.
    return tuple(found) if not _nested(pipe) else ("resident", "model")


def place(pipe: Any, placement: Placement, device: Device) -> None:
    """Bring the weights where they belong. Raises what torch raises when memory runs out; the pipeline can be placed anew then."""
    release(pipe)
    if placement not in ("resident", "text_encoder_aside", "text_encoder_streamed"):
        pipe.to("cpu")
        device.release()
    # In tiles where memory is so short that components take turns.
    tile_vae(pipe, on=ORDER.index(placement) >= ORDER.index("model"))
    match placement:
        case "resident":
            pipe.to(device.torch_device)
        case "text_encoder_aside" | "text_encoder_streamed":
            _set_encoders_aside(pipe, device, by_layer=placement == "text_encoder_streamed")
        case "model":
            if pipe.model_cpu_offload_seq is None:
                pipe.enable_sequential_cpu_offload(device=device.torch_device)
            else:
                pipe.enable_model_cpu_offload(device=device.torch_device)
        case "group" | "leaf":
            _stream(pipe, placement, device)
    keep_execution_device(pipe)


def release(pipe: Any) -> None:
    """Take away all hooks of a placement; the weights stay where they are."""
    forget_execution_device(pipe)
    encode = getattr(pipe, "encode_prompt", None)
    if isinstance(encode, EncodedAside):
        encode.drop()
        pipe.encode_prompt = encode.encode
    for _, module in _modules(pipe):
        if (registry := getattr(module, "_diffusers_hook", None)) is not None:
            for name in _GROUP_HOOKS:
                registry.remove_hook(name, recurse=True)
        if hasattr(module, "_hf_hook"):
            remove_hook_from_module(module, recurse=True)
    pipe.remove_all_hooks()
    # The list is what maybe_free_model_hooks goes by: left filled, it would offload the pipeline again after the next job.
    pipe._all_hooks = []


def _set_encoders_aside(pipe: Any, device: Device, *, by_layer: bool) -> None:
    parts = [*_modules(pipe)]
    encoders = [module for name, module in parts if role_of(name) == "encoder"]
    for encoder in encoders:  # first: it makes room for the rest
        encoder.to("cpu")
    device.release()
    for name, module in parts:
        if role_of(name) != "encoder":
            module.to(device.torch_device)
    set_aside(pipe, encoders, device.torch_device, by_layer=by_layer)


def _stream(pipe: Any, placement: Placement, device: Device) -> None:
    """Blocks or layers one after another. Only a denoiser is prefetched on a stream: it runs often, and its blocks in one order."""
    host = torch.device("cpu")
    for name, module in _modules(pipe):
        role = role_of(name)
        if role == "decoder":
            # Small, and used in pieces outside of any forward pass with hooks.
            module.to(device.torch_device)
            continue
        prefetch = (
            placement == "group" and role == "denoiser" and device.torch_device.type == "cuda" and _blocks(module)
        )
        apply_group_offloading(
            module,
            onload_device=device.torch_device,
            offload_device=host,
            offload_type="leaf_level" if placement == "leaf" else "block_level",
            num_blocks_per_group=None if placement == "leaf" else 1,
            use_stream=bool(prefetch),
            non_blocking=bool(prefetch),
        )


# ---------------------------------------------------------------- sizes


def _modules(pipe: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            yield name, part


def _nested(pipe: Any) -> bool:
    return any(hasattr(part, "components") and hasattr(part, "encode_prompt") for part in vars(pipe).values())


def component(name: str, module: torch.nn.Module) -> Component:
    """Measure one component."""
    size = _size(module)
    blocks = [_size(block) for block in _blocks(module)]
    return Component(
        name=name,
        role=role_of(name),
        size=size,
        block=max(blocks, default=0),
        unblocked=size - sum(blocks) if blocks else 0,
        leaf=max((_size(leaf) for leaf in module.modules() if not any(leaf.children())), default=0),
    )


def _blocks(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The blocks that group offloading moves one by one: those of lists that the module has itself."""
    lists = (torch.nn.ModuleList, torch.nn.Sequential)
    return [block for child in module.children() if isinstance(child, lists) for block in child]


def _size(module: torch.nn.Module) -> int:
    seen: dict[int, int] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        # Quantised tensors count by what they are made of.
        seen[id(tensor)] = int(getattr(tensor, "nbytes", tensor.numel() * tensor.element_size()))
    return sum(seen.values())
