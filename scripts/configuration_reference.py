"""Write docs/reference/configuration.md from the options themselves.

python scripts/configuration_reference.py
"""

from pathlib import Path

from poolkeeper.config import PoolConfig
from poolkeeper.config_errors import allowed_values, environment_name

TARGET = Path(__file__).parents[1] / "docs" / "reference" / "configuration.md"

HEAD = """\
<!-- Written by scripts/configuration_reference.py; change src/poolkeeper/config.py instead. -->

# Configuration

Each option is taken from the argument of `PoolConfig`, else from its environment variable, else
from the same variable in a file `.env` in the working directory, else it has its default.
`DATABASE_URL` is read where `POOL_DATABASE_URL` is not set. Names of variables may be in either
case, an empty variable counts as not set, `none` stands for None.

All durations are seconds. Nothing is corrected silently: a value out of range, two values that
contradict each other, an unknown argument, or a variable that looks like a misspelt option raise
`PoolConfigurationError`, which lists every problem found. Variables that start with `POOL_` and
resemble no option belong to another program and are ignored.
"""


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, field in PoolConfig.model_fields.items():
        default = "see below" if field.default_factory else f"`{field.default!r}`"
        parts.append(
            f"## `{name}`\n\n"
            f"Variable `{environment_name(name)}` · default {default} · "
            f"allowed: {allowed_values(field)}\n\n"
            f"{field.description}\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(reference())
