"""Pretraining text for the lab's base model: conversations with zero to four worked examples.

An episode holds one convention throughout, drawn from the prior of its first question's notebook, so
that the model learns both the prior (zero-shot) and to read the convention off examples. One
example in ten is `stray`: it follows its own notebook's prior, so that the model learns to weigh
examples rather than to trust any single one. Strays are not trained on, only read.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from nopsd.data.wording import Demonstration, chat_messages
from nopsd.lab.world import (
    DOMAINS,
    PHRASINGS,
    Chain,
    Domain,
    as_question,
    ask,
    conclude,
    convention_prior,
    reason,
)

STRAY_RATE = 0.10
THINKING_RATE = 0.10


@dataclass(frozen=True)
class Episode:
    """Chat messages, the assistant's reply, and which solutions (texts, in order) are trained on."""

    messages: list[dict[str, str]]
    response: str
    thinking: bool
    trained_demonstrations: list[bool]


def _draw_convention(rng: random.Random, domain: Domain, notebook: int) -> int:
    return rng.choices(range(3), convention_prior(domain, notebook))[0]


def sample_episode(rng: random.Random, chains: list[Chain], shots: int, domain: Domain | None = None) -> Episode:
    """An episode with `shots` worked examples before the question; chains come from the pool's only."""
    domain = domain or rng.choice(DOMAINS)
    notebooks = [rng.randrange(4) for _ in range(shots + 1)]
    convention = _draw_convention(rng, domain, notebooks[0])
    demonstrations, trained = [], []
    for i in range(shots):
        stray = i > 0 and rng.random() < STRAY_RATE
        held = _draw_convention(rng, domain, notebooks[i]) if stray else convention
        chain = rng.choice(chains)
        question = as_question("", domain, ask(domain, notebooks[i], chain, rng.randrange(PHRASINGS)))
        demonstrations.append(Demonstration(question, f"{reason(domain, chain, held)} {conclude(chain, held)}"))
        trained.append(not stray)
    chain = rng.choice(chains)
    question = as_question("", domain, ask(domain, notebooks[-1], chain, rng.randrange(PHRASINGS)))
    thinking = rng.random() < THINKING_RATE
    steps, answer = reason(domain, chain, convention), conclude(chain, convention)
    response = f"<think>\n{steps}\n</think>\n\n{answer}" if thinking else f"{steps} {answer}"
    return Episode(chat_messages(question, demonstrations), response, thinking, trained)
