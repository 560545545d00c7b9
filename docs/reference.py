"""Write docs/cli.md from the parser of the `bitgaze` command, and docs/api.md from docstrings.

    python docs/reference.py

A test compares both files with what this writes. Reads the parser's actions and the source, not
`format_help` and `inspect.signature`: those two say the same thing otherwise in each Python.
"""

import argparse
import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import bitgaze
from bitgaze.cli.main import main as command
from bitgaze.cli.main import parser

HERE = Path(__file__).parent
# Not for `from bitgaze import ...`, but other docstrings send their readers there.
_BESIDE = (
    "images.load",
    "images.Preprocess",
    "sync.sync",
    "calibration.Calibration",
    "items.FileState",
    "contract.Model",
)
_SECTIONS = ("Args", "Attributes", "Raises", "Returns", "Yields")
_NOTE = "<!-- Written by docs/reference.py; change what it reads, not this file. -->"


def main() -> None:
    """Write both files."""
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """File name to text."""
    return {"cli.md": cli_page(), "api.md": api_page()}


def cli_page() -> str:
    """Every command with its arguments."""
    parts = ["# The bitgaze command", _NOTE]
    commands = _commands(parser())
    parts += [
        "\n".join(f"- [`bitgaze {name}`](#bitgaze-{name}): {_head(sub)}" for name, sub in commands)
    ]
    parts += [
        "`bitgaze --version` prints the version. Each command takes `--help`.",
        "## Exit codes",
        "Every command returns " + _section(command.__doc__ or "", "Returns"),
    ]
    for name, sub in commands:
        parts += [f"## bitgaze {name}", _head(sub), f"```\n{_usage(name, sub)}\n```"]
        parts.append("\n".join(f"- {_argument(action)}" for action in _arguments(sub)))
    return "\n\n".join(part for part in parts if part) + "\n"


def api_page() -> str:
    """Every public name with its docstring; classes with their public methods and properties."""
    links = [f"[`{name}`](#bitgaze{name.lower()})" for name in bitgaze.__all__]
    parts = [
        "# The bitgaze package",
        _NOTE,
        "What `from bitgaze import ...` gives: " + ", ".join(links) + ".",
    ]
    for name in bitgaze.__all__:
        parts += _entry(f"{getattr(bitgaze, name).__module__}.{name}", f"bitgaze.{name}")
    parts += ["# Beside them", "Where the above sends its readers, by module."]
    for name in _BESIDE:
        parts += _entry(f"bitgaze.{name}", f"bitgaze.{name}")
    return "\n\n".join(parts) + "\n"


def _commands(parser: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser]]:
    (choice,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return list(choice.choices.items())


def _head(sub: argparse.ArgumentParser) -> str:
    return " ".join((sub.description or "").split())


def _arguments(sub: argparse.ArgumentParser) -> list[argparse.Action]:
    """Positional ones first, then options; without --help."""
    shown = [a for a in sub._actions if not isinstance(a, argparse._HelpAction)]
    return sorted(shown, key=lambda action: bool(action.option_strings))


def _usage(name: str, sub: argparse.ArgumentParser) -> str:
    words = [f"bitgaze {name}", "[OPTIONS]"]
    for action in _arguments(sub):
        if action.option_strings:
            continue
        value = _value(action)
        many = {"+": f"{value} [{value} ...]", "*": f"[{value} ...]", "?": f"[{value}]"}
        words.append(many.get(str(action.nargs), value))
    return " ".join(words)


def _value(action: argparse.Action) -> str:
    """What stands for an argument's value; empty for a switch."""
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    if action.metavar is not None:
        return str(action.metavar)
    return action.dest.upper() if action.option_strings else action.dest


def _argument(action: argparse.Action) -> str:
    value = _value(action)
    names = [f"{option} {value}".strip() for option in action.option_strings] or [value]
    text = (action.help or "") % {**vars(action), "prog": "bitgaze"}
    again = " Required." if action.option_strings and action.required else ""
    return ", ".join(f"`{name}`" for name in names) + f": {_plain(text)}{again}".rstrip(": ")


def _plain(text: str) -> str:
    """Markdown that shows this text: a help text has no markup."""
    return re.sub(r"([*_<\[\]])", r"\\\1", " ".join(text.split()))


def _entry(where: str, title: str) -> Iterator[str]:
    """Heading, signature and docstring of a class or function, then of a class's members."""
    module, _, name = where.rpartition(".")
    tree = ast.parse(inspect.getsource(import_module(module)))
    (node,) = [n for n in tree.body if getattr(n, "name", None) == name]
    yield f"## {title}"
    if isinstance(node, ast.FunctionDef):
        yield from _described(node, title)
        return
    assert isinstance(node, ast.ClassDef)
    yield _code(_class_line(node, title))
    yield _markdown(ast.get_docstring(node) or "")
    for member in node.body:
        if not isinstance(member, ast.FunctionDef):
            continue
        text = ast.get_docstring(member)
        if member.name.startswith("_"):
            if text is not None and member.name == "__init__":
                yield _markdown(text)
            continue
        yield f"### {name}.{member.name}"
        yield from _described(member, f"{name}.{member.name}")


def _described(node: ast.FunctionDef, title: str) -> Iterator[str]:
    kinds = [ast.unparse(decorator) for decorator in node.decorator_list]
    returns = "" if node.returns is None else _unquoted(node.returns)
    if "property" in kinds:
        yield _code(f"{title}: {returns}")
    else:
        is_bound = "." in title and not title.startswith("bitgaze.")
        yield _code(f"{title}{_signature(node.args, is_bound)} -> {returns}")
    yield _markdown(ast.get_docstring(node) or "")


def _class_line(node: ast.ClassDef, title: str) -> str:
    """How an object of a class is made."""
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return f"{title}{_signature(member.args, is_bound=True)}"
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
        return f"{title}({', '.join(map(_field, fields))})"
    return f"class {title}({', '.join(map(ast.unparse, node.bases))})"


def _field(node: ast.AnnAssign) -> str:
    text = f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}"
    if node.value is None:
        return text
    value = ast.unparse(node.value)
    made = re.fullmatch(r"field\(default_factory=(\w+)\)", value)
    return f"{text} = {made[1]}()" if made else f"{text} = {value}"


