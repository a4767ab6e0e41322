"""Host data and metrics rows of members, gathered from several runs."""

from conftest import make_tiny_config

from dreamer_jax import config as config_lib
from dreamer_jax.config import sweep
from dreamer_jax.run import member_data


def host_data(start, members, **changes):
    """Host data of `members` members of 2 environments, each entry telling whose it is."""
    per_member = [start + m for m in range(members)]
    per_row = [10 * m + e for m in per_member for e in range(2)]
    return {
        "env_step": 4, "update": 2, "due": [],
        "summary": [{"member": m, "seed": s} for m, s in enumerate(per_member)],
        "replay": per_member, "prefetch": per_member,
        "driver": {"stats": per_member}
        | dict.fromkeys(("is_first", "returns", "lengths"), per_row),
        "environments": per_row, "generations": per_row,
        "records": {"sums": {"a": per_member}, "offset": 99, "pending": ["x"]}
        | dict.fromkeys(("frozen", "faults"), per_member),
    } | changes  # fmt: skip


def test_gather_host():
    gathered = member_data.gather_host([(host_data(3, 3), [2, 0]), (host_data(8, 1), [0])], 2)
    assert gathered["replay"] == gathered["prefetch"] == [5, 3, 8]
    assert gathered["environments"] == gathered["generations"] == [50, 51, 30, 31, 80, 81]
    assert gathered["driver"]["lengths"] == [50, 51, 30, 31, 80, 81]
    assert gathered["driver"]["stats"] == gathered["records"]["frozen"] == [5, 3, 8]
    assert gathered["records"]["sums"] == {"a": [5, 3, 8]}
    assert (gathered["records"]["offset"], gathered["records"]["pending"]) == (0, [])
    assert [(r["member"], r["seed"]) for r in gathered["summary"]] == [(0, 5), (1, 3), (2, 8)]


def test_gather_host_before_the_first_update_and_right_after_a_log_line():
    early = host_data(0, 2, prefetch=[None] * 2, summary=None)
    logged = host_data(5, 1, prefetch=[None])
    logged["records"]["sums"] = None
    gathered = member_data.gather_host([(early, [1]), (logged, [0])], 2)
    assert gathered["prefetch"] == [None, None] and gathered["summary"] is None
    assert gathered["records"]["sums"] == {"a": [1, 0.0]}
    assert member_data.gather_host([(logged, [0])], 2)["records"]["sums"] is None


def test_gather_rows():
    def row(member, env_step, **values):
        return {"member": member, "env_step": env_step} | values

    first = [row(0, 5, a=1), row(1, 5, a=2), row(0, 5, eval_return=3), row(1, 5, eval_return=4)]
    second = [row(0, 5, eval_return=5), row(0, 9, a=6)]
    assert member_data.gather_rows([(first, [1, 0]), (second, [0])]) == [
        row(0, 5, a=2), row(1, 5, a=1),
        row(0, 5, eval_return=4), row(1, 5, eval_return=3), row(2, 5, eval_return=5),
        row(2, 9, a=6),
    ]  # fmt: skip
    assert member_data.gather_rows([(first, [1])]) == [row(0, 5, a=2), row(0, 5, eval_return=4)]


def test_workers_are_no_more_than_environments():
    config = make_tiny_config(seeds=3)
    config.env.num_envs = 2
    config.env.workers = 5
    fewer = member_data.gather_config([(config, [1, 2])])
    assert sweep.member_seeds(fewer) == [1, 2]
    assert fewer.env.workers == 4
    config_lib.validate(fewer)
