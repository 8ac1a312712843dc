"""Stage `report`: gather what the run left behind into the report, and summarise it on the console."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nopsd.config import METHODS, Config, to_plain
from nopsd.engine.distributed import Ranks
from nopsd.evaluation.artefacts import read_result
from nopsd.evaluation.conclusion import THINKING, conclude, room_to_gain, teacher_gain, thinks
from nopsd.evaluation.oracle import label_warning
from nopsd.evaluation.results import DomainResult
from nopsd.files import read_json
from nopsd.reporting.summary import summary_table
from nopsd.reporting.views import DemoView, HeldOut, PoolView, ReportInputs
from nopsd.run import folder as names
from nopsd.run.session import Session
from nopsd.run.stage import Progress, Stage
from nopsd.selection.artefacts import Contexts
from nopsd.selection.names import needs_neurons
from nopsd.selection.selectors import Selection
from nopsd.selection.without_neurons import without_neurons
from nopsd.stages.contexts import teacher_prompts
from nopsd.stages.examples import Rows, shown_examples
from nopsd.stages.holdout import Held, held_answers, held_conclusion
from nopsd.train.artefacts import EXPORTS, RECORD, choice_note, shows_labels, stop_note

UNLABELLED = "The questions have no answers: what follows compares the models without labels, and is no accuracy."
NO_HOLDOUT = (
    "no question was held out of the pool (data.holdout), so nothing tells whether training helped. Hold some out, or "
    "name a labelled data set in eval.targets."
)

Results = Mapping[str, DomainResult]  # by domain


class Report(Stage):
    """Before and after, the pool and the training, as HTML and markdown."""

    name = names.REPORT
    does = "write the report"
    inputs = (names.EVALUATE_BASE, names.NEURONS, names.SELECT, names.TRAIN, names.EVALUATE)
    remade_for = (f"input.{names.EVALUATE_BASE}", f"input.{names.EVALUATE}")

    def needed(self, config: Config) -> bool:
        """Always: also of method base, which trains nothing."""
        return True

    def work(self, session: Session, folder: Path, progress: Progress) -> None:
        """Write the report's files."""
        report(session, folder)


def report(session: Session, folder: Path) -> None:
    """Write report.md and report.html into `folder`; of method base without what selects and trains."""
    from nopsd.reporting.board import (
        write_run_board,
    )  # with Matplotlib and SciPy, which no other stage needs
    from nopsd.reporting.report import write_report

    config, run = session.config, session.run
    trained: dict[str, Any] = {}
    before, plan, record = results(session, "base"), run.training_plan(), run.export_record()
    warnings, held = notes(session, plan, record), held_answers(session)
    warnings += room_to_gain(held.base) if held.base else []
    warnings += teacher_gain(run.training_gain())
    if METHODS[config.method].trainer is not None:
        from nopsd.stages.card import Evaluated, write_card

        selected, contexts, correct = run.selection(), run.contexts(), run.pool_correct()
        after = results(session, "final")
        trained = {
            "training": run.training_metrics(),
            "after": after,
            "pool": pool_view(session, selected, correct),
            "demos": demo_view(config.context.retriever, contexts, selected),
            "examples": shown_examples(session, *example_rows(config.data.domain, before, after, held)),
            "held": held_view(session, held, before, after),
        }
        write_card(session, plan, record, Evaluated(selected, before, after, contexts, correct, warnings))
    inputs = ReportInputs(
        title=f"{config.data.domain}, from {len(session.pool)} unlabeled questions",
        pool_domain=config.data.domain,
        before=before,
        config=to_plain(config),
        provenance=read_json(run.root / "environment.json"),
        notes=[*warnings, *other_exports(session)],
        done=what_was_done(session, plan, record),
        command=f"nopsd run --preset {shlex.quote(str(run.root / 'config.yaml'))} run_dir=ANOTHER",
        **trained,
    )
    write_report(folder, inputs)
    if trained and "tensorboard" in config.tracking.to:
        write_run_board(run.tensorboard / names.REPORT, inputs, shown_prompts(session, contexts))


