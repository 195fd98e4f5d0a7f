"""WHAT A JOB COMPUTES. Functions, streams, the graph of operators, its stages, and the loops that are made of them."""

from __future__ import annotations

from autostop_lab.dataflow.beginnings import from_batch, from_collection, from_future, from_source, run
from autostop_lab.dataflow.control import Control
from autostop_lab.dataflow.declaration import Graph
from autostop_lab.dataflow.functions import (
    BaseFunction,
    BatchFunction,
    CoMapFunction,
    FilterFunction,
    FlatMapFunction,
    JoinFunction,
    KeyByFunction,
    MapFunction,
    SinkFunction,
    SourceFunction,
)
from autostop_lab.dataflow.graph import Kind, Operator, Pipeline
from autostop_lab.dataflow.progress import OperatorProgress, Progress, ProgressSnapshot
from autostop_lab.dataflow.settings import DeadLetter, DeadRecord, Retry
from autostop_lab.dataflow.streams import ConnectedStreams, DataStream

__all__ = [
    "BaseFunction",
    "BatchFunction",
    "CoMapFunction",
    "ConnectedStreams",
    "Control",
    "DataStream",
    "DeadLetter",
    "DeadRecord",
    "FilterFunction",
    "FlatMapFunction",
    "Graph",
    "JoinFunction",
    "KeyByFunction",
    "Kind",
    "MapFunction",
    "Operator",
    "OperatorProgress",
    "Pipeline",
    "Progress",
    "ProgressSnapshot",
    "Retry",
    "SinkFunction",
    "SourceFunction",
    "from_batch",
    "from_collection",
    "from_future",
    "from_source",
    "run",
]
