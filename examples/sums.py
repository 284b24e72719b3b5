"""Sum and mean of a large array: divided into tasks, computed on all workers, gathered. The array goes by shared memory."""

import numpy as np

import plesio

PARTS = 16


def partial_sum(part: np.ndarray) -> tuple[float, int]:
    return float(part.sum()), len(part)


def add(a: tuple[float, int], b: tuple[float, int]) -> tuple[float, int]:
    return a[0] + b[0], a[1] + b[1]


if __name__ == "__main__":
    array = np.arange(8_000_000, dtype=np.float64)
    with plesio.connect() as client:
        gathered = client.gather(client.submit(partial_sum, part) for part in np.array_split(array, PARTS))
        print(f"gathered: {sum(total for total, _ in gathered):.0f}")
        total, count = client.reduce(partial_sum, np.array_split(array, PARTS), combine=add)
        print(f"reduced on the workers: sum {total:.0f}, mean {total / count}")
