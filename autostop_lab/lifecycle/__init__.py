"""PURE. The states of services and jobs, the two tables of their moves, and the machine that reads them."""

from __future__ import annotations

from autostop_lab.lifecycle.machine import Machine
from autostop_lab.lifecycle.tables import (
    JOB_TABLE,
    SERVICE_TABLE,
    JobState,
    JobTrigger,
    Row,
    ServiceState,
    ServiceTrigger,
    Table,
)

__all__ = [
    "JOB_TABLE",
    "SERVICE_TABLE",
    "JobState",
    "JobTrigger",
    "Machine",
    "Row",
    "ServiceState",
    "ServiceTrigger",
    "Table",
]
