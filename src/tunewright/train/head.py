"""A head that starts from what the frozen base already knows, instead of from noise.

Tuning a good base under a random head first distorts its features (Kumar et al. 2022, "Fine-Tuning
can Distort Pretrained Features"): so the head is fitted on frozen features, then all is tuned.

Shapes: N rows, H features, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tunewright.data.batch import batches_by_length, make_batch, model_inputs
from tunewright.data.render import Row
from tunewright.data.row_file import first_by_id
from tunewright.model.load import Base

PENALTY = 1e-3
"""Weight of the squared head weights beside the mean loss, on features of unit deviation."""
MOST_ROWS = 20_000
FORWARD_TOKENS = 8192


def find_head(base: Base) -> nn.Linear | None:
    """The new linear layer that gives the outputs; None where there is none.

    Layers below it may be new as well (a pooler that the checkpoint lacks): a linear model on
    their random features is still a better start than noise.
    """
    modules = dict(base.plain.named_modules())
    outputs = base.plain.config.num_labels
    for name in sorted({name.rpartition(".")[0] for name in base.fresh}):
        head: Any = modules.get(name)
        # Beside an adapter PEFT keeps the trained copy of a head inside a wrapper.
        copies = getattr(head, "modules_to_save", None)
        head = copies["default"] if copies is not None and "default" in copies else head
        if isinstance(head, nn.Linear) and head.bias is not None and head.out_features == outputs:
            return head
    return None


def start_head(
    base: Base, rows: Sequence[Row], pad_id: int, offset_K: NDArray[np.float64] | None = None
) -> bool:
    """Fit the new head on frozen features of the training rows; False where that cannot be done.

    The same rows and base give the same head. Labels that the model before knew start from what it
    knew of them and stay near to it. offset_K: see objectives.class_cross_entropy.
    """
    head = find_head(base)
    if head is None or base.task not in ("classify", "regress"):
        return False
    rows = first_by_id(rows, MOST_ROWS)
    features_NH = _features(base, head, rows, pad_id)
    if features_NH is None:
        return False
    num_labels = base.plain.config.num_labels
    grows = bool(base.known_labels) or offset_K is not None
    if grows and isinstance(rows[0].target, int):
        fitted = _fit_grown(base, head, features_NH, rows, offset_K)
    else:
        fitted = fit_linear(features_NH, [row.target for row in rows], num_labels)
    if fitted is None:
        return False
    weight_KH, bias_K = fitted
    if weight_KH.shape != tuple(head.weight.shape):
        return False
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight_KH))
        head.bias.copy_(torch.from_numpy(bias_K))
    return True


def scale_outputs(
    base: Base, weights: Mapping[str, torch.Tensor], factor: float
) -> dict[str, torch.Tensor] | None:
    """`weights` with those of the layer that gives the logits times factor, in the model too.

    weights: what was trained, fp32, by parameter name. None where that layer was not trained.
    """
    found = [
        (name, module)
        for name, module in base.model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == base.plain.config.num_labels
        and f"{name}.weight" in weights
        and ".lora_" not in name
    ]
    if not found:
        return None
    name, head = found[-1]
    changed = dict(weights)
    for part, parameter in head.named_parameters():
        key = f"{name}.{part}"
        if key in changed:
            changed[key] = changed[key] * factor
            with torch.no_grad():
                parameter.copy_(changed[key])
    return changed


def _features(
    base: Base, head: nn.Linear, rows: Sequence[Row], pad_id: int
) -> NDArray[np.float64] | None:
    """What the head reads for each row, (N, H); None unless it is one vector per row."""
    seen: list[torch.Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    was_training = base.model.training
    base.model.eval()
    out: NDArray[np.float64] | None = None
    try:
        for part in batches_by_length(rows, FORWARD_TOKENS):
            batch = make_batch([rows[i] for i in part], pad_id=pad_id, device=base.device)
            with torch.inference_mode():
                base.model(**model_inputs(batch))
            features = seen.pop()
            if features.ndim != 2:
                return None
            if out is None:
                out = np.zeros((len(rows), features.shape[1]))
            out[part] = features.double().cpu().numpy()
    finally:
        handle.remove()
        base.model.train(was_training)
    return out


def fit_linear(
    features_NH: NDArray[np.float64], targets: Sequence[Any], num_labels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """(weight (K, H), bias (K,)) of a penalised linear model on features as they are.

    targets: numbers of labels, or floats to regress on; None for others, and for a single label.
    A label without a row, as in a small part of the data, starts below all others.
    """
    mean, deviation = features_NH.mean(axis=0), float(features_NH.std(axis=0).mean())
    deviation = max(deviation, 1e-12)
    fitted = _fit((features_NH - mean) / deviation, targets, num_labels)
    if fitted is None:
        return None
    weight_KH = fitted[0] / deviation
    return weight_KH, fitted[1] - weight_KH @ mean


def _fit(
    features_NH: NDArray[np.float64], targets: Sequence[Any], num_labels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """fit_linear on standardised features."""
    from sklearn.linear_model import LogisticRegression, Ridge

    if isinstance(targets[0], float):
        ridge = Ridge(alpha=PENALTY * len(targets)).fit(features_NH, targets)
        return np.atleast_2d(ridge.coef_), np.atleast_1d(ridge.intercept_)
    if not isinstance(targets[0], int):
        return None  # several labels per row: a head from noise does as well
    strength = 1.0 / (2.0 * PENALTY * len(targets))
    if len(set(targets)) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unconverged is good enough for a start
        model = LogisticRegression(C=strength, max_iter=100)
        model.fit(features_NH, targets)
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one row of weights stands for both classes
        weight, bias = np.vstack([-weight, weight]) / 2, np.hstack([-bias, bias]) / 2
    full_KH = np.zeros((num_labels, features_NH.shape[1]))
    full_K = np.full(num_labels, bias.min() - 1.0)
    full_KH[model.classes_], full_K[model.classes_] = weight, bias
    return full_KH, full_K


Start = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]
"""(weight (K, H), bias (K,), which classes are known) on standardised features."""


def _fit_grown(
    base: Base,
    head: nn.Linear,
    features_NH: NDArray[np.float64],
    rows: Sequence[Row],
    offset_K: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """As fit_linear, from what the model before knew, for classes as common as offset_K says."""
    mean = features_NH.mean(axis=0)
    deviation = max(float(features_NH.std(axis=0).mean()), 1e-12)
    start = _known_start(base, head, mean, deviation)
    fitted = _fit_from(
        (features_NH - mean) / deviation, rows, base.plain.config.num_labels, start, offset_K
    )
    if fitted is None:
        return None
    weight_KH = fitted[0] / deviation
    return weight_KH, fitted[1] - weight_KH @ mean


def _known_start(
    base: Base, head: nn.Linear, mean_H: NDArray[np.float64], deviation: float
) -> Start | None:
    """The rows of the head that come from the model before; None where there are none."""
    if not base.known_labels:
        return None
    known_K = np.array([label in base.known_labels for label in base.labels])
    weight_KH = head.weight.detach().double().cpu().numpy()
    bias_K = head.bias.detach().double().cpu().numpy() + weight_KH @ mean_H
    start_KH = np.where(known_K[:, None], weight_KH * max(deviation, 1e-12), 0.0)
    # New classes begin beside the known ones, not above or below all of them.
    return start_KH, np.where(known_K, bias_K, bias_K[known_K].mean()), known_K


def _fit_from(
    features_NH: NDArray[np.float64],
    rows: Sequence[Row],
    num_labels: int,
    start: Start | None,
    offset_K: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """(weight (K, H), bias (K,)) as `_fit` gives them, but drawn to the start instead of to zero:
    the few rows of a known class correct what many rows taught before.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    targets_N = np.array([row.target for row in rows])
    if start is None and len(set(targets_N.tolist())) < 2:
        return None
    n, size = features_NH.shape
    if start is None:
        start = (np.zeros((num_labels, size)), np.zeros(num_labels), np.zeros(num_labels, bool))
    weight_KH, bias_K, known_K = start
    offset = np.zeros(num_labels) if offset_K is None else offset_K
    present_K = np.bincount(targets_N, minlength=num_labels) > 0
    used = np.flatnonzero(present_K | known_K)
    place = np.full(num_labels, -1)
    place[used] = np.arange(len(used))
    truth_N, all_N = place[targets_N], np.arange(n)
    first_UH = weight_KH[used]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        parts = flat.reshape(len(used), size + 1)
        logits_NU = features_NH @ parts[:, :-1].T + parts[:, -1] + offset[used]
        logs_NU = log_softmax(logits_NU, axis=1)
        moved_UH = parts[:, :-1] - first_UH
        error_NU = np.exp(logs_NU)
        error_NU[all_N, truth_N] -= 1.0
        slope = np.column_stack([error_NU.T @ features_NH, error_NU.sum(axis=0)]) / n
        slope[:, :-1] += 2 * PENALTY * moved_UH
        value = -logs_NU[all_N, truth_N].mean() + PENALTY * (moved_UH**2).sum()
        return float(value), slope.ravel()

    begin = np.column_stack([first_UH, bias_K[used]]).ravel()
    found = minimize(loss, begin, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    found = found.reshape(len(used), size + 1)
    full_KH, full_K = np.zeros((num_labels, size)), np.full(num_labels, found[:, -1].min() - 1.0)
    full_KH[used], full_K[used] = found[:, :-1], found[:, -1]
    return full_KH, full_K
