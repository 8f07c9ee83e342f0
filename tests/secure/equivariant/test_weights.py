"""Files in the shape of Hugging Face's: names, configurations, and what is refused by name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from tests_models import decoder, encoder, tokens

from secure.equivariant import read_directory
from secure.equivariant.errors import BadModel, UnsupportedOperation

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 48,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
    "num_attention_heads": 6,
    "num_hidden_layers": 3,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "torch_dtype": "float32",
    "vocab_size": 300,
}
BERT = {
    "architectures": ["BertForMaskedLM"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 48,
    "intermediate_size": 96,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "type_vocab_size": 2,
    "vocab_size": 300,
}


def llama_tensors(model):
    """Weights under the names that a Llama file has, written out one by one."""
    w, named = model.weights, {}
    named["model.embed_tokens.weight"] = w["embed"]
    named["model.norm.weight"] = w["norm"]
    if "head" in w:
        named["lm_head.weight"] = w["head"]
    for i in range(3):
        at, own = f"model.layers.{i}.", f"layers.{i}."
        named[at + "input_layernorm.weight"] = w[own + "attention_norm"]
        named[at + "post_attention_layernorm.weight"] = w[own + "mlp_norm"]
        for p in "qkvo":
            named[f"{at}self_attn.{p}_proj.weight"] = w[own + p]
            if f"{own}{p}_bias" in w:
                named[f"{at}self_attn.{p}_proj.bias"] = w[f"{own}{p}_bias"]
        for p in ("gate", "up", "down"):
            named[f"{at}mlp.{p}_proj.weight"] = w[own + p]
    return named


def bert_tensors(model, weight="weight", bias="bias"):
    """Weights under the names of a BERT file; old files call a norm's gamma and beta."""
    w = model.weights
    named = {
        "bert.embeddings.word_embeddings.weight": w["embed"],
        "bert.embeddings.position_embeddings.weight": w["positions"],
        "bert.embeddings.token_type_embeddings.weight": w["types"],
    }
    norms = {"bert.embeddings.LayerNorm": "embed_norm"}
    linears = {}
    for i in range(3):
        at, own = f"bert.encoder.layer.{i}.", f"layers.{i}."
        for p in ("query", "key", "value"):
            linears[f"{at}attention.self.{p}"] = own + p[0]
        linears[at + "attention.output.dense"] = own + "o"
        norms[at + "attention.output.LayerNorm"] = own + "attention_norm"
        linears[at + "intermediate.dense"] = own + "up"
        linears[at + "output.dense"] = own + "down"
        norms[at + "output.LayerNorm"] = own + "mlp_norm"
    if "classifier.weight" in w:
        linears["classifier"] = "classifier"
    if "pooler.weight" in w:
        linears["bert.pooler.dense"] = "pooler"
    if "word.weight" in w:
        linears["cls.predictions.transform.dense"] = "word"
        norms["cls.predictions.transform.LayerNorm"] = "word_norm"
        named["cls.predictions.bias"] = w["words.bias"]
        named["cls.predictions.decoder.weight"] = w["words.weight"]
    for theirs, ours in linears.items():
        named |= {f"{theirs}.{p}": w[f"{ours}.{p}"] for p in ("weight", "bias")}
    for theirs, ours in norms.items():
        named[f"{theirs}.{weight}"] = w[f"{ours}.weight"]
        named[f"{theirs}.{bias}"] = w[f"{ours}.bias"]
    return named


def write(path, config, tensors):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file({name: t.clone() for name, t in tensors.items()}, path / "model.safetensors")
    return path


def same(read, model):
    assert read.architecture == model.architecture
    ids = tokens(model, 2, 9)
    assert torch.equal(read.run({"tokens": ids}), model.run({"tokens": ids}))


