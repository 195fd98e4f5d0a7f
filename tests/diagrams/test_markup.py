"""A table as text for pages says every row."""

from __future__ import annotations

import pytest

from autostop_lab.diagrams import markdown_table, mermaid
from autostop_lab.lifecycle import JOB_TABLE, SERVICE_TABLE, Row, ServiceState, ServiceTrigger, Table
from tests.diagrams import golden
from tests.diagrams.tables import TABLES, AnyTable


@pytest.mark.parametrize("table", TABLES)
def test_mermaid_has_every_move(table: AnyTable) -> None:
    lines = mermaid(table).splitlines()

    assert lines[:2] == ["stateDiagram-v2", f"    [*] --> {table.initial}"]
    moves = set()
    for line in lines[2:]:
        ends, _, triggers = line.strip().partition(" : ")
        source, target = ends.split(" --> ")
        moves |= {(source, trigger, target) for trigger in triggers.split(" / ") if target != "[*]"}
    assert moves == {(row.source, row.trigger, row.target) for row in table}


@pytest.mark.parametrize("table", TABLES)
def test_mermaid_ends_in_the_final_states(table: AnyTable) -> None:
    ends = {line.split()[0] for line in mermaid(table).splitlines() if line.endswith("--> [*]")}

    assert ends == table.final


@pytest.mark.parametrize("table", TABLES)
def test_markdown_has_one_line_for_each_row_in_its_order(table: AnyTable) -> None:
    head, rule, *lines = markdown_table(table).splitlines()

    assert head == "| from | on | to | why |"
    assert rule == "| --- | --- | --- | --- |"
    for line, row in zip(lines, table, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert [cells[0].split()[1], cells[1], cells[2].split()[1], cells[3]] == [
            f"`{row.source}`",
            str(row.trigger),
            f"`{row.target}`",
            row.why,
        ]


def test_markdown_escapes_what_would_end_a_cell() -> None:
    row = Row(ServiceState.STOPPED, ServiceTrigger.START, ServiceState.STARTING, "this | that")
    table = Table([row], initial=row.source, start=row.trigger, stop=ServiceTrigger.STOP)

    assert r"this \| that" in markdown_table(table)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("service.mermaid", mermaid(SERVICE_TABLE)),
        ("job.mermaid", mermaid(JOB_TABLE)),
        ("service.md", markdown_table(SERVICE_TABLE)),
        ("job.md", markdown_table(JOB_TABLE)),
    ],
)
def test_golden(name: str, text: str) -> None:
    golden.check(name, text)
