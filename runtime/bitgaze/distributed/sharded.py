"""ShardedGallery: galleries that Ray Serve keeps open on a cluster, searched as if they were one.

Replicas find candidates (replica.py); here they are started, asked, and their answers merged.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bitgaze.arguments import at_least, check_array
from bitgaze.distributed.cluster import connected, most_workers, node_cpus
from bitgaze.distributed.output import complete_manifest, gallery
from bitgaze.distributed.replica import Facts, Replica
from bitgaze.encoding.contract import DEFAULT_MODEL
from bitgaze.encoding.encoder import Encoder
from bitgaze.encoding.images import Box, Region, Source
from bitgaze.errors import ClusterError, FingerprintMismatch, PartialResult
from bitgaze.gallery.filters import conditions
from bitgaze.gallery.hits import Hit
from bitgaze.gallery.query import Query, code_inside
from bitgaze.gallery.search import SearchParams, as_source, encode_one
from bitgaze.gallery.shards import Candidates, merge

# How long one group is waited for before the others are looked at.
_TURN_S = 0.2
_PAUSE_S = 0.05
# In a message.
_MOST_LISTED = 5

Shards = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class ShardedHits(list[Hit]):
    """Hits: copies of the query, then the nearest.

    Attributes:
        missing: files of the shards that did not answer in time; empty unless that was allowed.
    """

    def __init__(self, hits: Sequence[Hit] = (), missing: Sequence[str] = ()) -> None:
        super().__init__(hits)
        self.missing = tuple(missing)


class Directory:
    """Knows which group of replicas holds which shards; the root of the Serve application."""

    def __init__(self, groups: dict[str, list[str]], *members: Any) -> None:
        self._groups = groups
        self._members = members  # so that they belong to the application

    def groups(self) -> dict[str, list[str]]:
        """Name of a deployment to the files of its shards, in order."""
        return self._groups


class ShardedGallery:
    """Galleries on a cluster that are searched as if all their items were in one.

    The shards are divided into groups of consecutive ones. A group's shards are in the memory of
    each of its replicas; a search asks one replica of each group and merges what they find. The
    hits are those of one gallery of all items, shard after shard: copies, then the others, by
    distance; of equal distances, the item of the earlier shard comes first, then the one in the
    lower slot. `Hit.same_image` is computed as there, too, except that no files are read: of a part
    of an image, such as a crop, it stays below .9, and so the part comes by its distance.

    Ray Serve starts a replica again that is lost, on another machine if need be. A search asks
    another one meanwhile, or waits. If a group has not answered within `timeout_s`, that raises
    PartialResult: an answer that may lack hits is never taken for a whole one.

    Other programs use a running service with `ShardedGallery.connect`. Thread-safe.

    Args:
        shards: a folder that `encode(..., shards_per_gallery=...)` has written, or gallery files in
            order. Each adds 0.2 ms to a search, so let them be large.
        name: of the service, one for each cluster.
        replicas: how many copies of each shard, on different machines. With 2, a machine can be
            lost without a pause.
        groups: into how many processes the shards are divided; by default one for each `replicas`
            machines.
        cpus: CPUs that Ray reserves for a replica. A search uses all cores of its machine.
        model: model file that encodes queries, here; by default the one of bitgaze.
        timeout_s: how long a search waits, in seconds, above 0.

    Raises:
        ClusterError: ray is not installed; there are no shards; a service of this name runs; the
            replicas do not fit on the cluster; or a replica cannot open its shards.
        FingerprintMismatch: the shards' codes are of different models, or are adapted.
        TypeError, ValueError: an argument is of the wrong type or out of range.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        name: str = "bitgaze",
        replicas: int = 1,
        groups: int | None = None,
        cpus: int = 1,
        model: str | os.PathLike[str] | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        _check_timeout(timeout_s)
        paths = _paths(shards)
        replicas, cpus = at_least(replicas, "replicas", 1), at_least(cpus, "cpus", 1)
        ray = connected()
        nodes = node_cpus(ray)
        if groups is None:
            groups = max(1, len(nodes) // replicas)
        groups = min(at_least(groups, "groups", 1), len(paths))
        _check_room(nodes, replicas, groups, cpus)
        serve = _serve()
        serve.start(proxy_location="Disabled")  # nothing listens for requests from outside
        if name in serve.status().applications:
            raise ClusterError(
                f"a service {name!r} runs already: use ShardedGallery.connect({name!r}), or "
                "another name"
            )
        divided = {
            f"group-{number}": [str(path) for path in some]
            for number, some in enumerate(np.array_split(np.array(paths, object), groups))
        }
        options: dict[str, Any] = {"max_replicas_per_node": 1} if replicas > 1 else {}
        members = [
            serve.deployment(
                Replica,
                name=group,
                num_replicas=replicas,
                ray_actor_options={"num_cpus": cpus},
                max_constructor_retry_count=2,
                **options,
            ).bind(some)
            for group, some in divided.items()
        ]
        root = serve.deployment(Directory, name="directory", ray_actor_options={"num_cpus": 0})
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        try:
            serve.run(
                root.bind(divided, *members), name=name, route_prefix=None, logging_config=quiet
            )
        except RuntimeError as error:
            serve.delete(name)
            raise ClusterError(f"the service {name!r} did not start: {error}") from error
        self._use(name, divided, model, timeout_s)
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    @classmethod
    def connect(
        cls,
        name: str = "bitgaze",
        *,
        model: str | os.PathLike[str] | None = None,
        timeout_s: float = 30.0,
    ) -> Self:
        """Use a service that another program has started on the cluster.

        Args:
            name: of the service.
            model: as for the class.
            timeout_s: as for the class.

        Raises:
            ClusterError: ray is not installed, or no service of this name runs.
            ValueError: `timeout_s` is out of range.
        """
        _check_timeout(timeout_s)
        connected()
        serve = _serve()
        running = sorted(serve.status().applications)
        if name not in running:
            names = f"services are {', '.join(running)}" if running else "there is none"
            raise ClusterError(f"no service {name!r} runs on the cluster; {names}")
        directory = serve.get_deployment_handle("directory", name)
        try:
            groups = directory.groups.remote().result(timeout_s=timeout_s)
        except (serve.exceptions.RayServeException, TimeoutError) as error:
            raise ClusterError(f"the service {name!r} does not answer: {error}") from error
        found = cls.__new__(cls)
        found._use(name, groups, model, timeout_s)
        found._check()
        return found

    def _use(
        self,
        name: str,
        groups: dict[str, list[str]],
        model: str | os.PathLike[str] | None,
        timeout_s: float,
    ) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self._groups = groups
        self._model = model
        self._encoder: Encoder | None = None
        serve = _serve()
        self._handles = {group: serve.get_deployment_handle(group, name) for group in groups}

    def _check(self) -> None:
        """Refuse shards that are not comparable."""
        facts = self._facts()
        first = facts[0]
        for one in facts[1:]:
            if one._replace(path="", items=0) != first._replace(path="", items=0):
                raise FingerprintMismatch(
                    f"{one.path}: its codes are not comparable with those of {first.path}: of "
                    "another model, length, number of looks or adaptation"
                )
        if first.adaptation is not None:
            raise FingerprintMismatch(
                f"{first.path}: is adapted to its images, which other shards cannot be; encode "
                "the images without"
            )
        self._first = first

    def __repr__(self) -> str:
        shards = sum(map(len, self._groups.values()))
        return f"ShardedGallery({self.name!r}, {shards} shards in {len(self._groups)} groups)"

    def __len__(self) -> int:
        """Number of items of all shards.

        Raises:
            PartialResult: a shard did not answer in time.
        """
        return sum(one.items for one in self._facts())

    @property
    def encoder(self) -> Encoder:
        """The model that encodes queries; loads it if that was not done yet.

        Raises:
            FingerprintMismatch: it is not the model of the shards.
            ModelError: it cannot be read.
        """
        if self._encoder is None:
            encoder = Encoder(DEFAULT_MODEL if self._model is None else self._model)
            if encoder.fingerprint != self._first.fingerprint:
                raise FingerprintMismatch(
                    f"{encoder.model.path}: is not the model of the shards, "
                    f"{self._first.model or 'which hold your own codes'}; pass its file as model"
                )
            self._encoder = encoder
        return self._encoder

    def query(self, image: Source, *, region: Box | None = None) -> Query:
        """Encode an image, here, for several searches; as `Gallery.query`."""
        source = as_source(image, region)
        looks = 0 if isinstance(source, Region) else self._first.looks
        encoder = self.encoder
        encoded = encode_one(lambda sources: encoder.encode(sources, looks=looks), source)
        return Query.of_image(source, encoded, inside=code_inside(source))

    def search(
        self,
        query: Source | Query,
        k: int = 10,
        *,
        radius: int | None = None,
        where: Mapping[str, Any] | None = None,
        region: Box | None = None,
        allow_partial: bool = False,
    ) -> ShardedHits:
        """Find copies of an image, and the items nearest to it; exact.

        Args:
            query: an image as `bitgaze.encoding.images.load` takes it, or what `query` returned. A
                str is a path.
            k: maximum number of hits, at least 1.
            radius: as for `Gallery.search`.
            where: as for `Gallery.search`.
            region: as for `Gallery.search`.
            allow_partial: return the hits of the shards that have answered in time, instead of
                PartialResult; `missing` of the result names the others.

        Returns:
            Copies, as `Gallery.search`, then the other hits; each by ascending distance, ties in
            the order of the shards, then of the slots.

        Raises:
            PartialResult: shards did not answer in time.
            FingerprintMismatch: the encoder is not the model of the shards, or the query is of an
                adapted gallery.
            WhereError: as for `Gallery.search`; of all shards.
            ValueError: as for `Gallery.search`; or `region` with what `query` returned.
            ImageError, TypeError: as for `Gallery.search`.
        """
        params = SearchParams(k, radius, conditions(where))
        if not isinstance(query, Query):
            query = self.query(query, region=region)
        elif region is not None:
            raise ValueError("pass the region to ShardedGallery.query: a Query is encoded already")
        answers: list[Candidates]
        answers, missing = self._ask("candidates", replace(query, image=None), params)
        hits = merge(answers, params)
        if missing and not allow_partial:
            raise PartialResult(self._lacks(missing), missing, hits)
        return ShardedHits(hits, missing)

    def search_code(
        self,
        code: NDArray[np.uint8],
        k: int = 10,
        *,
        radius: int | None = None,
        where: Mapping[str, Any] | None = None,
        allow_partial: bool = False,
    ) -> ShardedHits:
        """Find the items nearest to a code; like `search`.

        Args:
            code: uint8, (bits // 8,); or (views, bits // 8), all views of an image.
            k: as for `search`.
            radius: as for `search`.
            where: as for `search`.
            allow_partial: as for `search`.

        Raises:
            PartialResult, WhereError: as for `search`.
            TypeError, ValueError: as for `Gallery.search_code`.
        """
        check_array(code, "code")
        views = code if code.ndim == 2 else code[None]
        query = Query(views, (None,) * len(views))
        return self.search(query, k, radius=radius, where=where, allow_partial=allow_partial)

    def close(self) -> None:
        """End the service, for all programs that use it."""
        _serve().delete(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _facts(self) -> list[Facts]:
        answers: list[list[Facts]]
        answers, missing = self._ask("facts")
        if missing:
            raise PartialResult(self._lacks(missing), missing, [])
        return [one for answer in answers for one in answer]

    def _lacks(self, missing: list[str]) -> str:
        names = ", ".join(missing[:_MOST_LISTED]) + (", ..." if len(missing) > _MOST_LISTED else "")
        shards = sum(map(len, self._groups.values()))
        return (
            f"{len(missing)} of {shards} shards did not answer within {self.timeout_s:g} s: "
            f"{names}; try again, or pass allow_partial=True"
        )

    def _ask(self, method: str, *arguments: Any) -> tuple[list[Any], list[str]]:
        """Ask a replica of each group.

        Returns:
            The answers in the order of the groups, without those of groups that did not answer in
            time; and the shards of these.
        """
        from ray.exceptions import RayError, RayTaskError

        lost = (RayError, _serve().exceptions.RayServeException)
        deadline = time.monotonic() + self.timeout_s

        def send(group: str) -> Any:
            return getattr(self._handles[group], method).remote(*arguments)

        waiting = {group: send(group) for group in self._groups}
        answers: dict[str, Any] = {}
        while waiting and (left := deadline - time.monotonic()) > 0:
            for group in list(waiting):
                try:
                    answers[group] = waiting[group].result(timeout_s=min(left, _TURN_S))
                    del waiting[group]
                except TimeoutError:
                    continue
                except RayTaskError as error:  # of the gallery or the arguments
                    raise error.cause from None
                except lost:  # another replica answers, or this one once it is started again
                    time.sleep(_PAUSE_S)
                    waiting[group] = send(group)
        for response in waiting.values():
            response.cancel()
        missing = [path for group in waiting for path in self._groups[group]]
        return [answers[group] for group in self._groups if group in answers], missing


def _serve() -> Any:
    """The module ray.serve."""
    try:
        from ray import serve
    except ModuleNotFoundError as error:
        raise ClusterError(
            f"requires ray[serve], of which {error.name} is not installed: "
            "pip install 'bitgaze[ray]'"
        ) from error
    return serve


def _check_timeout(timeout_s: float) -> None:
    if not timeout_s > 0:
        raise ValueError(f"timeout_s is {timeout_s}, expected more than 0")


def _paths(shards: Shards) -> list[str]:
    """Absolute paths of the shards.

    Raises:
        ClusterError: there are none.
    """
    if not isinstance(shards, str | os.PathLike):
        paths = [os.path.abspath(path) for path in shards]  # noqa: PTH100 (links stay)
    elif Path(shards).is_dir():
        folder = Path(shards).absolute()
        manifest = complete_manifest(folder)
        if "shards_per_gallery" not in manifest:
            raise ClusterError(
                f"{folder}: has no galleries; encode again, with shards_per_gallery, to make them"
            )
        count = -(-manifest["shards"] // manifest["shards_per_gallery"])
        paths = [str(gallery(folder, number)) for number in range(count)]
        lacking = next((path for path in paths if not Path(path).exists()), None)
        if lacking is not None:
            raise ClusterError(f"{lacking}: no such gallery; encode again to make it")
    else:
        paths = [os.path.abspath(shards)]  # noqa: PTH100
    if not paths:
        raise ClusterError("no shards: the list is empty")
    return paths


def _check_room(nodes: list[int], replicas: int, groups: int, cpus: int) -> None:
    """Refuse replicas for which there is no place: Ray would wait for one for ever."""
    if replicas > len(nodes):
        raise ClusterError(
            f"{replicas} replicas of a shard require as many machines, and the cluster has "
            f"{len(nodes)} with CPUs"
        )
    room = most_workers(nodes, cpus)
    if replicas * groups > room:
        raise ClusterError(
            f"{groups} groups of {replicas} replicas with {cpus} CPUs each do not fit: the cluster "
            f"has room for {room}"
        )
