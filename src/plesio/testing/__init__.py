"""The project's test kit. For others: `codec_contract`, of what every codec promises. Importing it loads nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plesio.testing.codeccontract import codec_contract

__all__ = ["codec_contract"]


def __getattr__(name: str) -> Any:
    if name == "codec_contract":
        from plesio.testing.codeccontract import codec_contract

        return codec_contract
    raise AttributeError(f"module 'plesio.testing' has no attribute {name!r}")
