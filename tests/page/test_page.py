"""The web page as its users have it: draw, watch, play, go on from there; and what happens when something goes wrong."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect

from bench.harness.process import Process, end_all, free_port
from tests.page.waiting import until
from tests.support.waiting import wait_until
from tests.testing.service import Service

SLOW = {"fake": "slow", "fake_step_s": 0.25}


def draw(page: Page, prompt: str) -> str:
    """Type a prompt and press Enter; the job's id."""
    page.locator("#prompt").fill(prompt)
    with page.expect_response(
        lambda answer: answer.request.method == "POST" and answer.url.endswith("/v1/jobs")
    ) as sent:
        page.locator("#prompt").press("Enter")
    job = sent.value.json()
    expect(page.locator(f'.stage[data-job="{job["id"]}"]')).to_be_visible()
    return job["id"]


def with_script(page: Page, **fields: Any) -> None:
    """Have every request of the page bring these fields, as those that tell the engine fake what to do."""

    def add(route: Route) -> None:
        if route.request.method != "POST":
            route.continue_()
            return
        route.continue_(post_data=json.dumps({**json.loads(route.request.post_data or "{}"), **fields}))

    page.route(re.compile(r"/v1/jobs$"), add)


def test_a_prompt_and_enter_then_play_it_and_draw_it_again(page: Page, service: Service) -> None:
    page.locator(".settings select").first.wait_for()
    first = draw(page, "a red circle moving right")
    expect(page.locator(".stage")).to_have_attribute("data-state", "succeeded")
    until(page, "document.querySelector('.stage video')?.currentTime > 0")
    page.locator(".stage .frame button").click()
    sheet = page.locator("dialog.sheet")
    expect(sheet.locator("video")).to_be_visible()
    sheet.get_by_role("button", name="Pause").click()
    before = page.evaluate("document.querySelector('.sheet video').currentTime")
    sheet.get_by_role("button", name="One frame on").click()
    until(page, f"document.querySelector('.sheet video').currentTime !== {before}")
    seed = service.job(first)["spec"]["seed"]
    sheet.get_by_role("button", name="Again with this seed").click()
    expect(page.locator("[data-field=seed]")).to_have_value(str(seed))
    second = draw(page, page.locator("#prompt").input_value())
    expect(page.locator(".stage")).to_have_attribute("data-state", "succeeded")
    made = [service.job(job_id) for job_id in (first, second)]
    assert second != first
    assert made[0]["spec"] == made[1]["spec"]


def test_it_is_shown_while_it_is_drawn_and_a_cancel_frees_the_worker(page: Page, service: Service) -> None:
    with_script(page, extra=SLOW, num_inference_steps=40)
    page.locator(".settings select").first.wait_for()
    page.evaluate(
        """() => {
          window.grown = [];
          new MutationObserver(() => {
            const bar = document.querySelector('[role=progressbar]');
            if (bar) window.grown.push(Number(bar.getAttribute('aria-valuenow')));
          }).observe(document.body, { subtree: true, attributes: true, childList: true });
        }"""
    )
    job = draw(page, "something slow")
    until(page, "document.querySelector('.stage img.preview')?.naturalWidth > 0")
    expect(page.locator(".stage .status")).to_contain_text(re.compile(r"drawing · step \d+ of 40"))
    expect(page.locator('.rows [aria-current="true"]')).to_contain_text("something slow")
    page.locator(".stage").get_by_role("button", name="Cancel").click()
    expect(page.locator(".stage .status")).to_contain_text("Cancelled: the GPU was free after")
    assert service.job(job)["state"] == "cancelled"
    grown = page.evaluate("window.grown")
    assert grown == sorted(grown)
    assert grown[-1] > 0


def test_several_at_once_have_seeds_one_after_the_other(page: Page, service: Service) -> None:
    page.locator("[data-field=seed]").fill("70")
    page.get_by_label("How many").fill("3")
    page.locator("#prompt").fill("three of them")
    page.locator("#prompt").press("Enter")
    expect(page.locator(".toast")).to_contain_text("3 in the queue")

    def seeds() -> list[int]:
        found = service.http.get("/v1/jobs", params={"prompt": "three of them"}).json()["data"]
        return sorted(job["spec"]["seed"] for job in found if job["state"] == "succeeded")

    wait_until(lambda: seeds() == [70, 71, 72], 60, "three jobs, with three seeds")


