"""What a person is told when rules speak: the rows, what is new about them, what it costs so far,
and what to do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewright.monitor.inputs import words_of
from tunewright.monitor.novelty import estimate_share
from tunewright.monitor.outputs import MOST_NOVEL, AccuracyEstimate, estimate_accuracy
from tunewright.monitor.profile import Lens
from tunewright.monitor.watcher import Seen
from tunewright.records import Request, Signal

Floats = NDArray[np.float64]
CLUSTER_DISTANCE = 0.55
"""Mean cosine distance up to which requests join one cluster."""
FEWEST_IN_CLUSTER = 3
MOST_CLUSTERS = 8
MOST_EXAMPLES = 5
MOST_CLUSTERED = 400
MOST_ROWS = 50
SHORT_WORD = 3


@dataclass(frozen=True, slots=True)
class Cluster:
    """Novel requests that belong together. name: the words that set them apart, a suggestion."""

    name: str
    count: int
    share: float
    examples: tuple[str, ...]
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Alert:
    """One alarm. num_requests: since the change seems to have begun (first_batch), up to the last
    batch in which rules spoke.

    excess_errors: wrong answers beyond those of the reference, over those requests, as estimated;
    cost_usd: what they cost, None where nobody said what an error costs.
    """

    batch: int
    first_batch: int
    last_batch: int
    time_s: float
    signals: tuple[Signal, ...]
    num_requests: int
    accuracy: AccuracyEstimate
    reference_accuracy: float
    excess_errors: float
    cost_usd: float | None
    clusters: tuple[Cluster, ...]
    rows: tuple[tuple[str, str], ...]
    action: str


def make_alert(
    signals: Sequence[Signal],
    recent: Sequence[Seen],
    lens: Lens,
    *,
    error_usd: float | None,
    most_novel: float = MOST_NOVEL,
    open_alert: Alert | None = None,
) -> Alert:
    """The alert of one batch. recent: batches still kept, the newest last.

    open_alert: an alarm that these signals carry on; the alert then tells of both together.
    """
    first = min(signal.first_batch for signal in signals)
    last = max(signal.batch for signal in signals)
    begun = signals[0].batch
    if open_alert is not None:
        first, begun = min(first, open_alert.first_batch), open_alert.batch
        said = {signal.rule: signal for signal in (*open_alert.signals, *signals)}
        signals = tuple(said.values())
    seen = [item for item in recent if item.batch >= first] or list(recent)[-1:]
    requests = [request for item in seen for request in item.requests]
    novelty = np.concatenate([item.facts.novelty for item in seen])
    accuracy = window_accuracy(seen, lens, most_novel)
    usual = float(np.nanmean(lens.reference.right))
    now = accuracy.value if accuracy.valid else accuracy.least
    lost = max(0.0, usual - now) * len(requests) if math.isfinite(now) else 0.0
    clusters = find_clusters(
        requests, np.concatenate([item.facts.states_nH for item in seen]), novelty, lens
    )
    shown = dict.fromkeys(row for signal in signals for row in signal.rows)
    texts = {request.id: request.input for request in requests}
    return Alert(
        batch=begun,
        first_batch=first,
        last_batch=last,
        time_s=requests[-1].time_s if requests else 0.0,
        signals=tuple(signals),
        num_requests=len(requests),
        accuracy=accuracy,
        reference_accuracy=usual,
        excess_errors=lost,
        cost_usd=None if error_usd is None else lost * error_usd,
        clusters=clusters,
        rows=tuple((row, texts[row]) for row in shown if row in texts)[:MOST_ROWS],
        action=suggest(signals, accuracy, clusters, usual),
    )


def window_accuracy(
    seen: Sequence[Seen], lens: Lens, most_novel: float = MOST_NOVEL
) -> AccuracyEstimate:
    """The accuracy of these batches without labels; see outputs.estimate_accuracy."""
    ratios = np.concatenate([item.facts.novelty for item in seen])
    confidence = np.concatenate([item.facts.confidence for item in seen])
    share = estimate_share(ratios, lens.reference.novelty)
    rows = int(np.isfinite(lens.reference.right).sum())
    # A share that its own doubt explains says nothing yet.
    surely = share.value if share.value > 2 * share.error else 0.0
    return estimate_accuracy(
        confidence, ratios, novel_share=surely, num_reference=rows, most_novel=most_novel
    )


def find_clusters(
    requests: Sequence[Request], states_nH: Floats, novelty_n: Floats, lens: Lens
) -> tuple[Cluster, ...]:
    """Requests that look new, grouped by meaning (average-link clustering of cosine distances)."""
    new = np.flatnonzero(novelty_n > 0)
    if len(new) < FEWEST_IN_CLUSTER:
        return ()
    new = new[np.argsort(-novelty_n[new], kind="stable")][:MOST_CLUSTERED]
    from sklearn.cluster import AgglomerativeClustering

    how = AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="average", distance_threshold=CLUSTER_DISTANCE
    )
    owner = how.fit_predict(states_nH[new])
    usual = Counter(w for r in lens.profile.requests for w in set(words_of(r.input)))
    found = []
    for name, count in Counter(owner.tolist()).most_common(MOST_CLUSTERS):
        if count < FEWEST_IN_CLUSTER:
            break
        members = new[owner == name]
        middle = states_nH[members].mean(axis=0)
        near = members[np.argsort(-(states_nH[members] @ middle), kind="stable")]
        texts = [requests[i].input for i in near]
        found.append(
            Cluster(
                name=suggest_name(texts, usual, len(lens.profile.requests)),
                count=count,
                share=count / len(requests),
                examples=tuple(dict.fromkeys(texts))[:MOST_EXAMPLES],
                ids=tuple(requests[i].id for i in near),
            )
        )
    return tuple(found)


def suggest_name(texts: Sequence[str], usual: Counter[str], num_usual: int) -> str:
    """At most three words that many of these texts hold and few of the usual ones, joined by _."""
    counts = Counter(word for text in texts for word in set(words_of(text)))
    n = len(texts)

    def weight(word: str) -> float:
        here = counts[word] / n
        there = (usual[word] + 0.5) / (num_usual + 1)
        return here * math.log(here / there)

    words = [word for word in counts if counts[word] >= 0.2 * n and len(word) >= SHORT_WORD]
    best = sorted(words, key=lambda word: (-weight(word), word))[:3]
    kept = [word for word in best if weight(word) > 0.1] or best[:1]
    return "_".join(kept) or "unnamed"


def suggest(
    signals: Sequence[Signal],
    accuracy: AccuracyEstimate,
    clusters: Sequence[Cluster],
    usual: float,
) -> str:
    """The recommended action, one sentence."""
    rules = {signal.rule for signal in signals}
    if rules & {"flood"}:
        return "look for a client that repeats itself; the model needs nothing"
    if rules & {"refusals", "broken_answers"}:
        return "look at the answers listed; if they began with a release, roll it back"
    if clusters and (rules & {"novelty", "distance", "confidence", "errors"}):
        count = sum(cluster.count for cluster in clusters)
        names = ", ".join(cluster.name for cluster in clusters[:3])
        return (
            f"label the {count} rows of the clusters ({names}), then run `tunewright retune RUN "
            "--new FILE`"
        )
    if rules & {"errors", "confidence", "novelty"}:
        return "send the rows listed for review, and tune again if their labels confirm it"
    lower = accuracy.valid and accuracy.ci95[1] < usual
    if lower:
        return "send rows for review: fewer right answers are to be expected on this traffic"
    return "look at the rows listed; no loss of quality is seen yet"
