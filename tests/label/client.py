"""The calls that 3D Slicer's plugin of MONAI Label 0.8.5 makes, with what it sends."""

from __future__ import annotations

import email
import email.policy
import json
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus


class ServerError(AssertionError):
    """An answer other than 200."""


@dataclass(frozen=True)
class SlicerClient:
    """A client of one server.

    Attributes:
        address: ``http://127.0.0.1:8000``.
        seconds: that it waits for an answer.
    """

    address: str
    seconds: float = 300.0

    def info(self) -> dict[str, Any]:
        """What the server has: models, trainers, strategies, the store."""
        return dict(json.loads(self._ask("GET", "/info/")[0]))

    def next_sample(self, strategy: str) -> dict[str, Any]:
        """The image to label next, with its ``id`` and ``path``; empty where all are labelled."""
        return dict(
            json.loads(self._ask("POST", f"/activelearning/{strategy}", self._settings("strategies", strategy))[0])
        )

    def image(self, image: str) -> bytes:
        """The file of an image, as a client on another machine fetches it."""
        return self._ask("GET", f"/datastore/image?image={quote_plus(image)}")[0]

    def infer(self, model: str, image: str, output: str = "", **params: Any) -> tuple[bytes | None, dict[str, Any]]:
        """What a model says of an image.

        Args:
            model: of ``info``.
            image: its id.
            output: ``image``, ``json`` or ``all``; the plugin leaves it out, which means all.
            **params: in place of what the plugin sends: the first choice of each of the model's settings.

        Returns:
            The mask's file, if there is one, and the answer's numbers.
        """
        sent = {**self._settings("models", model), "result_extension": ".nrrd", **params}
        path = f"/infer/{quote_plus(model)}?image={quote_plus(image)}" + (f"&output={output}" if output else "")
        content, kind = self._send("POST", path, {"params": json.dumps(sent)})
        if kind.startswith("multipart/"):
            parts = {str(part.get_param("name", header="content-disposition")): part for part in _parts(content, kind)}
            return parts["image"].get_payload(decode=True), json.loads(parts["params"].get_payload(decode=True))
        return (None, json.loads(content)) if kind.startswith("application/json") else (content, {})

    def save_label(self, image: str, label: Path, labels: list[str]) -> dict[str, Any]:
        """Hand in a label map, whose values are 1, 2, ... in the order of the labels."""
        info = [{"name": name, "idx": n} for n, name in enumerate(labels, start=1)]
        fields = {"params": json.dumps({"label_info": info, "client_id": "test"})}
        return dict(json.loads(self._send("PUT", f"/datastore/label?image={quote_plus(image)}", fields, label)[0]))

    def train(self, model: str, **params: Any) -> dict[str, Any]:
        """Let a model learn from the saved labels, and wait until it has: its last status."""
        self._ask("POST", f"/train/{quote_plus(model)}", {**self._settings("trainers", model), **params})
        while (status := self.training())["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(1)
        return status

    def training(self) -> dict[str, Any]:
        """What the last training is doing."""
        return dict(json.loads(self._ask("GET", "/train/")[0]))

    def score(self, method: str) -> dict[str, Any]:
        """What a scoring method says, by image."""
        return dict(json.loads(self._ask("POST", f"/scoring/{quote_plus(method)}?run_sync=true", {})[0]))

    def logs(self, lines: int = 1000) -> str:
        """The end of the server's log."""
        return self._ask("GET", f"/logs/?lines={lines}&text=true")[0].decode()

    def _settings(self, section: str, name: str) -> dict[str, Any]:
        """The first choice of each setting, as the plugin's table has it."""
        config = self.info()[section][name].get("config", {})
        return {key: value[0] if isinstance(value, list) else value for key, value in config.items()}

    def _send(self, method: str, path: str, fields: dict[str, str], label: Path | None = None) -> tuple[bytes, str]:
        boundary = uuid.uuid4().hex
        parts = [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
        if label is not None:
            parts.append(f'name="label"; filename="{label.name}"\r\n\r\n'.encode() + label.read_bytes())
        start = f"--{boundary}\r\nContent-Disposition: form-data; ".encode()
        body = b"".join(start + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()
        return self._ask(method, path, body, f"multipart/form-data; boundary={boundary}")

    def _ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[bytes, str]:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {} if data is None else {"Content-Type": kind}
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        # Not through a proxy that the environment names: the server is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=self.seconds) as answer:
                return answer.read(), answer.headers.get("Content-Type", "")
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:500]
            raise ServerError(f"{method} {path}: {error.code} {said}") from error


def _parts(content: bytes, kind: str) -> list[Any]:
    head = f"Content-Type: {kind}\r\n\r\n".encode()
    return list(email.message_from_bytes(head + content, policy=email.policy.HTTP).iter_parts())
