"""The random streams of a member, each of which derives from the member's seed alone.

So members with the same seed share all streams, and no stream depends on the other members.

stream             drawn from                                   used in
initial weights    member_keys(seeds, INIT_KEY)                 agent.init
updates            derived from INIT_KEY, in the TrainState     agent.train_step
training policy    member_keys(seeds, POLICY_KEY)               agent.explore_step, policy_step
evaluation policy  member_keys(seeds, EVAL_KEY)                 run.evaluation, run.load
model's reports    member_keys(seeds, REPORT_KEY)               agent.report
training envs      env_seed(seed, ENV_STREAM, env, generation)  run.driver
evaluation envs    env_seed(seed, EVAL_STREAM, episode, ...)    run.evaluation, run.load
prefill actions    action_generator(seed, env_step)             run.driver
replay draws       replay_generator(seed)                       replay.replay
videos' sequences  video_generator(seed, env_step)              run.trainer

With `config.loop = "device"` the last three are drawn from other streams:

prefill actions    member_keys(seeds, ACTION_KEY)               run.device_loop
replay draws       member_keys(seeds, DRAW_KEY)                 run.device_loop
videos' sequences  member_keys(seeds, VIDEO_KEY)                run.device_trainer
"""

from collections.abc import Sequence

import numpy as np

# JAX keys and NumPy streams are different functions of the seed, so their numbers may coincide.
INIT_KEY, POLICY_KEY, EVAL_KEY, REPORT_KEY, ACTION_KEY, DRAW_KEY, VIDEO_KEY = 1, 2, 3, 4, 5, 6, 7
ENV_STREAM, EVAL_STREAM, RANDOM_STREAM, VIDEO_STREAM = 1, 2, 3, 4
REPLAY_STREAM = int.from_bytes(b"replay", "big")


def member_keys(seeds: Sequence[int], use: int):
    """Return one key per seed, [M] typed threefry keys.

    Under `vmap` threefry gives each member the stream it would have alone; the faster rbg generator
    does not.

    Args:
        seeds: seeds of the members, [M].
        use: one of the keys above.
    """
    import jax  # not at the top: environment workers import this module and must not load JAX
    import jax.numpy as jnp

    keys = [jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), use) for seed in seeds]
    return jnp.stack(keys)


def env_seed(seed: int, use: int, index: int, generation: int = 0) -> int:
    """Return the 32-bit seed of environment number `index` of a member.

    Args:
        seed: the member's seed.
        use: ENV_STREAM or EVAL_STREAM.
        index: number of the environment or of the evaluation episode.
        generation: number of times that the environment has been replaced after a failure.
    """
    entropy = [seed, use, index] + [generation] * (generation > 0)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def action_generator(seed: int, env_step: int) -> np.random.Generator:
    """Return the generator of a member's random actions at one step of the prefill."""
    return np.random.default_rng([seed, RANDOM_STREAM, env_step])


def video_generator(seed: int, env_step: int) -> np.random.Generator:
    """Return the generator that draws the sequences of a member's videos at one step."""
    return np.random.default_rng([seed, VIDEO_STREAM, env_step])


def replay_generator(seed: int) -> np.random.Generator:
    """Return the generator that draws a member's training sequences."""
    if seed < 0:
        raise ValueError(f"a seed must not be negative, got {seed}")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([int(seed), REPLAY_STREAM])))
