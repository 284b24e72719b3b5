"""Producers and consumers on a bounded queue: a full queue makes producers wait, and nothing is lost or taken twice."""

import threading

import plesio

ITEMS = 200


def produce(client: plesio.Client, who: int) -> None:
    queue = client.queue("work")
    for i in range(ITEMS // 2):
        queue.put((who, i))  # waits while the queue is full


def consume(client: plesio.Client, taken: list) -> None:
    queue = client.queue("work")
    while message := queue.get(timeout=2.0):
        with message as value:  # acknowledged at the end of the block, given back if it raises
            taken.append(value)


if __name__ == "__main__":
    with plesio.connect(workers=1) as client:
        client.queue("work", capacity=20)
        taken: list = []
        threads = [threading.Thread(target=produce, args=(client, who)) for who in range(2)]
        threads += [threading.Thread(target=consume, args=(client, taken)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(f"{len(taken)} messages, {len(set(taken))} different")
