"""The parts of the interface that need no page, run by Node where it is: run lengths, changes, undo, merging."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from sam3.rle import Rle
from workbench.annotation import Annotation, PictureMarks
from workbench.interface_files import script_of

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="Node is not installed")


def run(code: str, *parts: str, given: Any = None) -> Any:
    """What `code` returns, with these files before it and `given` in scope."""
    text = "\n".join((files("workbench") / "ui" / part).read_text("utf-8") for part in parts)
    program = f"{text}\nconst given = {json.dumps(given)};\nconsole.log(JSON.stringify((() => {{ {code} }})()));"
    answer = subprocess.run([str(NODE), "-"], input=program, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@needs_node
def test_run_lengths_are_those_of_python() -> None:
    generator = np.random.default_rng(3)
    masks = [generator.random((h, w)) < p for h, w, p in ((7, 9, 0.5), (40, 31, 0.02), (1, 5, 0.6), (64, 3, 0.97))]
    wide = np.zeros((300, 900), bool)
    wide[37:260, 100:850] = True
    masks += [wide, np.ones((6, 4), bool)]
    rles = [Rle.of(mask) for mask in masks]
    given = [[rle.counts, rle.size[1], rle.size[0]] for rle in rles]
    code = """return given.map(([text, width, height]) => {
      const bits = bitsOf(text, width, height), again = rleOfBits(bits, width, height);
      return {runs: runsOf(text), area: bits.reduce((sum, bit) => sum + bit, 0), ...again};
    });"""
    for mask, rle, found in zip(masks, rles, run(code, "rle.js", given=given), strict=True):
        assert found["text"] == rle.counts and found["area"] == mask.sum()
        assert found["runs"] == rle._runs().tolist()
        assert tuple(found["box"]) == rle.box_xyxy_px
    assert run("return rleOfBits(new Uint8Array(12), 3, 4);", "rle.js") is None


def begun() -> dict[str, Any]:
    return Annotation(("coin",), (PictureMarks("a", 40, 30), PictureMarks("b", 40, 30))).to_json()


STORE = """const sent = [];
const store = createStore(given, value => sent.push(value));
const made = {kind: "box", positive: true, status: "kept", source: "person", box: [1, 2, 9, 8]};
const box = (id, more) => ({id, ...made, ...more});
const add = (id, more) => store.change("a", "coin", pair => pair.marks.push(box(id, more)));
const seen = () => {
  const {state, exhaustive, marks} = store.pair("a", "coin");
  return [state, exhaustive, marks.map(mark => mark.id)];
};
"""


def stored(code: str) -> Any:
    """What `code` returns; everything that was sent on the way is valid for Python."""
    result = run(f"{STORE} const result = (() => {{ {code} }})(); return {{result, sent}};", "marks.js", given=begun())
    for value in result["sent"]:
        Annotation.from_json(value)
    return result["result"]


@needs_node
def test_marks_set_the_state_and_undo_takes_both_back() -> None:
    steps = stored(
        """const steps = [];
        const note = () => steps.push(seen());
        add(1); note();
        store.change("a", "coin", pair => { pair.exhaustive = true; }); note();
        store.change("a", "coin", pair => { pair.marks = []; }); note();
        store.undo(); note();
        store.undo(); store.undo(); note();
        store.redo(); store.redo(); note();
        return {steps, canUndo: store.canUndo, canRedo: store.canRedo, revision: store.picture("a").revision};"""
    )
    assert steps["steps"] == [
        ["present", False, [1]],
        ["present", True, [1]],
        ["unchecked", False, []],
        ["present", True, [1]],
        ["unchecked", False, []],
        ["present", True, [1]],
    ]
    assert steps["canUndo"] and steps["canRedo"] and steps["revision"] == 8


@needs_node
def test_marks_made_while_python_was_busy_stay_and_proposals_join_them() -> None:
    found = stored(
        """const old = copyOf(given);
        add(1);
        old.pictures[0].pairs.coin = {state: "unchecked", exhaustive: false, marks: [
          {...made, id: 1, kind: "mask", status: "proposed", source: "model", rle: Rle, box: [2, 1, 5, 3]}]};
        old.pictures[1].pairs.coin = {state: "absent", exhaustive: false, marks: []};
        store.adopt(old);
        const both = seen();
        store.undo();
        return {both, after: seen(), other: store.pair("b", "coin").state, sent: sent.length};""".replace(
            "Rle", json.dumps(Rle.of(np.pad(np.ones((2, 3), bool), ((1, 27), (2, 35)))).counts)
        )
    )
    assert found == {
        "both": ["present", False, [1, 2]],
        "after": ["unchecked", False, [2]],
        "other": "absent",
        "sent": 3,
    }


@needs_node
def test_a_phrase_that_was_added_while_python_was_busy_stays_until_python_knew_it() -> None:
    found = stored(
        """const old = copyOf(store.value);
        store.addPhrase("star"); store.addPhrase("ring"); store.removePhrase("ring");
        store.adopt(old);
        const kept = copyOf(store.value.phrases), sent = copyOf(store.value);
        store.adopt(sent);
        store.adopt(old);
        return [kept, store.value.phrases];"""
    )
    assert found == [["coin", "star"], ["coin"]]


@needs_node
def test_a_value_that_is_as_new_is_taken_as_it_is() -> None:
    code = """add(1);
    const theirs = copyOf(store.value);
    theirs.pictures[0].revision += 1;
    theirs.pictures[0].pairs.coin.marks = [];
    theirs.pictures[0].pairs.coin.state = "absent";
    store.adopt(theirs);
    return seen();"""
    assert stored(code) == ["absent", False, []]


@needs_node
def test_the_cost_counts_attention_but_not_pauses() -> None:
    cost = stored(
        """store.spend(100, true); store.spend(104, true); store.spend(900, false);
        add(1);
        store.spend(903, true);
        return [store.picture("a").clicks, store.picture("a").seconds, store.cost("a")];"""
    )
    assert cost == [2, 19, {"clicks": 3, "seconds": 22}]


@needs_node
def test_phrases_are_added_once_and_go_only_without_marks() -> None:
    found = stored(
        """add(1);
        const first = [store.addPhrase("  red   circle "), store.addPhrase("Red circle"), store.addPhrase(" ")];
        const left = [store.removePhrase("coin"), store.removePhrase("red circle")];
        return [first, ...left, store.value.phrases, store.progress("a"), store.progress("b")];"""
    )
    assert found == [["red circle", "red circle", None], 1, 0, ["coin"], "begun", "open"]


@needs_node
def test_a_removed_mark_takes_its_clicks_along() -> None:
    code = """add(1); add(2, {kind: "click", box: undefined, point: [3, 3], of: 1});
    store.change("a", "coin", pair => { pair.marks = pair.marks.filter(mark => mark.id !== 1); });
    return seen();"""
    assert stored(code) == ["unchecked", False, []]


def test_the_scripts_ask_nobody_else() -> None:
    for name in ("notebook_annotator", "notebook_player", "page_annotator", "page_player"):
        script = script_of(name)
        assert not [word for word in ("http:", "https:", "import ", "eval(") if word in script]
    sizes = {file.name: len(file.read_text("utf-8").splitlines()) for file in (files("workbench") / "ui").iterdir()}
    assert max(sizes.values()) < 450, sizes
