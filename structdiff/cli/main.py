"""The command `structdiff`: train, sample, score, evaluate, tune and a few more."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from functools import partial, wraps
from io import StringIO

from structdiff.cli.registry import DOMAINS, load

__all__ = ["main"]

USAGE = """usage: structdiff COMMAND ...

Diffusion models for structured data.

  train DOMAIN     train a model, or go on with a run that was stopped
  regressor DOMAIN train what guides a model towards a property (molecules)
  sample RUN       draw from a trained model
  score RUN        how likely the model holds samples to be
  evaluate RUN     draw, measure beside real data, write a page with pictures
  tune RUN         choose walks of few network calls for a model
  inspect RUN      what is in the folder of a run
  doctor PATH      look at data before training
  domains          the kinds of data there are
  demo DOMAIN      train a small model in minutes and show what it makes

structdiff COMMAND --help says more; structdiff train molecules --help lists every setting."""

# How pydantic tells of a field, within the box that tyro puts around it.
_FIELD = re.compile(
    r"\d+ validation errors? for \w+ (\S+) (.*?) \[type=\w+, input_value=(.*?), input_type=\w+\]"
)
# The same, of settings that do not go together: no field is named.
_TOGETHER = re.compile(
    r"\d+ validation errors? for \w+ , (.*?) \[type=\w+, input_value=(.*?), input_type=\w+\]"
)
# The title of tyro's box, where what is in it begins with the same words.
_TITLE = re.compile(r"^(invalid choice|unrecognized options) (?=\1[ :])", flags=re.IGNORECASE)
_OF_DOMAINS = ("train", "demo", "regressor")
_LONG = {"--data": "--data.path", "--condition": "--data.conditions"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; every expected failure is one line, without a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _run(words)
    except BrokenPipeError:
        sys.exit(0)
    except (ValueError, OSError) as error:
        print(f"structdiff: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("structdiff: interrupted", file=sys.stderr)
        sys.exit(130)


def _run(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return
    command, rest = words[0], words[1:]
    from structdiff.cli import commands

    if command in _OF_DOMAINS:
        _with_domain(command, rest)
    elif command in commands.COMMANDS:
        _call(commands.COMMANDS[command], f"structdiff {command}", rest)
    else:
        known = [*_OF_DOMAINS, *commands.COMMANDS]
        msg = f"there is no command {command!r}; there are: {', '.join(sorted(known))}"
        raise ValueError(msg)


def _with_domain(command: str, rest: list[str]) -> None:
    """Commands whose settings depend on the domain."""
    if not rest or rest[0].startswith("-"):
        print(f"usage: structdiff {command} DOMAIN ...\n\nDOMAIN is one of: {', '.join(DOMAINS)}")
        if not rest:
            sys.exit(2)
        return
    domain = load(rest[0])
    if not hasattr(domain.commands, command):
        msg = f"the domain {rest[0]!r} has no command {command!r}: structdiff --help lists all"
        raise ValueError(msg)
    words = [_LONG.get(word, word) for word in rest[1:]]
    for short, long in _LONG.items():
        words = [w.replace(f"{short}=", f"{long}=") if w.startswith(short) else w for w in words]
    words = _joined(words, "--data.conditions")
    _call(getattr(domain.commands, command), f"structdiff {command} {rest[0]}", words)


def _joined(words: list[str], option: str) -> list[str]:
    """The words with a repeated option once, at the end, with all its values."""
    rest, values, taken = list[str](), list[str](), False
    for word in words:
        name, equals, value = word.partition("=")
        taken = name == option if word.startswith("-") else taken
        if not taken:
            rest.append(word)
        elif name != option:
            values.append(word)
        elif equals:
            values.append(value)
    return [*rest, option, *values] if values else list(words)


def _call(function: Callable[..., None], program: str, words: list[str]) -> None:
    from structdiff.training import NonFiniteLoss, Stopped

    ready = _parse(function, program, words)
    try:
        ready()
    except Stopped as stopped:
        print(f"structdiff: {stopped}")
        sys.exit(130)
    except NonFiniteLoss as error:
        msg = str(error)
        raise ValueError(msg) from None


def _parse(function: Callable[..., None], program: str, words: list[str]) -> Callable[[], None]:
    """The function with its arguments read; what is wrong with them is one line."""
    import tyro

    @wraps(function)
    def later(*args: object, **named: object) -> Callable[[], None]:
        return partial(function, *args, **named)

    later.__annotations__ = {**function.__annotations__, "return": None}
    said = StringIO()
    try:
        with redirect_stderr(said):
            ready: Callable[[], None] = tyro.cli(later, prog=program, args=words)
    except SystemExit as stop:
        if not stop.code:
            raise
        plain = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│─]+|-{4,}", " ", said.getvalue())
        plain = re.sub(r"For further information visit\s+\S+", "", plain)
        plain = re.sub(r"For full helptext.*|Value error|Parsing error", "", plain, flags=re.S)
        plain = _TITLE.sub("", " ".join(plain.split()))
        plain = _TOGETHER.sub(r"\1", plain)
        plain = _FIELD.sub(r"\1 = \3: \2", plain)
        msg = f"{plain} ({program} --help lists what is allowed)"
        raise ValueError(msg) from None
    return ready


def _one_line(error: Exception) -> str:
    """What happened; for settings, field by field."""
    fields = getattr(error, "errors", None)
    if fields is None:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return "; ".join(lines).replace(":; ", ": ") or type(error).__name__
    lines = []
    for item in fields():
        name = ".".join(str(part) for part in item["loc"])
        whole = item["msg"].removeprefix("Value error, ")  # of settings that do not go together
        lines.append(f"{name} = {item['input']!r}: {item['msg']}" if name else whole)
    return "; ".join(lines)


if __name__ == "__main__":
    main()
