"""
The report: one file with everything that the store knows of a run, and nothing from anywhere else.
"""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.artifacts import at_least
from pipelines.engine.execution import scheduler_loop as runner_module
from pipelines.engine.execution.context import png
from pipelines.engine.monitoring.report import HEAVIEST, WIDEST, data_uri, report, write_report
from pipelines.engine.monitoring.run_view import Step
from pipelines.engine.monitoring.svg import graph
from pipelines.engine.store.store import Store
from tests.pipelines.engine.recorded import change, held, recorded
from tests.pipelines.engine.toys import broken, drawn, flaky, number, promoted, scored, talk, total, trained

RUN = "20260101-000000-aa01"
EVIL = '<script>alert("1")</script>'


@pytest.fixture
def store(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(runner_module.time, "sleep", lambda _: None)
    return Store(str(own_store))


class Page(HTMLParser):
    """The tags of a page, its texts, and whether every tag is closed."""

    VOID = {"meta", "link", "img", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str, kind: str = "") -> int:
        return sum(name == tag and kind in (own.get("class") or "").split() + [""] for name, own in self.tags)


def page(store: Store, run: str = RUN) -> Page:
    found = Page(report(store, run))
    assert found.open == []
    return found


def whole() -> None:
    """One of everything that a report shows."""
    scores = scored(trained(), accuracy=0.46)
    promoted(scores, name="furniture", gate=at_least(accuracy=0.4))
    drawn()
    talk()


def test_it_says_what_ran_how_long_what_came_of_it_and_how_to_repeat_it(store):
    recorded(store, whole)
    text = page(store).text

    for words in ("toy 2026-01-01 00:00 done", "steps run 5", "kept 0", "rayfield run toy", "size tiny", "python 3.11"):
        assert words in text, words
    assert "there was no result under this key" in text


def test_the_graph_has_a_node_for_every_step_and_an_edge_for_every_need(store):
    nodes = recorded(store, whole)
    found = page(store)

    assert found.count("g", "node") == len(nodes) == 5
    assert found.count("path", "edge") == sum(len(node["needs"]) for node in nodes) == 2


def test_the_graph_names_the_fold_of_a_step_however_long_its_title_is():
    picture = graph([Step("k", "evaluate pointnet, fold 2 of 5", "components.steps.evaluate:evaluate", ())])

    assert ">evaluate point… 2/5</text>" in picture
    assert "<title>evaluate pointnet, fold 2 of 5: waiting</title>" in picture


def test_every_link_leads_somewhere_on_the_page(store):
    recorded(store, whole)
    found = page(store)
    ids = {own["id"] for _, own in found.tags if "id" in own}
    links = {own["href"] for tag, own in found.tags if tag == "a"}

    assert len(links) == 5
    assert links <= {f"#{name}" for name in ids}


def test_the_timeline_has_a_bar_for_every_attempt(store):
    recorded(store, lambda: total([flaky(failures=2), number(1)]))
    found = page(store)

    assert found.count("rect", "bar") == 5
    assert found.count("rect", "failed") == 2
    assert "3 attempts" in found.text and "the network is gone" in found.text


def test_scores_have_their_errors_and_the_registered_version_its_evidence(store):
    recorded(store, whole)
    text = page(store).text

    assert "0.46 ± 0.04" in text
    assert "furniture version 3 champion models:/furniture/3" in text
    assert "accuracy 0.46 ± 0.04, at least 0.4 is asked met" in text


def test_a_version_that_was_not_promoted_says_why(store):
    gate = at_least(accuracy=0.9)
    recorded(store, lambda: promoted(scored(accuracy=0.3), name="furniture", gate=gate, verdict="REJECT"), code=3)
    text = page(store).text

    assert "rejected" in text and "refused" in text
    assert "at least 0.9 is asked missed" in text
    assert "the champion's is 0.5" in text


def test_training_and_validation_share_a_chart_and_trials_have_their_own(store):
    recorded(store, whole)
    found = page(store)
    titles = [own["aria-label"] for tag, own in found.tags if tag == "svg" and own["class"] == "chart"]

    assert titles == ["loss", "accuracy on val", "loss of the trials", "loss"]
    assert [own["points"].count(",") for tag, own in found.tags if tag == "polyline"][:2] == [20, 4]


def test_figures_are_in_the_page_and_of_a_long_series_a_few_moments(store):
    recorded(store, lambda: drawn(pictures=9))
    pictures = [own["src"] for tag, own in page(store).tags if tag == "img"]

    assert len(pictures) == 4
    for src in pictures:
        data = base64.b64decode(src.removeprefix("data:image/png;base64,"))
        assert Image.open(io.BytesIO(data)).size == (8, 8)


def test_a_large_figure_is_made_smaller(store):
    noise = np.random.default_rng(0).integers(0, 255, (900, 2000, 3), np.uint8)
    src = data_uri(png(noise))
    data = base64.b64decode(src.removeprefix("data:image/webp;base64,"))

    assert Image.open(io.BytesIO(data)).size[0] == WIDEST
    assert len(png(noise)) > HEAVIEST


def test_a_failed_step_shows_its_error_its_traceback_and_its_last_words(store):
    recorded(store, lambda: total([broken()]), code=1)
    found = page(store)

    assert found.text.count("a data error of two lines") >= 1
    assert "Traceback (most recent call last)" in found.text
    assert "a step that it needs failed" in found.text
    assert "last lines of its logs" in found.text


def test_what_was_kept_says_from_which_run_and_shows_what_that_run_said(store):
    recorded(store, whole)
    recorded(store, whole, "20260102-000000-bb02")
    found = page(store, "20260102-000000-bb02")

    assert f"kept from run {RUN}" in found.text
    assert found.count("svg", "chart") == 4
    assert found.count("img") == 1
    assert found.count("svg", "timeline") == 0


def test_a_run_that_goes_on_has_a_report_too(store):
    recorded(store, whole)
    change(store, RUN, "ended", "code")
    store.lease(f"run-{RUN}")

    assert "running" in page(store).text


def test_words_of_people_are_never_markup(store):
    nodes = recorded(
        store,
        lambda: promoted(scored(), name=EVIL, gate=at_least(accuracy=0.4)),
        title=EVIL,
        parameters={EVIL: EVIL},
        command=f"rayfield run {EVIL}",
        environment={"host": EVIL},
    )
    found = page(store)

    assert found.count("script") == 0
    assert found.text.count(EVIL) >= 5
    assert "alert" not in re.sub(r"&lt;script&gt;.*?&lt;/script&gt;", "", report(store, RUN))
    assert EVIL in nodes[-1]["title"]


def test_it_asks_nothing_of_another_place(store):
    recorded(store, whole)
    html = report(store, RUN)

    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?\s*(?:https?:)?//""", html)
    assert "@import" not in html and "<script" not in html
    assert "default-src 'none'" in html


def test_secrets_are_kept_out(store, monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "hunter2hunter2")
    recorded(store, whole, parameters={"root": "s3://me:word@host/x", "api_key": "0a1b", "size": "hunter2hunter2"})
    html = report(store, RUN)

    for secret in ("hunter2hunter2", "me:word", "0a1b</dd>"):
        assert secret not in html, secret


def test_it_lies_beside_the_record(store):
    recorded(store, whole)
    name = write_report(store, RUN)

    assert name == f"runs/{RUN}/report.html"
    assert store.read(name).startswith(b"<!doctype html>")


@pytest.mark.parametrize("missing", ["command", "environment"])
def test_the_record_of_an_older_version_is_enough(store, missing):
    nodes = recorded(store, whole)
    change(store, RUN, missing, nodes=[{k: n[k] for k in ("key", "title", "step")} for n in nodes])

    assert page(store).count("g", "node") == 5


def test_what_a_step_read_that_is_in_no_key_is_named(store):
    (node,) = recorded(store, lambda: number(1))
    assert "Also read" not in page(store).text
    held(store, node["key"], also=["/etc/words", "the variable WORDS"])

    assert "Also read" in page(store).text and "/etc/words, the variable WORDS" in page(store).text
