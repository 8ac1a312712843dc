"""Prompts compared on pool questions, without labels: which one makes a model reason, finish and agree with itself?

    python tools/prompt_study.py --preset small/smollm2_135m model.path=FILE.gguf data.path=svamp.json.gz \
        run_dir=runs/prompts --rows tools/real_table/prompts.yaml --questions 40 --samples 4 --shown 4

A row is settings by name in a YAML file: `NAME: {prompt.answer_format: box, zero_shot.max_new: 300}`. Every row's
questions are answered by the served base model as `nopsd rollout` would; with --shown N once more behind N random
demonstrations, which are the model's own finished answers to other questions, as the teacher sees them. Printed, and
kept in RUN/prompts.json, of each: the share of finished answers, of answers that can be read, of those that stand where
they were asked for, the mean share of the vote's winner, tokens, and the share of answers of at most 16 tokens.

--labels takes the questions that data.pool_limit leaves out, which are neither trained nor tested on, and adds the
share of right answers with a 95 % interval over questions. What is there is not sampled again.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nopsd.config import Config, load_config
from nopsd.config.values import NULL, read_yaml
from nopsd.data.demonstrations import solution_text
from nopsd.data.majority import majority
from nopsd.data.prompts import PromptRenderer
from nopsd.data.reading import answer_reader
from nopsd.data.records import Question
from nopsd.data.sources import load_splits
from nopsd.data.wording import Demonstration
from nopsd.errors import ConfigError, UserError
from nopsd.evaluation.bootstrap import interval, resample_counts
from nopsd.evaluation.evaluate import group_by_question
from nopsd.files import file_name, read_json, sha256_json, write_json
from nopsd.reporting.table import markdown_table
from nopsd.rollout.stage import run_rollouts
from nopsd.rollout.types import Rollout
from nopsd.run.session import Session

AT_ONCE = 16  # tokens: an answer without a sentence of reasoning before it
EXAMPLES = 3  # responses of a row that are kept as text
RESAMPLES = 1000
KEPT = "prompts.json"


@dataclass(frozen=True)
class Row:
    """Settings under a name. `shown`: demonstrations before the question; 0: zero-shot."""

    name: str
    config: Config
    shown: int = 0


class BaseModel:
    """The served base model; the server is started when it is first asked."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def generate(self, *prompts: Any, **how: Any) -> list[list[Rollout]]:
        """As `RolloutService.generate`."""
        return self.session.client_holding(self.session.model.path, version=0).generate(*prompts, **how)


def read_row_settings(path: str) -> dict[str, list[str]]:
    """Name -> overrides. ConfigError for a file of another form."""
    tree = read_yaml(Path(path).read_text(encoding="utf-8"))
    if not isinstance(tree, Mapping) or not all(isinstance(row, Mapping) or row in NULL for row in tree.values()):
        raise ConfigError(f"--rows {path}: write rows as NAME: {{key: value}}")
    rows = {str(name): row if isinstance(row, Mapping) else {} for name, row in tree.items()}
    return {name: [f"{key}={value}" for key, value in row.items()] for name, row in rows.items()}


def asked_of(config: Config, count: int, labels: bool) -> list[Question]:
    """The first questions of the pool, or of those that data.pool_limit leaves out of it."""
    everything = load_splits(replace(config.data, pool_limit=None)).pool
    limit = config.data.pool_limit or len(everything)
    questions = everything[limit:] if labels else everything[:limit]
    if not questions:
        raise ConfigError("--labels: data.pool_limit leaves no question out of the pool: lower it")
    return questions[:count]


def prompts_of(row: Row, session: Session, questions: Sequence[Question], own: Sequence[Rollout]) -> list[list[int]]:
    """Prompt ids of each question; behind demonstrations of `own` answers to the others if the row shows some."""
    renderer = PromptRenderer(session.tokenizer, row.config.prompt, row.config.context.placement)
    if not row.shown:
        return [renderer.student(question) for question in questions]
    reader, by_uid = answer_reader(row.config), {q.uid: q for q in questions}
    solved = {
        r.uid: Demonstration(by_uid[r.uid], text)
        for r in own
        if r.sample == 0 and not r.truncated
        if (text := solution_text(r.text, by_uid[r.uid], row.config.context.solution, reader))
    }
    prompts = []
    for question in questions:
        others = [solved[uid] for uid in sorted(solved) if uid != question.uid]
        drawn = random.Random(f"{row.config.seed} {question.uid}").sample(others, min(row.shown, len(others)))
        prompts.append(renderer.teacher(question, drawn, row.config.context.max_prompt).ids)
    return prompts


