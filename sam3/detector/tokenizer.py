"""Phrases to token ids: the first step of the detector's text branch.

A list of phrases comes in, a (T, context_length) tensor of CLIP byte-pair ids goes out. The byte-pair rules and their
vocabulary come with `instant_clip_tokenizer`; the cleaning in front of them is written here, because it decides most of
the differences between CLIP tokenizers.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import cache

import ftfy
import torch
from instant_clip_tokenizer import Tokenizer as BytePairEncoder
from torch import Tensor

START_OF_TEXT = 49406
END_OF_TEXT = 49407
PADDING = 0

# "<start_of_text>" typed by a user would be read as the control token. A space behind the bracket prevents that and
# changes nothing else: the split into words drops spaces, and it would end at the first letter anyway.
_CONTROL_LITERAL = re.compile(r"<(?=(?:start|end)_of_text>)")


@cache
def _byte_pair_encoder() -> BytePairEncoder:
    """The shared encoder. Kept out of `Tokenizer`, so that a model that holds one can be copied and pickled."""
    return BytePairEncoder()


def clean_phrase(phrase: str) -> str:
    """Returns the phrase as the text encoder was trained on it.

    Broken Unicode is repaired, HTML entities are resolved, runs of white space become one space, letters lower case.

    Args:
        phrase: any text.

    Returns:
        The cleaned text; "" when nothing but white space was given.

    Example:
        >>> clean_phrase("  Tom &amp;amp; Jerry\\u2019s\\n \\uff23\\uff21\\uff34 ")
        "tom & jerry's cat"
    """
    text = html.unescape(html.unescape(ftfy.fix_text(phrase)))
    return re.sub(r"\s+", " ", text).strip().lower()


class Tokenizer:
    """Turns phrases into CLIP token ids, padded with zeros to a fixed length.

    The literal words `<start_of_text>` and `<end_of_text>` inside a phrase are read as ordinary text; the reference
    implementation turns them into control tokens. All other phrases give the reference's ids. Id 0 is both the padding
    and the byte-pair piece "!" without a word end. That piece appears only in runs of symbols such as "!$%", and the
    text encoder masks it like padding, as the reference does.

    Args:
        context_length: tokens per phrase, start and end token included (SAM 3 uses 32); at least 2.

    Raises:
        ValueError: if `context_length` leaves no room for the start and end tokens.

    Example:
        >>> tokenizer = Tokenizer(context_length=6)
        >>> tokenizer(["red circle", "A CAT"])
        tensor([[49406,   736,  7117, 49407,     0,     0],
                [49406,   320,  2368, 49407,     0,     0]])
        >>> tokenizer.num_tokens("red circle")
        4
    """

    def __init__(self, context_length: int = 32) -> None:
        if context_length < 2:
            raise ValueError(
                f"context_length is {context_length}, expected at least 2 (a start and an end token). SAM 3 uses 32."
            )
        self.context_length = context_length

    def __call__(self, phrases: Sequence[str]) -> Tensor:
        """Returns the ids of all phrases.

        A phrase that needs more than `context_length` tokens is cut and still ends with the end token. A caller that
        would rather refuse it asks `num_tokens` first.

        Args:
            phrases: T phrases; an empty phrase becomes a start and an end token.

        Returns:
            (T, context_length) int64 on the CPU, ids 0..49407: start, pieces, end, then zeros.

        Raises:
            TypeError: if `phrases` is one string, or holds something that is not a string.
        """
        if isinstance(phrases, str):
            raise TypeError(f"phrases is the string {phrases!r}, expected a list of strings; write [{phrases!r}].")
        ids = torch.full((len(phrases), self.context_length), PADDING, dtype=torch.int64)  # T L
        for row, phrase in zip(ids, phrases, strict=True):
            tokens = self._encode(phrase)[: self.context_length]
            tokens[-1] = END_OF_TEXT
            row[: len(tokens)] = torch.tensor(tokens)
        return ids

    def num_tokens(self, phrase: str) -> int:
        """Returns how many tokens the phrase needs before any cut, start and end token included.

        Args:
            phrase: any text. It fits without loss when the result is at most `context_length`.

        Raises:
            TypeError: if `phrase` is not a string.
        """
        return len(self._encode(phrase))

    def _encode(self, phrase: str) -> list[int]:
        if not isinstance(phrase, str):
            raise TypeError(f"a phrase is {phrase!r} ({type(phrase).__name__}), expected a string; write its words.")
        text = _CONTROL_LITERAL.sub("< ", clean_phrase(phrase))
        return [START_OF_TEXT, *_byte_pair_encoder().encode(text), END_OF_TEXT]
