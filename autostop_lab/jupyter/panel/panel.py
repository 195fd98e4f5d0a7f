"""The live panel: what a source looks like now, and buttons for it.

From the top: what was ordered and what became of it; the head with the job's way; orders for the whole; the fleet;
the chosen service with orders for it; the timeline; and behind tabs the chosen service's lifecycle, its log, and the
dataflow. Every region is one text of one widget. All of this is only ever touched by the publisher's thread, apart from
clicks, which note what was clicked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from html import escape as html_escape
from typing import Any

from autostop_lab.diagrams import (
    PAGE,
    ServiceSnapshot,
    Snapshot,
    fleet_svg,
    flow_svg,
    header_svg,
    state_machine_svg,
    timeline_svg,
)
from autostop_lab.diagrams.text import clean, escape
from autostop_lab.jupyter.panel.clicks import family, has_subshells, repair
from autostop_lab.jupyter.panel.orders import ACTIONS, Orders, service_actions
from autostop_lab.jupyter.panel.regions import Region
from autostop_lab.jupyter.panel.sources import Source
from autostop_lab.lifecycle import SERVICE_TABLE
from autostop_lab.origin import Origin

#: How often the panel is made anew where nothing has happened, for its clocks, in seconds.
CLOCK_S = 1.0
#: How long the user is asked whether a service shall be killed, in seconds.
ASK_S = 10.0
#: How long a front end has to open a subshell before the panel says that clicks wait, in seconds.
SUBSHELL_S = 2.0
#: Log lines that are shown.
LOG_LINES = 14
#: Services that get a button each to be chosen by; more are chosen from a list. So are those with long names.
MOST_TOGGLES, LONGEST_TOGGLE = 6, 18
#: How many bytes each region may send in a second, on average.
BUDGET = {
    **{"message": 3e3, "head": 1.2e4, "fleet": 3.2e4, "timeline": 1.4e4},
    **{"machine": 2e4, "log": 1.2e4, "flow": 1.2e4},
}
#: How many moves of the chosen service are marked as its way.
SHOWN_MOVES = 12

CLICKS_WAIT = (
    "This front end sees clicks only when the cell has ended. To stop now, interrupt the kernel (■): "
    "that ends the job and cleans up, too."
)
_TABS = ("machine", "log", "flow")


class Panel:
    """The widgets of one panel.

    Parameters
    ----------
    shell : InteractiveShell
        The shell of a kernel.
    source : Source
        What it shows.
    blocks : bool
        Whether a cell runs as long as the source lives, so that clicks may have to wait.
    """

    def __init__(self, shell: Any, source: Source, *, blocks: bool = False) -> None:
        import ipywidgets  # not with this module: %load_ext alone does not need it

        self._widgets = ipywidgets
        self._shell = shell
        self._source = source
        self._blocks = blocks
        self._orders = Orders(Origin())
        self._began_s = time.monotonic()
        self._drawn_s = 0.0
        self._chosen = ""
        self._names: tuple[str, ...] = ()
        self._asked: tuple[str, float] = ("", 0.0)
        self._shown_message = ""
        self._shown_buttons: dict[str, tuple[str, ...]] = {}
        self._is_touched = threading.Event()
        html = {name: ipywidgets.HTML() for name in BUDGET}
        self._regions = {name: Region(widget, bytes_per_s=BUDGET[name]) for name, widget in html.items()}
        row = {"margin": "2px 0 4px 18px", "align_items": "center", "flex_flow": "row wrap", "grid_gap": "2px"}
        self._job_row = ipywidgets.HBox(layout=row)
        self._service_row = ipywidgets.HBox(layout=row)
        self._chooser: Any = None
        self._former_choosers: list[Any] = []
        self._skipped = False
        self._tabs = ipywidgets.Tab(
            children=[html[name] for name in _TABS], titles=("Lifecycle", "Log", "Dataflow"), selected_index=0
        )
        self._tabs.observe(lambda _: self._is_touched.set(), "selected_index")
        self._buttons = {action: self._button(action) for action in ACTIONS}
        self._root = ipywidgets.VBox(
            [
                *(html["message"], html["head"], self._job_row, html["fleet"], self._service_row),
                *(html["timeline"], self._tabs),
            ]
        )
        self._root.add_class("autostop-panel")
        repair(family(self._root, *self._buttons.values()))  # before anything of it can be seen
        self.draw(force=True)

    def _button(self, action: str) -> Any:
        said = ACTIONS[action]
        button = self._widgets.Button(
            description=said.label, icon=said.icon, button_style=said.style, tooltip=said.tip, layout={"width": "auto"}
        )
        button.on_click(lambda _: self._click(action))
        return button

    @property
    def view(self) -> dict[str, Any]:
        """What shows it in a front end that has widgets."""
        return dict(self._root._repr_mimebundle_())

    @property
    def root(self) -> Any:
        """The widget that holds all others."""
        return self._root

    @property
    def source(self) -> Source:
        """What it shows."""
        return self._source

    def show_other(self, source: Source) -> None:
        """Show another source from now on."""
        self._source, self._chosen = source, ""
        self._is_touched.set()

    # -- clicks, in whatever thread ------------------------------------------------------------------------

    def _click(self, action: str) -> None:
        """Carry out what was clicked; a kill only when it was asked for twice."""
        if action == "kill":
            self._asked = (self._chosen, time.monotonic() + ASK_S)
        elif action == "keep":
            self._asked = ("", 0.0)
        elif action in ("start", "restart", "stop", "kill_now"):
            self._order_service(action)
        elif action in self._source.actions():
            self._orders.give(action, self._source.name, self._source.order(action))
        self._is_touched.set()

    def _order_service(self, action: str) -> None:
        handle = self._source.handle(self._chosen)
        if handle is None:
            return
        is_asked, self._asked = self._asked[0] == handle.name, ("", 0.0)
        if action == "kill_now" and not is_asked:
            return
        method: Callable[[], object] = getattr(handle, "kill" if action == "kill_now" else action)
        self._orders.give(action, f"service {handle.name}", method)

    def _choose(self, name: str) -> None:
        self._chosen, self._asked = name, ("", 0.0)
        self._is_touched.set()

    # -- what is shown, in the publisher's thread ----------------------------------------------------------

    def draw(self, *, force: bool = False) -> None:
        """Show what has changed since the last time, if anything has.

        Parameters
        ----------
        force : bool
            Whether regions are sent also where they would have to wait.
        """
        now_s = time.monotonic()
        has_news = self._source.has_news() | self._source.measure(now_s) | self._is_touched.is_set()
        has_news |= self._orders.message != self._shown_message
        if not (has_news or force or now_s - self._drawn_s >= CLOCK_S or self._has_waiting(now_s)):
            return
        self._is_touched.clear()
        self._drawn_s = now_s
        snapshot = self._source.snapshot(now_s)
        chosen = self._take_names(snapshot)
        drawers: dict[str, Callable[[], str]] = {
            "message": lambda: self._message(now_s),
            "head": lambda: _wide(header_svg(snapshot, theme=PAGE)),
            "fleet": lambda: _wide(fleet_svg(snapshot.services, theme=PAGE, selected=self._chosen)),
            "timeline": lambda: _wide(timeline_svg(snapshot, theme=PAGE)),
            "machine": lambda: _machine(chosen),
            "log": lambda: self._log(),
            "flow": lambda: _wide(flow_svg(snapshot.flow, theme=PAGE)) if snapshot.flow else _nothing("no dataflow"),
        }
        open_tab = _TABS[self._tabs.selected_index or 0]
        self._skipped = False
        for name, drawer in drawers.items():
            if name in _TABS and name != open_tab:
                continue
            region = self._regions[name]
            if force or region.is_due(now_s):
                region.show(drawer(), now_s)
            else:
                self._skipped = True
        self._show_buttons(chosen, now_s)

    def _has_waiting(self, now_s: float) -> bool:
        """Return whether something was too early the last time, or the question about a kill is over."""
        return self._skipped or (bool(self._asked[0]) and now_s > self._asked[1])

    def _take_names(self, snapshot: Snapshot) -> ServiceSnapshot | None:
        """Offer the services of now to choose from; return the chosen one."""
        services = {one.name: one for one in snapshot.services}
        if self._chosen not in services:
            self._chosen = next(iter(services), "")
        if tuple(services) != self._names or self._chooser is None:
            self._names = tuple(services)
            self._make_chooser()
        return services.get(self._chosen)

    def _make_chooser(self) -> None:
        former = self._chooser
        options = [(clean(name) or "?", name) for name in self._names]
        few = len(options) <= MOST_TOGGLES and all(len(shown) <= LONGEST_TOGGLE for shown, _ in options)
        kind = self._widgets.ToggleButtons if few else self._widgets.Dropdown
        layout = {"margin": "0 14px 0 0", "width": "auto" if few else "340px"}
        more = {"layout": layout, **({"style": {"button_width": "auto"}} if few else {})}
        self._chooser = kind(options=options, value=self._chosen or None, tooltip="The service to look at", **more)
        self._chooser.observe(lambda change: self._choose(change["new"]), "value")
        self._shown_buttons.pop("service", None)
        repair(family(self._chooser))
        self._former_choosers += filter(None, [former])

    def _message(self, now_s: float) -> str:
        """Say what was ordered, and when clicks are not seen."""
        self._shown_message = text = self._orders.message
        words = []
        waited = self._blocks and now_s - self._began_s > SUBSHELL_S
        if waited and not self._source.is_over and not has_subshells(self._shell):
            words.append(f"<span>⏳ {escape(CLICKS_WAIT)}</span>")
        if text:
            colour, sign = ("#cf2d22", "✗ ") if self._orders.is_failure else ("inherit", "")
            words.append(f'<span style="color:{colour}">{sign}{escape(text)}</span>')
        return f'<div role="status" aria-live="polite">{"<br>".join(words)}</div>' if words else ""

    def _log(self) -> str:
        handle = self._source.handle(self._chosen)
        lines = handle.logs(LOG_LINES) if handle is not None else ()
        if not lines:
            return _nothing(f"{clean(self._chosen)} has no log lines")
        stamped = (f"{time.strftime('%H:%M:%S', time.localtime(one.at))}  {clean(one.text)}" for one in lines)
        text = "\n".join(map(html_escape, stamped))
        return (
            f'<pre style="margin:4px 0;line-height:1.35;font-size:12px;white-space:pre-wrap;word-break:break-word" '
            f'role="log" aria-label="log of {escape(self._chosen)}">{text}</pre>'
        )

    def _show_buttons(self, chosen: ServiceSnapshot | None, now_s: float) -> None:
        if self._asked[0] and now_s > self._asked[1]:
            self._asked = ("", 0.0)
        is_asked = chosen is not None and self._asked[0] == chosen.name
        orders = {
            "job": self._source.actions(),
            "service": service_actions(chosen.state, may_start=self._source.may_start, is_asked=is_asked)
            if chosen is not None
            else (),
        }
        for row, actions in orders.items():
            if self._shown_buttons.get(row) == actions:
                continue
            self._shown_buttons[row] = actions
            buttons = [self._buttons[action] for action in actions]
            if row == "job":
                self._job_row.children = buttons
            else:
                chooser = [self._chooser] if self._names else []
                self._service_row.children = [*chooser, *buttons]
                while self._former_choosers:
                    close_all(self._former_choosers.pop())

    def close(self) -> None:
        """Take it away from every front end."""
        close_all(self._root, *self._buttons.values(), *self._former_choosers)


def close_all(*widgets: Any) -> None:
    """Close widgets with all that belongs to them."""
    for widget in list(family(*widgets)):
        widget.close()


def _wide(picture: str) -> str:
    """Let a picture shrink with the page."""
    head, tail = picture.split(' width="', 1)
    width, rest = tail.split('"', 1)
    height = rest.split('height="', 1)[1].split('"', 1)[0]
    rest = rest.replace(f' height="{height}"', "", 1)
    return f'<div style="max-width:{width}px;line-height:0">{head} width="100%"{rest}</div>'


def _machine(chosen: ServiceSnapshot | None) -> str:
    if chosen is None:
        return _nothing("no services")
    visited = [move.state for move in chosen.moves[-SHOWN_MOVES:]]
    title = f"Lifecycle of {chosen.name}"
    return _wide(
        state_machine_svg(
            SERVICE_TABLE, current=chosen.state, visited=visited, title=title, theme=PAGE, is_bare=True
        )
    )


def _nothing(words: str) -> str:
    return f'<div style="opacity:0.7;padding:6px">{escape(words)}</div>'
