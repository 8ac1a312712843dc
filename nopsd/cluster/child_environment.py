"""What servers, launchers and ranks are given of a process's environment.

In: an environment. Out: the same without secrets that they don't need, without what another launcher left over, with
UTF-8 whatever the locale, and with a Python that finds nopsd and takes no module from the working folder: a user's
`random.py` there would stand in for Python's own. Standard library only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import nopsd
from nopsd.keys import without_secrets

# Variables that say who a process is among several, as launchers set them: torchrun, DeepSpeed, Kubeflow, MPIs.
LEFT_OVER = re.compile(
    r"(LOCAL_|GROUP_|ROLE_|CROSS_|NODE_)?(RANK|WORLD_SIZE)|(LOCAL|CROSS)_SIZE|ROLE_NAME|MASTER_(ADDR|PORT)"
    r"|TORCHELASTIC_\w+|OMPI_COMM_WORLD_\w+|OMPI_UNIVERSE_SIZE|PMI_(RANK|SIZE|FD|ID|PORT|SPAWNED)"
    r"|PMIX_(RANK|NAMESPACE|ID|SERVER_\w+)|MPI_LOCAL\w+|MV2_COMM_WORLD_\w+"
)


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """For a process of ours that this one starts."""
    given = {name: value for name, value in without_secrets(environment).items() if not LEFT_OVER.fullmatch(name)}
    return given | python_environment(environment)


def python_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of Python's own."""
    source = Path(nopsd.__file__).resolve().parent.parent
    own = [] if source.name in ("site-packages", "dist-packages") else [str(source)]  # these are found anyway
    # An empty part would be the working folder.
    others = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part and part not in own]
    path = {"PYTHONPATH": os.pathsep.join([*own, *others])} if own or others else {}
    return {**path, "PYTHONSAFEPATH": "1", "PYTHONUTF8": "1"}
