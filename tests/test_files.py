import os
import signal
import time
from pathlib import Path

import pytest

from neurobundle.errors import EnvironmentFault
from neurobundle.files import require_writable, sweep_folder, write_atomic, write_json


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.bin"
    write_atomic(target, b"old")

    def refuse(_: Path) -> None:
        raise EnvironmentFault("not what was written")

    with pytest.raises(EnvironmentFault):
        write_atomic(target, b"new", check=refuse)
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]


def test_a_folder_that_is_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(EnvironmentFault, match="cannot be written") as caught:
        write_json(tmp_path / "out" / "report.json", {})
    assert "-o" in caught.value.way_out


def test_who_is_killed_while_proving_a_folder_leaves_litter_that_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    child = os.fork()
    if child == 0:
        require_writable(tmp_path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    assert sweep_folder(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_proving_that_a_folder_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    require_writable(tmp_path / "deep")
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.slow
def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    contents = {bytes([n]) * 2_000_000 for n in range(8)}
    write_atomic(target, next(iter(contents)))
    for attempt in range(20):
        child = os.fork()
        if child == 0:
            while True:
                for content in contents:
                    write_atomic(target, content)
        time.sleep(0.01 + 0.003 * attempt)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert target.read_bytes() in contents
