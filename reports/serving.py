"""Serves the page of results folders on this machine alone, and renders it again when the results have changed.

An open page asks every few seconds for the version of the results, and loads itself again when there is a newer page. Nothing is
rendered while no page is open or nothing is new, and rendering takes at most a tenth of the time, so that a running study keeps
its processors.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.page import render
from pruneyard.reports.planned import plan_is_complete, read_plan
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study

HOST = "127.0.0.1"
_TABLES = ("runs", "metrics", "curves", "latency")
_DUTY = 0.1
_ENDED = {Status.COMPLETED, Status.PRUNED, Status.FAILED}
_LOG = logging.getLogger(__name__)


class LivePage:
    """The page of folders, rendered again when the files of results have changed."""

    def __init__(self, folders: Sequence[Location]) -> None:
        self._folders = [RunFolder(folder) for folder in folders]
        self._lock = threading.Lock()
        self._version = ""
        self._text = b""
        self._render_again_at = 0.0
        self._ended: tuple[str, bool] = ("", False)
        self.num_rendered = 0

    def current(self) -> tuple[str, bytes]:
        """Returns the version of the page and its text, rendered again if results are new and it is time for it."""
        with self._lock:
            version = self._newest()
            if version != self._version and time.monotonic() >= self._render_again_at:
                begun, cpu_s = time.monotonic(), time.thread_time()
                self._text = render(Study.read([folder.path for folder in self._folders]), live=version).encode()
                self._version = version
                self.num_rendered += 1
                # CPU time, since a busy machine may take long for little; the first page also imports what draws it.
                if self.num_rendered > 1:
                    self._render_again_at = begun + (time.thread_time() - cpu_s) / _DUTY
            return self._version, self._text

    def has_ended(self) -> bool:
        """Returns whether every planned run of every folder is completed, pruned or failed; False without a plan."""
        newest = self._newest()
        if newest != self._ended[0]:
            self._ended = (newest, self._read_whether_ended())
        return self._ended[1]

    def _read_whether_ended(self) -> bool:
        for folder in self._folders:
            planned = read_plan(folder)
            if planned is None or plan_is_complete(folder) is False:
                return False
            statuses = Store(folder).statuses()
            if any(key not in statuses or statuses[key][0] not in _ENDED for key in planned):
                return False
        return True

    @property
    def is_newest(self) -> bool:
        """True if the page has been rendered from the results as they are."""
        with self._lock:
            return self._newest() == self._version

    def _newest(self) -> str:
        """Returns a digest of the names of all result files, which never change under a name, and of the plans."""
        digest = hashlib.sha256()
        for folder in self._folders:
            for table in _TABLES:
                for path in folder.files_of_table(table):
                    digest.update(f"{path}\n".encode())
            digest.update(folder.plan.read_bytes() if folder.plan.is_file() else b"")
        return digest.hexdigest()[:16]


class PageServer:
    """An HTTP server on the loopback interface whose addresses begin with a secret token."""

    def __init__(self, page: LivePage, *, port: int = 0) -> None:
        """Listens at once. port: 0 takes any free one. Raises `OSError` where the port is taken."""
        self.token = secrets.token_urlsafe(16)
        self._page = page
        self._http = _Server((HOST, port), self)
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self._http.server_address[1]}/{self.token}/"

    def answer(self, path: str, host: str) -> tuple[str, bytes] | None:
        """Returns the content type and the content of a path; None without the token, or under another name of the host.

        A name that a foreign site made point to this machine is refused: pages of that site could read the answer.
        """
        token, _, name = path.partition("?")[0].removeprefix("/").partition("/")
        port = self._http.server_address[1]
        if not secrets.compare_digest(token.encode(), self.token.encode()) or host not in (f"{HOST}:{port}", f"localhost:{port}"):
            return None
        if name not in ("", "version"):
            return None
        version, text = self._page.current()
        if name == "":
            return "text/html; charset=utf-8", text
        told = {"version": version, "has_ended": self._page.has_ended()}
        return "application/json", json.dumps(told).encode()

    def close(self) -> None:
        """Stops listening."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], pages: PageServer) -> None:
        self.pages = pages
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        found = self.server.pages.answer(self.path, self.headers.get("Host", ""))
        if found is None:
            self.send_error(404)
            return
        kind, content = found
        self.send_response(200)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        _LOG.debug(format, *args)
