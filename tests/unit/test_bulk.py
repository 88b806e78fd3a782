"""Rows of files become requests, and every error has its line."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from runtime import cli
from runtime.bulk import Importable
from runtime.bulk.exporting import written
from runtime.bulk.requests import Creation
from runtime.bulk.rows import Refusal, Row, UnusableFile
from runtime.bulk.source import opened
from runtime.cli import app
from tests.support import data

EXAMPLES = Path(__file__).parents[2] / "examples" / "import"
VISITOR_ID = "5f0c8a0e-6f3a-4a53-9e5e-0d7e2f0f3c11"


@pytest.fixture(autouse=True)
def logs_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands leave the logging of this process alone."""
    monkeypatch.setattr(cli, "load_settings_and_configure_logs", cli.load_settings)


def _rows(file: Path, content: str | bytes, resource: Importable = Importable.vehicles) -> list[Row | Refusal]:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with opened(file) as source:
        return list(source.rows(Creation(resource).types))


def _codes(refusal: Row | Refusal) -> list[str]:
    assert isinstance(refusal, Refusal)
    return [entry["code"] for entry in refusal.errors]


def test_cells_become_the_json_values_of_their_fields_and_empty_cells_are_left_out(tmp_path: Path) -> None:
    rows = _rows(
        tmp_path / "v.csv",
        f'visitorId,licensePlate,yearOfManufacture,color\r\n{VISITOR_ID},"AB ""1"", x",2020,\r\n',
    )
    assert rows == [Row(2, {"visitorId": VISITOR_ID, "licensePlate": 'AB "1", x', "yearOfManufacture": 2020})]


def test_flags_and_lists_of_csv_are_read_as_spreadsheets_write_them(tmp_path: Path) -> None:
    optins = '"[{""optinType"": ""loyalty"", ""optinChannel"": ""email"", ""isActive"": true}]"'
    (row,) = _rows(tmp_path / "v.csv", f"\ufeffemailVerified,optins\nTRUE,{optins}\n", Importable.visitors)
    assert isinstance(row, Row)
    assert row.fields == {
        "emailVerified": True,
        "optins": [{"optinType": "loyalty", "optinChannel": "email", "isActive": True}],
    }


def test_semicolons_separate_cells_if_the_first_line_has_no_comma(tmp_path: Path) -> None:
    rows = _rows(tmp_path / "v.csv", f"visitorId;licensePlate\n{VISITOR_ID};A,1\n")
    assert rows == [Row(2, {"visitorId": VISITOR_ID, "licensePlate": "A,1"})]


def test_a_row_of_several_lines_has_the_number_of_its_first_line(tmp_path: Path) -> None:
    rows = _rows(tmp_path / "v.csv", 'licensePlate,name\nA1,"two\nlines"\n\nB2,one\nC3\n')
    assert [row.line for row in rows] == [2, 5, 6]
    assert _codes(rows[2]) == ["wrong_cell_count"]


def test_a_row_that_is_not_utf8_or_not_csv_is_refused_alone(tmp_path: Path) -> None:
    rows = _rows(tmp_path / "v.csv", b'licensePlate,name\nA1,M\xfcller\nB2,Muller\nC3,"x"y\n')
    assert isinstance(rows[1], Row)
    assert [_codes(rows[0]), _codes(rows[2])] == [["not_utf8"], ["not_csv"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("licensePlate,colour\n", "colour"),
        ("color,licensePlate,color\n", "same name: color"),
        ("a" * 1_100_000 + "\n", "unknown columns: 'a{40}'"),
        ('"color,licensePlate\n', "not CSV"),
        (",licensePlate\n", "no name for column 1"),
        (";;\nA1;x;y\n", "no names of columns"),
        ("licensePlate,Color\n", "unknown columns: 'Color'"),
        (b"\xff\xfel\x00", "UTF-16"),
        (b"\x1f\x8b\x08", "gunzip"),
        (b"PK\x03\x04", "spreadsheet"),
    ],
)
def test_a_first_line_that_names_no_fields_refuses_the_file(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(UnusableFile, match=message):
        _rows(tmp_path / "v.csv", content)


@pytest.mark.parametrize("content", [b"\xff\xfe{\x00}\x00", b"\x1f\x8b\x08"])
def test_json_lines_in_another_encoding_refuse_the_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UnusableFile, match=r"UTF-16|gunzip"):
        _rows(tmp_path / "v.jsonl", content)


