"""Clusters of content vectors: the modality nodes of MMSR.

k-means groups the items of one modality, and each item is linked to its nearest centroids. Two
items with similar content thus share a node even if no user interacted with both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.cluster.vq import kmeans2

from mllm_msr.baselines._training.histories import Codes
from mllm_msr.models.encoders.base import Vectors

_ITERATIONS: Final = 20


@dataclass(frozen=True, slots=True)
class Clusters:
    """Centroids and the nearest centroids of each item.

    Attributes:
        centroids: float32 [n_clusters, d].
        nearest: int64 [n_items, n_links]; clusters in order of distance, -1 for items without the
            modality.
    """

    centroids: Vectors
    nearest: Codes


def cluster(vectors: Vectors, *, n_clusters: int, n_links: int, seed: int) -> Clusters:
    """Cluster the items that have the modality by k-means.

    Args:
        vectors: Shape [n_items, d]; zero rows have no modality and belong to no cluster.
        n_clusters: Number of centroids; fewer if fewer vectors are distinct.
        n_links: Nearest centroids per item.
        seed: Seed of the initial centroids.

    Returns:
        At least one centroid, and `min(n_links, n_clusters)` links per item.
    """
    present = vectors.any(axis=1)
    points = vectors[present].astype(np.float64)
    distinct = np.unique(points, axis=0)
    if len(distinct) <= n_clusters:
        centroids = distinct if len(distinct) else np.zeros((1, vectors.shape[1]))
    else:
        rng = np.random.default_rng(seed)
        # An empty cluster keeps its last centroid; such a node is rarely used and harmless.
        with np.errstate(all="ignore"):
            centroids, _ = kmeans2(
                points, n_clusters, iter=_ITERATIONS, minit="++", rng=rng, missing="warn"
            )
    # Squared distances up to a constant per point.
    distance = (centroids**2).sum(1) - 2.0 * points @ centroids.T
    order = np.argsort(distance, axis=1, kind="stable")[:, :n_links]
    nearest = np.full((len(vectors), order.shape[1]), -1, dtype=np.int64)
    nearest[present] = order
    return Clusters(centroids.astype(np.float32), nearest)
