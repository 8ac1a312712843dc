"""Which reading of the neuron count gives the paper's Fig. 3? Settled with the 4B model.

    python tools/fig3.py --preset paper/biology data.domain=Biology data.pool_limit=400 run_dir=runs/fig3-biology
    python tools/fig3.py --preset lab data.pool_limit=240 run_dir=runs/fig3-lab --chunks 4,8,16,64
    python tools/fig3.py --config runs/paper-biology/config.yaml           # the rollouts of a run that is there

Runs (or reuses) the stages data and rollout, scores the same rollouts once for every reading, judges the pool's
zero-shot answers with the answer key (through nopsd.evaluation alone; nothing is selected here), and prints for each
reading the range of s(x), its correlation with accuracy, also with log length held fixed, and the mean pairwise
Jaccard distance, against the paper's figures where the model and the data are the paper's.

Out: RUN/fig3/fig3.md, fig3.png, fig3.json, pool_correct.json and one folder of neuron sets a reading. A reading that is
there is not scored again. With a preset, zero_shot.n is 8 unless set (accuracy over eight answers, as in Fig. 3);
s(x) comes from the first --extract of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from nopsd.config import Config, NeuronConfig, load_config
from nopsd.errors import ConfigError, DataError, UserError
from nopsd.evaluation.artefacts import write_pool_correct
from nopsd.evaluation.bootstrap import Interval
from nopsd.files import read_json, write_atomic, write_json
from nopsd.network import free_port
from nopsd.neurons.store import NeuronSets, load_neurons
from nopsd.reporting.correlations import Correlation, correlation
from nopsd.reporting.figures.pool import binned
from nopsd.reporting.figures.style import panels, png
from nopsd.reporting.inspect.report import interval_text
from nopsd.reporting.table import markdown_table
from nopsd.rollout.types import Rollout
from nopsd.run.session import Session
from nopsd.selection.jaccard import mean_pairwise

LEAST_QUESTIONS = 200
DISTANCE_SAMPLE = 1000  # questions whose pairwise distances are averaged
# What the paper reports for Qwen3-4B-Thinking-2507 (its Fig. 3 and section 5.2), with tolerances of ours (chosen).
PAPER_WIDTHS = [9728] * 36
COUNT_BAND = (20_000, 55_000)  # 5 % and 95 % quantile of s(x) within
PEARSON_BELOW = -0.15
DISTANCES = {"Biology": 0.634, "Material": 0.628, "Physics": 0.640, "Chemistry": 0.870}
DISTANCE_WITHIN = 0.05


@dataclass(frozen=True)
class Reading:
    """One reading of the neuron count, with its settings."""

    name: str
    config: NeuronConfig


@dataclass(frozen=True)
class Outcome:
    """What a reading gives; `verdicts`: s, Pearson and J within the paper's bands, empty where they don't apply."""

    name: str
    quantiles: list[float]  # s(x): least, 5 %, median, 95 %, greatest
    share: float  # mean s(x) over all neurons
    accuracy: Correlation
    length: Correlation
    distance: float
    verdicts: dict[str, bool]


def readings(base: NeuronConfig, chunks: Sequence[int], values: Sequence[str], aligns: Sequence[str]) -> list[Reading]:
    """Every count mode, merge and chunk size that differs in what it counts, for each value and alignment."""
    modes = [("pairs", "union", c) for c in chunks] + [("pairs", "exact", max(chunks))]
    modes += [("chunk_topk", "union", c) for c in chunks] + [("token_topk", "union", max(chunks))]
    made = []
    for value in values:
        for align in aligns:
            for mode, merge, chunk in modes:
                chunked = mode == "chunk_topk" or (mode, merge) == ("pairs", "union")
                parts = [mode, *([merge] if mode == "pairs" else []), *([str(chunk)] if chunked else [])]
                parts += [value] * (len(values) > 1) + [align] * (len(aligns) > 1)
                settings = replace(base, count_mode=mode, chunk_merge=merge, chunk=chunk, value=value, align=align)
                made.append(Reading("-".join(parts), settings))
    return made


def outcome(reading: Reading, neurons: NeuronSets, correct: dict[str, float], data: tuple[str, str]) -> Outcome:
    """The reading's numbers; `data`: name of the data set and domain, which the bands depend on."""
    widths = neurons.header["widths"]
    s = neurons.counts.astype(float)
    right = np.array([correct.get(uid, np.nan) for uid in neurons.uids])
    log_length = np.log(np.maximum(neurons.lengths.astype(float), 1))
    rows = np.random.default_rng(0).permutation(len(s))[:DISTANCE_SAMPLE]
    distance = mean_pairwise(neurons.ids[rows], sum(widths))
    assert distance is not None
    quantiles = np.quantile(s, [0, 0.05, 0.5, 0.95, 1]).tolist()
    found = correlation(s, right, log_length)
    verdicts = judged(quantiles, found.pearson.value, distance, data[1]) if bands_apply(widths, *data) else {}
    share, with_length = float(s.mean() / sum(widths)), correlation(s, neurons.lengths)
    return Outcome(reading.name, quantiles, share, found, with_length, distance, verdicts)