@pytest.mark.parametrize(
    "content",
    [
        "licensePlate;name;;\r\nA1;x;;\r\n;;;\r\nB2;y;;\r\n",
        "sep=;\r\nlicensePlate;name\r\nA1;x\r\n\r\nB2;y\r\n",
        '"sep=|"\r\nlicensePlate|name\r\nA1|x\r\n|\r\nB2|y',
        "\n\nlicensePlate\t name \nA1\tx\n\t\nB2\ty\t\n",
    ],
    ids=["empty columns and rows", "sep", "quoted sep", "tabs"],
)
def test_csv_is_read_as_spreadsheets_and_databases_write_it(tmp_path: Path, content: str) -> None:
    rows = _rows(tmp_path / "v.csv", content)
    plates = [line for line, text in enumerate(content.splitlines(), 1) if text[:2] in ("A1", "B2")]
    assert rows == [
        Row(line, {"licensePlate": plate, "name": name})
        for line, (plate, name) in zip(plates, [("A1", "x"), ("B2", "y")], strict=True)
    ]


@pytest.mark.parametrize(
    ("column", "cell", "value"),
    [
        ("birthYear", "1990.0", 1990),
        ("birthYear", "-9999999999999999999", "-9999999999999999999"),
        ("birthYear", "1990.5", "1990.5"),
        ("emailVerified", "t", True),
        ("emailVerified", "0", False),
        ("registrationDate", "2024-01-02 03:04:05.5+00", "2024-01-02 03:04:05.5+00:00"),
        ("registrationDate", "2024-01-02T03:04:05-03:30", "2024-01-02T03:04:05-03:30"),
    ],
)
def test_a_cell_of_another_program_has_the_value_that_it_means(
    tmp_path: Path, column: str, cell: str, value: Any
) -> None:
    rows = _rows(tmp_path / "v.csv", f"email,lastName,{column}\na@b.example,\\N,{cell}\n", Importable.visitors)
    assert rows == [Row(2, {"email": "a@b.example", column: value})]


@pytest.mark.parametrize("cell", ["3.36123E+10", "3,36E+10", "#N/A", "#DIV/0!", '="0612345678"'])
def test_a_text_that_a_spreadsheet_has_replaced_is_refused(tmp_path: Path, cell: str) -> None:
    quoted = cell.replace('"', '""')
    (row,) = _rows(tmp_path / "v.csv", f'phone;email\n"{quoted}";a@b.example\n', Importable.visitors)
    assert _codes(row) == ["spreadsheet_value"]
    assert isinstance(row, Refusal)
    assert (row.line, row.errors[0]["field"]) == (2, "phone")


def test_a_missing_quote_hides_no_rows(tmp_path: Path) -> None:
    """The next quote ends the cell, which then has whole rows; without one, the rest of the file is one row."""
    header = "licensePlate,name,color\n"
    (merged, last) = _rows(tmp_path / "v.csv", header + 'A1,"x,red\nB2,y,red\nC3,z",red\nD4,z,red\n')
    assert _codes(merged) == ["rows_in_cell"]
    assert last.line == 5
    (address,) = _rows(tmp_path / "v.csv", header + 'A1,"Rue X,\nParis",red\n')
    assert isinstance(address, Row)
    (rest,) = _rows(tmp_path / "v.csv", header + 'A1,"x,red\nB2,y,red\nC3,z,red\n')
    assert isinstance(rest, Refusal)
    assert rest.errors[0]["message"].startswith("The row of lines 2 to 4 is not CSV")


def test_a_deleted_record_of_an_export_is_refused(tmp_path: Path) -> None:
    deleted = {"visitorId": VISITOR_ID, "licensePlate": "AB-1", "deletionDate": "2026-01-02T03:04:05Z"}
    status, refused, _ = _dry_run(tmp_path / "v.jsonl", "vehicles", [deleted, deleted | {"deletionDate": None}])
    assert (status, [line["line"] for line in refused]) == (1, [1])
    assert refused[0]["errors"][0]["code"] == "deleted"


