"""A cell configuration is a configuration of transformers, in every way in which one is read, written and changed."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoConfig

import sfm
from sfm.nn import CellConfig, CellForSequenceClassification, backbone_config
from sfm.tokenizers import get_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LABELS = {0: "B cell", 1: "T cell", 2: "NK cell"}


@pytest.fixture
def config(make_config: Callable[..., CellConfig]) -> CellConfig:
    """A configuration in which hardly a setting has its default."""
    return make_config(
        "llama",
        sizes={"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        pooling="cls",
        value_embedding="bins",
        n_bins=11,
        sep_token_id=4,
        special_token_ids=[0, 1, 2, 3, 4, 5],
        type_vocab_size=2,
        sparse_prediction=False,
        initializer_range=0.1,
        value_likelihood="zinb",
        pair_mode="cosine",
        pair_margin=0.2,
        pair_temperature=0.5,
        classifier_dropout=0.3,
        sequence_encoder="gru",
        sequence_encoder_layers=2,
        feedforward_sizes=(32, 8),
        sample_pooling="attention",
        head_initializer="xavier_normal",
        label_smoothing=0.1,
        label_weights=(1, 2, 0.5),
        id2label=LABELS,
    )


def plain(config: CellConfig) -> dict[str, Any]:
    """Settings without where they came from."""
    ignored = ("_name_or_path", "transformers_version", "architectures", "dtype")
    settings = {key: value for key, value in config.to_dict().items() if key not in ignored}
    backbone = {key: value for key, value in settings["backbone_config"].items() if key not in ignored}
    return settings | {"backbone_config": backbone}


def test_round_trip_by_directory(config: CellConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    for read in (CellConfig.from_pretrained, AutoConfig.from_pretrained):
        loaded = read(tmp_path)
        assert type(loaded) is CellConfig
        assert plain(loaded) == plain(config)
        assert type(loaded.backbone_config) is type(config.backbone_config)


def test_round_trip_by_dictionary(config: CellConfig) -> None:
    loaded = CellConfig.from_dict(config.to_dict())
    assert plain(loaded) == plain(config)
    assert json.loads(json.dumps(config.to_dict()))["backbone_config"]["model_type"] == "llama"


def test_round_trip_by_file(config: CellConfig, tmp_path: Path) -> None:
    for use_diff in (True, False):
        config.to_json_file(tmp_path / "config.json", use_diff=use_diff)
        assert plain(CellConfig.from_json_file(tmp_path / "config.json")) == plain(config)


def test_json_holds_what_differs(config: CellConfig) -> None:
    diff = config.to_diff_dict()
    assert json.loads(config.to_json_string()) == json.loads(json.dumps(diff))
    assert diff["pooling"] == "cls"
    assert diff["backbone_config"]["model_type"] == "llama"
    assert json.loads(config.to_json_string(use_diff=False)).keys() >= {"vocab_size", "mask_token_id"}
    assert plain(CellConfig.from_dict(json.loads(config.to_json_string()))) == plain(config)


def test_get_config_dict(config: CellConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    settings, unused = CellConfig.get_config_dict(tmp_path)
    assert settings["model_type"] == "sfm_cell"
    assert unused == {}
    loaded, unused = CellConfig.from_pretrained(tmp_path, pooling="max", unheard_of=1, return_unused_kwargs=True)
    assert loaded.pooling == "max"
    assert unused == {"unheard_of": 1}


def test_update(config: CellConfig) -> None:
    config.update({"pooling": "last", "pair_margin": 0.5})
    assert (config.pooling, config.pair_margin) == ("last", 0.5)
    config.update_from_string("pooling=max,n_bins=7,sparse_prediction=true,pair_margin=0.25")
    assert (config.pooling, config.n_bins, config.sparse_prediction, config.pair_margin) == ("max", 7, True, 0.25)
    with pytest.raises(ValueError, match="no_such"):
        config.update_from_string("no_such=1")


def test_backbone_is_a_sub_configuration(config: CellConfig) -> None:
    assert list(CellConfig.sub_configs) == ["backbone_config"]
    for same in (config.backbone_config, config.backbone_config.to_dict()):
        assert plain(CellConfig(40, same))["backbone_config"] == plain(config)["backbone_config"]
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (16, 2, 4)
    assert config.max_position_embeddings == 32


def test_bos_is_the_cell_token(config: CellConfig) -> None:
    assert config.bos_token_id == config.cls_token_id == 2
    config.bos_token_id = 5
    assert config.cls_token_id == 5
    assert "bos_token_id" not in config.to_dict()


def test_settings_of_heads_are_plain_lists(config: CellConfig) -> None:
    assert config.feedforward_sizes == [32, 8]
    assert config.label_weights == [1.0, 2.0, 0.5]
    assert json.loads(config.to_json_string())["label_weights"] == [1.0, 2.0, 0.5]


def test_labels(make_config: Callable[..., CellConfig], tmp_path: Path) -> None:
    named = make_config(id2label=LABELS)
    named.save_pretrained(tmp_path)
    loaded = CellConfig.from_pretrained(tmp_path)
    assert loaded.id2label == LABELS
    assert loaded.num_labels == 3
    assert CellForSequenceClassification(loaded).head.classifier.out_features == 3
    counted = make_config(num_labels=5)
    assert counted.num_labels == len(counted.id2label) == len(counted.label2id) == 5
    assert CellConfig.from_pretrained(tmp_path, num_labels=7).num_labels == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "median"}, "Unknown pooling='median'. Choose one of 'mean', 'cls', 'last', 'max', 'attention'"),
        ({"value_embedding": "bin"}, "Unknown value_embedding='bin'"),
        ({"value_likelihood": "poisson"}, "Unknown value_likelihood='poisson'"),
        ({"pair_mode": "triplet"}, "Unknown pair_mode='triplet'"),
        ({"eos_token_id": 40}, "eos_token_id=40 is not below vocab_size=40"),
        ({"num_labels": 2, "id2label": LABELS}, "num_labels=2, but id2label names 3 labels"),
        ({"id2label": LABELS, "label2id": {"B cell": 0}}, "label2id is not the inverse of id2label"),
        (
            {"problem_type": "single_label_classification", "num_labels": 1},
            "needs two labels or more, but num_labels=1",
        ),
        (
            {"sequence_encoder": "cnn"},
            "Unknown sequence_encoder='cnn'. Choose one of None, 'lstm', 'gru', 'transformer'",
        ),
        ({"sample_pooling": "cls"}, "Unknown sample_pooling='cls'"),
        ({"head_initializer": "ones"}, "Unknown head_initializer='ones'"),
        ({"sequence_encoder": "lstm", "sequence_encoder_layers": 0}, "sequence_encoder_layers=0: it needs a layer"),
        (
            {"sequence_encoder": "lstm", "sizes": {"hidden_size": 15, "num_attention_heads": 3}},
            "sequence_encoder='lstm' shares hidden_size=15 between two directions",
        ),
        (
            {"sequence_encoder": "transformer", "sizes": {"hidden_size": 18, "num_attention_heads": 4}},
            "sequence_encoder='transformer' shares hidden_size=18 among num_attention_heads=4",
        ),
        ({"feedforward_sizes": [8, 0]}, r"feedforward_sizes=\[8, 0\] has a layer without outputs"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0 is not a share"),
        ({"label_smoothing": -0.1}, "label_smoothing=-0.1 is not a share"),
        ({"id2label": LABELS, "label_weights": [1.0, 2.0]}, "label_weights has 2 weights for 3 labels"),
        ({"num_labels": 2, "label_weights": [1.0, -1.0]}, r"label_weights=\[1.0, -1.0\] must be finite"),
        ({"num_labels": 2, "label_weights": [0.0, 0.0]}, "at least one of them positive"),
        ({"num_labels": 2, "label_weights": [1.0, float("nan")]}, "must be finite"),
        ({"num_labels": 1, "label_smoothing": 0.1}, "label_smoothing=0.1 has no meaning for regression"),
        (
            {"num_labels": 2, "problem_type": "regression", "label_weights": [1.0, 1.0]},
            "label_weights=.* has no meaning for regression",
        ),
    ],
)
def test_settings_that_contradict(
    make_config: Callable[..., CellConfig], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(**settings)


def test_unknown_problem_type_is_refused(make_config: Callable[..., CellConfig]) -> None:
    with pytest.raises((ValueError, TypeError), match="problem_type"):
        make_config(problem_type="classification")


@pytest.mark.parametrize("tokenizer", ["rank", "bins", "values"])
def test_for_tokenizer(tokenizer: str) -> None:
    vocabulary = sfm.GeneVocabulary(["CD3E", "MS4A1", "ACTB"])
    chosen = get_tokenizer(tokenizer)(vocabulary)
    config = CellConfig.for_tokenizer(chosen, backbone_config("bert"))
    assert (config.eos_token_id, config.sep_token_id, config.special_token_ids) == (3, 3, [0, 1, 2, 3])
    assert config.value_embedding == chosen.value_kind


def test_old_configurations_describe_the_same_model(make_config: Callable[..., CellConfig]) -> None:
    """What has been added since needs no setting: models saved before load with the same weights."""
    added = ["eos_token_id", "sep_token_id", "type_vocab_size", "value_likelihood", "pair_mode", "pair_margin"]
    added += ["sequence_encoder", "sequence_encoder_layers", "feedforward_sizes", "sample_pooling", "head_initializer"]
    added += ["label_smoothing", "label_weights"]
    settings = make_config(eos_token_id=None).to_dict()
    old = CellConfig.from_dict({key: value for key, value in settings.items() if key not in added})
    assert plain(old) == plain(make_config(eos_token_id=None))


def test_register_for_auto_class(config: CellConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CellConfig, "_auto_class", None)
    CellConfig.register_for_auto_class()
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {"AutoConfig": "_config.CellConfig"}
    assert (tmp_path / "_config.py").exists()


class Hub(BaseHTTPRequestHandler):
    """Answers an upload as the hub does, and keeps the files."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        self.answer({"id": "lab/cells", "sha": "0" * 40, "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?")[0]
        if path.endswith("/preupload/main"):
            wanted = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            self.answer({"files": [file | {"shouldIgnore": False} for file in wanted]})
        elif path.endswith("/commit/main"):
            for entry in map(json.loads, body.splitlines()):
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self.answer(
                {"commitUrl": f"http://{self.headers['Host']}/lab/cells/commit/{'0' * 40}", "commitOid": "0" * 40}
            )
        else:
            self.answer({"url": f"http://{self.headers['Host']}/lab/cells", "id": "lab/cells"})

    def answer(self, content: dict[str, Any]) -> None:
        payload = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, dict[str, bytes]]]:
    handler = type("OneHub", (Hub,), {"files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler.files
    server.shutdown()
    server.server_close()
    thread.join()


# In a process of its own: huggingface_hub reads its settings once, at import.
PUSH = """
import sys
from sfm.nn import CellConfig
CellConfig.from_pretrained(sys.argv[1]).push_to_hub("lab/cells", token="hf_none")
"""


def test_push_to_hub(hub: tuple[str, dict[str, bytes]], config: CellConfig, tmp_path: Path) -> None:
    endpoint, files = hub
    config.save_pretrained(tmp_path / "config")
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", PUSH, str(tmp_path / "config")]
    result = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert set(files) == {"config.json", "README.md"}
    assert plain(CellConfig.from_dict(json.loads(files["config.json"]))) == plain(config)
