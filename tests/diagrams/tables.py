"""The tables that the pictures are tested with."""

from __future__ import annotations

from typing import Any

import pytest

from autostop_lab.lifecycle import JOB_TABLE, SERVICE_TABLE, Table

AnyTable = Table[Any, Any]
TABLES = [pytest.param(SERVICE_TABLE, id="service"), pytest.param(JOB_TABLE, id="job")]
