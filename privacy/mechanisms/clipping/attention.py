"""Multi-head attention: torch's own function, with its projections watched like linear layers.

The function hands itself to whoever watches, whole. Here a copy of it that does not ask is run
while watching goes on, so that the projections inside pass by as linear layers, packed ones as
stretches of one weight. Inside it the batch is the second dimension.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

from torch import Tensor
from torch.nn import functional

from privacy.mechanisms.clipping.recorder import Recorder, Unknown, handles

_function = functional.multi_head_attention_forward
_inside = FunctionType(
    _function.__code__,
    {**_function.__globals__, "has_torch_function": lambda _: False},
    _function.__name__,
    _function.__defaults__,
    _function.__closure__,
)
_inside.__kwdefaults__ = _function.__kwdefaults__


@handles(_function)
def attention(recorder: Recorder, query: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Run attention on [positions, batch, width]."""
    if query.dim() != 3 or query.shape[1] != recorder.computed:
        raise Unknown(f"attention gets {list(query.shape)}, whose second dimension is no batch")
    recorder.batch_second = True
    try:
        with recorder:
            return _inside(query, *args, **kwargs)
    finally:
        recorder.batch_second = False
