"""Codecs of other installed packages, among them the one that docs/codecs.md writes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from plesio import registry
from plesio.codecs import Packet, decode, parse
from plesio.errors import CodecError, UnknownName, UserError

DOCS = Path(__file__).parents[2] / "docs" / "codecs.md"
Install = Callable[[str, str, dict[str, str]], Path]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", DOCS.read_text(), re.DOTALL)


def files_of(package: str, source: str, names: dict[str, str], folder: Path) -> None:
    """What an installer leaves of a package with one module: the module, and what it says of itself."""
    (folder / f"{package}.py").write_text(source)
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in names.items()]
    (about / "entry_points.txt").write_text("\n".join(["[plesio.codecs]", *lines, ""]))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """install(package, source, names): for this process."""
    monkeypatch.syspath_prepend(tmp_path)
    installed = []

    def put(package: str, source: str, names: dict[str, str]) -> Path:
        files_of(package, source, names, tmp_path)
        installed.append(package)
        registry._others.cache_clear()
        return tmp_path

    yield put
    registry._others.cache_clear()
    for package in installed:
        sys.modules.pop(package, None)


def test_the_codec_of_the_docs_keeps_what_codecs_promise(tmp_path: Path) -> None:
    *_, source, check = blocks("python")
    (entry,) = blocks("toml")
    names = tomllib.loads(entry)["project"]["entry-points"]["plesio.codecs"]
    files_of("plesio_fp8", source, names, tmp_path)
    paths = [str(tmp_path), str(Path(registry.__file__).parents[1])]
    more = """
import torch
from plesio.codecs import Packet, decode, parse
assert repr(parse("ef(topk(1/2)+fp8)")) == "ef(topk(1/2)+fp8)"
codec, tensor = parse("fp8"), torch.tensor([1.0, -2.0, 0.1])
packet = Packet.from_bytes(codec.encode(tensor)[0].to_bytes())
assert len(packet.payload) == 3
torch.testing.assert_close(decode(packet), tensor, rtol=2**-3, atol=0)
"""
    subprocess.run(
        [sys.executable, "-c", check + more],
        check=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


def test_the_first_example_of_the_docs_runs() -> None:
    names: dict[str, object] = {}
    exec(blocks("python")[0], names)
    tensor, back = names["tensor"], names["back"]
    assert isinstance(tensor, torch.Tensor) and isinstance(back, torch.Tensor)
    assert len(names["data"]) == names["codec"].wire_bytes(tensor.shape, tensor.dtype)  # type: ignore[arg-type,attr-defined]
    assert (back - tensor).norm() < 0.01 * tensor.norm()


def test_the_docs_state_is_loaded_as_it_was_saved() -> None:
    tensor = torch.randn(500)
    names: dict[str, Any] = {"tensor": tensor}
    (source,) = [block for block in blocks("python") if "import load_state" in block]
    exec(source.rsplit("\n", 2)[0], names)
    saved = names["state"]
    exec(source, names)
    assert names["state"].residual.norm() > 0
    assert torch.equal(names["state"].residual, saved.residual)


def test_the_docs_name_every_codec() -> None:
    table = "".join(line for line in DOCS.read_text().splitlines() if line.startswith("| `"))
    for name in registry.CODECS:
        assert re.search(rf"`{name}[`(]", table), name


TWICE = """
from dataclasses import dataclass
from plesio.codecs.cast import Identity

@dataclass(frozen=True, repr=False)
class Plain(Identity):
    name = "plain"
"""


def test_a_codec_of_another_package_is_named_and_read(install: Install) -> None:
    install("others", TWICE, {"plain": "others:Plain"})
    tensor = torch.arange(3.0)
    assert repr(parse("int8+plain")) == "int8+plain"
    packet = parse("plain").encode(tensor, None)[0]
    assert torch.equal(decode(Packet.from_bytes(packet.to_bytes())), tensor)
    with pytest.raises(UnknownName, match="did you mean 'plain'"):
        parse("plane")


def test_a_package_that_cannot_be_loaded_is_named(install: Install) -> None:
    install("broken", "import nowhere_to_be_found", {"bad": "broken:Bad"})
    with pytest.raises(UserError, match="codec 'bad' of the package 'broken' cannot be loaded: ModuleNotFound"):
        parse("bad")
    install("lacking", "", {"gone": "lacking:Gone"})
    with pytest.raises(UserError, match="codec 'gone' of the package 'lacking' cannot be loaded: AttributeError"):
        parse("gone")


def test_a_packet_of_a_codec_that_cannot_be_loaded_is_refused(install: Install) -> None:
    install("others", TWICE, {"plain": "others:Plain"})
    data = parse("plain").encode(torch.arange(3.0), None)[0].to_bytes()
    install("broken", "1 / 0", {"plaim": "broken:Bad"})
    with pytest.raises(CodecError, match="the package 'broken' cannot be loaded: ZeroDivisionError"):
        Packet.from_bytes(data.replace(b"plain", b"plaim"))


def test_a_class_that_bears_another_name_is_refused(install: Install) -> None:
    install("others", TWICE, {"flat": "others:Plain"})
    with pytest.raises(UserError, match="the package 'others' registers others:Plain as codec 'flat'"):
        parse("flat")


def test_a_name_of_two_packages_is_refused(install: Install) -> None:
    for package in ("others", "rivals"):
        install(package, TWICE, {"plain": f"{package}:Plain"})
    with pytest.raises(UserError, match="in the packages others and rivals; uninstall all but one"):
        parse("plain")


def test_a_built_in_name_is_looked_for_nowhere_else(install: Install) -> None:
    install("broken", "1 / 0", {"int8": "broken:Bad"})
    assert repr(parse("int8")) == "int8"
    assert "broken" not in sys.modules
