"""Workspace: what a folder holds, and what a run made, changed and removed in it, by comparing the folder alone."""
from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Callable, NamedTuple

import pytest
from hypothesis import given, strategies as st

import cc_execute
from cc_execute import Changes, compare, take_snapshot


def changes_by(folder: Path, act: Callable[[Path], object], known: bool = True) -> Changes:
    """What taking and comparing snapshots tells of an act; paths sorted, so that tests can name them."""
    before = take_snapshot(str(folder))
    act(folder)
    found = compare(before, take_snapshot(str(folder), before if known else None))
    return Changes(*(tuple(sorted(paths)) for paths in found[:3]), found.complete, tuple(sorted(found.folders)))


class Act(NamedTuple):
    name: str
    do: Callable[[Path], object]
    created: tuple = ()
    changed: tuple = ()
    deleted: tuple = ()
    folders: tuple = ()


def rewrite_with_old_times(folder: Path) -> None:
    """Same size, same modification time, other content: only the digest (or the inode's change time) can tell."""
    info = (folder / "old.py").stat()
    (folder / "old.py").write_text("NEW")
    os.utime(folder / "old.py", ns=(info.st_atime_ns, info.st_mtime_ns))


ACTS = [
    Act("nothing", lambda f: None),
    Act("a new file", lambda f: (f / "new.py").write_text("x"), created=("new.py",)),
    Act("a new empty file", lambda f: (f / "new.py").touch(), created=("new.py",)),
    Act("a new folder", lambda f: (f / "out").mkdir(), folders=("out",)),
    Act("a file in a new folder", lambda f: ((f / "out" / "deep").mkdir(parents=True),
        (f / "out" / "deep" / "a").write_text("x")),
        created=("out/deep/a",), folders=("out", "out/deep")),
    Act("another content", lambda f: (f / "old.py").write_text("another"), changed=("old.py",)),
    Act("another content of the same size and time", rewrite_with_old_times, changed=("old.py",)),
    Act("the same content again", lambda f: (f / "old.py").write_text("old"), ),
    Act("touched", lambda f: os.utime(f / "old.py", (1, 1))),
    Act("removed", lambda f: (f / "old.py").unlink(), deleted=("old.py",)),
    Act("removed and written again", lambda f: ((f / "old.py").unlink(), (f / "old.py").write_text("old"))),
    Act("renamed", lambda f: (f / "old.py").rename(f / "new.py"), created=("new.py",), deleted=("old.py",)),
    Act("a folder removed", lambda f: ((f / "sub" / "in.py").unlink(), (f / "sub").rmdir()), deleted=("sub/in.py",)),
    Act("a file that becomes a folder", lambda f: ((f / "old.py").unlink(), (f / "old.py").mkdir()), deleted=("old.py",), folders=("old.py",)),
    Act("a folder that becomes a file", lambda f: ((f / "sub" / "in.py").unlink(), (f / "sub").rmdir(), (f / "sub").touch()),
        created=("sub",), deleted=("sub/in.py",)),
    Act("in a folder that was there", lambda f: (f / "sub" / "in.py").write_text("new"), changed=("sub/in.py",)),
    Act("hidden file", lambda f: (f / ".env").write_text("x"), created=(".env",)),
    Act("strange names", lambda f: [(f / name).write_text("x") for name in ("a b", "c\nd", "é", "-rf")],
        created=("-rf", "a b", "c\nd", "é")),
    Act("a bash command", lambda f: subprocess.run("sed -i.bak s/old/new/ old.py && rm -f old.py.bak", shell=True, cwd=f,
        check=True), changed=("old.py",)),
    Act("what is left out", lambda f: [(f / name).mkdir() or (f / name / "x").write_text("x")
                                       for name in (".git", "node_modules", ".venv", "__pycache__")]),
    Act("a link", lambda f: (f / "link").symlink_to("old.py"), created=("link",)),
    Act("a dangling link", lambda f: (f / "link").symlink_to("nowhere"), created=("link",)),
    Act("a pipe", lambda f: os.mkfifo(f / "pipe"), created=("pipe",)),
]


