"""Signs of a failing run, named with their likely cause and what shows it.

Every sign is a rule about a member's curves, and may be wrong: docs/diagnosing.md says what each
metric means, and which runs the rules were tried on.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dreamer_jax.report.results.runs import Member, Run
from dreamer_jax.report.results.tables import PLACE, Table, place_of
from dreamer_jax.report.scores.score import is_number

LAST = 4  # the last quarter of a curve counts
COLLAPSED = 0.9  # share of latent variables
CERTAIN = 0.01  # nats of entropy
SATURATED = 1e-6  # nats of the posterior's entropy, below which no gradient reaches its network
VANISHED = 0.01  # share of the largest gradient's norm
UNPREDICTED = 0.5  # slope of predicted by seen rewards; runs that learn have more than 0.7
SOLVED = 0.9  # normalised score above which an actor may be certain, or have nothing to learn


class Sign(NamedTuple):
    """Something that is wrong with a member."""

    cause: str
    evidence: str


def updates_are_skipped(member: Member) -> str | None:
    skipped = member.latest.get("skipped_updates")
    if not is_number(skipped) or not skipped:
        return None
    return f"{skipped} updates were skipped, because a loss or a gradient was not finite"


def model_gradient_is_clipped(member: Member) -> str | None:
    norm, clip = _late(member, "model_grad_norm"), member.run.config.get("opt.clip")
    if norm is None or not is_number(clip) or not clip or norm <= clip:
        return None
    return f"the norm of the model's gradient stays at {norm:,.3g}, above opt.clip = {clip:g}"


def latents_are_saturated(member: Member) -> str | None:
    entropy = _late(member, "posterior_entropy")
    if entropy is None or not 0 <= entropy < SATURATED:
        return None
    return (
        f"the entropy of the posterior is {entropy:.1g} nats: it is certain whatever is observed, "
        "and no longer learns"
    )


def latents_carry_nothing(member: Member) -> str | None:
    share, entropy = _late(member, "collapsed_latents"), _late(member, "posterior_entropy")
    # Latents that are certain are those of a network that is saturated, or nearly so.
    if share is None or entropy is None or share < COLLAPSED or abs(entropy) < CERTAIN:
        return None
    return (
        f"{share:.0%} of the latent variables are collapsed, and the posterior leaves "
        f"{entropy:.3g} nats open"
    )


def actor_is_certain(member: Member) -> str | None:
    entropy = _late(member, "actor_entropy")
    # Entropies of continuous actions may be negative, and 0 means nothing there.
    if entropy is None or not 0 <= entropy < CERTAIN or _is_solved(member):
        return None
    return f"the actor's entropy is {entropy:.2g} nats"


def actor_is_saturated(member: Member) -> str | None:
    norm, entropy = _late(member, "actor_grad_norm"), _late(member, "actor_entropy")
    # That of a distribution over discrete actions is not negative, and the rule above is for it.
    if norm is None or entropy is None or entropy >= 0 or _is_solved(member):
        return None
    largest = max(point.value for point in member.curves["actor_grad_norm"])
    if norm >= VANISHED * largest:
        return None
    return (
        f"the norm of the actor's gradient fell from {largest:.2g} to {norm:.2g}, at an entropy of "
        f"{entropy:.3g} nats: its actions are at an end of their range, and it no longer learns"
    )


def reward_is_unseen(member: Member) -> str | None:
    seen, returns = member.curves.get("reward_nonzero"), member.curves.get("train_return")
    if not seen or any(point.value for point in [*seen, *(returns or ())]):
        return None
    return "no batch held a reward, and every episode of training returned 0"


def rewards_are_unpredicted(member: Member) -> str | None:
    slope, seen = _late(member, "reward_slope"), member.curves.get("reward_nonzero")
    if slope is None or slope >= UNPREDICTED or not seen or not any(p.value for p in seen):
        return None
    return f"predicted rewards are {slope:.2g} times those that were seen"


# Rules by the likely cause that they name; a rule returns what shows it, or None.
SIGNS: dict[str, Callable[[Member], str | None]] = {
    "learning rate too high, or numbers of the environment": updates_are_skipped,
    "learning rate of the model too high": model_gradient_is_clipped,
    "latents saturated: learning rate of the model too high": latents_are_saturated,
    "weight of the KL loss too high": latents_carry_nothing,
    "entropy bonus too low": actor_is_certain,
    "actor saturated: learning rate of the actor too high": actor_is_saturated,
    "reward never seen": reward_is_unseen,
}
# Other failures have this sign too, so it counts where there is no other.
LAST_SIGN = "too few updates, or weight of the reward's loss too low", rewards_are_unpredicted


def signs_of(member: Member) -> list[Sign]:
    """Return the signs that a member fails."""
    signs = [Sign(cause, text) for cause, rule in SIGNS.items() if (text := rule(member))]
    cause, rule = LAST_SIGN
    return signs or ([Sign(cause, text)] if (text := rule(member)) else [])


def signs_table(runs: Sequence[Run]) -> list[Table]:
    """Return a table of all members' signs, if there are any."""
    rows = [
        place_of(member) | sign._asdict()
        for run in runs
        for member in run.members
        for sign in signs_of(member)
    ]
    headings = PLACE | {
        "cause": "Likely cause",
        "evidence": "What shows it",
    }
    note = "Rules about the curves below; none is a proof. docs/diagnosing.md explains them."
    return [Table("signs", "Signs of failure", headings, rows, note)] if rows else []


def _is_solved(member: Member) -> bool:
    return member.normalized_score is not None and member.normalized_score > SOLVED


def _late(member: Member, key: str) -> float | None:
    """Return the median of the last quarter of a curve; None if it has no point."""
    curve = member.curves.get(key)
    if not curve:
        return None
    return statistics.median(point.value for point in curve[-max(1, len(curve) // LAST) :])
