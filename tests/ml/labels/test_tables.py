"""ml/labels: files of labels are imported whole or not at all, and exported again."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from rich.console import Console

from common.captures import Captures, Label
from ml.data.cifar10 import CLASSES
from ml.labels.main import export_table, import_table, main
from ml.labels.tables import LabelsError, read_table
from tests.ml.labels.store import NOON, answer, filled, request_id

MODEL = str(Path("ml/bundled/model.onnx").absolute())


@pytest.fixture
def captures(tmp_path: Path) -> Captures:
    return filled(tmp_path / "captures", [answer(number) for number in range(4)])


def csv(folder: Path, *lines: str) -> Path:
    path = folder / "labels.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def taken(captures: Captures, path: Path, **more: object) -> tuple[int, int]:
    return import_table(captures, path, labeller="import", model=MODEL, now=NOON, **more)  # type: ignore[arg-type]


def test_a_csv_file_becomes_statements_of_its_labellers(captures: Captures, tmp_path: Path) -> None:
    path = csv(
        tmp_path,
        "request_id,index,label,labeller",
        f"{request_id(1)},0,cat,ada",
        f"{request_id(2).upper()},,dog,",
    )
    assert taken(captures, path) == (2, 0)
    said = captures.labels()
    assert said == [
        Label(request_id(1), 0, "cat", "ada", NOON),
        Label(request_id(2), 0, "dog", "import", NOON),
    ]


def test_a_parquet_file_becomes_the_same(captures: Captures, tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    rows = {
        "request_id": [request_id(1), request_id(2)],
        "index": [0, None],
        "label": ["cat", "dog"],
    }
    parquet.write_table(pa.table(rows), path)
    assert taken(captures, path) == (2, 0)
    assert [(label.key, label.label) for label in captures.labels()] == [
        ((request_id(1), 0), "cat"),
        ((request_id(2), 0), "dog"),
    ]


def test_the_same_file_twice_is_one(captures: Captures, tmp_path: Path) -> None:
    path = csv(tmp_path, "request_id,label", f"{request_id(1)},cat", f"{request_id(1)},cat")
    assert taken(captures, path) == (1, 0)
    assert import_table(captures, path, labeller="import", model=MODEL, now=NOON + 9) == (0, 1)
    assert len(captures.labels()) == 1


@pytest.mark.parametrize(
    ("line", "row", "column"),
    [
        ("xyz,0,cat,ada", 3, "request_id"),
        (",0,cat,ada", 3, "request_id"),
        (f"{request_id(2)},0,,ada", 3, "label"),
        (f"{request_id(2)},minus,cat,ada", 3, "index"),
        (f"{request_id(2)},10000,cat,ada", 3, "index"),
        (f"{request_id(2)},0,cat,Ada Lovelace", 3, "labeller"),
        (f"{request_id(1)},0,dog,ada", 3, "label"),  # says another in the row before
        (f"{request_id(2)},0,zebra,ada", 3, "label"),
        (f"{request_id(99)},0,cat,ada", 3, "request_id"),
        (f"{request_id(2)},1,cat,ada", 3, "request_id"),
    ],
)
def test_a_wrong_row_is_named_and_nothing_is_imported(
    captures: Captures, tmp_path: Path, line: str, row: int, column: str
) -> None:
    path = csv(tmp_path, "request_id,index,label,labeller", f"{request_id(1)},0,cat,ada", line)
    with pytest.raises(LabelsError, match=rf"(?s)labels.csv.*row {row}, column {column}"):
        taken(captures, path)
    assert captures.labels() == []


def test_answers_that_are_gone_can_be_left_out(captures: Captures, tmp_path: Path) -> None:
    path = csv(tmp_path, "request_id,label", f"{request_id(1)},cat", f"{request_id(99)},cat")
    assert taken(captures, path, skip_unknown=True) == (1, 0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "id,label\n1,cat\n"),
        ("labels.csv", ""),
        ("labels.txt", "request_id,label\n"),
        ("labels.parquet", "no Parquet"),
    ],
)
def test_a_file_that_is_no_table_of_labels_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(LabelsError, match=name.replace(".", "[.]")):
        read_table(tmp_path / name, "import", NOON)
    with pytest.raises(LabelsError, match="missing"):
        read_table(tmp_path / f"missing{Path(name).suffix}", "import", NOON)


@settings(deadline=None, max_examples=10)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(CLASSES), st.sampled_from("ab"))),
    st.sampled_from([".csv", ".parquet"]),
)
def test_what_is_exported_can_be_imported_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[int, str, str]], ending: str
) -> None:
    folder = tmp_path_factory.mktemp("labels")
    one, other = (filled(folder / name, [answer(n) for n in range(4)]) for name in ("one", "other"))
    for turn, (number, label, labeller) in enumerate(said):
        assert one.say(Label(request_id(number), 0, label, labeller, NOON + turn))
    count = export_table(one, folder / f"labels{ending}")
    assert count == len({(number, labeller) for number, _, labeller in said})
    assert taken(other, folder / f"labels{ending}") == (count, 0)
    assert {k: v.said for k, v in other.verdicts().items()} == {
        k: v.said for k, v in one.verdicts().items()
    }


def run(*arguments: str) -> tuple[int, str]:
    file = io.StringIO()
    code = main(arguments, Console(file=file, width=120))
    return code, file.getvalue()


def test_the_command_imports_counts_and_forgets(
    captures: Captures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KILN_CAPTURE", str(tmp_path / "captures"))
    path = csv(
        tmp_path,
        "request_id,label,labeller",
        *(f"{request_id(n)},cat,{name}" for n in (1, 2) for name in ("ada", "ben")),
        f"{request_id(3)},dog,ada",
    )
    assert run("import", str(path), "--model", MODEL)[0] == 0
    code, text = run("status", "--json")
    found = json.loads(text)
    assert code == 0
    assert (found["captured"], found["labelled"], found["labels"]) == (4, 3, {"cat": 2, "dog": 1})
    assert found["labellers"] == {"ada": 3, "ben": 2}
    [pair] = found["agreement"]
    assert (pair["one"], pair["other"], pair["both"], pair["same"]) == ("ada", "ben", 2, 2)
    assert "4" in run("status")[1]
    assert run("forget", request_id(1))[0] == 0
    assert run("forget", request_id(1))[0] == 1
    assert json.loads(run("status", "--json")[1])["captured"] == 3


def test_the_command_says_what_is_wrong_with_code_2(
    captures: Captures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILN_REGISTRY", str(tmp_path / "registry"))
    path = csv(tmp_path, "request_id,label", f"{request_id(1)},cat")
    where = str(tmp_path / "captures")
    code, text = run("import", str(path), "--captures", where)
    assert (code, "--model" in text) == (2, True)  # whose classes are meant is not known
    code, text = run("import", str(path), "--captures", where, "--model", str(path))
    assert (code, path.name in text) == (2, True)  # which is no model
    assert run("import", str(path), "--captures", "gs://bucket")[0] == 2
    assert run("export", "--captures", where, "--out", str(tmp_path / "labels.txt"))[0] == 2
    (tmp_path / "folder.csv").mkdir()
    assert run("export", "--captures", where, "--out", str(tmp_path / "folder.csv"))[0] == 2
