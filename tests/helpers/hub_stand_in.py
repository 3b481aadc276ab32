"""A small Hugging Face hub on 127.0.0.1: what huggingface_hub and datasets need of it to read.

    with HubStandIn(folder) as hub:      # folder/datasets/OWNER/NAME/... and folder/models/OWNER/NAME/...
        run(..., env={"HF_ENDPOINT": hub.url})

`gated` repositories answer only those who send `hub.key`; `faults` maps a repository to what ails its files."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)(/(?P<what>revision|tree|paths-info)/(?P<rest>.*))?$"
)
FILE = re.compile(r"/(?P<datasets>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/[^/]+/(?P<path>.+)$")


class HubStandIn(ThreadingHTTPServer):
    """Serves `folder` until the end of the `with` block. `requests` keeps (method, path, sent key) of each question."""

    key, key_without_access = "hf_the_right_key", "hf_not_accepted"
    daemon_threads = True

    def __init__(self, folder: Path, gated: tuple[str, ...] = (), faults: dict[str, str] | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.gated, self.faults, self.requests = folder, gated, faults or {}, []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())

    def log_message(self, *_):
        pass

    def answer(self, body: str = ""):
        hub, path = self.server, unquote(urlsplit(self.path).path)
        key = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        hub.requests.append((self.command, path, key))
        if match := API.match(path):
            kind, repo = match["kind"], match["repo"]
        elif match := FILE.match(path):
            kind, repo = "datasets" if match["datasets"] else "models", match["repo"]
        else:
            return self.refuse(404, "EntryNotFound")
        folder = hub.folder / kind / repo
        if key not in ("", hub.key, hub.key_without_access):
            return self.refuse(401, None, "Invalid credentials in Authorization header")
        if not folder.is_dir():  # the hub does not tell strangers whether a private repository exists
            return self.refuse(404 if key else 401, "RepoNotFound", "Repository not found")
        if match.re is API:
            return self.send_json(self.api(folder, repo, match["what"], match["rest"] or "", body))
        if repo in hub.gated and key != hub.key:
            return self.refuse(403 if key else 401, "GatedRepo", f"Access to {kind} {repo} is restricted")
        return self.send_file(folder / match["path"], hub.faults.get(repo))

    def api(self, folder: Path, repo: str, what: str | None, rest: str, body: str):
        if what == "tree":
            below = folder / rest.partition("/")[2]
            paths = below.rglob("*") if "recursive=true" in self.path.lower() else below.glob("*")
            return [self.entry(path, folder) for path in sorted(paths)] if below.is_dir() else None
        if what == "paths-info":
            wanted = re.findall(r"paths=([^&]+)", body) or json.loads(body or "{}").get("paths", [])
            wanted = [unquote(path) for path in wanted]
            return [self.entry(folder / p, folder) for p in wanted if (folder / p).exists()]
        siblings = [{"rfilename": p.relative_to(folder).as_posix()} for p in folder.rglob("*") if p.is_file()]
        gated = "auto" if repo in self.server.gated else False
        return dict(id=repo, sha=COMMIT, private=False, gated=gated, disabled=False, tags=[], downloads=0, likes=0,
                    lastModified="2024-01-01T00:00:00.000Z", siblings=siblings)  # fmt: skip

    def entry(self, path: Path, folder: Path) -> dict:
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            return dict(type="directory", path=name, oid=COMMIT, size=0)
        return dict(type="file", path=name, oid=_etag(path.read_bytes()), size=path.stat().st_size)

    def send_file(self, path: Path, fault: str | None):
        if not path.is_file():
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        content = path.read_bytes()
        data_file = path.suffix in (".parquet", ".safetensors", ".jsonl")
        length, cut = len(content), len(content) // 2
        if fault == "truncated" and data_file:  # the repository itself holds half a file
            content, length = content[:cut], cut
        if fault == "dropped" and data_file:  # half the bytes arrive, then the line goes dead
            content = content[:cut]
        start, status = 0, 200
        if wanted := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end, status = int(wanted[1]), int(wanted[2] or length - 1) + 1, 206
            content, total, length = content[start:end], length, min(end, length) - start
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{start + length - 1}/{total}")
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", f'"{_etag(path.read_bytes())}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
            self.close_connection = len(content) < length

    def send_json(self, value):
        if value is None:
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str | None, message: str = ""):
        content = json.dumps({"error": message}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if message:
            self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
