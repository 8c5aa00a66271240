"""What a seed draws: how big the world is, what goes wrong in it and when, what work comes and how it behaves.

Each seed draws which kinds of trouble it has at all, and how much of each. A seed with everything at once would hide what needs quiet to
be seen: a lost message is healed by the next broken connection before anybody can notice.
"""

from __future__ import annotations

from random import Random

import msgspec
from msgspec import Struct

from broker.core.policy import Policy
from broker.core.scheduling.preemption import Bounds
from broker.wire.messages import WebhookEvent
from tests.simulation.engine import BEHAVIOURS
from tests.simulation.planted import PLACES, Bug
from tests.simulation.receiver import MANNERS

#: Kind of fault -> (how likely a seed has it, how many it has at most).
FAULTS = {
    "broker killed": (0.35, 3),
    "broker killed at": (0.5, 4),
    "broker stopped": (0.1, 1),
    "broker paused": (0.3, 3),
    "disk low": (0.1, 2),
    "agent killed": (0.35, 4),
    "agent leaves": (0.15, 2),
    "agent lost": (0.15, 1),  # and nobody starts it again
    "agent drained": (0.1, 1),
    "agent paused": (0.35, 4),
    "engine killed": (0.3, 5),
    "cut": (0.45, 8),
    "partition": (0.4, 5),
    "edge killed": (0.2, 2),
    "edge deaf": (0.15, 2),
}

#: Where the broker is killed by "broker killed at", and among how many passages of that boundary from then on the fatal one is drawn.
BOUNDARIES = {"receive": 20, "before commit": 8, "after commit": 8, "before send": 20, "raised epoch": 1}

DELAYS: tuple[tuple[float, ...], ...] = (
    (0.0,),
    (0.0, 0.001, 0.01),
    (0.0, 0.05, 0.3),
    (0.001, 0.01, 1.2),
    (0.0, 0.0, 0.0, 0.0, 4.0),
)


class Theme(Struct, frozen=True, kw_only=True):
    """What a seed looks at closely, with nothing else going on."""

    faults: tuple[str, ...] = ()
    behaviours: tuple[str, ...] = ("finish",)
    workers: tuple[int, ...] = (1, 2, 3)
    cancels: float = 0.2
    special: float = 0.0
    natures: tuple[str, ...] = BEHAVIOURS
    #: Steps of an attempt, fewest and most.
    steps: tuple[int, int] = (2, 4)
    #: How likely all work comes at once; how much of it may wait (0: what is drawn).
    burst: float = 0.3
    queue_limit: int = 0
    #: How likely a job has a deadline, and how far away, seconds; 0: what `special` draws.
    deadlines: float = 0.0
    deadlines_s: tuple[float, ...] = (0.5, 4.0, 20.0)


#: One seed in two has one of these.
THEMES = {
    "deaf engines": Theme(behaviours=("deaf",), cancels=0.8),
    "zombies": Theme(faults=("agent paused", "partition", "cut"), workers=(2, 3), steps=(20, 50)),
    "sleepy broker": Theme(faults=("broker paused",), steps=(10, 30)),
    "restarts": Theme(faults=("broker killed", "broker killed at", "broker stopped"), steps=(2, 20)),
    "poison": Theme(
        faults=("engine killed",),
        special=0.8,
        natures=("finish", "finish", "oom", "fatal", "die", "die at once", "die at once", "hang", "junk", "close"),
    ),
    "races": Theme(cancels=1.0, special=0.2),
}

#: One seed in eight is about engines that have two jobs.
FULL_ENGINES = Theme(
    behaviours=("finish", "finish", "finish", "finish", "finish", "deaf", "deaf", "hang", "die"),
    workers=(1, 1, 2),
    cancels=0.5,
    steps=(2, 4),
    burst=0.8,
    queue_limit=100,
)


#: One seed in six is about timers that fall due together: back-offs (1 s, 5 s and up to a fifth more), deadlines, benches, lost workers,
#: the rejoin window; in passes that come late, and in lives of the broker that begin when several are past.
TIMERS = Theme(
    faults=("broker paused", "broker killed", "broker killed at", "broker stopped", "agent paused"),
    behaviours=("error", "error", "oom", "die", "finish"),
    workers=(1, 1, 2),
    cancels=0.1,
    steps=(1, 3),
    burst=0.6,
    queue_limit=100,
    deadlines=0.9,
    deadlines_s=(1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0),
)

