"""vLLM's OpenAI-compatible server with SIGTERM blocked in all of its processes: `python -m ...vllm_main ARGS`.

`nopsd.cluster.guardian` blocks the signal (a scheduler sends it to every process, and the present step still needs the
server) and ends the server by SIGINT. But Python's multiprocessing unblocks it in whichever process first starts its
resource tracker; so that is done here, before vLLM's processes, which inherit tracker and mask, are started.
"""

import runpy
import signal
from multiprocessing import resource_tracker

if __name__ == "__main__":
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
