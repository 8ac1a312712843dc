"""The frozen base model as the scoring stages read it: one ZeRO-3 engine, sharded over the ranks."""

from __future__ import annotations

from typing import Any

from nopsd.engine.device import device
from nopsd.engine.ds_config import role_config
from nopsd.engine.frozen import load_frozen
from nopsd.run.session import Session


def base_engine(session: Session) -> Any:
    """The frozen base model, sharded over the ranks."""
    config, dtype = session.config, session.config.model.dtype
    ds_config = role_config(config, "teacher", device())
    return load_frozen(str(session.model.path), dtype, ds_config, config.model.trust_remote_code, config.model.revision)
