"""
The report in a real browser: it opens from a file, without a network and without a complaint.

A page that forbids itself everything but its own style and pictures complains in the console of whatever it lacks, so
an empty console says that nothing was asked of another place.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from pipelines.engine.monitoring.report import report
from pipelines.engine.store.store import Store
from tests.pipelines.engine.monitoring.test_report import RUN, whole
from tests.pipelines.engine.recorded import recorded

pytestmark = pytest.mark.services
LIGHT, DARK = "--blink-settings=preferredColorScheme=1", "--blink-settings=preferredColorScheme=0"


class Seen(NamedTuple):
    """What a browser made of a page."""

    dom: str
    console: list[str]
    asked: set[str]
    """addresses beside the page's own"""


def chromium(folder: Path, page: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Opens a page without a window; no name is found and nothing is fetched in the background."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert browser, "these tests need Chromium: apt-get install chromium"
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    quiet += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    quiet += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}"]
    words = [browser, *quiet, "--enable-logging=stderr", *more, page.as_uri()]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)


def opened(folder: Path, html: str) -> Seen:
    page, log = folder / "page.html", folder / "net.json"
    page.write_text(html)
    ended = chromium(folder, page, "--dump-dom", f"--log-net-log={log}")
    console = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
    return Seen(ended.stdout, console, _asked(log))


def _asked(log: Path) -> set[str]:
    """The addresses that a page asked for, in Chromium's own log of its network."""
    events = json.loads(log.read_text())["events"]
    found = {event.get("params", {}).get("url", "") for event in events}
    own = ("file:", "data:", "chrome", "devtools:", "blob:")
    google = re.compile(r"https?://([\w-]+\.)*(google|googleapis|gstatic)\.com")  # the browser's own, not the page's
    return {url for url in found if url and not url.startswith(own) and not google.match(url)}


def pixels(folder: Path, page: Path, width: int, *more: str) -> np.ndarray:
    picture = folder / "picture.png"
    chromium(folder, page, f"--window-size={width},1600", f"--screenshot={picture}", *more)
    return np.asarray(Image.open(picture).convert("RGB")).astype(int)


@pytest.fixture
def html(own_store: Path) -> str:
    store = Store(str(own_store))
    recorded(store, whole)
    return report(store, RUN)


def test_it_opens_without_a_complaint_and_asks_nothing_of_another_place(html, tmp_path):
    seen = opened(tmp_path, html)

    assert seen.console == []
    assert seen.asked == set()
    assert 'class="node done"' in seen.dom
    assert seen.dom.rstrip().endswith("</html>")


@pytest.mark.parametrize(
    "bad",
    ["<script>document.title = 'ran'</script>", "<img src='https://example.org/a.png'>", "<img src=x onerror='f()'>"],
)
def test_such_a_browser_would_complain(html, tmp_path, bad):
    """What the test above would see of a page that is not as it should be; and the page stays as it was."""
    seen = opened(tmp_path, html.replace("<footer>", f"{bad}<footer>"))

    assert seen.console != []
    assert "<title>ran</title>" not in seen.dom


def test_light_and_dark_follow_the_reader(html, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(html)
    light, dark = (pixels(tmp_path, page, 1200, scheme) for scheme in (LIGHT, DARK))

    assert np.median(light) > 240
    assert np.median(dark) < 40
    for shown in (light, dark):
        assert shown.std() > 10  # something is drawn on it


def test_on_a_narrow_screen_nothing_hangs_over_the_edge(html, tmp_path):
    """The page itself does not scroll sideways: its right margin is empty from top to bottom."""
    page = tmp_path / "page.html"
    page.write_text(html)
    shown = pixels(tmp_path, page, 500, LIGHT)

    assert (shown[:, -8:] == shown[0, -1]).all()


def test_it_is_printed(html, tmp_path):
    page, printed = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(html)
    chromium(tmp_path, page, f"--print-to-pdf={printed}")

    assert printed.read_bytes().startswith(b"%PDF")
    assert printed.stat().st_size > 10_000
