"""Learned vectors for the words of adapted phrases: a phrase learns to mean something without any weight changing.

Token ids come in, token embeddings go out. Vectors belong to whole phrases: "cell" may learn while "red cell" stays
exactly as it was. (Textual inversion, Gal et al. 2022, with the phrase's own tokens in place of new ones.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ConceptVectors(nn.Module):
    """Stands in for a token embedding and adds a learned offset to every token of the adapted phrases.

    Args:
        embedding: of the text encoder, kept as it is.
        token_ids: (P, N) the adapted phrases as the tokenizer writes them, start and end included, zero-padded.

    Example:
        >>> embedding, ids = nn.Embedding(10, 4), torch.tensor([[8, 3, 9, 0], [8, 3, 5, 9]])
        >>> vectors = ConceptVectors(embedding, ids[:1])
        >>> tuple(vectors.offsets.shape)
        (1, 4)
        >>> torch.equal(vectors(ids), embedding(ids))
        True
    """

    embedding: nn.Embedding
    phrase_ids: Tensor
    slots: Tensor

    def __init__(self, embedding: nn.Embedding, token_ids: Tensor):
        super().__init__()
        self.embedding = embedding
        self.is_enabled = True
        token_ids = token_ids.to(embedding.weight.device)
        length = (token_ids != 0).sum(1, keepdim=True)
        place = torch.arange(token_ids.shape[1], device=token_ids.device)
        is_word = (place > 0) & (place < length - 1)  # neither start nor end, which every phrase shares
        # Row 0 of the table of offsets is zero: for padding, and for phrases that are not adapted.
        slots = torch.where(is_word, is_word.flatten().cumsum(0).view_as(is_word), 0)
        self.register_buffer("phrase_ids", token_ids, persistent=False)
        self.register_buffer("slots", torch.cat([slots, slots.new_zeros(1, slots.shape[1])]), persistent=False)
        self.offsets = nn.Parameter(torch.zeros(int(is_word.sum()), embedding.embedding_dim, device=token_ids.device))

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embeddings (T, N, C) of token ids (T, N)."""
        x = self.embedding(token_ids)
        if not self.is_enabled:
            return x
        is_same = (token_ids[:, None] == self.phrase_ids).all(-1)  # T P
        row = torch.where(is_same.any(1), is_same.int().argmax(1), len(self.phrase_ids))
        table = torch.cat([self.offsets.new_zeros(1, self.offsets.shape[1]), self.offsets])
        return x + table[self.slots[row]].to(x.dtype)

    @torch.no_grad()
    def folded(self, phrases: Sequence[str]) -> nn.Embedding:
        """The embedding with the offsets added to its rows, for every phrase that uses those words.

        Args:
            phrases: the adapted phrases in the order of their ids, for the error.

        Raises:
            ValueError: two adapted phrases learnt different vectors for a word they share; nothing is changed then.
        """
        words: dict[int, tuple[int, Tensor]] = {}
        for phrase, (ids, slots) in enumerate(zip(self.phrase_ids.tolist(), self.slots[:-1].tolist(), strict=True)):
            for token, slot in zip(ids, slots, strict=True):
                if not slot:
                    continue
                offset = self.offsets[slot - 1]
                other, known = words.setdefault(token, (phrase, offset))
                if not torch.allclose(known, offset, atol=1e-6):
                    shared = (
                        f"the phrase {phrases[phrase]!r} uses a word twice"
                        if other == phrase
                        else f"the phrases {phrases[other]!r} and {phrases[phrase]!r} share a word"
                    )
                    raise ValueError(
                        f"{shared} but learnt different vectors for it, and merged weights have one vector per word; "
                        "keep the adapter as it is, or adapt phrases without common words"
                    )
        for token, (_, offset) in words.items():
            self.embedding.weight[token] += offset.to(self.embedding.weight.dtype)
        return self.embedding
