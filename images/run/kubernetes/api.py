"""The edge to a cluster: the official client's session for kubeconfig, TLS and log-in; plain JSON in and out; errors as one line."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from entrypoints.errors import EngineError, UsageError

Document = dict[str, Any]
#: Seconds to connect and for an answer; streams say their own.
_TIMEOUT = (10.0, 60.0)
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_VERBS = {"POST": "create", "GET": "get", "DELETE": "delete"}


class ApiError(EngineError):
    """The API server refused, or was not reached (`status` 0). Exit 10."""

    def __init__(self, what: str, *, status: int, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what, where=where, hint=hint)
        self.status = status


class Cluster:
    """One namespace of one cluster, as one kubeconfig context sees it."""

    def __init__(self, client: Any, namespace: str, where: str) -> None:
        from kubernetes.dynamic import DynamicClient

        # Its request() is the client's one door for raw JSON; what it would discover, and cache in files, is not needed.
        self._client = DynamicClient(client, discoverer=lambda *_: None)  # type: ignore[no-untyped-call]
        self.namespace = namespace
        self.where = where
        self._plurals: dict[tuple[str, str], str] = {}

    def create(self, document: Document) -> Document:
        """Make an object; the server's version of it. Raises ApiError, also for a field that the server does not know (from 1.25 on)."""
        what = f"{document['kind']} {document['metadata'].get('name', '')}"
        return self._json("POST", self.path(document), what, body=document, query={"fieldValidation": "Strict"})

    def get(self, made: Document) -> Document:
        return self._json("GET", f"{self.path(made)}/{made['metadata']['name']}", f"{made['kind']} {made['metadata']['name']}")

    def delete(self, made: Document) -> None:
        """Delete this very object (not another of its name) and what belongs to it; nothing to do when it is gone. Raises ApiError."""
        name, uid = made["metadata"]["name"], made["metadata"]["uid"]
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            self._json("DELETE", f"{self.path(made)}/{name}", f"{made['kind']} {name}", body=body)
        except ApiError as error:
            # 409: the name belongs to another object by now.
            if error.status not in (404, 409):
                raise

    def pods(self, selector: str) -> tuple[list[Document], str]:
        """All pods with these labels, and the version to watch from."""
        found = self._json("GET", self._core("pods"), "pods", verb="list", query={"labelSelector": selector})
        return found["items"], found["metadata"].get("resourceVersion", "")

    def watch_pods(self, selector: str, version: str, seconds: int) -> Iterator[tuple[str, Document]]:
        """(ADDED | MODIFIED | DELETED, pod) as they happen, for so long. Raises ApiError, with status 410 when the version is too old."""
        query = {"labelSelector": selector, "watch": "true", "timeoutSeconds": str(seconds), "allowWatchBookmarks": "true"}
        query["resourceVersion"] = version
        for line in self._lines(self._core("pods"), "pods", "watch", query, read_seconds=seconds + 30):
            try:
                event = json.loads(line)
            except ValueError:
                raise ApiError("the watch broke within an event", status=0, where=self.where) from None
            if event["type"] == "ERROR":
                status = event["object"]
                raise ApiError(status.get("message", "the watch ended"), status=status.get("code", 500), where=self.where)
            yield event["type"], event["object"]

    def log(self, pod: str, container: str, *, follow: bool, since: str = "", read_seconds: float = 60) -> Iterator[str]:
        """The container's lines, each with its time in front. Raises ApiError."""
        query = {"container": container, "timestamps": "true", "follow": str(follow).lower(), **({"sinceTime": since} if since else {})}
        return self._lines(f"{self._core('pods')}/{pod}/log", "pods/log", "get", query, read_seconds)

    def warnings(self) -> list[Document]:
        """The namespace's warning events, oldest first."""
        query = {"fieldSelector": "type=Warning", "limit": "500"}
        found = self._json("GET", self._core("events"), "events", verb="list", query=query)["items"]
        return sorted(found, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")

    def path(self, document: Mapping[str, Any]) -> str:
        """The collection's path for an object's kind. Raises ApiError when the cluster has no such kind."""
        group, kind = document["apiVersion"], document["kind"]
        root = f"/api/{group}" if "/" not in group else f"/apis/{group}"
        if (group, kind) not in self._plurals:
            try:
                offered = self._json("GET", root, group, verb="discover")["resources"]
            except ApiError as error:
                if error.status != 404:
                    raise
                offered = []
            plural = next((each["name"] for each in offered if each["kind"] == kind and "/" not in each["name"]), None)
            if plural is None:
                raise ApiError(
                    f"the cluster has no {kind} ({group})",
                    status=404,
                    where=self.where,
                    hint="install its operator, or take --kind job, which needs none",
                )
            self._plurals[group, kind] = plural
        namespace = document.get("metadata", {}).get("namespace") or self.namespace
        return f"{root}/namespaces/{namespace}/{self._plurals[group, kind]}"

    def _core(self, plural: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/{plural}"

    def _json(
        self, method: str, path: str, what: str, *, body: Document | None = None, query: Mapping[str, str] | None = None, verb: str = ""
    ) -> Document:
        response = self._request(method, path, what, verb or _VERBS[method], body=body, query_params=list((query or {}).items()))
        return dict(json.loads(response.data))

    def _lines(self, path: str, what: str, verb: str, query: Mapping[str, str], read_seconds: float) -> Iterator[str]:
        """Lines of a stream as they come; the connection ends with the iteration. Raises ApiError, also for a torn stream."""
        timeout = (_TIMEOUT[0], read_seconds)
        headers = {"Accept": "*/*"}
        response = self._request("GET", path, what, verb, query_params=list(query.items()), header_params=headers, _request_timeout=timeout)
        # A result can be one line of megabytes: its blocks are joined once.
        begun: list[bytes] = []
        try:
            for block in response.stream(amt=None, decode_content=False):
                first, *more = block.split(b"\n")
                begun.append(first)
                for each in more:
                    yield b"".join(begun).decode(errors="replace")
                    begun = [each]
            if any(begun):
                yield b"".join(begun).decode(errors="replace")
        except self._broken() as error:
            raise ApiError(f"the stream of {what} broke: {_short(error)}", status=0, where=self.where) from None
        finally:
            response.close()

    def _request(self, method: str, path: str, what: str, verb: str, **parameters: Any) -> Any:
        from kubernetes.client.exceptions import ApiException

        try:
            return self._client.request(method, path, serialize=False, **{"_request_timeout": _TIMEOUT, **parameters})
        except ApiException as error:
            raise refusal(error.status or 0, error.body, verb, what, self.where) from None
        except self._broken() as error:
            raise ApiError(f"the API server does not answer: {_short(error)}", status=0, where=self.where) from None

    @staticmethod
    def _broken() -> tuple[type[Exception], ...]:
        import urllib3

        return (urllib3.exceptions.HTTPError, OSError)


def _short(error: Exception) -> str:
    """The innermost words of a chain like `HTTPSConnectionPool(…): Max retries … (Caused by …)`."""
    reason = getattr(error, "reason", None)
    return str(reason if isinstance(reason, Exception) else error).rpartition(": ")[2] or type(error).__name__


def refusal(status: int, body: Any, verb: str, what: str, where: str) -> ApiError:
    """An HTTP answer as the one line that says what to do. `body` is the server's Status object as text."""
    try:
        said = json.loads(body)["message"]
    except (TypeError, ValueError, KeyError):
        said = (body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")).strip()[:300] or f"HTTP {status}"
    told = {
        401: (f"the cluster does not know you: {said}", "log in again, or name another --context"),
        403: (f"not allowed to {verb} {what}: {said}", "see `kubectl auth can-i --list`; docs/kubernetes.md names the rights needed"),
        404: (f"cannot {verb} {what}: {said}", None),
        409: (f"{what} exists already: {said}", "give another --name, or delete the old one"),
        422: (f"the cluster does not take {what}: {said}", None),
    }
    text, hint = told.get(status, (f"cannot {verb} {what}: HTTP {status}: {said}", None))
    return ApiError(" ".join(text.split()), status=status, where=where, hint=hint)


def connect(kubeconfig: Path | None = None, context: str | None = None, namespace: str | None = None) -> Cluster:
    """The cluster that kubectl would talk to with the same options; inside a pod, the pod's own. Raises ApiError."""
    import urllib3
    import yaml
    from kubernetes import client, config

    settings = client.Configuration()
    file = str(kubeconfig) if kubeconfig else None
    # The client's config module is untyped.
    loader: Any = config
    try:
        loader.load_kube_config(file, context, client_configuration=settings)
        every, active = loader.list_kube_config_contexts(file)
        chosen = context or active["name"]
        own = next((each["context"].get("namespace") for each in every if each["name"] == chosen), None)
    except (config.ConfigException, OSError, TypeError, KeyError, ValueError, yaml.YAMLError) as error:
        if kubeconfig or context:
            if kubeconfig and not kubeconfig.is_file():
                raise UsageError("no such file", where=f"--kubeconfig {kubeconfig}", hint="give the file that kubectl uses") from None
            what = f"cannot be used: {' '.join(str(error).split())}"
            raise ApiError(what, status=0, where=str(kubeconfig or f"--context {context}")) from None
        try:
            loader.load_incluster_config(client_configuration=settings)
            own = _OWN_NAMESPACE.read_text(encoding="utf-8").strip()
        except (config.ConfigException, OSError):
            hint = "set KUBECONFIG, or give --kubeconfig FILE and perhaps --context NAME"
            raise ApiError(f"no kubeconfig: {' '.join(str(error).split())}", status=0, hint=hint) from None
        chosen = "in-cluster"
    # A kubeconfig that says insecure-skip-tls-verify means it; a warning a request would drown the logs.
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    # A dead server is said at once; reading again is this program's own choice.
    settings.retries = urllib3.Retry(0)
    settings.connection_pool_maxsize = 128
    return Cluster(client.ApiClient(settings), namespace or own or "default", f"cluster {chosen} ({settings.host})")
