"""`python -m bench all`: every measurement at moderate sizes, written as one page with its pictures.

A measurement that cannot be made is named on the page with its reason, and the others go on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from bench import brokerbench, cancel, engine, http, load, loadrun, page, peers, plot, pool, recover, report, scale
from bench.errors import BadPlan, BenchError
from bench.profile import hot_spots

NAME = "all"
#: Jobs of a quick profile: each is two flushes of the disk.
_QUICK_JOBS = 200


class Part(Struct, frozen=True, kw_only=True):
    """One measurement of the page: how it is made at each size."""

    name: str
    moderate: Callable[[], report.Report]
    quick: Callable[[], report.Report]


PARTS = (
    Part(
        name="broker",
        moderate=lambda: brokerbench.run(brokerbench.BrokerPlan()),
        quick=lambda: brokerbench.run(
            brokerbench.BrokerPlan(jobs=2_000, latency_jobs=300, repeats=1, sweep_jobs=500, ceiling_s=0.5)
        ),
    ),
    Part(
        name="cancel",
        moderate=lambda: cancel.run(cancel.CancelPlan(samples=12, cold=8)),
        quick=lambda: cancel.run(cancel.CancelPlan(samples=3, cold=2, deaf=1)),
    ),
    Part(
        name="pool",
        moderate=lambda: pool.run(pool.PoolPlan()),
        quick=lambda: pool.run(pool.PoolPlan(arrivals=1_000, repeats=2)),
    ),
    Part(
        name="recover",
        moderate=lambda: recover.run(recover.RecoverPlan()),
        quick=lambda: recover.run(recover.RecoverPlan(repeats=1, queued=2_000)),
    ),
    Part(
        name="scale",
        moderate=lambda: scale.run(scale.ScalePlan()),
        quick=lambda: scale.run(scale.ScalePlan(workers=100, queued=5_000, seconds=3)),
    ),
    Part(
        name="http",
        moderate=lambda: http.run(http.HttpPlan()),
        quick=lambda: http.run(http.HttpPlan(seconds=1, repeats=1, streams=50, steps=20)),
    ),
    Part(
        name="engine",
        moderate=lambda: engine.run(engine.EnginePlan()),
        quick=lambda: engine.run(engine.EnginePlan(jobs=2, steps=4)),
    ),
    Part(
        name="load",
        moderate=lambda: load.run(
            loadrun.LoadPlan(own="fake", gpus="cpu:2", rate=20.0, jobs=400, slo_s=5.0, kill_every_s=4.0)
        ),
        quick=lambda: load.run(loadrun.LoadPlan(own="fake", rate=5.0, jobs=20, slo_s=5.0)),
    ),
    Part(
        name="peers",
        moderate=lambda: peers.run(peers.PeersPlan()),
        quick=lambda: peers.run(peers.PeersPlan(jobs=300, seconds=1, repeats=1, patience=5)),
    ),
)


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
    sub.add_argument("--only", default="", help=f"some of {', '.join(part.name for part in PARTS)}, comma-separated")
    sub.add_argument("--quick", action="store_true", help="small sizes: whether it works, not how fast it is")


def chosen(only: str) -> list[Part]:
    """The parts that were asked for, in their order. Raises `BadPlan`."""
    names = {name.strip() for name in only.split(",") if name.strip()}
    unknown = names - {part.name for part in PARTS}
    if unknown:
        raise BadPlan(f"--only: {sorted(unknown)[0]!r} is not one of {', '.join(part.name for part in PARTS)}")
    return [part for part in PARTS if not names or part.name in names]


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


def measured(part: Part, quick: bool, pictures: Path, about: dict[str, Any]) -> page.Section:
    """One part's section of the page, with its picture and JSON beside it, or the reason why there are none."""
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
