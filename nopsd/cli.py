"""The command line: `nopsd STAGE [--preset NAME] [key=value ...]`; `nopsd run` runs every stage.

nopsd run --preset lab                    the embedded default, end to end
nopsd run --preset lab data.domain=chemistry select.selector=random
nopsd train --config runs/lab/config.yaml a stage, after what it reads (by deepspeed: just it)
nopsd run --dry-run --preset paper/biology   what it would do, checked without GPU, network or weights
nopsd score --preset lab                  the neurons stage by another name
nopsd inspect --preset lab                look at the scored pool: figures, overlap, nearest questions as text
nopsd eval --preset lab model.path=DIR     evaluate any checkpoint or hub model on the preset's targets
nopsd entropy_gap --preset lab            entropies of student and teacher on their own samples (the paper's Table 6)
nopsd compare --preset lab --sources a,b --methods nopsd,ttrl --seeds 0,1   the paper's tables: nopsd compare --help
nopsd config --preset lab                 the resolved configuration
nopsd status --preset lab                 which stages of the run are done
nopsd serve --preset lab                  this host's rollout servers, for a run on another host
nopsd doctor --preset lab                 everything the run stands on, looked at before it costs anything
nopsd launch --hostfile HOSTS run key=value   the same on several hosts: nopsd launch --help
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from nopsd.cluster import rank
from nopsd.commands.names import ALIASES, COMMANDS, OTHER_COMMANDS
from nopsd.engine.stopping import NOTICE
from nopsd.errors import ConfigError, Stopped, UserError

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
    top.add_argument(
        "--question",
        metavar="UID",
        action="append",
        default=[],
        help="inspect: show the nearest neighbours of this question (may be repeated)",
    )
    top.add_argument(
        "--correct",
        metavar="FILE",
        type=Path,
        help="inspect: an evaluation of the pool's answers (pool_correct.json, eval_*.jsonl)",
    )
    top.add_argument("--dry-run", action="store_true", help="run, or a stage: check, and print what it would do")
    top.add_argument("--hostfile", help="doctor: the hosts to look at (dist.hostfile)")
    top.add_argument("--json", action="store_true", help="doctor: print JSON")
    top.add_argument("--local_rank", type=int, default=-1, help=argparse.SUPPRESS)  # given by some launchers
    return top


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    own = OWN_FLAGS.get(argv[0]) if argv else None
    arguments = parser().parse_intermixed_args(["run"] if own else argv)
    presets = [item.split("=", 1)[1] for item in arguments.overrides if item.startswith("preset=")]
    overrides = [item for item in arguments.overrides if not item.startswith("preset=")]
    try:
        rank.setup(arguments.command)
        if own:
            return own(argv[1:])
        code = dispatch(arguments, arguments.config or arguments.preset or (presets or [None])[-1], overrides)
        rank.disconnect()
        return code
    except UserError as error:
        return _fail(str(error), of_rank=error.of_rank)
    except Stopped as stopped:
        rank.disconnect()
        print(f"nopsd: {stopped}; the same command continues", file=sys.stderr, flush=True)
        return 0
    except Exception:
        if "RANK" not in os.environ:
            raise
        traceback.print_exc()  # an orderly exit might wait for the other ranks, who wait for this one
        rank.report(traceback.format_exc().strip().splitlines()[-1])
        sys.stderr.flush()
        os._exit(1)
    except KeyboardInterrupt:
        return _fail("stopped; the same command continues where it was", 130)


def dispatch(arguments: argparse.Namespace, preset: str | None, overrides: list[str]) -> int:
    from nopsd.config import load_config, to_yaml

    if arguments.command != "inspect" and (arguments.question or arguments.correct):
        raise ConfigError("--question and --correct belong to `nopsd inspect`")
    if arguments.command != "doctor" and (arguments.hostfile or arguments.json):
        raise ConfigError("--json and --hostfile belong to `nopsd doctor` (other commands: dist.hostfile=FILE)")
    if arguments.dry_run and arguments.command in OTHER_COMMANDS and arguments.command != "run":
        raise ConfigError(f"--dry-run belongs to `nopsd run` and to the stages, not to `nopsd {arguments.command}`")
    if arguments.hostfile:
        overrides = [*overrides, f"dist.hostfile={arguments.hostfile}"]
    config = load_config(preset, overrides)
    if arguments.command == "config":
        print(to_yaml(config), end="")
        return 0
    quiet()
    if arguments.dry_run:
        from nopsd.commands.dry_run import dry_run

        text, code = dry_run(config, ALIASES.get(arguments.command, arguments.command))
        print(text)
        return code
    take_sigterm(arguments.command)
    if arguments.command == "inspect":
        from nopsd.commands.inspect import inspect

        print(inspect(config, arguments.question, arguments.correct))
        return 0
    if arguments.command == "doctor":
        from nopsd.commands.doctor import doctor

        text, code = doctor(config, arguments.json)
        print(text)
        return code
    if arguments.command == "serve":
        from nopsd.run.session import serve_here

        serve_here(config)
        return 0
    if arguments.command == "eval":
        from nopsd.commands.eval import evaluate

        print(evaluate(config, arguments.redo))
        return 0
    if arguments.command == "entropy_gap":
        from nopsd.commands.entropy_gap import measure, shown

        print(shown(measure(config)))
        return 0
    from nopsd.run import runner
    from nopsd.stages.registry import STAGES
    from nopsd.stages.report import closing_words

    redo = ALIASES.get(arguments.redo, arguments.redo)
    if arguments.command == "status":
        print(runner.status(STAGES, config))
    elif arguments.command == "run":
        print(closing_words(runner.run_all(STAGES, config, redo)))
    else:
        runner.run_one(STAGES, config, ALIASES.get(arguments.command, arguments.command), redo)
    return 0


def take_sigterm(command: str) -> None:
    """Schedulers send it before they kill. A rank that trains notes it, to save first; all else ends in an orderly way:
    the server and the ranks are taken down."""
    if command == "train" and "RANK" in os.environ:
        NOTICE.listen()
        return
    signal.signal(signal.SIGTERM, _interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def launch(argv: list[str]) -> int:
    quiet()
    take_sigterm("launch")
    from nopsd.commands.launch import launch as start

    return start(argv)


def compare(argv: list[str]) -> int:
    quiet()
    take_sigterm("compare")
    from nopsd.commands.compare import compare as start

    return start(argv)


OWN_FLAGS = {"launch": launch, "compare": compare}


def quiet() -> None:
    """Settings that must stand before torch and deepspeed are imported; what the user set stays."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _fail(message: str, code: int = 1, of_rank: int | None = None) -> int:
    from nopsd.cluster.logs import ERROR_PREFIX, RANK_TAG
    from nopsd.cluster.stage_launcher import under_launcher

    number = os.environ.get("RANK", "0") if under_launcher() else "0"
    tag = "" if number == "0" else f"{RANK_TAG}{number}] "
    print(f"{ERROR_PREFIX}{tag}{message}", file=sys.stderr, flush=True)
    if under_launcher():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # DeepSpeed's launcher sends it when another rank has ended
        rank.report(message, "user_error", of_rank)
        if number != "0":
            time.sleep(OTHERS_SPEAK_S)
        # The other ranks may wait in a collective, and so would an orderly exit.
        os._exit(code)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