def shown_prompts(session: Session, contexts: Contexts) -> dict[str, str]:
    """The student's prompt of one selected question, and the teacher's with its demonstrations, as text."""
    uid = next((uid for uid in contexts if uid in session.student_prompts), None)
    if uid is None:
        return {}
    ids = {"student": session.student_prompts[uid]}
    if METHODS[session.config.method].trainer == "distill":
        ids["teacher"] = teacher_prompts(session, [uid], contexts)[uid].ids
    return {name: session.tokenizer.decode(found) for name, found in ids.items()}


def notes(session: Session, plan: dict[str, Any] | None = None, record: dict[str, Any] | None = None) -> list[str]:
    """What the reader must know first: the method, and what of it was as it should not be."""
    method = METHODS[session.config.method]
    notes = [f"Method {session.config.method} ({method.does})."]
    if method.reads_labels:
        notes.append(label_warning(session.config.method))
    notes += filter(None, (*session.run.data_notes(), *training_notes(session, plan, record)))
    if thinks(session.config):
        notes.append(THINKING)
    return [*notes, *(() if session.tests else (UNLABELLED,))]


def what_was_done(session: Session, plan: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """The run in two sentences."""
    config, held = session.config, len(session.holdout)
    sentences = [
        f"{len(session.pool)} questions of {config.data.domain} were answered by {config.model.path}"
        + (f"; {held} more were held out." if held else ".")
    ]
    if METHODS[config.method].trainer is not None:
        steps = record.get("steps", plan.get("steps", config.train.steps))
        sentences.append(
            f"{plan.get('questions', 0)} of them were chosen ({config.select.selector}), and the model was trained for "
            f"{steps} steps of {config.train.batch} questions by method {config.method}."
        )
    return [*sentences, "The same again, elsewhere:"]


def example_rows(domain: str, before: Results, after: Results, held: Held) -> tuple[Rows, Rows]:
    """Both models' rows that examples are of: the pool's domain where it was tested, else what is held out."""
    if domain in before and domain in after:
        return before[domain].rows, after[domain].rows
    return held.base, held.trained


def held_view(session: Session, held: Held, before: Results, after: Results) -> HeldOut | None:
    """Both models on the held-out questions; None where labels are there and nothing is held out."""
    found = held.comparison(session.config.eval)
    if found is None:
        gap = NO_HOLDOUT if not session.holdout else "the evaluations are not there."
        return None if session.tests and not session.holdout else HeldOut(gap=gap)
    return HeldOut(
        comparison=found,
        conclusion=conclude(found).sentences,
        questions={question.uid: question for question in session.holdout},
        judged={domain: (before.get(domain), after.get(domain)) for domain in {**before, **after}},
    )


def training_notes(
    session: Session, plan: dict[str, Any] | None = None, record: dict[str, Any] | None = None
) -> tuple[str, str, str]:
    """How the vote went, when and why a guard ended the training, and whether labels may have chosen the step; empty
    where there is nothing to say."""
    plan = session.run.training_plan() if plan is None else plan
    record = session.run.export_record() if record is None else record
    chosen = choice_note(record, shows_labels(session.run.training_metrics())) if "chosen" in record else ""
    return vote_note(plan), stop_note(record, plan.get("steps", session.config.train.steps)), chosen


def other_exports(session: Session) -> list[str]:
    """Of each step that `nopsd export` exported besides: where it is, and whether labels may have chosen it."""
    found = sorted((session.run.root / EXPORTS).glob(f"step-*/{RECORD}"), key=lambda path: path.stat().st_mtime)
    sentences = []
    for path in found:
        record = read_json(path)
        place = f"{EXPORTS}/{path.parent.name}"
        sentences.append(f"Exported besides: step {record['steps']}, {place}. {choice_note(record, False)}".strip())
    return sentences


def vote_note(facts: dict[str, Any]) -> str:
    """Of fine-tuning, whose plan has the vote's counts: how many questions had a voted answer. Else nothing."""
    if "voted_questions" not in facts:
        return ""
    dropped = sum(facts[key] for key in ("dropped_unread", "dropped_unsure", "dropped_cut"))
    return (
        f"Trained on {facts['voted_responses']} responses to {facts['voted_questions']} questions; {dropped} questions "
        f"were dropped: {facts['dropped_unread']} without a readable answer, {facts['dropped_unsure']} with a majority "
        f"below sft.min_share, {facts['dropped_cut']} whose agreeing responses were all cut."
    )


def results(session: Session, name: str) -> dict[str, DomainResult]:
    """One model's results by domain; empty for questions without answers."""
    folder = session.run.stage_dir(names.EVALUATE_BASE if name == "base" else names.EVALUATE)
    return {domain: read_result(folder, name, domain, session.config.eval) for domain in session.tests}


def demo_view(retriever: str, contexts: Contexts, selected: Selection) -> DemoView:
    """Distances as the retriever measures them; only Jaccard's are set against those of random pairs."""
    distances = [[n.distance for n in near if n.distance is not None] for near in contexts.values()]
    if retriever == "neuron_jaccard":
        return DemoView(distances, selected.stats.get("mean_pairwise_jaccard"))
    return DemoView(distances, measure=f"distance of {retriever}")


def pool_view(session: Session, selected: Selection, correct: dict[str, float]) -> PoolView:
    """Counts (none where nobody scored neurons), lengths and selection; correctness where evaluation knows it."""
    scored = needs_neurons(session.config)
    if scored:
        neurons = session.run.neurons()
    else:
        neurons = without_neurons(session.rollouts, Ranks(0, 1, torch.device("cpu")))
    chosen = set(selected.uids)
    return PoolView(
        counts=neurons.counts.tolist() if scored else (),
        lengths=neurons.lengths.tolist(),
        selected=[uid in chosen for uid in neurons.uids],
        truncated=neurons.truncated.tolist(),
        correct=[correct.get(uid) for uid in neurons.uids],
        threshold=selected.threshold,
        selector=session.config.select.selector,
        members=neurons.histogram if scored else None,
        widths=neurons.header["widths"] if scored else (),
    )


def final_message(session: Session) -> str:
    """What `nopsd run` ends with: the table, and where everything is and how to open it."""
    run, trained = session.run, METHODS[session.config.method].trainer is not None
    concluded = held_conclusion(session) if trained else None
    conclusion = concluded.sentences if concluded else [f"No comparison without labels: {NO_HOLDOUT}"]
    table = "\n".join(conclusion)
    if session.tests and trained:
        table = summary_table(results(session, "base"), results(session, "final"), session.config.data.domain)
        table += "".join(f"\n{line}" for line in conclusion) if concluded else ""
    elif session.tests:
        table = base_table(results(session, "base"))
    places = [("report", run.stage_dir(names.REPORT) / "report.html", "open it in a browser")]
    if trained:
        model = "a Hugging Face folder: transformers and vLLM load it as it is"
        places.insert(0, ("model", run.export, model))
        places.append(("training", run.tensorboard, f"tensorboard --logdir {run.tensorboard}"))
    lines = [f"{name:9} {path}\n          {how}" for name, path, how in places]
    notes = [label_warning(session.config.method), *training_notes(session)]
    return "\n".join(["", table, *filter(None, notes), *lines])


def base_table(found: dict[str, DomainResult]) -> str:
    """One line a domain, of a model that nothing is compared with."""
    lines = [
        f"{domain}: Avg@{r.samples} {100 * r.metrics['avg']:.1f} %, maj@{r.samples} {100 * r.metrics['maj']:.1f} %, "
        f"ECE {r.metrics['ece']:.3f}"
        for domain, r in found.items()
    ]
    return "\n".join(["Nothing was trained (method=base). The model as it is:", *lines])
