"""The legend of axes, and the tensor types that carry it.

    B batch · T time · H query heads · G key/value heads · K key head size · V value head size
    S segments · C tokens per segment (the segment size) · W of the one before that are still seen (the overlap)
    L tokens handled together · E model width · R rotary size

`H` is never a head size. The public layout is `[B, T, H, D]`. The tests run with these types checked at every call
(see CONTRIBUTING.md); outside the tests they cost nothing.
"""

from typing import Literal

from jaxtyping import Bool, Float, Int64
from torch import Tensor

Rule = Literal["linear", "delta", "gated_delta", "none"]

Hidden = Float[Tensor, "B T E"]
Queries = Float[Tensor, "B T H K"]
Keys = Float[Tensor, "B T G K"]
Values = Float[Tensor, "B T G V"]
Outputs = Float[Tensor, "B T H V"]
PerQueryHead = Float[Tensor, "B T H"]
PerKVHead = Float[Tensor, "B T G"]
TokenMask = Bool[Tensor, "B T"]
Slots = Int64[Tensor, "B T"]

MemoryMatrix = Float[Tensor, "B G K V"]
MemoryNormalizer = Float[Tensor, "B G K"]
SegmentKeys = Float[Tensor, "B C G K"]
SegmentValues = Float[Tensor, "B C G V"]
OverlapKeys = Float[Tensor, "B W G K"]
OverlapValues = Float[Tensor, "B W G V"]
RowCounts = Int64[Tensor, "B"]
RowFlags = Bool[Tensor, "B"]
HeadFlags = Bool[Tensor, "B G"]
RotaryTable = Float[Tensor, "N R"]

# Inside the vectorised backend the axes are reordered for batched matrix products.
BlockKeys = Float[Tensor, "B G S L K"]
BlockValues = Float[Tensor, "B G S L V"]
BlockScalars = Float[Tensor, "B G S L"]
Memories = Float[Tensor, "B G S K V"]
Normalizers = Float[Tensor, "B G S K"]
SegmentFlags = Bool[Tensor, "B G S"]
