"""A video model of real size with random weights, for measuring where no weights can be had.

`python -m bench.suites.random_model NAME OUT TOKENIZER [DEVICE]`. Weights are drawn on the device, which on a GPU takes seconds. Its clips
are noise; its time and memory are those of the real thing, but for the text encoder, which is kept small (its share of a job is a
thousandth). Needs about 6 GB of disk.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

_TEXT_DIM = 4096
#: Typed as a whole, which the library is not.
_Transformer: Any = WanTransformer3DModel
_Pipeline: Any = WanPipeline
_Vae: Any = AutoencoderKLWan
_Scheduler: Any = FlowMatchEulerDiscreteScheduler
#: Wan 2.1's published shapes.
SIZES: dict[str, dict[str, Any]] = {
    "wan-1.3b": {"num_attention_heads": 12, "attention_head_dim": 128, "num_layers": 30, "ffn_dim": 8960},
    # To try things out on a CPU.
    "tiny": {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "ffn_dim": 32, "freq_dim": 16},
    "wan-14b": {"num_attention_heads": 40, "attention_head_dim": 128, "num_layers": 40, "ffn_dim": 13824},
}


def build(name: str, out: Path, tokenizer: str, device: str = "cpu") -> None:
    """Write the model's directory."""
    torch.manual_seed(0)
    text_dim = 64 if name == "tiny" else _TEXT_DIM
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        transformer = _Transformer(text_dim=text_dim, **SIZES[name])
    torch.set_default_dtype(torch.float32)
    tokenize: Any = AutoTokenizer.from_pretrained(tokenizer)
    text: Any = UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenize), d_model=text_dim, d_ff=1024, num_layers=2, num_heads=16, d_kv=64)
    )
    pipe = _Pipeline(
        tokenizer=tokenize,
        text_encoder=text.to(torch.bfloat16),
        vae=_Vae(base_dim=8 if name == "tiny" else 96),
        scheduler=_Scheduler(shift=3.0),
        transformer=transformer,
    )
    pipe.save_pretrained(out)


def main(argv: Sequence[str]) -> int:
    """Build one model."""
    name, out, tokenizer, *device = argv
    build(name, Path(out), tokenizer, *device)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
