"""WHAT A JOB COMPUTES. Functions, streams, the graph of operators, and the loop that is made of them."""

from __future__ import annotations

from autostop_lab.dataflow.control import Control
from autostop_lab.dataflow.functions import (
    BaseFunction,
    BatchFunction,
    FilterFunction,
    FlatMapFunction,
    MapFunction,
    SinkFunction,
)
from autostop_lab.dataflow.graph import Graph, Kind, Operator, Pipeline
from autostop_lab.dataflow.progress import OperatorProgress, Progress, ProgressSnapshot
from autostop_lab.dataflow.streams import DataStream, from_batch, from_collection, run

__all__ = [
    "BaseFunction",
    "BatchFunction",
    "Control",
    "DataStream",
    "FilterFunction",
    "FlatMapFunction",
    "Graph",
    "Kind",
    "MapFunction",
    "Operator",
    "OperatorProgress",
    "Pipeline",
    "Progress",
    "ProgressSnapshot",
    "SinkFunction",
    "from_batch",
    "from_collection",
    "run",
]
