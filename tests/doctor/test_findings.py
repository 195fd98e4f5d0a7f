from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from autostop_lab.doctor import Facts, Finding, Mark, as_json, as_text, examine, verdict

GOOD = Facts(
    versions={
        "ray": "2.60.0",
        "ipykernel": "7.4.1",
        "ipywidgets": "8.1.9",
        "jupyterlab": "4.6.6",
        "nest-asyncio2": "1.7.4",
    }
)
LINUX_ONLY = "it is a matter of Linux"
MAC = replace(
    GOOD,
    system="Darwin 24.1.0 arm64",
    problems_of_containment={"signs": "", "subreaper": LINUX_ONLY, "cgroup": LINUX_ONLY},
    death_is_seen_by="kqueue",
    open_files=256,
    processes=2666,
    free_memory_bytes=None,
)
READ_ONLY = "no control group can be made below /sys/fs/cgroup (Read-only file system)"
CONTAINER = replace(
    GOOD,
    problems_of_containment={"signs": "", "subreaper": "", "cgroup": READ_ONLY},
    death_is_seen_by="poll",
    free_memory_bytes=64 << 20,
    open_files=1 << 20,
)


def finding(facts: Facts, subject: str) -> Finding:
    (found,) = (found for found in examine(facts) if found.subject == subject)
    return found


def marks(facts: Facts) -> dict[str, str]:
    return {found.subject: str(found.mark) for found in examine(facts)}


def changed(**changes: Any) -> Facts:
    return replace(GOOD, **changes)


# -- whole machines ----------------------------------------------------------------------------------------


def test_on_a_good_machine_all_is_ok_and_nothing_is_advised() -> None:
    assert set(marks(GOOD).values()) == {"ok"}
    assert not any(found.advice for found in examine(GOOD))
    assert verdict(GOOD).endswith(" ok: nothing outlives its job here.")


def test_a_mac_has_signs_alone_and_few_files() -> None:
    unlike = {subject: mark for subject, mark in marks(MAC).items() if mark != "ok"}

    assert unlike == {"signs": "limited", "subreaper": "missing", "cgroup": "missing", "open files": "limited"}
    assert finding(MAC, "signs").advice == "keep such a program in the foreground; most have an option for that"
    assert finding(MAC, "cgroup").advice == ""
    assert "seen at once (kqueue" in finding(MAC, "death of the owner").fact
    assert finding(MAC, "open files").fact == "256, room for about 52 programs at once"
    assert "shared memory" not in marks(MAC)
    assert "but for what is said above" in verdict(MAC)


def test_a_container_says_what_it_lacks_and_what_to_do() -> None:
    unlike = {subject: mark for subject, mark in marks(CONTAINER).items() if mark != "ok"}

    assert unlike == {
        "signs": "limited",
        "cgroup": "missing",
        "death of the owner": "limited",
        "shared memory": "limited",
    }
    assert finding(CONTAINER, "signs").advice == 'give a program that leaves such daemons contain="subreaper"'
    assert finding(CONTAINER, "cgroup").fact == READ_ONLY
    assert "Delegate=yes" in finding(CONTAINER, "cgroup").advice
    assert "--shm-size" in finding(CONTAINER, "shared memory").advice


def test_every_line_that_is_not_ok_has_a_fact_and_says_what_to_do() -> None:
    worst = Facts(
        executable="",
        problems_of_containment=dict.fromkeys(("signs", "subreaper", "cgroup"), "it does not work"),
        death_is_seen_by="poll",
        open_files=40,
        processes=50,
        folder_problem="/tmp/x is not a folder that belongs to you alone (0700)",
        free_memory_bytes=1,
        loaded_nest_asyncio=True,
        port_taken_by="",
    )
    for facts in (worst, replace(worst, folder_problem="", free_bytes=5, dead_sessions=2)):
        bad = [found for found in examine(facts) if found.mark is not Mark.OK]
        assert len(bad) >= 10
        assert all(found.fact for found in bad)
        assert [found.subject for found in bad if not found.advice] == ["subreaper"]  # its advice is that of the signs


