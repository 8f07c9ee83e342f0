"""Models from outside: directories in the shape of Hugging Face's, and torch modules.

`read_directory` takes `config.json` and `model.safetensors` (or its shards) of a Llama-like decoder
or a BERT-like encoder and needs no library but safetensors; nothing of the directory is executed.
What the description has no place for is refused by name, never left out silently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from secure.equivariant.architecture import Architecture
from secure.equivariant.decoder import Decoder
from secure.equivariant.encoder import Encoder
from secure.equivariant.errors import BadModel, UnsupportedOperation
from secure.equivariant.model import Model
from secure.errors import SecureError

LLAMA = {
    "model.embed_tokens.weight": "embed",
    "model.layers.{}.input_layernorm.weight": "layers.{}.attention_norm",
    "model.layers.{}.self_attn.q_proj.weight": "layers.{}.q",
    "model.layers.{}.self_attn.q_proj.bias": "layers.{}.q_bias",
    "model.layers.{}.self_attn.k_proj.weight": "layers.{}.k",
    "model.layers.{}.self_attn.k_proj.bias": "layers.{}.k_bias",
    "model.layers.{}.self_attn.v_proj.weight": "layers.{}.v",
    "model.layers.{}.self_attn.v_proj.bias": "layers.{}.v_bias",
    "model.layers.{}.self_attn.o_proj.weight": "layers.{}.o",
    "model.layers.{}.post_attention_layernorm.weight": "layers.{}.mlp_norm",
    "model.layers.{}.mlp.gate_proj.weight": "layers.{}.gate",
    "model.layers.{}.mlp.up_proj.weight": "layers.{}.up",
    "model.layers.{}.mlp.down_proj.weight": "layers.{}.down",
    "model.norm.weight": "norm",
    "lm_head.weight": "head",
}
"""Names of Llama, Mistral and Qwen2 files; `{}` is the layer."""

_BERT_PARTS = {
    "bert.embeddings.LayerNorm": "embed_norm",
    "bert.encoder.layer.{}.attention.self.query": "layers.{}.q",
    "bert.encoder.layer.{}.attention.self.key": "layers.{}.k",
    "bert.encoder.layer.{}.attention.self.value": "layers.{}.v",
    "bert.encoder.layer.{}.attention.output.dense": "layers.{}.o",
    "bert.encoder.layer.{}.attention.output.LayerNorm": "layers.{}.attention_norm",
    "bert.encoder.layer.{}.intermediate.dense": "layers.{}.up",
    "bert.encoder.layer.{}.output.dense": "layers.{}.down",
    "bert.encoder.layer.{}.output.LayerNorm": "layers.{}.mlp_norm",
    "bert.pooler.dense": "pooler",
    "classifier": "classifier",
    "cls.predictions.transform.dense": "word",
    "cls.predictions.transform.LayerNorm": "word_norm",
    "cls.predictions.decoder": "words",
}
# Files converted from the first release call a norm's weight and bias gamma and beta.
_ENDINGS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
BERT = {
    "bert.embeddings.word_embeddings.weight": "embed",
    "bert.embeddings.position_embeddings.weight": "positions",
    "bert.embeddings.token_type_embeddings.weight": "types",
    "cls.predictions.bias": "words.bias",
    **{
        f"{theirs}.{ending}": f"{ours}.{kept}"
        for theirs, ours in _BERT_PARTS.items()
        for ending, kept in _ENDINGS.items()
    },
}
"""Names of BERT files; `{}` is the layer."""

NOT_WEIGHTS = re.compile(r".*\.rotary_emb\.inv_freq|bert\.embeddings\.position_ids")
"""Buffers that some files carry and that the description implies."""

BERT_HEADS: dict[str, Literal["tokens", "sequence", "masked"]] = {
    "BertForTokenClassification": "tokens",
    "BertForSequenceClassification": "sequence",
    "BertForMaskedLM": "masked",
    "BertForPreTraining": "masked",
}


def read_directory(path: Path) -> Model:
    """Read a model from a directory with `config.json` and safetensors.

    Raises `UnsupportedOperation` where the model does something that cannot be sealed exactly,
    with its name, and `BadModel` where files, names or shapes do not agree.
    """
    config = _json(path / "config.json")
    match config.get("model_type"):
        case "llama" | "mistral" | "qwen2":
            describe, table = _decoder, LLAMA
        case "bert":
            describe, table = _encoder, BERT
        case other:
            raise UnsupportedOperation(
                f"model_type: {other!r} is not known",
                field="model_type",
                value=other,
                allowed=["llama", "mistral", "qwen2", "bert"],
            )
    if "quantization_config" in config:
        raise UnsupportedOperation(
            "quantization_config: quantised weights cannot be sealed", field="quantization_config"
        )
    weights = _renamed(_tensors(path), table)
    try:
        architecture = describe(config, weights)
    except KeyError as error:
        name = str(error.args[0])
        raise BadModel(f"{path}: {name} is missing", field=name) from None
    except SecureError:
        raise
    except (ValidationError, AttributeError, TypeError, ValueError, ZeroDivisionError):
        raise BadModel(f"{path}: config.json makes no model", field="config") from None
    return Model(architecture, weights)


def _decoder(config: Mapping[str, Any], weights: dict[str, Tensor]) -> Architecture:
    rotary = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or rotary
    _only(config, "hidden_act", "silu", "silu")
    _only(config, "mlp_bias", False, False)
    _only({"rope_type": scaling.get("rope_type", "default")}, "rope_type", "default", "default")
    if config.get("use_sliding_window", config["model_type"] != "qwen2"):
        _only(config, "sliding_window", None, None)
    heads = config["num_attention_heads"]
    tied = "head" not in weights and bool(config.get("tie_word_embeddings", False))
    return Decoder(
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_width=config.get("head_dim") or config["hidden_size"] // heads,
        hidden=config["intermediate_size"],
        positions=config["max_position_embeddings"],
        theta=float(rotary.get("rope_theta", config.get("rope_theta", 10000.0))),
        epsilon=config["rms_norm_eps"],
        bias=any(name.endswith(".q_bias") for name in weights),
        tied=tied,
    )


def _encoder(config: Mapping[str, Any], weights: dict[str, Tensor]) -> Architecture:
    named = (config.get("architectures") or [None])[0]
    if named not in BERT_HEADS:
        raise UnsupportedOperation(
            f"architectures: {named!r} is not known",
            field="architectures",
            value=named,
            allowed=list(BERT_HEADS),
        )
    _only(config, "position_embedding_type", "absolute", "absolute")
    _only(config, "is_decoder", False, False)
    acts = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
    act = config.get("hidden_act", "gelu")
    if act not in {*acts, "relu", "silu"}:
        _only(config, "hidden_act", "gelu", "gelu")
    head = BERT_HEADS[named]
    if head == "masked":
        weights.setdefault("words.weight", weights["embed"])
    if head != "sequence":  # a pooled state that nothing reads
        weights.pop("pooler.weight", None)
        weights.pop("pooler.bias", None)
    return Encoder(
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
        types=config["type_vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
        epsilon=config["layer_norm_eps"],
        activation=acts.get(act, act),
        head=head,
        classes=0 if head == "masked" else len(weights["classifier.weight"]),
    )


def _only(config: Mapping[str, Any], field: str, default: object, wanted: object) -> None:
    found = config.get(field, default)
    if found != wanted:
        raise UnsupportedOperation(
            f"{field}: {found!r} cannot be sealed; only {wanted!r}",
            field=field,
            value=found,
            allowed=wanted,
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        raise BadModel(f"{path}: not JSON", field="config", value=str(path)) from None
    if not isinstance(document, dict):
        raise BadModel(f"{path}: not a JSON object", field="config", value=str(path))
    return document


def _tensors(path: Path) -> dict[str, Tensor]:
    index = path / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        names = set(map(str, _json(index).get("weight_map", {}).values()))
    tensors: dict[str, Tensor] = {}
    for name in sorted(names):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise BadModel(f"{index}: {name!r} is no file beside it", field="weight_map")
        if not (path / name).is_file():
            raise BadModel(f"{path / name}: no such file", field="weights", value=str(path / name))
        try:
            tensors |= load_file(path / name)
        except SafetensorError:
            raise BadModel(f"{path / name}: not safetensors", field="weights") from None
    return tensors


def _renamed(tensors: Mapping[str, Tensor], table: Mapping[str, str]) -> dict[str, Tensor]:
    weights = {}
    for name, tensor in tensors.items():
        if NOT_WEIGHTS.fullmatch(name) or name.startswith("cls.seq_relationship."):
            continue  # the second head of BertForPreTraining answers another question
        found = re.search(r"\.(\d+)\.", name)
        general = name.replace(found[0], ".{}.", 1) if found else name
        if general not in table:
            raise UnsupportedOperation(
                f"{name}: an operation that this sealing does not know",
                field="weights",
                value=name,
                allowed=sorted(set(table)),
            )
        weights[table[general].format(found[1] if found else "")] = tensor
    return weights
