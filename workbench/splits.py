"""Seeded choices of pictures in which every phrase is represented: a few to learn from, or the parts of a k-fold. Takes
the phrases of each picture, returns indices; knows nothing of pixels or labels."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence


def stratified_choice(phrases: Sequence[Iterable[str]], shots: int, seed: int) -> set[int]:
    """Chooses pictures at random so that all phrases are covered and each keeps about its share.

    Args:
        phrases: for each picture, the phrases that have objects in it.
        shots: number of pictures to choose, at most len(phrases).
        seed: the same seed gives the same choice.

    Returns:
        Indices of the chosen pictures. Each phrase is in at least one of them, unless `shots` pictures cannot hold all
        phrases (then as many as a bounded search finds). Pictures without objects get their share like a phrase.

    Example:
        >>> sorted(stratified_choice([["a"], ["a"], ["b"], ["a"], ["a"]], shots=2, seed=0) & {2})
        [2]
    """
    groups: dict[str | None, set[int]] = {}  # phrase -> pictures with it; None -> pictures without any object
    for number, present in enumerate(phrases):
        for phrase in tuple(present) or (None,):
            groups.setdefault(phrase, set()).add(number)
    order = list(range(len(phrases)))
    random.Random(seed).shuffle(order)
    rank = {number: place for place, number in enumerate(order)}
    chosen = _cover({phrase: group for phrase, group in groups.items() if phrase is not None}, shots, rank)
    while len(chosen) < shots:  # the group that is furthest below its share gives the next picture
        share = {phrase: (len(group & chosen) + 1) / len(group) for phrase, group in groups.items() if group - chosen}
        chosen.add(min(groups[min(share, key=share.__getitem__)] - chosen, key=rank.__getitem__))
    return chosen


def k_folds(phrases: Sequence[Iterable[str]], k: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Deals pictures into k parts of nearly equal size over which every phrase is spread as evenly as it goes.

    The rarest phrase is dealt first, each of its pictures to the part that has fewest of that phrase so far (then to
    the smallest part). Pictures with several phrases can make perfect evenness impossible for the common ones.

    Args:
        phrases: for each picture, the phrases that have objects in it.
        k: number of parts, 2..len(phrases); k = len(phrases) leaves one picture out at a time.
        seed: the same seed gives the same parts.

    Returns:
        The indices of each part, ascending; every picture is in exactly one part, sizes differ by at most one.

    Raises:
        ValueError: k is below 2 or above the number of pictures.

    Example:
        >>> k_folds([["cup"], ["cup"], ["star"], ["star"]], k=2, seed=0)
        ((0, 2), (1, 3))
    """
    if not 2 <= k <= len(phrases):
        raise ValueError(f"k is {k} for {len(phrases)} pictures; expected 2..{len(phrases)}")
    none: frozenset[str | None] = frozenset([None])  # pictures without objects are dealt like those of a phrase
    present = [frozenset[str | None](some) or none for some in phrases]
    order = list(range(len(present)))
    random.Random(seed).shuffle(order)
    folds: list[list[int]] = [[] for _ in range(k)]
    waiting = list(order)
    while waiting:
        left = Counter(phrase for number in waiting for phrase in present[number])
        rarest = min(left, key=lambda phrase: (left[phrase], str(phrase)))
        for number in [number for number in waiting if rarest in present[number]]:
            fold = min(_open_folds(folds, len(present)), key=lambda fold: _crowding(fold, present, number, rarest))
            fold.append(number)
            waiting.remove(number)
    return tuple(tuple(sorted(fold)) for fold in folds)


def _open_folds(folds: list[list[int]], total: int) -> list[list[int]]:
    """The parts that may take one more picture if sizes are to differ by at most one in the end."""
    small, num_large = divmod(total, len(folds))
    limit = small + (sum(len(fold) > small for fold in folds) < num_large)
    return [fold for fold in folds if len(fold) < limit]


def _crowding(
    fold: list[int], present: Sequence[frozenset[str | None]], number: int, rarest: str | None
) -> tuple[int, int, int]:
    """How full a part is of one phrase, of all phrases of a picture, and at all."""
    of_rarest = sum(rarest in present[other] for other in fold)
    return of_rarest, sum(len(present[number] & present[other]) for other in fold), len(fold)


def _cover(groups: dict[str, set[int]], shots: int, rank: dict[int, int], max_steps: int = 500) -> set[int]:
    """At most `shots` pictures that cover all groups; when that is impossible or takes too long, the best seen."""
    best: set[int] = set()
    fewest, steps = len(groups) + 1, 0

    def search(chosen: set[int]) -> bool:
        nonlocal best, fewest, steps
        steps += 1
        missing = [phrase for phrase, group in groups.items() if group.isdisjoint(chosen)]
        if len(missing) < fewest:
            best, fewest = chosen, len(missing)
        if not missing or len(chosen) == shots:
            return not missing
        rarest = min(missing, key=lambda phrase: len(groups[phrase]))
        covered = {number: sum(number in groups[phrase] for phrase in missing) for number in groups[rarest]}
        for number in sorted(covered, key=lambda number: (-covered[number], rank[number])):
            if steps < max_steps and search(chosen | {number}):
                return True
        return False

    search(set())
    return best
