"""vLLM's OpenAI-compatible server with SIGTERM blocked in all of its processes: `python -m ...vllm_main ARGS`.

`nopsd.cluster.guardian` blocks the signal (a scheduler sends it to every process, and the present step still needs the
server) and ends the server by SIGINT. But Python's multiprocessing unblocks it in whichever process first starts its
resource tracker; so that is done here, before vLLM's processes, which inherit tracker and mask, are started.

Being deaf to SIGTERM, none of them may outlive the one it works for: the server ends with the guardian, and the engine
and its workers, which import this module as their main one where they are spawned, with their parents.
"""

import os
import runpy
import signal
from multiprocessing import resource_tracker

from nopsd.cluster.guardian import GRACE_S
from nopsd.cluster.lifeline import die_with_parent, end_with

_pid = os.getpid()


def _forked() -> None:
    global _pid
    die_with_parent(_pid)
    _pid = os.getpid()


os.register_at_fork(after_in_child=_forked)
if __name__ == "__main__":
    end_with(os.getppid(), GRACE_S)
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
elif __name__ == "__mp_main__":
    die_with_parent(os.getppid())
