"""
Certificates: what is said of a score, beside what it is compared with.
"""

from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.cli.main import main
from pipelines.zoo import certificate
from pipelines.zoo.certificate import _learns, _tuned


@pytest.mark.parametrize("code", [1, 4, 5], ids=["failed", "infeasible", "interrupted"])
def test_a_run_that_did_not_end_well_is_certified_by_nothing(own_store: Path, tmp_path, monkeypatch, code):
    monkeypatch.setattr(certificate, "nodes", lambda *_: [{"key": "k", "step": "components.steps.train:train"}])
    monkeypatch.setattr(certificate, "execute", lambda *_, **__: code)
    monkeypatch.setattr(certificate, "_tests", lambda *_: {"ok": True, "found": "all passed"})
    ended = CliRunner().invoke(main, ["certify", "voxnet", "--out", str(tmp_path / "results")])

    assert ended.exit_code == code
    assert not (tmp_path / "results").exists()


def scored(step: str, name: str, accuracy: float) -> dict:
    scores = {"name": name, "goal": "accuracy", "test": {"accuracy": accuracy}, "error": {"accuracy": 0.1}, "count": 9}
    return {"step": f"components.steps.evaluate:{step}", "result": scores}


def test_a_classifier_must_beat_the_commonest_class():
    own, naive = scored("evaluate", "voxnet", 0.7), scored("baseline", "majority", 0.2)
    said = {"ok": True, "found": "accuracy 0.700 ± 0.100; majority 0.200 ± 0.100 (9 rows)"}

    assert _learns("voxnet", {"a": own, "b": naive}) == said
    assert not _learns("voxnet", {"a": scored("evaluate", "voxnet", 0.1), "b": naive})["ok"]


def test_a_family_without_a_naive_peer_says_so():
    said = _learns("gan", {"a": scored("evaluate", "gan", 0.7)})

    assert said["found"] == "accuracy 0.700 ± 0.100 (9 rows); no naive baseline: judged by accuracy alone"


def judged(step: str, weights: str, right: str) -> dict:
    """An evaluation whose test rows are parts by themselves; 1 is right."""
    values = [int(one) for one in right]
    without = [(sum(values) - value) / (len(values) - 1) for value in values]
    own = scored("evaluate", "voxnet", sum(values) / len(values))
    held = {"checkpoint": {"weights": weights}, "left_out": {"test": without}, "parts": {"test": "same"}}
    return {**own, "step": f"components.steps.{step}", "result": {**own["result"], **held}}


TUNE = {"step": "components.steps.tune:tune", "result": {}}


def test_what_a_search_chose_is_said_in_words_with_both_scores_and_their_difference():
    preset, tuned = judged("evaluate:evaluate", "a", "1100"), judged("evaluate:evaluate", "b", "1110")

    assert _tuned("voxnet", {"a": preset, "b": TUNE, "c": tuned}, ["trial 3 won: lr 0.02 for 0.01"]) == {
        "ok": True,
        "found": "trial 3 won: lr 0.02 for 0.01; test accuracy: preset 0.500 ± 0.100, tuned 0.750 ± 0.100, the "
        "difference +0.250 ± 0.250",
    }


def test_a_preset_that_won_is_said_to_have_won_and_no_second_score_is_made_up():
    same = judged("evaluate:evaluate", "a", "1100")
    found = _tuned("voxnet", {"a": same, "b": TUNE, "c": same}, ["the preset won, of 8 trials"])

    assert found == {"ok": True, "found": "the preset won, of 8 trials; test accuracy 0.500 ± 0.100"}


def test_a_search_that_did_not_end_is_no_point():
    assert not _tuned("voxnet", {"a": judged("evaluate:evaluate", "a", "1100")}, [])["ok"]
