"""The page as served, module by module, and as one self-contained file with its scripts inside."""

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from eigenstep.files import write_whole

# Everything comes from the page itself. The served page loads its own modules and style sheet; the exported one lists
# its script and its style by hash. Neither may connect to anything.
_POLICY = (
    "default-src 'none'; script-src {scripts}; style-src {styles}; img-src data: blob:; connect-src 'none'; "
    "base-uri 'none'; form-action 'none'"
)
SERVED_POLICY = (
    _POLICY.format(scripts="'self'", styles="'self'").replace("img-src", "img-src 'self'") + "; frame-ancestors 'none'"
)

_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w.]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?:async )?(?:function|class|const) (\w+)", re.MULTILINE)


@cache
def static_files() -> Mapping[str, bytes]:
    """Return the page's own files by name."""
    folder = resources.files("eigenstep.page") / "static"
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith((".", "_"))}


def served_page(report: Mapping[str, Any] | None = None, name: str = "") -> bytes:
    """Return index.html with the report inside, if there is one."""
    return _text("index.html").replace("<!-- report -->", _block(report, name)).encode()


def export(path: str | os.PathLike[str], report: Mapping[str, Any] | None = None, name: str = "") -> Path:
    """Write the whole page as one file that a browser opens from disk, with the report inside; return its path.

    report: what `read_report` returns, or the content of any file of ours, envelope included; `name` is shown beside
    it. Raises BadFile when the file cannot be written.

    >>> import tempfile
    >>> export(Path(tempfile.mkdtemp()) / "page.html").name
    'page.html'
    """
    main, style = _bundle("main.js"), f"\n{_text('page.css')}"
    policy = _POLICY.format(scripts=_hash(main), styles=_hash(style))
    html = _text("index.html")
    for mark, content in (
        (
            '<meta charset="utf-8">',
            f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">',
        ),
        ('<link rel="stylesheet" href="page.css">', f"<style>{style}</style>"),
        ("<!-- report -->", _block(report, name)),
        ('<script type="module" src="main.js"></script>', f'<script type="module">{main}</script>'),
    ):
        before, after = html.split(mark, 1)
        html = before + content + after
    return write_whole(path, html)


def _text(name: str) -> str:
    return static_files()[name].decode()


def _block(report: Mapping[str, Any] | None, name: str) -> str:
    """The report as a block of data: text inside JSON inside HTML, in which no character can end the block."""
    if report is None:
        return ""
    content = json.dumps({"name": name, "text": json.dumps(_finite(report))})
    for sign in "<>&\u2028\u2029":
        content = content.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="report">{content}</script>'


def _finite(value: Any) -> Any:
    """Plain data in which JSON has every number: those that are not finite as text."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _bundle(name: str) -> str:
    """A module and all that it imports as one script: each module a function that returns what it exports."""
    order: list[str] = []

    def visit(module: str) -> None:
        if module not in order:
            for _, other in _IMPORT.findall(_text(module)):
                visit(other)
            order.append(module)

    visit(name)
    parts = []
    for module in order:
        source = _text(module)
        exported = ", ".join(_EXPORT.findall(source))
        body = _IMPORT.sub(lambda found: f"const {{{found[1]}}} = {_variable(found[2])};\n", source)
        body = re.sub(r"^export ", "", body, flags=re.MULTILINE)
        parts.append(f"const {_variable(module)} = (() => {{\n{body}\nreturn {{ {exported} }};\n}})();\n")
    return _inside_script("".join(parts))


def _variable(module: str) -> str:
    return f"module_{module.removesuffix('.js')}"


def _inside_script(source: str) -> str:
    """A script that does not end the element it stands in; the same to JavaScript, where it is in strings."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", source, flags=re.IGNORECASE)


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
