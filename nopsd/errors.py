"""Errors that a user can mend: one line that names the thing and the remedy, printed without a traceback."""


class UserError(Exception):
    """Bad input or a bad environment. The message names the file, line, key or host, and what to do."""

    of_rank: int | None = None  # whose trouble it is, where another rank told this one of it


class ConfigError(UserError):
    """A config key or value that can't be used."""


class DataError(UserError):
    """A data set, file, line or row that can't be used."""


class ArtefactError(UserError):
    """A stage's artefact is missing, damaged, or was made from something else."""


class ServerError(UserError):
    """The rollout server can't be started or reached, died, or answered what it must not."""


class StaleWeightsError(ServerError):
    """The server holds, or answered with, another policy version than was asked for."""


class Stopped(Exception):
    """Not an error: work was left early, as was asked, with all that was done saved. The message says where."""
