"""How a model is laid out over several ranks: whole on each, or a part on each."""

from __future__ import annotations

from torch import nn

from tunewright.cost.memory import forecast_memory
from tunewright.errors import RecipeError
from tunewright.journal import Journal
from tunewright.model.device import available_memory
from tunewright.setup import Setup, Tuning
from tunewright.train.parallel import Ranks
from tunewright.train.sharding import Named, choose_parallel, shard


def spread_model(setup: Setup, tuning: Tuning, ranks: Ranks, journal: Journal) -> Named:
    """The parameters that this rank trains; all ranks begin from rank 0's.

    Raises RecipeError where training.parallel asks for what is not sound.
    """
    if ranks.size == 1:
        return tuning.parameters
    if setup.task == "embed" and setup.recipe.embedding.loss == "in_batch":
        # A share of the rows would be a share of the wrong answers: another loss.
        raise RecipeError(
            "embedding.loss: in_batch compares all rows of a batch with each other, which several "
            "processes do not do yet; use --nproc 1, or embedding.loss=triplet"
        )
    if setup.objective == "grpo":
        raise RecipeError(
            "objective grpo tries its answers in one process, and several do not share them yet; "
            "use --nproc 1"
        )
    base, shape, work = tuning.base, setup.forecast.shape, setup.forecast.work
    needed = room = 0.0
    if setup.device.type == "cuda" and shape is not None and work is not None:
        held: list[nn.Parameter] = list(base.model.parameters())
        room = available_memory(setup.device) + sum(parameter.nbytes for parameter in held)
        needed = forecast_memory(shape, work, "cuda").peak_bytes
    needed, room = ranks.tell([needed, room])
    chosen, why = choose_parallel(
        setup.recipe.training.parallel,
        size=ranks.size,
        quantization=base.quantization,
        has_companion=base.companion is not None,
        needed_bytes=needed,
        room_bytes=room,
    )
    journal.say(f"{ranks.size} processes, {chosen}: {why}")
    ranks.spread([parameter for _, parameter in tuning.parameters])
    if chosen == "fsdp":
        return shard(base.model, tuning.parameters, ranks)
    return tuning.parameters
