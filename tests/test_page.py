"""The explorer's Python side: what is served and to whom, the exported file, reports read and refused, the command."""

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import eigenstep as es
from eigenstep.cli import main
from eigenstep.errors import BadFile, InvalidValue
from eigenstep.files import envelope, read_envelope
from eigenstep.page import Server, export, read_report
from eigenstep.page.document import static_files

HOSTILE = '</script><script>alert(1)</script><!--\u2028<img src=x onerror="alert(2)">'


def ask(server: Server, path: str, host: str | None = None, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", f"127.0.0.1:{server.port}" if host is None else host)
    connection.endheaders()
    with contextlib.closing(connection):
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def test_it_serves_its_own_files_with_a_policy_that_allows_no_connection() -> None:
    with Server() as server:
        for name, content in static_files().items():
            status, headers, body = ask(server, f"/{name}")
            assert status == 200
            policy = headers["content-security-policy"]
            assert (
                "default-src 'none'" in policy
                and "connect-src 'none'" in policy
                and "http" not in policy
                and "unsafe" not in policy
            )
            if name != "index.html":
                assert body == content
        status, headers, body = ask(server, "/?x=1", method="HEAD")
        assert (status, body) == (200, b"")
        assert headers["content-type"] == "text/html; charset=utf-8"
        assert ask(server, "/", host=f"localhost:{server.port}")[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "127.0.0.1", "127.0.0.1:1"])
def test_other_hosts_are_refused(host: str) -> None:
    with Server() as server:
        assert ask(server, "/", host=host)[0] == 403
        assert ask(server, "/main.js", host=host)[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/../document.py",
        "/..%2fdocument.py",
        "/%2e%2e/%2e%2e/spectrum.py",
        "/static/../../spectrum.py",
        "//etc/passwd",
        "/etc/passwd",
        "/../../../../../../etc/passwd",
        "/main.js/..",
        "/main.js%00",
        "/__init__.py",
        "file:///etc/passwd",
        "/\\..\\document.py",
    ],
)
def test_nothing_else_is_served(path: str) -> None:
    with Server() as server:
        status, _, body = ask(server, path)
    assert status == 404
    assert body == b"There is no such file."


def test_only_this_machine_is_listened_to_and_the_port_is_freed() -> None:
    with Server() as server:
        with (
            socket.socket() as elsewhere,
            pytest.raises(OSError, match="refused"),
        ):  # what listens everywhere hears this address too
            elsewhere.connect(("127.0.0.2", server.port))
        with pytest.raises(BadFile, match=f"port {server.port} cannot be used"):
            Server(port=server.port)
        assert ask(server, "/", method="POST")[0] == 501
    with socket.socket() as free, pytest.raises(OSError, match="refused"):
        free.connect(("127.0.0.1", server.port))


def test_the_modules_name_nothing_outside() -> None:
    for name, content in static_files().items():
        text = content.decode()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), name
        assert len(text.splitlines()) <= 320, name
        if name.endswith(".js"):
            assert text.startswith("// ") and "innerHTML" not in text and "eval(" not in text, name


