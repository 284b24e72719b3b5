"""What `plesio run` does about a codec that loses much of each change."""

from __future__ import annotations

from pathlib import Path

import pytest

from plesio import registry
from plesio.cli.coarse import COARSE, FINE, advise, lost
from plesio.cli.launch import make_spec
from plesio.core.spec import RunSpec
from plesio.errors import UserError
from plesio.strategies.text import parse as parse_schedule


def spec(codec: str | None, strategy: str = "decoupled", start_rounds: int | None = None) -> RunSpec:
    return make_spec(
        script=Path(__file__), argv=(), learners=2, strategy=strategy, codec=codec, every=None, start_rounds=start_rounds,
        until_tokens=None, epochs=None, name="r",
    )  # fmt: skip


def test_what_is_known_to_lose_little_is_measured_to_lose_little() -> None:
    assert registry.CODECS.keys() >= FINE
    assert all(lost(f"ef({name})") <= COARSE for name in FINE)


@pytest.mark.parametrize("codec", ["sign", "topk", "int2", "topk(1/64)+int2", "ef(randomk(1/8)+int8, 0.9)"])
def test_a_coarse_codec_is_for_the_way_up_and_the_user_is_told(codec: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = spec(codec)
    assert (made.uplink, made.gradient_uplink, made.downlink) == (codec, "int8", "int8")
    assert [made.uplink_of(kind) for kind in ("replicated", "served", "local")] == ["int8", "int8", codec]
    said = capsys.readouterr().err
    assert "versions come down as int8, and gradients of the rounds before changes go up as that" in said
    assert spec(codec, "localsgd", start_rounds=0).gradient_uplink == ""
    assert "gradients" not in capsys.readouterr().err


@pytest.mark.parametrize("codec", ["none", "bf16", "int8", "int4", "nf4", "codebook(16)", "ef(int8)", None])
def test_a_codec_that_loses_little_goes_both_ways_in_silence(
    codec: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    made = spec(codec)
    assert made.uplink == made.downlink == (codec or "int8") and made.gradient_uplink == ""
    assert capsys.readouterr().err == ""


def test_gradients_come_down_as_they_went_up() -> None:
    assert advise("sign", parse_schedule("sync")) == ("", "sign", "")
    assert advise("sign", parse_schedule("async"))[:2] == ("", "int8")


def test_a_codec_that_is_unknown_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'int8'"):
        spec("int9")
