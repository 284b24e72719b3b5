"""What the HTTP process keeps, and lets go of, with a real pool."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

import plesio
from plesio.tasks import Client
from plesio.tasks.embedded import attach
from plesio.web import gateway as gatewaying
from plesio.web.gateway import Gateway
from plesio.web.problems import Refusal

WAIT_S = 150.0


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("pool")
    with plesio.connect(folder=folder, workers=1), attach(folder, patient=False) as client:
        yield client


async def keeps(gateway: Gateway, count: int) -> None:
    """The loop hears of the end of a task a moment after who waits for it."""
    async with asyncio.timeout(WAIT_S):
        while len(gateway.watched) != count:
            await asyncio.sleep(0.01)


async def result_of(gateway: Gateway, name: str) -> object:
    _, future = await gateway.find(name, WAIT_S)
    assert future is not None
    return future.result(0)


def test_the_last_results_are_kept_and_those_before_are_still_the_pools(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gatewaying, "KEPT", 3)

    async def run() -> None:
        gateway = Gateway(client)
        names = []
        for n in range(10):
            future = await gateway.submit(
                1, lambda durable, n=n: client.submit("math:factorial", n, block=False, on_durable=durable)
            )
            assert await gateway.wait(gateway.watch(future), WAIT_S)
            names.append(future.name)
        await keeps(gateway, 3)
        assert [await result_of(gateway, name) for name in names[:4]] == [1, 1, 2, 6]
        await keeps(gateway, 3)

    asyncio.run(run())


def test_large_results_are_let_go_of_sooner_and_what_is_gone_is_said(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gatewaying, "KEPT_LARGE", 1)

    async def run() -> None:
        gateway = Gateway(client)
        names = []
        for n in range(3):
            future = await gateway.submit(
                1, lambda durable: client.submit("numpy:zeros", 100_000, block=False, on_durable=durable)
            )
            assert await gateway.wait(gateway.watch(future), WAIT_S), n
            names.append(future.name)
            del future
        await keeps(gateway, 1)
        assert len(await result_of(gateway, names[2])) == 100_000  # type: ignore[arg-type]
        async with asyncio.timeout(WAIT_S):  # the pool is told behind what else is under way
            with pytest.raises(Refusal):
                while True:  # who asks for its result would keep it
                    await gateway.row(names[0])
        with pytest.raises(Refusal) as gone:
            await result_of(gateway, names[0])
        assert gone.value.status == 404

    asyncio.run(run())


def test_a_full_queue_refuses_one_that_is_not_patient_and_says_when_to_come_again(client: Client) -> None:
    client.set_queue("full", capacity=1, paused=True)

    async def run() -> None:
        gateway = Gateway(client)

        async def submit() -> object:
            return await gateway.submit(
                1, lambda durable: client.submit("math:gcd", 1, 1, queue="full", block=False, on_durable=durable)
            )

        await submit()
        with pytest.raises(Refusal, match="full") as refused:
            await submit()
        assert refused.value.status == 429 and int(refused.value.headers["Retry-After"]) >= 1

    asyncio.run(run())
