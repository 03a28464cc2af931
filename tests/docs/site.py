"""The built site in a browser.

`python -m tests.docs.site FOLDER` takes screenshots of its pages.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.docs.pages import ROOT

BROWSER = next(
    (
        path
        for name in ("chromium", "google-chrome", "chromium-browser")
        if (path := shutil.which(name))
    ),
    None,
)
WIDTHS = {"wide": 1280, "phone": 390}
CHECK = ROOT / "tests" / "docs" / "site_check.html"


def build(folder: Path, root: Path = ROOT) -> Path:
    """Build the documentation of a tree as `make docs` does; a warning is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", ".mkdocs.yml"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    # mkdocstrings calls ruff, which is installed there.
    tools = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([tools, os.environ["PATH"]])
    done = subprocess.run(
        [*command, "--site-dir", str(folder)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return folder


def html(site: Path) -> list[str]:
    """The pages as paths from the root of the site, except the page for missing addresses."""
    return sorted(
        f"/{path.relative_to(site).as_posix()}"
        for path in site.rglob("*.html")
        if path.name != "404.html"
    )


class Served(SimpleHTTPRequestHandler):
    """Serves the site and the script that checks it, and receives the script's report."""

    def do_GET(self) -> None:
        special = {"/check.html": CHECK.read_bytes(), "/pages.json": self.server.pages}  # type: ignore[attr-defined]
        if self.path not in special:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header(
            "Content-Type", "text/html" if self.path.endswith("html") else "application/json"
        )
        self.end_headers()
        self.wfile.write(special[self.path])

    def do_POST(self) -> None:
        self.server.report = json.loads(self.rfile.read(int(self.headers["Content-Length"])))  # type: ignore[attr-defined]
        self.send_response(204)
        self.end_headers()
        self.server.done.set()  # type: ignore[attr-defined]

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


@contextmanager
def served(site: Path) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), partial(Served, directory=str(site)))
    server.pages = json.dumps({"pages": html(site), "widths": list(WIDTHS.values())}).encode()
    server.report, server.done = {}, threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def browse(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the browser without a window; no host name resolves, so it reaches only the site."""
    assert BROWSER is not None
    quiet = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={home / 'profile'}",
    ]
    quiet += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--enable-logging=stderr"]
    return subprocess.Popen(
        [BROWSER, *quiet, *arguments],
        env=os.environ | {"HOME": str(home)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def look(
    site: Path, home: Path, *, timeout: float = 250
) -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """Return the defects of each page at each width, and the lines of the console."""
    with served(site) as server:
        browser = browse(
            home, "--remote-debugging-port=0", f"http://127.0.0.1:{server.server_port}/check.html"
        )
        try:
            arrived = server.done.wait(timeout)
        finally:
            browser.terminate()
            _, log = browser.communicate(timeout=30)
        if not arrived:
            raise RuntimeError(f"The browser has sent no report. {log}")
        return server.report, [line for line in log.splitlines() if "CONSOLE" in line]


def pictures(site: Path, folder: Path, wanted: list[str]) -> None:
    """Take a screenshot of each page at each width."""
    with served(site) as server, tempfile.TemporaryDirectory() as home:
        for page in wanted:
            for name, width in WIDTHS.items():
                stem = (
                    page.strip("/").removesuffix("index.html").strip("/").replace("/", "_")
                    or "home"
                )
                frame = folder / f"{stem}_{name}.html"
                address = f"http://127.0.0.1:{server.server_port}{page}"
                # A window cannot be as narrow as a phone; a frame can.
                frame.write_text(
                    f'<body style="margin:0"><iframe src="{address}" width={width}'
                    " height=1600></iframe>"
                )
                size, output = (
                    f"--window-size={max(width, 500)},1620",
                    f"--screenshot={folder / f'{stem}_{name}.png'}",
                )
                browse(
                    Path(home), size, output, "--virtual-time-budget=4000", frame.as_uri()
                ).communicate(timeout=60)
                frame.unlink()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as built:
        site = build(Path(built) / "site")
        pictures(site, target, sys.argv[2:] or html(site))
