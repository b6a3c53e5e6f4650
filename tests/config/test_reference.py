"""The written reference is the one the options would write."""

from poolkeeper.config import PoolConfig
from scripts.configuration_reference import TARGET, reference


def test_the_reference_is_up_to_date() -> None:
    """Otherwise run: python scripts/configuration_reference.py."""
    assert TARGET.read_text() == reference()


def test_every_option_is_explained() -> None:
    """A sentence at least, and what it accepts."""
    for name, field in PoolConfig.model_fields.items():
        assert (field.description or "").endswith("."), name
        assert f"## `{name}`" in reference()
