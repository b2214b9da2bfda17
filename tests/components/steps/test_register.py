"""
register: a transaction that can be repeated and killed anywhere, a gate, and a champion that is compared fairly.
"""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from safetensors.torch import save as save_tensors

from components.artifacts import Checkpoint, Scores, at_least, at_most
from components.errors import UsageError
from components.families.generative.gan import Gan
from components.families.recap.convnet import ConvNet
from components.family import Family
from components.runtime.objects import keep
from components.sources.folder import Folder
from components.step import Printing
from components.steps import register as module
from components.steps.evaluate import evaluate
from components.steps.preprocess import preprocess
from components.steps.register import promote, register, rollback
from components.steps.registry import packaging
from components.steps.registry import versions as registry
from components.steps.registry.inference import seal
from components.steps.registry.training_data import contents_of, seen
from components.steps.registry.versions import TrackingDown, cause, client, details, history, listing, registered
from components.table import Table
from components.training.learner import evaluate as measured
from pipelines.engine.execution.context import Running
from pipelines.engine.execution.retry import kind_of
from pipelines.engine.store.store import Store
from tests.meshes import small_pointnet, small_voxnet, write_shapes


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A model of this test's own: the database is everybody's."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)


def untrained(family: Family, table: Table, seed: int = 0, knows: Iterable[str] | None = None) -> Checkpoint:
    """A network of first weights that has seen the table's train and val, or what it `knows` instead."""
    torch.manual_seed(seed)
    adapted = family.adapt(table.open(family.representation(), "train"))
    net = adapted.network()
    weights = keep("weights", save_tensors({n: v.contiguous() for n, v in net.state_dict().items()}))
    own = seen(table, family.representation(), None) if knows is None else keep("seen.json", written(knows))
    return Checkpoint(adapted, table.set(family.representation()).adapted, weights, 1, 1, "cpu", 1, seen=own)


def written(contents: Iterable[str]) -> bytes:
    return json.dumps(sorted(contents)).encode()


@pytest.fixture
def scores(table: Table) -> Scores:
    return evaluate(untrained(small_pointnet(), table), table, on="here")


def scored(scores: Scores, accuracy: float, **more: Any) -> Scores:
    """The same model as if its test had gone so."""
    return replace(scores, test={**scores.test, "accuracy": accuracy}, **more)


def alias(name: str, alias: str) -> str | None:
    try:
        return str(client().get_model_version_by_alias(name, alias).version)
    except MlflowException:
        return None


def versions(name: str) -> int:
    return len(client().search_model_versions(f"name = '{name}'"))


def evidence(name: str, version: str) -> dict[str, Any]:
    return json.loads(client().get_model_version(name, version).tags["rayfield.evidence"])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """
    Models are written to folders of this test instead of MLflow's: for tests of what is decided.

    A version's source is its folder's name. MLflow's client would check a source; the store beneath it does not.
    """
    folder = tmp_path / "models"

    def write(api: Any, scores: Scores, checkpoint: Checkpoint, name: str, key: str) -> tuple[str, None]:
        if not (folder / key).exists():
            packaging.written(folder / key, checkpoint, key)
        return str(folder / key), None

    monkeypatch.setattr(module, "uploaded", write)
    monkeypatch.setattr(module, "folder_of", lambda uri: Path(client().get_model_version(*uri[8:].split("/")).source))
    monkeypatch.setattr(
        MlflowClient,
        "create_model_version",
        lambda self, name, source, run_id, tags, description, model_id: (
            self._get_registry_client().create_model_version(name, source, None, tags, None, description)
        ),
    )
    return folder


# What is decided


def test_the_first_version_that_passes_its_gate_is_champion(scores, name, quick):
    model = register(scored(scores, 0.6, error={"accuracy": 0.05}), name=name, gate=at_least(accuracy=0.5))

    assert (model.version, model.verdict, model.reasons) == ("1", "PROMOTE", ())
    assert alias(name, "champion") == "1"
    assert model.describe() == f"{name} version 1 (pointnet, accuracy 0.600 ± 0.050) became champion"


