"""Executes artifacts and compares their answers with rows of a reference: `python parity.py JOB.json` prints a report.

The job (paths are absolute):
    rows        safetensors: `ids` and `type_ids` I32 [tokens of all rows], `lengths` I32 [rows], `expected` F32 [rows, width]
    inputs      names of the inputs, in the order of the parameters: input_ids, attention_mask, token_type_ids
    output      name of the output
    normalize   whether an answer is divided by its length before it is compared: no artifact does so itself
    pad_id      the id that fills up a row; `other_id`, another one, for what lies under the mask
    artifacts   each: `name`, `kind` (hlo, onnx, torchscript), `file`, `shapes` [[batch, seq], ...], `tolerance` (largest
                absolute difference that passes); of hlo with separate weights also `weights` (safetensors) and `parameters`
                (their names in order)

The report: `artifacts[i]` with `name`, `runner`, `cases` (rows compared), `max_abs` (null: not finite), `argmax_cases` (rows whose
two best differ by more than twice the tolerance), `argmax_agreement` (share of them with the same best; null without any),
`masked_max_abs` (how far ids under the mask move an answer), `empty_rows_finite`, or `error`, or `missing` (a library); and
`spread`: how far the answers to one row lie apart, over all HLO modules. Whether that is good enough is decided by who asked.
"""

import json
import sys

import numpy as np
import runners
import tensors


class Rows:
    """The reference: inputs of different lengths, and what the answers should be."""

    def __init__(self, job, ids, types, expected):
        self.job, self.ids, self.types, self.expected = job, ids, types, expected

    @classmethod
    def read(cls, job):
        read = {name: np.asarray(value) for name, value in tensors.read(job["rows"]).items()}
        ends = np.cumsum(read["lengths"])[:-1]
        return cls(job, np.split(read["ids"], ends), np.split(read["type_ids"], ends), read["expected"])

    def fitting(self, seq):
        return [i for i, ids in enumerate(self.ids) if len(ids) <= seq]

    def padded(self, chosen, shape):
        """The inputs of a batch: rows filled up with padding, the batch filled up with rows of nothing but padding."""
        ids = np.full(shape, self.job["pad_id"], np.int32)
        mask, types = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for place, row in enumerate(chosen):
            end = len(self.ids[row])
            ids[place, :end], types[place, :end], mask[place, :end] = self.ids[row], self.types[row], 1
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def answers(runner, rows, shape):
    """(rows, answers to them, greatest move under the mask, whether empty rows gave numbers) for one shape."""
    batch, seq = shape
    chosen = rows.fitting(seq)
    out, moved, finite = [], 0.0, True
    for start in range(0, len(chosen), batch):
        some = chosen[start : start + batch]
        inputs = rows.padded(some, shape)
        got = shaped(runner.run(inputs), batch, rows)
        hidden = inputs["attention_mask"] == 0
        inputs["input_ids"] = np.where(hidden, np.int32(rows.job["other_id"]), inputs["input_ids"])
        again = shaped(runner.run(inputs), batch, rows)
        moved = max(moved, largest(got[: len(some)] - again[: len(some)]))
        finite = finite and bool(np.isfinite(got[len(some) :]).all())
        out.append(got[: len(some)])
    if not chosen:
        raise ValueError(f"no row is short enough for a sequence of {seq}")
    return chosen, np.concatenate(out), moved, finite


def shaped(got, batch, rows):
    """The answer, if it has the right shape; vectors of length 1 where the model's are served so."""
    want = (batch, rows.expected.shape[1])
    if got.shape != want:
        raise ValueError(f"the answer has shape {list(got.shape)}, the reference wants {list(want)}")
    got = got.astype(np.float32)
    if rows.job["normalize"]:
        got = got / np.maximum(np.sqrt((got * got).sum(1, keepdims=True, dtype=np.float32)), np.float32(1e-12))
    return got


def largest(difference):
    """Of the magnitudes; infinite if one is not a number."""
    if difference.size == 0:
        return 0.0
    return float(np.abs(difference).max()) if np.isfinite(difference).all() else float("inf")


def examine(entry, rows, seen):
    """The report of one artifact; the answers of an HLO module go to `seen`, by row."""
    runner = runners.KINDS[entry["kind"]](rows.job, entry)
    cases, off, moved, finite, margins, same = 0, 0.0, 0.0, True, 0, 0
    for shape in entry["shapes"]:
        chosen, got, shape_moved, shape_finite = answers(runner, rows, tuple(shape))
        want = rows.expected[chosen]
        cases += len(chosen)
        off = max(off, largest(got - want))
        moved, finite = max(moved, shape_moved), finite and shape_finite
        if want.shape[1] > 1:
            best = np.sort(want, axis=1)
            clear = best[:, -1] - best[:, -2] > 2 * entry["tolerance"]
            margins += int(clear.sum())
            same += int((got.argmax(1) == want.argmax(1))[clear].sum())
        for row, answer in zip(chosen, got) if entry["kind"] == "hlo" else ():
            seen.setdefault(row, []).append(answer)
    return {
        "runner": runner.name,
        "cases": cases,
        "max_abs": number(off),
        "argmax_cases": margins,
        "argmax_agreement": same / margins if margins else None,
        "masked_max_abs": number(moved),
        "empty_rows_finite": finite,
    }


def number(value):
    return value if np.isfinite(value) else None


def report(job):
    rows, seen, found = Rows.read(job), {}, []
    for entry in job["artifacts"]:
        try:
            one = examine(entry, rows, seen)
        except ImportError as error:
            one = {"missing": error.name or str(error)}
        except Exception as error:  # whatever a library says of a broken artifact belongs into the report
            one = {"error": f"{type(error).__name__}: {error}"}
        found.append({"name": entry["name"], **one})
    spread = max((largest(np.max(got, 0) - np.min(got, 0)) for got in seen.values()), default=0.0)
    return {"artifacts": found, "spread": number(spread)}


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    json.dump(report(job), sys.stdout, allow_nan=False)


if __name__ == "__main__":
    main()
