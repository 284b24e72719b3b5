"""`plesio codecs` and `plesio bench codecs`: what people type."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

Typed = Callable[..., Any]


@pytest.fixture
def typed(tmp_path: Path, typed_in: Typed) -> Typed:
    """A command in this process."""
    return partial(typed_in, tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "weight": torch.randn(300, 200, generator=draw),
        "bias": torch.zeros(200, dtype=torch.bfloat16),
        "steps": torch.arange(3),
    }
    save_file(tensors, tmp_path / "m.safetensors", {"format": "pt"})
    return tensors


def test_a_packed_checkpoint_gives_its_tensors_back_with_the_error_that_was_said(
    typed: Typed, model: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    told = typed("codecs", "pack", "m.safetensors", "--codec", "int4(32)", "--json")
    assert told["tensors"] == 2 and told["ratio"] > 6
    assert (tmp_path / "m.safetensors.packed").stat().st_size < 1.05 * told["bytes"] + 1000
    typed("codecs", "unpack", "m.safetensors.packed", "--out", "again.safetensors")
    back = load_file(tmp_path / "again.safetensors")
    assert back.keys() == model.keys() and all(back[k].dtype == model[k].dtype for k in model)
    assert torch.equal(back["steps"], model["steps"]) and torch.equal(back["bias"], model["bias"])
    error = float((back["weight"] - model["weight"]).square().sum() / model["weight"].square().sum())
    assert error == pytest.approx(told["rel_error"], rel=0.01) and 0 < error < 0.01
    with safe_open(tmp_path / "again.safetensors", framework="pt") as found:
        assert found.metadata() == {"format": "pt"}


def test_packing_by_role_looks_at_names_and_shapes_and_zeros_cost_nothing(
    typed: Typed, model: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    large = {
        "h.weight": model["weight"],
        "tok_embedding": model["weight"] * 2,
        "norm": torch.randn(70),
        "empty": torch.zeros(10**5),
    }
    save_file(large, tmp_path / "l.safetensors")
    told = typed("codecs", "pack", "l.safetensors", "--codec", "byrole(norms=none, rest=int2)+zstd", "--json")
    assert told["bytes"] < 60_000 * (2.4 + 8.2) / 8 + 1000
    typed("codecs", "unpack", "l.safetensors.packed", "--out", "again.safetensors")
    back = load_file(tmp_path / "again.safetensors")
    off = {
        name: float((back[name] - large[name]).norm() / large[name].norm()) for name in ("h.weight", "tok_embedding")
    }
    assert off["h.weight"] > 0.3 and 0 < off["tok_embedding"] < 0.01
    assert torch.equal(back["norm"], large["norm"]) and torch.equal(back["empty"], large["empty"])


def test_nothing_is_written_over_and_what_is_no_checkpoint_is_told(
    typed: Typed, model: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    typed("codecs", "pack", "m.safetensors")
    assert "exists" in typed("codecs", "pack", "m.safetensors", code=2)
    assert "exists" in typed("codecs", "unpack", "m.safetensors.packed", code=2)
    assert "was not written by" in typed("codecs", "unpack", "m.safetensors", code=2)
    (tmp_path / "junk").write_bytes(b"x" * 100)
    assert "cannot be read as safetensors" in typed("codecs", "--on", "junk", code=2)
    assert "did you mean 'int8'" in typed("codecs", "--on", "m.safetensors", "--codec", "int9", code=2)
    save_file({"bad": torch.tensor([1.0, float("nan")])}, tmp_path / "bad.safetensors")
    assert "tensor 'bad'" in typed("codecs", "pack", "bad.safetensors", code=2)
    assert not (tmp_path / "bad.safetensors.packed").exists() and not list(tmp_path.glob(".*"))


def test_a_damaged_tensor_is_named(typed: Typed, model: dict[str, torch.Tensor], tmp_path: Path) -> None:
    typed("codecs", "pack", "m.safetensors")
    path = tmp_path / "m.safetensors.packed"
    with safe_open(path, framework="pt") as found:
        metadata, tensors = found.metadata(), {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
    tensors["weight"] = tensors["weight"][:-3]
    save_file(tensors, path, metadata)
    assert "tensor 'weight'" in typed("codecs", "unpack", "m.safetensors.packed", "--out", "x", code=2)
    assert not (tmp_path / "x").exists()


def test_codecs_are_tried_on_a_model_and_measured_here(typed: Typed, model: dict[str, torch.Tensor]) -> None:
    rows = typed("codecs", "--on", "m.safetensors", "--codec", "int8", "--codec", "sign", "--json")["codecs"]
    assert [row["codec"] for row in rows] == ["int8", "sign"] and rows[0]["rel_error"] < 1e-3 < rows[1]["rel_error"]
    shown = typed("codecs", "--on", "m.safetensors", "--codec", "int8", "--codec", "topk(1/64)+int2")
    assert "* topk(1/64)+int2" in shown and "2 tensors, 60,200 values" in shown
    [row] = typed("codecs", "--codec", "int4", "--json")["codecs"]
    assert row["bits"] == pytest.approx(4.125, abs=0.01) and row["what"].startswith("each block as multiples")


def test_the_bench_says_what_it_measured(typed: Typed) -> None:
    told = typed(
        "bench", "codecs", "--values", "100000", "--rounds", "2", "--codec", "int8", "--codec", "sign", "--json"
    )
    assert [row["codec"] for row in told["rows"]] == ["int8", "sign"] and told["rounds"] == 2
    for row in told["rows"]:
        assert row["encode_ratio"] == pytest.approx(row["encode_gbps"] / row["limit_gbps"], rel=0.05)
        assert row["threads"] == 1 and row["bytes_ratio"] > 3 and 0 < row["rel_error"] < 0.5


def test_the_bench_measures_kernels_by_themselves_and_names_a_device_that_is_not_there(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plesio.cli import codecbench
    from plesio.codecs.kernels import gpu

    monkeypatch.setattr(codecbench, "kernels", SimpleNamespace(on_device=lambda kind: gpu))
    words = ("--values", "65536", "--rounds", "1", "--codec", "codebook(16)", "--codec", "topk")
    said = typed("bench", "codecs", *words, "--json")
    by_themselves = {"kernel_encode_ratio", "kernel_decode_ratio"}
    assert [by_themselves & row.keys() for row in said["rows"]] == [by_themselves, set()] and said["device"] == "cpu"
    assert "codebook" in typed("bench", "codecs", *words)
    assert "--device cuda:99 is not there" in typed("bench", "codecs", "--device", "cuda:99", code=2)