@pytest.mark.parametrize(
    ("changes", "config"),
    [
        ({}, {}),
        ({"tied": True}, {"tie_word_embeddings": True}),
        ({"bias": True}, {"model_type": "qwen2", "use_sliding_window": False}),
        ({"bias": True}, {"model_type": "qwen2", "sliding_window": 4096}),
        ({"theta": 5e5}, {"rope_theta": 5e5}),
        ({"theta": 5e5}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
        ({"head_width": 10}, {"head_dim": 10}),
        ({"kv_heads": 6}, {"num_key_value_heads": None}),
        ({}, {"model_type": "mistral", "sliding_window": None}),
    ],
    ids=str,
)
def test_a_llama_like_directory(tmp_path, changes, config):
    model = decoder(torch.float32, **changes)
    named = llama_tensors(model)
    named["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    same(read_directory(write(tmp_path / "m", LLAMA | config, named)), model)


@pytest.mark.parametrize("endings", [("weight", "bias"), ("gamma", "beta")])
@pytest.mark.parametrize(
    ("changes", "architecture"),
    [
        ({}, "BertForMaskedLM"),
        ({"head": "tokens", "classes": 5}, "BertForTokenClassification"),
        ({"head": "sequence", "classes": 3}, "BertForSequenceClassification"),
    ],
    ids=str,
)
def test_a_bert_directory(tmp_path, changes, architecture, endings):
    model = encoder(torch.float32, **changes)
    named = bert_tensors(model, *endings)
    named["bert.embeddings.position_ids"] = torch.arange(64)[None]
    config = BERT | {"architectures": [architecture]}
    same(read_directory(write(tmp_path / "m", config, named)), model)


def test_a_tied_word_head_and_an_unread_pooler(tmp_path):
    model = encoder(torch.float32)
    tied = dict(model.weights) | {"words.weight": model.weights["embed"]}
    model = type(model)(model.architecture, tied)
    named = bert_tensors(model)
    del named["cls.predictions.decoder.weight"]
    named["bert.pooler.dense.weight"] = torch.ones(48, 48)
    named["bert.pooler.dense.bias"] = torch.ones(48)
    named["cls.seq_relationship.weight"] = torch.ones(2, 48)
    config = BERT | {"architectures": ["BertForPreTraining"]}
    same(read_directory(write(tmp_path / "m", config, named)), model)


def test_shards(tmp_path):
    model = decoder(torch.float32)
    named = llama_tensors(model)
    path = write(tmp_path / "m", LLAMA, {})
    (path / "model.safetensors").unlink()
    half = list(named)[::2]
    parts = {
        "a.safetensors": {n: named[n] for n in half},
        "b.safetensors": {n: t for n, t in named.items() if n not in half},
    }
    weight_map = {n: file for file, tensors in parts.items() for n in tensors}
    for file, tensors in parts.items():
        save_file(tensors, path / file)
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    same(read_directory(path), model)
    index.write_text(json.dumps({"weight_map": {"x": "../elsewhere/a.safetensors"}}))
    with pytest.raises(BadModel, match="no file beside it"):
        read_directory(path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_widened_exactly(tmp_path, dtype):
    model = decoder(torch.float32)
    named = {n: t.to(dtype) for n, t in llama_tensors(model).items()}
    read = read_directory(write(tmp_path / "m", LLAMA, named))
    assert read.dtype == torch.float32
    assert torch.equal(read.weights["embed"], model.weights["embed"].to(dtype).float())


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"model_type": "gpt2"}, "model_type"),
        ({"model_type": None}, "model_type"),
        ({"hidden_act": "gelu_pytorch_tanh"}, "hidden_act"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_type"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type"),
        ({"model_type": "mistral", "sliding_window": 4096}, "sliding_window"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
    ids=str,
)
def test_a_decoder_that_does_something_else_is_refused_by_name(tmp_path, config, field):
    path = write(tmp_path / "m", LLAMA | config, llama_tensors(decoder(torch.float32)))
    with pytest.raises(UnsupportedOperation, match=field) as caught:
        read_directory(path)
    assert (caught.value.field, caught.value.exit_code) == (field, 2)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"architectures": ["BertForQuestionAnswering"]}, "architectures"),
        ({"architectures": None}, "architectures"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"hidden_act": "mish"}, "hidden_act"),
    ],
    ids=str,
)
def test_an_encoder_that_does_something_else_is_refused_by_name(tmp_path, config, field):
    path = write(tmp_path / "m", BERT | config, bert_tensors(encoder(torch.float32)))
    with pytest.raises(UnsupportedOperation, match=field) as caught:
        read_directory(path)
    assert caught.value.field == field


def test_a_weight_without_a_place_is_refused_by_name(tmp_path):
    named = llama_tensors(decoder(torch.float32))
    extra = "model.layers.1.self_attn.q_norm.weight"
    path = write(tmp_path / "m", LLAMA, named | {extra: torch.ones(8)})
    with pytest.raises(UnsupportedOperation, match=extra) as caught:
        read_directory(path)
    assert caught.value.value == extra


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (lambda n: n.pop("lm_head.weight"), "head"),
        (lambda n: n.pop("model.layers.2.mlp.up_proj.weight"), "layers.2.up"),
        (lambda n: n.update({"model.norm.weight": torch.ones(47)}), "norm"),
        (lambda n: n.update({"model.norm.weight": torch.full((48,), torch.nan)}), "finite"),
    ],
)
def test_weights_that_do_not_agree_are_refused(tmp_path, broken, named):
    tensors = llama_tensors(decoder(torch.float32))
    broken(tensors)
    with pytest.raises(BadModel, match=named):
        read_directory(write(tmp_path / "m", LLAMA, tensors))


def test_quantised_weights_are_refused(tmp_path):
    named = llama_tensors(decoder(torch.float32))
    named["model.layers.0.self_attn.q_proj.weight"] = torch.ones(48, 48, dtype=torch.int8)
    with pytest.raises(UnsupportedOperation, match="int8"):
        read_directory(write(tmp_path / "m", LLAMA, named))


def test_files_that_are_no_model_are_refused(tmp_path):
    path = write(tmp_path / "m", LLAMA, llama_tensors(decoder(torch.float32)))
    (path / "config.json").write_text(
        json.dumps({k: v for k, v in LLAMA.items() if k != "vocab_size"})
    )
    with pytest.raises(BadModel, match="vocab_size"):
        read_directory(path)
    for text in ("{", "[1]"):
        (path / "config.json").write_text(text)
        with pytest.raises(BadModel, match="not"):
            read_directory(path)
    for wrong in (
        {"hidden_size": "48"},
        {"num_attention_heads": 0},
        {"rope_theta": "much"},
        {"rope_parameters": [1]},
        {"rms_norm_eps": None},
        {"vocab_size": -1},
    ):
        (path / "config.json").write_text(json.dumps(LLAMA | wrong | {"head_dim": None}))
        with pytest.raises(BadModel, match=r"config\.json"):
            read_directory(path)
    (path / "config.json").write_text(json.dumps(LLAMA))
    (path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(BadModel, match="not safetensors"):
        read_directory(path)
    (path / "model.safetensors").unlink()
    with pytest.raises(BadModel, match="no such file"):
        read_directory(path)
