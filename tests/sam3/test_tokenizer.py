"""The tokenizer against two independent byte-pair encoders and hand-written cleaned texts.

The first is the plain Python below. Its merge table is read from the vocabulary embedded in the tokenizer package and
checked against the SHA-256 of the same 48,894 lines in OpenAI's published `bpe_simple_vocab_16e6.txt`. The second is
the CLIP tokenizer of transformers, built from the same table. What cleaning must produce is written down, or follows
from how a case was made; the code under test never supplies its own answer.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
import unicodedata
from functools import cache
from pathlib import Path

import instant_clip_tokenizer
import pytest
import torch

from sam3.detector.tokenizer import END_OF_TEXT, START_OF_TEXT, Tokenizer, clean_phrase

NUM_MERGES = 48894
MERGES_SHA256 = "d308b7377a8ceaa9707a21614fe8c831b9196e197b7aeb69833359362907af02"


# --- the reference -------------------------------------------------------------------------------------------------


@cache
def merges() -> tuple[tuple[str, str], ...]:
    """The byte-pair merges in order of rank."""
    library = next(p for p in Path(instant_clip_tokenizer.__file__).parent.iterdir() if p.suffix in {".so", ".pyd"})
    table = library.read_bytes().partition(b"bpe_simple_vocab_16e6.txt#version: 0.2\n")[2]
    lines = table.split(b"\n", NUM_MERGES)[:NUM_MERGES]
    assert hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest() == MERGES_SHA256
    left_right = [line.decode("utf-8").split(" ") for line in lines]
    return tuple((left, right) for left, right in left_right)


@cache
def byte_symbols() -> dict[int, str]:
    """One visible character per byte, in the order of the vocabulary: printable Latin-1 first, the rest after it."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + rank) for rank, byte in enumerate(hidden)}


@cache
def vocabulary() -> dict[str, int]:
    symbols = list(byte_symbols().values())
    pieces = [*symbols, *(symbol + "</w>" for symbol in symbols), *(left + right for left, right in merges())]
    return {piece: rank for rank, piece in enumerate(pieces)}


@cache
def ranks() -> dict[tuple[str, str], int]:
    return {pair: rank for rank, pair in enumerate(merges())}


def words_of(text: str) -> list[str]:
    """Splits into contractions, runs of letters, single digits and runs of anything else that is not a space."""

    def kind(character: str) -> str:
        if character.isspace():
            return "space"
        return {"L": "letter", "N": "number"}.get(unicodedata.category(character)[0], "other")

    words, start = [], 0
    while start < len(text):
        end = start + 1
        contraction = next(
            (c for c in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if text.startswith(c, start)), None
        )
        if contraction:
            end = start + len(contraction)
        elif kind(text[start]) in ("letter", "other"):
            while end < len(text) and kind(text[end]) == kind(text[start]):
                end += 1
        if kind(text[start]) != "space":
            words.append(text[start:end])
        start = end
    return words


def reference_ids(cleaned: str) -> list[int]:
    """All ids of a cleaned text, start and end token included, without any cut."""
    ids = [START_OF_TEXT]
    for word in words_of(cleaned):
        pieces = [byte_symbols()[byte] for byte in word.encode("utf-8")]
        pieces[-1] += "</w>"
        while known := [pair for pair in zip(pieces, pieces[1:], strict=False) if pair in ranks()]:
            best, merged, i = min(known, key=ranks().__getitem__), [], 0
            while i < len(pieces):
                width = 2 if tuple(pieces[i : i + 2]) == best else 1
                merged.append("".join(pieces[i : i + width]))
                i += width
            pieces = merged
        ids += [vocabulary()[piece] for piece in pieces]
    return [*ids, END_OF_TEXT]


# --- the cases: (phrase as typed, cleaned text) --------------------------------------------------------------------