def test_jobs_submitted_together_are_shown_together(page: Page, service: Service) -> None:
    page.get_by_label("How many").fill("3")
    page.locator("#prompt").fill("three side by side")
    page.locator("#prompt").press("Enter")
    tiles = page.locator(".strip button")
    expect(tiles).to_have_count(3)
    expect(tiles.first).to_have_attribute("aria-pressed", "true")
    until(page, "[...document.querySelectorAll('.strip img')].filter((one) => one.naturalWidth).length === 3")
    tiles.nth(2).click()
    expect(page.locator(".stage")).to_have_attribute("data-state", "succeeded")
    expect(tiles.nth(2)).to_have_attribute("aria-pressed", "true")
    third = page.locator(".stage").get_attribute("data-job")
    with page.expect_download() as saved:
        page.locator(".stage").get_by_role("link", name="Download").click()
    assert saved.value.suggested_filename == f"{third}.mp4"
    page.locator(".stage").get_by_role("button", name="Use as first picture").click()
    expect(page.locator(".held img")).to_be_visible()
    page.get_by_role("button", name="Remove First picture").click()


def test_a_request_waits_for_the_picture_that_is_being_uploaded(page: Page, service: Service) -> None:
    held: list[Route] = []
    page.route(re.compile(r"/v1/files$"), lambda route: held.append(route))
    data = io.BytesIO()
    Image.new("RGB", (64, 64), "green").save(data, "PNG")
    picture = {"name": "green.png", "mimeType": "image/png", "buffer": data.getvalue()}
    page.locator("input[data-role=image]").set_input_files(picture)
    page.locator("#prompt").fill("from a picture that comes late")
    page.locator("#prompt").press("Enter")
    expect(page.get_by_role("button", name="Sending…")).to_be_visible()
    until(page, "true")  # the browser's news are heard while it is asked
    assert held
    held[0].continue_()
    expect(page.locator(".stage")).to_have_attribute("data-state", "succeeded")
    job = service.job(page.locator(".stage").get_attribute("data-job"))
    assert job["spec"]["image"].startswith("file-")
    page.unroute(re.compile(r"/v1/files$"))
    page.get_by_role("button", name="Remove First picture").click()
    page.locator("input[data-role=image]").set_input_files({**picture, "name": "song.ogg", "mimeType": "audio/ogg"})
    expect(page.locator(".fault")).to_contain_text("song.ogg is no picture")


def test_a_picture_is_uploaded_and_drawn_from(page: Page, service: Service) -> None:
    data = io.BytesIO()
    Image.new("RGB", (64, 64), "blue").save(data, "PNG")
    picture = {"name": "blue.png", "mimeType": "image/png", "buffer": data.getvalue()}
    page.locator("input[data-role=image]").set_input_files(picture)
    expect(page.locator(".held img")).to_be_visible()
    expect(page.locator(".held.sending")).to_have_count(0)
    job = draw(page, "from a picture")
    expect(page.locator(".stage")).to_have_attribute("data-state", "succeeded")
    assert service.job(job)["spec"]["image"].startswith("file-")
    page.get_by_role("button", name="Remove First picture").click()
    expect(page.locator(".held")).to_have_count(0)


def drop(page: Page, target: Locator, *files: Path) -> None:
    """Drag files from elsewhere over an element and let them go there, as the mouse does."""
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    assert box is not None
    at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
    browser = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.send("Input.dispatchDragEvent", {"type": kind, **at, "data": data})
    browser.detach()


