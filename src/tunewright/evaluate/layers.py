"""What a frozen base makes of texts, averaged over its layers: the features that rank bases best.

Averaging layers lifts the correlation with tuned accuracy from .58 to .86 for LogME and from .65 to
.88 for the H-score (TransformerRanker, ACL Findings 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from tunewright.data.batch import batches_by_length, make_batch
from tunewright.data.render import Row, input_text
from tunewright.evaluate.predict import EVALUATION_TOKENS, Asker
from tunewright.records import Example


def layer_means(asker: Asker, examples: Sequence[Example]) -> NDArray[np.float64]:
    """(B, H) hidden states, mean over real tokens and over all layers but the embeddings."""
    base = asker.base
    texts = [input_text(example, asker.rendering) or " " for example in examples]
    limit = asker.rendering.max_length
    encoded = base.tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
    rows = [Row(str(i), np.asarray(ids, dtype=np.int32), target=0) for i, ids in enumerate(encoded)]
    plain = base.plain
    backbone = getattr(plain, plain.base_model_prefix, plain)
    if base.kind == "encoder-decoder":
        backbone = plain.get_encoder()
    out: NDArray[np.float64] | None = None
    for part in batches_by_length(rows, EVALUATION_TOKENS):
        pad = int(base.tokenizer.pad_token_id or 0)
        batch = make_batch([rows[i] for i in part], pad_id=pad, device=base.device)
        with torch.inference_mode():
            states = backbone(
                input_ids=batch.ids_BT, attention_mask=batch.mask_BT, output_hidden_states=True
            ).hidden_states[1:]
        mask_BT = torch.ones_like(batch.ids_BT) if batch.mask_BT is None else batch.mask_BT
        weights_BT1 = mask_BT[..., None].float()
        mean_BTH = torch.stack([layer.float() for layer in states]).mean(0)
        means_BH = (mean_BTH * weights_BT1).sum(1) / weights_BT1.sum(1).clamp_min(1.0)
        if out is None:
            out = np.zeros((len(rows), means_BH.shape[1]))
        out[part] = means_BH.double().cpu().numpy()
    assert out is not None
    return np.nan_to_num(out)
