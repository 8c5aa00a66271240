"""All measurements, one table: name, one sentence, options, how it is run, its sizes on the page of `bench all`, examples."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from bench.peers import peers
from bench.report import plans
from bench.report.report import Report
from bench.suites import (
    brokerbench,
    cancel,
    day,
    depot,
    engine,
    http,
    lists,
    load,
    pool,
    promises,
    recover,
    resume,
    scale,
    webpage,
    workload,
)


class Command(Struct, frozen=True, kw_only=True):
    """Measurement that can be run by name."""

    name: str
    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Report]
    #: As it is made for the page, and in a quick run, which shows that it works and not how fast anything is.
    moderate: Callable[[], Report]
    quick: Callable[[], Report]
    #: Arguments behind `python -m bench NAME`, with what they do.
    examples: tuple[tuple[str, str], ...]


def planned(
    name: str,
    text: str,
    run: Callable[[Any], Report],
    moderate: Struct,
    quick: Struct,
    examples: tuple[tuple[str, str], ...],
) -> Command:
    """A command whose options are its plan's fields; `moderate` and `quick` are such plans."""
    kind = type(moderate)
    return Command(
        name=name,
        help=text,
        add_options=lambda parser: plans.add_options(parser, kind),
        run=lambda arguments: run(plans.build(kind, arguments)),
        moderate=lambda: run(moderate),
        quick=lambda: run(quick),
        examples=examples,
    )


def _load_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--url", default="http://127.0.0.1:8000", help="address of an edge (default: %(default)s)")
    option("--rate", type=float, help="requests a second, on average; arrivals are a Poisson process")
    option("--jobs", type=int, help="requests in all")
    option("--trace", default="", help="file of JSON lines that say when each request leaves and what it asks for")
    option("--seed", type=int, default=0, help="draws arrivals, sizes and prompts (default: %(default)s)")
    option("--prompt", action="append", default=[], help="prompt; repeat it for several (default: four short ones)")
    option("--model", default="", help="model (default: the server's)")
    option("--size", default="", help="WxH[xFRAMES][@WEIGHT], comma-separated for a mix (default: the model's)")
    option("--steps", default="", help="step count, comma-separated for a mix (default: the model's)")
    option("--slo", type=float, default=0.0, help="seconds in which a job should be done (default: none)")
    option(
        "--own", default="", metavar="MODEL", help="start a service of its own (demo, fake or a directory) for this run"
    )
    option("--gpus", default="cpu:1", help="with --own: what its workers run on (default: %(default)s)")
    option("--kill-every", type=float, default=0.0, help="with --own: kill an engine or an agent this often, seconds")
    option("--timeout", type=float, default=600.0, help="seconds to wait after the last arrival (default: %(default)s)")


def _run_load(arguments: argparse.Namespace) -> Report:
    return load.run(
        load.LoadPlan(
            url=arguments.url.rstrip("/"),
            rate=arguments.rate,
            jobs=arguments.jobs,
            trace=arguments.trace,
            seed=arguments.seed,
            prompts=tuple(arguments.prompt) or workload.DEFAULT_PROMPTS,
            model=arguments.model,
            shapes=workload.parse_shapes(arguments.size),
            steps=workload.parse_steps(arguments.steps),
            slo_s=arguments.slo,
            own=arguments.own,
            gpus=arguments.gpus,
            kill_every_s=arguments.kill_every,
            timeout_s=arguments.timeout,
        )
    )


