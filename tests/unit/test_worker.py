"""Calls run one after the other beside the loop; a call that still waits can be taken back."""

import asyncio
import threading
import time

import pytest

from branchynet.serving.worker import Worker


@pytest.fixture
def worker():
    made = Worker("test-compute")
    yield made
    made.close()


async def test_a_result_comes_with_its_times(worker):
    done = await worker.run(lambda seconds, add: time.sleep(seconds) or 1 + add, 0.02, add=2)
    assert done.value == 3
    assert done.compute_ms >= 20
    assert done.queue_ms >= 0


async def test_calls_run_in_the_order_they_came_and_never_two_at_once(worker):
    running, most, order = 0, 0, []

    def call(number):
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.001)
        order.append(number)
        running -= 1
        return number

    results = await asyncio.gather(*(worker.run(call, number) for number in range(20)))
    assert [done.value for done in results] == order == list(range(20))
    assert most == 1


async def test_waiting_counts_as_waiting(worker):
    started, release = threading.Event(), threading.Event()
    busy = asyncio.create_task(worker.run(lambda: started.set() or release.wait(10)))
    await asyncio.to_thread(started.wait, 10)
    waiting = asyncio.create_task(worker.run(int, "5"))
    await asyncio.sleep(0.03)
    release.set()
    assert (await busy).compute_ms >= 29
    assert (await waiting).queue_ms >= 29


async def test_the_loop_goes_on_while_a_call_runs(worker):
    release = threading.Event()
    call = asyncio.create_task(worker.run(release.wait, 10))
    await asyncio.sleep(0.01)
    release.set()
    assert (await call).value is True


async def test_calls_run_on_one_thread_of_its_name_that_is_not_the_loops(worker):
    names = [(await worker.run(lambda: threading.current_thread().name)).value for _ in range(3)]
    assert len(set(names)) == 1
    assert names[0].startswith("test-compute")


async def test_what_a_call_raises_is_raised_here_and_the_next_call_runs(worker):
    def fail():
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        await worker.run(fail)
    assert (await worker.run(lambda: 5)).value == 5


async def test_a_cancelled_call_that_still_waits_never_runs(worker):
    started, release, ran = threading.Event(), threading.Event(), []

    def occupy():
        started.set()
        release.wait(10)

    busy = asyncio.create_task(worker.run(occupy))
    waiting = [asyncio.create_task(worker.run(ran.append, number)) for number in range(3)]
    await asyncio.to_thread(started.wait, 10)
    waiting[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[1]
    release.set()
    await asyncio.gather(busy, waiting[0], waiting[2])
    assert ran == [0, 2]


async def test_closing_finishes_what_runs_and_drops_what_waits():
    worker, started, release, ran = Worker("closing"), threading.Event(), threading.Event(), []

    def occupy():
        started.set()
        release.wait(10)
        ran.append("running")

    busy = asyncio.create_task(worker.run(occupy))
    waiting = asyncio.create_task(worker.run(ran.append, "waiting"))
    await asyncio.to_thread(started.wait, 10)
    closing = asyncio.create_task(asyncio.to_thread(worker.close))
    await asyncio.sleep(0.01)
    release.set()
    await asyncio.gather(closing, busy)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ran == ["running"]