#: One seed in sixteen is about promised times: jobs that ask for one, and more urgent ones that come behind them.
PROMISES = Theme(workers=(1, 2, 2), cancels=0.0, queue_limit=100)

#: Seconds of a step there; units of a step; steps of the jobs that teach what a step takes, and of those that come then.
_EXACT_STEP_S, _STEP_UNITS = 0.3, 100.0
_TEACHERS, _TAUGHT = (4, 30, 12, 4), (4, 4, 8, 40)

#: How late the broker may be woken for a timer, seconds: its loop is busy, or waits for the disk.
LAGS: tuple[tuple[float, ...], ...] = ((0.0,), (0.0,), (0.0, 0.02, 0.3), (0.1, 0.4))


class Fault(Struct, frozen=True):
    """Something goes wrong."""

    at: float
    kind: str
    #: Which worker or edge, modulo how many there are.
    target: int = 0
    seconds: float = 0.0
    word: str = ""
    count: int = 0


class Errand(Struct, frozen=True, kw_only=True):
    """One job, from its customer's side."""

    at: float
    job_id: str
    model: str
    tenant: str
    priority: int = 5
    units: float = 1.0
    #: Steps of its denoising; 0: what its first attempt draws.
    steps: int = 0
    deadline_s: float = 0.0
    #: It is to be promised to be done within so long; 0: not where `Plan.exact`, elsewhere it is drawn.
    within_s: float = 0.0
    pinned: str = ""
    max_queued: int = 0
    max_running: int = 0
    alias: str = ""
    only_if_idle: bool = False
    #: What it does in every engine; "": what the plan draws for each attempt.
    nature: str = ""
    #: When it is cancelled: so long after it was accepted, -1 never, -2 when it is about to finish.
    cancel_s: float = -1.0
    #: Submitted once more so long after it was accepted; -1 never. `changed`: with another body.
    again_s: float = -1.0
    changed: bool = False
    #: Whether a webhook is to be told, and of what; none named: of all.
    webhook: bool = False
    webhook_events: tuple[WebhookEvent, ...] = ()
    #: LoRAs that it is drawn with.
    loras: tuple[str, ...] = ()
    #: Its record is deleted so long after its end is seen; -1 never.
    forget_s: float = -1.0
    #: When it is paused, so long after it was accepted (-1: never), and for how long at least.
    pause_s: float = -1.0
    paused_s: float = 1.0
    #: It is a draft after so many steps (0: it is none), which is committed when it is seen, or not.
    draft_steps: int = 0
    commits: bool = True


#: Units of short and of long jobs where jobs make room, so many that they say more of the pace than of the start-up; long ones have as
#: many times the steps.
SHORT_UNITS, LONG_UNITS = 1_000.0, 12_000.0
#: Everything takes a few seconds in these worlds.
BOUNDS = Bounds(patience=0.5, most=3, overhead_s=0.1, rest=2.0, most_rest_s=4.0)


