"""Parts of the table that were measured apart, put together: a case holds within itself, so it does not matter when each was."""

from __future__ import annotations

import json
from pathlib import Path

from .cases import CASES
from .measure import Row
from .report import SCHEMA

#: What all parts must have in common.
COMMON = ("cpu", "cores", "threads", "isa")


def join(files: list[Path]) -> tuple[list[Row], dict[str, object]]:
    """The rows of all files and what they hold for; of a row that several have, the last file's.

    Raises ValueError where parts do not belong together, or hold cases that this runner defines otherwise.
    """
    found: dict[tuple[str, str, str], Row] = {}
    about: dict[str, object] = {}
    for file in files:
        part = json.loads(file.read_text())
        if part.get("schema") != SCHEMA:
            raise ValueError(f"--join: {file}: schema {part.get('schema')!r} is not {SCHEMA}")
        about = _common(about, part["environment"], file)
        mine: dict[tuple[str, str, str], Row] = {}
        for line in part["rows"]:
            _take(mine, {"koma_version": part["environment"]["koma"], "isa": about["isa"], "took": 0.0, "shared_len": 0} | line, file)
        found |= mine
    versions = dict.fromkeys(row.koma for row in found.values())
    return list(found.values()), about | {"koma": " and ".join(versions)}


def _common(about: dict[str, object], mine: dict[str, object], file: Path) -> dict[str, object]:
    if not about:
        return mine
    for key in COMMON:
        if about[key] != mine[key]:
            raise ValueError(f"--join: {file}: {key} is {mine[key]}, of the files before {about[key]}")
    return about | {"peers": {**about["peers"], **mine["peers"]}}


def _take(rows: dict[tuple[str, str, str], Row], line: dict, file: Path) -> None:
    """One metric into its row. (Documents made before some fields were there get what they meant.)"""
    case = next((case for case in CASES if case.name == line["case"]), None)
    if case is None or any(getattr(case, key) != line[key] for key in ("batch", "input_len", "output_len", "shared_len")):
        raise ValueError(f"--join: {file}: {line['case']} is not the case of that name here")
    key = (line["model"], case.name, line["format"])
    if key not in rows:
        rows[key] = Row(line["model"], case, line["format"], isa=line["isa"])
        rows[key].koma, rows[key].took = line["koma_version"], line["took"]
        rows[key].failed, rows[key].company = line["not_measured"], line["others_use"]
    samples = {name: summary["samples"] for name, summary in line["peers"].items()}
    if line["koma"]:
        samples["Koma"] = line["koma"]["samples"]
    rows[key].samples[line["metric"]] = samples
