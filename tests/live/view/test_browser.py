"""The page in Chromium."""

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.frames.base import Frame, PixelFormat
from edge.live.deployment import Deployment
from edge.live.view import state as state_module
from edge.live.view.output import View
from edge.measure.power.base import RailMeter, Total
from tests.support.commands import TIMEOUT_S, wait_until
from tests.support.observations import observation
from tests.support.outputs import event, opened
from tests.support.view import running

pytestmark = pytest.mark.services

SOURCE = "test://?size=320x240&rate=30"
VIEWERS, PICTURES = 50, 10
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1440, "height": 900}
TOKEN = "correct horse battery"


class StillSource:
    """A picture that does not change, thirty times a second."""

    is_live, frames = True, None

    def __init__(self) -> None:
        self._closed = threading.Event()
        self._pixels = cv2.resize(np.eye(8, dtype=np.uint8) * 200, (256, 256))

    def read(self, out: Frame | None) -> Frame | None:
        return None if self._closed.wait(1 / 30) else Frame(self._pixels, PixelFormat.GRAY)

    def close(self) -> None:
        self._closed.set()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    assert program, "apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def tab(chromium: Any, view: View, **options: Any) -> Iterator[Any]:
    """Open the page; it must neither raise nor violate the content security policy."""
    context = (
        chromium.new_context(viewport=DESKTOP, **options)
        if "viewport" not in options
        else chromium.new_context(**options)
    )
    page, problems = context.new_page(), []
    page.set_default_timeout(1000 * TIMEOUT_S)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if "Policy" in message.text else None)
    page.goto(view.name)
    yield page
    context.close()
    assert not problems


def pixels(page: Any) -> str:
    """Return the picture on the page, once there is one."""
    page.wait_for_selector("canvas[data-attention]")
    return str(page.evaluate("document.querySelector('canvas').toDataURL()"))


def legend(page: Any) -> str:
    return str(page.inner_text("#chart-shares .legend"))


def test_the_picture_changes_with_its_answer(chromium: Any, deployment: Deployment) -> None:
    with running(deployment, SOURCE) as view, tab(chromium, view) as page:
        first = pixels(page)
        wait_until(lambda: pixels(page) != first, "another picture")
        assert page.inner_text(".label") in deployment.bundle.manifest.labels
        assert page.inner_text(".exit").startswith("exit ")
        assert page.inner_text("#connection") == "live"


def test_a_key_switches_the_overlay(chromium: Any, deployment: Deployment) -> None:
    with running(deployment, StillSource()) as view, tab(chromium, view) as page:
        plain = pixels(page)
        page.keyboard.press("a")
        page.wait_for_selector("canvas[data-attention=shown]")
        assert pixels(page) != plain
        page.keyboard.press("a")
        page.wait_for_selector("canvas[data-attention=hidden]")
        assert pixels(page) == plain


def test_the_slider_moves_the_exit_shares_by_keyboard(chromium: Any, deployment: Deployment) -> None:
    with running(deployment, SOURCE) as view, tab(chromium, view) as page:
        page.focus("#candidate")
        for key, exit_index, index in (("Home", 2, 0), ("End", 0, 2)):
            page.keyboard.press(key)
            wait_until(lambda: deployment.candidate_index == index, "the candidate")  # noqa: B023
            wait_until(lambda: f"exit {exit_index}100 %" in legend(page).replace("\n", ""), "the shares")  # noqa: B023
        assert page.get_attribute("#candidate", "max") == "2"
        assert page.get_attribute("#candidate", "aria-valuetext") == "candidate 3 of 3"


