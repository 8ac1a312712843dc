"""Which of the distillation objective's keys go together."""

from __future__ import annotations

from nopsd.config.schema import ENTRY_POINTS, Config, DistillConfig
from nopsd.errors import ConfigError
from nopsd.plugins import is_own

DIVERGENCES = ENTRY_POINTS["distill.divergence"]

# What is one of our divergences over the whole vocabulary, and no more
PLAIN = {"support": "full", "pointwise_clip": None, "target": "teacher", "contrast": None, "kl_base_coef": 0.0}


def check_distill(config: Config) -> None:
    """ConfigError for an objective that is biased, undefined, or needs what the run hasn't got."""
    distill = config.distill
    if distill.contrast and distill.target != "teacher":
        raise ConfigError(
            f"distill.contrast={distill.contrast} and distill.target={distill.target} each define the target: "
            "set one of them back (distill.contrast=null or distill.target=teacher)"
        )
    if distill.contrast and (distill.contrast == "other_domain") != (distill.contrast_run is not None):
        raise ConfigError(
            f"distill.contrast={distill.contrast} and distill.contrast_run={distill.contrast_run}: other_domain "
            "shows the answers of another run's pool, and needs its folder; the others need none"
        )
    if distill.contrast and config.teacher.kind == "trust_region":
        raise ConfigError(
            "distill.contrast compares two prompts of one model, and teacher.kind=trust_region mixes two models: "
            "set another teacher.kind, or distill.contrast=null"
        )
    if distill.position_weight == "drift" and config.teacher.kind == "trust_region":
        raise ConfigError(
            "distill.position_weight=drift reads one teacher's log-probs, and teacher.kind=trust_region mixes two "
            "models: set another teacher.kind, or distill.position_weight=null"
        )
    _check_retain(config)
    _check_loss_tokens(config)
    _check_support(distill)
    if distill.kernel in ("numba", "triton") and (others := beyond_kernels(distill)):
        raise ConfigError(
            f"distill.kernel={distill.kernel} has no code for {', '.join(others)}: set distill.kernel=auto or torch"
        )
    if distill.is_clip is not None and distill.temperature != 1.0:
        raise ConfigError(
            "distill.is_clip compares log-probs with the server's, which have temperature 1, and distill.temperature="
            f"{distill.temperature:g}: set distill.temperature=1 or distill.is_clip=null"
        )
    wants_base = "distill.kl_base_coef" if distill.kl_base_coef > 0 else "distill.target=pmi"
    if (distill.kl_base_coef > 0 or distill.target == "pmi") and config.teacher.kind != "frozen":
        raise ConfigError(
            f"{wants_base} reads the frozen base model, which teacher.kind={config.teacher.kind} doesn't hold: "
            "set teacher.kind=frozen, or leave the key at its default"
        )


def _check_retain(config: Config) -> None:
    """Questions from elsewhere are learned from the base model itself, by what the teacher says of them."""
    retain, distill = config.train.retain, config.distill
    if not retain.share:
        return
    if not retain.data:
        raise ConfigError(
            f"train.retain.share={retain.share:g} needs train.retain.data: another domain, a preset, a file or a hub id"
        )
    if config.train.batch < 2:
        raise ConfigError(f"train.retain.share={retain.share:g} needs a batch of two: raise train.batch")
    if config.method in ("u_opsd", "ttpo"):
        raise ConfigError(
            f"train.retain.share={retain.share:g}: method={config.method} makes its teacher's prompts of each step's "
            "votes: leave it out"
        )
    if config.teacher.kind != "frozen":
        raise ConfigError(
            f"train.retain.share={retain.share:g} holds the student to the base model, which teacher.kind="
            f"{config.teacher.kind} is not: set teacher.kind=frozen"
        )
    if distill.target != "teacher" or distill.contrast:
        raise ConfigError(
            f"train.retain.share={retain.share:g} takes the teacher's own distribution as target: set "
            "distill.target=teacher and distill.contrast=null"
        )


def _check_loss_tokens(config: Config) -> None:
    """Some token of a response has loss; which responses are long enough is known when they are sampled."""
    skipped, most = config.distill.skip_first_tokens, config.distill.max_loss_tokens
    for key, limit in (("train.max_response", config.train.max_response), ("distill.max_loss_tokens", most)):
        if skipped and limit is not None and skipped >= limit:
            raise ConfigError(
                f"distill.skip_first_tokens={skipped} leaves no token with loss, for {key}={limit}: lower it, or raise "
                f"{key}"
            )


def beyond_kernels(distill: DistillConfig) -> list[str]:
    """Keys by which the objective is more than a compiled kernel does (`nopsd.train.losses.full_support`)."""
    found = [(key, getattr(distill, key)) for key, value in PLAIN.items() if getattr(distill, key) != value]
    if distill.divergence == "sampled_rkl" or is_own(distill.divergence, DIVERGENCES):
        found.append(("divergence", distill.divergence))
    if distill.kernel == "numba" and distill.divergence == "jsd" and distill.beta not in (0.0, 1.0):
        found.append(("divergence", distill.divergence))
    return [f"distill.{key}={value}" for key, value in found]


def _refuse_beside(distill: DistillConfig, why: str, *others: str) -> None:
    for name, off in (("support", "full"), ("pointwise_clip", None), *((other, None) for other in others)):
        if getattr(distill, name) != off:
            raise ConfigError(
                f"distill.{name}={getattr(distill, name)} has no meaning for distill.divergence={distill.divergence}, "
                f"{why}: set distill.{name}={'null' if off is None else off}"
            )


def _check_support(distill: DistillConfig) -> None:
    if distill.divergence == "sampled_rkl":
        _refuse_beside(distill, "which reads the sampled token alone and whose value is no divergence", "token_clip")
        return
    if is_own(distill.divergence, DIVERGENCES):
        _refuse_beside(distill, "which is given the whole vocabulary and returns a token's loss as one number")
        return
    if distill.support != "topk":
        return
    reverse = distill.divergence == "reverse_kl" or (distill.divergence == "jsd" and distill.beta == 1)
    if distill.tail == "none" and reverse:
        raise ConfigError(
            "distill.tail=none with a reverse KL is biased: its gradient at p = q is the gradient of the top-k's "
            "mass and not 0, so it moves a student that already equals its teacher: "
            "set distill.tail=bucket, renorm or stopgrad, or distill.support=full"
        )
    if distill.tail == "stopgrad" and not reverse:
        raise ConfigError(
            f"distill.tail=stopgrad is a form of the reverse KL, and distill.divergence={distill.divergence}: "
            "set distill.tail=bucket"
        )
