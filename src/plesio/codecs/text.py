"""Codecs as text, for the command line and the journal: "none", "int8(128)", "topk(1/64)+sr(int4)", "ef(int8, 0.9)".

`repr` of a codec is its text. It is not a language: names come from the registry, arguments are numbers, or codecs of
what is made of codecs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import TypeVar

from plesio import registry
from plesio.codecs.adaptive import Adaptive
from plesio.codecs.base import Codec, Stage
from plesio.codecs.compose import Chain, ErrorFeedback
from plesio.codecs.lossless import Zstd
from plesio.codecs.roles import ROLES, ByRole
from plesio.codecs.stochastic import Stochastic
from plesio.errors import UserError

_TERM = re.compile(r"(\w+)\s*(?:\((.*)\))?", re.ASCII | re.DOTALL)
N = TypeVar("N")


def parse(text: str) -> Codec:
    """The codec that a text names. Raises UnknownName for an unknown name, UserError for other mistakes."""
    terms = _split(text, "+")
    name, inner = _parts(terms[-1])
    if name == "zstd":
        return Zstd(parse("+".join(terms[:-1]) or "none"), _number(inner, text, int) if inner else 1)
    if len(terms) == 1 and name in _COMPOSED:
        return _COMPOSED[name](text, [part for part in _split(inner, ",") if part])
    links = [_stage(term) for term in terms]
    return links[0] if len(links) == 1 else Chain(*links)


def _feedback(text: str, arguments: list[str]) -> Codec:
    if not 1 <= len(arguments) <= 2:
        raise UserError(f"codec {text!r} has {len(arguments)} arguments; write ef(codec) or ef(codec, decay)")
    return ErrorFeedback(parse(arguments[0]), *(_number(d, text, float) for d in arguments[1:]))


def _by_role(text: str, arguments: list[str]) -> Codec:
    found = {}
    for argument in arguments:
        role, _, codec = argument.partition("=")
        if role.strip() not in ROLES or role.strip() in found:
            raise UserError(f"codec {text!r} names the roles {', '.join(ROLES)}, each once: byrole(norms=bf16, rest=int4)")
        found[role.strip()] = parse(codec)
    return ByRole(**found)


def _adaptive(text: str, arguments: list[str]) -> Codec:
    if len(arguments) > 1:
        raise UserError(f"codec {text!r} has too many arguments; write adaptive or adaptive(budget)")
    return Adaptive(*(_number(b, text, float) for b in arguments))


_COMPOSED: dict[str, Callable[[str, list[str]], Codec]] = {
    "ef": _feedback,
    "byrole": _by_role,
    "adaptive": _adaptive,
}


def _stage(term: str) -> Stage:
    name, inner = _parts(term)
    if name == "sr":
        quantiser, *seed = _split(inner, ",")
        if len(seed) > 1:
            raise UserError(f"codec {term!r} has too many arguments; write sr(quantiser) or sr(quantiser, seed)")
        return Stochastic(_stage(quantiser), _number(seed[0], term, int) if seed else 0)
    if name in _COMPOSED or not name:
        raise UserError(f"codec {term!r} cannot be read here; write a name, name(number), sr(name), a+b, or ef(a+b)")
    kind = registry.load(registry.CODECS, "codec", name)
    arguments = [_number(a, term, _whole_or_part) for a in inner.split(",")] if inner else []
    try:
        made: Stage = kind(*arguments)
    except TypeError:
        raise UserError(f"codec {name!r} does not take ({inner}); its default is {kind()!r}") from None
    return made


def _parts(term: str) -> tuple[str, str]:
    """(name, what is in its parentheses); two empty strings for what has no such form."""
    match = _TERM.fullmatch(term)
    return (match[1], match[2] or "") if match else ("", "")


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
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == at and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
