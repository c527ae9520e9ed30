"""Ranking: BM25, the embedder's order, and NDCG at 5."""

import math
import re
from collections import Counter

import numpy as np

K1, B = 1.2, 0.75
_RUN = re.compile(r"[a-z0-9']+|[\u3040-\u30ff\u3400-\u9fff々]+")


def terms(text: str) -> list[str]:
    """English words, and character bigrams of Japanese runs (a run of one is a term)."""
    found = []
    for run in _RUN.findall(text.lower()):
        if run[0].isascii() or len(run) == 1:
            found.append(run)
        else:
            found += [run[i:i + 2] for i in range(len(run) - 1)]
    return found


class Bm25:
    """Okapi BM25 (k1 1.2, b 0.75, idf as in Lucene) over a list of texts."""

    def __init__(self, texts: list[str]) -> None:
        self.counts = [Counter(terms(text)) for text in texts]
        self.lengths = [sum(c.values()) for c in self.counts]
        self.mean = sum(self.lengths) / len(texts)
        spread = Counter(term for c in self.counts for term in c)
        self.idf = {t: math.log(1 + (len(texts) - n + 0.5) / (n + 0.5)) for t, n in spread.items()}

    def scores(self, query: str) -> np.ndarray:
        """One score per text."""
        asked = terms(query)
        return np.array([
            sum(self.idf[t] * c[t] * (K1 + 1) / (c[t] + K1 * (1 - B + B * length / self.mean))
                for t in asked if t in c)
            for c, length in zip(self.counts, self.lengths)])


def embedder_scores(folder: str, queries: list[str], texts: list[str]) -> np.ndarray:
    """Cosines [queries, texts] of a sentence-transformers model."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")
    encoded = [model.encode(t, normalize_embeddings=True, show_progress_bar=False)
               for t in (queries, texts)]
    return encoded[0] @ encoded[1].T


def ndcg(scores: np.ndarray, relevant: set[int], k: int = 5) -> float:
    """NDCG at `k` with binary relevance. Texts of equal score count as their mean over all
    orders, so that a scorer that says nothing gains nothing from the order of the list."""
    ideal = sum(1 / math.log2(r + 2) for r in range(min(k, len(relevant))))
    gain, rank = 0.0, 0
    for score in np.unique(scores)[::-1]:
        tied = np.flatnonzero(scores == score)
        share = sum(int(i) in relevant for i in tied) / len(tied)
        gain += sum(share / math.log2(r + 2) for r in range(rank, min(k, rank + len(tied))))
        rank += len(tied)
        if rank >= k:
            break
    return gain / ideal