def test_a_version_that_misses_its_gate_is_registered_and_not_promoted(scores, name, quick):
    model = register(scored(scores, 0.4), name=name, gate=at_least(accuracy=0.5))

    assert model.verdict == "REJECT"
    assert model.reasons == ("accuracy is 0.4, at least 0.5 is asked",)
    assert alias(name, "champion") is None
    assert client().get_model_version(name, "1").tags["rayfield.verdict"] == "REJECT"


def test_registering_the_same_again_makes_no_second_version(scores, name, quick):
    first = register(scored(scores, 0.6), name=name)
    second = register(scored(scores, 0.6), name=name)

    assert first == second
    assert versions(name) == 1
    assert (alias(name, "champion"), alias(name, "previous")) == ("1", None)


def test_a_better_version_becomes_champion_and_the_old_one_previous(scores, name, quick):
    register(scored(scores, 0.6), name=name)
    model = register(scored(scores, 0.7), name=name)

    assert (model.version, model.verdict) == ("2", "PROMOTE")
    assert (alias(name, "champion"), alias(name, "previous")) == ("2", "1")


def test_a_worse_version_on_the_same_test_assets_is_held(scores, name, quick):
    register(scored(scores, 0.7, error={"accuracy": 0.03}), name=name)
    model = register(scored(scores, 0.6, error={"accuracy": 0.04}), name=name)

    assert model.verdict == "HOLD"
    assert model.reasons == (
        "accuracy is 0.6 ± 0.04, the champion's is 0.7 ± 0.03, on what neither has seen of 6 test assets",
    )
    assert alias(name, "champion") == "1"


def test_an_error_is_no_allowance(scores, name, quick):
    register(scored(scores, 0.70, error={"accuracy": 0.2}), name=name)

    assert register(scored(scores, 0.69, error={"accuracy": 0.2}), name=name).verdict == "HOLD"


def test_a_score_that_is_no_number_replaces_no_champion(scores, name, quick):
    register(scored(scores, 0.1), name=name)

    assert register(scored(scores, float("nan")), name=name).verdict == "HOLD"


def test_a_score_that_is_no_number_makes_no_first_champion(scores, name, quick):
    """Without a threshold nothing was asked of it."""
    model = register(scored(scores, float("nan")), name=name)

    assert (model.verdict, model.reasons) == ("HOLD", ("accuracy is not a number on the test assets",))


def test_a_score_that_is_no_number_does_not_replace_another(scores, name, quick):
    register(scored(scores, float("nan")), name=name, force=True)
    model = register(scored(scores, float("nan"), val={"accuracy": 0.5}), name=name)

    assert model.verdict == "HOLD"


def test_where_less_is_better_the_worse_is_the_greater(scores, name, quick):
    least = replace(scores, goal="loss", direction="min", test={"loss": 0.5})
    register(least, name=name, gate=at_most(loss=1.0))

    assert register(replace(least, test={"loss": 0.6}), name=name).verdict == "HOLD"
    assert register(replace(least, test={"loss": 0.4}), name=name).verdict == "PROMOTE"


def test_force_moves_the_champion_and_is_recorded(scores, name, quick):
    register(scored(scores, 0.7), name=name)
    model = register(scored(scores, 0.1), name=name, gate=at_least(accuracy=0.5), force=True)

    assert alias(name, "champion") == model.version == "2"
    assert evidence(name, "2")["forced"] is True
    assert len(evidence(name, "2")["reasons"]) == 2
    assert history(name)["moves"][-1]["forced"] is True


def test_the_verdict_and_both_sides_numbers_are_kept(scores, name, quick):
    register(scored(scores, 0.7, error={"accuracy": 0.03}), name=name)
    context = Printing()
    asked = register.bind((scored(scores, 0.6, error={"accuracy": 0.04}),), {"name": name})
    model = register.run(asked, context)
    kept = json.loads(model.evidence.read())

    assert (kept["verdict"], kept["reasons"]) == ("HOLD", list(model.reasons))
    assert kept["candidate"]["scores"]["accuracy"] == 0.6
    assert kept["champion"]["scores"]["accuracy"] == 0.7
    assert kept["champion"]["difference"] == pytest.approx(-0.1)
    assert kept["champion"]["error_of_difference"] == pytest.approx(0.05)
    assert kept["tested"] == {"digest": scores.tested.digest, "rows": 6}
    assert kept.items() <= evidence(name, "2").items()
    assert evidence(name, "2")["who"] and evidence(name, "2")["when"]
    assert json.loads(context.files["evidence.json"]) == kept


