"""What is said about options that cannot be accepted: the value, what is allowed, what to do."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le

from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.urls import mask_url

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from pydantic import ValidationError
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

ENVIRONMENT_PREFIX: Final = "POOL_"

# what the other pools call it
_ELSEWHERE: Final = {
    "acquire_timeout": "timeout",
    "connection_timeout": "timeout",
    "conninfo": "database_url",
    "dsn": "database_url",
    "idle_timeout": "max_inactive_connection_lifetime",
    "max_idle": "max_inactive_connection_lifetime",
    "maximum_pool_size": "max_size",
    "minimum_idle": "min_size",
    "name": "pool_name",
    "pool_recycle": "max_lifetime",
    "pool_size": "max_size",
    "pool_timeout": "timeout",
    "query_timeout": "command_timeout",
    "statement_timeout": "command_timeout",
    "url": "database_url",
}


@dataclass(frozen=True)
class Kind:
    """What the values of an option are, in words; carried as metadata of its type."""

    words: str


@dataclass(frozen=True)
class _Problem:
    option: str
    value: str
    text: str
    suggestion: str


def environment_name(option: str) -> str:
    """Name of the environment variable that sets an option."""
    return option.upper() if option == "pool_name" else ENVIRONMENT_PREFIX + option.upper()


def similar_option(name: str, options: Iterable[str]) -> str | None:
    """The option a name was probably meant to be, if it is that close to one."""
    return next(iter(difflib.get_close_matches(name.lower(), options, n=1, cutoff=0.8)), None)


def allowed_values(field: FieldInfo) -> str:
    """What an option accepts, in words: ``a number of seconds greater than 0``."""
    words = ""
    limits: list[str] = []
    choices: list[str] = []
    nothing: list[str] = []
    for constraint in _constraints(field):
        match constraint:
            case Kind():
                words = constraint.words
            case Gt():
                limits.append(f"greater than {constraint.gt}")
            case Ge():
                limits.append(f"at least {constraint.ge}")
            case Le():
                limits.append(f"at most {constraint.le}")
            case str():
                choices.append(f'"{constraint}"')
            case None:
                nothing.append("None")
            case _:
                pass
    values = [*choices, f"{words} {' and '.join(limits)}".rstrip(), *nothing]
    return " or ".join(filter(None, [", ".join(values[:-1]), values[-1]]))


def _constraints(field: FieldInfo) -> Iterator[object]:
    yield from field.metadata
    yield from _constraints_of_type(field.annotation)


def _constraints_of_type(annotation: object) -> Iterator[object]:
    if annotation is type(None):
        yield None
    elif get_origin(annotation) is Annotated:
        kind, *metadata = get_args(annotation)
        for item in metadata:
            yield from getattr(item, "metadata", [item])
        yield from _constraints_of_type(kind)
    elif get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for part in get_args(annotation):
            yield from _constraints_of_type(part)


def configuration_error(
    error: ValidationError, fields: Mapping[str, FieldInfo], arguments: Collection[str]
) -> PoolConfigurationError:
    """All problems of a configuration as one error.

    Args:
        error: What pydantic found; its own text, which may show values, is not used.
        fields: The options by name.
        arguments: Names given in code; the others came from the environment.
    """
    problems: dict[str, _Problem] = {}
    for details in error.errors(include_url=False):
        option = str(details["loc"][0])
        # the default of min_size is not computed while max_size is wrong: no problem of its own
        if details["type"] != "default_factory_not_called" and option not in problems:
            problems[option] = _problem(option, details, fields, from_code=option in arguments)
    first, *others = problems.values()
    if others:
        listed = "".join(f"\n- {p.text}: {p.suggestion}" for p in problems.values())
        message = (
            f"{len(problems)} pool options cannot be used:{listed}\n"
            "Suggestion: correct them together; nothing was started."
        )
    else:
        message = f"{first.text}. Suggestion: {first.suggestion}."
    return PoolConfigurationError(message, option=first.option, value=first.value)


def _problem(
    option: str, details: ErrorDetails, fields: Mapping[str, FieldInfo], *, from_code: bool
) -> _Problem:
    value = _shown(details["input"])
    if details["type"] == "extra_forbidden":
        return _unknown(option, value, fields, from_code=from_code)
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, PoolConfigurationError):
        text, _, suggestion = str(cause).partition(". Suggestion: ")
        return _Problem(option, value, text, suggestion.removesuffix("."))
    variable = environment_name(option)
    name = option if from_code else variable
    field = fields[option]
    if details["type"] == "option_rule":
        return _Problem(option, value, f"{name}={value} {details['msg']}", "change one of the two")
    suggestion = f"set {name} to such a value"
    if field.default_factory is None and field.default is not None:
        suggestion += f", for example the default {field.default!r}"
    if None in _constraints(field):
        suggestion += f", or to {'None' if from_code else 'none'} for no limit"
    return _Problem(option, value, f"{name}={value} is not {allowed_values(field)}", suggestion)


def _unknown(
    name: str, value: str, fields: Mapping[str, FieldInfo], *, from_code: bool
) -> _Problem:
    if not from_code:
        meant = similar_option(name.removeprefix(ENVIRONMENT_PREFIX), fields) or ""
        return _Problem(
            name,
            value,
            f"the environment variable {name} looks like a misspelt {environment_name(meant)}",
            f"rename {name} to {environment_name(meant)}, or to something not starting with "
            f"{ENVIRONMENT_PREFIX} if it is meant for another program",
        )
    meant = _ELSEWHERE.get(name.lower()) or similar_option(name, fields) or ""
    if meant:
        suggestion = f"write {meant} instead"
    else:
        suggestion = (
            "remove it; arguments of the driver's connect(), such as ssl or server_settings, "
            "are given to ConnectionPoolManager"
        )
    return _Problem(name, value, f"{name} is not an option of PoolConfig", suggestion)


def _shown(value: Any) -> str:
    """A short form of a refused value that shows no password."""
    text = repr(mask_url(value) if isinstance(value, str) else value)
    if not isinstance(value, str) and "://" in text:
        text = mask_url(text)
    return text if len(text) <= 80 else f"{text[:77]}..."
