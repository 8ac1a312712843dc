"""The command line: `nopsd STAGE [--preset NAME] [key=value ...]`; `nopsd run` runs every stage.

nopsd run --preset lab                    the embedded default, end to end
nopsd run --preset lab data.domain=chemistry select.selector=random
nopsd train --config runs/lab/config.yaml a stage, after what it reads (by deepspeed: just it)
nopsd score --preset lab                  the neurons stage by another name
nopsd inspect --preset lab                look at the scored pool: figures, overlap, nearest questions as text
nopsd config --preset lab                 the resolved configuration
nopsd status --preset lab                 which stages of the run are done
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from nopsd.errors import ConfigError, UserError
from nopsd.pipeline.names import ALIASES, COMMANDS

# The launcher ends all ranks when the first ends: what rank 0 has to say comes first.
OTHERS_SPEAK_S = 3.0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="nopsd", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("command", choices=COMMANDS, metavar="|".join(COMMANDS))
    top.add_argument(
        "overrides", nargs="*", metavar="key=value", help="configuration overrides; `preset=NAME` works too"
    )
    top.add_argument("--preset", help="a preset's name, or a YAML file")
    top.add_argument("--config", help="a resolved config.yaml of a run folder, used whole")
    top.add_argument("--redo", metavar="STAGE", help="forget this stage and those that read it, and make them afresh")
    top.add_argument("--question", metavar="UID", action="append", default=[],
                     help="inspect: show the nearest neighbours of this question (may be repeated)")  # fmt: skip
    top.add_argument("--correct", metavar="FILE", type=Path,
                     help="inspect: an evaluation of the pool's answers (pool_correct.json, eval_*.jsonl)")  # fmt: skip
    top.add_argument("--local_rank", type=int, default=-1, help=argparse.SUPPRESS)  # given by some launchers
    return top


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_intermixed_args(argv)
    presets = [item.split("=", 1)[1] for item in arguments.overrides if item.startswith("preset=")]
    overrides = [item for item in arguments.overrides if not item.startswith("preset=")]
    try:
        return dispatch(arguments, arguments.config or arguments.preset or (presets or [None])[-1], overrides)
    except UserError as error:
        return _fail(str(error))
    except Exception:
        if "RANK" not in os.environ:
            raise
        traceback.print_exc()  # an orderly exit might wait for the other ranks, who wait for this one
        sys.stderr.flush()
        os._exit(1)
    except KeyboardInterrupt:
        return _fail("stopped; the same command continues where it was", 130)


def dispatch(arguments: argparse.Namespace, preset: str | None, overrides: list[str]) -> int:
    from nopsd.config import load_config, to_yaml

    if arguments.command != "inspect" and (arguments.question or arguments.correct):
        raise ConfigError("--question and --correct belong to `nopsd inspect`")
    config = load_config(preset, overrides)
    if arguments.command == "config":
        print(to_yaml(config), end="")
        return 0
    quiet()
    # An orderly end on SIGTERM too (schedulers send it first): the server and the ranks are taken down.
    signal.signal(signal.SIGTERM, _interrupt)
    if arguments.command == "inspect":
        from nopsd.pipeline.inspect import inspect

        print(inspect(config, arguments.question, arguments.correct))
        return 0
    from nopsd.pipeline import runner

    redo = ALIASES.get(arguments.redo, arguments.redo)
    if arguments.command == "status":
        print(runner.status(config))
    elif arguments.command == "run":
        runner.run_all(config, redo)
    else:
        runner.run_one(config, ALIASES.get(arguments.command, arguments.command), redo)
    return 0


def quiet() -> None:
    """Settings that must stand before torch and deepspeed are imported; what the user set stays."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _fail(message: str, code: int = 1) -> int:
    from nopsd.pipeline.launch import ERROR_PREFIX, RANK_TAG, under_launcher

    rank = os.environ.get("RANK", "0") if under_launcher() else "0"
    tag = "" if rank == "0" else f"{RANK_TAG}{rank}] "
    print(f"{ERROR_PREFIX}{tag}{message}", file=sys.stderr, flush=True)
    if under_launcher():
        if rank != "0":
            time.sleep(OTHERS_SPEAK_S)
        # The other ranks may wait in a collective, and so would an orderly exit.
        os._exit(code)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
