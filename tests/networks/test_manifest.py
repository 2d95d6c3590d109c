"""The manifest is what sha256sum reads, and says whether weights are the ones that they should be."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from neurobundle.errors import EnvironmentFault, WeightsError
from neurobundle.networks.manifest import (
    MANIFEST_NAME,
    Entry,
    announce,
    make_entry,
    read_manifest,
    remove,
    sha256_of,
    verify,
    write_entry,
)

# printf abc | sha256sum
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def weights(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"abc")
    write_entry(tmp_path, "model.pt", "released")
    return tmp_path / "model.pt"


def test_round_trip(weights):
    """What is written is what is read, and other entries stay."""
    (weights.parent / "fold0.pt").write_bytes(b"abcd")
    written = write_entry(weights.parent, "fold0.pt", "trained-here", parent=ABC)
    entries = read_manifest(weights.parent)
    assert entries["model.pt"] == Entry("model.pt", ABC, "released", "none", 3)
    assert entries["fold0.pt"] == written
    assert (written.parent, written.bytes) == (ABC, 4)
    assert verify(weights) == entries["model.pt"]


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs sha256sum")
def test_sha256sum_reads_it(weights):
    """The standard program accepts the file, comments and all."""
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", MANIFEST_NAME], cwd=weights.parent, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "model.pt: OK\n", "")


def test_plain_line(tmp_path):
    """A line that sha256sum wrote is an entry of unknown origin."""
    (tmp_path / "model.pt").write_bytes(b"abc")
    (tmp_path / MANIFEST_NAME).write_text(f"# by hand\n{ABC} *model.pt\n")
    assert verify(tmp_path / "model.pt") == Entry("model.pt", ABC)


def test_missing_file(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        verify(tmp_path / "model.pt")


def test_not_listed(tmp_path):
    """An unlisted file is refused, with the sha256 that would list it."""
    (tmp_path / "model.pt").write_bytes(b"abc")
    with pytest.raises(WeightsError, match=f"not listed.*{ABC}"):
        verify(tmp_path / "model.pt")


@pytest.mark.parametrize(("content", "message"), [(b"", "0 bytes"), (b"ab", "2 bytes instead of 3, sha256")])
def test_fault_58_truncated_or_empty(weights, content, message):
    """A checkpoint of another size is damaged; the message has the size and the sha256."""
    weights.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"checkpoint model.pt is damaged.*{message}") as caught:
        verify(weights)
    assert str(weights) in str(caught.value)


def test_fault_59_bit_flip(weights):
    """One bit is enough."""
    weights.write_bytes(b"abb")
    with pytest.raises(WeightsError, match=f"damaged.*{sha256_of(weights)} instead of {ABC}"):
        verify(weights)


@pytest.mark.parametrize("line", ["nonsense", f"{ABC}", f"{ABC}  ../model.pt", "0" * 63 + "  model.pt"])
def test_malformed_line(tmp_path, line):
    (tmp_path / MANIFEST_NAME).write_text(f"# comment\n{line}\n")
    with pytest.raises(WeightsError, match="line 2 of the manifest"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(("origin", "parent"), [("made-up", None), ("released", "abc")])
def test_refused_entry(weights, origin, parent):
    with pytest.raises(WeightsError, match="must be"):
        write_entry(weights.parent, "model.pt", origin, parent)


def test_fault_63_killed_between_announcing_and_replacing(weights):
    """Both the old and the announced bytes verify; nothing else does."""
    new = weights.with_name("new")
    new.write_bytes(b"xyz")
    announce(weights.parent, make_entry(new, "trained-here", ABC, name="model.pt"))
    assert verify(weights).origin == "released"
    new.replace(weights)
    assert verify(weights).origin == "trained-here"
    weights.write_bytes(b"---")
    with pytest.raises(WeightsError, match="damaged"):
        verify(weights)


def test_cannot_be_written(tmp_path):
    """A folder in the manifest's place is an environment fault that names it, and leaves no litter."""
    (tmp_path / "model.pt").write_bytes(b"abc")
    (tmp_path / MANIFEST_NAME / "x").mkdir(parents=True)
    with pytest.raises(WeightsError, match="cannot be read"):
        write_entry(tmp_path, "model.pt", "released")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        __import__("neurobundle.networks.manifest", fromlist=["_write"])._write(tmp_path, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST_NAME, "model.pt"]


def test_a_file_that_is_removed_loses_its_line_alone(tmp_path):
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(name.encode())
        write_entry(tmp_path, name, origin="released")
    remove(tmp_path, "a.pt")
    remove(tmp_path, "never.pt")
    assert set(read_manifest(tmp_path)) == {"b.pt"}
    assert [path.name for path in tmp_path.glob("*.pt")] == ["b.pt"]
