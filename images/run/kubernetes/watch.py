"""A run as it goes on: one thread watches the pods, one follows each log, and the caller's decides when it has ended."""

import queue
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from entrypoints.errors import ExitCode
from entrypoints.output import say
from entrypoints.results.model import RESULT_SCHEMA
from images.run.kubernetes import pods
from images.run.kubernetes.api import ApiError, Cluster, Document, name_of
from images.run.kubernetes.pods import Pod, RunEnd

#: Logs followed live at once; a bigger job's other logs are read when a place is free.
_LIVE = 64
#: What no controller stands behind.
_PLAIN = ("Service", "Pod", "ConfigMap", "Secret", "PersistentVolumeClaim")
#: What a pod that holds after its work says last (LeaderWorkerSet and DaemonSet restart what ends).
_HOLDING = re.compile(r"epbox: (?:bench|doctor) ended with exit code ([0-9]{1,3}), holding")
_TIME = re.compile(r"([0-9-]{10}T[0-9:]{8})(?:\.[0-9]{1,9})?(Z|[+-][0-9:]{5})")


@dataclass(frozen=True)
class Pace:
    """Seconds. `grace`: for the other pods to end when one has failed; `poll`: between looks at events and controllers;
    `watch`: of one watch request; `retry`: before a torn stream is taken up again; `last`: for ended pods' logs to be read out."""

    grace: float = 20
    poll: float = 5
    watch: int = 300
    retry: float = 2
    last: float = 60


PACE = Pace()


class Position:
    """Where a log was read to. sinceTime counts whole seconds: a stream taken up repeats the lines of the last one, which are kept here."""

    def __init__(self) -> None:
        self.since = ""
        self._last_second: Counter[str] = Counter()
        self._repeated: Counter[str] = Counter()

    def resume(self) -> None:
        """A new stream begins at `since`."""
        self._repeated = self._last_second.copy()

    def take(self, line: str) -> str | None:
        """The line without its time; None when it was told before."""
        stamp, _, text = line.partition(" ")
        match = _TIME.fullmatch(stamp)
        if match is None:
            return line
        if self._repeated[line]:
            self._repeated[line] -= 1
            return None
        # stdout and stderr have clocks of their own: a line may be older than the one before it.
        if match[1] > self.since[:19]:
            self.since, self._last_second = match[1] + match[2], Counter()
        self._last_second[line] += 1
        return text


