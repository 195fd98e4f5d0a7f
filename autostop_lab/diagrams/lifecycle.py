"""Whole pictures: each part for itself, as a live view shows them, and all of a job on one sheet."""

from __future__ import annotations

from autostop_lab.diagrams.fleet import fleet
from autostop_lab.diagrams.flow import flow_graph, flow_width
from autostop_lab.diagrams.header import header
from autostop_lab.diagrams.shapes import WIDTH, Drawing, rule, sheet
from autostop_lab.diagrams.snapshot import FlowSnapshot, ServiceSnapshot, Snapshot, story
from autostop_lab.diagrams.styles import LIGHT, Theme
from autostop_lab.diagrams.text import seconds, short_number
from autostop_lab.diagrams.timeline import timeline


def lifecycle_svg(snapshot: Snapshot, *, theme: Theme = LIGHT) -> str:
    """Draw a job with its way so far, its services, its timeline and its dataflow as one still picture.

    Parameters
    ----------
    snapshot : Snapshot
        The job at one moment.
    theme : Theme
        Colours of the page that it stands on.

    Returns
    -------
    str
        An SVG element of presentation attributes only: no style sheet, no script, no ids.
    """
    parts = [header(snapshot, theme), fleet(snapshot.services, theme)]
    width_px: float = WIDTH
    if any(one.moves for one in snapshot.services):
        parts += [_divider(theme), timeline(snapshot, theme)]
    if snapshot.flow is not None and snapshot.flow.nodes:
        width_px = flow_width(snapshot.flow)
        parts += [_divider(theme), flow_graph(snapshot.flow, theme)]
    return sheet(*parts, theme=theme, title=_title(snapshot), desc=_description(snapshot), width_px=width_px)


def header_svg(snapshot: Snapshot, *, theme: Theme = LIGHT) -> str:
    """Draw name, state, way and progress of a job; parameters and value as for `lifecycle_svg`."""
    return sheet(header(snapshot, theme), theme=theme, title=_title(snapshot), desc=story(snapshot))


def fleet_svg(services: tuple[ServiceSnapshot, ...], *, theme: Theme = LIGHT, selected: str = "") -> str:
    """Draw a row for each service.

    Parameters
    ----------
    services : tuple of ServiceSnapshot
        The services, at one moment.
    theme : Theme
        Colours of the page that it stands on.
    selected : str
        Name of the service whose row stands out.

    Returns
    -------
    str
        An SVG element, as of `lifecycle_svg`.
    """
    drawn = fleet(services, theme, selected=selected)
    title = f"{len(services)} service{'s' if len(services) != 1 else ''}"
    return sheet(drawn, theme=theme, title=title, desc=_told(services))


def timeline_svg(snapshot: Snapshot, *, theme: Theme = LIGHT) -> str:
    """Draw when job and services were in which state; parameters and value as for `lifecycle_svg`."""
    desc = "; ".join(
        f"{one.name}: " + ", ".join(f"{move.state} at {seconds(move.at_s)}" for move in one.moves[-12:])
        for one in snapshot.services
        if one.moves
    )
    title = f"Timeline of {snapshot.name}, {seconds(snapshot.elapsed_s)}"
    return sheet(timeline(snapshot, theme), theme=theme, title=title, desc=desc)


def flow_svg(flow: FlowSnapshot, *, theme: Theme = LIGHT) -> str:
    """Draw the operators of a dataflow with the records on its edges.

    Parameters
    ----------
    flow : FlowSnapshot
        The dataflow, at one moment.
    theme : Theme
        Colours of the page that it stands on.

    Returns
    -------
    str
        An SVG element, as of `lifecycle_svg`.
    """
    told = "; ".join(
        f"{node.name} ({node.kind})"
        + (f" {short_number(node.records)} records" if node.records is not None else "")
        + (f", {node.errors} failed" if node.errors else "")
        for node in flow.nodes
    )
    title = f"Dataflow of {len(flow.nodes)} operators"
    return sheet(flow_graph(flow, theme), theme=theme, title=title, desc=told, width_px=flow_width(flow))


def _divider(theme: Theme) -> Drawing:
    return Drawing(10, rule(5, theme))


def _title(snapshot: Snapshot) -> str:
    if snapshot.state is None:
        return snapshot.name
    return f"Job {snapshot.name}: {snapshot.state}, {seconds(snapshot.elapsed_s)}"


def _description(snapshot: Snapshot) -> str:
    reason = snapshot.error or snapshot.reason
    return f"{reason}. " * bool(reason) + f"Services: {_told(snapshot.services)}."


def _told(services: tuple[ServiceSnapshot, ...]) -> str:
    told = "; ".join(f"{one.name} {one.state}" + (f", {one.outcome}" if one.outcome else "") for one in services)
    return told or "none"
