"""Errors that a user can fix: one line that names the cause and the remedy, printed without a traceback."""


class UserError(Exception):
    """Bad input or a bad environment. The message names the file, line, key or host, and what to do."""

    of_rank: int | None = None  # the rank that failed, where another one reported it to this one


class ConfigError(UserError):
    """A config key or value that can't be used."""

    def __str__(self) -> str:
        """One line, whatever a value holds."""
        return " ".join(super().__str__().splitlines())


class DataError(UserError):
    """A data set, file, line or row that can't be used."""


class ArtefactError(UserError):
    """A stage's artefact is missing, damaged, or was made from something else."""


class ServerError(UserError):
    """The rollout server can't be started or reached, died, or gave an invalid answer."""


class StaleWeightsError(ServerError):
    """The server holds, or answered with, another policy version than was asked for."""


class Stopped(Exception):  # noqa: N818 - no error
    """Not an error: the work stopped early on request, with all of it saved. The message says where."""
