"""Results are signed before they are published: what is fetched, in parts and whole, is what was signed once."""

from __future__ import annotations

import hashlib

from tests.testing.service import Service
from zoetrope import Client


def test_a_result_is_fetched_as_it_was_signed(short_dir):
    service = Service(short_dir)
    service.more_flags = ["--content-credentials", "on"]
    try:
        service.start()
        service.ready(2)
        # The first attempt dies in the middle of its file: what the second signs is the only one.
        extra = {"fake": "die", "fake_in": "postprocess", "fake_once": str(short_dir / "once")}
        job = service.finished(service.post(seed=7, extra=extra)["id"])
        assert (job["state"], job["attempts"]) == ("succeeded", 2)
        (made,) = job["artefacts"]
        url = job["urls"]["result"]
        whole = service.http.get(url)
        assert (len(whole.content), hashlib.sha256(whole.content).hexdigest()) == (made["size"], made["sha256"])
        assert whole.headers["etag"].strip('"') == made["sha256"]
        middle = len(whole.content) // 2
        end = service.http.get(url, headers={"Range": f"bytes={middle}-", "If-Range": whole.headers["etag"]})
        assert (end.status_code, whole.content[:middle] + end.content) == (206, whole.content)
        again = service.finished(service.post(seed=7, extra=extra)["id"])
        second = service.http.get(again["urls"]["result"]).content
        with Client(f"http://127.0.0.1:{service.port}") as client:
            found, other = client.credentials(whole.content), client.credentials(second)
            changed = bytearray(whole.content)
            changed[whole.content.index(b"mdat") + 20] ^= 1
            assert client.credentials(bytes(changed)).state == "invalid"
        assert (found.state, found.generated, found.recipe["request"]["seed"]) == ("untrusted", True, 7)
        # Drawn alike, signed apart.
        assert whole.content != second
        assert found.unsigned_sha256 == other.unsigned_sha256
        # The edge that only reads, and two workers that sign, have one pair.
        assert sorted(path.name for path in (short_dir / "z" / "credentials").iterdir()) == [
            "certificate.pem",
            "private.key",
        ]
    finally:
        service.close()