# The champion, measured on the candidate's test assets

OWN = "in its own representation"


@pytest.fixture
def other_fold(shapes: Path) -> Table:
    sets = [small_pointnet().representation(), small_voxnet().representation()]
    return preprocess(Folder(root=str(shapes), fold=1), sets, on="here")


def test_a_champion_of_another_test_set_and_representation_is_measured_on_this_one(
    table, other_fold, scores, name, quick
):
    """Its numbers are those that `evaluate` gives it on a table of the candidate's fold."""
    champion = untrained(small_voxnet(), other_fold, knows=())
    register(scored(evaluate(champion, other_fold, on="here"), 0.9), name=name)
    model = register(scored(scores, 1.0), name=name)
    said = evidence(name, model.version)["champion"]
    expected = evaluate(champion, table, on="here")

    assert model.verdict == "PROMOTE"
    assert said["how"] == f"measured now, on the 6 of 6 test assets that neither has seen, {OWN}"
    assert said["scores"] == pytest.approx(expected.test)
    assert said["error"]["accuracy"] == pytest.approx(expected.error["accuracy"])


def test_a_candidate_that_is_worse_than_the_champion_on_its_own_test_assets_is_held(table, scores, name, quick):
    """Whatever the champion scored on another list."""
    shown = evaluate(untrained(small_voxnet(), table), table, on="here")
    assert shown.test["accuracy"] > 0
    register(scored(shown, 0.0), name=name)
    model = register(scored(scores, shown.test["accuracy"] - 0.01), name=name)

    assert model.verdict == "HOLD"
    assert f"the champion's is {shown.test['accuracy']:.4g}" in model.reasons[0]


def test_a_champion_is_measured_by_the_judge_of_the_candidate(shapes, name, quick):
    """Two GANs, judged by the features of one classifier; the champion was judged on another fold, by another."""
    gan = Gan(size=16, views=2, width=4, z=6, batch=8)
    classifier = replace(ConvNet.tiny(), size=16, views=2, widths=(4, 4, 4, 4, 4), hidden=8)
    tables = [preprocess(Folder(root=str(shapes), fold=fold), [gan.representation()], on="here") for fold in (0, 1)]
    champion, candidate = untrained(gan, tables[1], seed=1, knows=()), untrained(gan, tables[0], seed=2)
    judges = [untrained(classifier, tables[0], seed=seed) for seed in (3, 4)]
    register(evaluate(champion, tables[1], extractor=judges[1], on="here"), name=name)

    model = register(evaluate(candidate, tables[0], extractor=judges[0], on="here"), name=name)

    said = evidence(name, model.version)["champion"]
    expected = evaluate(champion, tables[0], extractor=judges[0], on="here").test
    assert said["how"].endswith(OWN)
    assert said["scores"]["kid_convnet"] == pytest.approx(expected["kid_convnet"])


def refused(scores: Scores, name: str) -> str:
    """Why a perfect candidate is held."""
    model = register(scored(scores, 1.0), name=name)
    assert model.verdict == "HOLD"
    assert alias(name, "champion") == "1"
    (reason,) = model.reasons
    return reason.removeprefix("the champion, version 1, cannot be compared: ")


@pytest.fixture
def champion(other_fold: Table, name: str, quick: Path) -> Path:
    """The folder of a champion that was tested on other assets."""
    unknowing = untrained(small_voxnet(), other_fold, knows=())
    model = register(evaluate(unknowing, other_fold, on="here"), name=name)
    return quick / model.key


def test_models_of_unlike_goals_are_not_compared(scores, name, champion):
    loss = replace(scores, goal="loss", direction="min")

    assert refused(loss, name) == "its goal is accuracy max, and this one's is loss min"


def test_a_champion_whose_code_is_gone_holds_what_comes_after_it(scores, name, champion):
    path = champion / "model.json"
    said = json.loads(path.read_text().replace("family:voxnet", "family:forgotten"))
    path.write_text(json.dumps({**said, "seal": seal(said)}))

    assert "but got 'family:forgotten'" in refused(scores, name)


