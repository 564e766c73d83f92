"""The edge to a cluster: the official client's session for kubeconfig, TLS and log-in; plain JSON in and out; errors as one line."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import urllib3
import yaml

from entrypoints.errors import EngineError, UsageError

Document = dict[str, Any]
#: Seconds to connect and for an answer; streams say their own.
_TIMEOUT = (10.0, 60.0)
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_BROKEN = (urllib3.exceptions.HTTPError, OSError)


class ApiError(EngineError):
    """The API server refused, or was not reached (`status` 0). Exit 10."""

    def __init__(self, what: str, *, status: int, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what, where=where, hint=hint)
        self.status = status


class Cluster:
    """One namespace of one cluster, as one kubeconfig context sees it. Every method raises ApiError."""

    def __init__(self, client: Any, namespace: str, where: str) -> None:
        from kubernetes.dynamic import DynamicClient

        # Its request() is the client's one door for raw JSON; what it would discover, and cache in files, is not needed.
        self._client = DynamicClient(client, discoverer=lambda *_: None)  # type: ignore[no-untyped-call]
        self.namespace = namespace
        self.where = where
        self._plurals: dict[tuple[str, str], str] = {}

    def create(self, document: Document) -> Document:
        """Make an object; the server's version of it. A field that the server does not know is an error too (from 1.25 on)."""
        return self._json("POST", self.path(document), name_of(document), "create", document, fieldValidation="Strict")

    def get(self, made: Document) -> Document:
        """An object as it is now."""
        return self._json("GET", f"{self.path(made)}/{made['metadata']['name']}", name_of(made), "get")

    def delete(self, made: Document) -> None:
        """Delete this very object (not another of its name) and what belongs to it; nothing to do when it is gone."""
        meta = made["metadata"]
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background", "preconditions": {"uid": meta["uid"]}}
        try:
            self._json("DELETE", f"{self.path(made)}/{meta['name']}", name_of(made), "delete", body)
        except ApiError as error:
            # 409: the name belongs to another object by now.
            if error.status not in (404, 409):
                raise

    def pods(self, selector: str) -> Document:
        """The list of all pods with these labels: `items`, and `metadata` with the version to watch from."""
        return self._json("GET", self._core("pods"), "pods", "list", labelSelector=selector)

    def watch_pods(self, selector: str, version: str, seconds: int) -> Iterator[Document]:
        """Events as they happen, for so long: `type` is ADDED, MODIFIED, DELETED or BOOKMARK, `object` the pod (or its version alone).

        The error's status is 410 when the version is too old.
        """
        query = {"labelSelector": selector, "watch": "true", "timeoutSeconds": str(seconds), "allowWatchBookmarks": "true"}
        for line in self._lines(self._core("pods"), "pods", "watch", seconds + 30, resourceVersion=version, **query):
            try:
                event = json.loads(line)
            except ValueError:
                raise ApiError("the watch broke within an event", status=0, where=self.where) from None
            if event["type"] == "ERROR":
                status = event["object"]
                raise ApiError(status.get("message", "the watch ended"), status=status.get("code", 500), where=self.where)
            yield event

    def log(self, pod: str, container: str, *, follow: bool, since: str = "") -> Iterator[str]:
        """The container's lines, each with its time in front."""
        query = {"container": container, "timestamps": "true", "follow": str(follow).lower(), **({"sinceTime": since} if since else {})}
        return self._lines(f"{self._core('pods')}/{pod}/log", "pods/log", "get", 60, **query)

    def warnings(self) -> list[Document]:
        """The namespace's warning events, oldest first."""
        events = self._json("GET", self._core("events"), "events", "list", fieldSelector="type=Warning", limit="500")["items"]
        return sorted(events, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")

    def path(self, document: Document) -> str:
        """The collection's path for an object's kind; an error when the cluster has no such kind."""
        group, kind = document["apiVersion"], document["kind"]
        root = f"/api/{group}" if "/" not in group else f"/apis/{group}"
        if (group, kind) not in self._plurals:
            self._plurals[group, kind] = self._plural(root, group, kind)
        return f"{root}/namespaces/{document['metadata'].get('namespace') or self.namespace}/{self._plurals[group, kind]}"

    def _plural(self, root: str, group: str, kind: str) -> str:
        try:
            resources = self._json("GET", root, group, "discover")["resources"]
        except ApiError as error:
            if error.status != 404:
                raise
            resources = []
        for resource in resources:
            if resource["kind"] == kind and "/" not in resource["name"]:
                return str(resource["name"])
        hint = "install its operator, or take --kind job, which needs none"
        raise ApiError(f"the cluster has no {kind} ({group})", status=404, where=self.where, hint=hint)

    def _core(self, plural: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/{plural}"

    def _json(self, method: str, path: str, name: str, verb: str, body: Document | None = None, **query: str) -> Document:
        return dict(json.loads(self._request(method, path, name, verb, query, body=body).data))

    def _lines(self, path: str, name: str, verb: str, read_seconds: float, **query: str) -> Iterator[str]:
        """Lines of a stream as they come; the connection ends with the iteration. A torn stream is an error."""
        timeout = (_TIMEOUT[0], read_seconds)
        response = self._request("GET", path, name, verb, query, header_params={"Accept": "*/*"}, _request_timeout=timeout)
        try:
            for line in response:
                yield line.decode(errors="replace").removesuffix("\n")
        except _BROKEN as error:
            raise ApiError(f"the stream of {name} broke: {_innermost(error)}", status=0, where=self.where) from None
        finally:
            response.close()

    def _request(self, method: str, path: str, name: str, verb: str, query: Mapping[str, str], **parameters: Any) -> Any:
        from kubernetes.client.exceptions import ApiException

        parameters = {"query_params": list(query.items()), "_request_timeout": _TIMEOUT, **parameters}
        try:
            return self._client.request(method, path, serialize=False, **parameters)
        except ApiException as error:
            raise refusal(error.status or 0, error.body, verb, name, self.where) from None
        except _BROKEN as error:
            raise ApiError(f"the API server does not answer: {_innermost(error)}", status=0, where=self.where) from None


def name_of(document: Document) -> str:
    """`Job epbox`: an object's kind and name."""
    return f"{document['kind']} {document['metadata']['name']}"


def _innermost(error: Exception) -> str:
    """The last words of a chain like `HTTPSConnectionPool(…): Max retries … (Caused by …)`."""
    reason = getattr(error, "reason", None)
    return str(reason if isinstance(reason, Exception) else error).rpartition(": ")[2] or type(error).__name__


def refusal(status: int, body: Any, verb: str, name: str, where: str) -> ApiError:
    """An HTTP answer as the one line that says what to do. `body` is the server's Status object as text."""
    try:
        message = json.loads(body)["message"]
    except (TypeError, ValueError, KeyError):
        message = (body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")).strip()[:300] or f"HTTP {status}"
    lines = {
        401: (f"the cluster does not know you: {message}", "log in again, or name another --context"),
        403: (f"not allowed to {verb} {name}: {message}", "see `kubectl auth can-i --list`; docs/kubernetes.md names the rights needed"),
        404: (f"cannot {verb} {name}: {message}", None),
        409: (f"{name} exists already: {message}", "give another --name, or delete the old one"),
        422: (f"the cluster does not take {name}: {message}", None),
    }
    text, hint = lines.get(status, (f"cannot {verb} {name}: HTTP {status}: {message}", None))
    return ApiError(" ".join(text.split()), status=status, where=where, hint=hint)


def connect(kubeconfig: Path | None = None, context: str | None = None, namespace: str | None = None) -> Cluster:
    """The cluster that kubectl would talk to with the same options; inside a pod, the pod's own. Raises ApiError."""
    from kubernetes import client, config

    settings = client.Configuration()
    file = str(kubeconfig) if kubeconfig else None
    # The client's config module is untyped.
    loader: Any = config
    try:
        loader.load_kube_config(file, context, client_configuration=settings)
        contexts, active = loader.list_kube_config_contexts(file)
        name = context or active["name"]
        default = next((entry["context"].get("namespace") for entry in contexts if entry["name"] == name), None)
    except (config.ConfigException, OSError, TypeError, KeyError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        if kubeconfig and not kubeconfig.is_file():
            raise UsageError("no such file", where=f"--kubeconfig {kubeconfig}", hint="give the file that kubectl uses") from None
        if kubeconfig or context:
            raise ApiError(f"cannot be used: {reason}", status=0, where=str(kubeconfig or f"--context {context}")) from None
        try:
            loader.load_incluster_config(client_configuration=settings)
            default = _OWN_NAMESPACE.read_text(encoding="utf-8").strip()
        except (config.ConfigException, OSError):
            hint = "set KUBECONFIG, or give --kubeconfig FILE and perhaps --context NAME"
            raise ApiError(f"no kubeconfig: {reason}", status=0, hint=hint) from None
        name = "in-cluster"
    # A kubeconfig that says insecure-skip-tls-verify means it; a warning a request would drown the logs.
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    # A dead server is said at once; reading again is this program's own choice.
    settings.retries = urllib3.Retry(0)
    settings.connection_pool_maxsize = 128
    return Cluster(client.ApiClient(settings), namespace or default or "default", f"cluster {name} ({settings.host})")
