"""What a configuration's selector and retriever are, known before any expensive work."""

from __future__ import annotations

from nopsd.config import Config
from nopsd.plugins import source_hash
from nopsd.selection import retrievers, selectors
from nopsd.signals.needs import compares, needed
from nopsd.signals.reference import read_reference


def check_names(config: Config) -> None:
    """Load what select.selector and context.retriever name, and check the columns they ask for: ConfigError naming
    key, module and remedy, DataError naming file and line of nait's reference."""
    selectors.find_selector(config.select)
    retrievers.find_retriever(config.context)
    if "nait" in needed(config.select, config.context):
        # Read for its errors alone: nothing is tokenised yet.
        read_reference(config.signal.reference or "", config.signal.reference_limit, lambda prompt, text: ([0], [0]))


def needs_neurons(config: Config) -> bool:
    """Whether selection or training goes by neuron counts or sets; users' own code does unless `neurons=False`."""
    select = config.select
    weighted = (selectors.SELECTORS[select.quality],) if select.quality else ()
    return (
        any(chosen.neurons for chosen in (selectors.find_selector(select), *weighted))
        or (select.space == "jaccard" and compares(select))
        or retrievers.find_retriever(config.context).neurons
        or config.context.filter == "s_below_median"
        or config.train.neurons.learn in ("selected", "score", "random")
    )


def source_hashes(config: Config) -> dict[str, str]:
    """SHA-256 of users' own code by key, for the select stage's fingerprint: edited code is other input."""
    hashes = {}
    if config.select.selector not in selectors.SELECTORS:
        hashes["select.selector"] = source_hash(config.select.selector, selectors.GROUP)
    if config.context.retriever not in retrievers.RETRIEVERS:
        hashes["context.retriever"] = source_hash(config.context.retriever, retrievers.GROUP)
    return {key: digest for key, digest in hashes.items() if digest is not None}
