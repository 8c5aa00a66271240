"""Retries, event streams and signatures: decisions without a socket."""

import pytest

import zoetrope
from http_edge.background.webhook_signing import _parse, new_secret, signatures
from zoetrope.client.retries import RetryPolicy, retry_after_s
from zoetrope.client.sse import EventParser, ServerEvent

POLICY = RetryPolicy(most=3, first_s=1.0, longest_s=5.0)


@pytest.mark.parametrize(("failures", "seconds"), [(1, 1), (2, 2), (3, 4), (4, 5), (400, 5)])
def test_pauses_double_up_to_the_longest(failures, seconds):
    assert POLICY.pause(failures, 0.0) == seconds
    assert POLICY.pause(failures, 1.0) == seconds * 0.75


@pytest.mark.parametrize(
    ("status", "headers", "repeatable", "pause"),
    [
        (503, {}, True, 1.0),
        (503, {}, False, 1.0),
        (500, {}, False, None),
        (500, {}, True, 1.0),
        (422, {}, True, None),
        (429, {"retry-after": "30"}, False, 30.0),
        (429, {"retry-after": "121"}, True, None),
        (429, {"retry-after": "Wed, 21 Oct 2015 07:28:10 GMT"}, True, 10.0),
        (429, {"retry-after": "soon"}, True, 1.0),
        (409, {"x-should-retry": "true"}, True, 1.0),
        (409, {"x-should-retry": "true"}, False, None),
        (503, {"x-should-retry": "false"}, True, None),
    ],
)
def test_answers_that_are_tried_again(status, headers, repeatable, pause):
    now = 1445412480.0
    assert POLICY.after_reply(status, headers, 1, 0.0, repeatable=repeatable, now=now) == pause
    assert POLICY.after_reply(status, headers, 4, 0.0, repeatable=repeatable, now=now) is None


def test_what_may_have_arrived_is_sent_again_only_where_that_is_safe():
    assert POLICY.after_break(1, 0.0, repeatable=False, sent=True) is None
    assert POLICY.after_break(1, 0.0, repeatable=False, sent=False) == 1.0
    assert POLICY.after_break(1, 0.0, repeatable=True, sent=True) == 1.0
    assert POLICY.after_break(4, 0.0, repeatable=True, sent=False) is None


def test_no_retry_after_is_none():
    assert retry_after_s({}, 0.0) is None


STREAM = (
    b'retry: 1000\n\n: keep-alive\n\nid: 7\nevent: state\ndata: {"a": "\xc3\xbc"}\n\n'
    b"event:progress\r\ndata:1\r\ndata: 2\r\n\r\ndata: cut"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_a_stream_is_the_same_events_however_it_is_cut(size):
    parser = EventParser()
    found = [one for at in range(0, len(STREAM), size) for one in parser.feed(STREAM[at : at + size])]
    assert found == [ServerEvent("state", '{"a": "ü"}', "7"), ServerEvent("progress", "1\n2", "")]


BODY = b'{"id": "evt_1", "type": "video.completed", "created_at": 1000, "data": {"id": "job-1", "state": "succeeded"}}'


def delivery(*secrets, at=1000):
    keys = [_parse("test", 1, secret) for secret in secrets]
    return {
        "Webhook-Id": "evt_1",
        "webhook-timestamp": str(at),
        "WEBHOOK-SIGNATURE": signatures(keys, "evt_1", at, BODY),
    }


def test_what_the_service_signs_is_verified():
    old, new = new_secret(), new_secret()
    for headers, secret in [
        (delivery(old), old),
        (delivery(new, old), old),
        (delivery(new, old), new),
        (delivery(old), [new, old]),
    ]:
        event = zoetrope.verify(BODY, headers, secret, now=1100)
        assert (event.type, event.data["id"], event.raw["id"]) == ("video.completed", "job-1", "evt_1")


def test_what_others_sign_is_refused():
    secret = new_secret()
    good = delivery(secret)
    bad = [
        (BODY + b" ", good, secret, 1000, "no signature"),
        (BODY, good, new_secret(), 1000, "no signature"),
        (BODY, {**good, "Webhook-Id": "evt_2"}, secret, 1000, "no signature"),
        (BODY, {**good, "WEBHOOK-SIGNATURE": "v1,ü"}, secret, 1000, "no signature"),
        (
            BODY,
            {**good, "WEBHOOK-SIGNATURE": good["WEBHOOK-SIGNATURE"].replace("v1,", "v0,")},
            secret,
            1000,
            "no signature",
        ),
        (BODY, good, secret, 1301, "more than 300 s from now"),
        (BODY, good, secret, 699, "more than 300 s from now"),
        (BODY, {**good, "webhook-timestamp": "soon"}, secret, 1000, "no number"),
        (BODY, {"webhook-id": "evt_1"}, secret, 1000, "no header webhook-timestamp"),
        (BODY, good, "whsec_?", 1000, "must be whsec_"),
        (BODY, good, [], 1000, "no secret"),
    ]
    for body, headers, key, now, why in bad:
        with pytest.raises(zoetrope.BadSignature, match=why):
            zoetrope.verify(body, headers, key, now=now)
