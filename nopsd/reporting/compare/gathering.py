"""What the runs of a comparison left behind, read into a View. Reads run folders alone; nothing is computed or sampled.

A run counts once its `evaluate` stage is sealed. Its base is the result of the same model, by path and hash, from the
runs' own `evaluate_base` and from FOLDER/base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from nopsd.config import METHODS, Config
from nopsd.evaluation.artefacts import evaluated_domains, read_result
from nopsd.evaluation.bootstrap import Interval
from nopsd.evaluation.entropy import EntropyGap
from nopsd.evaluation.results import DomainResult
from nopsd.files import file_name, read_json, sha256_json
from nopsd.reporting.compare.plan import AlsoPlan, Member, Plan, base_of, base_paths, base_seed, domains
from nopsd.reporting.compare.results import Model, Results, check_paired
from nopsd.reporting.compare.views import OWN, Cost, Material, Pool, RowFacts, View, layout_for
from nopsd.rollout.types import FILE as ROLLOUTS
from nopsd.run import folder as names
from nopsd.run.folder import MANIFEST, RunFolder

TARGETS, SELECTED, ENTROPY = "targets", "selected", "entropy_gap"  # folders of a run, beside its stages


def view_of(plan: Plan, members: Sequence[Member], failed: dict[str, str]) -> View:
    """All that a comparison's tables show, of the runs that are there.

    Args:
        plan: What was to be compared.
        members: Its runs.
        failed: Why, by a run's name.

    Raises:
        DataError: Two evaluations are of different questions.
    """
    models: dict[Model, Results] = {}
    view = View(models, layout_for(list(plan.sources)), layout_for(list(plan.sources)))
    for member in members:
        _take(view, member)
    for seed in plan.seeds:
        for path in base_paths(members):
            for file in sorted(base_folder(plan, path).root.glob(f"*-{base_seed(plan, seed)}/{MANIFEST}")):
                found = models.get(model_of(path, read_json(file)))
                if found is not None:
                    _fill(found.base.setdefault(seed, {}), evaluated(file.parent, "model", members[0].config))
    for name, also in plan.also.items():
        _take_checkpoint(view, plan, name, also, members)
    for results in models.values():
        check_paired(results)
    there = {t for results in models.values() for found in results.base.values() for t in found}
    wanted = dict.fromkeys([*domains(plan), *sorted(there)])
    view.targets = layout_for([d for d in wanted if d in there or d in plan.sources])
    view.missing = [f"{name}: {why}" for name, why in failed.items()]
    view.estimator, view.resamples = plan.entropy, members[0].config.eval.bootstrap
    _diagnostics(view, plan, members)
    view.about = about(plan, members, view)
    return view


def base_folder(plan: Plan, path: str) -> RunFolder:
    """Where a base model's evaluations lie that no run has made."""
    return RunFolder(Path(plan.folder) / "base" / f"{Path(path).name}-{sha256_json(path)[:8]}")


def model_of(path: str, *manifests: Mapping[str, Any] | None) -> Model:
    """The base model at `path`, with the hash that the first of the manifests with one has."""
    hashes = (manifest["fingerprint"].get("model") for manifest in manifests if manifest is not None)
    return Model(path, next((str(digest) for digest in hashes if digest), ""))


def about(plan: Plan, members: Sequence[Member], view: View) -> list[str]:
    """What was compared."""
    config, each, paths = members[0].config, view.models.values(), base_paths(members)
    labels = dict.fromkeys(label for results in each for label in results.labels)
    return [
        f"{sum(len(results.runs) for results in each)} runs of {len(members)} are finished: "
        f"{len(plan.sources)} sources, {len(labels)} methods, "
        f"seeds {', '.join(map(str, plan.seeds))} (as `{plan.vary}`).",
        f"Base model{'s' if len(paths) > 1 else ''}: {', '.join(paths)}; {config.eval.n} samples a question at "
        f"temperature {config.eval.temperature:g}; training of {config.train.steps} steps of {config.train.batch} "
        "questions, unless a method says otherwise.",
    ]


def _take(view: View, member: Member) -> None:
    """One run's evaluations, cost and facts, as far as they are there."""
    run, config = RunFolder(member.config.run_dir), member.config
    key, trainer = (member.label, member.source, member.seed), METHODS[config.method].trainer
    base, trained = run.manifest(names.EVALUATE_BASE), trainer is not None and run.manifest(names.EVALUATE) is not None
    if base is None and not trained:
        return
    results = view.models.setdefault(model_of(config.model.path, base, run.manifest(names.ROLLOUT)), Results())
    if base is not None:
        _fill(results.base.setdefault(member.seed, {}), evaluated(run.stage_dir(names.EVALUATE_BASE), "base", config))
    if not trained:
        return
    found = evaluated(run.stage_dir(names.EVALUATE), "final", config)
    for file in sorted((run.root / TARGETS).glob(f"*/{MANIFEST}")):
        _fill(found, evaluated(file.parent, "model", config))
    results.runs[key] = found
    view.costs[key] = cost_of(run, config)
    if (material := material_of(run)) is not None:
        view.material[key] = material
    facts = RowFacts(
        trainer, config.select.selector, config.select.fraction, config.context.retriever, config.context.m
    )
    view.facts.setdefault(member.label, facts)