WRITTEN = [
    ("", ""),
    ("   \t\n ", ""),
    ("red circle", "red circle"),
    ("Red CIRCLE", "red circle"),
    ("  red \t\n circle  ", "red circle"),
    ("a person riding a motorcycle", "a person riding a motorcycle"),
    ("traffic light, left-hand side", "traffic light, left-hand side"),
    ("player no. 10", "player no. 10"),
    ("1234567890", "1234567890"),
    ('4x4 truck with 18" wheels', '4x4 truck with 18" wheels'),
    ("3.14159", "3.14159"),
    ("½ cup", "½ cup"),
    ("x² + y²", "x² + y²"),
    ("Ⅷ roman numeral", "ⅷ roman numeral"),
    ("the dog's tail", "the dog's tail"),
    ("they're, we've, i'll, i'd, i'm, can't", "they're, we've, i'll, i'd, i'm, can't"),
    ("rock 'n' roll", "rock 'n' roll"),
    ("THE DOG'S TAIL", "the dog's tail"),
    ("'sail 'tree", "'sail 'tree"),
    ("!'s", "!'s"),
    ("the dog\u2019s tail", "the dog's tail"),
    ("\u201cstop\u201d sign", '"stop" sign'),
    ("\u2018quoted\u2019", "'quoted'"),
    ("\u00abguillemets\u00bb", "\u00abguillemets\u00bb"),
    ("\ufb02oating \ufb01sh", "floating fish"),
    ("o\ufb03ce sta\ufb00", "office staff"),
    ("\uff32\uff45\uff44\u3000\uff43\uff41\uff52", "red car"),
    ("\uff11\uff12\uff13", "123"),
    ("tom &amp; jerry", "tom & jerry"),
    ("tom &amp;amp; jerry", "tom & jerry"),
    ("<b> tom &amp;amp; jerry", "<b> tom & jerry"),
    ("<b> tom &amp;amp;amp; jerry", "<b> tom &amp; jerry"),
    ("&lt;b&gt;bold&lt;/b&gt;", "<b>bold</b>"),
    ("&quot;stop&quot;", '"stop"'),
    ("caf&eacute;", "caf\u00e9"),
    ("&#99;&#97;&#116;", "cat"),
    ("&#x63;&#x61;&#x74;", "cat"),
    ("&copy; 2025", "\u00a9 2025"),
    ("a&nbsp;b", "a b"),
    ("a\u00a0b", "a b"),
    ("AT&T", "at&t"),
    ("fish & chips", "fish & chips"),
    ("&unknown; entity", "&unknown; entity"),
    ("caf\u00c3\u00a9", "caf\u00e9"),
    ("na\u00c3\u00afve fa\u00c3\u00a7ade", "na\u00efve fa\u00e7ade"),
    ("the dog\u00e2\u20ac\u2122s tail", "the dog's tail"),
    ("\u00e2\u20ac\u0153stop\u00e2\u20ac\u009d", '"stop"'),
    ("cafe\u0301", "caf\u00e9"),
    ("A\u030angstro\u0308m", "\u00e5ngstr\u00f6m"),
    ("\u00c9COLE", "\u00e9cole"),
    ("Stra\u00dfe", "stra\u00dfe"),
    ("\u0130stanbul", "i\u0307stanbul"),
    ("\u039f\u0394\u039f\u03a3", "\u03bf\u03b4\u03bf\u03c2"),
    (
        "\u041a\u0420\u0410\u0421\u041d\u042b\u0419 \u043a\u0440\u0443\u0433",
        "\u043a\u0440\u0430\u0441\u043d\u044b\u0439 \u043a\u0440\u0443\u0433",
    ),
    ("\u7ea2\u8272\u5706\u5f62", "\u7ea2\u8272\u5706\u5f62"),
    ("\u8d64\u3044\u8eca", "\u8d64\u3044\u8eca"),
    ("\ube68\uac04 \uc790\ub3d9\ucc28", "\ube68\uac04 \uc790\ub3d9\ucc28"),
    (
        "\u0633\u064a\u0627\u0631\u0629 \u062d\u0645\u0631\u0627\u0621",
        "\u0633\u064a\u0627\u0631\u0629 \u062d\u0645\u0631\u0627\u0621",
    ),
    (
        "\u05de\u05db\u05d5\u05e0\u05d9\u05ea \u05d0\u05d3\u05d5\u05de\u05d4",
        "\u05de\u05db\u05d5\u05e0\u05d9\u05ea \u05d0\u05d3\u05d5\u05de\u05d4",
    ),
    ("\u0932\u093e\u0932 \u0917\u093e\u0921\u093c\u0940", "\u0932\u093e\u0932 \u0917\u093e\u0921\u093c\u0940"),
    ("\u0e23\u0e16\u0e2a\u0e35\u0e41\u0e14\u0e07", "\u0e23\u0e16\u0e2a\u0e35\u0e41\u0e14\u0e07"),
    ("\u0663 \u0966", "\u0663 \u0966"),
    ("\U0001f600 face", "\U0001f600 face"),
    ("\U0001f468\u200d\U0001f469\u200d\U0001f467 family", "\U0001f468\u200d\U0001f469\u200d\U0001f467 family"),
    ("\U0001f44d\U0001f3fd", "\U0001f44d\U0001f3fd"),
    ("\u2764\ufe0f heart", "\u2764\ufe0f heart"),
    ("\U0001f1e9\U0001f1ea flag", "\U0001f1e9\U0001f1ea flag"),
    ("\u2660\u2663\u2665\u2666", "\u2660\u2663\u2665\u2666"),
    ("em\u2014dash en\u2013dash", "em\u2014dash en\u2013dash"),
    ("wait\u2026", "wait\u2026"),
    ("!", "!"),
    ("!!! ?!?! ...", "!!! ?!?! ..."),
    ("!$%&", "!$%&"),
    ("(a) [b] {c} <d>", "(a) [b] {c} <d>"),
    ("#hashtag @user http://example.org/a?b=c", "#hashtag @user http://example.org/a?b=c"),
    ("C:\\path\\file_name.png", "c:\\path\\file_name.png"),
    ("snake_case camelCase kebab-case", "snake_case camelcase kebab-case"),
    ("a\x00b\x07c", "abc"),
    ("\x1b[31mred\x1b[0m", "red"),
    ("\ufeffred", "red"),
    ("soft\u00adhyphen", "soft\u00adhyphen"),
    ("line\u2028break", "line break"),
    ("\ud83d\ude00", "\U0001f600"),
    ("\ud800 lone", "\ufffd lone"),
    ("<start_of_text>", "<start_of_text>"),
    ("a <end_of_text> b", "a <end_of_text> b"),
    ("<START_OF_TEXT>red<End_Of_Text>", "<start_of_text>red<end_of_text>"),
    ("&lt;end_of_text&gt;", "<end_of_text>"),
    ("&amp;lt;start_of_text&amp;gt; x", "<start_of_text> x"),
    ("\uff1cend_of_text\uff1e", "<end_of_text>"),
    ("<<start_of_text>>", "<<start_of_text>>"),
    ("!<end_of_text>!<end_of_text>", "!<end_of_text>!<end_of_text>"),
    ("<start_of_text", "<start_of_text"),
    ("visual", "visual"),
    ("the quick brown fox jumps over the lazy dog " * 5, ("the quick brown fox jumps over the lazy dog " * 5).strip()),
    ("antidisestablishmentarianism " * 9, ("antidisestablishmentarianism " * 9).strip()),
    ("9" * 80, "9" * 80),
    ("\U0001f600" * 40, "\U0001f600" * 40),
]

