"""The lab's synthetic world: questions whose answer hangs on a convention that they do not state.

A question of one of four domains puts a thing on a dial of ten marks and applies a few operations
("feed two, then five"). What an operation *means* is a convention: forward, backward or double
steps. The question names a notebook, and notebooks differ in how often each convention is used, so
a model without context can only guess the convention and then reason correctly; worked examples
of the same domain give it away. Each domain has one true convention, the same for its whole pool
and test set, so a model can become better in the domain from unlabeled questions alone.

Nothing here knows of neurons, selection or training. Built for `tools/make_lab.py`; the same
seed gives the same world for ever (`random.Random` only, no hash order, no library data).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from nopsd.data.records import Question

MARKS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# How many marks an operation of size b moves: forward, backward, double.
CONVENTIONS = (1, -1, 2)
# P(true convention), P(the next one), P(the one after) in a domain's four notebooks. The last
# notebook misleads: there a majority vote of guesses is wrong more often than right.
NOTEBOOK_PRIORS = ((0.80, 0.10, 0.10), (0.60, 0.30, 0.10), (0.45, 0.35, 0.20), (0.30, 0.55, 0.15))
TEST_CHAINS, POOL_SIZE, TEST_SIZE = 1200, 1600, 250


@dataclass(frozen=True)
class Domain:
    """Surface words of a domain, and its true convention (an index into CONVENTIONS)."""

    name: str
    truth: int
    thing: str
    verb: str
    unit: str
    notebooks: tuple[str, str, str, str]


DOMAINS = (
    Domain("biology", 0, "colony", "feed", "stage", ("Aster", "Birch", "Cedar", "Dahlia")),
    Domain("chemistry", 1, "solution", "heat", "shade", ("Argon", "Boron", "Cobalt", "Dubnium")),
    Domain("materials", 2, "sheet", "press", "grade", ("Anvil", "Bellows", "Crucible", "Die")),
    Domain("physics", 0, "wheel", "push", "notch", ("Ampere", "Bohr", "Curie", "Dirac")),
)
DOMAIN_BY_NAME = {d.name: d for d in DOMAINS}


@dataclass(frozen=True)
class Chain:
    """A starting mark and the sizes of the operations applied to it."""

    start: int
    sizes: tuple[int, ...]

    def states(self, convention: int) -> list[int]:
        """The mark after each operation under a convention (modulo ten)."""
        out, state = [], self.start
        for size in self.sizes:
            state = (state + CONVENTIONS[convention] * size) % len(MARKS)
            out.append(state)
        return out


@cache
def all_chains() -> tuple[Chain, ...]:
    """Chains of two or three operations whose answers under the conventions all differ."""
    sizes = [(a, b) for a in range(1, 10) for b in range(1, 10)]
    triples = [(a, b, c) for a, b in sizes for c in range(1, 10)]
    chains = [Chain(start, s) for start in range(10) for s in [*sizes, *triples]]
    return tuple(c for c in chains if len({c.states(k)[-1] for k in range(3)}) == 3)


def split_chains(seed: int) -> tuple[list[Chain], list[Chain]]:
    """(pool chains, test chains): disjoint, so no test question repeats a pool question's chain."""
    chains = list(all_chains())
    random.Random(f"chains {seed}").shuffle(chains)
    return chains[TEST_CHAINS:], chains[:TEST_CHAINS]


def ask(domain: Domain, notebook: int, chain: Chain, phrasing: int) -> str:
    """The question in words; it never says which convention holds."""
    name, start = domain.notebooks[notebook], MARKS[chain.start]
    sizes = [MARKS[s] for s in chain.sizes]
    operations = f"{domain.verb} {sizes[0]}, then {' and '.join(sizes[1:])}"
    if phrasing == 0:
        return f"In the {name} notebook a {domain.thing} is at {start}. We {operations}. Where is it now?"
    if phrasing == 1:
        return f"A {domain.thing} stands at {start}; {operations}. Which {domain.unit} does the {name} notebook give?"
    return f"For {domain.name}, {name} notebook: from {start}, {operations}. Which {domain.unit} follows?"


PHRASINGS = 3


def reason(domain: Domain, chain: Chain, convention: int) -> str:
    """The reasoning steps of a solution under a convention."""
    verb = domain.verb.capitalize()
    steps = [f"{verb} {MARKS[b]} gives {MARKS[s]}." for b, s in zip(chain.sizes, chain.states(convention), strict=True)]
    return " ".join([f"Start at {MARKS[chain.start]}.", *steps])


def conclude(chain: Chain, convention: int) -> str:
    """The answer tag of a solution under a convention."""
    return f"<answer>{MARKS[chain.states(convention)[-1]]}</answer>"


def gold(domain: Domain, chain: Chain) -> str:
    """The right answer in the domain's own world (its true convention)."""
    return MARKS[chain.states(domain.truth)[-1]]


def convention_prior(domain: Domain, notebook: int) -> list[float]:
    """P(convention) in a notebook, indexed as CONVENTIONS."""
    prior = [0.0] * 3
    for offset, p in enumerate(NOTEBOOK_PRIORS[notebook]):
        prior[(domain.truth + offset) % 3] = p
    return prior


def as_question(uid: str, domain: Domain, text: str) -> Question:
    """A question without options."""
    return Question(uid=uid, domain=domain.name, source="lab", question=text)


@dataclass(frozen=True)
class LabSplit:
    """Questions of one domain and, apart from them, their answers."""

    questions: list[Question]
    answers: dict[str, str]


def make_split(domain: Domain, split: str, seed: int = 0) -> LabSplit:
    """The `pool` (1,600) or `test` (250) questions of a domain; texts are unique, chains disjoint over splits."""
    pool, test = split_chains(seed)
    chains, size = (pool, POOL_SIZE) if split == "pool" else (test, TEST_SIZE)
    rng = random.Random(f"{domain.name} {split} {seed}")
    questions: list[Question] = []
    answers: dict[str, str] = {}
    seen: set[str] = set()
    while len(questions) < size:
        chain = rng.choice(chains)
        text = ask(domain, rng.randrange(4), chain, rng.randrange(PHRASINGS))
        if text in seen:
            continue
        seen.add(text)
        uid = f"lab-{domain.name}-{split}-{len(questions):04d}"
        questions.append(as_question(uid, domain, text))
        answers[uid] = gold(domain, chain)
    return LabSplit(questions, answers)