def bands_apply(widths: Sequence[int], data: str, domain: str) -> bool:
    """The paper's figures hold for a model of Qwen3-4B's sizes on a domain of SciKnowEval."""
    return list(widths) == PAPER_WIDTHS and data == "sciknoweval" and domain in DISTANCES


def judged(quantiles: Sequence[float], pearson: float, distance: float, domain: str) -> dict[str, bool]:
    low, high = COUNT_BAND
    return {
        "s(x)": low <= quantiles[1] and quantiles[3] <= high,
        "Pearson": pearson < PEARSON_BELOW,
        "J": abs(distance - DISTANCES[domain]) <= DISTANCE_WITHIN,
    }


def table(outcomes: Sequence[Outcome]) -> str:
    rows = []
    for o in outcomes:
        least, low, median, high, greatest = (f"{q:,.0f}" for q in o.quantiles)
        verdict = ", ".join(f"{name} {'pass' if ok else 'fail'}" for name, ok in o.verdicts.items()) or "–"
        rows.append(
            [
                o.name,
                f"{least} – {greatest}",
                f"{low} – {median} – {high}",
                f"{o.share:.1%}",
                interval_text(o.accuracy.pearson),
                interval_text(Interval(o.accuracy.spearman.value)),
                interval_text(o.accuracy.partial),
                interval_text(Interval(o.length.pearson.value)),
                f"{o.distance:.3f}",
                verdict,
            ]
        )
    return markdown_table(
        [
            "reading",
            "s(x)",
            "5 % – median – 95 %",
            "of all neurons",
            "Pearson(s, accuracy)",
            "Spearman",
            "Pearson, log length held fixed",
            "Pearson(s, length)",
            "mean J",
            "against the paper",
        ],
        rows,
    )


def conclusion(outcomes: Sequence[Outcome], domain: str) -> str:
    """Which readings agree with the paper, or why none is judged."""
    if not outcomes[0].verdicts:
        return (
            "Not judged: the paper's bands are for a model with Qwen3-4B's sizes (36 layers of 9,728 neurons) on a "
            "domain of SciKnowEval. The correlations and distances above are this model's own."
        )
    bands = (
        f"Bands: s(x) (5 % to 95 %) within {COUNT_BAND[0]:,} to {COUNT_BAND[1]:,}; Pearson below {PEARSON_BELOW}; "
        f"mean J within {DISTANCE_WITHIN} of {DISTANCES[domain]} ({domain})."
    )
    agreeing = [o.name for o in outcomes if all(o.verdicts.values())]
    return f"{bands}\nReadings that agree with the paper: {', '.join(agreeing) or 'none'}."


def draw(outcomes: Sequence[tuple[Outcome, NeuronSets]], correct: dict[str, float]) -> bytes:
    """s(x) against accuracy in equal-count bins, a panel a reading."""
    figure, axes = panels(len(outcomes), width=4.8, columns=min(4, len(outcomes)))
    for axis, (o, neurons) in zip(axes, outcomes):
        right = np.array([correct.get(uid, np.nan) for uid in neurons.uids])
        known = np.isfinite(right)
        binned(axis, neurons.counts[known].astype(float), right[known], "zero-shot answers right (share)", o.name)
    return png(figure)


def score(config: Config, wanted: Sequence[Reading], folder: Path, extract: int) -> None:
    """Score the rollouts once for each reading; every rank calls it."""
    from nopsd.data.prompts import think_ids
    from nopsd.engine.distributed import init_distributed, shutdown_distributed
    from nopsd.engine.ds_config import role_config
    from nopsd.engine.frozen import load_frozen
    from nopsd.neurons.score_pool import ScoredModel, score_pool

    ranks = init_distributed(config.dist)
    with Session(config) as session:
        model = config.model
        settings = role_config(config, "teacher", ranks.device.type)
        engine = load_frozen(str(session.model.path), model.dtype, settings, model.trust_remote_code, model.revision)
        rollouts = [r for r in pool_rollouts(session) if r.sample < extract]
        for place, reading in enumerate(wanted, start=1):
            if ranks.is_main:
                print(f"[{place}/{len(wanted)}] {reading.name}: scoring {len(rollouts)} responses", flush=True)
            score_pool(
                ScoredModel(engine, session.model.hash, think_ids(session.tokenizer)),
                rollouts,
                reading.config,
                ranks,
                folder / reading.name,
            )
    shutdown_distributed()


def pool_rollouts(session: Session) -> list[Rollout]:
    return session.rollouts


