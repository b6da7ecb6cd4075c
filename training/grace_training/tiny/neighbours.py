"""Which rows of a source go into one batch: rows about like things, so that a wrong pair is not wrong at a glance."""

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from grace_training.tiny.pairs import Kind

AREA = 100  # rows of a neighbourhood, about
AREAS_OF_A_BATCH = 4  # so that a batch has far pairs as well as near ones


def areas(texts: list[str], seed: int = 0) -> list[NDArray[np.int64]]:
    """Places of the texts, split into neighbourhoods by k-means over latent semantic analysis."""
    terms = TfidfVectorizer(sublinear_tf=True, stop_words="english", max_features=30000).fit_transform(texts)
    latent = TruncatedSVD(min(64, terms.shape[1] - 1), random_state=seed).fit_transform(terms)
    latent /= np.linalg.norm(latent, axis=1, keepdims=True) + 1e-9
    labels = MiniBatchKMeans(max(2, len(texts) // AREA), n_init=1, random_state=seed).fit_predict(latent)
    found = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return [places for places in found if len(places) > 1]


class Batches:
    """Draws the rows of a batch: from a few neighbourhoods of a source of long texts, from anywhere in the others."""

    def __init__(self, kind: Kind) -> None:
        self._count = len(kind.rows)
        self._areas = areas([str(row["text"])[:1000] for row in kind.rows]) if kind.near else None

    def draw(self, size: int, rng: np.random.Generator) -> list[int]:
        """Places of `size` rows; a row comes twice only where the source is smaller than a batch."""
        if self._areas is None:
            return [int(place) for place in rng.choice(self._count, size, replace=self._count < size)]
        share = -(-size // AREAS_OF_A_BATCH)
        chosen: list[int] = []
        for area in rng.permutation(len(self._areas)):
            places = self._areas[area]
            chosen += [int(place) for place in rng.choice(places, min(share, len(places)), replace=False)]
            if len(chosen) >= size:
                break
        return chosen[:size]
