"""A server on the loopback that speaks the part of the Hub's protocol that downloads need."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

Files = Mapping[str, bytes]


@dataclass
class Hub:
    """Repositories by name, each with the files of its revisions, and every file that was asked for."""

    repositories: dict[str, dict[str, Files]] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)  # status and error code, by repository
    fetched: list[str] = field(default_factory=list)
    cut: set[str] = field(default_factory=set)  # files of which the first answer ends in the middle
    url: str = ""

    def add(self, name: str, folder: Path, revision: str = "main", **more: bytes) -> None:
        files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        self.repositories.setdefault(name, {})[revision] = files | more

    def find(self, name: str, revision: str) -> tuple[str, Files] | None:
        """The commit and the files of a revision, which a commit's hash names too."""
        for known, files in self.repositories[name].items():
            commit = hashlib.sha1(f"{name}@{known}".encode()).hexdigest()
            if revision in (known, commit):
                return commit, files
        return None


class _Answers(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        parts = parts[2:] if is_api else parts
        name, revision, file = "/".join(parts[:2]), parts[3] if len(parts) > 3 else "main", "/".join(parts[4:])
        if name in self.hub.refused:
            status, code = self.hub.refused[name]
            return self.reply(status, {"X-Error-Code": code} if code else {}, b"no", with_body)
        if name not in self.hub.repositories:
            return self.reply(401, {"X-Error-Code": "RepoNotFound"}, b"no", with_body)
        found = self.hub.find(name, revision)
        if found is None:
            return self.reply(404, {"X-Error-Code": "RevisionNotFound"}, b"no", with_body)
        commit, files = found
        if is_api:
            siblings = [{"rfilename": path, "size": len(data)} for path, data in files.items()]
            body = json.dumps({"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []}).encode()
            return self.reply(200, {"Content-Type": "application/json"}, body, with_body)
        if file not in files:
            return self.reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b"no", with_body)
        if with_body:
            self.hub.fetched.append(file)
        etag = {"ETag": f'"{hashlib.sha256(files[file]).hexdigest()}"', "X-Repo-Commit": commit}
        if with_body and file in self.hub.cut:
            self.hub.cut.discard(file)
            return self.reply(200, etag, files[file], with_body, sent=len(files[file]) // 2)
        return self.reply(200, etag, files[file], with_body)

    def reply(
        self, status: int, headers: Mapping[str, str], body: bytes, with_body: bool, sent: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body[:sent])
        self.close_connection = self.close_connection or sent is not None

    def log_message(self, *words: object) -> None:
        """Print nothing."""


@contextmanager
def serve_hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
