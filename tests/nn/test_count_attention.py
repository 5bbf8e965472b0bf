"""The attention of TranscriptFormer against its formula, written out for all tokens at once."""

from __future__ import annotations

import pytest
import torch

from sfm.nn.architectures import _transcriptformer_backbone as backbone
from sfm.nn.architectures._transcriptformer_backbone import CountAttention, TranscriptformerConfig


def make(softcap: float, dtype: torch.dtype) -> CountAttention:
    torch.manual_seed(0)
    config = TranscriptformerConfig(hidden_size=16, num_attention_heads=2, softcap=softcap)
    attention = CountAttention(config).eval()
    for layer in (attention.query, attention.key):  # scores that the cap bends
        layer.weight.data.mul_(6)
    return attention.to(dtype)


def written_out(attention: CountAttention, hidden: torch.Tensor, bias: torch.Tensor, is_read: torch.Tensor) -> tuple:
    """Return the result and the weights, in float64."""
    attention, n_cells, n_tokens = attention.double(), *hidden.shape[:2]
    query, key, value = (
        layer(hidden.double()).view(n_cells, n_tokens, 2, 8).transpose(1, 2)
        for layer in (attention.query, attention.key, attention.value)
    )
    scores = query @ key.mT / 8**0.5 + bias[:, None, None, :]
    if attention.softcap > 0:
        scores = attention.softcap * torch.tanh(scores / attention.softcap)
    allowed = is_read[:, None, None, :] & torch.ones(n_tokens, n_tokens, dtype=torch.bool).tril()
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1).nan_to_num()  # nowhere to look: zeros
    return attention.output((weights @ value).transpose(1, 2).flatten(2)), weights


@pytest.mark.parametrize("softcap", [0.0, 10.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-7), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("most_scores", [1, 1 << 30])
@torch.inference_mode()
def test_it_is_the_formula(
    monkeypatch: pytest.MonkeyPatch, softcap: float, dtype: torch.dtype, tolerance: float, most_scores: int
) -> None:
    monkeypatch.setitem(backbone._MAX_SCORES, "cpu", most_scores)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 40, 16, generator=generator).to(dtype)
    bias = torch.rand(2, 40, generator=generator)
    is_read = torch.rand(2, 40, generator=generator) < 0.7
    is_read[0, :3] = False
    attention = make(softcap, dtype)
    found, weights = attention(hidden, bias, is_read, return_weights=True)
    wanted, wanted_weights = written_out(attention, hidden, bias, is_read)
    assert found.dtype == dtype
    torch.testing.assert_close(weights.double(), wanted_weights, rtol=0, atol=tolerance)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance)
    assert not weights[0, :, :3].any()
    assert wanted_weights.std() > 0.02
