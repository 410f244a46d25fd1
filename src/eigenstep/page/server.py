"""The page on this machine alone: a fixed list of files over the standard library's HTTP server."""

import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from eigenstep.errors import BadFile, InvalidValue
from eigenstep.page.document import SERVED_POLICY, served_page, static_files

ADDRESS = "127.0.0.1"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}


class Server:
    """Serves the page, and nothing else, on 127.0.0.1 until closed; port 0 takes a free one.

    A request for another host's name is refused, so that no web page elsewhere can read the report through a name of
    its own (DNS rebinding). Paths are looked up in a table: no request reaches the file system.

    Raises BadFile when the port is taken, InvalidValue for one that is no port.

    >>> with Server() as server:
    ...     server.url.startswith("http://127.0.0.1:")
    True
    """

    def __init__(self, report: Mapping[str, Any] | None = None, name: str = "", *, port: int = 0) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
            raise InvalidValue(f"Server: port={port!r} must be a whole number from 0, a free one, to 65535")
        files = {f"/{file}": content for file, content in static_files().items()}
        files["/"] = files["/index.html"] = served_page(report, name)
        try:
            self._server = _Http((ADDRESS, port), files)
        except OSError as error:
            reason = error.strerror or error
            raise BadFile(f"port {port} cannot be used ({reason}); leave --port out to take a free one") from error
        self.port: int = self._server.server_address[1]
        self.url = f"http://{ADDRESS}:{self.port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Serve until interrupted."""
        while self._thread.is_alive():
            self._thread.join(0.5)

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "Server":
        """Return the running server."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024  # clients that come at once wait instead of being reset; the system caps it

    def __init__(self, address: tuple[str, int], files: Mapping[str, bytes]) -> None:
        super().__init__(address, _Handler)
        port = self.server_address[1]
        self.files, self.hosts = files, {f"{name}:{port}" for name in (ADDRESS, "localhost")}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that hangs up."""


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    server_version, sys_version = "eigenstep", ""
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        """Answer with a file of the table, or refuse."""
        if self.headers.get("Host") not in self.server.hosts:
            return self._answer(HTTPStatus.FORBIDDEN, b"Only this machine's own name is served.", ".txt")
        path = self.path.partition("?")[0]
        content = self.server.files.get(path)
        if content is None:
            return self._answer(HTTPStatus.NOT_FOUND, b"There is no such file.", ".txt")
        return self._answer(HTTPStatus.OK, content, ".html" if path == "/" else path[path.rindex(".") :])

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, status: HTTPStatus, content: bytes, ending: str) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": f"{_TYPES.get(ending, 'text/plain')}; charset=utf-8",
            "Content-Length": str(len(content)),
            "Content-Security-Policy": SERVED_POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the terminal quiet."""