def sampled(
    row: Row, session: Session, questions: Sequence[Question], own: Sequence[Rollout], model: BaseModel
) -> list[Rollout]:
    """The row's answers, which are kept in the run folder."""
    prompts = prompts_of(row, session, questions, own)
    identity = sha256_json([prompts, vars(row.config.zero_shot), session.model.hash])[:12]
    folder = session.run.root / file_name(f"{row.name}-{row.shown}-{identity}")

    def progress(done: int, total: int, **info: Any) -> None:
        print(f"      {row.name}: {done}/{total} answers", file=sys.stderr, flush=True)

    folder.mkdir(parents=True, exist_ok=True)
    return run_rollouts(questions, prompts, model, row.config.zero_shot, row.config.seed, folder, 0, progress)


def measured(row: Row, questions: Sequence[Question], rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """What is known of a row's answers without labels."""
    reader, strict = answer_reader(row.config), answer_reader(row.config, "strict")
    by_uid, shares, readable, stated = group_by_question(rollouts), [], 0, 0
    for question in questions:
        given = by_uid[question.uid]
        finished = [r for r in given if not r.truncated]
        readable += sum(reader.read(r, question) is not None for r in finished)
        stated += sum(strict.read(r, question) is not None for r in finished)
        shares.append(majority(reader.answers(finished, question))[1] / len(given))
    lengths = np.array([len(r.response_ids) for r in rollouts])
    return {
        "row": row.name,
        "shown": row.shown,
        "questions": len(questions),
        "samples": row.config.zero_shot.n,
        "finished": float(np.mean([not r.truncated for r in rollouts])),
        "readable": readable / len(rollouts),
        "where_asked": stated / len(rollouts),
        "vote": float(np.mean(shares)),
        "tokens": float(lengths.mean()),
        "at_once": float((lengths <= AT_ONCE).mean()),
        "examples": [[questions[i].question, by_uid[questions[i].uid][0].text] for i in range(EXAMPLES)],
    }


def right_share(session: Session, row: Row, questions: Sequence[Question], rollouts: Sequence[Rollout]) -> list[float]:
    """Share of right answers and its interval over questions."""
    shares = session.judge.pool_correctness(questions, rollouts)
    right_N = np.array([shares[q.uid] for q in questions])
    drawn = resample_counts(len(right_N), RESAMPLES, 0) @ right_N / len(right_N)
    found = interval(float(right_N.mean()), drawn)
    return [found.value, float(found.low or 0), float(found.high or 0)]


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """The rows as markdown."""
    header = ["", "demonstrations", "finished", "readable", "where asked", "vote", "tokens", "at once", "right"]
    return markdown_table(
        header,
        [
            [
                f"`{r['row']}`",
                str(r["shown"]),
                *(f"{r[key]:.2f}" for key in ("finished", "readable", "where_asked", "vote")),
                f"{r['tokens']:.0f}",
                f"{r['at_once']:.2f}",
                f"{r['right'][0]:.2f} [{r['right'][1]:.2f}, {r['right'][2]:.2f}]" if "right" in r else "–",
            ]
            for r in found
        ],
    )


def study(base: Config, rows: Sequence[Row], count: int, labels: bool) -> list[dict[str, Any]]:
    """Sample and measure every row; those with demonstrations show the answers of the same row without."""
    found, own = [], dict[str, list[Rollout]]()
    with Session(base) as session:
        model = BaseModel(session)
        for row in rows:
            questions = asked_of(row.config, count, labels)
            rollouts = sampled(row, session, questions, own.get(row.name, ()), model)
            own.setdefault(row.name, rollouts)
            entry = measured(row, questions, rollouts)
            if labels:
                with Session(row.config) as judging:
                    entry["right"] = right_share(judging, row, questions, rollouts)
            found.append(entry)
            print(table(found[-1:]).splitlines()[-1], flush=True)
    return found


def options(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration overrides, as of `nopsd`")
    parser.add_argument("--preset", required=True)
    parser.add_argument("--rows", required=True, metavar="FILE", help="YAML: NAME: {key: value}")
    parser.add_argument("--only", default="", metavar="A,B", help="of the rows")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--shown", type=int, default=0, metavar="N", help="each row once more behind N demonstrations")
    parser.add_argument("--labels", action="store_true", help="questions that data.pool_limit leaves out, judged")
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run the study; 1 if it can't be."""
    try:
        chosen = options(argv)
        shared = [*chosen.overrides, f"zero_shot.n={chosen.samples}"]
        wanted = read_row_settings(chosen.rows)
        names = chosen.only.split(",") if chosen.only else list(wanted)
        base = load_config(chosen.preset, shared)
        rows = [
            Row(name, load_config(chosen.preset, [*shared, *wanted[name]]), shown)
            for name in names
            for shown in dict.fromkeys((0, chosen.shown))
        ]
        found = study(base, rows, chosen.questions, chosen.labels)
        path = Path(base.run_dir) / KEPT
        kept = read_json(path) if path.exists() else []
        fresh = {(r["row"], r["shown"], "right" in r) for r in found}
        write_json(path, [r for r in kept if (r["row"], r["shown"], "right" in r) not in fresh] + found)
        print(f"\n{table(found)}\nkept in {path}")
    except UserError as error:
        print(f"prompt_study: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
