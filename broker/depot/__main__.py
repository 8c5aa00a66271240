"""`python -m broker.depot`: whether the object store of results answers and takes files. `zoetrope doctor` runs this."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from broker.depot.object_store import StoreError, StoreRefused
from broker.depot.store_check import check_now
from broker.runtime.settings import CommonSettings, SettingsError, load

_DESCRIPTION = """Ask the object store that results_store names whether this machine may put and list files there: a line on stdout, and
an exit code: 0 it answers and takes files, or there is none; 1 it does not answer now; 2 the setting, the bucket or the keys are wrong;
3 files may be put and not listed, which is enough for workers and not for edges."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Check once; returns the exit code."""
    code, text = 0, "there is no results_store"
    try:
        settings = load(CommonSettings, "python -m broker.depot", "workers", argv, environ, _DESCRIPTION)
        lists = check_now(settings)
        if settings.results_store:
            text = f"{settings.results_store} answers and takes files"
        if not lists:
            code, text = 3, f"{text}, and these keys may not list them"
    except SettingsError as error:
        code, text = 2, str(error)
    except StoreRefused as error:
        code, text = 2, f"results_store: {settings.results_store!r} cannot be used: {error}"
    except StoreError as error:
        code, text = 1, str(error)
    sys.stdout.write(f"{text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
