"""k_folds on made-up phrase lists; `stratified_choice` is tested through ExampleSet.few_shot."""

from __future__ import annotations

import random

import pytest

from workbench.splits import k_folds


def spread(phrases: list[list[str]], folds: tuple[tuple[int, ...], ...], phrase: str) -> list[int]:
    return sorted(sum(phrase in phrases[number] for number in fold) for fold in folds)


@pytest.mark.parametrize("seed", range(10))
def test_single_phrase_pictures_are_dealt_as_evenly_as_possible(seed):
    phrases = [["a"]] * 11 + [["b"]] * 5 + [["c"]] * 2 + [[]] * 4
    random.Random(seed).shuffle(phrases)
    folds = k_folds(phrases, 4, seed)
    assert sorted(number for fold in folds for number in fold) == list(range(22))
    assert sorted(map(len, folds)) == [5, 5, 6, 6]
    for phrase, expected in (("b", [1, 1, 1, 2]), ("c", [0, 0, 1, 1])):
        assert spread(phrases, folds, phrase) == expected
    common = spread(phrases, folds, "a")
    assert common[-1] - common[0] <= 2


@pytest.mark.parametrize("seed", range(10))
def test_pictures_with_several_phrases_leave_each_phrase_in_every_learning_part(seed):
    chance = random.Random(seed)
    phrases = [
        [name for name, share in (("a", 0.7), ("b", 0.4), ("c", 0.2)) if chance.random() < share] for _ in range(15)
    ]
    phrases += [["rare", "a"], ["rare", "b"]]
    folds = k_folds(phrases, 5, seed)
    assert sorted(number for fold in folds for number in fold) == list(range(17))
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    assert spread(phrases, folds, "rare") == [0, 0, 0, 1, 1]
    for name in "abc":
        counts = spread(phrases, folds, name)
        assert counts[-1] - counts[0] <= 2
        assert counts[-1] < max(sum(counts), 2)


def test_folds_are_seeded():
    phrases = [["a"]] * 12
    assert k_folds(phrases, 3, 1) == k_folds(phrases, 3, 1)
    assert len({k_folds(phrases, 3, seed) for seed in range(5)}) > 1


def test_leave_one_out():
    assert sorted(k_folds([["a"], ["b"], []], 3, 0)) == [(0,), (1,), (2,)]


@pytest.mark.parametrize("k", [1, 4])
def test_a_k_that_does_not_fit_is_refused(k):
    with pytest.raises(ValueError, match=f"k is {k} for 3 pictures; expected 2..3"):
        k_folds([["a"]] * 3, k, 0)
