"""Three dependent stages: each task begins when what it needs has ended; results go from worker to worker."""

import plesio


@plesio.task(retries=2)
def read(part: int) -> list[str]:
    """The names of some modules of the standard library."""
    import sys

    return sorted(sys.stdlib_module_names)[part::4]


def count(words: list[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in words:
        counts[word[0]] = counts.get(word[0], 0) + 1
    return counts


def merge(*counts: dict[str, int]) -> dict[str, int]:
    return {
        letter: sum(part.get(letter, 0) for part in counts) for letter in sorted({x for part in counts for x in part})
    }


if __name__ == "__main__":
    with plesio.connect(workers=2) as client:
        counted = [client.submit(count, client.submit(read, part)) for part in range(4)]
        merged = client.submit(merge, *counted).result()
    print(f"{sum(merged.values())} modules; most begin with {max(merged, key=merged.get)!r}")
