"""NEFTune: noise in training only, within its reach, the same for the same seed."""

import torch
import transformers

from tunewright.model.decoder import fast_decoder
from tunewright.train.noise import add_embedding_noise


def test_noise_stays_in_reach_and_out_of_evaluation():
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).requires_grad_(False)
    ids = torch.arange(20).view(2, 10)
    layer = model.get_input_embeddings()
    clean = layer(ids)
    add_embedding_noise(model, 5.0)
    model.eval()
    assert torch.equal(layer(ids), clean)
    model.train()
    seen = []
    for _ in range(2):
        torch.manual_seed(3)
        seen.append(layer(ids) - clean)
    reach = 5.0 / (10 * 16) ** 0.5
    assert torch.equal(*seen) and 0.5 * reach < float(seen[0].abs().max()) <= reach * 1.001
    assert fast_decoder(model) is None
