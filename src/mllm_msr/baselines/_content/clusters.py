"""Clusters of content vectors: the modality nodes of `mmsr.py`.

k-means groups the items of one modality; each item is linked to its nearest centroids, so that
two items that look or read alike share a node even if nobody chose both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.cluster.vq import kmeans2

from mllm_msr.baselines._training.histories import Codes
from mllm_msr.models.encoders.base import Vectors

_ITERATIONS = 20


@dataclass(frozen=True, slots=True)
class Clusters:
    """Centroids and each item's nearest ones.

    Attributes:
        centroids: float32 [n_clusters, d].
        nearest: int64 [n_items, n_links]; clusters from near to far, -1 for items without the
            modality.
    """

    centroids: Vectors
    nearest: Codes


def cluster(vectors: Vectors, *, n_clusters: int, n_links: int, seed: int) -> Clusters:
    """k-means over the items that have the modality.

    Args:
        vectors: Shape [n_items, d]; zero rows have no modality and belong to no cluster.
        n_clusters: Centroids wanted; fewer where fewer vectors are distinct.
        n_links: Nearest centroids per item.
        seed: Seed of the first centroids.

    Returns:
        At least one centroid, and `min(n_links, n_clusters)` links for each item.
    """
    present = vectors.any(axis=1)
    seen = vectors[present].astype(np.float64)
    distinct = np.unique(seen, axis=0)
    if len(distinct) <= n_clusters:
        centroids = distinct if len(distinct) else np.zeros((1, vectors.shape[1]))
    else:
        rng = np.random.default_rng(seed)
        # Empty clusters keep their last centroid, which only makes a node that few items use.
        with np.errstate(all="ignore"):
            centroids, _ = kmeans2(
                seen, n_clusters, iter=_ITERATIONS, minit="++", rng=rng, missing="warn"
            )
    distance = (centroids**2).sum(1) - 2.0 * seen @ centroids.T
    order = np.argsort(distance, axis=1, kind="stable")[:, :n_links]
    nearest = np.full((len(vectors), order.shape[1]), -1, dtype=np.int64)
    nearest[present] = order
    return Clusters(centroids.astype(np.float32), nearest)
