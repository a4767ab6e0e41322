"""Compare training on 8 virtual devices with one, in a process that test_devices.py starts.

Arguments: number of members, number of devices. Prints one JSON object.
"""

import json
import re
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from conftest import SHALLOW
from mock_agents import largest_difference, mock_agent, mock_batch

from dreamer_jax.agent.members import make_members, stack_hypers
from dreamer_jax.agent.placement import place
from dreamer_jax.seeding import member_keys

UPDATES, BATCH = 6, 4
COLLECTIVES = r"\b(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("


def play(placement, members):
    """Train and act. Returns: results on the host, and where the arrays lie."""
    agent, hypers = mock_agent(slow_critic_every=3, horizon=2, **SHALLOW)
    # Map members as accelerators do on several devices, and as a CPU does on one.
    together = len(placement.devices) > 1
    agent = replace(agent, backend=replace(agent.backend, map_members_together=together))
    fns = make_members(agent, placement)
    seeds = [5 + member for member in range(members)]
    each = [hypers.replace(kl_scale=0.1 * (1 + member)) for member in range(members)]
    state = fns.init(member_keys(seeds, 1), stack_hypers(each))
    first = jax.device_get(state.params)
    batches = [
        jax.tree.map(
            lambda *x: np.stack(x),
            *(mock_batch(b=BATCH, t=6, seed=10 * m + i) for m in range(members)),
        )
        for i in range(UPDATES)
    ]
    put = [jax.device_put(batch, placement.by_sequence) for batch in batches]
    program = fns.train_step.lower(state, put[0]).compile()
    metrics = []
    for batch in put:
        before = state
        state, values = program(state, batch)
        metrics.append(jax.device_get(values))
    carry = fns.init_policy(member_keys(seeds, 2), 3)
    obs = {"position": np.full((members, 3, 3), 0.5, np.float32)}
    actions = []
    for act in (fns.policy_step, fns.greedy_step):
        for t in range(3):
            carry, action = act(state.params, carry, obs, np.full((members, 3), t == 0))
            actions.append(np.asarray(action))
    leaves = [x for x in jax.tree.leaves(state) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    text = program.as_text()
    return {
        "first": first,
        "params": jax.device_get(state.params),
        "keys": np.asarray(jax.random.key_data(state.key)),
        "metrics": metrics,
        "actions": actions,
    }, {
        "devices": len(placement.devices),
        "state_devices": sorted({len(x.sharding.device_set) for x in leaves}),
        "members_per_device": sorted({x.addressable_shards[0].data.shape[0] for x in leaves}),
        "batch_shard": list(put[0].reward.addressable_shards[0].data.shape),
        "donated": all(x.is_deleted() for x in jax.tree.leaves(before)),
        "collectives": len(re.findall(COLLECTIVES, text)),
    }


def main(members: int, devices: int) -> None:
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    one, _ = play(place(members, BATCH, 1), members)
    many, where = play(place(members, BATCH, devices), members)
    gaps = {name: largest_difference(one[name], many[name]) for name in one}
    moved = largest_difference(one["first"], one["params"])
    print(json.dumps({"gaps": gaps, "moved": moved, **where}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
