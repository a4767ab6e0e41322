"""Registries, and the config keys that their pieces bring."""

import pytest

from dreamer_jax import schema
from dreamer_jax.schema import Key, Registry, boolean, choice, declare, integer, optional, text

SIZE = Key(3, integer(1), "size of a thing")


@pytest.fixture
def keys(monkeypatch):
    """An empty table of keys for the time of a test."""
    table = {}
    monkeypatch.setattr(schema, "KEYS", table)
    return table


def test_a_piece_gets_the_values_of_its_keys(keys):
    things = Registry({"plain": lambda start: (start,)})

    @things.register("sized", {"thing.size": SIZE})
    def make_sized(start, *, size):
        return start, size

    @things.register("named", {"thing.size": keys["thing.size"], "name": Key("a", text(), "name")})
    def make_named(start, *, size, name):
        return start, size, name

    config = {"thing": {"size": 5}, "name": "b"}
    made = {name: things.bind(name, config)(1) for name in things}
    assert made == {"plain": (1,), "sized": (1, 5), "named": (1, 5, "b")}
    assert set(keys) == {"thing.size", "name"}


def test_choices_follow_their_registry():
    things = Registry({"plain": None})
    for kind in (choice(things, "auto"), optional(choice(things, "auto"))):
        assert kind.check("auto") and kind.check("plain") and not kind.check("sized")
    things["sized"] = None
    assert kind.check("sized") and kind.check(None) and not kind.check(["sized"])
    assert kind.allowed == "None or one of auto, plain, sized"
    assert set(kind.choices) == {"auto", "plain", "sized"} and not boolean().choices


def test_a_name_has_one_piece_and_a_key_one_meaning(keys):
    things = Registry()

    def define(default):  # as a notebook's cell that is run again after a change
        @things.register("sized", {"size": Key(default, integer(1), "size")})
        def make_sized(*, size):
            return default, size

    define(3)
    define(4)
    assert things.bind("sized", {"size": 7})() == (4, 7) and keys["size"].default == 4
    with pytest.raises(ValueError, match="'sized' is registered already, by"):
        things.register("sized")(test_choices_follow_their_registry)
    with pytest.raises(ValueError, match="config key 'size' is declared already"):
        things.register("other", {"size": SIZE})(test_choices_follow_their_registry)
    with pytest.raises(ValueError, match="default of the config key 'depth' is 0; allowed"):
        declare({"depth": Key(0, integer(1), "depth")})
    assert set(keys) == {"size"} and set(things) == {"sized"}
