"""Draws docs/filmstrip.png: clips of the demo model, every second frame, each row under its prompt.

    python scripts/make_filmstrip.py [--out FILE] [--model DIRECTORY]

Every pixel of the frames is what the pipeline gave for that prompt and seed, with the defaults of a request that gives only a prompt.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from scripts.demo_model.evaluate import draw, load
from workers.models.catalogue import card_for, default_model

ROOT = Path(__file__).resolve().parents[1]

PROMPTS = (
    ("a red circle moving right on a black background", 1),
    ("blue square going up, white background", 2),
    ("still green triangle on grey", 3),
    ("yellow star flying down and to the left quickly, navy background", 4),
    ("the white circle grows on gray", 5),
    ("a magenta triangle that slowly moves to the top right on a black background", 6),
)
_EVERY, _SCALE, _GAP, _CAPTION = 2, 1, 4, 18
_PAPER, _INK = (255, 255, 255), (32, 32, 32)


def filmstrip(rows: list[tuple[str, torch.Tensor]], scale: int = _SCALE) -> Image.Image:
    """One picture of clips `(frames, height, width, 3)`, each row of frames under its caption."""
    frames, height, width = len(rows[0][1]), rows[0][1].shape[1] * scale, rows[0][1].shape[2] * scale
    row_height = _CAPTION + height + _GAP
    sheet = Image.new("RGB", (_GAP + frames * (width + _GAP), _GAP + len(rows) * row_height), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, (caption, clip) in enumerate(rows):
        top = _GAP + row * row_height
        pen.text((_GAP, top), caption, _INK, font)
        for column, frame in enumerate(clip):
            left, upper = _GAP + column * (width + _GAP), top + _CAPTION
            sheet.paste(Image.fromarray(frame.numpy()).resize((width, height), Image.Resampling.NEAREST), (left, upper))
            pen.rectangle((left - 1, upper - 1, left + width, upper + height), outline=(200, 200, 200))
    return sheet


def main() -> int:
    """Draw the prompts with the shipped model, or the one named, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "filmstrip.png")
    parser.add_argument("--model", type=Path, default=default_model())
    arguments = parser.parse_args()
    defaults = card_for(str(arguments.model)).defaults
    pipeline = load(arguments.model)
    rows = [(prompt, draw(pipeline, prompt, seed, defaults)[::_EVERY]) for prompt, seed in PROMPTS]
    filmstrip(rows).save(arguments.out, optimize=True)
    print(f"written: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
