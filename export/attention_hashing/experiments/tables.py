"""Tables from the rows of a comparison: means, deviations, and significant differences."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attention_hashing.data.protocols import OF_SEVERAL_LABELS
from attention_hashing.evaluation.bootstrap import Difference, paired_bootstrap
from attention_hashing.experiments.comparison import BASELINES, LOOKS
from attention_hashing.experiments.run_log import Row
from attention_hashing.methods import DEFAULT, default


def _own(protocol: str) -> str:
    """The default loss, which is compared with the branch.

    The other methods are compared as published, without it (comparison.FORMS).
    """
    return default(several_labels=protocol.startswith(OF_SEVERAL_LABELS))


class Table(NamedTuple):
    """One name per column, then rows with one cell per column."""

    head: list[str]
    rows: list[list[str]]


class _Group(NamedTuple):
    """All seeds of one method at one length.

    Attributes:
        rows: one per seed.
        scores: (queries,), average precision of each query, a mean over seeds.
    """

    rows: list[Row]
    scores: NDArray[np.float64]

    def mean(self, figure: str) -> float:
        return float(np.mean([row[figure] for row in self.rows]))

    def text(self) -> str:
        found = [row["map"] for row in self.rows]
        deviation = f" ± {_figure(float(np.std(found, ddof=1)))}" if len(found) > 1 else ""
        return f"{_figure(float(np.mean(found)))}{deviation}"


def by_length(rows: Iterable[Row], protocol: str) -> Table:
    """The mAP of every method at every length. Bold: the best, and those that may be as good.

    Rows: the guided network, methods as published or with looks, baselines. The best is the best
    trained one.
    """
    groups = _groups(rows, protocol)
    lengths = sorted({bits for _, _, bits in groups if bits})
    names = [
        name
        for name in dict.fromkeys((method, form) for method, form, _ in groups)
        if name == (_own(protocol), "guided") or name[1] in ("global", LOOKS)
    ]
    leaders = {bits: _leaders(groups, bits, names) for bits in lengths}
    table = []
    for name in names:
        cells = []
        for bits in lengths:
            group = groups.get((*name, bits)) or groups.get((*name, 0))
            text = group.text() if group else ""
            cells.append(f"**{text}**" if name in leaders[bits] else text)
        table.append([_title(*name), *cells])
    return Table(["method", *(f"{bits} bits" for bits in lengths)], table)


def means(rows: Iterable[Row]) -> Table:
    """The mean mAP of every method on every protocol, over lengths and seeds; then over protocols.

    The best method by the last comes first.
    """
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row["method"]][row["protocol"]].append(row["map"])
    figures = {
        method: [float(np.mean(some)) for some in of_protocol.values()]
        for method, of_protocol in found.items()
    }
    best = sorted(figures, key=lambda method: -np.mean(figures[method]))
    table = [
        [method, *map(_figure, figures[method]), _figure(float(np.mean(figures[method])))]
        for method in best
    ]
    return Table(["loss", *found[best[0]], "mean"], table)


def of_form(rows: Iterable[Row], protocols: list[str], bits: int, form: str) -> Table:
    """What the guided local feature, or looks, add to each method: mAP with minus mAP without."""
    rows = list(rows)
    by_protocol = {protocol: _groups(rows, protocol) for protocol in protocols}
    names = dict.fromkeys(
        method for groups in by_protocol.values() for method, one, _ in groups if one == form
    )
    table = []
    for method in names:
        cells = []
        for groups in by_protocol.values():
            pair = [groups.get((method, one, bits)) for one in (form, "global")]
            cells.append(_difference(pair[0], pair[1]) if pair[0] and pair[1] else "")
        table.append([method, *cells])
    return Table(["loss", *protocols], table)


def of_backbones(rows: dict[str, list[Row]], bits: int) -> Table:
    """As `of_form`, of the guided feature, for several backbones, including both figures.

    Args:
        rows: by backbone.
        bits: length of the code.
    """
    table = []
    for backbone, some in rows.items():
        for protocol in dict.fromkeys(row["protocol"] for row in some):
            groups = _groups(some, protocol)
            for method in dict.fromkeys(name for name, form, _ in groups if form == "guided"):
                plain, guided = (groups[method, form, bits] for form in ("global", "guided"))
                figures = [plain.text(), guided.text(), _difference(guided, plain)]
                table.append([backbone, protocol, method, *figures])
    head = ["backbone", "protocol", "loss", "without the branch", "with it", "difference"]
    return Table(head, table)


def against_rivals(rows: Iterable[Row], protocols: list[str]) -> Table:
    """The guided network minus the best method as published, by protocol and length.

    The same loss as published is a rival where it was published, as HashNet was. If there are
    looks: the loss with looks minus the best rival with looks.
    """
    rows = list(rows)
    table = []
    for protocol in protocols:
        groups, loss = _groups(rows, protocol), _own(protocol)
        for form, of_rivals in ("guided", "global"), (LOOKS, LOOKS):
            for bits in sorted({bits for _, _, bits in groups if bits}):
                own = groups.get((loss, form, bits))
                rivals = {
                    method: group
                    for (method, one, length), group in groups.items()
                    if length == bits
                    and one == of_rivals
                    and method not in (*BASELINES, DEFAULT)
                    and (method, one) != (loss, form)
                }
                if own is None or not rivals:
                    continue
                best = max(rivals, key=lambda name: rivals[name].mean("map"))
                title = protocol + (", with looks" if form == LOOKS else "")
                figures = [loss, own.text(), best, rivals[best].text()]
                table.append([title, str(bits), *figures, _difference(own, rivals[best])])
    head = ["protocol", "bits", "default", "its mAP", "best rival", "its mAP", "difference"]
    return Table(head, table)


def of_codes(rows: Iterable[Row], protocol: str, bits: int) -> Table:
    """Further figures of the codes: order of ties, ball of radius 2, share of different codes."""
    table = [
        [
            _title(method, form),
            *(
                _figure(group.mean(figure))
                for figure in (
                    "map_worst",
                    "map",
                    "map_best",
                    "precision_within_radius",
                    "empty_balls",
                    "unique",
                )
            ),
        ]
        for (method, form, length), group in _groups(rows, protocol).items()
        if length == bits
    ]
    head = ["method", "mAP, worst order of ties", "expected", "best"]
    return Table([*head, "precision within radius 2", "empty balls", "different codes"], table)


def _groups(rows: Iterable[Row], protocol: str) -> dict[tuple[str, str, int], _Group]:
    found = defaultdict(list)
    for row in rows:
        if row["protocol"] == protocol:
            found[row["method"], row["form"], row["bits"]].append(row)
    return {
        name: _Group(several, np.mean([row["queries"] for row in several], axis=0))
        for name, several in found.items()
    }


def _leaders(
    groups: dict[tuple[str, str, int], _Group], bits: int, names: list[tuple[str, str]]
) -> set[tuple[str, str]]:
    """The best trained method, and those not significantly different from it."""
    trained = {
        name: groups[*name, bits]
        for name in names
        if name[0] not in BASELINES and (*name, bits) in groups
    }
    if not trained:
        return set()
    best = max(trained.values(), key=lambda group: group.mean("map"))
    return {
        name
        for name, group in trained.items()
        if group is best or paired_bootstrap(best.scores, group.scores).low <= 0
    }


def _difference(first: _Group, second: _Group) -> str:
    found: Difference = paired_bootstrap(first.scores, second.scores)
    bold = "**" if found.low > 0 or found.high < 0 else ""
    return f"{bold}{found.mean:+.3f}{bold} [{found.low:+.3f}, {found.high:+.3f}]"


def _title(method: str, form: str) -> str:
    return method + {"guided": ", with the branch", LOOKS: ", with looks"}.get(form, "")


def _figure(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")
