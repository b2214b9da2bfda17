"""
Pipelines: what is read of one without importing it, and how its parameters are read.
"""

import sys
from pathlib import Path
from typing import Literal

import pytest

from components.constraints import Count
from components.errors import RayfieldError, UsageError
from components.families.shapes.pointnet import PointNet
from components.families.shapes.voxnet import VoxNet
from components.family import Family
from components.runtime.user_code import importing
from components.source import Source
from components.sources.folder import Folder
from components.sources.furniture import Furniture
from pipelines.classify import classify
from pipelines.engine import pipeline
from pipelines.engine.graph.tracing import draw
from pipelines.engine.pipeline import called, find, load, names, options, sketch, values
from pipelines.quickstart import quickstart
from tests.meshes import write_shapes

MINE = '''
"""Of my own."""

from pipelines.engine.pipeline import pipeline

SIZE = "tiny"


@pipeline
def other(a: int):
    """
    What it does.

    a: how many
    """


@pipeline
def second(size: str = SIZE, *, many: tuple[int, ...] = (1, 2), deep: bool = False):
    pass
'''


def mine(source: Source = "furniture", family: type[Family] = "voxnet", trials: Count = 8, fast: bool = False):  # type: ignore[assignment]
    pass


def plain(mode: Literal["a", "b"] = "a", rate: float = 0.5):
    pass


FAMILIES = {"classify": "pointnet,{}", "embed": "{}"}


def test_every_pipeline_that_ships_is_listed_and_sketched():
    for name in names():
        drawn = sketch(find(name))

        assert drawn.doc and drawn.name == name
        assert [p.help for p in drawn.parameters if not p.help] == [], name


def test_a_sketch_says_what_the_signature_and_the_docstring_say(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    drawn = sketch(path)

    assert drawn.doc.startswith("What it does.")
    assert [(p.name, p.annotation, p.default, p.help) for p in drawn.parameters] == [("a", "int", "", "how many")]


def test_a_default_that_is_no_literal_is_shown_as_written(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE.replace("@pipeline\ndef other", "def other"))

    assert [p.default for p in sketch(path).parameters] == ["SIZE", "1,2", "False"]


def test_a_file_without_a_pipeline_is_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("x = 1\n")

    with pytest.raises(UsageError, match="has no @pipeline"):
        sketch(path)


def test_a_file_that_is_not_python_is_refused_with_its_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("x = 1\nx = = 2\n")

    with pytest.raises(UsageError, match=r"mine.py, line 2, is not Python"):
        sketch(path)


def test_an_unknown_pipeline_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match="No pipeline 'quikstart'. Did you mean 'quickstart'?"):
        find("quikstart")
    with pytest.raises(UsageError, match="No file nowhere.py"):
        find("nowhere.py")


def test_ones_own_file_is_imported_and_its_own_pipeline_taken(tmp_path):
    """Another pipeline that the file imports is not the one that it holds."""
    path = tmp_path / "mine.py"
    path.write_text("from pipelines.quickstart import quickstart\n" + MINE)

    assert load(path).__name__ == "other"
    assert load(find("quickstart")).__name__ == "quickstart"


def test_what_lies_beside_a_pipeline_can_be_imported_and_is_left_again(tmp_path):
    """As by `python PATH`; another pipeline of the process may have another module of that name."""
    for folder, value in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "beside_me.py").write_text(f"VALUE = {value}\n")
        (tmp_path / folder / "mine.py").write_text("from beside_me import VALUE\n" + MINE)
        path = list(sys.path)

        assert load(tmp_path / folder / "mine.py").__globals__["VALUE"] == value
        assert sys.path == path and "beside_me" not in sys.modules


