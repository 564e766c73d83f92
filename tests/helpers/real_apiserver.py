"""A real kube-apiserver and etcd of this test's own, and a stand-in kubelet: KUBEBUILDER_ASSETS names the folder of the binaries,
as for controllers' tests. Pods are assigned, run, logged and removed by the stand-in; all else is the API server's own doing."""

import json
import os
import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse
from urllib.request import Request, urlopen

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient

from tests.helpers.kube_server import Script

NODE = "gpu-node-1"


def assets() -> Path:
    """The folder with kube-apiserver and etcd."""
    folder = Path(os.environ.get("KUBEBUILDER_ASSETS", ""))
    missing = [name for name in ("kube-apiserver", "etcd") if not (folder / name).is_file()]
    assert not missing, f"KUBEBUILDER_ASSETS={folder}: no {' and no '.join(missing)} there"
    return folder


def free_ports(count: int) -> list[int]:
    taken = [socket.socket() for _ in range(count)]
    for each in taken:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in taken]
    for each in taken:
        each.close()
    return ports


class RealCluster:
    """`scripts` by the pod's number; tokens: `admin` may all, `poor` may nothing, `limited` what a test binds."""

    def __init__(self, folder: Path) -> None:
        binaries = assets()
        self.folder = folder
        self.scripts: dict[int, Script] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        peers, clients, secure = free_ports(3)
        key = folder / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        (folder / "tokens.csv").write_text('admin,admin,1,"system:masters"\npoor,poor,2\nlimited,limited,3\n')
        self._etcd = etcd = f"http://127.0.0.1:{clients}"
        peer = f"http://127.0.0.1:{peers}"
        self._start(binaries / "etcd", f"--data-dir={folder / 'etcd'}", f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
                    f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}")  # fmt: skip
        self._start(binaries / "kube-apiserver", f"--etcd-servers={etcd}", f"--secure-port={secure}", "--bind-address=127.0.0.1",
                    f"--cert-dir={folder / 'certs'}", "--service-cluster-ip-range=10.0.0.0/24", "--authorization-mode=RBAC",
                    "--service-account-issuer=https://localhost", f"--service-account-key-file={key}",
                    f"--service-account-signing-key-file={key}", f"--token-auth-file={folder / 'tokens.csv'}",
                    "--disable-admission-plugins=ServiceAccount", "--allow-privileged=true",
                    "--watch-cache=false",  # a cache would still know what etcd has forgotten
                    "--kubelet-preferred-address-types=InternalIP")  # fmt: skip
        self.url = f"https://127.0.0.1:{secure}"
        settings = client.Configuration(host=self.url, api_key={"authorization": "Bearer admin"})
        settings.api_key = {"authorization": "admin", "BearerToken": "admin"}
        settings.api_key_prefix = {"authorization": "Bearer", "BearerToken": "Bearer"}
        settings.verify_ssl = False
        self._api = DynamicClient(client.ApiClient(settings), discoverer=lambda *_: None)  # type: ignore[no-untyped-call]
        self._closing = threading.Event()
        self._wait_ready()
        self._logs: dict[str, list[tuple[str, str]]] = {}
        self._seen: dict[str, threading.Thread] = {}
        self.version = json.loads(self.request("GET", "/version").data)["gitVersion"]
        self._serve_logs()
        threading.Thread(target=self._kubelet, daemon=True).start()

    def _start(self, *command: object) -> None:
        with (self.folder / f"{Path(str(command[0])).name}.log").open("wb") as log:
            self._processes.append(subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, cwd=self.folder))

    def _wait_ready(self) -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            with suppress(Exception):
                self.request("GET", "/readyz")
                self.request("GET", "/api/v1/namespaces/default")
                return
            assert all(process.poll() is None for process in self._processes), (self.folder / "kube-apiserver.log").read_text()[-3000:]
            time.sleep(0.5)
        raise AssertionError("kube-apiserver is not ready after two minutes")

    def close(self) -> None:
        self._closing.set()
        for process in reversed(self._processes):
            process.kill()
            process.wait()

    def compact(self, revision: int) -> None:
        """Have etcd forget what is older, as it does every five minutes."""
        body = json.dumps({"revision": revision, "physical": True}).encode()
        with urlopen(Request(f"{self._etcd}/v3/kv/compaction", body, {"Content-Type": "application/json"}), timeout=10) as answer:
            assert answer.status == 200

    def request(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        return self._api.request(method, path, body=body, serialize=False, content_type=content_type)

    def kubeconfig(self, path: Path, token: str = "admin") -> Path:
        config: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "current-context": "real"}
        config["clusters"] = [{"name": "real", "cluster": {"server": self.url, "insecure-skip-tls-verify": True}}]
        config["users"] = [{"name": "me", "user": {"token": token}}]
        config["contexts"] = [{"name": "real", "context": {"cluster": "real", "user": "me"}}]
        path.write_text(json.dumps(config))
        return path

    def left(self) -> list[str]:
        found = []
        for path in ("/api/v1/namespaces/default/pods", "/api/v1/namespaces/default/services", "/apis/batch/v1/namespaces/default/jobs"):
            items = json.loads(self.request("GET", path).data)["items"]
            found += [f"{path.rpartition('/')[2]}/{each['metadata']['name']}" for each in items]
        return sorted(name for name in found if name != "services/kubernetes")

    # The kubelet.

    def _serve_logs(self) -> None:
        """/containerLogs as a kubelet has it, and the node that says where."""
        handler = type("Handler", (_Logs,), {"cluster": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.folder / "certs" / "apiserver.crt", self.folder / "certs" / "apiserver.key")
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.request("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        status: dict[str, Any] = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}
        status |= {"daemonEndpoints": {"kubeletEndpoint": {"Port": server.server_address[1]}}}
        self.request("PATCH", f"/api/v1/nodes/{NODE}/status", {"status": status}, "application/merge-patch+json")

    def _kubelet(self) -> None:
        while not self._closing.wait(0.1):
            with suppress(Exception):
                for pod in json.loads(self.request("GET", "/api/v1/namespaces/default/pods").data)["items"]:
                    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
                    if uid not in self._seen:
                        self._seen[uid] = threading.Thread(target=self._live, args=(name, uid, pod), daemon=True)
                        self._seen[uid].start()
                    if "deletionTimestamp" in pod["metadata"]:
                        self.request("DELETE", f"/api/v1/namespaces/default/pods/{name}", {"gracePeriodSeconds": 0})

    def _live(self, name: str, uid: str, pod: dict[str, Any]) -> None:
        script = self.scripts.get(int(name.rpartition("-")[2]), Script())
        path, main = f"/api/v1/namespaces/default/pods/{name}", pod["spec"]["containers"][0]
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": NODE}}
        with suppress(ApiException):
            self.request("POST", f"{path}/binding", binding)
            own = {"name": main["name"], "image": main["image"], "imageID": "", "restartCount": 0, "ready": True}
            log = self._logs[name] = []
            began = {"running": {"startedAt": _now()[:19] + "Z"}}
            self._status(path, {"phase": "Running", "containerStatuses": [{**own, "state": began}]})
            for line in script.lines:
                time.sleep(script.line_every)
                log.append((_now(), line))
            if script.exit_code is None:
                return
            reason = "Error" if script.exit_code else "Completed"
            ended = {"exitCode": script.exit_code, "reason": reason, "message": script.message, "finishedAt": _now()[:19] + "Z"}
            phase = "Failed" if script.exit_code else "Succeeded"
            log.append(("", ""))
            self._status(path, {"phase": phase, "containerStatuses": [{**own, "ready": False, "state": {"terminated": ended}}]})

    def _status(self, path: str, status: dict[str, Any]) -> None:
        self.request("PATCH", f"{path}/status", {"status": status}, "application/merge-patch+json")

    def log(self, pod: str) -> list[tuple[str, str]]:
        return self._logs.get(pod, [])


def _now() -> str:
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "") + "123Z"


class _Logs(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: RealCluster

    def log_message(self, format: str, *args: object) -> None:
        """Keep stderr for the test."""

    def do_GET(self) -> None:
        url = urlparse(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        pod = url.path.split("/")[3]
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = 0
        with suppress(OSError):
            while True:
                lines = self.cluster.log(pod)
                for stamp, text in lines[sent:]:
                    sent += 1
                    if stamp and stamp[:19] >= query.get("sinceTime", "")[:19]:
                        data = f"{stamp} {text}\n".encode() if query.get("timestamps") == "true" else f"{text}\n".encode()
                        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                        self.wfile.flush()
                if query.get("follow") != "true" or (lines and not lines[-1][0]):
                    break
                time.sleep(0.05)
            self.wfile.write(b"0\r\n\r\n")