class Watch:
    """`pods` and `lines` (log by pod) are what is known so far."""

    def __init__(self, cluster: Cluster, made: Sequence[Document], selector: str, pace: Pace) -> None:
        self._cluster, self._made, self._selector, self._pace = cluster, made, selector, pace
        self._news: queue.Queue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.Queue()
        self._stopped = threading.Event()
        self._over: dict[str, threading.Event] = {}
        self._reading: dict[str, threading.Thread] = {}
        self._live = threading.Semaphore(_LIVE)
        self._said: set[str] = set()
        self._wanted = pods.expected(made)
        self.pods: dict[str, Pod] = {}
        self.lines: dict[str, list[str]] = {}

    def until_ended(self, timeout: float) -> RunEnd:
        """Follow until all pods have ended, or one has failed and its grace is over; how the run ended. Raises ApiError."""
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
                    ended = sum(pod.ended for pod in self.pods.values())
                    why = "; ".join(["", *(f"{labels}: {reason}" for reason, labels in pods.waiting(self.pods.values()).items())])
                    late = f"--timeout: {ended} of {self._wanted or len(self.pods)} pods ended in {timeout:g} s{why}"
                    return RunEnd(ExitCode.TIMEOUT.value, late)
        finally:
            self._finish()
        # What threads met in the last moments: a log that may not be read is no success.
        self._take(0)
        return pods.outcome(self.pods.values(), gave_up)

    def _all_ended(self, gave_up: str) -> bool:
        ended = sum(pod.ended for pod in self.pods.values())
        return ended == len(self.pods) and (bool(gave_up) or (self._wanted is not None and ended >= self._wanted))

    def _post(self, task: Callable[..., None], *arguments: Any) -> None:
        """From any thread: have the deciding one do it."""
        self._news.put((task, arguments))

    def _take(self, seconds: float) -> None:
        try:
            task, arguments = self._news.get(timeout=seconds)
            while True:
                task(*arguments)
                task, arguments = self._news.get_nowait()
        except queue.Empty:
            return

    def _watch(self) -> None:
        """List, then watch from there; from the list again when that is too long ago, from where it was when the stream tore."""
        version = ""
        while not self._stopped.is_set():
            try:
                if not version:
                    listed = self._cluster.pods(self._selector)
                    version = listed["metadata"].get("resourceVersion", "")
                    self._post(self._listed, listed["items"])
                for event in self._cluster.watch_pods(self._selector, version, self._pace.watch):
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self._post(self._seen, event["object"], event["type"] == "DELETED")
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

    def _listed(self, documents: Sequence[Document]) -> None:
        for name in self.pods.keys() - {document["metadata"]["name"] for document in documents}:
            self._deleted(name)
        for document in documents:
            self._seen(document, False)

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
            self._read_log(pod)
        except Exception as error:
            self._post(_raise, error)
        finally:
            self._live.release()

    def _read_log(self, pod: Pod) -> None:
        """Take each line until the log has ended after its pod, or the run is stopped. Raises ApiError when it may not be read."""
        position, over = Position(), self._over[pod.name]
        while not self._stopped.is_set():
            # What is over before a stream begins is whole in that stream.
            last = over.is_set()
            position.resume()
            try:
                for line in self._cluster.log(pod.name, pod.container, follow=not last, since=position.since):
                    text = position.take(line)
                    if text is not None:
                        self._line(pod, text)
                    if self._stopped.is_set():
                        return
            except ApiError as error:
                if error.status in (401, 403):
                    raise
                # Gone with its pod; anything else (torn, kubelet restarting, container not there yet) is tried again.
                if error.status == 404 or (last and error.status == 400):
                    return
                last = False
            if last:
                return
            over.wait(self._pace.retry)

    def _line(self, pod: Pod, line: str) -> None:
        self.lines[pod.name].append(line)
        # Results and a DaemonSet's documents are for the folder.
        if not line.startswith(f'{{"schema": "{RESULT_SCHEMA}"') and not (pod.rank is None and pod.container == "doctor"):
            sys.stderr.write(f"[{pod.label}] {line}\n")
            sys.stderr.flush()
        if held := _HOLDING.fullmatch(line):
            self._post(self._held, pod.name, int(held.group(1)))

    def _held(self, name: str, code: int) -> None:
        """Its work is done; the pod itself stays until it is deleted."""
        self.pods[name] = replace(self.pods[name], ended=True, exit_code=code, reason="Completed" if code == 0 else "Error")
        say(f"[{self.pods[name].label}] {self.pods[name].container} ended with exit code {code}")

    def _look(self) -> str:
        """Say, once each, why pods wait or do not come; return why a controller gave up, if one did."""
        for reason, labels in pods.waiting(self.pods.values()).items():
            self._once(f"waits: {labels}: {reason}", reason)
        if self._wanted is None or sum(pod.started or pod.ended for pod in self.pods.values()) < self._wanted:
            self._events()
        reasons = (self._gave_up(made) for made in self._made if made["kind"] not in _PLAIN)
        return next((reason for reason in reasons if reason), "")

    def _gave_up(self, made: Document) -> str:
        """The reason for which this controller makes no more pods; empty where it goes on."""
        name = name_of(made)
        try:
            now = self._cluster.get(made)
        except ApiError as error:
            return f"{name} was deleted" if error.status == 404 else ""
        if made["kind"] == "DaemonSet" and (now.get("status") or {}).get("observedGeneration"):
            self._wanted = int(now["status"].get("desiredNumberScheduled", 0))
            if not self._wanted:
                return f"{name}: no node of the cluster fits its node selector and tolerations"
        reason = pods.broken(now)
        return f"{name}: {reason}" if reason else ""

    def _events(self) -> None:
        try:
            events = self._cluster.warnings()
        except ApiError as error:
            self._once(f"no events: {error.what}")
            return
        names = tuple(made["metadata"]["name"] for made in self._made)
        begun = str(self._made[0]["metadata"].get("creationTimestamp") or "")
        for event in events:
            about = event.get("involvedObject") or {}
            subject, when = about.get("name", ""), event.get("lastTimestamp") or event.get("eventTime") or ""
            # Events outlive their objects: an earlier run of the same name may have left some. What the scheduler says stands in the pods.
            of_this_run = any(subject == name or subject.startswith(f"{name}-") for name in names) and when >= begun
            if of_this_run and event.get("reason") != "FailedScheduling":
                text = f"{event.get('reason', '')}: {event.get('message', '')}"
                self._once(f"{about.get('kind', '')} {subject}: {text}", text.replace(subject, ""))

    def _once(self, text: str, reason: str = "") -> None:
        """Say it, unless the same reason was told before: numbers and names' endings do not make it another."""
        key = re.sub(r"[0-9]+", "", reason or text)
        if key not in self._said:
            self._said.add(key)
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
