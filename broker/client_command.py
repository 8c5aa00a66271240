"""Commands that send requests to the running broker of a home: their options, and their errors when it does not answer."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping

from broker.client.client import BrokerClient
from broker.client.errors import BrokerError
from broker.runtime.settings import SettingsError, load
from broker.settings import BrokerSettings

_TIMEOUT_S = 10.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the broker."""
    parser.add_argument("--home", help="directory of the service (default: as for the broker)")
    parser.add_argument("--front", help="the broker's endpoint for edges (default: as for the broker)")


def run(
    name: str,
    options: argparse.Namespace,
    environ: Mapping[str, str],
    command: Callable[[BrokerClient], Awaitable[int]],
) -> int:
    """The exit code of `command`; 1 where the broker refuses or does not answer, 2 where an option is wrong, with a line of the reason."""
    flags = [f"--{option}={value}" for option in ("home", "front") if (value := getattr(options, option))]

    async def session(endpoint: str) -> int:
        async with BrokerClient(endpoint, timeout_s=_TIMEOUT_S) as client:
            return await command(client)

    try:
        return asyncio.run(
            session(load(BrokerSettings, f"python -m broker {name}", "broker", flags, environ).front_endpoint)
        )
    except SettingsError as error:
        return failed(name, error, 2)
    except BrokerError as error:
        return failed(name, error, 1)


def failed(name: str, error: Exception, code: int) -> int:
    """The exit code, after a line with the reason."""
    sys.stderr.write(f"broker {name}: {error}\n")
    return code
