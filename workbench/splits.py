"""A seeded choice of a few pictures to learn from, in which every phrase is represented. Takes the phrases of each
picture, returns indices; knows nothing of pixels or labels."""

from __future__ import annotations

import random
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
