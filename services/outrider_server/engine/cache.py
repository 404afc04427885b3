"""The slot cache: the keys and values of many sessions, allocated once.

Owns the tensors and nothing else. A session's KV is a slot and a length; rolling back is a smaller length,
kept by the caller, because stale entries are overwritten before anything can attend to them.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, StaticLayer

from ..core.errors import ModelRefused
from .model.architectures import cache_shape
from .ranks.sharing import key_heads


class SlotLayer(StaticLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values, [S, K, L, D], written row by row at the step's places."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__(max_cache_len=keys.shape[2])
        self.keys = keys
        self.values = values
        self.places: torch.Tensor | None = None
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes [R, K, W, D] at the places of the step; returns the whole layer, uncopied.

        Raises ModelRefused where the model's keys or values have another shape than its configuration says.
        """
        assert self.places is not None, "place() comes before the forward pass"
        for states, held in ((key_states, self.keys), (value_states, self.values)):
            if (states.shape[1], states.shape[3]) != (held.shape[1], held.shape[3]):
                raise ModelRefused(
                    f"the model keeps {states.shape[1]} key heads of {states.shape[3]} where its "
                    f"configuration says {held.shape[1]} of {held.shape[3]}, which is not served"
                )
        slots, positions = self.places[:, 0, :, 0], self.places[:, 0, :, 1]
        self.keys[slots, :, positions] = key_states.transpose(1, 2)
        self.values[slots, :, positions] = value_states.transpose(1, 2)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Nothing: rows have lengths of their own, told by the step's places."""
        return 0


class SlotCache(Cache):
    """The slot cache of a model, or a rank's share of it: `slots` sessions of `length` positions each.

    The library's own static cache has one length for the whole batch; here every row of a step has its
    own places.
    """

    layers: list[SlotLayer]  # type: ignore[assignment]  # the library's may be of any kind

    def __init__(
        self,
        config: PreTrainedConfig,
        slots: int,
        length: int,
        dtype: torch.dtype,
        device: torch.device,
        ranks: int = 1,
    ) -> None:
        heads, head_dim = key_heads(config, ranks), cache_shape(config)[1]

        def allocate() -> torch.Tensor:
            return torch.zeros((slots, heads, length, head_dim), dtype=dtype, device=device)

        super().__init__(
            layers=[SlotLayer(allocate(), allocate()) for _ in range(config.num_hidden_layers)]
        )

    @property
    def group_size(self) -> int:
        """One: a position's keys lie by themselves."""
        return 1

    def slot_layers(self, slot: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of each layer of a slot, [K, L, D], uncopied."""
        return [(layer.keys[slot], layer.values[slot]) for layer in self.layers]

    def place(self, places: torch.Tensor) -> None:
        """Says where the tokens of the next forward pass live: [R, 1, W, 2] (slot, position)."""
        for layer in self.layers:
            layer.places = places

    def wipe(self, slot: int) -> None:
        """Zeroes a slot. What is no number would spoil every sum over the slot, masked or not."""
        for layer in self.layers:
            layer.keys[slot].zero_()
            layer.values[slot].zero_()

    @property
    def byte_count(self) -> int:
        """Size of all keys and values in bytes."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers)