def launch(config: Config, arguments: Sequence[str]) -> None:
    """This script again, on dist.ranks ranks that only score; UserError if one fails."""
    port = str(free_port())
    command = [
        sys.executable,
        "-m",
        "deepspeed.launcher.runner",
        "--num_gpus",
        str(config.dist.ranks),
        "--master_port",
        port,
        "--no_local_rank",
        str(Path(__file__).resolve()),
        "--score-only",
        *arguments,
    ]
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PYTHONPATH": path, "PATH": binaries, "OMP_NUM_THREADS": str(config.dist.threads)}
    if subprocess.run(command, env=environment, check=False).returncode:
        raise UserError("scoring failed; its ranks' own words stand above")


def report(config: Config, wanted: Sequence[Reading], folder: Path) -> str:
    """Judge the pool's answers, compare the readings, write the files; returns the text."""
    with Session(config) as session:
        shares = session.judge.pool_correctness(session.pool, pool_rollouts(session), session.think_open)
        write_pool_correct(folder, shares)
        answers = config.zero_shot.n
    correct = read_json(folder / "pool_correct.json")
    if len(correct) < 3:
        raise DataError(f"data.name={config.data.name}: the pool's answers are not known: accuracy can't be judged")
    scored = [(reading, load_neurons(folder / reading.name)) for reading in wanted]
    data = (config.data.name, config.data.domain)
    outcomes = [outcome(reading, neurons, correct, data) for reading, neurons in scored]
    pairs = [(o, neurons) for o, (_, neurons) in zip(outcomes, scored)]
    text = "\n".join(
        [
            f"{config.model.path}, {config.data.name} {config.data.domain}, {len(scored[0][1].uids)} questions, "
            f"accuracy over {answers} answers: {np.mean(list(correct.values())):.1%}",
            "",
            table(outcomes),
            conclusion(outcomes, config.data.domain),
            "",
        ]
    )
    write_atomic(folder / "fig3.md", text)
    write_atomic(folder / "fig3.png", draw(pairs, correct))
    write_json(folder / "fig3.json", [asdict(o) for o in outcomes])
    return text


def options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration overrides, as of `nopsd`")
    parser.add_argument("--preset", help="a preset's name, or a YAML file")
    parser.add_argument("--config", help="a resolved config.yaml of a run folder")
    parser.add_argument("--chunks", help="chunk sizes, as 256,1024; default: neuron.chunk, a quarter and four times it")
    parser.add_argument("--value", default="", help="act_fn, gated or both with a comma; default: neuron.value")
    parser.add_argument("--align", default="", help="predict, self or both with a comma; default: neuron.align")
    parser.add_argument("--extract", type=int, default=1, help="rollouts of a question that s(x) comes from (mean)")
    parser.add_argument("--score-only", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_intermixed_args(argv)


def configured(chosen: argparse.Namespace) -> tuple[Config, list[Reading]]:
    """The configuration and the readings asked for. Raises ConfigError."""
    overrides = chosen.overrides if chosen.config else ["zero_shot.n=8", *chosen.overrides]
    config = load_config(chosen.config or chosen.preset, overrides)
    neuron = config.neuron
    try:
        chunks = [int(c) for c in chosen.chunks.split(",")] if chosen.chunks else None
    except ValueError as error:
        raise ConfigError(f"--chunks {chosen.chunks}: write whole numbers with commas, as 256,1024") from error
    chunks = sorted(set(chunks or [max(1, neuron.chunk // 4), neuron.chunk, 4 * neuron.chunk]))
    values, aligns = (chosen.value or neuron.value).split(","), (chosen.align or neuron.align).split(",")
    for value in values:
        for align in aligns:
            for chunk in (chunks[0], chunks[-1]):
                names = [f"neuron.value={value}", f"neuron.align={align}", f"neuron.chunk={chunk}"]
                load_config(chosen.config or chosen.preset, [*overrides, *names])  # refuses unknown names
    return config, readings(neuron, chunks, values, aligns)


def main(argv: Sequence[str]) -> int:
    from nopsd.run import runner
    from nopsd.stages.registry import STAGES

    try:
        chosen = options(argv)
        config, wanted = configured(chosen)
        folder = Path(config.run_dir) / "fig3"
        if chosen.score_only:
            score(config, wanted, folder, chosen.extract)
            return 0
        runner.run_one(STAGES, config, "data")
        with Session(config) as session:
            if len(session.pool) < LEAST_QUESTIONS:
                raise DataError(f"a pool of {len(session.pool)} questions: the figure needs at least {LEAST_QUESTIONS}")
        runner.run_one(STAGES, config, "rollout")
        if config.dist.ranks == 1:
            score(config, wanted, folder, chosen.extract)
        else:
            launch(config, argv)
        print(report(config, wanted, folder))
        print(f"figure    {folder / 'fig3.png'}\ntable     {folder / 'fig3.md'}")
    except UserError as error:
        print(f"fig3: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