def test_a_file_that_changes_while_it_is_read_is_not_read_further(tmp_path: Path) -> None:
    """Its rows would get the ids of other rows."""
    file = tmp_path / "v.jsonl"
    file.write_text(1_000 * '{"licensePlate": "A1"}\n')
    with opened(file) as source:
        rows = source.rows({"licensePlate": str})
        next(rows)
        with file.open("a") as stream:
            stream.write('{"licensePlate": "B2"}\n')
        with pytest.raises(UnusableFile, match="was changed"):
            next(rows)


def test_a_file_that_is_replaced_while_it_is_read_is_read_to_its_end(tmp_path: Path) -> None:
    file, other = tmp_path / "v.jsonl", tmp_path / "w.jsonl"
    file.write_text('{"licensePlate": "A1"}\n')
    other.write_text('{"licensePlate": "B2"}\n')
    with opened(file) as source:
        other.replace(file)
        assert list(source.rows({"licensePlate": str})) == [Row(1, {"licensePlate": "A1"})]


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "v.csv"
    os.mkfifo(pipe)
    result = CliRunner().invoke(app, ["import", "vehicles", str(pipe), "--dry-run"])
    assert result.exit_code == 2
    assert "regular" in result.stderr  # The terminal breaks lines.


def test_a_wrong_first_line_is_reported_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISITOR_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    file = tmp_path / "v.csv"
    file.write_text("colour\n")
    result = CliRunner().invoke(app, ["import", "vehicles", str(file)])
    assert result.exit_code == 2
    assert "colour" in result.stderr


def test_an_output_may_be_a_link_or_a_device(tmp_path: Path) -> None:
    target, link = tmp_path / "target.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(target)
    with written(link) as stream:
        stream.write(b"a")
    assert link.is_symlink()
    assert target.read_bytes() == b"a"
    with written(Path("/dev/null")) as stream:
        stream.write(b"a")
    assert Path("/dev/null").is_char_device()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.jsonl", "target.jsonl"]


def test_json_lines_may_have_empty_lines_and_nulls(tmp_path: Path) -> None:
    rows = _rows(tmp_path / "v.jsonl", '\n{"licensePlate": "A1", "color": null}\nnot json\n[1]\n')
    assert rows[0] == Row(2, {"licensePlate": "A1"})
    assert [row.line for row in rows[1:]] == [3, 4]
    assert [_codes(row) for row in rows[1:]] == [["not_json"], ["not_an_object"]]