COMMANDS = (
    planned(
        "broker",
        "no-op jobs through a real broker: rate, processor time, latency, beside bare ZeroMQ",
        brokerbench.run,
        brokerbench.BrokerPlan(),
        brokerbench.BrokerPlan(jobs=2_000, latency_jobs=300, repeats=1, sweep_jobs=500, ceiling_s=0.5),
        (("", "everything, about a minute"), ("--jobs 2000 --repeats 1 --sweep-jobs 0 --ceiling-s 0", "a quick look")),
    ),
    Command(
        name="load",
        help="open-loop requests to a running service: waits, latency, GPU use, goodput",
        add_options=_load_options,
        run=_run_load,
        moderate=lambda: load.run(
            load.LoadPlan(own="fake", gpus="cpu:2", rate=20.0, jobs=400, slo_s=5.0, kill_every_s=4.0)
        ),
        quick=lambda: load.run(load.LoadPlan(own="fake", rate=5.0, jobs=20, slo_s=5.0)),
        examples=(
            ("--rate 2 --jobs 100 --slo 30", "two a second, a job should take 30 s at most"),
            ("--own fake --gpus cpu:2 --rate 2 --jobs 60 --slo 10 --kill-every 5", "goodput while processes die"),
            ("--trace monday.jsonl", 'lines like {"at_s": 1.5, "prompt": "…", "width": 832, "steps": 40}'),
        ),
    ),
    planned(
        "cancel",
        "from a cancel to a free worker, by what the job was doing",
        cancel.run,
        cancel.CancelPlan(samples=12, cold=8),
        cancel.CancelPlan(samples=3, cold=2, deaf=1),
        (("--samples 50", "p99 of fifty cancels in each phase"),),
    ),
    planned(
        "pool",
        "makespan and waits of mixed jobs, the real core on virtual time beside other policies",
        pool.run,
        pool.PoolPlan(),
        pool.PoolPlan(arrivals=1_000, repeats=2),
        (("", "eight workers"), ("--workers 64 --load 0.9", "a larger and busier pool")),
    ),
    planned(
        "promises",
        "promised times kept against noise and load, the real core on virtual time beside first come first served",
        promises.run,
        promises.PromisesPlan(),
        promises.PromisesPlan(jobs=200, draws=1),
        (
            ("", "eight workers"),
            ("--by-jobs", "pictures among clips: 30 % of the jobs are long, and nearly all of the work"),
            ("--confidence 0.99 --long 0.6", "stronger promises, more of the work in long jobs"),
            ("--live 300", "five minutes of real jobs on two workers; quiet cores, please"),
            ("--live 300 --by-jobs --replica --draws 24", "the same jobs and draws like them, simulated"),
        ),
    ),
    planned(
        "day",
        "a day of a large pool on virtual time, the real core and journal: waits, and one end for every job",
        day.run,
        day.DayPlan(workers=2_000, jobs=200_000),
        day.DayPlan(workers=80, jobs=2_000),
        (
            ("", "a million jobs over ten thousand workers: some twenty minutes"),
            ("--workers 800 --jobs 80000", "minutes"),
        ),
    ),
    planned(
        "http",
        "status reads and event streams of one edge, beside a bare Starlette application",
        http.run,
        http.HttpPlan(),
        http.HttpPlan(seconds=1, repeats=1, streams=50, steps=20),
        (("--connections 64", "more readers"),),
    ),
    planned(
        "depot",
        "a large file put into an edge's depot, as a worker on another machine does",
        depot.run,
        depot.DepotPlan(),
        depot.DepotPlan(size_mb=1, repeats=3),
        (("", "twenty files of 10 MB"), ("--size-mb 200 --repeats 5", "long clips")),
    ),
    planned(
        "recover",
        "kill -9 of each process: until a job starts or a request is answered again",
        recover.run,
        recover.RecoverPlan(),
        recover.RecoverPlan(repeats=1, queued=2_000),
        (("--queued 100000", "the broker dies with a longer queue"),),
    ),
    planned(
        "resume",
        "kill -9 at random moments of a picture's drawing: what is drawn twice, whether the pixels are the same",
        resume.run,
        resume.ResumePlan(),
        resume.ResumePlan(renders=12, long_pairs=1, long_steps=10, parks=3, kills=4, pairs=3, steps=40),
        (
            ("--renders 500 --kills 0", "half an hour on two busy cores; ends with 0 different pictures"),
            ("--renders 20 --kills 8 --pairs 3", "a quick look, minutes"),
            ("--renders 0 --long-pairs 0 --kills 0 --parks 24", "what parking costs, part by part"),
        ),
    ),
    planned(
        "scale",
        "many simulated workers, many queued jobs: memory, processor time, dispatch",
        scale.run,
        scale.ScalePlan(),
        scale.ScalePlan(workers=100, queued=5_000, seconds=3),
        (("--queued 1000000", "a million jobs"), ("--workers 5000 --hold-s 20", "more workers, longer jobs")),
    ),
    planned(
        "lists",
        "every list over a million finished jobs: how long one answer holds the broker's loop",
        lists.run,
        lists.ListsPlan(),
        lists.ListsPlan(jobs=10_000),
        (("", "a million jobs, about a minute and 2 GB of disk"), ("--jobs 10000000", "ten million")),
    ),
    planned(
        "page",
        "the web page in Chromium: weight, first paint, frames while it scrolls beside a busy queue, what it keeps",
        webpage.run,
        webpage.PagePlan(),
        webpage.PagePlan(tiles=40, history=2_000, loads=2, frames_s=1, watch_s=10, idle_s=5),
        (("", "four minutes; needs chromium and playwright"), ("--watch-s 3600", "an hour of a busy queue")),
    ),
    planned(
        "engine",
        "the service beside a bare diffusers loop with the same prompts",
        engine.run,
        engine.EnginePlan(),
        engine.EnginePlan(jobs=2, steps=4),
        (
            ("", "the demo model on the CPU"),
            ("--model /models/Wan2.2-T2V --gpus 0", "your model on a GPU"),
            ("--random wan-1.3b --gpus 0", "random weights of that size, GPU only"),
            ("--speed all --gpus 0", "attention, compile, caches and the rest side by side, beside the plain model"),
        ),
    ),
    planned(
        "peers",
        "the same no-op jobs through Celery, JetStream and Ray Serve, those that are installed",
        peers.run,
        peers.PeersPlan(),
        peers.PeersPlan(jobs=300, seconds=1, repeats=1, patience=5),
        (
            ("", "all of them: minutes, half of them waiting for killed workers' jobs"),
            ("--only zoetrope,celery --parts a,b", "two of them, two parts"),
        ),
    ),
)
