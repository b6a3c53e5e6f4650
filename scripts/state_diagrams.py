"""Write the state diagrams of docs/explanation/ from the tables the code runs on.

python scripts/state_diagrams.py
"""

from pathlib import Path

from poolkeeper.core.lifecycle import NEXT, Phase
from poolkeeper.core.slots import LEGAL, SlotState
from poolkeeper.operations.model import LEGAL as OPERATION_MOVES
from poolkeeper.operations.model import OperationState

EXPLANATION = Path(__file__).parents[1] / "docs" / "explanation"
TARGETS = (EXPLANATION / "states.md", EXPLANATION / "operations.md")

# What happens at each move; a move without a word here is a mistake.
WORDS = {
    ("connecting", "idle"): "connected",
    ("connecting", "in_use"): "connected, handed over",
    ("connecting", "closing"): "not wanted any more",
    ("connecting", "closed"): "dial failed",
    ("idle", "in_use"): "used within validation_bypass",
    ("idle", "validating"): "asked for, or probed",
    ("idle", "closing"): "too old, surplus, lost",
    ("validating", "idle"): "alive",
    ("validating", "in_use"): "alive, handed over",
    ("validating", "closing"): "no answer",
    ("in_use", "idle"): "released clean",
    ("in_use", "in_use"): "handed to the next waiter",
    ("in_use", "resetting"): "released with session state",
    ("in_use", "closing"): "broken, too old, expired",
    ("resetting", "idle"): "cleaned",
    ("resetting", "in_use"): "cleaned, handed over",
    ("resetting", "closing"): "not cleaned in time",
    ("closing", "closed"): "goodbye said, or cut off",
}


def slot_diagram() -> str:
    """A connection's states as mermaid."""
    lines = ["stateDiagram-v2", "    [*] --> connecting"]
    for state in SlotState:
        for target in SlotState:
            if target in LEGAL[state]:
                words = WORDS[state.value, target.value]
                lines.append(f"    {state.value} --> {target.value}: {words}")
    lines += [f"    {state.value} --> [*]" for state in SlotState if not LEGAL[state]]
    return "\n".join(lines)


def phase_diagram() -> str:
    """A pool's life as mermaid."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.NEW.value}"]
    for phase in Phase:
        lines += [
            f"    {phase.value} --> {target.value}" for target in Phase if target in NEXT[phase]
        ]
    lines += [f"    {phase.value} --> [*]" for phase in Phase if not NEXT[phase]]
    return "\n".join(lines)


OPERATION_WORDS = {
    ("pending", "running"): "claimed",
    ("pending", "paused"): "pause",
    ("pending", "cancelled"): "cancel",
    ("running", "pending"): "laid down by its worker",
    ("running", "paused"): "pause",
    ("running", "done"): "last chunk committed",
    ("running", "failed"): "cannot go on",
    ("running", "cancelled"): "cancel",
    ("paused", "pending"): "resume",
    ("paused", "cancelled"): "cancel",
    ("failed", "pending"): "retry",
    ("failed", "cancelled"): "cancel",
}


def operation_diagram() -> str:
    """The states of an operation as mermaid."""
    lines = ["stateDiagram-v2", "    [*] --> pending"]
    for state in OperationState:
        for target in OperationState:
            if target in OPERATION_MOVES[state]:
                words = OPERATION_WORDS[state.value, target.value]
                lines.append(f"    {state.value} --> {target.value}: {words}")
    lines += [
        f"    {state.value} --> [*]" for state in OperationState if not OPERATION_MOVES[state]
    ]
    return "\n".join(lines)


DIAGRAMS = {
    "slot-states": slot_diagram,
    "pool-phases": phase_diagram,
    "operation-states": operation_diagram,
}


def with_diagrams(page: str) -> str:
    """The page with its diagrams as they should be."""
    for name, diagram in DIAGRAMS.items():
        before, mark, rest = page.partition(f"<!-- {name} -->")
        if not mark:
            continue
        _, _, after = rest.partition(f"<!-- /{name} -->")
        page = f"{before}{mark}\n```mermaid\n{diagram()}\n```\n<!-- /{name} -->{after}"
    return page


if __name__ == "__main__":
    for target in TARGETS:
        target.write_text(with_diagrams(target.read_text(encoding="utf-8")), encoding="utf-8")
