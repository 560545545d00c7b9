"""Write cli.md from the parser of the `bitgaze` command, api.md and api-more.md from docstrings.

    python docs/reference.py

A test compares the files with what this writes, and runs the examples below. Reads the parser's
actions and the source: `format_help` and `inspect.signature` word things differently from one
Python version to the next.
"""

import argparse
import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

import bitgaze
from bitgaze.cli.main import main as command
from bitgaze.cli.main import parser

HERE = Path(__file__).parent
_IMPORT = "from bitgaze import Encoder, Gallery, HammingIndex"
# The classes to read first, each with an example; the examples run one after the other.
_FIRST = {
    "Gallery": """\
gallery = Gallery("photos.bitgaze")  # one file, created on first use
report = gallery.sync("photos")  # a folder; report.failed names unreadable files
hits = gallery.search("query.jpg", k=3)  # a path, bytes, PIL image, array or key""",
    "Encoder": """\
encoder = Encoder()  # or Encoder("mine.onnx")
encoded = encoder.encode(["query.jpg", "missing.jpg"])
print(encoded.codes.shape, encoded.errors)  # row i belongs to source i""",
    "HammingIndex": """\
index = HammingIndex(bits=128)
index.add(encoded.codes)
distances, ids = index.search(encoded.codes, k=2)  # (2, 2) each""",
    "Hit": """\
for hit in hits:
    print(hit.distance, hit.same_kind, hit.same_image, hit.key, hit.metadata)
    print(hit.chances)  # such as {"same kind": "50%", "same image": "30%"}""",
}
# On a page of their own, by what they are for.
_MORE = "api-more.md"
_REST = {
    "Galleries": (
        "FlatGallery",
        "Item",
        "Query",
        "WordHit",
        "SyncReport",
        "DuplicateGroup",
        "Duplicate",
        "verify_gallery",
        "GalleryVerification",
        "repair",
        "RepairReport",
    ),
    "Search": ("ViewIndex",),
    "Models and hardware": (
        "Encoded",
        "Contract",
        "verify",
        "Verification",
        "register_provider",
        "ProviderReport",
        "simd",
    ),
}
# Not exported by `bitgaze` itself, but docstrings refer to them.
_IN_MODULES = (
    "encoding.images.load",
    "encoding.images.Preprocess",
    "encoding.calibration.Calibration",
    "encoding.contract.Model",
    "gallery.items.FileState",
    "interchange.export_gallery",
    "interchange.import_gallery",
    "interchange.report.Transfer",
)
# Of `bitgaze.distributed`, by module.
_CLUSTER = {
    "encode": "distributed.encoding.encode",
    "EncodeReport": "distributed.encoding.EncodeReport",
    "refused": "distributed.output.refused",
    "search": "distributed.querying.search",
    "ShardedGallery": "distributed.sharded.ShardedGallery",
    "ShardedHits": "distributed.sharded.ShardedHits",
}
_SECTIONS = ("Args", "Attributes", "Raises", "Returns", "Yields")
_NOTE = "<!-- Written by docs/reference.py; change what it reads, not this file. -->"


def main() -> None:
    """Write the files."""
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """File name to text."""
    return {"cli.md": cli_page(), "api.md": api_page(), _MORE: more_page()}


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
        "Every command returns " + _section(inspect.getdoc(command) or "", "Returns"),
    ]
    for name, sub in commands:
        parts += [f"## bitgaze {name}", _head(sub), f"```\n{_usage(name, sub)}\n```"]
        parts.append("\n".join(f"- {_argument(action)}" for action in _arguments(sub)))
    return "\n\n".join(part for part in parts if part) + "\n"


def api_page() -> str:
    """Four classes, their methods folded; of the other names a line each."""
    rest = [name for names in _REST.values() for name in names]
    errors = [name for name in bitgaze.__all__ if _is_error(name)]
    first = ", ".join(f"[{name}](#{name.lower()})" for name in _FIRST)
    parts = [
        "# The bitgaze package",
        _NOTE,
        f"Four classes: {first}; then [the other names](#the-other-names) and [errors](#errors). "
        "Click an entry to expand it.",
        _block("python", _IMPORT),
    ]
    for name, example in _FIRST.items():
        node = _definition(name)
        assert isinstance(node, ast.ClassDef)
        parts += [f"## {name}", _signature_of_class(node, name), _head_and_init(node)]
        parts.append(_block("python", example))
        members = _members(node)
        parts.append(_table(["member", "what it is"], (_row(m, name) for m in members)))
        parts += [_folded(m, f"{name}.{m.name}") for m in members if _has_more(m)]
    parts += ["## The other names", _table(["name", "what it is"], map(_link_row, rest))]
    parts += ["## Errors", _table(["error", "base", "raised for"], map(_error_row, errors))]
    return "\n\n".join(part for part in parts if part) + "\n"