@pytest.mark.parametrize("known", [True, False], ids=["digests known", "digests made anew"])
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.name)
def test_the_changes_are(act, known, workspace):
    (workspace / "sub").mkdir()
    (workspace / "old.py").write_text("old")
    (workspace / "sub" / "in.py").write_text("in")
    found = changes_by(workspace, act.do, known)
    assert found == Changes(act.created, act.changed, act.deleted, True, act.folders)


def test_written_is_what_is_new_or_changed():
    assert Changes(("a",), ("b",), ("c",)).written == ("a", "b")


def test_a_name_that_is_no_unicode_is_survived(workspace):
    found = changes_by(workspace, lambda f: open(os.fsencode(f) + b"/\xff.txt", "wb").close())
    assert len(found.created) == 1


def test_a_loop_of_links_ends(workspace):
    (workspace / "sub").mkdir()
    found = changes_by(workspace, lambda f: (f / "sub" / "loop").symlink_to(".."))
    assert found.created == ("sub/loop",)


def test_a_folder_that_is_left_out_is_left_out(workspace):
    (workspace / "transcripts").mkdir()
    (workspace / "transcripts" / "a").write_text("x")
    assert set(take_snapshot(str(workspace), leave_out=[str(workspace / "transcripts")]).paths) == set()


def test_a_folder_that_is_gone_is_empty(workspace):
    assert dict(take_snapshot(str(workspace / "gone")).paths) == {}


# ---- Big folders and big files. ----

def test_a_big_file_counts_by_size_and_times(workspace, monkeypatch):
    monkeypatch.setattr(cc_execute, "HASH_LIMIT_BYTES", 10)
    (workspace / "big").write_text("x" * 50)
    os.utime(workspace / "big", (1, 1))
    assert changes_by(workspace, lambda f: (f / "big").write_text("y" * 50)).changed == ("big",)
    assert changes_by(workspace, lambda f: None).changed == ()


def test_beyond_the_most_paths_nothing_is_known_for_certain(workspace, monkeypatch):
    monkeypatch.setattr(cc_execute, "BASELINE_PATHS", 5)
    for number in range(8):
        (workspace / f"{number}.py").write_text("x")
    found = changes_by(workspace, lambda f: (f / "new.py").write_text("x"))
    assert not found.complete and found.deleted == ()


def test_after_the_time_allowed_nothing_is_known_for_certain(workspace):
    for number in range(8):
        (workspace / f"{number}.py").write_text("x")
    ticks = iter(range(1000))
    snapshot = take_snapshot(str(workspace), clock=lambda: next(ticks) / 4)
    assert not snapshot.complete and 0 < len(snapshot.paths) < 8


# ---- What holds for any folder. ----

FILES = st.dictionaries(st.sampled_from(["a", "b", "c", "d/e", "d/f", "g/h/i"]), st.sampled_from(["", "1", "2", "11"]))


def put(folder: Path, files: dict) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


@given(FILES, FILES)
def test_for_any_two_states_the_changes_are_their_difference(tmp_path_factory, first, second):
    folder = tmp_path_factory.mktemp("any")
    put(folder, first)
    before = take_snapshot(str(folder))
    for name in first.keys() - second.keys():
        (folder / name).unlink()
    put(folder, second)
    found = compare(before, take_snapshot(str(folder), before))
    files = lambda paths: {path for path in paths if not (folder / path).is_dir()}  # noqa: E731
    assert files(found.created) == second.keys() - first.keys()
    assert set(found.changed) == {name for name in first.keys() & second.keys() if first[name] != second[name]}
    assert set(found.deleted) == first.keys() - second.keys()
    assert found.complete and not compare(before, before).written
