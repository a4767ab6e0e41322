"""Tests of DeepMind Control: names, actions, seeds, pictures, exact states."""

import numpy as np
import pytest
from env_copies import check_restore, outcomes, random_actions

from dreamer_jax.envs import make_env
from dreamer_jax.envs.rendering import RENDERERS, failure

pytest.importorskip("dm_control")

from dreamer_jax.envs.dmc import Control, find_task  # noqa: E402

# The 20 tasks of Hafner et al. 2020, under the names of its figures.
PAPER_TASKS = (
    "acrobot_swingup",
    "cartpole_balance",
    "cartpole_balance_sparse",
    "cartpole_swingup",
    "cartpole_swingup_sparse",
    "cheetah_run",
    "cup_catch",
    "finger_spin",
    "finger_turn_easy",
    "finger_turn_hard",
    "hopper_hop",
    "hopper_stand",
    "pendulum_swingup",
    "quadruped_run",
    "quadruped_walk",
    "reacher_easy",
    "reacher_hard",
    "walker_run",
    "walker_stand",
    "walker_walk",
)
# Walking is in Hafner et al. 2021, Appendix A.
HUMANOID_TASKS = ("humanoid_run", "humanoid_stand", "humanoid_walk")

draws = pytest.mark.skipif(
    all(failure(name) for name in RENDERERS), reason="neither EGL nor OSMesa draws here"
)


def physics(env):
    return env.unwrapped._env.physics


# Names


def test_the_table_has_the_tasks_of_the_papers():
    assert len(set(PAPER_TASKS)) == 20
    pairs = [find_task(name) for name in PAPER_TASKS + HUMANOID_TASKS]
    assert len(set(pairs)) == 23
    assert find_task("cup_catch") == find_task("ball_in_cup_catch") == ("ball_in_cup", "catch")
    assert find_task("finger_turn_easy") == ("finger", "turn_easy")
    assert find_task("humanoid_CMU_run") == ("humanoid_CMU", "run")


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(ValueError, match="Control task 'walker_wal'.*Did you mean 'walker_walk'"):
        make_env("dmc_proprio:walker_wal", 0)


# Observations, actions and episodes


def test_the_vectors_are_the_tasks_own():
    env = make_env("dmc_proprio:walker_walk", 0)
    shapes = {key: box.shape for key, box in env.observation_space.items()}
    assert shapes == {"height": (1,), "orientations": (14,), "velocity": (9,)}
    obs, _ = env.reset()
    assert obs["height"] == np.float32(physics(env).torso_height())
    assert env.action_space.shape == (6,)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_actions_are_rescaled_from_the_specification(sign):
    env = make_env("dmc_proprio:quadruped_walk", 0)
    env.reset()
    env.step(np.full(12, sign, np.float32))
    low, high = physics(env).model.actuator_ctrlrange.T
    assert high.max() == pytest.approx(1.1)
    np.testing.assert_allclose(physics(env).data.ctrl, high if sign > 0 else low)


def test_an_action_is_repeated_and_its_rewards_summed():
    env, single = (make_env("dmc_proprio:cartpole_balance", 0, action_repeat=n) for n in (2, 1))
    env.reset(), single.reset()
    for action in random_actions(env, 5):
        obs, reward, *_ = env.step(action)
        rewards = [single.step(action)[1] for _ in range(2)]
        assert reward == sum(rewards)
    assert physics(env).time() == physics(single).time() == pytest.approx(0.1)


def test_an_episode_is_500_repeated_steps_and_ends_truncated():
    env = make_env("dmc_proprio:pendulum_swingup", 0, action_repeat=2)
    env.reset()
    flags = [env.step(np.zeros(1))[2:4] for _ in range(500)]
    assert flags == [(False, False)] * 499 + [(False, True)]


def test_discount_zero_is_terminal(monkeypatch):
    env = make_env("dmc_proprio:pendulum_swingup", 0)
    env.reset()
    monkeypatch.setattr(env.unwrapped._env.task, "get_termination", lambda physics: 0.0)
    assert env.step(np.zeros(1))[2:4] == (True, False)


def test_time_limit_is_in_frames():
    env = make_env("dmc_proprio:pendulum_swingup", 0, action_repeat=2, time_limit=5)
    env.reset()
    assert [env.step(np.zeros(1))[3] for _ in range(3)] == [False, False, True]