def test_a_picture_is_dropped_where_it_belongs_and_a_result_on_the_form(
    page: Page, service: Service, tmp_path: Path
) -> None:
    picture, text = tmp_path / "green.png", tmp_path / "notes.txt"
    Image.new("RGB", (64, 64), "green").save(picture)
    text.write_text("no picture")
    page.locator(".settings select").first.wait_for()
    place = page.locator(".drop:has([data-role=image])")
    drop(page, place, text)
    expect(page.locator(".fault")).to_contain_text("notes.txt is no picture")
    drop(page, place, picture)
    expect(page.locator(".held img")).to_have_attribute("alt", "green.png")
    expect(page.locator(".held.sending")).to_have_count(0)
    job = draw(page, "from a picture that was dropped")
    expect(page.locator(".stage")).to_have_attribute("data-state", "succeeded")
    spec = service.job(job)["spec"]
    assert service.http.get(f"/v1/files/{spec['image']}/content").content == picture.read_bytes()
    # Elsewhere on the form it is no first picture but a result, whose settings are read.
    made = service.finished(service.post(prompt="dropped on the form", seed=78, output="image")["id"])
    result = tmp_path / "result.png"
    result.write_bytes(service.http.get(made["artefacts"][0]["url"]).content)
    drop(page, page.locator("#prompt"), result)
    expect(page.locator("#prompt")).to_have_value("dropped on the form")
    expect(page.locator("[data-field=seed]")).to_have_value("78")


def test_a_picture_is_pasted_from_the_clipboard(page: Page, service: Service) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(".settings select").first.wait_for()
    page.evaluate(
        """async () => {
          const canvas = Object.assign(document.createElement('canvas'), { width: 64, height: 64 });
          canvas.getContext('2d').fillRect(0, 0, 64, 64);
          const blob = await new Promise((done) => canvas.toBlob(done, 'image/png'));
          await navigator.clipboard.write([new ClipboardItem({ 'image/png': blob })]);
        }"""
    )
    page.locator("#prompt").focus()
    page.keyboard.press("Control+v")
    expect(page.locator(".held img")).to_be_visible()
    expect(page.locator(".held.sending")).to_have_count(0)
    job = draw(page, "from a picture that was pasted")
    expect(page.locator(".stage")).to_have_attribute("data-state", "succeeded")
    assert service.job(job)["spec"]["image"].startswith("file-")


def test_the_request_is_shown_for_programs(page: Page, service: Service) -> None:
    page.locator("#prompt").fill("it's a cat")
    page.locator("[data-field=seed]").fill("7")
    page.get_by_text("This request as").click()
    curl, python, command = (page.locator(".snippet pre").nth(at).inner_text() for at in range(3))
    shown = subprocess.run(
        ["bash", "-c", curl.replace("curl ", "printf '%s\\n' ", 1)], capture_output=True, text=True, check=True
    )
    fields = json.loads(shown.stdout.splitlines()[-1])
    assert (fields["prompt"], fields["seed"]) == ("it's a cat", 7)
    compile(python, "snippet", "exec")
    assert f'zoetrope.Client("http://127.0.0.1:{service.port}/")' in python
    assert "--seed 7" in command
    assert "zoetrope generate" in command


def test_a_result_fills_the_form_and_its_request_is_shown(open_page: Callable[..., Page], service: Service) -> None:
    fields = {"prompt": "to be read back", "seed": 77, "width": 96, "height": 64, "output": "image"}
    job = service.finished(service.post(**fields)["id"])
    file = service.http.get(job["artefacts"][0]["url"]).content
    page = open_page("#/create")
    page.locator(".settings select").first.wait_for()
    page.get_by_text("More settings").click()
    chooser = page.get_by_label("Settings from a result")
    chooser.set_input_files({"name": "out.png", "mimeType": "image/png", "buffer": file})
    expect(page.locator("#prompt")).to_have_value("to be read back")
    expect(page.locator("[data-field=seed]")).to_have_value("77")
    expect(page.get_by_label("Size", exact=True)).to_have_value("custom")
    expect(page.get_by_label("Kind", exact=True)).to_have_value("image")
    # What the model does by itself is no setting that is missing.
    expect(page.locator(".notes")).to_have_text("These are the settings of that file.")
    chooser.set_input_files({"name": "other.png", "mimeType": "image/png", "buffer": b"no picture"})
    expect(page.locator(".fault")).to_contain_text("file")
    page.goto(page.url.partition("#")[0] + f"#/job/{job['id']}")
    page.locator(".sheet").get_by_text("This request as").click()
    expect(page.locator(".sheet .snippet pre").last).to_contain_text("--seed 77")


