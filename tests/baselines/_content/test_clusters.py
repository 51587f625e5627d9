"""Clusters of content vectors: similar items together, no links without the modality."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_msr.baselines._content.clusters import cluster


@pytest.fixture
def clouds():
    """Three clouds of ten items, and two items without the modality."""
    rng = np.random.default_rng(0)
    centers = 10.0 * np.eye(3, 4)
    points = np.repeat(centers, 10, axis=0) + 0.1 * rng.normal(size=(30, 4))
    return np.vstack([points, np.zeros((2, 4))]).astype(np.float32)


def test_clouds_become_clusters(clouds):
    found = cluster(clouds, n_clusters=3, n_links=1, seed=0)
    labels = found.nearest[:30, 0].reshape(3, 10)
    assert (labels == labels[:, :1]).all()
    assert len(set(labels[:, 0])) == 3
    assert np.allclose(found.centroids[labels[:, 0]], 10.0 * np.eye(3, 4), atol=0.2)


def test_links_are_ordered_by_distance_and_missing_without_the_modality(clouds):
    found = cluster(clouds, n_clusters=3, n_links=2, seed=0)
    distance = np.linalg.norm(clouds[:30, None] - found.centroids[found.nearest[:30]], axis=-1)
    assert (distance[:, 0] < distance[:, 1]).all()
    assert (found.nearest[30:] == -1).all()


def test_the_same_seed_gives_the_same_clusters(clouds):
    one, other = (cluster(clouds, n_clusters=5, n_links=2, seed=4) for _ in range(2))
    assert np.array_equal(one.centroids, other.centroids)
    assert np.array_equal(one.nearest, other.nearest)


@pytest.mark.parametrize("n_distinct", [0, 1, 3])
def test_few_distinct_vectors_are_their_own_clusters(n_distinct):
    vectors = np.zeros((7, 2), dtype=np.float32)
    for at in range(n_distinct):
        vectors[2 * at : 2 * at + 2] = at + 1
    found = cluster(vectors, n_clusters=3, n_links=3, seed=0)
    assert len(found.centroids) == max(n_distinct, 1)
    assert np.isfinite(found.centroids).all()
    assert (found.nearest[2 * n_distinct :] == -1).all()
    assert (found.nearest[: 2 * n_distinct] >= 0).all()
