"""A Hugging Face hub on the loopback interface: enough of its HTTP API for the real
`huggingface_hub` and `transformers` clients.

    with Hub({"datasets/ai4bharat/sangraha": folder, "sarvamai/sarvam-1": other}) as hub:
        subprocess.run([...], env={**os.environ, **hub.environment(home)})

`HF_ENDPOINT` is read when the libraries are imported, so clients run in separate processes, or in
this one after `hub.take_over(monkeypatch)`. `hub.faults` makes it misbehave.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

COMMIT = "c0ffee" * 6 + "cafe"  # the newest revision, until a test says otherwise
API = re.compile(r"/api/(?P<kind>datasets|models)/(?P<repo>[^/]+/[^/]+)(?P<rest>(/.*)?)")
RESOLVE = re.compile(r"/(?P<repo>(datasets/)?[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@dataclass
class Fault:
    """A fault for `times` requests whose "METHOD /path bytes=first-last" matches `pattern`, after
    the first `spare` of them.

    The answer is an error status, a body that ends after `cut` bytes or stops being sent after
    `stall` bytes, a closed connection, or a late answer.
    """

    pattern: str
    times: int
    status: int | None = None
    cut: int | None = None
    stall: int | None = None
    hang_up: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    spare: int = 0
    every: int = 1  # only every so many of them
    delay: float = 0.0
    short: bool = False  # a whole answer without its last byte


@dataclass
class Hub:
    """A server. `repos` maps "OWNER/NAME" (a model) or "datasets/OWNER/NAME" to the folder that
    holds its files."""

    repos: dict[str, Path]
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  # "METHOD /path bytes=first-last" of each, in order
    commit: str = COMMIT
    earlier: dict[str, dict[str, Path]] = field(default_factory=dict)  # `repos` as they were at other commits
    headers: list[dict[str, str]] = field(default_factory=list)  # of each request
    strip: str = ""  # prefix of the addresses: "/prefix" of a mirror, or "http://host" if clients use this server as their proxy
    redirects: bool = False  # parquet files come from another host, as large files of the real hub do
    unlisted: frozenset[str] = frozenset()  # fields that the API of a mirror omits: "siblings", "sha", sizes ("size") of the siblings
    knows_ranges: bool = True
    gated: frozenset[str] = frozenset()  # repositories whose parquet files are refused, as if nobody had accepted the terms
    token: str = ""  # if set, any other token is refused
    cache: tempfile.TemporaryDirectory = field(default_factory=tempfile.TemporaryDirectory)  # of this process: not the user's

    def __enter__(self) -> Hub:
        ThreadingHTTPServer.handle_error = lambda *args: None  # clients that are killed
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.closing = threading.Event()
        self.lock = threading.Lock()
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exc_info) -> None:
        self.closing.set()  # ends stalled answers
        self.server.shutdown()
        self.server.server_close()
        self.cache.cleanup()

    def environment(self, home: Path) -> dict[str, str]:
        """Return the environment variables that make a client use this server as the hub, with its
        caches under `home`."""
        return {
            "HF_ENDPOINT": f"http://127.0.0.1:{self.port}{self.strip if self.strip.startswith('/') else ''}",
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def take_over(self, monkeypatch) -> None:
        """Apply `environment` to this process, which has read its settings already."""
        import datasets.config
        from huggingface_hub import HfFileSystem, constants
        from huggingface_hub.utils import close_session

        close_session()
        HfFileSystem.clear_instance_cache()
        endpoint = self.environment(Path())["HF_ENDPOINT"]
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
        monkeypatch.setattr(datasets.config, "HUB_DATASETS_URL", endpoint + "/datasets/{repo_id}/resolve/{revision}/{path}")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", self.cache.name)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", self.cache.name)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def fault_for(self, request: str) -> Fault | None:
        """Record a request and return its fault, if any, which is then used up."""
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    if fault.spare > 0:
                        fault.spare -= 1
                        continue
                    fault.spare = fault.every - 1
                    fault.times -= 1
                    return fault
        return None

    def files(self, repo: str, revision: str = "main") -> dict[str, Path] | None:
        """Return the files of a repository by their name in it, None if there is no such
        revision."""
        if revision not in ("main", self.commit, *self.earlier):
            return None
        folder = self.earlier.get(revision, self.repos)[repo]
        return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True  # else an answer waits 40 ms for the acknowledgement of its first packet
        commit = hub.commit
        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_GET(self) -> None:
            self.answer(b"")

        def do_HEAD(self) -> None:
            self.answer(b"")

        def do_POST(self) -> None:
            self.answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

        def log_message(self, *args) -> None:
            pass

        def answer(self, body: bytes) -> None:
            self.path = self.path.removeprefix(hub.strip)
            url = urlsplit(self.path)
            path = unquote(url.path)
            hub.headers.append({key.lower(): value for key, value in self.headers.items()})
            self.fault = hub.fault_for(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client has closed the connection
                if self.fault:
                    hub.closing.wait(self.fault.delay)
                sent = self.headers.get("Authorization", "")
                if self.fault and self.fault.hang_up:
                    self.close_connection = True
                elif hub.token and sent not in ("", f"Bearer {hub.token}"):
                    self.error(401, "", "Invalid credentials in Authorization header")
                elif (match := RESOLVE.fullmatch(path)) and match["repo"] in hub.gated and path.endswith(".parquet"):
                    name = match["repo"].removeprefix("datasets/")
                    if sent:
                        self.error(403, "GatedRepo", f"Access to dataset {name} is restricted and you are not in the authorized list")
                    else:
                        self.error(401, "GatedRepo", f"Access to dataset {name} is restricted. You must have access to it and be authenticated")
                elif self.fault and self.fault.status:
                    self.error(self.fault.status, "Fault")
                elif match := API.fullmatch(path):
                    repo = match["repo"] if match["kind"] == "models" else f"datasets/{match['repo']}"
                    self.api(repo, match["repo"], match["rest"], body)
                elif hub.redirects and path.endswith(".parquet") and "127.0.0.1" in self.headers["Host"]:
                    self.send(302, b"", {"Location": f"http://localhost:{hub.port}{self.path}"})
                elif (match := RESOLVE.fullmatch(path)) and match["repo"] in hub.repos:
                    self.commit = hub.commit if match["revision"] == "main" else match["revision"]
                    self.file((hub.files(match["repo"], match["revision"]) or {}).get(match["path"]))
                else:
                    self.error(404, "RepoNotFound")

        # ---- the API

        def api(self, repo: str, name: str, rest: str, body: bytes) -> None:
            if repo not in hub.repos:
                self.error(404, "RepoNotFound")
                return
            revision = re.fullmatch("/[^/]+/([^/]+).*", rest)
            revision = revision[1] if revision else "main"
            files = hub.files(repo, revision)
            if files is None:
                self.error(404, "RevisionNotFound")
                return
            self.commit = hub.commit if revision == "main" else revision
            if rest == "" or re.fullmatch("/revision/[^/]+", rest):
                with_sizes = "blobs=true" in urlsplit(self.path).query.lower()
                siblings = [
                    {"rfilename": file} | ({"size": path.stat().st_size, "blobId": oid(path)} if with_sizes else {}) for file, path in files.items()
                ]
                if "size" in hub.unlisted:
                    siblings = [{"rfilename": file} for file in files]
                answer = {"id": name, "sha": self.commit, "private": False, "gated": False, "disabled": False, "tags": [], "siblings": siblings}
                if "README.md" in files:
                    answer["cardData"] = yaml.safe_load(files["README.md"].read_text(encoding="utf-8").split("---\n")[1])
                self.json({key: value for key, value in answer.items() if key not in hub.unlisted})
            elif match := re.fullmatch("/tree/[^/]+(/(?P<folder>.*))?", rest):
                folder = (match["folder"] or "").strip("/")
                entries = list(tree(files, folder, recursive="recursive=true" in urlsplit(self.path).query.lower()))
                self.json(entries) if entries or not folder else self.error(404, "EntryNotFound")
            elif re.fullmatch("/paths-info/[^/]+", rest):
                wanted = json.loads(body) if body.startswith(b"{") else parse_qs(body.decode())
                everything = {entry["path"]: entry for entry in tree(files, "", recursive=True)}
                self.json([everything[path] for path in wanted["paths"] if path in everything])
            else:
                self.error(404, "EntryNotFound")

        # ---- files, whole or in ranges

        def file(self, path: Path | None) -> None:
            if path is None:
                self.error(404, "EntryNotFound")
                return
            first, last, status = 0, path.stat().st_size - 1, 200
            headers = {"ETag": f'"{oid(path)}"', "Accept-Ranges": "bytes"}
            if hub.knows_ranges and (asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
                first, last, status = int(asked[1]), min(int(asked[2] or last), last), 206
                if first > last:
                    self.error(416, "Range")
                    return
                headers["Content-Range"] = f"bytes {first}-{last}/{path.stat().st_size}"
            with open(path, "rb") as file:
                file.seek(first)
                content = file.read(last - first + 1)
            if self.fault and self.fault.short:
                content = content[:-1]
            self.send(status, content, {"Content-Type": "application/octet-stream", **headers})

        # ---- answers

        def json(self, value) -> None:
            self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def error(self, status: int, code: str, message: str = "") -> None:
            said = ({"X-Error-Code": code} if code else {}) | ({"X-Error-Message": message} if message else {})
            headers = {"Content-Type": "application/json", **said, **(self.fault.headers if self.fault else {})}
            self.send(status, json.dumps({"error": message or code}).encode(), headers)

        def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {
                **headers,
                "Content-Length": str(len(content)),
                "X-Repo-Commit": self.commit,
                "X-Request-Id": "loopback",
                "X-HF-Warning": "Loopback; set HF_TOKEN",
            }.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if self.fault and self.fault.cut is not None:
                content, self.close_connection = content[: self.fault.cut], True
            if self.fault and self.fault.stall is not None:
                self.wfile.write(content[: self.fault.stall])
                hub.closing.wait(60)
                self.close_connection = True
                return
            self.wfile.write(content)

    return Handler


def oid(path: Path) -> str:
    """Return a hash of a file's content, like the object ids of git and LFS."""
    return _digest(path, path.stat().st_mtime_ns)