class Plan(Struct, frozen=True, kw_only=True):
    """All that is fixed before the world begins to turn."""

    workers: int
    edges: int
    models: tuple[str, ...]
    #: Seconds in which things go wrong.
    horizon_s: float
    delays: tuple[float, ...]
    doubled: float
    steps: tuple[int, int]
    steps_s: tuple[float, ...]
    behaviours: tuple[str, ...]
    kernel_stuck: float
    begin_failures: float
    #: How likely the tail of a job lets another job in.
    overlap: float
    #: How likely a job asks for the next one before its last step.
    prepares: float
    #: How late the broker is woken for a timer, each as likely.
    lags: tuple[float, ...]
    policy: Policy
    errands: tuple[Errand, ...]
    faults: tuple[Fault, ...]
    #: What is wrong in the core for one of the jobs; and how likely the operator lets it go on each second before that is mended.
    bug: Bug | None = None
    #: What receivers of webhooks do; none: there are no webhooks.
    manners: tuple[str, ...] = ()
    #: How likely the broker's death is a loss of power: what was not synced is lost, or torn.
    power: float = 0.0
    hasty: float = 0.0
    #: Whether the models go on from checkpoints; how many steps lie between two (0: where a job is parked alone); and how likely the newest
    #: is not there: an older one is, or none.
    resumes: bool = False
    checkpoint_steps: int = 0
    torn: float = 0.0
    #: Everything takes as long as is predicted, and nothing goes wrong but that a worker is lost: what is promised can be kept.
    exact: bool = False
    #: GPUs of each worker; none: one each.
    sizes: tuple[int, ...] = ()

    def kill_s(self, random: Random) -> float:
        """How long a killed engine takes to be gone: beyond the agent's patience when it sits in the kernel."""
        return 9.0 if self.kernel_stuck and random.random() < self.kernel_stuck else random.choice((0.001, 0.05, 0.4))

    def begin_fails(self, random: Random) -> bool:
        return self.begin_failures > 0 and random.random() < self.begin_failures


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    random = Random(f"plan {seed}")
    theme = THEMES[random.choice([*THEMES])] if random.random() < 0.5 else None
    # Drawn by itself, so that all other seeds are what they would be without.
    overlaps = Random(f"overlap {seed}")
    overlap = overlaps.choice((0.0, 0.5, 1.0))
    if overlaps.random() < 0.125:
        theme, overlap = FULL_ENGINES, 1.0
    timers = Random(f"timers {seed}")
    lags = timers.choice(LAGS)
    if timers.random() < 1 / 6:
        theme, lags = TIMERS, timers.choice(LAGS[2:])
    if Random(f"promises {seed}").random() < 1 / 16:
        return _exact(seed, Random(f"promised {seed}"))
    horizon_s = random.choice((8.0, 15.0, 25.0, 40.0))
    workers = random.choice(theme.workers if theme else (1, 1, 2, 2, 3, 4))
    models = random.choice((("demo",), ("demo",), ("demo", "wan")))
    errands = _errands(random, horizon_s, workers, models, theme)
    bugs = Random(f"bug {seed}")
    bug = Bug(bugs.choice(errands).job_id, bugs.choice(PLACES), bugs.random() < 0.5) if bugs.random() < 0.25 else None
    manners, errands = _with_webhooks(errands, Random(f"webhooks {seed}"))
    errands = _with_loras(errands, Random(f"loras {seed}"))
    parks = Random(f"parking {seed}")
    resumes = parks.random() < 0.3
    if resumes:
        errands = _with_parking(errands, parks)
    preempts = Random(f"preempting {seed}")
    preempt = preempts.random() < (0.4 if resumes else 0.03)
    if preempt:
        resumes, errands = True, _with_long_jobs(errands, preempts)
    return Plan(
        workers=workers,
        edges=random.choice((1, 1, 2)),
        models=models,
        horizon_s=horizon_s,
        delays=random.choice(DELAYS[:3] if theme else DELAYS),
        doubled=random.choice((0.0, 0.0, 0.0, 0.1)),
        steps=theme.steps if theme else random.choice(((2, 4), (2, 4), (2, 20))),
        steps_s=random.choice(((0.05,), (0.3,), (0.2, 1.0), (0.5, 3.0)) if not theme else ((0.3,), (0.5, 1.0))),
        behaviours=theme.behaviours if theme else _behaviours(random),
        kernel_stuck=random.choice((0.0, 0.0, 0.0, 0.3)) if not theme else 0.0,
        begin_failures=random.choice((0.0, 0.0, 0.0, 0.1)) if not theme else 0.0,
        overlap=overlap,
        prepares=Random(f"prepares {seed}").choice((0.0, 0.0, 0.5, 1.0)),
        lags=lags,
        policy=Policy(
            queue_limit=random.choice((2, 6, 100)) if not (theme and theme.queue_limit) else theme.queue_limit,
            recent_finals=random.choice((1, 4, 8)),
            draft_expires_s=12.0,
            max_losses=random.choice((2, 10)),
            breaker_failures=random.choice((0, 2, 3)),
            breaker_s=8.0,
            preempt=preempt,
            preempt_delay=4.0,
            preempt_bounds=BOUNDS,
        ),
        errands=errands,
        faults=_faults(random, horizon_s, theme),
        bug=bug,
        manners=manners,
        power=Random(f"power {seed}").choice((0.0, 0.0, 0.5, 1.0)),
        hasty=bugs.choice((0.0, 0.0, 0.2)),
        resumes=resumes,
        checkpoint_steps=Random(f"checkpoints {seed}").choice((0, 1, 1, 3)) if resumes else 0,
        torn=parks.choice((0.0, 0.0, 0.3)),
        sizes=_sizes(Random(f"sizes {seed}"), workers),
    )


def _sizes(random: Random, workers: int) -> tuple[int, ...]:
    """GPUs of so many workers, in one seed of four."""
    return tuple(random.choices((1, 1, 2, 4), k=workers)) if random.random() < 0.25 else ()


