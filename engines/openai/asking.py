"""Many requests to one endpoint at once: who is asked next, what is heard of each answer, and how all end when one fails."""

import asyncio
from collections.abc import Callable, Sequence

from engines import Completion, Request, RequestRefused, _begun
from engines.openai import options
from engines.openai.http import Client
from engines.openai.spelling import Spelling
from pipeline.artifact import hash_of
from pipeline.errors import Refusal


async def answer_all(
    spelling: Spelling, client: Client, requests: Sequence[Request], answered: Callable[[int, Completion], None]
) -> list[Completion]:
    """The answers in the order of the requests; `answered` hears of each as it arrives."""
    prompts, over = spelling.room(requests)
    twins: dict[str, int] = {}
    jobs: list[tuple[int, Request, tuple[int, ...] | None, int]] = []
    for index, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
        same = hash_of([list(request.messages), request.seed, request.n, list(request.options), list(request.begun)])
        jobs.append((index, request, prompt, twins.get(same, 0)))
        twins[same] = twins.get(same, 0) + 1
    made: list[Completion | None] = [None] * len(requests)
    failed: list[Refusal] = []
    left = iter(jobs)
    client.stopping.clear()

    async def work() -> None:
        for index, request, prompt, twin in left:
            try:
                if over[index]:
                    made[index] = done = Completion(prompt or (), (_begun.ENDED,) * request.n)
                else:
                    made[index] = done = await _answer(spelling, client, request, prompt, twin)
                answered(index, done)
            except RequestRefused as error:
                error.index = index
                failed.append(error)
            if failed:
                client.stopping.set()
                return

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(client.width, len(jobs))):
                group.create_task(work())
    except* (OSError, Refusal) as several:  # of `answered`
        raise several.exceptions[0] from None
    if failed:
        raise failed[0]
    return [done for done in made if done is not None]


async def _answer(spelling: Spelling, client: Client, request: Request, prompt: tuple[int, ...] | None, twin: int) -> Completion:
    """One request, answered; `twin` counts equal requests."""
    if request.options:
        score = options.of_any_length if spelling.is_vllm else options.of_one_token
        return await score(spelling, client, request, prompt)
    return await spelling.answer(client, request, prompt, twin)