def test_the_export_is_one_file_that_holds_everything(tmp_path: Path) -> None:
    page = export(tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    assert "src=" not in text.split("<body>")[0]
    assert text.count("<script") == text.count("</script>") == 1
    assert "import {" not in text
    assert "connect-src 'none'" in text and "unsafe-inline" not in text
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert page.stat().st_size < 250e3  # it was 5 MB with a chart library; small enough to mail
    with pytest.raises(BadFile, match="cannot be written"):
        export(tmp_path / "nowhere" / "page.html")


def test_a_report_cannot_leave_its_block(tmp_path: Path) -> None:
    report = {"format": "eigenstep", "version": 1, "kind": "diagnosis", "sentence": HOSTILE, "ratio": float("nan")}
    text = export(tmp_path / "page.html", report, HOSTILE).read_text(encoding="utf-8")
    assert "alert(1)" in text and HOSTILE not in text and "<img src=x" not in text and "\u2028" not in text
    assert text.count("</script>") == 2
    (block,) = re.findall(r'<script type="application/json" id="report">(.*?)</script>', text, flags=re.DOTALL)
    content = json.loads(block)
    assert content["name"] == HOSTILE
    assert json.loads(content["text"]) == report | {"ratio": "nan"}


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def test_reports_are_read(tmp_path: Path) -> None:
    saved = tmp_path / "spectrum.json"
    es.Spectrum.from_eigenvalues([1.0, 3.0]).save(saved)
    assert read_report(saved) == read_envelope(saved, "spectrum")
    head = '{"format":"eigenstep","version":1,"kind":"monitor"}\n'
    log = write(tmp_path / "log.jsonl", head + '{"step":1,"loss":2.0}\n{"step":2,"loss":"nan"}\n{"step":3,"lo')
    assert read_report(log)["records"] == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": "nan"}]
    assert read_report(write(tmp_path / "short.jsonl", head))["kind"] == "monitor"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not whole JSON"),
        ("[1, 2]", "not a file of eigenstep"),
        ('{"format":"eigenstep","version":1,"kind":"spectrum","values":[1', "not whole JSON"),
        ('{"format":"eigenstep","version":2,"kind":"spectrum"}', "version 2"),
        ('{"format":"eigenstep","version":1,"kind":"race"}', "holds a 'race'"),
        ('{"format":"eigenstep","version":1,"kind":"monitor"}\n{"step":\n{"step":2}\n', "line 2 is not a record"),
        (
            '{"format":"eigenstep","version":1,"kind":"monitor"}\n{"step":"x"}\n',
            "line 2: 'step' must be a whole number",
        ),
        ('{"format":"eigenstep","version":1,"kind":"critical sharpness"}', "cannot be explored: .* give limit_now"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_reports_are_refused_with_a_sentence(tmp_path: Path, content: str, says: str) -> None:
    path = write(tmp_path / "bad.json", content)
    with pytest.raises(BadFile, match=says):
        read_report(path)
    result = CliRunner().invoke(main, ["explore", str(path), "--export", str(tmp_path / "page.html")])
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "page.html").exists()


def test_the_command_exports(tmp_path: Path) -> None:
    saved = write(tmp_path / "s.json", envelope("spectrum", es.Spectrum.from_eigenvalues([1.0, 3.0]).as_dict()))
    result = CliRunner().invoke(main, ["explore", str(saved), "--export", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    assert "page.html" in result.stdout
    assert 'id="report"' in (tmp_path / "page.html").read_text(encoding="utf-8")
    missing = CliRunner().invoke(main, ["explore", str(tmp_path / "no.json")])
    assert missing.exit_code == 2 and "cannot be read" in missing.stderr


def test_the_command_serves_until_interrupted() -> None:
    command = [sys.executable, "-c", "from eigenstep.cli import main; main()", "explore", "--no-browser"]
    running: Any = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = running.stdout.readline()
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1])  # type: ignore[index]
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("GET", "/")
            assert b"eigenstep explorer" in connection.getresponse().read()
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=20)
        assert running.returncode == 0 and "Traceback" not in errors
    finally:
        running.kill()
        running.communicate()


def test_ports_that_are_none_are_refused_by_name() -> None:
    for port in ("x", 1.5, True, -1, 65536, None):
        with pytest.raises(InvalidValue, match="port="):
            Server(port=port)  # type: ignore[arg-type]


def test_two_hundred_clients_at_once_are_all_served() -> None:
    with Server() as server:
        clients = [socket.socket() for _ in range(200)]
        try:
            for client in clients:
                client.settimeout(30)
                client.connect(("127.0.0.1", server.port))
            for client in clients:
                client.sendall(f"GET /page.css HTTP/1.0\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
            for client in clients:
                assert client.recv(15) == b"HTTP/1.1 200 OK"
        finally:
            for client in clients:
                client.close()