def _exact(seed: int, random: Random) -> Plan:
    """A world in which what is promised can be kept."""
    workers, preempt = random.choice(PROMISES.workers), random.random() < 0.5
    errands, at = [], 0.5
    for number, steps in enumerate(_TEACHERS):
        errands.append(
            Errand(at=at, job_id=f"j{number}", model="demo", tenant="default", units=_STEP_UNITS * steps, steps=steps)
        )
        at += (steps + 2) * _EXACT_STEP_S + 1.0
    for number in range(len(_TEACHERS), len(_TEACHERS) + random.randint(8, 16)):
        steps = random.choice(_TAUGHT)
        takes_s = (steps + 2) * _EXACT_STEP_S
        errands.append(
            Errand(
                at=at,
                job_id=f"j{number}",
                model="demo",
                tenant="default",
                # Where jobs make room, they do so for those of their own priority.
                priority=5 if preempt else random.choice((5, 5, 9)),
                units=_STEP_UNITS * steps,
                steps=steps,
                within_s=takes_s * random.uniform(1.5, 6.0) + 2.0 if random.random() < 0.4 else 0.0,
            )
        )
        at += random.choice((0.1, 1.0, 2.0, 4.0)) / workers
    lost = workers > 1 and random.random() < 0.7
    return Plan(
        workers=workers,
        edges=1,
        models=("demo",),
        horizon_s=at + 20.0,
        delays=(0.0,),
        doubled=0.0,
        steps=(4, 4),
        steps_s=(_EXACT_STEP_S,),
        behaviours=("finish",),
        kernel_stuck=0.0,
        begin_failures=0.0,
        overlap=0.0,
        prepares=0.0,
        lags=(0.0,),
        policy=Policy(queue_limit=PROMISES.queue_limit, preempt=preempt, preempt_delay=0.5, preempt_bounds=BOUNDS),
        errands=tuple(errands),
        faults=(Fault(random.uniform(errands[len(_TEACHERS)].at, at), "agent lost", random.randrange(12)),)
        if lost
        else (),
        resumes=preempt,
        checkpoint_steps=random.choice((0, 1, 3)) if preempt else 0,
        exact=True,
    )


def _with_webhooks(errands: tuple[Errand, ...], random: Random) -> tuple[tuple[str, ...], tuple[Errand, ...]]:
    """(what receivers do, the errands with webhooks and deletions): one seed in three has each."""
    manners: tuple[str, ...] = ()
    if random.random() < 1 / 3:
        manners = tuple(random.choices(MANNERS, k=random.choice((1, 3, 6))))
    forgets = random.random() < 1 / 3
    events: tuple[tuple[WebhookEvent, ...], ...] = ((), (), ("completed", "failed"), ("started",), ("cancelled",))
    changed = []
    for errand in errands:
        forget_s = random.choice((0.0, 0.0, 2.0, 20.0))
        changed.append(
            msgspec.structs.replace(
                errand,
                webhook=bool(manners) and random.random() < 0.7,
                webhook_events=random.choice(events),
                # Who asks again under the id of a job that is deleted gets a new one.
                forget_s=forget_s if forgets and errand.again_s < 0 else -1.0,
            )
        )
    return manners, tuple(changed)


def _with_parking(errands: tuple[Errand, ...], random: Random) -> tuple[Errand, ...]:
    """The errands, many of them paused, some of them drafts."""
    return tuple(
        msgspec.structs.replace(
            errand,
            pause_s=random.choice((-1.0, 0.0, 0.5, 1.5, 4.0)),
            paused_s=random.choice((0.0, 0.3, 2.0, 9.0)),
            draft_steps=random.choice((0, 0, 0, 1, 2)),
            commits=random.random() < 0.7,
        )
        for errand in errands
    )


def _with_long_jobs(errands: tuple[Errand, ...], random: Random) -> tuple[Errand, ...]:
    """The errands, every third of them long, few of them paused, and nobody's first one: something must be known of the model."""
    return tuple(
        msgspec.structs.replace(
            errand,
            units=LONG_UNITS if number and random.random() < 1 / 3 else SHORT_UNITS,
            pause_s=errand.pause_s if random.random() < 0.2 else -1.0,
            draft_steps=errand.draft_steps if random.random() < 0.2 else 0,
        )
        for number, errand in enumerate(errands)
    )


