"""The fleet: a row for each service with its state, since when, restarts, next try, health, memory and CPU."""

from __future__ import annotations

from functools import lru_cache

from autostop_lab.diagrams.shapes import MARGIN, WIDTH, Column, Drawing, cell, chip, line, rule, signed
from autostop_lab.diagrams.snapshot import ServiceSnapshot
from autostop_lab.diagrams.styles import HEALTH_STYLES, OUTCOME_STYLES, STATE_STYLES, TROUBLE, Style, Theme
from autostop_lab.diagrams.text import escape, memory, seconds

ROW = 27
_HEAD = 30
_NAME, _STATE = Column(MARGIN + 8, 308), Column(350, 110)
_SINCE, _RESTARTS, _NEXT = 524, 594, 662  # right edges
_HEALTH, _MEMORY, _CPU, _DETAIL = Column(676, 100), 840, 894, Column(908, 168)
_WIDE_DETAIL = Column(796, 280)


def fleet(services: tuple[ServiceSnapshot, ...], theme: Theme, *, selected: str = "") -> Drawing:
    """Draw the fleet; the row of `selected` stands out."""
    # Where nothing is measured, the details have that room, too.
    is_measured = any(one.memory_bytes is not None or one.cpu_percent is not None for one in services)
    details = _DETAIL if is_measured else _WIDE_DETAIL
    rows = [_row(one, i, theme, details, is_selected=one.name == selected) for i, one in enumerate(services)]
    if not services:
        rows = [line("no services", _NAME.left, _HEAD + 18, fill=theme.muted)]
    heads = _heads(theme, is_measured, any(one.outcome for one in services))
    return Drawing(_HEAD + ROW * max(len(services), 1) + 10, heads + "".join(rows))


@lru_cache(maxsize=16)
def _heads(theme: Theme, is_measured: bool, has_ended: bool) -> str:
    """Write what the columns are."""
    health, detail = "OUTCOME" if has_ended else "HEALTH", _DETAIL if is_measured else _WIDE_DETAIL
    lefts = {"SERVICE": _NAME.left, "STATE": _STATE.left, health: _HEALTH.left, "DETAIL": detail.left}
    rights = {"FOR": _SINCE, "RESTARTS": _RESTARTS, "NEXT TRY": _NEXT}
    if is_measured:
        rights |= {"MEMORY": _MEMORY, "CPU": _CPU}
    return "".join(
        [
            *(line(word, x, 20, size=10, fill=theme.muted) for word, x in lefts.items()),
            *(line(word, x, 20, size=10, fill=theme.muted, anchor="end") for word, x in rights.items()),
            rule(_HEAD - 2, theme),
        ]
    )


def _row(one: ServiceSnapshot, number: int, theme: Theme, details: Column, *, is_selected: bool) -> str:
    """Write one service's row: what stays as it is, and the numbers that change all the time."""
    y = _HEAD + ROW * number + ROW / 2 + 4
    lasting = (one.name, one.kind, one.state, one.restarts, one.health, one.outcome, one.detail)
    out = _lasting(*lasting, number, theme, details, is_selected)
    out += line(seconds(one.since_s), _SINCE, y, anchor="end")
    if one.next_s is not None:
        out += line(f"in {seconds(one.next_s)}", _NEXT, y, anchor="end")
    if one.memory_bytes is not None:
        out += line(memory(one.memory_bytes), _MEMORY, y, anchor="end")
    if one.cpu_percent is not None:
        out += line(f"{one.cpu_percent:.0f} %", _CPU, y, anchor="end")
    return out


@lru_cache(maxsize=512)
def _lasting(
    name: str,
    kind: str,
    state: str,
    restarts: int,
    health: str,
    outcome: str,
    detail: str,
    number: int,
    theme: Theme,
    details: Column,
    is_selected: bool,
) -> str:
    top = _HEAD + ROW * number
    y = top + ROW / 2 + 4
    style = STATE_STYLES[state]
    out = []
    if is_selected:
        out.append(
            f'<rect x="{MARGIN}" y="{top - 1:g}" width="{WIDTH - 2 * MARGIN}" height="{ROW - 1}" rx="5" '
            f'fill="{theme.frame}"/>'
        )
    if state in TROUBLE or outcome not in ("", "stopped", "kept"):
        colour = theme.colour(OUTCOME_STYLES.get(outcome, style))
        out.append(f'<rect x="{MARGIN}" y="{top + 4:g}" width="4" height="{ROW - 10}" rx="2" fill="{colour}"/>')
    named = cell(name, _NAME, y, bold=is_selected and len(name) <= 36)
    tip = f"{name} ({kind}): {state}" + (f", {detail}" if detail else "")
    out.append(named if named.startswith("<g>") else f"<g><title>{escape(tip)}</title>{named}</g>")
    out.append(chip(str(state), style, _STATE.left - 8, y - 4, theme=theme, filled=True))
    if restarts:
        out.append(line(f"{restarts}", _RESTARTS, y, anchor="end", bold=True))
    if outcome or health:
        word, look = (outcome, OUTCOME_STYLES.get(outcome)) if outcome else (health, HEALTH_STYLES.get(health))
        look = look or Style(theme.muted, "·", theme.muted)
        out.append(signed(word, look, _HEALTH, y, theme=theme))
    if detail:
        out.append(cell(detail, details, y, fill=theme.muted))
    out.append(rule(top + ROW - 1.5, theme))
    return "".join(out)