@pytest.mark.parametrize("late", [False, True], ids=["in its file", "in a file that it imports"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nowhere_at_all\n", "imports what is not there: No module named 'nowhere_at_all'"),
        ("x = = 1\n", "is not"),
    ],
    ids=["import", "syntax"],
)
def test_a_mistake_in_the_imports_of_ones_own_files_is_told_with_its_line(tmp_path, late, text, words):
    mine, beside = tmp_path / "mine.py", tmp_path / "beside_me.py"
    beside.write_text(f"\n{text}")
    mine.write_text(f"\n{'import beside_me' if late else text}\n{MINE}")

    with pytest.raises(UsageError, match=rf"{beside if late else mine}, line 2, {words}") as caught:
        load(mine)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("signature", ["a, /, b=1", "*a", "**a", "b=1, *, a=2, **c"])
def test_a_parameter_that_no_option_can_name_is_refused_with_its_line(tmp_path, signature):
    path = tmp_path / "mine.py"
    path.write_text(MINE.replace("other(a: int)", f"other({signature})"))

    with pytest.raises(UsageError, match=r"an option by its name, but line 10 of .*mine.py has '[ac]'"):
        sketch(path)


def test_options_are_written_in_three_ways():
    words = ["--size", "paper", "--trials=4", "--deep", "--root-folder", "x", "--shift", "-3"]

    assert options(words) == {"size": "paper", "trials": "4", "deep": "true", "root_folder": "x", "shift": "-3"}


def test_a_word_that_is_no_option_is_refused():
    with pytest.raises(UsageError, match="An option begins with --, but got 'paper'"):
        options(["paper"])


def test_parameters_are_read_as_their_annotations_say():
    read = values(mine, {"trials": "16", "fast": "yes", "family": "voxnet"}, {"fold": "2"})

    assert read == {"source": Furniture(fold=2), "family": VoxNet, "trials": 16, "fast": True}


def test_a_sources_fields_may_be_written_behind_its_name():
    assert values(mine, {"source": "furniture --fold 3 --textured"}, {})["source"] == Furniture(fold=3, textured=True)


@pytest.mark.parametrize(
    ("texts", "source", "words"),
    [
        ({"trials": "many"}, {}, "--trials must be a whole number, but got 'many'."),
        ({"trials": "0"}, {}, "--trials must be at least 1, but got 0. Pass another --trials."),
        ({"fast": "very"}, {}, "--fast must be true or false, but got 'very'."),
        ({"source": "furnitur"}, {}, "No source 'furnitur'. Did you mean 'furniture'?"),
        ({"source": "folder"}, {}, "Source 'folder' needs --root"),
        ({"family": "vocsnet"}, {}, "No family 'vocsnet'. Did you mean 'voxnet'?"),
        ({}, {"trails": "4"}, "has 'trails'. Did you mean 'trials'?"),
        ({}, {"fol": "4"}, "has 'fol'. Did you mean 'fold'?"),
        ({}, {"fold": "one"}, "--fold must be a whole number, but got 'one'."),
        ({}, {"folds": "0"}, "--folds must be at least 2, but got 0. Pass another --folds."),
        ({}, {"root": "/nope"}, "Did you mean --source folder --root /nope?"),
    ],
    ids=[
        "number",
        "range",
        "flag",
        "source",
        "no root",
        "family",
        "parameter",
        "field",
        "field's value",
        "field's range",
        "ignored field",
    ],
)
def test_what_is_wrong_is_refused_in_one_line_with_the_nearest_name(texts, source, words):
    with pytest.raises(UsageError) as caught:
        values(mine, texts, source)

    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", names())