def _with_loras(errands: tuple[Errand, ...], random: Random) -> tuple[Errand, ...]:
    """The errands, in one seed of three most of them with LoRAs."""
    if random.random() > 1 / 3:
        return errands
    choices = ((), ("film",), ("quick",), ("film", "quick"), ("pan",))
    return tuple(msgspec.structs.replace(errand, loras=random.choice(choices)) for errand in errands)


def _behaviours(random: Random) -> tuple[str, ...]:
    behaviours = ["finish"] * random.choice((1, 4, 12))
    if random.random() < 0.6:
        behaviours += random.sample(BEHAVIOURS, random.randint(1, 3))
    return tuple(behaviours)


def _errands(
    random: Random, horizon_s: float, workers: int, models: tuple[str, ...], theme: Theme | None
) -> tuple[Errand, ...]:
    tenants = random.choice((("default",), ("default",), ("studio", "lab", "guest")))
    cancels = theme.cancels if theme else random.choice((0.0, 0.1, 0.6))
    special = theme.special if theme else random.choice((0.0, 0.1, 0.3))
    burst = random.random() < (theme.burst if theme else 0.3)
    limits = {name: (random.choice((0, 0, 2)), random.choice((0, 0, 1))) for name in tenants}

    def chance(part: float) -> bool:
        return random.random() < part

    errands = []
    for number in range(random.choice((2, 4, 8, 12))):
        tenant = random.choice(tenants)
        errands.append(
            Errand(
                at=random.uniform(0.0, 1.0 if burst else horizon_s),
                job_id=f"j{number}",
                model=random.choice(models),
                tenant=tenant,
                priority=random.choice((5, 5, 5, 1, 9)) if chance(special) else 5,
                units=random.choice((1.0, 2.0, 4.0)),
                deadline_s=_deadline_s(random, theme, special),
                pinned=f"gpu-{random.randrange(workers)}" if chance(special / 2) else "",
                max_queued=limits[tenant][0],
                max_running=limits[tenant][1],
                alias=random.choice(("", f"name{number % 4}")) if chance(special) else "",
                only_if_idle=chance(special / 3),
                nature=random.choice(theme.natures if theme else BEHAVIOURS) if chance(special) else "",
                cancel_s=random.choice((0.0, 0.3, 2.0, 8.0, -2.0, -2.0)) if chance(cancels) else -1.0,
                again_s=random.choice((0.0, 3.0, 15.0)) if chance(0.15) else -1.0,
                changed=chance(0.3),
            )
        )
    return tuple(sorted(errands, key=lambda errand: errand.at))


def _deadline_s(random: Random, theme: Theme | None, special: float) -> float:
    if theme is None:
        return random.choice((0.5, 4.0, 20.0)) if random.random() < special else 0.0
    return random.choice(theme.deadlines_s) if random.random() < max(special, theme.deadlines) else 0.0


def _faults(random: Random, horizon_s: float, theme: Theme | None) -> tuple[Fault, ...]:
    faults = []
    for kind, (likely, most) in FAULTS.items():
        if theme is not None:
            likely = 0.8 if kind in theme.faults else 0.0
        if random.random() >= likely:
            continue
        for _ in range(random.randint(1, most)):
            faults.append(_fault(random, kind, random.uniform(0.0, horizon_s)))
    return tuple(sorted(faults, key=lambda fault: fault.at))


def _fault(random: Random, kind: str, at: float) -> Fault:
    target = random.randrange(12)
    match kind:
        case "broker killed" | "broker stopped":
            return Fault(at, kind, seconds=random.choice((0.1, 1.0, 5.0, 12.0)), count=random.choice((0, 0, -30, 30)))
        case "broker killed at":
            word = random.choice([*BOUNDARIES])
            return Fault(at, kind, word=word, count=random.randint(1, BOUNDARIES[word]))
        case "broker paused" | "agent paused":
            seconds = random.choice((0.6, 2.0, 4.0, 8.0, 11.0, 14.0))
            return Fault(at, kind, target, seconds, word=random.choice(("", "engine too")))
        case "partition":
            return Fault(at, kind, target, random.choice((1.0, 3.0, 7.0, 20.0)), random.choice(("up", "down", "both")))
        case "cut":
            return Fault(at, kind, target, random.choice((0.1, 0.1, 2.0, 9.0)), random.choice(("", "unnoticed")))
        case _:
            return Fault(at, kind, target, random.choice((0.1, 1.0, 4.0, 10.0)))
