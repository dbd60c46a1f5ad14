"""Who goes where in the LLM server: queue, slots, batches. No process."""

from collections.abc import Sequence
from random import Random

import pytest

pytest.importorskip("torch", reason="the LLM example needs the extra: pip install -e '.[llm]'")

from examples.llm.router import Batcher, Route, Router, Served, batch_of


def request(number: int, prompt: int = 3, new: int = 2) -> Served:
    return Served(-1, [1000 * number + at for at in range(prompt)], new, (), number=number)


def added(router: Router, *requests: Served) -> list[Route]:
    for one in requests:
        router.add(one)
    return router.dispatch()


def places(routes: Sequence[Route]) -> list[tuple[int, int, int, int]]:
    return [(route.request.number, route.prefill, route.decode, route.request.slot) for route in routes]


# -- the router


def test_a_request_goes_to_the_idle_prefill_actor_and_the_emptiest_decode_actor() -> None:
    router = Router(prefills=2, decodes=2, slots=2)
    assert places(added(router, request(0), request(1))) == [(0, 0, 2, 0), (1, 1, 3, 0)]


def test_without_an_idle_prefill_actor_requests_wait_in_order() -> None:
    router = Router(prefills=1, decodes=1, slots=4)
    (first,) = added(router, request(0), request(1), request(2))
    assert [waiting.number for waiting in router.waiting] == [1, 2]
    assert router.dispatch() == []
    router.prefilled(first)
    assert places(router.dispatch()) == [(1, 0, 1, 1)]


def test_without_a_free_slot_nothing_is_prefilled() -> None:
    router = Router(prefills=2, decodes=1, slots=1)
    (first,) = added(router, request(0), request(1))
    router.prefilled(first)
    assert router.dispatch() == [], "both prefill actors are idle, but the KV cache would have nowhere to go"
    router.finished(first)
    assert places(router.dispatch()) == [(1, 1, 2, 0)]


def test_colocated_requests_wait_for_slots_alone() -> None:
    router = Router(prefills=0, decodes=2, slots=2)
    routes = added(router, *map(request, range(5)))
    assert places(routes) == [(0, 0, 0, 0), (1, 1, 1, 0), (2, 0, 0, 1), (3, 1, 1, 1)]
    router.prefilled(routes[0])
    assert router.dispatch() == []
    router.finished(routes[3])
    assert places(router.dispatch()) == [(4, 1, 1, 1)]


def test_what_is_free_cannot_be_freed_again() -> None:
    router = Router(prefills=1, decodes=1, slots=2)
    (route,) = added(router, request(0))
    router.prefilled(route)
    with pytest.raises(ValueError, match="prefill actor 0 is idle; expected it to be at work"):
        router.prefilled(route)
    router.finished(route)
    with pytest.raises(ValueError, match="slot 0 of actor 1 is free; expected it to be Route"):
        router.finished(route)


@pytest.mark.parametrize(("prefills", "decodes", "slots"), [(1, 1, 1), (1, 3, 2), (3, 1, 4), (2, 2, 2), (0, 2, 3)])
def test_every_request_is_served_in_order_and_no_slot_twice(prefills: int, decodes: int, slots: int) -> None:
    random = Random(0)
    router = Router(prefills, decodes, slots)
    arriving = list(map(request, range(60)))
    prefilling: list[Route] = []
    decoding: list[Route] = []
    started: list[int] = []
    while len(started) < 60 or prefilling or decoding:
        match random.randrange(3):
            case 0 if arriving:
                router.add(arriving.pop(0))
            case 1 if prefilling:
                route = prefilling.pop(random.randrange(len(prefilling)))
                router.prefilled(route)
                decoding.append(route)
            case 2 if decoding:
                router.finished(decoding.pop(random.randrange(len(decoding))))
        for route in router.dispatch():
            started.append(route.request.number)
            prefilling.append(route)
        taken = [(route.decode, route.request.slot) for route in [*prefilling, *decoding]]
        assert len(set(taken)) == len(taken) <= decodes * slots
        assert all(0 <= slot < slots for _, slot in taken)
        if prefills:
            at_work = [route.prefill for route in prefilling]
            assert len(set(at_work)) == len(at_work)
            held_up = len(at_work) == prefills or len(taken) == decodes * slots
        else:
            held_up = len(taken) == decodes * slots
        assert held_up or not router.waiting
    assert started == list(range(60))


# -- the batcher


def serve(batcher: Batcher, requests: Sequence[Served]) -> list[int]:
    """Steps until nothing is left, beside a KV cache made of tokens; how many tokens each step had."""
    cache: dict[int, list[int]] = {one.slot: [] for one in requests}
    sizes = []
    while spans := batcher.next_step():
        tokens, batch = batch_of(spans)
        sizes.append(len(tokens))
        row, next_ids = 0, []
        for slot, start, length in zip(*batch, strict=True):
            assert start == len(cache[slot])
            cache[slot] += tokens[row : row + length].tolist()
            row += length
            next_ids.append(len(cache[slot]))  # a model whose next token is the length of the sequence
        batcher.stepped(spans, next_ids, now_s=float(len(sizes)))
    for one in requests:
        assert cache[one.slot] == [*one.prompt, *one.output[:-1]]
    return sizes


@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 100])
def test_every_request_gets_its_own_tokens(chunk: int | None) -> None:
    batcher, requests = Batcher(chunk), [request(0, 3, 4), request(1, 5, 2), request(2, 1, 3)]
    for slot, one in enumerate(requests):
        one.slot = slot
        batcher.add(one)
    serve(batcher, requests)
    assert [one.output for one in requests] == [[3, 4, 5, 6], [5, 6], [1, 2, 3]]
    assert all(one.times == sorted(set(one.times)) for one in requests)


def test_a_whole_prompt_is_one_step_and_prompts_come_one_by_one() -> None:
    batcher, requests = Batcher(), [request(0, 30, 3), request(1, 50, 1)]
    for slot, one in enumerate(requests):
        one.slot = slot
        batcher.add(one)
    assert serve(batcher, requests) == [30, 1 + 50, 1]


def test_a_chunk_is_shared_by_prompts_and_decodes_come_on_top() -> None:
    batcher, requests = Batcher(chunk=8), [request(0, 5, 3), request(1, 12, 1)]
    for slot, one in enumerate(requests):
        one.slot = slot
        batcher.add(one)
    assert serve(batcher, requests) == [5 + 3, 1 + 8, 1 + 1]


def test_a_prompt_that_is_in_the_cache_already_only_decodes() -> None:
    batcher, one = Batcher(), request(0, prompt=40, new=3)
    one.slot, one.cached, one.output = 5, 40, [7]
    batcher.add(one)
    spans = batcher.next_step()
    tokens, batch = batch_of(spans)
    assert tokens.tolist() == [7]
    assert batch == ((5,), (40,), (1,))
    assert batcher.stepped(spans, [8], 0.0) == []
    assert batcher.stepped(batcher.next_step(), [9], 0.0) == [one]
    assert one.output == [7, 8, 9]
    assert batcher.next_step() == []