# -- what may be promised ----------------------------------------------------------------------------------


def test_it_says_what_signs_alone_do_not_find() -> None:
    for facts in (GOOD, MAC, CONTAINER):
        said = finding(facts, "signs").fact
        assert "but for daemons that clear their environment and close all files" in said
    assert finding(GOOD, "signs").fact.endswith('; contain="auto" holds these')


def test_without_a_private_folder_nothing_can_be_promised() -> None:
    facts = changed(folder_problem="it belongs to somebody else")

    assert not facts.can_promise
    assert finding(facts, "sessions").mark is Mark.MISSING
    assert "it belongs to somebody else" in finding(facts, "sessions").fact
    assert "nothing can be promised here" in verdict(facts)
    assert "leftovers" not in marks(facts)


def test_all_else_leaves_the_promise() -> None:
    assert all(facts.can_promise for facts in (GOOD, MAC, CONTAINER))


def test_an_interpreter_that_is_not_known_is_told() -> None:
    assert "no reaper can be started" in finding(changed(executable=""), "Python").fact


# -- single lines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "mark", "fact"),
    [
        (None, "ok", "without limit"),
        (1024, "ok", "1024, room for about 308 programs at once"),
        (1023, "limited", "1023, room for about 307 programs at once"),
        (40, "limited", "40, room for about 0 programs at once"),
    ],
)
def test_open_files(files: int | None, mark: str, fact: str) -> None:
    found = finding(changed(open_files=files), "open files")

    assert (str(found.mark), found.fact) == (mark, fact)
    assert ("ulimit -n 4096" in found.advice) is (mark == "limited")


def test_few_processes_are_told() -> None:
    assert marks(changed(processes=500))["processes"] == "limited"
    assert marks(changed(processes=30000))["processes"] == "ok"


def test_little_room_is_told_with_the_place() -> None:
    found = finding(changed(free_bytes=5 << 20), "sessions")

    assert (found.mark, found.fact) == (Mark.LIMITED, "in /tmp/autostop_lab-1000, open to you alone, 5 MiB free")


@pytest.mark.parametrize(("count", "text"), [(0, "0 B free"), (3 << 30, "3 GiB free"), (5 << 40, "5.0 TiB free")])
def test_sizes_are_readable(count: int, text: str) -> None:
    assert text in finding(changed(free_memory_bytes=count), "shared memory").fact


def test_dead_sessions_are_told_with_the_way_out() -> None:
    assert marks(changed(live_sessions=3))["leftovers"] == "ok"
    found = finding(changed(live_sessions=1, dead_sessions=2), "leftovers")

    assert (found.mark, found.fact) == (Mark.LIMITED, "1 alive, 2 dead and not cleaned yet")
    assert "autostop-lab sweep" in found.advice


def with_versions(**versions: str) -> Facts:
    named = {name.replace("_", "-"): version for name, version in versions.items()}
    return changed(versions={name: version for name, version in {**GOOD.versions, **named}.items() if version})


@pytest.mark.parametrize(
    ("versions", "mark", "words"),
    [
        ({"ipykernel": "7.3.0"}, "ok", "are handled while a cell runs"),
        ({"ipykernel": "7.4.0"}, "ok", "our views repair what ipykernel 7.4.0 breaks"),
        ({"ipykernel": "7.0.0a1"}, "ok", "are handled"),
        ({"ipykernel": "6.31.0"}, "limited", "ipykernel 6.31.0 has no subshells"),
        ({"jupyterlab": "4.3.9"}, "limited", "JupyterLab 4.3.9 does not use"),
        ({"jupyterlab": ""}, "ok", "are handled"),
    ],
)
def test_whether_clicks_are_handled_while_a_cell_runs(versions: dict[str, str], mark: str, words: str) -> None:
    found = finding(with_versions(**versions), "clicks")

    assert str(found.mark) == mark
    assert words in found.fact