@functools.cache
def _digest(path: Path, modified: int) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


def tree(files: dict[str, Path], folder: str, recursive: bool) -> Iterator[dict]:
    """Yield the entries of a folder of a repository, as the tree API lists them."""
    prefix = f"{folder}/" if folder else ""
    seen: set[str] = set()
    for name, path in files.items():
        if not name.startswith(prefix):
            continue
        parts = name.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            directory = prefix + "/".join(parts[:depth])
            if directory not in seen:
                seen.add(directory)
                yield {"type": "directory", "oid": hashlib.sha1(directory.encode(), usedforsecurity=False).hexdigest(), "size": 0, "path": directory}
        if recursive or len(parts) == 1:
            yield {"type": "file", "oid": oid(path), "size": path.stat().st_size, "path": name}


# ---- the content of the hub


def make_dataset(folder: Path, texts: list[list[str]], under: str, column: str = "text", rows_per_group: int = 20, **options) -> Path:
    """Write a parquet file in `under` of the repository for each list of `texts`.

    `options` are those of `pyarrow.parquet.write_table`.
    """
    import pyarrow
    import pyarrow.parquet

    (folder / under).mkdir(parents=True, exist_ok=True)
    for i, rows in enumerate(texts):
        columns = {"doc_id": [f"data-{i}-{row}" for row in range(len(rows))], column: rows, "type": ["web"] * len(rows)}
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / under / f"data-{i}.parquet", row_group_size=rows_per_group, **options)
    return folder


def make_sangraha(
    folder: Path, hindi: list[list[str]], other: Callable[[int], str] = "not Hindi {}".format, rows_per_group: int = 20, **options
) -> Path:
    """Write a repository laid out like `ai4bharat/sangraha`: a parquet file in verified/hin for
    each list of `hindi`, and other languages and subsets.

    `options` are those of `pyarrow.parquet.write_table`.
    """
    make_dataset(folder, hindi, "verified/hin", rows_per_group=rows_per_group, **options)
    for name in ("verified/asm", "verified/hin_extra", "unverified/hin", "synthetic/hin_Deva"):
        make_dataset(folder, [[other(i) for i in range(40)]], name, rows_per_group=rows_per_group, **options)
    card = ["---", "license: cc-by-4.0", "language: [as, hi]", "configs:"]
    for part in ("verified", "unverified"):
        card += [f"- config_name: {part}", "  data_files:"]
        card += [f"  - split: {code}\n    path: {part}/{code}/*.parquet" for code in ("asm", "hin")]
    (folder / "README.md").write_text("\n".join([*card, "---", "# Sangraha"]) + "\n", encoding="utf-8")
    return folder
