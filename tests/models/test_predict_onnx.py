"""The script beside an exported model: its words, its files, its exit codes. What it answers is tested with the export."""

import csv
import sys

import dicom_files
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from tlutils.models import predict_onnx


@pytest.fixture
def model(tmp_path):
    """An ONNX file that answers by the first pixel alone, from 0.4 on B."""
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    full = helper.make_tensor("full", TensorProto.FLOAT, [1], [255.0])
    corner = [helper.make_tensor(name, TensorProto.INT64, [2], value)
              for name, value in (("start", [0, 0]), ("end", [1, 1]), ("axes", [2, 3]))]  # fmt: skip
    flat = helper.make_tensor("flat", TensorProto.INT64, [2], [-1, 1])
    nodes = [
        helper.make_node("Slice", ["images", "start", "end", "axes"], ["first"]),
        helper.make_node("Reshape", ["first", "flat"], ["column"]),
        helper.make_node("Cast", ["column"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["real", "full"], ["b"]),
        helper.make_node("Sub", ["one", "b"], ["a"]),
        helper.make_node("Concat", ["a", "b"], ["probabilities"], axis=1),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 1, 8, 8])
    out = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])
    graph = helper.make_graph(nodes, "g", [images], [out], [one, full, *corner, flat])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    about = {"classes": '["A", "=B"]', "threshold": "0.4", "reading": '{"size": 8}',
             "notes": '["phantom images"]'}  # fmt: skip
    helper.set_model_props(made, about)
    onnx.save(made, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def grey(file, value):
    Image.new("L", (20, 10), value).save(file)


def test_a_csv_is_printed_or_written_that_spreadsheets_may_open(
    model, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    grey("=1.png", 0), grey("-2.png", 102), grey("c.png", 255)
    names = ["=1.png", "-2.png", "c.png"]
    assert predict_onnx.main(["--model", str(model), "--", *names]) == 0
    out, err = capsys.readouterr()
    rows = list(csv.reader(out.splitlines()))
    assert rows[0] == ["path", "p_A", "p_=B", "predicted"]
    assert [row[0] for row in rows[1:]] == ["./=1.png", "./-2.png", "c.png"]
    assert [row[3] for row in rows[1:]] == ["A", "'=B", "'=B"]
    assert [float(row[2]) for row in rows[1:]] == [0, np.float32(0.4), 1]
    assert "(phantom images; not a medical device)" in err
    rule = "=B is answered from a probability of 0.400 on. That is the threshold of the run."
    assert rule in err.splitlines()
    for _ in range(2):  # its own table it may replace
        assert predict_onnx.main(["--model", str(model), "--out", "a/b.csv", "--", *names]) == 0
        assert (tmp_path / "a" / "b.csv").read_text() == out


@pytest.mark.parametrize(
    "kept",
    [
        b"path,label\nx.png,ill\n",
        b"path,p_value,predicted\n",
        b"",
        b"\n",
        b"\xff\0\r" * 99,
        b'"' + b"x" * 200_000,
    ],
)
def test_no_file_of_another_kind_is_replaced(kept, model, tmp_path, capsys):
    grey(tmp_path / "a.png", 9)
    (tmp_path / "list.csv").write_bytes(kept)
    words = ["--model", str(model), str(tmp_path / "a.png"), "--out", str(tmp_path / "list.csv")]
    assert predict_onnx.main(words) == 2
    assert "there already and is no table of answers" in capsys.readouterr().err
    assert (tmp_path / "list.csv").read_bytes() == kept


@pytest.mark.parametrize(
    ("kept", "words"),
    [({"adapted": '"siteA"'}, "That is the threshold of siteA."), ({"threshold": "null"}, "")],
)
def test_the_threshold_is_told_where_there_is_one(kept, words, model, tmp_path, capsys):
    made = onnx.load(model)
    about = {one.key: one.value for one in made.metadata_props}
    helper.set_model_props(made, about | kept)
    onnx.save(made, model)
    grey(tmp_path / "a.png", 9)
    assert predict_onnx.main(["--model", str(model), str(tmp_path / "a.png")]) == 0
    err = capsys.readouterr().err
    assert words in err and ("threshold" in err) == bool(words)


def test_unreadable_files_are_named_and_nothing_else_is_wrong_unless_all_are(
    model, tmp_path, capsys
):
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "bad.png").write_bytes(b"no image")
    assert predict_onnx.main(["--model", str(model), str(folder)]) == 2
    assert "bad.png: not an image" in capsys.readouterr().err
    for i in range(40):  # more than go through the model at once
        grey(folder / f"{i}.png", i)
    assert predict_onnx.main(["--model", str(model), str(folder)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 41 and "bad.png: not an image" in err


def test_what_all_lack_a_package_for_is_told_once(model, tmp_path, capsys, monkeypatch):
    for i in range(3):
        made = dicom_files.of(np.full((8, 8), i, np.uint8))
        (tmp_path / f"{i}.dcm").write_bytes(dicom_files.encoded(made))
    for name in [name for name in sys.modules if name.startswith("pydicom.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert predict_onnx.main(["--model", str(model), str(tmp_path)]) == 3
    capsys.readouterr()
    grey(tmp_path / "a.png", 9)
    assert predict_onnx.main(["--model", str(model), str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 and err.count("pip install 'pydicom") == 1
    assert "left out: 2 more for the same reason" in err


def test_what_is_missing_or_wrong_is_one_line(model, tmp_path, capsys):
    grey(tmp_path / "a.png", 9)
    (tmp_path / "x.onnx").write_bytes(b"no model")
    for words, code, told in (
        (["--model", str(tmp_path / "none.onnx"), str(tmp_path)], 3, "there is no model"),
        (["--model", str(model), str(tmp_path / "none.png")], 3, "no image or folder"),
        (["--model", str(tmp_path / "x.onnx"), str(tmp_path)], 2, "no model that tlutils has"),
        ([str(tmp_path)], 2, "say which model"),
        (["none.png", "--out", "a.parquet"], 2, "a name that ends in .csv"),  # before it looks
        (["none.png", "--out", str(tmp_path)], 2, "is a folder; give the name of a file"),
    ):
        assert predict_onnx.main(words) == code
        err = capsys.readouterr().err
        assert told in err and err.count("\n") == 1
