"""Secrets that sign webhooks: given, made, changed, and what is none."""

from __future__ import annotations

import base64
import stat

import pytest
import standardwebhooks

from http_edge import cli
from http_edge.background.webhook_signing import SecretsError, WebhookSecrets, new_secret
from tests.edge.webhooks import NEW, OLD, hooks, later, submit, succeed, verified


def test_while_secrets_change_every_delivery_bears_both_signatures(open_edge, receiver):
    world = open_edge(fetch_allow=("127.0.0.1",), webhook_secrets=(NEW, OLD))
    succeed(world, submit(world, receiver))
    received = receiver.next()
    assert verified(received, NEW) == verified(received, OLD)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verified(received, new_secret())


def test_without_secrets_one_is_made_for_all_edges(open_edge, receiver, start):
    one, other = open_edge(fetch_allow=("127.0.0.1",)), open_edge(fetch_allow=("127.0.0.1",))
    path = start / ".zoetrope" / "webhook_secret"
    secret = one.edge.webhooks.secrets.keys()
    assert other.edge.webhooks.secrets.keys() == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.glob("*webhook_secret*")] == ["webhook_secret"]
    succeed(other, submit(other, receiver))
    verified(receiver.next(), path.read_text().strip())
    path.write_text(f"# the new one\n{NEW}\n\n{OLD}\n")
    succeed(other, submit(other, receiver))
    received = receiver.next()
    assert verified(received, NEW) == verified(received, OLD)


def test_until_secrets_can_be_read_deliveries_wait(open_edge, receiver, start):
    world = open_edge(fetch_allow=("127.0.0.1",))
    path = start / ".zoetrope" / "webhook_secret"
    path.write_text("whsec_short")
    job_id = submit(world, receiver)
    succeed(world, job_id)
    assert hooks(world, job_id)[0]["attempts"] == 0
    path.write_text(NEW)
    later(world, 1.0)
    verified(receiver.next(), NEW)


@pytest.fixture
def start_edge(capsys):
    """`python -m http_edge` up to where it would serve: (exit code, standard error)."""
    return lambda *argv: (cli.main(argv, {}), capsys.readouterr().err)


@pytest.mark.parametrize(
    "text",
    ["", "whsec_", "whsec_AAAA", "whsec_" + "A" * 200, "whsk_" + base64.b64encode(bytes(32)).decode(), "whsec_ü"],
)
def test_what_is_no_secret_is_refused_without_repeating_it(tmp_path, text, start_edge):
    with pytest.raises(SecretsError, match="secret 2 must be whsec_ and the base64 of 24 to 64 bytes") as refused:
        WebhookSecrets((NEW, text), tmp_path / "webhook_secret")
    assert len(text) < 8 or text[6:] not in str(refused.value)
    if text:
        code, said = start_edge("--home", str(tmp_path / "home"), "--webhook-secrets", f"{NEW},{text}")
        assert code == 2
        assert "webhook_secrets: secret 2" in said


def test_a_file_that_cannot_be_used_is_said_at_start(tmp_path, start_edge):
    (tmp_path / "webhook_secret").write_text("# none\n")
    code, said = start_edge("--home", str(tmp_path))
    assert code == 2
    assert "holds no secret" in said


def test_a_byte_order_mark_before_the_secret_is_skipped(tmp_path):
    path = tmp_path / "webhook_secret"
    first = WebhookSecrets((), path).keys()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert WebhookSecrets((), path).keys() == first
