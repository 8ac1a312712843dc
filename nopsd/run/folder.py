"""The run folder: one directory a stage, each committed atomically with a content-hashed manifest.

    RUN/config.yaml              the resolved configuration
    RUN/environment.json         package versions, git revision, seeds, host
    RUN/<stage>/...              the stage's files, read through the methods of `RunFolder`
    RUN/<stage>/begun.json       written first: unfinished work is only continued on equal inputs
    RUN/<stage>/manifest.json    what it was made from (`fingerprint`) and the SHA-256 of every file

A stage is `current` if its manifest's fingerprint equals the one asked for and its files are whole:
then running it again is a no-op. If it was made from something else it is refused, naming the
difference, never overwritten silently; but for what a stage is cheaply made again for (gold answers: judged anew).
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nopsd.data import artefacts as data_files
from nopsd.data.records import Question
from nopsd.errors import ArtefactError
from nopsd.evaluation.artefacts import read_pool_correct
from nopsd.files import flatten, read_json, sha256_file, sha256_json, write_json
from nopsd.neurons.store import NeuronSets, load_neurons
from nopsd.rollout.types import FILE as ROLLOUTS
from nopsd.rollout.types import Rollout, read_rollouts
from nopsd.selection.artefacts import Contexts, read_contexts, read_selected
from nopsd.selection.selectors import Selection
from nopsd.signals.store import Signals, read_signals
from nopsd.train.artefacts import CARD, EXPORT, GAIN, METRICS, PLAN, RECORD, TENSORBOARD
from nopsd.train.metrics_log import read_metrics

# Names of the stages, which are those of their folders.
DATA, ROLLOUT, EVALUATE_BASE, NEURONS, SIGNALS = "data", "rollout", "evaluate_base", "neurons", "signals"
SELECT, TRAIN, EVALUATE, REPORT = "select", "train", "evaluate", "report"
MANIFEST = "manifest.json"
BEGUN = "begun.json"
# Folders of a stage that its manifest leaves out: rewritten by later steps, and checked in their own way.
LEFT = (".*.part", "*/.*.part", ".shared-*", ".writable")  # what `nopsd.files` and checks write on their way
# Keys of a fingerprint that folders of before this record don't have: these are taken as they are.
TOKENIZER, GENERATION = "model.tokenizer", "model.generation_config"
UNSEALED = ("checkpoints", "tb", "logs", "trace")
CARD_PATH = f"{EXPORT}/{CARD}"  # of the train stage: written again when there are results


class RunFolder:
    """Artefacts of one run. Only rank 0 may write."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def stage_dir(self, stage: str) -> Path:
        return self.root / stage

    def pool(self) -> list[Question]:
        """The pool, without answers. ArtefactError if it is missing or damaged, as of all artefacts here."""
        return data_files.read_pool(self.stage_dir(DATA))

    def holdout(self) -> list[Question]:
        """Questions held out of the pool, without answers; none where none are."""
        return data_files.read_holdout(self.stage_dir(DATA))

    def tests(self) -> dict[str, list[Question]]:
        """Test questions by domain, without answers."""
        return data_files.read_tests(self.stage_dir(DATA))

    def given_responses(self) -> dict[str, str] | None:
        """uid -> response, of data that bring their own."""
        return data_files.read_responses(self.stage_dir(DATA))

    def data_notes(self) -> list[str]:
        """Where the splits aren't the published ones how they differ, and `data_overlap`: a sentence each."""
        return data_files.read_notes(self.stage_dir(DATA))

    def data_overlap(self) -> list[str]:
        """Which test questions stand in the pool too, and which of the pool's are asked twice: a sentence each."""
        return data_files.read_overlap(self.stage_dir(DATA))

    def rollouts(self) -> list[Rollout]:
        """The base model's zero-shot rollouts of the pool."""
        return read_rollouts(self.stage_dir(ROLLOUT) / ROLLOUTS)

    def neurons(self) -> NeuronSets:
        """Neuron counts and sets of the whole pool, by ascending uid."""
        return load_neurons(self.stage_dir(NEURONS))

    def signals(self) -> Signals:
        """What other selectors go by."""
        return read_signals(self.stage_dir(SIGNALS))

    def selection(self) -> Selection:
        """The selected questions."""
        return read_selected(self.stage_dir(SELECT))

    def contexts(self) -> Contexts:
        """The selected questions' demonstrations."""
        return read_contexts(self.stage_dir(SELECT))

    def pool_correct(self) -> dict[str, float]:
        """uid -> share of right zero-shot answers, where evaluation could judge them; empty if it has not run."""
        return read_pool_correct(self.stage_dir(EVALUATE_BASE))

    def training_metrics(self) -> list[dict[str, Any]]:
        """Rows of the training log, oldest first; none if there is none."""
        return read_metrics(self.stage_dir(TRAIN) / METRICS)

    def training_plan(self) -> dict[str, Any]:
        """How many questions and steps the training was to have; empty if it has not begun."""
        return read_json_if_there(self.stage_dir(TRAIN) / PLAN)

    def training_gain(self) -> dict[str, Any]:
        """How far demonstrations moved the base model before the first step; empty if that was not measured."""
        return read_json_if_there(self.stage_dir(TRAIN) / GAIN)

    @property
    def tensorboard(self) -> Path:
        """The training's TensorBoard folder."""
        return self.stage_dir(TRAIN) / TENSORBOARD

    @property
    def export(self) -> Path:
        """The trained model, a Hugging Face folder."""
        return self.stage_dir(TRAIN) / EXPORT

    def export_record(self) -> dict[str, Any]:
        """What the exported weights are: steps, and why training stopped early if it did; empty if there is none."""
        return read_json_if_there(self.export / RECORD)

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """The seal of a stage; None if it has none. ArtefactError if it is damaged: what is sealed need not be."""
        path = self.stage_dir(stage) / MANIFEST
        try:
            found: dict[str, Any] | None = read_json(path) if path.exists() else None
            if found is not None and not all(isinstance(found[key], dict) for key in ("fingerprint", "files")):
                raise TypeError("not a manifest")
        except (ArtefactError, TypeError, KeyError) as error:
            kept = f" The model is {self.export}: keep a copy of it first." if stage == TRAIN else ""
            raise ArtefactError(
                f"{path} is damaged, so nothing says whether the stage's files are whole: bring it back from a copy, "
                f"or make the stage afresh with --redo {stage}, which deletes them.{kept}"
            ) from error
        return found

    def is_current(self, stage: str, fingerprint: Mapping[str, Any], remade_for: Collection[str] = ()) -> bool:
        """Whether the stage is committed from exactly this.

        Args:
            stage: Its name.
            fingerprint: All that its artefact is made from, as plain values.
            remade_for: What of it may differ without being refused: the stage is then not current.

        Raises:
            ArtefactError: It was made from something else, or is damaged.
        """
        manifest = self.manifest(stage)
        if manifest is None:
            return False
        if not self._is_same(stage, manifest["fingerprint"], flatten(fingerprint), remade_for):
            return False
        self._refuse_damaged(stage, manifest)
        return True

    def begin(self, stage: str, fingerprint: Mapping[str, Any], remade_for: Collection[str] = ()) -> Path:
        """The stage's folder, ready for work.

        Args:
            stage: Its name.
            fingerprint: All that its artefact will be made from.
            remade_for: What of it may differ from what work there was begun from.

        Raises:
            ArtefactError: Work there was begun from something else.
        """
        folder, wanted = self.stage_dir(stage), flatten(fingerprint)
        begun = folder / BEGUN
        if not begun.exists() or not self._is_same(stage, read_json(begun), wanted, remade_for):
            (folder / MANIFEST).unlink(missing_ok=True)
            write_json(begun, wanted)
        return folder

    def commit(self, stage: str, fingerprint: Mapping[str, Any]) -> str:
        """Seal the stage's folder: hash its files and write the manifest last. Returns the stage's hash."""
        folder = self.stage_dir(stage)
        files = {
            str(p.relative_to(folder)): sha256_file(p)
            for p in sorted(folder.rglob("*"))
            if p.is_file() and _sealed(p.relative_to(folder))
        }
        write_json(folder / MANIFEST, {"stage": stage, "fingerprint": flatten(fingerprint), "files": files})
        return sha256_json(files)

    def stage_hash(self, stage: str) -> str:
        """Hash over the hashes of a committed stage's files: how later stages name it as their input."""
        manifest = self.manifest(stage)
        if manifest is None:
            raise ArtefactError(f"{self.stage_dir(stage)} is not there yet: run `nopsd {stage}` first")
        return sha256_json(manifest["files"])

    def sweep(self) -> None:
        """Remove small files that a killed command left half written. Only while nobody else works in the folder."""
        for pattern in LEFT:
            for file in self.root.glob(pattern):
                file.unlink(missing_ok=True)

    def redo(self, stage: str) -> None:
        """Delete a stage, its files included."""
        shutil.rmtree(self.stage_dir(stage), ignore_errors=True)

    def _is_same(
        self, stage: str, made: Mapping[str, Any], wanted: Mapping[str, Any], remade_for: Collection[str]
    ) -> bool:
        unrecorded = {key for key in (TOKENIZER, GENERATION) if key not in made}
        differing = sorted(k for k in {*made, *wanted} - unrecorded if made.get(k) != wanted.get(k))
        if not set(differing) <= set(remade_for):
            shown = "; ".join(f"{k}: {_brief(made.get(k))} there, {_brief(wanted.get(k))} asked" for k in differing[:4])
            raise ArtefactError(
                f"{self.stage_dir(stage)} was made from something else ({shown}): "
                f"choose another run_dir, or start it afresh with --redo {stage}"
            )
        return not differing

    def _refuse_damaged(self, stage: str, manifest: Mapping[str, Any]) -> None:
        for name, digest in manifest["files"].items():
            if not _sealed(Path(name)):
                continue
            path = self.stage_dir(stage) / name
            if not path.exists() or sha256_file(path) != digest:
                state = "damaged" if path.exists() else "missing"
                raise ArtefactError(f"{path} is {state}: start the stage afresh with --redo {stage}")


def _sealed(path: Path) -> bool:
    if path.as_posix() == CARD_PATH:
        return False
    return path.name not in (MANIFEST, BEGUN) and path.suffix != ".part" and path.parts[0] not in UNSEALED


def _brief(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 24 else text[:12] + "…"


def read_json_if_there(path: Path) -> dict[str, Any]:
    """The file's object; empty if there is no such file, ArtefactError if it is damaged."""
    found: dict[str, Any] = read_json(path) if path.exists() else {}
    return found