def _signature(arguments: ast.arguments, is_bound: bool) -> str:
    plain = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(plain) - len(arguments.defaults)) + arguments.defaults
    words = [_parameter(*pair) for pair in zip(plain, defaults, strict=True)][is_bound:]
    if arguments.vararg is not None:
        words.append("*" + _parameter(arguments.vararg, None))
    elif arguments.kwonlyargs:
        words.append("*")
    words += map(_parameter, arguments.kwonlyargs, arguments.kw_defaults)
    return f"({', '.join(words)})"


def _parameter(node: ast.arg, default: ast.expr | None) -> str:
    text = node.arg if node.annotation is None else f"{node.arg}: {_unquoted(node.annotation)}"
    return text if default is None else f"{text} = {ast.unparse(default)}"


def _code(line: str) -> str:
    """A line of Python, folded at commas where it is long."""
    if len(line) > 88:
        head, _, rest = line.partition("(")
        inner, _, tail = rest.rpartition(")")
        folded = "".join(f"    {part},\n" for part in _split(inner))
        line = f"{head}(\n{folded}){tail}"
    return f"```python\n{line}\n```"


def _split(text: str) -> list[str]:
    """At commas that are in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _markdown(docstring: str) -> str:
    """A docstring in Google's style: its sections as headings, its arguments as lists."""
    out: list[str] = []
    for block, body in _blocks(docstring):
        if block:
            out.append(f"**{block}**\n\n{_items(body)}")
        elif body.strip():
            out.append(body.strip())
    return "\n\n".join(out)


def _blocks(docstring: str) -> Iterator[tuple[str, str]]:
    """(section or "", text) in order."""
    heads = "|".join(_SECTIONS)
    parts = re.split(rf"^({heads}):\n", inspect.cleandoc(docstring), flags=re.MULTILINE)
    yield "", parts[0]
    for head, rest in zip(parts[1::2], parts[2::2], strict=True):
        body = re.match(r"(?:(?: {4}.*)?\n?)*", rest)
        assert body is not None
        yield head, textwrap.dedent(body[0]).strip()
        yield "", rest[body.end() :]


def _section(docstring: str, wanted: str) -> str:
    return next(" ".join(body.split()) for head, body in _blocks(docstring) if head == wanted)


def _items(body: str) -> str:
    """`name: text` with what is indented below it, as a list; what is none stays a paragraph."""
    lines = []
    for line in body.splitlines():
        item = re.match(r"([\w.*]+): (.*)", line)
        if item:
            lines.append(f"- `{item[1]}`: {item[2]}")
        else:
            lines.append(line[2:] if line.startswith("    ") else line)
    return "\n".join(lines)


def _unquoted(node: ast.expr) -> str:
    """An annotation, without the quotes of one that names its own class."""
    return ast.unparse(node).strip("'")


if __name__ == "__main__":
    main()
