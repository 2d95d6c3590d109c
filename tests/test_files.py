import os
import signal
import time
from pathlib import Path

import pytest

from neurobundle.errors import EnvironmentFault
from neurobundle.files import write_atomic, write_json


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
