"""Stage `neurons`: the pool's zero-shot rollouts through the frozen, sharded base model; counts and neuron sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nopsd.config import ENTRY_POINTS, Config
from nopsd.data.prompts import think_ids
from nopsd.neurons.score_pool import ScoredModel, score_pool
from nopsd.plugins import source_hashes
from nopsd.run import folder as names
from nopsd.run.session import Session
from nopsd.run.stage import Counts, Progress, Stage
from nopsd.selection.names import needs_neurons
from nopsd.stages.base_model import base_engine
from nopsd.stages.workload import responses


class Neurons(Stage):
    """Every neuron's contribution to each generated token (the paper's Eqs. 2 and 3), as sparse sets."""

    name = names.NEURONS
    does = "score every neuron's contribution to each token"
    inputs = (names.DATA, names.ROLLOUT)
    config_keys = ("neuron", "model.dtype")
    distributed = True
    on_request = True

    def needed(self, config: Config) -> bool:
        """Where selector, retriever or filter goes by neurons."""
        return super().needed(config) and needs_neurons(config)

    def made_from(self, session: Session) -> dict[str, Any]:
        """An adapter of the user's own."""
        return source_hashes({"model.mlp_adapter": session.config.model.mlp_adapter}, ENTRY_POINTS)

    def check(self, session: Session) -> None:
        """The model's family can be read, and an adapter knows its neurons; one of the user's own can be loaded."""
        from nopsd.engine.family_check import check_scoring, config_of, family_limits
        from nopsd.engine.tiny import tiny_model
        from nopsd.neurons.adapters.find import find_adapter, find_sites

        path, model = session.model.path, session.config.model
        if model.mlp_adapter:
            find_adapter(model.mlp_adapter)
        check_scoring(path, session.config)
        if family_limits(str(path), model.trust_remote_code).tried:
            find_sites(tiny_model(config_of(str(path), model.trust_remote_code)), model.mlp_adapter)

    def workload(self, config: Config, counts: Counts | None) -> str:
        """Responses and ranks."""
        sampled = responses(counts.pool if counts else None, config.zero_shot.n, config.zero_shot.max_new)
        return f"{sampled} scored, on {config.dist.ranks} ranks"

    def work(self, session: Session, folder: Path, progress: Progress) -> None:
        """Score on all ranks, each its share."""
        config, ranks = session.config, session.ranks
        assert ranks is not None
        tags, adapter = think_ids(session.tokenizer), config.model.mlp_adapter
        model = ScoredModel(base_engine(session), session.model.hash, tags, adapter)
        score_pool(model, session.rollouts, config.neuron, ranks, folder, progress)
