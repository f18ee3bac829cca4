"""DeBERTa's disentangled attention without its gathers: the same numbers, several times less memory traffic.

The position terms of DeBERTa (arXiv:2006.03654, section 3.1) depend on a pair of tokens only through their
distance. transformers looks them up with two gathers over a batch x heads x T x T index. Here each query meets
one projected embedding per distance, and a strided view of that product is the T x T term itself. The
projections of the position embeddings are constants in inference, so they are made once.

Legend: B rows, N heads, T tokens, D head size, S position buckets (both signs), W = 2T - 1 distances.
"""

from typing import cast

import torch
from torch import Tensor
from transformers import DebertaV2Model
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention


class _Skewed(DisentangledSelfAttention):
    """transformers' attention with another way to the same position bias; for inference only."""

    pos_key_NSD: Tensor  # noqa: N815 - shape suffixes
    pos_query_NSD: Tensor  # noqa: N815

    def disentangled_attention_bias(  # noqa: PLR0913 - the signature that it overrides
        self, query_layer: Tensor, key_layer: Tensor, relative_pos: Tensor, rel_embeddings: Tensor, scale_factor: int
    ) -> Tensor:
        """(B * N, T, T): content to position plus position to content, as far as the model has them."""
        tokens, buckets = query_layer.size(1), 2 * self.pos_ebd_size
        # Distance i - j along the columns W, from T - 1 down to -(T - 1); relative_pos holds its bucket at (i, j).
        distance_W = torch.cat([relative_pos[0, :, 0].flip(0), relative_pos[0, 0, 1:]])  # noqa: N806
        scale = (query_layer.size(-1) * scale_factor) ** -0.5
        bias: Tensor | None = None
        if "c2p" in self.pos_att_type:
            at_W = (distance_W + self.pos_ebd_size).clamp(0, buckets - 1)  # noqa: N806
            bias = _skew(query_layer * scale, self.pos_key_NSD, at_W)
        if "p2c" in self.pos_att_type:
            at_W = (self.pos_ebd_size - distance_W).clamp(0, buckets - 1)  # noqa: N806
            term = _skew(key_layer * scale, self.pos_query_NSD, at_W).transpose(-1, -2)
            bias = term if bias is None else bias + term
        return query_layer.new_zeros(tokens, tokens) if bias is None else bias

    def project(self, rel_embeddings: Tensor) -> None:
        """Project the position embeddings (S, N * D) once and for all."""
        used = rel_embeddings[: 2 * self.pos_ebd_size].unsqueeze(0)
        for name, shared, own in (("pos_key_NSD", "key_proj", "pos_key_proj"), ("pos_query_NSD", "query_proj", "pos_query_proj")):
            projection = getattr(self, shared if self.share_att_key else own, None)
            if projection is not None:
                setattr(self, name, self.transpose_for_scores(projection(used), self.num_attention_heads).contiguous())


def install(model: DebertaV2Model) -> None:
    """Switch a loaded model, already at its device and dtype and in evaluation mode, to this attention."""
    if not model.encoder.relative_attention:
        return
    with torch.inference_mode():
        rel_embeddings = cast(Tensor, model.encoder.get_rel_embedding())
        for module in model.modules():
            if type(module) is DisentangledSelfAttention:
                module.__class__ = _Skewed
                cast(_Skewed, module).project(rel_embeddings)


def _skew(content: Tensor, positions_NSD: Tensor, at_W: Tensor) -> Tensor:  # noqa: N803
    """(B * N, T, T) whose entry (i, j) is content i . position of distance i - j; a view of the product over distances."""
    heads, buckets, size = positions_NSD.shape
    rows, tokens, width = content.size(0) // heads, content.size(1), at_W.numel()
    content_BNTD = content.view(rows, heads, tokens, size)  # noqa: N806
    if width <= 2 * buckets:
        product = content_BNTD @ positions_NSD[:, at_W].transpose(-1, -2)
    else:  # far more distances than buckets: multiply by the buckets, then spread
        product = (content_BNTD @ positions_NSD.transpose(-1, -2))[..., at_W]
    product = product.contiguous().view(rows * heads, tokens, width)
    # Row i starts one column earlier than row i - 1: column W = T - 1 is distance 0.
    return product.as_strided((rows * heads, tokens, tokens), (tokens * width, width - 1, 1), product.storage_offset() + tokens - 1)