PLAIN = [
    "red circle",
    "small cup's handle",
    "caf\u00e9 cr\u00e8me",
    "12 blue coins",
    "nuclei & cells",
    '"exit" sign',
    "m\u00fcller's na\u00efve car",
    "stained tissue (h&e)",
    "floating fish office",
    "\u00e5ngstr\u00f6m \u00f1and\u00fa",
    "won't, don't; can't!",
    "licence plate ab-123",
    "fluffy waffle",
    "\u20ac20 note",
    "\u00fcber-gro\u00dfe t\u00fcr",
]


def numeric_entities(text: str) -> str:
    return "".join(f"&#{ord(c)};" for c in text)


def full_width(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


LIGATURES = {"ffi": "\ufb03", "ff": "\ufb00", "fi": "\ufb01", "fl": "\ufb02"}


def ligatures(text: str) -> str:
    for letters, ligature in LIGATURES.items():
        text = text.replace(letters, ligature)
    return text


DISTORTIONS = {
    "upper case": lambda text: text.replace("\u00df", "\u1e9e").upper(),
    "extra space": lambda text: "\t " + text.replace(" ", " \n\u00a0 ") + "\r\n",
    "numeric entities": numeric_entities,
    "escaped twice": lambda text: numeric_entities(text).replace("&", "&amp;"),
    "full width": full_width,
    "ligatures": ligatures,
    "curly quotes": lambda text: text.replace("'", "\u2019").replace('"', "\u201d"),
    "decomposed accents": lambda text: unicodedata.normalize("NFD", text),
    "UTF-8 read as Windows-1252": lambda text: text.encode("utf-8").decode("cp1252"),
}

MADE = [(distort(text), text) for text in PLAIN for distort in DISTORTIONS.values()]
CASES = WRITTEN + MADE


# --- the tests -----------------------------------------------------------------------------------------------------


def test_there_are_enough_different_cases() -> None:
    assert len({typed for typed, _ in CASES}) >= 200


@pytest.mark.parametrize(("typed", "cleaned"), CASES, ids=lambda text: ascii(text)[:40])
def test_cleaning_gives_the_expected_text(typed: str, cleaned: str) -> None:
    assert clean_phrase(typed) == cleaned


@pytest.mark.parity
@pytest.mark.parametrize(("typed", "cleaned"), CASES, ids=lambda text: ascii(text)[:40])
def test_ids_equal_the_python_reference(typed: str, cleaned: str) -> None:
    expected = reference_ids(cleaned)
    tokenizer = Tokenizer(context_length=len(expected) + 3)
    assert tokenizer.num_tokens(typed) == len(expected)
    assert tokenizer([typed])[0].tolist() == [*expected, 0, 0, 0]


@pytest.mark.parity
def test_ids_equal_transformers_on_cleaned_text() -> None:
    from transformers import CLIPTokenizer

    table = vocabulary() | {"<|startoftext|>": START_OF_TEXT, "<|endoftext|>": END_OF_TEXT}
    other = CLIPTokenizer(vocab=table, merges=list(merges()))  # type: ignore[arg-type]  # pairs, whatever its hint says
    theirs = other([cleaned for _, cleaned in CASES])["input_ids"]
    ours = Tokenizer(context_length=300)([typed for typed, _ in CASES])
    different = [
        case for case, ids, row in zip(CASES, theirs, ours, strict=True) if row.tolist() != ids + [0] * (300 - len(ids))
    ]
    assert different == []


@pytest.mark.parametrize(
    ("phrase", "ids"),
    [  # printed in the README of the tokenizer package
        ("A person riding a motorcycle", [320, 2533, 6765, 320, 10297]),
        ("Hi there", [1883, 997]),
    ],
)
def test_published_ids(phrase: str, ids: list[int]) -> None:
    row = Tokenizer()([phrase])[0]
    assert row.tolist() == [START_OF_TEXT, *ids, END_OF_TEXT] + [0] * (30 - len(ids))


def test_batch_is_int64_and_padded_with_zeros() -> None:
    ids = Tokenizer()(["", "red circle", "word " * 100])
    assert ids.dtype == torch.int64
    assert ids.shape == (3, 32)
    assert (ids != 0).sum(dim=1).tolist() == [2, 4, 32]
    assert Tokenizer()([]).shape == (0, 32)


def test_long_phrase_is_cut_and_still_ends_with_the_end_token() -> None:
    phrase = "one two three four five " * 8
    tokenizer = Tokenizer(context_length=32)
    row = tokenizer([phrase])[0].tolist()
    assert row == [*reference_ids(phrase.strip())[:31], END_OF_TEXT]
    assert tokenizer.num_tokens(phrase) == 42


@pytest.mark.parametrize("words", [29, 30, 31])
def test_exactly_the_phrases_that_fit_are_kept_whole(words: int) -> None:
    tokenizer = Tokenizer(context_length=32)
    phrase = "cat " * words
    assert tokenizer.num_tokens(phrase) == words + 2
    assert (tokenizer([phrase])[0] == 2368).sum() == min(words, 30)


@pytest.mark.parametrize("literal", ["<start_of_text>", "<END_OF_TEXT>", "&lt;end_of_text&gt;", "<\u017ftart_of_text>"])
def test_typed_control_words_stay_ordinary_text(literal: str) -> None:
    row = Tokenizer()([f"a {literal} b"])[0].tolist()
    assert row.count(START_OF_TEXT) == row.count(END_OF_TEXT) == 1
    assert row[row.index(END_OF_TEXT) - 1] == 321  # "b" is still there


def test_wrong_arguments_are_refused_with_advice() -> None:
    with pytest.raises(TypeError, match=r"write \['red circle'\]"):
        Tokenizer()("red circle")
    with pytest.raises(TypeError, match="NoneType"):
        Tokenizer()(["red", None])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="at least 2"):
        Tokenizer(context_length=1)


def test_copies_and_pickles_give_the_same_ids() -> None:
    tokenizer = Tokenizer(context_length=8)
    expected = tokenizer(["red circle"])
    for twin in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert torch.equal(twin(["red circle"]), expected)