def test_a_wrong_token_is_refused_and_the_right_one_opens_the_page(
    chromium: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_VIEW_TOKEN", TOKEN)
    with opened(View("127.0.0.1", 0, timeout_s=5)) as view, tab(chromium, view) as page:
        for token, text in (("wrong", "wrong token"), (TOKEN, "live")):
            page.goto(view.name)
            assert page.url == f"{view.name}/login"
            page.fill("#token", token)
            page.keyboard.press("Enter")
            page.wait_for_selector(f"text={text}")
        assert TOKEN not in page.url
        assert TOKEN not in json.dumps(page.context.cookies())


def test_a_foreign_page_cannot_connect(chromium: Any, view: View, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<title>foreign</title>")
    server = HTTPServer(("127.0.0.1", 0), lambda *parts: SimpleHTTPRequestHandler(*parts, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
        script = """url => new Promise(done => {
            const socket = new WebSocket(url);
            socket.onopen = () => done("open"); socket.onerror = () => done("refused");
        })"""
        assert page.evaluate(script, view.name.replace("http", "ws") + "/ws") == "refused"
        fetched = "url => fetch(url, {method: 'PUT', body: '{\"index\": 0}'}).then(() => 'read', () => 'refused')"
        assert page.evaluate(fetched, view.name + "/api/candidate") == "refused"
        page.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_fifty_viewers_see_pictures_that_were_encoded_once(chromium: Any, deployment: Deployment) -> None:
    with running(deployment, SOURCE) as view, tab(chromium, view) as page:
        pixels(page)
        with ThreadPoolExecutor(1) as pool:  # Playwright's event loop runs in this thread
            url = view.name.replace("http", "ws") + "/ws"
            frames = pool.submit(lambda: asyncio.run(_watch(url, VIEWERS - 1))).result(TIMEOUT_S)
        assert all(sorted(set(each)) == each and len(each) == PICTURES for each in frames)
        shared = set.union(*map(set, frames))
        assert len(shared) < 4 * PICTURES, "viewers of one size share pictures"
        first = pixels(page)
        wait_until(lambda: pixels(page) != first, "another picture")


async def _watch(url: str, viewers: int) -> list[list[int]]:
    """Return the frames that each of some viewers sees."""
    from websockets.asyncio.client import connect

    from tests.support.view import split_picture

    async def watch() -> list[int]:
        frames: list[int] = []
        async with connect(url, compression=None, max_size=None, proxy=None) as socket:
            await socket.send('{"next": 0, "size": 320}')
            while len(frames) < PICTURES:
                message = await asyncio.wait_for(socket.recv(), TIMEOUT_S)
                if isinstance(message, bytes):
                    frames.append(split_picture(message)[0]["frame"])
                    await socket.send('{"next": 0, "size": 320}')
        return frames

    return await asyncio.gather(*(watch() for _ in range(viewers)))


def test_the_power_chart_names_its_scope_and_an_event_is_shown_once(
    chromium: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = RailMeter("meter", "power_mw", {"in": lambda: 5000.0}, Total(("in",), "the module's input"))
    monkeypatch.setattr(state_module, "total_meter", lambda: meter)
    with opened(View("127.0.0.1", 0, timeout_s=5)) as view:
        view.write([event("7"), observation(0)])
        with tab(chromium, view) as page:
            assert "the module's input" in page.inner_text("#chart-power figcaption")
            view._server.call(view._announce, [], view._state.events())
            view.write([event("3")])
            page.wait_for_selector("text=entered 3")
            assert page.locator("#events li").count() == 2


def test_the_page_reconnects_after_a_restart(chromium: Any, deployment: Deployment) -> None:
    with running(deployment, SOURCE) as view:
        port = int(view.name.rpartition(":")[2])
        context = tab(chromium, view)
        page = context.__enter__()
        pixels(page)
    page.wait_for_selector("text=connection lost")
    with running(deployment, SOURCE, port=port):
        page.wait_for_selector("#connection.live")
        first = pixels(page)
        wait_until(lambda: pixels(page) != first, "another picture")
        context.__exit__(None, None, None)


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_everything_fits_both_screens_in_both_themes(
    chromium: Any, deployment: Deployment, viewport: Any, colours: str
) -> None:
    with running(deployment, SOURCE, "test://?size=240x320&rate=30") as view:
        view.write([event("7", source=SOURCE)])
        with tab(chromium, view, viewport=viewport, color_scheme=colours) as page:
            pixels(page)
            page.wait_for_selector("#chart-losses")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.locator(".camera").count() == 2
            assert "entered 7" in page.inner_text("#events")
            style = "getComputedStyle(document.body)"
            back, text = (
                page.evaluate(f"{style}.{key}.match(/\\d+/g).map(Number)") for key in ("backgroundColor", "color")
            )
            assert (sum(back) < sum(text)) == (colours == "dark")
