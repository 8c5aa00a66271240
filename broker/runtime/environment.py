"""The variables ZOETROPE_* that some process of a service reads: they share one environment, so each must accept the others'."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

PREFIX = "ZOETROPE_"

#: Process -> its options besides those that all have.
OPTIONS = {
    "broker": frozenset(
        [
            "queue_limit",
            "queue_limit_s",
            "heartbeat_s",
            "suspect_after_s",
            "lost_after_s",
            "rejoin_s",
            "max_crashes",
            "max_losses",
            "check_invariants",
            "breaker_failures",
            "breaker_s",
            "reload_s",
            "recent_finals",
            "min_free_mb",
            "reserve_mb",
            "front_tcp",
            "back_tcp",
            "metrics_file",
            "accept_journal_loss",
            "usage_keep_days",
            "draft_expires_s",
            "preempt",
            "preempt_delay",
            "on_demand_models",
        ]
    ),
    "workers": frozenset(
        [
            "gpus",
            "machines",
            "rank_endpoint",
            "model",
            "models",
            "name_prefix",
            "threads",
            "dtype",
            "overlap",
            "checkpoint_s",
            "load_budget_s",
            "encode_budget_s",
            "step_floor_s",
            "first_step_budget_s",
            "decode_budget_s",
            "save_budget_s",
            "cancel_grace_s",
            "cancel_grace_max_s",
            "stop_grace_s",
            "detached_s",
            "spare_engine",
            "lora_host_mb",
            "lora_device_mb",
            "heartbeat_file",
            "depot",
            "spool_mb",
            "input_cache_mb",
            "put_budget_s",
            "fetch_budget_s",
            "checkpoint_put_s",
            "die_with_parent",
        ]
    ),
    "rank": frozenset(["leader"]),
    "launcher": frozenset(
        [
            "pool",
            "min_workers",
            "max_workers",
            "target_wait_s",
            "idle_s",
            "ray_address",
            "node_label",
            "gpus_per_worker",
            "machines_per_worker",
            "gpu_class",
            "worker_python",
            "url",
            "api_key_file",
        ]
    ),
    "edge": frozenset(
        [
            "host",
            "port",
            "worker",
            "lightx2v_admission",
            "default_model",
            "model_aliases",
            "unknown_model",
            "sync_timeout_s",
            "public_url",
            "output_roots",
            "save_overwrites",
            "recipe",
            "trusted_signers",
            "input_roots",
            "max_upload_mb",
            "upload_idle_s",
            "upload_timeout_s",
            "upload_min_kb_s",
            "retention_s",
            "disk_quota_mb",
            "result_cache_mb",
            "results_redirect",
            "fetch_allow",
            "prompt_enhancer_url",
            "prompt_enhancer_model",
            "prompt_enhancer_key_file",
            "prompt_enhancer_allow",
            "prompt_enhancer_timeout_s",
            "prompt_enhancer_on_error",
            "prompt_enhancer_system_prompt",
            "webhook_secrets",
            "broker_timeout_s",
            "keep_alive_s",
            "keys_file",
            "metrics_open",
            "cors_origins",
            "allowed_hosts",
            "access_log",
            "traces",
        ]
    ),
}

#: Option's name in 0.1.0 -> its name now; either is read until the next version.
RENAMED = {"bench_after": "breaker_failures", "bench_s": "breaker_s"}

#: The configuration file's, and those of clients.
_OTHERS = frozenset({"CONFIG", "API_KEY", "URL"})

#: What Kubernetes and Docker's links set for a service that is called zoetrope.
_INJECTED = re.compile(r"ZOETROPE_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP)(_\w+)?)")


def unknown(environ: Mapping[str, str], own: Iterable[str]) -> str:
    """The error of the first variable that no process reads; "": there is none. `own`: options of this process."""
    known = {
        PREFIX + name.upper()
        for name in (*own, *_OTHERS, *RENAMED, *(name for names in OPTIONS.values() for name in names))
    }
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known or _INJECTED.fullmatch(name):
            continue
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else "docs/configuration.md lists those that there are"
        # Without its value, which may be a secret.
        return f"{name} is no setting; {hint}"
    return ""
