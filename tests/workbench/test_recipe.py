"""Recipes: what is read, what is written back, and how wrong files and settings are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from workbench.recipe import LabelledPictures, RenderedPictures, load_recipe, save_recipe

MINIMAL = """
name: coins
learn: {annotations: data/learn.json, images: data/images}
test: {annotations: ../test.json, images: data/images}
"""


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "recipes" / "coins.yaml"
    path.parent.mkdir()
    path.write_text(MINIMAL, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ValueError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_paths_are_relative_to_the_recipe(minimal):
    recipe = load_recipe(minimal)
    assert recipe.learn.annotations == minimal.parent / "data" / "learn.json"
    assert recipe.test.annotations == minimal.parents[1] / "test.json"


def test_a_path_on_the_command_line_is_relative_to_the_current_folder(minimal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe(minimal, ["test.images=other"]).test.images == tmp_path / "other"


def test_a_model_file_beside_the_recipe_is_found_and_a_hub_name_is_left_alone(minimal):
    (minimal.parent / "mine.safetensors").touch()
    assert load_recipe(minimal, ["model=mine.safetensors"]).model == str(minimal.parent / "mine.safetensors")
    assert load_recipe(minimal, ["model=../gone.pt"]).model == str(minimal.parents[1] / "gone.pt")
    assert load_recipe(minimal, ["model=facebook/sam3"]).model == "facebook/sam3"
    assert load_recipe(minimal).model == "tiny"


def test_overrides_reach_nested_settings_with_their_types(minimal):
    recipe = load_recipe(
        minimal,
        [
            "train.steps=60",
            "plan.name=tokens",
            "train.augment.flip=false",
            "phrases.coin=gold coin",
            "train.rate=1e-3",
        ],
    )
    assert (recipe.train.steps, recipe.plan.name, recipe.train.augment.flip) == (60, "tokens", False)
    assert recipe.phrases == {"coin": "gold coin"} and recipe.train.rate == 0.001


def test_one_seed_serves_the_choice_of_pictures_and_the_training(minimal):
    assert load_recipe(minimal, ["seed=7"]).train.seed == 7
    assert "one seed for everything" in refusal(minimal, "train.seed=7")


def test_writing_and_reading_back_gives_the_same_recipe(minimal, tmp_path):
    recipe = load_recipe(
        minimal, ["train.steps=9", "phrases.coin=Münze", "phrases.other=null", "absent_phrases=[key]", "seed=3"]
    )
    target = tmp_path / "runs" / "deep" / "recipe.yaml"
    save_recipe(recipe, target)
    assert load_recipe(target) == recipe
    assert not yaml.safe_load(target.read_text("utf-8"))["learn"]["images"].startswith("/")


def test_a_recipe_cannot_be_changed(minimal):
    with pytest.raises(ValueError, match="frozen"):
        load_recipe(minimal).shots = 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("shot=5", "shot is no setting; did you mean 'shots'?"),
        ("train.stepps=5", "train.stepps is no setting; did you mean 'steps'? expected one of steps, rate, images"),
        ("train.augment.turns=true", "train.augment.turns is no setting; did you mean 'turn'?"),
        ("train.loss.boxes=1", "train.loss.boxes is no setting; did you mean 'box'?"),
        ("plan.ranks=1", "plan.ranks is no setting; did you mean 'rank'? expected one of name, rank, alpha"),
        ("learn.image=x", "learn.image is no setting; did you mean 'images'?"),
        ("shots=0", "shots: received 0; expected greater than or equal to 1"),
        ("shots=many", "shots: received 'many'; expected a valid integer"),
        ("train.steps=2.5", "train.steps: received 2.5; expected a valid integer"),
        ("train.steps=0", "train: received steps=0; expected at least 1"),
        ("train.warmup=0", "train: received warmup=0; expected at least 1"),
        ("train.absent_share=1.5", "train: received absent_share=1.5; expected a share from 0 to 1"),
        ("train.augment.zoom=0", "train.augment: received zoom=0.0; expected the least share"),
        ("train.augment=3", "train.augment: received 3; expected settings inside it: flip, turn, zoom"),
        ("plan.name=all", "plan.name: received 'all'; expected 'presence', 'tokens', 'decoder', 'lora' or 'full'"),
        ("plan.rank=0", "plan: received rank 0; expected at least 1"),
        ("score_threshold=0.01", "score_threshold: received 0.01; expected greater than or equal to 0.05"),
        ("name=7", "name: received 7; expected a valid string; put it in quotes"),
        ("phrases={coin: yes}", "phrases.coin: received True; expected a valid string; put it in quotes"),
        ("phrases={coin: ' '}", "phrases: the phrase of 'coin' is empty; expected a short noun phrase, or null"),
        ("absent_phrases=['']", "absent_phrases: a phrase is empty"),
        ("learn=data", "learn: received 'data'; expected settings inside it: annotations, images"),
    ],
)
def test_a_wrong_setting_is_named_with_the_file_and_what_was_expected(minimal, override, message):
    text = refusal(minimal, override)
    assert message in text
    assert text.startswith(f"{minimal}: ")


def test_every_problem_of_a_recipe_is_said_at_once(minimal):
    assert len(refusal(minimal, "shots=0", "seeds=1", "plan.rank=x").splitlines()) == 3


def test_a_phrase_that_is_asked_for_cannot_be_absent_everywhere(minimal):
    assert "'Gold  coin' is also under phrases" in refusal(
        minimal, "phrases.coin=gold coin", "absent_phrases=['Gold  coin']"
    )


def test_missing_parts_are_named(minimal):
    minimal.write_text("name: coins\nlearn: {annotations: a.json}\n", encoding="utf-8")
    text = refusal(minimal)
    assert f"{minimal}: learn.images is missing" in text and f"{minimal}: test is missing" in text


@pytest.mark.parametrize(
    ("override", "message"), [("steps", "expected key.path=value"), ("train..steps=1", "key.path")]
)
def test_an_override_must_name_key_and_value(minimal, override, message):
    assert message in refusal(minimal, override)


def test_an_override_cannot_go_inside_a_plain_value(minimal):
    assert "'name' holds 'coins' and has no settings inside" in refusal(minimal, "name.first=x")
    assert "no valid YAML" in refusal(minimal, "phrases={coin")


def test_files_that_are_no_recipe_are_refused(tmp_path):
    path = tmp_path / "a.yaml"
    assert "cannot be read" in refusal(path)
    path.write_text("name: [coins\n", encoding="utf-8")
    assert "no valid YAML" in refusal(path)
    path.write_text("- name\n", encoding="utf-8")
    assert "holds list; expected settings" in refusal(path)
    path.write_bytes(b"name: \xff\xfe")
    assert "no valid YAML" in refusal(path)
    path.write_text("name: !!python/object/apply:os.getcwd []\n", encoding="utf-8")
    assert "no valid YAML" in refusal(path)


# --- rendered pictures
RENDERED = """
name: streets
learn: {rendered: roads, pictures: 20, seed: 7}
test: {rendered: roads, pictures: 30, seed: 8}
"""


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    path = tmp_path / "streets.yaml"
    path.write_text(RENDERED, encoding="utf-8")
    return path


def test_rendered_pictures_are_read_changed_and_written_back(streets, tmp_path):
    recipe = load_recipe(streets, ["learn.seed=3", "test.pictures=5"])
    assert recipe.learn == RenderedPictures(rendered="roads", pictures=20, seed=3)
    assert recipe.test == RenderedPictures(rendered="roads", pictures=5, seed=8)
    save_recipe(recipe, tmp_path / "runs" / "recipe.yaml")
    assert load_recipe(tmp_path / "runs" / "recipe.yaml") == recipe


def test_files_replace_rendered_pictures_on_the_command_line_and_the_other_way_round(streets, minimal, tmp_path):
    files = [f"learn.annotations={tmp_path / 'a.json'}", f"learn.images={tmp_path}"]
    assert load_recipe(streets, files).learn == LabelledPictures(annotations=tmp_path / "a.json", images=tmp_path)
    assert f"{streets}: learn.images is missing" in refusal(streets, files[0])
    drawn = ["test.rendered=pages", "test.pictures=4", "test.seed=1"]
    assert load_recipe(minimal, drawn).test == RenderedPictures(rendered="pages", pictures=4, seed=1)
    assert refusal(minimal, drawn[0]).splitlines() == [
        f"{minimal}: test.pictures is missing; add it to the recipe",
        f"{minimal}: test.seed is missing; add it to the recipe",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "learn.rendered=road",
            "learn.rendered: no rendered domain is called 'road'; did you mean 'roads'? expected one",
        ),
        ("learn.rendered=7", "learn.rendered: received 7; expected a valid string"),
        ("learn.pictures=0", "learn.pictures: received 0; expected greater than or equal to 1"),
        ("learn.seed=-1", "learn.seed: received -1; expected greater than or equal to 0"),
        ("learn.picture=3", "learn.picture is no setting; did you mean 'pictures'? expected one of rendered, pictures"),
        ("learn={pictures: 3, seed: 1}", "learn.rendered is missing"),
        ("learn={renderd: roads, pictures: 3, seed: 1}", "learn.renderd is no setting; did you mean 'rendered'?"),
        (
            "learn={rendered: roads, pictures: 3, seed: 1, images: a}",
            "learn.images does not go with rendered; expected",
        ),
        (
            "learn=roads",
            "learn: received 'roads'; expected settings inside it: annotations, images (files); or rendered",
        ),
        ("learn.seed=8", "learn and test are both rendered roads, seed 8, so the result would flatter"),
    ],
)
def test_wrong_settings_of_rendered_pictures_are_explained(streets, override, message):
    text = refusal(streets, override)
    assert message in text
    assert all(line.startswith(f"{streets}: ") for line in text.splitlines())
