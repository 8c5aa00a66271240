"""What was used of the pool, through a whole broker and the operator's command."""

from __future__ import annotations

import asyncio

from broker import client_command, usage_cli
from tests.testing.in_process import a_job, connected, in_loop, serving


@in_loop
async def test_the_operator_reads_what_every_tenant_used(tmp_path, run_dir, capsys):
    async def command(*words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(usage_cli.main, [*words, f"--front={service.front}"], {})
        return code, *capsys.readouterr()

    async with serving(tmp_path, run_dir) as service, connected(service) as client:
        assert await command("--json") == (0, "", "")
        for job_id, tenant in (("a", "red"), ("b", "red"), ("c", "blue")):
            await client.submit(a_job(job_id, tenant=tenant, submitted_by="ci"))
            await client.cancel(job_id)
        assert await command("--by=tenant", "--json") == (
            0,
            '{"tenant":"blue","succeeded":0,"failed":0,"cancelled":1,"gpu_s":0.0,"lost_gpu_s":0.0,"bytes":0}\n'
            '{"tenant":"red","succeeded":0,"failed":0,"cancelled":2,"gpu_s":0.0,"lost_gpu_s":0.0,"bytes":0}\n',
            "",
        )
        code, table, _ = await command("--by=key,model", "--tenant=red")
        assert code == 0
        assert [line.split() for line in table.splitlines()] == [
            ["key", "model", "succeeded", "failed", "cancelled", "gpu_s", "lost_gpu_s", "bytes"],
            ["ci", "demo", "0", "0", "2", "0.0", "0.0", "0"],
        ]
        assert await command("--by=week") == (
            2,
            "",
            "broker usage: --by: 'week' is none of day, tenant, key, model\n",
        )
        code, _, said = await command("--to=2026-02-30")
        assert (code, "--to: '2026-02-30' is no day" in said) == (2, True)


def test_without_a_broker_it_says_so(run_dir, monkeypatch, capsys):
    monkeypatch.setattr(client_command, "_TIMEOUT_S", 0.2)
    assert usage_cli.main([f"--front=ipc://{run_dir}/front.sock"], {}) == 1
    assert capsys.readouterr().err.startswith("broker usage: ")
