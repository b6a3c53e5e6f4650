"""Write the state diagrams of docs/explanation/states.md from the tables the core runs on.

python scripts/state_diagrams.py
"""

from pathlib import Path

from poolkeeper.core.lifecycle import NEXT, Phase
from poolkeeper.core.slots import LEGAL, SlotState

TARGET = Path(__file__).parents[1] / "docs" / "explanation" / "states.md"

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


def with_diagrams(page: str) -> str:
    """The page with both diagrams as they should be."""
    for name, diagram in (("slot-states", slot_diagram()), ("pool-phases", phase_diagram())):
        before, _, rest = page.partition(f"<!-- {name} -->")
        _, _, after = rest.partition(f"<!-- /{name} -->")
        page = f"{before}<!-- {name} -->\n```mermaid\n{diagram}\n```\n<!-- /{name} -->{after}"
    return page


if __name__ == "__main__":
    TARGET.write_text(with_diagrams(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
