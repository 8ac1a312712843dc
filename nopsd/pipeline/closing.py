"""Stage `report`: gather what the run left behind into the report, and say on the console what came out."""

from __future__ import annotations

from pathlib import Path

from nopsd.config import to_plain
from nopsd.evaluation.closing import closing_table
from nopsd.evaluation.evaluate import DomainResult, read_result
from nopsd.monitor.metrics_log import METRICS, TENSORBOARD, read_metrics
from nopsd.monitor.report import write_report
from nopsd.monitor.views import DemoView, PoolView, ReportInputs
from nopsd.neurons.store import load_neurons
from nopsd.pipeline.session import Session
from nopsd.runs import read_json
from nopsd.selection.artefacts import Contexts
from nopsd.selection.selectors import Selection
from nopsd.selection.stage import read_contexts, read_selected

UNLABELLED = "The questions have no answers, so there is nothing to measure the models on: no before/after table."


def report(session: Session, folder: Path) -> None:
    """Write report.md and report.html into `folder`."""
    config, run = session.config, session.run
    selected = read_selected(run.stage_dir("select"))
    contexts = read_contexts(run.stage_dir("select"))
    inputs = ReportInputs(
        title=f"{config.data.domain}, from {len(session.pool)} unlabeled questions",
        pool_domain=config.data.domain,
        training=read_metrics(run.stage_dir("train") / METRICS),
        before=results(session, "base"),
        after=results(session, "final"),
        pool=pool_view(session, selected),
        demos=demo_view(config.context.retriever, contexts, selected),
        config=to_plain(config),
        provenance=read_json(run.root / "environment.json"),
        notes=[*filter(None, [stop_note(session)]), *(() if session.tests else (UNLABELLED,))],
    )
    write_report(folder, inputs)


def results(session: Session, name: str) -> dict[str, DomainResult]:
    """One model's results by domain; empty for questions without answers."""
    folder = session.run.stage_dir("evaluate_base" if name == "base" else "evaluate")
    return {domain: read_result(folder, name, domain, session.config.eval) for domain in session.tests}


def demo_view(retriever: str, contexts: Contexts, selected: Selection) -> DemoView:
    """Distances as the retriever measures them; only Jaccard's are set against those of random pairs."""
    distances = [[n.distance for n in near if n.distance is not None] for near in contexts.values()]
    if retriever == "neuron_jaccard":
        return DemoView(distances, selected.stats.get("mean_pairwise_jaccard"))
    return DemoView(distances, measure=f"distance of {retriever}")


def pool_view(session: Session, selected: Selection) -> PoolView:
    """Counts, lengths and selection of the pool; correctness where evaluation knows it."""
    neurons = load_neurons(session.run.stage_dir("neurons"))
    judged = session.run.stage_dir("evaluate_base") / "pool_correct.json"
    correct = read_json(judged) if judged.exists() else {}
    chosen = set(selected.uids)
    return PoolView(
        counts=neurons.counts.tolist(),
        lengths=neurons.lengths.tolist(),
        selected=[uid in chosen for uid in neurons.uids],
        truncated=neurons.truncated.tolist(),
        correct=[correct.get(uid) for uid in neurons.uids],
        threshold=selected.threshold,
        selector=session.config.select.selector,
    )


def stop_note(session: Session) -> str:
    """If a guard ended the training: when, why, and which weights are the result. Else nothing."""
    from nopsd.distill.export import RECORD  # torch: only once there is something to look for

    file = session.run.stage_dir("train") / "export" / RECORD
    record = read_json(file) if file.exists() else {}
    stopped = record.get("stopped")
    if not stopped:
        return ""
    return (
        f"Training was stopped after {stopped['step']} of {session.config.train.steps} steps: {stopped['reason']}. "
        f"The model is the checkpoint of step {record['steps']}, from before."
    )


def closing_words(session: Session) -> str:
    """What `nopsd run` ends with: the table, and where everything is and how to open it."""
    run = session.run
    table = UNLABELLED
    if session.tests:
        table = closing_table(results(session, "base"), results(session, "final"), session.config.data.domain)
    board = run.stage_dir("train") / TENSORBOARD
    places = (
        ("model", run.stage_dir("train") / "export", "a Hugging Face folder: transformers and vLLM load it as it is"),
        ("report", run.stage_dir("report") / "report.html", "open it in a browser"),
        ("training", board, f"tensorboard --logdir {board}"),
    )
    lines = [f"{name:9} {path}\n          {how}" for name, path, how in places]
    return "\n".join(["", table, *filter(None, [stop_note(session)]), *lines])
