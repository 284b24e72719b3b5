"""k-means on scikit-learn's bundled digits by map and reduce: each iteration maps shards of the data, and combines sums.

Distributed Lloyd (Lloyd 1982): a worker assigns its shard's images to the nearest centre and returns sums and counts;
those are added pairwise on the workers; the client moves the centres. The result is that of one machine.
"""

import numpy as np
from sklearn.datasets import load_digits

import plesio

CENTRES, SHARDS, ITERATIONS = 10, 8, 30


def assign(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """points: (n, 64), centres: (k, 64). Returns the nearest centre of each: (n,)."""
    return ((points[:, None, :] - centres[None, :, :]) ** 2).sum(-1).argmin(-1)


def partial(job: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Of a shard: for each centre the sum of its points, and their number: (k, 65)."""
    points, centres = job
    nearest = assign(points, centres)
    found = np.zeros((len(centres), points.shape[1] + 1))
    for k in range(len(centres)):
        mine = points[nearest == k]
        found[k, :-1], found[k, -1] = mine.sum(0), len(mine)
    return found


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a + b


def purity(points: np.ndarray, labels: np.ndarray, centres: np.ndarray) -> float:
    """How many are in a cluster whose most frequent digit is theirs."""
    nearest = assign(points, centres)
    return sum(np.bincount(labels[nearest == k]).max() for k in range(len(centres)) if (nearest == k).any()) / len(points)


if __name__ == "__main__":
    data = load_digits()
    points, labels = data.data / 16.0, data.target
    centres = points[np.random.default_rng(0).choice(len(points), CENTRES, replace=False)]
    shards = np.array_split(points, SHARDS)
    with plesio.connect() as client:
        shift, iteration = 1.0, 0
        while shift > 1e-9 and iteration < ITERATIONS:
            iteration += 1
            total = client.reduce(partial, [(shard, centres) for shard in shards], combine=add)
            moved = total[:, :-1] / np.maximum(total[:, -1:], 1)
            shift, centres = np.abs(moved - centres).max(), moved
    share = purity(points, labels, centres)
    print(f"{CENTRES} centres of {len(points)} digits, still after {iteration} iterations; purity {share:.2f}")
