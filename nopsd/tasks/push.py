"""`nopsd push`: the exported model and its card into a repository of the hub.

In: a run whose training is done, `owner/name`, the user's own token (HF_TOKEN, or `hf auth login`). Out: the
repository's address. The token is never printed: errors of the hub's client are printed without it.
"""

from __future__ import annotations

from nopsd.config import Config
from nopsd.errors import UserError
from nopsd.run.session import Session
from nopsd.stages.card import write_card
from nopsd.train.artefacts import RECORD

MINE_ALONE = [RECORD, ".*"]  # what the run needs itself; it names folders of this machine


def push(config: Config, repo: str, private: bool, revision: str | None = None) -> str:
    """Upload the exported model with its card.

    Args:
        config: The run's.
        repo: OWNER/NAME; made if it isn't there.
        private: If it is made.
        revision: A branch; None: the main one.

    Returns:
        What to print.

    Raises:
        UserError: There is no export, no token, or the hub refuses.
    """
    from huggingface_hub import HfApi, get_token

    session = Session(config)
    run = session.run
    if not run.export_record():
        raise UserError(f"{run.root} has no exported model: run `nopsd train` first")
    if repo.count("/") != 1:
        raise UserError(f"{repo}: a hub repository is OWNER/NAME")
    token = get_token()
    if token is None:
        raise UserError("no token for the hub: set HF_TOKEN, or run `hf auth login`")
    write_card(session, run.training_plan(), run.export_record())
    try:
        api = HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=run.export,
            revision=revision,
            ignore_patterns=MINE_ALONE,
            commit_message=f"{config.method} on {config.data.domain}",
        )
    except Exception as error:  # the hub's client raises classes of three packages
        raise UserError(f"{repo} can't be pushed to: {_message_of(error, token)}") from None
    return f"{run.export} is {done.commit_url}"


def _message_of(error: Exception, token: str) -> str:
    """The error's first lines without the token, and what to do."""
    text = " ".join(str(error).split()).replace(token, "(token withheld)")
    status = int(getattr(getattr(error, "response", None), "status_code", 0))
    remedy = {
        401: "the token is not valid: log in again",
        403: "the token may not write there: make one that may",
        404: "no such place: check OWNER/NAME",
    }.get(status, "check the network and HF_HUB_OFFLINE; the same command tries again")
    return f"{type(error).__name__}: {text[:300]}: {remedy}"