def test_unless_it_is_forced(scores, name, champion):
    (champion / "model.safetensors").unlink()
    model = register(scored(scores, 1.0), name=name, force=True)

    assert model.verdict == "PROMOTE"
    assert "cannot be compared: FileNotFoundError" in model.reasons[0]
    assert alias(name, "champion") == "2"


def test_a_test_asset_that_has_changed_since_is_no_frozen_one(scores, name, champion, shapes):
    changed, _ = json.loads(scores.tested.read())[0]
    (shapes / changed).write_text((shapes / "flat" / "3.obj").read_text() + "# another\n")

    assert refused(scores, name) == f"1 of the 6 test assets are not what they were, {changed} among them"


def test_test_assets_of_no_known_source_are_not_decoded_again(scores, name, champion):
    assert refused(replace(scores, source=None), name) == "where the test assets came from is not known"


def test_a_class_that_the_champion_has_not_learned_is_said(shapes, name, champion):
    write_shapes(shapes.parent / "more", each=8, labels=("long",)).joinpath("long").rename(shapes / "tall")
    table = preprocess(Folder(root=str(shapes)), [small_pointnet().representation()], on="here")
    scores = evaluate(untrained(small_pointnet(), table), table, on="here")

    assert refused(scores, name) == "it does not know the class 'tall'"


def test_a_source_that_is_nowhere_on_this_machine_is_said(scores, name, champion, tmp_path):
    elsewhere = replace(scores, source=Folder(root=str(tmp_path / "elsewhere")))

    assert "does not exist" in refused(elsewhere, name)


# On what neither has seen


def test_where_the_champion_has_seen_some_test_assets_both_are_measured_on_the_others(table, scores, name, quick):
    """Its score on what it has learned is no measure, and the candidate's is then of another list."""
    names = [one for one, _ in json.loads(scores.tested.read())]
    contents, known = contents_of(table.assets), {names[0], names[3]}
    champion = untrained(small_voxnet(), table, knows=[contents[one] for one in known])
    register(scored(evaluate(champion, table, on="here"), 1.0), name=name, force=True)
    model = register(scored(scores, 0.0), name=name)
    said = evidence(name, model.version)["champion"]

    def own(checkpoint: Checkpoint) -> float:
        rows = table.open(checkpoint.representation, "test", checkpoint.family.labels)
        left = rows.picked([place for place, one in enumerate(rows.ids) if one not in known])
        return checkpoint.family.score(measured(checkpoint.family, checkpoint.network(), left))["accuracy"]

    assert said["how"] == f"measured now, on the 4 of 6 test assets that neither has seen, {OWN}"
    assert (said["unseen"], said["scores"]["accuracy"], said["candidate"]) == (4, own(champion), own(scores.checkpoint))
    assert model.verdict == ("PROMOTE" if said["candidate"] >= said["scores"]["accuracy"] else "HOLD")


def test_a_candidate_of_another_fold_is_held_for_its_champion_has_learned_its_test_assets(
    table, other_fold, scores, name, quick
):
    register(scored(evaluate(untrained(small_voxnet(), other_fold), other_fold, on="here"), 0.1), name=name)

    assert refused(scores, name) == "of the 6 test assets neither has seen 0, and at least 3 are asked"


def test_what_is_as_good_as_the_champion_is_not_held_back_when_the_folder_grows(shapes, name, quick):
    """Four more shapes in each class: of the new test assets the champion has learned 3. It is the same network."""
    for each in (8, 12):
        source = Folder(root=str(write_shapes(shapes, each=each)), fold=2)
        table = preprocess(source, [small_pointnet().representation()], on="here")
        model = register(evaluate(untrained(small_pointnet(), table), table, on="here"), name=name)
    said = evidence(name, model.version)["champion"]

    assert said["how"] == f"measured now, on the 6 of 9 test assets that neither has seen, {OWN}"
    assert (said["candidate"], said["difference"]) == (said["scores"]["accuracy"], 0)
    assert (model.version, model.verdict) == ("2", "PROMOTE")