def test_a_seed_gives_the_same_episodes():
    def run(env, **seed):
        first = env.reset(**seed)[0]["position"].tobytes()
        return first, outcomes(env, actions), env.reset()[0]["position"].tobytes()

    env = make_env("dmc_proprio:reacher_easy", 2**40)
    actions = random_actions(env, 20)
    first = run(env)
    assert run(env, seed=2**40) == first
    assert run(env, seed=1) != first
    assert run(make_env("dmc_proprio:reacher_easy", 1)) == run(env, seed=1)
    assert run(make_env("dmc_proprio:reacher_easy", 2**40)) == first


# States


@pytest.mark.parametrize("task", ["pendulum_swingup", "finger_turn_hard"])
def test_restored_task_goes_on_bit_identically(task):
    check_restore(f"dmc_proprio:{task}", 30, action_repeat=2)


def test_states_are_small_and_of_one_task():
    env = Control("walker_walk")
    state = env.get_state()
    assert len(state["env"]) < 2e6
    with pytest.raises(ValueError, match="of 'walker_walk' cannot be restored in 'walker_run'"):
        Control("walker_run").set_state(state)


@draws
@pytest.mark.slow
@pytest.mark.parametrize("task", PAPER_TASKS + HUMANOID_TASKS)
def test_every_task_resets_draws_steps_and_restores(task):
    def picture(env):
        image = env.unwrapped.picture(64)
        assert image.std() > 1.0
        return image

    check_restore(f"dmc_proprio:{task}", 300, see=picture, action_repeat=2)


# Pixels


@draws
def test_pixels_come_with_the_vectors_and_do_not_disturb_the_physics():
    seen, blind = (make_env(f"{kind}:walker_walk", 0) for kind in ("dmc", "dmc_proprio"))
    assert seen.observation_space["image"].shape == (64, 64, 3)
    assert set(seen.observation_space) == {"height", "image", "orientations", "velocity"}
    obs, expected = seen.reset()[0], blind.reset()[0]
    images = []
    for action in random_actions(seen, 5):
        images.append(obs.pop("image"))
        assert images[-1].dtype == np.uint8
        for key in expected:
            np.testing.assert_array_equal(obs[key], expected[key])
        obs, expected = seen.step(action)[0], blind.step(action)[0]
    assert min(image.std() for image in images) > 1.0
    assert len({image.tobytes() for image in images}) == 5
    seen.close()


@draws
def test_pixels_are_restored_bit_identically():
    check_restore("dmc:cup_catch", 5, action_repeat=2)


@draws
@pytest.mark.parametrize(("task", "camera"), [("quadruped_walk", 2), ("cheetah_run", 0)])
def test_the_picture_is_the_cameras_that_the_papers_use(task, camera):
    env = make_env(f"dmc:{task}", 0)
    for action in random_actions(env, 3):
        first, later = env.reset()[0]["image"], env.step(action)[0]["image"]
        np.testing.assert_array_equal(later, physics(env).render(64, 64, camera_id=camera))
        assert (later != first).any()
    assert (later != physics(env).render(64, 64, camera_id=1)).any()
    assert env.render().shape == (256, 256, 3)
    env.close()


@draws
def test_only_pictures_that_are_returned_are_drawn(monkeypatch):
    env = make_env("dmc:pendulum_swingup", 0, action_repeat=4)
    drawn = []
    monkeypatch.setattr(
        Control, "picture", lambda self, size: drawn.append(size) or np.zeros((64, 64, 3), np.uint8)
    )
    env.reset()
    env.step(np.zeros(1))
    assert drawn == [64, 64]
    env.close()


def test_a_renderer_that_does_not_work_is_reported_when_the_task_is_built(monkeypatch):
    def broken(self, *args, **kwargs):
        raise RuntimeError("no display")

    Control("pendulum_swingup")  # imports dm_control, once a renderer is chosen
    monkeypatch.setattr("dm_control.mujoco.engine.Camera.render", broken)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(ValueError, match="MuJoCo cannot render .*MUJOCO_GL=egl: no display"):
        make_env("dmc:pendulum_swingup", 0)
    make_env("dmc_proprio:pendulum_swingup", 0).reset()
