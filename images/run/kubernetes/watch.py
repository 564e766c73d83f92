"""A run as it goes on: one thread watches the pods, one follows each log, and the caller's decides when it has ended."""

import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from entrypoints.errors import TimedOut
from entrypoints.output import say

from . import pods
from .api import ApiError, Cluster, Document
from .logs import HOLDING, follow
from .pods import Pod

#: Logs followed live at once; a bigger job's other logs are read when a place is free.
_LIVE = 64
#: What no controller stands behind.
_PLAIN = ("Service", "Pod", "ConfigMap", "Secret", "PersistentVolumeClaim")


@dataclass(frozen=True)
class Pace:
    """Seconds. `grace`: for the other pods to end when one has failed; `poll`: between looks at events and controllers;
    `watch`: of one watch request; `retry`: before a torn stream is taken up again; `last`: for ended pods' logs to be read out."""

    grace: float = 20
    poll: float = 5
    watch: int = 300
    retry: float = 2
    last: float = 60


class Watch:
    """`pods` and `lines` (log by pod) are what is known so far."""

    def __init__(self, cluster: Cluster, made: Sequence[Document], selector: str, pace: Pace) -> None:
        self._cluster, self._made, self._selector, self._pace = cluster, made, selector, pace
        self._news: queue.Queue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.Queue()
        self._stopped = threading.Event()
        self._over: dict[str, threading.Event] = {}
        self._reading: dict[str, threading.Thread] = {}
        self._live = threading.Semaphore(_LIVE)
        self._told: set[str] = set()
        self._wanted = pods.expected(made)
        self.pods: dict[str, Pod] = {}
        self.lines: dict[str, list[str]] = {}

    def until_ended(self, timeout: float) -> tuple[int, str]:
        """Follow until all pods have ended, or one has failed and its grace is over; exit code and reason. Raises ApiError."""
        threading.Thread(target=self._watch, daemon=True).start()
        deadline = time.monotonic() + timeout
        looked, failed_at, gave_up = 0.0, 0.0, ""
        try:
            while not self._all_ended(gave_up):
                self._take(min(0.5, self._pace.poll))
                now = time.monotonic()
                if now - looked >= self._pace.poll:
                    gave_up, looked = self._look() or gave_up, time.monotonic()
                if not failed_at and any(pod.failed for pod in self.pods.values()):
                    failed_at = now
                if failed_at and now - failed_at > self._pace.grace:
                    break
                if now > deadline:
                    return TimedOut.exit_code, self._late(timeout)
        finally:
            self._finish()
        return pods.outcome(self.pods.values(), gave_up)

    def _all_ended(self, gave_up: str) -> bool:
        ended = sum(pod.ended for pod in self.pods.values())
        return ended == len(self.pods) and (bool(gave_up) or (self._wanted is not None and ended >= self._wanted))

    def _post(self, what: Callable[..., None], *arguments: Any) -> None:
        """From any thread: have the deciding one do it."""
        self._news.put((what, arguments))

    def _take(self, seconds: float) -> None:
        try:
            what, arguments = self._news.get(timeout=seconds)
            while True:
                what(*arguments)
                what, arguments = self._news.get_nowait()
        except queue.Empty:
            return

    def _watch(self) -> None:
        """List, then watch from there; from the list again when that is too long ago, from where it was when the stream tore."""
        version = ""
        while not self._stopped.is_set():
            try:
                if not version:
                    found, version = self._cluster.pods(self._selector)
                    self._post(self._listed, found)
                for kind, pod in self._cluster.watch_pods(self._selector, version, self._pace.watch):
                    version = pod["metadata"]["resourceVersion"]
                    if kind != "BOOKMARK":
                        self._post(self._seen, pod, kind == "DELETED")
            except ApiError as error:
                if error.status in (401, 403):
                    self._post(_raise, error)
                    return
                if error.status == 410:
                    version = ""
                elif not self._stopped.is_set():
                    self._post(self._once, f"{error}; trying again")
                self._stopped.wait(self._pace.retry)
            except Exception as error:
                # A thread that dies in silence would leave the run waiting for ever.
                self._post(_raise, error)
                return

    def _listed(self, found: Sequence[Document]) -> None:
        for name in self.pods.keys() - {each["metadata"]["name"] for each in found}:
            self._deleted(name)
        for each in found:
            self._seen(each, False)

    def _seen(self, document: Document, deleted: bool) -> None:
        pod = pods.view(document)
        before = self.pods.get(pod.name)
        if before is None or (not before.host and pod.host):
            say(f"[{pod.label}] {pod.name}{f' on {pod.host}' if pod.host else ' made'}")
        if before is None or not before.ended:
            self.pods[pod.name] = pod
            if (pod.started or (pod.ended and pod.finished)) and pod.name not in self._reading:
                self._read(pod)
            if pod.ended:
                self._ended(pod)
        if deleted:
            self._deleted(pod.name)

    def _ended(self, pod: Pod) -> None:
        if pod.name in self._over:
            self._over[pod.name].set()
        words = " ".join(pod.message.split())
        if pod.failed:
            say(f"[{pod.label}] {pod.container} failed: {pod.reason}, exit code {pod.exit_code}{f': {words[:300]}' if words else ''}")

    def _deleted(self, name: str) -> None:
        """By its controller or by somebody: it has ended, however that was."""
        pod = self.pods[name]
        if not pod.ended:
            self.pods[name] = replace(pod, ended=True, reason="Deleted", message="deleted before it had ended")
            self._ended(self.pods[name])

    def _read(self, pod: Pod) -> None:
        """Start to follow one pod's log."""
        self._over[pod.name], self.lines[pod.name] = threading.Event(), []
        self._reading[pod.name] = threading.Thread(target=self._follow, args=(pod,), daemon=True)
        self._reading[pod.name].start()

    def _follow(self, pod: Pod) -> None:
        while not self._live.acquire(timeout=0.5):
            if self._stopped.is_set():
                return
        try:
            tell = lambda line: self._line(pod, line)  # noqa: E731
            follow(self._cluster, pod.name, pod.container, tell, self._over[pod.name], self._stopped, self._pace.retry)
        except Exception as error:
            self._post(_raise, error)
        finally:
            self._live.release()

    def _line(self, pod: Pod, line: str) -> None:
        self.lines[pod.name].append(line)
        # Results and a DaemonSet's documents are for the folder.
        if not line.startswith('{"schema": "epbox.result/1"') and not (pod.rank is None and pod.container == "doctor"):
            sys.stderr.write(f"[{pod.label}] {line}\n")
            sys.stderr.flush()
        if held := HOLDING.fullmatch(line):
            self._post(self._held, pod.name, int(held.group(1)))

    def _held(self, name: str, code: int) -> None:
        """Its work is done; the pod itself stays until it is deleted."""
        self.pods[name] = replace(self.pods[name], ended=True, exit_code=code, reason="Completed" if code == 0 else "Error")
        say(f"[{self.pods[name].label}] {self.pods[name].container} ended with exit code {code}")

    def _look(self) -> str:
        """Say, once each, why pods wait or do not come; return why a controller gave up, if one did."""
        for reason, who in pods.waiting(self.pods.values()).items():
            self._once(f"waits: {who}: {reason}", reason)
        if self._wanted is None or sum(pod.started or pod.ended for pod in self.pods.values()) < self._wanted:
            self._events()
        for each in self._made:
            if each["kind"] in _PLAIN:
                continue
            try:
                now = self._cluster.get(each)
            except ApiError as error:
                if error.status == 404:
                    return f"{each['kind']} {each['metadata']['name']} was deleted"
                continue
            if each["kind"] == "DaemonSet" and (now.get("status") or {}).get("observedGeneration"):
                self._wanted = int(now["status"].get("desiredNumberScheduled", 0))
                if not self._wanted:
                    return f"DaemonSet {each['metadata']['name']}: no node of the cluster fits its node selector and tolerations"
            if why := pods.broken(now):
                return f"{each['kind']} {each['metadata']['name']}: {why}"
        return ""

    def _events(self) -> None:
        try:
            events = self._cluster.warnings()
        except ApiError as error:
            self._once(f"no events: {error.what}")
            return
        mine = tuple(each["metadata"]["name"] for each in self._made)
        begun = str(self._made[0]["metadata"].get("creationTimestamp") or "")
        for event in events:
            about = event.get("involvedObject") or {}
            name, when = about.get("name", ""), event.get("lastTimestamp") or event.get("eventTime") or ""
            # Events outlive their objects: an earlier run of the same name may have left some. What the scheduler says stands in the pods.
            ours = any(name == own or name.startswith(f"{own}-") for own in mine) and when >= begun
            if ours and event.get("reason") != "FailedScheduling":
                said = f"{event.get('reason', '')}: {event.get('message', '')}"
                self._once(f"{about.get('kind', '')} {name}: {said}", said.replace(name, ""))

    def _late(self, timeout: float) -> str:
        ended = sum(pod.ended for pod in self.pods.values())
        why = "; ".join(f"{who}: {reason}" for reason, who in pods.waiting(self.pods.values()).items())
        return f"--timeout: {ended} of {self._wanted or len(self.pods)} pods ended in {timeout:g} s{f'; {why}' if why else ''}"

    def _once(self, text: str, reason: str = "") -> None:
        """Say it, unless the same reason was told before: numbers and names' endings do not make it another."""
        key = re.sub(r"[0-9]+", "", reason or text)
        if key not in self._told:
            self._told.add(key)
            say(f"k8s.run: {' '.join(text.split())}")

    def _finish(self) -> None:
        """Let the logs of ended pods be read to their end, for a bounded time; stop the rest."""
        until = time.monotonic() + self._pace.last
        for name, thread in self._reading.items():
            if self._over[name].is_set():
                thread.join(max(0.0, until - time.monotonic()))
                if thread.is_alive():
                    say(f"k8s.run: the log of {self.pods[name].label} is not whole: not read within {self._pace.last:g} s")
        self._stopped.set()


def _raise(error: Exception) -> None:
    raise error
