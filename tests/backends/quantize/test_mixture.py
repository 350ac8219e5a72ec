"""The mixture rules. The expected formats are those that llama-quantize of llama.cpp gives the same shapes."""

from __future__ import annotations

import pytest

from backends.errors import ModelError
from backends.models.spec import ModelSpec
from backends.quantize.mixture import FormatChoice, choose_formats, is_quantizable
from backends.quantize.recipes import RECIPES, UnknownFormat, recipe_by_name


def spec(*, num_layers: int = 16, num_kv_heads: int = 4, num_experts: int = 0) -> ModelSpec:
    return ModelSpec(
        family="llama",
        hidden_size=256,
        num_layers=num_layers,
        num_heads=4,
        num_kv_heads=num_kv_heads,
        head_dim=64,
        ffn_size=256,
        vocab_size=512,
        max_context=64,
        num_experts=num_experts,
    )


def shapes(model: ModelSpec, *, tied: bool = False, columns: int = 256) -> dict[str, tuple[int, ...]]:
    kinds = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (512, columns)}
    found |= {} if tied else {"output.weight": (512, columns)}
    return found | {f"blk.{i}.{kind}.weight": (256, columns) for i in range(model.num_layers) for kind in kinds}


def formats(name: str, model: ModelSpec, **options: bool) -> dict[str, str]:
    choices = choose_formats(
        shapes(model, tied=options.get("tied", False)),
        recipe_by_name(name, pure=options.get("pure", False)),
        model,
        has_importance=options.get("has_importance", False),
    )
    return {tensor: choice.format for tensor, choice in choices.items()}


def by_layer(found: dict[str, str], kind: str, num_layers: int = 16) -> str:
    return "".join(found[f"blk.{i}.{kind}.weight"][1] for i in range(num_layers))


@pytest.mark.parametrize(
    ("name", "values", "down", "output"),
    [
        ("Q2_K", "3" * 16, "3" * 16, "3"),
        ("Q3_K_S", "3" * 16, "3" * 16, "3"),
        ("Q3_K_M", "55" + "4" * 14, "5" + "4" * 15, "4"),
        ("Q3_K_L", "5" * 16, "5" * 16, "5"),
        ("Q4_K_S", "5555" + "4" * 12, "55" + "4" * 14, "4"),
        ("Q4_K_M", "6644644644644666"[:16], "6644644644644666"[:16], "4"),
        ("Q5_K_S", "5" * 16, "5" * 16, "5"),
        ("Q5_K_M", "6655655655655666", "6655655655655666", "5"),
        ("Q6_K", "6" * 16, "6" * 16, "6"),
    ],
)
def test_mixtures_of_k_quants(name: str, values: str, down: str, output: str) -> None:
    """Sensitive matrices get more bits, by layer; the head gets Q6_K and the embedding the base format."""
    found = formats(name, spec())

    assert by_layer(found, "attn_v") == values
    assert by_layer(found, "ffn_down") == down
    assert {found[f"blk.{i}.attn_output.weight"][1] for i in range(16)} == {output}
    assert {by_layer(found, kind) for kind in ("attn_q", "attn_k", "ffn_up", "ffn_gate")} == {name[1] * 16}
    assert (found["output.weight"], found["token_embd.weight"]) == ("Q6_K", RECIPES[name].base)


def test_shared_heads_afford_more_bits() -> None:
    """Values are few with four query heads to a value head: Q2_K stores them as Q4_K."""
    assert by_layer(formats("Q2_K", spec(num_kv_heads=1)), "attn_v") == "4" * 16


def test_models_of_80_layers() -> None:
    """Their values never fall below Q5_K."""
    found = formats("Q4_K_S", spec(num_layers=80, num_kv_heads=1))

    assert set(by_layer(found, "attn_v", 80)) == {"5"}


def test_eight_experts() -> None:
    """Keys and values of such mixtures become Q8_0, outputs of attention Q5_K."""
    found = formats("Q4_K_M", spec(num_experts=8))

    assert by_layer(found, "attn_v") == by_layer(found, "attn_k") == "8" * 16
    assert by_layer(found, "attn_output") == "5" * 16


def test_a_tied_embedding_is_stored_as_the_head() -> None:
    """A tied embedding is stored as the head is: it serves as both, and the head is the more sensitive."""
    assert formats("Q4_K_M", spec(), tied=True)["token_embd.weight"] == "Q6_K"
    assert formats("Q8_0", spec(), tied=True)["token_embd.weight"] == "Q8_0"


def test_pure_means_every_matrix() -> None:
    """Head and embedding included; Q4_K alone says the same."""
    assert set(formats("Q4_K_M", spec(), pure=True).values()) == {"Q4_K"}
    assert set(formats("q4_k", spec()).values()) == {"Q4_K"}


def test_an_importance_matrix_lets_early_layers_of_old_formats_take_minima() -> None:
    """The first eighth of the down projections becomes Q4_1, as in llama.cpp."""
    found = formats("Q4_0", spec(), has_importance=True)

    assert [found[f"blk.{i}.ffn_down.weight"] for i in range(3)] == ["Q4_1", "Q4_1", "Q4_0"]


def test_q2_k_s_needs_importance() -> None:
    """Q2_K_S without an importance file is refused, since its output would be nonsense; the message says what to do."""
    with pytest.raises(ModelError, match="--importance"):
        formats("Q2_K_S", spec())


@pytest.mark.parametrize(
    ("name", "columns", "choice"),
    [
        ("Q2_K", 96, FormatChoice("Q4_0", "Q2_K")),
        ("Q3_K_S", 96, FormatChoice("Q4_0", "Q3_K")),
        ("Q4_K", 96, FormatChoice("Q5_0", "Q4_K")),
        ("Q5_K", 96, FormatChoice("Q5_1", "Q5_K")),
        ("Q6_K", 96, FormatChoice("Q8_0", "Q6_K")),
        ("Q8_K", 96, FormatChoice("Q8_0", "Q8_K")),
        ("Q4_0", 80, FormatChoice("F16", "Q4_0")),
        ("Q4_K", 80, FormatChoice("F16", "Q4_K")),
        ("F32", 7, FormatChoice("F32", "F32")),
    ],
)
def test_rows_that_do_not_fit(name: str, columns: int, choice: FormatChoice) -> None:
    """Rows that do not fit get smaller blocks, then none; the wanted format is recorded."""
    found = choose_formats(shapes(spec(), columns=columns), recipe_by_name(name), spec(), has_importance=False)

    assert found["blk.3.attn_q.weight"] == choice


@pytest.mark.parametrize(
    ("name", "shape", "is_matrix"),
    [
        ("blk.0.attn_q.weight", (4, 4), True),
        ("blk.0.ffn_up_exps.weight", (2, 4, 4), True),
        ("blk.0.attn_q.bias", (4,), False),
        ("blk.0.attn_norm.weight", (4,), False),
        ("blk.0.ffn_gate_inp.weight", (8, 4), False),
        ("rope_freqs.weight", (4,), False),
    ],
)
def test_what_is_never_quantized(name: str, shape: tuple[int, ...], is_matrix: bool) -> None:
    """Vectors, norms and routers keep their values."""
    assert is_quantizable(name, shape) is is_matrix


def test_unknown_names_list_the_known() -> None:
    """The message is the list to choose from."""
    with pytest.raises(UnknownFormat, match="Q4_K_M"):
        recipe_by_name("Q9")
