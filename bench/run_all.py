"""`python -m bench all`: every measurement at moderate sizes, written as one page with its pictures.

A measurement that cannot be made is named on the page with its reason, and the others go on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from bench.commands import COMMANDS, Command
from bench.report import page, plot, report
from bench.report.errors import BadPlan, BenchError
from bench.suites.profile import hot_spots

NAME = "all"
#: Jobs of a quick profile: each is two flushes of the disk.
_QUICK_JOBS = 200


def add_command(commands: Any) -> None:
    """Add `all` to the parsers of the commands."""
    sub = commands.add_parser(
        NAME,
        help="every measurement, written as one page with pictures",
        description="Every measurement at moderate sizes, written as one page with pictures in a directory of the page's name.",
        epilog="example:\n  python -m bench all --out docs/benchmarks.md",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    sub.add_argument("--out", default="docs/benchmarks.md", help="the page (default: %(default)s)")
    sub.add_argument("--only", default="", help=f"some of {', '.join(part.name for part in COMMANDS)}, comma-separated")
    sub.add_argument("--quick", action="store_true", help="small sizes: whether it works, not how fast it is")


def chosen(only: str) -> list[Command]:
    """The parts that were requested, in their order. Raises `BadPlan`."""
    names = {name.strip() for name in only.split(",") if name.strip()}
    unknown = names - {part.name for part in COMMANDS}
    if unknown:
        raise BadPlan(f"--only: {sorted(unknown)[0]!r} is not one of {', '.join(part.name for part in COMMANDS)}")
    return [part for part in COMMANDS if not names or part.name in names]


def run(arguments: argparse.Namespace) -> None:
    """Measure and write. Raises `BenchError`."""
    out = Path(arguments.out)
    if not out.parent.is_dir() or out.is_dir():
        raise BadPlan(f"--out: {arguments.out!r} cannot be written: its directory must exist, and it must not be one")
    parts = chosen(arguments.only)
    pictures = out.with_suffix("")
    pictures.mkdir(exist_ok=True)
    about = report.machine()
    begun = time.time()
    sections: list[page.Section] = []
    for number, part in enumerate(parts, start=1):
        report.progress(f"== {part.name}, {number} of {len(parts)}")
        sections.append(measured(part, arguments.quick, pictures, about))
        # Written after each part: what was measured is not lost with the next one.
        hot = "" if number < len(parts) else hot_spots(_QUICK_JOBS) if arguments.quick else hot_spots()
        report.write(str(out), page.render(sections, about, begun, hot, quick=arguments.quick).encode())
    print(f"{out} and {sum(bool(section.picture) for section in sections)} pictures in {pictures}")


def measured(part: Command, quick: bool, pictures: Path, about: dict[str, Any]) -> page.Section:
    """Measure one part; return its section of the page, with picture and JSON beside it, or the reason why there are none."""
    at = time.time()
    try:
        made = part.quick() if quick else part.moderate()
    except BenchError as error:
        report.progress(f"{part.name}: {error}")
        return page.Section(name=part.name, report=None, problem=str(error), took_s=time.time() - at)
    picture = pictures / f"{part.name}.png"
    report.write(str(picture), plot.render(made, f"{about['cpu']}, {about['cores']} cores"))
    report.write(str(picture.with_suffix(".json")), report.as_json(made, about, at))
    return page.Section(
        name=part.name,
        report=made,
        picture=f"{pictures.name}/{picture.name}",
        took_s=time.time() - at,
        load=report.load_average(),
    )
