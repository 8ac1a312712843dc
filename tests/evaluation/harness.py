"""lm-evaluation-harness in the peers' environment, and questions that it reads."""

import json
import os
import subprocess

from nopsd.data.records import Option, Question
from tests.programs import require_peer


def peer(script, *arguments, sent=None):
    done = subprocess.run(
        [require_peer("lm_eval"), "-c", script, *map(str, arguments)],
        input=sent,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def question(uid="q", labels="ABCDE"):
    return Question(uid, "mmlu_pro", "test", "which?", tuple(Option(x, f"text {x}") for x in labels))
