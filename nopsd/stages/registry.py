"""The stages of a run, in order.

    data ─▶ rollout ─▶ neurons ─▶ signals ─▶ select ─▶ train ─▶ evaluate ─▶ report
                 └───▶ evaluate_base ───────────────────────────────┘

A method may need fewer of them (`Stage.needed`).
"""

from __future__ import annotations

from nopsd.run.stage import Stages
from nopsd.stages.data import Data
from nopsd.stages.evaluate import Evaluate, EvaluateBase
from nopsd.stages.neurons import Neurons
from nopsd.stages.report import Report
from nopsd.stages.rollout import Rollouts
from nopsd.stages.select import Select
from nopsd.stages.signals import Signals
from nopsd.stages.train import Train

STAGES = Stages(
    (Data(), Rollouts(), EvaluateBase(), Neurons(), Signals(), Select(), Train(), Evaluate(), Report()),
)
