"""A Hub in memory that speaks the wire protocol of the real one, for the unmodified
`huggingface_hub` client.

Commits are atomic and have a parent; large files take the LFS way and are downloaded through a
redirect, as there. It counts what crosses the wire, and fails on demand: `hub.fail("PUT", "/lfs/",
503)`, `hub.fail("GET", "/cdn/", CUT)`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

CUT = 0
"""A fault: half of the body, then a closed connection."""
Tree = dict[str, bytes]


@dataclass
class Request:
    """A request: what was asked, how many bytes of body went each way, and what was answered."""

    method: str
    path: str
    status: int = 0
    received: int = 0
    sent: int = 0
    token: str | None = None


@dataclass
class Repository:
    """Branches that name commits, and commits that name files."""

    private: bool = False
    gated: bool = False
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Tree] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, ref: str, tree: Tree, message: str) -> str:
        sha = hashlib.sha1(f"{ref}{message}{len(self.commits)}{sorted(tree)}".encode()).hexdigest()
        self.commits[sha], self.refs[ref] = dict(tree), sha
        self.messages.append(message)
        return sha

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)

    def files(self, revision: str = "main") -> Tree:
        return self.commits[self.resolve(revision)]


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class HubServer:
    """The server; `with HubServer() as hub:` runs it. `anna` may write to `anna/…`, everybody may
    read what is open.
    """

    def __init__(self) -> None:
        self.users = {"hf_annas_token": "anna", "hf_bens_token": "ben"}
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.page_size = 1000
        self._faults: list[tuple[str, str, int, int]] = []
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self})
        )
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.elsewhere = (  # the host of large files
            f"http://localhost:{self._server.server_address[1]}"
        )

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def repository(
        self, name: str, files: dict[str, bytes] | None = None, **options: Any
    ) -> Repository:
        """Create a repository, with a first commit."""
        repository = self.repositories[name] = Repository(**options)
        repository.commit(
            "main",
            {".gitattributes": b"*.safetensors filter=lfs\n", **(files or {})},
            "initial commit",
        )
        return repository

    def fail(self, method: str, path: str, how: int, times: int = 1) -> None:
        """Answer the next requests whose path matches with a status, or cut the connection."""
        self._faults.append((method, path, how, times))

    def fault(self, method: str, path: str) -> int | None:
        with self._lock:
            for place, (kind, pattern, how, times) in enumerate(self._faults):
                if kind == method and re.search(pattern, path):
                    self._faults[place : place + 1] = (
                        [(kind, pattern, how, times - 1)] if times > 1 else []
                    )
                    return how
        return None

    def downloaded(self) -> dict[str, int]:
        """The files whose content was sent → bytes; large files by the path that leads there."""
        found: dict[str, int] = {}
        for request in self.requests:
            if (
                request.method == "GET"
                and request.sent
                and ("/resolve/" in request.path or "/cdn/" in request.path)
            ):
                name = request.path.split("?path=")[-1] if "/cdn/" in request.path else request.path
                name = unquote(re.sub(r".*/resolve/[^/]+/", "", name))
                found[name] = found.get(name, 0) + request.sent
        return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("GET")

    def do_HEAD(self) -> None:
        self._serve("HEAD")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def _serve(self, method: str) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.log = Request(method, self.path, token=token)
        self.hub.requests.append(self.log)
        self.url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(self.url.query).items()}
        how = self.hub.fault(method, self.path)
        self.cut = how == CUT
        try:
            self.body = self._receive()
            if how:
                raise Refused(how, "on demand")
            with self.hub._lock:
                self._route(method, unquote(self.url.path))
        except Refused as error:
            headers = {
                "X-Error-Message": error.message,
                **({"X-Error-Code": error.code} if error.code else {}),
            }
            self._answer({"error": error.message}, error.status, headers)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _receive(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        size = int(self.headers.get("Content-Length") or 0)
        if self.cut and size:
            self.log.received = len(self.rfile.read(size // 2))
            self._hang_up()
            raise ConnectionResetError
        body = self.rfile.read(size)
        self.log.received = len(body)
        return body

    def _hang_up(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(
        self, content: Any, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.log.status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.cut:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self._hang_up()
            return
        self.log.sent = len(body)
        self.wfile.write(body)

    # who may do what

    def _user(self) -> str | None:
        if self.log.token is None:
            return None
        if self.log.token not in self.hub.users:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.hub.users[self.log.token]

    def _find(
        self, name: str, *, write: bool = False, content: bool = False, pull_request: bool = False
    ) -> Repository:
        user, repository = self._user(), self.hub.repositories.get(name)
        owner = user == name.split("/")[0]
        if repository is None or (repository.private and not owner):
            raise Refused(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if content and repository.gated and not owner:
            raise Refused(
                401 if user is None else 403, f"Access to model {name} is restricted.", "GatedRepo"
            )
        if write and user is None:
            raise Refused(401, "Invalid username or password.")
        if write and not owner and not pull_request:
            raise Refused(403, "You don't have the rights to write to this repository")
        return repository

    def _commit_of(self, repository: Repository, revision: str) -> str:
        sha = repository.resolve(revision)
        if sha is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    # the routes

    def _route(self, method: str, path: str) -> None:
        for kinds, pattern, action in _ROUTES:
            if method in kinds and (match := re.fullmatch(pattern, path)):
                action(self, **match.groupdict())
                return
        raise Refused(404, f"no route {method} {path}")

    def whoami(self) -> None:
        user = self._user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        self._answer(
            {
                "type": "user",
                "name": user,
                "fullname": user,
                "orgs": [],
                "auth": {"type": "access_token"},
            }
        )

    def validate_yaml(self) -> None:
        content = json.loads(self.body)["content"]
        match = re.match(r"\ufeff?---\s*\n(.*?)\n---", content, re.DOTALL)
        errors = card_errors(yaml.safe_load(match[1])) if match else []
        self._answer(
            {"errors": [{"message": one} for one in errors], "warnings": []}, 400 if errors else 200
        )

    def create_repository(self) -> None:
        user, wanted = self._user(), json.loads(self.body)
        if user is None:
            raise Refused(401, "Invalid username or password.")
        owner = wanted.get("organization") or user
        name = f"{owner}/{wanted['name']}"
        if owner != user:
            raise Refused(403, "You don't have the rights to create a model under this namespace")
        found = {"url": f"{self.hub.endpoint}/{name}", "name": name, "id": "1"}
        if name in self.hub.repositories:
            self._answer({**found, "error": "You already created this model repo"}, 409)
            return
        private = bool(wanted.get("private") or wanted.get("visibility") == "private")
        self.hub.repository(name, private=private)
        self._answer(found)

    def info(self, name: str, revision: str = "main") -> None:
        repository = self._find(name)
        sha = self._commit_of(repository, revision)
        names = [{"rfilename": path} for path in sorted(repository.commits[sha])]
        answer = {
            "_id": "1",
            "id": name,
            "modelId": name,
            "sha": sha,
            "siblings": names,
            "tags": [],
        }
        access = {"private": repository.private, "gated": "auto" if repository.gated else False}
        self._answer({**answer, **access})

    def refs(self, name: str) -> None:
        repository = self._find(name)
        found = [
            {"name": one, "ref": f"refs/heads/{one}", "targetCommit": sha}
            for one, sha in repository.refs.items()
        ]
        self._answer({"branches": found, "converts": [], "tags": [], "pullRequests": []})

    def branch(self, name: str, revision: str) -> None:
        repository = self._find(name, write=True)
        if revision in repository.refs:
            raise Refused(409, "Reference already exists")
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        repository.refs[revision] = self._commit_of(repository, start)
        self._answer({})

    def tree(self, name: str, revision: str, folder: str | None = None) -> None:
        repository = self._find(name)
        files = repository.commits[self._commit_of(repository, revision)]
        inside = [path for path in sorted(files) if not folder or path.startswith(f"{folder}/")]
        if self.query.get("recursive", "").lower() not in ("true", "1"):
            inside = [path for path in inside if "/" not in path[len(folder or "") :].strip("/")]
        first = int(self.query.get("cursor", 0))
        page, rest = (
            inside[first : first + self.hub.page_size],
            len(inside) - first - self.hub.page_size,
        )
        query = (
            f"recursive={self.query.get('recursive', 'False')}&cursor={first + self.hub.page_size}"
        )
        link = (
            {"Link": f'<{self.hub.endpoint}{quote(self.url.path)}?{query}>; rel="next"'}
            if rest > 0
            else {}
        )
        self._answer([_entry(path, files[path]) for path in page], 200, link)

    def paths_info(self, name: str, revision: str) -> None:
        repository = self._find(name)
        files = repository.commits[self._commit_of(repository, revision)]
        asked = parse_qs(self.body.decode())["paths"]
        self._answer([_entry(path, files[path]) for path in asked if path in files])

    def preupload(self, name: str, revision: str) -> None:
        repository = self._find(name, write=True, pull_request="create_pr" in self.query)
        files = repository.commits[self._commit_of(repository, revision)]
        answers = []
        for one in json.loads(self.body)["files"]:
            path = one["path"]
            mode = "lfs" if _is_large(path, one["size"]) else "regular"
            oid = _oid(path, files[path]) if path in files else None
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._answer({"files": answers})

    def lfs_batch(self, name: str) -> None:
        self._find(name, write=True, pull_request=True)
        objects = []
        for one in json.loads(self.body)["objects"]:
            verify = {"href": f"{self.hub.endpoint}/{name}.git/info/lfs/verify"}
            upload = {"href": f"{self.hub.endpoint}/lfs/{one['oid']}"}
            objects.append(
                one
                if one["oid"] in self.hub.blobs
                else {**one, "actions": {"upload": upload, "verify": verify}}
            )
        self._answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "The content has another hash")
        self.hub.blobs[oid] = self.body
        self._answer(b"")

    def lfs_verify(self, name: str) -> None:
        wanted = json.loads(self.body)
        if len(self.hub.blobs.get(wanted["oid"], b"")) != wanted["size"]:
            raise Refused(404, "Object does not exist")
        self._answer({})

    def commit(self, name: str, revision: str) -> None:
        pull_request = "create_pr" in self.query
        repository = self._find(name, write=True, pull_request=pull_request)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        before = self._commit_of(repository, revision)
        if header.get("parentCommit") not in (None, before):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(repository.commits[before])
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    raise Refused(
                        400, f"LFS pointer pointed to a file that does not exist: {value['path']}"
                    )
                tree[value["path"]] = self.hub.blobs[value["oid"]]
            elif key == "deletedFile":
                if tree.pop(value["path"], None) is None:
                    raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            elif key == "deletedFolder":
                tree = {
                    path: data for path, data in tree.items() if not path.startswith(value["path"])
                }
        number = sum(ref.startswith("refs/pr/") for ref in repository.refs) + 1
        ref = f"refs/pr/{number}" if pull_request else revision
        sha = repository.commit(ref, tree, header["summary"])
        url = f"{self.hub.endpoint}/{name}/discussions/{number}"
        commit_url = f"{self.hub.endpoint}/{name}/commit/{sha}"
        answer = {"success": True, "commitOid": sha, "commitUrl": commit_url}
        self._answer({**answer, "pullRequestUrl": url if pull_request else None})

    def resolve(self, name: str, revision: str, path: str) -> None:
        repository = self._find(name, content=True)
        sha = self._commit_of(repository, revision)
        data = repository.commits[sha].get(path)
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if data is None:
            raise Refused(404, "Entry not found", "EntryNotFound")
        headers["ETag"] = f'"{_oid(path, data)}"'
        if _is_large(path, len(data)):
            oid = _oid(path, data)
            self.hub.blobs[oid] = data
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{oid}"'}
            location = f"{self.hub.elsewhere}/cdn/{oid}?path={quote(path)}"
            self._answer(b"", 302, {**headers, "Location": location})
        else:
            self._content(data, headers)

    def cdn(self, oid: str) -> None:
        self._content(self.hub.blobs[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def _content(self, data: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            self._answer(data, 200, headers)
            return
        first, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
        span = {"Content-Range": f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"}
        self._answer(data[first : last + 1], 206, {**headers, **span})


_NAME, _REVISION = r"(?P<name>[^/]+/[^/]+)", r"(?P<revision>refs/[^/]+/[^/]+|[^/]+)"
_ROUTES = (
    (("GET",), "/api/whoami-v2", _Handler.whoami),
    (("POST",), "/api/validate-yaml", _Handler.validate_yaml),
    (("POST",), "/api/repos/create", _Handler.create_repository),
    (("GET",), f"/api/models/{_NAME}", _Handler.info),
    (("GET",), f"/api/models/{_NAME}/revision/{_REVISION}", _Handler.info),
    (("GET",), f"/api/models/{_NAME}/refs", _Handler.refs),
    (("POST",), f"/api/models/{_NAME}/branch/{_REVISION}", _Handler.branch),
    (("GET",), f"/api/models/{_NAME}/tree/{_REVISION}(?:/(?P<folder>.*))?", _Handler.tree),
    (("POST",), f"/api/models/{_NAME}/paths-info/{_REVISION}", _Handler.paths_info),
    (("POST",), f"/api/models/{_NAME}/preupload/{_REVISION}", _Handler.preupload),
    (("POST",), f"/api/models/{_NAME}/commit/{_REVISION}", _Handler.commit),
    (("POST",), rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (("POST",), rf"/{_NAME}\.git/info/lfs/verify", _Handler.lfs_verify),
    (("PUT",), "/lfs/(?P<oid>[0-9a-f]+)", _Handler.lfs_put),
    (("GET", "HEAD"), f"/{_NAME}/resolve/{_REVISION}/(?P<path>.*)", _Handler.resolve),
    (("GET", "HEAD"), "/cdn/(?P<oid>[0-9a-f]+)", _Handler.cdn),
)


def card_errors(data: Any) -> list[str]:
    """What the Hub would refuse in the metadata of a model card."""
    if not isinstance(data, dict):
        return ["metadata must be an object"]
    languages = data.get("language") or []
    languages = [languages] if isinstance(languages, str) else languages
    errors = [
        f'"language" {one!r} is no ISO 639 code'
        for one in languages
        if not re.fullmatch("[a-z]{2,3}", str(one))
    ]
    for model in data.get("model-index") or []:
        if "name" not in model:
            errors.append('"model-index[0].name" is required')
        for result in model.get("results", []):
            errors += [
                f'"{part}.type" is required'
                for part in ("task", "dataset")
                if "type" not in result.get(part, {})
            ]
            errors += (
                ['"dataset.name" is required'] if "name" not in result.get("dataset", {}) else []
            )
            errors += ['"metrics" are required'] if not result.get("metrics") else []
            errors += [
                f"metric {one}"
                for one in result.get("metrics", [])
                if not {"type", "value"} <= one.keys()
            ]
    return errors


def _is_large(path: str, size: int) -> bool:
    return path.endswith((".safetensors", ".bin", ".png", ".pt", ".pth")) or size > 10_000_000


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _oid(path: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if _is_large(path, len(data)) else git_hash(data)


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
    if _is_large(path, len(data)):
        entry["lfs"] = {
            "oid": hashlib.sha256(data).hexdigest(),
            "size": len(data),
            "pointerSize": 134,
        }
    return entry