def test_what_is_wrong_is_said_in_words(page: Page) -> None:
    page.get_by_label("Size", exact=True).select_option("custom")
    page.get_by_label("Width", exact=True).fill("99999")
    page.locator("#prompt").fill("of a great width")
    page.locator("#prompt").press("Enter")
    expect(page.locator(".fault")).to_contain_text("99999")
    with_script(page, extra={"fake": "invalid"}, size="64x64", width=64)
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator(".stage [role=alert]")).to_contain_text("The model does not take these values")
    expect(page.locator(".stage [role=alert]")).to_contain_text("told to refuse it")


def test_what_is_wrong_is_said_in_the_readers_language_beside_the_services_words(
    open_page: Callable[..., Page], service: Service
) -> None:
    page = open_page(locale="zh-CN")
    page.get_by_label("尺寸", exact=True).select_option("custom")
    page.get_by_label("宽", exact=True).fill("99999")
    page.locator("#prompt").fill("of a great width")
    page.locator("#prompt").press("Enter")
    refused = service.http.post("/v1/jobs", json={"prompt": "x", "size": "99999x64"}).json()["error"]
    expect(page.locator(".fault")).to_have_text(f"请修改“尺寸”。（服务原文：{refused['message']}）")
    page.route(re.compile(r"/v1/jobs$"), lambda route: route.fulfill(status=502, body="<html>bad gateway</html>"))
    page.get_by_role("button", name="生成", exact=True).click()
    expect(page.locator(".fault")).to_have_text("服务出错，请稍后重试；详情见服务日志。")


def test_a_job_that_waits_is_paused_and_goes_on(open_page: Callable[..., Page], service: Service) -> None:
    before = [service.post(extra=SLOW, num_inference_steps=200)["id"] for _ in range(2)]
    waiting = service.post(prompt="behind two others")["id"]
    page = open_page(f"#/job/{waiting}")
    status = page.locator(".sheet .status")
    expect(status).to_contain_text("waiting")
    page.locator(".sheet").get_by_role("button", name="Pause").click()
    expect(status).to_contain_text("paused")
    assert service.job(waiting)["state"] == "parked"
    page.locator(".sheet").get_by_role("button", name="Go on").click()
    expect(status).to_contain_text("waiting")
    for job in before:
        service.http.post(f"/v1/jobs/{job}/cancel")
    expect(page.locator(".sheet video")).to_be_visible()
    for job in before:
        service.finished(job)


def test_a_service_that_has_lost_its_broker_is_told(page: Page) -> None:
    lost = {
        "error": {"message": "the broker did not answer within 10 s", "code": "unavailable", "type": "server_error"}
    }
    page.route(re.compile(r"/v1/workers$"), lambda route: route.fulfill(status=503, json=lost))
    expect(page.locator(".banner")).to_be_visible()
    with page.expect_response(re.compile(r"/v1/jobs\?")):  # what still comes does not hide it
        page.get_by_role("link", name="Gallery").click()
    expect(page.locator(".banner")).to_be_visible()
    page.unroute_all()
    expect(page.locator(".banner")).to_be_hidden()


def test_it_goes_on_when_the_edge_was_killed(page: Page, service: Service) -> None:
    with_script(page, extra=SLOW, num_inference_steps=24)
    page.locator(".settings select").first.wait_for()
    job = draw(page, "over a restart")
    expect(page.locator(".stage")).to_have_attribute("data-state", "running")
    service.kill("edge")
    expect(page.locator(".banner")).to_be_visible()
    service.start("edge")
    expect(page.locator(".banner")).to_be_hidden()
    expect(page.locator(".stage")).to_have_attribute("data-state", "succeeded")
    assert service.job(job)["attempts"] == 1


