"""Every "auto" becomes a value with a reason, and what the user gave stays."""

from dataclasses import replace

from tunewright.config import make_recipe
from tunewright.defaults import Facts, fill_defaults

ENCODER = Facts(
    "classify", "encoder", 22_000_000, 384, 10_000, [12, 40, 90], [], 512, "cpu", True, True
)
LARGE = Facts("chat", "decoder", 8_000_000_000, 4096, 5_000, [100, 3000], [80], 8192, "cuda", False)


def filled(facts, **values):
    return fill_defaults(make_recipe(values), facts)


def test_nothing_stays_auto_and_every_choice_has_a_reason():
    for facts in (ENCODER, LARGE):
        recipe, derived = filled(facts)
        assert all(item.reason for item in derived)
        keys = {item.key for item in derived}
        assert {"training.learning_rate", "adapter.method", "training.max_length"} <= keys
        assert "auto" not in (recipe.training.learning_rate, recipe.training.batch_size)


def test_small_models_are_tuned_whole_and_large_ones_by_adapter():
    assert filled(ENCODER)[0].adapter.method == "full"
    assert filled(LARGE)[0].adapter.method == "lora"


def test_what_the_user_gave_stays():
    recipe, derived = filled(ENCODER, training={"learning_rate": 0.01, "num_epochs": 2})
    assert recipe.training.learning_rate == 0.01 and recipe.training.num_epochs == 2
    assert "training.learning_rate" not in {item.key for item in derived}


def test_learning_rates_follow_the_published_range():
    rate = filled(LARGE)[0].training.learning_rate
    assert 1e-4 <= rate <= 1e-3  # LoRA on an 8B shape
    wide = replace(LARGE, num_parameters=70_000_000_000, hidden_size=8192)
    assert filled(wide)[0].training.learning_rate < rate
    few = replace(ENCODER, num_rows=770)
    assert filled(few)[0].training.learning_rate < filled(ENCODER)[0].training.learning_rate


def test_length_holds_every_row_within_the_models_reach():
    assert filled(ENCODER)[0].training.max_length == 96
    assert filled(LARGE)[0].training.max_length == 2048
    reason = {d.key: d.reason for d in filled(LARGE)[1]}["training.max_length"]
    assert "1 rows are longer" in reason


def test_looks_at_validation_are_neither_none_nor_endless():
    for rows in (50, 770, 10_000, 1_000_000):
        recipe, _ = filled(replace(ENCODER, num_rows=rows))
        training = recipe.training
        steps = training.num_epochs * -(-rows // training.batch_size)
        assert 1 <= steps / training.eval_steps <= 20


def test_packed_weights_and_named_modules_want_an_adapter():
    for section in ({"quantization": "nf4"}, {"modules_to_save": ["pooler"]}):
        recipe, derived = fill_defaults(make_recipe({"adapter": section}), ENCODER)
        assert recipe.adapter.method == "lora"
        assert any(item.key == "adapter.method" for item in derived)