def more_page() -> str:
    """What api.md gives a line each, and what docstrings refer to by its module."""
    parts = ["# The bitgaze package, continued", _NOTE, "The main classes: [api.md](api.md)."]
    for title, names in _REST.items():
        parts.append(f"## {title}")
        for name in names:
            parts += _entry(name, name)
    parts += ["## On a cluster", "In `bitgaze.distributed`; see [scale.md](scale.md)."]
    for name, path in _CLUSTER.items():
        parts += _entry(path, f"bitgaze.distributed.{name}")
    parts += ["## In modules", "Not exported by `bitgaze` itself; other entries refer to them."]
    for path in _IN_MODULES:
        parts += _entry(path, f"bitgaze.{path}")
    return "\n\n".join(part for part in parts if part) + "\n"


def _link_row(name: str) -> list[str]:
    summary, _ = _summary(ast.get_docstring(_definition(name)) or "")
    return [f"[`{name}`]({_MORE}#{name.lower()})", _cell(summary)]


def _is_error(name: str) -> bool:
    found = getattr(bitgaze, name)
    return isinstance(found, type) and issubclass(found, Exception)


def _error_row(name: str) -> list[str]:
    node = _definition(name)
    assert isinstance(node, ast.ClassDef)
    bases = ", ".join(f"`{ast.unparse(base)}`" for base in node.bases)
    return [f"`{name}`", bases, _cell(ast.get_docstring(node) or "")]


def _definition(path: str) -> ast.ClassDef | ast.FunctionDef:
    """A class or function by its name in `bitgaze`, or by module and name."""
    module, _, name = path.rpartition(".")
    home = f"bitgaze.{module}" if module else getattr(bitgaze, name).__module__
    tree = ast.parse(inspect.getsource(import_module(home)))
    (node,) = [n for n in tree.body if getattr(n, "name", None) == name]
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    return node


def _members(node: ast.ClassDef) -> list[ast.FunctionDef]:
    """Public methods and properties."""
    found = [member for member in node.body if isinstance(member, ast.FunctionDef)]
    return [member for member in found if not member.name.startswith("_")]


def _row(member: ast.FunctionDef, owner: str) -> list[str]:
    """A member in the table of its class: a link where there is more to say."""
    name = f"`{member.name}`" if _is_property(member) else f"`{member.name}()`"
    if _has_more(member):
        name = f"[{name}](#{_anchor(f'{owner}.{member.name}')})"
    elif _is_property(member):
        name = _cell(f"`{member.name}: {_unquoted(member.returns)}`")
    return [name, _cell(_summary(ast.get_docstring(member) or "")[0])]


def _has_more(member: ast.FunctionDef) -> bool:
    """Whether a member has more to say than fits into its row."""
    takes_nothing = len(member.args.args) == 1 and not member.args.kwonlyargs
    rest = _summary(ast.get_docstring(member) or "")[1]
    return bool(rest) or not (takes_nothing and member.args.vararg is None)


def _folded(node: ast.FunctionDef, title: str) -> str:
    """Signature and docstring in a collapsible section; the table has the summary."""
    summary = f'<summary><a id="{_anchor(title)}"></a><code>{title}</code></summary>'
    rest = _markdown(_summary(ast.get_docstring(node) or "")[1])
    parts = [f"<details>{summary}", _signature_of(node, title), rest, "</details>"]
    return "\n\n".join(part for part in parts if part)


def _entry(path: str, title: str) -> Iterator[str]:
    """Heading, signature and docstring of a class or function, then of a class's members."""
    node = _definition(path)
    yield f"### {title}"
    if isinstance(node, ast.FunctionDef):
        yield _signature_of(node, title)
        yield _markdown(ast.get_docstring(node) or "")
        return
    yield _signature_of_class(node, title)
    yield _head_and_init(node)
    for member in _members(node):
        yield _signature_of(member, f"{node.name}.{member.name}")
        yield _markdown(ast.get_docstring(member) or "")


def _anchor(title: str) -> str:
    return title.lower().replace(".", "-")


def _summary(docstring: str) -> tuple[str, str]:
    """The first paragraph, and the rest."""
    first, _, rest = docstring.partition("\n\n")
    return first, rest


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _head_and_init(node: ast.ClassDef) -> str:
    """The docstring of a class, and of its constructor where it has one."""
    inits = [m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "__init__"]
    texts = [ast.get_docstring(node), *map(ast.get_docstring, inits)]
    return "\n\n".join(_markdown(text) for text in texts if text)


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


def _is_property(node: ast.FunctionDef) -> bool:
    return "property" in [ast.unparse(decorator) for decorator in node.decorator_list]


def _signature_of(node: ast.FunctionDef, title: str) -> str:
    returns = "" if node.returns is None else _unquoted(node.returns)
    if _is_property(node):
        return _code(f"{title}: {returns}")
    is_bound = bool(node.args.args) and node.args.args[0].arg in ("self", "cls")
    return _code(f"{title}{_signature(node.args, is_bound)} -> {returns}")


def _signature_of_class(node: ast.ClassDef, title: str) -> str:
    return _code(_class_line(node, title))


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
    return _block("py", line)


def _block(language: str, text: str) -> str:
    """Examples are `python`, which a test runs; signatures are `py`."""
    return f"```{language}\n{text}\n```"


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
    parts = re.split(rf"^({heads}):\n", docstring, flags=re.MULTILINE)
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