def _take_checkpoint(view: View, plan: Plan, name: str, also: AlsoPlan, members: Sequence[Member]) -> None:
    """A given checkpoint's evaluations, beside the base model that it was trained from."""
    found: dict[str, DomainResult] = {}
    for file in sorted((Path(plan.folder) / "also" / file_name(name)).glob(f"*/{MANIFEST}")):
        _fill(found, evaluated(file.parent, "model", members[0].config))
    if not found:
        return
    path = base_of(also, name, members)
    model = next((model for model in view.models if model.path == path), Model(path))
    results = view.models.setdefault(model, Results())
    if also.source:
        results.runs[also.method or name, also.source, plan.seeds[0]] = found
    else:
        results.others[name] = found


def _fill(found: dict[str, DomainResult], more: dict[str, DomainResult]) -> None:
    for target, result in more.items():
        found.setdefault(target, result)


def evaluated(folder: Path, name: str, config: Config) -> dict[str, DomainResult]:
    """By target, without intervals: tables make their own."""
    plain = replace(config.eval, bootstrap=0)
    return {target: read_result(folder, name, target, plain) for target in evaluated_domains(folder, name)}


def cost_of(run: RunFolder, config: Config) -> Cost:
    """From the training log and the pool's rollouts."""
    rows = run.training_metrics()
    sampled = [row.get("response_length_mean") or 0.0 for row in rows]
    seconds = [sum(v for k, v in row.items() if k.startswith("time/") and v is not None) for row in rows]
    tokens = config.train.batch * config.train.n * sum(sampled)
    return Cost(rollout_tokens(run), tokens, sum(seconds), len(rows))


def material_of(run: RunFolder) -> Material | None:
    """What the run learned from, judged with labels after the fact; None where the pool has none."""
    correct = run.pool_correct()
    if run.manifest(names.SELECT) is None or not correct:
        return None
    selected = [correct[uid] for uid in run.selection().uids if uid in correct]
    if not selected:
        return None
    contexts = run.contexts()
    shown = [[correct[n.uid] for n in near if n.uid in correct and n.uid != uid] for uid, near in contexts.items()]
    right = Material(fmean(correct.values()), fmean(selected))
    if not any(shown):
        return right
    wrong = [fmean(context) < 0.5 for context in shown if context]
    return replace(right, shown=fmean(answer for context in shown for answer in context), misleading=fmean(wrong))


def rollout_tokens(run: RunFolder) -> float:
    """Tokens of the pool's rollouts."""
    file = run.stage_dir(names.ROLLOUT) / ROLLOUTS
    if not file.exists():
        return 0.0
    column = pq.read_table(file, columns=["response_ids"]).column(0)
    return float(pc.sum(pc.list_value_length(column)).as_py() or 0)


def _diagnostics(view: View, plan: Plan, members: Sequence[Member]) -> None:
    """Tables 5 and 6 and the figures: of the first seed's runs of `nopsd`."""
    for member in members:
        if member.label != OWN or member.seed != plan.seeds[0]:
            continue
        run, source = RunFolder(member.config.run_dir), member.source
        selected = run.root / SELECTED / "base"
        if (selected / MANIFEST).exists():
            view.selected[source] = evaluated(selected, "model", member.config)[member.config.data.domain]
        if run.manifest(ENTROPY) is not None:
            row = read_json(run.stage_dir(ENTROPY) / "entropy_gap.json")[plan.entropy]
            gap = Interval(row["gap"], row["low"], row["high"])
            view.entropy[source] = EntropyGap(row["questions"], row["student"], row["teacher"], gap)
        if run.manifest(names.SELECT) is not None:
            mean = run.selection().stats.get("mean_pairwise_jaccard")
            if mean is not None:
                view.diversity[source] = mean
        correct = run.pool_correct()
        if run.manifest(names.NEURONS) is not None and correct:
            neurons = run.neurons()
            shares = [correct.get(uid, float("nan")) for uid in neurons.uids]
            view.pools[source] = Pool(neurons.counts.tolist(), shares, member.config.zero_shot.n)