def _dry_run(file: Path, resource: str, rows: list[dict[str, Any]]) -> tuple[int, list[dict[str, Any]], str]:
    """The exit status, the lines of standard output and standard error."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = CliRunner().invoke(app, ["import", resource, str(file), "--dry-run"])
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()], result.stderr


def test_a_dry_run_reports_every_error_with_its_line(tmp_path: Path) -> None:
    valid = data.visitor("FR-SC-TEST")
    wrong = valid | {"email": "nobody", "gender": "x", "nickname": "Z"}
    status, refused, summary = _dry_run(tmp_path / "v.jsonl", "visitors", [valid, wrong, data.visitor("FR-SC-TEST")])
    assert status == 1
    assert [(line["line"], line["status"], line["row"]) for line in refused] == [(2, 400, wrong)]
    errors = {entry["field"]: entry["code"] for entry in refused[0]["errors"]}
    assert errors == {"email": "wrong_format", "gender": "not_allowed", "nickname": "unknown_field"}
    assert summary.strip() == "2 rows are valid, 1 are not. Nothing was applied."


@pytest.mark.parametrize(
    "line",
    [rb'{"color": "\ud800"}', rb'{"\ud800": 1}', b'{"color": ' + b"[" * 300 + b"]" * 300 + b"}"],
    ids=["text", "name", "nested"],
)
def test_a_row_that_json_cannot_write_back_is_reported_and_the_next_one_is_checked(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "v.jsonl"
    file.write_bytes(line + b'\n{"licensePlate": "--"}\n')
    result = CliRunner().invoke(app, ["import", "vehicles", str(file), "--dry-run"])
    assert [json.loads(report)["line"] for report in result.stdout.splitlines()] == [1, 2]
    assert result.exit_code == 1


def test_a_dry_run_reports_rows_that_exclude_each_other_with_both_lines(tmp_path: Path) -> None:
    """Emails are compared as mailboxes, and a row that is refused anyway excludes no other."""
    emails = ["zora@Bücher.example", "ZORA@xn--bcher-kva.example", "quill@example.com", "zora@bücher.example"]
    invalid = data.visitor("FR-SC-TEST", email="quill@example.com", gender="x")
    rows = [data.visitor("FR-SC-TEST", email=email) for email in emails]
    status, refused, summary = _dry_run(tmp_path / "v.jsonl", "visitors", [invalid, *rows])
    assert (status, summary.strip()) == (1, "2 rows are valid, 3 are not. Nothing was applied.")
    conflicts = [line for line in refused if line["status"] == 409]
    assert [(line["line"], line["row"]) for line in conflicts] == [(3, rows[1]), (5, rows[3])]
    for line in conflicts:
        (error,) = line["errors"]
        assert (error["code"], error["type"], error["field"]) == ("email_taken", "conflict", "email")
        assert error["message"].startswith("Line 2 has the same email.")


@pytest.mark.parametrize("resource", ["vehicles", "optins"])
def test_a_dry_run_accepts_what_may_be_there_twice(tmp_path: Path, resource: str) -> None:
    fields: dict[str, Any] = {"licensePlate": "AB-1"}
    if resource == "optins":
        fields = {"optinType": "loyalty", "optinChannel": "email", "isActive": True}
    assert _dry_run(tmp_path / "v.jsonl", resource, 2 * [{"visitorId": VISITOR_ID, **fields}])[:2] == (0, [])


def test_fields_that_only_the_service_sets_are_ignored_and_a_missing_list_is_empty(tmp_path: Path) -> None:
    exported = data.visitor("FR-SC-TEST") | {"visitorId": VISITOR_ID, "barcode": "b", "creationDate": "x"}
    del exported["optins"]
    status, refused, _ = _dry_run(tmp_path / "v.jsonl", "visitors", [exported])
    assert (status, refused) == (0, [])


def test_the_report_of_a_row_can_be_corrected_and_imported(tmp_path: Path) -> None:
    _, refused, _ = _dry_run(tmp_path / "v.jsonl", "vehicles", [{"visitorId": VISITOR_ID, "licensePlate": "--"}])
    corrected = refused[0]["row"] | {"licensePlate": "AB-1"}
    assert _dry_run(tmp_path / "w.jsonl", "vehicles", [corrected])[:2] == (0, [])


def test_a_file_with_another_suffix_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "v.xlsx"
    file.write_bytes(b"PK")
    result = CliRunner().invoke(app, ["import", "visitors", str(file), "--dry-run"])
    assert result.exit_code == 2
    assert ".jsonl" in result.stderr


@pytest.mark.parametrize("file", sorted(EXAMPLES.iterdir()), ids=lambda file: str(file.name))
def test_the_example_files_are_valid(file: Path) -> None:
    result = CliRunner().invoke(app, ["import", file.stem, str(file), "--dry-run"])
    assert (result.exit_code, result.stdout) == (0, "")


def _mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_only_its_owner_may_read_an_export_unless_it_replaces_a_file(tmp_path: Path) -> None:
    output = tmp_path / "cards.jsonl"
    unfinished = tmp_path / "cards.jsonl.part"
    unfinished.touch(0o666)  # of an export that was killed
    with written(output) as stream:
        stream.write(b"{}")
        assert _mode(unfinished) == 0o600
    assert _mode(output) == 0o600
    output.chmod(0o640)
    with written(output):
        pass
    assert (_mode(output), output.read_bytes()) == (0o640, b"")


def test_an_export_follows_no_link_that_others_have_placed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    (tmp_path / "cards.jsonl.part").symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"), written(tmp_path / "cards.jsonl"):
        pass
    assert not other.exists()


def test_an_export_of_an_unknown_resource_names_the_resources() -> None:
    result = CliRunner().invoke(app, ["export", "visitor"])
    assert result.exit_code == 2
    assert "visitor_centers" in result.stderr
