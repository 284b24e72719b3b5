"""Codecs as text, for the command line and the journal: "none", "int8(128)", "topk(1/64)+sr(int4)", "ef(int8, 0.9)".

`repr` of a codec is its text. It is not a language: names come from the registry, arguments are numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import TypeVar

from plesio import registry
from plesio.codecs.base import Codec, Stage
from plesio.codecs.compose import Chain, ErrorFeedback
from plesio.codecs.stochastic import Stochastic
from plesio.errors import UserError

_TERM = re.compile(r"(\w+)\s*(?:\((.*)\))?", re.ASCII)
N = TypeVar("N")


def parse(text: str) -> Codec:
    """The codec that a text names. Raises UnknownName for an unknown name, UserError for other mistakes."""
    text = text.strip()
    if (match := _TERM.fullmatch(text)) and match[1] == "ef":
        inner, *decay = _split(match[2] or "", ",")
        if len(decay) > 1:
            raise UserError(f"codec {text!r} has too many arguments; write ef(codec) or ef(codec, decay)")
        return ErrorFeedback(parse(inner), *(_number(d, text, float) for d in decay))
    links = [_stage(term) for term in _split(text, "+")]
    return links[0] if len(links) == 1 else Chain(*links)


def _stage(term: str) -> Stage:
    match = _TERM.fullmatch(term)
    if match is None or match[1] == "ef":
        raise UserError(f"codec {term!r} cannot be read here; write a name, name(number), sr(name), a+b, or ef(a+b)")
    if match[1] == "sr":
        inner, *seed = _split(match[2] or "", ",")
        if len(seed) > 1:
            raise UserError(f"codec {term!r} has too many arguments; write sr(quantiser) or sr(quantiser, seed)")
        return Stochastic(_stage(inner), _number(seed[0], term, int) if seed else 0)
    kind = registry.load(registry.CODECS, "codec", match[1])
    arguments = [_number(a, term, _whole_or_part) for a in match[2].split(",")] if match[2] else []
    try:
        made: Stage = kind(*arguments)
    except TypeError:
        raise UserError(f"codec {match[1]!r} does not take ({match[2]}); its default is {kind()!r}") from None
    return made


def _whole_or_part(word: str) -> int | Fraction:
    found = Fraction(word)
    return int(found) if found.denominator == 1 else found


def _number(word: str, text: str, kind: Callable[[str], N]) -> N:
    try:
        return kind(word)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"codec {text!r}: {word.strip()!r} is no number") from None


def _split(text: str, at: str) -> list[str]:
    """The parts between `at` outside parentheses."""
    return [part.strip() for part in re.split(re.escape(at) + r"(?![^(]*\))", text)]
