"""Operations whose chunks are functions of the user's."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from poolkeeper.operations.errors import NotHereError, OperationError
from poolkeeper.operations.kind import Chunk, Prepared, Sizing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from poolkeeper.operations.kind import Chunks, Json
    from poolkeeper.operations.model import OperationStatus


@dataclass(frozen=True, slots=True)
class Step:
    """What one call of a step has done.

    Attributes:
        cursor: Where the next call begins: anything that fits into JSON.
        rows: How many rows it did, for the progress.
        done: Whether nothing is left.
    """

    cursor: Any = None
    rows: int = 0
    done: bool = False


DONE = Step(done=True)
"""Nothing was left to do."""


class Steps:
    """The steps this process knows, by name."""

    def __init__(self) -> None:
        self._functions: dict[str, Callable[..., Awaitable[Step]]] = {}

    def register(self, name: str) -> Callable[[Any], Any]:
        """Make a function a step; a decorator that returns it as it is."""

        def take(function: Any) -> Any:
            if not inspect.iscoroutinefunction(function):
                raise OperationError(
                    f"The step {name!r} is {function!r}, which is no coroutine function. "
                    "Suggestion: define it by `async def`."
                )
            self._functions[name] = function
            return function

        return take

    def get(self, name: str) -> Callable[..., Awaitable[Step]]:
        """The function of a step.

        Raises:
            NotHereError: This process has none.
        """
        function = self._functions.get(name) or SHARED._functions.get(name)
        if function is None:
            known = sorted({*self._functions, *SHARED._functions})
            raise NotHereError(
                f"This process has no step {name!r}"
                + (f", only {', '.join(known)}" if known else "")
                + ". Suggestion: import the module that defines it (for the command: "
                "`poolkeeper worker --import MODULE`)."
            )
        return function


SHARED = Steps()
"""Steps of all pools."""


def custom(name: str) -> Callable[[Any], Any]:
    """Make a function a step of the operations of every pool; see ``Operations.custom``."""
    return SHARED.register(name)


class CustomKind:
    """Operations of the user's own steps."""

    name = "custom"
    tunable: frozenset[str] = frozenset()

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def check(self, spec: Json) -> None:
        """See ``Kind``."""
        if not isinstance(spec.get("step"), str) or not spec["step"]:
            raise OperationError(
                f"step is {spec.get('step')!r}. Suggestion: give the name of a registered step."
            )

    async def already_done(self, connection: Any, done: OperationStatus, chunks: Chunks) -> bool:
        """See ``Kind``: only the user knows."""
        del connection, done, chunks
        return False

    async def prepare(self, connection: Any, spec: Json) -> Prepared:
        """See ``Kind``."""
        del connection
        return Prepared(spec=dict(spec), cursor={"step": None})

    def start(self, spec: Json, fingerprint: Json | None, chunks: Chunks) -> _CustomRun:
        """See ``Kind``."""
        del fingerprint, chunks
        return _CustomRun(self._steps.get(spec["step"]), spec)


class _CustomRun:
    sizing: Sizing | None = None

    def __init__(self, function: Callable[..., Awaitable[Step]], spec: Json) -> None:
        self._function = function
        self._spec = spec
        self._cursor: Any = None

    async def begin(self, connection: Any, cursor: Json) -> None:
        del connection
        self._cursor = cursor["step"]

    async def chunk(self, connection: Any, size: int) -> Chunk:
        del size
        step = await self._function(connection, self._cursor, **self._spec.get("arguments") or {})
        if not isinstance(step, Step):
            raise OperationError(
                f"The step {self._spec['step']!r} returned {step!r} and not a Step. Suggestion: "
                "return Step(cursor, rows=…), and Step(done=True) at the end."
            )
        try:
            cursor = json.loads(json.dumps(step.cursor, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise OperationError(
                f"The step {self._spec['step']!r} returned the cursor {step.cursor!r}, which does "
                f"not fit into JSON: {error}. Suggestion: return texts, numbers, lists of them."
            ) from error
        # As the database will give it back, so that an outage makes no difference.
        return Chunk(cursor={"step": cursor}, rows=step.rows, done=step.done)

    async def committed(self, chunk: Chunk) -> None:
        self._cursor = chunk.cursor["step"]

    async def close(self) -> None:
        pass
