"""The page in a real browser: headless Chromium, driven over the WebDriver protocol by plain HTTP."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from benchbd.report import board
from benchbd.report.wording import DASH

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium, chromium-driver)"
)
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
ESCAPE, ENTER, TAB = "\ue00c", "\ue007", "\ue004"
SCRIPT = "<script>window.hacked=1</script>"


class Browser:
    """The few WebDriver commands that these tests need."""

    def __init__(self, base: str, dark: bool = False) -> None:
        self.base = base
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--force-prefers-reduced-motion",
        ]
        options = {"binary": CHROMIUM, "args": flags}
        wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        self.base = f"{base}/session/{self.call('POST', '/session', {'capabilities': wanted})['sessionId']}"

    def call(self, method: str, path: str, body: object = None) -> object:
        data = None if method != "POST" else json.dumps(body if body is not None else {}).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def open(self, path) -> None:
        self.call("POST", "/url", {"url": "about:blank"})
        self.call("POST", "/url", {"url": path.as_uri()})

    def run(self, script: str, *given: object) -> object:
        return self.call("POST", "/execute/sync", {"script": script, "args": list(given)})

    def find(self, css: str) -> str:
        return self.call("POST", "/element", {"using": "css selector", "value": css})[ELEMENT]

    def click(self, css: str) -> None:
        self.call("POST", f"/element/{self.find(css)}/click")

    def text(self, css: str) -> str:
        return self.call("GET", f"/element/{self.find(css)}/text")

    def keys(self, *pressed: str) -> None:
        actions = [{"type": kind, "value": key} for key in pressed for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def size(self, width: int, height: int = 900) -> None:
        # Chromium's windows have a least width; a phone is emulated as its developer tools do it.
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.tools("Emulation.setDeviceMetricsOverride", metrics)

    def tools(self, command: str, params: dict[str, object]) -> object:
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def choose(self, kind: str, value: str) -> None:
        self.run(
            "const s = document.getElementById('f-' + arguments[0]); s.value = arguments[1];"
            "s.dispatchEvent(new Event('change', {bubbles: true}));",
            kind,
            value,
        )

    def column(self, css: str) -> list[str]:
        return self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText.trim())", css)

    def picture(self) -> bytes:
        return base64.b64decode(self.call("GET", "/screenshot"))


@pytest.fixture(scope="module")
def browser():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5) as answer:
                    if json.load(answer)["value"]["ready"]:
                        break
            except OSError:
                time.sleep(0.1)
        made = Browser(f"http://127.0.0.1:{port}")
        yield made
        made.call("DELETE", "")
    finally:
        driver.terminate()
        driver.wait(timeout=30)


@pytest.fixture(scope="module")
def page(tmp_path_factory, make_record):
    asr = {"none": 0.99, "lfd": 0.02, "ac": 0.9}
    records = []
    for dataset in ("cifar10", "gtsrb"):
        for a, attack in enumerate(("bn-g", "sig", "blend")):
            for defense, value in asr.items():
                for seed in (0, 1):
                    losses = {"train_loss": {"model": [2.3 * 0.8**e for e in range(20)]}}
                    ca = 0.95 - 0.01 * ((a + 1) % 3) - 0.001 * seed
                    records.append(make_record(attack, defense, seed, ca, value, dataset=dataset, notes=losses))
    records.append(make_record("cl", "none", status="oom", error=f"no memory {SCRIPT}"))
    records.append(make_record(SCRIPT, "none", 3, asr=0.9, matrix=SCRIPT))
    path = tmp_path_factory.mktemp("page") / "board.html"
    path.write_text(board(records, paper=True).render("html"))
    return path


@pytest.fixture
def shown(browser, page):
    browser.size(1400)
    browser.open(page)
    return browser


def test_a_script_in_a_name_is_text(shown):
    assert shown.run("return window.hacked === undefined")
    assert SCRIPT in shown.column("#list tbody th")
    assert any(SCRIPT in text for text in shown.column("section.table tbody th"))
    shown.choose("attack", SCRIPT)
    shown.click("#list tbody button.open")
    assert SCRIPT in shown.text("#record-title")
    assert shown.run("return window.hacked === undefined")


def test_all_records_are_listed_and_filters_narrow_them(shown):
    assert shown.text("#count") == "38 of 38 records."
    shown.choose("dataset", "gtsrb")
    assert shown.text("#count") == "18 of 38 records."
    shown.choose("defense", "lfd")
    shown.choose("seed", "1")
    assert shown.text("#count") == "3 of 38 records."
    assert set(shown.column("#list tbody td:nth-child(2)")) == {"lfd"}
    visible = "return [...document.querySelectorAll(arguments[0])].filter((e) => !e.hidden)"
    tables = shown.run(visible + ".map((e) => e.dataset.dataset || '')", "section.table")
    assert set(tables) == {"gtsrb", ""}
    heads = shown.run(visible + ".map((e) => e.innerText)", "section.table[data-dataset=gtsrb] th.group")
    assert heads == ["lfd"]
    shown.click("#filters button[type=reset]")
    time.sleep(0.2)
    assert shown.text("#count") == "38 of 38 records."


def test_headings_sort_up_down_and_back(shown):
    shown.choose("dataset", "gtsrb")
    table = "section[aria-labelledby=table-3] table"
    names = f"{table} tbody:first-of-type th"
    before = shown.column(names)
    head = f"{table} thead tr:last-child th:nth-child(2)"
    shown.click(f"{head} button")
    rising = shown.column(names)
    assert shown.run("return document.querySelector(arguments[0]).ariaSort", head) == "ascending"
    shown.click(f"{head} button")
    assert shown.column(names) == rising[::-1]
    assert rising != before or rising[::-1] != before
    shown.click(f"{head} button")
    assert shown.column(names) == before
    values = shown.run(
        "return [...document.querySelectorAll(arguments[0])].map((c) => Number(c.dataset.value))",
        f"{table} tbody:first-of-type td:nth-child(2)",
    )
    assert len(set(values)) == 3


def test_the_list_sorts_numbers_as_numbers_and_gaps_last(shown):
    head = "#list thead th:nth-child(7)"
    shown.click(f"{head} button")
    rising = shown.column("#list tbody td:nth-child(7)")
    numbers = [float(v) for v in rising if v != DASH]
    assert numbers == sorted(numbers)
    assert rising[-1] == DASH
    shown.click(f"{head} button")
    falling = shown.column("#list tbody td:nth-child(7)")
    assert [float(v) for v in falling if v != DASH] == sorted(numbers, reverse=True)
    assert falling[-1] == DASH


def test_a_cell_opens_its_records_and_closes_by_escape(shown):
    shown.click("section.table td button.open")
    assert shown.run("return document.getElementById('record').open")
    assert shown.column("#seeds button") == ["seed 0", "seed 1"]
    assert "seed 0" in shown.text("#record-title")
    shown.click("#seeds button:nth-child(2)")
    assert "seed 1" in shown.text("#record-title")
    text = shown.text("#detail")
    for part in ("Result", "Time", "train", "Train loss", "Parameters: attack", "Recipe", "Environment", "Processor X"):
        assert part in text
    assert "benchbd run - --filter id=" in text
    assert shown.run("return document.querySelectorAll('#detail svg polyline').length") == 1
    label = shown.run("return document.querySelector('#detail svg').getAttribute('aria-label')")
    assert label.startswith("Train loss by epoch: model from 2.3 to 0.0")
    shown.keys(ESCAPE)
    assert not shown.run("return document.getElementById('record').open")
    assert shown.run("return document.activeElement.matches('section.table td button.open')")


def test_failure_shows_its_reason(shown):
    shown.choose("attack", "cl")
    shown.click("#list tbody button.open")
    text = shown.text("#detail")
    assert "oom" in text
    assert f"no memory {SCRIPT}" in text


def test_a_record_has_an_address(browser, page, shown):
    shown.click("#list tbody button.open")
    address = shown.run("return location.hash")
    title = shown.text("#record-title")
    shown.run("location.reload()")
    time.sleep(0.5)
    assert shown.run("return location.hash") == address
    assert shown.text("#record-title") == title


def test_everything_is_reached_by_keyboard(shown):
    shown.choose("attack", "bn-g")
    seen = set()
    for _ in range(250):
        shown.keys(TAB)
        place = shown.run(
            "const e = document.activeElement; return e === document.body ? '' : e.id || e.className || e.tagName"
        )
        seen.add(place)
        if place == "open" and shown.run("return Boolean(document.activeElement.closest('#list'))"):
            break
    assert {"f-dataset", "f-attack", "sort", "open", "scroll", "skip"} <= seen
    shown.keys(ENTER)
    assert shown.run("return document.getElementById('record').open")
    for _ in range(12):
        shown.keys(TAB)
        inside = shown.run(
            "const e = document.activeElement; return e === document.body || Boolean(e.closest('dialog'))"
        )
        assert inside
    shown.keys(ESCAPE)
    assert shown.run("return document.activeElement.className") == "open"


def test_every_control_has_a_name(shown):
    nameless = shown.run(
        "return [...document.querySelectorAll('button, select, [role=region], [role=img], summary')]"
        ".filter((e) => !e.hidden && !e.ariaLabel && !e.innerText)"
        ".filter((e) => !e.getAttribute('aria-labelledby') && !e.labels?.length)"
        ".map((e) => e.outerHTML.slice(0, 80))"
    )
    assert nameless == []


@pytest.mark.parametrize("width", [320, 390, 768])
def test_narrow_screens_scroll_tables_and_not_the_page(shown, width):
    shown.size(width)
    assert shown.run("return document.documentElement.scrollWidth") <= width
    shown.run("document.querySelector('#list tbody button.open').click()")
    assert shown.run("return document.documentElement.scrollWidth") <= width
    assert shown.run("const d = document.getElementById('record'); return d.scrollWidth - d.clientWidth") <= 0


@pytest.mark.parametrize("width", [320, 700, 1000, 1300])
def test_an_open_record_fits_its_width(browser, tmp_path, make_record, width):
    stages = {"defense's own": 1.0, "feature-model": 60.0, "a-stage-with-a-rather-long-name": 90.0}
    time = {"total": 151.0, "own": 1.0, "stages": stages}
    detection = {"auroc": 0.5, "precision": 0.1, "recall": 0.1, "flagged_per_class": [100] * 43}
    given = {"defense": {"of": "lfd(teacher_epochs=40)"}}
    path = tmp_path / "one.html"
    record = make_record("bn-g", "random-filter", time=time, detection=detection, given=given, control=True)
    path.write_text(board([record]).render("html"))
    browser.size(width)
    browser.open(path)
    browser.run("document.querySelector('#list tbody button.open').click()")
    wide = "const d = document.getElementById('record'); return d.scrollWidth - d.clientWidth"
    assert browser.run(wide) <= 0


CONTRAST = r"""
const part = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const light = (colour) => {
  const [r, g, b] = colour.match(/[\d.]+/g).map((v) => part(Number(v) / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (e) => {
  for (; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (!/, 0\)$/.test(colour)) return colour;
  }
  return 'rgb(255, 255, 255)';
};
let least = 21;
for (const e of document.querySelectorAll('p, li, th, td, button, label, summary, h1, h2, h3, .extra')) {
  if (!e.innerText || !e.offsetParent) continue;
  const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
  least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
}
return [least, getComputedStyle(document.body).backgroundColor];
"""


def test_light_and_dark_can_be_read(shown):
    grounds = []
    for scheme in ("light", "dark"):
        shown.tools("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        least, ground = shown.run(CONTRAST)
        grounds.append(ground)
        # WCAG's level AA asks for 4.5.
        assert least >= 4.5, scheme
    shown.tools("Emulation.setEmulatedMedia", {"features": []})
    assert grounds[0] == "rgb(255, 255, 255)"
    assert grounds[1] != grounds[0]


def test_no_request_leaves_the_page_and_nothing_is_complained_of(shown):
    loaded = shown.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    loaded = [name for name in loaded if not name.startswith("data:")]
    assert loaded == []
    log = shown.call("POST", "/se/log", {"type": "browser"})
    assert [entry["message"] for entry in log if entry["level"] == "SEVERE"] == []


def test_long_lists_come_in_pages(browser, tmp_path, make_record):
    records = [make_record(f"a{i}", "none", 0) for i in range(450)]
    path = tmp_path / "long.html"
    path.write_text(board(records).render("html"))
    browser.size(1400)
    browser.open(path)
    rows = "return document.querySelectorAll('#list tbody tr').length"
    assert browser.run(rows) == 200
    assert browser.text("#count") == "450 of 450 records, the first 200 shown."
    browser.click("#more")
    browser.click("#more")
    assert browser.run(rows) == 450
    assert browser.run("return document.getElementById('more').hidden")


def test_screenshot_is_not_blank(shown):
    import io

    from PIL import Image

    colours = Image.open(io.BytesIO(shown.picture())).convert("RGB").getcolors(maxcolors=1 << 20)
    assert len(colours) > 50
