"""The commands' names, apart from the stages' work, so that `nopsd --help` imports nothing heavy."""

STAGE_NAMES = ("data", "rollout", "evaluate_base", "neurons", "signals", "select", "train", "evaluate", "report")
ALIASES = {"score": "neurons"}  # other names of a stage's command
OTHER_COMMANDS = ("run", "inspect", "config", "status", "serve", "doctor", "eval", "entropy_gap")
COMMANDS = (*OTHER_COMMANDS, *STAGE_NAMES, *ALIASES)