def test_every_pipeline_that_ships_refuses_no_trials(name):
    with pytest.raises(UsageError, match="--trials must be at least 1, but got -3"):
        values(load(find(name)), {"trials": "-3"}, {})


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("family", ["gan", "gaussians", "tsne"])
def test_a_family_of_another_kind_is_refused_while_the_plan_is_drawn_with_those_that_will_do(name, family):
    with pytest.raises(UsageError) as caught:
        values(load(find(name)), {"family": FAMILIES[name].format(family)}, {})

    assert str(caught.value) == (
        f"--family must be a classifier, but {family} is none. Pass convnet or pointnet or voxnet."
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_of_the_kind_that_is_asked_for_is_taken_by_its_name_or_its_path(name, tmp_path):
    (tmp_path / "own.py").write_text(
        "from components.families.shapes.voxnet import VoxNet\n\nclass Own(VoxNet): pass\n"
    )
    path = tmp_path / "own.py"
    with importing(path):
        found = values(load(find(name)), {"family": FAMILIES[name].format(path)}, {})["family"]

    own = found[-1] if isinstance(found, tuple) else found
    assert own.__name__ == "Own"
    assert found == (PointNet, own) or found is own


def test_a_family_that_is_named_twice_is_compared_once():
    once, twice = (draw(classify, values(classify, {"family": text}, {}), {}) for text in ("voxnet", "voxnet, voxnet"))

    assert list(once.nodes) == list(twice.nodes)


def test_a_cross_validation_refuses_a_fold_that_it_would_not_use():
    with pytest.raises(UsageError, match="takes each fold in turn, but got --fold"):
        load(find("classify"))(source=Furniture(fold=3))


def test_a_pipeline_without_a_source_takes_no_other_word():
    with pytest.raises(UsageError, match="Pipeline 'plain' has no parameter 'mod'. Did you mean 'mode'?"):
        values(plain, {}, {"mod": "a"})
    with pytest.raises(UsageError, match="--mode must be a or b, but got 'c'"):
        values(plain, {"mode": "c"}, {})


def test_the_engines_own_files_are_no_pipelines():
    assert "cli" not in names()
    assert all((Path(pipeline.ROOT) / "pipelines" / f"{name}.py").is_file() for name in names())


# The model's name


def test_a_model_is_called_as_its_source_or_as_the_folder_that_it_reads(tmp_path):
    (tmp_path / "my chairs!").mkdir()

    assert called(Furniture()) == "furniture"
    assert called(Folder(root=str(tmp_path / "my chairs!"))) == "my-chairs"
    assert called(Folder(root="/")) == "folder"


def test_quickstart_registers_ones_own_meshes_by_their_folders_name_or_by_the_one_given(tmp_path):
    root = str(write_shapes(tmp_path / "shapes", each=4))

    def registered(**given: str) -> str:
        drawn = draw(quickstart, values(quickstart, {"source": f"folder --root {root}", **given}, {}), {})
        return next(node.title for node in drawn.nodes.values() if node.title.startswith("register"))

    assert registered() == "register shapes"
    assert registered(name="mine") == "register mine"
    assert registered(source="furniture") == "register furniture"
    with pytest.raises(UsageError, match="A model's name is letters"):
        registered(name="a/b")


@pytest.mark.parametrize("mark", ["@pipeline", "@pipeline()"])
def test_a_pipeline_is_marked_with_or_without_parentheses(tmp_path, mark):
    path = tmp_path / "mine.py"
    path.write_text(MINE.replace("@pipeline\ndef other", f"{mark}\ndef other"))

    assert sketch(path).doc.startswith("What it does.")
    assert values(load(path), {"a": "3"}, {}) == {"a": 3}


@pytest.mark.parametrize(("text", "words"), [("async def other", "is async"), ("    yield 1", "yields")])
def test_a_pipeline_that_would_draw_nothing_is_refused(tmp_path, text, words):
    path = tmp_path / "mine.py"
    path.write_text(MINE.replace("def other" if "def" in text else "    pass", text))
    assert sketch(path).name == "mine"

    with pytest.raises(UsageError, match=f"A pipeline returns when its work is done, but .* {words}"):
        load(path)


@pytest.mark.parametrize("annotation", ["Sauce", "np.nothing", "3 +"])
def test_an_annotation_that_names_nothing_is_refused(annotation):
    def mine(a=1):
        pass

    mine.__annotations__["a"] = annotation
    with pytest.raises(UsageError, match="Each annotation of a pipeline is a type that its file has, but 'mine' has"):
        values(mine, {}, {})


def test_a_file_that_calls_exit_is_refused_in_one_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import sys\n" + MINE + "\nsys.exit(3)\n")

    with pytest.raises(RayfieldError, match=r"Importing .*mine.py ends by .* but called sys.exit\(3\)."):
        load(path)
