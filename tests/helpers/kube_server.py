"""An API server in this process that speaks the REST contract a Kubernetes client relies on, with controllers and kubelets behind it.

Written after the API reference ("API concepts": lists, watches, 410 Gone, Status objects; "DeleteOptions"; the log endpoint's
timestamps, sinceTime and follow). What it is sent is checked against the real schemas. It is no substitute for a real one:
tests/images/run/kubernetes/test_apiserver.py runs against that where its binaries are.
"""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import jsonschema

from tests.helpers.kube_pods import Pod, pods_of
from tests.helpers.kubernetes_schema import validate

TOKEN = "secret-of-the-test"
KINDS = {
    "v1": {"Service": "services", "Pod": "pods", "Event": "events", "ConfigMap": "configmaps", "Secret": "secrets"},
    "batch/v1": {"Job": "jobs"},
    "apps/v1": {"DaemonSet": "daemonsets"},
    "jobset.x-k8s.io/v1alpha2": {"JobSet": "jobsets"},
    "leaderworkerset.x-k8s.io/v1": {"LeaderWorkerSet": "leaderworkersets"},
    "kubeflow.org/v2beta1": {"MPIJob": "mpijobs"},
}


def always(kube: "KubeServer") -> bool:
    """A condition of scripts: nothing is waited for."""
    return True


def never(kube: "KubeServer") -> bool:
    """A condition of scripts: until the server is closed."""
    return False


@dataclass(frozen=True)
class Script:
    """What one pod does. Times in seconds. `made_when`: what must hold before a controller makes it, and `late`: how long after that;
    `waits` (REASON: MESSAGE): why it does not start, for ever where `waits_for` is 0; `ends_when`: what must hold before it ends;
    `tear_at`: its first log stream breaks within that line; `log_stops`: it ends there as if whole while the container runs on (a
    rotated log); `program`: started for the pod's document in place of lines and code; `exit_code` None: runs for ever."""

    lines: tuple[str, ...] = ("hello",)
    exit_code: int | None = 0
    message: str = ""
    reason: str = ""
    doctor_exit: int = 0
    made_when: "Callable[[KubeServer], bool]" = always
    late: float = 0
    line_every: float = 0.01
    waits: str = ""
    waits_for: float = 0
    ends_when: "Callable[[KubeServer], bool]" = always
    tear_at: int | None = None
    log_stops: int | None = None
    program: Callable[[dict[str, Any]], "subprocess.Popen[str]"] | None = None


@dataclass
class Container:
    lines: list[tuple[str, str]] = field(default_factory=list)
    state: str = "waiting"


