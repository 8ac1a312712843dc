"""vLLM's OpenAI-compatible server, deaf to SIGTERM in all of its processes: `python -m nopsd.rollout.vllm_main ARGS`.

`nopsd.rollout.guardian` blocks the signal (a scheduler sends it to every process, and the step in hand still needs the
server) and ends us by SIGINT. But Python's multiprocessing unblocks it in whichever process first starts its resource
tracker; so that is done here, before vLLM's processes, which inherit tracker and mask, are started.
"""

import runpy
import signal
from multiprocessing import resource_tracker

if __name__ == "__main__":
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