def test_a_candidate_that_has_seen_its_own_test_assets_is_held(table, other_fold, name, quick):
    """Trained on one fold, evaluated on another."""
    model = register(evaluate(untrained(small_pointnet(), table), other_fold, on="here"), name=name)

    assert model.verdict == "HOLD"
    assert model.reasons[0].startswith("it was trained or chosen on 6 of its 6 test assets, flat/")


def test_a_champion_that_did_not_write_down_what_it_has_seen_is_not_compared(table, scores, name, champion):
    (champion / "seen.json").unlink()

    assert refused(scores, name) == "what it was trained and chosen on was not written down when it was registered"


def test_two_that_wrote_nothing_down_are_not_compared_as_they_stand(scores, name, quick):
    unknown = replace(scores, checkpoint=replace(scores.checkpoint, seen=None))
    register(scored(unknown, 0.1), name=name)

    assert "not written down" in refused(unknown, name)


def test_a_server_that_goes_down_before_the_champion_is_fetched_is_waited_for(scores, name, champion, monkeypatch):
    """It says nothing of the champion: the step is tried again."""

    def down(uri: str) -> Path:
        raise ConnectionError("gone")

    monkeypatch.setattr(module, "folder_of", down)
    with pytest.raises(TrackingDown):
        register(scored(scores, 1.0), name=name)
    assert alias(name, "champion") == "1"


# Killed, repeated, at once