def test_only_the_version_that_misroutes_clicks_is_said_to() -> None:
    assert "repair" not in finding(with_versions(ipykernel="7.3.0"), "clicks").fact
    assert "repair" not in finding(with_versions(ipykernel="7.4.1"), "clicks").fact


def test_without_jupyter_s_parts_it_says_how_to_get_them() -> None:
    facts = with_versions(ipykernel="", ipywidgets="")

    assert finding(facts, "ipykernel").advice == "notebooks cannot do without it: python -m pip install ipykernel"
    assert finding(facts, "ipywidgets").advice == "the live view cannot do without it: python -m pip install ipywidgets"
    assert "clicks" not in marks(facts)


@pytest.mark.parametrize(
    ("versions", "is_loaded", "mark", "words"),
    [
        ({}, False, "ok", "nest-asyncio2 1.7.4"),
        ({"nest_asyncio": "1.6.0"}, False, "ok", "nest-asyncio 1.6.0 is there, too, and loses messages"),
        ({"nest_asyncio": "1.6.0"}, True, "limited", "nest_asyncio 1.6.0 is loaded"),
        ({"nest_asyncio2": "1.7.2"}, False, "limited", "nest-asyncio2 1.7.2 loses"),
        ({"nest_asyncio2": "1.7.10"}, False, "ok", "nest-asyncio2 1.7.10"),
        ({"nest_asyncio2": ""}, False, "missing", "is not installed"),
    ],
)
def test_nested_loops(versions: dict[str, str], is_loaded: bool, mark: str, words: str) -> None:
    found = finding(replace(with_versions(**versions), loaded_nest_asyncio=is_loaded), "nested loops")

    assert str(found.mark) == mark
    assert words in found.fact


@pytest.mark.parametrize(
    ("version", "python", "mark", "advice"),
    [
        ("2.60.0", "3.11.7", "ok", ""),
        ("2.9.1", "3.11.7", "limited", "python -m pip install -U 'ray>=2.60'"),
        ("", "3.13.1", "missing", "python -m pip install -U 'ray>=2.60'"),
        ("", "3.14.0", "missing", "everything else works; Ray has no packages for this Python"),
    ],
)
def test_ray(version: str, python: str, mark: str, advice: str) -> None:
    found = finding(replace(with_versions(ray=version), python=python), "Ray")

    assert (str(found.mark), found.advice) == (mark, advice)


@pytest.mark.parametrize(
    ("who", "fact"),
    [("pid 7 (python3)", "is taken by pid 7 (python3)"), ("", "is taken by a process that cannot be seen from here")],
)
def test_a_port_that_is_taken_is_told_with_its_owner(who: str, fact: str) -> None:
    found = finding(changed(port_taken_by=who), "port 19001")

    assert (found.mark, found.fact) == (Mark.LIMITED, fact)
    assert "--port 19002" in found.advice


# -- the words ---------------------------------------------------------------------------------------------


def test_each_line_begins_with_its_mark_as_a_word_and_advice_stands_below() -> None:
    lines = as_text(CONTAINER).splitlines()

    assert "ok       Python              3.11.7 (/usr/bin/python3)" in lines
    at = lines.index(f"missing  cgroup              {READ_ONLY}")
    assert lines[at + 1].startswith(f"{'':29}-> run Jupyter in a scope of its own")
    assert lines[-2:] == ["", verdict(CONTAINER)]


def test_the_last_line_counts() -> None:
    assert verdict(MAC).startswith("14 ok, 2 limited, 2 missing: ")


def test_all_of_it_is_json_too() -> None:
    value = json.loads(as_json(MAC))

    assert value["can_promise"] is True
    assert value["facts"]["open_files"] == 256
    assert {"mark": "ok", "subject": "Ray", "fact": "2.60.0", "advice": ""} in value["findings"]