class KubeServer:
    """`scripts` by node rank (None for all others); `deny` maps (verb, plural) to a status and its words; `lists_when` is what must hold
    before a list of pods is answered. What tests and scripts look at: `requests` as they came in, `watches` begun, `broken_logs` (pods).
    """

    def __init__(self, scripts: Mapping[int | None, Script] | None = None) -> None:
        self.scripts = scripts or {}
        self.deny: dict[tuple[str, str], tuple[int, str]] = {}
        self.lacks: set[str] = set()
        self.gone_watches = 0
        self.gpu_nodes = 2
        self.torn_watches = 0
        self.lost_answers: set[str] = set()
        self.lists_when: Callable[[KubeServer], bool] = always
        self.requests: list[tuple[str, str]] = []
        self.watches = 0
        self.broken_logs: set[str] = set()
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.history: list[tuple[int, str, dict[str, Any]]] = []
        self.changed = threading.Condition()
        self.version = 100
        self.closing = False
        self._logs: dict[tuple[str, str], Container] = {}
        handler = type("Handler", (_Handler,), {"kube": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self._http.shutdown()
        self._http.server_close()

    def kubeconfig(self, path: Path, namespace: str = "bench") -> Path:
        context = {"cluster": "test", "user": "me", "namespace": namespace}
        config: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "current-context": "test"}
        config |= {"clusters": [{"name": "test", "cluster": {"server": self.url}}]}
        config |= {"users": [{"name": "me", "user": {"token": TOKEN}}], "contexts": [{"name": "test", "context": context}]}
        path.write_text(json.dumps(config))
        return path

    def left(self) -> list[str]:
        """What stands in the cluster now."""
        with self.changed:
            return sorted(f"{plural}/{name}" for plural, name in self.objects)

    def phase(self, pod: str) -> str:
        """A pod's phase; empty where it is not made, or has no status yet."""
        with self.changed:
            return str(self.objects.get(("pods", pod), {}).get("status", {}).get("phase", ""))

    def wait_until(self, condition: "Callable[[KubeServer], bool]") -> bool:
        """False where the server is closed before the condition holds."""
        with self.changed:
            self.changed.wait_for(lambda: self.closing or condition(self))
            return not self.closing

    # The store. Callers hold `changed`.

    def put(self, plural: str, document: dict[str, Any], kind: str) -> dict[str, Any]:
        self.version += 1
        document = json.loads(json.dumps(document))
        document["metadata"]["resourceVersion"] = str(self.version)
        name = document["metadata"]["name"]
        if kind == "DELETED":
            self.objects.pop((plural, name), None)
        else:
            self.objects[plural, name] = document
        if plural == "pods":
            self.history.append((self.version, kind, document))
        self.changed.notify_all()
        return document

    def create(self, plural: str, document: dict[str, Any], owner: str = "") -> dict[str, Any]:
        meta = document["metadata"]
        made = {**meta, "uid": f"uid-{plural}-{meta['name']}-{self.version}", "creationTimestamp": _now()[:19] + "Z"}
        if owner:
            made["ownerReferences"] = [{"apiVersion": "v1", "kind": "Owner", "name": "owner", "uid": owner, "controller": True}]
        return self.put(plural, {**document, "metadata": made}, "ADDED")

    def remove(self, plural: str, name: str) -> None:
        """An object and, in the background, what belongs to it."""
        document = self.objects.get((plural, name))
        if document is None:
            return
        self.put(plural, document, "DELETED")
        uid = document["metadata"]["uid"]
        for key, other in list(self.objects.items()):
            if any(owner["uid"] == uid for owner in other["metadata"].get("ownerReferences", [])):
                self.put(key[0], other, "DELETED")

    # Controllers and kubelets.

    def control(self, document: dict[str, Any]) -> None:
        """Make an object's pods, and start a kubelet for each."""
        if document["kind"] == "Pod":
            threading.Thread(target=self._kubelet, args=(document["metadata"]["name"], self._script(0, document)), daemon=True).start()
            return
        pods = pods_of(document)
        for i, pod in enumerate(pods[: self.gpu_nodes] if document["kind"] == "DaemonSet" else pods):
            threading.Thread(target=self._late, args=(document, pod, self._script(i, document)), daemon=True).start()
        if document["kind"] == "DaemonSet":
            with self.changed:
                status = {"observedGeneration": 1, "desiredNumberScheduled": self.gpu_nodes}
                self.put("daemonsets", {**self.objects["daemonsets", document["metadata"]["name"]], "status": status}, "MODIFIED")

    def _script(self, rank: int, document: dict[str, Any]) -> Script:
        if document["kind"] == "Pod":
            rank = int(document["metadata"]["name"].rpartition("-")[2])
        return self.scripts.get(rank, self.scripts.get(None, Script()))

    def _late(self, owner: dict[str, Any], pod: Pod, script: Script) -> None:
        if not self.wait_until(script.made_when):
            return
        time.sleep(script.late)
        meta = {"name": pod.name, "namespace": owner["metadata"]["namespace"], "labels": pod.labels, "annotations": pod.annotations}
        with self.changed:
            if not any(each["metadata"]["uid"] == owner["metadata"]["uid"] for each in self.objects.values()):
                return
            self._logs = {key: log for key, log in self._logs.items() if key[0] != pod.name}
            self.create("pods", {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod.spec}, owner["metadata"]["uid"])
        self._kubelet(pod.name, script)

    def _kubelet(self, name: str, script: Script) -> None:
        main = self.objects["pods", name]["spec"]["containers"][0]["name"]
        if script.waits:
            reason, _, message = script.waits.partition(": ")
            if reason == "Unschedulable":
                self._status(name, conditions=[{"type": "PodScheduled", "status": "False", "reason": reason, "message": message}])
            else:
                state = {"waiting": {"reason": reason, "message": message}}
                self._status(name, containerStatuses=[{"name": main, "state": state, "restartCount": 0}])
            if not script.waits_for:
                return
            time.sleep(script.waits_for)
        spec = self.objects["pods", name]["spec"]
        if spec.get("initContainers") and script.doctor_exit:
            self._log(name, "doctor").lines.append((_now(), "FAIL  nic.present  no HCA is there"))
            self._log(name, "doctor").state = "terminated"
            ended = self._ended(script.doctor_exit, "Error", "no HCA is there")
            inits = [{"name": "doctor", "state": {"terminated": ended}, "restartCount": 0}]
            waits = [{"name": main, "state": {"waiting": {"reason": "PodInitializing"}}, "restartCount": 0}]
            self._status(name, phase="Failed", initContainerStatuses=inits, containerStatuses=waits)
            self._after_failure(name)
            return
        log = self._log(name, main)
        log.state = "running"
        self._status(name, phase="Running", containerStatuses=[{"name": main, "state": {"running": {}}, "restartCount": 0}])
        process = script.program(self.objects["pods", name]) if script.program else None
        for line in script.lines if process is None else (each.rstrip("\n") for each in process.stdout or ()):
            time.sleep(script.line_every)
            with self.changed:
                if ("pods", name) not in self.objects:
                    return
                log.lines.append((_now(), line))
                self.changed.notify_all()
        if process is not None:
            script = replace(script, exit_code=process.wait())
        if script.exit_code is None or not self.wait_until(script.ends_when):
            return
        log.state = "terminated"
        ended = self._ended(script.exit_code, script.reason or ("Completed" if script.exit_code == 0 else "Error"), script.message)
        phase = "Failed" if script.exit_code else "Succeeded"
        self._status(name, phase=phase, containerStatuses=[{"name": main, "state": {"terminated": ended}, "restartCount": 0}])
        if script.exit_code:
            self._after_failure(name)

    def _after_failure(self, name: str) -> None:
        """The Job controller with backoffLimit 0: the Job has failed, and its other pods are deleted."""
        with self.changed:
            pod = self.objects.get(("pods", name))
            owner = (pod or {"metadata": {}})["metadata"].get("ownerReferences", [{"uid": ""}])[0]["uid"]
            job = next((each for (plural, _), each in self.objects.items() if plural == "jobs" and each["metadata"]["uid"] == owner), None)
            if job is None:
                return
            said = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "Job has reached the backoff limit"}
            self.put("jobs", {**job, "status": {"conditions": [said]}}, "MODIFIED")
            for (plural, other), each in list(self.objects.items()):
                mine = any(ref["uid"] == owner for ref in each["metadata"].get("ownerReferences", []))
                if plural == "pods" and mine and each.get("status", {}).get("phase") not in ("Failed", "Succeeded"):
                    self.put("pods", self.objects[plural, other], "DELETED")

    @staticmethod
    def _ended(code: int, reason: str, message: str) -> dict[str, Any]:
        return {"exitCode": code, "reason": reason, "message": message, "finishedAt": _now()[:19] + "Z"}

    def _log(self, pod: str, container: str) -> Container:
        return self._logs.setdefault((pod, container), Container())

    def _status(self, name: str, **status: Any) -> None:
        with self.changed:
            pod = self.objects.get(("pods", name))
            if pod is None:
                return
            running = status.get("phase", "Pending") != "Pending"
            spec = {**pod["spec"], **({"nodeName": f"gpu-{name}"} if running else {})}
            self.put("pods", {**pod, "spec": spec, "status": {"phase": "Pending", **status}}, "MODIFIED")

    def _broken(self, pod: str) -> None:
        with self.changed:
            self.broken_logs.add(pod)
            self.changed.notify_all()

    def log_lines(self, pod: str, container: str, since: str, follow: bool) -> Iterator[str | None]:
        """Lines with their times; None where the stream breaks."""
        log = self._log(pod, container)
        rank = next((i for i, script in self.scripts.items() if i is not None and f"-{i}-" in f"{pod}-"), None)
        script = self.scripts.get(rank, self.scripts.get(None, Script()))
        sent = 0
        while True:
            with self.changed:
                fresh, state = log.lines[sent:], log.state
                if not fresh:
                    if not follow or state == "terminated" or self.closing or ("pods", pod) not in self.objects:
                        return
                    self.changed.wait(0.2)
                    continue
            for stamp, text in fresh:
                sent += 1
                if since and stamp[:19] < since[:19]:
                    continue
                first = pod not in self.broken_logs and follow
                if first and script.tear_at is not None and sent > script.tear_at:
                    self._broken(pod)
                    yield None
                if first and script.log_stops is not None and sent > script.log_stops:
                    self._broken(pod)
                    return
                yield f"{stamp} {text}\n"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "") + "123Z"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is two writes, and the second would wait for the client's delayed acknowledgement
    kube: KubeServer

    def log_message(self, format: str, *args: object) -> None:
        """Keep stderr for the test."""

    def do_GET(self) -> None:
        self._route("GET")

    def do_POST(self) -> None:
        self._route("POST")

    def do_DELETE(self) -> None:
        self._route("DELETE")

    def _route(self, method: str) -> None:
        url = urlparse(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        with self.kube.changed:
            self.kube.requests.append((method, self.path))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "Unauthorized")
        parts = url.path.strip("/").split("/")
        group, rest = ("v1", parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
        if group not in KINDS or group in self.kube.lacks:
            return self._refuse(404, "the server could not find the requested resource")
        if not rest:
            resources = [{"name": plural, "kind": kind, "namespaced": True} for kind, plural in KINDS[group].items()]
            return self._answer(200, {"kind": "APIResourceList", "groupVersion": group, "resources": resources})
        namespace, plural, *names = rest[1:]
        verb = {"POST": "create", "DELETE": "delete"}.get(method) or ("get" if names else "watch" if "watch" in query else "list")
        denied = self.kube.deny.get((verb, plural if len(names) < 2 else f"{plural}/{names[1]}"))
        if denied:
            return self._refuse(*denied)
        if namespace not in ("bench", "default"):
            return self._refuse(404, f'namespaces "{namespace}" not found')
        if method == "POST":
            assert query["fieldValidation"] == "Strict"
            return self._create(group, plural, body)
        if names[1:] == ["log"]:
            return self._send_log(names[0], query)
        if not names:
            return self._list(plural, query)
        with self.kube.changed:
            found = self.kube.objects.get((plural, names[0]))
            if found is None:
                return self._refuse(404, f'{plural} "{names[0]}" not found')
            if method == "DELETE":
                if body.get("preconditions", {}).get("uid") not in (None, found["metadata"]["uid"]):
                    return self._refuse(409, "the UID in the precondition does not match")
                assert body["propagationPolicy"] in ("Background", "Foreground"), "a Job's default would orphan its pods"
                self.kube.remove(plural, names[0])
            return self._answer(200, found)

    def _create(self, group: str, plural: str, body: dict[str, Any]) -> None:
        try:
            assert KINDS[group][body["kind"]] == plural
            validate(body, ("1.37",))
        except jsonschema.ValidationError as error:
            return self._refuse(422, f"{body['kind']} is invalid: {error.message[:200]}")
        name = body["metadata"]["name"]
        with self.kube.changed:
            if (plural, name) in self.kube.objects:
                return self._refuse(409, f'{plural}.{group.partition("/")[0]} "{name}" already exists')
            made = self.kube.create(plural, body)
        if plural in self.kube.lost_answers:
            return self._tear()
        self._answer(201, made)
        self.kube.control(made)

    def _list(self, plural: str, query: Mapping[str, str]) -> None:
        if plural == "events":
            return self._answer(200, {"kind": "EventList", "metadata": {"resourceVersion": "1"}, "items": self.kube.events})
        wanted = dict(pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair)
        if query.get("watch"):
            return self._watch(wanted, int(query["resourceVersion"]), float(query["timeoutSeconds"]))
        if plural == "pods":
            self.kube.wait_until(self.kube.lists_when)
        with self.kube.changed:
            items = [each for (kind, _), each in self.kube.objects.items() if kind == plural and _has(each, wanted)]
            meta = {"resourceVersion": str(self.kube.version)}
        self._answer(200, {"kind": "List", "metadata": meta, "items": items})

    def _watch(self, wanted: Mapping[str, str], version: int, seconds: float) -> None:
        self._start_stream("application/json")
        with self.kube.changed:
            self.kube.watches += 1
            self.kube.changed.notify_all()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with self.kube.changed:
                fresh = [each for each in self.kube.history if each[0] > version]
                if not fresh:
                    if self.kube.closing:
                        break
                    self.kube.changed.wait(0.2)
                    continue
                gone = self.kube.gone_watches > 0
                torn = self.kube.torn_watches > 0
                self.kube.gone_watches -= gone
                self.kube.torn_watches -= torn
            for number, kind, document in fresh[: 1 if gone or torn else None]:
                version = number
                if _has(document, wanted):
                    self._chunk(json.dumps({"type": kind, "object": document}) + "\n")
            if gone:
                status = {"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old resource version"}
                self._chunk(json.dumps({"type": "ERROR", "object": status}) + "\n")
                break
            if torn:
                self._chunk('{"type": "MODIF')
                return self._tear()
        self._chunk("")

    def _send_log(self, pod: str, query: Mapping[str, str]) -> None:
        container = query["container"]
        with self.kube.changed:
            if ("pods", pod) not in self.kube.objects:
                return self._refuse(404, f'pods "{pod}" not found')
            if self.kube._log(pod, container).state == "waiting":
                return self._refuse(400, f'container "{container}" in pod "{pod}" is waiting to start: PodInitializing')
        assert query["timestamps"] == "true"
        self._start_stream("text/plain")
        for line in self.kube.log_lines(pod, container, query.get("sinceTime", ""), query["follow"] == "true"):
            if line is None:
                self._chunk("2026-11-24T10:00:0")
                return self._tear()
            self._chunk(line)
        self._chunk("")

    def _start_stream(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, text: str) -> None:
        data = text.encode()
        try:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()
        except OSError:
            self.close_connection = True

    def _tear(self) -> None:
        """End the connection within a stream."""
        self.close_connection = True
        self.connection.shutdown(2)

    def _answer(self, status: int, document: Mapping[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, message: str) -> None:
        self._answer(status, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": status})


def _has(document: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    return wanted.items() <= (document["metadata"].get("labels") or {}).items()
