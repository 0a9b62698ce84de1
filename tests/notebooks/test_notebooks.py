"""The notebooks: thin, clean and true to their rules; and every one runs to its end on the tiny model, in few steps."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from PIL import Image

from sam3.video.source import open_video
from workbench.adapter_files import read_manifest
from workbench.annotation import load_annotation
from workbench.evaluate import Evaluation
from workbench.examples import ExampleSet
from workbench.playback import load_playback

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
MAX_CODE_LINES = 80  # beside imports
SECONDS = 600  # of one cell, on a busy machine

# What makes a run short. Few steps teach nothing: what is tested is that every step is done and written.
_QUICK = ["train.steps=2", "train.images=1", "train.views=1", "train.phrases=2", "guard={scenes: 0, replay: 0}"]
_RENDERED = ["test.rendered=shapes", "test.pictures=3", "test.seed=8", "phrases={}"]
_COINS = ["shots=3", "hold_out=1", "train.validate_every=1", *_RENDERED, *_QUICK]
_DOMAIN = ["shots=3", "learn.pictures=6", "test.pictures=2", "negatives.mine=false", *_QUICK]
PARAMETERS: dict[str, dict[str, Any]] = {
    "02_finetune_adapter": {"SETTINGS": _COINS},
    "03_before_after": {"SETTINGS": _COINS},
    "04_video_masklets": {"FRAMES": 3},
    "10_medical": {"SETTINGS": _DOMAIN},
    "11_vehicles": {"SETTINGS": _DOMAIN},
    "12_text_scenes": {"SETTINGS": _DOMAIN},
}

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_of(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def parameters_of(path: Path) -> dict[str, Any]:
    """Name -> value of the parameters; anything but literals is refused."""
    (cell,) = [cell for cell in code_of(path) if "parameters" in cell.metadata.get("tags", [])]
    found: dict[str, Any] = {}
    for statement in ast.parse(cell.source).body:
        assert isinstance(statement, ast.Assign) and len(statement.targets) == 1, ast.dump(statement)
        target, value = statement.targets[0], ast.literal_eval(statement.value)
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        values = value if isinstance(target, ast.Tuple) else [value]
        found |= {ast.unparse(name): item for name, item in zip(names, values, strict=True)}
    return found


# ------------------------------------------------------------------------------------------------------------ the rules
def test_the_notebooks_are_those_that_the_readme_lists(repo_root: Path) -> None:
    assert NAMES[:5] == [
        "00_quickstart",
        "01_label_ten_images",
        "02_finetune_adapter",
        "03_before_after",
        "04_video_masklets",
    ]
    assert len(NAMES) == 10 and not set(PARAMETERS) - set(NAMES)
    assert re.findall(r"notebooks/(\d\d_\w+)\.ipynb", (repo_root / "README.md").read_text("utf-8")) == NAMES


@every_notebook
def test_a_notebook_is_committed_without_outputs_and_for_any_python_3(path: Path) -> None:
    book = read(path)
    nbformat.validate(book)
    assert book.metadata.kernelspec.name == "python3" and set(book.metadata) == {"kernelspec", "language_info"}
    for cell in book.cells:
        assert set(cell.metadata) <= {"tags"} and cell.source.strip() == cell.source != ""
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    assert path.read_text("utf-8") == nbformat.writes(book) + "\n"


@every_notebook
def test_a_notebook_opens_with_words_an_install_cell_and_its_parameters(path: Path) -> None:
    first = read(path).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ") and "facebook/sam3" in first.source
    install, parameters = code_of(path)[:2]
    assert install.source == code_of(NOTEBOOKS[0])[0].source and "find_spec" in install.source
    assert parameters.metadata.tags == ["parameters"]
    values = parameters_of(path)
    assert values["MODEL"] == "tiny" and values["OUT"].startswith("../runs/notebooks/")
    assert set(PARAMETERS.get(path.stem, {})) <= set(values)
    for name, value in values.items():
        if isinstance(value, str) and value.startswith("../") and name != "OUT":
            assert (path.parent / value).exists(), value


@every_notebook
def test_a_notebook_holds_calls_and_values_only(path: Path) -> None:
    sources = [cell.source for cell in code_of(path)]
    lines = [line for source in sources for line in source.splitlines() if line.strip()]
    assert sum(not re.match(r"(from|import) ", line) for line in lines) <= MAX_CODE_LINES
    assert not [line for line in lines if re.match(r"\s*!", line)]
    assert not [line for line in lines if re.search(r"""["'](/|~|[A-Z]:\\)""", line)], "absolute path"
    assert [line.split()[0] for line in lines if re.match(r"\s*%", line)] == ["%pip"]
    tree = ast.parse("\n".join(TransformerManager().transform_cell(source) for source in sources))
    logic = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.While | ast.Try
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, logic)]
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in imported if name and name.startswith(("tests", "apps"))]


@pytest.mark.parametrize("name", ["10_medical", "11_vehicles", "12_text_scenes"])
def test_notebooks_about_a_domain_say_that_drawn_pictures_prove_nothing(name: str) -> None:
    first = read(NOTEBOOKS[NAMES.index(name)]).cells[0].source.replace("\n", " ")
    assert "are drawn.**" in first and "prove nothing about real" in first


