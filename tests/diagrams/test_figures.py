"""Figures by matplotlib: everything is on them, without pyplot."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from autostop_lab import LocalEnvironment, Service
from autostop_lab.diagrams.figures import CallTimes, job_figure, timeline_figure
from tests.diagrams.pictures import FULL, KEPT, LIVE, OVER


@pytest.fixture(scope="module", autouse=True)
def fonts() -> None:
    """Let matplotlib open its fonts, which it keeps open, so that they are no leak of the first test."""
    figure = job_figure(FULL, [("a", 3.0)], [CallTimes("b$^2$", 0.001, 2.0, 300.0)])
    figure.text(0, 0, "$x^2$")
    for kind in ("png", "svg", "pdf"):
        figure.savefig(io.BytesIO(), format=kind)


def texts(figure: object) -> set[str]:
    from matplotlib.text import Text

    return {one.get_text() for one in figure.findobj(Text)}  # type: ignore[attr-defined]


@pytest.mark.parametrize("snapshot", [LIVE, OVER, FULL, KEPT], ids=["live", "over", "full", "kept"])
def test_the_timeline_has_a_row_for_the_job_and_each_service(snapshot: object) -> None:
    figure = timeline_figure(snapshot)  # type: ignore[arg-type]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    figure.savefig(io.BytesIO(), format="svg")

    assert len(labels) == 1 + len(snapshot.services)  # type: ignore[attr-defined]
    assert labels[0] == "job"


def test_the_timeline_names_the_states_with_their_signs() -> None:
    assert {"● running", "✕ killing", "◕ cleaning_up"} <= texts(timeline_figure(OVER))


def test_names_with_dollars_are_no_mathematics() -> None:
    figure = job_figure(KEPT, [("a$b$c", 3.0)], [CallTimes("x$^2$.call", 0.1, 0.2, 0.3)])

    figure.savefig(io.BytesIO(), format="png")
    assert r"a\$b\$c" in texts(figure)


def test_a_plot_says_what_is_not_known() -> None:
    assert {"no records were counted", "no calls were measured"} <= texts(job_figure(KEPT, [], []))


def test_a_job_plots_itself(tmp_path: Path) -> None:
    class Doubler(Service):
        def double(self, number: int) -> int:
            return 2 * number

    with LocalEnvironment("plotted") as env:
        doubler = env.register_service("doubler", Doubler)
        env.from_batch(range(50)).map(doubler.double).sink(lambda number: None)
        job = env.submit(autostop=True)
    figure = job.plot()
    figure.savefig(tmp_path / "job.pdf")
    job.timeline().savefig(tmp_path / "timeline.png")

    assert "doubler.double" in texts(figure)
    assert "states of plotted" in texts(figure)


def test_pyplot_is_never_loaded() -> None:
    code = (
        "import sys\nfrom tests.diagrams.pictures import OVER\n"
        "from autostop_lab.diagrams.figures import timeline_figure\n"
        "assert 'matplotlib' not in sys.modules\ntimeline_figure(OVER)\nassert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
