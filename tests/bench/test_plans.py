import argparse
from typing import Annotated

import pytest
from msgspec import Meta, Struct

from bench.report import plans
from bench.report.errors import BadPlan


class Plan(Struct, frozen=True, kw_only=True):
    count: Annotated[int, Meta(description="how many", ge=1, le=10)] = 3
    rate: Annotated[float, Meta(description="how fast, 100 % at most", ge=0.5, le=2.0)] = 1.0
    where: Annotated[str, Meta(description="a place")] = ""
    loud: Annotated[bool, Meta(description="make noise")] = False
    pin: Annotated[bool, Meta(description="do not pin")] = True


def parsed(*argv):
    parser = argparse.ArgumentParser()
    plans.add_options(parser, Plan)
    return plans.build(Plan, parser.parse_args(argv))


def test_options_fill_the_plan():
    assert parsed() == Plan()
    asked = parsed("--count", "7", "--rate", "0.5", "--where", "here", "--loud", "--no-pin")
    assert asked == Plan(count=7, rate=0.5, where="here", loud=True, pin=False)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [(("--count", "11"), "--count: 11 must be 1 to 10"), (("--rate", "0.1"), "--rate: 0.1 must be 0.5 to 2.0")],
)
def test_what_is_out_of_bounds_is_named(argv, sentence):
    with pytest.raises(BadPlan, match=sentence):
        parsed(*argv)


def test_help_shows_each_option_with_its_default():
    parser = argparse.ArgumentParser()
    plans.add_options(parser, Plan)
    shown = " ".join(parser.format_help().split())
    assert "how many (default: 3)" in shown
    assert "100 % at most" in shown
    assert "--no-pin" in shown