CALLS = (
    "create_registered_model",
    "create_model_version",
    "set_model_version_tag",
    "set_registered_model_alias",
    "set_registered_model_tag",
)


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, bool], None]]:
    """Kills this process, as it were, before or after its nth call that changes the registry."""
    state = {"left": -1, "after": False}

    def dying(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            state["left"] -= 1
            if state["left"] == 0 and not state["after"]:
                raise KeyboardInterrupt
            last = state["left"] == 0
            try:
                return method(*args, **kwargs)
            finally:
                if last:
                    raise KeyboardInterrupt

        return call

    def kill(n: int, after: bool) -> None:
        state.update(left=n, after=after)

    for method in CALLS:
        monkeypatch.setattr(MlflowClient, method, dying(getattr(MlflowClient, method)))
    yield kill


@pytest.mark.parametrize("after", [False, True])
def test_it_may_be_killed_at_every_call_to_the_registry(scores, name, quick, killed_at, after):
    better, kills = 0.1, 0
    register(scored(scores, better), name=name)
    while True:
        kills, better = kills + 1, better + 0.01
        killed_at(kills, after)
        try:
            register(scored(scores, better), name=name)
            break  # it made fewer calls than that
        except KeyboardInterrupt:
            killed_at(-1, False)
            register(scored(scores, better), name=name)
        found = history(name)

        assert versions(name) == kills + 1
        assert found["aliases"] == {"champion": str(kills + 1), "previous": str(kills)}
        assert [move["to"] for move in found["moves"]] == [str(v + 1) for v in range(kills + 1)]
        assert evidence(name, str(kills + 1))["champion"]["version"] == str(kills)
    assert kills > 7


def test_a_registration_that_another_driver_overtook_is_judged_anew(scores, name, quick, monkeypatch):
    """Between its verdict and its move a better champion came: the verdict was over the wrong one."""
    register(scored(scores, 0.5), name=name)
    judge, calls = module.judge, []

    def overtaken(*args: Any, **kwargs: Any) -> dict[str, Any]:
        judged = judge(*args, **kwargs)
        calls.append(judged["verdict"])
        if len(calls) == 1:
            register(scored(scores, 0.9), name=name)
        return judged

    monkeypatch.setattr(module, "judge", overtaken)
    model = register(scored(scores, 0.7), name=name)

    assert calls == ["PROMOTE", "PROMOTE", "HOLD"]
    assert model.verdict == "HOLD"
    assert history(name)["aliases"] == {"champion": "3", "previous": "1"}


def test_drivers_that_register_at_once_leave_the_best_as_champion(scores, name, quick, own_store):
    """Each compares with the champion of its day; no version is lost and none is made twice."""
    accuracies = (0.5, 0.9, 0.6, 0.8)
    client()

    def one(place: int) -> None:
        context = Running(Store(str(own_store)), "run", f"step{place}", (), 0, {"CPU": 1.0})
        asked = register.bind((scored(scores, accuracies[place]),), {"name": name})
        register.run(asked, context)

    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(accuracies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    champion = client().get_model_version_by_alias(name, "champion")

    assert versions(name) == len(accuracies)
    assert json.loads(champion.tags["rayfield.scores"])["accuracy"] == 0.9


def test_what_was_rolled_back_is_not_promoted_by_the_same_run_again(scores, name, quick):
    register(scored(scores, 0.6), name=name)
    register(scored(scores, 0.7), name=name)
    rollback(name, context=Printing())

    assert register(scored(scores, 0.7), name=name).version == "2"
    assert alias(name, "champion") == "1"


def test_another_gate_judges_the_same_version_anew(scores, name, quick):
    assert register(scored(scores, 0.6), name=name, gate=at_least(accuracy=0.9)).verdict == "REJECT"
    assert register(scored(scores, 0.6), name=name, gate=at_least(accuracy=0.5)).verdict == "PROMOTE"
    assert (versions(name), alias(name, "champion")) == (1, "1")


# What a person asks for


def test_a_rollback_makes_the_previous_champion_champion_and_says_who(scores, name, quick):
    register(scored(scores, 0.6), name=name)
    register(scored(scores, 0.7), name=name)
    moved = rollback(name, context=Printing())

    assert (alias(name, "champion"), alias(name, "previous")) == ("1", "2")
    assert (moved["what"], moved["from"], moved["to"]) == ("rollback", "2", "1")
    assert "@" in moved["who"]
    assert [move["what"] for move in history(name)["moves"]] == ["register", "register", "rollback"]


def test_going_back_twice_changes_nothing(scores, name, quick):
    register(scored(scores, 0.6), name=name)
    register(scored(scores, 0.7), name=name)
    rollback(name, context=Printing())
    rollback(name, context=Printing())

    assert (alias(name, "champion"), alias(name, "previous")) == ("2", "1")


def test_without_a_previous_champion_there_is_no_way_back(scores, name, quick):
    register(scored(scores, 0.6), name=name)

    with pytest.raises(UsageError, match="no previous champion"):
        rollback(name, context=Printing())


def test_a_promotion_asks_the_gate_and_the_champion_of_now(scores, name, quick):
    register(scored(scores, 0.6), name=name, gate=at_least(accuracy=0.5))
    register(scored(scores, 0.7), name=name)
    held = promote(name, "1", force=False, context=Printing())

    assert (held["verdict"], alias(name, "champion")) == ("HOLD", "2")
    assert held["champion"]["version"] == "2"
    assert held["gate"]["least"] == {"accuracy": 0.5}

    assert details(name, "1")["promotion"]["verdict"] == "HOLD"
    assert details(name, "1")["evidence"]["verdict"] == "PROMOTE"  # of its registration

    forced = promote(name, "1", force=True, context=Printing())

    assert (forced["verdict"], forced["forced"], alias(name, "champion")) == ("PROMOTE", True, "1")
    assert (history(name)["moves"][-1]["what"], history(name)["moves"][-1]["forced"]) == ("promote", True)


def test_a_version_that_was_held_is_promoted_when_the_champion_is_no_better_any_more(scores, name, quick):
    register(scored(scores, 0.6), name=name)
    register(scored(scores, 0.7), name=name)
    register(scored(scores, 0.65), name=name)
    rollback(name, context=Printing())

    assert promote(name, "3", force=False, context=Printing())["verdict"] == "PROMOTE"
    assert (alias(name, "champion"), alias(name, "previous")) == ("3", "1")


def test_models_and_versions_are_listed(scores, name, quick):
    register(scored(scores, 0.6, error={"accuracy": 0.05}), name=name)
    register(scored(scores, 0.5), name=name)
    (row,) = [row for row in listing() if row["name"] == name]
    first, second = history(name)["versions"]

    assert (row["champion"], row["previous"], row["versions"], row["family"]) == ("1", None, 2, "pointnet")
    assert row["score"] == "accuracy 0.600 ± 0.050"
    assert (first["aliases"], first["verdict"], second["aliases"], second["verdict"]) == (
        ["champion"],
        "PROMOTE",
        [],
        "HOLD",
    )
    assert details(name, "2")["evidence"]["verdict"] == "HOLD"
    assert details(name, "2")["card"].startswith(f"# {name}: pointnet")


# Bad input


def test_a_baseline_is_not_registered(scores, name):
    with pytest.raises(UsageError, match="A baseline cannot be registered"):
        register(replace(scores, checkpoint=None), name=name)


def test_a_gate_on_a_score_that_is_not_there_is_refused(scores, name):
    with pytest.raises(UsageError, match="The gate asks for 'acuracy', but pointnet has accuracy"):
        register(scores, name=name, gate=at_least(acuracy=0.5))


def test_a_name_that_mlflow_would_not_find_again_is_refused(scores):
    with pytest.raises(UsageError, match="A model's name is letters"):
        register(scores, name="a'b/c")


@pytest.mark.parametrize("ask", [lambda name: promote(name, "7", force=True, context=Printing()), history])
def test_what_is_not_registered_is_neither_promoted_nor_shown(ask):
    with pytest.raises(UsageError, match="`rayfield models list`"):
        ask("nobody")


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (
            "API request to http://lab/api failed with exception HTTPConnectionPool(host='lab', port=80): Max retries "
            "exceeded with url: /api (Caused by ResponseError('too many 500 error responses'))",
            "too many 500 error responses",
        ),
        ("RESOURCE_DOES_NOT_EXIST: No run\n with id 7", "RESOURCE_DOES_NOT_EXIST: No run with id 7"),
        ("INTERNAL_ERROR: " + "x" * 1000, "INTERNAL_ERROR: " + "x" * 284),
    ],
)
def test_what_mlflow_says_is_cut_to_its_cause(said, kept):
    assert cause(ValueError(said)) == kept


