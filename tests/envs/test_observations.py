"""Readings of observations: every layout of pixels, boards of codes, tuples, and config keys."""

import numpy as np
import pytest
from env_doubles import Scripted
from gymnasium import spaces

from dreamer_jax.envs.wrappers import adapt
from dreamer_jax.errors import UsageError

PICTURE = np.random.default_rng(0).integers(256, size=(40, 48, 3), dtype=np.uint8)
FRAMES = np.random.default_rng(1).integers(256, size=(4, 40, 48, 3), dtype=np.uint8)


def read(value, high, *, low=0, dtype=None, size=40, **keys):
    """Return what an environment's observation of one entry is read as, and the line about it."""
    space = spaces.Box(low, high, value.shape, dtype or value.dtype)
    env = adapt(Scripted(space, obs=value), size=size, **keys)
    seen, _ = env.reset()
    assert env.observation_space.contains(seen)
    ((key, entry),) = seen.items()
    return key, entry, env.readings[key]


def like(picture, size=40):
    """Return how the plain picture, uint8 with its channels last, is read."""
    return read(picture, 255, size=size)[1]


@pytest.mark.parametrize(
    ("value", "high"),
    [
        (PICTURE.transpose(2, 0, 1), 255),
        (PICTURE.astype(np.int64), 255),
        (PICTURE.astype(np.float32), 255),
        (PICTURE.astype(np.float64) / 255, 1),
        (PICTURE.transpose(2, 0, 1).astype(np.float32) / 255, 1),
    ],
)
def test_one_picture_in_every_layout_is_the_same_image(value, high):
    key, image, line = read(value, high)
    assert key == "image" and "is read as an image 40x40x3: channels " in line
    np.testing.assert_array_equal(image, like(PICTURE))


@pytest.mark.parametrize("frames", [FRAMES, FRAMES.transpose(0, 3, 1, 2)])
def test_stacked_frames_become_channels(frames):
    key, image, line = read(frames, 255)
    assert key == "image" and "4 frames stacked as channels" in line
    for frame in range(4):
        np.testing.assert_array_equal(image[..., 3 * frame : 3 * frame + 3], like(FRAMES[frame]))
    grey = read(FRAMES[..., 0], 255)[1]
    np.testing.assert_array_equal(grey[..., 2:3], like(FRAMES[2, ..., 0]))


@pytest.mark.parametrize(
    ("value", "bounds", "reason"),
    [
        (np.full((7, 7, 3), 9, np.uint8), (0, 255), "may be a board of codes"),
        (np.full((19, 19), 2, np.uint8), (0, 255), "may be a board of codes"),
        (np.full((40, 40, 40), 9, np.uint8), (0, 255), "may be a board of codes"),
        (np.full((40, 40), 9, np.int32), (0, 12), "its bounds are not those of pixels"),
        (np.full((40, 40, 3), 0.5, np.float32), (-1, 1), "its bounds are not those of pixels"),
        (np.full((40, 40, 3), 0.5, np.float32), (-np.inf, np.inf), "bounds are not those of pix"),
        (np.full(40, 9, np.uint8), (0, 255), "it has no pixels"),
    ],
)
def test_what_may_be_something_else_is_a_vector_and_says_why(value, bounds, reason):
    key, vector, line = read(value, bounds[1], low=bounds[0])
    assert key == "vector" and reason in line and f"vector of {value.size}" in line
    np.testing.assert_array_equal(vector, value.reshape(-1))


class Missions(spaces.Space):
    """A kind of text that gymnasium does not know, such as MiniGrid's."""

    def __init__(self, dtype=str):
        super().__init__(None, dtype)


def test_spaces_that_gymnasium_does_not_know_are_texts_or_refused():
    space = spaces.Dict({"at": spaces.Discrete(3), "mission": Missions()})
    env = adapt(Scripted(space, obs={"at": 1, "mission": "go"}), size=8)
    assert env.reset()[0]["at"].tolist() == [0, 1, 0]
    assert env.readings["mission"] == "observation 'mission' is text and is left out"
    with pytest.raises(UsageError, match="observation 'vector' has no fixed length: .*Missions"):
        adapt(Scripted(Missions(float), obs=0.0), size=8)


@pytest.mark.parametrize(("dtype", "given"), [(np.int8, np.int64), (np.uint8, np.uint64)])
def test_integers_that_exceed_the_declared_type_do_not_wrap(dtype, given):
    space = spaces.Box(0, 100, (2,), dtype)
    env = adapt(Scripted(space, obs=np.array([300, 5], given)), size=8)
    assert env.reset()[0]["vector"].tolist() == [300, 5]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_images_that_a_key_names_scale_their_declared_bounds(dtype):
    board = np.arange(16).reshape(4, 4).astype(dtype) % 6
    key, image, line = read(board, 5, size=4, images=".*")
    assert "values from 0 to 5 scaled to 0 to 255" in line
    np.testing.assert_array_equal(image[..., 0], 51 * board)
    with pytest.raises(
        ValueError, match="values from 0(.0)? to 6(.0)?, outside of the declared 0 to 5"
    ):
        read(board + np.eye(4, dtype=dtype), 5, dtype=dtype, size=4, images=".*")


