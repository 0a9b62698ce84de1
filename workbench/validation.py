"""What is wrong with a data set before it is learnt from: one line per finding, each with what to do. Sets and the
findings of their reader come in, a ValidationReport comes out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from workbench.examples import Example, ExampleSet, phrase_key
from workbench.formats.reading import Finding, FindingKind, large_set_finding, says_nothing

SHOWN_PER_KIND = 5

_THUMB = 32  # pixels
_BANDS = 12  # lowest frequencies per direction that the hash looks at
_MOST_BITS = 0.25  # share of hash bits that may differ between near-duplicates
_MOST_GREY = 4.0  # mean difference of their small pictures, in grey levels
_FLAT_GREY = 2.0  # below this spread a small picture has no structure to compare


@dataclass(frozen=True)
class ValidationReport:
    """All findings of some sets; `str()` shows the first few of each kind, one line each."""

    sets: tuple[str, ...]
    num_images: int
    findings: tuple[Finding, ...]

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing to report."""
        return not self.findings

    def of_kind(self, kind: FindingKind) -> tuple[Finding, ...]:
        """The findings of one kind."""
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def __str__(self) -> str:
        head = f"Validation of {', '.join(self.sets)} ({self.num_images} pictures): "
        if self.is_clean:
            return f"{head}nothing to report."
        lines = [f"{head}{len(self.findings)} findings."]
        for kind in dict.fromkeys(finding.kind for finding in self.findings):
            found = self.of_kind(kind)
            lines += [f"  [{kind}] {finding}" for finding in found[:SHOWN_PER_KIND]]
            if len(found) > SHOWN_PER_KIND:
                lines.append(f"  [{kind}] and {len(found) - SHOWN_PER_KIND} more")
        return "\n".join(lines)


def validate(sets: ExampleSet | Sequence[ExampleSet], findings: Iterable[Finding] = ()) -> ValidationReport:
    """Looks for what commonly spoils learning or measuring.

    Named are: boxes outside their picture and masks without pixels (as far as `findings` of the reader tell; an
    ExampleSet cannot hold them), pictures that occur almost alike in two sets, phrases that look like class numbers,
    phrases that differ by case or plural only, and masks that fill the memory.

    Args:
        sets: one set, or those that are to be kept apart, such as train and test.
        findings: of the Reading they come from.

    Raises:
        ValueError: a picture cannot be read; only compared when there are several sets.

    Example:
        >>> print(validate(ExampleSet("demo", ())))
        Validation of demo (0 pictures): nothing to report.
    """
    sets = (sets,) if isinstance(sets, ExampleSet) else tuple(sets)
    found = [*findings, *_phrase_findings(sets)]
    found += filter(None, map(large_set_finding, sets))
    for number, one in enumerate(sets):
        for other in sets[number + 1 :]:
            found += near_duplicates(one, other)
    return ValidationReport(tuple(one.name for one in sets), sum(map(len, sets)), tuple(found))


def _phrase_findings(sets: Sequence[ExampleSet]) -> list[Finding]:
    where = ", ".join(examples.name for examples in sets)
    phrases = tuple(dict.fromkeys(phrase for examples in sets for phrase in examples.phrases))
    found = [
        Finding(
            "class-id phrase",
            where,
            f"the phrase {phrase!r} looks like the number of a class and says nothing to the model.",
            f"Give the words a person would use, for instance --phrases {phrase!r}='gold coin'.",
        )
        for phrase in phrases
        if says_nothing(phrase)
    ]
    twins: defaultdict[str, list[str]] = defaultdict(list)
    for phrase in phrases:
        twins[_singular(phrase_key(phrase))].append(phrase)
    for names in twins.values():
        if len(names) > 1:
            problem = f"the phrases {', '.join(map(repr, names))} differ by case or number only."
            advice = f"If they mean the same, join them: --phrases {names[1]!r}={names[0]!r}."
            found.append(Finding("twin phrases", where, problem, advice))
    return found


def _singular(phrase: str) -> str:
    """The phrase with its last word in a rough singular; only good for comparing.

    Example:
        >>> [_singular(word) for word in ("coins", "boxes", "berries", "glass", "bus")]
        ['coin', 'box', 'berry', 'glass', 'bus']
    """
    if phrase.endswith("ies") and len(phrase) > 4:
        return f"{phrase[:-3]}y"
    if phrase.endswith(("xes", "ches", "shes", "sses", "zes")):
        return phrase[:-2]
    if phrase.endswith("s") and not phrase.endswith(("ss", "us", "is")):
        return phrase[:-1]
    return phrase


def near_duplicates(one: ExampleSet, other: ExampleSet) -> list[Finding]:
    """A finding for each picture of `other` that is almost a picture of `one`: compressed anew, or resized slightly."""
    first, second = ([_Look.of(example) for example in examples] for examples in (one, other))
    if not first or not second:
        return []
    signs = np.stack([look.signs for look in first])
    found = []
    for look in second:
        shares = (1 - signs @ look.signs / look.signs.size) / 2
        for number in np.argsort(shares, kind="stable"):
            is_flat = look.is_flat or first[number].is_flat
            if not is_flat and shares[number] > _MOST_BITS:
                break
            if _is_same(first[number], look):
                where = f"{other.name}: {look.image_id}"
                problem = f"is almost the picture {first[number].image_id} of {one.name}."
                advice = "Remove it from one of the two: measuring on what was learnt flatters the model."
                found.append(Finding("near-duplicate", where, problem, advice))
                break
    return found


@dataclass(frozen=True, eq=False)
class _Look:
    """How a picture looks from afar: a small grey picture and the signs of its lowest frequencies."""

    image_id: str
    thumb: np.ndarray
    signs: np.ndarray  # +-1
    is_flat: bool

    @classmethod
    def of(cls, example: Example) -> _Look:
        grey = Image.fromarray(example.load_image()).convert("L")
        thumb = np.asarray(grey.resize((_THUMB, _THUMB), Image.Resampling.BOX), np.float32)
        spectrum = _COSINES @ thumb @ _COSINES.T
        signs = np.where(spectrum.ravel()[1:] > 0, 1.0, -1.0)
        return cls(example.image_id, thumb, signs, bool(thumb.std() < _FLAT_GREY))


# Rows of the discrete cosine transform: what a perceptual hash compares.
_COSINES = np.cos(np.pi / _THUMB * np.outer(np.arange(_BANDS), np.arange(_THUMB) + 0.5))


def _is_same(one: _Look, other: _Look) -> bool:
    if one.is_flat or other.is_flat:
        return bool((one.thumb == other.thumb).all())
    return bool(np.abs(one.thumb - other.thumb).mean() <= _MOST_GREY)