def test_a_server_that_does_not_answer_is_waited_for(scores, name, monkeypatch):
    """It is the server's error: the engine tries the step again."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    with pytest.raises(TrackingDown, match="MLflow at http://127.0.0.1:9 does not .*refused. Run again when it") as e:
        register(scores, name=name)
    assert kind_of(e.value) == "transient"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("furniture", "A model is models:/NAME@champion"),
        ("models:/nobody@champion", "No model models:/nobody@champion"),
    ],
)
def test_a_model_that_is_not_there_is_refused(uri, words):
    with pytest.raises(UsageError, match=words) as caught:
        registered(uri)

    assert len(str(caught.value).splitlines()) == 1


# What is uploaded


def models_of(key: str) -> list[Any]:
    api = client()
    return api.search_logged_models(
        [registry.experiment(api, "models")], filter_string=f"tags.`rayfield.key` = '{key}'"
    )


def test_an_upload_whose_version_a_crash_forgot_is_found_again(scores, name, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_model_version", _killed)
        with pytest.raises(KeyboardInterrupt):
            register(scores, name=name)
    model = register(scores, name=name)
    (uploaded,) = models_of(model.key)
    version = client().get_model_version(name, model.version)

    assert version.source == uploaded.model_uri
    assert [one.path for one in client().list_artifacts(version.run_id)] == ["evidence.json"]


def test_half_an_upload_is_deleted_and_made_anew(scores, name, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("mlflow.tracking.client.MlflowClient.finalize_logged_model", _killed)
        with pytest.raises(KeyboardInterrupt):
            register(scores, name=name)
    model = register(scores, name=name)
    runs = client().search_runs(
        [registry.experiment(client(), "models")], filter_string=f"tags.`rayfield.key` = '{model.key}'"
    )

    assert [str(one.status) for one in models_of(model.key)] == ["READY"]
    assert [run.info.status for run in runs] == ["FINISHED"]


def test_a_run_whose_upload_was_whole_when_its_process_died_is_closed(scores, name, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("mlflow.tracking.fluent.end_run", lambda *_, **__: None)  # a killed process ends none
        patch.setattr(MlflowClient, "create_model_version", _killed)
        with pytest.raises(KeyboardInterrupt):
            register(scores, name=name)
    from mlflow.tracking import fluent

    fluent._active_run_stack.get().clear()  # as in a new process
    model = register(scores, name=name)
    (uploaded,) = models_of(model.key)

    assert client().get_run(uploaded.source_run_id).info.status == "FINISHED"


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