def test_tuples_of_vectors_are_checked_like_other_vectors():
    position = spaces.Box(-1, 1, (2,), np.float32)
    part = spaces.Dict({"a": spaces.Discrete(2), "b": position})
    space = spaces.Tuple([position, spaces.Discrete(2), part])
    value = np.array([0.5, -3.0])  # float64, and out of bounds
    env = adapt(Scripted(space, obs=[value, 1, {"b": value, "a": 0}]), size=8)
    assert env.reset()[0]["vector"].tolist() == [0.5, -3, 0, 1, 1, 0, 0.5, -3]
    for wrong, message in (
        ((value, 1), "'vector' is a tuple, not a tuple of 3 entries"),
        ((value[:1], 1, {"a": 0, "b": value}), "'vector/0' changed shape from"),
        ((value, 2, {"a": 0, "b": value}), "'vector/1' is 2, outside Discrete"),
        ((value, 1, {"a": 0}), "'vector/2' has the keys"),
    ):
        env.env.obs = wrong
        with pytest.raises(ValueError, match=message):
            env.step(0)


def test_config_keys_choose_otherwise():
    board = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    key, image, line = read(board, 255, size=4, images="vec.*")
    assert key == "vector" and "config.env.images" in line
    np.testing.assert_array_equal(image, board)
    np.testing.assert_array_equal(
        read(board.transpose(2, 0, 1), 255, size=4, images=".*")[1], board
    )
    signed = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)
    expected = np.rint(np.linspace(0, 255, 16)).astype(np.uint8).reshape(4, 4, 1)
    np.testing.assert_array_equal(read(signed, 1, low=-1, size=4, images=".*")[1], expected)
    key, vector, line = read(PICTURE, 255, vectors="image")
    assert key == "image" and vector.shape == (PICTURE.size,) and "config.env.vectors" in line


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, bool])
def test_boards_of_zeros_and_ones_are_read_as_grids_where_a_key_says_so(dtype):
    board = np.random.default_rng(2).integers(0, 2, (10, 5, 3)).astype(dtype)
    assert read(board, 1)[1].dtype == np.float32
    key, grid, line = read(board, 1, grids=".*")
    assert key == "vector" and "is read as a grid 10x5x3: config.env.grids" in line
    assert grid.dtype == bool and np.array_equal(grid, board)
    assert np.array_equal(read(board[..., 0], 1, grids=".*")[1], board[..., :1])


def test_a_grid_of_switches():
    space, board = spaces.MultiBinary((4, 3)), np.eye(4, 3, dtype=np.int8)
    seen, _ = adapt(Scripted(space, obs=board), size=8, grids="v.*").reset()
    assert np.array_equal(seen["vector"], board[..., None])


def test_a_grid_holds_nothing_but_zeros_and_ones():
    for wrong in (0.5, np.nan):
        env = Scripted(spaces.Box(0, 1, (4, 3)), obs=np.full((4, 3), wrong, np.float32))
        with pytest.raises(ValueError, match="read as a grid and must hold zeros and ones"):
            adapt(env, size=8, grids=".*").reset()


@pytest.mark.parametrize(
    ("space", "keys", "message"),
    [
        (spaces.Discrete(3), {"images": ".*"}, "'vector', which cannot be an image"),
        (spaces.Box(-np.inf, np.inf, (9, 9)), {"images": ".*"}, "has no finite bounds"),
        (spaces.Discrete(3), {"images": "camera"}, "matches no entry .* they are vector"),
        (spaces.Discrete(3), {"vectors": "vec"}, "matches no entry .*in full"),
        (spaces.Box(0, 1, (9, 9)), {"images": "v.*", "vectors": ".*"}, "both match 'vector'"),
        (spaces.Box(0, 1, (0,)), {}, "'vector' is empty"),
        (spaces.Box(0, 1, (9, 9)), {"grids": "vec"}, "matches no entry .*in full"),
        (spaces.Box(0, 1, (9, 9)), {"vectors": ".*", "grids": ".*"}, "vectors and config.env.gri"),
        (spaces.Box(0, 9, (9, 9)), {"grids": ".*"}, "'vector', which cannot be a grid"),
        (spaces.Box(0, 1, (2, 9)), {"grids": ".*"}, "two sides of 3 to 31 cells"),
        (spaces.Box(0, 1, (9, 32)), {"grids": ".*"}, "two sides of 3 to 31 cells"),
        (spaces.MultiBinary(9), {"grids": ".*"}, "which channels may follow, not MultiBinary"),
    ],
)
def test_what_cannot_be_read_is_refused(space, keys, message):
    with pytest.raises(UsageError, match=message):
        adapt(Scripted(space, obs=()), size=8, **keys)


def test_a_tuple_with_an_image_is_read_by_entry():
    tail = spaces.Dict({"gear": spaces.Discrete(2), "note": spaces.Text(3)})
    space = spaces.Tuple([spaces.Box(0, 255, PICTURE.shape, np.uint8), tail])
    env = adapt(Scripted(space, obs=[PICTURE, {"gear": 1, "note": "a"}]), size=40)
    seen, _ = env.reset()
    np.testing.assert_array_equal(seen["0"], like(PICTURE))
    assert seen["1/gear"].tolist() == [0, 1] and set(seen) == {"0", "1/gear"}
    env.env.obs = (PICTURE,)
    with pytest.raises(ValueError, match="not a tuple of 2"):
        env.step(0)
    plain = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)])
    assert adapt(Scripted(plain, obs=(1, 0)), size=8).reset()[0]["vector"].tolist() == [
        0,
        1,
        1,
        0,
        0,
    ]


def test_pixels_outside_of_the_declared_range_are_errors():
    space = spaces.Box(0, 1, (40, 40, 3), np.float32)
    for wrong in (255.0, np.nan):
        with pytest.raises(ValueError, match="outside of the declared 0 to 1"):
            adapt(Scripted(space, obs=np.full((40, 40, 3), wrong, np.float32)), size=8).reset()
