"""Options of adapter methods are checked to the last key, without torch."""

import pytest

from tunewright.config import AdapterSection, dump_recipe, parse_recipe, with_values
from tunewright.errors import RecipeError
from tunewright.methods import METHODS, SHARED_KEYS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adapter: {method: vera, d_initial: -1}", "r:1: adapter.d_initial is -1; input should be"),
        ("adapter: {method: vera, alpha: 3}", "adapter.alpha means nothing for method vera"),
        ("adapter: {method: lora, d_initial: 3}", "d_initial is an option of vera, not of lora"),
        ("adapter:\n  method: verra", "r:2: adapter.method is 'verra'; did you mean vera"),
        ("adapter: {method: lora+}", "did you mean lora_plus"),
        ("adapter: {d_initial: 3}", "belongs to one method; set adapter.method as well"),
        ("adapter: {method: lora, alhpa: 3}", "unknown key adapter.alhpa; did you mean alpha"),
        ("adapter: {method: lora, lora_r: 3}", "here it is called adapter.r"),
        ("adapter: {method: lora, learning_rate: 1}", "did you mean training.learning_rate"),
        ("adapter: {method: ia3, zzz: 1}", "known here: method, target_modules"),
    ],
)
def test_mistakes_name_key_and_remedy(text, message):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "r")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_recipe_and_its_options_survive_writing(name):
    options = METHODS[name].options()
    section = {"method": name, **options.model_dump()}
    recipe = with_values(parse_recipe("", "r"), {"adapter": section})
    assert recipe.adapter.options == options
    assert parse_recipe(dump_recipe(recipe), "r") == recipe
    assert METHODS[name].takes <= set(SHARED_KEYS)


def test_a_recipe_becomes_one_for_full_tuning_by_its_method_alone():
    assert parse_recipe("adapter: {method: full, r: 8, alpha: 4}", "r").adapter.r == 8


def test_every_option_is_documented():
    for name, method in METHODS.items():
        for key, info in method.options.model_fields.items():
            assert info.description, (name, key)
    assert all(AdapterSection.model_fields[key].description for key in SHARED_KEYS)