# ------------------------------------------------------------------------------------------------------------- they run
@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Path:
    """A folder that looks like the repository from its folder `notebooks`, and takes what they write."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "notebooks").mkdir()
    for name in ("data", "recipes"):
        (folder / name).symlink_to(repo_root / name)
    return folder


@pytest.fixture
def execute(workplace: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[Path, str]]:
    """Runs a notebook as it lies in `notebooks`; gives the folder it wrote to, and all it printed."""
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(repo_root), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("IPYTHONDIR", str(workplace / ".ipython"))

    def run(name: str) -> tuple[Path, str]:
        path = NOTEBOOKS[NAMES.index(name)]
        book = read(path)
        place = next(i for i, cell in enumerate(book.cells) if "parameters" in cell.metadata.get("tags", []))
        changed = [f"{key} = {value!r}" for key, value in PARAMETERS.get(name, {}).items()]
        book.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(changed)))
        folder = workplace / "notebooks"
        NotebookClient(book, timeout=SECONDS, resources={"metadata": {"path": str(folder)}}).execute()
        outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
        printed = "".join(output.text for output in outputs if output.output_type == "stream")
        assert "written: " in printed and "tiny" in printed
        return (folder / parameters_of(path)["OUT"]).resolve(), printed

    return run


def test_quickstart(execute: Callable[[str], tuple[Path, str]]) -> None:
    out, printed = execute("00_quickstart")
    content = json.loads((out / "predictions.json").read_text("utf-8"))
    presence = {category["name"]: category["presence_score"] for category in content["categories"]}
    assert content["model"] == "tiny" and len(content["annotations"]) >= 5
    assert presence["star"] > 0.9 > 0.1 > presence["red circle"]
    assert Image.open(out / "answers.png").width > 1000
    assert "after the click" in printed


def test_ten_pictures_are_labelled_by_the_stand_in_and_it_says_so(execute: Callable[[str], tuple[Path, str]]) -> None:
    out, printed = execute("01_label_ten_images")
    assert "0 of 10 pictures marked by hand" in printed and "which nobody marked here" in printed
    labels = ExampleSet.from_coco(out / "labels.json", out / "images", exhaustive=False)
    assert labels.summary().objects == 24 and labels.summary().absent == 52 and len(labels) == 10
    assert load_annotation(out / "marks.json").cost().num_pictures == 0
    assert json.loads((out / "cost.json").read_text("utf-8")) == {"by hand": 0, "pictures": 10, "seconds": 0.0}


def test_an_adapter_is_trained_in_the_background(execute: Callable[[str], tuple[Path, str]]) -> None:
    out, printed = execute("02_finetune_adapter")
    made = json.loads((out / "02_training.json").read_text("utf-8"))
    assert (made["model"], made["phase"], made["steps"]) == ("tiny", "finished", 2)
    assert [step for step, _ in made["losses"]] == [1, 2] == [step for step, _ in made["held_out_cgF1"]]
    assert read_manifest(out / "adapter").phrases == ("coin",) and (out / "02_losses.png").is_file()
    assert "GB of memory" in printed and "finished: step 2 of 2" in printed


def test_before_and_after_are_compared_with_what_notebook_02_left(execute: Callable[[str], tuple[Path, str]]) -> None:
    out, printed = execute("03_before_after")
    page = (out / "03_before_after" / "report.html").read_text("utf-8")
    found = json.loads((out / "03_before_after" / "comparison.json").read_text("utf-8"))
    assert found["before"]["model"] == "tiny" and found["after"]["model"] == "tiny + coins"
    assert found["num_images"] == 3 and len(found["pairs"]) >= 30 and found["metrics"]["cgF1"]["ci95"] is not None
    assert "<h2" in page and "questions got worse" in printed and "the guard is off" in printed


def test_video(execute: Callable[[str], tuple[Path, str]]) -> None:
    out, printed = execute("04_video_masklets")
    session, video = load_playback(out / "session.json")
    assert session["num_frames"] == 3 and session["sides"][0]["masklets"] and video.is_file()
    (sides,) = out.glob("clips/*/masklets.json")
    assert [side["title"] for side in load_playback(sides)[0]["sides"]] == ["linked detections", "tracker"]
    assert (out / "report.html").is_file() and "linked detections -> tracker, model tiny" in printed


@pytest.mark.parametrize("name", ["10_medical", "11_vehicles", "12_text_scenes"])
def test_a_domain(execute: Callable[[str], tuple[Path, str]], name: str) -> None:
    out, printed = execute(name)
    recipe = name.partition("_")[2]
    before, after = Evaluation.load(out / "before.json"), Evaluation.load(out / "after.json")
    assert len({record.image_id for record in after.records}) == 2 and isfinite(after.metrics["box_pmF1"])
    assert before.model == "tiny" and after.model == f"tiny + {recipe}" and before.records != after.records
    assert read_manifest(out / "adapter").facts["steps"] == 2 and (out / "report.html").is_file()
    assert "learns from rendered" in printed


def test_inside_the_detector(execute: Callable[[str], tuple[Path, str]]) -> None:
    out, _ = execute("20_inside_the_detector")
    found = json.loads((out / "presence.json").read_text("utf-8"))
    assert found["is_same"] is True and found["model"] == "tiny"
    there, absent, _ = found["presence_by_layer"][-1]
    assert there > 0.9 and absent < 0.1 and Image.open(out / "masks.png").width > 500


def test_inside_the_tracker(execute: Callable[[str], tuple[Path, str]]) -> None:
    out, printed = execute("21_inside_the_tracker")
    found = json.loads((out / "scores.json").read_text("utf-8"))
    assert len(found["J"]) == len(found["object score"]) == open_video(out / "followed.mp4").num_frames == 16
    assert found["J"][0] > 0.7 and found["J"][8] is None and found["object score"][0] > 0.9
    assert "frames in which it is hidden: [8, 9, 10, 11]" in printed and (out / "look.png").is_file()