def test_the_workers_are_shown_and_one_is_drained_only_when_asked_twice(
    open_page: Callable[..., Page], service: Service
) -> None:
    page = open_page("#/workers")
    expect(page.locator(".worker")).to_have_count(2)
    expect(page.locator(".worker").first).to_contain_text("idle")
    expect(page.locator(".charts .chart")).to_have_count(4)
    page.locator(".worker").first.get_by_role("button", name="Drain").click()
    page.get_by_role("button", name="No", exact=True).click()
    states = [worker["state"] for worker in service.http.get("/v1/workers").json()["data"]]
    assert states == ["idle", "idle"]


def test_what_was_used_is_shown_by_day_model_and_key(open_page: Callable[..., Page], service: Service) -> None:
    service.finished(service.post(prompt="counted", output="image")["id"])
    page = open_page("#/workers")
    used = page.locator(".used")
    expect(used.locator(".columns rect").first).to_be_attached()
    for by, name in (("Model", "fake"), ("Key", "without a key")):
        used.get_by_role("button", name=by, exact=True).click()
        row = used.locator("tbody tr", has_text=name)
        expect(row).to_have_count(1)
        said = service.http.get("/v1/usage", params={"by": by.lower()}).json()["data"][0]
        expect(row.locator("td").first).to_have_text(f"{said['succeeded']:,}")


def test_a_worker_that_drains_goes_back_to_work(open_page: Callable[..., Page], service: Service) -> None:
    job = service.post(extra=SLOW, num_inference_steps=2000)["id"]
    wait_until(lambda: service.job(job)["state"] == "running", 60, "a job that runs")
    page = open_page("#/workers")
    card = page.locator(f'.worker[data-worker="{service.job(job)["worker"]}"]')
    card.get_by_role("button", name="Drain").click()
    page.get_by_role("button", name="Yes").click()
    card.get_by_role("button", name="Back to work").click()
    expect(card.locator(".badge")).to_have_text("busy")
    service.http.post(f"/v1/jobs/{job}/cancel")
    service.finished(job)


@pytest.fixture(scope="module")
def guarded(service: Service) -> Iterator[tuple[int, str]]:
    """(the port of a second edge over the same broker, which asks for keys; a key)."""
    file = service.home / "keys.jsonl"
    command = [sys.executable, "-m", "http_edge", "keys", "add", "red", "--keys-file", str(file)]
    key = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout.strip()
    port = free_port()
    words = [
        "http_edge",
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
        "--home",
        str(service.home / "z"),
        "--keys-file",
        str(file),
    ]
    edge = Process(*words, log=service.home / "guarded.log", environ={**os.environ})
    yield port, key
    assert not end_all([edge], 60)


def test_with_keys_it_asks_once_and_shows_media_with_the_key(
    open_page: Callable[..., Page], service: Service, guarded: tuple[int, str]
) -> None:
    port, key = guarded

    def is_up() -> bool:
        return "ready" in (service.home / "guarded.log").read_text()

    wait_until(is_up, 60, "the edge with keys")
    page = open_page(port=port)
    page.locator("#key").fill("zk_wrong")
    page.locator("#key").press("Enter")
    expect(page.get_by_role("alert").filter(has_text="not known")).to_be_visible()
    page.locator("#key").fill(key)
    page.locator("#key").press("Enter")
    page.locator(".settings select").first.wait_for()
    draw(page, "with a key")
    expect(page.locator(".stage")).to_have_attribute("data-state", "succeeded")
    until(page, "document.querySelector('.stage video')?.currentTime > 0")
    assert page.locator(".stage video").get_attribute("src").startswith("blob:")
    page.keyboard.press("Escape")
    page.goto(f"http://127.0.0.1:{port}/#/gallery")
    until(page, "document.querySelector('.cell img')?.naturalWidth > 0")
    assert page.evaluate("localStorage.getItem('zoetrope.key')") is None
    page.get_by_role("button", name="Forget the key").click()
    expect(page.locator("#key")).to_be_visible()
