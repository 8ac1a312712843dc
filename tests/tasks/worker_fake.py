"""A worker of a comparison whose work is a line of JSON; its process, signals and answers are the real one's."""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

from nopsd.errors import Stopped, UserError
from nopsd.tasks import compare_worker


def work(root, request):
    """Note what it ran on, then end as asked."""
    name, does = request
    facts = {"cores": sorted(os.sched_getaffinity(0)), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
    facts |= {"pid": os.getpid(), "began": time.monotonic()}
    (root / f"{name}.json").write_text(json.dumps(facts))
    if does == "dies":
        print("out of memory", flush=True)
        os._exit(9)
    if does == "fails":
        raise UserError("no such model")
    if does == "hangs":
        (root / f"{name}.hangs").touch()
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            (root / f"{name}.ended").touch()
            raise
    if does == "stopped":
        raise Stopped("after step 3")
    time.sleep(0.3)
    (root / f"{name}.json").write_text(json.dumps(facts | {"ended": time.monotonic()}))


class Servers:
    """Notes that they were closed."""

    def __init__(self, file):
        self.file = file

    def close(self):
        self.file.touch()


def serve(plan_file: Path, number: str, answers):
    root = plan_file.parent
    for line in sys.stdin:
        ((_, request),) = json.loads(line).items()
        answer = compare_worker.answer_of(partial(work, root, request), Servers(root / f"{request[0]}.servers-ended"))
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    compare_worker.serve = serve
    sys.exit(compare_worker.main(*sys.argv[1:]))
