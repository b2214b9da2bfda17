"""
Certificates: what is said of a score, beside what it is compared with.
"""

from pipelines.engine.certificate import _learns


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
